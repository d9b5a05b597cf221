"""What several steps need."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from textless.checks import OneOf, Text
from textless.engine.step import HashFile, MapStep
from textless.errors import TrainingError
from textless.steps.sources import Corpus, Model, or_missing

if TYPE_CHECKING:
    from textless.audio.corpus import PackedAudio
    from textless.engine.job import Job
    from textless.training.tensorboard import Board
    from textless.types import UnitContract
    from textless.units.dump import UnitRow


Precision = Annotated[str, OneOf("fp32", "bf16")]  # `auto` differs from machine to machine
# Whether it is there is asked where the step runs, which may be another machine.
Device = Annotated[str, Text(r"cpu|cuda(:\d+)?|mps(:\d+)?", "cpu, cuda or cuda:N")]


class AudioMap(MapStep):
    """A map over the rows of `audio`."""

    audio: Corpus

    def rows(self, job: Job) -> list:
        return list(self.audio.load())

    def identity(self, row: Any, hash_file: HashFile) -> Any:
        from textless.audio.corpus import row_identity

        return row_identity(row, or_missing(hash_file))


def units_identity(row: UnitRow) -> list[Any]:
    """What makes a row of units what it is, their contract included: a model may take these and refuse the same numbers of another."""
    units, durations = row.units.units, row.units.durations
    digest = hashlib.sha256(units.tobytes() + (b"" if durations is None else b"/" + durations.tobytes()))
    digest.update(_contract_text(row.units.contract).encode())
    return [
        row.id,
        digest.hexdigest(),
        row.speaker,
        row.source,
        row.offset,
        row.samples,
        repr(sorted(row.extra.items())),
    ]


# What a contract's text began with when the first keys were made. Keys of `continue` and `resynth` depend on it.
_FIRST_FIELDS = (
    "encoder", "layer", "window", "normalisation", "transform", "sample_rate", "frame_rate", "n_units", "codebook",
)  # fmt: skip


def _contract_text(contract: UnitContract) -> str:
    """A contract as it enters keys. A field that came later enters only where it is known, so that old keys stay."""
    values = contract.to_dict()
    entered = [k for k in values if k in _FIRST_FIELDS or values[k] is not None]
    return f"UnitContract({', '.join(f'{k}={values[k]!r}' for k in entered)})"


def place(job: Job, step: Any, field: str) -> Path | str:
    """Where the model that a field names lies: an artefact, or a part of weights from outside."""
    value = getattr(step, field)
    return value.part(field) if isinstance(value, Model) else job.inputs[field]


def finish_units(job: Job, contract: UnitContract) -> None:
    from textless.units.dump import finish_dump

    job.metrics = finish_dump(job.path, contract=contract)
    job.contract = contract.to_dict()


def packed(job: Job, corpus: Corpus, ids: set[str]) -> PackedAudio:
    """The audio of the rows that have units, by id, decoded into the step's scratch folder. The order of a manifest is not in the key."""
    from textless.audio.corpus import Corpus as Rows
    from textless.audio.corpus import PackedAudio
    from textless.training.distributed import first_before_others

    rows = sorted((row for row in corpus.load() if row.id in ids), key=lambda row: row.id)
    if not rows:
        raise TrainingError("no id stands both in the corpus and in the units; encode the corpus that is trained on")
    with first_before_others():
        return PackedAudio.build(Rows(rows), job.scratch / "audio")


def board(job: Job, name: str) -> Board | None:
    """TensorBoard's event files of a training, where they are wanted."""
    from textless.training.tensorboard import Board

    return Board(job.tensorboard, name) if job.tensorboard else None


def progress(job: Job, steps: int | None, board: Board | None = None) -> Any:
    def log(step: int, row: dict[str, float]) -> None:
        if board:
            board(step, row)
        figures = " ".join(f"{k} {v:.3g}" for k, v in row.items() if k != "step")
        job.progress(step, steps or step, figures)  # without a number of steps there is no telling how far it is

    return log
