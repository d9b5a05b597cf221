"""Inverse short-time Fourier transform with "same" padding: T frames give exactly T * hop samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textless.vocoder.backbone import padded


class ISTFT(nn.Module):
    """Overlap-add of the inverse transforms of the frames, divided by the sum of the squared windows (Griffin and Lim 1984).

    torch.istft refuses a spectrogram that does not start half a window before its first sample (its check of the window's
    envelope fails), and Vocos keeps an iSTFT of its own for the same reason (Siuzdak 2023, section 3.3).

    Frame t covers the samples [t * hop - (n_fft - hop) / 2, … + n_fft): its middle is the middle of [t * hop, (t + 1) * hop).
    """

    def __init__(self, n_fft: int, hop: int):
        """n_fft must be a multiple of hop, and n_fft - hop even."""
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.sides = ((n_fft // hop) // 2,) * 2  # frames that reach into the samples of another
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, spectrum: Tensor, mask: Tensor) -> Tensor:
        """Waveform of a spectrogram.

        Args:
            spectrum: (B, T, n_fft / 2 + 1) complex64.
            mask: (B, T) float32, 1 for a frame that is there, 0 for padding after it.

        Returns:
            (B, T * hop) float32; padding gives zeros and changes nothing before it.
        """
        return self.add(padded(self.frames(spectrum, mask), self.sides), padded(mask[..., None], self.sides)[..., 0])

    def frames(self, spectrum: Tensor, mask: Tensor) -> Tensor:
        """The windowed inverse transform of each frame: (B, T, n_fft) float32."""
        return torch.fft.irfft(spectrum, self.n_fft) * self.window * mask[..., None]

    def add(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Overlap-add. Frames (B, left + T + right, n_fft) and which of them are there (B, left + T + right) → (B, T * hop)."""
        (left, right), parts, hop = self.sides, self.n_fft // self.hop, self.hop
        n = mask.shape[1] + parts - 1
        # As n_fft is a multiple of hop, the sum is of whole hops, shifted: several times faster than fold on a CPU.
        summed = F.pad(frames[..., :hop], (0, 0, 0, parts - 1))
        for k in range(1, parts):
            summed[:, k : n - parts + 1 + k] += frames[..., k * hop : (k + 1) * hop]
        # The envelope sums the windows that are there, so that the end of a padded row equals the end of the row alone.
        there = F.pad(mask, (parts - 1, parts - 1)).unfold(1, parts, 1).flip(2)
        envelope = there @ self.window.square().view(parts, hop)
        side = (self.n_fft - hop) // 2 + left * hop
        here = slice(side, side + (mask.shape[1] - left - right) * hop)
        waveform = summed.flatten(1)[:, here] / envelope.clamp(min=1e-3).flatten(1)[:, here]
        return waveform * mask[:, left : mask.shape[1] - right].repeat_interleave(hop, 1)
