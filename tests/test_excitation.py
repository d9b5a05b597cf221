"""Pulses, noise and the steps of F0, against sums of cosines written out and a plain Fourier transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from textless.vocoder.excitation import PERIOD, REST, Excitation
from textless.vocoder.predictors import (
    BINS_PER_OCTAVE,
    F0_BINS,
    HIGHEST,
    LOWEST,
    PitchPredictor,
    dequantise_f0,
    predicted_f0,
    quantise_f0,
)

HOP, N_FFT = 160, 640


def source() -> Excitation:
    return Excitation(N_FFT, HOP, 16000)


def naive_pulses(f0: list[float], phase: float) -> tuple[list[float], float]:
    """Sample by sample, harmonic by harmonic. The first and last two values are the neighbours."""

    def pitch(t: int) -> float:
        return next((f for f in (f0[t], f0[t - 1], f0[t + 1]) if f > 0), REST)

    samples = []
    for t in range(2, len(f0) - 2):
        for i in range(HOP):
            place = (i + 0.5) / HOP - 0.5
            other, away = (t - 1, -place) if place < 0 else (t + 1, place)
            hz = (1 - away) * pitch(t) + away * pitch(other)
            voiced = (1 - away) * (f0[t] > 0) + away * (f0[other] > 0)
            phase += hz / 16000
            harmonics = int(8000 // hz)
            total = sum(math.cos(2 * math.pi * k * phase) for k in range(1, harmonics + 1))
            samples.append(voiced * total * math.sqrt(2 / harmonics))
    return samples, phase


@pytest.mark.parametrize("phase", [0.0, 0.3])
def test_pulses_are_a_sum_of_harmonics(phase):
    f0 = [0.0, 0.0, 0.0, 150.0, 163.0, 120.0, 0.0, 0.0, 210.0, 300.0, 0.0, 90.0]
    expected, end = naive_pulses(f0, phase)
    made, after = source().pulses(torch.tensor([f0], dtype=torch.float64), torch.tensor([phase], dtype=torch.float64))
    np.testing.assert_allclose(made[0].numpy(), expected, atol=2e-3)  # float32 sines of up to 300 radians
    assert float(after) == pytest.approx(end, abs=1e-9)
    assert np.abs(expected).max() > 5


def test_pulses_have_unit_power_and_the_pitch_asked_for():
    made, _ = source().pulses(torch.full((1, 104), 130.0, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert float(made.square().mean()) == pytest.approx(1, rel=0.02)
    spectrum = np.abs(np.fft.rfft(made[0].numpy()))  # one second: a bin is a hertz
    strong = np.flatnonzero(spectrum > 0.5 * spectrum.max())
    assert set(strong) == set(range(130, 8000, 130))


def test_pulses_go_on_where_they_were():
    f0 = quantised(np.random.default_rng(0).uniform(60, 500, 34) * (np.random.default_rng(1).random(34) < 0.8))
    zero = torch.zeros(1, dtype=torch.float64)
    whole, _ = source().pulses(f0, zero)
    first, phase = source().pulses(f0[:, :17], zero)
    second, _ = source().pulses(f0[:, 13:], phase)
    np.testing.assert_allclose(torch.cat([first, second], 1), whole, atol=1e-5)


def quantised(f0: np.ndarray) -> torch.Tensor:
    return dequantise_f0(quantise_f0(torch.from_numpy(np.asarray(f0, np.float32))))[None]


def test_silence_has_no_pulses():
    made, _ = source().pulses(torch.zeros(1, 9, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert made.shape == (1, 5 * HOP)
    assert not made.any()


def test_a_pause_runs_on_at_a_hundred_hertz():
    _, phase = source().pulses(torch.zeros(1, 9, dtype=torch.float64), torch.full((1,), 0.25, dtype=torch.float64))
    assert float(phase) == pytest.approx(0.25 + 5 * HOP * 100 / 16000, abs=1e-9)


def test_spectra_are_those_of_the_samples_around_a_frame():
    excitation, frames = source(), 6
    left, right = excitation.sides
    samples = torch.randn(2, (left + frames + right) * HOP, generator=torch.Generator().manual_seed(0))
    spectra = excitation.spectra(samples)
    assert spectra.shape == (2, frames, N_FFT // 2 + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    for t in range(frames):
        start = (left + t) * HOP - (N_FFT - HOP) // 2  # its middle is the frame's
        expected = np.fft.rfft(samples[:, start : start + N_FFT].numpy() * window)
        np.testing.assert_allclose(spectra[:, t], expected, atol=1e-4)


def test_noise_is_one_signal_that_repeats():
    """Neighbouring frames are of the same samples: overlap-add gives them back, with unit power."""
    from textless.vocoder.head import ISTFT

    excitation = source()
    around = torch.complex(*excitation.noise(torch.tensor([PERIOD - 20]), 40))
    signal = ISTFT(N_FFT, HOP)(around, torch.ones(1, 40))[0, N_FFT:-N_FFT]
    assert float(signal.square().mean()) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(excitation.spectra(signal[None])[0], around[0, 6:34], atol=1e-3)
    for twice, once, again in zip(
        *(
            s.noise(torch.tensor(at), 5)
            for s, at in ((excitation, [3, 3 + PERIOD]), (excitation, [3]), (source(), [3]))
        ),
        strict=True,
    ):
        assert torch.equal(twice[1:], once)
        assert torch.equal(again, once)


def test_f0_in_steps_of_25_cents():
    hz = torch.linspace(LOWEST, HIGHEST, 2000)
    steps = quantise_f0(hz)
    assert (int(steps.min()), int(steps.max())) == (1, F0_BINS - 1)
    cents = 1200 * torch.log2(dequantise_f0(steps) / hz)
    assert cents.abs().max() <= 1200 / BINS_PER_OCTAVE / 2 + 0.01
    assert (steps.diff() >= 0).all()
    assert quantise_f0(torch.tensor([0.0, 20.0, 5000.0])).tolist() == [0, 1, F0_BINS - 1]
    assert torch.equal(quantise_f0(dequantise_f0(torch.arange(F0_BINS)).float()), torch.arange(F0_BINS))


def test_f0_in_steps_by_number():
    """Four steps a semitone from 60 Hz on: an octave is 48."""
    hz = [0, 60, 60 * 2 ** (1 / 48), 60 * 2 ** (0.4 / 48), 120, 240, 480, 600]
    assert quantise_f0(torch.tensor(hz)).tolist() == [0, 1, 2, 1, 49, 97, 145, 154]
    assert dequantise_f0(torch.tensor([0, 1, 49, 97])).tolist() == [0, 60, 120, 240]
    assert F0_BINS == 155


def test_predicted_f0():
    found = predicted_f0(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 1.0], [2.0, 99.0]]))
    np.testing.assert_allclose(dequantise_f0(found), [200, 0, 400, HIGHEST], rtol=0.008)


def test_the_predictor_does_not_hear_its_batch():
    torch.manual_seed(0)
    predictor = PitchPredictor(9, 2, 32, 2, 5, causal=False)
    units, speakers = torch.randint(9, (2, 30)), torch.tensor([0, 1])
    mask = torch.ones(2, 30, 1)
    mask[1, 12:] = 0
    together = predictor(units, speakers, mask)[1, :12]
    torch.testing.assert_close(together, predictor(units[1:, :12], speakers[1:], torch.ones(1, 12, 1))[0])
