"""HuBERT pre-training: predict the cluster of masked frames (Hsu et al. 2021, arXiv:2106.07447, section II-B)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.audio import mfcc
from textless.devices import check_training, fork_rng
from textless.errors import TrainingError
from textless.files import atomic, write_text
from textless.model_io import round_half
from textless.training.distributed import first_before_others, place
from textless.training.loop import decay_groups, perplexity, rng, train, update, warmup_cosine
from textless.units.encoders import hubert_frames
from textless.units.encoders.hubert import EPSILON, Hubert, HubertConfig

if TYPE_CHECKING:
    from textless.audio.corpus import PackedAudio
    from textless.units.mfcc_lda.vtln import Voice


class Head(nn.Module):
    """From frames to classes: (…, dim) → (…, n_classes).

    `linear` is plain cross-entropy, cheaper and as good (MelHuBERT). `cosine` is the paper's equation 3: the cosine between the
    projected frame and each class's embedding, of `final_dim` values, divided by 0.1.
    """

    def __init__(self, dim: int, n_classes: int, kind: str, *, final_dim: int = 256) -> None:
        super().__init__()
        if kind not in ("linear", "cosine"):
            raise TrainingError(f"head is {kind!r}; known: linear, cosine")
        self.kind = kind
        if kind == "linear":
            self.final_proj = nn.Linear(dim, n_classes)
        else:
            self.final_proj = nn.Linear(dim, final_dim)
            self.label_embs = nn.Parameter(torch.empty(n_classes, final_dim).uniform_())

    def forward(self, x: Tensor) -> Tensor:
        x = self.final_proj(x)
        if self.kind == "linear":
            return x
        return F.normalize(x.float(), dim=-1) @ F.normalize(self.label_embs.float(), dim=-1).T / 0.1


def span_mask(generator: np.random.Generator, lengths: Sequence[int], *, prob: float, span: int) -> np.ndarray:
    """Spans of `span` frames that may overlap, starts drawn without replacement; about `prob` of the frames before overlap.

    As fairseq's compute_mask_indices with static lengths, except that rows are not thinned to one count.

    Args:
        lengths: frames of each row.

    Returns:
        (B, max(lengths)) bool.
    """
    mask = np.zeros((len(lengths), max(lengths)), bool)
    for row, length in zip(mask, lengths, strict=True):
        width = min(span, length - 1)
        if width < 1:
            continue
        count = min(int(prob * length / span + generator.random()), length - width)
        starts = generator.choice(length - width, max(1, count), replace=False)
        row[(starts[:, None] + np.arange(width)).ravel()] = True
    return mask


class CropSource:
    """Crops of what the encoder's front end takes, cut on encoder frames.

    For log-mel the normalised spectrograms of all files are computed once and kept memory-mapped as float16 in `folder`; a crop then
    costs a copy. For the waveform a crop comes straight from the packed audio, normalised over its file where the configuration says so.
    """

    def __init__(self, audio: PackedAudio, model: Hubert, folder: Path) -> None:
        self.audio, self.config = audio, model.config
        self.levels: dict[int, tuple[Tensor, Tensor]] = {}
        self.frames = np.array([hubert_frames.n_frames(int(n)) for n in audio.lengths])
        if self.config.front_end == "logmel":
            self.starts = np.concatenate([[0], np.cumsum([mfcc.n_frames(int(n)) for n in audio.lengths])])
            with first_before_others():
                self.mel = self._mel(model, folder)

    def _mel(self, model: Hubert, folder: Path) -> np.ndarray:
        shape = (int(self.starts[-1]), self.config.n_mels)
        path, done = folder / "mel.f16", folder / "mel.json"
        if not (done.exists() and done.read_text() == json.dumps(shape)):
            with (
                atomic(path) as temporary,
                open(temporary, "wb") as f,
            ):  # not mapped: on a full disk that would end the process
                for i in range(len(self.frames)):
                    mel = np.zeros((int(self.starts[i + 1] - self.starts[i]), self.config.n_mels), np.float16)
                    if self.frames[i]:
                        mel[:] = model.prepare(torch.from_numpy(self.audio.waveform(i))).numpy()
                    f.write(mel.data)
            write_text(done, json.dumps(shape))
        return np.memmap(path, np.float16, "r", shape=shape)

    def crop(self, i: int, start: int, frames: int) -> Tensor:
        """Inputs from which the front end makes encoder frames [start, start + frames) of file i."""
        if self.config.front_end == "logmel":
            first = int(self.starts[i]) + 2 * start
            return torch.from_numpy(self.mel[first : first + 2 * frames - 1].astype(np.float32))
        wave = torch.from_numpy(
            self.audio.waveform(
                i, hubert_frames.HOP * start, hubert_frames.HOP * (start + frames - 1) + hubert_frames.WINDOW
            )
        )
        if self.config.normalisation != "none":
            if i not in self.levels:  # a file may be hours long, and is not read again for each of its crops
                whole = torch.from_numpy(self.audio.waveform(i))
                self.levels[i] = (
                    whole.mean(),
                    torch.sqrt(whole.var(unbiased=False) + EPSILON[self.config.normalisation]),
                )
            mean, deviation = self.levels[i]
            wave = (wave - mean) / deviation
        return wave

    def draw(self, generator: np.random.Generator, *, size: int, frames: int) -> list[tuple[int, int, int]]:
        """Random crops of at most `frames` frames, every second of audio equally likely; shorter files come whole.

        Crops of a batch are of about one length, so that little is padded: a batch is drawn from the files that are long enough, or from
        an eighth of the others.

        Returns:
            [(file, first frame, frames)].
        """
        order = np.argsort(np.minimum(self.frames, frames), kind="stable")
        share = np.cumsum(self.frames[order]) / self.frames.sum()
        short = share[np.searchsorted(self.frames[order], frames) - 1] if self.frames[order[0]] < frames else 0.0
        first = generator.random()
        low, high = (short, 1.0) if first >= short else (np.floor(8 * first / short) + np.array([0, 1])) * short / 8
        chosen = order[
            np.minimum(np.searchsorted(share, generator.uniform(low, high, size), side="right"), len(order) - 1)
        ]
        spans = []
        for i in chosen:
            length = min(frames, int(self.frames[i]))
            spans.append((int(i), int(generator.integers(0, self.frames[i] - length + 1)), length))
        return spans

    def inputs(self, spans: Sequence[tuple[int, int, int]], frames: int) -> Tensor:
        """(B, …) inputs of crops, padded with zeros to what makes `frames` frames."""
        crops = [self.crop(*span) for span in spans]
        length = (
            2 * frames - 1
            if self.config.front_end == "logmel"
            else hubert_frames.HOP * (frames - 1) + hubert_frames.WINDOW
        )
        return torch.stack([F.pad(c, (0, 0) * (c.ndim - 1) + (0, length - len(c))) for c in crops])


class Batch(NamedTuple):
    """What a step learns from, drawn on the host; the audio itself is read part by part.

    Attributes:
        spans: [(file, first frame, frames)] of B crops.
        targets: (B, T) int64 labels, -1 behind the end of a crop.
        mask: (B, T) bool, never behind the end.
        skip: blocks that are left out for the whole batch.
    """

    spans: list[tuple[int, int, int]]
    targets: Tensor
    mask: Tensor
    skip: list[int]


def pretrain(
    audio: PackedAudio,
    labels: Sequence[np.ndarray],
    *,
    n_classes: int,
    config: HubertConfig,
    steps: int,
    folder: Path,
    batch: int = 8,
    crop_seconds: float = 4.0,
    lr: float = 1e-3,
    mask_prob: float = 0.8,
    mask_span: int = 10,
    unmasked_weight: float = 0.5,
    dropout: float = 0.0,
    layer_drop: float = 0.0,
    head: str = "linear",
    voice: Voice | None = None,
    start: dict[str, Tensor] | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    micro_batch: int | None = None,
    seed: int = 0,
    log: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[Hubert, list[dict[str, float]]]:
    """Train an encoder to predict labels from masked input.

    Args:
        audio: the corpus, decoded.
        labels: of each file, (T,) int64 at the encoder's frame rate (see `mfcc.to_rate`).
        folder: where the checkpoint and the prepared input live while training; the same call with the same folder resumes, and gives
            on a CPU with the same number of threads the same weights bit for bit as a call that was never interrupted.
        batch, crop_seconds: crops per step and their length.
        mask_prob, mask_span: share of the frames in spans before overlap, and a span's frames.
        unmasked_weight: of the loss over frames that were not masked, beside the masked ones.
        dropout: share of each sublayer's output that is set to zero; keeps a small encoder from learning its teacher by heart.
        layer_drop: probability of each block to be left out of a step, for the whole batch.
        head: `linear` or `cosine`.
        voice: what the spectrogram of every file is warped to first (`fit_ladder`); becomes part of the encoder.
        start: weights to begin from instead of random ones: the state of an encoder of the same configuration, its voice included.
        precision: `fp32`, or `bf16` for autocast with fp32 parameters.
        device: where it runs; `cuda` is the GPU of the process's own where there are several.
        micro_batch: rows computed at once, None = all; less memory, and other last bits.
        log: see `training.train`; its rows also have `audio_hours_per_hour`.

    Returns:
        (encoder in evaluation mode, curve of `loss`, `masked_loss`, `masked_accuracy`, `unmasked_accuracy`, `label_perplexity` and
        `prediction_perplexity` (of the masked frames' labels and likeliest classes), `grad_norm`, `lr`).

    Raises:
        TrainingError: labels of another length or outside `n_classes`; no file as long as a frame; fewer rows in a batch than
            processes; the loss became NaN.
        DeviceError: the device is unknown or not there, or cannot train in this precision.
    """
    for name, share in (("dropout", dropout), ("layer_drop", layer_drop)):
        if not 0 <= share < 1:
            raise TrainingError(f"{name} is {share}; it must be at least 0 and less than 1")
    device = place(device)
    check_training(device, precision)
    if voice is not None:
        config = replace(config, voice_clusters=len(voice.centroids), voice_dim=voice.centroids.shape[1])
    with fork_rng(device):
        torch.manual_seed(seed)
        model, classifier = Hubert(config).train(), Head(config.dim, n_classes, head).to(device)
    if voice is not None:
        model.voice.load_state_dict(round_half(voice.state_dict()))
    if start is not None:
        _begin(model, start)
    for block in model.encoder.layers:
        block.dropout.p = dropout
    source = CropSource(audio, model, folder)
    _check_labels(audio, source.frames, labels, n_classes)
    model.to(device)
    optimiser = torch.optim.AdamW(
        decay_groups(nn.ModuleList([model, classifier]), 0.01), lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=True
    )
    crop = round(crop_seconds * hubert_frames.FRAME_RATE)

    def draw(n: int) -> Batch:
        generator = rng(seed, n)
        spans = source.draw(generator, size=batch, frames=crop)
        lengths = [frames for _, _, frames in spans]
        targets = torch.full((batch, max(lengths)), -1)
        for row, (i, start, frames) in zip(targets, spans, strict=True):
            row[:frames] = torch.from_numpy(labels[i][start : start + frames])
        mask = torch.from_numpy(span_mask(generator, lengths, prob=mask_prob, span=mask_span))
        skip = np.flatnonzero(generator.random(config.layers) < layer_drop).tolist()
        return Batch(spans, targets, mask, skip)

    def losses(whole: Batch, rows: slice) -> dict[str, Tensor]:
        padded = bool((whole.targets < 0).any())
        n_masked, n_unmasked = int(whole.mask.sum()), int((~whole.mask & (whole.targets >= 0)).sum())
        inputs = source.inputs(whole.spans[rows], whole.targets.shape[1]).to(device)
        mask, targets = whole.mask[rows].to(device), whole.targets[rows].to(device)
        padding = targets < 0
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            x, _ = model(inputs, mask=mask, padding=padding if padded else None, skip=whole.skip)
            logits = classifier(x)
        logits, masked, unmasked = logits.float(), mask.float(), (~mask & ~padding).float()
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-1).view_as(
            masked
        )
        loss_masked, loss_unmasked = (
            (nats * masked).sum() / max(n_masked, 1),
            (nats * unmasked).sum() / max(n_unmasked, 1),
        )
        predicted = logits.detach().argmax(-1)
        hit = predicted == targets
        return {
            "loss": loss_masked + unmasked_weight * loss_unmasked,
            "masked_loss": loss_masked,
            "masked_accuracy": (hit * masked).sum() / max(n_masked, 1),
            "unmasked_accuracy": (hit * unmasked).sum() / max(n_unmasked, 1),
            "predictions": logits.new_zeros(n_classes).scatter_add_(0, predicted.flatten(), masked.flatten()),
        }

    def step(n: int) -> dict[str, Tensor]:
        whole = draw(n)
        rate = warmup_cosine(n, steps=steps, peak=lr, warmup=max(1, steps // 12), floor=lr * 0.05)
        figures = update(
            optimiser, lambda rows: losses(whole, rows), rows=batch, lr=rate, clip=5.0, micro_batch=micro_batch
        )
        figures["label_perplexity"] = perplexity(torch.bincount(whole.targets[whole.mask], minlength=n_classes))
        figures["prediction_perplexity"] = perplexity(figures.pop("predictions"))
        return figures

    seconds = (
        batch * float(np.average(np.minimum(crop, source.frames), weights=source.frames)) / hubert_frames.FRAME_RATE
    )
    curve = train(
        step,
        {"model": model, "head": classifier, "optimiser": optimiser},
        steps=steps,
        seed=seed,
        checkpoint=folder / "checkpoint.pt",
        log=log,
        speed=("audio_hours_per_hour", seconds),
        device=device,
    )
    return model.eval(), curve


def _begin(model: Hubert, start: dict[str, Tensor]) -> None:
    """Load the weights that training starts from. Raises TrainingError when they are of another shape, or hear in another voice."""
    own = model.state_dict()
    if wrong := [
        n for n in own.keys() | start.keys() if n not in own or n not in start or own[n].shape != start[n].shape
    ]:
        raise TrainingError(
            f"the encoder to start from differs in {sorted(wrong)[0]}; give the same preset, and a voice to both or none"
        )
    if any(not torch.equal(own[n], start[n]) for n in own if n.startswith("voice.")):
        raise TrainingError(
            "the encoder to start from hears in another voice; give the ladder that it was trained with"
        )
    model.load_state_dict(start)


def _check_labels(audio: PackedAudio, frames: np.ndarray, labels: Sequence[np.ndarray], n_classes: int) -> None:
    if not frames.any():
        raise TrainingError("no file of the corpus is as long as one frame (25 ms)")
    if len(labels) != len(frames):
        raise TrainingError(
            f"{len(labels)} label sequences for {len(frames)} files; label the same corpus that is trained on"
        )
    for name, length, row in zip(audio.ids, frames, labels, strict=True):
        if len(row) != length:
            raise TrainingError(
                f"{name}: {len(row)} labels for {length} frames; labels at another rate are mapped by `mfcc.to_rate`"
            )
        if len(row) and (row.min() < 0 or row.max() >= n_classes):
            raise TrainingError(
                f"{name}: label {row.max() if row.min() >= 0 else row.min()} is outside 0 … {n_classes - 1}"
            )
