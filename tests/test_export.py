"""Encoders and language models for other tools: what those compute from them, and what cannot be exported."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import GOLDEN
from textless.audio.io import read_audio
from textless.errors import ContractWarning, ModelError
from textless.lm.model import LMConfig, UnitLM
from textless.pickles import load_torch, plain
from textless.types import UnitContract
from textless.units.encoders.export import TARGETS, export_hubert
from textless.units.encoders.hubert import PRESETS, Hubert, HubertConfig
from textless.units.encoders.hubert_encoder import save_encoder
from textless.units.encoders.layouts import by_shapes
from textless.units.encoders.layouts.fairseq import conv_layers
from textless.units.encoders.load import load_encoder

SMALL = {"conv_dim": 32, "dim": 48, "layers": 3, "heads": 4, "ffn_dim": 64, "pos_conv_kernel": 16, "pos_conv_groups": 4}
CONFIGS = {
    "base": HubertConfig(**SMALL),
    "large": HubertConfig(**SMALL, conv_bias=True, conv_norm="layer", pre_ln=True, normalisation="zscore_1e-7"),
    "xlarge but with group norm": HubertConfig(**SMALL, pre_ln=True),
}
FILES = {
    "transformers": {"config.json", "model.safetensors", "preprocessor_config.json"},
    "fairseq": {"hubert.pt"},
    "torchaudio": {"config.json", "hubert.pt"},
}


def ours(folder, config: HubertConfig) -> Hubert:
    """An encoder as pre-training saves it, in `folder`; its norms are not those of initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Hubert(config).eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "layer_norm" in name or name.endswith("original0"):
                    p.add_(0.2 * torch.randn_like(p))
    save_encoder(folder, model)
    return model


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_transformers_computes_the_same_at_every_layer(tmp_path, clip, config):
    transformers = pytest.importorskip("transformers")
    model = ours(tmp_path / "ours", config)
    export_hubert(tmp_path / "ours", tmp_path / "theirs", to="transformers")
    assert {file.name for file in (tmp_path / "theirs").iterdir()} == FILES["transformers"]
    reference, notes = transformers.HubertModel.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "theirs")
    wave = torch.from_numpy(clip[:20000])
    given = processor(clip[:20000], sampling_rate=16000, return_tensors="pt").input_values
    with torch.inference_mode():
        prepared = model.prepare(wave)[None]
        torch.testing.assert_close(given, prepared, atol=1e-5, rtol=0)
        theirs = reference.eval()(given, output_hidden_states=True)
        final, layers = model(prepared)
    # the last hidden state of a model with norms before its blocks has the final norm on top
    expected = [*layers[:-1], final]
    for actual, wanted in zip([*theirs.hidden_states[1:-1], theirs.last_hidden_state], expected, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)
    assert torch.equal(reference.masked_spec_embed, model.masked_spec_embed)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", ["base", "large"])
@pytest.mark.filterwarnings("ignore::textless.errors.ContractWarning")
def test_what_was_imported_and_exported_again_is_equal(tmp_path, monkeypatch, name, to):
    monkeypatch.setitem(by_shapes.HEADS, 64, 4)  # a state dict of torchaudio's says it by its width only
    source = GOLDEN / f"hubert_{name}.pt"
    export_hubert(source, tmp_path / "out", to=to)
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES[to]
    place = tmp_path / "out" if to == "transformers" else tmp_path / "out" / "hubert.pt"
    before, after = (load_encoder(path, 4, normalisation="none") for path in (source, place))
    assert after.contract == before.contract
    wave = read_audio(GOLDEN / "clip.flac")[:16000]
    np.testing.assert_array_equal(after.encode(wave), before.encode(wave))
    if to == "fairseq":
        assert load_encoder(place).contract == load_encoder(source).contract  # its normalisation, too


