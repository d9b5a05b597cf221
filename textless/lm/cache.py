"""What a decoder remembers of what it has read."""

from __future__ import annotations

from typing import Any

import torch


class KVCache:
    """Keys and values of what was read, each row filled from the left to a length of its own.

    Args:
        config: of the model: layers, heads, head_dim.

    Attributes:
        both: (layers, 2, B, heads, length, head_dim), the keys and the values.
        filled: (B,) int64.
        graph: what `textless.lm.fast_decode` has recorded for steps on a GPU.
    """

    graph: Any = None

    def __init__(self, config: Any, batch: int, length: int, device: torch.device) -> None:
        self.both = torch.zeros(config.layers, 2, batch, config.heads, length, config.head_dim, device=device)
        self.filled = torch.zeros(batch, dtype=torch.int64, device=device)

    def row(self, i: int) -> KVCache:
        """A view of row i: what is read into it is in this cache."""
        view = object.__new__(KVCache)
        view.both, view.filled = self.both[:, :, i : i + 1], self.filled[i : i + 1]
        return view

    def copy(self, source: int, target: int) -> None:
        """Give row `target` what row `source` has read."""
        self.both[:, :, target] = self.both[:, :, source]
        self.filled[target] = self.filled[source]
