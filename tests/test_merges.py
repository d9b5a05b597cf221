"""Merged units: against a naive merge, and back again; the step, models over them, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from conftest import ROOT
from textless import UnitContract, Units, open_dump
from textless.engine.step import Source
from textless.engine.store import Store
from textless.errors import ContractError, DumpError, ModelError, StepTypeError, TrainingError
from textless.lm import KneserNey, LMConfig, UnitLM, load_lm
from textless.lm.generate import Continuation, Sampling
from textless.lm.hf.llama import export_llama
from textless.metrics.lm import controls, likelihoods, score
from textless.model import continue_rows
from textless.steps import STEPS
from textless.units.dump import UnitRow, finish_dump, write_shard, write_stream
from textless.units.merges import COLUMN, FILE, LONGEST, MergeTable, base_rows, fit_merges

K = 6
CONTRACT = UnitContract(encoder="e" * 64, n_units=K, codebook="c" * 64, frame_rate=50.0, layer=2)
# 6 = 0 1, 7 = 0 1 2, 8 = 3 4
TABLE = MergeTable([(0, 1), (6, 2), (3, 4)], CONTRACT)


def units(*values, durations=True, contract=CONTRACT):
    values = np.array(values, np.int64)
    return Units(values, 1 + np.arange(len(values)) % 5 if durations else None, contract)


def ragged(seed, n=40, n_units=K, contract=CONTRACT):
    """Deduplicated rows of 0 to 60 units with some habits, so that pairs repeat."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        steps = 1 + (rng.integers(0, n_units - 1, rng.integers(0, 61)) * (rng.random() < 0.7))
        values = np.cumsum(steps) % n_units
        durations = rng.integers(1, 9, len(values))
        rows.append(UnitRow(f"r{i:03d}", Units(values, durations, contract), speaker=f"s{i % 2}", extra={"take": i}))
    return rows


def naive(table, values):
    """The first pair of the table that occurs, everywhere, until none does; of equals the left one first."""
    values = list(values)
    spelled = {(k,): k for k in range(table.n_base)}
    by_id = {k: (k,) for k in range(table.n_base)}
    for a, b in table.pairs:
        whole = by_id[a] + by_id[b]
        new = spelled.setdefault(whole, len(spelled))
        by_id[new] = whole
        out, i = [], 0
        while i < len(values):
            if values[i : i + 2] == [a, b]:
                out.append(new)
                i += 2
            else:
                out.append(values[i])
                i += 1
        values = out
    return values


# ---------------------------------------------------------------------------------------------------------- the table


def test_a_table_by_hand():
    merged, durations = TABLE.merge(units(0, 1, 2, 0, 1, 3, 4, 0, 1, 0, 1))
    assert merged.units.tolist() == [7, 6, 8, 6, 6]
    assert merged.durations.tolist() == [1 + 2 + 3, 4 + 5, 1 + 2, 3 + 4, 5 + 1]
    assert durations.tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1]
    assert merged.contract == CONTRACT.with_(merges=TABLE.contract.merges, n_units=9, base_units=K)
    assert merged.contract.base() == CONTRACT
    assert TABLE.lengths.tolist() == [1] * K + [2, 3, 2]
    assert TABLE.first.tolist() == [*range(K), 0, 0, 3]
    assert TABLE.last.tolist() == [*range(K), 1, 2, 4]


@pytest.mark.parametrize("seed", range(6))
def test_merging_is_the_naive_one_and_comes_back(seed):
    rows = ragged(seed)
    table = fit_merges((row.units for row in rows), K + 12 + seed, contract=CONTRACT)
    assert table.n_units == K + 12 + seed
    before = after = 0
    for row in rows:
        merged = table.merge_row(row)
        assert merged.units.units.tolist() == naive(table, row.units.units.tolist())
        assert merged.units.n_frames == row.units.n_frames
        back = table.expand_row(merged)
        assert back.units == row.units
        assert (back.id, back.speaker, back.extra) == (row.id, row.speaker, row.extra)
        before, after = before + len(row.units), after + len(merged.units)
    assert after < 0.7 * before


def test_a_large_codebook_and_its_last_units():
    """Units beyond what one kind of character holds: every number up to 60 000 is itself again."""
    contract = UnitContract(n_units=60_000)
    ramp = units(*range(0, 60_000, 7), *[59_999, 55_296, 59_999, 55_296, 32, 9], contract=contract)
    table = fit_merges([ramp], 60_001, contract=contract)
    assert table.pairs == [(59_999, 55_296)]
    merged, durations = table.merge(ramp)
    assert merged.units[-4:].tolist() == [60_000, 60_000, 32, 9]
    assert table.expand(merged, durations) == ramp


