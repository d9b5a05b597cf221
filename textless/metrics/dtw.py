"""Dynamic time warping of many pairs of short sequences at once."""

from __future__ import annotations

import numpy as np

PAIRS = 4096  # swept together, or fewer where they are long: what is held stays in the processor's cache
CELLS = 1 << 21


def dtw(
    distances: np.ndarray, start: np.ndarray, stride: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Mean distance along the best path of each pair, by the rules of Libri-light and fastabx.

    A path goes from (0, 0) to (n - 1, m - 1) by steps of (1, 0), (0, 1) or (1, 1), all of weight 1. Its cost is the sum of the distances
    that it passes; the least cost is divided by the length of its path, that is the number of cells it passes. Where paths of one cost
    differ in length, the one counts that, traced back from its end, prefers the diagonal step, then the one along the columns.

    Args:
        distances: (E,) float32, of all frames of all pairs: the distance of frames i and j of pair p is at `start[p] + i stride[p] + j`.
        start, stride, rows, columns: (P,) int64 each; `rows` and `columns` are the lengths n and m, at least 1.

    Returns:
        (2, P) float32: of each pair, and of the pair turned round (m against n), which differs only where paths tie.
    """
    out = np.empty((2, len(start)), np.float32)
    longest = np.maximum(rows, columns)
    order = np.argsort(longest, kind="stable")
    first = 0
    while first < len(order):
        last = min(first + PAIRS, len(order))
        while last - first > 64 and (last - first) * longest[order[last - 1]] ** 2 > CELLS:
            last = (first + last) // 2
        some = order[first:last]
        some = some[np.argsort(columns[some], kind="stable")]
        out[:, some] = _means(distances, start[some], stride[some], rows[some], columns[some])
        first = last
    return out


def _means(
    distances: np.ndarray, start: np.ndarray, stride: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """The same of pairs sorted by `columns`."""
    height, width = int(rows.max()), int(columns.max())
    active = np.searchsorted(columns, np.arange(width), side="right")  # from here on pairs have a column j
    costs = np.empty((height, width, len(start)), np.float32)
    for i in range(height):
        row = start + np.minimum(i, rows - 1) * stride  # below a pair's end: cells that no path to its end passes
        for j, a in enumerate(active):
            here = distances[row[a:] + j]
            if i and j:
                before = np.minimum(costs[i - 1, j, a:], costs[i - 1, j - 1, a:])
                here += np.minimum(before, costs[i, j - 1, a:], out=before)
            elif i or j:
                here += costs[i - 1, j, a:] if i else costs[i, j - 1, a:]
            costs[i, j, a:] = here
    flat, size = costs.ravel(), len(start)
    down, right = width * size, size
    end = (rows - 1) * down + (columns - 1) * right + np.arange(size)
    return flat[end] / np.stack(
        [_lengths(flat, end, rows, columns, down, right), _lengths(flat, end, columns, rows, right, down)]
    )


def _lengths(
    costs: np.ndarray, end: np.ndarray, rows: np.ndarray, columns: np.ndarray, down: int, right: int
) -> np.ndarray:
    """Cells on the best path of each pair, (P,), traced back from `end`: the next row is `down` on in `costs`, the next column `right`."""
    out = np.empty(len(end), np.float32)
    pair, at, i, j, length = np.arange(len(end)), end, rows - 1, columns - 1, 1
    while len(pair):
        inside = (i > 0) & (j > 0)
        if not inside.all():
            out[pair[~inside]] = (length + i + j)[~inside]
            pair, at, i, j = pair[inside], at[inside], i[inside], j[inside]
        up, left, diagonal = costs[at - down], costs[at - right], costs[at - down - right]
        straight = (diagonal <= left) & (diagonal <= up)
        i = i - (straight | (left > up))
        j = j - (straight | (left <= up))
        at = at - np.where(straight, down + right, np.where(left <= up, right, down))
        length += 1
    return out
