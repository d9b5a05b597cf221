"""Pipeline files: YAML to steps, with file and line in every error.

`vars:` holds values and `steps:` maps names to fields; `step:` gives the type where the name does not. `$name` is a step,
`${var}` a value. `extends:` names a file to start from (see recipe), `sweep:` lists of settings to be tried in all combinations.
Scalars follow YAML 1.2: `5e-4` is a number, `on` a string, and a key may stand once.
"""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from textless.engine.pipeline import Pipeline
from textless.engine.recipe import Find, Recipe, read_recipe
from textless.engine.scalars import Value, coerce, plain, scalar
from textless.engine.step import Step
from textless.engine.sweep import combinations, instances
from textless.errors import PipelineError, TextlessError, cut, did_you_mean, quoted

Table = Mapping[str, type[Step]]

_VAR = re.compile(r"\$\{([^}]*)\}")
_STEP = re.compile(r"\$([A-Za-z_][\w-]*)")
_KEEP = ("temp", "always")
LONGEST = 1 << 20  # characters of a value
EXPANDED = 50_000_000  # characters that variables stand for, in all combinations of a sweep
EACH = 50  # what a variable costs of these, however short it is
DEEPEST = 150  # steps, each taking the one before
INSTANCES = 100_000  # steps, in all combinations of a sweep


def load_pipeline(
    path: Path | str, table: Table, settings: Iterable[str] = (), *, find: Find | None = None
) -> Pipeline:
    """Read a pipeline file.

    Args:
        table: step classes by type.
        settings: `var=value` and `step.field=value`, which replace what the file says. Their paths are relative to the working folder.
        find: maps the name of a recipe, as `extends:` may have it in the place of a file, to a file.

    Raises PipelineError naming file and line for anything unknown, missing, of a wrong type, or circular.
    """
    try:
        return _Builder(read_recipe(Path(path), find), table, settings).pipeline()
    except RecursionError:
        raise PipelineError(
            f"{path}: a chain of more than {DEEPEST} steps, or of as many variables; shorten it"
        ) from None


