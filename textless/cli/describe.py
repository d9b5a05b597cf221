"""`textless describe`: what a unit dump, or a unit file of another tool, holds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """Say what a unit dump holds: rows, hours, speakers, units a second, bit rates, licence and contract."""
    click.echo("\n".join(f"{name:34}{value}".rstrip() for name, value in figures(dump, format, frame_rate, n_units)))


def figures(
    dump: str, format: str | None = None, frame_rate: float | None = None, n_units: int | None = None
) -> list[tuple[str, str]]:
    """Names and values, as they are printed. Every row is read, one at a time.

    Raises DumpError when it is not there or damaged, ContractError for rows of several contracts.
    """
    from textless.errors import CorpusError
    from textless.exchange import read_units
    from textless.metrics.bitrate import METRICS, unit_cost
    from textless.types import UnitContract, UnitRow, Units

    rows: Iterator[UnitRow] = read_units(dump, format, frame_rate=frame_rate, n_units=n_units)
    first = next(rows, None)
    contract = first.units.contract if first else UnitContract()
    counts = {"rows": 0, "units": 0, "frames": 0}
    speakers: dict[str | None, int] = {}

    def counted() -> Iterator[Units]:
        row = first
        while row is not None:
            contract.check(row.units.contract, mine=first.id if first else "", theirs=row.id)
            counts["rows"] += 1
            counts["units"] += len(row.units)
            counts["frames"] += row.units.n_frames
            speakers[row.speaker] = speakers.get(row.speaker, 0) + 1
            yield row.units
            row = next(rows, None)

    cost: dict[str, float] = {}
    if contract.frame_rate is None:
        for _ in counted():
            pass
    else:
        with contextlib.suppress(CorpusError):  # rows without units
            cost = unit_cost(counted(), n_units=contract.n_units)
    named = [s for s in speakers if s is not None]
    hours = f"{counts['frames'] / contract.frame_rate / 3600:.4f}" if contract.frame_rate else "unknown (no frame rate)"
    lines = [(name, f"{n:,}") for name, n in counts.items()]
    lines += [("hours", hours), ("speakers", f"{len(named):,}" + _unnamed(speakers.get(None, 0)))]
    lines += [(METRICS[name].label, METRICS[name].format(cost[name])) for name in NAMES if name in cost]
    lines += [(name, str(about[name])) for about in [_about(Path(dump))] for name in ("license", "language", "version")]
    return lines + [(f"contract.{k}", "unknown" if v is None else str(v)) for k, v in contract.to_dict().items()]


def _unnamed(rows: int) -> str:
    return f" ({rows:,} rows without)" if rows else ""


def _about(path: Path) -> dict[str, Any]:
    """What dump.json states besides what the rows show; other formats state nothing."""
    about: dict[str, Any] = {}
    if (file := path / "dump.json").is_file():
        about = json.loads(file.read_text(encoding="utf-8"))  # it was checked when the dump was opened
    return {name: one_line(str(about.get(name) or "not stated")) for name in ("license", "language", "version")}
