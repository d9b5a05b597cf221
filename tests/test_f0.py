"""F0: signals whose F0 is known, a naive version in float64, Praat, and the promises about batches, ends and bad
input."""

import math

import numpy as np
import pytest
import torch

from conftest import ROOT
from textless.audio import f0
from textless.audio.f0 import f0_cents_error, track_f0, voicing_error
from textless.audio.io import read_audio
from textless.errors import AudioError, DeviceError

RATE, HOP = 16000, 320


def tone(hz, harmonics, amplitude=lambda k: 1 / k) -> np.ndarray:
    """Those of the harmonics that lie below 7.5 kHz. hz: (samples,), F0 at each; the peak of the result is 0.5."""
    phase = 2 * np.pi * np.cumsum(hz) / RATE
    wave = sum(amplitude(k) * np.cos(k * phase) * (k * hz < 7500) for k in harmonics)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def at_centres(hz: np.ndarray) -> np.ndarray:
    return hz[HOP // 2 :: HOP]


def cents(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.abs(1200 * np.log2(made / real))


SECOND = np.ones(RATE)
INNER = slice(2, -2)  # frames whose window is in the signal


# ---------------------------------------------------------------------------------------------------- known F0


@pytest.mark.parametrize("hz", [62, 75.3, 110, 187.9, 233, 330, 441.7, RATE / 29.5])
def test_pulses(hz):
    """All harmonics equally strong: the peaks of the autocorrelation are the narrowest possible, and of the last there
    are nine alike.
    """
    (found,) = track_f0([tone(hz * SECOND, range(1, 130), lambda k: 1)])
    assert cents(found[INNER], hz).max() < 2
    assert (found[1:-1] > 0).all()  # 1.8 periods of 62 Hz are enough


@pytest.mark.parametrize("hz", [62, 120.6, 300, 545])
def test_sine(hz):
    (found,) = track_f0([tone(hz * SECOND, [1])])
    assert cents(found[INNER], hz).max() < 2


@pytest.mark.parametrize("hz", [80, 150, 260])
def test_missing_fundamental(hz):
    (found,) = track_f0([tone(hz * SECOND, range(3, 9))])
    assert cents(found[INNER], hz).max() < 2


@pytest.mark.parametrize(("start", "stop"), [(80, 160), (400, 120), (100, 500)])
def test_glide(start, stop):
    hz = np.geomspace(start, stop, 2 * RATE)
    (found,) = track_f0([tone(hz, range(1, 40))])
    assert cents(found, at_centres(hz))[INNER].max() < 5


def test_vibrato_in_noise():
    """6 Hz, 100 cents up and down, 15 dB above white noise."""
    hz = 200 * 2 ** (np.sin(2 * np.pi * 6 * np.arange(2 * RATE) / RATE) / 12)
    wave = tone(hz, range(1, 40))
    wave += np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32) * wave.std() * 10 ** (-15 / 20)
    (found,) = track_f0([wave])
    assert np.median(cents(found, at_centres(hz))[INNER]) < 5
    assert cents(found, at_centres(hz))[INNER].max() < 30  # a window of 50 ms sees 0.3 of a cycle


def test_noise_is_unvoiced():
    (found,) = track_f0([np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32) * 0.1])
    assert (found > 0).mean() < 0.02


@pytest.mark.parametrize("wave", [0 * SECOND, 0.3 * SECOND, 1e-6 * tone(100 * SECOND, [1])])
def test_silence_is_unvoiced(wave):
    """Nothing, an offset, and what decoders make of nothing."""
    (found,) = track_f0([wave.astype(np.float32)])
    assert found.shape == (50,)
    assert not found.any()


def test_stays_in_range():
    """F0 outside, but nearer to a lag inside than to one outside."""
    (found,) = track_f0([tone(545 * SECOND, [1])], high=543.3)
    assert cents(found, 543.3).max() < 0.01


def test_onset_and_end():
    """Half a second each of silence, tone and silence: frames 25 to 49, give or take one whose window is half
    filled."""
    wave = np.concatenate([np.zeros(8000), tone(140 * SECOND[:8000], range(1, 30)), np.zeros(8000)])
    voiced = track_f0([wave])[0] > 0
    assert voiced[25:50].all()
    assert not voiced[:24].any()
    assert not voiced[51:].any()


