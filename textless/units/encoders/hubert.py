"""HuBERT: two front ends, one transformer.

`HubertConfig(front_end="conv")` is the published model (Hsu et al. 2021, arXiv:2106.07447): seven convolutions on the
waveform. `front_end="logmel"` replaces them by two convolutions on the log-mel spectrogram, as MelHuBERT does (Lin et
al. 2022, arXiv:2211.09944), which is many times cheaper on a CPU. Both give T = floor((samples - 400) / 320) + 1
frames, 50 a second.

Parameters have the names of transformers' HubertModel, so that its state dict loads as it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from textless.audio.mel import htk_log_mel, normalise
from textless.audio.mfcc import SAMPLE_RATE
from textless.checks import Between, Count, OneOf, Size, check_fields
from textless.errors import ModelError
from textless.training.loop import Dropout
from textless.units.mfcc_lda import vtln

CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)

# Normalisations of the waveform over its file, (x - mean) / sqrt(variance + epsilon): fairseq's layer norm,
# transformers' processor.
EPSILON = {"layer_norm_1e-5": 1e-5, "zscore_1e-7": 1e-7}


@dataclass(frozen=True)
class HubertConfig:
    """Architecture of an encoder.

    Attributes:
        front_end: `conv` (waveform) or `logmel`.
        conv_dim: channels of the front end.
        conv_bias, conv_norm: of the waveform front end: bias, and `group` (base) or `layer` (large) normalisation.
        n_mels: of the log-mel front end.
        voice_clusters, voice_dim: size of the VTLN model that warps the spectrogram of each file (`vtln.Voice`); 0: no
            VTLN.
        dim, layers, heads, ffn_dim: of the transformer.
        pre_ln: layer norm before (large) or after (base) each sublayer.
        pos_conv_kernel, pos_conv_groups: the convolution that gives positions.
        pos_conv_depth: 0 is one convolution with weight norm, as published. Else so many without, each followed by a
            layer norm that has no parameters, and GELU, as in SpidR and DinoSR.
        normalisation: of the waveform over its file: `none`, `layer_norm_1e-5` or `zscore_1e-7`.
        sample_rate: Hz.

    Raises ModelError that names a field whose value has another type or is out of range.
    """

    front_end: Annotated[str, OneOf("conv", "logmel")] = "conv"
    conv_dim: Size = 512
    conv_bias: bool = False
    conv_norm: Annotated[str, OneOf("group", "layer")] = "group"
    n_mels: Size = 80
    voice_clusters: Annotated[int, Between(0, 2**24)] = 0
    voice_dim: Size = 40
    dim: Size = 768
    layers: Count = 12
    heads: Count = 12
    ffn_dim: Size = 3072
    pre_ln: bool = False
    pos_conv_kernel: Size = 128
    pos_conv_groups: Count = 16
    pos_conv_depth: Annotated[int, Between(0, 64)] = 0
    normalisation: Annotated[str, OneOf("none", *EPSILON)] = "none"
    sample_rate: Annotated[int, OneOf(SAMPLE_RATE)] = SAMPLE_RATE

    def __post_init__(self) -> None:
        check_fields(self)
        for field in ("heads", "pos_conv_groups"):
            if self.dim % getattr(self, field):
                raise ModelError(f"{field} is {getattr(self, field)}, which does not divide dim ({self.dim})")
        if self.voice_clusters and (self.front_end, self.n_mels) != ("logmel", vtln.N_MELS):
            raise ModelError(
                f"a voice warps spectrograms of {vtln.N_MELS} mels, not what the front end {self.front_end} takes"
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields but a `pos_conv_depth` of 0, which folders do not have that were written before there was one."""
        return {k: v for k, v in asdict(self).items() if (k, v) != ("pos_conv_depth", 0)}


PRESETS = {
    "nano": HubertConfig(
        front_end="logmel",
        n_mels=40,
        conv_dim=64,
        dim=64,
        layers=2,
        heads=2,
        ffn_dim=128,
        pre_ln=True,
        pos_conv_kernel=16,
        pos_conv_groups=4,
    ),
    "tiny": HubertConfig(
        front_end="logmel",
        conv_dim=256,
        dim=256,
        layers=4,
        heads=4,
        ffn_dim=1024,
        pre_ln=True,
        pos_conv_kernel=32,
        pos_conv_groups=16,
    ),
    "small": HubertConfig(
        front_end="logmel",
        dim=512,
        layers=8,
        heads=8,
        ffn_dim=2048,
        pre_ln=True,
        pos_conv_kernel=64,
        pos_conv_groups=16,
    ),
    "base": HubertConfig(),
    "large": HubertConfig(
        conv_bias=True,
        conv_norm="layer",
        dim=1024,
        layers=24,
        heads=16,
        ffn_dim=4096,
        pre_ln=True,
        normalisation="layer_norm_1e-5",
    ),
    "xlarge": HubertConfig(
        conv_bias=True,
        conv_norm="layer",
        dim=1280,
        layers=48,
        heads=16,
        ffn_dim=5120,
        pre_ln=True,
        normalisation="layer_norm_1e-5",
    ),
}


