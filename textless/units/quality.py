"""How much of the phones is in the units: PNMI and purities (Hsu et al. 2021, section IV-C)."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from textless.errors import CorpusError

Alignment = list[tuple[float, float, str]]


def read_alignments(path: Path | str) -> dict[str, Alignment]:
    """A tsv with columns id, start, end (seconds), phone → {id: [(start, end, phone)]}."""
    out: dict[str, Alignment] = defaultdict(list)
    with open(path, newline="") as f:
        rows = csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
        if missing := {"id", "start", "end", "phone"} - set(rows.fieldnames or ()):
            raise CorpusError(f"{path}: column {', '.join(sorted(missing))} is missing; an alignment has id, start, end, phone")
        for row in rows:
            out[row["id"]].append((float(row["start"]), float(row["end"]), row["phone"]))
    return dict(out)


def frame_phones(alignment: Alignment, frames: int, *, frame_rate: float, window: float = 0.025) -> list[str | None]:
    """Phone at the middle of each frame's window, None where there is none."""
    out: list[str | None] = [None] * frames
    for start, end, phone in alignment:
        first = max(0, int(np.ceil((start - window / 2) * frame_rate - 1e-9)))
        last = min(frames, int(np.ceil((end - window / 2) * frame_rate - 1e-9)))
        out[first:last] = [phone] * max(0, last - first)
    return out


def unit_quality(pairs: Iterable[tuple[np.ndarray, list[str | None]]], *, n_units: int, seed: int = 0) -> dict[str, float]:
    """Compare units with phones, frame by frame.

    Args:
        pairs: of each file, frame units (T,) int64 and the phones of `frame_phones`; frames without a phone are left out.

    Returns:
        `pnmi`: mutual information over the phones' entropy; `pnmi_chance`: the same with the units shuffled, the floor that few frames
        raise; `phone_purity`: share of frames whose phone is the most frequent of their unit; `cluster_purity`: share whose unit is the
        most frequent of their phone; `active_units`; `frames`.
    """
    units, phones = [], []
    for u, p in pairs:
        keep = [i for i, phone in enumerate(p[: len(u)]) if phone is not None]
        units.append(np.asarray(u)[keep])
        phones.extend(p[i] for i in keep)
    all_units = np.concatenate(units) if units else np.empty(0, np.int64)
    if not len(all_units):
        raise CorpusError("no frame has both a unit and a phone; do the ids of units and alignment agree?")
    _, phone_ids = np.unique(np.array(phones), return_inverse=True)
    joint = _joint(phone_ids, all_units, n_units)
    shuffled = np.random.default_rng(seed).permutation(all_units)
    return {
        "pnmi": _pnmi(joint),
        "pnmi_chance": _pnmi(_joint(phone_ids, shuffled, n_units)),
        "phone_purity": float(joint.max(0).sum()),
        "cluster_purity": float(joint.max(1).sum()),
        "active_units": float((joint.sum(0) > 0).sum()),
        "frames": float(len(all_units)),
    }


def _joint(phones: np.ndarray, units: np.ndarray, n_units: int) -> np.ndarray:
    counts = np.zeros((phones.max() + 1, n_units))
    np.add.at(counts, (phones, units), 1)
    return counts / counts.sum()


def _pnmi(joint: np.ndarray) -> float:
    phone, unit = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    seen = joint > 0
    information = (joint[seen] * np.log(joint[seen] / (phone @ unit)[seen])).sum()
    return float(information / -(phone[phone > 0] * np.log(phone[phone > 0])).sum())
