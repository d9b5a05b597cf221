"""One token at a time, fast: the step that generation repeats.

It computes what `UnitLM.forward` computes for a single token a row, with fewer and cheaper operations. The weights' way through memory is
most of its cost, and with int8 weights it is a quarter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from textless.lm.model import KVCache, UnitLM


class Linear:
    """A layer's weight (out, in) in float32."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight = layer.weight.detach()

    def __call__(self, x: Tensor) -> Tensor:
        """(B, in) → (B, out) float32."""
        return torch.mv(self.weight, x[0])[None] if len(x) == 1 else F.linear(x, self.weight)


class Int8Linear:
    """A layer's weight and its input as integers from -127 to 127, with a scale for each output and each row (LLM.int8's vector-wise
    quantisation, Dettmers et al. 2022, arXiv:2208.07339, section 2.1, without its outliers).

    Sums of integers are exact: a row gives the same bits whatever rows are beside it.
    """

    def __init__(self, layer: nn.Linear) -> None:
        weight = layer.weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
        self.weight = (weight / scale[:, None]).round().to(torch.int8).T  # (in, out), in the order that the kernel reads fastest
        self.scale = scale / 127  # a row's own is its peak / 127

    def __call__(self, x: Tensor) -> Tensor:
        """(B, in) → (B, out) float32."""
        peak = x.abs().amax(1, keepdim=True).clamp_(min=1e-12)
        integers = (x * 127).div_(peak).round_().to(torch.int8)
        if x.is_cuda and len(x) <= 16:  # the kernel there wants more than 16 rows
            integers = F.pad(integers, (0, 0, 0, 17 - len(x)))
        return (torch._int_mm(integers, self.weight)[: len(x)] * peak).mul_(self.scale)


class Stepper:
    """A model's weights laid out for `step`."""

    def __init__(self, lm: UnitLM) -> None:
        linear = {"fp32": Linear, "int8": Int8Linear}[lm.precision]
        self.lm, c = lm, lm.config
        self.heads, self.head_dim, self.eps = c.heads, c.head_dim, c.norm_eps
        self.blocks = [
            (b.norm1.weight.detach(), linear(b.qkv), linear(b.out), b.norm2.weight.detach(), linear(b.gate_up), linear(b.down))
            for b in lm.blocks
        ]
        self.last = lm.norm.weight.detach()
        # rotate(x) = x · cos + roll(x, half) · sin, with the sign in the table
        sign = torch.cat([-torch.ones(c.head_dim // 2), torch.ones(c.head_dim // 2)]).to(lm.device)
        self.cos, self.sin = lm.cos, lm.sin * sign

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Read a token in each row, (B,) int64, after what is in the cache; returns hidden states after the final norm, (B, dim)."""
        places = cache.filled
        first, length = int(places.min()), int(places.max()) + 1
        rows = None if first == length - 1 else torch.arange(len(tokens), device=tokens.device)
        mask = None if rows is None else (torch.arange(length, device=tokens.device) > places[:, None])[:, None, None]
        cos, sin = self.cos[places][:, None, None], self.sin[places][:, None, None]
        x = self.lm.embed.weight[tokens]
        for i, (norm1, qkv, out, norm2, gate_up, down) in enumerate(self.blocks):
            y = qkv(self._norm(x, norm1)).view(len(x), 3, self.heads, self.head_dim)
            turned = y[:, :2] * cos + y[:, :2].roll(self.head_dim // 2, -1) * sin
            keys, values = cache.keys[i], cache.values[i]
            if rows is None:
                keys[:, :, first], values[:, :, first] = turned[:, 1], y[:, 2]
            else:
                keys[rows, :, places], values[rows, :, places] = turned[:, 1], y[:, 2]
            x = x + out(self._attend(turned[:, 0], keys, values, length, mask))
            gate, up = gate_up(self._norm(x, norm2)).chunk(2, dim=-1)
            x = x + down(F.silu(gate) * up)
        cache.filled += 1
        return self._norm(x, self.last)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm by hand, since torch's has no kernel of its own on CPUs."""
        return x * (x * x).mean(-1, keepdim=True).add_(self.eps).rsqrt_() * weight

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, length: int, mask: Tensor | None) -> Tensor:
        """q (B, heads, head_dim), keys and values (B, heads, T, head_dim) → (B, dim). For a single query two products beat SDPA."""
        k, v = (x.flatten(0, 1)[:, :length] for x in (keys, values))
        scores = torch.bmm(q.flatten(0, 1)[:, None] * self.head_dim**-0.5, k.transpose(1, 2))
        if mask is not None:
            scores.unflatten(0, (-1, self.heads)).masked_fill_(mask, float("-inf"))
        return torch.bmm(scores.softmax(-1), v).view(len(q), -1)
