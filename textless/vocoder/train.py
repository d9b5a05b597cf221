"""Training of the unit vocoder (multi-scale log-mel losses, discriminators) and its predictors of durations and F0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from textless.devices import fork_rng
from textless.errors import TrainingError
from textless.training.configs import VocoderTrainConfig
from textless.training.loop import (
    Average,
    Log,
    Row,
    Stateful,
    autocast,
    configure,
    crop_speed,
    decay_groups,
    rng,
    train,
    update,
    warmup_cosine,
)
from textless.types import UnitContract
from textless.vocoder import losses
from textless.vocoder.backbone import present
from textless.vocoder.data import NO_NAME, Batch, Clip, Clips, by_duration
from textless.vocoder.discriminators import Discriminators, adversarial_loss, discriminator_loss, feature_loss
from textless.vocoder.model import UnitVocoder, VocoderConfig
from textless.vocoder.predictors import MIDDLE, dequantise_f0

Listen = Callable[[int, np.ndarray, int], None]  # step, waveform, sample rate
LISTEN_STEPS = 500  # from one sample to the next
LISTEN_SECONDS = 5.0  # at most, of a sample
# Loss weights relative to the adversarial loss. HiFi-GAN has 45 and 2, but sums over discriminators and their layers
# where these are means.
MEL, FEATURES = 5.0, 2.0


def train_vocoder(
    clips: Sequence[Clip],
    config: VocoderTrainConfig | None = None,
    *,
    contract: UnitContract,
    f0: bool = False,
    start: UnitVocoder | None = None,
    checkpoint: Path | None = None,
    log: Log | None = None,
    listen: Listen | None = None,
    **settings: Any,
) -> tuple[UnitVocoder, dict[str, Any]]:
    """Train a vocoder on units and the speech that they come from.

    Args:
        clips: training data, drawn in proportion to their frames. A clip shorter than a crop is padded with silence
            that the losses ignore.
        config: hyperparameters; `settings` are fields of it by name: `train_vocoder(clips, contract=contract,
            steps=1000)`.
        contract: of the units.
        f0: whether the vocoder is driven by F0, see `VocoderConfig`.
        start: a vocoder to continue from; its shape, speakers and contract replace those of the arguments.
        checkpoint: file to resume from and to write to.
        log: see `training.loop.train`; its rows also have `audio_hours_per_hour`.
        listen: called about every 500 steps and at the end with the step, the start of the first clip resynthesised,
            (samples,) float32 in [-1, 1], and its sample rate. It does not change the training.

    Returns:
        (vocoder in evaluation mode, its weights an average over the last thousand steps or so; {`curve`}: rows of
        `loss`, `mel`, `duration`, `grad_norm`, `lr`; with F0 `pitch`; adversarial also `adversarial`, `features`,
        `discriminator`). Speakers are those of the clips, the one with most frames first.

    Raises:
        TrainingError: a field of the configuration is invalid; no clips, a clip of another speaker or without frames,
            audio shorter than the units, F0 missing, fewer rows in a batch than processes, or a loss that is not
            finite.
        ContractError: a clip's units are of another kind.
        ModelError: there is no vocoder for the contract.
        DeviceError: the device is unknown or missing, or cannot train in this precision.
    """
    if not clips:
        raise TrainingError("there are no clips to train a vocoder on")
    config, device = configure(VocoderTrainConfig, config, settings)
    model, discriminators = _networks(config, clips, contract, start, f0=f0, device=device)
    training = _Training(config, model, discriminators, Clips(clips, model), device)
    lengths = np.array([c.units.n_frames for c in clips])
    curve = train(
        training.step,
        training.state,
        steps=config.steps,
        seed=config.seed,
        checkpoint=checkpoint,
        log=_log(model, clips[0], config.steps, log, listen) if listen else log,
        speed=crop_speed(lengths, crop=training.crop, batch=config.batch, frame_rate=model.frame_rate),
        device=device,
    )
    model.load_state_dict(training.average.weights)
    return model.eval(), {"curve": curve}


def _networks(
    config: VocoderTrainConfig,
    clips: Sequence[Clip],
    contract: UnitContract,
    start: UnitVocoder | None,
    *,
    f0: bool,
    device: str,
) -> tuple[UnitVocoder, Discriminators | None]:
    if start is not None:
        shape, contract = start.config, start.contract
    else:
        names = by_duration(clips)
        shape = VocoderConfig.of(contract, speakers=names, preset=config.preset, f0=f0, causal=config.causal)
    with fork_rng(device):
        torch.manual_seed(config.seed)
        model = UnitVocoder(shape, contract).to(device)
        discriminators = Discriminators(config.adversarial).to(device) if config.adversarial else None
    if start is not None:
        model.load_state_dict(start.state_dict())
    return model, discriminators


def _log(model: UnitVocoder, clip: Clip, steps: int, log: Log | None, listen: Listen) -> Log:
    """`log`, then the audio sample where it is due."""
    sample = clip.units.frames()[: round(LISTEN_SECONDS * model.frame_rate)]

    def log_and_listen(n: int, row: Row) -> None:
        if log:
            log(n, row)
        if n % LISTEN_STEPS == 0 or n == steps:
            [waveform] = model.resynth([sample], speaker=clip.speaker or NO_NAME)
            listen(n, waveform, model.sample_rate)

    return log_and_listen


class _Training:
    """The updates of one training: of the discriminators, if there are any, and of the vocoder."""

    def __init__(
        self,
        config: VocoderTrainConfig,
        model: UnitVocoder,
        discriminators: Discriminators | None,
        data: Clips,
        device: str,
    ) -> None:
        self.config, self.model, self.data, self.device = config, model, data, device
        self.discriminators = discriminators
        self.crop = max(1, round(config.crop_seconds * model.frame_rate))
        self.average = Average(model)
        self.optimiser = torch.optim.AdamW(decay_groups(model, 0.01), lr=config.lr, betas=(0.8, 0.99))
        self.state: dict[str, Stateful] = {"model": model, "optimiser": self.optimiser, "average": self.average}
        if discriminators is not None:
            self.discriminators_optimiser = torch.optim.AdamW(
                decay_groups(discriminators, 0.01), lr=config.lr, betas=(0.8, 0.99)
            )
            # These names are in checkpoints that a training resumes from.
            self.state |= {"judges": discriminators, "judges_optimiser": self.discriminators_optimiser}

    def step(self, n: int) -> dict[str, Tensor]:
        whole = self.data.draw(rng(self.config.seed, n), self.config.batch, self.crop)
        metrics = {}
        if (discriminators := self.discriminators) is not None:
            discriminators.requires_grad_(True)
            judged = self.update(
                n, self.discriminators_optimiser, lambda part: self.discriminator_losses(discriminators, whole, part)
            )
            metrics["discriminator"] = judged["loss"]
            discriminators.requires_grad_(False)  # the vocoder needs gradients through them, not for them
        metrics |= self.update(n, self.optimiser, lambda part: self.losses(whole, part))
        self.average.update()
        return metrics

    def update(
        self, n: int, optimiser: torch.optim.Optimizer, losses: Callable[[slice], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        config = self.config
        warmup = max(1, min(500, config.steps // 20))
        lr = warmup_cosine(n, steps=config.steps, peak=config.lr, warmup=warmup)
        return update(optimiser, losses, rows=config.batch, lr=lr, clip=1.0, micro_batch=config.micro_batch)

    def pair(self, whole: Batch, part: slice) -> tuple[Tensor, Tensor]:
        """Some crops as the vocoder synthesises them, and the real ones. (rows, samples) float32 each."""
        rows = (x[part].to(self.device) for x in (whole.units, whole.speaker, whole.lengths, whole.f0, whole.noise))
        real = self.data.waveforms(whole.rows[part], whole.starts[part], self.crop).to(self.device)
        with self.autocast():
            return self.model(*rows), real

    def autocast(self) -> torch.autocast:
        return autocast(self.device, self.config.precision)

    def discriminator_losses(self, discriminators: Discriminators, whole: Batch, part: slice) -> dict[str, Tensor]:
        with torch.no_grad():
            synthetic, real = self.pair(whole, part)
        with self.autocast():
            loss = discriminator_loss(discriminators(real), discriminators(synthetic)) * (len(real) / self.config.batch)
        return {"loss": loss}

    def losses(self, whole: Batch, part: slice) -> dict[str, Tensor]:
        synthetic, real = self.pair(whole, part)
        share = len(real) / self.config.batch
        mel = losses.multi_scale_mel(synthetic, real, sample_rate=self.model.sample_rate) * share
        terms = _predictors(self.model, whole, part)
        loss = sum(terms.values(), start=mel)
        terms["mel"] = mel
        if self.discriminators is not None:
            with self.autocast():
                with torch.no_grad():
                    of_real = self.discriminators(real)
                of_synthetic = self.discriminators(synthetic)
            adversarial = adversarial_loss(of_synthetic) * share
            features = feature_loss(of_real, of_synthetic) * share
            terms |= {"adversarial": adversarial, "features": features}
            loss = loss + (MEL - 1) * mel + adversarial + FEATURES * features
        return {"loss": loss, **terms}


def _predictors(model: UnitVocoder, whole: Batch, part: slice) -> dict[str, Tensor]:
    """Losses of the predictors of durations and F0: sums over some rows, divided by the counts of the whole batch."""
    device = model.unit_embedding.weight.device
    units, durations, counts, speaker = (
        x[part].to(device) for x in (whole.joined, whole.durations, whole.counts, whole.speaker)
    )
    real = present(counts, units.shape[1])
    predicted = model.durations(units, speaker, counts)
    terms = {"duration": (predicted[real] - durations[real].float().log()).square().sum() / int(whole.counts.sum())}
    if model.config.f0:
        units, contour, lengths = (x[part].to(device) for x in (whole.passage, whole.contour, whole.passages))
        real = present(lengths, units.shape[1])
        voicing, octaves = model.pitch(units, speaker, real[..., None].float()).unbind(-1)
        voiced = real & (contour > 0)
        target = torch.log2(dequantise_f0(contour[voiced]).float() / MIDDLE)
        off = F.binary_cross_entropy_with_logits(voicing[real], (contour[real] > 0).float(), reduction="sum")
        terms["pitch"] = (off + (octaves[voiced] - target).abs().sum()) / int(whole.passages.sum())
    return terms


@torch.inference_mode()
def evaluate(model: UnitVocoder, clips: Sequence[Clip]) -> dict[str, float]:
    """Errors over whole clips, each resynthesised with its own speaker and F0; means over frames and units.

    Returns:
        `log_mel_l1` (nats), `duration_error` (mean absolute error, frames), and with F0 `voicing_error` (share of
        frames).

    Raises TrainingError and ContractError as `Clips`.
    """
    data = Clips(clips, model)
    distances, frames, errors, voicing = [], [], [], []
    for row, clip in enumerate(clips):
        name = clip.speaker or NO_NAME
        synthetic = model.resynth(clip.units, speaker=name, f0=clip.f0 if model.config.f0 else None)
        real = data.audio(row, 0, clip.units.n_frames)
        if len(real) >= 1024:
            pair = (torch.from_numpy(np.ascontiguousarray(x[: len(real)], np.float32))[None] for x in (synthetic, real))
            distances.append(float(losses.log_mel_l1(*pair, sample_rate=model.sample_rate)))
            frames.append(clip.units.n_frames)
        joined = clip.units.deduplicated()
        errors.append(np.abs(model.predict_durations([joined.units], speaker=name)[0] - joined.durations))
        if model.config.f0:
            voicing.append((model.predict_f0(clip.units.frames(), speaker=name) > 0) != (data.f0[row] > 0))
    return {
        "log_mel_l1": float(np.average(distances, weights=frames)) if frames else float("nan"),
        "duration_error": float(np.concatenate(errors).mean()),
        **({"voicing_error": float(np.concatenate(voicing).mean())} if voicing else {}),
    }
