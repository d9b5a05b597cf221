"""The figures of a pipeline's steps side by side, out of their manifests."""

from __future__ import annotations

import io
from collections.abc import Iterable
from csv import writer as csv_writer
from typing import Any, NamedTuple

from textless.engine.pipeline import Pipeline
from textless.engine.step import Source
from textless.engine.store import Store

WIDTH = 140  # characters; what is wider is turned on its side


class Table(NamedTuple):
    """Steps of one type: `columns` are swept settings and figures, `rows` the values by the step's name, None where it has none."""

    type: str
    columns: list[str]
    rows: dict[str, list[Any]]


def tables(pipeline: Pipeline, store: Store, targets: Iterable[str] = ()) -> list[Table]:
    """A table for each type of step that has figures: of the targets and what these compare, else of all steps that are done."""
    names = _with_compared(pipeline, pipeline.pick(targets)) if (targets := list(targets)) else list(pipeline.steps)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names:
        step = pipeline.steps[name]
        manifest = None if isinstance(step, Source) else store.manifest(step)
        if manifest and (figures := _flat(manifest["metrics"] or {})):
            found.setdefault(step.type, {})[name] = {**pipeline.variants.get(name, {}), **figures}
    out = []
    for kind, rows in found.items():
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        out.append(Table(kind, columns, {name: [row.get(c) for c in columns] for name, row in rows.items()}))
    return out


def _with_compared(pipeline: Pipeline, names: list[str]) -> list[str]:
    compared = {id(step) for name in names for step in pipeline.steps[name].compared()}
    return list(dict.fromkeys([*(name for name, step in pipeline.steps.items() if id(step) in compared), *names]))


def text(found: Iterable[Table]) -> str:
    """A line for each step, or where that is too wide for each figure; those that have an interval with it."""
    return "\n\n".join(map(_text, found))


def csv(found: Iterable[Table]) -> str:
    """A line for each step and figure, with every digit."""
    out = io.StringIO()
    writer = csv_writer(out, lineterminator="\n")
    writer.writerow(["step", "type", "figure", "value"])
    for table in found:
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
    """Figures alone; of a group each under `group.name`, of a curve its end."""
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
    said = f"{value:.4g}" if isinstance(value, float) else str(value)
    return said if low is None or high is None else f"{said} [{_short(low)}, {_short(high)}]"
