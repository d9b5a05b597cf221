"""The distance of audio from a codebook's training data: kept by the codebook, printed by `encode -v`, warned of."""

import json

import numpy as np
import pytest
import soundfile
import torch

from textless.model import Model, bundle
from textless.types import UnitContract
from textless.units.dump import open_dump
from textless.units.encoders.hubert import PRESETS, Hubert
from textless.units.encoders.hubert_encoder import HubertEncoder, save_encoder
from textless.units.encoders.load import load_encoder
from textless.units.kmeans import MEASURED, QUANTILES, Codebook, fit_codebook, transform_frames
from textless.units.quantizers import load_codebook
from textless.units.tokenizer import Tokenizer, tokenize


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    return (5 * rng.standard_normal((4, 6))[rng.integers(0, 4, 900)] + rng.standard_normal((900, 6)) + 100).astype(
        np.float32
    )


def write(folder, **waves):
    folder.mkdir(exist_ok=True)
    for name, wave in waves.items():
        soundfile.write(folder / f"{name}.wav", wave, 16000, subtype="FLOAT")
    return folder


@pytest.mark.parametrize("transform", ["none", "layer_norm"])
def test_the_distance_is_that_to_the_nearest(frames, transform):
    centroids = transform_frames(frames[:7], transform)
    codebook = Codebook(centroids, UnitContract(transform=transform))
    naive = np.linalg.norm(transform_frames(frames, transform)[:, None].astype(np.float64) - centroids, axis=-1)
    units, distances = codebook.nearest(frames)
    assert np.array_equal(units, naive.argmin(1))
    assert np.array_equal(codebook.predict(frames), units)
    assert np.abs(distances - naive.min(1))[7:].max() < 1e-4 * naive.max()
    assert distances[:7].max() < 0.03  # of themselves, nought but for rounding


@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
def test_a_codebook_knows_its_training(frames, algorithm, tmp_path):
    codebook, _ = fit_codebook(frames, 4, algorithm=algorithm, transform="layer_norm")
    found = codebook.nearest(frames)[1]
    assert codebook.distances == {
        "mean": pytest.approx(found.mean(), rel=1e-5),
        **{q: pytest.approx(np.quantile(found, float(q)), rel=1e-5) for q in QUANTILES},
        "squared": pytest.approx(np.square(found).mean(), rel=1e-5),
    }
    codebook.save(tmp_path / "km")
    back = load_codebook(tmp_path / "km")
    assert back.distances == codebook.distances
    assert (
        back.contract
        == codebook.contract
        == Codebook(codebook.centroids, UnitContract(transform="layer_norm")).contract
    )


