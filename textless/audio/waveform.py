"""The check of every waveform that comes from Python code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from textless.audio.io import LOUDEST
from textless.errors import AudioError

FORM = "a waveform is (samples,) float in [-1, 1]"


def as_waveform(value: Any, *, first: int = 0) -> np.ndarray:
    """A waveform as (samples,) float32, from floats of any width: an array, a tensor, a list of numbers.

    Values a little above 1 are kept. `first` is the index of the first sample, for the message.

    Raises AudioError for anything but numbers, for integers, for more or fewer than one dimension, for NaN or infinite
    samples, and for samples far above 1, which are integers kept as floats.
    """
    if isinstance(value, str | bytes | os.PathLike):
        raise AudioError(f"{FORM}, not {type(value).__name__}; textless.read_audio(path) gives that of a file")
    if hasattr(value, "is_floating_point"):  # a tensor, perhaps on a GPU, perhaps bfloat16
        value = (value.detach().float() if value.is_floating_point() else value.detach()).cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        raise AudioError(f"{FORM}, not a {type(value).__name__} of rows of several lengths") from None
    if array.dtype.kind != "f":
        what = type(value).__name__ if array.dtype.kind not in "iubc" else str(array.dtype)
        raise AudioError(
            f"{FORM}, not {what}; textless.read_audio(path) gives that of a file, and int16 is divided by 32768"
        )
    if array.ndim != 1:
        raise AudioError(f"{FORM}, not of the shape {array.shape}; give one channel, or a list of waveforms")
    if len(array) and not (peak := max(array.max(), -array.min())) <= LOUDEST:
        if np.isfinite(peak):
            raise AudioError(f"{FORM}, but samples reach {float(peak):.6g}; divide int16 samples by 32768")
        raise AudioError(f"{FORM}, but sample {first + int(np.isfinite(array).argmin())} is NaN or infinite")
    return np.ascontiguousarray(array, np.float32)


def as_waveforms(values: Iterable[Any]) -> list[np.ndarray]:
    """Several waveforms, each checked by `as_waveform`; an error gives the index."""
    waveforms = []
    for n, value in enumerate(values):
        try:
            waveforms.append(as_waveform(value))
        except AudioError as e:
            raise AudioError(f"waveform {n}: {e}") from None
    return waveforms


def as_blocks(blocks: Callable[[], Iterable[Any]]) -> Callable[[], Iterator[np.ndarray]]:
    """A waveform in blocks that may be read any number of times; each block is checked when it is read."""

    def checked() -> Iterator[np.ndarray]:
        first = 0
        for block in blocks():
            block = as_waveform(block, first=first)
            first += len(block)
            yield block

    return checked
