"""Unit language models of other tools: against what SlamKit and transformers computed, and against naive loops."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_causal import text_model
from test_lm import random_lm, random_units

from conftest import GOLDEN
from textless.cli.app import cli
from textless.errors import ContractError, ModelError, TextlessError
from textless.lm import ForeignLM, export_llama, load_lm, train_lm
from textless.lm.cache import KVCache
from textless.lm.hf.causal import CausalUnitLM, vocabulary
from textless.lm.hf.foreign import UnitTokens, load_start
from textless.metrics.lm import by_speaker, likelihoods, score
from textless.model import continue_rows
from textless.types import UnitContract, Units
from textless.units.dump import UnitRow
from textless.vocoder import load_vocoder

PEERS = GOLDEN / "peers"
NAMES = ["slamkit_qwen2", "slamkit_opt", "twist_opt"]
SPECIALS = {"begin and end": UnitTokens(offset=4, begin=1, end=2), "neither": UnitTokens(offset=4)}
KINDS = {
    "opt": {},
    "opt, norms after": {"do_layer_norm_before": False},
    "llama": {},
    "qwen2": {},
    "mistral": {"intermediate_size": 48, "num_key_value_heads": 1},
    "gpt2": {},
}


def expected(name: str):
    return np.load(PEERS / name / "expected.npz")


def any_lm(kind: str, tokens: UnitTokens = SPECIALS["begin and end"], **options) -> ForeignLM:
    """Of 57 units and 4 specials."""
    return ForeignLM(text_model(kind.split(",")[0], **KINDS[kind]), tokens, **options).eval()


@pytest.fixture(params=KINDS)
def lm(request) -> ForeignLM:
    return any_lm(request.param)


@pytest.fixture
def copy(tmp_path):
    """A copy of a golden folder with changes of its files: None deletes one, a dict changes entries, bytes replace."""

    def copied(name: str, **changes) -> Path:
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(PEERS / name, folder)
        for stem, change in changes.items():
            [file] = [f for f in folder.iterdir() if f.stem == stem] or [folder / f"{stem}.json"]
            if change is None:
                file.unlink()
            elif isinstance(change, bytes):
                file.write_bytes(change)
            else:
                entries = json.loads(file.read_text()) if file.exists() else {}
                file.write_text(json.dumps({**entries, **change}))
        return folder

    return copied


# --- what the originals compute ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_and_greedy_continuations_are_the_originals(name: str, precision: str, monkeypatch) -> None:
    def refuse(*args) -> None:
        raise AssertionError("a model on disk needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    lm, golden = load_lm(PEERS / name, precision=precision), expected(name)
    assert (type(lm), lm.n_units, lm.contract, lm.training) == (ForeignLM, 20, UnitContract(n_units=20), False)
    nll = lm.nll(golden["units"])
    if name == "twist_opt":
        assert len(nll) == 60
        assert nll[0] == pytest.approx(np.log(20))
        np.testing.assert_allclose(nll[1:], golden["nll_from_second"], atol=1e-4)
        greedy = golden["greedy"]
    else:
        assert len(nll) == 61
        np.testing.assert_allclose(nll, golden["nll"], atol=1e-4)
        assert -nll.mean() == pytest.approx(float(golden["mean_log_likelihood"][0]), abs=1e-4)
        greedy = golden["greedy_tokens"][1:] - 2
    if precision == "fp32":
        new = lm.continue_units(greedy[:20], max_new_units=40, temperature=0)
        assert new.units.tolist() == greedy.tolist()
        assert new.durations is None


def test_weights_in_parts_and_pickled_ones_are_read(copy) -> None:
    want = load_lm(PEERS / "twist_opt").nll(np.arange(20))
    folder = copy("twist_opt")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    names = sorted(state)
    places = {name: f"part-{k % 2}.bin" for k, name in enumerate(names)}
    for part in ("part-0.bin", "part-1.bin"):
        torch.save({name: state[name] for name in names if places[name] == part}, folder / part)
    (folder / "pytorch_model.bin").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert np.array_equal(load_lm(folder).nll(np.arange(20)), want)
    (folder / "part-1.bin").unlink()
    with pytest.raises(ModelError, match=r"has no weights \(part-1.bin is missing\)"):
        load_lm(folder)


# --- scoring and continuing -------------------------------------------------------------------------------------------


def probabilities(lm: ForeignLM, tokens: list[int]) -> torch.Tensor:
    """Of the model's own tokens after these, without anything of ours."""
    with torch.inference_mode():
        return torch.log_softmax(lm.model(torch.tensor([tokens])).logits[0, -1].double(), 0)


