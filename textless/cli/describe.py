"""`textless describe`: what a unit dump, or a unit file of another tool, holds."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from textless.checks import Count
from textless.cli.convert import FrameRate
from textless.cli.numbers import Number
from textless.cli.progress import one_line

NAMES = (
    "units_per_second",
    "segment_ms",
    "active_units",
    "perplexity",
    "bitrate",
    "bitrate_frames",
    "bitrate_codebook",
)


@click.command()
@click.argument("dump", metavar="DUMP")
@click.option("--from", "format", metavar="NAME", help="Its format.  [default: by its content]")
@click.option("--frame-rate", type=Number(FrameRate), metavar="R", help="Frames a second, where the file does not say.")
@click.option("--n-units", type=Number(Count), metavar="K", help="Size of the codebook, where the file does not say.")
def describe(dump: str, format: str | None, frame_rate: float | None, n_units: int | None) -> None:
    """Say what a unit dump holds: rows, hours, speakers, splits, units a second, bit rates, licence and contract.

    DUMP is a dump, or units of another tool in any format of docs/formats.md.
    """
    click.echo("\n".join(f"{name:34}{value}".rstrip() for name, value in figures(dump, format, frame_rate, n_units)))


def figures(
    dump: str, format: str | None = None, frame_rate: float | None = None, n_units: int | None = None
) -> list[tuple[str, str]]:
    """Names and values, as they are printed. Every row is read, one at a time.

    Raises DumpError when it is not there or damaged, ContractError for rows of several contracts.
    """
    from textless.audio.sources import abridged
    from textless.errors import CorpusError
    from textless.exchange import read_units
    from textless.exchange.formats import find_format
    from textless.metrics.bitrate import METRICS, unit_cost
    from textless.types import UnitContract, UnitRow, Units

    rows: Iterator[UnitRow] = read_units(dump, format, frame_rate=frame_rate, n_units=n_units)
    first = next(rows, None)
    contract = first.units.contract if first else UnitContract()
    counts = {"rows": 0, "units": 0, "frames": 0}
    speakers: Counter[str | None] = Counter()
    splits: Counter[str | None] = Counter()

    def counted() -> Iterator[Units]:
        row = first
        while row is not None:
            contract.check(row.units.contract, mine=first.id if first else "", theirs=row.id, together=True)
            counts["rows"] += 1
            counts["units"] += len(row.units)
            counts["frames"] += row.units.n_frames
            speakers[row.speaker] += 1
            splits[None if (split := row.extra.get("split")) is None else str(split)] += 1
            yield row.units
            row = next(rows, None)

    cost: dict[str, float] = {}
    if contract.frame_rate is None:
        for _ in counted():
            pass
    else:
        with contextlib.suppress(CorpusError):  # rows without units
            cost = unit_cost(counted(), n_units=contract.n_units)
    untimed = frame_rate is not None and contract.frame_rate is None
    hours = f"unknown ({'no durations' if untimed else 'no frame rate; give --frame-rate'})"
    if contract.frame_rate:
        hours = f"{counts['frames'] / contract.frame_rate / 3600:.4f}"
    known = format or getattr(find_format(dump), "name", "unknown")
    lines = [("format", str(known)), *((name, f"{n:,}") for name, n in counts.items())]
    if untimed:
        lines[-1] = ("frames", "unknown (runs, whose durations the file does not hold)")
    lines += [("hours", hours), ("speakers", f"{len(speakers.keys() - {None}):,}" + _unnamed(speakers[None]))]
    if splits.keys() - {None}:
        lines += [("splits", abridged([f"{split or 'none'} {n:,}" for split, n in splits.items()]))]
    lines += [(METRICS[name].label, METRICS[name].format(cost[name])) for name in NAMES if name in cost]
    lines += _stated(Path(dump))
    return lines + [(f"contract.{k}", "unknown" if v is None else str(v)) for k, v in contract.to_dict().items()]


def _unnamed(rows: int) -> str:
    return f" ({rows:,} rows without)" if rows else ""


def _stated(path: Path) -> list[tuple[str, str]]:
    """What dump.json states besides what the rows show; other formats state nothing."""
    if not (file := path / "dump.json").is_file():
        return []
    about = json.loads(file.read_text(encoding="utf-8"))  # it was checked when the dump was opened
    return [(name, one_line(str(about.get(name) or "not stated"))) for name in ("license", "language", "version")]
