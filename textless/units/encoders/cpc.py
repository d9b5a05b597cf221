"""CPC as GSLM reads it: five convolutions, then an LSTM, 100 frames a second.

The model is that of Rivière et al. 2020 (CPC_audio), the reader GSLM's (fairseq
`examples/textless_nlp/gslm/speech2unit/pretrained/cpc_feature_reader.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.audio.mfcc import SAMPLE_RATE
from textless.audio.waveform import as_blocks, as_waveform
from textless.checks import Count, Size, check
from textless.devices import dtype_of
from textless.errors import AudioError, ModelError, check_known
from textless.model_io import check_blocks, check_shapes, finite, tensors_of
from textless.pickles import load_torch, plain
from textless.types import Blocks, UnitContract
from textless.units.encoders.base import Encoder, encoder_digest

KERNELS, STRIDES, PADDINGS = (10, 8, 4, 4, 4), (5, 4, 2, 2, 2), (3, 2, 1, 1, 1)
HOP = 160  # samples
SHORTEST = HOP - 1  # samples of one frame; the padding makes up for the rest of its receptive field
PIECE = 64_000  # samples whose convolutions are computed at once, to bound memory
NORMALISATIONS = ("none", "frames_1e-8")
FRAMES_EPSILON = 1e-8


def load_cpc(
    path: Path,
    layer: int | None = None,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    window: float | None = None,
    normalisation: str | None = None,
) -> CpcEncoder:
    """A CPC from its checkpoint, `{"weights", "config"}`; what else is in it, such as heads, is left out.

    Args:
        layer: of the LSTM, 1-based; None is the last.
        precision, window, normalisation: see `CpcEncoder`.

    Raises:
        ModelError: no such layer, another architecture (GRU, other norms), weights that do not fit or are not finite.
    """
    content = check(load_torch(path), dict, f"{path}: the checkpoint")
    config = check(plain(content.get("config")), dict, f"{path}: config")
    state = check(content.get("weights"), dict, f"{path}: weights")
    if config.get("cpc_mode") not in (None, "none"):
        raise ModelError(f"{path}: cpc_mode is {config['cpc_mode']!r}; only a CPC that reads forwards can be run")
    channels = check(config.get("hiddenEncoder"), Size, f"{path}: hiddenEncoder")
    dim = check(config.get("hiddenGar"), Size, f"{path}: hiddenGar")
    layers = check(config.get("nLevelsGRU"), Count, f"{path}: nLevelsGRU")
    weights = {n: t for n, t in tensors_of(state).items() if n.startswith(("gEncoder.", "gAR."))}
    levels = [re.sub(r"^gAR\.baseNet\.weight_hh_l(\d+)$", r"level.\1.", n) for n in weights]
    check_blocks(path, "nLevelsGRU", layers, levels, "level.")
    layer = layers if layer is None else layer
    if not 1 <= layer <= layers:
        raise ModelError(f"{path}: layer {layer} does not exist: the encoder has layers 1 to {layers}")
    with torch.device("meta"):
        expected = {n: torch.empty(shape) for n, shape in _shapes(channels, dim, layer).items()}
    above = {n for n in weights if (m := re.match(r"gAR\.baseNet\..*_l(\d+)$", n)) and layer <= int(m[1]) < layers}
    check_shapes(path, expected, {n: t.shape for n, t in weights.items() if n not in above})
    read = finite(path, weights.__getitem__)
    used = {name: read(name).float().clone() for name in expected}
    return CpcEncoder(
        used, layer, device=device, precision=precision, window=window or 0.0, normalisation=normalisation or "none"
    )


def _shapes(channels: int, dim: int, layer: int) -> dict[str, tuple[int, ...]]:
    """The parameters up to a layer, by their names in CPC_audio."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, kernel in enumerate(KERNELS):
        shapes[f"gEncoder.conv{i}.weight"] = (channels, channels if i else 1, kernel)
        shapes[f"gEncoder.conv{i}.bias"] = (channels,)
        shapes |= dict.fromkeys((f"gEncoder.batchNorm{i}.weight", f"gEncoder.batchNorm{i}.bias"), (1, channels, 1))
    for k in range(layer):
        shapes[f"gAR.baseNet.weight_ih_l{k}"] = (4 * dim, dim if k else channels)
        shapes[f"gAR.baseNet.weight_hh_l{k}"] = (4 * dim, dim)
        shapes |= dict.fromkeys((f"gAR.baseNet.bias_ih_l{k}", f"gAR.baseNet.bias_hh_l{k}"), (4 * dim,))
    return shapes


