"""What the formats of unit files share: the format itself, what a caller declares, and how errors name file and
line."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np

from textless.errors import AudioError, ContractError, ContractWarning, DumpError, TextlessError
from textless.files import atomic
from textless.types import UnitContract, UnitRow, Units
from textless.units.blocks import Block, Part, n_rows

DIGITS = 18  # of a unit or duration; a longer number does not fit 64 bits
WIDEST = 7  # digits of a unit of a block, and one
PEEK = 64  # rows by which frames are distinguished from runs
BATCH = 1 << 16  # characters of the lines that are parsed together
LINE_BITS = 40  # of a line's number
RECENT = 1 << 16  # ids that are not sorted yet
Item = TypeVar("Item")
Lines = int | list[int]  # the line of a row, or those of a block's rows
AnyPart = TypeVar("AnyPart", UnitRow, Part)


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


Read = Callable[[Path, Declared], Iterator[UnitRow] | Iterator[Part]]
Write = Callable[[Path, Any], None]  # of rows; with `Format.blocks` of rows and blocks


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of unit files.

    Attributes:
        name: as `--from` and `--to` have it.
        read: rows of a file or folder, lazily, one by one or in blocks. Raises DumpError that names file and line.
        write: writes rows to a path that does not exist, the companions next to it. Raises DumpError for rows that it
            cannot hold.
        fits: whether a file, of which the first 64 KiB are given, or a folder (given b""), looks like this format.
        suffixes: of files that are written in this format without being asked (`-o x.km`).
        asked: suffixes of another format that files of this one have as well, if it is asked for (`--to`).
        folder: it writes a folder, but for a path with one of `suffixes`.
        loses: of `durations`, `speaker`, `source`, `span`, `extra`, `contract`, `id`: what it cannot hold.
        keeps: extra columns that it holds though it loses the others.
        blocks: `write` takes blocks among the rows.
    """

    name: str
    read: Read
    write: Write
    fits: Callable[[Path, bytes], bool]
    suffixes: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    folder: bool = False
    loses: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    blocks: bool = False


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


def numbers_of(texts: Sequence[str], separator: str = " ") -> tuple[np.ndarray, np.ndarray] | None:
    """`numbers` of several lines at once: (N,) int64 of all lines, and (lines,) int64 where those of each line end.

    None where a line must be looked at alone: it is wrong, or has a long number.
    """
    data = "\n".join([*texts, ""]).encode("utf-8", "replace")
    mark = separator.encode()
    if len(mark) != 1 or mark.isdigit() or not texts:
        return None
    if mark != b" " and any(wrong in b"\n" + data for wrong in (mark * 2, mark + b"\n", b"\n" + mark)):
        return None
    padded = np.frombuffer(b"\n" * WIDEST + data, np.uint8)
    digits = padded - np.uint8(ord("0"))
    after = np.flatnonzero(digits > 9)[WIDEST - 1 :]  # places of what is no digit
    between = padded.take(after)
    if not ((between == 10) | (between == mark[0])).all():
        return None
    width = np.diff(after)  # of a number and of what follows it
    after = after[1:]
    if len(width) and width.min() < 2:  # a blank line, or several spaces
        after, width = after[width > 1], width[width > 1]
    if (most := int(width.max(initial=0))) > WIDEST:
        return None
    values = digits.take(after - 1).astype(np.int64)
    for k in range(1, most - 1):
        digit = digits.take(after - (k + 1))
        digit *= width > k + 1  # else it is another number's
        values += digit * np.int64(10**k)
    line_ends = np.cumsum([len(text) + 1 for text in texts]) + (WIDEST - 1)
    return values, np.searchsorted(after, line_ends, "right")


