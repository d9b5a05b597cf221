"""Mel-cepstral distortion after dynamic time warping.

Kubichek 1993, Mel-cepstral distance measure for objective speech quality assessment.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from textless.audio.mel import slaney_log_mel
from textless.audio.waveform import as_waveform
from textless.errors import AudioError
from textless.metrics.dtw import warped_distance

ORDER = 13  # cepstra 1 … 13; c0, the level, is left out


def mel_cepstra(waveform: np.ndarray, *, sample_rate: int = 16000) -> np.ndarray:
    """Cepstra c1 … c13 of the log-mel spectrum of `slaney_log_mel`.

    It has 80 bands on Slaney's scale, a Hann window of 1024 samples and a hop of 256.
    c_k = 2 / N sum_n log m_n cos(pi k (n + 1/2) / N), m_n the magnitude in band n of N: the orthonormal DCT-II times
    sqrt(2 / N). So log m = c_0 / 2 + sum_k c_k cos(…), as SPTK's mel cepstra sum to the logarithm of a warped spectrum,
    and distortions are in dB.

    Returns:
        (samples // 256 + 1, 13) float64.

    Raises:
        AudioError: 512 samples or fewer, or no waveform (see `as_waveform`).
    """
    waveform = as_waveform(waveform)
    if len(waveform) <= 512:
        raise AudioError(f"{len(waveform)} samples have no spectrum; it takes more than 512")
    mel = slaney_log_mel(torch.from_numpy(waveform)[None], sample_rate=sample_rate)[0].double().numpy()
    bands = len(mel)
    basis = np.cos(np.pi / bands * np.outer(np.arange(1, ORDER + 1), np.arange(bands) + 0.5))
    return (2 / bands * basis @ mel).T


def mel_cepstral_distortion(speech: np.ndarray, reference: np.ndarray, *, sample_rate: int = 16000) -> float:
    """Mel-cepstral distortion of two waveforms (samples,) of any lengths above 512, in dB.

    10 / ln 10 sqrt(2 sum_k (c_k - c'_k)²), mean over the best path: the root-mean-square difference of the smoothed
    spectra over mel bands, level apart. Silent frames count as any others. Compare only with values of the same
    definition: other cepstra, other orders, or leaving out silence give other values.
    """
    a, b = (mel_cepstra(w, sample_rate=sample_rate) for w in (speech, reference))
    return 10 / math.log(10) * math.sqrt(2) * warped_distance(a, b)
