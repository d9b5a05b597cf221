"""Encoders without parameters: MFCC, log-mel, MFCC with context."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from textless.audio import mfcc
from textless.audio.waveform import as_waveform
from textless.types import UnitContract
from textless.units.encoders import hubert_frames
from textless.units.encoders.base import Encoder
from textless.units.mfcc_lda import lda


def _log_mel(waveform: np.ndarray) -> np.ndarray:
    import torch

    from textless.audio.mel import htk_log_mel, normalise

    return normalise(htk_log_mel(torch.from_numpy(as_waveform(waveform)))).numpy()


class SignalEncoder(Encoder):
    """`mfcc` (39 dimensions at 100 Hz), `logmel` (80 at 100 Hz, normalised), or `context_mfcc` (91 at 50 Hz)."""

    sample_rate = mfcc.SAMPLE_RATE

    def __init__(self, name: str) -> None:
        self._front_end, self._n_frames, self.frame_rate, self.dim = FRONT_ENDS[name]
        self.contract = UnitContract(
            encoder=name, window=0.0, normalisation="none", sample_rate=self.sample_rate, frame_rate=self.frame_rate
        )

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        return self._front_end(waveform)

    def n_frames(self, samples: int) -> int:
        return self._n_frames(samples)


# name → (waveform → frames, samples → number of frames, frames a second, dimensions)
FRONT_ENDS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[int], int], float, int]] = {
    "mfcc": (mfcc.mfcc, mfcc.n_frames, mfcc.FRAME_RATE, mfcc.DIM),
    "logmel": (_log_mel, mfcc.n_frames, mfcc.FRAME_RATE, 80),
    "context_mfcc": (lda.context_mfcc, hubert_frames.n_frames, hubert_frames.FRAME_RATE, lda.DIM),
}
SIGNAL = tuple(FRONT_ENDS)
