"""Unsupervised LDA features: normalised MFCC with context, projected by LDA on k-means clusters.

k-means on `context_mfcc` gives first labels; linear discriminant analysis on frames and those labels, which needs no
transcription, gives a projection in which within-cluster variation counts less. It takes a minute of CPU, and its
clusters predict phones better than MFCC clusters do, which makes them the better teacher for HuBERT's first iteration.
Clusters of the projected frames may label the frames again, and so on. The projection can be fitted on the frames of
any other encoder as well (`projected`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from textless.audio.mfcc import CEPSTRA, SAMPLE_RATE, mfcc, to_rate
from textless.audio.waveform import as_waveform
from textless.errors import ModelError, TrainingError, check_known
from textless.model_io import load_model, save_model, take
from textless.types import UnitContract
from textless.units.encoders import hubert_frames
from textless.units.encoders.base import Encoder, encoder_digest

CONTEXT = 3
DIM = CEPSTRA * (2 * CONTEXT + 1)
METHODS = ("lda", "pca")
SHRINKAGE = 1e-4


def context_mfcc(waveform: np.ndarray) -> np.ndarray:
    """13 MFCC, normalised over the file, each frame with its three neighbours on both sides, edges replicated.

    Args:
        waveform: (samples,) float32 in [-1, 1] at 16 kHz.

    Returns:
        (T, 91) float32 at 50 Hz, on the frames of HuBERT.

    Raises:
        AudioError: shorter than one frame, or no waveform (see `as_waveform`).
    """
    waveform = as_waveform(waveform)
    cepstra = mfcc(waveform)[:, :CEPSTRA]
    cepstra = to_rate(cepstra, rate=100, target_rate=50, frames=hubert_frames.n_frames(len(waveform)))
    cepstra = (cepstra - cepstra.mean(0)) / (cepstra.std(0) + np.float32(1e-5))
    return neighbours(np.pad(cepstra, ((CONTEXT, CONTEXT), (0, 0)), mode="edge"), CONTEXT)


def neighbours(frames: np.ndarray, n: int) -> np.ndarray:
    """Each frame but the first and last n with n neighbours on both sides: (T, D) → (T - 2 n, (2 n + 1) D)."""
    return np.concatenate([frames[i : len(frames) - 2 * n + i] for i in range(2 * n + 1)], axis=1)


class LdaEncoder(Encoder):
    """`context_mfcc` through a linear projection (91, D)."""

    sample_rate = SAMPLE_RATE
    frame_rate = hubert_frames.FRAME_RATE

    def __init__(self, projection: np.ndarray) -> None:
        self.projection = np.ascontiguousarray(projection, np.float32)
        self.dim = projection.shape[1]
        self.contract = UnitContract(
            encoder=encoder_digest("lda", [self.projection]),
            window=0.0,
            normalisation="none",
            sample_rate=self.sample_rate,
            frame_rate=self.frame_rate,
        )

    def n_frames(self, samples: int) -> int:
        return hubert_frames.n_frames(samples)

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        return context_mfcc(waveform) @ self.projection

    def save(self, folder: Path | str) -> None:
        save_model(folder, kind="lda", config={}, tensors={"projection": self.projection})

    @classmethod
    def load(cls, folder: Path | str) -> LdaEncoder:
        projection = take(folder, load_model(folder, kind="lda")[1], "projection")
        if len(projection) != DIM:
            raise ModelError(
                f"{folder}: projects {len(projection)} dimensions where frames have {DIM}; copy the model again"
            )
        return cls(projection)


def fit_lda(frames: np.ndarray, labels: np.ndarray, *, dim: int = 40) -> LdaEncoder:
    """Fit the projection of `context_mfcc` frames (N, 91) float32 on labels (N,) int64.

    Raises TrainingError as `fit_projection`.
    """
    return LdaEncoder(fit_projection([(frames, labels)], dim=dim))


def fit_projection(
    pieces: Iterable[tuple[np.ndarray, np.ndarray | None]], *, dim: int, method: str = "lda"
) -> np.ndarray:
    """A projection of frames, from pieces that are read once: only D × D moments are held in memory.

    Args:
        pieces: frames (n, D) float32, and for `lda` the clusters (n,) int64 that they belong to. Clusters of one frame
            are left out.
        method: `lda`: directions that separate clusters (Fukunaga 1990, section 10.2), scaled to unit variance within
            clusters; `pca`: directions in which the frames vary most, orthonormal.

    Returns:
        (D, dim) float32, in descending order of the eigenvalues.

    Raises:
        TrainingError: no frames, fewer than `dim` dimensions, at most `dim` clusters, frames that are not finite
            or differ in D.
    """
    from scipy.linalg import eigh

    check_known("method", method, METHODS, TrainingError)
    moment, sums, counts = _moments((x, labels if method == "lda" else None) for x, labels in pieces)
    if len(moment) < dim:
        raise TrainingError(f"frames of {len(moment)} dimensions cannot be projected to {dim}; lower dim")
    if method == "pca":
        mean = sums.sum(0) / counts.sum()
        return eigh(moment / counts.sum() - np.outer(mean, mean))[1][:, : -dim - 1 : -1].astype(np.float32)
    if (counts > 1).sum() <= dim:
        raise TrainingError(
            f"{int((counts > 1).sum())} clusters cannot make {dim} dimensions; cluster into more units first"
        )
    single = sums[counts == 1]  # the sum over one frame is the frame
    moment, sums, counts = moment - single.T @ single, sums[counts > 1], counts[counts > 1]
    mean = sums.sum(0) / counts.sum()
    within = _shrink((moment - (sums / counts[:, None]).T @ sums) / counts.sum())
    between = _shrink(moment / counts.sum() - np.outer(mean, mean)) - within
    return eigh(between, within)[1][:, : -dim - 1 : -1].astype(np.float32)


def _moments(pieces: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The second moment (D, D), and the sum (K, D) and count (K,) of each cluster; without labels, K is 1.

    Moments are taken about a point near the mean; about the origin they could lose their digits.
    """
    from scipy.sparse import csr_matrix

    total, moment, centre = 0, np.zeros(0), np.zeros(0)
    sums, counts = np.zeros(0), np.zeros(0, np.int64)
    for frames, labels in pieces:
        if not len(frames):
            continue
        if not total:
            centre = frames.mean(0, dtype=np.float64)
            moment, sums = np.zeros((len(centre), len(centre))), np.zeros((0, len(centre)))
        if frames.shape[1] != len(centre):
            what = f"have {frames.shape[1]} dimensions, not {len(centre)}"
            raise TrainingError(f"frames after the first {total} {what}; make the frames again")
        if not np.isfinite(frames).all():
            raise TrainingError(f"frames after the first {total} are not finite; make the frames again")
        x = frames - centre
        labels = np.zeros(len(x), np.int64) if labels is None else labels
        more = max(0, int(labels.max()) + 1 - len(counts))
        sums, counts = np.pad(sums, ((0, more), (0, 0))), np.pad(counts, (0, more))
        sums += csr_matrix((np.ones(len(x)), labels, np.arange(len(x) + 1)), shape=(len(x), len(counts))).T @ x
        counts += np.bincount(labels, minlength=len(counts))
        moment += x.T @ x
        total += len(x)
    if not total:
        raise TrainingError(
            "no frames to fit a projection on; is the corpus empty, or every file shorter than a frame?"
        )
    return moment, sums, counts


def _shrink(covariance: np.ndarray) -> np.ndarray:
    """A little towards a sphere, because neighbouring frames make the within-cluster covariance nearly singular."""
    return (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
