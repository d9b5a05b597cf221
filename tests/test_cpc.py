from argparse import Namespace

import numpy as np
import pytest
import torch
from torch import nn

from conftest import GOLDEN
from textless.errors import AudioError, ModelError
from textless.units.dump import open_dump
from textless.units.encoders import cpc
from textless.units.encoders.load import load_encoder

FILE = GOLDEN / "peers" / "cpc" / "cpc.pt"


@pytest.fixture(scope="module")
def theirs():
    """What textlesslib's reader computes from the beginning of `clip`."""
    return np.load(FILE.with_name("expected.npz"))


def close(frames, expected, tolerance=2e-6):
    assert frames.shape == expected.shape
    assert np.abs(frames - expected).max() <= tolerance * np.abs(expected).max()


def change(tmp_path, **entries):
    """The checkpoint with other entries of its configuration or weights (None: removed)."""
    content = torch.load(FILE)
    for name, value in entries.items():
        part = content["config" if name[0] != "g" else "weights"]
        name = name.replace("__", ".")
        if value is None:
            del part[name]
        else:
            part[name] = value
    torch.save(content, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_layer_is_that_of_the_original(theirs, clip, layer):
    encoder = load_encoder(FILE, layer)
    close(encoder.encode(clip[:64000]), theirs[f"layer{layer}_4s"])
    assert (encoder.frame_rate, encoder.dim, encoder.layer) == (100.0, 40, layer)
    assert encoder.contract.window == 0.0
    close(load_encoder(FILE).encode(clip[:64000]), theirs["layer3_4s"])


def test_chunks_and_normalised_frames_are_those_of_the_original(theirs, clip):
    chunked, normalised = load_encoder(FILE, 2, window=4.0), load_encoder(FILE, 2, normalisation="frames_1e-8")
    close(chunked.encode(clip[:96000]), theirs["layer2_chunked_6s"])
    close(normalised.encode(clip[:64000]), theirs["layer2_normalised_4s"], 1e-5)
    whole = load_encoder(FILE, 2)
    assert np.abs(whole.encode(clip[:96000]) - chunked.encode(clip[:96000])).max() > 1e-3
    assert whole.contract.conflict(chunked.contract) == "window"
    assert whole.contract.conflict(normalised.contract) == "normalisation"
    assert chunked.contract.window == 4.0


@pytest.mark.parametrize("options", [{}, {"window": 1.0}, {"normalisation": "frames_1e-8"}])
@pytest.mark.parametrize("samples", [100_000, 64_000, 48_159, 48_100, 15_999, 479])
def test_pieces_are_the_whole(monkeypatch, clip, samples, options):
    """The state of convolutions and LSTM is carried over."""
    encoder, wave = load_encoder(FILE, 2, **options), clip[:samples]
    expected = encoder.encode(wave)
    assert len(expected) == encoder.n_frames(samples) == (samples + 1) // 160
    monkeypatch.setattr(cpc, "PIECE", 1000)
    for size in (7000, 333):
        blocks = [wave[i : i + size] for i in range(0, samples, size)]
        pieces = list(encoder.stream(lambda blocks=blocks: iter(blocks)))
        close(np.concatenate(pieces), expected, 1e-5)
    assert len(pieces) > 1 or samples == 479


def test_naive_in_double_precision(clip):
    """Written out: convolutions over the whole file, an LSTM of three layers, the unbiased variance."""
    weights = {n: w.double() for n, w in torch.load(FILE)["weights"].items()}
    x = torch.from_numpy(clip[:100_000]).double()[None, None]
    for i, (stride, padding) in enumerate(((5, 3), (4, 2), (2, 1), (2, 1), (2, 1))):
        x = nn.functional.conv1d(
            x, weights[f"gEncoder.conv{i}.weight"], weights[f"gEncoder.conv{i}.bias"], stride, padding
        )
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).square().sum(1, keepdim=True) / (x.shape[1] - 1)
        x = (x - mean) / (variance + 1e-5).sqrt()
        x = (x * weights[f"gEncoder.batchNorm{i}.weight"] + weights[f"gEncoder.batchNorm{i}.bias"]).relu()
    lstm = nn.LSTM(48, 40, 3, batch_first=True).double()
    lstm.load_state_dict({n.removeprefix("gAR.baseNet."): w for n, w in weights.items() if n.startswith("gAR.")})
    with torch.inference_mode():
        expected = lstm(x.transpose(1, 2))[0][0]
        close(load_encoder(FILE).encode(clip[:100_000]), expected.numpy(), 1e-5)
        expected = (expected - expected.mean(0)) / (expected.var(0) + 1e-8).sqrt()
    close(load_encoder(FILE, normalisation="frames_1e-8").encode(clip[:100_000]), expected.numpy(), 1e-4)