def test_a_pair_of_known_units_is_another_way_to_the_same():
    table = MergeTable([(0, 1), (1, 2), (6, 2), (0, 7)], CONTRACT)  # 0 1 2 twice
    assert table.n_units == K + 3
    merged, durations = table.merge(units(0, 1, 2))
    assert merged.units.tolist() == [8]
    assert table.expand(merged, durations) == units(0, 1, 2)


def test_a_trained_unit_is_never_longer_than_what_is_read():
    loop = units(*([0, 1] * 3000))
    table = fit_merges([loop, loop, units(2, 3, 5, 2, 3)], K + 7, contract=CONTRACT)
    assert (2, 3) in table.pairs  # rarer than the longest twice, which is not merged
    assert table.lengths.max() <= LONGEST
    merged, durations = table.merge(loop)
    assert table.expand(merged, durations) == loop


def test_the_same_units_make_the_same_table():
    rows = ragged(3)
    first, second = (fit_merges((r.units for r in rows), K + 20, contract=CONTRACT) for _ in range(2))
    assert first.pairs == second.pairs
    assert first.contract == second.contract
    assert fit_merges((r.units for r in rows), K + 21, contract=CONTRACT).contract.merges != first.contract.merges


def test_sampled_units_share_their_frames():
    sampled = Units([7, 7, 0, 6], [8, 2, 3, 1], TABLE.contract)
    base = TABLE.expand(sampled)
    assert base.units.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert base.durations.tolist() == [3, 3, 2, 1, 1, 3, 1]
    assert base.n_frames == sampled.n_frames
    untimed = TABLE.expand(Units([7, 8], None, TABLE.contract))
    assert untimed.units.tolist() == [0, 1, 2, 3, 4]
    assert untimed.durations is None


def test_merged_units_are_never_joined():
    merged, _ = TABLE.merge(units(0, 1, 0, 1))
    assert merged.units.tolist() == [6, 6]
    assert merged.deduplicated() == merged
    assert (merged + merged).units.tolist() == [6] * 4
    for cut in (lambda: merged.between(0, 0.02), lambda: Units.from_frames(merged.frames(), merged.contract)):
        with pytest.raises(ContractError, match="expand them first"):
            cut()


def test_contracts():
    assert "merges" not in CONTRACT.to_dict()
    assert "base_units" not in CONTRACT.to_dict()
    assert UnitContract.from_dict(TABLE.contract.to_dict()) == TABLE.contract
    assert TABLE.contract.conflict(CONTRACT) == CONTRACT.conflict(TABLE.contract) == "merges"
    other = MergeTable([(0, 1)], CONTRACT).contract
    assert TABLE.contract.conflict(other) == "merges"
    assert TABLE.contract.conflict(UnitContract()) is None  # unknown
    assert CONTRACT.base() is CONTRACT
    with pytest.raises(ContractError, match="both, or neither"):
        CONTRACT.with_(merges="a" * 64)
    with pytest.raises(ContractError, match=r"merges is none in v but \w{12} in the model"):
        TABLE.contract.check(CONTRACT, mine="the model", theirs="v")


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("given", "error", "what"),
    [
        (
            units(0, 1, contract=CONTRACT.with_(codebook="d" * 64)),
            ContractError,
            "codebook is dddddddddddd in the units",
        ),
        (
            units(0, 1, contract=CONTRACT.with_(n_units=7)),
            ContractError,
            "n_units is 7 in the units but 6 in",
        ),
        (units(0, 6, contract=UnitContract()), ContractError, "unit 6 is outside the merge table's codebook of 6"),
        (units(0, 1, 1, 2), DumpError, "unit 1 follows itself at 2: merging takes deduplicated units"),
        (Units([7], [3], TABLE.contract), ContractError, "merges is"),
    ],
)
@pytest.mark.filterwarnings("ignore::textless.errors.ContractWarning")
def test_units_that_cannot_be_merged(given, error, what):
    with pytest.raises(error, match=what):
        TABLE.merge(given)
    if not given.contract.merges:
        with pytest.raises(error, match=what):
            fit_merges([given], 9, contract=CONTRACT)


