"""Checks of the fields of steps and of models' configurations, declared in their annotations.

A hint is a type, optionally with a range or a choice: `n_units: Count`, `preset: Annotated[str, OneOf("nano",
"tiny")]`.
"""

from __future__ import annotations

import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, TypeVar

from textless.errors import ModelError, TextlessError

T = TypeVar("T")


@dataclass(frozen=True)
class Between:
    """Numbers from `least` (excluded if `above`) to `most` (excluded if `below`)."""

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def allows(self, value: float) -> bool:
        return (self.least < value if self.above else self.least <= value) and (
            value < self.most if self.below else value <= self.most
        )

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'from'} {self.least}"
        if self.most == math.inf:
            return low if self.above else f"{low} on"
        return f"{low} {'to below' if self.below else 'to'} {self.most}"


@dataclass(frozen=True, init=False)
class OneOf:
    """One of a few values."""

    known: tuple[Any, ...]

    def __init__(self, *known: Any) -> None:
        object.__setattr__(self, "known", known)

    def allows(self, value: Any) -> bool:
        return value in self.known


@dataclass(frozen=True)
class Text:
    """A string that matches `pattern`, which `about` describes."""

    pattern: str
    about: str

    def allows(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.about


Count = Annotated[int, Between(1, 2**31 - 1)]
Large = Annotated[int, Between(1, 2**53)]
Seed = Annotated[int, Between(0, 2**32 - 1)]  # the range that numpy, scikit-learn and torch share
Positive = Annotated[float, Between(0, above=True)]
NotNegative = Annotated[float, Between(0)]
Share = Annotated[float, Between(0, 1, above=True)]
Smoothing = Annotated[float, Between(0, 1e6)]  # as `types.NUMBERS` has it
Probability = Annotated[float, Between(0, 1)]
Dropped = Annotated[float, Between(0, 1, below=True)]
Tap = Annotated[str, OneOf("block", "ffn")]  # `types.TAPS`
Precision = Annotated[str, OneOf("fp32", "bf16")]  # `auto` would differ from machine to machine
# Whether this machine has the device is checked where a step runs, which may be another machine.
Device = Annotated[str, Text(r"cpu|cuda(:\d+)?|mps(:\d+)?", "cpu, cuda or cuda:N")]
# Of a continuation: far longer than is of use, and short enough that the work ends.
Length = Annotated[float, Between(0, 86_400)]  # seconds
PromptLength = Annotated[float, Between(0, 86_400, above=True)]  # seconds
Samples = Annotated[int, Between(1, 10_000)]
NewUnits = Annotated[int, Between(1, 10_000_000)]
Temperature = Annotated[float, Between(0, 1000)]
Penalty = Annotated[float, Between(1e-3, 1000)]
# A dimension of a model: large enough for every existing one, small enough that the product of two is a number of
# bytes.
Size = Annotated[int, Between(1, 2**24)]


def base_of(hint: Any) -> Any:
    """The type of a hint, without its rules."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def runtime(default: Any) -> Any:
    """A field that changes how something runs but not its result: workers, device, inference batch.

    It is not part of a step's key.
    """
    return field(default=default, metadata={"runtime": True})


def allows(hint: Any, value: Any) -> bool:
    """Whether a field with this hint may hold the value.

    An int is also a float; a bool, NaN and infinity are not numbers.
    """
    origin = typing.get_origin(hint)
    if origin is Annotated:
        base, *rules = typing.get_args(hint)
        return allows(base, value) and all(rule.allows(value) for rule in rules)
    if origin in (typing.Union, types.UnionType):
        return any(allows(option, value) for option in typing.get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(allows(typing.get_args(hint)[0], v) for v in value)
    if hint is Any:
        return True
    if hint in (None, types.NoneType):
        return value is None
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        return number and (isinstance(value, int) or math.isfinite(value))
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    """The allowed values, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        base, rule = arguments
        if isinstance(rule, OneOf):
            return ", ".join(map(str, rule.known))
        return str(rule) if base is str else f"{describe(base)} {rule}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments)
    if origin is tuple:
        return f"a list, each {describe(arguments[0])}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", types.NoneType: "nothing"}
    return words[hint] if hint in words else f"a {getattr(hint, '__name__', hint)}"


def check(value: Any, hint: Any, what: str, error: type[TextlessError] = ModelError) -> Any:
    """The value.

    Raises `error` when the hint does not allow it: "`what` is 0 where a whole number from 1 on is wanted".
    """
    if allows(hint, value):
        return value
    try:
        shown = repr(value)
    except ValueError:  # an integer of too many digits
        shown = "a number of thousands of digits"
    shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
    is_choice = any(
        isinstance(rule, OneOf)
        for option in (hint, *typing.get_args(hint))
        for rule in getattr(option, "__metadata__", ())
    )
    if is_choice:
        raise error(f"{what} is {shown}; known: {describe(hint)}")
    raise error(f"{what} is {shown} where {describe(hint)} is wanted")


def check_fields(thing: Any, error: type[TextlessError] = ModelError, prefix: str = "") -> None:
    """Check the fields of a dataclass that are numbers or flags, or whose annotation has a range or a choice.

    Raises `error`; its message names the field, after `prefix`.
    """
    for name, hint in _checked_hints(type(thing)).items():  # type: ignore[arg-type]  # mypy knows no hash of a class
        check(getattr(thing, name), hint, prefix + name, error)


@functools.cache
def _checked_hints(cls: type[Any]) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:  # a class within a function, whose names cannot be looked up
        return {}
    return {f.name: hints[f.name] for f in fields(cls) if _is_checked(hints[f.name])}


def _is_checked(hint: Any) -> bool:
    if hint in (int, float, bool, tuple[str, ...]) or typing.get_origin(hint) is Annotated:
        return True
    return any(map(_is_checked, typing.get_args(hint)))


def read_fields(cls: type[T], entries: Mapping[str, Any], place: str) -> T:
    """A configuration from the entries of a JSON object.

    Raises ModelError, which begins with `place` and names the field.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(entries) - set(known)):
        raise ModelError(f"{place}: unknown fields {', '.join(unknown)}; was it written by a newer textless?")
    if missing := [n for n, f in known.items() if f.default is MISSING and n not in entries]:
        raise ModelError(f"{place}: has no {missing[0]}; copy the model again")
    try:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()})
    except ModelError as e:
        raise ModelError(f"{place}: {e}") from None
