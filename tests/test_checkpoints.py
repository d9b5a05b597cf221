"""HuBERT from the files of others: golden/ holds what fairseq itself saved and computed."""

import argparse
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import GOLDEN
from textless.errors import ContractError, ModelError
from textless.model import Model
from textless.pickles import load_torch
from textless.types import Units
from textless.units.encoders.convert import open_checkpoint
from textless.units.encoders.extract import Extractor
from textless.units.encoders.hubert import PRESETS, Hubert
from textless.units.encoders.hubert_encoder import save_encoder
from textless.units.encoders.layouts import by_shapes
from textless.units.encoders.load import load_encoder, save_projected
from textless.units.kmeans import Codebook
from textless.units.tokenizer import Tokenizer

every = pytest.mark.parametrize("size", ["base", "large"])


def transformers_folder(folder, size):
    """The golden checkpoint as transformers keeps it."""
    transformers = pytest.importorskip("transformers")
    checkpoint = open_checkpoint(GOLDEN / f"hubert_{size}.pt")
    config = checkpoint.config
    model = transformers.HubertModel(
        transformers.HubertConfig(
            hidden_size=config.dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.ffn_dim,
            conv_dim=(config.conv_dim,) * 7,
            conv_bias=config.conv_bias,
            feat_extract_norm=config.conv_norm,
            do_stable_layer_norm=config.pre_ln,
            num_conv_pos_embeddings=config.pos_conv_kernel,
            num_conv_pos_embedding_groups=config.pos_conv_groups,
        )
    )
    state = {
        name: checkpoint.get(there).float() for name, there in checkpoint.names.items() if name in model.state_dict()
    }
    model.load_state_dict(state)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": config.normalisation != "none"}))
    return folder


def torchaudio_names(state):
    """Our names → those of torchaudio's Wav2Vec2Model."""
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(r"^encoder\.", "encoder.transformer.", name)
        name = re.sub(r"^feature_projection\.", "encoder.feature_projection.", name)
        name = name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        )
        renamed[name] = tensor
    return renamed


@pytest.fixture
def forms(tmp_path):
    """size → the same model as fairseq's, transformers' and torchaudio's file, and as a folder of ours."""

    def make(size):
        fairseq = GOLDEN / f"hubert_{size}.pt"
        folder = transformers_folder(tmp_path / "transformers", size)
        state = load_file(folder / "model.safetensors")
        state.pop("masked_spec_embed")
        torch.save(torchaudio_names(state), tmp_path / "torchaudio.pth")
        config = open_checkpoint(fairseq).config
        model = Hubert(config)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        save_encoder(tmp_path / "ours", model)
        return {
            "fairseq": fairseq,
            "transformers": folder,
            "torchaudio": tmp_path / "torchaudio.pth",
            "ours": tmp_path / "ours",
        }

    return make


@every
def test_equals_fairseq_layer_by_layer(golden, clip, size):
    theirs = golden(f"hubert_{size}.npz")
    encoder = load_encoder(GOLDEN / f"hubert_{size}.pt")
    assert encoder.contract.normalisation == {"base": "none", "large": "layer_norm_1e-5"}[size]
    ours = encoder.encode_layers(clip, [1, 2, 3, 4])
    for layer, frames in ours.items():
        want = theirs[f"layer{layer}"]
        assert frames.shape == want.shape
        assert np.abs(frames - want).max() < 1e-5 * np.abs(want).max()


@every
def test_one_model_in_every_form(forms, clip, size, monkeypatch):
    """fairseq's file, transformers' folder and torchaudio's state dict of one model: equal identity and frames at every
    layer.
    """
    monkeypatch.setitem(by_shapes.HEADS, 64, 4)  # which a state dict does not say
    encoders = {}
    for layer in (1, 3, 4):
        encoders = {name: load_encoder(path, layer) for name, path in forms(size).items()}
        frames = {name: e.encode_one(clip[:16000]) for name, e in encoders.items()}
        assert len({e.contract.encoder for e in encoders.values()}) == 1
        for name in ("torchaudio", "ours"):
            assert encoders[name].contract == encoders["fairseq"].contract
            assert np.array_equal(frames[name], frames["fairseq"])
        difference = np.abs(frames["transformers"] - frames["fairseq"]).max()
        assert difference < 1e-3  # its processor adds another epsilon (large)
        assert (difference == 0) == (size == "base")
    assert encoders["transformers"].contract.normalisation == {"base": "none", "large": "zscore_1e-7"}[size]


