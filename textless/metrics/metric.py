"""How a metric is declared: next to the function that returns it, in a table `METRICS` from keys to `Metric`s.

`textless.metrics.table` prints what is declared, and a test holds the declarations against what the functions return.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Format = Callable[[float], str]


def count(value: float) -> str:
    return f"{value:,.0f}"


def percent(value: float) -> str:
    return f"{value:.1%}"


def number(digits: int) -> Format:
    return lambda value: f"{value:.{digits}f}"


@dataclass(frozen=True, slots=True)
class Metric:
    """How the value of one key is called and shown.

    Attributes:
        label: its name, with its unit where the format has none.
        format: the value as text.
        interval: it has a 95 % interval, under the keys `NAME_low` and `NAME_high`.
        baseline: the value to compare it with: `chance` or `original`, under the key `NAME_chance` or `NAME_original`.
        unprinted: suffixes of further keys that are written to files and not printed.
        printed: whether the table has a line for it.
        ratio: two numbers of each sentence, where the metric is the sum of the first over the sum of the second; where
            it is None, it is the mean over sentences. Only of metrics of speech.
    """

    label: str
    format: Format
    interval: bool = False
    baseline: str | None = None
    unprinted: tuple[str, ...] = ()
    printed: bool = True
    ratio: tuple[str, str] | None = None

    def keys(self, name: str) -> set[str]:
        """All keys that this metric may have in a result."""
        ends = [
            *(("low", "high") if self.interval else ()),
            *((self.baseline,) if self.baseline else ()),
            *self.unprinted,
        ]
        return {name, *(f"{name}_{end}" for end in ends)}
