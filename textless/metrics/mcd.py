"""Mel-cepstral distortion after dynamic time warping (Kubichek 1993, Mel-cepstral distance measure for objective speech quality
assessment)."""

from __future__ import annotations

import math

import numpy as np
import torch

from textless.audio.mel import slaney_log_mel
from textless.audio.waveform import as_waveform
from textless.errors import AudioError

ORDER = 13  # cepstra 1 … 13; c0, the level, is left out


def mel_cepstra(waveform: np.ndarray, *, sample_rate: int = 16000) -> np.ndarray:
    """Cepstra c1 … c13 of the log-mel spectrum of `slaney_log_mel` (80 bands, Slaney's scale, Hann window of 1024 samples, hop 256).

    c_k = 2 / N sum_n log m_n cos(pi k (n + 1/2) / N), m_n the magnitude in band n of N: the orthonormal DCT-II times sqrt(2 / N). So
    log m = c_0 / 2 + sum_k c_k cos(…), as SPTK's mel cepstra make up the logarithm of a warped spectrum, and distortions are in dB.

    Returns:
        (samples // 256 + 1, 13) float64.

    Raises:
        AudioError: no more than 512 samples, or no waveform (see `as_waveform`).
    """
    waveform = as_waveform(waveform)
    if len(waveform) <= 512:
        raise AudioError(f"{len(waveform)} samples have no spectrum; it takes more than 512")
    mel = slaney_log_mel(torch.from_numpy(waveform)[None], sample_rate=sample_rate)[0].double().numpy()
    bands = len(mel)
    basis = np.cos(np.pi / bands * np.outer(np.arange(1, ORDER + 1), np.arange(bands) + 0.5))
    return (2 / bands * basis @ mel).T


def mel_cepstral_distortion(made: np.ndarray, real: np.ndarray, *, sample_rate: int = 16000) -> float:
    """dB between two waveforms (samples,) of any lengths above 512: 10 / ln 10 sqrt(2 sum_k (c_k - c'_k)²), mean over the best path.

    It is the root-mean-square difference of the smoothed spectra over mel bands, level apart. Silent frames count as any others. Compare
    only with figures of the same definition: of other cepstra and orders, or of frames with speech only, they are others.
    """
    a, b = (mel_cepstra(w, sample_rate=sample_rate) for w in (made, real))
    return 10 / math.log(10) * math.sqrt(2) * warped_distance(a, b)


def warped_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Euclidean distance of frames (N, D) and (M, D) along the path of least sum, from the first frames to the last.

    Steps are (1, 0), (0, 1) and (1, 1), of weight 1; of paths that tie, the one that, traced back from its end, takes the diagonal, then
    the step in `a`. Memory: N M bytes.
    """
    steps = np.zeros(
        (len(a), len(b)), np.uint8
    )  # to a cell: 0 diagonally, 1 from the last frame of `a`, 2 from that of `b`
    outside = [np.inf]
    costs = np.full(len(b), np.inf)
    for i, frame in enumerate(a):
        here = np.sqrt(np.square(b - frame).sum(1))
        total = np.cumsum(here)
        diagonal = np.concatenate([outside if i else [0.0], costs[:-1]])
        # A cell is reached from above in some column to its left, and then along the row.
        costs, above = total + np.minimum.accumulate(np.minimum(diagonal, costs) - total + here), costs
        steps[i] = np.argmin([diagonal, above, np.concatenate([outside, costs[:-1]])], 0)
    i, j, cells = len(a) - 1, len(b) - 1, 1
    while i or j:
        step = steps[i, j]
        i, j, cells = i - (step != 2), j - (step != 1), cells + 1
    return float(costs[-1] / cells)