class CpcEncoder(Encoder):
    """A CPC up to one layer of its LSTM; frame t ends the 10 ms from sample 160 t on.

    Args:
        state: parameters by their names in CPC_audio, float32, of this layer and those below.
        precision: `bf16` computes the products of the convolutions but the first in bfloat16; the LSTM stays in
            float32, since its state passes through every frame.
        window: seconds. 0: the LSTM reads the file from start to end. Else, as GSLM's reader does with 4.0 (64 000
            samples): each whole chunk of this length is encoded alone, and its state is thrown away; what is left
            after the last whole chunk is encoded with the state of the whole file before it.
        normalisation: `none`; `frames_1e-8`: each dimension of the frames has zero mean and unit variance over the
            file, or over the chunk, which is GSLM's `norm_features`.

    Two faults of GSLM's reader are not repeated: after a rest shorter than a frame it appends all frames of the file
    once more, and where one sample is missing to a whole number of frames it may repeat the last frame of a chunk.

    Raises ModelError for another window or normalisation.
    """

    sample_rate, frame_rate = SAMPLE_RATE, SAMPLE_RATE / HOP

    def __init__(
        self,
        state: dict[str, Tensor],
        layer: int,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        window: float = 0.0,
        normalisation: str = "none",
    ) -> None:
        check_known("normalisation", normalisation, NORMALISATIONS, ModelError)
        self.chunk = round(window * SAMPLE_RATE)
        if self.chunk % HOP or (window and not self.chunk):
            raise ModelError(f"window is {window:g} s, but the chunks of a CPC are multiples of 0.01 s; GSLM's are 4 s")
        self.layer, self.precision, self.is_normalised = layer, precision, normalisation != "none"
        self.convolutions = [
            _Convolution(state, i, torch.float32 if i == 0 else dtype_of(precision), device)
            for i in range(len(KERNELS))
        ]
        self.lstms = [_lstm(state, k).to(device) for k in range(layer)]
        self.dim, self.device = self.lstms[-1].hidden_size, device
        self.contract = UnitContract(
            encoder=encoder_digest("cpc", {name: tensor.numpy() for name, tensor in state.items()}),
            layer=layer,
            window=self.chunk / SAMPLE_RATE,
            normalisation=normalisation,
            sample_rate=self.sample_rate,
            frame_rate=self.frame_rate,
        )

    def n_frames(self, samples: int) -> int:
        """T = floor((samples + 1) / 160)."""
        return (samples + 1) // HOP

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        return self.encode_layers(waveform, [self.layer])[self.layer]

    def encode_layers(self, waveform: np.ndarray, layers: Sequence[int]) -> dict[int, np.ndarray]:
        """Several layers in one pass: {layer: (T, D) float32}.

        Raises ModelError for a layer above the encoder's own.
        """
        if wrong := [n for n in layers if not 1 <= n <= self.layer]:
            raise ModelError(f"layer {wrong[0]} does not exist: the encoder was loaded with layers 1 to {self.layer}")
        waveform = as_waveform(waveform)
        pieces = list(self._stream(lambda: [waveform], layers))
        return {n: torch.cat(frames).cpu().numpy() for n, frames in zip(layers, zip(*pieces, strict=True), strict=True)}

    def stream(self, blocks: Blocks) -> Iterator[np.ndarray]:
        """With a window or a normalisation, `blocks` is called twice."""
        for [frames] in self._stream(as_blocks(blocks), [self.layer]):
            yield frames.cpu().numpy()

    @torch.inference_mode()
    def _stream(self, blocks: Blocks, layers: Sequence[int]) -> Iterator[list[Tensor]]:
        """For each layer (t, D), piece by piece. Raises AudioError when the file is shorter than a frame."""
        samples = 0
        for chunk in _cut(blocks(), self.chunk) if self.chunk else ():
            samples += len(chunk)
            if len(chunk) == self.chunk:
                yield from self._normalised(lambda chunk=chunk: self._whole(lambda: [chunk], layers))  # type: ignore[misc]
        done = samples // self.chunk * (self.chunk // HOP) if self.chunk else 0
        if done and done == self.n_frames(samples):
            return
        at = 0
        for frames in self._normalised(lambda: self._whole(blocks, layers)):
            if (at := at + len(frames[0])) > done:
                yield [x[-(at - done) :] for x in frames]

    def _normalised(self, make: Callable[[], Iterator[list[Tensor]]]) -> Iterator[list[Tensor]]:
        """The pieces, normalised over all of them where this is asked for; the variance is the unbiased one."""
        if not self.is_normalised:
            yield from make()
            return
        count, mean, squares = 0, torch.zeros(()), torch.zeros(())  # Chan et al. 1979: stable over many pieces
        for piece in make():
            x = torch.stack(piece).double()  # (layers, t, D)
            n, own = x.shape[1], x.mean(1, keepdim=True)
            change, count = own - mean.to(x), count + n
            mean = mean.to(x) + change * (n / count)
            squares = squares.to(x) + (x - own).square().sum(1, keepdim=True) + change**2 * (n * (count - n) / count)
        deviation = torch.sqrt(squares / max(count - 1, 1) + FRAMES_EPSILON)
        for piece in make():
            yield list(((torch.stack(piece).double() - mean) / deviation).float())

    def _whole(self, blocks: Blocks, layers: Sequence[int]) -> Iterator[list[Tensor]]:
        """The frames of a file, or of a chunk, from a state of zeros; convolutions and LSTM continue at each piece."""
        held: list[Tensor | None] = [None] * len(self.convolutions)
        states: list[tuple[Tensor, Tensor] | None] = [None] * self.layer
        samples = frames = 0
        for piece in (*_cut(blocks(), PIECE), np.empty(0, np.float32)):
            x = torch.from_numpy(piece).to(self.device)[None, None]
            for i, convolution in enumerate(self.convolutions):
                x, held[i] = convolution(x, held[i], is_last=not len(piece))
            samples, frames, outputs = samples + len(piece), frames + x.shape[-1], {}
            if not x.shape[-1]:
                continue
            x = x[0].T
            for k, lstm in enumerate(self.lstms):
                x, states[k] = lstm(x, states[k])
                outputs[k + 1] = x
            yield [outputs[n] for n in layers]
        if not frames:
            raise AudioError(f"{samples} samples are shorter than one frame ({SHORTEST} samples at 16 kHz)")


