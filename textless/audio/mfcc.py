"""MFCC with deltas, as HuBERT's first iteration clusters them, and how their frames map to those of HuBERT."""

from __future__ import annotations

import functools

import numpy as np

from textless.audio.waveform import as_waveform
from textless.errors import AudioError, TrainingError

SAMPLE_RATE = 16_000
WINDOW, HOP = 400, 160  # samples: 25 ms every 10 ms
FRAME_RATE = SAMPLE_RATE / HOP
CEPSTRA, DIM = 13, 39
N_FFT, N_MELS, LIFTER, PREEMPHASIS = 512, 23, 22, np.float32(0.97)
BLOCK = 128  # frames computed together: they stay in the processor's cache, which makes it four times faster


def n_frames(samples: int) -> int:
    """T = floor((samples - 400) / 160) + 1: only whole windows count (Kaldi's snip_edges)."""
    return 0 if samples < WINDOW else (samples - WINDOW) // HOP + 1


def mfcc(waveform: np.ndarray) -> np.ndarray:
    """13 MFCC, their deltas and delta-deltas, as fairseq's dump_mfcc_feature.py: Kaldi's recipe, with dither 0.

    The waveform stays in [-1, 1]: scaled to 16-bit integers, a fifth of the labels of a published codebook change. C0
    takes the place of the energy (use_energy False).

    Args:
        waveform: (samples,) float32 in [-1, 1] at 16 kHz.

    Returns:
        (T, 39) float32 at 100 Hz, T = floor((samples - 400) / 160) + 1.

    Raises:
        AudioError: shorter than one window, or not a waveform (see `as_waveform`).
    """
    waveform = as_waveform(waveform)
    total = n_frames(len(waveform))
    if total < 1:
        raise AudioError(f"{len(waveform)} samples are shorter than one frame ({WINDOW} samples at 16 kHz)")
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP]
    static = np.concatenate([_cepstra(frames[i : i + BLOCK]) for i in range(0, total, BLOCK)])
    first = deltas(static)
    return np.concatenate([static, first, deltas(first)], axis=1)


def _cepstra(frames: np.ndarray) -> np.ndarray:
    """(T, 400) → (T, 13): mean removed, pre-emphasis, Povey window, power spectrum, log mel energies, DCT, lifter."""
    window, filters, dct = _tables()
    x = frames - frames.mean(1, keepdims=True)
    padded = np.zeros((len(x), N_FFT), np.float32)
    np.multiply(x[:, 1:] - PREEMPHASIS * x[:, :-1], window[1:], out=padded[:, 1:WINDOW])
    padded[:, 0] = x[:, 0] * ((1 - PREEMPHASIS) * window[0])
    spectrum = np.fft.rfft(padded)
    energies = (spectrum.real**2 + spectrum.imag**2) @ filters
    return np.log(np.maximum(energies, np.finfo(np.float32).eps)) @ dct


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Povey window (400,), triangular mel filters (257, 23) from 20 Hz to Nyquist, DCT with the lifter (23, 13)."""

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log1p(np.asarray(hz) / 700)

    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))) ** 0.85
    bins = mel(np.arange(N_FFT // 2 + 1) * SAMPLE_RATE / N_FFT)
    edges = np.linspace(mel(20), mel(SAMPLE_RATE / 2), N_MELS + 2)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.minimum(rising, falling).clip(min=0)
    k = np.arange(CEPSTRA)
    dct = np.sqrt(2 / N_MELS) * np.cos(np.pi / N_MELS * (np.arange(N_MELS)[:, None] + 0.5) * k)
    dct[:, 0] /= np.sqrt(2)
    lifter = 1 + LIFTER / 2 * np.sin(np.pi * k / LIFTER)
    return window.astype(np.float32), filters.astype(np.float32), (dct * lifter).astype(np.float32)


def deltas(features: np.ndarray) -> np.ndarray:
    """Regression over five frames, edges replicated: d[t] = sum_n n (x[t + n] - x[t - n]) / 10, n = 1, 2.

    (T, D) → (T, D).
    """
    x = np.pad(features, ((2, 2), (0, 0)), mode="edge")
    return ((x[3:-1] - x[1:-3]) + 2 * (x[4:] - x[:-4])) / np.float32(10)


def to_rate(labels: np.ndarray, *, rate: float, target_rate: float, frames: int) -> np.ndarray:
    """Labels (or features) at `rate`, one for each frame of an encoder at `target_rate`.

    Frame t of the encoder starts at the sample where frame `round(t * rate / target_rate)` of the labels starts, and
    both look at 25 ms from there. So at 100 against 50 Hz frame t belongs to MFCC frame 2 t: of 739 MFCC frames the 370
    even ones remain.

    Args:
        labels: (T', …) at `rate`.
        frames: T, the encoder's number of frames.

    Returns:
        (T, …) at `target_rate`.

    Raises:
        TrainingError: the last frame has no label, or labels are left over: the audio differs, or a rate is wrong.
    """
    index = np.round(np.arange(frames) * (rate / target_rate)).astype(np.int64)
    surplus = (rate / target_rate) * frames
    if frames and (index[-1] >= len(labels) or len(labels) > surplus + 1):
        raise TrainingError(
            f"{len(labels)} labels at {rate:g} Hz do not fit {frames} frames at {target_rate:g} Hz; "
            "were they made from the same audio?"
        )
    return labels[index]
