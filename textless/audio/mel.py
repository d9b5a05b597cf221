"""Log-mel spectrograms in torch, on the two scales in use. A model trained on one does not take the other.

`htk_log_mel` is the encoders' front end: HTK's scale, energies, 100 Hz, frame t starts at sample 160 t.
`slaney_log_mel`
is what vocoders are trained and evaluated by: Slaney's scale, magnitudes, frames centred on multiples of the hop.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from textless.audio.mfcc import HOP, SAMPLE_RATE, WINDOW
from textless.errors import AudioError

N_FFT = 512  # of `htk_log_mel`
HTK_FLOOR = 1e-6  # of mel energies: 16-bit silence stays above it, digital silence does not become -inf
SLANEY_FLOOR = 1e-5  # of mel magnitudes


def triangles(bins: Tensor, edges: Tensor) -> Tensor:
    """Triangular filters of height 1: filter i rises from edge i to its peak at edge i + 1 and falls to edge i + 2.

    Shape: (bins,), (n_mels + 2,) → (bins, n_mels), on the scale of both.
    """
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - low) / (peak - low)
    falling = (high - bins[:, None]) / (high - peak)
    return torch.minimum(rising, falling).clamp(min=0)


# -------------------------------------------------------------------------------------------------------- HTK's scale


def hz_to_htk(hz: Tensor) -> Tensor:
    """Hz → mel on HTK's scale."""
    return 1127.0 * torch.log1p(hz / 700.0)


def htk_edges(n_mels: int) -> Tensor:
    """Where filters begin, peak and end: filter i has its peak at i + 1.

    (n_mels + 2,) float64 in mel, 20 Hz to Nyquist.
    """
    low, high = hz_to_htk(torch.tensor([20.0, SAMPLE_RATE / 2], dtype=torch.float64)).tolist()
    return torch.linspace(low, high, n_mels + 2, dtype=torch.float64)


@functools.lru_cache
def htk_filters(n_mels: int) -> Tensor:
    """Filters that are triangles of equal width on the mel scale. (N_FFT / 2 + 1, n_mels) float32."""
    bins = hz_to_htk(torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / N_FFT)
    return triangles(bins, htk_edges(n_mels)).float()


@functools.lru_cache
def _symmetric_hann() -> Tensor:
    return torch.hann_window(WINDOW, periodic=False)


def htk_log_mel(waveform: Tensor, *, n_mels: int = 80) -> Tensor:
    """Natural logarithm of mel energies.

    Args:
        waveform: (samples,) float32 in [-1, 1] at 16 kHz, at least 400 samples.

    Returns:
        (T', n_mels) float32 at 100 Hz, T' = floor((samples - 400) / 160) + 1: the frames of MFCC.

    Raises:
        AudioError: shorter than one frame.
    """
    if len(waveform) < WINDOW:
        raise AudioError(f"{len(waveform)} samples are shorter than one frame ({WINDOW} samples at 16 kHz)")
    frames = waveform.unfold(0, WINDOW, HOP) * _symmetric_hann().to(waveform.device)
    power = torch.fft.rfft(frames, N_FFT).abs().square()
    return torch.log(torch.clamp(power @ htk_filters(n_mels).to(waveform.device), min=HTK_FLOOR))


log_mel = htk_log_mel  # its name before 0.2, for one release


def normalise(features: Tensor) -> Tensor:
    """Zero mean and unit variance over time in each channel: takes away microphone, level and some of the speaker.

    (T, D) → (T, D).
    """
    centred = features - features.mean(0)
    return centred / torch.sqrt(centred.square().mean(0) + 1e-5)


# ----------------------------------------------------------------------------------------------------- Slaney's scale


@functools.lru_cache
def slaney_filters(n_fft: int, n_mels: int, sample_rate: int) -> Tensor:
    """Triangular filters on Slaney's mel scale, each of area 1 (librosa's default): linear to 1 kHz, logarithmic above.

    Returns:
        (n_fft / 2 + 1, n_mels) float32 from 0 Hz to Nyquist.
    """
    step, knee, ratio = 200 / 3, 1000.0, 6.4 ** (1 / 27)  # Hz per mel below the knee; frequency ratio per mel above
    # torch has no log to a base, and float64 keeps the narrow filters exact
    log_ratio = torch.log(torch.tensor(ratio, dtype=torch.float64))

    def to_mel(hz: Tensor) -> Tensor:
        return torch.where(hz < knee, hz / step, knee / step + torch.log(hz.clamp(min=knee) / knee) / log_ratio)

    def to_hz(mel: Tensor) -> Tensor:
        return torch.where(mel < knee / step, mel * step, knee * torch.exp(log_ratio * (mel - knee / step)))

    nyquist = torch.tensor(sample_rate / 2, dtype=torch.float64)
    edges = to_hz(torch.linspace(0, 1, n_mels + 2, dtype=torch.float64) * to_mel(nyquist))
    bins = torch.linspace(0, 1, n_fft // 2 + 1, dtype=torch.float64) * nyquist
    return (triangles(bins, edges) * 2 / (edges[2:] - edges[:-2])).float()


@functools.lru_cache
def _periodic_hann(size: int) -> Tensor:
    return torch.hann_window(size)


def magnitudes(waveform: Tensor, window: int) -> Tensor:
    """Hann-windowed spectrum magnitudes with hop = window / 4, reflected at the ends.

    Shape: (B, samples) float32, samples > window / 2 → (B, window / 2 + 1, floor(samples / hop) + 1).
    """
    hann = _periodic_hann(window).to(waveform.device)
    spectrum = torch.stft(waveform, window, window // 4, window=hann, center=True, return_complex=True)
    # abs() has no usable gradient at 0
    return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-10)


def slaney_log_mel(waveform: Tensor, *, sample_rate: int, window: int = 1024, n_mels: int = 80) -> Tensor:
    """Natural logarithm of mel magnitudes, hop = window / 4. (B, samples) → (B, n_mels, frames)."""
    filters = slaney_filters(window, n_mels, sample_rate).to(waveform.device)
    return torch.log((filters.T @ magnitudes(waveform, window)).clamp(min=SLANEY_FLOOR))
