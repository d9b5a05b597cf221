"""Benchmarks of pairs: how often the right recording is likelier than the wrong one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from textless.benchmarks.base import Benchmark, Figures, Given, Outcome, figure, numbers_first
from textless.benchmarks.layout import audio_files, csv_text
from textless.benchmarks.scores import given_scores, model_scores, read_scores, score_lines
from textless.errors import CorpusError
from textless.metrics.lm import Scorer
from textless.units.dump import UnitRow


@dataclass(frozen=True, slots=True)
class Pair:
    """Two recordings of which the first is right.

    Attributes:
        good, bad: their paths from the benchmark's folder on, without suffix.
        item: pairs of one item (the same words in several voices) count together as one.
        labels: the groups by which it is reported: {"voice": …, "type": …}.
        texts: what the two say, where the benchmark has it.
    """

    good: str
    bad: str
    item: str
    labels: Mapping[str, str] = field(default_factory=dict)
    texts: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of a benchmark as its folder has them.

    Attributes:
        ranked_by: `mean` or `sum`, which log-likelihood the papers with this layout compare.
        notes: what is to be said of the data.
        original: whether the folder is laid out as the benchmark's own, whose submission files and tables it then has.
        lone: recordings of a gold table without a counterpart. They are not measured; a submission has scores of them.
    """

    pairs: list[Pair]
    ranked_by: str
    notes: list[str] = field(default_factory=list)
    original: bool = True
    lone: Sequence[str] = ()


class Table(NamedTuple):
    """A table of the original's score folder.

    Attributes:
        name: of its file, `{split}` in it.
        head: the columns before the score, of pairs; or of a group, its label.
        row: an item's first pair → the columns of `head`; None: a table of the groups of a label.
    """

    name: str
    head: Sequence[str]
    row: Callable[[Pair], Sequence[str]] | None = None


