"""Formats of a line of text a row: GSLM, text of a unit LM, textlesslib, ZeroSpeech 2021, Kaldi and ESPnet."""

from __future__ import annotations

import contextlib
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from textless.errors import ContractWarning, DumpError
from textless.exchange.base import (
    Declared,
    Format,
    Lines,
    batches,
    block_of,
    distinct,
    lines,
    numbers,
    numbers_of,
    placed,
    row_of,
    settled,
    untimed,
    writing,
)
from textless.text import joined
from textless.types import UnitContract, UnitRow
from textless.units.blocks import Block, Part

SAMPLE = 200  # lines of a file's head that are looked at
HEAD = 1 << 16  # bytes of it
CJK = 0x4E00  # ESPnet's character of unit 0
CJK_UNITS = 0xD800 - CJK  # what may follow it before the surrogates, which no file holds
Split = Callable[[str], tuple[str, str]]


# ---------------------------------------------------------------------------------------------------------- recognising


def head_lines(head: bytes) -> list[str]:
    """Whole lines of the start of a file, the blank ones apart. Empty when it is no text."""
    if b"\0" in head:
        return []
    whole = len(head) < HEAD
    data = head[:-8] if not whole and b"\n" not in head else head  # a character may be cut
    try:
        texts = re.split(r"\r\n?|\n", data.decode("utf-8-sig", "strict" if whole else "ignore"))
    except UnicodeDecodeError:
        return []
    if not whole and len(texts) > 1:
        texts.pop()  # it may be cut
    return [line for line in texts[:SAMPLE] if line.strip()]


def bare(text: str) -> bool:
    """Whether a text is nothing but digits and spaces."""
    return text.isascii() and not text.encode().translate(None, b"0123456789 ")


UNITS, GROUPS = r"[\d ]*", r"(\d+(-\d+)+( |$))+"


def _looks(texts: list[str], form: str = f"{UNITS}|{GROUPS}", several: str = r".*\d +\d") -> bool:
    """Whether half of the texts are units, so that damage elsewhere is found by reading; groups of codebooks are, to
    be refused by name.

    One text at least has several numbers: lists of audio and of speakers have one each.
    """
    units = [t for t in texts if re.fullmatch(form, t, re.A)]
    return 2 * len(units) >= max(len(texts), 1) and any(re.match(several, t, re.A) for t in units)


def is_bare(texts: list[str]) -> bool:
    """Whether lines are of units without names. Groups are not looked for: utterances of LibriSpeech are called
    `12-45-3`."""
    return _looks(texts, UNITS)


def _named(texts: list[str], mark: str) -> list[str]:
    """What is behind the last mark of each line; empty unless most lines have the mark, with a name before it."""
    parted = [line.rpartition(mark) for line in texts]
    rest = [rest for name, _, rest in parted if name.strip()]
    return rest if 2 * len(rest) > len(texts) else []


def _fits_gslm(path: Path, head: bytes) -> bool:
    texts = head_lines(head)
    return is_bare(texts) or _looks(_named(texts, "|"))


def _fits_textlesslib(path: Path, head: bytes) -> bool:
    if not (texts := head_lines(head)):
        return False
    companion = path.with_suffix(".durations").is_file()
    if is_bare(texts):
        return path.suffix in (".units", ".durations") or companion
    # The tool strips lines, so that a name without units has no tab.
    units = _named([line for line in texts if "\t" in line or " " in line], "\t")
    if companion:  # and so the separator may be any
        return _looks(units, r"(\d+\D{1,8})*\d+|", r"")
    return _looks(units)


def _fits_zerospeech(path: Path, head: bytes) -> bool:
    return _looks(_named(head_lines(head), "\t"), r"[\d,-]*", r".*,")


def _fits_kaldi(path: Path, head: bytes) -> bool:
    from textless.audio.io import AUDIO, MEDIA, OTHER_MEDIA

    fields = [line.split(maxsplit=1) for line in head_lines(head)]
    if path.name == "spk2utt" or not _looks([f[1].replace("\t", " ") if len(f) > 1 else "" for f in fields]):
        return False
    # A first number for a name may be a unit; audio is listed with its samples; a comma is of a table.
    return not any(f[0].isdigit() or "," in f[0] or f[0].lower().endswith(AUDIO + MEDIA + OTHER_MEDIA) for f in fields)


