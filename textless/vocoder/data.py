"""Units and the speech that they come from as training data, and rows of different lengths as padded batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textless.audio.waveform import as_waveform
from textless.errors import TrainingError
from textless.types import Units
from textless.vocoder.predictors import quantise_f0

if TYPE_CHECKING:
    from textless.vocoder.model import UnitVocoder

BATCH_FRAMES = 12_000  # frames (4 minutes at 50 Hz) that are synthesised at once, padding included
SEQUENCE = 256  # units without repetitions, or frames, at most in a row for the predictors
NO_NAME = "default"  # the speaker of clips without a name


def pad(rows: Sequence[np.ndarray], *, to: int = 0) -> tuple[Tensor, Tensor]:
    """Rows (N_i,) → (B, max N) int64, padded with zeros to at least `to`, and their lengths (B,) int64."""
    lengths = torch.tensor([len(r) for r in rows])
    padded = nn.utils.rnn.pad_sequence([torch.from_numpy(np.asarray(r, np.int64)) for r in rows], batch_first=True)
    return F.pad(padded, (0, max(0, to - padded.shape[1]))), lengths


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in batches of similar lengths, of at most BATCH_FRAMES padded; a longer row is a batch of its own."""
    result: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if result and lengths[result[-1][0]] * (len(result[-1]) + 1) <= BATCH_FRAMES:
            result[-1].append(i)
        else:
            result.append([i])
    return result


@dataclass(frozen=True)
class Clip:
    """An utterance of the training data.

    Attributes:
        units: at the vocoder's frame rate; frame t belongs to the samples [t * hop, (t + 1) * hop). HuBERT's frame t
            sees [320 t, 320 t + 400), so its middle is the segment's but for 40 samples.
        waveform: (start, stop) → (stop - start,) float32 in [-1, 1]; called with 0 <= start <= stop <= samples.
        samples: length of the waveform.
        speaker: name, or None where there is only one.
        f0: (frames,) Hz, 0 where unvoiced (see `track_f0`); None for a vocoder without F0.
    """

    units: Units
    waveform: Callable[[int, int], np.ndarray]
    samples: int
    speaker: str | None = None
    f0: np.ndarray | None = None


def by_duration(clips: Sequence[Clip]) -> list[str]:
    """Names of the speakers, the one with most frames first."""
    frames: dict[str, int] = {}
    for clip in clips:
        name = clip.speaker or NO_NAME
        frames[name] = frames.get(name, 0) + clip.units.n_frames
    return sorted(frames, key=lambda name: (-frames[name], name))


class Batch(NamedTuple):
    """The batch of an update, drawn on the host; the audio itself is read part by part.

    Attributes:
        rows: (B,) int64 indices of clips.
        starts: (B,) int64 first frames of the crops.
        units, f0: (B, crop) int64, F0 in steps of `quantise_f0`; padding after a row's length is arbitrary.
        lengths: (B,) int64 frames of the crops.
        speaker: (B,) int64.
        joined, durations: (B, N) int64 units without repetitions and the frames of each, padded.
        counts: (B,) int64, their number.
        passage, contour: (B, S) int64 units and F0 of longer pieces, padded.
        passages: (B,) int64 their lengths.
        noise: (B,) int64 first frames of the vocoder's noise.
    """

    rows: np.ndarray
    starts: np.ndarray
    units: Tensor
    f0: Tensor
    lengths: Tensor
    speaker: Tensor
    joined: Tensor
    durations: Tensor
    counts: Tensor
    passage: Tensor
    contour: Tensor
    passages: Tensor
    noise: Tensor


class Clips:
    """Clips, checked once; crops are drawn so that every frame is equally likely.

    Raises TrainingError: a clip of another speaker or without frames, audio shorter than the units, F0 that is missing
    or of another length. ContractError: units of another kind.
    """

    def __init__(self, clips: Sequence[Clip], model: UnitVocoder) -> None:
        self.clips, self.hop, names = clips, model.config.hop, set(model.speakers)
        self.f0: list[np.ndarray] = []
        for i, clip in enumerate(clips):
            model.contract.check(clip.units.contract, mine="the vocoder", theirs=f"the units of clip {i}")
            frames = clip.units.n_frames
            if (name := clip.speaker or NO_NAME) not in names:
                raise TrainingError(f"clip {i} is of speaker {name!r}, which the vocoder does not have")
            if not frames:
                raise TrainingError(f"clip {i} has no frames")
            if clip.samples <= (frames - 1) * self.hop:
                raise TrainingError(
                    f"clip {i} has {frames} frames of {self.hop} samples but {clip.samples} samples of audio"
                )
            if model.config.f0 and (clip.f0 is None or len(clip.f0) != frames):
                values = "no F0" if clip.f0 is None else f"{len(clip.f0)} values of F0"
                raise TrainingError(
                    f"clip {i} has {frames} frames but {values}; a vocoder with F0 needs one value a frame"
                )
            f0 = clip.f0 if model.config.f0 and clip.f0 is not None else np.zeros(frames)
            self.f0.append(quantise_f0(torch.tensor(np.array(f0, np.float32))).numpy())
        self.ends = np.cumsum([c.units.n_frames for c in clips])
        self.speaker = np.array([model.speakers.index(c.speaker or NO_NAME) for c in clips])

    def draw(self, rng: np.random.Generator, batch: int, crop: int) -> Batch:
        """Crops of clips in proportion to their frames, and as many sequences of joined units and of frames."""
        rows = np.searchsorted(self.ends, rng.integers(self.ends[-1], size=batch), side="right")
        starts, units, f0, joined, durations, passage, contour = [], [], [], [], [], [], []
        for row in rows:
            frames = self.clips[row].units.frames()
            crop_at, piece = _window(rng, len(frames), crop)
            starts.append(crop_at)
            units.append(frames[piece])
            f0.append(self.f0[row][piece])
        for row in rows:
            whole = self.clips[row].units.deduplicated()
            _, piece = _window(rng, len(whole), SEQUENCE)
            joined.append(whole.units[piece])
            durations.append(whole.durations[piece])
            frames = self.clips[row].units.frames()
            _, piece = _window(rng, len(frames), SEQUENCE)
            passage.append(frames[piece])
            contour.append(self.f0[row][piece])
        return Batch(
            rows,
            np.array(starts),
            pad(units, to=crop)[0],
            pad(f0, to=crop)[0],
            pad(units)[1],
            torch.from_numpy(self.speaker[rows]),
            pad(joined)[0],
            *pad(durations),
            pad(passage)[0],
            *pad(contour),
            torch.from_numpy(rng.integers(2**31, size=batch)),
        )

    def waveforms(self, rows: np.ndarray, starts: np.ndarray, crop: int) -> Tensor:
        """(B, crop * hop) float32 of crops, with zeros after the end."""
        out = np.zeros((len(rows), crop * self.hop), np.float32)
        for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
            samples = self.audio(row, start, min(crop, self.clips[row].units.n_frames - start))
            out[b, : len(samples)] = samples
        return torch.from_numpy(out)

    def audio(self, row: int, start: int, frames: int) -> np.ndarray:
        """The samples of these frames, fewer where the audio ends."""
        clip = self.clips[row]
        return as_waveform(
            clip.waveform(start * self.hop, min((start + frames) * self.hop, clip.samples)), first=start * self.hop
        )


def _window(rng: np.random.Generator, length: int, size: int) -> tuple[int, slice]:
    start = int(rng.integers(max(1, length - size + 1)))
    return start, slice(start, start + size)
