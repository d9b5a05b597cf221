"""What is given from Python in place of a waveform, at each boundary: taken for what it is, or refused by one check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import textless
from textless.audio.f0 import track_f0
from textless.audio.waveform import as_waveform
from textless.errors import AudioError, DumpError, ModelError
from textless.metrics.mcd import mel_cepstral_distortion
from textless.metrics.perturb import add_noise, change_speed, perturb, shift_pitch, stretch
from textless.metrics.speech import compare
from textless.types import Units, is_batch
from textless.units.encoders.hubert import PRESETS, Hubert
from textless.units.encoders.hubert_encoder import HubertEncoder
from textless.units.encoders.projected import ProjectedEncoder
from textless.units.encoders.signal import SIGNAL
from textless.units.kmeans import Codebook
from textless.units.mfcc_lda.ladder import LadderEncoder, fit_ladder
from textless.units.mfcc_lda.lda import DIM, LdaEncoder
from textless.units.mfcc_lda.vtln import DIM as VOICE_DIM
from textless.units.mfcc_lda.vtln import Voice
from textless.vocoder.griffin_lim import copy_synthesis

WAVE = (0.3 * np.sin(0.05 * np.arange(4000))).astype(np.float32)


def changed(place: int, value: float) -> np.ndarray:
    wave = WAVE.copy()
    wave[place] = value
    return wave


BAD = {
    "int16": ((WAVE * 32767).astype(np.int16), "not int16"),
    "int32": ((WAVE * 1e6).astype(np.int32), "not int32"),
    "uint8": ((WAVE * 100 + 128).astype(np.uint8), "not uint8"),
    "bool": (WAVE > 0, "not bool"),
    "complex": (WAVE.astype(complex), "not complex"),
    "objects": (np.array([None, 1.0] * 400), "not ndarray"),
    "two channels": (np.stack([WAVE, WAVE], 1), r"shape \(4000, 2\)"),
    "one row": (WAVE[None], r"shape \(1, 4000\)"),
    "a number": (np.array(0.5), r"shape \(\)"),
    "nan": (changed(1000, np.nan), "sample 1000 is NaN"),
    "infinite": (changed(7, -np.inf), "sample 7 is NaN or infinite"),
    "scaled": (WAVE * 32768, "divide int16 samples"),
    "text": ("a.wav", "read_audio"),
    "bytes": (b"a.wav", "read_audio"),
    "path": (Path("a.wav"), "read_audio"),
    "none": (None, "not NoneType"),
    "tensor of integers": (torch.zeros(4000, dtype=torch.int16), "not int16"),
    "list of integers": ([0, 1] * 2000, "not int64"),
}
GOOD = {
    "float64": WAVE.astype(np.float64),
    "big-endian": WAVE.astype(">f4"),
    "backwards": WAVE[::-1].copy()[::-1],
    "list": WAVE.tolist(),
    "tuple": tuple(WAVE.tolist()),
    "tensor": torch.from_numpy(WAVE),
    "tensor of float64": torch.from_numpy(WAVE).double(),
    "tensor with gradient": torch.from_numpy(WAVE).requires_grad_(),
}

bad = pytest.mark.parametrize(("value", "why"), BAD.values(), ids=BAD)


@bad
def test_what_is_none(value, why):
    with pytest.raises(AudioError, match=rf"a waveform is \(samples,\) float in \[-1, 1\], .*{why}"):
        as_waveform(value)


@pytest.mark.parametrize("value", GOOD.values(), ids=GOOD)
def test_what_is_one(value):
    waveform = as_waveform(value)
    assert waveform.dtype == np.float32
    assert waveform.dtype.isnative
    np.testing.assert_array_equal(waveform, WAVE)


def test_a_loud_waveform_stays_as_it_is():
    np.testing.assert_array_equal(as_waveform(WAVE * 6), WAVE * 6)  # an overshoot
    np.testing.assert_array_equal(as_waveform(WAVE.astype(np.float16)), WAVE.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(
        as_waveform(torch.from_numpy(WAVE).bfloat16()), torch.from_numpy(WAVE).bfloat16().float().numpy()
    )
    assert as_waveform([]).shape == (0,)


@pytest.fixture(scope="module")
def encoders():
    torch.manual_seed(0)
    hubert = HubertEncoder(Hubert(PRESETS["nano"]).eval(), 1)
    rng = np.random.default_rng(0)
    ladder = LadderEncoder(Voice(torch.randn(VOICE_DIM, 4), torch.randn(5, 4)))
    lda = LdaEncoder(rng.standard_normal((DIM, 3)))
    return [hubert, ladder, lda, ProjectedEncoder(lda), *map(textless.load_encoder, SIGNAL)]


@bad
def test_every_encoder_refuses_it(value, why, encoders):
    for encoder in encoders:
        calls = [
            lambda e=encoder: e.encode(value),
            lambda e=encoder: e.encode([WAVE, value]),
            lambda e=encoder: e.encode_one(value),
            lambda e=encoder: e.encode_batch([WAVE, value]),
            lambda e=encoder: list(e.stream(lambda: [WAVE, value])),
        ]
        calls += [lambda e=encoder: e.encode_layers(value, [1])] if hasattr(encoder, "encode_layers") else []
        for call in calls:
            with pytest.raises(AudioError, match="a waveform is"):
                call()


@pytest.mark.parametrize("value", GOOD.values(), ids=GOOD)
def test_every_encoder_takes_it(value, encoders):
    for encoder in encoders:
        want = encoder.encode(WAVE)
        np.testing.assert_array_equal(encoder.encode(value), want)
        np.testing.assert_array_equal(encoder.encode([value])[0], want)


def test_samples_of_a_stream_are_counted_from_its_start(encoders):
    with pytest.raises(AudioError, match="sample 5000 is NaN"):
        list(encoders[0].stream(lambda: [WAVE, changed(1000, np.nan)]))


@bad
def test_a_model_refuses_it(value, why, model_set):
    model = textless.load(model_set)
    for call in (model.encode, model.tokenizer.encode):
        with pytest.raises(AudioError, match=why):
            call(value)
    for call in (model.encode, model.tokenizer.encode_batch):
        with pytest.raises(AudioError, match=f"waveform 1: .*{why}"):
            call([WAVE, value])


def test_a_model_takes_one_or_several(model_set):
    model = textless.load(model_set)
    want = model.encode(WAVE)
    for value in GOOD.values():
        assert model.encode(value) == want
        assert model.encode([value, WAVE]) == [want, want]
        assert model.encode((value, WAVE)) == [want, want]
    assert model.encode([]) == []
    with pytest.raises(AudioError, match="0 samples are shorter than one frame"):
        model.encode(np.empty(0))


@bad
def test_whatever_else_takes_a_waveform_refuses_it(value, why):
    for call in (
        lambda: track_f0([value]),
        lambda: mel_cepstral_distortion(WAVE, value),
        lambda: copy_synthesis(value),
        lambda: compare(value, WAVE, stoi=False),
        lambda: compare(WAVE, value, stoi=False),
        lambda: perturb(value, "noise_10"),
        lambda: change_speed(value, 0.9),
        lambda: stretch(value, 0.9),
        lambda: shift_pitch(value, 1.0),
        lambda: add_noise(value, 10.0, seed=0),
        lambda: fit_ladder([WAVE, value]),
    ):
        with pytest.raises(AudioError, match=why):
            call()


def test_integers_are_not_written_as_noise(tmp_path):
    with pytest.raises(AudioError, match=r"a\.wav: not written: a waveform is float in \[-1, 1\], not int16"):
        textless.write_audio(tmp_path / "a.wav", (WAVE * 32767).astype(np.int16))
    assert not list(tmp_path.iterdir())


def test_a_codebook_refuses_what_are_no_frames():
    codebook = Codebook(np.eye(3))
    frames = np.eye(3, dtype=np.float32)[[2, 0, 1, 1]]
    assert codebook.predict(frames).tolist() == codebook.predict(frames.tolist()).tolist() == [2, 0, 1, 1]
    for value in (np.nan, np.inf, -np.inf, 1e30):
        wrong = np.tile(frames, (5000, 1))
        wrong[17_001, 1] = value
        with pytest.raises(ModelError, match="frame 17001 holds NaN, infinite or huge values"):
            codebook.predict(wrong)
    for wrong in (frames[0], frames[:, :2], frames[None], "abc", None, frames.astype(complex), frames > 0):
        with pytest.raises(ModelError, match=r"do not fit a codebook of 3 dimensions; give \(T, D\) float32"):
            codebook.predict(wrong)


NO_UNITS = {
    "floats": np.zeros(3),
    "nan": np.array([np.nan, 1]),
    "rows": np.zeros((1, 3), int),
    "text": "abc",
    "bytes": b"abc",
    "path": Path("u.jsonl"),
    "a number": 3,
    "an array of no dimension": np.array(3),
    "a generator": (n for n in range(3)),
}


@pytest.mark.parametrize("value", NO_UNITS.values(), ids=NO_UNITS)
def test_what_are_no_units_is_neither_spoken_nor_continued(value, model_set):
    model = textless.load(model_set)
    for call in (
        lambda: model.resynth(value),
        lambda: model.resynth([[1, 2], value]),
        lambda: list(model.vocoder.stream([value])),
        lambda: model.continue_units(value, seconds=0.1),
        lambda: model.continue_units([[1, 2], value], seconds=0.1),
        lambda: list(model.lm.stream(value, seconds=0.1)),
    ):
        with pytest.raises(DumpError, match="units must be"):
            call()


def test_a_tensor_of_units_is_one_sequence(model_set):
    model, units = textless.load(model_set), np.array([1, 2, 2, 3])
    np.testing.assert_array_equal(model.resynth(torch.from_numpy(units)), model.resynth(units))
    assert model.continue_units(torch.from_numpy(units), seconds=0.1) == model.continue_units(units, seconds=0.1)


ONE = (
    np.zeros(2),
    torch.zeros(2),
    Units(np.array([1, 2])),
    [0.1, 0.2],
    [np.int64(1), 2],
    range(3),
    "ab",
    b"ab",
    3,
    None,
)
SEVERAL = ([], (), [np.zeros(2)], (Units(np.array([1])),), [[1, 2], [3]], [[]], ["ab"], [None], [np.array(1)])


def test_one_sequence_or_a_list_of_them():
    assert [value for value in ONE if is_batch(value)] == []
    assert [value for value in SEVERAL if not is_batch(value)] == []


def test_a_set_is_shown_by_its_parts_and_its_units(model_set, tmp_path):
    model = textless.load(model_set)
    contract = textless.load_codebook(model_set / "codebook").contract
    units = f"n_units {contract.n_units}, frame_rate {contract.frame_rate:g}"
    assert repr(model) == f"<Model {model_set.name}: encoder, codebook, lm, vocoder; {units}>"
    assert not {"tokenizer", "lm", "vocoder"} & set(vars(model)), "a part was loaded to show the set"
    assert repr(textless.Model("hubert-base-ls960/km50")) == (
        "<Model hubert-base-ls960/km50: encoder, codebook; n_units 50, frame_rate 50>"
    )
    assert repr(textless.Model(tmp_path)) == f"<Model {tmp_path.name}: no parts; n_units unknown, frame_rate unknown>"


def test_a_part_that_no_set_has_is_refused(model_set):
    with pytest.raises(TypeError, match="unexpected keyword argument 'voice'"):
        textless.Model(model_set, voice="x")
