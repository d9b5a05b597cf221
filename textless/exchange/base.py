"""What the formats of unit files share: the format itself, what a caller declares, and how errors name file and
line."""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from textless.errors import AudioError, ContractError, ContractWarning, DumpError, TextlessError
from textless.types import UnitContract, UnitRow, Units

DIGITS = 18  # of a unit or duration; a longer number does not fit 64 bits
PEEK = 64  # rows by which frames are distinguished from runs
BATCH = 64  # lines that are parsed at a time
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What the caller says of a file that does not say it itself.

    Attributes:
        contract: of the units; fields that are None are unknown.
        runs: True: repetitions were removed, and how long a unit lasts is unknown. False: one unit a frame. None:
            nothing was said.
    """

    contract: UnitContract = field(default_factory=UnitContract)
    runs: bool | None = None


Read = Callable[[Path, Declared], Iterator[UnitRow]]
Write = Callable[[Path, Iterable[UnitRow]], None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of unit files.

    Attributes:
        name: as `--from` and `--to` have it.
        read: rows of a file or folder, lazily. Raises DumpError that names file and line.
        write: writes rows to a path that does not exist, the companions next to it. Raises DumpError for rows that it
            cannot hold.
        fits: whether a file, of which the first 64 KiB are given, or a folder (given b""), looks like this format.
        suffixes: of files that are written in this format without being asked (`-o x.km`).
        folder: it writes a folder, but for a path with one of `suffixes`.
        loses: of `durations`, `speaker`, `source`, `span`, `extra`, `contract`, `id`: what it cannot hold.
        keeps: extra columns that it holds though it loses the others.
    """

    name: str
    read: Read
    write: Write
    fits: Callable[[Path, bytes], bool]
    suffixes: tuple[str, ...] = ()
    folder: bool = False
    loses: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()


def numbers(text: str, separator: str | None = None) -> np.ndarray:
    """Integers of a line, (N,) int64, with white space or `separator` between.

    Raises DumpError for anything else, such as a group `12-45`, a fraction or a negative number.
    """
    data = text.encode("utf-8", "replace")
    if separator is None:
        if not data.translate(None, b"0123456789 \t"):  # np.fromstring stops at other characters without an error
            values = np.fromstring(text, np.int64, sep=" ") if data.strip() else np.empty(0, np.int64)
            if not len(values) or values.max() < 10**DIGITS:  # it makes longer numbers the largest
                return values
    elif not data:
        return np.empty(0, np.int64)
    elif data[:1].isdigit() and data[-1:].isdigit() and separator * 2 not in text:
        among = separator.encode()
        if not data.translate(None, b"0123456789" + among) and not among.isdigit() and len(among) == 1:
            values = np.fromstring(text, np.int64, sep=separator)
            if values.max() < 10**DIGITS:
                return values
    fields = text.split(separator)
    bad = next((f for f in fields if not (f.isascii() and f.isdigit() and len(f) <= DIGITS)), None)
    if bad is None:
        return np.array(fields, np.int64)
    if "-" in bad.strip("-"):
        raise DumpError(f"{bad[:40]!r} is a group of several codebooks; only files of one codebook are read")
    raise DumpError(f"{bad[:40]!r} is not a unit; units are whole numbers from 0")


def numbers_of(texts: Sequence[str], separator: str = " ") -> list[np.ndarray] | None:
    """`numbers` of several lines at once, twice as fast. None where a line must be looked at alone: it is wrong, or
    has a long number."""
    data = "\n".join(texts).encode("utf-8", "replace")
    mark = separator.encode()
    if data.translate(None, b"0123456789\n" + mark) or len(mark) != 1 or mark.isdigit() or not texts:
        return None
    if mark != b" " and any(wrong in b"\n%b\n" % data for wrong in (mark * 2, mark + b"\n", b"\n" + mark)):
        return None
    values = np.frombuffer(b"\n\n\n\n%b\n" % data, np.uint8) - np.uint8(48)
    digit = values < 10
    here, one, two, three = digit[4:-1], digit[3:-2], digit[2:-3], digit[1:-4]
    long = two & one & here
    long &= three
    if (long & digit[:-5]).any():
        return None
    values *= digit
    ends = np.flatnonzero(here > digit[5:])
    at = ends + 4
    found = values[at].astype(np.int64)
    tens = one[ends]
    found += np.int64(10) * values[at - 1]
    hundreds = tens & two[ends]
    found += np.int64(100) * (values[at - 2] * tens)
    found += np.int64(1000) * (values[at - 3] * hundreds)
    stops = np.searchsorted(ends, _line_ends(data))
    return [found[a:b] for a, b in itertools.pairwise([0, *stops.tolist()])]


def _line_ends(data: bytes) -> np.ndarray:
    """(lines,) the place of each newline in the data, and the end."""
    return np.append(np.flatnonzero(np.frombuffer(data, np.uint8) == 10), len(data))


def ahead(
    items: Iterable[tuple[int, str]], split: Callable[[str], tuple[str, str]], separator: str = " "
) -> Iterator[tuple[int, tuple[str, str, np.ndarray | None]]]:
    """Lines with their name and units, parsed `BATCH` at a time; (line number, (line, name, None)) where a line must
    be looked at alone."""
    waiting = iter(items)
    while batch := list(itertools.islice(waiting, BATCH)):
        try:
            parts = [split(line) for _, line in batch]
            parsed = numbers_of([units for _, units in parts], separator)
        except DumpError:  # it is raised when the line has its turn
            parsed = None
        if parsed is None:
            yield from ((n, (line, "", None)) for n, line in batch)
        else:
            for (n, line), (name, _), units in zip(batch, parts, parsed, strict=True):
                yield n, (line, name, units)


