"""Training of the unit language model: cross-entropy of the units of packed documents, and of their durations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from textless.devices import fork_rng
from textless.errors import ContractError, TrainingError
from textless.lm.decoder import UnitDecoder
from textless.lm.hf.foreign import ForeignLM
from textless.lm.model import PRESETS, LMConfig, UnitLM
from textless.lm.ngram import KneserNey
from textless.lm.packing import Batch, Documents, Packer, document_mask
from textless.lm.streams import stream_nll, unigram_nats
from textless.ranks import size
from textless.training.configs import LMTrainConfig
from textless.training.distributed import first_before_others
from textless.training.loop import (
    Clock,
    Log,
    autocast,
    configure,
    decay_groups,
    inverse_sqrt,
    train,
    update,
    warmup_cosine,
)
from textless.types import UnitContract, Units

# Weights of the cross-entropies of durations and pitch; units have 1. Durations are read from the hidden state of the
# units, and must not shape it much.
DURATION_WEIGHT = 0.25
PITCH_WEIGHT = 0.5  # pGSLM's
CHUNK = 1 << 24  # tokens that are counted at a time
CLOCKED = 10_000  # steps of the schedule of a budget of time
# Tokens that n-grams are counted in at most, which takes a minute or two; 100 hours of speech have about as many.
COUNTED = 10_000_000


def losses(lm: UnitDecoder, batch: Batch, *, whole: Batch | None = None) -> tuple[Tensor, ...]:
    """Mean cross-entropy in nats of the tokens (units and `</s>`), of the units' durations, and where the model has
    pitch, of their pitch.

    Where the rows are a part of a `whole` batch, the sums are divided by its counts: losses of parts add up to that of
    the batch.
    """
    whole = whole or batch
    hidden = lm(batch.tokens, positions=batch.positions, mask=document_mask(batch.positions))
    units = F.cross_entropy(lm.unit_logits(hidden).flatten(0, 1), batch.targets.flatten(), reduction="sum")
    # The mean of rows of `</s>` alone would be 0 / 0.
    durations = F.cross_entropy(lm.duration_logits(hidden).flatten(0, 1), batch.durations.flatten(), reduction="sum")
    count = max(1, int((whole.durations >= 0).sum()))
    means = units / whole.targets.numel(), durations / count
    if not lm.has_pitch:
        return means
    pitch = F.cross_entropy(lm.pitch_logits(hidden).flatten(0, 1), batch.pitch.flatten(), reduction="sum")
    return *means, pitch / count


def evaluate(lm: UnitDecoder, documents: Sequence[Units]) -> dict[str, float]:
    """Metrics of held-out documents.

    Returns:
        `nll_per_unit`: nats per predicted token, `</s>` of each document included. `bits_per_second`: bits of the units
        and `</s>`, without durations, per second of audio, comparable over codebooks and frame rates; missing where the
        frame rate is unknown. Of a model with pitch also `duration_nll_per_unit` and `pitch_nll_per_unit`.
    """
    streams = [stream_nll(lm, d) for d in documents] if lm.has_pitch else []
    total = float(sum(scores.sum() for scores in [s["units"] for s in streams] or lm.nll_batch(documents)))
    metrics = {"nll_per_unit": total / sum(len(d) + 1 for d in documents)}
    if lm.frame_rate is not None:
        metrics["bits_per_second"] = total / math.log(2) / (sum(d.n_frames for d in documents) / lm.frame_rate)
    if lm.has_pitch:
        for key, stream in (("duration", "durations"), ("pitch", "pitch")):
            metrics[f"{key}_nll_per_unit"] = float(np.concatenate([s[stream] for s in streams]).mean())
    return metrics


def unigram_nll(documents: Documents, dev: Sequence[Units], n_units: int) -> float:
    """Nats per token of `dev` under the add-one frequencies of `documents`: the loss of a model without context."""
    counts = np.bincount(np.concatenate([d.units for d in dev]), minlength=n_units)
    counts = np.append(counts, len(dev)).astype(np.float64)
    pieces = (
        documents.tokens[i : min(i + CHUNK, len(documents.durations))]
        for i in range(0, len(documents.durations), CHUNK)
    )
    seen = sum((np.bincount(piece, minlength=n_units + 1) for piece in pieces), start=np.ones(n_units + 1, np.int64))
    return float(-(counts * np.log(seen / seen.sum())).sum() / counts.sum())


def unigram_pitch_nll(documents: Documents, dev: Sequence[Units]) -> float:
    """Nats per unit of the pitch of `dev` under its add-one frequencies in `documents`."""
    assert documents.pitch is not None
    nats = unigram_nats(documents.pitch[documents.durations > 0])
    return float(nats[np.concatenate([d.pitch for d in dev if d.pitch is not None])].mean())


def ngram_nll(documents: Sequence[np.ndarray], dev: Sequence[Units], n_units: int) -> dict[str, float]:
    """Nats per token of `dev` under Kneser-Ney models of `documents`, by order (`2` … `5`)."""
    tokens = sum(len(d) + 1 for d in dev)
    models = {str(order): KneserNey.fit(documents, n_units, order=order) for order in (2, 3, 4, 5)}
    return {order: sum(float(m.nll(d).sum()) for d in dev) / tokens for order, m in models.items()}


def train_lm(
    sequences: Iterable[Units],
    config: LMTrainConfig | None = None,
    *,
    contract: UnitContract,
    start: UnitDecoder | None = None,
    dev: Sequence[Units] = (),
    checkpoint: Path | None = None,
    scratch: Path | None = None,
    log: Log | None = None,
    **settings: Any,
) -> tuple[UnitDecoder, dict[str, Any]]:
    """Train a language model on units.

    Args:
        sequences: one per document; deduplicated here. With `scratch` only one is in memory at a time.
        config: hyperparameters; `settings` are fields of it by name: `train_lm(rows, contract=contract, steps=1000)`.
        contract: of the units; `n_units` must be known.
        start: a model to continue from: a text model (`from_causal`), or a published one over units (`ForeignLM`, see
            its `for_training`). It is trained in place, and `preset` and `dropout` are ignored.
        dev: held-out documents, evaluated about every tenth of the steps and at the end.
        checkpoint: file to write to and to resume from. On a CPU with the same number of threads, a call that resumes
            gives the same weights bit for bit as one that was never interrupted.
        scratch: folder for the packed documents, memory-mapped from there; kept for the call that resumes.
        log: see `training.loop.train`; its rows also have `tokens_per_second`.

    Returns:
        (model in evaluation mode, metrics): `curve`, rows of `step`, `loss` (nats per token), `duration_loss`,
        `grad_norm`, `lr` and, in those where dev was evaluated, `nll_per_unit` and `bits_per_second`; number of `steps`
        and of `tokens` seen; with dev `nll_per_unit` and `bits_per_second` at the end (see `evaluate`),
        `unigram_nll_per_unit` and `ngram_nll_per_unit` by order, of n-grams of the first ten million tokens. Of a model
        with pitch also `pitch_loss` in the rows, and `unigram_pitch_nll_per_unit`.

    Raises:
        ContractError: units of another kind than `contract`, or a contract without n_units.
        DeviceError: the device is unknown or missing, or cannot train in this precision.
        TrainingError: an invalid field, no units, a context longer than that of `start`, fewer rows in a batch than
            processes, a budget of time with several processes; the loss became NaN.
    """
    config, device = configure(LMTrainConfig, config, settings)
    if config.minutes is not None and size() > 1:
        raise TrainingError(f"minutes is a budget for one process, and there are {size()}; give steps or tokens")
    model = _model(config, contract, start, device)
    held_out = [d for d in _deduplicated(model, dev, "the dev units") if len(d)]
    documents = _pack(model, sequences, scratch)
    training = _Training(config, model, Packer(documents, context=config.context, seed=config.seed), held_out, device)
    curve = train(
        training.step,
        {"model": model, "optimiser": training.optimiser},
        steps=training.clock or training.updates,
        seed=config.seed,
        checkpoint=checkpoint,
        measure=training.measure,
        log=log,
        log_every=training.log_every,
        speed=("tokens_per_second", config.batch * config.context),
        device=device,
    )
    steps = int(curve[-1]["step"])
    metrics = {"curve": curve, "steps": steps, "tokens": steps * config.batch * config.context}
    return model.eval(), metrics | (_compare(model, documents, held_out) if held_out else {})


def _model(config: LMTrainConfig, contract: UnitContract, start: UnitDecoder | None, device: str) -> UnitDecoder:
    """The model to train: a fresh one, or `start`.

    Raises ContractError when `n_units` is unknown, TrainingError when `start` has a shorter context.
    """
    if contract.n_units is None:
        raise ContractError("the number of units is unknown; declare n_units with --contract")
    if start is not None and contract.pitch and not start.has_pitch:
        raise TrainingError(
            "the units have pitch and the start reads none; start from a model with pitch, or give units without"
        )
    if start is not None and config.context > start.config.context:
        raise TrainingError(
            f"context {config.context} is longer than the {start.config.context} tokens that the start can see"
        )
    if isinstance(start, ForeignLM):
        start.contract.check(contract, mine="the start", theirs="the training units")
        start = start.for_training(contract)
    with fork_rng(device):
        torch.manual_seed(config.seed)
        fresh = LMConfig(n_units=contract.n_units, context=config.context, **PRESETS[config.preset])
        model = UnitLM(fresh, contract, dropout=config.dropout) if start is None else start
    return model.to(device).train()


def _deduplicated(model: UnitDecoder, sequences: Iterable[Units], what: str) -> Iterator[Units]:
    """Deduplicated units, checked against the model's contract."""
    return (model.checked(s, what).deduplicated() for s in sequences)