@pytest.mark.parametrize("n", [0, 1, 10, 23, 24, 25, 60])
@pytest.mark.parametrize("specials", SPECIALS)
def test_nll_is_over_the_whole_vocabulary_and_windowed(specials: str, n: int) -> None:
    lm, units = any_lm("llama", SPECIALS[specials]), np.random.default_rng(n).integers(0, 57, n)
    whole = [4 + u for u in units.tolist()]
    whole, first = ([1, *whole, 2], []) if lm.begins else (whole, [np.log(57)] * bool(n))
    wanted = list(first)
    for i in range(1, len(whole)):
        start = 0
        while i - start > 24:
            start += 12
        wanted.append(-probabilities(lm, whole[start:i])[whole[i]].item())
    assert len(wanted) == n + lm.ends
    np.testing.assert_allclose(lm.nll(units), wanted, atol=5e-5)


@pytest.mark.parametrize("specials", SPECIALS)
def test_many_are_scored_as_each_alone(specials: str) -> None:
    lm = any_lm("opt", SPECIALS[specials])
    rows = [np.random.default_rng(n).integers(0, 57, n) for n in (7, 0, 1, 30, 12, 2, 23, 24)]
    for together, row in zip(lm.nll_batch(rows), rows, strict=True):
        assert len(together) == len(row) + lm.ends
        np.testing.assert_allclose(together, lm.nll(row), atol=5e-5)


def test_only_an_end_that_was_stated_ends() -> None:
    """The logits of what may follow: units, and the end where there is one."""
    for tokens in SPECIALS.values():
        lm = any_lm("llama", tokens)
        with torch.inference_mode():
            hidden = lm(torch.tensor([[57, 3, 5]]))[0, -1]
            logits, log_p = lm.unit_logits(hidden), lm.log_probabilities(hidden)
        theirs = probabilities(lm, [1 if lm.begins else 4, 7, 9])
        np.testing.assert_allclose(log_p[:57], theirs[4:], atol=5e-5)
        assert bool(logits[57].isfinite()) == bool(log_p[57].isfinite()) == lm.ends
        if lm.ends:
            assert log_p[57].item() == pytest.approx(theirs[2].item(), abs=5e-5)
        assert log_p.exp().sum() < 0.999  # specials have the rest


@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 1, 1, 11]])
def test_reading_in_pieces_is_the_model(lm: ForeignLM, pieces: list[int]) -> None:
    tokens = torch.randint(0, 57, (2, 20), generator=torch.Generator().manual_seed(2))
    cache, edges = KVCache(lm.config, 2, 24, lm.device), np.cumsum([0, *pieces])
    read = torch.cat([lm.forward_cached(tokens[:, a:b], cache) for a, b in pairwise(edges)], 1)
    with torch.inference_mode():
        torch.testing.assert_close(read, lm(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("span", [1, 3])
def test_rows_of_different_lengths(lm: ForeignLM, span: int) -> None:
    lengths, cache = [5, 1, 9], KVCache(lm.config, 3, 24, lm.device)
    tokens = torch.randint(0, 57, (3, 24), generator=torch.Generator().manual_seed(3))
    for i, n in enumerate(lengths):
        lm.forward_cached(tokens[i : i + 1, :n], cache.row(i))
    for k in range(4):
        parts = [tokens[i, n + k * span : n + (k + 1) * span] for i, n in enumerate(lengths)]
        read = lm.forward_cached(torch.stack(parts), cache)
        with torch.inference_mode():
            for i, n in enumerate(lengths):
                whole = lm(tokens[i : i + 1, : n + (k + 1) * span])[0, -span:]
                torch.testing.assert_close(read[i], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "gpt2"])
def test_int8_is_close_to_the_model(kind: str) -> None:
    tokens = torch.randint(0, 57, (1, 20), generator=torch.Generator().manual_seed(4))
    exact, quantised = any_lm(kind), any_lm(kind, precision="int8")
    exact, quantised = (m.forward_cached(tokens, KVCache(m.config, 1, 20, m.device)) for m in (exact, quantised))
    assert 0 < (quantised - exact).abs().max() < 0.15 * exact.abs().max()


def test_int8_of_another_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match="precision int8 is for OPT, Llama, Qwen2 and Mistral; a gpt2 continues in"):
        any_lm("gpt2", precision="int8")
    with pytest.raises(ModelError, match="precision is 'int4'"):
        load_lm(PEERS / "twist_opt", precision="int4")