def batches(items: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Lines with their numbers, `BATCH` characters and more together.

    Larger batches are slower: their arrays leave the processor's cache, and are given back to the system each time.
    """
    batch: list[tuple[int, str]] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item[1]) + 1
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def block_of(
    names: Sequence[str], units: tuple[np.ndarray, np.ndarray] | None, contract: UnitContract, **columns: list[Any]
) -> Block | None:
    """Rows of names and the units of `numbers_of`. None where the rows must be made one by one: a unit is out of range,
    or a name needs a closer look."""
    if units is None or not all(names) or not "".join(names).isascii():
        return None
    block = Block(ids=list(names), units=units[0], ends=units[1], contract=contract, columns=columns)
    return block if block.is_sound() else None


class Columns(TypedDict, total=False):
    """What a row may have next to its units, as `UnitRow` holds it."""

    speaker: str | None
    source: str
    samples: int
    extra: dict[str, Any]


def row_of(
    name: str,
    units: np.ndarray,
    declared: Declared,
    *,
    durations: np.ndarray | None = None,
    runs: bool = False,
    **columns: Unpack[Columns],
) -> UnitRow:
    """A row. `runs`: the format says that repetitions were removed; of such units without durations the frame rate is
    unknown.

    Raises DumpError and ContractError that do not name the file.
    """
    contract = declared.contract if durations is not None else untimed(declared, runs)
    columns["extra"] = dict(columns.get("extra") or {})  # its own
    return UnitRow(name, Units(units, durations, contract), **columns)


def untimed(declared: Declared, runs: bool = False) -> UnitContract:
    """The contract of units without durations. `runs`: the format's habit."""
    contract = declared.contract
    if (runs if declared.runs is None else declared.runs) and contract.frame_rate is not None:
        return contract.with_(frame_rate=None)
    return contract


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
    path: Path, rows: Iterable[tuple[Lines, AnyPart]], declared: Declared, *, runs: bool | None = None
) -> Iterator[tuple[Lines, AnyPart]]:
    """The rows of a file, with the line numbers, where it is settled whether they are frames or runs.

    `runs`: the format's habit; None: it may hold either, and frames are taken. Warns ContractWarning, once, when
    neither the caller nor equal neighbours among the first `PEEK` rows, and those of their block, say which. Raises
    DumpError for equal neighbours among runs. Rows with durations pass.
    """
    known, waiting = runs if declared.runs is None else declared.runs, iter(rows)
    if known is None:
        first: list[tuple[Lines, AnyPart]] = []
        looked_at = 0
        while looked_at < PEEK and (item := next(waiting, None)):
            first.append(item)
            looked_at += n_rows(item[1])
        parts = [part for _, part in first if _is_untimed(part)]
        if parts and all(_repeats(part) is None for part in parts):
            warnings.warn(
                f"{path}: nothing in it says whether it holds frames or runs; taken as frames, one unit each; "
                "`--runs` (runs=True) if repetitions were removed, --frames if not",
                ContractWarning,
                stacklevel=2,
            )
        yield from first
    for n, part in waiting:
        if known and _is_untimed(part) and (k := _repeats(part)) is not None:
            line = n if isinstance(n, int) else n[k]
            raise DumpError(
                f"{path}, line {line}: equal units follow each other, so these are frames, not runs; give --frames"
            )
        yield n, part


def _is_untimed(part: Part) -> bool:
    """Whether there are units without durations."""
    units = part.units if isinstance(part, Block) else part.units.units
    durations = part.durations if isinstance(part, Block) else part.units.durations
    return durations is None and len(units) > 0


def _repeats(part: Part) -> int | None:
    """The first row in which equal units follow each other."""
    if isinstance(part, Block):
        return part.repeats()
    units = part.units.units
    return 0 if (units[1:] == units[:-1]).any() else None


class Seen:
    """The ids of the rows so far, with the file and line of each: 16 bytes for each id."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.hashes = np.empty(0, np.int64)  # sorted
        self.places = np.empty(0, np.int64)  # of each
        self.recent: dict[int, int] = {}  # the same of the last ids

    def first(self, path: Path, ids: Sequence[str], lines: Sequence[int]) -> tuple[int, str] | None:
        """Take ids. Returns, if one was there before, its number among `ids`, and the file and line of the first."""
        if not self.files or self.files[-1] != path:
            self.files.append(path)
        base = (len(self.files) - 1) << LINE_BITS
        hashes = list(map(hash, ids))
        for k, (key, line) in enumerate(zip(hashes, lines, strict=True)):
            if (earlier := self.recent.setdefault(key, base + line)) != base + line:
                return k, self._where(earlier)
        keys = np.array(hashes, np.int64)
        at = np.searchsorted(self.hashes, keys)
        known = self.hashes.take(at, mode="clip") == keys if len(self.hashes) else np.zeros(len(keys), bool)
        if known.any():
            k = int(known.argmax())
            return k, self._where(int(self.places[at[k]]))
        if len(self.recent) >= RECENT:
            self.hashes = np.append(self.hashes, np.fromiter(self.recent.keys(), np.int64))
            order = self.hashes.argsort(kind="stable")  # fast where most is sorted
            self.hashes = self.hashes[order]
            self.places = np.append(self.places, np.fromiter(self.recent.values(), np.int64))[order]
            self.recent = {}
        return None

    def _where(self, where: int) -> str:
        return f"{self.files[where >> LINE_BITS]}, line {where & ((1 << LINE_BITS) - 1)}"


def distinct(path: Path, rows: Iterable[tuple[Lines, AnyPart]], seen: Seen | None = None) -> Iterator[AnyPart]:
    """The rows of a file without the line numbers. Raises DumpError for an id that comes twice, here or in `seen`."""
    seen = seen or Seen()
    for n, part in rows:
        ids = [part.id] if isinstance(part, UnitRow) else part.ids
        numbers = [n] if isinstance(n, int) else n
        if earlier := seen.first(path, ids, numbers):
            k, first = earlier
            raise DumpError(
                f"{path}, line {numbers[k]}: id {ids[k][:80]!r} comes twice, first in {first}; give one of them another"
            )
        yield part


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
    try:
        with atomic(path) as temporary:
            yield temporary
    except OSError as e:  # errors of rows that are read meanwhile name their own file
        raise DumpError(f"{e.filename or path}: {e.strerror or e}") from None


def stem(path: str) -> str:
    """Name of an audio file without folder and suffix: the id of a row that has no other."""
    name = path[path.rfind("/") + 1 :]  # as os.path has it, at a third of the time
    dot = name.rfind(".")
    return name[:dot] if dot > 0 and name[:dot].strip(".") else name
