"""Frame arithmetic of HuBERT, apart from the model so that it is known without torch."""

from __future__ import annotations

from textless.audio.mfcc import SAMPLE_RATE

WINDOW, HOP = 400, 320  # samples that one frame sees before the trunk, and from one frame to the next
FRAME_RATE = SAMPLE_RATE / HOP


def n_frames(samples: int) -> int:
    """T = floor((samples - 400) / 320) + 1."""
    return 0 if samples < WINDOW else (samples - WINDOW) // HOP + 1
