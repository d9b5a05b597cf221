"""Edit distance between sequences: the numerator of error rates of units, phones and words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def edit_distance(a: np.ndarray | Sequence[Hashable], b: np.ndarray | Sequence[Hashable]) -> int:
    """Levenshtein distance (1966) of `a` (N,) and `b` (M,): units, phones or words.

    Insertions, deletions and substitutions cost 1 each. A column of the dynamic programme is a few integers of N bits
    (Myers 1999, A fast bit-vector algorithm; Hyyrö 2003, A bit-vector algorithm for computing Levenshtein and Damerau
    edit distances).
    """
    rows, columns = (s.tolist() if isinstance(s, np.ndarray) else s for s in (a, b))
    if not rows:
        return len(columns)
    where: dict[Hashable, int] = {}  # of each symbol, the rows that hold it
    for i, symbol in enumerate(rows):
        where[symbol] = where.get(symbol, 0) | 1 << i
    every, last = (1 << len(rows)) - 1, len(rows) - 1
    distance = len(rows)
    # Cells that are one more, or one less, than the cell above.
    more, less = every, 0
    for symbol in columns:
        equal = where.get(symbol, 0)
        diagonal = (((equal & more) + more) ^ more) | equal | less  # cells that cost as much as their diagonal one
        right_more, right_less = less | (every & ~(diagonal | more)), diagonal & more
        distance += (right_more >> last & 1) - (right_less >> last & 1)
        right_more, right_less = right_more << 1 | 1, right_less << 1
        more, less = every & (right_less | ~(diagonal | right_more)), every & diagonal & right_more
    return distance