@pytest.mark.parametrize("name", ["base", "large"])
def test_a_fairseq_checkpoint_has_fairseqs_layout(tmp_path, name):
    """Every tensor of the encoder, and every setting of the model that it writes, is as in fairseq's own file."""
    export_hubert(GOLDEN / f"hubert_{name}.pt", tmp_path, to="fairseq")
    content, theirs = torch.load(tmp_path / "hubert.pt", weights_only=True), load_torch(GOLDEN / f"hubert_{name}.pt")
    head = {"label_embs_concat", "final_proj.weight", "final_proj.bias"}
    assert set(content["model"]) | head == set(theirs["model"])
    for key in set(theirs["model"]) - head:
        assert torch.equal(content["model"][key], theirs["model"][key]), key
    assert set(content) == set(theirs)
    cfg = plain(theirs["cfg"])
    own = {"_name", "conv_feature_layers", "final_dim", "untie_final_proj"}
    for part, left in (("model", own), ("task", {"_name", "data", "labels"})):
        mine = content["cfg"][part]
        assert set(mine) <= set(cfg[part])
        assert {k: v for k, v in mine.items() if k not in left} == {k: cfg[part][k] for k in mine if k not in left}
    layers = [conv_layers(tmp_path, c["model"]["conv_feature_layers"]) for c in (content["cfg"], cfg)]
    assert layers[0] == layers[1]


def test_the_other_formula_of_normalisation_is_said(tmp_path):
    config = replace(CONFIGS["large"], normalisation="layer_norm_1e-5")
    ours(tmp_path / "ours", config)
    with pytest.warns(ContractWarning, match="transformers normalises the waveform by zscore_1e-7"):
        export_hubert(tmp_path / "ours", tmp_path / "a", to="transformers")
    ours(tmp_path / "zscore", CONFIGS["large"])
    with pytest.warns(ContractWarning, match="fairseq normalises the waveform by layer_norm_1e-5"):
        export_hubert(tmp_path / "zscore", tmp_path / "b", to="fairseq")
    export_hubert(tmp_path / "ours", tmp_path / "c", to="fairseq")


def test_a_language_model_is_exported_by_the_same_command(textless_command, tmp_path):
    transformers = pytest.importorskip("transformers")
    contract = UnitContract(n_units=9, frame_rate=50.0)
    lm = UnitLM(LMConfig(n_units=9, dim=16, layers=2, heads=2, ffn_dim=32, context=32), contract)
    lm.save(tmp_path / "lm")
    code, _, err = textless_command("export", tmp_path / "lm", "-o", tmp_path / "llama", "--to", "transformers")
    assert code == 0, err
    assert transformers.AutoConfig.from_pretrained(tmp_path / "llama").vocab_size == 10
    code, _, err = textless_command("export", tmp_path / "lm", "-o", tmp_path / "x", "--to", "fairseq")
    assert (code, err.count("\n")) == (2, 1)
    assert "a language model, which fairseq has no place for" in err


@pytest.mark.parametrize(
    ("source", "to", "message"),
    [
        ("logmel", "transformers", "its front end is log-mel, which transformers does not have"),
        ("narrow", "fairseq", "fairseq has no projection where convolutions and blocks both have 48 channels"),
        ("mixed", "torchaudio", "layer norms both in the convolutions and before the blocks, or neither"),
        ("nothing", "fairseq", "no such file or folder"),
        ("tiny-en", "fairseq", "a set of models; export one of them, tiny-en/encoder or tiny-en/lm"),
        ("tiny-en/vocoder", "fairseq", "holds a model of kind 'vocoder' where a hubert is wanted"),
        ("tiny-en/encoder", "torchaudio", "its front end is log-mel, which torchaudio does not have"),
    ],
)
def test_what_cannot_be_exported(textless_command, tmp_path, monkeypatch, source, to, message):
    monkeypatch.chdir(tmp_path)
    ours(tmp_path / "logmel", PRESETS["nano"])
    ours(tmp_path / "narrow", replace(CONFIGS["base"], conv_dim=48))
    ours(tmp_path / "mixed", CONFIGS["xlarge but with group norm"])
    before = set(os.listdir(tmp_path))
    code, out, err = textless_command("export", source, "-o", "out", "--to", to)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert set(os.listdir(tmp_path)) == before


def test_an_output_that_exists_is_refused(textless_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("export", GOLDEN / "hubert_base.pt", "-o", "out", "--to", "fairseq")
    assert textless_command(*command)[0] == 0
    content = (tmp_path / "out" / "hubert.pt").read_bytes()
    code, _, err = textless_command(*command)
    assert (code, err) == (2, "error: out: exists; give another name\n")
    assert (tmp_path / "out" / "hubert.pt").read_bytes() == content
    code, _, err = textless_command(*command[:2], "-o", "no/out", "--to", "fairseq")
    assert (code, "no such folder" in err) == (2, True)
    with pytest.raises(ModelError, match="to is 'onnx'; known: transformers, fairseq, torchaudio"):
        export_hubert(GOLDEN / "hubert_base.pt", tmp_path / "x", to="onnx")
    assert os.listdir(tmp_path) == ["out"]
