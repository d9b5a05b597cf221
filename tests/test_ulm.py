"""GSLM's unit language models: against what fairseq computes, against naive loops, and the files that are none."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import GOLDEN
from textless.errors import ContractError, ModelError
from textless.lm.gslm.fairseq import read_dictionary
from textless.lm.gslm.ulm import ULM, load_ulm
from textless.pickles import load_torch, plain
from textless.types import ContractWarning, UnitContract, Units

CHECKPOINT, DICTIONARY = GOLDEN / "ulm.pt", GOLDEN / "ulm_dict.txt"
UNITS = np.load(GOLDEN / "ulm.npz")["units"]
OUTPUT = "decoder.output_projection.weight"


@pytest.fixture(scope="module")
def ulm() -> ULM:
    return load_ulm(CHECKPOINT, DICTIONARY)


@pytest.fixture
def change(tmp_path):
    """The golden checkpoint with other settings and parameters (None: without), as fairseq writes it → its path."""

    def write(parameters: dict | None = None, cfg: dict | None = None, **settings) -> Path:
        content = load_torch(CHECKPOINT)
        state = {**content["model"], **(parameters or {})}
        args = {k: v for k, v in {**plain(content["args"]), **settings}.items() if v != "absent"}
        path = tmp_path / "changed.pt"
        state = {k: v for k, v in state.items() if v is not None}
        torch.save({"args": None if cfg else Namespace(**args), "cfg": cfg, "model": state}, path)
        return path

    return write


@pytest.fixture
def words(tmp_path):
    """A dictionary with some of the golden one's lines replaced → its path."""

    def write(**lines: str) -> Path:
        text = DICTIONARY.read_text()
        for number, line in lines.items():
            old = text.split("\n")[int(number.removeprefix("line")) - 1]
            text = text.replace(f"{old}\n", line, 1)
        path = tmp_path / "dict.txt"
        path.write_text(text)
        return path

    return write


def state() -> dict[str, torch.Tensor]:
    return load_torch(CHECKPOINT)["model"]


# --- against fairseq --------------------------------------------------------------------------------------------------


def test_nll_is_that_of_fairseq(ulm: ULM, golden) -> None:
    wanted = golden("ulm.npz")["nll"]
    assert len(wanted) == len(UNITS) + 1
    nll = ulm.nll(UNITS)
    assert nll.dtype == np.float64
    np.testing.assert_allclose(nll, wanted, atol=1e-4)
    assert (ulm.n_units, ulm.contract, ulm.frame_rate, ulm.sample_rate) == (50, UnitContract(n_units=50), None, None)
    assert (ulm.config.context, ulm.config.layers, ulm.config.heads, ulm.config.head_dim, ulm.config.dim) == (
        256,
        3,
        4,
        16,
        64,
    )


def test_greedy_continuation_is_that_of_fairseq(ulm: ULM, golden) -> None:
    wanted = golden("ulm.npz")["greedy"].tolist()
    new = ulm.continue_units(UNITS[:20], max_new_units=40, temperature=0, only_new=True)
    assert new.units.tolist() == wanted
    assert new.durations is None


