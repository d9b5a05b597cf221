"""The fundamental frequency of speech, for many files at once: autocorrelation candidates and a Viterbi path.

Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled sound"
(1993), which is `To Pitch (ac)` in Praat.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from textless.audio.waveform import as_waveforms
from textless.devices import resolve
from textless.errors import AudioError

# Praat's defaults
PERIODS = 3  # of the lowest frequency in a window
VOICING = 0.45  # strength of the unvoiced candidate, which the autocorrelation of a voiced frame exceeds
SILENCE = 0.03  # of the file's peak: quieter frames are unvoiced
OCTAVE = 0.01  # cost per octave below the highest frequency: a signal of period T also has the period 2 T
JUMP = 0.35  # cost per octave from one frame to the next
CHANGE = 0.14  # cost of a change between voiced and unvoiced
STEP = 0.01  # seconds between frames of a path, about; JUMP and CHANGE are defined for it

CANDIDATES = 8  # voiced candidates of a frame
UPSAMPLED = 2  # lags per sample: at one, a peak between two samples would look too low
QUIET = 1e-3  # the least peak of a file: rounding errors of silence are periodic too

CHUNK = 128  # frames transformed together: they stay in the processor's cache, which makes it twice as fast
BLOCK = 64  # frames whose transitions are in memory together
BATCH = 1 << 16  # frames, padding included, whose paths are searched together


def track_f0(
    waveforms: Sequence[np.ndarray],
    *,
    sample_rate: int = 16000,
    hop: int = 320,
    low: float = 60.0,
    high: float = 550.0,
    frames: Sequence[int] | None = None,
    device: str = "cpu",
) -> list[np.ndarray]:
    """F0 of each frame, by the autocorrelation method of Boersma (1993).

    Frame t is centred on sample (t + 1/2) · hop and sees three periods of `low`. The result of a file does not depend
    on the others.

    Args:
        waveforms: (samples,) float32 in [-1, 1] each.
        hop: samples from one frame to the next.
        low, high: Hz, the range searched.
        frames: T of each waveform, by default floor(samples / hop). Beyond its end a waveform is silent.

    Returns:
        (T,) float32 Hz for each waveform, 0 where it is unvoiced.

    Raises:
        AudioError: not a waveform (see `as_waveform`), or the other arguments are out of range.
        DeviceError: the device is unknown or missing.
    """
    at = resolve(device)
    if not (hop >= 1 and low >= 10 and 2 * low <= high <= sample_rate / 4):
        raise AudioError(
            f"cannot track F0 from {low:g} to {high:g} Hz every {hop} samples at {sample_rate} Hz; "
            "low is at least 10 Hz, high two times low up to a quarter of the sample rate, and hop at least 1"
        )
    waveforms = as_waveforms(waveforms)
    counts = [len(wave) // hop for wave in waveforms] if frames is None else list(frames)
    if len(counts) != len(waveforms) or min(counts, default=0) < 0:
        raise AudioError(f"{len(waveforms)} waveforms need as many numbers of frames, none negative; got {len(counts)}")

    fine = max(1, round(hop / (STEP * sample_rate)))  # frames of the path for each returned frame
    paths = [np.zeros(0, np.float32)] * len(counts)
    for batch in _batches([fine * (n - 1) + 1 if n else 0 for n in counts]):
        candidates = []
        for i in batch:
            wave = torch.tensor(waveforms[i], device=at)
            centres = (2 * torch.arange(fine * (counts[i] - 1) + 1, device=at) + fine) * hop // (2 * fine)
            candidates.append(_candidates(wave, centres, sample_rate, low, high))
        for i, path in zip(batch, _best_paths(candidates, hop / fine / sample_rate), strict=True):
            paths[i] = path[::fine].cpu().numpy()
    return paths


def _batches(counts: list[int]) -> Iterator[list[int]]:
    """Indices of files of similar length, up to BATCH frames with padding; files without frames are left out."""
    batch: list[int] = []
    for i in sorted((i for i, n in enumerate(counts) if n), key=counts.__getitem__):
        if batch and (len(batch) + 1) * counts[i] > BATCH:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _candidates(wave: Tensor, centres: Tensor, sample_rate: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The candidates of each frame of one file: unvoiced, or one of several frequencies.

    Args:
        wave: (samples,) float32.
        centres: (T,) int64 samples, ascending.

    Returns:
        octaves: (T, 1 + K) float32, log2 of Hz; the first candidate is the unvoiced one, -inf.
        strengths: (T, 1 + K) float32, Boersma's equations 23 and 24; -inf where there are fewer candidates.
    """
    size = math.ceil(PERIODS * sample_rate / low)
    padded = F.pad(wave, (size // 2, max(0, int(centres[-1]) + size - len(wave))))
    views = padded.unfold(0, size, 1)
    parts = [_peaks(views.index_select(0, chunk), sample_rate, low, high) for chunk in centres.split(CHUNK)]
    octaves, strengths, levels = (torch.cat(part) for part in zip(*parts, strict=True))
    relative = levels / levels.amax().clamp(min=QUIET)
    unvoiced = VOICING + (2 - relative * ((1 + VOICING) / SILENCE)).clamp(min=0)
    return F.pad(octaves, (1, 0), value=-math.inf), torch.cat([unvoiced[:, None], strengths], 1)


def _peaks(frames: Tensor, sample_rate: int, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """The highest peaks of the autocorrelation of windowed frames over that of the window (Boersma 1993, equation 9).

    Returns octaves (T, K), strengths (T, K), -inf where there are fewer peaks, and levels (T,): the peak amplitude of
    the middle period.
    """
    size = frames.shape[1]
    window, of_window = _window(size, size + math.ceil(sample_rate / low) + 1, frames.device)
    frames = (frames - frames.mean(1, keepdim=True)) * window
    third = size // PERIODS
    levels = frames[:, third:-third].abs().amax(1)

    rate = UPSAMPLED * sample_rate  # of lags
    shortest, longest = math.ceil(rate / high), math.floor(rate / low)
    r = _autocorrelation(frames, len(of_window))
    r = r[:, shortest - 1 : longest + 2] / r[:, :1].clamp(min=1e-20) / of_window[shortest - 1 : longest + 2]
    before, centre, after = r[:, :-2], r[:, 1:-1], r[:, 2:]
    loss = OCTAVE * torch.log2(torch.arange(shortest, longest + 1, device=r.device) * (high / rate))
    is_top = (centre > before) & (centre >= after) & (centre > VOICING / 2)
    highest, lags = torch.where(is_top, centre - loss, -math.inf).topk(CANDIDATES)

    # The top of the cosine through a peak and its neighbours. A parabola is too low where all harmonics are strong: T
    # would lose to 2 T.
    before, centre, after = (x.gather(1, lags) for x in (before, centre, after))
    is_peak = highest > -math.inf
    angle = torch.acos(((before + after) / (2 * centre)).clamp(-1, 1))  # from one lag to the next
    shift = torch.where(is_peak, torch.atan((after - before) / (2 * centre * angle.sin())) / angle, 0)
    height = centre / torch.cos(shift * angle)
    octaves = torch.log2((rate / (shortest + lags + shift)).clamp(low, high))
    strengths = torch.where(is_peak, height - OCTAVE * (math.log2(high) - octaves), -math.inf)
    return octaves, strengths, levels


@functools.lru_cache
def _window(size: int, padded: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Hann window (size,) and its autocorrelation, 1 at lag 0."""
    window = torch.hann_window(size + 2, periodic=False, dtype=torch.float64, device=device)[1:-1]
    r = _autocorrelation(window, UPSAMPLED * 128 * math.ceil(padded / 128))  # a length with a fast FFT
    return window.float(), (r / r[0]).float()


def _autocorrelation(x: Tensor, lags: int) -> Tensor:
    """(…, samples) → (…, lags), UPSAMPLED lags a sample, circular over lags / UPSAMPLED samples."""
    spectrum = torch.fft.rfft(x, lags // UPSAMPLED)
    return torch.fft.irfft(spectrum * spectrum.conj(), lags)


def _best_paths(candidates: list[tuple[Tensor, Tensor]], step: float) -> list[Tensor]:
    """Viterbi search through the frames of many files, with Boersma's transition costs (1993, equation 27).

    Octaves and strengths (T, 1 + K) of each file, `step` seconds from frame to frame → (T,) Hz each, 0 where unvoiced.
    """
    counts = [len(octaves) for octaves, _ in candidates]
    total = max(counts)
    # Past its end a file repeats the frequencies of its last frame with strength 0, which does not change the best
    # path.
    octaves = torch.stack(
        [F.pad(o.T, (0, total - len(o)), mode="replicate").T for o, _ in candidates], 1
    )  # (T, B, 1 + K)
    strengths = pad_sequence([s for _, s in candidates])
    jump, change = JUMP * STEP / step, CHANGE * STEP / step

    score, origins = strengths[0], []
    for at in range(1, total, BLOCK):
        to, of = octaves[at : at + BLOCK], octaves[at - 1 : at - 1 + BLOCK]
        cost = jump * (to[..., :, None] - of[: len(to), :, None, :]).abs()
        cost[..., 0, :] = cost[..., :, 0] = change
        cost[..., 0, 0] = 0
        steps = []
        for c, strength in zip(cost, strengths[at : at + BLOCK], strict=True):
            best, origin = (score[:, None] - c).max(2)
            score = best + strength
            steps.append(origin)
        origins.append(torch.stack(steps))
        score = score - score.amax(1, keepdim=True)  # else after an hour float32 cannot tell paths apart

    state = score.argmax(1, keepdim=True)
    states = [state]
    for block in reversed(origins):
        for origin in reversed(block):
            state = origin.gather(1, state)
            states.append(state)
    path = octaves.gather(2, torch.stack(states[::-1])).squeeze(2)
    # one by one, since the last bit depends on the memory layout
    return [path[:n, i].contiguous().exp2() for i, n in enumerate(counts)]


def f0_cents_error(made: np.ndarray, real: np.ndarray) -> float:
    """Mean absolute difference in cents over the frames that are voiced in both, NaN if there are none.

    Takes (T,) Hz twice, 0 where unvoiced. Raises AudioError when the lengths differ.
    """
    _check_lengths(made, real)
    voiced = (made > 0) & (real > 0)
    return float(np.abs(1200 * np.log2(made[voiced] / real[voiced])).mean()) if voiced.any() else math.nan


def voicing_error(made: np.ndarray, real: np.ndarray) -> float:
    """Share of frames that are voiced in one and unvoiced in the other, NaN without frames.

    Takes (T,) Hz twice, 0 where unvoiced. Raises AudioError when the lengths differ.
    """
    _check_lengths(made, real)
    return float(((made > 0) != (real > 0)).mean()) if len(made) else math.nan


def _check_lengths(made: np.ndarray, real: np.ndarray) -> None:
    if len(made) != len(real):
        raise AudioError(
            f"{len(made)} frames of F0 cannot be compared with {len(real)}; track both with the same number of `frames`"
        )
