"""HuBERT pre-training: predict the cluster of masked frames (Hsu et al. 2021, arXiv:2106.07447, section II-B)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.audio import mfcc
from textless.errors import TrainingError
from textless.files import atomic, write_text
from textless.training.configs import PretrainConfig
from textless.training.distributed import first_before_others
from textless.training.loop import (
    Log,
    Row,
    autocast,
    configure,
    crop_speed,
    decay_groups,
    perplexity,
    rng,
    train,
    update,
    warmup_cosine,
)
from textless.units.encoders import hubert_frames
from textless.units.encoders.hubert import EPSILON, Hubert
from textless.units.encoders.start import Head, networks

if TYPE_CHECKING:
    from textless.audio.corpus import PackedAudio
    from textless.units.mfcc_lda.vtln import Voice


def span_mask(generator: np.random.Generator, lengths: Sequence[int], *, prob: float, span: int) -> np.ndarray:
    """Spans of `span` frames that may overlap, starts drawn without replacement; about `prob` of the frames before
    overlap.

    Like fairseq's compute_mask_indices with static lengths, except that rows are not thinned to one count.

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
    """Crops of the input of the encoder's front end, cut at encoder frames.

    For log-mel the normalised spectrograms of all files are computed once and memory-mapped as float16 in `folder`; a
    crop then costs a copy. For waveforms a crop is read from the packed audio, normalised over its file where the
    configuration says so.
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
        """The input of encoder frames [start, start + frames) of file i."""
        if self.config.front_end == "logmel":
            first = int(self.starts[i]) + 2 * start
            return torch.from_numpy(self.mel[first : first + 2 * frames - 1].astype(np.float32))
        wave = torch.from_numpy(
            self.audio.waveform(
                i, hubert_frames.HOP * start, hubert_frames.HOP * (start + frames - 1) + hubert_frames.WINDOW
            )
        )
        if self.config.normalisation != "none":
            if i not in self.levels:  # a file may be hours long and is not read again for each of its crops
                whole = torch.from_numpy(self.audio.waveform(i))
                self.levels[i] = (
                    whole.mean(),
                    torch.sqrt(whole.var(unbiased=False) + EPSILON[self.config.normalisation]),
                )
            mean, deviation = self.levels[i]
            wave = (wave - mean) / deviation
        return wave

    def draw(self, generator: np.random.Generator, *, size: int, frames: int) -> list[tuple[int, int, int]]:
        """Random crops of at most `frames` frames, every second of audio equally likely; shorter files are not cropped.

        Crops of a batch have similar lengths, so that little is padded: a batch is drawn from the files that are long
        enough, or from an eighth of the others.

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
        """(B, …) inputs of crops, right-padded with zeros to the input length of `frames` frames."""
        crops = [self.crop(*span) for span in spans]
        length = (
            2 * frames - 1
            if self.config.front_end == "logmel"
            else hubert_frames.HOP * (frames - 1) + hubert_frames.WINDOW
        )
        return torch.stack([F.pad(c, (0, 0) * (c.ndim - 1) + (0, length - len(c))) for c in crops])


class Batch(NamedTuple):
    """The batch of an update, drawn on the host; the audio itself is read part by part.

    Attributes:
        source: what the crops are of.
        spans: [(file, first frame, frames)] of B crops.
        targets: (B, T) int64 labels, -1 in the padding.
        mask: (B, T) bool, False in the padding.
        skip: blocks that are skipped, for the whole batch.
    """

    source: CropSource
    spans: list[tuple[int, int, int]]
    targets: Tensor
    mask: Tensor
    skip: list[int]