def test_trainings_that_are_refused():
    rows = [row.units for row in ragged(0)]
    for size in (K, 2):
        with pytest.raises(TrainingError, match=f"vocabulary of {size} is not larger than the codebook of 6 units"):
            fit_merges(rows, size, contract=CONTRACT)
    with pytest.raises(TrainingError, match=r"a vocabulary of 5000 needs more units .* make \d+"):
        fit_merges(rows, 5000, contract=CONTRACT)
    with pytest.raises(ContractError, match="merged already"):
        fit_merges(rows, 50, contract=TABLE.contract)
    with pytest.raises(ContractError, match="n_units"):
        fit_merges(rows, 50, contract=UnitContract())
    with pytest.raises(ContractError, match="these units have pitch, and merged units have none"):
        fit_merges(rows, 50, contract=CONTRACT.with_(pitch="speaker"))
    with pytest.raises(ContractError, match="merged units have no pitch"):
        TABLE.contract.with_(pitch="speaker")
    with pytest.raises(ContractError, match="1048576 are the most"):
        MergeTable([], UnitContract(n_units=2**21))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: {**c, "kind": "lm"}, "holds 'lm' where a merge table is wanted"),
        (lambda c: {**c, "merges": [[0, 1], [0]]}, "pairs of whole numbers"),
        (lambda c: {**c, "merges": [[0, True]]}, "pairs of whole numbers"),
        (lambda c: {**c, "merges": {"0": 1}}, "pairs of whole numbers"),
        (lambda c: {**c, "merges": [[0, 6]]}, "merges 0 and 6, but has 6 units before that"),
        (lambda c: {**c, "merges": [[-1, 0]]}, "merges -1 and 0"),
        (lambda c: {**c, "merges": [[0, 1]] + [[k, k] for k in range(6, 60)]}, "merges 128 units into one; 64"),
        (lambda c: {**c, "contract": None}, "contract must be an object"),
        (lambda c: {**c, "contract": {}}, "number of units is unknown"),
    ],
)
def test_damaged_tables(tmp_path, change, what):
    TABLE.save(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    assert MergeTable.load(tmp_path).contract == TABLE.contract
    (tmp_path / FILE).write_text(json.dumps(change(content)))
    with pytest.raises(ModelError, match=what) as e:
        MergeTable.load(tmp_path)
    assert str(tmp_path / FILE) in str(e.value)
    assert "\n" not in str(e.value)


def test_a_table_that_is_missing_cut_or_another(tmp_path):
    with pytest.raises(ModelError, match=FILE):
        MergeTable.of(tmp_path, TABLE.contract)
    assert MergeTable.of(tmp_path, CONTRACT) is None
    MergeTable([(0, 1)], CONTRACT).save(tmp_path)
    with pytest.raises(ModelError, match=r"is another table \(merges differs\)"):
        MergeTable.of(tmp_path, TABLE.contract)
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text()[:-9])
    with pytest.raises(ModelError, match=FILE):
        MergeTable.load(tmp_path)


def test_rows_whose_durations_are_lost():
    row = TABLE.merge_row(UnitRow("a", units(0, 1, 2, 5)))
    with pytest.raises(DumpError, match=f"a: has no {COLUMN}"):
        TABLE.expand_row(replace(row, extra={}))
    for durations in ([1, 2, 3], [1, 2, 4, 4], [1, 3, 3, 4], ["x"], [2**70], None):
        with pytest.raises(DumpError, match=r"^a: "):
            TABLE.expand_row(replace(row, extra={COLUMN: durations}))


def test_a_run_that_a_dump_cannot_hold(tmp_path):
    row = TABLE.merge_row(UnitRow("a", Units([0, 1], [70_000, 1], CONTRACT)))
    with pytest.raises(DumpError, match="a: a merged unit of 70001 frames is longer than 65535"):
        write_shard(tmp_path / "0.parquet", [row], contract=TABLE.contract)


# -------------------------------------------------------------------------------------------------------------- steps


def dump_of(folder, rows):
    (folder / "data").mkdir(parents=True)
    write_shard(folder / "data" / "00000.parquet", rows, contract=rows[0].units.contract)
    finish_dump(folder, contract=rows[0].units.contract, license="cc0-1.0")
    return folder


def step(name, **fields):
    return STEPS[name](**fields)


