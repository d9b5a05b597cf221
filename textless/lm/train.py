"""Training the unit language model: cross-entropy of the units of packed documents, and of their durations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from textless.devices import check_training, fork_rng
from textless.errors import ContractError, TrainingError
from textless.lm.decoder import UnitDecoder
from textless.lm.model import PRESETS, LMConfig, UnitLM
from textless.lm.ngram import KneserNey
from textless.lm.packing import Batch, Documents, Packer, document_mask
from textless.training.distributed import first_before_others, place, size
from textless.training.loop import Clock, decay_groups, inverse_sqrt, train, update, warmup_cosine
from textless.types import UnitContract, Units

DURATION_WEIGHT = (
    0.25  # of the durations' cross-entropy beside the units': they ride on the hidden state, and must not shape it much
)
CHUNK = 1 << 24  # tokens that are counted at a time
CLOCKED = 10_000  # steps of the schedule that a budget of time goes through
COUNTED = (
    10_000_000  # tokens that n-grams are counted in at most, in a minute or two; 100 hours of speech have about as many
)


def losses(lm: UnitDecoder, batch: Batch, *, whole: Batch | None = None) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy in nats of the tokens (units and `</s>`), and of the units' durations.

    Where the rows are a part of a `whole` batch, the sums are divided by what that holds: losses of its parts add up to its own.
    """
    whole = whole or batch
    hidden = lm(batch.tokens, positions=batch.positions, mask=document_mask(batch.positions))
    units = F.cross_entropy(lm.unit_logits(hidden).flatten(0, 1), batch.targets.flatten(), reduction="sum")
    # The mean of a row of nothing but `</s>` would be 0 / 0.
    durations = F.cross_entropy(lm.duration_logits(hidden).flatten(0, 1), batch.durations.flatten(), reduction="sum")
    return units / whole.targets.numel(), durations / max(1, int((whole.durations >= 0).sum()))


def evaluate(lm: UnitDecoder, documents: Sequence[Units]) -> dict[str, float]:
    """Figures of held-out documents.

    Returns:
        `nll_per_unit`: nats per token predicted, `</s>` of each document included. `bits_per_second`: bits of the units and `</s>`,
        durations apart, per second of audio, by which codebooks and frame rates compare; missing where the frame rate is unknown.
    """
    total = float(sum(scores.sum() for scores in lm.nll_batch(documents)))
    figures = {"nll_per_unit": total / sum(len(d) + 1 for d in documents)}
    if lm.frame_rate is not None:
        figures["bits_per_second"] = total / math.log(2) / (sum(d.n_frames for d in documents) / lm.frame_rate)
    return figures


def unigram_nll(documents: Documents, dev: Sequence[Units], n_units: int) -> float:
    """Nats per token of `dev` under the frequencies in `documents`, one added to each: what knows no context pays."""
    wanted = np.append(np.bincount(np.concatenate([d.units for d in dev]), minlength=n_units), len(dev)).astype(
        np.float64
    )
    pieces = (
        documents.tokens[i : min(i + CHUNK, len(documents.durations))]
        for i in range(0, len(documents.durations), CHUNK)
    )
    seen = 1 + sum(np.bincount(piece, minlength=n_units + 1) for piece in pieces)
    return float(-(wanted * np.log(seen / seen.sum())).sum() / wanted.sum())


def ngram_nll(documents: Sequence[np.ndarray], dev: Sequence[Units], n_units: int) -> dict[str, float]:
    """Nats per token of `dev` under Kneser-Ney models of `documents`, by order (`2` … `5`): on little data 5 is not the best."""
    tokens = sum(len(d) + 1 for d in dev)
    models = {str(order): KneserNey.fit(documents, n_units, order=order) for order in (2, 3, 4, 5)}
    return {order: sum(float(m.nll(d).sum()) for d in dev) / tokens for order, m in models.items()}


