"""The metrics of a pipeline's steps side by side, from their manifests."""

from __future__ import annotations

import io
from collections.abc import Iterable
from csv import writer as csv_writer
from typing import Any, NamedTuple

from textless.engine.pipeline import Pipeline
from textless.engine.step import Source
from textless.engine.store import Store

WIDTH = 140  # characters; a wider table is transposed


class Table(NamedTuple):
    """Steps of one type: `columns` are swept settings and metrics, `rows` the values by the step's name, or None."""

    type: str
    columns: list[str]
    rows: dict[str, list[Any]]


def tables(pipeline: Pipeline, store: Store, targets: Iterable[str] = ()) -> list[Table]:
    """A table for each type of step with metrics: of the targets and what they compare, or of all finished steps."""
    names = _with_compared(pipeline, pipeline.pick(targets)) if (targets := list(targets)) else list(pipeline.steps)
    by_type: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names:
        step = pipeline.steps[name]
        manifest = None if isinstance(step, Source) else store.manifest(step)
        if manifest and (metrics := _flat(manifest["metrics"] or {})):
            by_type.setdefault(step.type, {})[name] = {**pipeline.variants.get(name, {}), **metrics}
    out = []
    for kind, rows in by_type.items():
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        out.append(Table(kind, columns, {name: [row.get(c) for c in columns] for name, row in rows.items()}))
    return out


def _with_compared(pipeline: Pipeline, names: list[str]) -> list[str]:
    compared = {id(step) for name in names for step in pipeline.steps[name].compared()}
    return list(dict.fromkeys([*(name for name, step in pipeline.steps.items() if id(step) in compared), *names]))


def text(tables: Iterable[Table]) -> str:
    """A line for each step, or where that is too wide for each metric; with the interval where a metric has one."""
    return "\n\n".join(map(_text, tables))


def csv(tables: Iterable[Table]) -> str:
    """A line for each step and metric, with every digit."""
    out = io.StringIO()
    writer = csv_writer(out, lineterminator="\n")
    writer.writerow(["step", "type", "figure", "value"])
    for table in tables:
        for name, row in table.rows.items():
            writer.writerows([name, table.type, c, v] for c, v in zip(table.columns, row, strict=True) if v is not None)
    return out.getvalue()


def _text(table: Table) -> str:
    columns = [
        c for c in table.columns if not (c.endswith(("_low", "_high")) and c.rpartition("_")[0] in table.columns)
    ]
    lines = [[table.type, *columns]]
    for name, row in table.rows.items():
        values = dict(zip(table.columns, row, strict=True))
        lines.append([name, *(_short(values[c], values.get(f"{c}_low"), values.get(f"{c}_high")) for c in columns)])
    if sum(max(map(len, column)) + 2 for column in zip(*lines, strict=True)) > WIDTH:
        lines = [list(column) for column in zip(*lines, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def _flat(metrics: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The numbers alone; those of a group under `group.name`, of a curve its last value."""
    out: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, list) and value and isinstance(value[-1], int | float):
            value = value[-1]
        if isinstance(value, dict):
            out |= _flat(value, f"{above}{name}.")
        elif isinstance(value, int | float):
            out[above + name] = value
    return out


def _short(value: Any, low: Any = None, high: Any = None) -> str:
    if value is None:
        return ""
    number = f"{value:.4g}" if isinstance(value, float) else str(value)
    return number if low is None or high is None else f"{number} [{_short(low)}, {_short(high)}]"
