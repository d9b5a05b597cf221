"""Numeric options: the ranges of `textless.checks`, so that a command and a step's field refuse the same values."""

from __future__ import annotations

from typing import Any

import click

from textless.checks import base_of, check
from textless.errors import TextlessError


class Number(click.ParamType):
    """A number that a hint of `textless.checks` allows.

    NaN, infinity and values out of range are refused in one line.
    """

    def __init__(self, hint: Any) -> None:
        self.hint, self.base = hint, base_of(hint)
        self.name = {int: "integer", float: "float"}[self.base]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        try:
            value = self.base(value)
        except ValueError:  # not a number, or one of too many digits: `check` refuses the text
            value = str(value)
        name = param.opts[-1] if param else "the value"
        number: int | float = check(value, self.hint, name, TextlessError)
        return number
