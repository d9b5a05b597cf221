"""Praat's TextGrid: units as the intervals of a tier called `units`, a file for each row."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textless.errors import DumpError
from textless.exchange.base import Declared, Format, numbers, place, writing
from textless.exchange.jsonl import Names
from textless.types import LONGEST_ROW, UnitRow, Units

TIER = "units"
SUFFIX = ".TextGrid"
LONGEST = 1 << 28  # bytes of a file
SEARCHED = 4096  # entries of a folder that are looked at to see what it is
OFF = 0.1  # frames that a boundary may be off, as rounding to milliseconds leaves it

# What Praat reads of a file: text in quotation marks, flags, and numbers that have space around them. The rest, such
# as `intervals [1]:`, is a comment.
TOKENS = re.compile(r'"((?:[^"]|"")*)"|(<[^<>\s]*>)|![^\n]*|([^\s"]+)')
NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Tier:
    """An interval tier.

    Attributes:
        starts, ends: (N,) float64, seconds.
        labels: N.
    """

    name: str
    starts: np.ndarray
    ends: np.ndarray
    labels: list[str]


def read_tiers(path: Path) -> list[Tier]:
    """The interval tiers of a TextGrid, long or short, in UTF-8 or with the byte order mark of UTF-16.

    Raises DumpError. Point tiers are passed over.
    """
    with place(path):
        if path.stat().st_size > LONGEST:
            raise DumpError(f"is larger than {LONGEST} bytes")
        return parse_tiers(_decoded(path.read_bytes()))


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def parse_tiers(text: str) -> list[Tier]:
    """Interval tiers of the text of a TextGrid. Raises DumpError that does not name the file."""
    values = _Values(text)
    if values.text() not in ("ooTextFile", "ooTextFile short") or values.text() != "TextGrid":
        raise DumpError("is not a TextGrid in text form; binary ones are not read")
    values.number(), values.number()
    tiers = []
    for _ in range(values.count() if values.flag() == "<exists>" else 0):
        kind, name = values.text(), values.text()
        values.number(), values.number()
        n = values.count()
        if kind == "TextTier":
            for _ in range(n):
                values.number(), values.text()
            continue
        if kind != "IntervalTier":
            raise DumpError(f"has a tier of class {kind[:40]!r}")
        rows = [(values.number(), values.number(), values.text()) for _ in range(n)]
        starts, ends = (np.array([row[k] for row in rows], np.float64) for k in (0, 1))
        tiers.append(Tier(name, starts, ends, [row[2] for row in rows]))
    return tiers


class _Values:
    """The values of a text file of Praat's, one after the other."""

    def __init__(self, text: str) -> None:
        self.tokens = TOKENS.finditer(text)

    def _next(self) -> tuple[str, str]:
        for token in self.tokens:
            if token[1] is not None:
                return "text", token[1].replace('""', '"')
            if token[2] is not None:
                return "flag", token[2]
            if token[3] is not None and NUMBER.fullmatch(token[3]):
                return "number", token[3]
        raise DumpError("ends too early")

    def _of(self, kind: str) -> str:
        actual, value = self._next()
        if actual != kind:
            raise DumpError(f"has {value[:40]!r} where a {kind} is expected")
        return value

    def text(self) -> str:
        return self._of("text")

    def flag(self) -> str:
        return self._of("flag")

    def number(self) -> float:
        return float(self._of("number"))

    def count(self) -> int:
        value = self._of("number")
        if not value.isdigit() or len(value) > 9:
            raise DumpError(f"has {value!r} where a number of items is expected")
        return int(value)


def units_of(tier: Tier, frame_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Units and their durations, (N,) int64 each. Empty intervals at the end are no units.

    Raises DumpError for other empty ones, and for boundaries that are not on frames.
    """
    labels = list(tier.labels)
    while labels and not labels[-1].strip():
        labels.pop()
    starts, ends = tier.starts[: len(labels)], tier.ends[: len(labels)]
    if not labels:
        return np.empty(0, np.int64), np.empty(0, np.int64)
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
        start = head.replace(b"\0", b"")[:200]  # of UTF-16 too
        return b"ooTextFile" in start and b"TextGrid" in start and any(t.name == TIER for t in read_tiers(path))
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
