"""Inference with a KV cache: the prefill of a prompt, and then decode steps of one token a row.

It computes what a model's `forward` computes, in few and cheap operations. A step of a small model costs mostly the
calls of its kernels; a step of a large one is bound by memory bandwidth, of which int8 weights take a quarter.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.errors import ModelError, check_known
from textless.lm.cache import KVCache

Positions = slice | Tensor  # of the tokens: the same for every row, or (B, T) int64
Map = Callable[[Tensor], Tensor]  # (N, in) → (N, out) float32


class Linear:
    """A linear layer in float32."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) → (N, out) float32."""
        if x.shape[0] > 1:
            return F.linear(x, self.weight, self.bias)
        return (torch.mv(self.weight, x[0]) if self.bias is None else torch.addmv(self.bias, self.weight, x[0]))[None]


class Int8Linear:
    """A linear layer in W8A8: integers from -127 to 127, with a scale for each output of the weights and each row.

    This is the vector-wise quantisation of LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339, section 2.1) without its
    outliers. Sums of integers are exact: up to the last bits, a row does not depend on the other rows of the batch.
    Over several layers a last bit may change an integer.
    """

    def __init__(self, layer: nn.Linear) -> None:
        weight = layer.weight.detach().float()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
        integers = (weight / self.scale[:, None]).round().to(torch.int8)
        self.packed = pack(integers, self.scale)
        if self.packed is None:  # (in, out), in the order that the kernel reads fastest
            self.weight = (integers if weight.is_cuda or int_mm_is_exact() else integers.float()).T

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) → (N, out) float32."""
        if self.packed is not None and x.shape[0] == 1:
            y = packed_linear(x, max(float(x.abs().max()), 1e-12) / 127, 128, self.packed)
            return y if self.bias is None else y + self.bias
        scale = (x.abs().amax(1, keepdim=True) / 127).clamp_(min=1e-12)
        x = x * scale.reciprocal()
        y = packed_linear(x, 1.0, 128, self.packed) if self.packed is not None else self._product(x)
        return y.mul_(scale) if self.bias is None else torch.addcmul(self.bias, y, scale)

    def _product(self, x: Tensor) -> Tensor:
        if self.weight.dtype == torch.float32:
            return (x.round() @ self.weight) * self.scale
        integers = x.round().to(torch.int8)
        if x.is_cuda and len(x) <= 16:  # the CUDA kernel takes more than 16 rows
            integers = F.pad(integers, (0, 0, 0, 17 - len(x)))
        return torch._int_mm(integers, self.weight)[: len(x)] * self.scale


@functools.cache
def int_mm_is_exact() -> bool:
    """Whether torch's product of integers on the CPU is exact.

    Without VNNI instructions oneDNN adds pairs of products in 16 bits, and clips them. Then the integers are held as
    floats: a product of two is below 2^14, and a sum exact below 2^24.
    """
    most = torch.full((64, 64), 127, dtype=torch.int8)
    return all(bool((torch._int_mm(most[:rows], most.T) == 64 * 127**2).all()) for rows in (1, 64))


# FBGEMM's product: it quantises x itself, and is twice as fast for a single row. Its packed weights are a kind of
# tensor that torch deprecates; where the operator is missing, `_int_mm` gives the same sums.
packed_linear: Any = getattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32", None)


def pack(weight: Tensor, scale: Tensor) -> Any:
    """Integers (out, in) and scales (out,) as `packed_linear` takes them; None where it is missing or not exact."""
    # Without VNNI instructions FBGEMM adds pairs of products in 16 bits, and clips them.
    exact = weight.device.type == "cpu" and torch.cpu._is_vnni_supported()
    if not exact or packed_linear is None or torch.backends.quantized.engine not in ("x86", "fbgemm"):
        return None
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    with warnings.catch_warnings(action="ignore"):  # that such tensors are deprecated
        return torch.ops.quantized.linear_prepack(
            torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0), None
        )


LINEAR: dict[str, Callable[[nn.Linear], Map]] = {"fp32": Linear, "int8": Int8Linear}


def check_precision(precision: str) -> str:
    """`precision`. Raises ModelError for one that is not in `LINEAR`."""
    check_known("precision", precision, LINEAR, ModelError)
    return precision


class FastRMSNorm:
    """RMSNorm of (N, dim), written out, since torch's has no fused kernel on CPUs."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.inverse_dim = weight.detach(), 1 / len(weight)
        self.eps = torch.full((1, 1), eps, device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return (x * torch.addcmul(self.eps, length, length, value=self.inverse_dim).rsqrt_()).mul_(self.weight)


@dataclass(frozen=True)
class Layer:
    """Pre-norm: x + out(attention(qkv(norm1(x)))), then x + down(activation(up(norm2(x)))).

    Post-norm: norm1(x + out(attention(qkv(x)))), then norm2(x + down(activation(up(x)))).
    """

    norm1: Map
    qkv: Map
    out: Map
    norm2: Map
    up: Map
    activation: Map
    down: Map


class FastDecoder:
    """The weights of a decoder, arranged for inference with a KV cache.

    Args:
        embed: tokens (B, T) and their positions to (B, T, dim).
        norm: the final one.
        rotary: (context, head_dim) cosines and sines in the layout of `textless.lm.model.rotate`; None = positions are
            in `embed`.
        heads: of keys and values.
        group: heads of queries that share a head of keys and values (Ainslie et al. 2023, arXiv:2305.13245). `qkv`
            gives queries (group, heads, head_dim), then keys, then values; `out` reads (group, heads, head_dim).
        post_norm: the norms follow the sums, see `Layer`.
    """

    def __init__(
        self,
        embed: Callable[[Tensor, Positions], Tensor],
        layers: Sequence[Layer],
        norm: Map,
        *,
        heads: int,
        rotary: tuple[Tensor, Tensor] | None,
        group: int = 1,
        post_norm: bool = False,
    ) -> None:
        self.embed, self.layers, self.norm, self.heads = embed, layers, norm, heads
        self.group, self.post_norm = group, post_norm
        self.tables = None if rotary is None else rotary_tables(*rotary, group)

    @torch.inference_mode()
    def forward_cached(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Append tokens, (B, T) int64, to the rows of the cache. Hidden states after the final norm, (B, T, dim).

        With T = 1 this is a decode step, else a prefill.
        """
        if tokens.is_cuda and tokens.shape[1] == 1:
            return self._cuda_step(tokens, cache)
        lengths, span = cache.lengths.tolist(), tokens.shape[1]
        first, length = min(lengths), max(lengths) + span
        positions: Positions = (
            slice(first, length)
            if first + span == length
            else cache.lengths[:, None] + torch.arange(span, device=tokens.device)
        )
        hidden = self._layers(tokens, cache.kv, positions, length)
        cache.lengths += span
        return hidden

    def _layers(self, tokens: Tensor, kv: Tensor, positions: Positions, length: int) -> Tensor:
        """All layers, over the first `length` positions of `kv` (as in `KVCache`)."""
        (batch, span), rows, mask = tokens.shape, None, None
        if isinstance(positions, Tensor):
            rows = torch.arange(batch, device=tokens.device)[:, None]
            mask = (torch.arange(length, device=tokens.device) <= positions[..., None])[:, None]  # (B, 1, T, length)
        elif span > 1 and positions.start > 0:
            every = torch.arange(length, device=tokens.device)
            mask = (every <= every[positions][None, :, None])[:, None]  # (1, 1, T, length)
        rotary = None if self.tables is None else [table[positions] for table in self.tables]
        x = self.embed(tokens, positions).flatten(0, 1)
        for layer, layer_kv in zip(self.layers, kv.unbind(0), strict=True):
            y = layer.qkv(x if self.post_norm else layer.norm1(x)).view(batch, span, self.group + 2, self.heads, -1)
            if rotary:
                y = torch.addcmul(y * rotary[0], y.roll(y.shape[-1] // 2, -1), rotary[1])
            if rows is None:
                layer_kv[:, :, :, positions] = y[:, :, self.group :].permute(2, 0, 3, 1, 4)
            else:
                layer_kv[:, rows, :, positions] = y[:, :, self.group :]
            x = x + layer.out(attend(y[:, :, : self.group], layer_kv[:, :, :, :length], mask))
            if self.post_norm:
                x = layer.norm1(x)
                x = layer.norm2(x + layer.down(layer.activation(layer.up(x))))
            else:
                x = x + layer.down(layer.activation(layer.up(layer.norm2(x))))
        return self.norm(x).view(batch, span, -1)

    def _cuda_step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """A decode step on a GPU: the second step on a cache is recorded as a CUDA graph, and later ones replay it.

        A replay is one call of the driver in place of hundreds. What is recorded must not depend on the lengths, so it
        attends to the whole cache under a mask.
        """
        length = cache.kv.shape[4]
        if cache.graph is None or cache.graph[0] is not self:
            # The first step is not recorded: libraries initialise themselves in it, which a graph cannot hold.
            cache.graph = self, None
            hidden = self._layers(tokens, cache.kv, cache.lengths[:, None], length)
        else:
            step = cache.graph[1] or CudaGraphStep(self._layers, tokens, cache, length)
            cache.graph = self, step
            hidden = step.replay(tokens)
        cache.lengths += 1
        return hidden


_recording = threading.Lock()  # CUDA lets one thread record at a time


class CudaGraphStep:
    """A decode step of `FastDecoder._layers` on the tokens' GPU, recorded as a CUDA graph."""

    def __init__(self, layers: Callable[..., Tensor], tokens: Tensor, cache: KVCache, length: int) -> None:
        self.tokens, self.graph = tokens.clone(), torch.cuda.CUDAGraph()
        # On the tokens' device: a graph of work on another device is empty, without an error.
        with _recording, torch.cuda.device(tokens.device):
            stream = torch.cuda.Stream(tokens.device)
            # Thread-local, since a vocoder may use the GPU from another thread.
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.hidden = layers(self.tokens, cache.kv, cache.lengths[:, None], length)

    def replay(self, tokens: Tensor) -> Tensor:
        self.tokens.copy_(tokens)
        self.graph.replay()
        return self.hidden.clone()


def attend(q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
    """q (B, T, group, heads, head_dim), keys and values (2, B, heads, length, head_dim) → (B * T, dim).

    Without a mask the attention is causal, and the last query sees every key. For a single query two products beat
    SDPA.
    """
    batch, span, group, heads, dim = q.shape
    if span > 1:
        k, v = (kv if group == 1 else kv.repeat(1, 1, group, 1, 1)).unbind(0)
        q = q.flatten(2, 3).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return y.transpose(1, 2).flatten(2).flatten(0, 1)
    k, v = kv.flatten(1, 2).unbind(0)
    q = q[:, 0].transpose(1, 2).reshape(-1, group, dim)
    scores = torch.bmm(q * dim**-0.5, k.transpose(1, 2))
    if mask is not None:
        scores.view(batch, heads, group, -1).masked_fill_(~mask, float("-inf"))
    return torch.bmm(scores.softmax(-1), v).view(batch, heads, group, dim).transpose(1, 2).reshape(batch, -1)


def rotary_tables(cos: Tensor, sin: Tensor, group: int = 1) -> tuple[Tensor, Tensor]:
    """Tables that rotate queries and keys in one operation, x · cos + roll(x, half) · sin, and keep the values.

    (context, head_dim) → (context, group + 2, 1, head_dim), both.
    """
    half = cos.shape[1] // 2
    sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=1)

    def table(rotated: Tensor, unrotated: Tensor) -> Tensor:
        return torch.stack([*[rotated] * (group + 1), unrotated], 1)[:, :, None]

    return table(cos, torch.ones_like(cos)), table(sin, torch.zeros_like(sin))


def swiglu(x: Tensor) -> Tensor:
    """(N, 2 * ffn_dim) → (N, ffn_dim): SiLU of the first half, times the second."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
