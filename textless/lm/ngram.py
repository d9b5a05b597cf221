"""Modified Kneser-Ney n-grams over units: the baseline of a language model, which must beat it with its context.

The interpolated form with three discounts per order (Chen and Goodman 1999, An empirical study of smoothing techniques
for language modeling, on modified Kneser-Ney smoothing), down to the uniform distribution. Orders below the highest
count after how many different tokens an n-gram was seen; n-grams at the very beginning, which follow nothing, count how
often (Heafield et al. 2013, Scalable modified Kneser-Ney language model estimation, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textless.errors import ContractError, TrainingError
from textless.types import Units, UnitsLike

FALLBACK = np.array([0.0, 0.5, 1.0, 1.5])  # discounts where the counts of counts give none, as in KenLM


@dataclass(frozen=True, eq=False)
class Order:
    """The n-grams of one order m. The id of an n-gram is its index here; the id of a single token is the token itself.

    Attributes:
        codes: (G,) int64 ascending: id of the first m - 1 tokens × (n_units + 1) + last token.
        discounted: (G,) float64, counts less their discounts.
        total: (contexts,) float64, sum of the counts after each (m - 1)-gram, by its id; 0 where nothing was seen.
        left: (contexts,) float64, sum of the discounts after each (m - 1)-gram: the mass of the lower order.
    """

    codes: np.ndarray
    discounted: np.ndarray
    total: np.ndarray
    left: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, counts: np.ndarray, *, contexts: int, base: int) -> Order:
        discount = discounts(counts)[np.minimum(counts, 3)]
        context = codes // base
        total, left = (np.bincount(context, x, minlength=contexts) for x in (counts, discount))
        return cls(codes, counts - discount, total, left)

    def find(self, codes: np.ndarray) -> np.ndarray:
        """Ids of (N,) codes, -1 for those never seen."""
        place = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[place] == codes, place, -1)


class KneserNey:
    """An n-gram model with the conventions of `UnitLM`: token n_units is `</s>`, which begins and ends every sequence.

    Attributes:
        n_units: size of the codebook.
        order: tokens in the longest n-gram, fewer than requested when no sequence is as long; each unit is predicted
            from at most `order - 1` tokens.
    """

    def __init__(self, n_units: int, orders: list[Order]) -> None:
        self.n_units, self.order, self._orders = n_units, len(orders), orders

    @classmethod
    def fit(cls, sequences: Sequence[UnitsLike], n_units: int, order: int = 5) -> KneserNey:
        """Count n-grams and estimate the discounts; a million units take about two seconds.

        Args:
            sequences: counted as they are, never deduplicated; an empty one counts its end.

        Raises:
            ContractError: units outside the codebook.
            TrainingError: no sequence.
            ValueError: order is less than 1.
        """
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        if not len(sequences):
            raise TrainingError("no units to count n-grams of")
        base, end = n_units + 1, np.array([n_units])
        tokens = np.concatenate([part for s in sequences for part in (end, _units(s, n_units), end)])
        # Two `</s>` in a row are the end of one sequence and the beginning of the next, or an empty sequence; the
        # lengths tell which.
        lengths = np.array([len(s) + 2 for s in sequences])
        ends = np.repeat(np.cumsum(lengths), lengths)

        codes, ids, first = np.arange(base), tokens, np.empty(0, np.int64)
        grams = []  # of each order: codes, their counts, ids by the position of their first token, a position of each
        for m in range(1, order + 1):
            if m > 1:
                start = np.flatnonzero(np.arange(len(tokens)) + m <= ends)
                if not len(start):
                    break
                codes, first_index, inverse, times = np.unique(
                    ids[start] * base + tokens[start + m - 1],
                    return_index=True,
                    return_inverse=True,
                    return_counts=True,
                )
                first = start[first_index]
                ids = np.full(len(tokens), -1)
                ids[start] = inverse
            else:
                times = np.bincount(tokens, minlength=base)
                times[n_units] -= len(sequences)  # a beginning is never predicted
            grams.append((codes, times, ids, first))

        orders: list[Order] = []
        for m, (codes, times, ids, first) in enumerate(grams, 1):
            counts = times
            if m < len(grams):
                longer = grams[m][3]
                counts = np.bincount(ids[longer + 1], minlength=len(codes))
                if m > 1:
                    # `</s>` as the first token of a longer n-gram can only be the beginning of a sequence.
                    counts = np.where(tokens[first] == n_units, times, counts)
            orders.append(Order.of(codes, counts, contexts=len(orders[-1].codes) if orders else 1, base=base))
        return cls(n_units, orders)

    def nll(self, units: UnitsLike) -> np.ndarray:
        """Negative log-likelihood of each unit, and of the end; the same shape and conventions as `UnitLM.nll`.

        Returns:
            (N + 1,) float64, nats; the last is that of `</s>`. Always finite.

        Raises:
            ContractError: units outside the codebook.
        """
        base = self.n_units + 1
        tokens = np.concatenate([[self.n_units], _units(units, self.n_units), [self.n_units]])
        p = np.full(len(tokens), 1 / base)
        # Of the contexts of the next order, by the position of their first token; the first order has an empty context.
        ids = np.zeros(len(tokens), np.int64)
        for m, order in enumerate(self._orders, 1):
            context, last = ids[: len(tokens) - m + 1], tokens[m - 1 :]
            gram = np.where(context < 0, -1, order.find(context * base + last))
            total = np.where(context < 0, 0, order.total[context])
            seen = total > 0
            higher = np.where(gram < 0, 0, order.discounted[gram]) + order.left[context] * p[m - 1 :]
            p[m - 1 :] = np.where(seen, higher / np.where(seen, total, 1), p[m - 1 :])
            ids = gram
        return -np.log(p[1:])


def discounts(counts: np.ndarray) -> np.ndarray:
    """The discounts of counts of 0, 1, 2, and 3 or more (Chen and Goodman 1999); (4,) float64.

    Estimated from how many of the (G,) int64 counts are 1, 2, 3 and 4. `FALLBACK` where one of the first three never
    occurs or a discount is not between 0 and its count: on little data, and for unigrams, which all occur often.
    """
    n1, n2, n3, n4 = (float((counts == c).sum()) for c in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    d = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return d if (d[1:] > 0).all() else FALLBACK  # by their formulas they never exceed the count


def _units(sequence: UnitsLike, n_units: int) -> np.ndarray:
    units = Units.of(sequence).units
    if len(units) and units.max() >= n_units:
        raise ContractError(
            f"unit {units.max()} is outside the codebook of {n_units} units; use models of one set, or encode again"
        )
    return units
