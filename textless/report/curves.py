"""Charts: training curves out of manifests, and the SVG that they and other series are drawn as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from textless.engine.pipeline import Pipeline
from textless.engine.step import Source, Step
from textless.engine.store import Store
from textless.report.figures import Html, is_finite, joined, label, markup, number, powers, thinned, ticks

POINTS = 300  # of a curve, at most
APART = 20  # times that one step's figures are another's, from where on the axis is logarithmic
SIDE = ("lr", "grad_norm")  # of a training, not of what it is to learn
WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 26, 10, 34  # margins


class Series(NamedTuple):
    """`points` (x, y) in order of x; `colour` is a number, the same for a step in all charts of its type."""

    name: str
    points: list[tuple[float, float]]
    colour: int = 0


def curves(pipeline: Pipeline, store: Store) -> dict[tuple[str, str, str], list[Series]]:
    """Every curve of the manifests: by (type of step, figure, what x counts) the series of the steps that have it.

    A curve is a list of mappings with `step`, each of whose figures is one, or a list of numbers.
    """
    out: dict[tuple[str, str, str], list[Series]] = {}
    colours: dict[str, dict[str, int]] = {}

    def add(name: str, step: Step, figure: str, x: str, points: list[tuple[float, float]]) -> None:
        mine = colours.setdefault(step.type, {})
        series = Series(name, thinned(points, POINTS), mine.setdefault(name, len(mine)))
        out.setdefault((step.type, figure, x), []).append(series)

    for name, step in pipeline.steps.items():
        manifest = None if isinstance(step, Source) else store.manifest(step)
        for key, value in ((manifest or {}).get("metrics") or {}).items():
            if not isinstance(value, list) or len(value) < 2:
                continue
            if all(isinstance(row, dict) and is_finite(row.get("step")) for row in value):
                for figure in dict.fromkeys(f for row in value for f in row if f != "step"):
                    points = [(float(row["step"]), float(row[figure])) for row in value if is_finite(row.get(figure))]
                    if len(points) > 1:
                        add(name, step, figure, "step", points)
            elif all(map(is_finite, value)):
                add(
                    name,
                    step,
                    key.removesuffix("_curve"),
                    "round",
                    [(float(n), float(v)) for n, v in enumerate(value, 1)],
                )
    return out


def curves_html(found: dict[tuple[str, str, str], list[Series]], charts: list[dict[str, Any]]) -> Html:
    """Charts by type of step. What is needed to tell values under the pointer is added to `charts`."""
    out = []
    for kind in dict.fromkeys(k for k, _, _ in found):
        mine = {(figure, x): series for (k, figure, x), series in found.items() if k == kind}
        first = [chart(label(f), x, s, charts) for (f, x), s in mine.items() if f not in SIDE]
        rest = [chart(label(f), x, s, charts) for (f, x), s in mine.items() if f in SIDE]
        out.append(markup('<h3>{}</h3><div class="charts">{}</div>', kind, joined(first)))
        if rest:
            fold = '<details class="more"><summary>how it was trained</summary><div class="charts">{}</div></details>'
            out.append(markup(fold, joined(rest)))
    return joined(out)


def chart(
    title: str,
    x_label: str,
    series: Sequence[Series],
    charts: list[dict[str, Any]],
    *,
    bars: Sequence[str] | None = None,
) -> Html:
    """A figure with lines; or with `bars`, what each x is called, one bar for each of a single series' points."""
    xs, ys = [x for s in series for x, _ in s.points], [y for s in series for _, y in s.points]
    low, high = (0.0, max(ys)) if bars is not None else (min(ys), max(ys))
    if high - low < 1e-12:
        high = low + (abs(low) or 1)
    ends = [s.points[-1][1] for s in series]
    log = bars is None and low > 0 and max(ends) / min(ends) > APART
    slack = 0 if bars is not None else 0.04 * (high - low)
    # A figure that is never negative gets no axis below zero.
    y0, y1 = (max(0.0, low - slack) if low >= 0 else low - slack), high + (slack or 0.04 * (high - low))
    if log:
        y0, y1 = low / 1.2, high * 1.2
    scale = math.log if log else float
    x0, x1 = (min(xs) - 0.5, max(xs) + 0.5) if bars is not None else (min(xs), max(xs))
    if x1 <= x0:
        x1 = x0 + (abs(x0) or 1)

    def px(x: float) -> float:
        return round(LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT), 1)

    def py(y: float) -> float:
        return round(HEIGHT - BOTTOM - (scale(y) - scale(y0)) / (scale(y1) - scale(y0)) * (HEIGHT - TOP - BOTTOM), 1)

    parts = []
    for y, written in powers(y0, y1) if log else ticks(y0, y1):
        line = '<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" class="y">{}</text>'
        parts.append(markup(line, LEFT, py(y), WIDTH - RIGHT, LEFT - 6, py(y) + 4, written))
    if bars is None:
        whole = [x for x, _ in ticks(x0, x1) if x == int(x)]
        parts += [
            markup('<text x="{}" y="{}" class="x">{}</text>', px(x), HEIGHT - BOTTOM + 16, number(x)) for x in whole
        ]
    parts.append(
        markup('<text x="{}" y="{}" class="x name">{}</text>', (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, x_label)
    )
    if bars is not None:
        wide = max(0.4, round((px(1) - px(0)) * 0.86, 2))
        strokes = "".join(f"M{px(x)} {py(0)}V{py(y)}" for x, y in series[0].points)
        parts.append(markup('<path class="bars" stroke-width="{}" d="{}"/>', wide, strokes))
    else:
        for s in series:
            points = " ".join(f"{px(x)},{py(y)}" for x, y in s.points)
            parts.append(markup('<polyline class="{}" points="{}"/>', _look(s), points))
    parts.append(markup('<path class="cross" d=""/>'))
    said = (
        ", ".join(f"{s.name} ends at {number(s.points[-1][1])}" for s in series)
        if bars is None
        else f"{len(bars)} bars"
    )
    charts.append(
        {
            "box": [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM],
            "x": [x0, x1],
            "series": [{"name": s.name, "points": [[x, _short(y)] for x, y in s.points]} for s in series],
            "unit": x_label,
            "bars": None if bars is None else list(bars),
        }
    )
    legend = Html()
    if bars is None:
        key = '<li><svg viewBox="0 0 24 6" aria-hidden="true"><path class="{}" d="M0 3H24"/></svg>{} <b>{}</b></li>'
        legend = markup(
            '<ul class="legend">{}</ul>', joined(markup(key, _look(s), s.name, number(s.points[-1][1])) for s in series)
        )
    return markup(
        '<figure class="chart"><figcaption>{title}</figcaption>'
        '<svg viewBox="0 0 {width} {height}" data-chart="{n}" tabindex="0" role="img" '
        'aria-label="{title}: {said}">{parts}</svg><output class="tip" hidden></output>{legend}</figure>',
        title=title,
        width=WIDTH,
        height=HEIGHT,
        n=len(charts) - 1,
        said=said,
        parts=joined(parts),
        legend=legend,
    )


def _look(series: Series) -> str:
    """Six colours, each whole and in two kinds of dashes."""
    return f"line s{series.colour % 6} d{series.colour // 6 % 3}"


def _short(value: float) -> float:
    """Five digits."""
    return float(f"{value:.5g}")
