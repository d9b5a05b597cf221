"""Encoders in the files of other projects: golden/peers/ holds what minimal_hubert, SpidR and DinoSR saved themselves.

s3prl's, ESPnet's, DistributedDataParallel's and HuBERT-Soft's layouts are made of golden/hubert_base.pt, which fairseq
saved: under other names it is the same encoder.
"""

import json
import os
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from conftest import GOLDEN
from textless.errors import ModelError
from textless.model import Model, load
from textless.pickles import load_torch, plain
from textless.units.encoders.convert import open_checkpoint
from textless.units.encoders.layouts import LAYOUTS
from textless.units.encoders.load import load_encoder, save_projected
from textless.units.kmeans import Codebook

PEERS = GOLDEN / "peers"
FILES = {
    "minimal_hubert_base": "checkpoint_7.pt",
    "minimal_hubert_large": "checkpoint_7.pt",
    "spidr": "model.pt",
    "dinosr": "model.pt",
}
every = pytest.mark.parametrize("name", FILES)


@pytest.fixture(scope="module")
def wave():
    return soundfile.read(PEERS / "clip.flac", dtype="float32")[0]


@pytest.fixture(scope="module")
def expected():
    """name → {tap: {layer: (T, D)}} as the project computes it."""

    def read(name):
        arrays = np.load(PEERS / name / "expected.npz")
        found = {"ffn": {}, "block": {}}
        for key in arrays:
            if m := re.fullmatch(r"(before|layer|after)(\d)", key):
                found["block" if m[1] == "after" else "ffn"][int(m[2])] = arrays[key]
        return found

    return read


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


# ----------------------------------------------------------------------------------------- as the projects compute it


@every
def test_equals_the_project_layer_by_layer(wave, expected, name):
    path, outputs = PEERS / name / FILES[name], expected(name)
    assert set(outputs["ffn"]) == {1, 2, 3, 4}
    assert bool(outputs["block"]) == name.startswith("minimal")
    for tap, layers in outputs.items():
        encoder = load_encoder(path, tap=tap)
        for layer, frames in encoder.encode_layers(wave, list(layers) or [1]).items():
            if layers:
                close(frames, layers[layer])
        for layer, frames in layers.items():
            close(load_encoder(path, layer, tap=tap).encode_one(wave), frames)


@every
def test_the_tap_is_the_project_s_unless_it_is_chosen(expected, wave, name):
    usual = load_encoder(PEERS / name / FILES[name], 3)
    assert usual.contract.tap == "ffn"
    assert usual.contract == load_encoder(PEERS / name / FILES[name], 3, tap="ffn").contract
    close(usual.encode_one(wave), expected(name)["ffn"][3])
    block = load_encoder(PEERS / name / FILES[name], 3, tap="block")
    assert block.contract.tap is None
    assert block.contract.encoder != usual.contract.encoder
    assert usual.contract.normalisation == ("none" if name == "minimal_hubert_base" else "layer_norm_1e-5")
    assert (usual.contract.layer, usual.contract.sample_rate, usual.contract.frame_rate) == (3, 16000, 50.0)


@every
def test_a_folder_with_one_checkpoint_is_that_checkpoint(tmp_path, name):
    shutil.copytree(PEERS / name, tmp_path / name, ignore=shutil.ignore_patterns("hub"))
    whole = load_encoder(PEERS / name / FILES[name], 2).contract
    assert load_encoder(tmp_path / name, 2).contract == whole
    assert load_encoder(str(tmp_path / name), 2).contract == whole


def test_a_hub_folder_of_minimal_hubert(tmp_path, wave, expected):
    shutil.copytree(PEERS / "minimal_hubert_base" / "hub", tmp_path / "hub")
    state = torch.load(PEERS / "minimal_hubert_base" / "checkpoint_7.pt", weights_only=True)["model"]
    save_file(state, tmp_path / "hub" / "model.safetensors")
    encoder = load_encoder(tmp_path / "hub", 2)
    close(encoder.encode_one(wave), expected("minimal_hubert_base")["ffn"][2])
    assert encoder.contract == load_encoder(PEERS / "minimal_hubert_base" / "checkpoint_7.pt", 2).contract


