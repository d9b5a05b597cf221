"""Steps: frozen, typed configurations whose keys say what their results depend on."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textless.checks import allows, check_fields
from textless.checks import runtime as runtime
from textless.errors import StepTypeError, StepValueError, quoted

if TYPE_CHECKING:
    from textless.engine.job import Job

HashFile = Callable[[str], str]


def added(default: Any) -> Any:
    """A field added to a released step type. With its default, it does not enter the keys of steps and shards."""
    return field(default=default, metadata={"added": True})


def path(default: Any = MISSING) -> Any:
    """A path, or a list of them, relative to the pipeline file. Not in the key, which the content enters instead."""
    return field(default=default, metadata={"runtime": True, "path": True})


def takes(kind: str, default: Any = MISSING) -> Any:
    """An input of one kind; see `Step.gives`."""
    return field(default=default, metadata={"takes": kind})


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage and everything that its result depends on.

    A field that holds a Step is an input; composition is the graph. To write a step, subclass it, and add the class to
    `textless.steps.STEPS`:

        @dataclass(frozen=True, kw_only=True)
        class Histogram(Step):
            type = "histogram"  # its name in pipelines
            version = 1  # raised when the result changes

            units: Step  # an input
            bins: Count = 100  # a setting, which enters the key; its annotation says what it may hold (textless.checks)
            threads: Count = runtime(1)  # not in the key

            def run(self, job: Job) -> None:
                counts = np.bincount(...)  # of the files in job.inputs["units"], the folder of that artefact
                np.save(job.path / "counts.npy", counts)

    The same fields must give the same result. A step over rows is a MapStep, data from outside a Source.
    """

    type: ClassVar[str]
    version: ClassVar[int] = 1
    # Whether several processes run it together, as a training does (engine.collective); others run in the first.
    collective: ClassVar[bool] = False
    # The kinds of input that it can be, such as "units". Empty: not known until a step reads it.
    gives: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_fields(self, StepValueError, f"{self.type}.")
        for name, hint in _inputs(type(self)).items():  # type: ignore[arg-type]  # mypy knows no hash of a class
            value = getattr(self, name)
            known = value.gives if isinstance(value, Step) else value is not None
            if known and not allows(hint, value):
                actual = f"a step {value.type}" if isinstance(value, Step) else quoted(value)
                raise StepTypeError(f"{self.type}.{name} must be {_in_words(hint)}, not {actual}")
        for f in fields(self):
            if "takes" in f.metadata:
                self.must_give(f.name, f.metadata["takes"])
        self.check()

    def must_give(self, field: str, kind: str) -> None:
        """Raise StepTypeError for an input that is of another kind."""
        value = getattr(self, field)
        if isinstance(value, Step) and value.gives and kind not in value.gives:
            raise StepTypeError(f"{self.type}.{field} must be {kind}, not a step {value.type}")

    def check(self) -> None:
        """Raise TextlessError for fields that do not go together. The range of each is in its annotation (`checks`)."""

    def run(self, job: Job) -> None:
        """Write the result into `job.path`, an empty folder, from `job.inputs`. `job.scratch` survives a crash."""
        raise NotImplementedError

    def inputs(self) -> dict[str, Step]:
        """Fields that hold steps."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Step)}

    def compared(self) -> tuple[Step, ...]:
        """Inputs whose metrics are compared with its own, and shown in the same table."""
        return ()

    def settings(self) -> dict[str, Any]:
        """All fields that enter the key, as JSON values, defaults included. Raises StepTypeError for anything else."""
        return {
            f.name: _json_value(getattr(self, f.name), f"{self.type}.{f.name}")
            for f in fields(self)
            if not f.metadata.get("runtime") and not isinstance(getattr(self, f.name), Step)
        }

    def defaults(self) -> dict[str, Any]:
        """Default of each field that has one."""
        return {f.name: _json_value(f.default, f.name) for f in fields(self) if f.default is not MISSING}

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what a step caches in other attributes is not sent to workers."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Source(Step):
    """Data from outside the graph. It has a key but no artefact: steps that take it read it through its own methods.

    To write one, declare its files with `path()` and implement `content`.
    """

    def content(self, hash_file: HashFile) -> Any:
        """A JSON value that identifies the data, wherever it is stored. `hash_file` maps a path to its sha256.

        It is called again after a step has run, for the files of the first call: if these have changed, nothing is
        published.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class MapStep(Step):
    """A step over rows, in shards with their own keys, which are reused after a crash and when the corpus grows.

    To write one, implement `rows`, `identity` and `shard` instead of `run`; `tools` for what is expensive to load. A
    shard's result may depend on the fields, on inputs that are not in `rows_from`, and on the identities of its rows;
    nothing else.
    """

    # Inputs that only list rows. What a shard's result depends on of them enters its key by `identity`.
    rows_from: ClassVar[tuple[str, ...]] = ("audio",)

    def rows(self, job: Job) -> list[Any]:
        """All rows: objects with an `id` string."""
        raise NotImplementedError

    def identity(self, row: Any, hash_file: HashFile) -> Any:
        """A JSON value of everything in a row that its result depends on."""
        raise NotImplementedError

    def tools(self, job: Job) -> Any:
        """What every shard needs, such as a loaded model; called once in each process."""
        return None

    def shard(self, tools: Any, rows: list[Any], out: Path) -> list[dict[str, Any]]:
        """Process some rows and write them to `out`, a file or folder; return the failures as {"id", "error"}."""
        raise NotImplementedError

    def shard_path(self, n: int) -> str:
        """Path of shard n within the artefact."""
        return f"data/{n:05d}.parquet"

    def finish(self, job: Job, tools: Any) -> None:
        """Called once all shards are in `job.path`."""


