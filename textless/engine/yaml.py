"""Pipeline files: YAML to steps, with file and line in every error.

`vars:` holds values and `steps:` maps names to fields; `step:` gives the type where the name does not. `$name` is a
step, `${var}` a value. `extends:` names a file to start from, `sweep:` lists of settings to be tried in all
combinations. Scalars follow YAML 1.2: `5e-4` is a number, `on` a string, and a duplicate key is an error.

`read_recipe` parses a file and the files that it extends into Values; nothing is looked up yet. `_Builder` resolves
variables and references, and builds the steps once for each combination of the sweep. `_instances` names the variants.

A pipeline file may be untrusted. The limits below bound what it can cost: a gigabyte and ten seconds.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from textless.engine.pipeline import Pipeline
from textless.engine.step import Step
from textless.errors import PipelineError, TextlessError, check_known, cut, did_you_mean, quoted

Table = Mapping[str, type[Step]]
Find = Callable[[str], Path]

# Of a file.
BYTES = 1 << 20
VALUES = 100_000  # twice as many when its aliases are expanded
CHARACTERS = 10 << 20  # when its aliases are expanded
DEPTH = 50  # of nested lists and mappings
REPEATED = 1 << 16  # characters of a broken file that PyYAML's own slow parser reads once more
EXTENDED = 20  # files, each extending the next
# Of numbers.
LARGEST = 2**63 - 1  # what arrays and files hold
DIGITS = 4000  # leading zeros included; Python parses no longer integers
# Of what variables expand to.
LONGEST = 1 << 20  # characters of a value
EXPANDED = 50_000_000  # characters of all values, in all combinations of a sweep
EACH = 50  # characters that each expansion counts for, however short the value is
# Of the graph.
CHAIN = 150  # steps, each an input of the next
COMBINATIONS = 1000  # of a sweep
INSTANCES = 100_000  # steps times combinations

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tab and newline; halves of characters
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_VAR = re.compile(r"\$\{([^}]*)\}")
_STEP = re.compile(r"\$([A-Za-z_][\w-]*)")
_SECTIONS = ("extends", "vars", "steps", "sweep")
_KEEP = ("temp", "always")
# libyaml, where PyYAML was built with it, takes a tenth of the time.
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_pipeline(
    path: Path | str, table: Table, settings: Iterable[str] = (), *, find: Find | None = None
) -> Pipeline:
    """Read a pipeline file.

    Args:
        table: step classes by type.
        settings: `var=value` and `step.field=value`, which replace the file's values. Their paths are relative to the
            working folder.
        find: maps the name of a recipe, which `extends:` may have instead of a file, to a file.

    Raises PipelineError naming file and line for anything unknown, missing, of a wrong type, or circular.
    """
    try:
        builder = _Builder(read_recipe(Path(path), find), table)
        for setting in settings:
            builder.override(setting)
        return builder.pipeline()
    except RecursionError:
        raise PipelineError(
            f"{path}: a chain of more than {CHAIN} steps, or of as many variables; shorten it"
        ) from None


# -------------------------------------------------------------------------------------------------- values


@dataclass
class Value:
    """A value of a pipeline file. A list holds Values.

    Attributes:
        place: file and line.
        base: the folder that relative paths start from.
        size: characters of a text; of a list, those of all its elements, however often they are the same object.
    """

    value: Any
    place: str
    base: Path
    size: int = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.value, list):
            self.size = 1 + sum(part.size for part in self.value)
        else:
            self.size = len(self.value) if isinstance(self.value, str) else 1


def scalar(text: str) -> Any:
    """A plain scalar by the core schema of YAML 1.2. Raises ValueError for a number that no field can hold."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        if len(text) <= DIGITS and abs(int(text)) <= LARGEST:
            return int(text)
    elif not _FLOAT.fullmatch(text):
        return text
    elif math.isfinite(float(text)):
        return float(text)
    raise ValueError(f"{cut(text)} is too large for a number; write it in quotes if it is a text")


