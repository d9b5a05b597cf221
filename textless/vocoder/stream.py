"""Streaming: each stage keeps the few frames that later ones need as context, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from textless.errors import ModelError
from textless.types import Units, UnitsLike
from textless.vocoder.backbone import Backbone, padded
from textless.vocoder.base import BaseVocoder
from textless.vocoder.predictors import dequantise_f0, predicted_f0

if TYPE_CHECKING:
    from textless.vocoder.model import UnitVocoder


class Stage:
    """A function of frames with context on both sides, called on one piece after the other.

    Its results, concatenated, equal a call on the whole, with zeros before the first frame and after the last.

    Args:
        function: (1, left + T + right, …) → (1, T', …).
        sides: (left, right), frames of context.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], sides: tuple[int, int] = (0, 0)):
        self.function, (self.left, self.right) = function, sides
        self.context: Tensor | None = None

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        """A piece (1, n, …), or None for an empty one → the results that it completes, or None."""
        if self.context is None:
            if x is None:
                return None
            self.context = x.new_zeros(1, self.left, *x.shape[2:])
        x = self.context if x is None else torch.cat([self.context, x], 1)
        x = padded(x, (0, self.right)) if last else x
        new = x.shape[1] - self.left - self.right
        self.context = x[:, max(0, new) :]
        return self.function(x) if new > 0 else None


class Chain:
    """Stages one after the other."""

    def __init__(self, *stages: Stage):
        self.stages = stages

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        for stage in self.stages:
            x = stage(x, last)
        return x


class Queue:
    """Frames (1, n, …) that wait for their counterpart."""

    def __init__(self) -> None:
        self.pieces: list[Tensor] = []

    def __len__(self) -> int:
        return sum(piece.shape[1] for piece in self.pieces)

    def put(self, x: Tensor | None) -> None:
        if x is not None:
            self.pieces.append(x)

    def take(self, n: int) -> Tensor:
        """The first n, of at least as many and at least one piece."""
        frames = torch.cat(self.pieces, 1)
        self.pieces = [frames[:, n:]]
        return frames[:, :n]


def chain_of(backbone: Backbone) -> Chain:
    """A backbone over one row, piece by piece."""
    enter = Stage(lambda x: backbone.enter_norm(backbone.enter(x)), backbone.sides)
    return Chain(enter, *(Stage(block, backbone.sides) for block in backbone.blocks), Stage(backbone.leave_norm))


class Speaking:
    """The state of one row: pass frame units to `push`, then call `finish`.

    The results, concatenated, are what `UnitVocoder.resynth` makes of all units at once, to 1e-5. Memory does not grow.
    """

    def __init__(self, vocoder: UnitVocoder, *, speaker: str | int | None = None):
        config = vocoder.config
        self.vocoder = vocoder
        self.speaker = torch.tensor([vocoder.speaker_index(speaker)], device=vocoder.unit_embedding.weight.device)
        self.trunk = chain_of(vocoder.trunk)
        istft = vocoder.head.istft
        # The last column is the mask.
        self.add = Stage(lambda x: istft.add(x[..., :-1], x[..., -1]), istft.sides)
        self.frames = 0  # of the iSTFT so far
        if config.f0:
            source = vocoder.excitation
            self.pitch = Chain(
                *chain_of(vocoder.pitch.trunk).stages, Stage(lambda x: predicted_f0(vocoder.pitch.project(x).float()))
            )
            self.units, self.filters, self.pulses = Queue(), Queue(), Queue()
            self.phase = torch.zeros(1, dtype=torch.float64, device=self.speaker.device)
            self.source = Chain(
                Stage(self._pulses, source.f0_sides), Stage(lambda x: source.spectra(x.flatten(1)), source.sides)
            )  # fmt: skip

    def push(self, units: np.ndarray) -> np.ndarray:
        """Frame units (n,) int64 in the codebook → the samples that they complete, (m,) float32, m ≥ 0."""
        return self._step(
            torch.from_numpy(np.asarray(units, np.int64))[None].to(self.speaker.device) if len(units) else None, False
        )

    def finish(self) -> np.ndarray:
        """The samples that waited for more units."""
        return self._step(None, True)

    @torch.inference_mode()
    def _step(self, units: Tensor | None, last: bool) -> np.ndarray:
        audio = self._excited(units, last) if self.vocoder.config.f0 else self._plain(units, last)
        return np.zeros(0, np.float32) if audio is None else audio[0].cpu().numpy()

    def _plain(self, units: Tensor | None, last: bool) -> Tensor | None:
        x = self.trunk(None if units is None else self.vocoder.embed(units, self.speaker, None), last)
        return self._sound(x, last)

    def _excited(self, units: Tensor | None, last: bool) -> Tensor | None:
        vocoder = self.vocoder
        self.units.put(units)
        f0 = self.pitch(None if units is None else vocoder.pitch.embed(units, self.speaker), last)
        ready = None if f0 is None else vocoder.embed(self.units.take(f0.shape[1]), self.speaker, f0)
        self.filters.put(self.trunk(ready, last))
        self.pulses.put(self.source(None if f0 is None else dequantise_f0(f0), last))
        if n := min(len(self.filters), len(self.pulses)):
            return self._sound(self.filters.take(n), last, self.pulses.take(n))
        return self._sound(None, last)

    def _pulses(self, f0: Tensor) -> Tensor:
        source = self.vocoder.excitation
        samples, self.phase = source.pulses(f0, self.phase)
        return samples.unflatten(1, (-1, source.hop))

    def _sound(self, x: Tensor | None, last: bool, pulses: Tensor | None = None) -> Tensor | None:
        head, frames = self.vocoder.head, None
        if x is not None:
            mask = x.new_ones(x.shape[:2])
            first = torch.tensor([self.frames], device=x.device)
            sources = None if pulses is None else (pulses, self.vocoder.excitation.noise(first, x.shape[1]))
            frames = torch.cat([head.istft.frames(head.spectrum(x, sources), mask), mask[..., None]], 2)
            self.frames += x.shape[1]
        return self.add(frames, last)