@pytest.mark.filterwarnings("ignore:a prompt of")
@pytest.mark.parametrize("specials", SPECIALS)
def test_greedy_continuation_is_the_naive_loop(specials: str) -> None:
    lm = any_lm("qwen2", SPECIALS[specials], contract=UnitContract(frame_rate=50.0))
    for n in (1, 10, 24, 40):
        prompt = np.random.default_rng(n).integers(0, 57, n).tolist()
        window = [1] * lm.begins + [4 + u for u in prompt]
        window = window if len(window) <= 24 else window[-12:]
        units = []
        for _ in range(40):
            unit = int(probabilities(lm, window)[4:].argmax())  # 61 tokens, the last 57 are units
            units.append(unit)
            window = [*window, 4 + unit]
            window = window if len(window) <= 24 else window[-12:]
        # A length in seconds, with which nothing ends.
        assert lm.continue_units(prompt, seconds=0.8, temperature=0, only_new=True).units.tolist() == units


@pytest.mark.parametrize("specials", SPECIALS)
def test_batches_and_streams_give_what_each_prompt_gives_alone(specials: str) -> None:
    lm = any_lm("opt", SPECIALS[specials])
    prompts = [np.random.default_rng(n).integers(0, 57, n) for n in (5, 2, 11, 1)]
    options = {"max_new_units": 9, "temperature": 1.0}
    together = lm.continue_units(prompts, seed=7, **options)
    for i, (prompt, units) in enumerate(zip(prompts, together, strict=True)):
        assert units == lm.continue_units(prompt, seed=7 + i, **options)
        assert units.units[: len(prompt)].tolist() == prompt.tolist()
        streamed = [u for part in lm.stream(prompt, seed=7 + i, **options) for u in part.units.tolist()]
        assert streamed == units.units[len(prompt) :].tolist()
        assert lm.ends or len(streamed) == 9


def test_a_deduplicated_prompt_is_continued_without_repeats_and_durations() -> None:
    lm = load_lm(PEERS / "twist_opt")  # it would repeat unit 2 forever
    prompt = Units(np.array([2, 5, 2]), np.array([3, 1, 2]), lm.contract)
    new = lm.continue_units(prompt, max_new_units=12, temperature=0)
    assert new.durations is None
    assert (new.units[1:] != new.units[:-1]).all()
    timed = lm.contract.with_(frame_rate=25.0)
    rated = load_lm(PEERS / "twist_opt", contract=timed)
    prompt = Units(prompt.units, prompt.durations, timed)
    new = rated.continue_units(prompt, seconds=2, temperature=0, only_new=True)
    assert (len(new), new.durations) == (25, None)  # 3 units in 6 frames, so 25 in 50
    assert len(rated.continue_units(prompt, seconds=2, max_new_units=7, only_new=True)) == 7
    assert rated.continue_units([2, 5], seconds=1, only_new=True).n_frames == 25


