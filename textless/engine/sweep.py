"""Sweeps: the product of lists of settings, and which of its steps depend on what."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

from textless.engine.scalars import Value, plain
from textless.engine.step import Step
from textless.errors import PipelineError, quoted

LIMIT = 1000


class Choice(NamedTuple):
    """A value of a swept setting, and how names write it."""

    value: Value
    text: str


class Axis(NamedTuple):
    """The values of a swept setting, and where the setting stands."""

    place: str
    choices: list[Choice]


def combinations(axes: dict[str, Axis]) -> list[tuple[Choice, ...]]:
    """A choice from each axis, in all ways, the last axis fastest. Without axes there is one way."""
    count = math.prod(len(axis.choices) for axis in axes.values())
    if count > LIMIT:
        place = next(iter(axes.values())).place
        said = str(count) if count < 10**12 else f"10^{math.log10(count):.0f}"
        raise PipelineError(
            f"{place}: the sweep has {said} combinations, more than {LIMIT}; fix a setting with -s, or shorten its list"
        )
    return list(itertools.product(*(axis.choices for axis in axes.values())))


def instances(name: str, built: list[Step], axes: dict[str, Axis]) -> dict[str, tuple[Step, dict[str, Any]]]:
    """The instances of a step, and the settings that they depend on, by full name: `name`, or `name@setting=value,setting=value`.

    Args:
        built: the step in each combination, in their order; equal ones are the same object.
    """
    varying = _varying(built, [len(axis.choices) for axis in axes.values()])
    out: dict[str, tuple[Step, dict[str, Any]]] = {}
    for step, combination in zip(built, combinations(axes), strict=True):
        settings = {axis: choice for axis, choice, varies in zip(axes, combination, varying, strict=True) if varies}
        suffix = ",".join(f"{axis}={choice.text}" for axis, choice in settings.items())
        full = f"{name}@{suffix}" if suffix else name
        known, _ = out.setdefault(full, (step, {axis: plain(choice.value) for axis, choice in settings.items()}))
        if known is not step:  # values with commas may be read in two ways
            raise PipelineError(
                f"{axes[next(iter(settings))].place}: two steps would be called {quoted(full)}; write a value without commas"
            )
    return out


def _varying(built: list[Step], sizes: list[int]) -> list[bool]:
    """For each axis whether the step changes along it, all others being equal."""
    out = []
    stride = len(built)
    for size in sizes:
        stride //= size
        # Combination i has the value number i // stride % size here; from there to number 0 it is so many strides.
        out.append(any(step is not built[i - i // stride % size * stride] for i, step in enumerate(built)))
    return out
