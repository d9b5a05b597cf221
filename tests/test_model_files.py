"""Models of others, damaged or hostile: what is refused before memory is taken, and what is part of their identity."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from test_hifigan import make as make_hifigan

import textless
from conftest import GOLDEN
from textless.errors import DeviceError, ModelError, TextlessError
from textless.lm import LMConfig, UnitLM
from textless.model_io import model_files, read_json
from textless.pickles import load_torch, plain
from textless.steps import STEPS
from textless.types import UnitContract
from textless.units.encoders.convert import open_checkpoint
from textless.units.encoders.hubert import CONVENTION, PRESETS, Hubert, HubertConfig
from textless.units.encoders.hubert_encoder import HubertEncoder, save_encoder
from textless.units.encoders.load import save_projected
from textless.units.kmeans import Codebook
from textless.units.mfcc_lda.ladder import LadderEncoder
from textless.units.mfcc_lda.lda import LdaEncoder
from textless.units.quantizers import load_codebook
from textless.vocoder import UnitVocoder, VocoderConfig, load_vocoder

SHAPE = {"conv_dim": 8, "dim": 16, "layers": 2, "heads": 2, "ffn_dim": 32, "pos_conv_kernel": 8, "pos_conv_groups": 2}
CONTRACT = UnitContract(n_units=5, frame_rate=50.0, sample_rate=16000)


def hubert(**changes):
    torch.manual_seed(0)
    return Hubert(HubertConfig(**{**SHAPE, **changes})).eval()


@pytest.fixture
def folders(tmp_path):
    """A folder of each kind of ours, by its part or kind."""
    torch.manual_seed(0)
    made = {name: tmp_path / name for name in ("encoder", "lm", "vocoder", "codebook", "lda", "projected")}
    save_encoder(made["encoder"], hubert())
    UnitLM(LMConfig(n_units=5, dim=8, layers=2, heads=2, ffn_dim=16, context=16), CONTRACT).save(made["lm"])
    UnitVocoder(VocoderConfig(n_units=5, speakers=("a",), dim=8, ffn_dim=16, layers=2, f0=True), CONTRACT).save(
        made["vocoder"]
    )
    Codebook(np.eye(5), CONTRACT).save(made["codebook"])
    LdaEncoder(np.ones((91, 3), np.float32)).save(made["lda"])
    save_projected(made["projected"], made["encoder"], np.ones((16, 3), np.float32), layer=1)
    return made


def fairseq_hubert():
    content = load_torch(GOLDEN / "hubert_base.pt")
    return {"cfg": plain(content["cfg"]), "model": dict(content["model"])}


LOAD = {
    "encoder": textless.load_encoder,
    "lda": textless.load_encoder,
    "projected": textless.load_encoder,
    "lm": textless.load_lm,
    "vocoder": load_vocoder,
    "codebook": load_codebook,
}


def edit(folder: Path, **changes) -> None:
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def refused(call, *words) -> str:
    with pytest.raises(TextlessError) as e:
        call()
    text = str(e.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text, text
    return text


# ------------------------------------------------------------------------------------------------ numbers that are none


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("kind", LOAD)
def test_values_that_are_not_numbers(folders, kind, value, dtype):
    folder = folders[kind]
    tensors = {name: t.astype(dtype) for name, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    LOAD[kind](folder)
    name = sorted(tensors)[0]
    tensors[name].flat[-1] = value
    save_file(tensors, folder / "model.safetensors")
    refused(lambda: LOAD[kind](folder), name, kind)


@pytest.mark.parametrize("kind", LOAD)
def test_values_that_are_not_numbers_in_float32(folders, kind):
    """float64 holds them, and they become infinite when the model is made."""
    folder = folders[kind]
    tensors = {name: t.astype(np.float64) for name, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    LOAD[kind](folder)
    name = sorted(tensors)[0]
    tensors[name].flat[-1] = -1e39
    save_file(tensors, folder / "model.safetensors")
    refused(lambda: LOAD[kind](folder), name, kind)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64])
@pytest.mark.parametrize("kind", LOAD)
def test_weights_that_are_integers(folders, kind, dtype):
    folder = folders[kind]
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].astype(dtype)
    save_file(tensors, folder / "model.safetensors")
    refused(lambda: LOAD[kind](folder), name, np.dtype(dtype).name)


@pytest.mark.parametrize("kind", [[], {}, None, 5])
def test_kinds_of_another_type(folders, kind):
    for name, folder in folders.items():
        if name in LOAD:
            edit(folder, kind=kind)
            refused(lambda name=name, folder=folder: LOAD[name](folder), folder)


@pytest.mark.parametrize("suffix", [".npy", ".bin"])
def test_centroids_that_are_not_numbers(tmp_path, suffix):
    def write(centroids):
        path = tmp_path / f"km{suffix}"
        np.save(path, centroids) if suffix == ".npy" else joblib.dump(centroids, path)
        return path

    assert load_codebook(write(np.eye(3))).n_units == 3
    for wrong, word in (
        (np.full((3, 2), np.nan), "NaN or infinite"),
        (np.full((3, 2), 1e300), "NaN or infinite"),
        (np.zeros((3, 2), complex), "complex128"),
        (np.array([["1", "2"]]), "U1"),
        (np.zeros((3, 0)), "shape (3, 0)"),
        (np.zeros(3), "shape (3,)"),
    ):
        path = write(wrong)
        refused(lambda path=path: load_codebook(path), path.name, word)


def test_a_header_may_say_any_size(tmp_path):
    from numpy.lib.format import write_array_header_1_0

    with open(tmp_path / "km.npy", "wb") as f:
        write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6)})
        f.write(bytes(100))
    refused(lambda: load_codebook(tmp_path / "km.npy"), "km.npy: not a .npy of centroids")


@pytest.mark.parametrize("kind", ["fairseq", "hifigan", "weight norm", "ulm"])
def test_pickled_values_that_are_not_numbers(tmp_path, kind):
    if kind == "ulm":
        from textless.lm.gslm.fairseq import rename

        state = {"decoder.embed_tokens.weight": torch.full((8, 4), math.nan)}
        refused(
            lambda: rename("lm.pt", state, shared=True),
            "lm.pt: decoder.embed_tokens.weight holds values that are not numbers",
        )
        return
    if kind == "fairseq":
        content = fairseq_hubert()
        part, name, path, load = (
            content["model"],
            "encoder.layers.1.fc1.weight",
            tmp_path / "hubert.pt",
            textless.load_encoder,
        )
    else:
        path, load = make_hifigan(tmp_path), load_vocoder
        content = load_torch(path)
        part = content["generator"] = {
            name: t.clone() for name, t in content["generator"].items()
        }  # apart from the file
        name = next(n for n in sorted(part) if n.endswith("weight_g") == (kind == "weight norm"))
    part[name] = part[name].clone()
    part[name].view(-1)[0] = math.inf
    torch.save(content, path)
    refused(lambda: load(path), path.name, name, "not numbers")


# ------------------------------------------------------------------------------------------------ absurd configurations

ABSURD = {
    "encoder": {
        "layers": (10**8, -1, 0, "six", True, 2.0, None, 3),
        "dim": (10**9, 0, "16", 1e400, [16]),
        "heads": (0, 3, 10**9),
        "ffn_dim": (10**12, -4),
        "conv_dim": ([8] * 7, 0, 10**9),
        "pos_conv_kernel": (0, 10**9),
        "pos_conv_groups": (0, 3),
        "pre_ln": ("yes", 1),
        "conv_norm": ("batch", ["group"]),
        "normalisation": ("loud", None),
        "sample_rate": (8000, 0, "16000", 44100),
    },
    "lm": {
        "n_units": (10**12, 10**7, 1, "5", True),
        "dim": (10**9, 0, 8.0, [8]),
        "layers": (10**8, 0, "six", True),
        "heads": (0, 3, -2),
        "ffn_dim": (10**9, None),
        "context": (10**9, 0, "16"),
        "max_duration": (10**8, 0),
        "rope_theta": (math.nan, 0, "x"),
        "norm_eps": (math.inf, -1e-5),
        "contract": (5, None, {"n_units": 7}, {"colour": 1}),
    },
    "vocoder": {
        "n_units": (10**12, -5),
        "speakers": ([], ["a", "a"], [1], "a", ["a", "b"]),
        "dim": (10**9, 0),
        "layers": (10**8, 0, "two"),
        "kernel": (10**8, 0, 4),
        "hop": (0, 10**9, 160),
        "n_fft": (10**9, 0, 640),
        "sample_rate": (0, 8000, 10**9),
        "pitch_layers": (10**8, 0),
        "upsample": (2, True),
        "f0": ("yes",),
    },
    "projected": {
        "context": (-1, 10**9, True),
        "layer": (0, "1"),
        "base": (5, "../encoder", None),
        "normalisation": (1,),
    },
    "codebook": {"contract": (None, 5), "distances": ([1], {"mean": "x"}, {"mean": math.nan})},
}


@pytest.mark.parametrize(("kind", "field"), [(k, f) for k, fields in ABSURD.items() for f in fields])
def test_configurations_that_no_model_has(folders, kind, field):
    for value in ABSURD[kind][field]:
        text = (folders[kind] / "config.json").read_text()
        edit(folders[kind], **{field: value})
        text_of_error = refused(lambda: LOAD[kind](folders[kind]), str(folders[kind]))
        assert "memory" not in text_of_error.lower()
        (folders[kind] / "config.json").write_text(text)
    LOAD[kind](folders[kind])


def test_the_field_and_what_is_allowed_are_named(folders):
    for kind, changes, said in (
        ("encoder", {"layers": 10**8}, "the number of layers is 100000000 but there are weights of 2"),
        ("encoder", {"dim": "16"}, "config.json: dim is '16' where a whole number from 1 to 16777216 is wanted"),
        ("encoder", {"pos_conv_groups": 3}, "pos_conv_groups is 3, which does not divide dim (16)"),
        ("encoder", {"sample_rate": 8000}, "config.json: sample_rate is 8000; known: 16000"),
        ("lm", {"rope_theta": math.nan}, "config.json: rope_theta is nan where a number above 0 is wanted"),
        (
            "lm",
            {"n_units": 10**7, "contract": {}},
            "embed.weight is (6, 8) where its configuration asks for (10000001, 8)",
        ),
        ("vocoder", {"layers": 10**8}, "layers is 100000000 but there are weights of 2"),
        ("vocoder", {"speakers": [1]}, "config.json: speakers is (1,) where a list, each a text is wanted"),
    ):
        text = (folders[kind] / "config.json").read_text()
        edit(folders[kind], **changes)
        refused(lambda kind=kind: LOAD[kind](folders[kind]), said)
        (folders[kind] / "config.json").write_text(text)


def test_json_that_is_no_configuration(folders):
    config = folders["lm"] / "config.json"
    config.write_text("[" * 100_000)
    refused(lambda: textless.load_lm(folders["lm"]), "config.json: not JSON that can be read (nested too deeply)")
    with open(config, "wb") as f:
        f.truncate(1 << 30)  # of which nothing is read
    refused(lambda: textless.load_lm(folders["lm"]), "config.json: has 1024 MiB, which is no configuration")


def test_hifigans_that_nobody_made(tmp_path):
    path = make_hifigan(tmp_path)
    config = read_json(tmp_path / "config.json")
    for changes, said in (
        ({"upsample_rates": [5, 10**6]}, "upsample_rates"),
        ({"upsample_rates": [1] * 10**5}, "64 at most"),
        ({"num_embeddings": -1}, "num_embeddings is '-1'"),
        ({"num_embeddings": 10**6}, "dict.weight"),
        ({"sampling_rate": 0}, "sampling_rate is 0 where a whole number from 1000 to 768000 is wanted"),
        ({"sampling_rate": "16000"}, "sampling_rate is '16000'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        refused(lambda: load_vocoder(path), said)
    (tmp_path / "config.json").write_text(json.dumps({**config, "sampling_rate": 24000}))
    assert load_vocoder(path).sample_rate == 24000  # which is what its files are written at


def transformers_folder(folder: Path, **config) -> Path:
    folder.mkdir(exist_ok=True)
    shape = {
        "model_type": "hubert",
        "conv_dim": [8] * 7,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    shape |= {"intermediate_size": 32, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    (folder / "config.json").write_text(json.dumps({**shape, **config}))
    state = {name: t.contiguous().numpy() for name, t in hubert().state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("foreign", [False, True])
def test_transformers_folders_of_absurd_values(tmp_path, foreign):
    if foreign:
        pytest.importorskip("transformers")
    also = {"layer_norm_eps": 1e-6} if foreign else {}  # which `Hubert` cannot be, and transformers can
    assert textless.load_encoder(transformers_folder(tmp_path / "h", **also)).dim == 16
    for field, *values in (
        ("num_hidden_layers", 10**8, 0, -1, "six", True, 3),
        ("num_attention_heads", 0, 3, 10**9, "2"),
        ("hidden_size", 10**9, 0, "16"),
        ("intermediate_size", 10**12, -1),
        ("num_conv_pos_embedding_groups", 0, 3),
        ("conv_dim", [8] * 10**5, [], [0] * 7, ["8"] * 7, 8, None),
        ("conv_kernel", [0] * 7, 5, [10, 3]),
        ("conv_stride", [0] * 7, "52", [5] * 9),
        ("layer_norm_eps", math.nan, "x", -1),
        ("hidden_act", ["gelu"], 5),
    ):
        for value in values:
            folder = transformers_folder(tmp_path / "h", **{**also, field: value})
            refused(lambda folder=folder: textless.load_encoder(folder), str(folder))


@pytest.mark.parametrize("foreign", [False, True])
def test_audio_at_another_rate(tmp_path, foreign):
    if foreign:
        pytest.importorskip("transformers")
    folder = transformers_folder(tmp_path / "h", **({"layer_norm_eps": 1e-6} if foreign else {}))
    for rate in (16000, None, 16000.0):
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "sampling_rate": rate}))
        assert textless.load_encoder(folder).contract.sample_rate == 16000
    for rate in (8000, 44100, "16000", 0, True, [16000]):
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "sampling_rate": rate}))
        refused(lambda: textless.load_encoder(folder), rate, "textless reads 16000 Hz")
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": "false"}))
    refused(lambda: textless.load_encoder(folder), "do_normalize", "'false' where true or false is wanted")


def test_a_fairseq_task_of_another_rate(tmp_path):
    content = fairseq_hubert()
    cfg = content["cfg"]
    for task, said in (
        ({"sample_rate": 8000}, "sample_rate: takes audio at 8000 Hz"),
        ({"normalize": "yes"}, "normalize is 'yes'"),
    ):
        torch.save({"cfg": {**cfg, "task": {**cfg["task"], **task}}, "model": content["model"]}, tmp_path / "a.pt")
        refused(lambda: textless.load_encoder(tmp_path / "a.pt"), "a.pt", said)
    for field, value in (
        ("encoder_layers", 10**8),
        ("encoder_attention_heads", 5),
        ("conv_pos", 0),
        ("extractor_mode", ["default"]),
    ):
        torch.save(
            {"cfg": {**cfg, "model": {**cfg["model"], field: value}}, "model": content["model"]}, tmp_path / "a.pt"
        )
        refused(lambda: textless.load_encoder(tmp_path / "a.pt"), "a.pt")


def torchaudio_state(model):
    state = {}
    for name, tensor in model.state_dict().items():
        if name != "masked_spec_embed":
            name = name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            )
            name = (
                f"encoder.{name}"
                if name.startswith("feature_projection")
                else name.replace("encoder.", "encoder.transformer.", 1)
            )
            state[name] = tensor.clone()
    return state


def test_heads_that_a_state_dict_does_not_say(tmp_path):
    wide = hubert(dim=768, heads=12, layers=1, ffn_dim=8, pos_conv_kernel=2, pos_conv_groups=16)
    torch.save(torchaudio_state(wide), tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").load().config.heads == 12
    torch.save(torchaudio_state(hubert()), tmp_path / "b.pt")
    refused(lambda: textless.load_encoder(tmp_path / "b.pt"), "attention heads", "768, 1024, 1280, 1920", "not for 16")


def test_text_models_of_absurd_values(tmp_path):
    transformers = pytest.importorskip("transformers")
    from textless.lm import from_causal

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    folder = tmp_path / "llama"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    from_causal(folder, CONTRACT)
    text = (folder / "config.json").read_text()
    for changes, said in (
        ({"num_hidden_layers": 10**8}, "has 100000000 layers but there are weights of 2"),
        ({"num_hidden_layers": 0}, "layers is 0"),
        ({"vocab_size": 10**9}, "asks for"),
        ({"hidden_size": 10**7}, "asks for"),
    ):
        edit(folder, **changes)
        refused(lambda: from_causal(folder, CONTRACT), said)
        (folder / "config.json").write_text(text)
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] = np.full_like(state["model.norm.weight"], np.nan)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    refused(lambda: from_causal(folder, CONTRACT), "model.norm.weight holds values that are not numbers")


# ------------------------------------------------------------------------------------------------------------- identity


def test_what_weights_do_not_show_is_part_of_the_identity(folders):
    seen = set()
    for changes in ({}, {"heads": 4}, {"pos_conv_groups": 4, "pos_conv_kernel": 16}):
        seen.add(HubertEncoder(hubert(**changes), 2).contract.encoder)
    assert len(seen) == 3
    a, b = hubert(), hubert(heads=4)
    b.load_state_dict(a.state_dict())
    assert HubertEncoder(a, 1).contract.encoder != HubertEncoder(b, 1).contract.encoder


def test_models_of_the_usual_shape_keep_their_identity():
    """Dumps, language models and vocoders carry these hashes."""
    from hashlib import sha256

    from textless.units.encoders.hubert_encoder import encoder_hash

    assert {1024: (16, 16), 1280: (16, 16), 1920: (16, 16), 768: (12, 16)}.items() <= CONVENTION.items()
    assert all(CONVENTION[c.dim] == (c.heads, c.pos_conv_groups) for c in PRESETS.values())
    torch.manual_seed(0)
    model = Hubert(PRESETS["nano"]).truncate(1).fold_weight_norm()
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name != "masked_spec_embed":
            digest.update(name.encode() + tensor.detach().numpy().tobytes())
    assert encoder_hash(model) == digest.hexdigest()


def test_identities_of_transformers_models(tmp_path):
    pytest.importorskip("transformers")
    made = {}
    for n, changes in enumerate(({}, {"num_attention_heads": 4}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-3})):
        folder = transformers_folder(tmp_path / str(n), **{"layer_norm_eps": 1e-6, **changes})
        made[n] = textless.load_encoder(folder, 1).contract.encoder
    assert len(set(made.values())) == 4


def test_published_configurations_hash_no_more_than_weights():
    transformers = pytest.importorskip("transformers")
    from textless.units.encoders.transformers import unshown

    kernels, strides = [10, 3, 3, 3, 3, 2, 2, 2], [5, 2, 2, 2, 2, 2, 2, 2]
    for config in (
        transformers.WavLMConfig(),
        transformers.WavLMConfig(hidden_size=1024, num_attention_heads=16, do_stable_layer_norm=True),
        transformers.Wav2Vec2BertConfig(),
        transformers.Data2VecAudioConfig(),
        transformers.HubertConfig(conv_dim=[512] * 8, conv_kernel=kernels, conv_stride=strides),  # mHuBERT at 25 Hz
        transformers.Wav2Vec2Config(hidden_size=1920, num_attention_heads=16),
    ):
        assert unshown(config) == {}
    assert unshown(transformers.WavLMConfig(max_bucket_distance=400)) == {"max_bucket_distance": 400}
    assert unshown(transformers.HubertConfig(conv_stride=[2, 5, 2, 2, 2, 2, 2])) == {
        "conv_stride": [2, 5, 2, 2, 2, 2, 2]
    }


# ----------------------------------------------------------------------------------------------------- files of a model


def test_every_file_that_is_read_is_listed(folders, tmp_path):
    assert set(model_files(folders["encoder"])) == {"config.json", "model.safetensors"}
    (folders["encoder"] / "README.md").write_text("notes")  # is not read
    (folders["encoder"] / "manifest.json").write_text("{}")
    assert set(model_files(folders["encoder"])) == {"config.json", "model.safetensors"}
    shutil.copy(folders["encoder"] / "model.safetensors", folders["projected"] / "base" / "checkpoint")
    edit(folders["projected"], base="base/checkpoint")
    assert "base/checkpoint" in model_files(folders["projected"])
    edit(folders["projected"], base="../encoder/README.md")
    assert not any("README" in name for name in model_files(folders["projected"]))
    path = make_hifigan(tmp_path / "voice")
    for name in ("speakers.txt", "styles.txt", "dict.txt", "f0_stats.th", "notes.txt"):
        (path.parent / name).write_text("a")
    edit(path.parent, f0_stats="somewhere/f0_stats.th")
    assert set(model_files(path)) == {"", "config.json", "speakers.txt", "styles.txt", "dict.txt", "f0_stats.th"}


def test_a_folder_is_done_for_a_model_with_other_names_no_more(tmp_path):
    """`resynth` into a folder: what it was made with includes the files next to a checkpoint."""
    from textless.cli.outputs import hash_model

    path = make_hifigan(tmp_path)
    before = hash_model(path)
    (tmp_path / "speakers.txt").write_text("a")
    assert hash_model(path) != before


# ---------------------------------------------------------------------------------------------------- speakers, devices


@pytest.mark.parametrize("kind", ["ours", "hifigan"])
def test_names_of_speakers_that_are_numbers(tmp_path, kind):
    names = ("eve", "3", "1088", "19")
    if kind == "ours":
        vocoder = UnitVocoder(VocoderConfig(n_units=5, speakers=names, dim=8, ffn_dim=16, layers=1), CONTRACT)
    else:
        vocoder = type("Voices", (), {"speakers": names})()
        from textless.vocoder.hifigan.model import UnitHifiGan

        vocoder.speaker_index = UnitHifiGan.speaker_index.__get__(vocoder)
    for given, index in (
        (None, 0),
        ("eve", 0),
        ("3", 1),  # a name wins over an index in a string
        (3, 3),  # and an index over a name in a number
        (np.int64(3), 3),
        ("0", 0),
        ("2", 2),
        ("1088", 2),
        (1088, 2),
        (19, 3),
        (np.int32(1088), 2),
    ):
        assert vocoder.speaker_index(given) == index, given
    for given in ("01", " 19", "19 ", "+1", "EVE", "4", "-1", -1, 4, True, 1.0, "", "１"):
        refused(
            lambda given=given: vocoder.speaker_index(given), f"no speaker {given!r}", "eve, 3, 1088, 19, or 0 to 3"
        )
    refused(lambda: vocoder.speaker_index("Eve"), "did you mean 'eve'?")


def test_a_number_in_yaml_is_a_name_first(tmp_path):
    step = STEPS["resynth"](units=None, vocoder=None, speaker=19)
    assert step.settings() == STEPS["resynth"](units=None, vocoder=None, speaker="19").settings()


def test_devices_are_checked_wherever_one_is_named(folders):
    from textless.audio.f0 import track_f0

    for name in ("gpu0", "cuda:99", "mps"):
        for call in (
            lambda name=name: textless.load_encoder("mfcc", device=name),
            lambda name=name: textless.load_encoder(folders["encoder"], device=name),
            lambda name=name: textless.load("tiny-en", device=name),
            lambda name=name: track_f0([np.zeros(1000, np.float32)], device=name),
        ):
            with pytest.raises(DeviceError, match=name.partition(":")[0]):
                call()


# ------------------------------------------------------------------------------------------------------------------- F0


@pytest.mark.parametrize("rate", [50.0, 100.0, None])
def test_f0_of_another_rate(tmp_path, rate):
    from textless.engine.job import Job
    from textless.errors import TrainingError
    from textless.steps.vocoder import f0_of
    from textless.units.frames import write_frames

    write_frames(tmp_path / "data" / "00000", [("a", np.ones((4, 1), np.float32))], dim=1)
    (tmp_path / "frames.json").write_text(json.dumps({"frame_rate": 50.0}))
    job = Job(tmp_path / "made", {"f0": tmp_path}, lambda *a: None)
    if rate == 100.0:
        with pytest.raises(
            TrainingError, match=r"units have 100 frames a second and F0 has 50\.0; give F0 with frame_rate: 100"
        ):
            f0_of(job, rate)
    else:
        assert f0_of(job, rate)["a"].tolist() == [1, 1, 1, 1]


def test_f0_of_another_length_names_both_rates():
    vocoder = UnitVocoder(
        VocoderConfig(n_units=5, speakers=("a",), dim=8, ffn_dim=16, layers=1, f0=True), CONTRACT
    ).eval()
    refused(lambda: vocoder.resynth(np.zeros(10, int), f0=np.zeros(20)), "(100 a second to 50)")


def test_a_ladder_of_another_shape(tmp_path):
    from textless.units.mfcc_lda.ladder import Voice
    from textless.units.mfcc_lda.vtln import DIM

    LadderEncoder(Voice(torch.zeros(DIM, 3), torch.zeros(4, 3))).save(tmp_path)
    assert textless.load_encoder(tmp_path).dim == 3
    save_file(
        {"projection": np.zeros((DIM, 3), np.float32), "centroids": np.zeros((4, 2), np.float32)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ModelError, match="do not fit"):
        textless.load_encoder(tmp_path)
