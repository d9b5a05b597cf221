"""What every vocoder does alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textless.errors import ContractError, ModelError
from textless.types import UnitContract, Units


def is_one(units: Any) -> bool:
    """Whether this is one sequence of units, or something that `check_units` refuses, and not a list of sequences."""
    return (
        not isinstance(units, Sequence)
        or isinstance(units, str | bytes)
        or not units
        or isinstance(units[0], int | np.integer)
    )


def check_units(units: Any, contract: UnitContract, n_units: int) -> Units:
    """Units, or a bare array of them, as Units that a vocoder of this contract can speak.

    Raises ContractError for units of another kind or outside the codebook, ModelError for none.
    """
    if isinstance(units, Units):
        contract.check(units.contract, mine="the vocoder", theirs="the units")
        if len(units) and units.units.max() >= n_units:
            raise ContractError(f"unit {units.units.max()} is outside the vocoder's codebook of {n_units} units")
    else:
        units = Units.of(units, contract)
    if not len(units):
        raise ModelError("there are no units to speak")
    return units


def index_of(what: str, given: str | int | None, names: Sequence[str]) -> int:
    """Position of a name, None for the first.

    A string is a name, or else an index in decimal digits. An integer is an index, or else the name that is written so.

    Raises ModelError for one that is not there, with some that are.
    """
    number, name = isinstance(given, int | np.integer) and not isinstance(given, bool), str(given)
    if given is None and names:
        return 0
    if number and 0 <= given < len(names):
        return int(given)
    if (number or isinstance(given, str)) and name in names:
        return names.index(name)
    if isinstance(given, str) and (index := next((i for i in range(len(names)) if str(i) == given), None)) is not None:
        return index
    shown = ", ".join(names[:20]) + (f" … ({len(names)} in all)" if len(names) > 20 else "")
    has = f"it has {shown}, or 0 to {len(names) - 1}" if names else "it has none"
    close = next((n for n in names if isinstance(given, str) and n.lower() == given.strip().lower()), None)
    raise ModelError(f"the vocoder has no {what} {given!r}; {f'did you mean {close!r}? ' if close else ''}{has}")
