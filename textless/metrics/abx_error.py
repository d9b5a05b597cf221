"""ABX discriminability: is X closer to A, which is the same phone, or to B, which is another?

    frames = {"utt1": (T, D) float32, …};  units = {"utt1": (T,) int64, one a frame, …}
    items = read_items("dev.item")                                       # ZeroSpeech's, or
    items = items_of(read_alignments("phones.tsv"), {"utt1": "speaker", …})
    abx(frames, items, frame_rate=50)["error"]
    abx(units, items, frame_rate=50, distance="identical", speakers="across")["error"]

The task is of Schatz et al. (2013) and Schatz (2016). The frames of an item, the distances, averages and limits are
those of Libri-light and ZeroSpeech 2021 as fastabx 0.9 computes them, and so are the errors where nothing is drawn.
A, B and X have the same phone before and after (context `within`), or any (`any`); A and X have the same phone between
them and B another; A and B are of one speaker, and X is of the same (`within`) or of another (`across`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TypedDict, Unpack

import numpy as np

from textless.errors import CorpusError, ModelError
from textless.metrics.bootstrap import interval
from textless.metrics.dtw import dtw, dtw_units
from textless.metrics.items import RULES, Item, item_span

DISTANCES = ("angular", "euclidean", "identical")
CELLS = 1 << 22  # frame distances, and comparisons, that are held at once
CHANCE = 0.5  # ties count one half: labels that are drawn at random give this, whatever the distances are


class ABXOptions(TypedDict, total=False):
    """Options of `abx` that others pass through."""

    context: str
    rule: str
    max_items: int | None
    max_speakers: int | None
    seed: int


def abx(
    files: Mapping[str, np.ndarray],
    items: Sequence[Item],
    frame_rate: float = 50,
    distance: str = "angular",
    speakers: str = "within",
    **options: Unpack[ABXOptions],
) -> dict[str, float]:
    """Share of triples in which X is closer to B than to A; ties count one half. 0 is perfect, 0.5 is chance.

    The distance of two items is `dtw` over the distances of their frames. The error of a cell, that is one context, one
    speaker of A and B, one ordered pair of phones (one is A's and the other B's, and both ways are cells) and, across,
    one speaker of X, is the mean over its triples. Errors are then averaged over the contexts (and speakers of X) of
    each (speaker, pair), those over the speakers of each pair, and those over the pairs, each time without weights.

    Args:
        files: by id, frames (T, D) float, or units (T,) int, one a frame.
        items: those of other files, or shorter than a frame, are left out.
        frame_rate: frames a second.
        distance: of two frames: `angular`, their angle over pi (a frame of zeros is 1 from all others); `euclidean`; or
            `identical`, 0 for equal units and 1 for others.
        speakers: `within` or `across`.
        options:
            context: `within`, of triphones; or `any`.
            rule: which frames an item has, see `item_span`: `published` or `window_centred`.
            max_items: most items with one phone, context and speaker, drawn by the seed (10 in ZeroSpeech 2021); None:
                all.
            max_speakers: most speakers of X for each A, drawn by the seed (5 in ZeroSpeech 2021); None: all.
            seed: 0.

    Returns:
        `error`; `low`, `high`: its 95 % interval, by a bootstrap over the pairs of phones; `chance`: 0.5; `cells`;
        `items`: how many were compared.

    Raises:
        CorpusError: no cell has enough items.
        ModelError: frames that hold NaN or infinite values.
        ValueError: an unknown distance, context, rule or choice of speakers; a frame rate that is not above 0.
    """
    pairs, about = by_pair(files, items, frame_rate, distance, speakers, **options)
    errors = np.array(list(pairs.values()))
    low, high = interval(errors, seed=options.get("seed", 0))
    return {"error": float(errors.mean()), "chance": CHANCE, "low": low, "high": high, **about}


def by_pair(
    files: Mapping[str, np.ndarray],
    items: Sequence[Item],
    frame_rate: float = 50,
    distance: str = "angular",
    speakers: str = "within",
    **options: Unpack[ABXOptions],
) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """Error of each ordered pair of phones, whose mean is `abx`'s; and `cells` and `items`.

    Arguments and errors are those of `abx`.
    """
    context, rule = options.get("context", "within"), options.get("rule", "published")
    for name, value, known in (
        ("distance", distance, DISTANCES),
        ("speakers", speakers, ("within", "across")),
        ("context", context, ("within", "any")),
        ("rule", rule, RULES),
    ):
        if value not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")
    if not 0 < frame_rate < float("inf"):
        raise ValueError(f"frame_rate is a number of frames a second, above 0, not {frame_rate}")
    rng = np.random.default_rng(options.get("seed", 0))
    table = _Table.of(files, items, frame_rate, rule=rule, context=context).drawn(options.get("max_items"), rng)
    tiles = _tiles(table, speakers, options.get("max_speakers"), rng)
    if not len(tiles.x):
        raise CorpusError(_why_no_cell(len(table.group), speakers, len(items)))
    frames = _Frames.of(files, table, distance)
    wrong = np.zeros(tiles.cell[-1])
    for rows in _chunks(table, tiles):
        _compare(table, tiles, frames, rows, wrong)
    return _averages(table, tiles, wrong)


def _why_no_cell(usable: int, speakers: str, n_items: int) -> str:
    if not usable:
        return (
            f"no ABX: none of the {n_items} items is in these files; "
            "do the ids agree, and is each item as long as a frame?"
        )
    if speakers == "within":
        needed = "two phones of one speaker, one of them twice"
    else:
        needed = "two phones of one speaker and one of them of another"
    return f"no ABX {speakers} speakers: among {usable} items none has a context with {needed}; give more files"


# -------------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True, eq=False)
class _Table:
    """Items, sorted by context, speaker and phone, in an order that does not depend on that in which they came.

    Items of one context, speaker and phone are a group, and the groups of one context and speaker a block.

    Attributes:
        names: of files.
        phones: that `phone` counts.
        rank: (N,) int64, of each item, its place among those that came.
        file, first, length: (N,) int64, of each item, its index in `names` and its frames.
        group: (N,) int64, of each item.
        phone, context, speaker, block: (G,) int64, of each group.
    """

    names: list[str]
    phones: list[str]
    rank: np.ndarray
    file: np.ndarray
    first: np.ndarray
    length: np.ndarray
    group: np.ndarray
    phone: np.ndarray
    context: np.ndarray
    speaker: np.ndarray
    block: np.ndarray

    @classmethod
    def of(
        cls, files: Mapping[str, np.ndarray], items: Sequence[Item], frame_rate: float, *, rule: str, context: str
    ) -> _Table:
        rows = [item for item in items if item.file in files]
        names, file = _numbered([i.file for i in rows])
        phones, phone = _numbered([i.phone for i in rows])
        speaker = _numbered([i.speaker for i in rows])[1]
        after, following = _numbered([i.next for i in rows])
        around = _numbered([i.previous for i in rows])[1] * (len(after) + 1) + following
        around *= context == "within"
        onset, offset = np.array([i.onset for i in rows]), np.array([i.offset for i in rows])
        frames = np.array([len(files[name]) for name in names], np.int64)
        first, last = item_span(onset, offset, frames[file], frame_rate=frame_rate, rule=rule)
        order = np.lexsort((offset, onset, file, phone, speaker, around))
        order = order[(last > first)[order]]
        keys = np.stack([around, speaker, phone])[:, order]
        new = _changes(keys)
        around, speaker, phone = keys[:, new]
        return cls(
            names=names,
            phones=phones,
            rank=order,
            file=file[order],
            first=first[order],
            length=(last - first)[order],
            group=np.cumsum(new) - 1,
            phone=phone,
            context=around,
            speaker=speaker,
            block=np.cumsum(_changes(np.stack([around, speaker]))) - 1,
        )

    def drawn(self, most: int | None, rng: np.random.Generator) -> _Table:
        """With at most so many items a group."""
        if most is None or not (self.sizes > most).any():
            return self
        keep = np.ones(len(self.group), bool)
        for g in np.flatnonzero(self.sizes > most):
            keep[self.starts[g] + rng.permutation(self.sizes[g])[most:]] = False
        return replace(
            self, **{name: getattr(self, name)[keep] for name in ("rank", "file", "first", "length", "group")}
        )

    @cached_property
    def sizes(self) -> np.ndarray:
        """(G,) items of each group."""
        return np.bincount(self.group, minlength=len(self.phone))

    @cached_property
    def starts(self) -> np.ndarray:
        """(G,) first item of each group."""
        return _offsets(self.sizes)[:-1]

    @cached_property
    def groups(self) -> np.ndarray:
        """(B + 1,) first group of each block."""
        return _offsets(np.bincount(self.block))

    @cached_property
    def columns(self) -> np.ndarray:
        """(B + 1,) first item of each block."""
        return _offsets(np.bincount(self.block[self.group]))

    @cached_property
    def width(self) -> np.ndarray:
        """(B,) frames of each block."""
        return np.add.reduceat(self.length, self.columns[:-1]) if len(self.length) else self.length


def _numbered(values: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The different values in order, and of each value its index there."""
    names = sorted(set(values))
    index = {name: n for n, name in enumerate(names)}
    return names, np.array([index[v] for v in values], np.int64)