def plain(value: Value, *, path: bool = False) -> Any:
    """The value alone; with `path` its strings are paths, each made absolute from its `base`."""
    if isinstance(value.value, list):
        return [plain(part, path=path) for part in value.value]
    return os.path.normpath(value.base / value.value) if path and isinstance(value.value, str) else value.value


def coerce(value: Any, hint: Any, what: str) -> Any:
    """Check a value against a field's type. An integer is converted where the type is float: 1 and 1.0 have one key.

    Raises PipelineError that begins with `what`: the value's place, and the field.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is float and type(value) is int:
            return float(value)
        if origin is type(None) and value is None:
            return None
        exact = isinstance(origin, type) and isinstance(value, origin)
        if exact and (origin is bool or not isinstance(value, bool)):
            return value
    allowed = " or ".join("nothing" if o is type(None) else getattr(o, "__name__", str(o)).lower() for o in options)
    # The repr of a step holds all its inputs.
    actual = f"a step {value.type}" if isinstance(value, Step) else quoted(value)
    raise PipelineError(f"{what} must be {allowed}, not {actual}")


# -------------------------------------------------------------------------------------------------- parsing


class Choice(NamedTuple):
    """A value of a swept setting, and its spelling in the names of steps."""

    value: Value
    text: str


class Axis(NamedTuple):
    """A swept setting: its file and line, and its values."""

    place: str
    choices: list[Choice]


@dataclass
class Recipe:
    """Sections of a file by name.

    Attributes:
        places: file and line of each step.
        inherited: steps that come from an extended file.
        sweep: the axes, None where the file has no such section.
    """

    vars: dict[str, Value] = field(default_factory=dict)
    steps: dict[str, dict[str, Value]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    inherited: set[str] = field(default_factory=set)
    sweep: dict[str, Axis] | None = None


def read_recipe(path: Path, find: Find | None = None, above: tuple[Path, ...] = ()) -> Recipe:
    """Read a file, and those that it extends.

    Args:
        find: maps the name of a recipe that is no file to one.
        above: the chain of files that extend this one.
    """
    reader = _Reader(path)
    top = reader.mapping(_compose(path), "the pipeline")
    for name, (key, _) in top.items():
        if name not in _SECTIONS:
            raise PipelineError(f"{reader.place(key)}: unknown section {quoted(name)}{did_you_mean(name, _SECTIONS)}")
    if "steps" not in top and "extends" not in top:
        raise PipelineError(f"{path}: no `steps:`; a pipeline maps names to steps")
    recipe = Recipe()
    if "vars" in top:
        recipe.vars = reader.values(top["vars"][1], "vars")
    if "steps" in top:
        for name, (key, node) in reader.mapping(top["steps"][1], "steps").items():
            if "@" in name:
                raise PipelineError(
                    f"{reader.place(key)}: a step's name cannot have an @, which precedes the settings of a sweep"
                )
            recipe.steps[name] = reader.values(node, name)
            recipe.places[name] = reader.place(key)
    if "sweep" in top:
        axes = reader.mapping(top["sweep"][1], "sweep")
        recipe.sweep = {name: reader.axis(name, key, node) for name, (key, node) in axes.items()}
    if "extends" not in top:
        return recipe
    node = top["extends"][1]
    if len(above) >= EXTENDED:
        raise PipelineError(f"{reader.place(node)}: more than {EXTENDED} files extend one another; merge them")
    base, above = reader.extended(node, find), (*above, path)
    if base.resolve() in [p.resolve() for p in above]:
        chain = " → ".join(map(str, (*above, base)))
        raise PipelineError(f"{reader.place(node)}: {chain} is a cycle; a file cannot extend itself")
    return _merge(read_recipe(base, find, above), recipe)


def _merge(base: Recipe, ours: Recipe) -> Recipe:
    steps = dict(base.steps)
    for name, spec in ours.steps.items():
        old = base.steps.get(name, {})
        kind = old["step"].value if "step" in old else name
        retyped = "step" in spec and spec["step"].value != kind
        steps[name] = spec if retyped else {**old, **spec}
    return Recipe(
        vars={**base.vars, **ours.vars},
        steps=steps,
        places={**base.places, **ours.places},
        inherited=set(base.steps),
        sweep=base.sweep if ours.sweep is None else ours.sweep,
    )


def _compose(path: Path) -> yaml.Node | None:
    try:
        with open(path, "rb") as f:
            data = f.read(BYTES + 1)
    except OSError as e:
        raise PipelineError(f"{path}: {e.strerror}") from None
    if len(data) > BYTES:
        raise PipelineError(f"{path}: more than {BYTES >> 20} MB; name files by a glob, or in a manifest")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PipelineError(f"{path}: not a text file in UTF-8") from None
    try:
        _check_events(path, text)
        return yaml.compose(text, Loader=_FAST)
    except yaml.YAMLError as e:
        error = e
    if len(text) <= REPEATED:
        try:
            for _ in yaml.parse(text, Loader=yaml.SafeLoader):  # for its better message and line
                pass
        except yaml.YAMLError as e:
            error = e
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    raise PipelineError(f"{path}{f':{mark.line + 1}' if mark else ''}: not YAML ({problem[:200]})")


def _check_events(path: Path, text: str) -> None:
    """Refuse what no pipeline has, before the parser builds nodes: each takes memory, and each level a call."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_FAST)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        tag = getattr(event, "tag", None)
        if depth > DEPTH:
            problem = f"lists and mappings are more than {DEPTH} deep; no step takes that"
        elif count > VALUES:
            problem = f"more than {VALUES} values; name files by a glob, or in a manifest"
        elif tag is not None:
            problem = f"tag {cut(tag)} is not supported; write a text in quotes, and other values without a tag"
        else:
            continue
        raise PipelineError(f"{_place(path, event)}: {problem}")


