"""What every benchmark is given, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from textless.metrics.bootstrap import interval
from textless.metrics.lm import Scorer
from textless.units.dump import UnitRow

Figure = dict[str, float]  # "value", and where they are defined "low", "high", "std", "n"
Figures = dict[str, Any]  # of a figure its name → Figure; of a group its label → {name: Figure}


@dataclass(frozen=True, kw_only=True)
class Given:
    """The benchmark's folder, and what is measured on it.

    Attributes:
        split: of a benchmark that has splits.
        lm, rows: a language model, and units of the recordings.
        frames, frame_rate: of an encoder: (T, D) float32 by the recording's path from the folder on, without suffix,
            or by the end of it; and frames a second.
        scores: results of another tool in the place of a model: a file or a folder.
        seed: of intervals, and of what ABX draws.
    """

    folder: Path
    split: str = "dev"
    lm: Scorer | None = None
    rows: Sequence[UnitRow] = ()
    frames: Mapping[str, np.ndarray] | None = None
    frame_rate: float = 0
    scores: Path | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a benchmark returns.

    Attributes:
        figures: of each way to measure, such as `mean` and `sum` of the log-likelihood.
        ranked_by: which of them the field compares.
        size: what was counted, such as {"pairs": 10000}.
        ties: of each way to measure, pairs of equal scores.
        notes: what is to be said of the data and of the figures, a sentence each.
        files: tables and submission files: path from the output folder → text.
    """

    figures: dict[str, Figures]
    ranked_by: str
    size: dict[str, int]
    ties: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark.

    Attributes:
        title, paper: as it is cited.
        has_splits: whether its folder has parts such as dev and test.
        chance: the figure of a system that knows nothing.
        scale: figures times this are in the unit in which they are printed.
        better: `higher` or `lower`.
        unit: in which figures are printed.
    """

    name: str
    title: str
    paper: str
    has_splits: bool = True
    chance: ClassVar[float] = 0.5
    scale: ClassVar[float] = 100
    better: ClassVar[str] = "higher"
    unit: ClassVar[str] = "accuracy, %"

    def recordings(self, folder: Path, split: str) -> list[str]:
        """Those that are measured, as paths from the folder on, without suffix. Raises CorpusError."""
        raise NotImplementedError

    def run(self, given: Given) -> Outcome:
        """Measure. Raises CorpusError."""
        raise NotImplementedError


def figure(values: np.ndarray, seed: int) -> Figure:
    """The mean of (N,) values, its 95 % interval by a bootstrap over them, and their deviation as a sample."""
    low, high = interval(values, seed=seed)
    spread = {"std": float(values.std(ddof=1))} if len(values) > 1 else {}
    return {"value": float(values.mean()), "low": low, "high": high, **spread, "n": len(values)}


def flat(figures: Figures) -> dict[str, Figure]:
    """Figures by one name: those of a group are called `LABEL NAME`."""
    out: dict[str, Figure] = {}
    for name, value in figures.items():
        if "value" in value:
            out[name] = value
        else:
            out |= {f"{name} {inner}": one for inner, one in value.items()}
    return out


def numbers_first(name: str) -> tuple[float, str]:
    """A key for sorting: numbers by size, then the rest by name."""
    return (float(name) if name.replace(".", "", 1).isdecimal() else np.inf, name)
