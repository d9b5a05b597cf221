"""Predictors of durations and of F0 from units, and the steps in which F0 is quantised."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from textless.training.loop import Dropout
from textless.vocoder.backbone import Backbone, FrameConv, padded, present, sides

DROPOUT = 0.5  # FastSpeech 2's; without it the predictor overfits a small corpus
LOWEST, HIGHEST = 60.0, 550.0  # Hz
BINS_PER_OCTAVE = 48  # 25 cents each
F0_BINS = 2 + round(BINS_PER_OCTAVE * math.log2(HIGHEST / LOWEST))  # the first is for unvoiced frames
MIDDLE = 200.0  # Hz; the predictor's output is octaves above it


def quantise_f0(f0: Tensor) -> Tensor:
    """Nearest of the steps of 25 cents from 60 to 550 Hz.

    Shape: any, Hz, 0 where unvoiced → int64, 0 unvoiced, 1 … F0_BINS - 1.

    The vocoder uses F0 in these steps only. A phase is a sum over all frames before it, so the last bit of a frequency
    that a network computed would be heard after a minute; in steps, a file sounds the same in every batch.
    """
    bins = (BINS_PER_OCTAVE * torch.log2(f0.clamp(LOWEST, HIGHEST) / LOWEST)).round().long() + 1
    return torch.where(f0 > 0, bins, 0)


def dequantise_f0(bins: Tensor) -> Tensor:
    """The frequency of each step: int64 → float64 Hz, 0 where unvoiced."""
    # From a table: an exponential's last bit may depend on the address of its argument.
    return _FREQUENCIES.to(bins.device)[bins]


_FREQUENCIES = torch.cat(
    [
        torch.zeros(1, dtype=torch.float64),
        LOWEST * 2 ** (torch.arange(F0_BINS - 1, dtype=torch.float64) / BINS_PER_OCTAVE),
    ]
)


class PitchPredictor(nn.Module):
    """Voicing and fundamental frequency of frame units, which pGSLM predicts together with units (Kharitonov 2022).

    It has embeddings of its own, so that it does not depend on the waveform's losses.
    """

    def __init__(self, n_units: int, n_speakers: int, dim: int, layers: int, kernel: int, *, causal: bool):
        super().__init__()
        self.unit_embedding = nn.Embedding(n_units, dim)
        self.speaker_embedding = nn.Embedding(n_speakers, dim)
        self.trunk = Backbone(dim, 3 * dim, layers, kernel, causal=causal)
        self.project = nn.Linear(dim, 2)

    def forward(self, units: Tensor, speakers: Tensor, mask: Tensor) -> Tensor:
        """(B, T) int64, (B,) int64, mask (B, T, 1) → (B, T, 2) float32.

        Log-odds of voicing, and octaves above MIDDLE if voiced.
        """
        return self.project(self.trunk(self.embed(units, speakers) * mask, mask)).float()

    def embed(self, units: Tensor, speakers: Tensor) -> Tensor:
        return self.unit_embedding(units) + self.speaker_embedding(speakers)[:, None]


def predicted_f0(prediction: Tensor) -> Tensor:
    """(…, 2) of the predictor → (…) steps of `quantise_f0`."""
    voicing, octaves = prediction.unbind(-1)
    return torch.where(voicing > 0, quantise_f0(MIDDLE * torch.exp2(octaves)), 0)


class DurationPredictor(nn.Module):
    """Log-durations of a sequence without repetitions, by two convolutions.

    The predictor of FastSpeech 2 (Ren 2021) as the unit HiFi-GANs have it (Lee 2022, "Direct speech-to-speech
    translation with discrete units", section 3.3), with embeddings of its own, so that it does not depend on the
    waveform's losses. It is trained to d = log(frames), and a unit lasts max(1, round(exp(d))) frames.
    """

    def __init__(self, n_units: int, n_speakers: int, dim: int, kernel: int = 3):
        super().__init__()
        self.unit_embedding = nn.Embedding(n_units, dim)
        self.speaker_embedding = nn.Embedding(n_speakers, dim)
        self.convolutions = nn.ModuleList(FrameConv(dim, kernel, causal=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = Dropout(DROPOUT)
        self.project = nn.Linear(dim, 1)
        self.sides = sides(kernel, causal=False)

    def forward(self, units: Tensor, speakers: Tensor, lengths: Tensor) -> Tensor:
        """Log-durations.

        Args:
            units: (B, N) int64; anything in the codebook after a row's length.
            speakers: (B,) int64.
            lengths: (B,) int64, units of each row, at most N.

        Returns:
            (B, N) float32, d = log(frames); meaningless after a row's length.
        """
        mask = present(lengths, units.shape[1]).float()[..., None]
        x = self.embed(units, speakers) * mask
        for k in range(len(self.convolutions)):
            x = self.layer(k, padded(x, self.sides)) * mask
        return self.project(x).float()[..., 0]

    def embed(self, units: Tensor, speakers: Tensor) -> Tensor:
        return self.unit_embedding(units) + self.speaker_embedding(speakers)[:, None]

    def layer(self, k: int, x: Tensor) -> Tensor:
        """(B, 1 + N + 1, dim) → (B, N, dim)."""
        return self.dropout(self.norms[k](torch.relu(self.convolutions[k](x))))