def _place(path: Path, item: yaml.Event | yaml.Node) -> str:
    return f"{path}:{item.start_mark.line + 1}" if item.start_mark else str(path)


class _Reader:
    """Converts the nodes of one file to Values."""

    def __init__(self, path: Path) -> None:
        self.path, self.base = path, path.resolve().parent
        self._values = self._characters = 0

    def place(self, node: yaml.Node) -> str:
        return _place(self.path, node)

    def mapping(self, node: yaml.Node | None, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key and value nodes by name; an empty node is an empty mapping."""
        if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise PipelineError(f"{self.place(node)}: {what} must be a mapping")
        out: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise PipelineError(
                    f'{self.place(key)}: a name in {what} must be a word; a variable is written "${{name}}"'
                )
            if key.value in out:
                raise PipelineError(f"{self.place(key)}: duplicate key {quoted(key.value)}")
            self._check(key)
            out[key.value] = key, value
        return out

    def values(self, node: yaml.Node, what: str) -> dict[str, Value]:
        """The values of a mapping by name."""
        return {name: self.value(value) for name, (_, value) in self.mapping(node, what).items()}

    def value(self, node: yaml.Node, depth: int = 0) -> Value:
        """The value of a node. Aliases are expanded: each use counts, and one that contains itself has no end."""
        self._check(node)
        if depth > DEPTH:
            raise PipelineError(f"{self.place(node)}: an alias contains itself, or lists are more than {DEPTH} deep")
        value = node.value
        if isinstance(node, yaml.SequenceNode):
            value = [self.value(n, depth + 1) for n in node.value]
        elif isinstance(node, yaml.MappingNode):
            value = {k: plain(self.value(v, depth + 1)) for k, (_, v) in self.mapping(node, "a value").items()}
        elif isinstance(node, yaml.ScalarNode) and not node.style:
            try:
                value = scalar(node.value)
            except ValueError as e:
                raise PipelineError(f"{self.place(node)}: {e}") from None
        return Value(value, self.place(node), self.base)

    def _check(self, node: yaml.Node) -> None:
        """Count a value and its characters, and refuse control characters."""
        self._values += 1
        if isinstance(node, yaml.ScalarNode):
            self._characters += len(node.value)
            if _CONTROL.search(node.value):
                raise PipelineError(f"{self.place(node)}: {quoted(node.value)} has control characters; remove them")
        if self._values > 2 * VALUES or self._characters > CHARACTERS:
            raise PipelineError(
                f"{self.place(node)}: nested aliases expand to more than {VALUES} values; write the values out"
            )

    def axis(self, name: str, key: yaml.Node, node: yaml.Node) -> Axis:
        """The values of a swept setting."""
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise PipelineError(f"{self.place(node)}: sweep of {name} must be a list of values")
        if len(node.value) > COMBINATIONS:
            count = f"{len(node.value)} values of {cut(name)}, more than {COMBINATIONS}"
            raise PipelineError(f"{self.place(node)}: {count}; shorten the list")
        choices: list[Choice] = []
        for n in node.value:
            choice = Choice(self.value(n), _spelling(n))
            if any(choice.text == other.text or _same(plain(choice.value), plain(other.value)) for other in choices):
                raise PipelineError(f"{self.place(n)}: duplicate value {choice.text} in the sweep of {name}")
            choices.append(choice)
        return Axis(self.place(key), choices)

    def extended(self, node: yaml.Node, find: Find | None) -> Path:
        """The file that this one extends."""
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            raise PipelineError(f"{self.place(node)}: extends must be the name of one file")
        if find and not node.value.endswith((".yaml", ".yml")) and os.path.basename(node.value) == node.value:
            try:
                return find(node.value)
            except PipelineError as e:
                raise PipelineError(f"{self.place(node)}: {e}") from None
        path = Path(os.path.normpath(self.base / node.value))
        if not path.is_file():
            raise PipelineError(f"{self.place(node)}: extends {node.value}, but there is no file {path}")
        return path


def _same(a: object, b: object) -> bool:
    """1 and 1.0 are the same, 1 and true are not."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _spelling(node: yaml.Node) -> str:
    """A value in the names of swept steps: as in the file, without what a shell would interpret."""
    if isinstance(node, yaml.SequenceNode):
        return "+".join(map(_spelling, node.value))
    if isinstance(node, yaml.MappingNode):
        return "+".join(f"{_spelling(k)}:{_spelling(v)}" for k, v in node.value)
    return node.value.removeprefix("$") or "null"


# -------------------------------------------------------------------------------------------------- building


class _Builder:
    """Builds the steps of a recipe, for one combination of its sweep after the other."""

    def __init__(self, recipe: Recipe, table: Table) -> None:
        self.table, self.vars, self.specs = table, recipe.vars, recipe.steps
        self.places, self.inherited = recipe.places, recipe.inherited
        self.axes = dict(recipe.sweep or {})
        self.temporary: set[str] = set()
        self._steps: dict[str, Step] = {}  # of this combination
        self._resolved: dict[str, Value] = {}  # variables of this combination
        self._unique: dict[tuple[Any, ...], Step] = {}
        self._depths: dict[int, int] = {}
        self._expanded = 0
        self._declared: dict[type[Step], dict[str, tuple[Field[Any], Any]]] = {}  # fields of each class

    def override(self, setting: str) -> None:
        """Apply a setting of the command line. It fixes a swept one."""
        name, equals, text = setting.partition("=")
        if not equals:
            raise PipelineError(f"-s {setting}: expected name=value or step.field=value")
        try:
            self._set(name, Value(scalar(text), f"-s {setting}", Path.cwd()), f"-s {setting}")
        except ValueError as e:
            raise PipelineError(f"-s {name}: {e}") from None
        self.axes.pop(name, None)

    def pipeline(self) -> Pipeline:
        for name, axis in self.axes.items():
            if name.endswith(".keep"):
                raise PipelineError(f"{axis.place}: {name} changes no result, and cannot be swept")
        combinations = _combinations(self.axes)
        if len(combinations) * len(self.specs) > INSTANCES:
            place = next(iter(self.axes.values())).place if self.axes else next(iter(self.places.values()))
            product = f"{len(self.specs)} steps in {len(combinations)} combinations"
            raise PipelineError(f"{place}: {product} are more than {INSTANCES}; split the file")
        built: dict[str, list[Step]] = {name: [] for name in self.specs}
        for combination in combinations:
            for (name, axis), choice in zip(self.axes.items(), combination, strict=True):
                self._set(name, choice.value, axis.place)
            self._steps, self._resolved = {}, {}
            for name in self.specs:
                built[name].append(self._step(name, ()))
        pipeline = Pipeline(steps={})
        for name in self.specs:
            for full, (step, swept) in _instances(name, built[name], self.axes, combinations).items():
                pipeline.steps[full] = step
                if swept:
                    pipeline.variants[full] = swept
                if name in self.temporary:
                    pipeline.temporary.add(full)
        return pipeline

    def _set(self, name: str, value: Value, place: str) -> None:
        """Replace the value of a variable, or of a field by `step.field`. `place` is that of the name."""
        step, dot, field_name = name.partition(".")
        if not dot:
            if name not in self.vars:
                raise PipelineError(f"{place}: no variable {quoted(name)}{did_you_mean(name, self.vars)}")
            self.vars[name] = value
        elif step not in self.specs:
            raise PipelineError(f"{place}: no step {quoted(step)}{did_you_mean(step, self.specs)}")
        else:
            self.specs[step][field_name] = value

    def _step(self, name: str, above: tuple[str, ...]) -> Step:
        """The step of this name. `above` are the steps that are being built, each of which takes the next."""
        if name not in self._steps:
            self._steps[name] = self._build(name, above)
        return self._steps[name]

    def _build(self, name: str, above: tuple[str, ...]) -> Step:
        if name in above:
            raise PipelineError(f"{self.places[name]}: {' → '.join((*above, name))} is a cycle")
        spec = dict(self.specs[name])
        typed = spec.pop("step", Value(name, self.places[name], Path()))
        kind = typed.value
        if not isinstance(kind, str) or kind not in self.table:
            known = [*self.table, *sorted(self.inherited - {name})]
            raise PipelineError(f"{typed.place}: unknown step {quoted(kind)}{did_you_mean(str(kind), known)}")
        if keep := spec.pop("keep", None):
            check_known(f"{keep.place}: keep", keep.value, _KEEP, PipelineError)
            if keep.value == "temp":
                self.temporary.add(name)
        cls = self.table[kind]
        if cls not in self._declared:
            self._declared[cls] = _fields(cls)
        declared = self._declared[cls]
        arguments = {}
        for key, value in spec.items():
            if key not in declared:
                raise PipelineError(
                    f"{value.place}: step {kind} has no field {quoted(key)}{did_you_mean(key, declared)}"
                )
            about, hint = declared[key]
            resolved = self._resolve(value, (*above, name))
            argument = plain(resolved, path=about.metadata.get("path", False))
            arguments[key] = coerce(argument, hint, f"{resolved.place}: {name}.{key}")
        if missing := [n for n, (f, _) in declared.items() if f.default is MISSING and n not in arguments]:
            raise PipelineError(f"{self.places[name]}: step {kind} needs {', '.join(missing)}")
        try:
            return self._deduplicated(cls(**arguments))
        except TextlessError as e:
            raise PipelineError(f"{self.places[name]}: {e}") from None

    def _deduplicated(self, step: Step) -> Step:
        """The one object for this configuration, so that equal steps are known without comparing all their inputs."""
        key = (type(step), *(_identity(getattr(step, f.name)) for f in fields(step)))
        if key not in self._unique:
            step.settings()
            self._unique[key] = step
            self._depths[id(step)] = 1 + max((self._depths.get(id(s), 1) for s in step.inputs().values()), default=0)
            if self._depths[id(step)] > CHAIN:
                raise RecursionError
        return self._unique[key]

    def _resolve(self, value: Value, above: tuple[str, ...], seen: tuple[str, ...] = ()) -> Value:
        """Replace `$step` and `${var}`. A path starts from the folder of the variable that it begins with.

        `seen` are the variables that are being resolved, each of which refers to the next.
        """
        text = value.value
        if isinstance(text, list):
            return replace(value, value=[self._resolve(part, above, seen) for part in text])
        if not isinstance(text, str):
            return value
        if match := _STEP.fullmatch(text):
            if (name := match[1]) not in self.specs:
                raise PipelineError(f"{value.place}: no step ${cut(name)}{did_you_mean(name, self.specs)}")
            return replace(value, value=self._step(name, above))

        def expand(match: re.Match[str]) -> Value:
            name = match[1]
            if name not in self._resolved:
                self._resolved[name] = self._resolve(self._variable(name, value.place, seen), above, (*seen, name))
            resolved = self._resolved[name]
            self._expanded += EACH + resolved.size
            if resolved.size > LONGEST or self._expanded > EXPANDED:
                raise PipelineError(f"{value.place}: nested variables expand to too long a text; write the value out")
            return resolved

        if match := _VAR.fullmatch(text):
            return expand(match)
        base = expand(first).base if (first := _VAR.match(text)) else value.base
        return replace(value, value=_VAR.sub(lambda match: str(plain(expand(match))), text), base=base)

    def _variable(self, name: str, place: str, seen: tuple[str, ...]) -> Value:
        if name in seen:
            raise PipelineError(f"{place}: ${{{cut(name)}}} refers to itself")
        if name not in self.vars:
            raise PipelineError(f"{place}: no variable ${{{cut(name)}}}{did_you_mean(name, self.vars)}")
        return self.vars[name]


def _fields(cls: type[Step]) -> dict[str, tuple[Field[Any], Any]]:
    """The fields of a step's class and their types, by name."""
    hints = typing.get_type_hints(cls)
    return {f.name: (f, hints[f.name]) for f in fields(cls)}


def _identity(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_identity, value))
    return id(value) if isinstance(value, Step) else repr(value)


