"""Progress on standard error."""

from __future__ import annotations

import sys
import time


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
        print(f"\r\x1b[K{text[:118]}" if self.terminal else text, end="" if self.terminal else "\n", file=sys.stderr, flush=True)
        self.open = True

    def end(self) -> None:
        if self.terminal and self.open:
            print(file=sys.stderr)
        self.open = False
