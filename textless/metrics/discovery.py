"""Unit discovery by the rules of DiscoPhon (Poli et al. 2026, arXiv:2603.18612): units mapped to phones, then phone
error rate and boundaries.

    units = {"utt1": (T,) int64, one a frame, …}
    unit_discovery(units, read_alignments("alignment-eng-test.txt"), n_units=256)["many_to_one_per_same_files"]
    dev = dev_units, read_alignments("alignment-eng-dev.txt")
    unit_discovery(units, read_alignments("alignment-eng-test.txt"), n_units=256, fit=dev)["many_to_one_per"]

Phones are counted every 10 ms, and silence is one of them. The scores are those of discophon 0.2 (evaluate/assignment,
recognition, segmentation and quality), which fits the mapping on the files that it scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from textless.errors import CorpusError
from textless.metrics.alignments import Alignment
from textless.metrics.bootstrap import interval
from textless.metrics.boundaries import BoundaryScores, changes_at, compare_boundaries
from textless.metrics.edit_distance import edit_distance
from textless.metrics.metric import Metric, number, percent
from textless.metrics.pnmi import pnmi

STEP = 10  # ms, at which phones are counted
SILENCE = "SIL"  # where an alignment has no label
SAME = "_same_files"  # ends the keys of scores whose mapping was fitted on the files that are scored
KINDS = {"many_to_one": "many-to-one", "one_to_one": "one-to-one"}
SCORES = {
    "per": Metric("PER", percent, interval=True),
    "boundary_precision": Metric("boundary precision", percent),
    "boundary_recall": Metric("boundary recall", percent),
    "boundary_f1": Metric("boundary F1", percent),
    "boundary_r_value": Metric("boundary R-value", number(3)),
    "boundary_over_segmentation": Metric("over-segmentation", percent),
}
METRICS = {
    "pnmi_10ms": Metric("PNMI, every 10 ms, silence is a phone", number(3)),
    **{
        f"{kind}_{name}{end}": Metric(f"{metric.label}, {words}{where}", metric.format, interval=metric.interval)
        for end, where in (("", ""), (SAME, ", same files"))
        for kind, words in KINDS.items()
        for name, metric in SCORES.items()
    },
}

Labelled = tuple[Mapping[str, np.ndarray], Mapping[str, Alignment]]  # units of files, and their phones


def unit_discovery(
    units: Mapping[str, np.ndarray],
    alignments: Mapping[str, Alignment],
    *,
    n_units: int,
    frame_rate: float = 50,
    n_phones: int | None = None,
    fit: Labelled | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """PNMI at 10 ms, and phone error rate and boundary scores of units that are mapped to phones.

    Args:
        units: by id, (T,) int64, one a frame.
        alignments: phones by id; files that are in one of the two only are left out. Times are rounded to 10 ms, and
            where nothing is labelled is silence (`SIL`).
        n_units: size of the codebook.
        frame_rate: frames a second; a frame must last a multiple of 10 ms.
        n_phones: phones of the language, silence included; None: as many as occur.
        fit: units and alignments of other files, on which the mapping is fitted as well.
        seed: of the intervals.

    Returns:
        `pnmi_10ms`; and for each kind of mapping `KIND_per` with its 95 % interval over files (`_low`, `_high`),
        `KIND_boundary_precision`, `_recall`, `_f1`, `_r_value` and `_over_segmentation` (± 20 ms): with `fit` of the
        mapping that is fitted there, and, ending in `_same_files`, of the one that is fitted on the scored files
        themselves, as DiscoPhon's tables have it. KIND is `many_to_one`; and `one_to_one` where there are as many units
        as phones. Precision is left out where no boundary is predicted, as all units are mapped to one phone.

    Raises:
        CorpusError: no file has both; units and phones end more than a unit apart; phones overlap; `fit` has a file
            that is scored; a frame is no multiple of 10 ms; the alignments have one phone, or no boundary; `n_phones`
            is given and differs from `n_units`, or more phones occur.
    """
    step = unit_step(frame_rate)
    if fit and (both := sorted(fit[0].keys() & units.keys())):
        raise CorpusError(f"{len(both)} files are fitted on and scored, such as {both[0]}; fit the mapping on others")
    names: dict[str, int] = {}
    scored = _files(units, alignments, step, names)
    fitted = {SAME: scored} | ({"": _files(*fit, step, names)} if fit else {})
    counts = {end: cooccurrence(files, n_units=n_units) for end, files in fitted.items()}
    values = {"pnmi_10ms": pnmi(counts[SAME].counts / counts[SAME].counts.sum())}
    for end in sorted(fitted):
        values |= _scores(f"many_to_one_{{}}{end}", scored, many_to_one(counts[end]), seed)
        if n_phones is not None or n_units == len(names):
            mapping = one_to_one(counts[end], n_phones=n_phones or len(names))
            values |= _scores(f"one_to_one_{{}}{end}", scored, mapping, seed)
    return values


def _scores(key: str, files: list[File], mapping: np.ndarray, seed: int) -> dict[str, float]:
    edits, lengths = phone_errors(files, mapping)
    found = boundary_scores(files, mapping)
    low, high = interval(edits, lengths, seed=seed)
    values = {
        "per": edits.sum() / lengths.sum(),
        **({"boundary_precision": found.precision} if found.predicted else {}),
        "boundary_recall": found.recall,
        "boundary_f1": found.f1,
        "boundary_r_value": found.r_value,
        "boundary_over_segmentation": found.over_segmentation,
    }
    out = {key.format(name): float(value) for name, value in values.items()}
    return out | {key.format("per") + "_low": low, key.format("per") + "_high": high}


# ------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True, eq=False)
class File:
    """Units (T,) int64, each of `step` ms, and phones (S,) int64, one each 10 ms, as numbers."""

    units: np.ndarray
    phones: np.ndarray
    step: int


def unit_step(frame_rate: float) -> int:
    """Milliseconds of a frame. Raises CorpusError where they are no multiple of 10."""
    step = round(1000 / frame_rate)
    if step % STEP or not np.isclose(step * frame_rate, 1000, rtol=1e-9):
        raise CorpusError(
            f"at {frame_rate:g} frames a second a unit lasts no multiple of 10 ms, at which phones are counted; "
            "units at 100, 50 or 25 Hz can be scored"
        )
    return step


def _files(
    units: Mapping[str, np.ndarray], alignments: Mapping[str, Alignment], step: int, names: dict[str, int]
) -> list[File]:
    """Files that have both, in the order of their ids, which decides ties; phones that are new are added to `names`."""
    files = [
        File(np.asarray(units[name]), _numbers(alignments[name], name, names), step)
        for name in sorted(units.keys() & alignments.keys())
    ]
    if not files:
        raise CorpusError("no file has both units and phones; do the ids of units and alignment agree?")
    for name, file in zip(sorted(units.keys() & alignments.keys()), files, strict=True):
        if not len(file.units) or not len(file.phones):
            raise CorpusError(f"{name}: there are no {'phones' if len(file.units) else 'units'}; leave the file out")
        ends = len(file.phones) * STEP, len(file.units) * step
        if abs(ends[0] - ends[1]) > step:
            raise CorpusError(
                f"{name}: its phones end at {ends[0] / 1000:g} s and its units at {ends[1] / 1000:g} s, more than a "
                f"unit apart; label silence too ({SILENCE}), or correct the frame rate"
            )
    return files


def _numbers(alignment: Alignment, name: str, names: dict[str, int]) -> np.ndarray:
    labels, lengths = [], []
    for phone, length in _stretches(alignment, name):
        labels.append(names.setdefault(phone, len(names)))
        lengths.append(length)
    return np.repeat(np.array(labels, np.int64), lengths)


def _stretches(alignment: Alignment, name: str) -> Iterator[tuple[str, int]]:
    """Phones and their lengths in steps of 10 ms, silence where there is none."""
    at = 0
    for start, end, phone in sorted(alignment):
        first, last = round(1000 / STEP * start), round(1000 / STEP * end)
        if first < at:
            raise CorpusError(f"{name}: {phone!r} at {start:g} s begins before the phone ahead of it ends")
        yield SILENCE, first - at
        yield phone, last - first
        at = last


# ----------------------------------------------------------------------------------------------------------- mappings


@dataclass(frozen=True, eq=False)
class Cooccurrence:
    """How often phones and units are at the same 10 ms.

    Attributes:
        counts: (P, K) int64.
        phones: (P,) int64, of each row its phone: the most frequent first, and of equals the one that is later in the
            files, which decides ties.
    """

    counts: np.ndarray
    phones: np.ndarray


def cooccurrence(files: list[File], *, n_units: int) -> Cooccurrence:
    """Count the phones of `n_units` units; the longer of units and phones is cut to the other."""
    pairs = [_cut(np.repeat(file.units, file.step // STEP), file.phones) for file in files]
    units, phones = (np.concatenate(column) for column in zip(*pairs, strict=True))
    if units.min() < 0 or units.max() >= n_units:
        raise CorpusError(f"unit {units.max()} is outside a codebook of {n_units} units")
    counts = np.bincount(phones * n_units + units, minlength=(1 + phones.max()) * n_units).reshape(-1, n_units)
    present, first = np.unique(phones, return_index=True)
    present = present[np.argsort(first)]
    rows = present[np.argsort(counts[present].sum(1), kind="stable")[::-1]]
    return Cooccurrence(counts[rows], rows)


def _cut(units: np.ndarray, phones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = min(len(units), len(phones))
    return units[:length], phones[:length]


def many_to_one(table: Cooccurrence) -> np.ndarray:
    """(K,) int64: each unit's most frequent phone; of a unit that does not occur, the most frequent phone of all."""
    return table.phones[table.counts.argmax(0)]


