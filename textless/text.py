"""Values as text: for people to read, and for files."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def duration(seconds: float) -> str:
    """`3.2 s`, `1.5 min` from 100 s on, `2.5 h` from 100 min on."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@functools.lru_cache(maxsize=16)
def _words(size: int, separator: str) -> np.ndarray:
    """(size,) bytes: each number with the separator behind it."""
    import numpy as np

    return np.array([f"{n}{separator}".encode() for n in range(size)])


def joined(values: np.ndarray, separator: str = " ") -> str:
    """`separator.join(map(str, values))` of integers from 0, (N,) int64, six times as fast."""
    if not len(values):
        return ""
    size = 1 << max(8, int(values.max()).bit_length())
    if size > 1 << 16:
        return separator.join(map(str, values.tolist()))
    return _words(size, separator)[values].tobytes().translate(None, b"\0").decode()[: -len(separator)]


def joined_rows(values: np.ndarray, ends: np.ndarray, separator: str = " ") -> list[str]:
    """`joined` of each row of integers from 0 to 2^16 - 1: values (N,) int64, one row after the other; ends (rows,)
    int64."""
    import numpy as np

    size = 1 << max(8, int(values.max(initial=0)).bit_length())
    table = _words(size, separator)
    kind = np.dtype("<u4") if table.itemsize == 4 else table.dtype  # numpy copies integers three times as fast
    words = table.view(kind)[values]
    filled = np.diff(ends, prepend=0) > 0
    last = ends[filled] - 1
    words[last] = _words(size, "\n").astype(table.dtype).view(kind)[values[last]]
    texts = iter(words.tobytes().translate(None, b"\0").decode().split("\n"))
    return [next(texts) if some else "" for some in filled.tolist()]
