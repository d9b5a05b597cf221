"""Copy synthesis: audio from its own mel spectrogram without a learned model, a reference for vocoders."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from textless.audio.mel import slaney_filters, slaney_log_mel
from textless.audio.waveform import as_waveform
from textless.errors import AudioError

WINDOW, HOP, BANDS = 1024, 256, 80  # of `losses.log_mel_l1`
INVERSION, ITERATIONS, MOMENTUM = 50, 60, 0.99


def copy_synthesis(waveform: np.ndarray, *, sample_rate: int = 16000, seed: int = 0) -> np.ndarray:
    """A waveform (samples,) float32, samples > 512, rebuilt from its own 80-band mel spectrogram; of the same length.

    The magnitudes are those of `mel_to_magnitudes`, the phases those of `griffin_lim`, which the seed initialises.

    Raises:
        AudioError: 512 samples or fewer.
    """
    waveform = as_waveform(waveform)
    if len(waveform) <= WINDOW // 2:
        raise AudioError(f"{len(waveform)} samples are too short to be rebuilt; it takes more than {WINDOW // 2}")
    wave = torch.from_numpy(waveform)
    mel = slaney_log_mel(wave[None], sample_rate=sample_rate, window=WINDOW, n_mels=BANDS)[0].exp()
    magnitudes = mel_to_magnitudes(mel, sample_rate=sample_rate)
    return griffin_lim(magnitudes, samples=len(wave), seed=seed).numpy()


def mel_to_magnitudes(mel: Tensor, *, sample_rate: int) -> Tensor:
    """Non-negative magnitudes with the nearest mel bands, by multiplicative updates (Lee & Seung 2001, theorem 1).

    Shape: (80, frames) float32, not logarithmic → (513, frames).
    """
    filters = slaney_filters(WINDOW, BANDS, sample_rate)
    overlap, target = filters @ filters.T, filters @ mel
    magnitudes = (torch.linalg.pinv(filters.T) @ mel).clamp(min=1e-8)
    for _ in range(INVERSION):
        magnitudes = magnitudes * target / (overlap @ magnitudes).clamp(min=1e-12)
    return magnitudes


def griffin_lim(magnitudes: Tensor, *, samples: int, seed: int = 0) -> Tensor:
    """A waveform whose spectrum has nearly these magnitudes (Griffin & Lim 1984).

    60 iterations with the momentum 0.99 of Perraudin, Balazs & Søndergaard (2013, A fast Griffin-Lim algorithm).

    Shape: (513, samples // 256 + 1) float32 → (samples,).
    """
    window = torch.hann_window(WINDOW)
    turns = torch.rand(magnitudes.shape, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.polar(magnitudes, 2 * torch.pi * turns)
    before = torch.zeros_like(spectrum)
    for _ in range(ITERATIONS):
        wave = torch.istft(spectrum, WINDOW, HOP, window=window, length=samples)
        consistent = torch.stft(wave, WINDOW, HOP, window=window, return_complex=True)
        ahead = consistent + MOMENTUM * (consistent - before)
        before = consistent
        spectrum = magnitudes * ahead / ahead.abs().clamp(min=1e-16)
    return torch.istft(spectrum, WINDOW, HOP, window=window, length=samples)
