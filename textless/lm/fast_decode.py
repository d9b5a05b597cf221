"""Reading into a cache, fast: what generation does for a prompt once, and then for one unit at a time.

It computes what a model's `forward` computes, in few and cheap operations: a step of a small model is mostly the price of calling
them. That of a large one is the weights' way through memory, which with int8 weights is a quarter.
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

from textless.errors import ModelError
from textless.lm.cache import KVCache

Place = slice | Tensor  # of the tokens: the same for every row, or (B, T) int64


class Linear:
    """A layer in float32."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) → (N, out) float32."""
        if x.shape[0] > 1:
            return F.linear(x, self.weight, self.bias)
        return (torch.mv(self.weight, x[0]) if self.bias is None else torch.addmv(self.bias, self.weight, x[0]))[None]


class Int8Linear:
    """A layer's weight and its input as integers from -127 to 127, with a scale for each output and each row (LLM.int8's vector-wise
    quantisation, Dettmers et al. 2022, arXiv:2208.07339, section 2.1, without its outliers).

    Sums of integers are exact: a row gives the same, up to the last bits, whatever rows are beside it. Over several layers a last bit
    may turn an integer.
    """

    def __init__(self, layer: nn.Linear) -> None:
        weight = layer.weight.detach().float()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
        integers = (weight / self.scale[:, None]).round().to(torch.int8)
        self.packed = packed(integers, self.scale)
        if self.packed is None:  # (in, out), in the order that the kernel reads fastest
            self.weight = (integers if weight.is_cuda or sums_are_exact() else integers.float()).T

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
        if x.is_cuda and len(x) <= 16:  # the kernel there wants more than 16 rows
            integers = F.pad(integers, (0, 0, 0, 17 - len(x)))
        return torch._int_mm(integers, self.weight)[: len(x)] * self.scale


@functools.cache
def sums_are_exact() -> bool:
    """Whether torch's product of integers on the CPU is exact.

    Without VNNI instructions oneDNN adds pairs of products in 16 bits, and clips them. Then the integers are held as floats: a product of
    two is below 2^14, and a sum exact below 2^24.
    """
    most = torch.full((64, 64), 127, dtype=torch.int8)
    return all(bool((torch._int_mm(most[:rows], most.T) == 64 * 127**2).all()) for rows in (1, 64))


# FBGEMM's product: it makes integers of x on its way in, and is twice as fast for a single row. Its weights are a kind of tensor that
# torch is about to drop; `_int_mm`, which gives the same sums, stands in where it is missing.
packed_linear = getattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32", None)


def packed(weight: Tensor, scale: Tensor) -> Any:
    """Integers (out, in) and their scales (out,) as `packed_linear` takes them; None where that is not to be had, or not exact."""
    # Without these instructions FBGEMM adds pairs of products in 16 bits, and clips them.
    exact = weight.device.type == "cpu" and torch.cpu._is_vnni_supported()
    if not exact or packed_linear is None or torch.backends.quantized.engine not in ("x86", "fbgemm"):
        return None
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    with warnings.catch_warnings(action="ignore"):  # that such tensors are deprecated
        return torch.ops.quantized.linear_prepack(
            torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0), None
        )


LINEAR = {"fp32": Linear, "int8": Int8Linear}


def check_precision(precision: str) -> str:
    """`precision`. Raises ModelError for one that is not in `LINEAR`."""
    if precision not in LINEAR:
        raise ModelError(f"precision {precision!r} is unknown; known: {', '.join(LINEAR)}")
    return precision


