"""Inverse short-time Fourier transform with "same" padding: T frames give exactly T * hop samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, spectrum: Tensor, mask: Tensor) -> Tensor:
        """Waveform of a spectrogram.

        Args:
            spectrum: (B, T, n_fft / 2 + 1) complex64.
            mask: (B, T) float32, 1 for a frame that is there, 0 for padding after it.

        Returns:
            (B, T * hop) float32; padding gives zeros and changes nothing before it.
        """
        frames = torch.fft.irfft(spectrum, self.n_fft) * self.window * mask[..., None]
        # The envelope sums the windows that are there, so that the end of a padded row equals the end of the row alone.
        envelope = self._overlap_add(self.window.square() * mask[..., None])
        samples = mask.repeat_interleave(self.hop, 1)
        return self._overlap_add(frames) / envelope.clamp(min=1e-3) * samples

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """(B, T, n_fft) → (B, T * hop), the (n_fft - hop) / 2 samples outside on either side cut off."""
        parts = self.n_fft // self.hop
        # As n_fft is a multiple of hop, the sum is of whole hops, shifted: several times faster than fold on a CPU.
        shifted = [F.pad(p, (0, 0, k, parts - 1 - k)) for k, p in enumerate(frames.unflatten(2, (parts, self.hop)).unbind(2))]
        summed = torch.stack(shifted).sum(0).flatten(1)
        side = (self.n_fft - self.hop) // 2
        return summed[:, side : summed.shape[1] - side]