class Lengths:
    """Units without repetitions, piece by piece → frame units with predicted durations.

    A run may continue in the next piece.

    Args:
        predict: the next units (n,) int64, whether they are the last → durations (m,) of the first units that have
            none yet, m ≥ 0.
    """

    def __init__(self, predict: Callable[[np.ndarray, bool], np.ndarray]):
        self.predict = predict
        self.waiting, self.previous = np.zeros(0, np.int64), -1

    def __call__(self, units: np.ndarray, *, join: bool, last: bool = False) -> np.ndarray:
        """Units (n,) int64 → frame units (m,) int64 of those whose context is complete; `join` joins runs."""
        if join and len(units):
            before = np.concatenate([[self.previous], units[:-1]])
            self.previous, units = int(units[-1]), units[units != before]
        self.waiting = np.concatenate([self.waiting, units])
        lengths = self.predict(units, last).astype(np.int64)
        decided, self.waiting = np.split(self.waiting, [len(lengths)])
        return np.repeat(decided, lengths)


class Durations:
    """`UnitVocoder.predict_durations`, piece by piece, for `Lengths`."""

    def __init__(self, vocoder: UnitVocoder, *, speaker: str | int | None = None):
        predictor = vocoder.durations
        self.device = vocoder.unit_embedding.weight.device
        self.speaker = torch.tensor([vocoder.speaker_index(speaker)], device=self.device)
        self.predictor = predictor
        self.chain = Chain(
            *(Stage(partial(predictor.layer, k), predictor.sides) for k in range(len(predictor.convolutions))),
            Stage(lambda x: predictor.project(x).float()),
        )

    @torch.inference_mode()
    def __call__(self, units: np.ndarray, last: bool) -> np.ndarray:
        x = torch.from_numpy(units)[None].to(self.device) if len(units) else None
        predicted = self.chain(None if x is None else self.predictor.embed(x, self.speaker), last)
        if predicted is None:
            return np.zeros(0, np.int64)
        return predicted[0, :, 0].exp().round().clamp(min=1).long().cpu().numpy()


class Overlapped:
    """A function of a whole row of units, called on pieces of it that overlap.

    Each unit is computed with the `halo` units before and after it, or with all where the row begins or ends, so that
    the results, concatenated, are those of the whole row if none depends on units that are further away.

    Args:
        function: (n,) int64, n ≥ 1 → (n * rate,).
        least: units that are computed together, as each call also computes the halo.
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], halo: int, *, rate: int = 1, least: int = 1):
        self.function, self.halo, self.rate, self.least = function, halo, rate, least
        self.units, self.done = np.zeros(0, np.int64), 0  # what is kept; as many of it are returned already

    def __call__(self, units: np.ndarray, last: bool) -> np.ndarray:
        """The next units (n,) int64 → the results that they complete, (m * rate,), m ≥ 0."""
        self.units = np.concatenate([self.units, units])
        stop = len(self.units) - (0 if last else self.halo)
        if stop - self.done < (1 if last else self.least):
            return np.zeros(0, np.float32)
        result = self.function(self.units)[self.done * self.rate : stop * self.rate]
        start = max(0, stop - self.halo)
        self.units, self.done = self.units[start:], stop - start
        return result


class Voice(Protocol):
    """The state of one row: frame units (n,) int64 → the samples that they complete, (m,) float32, m ≥ 0."""

    def push(self, units: np.ndarray) -> np.ndarray: ...
    def finish(self) -> np.ndarray: ...


def stream(
    vocoder: BaseVocoder, pieces: Iterable[UnitsLike], voice: Voice, lengths: Lengths | None
) -> Iterator[np.ndarray]:
    """Speak one row while it comes; see `UnitVocoder.stream`. `lengths`: the durations; None: those of the units."""
    empty = True
    for piece in pieces:
        if not len(Units.of(piece)):
            continue
        units, empty = vocoder.checked(piece), False
        if units.pitch is not None:
            raise ModelError("the pitch of units is followed in whole rows only; leave streaming out")
        if lengths is None:
            frames = units.frames()
        else:
            frames = lengths(units.units, join=isinstance(piece, Units))
        if len(audio := voice.push(frames)):
            yield audio
    if empty:
        raise ModelError("there are no units to speak")
    if lengths is not None:
        rest = lengths(np.zeros(0, np.int64), join=True, last=True)
        if len(audio := voice.push(rest)):
            yield audio
    if len(audio := voice.finish()):
        yield audio
