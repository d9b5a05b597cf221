"""HuBERT inference: what `Hubert.forward` computes, in tiles and packed instead of padded, up to one layer.

Three things make it exact and fast. - The GroupNorm of the first convolution (base) needs statistics of the whole file.
They follow from the moments of the waveform alone, the
  mean and covariance of ten neighbouring samples, so that one cheap pass in float64 turns the norm, and the
  normalisation of the waveform with it, into a scale and a shift of that convolution's weights. After that no frame
  depends on how a file is cut.
- The convolutions are matrix products on channels-last tiles that stay in cache.
- Files are packed one after the other, not padded side by side: products run over the frames of all, attention and
positions over each.
  Nothing is padded, so nothing can leak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.audio import mfcc
from textless.audio.mel import htk_log_mel
from textless.devices import dtype_of
from textless.errors import AudioError
from textless.types import Blocks
from textless.units.encoders.hubert import (
    CONV_KERNELS,
    CONV_STRIDES,
    EPSILON,
    Block,
    ConvFrontEnd,
    ConvLayer,
    Hubert,
    HubertConfig,
    MelFrontEnd,
    PositionalConv,
    PositionalStack,
)
from textless.units.encoders.hubert_frames import FRAME_RATE, HOP, WINDOW, n_frames
from textless.units.mfcc_lda.vtln import MEASURED, warping

TILE = 100  # frames whose convolutions are computed at once: about what a core's cache holds
STRETCH = 1500  # frames of the front end computed from one stretch of samples
PACKED = 15_000  # frames that go through the transformer together at most, to bound memory
MARGIN = 1 / 12  # of a window: the least context of a frame on either side within it


class Extractor:
    """Outputs of a HuBERT's blocks, for whole files of any length.

    Args:
        model: with its weight norm folded (`Hubert.fold_weight_norm`).
        precision: `fp32`, or `bf16`: matrix products in bfloat16; norms, statistics and the residual stream stay in
            float32.
        window: seconds. In longer files the transformer sees windows of this length, of which the frames with at least
            a twelfth of the window on both sides, or the file's end, are kept. 0: always the whole file, at quadratic
            cost.
        tap: of each layer, `block` or `ffn`; see `UnitContract`.
    """

    def __init__(self, model: Hubert, *, precision: str = "fp32", window: float = 60.0, tap: str = "block") -> None:
        dtype = dtype_of(precision)
        self.front = _ConvFront(model, dtype) if model.config.front_end == "conv" else _MelFront(model, dtype)
        self.transformer = _Transformer(model, dtype, tap)
        self.window = round(window * FRAME_RATE)

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[np.ndarray], layers: Sequence[int]) -> list[list[np.ndarray]]:
        """Several files together.

        Args:
            waveforms: each (samples,) float32 in [-1, 1] at 16 kHz.
            layers: 1-based, the tap of that block before any final norm; 0 is the input of the first block.

        Returns:
            for each file, for each layer, (T, dim) float32, T = floor((samples - 400) / 320) + 1.

        Raises:
            AudioError: one is shorter than a frame.
        """
        results: list[list[np.ndarray]] = [[] for _ in waveforms]
        whole: dict[int, Tensor] = {}

        def flush() -> None:
            for i, outputs in zip(whole, self.transformer(list(whole.values()), layers), strict=True):
                results[i] = [x.cpu().numpy() for x in outputs]
            whole.clear()

        for i, waveform in enumerate(waveforms):
            frames = n_frames(len(waveform))
            if self.window and frames > self.window:
                parts = self.stream(lambda w=waveform: [w], layers)  # type: ignore[misc]
                results[i] = [np.concatenate(x) for x in zip(*parts, strict=True)]
                continue
            if frames + sum(map(len, whole.values())) > PACKED:
                flush()
            whole[i] = self._features(lambda w=waveform: [w])(0, frames)  # type: ignore[misc]
        flush()
        return results

    @torch.inference_mode()
    def stream(self, blocks: Blocks, layers: Sequence[int]) -> Iterator[list[np.ndarray]]:
        """One file of any length at bounded memory: for each layer (t, dim) float32, piece by piece, T frames together.

        `blocks` is called twice or more: the statistics of the file are measured first. Raises AudioError when the file
        is shorter than a frame, or shorter than it was in an earlier pass.
        """
        features = self._features(blocks)
        for start, stop, first, last in windows(features.total, self.window):
            [outputs] = self.transformer([features(start, stop)], layers)
            yield [x[first - start : last - start].cpu().numpy() for x in outputs]

    def _features(self, blocks: Blocks) -> _Reader:
        """The front end's output, T rows."""
        measured = self.front.measure(blocks)
        frames = n_frames(measured.samples)
        if frames < 1:
            raise AudioError(f"{measured.samples} samples are shorter than one frame ({WINDOW} samples at 16 kHz)")
        samples, starts = _samples(blocks, measured.samples), range(0, frames, STRETCH)
        return _Reader((self.front(samples, i, min(i + STRETCH, frames), measured) for i in starts), frames)


