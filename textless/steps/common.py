"""What several steps need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.errors import TrainingError
from textless.steps.sources import Corpus, Model

if TYPE_CHECKING:
    from textless.corpus import PackedAudio
    from textless.curves import Board
    from textless.engine.store import Job
    from textless.units.types import UnitContract


def place(job: Job, step: Any, field: str) -> Path | str:
    """Where the model that a field names lies: an artefact, or a part of weights from outside."""
    value = getattr(step, field)
    return value.part(field) if isinstance(value, Model) else job.inputs[field]


def finish_units(job: Job, contract: UnitContract) -> None:
    from textless.units.dump import finish_dump

    job.metrics = finish_dump(job.path, contract=contract)
    job.contract = contract.to_dict()


def packed(job: Job, corpus: Corpus, ids: set[str]) -> PackedAudio:
    """The audio of the rows that have units, decoded into the step's scratch folder."""
    from textless.corpus import Corpus as Rows
    from textless.corpus import PackedAudio
    from textless.distributed import first_before_others

    rows = [row for row in corpus.load() if row.id in ids]
    if not rows:
        raise TrainingError("no id stands both in the corpus and in the units; encode the corpus that is trained on")
    with first_before_others():
        return PackedAudio.build(Rows(rows), job.scratch / "audio")


def board(job: Job, name: str) -> Board | None:
    """TensorBoard's event files of a training, where they are wanted."""
    from textless.curves import Board

    return Board(job.tensorboard, name) if job.tensorboard else None


def progress(job: Job, steps: int, board: Board | None = None) -> Any:
    def log(step: int, row: dict[str, float]) -> None:
        if board:
            board(step, row)
        figures = " ".join(f"{k} {v:.3g}" for k, v in row.items() if k != "step")
        job.progress(step, steps, figures)

    return log