def test_rows_are_continued_and_streamed_alike() -> None:
    lm = load_lm(PEERS / "twist_opt", contract=UnitContract(frame_rate=25.0))
    rows = [UnitRow("a", Units(np.array([2, 5, 2]), np.array([3, 1, 2]), lm.contract))]
    [whole] = continue_rows(lm, rows, seconds=2, temperature=0)
    parts = list(continue_rows(lm, rows, seconds=2, temperature=0, parts=True))
    assert np.concatenate([p.units.units for p in parts]).tolist() == whole.units.units.tolist()
    assert len(whole.units) == 28
    assert whole.extra["prompt_frames"] == parts[0].extra["prompt_frames"] == 3
    assert whole.units.durations is parts[0].units.durations is None


def test_an_empty_prompt_needs_something_to_begin_with() -> None:
    nothing = np.array([], np.int64)
    assert len(any_lm("opt").continue_units(nothing, max_new_units=3, temperature=0)) == 3
    with pytest.raises(ContractError, match="no symbol that begins a sequence; give a prompt of a unit or more"):
        any_lm("opt", SPECIALS["neither"]).continue_units([[3], nothing], max_new_units=3)


def test_the_first_unit_counts_as_seen() -> None:
    """Also where no symbol comes before it."""
    lm = load_lm(PEERS / "twist_opt")
    assert lm.continue_units([2], max_new_units=1, temperature=0).units.tolist() == [2, 2]
    new = lm.continue_units([2], max_new_units=6, temperature=0, no_repeat_ngram=1)
    assert len(set(new.units.tolist())) == 7


def test_scores_count_the_tokens_that_are_predicted() -> None:
    lm = load_lm(PEERS / "twist_opt", contract=UnitContract(frame_rate=25.0))
    contract = lm.contract
    rows = [UnitRow(str(n), Units(np.arange(n), None, contract), speaker="s") for n in (4, 9, 0)]
    four, nine, none = score(lm, rows)
    totals = [lm.nll(row.units).sum() for row in rows]
    assert four["nll_per_unit"] == pytest.approx(totals[0] / 4)
    assert nine["nll_per_unit"] == pytest.approx(totals[1] / 9)
    assert (none["nll"], none["nll_per_unit"]) == (0, 0)
    together = likelihoods(lm, rows[:2], [Units(np.arange(20), None, contract)])
    assert together["nll_per_unit"] == pytest.approx(sum(totals) / 13)
    assert by_speaker(lm, rows)["s"]["nll_per_unit"] == pytest.approx(sum(totals) / 13)
    ended = load_lm(PEERS / "slamkit_opt", contract=contract)
    mean = sum(ended.nll(row.units).sum() for row in rows[:2]) / 15
    assert likelihoods(ended, rows[:2])["nll_per_unit"] == pytest.approx(mean)


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_save_and_load(name: str, tmp_path) -> None:
    lm = load_lm(PEERS / name, contract=UnitContract(frame_rate=25.0))
    lm.save(tmp_path / "lm")
    back = load_lm(tmp_path / "lm")
    assert (back.contract, back.tokens.offset, back.begins, back.ends) == (
        lm.contract,
        lm.tokens.offset,
        lm.begins,
        lm.ends,
    )
    units = expected(name)["units"]
    assert np.array_equal(back.nll(units), lm.nll(units))