def run(store, last):
    """The folder of a step, after its inputs."""
    for before in last.inputs().values():
        if not isinstance(before, Source):
            run(store, before)
    return store.run(last)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_the_step_keeps_rows_licence_and_frames(tmp_path, store):
    rows = ragged(1, n=300)
    source = step("units", file=str(dump_of(tmp_path / "d", rows)))
    merged = step("merge", units=source, n_units=K + 20)
    dump = open_dump(run(store, merged))
    assert len(dump) == 300
    assert dump.contract.base() == CONTRACT
    assert dump.contract.n_units == K + 20
    assert dump.totals["frames"] == sum(row.units.n_frames for row in rows)
    for row, back in zip(rows, base_rows(dump), strict=True):
        assert back.units == row.units
        assert back.extra == row.extra
    # Other units by the same table.
    others = ragged(2, n=20)
    again = step("merge", units=step("units", file=str(dump_of(tmp_path / "e", others))), table=merged)
    dev = open_dump(run(store, again))
    assert dev.contract == dump.contract
    assert [row.units for row in base_rows(dev)] == [row.units for row in others]
    assert MergeTable.load(dev.folder).contract == dump.contract


def test_the_step_refuses(tmp_path, store):
    rows = ragged(1)
    source = step("units", file=str(dump_of(tmp_path / "d", rows)))
    for fields in ({}, {"n_units": 20, "table": step("merge", units=source, n_units=20)}):
        with pytest.raises(TrainingError, match="one of the two"):
            step("merge", units=source, **fields)
    with pytest.raises(StepTypeError, match=r"merge\.table must be merge or nothing, not a step units"):
        step("merge", units=source, table=source)
    with pytest.raises(TrainingError, match="not larger than the codebook"):
        run(store, step("merge", units=source, n_units=K))
    other = [replace(r, units=Units(r.units.units, r.units.durations, CONTRACT.with_(codebook="d" * 64))) for r in rows]
    stranger = step("units", file=str(dump_of(tmp_path / "o", other)))
    with pytest.raises(ContractError, match=r"codebook is d{12} in the units but c{12} in the merge table"):
        run(store, step("merge", units=stranger, table=step("merge", units=source, n_units=20)))
    frames = [UnitRow("f", Units([0, 0, 1, 1], None, CONTRACT))]
    (tmp_path / "f" / "data").mkdir(parents=True)
    write_shard(tmp_path / "f" / "data" / "00000.parquet", frames, contract=CONTRACT, durations=False)
    finish_dump(tmp_path / "f", contract=CONTRACT)
    with pytest.raises(DumpError, match=r"unit 0 follows itself"):
        fit_merges((row.units for row in open_dump(tmp_path / "f")), 9, contract=CONTRACT)


def test_training_scoring_continuing_on_merged_units(tmp_path, store):
    source = step("units", file=str(dump_of(tmp_path / "d", ragged(1))))
    merged = step("merge", units=source, n_units=K + 10)
    lm = step("train_lm", units=merged, dev=merged, preset="nano", steps=2, batch_tokens=64, context=64)
    folder = run(store, lm)
    model = load_lm(folder)
    assert model.n_units == K + 10
    assert model.contract == open_dump(run(store, merged)).contract
    assert model.base_contract == CONTRACT
    # Plain and merged units have the same score: the model merges the plain ones.
    scores = [
        (run(store, step("score", lm=lm, units=u, train=t)) / "scores.jsonl").read_text()
        for u, t in ((source, merged), (merged, source))
    ]
    assert scores[0] == scores[1]
    more = [open_dump(run(store, step("continue", lm=lm, prompts=p, seconds=0.5, limit=5))) for p in (source, merged)]
    assert [r.units for r in more[0]] == [r.units for r in more[1]]
    assert more[0].contract == CONTRACT
    originals = {row.id: row.units for row in ragged(1)}
    for row in more[0]:
        n = originals[row.id].n_frames
        assert row.extra["prompt_frames"] == n
        assert row.units.n_frames == n + 25
        assert np.array_equal(row.units.frames()[:n], originals[row.id].frames())


# ------------------------------------------------------------------------------------------------------------- models


@pytest.fixture
def lm():
    torch.manual_seed(0)
    model = UnitLM(LMConfig(n_units=9, dim=24, layers=1, heads=2, ffn_dim=16, context=64), TABLE.contract).eval()
    for p in model.parameters():
        p.data.normal_(std=0.3)
    model.merges = TABLE
    return model


