"""CKA and CCA, against their definitions and scikit-learn's, and what they do not change with."""

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA as SklearnCCA

from textless.metrics.similarity import CCA, cka_interval, held_out_pwcca, linear_cka, one_hot, pwcca


def related(seed=0, n=300, dim=6, other=4):
    """Two sides that share two directions, of different scales."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 2))
    x = np.concatenate([shared + 0.5 * rng.standard_normal((n, 2)), rng.standard_normal((n, dim - 2))], 1)
    y = np.concatenate([shared + 0.5 * rng.standard_normal((n, 2)), rng.standard_normal((n, other - 2))], 1)
    return 3 + x @ rng.standard_normal((dim, dim)), y @ rng.standard_normal((other, other)) - 1


def naive_cka(x, y):
    """By centred Gram matrices: HSIC of the two sides over those of each with itself (Kornblith et al., equation 3)."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def naive_pwcca(x, y):
    """By QR and SVD: the canonical variates are orthonormal; weights by the columns of the side with fewer."""
    x, y = x - x.mean(0), y - y.mean(0)
    (p, _), (q, _) = np.linalg.qr(x), np.linalg.qr(y)
    u, correlations, v = np.linalg.svd(p.T @ q)
    variates, columns = (p @ u, x) if x.shape[1] <= y.shape[1] else (q @ v.T, y)
    weights = np.abs(variates[:, : len(correlations)].T @ columns).sum(1)
    return (weights * correlations).sum() / weights.sum()


def test_cka_is_that_of_the_gram_matrices():
    x, y = related()
    assert linear_cka(x, y) == pytest.approx(naive_cka(x, y), rel=1e-9)
    times = np.random.default_rng(1).integers(0, 3, len(x))
    assert linear_cka(x, y, times) == pytest.approx(naive_cka(np.repeat(x, times, 0), np.repeat(y, times, 0)), rel=1e-9)


def test_what_cka_does_not_change_with():
    x, y = related()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    assert linear_cka(5 * x @ turn + 7, y) == pytest.approx(linear_cka(x, y), rel=1e-9)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), rel=1e-9)
    assert linear_cka(x, x) == pytest.approx(1)
    assert abs(linear_cka(x * [1, 1, 1, 1, 1, 9], y) - linear_cka(x, y)) > 0.01  # it does with other linear maps
    assert linear_cka(np.ones((9, 2)), y[:9]) == 0


@pytest.mark.parametrize(("dim", "other"), [(6, 4), (4, 6), (5, 5)])
def test_pwcca_is_that_of_orthogonal_bases(dim, other):
    x, y = related(dim=dim, other=other)
    assert pwcca(x, y) == pytest.approx(naive_pwcca(x, y), rel=1e-6)


def test_canonical_correlations_are_those_of_scikit_learn():
    x, y = related()
    theirs = SklearnCCA(3, scale=False, max_iter=10_000, tol=1e-12).fit(x, y)
    a, b = theirs.transform(x, y)
    expected = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(3)]
    ours = CCA.fit(x, y)
    assert ours.correlations[:3] == pytest.approx(expected, abs=1e-5)
    p = (x - x.mean(0)) @ ours.a
    assert p.T @ p / len(p) == pytest.approx(np.eye(4), abs=1e-8)


def test_what_pwcca_does_not_change_with():
    x, y = related()
    mix = np.random.default_rng(2).standard_normal((6, 6)) + 3 * np.eye(6)
    assert pwcca(x @ mix + 1, y) == pytest.approx(pwcca(x, y), rel=1e-6)
    assert pwcca(np.concatenate([x, x[:, :2]], 1), y) == pytest.approx(pwcca(x, y), rel=1e-6)  # a repeated column
    assert pwcca(x, x) == pytest.approx(1)


def test_one_hot_labels_have_one_direction_less_than_classes():
    labels = np.array(list("abcab" * 20))
    assert one_hot(labels)[:3].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert len(CCA.fit(one_hot(labels), one_hot(labels)).correlations) == 2


def test_held_out_cca_is_measured_on_other_rows():
    x, y = related(n=400)
    files = np.repeat(np.arange(20), 20)
    folds = [(np.flatnonzero(files % 4 != k), np.flatnonzero(files % 4 == k)) for k in range(4)]
    expected = []
    for train, test in folds:
        cca = CCA.fit(x[train], y[train])
        p, q = x[test] @ cca.a, y[test] @ cca.b
        expected.append(cca.weights @ [np.corrcoef(p[:, i], q[:, i])[0, 1] for i in range(len(cca.weights))])
    value, low, high = held_out_pwcca(x, y, files, folds)
    assert value == pytest.approx(np.mean(expected), rel=1e-9)
    assert low < value < high
    assert held_out_pwcca(x, y, files, folds) == (value, low, high)


def test_chance_of_held_out_cca_is_zero_and_that_of_cca_is_not():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 30)), rng.standard_normal((200, 20))
    files = np.arange(200) // 5
    folds = [(np.flatnonzero(files % 4 != k), np.flatnonzero(files % 4 == k)) for k in range(4)]
    assert pwcca(x, y) > 0.3
    value, low, high = held_out_pwcca(x, y, files, folds)
    assert abs(value) < 0.1
    assert low < 0.1
    assert high > -0.1


def test_the_interval_of_cka_is_the_bootstrap_written_out():
    x, y = related(n=100)
    files = np.arange(100) // 10
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(100):
        rows = np.concatenate([np.flatnonzero(files == f) for f in rng.integers(10, size=10)])
        drawn.append(naive_cka(x[rows], y[rows]))
    shift = naive_cka(x, y) - np.mean(drawn)
    assert cka_interval(x, y, files, seed=5) == pytest.approx(np.percentile(drawn, [2.5, 97.5]) + shift, rel=1e-6)
