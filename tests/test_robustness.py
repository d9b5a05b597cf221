import numpy as np
import pytest

from textless.errors import AudioError, CorpusError
from textless.metrics.edit_distance import edit_distance
from textless.metrics.perturb import PERTURBATIONS, add_noise, change_speed, perturb, shift_pitch, stretch
from textless.metrics.robustness import mean_distances, unit_edit_distance, unit_edit_distances
from textless.types import Units

RATE = 16000


def naive(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


def test_edit_distance_equals_a_naive_computation():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (rng.integers(0, 4, rng.integers(0, 25)) for _ in range(2))
        assert edit_distance(a, b) == naive(a, b)
    assert edit_distance(np.array([1, 2, 3]), np.array([1, 9, 3, 4])) == 2


def test_distance_is_between_runs_relative_to_the_clean_files_frames():
    clean = Units.of([5, 5, 5, 6, 7, 7])
    assert unit_edit_distance(clean, Units.of([5, 6, 6, 6, 7])) == 0
    assert unit_edit_distance(clean, Units(np.array([5, 7]), np.array([3, 2]))) == pytest.approx(1 / 6)
    assert unit_edit_distance(clean.deduplicated(), Units(np.array([5, 7]), np.array([3, 2]))) == pytest.approx(1 / 6)
    assert unit_edit_distance(clean, Units.of([1, 2, 3, 4, 1, 2])) == 1
    with pytest.raises(CorpusError, match="there are none"):
        unit_edit_distance(Units.of([]), clean)


def sine(hertz, seconds=1.5):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def pitch(waveform):
    """Hz of the highest peak, and the share of the energy around it."""
    power = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 1 << 18)) ** 2
    peak = int(power.argmax())
    return peak * RATE / (1 << 18), power[max(0, peak - 100) : peak + 101].sum() / power.sum()


@pytest.mark.parametrize("hertz", [110, 700, 2500])
def test_frequency_and_length_of_a_sine(hertz):
    wave = sine(hertz)
    for factor in (0.9, 1.1):
        fast = change_speed(wave, factor)
        assert len(fast) == round(len(wave) / factor)
        assert pitch(fast) == (pytest.approx(hertz * factor, rel=2e-3), pytest.approx(1, abs=0.01))
        short = stretch(wave, factor)
        assert len(short) == round(len(wave) / factor)
        assert pitch(short) == (pytest.approx(hertz, rel=2e-3), pytest.approx(1, abs=0.01))
    for semitones in (-2, 2):
        moved = shift_pitch(wave, semitones)
        assert len(moved) == len(wave)
        assert pitch(moved) == (pytest.approx(hertz * 2 ** (semitones / 12), rel=2e-3), pytest.approx(1, abs=0.01))


def test_stretching_keeps_the_order_of_time():
    """A pause in the middle is where it belongs, and nothing is louder."""
    wave = np.concatenate([sine(300, 0.5), np.zeros(RATE // 2, np.float32), sine(900, 0.5)])
    for factor in (0.8, 1.25):
        out = stretch(wave, factor)
        third = len(out) // 3
        assert pitch(out[: third - 800])[0] == pytest.approx(300, rel=0.01)
        assert np.abs(out[third + 800 : 2 * third - 800]).max() < 1e-3
        assert pitch(out[2 * third + 800 :])[0] == pytest.approx(900, rel=0.01)
        assert np.abs(out).max() < 0.55
    assert stretch(wave, 1.0)[800:-800] == pytest.approx(wave[800:-800], abs=1e-3)


def test_noise_has_the_power_asked_for():
    wave = sine(440)
    for snr in (20, 10):
        noise = add_noise(wave, snr, seed=1) - wave
        assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.1)
    assert np.array_equal(add_noise(wave, 10, seed=1), add_noise(wave, 10, seed=1))
    assert not np.array_equal(add_noise(wave, 10, seed=1), add_noise(wave, 10, seed=2))


def test_short_and_silent_waveforms():
    for n in (1, 2, 399, 1000):
        for name in PERTURBATIONS:
            out = perturb(np.zeros(n, np.float32), name)
            assert out.dtype == np.float32
            assert np.isfinite(out).all()
            assert abs(len(out) - n) <= n / 5
    with pytest.raises(AudioError, match="empty"):
        perturb(np.empty(0, np.float32), "speed_0.9")
    with pytest.raises(ValueError, match=r"^perturbation is 'echo_1'; known: speed_0.9, .*noise_10$"):
        perturb(np.zeros(9, np.float32), "echo_1")


def test_distances_of_a_file_and_their_mean():
    """An encoder that hears how loud each 20 ms are: noise changes it most, and time not what follows what."""

    def encode(waveforms):
        cut = [w[: len(w) // 320 * 320].reshape(-1, 320) for w in waveforms]
        return [Units.of((np.sqrt((w**2).mean(1)) > 0.2).astype(int)) for w in cut]

    beats = np.concatenate([sine(200, 0.2) * k for k in (1, 0, 1, 0, 1)])
    got = unit_edit_distances(beats, encode, name="a")
    assert set(got) == {f"ued_{name}" for name in PERTURBATIONS}
    assert got["ued_speed_1.1"] == got["ued_stretch_0.9"] == got["ued_pitch_+2"] == 0
    assert unit_edit_distances(beats, encode, name="a") == got
    assert mean_distances([{"x": 1.0}]) == {"x": 1.0}
    assert mean_distances([{"x": 1.0}, {"x": 2.0}]) == {"x": 1.5, "x_low": 1.0, "x_high": 2.0}
    with pytest.raises(CorpusError, match="no audio"):
        mean_distances([])
