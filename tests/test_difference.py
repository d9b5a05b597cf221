"""Differences in pairs: between two kinds of units, and between two systems that speak."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score
from test_quality import corpus, row
from test_speech_quality import system

from textless.engine.job import Job
from textless.errors import CorpusError
from textless.metrics.alignments import frame_phones
from textless.metrics.difference import differences, paired_difference, unit_difference
from textless.metrics.units import measure_units
from textless.steps import Difference
from textless.steps.sources import Alignments
from textless.units.dump import finish_dump, write_shard


def speech(files: int = 12):
    """`corpus` with more files, with the phones of each file in an order of its own."""
    rng = np.random.default_rng(0)
    rows, alignments = [], {}
    for k in range(files):
        phones = [phone for middle in rng.permutation(list("aabbcc")) for phone in ("p", str(middle), "q")]
        alignments[f"f{k:02}"] = [(i / 10, (i + 1) / 10, phone) for i, phone in enumerate(phones)]
        rows.append(row(f"f{k:02}", np.repeat(["pqabc".index(phone) for phone in phones], 5), "st"[k % 2]))
    return rows, alignments


def worse(rows, share: float, seed: int = 1):
    """Some frames have another unit."""
    rng = np.random.default_rng(seed)
    out = []
    for r in rows:
        frames = r.units.frames().copy()
        wrong = rng.random(len(frames)) < share
        frames[wrong] = rng.integers(0, 8, wrong.sum())
        out.append(row(r.id, frames, r.speaker))
    return out


def test_differences_are_those_of_the_figures():
    rows, alignments = speech()
    a, b = worse(rows, 0.2), worse(rows, 0.6)
    found, ours, theirs = (
        unit_difference(a, b[::-1], alignments),
        *(measure_units(x, alignments=alignments) for x in (a, b)),
    )
    for name in ("pnmi", "abx_within", "abx_across"):
        assert found[name] == pytest.approx(ours[name] - theirs[name])
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert found["pnmi_low"] > 0 > found["abx_across_high"]
    swapped = unit_difference(b, a, alignments)
    for name in ("pnmi", "abx_within"):
        assert swapped[f"{name}_low"] == pytest.approx(-found[f"{name}_high"])
    assert set(unit_difference(a, a, alignments).values()) == {0.0}


def test_the_interval_is_the_bootstrap_written_out():
    """PNMI of both over the same two hundred draws of files, from the 2.5th to the 97.5th percentile, less the bias."""
    rows, alignments = speech()
    a, b = worse(rows, 0.2), worse(rows, 0.6)
    found = unit_difference(a, b, alignments, seed=4)

    def labelled(row):
        frames = row.units.frames()
        phones = frame_phones(alignments[row.id], len(frames), frame_rate=50)
        return np.array([(u, "pqabc".index(p)) for u, p in zip(frames, phones, strict=True) if p]).T

    def pnmi(files, chosen):
        units, phones = np.concatenate([files[k] for k in chosen], axis=1)
        shares = np.bincount(phones) / len(phones)
        return mutual_info_score(phones, units) / -(shares * np.log(shares)).sum()

    ours, theirs = ([labelled(row) for row in system] for system in (a, b))
    rng = np.random.default_rng(4)
    drawn = [pnmi(ours, chosen) - pnmi(theirs, chosen) for chosen in (rng.integers(12, size=12) for _ in range(200))]
    low, high = np.percentile(drawn, [2.5, 97.5]) - np.mean(drawn) + found["pnmi"]
    assert found["pnmi_low"] == pytest.approx(low)
    assert found["pnmi_high"] == pytest.approx(high)


def test_pairs_see_what_intervals_hide():
    rows, alignments = speech(40)
    a = worse(rows, 0.3)
    b = [row(r.id, np.where(np.arange(len(r.units.frames())) % 25, r.units.frames(), 7), r.speaker) for r in a]
    found, ours, theirs = unit_difference(a, b, alignments), *(measure_units(x, alignments=alignments) for x in (a, b))
    assert ours["pnmi_low"] < theirs["pnmi_high"]
    assert found["pnmi_low"] > 0


def test_units_of_other_files_are_not_compared():
    rows, alignments = speech()
    with pytest.raises(CorpusError, match="1 files have units in one of the two only, such as f11"):
        unit_difference(rows, rows[:-1], alignments)
    with pytest.raises(CorpusError, match="no file has an alignment"):
        unit_difference(rows, rows, {})


def test_where_there_is_no_abx_pnmi_is_compared():
    rows, alignments = corpus()
    assert set(unit_difference(rows[:3], worse(rows[:3], 0.5), alignments)) == {
        f"{name}{end}" for name in ("pnmi", "abx_within") for end in ("", "_low", "_high")
    }


def test_all_measures_of_two_systems():
    a, b = system(20, 1, shift=0.2), system(20, 2)
    found = differences(a, [{**s, "stoi": 0.5} for s in b])
    assert (found["mcd"], found["mcd_low"], found["mcd_high"]) == paired_difference(a, b, "mcd")
    assert {"mcd", "wer", "wer_low", "wer_high"} <= set(found)
    assert not {"stoi", "wer_original"} & set(found)  # one has no such measure; the originals are the same
    with pytest.raises(CorpusError, match="no measure of sentences in both"):
        differences([], [])


def test_as_a_step(tmp_path):
    rows, alignments = speech()
    inputs = {name: tmp_path / name for name in "ab"}
    for folder, share in zip(inputs.values(), (0.2, 0.6), strict=True):
        (folder / "data").mkdir(parents=True)
        write_shard(folder / "data" / "00000.parquet", worse(rows, share), contract=rows[0].units.contract)
        finish_dump(folder, contract=rows[0].units.contract)
    table = tmp_path / "phones.tsv"
    lines = [f"{i}\t{start}\t{end}\t{phone}" for i, those in alignments.items() for start, end, phone in those]
    table.write_text("\n".join(["id\tstart\tend\tphone", *lines]) + "\n")

    def run(name: str, **fields) -> dict[str, float]:
        job = Job(tmp_path / name, inputs, lambda *a: None)
        Difference(a=None, b=None, **fields).run(job)  # inputs are the job's
        assert json.loads((job.path / "difference.json").read_text()) == job.metrics
        return job.metrics

    assert run("units", alignments=Alignments(file=table)) == unit_difference(
        worse(rows, 0.2),
        worse(rows, 0.6),
        {i: [(float(s), float(e), p) for s, e, p in a] for i, a in alignments.items()},
    )
    (tmp_path / "none.tsv").write_text("id\tstart\tend\tphone\n")
    with pytest.raises(CorpusError, match="no file has an alignment"):
        run("nothing", alignments=Alignments(file=str(tmp_path / "none.tsv")))
    for folder, sentences in zip(inputs.values(), (system(9, 1), system(9, 2)), strict=True):
        (folder / "data" / "00000.jsonl").write_text("".join(json.dumps(s) + "\n" for s in sentences[:4]))
        (folder / "data" / "00001.jsonl").write_text("".join(json.dumps(s) + "\n" for s in sentences[4:]))
    assert run("speech") == differences(system(9, 1), system(9, 2))
