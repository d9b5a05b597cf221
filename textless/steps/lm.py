"""Units to units: the language model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from textless.checks import (
    Count,
    Length,
    NewUnits,
    OneOf,
    Penalty,
    Probability,
    PromptLength,
    Samples,
    Seed,
    Share,
    Temperature,
)
from textless.engine.step import HashFile, MapStep, Step, added, takes
from textless.steps.common import board, finish_units, place, progress, units_identity
from textless.training.configs import LMTrainConfig

if TYPE_CHECKING:
    from textless.engine.job import Job


@dataclass(frozen=True, kw_only=True)
class TrainLM(LMTrainConfig, Step):
    """A unit language model; `dev` units are only measured on."""

    type = "train_lm"
    gives = ("lm",)
    collective = True
    units: Step = takes("units")
    dev: Step | None = takes("units", None)
    start: Step | None = takes("lm", None)

    def run(self, job: Job) -> None:
        from textless.lm import train_lm
        from textless.lm.hf.foreign import load_start
        from textless.metrics.lm import by_speaker
        from textless.model_io import round_half
        from textless.units.dump import Dump
        from textless.units.merges import MergeTable

        dump = Dump(job.inputs["units"])
        table = MergeTable.of(dump.folder, dump.contract)
        start = None
        if self.start is not None:
            start = load_start(Path(place(job, self, "start")), dump.contract, context=self.context, seed=self.seed)
        dev = list(Dump(job.inputs["dev"])) if self.dev else []
        lm, job.metrics = train_lm(
            (row.units for row in dump),
            self,
            contract=dump.contract,
            start=start,
            dev=[row.units for row in dev],
            checkpoint=job.scratch / "checkpoint.pt",
            scratch=job.scratch,
            log=progress(job, self.updates, board(job, self.type)),
        )
        lm.load_state_dict(round_half(lm.state_dict()))
        lm.merges = table
        if speakers := by_speaker(lm, [replace(row, units=row.units.deduplicated()) for row in dev if len(row.units)]):
            job.metrics["speakers"] = speakers
        lm.save(job.path)
        job.contract = dump.contract.to_dict()


@dataclass(frozen=True, kw_only=True)
class Continue(MapStep):
    """Prompts and their continuations by the language model, as a unit dump."""

    type = "continue"
    gives = ("units",)
    version = 2
    rows_from = ("prompts",)
    lm: Step = takes("lm")
    prompts: Step = takes("units")
    seconds: Length = 3.0
    max_new_units: NewUnits | None = added(None)
    prompt_seconds: PromptLength | None = None
    samples: Samples = 1
    limit: Count | None = None
    temperature: Temperature = 0.8
    top_k: Count | None = None
    top_p: Share | None = None
    min_p: Probability | None = None
    repetition_penalty: Penalty = 1.0
    no_repeat_ngram: Count | None = None
    precision: Annotated[str, OneOf("fp32", "int8")] = "fp32"
    seed: Seed = 0
    only_new: bool = False

    def rows(self, job: Job) -> list:
        from textless.units.dump import Dump
        from textless.units.merges import base_rows

        return sorted(base_rows(Dump(job.inputs["prompts"])), key=lambda row: row.id)[: self.limit]

    def identity(self, row: Any, hash_file: HashFile) -> Any:
        return units_identity(row)

    def tools(self, job: Job) -> Any:
        from textless.lm import load_lm

        return load_lm(place(job, self, "lm"), precision=self.precision)

    def shard(self, tools: Any, rows: list, out: Path) -> list[dict[str, Any]]:
        from textless.model import continue_rows
        from textless.units.dump import write_results

        new = continue_rows(
            tools,
            rows,
            seconds=self.seconds if self.max_new_units is None else None,
            max_new_units=self.max_new_units,
            prompt_seconds=self.prompt_seconds,
            samples=self.samples,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram=self.no_repeat_ngram,
            seed=self.seed,
            only_new=self.only_new,
        )
        return write_results(out, ((row, row) for row in new), contract=tools.base_contract)

    def finish(self, job: Job, tools: Any) -> None:
        from textless.metrics.diversity import diversity
        from textless.types import Units
        from textless.units.dump import Dump

        finish_units(job, tools.base_contract)
        added: dict[str, list] = {}
        for row in Dump(job.path):
            new = Units.from_frames(row.units.frames()[row.extra["prompt_frames"] :])
            added.setdefault(row.id.removesuffix(f"-{row.extra['sample']}") if self.samples > 1 else row.id, []).append(
                new.units
            )
        if added:
            job.metrics = {**(job.metrics or {}), "diversity": diversity(added)}


@dataclass(frozen=True, kw_only=True)
class Score(Step):
    """Likelihood of units, and how often it is above that of the same units reversed, shuffled or spliced.

    With `train`, also under n-grams of those units.
    """

    type = "score"
    gives = ("metrics",)
    version = 2
    lm: Step = takes("lm")
    units: Step = takes("units")
    train: Step | None = takes("units", None)
    seed: Seed = 0

    def run(self, job: Job) -> None:
        from textless.lm import load_lm
        from textless.metrics.lm import by_speaker, controls, likelihoods, score
        from textless.units.dump import Dump
        from textless.units.merges import base_rows

        lm, rows = load_lm(place(job, self, "lm")), list(base_rows(Dump(job.inputs["units"])))
        train = [row.units for row in base_rows(Dump(job.inputs["train"]))] if self.train else ()
        (job.path / "scores.jsonl").write_text("".join(json.dumps(s) + "\n" for s in score(lm, rows)))
        job.metrics = {
            **likelihoods(lm, rows, train, seed=self.seed),
            **controls(lm, rows, seed=self.seed),
            "speakers": by_speaker(lm, rows),
        }