def test_normalisation_can_be_declared(forms, clip):
    folder = forms("large")["transformers"]
    declared = load_encoder(folder, 2, normalisation="layer_norm_1e-5")
    assert declared.contract == load_encoder(GOLDEN / "hubert_large.pt", 2).contract
    (folder / "preprocessor_config.json").unlink()
    assert (
        load_encoder(folder, 2).contract.normalisation == "zscore_1e-7"
    )  # as models with layer norm everywhere are trained
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": {"do_normalize": False}}))
    assert load_encoder(folder, 2).contract.normalisation == "none"
    with pytest.raises(ModelError, match="normalisation is 'loud'; known: none, layer_norm_1e-5, zscore_1e-7"):
        load_encoder(folder, 2, normalisation="loud")


def test_a_tap_is_part_of_the_identity(clip):
    plain, block, ffn = (load_encoder(GOLDEN / "hubert_base.pt", 2, tap=tap) for tap in (None, "block", "ffn"))
    assert block.contract == plain.contract
    assert ffn.contract.tap == "ffn"
    assert ffn.contract.encoder != plain.contract.encoder
    assert ffn.contract.with_(tap=None, encoder=plain.contract.encoder) == plain.contract
    both = ffn.encode_layers(clip[:16000], [1, 2])
    assert np.array_equal(both[2], ffn.encode_one(clip[:16000]))
    assert np.array_equal(both[1], load_encoder(GOLDEN / "hubert_base.pt", 1, tap="ffn").encode_one(clip[:16000]))
    centroids = plain.encode_one(clip)[:9]
    with pytest.raises(ContractError, match="of different units: encoder is"):
        Tokenizer(ffn, Codebook(centroids, plain.contract))
    with pytest.raises(ContractError, match="of different units: tap is block in the codebook but ffn in the encoder"):
        Tokenizer(ffn, Codebook(centroids, plain.contract.with_(encoder=None)))
    with pytest.raises(ModelError, match="tap is 'attention'; known: block, ffn"):
        load_encoder(GOLDEN / "hubert_base.pt", 2, tap="attention")
    with pytest.raises(ModelError, match="mfcc: tap is 'ffn', which needs a HuBERT"):
        load_encoder("mfcc", tap="ffn")
    with pytest.raises(ModelError, match="mfcc: heads is 8, which needs a HuBERT"):
        load_encoder("mfcc", heads=8)


def test_a_model_taps_what_its_codebook_was_made_on(clip, tmp_path):
    source, other = str(GOLDEN / "hubert_base.pt"), str(tmp_path / "other.npy")
    encoder = load_encoder(source, 2, tap="ffn")
    frames = encoder.encode_one(clip)
    Codebook(frames[::20].copy(), encoder.contract).save(tmp_path / "codebook")
    model = Model(tmp_path, encoder=source, codebook=str(tmp_path / "codebook"))
    assert model.tokenizer.contract.tap == "ffn"
    assert model.encode(clip).frames()[::20].tolist() == list(range(len(frames[::20])))
    np.save(other, frames[::20])
    assert Model(tmp_path, encoder=source, codebook=other, layer=2, tap="ffn").encode(clip) == Units(
        model.encode(clip).units, model.encode(clip).durations, model.tokenizer.contract
    )
    assert Model(tmp_path, encoder=source, codebook=other, layer=2).tokenizer.contract.tap is None


def test_a_projection_keeps_the_tap_that_it_was_fitted_on(clip, tmp_path):
    projection = np.eye(64, 8, dtype=np.float32)
    for tap in ("block", "ffn"):
        save_projected(tmp_path / tap, GOLDEN / "hubert_base.pt", projection, layer=2, tap=tap)
        frames = load_encoder(tmp_path / tap).encode_one(clip[:16000])
        base = load_encoder(GOLDEN / "hubert_base.pt", 2, tap=tap).encode_one(clip[:16000])
        assert np.array_equal(frames, base[:, :8])
    with pytest.raises(ModelError, match="ffn: was fitted on the tap 'ffn', not 'block'; leave the tap out"):
        load_encoder(tmp_path / "ffn", tap="block")
    assert "tap" not in json.loads((tmp_path / "block" / "config.json").read_text())