def test_a_rest_shorter_than_a_frame_adds_none(clip):
    encoder = load_encoder(FILE, 2, window=1.0)
    whole, longer = encoder.encode(clip[:32000]), encoder.encode(clip[:32100])
    assert len(longer) == len(whole) == 200
    np.testing.assert_array_equal(whole, longer)


def test_the_hash_is_of_the_layers_below(tmp_path):
    contract = load_encoder(FILE, 2).contract
    above, below = torch.ones(160, 40), torch.ones(160, 48)
    assert load_encoder(change(tmp_path, gAR__baseNet__weight_ih_l2=above), 2).contract == contract
    changed = load_encoder(change(tmp_path, gAR__baseNet__weight_ih_l0=below), 2).contract
    assert changed.conflict(contract) == "encoder"
    assert load_encoder(change(tmp_path, gHead__weight=torch.ones(3)), 2).contract == contract
    assert len({load_encoder(FILE, n).contract.encoder for n in (1, 2, 3)}) == 3


def test_bad_input(tmp_path, clip):
    for samples in (158, 0):
        with pytest.raises(AudioError, match=rf"^{samples} samples are shorter than one frame \(159 samples at 16"):
            load_encoder(FILE).encode(clip[:samples])
    assert load_encoder(FILE).encode(clip[:159]).shape == (1, 40)
    for layer in (0, 4):
        with pytest.raises(ModelError, match=rf"cpc\.pt: layer {layer} does not exist: the encoder has layers 1 to 3"):
            load_encoder(FILE, layer)
    with pytest.raises(ModelError, match=r"window is 0\.001 s, but the chunks of a CPC are multiples of 0.01 s"):
        load_encoder(FILE, window=0.001)
    with pytest.raises(ModelError, match="normalisation is 'zscore_1e-7'; known: none, frames_1e-8"):
        load_encoder(FILE, normalisation="zscore_1e-7")
    with pytest.raises(ModelError, match="tap is 'ffn'"):
        load_encoder(FILE, tap="ffn")
    nan = torch.full((160, 40), float("nan"))
    for entries, message in (
        ({"nLevelsGRU": 4}, "nLevelsGRU is 4 but there are weights of 3"),
        ({"nLevelsGRU": "3"}, "nLevelsGRU is '3' where a whole number"),
        ({"hiddenGar": 41}, r"is \(160, 48\) where its configuration asks for \(164, 48\)"),
        ({"hiddenEncoder": 10**9}, "hiddenEncoder is 1000000000 where a whole number"),
        ({"hiddenEncoder": None}, "hiddenEncoder is None"),
        ({"cpc_mode": "reverse"}, "cpc_mode is 'reverse'; only a CPC that reads forwards"),
        ({"gEncoder__conv3__bias": None}, r"has no gEncoder\.conv3\.bias"),
        ({"gEncoder__batchNorm0__running_mean": torch.ones(48)}, "has gEncoder.batchNorm0.running_mean, for which"),
        ({"gAR__baseNet__weight_hh_l1": nan}, "gAR.baseNet.weight_hh_l1 holds values that are not numbers"),
        ({"gAR__baseNet__weight_hh_l0": torch.ones(120, 40)}, r"weight_hh_l0 is \(120, 40\) where"),  # a GRU's
    ):
        with pytest.raises(ModelError, match=rf"changed\.pt: .*{message}"):
            load_encoder(change(tmp_path, **entries))
    for size in (1000, 100_000):
        (tmp_path / "cut.pt").write_bytes(FILE.read_bytes()[:size])
        with pytest.raises(ModelError, match=r"cut\.pt: is cut short, damaged"):
            load_encoder(tmp_path / "cut.pt")


def test_an_old_checkpoint_with_a_namespace(tmp_path, clip):
    """As torch wrote it before 1.6, and CPC_audio's own configuration."""
    content = torch.load(FILE)
    content["config"] = Namespace(**content["config"], arMode="LSTM", cpc_mode=None)
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    expected = load_encoder(FILE, 2)
    encoder = load_encoder(tmp_path / "old.pt", 2)
    assert encoder.contract == expected.contract
    np.testing.assert_array_equal(encoder.encode(clip[:16000]), expected.encode(clip[:16000]))


def test_units_by_the_command(speech, tmp_path, textless_command):
    np.save(tmp_path / "km.npy", np.random.default_rng(0).standard_normal((7, 40)).astype(np.float32) / 10)
    code, _, err = textless_command(
        "encode", speech, "-o", tmp_path / "dump", "--encoder", FILE, "--layer", 2, "--codebook", tmp_path / "km.npy",
        model=None,
    )  # fmt: skip
    assert code == 0, err
    dump = open_dump(tmp_path / "dump")
    assert (dump.contract.encoder, dump.contract.layer) == (load_encoder(FILE, 2).contract.encoder, 2)
    assert dump.contract.frame_rate == 100.0
    assert {row.id: row.units.n_frames for row in dump} == {"a": 100, "b": 118, "c": 137}
