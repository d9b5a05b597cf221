"""A benchmark's result as a table for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from textless.benchmarks.base import Figure, flat

WIDTH = 80
KINDS = {"mean": "a token", "sum": "summed", "given": "score"}  # heads of columns
SCORES = {"mean": "log-likelihood a token", "sum": "log-likelihood summed"}


def show(result: Mapping[str, Any]) -> str:
    """One line a figure, what is to be said of them, and rows of published systems."""
    size = ", ".join(f"{count} {name}" for name, count in result["size"].items())
    chance = f"{result['scale'] * result['chance']:g}"
    lines = [
        *_wrapped(f"{result['title']}{', ' + result['split'] if result['split'] else ''} ({result['paper']})"),
        f"{size}; {result['unit']}, {result['better']} is better, chance {chance}",
        "",
        *_figures(result),
        "",
    ]
    kinds = [k for k in result["figures"] if k in SCORES]
    if len(kinds) > 1:
        lines += _wrapped(f"* {SCORES[result['ranked_by']]}, which the field compares on this layout")
    elif len(result["figures"]) > 1:
        lines += _wrapped(f"* {result['ranked_by']}: the benchmark's own choice")
    if result["ties"]:
        tied = ", ".join(f"{n} ({KINDS[kind]})" for kind, n in result["ties"].items())
        lines += _wrapped(f"ties, which count one half: {tied}")
    for note in result["notes"]:
        lines += _wrapped(note)
    if result["published"]:
        lines += ["", *_published(result)]
    return "\n".join(lines)


def _figures(result: Mapping[str, Any]) -> list[str]:
    """The table: the figure that is ranked by with its interval, then the other ways to measure."""
    kinds = list(dict.fromkeys([result["ranked_by"], *result["figures"]]))
    tables = {kind: flat(result["figures"][kind]) for kind in kinds}
    heads = [KINDS.get(kind, kind) for kind in kinds]
    heads[0] += "*" if len(kinds) > 1 else ""
    rows = [["", heads[0], "95 % interval", *heads[1:], "n"]]
    for name, value in result["figures"][kinds[0]].items():
        group = {name: value} if "value" in value else {f"{name} {inner}": one for inner, one in value.items()}
        if "value" not in value:
            rows.append([name])
        for full, figure in group.items():
            label = full if full == name else "  " + (full.removeprefix(f"{name} ") or "-")
            others = [_value(tables[k].get(full), result["scale"]) for k in kinds[1:]]
            rows.append([label, _value(figure, result["scale"]), _interval(figure, result), *others, f"{figure['n']}"])
    return _columns(rows)


def _value(figure: Figure | None, scale: float) -> str:
    return f"{scale * figure['value']:.2f}" if figure else ""


def _interval(figure: Figure, result: Mapping[str, Any]) -> str:
    scale = result["scale"]
    return f"{scale * figure['low']:.1f} to {scale * figure['high']:.1f}" if "low" in figure else ""


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right. Wide heads are in two lines."""
    lines = _lines(rows)
    if max(map(len, lines)) <= WIDTH:
        return lines
    above, below = zip(*(head.rpartition(" ")[::2] for head in rows[0]), strict=True)
    return _lines([above, below, *rows[1:]])


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[c]) for row in rows if len(row) > c) for c in range(max(map(len, rows)))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows if any(row)
    ]


def _published(result: Mapping[str, Any]) -> list[str]:
    """A table of published systems, a row each; or turned, a column each, where there are many figures."""
    values: dict[str, dict[str, str]] = {}
    sources: dict[str, str] = {}
    for row in result["published"]:
        source = f"{row['source']}, by {SCORES[row['score']]}" if row["score"] else row["source"]
        mark = sources.setdefault(source, f"[{len(sources) + 1}]")
        values.setdefault(f"{row['system']} {mark}", {})[row["figure"]] = f"{row['value']:.2f}"
    figures = list(dict.fromkeys(figure for row in values.values() for figure in row))
    if len(figures) > 4:
        rows = [["published", *values], *([name, *(v.get(name, "") for v in values.values())] for name in figures)]
    else:
        rows = [["published", *figures], *([name, *(v.get(f, "") for f in figures)] for name, v in values.items())]
    lines = _columns(rows)
    for source, mark in sources.items():
        lines += _wrapped(f"{mark} {source}")
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
