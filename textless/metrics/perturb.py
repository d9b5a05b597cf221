"""Perturbations of a waveform that do not change the words: speed, pitch, noise."""

from __future__ import annotations

import numpy as np
import soxr

from textless.audio.waveform import as_waveform
from textless.errors import AudioError, check_known

WINDOW = 0.032  # seconds; two windows overlap at any time
SEARCH = 0.010  # seconds to each side: a whole period of the lowest voices fits


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """`factor` times as fast by resampling, as on tape: the pitch changes by the same factor.

    (samples,) float32 → (round(samples / factor),) float32.
    """
    out = soxr.resample(as_waveform(waveform), factor, 1.0, quality="HQ")
    return _fit(out, round(len(waveform) / factor))


def stretch(waveform: np.ndarray, factor: float, *, sample_rate: int = 16_000) -> np.ndarray:
    """`factor` times as fast at the same pitch, by WSOLA (Verhelst & Roelands 1993).

    Windows overlap by half. Each is taken from near the position that the factor gives, where it correlates best with
    the natural continuation of the window before.

    (samples,) float32 → (round(samples / factor),) float32.
    """
    waveform = as_waveform(waveform)
    hop = int(WINDOW * sample_rate) // 2
    reach = int(SEARCH * sample_rate)
    total = round(len(waveform) / factor)
    steps = total // hop + 2
    # Pad with silence, so that every window and its search region are inside.
    before = hop + reach
    x = np.pad(waveform, (before, int(steps * hop * factor) + 3 * (hop + reach)))
    fade = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2 * hop) / (2 * hop))
    out = np.zeros((steps + 2) * hop, np.float32)
    place = before - hop
    for k in range(steps):
        if k:
            nominal = before + round((k - 1) * hop * factor)
            follows = x[place + hop : place + 3 * hop]
            first = max(0, nominal - reach)
            region = x[first : nominal + reach + 2 * hop]
            energy = np.cumsum(np.concatenate([[0], np.square(region, dtype=np.float64)]))
            power = (energy[2 * hop :] - energy[: -2 * hop]) * np.square(follows, dtype=np.float64).sum()
            similarity = np.correlate(region, follows, "valid") / np.sqrt(power + 1e-12)
            # Of equally similar positions the nearest, so that nothing moves in silence.
            similarity -= 1e-4 * np.abs(np.arange(first, first + len(similarity)) - nominal)
            place = first + int(similarity.argmax())
        out[k * hop : (k + 2) * hop] += (fade * x[place : place + 2 * hop]).astype(np.float32)
    return out[hop : hop + total]


def shift_pitch(waveform: np.ndarray, semitones: float, *, sample_rate: int = 16_000) -> np.ndarray:
    """Pitch and formants moved by `semitones`: resampled, then stretched back to (samples,)."""
    moved = change_speed(waveform, 2 ** (semitones / 12))
    return _fit(stretch(moved, len(moved) / len(waveform), sample_rate=sample_rate), len(waveform))


def add_noise(waveform: np.ndarray, snr: float, *, seed: int) -> np.ndarray:
    """White noise `snr` dB below the mean power of the whole waveform. (samples,) → (samples,); not clipped."""
    waveform = as_waveform(waveform)
    power = np.square(waveform, dtype=np.float64).mean()
    scale = np.float32(np.sqrt(power / 10 ** (snr / 10)))
    return waveform + scale * np.random.default_rng(seed).standard_normal(len(waveform), dtype=np.float32)


def perturb(waveform: np.ndarray, name: str, *, seed: int = 0, sample_rate: int = 16_000) -> np.ndarray:
    """A waveform (samples,) float32 under one of `PERTURBATIONS`, whose name is the kind, `_`, and the amount."""
    waveform = as_waveform(waveform)
    if not len(waveform):
        raise AudioError("an empty waveform cannot be perturbed")
    check_known("perturbation", name, PERTURBATIONS, ValueError)
    kind, amount = name.split("_")
    value = float(amount)
    if kind == "speed":
        return change_speed(waveform, value)
    if kind == "stretch":
        return stretch(waveform, value, sample_rate=sample_rate)
    if kind == "pitch":
        return shift_pitch(waveform, value, sample_rate=sample_rate)
    return add_noise(waveform, value, seed=seed)


# Speed and stretch as factors, pitch in semitones, noise as the signal-to-noise ratio in dB; and each in words.
PERTURBATIONS = {
    "speed_0.9": "0.9 x speed and pitch",
    "speed_1.1": "1.1 x speed and pitch",
    "stretch_0.9": "0.9 x speed",
    "stretch_1.1": "1.1 x speed",
    "pitch_-2": "2 semitones lower",
    "pitch_+2": "2 semitones higher",
    "noise_20": "white noise, 20 dB",
    "noise_10": "white noise, 10 dB",
}


def _fit(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Cut, or padded with silence, to a length that rounding missed by a few samples."""
    return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))