def test_a_set_with_a_checkpoint_of_others(tmp_path, wave):
    """The tap that a codebook was made on is the encoder's: through `textless.load`, and a projection."""
    shutil.copytree(PEERS / "spidr", tmp_path / "set" / "encoder")
    for tap in ("ffn", "block"):
        encoder = load_encoder(PEERS / "spidr" / "model.pt", 3, tap=tap)
        frames = encoder.encode_one(wave)
        Codebook(frames[::10].copy(), encoder.contract).save(tmp_path / "set" / "codebook")
        units = load(tmp_path / "set").encode(wave)
        assert units.frames()[::10].tolist() == list(range(len(frames[::10])))
        assert units.contract.tap == (None if tap == "block" else "ffn")
        model = Model(tmp_path, encoder=str(PEERS / "spidr" / "model.pt"), codebook=str(tmp_path / "set" / "codebook"))
        assert model.encode(wave) == units
        for base in ("model.pt", ""):
            folder = tmp_path / f"projected-{tap}-{base}"
            save_projected(folder, PEERS / "spidr" / base, np.eye(128, 9, dtype=np.float32), layer=3, tap=tap)
            assert np.array_equal(load_encoder(folder).encode_one(wave), frames[:, :9])


def test_nothing_of_the_teacher_and_nothing_above_the_layer_is_read():
    checkpoint = open_checkpoint(PEERS / "spidr" / "model.pt")
    read = []
    object.__setattr__(checkpoint, "get", lambda name, get=checkpoint.get: (read.append(name), get(name))[1])
    checkpoint.load(2)
    assert {m[1] for name in read if (m := re.search(r"layers\.(\d+)", name))} >= {"0", "1"}
    assert not any(name.startswith(("teacher", "heads", "codebooks", "student.layers.2.")) for name in read)


def test_a_spidr_without_configuration_has_the_paper_s_heads(tmp_path):
    """Which are 12 at 768; at another width they are refused, until they are declared."""
    state = torch.load(PEERS / "spidr" / "model.pt", weights_only=True)
    torch.save(state, tmp_path / "spidr.pt")
    message = (
        r"spidr\.pt: a SpidR or DinoSR checkpoint without configuration does not say its attention heads, known for "
        r'the widths 768 but not for 128; declare them: heads in Python, or {"heads": N} in spidr\.json next to it$'
    )
    with pytest.raises(ModelError, match=message):
        load_encoder(tmp_path / "spidr.pt", 2)
    want = load_encoder(PEERS / "spidr" / "model.pt", 2).contract
    assert load_encoder(tmp_path / "spidr.pt", 2, heads=2).contract == want
    (tmp_path / "spidr.json").write_text('{"heads": 2}')
    assert load_encoder(tmp_path / "spidr.pt", 2).contract == want
    (tmp_path / "spidr.json").write_text('{"heads": "two"}')
    with pytest.raises(ModelError, match=r"spidr\.json: heads is 'two'"):
        load_encoder(tmp_path / "spidr.pt", 2)
    wide = widened(state["model"], 768)
    torch.save({"model": wide}, tmp_path / "wide.pt")
    config = open_checkpoint(tmp_path / "wide.pt").config
    assert (config.dim, config.heads, config.pos_conv_depth, config.pos_conv_kernel) == (768, 12, 2, 7)


def widened(state, dim):
    """The shapes of a state dict with 768 for 128, without values."""
    sizes = {128: dim, 384: 3 * dim}
    return {
        name: torch.empty(()).expand([sizes.get(n, n) for n in t.shape]) if t.is_floating_point() else t
        for name, t in state.items()
    }


def test_what_a_spidr_s_configuration_says(tmp_path):
    shutil.copytree(PEERS / "dinosr", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())["model"]

    def check(message, **changes):
        (tmp_path / "a" / "config.json").write_text(json.dumps({"model": {**config, **changes}}))
        with pytest.raises(ModelError, match=message):
            load_encoder(tmp_path / "a", 1)

    check("heads is 3, which does not divide dim", encoder_num_heads=3)
    check("encoder_num_heads is 0", encoder_num_heads=0)
    check("other convolutions than HuBERT", extractor_conv_layer_config=[[48, 10, 5], [48, 3, 2]])
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))  # without the section
    assert load_encoder(tmp_path / "a", 1).contract == load_encoder(PEERS / "dinosr", 1).contract
    with pytest.raises(ModelError, match=r"model\.pt: has 2 attention heads, but 4 are declared"):
        load_encoder(tmp_path / "a", 1, heads=4)