def test_only_a_sample_of_the_training_is_looked_at(frames, monkeypatch):
    seen, codebook = [], Codebook(frames[:4])
    monkeypatch.setattr(codebook, "nearest", lambda x: (seen.append(len(x)), np.ones(len(x))))
    for n in (1, MEASURED, MEASURED + 1, 5 * MEASURED):
        codebook.measure(np.broadcast_to(frames[0], (n, 6)))
    assert seen == [1, MEASURED, MEASURED // 2 + 1, MEASURED]


def test_old_codebooks_stay_as_they_are(frames, tmp_path):
    codebook = Codebook(frames[:4])
    codebook.save(tmp_path / "km")
    assert json.loads((tmp_path / "km" / "config.json").read_text()) == {
        "kind": "codebook",
        "contract": codebook.contract.to_dict(),
    }
    back = load_codebook(tmp_path / "km")
    assert back.distances is None
    assert not back.is_far(1e9, 10)
    config = json.loads((tmp_path / "km" / "config.json").read_text())
    (tmp_path / "km" / "config.json").write_text(
        json.dumps({**config, "distances": {"mean": 1.0}})
    )  # of another version
    assert load_codebook(tmp_path / "km").distances is None


def test_short_files_are_judged_less_strictly():
    codebook = Codebook(np.eye(3), distances={"mean": 1.0, "0.5": 1.0, "0.75": 1.1, "0.95": 1.2, "0.99": 1.3})
    assert [codebook.is_far(1.15, s) for s in (0.5, 1.99, 2.0, 60)] == [False, False, True, True]
    assert codebook.is_far(1.25, 0.5)
    assert not codebook.is_far(1.1, 60)


def test_far_is_by_quantile():
    """Beyond 95 % of training's frames below two seconds, beyond 75 % from there on."""
    codebook = Codebook(np.eye(3), distances={"mean": 1.0, "0.5": 2.0, "0.75": 3.0, "0.95": 4.0, "0.99": 5.0})
    for seconds, limit in ((0.1, 4.0), (1.99, 4.0), (2.0, 3.0), (60, 3.0)):
        assert not codebook.is_far(limit, seconds)
        assert codebook.is_far(limit + 0.01, seconds)


def test_a_bundle_carries_it(model_set, tmp_path):
    codebook = load_codebook(model_set / "codebook")
    codebook.measure(np.random.default_rng(0).standard_normal((50, codebook.centroids.shape[1])))
    codebook.save(tmp_path / "km")
    parts = {name: model_set / name for name in ("encoder", "lm", "vocoder")}
    contract = bundle(tmp_path / "set", codebook=tmp_path / "km", **parts)
    assert Model(tmp_path / "set").tokenizer.codebook.distances == codebook.distances
    assert contract == load_codebook(model_set / "codebook").contract  # what was trained on the units fits as before


@pytest.fixture(scope="module")
def of_speech(clip, tmp_path_factory):
    """Options: a HuBERT with random weights, and a codebook of the first half of `clip`."""
    torch.manual_seed(2)
    folder, model = tmp_path_factory.mktemp("speech"), Hubert(PRESETS["nano"]).eval()
    save_encoder(folder / "encoder", model)
    encoder = HubertEncoder(model, 2)
    codebook, _ = fit_codebook(
        encoder.encode(clip[: len(clip) // 2]), 8, transform="layer_norm", contract=encoder.contract
    )
    codebook.save(folder / "km")
    return "--encoder", folder / "encoder", "--codebook", folder / "km"


@pytest.fixture
def audio(clip, tmp_path):
    t = np.arange(3 * 16000) / 16000
    chirp = 0.5 * np.sin(2 * np.pi * (500 * t + 800 * t**2))
    return write(
        tmp_path / "audio",
        speech=clip[len(clip) // 2 :],
        chirp=chirp.astype(np.float32),
        silence=np.zeros(32000, np.float32),
    )


def test_verbose_says_it_and_units_are_the_same(textless_command, of_speech, audio, tmp_path):
    code, plain, quiet = textless_command("encode", audio, "-o", "-", *of_speech, model=None)
    assert code == 0
    warning = (
        "warning: 2 of 3 files are far from what the encoder was trained on (music, silence, another "
        "language or noise?), such as chirp\n"
    )
    assert quiet == warning
    code, out, err = textless_command("encode", audio, "-o", "-", "-v", *of_speech, model=None)
    assert (code, out) == (0, plain)
    chirp, silence, speech, *rest = err.splitlines(keepends=True)
    assert rest == [warning]
    rows = {row["id"]: row for row in map(json.loads, out.splitlines()[1:])}
    assert chirp.startswith(f"chirp: 3.00 s, {len(rows['chirp']['units'])} units, distance 1.")
    assert chirp.endswith(" of training's (far)\n")
    assert silence.startswith(f"silence: 2.00 s, {len(rows['silence']['units'])} units, distance ")
    assert 0.9 < float(speech.split("distance ")[1].split()[0]) < 1.15
    assert speech.endswith(" of training's\n")

    # into a folder, where shards are written
    code, _, err = textless_command("encode", audio, "-o", tmp_path / "dump", "--verbose", *of_speech, model=None)
    assert code == 0
    assert {*err.splitlines(keepends=True)} == {chirp, silence, speech, warning}
    assert {r.id: r.units.units.tolist() for r in open_dump(tmp_path / "dump")} == {
        k: v["units"] for k, v in rows.items()
    }
    assert all(not r.extra for r in open_dump(tmp_path / "dump"))
    # which is done by now
    assert (
        textless_command("encode", audio, "-o", tmp_path / "dump", *of_speech, model=None)[2]
        == f"{tmp_path / 'dump'}: already done\n"
    )


def test_what_is_not_known_is_not_warned_of(textless_command, audio):
    code, _, err = textless_command("encode", audio, "-o", "-", "-v")
    assert code == 0
    assert err.count("units, distance unknown to the codebook\n") == err.count("\n") == 3


def test_of_mfcc_nothing_was_trained(textless_command, clip, audio, tmp_path):
    mfcc = load_encoder("mfcc")
    codebook, _ = fit_codebook(mfcc.encode(clip), 20, contract=mfcc.contract)
    codebook.save(tmp_path / "km")
    code, _, err = textless_command(
        "encode", audio, "-o", "-", "-v", "--encoder", "mfcc", "--codebook", tmp_path / "km", model=None
    )
    assert code == 0
    assert "far" not in err
    assert float(err.split("chirp: ")[1].split("distance ")[1].split()[0]) > 2


@pytest.mark.parametrize("long", [False, True])
def test_the_mean_is_over_all_frames_of_a_file(clip, of_speech, tmp_path, monkeypatch, long):
    from textless.audio.corpus import Corpus
    from textless.units import tokenizer as encode

    if long:
        monkeypatch.setattr(encode, "LONG_SECONDS", 1)
    encoder, codebook = of_speech[1], of_speech[3]
    tokenizer, seen = Tokenizer(load_encoder(encoder, 2), load_codebook(codebook)), []
    rows = Corpus.load(write(tmp_path / "one", clip=clip))
    [(_, row)] = tokenize(rows, tokenizer, watch=lambda row, distance: seen.append((row, distance)))
    frames = tokenizer.encoder.encode(clip)
    assert seen == [(row, pytest.approx(tokenizer.codebook.nearest(frames)[1].mean(), rel=1e-5))]
    pieces = [frames[:10], frames[10:]]
    assert tokenizer.measure(pieces)[1] == pytest.approx(seen[0][1], rel=1e-6)
