"""Training of the unit vocoder and its duration predictor, without a discriminator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from textless import training
from textless.distributed import place
from textless.errors import TrainingError
from textless.units.types import UnitContract, Units
from textless.vocoder import losses
from textless.vocoder.model import UnitVocoder, VocoderConfig, _pad

DURATION_UNITS = 256  # longest sequence of joined units that the duration predictor is shown
LISTEN_STEPS = 500  # from one sample to the next
LISTEN_SECONDS = 5.0  # at most, of a sample
NO_NAME = "default"  # the speaker of clips that name none


@dataclass(frozen=True)
class Clip:
    """An utterance to learn from.

    Attributes:
        units: at the vocoder's frame rate; frame t belongs to the samples [t * hop, (t + 1) * hop). HuBERT's frame t sees
            [320 t, 320 t + 400), so its middle is the segment's but for 40 samples.
        waveform: (start, stop) → (stop - start,) float32 in [-1, 1]; called with 0 <= start <= stop <= samples.
        samples: length of the waveform.
        speaker: name, or None where there is only one.
    """

    units: Units
    waveform: Callable[[int, int], np.ndarray]
    samples: int
    speaker: str | None = None


def train_vocoder(
    clips: Sequence[Clip],
    *,
    contract: UnitContract,
    speakers: Sequence[str] | None = None,
    preset: str = "small",
    steps: int,
    batch: int = 16,
    crop_seconds: float = 1.0,
    lr: float = 1e-3,
    seed: int = 0,
    dev: Sequence[Clip] | None = None,
    checkpoint: Path | None = None,
    log: Callable[[int, dict[str, float]], None] | None = None,
    listen: Callable[[int, np.ndarray, int], None] | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    micro_batch: int | None = None,
) -> tuple[UnitVocoder, dict[str, Any]]:
    """Train a vocoder on units and the speech that they come from.

    Args:
        clips: what to learn from; each is drawn in proportion to its frames. A clip shorter than a crop is followed by silence
            that counts for nothing.
        contract: of the units.
        speakers: names in the order of their indices; None = those of the clips, sorted.
        steps: updates.
        batch, crop_seconds: crops an update, and their length.
        lr: peak of a warm-up and cosine, for AdamW (.8, .99).
        seed: the same seed gives the same weights on the same device and number of threads.
        dev: clips to measure on at the end; None = nothing is measured.
        checkpoint: file to resume from and to write to.
        log: called with the step and its figures, `audio_hours_per_hour` among them (see `training.train`).
        listen: called about every 500 steps and at the end with the step, what the vocoder makes of the first dev clip (else of the
            first clip), (samples,) float32 in [-1, 1], and its sample rate. It changes nothing in the training.
        device: where it runs; "cuda" is the GPU of the process's own where there are several.
        precision: "fp32", or "bf16" for the trunk; losses and iSTFT are in fp32 always.
        micro_batch: crops computed at once, None = all; less memory, and other last bits.

    Returns:
        the vocoder, and figures: `curve` (rows of `loss`, `mel`, `duration`, `grad_norm`, `lr`), with `dev` also `dev_log_mel_l1`
        (nats) and `dev_duration_error` (mean absolute error, frames).

    Raises:
        TrainingError: no clips, a clip of another speaker or without frames, audio shorter than the units, fewer rows in a
            batch than processes, or a loss that is not a number.
        ContractError: a clip's units are of another kind.
        ModelError: the contract or preset does not give a vocoder.
    """
    if precision not in ("fp32", "bf16"):
        raise TrainingError(f'precision must be "fp32" or "bf16", not {precision!r}')
    if speakers is None:
        speakers = sorted({c.speaker or NO_NAME for c in clips})
    if not clips:
        raise TrainingError("there are no clips to train a vocoder on")
    device = place(device)
    config = VocoderConfig.of(contract, speakers=speakers, preset=preset)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = UnitVocoder(config, contract).to(device)
    data = _Clips(clips, model)
    held_out = _Clips(dev, model) if dev else None

    optimiser = torch.optim.AdamW(training.decay_groups(model, 0.01), lr=lr, betas=(0.8, 0.99))
    crop = max(1, round(crop_seconds * model.frame_rate))
    warmup = max(1, min(500, steps // 20))

    def losses_of(whole: _Batch, part: slice) -> dict[str, Tensor]:
        units, lengths, speaker = (x[part].to(device) for x in (whole.units, whole.lengths, whole.speaker))
        real = data.waveforms(whole.rows[part], whole.starts[part], crop).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            made = model(units, speaker, lengths)
        mel = losses.multi_scale_mel(made, real, sample_rate=config.sample_rate) * (len(units) / batch)
        error = _duration_error(model, *(x[part].to(device) for x in (whole.joined, whole.counts, whole.speaker, whole.durations)))
        duration = error / int(whole.counts.sum())
        return {"loss": mel + duration, "mel": mel, "duration": duration}

    def step(n: int) -> dict[str, Tensor]:
        whole = data.draw(training.rng(seed, n), batch, crop)
        rate = training.warmup_cosine(n, steps=steps, peak=lr, warmup=warmup)
        return training.update(optimiser, lambda part: losses_of(whole, part), rows=batch, lr=rate, clip=1.0, micro_batch=micro_batch)

    shown = (dev or clips)[0]
    sample = shown.units.frames()[: round(LISTEN_SECONDS * model.frame_rate)]

    def on_row(n: int, row: dict[str, float]) -> None:
        if log:
            log(n, row)
        if listen and (n % LISTEN_STEPS == 0 or n == steps):
            listen(n, model.resynth(sample, speaker=shown.speaker or NO_NAME), model.sample_rate)

    lengths = [c.units.n_frames for c in clips]
    seconds = batch * float(np.average(np.minimum(crop, lengths), weights=lengths)) / model.frame_rate
    curve = training.train(
        step,
        {"model": model, "optimiser": optimiser},
        steps=steps,
        seed=seed,
        checkpoint=checkpoint,
        log=on_row,
        speed=("audio_hours_per_hour", seconds),
    )
    model.eval()
    return model, {"curve": curve, **(_measure(model, held_out) if held_out else {})}


class _Batch(NamedTuple):
    """What a step learns from, drawn on the host; the audio itself is read part by part.

    Attributes:
        rows: (B,) int64 indices of clips.
        starts: (B,) int64 first frames of the crops.
        units: (B, crop) int64, anything after a row's length.
        lengths: (B,) int64 frames of the crops.
        speaker: (B,) int64.
        joined: (B, N) int64 units without repetitions, N <= DURATION_UNITS, anything after a row's count.
        counts: (B,) int64, their number.
        durations: (B, N) int64 frames of each.
    """

    rows: np.ndarray
    starts: np.ndarray
    units: Tensor
    lengths: Tensor
    speaker: Tensor
    joined: Tensor
    counts: Tensor
    durations: Tensor


class _Clips:
    """Clips as the training reads them: checked once, frames drawn uniformly."""

    def __init__(self, clips: Sequence[Clip], model: UnitVocoder):
        self.clips, self.hop, names = clips, model.config.hop, set(model.speakers)
        for i, clip in enumerate(clips):
            model.contract.check(clip.units.contract, mine="the vocoder", theirs=f"the units of clip {i}")
            if (name := clip.speaker or NO_NAME) not in names:
                raise TrainingError(f"clip {i} is of speaker {name!r}, who is not among the vocoder's")
            if not clip.units.n_frames:
                raise TrainingError(f"clip {i} has no frames")
            if clip.samples <= (clip.units.n_frames - 1) * self.hop:
                raise TrainingError(f"clip {i} has {clip.units.n_frames} frames of {self.hop} samples but {clip.samples} samples of audio")
        self.ends = np.cumsum([c.units.n_frames for c in clips])
        self.speaker = np.array([model.speakers.index(c.speaker or NO_NAME) for c in clips])

    def draw(self, rng: np.random.Generator, batch: int, crop: int) -> _Batch:
        """Crops of clips in proportion to their frames, and as many sequences of joined units."""
        cpu = torch.device("cpu")
        rows = np.searchsorted(self.ends, rng.integers(self.ends[-1], size=batch), side="right")
        starts, units, joined, durations = [], [], [], []
        for row in rows:
            frames = self.clips[row].units.frames()
            starts.append(int(rng.integers(max(1, len(frames) - crop + 1))))
            units.append(frames[starts[-1] : starts[-1] + crop])
        for row in rows:
            whole = self.clips[row].units.deduplicated()
            start = int(rng.integers(max(1, len(whole) - DURATION_UNITS + 1)))
            joined.append(whole.units[start : start + DURATION_UNITS])
            durations.append(whole.durations[start : start + DURATION_UNITS])
        padded, lengths = _pad([*units, np.zeros(crop, np.int64)], cpu)
        speaker = torch.from_numpy(self.speaker[rows])
        return _Batch(rows, np.array(starts), padded[:-1], lengths[:-1], speaker, *_pad(joined, cpu), _pad(durations, cpu)[0])

    def waveforms(self, rows: np.ndarray, starts: np.ndarray, crop: int) -> Tensor:
        """(B, crop * hop) float32 of crops, with zeros after the end."""
        out = np.zeros((len(rows), crop * self.hop), np.float32)
        for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
            samples = self.audio(row, start, min(crop, self.clips[row].units.n_frames - start))
            out[b, : len(samples)] = samples
        return torch.from_numpy(out)

    def audio(self, row: int, start: int, frames: int) -> np.ndarray:
        """The samples of some frames, fewer where the audio ends."""
        clip = self.clips[row]
        return clip.waveform(start * self.hop, min((start + frames) * self.hop, clip.samples))


def _duration_error(model: UnitVocoder, units: Tensor, lengths: Tensor, speaker: Tensor, durations: Tensor) -> Tensor:
    """Squared error of log-durations, summed over the units that are there."""
    real = torch.arange(units.shape[1], device=units.device) < lengths[:, None]
    predicted = model.durations(units, speaker, lengths)
    return (predicted[real] - durations[real].float().log()).square().sum()


@torch.inference_mode()
def _measure(model: UnitVocoder, clips: _Clips) -> dict[str, float]:
    """Log-mel L1 over whole clips, each with its own speaker, and the error of the durations; means over frames and units."""
    distances, frames, errors = [], [], []
    for row, clip in enumerate(clips.clips):
        name = clip.speaker or NO_NAME
        made = model.resynth(clip.units, speaker=name)
        real = clips.audio(row, 0, clip.units.n_frames)
        if len(real) >= 1024:
            pair = (torch.from_numpy(np.ascontiguousarray(x[: len(real)], np.float32))[None] for x in (made, real))
            distances.append(float(losses.log_mel_l1(*pair, sample_rate=model.sample_rate)))
            frames.append(clip.units.n_frames)
        joined = clip.units.deduplicated()
        errors.append(np.abs(model.predict_durations([joined.units], speaker=name)[0] - joined.durations))
    return {
        "dev_log_mel_l1": float(np.average(distances, weights=frames)) if frames else float("nan"),
        "dev_duration_error": float(np.concatenate(errors).mean()),
    }
