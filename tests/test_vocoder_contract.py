"""The contract `textless.types.Vocoder`, for every class that implements it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_contracts import implementations

import textless.vocoder.load  # that every vocoder is a subclass by now
from conftest import GOLDEN
from textless.errors import ContractError, ModelError
from textless.types import StreamingVocoder, UnitContract, Units, Vocoder
from textless.vocoder import UnitVocoder, VocoderConfig, load_vocoder
from textless.vocoder.base import BaseVocoder

CONTRACT = UnitContract(encoder="logmel", sample_rate=16000, frame_rate=50.0, n_units=7)


def unit_vocoder(**fields) -> UnitVocoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = VocoderConfig.of(CONTRACT, speakers=("ann", "bob"), preset="nano", **fields)
        return UnitVocoder(config, CONTRACT).eval()


VOCODERS = {
    "unit vocoder": lambda: unit_vocoder(),
    "unit vocoder with F0": lambda: unit_vocoder(f0=True),
    "HiFi-GAN": lambda: load_vocoder(GOLDEN / "codehifigan_speakers.pt"),
    "HiFi-GAN with durations": lambda: load_vocoder(GOLDEN / "codehifigan_duration.pt"),
    "unit-hifigan": lambda: load_vocoder(GOLDEN / "peers" / "unit_hifigan_plain"),
    "unit-hifigan with speakers and styles": lambda: load_vocoder(GOLDEN / "peers" / "unit_hifigan_speakers_styles"),
}


@pytest.fixture(params=VOCODERS)
def vocoder(request) -> BaseVocoder:
    return VOCODERS[request.param]()


def test_every_vocoder_is_here():
    ours = {type(make()) for make in VOCODERS.values()}
    assert ours == implementations(textless.vocoder, "resynth") == set(BaseVocoder.__subclasses__())
    assert textless.vocoder.load.FORMATS[-1].matches(GOLDEN, None)


def test_attributes(vocoder):
    assert isinstance(vocoder, Vocoder)
    assert isinstance(vocoder, StreamingVocoder)
    assert vocoder.look_ahead > 0
    assert vocoder.contract.n_units == vocoder.n_units
    assert vocoder.frame_rate * vocoder.hop == vocoder.sample_rate == vocoder.contract.sample_rate
    assert vocoder.speakers
    assert all(isinstance(name, str) for name in (*vocoder.speakers, *vocoder.styles))


def test_one_sequence_is_a_waveform_and_a_list_a_list(vocoder):
    units = np.random.default_rng(0).integers(vocoder.n_units, size=12)
    audio = vocoder.resynth(units)
    assert (audio.dtype, audio.shape) == (np.float32, (12 * vocoder.hop,))
    assert np.abs(audio).max() > 1e-4
    np.testing.assert_array_equal(vocoder.resynth(units.tolist()), audio)
    np.testing.assert_array_equal(vocoder.resynth(Units(units, None, vocoder.contract)), audio)
    together = vocoder.resynth([units, units[:5]])
    assert [len(row) for row in together] == [12 * vocoder.hop, 5 * vocoder.hop]
    np.testing.assert_allclose(together[0], audio, atol=1e-5)
    [alone] = vocoder.resynth([units])
    np.testing.assert_array_equal(alone, audio)


def test_rows_speakers_pieces_and_refusals(vocoder):
    assert isinstance(vocoder, Vocoder)
    contract = vocoder.contract
    hop = vocoder.sample_rate / contract.frame_rate
    rows = [Units(np.arange(5), np.array([1, 2, 3, 1, 4]), contract), Units(np.array([3, 3, 1]), None, contract)]
    alone = [vocoder.resynth(row) for row in rows]
    for row, wave in zip(rows, alone, strict=True):
        assert (wave.shape, wave.dtype) == ((row.n_frames * hop,), np.float32)
        assert 0 < np.abs(wave).max() <= 1
        assert np.array_equal(vocoder.resynth(row), wave)
    together = vocoder.resynth(rows)
    assert isinstance(together, list)
    for one, same in zip(alone, together, strict=True):
        np.testing.assert_allclose(same, one, atol=1e-5)
    np.testing.assert_allclose(vocoder.resynth(rows[0].frames()), alone[0], atol=1e-5)
    np.testing.assert_allclose(vocoder.resynth([3, 3, 1]), alone[1], atol=1e-5)
    for speaker in (*vocoder.speakers, 0, None):
        assert vocoder.resynth(rows[0], speaker=speaker).shape == alone[0].shape
    pieces = [Units(np.array([u]), np.array([d]), contract) for u, d in zip(range(5), (1, 2, 3, 1, 4), strict=True)]
    streamed = np.concatenate(list(vocoder.stream(pieces, level="raw")))
    np.testing.assert_allclose(streamed, vocoder.resynth(rows[0], level="raw"), atol=1e-5)
    for wrong in (np.array([contract.n_units]), Units(np.arange(5), None, contract.with_(frame_rate=12.5))):
        with pytest.raises(ContractError):
            vocoder.resynth(wrong)
    for options in ({"speaker": "unknown"}, {"durations": "none"}):
        with pytest.raises(ModelError):
            vocoder.resynth(rows[0], **options)
    with pytest.raises(ModelError):
        vocoder.resynth(np.array([], np.int64))


def test_durations_given_are_frames(vocoder):
    units = Units(np.array([1, 0, 2]), np.array([3, 1, 2]), vocoder.contract)
    np.testing.assert_array_equal(vocoder.resynth(units), vocoder.resynth([1, 1, 1, 0, 2, 2]))


def test_speakers_by_name_and_index(vocoder):
    first = vocoder.resynth([1, 2])
    for speaker in (0, vocoder.speakers[0]):
        np.testing.assert_array_equal(vocoder.resynth([1, 2], speaker=speaker), first)
    if len(vocoder.speakers) > 1:
        other = vocoder.resynth([1, 2], speaker=vocoder.speakers[1])
        np.testing.assert_array_equal(vocoder.resynth([1, 2], speaker=1), other)
        assert np.abs(other - first).max() > 1e-5


def test_styles_by_name_and_index(vocoder):
    for style in range(len(vocoder.styles)):
        by_name = vocoder.resynth([1, 2], style=vocoder.styles[style])
        np.testing.assert_array_equal(vocoder.resynth([1, 2], style=style), by_name)
        assert (np.abs(by_name - vocoder.resynth([1, 2])).max() > 1e-5) == (style > 0)


def test_levels(vocoder):
    units = np.random.default_rng(0).integers(vocoder.n_units, size=12)
    raw, peak = (vocoder.resynth(units, level=level) for level in ("raw", "peak"))
    np.testing.assert_allclose(peak, raw / np.abs(raw).max(), atol=1e-6)
    np.testing.assert_array_equal(vocoder.resynth(units), {"raw": raw, "peak": peak}[vocoder.level])
    with pytest.raises(ModelError, match="ask for the level raw to stream"):
        list(vocoder.stream([units], level="peak"))


def test_requests_that_cannot_be_met(vocoder):
    for options, message in (
        ({"speaker": "nobody"}, "no speaker 'nobody'"),
        ({"style": "whisper"}, "no style 'whisper'; it has " + (", ".join(vocoder.styles) or "none")),
        ({"level": "loud"}, "level is 'loud'; known: raw, peak"),
        ({"durations": "long"}, "durations is 'long'; known: given, predict"),
        ({"f0": np.ones(3)}, "F0"),
    ):
        with pytest.raises(ModelError, match=message):
            vocoder.resynth([1, 2], **options)
    for nothing in ([], [[]], np.zeros(0, np.int64), [[1], []]):
        with pytest.raises(ModelError, match="no units"):
            vocoder.resynth(nothing)
    for outside in ([vocoder.n_units], [[0], [-1]]):
        with pytest.raises(ContractError, match="outside"):
            vocoder.resynth(outside)
    with pytest.raises(ContractError):
        vocoder.resynth(Units(np.array([1]), None, vocoder.contract.with_(n_units=vocoder.n_units + 1)))
