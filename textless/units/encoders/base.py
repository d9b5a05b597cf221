"""Base class of encoders, and the digest that identifies one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from textless import types
from textless.audio.waveform import as_blocks, as_waveform, as_waveforms
from textless.types import Blocks, is_batch


def encoder_digest(
    kind: str, weights: Sequence[np.ndarray] | Mapping[str, np.ndarray], settings: Mapping[str, Any] | None = None
) -> str:
    """sha256 that identifies an encoder in its contract: of its kind, settings and weights, byte for byte.

    Args:
        weights: in this order, or by name, which is hashed too and gives the order.
        settings: what changes the output and does not show in the weights; empty where all is usual, and then not
            hashed.
    """
    digest = hashlib.sha256(kind.encode())
    if settings:
        digest.update(json.dumps(settings, sort_keys=True).encode())
    if isinstance(weights, Mapping):
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weights[name]).data)
    else:
        for array in weights:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Encoder(types.Encoder):
    """An encoder that has everything but the attributes, `encode_one` and `n_frames`, which a subclass defines.

    `stream` and `encode_batch` are in the memory that a whole file takes; a subclass may do better.
    """

    precision = "fp32"

    def encode_batch(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self.encode_one(w) for w in waveforms]

    def stream(self, blocks: Blocks) -> Iterator[np.ndarray]:
        yield self.encode_one(np.concatenate(list(as_blocks(blocks)())))

    @overload
    def encode(self, waveform: np.ndarray) -> np.ndarray: ...
    @overload
    def encode(self, waveform: Sequence[np.ndarray]) -> list[np.ndarray]: ...
    def encode(self, waveform: np.ndarray | Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        if is_batch(waveform):
            return self.encode_batch(as_waveforms(waveform))
        return self.encode_one(as_waveform(waveform))
