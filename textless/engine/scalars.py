"""Values of pipeline files: scalars of YAML 1.2, paths, and the types that fields want."""

from __future__ import annotations

import math
import os
import re
import types
import typing
from pathlib import Path
from typing import Any

from textless.engine.step import Step
from textless.errors import PipelineError, cut, quoted

LARGEST = 2**63 - 1  # what arrays and files hold
DIGITS = 4000  # leading zeros included; Python reads no longer ones

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class Value(typing.NamedTuple):
    """A value, where it stands, and the folder that paths in it start from. A list holds Values."""

    value: Any
    place: str
    base: Path


def scalar(text: str) -> Any:
    """A plain scalar by the core schema of YAML 1.2. Raises ValueError for a number that no field can hold."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        if len(text) > DIGITS or abs(int(text)) > LARGEST:
            raise ValueError(f"{cut(text)} is too large for a number; write it in quotes if it is a text")
        return int(text)
    if not _FLOAT.fullmatch(text):
        return text
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{cut(text)} is too large for a number; write it in quotes if it is a text")
    return number


def plain(value: Value, *, path: bool = False) -> Any:
    """The value alone; with `path` its strings are paths, each made absolute from the folder that it starts from."""
    if isinstance(value.value, list):
        return [plain(part, path=path) for part in value.value]
    return os.path.normpath(value.base / value.value) if path and isinstance(value.value, str) else value.value


def coerce(value: Any, hint: Any, what: str) -> Any:
    """Check a value against a field's type; a whole number is taken where a float is wanted, so that 1 and 1.0 have one key.

    Raises PipelineError that begins with `what`: where the value stands, and the field.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is float and type(value) is int:
            return float(value)
        if origin is type(None) and value is None:
            return None
        if (
            isinstance(origin, type)
            and isinstance(value, origin)
            and not (isinstance(value, bool) and origin is not bool)
        ):
            return value
    wanted = " or ".join("nothing" if o is type(None) else getattr(o, "__name__", str(o)).lower() for o in options)
    # A step's repr holds all that is above it.
    raise PipelineError(
        f"{what} must be {wanted}, not {f'a step {value.type}' if isinstance(value, Step) else quoted(value)}"
    )
