"""How long each unit lasts, from the units alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from textless.training import Dropout

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
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, dim, kernel, padding=kernel // 2) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = Dropout(DROPOUT)
        self.project = nn.Linear(dim, 1)

    def forward(self, units: Tensor, speakers: Tensor, lengths: Tensor) -> Tensor:
        """Log-durations.

        Args:
            units: (B, N) int64; anything in the codebook after a row's length.
            speakers: (B,) int64.
            lengths: (B,) int64, units of each row, at most N.

        Returns:
            (B, N) float32, d = log(frames); meaningless after a row's length.
        """
        mask = (torch.arange(units.shape[1], device=units.device) < lengths[:, None]).to(torch.float32)[..., None]
        x = (self.unit_embedding(units) + self.speaker_embedding(speakers)[:, None]) * mask
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.dropout(norm(torch.relu(convolution(x.transpose(1, 2)).transpose(1, 2)))) * mask
        return self.project(x).float()[..., 0]