def _fits_espnet(path: Path, head: bytes) -> bool:
    """By its name too: a transcript of Chinese looks the same."""
    fields = [line.split() for line in head_lines(head)]
    return (
        bool(re.match(r"text\.(ts|rm)\b", path.name))
        and bool(fields)
        and all(len(f) <= 2 and all(CJK <= ord(c) < 0xD800 for c in "".join(f[1:])) for f in fields)
    )


# -------------------------------------------------------------------------------------------------------------- reading


def _texts(path: Path, *, blank: bool) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; `blank`: a blank line is a row without units."""
    return ((n, line) for n, line in lines(path) if blank or line.strip())


def _first(path: Path) -> str:
    """The first line that is not blank, or ""."""
    with contextlib.closing(lines(path)) as numbered:
        return next((line for _, line in numbered if line.strip()), "")


def _rows(
    path: Path,
    declared: Declared,
    split: Split | None,
    *,
    parse: Callable[[str], np.ndarray] = numbers,
    separator: str = " ",
    runs: bool | None = None,
) -> Iterator[Part]:
    """The rows of a file. `split`: name and units of a line; None: lines have no names, and their numbers are the
    ids."""

    contract = untimed(declared, bool(runs))

    def make(n: int, line: str) -> UnitRow:
        name, text = split(line) if split else (str(n), line)
        return row_of(name, parse(text), declared, runs=bool(runs))

    def parts() -> Iterator[tuple[Lines, Part]]:
        for batch in batches(_texts(path, blank=split is None)):
            if block := _block(batch, split, separator, contract):
                yield [n for n, _ in batch], block
            else:
                yield from placed(path, batch, make)

    rows = settled(path, parts(), declared, runs=runs)
    return distinct(path, rows) if split else (part for _, part in rows)


def _block(batch: list[tuple[int, str]], split: Split | None, separator: str, contract: UnitContract) -> Block | None:
    """Lines as a block. None where they must be read one by one."""
    if split is None:
        return block_of([str(n) for n, _ in batch], numbers_of([line for _, line in batch], separator), contract)
    try:
        names, texts = zip(*[split(line) for _, line in batch], strict=True)
    except DumpError:  # it is raised when the line has its turn
        return None
    return block_of(names, numbers_of(texts, separator), contract)


def _at(mark: str, form: str) -> Split:
    """Split at the last mark. Raises DumpError for a line without."""

    def split(line: str) -> tuple[str, str]:
        name, parted, units = line.rpartition(mark)
        if not parted:
            raise DumpError(f"{line[:40]!r} is not {form}")
        return name, units

    return split


def _read_gslm(path: Path, declared: Declared) -> Iterator[Part]:
    yield from _rows(path, declared, _at("|", "NAME|UNITS") if "|" in _first(path) else None)


def _read_ulm(path: Path, declared: Declared) -> Iterator[Part]:
    yield from _rows(path, declared, None, runs=True)


def _read_zerospeech(path: Path, declared: Declared) -> Iterator[Part]:
    yield from _rows(
        path,
        declared,
        _at("\t", "NAME<TAB>UNITS"),
        parse=lambda text: numbers(text.rstrip(), ","),
        separator=",",
        runs=False,
    )


def _first_field(line: str) -> tuple[str, str]:
    name, *rest = line.split(maxsplit=1)
    return name, rest[0] if rest else ""


def _read_kaldi(path: Path, declared: Declared) -> Iterator[Part]:
    yield from _rows(path, declared, _first_field)


def _characters(text: str) -> np.ndarray:
    """(N,) int64 units of ESPnet's characters. Raises DumpError for another character."""
    units = np.frombuffer(text.strip().encode("utf-32-le"), "<u4").astype(np.int64) - CJK
    if len(units) and not 0 <= units.min() <= units.max() < CJK_UNITS:
        other = next(c for c in text.strip() if not CJK <= ord(c) < CJK + CJK_UNITS)
        raise DumpError(f"{other!r} is no character of a unit; they begin at {chr(CJK)!r} (U+4E00)")
    return units


def _read_espnet(path: Path, declared: Declared) -> Iterator[Part]:
    kind = re.match(r"text\.(ts|rm)\b", path.name)
    runs = {"ts": False, "rm": True}[kind[1]] if kind else None
    yield from _rows(path, declared, _first_field, parse=_characters, runs=runs)


