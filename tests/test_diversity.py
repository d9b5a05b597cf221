"""Diversity of samples: against loops over lists, and cases counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from textless.metrics.diversity import auto_bleu, diversity, recurring, repeated_ngrams, self_bleu
from textless.types import Units


def grams(s: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(s[i : i + n]) for i in range(len(s) - n + 1)]


def naive_recurring(s: list[int], n: int) -> float:
    all_of_them = grams(s, n)
    elsewhere = [g in all_of_them[:i] + all_of_them[i + 1 :] for i, g in enumerate(all_of_them)]
    return sum(elsewhere) / len(elsewhere) if elsewhere else 0.0


def naive_self_bleu(sequences: list[list[int]], n: int) -> float:
    scores = []
    for i, s in enumerate(sequences):
        others, product = sequences[:i] + sequences[i + 1 :], 1.0
        for k in range(1, n + 1):
            mine = grams(s, k)
            clipped = sum(min(mine.count(g), max(grams(o, k).count(g) for o in others)) for g in set(mine))
            product *= clipped / len(mine) if mine else 0.0
        scores.append(product ** (1 / n))
    return sum(scores) / len(scores)


def random_sequences(n: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 4, rng.integers(0, 30)).tolist() for _ in range(n)]


@pytest.mark.parametrize("seed", range(4))
def test_against_loops(seed: int) -> None:
    sequences = random_sequences(6, seed)
    for n in (1, 2, 3, 4):
        assert self_bleu(sequences, n) == pytest.approx(naive_self_bleu(sequences, n), abs=1e-12)
        for s in sequences:
            assert recurring(s, n) == pytest.approx(naive_recurring(s, n), abs=1e-12)
            expected = math.prod(naive_recurring(s, k) for k in range(1, n + 1)) ** (1 / n)
            assert auto_bleu(s, n) == pytest.approx(expected, abs=1e-12)
            all_of_them = grams(s, n)
            largest = max((all_of_them.count(g) for g in all_of_them), default=0)
            share = sum(g in all_of_them[:i] for i, g in enumerate(all_of_them)) / max(1, len(all_of_them))
            assert repeated_ngrams(s, n) == (pytest.approx(share, abs=1e-12), largest)


def test_by_hand() -> None:
    s = [1, 2, 3, 1, 2, 4]  # 1 and 2 twice each, 3 and 4 once; of five bigrams 1 2 twice
    assert recurring(s, 1) == pytest.approx(4 / 6)
    assert recurring(s, 2) == pytest.approx(2 / 5)
    assert auto_bleu(s) == pytest.approx((4 / 6 * 2 / 5) ** 0.5)
    assert repeated_ngrams(s, 2) == (pytest.approx(1 / 5), 2)
    # 1 1 2 against 1 2 3: unigrams 1 (clipped to one), 2 of three; bigrams 1 2 of two. The other way: 2 of 3, 1 of 2.
    assert self_bleu([[1, 1, 2], [1, 2, 3]]) == pytest.approx((2 / 3 * 1 / 2) ** 0.5)


def test_ends_of_the_scale() -> None:
    assert auto_bleu([1, 2] * 10) == 1
    assert auto_bleu(list(range(20))) == 0
    assert self_bleu([list(range(20))] * 3, 4) == pytest.approx(1)
    assert self_bleu([[1, 2, 3], [4, 5, 6]]) == 0
    assert repeated_ngrams([1, 2] * 10) == (pytest.approx(11 / 13), 7)
    assert repeated_ngrams(list(range(20))) == (0.0, 1)
    for short in ([], [1], np.empty(0, np.int64)):
        assert auto_bleu(short) == 0
        assert repeated_ngrams(short) == (0.0, 0)
    assert self_bleu([[], [1]]) == 0
    with pytest.raises(ValueError, match="at least two"):
        self_bleu([[1, 2]])


def test_units_and_arrays_alike() -> None:
    s = [3, 3, 1, 3, 3]
    assert auto_bleu(Units(np.array(s), np.full(5, 4))) == auto_bleu(np.array(s)) == auto_bleu(s)


def test_summary() -> None:
    loop, plain = [1, 2, 3] * 8, list(range(30))
    other = list(range(30, 60))
    figures = diversity({"a": [loop, plain], "b": [plain, other], "c": [plain + plain]})
    assert (figures["prompts"], figures["samples"]) == (3, 5)
    assert figures["auto_bleu_2"] == pytest.approx((1 + 0 + 0 + 0 + auto_bleu(plain + plain)) / 5)
    assert figures["self_bleu_2"] == pytest.approx((self_bleu([loop, plain]) + 0) / 2)
    assert figures["vert_2"] == pytest.approx((figures["auto_bleu_2"] * figures["self_bleu_2"]) ** 0.5)
    assert figures["most_of_an_8gram"] == 6  # 17 8-grams of three kinds
    assert figures["repeated_8grams"] == pytest.approx((14 / 17 + 23 / 53) / 5)
    assert figures["without_loops"] == pytest.approx(4 / 5)  # twice is not yet a loop


def test_one_sample_a_prompt_has_no_self_bleu() -> None:
    figures = diversity({"a": [[1, 2]], "b": [[3, 4]], "c": []})
    assert figures["samples"] == 2
    assert "self_bleu_2" not in figures
    assert "vert_2" not in figures
    with pytest.raises(ValueError, match="no sample"):
        diversity({"a": []})