class _Builder:
    def __init__(self, recipe: Recipe, table: Table, settings: Iterable[str]) -> None:
        self.table, self.vars, self.specs = table, recipe.vars, recipe.steps
        self.places, self.inherited = recipe.places, recipe.inherited
        self.axes = dict(recipe.sweep or {})
        self.steps: dict[str, Step] = {}
        self.temporary: set[str] = set()
        self._known: dict[tuple[Any, ...], Step] = {}
        self._depths: dict[int, int] = {}
        self._resolved: dict[str, Value] = {}  # variables
        self._sizes: dict[
            int, tuple[list[Any], int]
        ] = {}  # by list, which is kept so that its address is not given to another
        self._expanded = 0
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise PipelineError(f"-s {setting}: expected name=value or step.field=value")
            try:
                self._set(name, Value(scalar(text), f"-s {setting}", Path.cwd()), f"-s {setting}")
            except ValueError as e:
                raise PipelineError(f"-s {name}: {e}") from None
            self.axes.pop(name, None)

    def pipeline(self) -> Pipeline:
        built: dict[str, list[Step]] = {name: [] for name in self.specs}
        for name, axis in self.axes.items():
            if name.endswith(".keep"):
                raise PipelineError(f"{axis.place}: {name} changes nothing that is made, and cannot be swept")
        ways = combinations(self.axes)
        if len(ways) * len(self.specs) > INSTANCES:
            place = next(iter(self.axes.values())).place if self.axes else next(iter(self.places.values()))
            raise PipelineError(
                f"{place}: {len(self.specs)} steps in {len(ways)} combinations are more than {INSTANCES}; split the file"
            )
        for combination in ways:
            for (name, axis), choice in zip(self.axes.items(), combination, strict=True):
                self._set(name, choice.value, axis.place)
            self.steps, self._resolved, self._sizes = {}, {}, {}
            for name in self.specs:
                built[name].append(self._step(name, ()))
        steps: dict[str, Step] = {}
        variants: dict[str, dict[str, Any]] = {}
        temporary: set[str] = set()
        for name in self.specs:
            for full, (step, swept) in instances(name, built[name], self.axes).items():
                steps[full] = step
                if swept:
                    variants[full] = swept
                if name in self.temporary:
                    temporary.add(full)
        return Pipeline(steps=steps, temporary=temporary, variants=variants)

    def _set(self, name: str, value: Value, place: str) -> None:
        """Give a variable, or a field by `step.field`, another value. `place` is where the name stands."""
        step, dot, field = name.partition(".")
        if not dot:
            if name not in self.vars:
                raise PipelineError(f"{place}: no variable {quoted(name)}{did_you_mean(name, self.vars)}")
            self.vars[name] = value
        elif step not in self.specs:
            raise PipelineError(f"{place}: no step {quoted(step)}{did_you_mean(step, self.specs)}")
        else:
            self.specs[step][field] = value

    # ------------------------------------------------------------------------------------------------------- steps

    def _step(self, name: str, above: tuple[str, ...]) -> Step:
        if name not in self.steps:
            self.steps[name] = self._build(name, above)
        return self.steps[name]

    def _build(self, name: str, above: tuple[str, ...]) -> Step:
        if name in above:
            raise PipelineError(f"{self.places[name]}: {' → '.join((*above, name))} is a circle")
        spec = dict(self.specs[name])
        kind, place, _ = spec.pop("step", Value(name, self.places[name], Path()))
        if not isinstance(kind, str) or kind not in self.table:
            raise PipelineError(
                f"{place}: unknown step {quoted(kind)}{did_you_mean(str(kind), [*self.table, *sorted(self.inherited - {name})])}"
            )
        if keep := spec.pop("keep", None):
            if keep.value not in _KEEP:
                raise PipelineError(f"{keep.place}: keep is {quoted(keep.value)}; known: {', '.join(_KEEP)}")
            if keep.value == "temp":
                self.temporary.add(name)
        cls = self.table[kind]
        known, hints = _fields(cls)
        arguments = {}
        for key, value in spec.items():
            if key not in known:
                raise PipelineError(f"{value.place}: step {kind} has no field {quoted(key)}{did_you_mean(key, known)}")
            resolved = self._resolve(value, (*above, name))
            found = plain(resolved, path=known[key].metadata.get("path", False))
            arguments[key] = coerce(found, hints[key], f"{resolved.place}: {name}.{key}")
        if missing := [f.name for f in known.values() if f.default is MISSING and f.name not in arguments]:
            raise PipelineError(f"{self.places[name]}: step {kind} needs {', '.join(missing)}")
        try:
            return self._one(cls(**arguments))
        except TextlessError as e:
            raise PipelineError(f"{self.places[name]}: {e}") from None

    def _one(self, step: Step) -> Step:
        """The one object for this configuration, so that equal steps are told without comparing all that is above them."""
        key = (type(step), *(_identity(getattr(step, name)) for name in _fields(type(step))[0]))
        if key not in self._known:
            step.settings()
            self._known[key] = step
            self._depths[id(step)] = 1 + max((self._depths[id(s)] for s in step.inputs().values()), default=0)
            if self._depths[id(step)] > DEEPEST:
                raise RecursionError
        return self._known[key]

    def _resolve(self, value: Value, above: tuple[str, ...], seen: tuple[str, ...] = ()) -> Value:
        """Replace `$step` and `${var}`. A path takes the folder of the variable that it starts with."""
        text = value.value
        if isinstance(text, list):
            return value._replace(value=[self._resolve(part, above, seen) for part in text])
        if not isinstance(text, str):
            return value
        if match := _STEP.fullmatch(text):
            if (name := match[1]) not in self.specs:
                raise PipelineError(f"{value.place}: no step ${cut(name)}{did_you_mean(name, self.specs)}")
            return value._replace(value=self._step(name, above))

        def of(match: re.Match[str]) -> Value:
            name = match[1]
            if name not in self._resolved:
                self._resolved[name] = self._resolve(self._var(name, value, seen), above, (*seen, name))
            size = self._size(self._resolved[name])
            self._expanded += EACH + size
            if size > LONGEST or self._expanded > EXPANDED:
                raise PipelineError(
                    f"{value.place}: variables of variables say a text without end; write what is meant"
                )
            return self._resolved[name]

        if match := _VAR.fullmatch(text):
            return of(match)
        base = of(first).base if (first := _VAR.match(text)) else value.base
        return value._replace(value=_VAR.sub(lambda match: str(plain(of(match))), text), base=base)

    def _size(self, value: Value) -> int:
        """Characters of a text; of a list, those of all that it holds, however often it holds the same."""
        if not isinstance(value.value, list):
            return len(value.value) if isinstance(value.value, str) else 1
        key = id(value.value)
        if key not in self._sizes:
            self._sizes[key] = value.value, 1 + sum(map(self._size, value.value))
        return self._sizes[key][1]

    def _var(self, name: str, value: Value, seen: tuple[str, ...]) -> Value:
        if name in seen:
            raise PipelineError(f"{value.place}: ${{{cut(name)}}} refers to itself")
        if name not in self.vars:
            raise PipelineError(f"{value.place}: no variable ${{{cut(name)}}}{did_you_mean(name, self.vars)}")
        return self.vars[name]


@functools.cache
def _fields(cls: type[Step]) -> tuple[dict[str, Field[Any]], dict[str, Any]]:
    """A step's fields and their types, by name."""
    return {f.name: f for f in fields(cls)}, typing.get_type_hints(cls)


def _identity(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_identity, value))
    return id(value) if isinstance(value, Step) else repr(value)
