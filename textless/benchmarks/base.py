"""What a benchmark of pairs is, and its figures: how often the good recording is likelier than the bad one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textless.errors import CorpusError
from textless.metrics.bootstrap import interval

CHANCE = 0.5  # of every figure here: a tie counts one half
SCORES = ("mean", "sum")  # log-likelihood a unit, and of the whole recording


@dataclass(frozen=True, slots=True)
class Pair:
    """Two recordings of which the first is right.

    Attributes:
        good, bad: their paths from the benchmark's folder, without suffix.
        item: pairs of one item (the same words in several voices) count together as one.
        labels: the groups by which it is reported: {"voice": …, "type": …}.
    """

    good: str
    bad: str
    item: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark of pairs.

    Attributes:
        title, paper: as it is cited.
        read: (folder, split, names of the recordings) → its pairs, in the order of its list, and what is to be said of
            them. Raises CorpusError.
        ranked_by: the score that the paper, or the benchmark's own code, compares: one of `SCORES`.
        overall: whether one figure over all items is defined.
        parts: figures over some of the items: {name: whether an item with these labels belongs to it}.
        groups: labels that have a figure each: {label: over `items`, or over `pairs`}.
        averages: labels over whose groups an unweighted mean is reported too.
        scores: place of the score file of a submission, `{split}` in it.
    """

    name: str
    title: str
    paper: str
    read: Callable[[Path, str, Sequence[str]], tuple[list[Pair], list[str]]]
    ranked_by: str
    overall: bool = True
    parts: Mapping[str, Callable[[Mapping[str, str]], bool]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    averages: Sequence[str] = ()
    scores: str | None = None


def worth(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """(N,) float64 from two (N,) scores, of which the larger is likelier: 1, for a tie 1/2, else 0."""
    return (good > bad) + 0.5 * (good == bad)


def figures(
    benchmark: Benchmark, pairs: Sequence[Pair], scores: Mapping[str, float], *, seed: int = 0
) -> dict[str, Any]:
    """All figures of a benchmark, from one score a recording.

    An item's value is the mean over its pairs, that is over its voices; a figure is the mean over items.

    Args:
        scores: by `Pair.good` and `Pair.bad`; the larger is likelier.

    Returns:
        {name: {"value", "low", "high": its 95 % interval by a bootstrap over items, "std": of a sample, missing for
        one item, "n": items}}; `all`, the parts, `mean over LABELs`, and under each label its groups, by name.

    Raises:
        CorpusError: no pair.
    """
    if not pairs:
        raise CorpusError(f"{benchmark.name}: no pair to compare; is the folder complete?")
    won = worth(*(np.array([scores[getattr(p, side)] for p in pairs], np.float64) for side in ("good", "bad")))
    items: dict[str, list[int]] = {}
    for n, pair in enumerate(pairs):
        items.setdefault(pair.item, []).append(n)
    values = np.array([won[members].mean() for members in items.values()])
    labels = [pairs[members[0]].labels for members in items.values()]
    out: dict[str, Any] = {"all": _figure(values, seed)} if benchmark.overall else {}
    for name, belongs in benchmark.parts.items():
        if (chosen := values[[belongs(own) for own in labels]]).size:
            out[name] = _figure(chosen, seed)
    for label, over in benchmark.groups.items():
        members = labels if over == "items" else [pair.labels for pair in pairs]
        if any(label in own for own in members):
            grouped = _grouped(values if over == "items" else won, [own.get(label, "") for own in members])
            out[label] = {name: _figure(group, seed) for name, group in grouped.items()}
    for label in benchmark.averages:
        if label in out:
            out[f"mean over {label}s"] = _figure(np.array([g["value"] for g in out[label].values()]), seed)
    return out


def _grouped(values: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
    groups: dict[str, list[float]] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        groups.setdefault(name, []).append(value)
    return {name: np.array(groups[name]) for name in sorted(groups, key=_order)}


def _order(name: str) -> tuple[float, str]:
    """Numbers by size, then the rest by name."""
    return (float(name) if name.replace(".", "", 1).isdigit() else np.inf, name)


def _figure(values: np.ndarray, seed: int) -> dict[str, float]:
    low, high = interval(values, seed=seed)
    spread = {"std": float(values.std(ddof=1))} if len(values) > 1 else {}
    return {"value": float(values.mean()), "low": low, "high": high, **spread, "n": len(values)}