def test_a_model_takes_plain_units_too(lm):
    plain = units(0, 1, 2, 0, 1, 3, 4)
    merged, _ = TABLE.merge(plain)
    assert np.array_equal(lm.nll(plain), lm.nll(merged))
    assert len(lm.nll(plain)) == len(merged) + 1
    frames = Units(plain.frames(), None, CONTRACT)
    assert np.array_equal(lm.nll(frames), lm.nll(merged))
    melodic = Units(plain.units, plain.durations, CONTRACT.with_(pitch="speaker"), np.arange(len(plain)))
    assert np.array_equal(lm.nll(melodic), lm.nll(merged))
    more = lm.continue_units(melodic, max_new_units=3)
    assert more == lm.continue_units(plain, max_new_units=3)
    assert more.pitch is None
    rows = [list(continue_rows(lm, [UnitRow("r", u)], seconds=0.2)) for u in (melodic, plain)]
    assert rows[0][0].units == rows[1][0].units
    values = [likelihoods(lm, [UnitRow("r", u)], [u, u]) for u in (melodic, plain)]
    assert values[0] == values[1]
    with pytest.raises(ContractError, match=r"codebook is d{12} in the units"):
        lm.nll(units(0, 1, contract=CONTRACT.with_(codebook="d" * 64)))
    with pytest.raises(ContractError, match="merges is"):
        lm.nll(Units([6], [2], MergeTable([(0, 1)], CONTRACT).contract))


def test_plain_prompts_are_continued_plainly(lm):
    plain = units(0, 1, 2, 0, 1, 3, 4)
    merged, _ = TABLE.merge(plain)
    options = {"seconds": 1.0, "seed": 3, "temperature": 1.0}
    theirs = lm.continue_units(merged, only_new=True, **options)
    assert theirs.contract == TABLE.contract
    assert theirs.n_frames == 50
    ours = lm.continue_units(plain, **options)
    assert ours.contract == CONTRACT
    assert ours == plain + TABLE.expand(theirs)
    assert lm.continue_units(plain, only_new=True, **options) == TABLE.expand(theirs)
    both = lm.continue_units([plain, merged], seconds=1.0, seed=[3, 3], temperature=1.0)
    assert [u.contract for u in both] == [CONTRACT, TABLE.contract]
    pieces = list(lm.stream(plain, **options))
    assert len(pieces) == len(theirs)
    assert np.array_equal(Units.joined(pieces).frames(), TABLE.expand(theirs).frames())


def test_no_base_unit_follows_itself(lm):
    """After 0 1 (6) neither 1 nor what begins with it; after 2 or 0 1 2 (7) not 2, after 4 not 4."""
    sampling, generator = Sampling(temperature=0), np.random.default_rng(0)
    for last, never in ((6, [1]), (0, [0, 6, 7]), (3, [3, 8]), (8, [4]), (7, [2])):
        for likeliest in never:
            prompt = Units([last], [2], TABLE.contract)
            c = Continuation(prompt, sampling, generator, 9, 10, None, True, merges=TABLE)
            logits = np.zeros(10, np.float32)
            logits[likeliest] = 5
            c.add_unit(logits)
            assert c.units[0] not in never
    sampled = [lm.continue_units(Units([6], [2], TABLE.contract), seconds=3.0, seed=s) for s in range(3)]
    for s in sampled:
        base = TABLE.expand(Units(s.units, np.full(len(s), 64), s.contract)).units
        assert (base[1:] != base[:-1]).all()


def test_bits_a_second_compare_vocabularies(lm):
    rows = [UnitRow("a", units(0, 1, 2, 0, 1, 3, 4)), UnitRow("b", units(5, 0, 1))]
    merged = [TABLE.merge_row(row) for row in rows]
    values = likelihoods(lm, rows, [row.units for row in rows])
    assert values == likelihoods(lm, merged, [row.units for row in merged])
    seconds = sum(row.units.seconds for row in rows)
    nats = sum(lm.nll(row.units).sum() for row in rows)
    assert values["bits_per_second"] == pytest.approx(nats / np.log(2) / seconds)
    fivegram = KneserNey.fit([row.units for row in merged], 9, order=5)
    expected = sum(fivegram.nll(row.units).sum() for row in merged) / np.log(2) / seconds
    assert values["fivegram_bits_per_second"] == pytest.approx(expected)
    assert [s["units"] for s in score(lm, rows)] == [3, 2]
    assert list(score(lm, rows)) == list(score(lm, merged))
    assert controls(lm, rows)["reversed"]["n"] == 2


