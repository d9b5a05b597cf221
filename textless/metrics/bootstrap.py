"""Confidence intervals by the bootstrap (Efron & Tibshirani 1993, section 13.3)."""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000


def resampled(over: np.ndarray, under: np.ndarray, seed: int) -> np.ndarray:
    """(RESAMPLES,) ratios of the sums of (N,) and (N,) over N places drawn with replacement. One seed draws the same of equally many."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(over), size=len(over)) for _ in range(RESAMPLES))
    return np.array([over[some].sum() / under[some].sum() for some in draws])


def interval(over: np.ndarray, under: np.ndarray | None = None, *, seed: int) -> tuple[float, float]:
    """95 % interval of a mean, or of the ratio of two sums: percentiles of `resampled`."""
    low, high = np.percentile(resampled(over, np.ones(len(over)) if under is None else under, seed), [2.5, 97.5])
    return float(low), float(high)
