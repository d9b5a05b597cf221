"""Benchmarks of spoken language models as steps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.checks import Seed
from textless.engine.step import HashFile, Source, Step, path, takes
from textless.steps.common import place

if TYPE_CHECKING:
    from textless.engine.job import Job


@dataclass(frozen=True, kw_only=True)
class BenchmarkData(Source):
    """The list of pairs of a benchmark, in the folder as it is published; its recordings are a `corpus` of the same."""

    type = "benchmark_data"
    gives = ("benchmark",)
    name: str
    folder: str = path()
    split: str = "dev"

    def check(self) -> None:
        from textless.benchmarks.table import benchmark_named

        benchmark_named(self.name)

    def content(self, hash_file: HashFile) -> Any:
        from textless.benchmarks.table import benchmark_named
        from textless.benchmarks.trees import recordings

        folder = Path(self.folder)
        pairs, _ = benchmark_named(self.name).read(folder, self.split, recordings(folder))
        return [self.name, self.split, [[p.good, p.bad, p.item, dict(p.labels)] for p in pairs]]


@dataclass(frozen=True, kw_only=True)
class Benchmark(Step):
    """Figures of a benchmark of pairs, in `result.json`, and its submission files."""

    type = "benchmark"
    gives = ("metrics",)
    data: BenchmarkData
    units: Step = takes("units")
    lm: Step = takes("lm")
    seed: Seed = 0

    def run(self, job: Job) -> None:
        from textless.benchmarks.table import benchmark_named, run_benchmark, submission
        from textless.lm import load_lm
        from textless.units.dump import Dump

        data, dump = self.data, Dump(job.inputs["units"])
        lm = load_lm(place(job, self, "lm"), contract=dump.contract)
        lm.contract.check(dump.contract, mine="the language model", theirs="the units")
        result, scores = run_benchmark(data.name, data.folder, split=data.split, lm=lm, rows=dump, seed=self.seed)
        for kind, values in scores.items():
            submission(benchmark_named(data.name), job.path / kind, data.split, values)
        (job.path / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        ranked = result["figures"][result["ranked_by"]]
        job.metrics = {name: value["value"] for name, value in ranked.items() if "value" in value}
        job.contract = dump.contract.to_dict()
