"""Waveforms → frames: HuBERT and its relatives, ours and other people's."""
