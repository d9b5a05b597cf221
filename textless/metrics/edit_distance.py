"""Edit distance between sequences: the numerator of unit and word error rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distance(a: np.ndarray | Sequence[str], b: np.ndarray | Sequence[str]) -> int:
    """Levenshtein distance (1966) of `a` (N,) and `b` (M,), units or words.

    Insertions, deletions and substitutions cost 1 each. The dynamic programme of Wagner & Fischer (1974, The
    string-to-string correction problem), a row at a time.
    """
    a, b = np.asarray(a), np.asarray(b)
    columns = np.arange(len(b) + 1)
    row = columns.copy()
    for i, symbol in enumerate(a, 1):
        above = np.concatenate([[i], np.minimum(row[1:] + 1, row[:-1] + (b != symbol))])
        # Insertions: a cell costs at most as much as any cell to its left, plus one for each step from it.
        row = np.minimum.accumulate(above - columns) + columns
    return int(row[-1])