def test_silence_is_relative_to_the_file():
    """Fifty decibels below the file's peak a hum is unvoiced; by itself it is voiced, at any level."""
    hum = 10 ** (-50 / 20) * tone(100 * SECOND, [1, 2])
    loud, alone, faint = track_f0([np.concatenate([hum, tone(200 * SECOND, [1, 2])]), hum, 0.1 * hum])
    assert not loud[:48].any()
    assert loud[52:].all()
    assert (alone > 0).all()
    np.testing.assert_allclose(faint, alone, rtol=1e-5)


def test_other_rates_hops_and_ranges():
    hz = np.geomspace(700, 1000, 24000)
    wave = np.interp(np.arange(0, 24000, 2 / 3), np.arange(24000), np.sin(2 * np.pi * np.cumsum(hz) / 24000))
    (found,) = track_f0([wave.astype(np.float32)], sample_rate=36000, hop=451, low=300, high=1100)
    assert len(found) == 36000 // 451
    assert cents(found, np.interp((np.arange(len(found)) + 0.5) * 451 / 1.5, np.arange(24000), hz))[INNER].max() < 5


# ------------------------------------------------------------------------------------------------------ naive version


LAGS = np.arange(math.ceil(2 * RATE / 550) - 1, 2 * RATE // 60 + 2) / 2  # samples
COSINES = np.cos(2 * np.pi / 4096 * np.outer(LAGS, np.arange(2049)))


def naive_autocorrelation(x: np.ndarray) -> np.ndarray:
    """At LAGS, divided by that at lag 0: the inverse Fourier transform as a sum of cosines."""
    power = np.abs(np.fft.rfft(x, 4096)) ** 2 * np.r_[1, np.full(2047, 2), 1]
    return COSINES @ power / power.sum()


def naive_candidates(wave: np.ndarray, centre: int) -> tuple[list[tuple[float, float]], float]:
    """(log2 Hz, strength) of the voiced candidates of the frame around a sample, and the frame's level."""
    size = 3 * RATE // 60
    padded = np.concatenate([np.zeros(size), wave, np.zeros(2 * size)])
    frame = padded[size + centre - size // 2 :][:size]
    window = np.sin(np.pi * np.arange(1, size + 1) / (size + 1)) ** 2
    frame = (frame - frame.mean()) * window
    level = max(abs(x) for x in frame[size // 3 : -(size // 3)])

    r = naive_autocorrelation(frame) / naive_autocorrelation(window)
    found = []
    for i in range(1, len(r) - 1):
        if r[i] > 0.45 / 2 and r[i] > r[i - 1] and r[i] >= r[i + 1]:
            # r = h cos(w (x - s)) through the points at x = -1, 0, 1
            w = math.acos((r[i - 1] + r[i + 1]) / (2 * r[i]))
            cosine, sine = r[i], (r[i + 1] - r[i - 1]) / (2 * math.sin(w))
            height, s = math.hypot(cosine, sine), math.atan2(sine, cosine) / w
            hz = min(550, max(60, RATE / (LAGS[i] + s / 2)))
            found.append((math.log2(hz), height - 0.01 * math.log2(550 / hz)))
    return found, level


def naive_track(wave: np.ndarray, frames: int, hop: int = HOP, fine: int = 2) -> np.ndarray:
    """Viterbi over all candidates, one frame after the other; of `fine` frames every one is kept.

    Costs of transitions are Boersma's for 10 ms, and for other steps in proportion to how many there are in a second.
    """
    centres = [int((t + fine / 2) * hop / fine) for t in range(fine * (frames - 1) + 1)]
    rate = 160 / (hop / fine)
    voiced, levels = zip(*(naive_candidates(wave, centre) for centre in centres), strict=True)
    paths = []  # (score, [log2 Hz, ...]), None where unvoiced
    for candidates, level in zip(voiced, levels, strict=True):
        options = [*candidates, (None, 0.45 + max(0, 2 - level / max(levels) / (0.03 / 1.45)))]
        longer = []
        for octave, strength in options:
            scores = [(0, [])] if not paths else []
            for score, path in paths:
                both = (octave is None) + (path[-1] is None)
                scores.append(
                    (score - rate * (0.35 * abs(octave - path[-1]) if both == 0 else 0.14 if both == 1 else 0), path)
                )
            score, path = max(scores, key=lambda pair: pair[0])
            longer.append((score + strength, [*path, octave]))
        paths = longer
    best = max(paths, key=lambda pair: pair[0])[1]
    return np.array([0 if octave is None else 2**octave for octave in best])[::fine]


@pytest.mark.parametrize("name", ["amy-0", "ben-0", "cat-0", "dan-1"])
@pytest.mark.parametrize("worse", ["clean", "noise", "fade"])
def test_equals_the_naive_version(name, worse):
    wave = read_audio(ROOT / "pipelines" / "smoke" / f"{name}.opus")[8000:24000]
    if worse == "noise":
        wave = wave + np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32) * wave.std() / 2
    elif worse == "fade":  # by 60 dB
        wave = wave * np.geomspace(1, 1e-3, len(wave), dtype=np.float32)
    (found,) = track_f0([wave])
    want = naive_track(wave.astype(np.float64), 50)
    assert 5 < (want > 0).sum() < 50
    np.testing.assert_allclose(
        found, want, rtol=1e-3
    )  # what is at the Nyquist frequency counts otherwise between samples


@pytest.mark.parametrize(("hop", "fine"), [(80, 1), (441, 3), (640, 4), (200, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_other_hops_equal_the_naive_version(hop, fine, seed):
    """In noise, where transitions decide. Steps of the path are those nearest to 10 ms, but no longer than a hop."""
    wave = read_audio(ROOT / "pipelines" / "smoke" / f"{['amy-0', 'dan-1'][seed]}.opus")[8000:20000]
    wave = wave + np.random.default_rng(seed).standard_normal(len(wave)).astype(np.float32) * wave.std() / 2
    (found,) = track_f0([wave], hop=hop)
    want = naive_track(wave.astype(np.float64), len(wave) // hop, hop, fine)
    assert 0.05 < (want > 0).mean() < 0.95
    np.testing.assert_allclose(found, want, rtol=1e-3)


@pytest.mark.parametrize("step", [0.0025, 0.005, 0.009, 0.01, 0.02])
def test_the_price_of_a_transition_is_for_ten_milliseconds(step):
    """A frame that is louder an octave up, or unvoiced, is taken where its gain is above the price of going there and
    back.
    """
    for other, price in ((8.0, 2 * 0.35 * 0.01 / step), (-math.inf, 2 * 0.14 * 0.01 / step)):
        octaves = torch.tensor([[-math.inf, 7.0, 8.0]]).repeat(5, 1)
        for gain, taken in ((0.97 * price, False), (1.03 * price, True)):
            strengths = torch.tensor([[-99.0, 0.0, -99.0]]).repeat(5, 1)
            strengths[2, 2 if other > 0 else 0] = gain
            [path] = f0._best_paths([(octaves, strengths)], step)
            assert path.tolist() == [128, 128, 2**other if taken else 128, 128, 128]


# ---------------------------------------------------------------------------------------------------------- Praat


def praat(wave: np.ndarray) -> np.ndarray:
    """To Pitch (ac) with its own defaults every 10 ms, with so much silence around that its frames lie where ours
    do."""
    parselmouth = pytest.importorskip("parselmouth")
    frames = len(wave) // HOP
    padded = np.zeros(frames * HOP + 560)
    inside = wave[: frames * HOP + 280]
    padded[280 : 280 + len(inside)] = inside
    pitch = parselmouth.Sound(padded, RATE).to_pitch_ac(time_step=0.01, pitch_floor=60, pitch_ceiling=550)
    found = pitch.selected_array["frequency"]
    assert len(found) == 2 * frames - 1
    assert pitch.t1 == pytest.approx((280 + HOP / 2 + 0.5) / RATE, abs=1e-4)
    return found[::2]


def test_agrees_with_praat(clip):
    """Six of the robots' clips and the golden one, as they are and 15 dB above white noise."""
    clean = [clip] + [read_audio(path) for path in sorted((ROOT / "pipelines" / "smoke").glob("*.opus"))[::4]]
    rng = np.random.default_rng(0)
    noisy = [w + rng.standard_normal(len(w)).astype(np.float32) * w.std() * 10 ** (-15 / 20) for w in clean]
    waves = clean + noisy
    made, real = np.concatenate(track_f0(waves)), np.concatenate([praat(w) for w in waves])
    both = (made > 0) & (real > 0)
    assert 0.3 < both.mean() < 0.9
    assert voicing_error(made, real) < 0.01
    assert np.median(cents(made[both], real[both])) < 0.5
    assert (np.abs(made[both] / real[both] - 1) > 0.2).mean() < 0.005


# ------------------------------------------------------------------------------------------------- batches and ends


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    """All lengths, cut anywhere; an empty one, one of a frame, and a quiet one."""
    waves = [read_audio(path) for path in sorted((ROOT / "pipelines" / "smoke").glob("*.opus"))]
    waves = [wave[: 6000 + 1700 * i] for i, wave in enumerate(waves)]
    return [*waves, waves[1][:0], waves[2][:320], 0.01 * waves[-1]]


def test_a_file_does_not_depend_on_its_batch(speech):
    for wave, found in zip(speech, track_f0(speech), strict=True):
        assert found.dtype == np.float32
        assert len(found) == len(wave) // HOP
        assert np.array_equal(found, track_f0([wave])[0])


@pytest.mark.parametrize(("name", "value"), [("CHUNK", 7), ("BLOCK", 5), ("BATCH", 200)])
def test_nor_on_what_is_in_memory_together(speech, monkeypatch, name, value):
    want = track_f0(speech)
    monkeypatch.setattr(f0, name, value)
    for found, wanted in zip(track_f0(speech), want, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_long_paths_are_as_good_as_short_ones():
    """Strengths that are all higher by 100 add up as those of an hour do: the path stays, though float32 would round
    its costs away.
    """
    torch.manual_seed(0)
    octaves, strengths = 6 + 3 * torch.rand(3000, 5), torch.rand(3000, 5)
    (short,), (long,) = (f0._best_paths([(octaves, strengths + more)], 0.01) for more in (0, 100))
    assert (short == long).float().mean() > 0.99


def test_frames(speech):
    wave = speech[1][:7000]
    (own,) = track_f0([wave])
    longer, shorter, none = track_f0([wave] * 3, frames=[40, 19, 0])
    assert len(own) == 21
    assert longer.shape == (40,)
    np.testing.assert_allclose(longer, track_f0([np.append(wave, np.zeros(40 * HOP - len(wave), np.float32))])[0])
    assert shorter.shape == (19,)
    assert none.shape == (0,)
    assert not track_f0([np.zeros(0, np.float32)], frames=[3])[0].any()


def test_empty():
    assert track_f0([]) == []
    assert track_f0([np.zeros(0, np.float32)])[0].shape == (0,)
    assert track_f0([np.ones(319, np.float32)])[0].shape == (0,)


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("bad", [np.array([0.0, np.nan]), np.array([np.inf]), np.zeros((2, 400)), np.float32(1)])
def test_bad_samples(bad):
    with pytest.raises(AudioError, match="waveform 1: "):
        track_f0([np.zeros(400, np.float32), bad])


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_rate": 0},
        {"hop": 0},
        {"low": 0},
        {"low": math.nan},
        {"low": 300},
        {"high": 5000},
        {"low": -60},
        {"sample_rate": 1000},
    ],
)
def test_bad_settings(wrong):
    with pytest.raises(AudioError, match="cannot track F0 from"):
        track_f0([np.zeros(400, np.float32)], **wrong)


@pytest.mark.parametrize(("device", "message"), [("gpu0", "is 'gpu0'"), ("mps", "'mps' "), ("cuda:99", "'cuda:99' ")])
def test_bad_devices(device, message):
    with pytest.raises(DeviceError, match=f"^device {message}"):
        track_f0([], device=device)


@pytest.mark.parametrize("frames", [[], [1, 1], [-1]])
def test_bad_frames(frames):
    with pytest.raises(AudioError, match="1 waveforms need as many numbers of frames"):
        track_f0([np.zeros(400, np.float32)], frames=frames)


# ---------------------------------------------------------------------------------------------------------- measures


def test_measures():
    made, real = np.array([100, 0, 200, 0, 150.0]), np.array([100, 110, 100, 0, 0.0])
    assert f0_cents_error(made, real) == pytest.approx(600)  # 0 and 1200
    assert voicing_error(made, real) == pytest.approx(2 / 5)
    assert f0_cents_error(made, made) == voicing_error(made, made) == 0
    assert math.isnan(f0_cents_error(made[:2], np.zeros(2)))
    assert math.isnan(voicing_error(made[:0], real[:0]))
    for measure in (f0_cents_error, voicing_error):
        with pytest.raises(AudioError, match="5 frames of F0 cannot be compared with 4"):
            measure(made, real[:4])
