"""Dynamic time warping: of many pairs of short sequences at once (`dtw` of frames, `dtw_units`), and of one long pair
(`warped_distance`).

A path goes from (0, 0) to (n - 1, m - 1) by steps of (1, 0), (0, 1) or (1, 1), all of weight 1. Its cost is the sum of
the distances of the cells on it; the least cost is divided by the number of cells on its path. Where paths of equal
cost differ in length, the one counts that, traced back from its end, prefers the diagonal step, then the one along the
columns: the rules of Libri-light and fastabx.

There are several functions because they run along different axes: the first two take one cell of thousands of pairs at
a time, `warped_distance` one row of a single pair.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

PAIRS = 4096  # that are warped together, or fewer where they are long: their costs fit into the processor's cache
CELLS = 1 << 21


def dtw(
    distances: np.ndarray, start: np.ndarray, stride: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Mean distance along the best path of each pair, (P,) float32.

    Args:
        distances: (E,) float32, of all frames of all pairs; of frames i and j of pair p at `start[p] + i stride[p] +
            j`.
        start, stride, rows, columns: (P,) int64 each; `rows` and `columns` are the lengths n and m, at least 1.
    """
    out = np.empty(len(start), np.float32)
    for batch in _batches(rows, columns):
        batch = batch[np.argsort(columns[batch], kind="stable")]
        out[batch] = _means(distances, start[batch], stride[batch], rows[batch], columns[batch])
    return out


def dtw_units(units: np.ndarray, x: np.ndarray, y: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """As `dtw` where the distance of two units is 0 if they are equal, else 1.

    Args:
        units: (F,) int, of all sequences.
        x, y: (P,) int64, where the sequences of each pair begin; `rows` and `columns` are their lengths.
    """
    out = np.empty(len(x), np.float32)
    for batch in _batches(rows, columns):
        batch = batch[np.argsort(rows[batch], kind="stable")]
        out[batch] = _unit_means(units, x[batch], y[batch], rows[batch], columns[batch])
    return out


def _batches(rows: np.ndarray, columns: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of pairs of similar size."""
    longest = np.maximum(rows, columns)
    order = np.argsort(longest, kind="stable")
    first = 0
    while first < len(order):
        last = min(first + PAIRS, len(order))
        while last - first > 64 and (last - first) * longest[order[last - 1]] ** 2 > CELLS:
            last = (first + last) // 2
        yield order[first:last]
        first = last


def _unit_means(units: np.ndarray, x: np.ndarray, y: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """As `dtw_units`, of pairs sorted by `rows`.

    Cost, last step and length of a path are the digits of one integer, so that the least of three is the path that
    counts: of the least cost, and of equal ones that of the preferred step.
    """
    height, width = int(rows[-1]), int(columns.max())
    bits = (height + width).bit_length()
    left, up, cost = 1 << bits, 2 << bits, 4 << bits
    kind = next(k for k in (np.int16, np.int32, np.int64) if 2 * bits + 2 < 8 * np.dtype(k).itemsize)
    steps = np.arange(max(height, width))[:, None]
    # Beyond the end of a sequence: cells on no path to its end.
    a, b = (
        units[begin + np.minimum(steps[:n], size - 1)] for begin, size, n in ((x, rows, height), (y, columns, width))
    )
    last = np.empty((width, len(x)), kind)
    ends = np.searchsorted(rows, np.arange(height), side="right")  # pairs from this one on have a row i
    out = np.empty(len(x), kind)
    for i, first in enumerate(ends):
        paths = np.multiply(a[i, first:] != b[:, first:], cost, dtype=kind)
        paths += 1
        before = last[:, first:]
        if i:
            np.minimum(before[1:] + up, before[:-1], out=before[1:])
            before[0] += up
        for j in range(width):
            if i and j:
                np.minimum(before[j], paths[j - 1] + left, out=before[j])
            elif j:
                before[j] = paths[j - 1]
            if i or j:
                before[j] &= ~(left | up)
                paths[j] += before[j]
        before[:] = paths
        done = slice(first, ends[i + 1] if i + 1 < height else len(x))
        out[done] = last[columns[done] - 1, np.arange(done.start, done.stop)]
    return (out // cost).astype(np.float32) / (out % cost).astype(np.float32)


def _means(
    distances: np.ndarray, start: np.ndarray, stride: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """As `dtw`, of pairs sorted by `columns`."""
    height, width = int(rows.max()), int(columns.max())
    active = np.searchsorted(columns, np.arange(width), side="right")  # pairs from this one on have a column j
    costs = np.empty((height, width, len(start)), np.float32)
    for i in range(height):
        row = start + np.minimum(i, rows - 1) * stride  # below a pair's last row: cells on no path to its end
        for j, a in enumerate(active):
            cost = distances[row[a:] + j]
            if i and j:
                before = np.minimum(costs[i - 1, j, a:], costs[i - 1, j - 1, a:])
                cost += np.minimum(before, costs[i, j - 1, a:], out=before)
            elif i or j:
                cost += costs[i - 1, j, a:] if i else costs[i, j - 1, a:]
            costs[i, j, a:] = cost
    end = ((rows - 1) * width + columns - 1) * len(start) + np.arange(len(start))
    return costs.ravel()[end] / _lengths(costs, end, rows, columns)


def _lengths(costs: np.ndarray, end: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cells on the best path of each pair, (P,), traced back from `end` through the costs (n, m, P)."""
    right = costs.shape[2]
    down, costs = costs.shape[1] * right, costs.ravel()
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


def warped_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Euclidean distance of frames (N, D) and (M, D) along the best path.

    Of paths that tie, the one counts that, traced back from its end, prefers the diagonal step, then the one in `a`.
    Memory: N M bytes.
    """
    # The step into each cell: 0 diagonal, 1 from the frame before in `a`, 2 from the frame before in `b`.
    steps = np.zeros((len(a), len(b)), np.uint8)
    outside = [np.inf]
    costs = np.full(len(b), np.inf)
    for i, frame in enumerate(a):
        distances = np.sqrt(np.square(b - frame).sum(1))
        total = np.cumsum(distances)
        diagonal = np.concatenate([outside if i else [0.0], costs[:-1]])
        # A path enters the row in some column at or left of the cell, and then goes along the row.
        costs, above = total + np.minimum.accumulate(np.minimum(diagonal, costs) - total + distances), costs
        steps[i] = np.argmin([diagonal, above, np.concatenate([outside, costs[:-1]])], 0)
    i, j, cells = len(a) - 1, len(b) - 1, 1
    while i or j:
        step = steps[i, j]
        i, j, cells = i - (step != 2), j - (step != 1), cells + 1
    return float(costs[-1] / cells)
