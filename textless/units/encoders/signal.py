"""Encoders without parameters: MFCC, log-mel, MFCC in context."""

from __future__ import annotations

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
    """A front end without parameters: `mfcc` (39 at 100 Hz), `logmel` (80 at 100 Hz, normalised), `context_mfcc` (91 at 50 Hz)."""

    sample_rate = mfcc.SAMPLE_RATE

    def __init__(self, name: str) -> None:
        self.encode_one, self.n_frames, self.frame_rate, self.dim = {  # type: ignore[method-assign]
            "mfcc": (mfcc.mfcc, mfcc.n_frames, mfcc.FRAME_RATE, mfcc.DIM),
            "logmel": (_log_mel, mfcc.n_frames, mfcc.FRAME_RATE, 80),
            "context_mfcc": (lda.context_mfcc, hubert_frames.n_frames, hubert_frames.FRAME_RATE, lda.DIM),
        }[name]
        self.contract = UnitContract(
            encoder=name, window=0.0, normalisation="none", sample_rate=self.sample_rate, frame_rate=self.frame_rate
        )


SIGNAL = ("mfcc", "logmel", "context_mfcc")
