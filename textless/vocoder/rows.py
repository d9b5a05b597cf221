"""Rows of different lengths as padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textless.errors import ContractError, ModelError
from textless.types import UnitContract, Units

BATCH_FRAMES = 12_000  # frames (4 minutes at 50 Hz) that are synthesised at once, padding included


def pad(rows: Sequence[np.ndarray], *, to: int = 0) -> tuple[Tensor, Tensor]:
    """Rows (N_i,) as (B, max N) int64 with zeros after each, at least `to` long, and their lengths (B,) int64."""
    lengths = torch.tensor([len(r) for r in rows])
    padded = nn.utils.rnn.pad_sequence([torch.from_numpy(np.asarray(r, np.int64)) for r in rows], batch_first=True)
    return F.pad(padded, (0, max(0, to - padded.shape[1]))), lengths


def present(lengths: Tensor, n: int) -> Tensor:
    """Which of n places a row fills. (B,) int64 → (B, n) bool."""
    return torch.arange(n, device=lengths.device) < lengths[:, None]


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


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in batches of like lengths whose padded size stays below BATCH_FRAMES; a longer row stands alone."""
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if found and lengths[found[-1][0]] * (len(found[-1]) + 1) <= BATCH_FRAMES:
            found[-1].append(i)
        else:
            found.append([i])
    return found
