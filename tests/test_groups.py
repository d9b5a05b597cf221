"""Metrics by group: of units and of likelihoods, against those of each group alone."""

import json

import numpy as np
import pytest
from test_quality import row

from textless.errors import CorpusError
from textless.lm.ngram import KneserNey
from textless.metrics.bitrate import cost_intervals, unit_cost
from textless.metrics.groups import by_group, group_table, quality_by_group, read_groups, score_by_group
from textless.metrics.items import items_of
from textless.metrics.lm import GROUP_METRICS, controls, likelihoods, pair_accuracy
from textless.metrics.table import UNITS
from textless.metrics.units import measure_units


def speech():
    """Eight rows of two speakers; b's units say less of the phones."""
    rng, rows, alignments = np.random.default_rng(0), [], {}
    for k in range(8):
        speaker = "ab"[k % 2]
        phones = np.repeat(rng.integers(0, 3, 20), 5)
        units = np.where(rng.random(100) < (0.1 if speaker == "a" else 0.6), rng.integers(0, 8, 100), phones)
        rows.append(row(f"f{k}", units.tolist(), speaker=speaker))
        alignments[f"f{k}"] = [(t / 50, (t + 1) / 50, f"p{phone}") for t, phone in enumerate(phones)]
    return rows, alignments


def test_a_group_is_measured_as_if_it_were_alone():
    rows, alignments = speech()
    result = quality_by_group(rows, "speaker", alignments=alignments, seed=2)
    for name in "ab":
        own = [r for r in rows if r.speaker == name]
        with pytest.warns(UserWarning, match="no ABX"):
            alone = measure_units(own, alignments=alignments, seed=2)
        values = result["groups"][name]
        assert {k: values[k] for k in alone} == alone
        assert values["rows"] == 4
        assert values["bitrate_low"] <= values["bitrate"] <= values["bitrate_high"]
    gap = result["gaps"]["pnmi"]
    assert (gap["highest"], gap["lowest"]) == ("a", "b")
    assert gap["gap"] == result["groups"]["a"]["pnmi"] - result["groups"]["b"]["pnmi"] > 0.2
    assert not {"pnmi_low", "pnmi_chance", "rows", "seconds"} & result["gaps"].keys()
    lines = group_table(result, UNITS, "speaker").splitlines()
    assert lines[0] == "by speaker: 2 groups"
    at = lines.index("PNMI")
    assert lines[at + 1].split()[0] == "a"
    assert lines[at + 3].split()[:3] == ["largest", "gap", f"{gap['gap']:.3f}"]


def test_a_group_without_items_has_no_abx_of_something_else():
    rows, alignments = speech()
    items = items_of({i: a for i, a in alignments.items() if int(i[1:]) % 2 == 0}, {r.id: r.speaker for r in rows})
    result = quality_by_group(rows, "speaker", alignments=alignments, items=items)
    assert "abx_within" in result["groups"]["a"]
    assert "pnmi" in result["groups"]["b"]
    assert not any(name.startswith("abx_") for name in result["groups"]["b"])


def test_intervals_of_costs_are_the_bootstrap_written_out():
    sequences = [r.units for r in speech()[0]]
    rng = np.random.default_rng(7)
    drawn = [unit_cost([sequences[i] for i in rng.integers(8, size=8)], n_units=8) for _ in range(200)]
    whole, intervals = unit_cost(sequences, n_units=8), cost_intervals(sequences, n_units=8, seed=7)
    for name in ("perplexity", "segment_ms", "bitrate", "units_per_second"):
        values = np.array([d[name] for d in drawn])
        expected = np.percentile(values, [2.5, 97.5]) - values.mean() + whole[name]
        assert [intervals[f"{name}_low"], intervals[f"{name}_high"]] == pytest.approx(expected, rel=1e-9)
    assert not {"seconds_low", "active_units_low"} & intervals.keys()


def test_scores_of_a_group(tmp_path):
    rows, _ = speech()
    lm = KneserNey.fit([r.units for r in rows], 8, order=2)
    (tmp_path / "pairs.tsv").write_text("good\tbad\nf0\tf1\nf2\tf3\nf1\tf0\n")
    result = score_by_group(lm, rows, "speaker", pairs=str(tmp_path / "pairs.tsv"), with_controls=True)
    for name, pairs in (("a", [(0, 1), (2, 3)]), ("b", [(1, 0)])):
        own = [r for r in rows if r.speaker == name]
        values = result["groups"][name]
        assert values["nll_per_unit"] == likelihoods(lm, own)["nll_per_unit"]
        assert values["reversed"] == controls(lm, own)["reversed"]["accuracy"]
        gold = [(rows[good].units, rows[bad].units) for good, bad in pairs]
        assert values["pairs"] == pair_accuracy(lm, gold)["accuracy"]
    assert set(result["gaps"]) <= set(GROUP_METRICS)


def test_groups_of_a_file_and_of_a_column(tmp_path):
    rows, _ = speech()
    (tmp_path / "g.tsv").write_text("f0\tx\nf1\ty\n")
    with pytest.warns(UserWarning, match=r"6 of 8 rows have no group by .*g\.tsv"):
        groups = read_groups(str(tmp_path / "g.tsv"), rows)
    assert groups == {"f0": "x", "f1": "y"}
    result = by_group(rows, groups, lambda own: {"first": float(own[0].units.units[0])})
    assert {name: values["rows"] for name, values in result["groups"].items()} == {"x": 1, "y": 1}
    with pytest.raises(CorpusError, match="no row has the column 'sex'; known: speaker"):
        read_groups("sex", rows)
    (tmp_path / "g.tsv").write_text("other\tx\n")
    with pytest.raises(CorpusError, match="has none of these rows, such as 'f0'"):
        read_groups(str(tmp_path / "g.tsv"), rows)


def test_the_commands(textless_command, tmp_path, speech, model_set):
    assert textless_command("encode", speech, "-o", tmp_path / "u.jsonl")[0] == 0
    (tmp_path / "g.tsv").write_text("a\tx\nb\ty\nc\tx\n")
    by = ("--by", tmp_path / "g.tsv")
    code, out, err = textless_command("quality", tmp_path / "u.jsonl", *by, "--json", tmp_path / "q.json", model=None)
    assert (code, err) == (0, "")
    assert f"by {tmp_path / 'g.tsv'}: 2 groups" in out
    written = json.loads((tmp_path / "q.json").read_text())
    assert written["groups"]["x"]["files"] == 2
    assert written["gaps"]["bitrate"]["gap"] >= 0
    plain = textless_command("quality", tmp_path / "u.jsonl", model=None)[1]
    assert out.startswith(plain.rstrip("\n") + "\n\n")
    code, out, _ = textless_command("score", tmp_path / "u.jsonl", *by)
    assert code == 0
    assert "NLL per unit, nats" in out
    code, _, err = textless_command("quality", speech, *by, "--model", model_set, model=None)
    assert (code, err) == (2, "error: --by groups rows of units; encode the audio first, and give the units\n")