def pretrain(
    audio: PackedAudio,
    labels: Sequence[np.ndarray],
    config: PretrainConfig | None = None,
    *,
    n_classes: int,
    folder: Path,
    start: Hubert | Path | str | None = None,
    voice: Voice | None = None,
    dev: tuple[PackedAudio, Sequence[np.ndarray]] | None = None,
    log: Log | None = None,
    **settings: Any,
) -> tuple[Hubert, list[Row]]:
    """Train an encoder to predict labels from masked input.

    Args:
        audio: the corpus, decoded.
        labels: of each file, (T,) int64 in [0, n_classes) at the encoder's frame rate (see `mfcc.to_rate`).
        config: hyperparameters; `settings` are fields of it by name.
        folder: for the checkpoint and the prepared input. The same call with the same folder resumes; on a CPU with the
            same number of threads it gives the same weights bit for bit as a call that was never interrupted.
        start: an encoder whose architecture and weights the training starts from, instead of a fresh one of
            `config.preset`: a model, or a file, folder or published name of a HuBERT or wav2vec 2.0 (see
            `load_encoder`), whose front end is then frozen unless `config.freeze_front_end` is False.
        voice: vocal tract normalisation (`fit_ladder`) that the spectrogram of every file is warped by; it becomes part
            of the encoder. That of `start`, if both are given.
        dev: audio and labels that are only measured on.
        log: see `training.loop.train`; its rows also have `audio_hours_per_hour`.

    Returns:
        (encoder in evaluation mode, curve of `loss`, `masked_loss`, `masked_accuracy`, `unmasked_accuracy`,
        `label_perplexity` and `prediction_perplexity` (of the masked frames' labels and likeliest classes),
        `grad_norm`, `lr`; with `dev` also `dev_masked_loss` and `dev_masked_accuracy`, under the same mask each time).

    Raises:
        TrainingError: a field of the configuration is invalid; labels of another length or outside `n_classes`; no file
            as long as a frame; `start` has another voice, preset or number of labels, or is missing where the
            configuration needs it; fewer rows in a batch than processes; the loss became NaN.
        ModelError: `start` cannot be read, or has no head to keep.
        DeviceError: the device is unknown or missing, or cannot train in this precision.
    """
    config, device = configure(PretrainConfig, config, settings)
    model, head = networks(config, n_classes, start, voice, device)
    source = _prepared(audio, labels, model, folder, n_classes)
    training = _Training(config, model.to(device), head.to(device), source, labels, device)
    measure = None if dev is None else training.measurement(_prepared(*dev, model, folder / "dev", n_classes), dev[1])
    curve = train(
        training.step,
        {"model": model, "head": head, "optimiser": training.optimiser},
        steps=config.steps,
        seed=config.seed,
        checkpoint=folder / "checkpoint.pt",
        measure=measure,
        log=log,
        speed=crop_speed(source.frames, crop=training.crop, batch=config.batch, frame_rate=hubert_frames.FRAME_RATE),
        device=device,
    )
    return model.eval(), curve


def _prepared(
    audio: PackedAudio, labels: Sequence[np.ndarray], model: Hubert, folder: Path, n_classes: int
) -> CropSource:
    """The input of all files, in a folder. Raises TrainingError for labels that do not fit it."""
    folder.mkdir(exist_ok=True)
    source = CropSource(audio, model, folder)
    _check_labels(audio, source.frames, labels, n_classes)
    return source


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


