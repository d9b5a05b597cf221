"""Paired differences between two systems: units against the same phones, or speech against the same originals.

Both are measured on the same files, and intervals are over the same draws for both, so that hard and easy files cancel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from textless.errors import CorpusError
from textless.metrics.abx_error import by_pair
from textless.metrics.alignments import Alignment, frame_phones
from textless.metrics.bootstrap import interval, paired, percentiles
from textless.metrics.items import items_of
from textless.metrics.pnmi import RESAMPLES, aligned, pnmi, shares
from textless.metrics.speech import MEASURES, Sentence, sums_of
from textless.units.dump import UnitRow


def unit_difference(
    a: Iterable[UnitRow], b: Iterable[UnitRow], alignments: Mapping[str, Alignment], *, seed: int = 0
) -> dict[str, float]:
    """PNMI and ABX of `a` less those of `b`.

    Args:
        a, b: units of the same files, of any two codebooks and frame rates.

    Returns:
        `pnmi`, over draws of files; `abx_within` and `abx_across`, over draws of pairs of phones; each with `_low` and
        `_high`, its 95 % interval: the two differ where it does not hold 0. An ABX that has no cell is left out.

    Raises:
        CorpusError: not the same files, or none with an alignment. ContractError: the frame rate of either is unknown.
    """
    ours, theirs = ({row.id: row for row in rows} for rows in (a, b))
    if lost := sorted(ours.keys() ^ theirs.keys()):
        raise CorpusError(
            f"{len(lost)} files have units in one of the two only, such as {', '.join(lost[:3])}; "
            "compare the same files"
        )
    ids = sorted(i for i in ours if i in alignments)
    if not ids:
        raise CorpusError("no file has an alignment; do the ids of units and alignment agree?")
    rng = np.random.default_rng(seed)
    times = [np.bincount(rng.integers(len(ids), size=len(ids)), minlength=len(ids)) for _ in range(RESAMPLES)]
    (first, first_drawn), (second, second_drawn) = (
        _pnmis([rows[i] for i in ids], alignments, times) for rows in (ours, theirs)
    )
    value, drawn = first - second, first_drawn - second_drawn
    # Less the bias of few files, see `unit_quality`.
    values = _with_interval("pnmi", value, percentiles(drawn - drawn.mean() + value))
    items = items_of({i: alignments[i] for i in ids}, {i: ours[i].speaker for i in ids})
    for speakers in ("within", "across"):
        try:
            errors, other_errors = (
                by_pair(
                    {i: rows[i].units.frames() for i in ids},
                    items,
                    frame_rate=rows[ids[0]].units.frame_rate,
                    distance="identical",
                    speakers=speakers,
                    seed=seed,
                )[0]
                for rows in (ours, theirs)
            )
        except CorpusError:
            continue
        # Short items have a frame at one frame rate and none at another.
        both = sorted(errors.keys() & other_errors.keys())
        if both:
            less = np.array([errors[pair] - other_errors[pair] for pair in both])
            values |= _with_interval(f"abx_{speakers}", less.mean(), interval(less, seed=seed))
    return values


def _pnmis(
    rows: Sequence[UnitRow], alignments: Mapping[str, Alignment], times: Sequence[np.ndarray]
) -> tuple[float, np.ndarray]:
    """PNMI of the whole, and (len(times),) with each file as often as `times` say."""
    rate = rows[0].units.frame_rate
    frames = [row.units.frames() for row in rows]
    pairs = (
        (u, frame_phones(alignments[row.id], len(u), frame_rate=rate)) for row, u in zip(rows, frames, strict=True)
    )
    units, phones, file, _ = aligned(pairs)
    n_units = 1 + int(units.max())
    drawn = np.array([pnmi(shares(phones, units, n_units, each[file])) for each in times])
    return pnmi(shares(phones, units, n_units)), drawn


def paired_difference(
    a: Sequence[Sentence], b: Sequence[Sentence], measure: str, *, seed: int = 0
) -> tuple[float, float, float]:
    """How much a measure differs between two systems that spoke the same sentences.

    Args:
        a, b: what `compare` returns of each sentence, with ids: `sentences` in what `textless quality --json` writes,
            or the lines in `data/` of a step `speech_quality`. The order does not matter.

    Returns:
        the measure of `a` less that of `b`, and the 95 % interval of the difference, see `bootstrap.paired`. The
        systems differ where it does not hold 0. A sentence that lacks the measure in one is left out in both.

    Raises:
        CorpusError: not the same sentences, or none that has the measure.
    """
    ours, theirs = ({s["id"]: s for s in sentences} for sentences in (a, b))
    if lost := sorted(ours.keys() ^ theirs.keys()):
        raise CorpusError(
            f"{len(lost)} sentences are in one of the two only, such as {', '.join(lost[:3])}; "
            "compare the same sentences"
        )
    sums = [sums_of([system[name] for name in sorted(ours)], measure) for system in (ours, theirs)]
    defined = (sums[0][1] > 0) & (sums[1][1] > 0)
    if not defined.any():
        raise CorpusError(f"no sentence has the measure {measure!r} in both; known: {', '.join(MEASURES)}")
    first, second = ((over[defined], under[defined]) for over, under in sums)
    return paired(first, second, seed=seed)


def differences(a: Sequence[Sentence], b: Sequence[Sentence], *, seed: int = 0) -> dict[str, float]:
    """`paired_difference` of each measure that both have: NAME, NAME_low, NAME_high.

    Raises CorpusError also where there is none.
    """
    values: dict[str, float] = {}
    for measure in MEASURES:
        if measure.endswith("_original"):  # the same in both
            continue
        ids = [
            {s["id"] for s, under in zip(system, sums_of(system, measure)[1], strict=True) if under > 0}
            for system in (a, b)
        ]
        if set.intersection(*ids):
            value, low, high = paired_difference(a, b, measure, seed=seed)
            values |= _with_interval(measure, value, (low, high))
    if not values:
        raise CorpusError("there is no measure of sentences in both; compare the results of speech_quality")
    return values


def _with_interval(name: str, value: float, bounds: tuple[float, float]) -> dict[str, float]:
    return {name: float(value), f"{name}_low": bounds[0], f"{name}_high": bounds[1]}
