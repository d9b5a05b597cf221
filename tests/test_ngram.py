"""Kneser-Ney n-grams: against dictionaries and the formulas as they are written, and what probabilities must do."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from textless.errors import ContractError, TrainingError
from textless.lm.ngram import FALLBACK, KneserNey, discounts
from textless.types import UnitContract, Units


class Naive:
    """Modified Kneser-Ney, one n-gram at a time."""

    def __init__(self, sequences: list[list[int]], n_units: int, order: int) -> None:
        self.n_units, self.order = n_units, order
        raw, before = Counter(), defaultdict(set)
        for s in sequences:
            tokens = [n_units, *s, n_units]
            for m in range(1, order + 1):
                for i in range(len(tokens) - m + 1):
                    if m == 1 and i == 0:
                        continue
                    gram = tuple(tokens[i : i + m])
                    raw[gram] += 1
                    if i > 0:
                        before[gram].add(tokens[i - 1])
        self.counts = {}
        for gram, times in raw.items():
            beginning = gram[0] == n_units and len(gram) > 1
            self.counts[gram] = times if len(gram) == order or beginning else len(before[gram])
        self.discounts = {}
        for m in range(1, order + 1):
            n = Counter(c for g, c in self.counts.items() if len(g) == m)
            self.discounts[m] = [0, 0.5, 1, 1.5]
            if n[1] and n[2] and n[3]:
                y = n[1] / (n[1] + 2 * n[2])
                d = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
                if min(d) > 0:
                    self.discounts[m] = [0, *d]

    def p(self, context: tuple[int, ...], w: int) -> float:
        m = len(context) + 1
        lower = self.p(context[1:], w) if context else 1 / (self.n_units + 1)
        after = {x: self.counts[(*context, x)] for x in range(self.n_units + 1) if (*context, x) in self.counts}
        total = sum(after.values())
        if not total:
            return lower
        take = {x: self.discounts[m][min(c, 3)] for x, c in after.items()}
        return (after.get(w, 0) - take.get(w, 0) + sum(take.values()) * lower) / total

    def nll(self, units: list[int]) -> list[float]:
        tokens = [self.n_units, *units, self.n_units]
        return [
            -math.log(self.p(tuple(tokens[max(0, i - self.order + 1) : i]), tokens[i])) for i in range(1, len(tokens))
        ]


def markov(n_sequences: int, n_units: int = 12, length: int = 40, seed: int = 0) -> list[np.ndarray]:
    """Each unit is mostly one of three that depend on the two before it."""
    rng = np.random.default_rng(seed)
    follows = np.random.default_rng(99).integers(0, n_units, (n_units, n_units, 3))
    out = []
    for _ in range(n_sequences):
        s = [0, 1]
        for _ in range(int(rng.integers(0, length))):
            s.append(int(rng.choice(follows[s[-2], s[-1]])) if rng.random() < 0.9 else int(rng.integers(n_units)))
        out.append(np.array(s[2:], np.int64))
    return out


def probabilities(lm: KneserNey, context: list[int]) -> np.ndarray:
    """Of every unit after `context`, and of the end."""
    return np.exp([-lm.nll([*context, w])[len(context)] for w in range(lm.n_units)] + [-lm.nll(context)[-1]])


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("n_sequences", [1, 3, 120])
def test_equals_the_naive_dictionaries(order: int, n_sequences: int) -> None:
    train = [s.tolist() for s in markov(n_sequences, seed=order)] + [[], [3], [3, 3, 3, 3]]
    lm, naive = KneserNey.fit(train, 12, order), Naive(train, 12, order)
    for s in [*markov(8, seed=7), *train[:3], [], [11], [11, 11, 11]]:
        units = np.asarray(s, np.int64)
        nll = lm.nll(units)
        assert nll.shape == (len(units) + 1,)
        assert nll.dtype == np.float64
        np.testing.assert_allclose(nll, naive.nll(units.tolist()), rtol=0, atol=1e-10)


def test_both_ways_to_discounts_are_compared() -> None:
    naive = Naive([s.tolist() for s in markov(120, seed=3)], 12, 3)
    assert naive.discounts[1] == [0, 0.5, 1, 1.5]
    assert naive.discounts[3][1:] != [0.5, 1, 1.5]


def test_discounts() -> None:
    assert FALLBACK.tolist() == [0, 0.5, 1, 1.5]
    counts = np.repeat([1, 2, 3, 4, 9], [10, 5, 3, 2, 7])  # y = 10 / 20
    np.testing.assert_allclose(discounts(counts), [0, 0.5, 2 - 3 * 0.5 * 3 / 5, 3 - 4 * 0.5 * 2 / 3])
    for degenerate in (
        [],
        [5, 6],
        [1, 1, 1],
        [1, 2, 2],
        [1, 2, 3, 3, 3, 3],
    ):  # nothing, none of 1, 2 or 3, and one below zero
        assert np.array_equal(discounts(np.array(degenerate, np.int64)), FALLBACK)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_sum_to_one(order: int) -> None:
    train = [s % 11 for s in markov(60)]  # unit 11 is never seen
    lm = KneserNey.fit(train, 12, order)
    for context in ([], [0], [11], [11, 11, 11, 11, 11], train[1].tolist(), [*train[2].tolist(), 11], [5, 5, 11, 5]):
        p = probabilities(lm, context)
        assert abs(p.sum() - 1) < 1e-12
        assert p.min() > 0


def test_higher_orders_know_more_and_all_beat_the_unigram() -> None:
    train, dev = markov(1500), markov(100, seed=1)

    def mean(order: int) -> float:
        lm = KneserNey.fit(train, 12, order)
        return float(np.mean(np.concatenate([lm.nll(s) for s in dev])))

    unigram, bigram, trigram, fivegram = (mean(n) for n in (1, 2, 3, 5))
    assert unigram < math.log(13)
    assert bigram < unigram - 0.02
    assert trigram < bigram - 0.3
    assert trigram < fivegram < trigram + 0.15  # what follows depends on two units, and more context hardly hurts


def test_order_one_is_the_smoothed_frequencies() -> None:
    lm = KneserNey.fit(
        [[0, 0, 0, 1], [0, 0, 0, 0]], 3, 1
    )  # 7 of unit 0, one of unit 1, two ends: no count of 3, so the fallback
    taken = 0.5 + 1.0 + 1.5
    p = [(7 - 1.5 + taken / 4) / 10, (1 - 0.5 + taken / 4) / 10, taken / 4 / 10, (2 - 1.0 + taken / 4) / 10]
    np.testing.assert_allclose(probabilities(lm, []), p)
    np.testing.assert_allclose(probabilities(lm, [2, 1]), p)


def test_empty_sequences() -> None:
    lm = KneserNey.fit([[], []], 4, 5)
    assert lm.order == 2  # nothing is longer
    assert lm.nll([]).shape == (1,)
    assert lm.nll([])[0] < lm.nll([2])[0]
    assert np.isfinite(lm.nll([1, 2, 3, 3, 3, 3])).all()
    mixed = KneserNey.fit([[1, 2, 3], [], [1, 2]], 4, 3)
    assert mixed.nll(np.empty(0, np.int64)).shape == (1,)


def test_units_are_taken_as_they_stand_and_nothing_is_drawn() -> None:
    arrays = markov(30)
    contract = UnitContract(n_units=12)
    one, two = KneserNey.fit(arrays, 12), KneserNey.fit([Units(a, None, contract) for a in arrays], 12)
    three = KneserNey.fit([Units(a, np.full(len(a), 3), contract) for a in reversed(arrays)], 12)
    runs = np.array([4, 4, 4, 1])
    assert one.order == 5
    assert np.array_equal(one.nll(runs), two.nll(Units(runs, None, contract)))
    assert np.array_equal(one.nll(runs), three.nll(runs.tolist()))
    assert len(one.nll(Units(runs, np.array([2, 1, 1, 1]), contract))) == 5


def test_what_cannot_be_counted() -> None:
    with pytest.raises(TrainingError, match="no units"):
        KneserNey.fit([], 4)
    with pytest.raises(ValueError, match="order"):
        KneserNey.fit([[1]], 4, 0)
    for call in (lambda s: KneserNey.fit([s], 4), KneserNey.fit([[1]], 4).nll):
        with pytest.raises(ContractError, match="unit 4 is outside"):
            call([1, 4])
        with pytest.raises(ContractError, match="-1"):
            call([-1])
