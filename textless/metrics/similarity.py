"""How much two representations of the same frames share: linear CKA and projection-weighted CCA.

CKA: Kornblith et al. 2019 (arXiv:1905.00414, equation 4). It does not change with rotations of either side, nor with
their scale. PWCCA: Morcos et al. 2018 (arXiv:1806.05759, section 2.2). It does not change with any invertible linear
map of the side that is not weighted by. Pasad et al. 2021 and 2023 (arXiv:2107.04734, arXiv:2211.03929) compare the
layers of speech models with labels by PWCCA that is fitted on some data and measured on other (`held_out_pwcca`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textless.metrics.bootstrap import percentiles

RESAMPLES = 100  # each goes over all frames
RANK = 1e-8  # of the largest variance: directions with less are left out, such as the sum of one-hot labels


def one_hot(labels: np.ndarray) -> np.ndarray:
    """(N,) labels of any type → (N, classes) float32, the classes sorted."""
    classes, index = np.unique(labels, return_inverse=True)
    return np.eye(len(classes), dtype=np.float32)[index]


def linear_cka(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Linear CKA of (N, D) and (N, E), in [0, 1]: ‖yᵀx‖² / (‖xᵀx‖ ‖yᵀy‖), of centred columns.

    Args:
        weights: (N,) how often each row counts. None: once.

    Returns 0 where all rows of a side are equal.
    """
    x, y = (_centred(side, weights) for side in (x, y))
    return _cka(x, y, float(np.linalg.norm(y.T @ y)))


def _cka(x: np.ndarray, y: np.ndarray, norm: float) -> float:
    below = float(np.linalg.norm(x.T @ x)) * norm
    return float(np.linalg.norm(y.T @ x)) ** 2 / below if below else 0.0


def _centred(x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Rows less their weighted mean, times the root of the weight, whose products are weighted covariances."""
    if weights is None:
        return x - x.mean(0)
    return (x - np.average(x, 0, weights)) * np.sqrt(weights)[:, None].astype(x.dtype)


def cka_interval(x: np.ndarray, y: np.ndarray, files: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of `linear_cka`, by a bootstrap over files, less the bias.

    Args:
        files: (N,) int64, the file of each row, numbered from 0.
    """
    rng, count = np.random.default_rng(seed), int(files.max()) + 1
    draws = (np.bincount(rng.integers(count, size=count), minlength=count)[files] for _ in range(RESAMPLES))
    drawn = np.array([linear_cka(x, y, times) for times in draws])
    # Of fewer different rows more agrees by chance, as in `pnmi.unit_quality`.
    low, high = percentiles(drawn - drawn.mean() + linear_cka(x, y))
    return low, high


# ---------------------------------------------------------------------------------------------------------------- CCA


@dataclass(frozen=True, eq=False)
class CCA:
    """Canonical directions of two sides.

    Attributes:
        a, b: (D, K), (E, K), the directions of x and y; what they project is uncorrelated, of variance 1.
        correlations: (K,) of the rows that it was fitted on, from the largest on.
        weights: (K,) of the directions in PWCCA; their sum is 1.
    """

    a: np.ndarray
    b: np.ndarray
    correlations: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray) -> CCA:
        """Of (N, D) and (N, E). Directions with less than `RANK` of a side's largest variance are left out.

        The weights are those of the side with fewer directions, x where they are equal, as in google/svcca (pwcca.py):
        of direction h they are the sum over that side's columns c of |⟨h, c⟩|.
        """
        x, y = (side.astype(np.float64) - side.mean(0, dtype=np.float64) for side in (x, y))
        (a, variance_x), (b, variance_y) = (_whitening(side) for side in (x, y))
        u, correlations, v = np.linalg.svd((a.T @ x.T) @ (y @ b) / len(x), full_matrices=False)
        a, b = a @ u, b @ v.T
        columns = variance_x @ a if a.shape[1] and len(u) <= v.shape[1] else variance_y @ b
        weights = np.abs(columns).sum(0)
        return cls(a, b, correlations.clip(0, 1), weights / weights.sum() if len(weights) else weights)


def _whitening(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D, rank) that makes centred columns uncorrelated, of variance 1; and their covariance (D, D)."""
    covariance = x.T @ x / len(x)
    values, vectors = np.linalg.eigh(covariance)
    kept = values > RANK * values[-1]
    return vectors[:, kept] / np.sqrt(values[kept]), covariance


def pwcca(x: np.ndarray, y: np.ndarray) -> float:
    """Projection-weighted CCA of (N, D) and (N, E), fitted and measured on the same rows, in [0, 1].

    It grows with the dimensions, up to 1 where one of them reaches N; `held_out_pwcca` does not.
    Returns 0 where all rows of a side are equal.
    """
    cca = CCA.fit(x, y)
    return float(cca.weights @ cca.correlations)


def held_out_pwcca(
    x: np.ndarray, y: np.ndarray, files: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]], *, seed: int = 0
) -> tuple[float, float, float]:
    """Projection-weighted CCA, whose directions and weights are of other rows than its correlations.

    As in ankitapasad/layerwise-analysis (codes/tools/tools.py, CCACrossVal), but for one fixed `RANK` in the place of a
    search for the best of several added variances, and for the weights, which are of the rows that are fitted on.

    Args:
        files: (N,) int64, the file of each row, numbered from 0.
        folds: indices of the rows to fit on, and of those to measure on.

    Returns:
        the mean over the folds, and its 95 % interval by a bootstrap over files, the directions given. Around 0 is
        chance.
    """
    count = int(files.max()) + 1
    rng = np.random.default_rng(seed)
    times = np.stack([np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(RESAMPLES)])
    times = np.concatenate([np.ones((1, count), np.int64), times])
    scores = []
    for train, test in folds:
        cca = CCA.fit(x[train], y[train])
        if len(cca.weights):
            correlations = _correlations(x[test] @ cca.a, y[test] @ cca.b, files[test], times)
            scores.append(correlations @ cca.weights)
    if not scores:
        return 0.0, 0.0, 0.0
    value, *rest = np.nanmean(scores, 0)  # a draw may have no row of a fold
    drawn = np.array(rest)
    return float(value), *percentiles(drawn - drawn.mean() + value)  # the bias as in `cka_interval`


def _correlations(p: np.ndarray, q: np.ndarray, files: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(R, K) correlations of the columns of (N, K) and (N, K), whose files count so many `times`, (R, files).

    0 where a column does not vary; NaN without any row.
    """
    sums = np.zeros((times.shape[1], 5, p.shape[1]))
    np.add.at(sums, files, np.stack([p, q, p * p, q * q, p * q], 1))
    rows = times @ np.bincount(files, minlength=times.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.tensordot(times, sums, 1) / rows[:, None, None]
        over = means[:, 4] - means[:, 0] * means[:, 1]
        variances = (means[:, 2] - means[:, 0] ** 2).clip(0) * (means[:, 3] - means[:, 1] ** 2).clip(0)
        return np.where(variances > 1e-24, over / np.sqrt(variances), np.where(rows > 0, 0.0, np.nan)[:, None])
