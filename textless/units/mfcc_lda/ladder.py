"""Unsupervised LDA and VTLN on modulation cepstra ("the ladder"): units without a network, in a minute of CPU.

The baseline that a HuBERT has to beat, and the teacher of its first iteration. Three rungs, each fitted on the clusters
of the one below, none on a label: 1. cepstra and how they move (`vtln.modulation_cepstra`), clustered by k-means; 2.
linear discriminant analysis on those clusters, in which variation within a cluster counts less, and clusters again; 3.
vocal tract length normalisation: every file warped to the voice that its clusters expect (`vtln.Voice`), and 1 to 3
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from textless.audio.mel import htk_log_mel
from textless.audio.mfcc import SAMPLE_RATE
from textless.audio.waveform import as_waveform, as_waveforms
from textless.errors import ModelError, TrainingError
from textless.model_io import load_model, save_model, take, to_torch
from textless.types import UnitContract
from textless.units.encoders import hubert_frames
from textless.units.encoders.base import Encoder, encoder_digest
from textless.units.kmeans import fit_codebook
from textless.units.mfcc_lda.lda import fit_projection
from textless.units.mfcc_lda.vtln import DIM, N_MELS, Voice, modulation_cepstra

FITTED = 150_000  # frames that an analysis is fitted on, at most; more change nothing


class LadderEncoder(Encoder):
    """`modulation_cepstra` after VTLN, projected by LDA: (T, D) float32 at 50 Hz."""

    sample_rate = SAMPLE_RATE
    frame_rate = hubert_frames.FRAME_RATE

    def __init__(self, voice: Voice) -> None:
        self.voice = voice
        self.dim = voice.projection.shape[1]
        self.contract = UnitContract(
            encoder=encoder_digest("ladder", [voice.projection.numpy(), voice.centroids.numpy()]),
            window=0.0,
            normalisation="none",
            sample_rate=self.sample_rate,
            frame_rate=self.frame_rate,
        )

    def n_frames(self, samples: int) -> int:
        return hubert_frames.n_frames(samples)

    @torch.inference_mode()
    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        waveform = as_waveform(waveform)
        frames = hubert_frames.n_frames(len(waveform))
        mel = htk_log_mel(torch.from_numpy(waveform), n_mels=N_MELS)
        return (modulation_cepstra(mel, self.voice.warp(mel)) @ self.voice.projection).numpy()[:frames]

    def save(self, folder: Path | str) -> None:
        tensors = {"projection": self.voice.projection.numpy(), "centroids": self.voice.centroids.numpy()}
        save_model(folder, kind="ladder", config={}, tensors=tensors)

    @classmethod
    def load(cls, folder: Path | str) -> LadderEncoder:
        tensors = load_model(folder, kind="ladder")[1]
        state = to_torch({name: take(folder, tensors, name) for name in ("projection", "centroids")})
        shapes = [tuple(state[name].shape) for name in ("projection", "centroids")]
        if shapes[0][0] != DIM or shapes[0][1] != shapes[1][1]:
            raise ModelError(
                f"{folder}: projection {shapes[0]} and centroids {shapes[1]} do not fit {DIM} cepstra; copy the model "
                "again"
            )
        return cls(Voice(state["projection"], state["centroids"]))


@torch.inference_mode()
def fit_ladder(
    waveforms: Sequence[np.ndarray], *, n_clusters: int = 500, dim: int = 40, rounds: int = 4, seed: int = 0
) -> tuple[LadderEncoder, dict[str, object]]:
    """Fit a `LadderEncoder`, without labels.

    Args:
        waveforms: of each file (samples,) float32 in [-1, 1] at 16 kHz; about an hour of many speakers is enough. They
            are held as spectrograms, 32 kB a second.
        n_clusters: of the k-means whose clusters the analysis separates.
        dim: D, dimensions kept.
        rounds: of fitting the analysis and estimating every file's warp again; the first has no warps.

    Returns:
        the encoder and {"distortion": of each round, in units of the variance within clusters; "warps": {factor: number
        of files}}.

    Raises:
        TrainingError: fewer frames than clusters, or no more clusters than dimensions. AudioError: see `as_waveform`.
    """
    if n_clusters <= dim:
        raise TrainingError(
            f"{n_clusters} clusters cannot make {dim} dimensions; cluster into more units or keep fewer dimensions"
        )
    waveforms = as_waveforms(waveforms)
    mels = [htk_log_mel(torch.from_numpy(w), n_mels=N_MELS) for w in waveforms if hubert_frames.n_frames(len(w)) > 0]
    warps, curve = [1.0] * len(mels), []
    for _ in range(rounds):
        frames = (
            np.concatenate([modulation_cepstra(m, w).numpy() for m, w in zip(mels, warps, strict=True)])
            if mels
            else np.empty((0, 1))
        )
        if len(frames) > FITTED:
            frames = frames[np.sort(np.random.default_rng(seed).choice(len(frames), FITTED, replace=False))]
        voice = _analyse(frames, n_clusters, dim, seed)
        warps = [voice.warp(mel) for mel in mels]
        curve.append(float(np.mean([voice.distortion(m, w) for m, w in zip(mels, warps, strict=True)])))
    counts = {str(w): warps.count(w) for w in sorted(set(warps))}
    return LadderEncoder(voice), {"distortion": curve, "warps": counts}


def _analyse(frames: np.ndarray, n_clusters: int, dim: int, seed: int) -> Voice:
    """Clusters and their discriminants; then once more with clusters of the projected frames."""
    projected = frames
    for _ in range(2):
        codebook, _ = fit_codebook(projected, n_clusters, iterations=10, seed=seed)
        projection = fit_projection([(frames, codebook.predict(projected))], dim=dim)
        projected = frames @ projection
    codebook, _ = fit_codebook(projected, n_clusters, iterations=10, seed=seed)
    return Voice(torch.from_numpy(np.ascontiguousarray(projection)), torch.from_numpy(codebook.centroids))
