"""Units to fewer units of a larger vocabulary, merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from textless.checks import Between
from textless.engine.step import Step, takes
from textless.errors import TrainingError
from textless.steps.common import finish_units

if TYPE_CHECKING:
    from textless.engine.job import Job


@dataclass(frozen=True, kw_only=True)
class Merge(Step):
    """Merged units by byte-pair encoding, with their table: trained on these units, or that of another `merge`."""

    type = "merge"
    gives = ("units",)
    units: Step = takes("units")
    n_units: Annotated[int, Between(2, 2**24)] | None = None
    table: Merge | None = None

    def check(self) -> None:
        if (self.n_units is None) == (self.table is None):
            raise TrainingError("merge needs n_units, to train a table, or the table of another merge: one of the two")

    def run(self, job: Job) -> None:
        from textless.exchange.ours import write_shards
        from textless.units.card import origin_of
        from textless.units.dump import Dump
        from textless.units.merges import MergeTable, fit_merges

        dump = Dump(job.inputs["units"])
        if self.n_units is None:
            table = MergeTable.load(job.inputs["table"])
        else:
            table = fit_merges((row.units for row in dump), self.n_units, contract=dump.contract)
        table.base.check(dump.contract, mine="the merge table", theirs="the units")
        table.save(job.path)
        write_shards(job.path, map(table.merge_row, dump))
        finish_units(job, table.contract, origin_of(dump.folder))
        job.metrics = {**job.metrics, "units_before": dump.totals.get("units")}
