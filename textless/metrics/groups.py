"""Bias: metrics of each group of files, such as the speakers, and the largest gap between two groups."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textless.errors import CorpusError
from textless.metrics import lm as lm_metrics
from textless.metrics.alignments import Alignment
from textless.metrics.bitrate import cost_intervals
from textless.metrics.items import Item
from textless.metrics.labelled import labels_of, read_file_labels
from textless.metrics.metric import Metric
from textless.metrics.units import measure_units
from textless.types import UnitRow, Units

SIZES = ("files", "rows", "seconds", "frames", "active_units")  # which say how much there is, and have no gap

Figures = dict[str, float]


def read_groups(by: str, rows: Sequence[UnitRow]) -> dict[str, str]:
    """The group of each row by id: from a file with lines of id, tab, group, or of a column (`speaker`, any extra).

    Raises CorpusError where no row has the column or is in the file; rows without a group are counted in a warning.
    """
    if Path(by).is_file():
        groups = read_file_labels(by)
        if not any(row.id in groups for row in rows):
            raise CorpusError(f"{by}: has none of these rows, such as {rows[0].id[:60]!r}; do the ids agree?")
    else:
        groups = labels_of({row.id: {**row.extra, "speaker": row.speaker} for row in rows}, by)
    if missing := sum(row.id not in groups for row in rows):
        warnings.warn(f"{missing} of {len(rows)} rows have no group by {by} and are in none", stacklevel=2)
    return groups


def by_group(
    rows: Sequence[UnitRow], groups: Mapping[str, str], measure: Callable[[list[UnitRow]], Figures]
) -> dict[str, Any]:
    """Metrics of the rows of each group, and the gaps.

    Args:
        groups: by id; rows without one are left out.
        measure: rows → metrics by name.

    Returns:
        `groups`: by name, sorted, what `measure` returns and `rows`, how many there are; `gaps`: of each metric that
        two groups have, `gap`, the largest value less the smallest, and `highest` and `lowest`, which groups these are.
    """
    members: dict[str, list[UnitRow]] = {}
    for row in rows:
        if (group := groups.get(row.id)) is not None:
            members.setdefault(group, []).append(row)
    figures = {name: {**measure(own), "rows": float(len(own))} for name, own in sorted(members.items())}
    names = dict.fromkeys(name for values in figures.values() for name in values)
    gaps = {}
    for metric in names:
        values = {group: own[metric] for group, own in figures.items() if metric in own}
        if len(values) < 2 or metric in SIZES or metric.rpartition("_")[2] in ("low", "high", "chance", "cells"):
            continue
        highest, lowest = (choose(values, key=values.__getitem__) for choose in (max, min))
        gaps[metric] = {"gap": values[highest] - values[lowest], "highest": highest, "lowest": lowest}
    return {"groups": figures, "gaps": gaps}


def quality_by_group(
    rows: Sequence[UnitRow],
    by: str,
    *,
    alignments: Mapping[str, Alignment] | None = None,
    items: Sequence[Item] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """`by_group` of all metrics of units; `by` is that of `read_groups`."""
    groups = read_groups(by, rows)
    return {"by": by, **by_group(rows, groups, lambda own: unit_figures(own, alignments, items, seed))}


def unit_figures(
    rows: list[UnitRow], alignments: Mapping[str, Alignment] | None, items: Sequence[Item] | None, seed: int
) -> Figures:
    """What `measure_units` returns of one group, with 95 % intervals of the bit rates too.

    Where its rows have no phones, or no ABX, those metrics are left out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one speaker has no ABX across speakers
        values = _possible(rows, alignments, items, seed)
    contract = rows[0].units.contract
    return values | cost_intervals([row.units for row in rows], n_units=contract.n_units, seed=seed)


def _possible(
    rows: list[UnitRow], alignments: Mapping[str, Alignment] | None, items: Sequence[Item] | None, seed: int
) -> Figures:
    for phones in ((alignments, items), (alignments, None), (None, None)):
        try:
            values = measure_units(rows, alignments=phones[0], items=phones[1], seed=seed)
        except CorpusError:
            if phones == (None, None):
                raise
            continue
        if items is not None and phones[1] is None:  # ABX of triphones is not that of the items of other groups
            values = {name: value for name, value in values.items() if not name.startswith("abx_")}
        return values
    raise AssertionError


def group_table(result: Mapping[str, Any], metrics: Mapping[str, Metric], by: str) -> str:
    """For each metric a line for each group, value and 95 % interval if any, and one for the largest gap."""
    figures: Mapping[str, Figures] = result["groups"]
    width = max(len(name) for name in (*figures, "largest gap"))
    lines = [f"by {by}: {len(figures)} groups"]
    for name, metric in metrics.items():
        if not metric.printed or name in SIZES or not any(name in values for values in figures.values()):
            continue
        lines.append(metric.label)
        for group, values in figures.items():
            if name in values:
                ends = [metric.format(values[f"{name}_{end}"]) for end in ("low", "high") if f"{name}_{end}" in values]
                size = f"{values['rows']:.0f} rows"
                lines.append(f"  {group:{width}}  {metric.format(values[name]):>8}  {' – '.join(ends):17}  {size}")
        if gap := result["gaps"].get(name):
            between = f"{gap['lowest']} – {gap['highest']}"
            lines.append(f"  {'largest gap':{width}}  {metric.format(gap['gap']):>8}  {between}")
    return "\n".join(line.rstrip() for line in lines)


def score_by_group(
    lm: lm_metrics.SizedScorer,
    rows: Sequence[UnitRow],
    by: str,
    *,
    pairs: str | None = None,
    with_controls: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """`by_group` of likelihoods, and where they are asked for of pairs and of controls.

    Args:
        by: that of `read_groups`.
        pairs: a file as `read_pairs` takes it; a pair is in the group of its good row.
        with_controls: a control of a row is made of rows of its group alone.
    """
    groups = read_groups(by, rows)
    gold: dict[str | None, list[tuple[Units, Units]]] = {}
    if pairs:
        whose = {id(row.units): groups.get(row.id) for row in rows}
        for pair in lm_metrics.read_pairs(pairs, {row.id: row.units for row in rows}):
            gold.setdefault(whose[id(pair[0])], []).append(pair)

    def measure(own: list[UnitRow]) -> Figures:
        values = lm_metrics.likelihoods(lm, own, seed=seed)
        shares = lm_metrics.controls(lm, own, seed=seed) if with_controls else {}
        if good := gold.get(groups[own[0].id]):
            for name, normalise in (("pairs", False), ("pairs_per_unit", True)):
                shares[name] = lm_metrics.pair_accuracy(lm, good, normalise=normalise, seed=seed)
        for name, share in shares.items():
            if share["n"]:
                values |= {name: share["accuracy"], f"{name}_low": share["low"], f"{name}_high": share["high"]}
        return values

    return by_group(rows, groups, measure)