def row_of(
    name: str,
    units: np.ndarray,
    declared: Declared,
    *,
    durations: np.ndarray | None = None,
    runs: bool = False,
    speaker: str | None = None,
    source: str = "",
    samples: int = 0,
    extra: dict[str, object] | None = None,
) -> UnitRow:
    """A row. `runs`: the format says that repetitions were removed; of such units without durations the frame rate is
    unknown.

    Raises DumpError and ContractError that do not name the file.
    """
    contract = declared.contract
    untimed = durations is None and (runs if declared.runs is None else declared.runs)
    if untimed and contract.frame_rate is not None:
        contract = contract.with_(frame_rate=None)
    return UnitRow(
        name,
        Units(units, durations, contract),
        speaker=speaker,
        source=source,
        samples=samples,
        extra=dict(extra or {}),
    )


def placed(
    path: Path, items: Iterable[tuple[int, Item]], make: Callable[[int, Item], UnitRow]
) -> Iterator[tuple[int, UnitRow]]:
    """The rows made of the lines of a file, with the line numbers. Errors of `make` name file and line, as `place` has
    it."""
    n = None
    try:
        for n, item in items:
            yield n, make(n, item)
    except Exception as e:
        with place(path, n):
            if isinstance(e, ContractError):
                raise DumpError(f"{e}; are these units of another codebook, or is --n-units wrong?") from None
            raise


def settled(
    path: Path, rows: Iterable[tuple[int, UnitRow]], declared: Declared, *, runs: bool | None = None
) -> Iterator[tuple[int, UnitRow]]:
    """The rows of a file, with the line numbers, where it is settled whether they are frames or runs.

    `runs`: the format's habit; None: it may hold either, and frames are taken. Warns ContractWarning, once, when
    neither the caller nor
    equal neighbours among the first `PEEK` rows say which. Raises DumpError for equal neighbours among runs. Rows with
    durations pass.
    """
    known, waiting = runs if declared.runs is None else declared.runs, iter(rows)
    if known is None:
        first = list(itertools.islice(waiting, PEEK))
        untimed = [row.units.units for _, row in first if row.units.durations is None and len(row.units)]
        if untimed and not any(map(_repeats, untimed)):
            warnings.warn(
                f"{path}: nothing in it says whether it holds frames or runs; taken as frames, one unit each; "
                "`textless convert --runs` (runs=True) if repetitions were removed, --frames if not",
                ContractWarning,
                stacklevel=2,
            )
        yield from first
    for n, row in waiting:
        if known and row.units.durations is None and _repeats(row.units.units):
            raise DumpError(
                f"{path}, line {n}: equal units follow each other, so these are frames, not runs; give --frames"
            )
        yield n, row


def _repeats(units: np.ndarray) -> bool:
    return bool((units[1:] == units[:-1]).any())


def distinct(path: Path, rows: Iterable[tuple[int, UnitRow]], seen: dict[str, str] | None = None) -> Iterator[UnitRow]:
    """The rows of a file without the line numbers. Raises DumpError for an id that comes twice, here or in `seen`."""
    seen = {} if seen is None else seen
    for n, row in rows:
        here = f"{path}, line {n}"
        if (first := seen.setdefault(row.id, here)) is not here:
            raise DumpError(f"{here}: id {row.id[:80]!r} comes twice, first in {first}; give one of them another")
        yield row


@contextlib.contextmanager
def place(path: Path, line: int | None = None) -> Iterator[None]:
    """Errors within the block name the file and the line, and are DumpErrors."""
    where = str(path) if line is None else f"{path}, line {line}"
    try:
        yield
    except (DumpError, ContractError, AudioError) as e:
        raise e if str(e).startswith(str(path)) else DumpError(f"{where}: {e}") from None
    except TextlessError:
        raise
    except UnicodeDecodeError as e:
        raise DumpError(f"{where}: is not UTF-8 text ({e.reason}); convert it") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
        raise DumpError(f"{where}: cannot be read ({str(e)[:80] or type(e).__name__})") from None
    except OSError as e:
        raise DumpError(f"{e.filename or path}: {e.strerror or e}") from None


def lines(path: Path, errors: str = "strict") -> Generator[tuple[int, str], None, None]:
    """Lines of a text file with their numbers from 1, without line ends; the last line may lack one. Blank lines come
    as ""."""
    with place(path), open(path, encoding="utf-8-sig", errors=errors, newline=None) as f:
        for n, line in enumerate(f, 1):
            yield n, line.rstrip("\n")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A place to write a file, which appears under `path` when the block is through, and not at all when it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as e:  # errors of rows that are read meanwhile name their own file
        raise DumpError(f"{e.filename or path}: {e.strerror or e}") from None
    finally:
        temporary.unlink(missing_ok=True)


def stem(path: str) -> str:
    """Name of an audio file without folder and suffix: the id of a row that has no other."""
    return os.path.splitext(os.path.basename(path))[0]
