"""Does a language model repeat itself? GSLM's self-BLEU and auto-BLEU on units, and loops.

Lakhotia et al. 2021 (arXiv:2102.01192), section on the evaluation of generation, compute them on transcripts of a
recogniser, as `textless.metrics.continuations` does. There are fewer kinds of units than of words, and more a second:
on units the values are higher, and only compare with those of real speech. Deduplicate units first, or a long unit
counts as a repetition. Here samples are compared with those of their own prompt, there with all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from textless.metrics import bleu
from textless.metrics.bleu import geometric_mean
from textless.metrics.metric import Metric, count, number, percent
from textless.types import Units

LOOP = 8  # units, about a third of a second: words may occur twice, this many units in a row hardly by chance
METRICS = {
    "prompts": Metric("prompts", count),
    "samples": Metric("samples", count),
    "auto_bleu_2": Metric("auto-BLEU-2", number(3)),
    "self_bleu_2": Metric("self-BLEU-2", number(3)),
    "vert_2": Metric("VERT-2", number(3)),
    f"repeated_{LOOP}grams": Metric(f"repeated {LOOP}-grams", percent),
    f"most_of_an_{LOOP}gram": Metric(f"most occurrences of an {LOOP}-gram", count),
    "without_loops": Metric("samples without loops", percent),
}

Sample = Units | np.ndarray | Sequence[int]


def _tokens(sequence: Sample) -> list[int]:
    return Units.of(sequence if isinstance(sequence, Units | np.ndarray) else list(sequence)).units.tolist()


def _ngrams(sequence: Sample, n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(bleu.ngrams(_tokens(sequence), n))


def recurring(sequence: Sample, n: int) -> float:
    """Share of the n-grams that occur more than once in the sequence, overlapping or not: auto-BLEU(u, n) of the paper.

    0 where there is no n-gram.
    """
    counts = _ngrams(sequence, n)
    return sum(c for c in counts.values() if c > 1) / max(1, counts.total())


def auto_bleu(sequence: Sample, n: int = 2) -> float:
    """Diversity within a sample: the geometric mean of `recurring` over 1- to n-grams (Lakhotia et al. 2021).

    0 where all n-grams differ.
    GSLM's own script leaves out occurrences that overlap; of deduplicated units, these are at least trigrams.
    """
    return geometric_mean([recurring(sequence, k) for k in range(1, n + 1)])


def self_bleu(sequences: Sequence[Sample], n: int = 2) -> float:
    """Diversity between samples: mean BLEU of each, the others being references (Zhu et al. 2018, arXiv:1802.01886).

    Raises:
        ValueError: fewer than two sequences.
    """
    return float(np.mean(bleu.self_bleu([_tokens(s) for s in sequences], n)))


def repeated_ngrams(sequence: Sample, n: int = LOOP) -> tuple[float, int]:
    """Share of the n-grams that occurred earlier in the sequence, and how often the most frequent one occurs.

    (0, 0) where there is no n-gram.
    """
    counts = _ngrams(sequence, n)
    return (1 - len(counts) / counts.total(), max(counts.values())) if counts else (0.0, 0)


def diversity(samples_by_prompt: Mapping[str, Sequence[Sample]]) -> dict[str, float]:
    """Summary of samples, several to a prompt.

    Args:
        samples_by_prompt: by prompt its samples, without the prompt, which they share.

    Returns:
        `prompts`, `samples`; `auto_bleu_2`: mean over samples; `self_bleu_2`: mean over prompts of their samples
        against each other, and `vert_2`, the geometric mean of these two (Lakhotia et al. 2021), both missing where no
        prompt has two samples; `repeated_8grams`: mean share; `most_of_an_8gram`: how often one occurs in a sample, at
        most; `without_loops`: share of samples in which no 8-gram occurs more than twice.

    Raises:
        ValueError: no sample.
    """
    samples = [s for group in samples_by_prompt.values() for s in group]
    if not samples:
        raise ValueError("no sample to summarise")
    repeats = [repeated_ngrams(s) for s in samples]
    values: dict[str, float] = {
        "prompts": len(samples_by_prompt),
        "samples": len(samples),
        "auto_bleu_2": float(np.mean([auto_bleu(s) for s in samples])),
        f"repeated_{LOOP}grams": float(np.mean([share for share, _ in repeats])),
        f"most_of_an_{LOOP}gram": max(most for _, most in repeats),
        "without_loops": float(np.mean([most <= 2 for _, most in repeats])),
    }
    if groups := [group for group in samples_by_prompt.values() if len(group) > 1]:
        values["self_bleu_2"] = float(np.mean([self_bleu(group) for group in groups]))
        values["vert_2"] = geometric_mean([values["auto_bleu_2"], values["self_bleu_2"]])
    return values
