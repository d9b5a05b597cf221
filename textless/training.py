"""The loop that every training runs in: resumable at any moment, with the same result as if it had never stopped.

The randomness of step n is a function of (seed, n) alone, never of what ran before. So the position in the data and the
state of the generators need not be kept: a checkpoint is the parameters, the optimiser and the number of steps done.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textless.errors import TrainingError

CHECKPOINT_SECONDS = 10.0
CHECKPOINT_STEPS = 200


def train(
    step: Callable[[int], dict[str, Any]],
    state: dict[str, Any],
    *,
    steps: int,
    seed: int,
    checkpoint: Path | None = None,
    log: Callable[[int, dict[str, float]], None] | None = None,
    log_every: int = 50,
) -> list[dict[str, float]]:
    """Call `step(n)` for n = 0 … steps - 1 and return the training curve.

    Args:
        step: one update; returns its figures (floats or scalar tensors), which are averaged over `log_every` steps.
            Torch's generators are seeded from (seed, n) before the call; draw data with `rng(seed, n)`.
        state: everything with `state_dict` / `load_state_dict` that the training changes: modules, optimisers.
        checkpoint: file to resume from and to write to, every 10 seconds or 200 steps, whichever is later.
        log: called with the step and the row of averaged figures; what it adds to the row stays in the curve.

    Returns:
        [{"step", …figures}], one row per `log_every` steps; the part before a resumption included.

    Raises:
        TrainingError: a figure became NaN or infinite. The last checkpoint is kept.
    """
    start, curve = 0, []
    if checkpoint is not None and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for name, part in state.items():
            part.load_state_dict(saved["state"][name])
        start, curve = saved["step"], saved["curve"]

    recent: list[dict[str, Any]] = []
    kept_at, kept_step = time.monotonic(), start
    with torch.random.fork_rng():
        for n in range(start, steps):
            torch.manual_seed(_mix(seed, n))
            recent.append(step(n))
            if (n + 1) % log_every == 0 or n + 1 == steps:
                row = {"step": float(n + 1), **_average(recent)}
                if not all(map(math.isfinite, row.values())):
                    raise TrainingError(f"training diverged at step {n + 1}: {row}; lower the learning rate")
                curve.append(row)
                recent = []
                if log:
                    log(n + 1, row)
                # Only between rows, so that a resumed curve is the curve of an undisturbed run.
                due = n + 1 - kept_step >= CHECKPOINT_STEPS and time.monotonic() - kept_at >= CHECKPOINT_SECONDS
                if checkpoint is not None and due and n + 1 < steps:
                    _save(checkpoint, n + 1, state, curve)
                    kept_at, kept_step = time.monotonic(), n + 1
    return curve


def _save(path: Path, step: int, state: dict[str, Any], curve: list[dict[str, float]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save({"step": step, "state": {k: v.state_dict() for k, v in state.items()}, "curve": curve}, temporary)
    temporary.replace(path)


def _average(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {k: float(sum(float(r[k]) for r in rows) / len(rows)) for k in rows[-1]}


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def rng(seed: int, step: int) -> np.random.Generator:
    """The generator of one training step."""
    return np.random.default_rng((seed, step))


def warmup_cosine(step: int, *, steps: int, peak: float, warmup: int, floor: float = 0.0) -> float:
    """Learning rate of a step: linear to `peak` in `warmup` steps, then half a cosine down to `floor`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def decay_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: matrices decay; biases, gains and other vectors do not."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
