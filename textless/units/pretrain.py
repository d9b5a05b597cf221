"""HuBERT pre-training: predict the cluster of masked frames (Hsu et al. 2021, arXiv:2106.07447, section II-B)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.errors import TrainingError
from textless.training import decay_groups, rng, train, warmup_cosine
from textless.units import hubert_frames, mfcc
from textless.units.hubert import Hubert, HubertConfig

if TYPE_CHECKING:
    from textless.corpus import PackedAudio


class Head(nn.Module):
    """From frames to classes: (…, dim) → (…, n_classes).

    `linear` is plain cross-entropy, cheaper and as good (MelHuBERT). `cosine` is the paper's equation 3: the cosine between the
    projected frame and each class's embedding, divided by 0.1.
    """

    def __init__(self, dim: int, n_classes: int, kind: str) -> None:
        super().__init__()
        if kind not in ("linear", "cosine"):
            raise TrainingError(f"head is {kind!r}; known: linear, cosine")
        self.kind = kind
        if kind == "linear":
            self.final_proj = nn.Linear(dim, n_classes)
        else:
            self.final_proj = nn.Linear(dim, 256)
            self.label_embs = nn.Parameter(torch.empty(n_classes, 256).uniform_())

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

    def __init__(self, audio: PackedAudio, config: HubertConfig, folder: Path) -> None:
        self.audio, self.config = audio, config
        self.frames = np.array([hubert_frames.n_frames(int(n)) for n in audio.lengths])
        if config.front_end == "logmel":
            self.starts = np.concatenate([[0], np.cumsum([mfcc.n_frames(int(n)) for n in audio.lengths])])
            self.mel = self._mel(folder)

    def _mel(self, folder: Path) -> np.ndarray:
        shape = (int(self.starts[-1]), self.config.n_mels)
        path, done = folder / "mel.f16", folder / "mel.json"
        if not (done.exists() and json.loads(done.read_text()) == list(shape)):
            model = Hubert(self.config)
            mel = np.memmap(path, np.float16, "w+", shape=shape)
            for i in range(len(self.frames)):
                if self.frames[i]:
                    mel[self.starts[i] : self.starts[i + 1]] = model.prepare(torch.from_numpy(self.audio.waveform(i))).numpy()
            mel.flush()
            done.write_text(json.dumps(shape))
        return np.memmap(path, np.float16, "r", shape=shape)

    def crop(self, i: int, start: int, frames: int) -> Tensor:
        """Inputs from which the front end makes encoder frames [start, start + frames) of file i."""
        if self.config.front_end == "logmel":
            first = int(self.starts[i]) + 2 * start
            return torch.from_numpy(self.mel[first : first + 2 * frames - 1].astype(np.float32))
        wave = torch.from_numpy(
            self.audio.waveform(i, hubert_frames.HOP * start, hubert_frames.HOP * (start + frames - 1) + hubert_frames.WINDOW)
        )
        if self.config.normalisation == "layer_norm_1e-5":
            whole = torch.from_numpy(self.audio.waveform(i))
            wave = (wave - whole.mean()) / torch.sqrt(whole.var(unbiased=False) + 1e-5)
        return wave

    def batch(self, generator: np.random.Generator, *, size: int, frames: int) -> tuple[Tensor, list[tuple[int, int, int]]]:
        """Random crops of at most `frames` frames, every second of audio equally likely; shorter files come whole, padded with zeros.

        Returns:
            inputs (B, …) and [(file, first frame, frames)].
        """
        share = np.cumsum(self.frames) / self.frames.sum()
        chosen = np.searchsorted(share, generator.random(size), side="right")
        spans = []
        for i in chosen:
            length = min(frames, int(self.frames[i]))
            spans.append((int(i), int(generator.integers(0, self.frames[i] - length + 1)), length))
        crops = [self.crop(*span) for span in spans]
        return nn.utils.rnn.pad_sequence(crops, batch_first=True), spans


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
    head: str = "linear",
    precision: str = "fp32",
    device: str = "cpu",
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
        head: `linear` or `cosine`.
        precision: `fp32`, or `bf16` for autocast with fp32 parameters.

    Returns:
        (encoder in evaluation mode, curve of `loss`, `masked_accuracy`, `unmasked_accuracy`, `grad_norm`).

    Raises:
        TrainingError: labels of another length or outside `n_classes`; no file as long as a frame; the loss became NaN.
    """
    source = CropSource(audio, config, folder)
    _check_labels(audio, source.frames, labels, n_classes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, classifier = Hubert(config).to(device).train(), Head(config.dim, n_classes, head).to(device)
    both = nn.ModuleList([model, classifier])
    optimiser = torch.optim.AdamW(decay_groups(both, 0.01), lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    crop = round(crop_seconds * hubert_frames.FRAME_RATE)
    warmup = max(1, steps // 12)

    def step(n: int) -> dict[str, Tensor]:
        draw = rng(seed, n)
        inputs, spans = source.batch(draw, size=batch, frames=crop)
        lengths = [frames for _, _, frames in spans]
        targets = torch.full((batch, max(lengths)), -1)
        for row, (i, start, frames) in zip(targets, spans, strict=True):
            row[:frames] = torch.from_numpy(labels[i][start : start + frames])
        mask = torch.from_numpy(span_mask(draw, lengths, prob=mask_prob, span=mask_span)).to(device)
        targets = targets.to(device)
        padding = targets < 0
        for group in optimiser.param_groups:
            group["lr"] = warmup_cosine(n, steps=steps, peak=lr, warmup=warmup, floor=lr * 0.05)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            x, _ = model(inputs.to(device), mask=mask, padding=padding if padding.any() else None)
            logits = classifier(x)
        logits = logits.float()
        masked, unmasked = mask & ~padding, ~mask & ~padding
        loss_masked = F.cross_entropy(logits[masked], targets[masked])
        loss_unmasked = F.cross_entropy(logits[unmasked], targets[unmasked]) if unmasked.any() else logits.sum() * 0
        loss = loss_masked + unmasked_weight * loss_unmasked
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(both.parameters(), 5.0)
        optimiser.step()
        hit = logits.detach().argmax(-1) == targets
        return {
            "loss": loss.detach(),
            "masked_loss": loss_masked.detach(),
            "masked_accuracy": hit[masked].float().mean(),
            "unmasked_accuracy": hit[unmasked].float().mean() if unmasked.any() else torch.zeros(()),
            "grad_norm": norm.detach(),
        }

    state = {"model": model, "head": classifier, "optimiser": optimiser}
    curve = train(step, state, steps=steps, seed=seed, checkpoint=folder / "checkpoint.pt", log=log)
    return model.eval(), curve


def _check_labels(audio: PackedAudio, frames: np.ndarray, labels: Sequence[np.ndarray], n_classes: int) -> None:
    if not frames.any():
        raise TrainingError("no file of the corpus is as long as one frame (25 ms)")
    if len(labels) != len(frames):
        raise TrainingError(f"{len(labels)} label sequences for {len(frames)} files; label the same corpus that is trained on")
    for name, length, row in zip(audio.ids, frames, labels, strict=True):
        if len(row) != length:
            raise TrainingError(f"{name}: {len(row)} labels for {length} frames; labels at another rate are mapped by `mfcc.to_rate`")
        if len(row) and (row.min() < 0 or row.max() >= n_classes):
            raise TrainingError(f"{name}: label {row.max() if row.min() >= 0 else row.min()} is outside 0 … {n_classes - 1}")
