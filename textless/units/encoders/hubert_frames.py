"""Frame arithmetic of HuBERT, apart from the model so that it needs no torch."""

from __future__ import annotations

from textless.audio.mfcc import SAMPLE_RATE

WINDOW, HOP = 400, 320  # receptive field of a frame before the transformer, and the stride, in samples
FRAME_RATE = SAMPLE_RATE / HOP


def n_frames(samples: int) -> int:
    """T = floor((samples - 400) / 320) + 1."""
    return 0 if samples < WINDOW else (samples - WINDOW) // HOP + 1
