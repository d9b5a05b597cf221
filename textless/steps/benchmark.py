"""Benchmarks of spoken language models as steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from textless.benchmarks.names import NEEDS
from textless.checks import OneOf, Seed
from textless.engine.step import HashFile, Source, Step, path, takes
from textless.errors import TrainingError
from textless.steps.common import place
from textless.steps.units import Frames, frames_contract

if TYPE_CHECKING:
    from textless.engine.job import Job


@dataclass(frozen=True, kw_only=True)
class BenchmarkData(Source):
    """A benchmark, in its folder as it is published; its recordings are a `corpus` of the same folder."""

    type = "benchmark_data"
    gives = ("benchmark",)
    name: Annotated[str, OneOf(*NEEDS)]
    folder: str = path()
    split: str = "dev"

    def content(self, hash_file: HashFile) -> Any:
        from textless.benchmarks.layout import audio_files

        folder = Path(self.folder)
        tables = sorted(f for end in ("*.csv", "*.item") for f in folder.rglob(end))
        return [
            self.name,
            self.split,
            audio_files(folder),
            [[f.relative_to(folder).as_posix(), hash_file(str(f))] for f in tables],
        ]


@dataclass(frozen=True, kw_only=True)
class Benchmark(Step):
    """A benchmark's figures, in `result.json` and `table.txt`, with its score files and tables.

    Benchmarks of pairs need `units` and `lm`; `ssimi` needs `frames`, `abx` either of `frames` and `units`.
    """

    type = "benchmark"
    gives = ("metrics",)
    data: BenchmarkData
    units: Step | None = takes("units", None)
    lm: Step | None = takes("lm", None)
    frames: Frames | None = None
    seed: Seed = 0

    def check(self) -> None:
        needs, name = NEEDS[self.data.name], self.data.name
        if needs == "lm" and not (self.units and self.lm and not self.frames):
            raise TrainingError(f"{name} scores units with a language model; give units and lm, and no frames")
        if needs == "frames" and (self.lm or bool(self.frames) == bool(self.units)):
            raise TrainingError(f"{name} measures frames or units; give one of the two, and no lm")
        if name == "ssimi" and self.units:
            raise TrainingError("ssimi measures frames of an encoder, not units; give frames")
        if self.frames and self.frames.fraction < 1:
            raise TrainingError(f"only {self.frames.fraction:g} of the frames are kept; {name} needs all (fraction: 1)")

    def run(self, job: Job) -> None:
        from textless.benchmarks.base import flat
        from textless.benchmarks.table import run_benchmark
        from textless.lm import load_lm
        from textless.units.dump import Dump
        from textless.units.frames import read_frames
        from textless.units.merges import base_rows

        measured: dict[str, Any]
        if self.frames:
            contract = frames_contract(job.inputs["frames"])
            frames = dict(read_frames(job.inputs["frames"]))
            measured = {"frames": frames, "frame_rate": contract.frame_rate or 0}
        else:
            dump = Dump(job.inputs["units"])
            contract = dump.contract
            measured = {"rows": dump}
            if self.lm:
                measured["lm"] = lm = load_lm(place(job, self, "lm"), contract=contract.base())
                lm.base_contract.check(contract.base(), mine="the language model", theirs="the units")
                measured["rows"] = base_rows(dump)
        data = self.data
        report = run_benchmark(data.name, data.folder, split=data.split, seed=self.seed, **measured)
        report.write(job.path)
        ranked = report.result["figures"][report.result["ranked_by"]]
        job.metrics = {name: figure["value"] for name, figure in flat(ranked).items()}
        job.contract = contract.to_dict()
