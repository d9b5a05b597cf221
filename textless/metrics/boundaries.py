"""Boundaries: how many of those in speech are at the right place, within a tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from textless.errors import CorpusError

TOLERANCE = 20  # ms before and after a boundary


@dataclass(frozen=True)
class BoundaryScores:
    """Counts of boundaries, and the scores that they give: those of discophon 0.2 (evaluate/segmentation.py).

    Counts of files are added. A score whose denominator is 0 raises CorpusError.

    Attributes:
        hits: gold boundaries with a prediction in their window.
        predicted, gold: all boundaries.
    """

    hits: int
    predicted: int
    gold: int

    def __add__(self, other: BoundaryScores) -> BoundaryScores:
        return BoundaryScores(self.hits + other.hits, self.predicted + other.predicted, self.gold + other.gold)

    @property
    def precision(self) -> float:
        if not self.predicted:
            raise CorpusError("boundary precision is undefined: no boundary is predicted")
        return self.hits / self.predicted

    @property
    def recall(self) -> float:
        if not self.gold:
            raise CorpusError("boundary recall is undefined: the gold sequences have no boundary")
        return self.hits / self.gold

    @property
    def f1(self) -> float:
        if not self.predicted + self.gold:
            raise CorpusError("boundary F1 is undefined: no boundary is predicted and none is gold")
        return 2 * self.hits / (self.predicted + self.gold)

    @property
    def over_segmentation(self) -> float:
        """Predictions beyond the number of gold boundaries, over that number."""
        if not self.gold:
            raise CorpusError("over-segmentation is undefined: the gold sequences have no boundary")
        return self.predicted / self.gold - 1

    @property
    def r_value(self) -> float:
        """Räsänen et al. (2009): 1 at full recall without over-segmentation; may be below 0."""
        to_ideal = math.hypot(1 - self.recall, self.over_segmentation)
        to_precise = abs(self.recall - 1 - self.over_segmentation) / math.sqrt(2)
        return 1 - (to_ideal + to_precise) / 2


def compare_boundaries(predicted: np.ndarray, gold: np.ndarray, *, tolerance: int = TOLERANCE) -> BoundaryScores:
    """Boundaries of one file, (N,) and (M,) int64 in ms, each in increasing order.

    Every gold boundary has a window from `tolerance` before to `tolerance` after it, both ends included. Windows that
    overlap are parted at the midpoint of the two boundaries, in whole ms, which the earlier one has. A window with
    predictions is one hit, and further predictions in it are wrong: Räsänen et al. (2009, section 2.3), as discophon
    0.2 has it (evaluate/segmentation.py, tolerance and compare_boundaries).
    """
    first, last = gold - tolerance, gold + tolerance
    middle = (gold[:-1] + gold[1:]) // 2
    last[:-1] = np.minimum(last[:-1], middle)
    first[1:] = np.maximum(first[1:], middle + 1)
    inside = np.searchsorted(predicted, last, side="right") - np.searchsorted(predicted, first, side="left")
    return BoundaryScores(int((inside > 0).sum()), len(predicted), len(gold))


def changes_at(labels: np.ndarray, step: int) -> np.ndarray:
    """(N,) int64 ms at which a label (T,) of `step` ms differs from the one before; neither start nor end."""
    return (np.flatnonzero(labels[1:] != labels[:-1]) + 1) * step
