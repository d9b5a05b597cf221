"""Numbers as text: values of metrics, durations, ticks of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard, TypeVar

from textless.metrics.metric import Metric
from textless.metrics.table import ALL
from textless.text import duration

METRICS = {**ALL, "hours": Metric("length", lambda hours: duration(3600 * hours))}  # and of a dump
LARGEST = 1e300  # of the numbers that are drawn
T = TypeVar("T")


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a value from a file is a number that can be drawn: not NaN, and the difference of two is not infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def number(value: object) -> str:
    """Three significant digits; counts in full; other values unchanged."""
    if not is_finite(value):
        return "–" if value is None else str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e12):
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if abs(value) < 1e-3:
        return f"{value:.2e}".replace("e-0", "e-")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def value_text(name: str, value: object) -> str:
    """The value of a metric as the command line prints it; of one that is not declared as `number` does."""
    return METRICS[name].format(value) if name in METRICS and is_finite(value) else number(value)


def label(name: str) -> str:
    """A metric in words."""
    group, dot, rest = name.partition(".")
    return METRICS[name].label if name in METRICS else f"{group}{': ' if dot else ''}{rest}".replace("_", " ")


def ticks(low: float, high: float, count: int = 5) -> list[tuple[float, str]]:
    """About `count` round numbers between two, and their text, with the digits that the distance between them needs."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return [
        (v, f"{v:.{digits}f}" if 1e-4 < step < 1e4 or not v else f"{v:.0e}".replace("e-0", "e-").replace("e+0", "e"))
        for v in values
    ]


def powers(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis."""
    return [(10.0**k, number(10.0**k)) for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def thinned(points: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of the points, evenly spaced, the first and the last among them."""
    if len(points) <= limit:
        return list(points)
    return [points[round(k * (len(points) - 1) / (limit - 1))] for k in range(limit)]