def _read_textlesslib(path: Path, declared: Declared) -> Iterator[UnitRow]:
    if path.suffix == ".durations":
        raise DumpError(f"{path}: holds the durations of units; give {path.with_suffix('.units').name}")
    companion = path.with_suffix(".durations")
    if path.with_suffix(".f0s").is_file():
        warnings.warn(f"{path.with_suffix('.f0s')}: pitch is not read", ContractWarning, stacklevel=2)
    first = _first(path)
    named, separator = "\t" in first, _separator(first)
    waiting = iter(_texts(companion, blank=not named)) if companion.is_file() else None

    def fields(line: str) -> tuple[str | None, np.ndarray]:
        name, tab, units = line.rpartition("\t")
        if not tab and named:  # the tool strips lines, so that the tab goes where there are no units
            name, units = units, ""
        elif tab and not named:
            raise DumpError(f"has the name {name[:40]!r}, the lines before it have none")
        return (name if named else None), numbers(units, separator)

    def make(n: int, line: str) -> UnitRow:
        name, units = fields(line)
        if waiting is None:
            return row_of(name or str(n), units, declared)
        m, text = next(waiting, (0, ""))
        if not m:
            raise DumpError(f"{companion.name} has no more lines; make both in one run of the tool")
        other, durations = fields(text)
        if other != name:
            raise DumpError(f"{companion.name}, line {m} is of {str(other)[:40]!r}; make both in one run of the tool")
        if len(durations) != len(units):
            raise DumpError(f"{len(units)} units, but {len(durations)} durations in {companion.name}, line {m}")
        return row_of(name or str(n), units, declared, durations=durations)

    rows = settled(path, placed(path, _texts(path, blank=not named), make), declared)
    yield from distinct(path, rows) if named else (row for _, row in rows)
    if waiting is not None and (more := next(waiting, None)):
        raise DumpError(f"{companion}, line {more[0]}: {path.name} has fewer lines; make both in one run of the tool")


def _separator(first: str) -> str | None:
    """What is between the units, by a line: None is white space."""
    between = re.search(r"\d([^\d\s-]+)\d", first.rpartition("\t")[2], re.A)
    return between[1] if between else None


# -------------------------------------------------------------------------------------------------------------- writing


def named_frames(rows: Iterable[Part], separator: str = " ") -> Iterator[tuple[str, str]]:
    """The id of each row and its frames as text; the units of a row of runs without durations."""
    for part in rows:
        if isinstance(part, UnitRow):
            yield part.id, joined(part.units.frames(), separator)
        else:
            yield from zip(part.ids, part.frames().texts(separator), strict=True)


def check_name(name: str, form: str, not_in: str = "\n\r\t") -> str:
    """A name that a line can hold. Raises DumpError for one that would not come back."""
    if not set(name).isdisjoint(not_in):
        bad = next(c for c in name if c in not_in)
        raise DumpError(f"id {name[:40]!r}: {form} cannot hold {bad!r} in a name; give it another")
    return name


def _write(path: Path, texts: Iterable[str], *, between: bool = False) -> None:
    """Lines to a file; `between`: without the newline at the end."""
    with writing(path) as temporary, open(temporary, "w", 1 << 18, encoding="utf-8", newline="\n") as f:
        for n, text in enumerate(texts):
            f.write(("\n" if n else "") + text if between else text + "\n")


def _write_gslm(path: Path, rows: Iterable[Part]) -> None:
    _write(path, (f"{check_name(name, 'gslm')}|{units}" for name, units in named_frames(rows)))


def _write_ulm(path: Path, rows: Iterable[UnitRow]) -> None:
    _write(path, (joined(row.units.deduplicated().units) for row in rows))


def _write_zerospeech(path: Path, rows: Iterable[Part]) -> None:
    texts = (f"{check_name(name, 'zerospeech')}\t{units}" for name, units in named_frames(rows, ","))
    _write(path, texts, between=True)


