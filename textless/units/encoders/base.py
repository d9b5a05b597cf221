"""Base class of encoders, and the digest that identifies one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from textless.audio.waveform import as_blocks, as_waveform, as_waveforms
from textless.types import Blocks, UnitContract, is_batch


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


class Encoder:
    """Waveforms → frames (`textless.types.Encoder`). The frames of a file never depend on what is encoded with it.

    A subclass defines the attributes, `encode_one` and `n_frames`; the rest follows, in the memory that a whole file
    takes.

    Attributes:
        sample_rate: Hz.
        frame_rate: frames a second.
        dim: D.
        contract: of the frames, without a quantizer.
        precision: `fp32` or `bf16`.
    """

    sample_rate: int
    frame_rate: float
    dim: int
    contract: UnitContract
    precision: str = "fp32"

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        """(samples,) float32 in [-1, 1] → (T, D) float32. Raises AudioError when shorter than one frame."""
        raise NotImplementedError

    def n_frames(self, samples: int) -> int:
        """T of a file of so many samples."""
        raise NotImplementedError

    def encode_batch(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Several files together; each as `encode_one` gives it, to 1e-5 of its largest value."""
        return [self.encode_one(w) for w in waveforms]

    def stream(self, blocks: Blocks) -> Iterator[np.ndarray]:
        """Frames of one file, piece by piece: (t, D) float32.

        `blocks` may be called more than once. Raises as `encode_one`.
        """
        yield self.encode_one(np.concatenate(list(as_blocks(blocks)())))

    @overload
    def encode(self, waveform: np.ndarray) -> np.ndarray: ...
    @overload
    def encode(self, waveform: Sequence[np.ndarray]) -> list[np.ndarray]: ...
    def encode(self, waveform: np.ndarray | Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        """One waveform (samples,) float in [-1, 1] → frames (T, D) float32; a list of them → a list.

        Raises AudioError when it is something else (see `as_waveform`), or shorter than one frame.
        """
        if is_batch(waveform):
            return self.encode_batch(as_waveforms(waveform))
        return self.encode_one(as_waveform(waveform))
