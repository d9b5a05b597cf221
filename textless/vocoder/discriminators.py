"""Discriminators, and the adversarial losses of both sides."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

# (periods, their channels; windows in samples, their channels). "large" is HiFi-GAN's and UnivNet's at half of their
# channels, for a GPU; "small" costs a CPU about as much as the vocoder itself.
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]] = {
    "small": ((2, 3, 5), (16, 32, 64, 64), (1024, 256), 8),
    "large": ((2, 3, 5, 7, 11), (16, 64, 256, 512), (2048, 1024, 512), 32),
}
SLOPE = 0.1  # of the leaky ReLU
GAIN = 10.0  # speech has a root mean square of 0.1; discriminators learn many times faster on inputs of 1

Outputs = tuple[list[Tensor], list[Tensor]]  # the score of each discriminator; the hidden features of all


class Discriminators(nn.Module):
    """Multi-period and multi-resolution discriminators (MPD, MRD).

    MPD: HiFi-GAN, Kong 2020, section 2.3. MRD: UnivNet, Jang 2021, section 2.2, on complex spectra as in EnCodec,
    Defossez 2022, section 3.4.

    Shape: waveforms (B, samples), samples > half of the longest window → `Outputs`, scores of any shape.
    """

    def __init__(self, size: str):
        super().__init__()
        periods, period_channels, windows, channels = SIZES[size]
        self.parts = nn.ModuleList([PeriodDiscriminator(p, period_channels) for p in periods])
        self.parts.extend(ResolutionDiscriminator(w, channels) for w in windows)

    def forward(self, waveforms: Tensor) -> Outputs:
        scores, features = [], []
        for part in self.parts:
            hidden = part(GAIN * waveforms)
            scores.append(hidden.pop())
            features.extend(hidden)
        return scores, features


class PeriodDiscriminator(nn.Module):
    """MPD: convolutions along time over every p-th sample.

    Shape: (B, samples) → features and score, each (B, channels, time, p).
    """

    def __init__(self, period: int, channels: tuple[int, ...]):
        super().__init__()
        self.period = period
        widths = (1, *channels)
        self.convolutions = nn.ModuleList(_convolution(a, b, (5, 1), (3, 1)) for a, b in itertools.pairwise(widths))
        self.last = _convolution(channels[-1], 1, (3, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.pad(x, (0, -x.shape[1] % self.period), "reflect").unflatten(1, (-1, self.period))[:, None]
        return _through(x, self.convolutions, self.last)


class ResolutionDiscriminator(nn.Module):
    """MRD: convolutions over a complex spectrogram with hop = window / 4.

    Shape: (B, samples) → features and score, each (B, channels, frames, bins).
    """

    window: Tensor

    def __init__(self, window: int, channels: int):
        super().__init__()
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        shapes = [(2, 1), (channels, 2), (channels, 2), (channels, 2)]  # channels that come in, stride over bins
        self.convolutions = nn.ModuleList(_convolution(c, channels, (3, 9), (1, stride)) for c, stride in shapes)
        self.last = _convolution(channels, 1, (3, 3))

    def forward(self, x: Tensor) -> list[Tensor]:
        n = len(self.window)
        spectrum = torch.stft(x, n, n // 4, window=self.window, normalized=True, return_complex=True)
        parts = torch.view_as_real(spectrum)
        # Magnitudes to the power of 0.3, phases kept: the loudest harmonics do not dominate.
        parts = parts * (parts.square().sum(-1, keepdim=True) + 1e-6) ** -0.35
        return _through(parts.permute(0, 3, 2, 1), self.convolutions, self.last)


def _convolution(channels: int, to: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Module:
    convolution = nn.Conv2d(channels, to, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2))
    nn.init.kaiming_normal_(convolution.weight, a=SLOPE)  # with torch's default, activations shrink from layer to layer
    return weight_norm(convolution)


def _through(x: Tensor, convolutions: nn.ModuleList, last: nn.Module) -> list[Tensor]:
    features = []
    for convolution in convolutions:
        x = F.leaky_relu(convolution(x), SLOPE)
        features.append(x)
    return [*features, last(x)]


def discriminator_loss(real: Outputs, generated: Outputs) -> Tensor:
    """Least squares (LSGAN, Mao 2017; HiFi-GAN, equation 1), the mean over discriminators.

    The target of speech is 1, of generated audio 0.
    """
    parts = [
        (1 - r.float()).square().mean() + m.float().square().mean() for r, m in zip(real[0], generated[0], strict=True)
    ]
    return torch.stack(parts).mean()


def adversarial_loss(generated: Outputs) -> Tensor:
    """Least squares for the generator (HiFi-GAN, equation 2), target 1, the mean over discriminators."""
    return torch.stack([(1 - m.float()).square().mean() for m in generated[0]]).mean()


def feature_loss(real: Outputs, generated: Outputs) -> Tensor:
    """Feature matching: L1 relative to the mean of the row's real features (EnCodec, equation 3).

    The mean over rows and layers.
    """
    parts = []
    for r, m in zip(real[1], generated[1], strict=True):
        distance, size = ((x.abs().float().flatten(1).mean(1)) for x in (r - m, r))
        parts.append((distance / size.clamp(min=1e-5)).mean())
    return torch.stack(parts).mean()