def test_the_table_travels_with_the_model(lm, tmp_path):
    lm.save(tmp_path / "lm")
    again = load_lm(tmp_path / "lm")
    assert again.merges.pairs == TABLE.pairs
    assert np.array_equal(again.nll(units(0, 1, 2)), lm.nll(units(0, 1, 2)))
    (tmp_path / "lm" / FILE).unlink()
    with pytest.raises(ModelError, match=FILE):
        load_lm(tmp_path / "lm")
    lm.merges = None
    with pytest.raises(ContractError, match="set `merges` to their table before saving"):
        lm.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


# ----------------------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def merged_set(tmp_path_factory, model_set):
    """A language model over merged units of the small random set, and a table."""
    root = tmp_path_factory.mktemp("merged")
    contract = UnitContract.from_dict(json.loads((model_set / "lm" / "config.json").read_text())["contract"])
    table = MergeTable([(0, 1), (contract.n_units, 2), (3, 0), (4, 5), (2, 1)], contract)
    torch.manual_seed(1)
    lm = UnitLM(LMConfig(n_units=table.n_units, dim=24, layers=1, heads=2, ffn_dim=16, context=64), table.contract)
    lm.merges = table
    lm.save(root / "lm")
    return root, table


def test_continue_resynth_and_score(textless_command, merged_set, speech, tmp_path):
    root, table = merged_set
    code, stream, err = textless_command(
        "continue", speech, "--lm", root / "lm", "--seconds", "0.4", "--seed", "3", "-o", "-"
    )
    assert code == 0, err
    assert UnitContract.from_dict(json.loads(stream.splitlines()[0])["contract"]) == table.base
    assert len(stream.splitlines()) == 4
    assert textless_command("resynth", "-", "-o", tmp_path / "wavs", stdin=stream)[0] == 0
    assert len(list((tmp_path / "wavs").glob("*.wav"))) == 3
    parts = textless_command(
        "continue", speech, "--lm", root / "lm", "--seconds", "0.4", "--seed", "3", "--stream", "-o", "-"
    )[1]
    assert len(parts.splitlines()) > 4
    assert textless_command("resynth", "-", "-o", tmp_path / "again", stdin=parts)[0] == 0
    for file in (tmp_path / "wavs").glob("*.wav"):
        ours, theirs = (soundfile.read(folder / file.name)[0] for folder in (file.parent, tmp_path / "again"))
        assert np.allclose(ours, theirs, atol=1e-3)
    code, out, err = textless_command("score", speech, "--lm", root / "lm")
    assert code == 0, err
    assert "bits_per_second" in out


def test_a_benchmark_of_a_model_over_merged_units(textless_command, merged_set, tmp_path):
    """As `score` has it: the recordings' units are merged, or merged already."""
    root, table = merged_set
    names = [f"tSC/{n}_s_{end}" for n, end in ((0, "correct"), (1, "incorrect"))]
    rows = [UnitRow(name, units(*(range(5)), contract=table.base)) for name in names]
    with open(tmp_path / "u.jsonl", "w") as f:
        write_stream(f, rows, contract=table.base)
    for name in names:
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "b" / f"{name}.wav", np.zeros(160), 16000)
    arguments = ("benchmark", "tstorycloze", tmp_path / "b", "--units", tmp_path / "u.jsonl", "--lm", root / "lm")
    code, out, err = textless_command(*arguments)
    assert (code, err) == (0, "")
    assert "ties, which count one half: 1" in out