def windows(frames: int, window: int) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop, first, last) of each window: the transformer sees start … stop, of which first … last are kept.

    The kept parts are adjacent; each frame but those near the file's ends has `MARGIN` of a window around it. All
    windows are full.
    """
    margin, kept, start = round(window * MARGIN), 0, 0
    while window and start + window < frames:
        yield start, start + window, kept, start + window - margin
        kept = start + window - margin
        start = kept - margin
    yield (max(0, frames - window) if window else 0), frames, kept, frames


class _Reader:
    """Slices of a sequence that arrives in pieces: `reader(start, stop)`, with starts that never decrease.

    Attributes: total: length of all pieces together.
    """

    def __init__(self, pieces: Iterator[Tensor], total: int) -> None:
        self.pieces, self.total = pieces, total
        self.held, self.at = next(pieces, torch.empty(0)), 0

    def __call__(self, start: int, stop: int) -> Tensor:
        parts = [self.held[start - self.at :]]
        missing = stop - start - len(parts[0])
        while missing > 0:
            if (piece := next(self.pieces, None)) is None:
                raise AudioError("the file changed while it was read; run again when it is complete")
            parts.append(piece)
            missing -= len(piece)
        self.held, self.at = torch.cat(parts) if len(parts) > 1 else parts[0], start
        return self.held[: stop - start]


def _samples(blocks: Blocks, total: int) -> _Reader:
    return _Reader((torch.from_numpy(np.ascontiguousarray(b, np.float32)) for b in blocks()), total)


# --------------------------------------------------------------------------------------------------------- front ends


@dataclass(frozen=True)
class _Measured:
    """Result of the first pass over a file: length, normalisation of the waveform, statistics of the front end.

    The normalised waveform is scale · (x - centre): a large offset is subtracted first, or single precision would lose
    the signal. So that the difference is exact, the centre is a float32, and differs from the mean by `rest`.
    """

    samples: int
    centre: float = 0.0
    rest: float = 0.0
    scale: float = 1.0
    front: tuple[Tensor, ...] = ()


def _level(blocks: Blocks, normalisation: str) -> _Measured:
    """Length and normalisation of a waveform, in float64."""
    samples, total, squares = 0, 0.0, 0.0
    for block in blocks():
        samples += len(block)
        if normalisation != "none":
            x = block.astype(np.float64)
            total, squares = total + float(x.sum()), squares + float(x @ x)
    if normalisation == "none" or not samples:
        return _Measured(samples)
    mean = total / samples
    scale = (max(0.0, squares / samples - mean * mean) + EPSILON[normalisation]) ** -0.5
    return _Measured(samples, centre := float(np.float32(mean)), mean - centre, scale)


class _ConvFront:
    """Seven convolutions as matrix products, channels last: samples → (t, conv_dim)."""

    def __init__(self, model: Hubert, dtype: torch.dtype) -> None:
        self.normalisation, self.dtype = model.config.normalisation, dtype
        layers = cast(Iterable[ConvLayer], cast(ConvFrontEnd, model.feature_extractor).conv_layers)
        # The first stays in float32: ten taps on one channel cost little, and samples have more than bfloat16's eight
        # bits.
        self.first, *self.rest = (_Conv(c, torch.float32 if i == 0 else dtype) for i, c in enumerate(layers))
        self.device = self.first.weight.device

    def measure(self, blocks: Blocks) -> _Measured:
        """Both norms, folded into weight (10, conv_dim) and bias (conv_dim,) of the first convolution."""
        level = _level(blocks, self.normalisation)
        weight = self.first.weight.double() * level.scale
        bias = -level.rest * weight.sum(0) + (0 if self.first.bias is None else self.first.bias.double())
        if self.first.norm == "group":
            mean, covariance = (x.to(self.device) for x in _taps(blocks))
            level = replace(level, centre=float(mean.mean().float()))
            variance = (weight * (covariance @ weight)).sum(0).clamp(min=0)
            gain = self.first.gain.double() / torch.sqrt(variance + 1e-5)
            # The convolution's own bias is part of the mean that the norm subtracts.
            weight, bias = weight * gain, self.first.offset.double() - ((mean - level.centre) @ weight) * gain
        return replace(level, front=(weight.float(), bias.float()))

    def __call__(self, samples: _Reader, start: int, stop: int, measured: _Measured) -> Tensor:
        """Frames start … stop."""
        x = samples(start * HOP, (stop - 1) * HOP + WINDOW).to(self.device) - measured.centre
        frames = range(0, stop - start, TILE)
        return torch.cat([self._tile(x[i * HOP :], min(TILE, stop - start - i), *measured.front) for i in frames])

    def _tile(self, x: Tensor, frames: int, weight: Tensor, bias: Tensor) -> Tensor:
        widths = [frames]
        for conv in reversed(self.rest):
            widths.append(2 * widths[-1] + conv.kernel - 2)
        y = torch.addmm(bias, x.as_strided((widths.pop(), CONV_KERNELS[0]), (CONV_STRIDES[0], 1)), weight)
        y = self.first.activate(y).to(self.dtype)
        for conv in self.rest:
            y = conv(y, widths.pop())
        return y


def _taps(blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Mean (10,) and covariance (10, 10) float64 of the inputs of the first convolution's taps over a file."""
    k, s = CONV_KERNELS[0], CONV_STRIDES[0]
    count, mean, products, rest = 0, torch.zeros(k).double(), torch.zeros(k, k).double(), np.empty(0)
    for block in blocks():
        rest = np.concatenate([rest, block.astype(np.float64)])
        if (n := (len(rest) - k) // s + 1) > 0:
            frames = torch.from_numpy(rest).unfold(0, k, s)
            count, mean, products, rest = count + n, mean + frames.sum(0), products + frames.T @ frames, rest[n * s :]
    mean, products = mean / max(count, 1), products / max(count, 1)
    return mean, products - mean[:, None] * mean


class _Conv:
    """A convolution of stride 2 and kernel 2 or 3, or the first, with norm and GELU, on channels-last frames."""

    def __init__(self, layer: ConvLayer, dtype: torch.dtype) -> None:
        weight = layer.conv.weight.detach().permute(2, 1, 0)  # (taps, in, out)
        self.kernel, self.norm = len(weight), layer.norm
        # Neighbouring frames are adjacent in memory: two taps are one product without a copy, a third is another.
        self.third = weight[2].to(dtype).contiguous() if self.kernel == 3 else None
        self.weight = weight[: 2 if self.third is not None else None].flatten(0, 1).to(dtype).contiguous()
        self.bias = None if layer.conv.bias is None else layer.conv.bias.detach().to(dtype)
        if self.norm != "none":
            self.gain, self.offset = (
                layer.layer_norm.weight.detach().to(dtype),
                layer.layer_norm.bias.detach().to(dtype),
            )

    def __call__(self, x: Tensor, frames: int) -> Tensor:
        """(at least 2 · frames + kernel - 2, in) → (frames, out)."""
        pairs = x[: 2 * frames].view(frames, -1)
        y = torch.mm(pairs, self.weight) if self.bias is None else torch.addmm(self.bias, pairs, self.weight)
        if self.third is not None:
            y.addmm_(x[2::2][:frames], self.third)
        return self.activate(y)

    def activate(self, y: Tensor) -> Tensor:
        """Layer norm, if any (group norm is folded into the weights), and GELU, in place where possible."""
        if self.norm == "layer":
            y = F.layer_norm(y, y.shape[1:], self.gain, self.offset)
        return torch.ops.aten.gelu_(y)


class _MelFront:
    """Two convolutions on the normalised log-mel spectrogram: samples → (t, conv_dim)."""

    def __init__(self, model: Hubert, dtype: torch.dtype) -> None:
        self.config, self.voice, front = model.config, model.voice, cast(MelFrontEnd, model.feature_extractor)
        self.first, self.second = (
            (c.weight.detach().to(dtype), cast(Tensor, c.bias).detach().to(dtype)) for c in (front.conv1, front.conv2)
        )
        self.device = self.first[0].device

    def measure(self, blocks: Blocks) -> _Measured:
        """Mean and deviation (n_mels,) of the spectrogram over the file; before them, with VTLN, the warping matrix."""
        level = _level(blocks, self.config.normalisation)
        samples, frames = _samples(blocks, level.samples), mfcc.n_frames(level.samples)
        if self.voice is not None and frames > 0:
            beginning = self._mel(_samples(blocks, level.samples), 0, min(frames, MEASURED), level)
            level = replace(level, front=(warping(self.voice.warp(beginning)).to(self.device),))
        mean, power = torch.zeros(2, self.config.n_mels, dtype=torch.float64)
        for i in range(0, frames, STRETCH):
            mel = self._mel(samples, i, min(i + STRETCH, frames), level).cpu().double()
            mean, power = mean + mel.sum(0) / frames, power + mel.square().sum(0) / frames
        deviation = torch.sqrt((power - mean.square()).clamp(min=0) + 1e-5)
        return replace(level, front=(*level.front, mean.float().to(self.device), deviation.float().to(self.device)))

    def __call__(self, samples: _Reader, start: int, stop: int, measured: _Measured) -> Tensor:
        """Frames start … stop."""
        total, (*_, mean, deviation) = mfcc.n_frames(measured.samples), measured.front
        # Frame t takes outputs 2t - 1 … 2t + 1 of the first convolution, which take a mel frame more on both sides.
        low, high = 2 * start - 2, 2 * stop + 1
        first, last = max(low, 0), min(high, total)
        mel = (self._mel(samples, first, last, measured) - mean) / deviation
        mel = F.pad(mel.T, (first - low, high - last)).to(self.first[0].dtype)  # zero outside the file
        y = torch.ops.aten.gelu_(F.conv1d(mel[None], *self.first))
        y[..., : max(0, -1 - low)] = 0  # as are the first convolution's outputs
        y[..., total - low - 1 :] = 0
        return torch.ops.aten.gelu_(F.conv1d(y, *self.second, stride=2))[0].T

    def _mel(self, samples: _Reader, start: int, stop: int, level: _Measured) -> Tensor:
        x = samples(start * mfcc.HOP, (stop - 1) * mfcc.HOP + mfcc.WINDOW).to(self.device)
        mel = htk_log_mel((x - level.centre - level.rest) * level.scale, n_mels=self.config.n_mels)
        return mel @ level.front[0] if self.voice is not None and level.front else mel


# -------------------------------------------------------------------------------------------------------- transformer


class _Transformer:
    """Projection, positions and blocks over packed files."""

    def __init__(self, model: Hubert, dtype: torch.dtype, tap: str) -> None:
        self.tap = tap
        # The model itself is not kept: the weights would be held twice.
        self.dtype = dtype
        self.first_norm = None if model.config.pre_ln else cast(nn.LayerNorm, model.encoder.layer_norm)
        self.norm = model.feature_projection.layer_norm
        self.projection = _linear(dtype, model.feature_projection.projection)
        self.positions = _positions(model.encoder.pos_conv_embed)
        blocks = cast(Iterable[Block], model.encoder.layers)
        self.blocks = [_PackedBlock(block, model.config, self.dtype) for block in blocks]

    def __call__(self, features: Sequence[Tensor], layers: Sequence[int]) -> list[list[Tensor]]:
        """For each file (t, conv_dim): for each layer (t, dim) float32. Blocks above the highest layer are not run."""
        if not features:
            return []
        lengths = [len(x) for x in features]
        x = torch.cat(list(features)).float()
        x = F.linear(_norm(x, self.norm).to(self.dtype), *self.projection).float()
        x = x + self.positions(x.split(lengths))
        if self.first_norm is not None:
            x = _norm(x, self.first_norm)
        outputs = {0: x}
        for layer in range(1, max(layers) + 1):
            x, fed = self.blocks[layer - 1](x, lengths)
            if layer in layers:
                outputs[layer] = fed.float() if self.tap == "ffn" else x
        return [list(parts) for parts in zip(*(outputs[layer].split(lengths) for layer in layers), strict=True)]


def _positions(embed: PositionalConv | PositionalStack) -> Callable[[Sequence[Tensor]], Tensor]:
    """Positions of several files: [(t, dim)] float32 → (N, dim)."""
    if isinstance(embed, PositionalConv):
        convolve = _Convolution(embed.conv)
        return lambda files: F.gelu(convolve(files))
    stack = [_Convolution(cast(nn.Conv1d, conv)) for conv in embed.convs]

    def positions(files: Sequence[Tensor]) -> Tensor:
        lengths = [len(x) for x in files]
        for convolve in stack:
            y = convolve(files)
            y = F.gelu(F.layer_norm(y, y.shape[1:]))
            files = y.split(lengths)
        return y

    return positions


class _Convolution:
    """A positional convolution over several files: [(t, dim)] float32 → (N, dim).

    A kernel of 128 frames costs less by FFT, in pieces that overlap by a kernel (overlap-save): six times less on a
    CPU, also than in bfloat16.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        self.kernel, self.groups, self.bias = conv.weight.shape[2], conv.groups, cast(Tensor, conv.bias).detach()
        self.length = max(256, 1 << (2 * self.kernel - 1).bit_length())
        spectrum = torch.fft.rfft(conv.weight.detach().flip(2).double(), self.length).unflatten(0, (self.groups, -1))
        self.weight = spectrum.permute(3, 0, 2, 1).to(torch.complex64).contiguous()  # (frequency, group, in, out)

    def __call__(self, files: Sequence[Tensor]) -> Tensor:
        left, step = self.kernel // 2, self.length - self.kernel + 1
        pieces = []
        for x in files:
            right = -len(x) % step + self.kernel - 1 - left
            pieces.append(F.pad(x.T, (left, right)).unfold(1, self.length, step))  # (dim, pieces, length)
        x = torch.fft.rfft(torch.cat(pieces, dim=1)).unflatten(0, (self.groups, -1)).permute(3, 0, 2, 1)
        y = torch.fft.irfft((x @ self.weight).permute(1, 3, 2, 0).flatten(0, 1), self.length)[..., self.kernel - 1 :]
        parts = y.split([p.shape[1] for p in pieces], dim=1)
        return (
            torch.cat([part.flatten(1)[:, : len(x)] for part, x in zip(parts, files, strict=True)], dim=1).T + self.bias
        )


class _PackedBlock:
    """A block: (N, dim) float32 → (N, dim) float32, products in `dtype`.

    And the output of its feed-forward network, before the residual: (N, dim) in `dtype`.
    """

    def __init__(self, block: Block, config: HubertConfig, dtype: torch.dtype) -> None:
        self.pre_ln, self.heads, self.dtype, attention = config.pre_ln, config.heads, dtype, block.attention
        self.qkv = _linear(dtype, attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = _linear(dtype, attention.out_proj)
        self.inner = _linear(dtype, block.feed_forward.intermediate_dense)
        self.outer = _linear(dtype, block.feed_forward.output_dense)
        self.norm1, self.norm2 = block.layer_norm, block.final_layer_norm

    def __call__(self, x: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        if self.pre_ln:
            x = x + self._attend(_norm(x, self.norm1), lengths)
            fed = self._feed(_norm(x, self.norm2))
            return x + fed, fed
        x = _norm(x + self._attend(x, lengths), self.norm1)
        fed = self._feed(x)
        return _norm(x + fed, self.norm2), fed

    def _attend(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        qkv = F.linear(x.to(self.dtype), *self.qkv).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        heads = [
            F.scaled_dot_product_attention(*part[:, None]).squeeze(0).transpose(0, 1)
            for part in qkv.split(lengths, dim=2)
        ]
        return F.linear(torch.cat(heads).flatten(1), *self.out)

    def _feed(self, x: Tensor) -> Tensor:
        return F.linear(torch.ops.aten.gelu_(F.linear(x.to(self.dtype), *self.inner)), *self.outer)


def _linear(dtype: torch.dtype, *layers: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of one linear layer, or of several with the same input as one."""
    weights, biases = [layer.weight.detach() for layer in layers], [layer.bias.detach() for layer in layers]
    if len(layers) == 1:
        return weights[0].to(dtype), biases[0].to(dtype)
    return torch.cat(weights).to(dtype), torch.cat(biases).to(dtype)


def _norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, x.shape[1:], norm.weight, norm.bias, norm.eps)
