"""How much two kinds of units differ in what they tell of phones: the same files and phones for both, so that hard and easy ones cancel.

Intervals are percentiles of the bootstrap (Efron & Tibshirani 1993, section 13.3), with the same draws for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from textless.errors import CorpusError
from textless.metrics.abx_error import by_pair
from textless.metrics.bootstrap import resampled
from textless.metrics.items import Alignment, items_of
from textless.metrics.units import RESAMPLES, aligned, frame_phones, pnmi, shares
from textless.units.dump import UnitRow


def unit_difference(
    a: Iterable[UnitRow], b: Iterable[UnitRow], alignments: Mapping[str, Alignment], *, seed: int = 0
) -> dict[str, float]:
    """PNMI and discrete ABX of `a` less those of `b`.

    Args:
        a, b: units of the same files, of any two codebooks and frame rates.

    Returns:
        `pnmi`, over draws of files; `abx_within` and `abx_across`, over draws of pairs of phones; each with `_low` and `_high`, its 95 %
        interval: the two differ where it does not hold 0. An ABX that has no cell is left out.

    Raises:
        CorpusError: not the same files, or none with an alignment. ContractError: the frame rate of either is unknown.
    """
    ours, theirs = ({row.id: row for row in rows} for rows in (a, b))
    if lost := sorted(ours.keys() ^ theirs.keys()):
        raise CorpusError(
            f"{len(lost)} files have units in one of the two only, such as {', '.join(lost[:3])}; compare the same files"
        )
    ids = sorted(i for i in ours if i in alignments)
    if not ids:
        raise CorpusError("no file has an alignment; do the ids of units and alignment agree?")
    rng = np.random.default_rng(seed)
    times = [np.bincount(rng.integers(len(ids), size=len(ids)), minlength=len(ids)) for _ in range(RESAMPLES)]
    first, second = (_pnmis([rows[i] for i in ids], alignments, times) for rows in (ours, theirs))
    value, drawn = first[0] - second[0], first[1] - second[1]
    figures = _figures("pnmi", value, drawn - drawn.mean() + value)  # less the bias of few files, see `unit_quality`
    items = items_of({i: alignments[i] for i in ids}, {i: ours[i].speaker for i in ids})
    for speakers in ("within", "across"):
        try:
            first, second = (
                by_pair(
                    {i: rows[i].units.frames() for i in ids},
                    items,
                    frame_rate=rows[ids[0]].units.frame_rate,
                    distance="discrete",
                    speakers=speakers,
                    seed=seed,
                )[0]
                for rows in (ours, theirs)
            )
        except CorpusError:
            continue
        both = sorted(first.keys() & second.keys())  # short items have a frame at one frame rate and none at another
        if not both:
            continue
        less = np.array([first[pair] - second[pair] for pair in both])
        figures |= _figures(f"abx_{speakers}", float(less.mean()), resampled(less, np.ones(len(less)), seed))
    return figures


def _pnmis(
    rows: Sequence[UnitRow], alignments: Mapping[str, Alignment], times: Sequence[np.ndarray]
) -> tuple[float, np.ndarray]:
    """PNMI of the whole, and with each file as often as `times` say."""
    rate = rows[0].units.frame_rate
    frames = [row.units.frames() for row in rows]
    pairs = (
        (u, frame_phones(alignments[row.id], len(u), frame_rate=rate)) for row, u in zip(rows, frames, strict=True)
    )
    units, phones, file, _ = aligned(pairs)
    n_units = 1 + int(units.max())
    drawn = np.array([pnmi(shares(phones, units, n_units, each[file])) for each in times])
    return pnmi(shares(phones, units, n_units)), drawn


def _figures(name: str, value: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