def test_a_merged_dump_is_spoken_as_what_was_merged(textless_command, merged_set, speech, tmp_path):
    root, table = merged_set
    assert textless_command("encode", speech, "-o", tmp_path / "d")[0] == 0
    rows = [table.merge_row(row) for row in open_dump(tmp_path / "d")]
    dump = dump_of(tmp_path / "m", rows)
    table.save(dump)
    for source, out in ((tmp_path / "d", "plain"), (dump, "merged")):
        assert textless_command("resynth", source, "-o", tmp_path / out)[0] == 0
    for file in (tmp_path / "plain").glob("*.wav"):
        assert file.read_bytes() == (tmp_path / "merged" / file.name).read_bytes()
    scored = [textless_command("score", s, "--lm", root / "lm")[1] for s in (tmp_path / "d", dump)]
    assert scored[0] == scored[1]
    code, _, err = textless_command("convert", dump, "-o", tmp_path / "copy")
    assert (code, err) == (0, "")
    restored = [[r.units for r in base_rows(open_dump(place))] for place in (dump, tmp_path / "copy")]
    assert restored[0] == restored[1]
    assert textless_command("convert", dump, "-o", tmp_path / "m.jsonl")[0] == 0
    code, _, err = textless_command("resynth", tmp_path / "m.jsonl", "-o", tmp_path / "no")
    assert code == 2
    assert "m.jsonl: its units are merged, and merges.json is not with them; give the merged dump" in err
    code, _, err = textless_command("resynth", "-", "--stream", "-o", "-", stdin=(tmp_path / "m.jsonl").read_text())
    assert code == 2
    assert "standard input: its units are merged" in err
    assert err.count("\n") == 1


def test_python_and_the_bundle(merged_set, model_set, tmp_path):
    from textless.model import Model, bundle

    root, table = merged_set
    model = Model(model_set, lm=str(root / "lm"))
    plain = Units([0, 1, 2, 3, 0], [3, 3, 2, 2, 4], table.base)
    more = model.continue_units(plain, seconds=0.4)
    assert more.contract == table.base
    merged, _ = table.merge(plain)
    assert np.array_equal(model.resynth(merged), model.vocoder.resynth(table.expand(merged)))
    assert np.array_equal(model.resynth([merged])[0], model.resynth(merged))
    with pytest.raises(ContractError, match=r"merges is \w{12} in the units but none in the vocoder"):
        model.vocoder.resynth(merged)
    from textless.model_io import round_half

    lm = load_lm(root / "lm")
    lm.load_state_dict(round_half(lm.state_dict()))
    lm.save(tmp_path / "half")
    parts = {part: model_set / part for part in ("encoder", "codebook", "vocoder")}
    bundle(tmp_path / "set", **parts, lm=tmp_path / "half")
    assert Model(tmp_path / "set").lm.merges.pairs == table.pairs


def test_a_pushed_dump_has_its_table(merged_set, tmp_path):
    from textless.units.hub import upload_of

    _, table = merged_set
    row = table.merge_row(UnitRow("a", Units([0, 1, 2], [1, 2, 3], table.base)))
    dump = dump_of(tmp_path / "m", [row])
    table.save(dump)
    assert FILE in upload_of(dump).files


# ------------------------------------------------------------------------------------------------------------- recipe


@pytest.mark.slow
def test_the_recipe_speaks_merged_continuations(tmp_path):
    """merged.yaml: from speech to speech, what is resynthesised equals the units before merging; again does nothing."""
    command = [sys.executable, "-m", "textless", "run", "merged", "--store", str(tmp_path)]
    outputs = [subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout for _ in range(2)]
    assert outputs[0] == outputs[1]
    folders = {line.split()[0]: Path(line.split()[1]) for line in outputs[0].splitlines()}
    wavs = sorted(folders["speech"].glob("*.wav"))
    assert len(wavs) == 3
    assert all(soundfile.info(w).duration == pytest.approx(3.5) for w in wavs)
    plain, merged = (
        json.loads((folders[name] / "manifest.json").read_text())["metrics"] for name in ("plain_scores", "scores")
    )
    assert merged["nll_per_unit"] > plain["nll_per_unit"]  # a larger vocabulary
    assert 0.5 < merged["bits_per_second"] / plain["bits_per_second"] < 2


def test_an_exported_model_over_merged_units_continues_without_durations_and_is_saved_again(merged_set, tmp_path):
    """It is as a model of another tool: no durations, not of the prompt either; and its table is saved with it."""
    root, table = merged_set
    export_llama(load_lm(root / "lm"), tmp_path / "llama")
    load_lm(tmp_path / "llama").save(tmp_path / "again")
    lm = load_lm(tmp_path / "again")
    assert lm.merges is not None
    assert lm.merges.contract == table.contract
    prompt = Units(np.array([0, 1, 2, 0]), np.array([3, 2, 4, 1]), table.base)
    (row,) = continue_rows(lm, [UnitRow("a", prompt)], max_new_units=3, seed=1)
    assert row.units.durations is None
    assert row.extra["prompt_frames"] == len(prompt)
    assert row.units.units[: len(prompt)].tolist() == prompt.units.tolist()
