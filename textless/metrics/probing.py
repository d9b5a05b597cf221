"""Probes: which labels a linear classifier reads off features that it was not trained with.

    x = np.stack([frames.mean(0) for frames in files])                   # a row a file
    probe(x, speakers, names)["accuracy"]

A logistic regression, as in the linear probes of speech models (Pasad et al. 2023, arXiv:2211.03929; Mohamed et al.
2022, arXiv:2205.10643, section V; Yang et al. 2021, arXiv:2105.01051, for one trained on means over a file).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from textless.errors import CorpusError
from textless.metrics.bootstrap import interval
from textless.metrics.similarity import cka_interval, held_out_pwcca, linear_cka

FOLDS = 5
ITERATIONS = 1000
PENALTY = 1.0  # of scikit-learn: C


def probe(
    features: np.ndarray,
    labels: np.ndarray | Sequence[str],
    files: np.ndarray | Sequence[str],
    groups: np.ndarray | Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy with which labels are predicted from features by a logistic regression, in cross-validation.

    The files are cut into five parts with about the same labels; each part is predicted by a regression that is trained
    on the other four, from features with the mean 0 and the variance 1 there.

    Args:
        features: (N, D) float.
        labels, files: (N,) of each row: rows of one file are never in two parts.
        groups: (N,) what is kept in one part instead of a file: the speaker, where no file has two.
        seed: of the parts, the shuffled labels and the interval.

    Returns:
        `accuracy`: share of rows predicted right, each of them once; `accuracy_low`, `accuracy_high`: its 95 % interval
        by a bootstrap over files, the regressions given; `accuracy_chance`: the share that always predicting the most
        frequent label of the training rows has; `accuracy_shuffled`: accuracy on the first part when the labels of the
        training rows are shuffled; `rows`, `classes`, `files`, `groups`: how many there are.

    Raises:
        CorpusError: labels of one class only, fewer files (or groups) than five, features that are not finite.
    """
    labels, files = np.asarray(labels), np.asarray(files)
    classes, y = np.unique(labels, return_inverse=True)
    names, file = np.unique(files, return_inverse=True)
    parts = folds(y, files if groups is None else np.asarray(groups), seed=seed, what="files" if groups is None else "")
    if not np.isfinite(features).all():
        raise CorpusError("features hold NaN or infinite values; leave those files out")
    right, majority = np.zeros(len(y), bool), np.zeros(len(y), bool)
    for train, test in parts:
        right[test] = _predicted(features, y, train, test) == y[test]
        majority[test] = np.bincount(y[train]).argmax() == y[test]
    train, test = parts[0]
    shuffled = y.copy()
    shuffled[train] = np.random.default_rng(seed).permutation(y[train])
    low, high = interval(np.bincount(file, right), np.bincount(file).astype(np.float64), seed=seed)
    return {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_chance": float(majority.mean()),
        "accuracy_shuffled": float((_predicted(features, shuffled, train, test) == y[test]).mean()),
        "rows": float(len(y)),
        "classes": float(len(classes)),
        "files": float(len(names)),
        "groups": float(len(names) if groups is None else len(set(map(str, groups)))),
    }


def similarity(
    features: np.ndarray,
    other: np.ndarray,
    files: np.ndarray | Sequence[str],
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """CKA and PWCCA of features (N, D) with others of the same frames (N, E), such as one-hot labels or MFCC.

    Args:
        files: (N,) of each frame.
        parts: as `folds` returns them.

    Returns:
        `cka`; `cca`, held out (see `held_out_pwcca`); each with `_low`, `_high`, its 95 % interval by a bootstrap over
        files, and `_chance`, the same with the frames of `other` shuffled.
    """
    file = np.unique(np.asarray(files), return_inverse=True)[1]
    x, y = features.astype(np.float32), other.astype(np.float32)
    shuffled = y[np.random.default_rng(seed).permutation(len(y))]
    cka_low, cka_high = cka_interval(x, y, file, seed=seed)
    cca, cca_low, cca_high = held_out_pwcca(x, y, file, parts, seed=seed)
    return {
        "cka": linear_cka(x, y),
        "cka_low": cka_low,
        "cka_high": cka_high,
        "cka_chance": linear_cka(x, shuffled),
        "cca": cca,
        "cca_low": cca_low,
        "cca_high": cca_high,
        "cca_chance": held_out_pwcca(x, shuffled, file, parts, seed=seed)[0],
    }


def folds(
    labels: np.ndarray, groups: np.ndarray, *, seed: int = 0, what: str = ""
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Five times the rows to train on and the rows to test, (n,) int64 each; a group is never on both sides.

    They depend on the names of the groups, the labels and the seed, not on the order of the rows.

    Args:
        labels, groups: (N,) of each row.
        what: the groups are, for messages.

    Raises CorpusError for one class only, and fewer groups, or rows of each class, than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise CorpusError("all labels are the same; a probe needs two classes at least")
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < FOLDS:
        raise CorpusError(
            f"{len(names)} {what or 'groups'} have labels, and a probe needs {FOLDS} at least, to test on others than "
            "it is trained on; give more"
        )
    if (most := int(np.bincount(y).max())) < FOLDS:
        raise CorpusError(
            f"no label has more than {most} {what or 'rows'}, and a probe needs {FOLDS} at least; give more"
        )
    split = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of classes with fewer rows than folds, which `lonely` counts
        warnings.simplefilter("ignore", UserWarning)
        return list(split.split(y, y, group))


def lonely(labels: np.ndarray, groups: np.ndarray) -> list[str]:
    """Classes of one group only, which are never seen in training when they are tested."""
    pairs = {(str(label), str(group)) for label, group in zip(labels, groups, strict=True)}
    classes, counts = np.unique([label for label, _ in pairs], return_counts=True)
    return [str(name) for name in classes[counts == 1]]


def _predicted(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(len(test),) classes that a regression trained on the other rows predicts."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(y[train])) == 1:  # the classes of a few files may all be on the other side
        return np.full(len(test), y[train][0])
    seen = x[train].astype(np.float64)
    mean, deviation = seen.mean(0), seen.std(0)
    scale = np.where(deviation > 0, deviation, 1.0)
    model = LogisticRegression(C=PENALTY, max_iter=ITERATIONS, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((seen - mean) / scale, y[train])
    if model.n_iter_.max() >= ITERATIONS:
        warnings.warn(f"a logistic regression has not converged in {ITERATIONS} iterations", stacklevel=2)
    return model.predict((x[test] - mean) / scale)