def _pack(model: UnitDecoder, sequences: Iterable[Units], scratch: Path | None) -> Documents:
    with first_before_others() if scratch else nullcontext():
        return Documents.pack(
            _deduplicated(model, sequences, "the training units"),
            n_units=model.n_units,
            max_duration=model.config.max_duration,
            folder=scratch and scratch / "documents",
            pitch=model.has_pitch,
        )


def _compare(model: UnitDecoder, documents: Documents, held_out: Sequence[Units]) -> dict[str, Any]:
    """Held-out metrics of the model and of n-grams of its training documents."""
    return {
        **evaluate(model, held_out),
        "unigram_nll_per_unit": unigram_nll(documents, held_out, model.n_units),
        "ngram_nll_per_unit": ngram_nll(documents.units(COUNTED), held_out, model.n_units),
        **({"unigram_pitch_nll_per_unit": unigram_pitch_nll(documents, held_out)} if model.has_pitch else {}),
    }


class _Training:
    """The updates of one training, and its evaluations on the held-out documents."""

    def __init__(
        self, config: LMTrainConfig, model: UnitDecoder, packer: Packer, held_out: Sequence[Units], device: str
    ) -> None:
        self.config, self.model, self.packer, self.held_out, self.device = config, model, packer, held_out, device
        self.optimiser = torch.optim.AdamW(decay_groups(model, 0.1), lr=config.lr, betas=(0.9, 0.95), fused=True)
        self.clock = None if config.minutes is None else Clock(60 * config.minutes)
        self.updates = config.updates or CLOCKED  # of the schedule
        self.log_every = 50 if self.clock else min(50, max(1, self.updates // 10))
        self.evaluated = 0  # tenths of a budget of time

    def lr(self, n: int) -> float:
        at: float = n
        if self.clock:
            at = min(self.updates - 1, self.updates * self.clock.fraction)
        peak, warmup = self.config.lr, max(1, round(0.03 * self.updates))
        if self.config.schedule == "inverse_sqrt":
            return inverse_sqrt(at, peak=peak, warmup=warmup)
        return warmup_cosine(at, steps=self.updates, peak=peak, warmup=warmup, floor=peak * 0.05)

    def losses(self, whole: Batch, part: slice) -> dict[str, Tensor]:
        batch = Batch(*(t[part].to(self.device) for t in whole))
        with autocast(self.device, self.config.precision):
            units, durations, *pitch = losses(self.model, batch, whole=whole)
        loss = units + DURATION_WEIGHT * durations
        if not pitch:
            return {"loss": loss, "unit_loss": units, "duration_loss": durations}
        loss = loss + PITCH_WEIGHT * pitch[0]
        return {"loss": loss, "unit_loss": units, "duration_loss": durations, "pitch_loss": pitch[0]}

    def step(self, n: int) -> dict[str, Tensor]:
        rows = self.config.batch
        whole = self.packer.batch(n * rows, rows)
        metrics = update(
            self.optimiser,
            lambda part: self.losses(whole, part),
            rows=rows,
            lr=self.lr(n),
            clip=1.0,
            micro_batch=self.config.micro_batch,
        )
        metrics["loss"] = metrics.pop("unit_loss")  # reported without durations, comparable to `nll_per_unit`
        return metrics

    def measure(self, n: int) -> dict[str, float]:
        """`evaluate` about ten times in a training, else nothing."""
        if self.clock:
            before, self.evaluated = self.evaluated, int(10 * self.clock.fraction)
            due = self.evaluated > before
        else:
            every = self.log_every * max(1, round(self.updates / 10 / self.log_every))
            due = n % every == 0 or n == self.updates
        return evaluate(self.model, self.held_out) if self.held_out and due else {}
