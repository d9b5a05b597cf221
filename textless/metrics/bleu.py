"""Self-BLEU and auto-BLEU as GSLM's script computes them: how much samples share with each other, and with themselves.

Lakhotia et al. 2021 (arXiv:2102.01192), the section on evaluation metrics of generation; fairseq,
examples/textless_nlp/gslm/metrics/asr_metrics/self_auto_bleu.py, whose `…BLEU2-geometric` lines these are for n = 2.
A sample is a sequence of tokens, or a text, whose tokens are what white space separates: case and punctuation count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

Tokens = str | Sequence[Hashable]


def ngrams(sample: Tokens, n: int) -> list[tuple[Hashable, ...]]:
    """The n-grams of a sample, in order."""
    tokens = sample.split() if isinstance(sample, str) else sample
    return list(zip(*(tokens[k:] for k in range(n)), strict=False))


def geometric_mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.prod(values)) ** (1 / len(values))


def self_bleu(samples: Sequence[Tokens], n: int = 2) -> np.ndarray:
    """Diversity between samples: BLEU of each, all others being references (Zhu et al. 2018, arXiv:1802.01886).

    BLEU is the geometric mean over k = 1 … n of the clipped precision, in which a k-gram counts no more often than in
    the one reference that has it most often (Papineni et al. 2002, section 2.1.1), without brevity penalty or
    smoothing: 0 when no k-gram of some k is shared, or the sample has none. The script's zeros of bigrams are 1e-154.

    Returns:
        (N,) float64, from 0 to 1.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"self-BLEU compares at least two samples, got {len(samples)}")
    precisions = np.zeros((len(samples), n))
    for k in range(1, n + 1):
        counts = [Counter(ngrams(sample, k)) for sample in samples]
        # Highest and second highest count in a sample: the most that the others have, without comparing all with all.
        most: dict[tuple[Hashable, ...], int] = {}
        next_most: dict[tuple[Hashable, ...], int] = {}
        for c in counts:
            for gram, times in c.items():
                first = most.get(gram, 0)
                most[gram] = max(first, times)
                next_most[gram] = max(next_most.get(gram, 0), min(first, times))
        for i, c in enumerate(counts):
            clipped = sum(min(times, next_most[g] if times == most[g] else most[g]) for g, times in c.items())
            precisions[i, k - 1] = clipped / max(1, c.total())
    return np.array([geometric_mean(p) for p in precisions])


def auto_bleu(sample: Tokens, n: int = 2) -> float:
    """Diversity within a sample: the geometric mean over k = 1 … n of the share of k-grams that recur.

    A k-gram recurs where the same one also occurs wholly before it or wholly after it: occurrences that overlap do not
    count, as in the script. From 0 to 1; 0 for a sample of fewer than n tokens, where n = 3 of the script gives NaN for
    two.
    """
    return geometric_mean([_apart(ngrams(sample, k), k) for k in range(1, n + 1)])


def _apart(grams: Sequence[tuple[Hashable, ...]], n: int) -> float:
    """Share of the n-grams that another occurrence does not overlap; 0 where there is no n-gram."""
    first: dict[tuple[Hashable, ...], int] = {}
    last: dict[tuple[Hashable, ...], int] = {}
    for place, gram in enumerate(grams):
        first.setdefault(gram, place)
        last[gram] = place
    apart = sum(first[gram] <= place - n or last[gram] >= place + n for place, gram in enumerate(grams))
    return apart / max(1, len(grams))
