"""ConvNeXt blocks at the frame rate, over a whole sequence or over its pieces."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sides(kernel: int, causal: bool) -> tuple[int, int]:
    """How many frames a convolution of an odd kernel sees before and after its own."""
    return (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)


class FrameConv(nn.Conv1d):
    """Convolution over frames of (B, left + T + right, channels) → (B, T, channels); the caller pads."""

    def __init__(self, channels: int, kernel: int, *, causal: bool, groups: int = 1):
        super().__init__(channels, channels, kernel, groups=groups)
        self.sides = sides(kernel, causal)

    def forward(self, x: Tensor) -> Tensor:
        # In two dimensions frames are "channels last" as they are, where a convolution in one dimension would transpose
        # them: four times as fast.
        y = F.conv2d(x.transpose(1, 2)[:, :, None], self.weight[:, :, None], self.bias, groups=self.groups)
        return y[:, :, 0].transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm, MLP with GELU, layer scale, residual (Liu 2022, in one dimension as in Vocos).

    Shape: (B, left + T + right, dim) → (B, T, dim), where `sides` is (left, right).
    """

    def __init__(self, dim: int, ffn_dim: int, kernel: int, *, scale: float, causal: bool):
        super().__init__()
        self.depthwise = FrameConv(dim, kernel, causal=causal, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.widen = nn.Linear(dim, ffn_dim)
        self.narrow = nn.Linear(ffn_dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))
        self.sides = self.depthwise.sides

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.sides
        y = self.narrow(F.gelu(self.widen(self.norm(self.depthwise(x)))))
        return x[:, left : x.shape[1] - right] + self.scale * y


class Backbone(nn.Module):
    """Convolution, LayerNorm, ConvNeXt blocks, LayerNorm; nothing normalised over time or batch.

    Shape: (B, T, dim) zero where the mask is, mask (B, T, 1) → (B, T, dim).
    """

    def __init__(self, dim: int, ffn_dim: int, layers: int, kernel: int, *, causal: bool):
        super().__init__()
        self.sides = sides(kernel, causal)  # of each convolution
        self.enter = FrameConv(dim, kernel, causal=causal)
        self.enter_norm = nn.LayerNorm(dim, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dim, ffn_dim, kernel, scale=1 / layers, causal=causal) for _ in range(layers)
        )
        self.leave_norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.enter_norm(self.enter(padded(x, self.sides))) * mask
        for block in self.blocks:
            x = block(padded(x, self.sides)) * mask
        return self.leave_norm(x)


def padded(x: Tensor, sides: tuple[int, int]) -> Tensor:
    """Zeros before and after the frames. (B, T, …) → (B, left + T + right, …)."""
    return F.pad(x, (*[0] * (2 * (x.ndim - 2)), *sides)) if any(sides) else x


def present(lengths: Tensor, n: int) -> Tensor:
    """Which of n frames a row has. (B,) int64 → (B, n) bool."""
    return torch.arange(n, device=lengths.device) < lengths[:, None]


def initialise(module: nn.Module) -> None:
    """Small weights and zero biases, as in Vocos."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
