"""The ladder: units without a network, from MFCC by unsupervised LDA (Heck et al. 2016; Chen et al. 2015) and vocal tract normalisation."""