def train_lm(
    sequences: Iterable[Units],
    *,
    contract: UnitContract,
    steps: int | None = None,
    minutes: float | None = None,
    preset: str = "tiny",
    start: UnitDecoder | None = None,
    context: int = 512,
    batch_tokens: int = 4096,
    lr: float = 1e-3,
    schedule: str = "cosine",
    weight_decay: float = 0.1,
    dropout: float = 0.1,
    seed: int = 0,
    dev: Sequence[Units] | None = None,
    checkpoint: Path | None = None,
    log: Callable[[int, dict[str, float]], None] | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    micro_batch: int | None = None,
    scratch: Path | None = None,
) -> tuple[UnitDecoder, dict[str, Any]]:
    """Train a language model on units.

    Args:
        sequences: one per document; deduplicated here. With `scratch` they are taken one by one and never in memory together.
        steps: updates.
        minutes: time in place of `steps`, interruptions not counted, for exploring: how far it gets is up to the machine, and the
            schedule follows the clock. In one process alone.
        contract: of the units; `n_units` must be known.
        preset: a name of `PRESETS`.
        start: a model to go on from in place of a fresh one, such as a text model's (`from_causal`); it is trained itself, and `preset`
            and `dropout` are its own.
        context: tokens in a row, and of the model.
        batch_tokens: per step, rounded down to whole rows.
        lr: peak of AdamW (0.9, 0.95), after 3 % of the steps. Gradients are clipped at 1.
        schedule: from the peak on: `cosine`, down to a twentieth, or `inverse_sqrt` (fairseq's), with the root of the step.
        dropout: on embeddings and residual branches.
        dev: held-out documents, scored about every tenth of the steps.
        checkpoint: the file to resume from and to keep while training. The same call with the same file resumes, and gives on a CPU
            with the same number of threads the same weights bit for bit as a call that was never interrupted.
        log: see `training.train`; its rows also have `tokens_per_second`.
        device: where it runs; `cuda` is the GPU of the process's own where there are several.
        precision: `fp32`, or `bf16` for autocast with fp32 parameters.
        micro_batch: rows of `context` computed at once, None = all; less memory, and other last bits.
        scratch: a folder for this call, and the same one resumed, to keep the packed documents in; they are read from there.

    Returns:
        (model in evaluation mode, figures): `curve`, rows of `step`, `loss` (nats per token), `duration_loss`, `grad_norm`, `lr` and, in
        those where dev was scored, `nll_per_unit` and `bits_per_second`; `steps` made and `tokens` seen; with dev `nll_per_unit` and
        `bits_per_second` at the end (see `evaluate`), `unigram_nll_per_unit` and `ngram_nll_per_unit` by order, of
        n-grams of the first ten million tokens.

    Raises:
        ContractError: units of another kind than `contract`, or one without n_units.
        DeviceError: the device is unknown or not there, or cannot train in this precision.
        TrainingError: not one budget of the two, an unknown preset, precision or schedule, no units, a row longer than a batch,
            fewer rows in a batch than processes; the loss became NaN.
    """
    if contract.n_units is None:
        raise ContractError("the number of units is unknown; declare n_units with --contract")
    if (steps is None) == (minutes is None):
        raise TrainingError("a budget is needed, in steps or in minutes; give one of the two")
    if minutes is not None and (not 0 < minutes < math.inf or size() > 1):
        raise TrainingError(
            f"minutes is {minutes} and {size()} processes train; it must be above 0, in one process: give steps"
        )
    if preset not in PRESETS:
        raise TrainingError(f"preset is {preset!r}; known: {', '.join(PRESETS)}")
    if schedule not in ("cosine", "inverse_sqrt"):
        raise TrainingError(f"schedule is {schedule!r}; known: cosine, inverse_sqrt")
    if batch_tokens < context:
        raise TrainingError(f"batch_tokens {batch_tokens} is less than one row of context {context}")
    if start is not None and context > start.config.context:
        raise TrainingError(
            f"context {context} is longer than the {start.config.context} tokens that the start can see"
        )
    device = place(device)
    check_training(device, precision)
    with fork_rng(device):
        torch.manual_seed(seed)
        fresh = LMConfig(n_units=contract.n_units, context=context, **PRESETS[preset])
        model = UnitLM(fresh, contract, dropout=dropout) if start is None else start
    model.to(device).train()
    held_out = [d for d in _taken(model, dev or [], "the dev units") if len(d)]
    with first_before_others() if scratch else nullcontext():
        taken = _taken(model, sequences, "the training units")
        folder = scratch and scratch / "documents"
        documents = Documents.pack(taken, n_units=model.n_units, max_duration=model.config.max_duration, folder=folder)

    rows = batch_tokens // context
    packer = Packer(documents, context=context, seed=seed)
    optimiser = torch.optim.AdamW(decay_groups(model, weight_decay), lr=lr, betas=(0.9, 0.95), fused=True)

    clock = None if minutes is None else Clock(60 * minutes)
    whole_way = CLOCKED if steps is None else steps
    warmup = max(1, round(0.03 * whole_way))

    def rate(n: int) -> float:
        if clock:
            n = min(whole_way - 1, whole_way * clock.fraction)
        if schedule == "inverse_sqrt":
            return inverse_sqrt(n, peak=lr, warmup=warmup)
        return warmup_cosine(n, steps=whole_way, peak=lr, warmup=warmup, floor=lr * 0.05)

    def part_losses(whole: Batch, part: slice) -> dict[str, Tensor]:
        batch = Batch(*(t[part].to(device) for t in whole))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            units, durations = losses(model, batch, whole=whole)
        return {"loss": units + DURATION_WEIGHT * durations, "unit_loss": units, "duration_loss": durations}

    def step(n: int) -> dict[str, Tensor]:
        whole = packer.batch(n * rows, rows)
        figures = update(
            optimiser, lambda part: part_losses(whole, part), rows=rows, lr=rate(n), clip=1.0, micro_batch=micro_batch
        )
        figures["loss"] = figures.pop("unit_loss")  # what is reported is comparable to `nll_per_unit`
        return figures

    log_every = 50 if steps is None else min(50, max(1, steps // 10))
    dev_every = log_every * max(1, round(whole_way / 10 / log_every))
    tenths = 0  # of a budget of time

    def measure(n: int) -> dict[str, float]:
        nonlocal tenths
        before, tenths = tenths, int(10 * clock.fraction) if clock else 0
        due = tenths > before if clock else n % dev_every == 0 or n == steps
        return evaluate(model, held_out) if held_out and due else {}

    curve = train(
        step,
        {"model": model, "optimiser": optimiser} | ({"clock": clock} if clock else {}),
        steps=steps,
        until=clock and (lambda: clock.fraction >= 1),
        seed=seed,
        checkpoint=checkpoint,
        measure=measure,
        log=log,
        log_every=log_every,
        speed=("tokens_per_second", rows * context),
        device=device,
    )
    made = int(curve[-1]["step"]) if curve else 0
    figures: dict[str, Any] = {"curve": curve, "steps": made, "tokens": made * rows * context}
    if held_out:
        figures |= evaluate(model, held_out)
        figures["unigram_nll_per_unit"] = unigram_nll(documents, held_out, model.n_units)
        figures["ngram_nll_per_unit"] = ngram_nll(documents.units(COUNTED), held_out, model.n_units)
    return model.eval(), figures


def _taken(model: UnitDecoder, sequences: Iterable[Units], what: str) -> Iterator[Units]:
    """Deduplicated, under the model's contract."""
    return (model.checked(s, what).deduplicated() for s in sequences)
