"""The sources that a voice is filtered from: pulses at the fundamental frequency, and noise.

A network that must invent the phases of harmonics needs hundreds of thousands of steps to sound voiced. One that
filters given pulses is voiced from its first step: the source-filter model in the time-frequency domain (HiFTNet, Li
2023, section 2; the sources are those of Wang 2019, Neural source-filter waveform models, section III-B, with all
harmonics up to Nyquist).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

PERIOD = 512  # frames after which the noise repeats, longer than a listener remembers noise
REST = 100.0  # Hz, of the phase in a pause


class Excitation(nn.Module):
    """Spectra of pulses and of noise, both of unit power, for the frames of an iSTFT (see `ISTFT` for their samples).

    Args:
        n_fft, hop: of the iSTFT, samples; a frame has one value of F0.
        sample_rate: Hz.
    """

    window: Tensor
    noise_real: Tensor
    noise_imaginary: Tensor

    def __init__(self, n_fft: int, hop: int, sample_rate: int):
        super().__init__()
        self.n_fft, self.hop, self.sample_rate = n_fft, hop, sample_rate
        self.f0_sides = (2, 2)  # frames of F0 that decide on the pulses of one
        self.sides = (n_fft // hop // 2, n_fft // hop // 2)  # frames whose samples a spectrum sees
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window, persistent=False)
        samples = torch.tensor(np.random.default_rng(0).standard_normal(PERIOD * hop).astype(np.float32))
        side = (n_fft - hop) // 2
        circle = torch.cat([samples[-side:], samples, samples[: n_fft - hop - side]])
        spectra = torch.fft.rfft(circle.unfold(0, n_fft, hop) * window)
        self.register_buffer("noise_real", spectra.real.contiguous(), persistent=False)
        self.register_buffer("noise_imaginary", spectra.imag.contiguous(), persistent=False)

    def noise(self, first: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Spectra of n frames of noise, from frame `first` (B,) int64 on.

        Returns:
            real and imaginary part, (B, n, n_fft / 2 + 1) float32 each.
        """
        frames = (first[:, None] + torch.arange(n, device=first.device)) % PERIOD
        return self.noise_real[frames], self.noise_imaginary[frames]

    def pulses(self, f0: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Band-limited pulses: the sum of all harmonics below Nyquist, its root mean square 1 where it is voiced.

        Frequency and voicing change linearly from the middle of a frame to that of the next.

        Args:
            f0: (B, 2 + T + 2) float64 Hz, 0 where unvoiced.
            phase: (B,) float64 cycles before the first sample.

        Returns:
            (B, T * hop) float32, and the phase after the last sample.
        """
        before, current, after = f0[:, :-2], f0[:, 1:-1], f0[:, 2:]
        # An unvoiced frame has the F0 of a voiced neighbour, so that a voice fades in and out on its own pitch.
        hz = torch.where(current > 0, current, torch.where(before > 0, before, torch.where(after > 0, after, REST)))
        hz = _line(hz, self.hop)
        cycles = phase[:, None] + (hz / self.sample_rate).cumsum(1)
        at = (cycles - cycles.round()).float()
        harmonics = (self.sample_rate / 2 / hz).floor().float()
        # The closed form of a sum of cosines (Dirichlet's kernel), of which the limit at 0 is the number of harmonics.
        total = (torch.sin((2 * harmonics + 1) * math.pi * at) / torch.sin(math.pi * at) - 1) / 2
        pulses = torch.where(at.abs() < 1e-7, harmonics, total) * torch.sqrt(2 / harmonics)
        return pulses * _line((current > 0).float(), self.hop), cycles[:, -1]

    def spectra(self, samples: Tensor) -> Tensor:
        """Spectra of T frames, from their samples with `sides` frames of context.

        Shape: (B, (left + T + right) * hop) → (B, T, n_fft / 2 + 1) complex64.
        """
        beyond = self.sides[0] * self.hop - (self.n_fft - self.hop) // 2
        return torch.fft.rfft(
            samples[:, beyond : samples.shape[1] - beyond].unfold(1, self.n_fft, self.hop) * self.window
        )


def _line(values: Tensor, hop: int) -> Tensor:
    """Samples on the line from the middle of a frame to that of the next. (B, 1 + T + 1) → (B, T * hop), hop even."""
    before, current, after = values[:, :-2, None], values[:, 1:-1, None], values[:, 2:, None]
    away = (torch.arange(hop // 2, device=values.device) + 0.5) / hop  # frames from the middle
    return torch.cat([current + away.flip(0) * (before - current), current + away * (after - current)], 2).flatten(1)
