"""Units as JSON lines: SlamKit, minimal_hubert, unit-hifigan, DiscoPhon, and rows of Hugging Face's `datasets`."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textless.errors import ContractWarning, DumpError
from textless.exchange.base import (
    DIGITS,
    Declared,
    Format,
    Read,
    Write,
    numbers,
    place,
    placed,
    row_of,
    settled,
    stem,
    writing,
)
from textless.text import joined
from textless.types import OURS, UnitRow

BLOCK = 1 << 20  # bytes read at a time
LONGEST_LINE = 1 << 28  # bytes; a row of 2^24 frames has about half of them
MARK, ESCAPED_MARK = "\x00list ", rb"\u0000list "  # in place of a list that is parsed apart
LIST = b"0123456789, "


# ------------------------------------------------------------------------------------------------------------- reading


def blocks_of_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a file as bytes, without line ends, and their numbers from 1. Raises DumpError for a line that is too
    long."""
    n, rest = 0, b""
    with open(path, "rb") as f:
        if f.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            f.seek(0)
        while block := f.read(BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            if len(rest) > LONGEST_LINE:
                raise DumpError(f"{path}, line {n + len(lines) + 1}: is longer than {LONGEST_LINE} bytes")
            for n, line in enumerate(lines, n + 1):  # noqa: B020
                yield n, line
    if rest:
        yield n + 1, rest


def records(path: Path, lists: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of JSON lines, or of one JSON list, with the lines that they are on; blank lines are passed over.

    The named `lists` come as (N,) int64 where they hold nothing but numbers. Raises DumpError.
    """
    first = True
    with place(path):
        for n, line in blocks_of_lines(path):
            text = line.strip()
            if first and text.startswith(b"["):
                yield from _records_of_list(path)
                return
            if text:
                first = False
                try:
                    record = _record(text, lists)
                except Exception:
                    with place(path, n):
                        raise
                yield n, record


def _record(line: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    """An object of one line. Long lists are cut out and parsed by numpy, which takes a fifth of the time."""
    short, lists = line, {}
    for name in names:
        key = b'"%s"' % name.encode()
        start = short.find(key)
        left = short.find(b"[", start)
        if start < 0 or left < 0 or short[start + len(key) : left].strip() != b":":
            continue
        right = short.find(b"]", left)
        values = _parsed(short[left + 1 : right]) if right > 0 else None
        if values is not None:
            lists[name] = values
            short = short[:left] + b'"%s%s"' % (ESCAPED_MARK, name.encode()) + short[right + 1 :]
    record = _object(short.decode())
    # A list of another object within, or of a key that comes twice, leaves its mark elsewhere.
    if any(record.get(name) != MARK + name for name in lists):
        return _object(line.decode())
    return record | lists


def _parsed(text: bytes) -> np.ndarray | None:
    """Whole numbers with commas between, (N,) int64. None: anything else, which is left to the JSON parser."""
    if text.translate(None, LIST) or not text.strip():
        return None
    try:
        values = np.fromstring(text, sep=",", dtype=np.int64)
    except (ValueError, DeprecationWarning):
        return None
    # It also takes "1,,", and gives the largest integer for one that is too large.
    whole = len(values) == text.count(b",") + 1 and values.max() < 10**DIGITS
    return values if whole else None


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise DumpError(f"holds {text[:40]!r}, not an object with units")
    return value


def _records_of_list(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON list, read piece by piece."""
    decoder, n, more = json.JSONDecoder(), 1, BLOCK
    with place(path), open(path, encoding="utf-8-sig") as f:
        text, separator, ended = f.read(more), "[", False
        while True:
            with place(path, n):
                text, n = _after_space(text, n)
                while not text and (piece := f.read(BLOCK)):
                    text, n = _after_space(piece, n)
                if not text.startswith(separator) and not text.startswith("]"):
                    raise DumpError(f"{separator or 'the end'!r} is missing" if text else "the list has no end")
                if text.startswith("]") and separator != "[":
                    break
                text, n = _after_space(text[1:], n)
                if separator == "[" and text.startswith("]"):
                    break
                while True:
                    try:
                        value, end = decoder.raw_decode(text)
                        break
                    except ValueError:
                        more = min(2 * more, LONGEST_LINE)
                        piece = "" if ended or len(text) > LONGEST_LINE else f.read(more)
                        ended = not piece
                        if ended:
                            raise
                        text = _after_space(text + piece, 0)[0]
                if not isinstance(value, dict):
                    raise DumpError(f"holds {str(value)[:40]!r}, not an object with units")
            yield n, value
            n += text.count("\n", 0, end)
            text, separator = text[end:], ","
        if (text[1:] + f.read(BLOCK)).strip():
            raise DumpError(f"{path}, line {n}: something follows the list")


def _after_space(text: str, line: int) -> tuple[str, int]:
    """Text without the space before it, and the line that it is on then."""
    rest = text.lstrip()
    return rest, line + text.count("\n", 0, len(text) - len(rest))


def integers(value: Any) -> np.ndarray:
    """Units or durations as a file has them, a list or text, as (N,) int64. Raises DumpError for anything else."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str):
        return numbers(value.replace(",", " "))
    if not isinstance(value, list):
        raise DumpError(f"{str(value)[:40]!r} is not a list of units")
    if any(isinstance(v, list) for v in value):
        raise DumpError("a list within the list is a group of several codebooks; only files of one codebook are read")
    if all(type(v) is int for v in value):
        return numbers(" ".join(map(str, value)))
    return numbers(" ".join(v if isinstance(v, str) else str(v).replace(" ", "") or "?" for v in value))


def _whole(durations: Any) -> Any:
    """Durations with 3.0 as 3, which tensors that were divided leave; others as they are."""
    if not isinstance(durations, list):
        return durations
    return [int(d) if isinstance(d, float) and d.is_integer() else d for d in durations]


class Names:
    """Ids of the rows of a file, which differ.

    A file that is named by its path has its stem as id. Where an earlier row has that, the path without suffix is the
    id. Raises DumpError for a name that comes twice.
    """

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.ids: set[str] = set()

    def of_path(self, path: str, *, suffix: bool = True) -> str:
        """`suffix`: the path has one, which is no part of the id."""
        whole = path.rsplit(".", 1)[0] if suffix and "." in path.rsplit("/", 1)[-1].lstrip(".") else path
        short = stem(path) if suffix else path.rsplit("/", 1)[-1]
        if path in self.paths:
            raise DumpError(f"{path!r} comes a second time; remove one of the rows")
        self.paths.add(path)
        return self.of_id(whole if short in self.ids or not short else short)

    def of_id(self, name: Any) -> str:
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
            raise DumpError(f"an id must be text, not {str(name)[:40]!r}")
        name = str(name)
        if name in self.ids:
            raise DumpError(f"the id {name!r} comes a second time; remove or rename one of the rows")
        self.ids.add(name)
        return name


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What the fields of a format's objects mean. The first of several names that is there counts.

    Attributes:
        names: a path or an id.
        paths: `names` are paths with a suffix; else names without one, perhaps in folders.
        habit: True runs, False frames; None: either is common, frames are taken.
    """

    names: tuple[str, ...]
    paths: bool
    units: tuple[str, ...] = ("units",)
    durations: tuple[str, ...] = ()
    speaker: str = "speaker"
    habit: bool | None = False


def rows_of(
    path: Path, declared: Declared, fields: Fields, objects: Iterable[tuple[int, dict[str, Any]]]
) -> Iterator[UnitRow]:
    """Rows of the records of a file. Raises DumpError that names file and line.

    Warns ContractWarning, once, where units have no durations and the file does not say whether they are runs.
    """
    names = Names()

    def row(n: int, record: dict[str, Any]) -> UnitRow:
        return _row(record, fields, declared, names)

    untimed = False
    for _, made in settled(path, placed(path, objects, row), declared, runs=fields.habit):
        if fields.habit and declared.runs is None and made.units.durations is None and not untimed:
            untimed = True
            warnings.warn(
                f"{path}: nothing in it says how long its units last; taken as runs of unknown length; "
                "--frames (runs=False) if each is one frame",
                ContractWarning,
                stacklevel=2,
            )
        yield made


def _row(record: dict[str, Any], fields: Fields, declared: Declared, names: Names) -> UnitRow:
    values = dict(record)
    key = next((k for k in fields.names if values.get(k) is not None), None)
    which = next((k for k in fields.units if values.get(k) is not None), None)
    if key is None or which is None:
        raise DumpError(f"has no {(fields.units if key else fields.names)[0]!r}")
    name, units = values.pop(key), integers(values.pop(which))
    if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
        raise DumpError(f"{key} must be text, not {str(name)[:40]!r}")
    lengths = next((values.pop(k) for k in fields.durations if values.get(k) is not None), None)
    speaker = values.pop(fields.speaker, None)
    is_path = key != "id"
    own = values.get("id") if is_path else name
    return row_of(
        names.of_path(str(name), suffix=fields.paths) if own is None else names.of_id(own),
        units,
        declared,
        durations=None if lengths is None else integers(_whole(lengths)),
        runs=bool(fields.habit),
        speaker=None if speaker is None else str(speaker),
        source=str(name) if is_path else str(values.get("source") or ""),
        extra={k: v for k, v in values.items() if v is not None and k not in OURS},
    )


# ------------------------------------------------------------------------------------------------------------- writing


def write_lines(path: Path, rows: Iterable[UnitRow], name: Callable[[UnitRow], str], line: Callable[..., str]) -> None:
    """`line(row, name(row))` of each row. Raises DumpError when two rows have one name."""
    seen: set[str] = set()
    with writing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as f:
        for row in rows:
            if (called := name(row)) in seen:
                raise DumpError(f"two rows would be called {called!r}; give other ids")
            seen.add(called)
            f.write(line(row, called))


def audio_of(row: UnitRow) -> str:
    """The path of a row's audio. A row whose id is not its file's name is a part of the file and has a path by its
    id."""
    source = row.source
    if source and row.id in (stem(source), source.removesuffix(suffix_of(source))):
        return source
    return row.id + (suffix_of(source) or ".wav")


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1]


def last_part(row: UnitRow) -> str:
    return row.id.rsplit("/", 1)[-1]


def _compact(record: dict[str, Any], units: np.ndarray) -> str:
    """An object as orjson, polars and Rust write it, without spaces; the units come second."""
    (first, *rest) = (f"{_text(k)}:{_text(v)}" for k, v in record.items() if v is not None)
    return "{" + ",".join([first, f'"units":[{joined(units, ",")}]', *rest]) + "}\n"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# ------------------------------------------------------------------------------------------------------------- sniffing


def keys_of(head: bytes) -> set[str]:
    """Keys of the first object of JSON lines, or of a JSON list, as far as its first bytes show them; empty for
    others."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if listed := text.startswith(b"["):
        text = text[1:].lstrip()
    if not text.startswith(b"{"):
        return set()
    first = text.split(b"}" if listed else b"\n", 1)[0]
    keys = {k.decode() for k in re.findall(rb'[{,]\s*"([A-Za-z_0-9]+)"\s*:', first)}
    return set() if "textless" in keys else keys


def _fits(*needed: str, only: bool = False, folders: bool = True) -> Callable[[Path, bytes], bool]:
    def fits(path: Path, head: bytes) -> bool:
        keys = keys_of(head)
        known = keys == set(needed) if only else keys.issuperset(needed)
        return known and (folders or not re.search(rb'"file"\s*:\s*"[^"]*/', head.lstrip().split(b"\n", 1)[0]))

    return fits


def _any(*tests: Callable[[Path, bytes], bool]) -> Callable[[Path, bytes], bool]:
    return lambda path, head: any(test(path, head) for test in tests)


# ------------------------------------------------------------------------------------------------------------- formats


def _reader(fields: Fields) -> Read:
    def read(path: Path, declared: Declared) -> Iterator[UnitRow]:
        yield from rows_of(path, declared, fields, records(path, (*fields.units, *fields.durations)))

    return read


# slp-rl/slamkit, cli/extract_features.py and slamkit/tokeniser/unit_tokeniser.py. Both forms, the second as units.
_SLAMKIT = Fields(names=("file_name",), paths=True, units=("units", "audio_repr"), durations=("duration",), habit=True)


def _read_slamkit(path: Path, declared: Declared) -> Iterator[UnitRow]:
    def objects() -> Iterator[tuple[int, dict[str, Any]]]:
        for n, record in records(path, ("units", "duration")):
            if "audio_repr" in record:
                with place(path, n):
                    record = _without_brackets(record)
            yield n, record

    yield from rows_of(path, declared, _SLAMKIT, objects())


def _without_brackets(record: dict[str, Any]) -> dict[str, Any]:
    """`<Un71><Un12>` as an array. Raises DumpError for other tokens, such as text between the units."""
    text = record["audio_repr"]
    if isinstance(text, str) and text.startswith("<Un") and text.endswith(">") and text != "<Un>":
        with contextlib.suppress(DumpError):
            return record | {"audio_repr": numbers(text[3:-1].replace("><Un", ","), ",")}
    if text == "":
        return record | {"audio_repr": np.empty(0, np.int64)}
    raise DumpError(f"{str(text)[:40]!r} holds other tokens than <UnN>; only tokens of units are read")


def _write_features(path: Path, rows: Iterable[UnitRow]) -> None:
    def line(row: UnitRow, name: str) -> str:
        units = row.units.deduplicated()
        durations = units.durations if units.durations is not None else units.units
        return (
            f'{{"units": [{joined(units.units, ", ")}], "duration": [{joined(durations, ", ")}], '
            f'"file_name": {json.dumps(name)}}}\n'
        )

    write_lines(path, rows, audio_of, line)


def _write_tokens(path: Path, rows: Iterable[UnitRow]) -> None:
    def line(row: UnitRow, name: str) -> str:
        units = row.units.deduplicated().units
        tokens = f"<Un{joined(units, '><Un')}>" if len(units) else ""
        return f'{{"file_name": {json.dumps(name)}, "audio_repr": "{tokens}"}}\n'

    write_lines(path, rows, audio_of, line)


def _write_hifigan(path: Path, rows: Iterable[UnitRow]) -> None:
    def line(row: UnitRow, name: str) -> str:
        style = row.extra.get("style")
        record = {"audio": name, "speaker": row.speaker, "style": None if style is None else str(style)}
        return _compact(record, row.units.frames())

    write_lines(path, rows, audio_of, line)


def _writer(key: str, name: Callable[[UnitRow], str]) -> Write:
    def write(path: Path, rows: Iterable[UnitRow]) -> None:
        write_lines(path, rows, name, lambda row, called: _compact({key: called}, row.units.frames()))

    return write


_PATHS_LOSE = ("speaker", "span", "extra", "contract")
_NAMES_LOSE = ("speaker", "source", "span", "extra", "contract")

SLAMKIT = Format(
    name="slamkit",
    asked=(".jsonl",),
    read=_read_slamkit,
    write=_write_features,
    fits=_fits("file_name", "units"),
    loses=_PATHS_LOSE,
)
SLAMKIT_TOKENS = Format(
    name="slamkit-tokens",
    asked=(".jsonl",),
    read=_read_slamkit,
    write=_write_tokens,
    fits=_fits("file_name", "audio_repr"),
    loses=("durations", *_PATHS_LOSE),
)
# bootphon/unit-hifigan, src/unit_hifigan/data.py.
UNIT_HIFIGAN = Format(
    name="unit-hifigan",
    asked=(".jsonl",),
    read=_reader(Fields(names=("audio",), paths=True)),
    write=_write_hifigan,
    fits=_fits("audio", "units"),
    loses=("span", "extra", "contract"),
    keeps=("style",),
)
# bootphon/discophon, src/discophon/data.py: exactly these two fields.
DISCOPHON = Format(
    name="discophon",
    asked=(".jsonl",),
    read=_reader(Fields(names=("file",), paths=False)),
    write=_writer("file", last_part),
    fits=_fits("file", "units", only=True, folders=False),
    loses=_NAMES_LOSE,
)
# mxmpl/minimal_hubert, src/minimal_hubert/transcribe.py and utils.py: its merge takes `fileid`, the stem; transcribe
# also wrote `file`, a path without suffix.
MINIMAL_HUBERT = Format(
    name="minimal-hubert",
    asked=(".jsonl",),
    read=_reader(Fields(names=("fileid", "file"), paths=False)),
    write=_writer("fileid", last_part),
    fits=_any(_fits("fileid", "units"), _fits("file", "units")),
    loses=_NAMES_LOSE,
)
# ryota-komatsu/speech_resynth, src/speechlm/tokenize.py, and what `datasets` writes of such rows.
HUGGING_FACE = Format(
    name="huggingface",
    asked=(".jsonl",),
    read=_reader(Fields(names=("id",), paths=False, durations=("durations",), habit=None)),
    write=_writer("id", lambda row: row.id),
    fits=_fits("id", "units"),
    loses=_NAMES_LOSE,
)
