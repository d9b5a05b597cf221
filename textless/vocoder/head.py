"""From the backbone's frames to a waveform: a filter for each frame, and the inverse short-time Fourier transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textless.vocoder.backbone import padded

Sources = tuple[Tensor, tuple[Tensor, Tensor]]  # `Excitation.spectra`; `Excitation.noise`, its real and imaginary part


class SpectrumHead(nn.Module):
    """Magnitude and phase of each frame, then the iSTFT (Vocos, Siuzdak 2023, section 3.2).

    Any real number is a phase: it is wrapped.
    With an excitation, magnitude and phase are a filter of the pulses, and a second magnitude filters the noise.
    """

    def __init__(self, dim: int, n_fft: int, hop: int, *, excited: bool):
        super().__init__()
        self.excited = excited
        self.project = nn.Linear(dim, (n_fft // 2 + 1) * (3 if excited else 2))
        self.istft = ISTFT(n_fft, hop)
        # Vocos clips at 1e2; a sine of full scale has n_fft / 4 under the Hann window, and no speech is louder. Sources
        # have unit power; a harmonic of full scale is 10 times its share of the pulses'.
        self.loudest = math.log(10 if excited else n_fft / 4)

    def forward(self, x: Tensor, mask: Tensor, sources: Sources | None = None) -> Tensor:
        """(B, T, dim), mask (B, T), sources of the same frames if `excited` → (B, T * hop) float32."""
        return self.istft(self.spectrum(x, sources), mask)

    def spectrum(self, x: Tensor, sources: Sources | None = None) -> Tensor:
        """(B, T, dim) → (B, T, n_fft / 2 + 1) complex64."""
        outputs = self.project(x).float()
        log_magnitude, phase, *log_noise = outputs.chunk(3 if self.excited else 2, -1)
        magnitude = torch.exp(log_magnitude.clamp(max=self.loudest))
        # Not torch.polar, and no gain times a complex number: both are several times slower than this.
        spectrum = torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase))
        if sources is None:
            return spectrum
        pulses, (real, imaginary) = sources
        gain = torch.exp(log_noise[0].clamp(max=self.loudest))
        return spectrum * pulses + torch.complex(gain * real, gain * imaginary)


class ISTFT(nn.Module):
    """Inverse short-time Fourier transform (Griffin and Lim 1984).

    Overlap-add of the inverse transforms of the frames, divided by the sum of the squared windows.

    torch.istft refuses a spectrogram that does not start half a window before its first sample (its check of the
    window's envelope fails), and Vocos keeps an iSTFT of its own for the same reason (Siuzdak 2023, section 3.3).

    "Same" padding: T frames give exactly T * hop samples. Frame t covers the samples [t * hop - (n_fft - hop) / 2,
    … + n_fft): its middle is the middle of [t * hop, (t + 1) * hop).
    """

    window: Tensor

    def __init__(self, n_fft: int, hop: int):
        """n_fft must be a multiple of hop, and n_fft - hop even."""
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        side = n_fft // hop // 2
        self.sides = (side, side)  # frames that overlap the samples of one
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, spectrum: Tensor, mask: Tensor) -> Tensor:
        """Waveform of a spectrogram.

        Args:
            spectrum: (B, T, n_fft / 2 + 1) complex64.
            mask: (B, T) float32, 1 for a frame, 0 for padding after the last.

        Returns:
            (B, T * hop) float32; padding gives zeros and changes nothing before it.
        """
        return self.add(padded(self.frames(spectrum, mask), self.sides), padded(mask[..., None], self.sides)[..., 0])

    def frames(self, spectrum: Tensor, mask: Tensor) -> Tensor:
        """The windowed inverse transform of each frame: (B, T, n_fft) float32."""
        return torch.fft.irfft(spectrum, self.n_fft) * self.window * mask[..., None]

    def add(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Overlap-add. Frames (B, left + T + right, n_fft) and their mask (B, left + T + right) → (B, T * hop)."""
        (left, right), parts, hop = self.sides, self.n_fft // self.hop, self.hop
        n = mask.shape[1] + parts - 1
        # As n_fft is a multiple of hop, the sum is of whole hops, shifted: several times faster than fold on a CPU.
        summed = F.pad(frames[..., :hop], (0, 0, 0, parts - 1))
        for k in range(1, parts):
            summed[:, k : n - parts + 1 + k] += frames[..., k * hop : (k + 1) * hop]
        # The envelope sums the windows of unmasked frames only: the end of a padded row equals that of the row alone.
        windows = F.pad(mask, (parts - 1, parts - 1)).unfold(1, parts, 1).flip(2)
        envelope = windows @ self.window.square().view(parts, hop)
        side = (self.n_fft - hop) // 2 + left * hop
        valid = slice(side, side + (mask.shape[1] - left - right) * hop)
        waveform = summed.flatten(1)[:, valid] / envelope.clamp(min=1e-3).flatten(1)[:, valid]
        return waveform * mask[:, left : mask.shape[1] - right].repeat_interleave(hop, 1)
