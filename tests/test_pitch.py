"""Pitch as a second stream: normalisation and steps, the dump, the model's three losses, sampling, and the voice."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_lm import CONTRACT, random_lm, random_units

from conftest import ROOT
from textless.audio.pitch import CENTS, MIDDLE, STEPS, mean_octaves, pitch_hz, pitch_of_units, with_pitch
from textless.cli.continuations import _without_prompt
from textless.cli.inputs import _declare
from textless.cli.outputs import hash_rows
from textless.engine.step import digest
from textless.errors import AudioError, ContractError, DumpError, ModelError, TrainingError
from textless.lm import load_lm, train_lm
from textless.lm.hf.llama import to_llama
from textless.lm.packing import Documents, Packer
from textless.lm.streams import stream_nll
from textless.lm.train import losses, unigram_pitch_nll
from textless.metrics.lm import controls, likelihoods, score
from textless.model import continue_rows
from textless.types import PITCH_CLASSES, UnitContract, UnitRow, Units
from textless.units.dump import Dump, finish_dump, read_stream, write_shard, write_stream
from textless.vocoder import UnitVocoder, VocoderConfig
from textless.vocoder.predictors import dequantise_f0, quantise_f0

PITCHED = CONTRACT.with_(pitch="speaker")
V = 24  # tokens of the language model: 23 units and `</s>`


def pitched(n: int, seed: int = 0, contract: UnitContract = PITCHED) -> Units:
    units = random_units(n, seed, contract)
    return replace(units, pitch=np.random.default_rng(seed + 100).integers(0, PITCH_CLASSES, n))


def melodic_lm(seed: int = 0, **changes):
    """Weights large enough that the pitch before a unit changes its logits much."""
    return random_lm(seed, PITCHED, **changes)


# --- normalisation and steps ------------------------------------------------------------------------------------------


def naive_pitch(f0: list[float], durations: list[int], mean: float) -> list[int]:
    pitch, at = [], 0
    for duration in durations:
        logs = [math.log2(f) for f in f0[at : at + duration] if f > 0]
        at += duration
        if 2 * len(logs) < duration:
            pitch.append(0)
            continue
        cents = 1200 * (sum(logs) / len(logs) - mean)
        centres = {step: (step - 16.5) * 75 for step in range(1, 33)}
        pitch.append(min(centres, key=lambda step: abs(centres[step] - cents)))
    return pitch


def test_pitch_of_units_is_that_of_a_naive_loop():
    draw = np.random.default_rng(0)
    durations = draw.integers(1, 6, 200)
    n = int(durations.sum())
    f0 = np.where(draw.random(n) < 0.6, 120 * 2 ** draw.normal(0, 0.5, n), 0).astype(np.float32)
    mean = mean_octaves([f0[: n // 2], f0[n // 2 :]])
    logs = [math.log2(f) for f in f0.tolist() if f > 0]
    assert mean == pytest.approx(sum(logs) / len(logs), abs=1e-12)
    pitch = pitch_of_units(np.append(f0, 99), durations, mean)  # audio is longer than its units
    assert pitch.tolist() == naive_pitch(f0.tolist(), durations.tolist(), mean)
    assert set(pitch.tolist()) > {0, 1, STEPS}


def test_a_unit_is_voiced_where_half_of_its_frames_are():
    f0 = np.array([200, 0, 200, 0, 0, 0], np.float32)
    assert (pitch_of_units(f0, np.array([2, 3, 1]), math.log2(200)) > 0).tolist() == [True, False, False]
    assert pitch_of_units(np.zeros(3, np.float32), np.array([3]), mean_octaves([np.zeros(3)])).tolist() == [0]


def test_the_way_back_to_hz_is_within_half_a_step():
    mean, cents = math.log2(180), np.linspace(-1150, 1150, 300)
    hz = 2 ** (mean + cents / 1200)
    back = pitch_hz(pitch_of_units(hz, np.ones(300, np.int64), mean), mean)
    assert np.abs(1200 * np.log2(back / hz)).max() <= CENTS / 2 + 1e-6
    assert pitch_hz(np.array([0]), mean).tolist() == [0]
    assert pitch_hz(np.array([1, STEPS]), mean) == pytest.approx(180 * 2 ** (np.array([-1162.5, 1162.5]) / 1200))
    assert MIDDLE == 16.5


def rows_of(speakers: list[str | None], n: int = 12) -> tuple[list[UnitRow], dict[str, np.ndarray]]:
    draw, rows, f0 = np.random.default_rng(5), [], {}
    for i, speaker in enumerate(speakers):
        units = random_units(n, i)
        rows.append(UnitRow(f"r{i}", units, speaker=speaker))
        f0[f"r{i}"] = (100 + 100 * draw.random(units.n_frames)).astype(np.float32)
    return rows, f0


def test_the_mean_is_that_of_all_files_of_the_speaker():
    rows, f0 = rows_of(["a", "b", "a"])
    contract, result = with_pitch(rows, f0, CONTRACT)
    assert contract == CONTRACT.with_(pitch="speaker")
    logs = {s: np.log2(np.concatenate([f0[r.id] for r in rows if r.speaker == s])).mean() for s in "ab"}
    for row, new in zip(rows, result, strict=True):
        expected = naive_pitch(f0[row.id].tolist(), row.units.durations.tolist(), logs[row.speaker])
        assert new.units.pitch.tolist() == expected
        assert new.units.contract == contract


def test_without_speakers_the_mean_is_that_of_the_file():
    rows, f0 = rows_of([None, None])
    contract, result = with_pitch(rows, f0, CONTRACT)
    assert contract.pitch == "file"
    for row, new in zip(rows, result, strict=True):
        mean = np.log2(f0[row.id]).mean()
        assert new.units.pitch.tolist() == naive_pitch(f0[row.id].tolist(), row.units.durations.tolist(), mean)


def test_with_pitch_says_what_is_missing():
    rows, f0 = rows_of(["a", None])
    with pytest.raises(DumpError, match="some rows have a speaker and others none"):
        with_pitch(rows, f0, CONTRACT)
    with pytest.raises(DumpError, match="r0: there is no F0 of these units"):
        with_pitch(rows, {}, CONTRACT)
    with pytest.raises(DumpError, match="these units have pitch already"):
        with_pitch(rows[:1], f0, PITCHED)
    _, result = with_pitch(rows[:1], {"r0": f0["r0"][:-1]}, CONTRACT)
    with pytest.raises(AudioError, match=r"F0 has \d+ frames and the units \d+"):
        list(result)


# --- units and dumps --------------------------------------------------------------------------------------------------


def test_pitch_follows_the_units_that_are_cut_and_joined():
    contract = PITCHED.with_(frame_rate=1.0)
    units = Units([3, 3, 5, 3], [1, 2, 3, 2], contract, [10, 13, 0, 7])
    assert units.pitch_frames().tolist() == [10, 13, 13, 0, 0, 0, 7, 7]
    assert units.deduplicated() == Units([3, 5, 3], [3, 3, 2], contract, [12, 0, 7])
    assert units.between(1, 7) == Units([3, 5, 3], [2, 3, 1], contract, [13, 0, 7])
    literal = Units([3, 3, 5], None, contract, [1, 0, 2])
    assert literal.between(1, 3) == Units([3, 5], None, contract, [0, 2])
    assert literal.deduplicated().pitch.tolist() == [1, 2]  # half of the run is voiced
    assert (units + literal).pitch.tolist() == [10, 13, 0, 7, 1, 0, 2]
    assert units != replace(units, pitch=None)
    assert units != replace(units, pitch=np.array([10, 13, 0, 8]))
    with pytest.raises(ContractError, match="some of these parts have pitch and others none"):
        _ = units + replace(literal, pitch=None)
    with pytest.raises(DumpError, match="4 units but 3 values of pitch"):
        Units([1, 2, 3, 4], None, contract, [1, 2, 3])
    with pytest.raises(DumpError, match="pitch must be from 0, unvoiced, to 32, not 33"):
        Units([1], None, contract, [33])


def test_a_contract_without_pitch_is_what_it_was():
    assert "pitch" not in CONTRACT.to_dict()
    assert UnitContract.from_dict(PITCHED.to_dict()) == PITCHED
    CONTRACT.check(PITCHED, mine="a", theirs="b")  # no warning: who needs pitch looks for it
    with pytest.raises(ContractError, match="pitch is file in b but speaker in a"):
        PITCHED.check(CONTRACT.with_(pitch="file"), mine="a", theirs="b")
    with pytest.raises(ContractError, match="pitch"):
        CONTRACT.with_(pitch="speeker")


def dump_of(folder, rows, contract=PITCHED):
    (folder / "data").mkdir(parents=True)
    write_shard(folder / "data" / "00000.parquet", rows, contract=contract)
    finish_dump(folder, contract=contract)
    return folder


def test_a_dump_and_a_stream_keep_pitch(tmp_path):
    rows = [UnitRow(f"r{i}", pitched(n, i), extra={"x": i}) for i, n in enumerate((5, 0, 300))]
    for result in (list(Dump(dump_of(tmp_path / "d", rows))), list(read_stream(_lines(tmp_path, rows)))):
        assert [r.units for r in result] == [r.units for r in rows]
        assert [r.extra for r in result] == [r.extra for r in rows]


def _lines(tmp_path, rows):
    with open(tmp_path / "rows.jsonl", "w") as f:
        write_stream(f, rows, contract=PITCHED)
    return (tmp_path / "rows.jsonl").read_text().splitlines()


def test_a_dump_whose_pitch_is_missing_is_refused(tmp_path):
    bare = UnitRow("r", random_units(5, 0, PITCHED))
    with pytest.raises(DumpError, match="r: these units have no pitch, though their contract has"):
        dump_of(tmp_path / "a", [bare])
    folder = dump_of(tmp_path / "b", [UnitRow("r", random_units(5))], CONTRACT)
    about = json.loads((folder / "dump.json").read_text())
    about["contract"]["pitch"] = "speaker"
    (folder / "dump.json").write_text(json.dumps(about))
    with pytest.raises(DumpError, match="has no column pitch, though its contract has pitch"):
        Dump(folder)
    lines = _lines(tmp_path, [UnitRow("r", pitched(5))])
    record = json.loads(lines[1])
    del record["pitch"]
    with pytest.raises(DumpError, match="line 2: 'pitch' is missing, though the contract has it"):
        list(read_stream([lines[0], json.dumps(record)]))


def test_without_pitch_in_the_contract_the_column_is_one_like_others(tmp_path):
    row = UnitRow("r", random_units(5), extra={"pitch": [1.5, 2.5]})
    [result] = Dump(dump_of(tmp_path / "d", [row], CONTRACT))
    assert result.extra == {"pitch": [1.5, 2.5]}
    assert result.units.pitch is None
    with pytest.raises(DumpError, match="cannot be called pitch"):
        UnitRow("r", pitched(2), extra={"pitch": [1, 2]})


# --- the language model -----------------------------------------------------------------------------------------------


def naive_streams(lm, units: Units) -> dict[str, list[float]]:
    """Each position from a forward pass of its own over what it may see."""
    u, p = units.units.tolist(), units.pitch.tolist()
    tokens = [23, *u, 23]
    before = [0, 0, *p]  # pitch of the token before each
    out: dict[str, list[float]] = {"units": [], "durations": [], "pitch": []}
    for i in range(len(u) + 1):
        with torch.inference_mode():
            hidden = lm(torch.tensor([[t + V * b for t, b in zip(tokens[: i + 1], before, strict=False)]]))[0, -1]
            nll = [-torch.log_softmax(x.double(), -1) for x in (hidden @ lm.embed.weight.T,)]
            out["units"].append(float(nll[0][tokens[i + 1]]))
            if i:
                durations, pitch = (
                    -torch.log_softmax((head.weight @ hidden).double(), -1) for head in (lm.duration, lm.pitch)
                )
                out["durations"].append(float(durations[min(int(units.durations[i - 1]), 6) - 1]))
                out["pitch"].append(float(pitch[p[i - 1]]))
    return out


def test_each_stream_has_the_likelihood_of_a_naive_loop():
    lm, units = melodic_lm(), pitched(20)
    ours, naive = stream_nll(lm, units), naive_streams(lm, units)
    for name, values in naive.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-4, err_msg=name)  # logits of 10, rounded at 1e-6
    np.testing.assert_array_equal(lm.nll(units), ours["units"])


def test_long_rows_are_scored_in_the_windows_of_nll():
    lm, units = melodic_lm(), pitched(70)
    ours = stream_nll(lm, units)
    np.testing.assert_array_equal(lm.nll(units), ours["units"])
    assert [len(ours[name]) for name in ("units", "durations", "pitch")] == [71, 70, 70]
    # Windows begin every 12 tokens, and score from where the one before ended. The first of a later window's tokens is
    # read with the pitch before it, whose unit the window does not hold.
    tokens, before = [23, *units.units.tolist()], [0, 0, *units.pitch.tolist()]
    read = torch.tensor([[t + V * b for t, b in zip(tokens, before, strict=False)][12:36]])
    with torch.inference_mode():
        log_p = torch.log_softmax(lm.pitch_logits(lm(read)[0, 12:]).double(), -1)
    expected = -log_p[np.arange(12), units.pitch[23:35]]
    np.testing.assert_allclose(ours["pitch"][23:35], expected, rtol=1e-6)


def test_rows_are_scored_together_as_alone():
    lm, rows = melodic_lm(), [pitched(n, n) for n in (7, 60, 0, 12)]
    for together, row in zip(lm.nll_batch(rows), rows, strict=True):
        np.testing.assert_allclose(together, lm.nll(row), rtol=1e-4)
    assert lm.nll_batch([]) == []


def test_pitch_is_read_one_unit_late():
    """The pitch of unit 5 changes nothing of that unit, its duration, its own logits, or unit 6; and then it does."""
    lm, units = melodic_lm(), pitched(12)
    changed = replace(units, pitch=np.where(np.arange(12) == 5, (units.pitch + 9) % PITCH_CLASSES, units.pitch))
    a, b = stream_nll(lm, units), stream_nll(lm, changed)
    assert np.flatnonzero(~np.isclose(a["units"], b["units"], rtol=1e-5)).tolist() == [7, 8, 9, 10, 11, 12]
    assert np.flatnonzero(~np.isclose(a["durations"], b["durations"], rtol=1e-5)).tolist() == [6, 7, 8, 9, 10, 11]
    assert np.flatnonzero(~np.isclose(a["pitch"], b["pitch"], rtol=1e-5)).tolist() == [5, 6, 7, 8, 9, 10, 11]


def test_packed_rows_hold_the_pitch_before_each_token():
    documents = [pitched(n, n) for n in (5, 40, 1, 17)]
    packed = Documents.pack(documents, n_units=23, max_duration=6, pitch=True)
    packer = Packer(packed, context=12, seed=0)
    seen = set()
    for row in range(20):
        batch, at = packer.batch(row, 1), 0
        for document, start, length in packer.pieces(row):
            units = documents[document]
            tokens, pitch = [23, *units.units.tolist()], [-100, *units.pitch.tolist()]
            before = [0, 0, *units.pitch.tolist()]
            read = [t + V * b for t, b in zip(tokens, before, strict=False)]
            here = slice(at, at + length)
            assert batch.tokens[0, here].tolist() == read[start : start + length]
            assert batch.pitch[0, here].tolist() == pitch[start : start + length]
            assert batch.targets[0, here].tolist() == [*tokens[1:], 23][start : start + length]
            seen.add((document, start > 0))
            at += length
    assert len(seen) >= 6


def test_three_losses_are_plain_means():
    lm = melodic_lm()
    documents = [pitched(n, n) for n in (9, 13)]
    batch = Packer(Documents.pack(documents, n_units=23, max_duration=6, pitch=True), context=24, seed=0).batch(0, 1)
    assert sorted(
        length
        for _, _, length in Packer(
            Documents.pack(documents, n_units=23, max_duration=6, pitch=True), context=24, seed=0
        ).pieces(0)
    ) == [10, 14]  # both whole
    naive = [naive_streams(lm, d) for d in documents]
    for loss, name in zip(losses(lm, batch), ("units", "durations", "pitch"), strict=True):
        assert loss.item() == pytest.approx(np.concatenate([n[name] for n in naive]).mean(), rel=1e-4)


def test_training_learns_a_melody():
    """Pitch that rises by one step a unit, whatever the units: only the pitch before tells it."""
    draw = np.random.default_rng(0)

    def document(seed):
        units = pitched(60, seed)
        return replace(units, pitch=(int(draw.integers(30)) + np.arange(60)) % 30 + 1)

    train, dev = [document(i) for i in range(40)], [document(i) for i in range(100, 104)]
    settings = {"preset": "nano", "steps": 80, "batch_tokens": 256, "context": 64, "lr": 5e-3}
    lm, metrics = train_lm(train, contract=PITCHED, dev=dev, **settings)
    assert lm.has_pitch
    assert metrics["unigram_pitch_nll_per_unit"] == pytest.approx(math.log(30), abs=0.2)
    assert metrics["pitch_nll_per_unit"] < 2  # a unigram has 3.4
    assert metrics["curve"][-1]["pitch_loss"] < 2
    expected = np.concatenate([stream_nll(lm, d)["pitch"] for d in dev]).mean()
    assert metrics["pitch_nll_per_unit"] == pytest.approx(expected)


def test_the_unigram_of_pitch_by_hand():
    train = [Units([1, 2, 3], [1, 1, 1], PITCHED, [0, 0, 5])]
    documents = Documents.pack(train, n_units=23, max_duration=6, pitch=True)
    dev = [Units([4, 5], [1, 1], PITCHED, [0, 7])]
    assert unigram_pitch_nll(documents, dev) == pytest.approx(-(math.log(3 / 36) + math.log(1 / 36)) / 2)


def test_a_model_without_pitch_is_refused_as_the_start():
    with pytest.raises(TrainingError, match="the units have pitch and the start reads none"):
        train_lm([pitched(9)], contract=PITCHED, start=random_lm(), steps=1, batch_tokens=24, context=24)


def test_a_model_with_pitch_is_saved_and_one_without_is_what_it_was(tmp_path):
    lm, units = melodic_lm(), pitched(20)
    lm.save(tmp_path / "a")
    again = load_lm(tmp_path / "a")
    assert again.has_pitch
    np.testing.assert_array_equal(again.nll(units), lm.nll(units))
    old = random_lm()
    old.save(tmp_path / "b")
    assert not load_lm(tmp_path / "b").has_pitch
    assert not [name for name in old.state_dict() if "pitch" in name]
    assert "pitch" not in (tmp_path / "b" / "config.json").read_text()
    with pytest.raises(ModelError, match="a Llama reads units alone"):
        to_llama(lm)


# --- sampling ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def naive_continuation(lm, prompt: Units, n: int, seed: int) -> Units:
    """Without a cache: everything is read again for each unit."""
    generator = np.random.default_rng(seed)
    units, durations, pitch = (x.tolist() for x in (prompt.units, prompt.durations, prompt.pitch))

    def draw(logits):
        p = np.exp((logits - logits.max()) / 0.8)
        return int(np.searchsorted(np.cumsum(p), generator.random() * p.sum(), side="right"))

    def hidden():
        tokens = [t + V * b for t, b in zip([23, *units], [0, 0, *pitch], strict=False)]
        return lm(torch.tensor([tokens]))[0, -1]

    for _ in range(n):
        logits = lm.unit_logits(hidden()).numpy().astype(np.float64)
        if units:
            logits[units[-1]] = -np.inf
        logits[23] = -np.inf
        units.append(draw(logits))
        after = hidden()
        durations.append(1 + draw(lm.duration_logits(after).numpy().astype(np.float64)))
        pitch.append(draw(lm.pitch_logits(after).numpy().astype(np.float64)))
    return Units(units, durations, PITCHED, pitch)


def test_sampling_is_that_of_a_naive_loop():
    lm, prompt = melodic_lm(context=64), pitched(8)
    naive = naive_continuation(lm, prompt, 20, seed=3)
    ours = lm.continue_units(prompt, seconds=10, max_new_units=20, seed=3)
    assert ours == naive
    assert len(set(ours.pitch[8:].tolist())) > 5


@pytest.mark.filterwarnings("ignore:a prompt of 30 units is longer")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_streamed_and_batched_rows_are_those_alone(precision):
    """Past the context too, where the last half is read again. int8 serves: the heads are in float32."""
    lm = melodic_lm()
    lm.precision = precision
    prompts = [pitched(n, n) for n in (3, 30, 8)]
    alone = [lm.continue_units(p, seconds=1.2, seed=s, only_new=True) for p, s in zip(prompts, (5, 6, 7), strict=True)]
    for prompt, seed, new in zip(prompts, (5, 6, 7), alone, strict=True):
        assert Units.joined(list(lm.stream(prompt, seed=seed, seconds=1.2))) == new
        assert new.n_frames == 60
        assert new.pitch is not None
    if precision == "fp32":  # of int8 the last bit of another batch may change an integer
        assert lm.continue_units(prompts, seconds=1.2, seed=[5, 6, 7], only_new=True) == alone


def test_prompts_without_pitch_are_refused():
    lm = melodic_lm()
    for act in (lm.nll, lambda units: lm.continue_units(units, seconds=1), lambda units: stream_nll(lm, units)):
        with pytest.raises(ContractError, match=r"reads the pitch of units, and the .* have none; the step `pitch`"):
            act(random_units(5))
    with pytest.raises(ContractError, match="pitch is file in the prompt but speaker in the language model"):
        lm.continue_units(pitched(5, contract=CONTRACT.with_(pitch="file")), seconds=1)
    with pytest.raises(ContractError, match="the language model has no pitch"):
        stream_nll(random_lm(), pitched(5))
    assert lm.continue_units(Units([], [], PITCHED), max_new_units=3).pitch is not None  # from nothing


def test_a_model_without_pitch_leaves_it_out():
    lm, units = random_lm(), pitched(8)
    bare = Units(units.units, units.durations, CONTRACT)
    assert lm.continue_units(units, seconds=1) == lm.continue_units(bare, seconds=1)
    np.testing.assert_array_equal(lm.nll(units), lm.nll(bare))


def test_rows_are_continued_with_their_pitch(tmp_path):
    rows = [UnitRow(f"r{i}", pitched(12, i), speaker="s") for i in range(2)]
    new = list(continue_rows(melodic_lm(), rows, prompt_seconds=0.1, seconds=0.5))
    for row, result in zip(rows, new, strict=True):
        assert result.units.between(0, 0.1) == row.units.between(0, 0.1)
        assert result.units.n_frames == 30
    again = list(Dump(dump_of(tmp_path / "d", new)))
    assert [r.units.pitch_frames().tolist() for r in again] == [r.units.pitch_frames().tolist() for r in new]


# --- scores -----------------------------------------------------------------------------------------------------------


def test_score_tells_the_streams_apart():
    lm, rows = melodic_lm(), [UnitRow(f"r{i}", pitched(9 + i, i), speaker="s") for i in range(3)]
    streams = [stream_nll(lm, row.units) for row in rows]
    for values, s in zip(score(lm, rows), streams, strict=True):
        assert values["pitch_nll_per_unit"] == pytest.approx(s["pitch"].mean())
        assert values["duration_nll_per_unit"] == pytest.approx(s["durations"].mean())
        assert values["nll"] == pytest.approx(s["units"].sum())
    train = [pitched(30, 50)]
    table = likelihoods(lm, rows, train)
    for key, stream in (("pitch", "pitch"), ("duration", "durations")):
        expected = np.concatenate([s[stream] for s in streams]).mean()
        assert table[f"{key}_nll_per_unit"] == pytest.approx(expected)
        assert table[f"{key}_nll_per_unit_low"] <= expected <= table[f"{key}_nll_per_unit_high"]
    documents = Documents.pack(train, n_units=23, max_duration=6, pitch=True)
    unigram = unigram_pitch_nll(documents, [row.units for row in rows])
    assert table["unigram_pitch_nll_per_unit"] == pytest.approx(unigram)
    assert controls(lm, rows)["reversed"]["n"] == 3
    assert not [key for key in likelihoods(random_lm(), rows) if "pitch" in key or "duration" in key]


# --- the voice --------------------------------------------------------------------------------------------------------


def voice(f0: bool = True) -> UnitVocoder:
    torch.manual_seed(0)
    config = VocoderConfig(n_units=23, speakers=("a", "b"), dim=16, ffn_dim=32, layers=1, pitch_dim=16, f0=f0)
    vocoder = UnitVocoder(config, PITCHED.with_(n_units=23))
    if f0:
        torch.nn.init.normal_(vocoder.pitch.project.weight, std=0.5)
    return vocoder.eval()


def test_the_vocoder_follows_pitch_above_its_own_level():
    vocoder, units = voice(), pitched(30)
    assert vocoder.contract.pitch is None
    own = vocoder.predict_f0(units.frames(), speaker="b")
    assert own.any()
    level = np.log2(own[own > 0]).mean()
    expected = [0 if p == 0 else 2 ** (level + (p - 16.5) * 75 / 1200) for p in units.pitch_frames()]
    followed = vocoder.resynth(units, speaker="b")
    np.testing.assert_allclose(followed, vocoder.resynth(units, speaker="b", f0=np.array(expected)), atol=1e-5)
    bare = replace(units, pitch=None)
    assert not np.allclose(followed, vocoder.resynth(bare, speaker="b"), atol=1e-3)
    together = vocoder.resynth([units, bare], speaker="b")
    np.testing.assert_allclose(together[0], followed, atol=1e-5)
    np.testing.assert_allclose(together[1], vocoder.resynth(bare, speaker="b"), atol=1e-5)
    other = replace(units, contract=CONTRACT.with_(pitch="file"))
    np.testing.assert_allclose(vocoder.resynth(other, speaker="b"), followed, atol=1e-6)


def test_a_unit_of_predicted_length_keeps_its_pitch():
    vocoder, units = voice(), pitched(20)
    [lengths] = vocoder.predict_durations([units.units])
    spoken = vocoder.resynth(units, durations="predict")
    np.testing.assert_allclose(spoken, vocoder.resynth(replace(units, durations=lengths)), atol=1e-6)


def test_a_voice_that_cannot_follow_says_so():
    units = pitched(5)
    with pytest.warns(UserWarning, match="without F0: the pitch of the units is not heard"):
        voice(f0=False).resynth(units)
    with pytest.raises(ModelError, match="the pitch of units is followed in whole rows only"):
        list(voice().stream([units]))


def test_followed_pitch_is_heard():
    """Of what the vocoder is given: half a step from the pitch, and the steps of the vocoder."""
    hz = pitch_hz(np.array([5, 28]), math.log2(150))
    heard = dequantise_f0(quantise_f0(torch.from_numpy(hz))).numpy()
    assert np.abs(1200 * np.log2(heard / hz)).max() <= 12.5 + 1e-6


# --- steps ------------------------------------------------------------------------------------------------------------


def test_f0_at_another_rate_is_refused(tmp_path):
    from textless.cli.app import cli

    (tmp_path / "p.yaml").write_text(
        "steps:\n"
        f"  clip: {{step: corpus, manifest: '{ROOT}/pipelines/smoke/amy-4.opus'}}\n"
        "  model: {name: tiny-en}\n"
        "  units: {step: encode, audio: $clip, encoder: $model, codebook: $model}\n"
        "  f0: {audio: $clip, frame_rate: 100}\n"
        "  pitched: {step: pitch, units: $units, f0: $f0}\n"
    )
    from click.testing import CliRunner

    done = CliRunner().invoke(cli, ["run", str(tmp_path / "p.yaml"), "pitched", "--store", str(tmp_path / "store")])
    assert done.exit_code != 0
    text = done.output + str(done.exception)
    assert "units have 50 frames a second and F0 has 100.0; give F0 with frame_rate: 50" in text


@pytest.mark.slow
def test_the_pipeline_runs_from_audio_alone(tmp_path):
    import soundfile
    from click.testing import CliRunner

    from textless.cli.app import cli

    command = ["run", str(ROOT / "pipelines/prosody.yaml"), "--store", str(tmp_path), "-s", "steps=20"]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert done.exit_code in (0, None), done.output
    wavs = sorted((tmp_path / "artefacts").glob("resynth-*/*.wav"))
    assert [round(soundfile.info(w).duration, 2) for w in wavs] == [3.5] * 3
    [scores] = (tmp_path / "artefacts").glob("score-*/scores.jsonl")
    assert "pitch_nll_per_unit" in scores.read_text()


def test_commands_pass_pitch_on():
    row = UnitRow("a", pitched(9), extra={"prompt_frames": 4})
    assert _declare(row, UnitContract(window=20.0)).units.pitch.tolist() == row.units.pitch.tolist()
    kept = _without_prompt(row).units
    assert kept == row.units.between(4 / PITCHED.frame_rate)
    assert kept.pitch is not None


def test_an_output_of_units_with_other_pitch_is_another():
    """A command whose output is there does nothing, by the hash of its rows; without pitch that is as it was."""
    plain = Units(np.array([1, 2]), np.array([3, 4]), CONTRACT)
    hashes = [hash_rows([UnitRow("a", replace(plain, pitch=p))]) for p in (None, np.array([5, 6]), np.array([5, 7]))]
    assert len(set(hashes)) == 3
    assert hashes[0] == digest([["a", None, [1, 2], [3, 4]]])