def test_a_folder_that_says_which_tokens_are_units(tmp_path) -> None:
    text_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="holds a 'gpt2' that does not say which of its tokens are units; what fits: "):
        load_lm(tmp_path)
    say = {"kind": "unit_tokens", "offset": 10, "begin": 2, "end": None, "contract": {"n_units": 40}}
    (tmp_path / "textless.json").write_text(json.dumps(say))
    lm = load_lm(tmp_path)
    assert (lm.n_units, lm.begins, lm.ends) == (40, True, False)
    wanted = [-probabilities(lm, [2])[13].item(), -probabilities(lm, [2, 13])[10].item()]
    np.testing.assert_allclose(lm.nll([3, 0]), wanted, atol=5e-5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("twist_opt", {"config": None}, r"not a model folder \(config.json is missing\)"),
        ("twist_opt", {"pytorch_model": None}, "has no weights"),
        ("twist_opt", {"config": {"offset": -1}}, "offset is -1 where"),
        ("twist_opt", {"config": {"offset": 24}}, "has 0 units where the contract says 1"),
        ("twist_opt", {"config": {"num_hidden_layers": 4}}, "has 4 layers but there are weights of 3"),
        ("twist_opt", {"config": {"model_type": "bert", "architectures": ["BertForMaskedLM"]}}, "it is a BertForMask"),
        ("twist_opt", {"config": {"model_type": "t5"}}, "it is a t5; a Llama, Qwen, OPT, GPT-2 … fits"),
        ("twist_opt", {"config": {"model_type": "whisper"}}, "it is a whisper; a Llama"),
        ("twist_opt", {"config": {"model_type": "evil"}}, "no architecture 'evil'"),
        ("slamkit_opt", {"model": b"\x08\0\0\0\0\0\0\0{}      "}, "has 3 layers but there are weights of 0"),
        ("slamkit_opt", {"model": None}, "has no weights"),
        ("slamkit_opt", {"tokeniser_config": {"num_units": 500}}, "has 22 tokens, too few for 500 units from token 2"),
        ("slamkit_opt", {"tokeniser_config": {"num_units": "20"}}, "num_units is '20' where"),
        ("slamkit_opt", {"config": {"base_config": None}}, "base_config is None where"),
        ("slamkit_opt", {"config": {"base_config": {"model_type": "evil"}}}, "no architecture 'evil'"),
        ("twist_opt", {"textless": {"kind": "unit_tokens", "offset": 4, "end": 7}}, "end is token 7, which is a unit"),
        ("twist_opt", {"textless": {"kind": "unit_tokens", "offset": 4, "begin": 24}}, "token 24, which is not there"),
        ("twist_opt", {"textless": {"kind": "unit_tokens", "offset": 4, "begin": "1"}}, "begin is '1' where"),
        (
            "twist_opt",
            {"textless": {"kind": "unit_tokens", "offset": 4, "contract": 3}},
            "a contract must be an object",
        ),
        ("twist_opt", {"textless": {"kind": "unit_tokens"}}, "offset is None where"),
    ],
)
def test_folders_that_do_not_fit(copy, name: str, changes: dict, message: str) -> None:
    folder = copy(name, **changes)
    with pytest.raises(TextlessError, match=message) as caught:
        load_lm(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_a_download_and_weights_of_another_model(copy) -> None:
    whole = (PEERS / "slamkit_opt" / "model.safetensors").read_bytes()
    with pytest.raises(ModelError, match=r"model.safetensors: cannot be read .*copy the model again"):
        load_lm(copy("slamkit_opt", model=whole[: len(whole) // 2]))
    whole = (PEERS / "twist_opt" / "pytorch_model.bin").read_bytes()
    with pytest.raises(ModelError, match=r"pytorch_model.bin: .*download or copy it again"):
        load_lm(copy("twist_opt", pytorch_model=whole[: len(whole) // 2]))
    folder = copy("slamkit_opt")
    state = load_file(folder / "model.safetensors")
    del state["lm.model.decoder.layers.1.fc1.bias"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"has no model.decoder.layers.1.fc1.bias, which a opt needs"):
        load_lm(folder)


class Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.write_text, (self.file, "ran"))


def test_nothing_in_a_folder_runs(copy, tmp_path) -> None:
    ran = tmp_path / "ran"
    torch.save({"model.decoder.embed_tokens.weight": Evil(ran)}, tmp_path / "evil.bin")
    with pytest.raises(ModelError, match="nothing was run"):
        load_lm(copy("twist_opt", pytorch_model=(tmp_path / "evil.bin").read_bytes()))
    with pytest.raises(ModelError):
        load_lm(copy("twist_opt", pytorch_model=pickle.dumps(Evil(ran))))
    code = {
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
        "attn_implementation": "evil/kernel",
    }
    folder = copy("twist_opt", config=code)
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()")
    assert np.array_equal(load_lm(folder).nll([1, 2]), load_lm(PEERS / "twist_opt").nll([1, 2]))
    assert not ran.exists()


def test_units_of_another_chain() -> None:
    for name in ("slamkit_opt", "twist_opt"):
        with pytest.raises(ContractError, match=f"{name}: the language model has .*20.* where the contract says 100"):
            load_lm(PEERS / name, contract=UnitContract(n_units=100))
    with pytest.raises(ContractError, match=r"n_units is 100 in the units but 20"):
        load_lm(PEERS / "twist_opt").nll(Units(np.arange(3), None, UnitContract(n_units=100)))
    mine, theirs = UnitContract(encoder="mfcc"), UnitContract(encoder="a" * 64)
    with pytest.raises(ContractError, match="encoder is mfcc"):
        load_lm(PEERS / "twist_opt", contract=theirs).nll(Units(np.arange(3), None, mine))


# --- going on from one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("specials", SPECIALS)
@pytest.mark.parametrize("tied", [True, False])
def test_for_training_keeps_the_units(tied: bool, specials: str) -> None:
    text = text_model("llama", tied=tied)
    into, out = (layer.weight.detach().clone() for layer in vocabulary(text))
    theirs = ForeignLM(text, SPECIALS[specials])
    before = [probabilities(theirs, [*[1] * theirs.begins, 5, 9])[4:], theirs.begins]
    lm = theirs.for_training()
    assert isinstance(lm, CausalUnitLM)
    assert (lm.n_units, lm.has_durations, lm.begins, lm.ends) == (57, True, True, True)
    new_into, new_out = (layer.weight.detach() for layer in vocabulary(lm.model))
    assert torch.equal(new_into[:57], into[4:])
    assert torch.equal(new_out[:57], out[4:])
    end = {"begin and end": (into[1], out[1 if tied else 2]), "neither": (into[4:].mean(0), out[4:].mean(0))}[specials]
    torch.testing.assert_close((new_into[57], new_out[57]), end)
    tokens = torch.tensor([[57] * before[1] + [1, 5]])
    with torch.inference_mode():  # the same units, over a smaller vocabulary
        ours = torch.log_softmax(lm.unit_logits(lm(tokens))[0, -1, :57].double(), 0)
    torch.testing.assert_close(ours, torch.log_softmax(before[0], 0), atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_published_model_is_trained_further_and_saved_as_ours(name: str, tmp_path) -> None:
    contract = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=20, codebook="a" * 64)
    documents = [Units((np.arange(40) * 3 + i) % 20, 1 + np.arange(40) % 5, contract) for i in range(20)]
    settings = {"steps": 40, "context": 64, "batch_tokens": 256, "lr": 1e-2, "contract": contract}
    start = load_start(PEERS / name, contract, context=64, seed=0)
    lm, metrics = train_lm(documents, start=start, **settings)
    assert metrics["curve"][-1]["loss"] < 0.5 * metrics["curve"][0]["loss"]
    lm.save(tmp_path / "lm")
    back = load_lm(tmp_path / "lm")
    assert (type(back), back.contract) == (CausalUnitLM, contract)
    assert np.array_equal(back.nll(documents[0]), lm.nll(documents[0]))
    assert back.continue_units(documents[0], seconds=1, seed=3).durations is not None
    with pytest.raises(ContractError, match=f"{name}: the language model has .*20.* where the contract says 23"):
        load_start(PEERS / name, contract.with_(n_units=23), context=64, seed=0)
    with pytest.raises(ContractError, match="n_units"):
        train_lm(documents, start=load_lm(PEERS / name), **{**settings, "contract": contract.with_(n_units=23)})


# --- ours in other tools ----------------------------------------------------------------------------------------------


def test_an_export_is_a_text_model_of_units(tmp_path) -> None:
    from transformers import AutoTokenizer, GenerationConfig, pipeline

    lm = random_lm()
    export_llama(lm, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("<Un3><Un12> <Un0>").input_ids == [23, 3, 12, 0]
    assert tokenizer.decode([23, 3, 12], skip_special_tokens=True) == "<Un3><Un12>"
    padded = tokenizer(["<Un3>", "<Un3><Un5>"], padding=True)
    assert padded.input_ids == [[23, 23, 3], [23, 3, 5]]
    assert set(padded) == {"input_ids", "attention_mask"}
    for text in ("hello", "<Un23>"):
        with pytest.raises(Exception, match="UNK"):
            tokenizer(text)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    settings = GenerationConfig.from_pretrained(tmp_path)
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (23, 23, 23)
    write = pipeline("text-generation", model=str(tmp_path))
    for prompt in ([3, 5], [2], [11, 0, 4, 9]):
        text = "".join(f"<Un{u}>" for u in prompt)
        [result] = write(text, max_new_tokens=8, do_sample=False, return_full_text=True)
        units = lm.continue_units(prompt, max_new_units=8, temperature=0).units
        assert result["generated_text"] == "".join(f"<Un{u}>" for u in units)


def test_an_export_is_read_back(tmp_path) -> None:
    lm = random_lm()
    export_llama(lm, tmp_path)
    back = load_lm(tmp_path)
    assert (back.contract, back.has_durations) == (lm.contract, False)
    units = random_units(60).units
    np.testing.assert_allclose(back.nll(units), lm.nll(units), atol=1e-5 * lm.nll(units).max())
    for prompt in (units[:7], units[:1], units[:0]):
        ours, theirs = (m.continue_units(prompt, max_new_units=40, temperature=0) for m in (lm, back))
        assert ours.units.tolist() == theirs.units.tolist()


def test_from_the_command_line(tmp_path, textless_command) -> None:
    (tmp_path / "u.jsonl").write_text(
        '{"textless": "units", "version": 1, "contract": {"n_units": 20}}\n{"id": "a", "units": [5, 17, 3]}\n'
    )
    lm = str(PEERS / "twist_opt")
    code, out, _ = textless_command("continue", tmp_path / "u.jsonl", "--lm", lm, "--max-new-units", 4, "-o", "-")
    assert code == 0
    row = json.loads(out.splitlines()[1])
    assert row["units"][:3] == [5, 17, 3]
    assert len(row["units"]) == 7
    code, _, _ = textless_command("score", tmp_path / "u.jsonl", "--lm", lm, "-o", tmp_path / "s.jsonl")
    assert code == 0
    scored = json.loads((tmp_path / "s.jsonl").read_text())
    assert scored["nll_per_unit"] == pytest.approx(load_lm(lm).nll([5, 17, 3]).mean())


def test_slamkit_s_repositories_on_the_hub_lack_the_tokeniser(copy) -> None:
    folder, units = copy("slamkit_opt", tokeniser_config=None), expected("slamkit_opt")["units"]
    scores = load_lm(folder).nll(units)
    np.testing.assert_allclose(scores, load_lm(PEERS / "slamkit_opt").nll(units), atol=1e-6)


def test_the_command_counts_the_tokens_that_are_predicted(tmp_path, capsys) -> None:
    rows = [[0, 1, 2, 3], [5, 6], [], [9]]
    stream = tmp_path / "units.jsonl"
    stream.write_text("".join(json.dumps({"id": str(n), "units": u}) + "\n" for n, u in enumerate(rows)))
    for name, ends in (("twist_opt", 0), ("slamkit_opt", 1)):
        lm = load_lm(PEERS / name)
        mean = sum(lm.nll(u).sum() for u in rows) / sum(len(u) + ends for u in rows)
        cli.main(["score", str(stream), "--frames", "--lm", str(PEERS / name)], standalone_mode=False)
        assert f"nll_per_unit     {mean:.3f}\n" in capsys.readouterr().out


def test_a_folder_of_another_kind_is_named_by_what_it_says() -> None:
    with pytest.raises(ModelError, match="kind 'speech_language_model' where a vocoder is wanted"):
        load_vocoder(PEERS / "slamkit_opt")
    with pytest.raises(ModelError, match="does not say what the model is, where a vocoder is wanted"):
        load_vocoder(PEERS / "spidr")
    with pytest.raises(ModelError, match="holds a model that does not say which of its tokens are units"):
        load_lm(PEERS / "unit_hifigan_plain")


def test_an_export_shows_no_bar_of_transformers(tmp_path, capfd) -> None:
    export_llama(random_lm(), tmp_path / "llama")
    assert "it/s" not in capfd.readouterr().err
