"""How long each unit lasts, from the units alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from textless.training.loop import Dropout
from textless.vocoder.backbone import FrameConv, padded
from textless.vocoder.rows import present

DROPOUT = 0.5  # FastSpeech 2's; without it a small corpus is learnt by heart


class DurationPredictor(nn.Module):
    """Log-durations of a sequence without repetitions, by two convolutions.

    The predictor of FastSpeech 2 (Ren 2021) as the unit HiFi-GANs have it (Lee 2022, "Direct speech-to-speech translation with
    discrete units", section 3.3), with embeddings of its own, so that nothing of it depends on the waveform's losses. It is
    trained to d = log(frames), and a unit lasts max(1, round(exp(d))) frames.
    """

    def __init__(self, n_units: int, n_speakers: int, dim: int, kernel: int = 3):
        super().__init__()
        self.unit_embedding = nn.Embedding(n_units, dim)
        self.speaker_embedding = nn.Embedding(n_speakers, dim)
        self.convolutions = nn.ModuleList(FrameConv(dim, kernel, causal=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = Dropout(DROPOUT)
        self.project = nn.Linear(dim, 1)
        self.sides = self.convolutions[0].sides

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
