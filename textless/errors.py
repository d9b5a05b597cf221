"""Errors that a user can act on. The command line prints each in one line and exits with code 2."""

import difflib
import reprlib
from collections.abc import Iterable

MOST = 100  # characters of a value that a message shows


class TextlessError(Exception):
    """Base of all errors of this package. A message names what is wrong, where, and what to do about it."""


class AudioError(TextlessError):
    """A file that is missing, empty, cut short, or not audio; samples that are not numbers."""


class CorpusError(TextlessError):
    """A manifest or folder that does not describe a corpus."""


class ContractError(TextlessError):
    """Units of one kind passed to a model of another kind."""


class DumpError(TextlessError):
    """A unit dump or unit stream that cannot be read."""


class ModelError(TextlessError):
    """A model folder, checkpoint or codebook that is missing, damaged or of another architecture."""


class DeviceError(TextlessError):
    """A device that is unknown, missing, or lacks a feature."""


class TrainingError(TextlessError):
    """Training data that does not fit together: wrong label rate or length, too few frames, NaN."""


class OutputExistsError(TextlessError):
    """An output that already exists, and is of another command."""


class StepTypeError(TextlessError, TypeError):
    """A step's field holds a value of a type that cannot be part of a key."""


class StepValueError(TextlessError, ValueError):
    """A step's field holds a value that it does not allow."""


class StoreError(TextlessError):
    """The store cannot be used as it is: damaged, read-only, or made with other defaults."""


class RowsFailedError(TextlessError):
    """Every row of a step or command failed."""

    @classmethod
    def of(cls, failures: list[dict[str, str]]) -> "RowsFailedError":
        """With the only error as its message, or the number of errors and the first."""
        error = failures[0]["error"]
        return cls(
            error if len(failures) == 1 else f"none of the {len(failures)} rows could be done; the first: {error}"
        )


class PipelineError(TextlessError):
    """A pipeline file with an unknown step, field or variable. Its message has file and line."""


class SmoothingWarning(UserWarning):
    """Smoothed units that are not the cheapest, because the choice was open for too long."""


class ContractWarning(UserWarning):
    """Something about the units is unknown and cannot be checked."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be allocated, for which PyTorch raises a RuntimeError."""
    phrases = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(p in str(error) for p in phrases))


def how_to_install(extra: str) -> str:
    """The end of an error about a package that is optional: the remedy, as it works from a clone."""
    return f"in a clone of textless: pip install -c constraints.txt '.[{extra}]'"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known name, else the known names."""
    known = list(known)
    if len(name) < MOST and (close := difflib.get_close_matches(name, known[:1000], 1)):
        return f"; did you mean {close[0]!r}?"
    listed = ", ".join(cut(k) for k in known[:12])
    return f"; known: {listed}{' …' if len(known) > 12 else ''}" if known else ""


def unknown(what: str, value: object, known: Iterable[object]) -> str:
    """The message about a value that is none of the known ones: `precision is 'fp16'; known: fp32, bf16`."""
    return f"{what} is {quoted(value)}; known: {', '.join(map(str, known))}"


def check_known(what: str, value: object, known: Iterable[object], error: type[Exception]) -> None:
    """Raise `error` with the message of `unknown` unless the value is one of the known ones."""
    if value not in (known := tuple(known)):
        raise error(unknown(what, value, known))


def quoted(value: object) -> str:
    """A user's value for a message: its `repr`, shortened if it is long."""
    return repr(value) if isinstance(value, str) and len(value) <= MOST else reprlib.repr(value)


def cut(text: str) -> str:
    """A name for a message, shortened if it is long."""
    return text if len(text) <= MOST else f"{text[:MOST]}…"
