"""From the figures of sentences to those of systems: means and rates with intervals, and differences between two systems.

Intervals are percentiles of the bootstrap over sentences (Efron & Tibshirani 1993, section 13.3; for word error rates Bisani & Ney 2004,
Bootstrap estimates for confidence intervals in ASR performance evaluation).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textless.errors import CorpusError
from textless.metrics.bootstrap import interval, resampled

# Means over sentences; and rates, the sum of the one over the sum of the other.
MEANS = ("log_mel_l1", "mcd", "f0_cents", "voicing_error", "stoi")
RATES = {
    "uer": ("unit_edits", "units"),
    "wer": ("word_edits", "words"),
    "wer_original": ("word_edits_original", "words"),
}
LAG = 0.1  # seconds that a made sentence may be longer or shorter before a warning says so

Sentence = Mapping[str, Any]


def summarise(sentences: Sequence[Sentence], *, seed: int = 0) -> dict[str, float]:
    """Means over sentences, and rates over all of them together, of what `compare` gives.

    Returns:
        Each measure, over the sentences that have it, and `_low` and `_high`, its 95 % interval where there are two or more: percentiles
        over 1000 draws of as many sentences with replacement. `files`, `seconds`: of what was made.

    Warns where made and original differ in length. Raises CorpusError: no sentence.
    """
    if not sentences:
        raise CorpusError("there are no sentences to compare")
    sentences = sorted(
        sentences, key=lambda s: s["id"]
    )  # what the seed draws is then the same in whatever order they come
    late = [s["id"] for s in sentences if abs(s["seconds"] - s["seconds_original"]) > LAG]
    if late:
        warnings.warn(
            f"{len(late)} of {len(sentences)} files are longer or shorter than their originals by more than {LAG} s, such as {late[0]}; "
            "only mcd, uer and wer allow for that",
            stacklevel=2,
        )
    figures = {"files": float(len(sentences)), "seconds": sum(s["seconds"] for s in sentences)}
    for measure in (*MEANS, *RATES):
        over, under = _parts(sentences, measure)
        there = under > 0
        if there.any():
            figures[measure] = float(over[there].sum() / under[there].sum())
        if there.sum() > 1:
            figures[f"{measure}_low"], figures[f"{measure}_high"] = interval(over[there], under[there], seed=seed)
    return figures


def paired_difference(
    a: Sequence[Sentence], b: Sequence[Sentence], measure: str, *, seed: int = 0
) -> tuple[float, float, float]:
    """How much a measure differs between two systems that made the same sentences.

    Args:
        a, b: what `compare` gives of each, with ids: `sentences` in what `textless quality --json` writes, or the lines in `data/` of a
            step `speech_quality`. The order does not matter.

    Returns:
        the measure of `a` less that of `b`, and the 95 % interval of the difference: percentiles over 1000 draws of sentences, the same
        for both, so that hard and easy sentences cancel. The systems differ where it does not hold 0. A
        sentence that lacks the measure in one is left out in both.

    Raises:
        CorpusError: other sentences in the one than in the other, or none that has the measure.
    """
    ours, theirs = ({s["id"]: s for s in sentences} for sentences in (a, b))
    if lost := sorted(ours.keys() ^ theirs.keys()):
        raise CorpusError(
            f"{len(lost)} sentences stand in one of the two only, such as {', '.join(lost[:3])}; compare what both made"
        )
    sums = [_parts([system[name] for name in sorted(ours)], measure) for system in (ours, theirs)]
    there = (sums[0][1] > 0) & (sums[1][1] > 0)
    if not there.any():
        raise CorpusError(f"no sentence has the measure {measure!r} in both; there are {', '.join((*MEANS, *RATES))}")
    value, other = (over[there].sum() / under[there].sum() for over, under in sums)
    first, second = (resampled(over[there], under[there], seed) for over, under in sums)
    low, high = np.percentile(first - second, [2.5, 97.5])
    return float(value - other), float(low), float(high)


def differences(a: Sequence[Sentence], b: Sequence[Sentence], *, seed: int = 0) -> dict[str, float]:
    """`paired_difference` of each measure that both have: NAME, NAME_low, NAME_high. Raises CorpusError also where there is none."""
    figures: dict[str, float] = {}
    for measure in (*MEANS, "uer", "wer"):
        have = [
            {s["id"] for s, under in zip(system, _parts(system, measure)[1], strict=True) if under > 0}
            for system in (a, b)
        ]
        if set.intersection(*have):
            figures[measure], figures[f"{measure}_low"], figures[f"{measure}_high"] = paired_difference(
                a, b, measure, seed=seed
            )
    if not figures:
        raise CorpusError("there is no measure of sentences in both; compare what speech_quality made")
    return figures


def _parts(sentences: Sequence[Sentence], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """What a measure is the ratio of: of each sentence (N,) float64 twice. A mean has ones below; a sentence without it zeros."""
    above, below = RATES.get(measure, (measure, None))
    over = np.array([s.get(above, 0) for s in sentences], np.float64)
    under = np.array([s.get(below, 0) if below else float(above in s) for s in sentences], np.float64)
    return over, under
