"""All metrics of units: bit rates (`bitrate`), and against phones PNMI and purities (`pnmi`), discovery and ABX."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Unpack

import numpy as np

from textless.errors import CorpusError
from textless.metrics.abx_error import ABXOptions, abx
from textless.metrics.alignments import Alignment, frame_phones
from textless.metrics.bitrate import METRICS as BITRATE
from textless.metrics.bitrate import unit_cost
from textless.metrics.discovery import METRICS as DISCOVERY
from textless.metrics.discovery import unit_discovery
from textless.metrics.items import Item, items_of
from textless.metrics.metric import Metric, count, percent
from textless.metrics.pnmi import METRICS as PNMI
from textless.metrics.pnmi import unit_quality
from textless.names import by_plain_name, repeated
from textless.types import UnitContract
from textless.units.dump import UnitRow


def _abx_metric(label: str) -> Metric:
    return Metric(f"{label}, published frames", percent, interval=True, baseline="chance", unprinted=("cells",))


METRICS = {
    "files": Metric("files", count),
    **BITRATE,
    **PNMI,
    **DISCOVERY,
    "abx_within": _abx_metric("ABX error, units, within speakers"),
    "abx_across": _abx_metric("ABX error, units, across speakers"),
}
FRAME_METRICS = {
    "frame_abx_within": _abx_metric("ABX error, frames, within speakers"),
    "frame_abx_across": _abx_metric("ABX error, frames, across speakers"),
}


def measure_units(
    rows: Iterable[UnitRow],
    *,
    alignments: Mapping[str, Alignment] | None = None,
    items: Sequence[Item] | None = None,
    fit: Iterable[UnitRow] | None = None,
    fit_alignments: Mapping[str, Alignment] | None = None,
    n_phones: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Measure units in every way that the arguments allow.

    Args:
        fit: units of other files, on which the mapping of units to phones is fitted as well.
        fit_alignments: of those files; None: they are in `alignments` too.
        n_phones: see `unit_discovery`.

    Returns:
        `files`, and what `unit_cost` returns; with alignments what `unit_quality` and `unit_discovery` return; with
        items, or with the triphones of the alignments, `abx_within` and `abx_across`, each with `_low`, `_high`,
        `_chance` and `_cells` (see `abx`).

    Items made from alignments need rows with speakers; where they give no ABX, or alignments no phone error rate, a
    warning says why.

    Raises:
        CorpusError: no units; alignments of other files; items that were passed and make no cell; `fit` that cannot be
            used. ContractError: units
            of several codebooks, or of an unknown frame rate.
    """
    rows = sorted(
        rows, key=lambda row: row.id
    )  # so that what the seed shuffles does not depend on the order of the input
    contract = check_rows(rows)
    values = unit_cost((row.units for row in rows), n_units=contract.n_units)
    values["files"] = float(len(rows))
    if fit is not None and alignments is None:
        raise CorpusError("units to fit a mapping on need alignments, of these files and of those that are scored")
    if alignments is None and items is None:
        return values
    if (name := repeated(row.id for row in rows)) is not None:
        raise CorpusError(f"two rows are called {name!r}; phones are looked up by id: measure the rows separately")
    rate = rows[0].units.frame_rate
    files = {row.id: row.units.frames() for row in rows}
    if alignments is not None:
        alignments = by_plain_name(alignments)
        pairs = ((u, frame_phones(alignments[i], len(u), frame_rate=rate)) for i, u in files.items() if i in alignments)
        n_units = contract.n_units or 1 + max(int(u.max(initial=0)) for u in files.values())
        values = unit_quality(pairs, n_units=n_units, seed=seed) | values
        values |= _discovery(rows, alignments, fit, fit_alignments, n_phones=n_phones, seed=seed)
    speakers = {row.id: row.speaker for row in rows}
    return values | _abx("abx", files, alignments, items, speakers, frame_rate=rate, distance="identical", seed=seed)


def _discovery(
    rows: Sequence[UnitRow],
    alignments: Mapping[str, Alignment],
    fit: Iterable[UnitRow] | None,
    fit_alignments: Mapping[str, Alignment] | None,
    *,
    n_phones: int | None,
    seed: int,
) -> dict[str, float]:
    """Phone error rate and boundaries; left out with a warning where none was asked for and they are undefined."""
    contract = rows[0].units.contract
    files = {row.id: row.units.frames() for row in rows}
    others = None
    if fit is not None:
        fit = list(fit)
        for row in fit:
            contract.check(row.units.contract, mine=rows[0].id, theirs=row.id)
        others = (
            {row.id: row.units.frames() for row in fit},
            (alignments if fit_alignments is None else by_plain_name(fit_alignments)),
        )
    n_units = contract.n_units or 1 + max(
        int(u.max(initial=0)) for u in [*files.values(), *(others or [{}])[0].values()]
    )
    rate = rows[0].units.frame_rate
    try:
        return unit_discovery(
            files, alignments, n_units=n_units, frame_rate=rate, n_phones=n_phones, fit=others, seed=seed
        )
    except CorpusError as e:
        if fit is not None or n_phones is not None:
            raise
        warnings.warn(f"no phone error rate: {e}", stacklevel=1)
        return {}


def check_rows(rows: Sequence[UnitRow]) -> UnitContract:
    """The contract of all rows. Raises ContractError where they have several."""
    contract = rows[0].units.contract if rows else UnitContract()
    for row in rows[1:]:
        contract.check(row.units.contract, mine=rows[0].id, theirs=row.id, together=True)
    return contract


def measure_frames(
    files: Mapping[str, np.ndarray],
    *,
    frame_rate: float,
    alignments: Mapping[str, Alignment] | None = None,
    items: Sequence[Item] | None = None,
    speakers: Mapping[str, str | None],
    distance: str = "angular",
    **options: Unpack[ABXOptions],
) -> dict[str, float]:
    """ABX of frames {id: (T, D) float}, by the items or else by the triphones of the alignments.

    Args:
        distance, options: those of `abx`.

    Returns:
        `frame_abx_within` and `frame_abx_across`, each with `_low`, `_high`, `_chance` and `_cells`.

    Warns and raises as `measure_units`.
    """
    return _abx("frame_abx", files, alignments, items, speakers, frame_rate=frame_rate, distance=distance, **options)


def _abx(
    name: str,
    files: Mapping[str, np.ndarray],
    alignments: Mapping[str, Alignment] | None,
    items: Sequence[Item] | None,
    speakers: Mapping[str, str | None],
    *,
    frame_rate: float,
    distance: str,
    **options: Unpack[ABXOptions],
) -> dict[str, float]:
    """ABX within and across speakers, one of them left out where it has no cell."""
    triphones = items
    if triphones is None:
        triphones = items_of({i: a for i, a in (alignments or {}).items() if i in files}, speakers)
    values: dict[str, float] = {}
    reasons = []
    for mode in ("within", "across"):
        try:
            result = abx(files, triphones, frame_rate, distance, mode, **options)
        except CorpusError as e:
            reasons.append(str(e))
            continue
        values[f"{name}_{mode}"] = result["error"]
        values |= {f"{name}_{mode}_{k}": result[k] for k in ("low", "high", "chance", "cells")}
    if items is not None and not values:
        raise CorpusError(reasons[0])
    if reasons:
        unknown = "no ABX: the speakers are not known; give a manifest with the column speaker, or an item file"
        warnings.warn(reasons[-1] if items is not None or any(speakers.values()) else unknown, stacklevel=1)
    return values