# -------------------------------------------------------------------------------------------------- sweeps


def _combinations(axes: dict[str, Axis]) -> list[tuple[Choice, ...]]:
    """The product of the axes, the last one fastest. Without axes there is one combination."""
    count = math.prod(len(axis.choices) for axis in axes.values())
    if count > COMBINATIONS:
        place = next(iter(axes.values())).place
        about = str(count) if count < 10**12 else f"10^{math.log10(count):.0f}"
        raise PipelineError(
            f"{place}: the sweep has {about} combinations, more than {COMBINATIONS}; "
            "fix a setting with -s, or shorten its list"
        )
    return list(itertools.product(*(axis.choices for axis in axes.values())))


def _instances(
    name: str, built: list[Step], axes: dict[str, Axis], combinations: list[tuple[Choice, ...]]
) -> dict[str, tuple[Step, dict[str, Any]]]:
    """The instances of a step, and the settings that each depends on, by full name: `name`, or `name@setting=value,…`.

    Args:
        built: the step in each combination, in their order; equal ones are the same object.
    """
    varying = _varying(built, [len(axis.choices) for axis in axes.values()])
    out: dict[str, tuple[Step, dict[str, Any]]] = {}
    for step, combination in zip(built, combinations, strict=True):
        settings = {axis: choice for axis, choice, varies in zip(axes, combination, varying, strict=True) if varies}
        suffix = ",".join(f"{axis}={choice.text}" for axis, choice in settings.items())
        full = f"{name}@{suffix}" if suffix else name
        known, _ = out.setdefault(full, (step, {axis: plain(choice.value) for axis, choice in settings.items()}))
        if known is not step:  # values with commas can be read in two ways
            place = axes[next(iter(settings))].place
            raise PipelineError(f"{place}: two steps would be called {quoted(full)}; write a value without commas")
    return out


def _varying(built: list[Step], sizes: list[int]) -> list[bool]:
    """For each axis whether the step changes along it, all others being equal."""
    out = []
    stride = len(built)
    for size in sizes:
        stride //= size
        # Combination i has value number i // stride % size of this axis. So many strides before it is number 0.
        out.append(any(step is not built[i - i // stride % size * stride] for i, step in enumerate(built)))
    return out
