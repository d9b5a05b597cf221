"""Confidence intervals by the bootstrap: percentiles over resamples (Efron & Tibshirani 1993, section 13.3)."""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000


def percentiles(resamples: np.ndarray) -> tuple[float, float]:
    """95 % interval of a statistic, from its values over resamples (R,)."""
    low, high = np.percentile(resamples, [2.5, 97.5])
    return float(low), float(high)


def resampled(over: np.ndarray, under: np.ndarray, seed: int) -> np.ndarray:
    """(RESAMPLES,) ratios of the sums of `over` and `under`, (N,) each, over N indices drawn with replacement.

    The draws depend on the seed and N alone, so that two systems measured on the same N sentences are given the same.
    """
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(over), size=len(over)) for _ in range(RESAMPLES))
    return np.array([over[indices].sum() / under[indices].sum() for indices in draws])


def interval(over: np.ndarray, under: np.ndarray | None = None, *, seed: int) -> tuple[float, float]:
    """95 % interval of a mean, or of the ratio of two sums."""
    return percentiles(resampled(over, np.ones(len(over)) if under is None else under, seed))


def paired(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], *, seed: int
) -> tuple[float, float, float]:
    """Difference of two ratios of sums, `a` less `b`, and its 95 % interval over resamples that both share.

    Each is (over, under), (N,) of the same N cases, so that hard and easy ones cancel.
    """
    value = a[0].sum() / a[1].sum() - b[0].sum() / b[1].sum()
    return float(value), *percentiles(resampled(*a, seed) - resampled(*b, seed))
