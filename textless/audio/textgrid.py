"""Praat's TextGrid, long and short: tiers of intervals and points.

After praat/praat, fon/TextGrid.cpp and melder/melder_readtext.cpp: only free-standing numbers, strings in quotation
marks and `<exists>` are read; the words of the long form are comments. A quotation mark in a label is doubled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from textless.errors import CorpusError

LATEST = 1e9  # seconds; no recording is so long
LONGEST = 1 << 28  # bytes of a file
# A string, a free-standing number, or a flag; or anything else between white space. `!` begins a comment.
TOKEN = re.compile(
    r'"((?:[^"]|"")*)"|(?<!\S)([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?!\S)|(<exists>|<absent>)|(?<!\S)(!.*)|\S+'
)
MARK = b'"ooTextFile'
KINDS = ("ooTextFile", "ooTextFile short")


@dataclass(frozen=True, slots=True)
class Tier:
    """Intervals (start, end, label) in seconds, in order; of a tier of points, start is end."""

    name: str
    intervals: list[tuple[float, float, str]]
    points: bool = False


def is_textgrid(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a TextGrid."""
    text = head.replace(b"\0", b"").removeprefix(b"\xef\xbb\xbf").lstrip(b"\xff\xfe")
    return MARK in text[:200] and b"TextGrid" in text[:200]


def read_textgrid(path: Path | str) -> list[Tier]:
    """The tiers of a file, UTF-8 or UTF-16. Raises CorpusError, naming the file, when it is malformed."""
    try:
        if Path(path).stat().st_size > LONGEST:
            raise CorpusError(f"{path}: is larger than {LONGEST} bytes, which no TextGrid is")
        data = Path(path).read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except OSError as e:
        raise CorpusError(f"{path}: cannot be read ({e.strerror})") from None
    except UnicodeDecodeError as e:
        raise CorpusError(f"{path}: is neither UTF-8 nor UTF-16 ({e.reason}); save it as UTF-8") from None
    try:
        return _Tokens(text).tiers()
    except _Malformed as e:
        raise CorpusError(f"{path}, line {e.line}: is no TextGrid: {e}; save it again with Praat") from None


class _Malformed(Exception):
    def __init__(self, why: str, line: int) -> None:
        super().__init__(why)
        self.line = line


class _Tokens:
    """The values of a TextGrid, one after the other."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.tokens = (m for m in TOKEN.finditer(text) if m[1] is not None or m[2] is not None or m[3] is not None)

    def fail(self, why: str) -> _Malformed:
        return _Malformed(why, self.text.count("\n", 0, self.position) + 1)

    def _next(self, group: int, what: str) -> str:
        token = next(self.tokens, None)
        if token is not None:
            self.position = token.start()
        if token is None or token[group] is None:
            raise self.fail(f"{what} is missing")
        return str(token[group])

    def string(self, what: str) -> str:
        return self._next(1, what).replace('""', '"')

    def time(self, what: str) -> float:
        value = float(self._next(2, what))
        if not abs(value) < LATEST:
            raise self.fail(f"{what} is no time")
        return value

    def count(self, what: str) -> int:
        text = self._next(2, what)
        if not text.isdecimal() or len(text) > 9:
            raise self.fail(f"{what} is no number of things")
        return int(text)

    def tiers(self) -> list[Tier]:
        if self.string("the type of file") not in KINDS or self.string("the class") != "TextGrid":
            raise self.fail("it holds something else")
        self.time("its start"), self.time("its end")
        return [self._tier() for _ in range(self.count("the number of tiers"))] if self._exist() else []

    def _exist(self) -> bool:
        return self._next(3, "the mark of tiers") == "<exists>"

    def _tier(self) -> Tier:
        kind, name = self.string("the class of a tier"), self.string("the name of a tier")
        self.time("the start of a tier"), self.time("the end of a tier")
        n = self.count("the size of a tier")
        if kind not in ("IntervalTier", "TextTier"):
            raise self.fail(f"{kind[:40]!r} is no kind of tier")
        intervals = []
        for _ in range(n):
            start = self.time("a time")
            end = start if kind == "TextTier" else self.time("a time")
            if end < start:
                raise self.fail("an interval ends before it starts")
            intervals.append((start, end, self.string("a label")))
        return Tier(name, intervals, kind == "TextTier")