@every
def test_nothing_above_the_layer_is_read(size):
    checkpoint = open_checkpoint(GOLDEN / f"hubert_{size}.pt")
    read = []
    object.__setattr__(checkpoint, "get", lambda name, get=checkpoint.get: (read.append(name), get(name))[1])
    model = checkpoint.load(2)
    blocks = {m[1] for name in read if (m := re.match(r"encoder\.layers\.(\d+)", name))}
    assert blocks == {"0", "1"}
    assert ("encoder.layer_norm.weight" in read) == (size == "base")  # after all blocks in large, before them in base
    assert len(model.encoder.layers) == 2
    assert not any("label_embs" in name or "final_proj" in name for name in read)


def test_a_fine_tuned_checkpoint_has_its_encoder_inside(tmp_path):
    content = load_torch(GOLDEN / "hubert_base.pt")
    inner = {"model": vars_of(content)["model"]}
    state = {f"w2v_encoder.w2v_model.{k}": v for k, v in content["model"].items()} | {
        "w2v_encoder.proj.weight": torch.zeros(3, 64)
    }
    cfg = {"model": {"_name": "hubert_ctc", "w2v_args": inner}, "task": {"normalize": False}}
    torch.save({"cfg": cfg, "model": state}, tmp_path / "ctc.pt")
    assert load_encoder(tmp_path / "ctc.pt", 3).contract == load_encoder(GOLDEN / "hubert_base.pt", 3).contract


def test_an_old_checkpoint_has_flat_arguments(tmp_path):
    """Before 2021: an argparse.Namespace, and torch's older file format."""
    content, settings = load_torch(GOLDEN / "hubert_large.pt"), vars_of(load_torch(GOLDEN / "hubert_large.pt"))
    args = argparse.Namespace(**settings["model"], arch="hubert", normalize=True)
    torch.save(
        {"args": args, "model": dict(content["model"])}, tmp_path / "old.pt", _use_new_zipfile_serialization=False
    )
    assert load_encoder(tmp_path / "old.pt", 3).contract == load_encoder(GOLDEN / "hubert_large.pt", 3).contract


def vars_of(content):
    from textless.pickles import plain

    return plain(content["cfg"])


def test_a_head_puts_a_prefix_before_the_names(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = transformers_folder(tmp_path / "plain", "base")
    config = transformers.HubertConfig.from_pretrained(folder, vocab_size=5)
    headed = transformers.HubertForCTC(config)
    headed.hubert.load_state_dict(load_file(folder / "model.safetensors"))
    headed.save_pretrained(tmp_path / "ctc")
    assert load_encoder(tmp_path / "ctc", 2).contract.encoder == load_encoder(folder, 2).contract.encoder


def test_wav2vec2_runs_in_our_module(tmp_path, clip):
    """The same architecture, trained in another way: exact and fast without transformers."""
    transformers = pytest.importorskip("transformers")
    shape = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (32,) * 7,
    }
    reference = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**shape, num_conv_pos_embeddings=16)).eval()
    reference.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path, 1)
    assert type(encoder).__name__ == "HubertEncoder"
    with torch.inference_mode():
        want = reference(torch.from_numpy(clip[None, :16000]), output_hidden_states=True).hidden_states[1][0].numpy()
    np.testing.assert_allclose(encoder.encode_one(clip[:16000]), want, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
@every
def test_equals_transformers_at_full_size(clip, size):
    transformers = pytest.importorskip("transformers")
    config = PRESETS[size]
    torch.manual_seed(0)
    reference = transformers.HubertModel(
        transformers.HubertConfig(
            hidden_size=config.dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.ffn_dim,
            conv_bias=config.conv_bias,
            feat_extract_norm=config.conv_norm,
            do_stable_layer_norm=config.pre_ln,
        )
    ).eval()
    model = Hubert(config).eval()
    model.load_state_dict(reference.state_dict())
    wave = clip[:48000]
    with torch.inference_mode():
        hidden = reference(model.prepare(torch.from_numpy(wave))[None], output_hidden_states=True).hidden_states
    layers = range(1, config.layers + (0 if config.pre_ln else 1))  # the last of large has the final norm on top
    [ours] = Extractor(model.fold_weight_norm())([wave], list(layers))
    for layer, frames in zip(layers, ours, strict=True):
        want = hidden[layer][0].numpy()
        assert np.abs(frames - want).max() < 2e-5 * np.abs(want).max(), layer


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch /tmp/ran')",
        "[(512, 10, 5)] * 100000000",
        "[[[[[[(1,2,3)]*60]*60]*60]*60]*60]*60",
        "(lambda: [(512, 10, 5)])()",
        "[(512, 10)]",
        "[]",
        "[(-1, 10, 5)]",
        "[(512, 10, 5)] +",
        "(" * 5000,
        None,
    ],
)
def test_convolutions_are_read_and_never_evaluated(tmp_path, text):
    cfg = {"model": {"_name": "hubert", "encoder_layers": 1, "conv_feature_layers": text}, "task": {}}
    torch.save({"cfg": cfg, "model": {}}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"conv_feature_layers .* is not a list|other convolutions"):
        open_checkpoint(tmp_path / "a.pt")


