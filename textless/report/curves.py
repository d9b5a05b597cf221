"""Charts: training curves from manifests, and the SVG that draws them and other series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from textless.engine.pipeline import Pipeline
from textless.engine.step import Source
from textless.engine.store import Store
from textless.report.html import Html, joined, markup
from textless.report.numbers import is_finite, label, number, powers, thinned, ticks

POINTS = 300  # of a curve, at most
APART = 20  # the axis is logarithmic where the last values of two steps have this ratio or more
SIDE = ("lr", "grad_norm")  # how a training goes, not what it learns
WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 26, 10, 34  # margins

Curve = tuple[str, str, str]  # type of step, metric, and what x counts
Points = list[tuple[float, float]]  # (x, y) in order of x


class Series(NamedTuple):
    """A line, or bars. `colour` is a number, the same for a step in all charts of its type."""

    name: str
    points: Points
    colour: int = 0


def curves(pipeline: Pipeline, store: Store) -> dict[Curve, list[Series]]:
    """Every curve of the manifests, with the series of each step that has it.

    A curve is a list of mappings with `step`, where each other key is a metric, or a list of numbers.
    """
    out: dict[Curve, list[Series]] = {}
    colours: dict[str, dict[str, int]] = {}
    for name, step in pipeline.steps.items():
        manifest = None if isinstance(step, Source) else store.manifest(step)
        for key, value in ((manifest or {}).get("metrics") or {}).items():
            for metric, x, points in _curves_of(key, value):
                of_type = colours.setdefault(step.type, {})
                series = Series(name, thinned(points, POINTS), of_type.setdefault(name, len(of_type)))
                out.setdefault((step.type, metric, x), []).append(series)
    return out


def _curves_of(key: str, value: Any) -> list[tuple[str, str, Points]]:
    """(metric, what x counts, points) of the curves in one value of a manifest."""
    if not isinstance(value, list) or len(value) < 2:
        return []
    if all(isinstance(row, dict) and is_finite(row.get("step")) for row in value):
        out = []
        for metric in dict.fromkeys(k for row in value for k in row if k != "step"):
            points = [(float(row["step"]), float(row[metric])) for row in value if is_finite(row.get(metric))]
            if len(points) > 1:
                out.append((metric, "step", points))
        return out
    if all(map(is_finite, value)):
        return [(key.removesuffix("_curve"), "round", [(float(n), float(v)) for n, v in enumerate(value, 1)])]
    return []


def curves_html(series_of: dict[Curve, list[Series]], charts: list[dict[str, Any]]) -> Html:
    """Charts by type of step. What the script needs to show values under the pointer is appended to `charts`."""
    out = []
    for kind in dict.fromkeys(k for k, _, _ in series_of):
        of_type = {(metric, x): series for (k, metric, x), series in series_of.items() if k == kind}
        first = [chart(label(m), x, s, charts) for (m, x), s in of_type.items() if m not in SIDE]
        rest = [chart(label(m), x, s, charts) for (m, x), s in of_type.items() if m in SIDE]
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
    """A figure with lines; or with `bars`, the name of each x, one bar for each point of a single series."""
    axes = _axes(series, bars is not None)
    grid = _grid(axes, x_label, whole_x=bars is None)
    if bars is None:
        drawn = [*map(axes.line, series)]
        summary = ", ".join(f"{s.name} ends at {number(s.points[-1][1])}" for s in series)
        key = '<li><svg viewBox="0 0 24 6" aria-hidden="true"><path class="{}" d="M0 3H24"/></svg>{} <b>{}</b></li>'
        names = joined(markup(key, _look(s), s.name, number(s.points[-1][1])) for s in series)
        legend = markup('<ul class="legend">{}</ul>', names)
    else:
        drawn = [axes.bars(series[0])]
        summary, legend = f"{len(bars)} bars", Html()
    charts.append(
        {
            "box": [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM],
            "x": [axes.x0, axes.x1],
            "series": [{"name": s.name, "points": [[x, _short(y)] for x, y in s.points]} for s in series],
            "unit": x_label,
            "bars": None if bars is None else list(bars),
        }
    )
    return markup(
        '<figure class="chart"><figcaption>{title}</figcaption>'
        '<svg viewBox="0 0 {width} {height}" data-chart="{n}" tabindex="0" role="img" '
        'aria-label="{title}: {summary}">{parts}</svg><output class="tip" hidden></output>{legend}</figure>',
        title=title,
        width=WIDTH,
        height=HEIGHT,
        n=len(charts) - 1,
        summary=summary,
        parts=joined([*grid, *drawn, markup('<path class="cross" d=""/>')]),
        legend=legend,
    )


class _Axes(NamedTuple):
    """From values to pixels. The y axis is logarithmic with `log`."""

    x0: float
    x1: float
    y0: float
    y1: float
    log: bool

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else float(v) for v in (self.y0, self.y1, value))
        return round(HEIGHT - BOTTOM - (at - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def line(self, series: Series) -> Html:
        points = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in series.points)
        return markup('<polyline class="{}" points="{}"/>', _look(series), points)

    def bars(self, series: Series) -> Html:
        width = max(0.4, round((self.x(1) - self.x(0)) * 0.86, 2))
        strokes = "".join(f"M{self.x(x)} {self.y(0)}V{self.y(y)}" for x, y in series.points)
        return markup('<path class="bars" stroke-width="{}" d="{}"/>', width, strokes)


def _axes(series: Sequence[Series], bars: bool) -> _Axes:
    """Axes that hold all points; for bars from zero."""
    xs, ys = [x for s in series for x, _ in s.points], [y for s in series for _, y in s.points]
    low, high = (0.0, max(ys)) if bars else (min(ys), max(ys))
    if high - low < 1e-12:
        high = low + (abs(low) or 1)
    ends = [s.points[-1][1] for s in series]
    log = not bars and low > 0 and max(ends) / min(ends) > APART
    slack = 0.04 * (high - low)
    # A metric that is never negative gets no axis below zero.
    y0, y1 = (max(0.0, low - slack) if low >= 0 else low - slack), high + slack
    if log:
        y0, y1 = low / 1.2, high * 1.2
    x0, x1 = (min(xs) - 0.5, max(xs) + 0.5) if bars else (min(xs), max(xs))
    if x1 <= x0:
        x1 = x0 + (abs(x0) or 1)
    return _Axes(x0, x1, y0, y1, log)


def _grid(axes: _Axes, x_label: str, *, whole_x: bool) -> list[Html]:
    """Lines and numbers of the y axis, whole numbers of the x axis, and its label."""
    out = []
    for y, text in powers(axes.y0, axes.y1) if axes.log else ticks(axes.y0, axes.y1):
        line = '<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" class="y">{}</text>'
        out.append(markup(line, LEFT, axes.y(y), WIDTH - RIGHT, LEFT - 6, axes.y(y) + 4, text))
    if whole_x:
        tick = '<text x="{}" y="{}" class="x">{}</text>'
        whole = [x for x, _ in ticks(axes.x0, axes.x1) if x == int(x)]
        out += [markup(tick, axes.x(x), HEIGHT - BOTTOM + 16, number(x)) for x in whole]
    name = '<text x="{}" y="{}" class="x name">{}</text>'
    return [*out, markup(name, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, x_label)]


def _look(series: Series) -> str:
    """Six colours, each whole and in two kinds of dashes."""
    return f"line s{series.colour % 6} d{series.colour // 6 % 3}"


def _short(value: float) -> float:
    """Five digits."""
    return float(f"{value:.5g}")
