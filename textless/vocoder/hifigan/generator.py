"""HiFi-GAN's generator (Kong et al. 2020, arXiv:2010.05646, section 2.2).

It computes the function of the published code in another order of arithmetic, in half to two thirds of the time: see
`Convolution` and `Stage`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.vocoder.hifigan.checkpoint import Settings, Weights

SLOPE = 0.1  # of the leaky ReLUs; in all published code the one before the last convolution has torch's default
TILE = 24  # samples that `Convolution` transforms together
PASS = 1500  # frames in one pass of the generator, so that memory does not grow with the length


def few_products(tile: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """A correlation with few multiplications.

    y[i] = Σ w[j] x[i + j], i ≤ tile - kernel, is `outputs @ ((weights @ w) * (inputs @ x))`.

    A real DFT of even length `tile`, of whose circular correlation the part that does not wrap is kept (overlap-save),
    each product of complex numbers made of three real ones (Karatsuba): 1.5 tile - 1 products. No entry is larger than
    √2, so it is as exact as the sum in float32, which transforms with fewer products (Winograd's) are not at this
    length.

    Returns:
        inputs (products, tile), weights (products, kernel), outputs (tile - kernel + 1, products); the first product
        is of frequency 0.
    """
    angles = 2 * math.pi / tile * torch.outer(torch.arange(tile // 2 + 1), torch.arange(tile)).double()
    cos, sin = angles.cos(), angles.sin()
    inputs, weights, outputs = [cos[0]], [cos[0]], [cos[0] / tile]
    for c, s in zip(cos[1:-1], sin[1:-1], strict=True):
        # x has a - i b, the conjugate of w u + i v; their product is (a u + b v) + i ((a - b)(u + v) - a u + b v)
        inputs += [c, s, c - s]
        weights += [c, s, c + s]
        outputs += [2 / tile * (c + s), 2 / tile * (c - s), -2 / tile * s]
    inputs, weights, outputs = [*inputs, cos[-1]], [*weights, cos[-1]], [*outputs, cos[-1] / tile]
    return torch.stack(inputs), torch.stack(weights)[:, :kernel], torch.stack(outputs, 1)[: tile - kernel + 1]


class Convolution(nn.Module):
    """Convolution of the leaky ReLU of a row, zeros around it: (T, in) → (T, out), in new memory.

    Where channels are many and the kernel is long, by `few_products`: overlapping tiles are transformed, the channels
    of each product mixed by a matrix, and the tiles transformed back, which for kernel 11 is 2.5 multiplications a
    sample and pair of channels instead of 11 (Mathieu et al. 2013, arXiv:1312.5851; Lavin and Gray 2016,
    arXiv:1509.09308). The matrices take 35 / kernel times the memory of the weights.

    Args:
        weight: (out, in, kernel), kernel odd; its dtype is that of the arithmetic.
        bias: (out,).
        slope: of the leaky ReLU; 1 for none.
    """

    inputs: Tensor
    outputs: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, *, dilation: int = 1, slope: float = SLOPE) -> None:
        super().__init__()
        self.kernel, self.dilation, self.slope = weight.shape[2], dilation, slope
        self.side = (self.kernel - 1) * dilation // 2
        # with fewer channels or a shorter kernel the transforms cost more than they save; a longer one fills the tile
        self.tiled = weight.dtype == torch.float32 and min(weight.shape[:2]) >= 64 and 5 <= self.kernel <= TILE // 2
        if self.tiled:
            inputs, weights, outputs = few_products(TILE, self.kernel)
            self.register_buffer("inputs", inputs.float())
            self.register_buffer("outputs", outputs.float())
            weight = (weights.float() @ weight.permute(2, 1, 0).flatten(1)).unflatten(1, weight.shape[1::-1])
            bias = bias * TILE  # added at frequency 0, the sum over the tile
        else:
            weight = weight[:, :, None].contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.tiled:
            return self._tiles(x)
        x = F.leaky_relu(x.to(self.weight.dtype), self.slope)
        # as an image one pixel high: oneDNN reads it in place, channels last, where conv1d would reorder it twice
        y = F.conv2d(x.T[None, :, None], self.weight, self.bias, padding=(0, self.side), dilation=(1, self.dilation))
        return y[0, :, 0].T

    def _tiles(self, x: Tensor) -> Tensor:
        (frames, channels), dilation, step = x.shape, self.dilation, TILE - self.kernel + 1
        tiles = -(-frames // (step * dilation))
        padded = x.new_empty(((tiles - 1) * step + TILE) * dilation, channels)
        padded[: self.side] = padded[self.side + frames :] = 0
        padded[self.side : self.side + frames] = x
        F.leaky_relu_(padded, self.slope)
        transformed = x.new_empty(dilation, tiles, len(self.inputs), channels)
        for phase in range(dilation):  # a dilated kernel sees every dilation-th frame
            windows = padded.unflatten(0, (-1, dilation))[:, phase].unfold(0, TILE, step).transpose(1, 2)
            torch.bmm(self.inputs.expand(tiles, -1, -1), windows, out=transformed[phase])
        products = torch.bmm(transformed.flatten(0, 1).transpose(0, 1), self.weight)
        products[0] += self.bias
        y = (self.outputs @ products.flatten(1)).view(step, dilation, tiles, -1)
        return y.permute(2, 0, 1, 3).flatten(0, 2)[:frames]


class Upsampling(nn.Module):
    """Transposed convolution of the leaky ReLU of a row, less (kernel - rate) / 2 samples at each end.

    Shape: (T, in) → (T * rate, out).

    `rate` samples in a row of the output see the same `taps` frames, so they are one product with a matrix.

    Args:
        weight: (in, out, kernel), kernel - rate even and not negative.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, rate: int) -> None:
        super().__init__()
        channels, self.channels, kernel = weight.shape
        self.rate, self.taps, self.side = rate, -(-kernel // rate), (kernel - rate) // 2
        taps = F.pad(weight, (0, self.taps * rate - kernel)).unflatten(2, (self.taps, rate))
        self.register_buffer(
            "weight", taps.permute(2, 0, 3, 1).reshape(self.taps, channels, rate * self.channels).contiguous()
        )
        self.register_buffer("bias", bias.repeat(rate))

    def forward(self, x: Tensor) -> Tensor:
        around = self.taps - 1
        padded = F.pad(F.leaky_relu(x.to(self.weight.dtype), SLOPE), (0, 0, around, around))
        y = torch.addmm(self.bias, padded[around:], self.weight[0])
        for k in range(1, self.taps):
            y.addmm_(padded[around - k : len(padded) - k], self.weight[k])
        return y.view(-1, self.channels)[self.side : self.side + len(x) * self.rate]


class ResidualBlock(nn.Module):
    """Layers of convolutions, each added to its input: (T, channels) → (T, channels)."""

    def __init__(self, layers: Sequence[Sequence[Convolution]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(*layer) for layer in layers)
        self.reach = sum(convolution.side for layer in layers for convolution in layer)  # samples to either side

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).add_(x)
        return x


class Stage(nn.Module):
    """An upsampling, then the mean of residual blocks of several kernels: (T, in) → (T * rate, out).

    A long row is cut into pieces that fit in the cache of a core; each piece is computed with the context that its
    samples depend on.
    """

    def __init__(self, up: Upsampling, blocks: Sequence[ResidualBlock]) -> None:
        super().__init__()
        self.up, self.blocks = up, nn.ModuleList(blocks)
        reach = max(block.reach for block in blocks)
        self.halo = -(-(reach + up.side) // up.rate) + up.taps - 1  # frames

    def forward(self, x: Tensor) -> Tensor:
        rate, channels = self.up.rate, self.up.channels
        out = x.new_zeros(len(x) * rate, channels)
        # 800 KB a thread, but not so short that most of it would be context
        size = max(2000, 200_000 * torch.get_num_threads() // channels) if x.device.type == "cpu" else len(out)
        for (start, stop), (low, high) in pieces(len(x), size // rate, self.halo):
            upsampled = self.up(x[low:high])
            for block in self.blocks:
                y = block(upsampled)
                out[start * rate : stop * rate].add_(
                    y[(start - low) * rate : (stop - low) * rate], alpha=1 / len(self.blocks)
                )
        return out


def pieces(total: int, size: int, halo: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Equal parts of `total`, of about `size`: (start, stop) of each, without and with a `halo` on either side."""
    count = max(1, round(total / max(1, size)))
    edges = [total * i // count for i in range(count + 1)]
    for start, stop in itertools.pairwise(edges):
        yield (start, stop), (max(0, start - halo), min(total, stop + halo))


class Generator(nn.Module):
    """HiFi-GAN: (T, channels) float32, the concatenated inputs of each frame → (T * rate,) float32 in [-1, 1]."""

    def __init__(self, settings: Settings, weights: Weights, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        rates, ups = settings.wholes("upsample_rates"), settings.wholes("upsample_kernel_sizes")
        kernels, width = settings.wholes("resblock_kernel_sizes"), settings.whole("upsample_initial_channel")
        dilations = settings["resblock_dilation_sizes"]
        if not isinstance(dilations, list) or len(dilations) != len(kernels) or len(ups) != len(rates):
            raise settings.error(
                "not as many resblock_dilation_sizes as resblock_kernel_sizes, "
                "or upsample_rates as upsample_kernel_sizes"
            )
        dilations = [settings.wholes("resblock_dilation_sizes", d) for d in dilations]
        if (
            any(k < u or (k - u) % 2 for k, u in zip(ups, rates, strict=True))
            or any(k % 2 == 0 for k in kernels)
            or width % 2 ** len(ups)
        ):
            raise settings.error(
                f"kernels {kernels}, and {ups} at rates {rates}, from {width} channels, do not give whole samples"
            )

        def convolution(name: str, *shape: int, dilation: int = 1) -> Convolution:
            return Convolution(*(t.to(dtype) for t in weights.pair(name, *shape)), dilation=dilation)

        # the first and the last stay in float32: they are cheap, and all of the audio goes through them
        self.before = Convolution(*weights.pair("conv_pre", width, channels, 7), slope=1.0)
        stages: list[Stage] = []
        for i, (rate, up) in enumerate(zip(rates, ups, strict=True)):
            weight, bias = weights.pair(f"ups.{i}", width, width // 2, up, axis=1)
            width //= 2
            blocks: list[ResidualBlock] = []
            for j, (kernel, steps) in enumerate(zip(kernels, dilations, strict=True), i * len(kernels)):
                # HiFi-GAN's two kinds of residual block; configurations name them differently
                first, *second = ("convs",) if f"resblocks.{j}.convs.0.weight" in weights.left else ("convs1", "convs2")
                layers = []
                for n, dilation in enumerate(steps):
                    dilated = convolution(f"resblocks.{j}.{first}.{n}", width, width, kernel, dilation=dilation)
                    layers.append(
                        [dilated, *(convolution(f"resblocks.{j}.{s}.{n}", width, width, kernel) for s in second)]
                    )
                blocks.append(ResidualBlock(layers))
            stages.append(Stage(Upsampling(weight.to(dtype), bias.to(dtype), rate), blocks))
        self.stages = nn.ModuleList(stages)
        self.after = Convolution(*weights.pair("conv_post", 1, width, 7), slope=0.01)
        self.rate, self.halo = math.prod(rates), self.after.side
        for stage in reversed(stages):
            self.halo = -(-self.halo // stage.up.rate) + stage.halo
        self.halo += self.before.side  # frames to either side that a sample depends on

    def forward(self, x: Tensor) -> Tensor:
        audio = x.new_empty(len(x) * self.rate)
        for (start, stop), (low, high) in pieces(len(x), PASS, self.halo):
            y = self.before(x[low:high])
            for stage in self.stages:
                y = stage(y)
            y = self.after(y)[(start - low) * self.rate : (stop - low) * self.rate, 0]
            torch.tanh(y, out=audio[start * self.rate : stop * self.rate])
        return audio