def _changes(keys: np.ndarray) -> np.ndarray:
    """(N,) bool: the columns of (K, N) that differ from the one before."""
    return np.concatenate([[True], (keys[:, 1:] != keys[:, :-1]).any(0)])[: keys.shape[1]]


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """(N + 1,) where each of (N,) stretches begins when they follow each other."""
    return np.concatenate([[0], np.cumsum(sizes)])


def _ranges(first: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The numbers first, first + 1, … of each stretch, one stretch after the other."""
    return np.repeat(first - _offsets(sizes)[:-1], sizes) + np.arange(sizes.sum())


# -------------------------------------------------------------------------------------------------------------- tiles


@dataclass(frozen=True, eq=False)
class _Tiles:
    """What is compared: each X of one group with each item, A or B, of one block.

    Attributes:
        x, a: (K,) int64, the groups of X and of A, sorted by `a` and so by its block; within speakers they are equal.
        cell: (K + 1,) int64, the first cell of each tile; its cells are the groups of the block, each of them B.
    """

    x: np.ndarray
    a: np.ndarray
    cell: np.ndarray
    within: bool


def _tiles(table: _Table, speakers: str, most: int | None, rng: np.random.Generator) -> _Tiles:
    several = np.diff(table.groups)[table.block] > 1  # a block of one group has no B
    if speakers == "within":
        x = a = np.flatnonzero(several & (table.sizes > 1))
    else:
        order = np.lexsort((table.phone, table.context))
        opens = np.flatnonzero(_changes(np.stack([table.context, table.phone])[:, order]))
        sizes = np.diff([*opens, len(order)])
        a = np.repeat(order, np.repeat(sizes, sizes))
        x = order[_ranges(np.repeat(opens, sizes), np.repeat(sizes, sizes))]
        keep = (a != x) & several[a]
        a, x = a[keep], x[keep]
        order = np.lexsort((x, a))
        a, x = a[order], x[order]
        if most is not None:
            counts = np.bincount(a, minlength=len(table.phone))
            first, keep = _offsets(counts), np.ones(len(a), bool)
            for group in np.flatnonzero(counts > most):
                keep[first[group] + rng.permutation(counts[group])[most:]] = False
            a, x = a[keep], x[keep]
    return _Tiles(x, a, _offsets(np.diff(table.groups)[table.block[a]]), speakers == "within")


@dataclass(frozen=True, eq=False)
class _Rows:
    """Items X (R,), the tile of each, its block, and how many frames and items that has."""

    item: np.ndarray
    tile: np.ndarray
    block: np.ndarray
    width: np.ndarray
    columns: np.ndarray


def _chunks(table: _Table, tiles: _Tiles) -> Iterator[_Rows]:
    """All rows of all tiles, so many at once that they need about `CELLS` cells of memory."""
    sizes = table.sizes[tiles.x]
    item, tile = _ranges(table.starts[tiles.x], sizes), np.repeat(np.arange(len(tiles.x)), sizes)
    block = table.block[tiles.a][tile]
    width, columns = table.width[block], np.diff(table.columns)[block]
    cells = np.cumsum(np.maximum(table.length[item] * width, table.sizes[tiles.a][tile] * columns))
    first = 0
    while first < len(item):
        done = cells[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(cells, done + CELLS, side="right")))
        yield _Rows(*(values[first:last] for values in (item, tile, block, width, columns)))
        first = last


# ---------------------------------------------------------------------------------------------------------- distances


@dataclass(frozen=True, eq=False)
class _Frames:
    """Frames of all files, one after the other, as their distance needs them, and where each item begins.

    Attributes:
        data: units (F,), frames (F, D), or for angles frames of norm 1, float32.
        start: (N,) int64.
    """

    data: np.ndarray
    start: np.ndarray
    distance: str

    @classmethod
    def of(cls, files: Mapping[str, np.ndarray], table: _Table, distance: str) -> _Frames:
        start = _offsets(np.array([len(files[name]) for name in table.names]))[table.file] + table.first
        if distance == "identical":
            return cls(np.concatenate([files[name] for name in table.names]).astype(np.int32), start, distance)
        return cls(np.concatenate([_ready(files[n], n, distance) for n in table.names]), start, distance)

    def between(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Distances of the frames with these indices, (X, Y) float32; of angles their cosine."""
        a, b = self.data[x], self.data[y]
        if self.distance == "euclidean":
            a, b = a.astype(np.float64), b.astype(np.float64)
            squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * (a @ b.T)
            return np.sqrt(squares.clip(min=0)).astype(np.float32)
        cosines = a @ b.T
        silent_a, silent_b = np.logical_not(a.any(1)), np.logical_not(b.any(1))
        if silent_a.any() or silent_b.any():
            cosines[silent_a[:, None] != silent_b] = -1
            cosines[silent_a[:, None] & silent_b] = 1
        return cosines


def _ready(frames: np.ndarray, name: str, distance: str) -> np.ndarray:
    """Raises ModelError for values that are not finite."""
    if not np.isfinite(frames).all():
        raise ModelError(
            f"{name}: its frames hold NaN or infinite values; the encoder is damaged or overflows at this precision"
        )
    if distance == "euclidean":
        return frames
    norms = np.sqrt(np.square(frames, dtype=np.float64).sum(1, keepdims=True))
    return (frames / np.where(norms > 0, norms, 1)).astype(np.float32)


def _warped(table: _Table, tiles: _Tiles, frames: _Frames, rows: _Rows) -> np.ndarray:
    """Distances of each row's item to the items of its block, the rows one after the other, (P,) float32."""
    row = np.repeat(np.arange(len(rows.item)), rows.columns)
    item, column = rows.item[row], _ranges(table.columns[rows.block], rows.columns)
    if frames.distance == "identical":
        if tiles.within:
            # As in Libri-light, X and A are compared once for both directions.
            turned = (table.rank[column] < table.rank[item]) & (table.group[column] == table.group[item])
            item, column = np.where(turned, column, item), np.where(turned, item, column)
        return dtw_units(
            frames.data, frames.start[item], frames.start[column], table.length[item], table.length[column]
        )
    length = table.length[rows.item]
    begins = _offsets(length * rows.width)
    flat = np.empty(begins[-1], np.float32)
    x, x_edges = _ranges(frames.start[rows.item], length), _offsets(length)
    edges = [*np.flatnonzero(_changes(rows.block[None])), len(rows.block)]
    for first, last in pairwise(edges):
        block = slice(*table.columns[rows.block[first] : rows.block[first] + 2])
        y = _ranges(frames.start[block], table.length[block])
        flat[begins[first] : begins[last]] = frames.between(x[x_edges[first] : x_edges[last]], y).ravel()
    if frames.distance == "angular":
        np.arccos(np.clip(flat, -1, 1, out=flat), out=flat)
        flat /= np.float32(np.pi)
    inside = (_offsets(table.length)[:-1] - np.repeat(_offsets(table.width)[:-1], np.diff(table.columns)))[column]
    return dtw(flat, begins[row] + inside, rows.width[row], table.length[item], table.length[column])


# ------------------------------------------------------------------------------------------------------------- scores


def _compare(table: _Table, tiles: _Tiles, frames: _Frames, rows: _Rows, wrong: np.ndarray) -> None:
    """Add to the cells (C,) twice the triples of the rows in which X is closer to B, and once those that tie."""
    distances, begins = _warped(table, tiles, frames, rows), _offsets(rows.columns)
    a = tiles.a[rows.tile]
    row = np.repeat(np.arange(len(a)), table.sizes[a])
    item = _ranges(table.starts[a], table.sizes[a])
    if tiles.within:
        other = item != rows.item[row]
        row, item = row[other], item[other]
    to_a = distances[begins[row] + item - table.columns[rows.block[row]]]
    columns = rows.columns[row]
    to_b = distances[_ranges(begins[row], columns)]
    to_a = np.repeat(to_a, columns)
    b = table.group[_ranges(table.columns[rows.block[row]], columns)]
    cell = np.repeat(tiles.cell[rows.tile[row]] - table.groups[rows.block[row]], columns) + b
    wrong += np.bincount(cell, (to_b < to_a).astype(np.int8) + (to_b <= to_a), len(wrong))


def _averages(table: _Table, tiles: _Tiles, wrong: np.ndarray) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """Averages over the contexts (and speakers of X) of each (speaker, A, B), then over speakers."""
    block = table.block[tiles.a]
    n_groups = np.diff(tiles.cell)
    a, x = np.repeat(tiles.a, n_groups), np.repeat(tiles.x, n_groups)
    b = _ranges(table.groups[block], n_groups)
    triples = table.sizes[x] * (table.sizes[a] - tiles.within) * table.sizes[b]
    n = len(table.phones)
    pair, other = table.phone[a] * n + table.phone[b], a != b
    error = (wrong / 2 / triples)[other]
    keys, which = np.unique(((table.speaker[a]) * n * n + pair)[other], return_inverse=True)
    error = np.bincount(which, error) / np.bincount(which)
    pairs, which = np.unique(keys % (n * n), return_inverse=True)
    error = np.bincount(which, error) / np.bincount(which)
    used = np.union1d(tiles.x, _ranges(table.groups[np.unique(block)], np.diff(table.groups)[np.unique(block)]))
    about = {"cells": float(other.sum()), "items": float(table.sizes[used].sum())}
    names = ((table.phones[p // n], table.phones[p % n]) for p in pairs)
    return dict(zip(names, error.tolist(), strict=True)), about
