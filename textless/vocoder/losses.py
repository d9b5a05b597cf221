"""Spectral losses: log-mel magnitudes at several resolutions. In float32, in whatever precision the model runs."""

from __future__ import annotations

import torch
from torch import Tensor

from textless.audio.mel import slaney_log_mel

# (window in samples, mel bands) at 16 kHz. Window and number of bands go together as in DAC (Kumar 2023, section 3.4).
SCALES = ((2048, 160), (1024, 80), (512, 40), (256, 20), (128, 10))


def log_mel_l1(synthetic: Tensor, real: Tensor, *, sample_rate: int) -> Tensor:
    """The metric: mean absolute difference of 80-band log-mel magnitudes (window 1024, hop 256), nats.

    (B, samples) twice → ().
    """
    return (
        (slaney_log_mel(synthetic, sample_rate=sample_rate) - slaney_log_mel(real, sample_rate=sample_rate))
        .abs()
        .mean()
    )


def multi_scale_mel(synthetic: Tensor, real: Tensor, *, sample_rate: int) -> Tensor:
    """Mean over SCALES of the L1 distance of log-mel magnitudes (DAC, Kumar 2023; BigVGAN-v2).

    (B, samples) twice → ().
    """
    distances = [
        (
            slaney_log_mel(synthetic, sample_rate=sample_rate, window=w, n_mels=m)
            - slaney_log_mel(real, sample_rate=sample_rate, window=w, n_mels=m)
        )
        .abs()
        .mean()
        for w, m in SCALES
    ]
    return torch.stack(distances).mean()
