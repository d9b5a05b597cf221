"""Text language models of transformers' as unit language models: tiny ones with random weights, against naive loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load, save

from textless.errors import ContractError, ModelError
from textless.lm.hf.causal import CausalUnitLM, from_causal, load_causal
from textless.lm.packing import Documents, Packer, document_mask
from textless.lm.train import losses
from textless.types import UnitContract, Units

N = 23
CONTRACT = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=N, codebook="a" * 64)
KINDS = ("llama", "qwen2", "opt", "gpt2")


def text_model(kind: str, *, tied: bool = True, **changes):
    """A vocabulary of 61 text tokens; weights large enough that logits differ much and every position matters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 24,
    }
    special = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "tie_word_embeddings": tied}
    more = {
        "llama": {"intermediate_size": 48, "num_key_value_heads": 2},
        "qwen2": {"intermediate_size": 48, "num_key_value_heads": 2},
        "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16, "dropout": 0.1},
        "gpt2": {},
    }.get(kind, {})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **special, **more, **changes}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3 + (p.ndim == 1))
    return model.eval()


@pytest.fixture(scope="module", params=KINDS)
def lm(request) -> CausalUnitLM:
    """The embeddings are spread out, and a duration head drawn, so that something is to be seen."""
    model = from_causal(text_model(request.param, tied=request.param != "qwen2"), CONTRACT, max_duration=6)
    with torch.no_grad():
        model.duration.weight.copy_(
            torch.randn(model.duration.weight.shape, generator=torch.Generator().manual_seed(1))
        )
    return model


def random_units(n: int, seed: int = 0) -> Units:
    draw = np.random.default_rng(seed)
    return Units(np.cumsum(draw.integers(1, N, n)) % N, draw.integers(1, 5, n), CONTRACT)


def logits_of(lm: CausalUnitLM, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        hidden = lm(torch.tensor([tokens]))[0, -1]
        return lm.unit_logits(hidden), lm.duration_logits(hidden)


# --- from text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_kept_and_embeddings_are_new(kind: str, tied: bool) -> None:
    text = text_model(kind, tied=tied)
    before = {k: v.clone() for k, v in text.state_dict().items()}
    into, output = text.get_input_embeddings().weight.clone(), text.get_output_embeddings().weight.clone()
    assert torch.equal(into, output) == tied
    lm = from_causal(text, CONTRACT)
    after = lm.model.state_dict()
    changed = {k for k in before if before[k].shape != after[k].shape}
    assert len(changed) == 2
    assert all(torch.equal(before[k], after[k]) for k in before if k not in changed)
    new_into, new_output = lm.model.get_input_embeddings().weight, lm.model.get_output_embeddings().weight
    assert (new_into is new_output) == tied
    assert len(new_into) == len(new_output) == N + 1
    for new, old in ((new_into, into), (new_output, output)):
        assert 0.85 < new.std() / old.std() < 1.15
        assert abs(new.mean()) < 0.15 * old.std()
    mean = from_causal(text_model(kind, tied=tied), CONTRACT, embeddings="mean").model.get_output_embeddings().weight
    assert 0.085 < (mean - output.mean(0)).std() / output.std() < 0.115
    again = from_causal(text_model(kind, tied=tied), CONTRACT, seed=0)
    assert torch.equal(again.model.get_output_embeddings().weight, new_output)
    assert not lm.duration.weight.any()


def test_surface(lm: CausalUnitLM) -> None:
    c = lm.config
    heads = 2 if lm.kind in ("llama", "qwen2") else 4
    assert (c.n_units, c.layers, c.heads, c.head_dim, c.context, c.max_duration) == (N, 2, heads, 8, 24, 6)
    assert c.dim == (16 if lm.kind == "opt" else 32)
    assert (lm.n_units, lm.frame_rate, lm.sample_rate, lm.contract, lm.has_durations) == (
        N,
        50.0,
        16000,
        CONTRACT,
        True,
    )
    end = lm.model.config
    assert (end.bos_token_id, end.eos_token_id, end.pad_token_id) == (N, N, None)
    with pytest.raises(ContractError, match=r"unit 23 .*vocabulary of 23"):
        lm.nll([23])


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="embeddings must be"):
        from_causal(text_model("gpt2"), CONTRACT, embeddings="old")
    with pytest.raises(ContractError, match="number of units is unknown"):
        from_causal(text_model("gpt2"), UnitContract())
    with pytest.raises(ModelError, match="vocabulary of 61, where 23 units"):
        CausalUnitLM(text_model("gpt2"), CONTRACT)
    for context in (25, 1):
        with pytest.raises(ModelError, match=f"sees 24 tokens at once; a context of {context} is not possible"):
            from_causal(text_model("gpt2"), CONTRACT, context=context)
    assert from_causal(text_model("gpt2"), CONTRACT, context=2).config.context == 2
    sliding = text_model("mistral", intermediate_size=48, num_key_value_heads=2, sliding_window=9)
    assert from_causal(sliding, CONTRACT).config.context == 9


