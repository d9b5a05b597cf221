"""Lloyd's k-means over frames that are not copied: seeding, refinement from a sample to all, repair of dead units.

faiss searches the nearest centroid, on a GPU where the installed faiss supports one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from textless.errors import TrainingError

BLOCK = 2**19  # values prepared and searched together: 2 MB, which fit the cache
SEEDING_FRAMES = 10_000  # for k-means++, or 20 for each centroid
STAGES = (16, 4)  # centroids are first fitted on one frame in 16, then on one in 4 …
STAGE_FRAMES = 100  # … where that leaves this many for each centroid


class Points:
    """Frames as k-means sees them, prepared block by block, so that there is never a second copy of all of them.

    The mean is subtracted, because squared distances come from products of whole frames, and a mean that is large
    compared with the differences would cancel their digits.

    Args:
        frames: (N, D) of any float type; may be memory-mapped.
        transform: (n, D) float32 → (n, D) float32.
        mean: (D,) float32, to be subtracted.
        gpus: faiss's GPU resources (`gpus`) to search with; none: on the CPU.
    """

    def __init__(
        self,
        frames: np.ndarray,
        transform: Callable[[np.ndarray], np.ndarray],
        mean: np.ndarray | None = None,
        gpus: Sequence[Any] = (),
    ) -> None:
        self.frames, self.transform, self.gpus = frames, transform, gpus
        self.mean = np.zeros(frames.shape[1], np.float32) if mean is None else mean

    def measure(self) -> np.ndarray:
        """The mean of the frames, (D,) float32, after the subtraction of `mean`.

        Raises TrainingError when a frame is not finite.
        """
        total = np.zeros(self.frames.shape[1])
        for start, block in self.blocks():
            if not (finite := np.isfinite(block).all(1)).all():
                bad = start + int(finite.argmin())
                raise TrainingError(f"frame {bad} holds NaN or infinite values; leave out the file that it comes from")
            total += block.sum(0, dtype=np.float64)
        return (total / len(self.frames)).astype(np.float32)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(index of the first, (n, D) float32) of every block."""
        rows = max(256, BLOCK // self.frames.shape[1])
        for start in range(0, len(self.frames), rows):
            yield start, self.prepare(self.frames[start : start + rows])

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        return self.transform(np.asarray(frames, np.float32)) - self.mean

    def part(self, index: np.ndarray) -> Points:
        """Some of the frames, copied, with the same mean subtracted."""
        return Points(self.frames[index], self.transform, self.mean, self.gpus)


def gpus() -> list[Any]:
    """faiss's working memory on each GPU, reserved once for all iterations: that takes longer than one of them."""
    import faiss

    return [faiss.StandardGpuResources() for _ in range(faiss.get_num_gpus())]


def plus_plus(x: np.ndarray, n: int, draw: np.random.Generator) -> np.ndarray:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007, section 5): seeds by squared distance, the best of a few draws.

    Args:
        x: (N, D) float32 near the origin.

    Returns:
        (n, D) float32, n of the points.
    """
    norms = np.square(x).sum(1)
    trials = 2 + int(math.log(n))
    chosen = [int(draw.integers(len(x)))]
    nearest = np.maximum(norms + norms[chosen[0]] - 2 * (x @ x[chosen[0]]), 0)
    while len(chosen) < n:
        cumulative = np.cumsum(nearest, dtype=np.float64)
        picks = np.searchsorted(cumulative, draw.random(trials) * cumulative[-1]).clip(max=len(x) - 1)
        distances = x[picks] @ x.T
        distances *= -2
        distances += norms
        distances += norms[picks, None]
        np.maximum(distances, 0, out=distances)
        np.minimum(distances, nearest, out=distances)
        best = int(distances.sum(1).argmin())
        chosen.append(int(picks[best]))
        nearest = distances[best]
    return x[chosen]


class Assignment:
    """One pass that assigns every point to its nearest centroid.

    Attributes:
        inertia: mean squared distance of a point to its centroid.
        sums: (K, D) float64. counts: (K,) int64. distances: (N,) float32, squared.
    """

    def __init__(self, points: Points, centroids: np.ndarray) -> None:
        import faiss
        from scipy.sparse import csr_matrix

        index: Any = faiss.IndexFlatL2(centroids.shape[1])
        if points.gpus:
            index = faiss.index_cpu_to_gpu_multiple_py(list(points.gpus), index)
        index.add(centroids)
        self.sums, self.counts = np.zeros(centroids.shape), np.zeros(len(centroids), np.int64)
        self.distances = np.empty(len(points.frames), np.float32)
        for start, block in points.blocks():
            distances, labels = index.search(block, 1)
            self.distances[start : start + len(block)] = distances[:, 0]
            ones, rows = np.ones(len(block), np.float32), np.arange(len(block) + 1)
            member = csr_matrix((ones, labels[:, 0], rows), shape=(len(block), len(centroids)))
            self.sums += member.T @ block
            self.counts += np.bincount(labels[:, 0], minlength=len(centroids))
        self.inertia = float(self.distances.mean(dtype=np.float64))


def lloyd(
    points: Points, centroids: np.ndarray, *, iterations: int, tolerance: float
) -> tuple[np.ndarray, list[float], int, int]:
    """Lloyd's iterations; a centroid without points moves to the point that is farthest from its own centroid.

    Args:
        centroids: (K, D) float32, the initial ones.
        iterations: the most updates.
        tolerance: stop when an update lowers the inertia by at most this share of it, and no centroid can be
            repaired.

    Returns:
        centroids (K, D) float32; the inertia of each assignment, the last that of the centroids returned; the number of
        repairs; the number of dead centroids at the end.
    """
    curve: list[float] = []
    repaired = 0
    while True:
        assignment = Assignment(points, centroids)
        curve.append(assignment.inertia)
        dead = np.flatnonzero(assignment.counts == 0)
        far = _farthest(points, assignment, len(dead)) if len(dead) and len(curve) <= iterations else centroids[:0]
        settled = len(curve) > 1 and curve[-2] - curve[-1] <= tolerance * curve[-2]
        if len(curve) > iterations or (settled and not len(far)):
            return centroids, curve, repaired, len(dead)
        alive = assignment.counts > 0
        centroids = centroids.copy()
        centroids[alive] = assignment.sums[alive] / assignment.counts[alive, None]
        centroids[dead[: len(far)]] = far
        repaired += len(far)


def _farthest(points: Points, assignment: Assignment, n: int) -> np.ndarray:
    """At most n points, each the farthest from its centroid and from those chosen before it.

    Points at distance 0, up to rounding, are never chosen.
    """
    order = np.argsort(-assignment.distances, kind="stable")
    order = order[:: -(-len(order) // SEEDING_FRAMES)]  # evenly over all distances, the largest first
    x = points.prepare(points.frames[order])
    distances, rounding = assignment.distances[order], 1e-5 * np.square(x).sum(1)
    chosen: list[int] = []
    while len(chosen) < n:
        distances[distances <= rounding] = 0
        farthest = int(distances.argmax())
        if not distances[farthest]:
            break
        chosen.append(farthest)
        distances = np.minimum(distances, np.square(x - x[farthest]).sum(1))
    return x[chosen]


def cluster(
    points: Points, n: int, *, init: str, iterations: int, restarts: int, tolerance: float, seed: int
) -> tuple[np.ndarray, list[float], int, int]:
    """k-means: seeds, then Lloyd's iterations on a small sample, on a larger one, and on all points.

    Most of the progress is made on a sixteenth of the points, at a sixteenth of the cost. Of several starts, the one
    with the least inertia on the first sample is continued.

    Returns what `lloyd` returns, for all points.
    """
    draw = np.random.default_rng(seed)
    total = len(points.frames)
    order = draw.permutation(total)[: max(total // STAGES[-1], SEEDING_FRAMES, 20 * n)]
    # Sorted, because frames are read fastest in the order of memory or disk.
    stages = [points.part(np.sort(order[: total // s])) for s in STAGES if total // s >= STAGE_FRAMES * n]
    seeding = points.part(np.sort(order[: max(SEEDING_FRAMES, 20 * n)]))
    del order

    def start() -> np.ndarray:
        x = seeding.prepare(seeding.frames)
        return plus_plus(x, n, draw) if init == "k-means++" else x[draw.choice(len(x), n, replace=False)]

    def refine(centroids: np.ndarray) -> tuple[np.ndarray, list[float], int, int]:
        return lloyd(stages[0] if stages else points, centroids, iterations=iterations, tolerance=tolerance)

    best = min((refine(start()) for _ in range(restarts)), key=lambda result: result[1][-1])
    repaired = best[2]
    while stages:
        del stages[0]
        best = refine(best[0])
        repaired += best[2]
    return best[0], best[1], repaired, best[3]
