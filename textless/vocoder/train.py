"""Training of the unit vocoder and its duration predictor, without a discriminator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from textless import training
from textless.errors import TrainingError
from textless.units.types import UnitContract, Units
from textless.vocoder import losses
from textless.vocoder.model import UnitVocoder, VocoderConfig, _pad

DURATION_UNITS = 256  # longest sequence of joined units that the duration predictor is shown
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
    device: str = "cpu",
    precision: str = "fp32",
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
        log: called with the step and its figures.
        precision: "fp32", or "bf16" for the trunk; losses and iSTFT are in fp32 always.

    Returns:
        the vocoder, and figures: `curve` (rows of `loss`, `mel`, `duration`), with `dev` also `dev_log_mel_l1` (nats) and
        `dev_duration_error` (mean absolute error, frames).

    Raises:
        TrainingError: no clips, a clip of another speaker or without frames, audio shorter than the units, or a loss that is
            not a number.
        ContractError: a clip's units are of another kind.
        ModelError: the contract or preset does not give a vocoder.
    """
    if precision not in ("fp32", "bf16"):
        raise TrainingError(f'precision must be "fp32" or "bf16", not {precision!r}')
    if speakers is None:
        speakers = sorted({c.speaker or NO_NAME for c in clips})
    if not clips:
        raise TrainingError("there are no clips to train a vocoder on")
    config = VocoderConfig.of(contract, speakers=speakers, preset=preset)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = UnitVocoder(config, contract).to(device)
    data = _Clips(clips, model)
    held_out = _Clips(dev, model) if dev else None

    optimiser = torch.optim.AdamW(training.decay_groups(model, 0.01), lr=lr, betas=(0.8, 0.99))
    crop = max(1, round(crop_seconds * model.frame_rate))
    warmup = max(1, min(500, steps // 20))

    def step(n: int) -> dict[str, Tensor]:
        rng = training.rng(seed, n)
        rows = data.draw(rng, batch)
        units, lengths, speaker, real = (x.to(device) for x in data.crops(rng, rows, crop))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            made = model(units, speaker, lengths)
        mel = losses.multi_scale_mel(made, real, sample_rate=config.sample_rate)
        duration = _duration_loss(model, *(x.to(device) for x in data.sequences(rng, rows)))
        loss = mel + duration
        for group in optimiser.param_groups:
            group["lr"] = training.warmup_cosine(n, steps=steps, peak=lr, warmup=warmup)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return {"loss": loss.detach(), "mel": mel.detach(), "duration": duration.detach()}

    curve = training.train(step, {"model": model, "optimiser": optimiser}, steps=steps, seed=seed, checkpoint=checkpoint, log=log)
    model.eval()
    return model, {"curve": curve, **(_measure(model, held_out) if held_out else {})}


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

    def draw(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """(batch,) int64 indices of clips, in proportion to their frames."""
        return np.searchsorted(self.ends, rng.integers(self.ends[-1], size=batch), side="right")

    def crops(self, rng: np.random.Generator, rows: np.ndarray, crop: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Units (B, crop) int64, their number (B,), speakers (B,), waveform (B, crop * hop) float32 with zeros after the end."""
        units, audio = [], np.zeros((len(rows), crop * self.hop), np.float32)
        for b, row in enumerate(rows):
            frames = self.clips[row].units.frames()
            start = int(rng.integers(max(1, len(frames) - crop + 1)))
            units.append(frames[start : start + crop])
            samples = self.audio(row, start, len(units[-1]))
            audio[b, : len(samples)] = samples
        padded, lengths = _pad([*units, np.zeros(crop, np.int64)], torch.device("cpu"))
        return padded[:-1], lengths[:-1], torch.from_numpy(self.speaker[rows]), torch.from_numpy(audio)

    def audio(self, row: int, start: int, frames: int) -> np.ndarray:
        """The samples of some frames, fewer where the audio ends."""
        clip = self.clips[row]
        return clip.waveform(start * self.hop, min((start + frames) * self.hop, clip.samples))

    def sequences(self, rng: np.random.Generator, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Joined units (B, N), their number (B,), speakers (B,) and durations (B, N) in frames, int64, N <= DURATION_UNITS."""
        units, durations = [], []
        for row in rows:
            joined = self.clips[row].units.deduplicated()
            start = int(rng.integers(max(1, len(joined) - DURATION_UNITS + 1)))
            units.append(joined.units[start : start + DURATION_UNITS])
            durations.append(joined.durations[start : start + DURATION_UNITS])
        cpu = torch.device("cpu")
        padded, lengths = _pad(units, cpu)
        return padded, lengths, torch.from_numpy(self.speaker[rows]), _pad(durations, cpu)[0]


def _duration_loss(model: UnitVocoder, units: Tensor, lengths: Tensor, speaker: Tensor, durations: Tensor) -> Tensor:
    """Mean squared error of log-durations over the units that are there."""
    real = torch.arange(units.shape[1], device=units.device) < lengths[:, None]
    predicted = model.durations(units, speaker, lengths)
    return F.mse_loss(predicted[real], durations[real].float().log())


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
