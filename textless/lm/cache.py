"""The KV cache: keys and values of the tokens that a decoder has read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from textless.lm.decoder import DecoderConfig
    from textless.lm.fast_decode import CudaGraphStep, FastDecoder


class KVCache:
    """Keys and values of a batch of rows, each filled from the left up to its own length.

    Args:
        config: of the model; layers, heads and head_dim count.
        batch: B, the number of rows.
        length: most tokens of a row.

    Attributes:
        kv: (layers, 2, B, heads, length, head_dim), the keys and the values.
        lengths: (B,) int64, tokens of each row in the cache.
        graph: the decoder whose steps were last run on this cache on a GPU, and the step once it is recorded as a CUDA
            graph.
    """

    graph: tuple[FastDecoder, CudaGraphStep | None] | None = None

    def __init__(self, config: DecoderConfig, batch: int, length: int, device: torch.device) -> None:
        self.kv = torch.zeros(config.layers, 2, batch, config.heads, length, config.head_dim, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)

    def row(self, i: int) -> KVCache:
        """A view of row i, as a cache of one row: what is written to it is in this cache."""
        view = object.__new__(KVCache)
        view.kv, view.lengths = self.kv[:, :, i : i + 1], self.lengths[i : i + 1]
        return view

    def copy(self, source: int, target: int) -> None:
        """Copy row `source` over row `target`."""
        self.kv[:, :, target] = self.kv[:, :, source]
        self.lengths[target] = self.lengths[source]
