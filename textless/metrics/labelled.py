"""Frames with labels, from unit dumps, frames on disk or audio: a random sample in bounded memory, for probes."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textless.errors import CorpusError
from textless.metrics.alignments import Alignment, frame_phones, read_alignments
from textless.names import plain
from textless.types import UnitRow

Labels = Mapping[str, str | Alignment]  # by id: one of the whole file, or phones with times
Layers = Mapping[str, np.ndarray]  # by name, (T, D) of one file each


def read_file_labels(path: Path | str) -> dict[str, str]:
    """Labels of files: lines of id, tab, label. A first line that starts with `id` names the columns.

    Raises CorpusError that names the line: another number of columns, an empty label, an id with two labels.
    """
    out: dict[str, str] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            for n, row in enumerate(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
                if not row or (n == 1 and row[0] == "id"):
                    continue
                if len(row) != 2 or not row[0] or not row[1].strip():
                    raise CorpusError(f"{path}, line {n}: a line is an id, a tab and a label; correct it")
                name, label = plain(row[0]), row[1].strip()
                if out.setdefault(name, label) != label:
                    raise CorpusError(f"{path}, line {n}: {name[:80]!r} has a second label; keep one")
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise CorpusError(f"{path}: cannot be read as labels ({e})") from None
    if not out:
        raise CorpusError(f"{path}: holds no labels; a line is an id, a tab and a label")
    return out


def read_any_labels(path: Path | str) -> Labels:
    """Phones in any form of `read_alignments`, or else `read_file_labels`. Raises CorpusError."""
    if Path(path).is_file():
        try:
            with open(path, encoding="utf-8-sig") as f:
                columns = f.readline().rstrip("\r\n").split("\t")
        except (OSError, UnicodeDecodeError) as e:
            raise CorpusError(f"{path}: cannot be read as labels ({e})") from None
        if len(columns) == 2 and not all(map(_is_number, columns)):  # two numbers are times, of Audacity
            return read_file_labels(path)
    return read_alignments(path)


def labels_of(columns: Mapping[str, Mapping[str, Any]], column: str) -> dict[str, str]:
    """The values of a column by id, rows without one left out.

    Raises CorpusError, listing the columns, where no row has it.
    """
    if values := {i: str(row[column]) for i, row in columns.items() if row.get(column) is not None}:
        return values
    known = sorted({name for row in columns.values() for name, value in row.items() if value is not None})
    raise CorpusError(f"no row has the column {column!r}; known: {', '.join(known) or 'none'}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(eq=False)
class Labelled:
    """Frames of one or several layers with their labels; built file by file with `add`.

    Attributes:
        most: frames that are kept, a random sample by the seed that does not depend on the order of the files.
        layers: by name, (N, D) float32.
        labels, files: (N,) of each frame.
        means: of labels of whole files: by layer, a mean (D,) for each file.
        names, whole: the files, and their labels where they have one.
    """

    most: int = 10_000
    seed: int = 0
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, object))
    files: np.ndarray = field(default_factory=lambda: np.zeros(0, object))
    means: dict[str, list[np.ndarray]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    _numbers: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _waiting: list[tuple[np.ndarray, Layers, np.ndarray, str]] = field(default_factory=list)

    def add(self, name: str, layers: Layers, label: str | Sequence[str | None]) -> None:
        """Frames of a file. Label: of the whole file, or of each frame, None where it has none."""
        frames = min(map(len, layers.values()))
        if isinstance(label, str):
            self.whole.append(label)
            for layer, x in layers.items():
                self.means.setdefault(layer, []).append(x.mean(0, dtype=np.float64).astype(np.float32))
            label = [label] * frames
        self.names.append(name)
        numbers = self._draw(name, frames)
        below = self._numbers.max() if len(self._numbers) >= self.most else np.inf
        kept = np.array([t for t in range(frames) if label[t] is not None and numbers[t] <= below], np.int64)
        if not len(kept):
            return
        values = np.array([label[t] for t in kept], object)
        self._waiting.append((numbers[kept], {k: x[kept].astype(np.float32) for k, x in layers.items()}, values, name))
        if sum(len(part[0]) for part in self._waiting) >= self.most:
            self.settle()

    def _draw(self, name: str, frames: int) -> np.ndarray:
        """A random number for each frame of a file."""
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        return np.random.default_rng((self.seed, digest)).random(frames)

    def settle(self) -> Labelled:
        """Keep the frames with the smallest numbers, in their order; call it after the last `add`."""
        if not self._waiting:
            return self
        numbers = np.concatenate([self._numbers, *(part[0] for part in self._waiting)])
        order = np.argsort(numbers, kind="stable")[: self.most]
        for layer in self._waiting[0][1]:
            parts = [self.layers[layer]] if layer in self.layers else []
            self.layers[layer] = np.concatenate([*parts, *(part[1][layer] for part in self._waiting)])[order]
        self.labels = np.concatenate([self.labels, *(part[2] for part in self._waiting)])[order]
        names = [np.full(len(part[0]), part[3], object) for part in self._waiting]
        self.files = np.concatenate([self.files, *names])[order]
        self._numbers, self._waiting = numbers[order], []
        return self


def unit_layers(rows: Iterable[UnitRow], n_units: int) -> Iterator[tuple[str, Layers]]:
    """Id and frames of each row of units: one layer `units`, (T, n_units) float32, one-hot."""
    for row in rows:
        units = row.units.frames()
        out = np.zeros((len(units), n_units), np.float32)
        out[np.arange(len(units)), units] = 1
        yield row.id, {"units": out}


def label_of(labels: Labels, name: str, frames: int, frame_rate: float) -> str | list[str | None] | None:
    """The label of a file, or those of its frames; None where it has none."""
    value = labels.get(name)
    if value is None or isinstance(value, str):
        return value
    return frame_phones(value, frames, frame_rate=frame_rate)


def collect_labelled(
    files: Iterable[tuple[str, Layers]], labels: Labels, frame_rate: float, *, most: int = 10_000, seed: int = 0
) -> Labelled:
    """A sample of the frames of files that have labels.

    Raises CorpusError where none has: the ids differ.
    """
    out = Labelled(most, seed)
    first = None
    for name, layers in files:
        first = first or name
        frames = min(map(len, layers.values()))
        label = label_of(labels, name, frames, frame_rate)
        if label is not None and frames:
            out.add(name, layers, label)
    if not len(out.settle().labels):
        theirs = next(iter(labels), "none")
        raise CorpusError(
            f"no file has labels: they are of ids such as {theirs[:60]!r}, and the files are called such as "
            f"{(first or 'none')[:60]!r}; do the ids agree?"
        )
    return out
