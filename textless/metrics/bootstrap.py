"""Confidence intervals by the bootstrap: percentiles over resamples (Efron & Tibshirani 1993, section 13.3)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

RESAMPLES = 1000
INDICES = 1 << 16  # that are drawn at once


def percentiles(resamples: np.ndarray) -> tuple[float, float]:
    """95 % interval of a statistic, from its values over resamples (R,)."""
    low, high = np.percentile(resamples, [2.5, 97.5])
    return float(low), float(high)


def resampled(over: np.ndarray, under: np.ndarray, seed: int) -> np.ndarray:
    """(RESAMPLES,) ratios of the sums of `over` and `under`, (N,) each, over N indices drawn with replacement.

    The draws depend on the seed and N alone, so that two systems measured on the same N sentences are given the same.
    """
    ratios = [over[indices].sum(1) / under[indices].sum(1) for indices in _draws(len(over), seed)]
    return np.concatenate(ratios)


def _draws(n: int, seed: int) -> Iterator[np.ndarray]:
    """(R, N) indices, in parts that need little memory; how they are cut does not change what is drawn."""
    rng, part = np.random.default_rng(seed), max(1, INDICES // n)
    for first in range(0, RESAMPLES, part):
        yield rng.integers(n, size=(min(part, RESAMPLES - first), n))


def interval(over: np.ndarray, under: np.ndarray | None = None, *, seed: int) -> tuple[float, float]:
    """95 % interval of a mean, or of the ratio of two sums."""
    if under is None:
        return percentiles(np.concatenate([over[indices].sum(1) / len(over) for indices in _draws(len(over), seed)]))
    return percentiles(resampled(over, under, seed))


def paired(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], *, seed: int
) -> tuple[float, float, float]:
    """Difference of two ratios of sums, `a` less `b`, and its 95 % interval over resamples that both share.

    Each is (over, under), (N,) of the same N cases, so that hard and easy ones cancel.
    """
    value = a[0].sum() / a[1].sum() - b[0].sum() / b[1].sum()
    return float(value), *percentiles(resampled(*a, seed) - resampled(*b, seed))
