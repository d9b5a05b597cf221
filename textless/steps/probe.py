"""Probes as a step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textless.checks import Count, Seed
from textless.engine.step import Step
from textless.errors import TrainingError
from textless.steps.align import Align, read_phones
from textless.steps.sources import Alignments, Labels
from textless.steps.units import Frames, frames_contract

if TYPE_CHECKING:
    from collections.abc import Iterable

    from textless.engine.job import Job


@dataclass(frozen=True, kw_only=True)
class Probe(Step):
    """Which labels a linear classifier reads off units or frames, and their CKA and CCA, in `probe.json`."""

    type = "probe"
    gives = ("metrics",)
    of: Step
    alignments: Alignments | Align | None = None
    labels: Labels | None = None
    column: str | None = None
    max_frames: Count = 10_000
    seed: Seed = 0

    def check(self) -> None:
        if self.of.gives:
            self.must_give("of", "frames" if isinstance(self.of, Frames) else "units")
        if sum(given is not None for given in (self.alignments, self.labels, self.column)) != 1:
            raise TrainingError("a probe needs labels; give one of alignments, labels and column")
        if isinstance(self.of, Frames) and self.of.fraction < 1 and self.alignments:
            raise TrainingError(
                f"only {self.of.fraction:g} of the frames are kept, at unknown times; probe all of them (fraction: 1)"
            )

    def run(self, job: Job) -> None:
        from textless.metrics.labelled import collect_labelled, labels_of, read_file_labels
        from textless.metrics.layers import probe_layers

        files, columns, contract = self._files(job)
        if self.column is not None:
            labels: Any = labels_of(columns, self.column)
        else:
            labels = read_file_labels(self.labels.file) if self.labels else read_phones(job, self)
        sample = collect_labelled(files, labels, contract.frame_rate or 0, most=self.max_frames, seed=self.seed)
        result = probe_layers(sample, {i: row["speaker"] for i, row in columns.items()}, seed=self.seed)
        [metrics] = result["layers"].values()
        job.metrics, job.contract = metrics, contract.to_dict()
        (job.path / "probe.json").write_text(json.dumps(result, indent=1) + "\n")

    def _files(self, job: Job) -> tuple[Iterable[Any], dict[str, dict[str, Any]], Any]:
        """Frames by file, columns of each file, contract."""
        from textless.metrics.labelled import unit_layers
        from textless.units.dump import Dump
        from textless.units.frames import read_frames

        folder = job.inputs["of"]
        if isinstance(self.of, Frames):
            columns = {row.id: {"speaker": row.speaker, "split": row.split} for row in self.of.audio.load()}
            return ((i, {"frames": x}) for i, x in read_frames(folder)), columns, frames_contract(folder)
        rows = list(Dump(folder))
        n_units = 1 + max((int(row.units.units.max(initial=0)) for row in rows), default=0)
        contract = Dump(folder).contract
        columns = {row.id: {**row.extra, "speaker": row.speaker} for row in rows}
        return unit_layers(rows, contract.n_units or n_units), columns, contract
