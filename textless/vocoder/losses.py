"""What a waveform is compared by: log-mel magnitudes at several resolutions. In float32, whatever the model runs in."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

FLOOR = 1e-5  # of mel magnitudes, before the logarithm
# (window in samples, mel bands) at 16 kHz. Window and number of bands go together as in DAC (Kumar 2023, section 3.4).
SCALES = ((2048, 160), (1024, 80), (512, 40), (256, 20), (128, 10))


@functools.lru_cache
def mel_filters(n_fft: int, n_mels: int, sample_rate: int) -> Tensor:
    """Triangular filters on Slaney's mel scale, each of area 1 (librosa's default): linear to 1 kHz, logarithmic above.

    Returns:
        (n_fft / 2 + 1, n_mels) float32 from 0 Hz to Nyquist.
    """
    step, knee, ratio = 200 / 3, 1000.0, 6.4 ** (1 / 27)  # Hz per mel below the knee; frequency ratio per mel above
    # torch has no log to a base, and float64 keeps the narrow filters exact
    log_ratio = torch.log(torch.tensor(ratio, dtype=torch.float64))

    def to_mel(hz: Tensor) -> Tensor:
        return torch.where(hz < knee, hz / step, knee / step + torch.log(hz.clamp(min=knee) / knee) / log_ratio)

    def to_hz(mel: Tensor) -> Tensor:
        return torch.where(mel < knee / step, mel * step, knee * torch.exp(log_ratio * (mel - knee / step)))

    nyquist = torch.tensor(sample_rate / 2, dtype=torch.float64)
    edges = to_hz(torch.linspace(0, 1, n_mels + 2, dtype=torch.float64) * to_mel(nyquist))
    bins = torch.linspace(0, 1, n_fft // 2 + 1, dtype=torch.float64)[:, None] * nyquist
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)
    return (triangles * 2 / (high - low)).float()


@functools.lru_cache
def _hann(size: int) -> Tensor:
    return torch.hann_window(size)


def magnitudes(waveform: Tensor, window: int) -> Tensor:
    """Hann-windowed spectrum magnitudes with hop = window / 4, reflected at the ends.

    Shape: (B, samples) float32, samples > window / 2 → (B, window / 2 + 1, floor(samples / hop) + 1).
    """
    spectrum = torch.stft(
        waveform, window, window // 4, window=_hann(window).to(waveform.device), center=True, return_complex=True
    )
    # abs() has no usable gradient at 0
    return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-10)


def log_mel(waveform: Tensor, *, sample_rate: int, window: int = 1024, n_mels: int = 80) -> Tensor:
    """Natural logarithm of mel magnitudes, hop = window / 4. (B, samples) → (B, n_mels, frames)."""
    filters = mel_filters(window, n_mels, sample_rate).to(waveform.device)
    return torch.log((filters.T @ magnitudes(waveform, window)).clamp(min=FLOOR))


def log_mel_l1(made: Tensor, real: Tensor, *, sample_rate: int) -> Tensor:
    """The metric: mean absolute difference of 80-band log-mel magnitudes (window 1024, hop 256), nats. (B, samples) twice → ()."""
    return (log_mel(made, sample_rate=sample_rate) - log_mel(real, sample_rate=sample_rate)).abs().mean()


def multi_scale_mel(made: Tensor, real: Tensor, *, sample_rate: int) -> Tensor:
    """Mean over SCALES of the L1 distance of log-mel magnitudes (DAC, Kumar 2023; BigVGAN-v2). (B, samples) twice → ()."""
    distances = [
        (
            log_mel(made, sample_rate=sample_rate, window=w, n_mels=m)
            - log_mel(real, sample_rate=sample_rate, window=w, n_mels=m)
        )
        .abs()
        .mean()
        for w, m in SCALES
    ]
    return torch.stack(distances).mean()
