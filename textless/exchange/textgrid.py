"""Praat's TextGrid: units as the intervals of a tier called `units`, a file for each row."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from textless.audio.textgrid import Tier, is_textgrid, read_textgrid
from textless.errors import CorpusError, DumpError
from textless.exchange.base import Declared, Format, numbers, place, writing
from textless.exchange.jsonl import Names
from textless.types import LONGEST_ROW, UnitRow, Units

TIER = "units"
SUFFIX = ".TextGrid"
SEARCHED = 4096  # entries of a folder that are looked at to see what it is
OFF = 0.1  # frames that a boundary may be off, as rounding to milliseconds leaves it


def read_tiers(path: Path) -> list[Tier]:
    """The interval tiers of a file. Raises DumpError, naming the file, when it is malformed."""
    try:
        return [tier for tier in read_textgrid(path) if not tier.points]
    except CorpusError as e:
        raise DumpError(str(e)) from None


def units_of(tier: Tier, frame_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Units and their durations, (N,) int64 each. Empty intervals at the end are no units.

    Raises DumpError for other empty ones, and for boundaries that are not on frames.
    """
    intervals = list(tier.intervals)
    while intervals and not intervals[-1][2].strip():
        intervals.pop()
    if not intervals:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    starts, ends = (np.array([interval[k] for interval in intervals]) for k in (0, 1))
    labels = [label for _, _, label in intervals]
    if empty := [k for k, label in enumerate(labels) if len(label.split()) != 1]:
        raise DumpError(f"the interval at {starts[empty[0]]:g} s holds {labels[empty[0]]!r}, not one unit")
    if not np.isfinite(ends).all() or not np.allclose(starts[1:], ends[:-1], rtol=0, atol=OFF / frame_rate):
        raise DumpError("the intervals do not follow each other")
    times = (np.append(starts[:1], ends) - starts[0]) * frame_rate
    frames = np.rint(times)
    if (off := np.abs(times - frames) > OFF).any():
        seconds = times[off][0] / frame_rate + starts[0]
        raise DumpError(f"the boundary at {seconds:g} s is not on a frame at {frame_rate:g} frames a second")
    if frames[-1] > LONGEST_ROW * 64:
        raise DumpError(f"is {frames[-1]:g} frames long")
    return numbers(" ".join(labels)), np.diff(frames).astype(np.int64)


def _read(path: Path, declared: Declared) -> Iterator[UnitRow]:
    rate = declared.contract.frame_rate
    if rate is None:
        raise DumpError(
            f"{path}: a TextGrid holds seconds; say how many frames make one with frame_rate (--frame-rate)"
        )
    names = Names()
    for file in _files(path):
        tier = next((t for t in read_tiers(file) if t.name == TIER), None)
        with place(file):
            if tier is None:
                raise DumpError(f"has no interval tier {TIER!r}")
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            units, durations = units_of(tier, rate)
            row = UnitRow(names.of_id(os.path.splitext(name)[0]), Units(units, durations, declared.contract))
        yield row


def _files(path: Path) -> list[Path]:
    """TextGrids below a folder, sorted."""
    with place(path):
        if path.is_file():
            return [path]
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() == SUFFIX.lower() and not p.name.startswith("."))
    if not files:
        raise DumpError(f"{path}: no {SUFFIX} files there")
    return files


# ------------------------------------------------------------------------------------------------------------- writing


def write_tier(units: Units) -> str:
    """A TextGrid in Praat's long form with the tier `units`, as Praat writes it. No units are one empty interval.

    Raises ContractError when the frame rate is unknown.
    """
    rate = units.frame_rate
    units = units.deduplicated()
    durations = units.durations if units.durations is not None else units.units
    labels = [str(u) for u in units.units.tolist()] or [""]
    times = [_seconds(t / rate) for t in np.cumsum(np.append(0, durations if len(durations) else 1)).tolist()]
    end = times[-1]
    parts = [
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
        f"xmin = 0 \nxmax = {end} \ntiers? <exists> \nsize = 1 \nitem []: \n    item [1]:\n"
        f'        class = "IntervalTier" \n        name = "{TIER}" \n        xmin = 0 \n        xmax = {end} \n'
        f"        intervals: size = {len(labels)} \n"
    ]
    for k, label in enumerate(labels):
        parts.append(
            f"        intervals [{k + 1}]:\n            xmin = {times[k]} \n            xmax = {times[k + 1]} \n"
            f'            text = "{label}" \n'
        )
    return "".join(parts)


def _seconds(value: float) -> str:
    """The shortest of 15 to 17 digits that is read as the same number, as Praat writes it."""
    return next(text for digits in (15, 16, 17) if float(text := f"{value:.{digits}g}") == value)


def _write(path: Path, rows: Iterable[UnitRow]) -> None:
    """A file of one row, or a folder of files that are called by the ids."""
    if path.suffix.lower() == SUFFIX.lower():
        _write_one(path, rows)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with place(path):
            temporary.mkdir()
            for row in rows:
                file = temporary / _name(row.id)
                if file.exists():
                    raise DumpError(f"the id {row.id!r} comes a second time; give other ids")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(write_tier(row.units), encoding="utf-8", newline="\n")
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_one(path: Path, rows: Iterable[UnitRow]) -> None:
    first = list(itertools.islice(rows, 2))
    if len(first) != 1:
        raise DumpError(f"{path}: one {SUFFIX} holds one row, not {'more' if first else 'none'}; give a folder")
    with writing(path) as temporary:
        temporary.write_text(write_tier(first[0].units), encoding="utf-8", newline="\n")


def _name(row_id: str) -> str:
    """The file of a row below the folder. Raises DumpError for an id that leads elsewhere."""
    parts = row_id.split("/")
    if any(p in ("", ".", "..") or p.startswith(".") or "\0" in p or "\\" in p for p in parts):
        raise DumpError(f"the id {row_id!r} cannot be the name of a file; give another")
    return row_id + SUFFIX


def _fits(path: Path, head: bytes) -> bool:
    with contextlib.suppress(DumpError, OSError, UnicodeDecodeError):
        if path.is_dir():
            entries = itertools.islice(path.rglob("*"), SEARCHED)
            file = next((p for p in entries if p.suffix.lower() == SUFFIX.lower() and p.is_file()), None)
            return file is not None and any(t.name == TIER for t in read_tiers(file))
        return is_textgrid(head) and any(t.name == TIER for t in read_tiers(path))
    return False


TEXTGRID = Format(
    name="textgrid",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(SUFFIX.lower(),),
    folder=True,
    loses=("speaker", "source", "span", "extra", "contract"),
)
