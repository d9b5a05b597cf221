"""Rows in blocks: the columns of some rows, by which large unit files are read and written."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from textless.text import joined, joined_rows
from textless.types import LONGEST_ROW, MOST_UNITS, UnitContract, UnitRow, Units

PIECE = 1 << 14  # frames
DEFAULTS: dict[str, Any] = {"speaker": None, "source": "", "offset": 0, "samples": 0}


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Rows of one contract without extra columns. Nothing is checked before `is_sound`.

    Attributes:
        ids: of the rows, in the form in which `UnitRow` holds them.
        units: (N,) int64, of all rows, one row after the other.
        ends: (rows,) int64, where the units of each row end.
        durations: (N,) int64, or None when each unit is one frame.
        columns: `speaker`, `source`, `offset` and `samples`, for each a list of a value a row; one that is missing has
            the default of `UnitRow` everywhere.
    """

    ids: list[str]
    units: np.ndarray
    ends: np.ndarray
    contract: UnitContract
    durations: np.ndarray | None = None
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[UnitRow]:
        """The rows. Raises DumpError and ContractError for units that are not sound, as `Units` does."""
        values = [self.columns.get(name) or itertools.repeat(usual) for name, usual in DEFAULTS.items()]
        for name, (a, b), row in zip(self.ids, self._bounds(), zip(*values), strict=False):  # noqa: B905
            durations = None if self.durations is None else self.durations[a:b]
            yield UnitRow(name, Units(self.units[a:b], durations, self.contract), *row)

    def __getitem__(self, rows: slice) -> Block:
        """The block of rows that follow each other."""
        a, b, _ = rows.indices(len(self))
        first, last = (int(self.ends[k - 1]) if k else 0 for k in (a, max(a, b)))
        return Block(
            ids=self.ids[a:b],
            units=self.units[first:last],
            ends=self.ends[a:b] - first,
            contract=self.contract,
            durations=None if self.durations is None else self.durations[first:last],
            columns={name: values[a:b] for name, values in self.columns.items()},
        )

    def is_sound(self) -> bool:
        """Whether all rows are valid `Units`. A block that is refused may be valid: its rows say."""
        if len(self.units) and not 0 <= self.units.min() <= self.units.max() < (self.contract.n_units or MOST_UNITS):
            return False
        durations = self.durations
        if durations is None or not len(durations):
            return True
        return bool(durations.min() >= 1 and durations.max() <= LONGEST_ROW and durations.sum() <= LONGEST_ROW)

    def pieces(self) -> Iterator[Block]:
        """The block in parts of about `PIECE` frames, whose arrays stay in the processor's cache."""
        total = len(self.units) if self.durations is None else int(self.durations.sum())
        step = max(1, PIECE * len(self) // max(total, 1))
        for k in range(0, len(self), step):
            yield self[k : k + step]

    def frames(self) -> Block:
        """The same rows, one unit a frame."""
        if self.durations is None:
            return self
        return replace(self, units=np.repeat(self.units, self.durations), ends=self.frame_ends(), durations=None)

    def frame_ends(self) -> np.ndarray:
        """(rows,) int64, where the frames of each row end."""
        return self.ends if self.durations is None else np.append(0, np.cumsum(self.durations))[self.ends]

    def deduplicated(self) -> Block:
        """The same frames, every run of a row joined into one unit."""
        if self.durations is not None and (self.contract.merges or self.repeats() is None):
            return self
        frames = self.frames()
        first = np.ones(len(frames.units) + 1, bool)  # of a run; the last is the end
        np.not_equal(frames.units[1:], frames.units[:-1], out=first[1:-1])
        first[frames.ends] = True
        starts = np.flatnonzero(first)
        ends = np.searchsorted(starts, frames.ends)
        return replace(frames, units=frames.units[starts[:-1]], ends=ends, durations=np.diff(starts))

    def repeats(self) -> int | None:
        """The first row in which equal units follow each other; None without one."""
        equal = self.units[1:] == self.units[:-1]
        inner = self.ends[(self.ends > 0) & (self.ends < len(self.units))]
        equal[inner - 1] = False
        at = int(equal.argmax()) if len(equal) else 0
        return int(np.searchsorted(self.ends, at, "right")) if len(equal) and equal[at] else None

    def texts(self, separator: str = " ", of: str = "units") -> list[str]:
        """The units of each row, or its durations, with a separator between."""
        values: np.ndarray = getattr(self, of)
        if len(values) and values.max() >= 1 << 16:
            return [joined(values[a:b], separator) for a, b in self._bounds()]
        return joined_rows(values, self.ends, separator)

    def _bounds(self) -> Iterator[tuple[int, int]]:
        return itertools.pairwise([0, *self.ends.tolist()])


Part = UnitRow | Block


def contract_of(part: Part) -> UnitContract:
    return part.contract if isinstance(part, Block) else part.units.contract


def n_rows(part: Part) -> int:
    return len(part) if isinstance(part, Block) else 1


def grouped(parts: Iterable[Part], size: int) -> Iterator[list[Part]]:
    """Rows and blocks in groups of `size` rows; the last may have fewer."""
    group: list[Part] = []
    room = size
    for part in parts:
        rest: Part | None = part
        while rest is not None:
            if isinstance(rest, UnitRow) or len(rest) <= room:
                group.append(rest)
                room -= n_rows(rest)
                rest = None
            else:
                group.append(rest[:room])
                rest, room = rest[room:], 0
            if not room:
                yield group
                group, room = [], size
    if group:
        yield group


def flat(parts: Iterable[Part]) -> Iterator[UnitRow]:
    """The rows of blocks, and those between."""
    for part in parts:
        if isinstance(part, UnitRow):
            yield part
        else:
            yield from part


class Rows(Iterator[UnitRow]):
    """Rows one by one, or what is left of them in blocks, for a writer that takes those."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = iter(parts)
        self._waiting: Iterator[UnitRow] = iter(())

    def __next__(self) -> UnitRow:
        for row in self._waiting:
            return row
        for part in self.parts:
            if isinstance(part, UnitRow):
                return part
            self._waiting = iter(part)
            for row in self._waiting:
                return row
        raise StopIteration

    def blocks(self) -> Iterator[Part]:
        """The rows of a block that was begun, then rows and blocks as they come."""
        yield from self._waiting
        yield from self.parts
