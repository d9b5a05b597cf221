"""An encoder on top of another: each frame with its neighbours, through a linear projection (LDA or PCA, `lda`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from textless.errors import ModelError
from textless.types import Blocks
from textless.units.encoders.base import Encoder, encoder_digest
from textless.units.mfcc_lda.lda import neighbours

BASE = "base"  # the base encoder's folder within the model's


class ProjectedEncoder(Encoder):
    """Frames of another encoder, with context, projected.

    Args:
        base: the encoder whose frames are projected.
        projection: ((2 context + 1) D, dim) float32, or None: no projection.
        context: neighbours on each side, edges replicated.

    The contract is the base's, with a digest of its identity, its layer, the context and the projection.

    Raises ModelError when the projection does not fit the base.
    """

    def __init__(self, base: Encoder, projection: np.ndarray | None = None, *, context: int = 0) -> None:
        width = base.dim * (2 * context + 1)
        if projection is not None and projection.shape[0] != width:
            raise ModelError(
                f"a projection of {projection.shape[0]} dimensions does not fit an encoder of {width}, context included"
            )
        self.base, self.context = base, context
        self.projection = None if projection is None else np.ascontiguousarray(projection, np.float32)
        self.dim = width if self.projection is None else self.projection.shape[1]
        self.sample_rate, self.frame_rate, self.precision = base.sample_rate, base.frame_rate, base.precision
        kind = f"projected {base.contract.encoder} {base.contract.layer} {context} "
        weights = [] if self.projection is None else [self.projection]
        self.contract = base.contract.with_(encoder=encoder_digest(kind, weights))

    def n_frames(self, samples: int) -> int:
        return self.base.n_frames(samples)

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        return self._whole(self.base.encode_one(waveform))

    def encode_batch(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._whole(frames) for frames in self.base.encode_batch(waveforms)]

    def stream(self, blocks: Blocks) -> Iterator[np.ndarray]:
        held = None
        for frames in self.base.stream(blocks):
            held = self._pad(frames, before=self.context) if held is None else np.concatenate([held, frames])
            if len(held) > 2 * self.context:
                yield self._project(held)
                held = held[len(held) - 2 * self.context :]
        if held is not None and self.context:
            yield self._project(self._pad(held, after=self.context))

    def _whole(self, frames: np.ndarray) -> np.ndarray:
        return self._project(self._pad(frames, before=self.context, after=self.context))

    def _pad(self, frames: np.ndarray, *, before: int = 0, after: int = 0) -> np.ndarray:
        return np.pad(frames, ((before, after), (0, 0)), mode="edge")

    def _project(self, padded: np.ndarray) -> np.ndarray:
        frames = neighbours(padded, self.context)
        return frames if self.projection is None else frames @ self.projection