# (heads, pos_conv_groups) by dim, which weights do not show, in published models: the presets, and XLS-R 2B.
CONVENTION = {config.dim: (config.heads, config.pos_conv_groups) for config in PRESETS.values()} | {1920: (16, 16)}


def unshown(config: HubertConfig) -> dict[str, int]:
    """The settings that change the output, do not show in the weights, and differ from `CONVENTION`.

    Activation and epsilons belong to the architecture. All else shows in names and shapes.
    """
    usual = CONVENTION.get(config.dim, (max(1, config.dim // 64), 16))
    fields = {"heads": config.heads, "pos_conv_groups": config.pos_conv_groups}
    return {name: value for (name, value), known in zip(fields.items(), usual, strict=True) if value != known}


class Hubert(nn.Module):
    """The encoder as it is trained. `Extractor` computes the same for files of any length, faster."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor: ConvFrontEnd | MelFrontEnd = (
            ConvFrontEnd(config) if config.front_end == "conv" else MelFrontEnd(config)
        )
        self.feature_projection = FeatureProjection(config)
        self.encoder = TransformerEncoder(config)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.dim).uniform_())
        self.voice: vtln.Voice | None = None
        if config.voice_clusters:
            self.voice = vtln.Voice(
                torch.zeros(vtln.DIM, config.voice_dim), torch.zeros(config.voice_clusters, config.voice_dim)
            )

    def prepare(self, waveform: Tensor) -> Tensor:
        """Input of the front end: (samples,) → (samples,), or (T', n_mels) for log-mel, normalised over the file."""
        if self.config.normalisation != "none":
            waveform = F.layer_norm(waveform, waveform.shape, eps=EPSILON[self.config.normalisation])
        if self.config.front_end == "conv":
            return waveform
        mel = htk_log_mel(waveform, n_mels=self.config.n_mels)
        return normalise(mel if self.voice is None else self.voice(mel))

    def forward(
        self,
        inputs: Tensor,
        *,
        mask: Tensor | None = None,
        padding: Tensor | None = None,
        layers: int | None = None,
        skip: Collection[int] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """Run a batch.

        Args:
            inputs: (B, samples) or (B, T', n_mels), each row from `prepare`.
            mask: (B, T) bool; these frames are replaced by the mask embedding.
            padding: (B, T) bool; these frames are padding, and masked in attention.
            layers: stop after this block.
            skip: blocks, from 0, that are replaced by the identity (layer drop).

        Returns:
            (B, T, dim) after the last norm (if no block was removed), and [(B, T, dim)] the output of each block run.
        """
        x = self.feature_projection(self.feature_extractor(inputs, padding))
        if mask is not None:
            x = torch.where(mask[..., None], self.masked_spec_embed.to(x.dtype), x)
        return self.encoder(x, padding=padding, layers=layers, skip=skip)

    def truncate(self, layer: int) -> Hubert:
        """Remove the blocks above `layer` and the norm after them, in place."""
        del self.encoder.layers[layer:]
        if self.config.pre_ln:
            self.encoder.layer_norm = nn.Identity()
        return self

    def fold_weight_norm(self) -> Hubert:
        """Replace the positional convolution's weight norm by its weight, in place, for inference."""
        if isinstance(self.encoder.pos_conv_embed, PositionalStack):
            return self
        conv = self.encoder.pos_conv_embed.conv
        if parametrize.is_parametrized(conv):
            weight, bias = fold(*conv.parametrizations.weight.parameters()), conv.bias
            conv.to("meta")  # or torch would compute the weight once more
            parametrize.remove_parametrizations(conv, "weight")
            conv.weight, conv.bias = nn.Parameter(weight), bias
        return self


def fold(gain: Tensor, direction: Tensor) -> Tensor:
    """The weight of weight norm over the last axis: (1, 1, kernel), (out, in, kernel) → (out, in, kernel) float32.

    The weight becomes part of an encoder's identity, so it must come out the same everywhere: torch's own reduction
    differs in the last bit with the number of threads, an exactly rounded sum with elementwise arithmetic after it does
    not.
    """
    g, v = (x.detach().cpu().numpy() for x in (gain, direction))
    rows, folded = v.reshape(-1, v.shape[-1]), np.empty(v.shape, np.float32)
    scale = g.reshape(-1).astype(np.float64) / np.sqrt(sums_of_squares(rows))
    for i in range(0, len(rows), PART):
        folded.reshape(rows.shape)[i : i + PART] = rows[i : i + PART].astype(np.float64) * scale
    return torch.from_numpy(folded).to(gain.device)


PART = 256  # rows that are computed at once: what fits the cache


def sums_of_squares(x: np.ndarray) -> np.ndarray:
    """The exactly rounded sum of each column's squares, as `math.fsum` gives it: (n, k) float32 → (k,) float64.

    Squares of float32 are exact in float64. Of each square of a part the leading bits, on one grid for all, are split
    off by adding and subtracting a power of two that is larger than the part's sum, so that they add up without
    rounding; then those of what is left, until nothing is (Rump, Ogita and Oishi 2008, "Accurate floating-point
    summation part I", `ExtractVector`).
    """
    sums = [np.zeros(x.shape[1])]
    for start in range(0, len(x), PART):
        rest = np.square(x[start : start + PART].astype(np.float64))
        largest = float(rest.max())
        while 0 < largest < math.inf:
            grid = math.ldexp(1, math.frexp(largest)[1] + PART.bit_length())
            leading = (rest + grid) - grid
            sums.append(leading.sum(0))
            rest -= leading
            largest = float(np.abs(rest).max())
        sums.append(rest.sum(0))  # zero, or what is not finite
    return np.array([math.fsum(column) for column in np.array(sums).T.tolist()])


class ConvFrontEnd(nn.Module):
    """Seven convolutions on the waveform: (B, samples) → (B, T, conv_dim).

    Hsu et al. 2021, section III-C, after wav2vec 2.0.
    """

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        norms = ["group" if i == 0 else "none" for i in range(7)] if config.conv_norm == "group" else ["layer"] * 7
        self.conv_layers = nn.ModuleList(
            ConvLayer(1 if i == 0 else config.conv_dim, config.conv_dim, k, s, bias=config.conv_bias, norm=norm)
            for i, (k, s, norm) in enumerate(zip(CONV_KERNELS, CONV_STRIDES, norms, strict=True))
        )

    def forward(self, waveform: Tensor, padding: Tensor | None = None) -> Tensor:
        x = waveform[:, None]  # no frame outside the padding sees a padded sample
        for layer in self.conv_layers:
            x = layer(x)
        return x.transpose(1, 2)


class ConvLayer(nn.Module):
    """Convolution, norm (over time per channel, over channels per frame, or none), GELU."""

    def __init__(self, channels: int, dim: int, kernel: int, stride: int, *, bias: bool, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, dim, kernel, stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm = norm
        if norm == "group":
            self.layer_norm: nn.GroupNorm | nn.LayerNorm = nn.GroupNorm(dim, dim)
        elif norm == "layer":
            self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm == "group":
            x = self.layer_norm(x)
        elif self.norm == "layer":
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


class MelFrontEnd(nn.Module):
    """Two convolutions on normalised log-mel frames at 100 Hz: (B, T', n_mels) → (B, T, conv_dim) at 50 Hz.

    The second has kernel 3, stride 2 and a frame of padding: T' is 2 T - 1 or 2 T, and both give T, the count of the
    waveform front end.
    """

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.n_mels, config.conv_dim, 3, padding=1)
        self.conv2 = nn.Conv1d(config.conv_dim, config.conv_dim, 3, stride=2, padding=1)

    def forward(self, mel: Tensor, padding: Tensor | None = None) -> Tensor:
        x = F.gelu(self.conv1(mel.transpose(1, 2)))
        if padding is not None:
            # T frames come from 2 T - 1 mel frames; those after them must be zero, as after the end of a file.
            outside = padding.repeat_interleave(2, dim=1)[:, 1 : x.shape[-1] + 1]
            x = x.masked_fill(F.pad(outside, (0, x.shape[-1] - outside.shape[1]), value=True)[:, None], 0)
        return F.gelu(self.conv2(x)).transpose(1, 2)


class FeatureProjection(nn.Module):
    """Layer norm and projection: (B, T, conv_dim) → (B, T, dim)."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim)
        self.projection = nn.Linear(config.conv_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.layer_norm(x))


class TransformerEncoder(nn.Module):
    """Positional convolution and transformer blocks: (B, T, dim) → (B, T, dim)."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.pre_ln = config.pre_ln
        self.pos_conv_embed: PositionalConv | PositionalStack = (
            PositionalStack(config) if config.pos_conv_depth else PositionalConv(config)
        )
        self.layer_norm: nn.Module = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))

    def embed(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        x = x + self.pos_conv_embed(x, padding)
        return x if self.pre_ln else self.layer_norm(x)

    def forward(
        self, x: Tensor, *, padding: Tensor | None = None, layers: int | None = None, skip: Collection[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        attend = None
        if padding is not None:
            x = x.masked_fill(padding[..., None], 0)
            attend = ~padding[:, None, None, :]
        x = self.embed(x, padding)
        outputs = []
        for i, block in enumerate(self.layers[:layers]):
            x = x if i in skip else block(x, attend)
            outputs.append(x)
        return (self.layer_norm(x) if self.pre_ln else x), outputs


class PositionalConv(nn.Module):
    """Grouped convolution over time, weight-normalised over the kernel axis, with GELU, in place of a table."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        kernel = config.pos_conv_kernel
        conv = nn.Conv1d(config.dim, config.dim, kernel, padding=kernel // 2, groups=config.pos_conv_groups)
        nn.init.normal_(conv.weight, std=(4 / (kernel * config.dim)) ** 0.5)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, dim=2)
        self.surplus = 1 if kernel % 2 == 0 else 0

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        y = self.conv(x.transpose(1, 2))  # of the input, which is zero where padding is
        return F.gelu(y[..., : y.shape[-1] - self.surplus]).transpose(1, 2)


class PositionalStack(nn.Module):
    """Several grouped convolutions over time, each with a layer norm without parameters and GELU.

    Of data2vec, DinoSR and SpidR (`ConvPositionalEmbedding` in facebookresearch/spidr, src/spidr/models/components.py).
    """

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        dim, kernel, groups = config.dim, config.pos_conv_kernel, config.pos_conv_groups
        self.convs = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups) for _ in range(config.pos_conv_depth)
        )

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        for conv in self.convs:
            y = conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
            x = F.gelu(F.layer_norm(y, y.shape[-1:]))
            if padding is not None:  # what is outside the file is zero for the next convolution too
                x = x.masked_fill(padding.unsqueeze(-1), 0)
        return x


class Block(nn.Module):
    """Self-attention and feed-forward, with layer norms before or after. (B, T, dim) → (B, T, dim)."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.pre_ln = config.pre_ln
        self.attention = Attention(config.dim, config.heads)
        self.layer_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, config.ffn_dim)
        self.final_layer_norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(0.0)  # of each sublayer's output; pre-training sets the rate

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        if self.pre_ln:
            x = x + self.dropout(self.attention(self.layer_norm(x), attend))
            return x + self.dropout(self.feed_forward(self.final_layer_norm(x)))
        x = self.layer_norm(x + self.dropout(self.attention(x, attend)))
        return self.final_layer_norm(x + self.dropout(self.feed_forward(x)))


class Attention(nn.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))
        for proj in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.normal_(proj.weight, std=0.02)
            nn.init.zeros_(proj.bias)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        b, t, d = x.shape
        # One product instead of three, laid out for the heads in one copy.
        projections = (self.q_proj, self.k_proj, self.v_proj)
        weight, bias = torch.cat([p.weight for p in projections]), torch.cat([p.bias for p in projections])
        q, k, v = F.linear(x, weight, bias).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        if x.is_cuda:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        else:
            # For crops of a few seconds torch's own attention takes three times as long on a CPU, most of it in the
            # backward pass.
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            if attend is not None:
                scores = scores.masked_fill(~attend, float("-inf"))
            with torch.autocast("cpu", enabled=False):
                y = scores.softmax(-1) @ v
        return self.out_proj(y.transpose(1, 2).reshape(b, t, d))


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(dim, ffn_dim)
        self.output_dense = nn.Linear(ffn_dim, dim)
        for layer in (self.intermediate_dense, self.output_dense):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_dense(F.gelu(self.intermediate_dense(x)))
