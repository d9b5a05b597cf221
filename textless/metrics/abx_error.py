"""ABX discriminability: is X closer to A, which is the same phone, or to B, which is another?

    abx(files, items, *, frame_rate, distance="angular", speakers="within", max_items=10, max_speakers=5, seed=0)

    frames = {"utt1": (T, D) float32, …};  units = {"utt1": (T,) int64, one a frame, …}
    items = read_items("dev.item")                                       # ZeroSpeech's, or
    items = items_of(read_alignments("phones.tsv"), {"utt1": "speaker", …})
    abx(frames, items, frame_rate=50)["error"]
    abx(units, items, frame_rate=50, distance="discrete", speakers="across")["error"]

The task is of Schatz et al. (2013) and Schatz (2016), its terms those of Libri-light and ZeroSpeech 2021 (ABX-LS),
whose averages, distances and limits are kept: A, B and X have the same phone before and after; A and X have the same
phone between them and B another; A and B are of one speaker, and X is of the same (within) or of another (across).
Which frames belong to an item is decided by `frame_span`, not by Libri-light's rule, where frame t is at
(t + 1/2) / frame_rate whatever its window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypedDict

import numpy as np

from textless.errors import CorpusError, ModelError
from textless.metrics.alignments import frame_span
from textless.metrics.bootstrap import interval
from textless.metrics.dtw import dtw
from textless.metrics.items import Item

DISTANCES = ("angular", "euclidean", "discrete")
CELLS = 1 << 23  # frame distances held at once, 32 MB


class ABXOptions(TypedDict, total=False):
    """Options of `abx` that others pass through."""

    distance: str
    max_items: int
    max_speakers: int
    seed: int


def abx(
    files: Mapping[str, np.ndarray],
    items: Sequence[Item],
    *,
    frame_rate: float,
    distance: str = "angular",
    speakers: str = "within",
    max_items: int = 10,
    max_speakers: int = 5,
    seed: int = 0,
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
            `discrete`, 0 for equal units and 1 for others, which ranks as the angular distance of one-hot vectors does,
            0 and 1/2.
        speakers: `within` or `across`.
        max_items: most items with one phone, context and speaker, drawn by the seed (10 in ZeroSpeech 2021).
        max_speakers: most speakers of X for each A, drawn by the seed (5 in ZeroSpeech 2021).

    Returns:
        `error`; `low`, `high`: its 95 % interval, by a bootstrap over the pairs of phones; `chance`: the error after
        the labels A and B were shuffled; `cells`; `items`: how many were compared.

    Raises:
        CorpusError: no cell has enough items.
        ModelError: frames that hold NaN or infinite values.
    """
    pairs, chance, about = by_pair(
        files,
        items,
        frame_rate=frame_rate,
        distance=distance,
        speakers=speakers,
        max_items=max_items,
        max_speakers=max_speakers,
        seed=seed,
    )
    errors = np.array(list(pairs.values()))
    low, high = interval(errors, seed=seed)
    return {
        "error": float(errors.mean()),
        "chance": float(np.mean(list(chance.values()))),
        "low": low,
        "high": high,
        **about,
    }


Pairs = dict[tuple[str, str], float]


def by_pair(
    files: Mapping[str, np.ndarray],
    items: Sequence[Item],
    *,
    frame_rate: float,
    distance: str = "angular",
    speakers: str = "within",
    max_items: int = 10,
    max_speakers: int = 5,
    seed: int = 0,
) -> tuple[Pairs, Pairs, dict[str, float]]:
    """Error of each ordered pair of phones, whose mean is `abx`'s; the same with labels shuffled; `cells` and `items`.

    Arguments and errors are those of `abx`.
    """
    if distance not in DISTANCES or speakers not in ("within", "across"):
        raise ValueError(
            f"distance is one of {', '.join(DISTANCES)} and speakers within or across, "
            f"not {distance!r} and {speakers!r}"
        )
    rng = np.random.default_rng(seed)
    groups = _groups(files, items, frame_rate, max_items, rng)
    cells: dict[str, dict[tuple[str, str, str], list[float]]] = {
        "error": defaultdict(list),
        "chance": defaultdict(list),
    }
    used: set[_Piece] = set()
    for block, distances in _compared(files, _blocks(groups, speakers, max_speakers, rng), distance):
        used.update(block.columns, block.rows)
        for name, compared in (("error", distances), ("chance", _shuffled(distances, block, rng))):
            for a, b, score in _scores(compared, block):
                cells[name][block.speaker, a, b].append(score)
    if not used:
        raise CorpusError(_why_no_cell(groups, speakers, len(items)))
    about = {"cells": float(sum(map(len, cells["error"].values()))), "items": float(len(used))}
    return _by_pair(cells["error"]), _by_pair(cells["chance"]), about


