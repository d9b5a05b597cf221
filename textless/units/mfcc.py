"""MFCC with deltas, as HuBERT's first iteration clusters them, and how their frames map to those of HuBERT."""

from __future__ import annotations

import numpy as np

from textless.errors import AudioError, TrainingError

SAMPLE_RATE = 16_000
WINDOW, HOP = 400, 160  # samples: 25 ms every 10 ms
FRAME_RATE = SAMPLE_RATE / HOP
DIM = 39


def n_frames(samples: int) -> int:
    """T = floor((samples - 400) / 160) + 1: only whole windows count (Kaldi's snip_edges)."""
    return 0 if samples < WINDOW else (samples - WINDOW) // HOP + 1


def mfcc(waveform: np.ndarray) -> np.ndarray:
    """13 MFCC, their deltas and delta-deltas, as fairseq's dump_mfcc_feature.py computes them (with dither 0).

    The waveform stays in [-1, 1]: scaled to 16-bit integers, a fifth of the labels of a published codebook change.

    Args:
        waveform: (samples,) float32 in [-1, 1] at 16 kHz.

    Returns:
        (T, 39) float32 at 100 Hz, T = floor((samples - 400) / 160) + 1.

    Raises:
        AudioError: the waveform is shorter than one window.
    """
    import kaldi_native_fbank as knf

    total = n_frames(len(waveform))
    if total < 1:
        raise AudioError(f"{len(waveform)} samples are shorter than one frame ({WINDOW} samples at 16 kHz)")
    options = knf.MfccOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = True
    options.use_energy = False
    extractor = knf.OnlineMfcc(options)
    extractor.accept_waveform(SAMPLE_RATE, np.ascontiguousarray(waveform, dtype=np.float32))
    extractor.input_finished()
    static = np.empty((total, 13), np.float32)
    for t in range(total):
        static[t] = extractor.get_frame(t)
    first = deltas(static)
    return np.concatenate([static, first, deltas(first)], axis=1)


def deltas(features: np.ndarray) -> np.ndarray:
    """Regression over five frames, edges replicated: d[t] = sum_n n (x[t + n] - x[t - n]) / 10, n = 1, 2. Shape: (T, D) → (T, D)."""
    x = np.pad(features, ((2, 2), (0, 0)), mode="edge")
    return ((x[3:-1] - x[1:-3]) + 2 * (x[4:] - x[:-4])) / np.float32(10)


def to_rate(labels: np.ndarray, *, rate: float, target_rate: float, frames: int) -> np.ndarray:
    """Labels (or features) of a front end at `rate`, picked for the frames of an encoder at `target_rate`.

    Frame t of the encoder starts at the sample where frame `round(t * rate / target_rate)` of the labels starts, and both look at
    25 ms from there. So at 100 against 50 Hz frame t belongs to MFCC frame 2 t: of 739 MFCC frames the 370 even ones remain.

    Args:
        labels: (T', …) at `rate`.
        frames: T, the encoder's number of frames.

    Returns:
        (T, …) at `target_rate`.

    Raises:
        TrainingError: the last frame has no label, so the two are not of the same audio or a rate is wrong.
    """
    index = np.round(np.arange(frames) * (rate / target_rate)).astype(np.int64)
    surplus = (rate / target_rate) * frames
    if frames and (index[-1] >= len(labels) or len(labels) > surplus + 1):
        raise TrainingError(
            f"{len(labels)} labels at {rate:g} Hz do not fit {frames} frames at {target_rate:g} Hz; were they made from the same audio?"
        )
    return labels[index]
