"""The unit vocoder: its arithmetic against naive oracles, its promises about batches and resuming, and that it learns."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from textless import training
from textless.errors import ContractError, DumpError, ModelError, TrainingError
from textless.units.types import UnitContract, Units
from textless.vocoder import Clip, UnitVocoder, VocoderConfig, load_vocoder, losses, train_vocoder
from textless.vocoder.istft import ISTFT

CONTRACT = UnitContract(encoder="logmel", sample_rate=16000, frame_rate=50.0, n_units=7)


def vocoder(speakers=("ann", "bob"), contract=CONTRACT, seed=0) -> UnitVocoder:
    """Untrained; its convolutions are made larger than at birth, so that context and padding would be heard."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = UnitVocoder(VocoderConfig.of(contract, speakers=speakers, preset="nano"), contract).eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.ndim >= 2:
                    p.normal_(std=0.1)
                elif name.endswith("bias"):  # a bias is what turns padding into sound where a mask is missing
                    p.normal_(std=0.3)
    return model


def units_of(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(7, size=n)


# ------------------------------------------------------------------------------------------------------------ iSTFT


@pytest.mark.parametrize(("n_fft", "hop"), [(1280, 320), (640, 160)])
def test_istft_inverts_stft(n_fft, hop):
    frames, side = 9, (n_fft - hop) // 2
    x = torch.randn(2, frames * hop, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (side, side))
    spectrum = torch.stft(padded, n_fft, hop, window=torch.hann_window(n_fft), center=False, return_complex=True)
    back = ISTFT(n_fft, hop)(spectrum.transpose(1, 2), torch.ones(2, frames))
    assert back.shape == x.shape
    torch.testing.assert_close(back, x, atol=2e-5, rtol=0)


def test_istft_of_any_spectrum_is_torchs():
    """Not only of consistent spectrograms: torch.istft with its centre cut gives the same samples away from the ends."""
    n_fft, hop, frames = 1280, 320, 12
    spectrum = torch.randn(1, frames, n_fft // 2 + 1, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    ours = ISTFT(n_fft, hop)(spectrum, torch.ones(1, frames))[0]
    theirs = torch.istft(spectrum.transpose(1, 2), n_fft, hop, window=torch.hann_window(n_fft), center=True)[0]
    # torch's sample 0 is the middle of frame 0; ours is half a hop before it
    torch.testing.assert_close(ours[hop // 2 :][n_fft:-n_fft], theirs[n_fft : n_fft + len(ours) - hop // 2 - 2 * n_fft])


# ------------------------------------------------------------------------------------------------------------ losses


def naive_mel_filters(n_fft: int, n_mels: int, rate: int) -> np.ndarray:
    def hz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * math.exp(math.log(6.4) / 27 * (mel - 15))

    top = 15 + math.log(rate / 2 / 1000) / (math.log(6.4) / 27)
    edges = [hz(top * i / (n_mels + 1)) for i in range(n_mels + 2)]
    filters = np.zeros((n_fft // 2 + 1, n_mels))
    for m in range(n_mels):
        low, centre, high = edges[m : m + 3]
        for k in range(n_fft // 2 + 1):
            f = k * rate / n_fft
            if low < f <= centre:
                filters[k, m] = (f - low) / (centre - low)
            elif centre < f < high:
                filters[k, m] = (high - f) / (high - centre)
            filters[k, m] *= 2 / (high - low)
    return filters


@pytest.mark.parametrize(("n_fft", "n_mels"), [*losses.SCALES, (1024, 80)])
def test_mel_filters_are_the_naive_ones(n_fft, n_mels):
    ours = losses.mel_filters(n_fft, n_mels, 16000).numpy()
    np.testing.assert_allclose(ours, naive_mel_filters(n_fft, n_mels, 16000), atol=1e-8, rtol=1e-5)
    assert (ours.sum(0) > 0).all(), "a filter between two bins hears nothing"


def test_log_mel_is_the_naive_one():
    x = np.random.default_rng(0).normal(size=3000).astype(np.float32) * 0.1
    padded = np.pad(x, 512, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    spectra = np.array([np.abs(np.fft.rfft(padded[i : i + 1024] * window)) for i in range(0, 3001, 256)])
    expected = np.log(np.maximum(spectra @ naive_mel_filters(1024, 80, 16000), 1e-5))
    ours = losses.log_mel(torch.from_numpy(x)[None], sample_rate=16000)[0]
    np.testing.assert_allclose(ours.numpy().T, expected, atol=1e-3)


def test_loss_is_finite_and_so_is_its_gradient_at_silence():
    silent = torch.zeros(1, 4000, requires_grad=True)
    loud = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    loss = losses.multi_scale_mel(silent, loud, sample_rate=16000)
    loss.backward()
    assert torch.isfinite(silent.grad).all()
    assert losses.multi_scale_mel(loud, loud, sample_rate=16000) == 0 < loss


# ------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize(("frame_rate", "hop"), [(50.0, 320), (100.0, 160), (25.0, 640)])
def test_length_is_frames_times_hop(frame_rate, hop):
    model = vocoder(contract=CONTRACT.with_(frame_rate=frame_rate))
    assert (model.config.hop, model.config.n_fft, model.frame_rate, model.sample_rate) == (hop, 4 * hop, frame_rate, 16000)
    for n in (1, 2, 17):
        audio = model.resynth(units_of(n, 0))
        assert audio.shape == (n * hop,)
        assert audio.dtype == np.float32
        assert np.abs(audio).max() > 1e-4


def test_a_row_does_not_hear_its_batch():
    model = vocoder()
    rows = [units_of(n, n) for n in (3, 40, 1, 23, 39)]
    together = model.resynth(rows, speaker="bob")
    for row, audio in zip(rows, together, strict=True):
        alone = model.resynth(row, speaker="bob")
        assert audio.shape == alone.shape
        np.testing.assert_allclose(audio, alone, atol=1e-5)
    # the tolerance is far below what a missing mask would do: context is heard at all
    assert np.abs(model.resynth(rows[1][:23]) - model.resynth(rows[1])[: 23 * 320]).max() > 1e-2


def test_predicted_durations_do_not_hear_their_batch():
    model = vocoder()
    with torch.no_grad():
        model.durations.project.weight.mul_(5)
    rows = [units_of(n, n) for n in (3, 40, 23)]
    for row, durations in zip(rows, model.predict_durations(rows), strict=True):
        assert durations.shape == row.shape
        assert durations.min() >= 1
        np.testing.assert_array_equal(durations, model.predict_durations([row])[0])


def test_many_long_rows_are_spoken_in_several_batches(monkeypatch):
    model, rows = vocoder(), [units_of(n, n) for n in (5, 30, 8, 31, 2)]
    expected = model.resynth(rows)
    shapes = []
    forward = model.forward
    monkeypatch.setattr("textless.vocoder.model.BATCH_FRAMES", 32)
    monkeypatch.setattr(model, "forward", lambda units, *rest: shapes.append(tuple(units.shape)) or forward(units, *rest))
    for a, b in zip(model.resynth(rows), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert shapes == [(1, 31), (1, 30), (3, 8)]


def test_given_durations_repeat_and_a_bare_array_is_literal():
    model = vocoder()
    units = Units(np.array([1, 4, 4, 2]), np.array([3, 1, 2, 5]), CONTRACT)
    np.testing.assert_array_equal(model.resynth(units), model.resynth(units.frames()))
    assert len(model.resynth(Units(units.units, None, CONTRACT))) == 4 * 320
    assert len(model.resynth([1, 1, 1])) == 3 * 320


def test_predicted_durations():
    model = vocoder()
    with torch.no_grad():  # every unit lasts exp(1.3) = 3.67 frames: 4
        model.durations.project.weight.zero_()
        model.durations.project.bias.fill_(1.3)
    # of Units the runs are joined (1, 4, 2), a bare array is taken literally
    units = Units(np.array([1, 4, 4, 2]), np.array([3, 1, 2, 5]), CONTRACT)
    np.testing.assert_array_equal(model.resynth(units, durations="predict"), model.resynth(np.repeat([1, 4, 2], 4)))
    np.testing.assert_array_equal(model.resynth([1, 4, 4, 2], durations="predict"), model.resynth(np.repeat([1, 4, 4, 2], 4)))
    with torch.no_grad():
        model.durations.project.bias.fill_(-3)
    assert len(model.resynth(units, durations="predict")) == 3 * 320


def test_magnitudes_are_clipped():
    """A runaway log-magnitude must not become infinite: each frame is at most an impulse of n_fft / 4."""
    model = vocoder()
    with torch.no_grad():
        model.head.project.bias[: model.config.n_fft // 2 + 1] = 1e4
    audio = model.resynth(units_of(5, 0))
    assert np.isfinite(audio).all()
    assert 1 < np.abs(audio).max() <= 4 * model.config.n_fft / 4


def test_speakers_by_name_and_index_differ():
    model, units = vocoder(), units_of(9, 0)
    ann, bob = model.resynth(units, speaker="ann"), model.resynth(units, speaker="bob")
    np.testing.assert_array_equal(model.resynth(units), ann)
    np.testing.assert_array_equal(model.resynth(units, speaker=1), bob)
    assert np.abs(ann - bob).max() > 1e-3


@pytest.mark.filterwarnings("ignore::textless.errors.ContractWarning")
def test_requests_that_cannot_be_met():
    model = vocoder()
    with pytest.raises(ModelError, match=r"'eve'.*ann, bob"):
        model.resynth([1, 2], speaker="eve")
    for index in (2, -1):
        with pytest.raises(ModelError, match="ann, bob"):
            model.resynth([1, 2], speaker=index)
    with pytest.raises(ModelError) as e:
        vocoder(speakers=[f"s{i:02}" for i in range(30)]).resynth([1], speaker="x")
    assert "s19 … (30 in all)" in str(e.value)
    assert "s20" not in str(e.value)
    for nothing in ([], np.zeros(0, np.int64), Units(np.zeros(0, np.int64), None, CONTRACT), [[1, 2], []]):
        with pytest.raises(ModelError, match="no units"):
            model.resynth(nothing)
    with pytest.raises(ModelError, match="durations"):
        model.resynth([1], durations="long")
    with pytest.raises(DumpError):
        model.resynth(np.array([0.5, 1.0]))
    for outside in ([7], np.array([-1]), Units(np.array([7]))):
        with pytest.raises(ContractError, match="outside"):
            model.resynth(outside)
    with pytest.raises(ContractError, match="encoder is mfcc in the units but logmel in the vocoder"):
        model.resynth(Units(np.array([1]), None, CONTRACT.with_(encoder="mfcc")))


@pytest.mark.parametrize(
    "contract",
    [
        CONTRACT.with_(frame_rate=None),
        CONTRACT.with_(n_units=None),
        CONTRACT.with_(frame_rate=30.0),  # 533.3 samples a frame
    ],
)
def test_contracts_that_give_no_vocoder(contract):
    with pytest.raises(ModelError):
        VocoderConfig.of(contract, speakers=["a"], preset="nano")


def test_configurations_that_fit_no_contract():
    config = VocoderConfig.of(CONTRACT, speakers=["a"], preset="nano")
    for contract in (CONTRACT.with_(frame_rate=100.0), CONTRACT.with_(n_units=8), UnitContract()):
        with pytest.raises(ModelError):
            UnitVocoder(config, contract)
    for speakers in ([], ["a", "a"]):
        with pytest.raises(ModelError, match="speaker"):
            UnitVocoder(VocoderConfig.of(CONTRACT, speakers=speakers, preset="nano"), CONTRACT)
    with pytest.raises(ModelError, match="nano, small"):
        VocoderConfig.of(CONTRACT, speakers=["a"], preset="huge")


def test_saved_and_loaded_it_sounds_the_same(tmp_path):
    model, units = vocoder(), units_of(20, 0)
    model.save(tmp_path / "v")
    again = load_vocoder(tmp_path / "v")
    assert (again.config, again.contract) == (model.config, model.contract)
    np.testing.assert_array_equal(again.resynth(units, speaker="bob"), model.resynth(units, speaker="bob"))
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_vocoder(tmp_path)
    config = (tmp_path / "v" / "config.json").read_text()
    (tmp_path / "v" / "config.json").write_text(config.replace('"dim": 64', '"dim": 72'))
    with pytest.raises(ModelError, match="do not fit"):
        load_vocoder(tmp_path / "v")
    (tmp_path / "v" / "config.json").write_text(config.replace('"dim": 64', '"dim": 64, "f0": 1'))
    with pytest.raises(ModelError, match="f0"):
        load_vocoder(tmp_path / "v")


def test_importing_the_package_does_not_import_torch():
    code = "import sys, textless.vocoder; assert 'torch' not in sys.modules; textless.vocoder.Clip; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------------------------- training

LASTS = (4, 7, 2)  # frames of each unit of the toy language
TONES = (220.0, 1500.0, 0.0)  # Hz; the last is silence


def toy_clips(n: int, seed: int, *, speaker: str | None = None, frames: int = 60) -> list[Clip]:
    """Unit 0 is a low tone, unit 1 a high one, unit 2 silence; each unit has its own duration."""
    rng, clips = np.random.default_rng(seed), []
    contract = CONTRACT.with_(n_units=3)
    for _ in range(n):
        joined = [int(rng.integers(3))]
        while sum(LASTS[u] for u in joined) < frames:
            joined.append(int(rng.choice([u for u in range(3) if u != joined[-1]])))
        units = Units(np.array(joined), np.array([LASTS[u] for u in joined]), contract)
        hz = np.repeat([TONES[u] for u in units.frames()], 320)
        wave = (0.3 * (hz > 0) * np.sin(2 * np.pi * np.cumsum(hz) / 16000)).astype(np.float32)
        clips.append(Clip(units, lambda a, b, wave=wave: wave[a:b], len(wave), speaker))
    return clips


def train(clips, **changes):
    options = {"preset": "nano", "steps": 4, "batch": 2, "crop_seconds": 0.4, "contract": CONTRACT.with_(n_units=3)}
    return train_vocoder(clips, **{**options, **changes})


def peak(audio: np.ndarray) -> float:
    """Hz of the strongest frequency."""
    return float(np.argmax(np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 16000))))


def test_it_learns_tones_silence_and_durations():
    model, figures = train(toy_clips(12, 0), steps=200, batch=4, crop_seconds=0.3, lr=4e-3, dev=toy_clips(3, 1), seed=1)
    before = train(toy_clips(12, 0), steps=1, batch=4, dev=toy_clips(3, 1), seed=1)[1]
    audio = model.resynth(Units(np.array([0, 1, 2]), np.array([20, 20, 20]), model.contract))
    low, high, silence = (audio[a * 320 : (a + 14) * 320] for a in (3, 23, 43))
    assert abs(peak(low) - 220) < 40
    assert abs(peak(high) - 1500) < 60
    assert np.sqrt((silence**2).mean()) < 0.05 * np.sqrt((low**2).mean())
    np.testing.assert_array_equal(model.predict_durations([np.array([0, 2, 1, 0, 1, 2, 0])])[0], [4, 2, 7, 4, 7, 2, 4])
    assert figures["dev_duration_error"] < 0.05 < 1 < before["dev_duration_error"]
    assert figures["dev_log_mel_l1"] < 0.5 * before["dev_log_mel_l1"]
    assert figures["curve"][-1]["loss"] < 0.5 * figures["curve"][0]["loss"]


class Crash(Exception):
    pass


def test_resumed_training_is_bit_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", 50)
    clips, file = toy_clips(4, 0), tmp_path / "c.pt"
    options = {"steps": 101, "batch": 1, "crop_seconds": 0.1}
    whole, figures = train(clips, **options)

    def crash(n, row):
        if n == 100:
            raise Crash

    with pytest.raises(Crash):
        train(clips, **options, checkpoint=file, log=crash)
    seen = []
    resumed, again = train(clips, **options, checkpoint=file, log=lambda n, row: seen.append(n))
    assert seen == [100, 101], "it did not go on from the checkpoint of step 50"
    assert again == figures
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_seed_decides(tmp_path):
    clips = toy_clips(4, 0)
    (a, _), (b, _), (c, _) = train(clips, seed=1), train(clips, seed=1), train(clips, seed=2)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.head.project.weight, c.head.project.weight)


def test_bf16_learns_the_same():
    clips = toy_clips(4, 0)
    fp32 = train(clips, steps=20)[1]["curve"][-1]
    bf16 = train(clips, steps=20, precision="bf16")[1]["curve"][-1]
    assert bf16["loss"] == pytest.approx(fp32["loss"], rel=0.02)
    assert bf16 != fp32


def test_crops_keep_units_and_audio_aligned():
    """Audio that says its own unit at each sample, so that a shift of one sample would show; short clips end in silence."""
    from textless.vocoder.train import _Clips

    contract = CONTRACT.with_(n_units=200)
    frames = [np.arange(30), np.arange(100, 108)]
    waves = [np.repeat(f, 320).astype(np.float32) for f in frames]
    waves[0] = np.append(waves[0], np.full(200, -1, np.float32))  # samples after the last frame belong to no unit
    waves[1] = waves[1][:-40]  # a last frame that the audio does not fill
    clips = [Clip(Units(f, None, contract), lambda a, b, w=w: w[a:b], len(w)) for f, w in zip(frames, waves, strict=True)]
    data = _Clips(clips, vocoder(speakers=["default"], contract=contract))
    rng = np.random.default_rng(0)
    rows, starts, units, lengths, *_ = data.draw(rng, 400, 10)
    audio = data.waveforms(rows, starts, 10)
    assert 0.6 < (rows == 0).mean() < 0.95  # 30 of 38 frames
    assert units.shape == (400, 10)
    assert audio.shape == (400, 3200)
    assert set(lengths[rows == 0].tolist()) == {10}
    assert set(lengths[rows == 1].tolist()) == {8}
    assert units[rows == 0, 0].unique().tolist() == list(range(21))
    for u, n, x, row in zip(units, lengths, audio, rows, strict=True):
        expected = u.repeat_interleave(320).float()
        filled = 320 * n - (40 if row == 1 else 0)
        assert torch.equal(x[:filled], expected[:filled])
        assert not x[filled:].any()


def test_speakers_are_learnt_apart():
    """One unit, two speakers, two pitches."""
    contract, clips = CONTRACT.with_(n_units=1), []
    for name, hz in (("low", 300.0), ("high", 2000.0)):
        wave = (0.3 * np.sin(2 * np.pi * hz * np.arange(32 * 320) / 16000)).astype(np.float32)
        clips.append(Clip(Units(np.zeros(32, np.int64), None, contract), lambda a, b, w=wave: w[a:b], len(wave), name))
    model, _ = train(clips, contract=contract, steps=60, batch=4, crop_seconds=0.2, lr=4e-3)
    assert model.speakers == ("high", "low")
    for name, hz in (("low", 300.0), ("high", 2000.0)):
        assert hz / 2 < peak(model.resynth(np.zeros(20, np.int64), speaker=name)) < hz * 2


def test_training_data_that_does_not_fit():
    clips = toy_clips(2, 0, speaker="ann")
    with pytest.raises(TrainingError, match="no clips"):
        train([])
    with pytest.raises(TrainingError, match="'ann'"):
        train(clips, speakers=["bob"])
    with pytest.raises(TrainingError, match="clip 0 has no frames"):
        train([Clip(Units(np.zeros(0, np.int64), None, CONTRACT.with_(n_units=3)), lambda a, b: np.zeros(b - a), 100)])
    with pytest.raises(TrainingError, match="samples of audio"):
        train([Clip(clips[0].units, clips[0].waveform, 3000)])
    with pytest.raises(ContractError, match="clip 0"):
        train(clips, contract=CONTRACT)
    with pytest.raises(TrainingError, match="fp16"):
        train(clips, precision="fp16")


def test_diverging_training_stops():
    clip = toy_clips(1, 0)[0]
    broken = Clip(clip.units, lambda a, b: np.full(b - a, np.nan, np.float32), clip.samples)
    with pytest.raises(TrainingError, match="diverged"):
        train([broken], steps=2)
