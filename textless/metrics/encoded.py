"""All layers of an encoder, and other features of the same frames, from audio, file by file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from textless.audio.corpus import Row, read_rows
from textless.errors import AudioError, ModelError
from textless.types import Encoder
from textless.units.tokenizer import LONG_SECONDS

Failures = list[dict[str, str]]


def check_layers(encoder: Any, layers: Sequence[int] | None) -> list[int] | None:
    """The layers that are asked for, or all up to the encoder's own; None of an encoder without, such as MFCC.

    Raises ModelError for layers that it does not have.
    """
    if not hasattr(encoder, "encode_layers"):
        if layers is not None:
            raise ModelError("this encoder has no layers to choose from; leave the layers out")
        return None
    chosen = list(range(1, encoder.layer + 1)) if layers is None else list(layers)
    if wrong := [n for n in chosen if not 1 <= n <= encoder.layer]:
        raise ModelError(f"layer {wrong[0]} does not exist: the encoder has layers 1 to {encoder.layer}")
    return chosen


def encoded_layers(
    rows: Iterable[Row],
    encoder: Any,
    layers: Sequence[int] | None,
    others: Sequence[tuple[str, Encoder]] = (),
    *,
    failures: Failures,
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Id and frames of each file, {layer: (T, D) float32}, all layers in one pass; `frames` of an encoder without.

    Args:
        layers: 1-based, as `check_layers` returns them.
        others: encoders by name, whose frames are those that begin when the encoder's do.
        failures: rows that fail are added, as {"id", "error"}: files that cannot be read, are shorter than a frame, or
            longer than ten minutes, whose layers are too large to be held.
    """
    for row, audio in read_rows(rows, longest=LONG_SECONDS * encoder.sample_rate):
        try:
            if isinstance(audio, AudioError):
                raise audio
            if not isinstance(audio, np.ndarray):
                raise AudioError(f"{row.place}: is longer than ten minutes; cut it into parts")
            frames = _layers(encoder, audio, layers)
            count = len(next(iter(frames.values())))
            for name, other in others:
                frames[name] = beside(count, encoder.frame_rate, other.encode_one(audio), other.frame_rate)
        except AudioError as e:
            failures.append({"id": row.id, "error": str(e)})
            continue
        yield row.id, frames


def _layers(encoder: Any, waveform: np.ndarray, layers: Sequence[int] | None) -> dict[str, np.ndarray]:
    if layers is None:
        return {"frames": encoder.encode_one(waveform)}
    return {str(n): x for n, x in encoder.encode_layers(waveform, layers).items()}


def beside(frames: int, frame_rate: float, other: np.ndarray, other_rate: float) -> np.ndarray:
    """Of other features (S, E), the frames that begin when `frames` do: (frames, E); the last is repeated."""
    places = np.round(np.arange(frames) * other_rate / frame_rate).astype(np.int64)
    return other[places.clip(max=len(other) - 1)]