class RMS:
    """RMSNorm of (N, dim), by hand, since torch's has no kernel of its own on CPUs."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps, self.share = (
            weight.detach(),
            torch.full((1, 1), eps, device=weight.device),
            1 / len(weight),
        )

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return (x * torch.addcmul(self.eps, length, length, value=self.share).rsqrt_()).mul_(self.weight)


@dataclass(frozen=True)
class Layer:
    """Pre-norm attention and feed-forward: x + out(attention(qkv(norm1(x)))), then x + down(activation(up(norm2(x))))."""

    norm1: Callable[[Tensor], Tensor]
    qkv: nn.Linear
    out: nn.Linear
    norm2: Callable[[Tensor], Tensor]
    up: nn.Linear
    activation: Callable[[Tensor], Tensor]
    down: nn.Linear


class Reader:
    """A decoder's weights laid out for reading.

    Args:
        embed: tokens (B, T) and their places to (B, T, dim).
        norm: the last one.
        rotary: (context, head_dim) cosines and sines in the layout of `textless.lm.model.rotate`; None = positions are in `embed`.
        precision: `fp32` or `int8`.
    """

    def __init__(
        self,
        embed: Callable[[Tensor, Place], Tensor],
        layers: Sequence[Layer],
        norm: Callable[[Tensor], Tensor],
        *,
        heads: int,
        rotary: tuple[Tensor, Tensor] | None,
        precision: str,
    ) -> None:
        linear = LINEAR[precision]
        self.embed, self.norm, self.heads = embed, norm, heads
        self.layers = [
            (x.norm1, linear(x.qkv), linear(x.out), x.norm2, linear(x.up), x.activation, linear(x.down)) for x in layers
        ]
        self.tables = None if rotary is None else turning(*rotary)

    @torch.inference_mode()
    def read(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """What follows what is in each row of the cache, (B, T) int64; returns hidden states after the last norm, (B, T, dim)."""
        if tokens.is_cuda and tokens.shape[1] == 1:
            return self._replay(tokens, cache)
        filled, span = cache.filled.tolist(), tokens.shape[1]
        first, length = min(filled), max(filled) + span
        places = (
            slice(first, length)
            if first + span == length
            else cache.filled[:, None] + torch.arange(span, device=tokens.device)
        )
        hidden = self._layers(tokens, cache.both, places, length)
        cache.filled += span
        return hidden

    def _layers(self, tokens: Tensor, both: Tensor, places: Place, length: int) -> Tensor:
        """`both` as in `KVCache`; its first `length` places are looked at."""
        level, (batch, span) = isinstance(places, slice), tokens.shape
        rows = None if level else torch.arange(batch, device=tokens.device)[:, None]
        mask = None
        if not level or (span > 1 and places.start > 0):
            place = torch.arange(length, device=tokens.device)
            mask = (place <= (place[places][None] if level else places)[..., None])[:, None]  # (B or 1, 1, T, length)
        turn = None if self.tables is None else [table[places] for table in self.tables]
        x = self.embed(tokens, places).flatten(0, 1)
        for (norm1, qkv, out, norm2, up, activation, down), memory in zip(self.layers, both.unbind(0), strict=True):
            y = qkv(norm1(x)).view(batch, span, 3, self.heads, -1)
            if turn:
                y = torch.addcmul(y * turn[0], y.roll(y.shape[-1] // 2, -1), turn[1])
            if level:
                memory[:, :, :, places] = y[:, :, 1:].permute(2, 0, 3, 1, 4)
            else:
                memory[:, rows, :, places] = y[:, :, 1:]
            x = x + out(attend(y[:, :, 0], memory[:, :, :, :length], mask))
            x = x + down(activation(up(norm2(x))))
        return self.norm(x).view(batch, span, -1)

    def _replay(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """A step on a GPU: recorded at the second of each cache and then replayed, one call of the driver in place of hundreds.

        What is recorded must not depend on how much is filled, so it looks at the whole cache through a mask.
        """
        length = cache.both.shape[4]
        if cache.graph is None or cache.graph[0] is not self:
            cache.graph = (
                self,
                None,
            )  # the first step makes what libraries make when they are first called, which cannot be recorded
            hidden = self._layers(tokens, cache.both, cache.filled[:, None], length)
        else:
            if cache.graph[1] is None:
                cache.graph = self, _Recording(self._layers, tokens, cache, length)
            hidden = cache.graph[1].replay(tokens)
        cache.filled += 1
        return hidden


_recording = threading.Lock()  # CUDA lets one thread record at a time


class _Recording:
    """A step of `Reader._layers` on the tokens' GPU, as a CUDA graph."""

    def __init__(self, layers: Callable[..., Tensor], tokens: Tensor, cache: KVCache, length: int) -> None:
        self.tokens, self.graph = tokens.clone(), torch.cuda.CUDAGraph()
        # All by the tokens' device: what is recorded of another is empty, without an error.
        with _recording, torch.cuda.device(tokens.device):
            stream = torch.cuda.Stream(tokens.device)
            with torch.cuda.graph(
                self.graph, stream=stream, capture_error_mode="thread_local"
            ):  # a vocoder may work in another
                self.hidden = layers(self.tokens, cache.both, cache.filled[:, None], length)

    def replay(self, tokens: Tensor) -> Tensor:
        self.tokens.copy_(tokens)
        self.graph.replay()
        return self.hidden.clone()


def attend(q: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
    """q (B, T, heads, head_dim), keys and values (2, B, heads, length, head_dim) → (B * T, dim).

    Without a mask the last query sees all of them, and each before it one less. For a single query two products beat SDPA.
    """
    batch, span, heads, dim = q.shape
    if span > 1:
        k, v = memory.unbind(0)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask, is_causal=mask is None)
        return y.transpose(1, 2).flatten(2).flatten(0, 1)
    k, v = memory.flatten(1, 2).unbind(0)
    scores = torch.bmm(q.reshape(-1, 1, dim) * dim**-0.5, k.transpose(1, 2))
    if mask is not None:
        scores.view(batch, heads, 1, -1).masked_fill_(~mask, float("-inf"))
    return torch.bmm(scores.softmax(-1), v).view(batch, -1)


def turning(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Tables by which queries, keys and values turn at once as x · cos + roll(x, half) · sin; values stay as they are.

    (context, head_dim) → (context, 3, 1, head_dim), both.
    """
    half = cos.shape[1] // 2
    sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=1)
    still = torch.ones_like(cos), torch.zeros_like(sin)
    return tuple(torch.stack([t, t, s], 1)[:, :, None] for t, s in zip((cos, sin), still, strict=True))


def swiglu(x: Tensor) -> Tensor:
    """(N, 2 * ffn_dim) → (N, ffn_dim): SiLU of the first half, times the second."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