def _why_no_cell(groups: Groups, speakers: str, n_items: int) -> str:
    usable = sum(
        len(pieces) for context in groups.values() for phones in context.values() for pieces in phones.values()
    )
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


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Frames `first` to `last` of a file: an item."""

    file: str
    first: int
    last: int


Groups = dict[tuple[str, str], dict[str, dict[str, list[_Piece]]]]


def _groups(
    files: Mapping[str, np.ndarray], items: Sequence[Item], frame_rate: float, most: int, rng: np.random.Generator
) -> Groups:
    """{context: {speaker: {phone: pieces}}}, in an order that does not depend on that of the items."""

    def key(i: Item) -> tuple[str, str, str, str]:
        return i.previous, i.next, i.speaker, i.phone

    usable = sorted({i for i in items if i.file in files}, key=lambda i: (key(i), i))
    out: Groups = {}
    for (previous, after, speaker, phone), same in groupby(usable, key):
        pieces = []
        for i in same:
            first, last = frame_span(i.onset, i.offset, len(files[i.file]), frame_rate=frame_rate)
            if first < last:
                pieces.append(_Piece(i.file, first, last))
        if len(pieces) > most:
            pieces = [pieces[k] for k in sorted(rng.permutation(len(pieces))[:most])]
        if pieces:
            out.setdefault((previous, after), {}).setdefault(speaker, {})[phone] = pieces
    return out


@dataclass(frozen=True, eq=False)
class _Block:
    """Items of one context that are compared all with all: X in the rows, A and B of one speaker in the columns.

    Attributes:
        phones: of the columns.
        edges: (phones + 1,), where the columns of each phone begin.
        rows: within speakers, the columns themselves.
        cells: (index of A's phone, first row, last row), for each speaker of X.
    """

    speaker: str
    phones: list[str]
    edges: np.ndarray
    columns: list[_Piece]
    rows: list[_Piece]
    cells: list[tuple[int, int, int]]

    @property
    def within(self) -> bool:
        return self.rows is self.columns

    def needed(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each pair to be warped; within speakers a pair and its reverse are warped together."""
        if not self.within:
            i, j = np.indices((len(self.rows), len(self.columns))).reshape(2, -1)
        else:
            sizes = np.diff(self.edges)
            several = np.repeat(sizes > 1, sizes)
            i, j = np.nonzero(np.triu(several[:, None] | several, 1))
        return i, j


def _blocks(groups: Groups, speakers: str, max_speakers: int, rng: np.random.Generator) -> Iterator[_Block]:
    for context in groups.values():
        for speaker, phones in context.items():
            if len(phones) < 2:
                continue
            columns = [piece for pieces in phones.values() for piece in pieces]
            edges = np.cumsum([0, *map(len, phones.values())])
            if speakers == "within":
                rows = columns
                cells = [
                    (k, int(edges[k]), int(edges[k + 1])) for k, pieces in enumerate(phones.values()) if len(pieces) > 1
                ]
            else:
                rows, cells = [], []
                for k, phone in enumerate(phones):
                    others = [other[phone] for name, other in context.items() if name != speaker and phone in other]
                    if len(others) > max_speakers:
                        others = [others[i] for i in sorted(rng.permutation(len(others))[:max_speakers])]
                    for x in others:
                        cells.append((k, len(rows), len(rows) + len(x)))
                        rows.extend(x)
            if cells:
                yield _Block(speaker, list(phones), edges, columns, rows, cells)


# ---------------------------------------------------------------------------------------------------------- distances


def _compared(
    files: Mapping[str, np.ndarray], blocks: Iterator[_Block], distance: str
) -> Iterator[tuple[_Block, np.ndarray]]:
    """Blocks and the distances of their items (R, C) float32, warped for many blocks together."""
    waiting: list[tuple[_Block, np.ndarray]] = []
    held = 0
    for block in blocks:
        waiting.append((block, _frame_distances(files, block, distance)))
        held += waiting[-1][1].size
        if held >= CELLS:
            yield from _warped(waiting)
            waiting, held = [], 0
    if waiting:
        yield from _warped(waiting)


def _warped(waiting: list[tuple[_Block, np.ndarray]]) -> Iterator[tuple[_Block, np.ndarray]]:
    pairs, offset = [], 0  # start, stride, rows, columns of the pairs of each block
    for block, frames in waiting:
        n, m = _lengths(block.rows), _lengths(block.columns)
        i, j = block.needed()
        start = offset + (np.cumsum(n) - n)[i] * frames.shape[1] + (np.cumsum(m) - m)[j]
        pairs.append(np.stack([start, np.full_like(start, frames.shape[1]), n[i], m[j]]))
        offset += frames.size
    both = dtw(np.concatenate([frames.ravel() for _, frames in waiting]), *np.concatenate(pairs, axis=1))
    done = 0
    for (block, _), those in zip(waiting, pairs, strict=True):
        forward, backward = both[:, done : done + those.shape[1]]
        done += those.shape[1]
        i, j = block.needed()
        out = np.zeros((len(block.rows), len(block.columns)), np.float32)
        out[i, j] = forward
        if block.within:
            phone = np.repeat(np.arange(len(block.phones)), np.diff(block.edges))
            # As in Libri-light, X and A are compared once for both directions.
            out[j, i] = np.where(phone[i] == phone[j], forward, backward)
        yield block, out


def _lengths(pieces: Sequence[_Piece]) -> np.ndarray:
    return np.array([p.last - p.first for p in pieces])


def _frame_distances(files: Mapping[str, np.ndarray], block: _Block, distance: str) -> np.ndarray:
    """Distances of all frames of the rows and of the columns, (frames, frames) float32."""
    y = _frames(files, block.columns, distance)
    x = y if block.within else _frames(files, block.rows, distance)
    if distance == "discrete":
        return (x[:, None] != y).astype(np.float32)
    if distance == "euclidean":
        squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * (x @ y.T)
        return np.sqrt(squares.clip(min=0)).astype(np.float32)
    cosines = x @ y.T
    silent_x, silent_y = np.logical_not(x.any(1)), np.logical_not(y.any(1))
    if silent_x.any() or silent_y.any():
        cosines[silent_x[:, None] != silent_y] = -1
        cosines[silent_x[:, None] & silent_y] = 1
    return np.arccos(cosines.clip(-1, 1)) / np.float32(np.pi)


def _frames(files: Mapping[str, np.ndarray], pieces: Sequence[_Piece], distance: str) -> np.ndarray:
    """Input of the distance: units (F,), frames (F, D) float64, or for angles frames of norm 1, float32."""
    x = np.concatenate([files[p.file][p.first : p.last] for p in pieces])
    if distance == "discrete":
        return x
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        bad = next(p.file for p in pieces if not np.isfinite(files[p.file][p.first : p.last]).all())
        raise ModelError(
            f"{bad}: its frames hold NaN or infinite values; the encoder is damaged or overflows at this precision"
        )
    if distance == "euclidean":
        return x
    norms = np.sqrt(np.square(x).sum(1, keepdims=True))
    return (x / np.where(norms > 0, norms, 1)).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------- scores


def _scores(distances: np.ndarray, block: _Block) -> Iterator[tuple[str, str, float]]:
    """Phone of A, phone of B and error of each cell."""
    sizes = np.diff(block.edges)
    for k, first, last in block.cells:
        d = distances[first:last]
        to_a = d[:, block.edges[k] : block.edges[k + 1], None]
        wrong = (d[:, None] < to_a) + 0.5 * (d[:, None] == to_a)  # (X, A, B)
        if block.within:
            itself = np.arange(last - first)
            wrong[itself, itself] = 0
        triples = (last - first) * (sizes[k] - block.within) * sizes
        errors = np.add.reduceat(wrong.sum((0, 1)), block.edges[:-1]) / triples
        yield from ((block.phones[k], phone, float(errors[b])) for b, phone in enumerate(block.phones) if b != k)


def _shuffled(distances: np.ndarray, block: _Block, rng: np.random.Generator) -> np.ndarray:
    """Each row permuted, as if the phones of its columns were shuffled; within speakers, X itself keeps its place."""
    if not block.within:
        return rng.permuted(distances, axis=1)
    n = len(distances)
    others = ~np.eye(n, dtype=bool)
    out = np.zeros_like(distances)
    out[others] = rng.permuted(distances[others].reshape(n, n - 1), axis=1).ravel()
    return out


def _by_pair(cells: Mapping[tuple[str, str, str], Sequence[float]]) -> Pairs:
    """Averages over the contexts of each (speaker, A, B), then over speakers."""
    pairs = defaultdict(list)
    for (_, a, b), scores in cells.items():
        pairs[a, b].append(np.mean(scores))
    return {pair: float(np.mean(speakers)) for pair, speakers in pairs.items()}
