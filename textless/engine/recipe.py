"""What a pipeline file says, together with the files that it extends; nothing is looked up yet."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from textless.engine.scalars import Value, plain, scalar
from textless.engine.sweep import LIMIT, Axis, Choice
from textless.errors import PipelineError, cut, did_you_mean, quoted

Find = Callable[[str], Path]

BYTES = 1 << 20  # of a file
VALUES = 100_000  # in a file, and again when its aliases are followed
REPEATED = 1 << 16  # characters that PyYAML's own slow parser looks at again
DEPTH = 50  # of lists and mappings within each other
EXTENDED = 20  # files, one by the other
FOLLOWED = 10 << 20  # characters that a file says when its aliases are followed

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tab and newline; halves of characters
_SECTIONS = ("extends", "vars", "steps", "sweep")
# libyaml, where PyYAML was built with it, takes a tenth of the time.
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Recipe:
    """Sections of a file by name.

    Attributes:
        places: where each step stands.
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
        above: the files that led here.
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
        recipe.vars = {name: reader.value(node) for name, (_, node) in reader.mapping(top["vars"][1], "vars").items()}
    if "steps" in top:
        for name, (key, node) in reader.mapping(top["steps"][1], "steps").items():
            if "@" in name:
                raise PipelineError(
                    f"{reader.place(key)}: a step's name cannot have an @, which stands before the settings of a sweep"
                )
            recipe.steps[name] = {k: reader.value(v) for k, (_, v) in reader.mapping(node, name).items()}
            recipe.places[name] = reader.place(key)
    if "sweep" in top:
        recipe.sweep = {
            name: reader.axis(name, *nodes) for name, nodes in reader.mapping(top["sweep"][1], "sweep").items()
        }
    if "extends" not in top:
        return recipe
    node = top["extends"][1]
    if len(above) >= EXTENDED:
        raise PipelineError(f"{reader.place(node)}: more than {EXTENDED} files extend one another; put them together")
    below, above = reader.extended(node, find), (*above, path)
    if below.resolve() in [p.resolve() for p in above]:
        raise PipelineError(
            f"{reader.place(node)}: {' → '.join(map(str, (*above, below)))} is a circle; a file cannot extend itself"
        )
    return _merge(read_recipe(below, find, above), recipe)


def _merge(base: Recipe, ours: Recipe) -> Recipe:
    steps = dict(base.steps)
    for name, spec in ours.steps.items():
        old = base.steps.get(name, {})
        known = old["step"].value if "step" in old else name
        retyped = "step" in spec and spec["step"].value != known
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
        raise PipelineError(
            f"{path}: more than {BYTES >> 20} MB is no pipeline; name files by a glob, or in a manifest"
        )
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
            except yaml.YAMLError as better:
                error = better
        mark, said = (
            getattr(error, "problem_mark", None),
            " ".join(str(getattr(error, "problem", None) or error).split()),
        )
        raise PipelineError(f"{path}{f':{mark.line + 1}' if mark else ''}: not YAML ({said[:200]})") from None


def _check_events(path: Path, text: str) -> None:
    """Refuse what no pipeline says, before nodes are made of it, which costs memory for each and a call for each level."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_FAST)):
        place = f"{path}:{event.start_mark.line + 1}"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise PipelineError(f"{place}: lists and mappings are more than {DEPTH} deep; no step takes that")
        if count > VALUES:
            raise PipelineError(f"{place}: more than {VALUES} values; name files by a glob, or in a manifest")
        if getattr(event, "tag", None) is not None:
            raise PipelineError(
                f"{place}: tag {cut(event.tag)} is not taken; write a text in quotes, and other values plainly"
            )


class _Reader:
    """Nodes of one file to values."""

    def __init__(self, path: Path) -> None:
        self.path, self.base = path, path.resolve().parent
        self.values = self.characters = 0

    def place(self, node: yaml.Node) -> str:
        return f"{self.path}:{node.start_mark.line + 1}"

    def mapping(self, node: yaml.Node | None, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key and value by name; nothing at all is an empty mapping."""
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
                raise PipelineError(f"{self.place(key)}: {quoted(key.value)} stands twice")
            self._check(key)
            out[key.value] = key, value
        return out

    def value(self, node: yaml.Node, depth: int = 0) -> Value:
        """The value of a node. Aliases are followed: what they say counts each time, and one within itself is endless."""
        self._check(node)
        if depth > DEPTH:
            raise PipelineError(f"{self.place(node)}: an alias is within itself, or lists are more than {DEPTH} deep")
        found = node.value
        if isinstance(node, yaml.SequenceNode):
            found = [self.value(n, depth + 1) for n in node.value]
        elif isinstance(node, yaml.MappingNode):
            found = {k: plain(self.value(v, depth + 1)) for k, (_, v) in self.mapping(node, "a value").items()}
        elif not node.style:
            try:
                found = scalar(node.value)
            except ValueError as e:
                raise PipelineError(f"{self.place(node)}: {e}") from None
        return Value(found, self.place(node), self.base)

    def _check(self, node: yaml.Node) -> None:
        """Count a value and its characters, and refuse characters that no name has."""
        self.values += 1
        if isinstance(node, yaml.ScalarNode):
            self.characters += len(node.value)
            if _CONTROL.search(node.value):
                raise PipelineError(f"{self.place(node)}: {quoted(node.value)} has control characters; leave them out")
        if self.values > 2 * VALUES or self.characters > FOLLOWED:
            raise PipelineError(
                f"{self.place(node)}: aliases of aliases say more than {VALUES} values; write what is meant"
            )

    def axis(self, name: str, key: yaml.Node, node: yaml.Node) -> Axis:
        """The values of a setting that is swept."""
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise PipelineError(f"{self.place(node)}: sweep of {name} must be a list of values")
        if len(node.value) > LIMIT:
            raise PipelineError(
                f"{self.place(node)}: {len(node.value)} values of {cut(name)}, more than {LIMIT}; shorten the list"
            )
        choices: list[Choice] = []
        for n in node.value:
            choice = Choice(self.value(n), _text(n))
            if any(choice.text == other.text or _same(plain(choice.value), plain(other.value)) for other in choices):
                raise PipelineError(f"{self.place(n)}: {choice.text} stands twice in the sweep of {name}")
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


def _text(node: yaml.Node) -> str:
    """A value as it stands in the names of swept steps: as in the file, but so that a shell takes it as it is."""
    if isinstance(node, yaml.SequenceNode):
        return "+".join(map(_text, node.value))
    if isinstance(node, yaml.MappingNode):
        return "+".join(f"{_text(k)}:{_text(v)}" for k, v in node.value)
    return node.value.removeprefix("$") or "null"
