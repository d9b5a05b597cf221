"""Units without a network: MFCC, unsupervised LDA (Heck et al. 2016; Chen et al. 2015), VTLN."""
