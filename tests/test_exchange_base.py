"""Shared by the formats of unit files: numbers of a line, frames distinguished from runs, and errors that name file and
line."""

import json
import warnings

import numpy as np
import pytest

from textless import read_units
from textless.errors import ContractWarning, DumpError
from textless.exchange.base import Declared, Seen, distinct, numbers, numbers_of, placed, row_of, settled
from textless.text import joined
from textless.types import UnitContract

WRONG = ["1.5", "-1", "+1", "a", "1 x 2", "٣", "1e3", "0x1", "9" * 19, "1 " + "9" * 30, "1,2"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(DumpError, match="is not a unit"):
        numbers(text)


@pytest.mark.parametrize("text", ["12-45", "3 12-45 7"])
def test_a_group_of_codebooks_is_refused_by_name(text):
    with pytest.raises(DumpError, match="'12-45' is a group of several codebooks"):
        numbers(text)


@pytest.mark.parametrize("text", ["1,,2", "1,2,", ",1", "1, 2", ","])
def test_between_commas_stands_a_number(text):
    with pytest.raises(DumpError, match="is not a unit"):
        numbers(text, ",")


@pytest.mark.parametrize(("text", "separator"), [("", None), ("  ", None), ("", ",")])
def test_a_line_may_hold_no_number(text, separator):
    assert numbers(text, separator).dtype == np.int64
    assert not len(numbers(text, separator))


@pytest.mark.parametrize("separator", [None, ",", "_", "::"])
def test_numbers_of_a_line(separator):
    values = np.random.default_rng(0).integers(0, 10**17, 50)
    assert np.array_equal(numbers((separator or " ").join(map(str, values)), separator), values)


@pytest.mark.parametrize("largest", [1, 9, 10, 255, 256, 999, 65535, 65536, 10**12])
@pytest.mark.parametrize("separator", [" ", ",", ", "])
def test_joined_numbers_are_those_of_python(largest, separator):
    values = np.append(np.random.default_rng(0).integers(0, largest + 1, 30), largest)
    assert joined(values, separator) == separator.join(map(str, values.tolist()))
    assert joined(values[:0], separator) == ""


def rows(*sequences, runs=None, habit=None, path="x.km"):
    declared = Declared(runs=runs)
    made = placed(path, enumerate(sequences, 1), lambda n, s: row_of(str(n), np.array(s, np.int64), declared))
    return list(settled(path, made, declared, runs=habit))


def test_what_nothing_settles_is_said_once():
    with pytest.warns(ContractWarning, match=r"x\.km: .*--runs") as said:
        assert len(rows([1, 2], [3, 4])) == 2
    assert len(said) == 1


@pytest.mark.parametrize("options", [{"runs": False}, {"runs": True}, {"habit": True}, {"habit": False}])
def test_what_is_settled_is_not_said(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows([1, 2], [3, 4], **options)


def test_equal_neighbours_prove_frames():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows([1, 2], [3, 3])
        rows([1, 2], [3, 3], habit=True, runs=False)
    for options in ({"runs": True}, {"habit": True}):
        with pytest.raises(DumpError, match=r"x\.km, line 2: equal units .* --frames"):
            rows([1, 2], [3, 3], **options)


def test_an_id_that_comes_twice_names_both_lines():
    made = ((n, row_of("a", np.array([n]), Declared())) for n in (1, 2))
    with pytest.raises(DumpError, match=r"x, line 2: id 'a' comes twice, first in x, line 1"):
        list(distinct("x", made))


@pytest.mark.parametrize(
    ("header", "options", "rate"), [({}, {}, 50.0), ({}, {"runs": True}, None), ({"frame_rate": 25.0}, {}, 25.0)]
)
def test_a_declared_frame_rate_is_that_of_frames(tmp_path, header, options, rate):
    first = {"textless": "units", "version": 1, "contract": header}
    (tmp_path / "x.jsonl").write_text(f'{json.dumps(first)}\n{{"id": "a", "units": [1, 2]}}\n')
    declared = {} if header else {"frame_rate": 50.0}
    (row,) = read_units(tmp_path / "x.jsonl", **declared, **options)
    assert row.units.contract == UnitContract(frame_rate=rate)


def of_lines(texts, separator=" "):
    values, ends = numbers_of(texts, separator)
    assert values.dtype == np.int64
    assert len(ends) == len(texts)
    return [part.tolist() for part in np.split(values, ends[:-1])]


@pytest.mark.parametrize("separator", [" ", ",", "_"])
@pytest.mark.parametrize("largest", [9, 10, 99, 100, 999, 1000, 9999, 999_999])
def test_lines_parsed_together_are_those_parsed_alone(largest, separator):
    rng = np.random.default_rng(largest)
    texts = [separator.join(map(str, rng.integers(0, largest + 1, n))) for n in (5, 0, 1, 30, 0)] + [str(largest), ""]
    assert of_lines(texts, separator) == [[int(t) for t in text.split(separator) if t] for text in texts]


@pytest.mark.parametrize("texts", [["1 2", "3 x"], ["1234567"], ["1 -2"], ["1.5"], ["٣"], ["1\t2"], []])
def test_lines_that_are_looked_at_alone(texts):
    assert numbers_of(texts) is None


@pytest.mark.parametrize("text", ["1,,2", ",1", "1,", ",", "1 2"])
def test_commas_are_looked_at_alone(text):
    assert numbers_of(["1,2", text], ",") is None
    assert numbers_of([text, "1,2"], ",") is None


def test_zeros_in_front_and_spaces_are_read():
    assert of_lines(["007 01", "  5   6 ", " "]) == [[7, 1], [5, 6], []]


def test_ids_are_known_for_ever(monkeypatch):
    monkeypatch.setattr("textless.exchange.base.RECENT", 10)
    for again in (0, 5, 37, 99):
        seen = Seen()
        for n in range(0, 100, 4):
            assert seen.first("x", [f"r{k}" for k in range(n, n + 4)], list(range(n + 1, n + 5))) is None
        assert seen.first("y", ["new", f"r{again}"], [1, 2]) == (1, f"x, line {again + 1}")
    assert Seen().first("x", ["a", "b", "a"], [1, 2, 4]) == (2, "x, line 1")