@dataclass(frozen=True, kw_only=True)
class PairBenchmark(Benchmark):
    """A benchmark of pairs.

    An item's value is the mean over its pairs, that is over its voices: 1 where the right one is likelier, 1/2 for a
    tie, else 0. A figure is the mean over items.

    Attributes:
        read: (folder, split, names of the recordings) → its pairs. Raises CorpusError.
        overall: whether one figure over all items is defined.
        parts: figures over some of the items: {name: whether an item with these labels belongs to it}.
        groups: labels that have a figure each: {label: over `items`, or over `pairs`}.
        averages: labels over whose groups an unweighted mean is reported too.
        order: names of groups that come in this order; others follow, numbers by size.
        scores: place of the score file of a submission, `{split}` in it.
        tables: of the original's score folder.
    """

    read: Callable[[Path, str, Sequence[str]], Pairs]
    overall: bool = True
    parts: Mapping[str, Callable[[Mapping[str, str]], bool]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    averages: Sequence[str] = ()
    order: Sequence[str] = ()
    scores: str | None = None
    tables: Sequence[Table] = ()

    def recordings(self, folder: Path, split: str) -> list[str]:
        return recordings_of(self.read(folder, split, audio_files(folder)).pairs)

    def run(self, given: Given) -> Outcome:
        place = self.scores.format(split=given.split) if self.scores else None
        theirs = None if given.scores is None else read_scores(given.scores, place, self.name)
        one_file = given.scores is not None and (given.scores.is_file() or (given.scores / (place or "-")).is_file())
        names = audio_files(given.folder) or sorted(theirs or ())
        read = self.read(given.folder, given.split, names)
        wanted, notes = recordings_of(read.pairs), [*read.notes]
        if theirs is not None:
            known = [*wanted, *read.lone] if place is not None and one_file and read.original else None
            measured = {"given": given_scores(theirs, wanted, given.scores, known)}
        elif given.lm is None:
            raise CorpusError(f"{self.name}: give a language model and units, or the scores of another tool")
        else:
            measured, used = model_scores(given.lm, given.rows, wanted)
            notes += _long(given.lm, used)
        files: dict[str, str] = {}
        for kind, scores in measured.items():
            files |= {f"{kind}/{name}": text for name, text in self._files(read, scores, given.split).items()}
        return Outcome(
            figures={kind: figures(self, read.pairs, scores, seed=given.seed) for kind, scores in measured.items()},
            ranked_by=read.ranked_by if theirs is None else "given",
            size={"pairs": len(read.pairs), "items": len({pair.item for pair in read.pairs})},
            ties={k: sum(scores[p.good] == scores[p.bad] for p in read.pairs) for k, scores in measured.items()},
            notes=notes,
            files=files,
        )

    def _files(self, read: Pairs, scores: Mapping[str, float], split: str) -> dict[str, str]:
        """The submission file and tables of the original's layout, else a table of all pairs."""
        won, items = worth(read.pairs, scores), _items(read.pairs)
        out: dict[str, str] = {}
        if read.original and self.scores:
            out[self.scores.format(split=split)] = score_lines(scores)
        if not read.original or not self.tables:
            rows = zip(read.pairs, won.tolist(), strict=True)
            body = [[p.good, p.bad, repr(scores[p.good]), repr(scores[p.bad]), f"{value:g}"] for p, value in rows]
            return out | {"by_pair.csv": csv_text(["right", "wrong", "score right", "score wrong", "score"], body)}
        values = np.array([won[members].mean() for members in items.values()])
        firsts = [read.pairs[members[0]] for members in items.values()]
        for table in self.tables:
            if table.row:
                body = [[*table.row(pair), f"{value:.4f}"] for pair, value in zip(firsts, values, strict=True)]
                out[table.name.format(split=split)] = csv_text([*table.head, "score"], body)
                continue
            (label,) = table.head
            body = []
            for name, group in grouped(values, [pair.labels.get(label, "") for pair in firsts], self.order).items():
                std = f"{group.std(ddof=1):.4f}" if len(group) > 1 else ""
                body.append([name, str(len(group)), f"{group.mean():.4f}", std])
            out[table.name.format(split=split)] = csv_text([label, "n", "score", "std"], body)
        return out


def recordings_of(pairs: Iterable[Pair]) -> list[str]:
    return [file for pair in pairs for file in (pair.good, pair.bad)]


def worth(pairs: Sequence[Pair], scores: Mapping[str, float]) -> np.ndarray:
    """(P,) float64 of each pair: 1 where the right one has the larger score, for a tie 1/2, else 0."""
    good, bad = (
        np.array([scores[name] for name in side], np.float64) for side in zip(*map(_sides, pairs), strict=True)
    )
    return (good > bad) + 0.5 * (good == bad)


def _sides(pair: Pair) -> tuple[str, str]:
    return pair.good, pair.bad


def figures(benchmark: PairBenchmark, pairs: Sequence[Pair], scores: Mapping[str, float], *, seed: int = 0) -> Figures:
    """All figures of a benchmark, from one score a recording.

    Args:
        scores: by `Pair.good` and `Pair.bad`; the larger is likelier.

    Returns:
        {name: {"value", "low", "high": its 95 % interval by a bootstrap over items, "std": of a sample, missing for
        one item, "n": items}}; `all`, the parts, `mean over LABELs`, and under each label its groups, by name. Where a
        group is over pairs, so are its interval and n.

    Raises:
        CorpusError: no pair.
    """
    if not pairs:
        raise CorpusError(f"{benchmark.name}: no pair to compare; is the folder complete?")
    won, items = worth(pairs, scores), _items(pairs)
    values = np.array([won[members].mean() for members in items.values()])
    labels = [pairs[members[0]].labels for members in items.values()]
    out: Figures = {"all": figure(values, seed)} if benchmark.overall else {}
    for name, belongs in benchmark.parts.items():
        if (chosen := values[[belongs(own) for own in labels]]).size:
            out[name] = figure(chosen, seed)
    groups: Figures = {}
    for label, over in benchmark.groups.items():
        members = labels if over == "items" else [pair.labels for pair in pairs]
        if any(label in own for own in members):
            parts = grouped(
                values if over == "items" else won, [own.get(label, "") for own in members], benchmark.order
            )
            groups[label] = {name: figure(part, seed) for name, part in parts.items()}
    for label in benchmark.averages:
        if label in groups:
            out[f"mean over {label}s"] = figure(np.array([g["value"] for g in groups[label].values()]), seed)
    return out | groups


def _items(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """Indices of the pairs of each item, items in the order of their names, numbers by size."""
    items: dict[str, list[int]] = {}
    for n, pair in enumerate(pairs):
        items.setdefault(pair.item, []).append(n)
    return {item: items[item] for item in sorted(items, key=lambda item: [*map(numbers_first, item.split("\t"))])}


def grouped(values: np.ndarray, names: Iterable[str], order: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The values of each name; the names of `order` in that order, then the rest, numbers by size."""
    groups: dict[str, list[float]] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        groups.setdefault(name, []).append(value)
    place = {name: n for n, name in enumerate(order)}
    return {
        name: np.array(groups[name])
        for name in sorted(groups, key=lambda name: (place.get(name, len(place)), numbers_first(name)))
    }


def _long(lm: Scorer, rows: Iterable[UnitRow]) -> list[str]:
    context = getattr(getattr(lm, "config", None), "context", None)
    over = sum(len(row.units) + 1 > context for row in rows) if context else 0
    note = (
        f"{over} recordings are longer than the {context} tokens that the model sees at once; they are scored whole, "
        "in windows that overlap by half"
    )
    return [note] if over else []