def test_another_architecture(tmp_path):
    folder = tmp_path / "whisper"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    with pytest.raises(ModelError, match="whisper"):
        load_encoder(folder)
    torch.save({"cfg": {"model": {"_name": "transformer_lm"}}, "model": {}}, tmp_path / "lm.pt")
    with pytest.raises(ModelError, match=r"lm\.pt: holds transformer_lm of fairseq's where a hubert"):
        load_encoder(tmp_path / "lm.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "some.pt")
    with pytest.raises(
        ModelError, match=r"some\.pt: holds another model \(weight\); encoders are read from .* a SpidR"
    ):
        load_encoder(tmp_path / "some.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match=r"list\.pt: holds a list, no encoder's tensors; give its checkpoint"):
        load_encoder(tmp_path / "list.pt")
    content = load_torch(GOLDEN / "hubert_base.pt")
    state = dict(content["model"])
    state["encoder.layers.0.self_attn.grep_linear.weight"] = torch.zeros(8, 16)  # as WavLM has them
    torch.save({"cfg": {"model": vars_of(content)["model"]}, "model": state}, tmp_path / "wavlm.pt")
    with pytest.raises(ModelError, match=r"grep_linear\.weight, which HuBERT does not have"):
        load_encoder(tmp_path / "wavlm.pt")
    cfg = {"model": {**vars_of(content)["model"], "layer_type": "conformer"}}
    torch.save({"cfg": cfg, "model": content["model"]}, tmp_path / "conformer.pt")
    with pytest.raises(ModelError, match="blocks of another kind"):
        load_encoder(tmp_path / "conformer.pt")


def test_damaged_files(tmp_path, forms):
    whole = (GOLDEN / "hubert_base.pt").read_bytes()
    for n in (0, 10, 1000, len(whole) - 100):
        (tmp_path / "cut.pt").write_bytes(whole[:n])
        with pytest.raises(ModelError, match=r"cut\.pt: ") as e:
            load_encoder(tmp_path / "cut.pt")
        assert "\n" not in str(e.value)
    folder = forms("base")["transformers"]
    state = load_file(folder / "model.safetensors")
    name = "encoder.layers.0.attention.k_proj.weight"
    save_file({k: v for k, v in state.items() if k != name}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=rf"has no {name}"):
        load_encoder(folder, 1)
    save_file({**state, name: state[name][:3].clone()}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"k_proj\.weight is \(3, 64\) float32 where \(64, 64\) is expected"):
        load_encoder(folder, 1)
    for layer in (5, 0, -1):
        with pytest.raises(ModelError, match=f"layer {layer} does not exist: the encoder has layers 1 to 4"):
            load_encoder(GOLDEN / "hubert_base.pt", layer)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json: not a JSON object"):
        load_encoder(folder)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text(json.dumps({"kind": "hubert", "rotary": True}))
    with pytest.raises(ModelError, match="unknown fields rotary; was it written by a newer textless"):
        load_encoder(tmp_path / "new")