class _Convolution:
    """A convolution, the norm over its channels (CPC_audio's ChannelNorm), and a ReLU."""

    def __init__(self, state: dict[str, Tensor], i: int, dtype: torch.dtype, device: str) -> None:
        self.kernel, self.stride, self.padding = KERNELS[i], STRIDES[i], PADDINGS[i]
        self.weight, self.bias = (state[f"gEncoder.conv{i}.{p}"].to(device, dtype) for p in ("weight", "bias"))
        self.gain, self.offset = (state[f"gEncoder.batchNorm{i}.{p}"].to(device) for p in ("weight", "bias"))

    def __call__(self, x: Tensor, held: Tensor | None, *, is_last: bool) -> tuple[Tensor, Tensor]:
        """The next samples of a file (1, in, n) → the next frames (1, out, t), and what the frames after them need.

        Zeros are put before the first samples and after the last.
        """
        x = F.pad(x, (self.padding if held is None else 0, self.padding if is_last else 0))
        x = x if held is None else torch.cat([held, x], -1)
        frames = max(0, (x.shape[-1] - self.kernel) // self.stride + 1)
        held = x[..., frames * self.stride :].clone()
        if not frames:
            return x.new_empty(1, len(self.bias), 0), held
        y = F.conv1d(x.to(self.weight.dtype), self.weight, self.bias, self.stride).float()
        variance, mean = torch.var_mean(y, 1, keepdim=True)  # unbiased, unlike a layer norm's
        return F.relu((y - mean) * torch.rsqrt(variance + 1e-5) * self.gain + self.offset), held


def _lstm(state: dict[str, Tensor], level: int) -> nn.LSTM:
    """One layer of the LSTM, so that the output of each can be had."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    own = {f"{name}_l0": state[f"gAR.baseNet.{name}_l{level}"] for name in names}
    with torch.device("meta"):
        lstm = nn.LSTM(own["weight_ih_l0"].shape[1], own["weight_hh_l0"].shape[1])
    lstm.load_state_dict(own, assign=True)
    return lstm.requires_grad_(False)


def _cut(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples in pieces of `size`, of which the last may be shorter; none is empty."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        while count + len(block) >= size:
            yield np.concatenate([*held, block[: size - count]])
            block, held, count = block[size - count :], [], 0
        held, count = [*held, block], count + len(block)
    if count:
        yield np.concatenate(held)
