"""Pipeline files: YAML to steps, with file and line in every error.

`vars:` holds values and `steps:` maps names to fields; `step:` gives the type where the name does not. `$name` is a step,
`${var}` a value. Scalars follow YAML 1.2: `5e-4` is a number, `on` a string, and a key may stand once.
"""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from textless.engine.pipeline import Pipeline
from textless.engine.step import Step
from textless.errors import PipelineError, StepTypeError, did_you_mean

Table = Mapping[str, type[Step]]

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_VAR = re.compile(r"\$\{([^}]*)\}")
_STEP = re.compile(r"\$([A-Za-z_][\w-]*)")
_KEEP = ("temp", "always")


def load_pipeline(path: Path | str, table: Table, settings: Iterable[str] = ()) -> Pipeline:
    """Read a pipeline file.

    Args:
        table: step classes by type.
        settings: `var=value` and `step.field=value`, which replace what the file says. Their paths are relative to the working folder.

    Raises PipelineError naming file and line for anything unknown, missing, of a wrong type, or circular.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as e:
        raise PipelineError(f"{path}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise PipelineError(f"{path}: not a text file") from None
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        raise PipelineError(f"{path}{f':{mark.line + 1}' if mark else ''}: not YAML ({getattr(e, 'problem', e)})") from None
    return _Loader(path, table, root, list(settings)).pipeline()


class _Value(typing.NamedTuple):
    """A value, where it stands, and the folder that paths in it start from."""

    value: Any
    place: str
    base: Path


class _Loader:
    def __init__(self, path: Path, table: Table, root: yaml.Node | None, settings: list[str]) -> None:
        self.path, self.table = path, table
        top = self._mapping(root, "the pipeline") if root is not None else {}
        for name, (_, node) in top.items():
            if name not in ("vars", "steps"):
                raise PipelineError(f"{self._place(node)}: unknown section {name!r}{did_you_mean(name, ('vars', 'steps'))}")
        if "steps" not in top:
            raise PipelineError(f"{path}: no `steps:`; a pipeline maps names to steps")
        self.vars = self._section(top, "vars")
        self.specs = {
            name: {field: self._value(node) for field, (_, node) in self._mapping(node, name).items()}
            for name, (_, node) in self._mapping(top["steps"][1], "steps").items()
        }
        self.places = {name: self._place(key) for name, (key, _) in self._mapping(top["steps"][1], "steps").items()}
        self.steps: dict[str, Step] = {}
        self.temporary: set[str] = set()
        for setting in settings:
            self._override(setting)

    def pipeline(self) -> Pipeline:
        for name in self.specs:
            self._step(name, ())
        return Pipeline({name: self.steps[name] for name in self.specs}, self.temporary)

    # -------------------------------------------------------------------------------------------------- YAML nodes

    def _place(self, node: yaml.Node) -> str:
        return f"{self.path}:{node.start_mark.line + 1}"

    def _mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        if isinstance(node, yaml.ScalarNode) and not node.value:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise PipelineError(f"{self._place(node)}: {what} must be a mapping")
        out: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.value in out:
                raise PipelineError(f"{self._place(key)}: {key.value!r} stands twice")
            out[key.value] = key, value
        return out

    def _section(self, top: dict[str, tuple[yaml.Node, yaml.Node]], name: str) -> dict[str, _Value]:
        return {k: self._value(v) for k, (_, v) in self._mapping(top[name][1], name).items()} if name in top else {}

    def _value(self, node: yaml.Node) -> _Value:
        return _Value(self._plain(node), self._place(node), self.path.resolve().parent)

    def _plain(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(n) for n in node.value]
        if isinstance(node, yaml.MappingNode):
            return {k: self._plain(v) for k, (_, v) in self._mapping(node, "a value").items()}
        return scalar(node.value) if node.style is None else node.value

    # --------------------------------------------------------------------------------------------------- overrides

    def _override(self, setting: str) -> None:
        name, equals, text = setting.partition("=")
        if not equals:
            raise PipelineError(f"-s {setting}: expected name=value or step.field=value")
        value = _Value(scalar(text), f"-s {setting}", Path.cwd())
        step, dot, field = name.partition(".")
        if not dot:
            if name not in self.vars:
                raise PipelineError(f"-s {setting}: no variable {name!r}{did_you_mean(name, self.vars)}")
            self.vars[name] = value
        elif step not in self.specs:
            raise PipelineError(f"-s {setting}: no step {step!r}{did_you_mean(step, self.specs)}")
        else:
            self.specs[step][field] = value

    # ------------------------------------------------------------------------------------------------------- steps

    def _step(self, name: str, above: tuple[str, ...]) -> Step:
        if name in self.steps:
            return self.steps[name]
        if name in above:
            raise PipelineError(f"{self.places[name]}: {' → '.join((*above, name))} is a circle")
        spec = dict(self.specs[name])
        kind, place, _ = spec.pop("step", _Value(name, self.places[name], Path()))
        if kind not in self.table:
            raise PipelineError(f"{place}: unknown step {kind!r}{did_you_mean(str(kind), self.table)}")
        if keep := spec.pop("keep", None):
            if keep.value not in _KEEP:
                raise PipelineError(f"{keep.place}: keep is {keep.value!r}; known: {', '.join(_KEEP)}")
            if keep.value == "temp":
                self.temporary.add(name)
        cls = self.table[kind]
        hints = typing.get_type_hints(cls)
        known = {f.name: f for f in fields(cls)}
        arguments = {}
        for key, value in spec.items():
            if key not in known:
                raise PipelineError(f"{value.place}: step {kind} has no field {key!r}{did_you_mean(key, known)}")
            resolved = self._resolve(value, (*above, name))
            if known[key].metadata.get("path"):
                resolved = _rebase(resolved)
            arguments[key] = _coerce(resolved, hints[key], f"{name}.{key}")
        if missing := [f.name for f in known.values() if f.default is MISSING and f.name not in arguments]:
            raise PipelineError(f"{self.places[name]}: step {kind} needs {', '.join(missing)}")
        try:
            self.steps[name] = cls(**arguments)
            self.steps[name].settings()
        except StepTypeError as e:
            raise PipelineError(f"{self.places[name]}: {e}") from None
        return self.steps[name]

    def _resolve(self, value: _Value, above: tuple[str, ...], seen: tuple[str, ...] = ()) -> _Value:
        """Replace `$step` and `${var}`. A path takes the folder of the variable that it starts with."""
        if isinstance(value.value, list):
            parts = [self._resolve(value._replace(value=v), above, seen) for v in value.value]
            return value._replace(value=[_rebased_path(p) if p.base != value.base else p.value for p in parts])
        text = value.value
        if not isinstance(text, str):
            return value
        if match := _STEP.fullmatch(text):
            if (name := match[1]) not in self.specs:
                raise PipelineError(f"{value.place}: no step ${name}{did_you_mean(name, self.specs)}")
            return value._replace(value=self._step(name, above))
        if match := _VAR.fullmatch(text):
            return self._resolve(self._var(match[1], value, seen), above, (*seen, match[1]))
        base = value.base
        if (first := _VAR.match(text)) and first[1] in self.vars:
            base = self.vars[first[1]].base

        def expand(match: re.Match[str]) -> str:
            return str(self._resolve(self._var(match[1], value, seen), above, (*seen, match[1])).value)

        return value._replace(value=_VAR.sub(expand, text), base=base)

    def _var(self, name: str, value: _Value, seen: tuple[str, ...]) -> _Value:
        if name in seen:
            raise PipelineError(f"{value.place}: ${{{name}}} refers to itself")
        if name not in self.vars:
            raise PipelineError(f"{value.place}: no variable ${{{name}}}{did_you_mean(name, self.vars)}")
        found = self.vars[name]
        return found._replace(place=value.place)


def scalar(text: str) -> Any:
    """A plain scalar by the core schema of YAML 1.2."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _rebase(value: _Value) -> _Value:
    if isinstance(value.value, list):
        return value._replace(value=[_rebased_path(value._replace(value=v)) for v in value.value])
    return value._replace(value=_rebased_path(value))


def _rebased_path(value: _Value) -> Any:
    return os.path.normpath(value.base / value.value) if isinstance(value.value, str) else value.value


def _coerce(value: _Value, hint: Any, field: str) -> Any:
    """Check a value against a field's type; a whole number is taken where a float is wanted, so that 1 and 1.0 have one key."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is float and type(value.value) is int:
            return float(value.value)
        if origin is type(None) and value.value is None:
            return None
        if isinstance(origin, type) and isinstance(value.value, origin) and not (isinstance(value.value, bool) and origin is not bool):
            return value.value
    wanted = " or ".join("nothing" if o is type(None) else getattr(o, "__name__", str(o)).lower() for o in options)
    raise PipelineError(f"{value.place}: {field} must be {wanted}, not {value.value!r}")
