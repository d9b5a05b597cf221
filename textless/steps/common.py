"""Helpers of several steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from textless.engine.step import HashFile, MapStep, Step
from textless.errors import AudioError, TextlessError, TrainingError
from textless.steps.sources import Corpus, Model, or_missing

if TYPE_CHECKING:
    from textless.audio.corpus import PackedAudio
    from textless.audio.corpus import Row as AudioRow
    from textless.engine.job import Job
    from textless.training.loop import Log, Row
    from textless.training.tensorboard import Board
    from textless.types import UnitContract, UnitRow
    from textless.units.card import Origin


class _Named(Protocol):
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=_Named)
T = TypeVar("T")
Failures = list[dict[str, Any]]


class AudioMap(MapStep):
    """A map over the rows of `audio`."""

    audio: Corpus

    def rows(self, job: Job) -> list[AudioRow]:
        return list(self.audio.load())

    def identity(self, row: AudioRow, hash_file: HashFile) -> Any:
        from textless.audio.corpus import row_identity

        return row_identity(row, or_missing(hash_file))


def collect(
    rows: Iterable[tuple[R, T | AudioError]],
    work: Callable[[R, T], None],
    errors: type[TextlessError] = AudioError,
) -> Failures:
    """Call `work` for each row and its waveform or the like; return the rows that fail as {"id", "error"}.

    A row fails when it has an AudioError in place of its value, or when `work` raises one of `errors`.
    """
    failures: Failures = []
    for row, value in rows:
        try:
            if isinstance(value, AudioError):
                raise value
            work(row, value)
        except errors as e:
            failures.append({"id": row.id, "error": str(e)})
    return failures


def units_identity(row: UnitRow) -> list[Any]:
    """Everything of a row of units that a result depends on; the contract decides whether a model accepts them."""
    units, durations = row.units.units, row.units.durations
    digest = hashlib.sha256(units.tobytes() + (b"" if durations is None else b"/" + durations.tobytes()))
    digest.update(b"" if row.units.pitch is None else b"/" + row.units.pitch.tobytes())
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


# The fields of a contract when the first keys were computed. Keys of `continue` and `resynth` depend on them.
_FIRST_FIELDS = (
    "encoder", "layer", "window", "normalisation", "transform", "sample_rate", "frame_rate", "n_units", "codebook",
)  # fmt: skip


def _contract_text(contract: UnitContract) -> str:
    """A contract as it enters keys. Fields that were added later enter only where known, so that old keys stay."""
    values = contract.to_dict()
    entered = [k for k in values if k in _FIRST_FIELDS or values[k] is not None]
    return f"UnitContract({', '.join(f'{k}={values[k]!r}' for k in entered)})"


def place(job: Job, step: Step, field: str) -> Path | str:
    """Path or published name of the model in a field of a step: an artefact, or a part of a `Model`."""
    value = getattr(step, field)
    return value.part(field) if isinstance(value, Model) else job.inputs[field]


def finish_units(job: Job, contract: UnitContract, origin: Origin | None = None) -> None:
    """Complete the dump of a step. `origin`: of the audio that its rows are units of."""
    from textless.units.dump import finish_dump

    job.metrics = finish_dump(job.path, contract=contract, **(origin.stated() if origin else {}))
    job.contract = contract.to_dict()


def packed(job: Job, corpus: Corpus, ids: set[str], folder: str = "audio") -> PackedAudio:
    """The audio of the rows that have units, decoded into a folder of the scratch folder.

    Sorted by id, because the order of a manifest is not in the key. Raises TrainingError when there are none.
    """
    from textless.audio.corpus import Corpus as Rows
    from textless.audio.corpus import PackedAudio
    from textless.training.distributed import first_before_others

    rows = sorted((row for row in corpus.load() if row.id in ids), key=lambda row: row.id)
    if not rows:
        raise TrainingError("the corpus and the units have no id in common; encode the corpus that is trained on")
    with first_before_others():
        return PackedAudio.build(Rows(rows), job.scratch / folder)


def board(job: Job, name: str) -> Board | None:
    """The TensorBoard writer of a training, where event files are asked for."""
    from textless.training.tensorboard import Board

    return Board(job.tensorboard, name) if job.tensorboard else None


def progress(job: Job, steps: int | None, board: Board | None = None) -> Log:
    """The `log` of a training: to the job's progress and to TensorBoard. `steps` is None for a budget of time."""

    def log(step: int, row: Row) -> None:
        if board:
            board(step, row)
        metrics = " ".join(f"{k} {v:.3g}" for k, v in row.items() if k != "step")
        job.progress(step, steps or step, metrics)

    return log