def one_to_one(table: Cooccurrence, *, n_phones: int) -> np.ndarray:
    """(K,) int64: the bijection of units and phones under which most of the time they coincide.

    Phones of the language that do not occur have negative numbers. Raises CorpusError unless there are as many units as
    phones.
    """
    from scipy.optimize import linear_sum_assignment

    present, n_units = table.counts.shape
    if present > n_phones or n_units != n_phones:
        raise CorpusError(
            f"a one-to-one mapping needs as many units as phones: there are {n_units} units, and {n_phones} phones of "
            f"which {present} occur, silence included"
        )
    absent = n_units - present
    rows, columns = linear_sum_assignment(np.pad(table.counts, ((0, absent), (0, 0))), maximize=True)
    phones = np.concatenate([table.phones, -1 - np.arange(absent)])
    mapping = np.empty(n_units, np.int64)
    mapping[columns] = phones[rows]
    return mapping


# ------------------------------------------------------------------------------------------------------------- scores


def phone_errors(files: list[File], mapping: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) edits and (N,) phones of each file, over whose sums the ratio is the phone error rate.

    A phone that follows itself counts once, in the units and in the alignment. Nothing is cut.
    """
    pairs = [(_runs(mapping[file.units]), _runs(file.phones)) for file in files]
    return np.array([edit_distance(*pair) for pair in pairs]), np.array([len(phones) for _, phones in pairs])


def _runs(labels: np.ndarray) -> np.ndarray:
    return labels[np.concatenate([[True], labels[1:] != labels[:-1]])]


def boundary_scores(files: list[File], mapping: np.ndarray) -> BoundaryScores:
    """Changes of the phone to which units are mapped, against those of the alignment."""
    return reduce(
        add,
        (
            compare_boundaries(changes_at(mapping[file.units], file.step), changes_at(file.phones, STEP))
            for file in files
        ),
    )