# ------------------------------------------------------------------------------------------- one model in every layout


def fairseq():
    """golden/hubert_base.pt: (plain configuration, state dict)."""
    content = load_torch(GOLDEN / "hubert_base.pt")
    return plain(content["cfg"]), {name: tensor.clone() for name, tensor in content["model"].items()}


def ours(state):
    """fairseq's names → ours, as `open_checkpoint` has them."""
    names = open_checkpoint(GOLDEN / "hubert_base.pt").names
    return {name: state[theirs] for name, theirs in names.items() if theirs in state}


def s3prl(state, cfg):
    return {
        "task_cfg": cfg["task"],
        "model_cfg": cfg["model"],
        "model_weight": state,
        "dictionaries_symbols": [["<s>"]],
    }


def ddp(state, cfg):
    return {"cfg": {"model": cfg["model"], "task": cfg["task"]}, "model": prefixed(state, "module.")}


def contentvec(state, cfg):
    """Its legacy files are fairseq's: a HuBERT, with a projection of the last layer."""
    return {"args": None, "cfg": cfg, "model": state | {"layer_proj.weight": torch.zeros(9, 64)}}


def torchaudio(state, cfg):
    renamed = {}
    for name, tensor in ours(state).items():
        name = re.sub(r"^encoder\.", "encoder.transformer.", name)
        name = re.sub(r"^feature_projection\.", "encoder.feature_projection.", name)
        name = name.replace("parametrizations.weight.original0", "weight_g")
        renamed["wav2vec2." + name.replace("parametrizations.weight.original1", "weight_v")] = tensor
    return {**renamed, "logit_generator.label_embeddings": torch.zeros(3, 3)}


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def espnet(state, cfg):
    return prefixed(torchaudio(state, cfg), "encoder.hubert_pretrain_model.") | {"encoder.global_step": torch.zeros(1)}


def espnet_fairseq(state, cfg):
    return prefixed(state, "encoder.encoder.") | {"loss.weight": torch.zeros(2)}


def espnet_recogniser(state, cfg):
    return prefixed(state, "frontend.upstream.upstream.model.") | {"encoder.after_norm.weight": torch.zeros(2)}


def stack(state, name, parts):
    return torch.cat([state[name.format(part)] for part in parts])


def soft(state, cfg):
    """As torch's own TransformerEncoderLayer names and stacks them."""
    state, renamed = ours(state), {}
    for name, tensor in state.items():
        name = re.sub(r"feature_extractor\.conv_layers\.(\d)\.conv", r"feature_extractor.conv\1", name)
        name = re.sub(r"feature_extractor\.conv_layers\.(\d)\.layer_norm", r"feature_extractor.norm\1", name)
        for theirs, here in (
            ("feature_projection.layer_norm", "feature_projection.norm"),
            ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "positional_embedding.conv.weight_g"),
            ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "positional_embedding.conv.weight_v"),
            ("encoder.pos_conv_embed", "positional_embedding"),
            ("attention.out_proj", "self_attn.out_proj"),
            ("feed_forward.intermediate_dense", "linear1"),
            ("feed_forward.output_dense", "linear2"),
            ("final_layer_norm", "norm2"),
        ):
            name = name.replace(theirs, here)
        name = re.sub(r"(layers\.\d)\.layer_norm", r"\1.norm1", re.sub(r"^encoder\.layer_norm", "norm", name))
        if "attention." not in name:
            renamed[name] = tensor
    for i in range(4):
        for kind in ("weight", "bias"):
            stacked = stack(state, f"encoder.layers.{i}.attention.{{}}_proj.{kind}", "qkv")
            renamed[f"encoder.layers.{i}.self_attn.in_proj_{kind}"] = stacked
    extra = {"proj.weight": torch.zeros(8, 64), "label_embedding.weight": torch.zeros(5, 8)}
    return {"hubert": prefixed(renamed | extra, "module."), "step": 3}


