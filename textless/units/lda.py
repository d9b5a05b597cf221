"""A ladder without a network: normalised MFCC with context, projected so that clusters stand apart.

k-means on `context_mfcc` gives first labels; linear discriminant analysis on frames and those labels, which needs no transcription, gives a
projection in which within-cluster variation counts less. It takes a minute of CPU, carries more phones than MFCC clusters do and so makes
the better teacher for HuBERT's first iteration.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from textless.errors import TrainingError
from textless.units import hubert_frames
from textless.units.encoder import Encoder
from textless.units.mfcc import CEPSTRA, SAMPLE_RATE, mfcc, to_rate
from textless.units.types import UnitContract
from textless.weights import load_model, save_model

CONTEXT = 3
DIM = CEPSTRA * (2 * CONTEXT + 1)


def context_mfcc(waveform: np.ndarray) -> np.ndarray:
    """13 MFCC, zero mean and unit variance over the file, each frame with its three neighbours on both sides, edges replicated.

    Args:
        waveform: (samples,) float32 in [-1, 1] at 16 kHz.

    Returns:
        (T, 91) float32 at 50 Hz, on the frames of HuBERT.

    Raises:
        AudioError: shorter than one frame.
    """
    cepstra = mfcc(waveform)[:, :CEPSTRA]
    cepstra = to_rate(cepstra, rate=100, target_rate=50, frames=hubert_frames.n_frames(len(waveform)))
    cepstra = (cepstra - cepstra.mean(0)) / (cepstra.std(0) + np.float32(1e-5))
    padded = np.pad(cepstra, ((CONTEXT, CONTEXT), (0, 0)), mode="edge")
    return np.concatenate([padded[i : i + len(cepstra)] for i in range(2 * CONTEXT + 1)], axis=1)


class LdaEncoder(Encoder):
    """`context_mfcc` through a linear projection (91, D)."""

    sample_rate = SAMPLE_RATE
    frame_rate = hubert_frames.FRAME_RATE

    def __init__(self, projection: np.ndarray) -> None:
        self.projection = np.ascontiguousarray(projection, np.float32)
        self.dim = projection.shape[1]
        self.contract = UnitContract(
            encoder=hashlib.sha256(b"lda" + self.projection.tobytes()).hexdigest(),
            window=0.0,
            normalisation="none",
            sample_rate=self.sample_rate,
            frame_rate=self.frame_rate,
        )
        self.n_frames = hubert_frames.n_frames

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        return context_mfcc(waveform) @ self.projection

    def save(self, folder: Path | str) -> None:
        save_model(folder, kind="lda", config={}, tensors={"projection": self.projection})

    @classmethod
    def load(cls, folder: Path | str) -> LdaEncoder:
        return cls(load_model(folder, kind="lda")[1]["projection"])


def fit_lda(frames: np.ndarray, labels: np.ndarray, *, dim: int = 40) -> LdaEncoder:
    """Fit the projection.

    Args:
        frames: (N, 91) float32 of `context_mfcc`.
        labels: (N,) int64 clusters; those with a single frame are left out.

    Raises TrainingError when there are no more than `dim` clusters.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    counts = np.bincount(labels)
    if (counts > 1).sum() <= dim:
        raise TrainingError(f"{int((counts > 1).sum())} clusters cannot make {dim} dimensions; cluster into more units first")
    keep = counts[labels] > 1
    # A little shrinkage, because neighbouring frames make the within-cluster covariance nearly singular.
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-4, n_components=dim).fit(frames[keep], labels[keep])
    return LdaEncoder(lda.scalings_[:, :dim])
