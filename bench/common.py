"""Two functions timed in turn: medians, ratio, and the load of the machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable


def compare(ours: Callable[[], object], theirs: Callable[[], object], *, runs: int = 7) -> tuple[float, float, float]:
    """Seconds of both and theirs / ours, medians over pairs A B A B … after a warm-up of each."""
    ours(), theirs()
    pairs = []
    for _ in range(runs):
        a = _time(ours)
        b = _time(theirs)
        pairs.append((a, b, b / a))
    return tuple(statistics.median(column) for column in zip(*pairs, strict=True))  # type: ignore[return-value]


def _time(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def header(title: str) -> None:
    print(
        f"# {title}; {os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS', 'all')} threads, "
        f"load {os.getloadavg()[0]:.1f}"
    )
