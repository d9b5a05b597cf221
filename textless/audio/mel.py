"""Log-mel spectrogram at 100 Hz, in torch, so that it runs where the encoder runs."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from textless.audio.mfcc import HOP, SAMPLE_RATE, WINDOW
from textless.errors import AudioError

N_FFT = 512
FLOOR = 1e-6  # of the mel energies: 16-bit silence stays above it, digital silence does not become -inf


def hz_to_mel(hz: Tensor) -> Tensor:
    """HTK's mel scale."""
    return 1127.0 * torch.log1p(hz / 700.0)


def mel_edges(n_mels: int) -> Tensor:
    """Where filters begin, peak and end: filter i has its peak at i + 1. (n_mels + 2,) float64 in mel, 20 Hz to Nyquist."""
    low, high = hz_to_mel(torch.tensor([20.0, SAMPLE_RATE / 2], dtype=torch.float64)).tolist()
    return torch.linspace(low, high, n_mels + 2, dtype=torch.float64)


@functools.lru_cache
def mel_filters(n_mels: int) -> Tensor:
    """Triangular filters of equal width on the mel scale. (N_FFT / 2 + 1, n_mels) float32."""
    bins = hz_to_mel(torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / N_FFT)
    edges = mel_edges(n_mels)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


@functools.lru_cache
def _window() -> Tensor:
    return torch.hann_window(WINDOW, periodic=False)


def log_mel(waveform: Tensor, *, n_mels: int = 80) -> Tensor:
    """Natural logarithm of mel energies.

    Args:
        waveform: (samples,) float32 in [-1, 1] at 16 kHz, at least 400 samples.

    Returns:
        (T', n_mels) float32 at 100 Hz, T' = floor((samples - 400) / 160) + 1: the frames of MFCC.

    Raises:
        AudioError: shorter than one frame.
    """
    if len(waveform) < WINDOW:
        raise AudioError(f"{len(waveform)} samples are shorter than one frame ({WINDOW} samples at 16 kHz)")
    frames = waveform.unfold(0, WINDOW, HOP) * _window().to(waveform.device)
    power = torch.fft.rfft(frames, N_FFT).abs().square()
    return torch.log(torch.clamp(power @ mel_filters(n_mels).to(waveform.device), min=FLOOR))


def normalise(features: Tensor) -> Tensor:
    """Zero mean and unit variance over time in each channel: takes away microphone, level and some of the speaker. (T, D) → (T, D)."""
    centred = features - features.mean(0)
    return centred / torch.sqrt(centred.square().mean(0) + 1e-5)
