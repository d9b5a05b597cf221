"""Edits between sequences: what unit and word error rates count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def levenshtein(a: np.ndarray | Sequence[str], b: np.ndarray | Sequence[str]) -> int:
    """Fewest insertions, deletions and replacements that make `b` (M,) of `a` (N,): units, or words."""
    a, b = np.asarray(a), np.asarray(b)
    columns = np.arange(len(b) + 1)
    row = columns.copy()
    for i, symbol in enumerate(a, 1):
        here = np.concatenate([[i], np.minimum(row[1:] + 1, row[:-1] + (b != symbol))])
        # Insertions: a cell is at most what any cell to its left is, and one for each step from there.
        row = np.minimum.accumulate(here - columns) + columns
    return int(row[-1])
