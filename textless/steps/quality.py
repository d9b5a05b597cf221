"""What units and frames are worth: against phones, and against changes of the sound."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textless.engine.step import MapStep, Step, runtime
from textless.errors import AudioError, TrainingError
from textless.steps.common import place
from textless.steps.sources import Alignments, Corpus, Items
from textless.steps.units import Frames, encoder_of, frames_contract

if TYPE_CHECKING:
    from pathlib import Path

    from textless.engine.store import Job
    from textless.units.encode import Tokenizer


def _phones(step: Any) -> dict[str, Any]:
    from textless.units.items import read_items
    from textless.units.quality import read_alignments

    return {
        "alignments": read_alignments(step.alignments.file) if step.alignments else None,
        "items": read_items(step.items.file) if step.items else None,
    }


def _finish(job: Job, name: str, figures: dict[str, float], contract: dict[str, Any]) -> None:
    job.metrics, job.contract = figures, contract
    (job.path / name).write_text(json.dumps(figures, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class UnitQuality(Step):
    """PNMI, purities, discrete ABX and bit rates of units, in `quality.json`."""

    type = "quality"
    version = 2
    units: Step
    alignments: Alignments | None = None
    items: Items | None = None
    seed: int = 0

    def run(self, job: Job) -> None:
        from textless.units.dump import Dump
        from textless.units.quality import measure_units

        dump = Dump(job.inputs["units"])
        _finish(job, "quality.json", measure_units(dump, **_phones(self), seed=self.seed), dump.contract.to_dict())


@dataclass(frozen=True, kw_only=True)
class FrameABX(Step):
    """ABX of frames that are on disk, in `abx.json`."""

    type = "abx"
    frames: Frames
    alignments: Alignments | None = None
    items: Items | None = None
    distance: str = "angular"
    max_items: int = 10
    max_speakers: int = 5
    seed: int = 0

    def run(self, job: Job) -> None:
        from textless.units.frames import read_frames
        from textless.units.quality import measure_frames

        if self.frames.fraction < 1:
            raise TrainingError(f"only {self.frames.fraction:g} of the frames were kept; abx needs them all (fraction: 1)")
        if self.distance not in ("angular", "euclidean"):
            raise TrainingError(f"distance {self.distance!r} is unknown; known: angular, euclidean")
        if self.alignments is None and self.items is None:
            raise TrainingError("abx compares phones; give alignments or items")
        contract = frames_contract(job.inputs["frames"])
        figures = measure_frames(
            dict(read_frames(job.inputs["frames"])),
            frame_rate=contract.frame_rate or 0,
            **_phones(self),
            speakers={row.id: row.speaker for row in self.frames.audio.load()},
            distance=self.distance,
            max_items=self.max_items,
            max_speakers=self.max_speakers,
            seed=self.seed,
        )
        _finish(job, "abx.json", figures, contract.to_dict())


@dataclass(frozen=True, kw_only=True)
class Robustness(MapStep):
    """Unit edit distances between audio and the same made faster, slower, higher, lower and noisy, in `robustness.json`."""

    type = "robustness"
    audio: Corpus
    encoder: str | Step
    codebook: Step
    layer: int | None = None
    window: float | None = None
    precision: str = "fp32"
    seed: int = 0
    device: str = runtime("cpu")

    def rows(self, job: Job) -> list:
        return list(self.audio.load())

    def tools(self, job: Job) -> Tokenizer:
        from textless.units.encode import Tokenizer
        from textless.units.kmeans import load_codebook

        codebook = load_codebook(place(job, self, "codebook"))
        return Tokenizer(encoder_of(job, self, codebook.contract), codebook)

    def shard_path(self, n: int) -> str:
        return f"data/{n:05d}.jsonl"

    def shard(self, tools: Tokenizer, rows: list, out: Path) -> list[dict[str, Any]]:
        from textless.corpus import read_rows
        from textless.units.robustness import edit_distances

        failures, lines = [], []
        for row, waveform in read_rows(rows):
            try:
                if isinstance(waveform, AudioError):
                    raise waveform
                figures = edit_distances(waveform, tools.encode_batch, name=row.id, seed=self.seed)
                lines.append(json.dumps({"id": row.id, **figures}) + "\n")
            except AudioError as e:
                failures.append({"id": row.id, "error": str(e)})
        out.write_text("".join(lines))
        return failures

    def finish(self, job: Job, tools: Tokenizer) -> None:
        from textless.units.robustness import mean_distances

        rows = [json.loads(line) for file in sorted(job.path.glob("data/*.jsonl")) for line in file.read_text().splitlines()]
        figures = mean_distances({k: v for k, v in row.items() if k != "id"} for row in rows)
        _finish(job, "robustness.json", figures, tools.contract.to_dict())
