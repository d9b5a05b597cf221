"""Scores, pairs and controls: against loops, with language models whose answers are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from textless.errors import CorpusError
from textless.lm.ngram import KneserNey
from textless.metrics.lm import by_speaker, controls, likelihoods, pair_accuracy, read_pairs, score, shuffled, spliced
from textless.types import UnitContract, Units
from textless.units.dump import UnitRow

CONTRACT = UnitContract(frame_rate=50.0, n_units=30)


class Weights:
    """Each unit costs itself, `</s>` a half."""

    def nll(self, units: Units) -> np.ndarray:
        return np.append(units.units.astype(np.float64), 0.5)


class Batched:
    def __init__(self) -> None:
        self.asked: list[int] = []

    def nll_batch(self, sequences: list[Units]) -> list[np.ndarray]:
        self.asked.append(len(sequences))
        return [Weights().nll(s) for s in sequences]


def units(*values: int, durations: bool = True) -> Units:
    return Units(np.array(values, np.int64), np.full(len(values), 2) if durations else None, CONTRACT)


def cycle_rows(n: int, seed: int = 0, name: str = "r") -> list[UnitRow]:
    """0 1 2 … in a circle of 30 from a random place, for 3 to 6 seconds at two frames a unit: its direction is all
    there is to know.
    """
    rng = np.random.default_rng(seed)
    return [
        UnitRow(f"{name}{i}", units(*((rng.integers(30) + np.arange(rng.integers(75, 150))) % 30))) for i in range(n)
    ]


# --- scores -----------------------------------------------------------------------------------------------------------


def test_score() -> None:
    rows = [
        UnitRow("a", units(3, 4)),
        UnitRow("b", units()),
        UnitRow("c", Units(np.array([5, 5]), None, UnitContract())),
    ]
    a, b, c = score(Weights(), rows)
    assert a == {
        "id": "a",
        "nll": 7.5,
        "units": 2,
        "nll_per_unit": 2.5,
        "bits_per_second": pytest.approx(7.5 / math.log(2) / 0.08),
    }
    assert b == {"id": "b", "nll": 0.5, "units": 0, "nll_per_unit": 0.5}
    assert c == {"id": "c", "nll": 10.5, "units": 2, "nll_per_unit": 3.5}  # literally: the same unit twice


def test_many_are_asked_together_where_the_model_can() -> None:
    rows, lm = [UnitRow(str(i), units(i % 30)) for i in range(600)], Batched()
    assert list(score(lm, iter(rows))) == list(score(Weights(), rows))
    assert sum(lm.asked) == 600
    assert len(lm.asked) < 6
    pairs = [(units(1), units(2))] * 50
    assert pair_accuracy(lm, pairs, normalise=False) == pair_accuracy(Weights(), pairs, normalise=False)
    assert lm.asked[-1] == 100


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_pairs_by_sum_and_by_unit() -> None:
    pairs = [(units(1, 2), units(1, 3)), (units(5), units(4)), (units(7), units(7))]
    for normalise in (False, True):
        assert pair_accuracy(Weights(), pairs, normalise=normalise)["accuracy"] == pytest.approx(1.5 / 3)
    longer = [(units(2, 3, 2, 3), units(6))]  # more in all, less a unit
    assert pair_accuracy(Weights(), longer, normalise=False)["accuracy"] == 0
    assert pair_accuracy(Weights(), longer, normalise=True) == {"accuracy": 1, "low": 1, "high": 1, "n": 1}


def test_interval_is_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    outcomes = rng.choice([0.0, 0.5, 1.0], 80, p=[0.2, 0.1, 0.7])
    pairs = [(units(5), units({0.0: 4, 0.5: 5, 1.0: 6}[x])) for x in outcomes]
    found = pair_accuracy(Weights(), pairs, normalise=False)
    drawn = outcomes[rng.integers(0, 80, (10_000, 80))].mean(1)
    assert found["accuracy"] == pytest.approx(outcomes.mean())
    assert found["n"] == 80
    assert (
        np.abs(np.percentile(drawn, [2.5, 97.5]) - [found["low"], found["high"]]).max() <= 0.0126
    )  # two steps of half a pair
    assert found == pair_accuracy(Weights(), pairs, normalise=False)
    with pytest.raises(CorpusError, match="no pair"):
        pair_accuracy(Weights(), [], normalise=False)


DUMP = {"w1": units(1), "w2": units(2), "w3": units(3)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gold.tsv", "voice\tgood\tbad\nx\tw1\tw2\ny\tw3\tw1\n"),
        ("gold.csv", '\ufeffbad,good\n"w2",w1\n\nw1,w3\n'),
        ("gold.jsonl", '{"good": "w1", "bad": "w2"}\n\n{"good": "w3", "bad": "w1", "voice": 1}\n'),
    ],
)
def test_lists_of_pairs(tmp_path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_pairs(tmp_path / name, DUMP) == [(DUMP["w1"], DUMP["w2"]), (DUMP["w3"], DUMP["w1"])]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gold.tsv", "good\tworse\nw1\tw2\n", r"gold\.tsv:1: column bad is missing"),
        ("gold.csv", "", r"gold\.csv:1: column good and bad is missing"),
        ("gold.csv", "good,bad\n", "has no pair"),
        ("gold.tsv", "good\tbad\nw1\tw2\nw1\tw9\n", r"gold\.tsv:3: there are no units of bad 'w9'"),
        ("gold.tsv", "good\tbad\nw1\n", r"gold\.tsv:2: bad is missing"),
        ("gold.csv", "good,bad\n\n\n,w1\n", r"gold\.csv:4: good is missing"),
        ("gold.jsonl", '{"good": "w1", "bad": "w2"}\n{"good": "w1"}\n', r"gold\.jsonl:2: bad is missing"),
        ("gold.jsonl", '{"good": "w1", "bad": 2}\n', r"gold\.jsonl:1: bad is missing"),
        ("gold.jsonl", '\n["w1"]\n', r"gold\.jsonl:2: expected an object"),
        ("gold.jsonl", "good\n", r"gold\.jsonl:1: not JSON"),
        ("gold.txt", "w1 w2\n", r"gold\.txt: a list of pairs is a \.tsv"),
    ],
)
def test_lists_that_are_wrong_say_where(tmp_path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match=message):
        read_pairs(tmp_path / name, DUMP)


def test_a_list_that_is_not_there(tmp_path) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        read_pairs(tmp_path / "gold.tsv", DUMP)


# --- controls ---------------------------------------------------------------------------------------------------------


def test_a_model_of_the_data_prefers_the_real_ones() -> None:
    lm = KneserNey.fit([r.units for r in cycle_rows(60, seed=1)], 30, 3)
    found = controls(lm, cycle_rows(20))
    assert list(found) == ["reversed", "shuffled", "spliced"]
    for name, figures in found.items():
        assert figures["n"] + figures["left_out"] == 20
        assert figures["left_out"] <= 2  # a splice may meet its place in the circle
        assert figures["accuracy"] > 0.95, name
        assert figures["low"] <= figures["accuracy"] <= figures["high"]
    uniform = KneserNey.fit([[]], 30, 1)
    assert controls(uniform, cycle_rows(20))["reversed"]["accuracy"] == 0.5  # the same units: a tie


class Remember(Weights):
    def __init__(self) -> None:
        self.seen: list[Units] = []

    def nll(self, sequence: Units) -> np.ndarray:
        self.seen.append(sequence)
        return super().nll(sequence)


def test_what_the_controls_are() -> None:
    rows, lm = cycle_rows(9), Remember()
    assert all(c["left_out"] == 0 for c in controls(lm, rows).values())
    by_id = {r.id: r.units for r in rows}
    real, back, mixed, joined = (dict(zip(sorted(by_id), lm.seen[k : k + 9], strict=True)) for k in (0, 9, 18, 27))
    assert real == by_id
    lengths = sorted(u.n_frames for u in by_id.values())
    for i, u in by_id.items():
        assert back[i].units.tolist() == u.units[::-1].tolist()
        assert back[i].n_frames == mixed[i].n_frames == u.n_frames
        assert sorted(mixed[i].frames().tolist()) == sorted(u.frames().tolist())
        # The circle goes on at all but the seams, of which there are about two in a second.
        seams = int(((np.diff(mixed[i].units) % 30) != 1).sum())
        assert 1 <= seams <= round(u.seconds / 0.5) - 1
        half = u.n_frames // 2
        assert joined[i].frames()[:half].tolist() == u.frames()[:half].tolist()
        assert joined[i].n_frames == u.n_frames or u.n_frames == lengths[-1]
        rest = joined[i].frames()[half:].tolist()
        assert any(o.frames()[-len(rest) :].tolist() == rest for j, o in by_id.items() if j != i)
        for made in (back[i], mixed[i], joined[i]):
            assert (made.units[1:] != made.units[:-1]).all()
            assert made.contract == u.contract


def test_controls_do_not_depend_on_the_order_of_rows() -> None:
    rows = cycle_rows(12)
    one, two, three = Remember(), Remember(), Remember()
    assert controls(one, rows, seed=3) == controls(two, rows[::-1], seed=3)
    assert one.seen == two.seen
    controls(three, rows, seed=4)
    assert three.seen[12:24] == one.seen[12:24]  # reversed
    assert three.seen[24:36] != one.seen[24:36]  # shuffled
    few = Remember()
    controls(few, rows[:5], seed=3)
    shuffles = {tuple(s.units) for s in one.seen[24:36]}
    assert all(tuple(s.units) in shuffles for s in few.seen[10:15])  # the others do not matter


def test_what_cannot_be_changed_is_left_out_and_counted() -> None:
    rows = [
        UnitRow("empty", units()),
        UnitRow("one", units(4)),
        UnitRow("palindrome", units(1, 2, 1)),
        UnitRow("two", units(1, 2)),
    ]
    found = controls(Weights(), rows)
    assert (found["reversed"]["n"], found["reversed"]["left_out"]) == (1, 3)
    assert found["shuffled"] == {"n": 0, "left_out": 4}  # none has two segments
    assert controls(Weights(), [UnitRow("alone", cycle_rows(1)[0].units)])["spliced"] == {"n": 0, "left_out": 1}
    assert controls(Weights(), []) == {name: {"n": 0, "left_out": 0} for name in ("reversed", "shuffled", "spliced")}
    with pytest.raises(CorpusError, match="two rows are called 'a'"):
        controls(Weights(), [UnitRow("a", units(1)), UnitRow("a", units(2))])


def test_shuffling_is_never_the_identity() -> None:
    second = units(*range(25))  # one second: two segments
    for seed in range(50):
        assert shuffled(second, np.random.default_rng(seed)).units.tolist() == [*range(13, 25), *range(13)]
    same = Units(np.full(100, 3), None, CONTRACT)
    assert shuffled(same, np.random.default_rng(0)) == same
    unknown = Units(np.arange(24) % 30, np.full(24, 2), UnitContract())
    assert shuffled(unknown, np.random.default_rng(0)).units.tolist() == [*range(12, 24), *range(12)]


def test_seams_are_joined_where_there_are_durations_and_only_there() -> None:
    a, b = units(1, 2, 3, 4), units(9, 8, 2, 5)
    assert spliced(a, b) == Units(np.array([1, 2, 5]), np.array([2, 4, 2]), CONTRACT)
    literal = [Units(x.frames(), None, CONTRACT) for x in (a, b)]
    assert spliced(*literal).units.tolist() == [1, 1, 2, 2, 2, 2, 5, 5]
    assert spliced(*literal).durations is None
    assert spliced(a, units(7)).frames().tolist() == [1, 1, 2, 2, 7, 7]  # all there is


def test_figures_are_json() -> None:
    lm = KneserNey.fit([[1, 2, 3]], 30)
    json.dumps([controls(lm, cycle_rows(3)), list(score(lm, cycle_rows(2)))], allow_nan=False)


# -------------------------------------------------------------------------------------------------------- likelihoods


def test_likelihoods_beside_n_grams():
    rows, train = cycle_rows(12, seed=1), [row.units for row in cycle_rows(40, seed=2)]
    figures = likelihoods(Weights(), rows, train, seed=3)
    tokens, seconds = sum(len(r.units) + 1 for r in rows), sum(r.units.n_frames for r in rows) / 50
    for name, model in (
        ("", Weights()),
        ("unigram_", KneserNey.fit(train, 30, order=1)),
        ("fivegram_", KneserNey.fit(train, 30, order=5)),
    ):
        total = sum(model.nll(r.units).sum() for r in rows)
        assert figures[f"{name}nll_per_unit"] == pytest.approx(total / tokens)
        assert figures[f"{name}bits_per_second"] == pytest.approx(total / math.log(2) / seconds)
        for measure in ("nll_per_unit", "bits_per_second"):
            value, low, high = (figures[f"{name}{measure}{end}"] for end in ("", "_low", "_high"))
            assert low <= value <= high
            assert high - low < value
    assert figures["fivegram_bits_per_second_high"] < figures["unigram_bits_per_second_low"]
    assert likelihoods(Weights(), rows[::-1], train, seed=3) == figures
    assert not any("gram" in name for name in likelihoods(Weights(), rows, seed=3))
    with pytest.raises(CorpusError, match="no units"):
        likelihoods(Weights(), [])


def test_each_speaker_apart():
    from dataclasses import replace

    rows = [
        replace(row, speaker=name) for row, name in zip(cycle_rows(6), ["b", "a", "b", None, "a", "a"], strict=True)
    ]
    found = by_speaker(Weights(), rows)
    assert list(found) == ["a", "b"]
    for name, figures in found.items():
        mine = [row for row in rows if row.speaker == name]
        assert figures == pytest.approx(
            {"rows": len(mine), **{k: likelihoods(Weights(), mine)[k] for k in ("nll_per_unit", "bits_per_second")}}
        )
    assert by_speaker(Weights(), cycle_rows(2)) == {}