def test_models_of_another_kind_are_refused() -> None:
    mamba = text_model("mamba", state_size=4, expand=2)
    with pytest.raises(ModelError, match="the mamba cannot be a unit language model") as caught:
        from_causal(mamba, CONTRACT, context=24)
    assert "\n" not in str(caught.value)
    scaled = text_model("granite", intermediate_size=48, num_key_value_heads=2, logits_scaling=3.0)
    with pytest.raises(ModelError, match="does not give plain logits"):
        from_causal(scaled, CONTRACT)


# --- scoring, continuing, training ------------------------------------------------------------------------------------


def test_packed_documents_are_separate_documents(lm: CausalUnitLM) -> None:
    lengths = [(9, 11, 4), (24,), (1, 1, 22)]
    draw = torch.Generator().manual_seed(2)
    rows = [[torch.randint(0, N + 1, (n,), generator=draw) for n in row] for row in lengths]
    positions = torch.stack([torch.cat([torch.arange(len(d)) for d in row]) for row in rows])
    with torch.inference_mode():
        packed = lm(torch.stack([torch.cat(row) for row in rows]), positions=positions, mask=document_mask(positions))
        apart = torch.stack([torch.cat([lm(d[None])[0] for d in row]) for row in rows])
        assert apart.std() > 0.3
        torch.testing.assert_close(packed, apart, atol=1e-5, rtol=1e-5)
        logits = lm.model(rows[1][0][None]).logits
        torch.testing.assert_close(lm.unit_logits(apart[1:2]), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", [0, 10, 23, 24, 60])
def test_nll_is_teacher_forcing_and_windowed_beyond_the_context(lm: CausalUnitLM, n: int) -> None:
    whole = [N, *random_units(n).units.tolist(), N]
    wanted = []
    for i in range(1, len(whole)):
        start = 0
        while i - start > 24:
            start += 12
        wanted.append(-torch.log_softmax(logits_of(lm, whole[start:i])[0].double(), 0)[whole[i]].item())
    np.testing.assert_allclose(lm.nll(random_units(n)), wanted, atol=5e-5)


@pytest.mark.filterwarnings("ignore:a prompt of")
@pytest.mark.parametrize("n", [0, 10, 24])
def test_cached_generation_is_the_naive_loop(lm: CausalUnitLM, n: int) -> None:
    prompt = random_units(n, seed=n)
    window = [N, *prompt.units.tolist()]
    window = window if len(window) <= 24 else window[-12:]
    units, durations = [], []
    for _ in range(40):
        logits = logits_of(lm, window)[0].clone()
        logits[[N, window[-1]]] = -torch.inf
        units.append(int(logits.argmax()))
        window = [*window, units[-1]]
        window = window if len(window) <= 24 else window[-12:]
        durations.append(1 + int(logits_of(lm, window)[1].argmax()))
    new = lm.continue_units(prompt, seconds=100, max_new_units=40, temperature=0, only_new=True)
    assert new.units.tolist() == units
    assert new.durations.tolist() == durations
    assert len(set(units)) > 1


@pytest.mark.filterwarnings("ignore:a prompt of")
def test_a_batch_gives_what_each_prompt_gives_alone(lm: CausalUnitLM) -> None:
    prompts = [random_units(n, seed=n) for n in (5, 0, 30, 12)]
    together = lm.continue_units(prompts, seconds=1.3, temperature=1.0, seed=7)
    assert together == [lm.continue_units(p, seconds=1.3, temperature=1.0, seed=7 + i) for i, p in enumerate(prompts)]
    assert len({len(u) for u in together}) > 1


def test_training_reaches_every_parameter_and_every_unit() -> None:
    for kind in KINDS:
        lm = from_causal(text_model(kind, tied=False), CONTRACT, max_duration=6).train()
        documents = [Units((np.arange(40) * 2 + i) % N, 1 + np.arange(40) % 6, CONTRACT) for i in range(N)]
        packer = Packer(Documents.pack(documents, n_units=N, max_duration=6), context=24, seed=0)
        optimiser = torch.optim.AdamW(lm.parameters(), lr=1e-2)
        curve = []
        for i in range(60):
            units, durations = losses(lm, packer.batch(i * 8, 8))
            optimiser.zero_grad()
            (units + durations).backward()
            if not i:
                assert all(p.grad is not None for p in lm.parameters())
                rows = lm.model.get_input_embeddings().weight.grad.abs().sum(1)
                assert (rows > 0).all()  # the row that was the text's padding, too
            optimiser.step()
            curve.append(units.item())
        assert min(curve) < 0.4 * curve[0], kind


# --- folders ----------------------------------------------------------------------------------------------------------


def test_save_and_load(lm: CausalUnitLM, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    lm.save(tmp_path / "lm")
    names = {p.name for p in (tmp_path / "lm").iterdir()}
    assert {"config.json", "model.safetensors", "textless.json", "textless.safetensors"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    back = load_causal(tmp_path / "lm")
    assert (back.config, back.contract, back.kind, back.training) == (lm.config, CONTRACT, lm.kind, False)
    assert back.model.get_input_embeddings().padding_idx is None
    assert np.array_equal(back.nll(random_units(40)), lm.nll(random_units(40)))
    assert back.continue_units(random_units(4), seconds=1, seed=5) == lm.continue_units(
        random_units(4), seconds=1, seed=5
    )
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "lm").eval()
    tokens = torch.tensor([[N, 1, 2, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(theirs(tokens).logits, lm.unit_logits(lm(tokens)), atol=1e-5, rtol=1e-5)


def test_from_a_folder_in_half_precision(tmp_path) -> None:
    text_model("llama").half().save_pretrained(tmp_path / "text")
    lm = from_causal(tmp_path / "text", CONTRACT, context=16)
    assert {p.dtype for p in lm.parameters()} == {torch.float32}
    assert lm.config.context == 16
    lm.save(tmp_path / "lm")
    assert load_causal(tmp_path / "lm").config.context == 16


def test_damaged_folders_say_so(tmp_path) -> None:
    def refuses(call, *args) -> str:
        with pytest.raises(ModelError) as caught:
            call(*args)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for call in (load_causal, lambda p: from_causal(p, CONTRACT)):
        assert "not a model folder" in refuses(call, tmp_path / "nowhere")
    text = text_model("gpt2")
    text.save_pretrained(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(text.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    assert from_causal(tmp_path / "pickled", CONTRACT).kind == "gpt2"
    (tmp_path / "pickled" / "pytorch_model.bin").unlink()
    assert "has no weights" in refuses(lambda p: from_causal(p, CONTRACT), tmp_path / "pickled")

    folder = tmp_path / "lm"
    from_causal(text, CONTRACT).save(folder)
    weights, config, ours = (
        (folder / name).read_bytes() for name in ("model.safetensors", "config.json", "textless.json")
    )
    (folder / "model.safetensors").write_bytes(weights[:-100])
    assert "cannot be read" in refuses(load_causal, folder)
    tensors = load(weights)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    assert "has no transformer.h.1.mlp.c_fc.weight" in refuses(load_causal, folder)
    (folder / "model.safetensors").write_bytes(weights)

    for change in (
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"},
        {"model_type": "nothing"},
    ):
        (folder / "config.json").write_text(json.dumps({**json.loads(config), **change}))
        (folder / "evil.py").write_text("raise SystemExit('ran')")
        assert "cannot be loaded" in refuses(load_causal, folder)
    (folder / "config.json").write_bytes(config)
    for change in ({"kind": "lm"}, {"contract": {"n_units": 5}}, {"contract": 3}, {"context": 99}):
        (folder / "textless.json").write_text(json.dumps({**json.loads(ours), **change}))
        refuses(load_causal, folder)
    (folder / "textless.json").write_bytes(ours)
    load_causal(folder)
    (folder / "textless.safetensors").write_bytes(b"x")
    assert "not a language model of this version" in refuses(load_causal, folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "holds an adapter" in refuses(lambda p: from_causal(p, CONTRACT), folder)


def test_a_text_model_learns_units_in_a_pipeline(tmp_path):
    """TWIST as a step: the folder of a text model, units, and a language model that `load_lm` takes."""
    from textless.engine.store import Store
    from textless.engine.yaml import load_pipeline
    from textless.lm import load_lm
    from textless.steps import STEPS

    text_model("llama").save_pretrained(tmp_path / "text")
    rows = np.random.default_rng(0).standard_normal((2, 16000)).astype(np.float32) * 0.1

    for i, wave in enumerate(rows):
        soundfile.write(tmp_path / f"{i}.wav", wave, 16000)
    np.save(tmp_path / "km.npy", np.random.default_rng(1).standard_normal((N, 39)).astype(np.float32))
    (tmp_path / "p.yaml").write_text(
        "steps:\n  corpus: {manifest: '*.wav'}\n  km: {step: model, file: km.npy}\n  text: {step: model, file: text}\n"
        "  units: {step: encode, audio: $corpus, encoder: mfcc, codebook: $km}\n"
        "  lm: {step: train_lm, units: $units, start: $text, steps: 3, context: 16, batch_tokens: 32}\n"
    )
    graph, store = load_pipeline(tmp_path / "p.yaml", STEPS), Store(tmp_path / "store")
    made = graph.run(store, ["lm"])["lm"]
    lm = load_lm(made)
    assert type(lm).__name__ == "CausalUnitLM"
    assert lm.contract.encoder == "mfcc"
    assert np.isfinite(lm.nll([1, 2, 3])).all()
    assert graph.plan(store, ["lm"]) == []
    again = load_pipeline(tmp_path / "p.yaml", STEPS, ["lm.context=48", "lm.batch_tokens=96"])
    with pytest.raises(ModelError, match="24"):
        again.run(store, ["lm"])
