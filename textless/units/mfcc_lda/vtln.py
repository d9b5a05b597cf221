"""Vocal tract length normalisation (VTLN, Lee and Rose 1996), estimated without labels.

A shorter vocal tract moves every resonance up by about the same factor. VTLN undoes it: the frequency axis is stretched
by the factor under which the file fits a model of speech best. Here the model is k-means on the `ladder`'s frames,
which is fitted to normalised files in turn, so that no label and no speaker is needed, and one utterance is enough to
estimate its factor.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.audio.mel import htk_edges, hz_to_htk, normalise

WARPS = (0.84, 0.87, 0.9, 0.93, 0.96, 0.98, 1.0, 1.02, 1.04, 1.07, 1.1, 1.13, 1.16)
MEASURED = 6000  # mel frames, one minute; a longer file's warp comes from its beginning, so that it can be streamed
HIGHEST = 7600.0  # Hz; the highest frequency that a warped bin reads from

N_MELS = 80
CEPSTRA = 13
CONTEXT = 8  # mel frames on either side, 170 ms in all
MODULATIONS = 6  # coefficients over time of each cepstrum: up to about 15 Hz
DIM = CEPSTRA * MODULATIONS


@functools.lru_cache
def warping(warp: float) -> Tensor:
    """The matrix that stretches the frequency axis: `mel @ warping(w)` has at f what `mel` has at w · f.

    (80, 80) float32.
    """
    mels = htk_edges(N_MELS)[1:-1]
    warped = hz_to_htk((700.0 * torch.expm1(mels / 1127.0) * warp).clamp(max=HIGHEST))
    place = ((warped - mels[0]) / (mels[1] - mels[0])).clamp(0, N_MELS - 1)
    below = place.floor().clamp(max=N_MELS - 2).long()
    share = (place - below).float()
    matrix, to = torch.zeros(N_MELS, N_MELS), torch.arange(N_MELS)
    matrix[below, to] = 1 - share
    matrix[below + 1, to] += share
    return matrix


@functools.lru_cache
def _cosines(size: int, count: int) -> Tensor:
    """The first rows of the orthonormal DCT-II, as columns: (size, count) float32."""
    k, n = torch.arange(count, dtype=torch.float64), torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (n[:, None] + 0.5) * k) * math.sqrt(2 / size)
    basis[:, 0] /= math.sqrt(2)
    return basis.float()


@functools.lru_cache
def _modulation() -> Tensor:
    """Cosines over time under a Hamming window: (2 · CONTEXT + 1, MODULATIONS) float32."""
    size = 2 * CONTEXT + 1
    return _cosines(size, MODULATIONS) * torch.hamming_window(size, periodic=False)[:, None]


def modulation_cepstra(mel: Tensor, warp: float = 1.0, *, step: int = 2) -> Tensor:
    """Modulation cepstra: the shape of the spectrum (13 cepstra) and of its course over 170 ms.

    Each cepstrum has zero mean and unit variance over the file; then a cosine transform under a Hamming window is taken
    over time, edges replicated. The window matters: frames far from the centre say less about it.

    Args:
        mel: (T', 80) float32, the log-mel spectrogram of a whole file at 100 Hz.
        warp: stretches the frequency axis.
        step: mel frames from one result to the next.

    Returns:
        (T, 78) float32 at 50 Hz, on the frames of HuBERT: T = ceil(T' / step).
    """
    cepstra = normalise(mel @ (warping(warp) @ _cosines(N_MELS, CEPSTRA)).to(mel.device))
    padded = F.pad(cepstra.T[None], (CONTEXT, CONTEXT), mode="replicate")[0]
    return (padded.unfold(1, 2 * CONTEXT + 1, step) @ _modulation().to(mel.device)).transpose(0, 1).flatten(1)


class Voice(nn.Module):
    """A k-means model of normalised speech, from which the warp of a file is estimated.

    Args:
        projection: (78, D) float32, of `modulation_cepstra`.
        centroids: (K, D) float32 in the projected space.
    """

    def __init__(self, projection: Tensor, centroids: Tensor) -> None:
        super().__init__()
        self.projection: Tensor
        self.centroids: Tensor
        self.register_buffer("projection", projection)
        self.register_buffer("centroids", centroids)

    def distortion(self, mel: Tensor, warp: float) -> float:
        """Mean squared distance of the warped file's frames, every eighth, to their nearest centroids. mel (T', 80).

        In torch, on the device of the model; `Codebook.nearest` rounds differently, which could change a warp.
        """
        frames = modulation_cepstra(mel, warp, step=8) @ self.projection
        nearest = (self.centroids.square().sum(1) - 2 * frames @ self.centroids.T).amin(1)
        return float((nearest + frames.square().sum(1)).mean())

    def warp(self, mel: Tensor) -> float:
        """The warp of least distortion. mel: (T', 80) float32 log-mel, of which the first minute is used."""
        return min(WARPS, key=lambda warp: self.distortion(mel[:MEASURED], warp))

    def forward(self, mel: Tensor) -> Tensor:
        """The normalised spectrogram: (T', 80) → (T', 80)."""
        return mel @ warping(self.warp(mel)).to(mel.device)
