"""The table of benchmarks, and how one is run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from textless.benchmarks.base import Benchmark, Given
from textless.benchmarks.display import show
from textless.benchmarks.phonetic import ABX
from textless.benchmarks.published import PUBLISHED
from textless.benchmarks.semantic import SSIMI
from textless.benchmarks.trees import SALMON, SSTORYCLOZE, TSTORYCLOZE
from textless.benchmarks.zerospeech import PROSAUDIT, SBLIMP, SWUGGY
from textless.errors import CorpusError, did_you_mean
from textless.metrics.lm import Scorer
from textless.units.dump import UnitRow

BENCHMARKS: dict[str, Benchmark] = {
    b.name: b for b in (SWUGGY, SBLIMP, TSTORYCLOZE, SSTORYCLOZE, SALMON, PROSAUDIT, SSIMI, ABX)
}


@dataclass(frozen=True)
class Report:
    """A benchmark's result, ready for JSON, and the text files that go with it: path from a folder on → text.

    Keys of the result: `benchmark`, `title`, `paper`, `split`; `figures` of each way to measure (see `base.Outcome`),
    `ranked_by`, `ties`; `chance`, `better` and `unit` of the figures, and `scale`, by which they are multiplied for
    print; `size`, `notes`, `published`.
    """

    result: dict[str, Any]
    files: dict[str, str]

    def json(self) -> str:
        return json.dumps(self.result, indent=1, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """`result.json`, `table.txt`, and the files."""
        texts = {"result.json": self.json(), "table.txt": show(self.result) + "\n", **self.files}
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")


def benchmark_named(name: str) -> Benchmark:
    """Raises CorpusError for an unknown name."""
    if name not in BENCHMARKS:
        raise CorpusError(f"no benchmark {name[:40]!r}{did_you_mean(name, BENCHMARKS)}")
    return BENCHMARKS[name]


class Options(TypedDict, total=False):
    """What `run_benchmark` measures, and how; see `base.Given`."""

    split: str
    lm: Scorer | None
    rows: Iterable[UnitRow]
    frames: Mapping[str, np.ndarray] | None
    frame_rate: float
    scores: Path | str | None
    seed: int


def run_benchmark(name: str, folder: Path | str, **options: Unpack[Options]) -> Report:
    """Run a benchmark of the field on a model, or on the scores of another tool.

    Args:
        folder: the benchmark as it is published (docs/benchmarks-of-the-field.md).
        options:
            split: of a benchmark that has some; `dev`.
            lm, rows: of a benchmark of pairs, the language model, and units of all recordings; `abx` takes rows alone.
            frames, frame_rate: of `ssimi` and `abx`, frames (T, D) of an encoder by recording, and frames a second.
            scores: instead: a file or folder; see `scores.read_scores`, of `ssimi` `semantic.read_matrices`.
            seed: of intervals, and of what ABX draws; 0.

    Raises:
        CorpusError: no such benchmark or folder, another layout, recordings without units, frames or scores.
    """
    benchmark, split, scores = benchmark_named(name), options.get("split", "dev"), options.get("scores")
    given = Given(
        folder=Path(folder),
        split=split,
        lm=options.get("lm"),
        rows=list(options.get("rows", ())),
        frames=options.get("frames"),
        frame_rate=options.get("frame_rate", 0),
        scores=None if scores is None else Path(scores),
        seed=options.get("seed", 0),
    )
    outcome = benchmark.run(given)
    result = {
        "benchmark": name,
        "title": benchmark.title,
        "paper": benchmark.paper,
        "split": split if benchmark.has_splits else None,
        "size": outcome.size,
        "ranked_by": outcome.ranked_by,
        "chance": benchmark.chance,
        "better": benchmark.better,
        "unit": benchmark.unit,
        "scale": benchmark.scale,
        "ties": outcome.ties,
        "figures": outcome.figures,
        "notes": outcome.notes,
        "published": [row for row in PUBLISHED if row["benchmark"] == name],
    }
    return Report(result, outcome.files)