def _groups(model: Hubert, head: Head, layer_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of what is trained.

    With a decay, block i of n has the rate layer_decay^(n - i + 1) of the head's, what is below all blocks
    layer_decay^(n + 1), and the head and a norm after the last block the whole rate: BEiT's numbering.
    """
    if layer_decay == 1:
        return decay_groups(nn.ModuleList([model, head]), 0.01)
    blocks, encoder = model.encoder.layers, model.encoder
    below = nn.ModuleList([model.feature_extractor, model.feature_projection, encoder.pos_conv_embed])
    above = nn.ModuleList([head])
    (above if encoder.pre_ln else below).append(encoder.layer_norm)
    parts = [below, *blocks, above]
    below.masked_spec_embed = model.masked_spec_embed
    return [
        {**group, "lr_scale": layer_decay ** (len(blocks) + 1 - depth)}
        for depth, part in enumerate(parts)
        for group in decay_groups(part, 0.01)
        if group["params"]
    ]


class _Training:
    """The updates of one training."""

    def __init__(
        self,
        config: PretrainConfig,
        model: Hubert,
        head: Head,
        source: CropSource,
        labels: Sequence[np.ndarray],
        device: str,
    ) -> None:
        self.config, self.model, self.head, self.source, self.labels = config, model, head, source, labels
        self.device, self.crop = device, round(config.crop_seconds * hubert_frames.FRAME_RATE)
        self.optimiser = torch.optim.AdamW(
            _groups(model, head, config.layer_decay), lr=config.lr, betas=(0.9, 0.98), eps=1e-6, fused=True
        )

    def draw(self, n: int) -> Batch:
        config, generator = self.config, rng(self.config.seed, n)
        spans = self.source.draw(generator, size=config.batch, frames=self.crop)
        batch = self.batch(self.source, self.labels, spans, generator)
        skip = np.flatnonzero(generator.random(self.model.config.layers) < config.layer_drop).tolist()
        return batch._replace(skip=skip)

    def batch(
        self,
        source: CropSource,
        labels: Sequence[np.ndarray],
        spans: list[tuple[int, int, int]],
        generator: np.random.Generator,
    ) -> Batch:
        """Of these crops, under a random mask."""
        lengths = [frames for _, _, frames in spans]
        targets = torch.full((len(spans), max(lengths)), -1)
        for row, (i, start, frames) in zip(targets, spans, strict=True):
            row[:frames] = torch.from_numpy(labels[i][start : start + frames]) + self.head.first
        mask = span_mask(generator, lengths, prob=self.config.mask_prob, span=self.config.mask_span)
        return Batch(source, spans, targets, torch.from_numpy(mask), [])

    def losses(self, whole: Batch, rows: slice) -> dict[str, Tensor]:
        padded = bool((whole.targets < 0).any())
        n_masked, n_unmasked = int(whole.mask.sum()), int((~whole.mask & (whole.targets >= 0)).sum())
        inputs = whole.source.inputs(whole.spans[rows], whole.targets.shape[1]).to(self.device)
        mask, targets = whole.mask[rows].to(self.device), whole.targets[rows].to(self.device)
        padding = targets < 0
        with autocast(self.device, self.config.precision):
            x, _ = self.model(inputs, mask=mask, padding=padding if padded else None, skip=whole.skip)
            logits = self.head(x)
        logits, masked, unmasked = logits.float(), mask.float(), (~mask & ~padding).float()
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-1)
        nats = nats.view_as(masked)
        loss_masked = (nats * masked).sum() / max(n_masked, 1)
        loss_unmasked = (nats * unmasked).sum() / max(n_unmasked, 1)
        predicted = logits.detach().argmax(-1)
        hit = predicted == targets
        return {
            "loss": loss_masked + self.config.unmasked_weight * loss_unmasked,
            "masked_loss": loss_masked,
            "masked_accuracy": (hit * masked).sum() / max(n_masked, 1),
            "unmasked_accuracy": (hit * unmasked).sum() / max(n_unmasked, 1),
            "predictions": logits.new_zeros(logits.shape[-1]).scatter_add_(0, predicted.flatten(), masked.flatten()),
        }

    def step(self, n: int) -> dict[str, Tensor]:
        whole, config = self.draw(n), self.config
        metrics = update(
            self.optimiser,
            lambda rows: self.losses(whole, rows),
            rows=config.batch,
            lr=warmup_cosine(
                n, steps=config.steps, peak=config.lr, warmup=max(1, config.steps // 12), floor=config.lr * 0.05
            ),
            clip=5.0,
            micro_batch=config.micro_batch,
        )
        predictions = metrics.pop("predictions")
        labels = torch.bincount(whole.targets[whole.mask], minlength=len(predictions))
        metrics["label_perplexity"], metrics["prediction_perplexity"] = perplexity(labels), perplexity(predictions)
        return metrics

    def measurement(self, source: CropSource, labels: Sequence[np.ndarray]) -> Callable[[int], Row]:
        """A function that measures masked prediction on the start of each file, under masks that no seed changes."""
        generator, files = rng(0, 0), np.flatnonzero(source.frames > 1)  # of one frame none is masked
        if not len(files):
            raise TrainingError("no file of dev is as long as two frames (45 ms)")
        size, batches = self.config.micro_batch or self.config.batch, []
        for some in np.split(files, range(size, len(files), size)):
            spans = [(int(i), 0, min(self.crop, int(source.frames[i]))) for i in some]
            batches.append(self.batch(source, labels, spans, generator))
        weights = [float(batch.mask.sum()) for batch in batches]

        @torch.no_grad()
        def measure(step: int) -> Row:
            self.model.eval()
            rows = [self.losses(batch, slice(None)) for batch in batches]
            self.model.train()
            return {
                f"dev_{name}": float(np.average([float(row[name]) for row in rows], weights=weights))
                for name in ("masked_loss", "masked_accuracy")
            }

        return measure
