"""The public Python surface, called exactly as the documentation shows it.

Other people's code depends on these lines.
"""

import numpy as np
import pytest

import textless
from conftest import GOLDEN


def test_a_set_of_models(model_set, clip):
    m = textless.load(model_set)
    u = m.encode(clip)
    assert isinstance(u, textless.Units)
    assert u.units.dtype == u.durations.dtype == np.int64
    assert u.n_frames == (len(clip) - 400) // 320 + 1
    assert u.seconds == pytest.approx(len(clip) / 16000, abs=0.03)
    assert u.contract == m.lm.contract == m.vocoder.contract
    u2 = m.continue_units(u, seconds=3, temperature=0.7, seed=1)
    assert u2.n_frames == u.n_frames + 150
    wave = m.resynth(u2)
    assert wave.dtype == np.float32
    assert wave.shape == (u2.n_frames * 320,)
    assert (m.sample_rate, m.frame_rate, m.n_units) == (16000, 50.0, 20)
    many = m.encode([clip, clip[:8000]])
    assert many[0] == u
    assert [w.shape for w in m.resynth(many)] == [(x.n_frames * 320,) for x in many]
    assert [x.n_frames for x in m.continue_units(many, seconds=1)] == [x.n_frames + 50 for x in many]


def test_parts(model_set, clip):
    enc = textless.load_encoder(model_set / "encoder", layer=2)
    frames = enc.encode(clip)
    assert frames.shape == (370, enc.dim)
    assert frames.dtype == np.float32
    assert [len(f) for f in enc.encode([clip, clip[:8000]])] == [370, 24]
    km = textless.load_codebook(model_set / "codebook")
    units = km.predict(frames)
    assert units.shape == (370,)
    assert units.dtype == np.int64
    assert km.centroids.shape == (20, enc.dim)
    assert np.array_equal(textless.load(model_set).encode(clip).frames(), units)

    lm = textless.load_lm(model_set / "lm")
    nll = lm.nll(units)
    assert nll.shape == (371,)
    assert (nll > 0).all()
    assert (lm.sample_rate, lm.frame_rate, lm.n_units) == (16000, 50.0, 20)
    assert len(lm.continue_units(units[:20], max_new_units=5, temperature=0)) == 25

    voc = textless.load_vocoder(model_set / "vocoder")
    assert voc.resynth(units).shape == (370 * 320,)
    assert voc.resynth(units, speaker="ben", durations="given").dtype == np.float32
    assert len(voc.resynth(textless.Units.from_frames(units, km.contract), durations="predict")) % 320 == 0
    assert (voc.sample_rate, voc.frame_rate, voc.n_units) == (16000, 50.0, 20)


def test_speech_while_units_come(model_set, clip):
    m = textless.load(model_set)
    u = m.encode(clip)
    pieces = list(m.vocoder.stream(m.lm.stream(u, seconds=2, seed=1)))
    whole = m.resynth(m.lm.continue_units(u, seconds=2, seed=1, only_new=True))
    assert len(pieces) > 3
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)


@pytest.mark.filterwarnings("ignore::textless.errors.ContractWarning")
@pytest.mark.parametrize("name", ["plain", "speakers", "duration"])
def test_published_vocoders(name):
    """What fairseq computes from its own files: to 1e-4 of the largest value, durations exactly."""
    golden = np.load(GOLDEN / f"codehifigan_{name}.npz")
    voc = textless.load_vocoder(GOLDEN / f"codehifigan_{name}.pt", config=GOLDEN / f"codehifigan_{name}.json")
    if name == "duration":
        assert np.array_equal(voc.predict_durations([golden["code"]])[0], golden["durations"])
    wave = voc.resynth(
        golden["code"],
        speaker=3 if name == "speakers" else None,
        durations="predict" if name == "duration" else "given",
    )
    assert wave.shape == golden["wav"].shape
    assert np.abs(wave - golden["wav"]).max() < 1e-4 * np.abs(golden["wav"]).max()


@pytest.mark.parametrize(("name", "shape"), [("mfcc", (739, 39)), ("logmel", (739, 80)), ("context_mfcc", (370, 91))])
def test_encoders_without_parameters(name, shape, clip):
    enc = textless.load_encoder(name)
    assert enc.encode(clip).shape == shape
    assert enc.sample_rate == 16000


def test_dumps(model_set, clip, tmp_path):
    from textless.units.dump import UnitRow, finish_dump, write_shard

    m = textless.load(model_set)
    (tmp_path / "data").mkdir()
    rows = [UnitRow(f"r{i}", m.encode(clip[: 4000 * (i + 1)])) for i in range(3)]
    write_shard(tmp_path / "data" / "00000.parquet", rows, contract=m.tokenizer.contract)
    finish_dump(tmp_path, contract=m.tokenizer.contract)
    d = textless.open_dump(tmp_path)
    assert len(d) == 3
    assert [r.id for r in d] == ["r0", "r1", "r2"]
    assert d[1].units == rows[1].units
    assert d.contract == m.tokenizer.contract


def test_the_embedded_set(clip):
    m = textless.load("tiny-en")
    u = m.encode(clip)
    wave = m.resynth(m.continue_units(u, seconds=1, seed=0))
    assert len(wave) == (u.n_frames + 50) * 320
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() > 0.01