def minimal_hubert(state, cfg):
    state = ours(state)
    renamed = {"mask_embedding": state.pop("masked_spec_embed")}
    for name, tensor in state.items():
        name = name.replace("feature_projection.", "feature_projection.0.").replace("out_proj", "proj")
        name = name.replace("pos_conv_embed.conv.", "pos_conv_embed.convs.0.")
        if not re.search(r"\.[qkv]_proj\.", name):
            renamed[name] = tensor
    for i in range(4):
        for kind in ("weight", "bias"):
            stacked = stack(state, f"encoder.layers.{i}.attention.{{}}_proj.{kind}", "qkv")
            renamed[f"encoder.layers.{i}.attention.qkv.{kind}"] = stacked
    return {"model": renamed, "step": 1}


SAID = (s3prl, ddp, contentvec)  # whose files say the heads
MADE = (*SAID, torchaudio, espnet, espnet_fairseq, espnet_recogniser, soft, minimal_hubert)
each = pytest.mark.parametrize("make", MADE, ids=lambda f: f.__name__)


@each
def test_one_model_has_one_identity(tmp_path, wave, make):
    cfg, state = fairseq()
    torch.save(make(state, cfg), tmp_path / "a.pt")
    want = load_encoder(GOLDEN / "hubert_base.pt", 3)
    encoder = load_encoder(tmp_path / "a.pt", 3, heads=None if make in SAID else 4, tap="block")
    assert encoder.contract == want.contract
    assert np.array_equal(encoder.encode_one(wave), want.encode_one(wave))
    usual = load_encoder(tmp_path / "a.pt", 3, heads=4).contract
    assert usual.tap == ("ffn" if make is minimal_hubert else None)


@each
def test_heads_are_never_guessed(tmp_path, make):
    """Golden has 4 heads of 16: those of no published width. minimal_hubert's code has heads of 64 at other widths."""
    cfg, state = fairseq()
    torch.save(make(state, cfg), tmp_path / "a.pt")
    if make in SAID:
        assert open_checkpoint(tmp_path / "a.pt").config.heads == 4
        with pytest.raises(ModelError, match=r"a\.pt: has 4 attention heads, but 8 are declared"):
            open_checkpoint(tmp_path / "a.pt", heads=8)
    elif make is minimal_hubert:
        assert open_checkpoint(tmp_path / "a.pt").config.heads == 1
    else:
        with pytest.raises(
            ModelError, match=r"a\.pt: .* does not say its attention heads, known for the widths 768"
        ) as e:
            open_checkpoint(tmp_path / "a.pt")
        assert "\n" not in str(e.value)


def test_another_sample_rate_is_refused(tmp_path):
    cfg, state = fairseq()
    for make in SAID:
        torch.save(make(state, {**cfg, "task": {**cfg["task"], "sample_rate": 8000}}), tmp_path / "a.pt")
        with pytest.raises(ModelError, match=r"a\.pt: sample_rate: takes audio at 8000 Hz; textless reads 16000 Hz"):
            load_encoder(tmp_path / "a.pt")


# ----------------------------------------------------------------------------------------------------------- bad input


def contents():
    """One file of each layout: name → what torch.save was given."""
    cfg, state = fairseq()
    made = {make.__name__: make(state, cfg) for make in MADE}
    return made | {name: torch.load(PEERS / name / file, weights_only=True) for name, file in FILES.items()}


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {Evil.mark}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_files_of_every_layout_are_refused_and_run_nothing(tmp_path, legacy):
    Evil.mark = tmp_path / "ran"
    for name, content in contents().items():
        torch.save({**content, "epoch": Evil()}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ModelError, match=r"a\.pt: names (posix|nt)\.system, which could run code; nothing was run"):
            load_encoder(tmp_path / "a.pt", heads=4)
        assert not Evil.mark.exists(), name