def test_bare_units_are_continued_literally_for_some_seconds(golden) -> None:
    ulm = load_ulm(CHECKPOINT, DICTIONARY, UnitContract(frame_rate=50.0))
    new = ulm.continue_units(
        UNITS[:20], seconds=0.8, temperature=0, only_new=True
    )  # one frame each, as everywhere; no `</s>`
    assert new.units.tolist() == golden("ulm.npz")["greedy"].tolist()


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({}, {}),
        ({"activation_fn": "gelu"}, {"activation_function": "gelu"}),
        ({"no_scale_embedding": True}, {"scale_embedding": False}),
    ],
)
def test_logits_equal_xglm(change, settings: dict, theirs: dict) -> None:
    """transformers' XGLM is this decoder."""
    from transformers import XGLMConfig, XGLMForCausalLM

    sizes = {
        "vocab_size": 56,
        "d_model": 64,
        "ffn_dim": 128,
        "num_layers": 3,
        "attention_heads": 4,
        "max_position_embeddings": 256,
    }
    config = XGLMConfig(**{**sizes, "activation_function": "relu", "scale_embedding": True, **theirs})
    source = {k: v for k, v in state().items() if k not in ("decoder.version", "decoder.embed_positions._float_tensor")}
    names = {k: "lm_head.weight" if k == OUTPUT else k.replace("decoder.", "model.", 1) for k in source}
    xglm = XGLMForCausalLM(config).eval()
    xglm.load_state_dict({names[k]: v for k, v in source.items()})
    ulm = load_ulm(change(**settings), DICTIONARY)
    _, places = read_dictionary(DICTIONARY)
    order = [*(places[u] for u in range(50)), 2]
    tokens = torch.randint(0, 51, (2, 60), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = xglm(torch.tensor(order)[tokens]).logits
        torch.testing.assert_close(ulm.unit_logits(ulm(tokens)), logits[..., order], atol=1e-4, rtol=1e-4)
        wanted = torch.log_softmax(logits.double(), -1)[..., order]
        torch.testing.assert_close(ulm.log_probabilities(ulm(tokens)), wanted, atol=1e-4, rtol=1e-4)


# --- the surface of UnitLM --------------------------------------------------------------------------------------------


def logits_of(ulm: ULM, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return ulm.unit_logits(ulm(torch.tensor([tokens]))[0, -1])


@pytest.mark.filterwarnings("ignore:a prompt of")
@pytest.mark.parametrize("n", [0, 1, 22, 24, 40])
def test_longer_than_the_context(change, n: int) -> None:
    """Windows that overlap by half; when generating, a full context is read again from its half."""
    ulm = load_ulm(change(max_target_positions=24), DICTIONARY)
    whole = [50, *UNITS[:n].tolist(), 50]
    nll = []
    for i in range(1, len(whole)):
        start = 0
        while i - start > 24:
            start += 12
        with torch.inference_mode():
            nll.append(-ulm.log_probabilities(ulm(torch.tensor([whole[start:i]])))[0, -1, whole[i]].item())
    np.testing.assert_allclose(ulm.nll(UNITS[:n]), nll, atol=2e-5)

    window, units = whole[:-1] if n < 24 else whole[:-1][-12:], []
    for _ in range(45):
        units.append(int(logits_of(ulm, window).argmax()))
        if units[-1] == 50:
            units.pop()
            break
        window = [*window, units[-1]]
        window = window if len(window) <= 24 else window[-12:]
    assert ulm.continue_units(UNITS[:n], max_new_units=45, temperature=0, only_new=True).units.tolist() == units
    assert len(units) > 5


def test_a_batch_gives_what_each_prompt_gives_alone(ulm: ULM) -> None:
    prompts = [UNITS[:n] for n in (5, 0, 30, 12)]
    together = ulm.continue_units(prompts, max_new_units=30, temperature=1.0, seed=7)
    assert together == [
        ulm.continue_units(p, max_new_units=30, temperature=1.0, seed=7 + i) for i, p in enumerate(prompts)
    ]
    assert len({tuple(u.units[-5:]) for u in together}) == 4
    assert not ulm.training


def test_packed_documents_are_separate_documents(ulm: ULM) -> None:
    from textless.lm.packing import document_mask

    a, b = [50, *UNITS[:9].tolist()], [50, *UNITS[9:15].tolist()]
    positions = torch.tensor([[*range(10), *range(7)]])
    with torch.inference_mode():
        packed = ulm(torch.tensor([a + b]), positions=positions, mask=document_mask(positions))
        torch.testing.assert_close(packed[:, :10], ulm(torch.tensor([a])), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(packed[:, 10:], ulm(torch.tensor([b])), atol=1e-5, rtol=1e-5)


def test_durations_are_dropped_and_lengths_are_numbers_of_units() -> None:
    ulm = load_ulm(CHECKPOINT, DICTIONARY, UnitContract(frame_rate=50.0))
    prompt = Units(UNITS[:6][[0, 1, 2, 3, 5]], np.array([3, 1, 2, 9, 1]), ulm.contract)
    for temperature in (0, 2.0):
        whole = ulm.continue_units(prompt, max_new_units=200, temperature=temperature, top_k=2)
        new = ulm.continue_units(prompt, max_new_units=200, temperature=temperature, top_k=2, only_new=True)
        assert whole.durations is new.durations is None
        assert whole.units.tolist() == [*prompt.units.tolist(), *new.units.tolist()]
        assert (whole.units[1:] != whole.units[:-1]).all()
    assert np.array_equal(ulm.nll(prompt), ulm.nll(prompt.units))
    assert not ulm.has_durations
    # 5 units in 16 frames, so 47 in 150.
    assert len(ulm.continue_units(prompt, seconds=3, temperature=0, only_new=True)) == 47
    with pytest.raises(ContractError, match="give max_new_units instead of seconds"):
        ulm.continue_units(Units(UNITS[:0], UNITS[:0], ulm.contract), seconds=3)
    with pytest.raises(ContractError, match="give max_new_units instead of seconds"):
        load_ulm(CHECKPOINT, DICTIONARY).continue_units(prompt.units, seconds=3)


def test_contract() -> None:
    contract = UnitContract(codebook="a" * 64, n_units=60, frame_rate=50.0)  # ten units never occurred in training
    ulm = load_ulm(CHECKPOINT, DICTIONARY, contract)
    assert (ulm.n_units, ulm.contract, ulm.frame_rate) == (60, contract, 50.0)
    np.testing.assert_allclose(ulm.nll(UNITS), load_ulm(CHECKPOINT, DICTIONARY).nll(UNITS), atol=1e-6)
    with pytest.raises(ContractError, match="unit 55 in the units is not in the language model's dictionary"):
        ulm.nll([1, 55])
    with pytest.raises(ContractError, match="codebook is bbbbbbbbbbbb"):
        ulm.nll(Units(UNITS, None, contract.with_(codebook="b" * 64)))
    with pytest.warns(ContractWarning, match="cannot compare"):
        ulm.nll(Units(UNITS, None, UnitContract()))
    with pytest.raises(ContractError, match="has 50 units but the contract says 49"):
        load_ulm(CHECKPOINT, DICTIONARY, contract.with_(n_units=49))


# --- dictionaries -----------------------------------------------------------------------------------------------------


def test_units_are_found_by_their_symbol(tmp_path, change, ulm: ULM) -> None:
    lines = DICTIONARY.read_text().splitlines()
    order = np.random.default_rng(0).permutation(len(lines))  # padding among the units, too
    (tmp_path / "dict.txt").write_text("".join(lines[i] + "\r\n" for i in order))
    rows = torch.tensor([0, 1, 2, 3, *(order + 4)])
    other = load_ulm(
        change({k: state()[k][rows] for k in ("decoder.embed_tokens.weight", OUTPUT)}), tmp_path / "dict.txt"
    )
    np.testing.assert_allclose(other.nll(UNITS), ulm.nll(UNITS), atol=1e-5)
    assert other.continue_units(UNITS[:20], max_new_units=40, seed=3) == ulm.continue_units(
        UNITS[:20], max_new_units=40, seed=3
    )


def test_a_unit_that_the_dictionary_lacks(words) -> None:
    ulm = load_ulm(CHECKPOINT, words(line5="60 5\n"))  # where unit 43 was
    assert ulm.n_units == 61
    for call in (ulm.nll, lambda u: ulm.continue_units(u, max_new_units=2)):
        for lacking in (43, 50, 59):
            with pytest.raises(
                ContractError, match=f"unit {lacking} in the .* is not in the language model's dictionary"
            ):
                call([1, lacking, 60])
        with pytest.raises(ContractError, match=r"unit 61 .* vocabulary of 61"):
            call([61])
    with torch.inference_mode():
        logits = ulm.unit_logits(ulm(torch.tensor([[61, 60, 2]])))
    assert torch.isinf(logits[0, 0]).nonzero()[:, 0].tolist() == [43, *range(50, 60)]
    new = ulm.continue_units([[60, 2]] * 40, max_new_units=30, temperature=5.0, top_k=55, only_new=True)
    drawn = {int(u) for n in new for u in n.units}
    assert 60 in drawn
    assert not drawn & {43, *range(50, 60)}


def test_what_is_no_unit_counts_and_is_never_sampled(change, ulm: ULM) -> None:
    output = state()[OUTPUT].clone()
    others = [0, 1, 3, 54, 55]
    output[others] *= 10  # one of them is the likeliest nearly everywhere
    loud = load_ulm(change({OUTPUT: output}), DICTIONARY)
    assert loud.nll(UNITS).mean() > ulm.nll(UNITS).mean() + 1
    for temperature in (0, 0.7):
        options = {"max_new_units": 30, "temperature": temperature, "seed": 2}
        assert loud.continue_units(UNITS[:20], **options) == ulm.continue_units(UNITS[:20], **options)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "is of another model: 55 entries with fairseq's specials, where .* has 56"),
        ("15 1\n16 1\n17 1\n", "has '15' twice, the second time in line"),
        ("49 1\n", "has '49' twice, the second time in line 7"),
        ("</s> 1\n", "has '</s>' twice"),
        ("hello 7\n", "line 3: 'hello' is not a unit"),
        ("007 7\n", "line 3: '007' is not a unit"),
        ("٣ 7\n", "is not a unit"),
        ("-1 7\n", "line 3: '-1' is not a unit"),
        ("99999999 7\n", "line 3: '99999999' is not a unit"),
        ("9" * 5000 + " 7\n", "is not a unit"),
        ("4\n", "line 3 is not a symbol and its count"),
        ("\n", "line 3 is not a symbol and its count"),
        ("4 5 #fairseq:overwrite\n", "line 3 is not a symbol and its count"),
    ],
)
def test_wrong_dictionaries(words, line: str, message: str) -> None:
    path = words(line3=line)
    with pytest.raises(ModelError, match=message) as caught:
        load_ulm(CHECKPOINT, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_dictionary(tmp_path) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "few").write_text("1 5\nmadeupword0000 0\n")
    (tmp_path / "latin").write_bytes(b"1 5\n\xff 7\n")
    for path in (
        tmp_path / "nowhere",
        tmp_path,
        tmp_path / "empty",
        tmp_path / "few",
        tmp_path / "latin",
        CHECKPOINT,
        GOLDEN / "clip.flac",
    ):
        with pytest.raises(ModelError) as caught:
            load_ulm(CHECKPOINT, path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_tied_and_untied_outputs(change, ulm: ULM) -> None:
    shared, wanted = state()["decoder.embed_tokens.weight"], ulm.nll(UNITS)
    assert torch.equal(shared, state()[OUTPUT])
    assert np.array_equal(load_ulm(change({OUTPUT: None}), DICTIONARY).nll(UNITS), wanted)
    other = shared.flip(1)
    untied = {"share_decoder_input_output_embed": False}
    own = load_ulm(change({OUTPUT: other}, **untied), DICTIONARY).nll(UNITS)
    assert np.abs(own - wanted).max() > 0.1
    assert np.array_equal(
        load_ulm(change({OUTPUT: None, "decoder.embed_out": other}, **untied), DICTIONARY).nll(UNITS), own
    )
    with pytest.raises(ModelError, match=r"has no decoder\.output_projection\.weight"):
        load_ulm(change({OUTPUT: None}, **untied), DICTIONARY)


def test_configurations_of_omegaconf_and_half_precision(change, ulm: ULM) -> None:
    model = {**plain(load_torch(CHECKPOINT)["args"]), "_name": "transformer_lm_big"}
    model |= {"max_target_positions": "${task.max_target_positions}", "tokens_per_sample": "${task.tokens_per_sample}"}
    half = {k: v.half() for k, v in state().items()}
    back = load_ulm(
        change(half, cfg={"model": model, "task": {"max_target_positions": None, "tokens_per_sample": 77}}), DICTIONARY
    )
    assert back.config.context == 77
    assert {p.dtype for p in back.parameters()} == {torch.float32}
    np.testing.assert_allclose(back.nll(UNITS[:60]), ulm.nll(UNITS[:60]), atol=0.02)


def test_without_a_final_norm(change, ulm: ULM) -> None:
    parameters = {"decoder.layer_norm.weight": None, "decoder.layer_norm.bias": None}
    bare = load_ulm(change(parameters, no_decoder_final_norm=True), DICTIONARY)
    assert not bare.config.final_norm
    assert np.abs(bare.nll(UNITS) - ulm.nll(UNITS)).max() > 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adaptive_softmax_cutoff": "20000,60000"}, "has an adaptive softmax"),
        (
            {"parameters": {"decoder.adaptive_softmax.head.word_proj.weight": torch.ones(2, 2)}},
            "has an adaptive softmax",
        ),
        ({"adaptive_input": True}, "was made with adaptive_input"),
        ({"character_embeddings": True}, "was made with character_embeddings"),
        ({"decoder_learned_pos": True}, "was made with decoder_learned_pos"),
        ({"no_token_positional_embeddings": True}, "was made with no_token_positional_embeddings"),
        ({"add_bos_token": True}, "was made with add_bos_token"),
        ({"activation_fn": "swish"}, "activation_fn is 'swish'; known: relu, gelu"),
        ({"arch": "transformer"}, "holds fairseq's transformer where a transformer_lm is wanted"),
        ({"arch": "absent", "decoder_attention_heads": "absent"}, "holds fairseq's model of another kind"),
        ({"decoder_attention_heads": 5}, "5 heads do not fit a width of 64"),
        ({"decoder_attention_heads": "4"}, "'4' heads do not fit"),
        ({"max_target_positions": -3}, "max_target_positions is -3"),
        (
            {"parameters": {"decoder.layernorm_embedding.weight": torch.ones(64)}},
            r"has decoder\.layernorm_embedding\.weight, which GSLM's",
        ),
        ({"parameters": {"decoder.layers.2.fc1.bias": None}}, r"has no decoder\.layers\.2\.fc1\.bias"),
        (
            {"parameters": {"decoder.layers.1.fc2.weight": torch.ones(64, 9)}},
            r"blocks\.1\.down\.weight is made of is \(64, 9\)",
        ),
        (
            {"parameters": {"decoder.layers.1.self_attn.q_proj.bias": torch.ones(9)}},
            "queries, keys and values of layer 1 differ",
        ),
        ({"parameters": {"decoder.layers.9999999.fc1.bias": torch.ones(9)}}, r"has no decoder\.layers\.3\."),
        ({"parameters": {7: torch.ones(2), "decoder.layers": torch.ones(2)}}, r"has decoder\.layers, which"),
        (
            {"parameters": {"decoder.embed_tokens.weight": torch.ones(56)}},
            r"has no decoder\.embed_tokens\.weight of 2 axes",
        ),
        (
            {"parameters": {"decoder.embed_tokens.weight": torch.ones(56, 64).int()}},
            r"has no decoder\.embed_tokens\.weight",
        ),
        ({"parameters": {k: None for k in state() if ".layers." in k}}, "has no layers"),
    ],
)
def test_other_models_are_refused(change, settings: dict, message: str) -> None:
    path = change(**settings)
    with pytest.raises(ModelError, match=message) as caught:
        load_ulm(path, DICTIONARY)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_of_a_language_model(tmp_path) -> None:
    (tmp_path / "short.pt").write_bytes(CHECKPOINT.read_bytes()[:200_000])
    shutil.copy(DICTIONARY, tmp_path / "dict.pt")
    torch.save({"model": state()}, tmp_path / "bare.pt")
    torch.save(state(), tmp_path / "state.pt")
    for path, message in (
        (GOLDEN / "hubert_base.pt", "where a transformer_lm is wanted"),
        (GOLDEN / "codehifigan_plain.pt", "not a fairseq checkpoint"),
        (tmp_path / "state.pt", "not a fairseq checkpoint"),
        (tmp_path / "bare.pt", "without its configuration"),
        (tmp_path / "short.pt", "short.pt"),
        (tmp_path / "dict.pt", "dict.pt"),
        (tmp_path / "nowhere.pt", "does not exist"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            load_ulm(path, DICTIONARY)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
