"""SpidR's and DinoSR's heads as quantizers, held against the units that their own code predicts."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from conftest import GOLDEN
from textless.engine.store import Store
from textless.engine.yaml import load_pipeline
from textless.errors import ContractError, ModelError
from textless.model import Model
from textless.steps import STEPS
from textless.units.dump import open_dump
from textless.units.encoders.load import load_encoder
from textless.units.head import Head
from textless.units.quantizers import load_codebook
from textless.units.tokenizer import Tokenizer

PEERS = GOLDEN / "peers"


@pytest.fixture(scope="module")
def wave():
    return soundfile.read(PEERS / "clip.flac", dtype="float32")[0]


@pytest.fixture
def changed(tmp_path):
    """A function that writes SpidR's checkpoint with other tensors (None: removed) to a folder without its config."""

    def write(**tensors):
        content = torch.load(PEERS / "spidr" / "model.pt")
        for name, tensor in tensors.items():
            name = name.replace("__", ".")
            if tensor is None:
                del content["model"][name]
            else:
                content["model"][name] = tensor
        torch.save(content, tmp_path / "changed.pt")
        return tmp_path / "changed.pt"

    return write


@pytest.mark.parametrize("name", ["spidr", "dinosr"])
@pytest.mark.parametrize("layer", [3, 4])
def test_units_are_those_of_the_original(wave, name, layer):
    file = PEERS / name / "model.pt"
    head = load_codebook(file, layer)
    assert (head.n_units, head.dim) == (20, 128)
    assert (head.contract.layer, head.contract.tapped) == ((layer, "ffn") if name == "spidr" else (4, "block"))
    encoder = load_encoder(file, head.contract.layer, tap=head.contract.tapped)
    units = Tokenizer(encoder, head).encode(wave)  # the contracts agree
    scores = np.sort(encoder.encode(wave) @ head.weight.T + head.bias, 1)
    expected = np.load(PEERS / name / "expected.npz")[f"codebook{layer}"]
    same = units.frames() == expected
    assert same[scores[:, -1] - scores[:, -2] > 1e-4].all()
    assert same.mean() > 0.98


def test_the_last_block_is_the_default_and_a_name_may_say_another():
    file = PEERS / "spidr" / "model.pt"
    assert load_codebook(file).contract == load_codebook(file, 4).contract == load_codebook(f"{file}#4").contract
    assert load_codebook(f"{file}#3").contract.layer == 3


def test_scores_written_out():
    rng = np.random.default_rng(0)
    weight, bias, frames = rng.standard_normal((7, 5)), 2 * rng.standard_normal(7), rng.standard_normal((50, 5))
    scores = [[float(weight[k] @ frame) + bias[k] for k in range(7)] for frame in frames]
    np.testing.assert_array_equal(Head(weight, bias).predict(frames), np.argmax(scores, 1))
    assert len(set(np.argmax(scores, 1))) > 2
    assert Head(weight, bias).contract.codebook != Head(weight, bias + 1).contract.codebook


def test_frames_of_another_kind_are_refused():
    spidr, dinosr = PEERS / "spidr" / "model.pt", PEERS / "dinosr" / "model.pt"
    for head, encoder, message in (
        (f"{spidr}#3", load_encoder(spidr, 4), "encoder is|layer is 3 in the codebook but 4 in the encoder"),
        (f"{spidr}#4", load_encoder(spidr, 4, tap="block"), "encoder is|tap is ffn"),
        (f"{dinosr}#4", load_encoder(dinosr, 4), "encoder is|tap is block"),  # its own default is ffn
        (f"{spidr}#4", load_encoder(dinosr, 4), "encoder is"),
        (f"{spidr}#4", load_encoder("mfcc"), "has 128 dimensions but the encoder 39"),
    ):
        with pytest.raises(ContractError, match=message):
            Tokenizer(encoder, load_codebook(head))


def test_a_checkpoint_without_its_configuration_needs_the_tap(changed, tmp_path):
    file = changed()
    with pytest.raises(ModelError, match=r"changed\.pt: does not say whether it is SpidR or DinoSR"):
        load_codebook(file)
    for settings in ({}, {"model": []}, {"model": {"encoder_num_heads": 2}}):
        (tmp_path / "config.json").write_text(json.dumps(settings))
        with pytest.raises(ModelError, match=r"SpidR or DinoSR.*|config\.json: model is \[\]"):
            load_codebook(file)
    with_config, spidr = load_codebook(PEERS / "spidr" / "model.pt", 3), load_codebook(file, 3, tap="ffn")
    assert spidr.contract == with_config.contract
    np.testing.assert_array_equal(spidr.weight, with_config.weight)
    assert load_codebook(file, 3, tap="block").contract.layer == 4
    with pytest.raises(ModelError, match="the heads take the tap 'ffn', not 'block'; leave the tap out"):
        load_codebook(PEERS / "spidr" / "model.pt", tap="block")


def test_bad_input(changed, tmp_path):
    file = PEERS / "spidr" / "model.pt"
    for layer in (2, 5):
        with pytest.raises(ModelError, match=rf"model\.pt: block {layer} has no head; the blocks 3 to 4 have one"):
            load_codebook(file, layer)
    shutil.copy(file.with_name("config.json"), tmp_path)
    for tensors, message in (
        ({"heads__1__0__bias": None}, r"has no heads\.1\.0\.bias"),
        ({"heads__1__0__bias": torch.ones(3)}, r"weights \(K, D\) and biases \(K,\), not \(20, 128\) and \(3,\)"),
        ({"heads__1__0__weight": torch.full((20, 128), float("inf"))}, "holds values that are not numbers"),
    ):
        with pytest.raises(ModelError, match=rf"changed\.pt: .*{message}"):
            load_codebook(changed(**tensors))
    (tmp_path / "cut.pt").write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"cut\.pt: is cut short, damaged"):
        load_codebook(tmp_path / "cut.pt")


def test_units_by_model_command_and_step(speech, tmp_path, textless_command):
    spidr = PEERS / "spidr" / "model.pt"
    options = "--encoder", spidr, "--codebook", f"{spidr}#3"
    code, _, err = textless_command("encode", speech, "-o", tmp_path / "dump", *options, model=None)
    assert code == 0, err
    assert Model("tiny-en", encoder=str(spidr), codebook=str(spidr), layer=3).tokenizer.contract.layer == 3
    (tmp_path / "p.yaml").write_text(
        f"""steps:
  corpus: {{manifest: {speech}}}
  spidr:  {{step: model, file: {spidr}}}
  encode: {{audio: $corpus, encoder: $spidr, codebook: $spidr, layer: 3}}
  frames: {{audio: $corpus, encoder: $spidr, layer: 3}}
  assign: {{frames: $frames, codebook: $spidr}}
"""
    )
    pipeline, store = load_pipeline(tmp_path / "p.yaml", STEPS), Store(tmp_path / "store")
    pipeline.run(store)
    folders = [tmp_path / "dump", *(store.folder(pipeline.steps[name]) for name in ("encode", "assign"))]
    rows = [{row.id: row.units for row in open_dump(folder)} for folder in folders]
    assert rows[0] == rows[1] == rows[2]
    assert {units.contract.tap for units in rows[0].values()} == {"ffn"}
