"""Code files of speech-resynthesis: a Python dictionary a line, which that project evaluates and this module parses."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from textless.errors import DumpError
from textless.exchange.base import Declared, Format, place, writing
from textless.exchange.jsonl import Fields, audio_of, blocks_of_lines, rows_of
from textless.text import joined
from textless.types import UnitRow

# In the order in which dataset.py looks for them; `codes` is Expresso's.
KEYS = ("cpc_km100", "vqvae256", "hubert", "codes")
LONGEST = 1 << 26  # characters of a line
DEEPEST = 8  # brackets within each other
SIMPLE = re.compile(r"\{('\w+': ('[^'\\\n]*'|\d+(\.\d*)?(e[-+]?\d+)?)(, |(?=\})))*\}", re.ASCII)
STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
FRAME = re.compile(r"(?:[\w\s{}\[\](),:.]|[-+](?![-+\s]))*", re.ASCII)  # no operators: chains of them nest too
ITEM = re.compile(r"'(\w+)': (?:'([^']*)'|([^,}]+))", re.ASCII)

_FIELDS = Fields(names=("audio",), paths=True, units=KEYS, speaker="spk")


def _read(path: Path, declared: Declared) -> Iterator[UnitRow]:
    yield from rows_of(path, declared, _FIELDS, _records(path))


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with place(path):
        for n, raw in blocks_of_lines(path):
            if raw.strip():
                try:
                    record = _literal(raw.decode().strip())
                except Exception:
                    with place(path, n):
                        raise
                yield n, record


def _literal(line: str) -> dict[str, Any]:
    """A dictionary as Python writes it, never evaluated. Raises DumpError for anything else."""
    if len(line) > LONGEST:
        raise DumpError(f"is longer than {LONGEST} characters")
    if SIMPLE.fullmatch(line):
        return {
            key: text if number == "" else float(number) if re.search("[.e]", number) else int(number)
            for key, text, number in ITEM.findall(line)
        }
    if not line.startswith("{"):
        raise DumpError(f"{line[:40]!r} has no units; a line is a dictionary such as {{'audio': …, 'hubert': '71 12'}}")
    frame = STRING.sub("0", line)
    depth = np.cumsum([1 if b in "[({" else -1 for b in re.findall(r"[\[({\])}]", frame)])
    if not FRAME.fullmatch(frame) or depth.max(initial=0) > DEEPEST:
        raise DumpError(f"{line[:40]!r} is not a dictionary of text and numbers")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes that escape nothing
            value = ast.literal_eval(line)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise DumpError(f"{line[:40]!r} is not a dictionary as Python writes it") from None
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise DumpError(f"{line[:40]!r} is not a dictionary of named values")
    return value


def _write(path: Path, rows: Iterable[UnitRow]) -> None:
    seen: set[str] = set()
    with writing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as f:
        for n, row in enumerate(rows):
            name = audio_of(row)
            if name in seen:
                raise DumpError(f"two rows would be called {name!r}; give other ids")
            seen.add(name)
            f.write("\n" * bool(n) + str(_record(row, name)))  # scripts/parse_cpc_codes.py ends without a newline


def _record(row: UnitRow, name: str) -> dict[str, Any]:
    codes = joined(row.units.frames())
    if not codes:
        raise DumpError(f"{row.id}: has no units, and this format cannot say so; leave the row out")
    record: dict[str, Any] = {"audio": name, "hubert": codes}
    if (seconds := _seconds(row)) is not None:
        record["duration"] = seconds
    if row.speaker is not None:
        record["spk"] = row.speaker
    if (style := row.extra.get("style")) is not None:
        record["style"] = str(style)
    return record


def _seconds(row: UnitRow) -> float | None:
    contract, given = row.units.contract, row.extra.get("duration")
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    if row.samples and contract.sample_rate:
        return row.samples / contract.sample_rate
    return row.units.seconds if contract.frame_rate else None


def _fits(path: Path, head: bytes) -> bool:
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0]
    keys = {k.decode() for k in re.findall(rb"""[{,]\s*['"](\w+)['"]\s*:\s*['"]""", first)}
    return first.startswith(b"{") and "audio" in keys and bool(keys & set(KEYS))


RESYNTHESIS = Format(
    name="speech-resynthesis",
    read=_read,
    write=_write,
    fits=_fits,
    loses=("span", "extra", "contract"),
    keeps=("duration", "style"),
)