def _write_textlesslib(path: Path, rows: Iterable[UnitRow]) -> None:
    """`X.units`; where the rows have durations, runs, and their durations in `X.durations`."""
    companion = path.with_suffix(".durations")
    if companion == path:
        raise DumpError(f"{path}: durations go to this name; give FILE.units")
    with writing(path) as units, open(units, "w", encoding="utf-8", newline="\n") as f:
        waiting = iter(rows)
        first = next(waiting, None)
        timed = first is not None and first.units.durations is not None
        if timed and companion.exists():
            raise DumpError(f"{companion}: exists; give another name")
        with contextlib.ExitStack() as stack:
            place_of = stack.enter_context(writing(companion)) if timed else None
            g = stack.enter_context(open(place_of, "w", encoding="utf-8", newline="\n")) if place_of else None
            while first is not None:
                row, first = first, next(waiting, None)
                name = check_name(row.id, "textlesslib")
                if g is None:
                    f.write(f"{name}\t{joined(row.units.frames())}\n".replace("\t\n", "\n"))
                    continue
                durations = row.units.durations
                durations = np.ones_like(row.units.units) if durations is None else durations
                f.write(f"{name}\t{joined(row.units.units)}\n".replace("\t\n", "\n"))
                g.write(f"{name}\t{joined(durations)}\n".replace("\t\n", "\n"))
            f.flush()  # before either appears


def _write_sorted(path: Path, items: Iterable[tuple[str, str]]) -> None:
    """Lines `NAME UNITS` in the order of the names' bytes (LC_ALL=C). Holds the names alone."""
    places: list[tuple[bytes, int, int]] = []
    in_order, last = True, b""
    with writing(path) as temporary:
        with open(temporary, "wb") as f:
            start = 0
            for name, text in items:
                key = name.encode()
                start, before = start + f.write(f"{name} {text}\n".encode()), start
                if places and key <= last:
                    in_order = False
                last = key
                places.append((key, before, start - before))
        if in_order:
            return
        places.sort()
        if twice := next((a[0] for a, b in itertools.pairwise(places) if a[0] == b[0]), None):
            raise DumpError(f"id {twice.decode()[:80]!r} comes twice; give one of them another")
        unsorted = temporary.with_name(f"{temporary.name}.unsorted")
        temporary.replace(unsorted)
        try:
            with open(unsorted, "rb") as source, open(temporary, "wb") as f:
                for _, before, size in places:
                    source.seek(before)
                    f.write(source.read(size))
        finally:
            unsorted.unlink()


BLANKS = (
    " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)


def _write_kaldi(path: Path, rows: Iterable[Part]) -> None:
    _write_sorted(path, ((check_name(name, "kaldi", BLANKS), units) for name, units in named_frames(rows)))


def _write_espnet(path: Path, rows: Iterable[UnitRow]) -> None:
    """Runs where the file is called `text.rm.TAG`, else frames."""
    runs = bool(re.match(r"text\.rm\b", path.name))

    def characters(row: UnitRow) -> str:
        units = row.units.deduplicated().units if runs else row.units.frames()
        if len(units) and units.max() >= CJK_UNITS:
            raise DumpError(f"{row.id}: unit {units.max()} has no character; ESPnet's text holds {CJK_UNITS} units")
        return (units + CJK).astype("<u4").tobytes().decode("utf-32-le")

    _write_sorted(path, ((check_name(row.id, "espnet", BLANKS), characters(row)) for row in rows))


_NOT_HELD = ("speaker", "source", "span", "extra", "contract")
GSLM = Format(name="gslm", read=_read_gslm, write=_write_gslm, fits=_fits_gslm, loses=_NOT_HELD, blocks=True)
ULM = Format(
    name="ulm",
    read=_read_ulm,
    write=_write_ulm,
    fits=lambda path, head: False,  # looks as GSLM's files without names
    loses=("id", "durations", *_NOT_HELD),
)
TEXTLESSLIB = Format(
    name="textlesslib",
    read=_read_textlesslib,
    write=_write_textlesslib,
    fits=_fits_textlesslib,
    suffixes=(".units",),
    loses=_NOT_HELD,
)
ZEROSPEECH = Format(
    name="zerospeech",
    read=_read_zerospeech,
    write=_write_zerospeech,
    fits=_fits_zerospeech,
    loses=_NOT_HELD,
    blocks=True,
)
KALDI = Format(name="kaldi", read=_read_kaldi, write=_write_kaldi, fits=_fits_kaldi, loses=_NOT_HELD, blocks=True)
ESPNET = Format(name="espnet", read=_read_espnet, write=_write_espnet, fits=_fits_espnet, loses=_NOT_HELD)
