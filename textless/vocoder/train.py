"""Training of the unit vocoder: multi-scale log-mel losses, then discriminators; beside it the predictors of durations and of F0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from textless.devices import check_training, fork_rng
from textless.errors import TrainingError
from textless.training import loop as training
from textless.training.distributed import place
from textless.types import UnitContract
from textless.vocoder import losses
from textless.vocoder.backbone import present
from textless.vocoder.data import NO_NAME, Batch, Clip, Clips, by_duration
from textless.vocoder.discriminators import SIZES, Discriminators, adversarial_loss, discriminator_loss, feature_loss
from textless.vocoder.model import UnitVocoder, VocoderConfig
from textless.vocoder.predictors import MIDDLE, dequantise_f0

LISTEN_STEPS = 500  # from one sample to the next
LISTEN_SECONDS = 5.0  # at most, of a sample
# Weights beside 1 of the adversarial loss. HiFi-GAN has 45 and 2, but sums over discriminators and their layers where these are means.
MEL, FEATURES = 5.0, 2.0


def train_vocoder(
    clips: Sequence[Clip],
    *,
    contract: UnitContract,
    speakers: Sequence[str] | None = None,
    preset: str = "small",
    f0: bool = False,
    causal: bool = False,
    start: UnitVocoder | None = None,
    adversarial: str | None = None,
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
        speakers: names in the order of their indices; None = those of the clips, that of whom there is most first.
        preset, f0, causal: the model, see `VocoderConfig`.
        start: a vocoder to go on from, of which model and speakers are taken.
        adversarial: size of the discriminators, "small" for a CPU or "large" for a GPU; None = spectral losses only. They learn from
            nothing, so a vocoder that already speaks is a better `start` than one that does not.
        steps: updates.
        batch, crop_seconds: crops an update, and their length.
        lr: peak of a warm-up and cosine, for AdamW (.8, .99), of vocoder and discriminators; large ones want 2e-4.
        seed: the same seed gives the same weights on the same device and number of threads.
        dev: clips to measure on at the end; None = nothing is measured.
        checkpoint: file to resume from and to write to.
        log: called with the step and its figures, `audio_hours_per_hour` among them (see `training.train`).
        listen: called about every 500 steps and at the end with the step, what the vocoder makes of the first dev clip (else of the
            first clip), (samples,) float32 in [-1, 1], and its sample rate. It changes nothing in the training.
        device: where it runs; "cuda" is the GPU of the process's own where there are several.
        precision: "fp32", or "bf16" for trunk and discriminators; losses and iSTFT are in fp32 always.
        micro_batch: crops computed at once, None = all; less memory, and other last bits.

    Returns:
        the vocoder, its weights averaged over the last thousand steps or so, and figures: `curve` (rows of `loss`, `mel`, `duration`,
        `grad_norm`, `lr`; with F0 `pitch`; adversarial also `adversarial`, `features`, `discriminator`), with `dev` also `dev_log_mel_l1`
        (nats), `dev_duration_error` (mean absolute error, frames), and with F0 `dev_voicing_error` (share of frames).

    Raises:
        TrainingError: no clips, a clip of another speaker or without frames, audio shorter than the units, F0 missing, fewer rows in a
            batch than processes, or a loss that is not a number.
        ContractError: a clip's units are of another kind.
        ModelError: the contract or preset does not give a vocoder.
        DeviceError: the device is unknown or not there, or cannot train in this precision.
    """
    if adversarial not in (None, *SIZES):
        raise TrainingError(f"adversarial is the size of the discriminators, {' or '.join(SIZES)}, not {adversarial!r}")
    if not clips:
        raise TrainingError("there are no clips to train a vocoder on")
    device = place(device)
    check_training(device, precision)
    if start:
        config, contract = start.config, start.contract
    else:
        names = speakers or by_duration(clips)
        config = VocoderConfig.of(contract, speakers=names, preset=preset, f0=f0, causal=causal)
    with fork_rng(device):
        torch.manual_seed(seed)
        model = UnitVocoder(config, contract).to(device)
        judges = Discriminators(adversarial).to(device) if adversarial else None
    if start:
        model.load_state_dict(start.state_dict())
    data = Clips(clips, model)
    held_out = Clips(dev, model) if dev else None

    optimiser = torch.optim.AdamW(training.decay_groups(model, 0.01), lr=lr, betas=(0.8, 0.99))
    average = training.Average(model)
    state = {"model": model, "optimiser": optimiser, "average": average}
    if judges:
        judges_optimiser = torch.optim.AdamW(training.decay_groups(judges, 0.01), lr=lr, betas=(0.8, 0.99))
        state |= {"judges": judges, "judges_optimiser": judges_optimiser}
    crop = max(1, round(crop_seconds * model.frame_rate))
    warmup = max(1, min(500, steps // 20))

    def pair(whole: Batch, part: slice) -> tuple[Tensor, Tensor]:
        """What the vocoder makes of some crops, and what they were."""
        rows = (x[part].to(device) for x in (whole.units, whole.speaker, whole.lengths, whole.f0, whole.noise))
        real = data.waveforms(whole.rows[part], whole.starts[part], crop).to(device)
        with autocast():
            return model(*rows), real

    def autocast() -> Any:
        return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")

    def judge_losses(whole: Batch, part: slice) -> dict[str, Tensor]:
        with torch.no_grad():
            made, real = pair(whole, part)
        with autocast():
            loss = discriminator_loss(judges(real), judges(made)) * (len(real) / batch)
        return {"loss": loss}

    def losses_of(whole: Batch, part: slice) -> dict[str, Tensor]:
        made, real = pair(whole, part)
        share = len(real) / batch
        found = {
            "mel": losses.multi_scale_mel(made, real, sample_rate=config.sample_rate) * share,
            **_predictors(model, whole, part),
        }
        loss = sum(found.values())
        if judges:
            with autocast():
                with torch.no_grad():
                    of_real = judges(real)
                of_made = judges(made)
            found |= {
                "adversarial": adversarial_loss(of_made) * share,
                "features": feature_loss(of_real, of_made) * share,
            }
            loss = loss + (MEL - 1) * found["mel"] + found["adversarial"] + FEATURES * found["features"]
        return {"loss": loss, **found}

    def step(n: int) -> dict[str, Tensor]:
        whole = data.draw(training.rng(seed, n), batch, crop)
        options = {
            "rows": batch,
            "lr": training.warmup_cosine(n, steps=steps, peak=lr, warmup=warmup),
            "clip": 1.0,
            "micro_batch": micro_batch,
        }
        figures = {}
        if judges:
            judges.requires_grad_(True)
            judged = training.update(judges_optimiser, lambda part: judge_losses(whole, part), **options)
            figures["discriminator"] = judged["loss"]
            judges.requires_grad_(False)  # what follows needs their opinion and not what they would learn from it
        figures |= training.update(optimiser, lambda part: losses_of(whole, part), **options)
        average.update()
        return figures

    shown = (dev or clips)[0]
    sample = shown.units.frames()[: round(LISTEN_SECONDS * model.frame_rate)]

    def on_row(n: int, row: dict[str, float]) -> None:
        if log:
            log(n, row)
        if listen and (n % LISTEN_STEPS == 0 or n == steps):
            listen(n, model.resynth(sample, speaker=shown.speaker or NO_NAME), model.sample_rate)

    lengths = [c.units.n_frames for c in clips]
    seconds = batch * float(np.average(np.minimum(crop, lengths), weights=lengths)) / model.frame_rate
    speed = "audio_hours_per_hour", seconds
    curve = training.train(
        step, state, steps=steps, seed=seed, checkpoint=checkpoint, log=on_row, speed=speed, device=device
    )
    model.load_state_dict(average.weights)
    model.eval()
    return model, {"curve": curve, **(_measure(model, held_out) if held_out else {})}


def _predictors(model: UnitVocoder, whole: Batch, part: slice) -> dict[str, Tensor]:
    """What the predictors of durations and of F0 are off by, in some rows of a batch, divided by what the whole batch holds."""
    device = model.unit_embedding.weight.device
    units, durations, counts, speaker = (
        x[part].to(device) for x in (whole.joined, whole.durations, whole.counts, whole.speaker)
    )
    real = present(counts, units.shape[1])
    predicted = model.durations(units, speaker, counts)
    found = {"duration": (predicted[real] - durations[real].float().log()).square().sum() / int(whole.counts.sum())}
    if model.config.f0:
        units, contour, lengths = (x[part].to(device) for x in (whole.passage, whole.contour, whole.passages))
        real = present(lengths, units.shape[1])
        voicing, octaves = model.pitch(units, speaker, real[..., None].float()).unbind(-1)
        voiced = real & (contour > 0)
        wanted = torch.log2(dequantise_f0(contour[voiced]).float() / MIDDLE)
        off = F.binary_cross_entropy_with_logits(voicing[real], (contour[real] > 0).float(), reduction="sum")
        found["pitch"] = (off + (octaves[voiced] - wanted).abs().sum()) / int(whole.passages.sum())
    return found


@torch.inference_mode()
def _measure(model: UnitVocoder, clips: Clips) -> dict[str, float]:
    """Log-mel L1 over whole clips, each with its own speaker and F0, and the errors of the predictors; means over frames and units."""
    distances, frames, errors, voicing = [], [], [], []
    for row, clip in enumerate(clips.clips):
        name = clip.speaker or NO_NAME
        made = model.resynth(clip.units, speaker=name, f0=clip.f0 if model.config.f0 else None)
        real = clips.audio(row, 0, clip.units.n_frames)
        if len(real) >= 1024:
            pair = (torch.from_numpy(np.ascontiguousarray(x[: len(real)], np.float32))[None] for x in (made, real))
            distances.append(float(losses.log_mel_l1(*pair, sample_rate=model.sample_rate)))
            frames.append(clip.units.n_frames)
        joined = clip.units.deduplicated()
        errors.append(np.abs(model.predict_durations([joined.units], speaker=name)[0] - joined.durations))
        if model.config.f0:
            voicing.append((model.predict_f0(clip.units.frames(), speaker=name) > 0) != (clips.f0[row] > 0))
    return {
        "dev_log_mel_l1": float(np.average(distances, weights=frames)) if frames else float("nan"),
        "dev_duration_error": float(np.concatenate(errors).mean()),
        **({"dev_voicing_error": float(np.concatenate(voicing).mean())} if voicing else {}),
    }
