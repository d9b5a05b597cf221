"""Output to a terminal: progress, and text without control characters."""

from __future__ import annotations

import re
import sys
import time
from typing import Any, TextIO

# C0 but tab and newline, delete, C1, marks of direction, separators of lines, and halves of characters.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
REWRITE = re.compile("\r(\x1b\\[K)?")  # how a line of progress begins


def clean(text: str) -> str:
    """The text with control characters escaped, as `\\x1b`: file names, ids and replies of servers are untrusted."""
    return CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    return clean(text.strip()).replace("\n", "\\n")


class Clean:
    """A text stream that escapes control characters, except those that begin a line of progress."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        begin = start[0] if (start := REWRITE.match(text)) else ""
        shown = begin + clean(text[len(begin) :])
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Line:
    """Progress on standard error: one line that is rewritten on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.last = self.begun = time.monotonic()
        self.label, self.open = "", False

    def start(self, name: str, n: int, total: int) -> None:
        self.end()
        self.label, self.begun = f"[{n}/{total}] {name:12} ", time.monotonic()
        print(self.label, end="" if self.terminal else "\n", file=sys.stderr, flush=True)
        self.open = True

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if now - self.last < (0.1 if self.terminal else 10) and not (self.terminal and done == total):
            return
        self.last = now
        text = f"{self.label}{done}/{total} {what}, {now - self.begun:.0f} s"
        print(
            f"\r\x1b[K{text[:118]}" if self.terminal else text,
            end="" if self.terminal else "\n",
            file=sys.stderr,
            flush=True,
        )
        self.open = True

    def end(self) -> None:
        if self.terminal and self.open:
            print(file=sys.stderr)
        self.open = False
