"""From the trunk's frames to a waveform: a filter for each frame, and the inverse short-time Fourier transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from textless.vocoder.istft import ISTFT

Pair = tuple[Tensor, Tensor]  # real and imaginary part


class SpectrumHead(nn.Module):
    """Magnitude and phase of each frame, then the iSTFT (Vocos, Siuzdak 2023, section 3.2). Any real number is a phase: it is wrapped.

    With an excitation, magnitude and phase are a filter of the pulses, and a second magnitude filters the noise.
    """

    def __init__(self, dim: int, n_fft: int, hop: int, *, excited: bool):
        super().__init__()
        self.excited = excited
        self.project = nn.Linear(dim, (n_fft // 2 + 1) * (3 if excited else 2))
        self.istft = ISTFT(n_fft, hop)
        # Vocos clips at 1e2; a sine of full scale has n_fft / 4 under the Hann window, and nothing sensible is louder. Sources have unit
        # power; a harmonic of full scale is 10 times its share of the pulses'.
        self.loudest = math.log(10 if excited else n_fft / 4)

    def forward(self, x: Tensor, mask: Tensor, pulses: Tensor | None = None, noise: Pair | None = None) -> Tensor:
        """(B, T, dim), mask (B, T), `Excitation.spectra` and `Excitation.noise` of the same frames → (B, T * hop) float32."""
        return self.istft(self.spectrum(x, pulses, noise), mask)

    def spectrum(self, x: Tensor, pulses: Tensor | None = None, noise: Pair | None = None) -> Tensor:
        """(B, T, dim) → (B, T, n_fft / 2 + 1) complex64."""
        outputs = self.project(x).float()
        log_magnitude, phase, *log_noise = outputs.chunk(3 if self.excited else 2, -1)
        magnitude = torch.exp(log_magnitude.clamp(max=self.loudest))
        # Not torch.polar, and no gain times a complex number: both are several times slower than this.
        spectrum = torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase))
        if not self.excited:
            return spectrum
        gain = torch.exp(log_noise[0].clamp(max=self.loudest))
        return spectrum * pulses + torch.complex(gain * noise[0], gain * noise[1])
