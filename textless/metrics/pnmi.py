"""How much of the phones is in the units: PNMI and purities, those of Hsu et al. (2021, section IV-C)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from textless.errors import CorpusError
from textless.metrics.bootstrap import percentiles
from textless.metrics.metric import Metric, count, number

METRICS = {
    "pnmi": Metric("PNMI", number(3), interval=True, baseline="chance"),
    "phone_purity": Metric("phone purity", number(3), baseline="chance"),
    "cluster_purity": Metric("cluster purity", number(3), baseline="chance"),
    "active_units": Metric("units that occur", count),
    "frames": Metric("frames that have a phone", count, printed=False),
}

RESAMPLES = 200  # each goes over all frames


def unit_quality(
    pairs: Iterable[tuple[np.ndarray, list[str | None]]], *, n_units: int, seed: int = 0
) -> dict[str, float]:
    """Compare units with phones, frame by frame.

    Args:
        pairs: of each file, frame units (T,) int64 and `frame_phones`; frames without a phone are left out.

    Returns:
        `pnmi`: mutual information over the phones' entropy, and `_low`, `_high`, its 95 % interval by a bootstrap over
        files, less the bias; `phone_purity`: share of frames whose phone is the most frequent of their unit;
        `cluster_purity`: share whose unit is the most frequent of their phone; each with `_chance`, the same with the
        units shuffled over the frames: the fewer the frames, the higher it is; `active_units` and `frames`, of the
        frames that have a phone.

    Raises:
        CorpusError: no frame has both a unit and a phone.
    """
    all_units, phone_ids, file, files = aligned(pairs)
    rng = np.random.default_rng(seed)
    joint = shares(phone_ids, all_units, n_units)
    chance = shares(phone_ids, rng.permutation(all_units), n_units)
    # Files are drawn with replacement: a frame counts as often as its file was drawn.
    draws = (np.bincount(rng.integers(files, size=files), minlength=files) for _ in range(RESAMPLES))
    whole = pnmi(joint)
    drawn = np.array([pnmi(shares(phone_ids, all_units, n_units, times[file])) for times in draws])
    # A resample has fewer different frames, so more is shared by chance, and its PNMI is biased upwards.
    low, high = percentiles(drawn - drawn.mean() + whole)
    return {
        "pnmi": whole,
        "pnmi_low": low,
        "pnmi_high": high,
        "pnmi_chance": pnmi(chance),
        "phone_purity": float(joint.max(0).sum()),
        "phone_purity_chance": float(chance.max(0).sum()),
        "cluster_purity": float(joint.max(1).sum()),
        "cluster_purity_chance": float(chance.max(1).sum()),
        "active_units": float((joint.sum(0) > 0).sum()),
        "frames": float(len(all_units)),
    }


def aligned(pairs: Iterable[tuple[np.ndarray, list[str | None]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Units, phones and files as numbers, of all frames that have a phone, (N,) int64 each; and the number of files.

    `pairs` and errors are those of `unit_quality`.
    """
    units: list[np.ndarray] = []
    phones: list[str] = []
    files: list[np.ndarray] = []
    for file, (u, p) in enumerate(pairs):
        labelled = [(i, phone) for i, phone in enumerate(p[: len(u)]) if phone is not None]
        units.append(np.asarray(u)[[i for i, _ in labelled]])
        phones.extend(phone for _, phone in labelled)
        files.append(np.full(len(labelled), file))
    if not phones:
        raise CorpusError("no frame has both a unit and a phone; do the ids of units and alignment agree?")
    phone_ids = np.unique(np.array(phones), return_inverse=True)[1]
    return np.concatenate(units), phone_ids, np.concatenate(files), len(files)


def shares(phones: np.ndarray, units: np.ndarray, n_units: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Joint distribution of phones and units over the frames, weighted, (phones, n_units) float64."""
    size = (phones.max() + 1) * n_units
    counts = (
        np.bincount(phones * n_units + units, weights=weights, minlength=size).reshape(-1, n_units).astype(np.float64)
    )
    return counts / counts.sum()


def pnmi(joint: np.ndarray) -> float:
    """Phone-normalised mutual information of the distribution `shares`: over the phones' entropy.

    Raises CorpusError where there is one phone only, whose entropy is 0.
    """
    phone, unit = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    if len(phone) < 2:
        raise CorpusError("all frames have the same phone; PNMI and purities need two at least")
    seen = joint > 0
    information = (joint[seen] * np.log(joint[seen] / (phone @ unit)[seen])).sum()
    entropy = -(phone[phone > 0] * np.log(phone[phone > 0])).sum()
    return float(information / entropy) if entropy else 0.0  # a draw of files with one phone only