class Keys:
    """Payloads and keys of steps.

    A key is the sha256 of the canonical JSON of {step, version, fields that differ from their defaults, keys of
    inputs}.
    """

    def __init__(self, hash_file: HashFile) -> None:
        self.hash_file = hash_file
        # By id, with the object, so that its id is not reused.
        self._known: dict[int, tuple[Step, dict[str, Any], str]] = {}

    def of(self, step: Step) -> str:
        return self._entry(step)[2]

    def payload(self, step: Step) -> dict[str, Any]:
        return self._entry(step)[1]

    def lineage(self, step: Step) -> dict[str, dict[str, Any]]:
        """Payload of the step and of all its direct and indirect inputs, by key."""
        out: dict[str, dict[str, Any]] = {}
        waiting = [step]
        while waiting:
            step = waiting.pop()
            if self.of(step) not in out:
                out[self.of(step)] = self.payload(step)
                waiting += step.inputs().values()
        return out

    def shard(self, step: MapStep, rows: list[Any]) -> str:
        """Key of a shard: the step's payload without the inputs that rows come from, and the rows.

        All fields enter, defaults too: a shard has no manifest that would show an edited default. Only fields that were
        `added` to a released type stay out while they have their default.
        """
        inputs = {name: key for name, key in self.payload(step)["inputs"].items() if name not in step.rows_from}
        identities = [step.identity(row, self.hash_file) for row in rows]
        later = {f.name: f.default for f in fields(step) if f.metadata.get("added")}
        settings = {k: v for k, v in step.settings().items() if k not in later or v != later[k]}
        return digest(
            {"step": step.type, "version": step.version, "fields": settings, "inputs": inputs, "rows": identities}
        )

    def _entry(self, step: Step) -> tuple[Step, dict[str, Any], str]:
        if id(step) not in self._known:
            defaults = step.defaults()
            settings = {k: v for k, v in step.settings().items() if k not in defaults or defaults[k] != v}
            payload: dict[str, Any] = {"step": step.type, "version": step.version, "fields": settings}
            payload["inputs"] = {name: self.of(parent) for name, parent in step.inputs().items()}
            if isinstance(step, Source):
                payload["content"] = step.content(self.hash_file)
            self._known[id(step)] = step, payload, digest(payload)
        return self._known[id(step)]


def canonical(value: Any) -> str:
    """JSON with one spelling: keys sorted, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@functools.cache
def _inputs(cls: type[Step]) -> dict[str, Any]:
    """The hints of the fields that may hold steps."""
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # a class within a function, whose names cannot be looked up
        return {}
    return {
        f.name: hints[f.name]
        for f in fields(cls)
        if any(isinstance(o, type) and issubclass(o, Step) for o in typing.get_args(hints[f.name]) or (hints[f.name],))
    }


def _in_words(hint: Any) -> str:
    words = {type(None): "nothing", str: "a text", Step: "a step"}
    return " or ".join(str(words.get(o) or getattr(o, "type", o)) for o in typing.get_args(hint) or (hint,))


def _json_value(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [_json_value(v, where) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {k: _json_value(v, where) for k, v in value.items()}
    raise StepTypeError(
        f"{where}: {quoted(value)} ({type(value).__name__}) cannot enter a key; only JSON values and steps can"
    )
