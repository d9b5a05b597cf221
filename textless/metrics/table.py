"""Tables of metrics as the command line prints them, from their declarations (see `textless.metrics.metric`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textless.metrics import continuations, diversity, lm, robustness, speech, term_discovery, units
from textless.metrics.metric import Metric

UNITS = {**units.METRICS, **units.FRAME_METRICS, **robustness.METRICS}  # of `measure_tokenizer`
SPEECH = speech.METRICS  # of `summarise`
TERMS = term_discovery.METRICS  # of `terms`
ALL = {**diversity.METRICS, **continuations.METRICS, **lm.METRICS, **UNITS, **SPEECH, **TERMS}


def table(values: Mapping[str, float]) -> str:
    """Metrics of units, a line each in the order of declaration: name, value, 95 % interval and chance level if any."""
    return _table(values, UNITS, "chance")


def speech_table(values: Mapping[str, float]) -> str:
    """Metrics of speech, a line each: name, value, 95 % interval, and the value of the original if any."""
    return _table(values, SPEECH, "original")


def continuations_table(values: Mapping[str, float]) -> str:
    """Metrics of continuations, a line each: name, value and 95 % interval if any."""
    return _table(values, continuations.METRICS, None)


def terms_table(values: Mapping[str, float]) -> str:
    """Metrics of discovered terms, a line each."""
    return _table(values, TERMS, "chance")


def _table(values: Mapping[str, float], metrics: Mapping[str, Metric], baseline: str | None) -> str:
    lines: list[tuple[str, ...]] = [("", "value", "95 % interval", baseline or "")]
    for name, metric in metrics.items():
        if metric.printed and name in values:
            low, high, other = (values.get(f"{name}_{end}") for end in ("low", "high", baseline))
            interval = "" if low is None or high is None else f"{metric.format(low)} – {metric.format(high)}"
            against = "" if other is None else metric.format(other)
            lines.append((metric.label, metric.format(values[name]), interval, against))
    return _aligned(lines)


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )
