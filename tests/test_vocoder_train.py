"""Training of the unit vocoder: that it learns, what its losses are, and that a run that was interrupted ends in the
same bytes.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from adamw import check, recorded

from textless.audio.mel import slaney_log_mel
from textless.errors import AudioError, ContractError, TrainingError
from textless.training import loop as training
from textless.types import UnitContract, Units
from textless.vocoder import Clip, UnitVocoder, VocoderConfig, predictors, train_vocoder
from textless.vocoder.data import Clips, by_duration
from textless.vocoder.discriminators import (
    Discriminators,
    ResolutionDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from textless.vocoder.train import evaluate

CONTRACT = UnitContract(encoder="logmel", sample_rate=16000, frame_rate=50.0, n_units=7)


def vocoder(speakers=("ann", "bob"), contract=CONTRACT, **fields) -> UnitVocoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UnitVocoder(VocoderConfig.of(contract, speakers=speakers, preset="nano", **fields), contract).eval()


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
        f0 = np.where(units.frames() == 0, 220.0, 0.0)
        clips.append(Clip(units, lambda a, b, wave=wave: wave[a:b], len(wave), speaker, f0))
    return clips


def train(clips, **changes):
    options = {"preset": "nano", "steps": 4, "batch": 2, "crop_seconds": 0.4, "contract": CONTRACT.with_(n_units=3)}
    return train_vocoder(clips, **{**options, **changes})


def peak(audio: np.ndarray) -> float:
    """Hz of the strongest frequency."""
    return float(np.argmax(np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 16000))))


def test_it_learns_tones_silence_and_durations():
    model, figures = train(toy_clips(12, 0), steps=200, batch=4, crop_seconds=0.3, lr=4e-3, seed=1)
    dev = toy_clips(3, 1)
    after, before = evaluate(model, dev), evaluate(train(toy_clips(12, 0), steps=1, batch=4, seed=1)[0], dev)
    audio = model.resynth(Units(np.array([0, 1, 2]), np.array([20, 20, 20]), model.contract))
    low, high, silence = (audio[a * 320 : (a + 14) * 320] for a in (3, 23, 43))
    assert abs(peak(low) - 220) < 40
    assert abs(peak(high) - 1500) < 60
    assert np.sqrt((silence**2).mean()) < 0.05 * np.sqrt((low**2).mean())
    np.testing.assert_array_equal(model.predict_durations([np.array([0, 2, 1, 0, 1, 2, 0])])[0], [4, 2, 7, 4, 7, 2, 4])
    assert after["duration_error"] < 0.05 < 1 < before["duration_error"]
    assert after["log_mel_l1"] < 0.5 * before["log_mel_l1"]
    assert figures["curve"][-1]["loss"] < 0.5 * figures["curve"][0]["loss"]


def test_with_f0_it_learns_pitch_and_voicing():
    model, figures = train(toy_clips(12, 0), f0=True, steps=150, batch=4, crop_seconds=0.3, lr=4e-3)
    assert evaluate(model, toy_clips(3, 1))["voicing_error"] < 0.05
    units = Units(np.array([0, 1, 0, 2]), np.array([4, 7, 4, 2]), model.contract)  # as long as it knows them
    np.testing.assert_allclose(model.predict_f0(units.frames()), np.where(units.frames() == 0, 220, 0), rtol=0.03)
    audio = model.resynth(Units(np.array([0]), np.array([20]), model.contract), f0=np.full(20, 250.0))
    assert abs(peak(audio[3 * 320 : 17 * 320]) - 250) < 5, "pulses have the pitch itself, also one that it never heard"
    assert {"pitch", "mel", "duration", "loss"} <= set(figures["curve"][-1])


def clips_of(*lengths: int) -> list[Clip]:
    """Toy clips with noise in their audio, of so many frames."""
    made = []
    for k, (frames, clip) in enumerate(zip(lengths, toy_clips(len(lengths), 3, frames=max(lengths)), strict=True)):
        units, f0 = clip.units.between(0, frames / 50), clip.f0[:frames]
        wave = clip.waveform(0, 320 * frames) + 0.1 * np.random.default_rng(k).standard_normal(320 * frames).astype(
            np.float32
        )
        made.append(Clip(units, lambda a, b, wave=wave: wave[a:b], len(wave), None, f0))
    return made


def test_losses_are_those_of_the_rows_by_hand(monkeypatch):
    """Crops of several lengths, padded together, against each of them alone without padding."""
    monkeypatch.setattr(predictors, "DROPOUT", 0.0)
    clips, crop = clips_of(9, 14, 30), 20
    [found] = train(clips, steps=1, batch=6, f0=True, seed=3)[1]["curve"]
    torch.manual_seed(3)
    contract = CONTRACT.with_(n_units=3)
    model = UnitVocoder(VocoderConfig.of(contract, speakers=["default"], preset="nano", f0=True), contract)
    data = Clips(clips, model)
    batch = data.draw(training.rng(3, 0), 6, crop)
    assert set(batch.lengths.tolist()) == {9, 14, 20}
    real = data.waveforms(batch.rows, batch.starts, crop)
    mel, off, pitch = [], [], []
    with torch.no_grad():
        for k in range(6):
            n, who = int(batch.lengths[k]), batch.speaker[k : k + 1]
            made = model(
                batch.units[k : k + 1, :n], who, torch.tensor([n]), batch.f0[k : k + 1, :n], batch.noise[k : k + 1]
            )
            made = torch.nn.functional.pad(made, (0, 320 * (crop - n)))
            scales = ((2048, 160), (1024, 80), (512, 40), (256, 20), (128, 10))
            both = [
                [slaney_log_mel(x, sample_rate=16000, window=w, n_mels=m) for x in (made, real[k : k + 1])]
                for w, m in scales
            ]
            mel.append(np.mean([float((a - b).abs().mean()) for a, b in both]))
            n = int(batch.counts[k])
            guess = model.durations(batch.joined[k : k + 1, :n], who, torch.tensor([n]))[0]
            off += [(float(d) - math.log(frames)) ** 2 for d, frames in zip(guess, batch.durations[k, :n], strict=True)]
            n = int(batch.passages[k])
            guess = model.pitch(batch.passage[k : k + 1, :n], who, torch.ones(1, n, 1))[0].double()
            for (voicing, octaves), step in zip(guess.tolist(), batch.contour[k, :n].tolist(), strict=True):
                probability = 1 / (1 + math.exp(-voicing))
                hz = 60 * 2 ** ((step - 1) / 48)
                pitch.append(
                    -math.log(probability) + abs(octaves - math.log2(hz / 200)) if step else -math.log(1 - probability)
                )
    # Logarithms of float32 magnitudes near their floor of 1e-5, next to others up to 100, are off by some of their
    # last bits.
    assert found["mel"] == pytest.approx(np.mean(mel), rel=1e-4)
    assert found["duration"] == pytest.approx(np.mean(off), rel=1e-5)
    assert found["pitch"] == pytest.approx(np.mean(pitch), rel=1e-5)


def test_the_loss_is_the_sum_of_its_parts():
    row = train(clips_of(14, 30), steps=1, f0=True)[1]["curve"][0]
    assert row["loss"] == pytest.approx(row["mel"] + row["duration"] + row["pitch"], rel=1e-6)
    row = train(clips_of(14, 30), steps=1, f0=True, adversarial="small")[1]["curve"][0]
    parts = 5 * row["mel"] + row["duration"] + row["pitch"] + row["adversarial"] + 2 * row["features"]
    assert row["loss"] == pytest.approx(parts, rel=1e-6)
    assert min(row[name] for name in ("mel", "duration", "pitch", "adversarial", "features")) > 0.01


def test_steps_are_those_of_adamw_written_out():
    """Both optimisers: AdamW (0.8, 0.99), 1e-8, decay 0.01, of gradients that are clipped at 1. The rate rises for a
    twentieth of the steps to the peak, and falls in a cosine to 0."""
    with recorded() as records:
        train(clips_of(14, 30), steps=40, batch=1, crop_seconds=0.1, lr=2e-3, adversarial="small")
    assert len(records) == 2
    for record in records:
        check(record, betas=(0.8, 0.99), eps=1e-8, weight_decay=0.01)
        falling = [2e-3 * (1 + math.cos(math.pi * n / 38)) / 2 for n in range(38)]
        assert record.rates == pytest.approx([1e-3, 2e-3, *falling])
    assert max(records[1].norms()) == pytest.approx(1, rel=1e-5)


def test_the_average_forgets_in_a_thousand_steps():
    """And is what comes out of a training."""
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    average = training.Average(module)
    average.load_state_dict({"steps": 10**6, "weights": {"weight": torch.zeros(1, 1)}})
    average.update()
    assert float(average.weights["weight"]) == pytest.approx(0.001, rel=1e-4)  # of 1 - 0.999 in float32

    with recorded() as records:
        model, _ = train(clips_of(14, 30), steps=3, batch=1, crop_seconds=0.1)
    [record] = records
    parameters = sorted(model.parameters(), key=lambda p: p.ndim < 2)  # matrices first
    for i, p in enumerate(parameters):
        expected = record.before[0][i].astype(np.float64)
        for n in range(3):
            decay = (n + 1) / (n + 10)
            expected = decay * expected + (1 - decay) * record.after[n][i]
        np.testing.assert_allclose(p.detach(), expected, rtol=1e-6, atol=1e-7)


def test_discriminators_hear_speech_at_a_gain_of_ten():
    torch.manual_seed(0)
    judges, wave = Discriminators("small"), 0.1 * torch.randn(2, 1600)
    for part, score in zip(judges.parts, judges(wave)[0], strict=True):
        torch.testing.assert_close(score, part(10 * wave)[-1])
        assert not torch.allclose(score, part(wave)[-1])


def test_a_spectrum_as_it_is_judged_written_out():
    """Hann windows of 256 samples every 64, reflected at the ends; magnitudes to the power of 0.3, phases kept."""
    judge = ResolutionDiscriminator(256, 8)
    judge.convolutions, judge.last = torch.nn.ModuleList(), torch.nn.Identity()
    wave = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    [seen] = judge(torch.from_numpy(wave)[None])
    padded = np.pad(wave.astype(np.float64), 128, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    spectra = np.array([np.fft.rfft(padded[t : t + 256] * window) / 16 for t in range(0, 1001, 64)])
    expected = spectra * (np.abs(spectra) ** 2 + 1e-6) ** -0.35
    assert seen.shape == (1, 2, 16, 129)
    np.testing.assert_allclose(seen[0, 0] + 1j * seen[0, 1], expected, atol=1e-4)


def test_predictors_see_sequences_of_256():
    contract = CONTRACT.with_(n_units=2)
    units = Units(np.arange(300) % 2, np.full(300, 2), contract)
    data = Clips(
        [Clip(units, lambda a, b: np.zeros(b - a, np.float32), 600 * 320)],
        vocoder(speakers=["default"], contract=contract),
    )
    batch = data.draw(np.random.default_rng(0), 50, 10)
    assert batch.joined.shape == batch.passage.shape == (50, 256)
    assert set(batch.counts.tolist()) == set(batch.passages.tolist()) == {256}


class Crash(Exception):
    pass


@pytest.mark.parametrize("fields", [{}, {"f0": True}, {"f0": True, "adversarial": "small"}], ids=str)
def test_resumed_training_is_bit_equal(tmp_path, monkeypatch, fields):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", 15)
    monkeypatch.setattr(training.train, "__kwdefaults__", {**training.train.__kwdefaults__, "log_every": 10})
    clips, file = toy_clips(4, 0), tmp_path / "c.pt"
    options = {"steps": 31, "batch": 1, "crop_seconds": 0.1, **fields}
    whole, figures = train(clips, **options)

    def crash(n, row):
        if n == 30:
            raise Crash

    with pytest.raises(Crash):
        train(clips, **options, checkpoint=file, log=crash)
    seen = []
    resumed, again = train(clips, **options, checkpoint=file, log=lambda n, row: seen.append(n))
    assert seen == [30, 31], "it did not go on from the checkpoint of step 20"
    assert again == figures
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_weights_are_an_average():
    """Of constant weights it is these; a step that is far off moves it by its share."""
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    average = training.Average(module, decay=0.9)
    expected = 1.0
    for n in range(40):
        module.weight.data.fill_(float(n))
        average.update()
        decay = min(0.9, (n + 1) / (n + 10))
        expected = decay * expected + (1 - decay) * n
    assert float(average.weights["weight"]) == pytest.approx(expected, rel=1e-5)
    again = training.Average(module, decay=0.9)
    again.load_state_dict(average.state_dict())
    average.update(), again.update()
    assert torch.equal(average.weights["weight"], again.weights["weight"])
    assert module.weight.item() == 39


def test_training_goes_on_from_a_vocoder():
    clips = toy_clips(6, 0)
    first, before = train(clips, steps=60, batch=4, lr=4e-3)
    after, figures = train(clips, start=first, adversarial="small", steps=1, lr=1e-9, preset="small")
    assert after.config == first.config
    np.testing.assert_allclose(after.head.project.weight.detach(), first.head.project.weight.detach(), atol=1e-6)
    assert figures["curve"][0]["mel"] < 1.3 * before["curve"][-1]["mel"]
    assert {"adversarial", "features", "discriminator"} <= set(figures["curve"][-1])


@pytest.mark.parametrize(("size", "lr"), [("small", 2e-3), ("large", 2e-4)])
def test_discriminators_tell_speech_from_noise(size, lr):
    """They, and nothing else, learn from their loss; the vocoder's losses fall when it makes what they take for
    speech."""
    torch.manual_seed(0)
    judges = Discriminators(size)
    time = torch.arange(4000) / 16000
    real = 0.3 * torch.sin(2 * torch.pi * torch.tensor([[200.0], [300.0]]) * time)
    made = 0.1 * torch.randn(2, 4000)
    optimiser, found = torch.optim.Adam(judges.parameters(), lr), []
    for _ in range(12):
        optimiser.zero_grad()
        loss = discriminator_loss(judges(real), judges(made))
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    assert found[-1] < 0.6 * found[0]
    with torch.no_grad():
        assert adversarial_loss(judges(real)) < adversarial_loss(judges(made))
        assert feature_loss(judges(real), judges(real)) == 0 < feature_loss(judges(real), judges(made))


def test_losses_of_a_judgement_written_out():
    real = ([torch.tensor([[0.5, 1.5]]), torch.tensor([2.0])], [torch.tensor([[2.0, -2.0], [1.0, 0.0]])])
    made = ([torch.tensor([[1.0, 0.0]]), torch.tensor([-1.0])], [torch.tensor([[3.0, -2.0], [1.0, 2.0]])])
    assert float(discriminator_loss(real, made)) == pytest.approx(((0.25 + 0.5) + (1 + 1)) / 2)
    assert float(adversarial_loss(made)) == pytest.approx((0.5 + 4) / 2)
    assert float(feature_loss(real, made)) == pytest.approx(
        (0.5 / 2 + 1 / 0.5) / 2
    )  # each row relative to its own features


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
    """Audio that says its own unit at each sample, so that a shift of one sample would show; short clips end in
    silence.
    """
    contract = CONTRACT.with_(n_units=200)
    frames = [np.arange(30), np.arange(100, 108)]
    waves = [np.repeat(f / 128, 320).astype(np.float32) for f in frames]
    waves[0] = np.append(waves[0], np.full(200, -1, np.float32))  # samples after the last frame belong to no unit
    waves[1] = waves[1][:-40]  # a last frame that the audio does not fill
    clips = [
        Clip(Units(f, None, contract), lambda a, b, w=w: w[a:b], len(w)) for f, w in zip(frames, waves, strict=True)
    ]
    data = Clips(clips, vocoder(speakers=["default"], contract=contract))
    rng = np.random.default_rng(0)
    rows, starts, units, _, lengths, *_ = data.draw(rng, 400, 10)
    audio = data.waveforms(rows, starts, 10)
    assert 0.6 < (rows == 0).mean() < 0.95  # 30 of 38 frames
    assert units.shape == (400, 10)
    assert audio.shape == (400, 3200)
    assert set(lengths[rows == 0].tolist()) == {10}
    assert set(lengths[rows == 1].tolist()) == {8}
    assert units[rows == 0, 0].unique().tolist() == list(range(21))
    for u, n, x, row in zip(units, lengths, audio, rows, strict=True):
        expected = u.repeat_interleave(320).float() / 128
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
    assert model.speakers == ("high", "low")  # as much of each: by name
    for name, hz in (("low", 300.0), ("high", 2000.0)):
        assert hz / 2 < peak(model.resynth(np.zeros(20, np.int64), speaker=name)) < hz * 2


def test_the_speaker_with_most_speech_comes_first():
    clips = toy_clips(1, 0, speaker="ann") + toy_clips(3, 0, speaker="zoe") + toy_clips(2, 0, speaker="bob")
    assert by_duration(clips) == ["zoe", "bob", "ann"]
    assert train(clips, steps=1)[0].speakers == ("zoe", "bob", "ann")


def test_training_data_that_does_not_fit():
    clips = toy_clips(2, 0, speaker="ann")
    with pytest.raises(TrainingError, match="no clips"):
        train([])
    with pytest.raises(TrainingError, match="'ann'"):
        train(clips, start=vocoder(speakers=["bob"], contract=CONTRACT.with_(n_units=3)))
    with pytest.raises(TrainingError, match="clip 0 has no frames"):
        train([Clip(Units(np.zeros(0, np.int64), None, CONTRACT.with_(n_units=3)), lambda a, b: np.zeros(b - a), 100)])
    with pytest.raises(TrainingError, match="samples of audio"):
        train([Clip(clips[0].units, clips[0].waveform, 3000)])
    with pytest.raises(TrainingError, match="no F0"):
        train([Clip(clips[0].units, clips[0].waveform, clips[0].samples)], f0=True)
    with pytest.raises(TrainingError, match="3 values of F0"):
        train([Clip(clips[0].units, clips[0].waveform, clips[0].samples, f0=np.zeros(3))], f0=True)
    with pytest.raises(TrainingError, match="adversarial is 'huge'; known: small, large"):
        train(clips, adversarial="huge")
    with pytest.raises(ContractError, match="clip 0"):
        train(clips, contract=CONTRACT)
    with pytest.raises(TrainingError, match="fp16"):
        train(clips, precision="fp16")


def test_the_step_starts_from_vocoders_of_its_own(monkeypatch):
    from textless.steps.vocoder import _start

    monkeypatch.setattr("textless.vocoder.load_vocoder", lambda path: torch.nn.Identity())
    with pytest.raises(TrainingError, match=r"g\.pt: a unit HiFi-GAN cannot be trained further"):
        _start("g.pt")


def test_diverging_training_stops():
    clip = toy_clips(1, 0)[0]
    with pytest.raises(TrainingError, match="diverged"):
        train([clip], steps=5, lr=1e30)


def test_audio_with_nan_is_refused():
    clip = toy_clips(1, 0)[0]
    broken = Clip(clip.units, lambda a, b: np.full(b - a, np.nan, np.float32), clip.samples)
    with pytest.raises(AudioError, match="NaN"):
        train([broken], steps=2)