def test_half_a_download(tmp_path):
    for name, file in FILES.items():
        whole = (PEERS / name / file).read_bytes()
        for n in (0, 100, len(whole) // 2, len(whole) - 100):
            (tmp_path / "cut.pt").write_bytes(whole[:n])
            with pytest.raises(ModelError, match=r"cut\.pt: ") as e:
                load_encoder(tmp_path / "cut.pt")
            assert "\n" not in str(e.value)


def test_a_parameter_that_is_missing_or_of_another_shape(tmp_path):
    for name in ("minimal_hubert_base", "dinosr"):
        inner = contents()[name]["model"]
        key = next(k for k in inner if k.endswith("layers.1.attention.qkv.weight"))
        torch.save({"model": {k: v for k, v in inner.items() if k != key}}, tmp_path / "a.pt")
        with pytest.raises(ModelError, match=r"a\.pt: has no encoder\.layers\.1\.attention\.q_proj\.weight; the file"):
            load_encoder(tmp_path / "a.pt", heads=2)
        for rows in (385, 383, 3, 0):
            torch.save({"model": {**inner, key: torch.zeros(rows, 128)}}, tmp_path / "a.pt")
            with pytest.raises(ModelError, match=r"qkv\.weight\[\d\] is \(\d+, 128\) float32 where \(128, 128\) is"):
                load_encoder(tmp_path / "a.pt", heads=2)
        torch.save({"model": {**inner, key: torch.full((384, 128), torch.nan)}}, tmp_path / "a.pt")
        with pytest.raises(ModelError, match="holds values that are not numbers"):
            load_encoder(tmp_path / "a.pt", heads=2)


def test_folders_that_hold_no_one_checkpoint(tmp_path):
    (tmp_path / "two").mkdir()
    for name in ("step_1.pt", "step_2.pt"):
        shutil.copy(PEERS / "spidr" / "model.pt", tmp_path / "two" / name)
    for config in (False, True):
        missing = "no weights" if config else "config.json is missing"
        if config:
            shutil.copy(PEERS / "spidr" / "config.json", tmp_path / "two")
        with pytest.raises(
            ModelError,
            match=f"two: not a model folder \\({missing}; it holds .*step_1.pt, step_2.pt\\); "
            r"give one of its checkpoints: step_1\.pt, step_2\.pt$",
        ):
            load_encoder(tmp_path / "two", 1)
    assert load_encoder(tmp_path / "two" / "step_2.pt", 1).contract == load_encoder(PEERS / "spidr", 1).contract
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("")
    with pytest.raises(
        ModelError, match=r"none: not a model folder \(config\.json is missing; it holds notes\.txt\); give a "
    ):
        load_encoder(tmp_path / "none")


def test_another_architecture_is_named_with_what_fits(tmp_path):
    torch.save({"model": {"conv.weight": torch.zeros(3), "lstm.bias": torch.zeros(2)}, "step": 1}, tmp_path / "a.pt")
    with pytest.raises(
        ModelError, match=r"a\.pt: holds another model \(conv\.weight, lstm\.bias\); encoders are read from "
    ) as e:
        load_encoder(tmp_path / "a.pt")
    assert all(layout.what in str(e.value) for layout in LAYOUTS)
    cfg, state = fairseq()
    wavlm = state | {"encoder.layers.0.self_attn.grep_linear.weight": torch.zeros(8, 16)}
    for make in (s3prl, espnet_recogniser):
        torch.save(make(wavlm, cfg), tmp_path / "a.pt")
        with pytest.raises(ModelError, match=r"grep_linear\.weight, which HuBERT does not have"):
            load_encoder(tmp_path / "a.pt", heads=4)
    large = state | {"feature_extractor.conv_layers.1.2.1.weight": torch.zeros(3)}
    torch.save(espnet_fairseq(large, cfg), tmp_path / "a.pt")
    with pytest.raises(ModelError, match="without its configuration"):
        load_encoder(tmp_path / "a.pt", heads=4)
    torch.save({"cfg": {"model": {"_name": "contentvec", "encoder_layers": 12}}, "model": state}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"holds contentvec of fairseq's where .* wanted; give its legacy file"):
        load_encoder(tmp_path / "a.pt")
