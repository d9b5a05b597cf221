"""The loop that every training runs in: resumable at any moment, with the same result as if it had never stopped.

The randomness of step n is a function of (seed, n) alone, never of what ran before. So the position in the data and the
state of the generators need not be kept: a checkpoint is the parameters, the optimiser and the number of steps done.

What a step learns from is its whole batch. How the batch is split, over processes and into micro-batches, is a matter of the machine: it
changes the last bits of a sum and nothing else. So every process draws the plan of the whole batch, and computes its own rows of it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless import devices
from textless.errors import TrainingError
from textless.files import atomic, sync
from textless.training import distributed

CHECKPOINT_SECONDS = 10.0
CHECKPOINT_STEPS = 200


def train(
    step: Callable[[int], dict[str, Any]],
    state: dict[str, Any],
    *,
    steps: int | None,
    seed: int,
    until: Callable[[], bool] | None = None,
    checkpoint: Path | None = None,
    measure: Callable[[int], dict[str, float]] | None = None,
    log: Callable[[int, dict[str, float]], None] | None = None,
    log_every: int = 50,
    speed: tuple[str, float] | None = None,
    device: str = "cpu",
) -> list[dict[str, float]]:
    """Call `step(n)` for n = 0 … steps - 1, or until `until` says so after a step, and return the training curve.

    Args:
        step: one update; returns its figures (floats or scalar tensors), which are averaged over `log_every` steps.
            Torch's generators are seeded from (seed, n) before the call; draw data with `rng(seed, n)`.
        state: everything with `state_dict` / `load_state_dict` that the training changes: modules, optimisers.
        checkpoint: file to resume from and to write to, every 10 seconds or 200 steps, whichever is later. Of several processes the
            first writes it, and all resume from it.
        measure: called with the step before each row; its figures join the row.
        log: called in every process with the step and the row of averaged figures; with `speed` in it, which the curve never has: it
            is a clock.
        speed: name of a figure, and how much of it a step does: the row then says how much was done a second since the last one.
        device: where `step` computes; its generators are restored at the end.

    Returns:
        [{"step", …figures}], one row per `log_every` steps; the part before a resumption included.

    Raises:
        TrainingError: a figure became NaN or infinite; the processes do not see the same checkpoint; it is damaged, or of another
            training. It is kept.
    """
    start, curve = 0, []
    if checkpoint is not None and checkpoint.exists():
        start, curve = _resume(checkpoint, state)
    distributed.check_same(start, "the step to resume from")

    recent: list[dict[str, Any]] = []
    kept_at, kept_step = time.monotonic(), start
    with devices.fork_rng(device):
        since, begun = start, time.monotonic()
        for n in itertools.count(start) if steps is None else range(start, steps):
            torch.manual_seed(_mix(seed, n))
            recent.append(step(n))
            last = n + 1 == steps or (until is not None and until())
            if (n + 1) % log_every == 0 or last:
                row = {"step": float(n + 1), **_average(recent)}
                rate = {speed[0]: speed[1] * (n + 1 - since) / (time.monotonic() - begun)} if speed else {}
                if not all(map(math.isfinite, row.values())):
                    raise TrainingError(f"training diverged at step {n + 1}: {row}; lower the learning rate")
                if measure:
                    row |= measure(n + 1)
                curve.append(row)
                recent = []
                if log:
                    log(n + 1, row | rate)
                # Only between rows, so that a resumed curve is the curve of an undisturbed run.
                due = n + 1 - kept_step >= CHECKPOINT_STEPS and time.monotonic() - kept_at >= CHECKPOINT_SECONDS
                if checkpoint is not None and due and not last:
                    if distributed.rank() == 0:
                        _save(checkpoint, n + 1, state, curve)
                    kept_at, kept_step = time.monotonic(), n + 1
                since, begun = n + 1, time.monotonic()
            if last:
                break
    return curve


def _save(path: Path, step: int, state: dict[str, Any], curve: list[dict[str, float]]) -> None:
    with atomic(path) as temporary:
        torch.save({"step": step, "state": {k: v.state_dict() for k, v in state.items()}, "curve": curve}, temporary)
        sync(temporary)  # else a power cut could leave neither this one nor the last


def _resume(path: Path, state: dict[str, Any]) -> tuple[int, list[dict[str, float]]]:
    """Load a checkpoint into `state`; returns the steps done and the curve.

    One that is damaged is not passed over: days of training may be in it, and a copy of it somewhere. Any other failure, such as too
    little memory, says nothing of the file and is passed on.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself compares no checksums
            damaged = archive.testzip() is not None
    except (OSError, MemoryError):
        raise
    except Exception:  # zipfile has no class of its own for all that can be wrong with an archive
        damaged = True
    if damaged:
        raise TrainingError(
            f"{path}: this checkpoint is damaged; bring it back from a copy, or remove it to start over"
        )
    try:
        # To the CPU first: on a GPU it would need its memory twice, and of several processes each would load it to the first one's GPU.
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if set(saved["state"]) != set(state):
            raise KeyError(*saved["state"])
        for name, part in state.items():
            part.load_state_dict(saved["state"][name])
        return saved["step"], saved["curve"]
    except (pickle.UnpicklingError, KeyError, TypeError, ValueError, RuntimeError) as e:
        # RuntimeError is also the class of CUDA's errors and of memory that cannot be had.
        if isinstance(e, RuntimeError) and not str(e).startswith(
            ("Error(s) in loading state_dict", "PytorchStreamReader")
        ):
            raise
        raise TrainingError(
            f"{path}: this checkpoint is of another model or training; give the options that it was made with, or remove it to start over"
        ) from None


def update(
    optimiser: torch.optim.Optimizer,
    losses: Callable[[slice], dict[str, Tensor]],
    *,
    rows: int,
    lr: float,
    clip: float,
    micro_batch: int | None = None,
) -> dict[str, Tensor]:
    """One step of the optimiser on a batch of `rows` rows, of which this process computes its own, `micro_batch` at a time.

    Args:
        losses: from some rows of the batch to figures, tensors of any shape. Each is a sum over these rows, divided by what the whole
            batch holds, so that figures add up over the parts. The gradient is that of `loss`. Torch's generators are as they were
            when `update` was called, for each part anew.
        lr: of this step.
        clip: largest norm of the gradient; a longer one is scaled to it.

    Returns:
        the figures of the whole batch, the same in every process, with `grad_norm` (before clipping) and `lr`.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    optimiser.zero_grad(set_to_none=True)
    total: dict[str, Tensor] = {}
    for part in distributed.parts(rows, micro_batch):
        torch.manual_seed(torch.initial_seed())
        with _part_of_batch(part, rows):
            figures = losses(part)
            figures["loss"].backward()
        for name, figure in figures.items():
            figure = figure.detach().float()
            total[name] = total[name] + figure if name in total else figure.clone()
    distributed.add([p.grad for p in parameters if p.grad is not None])
    distributed.add(list(total.values()))
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()
    return {**total, "grad_norm": norm.detach(), "lr": torch.tensor(lr)}


class Clock:
    """How much of a budget of time a training has used, over all its interruptions.

    Args:
        seconds: the budget.
    """

    def __init__(self, seconds: float):
        self.seconds, self._before, self._since = seconds, 0.0, time.monotonic()

    @property
    def fraction(self) -> float:
        """Of the budget that is used, above 1 where it is used up."""
        return (self._before + time.monotonic() - self._since) / self.seconds

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.fraction * self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before, self._since = state["spent"], time.monotonic()


class Average:
    """Exponential moving average of a model's weights (EMA): what a training that does not settle comes to.

    The first steps count less: the decay of step n is (n + 1) / (n + 10) at most (as in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        self.model, self.decay, self.steps = model, decay, 0
        self.weights = {name: w.detach().clone() for name, w in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (self.steps + 1) / (self.steps + 10))
        self.steps += 1
        now = self.model.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [now[name] for name in self.weights], 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name, w in self.weights.items():
            w.copy_(state["weights"][name])


_part: tuple[slice, int] | None = (
    None  # the rows of the batch that are computed, and how many it has; None: it is whole
)


@contextlib.contextmanager
def _part_of_batch(rows: slice, whole: int) -> Iterator[None]:
    global _part
    _part = (rows, whole) if rows.stop - rows.start < whole else None
    try:
        yield
    finally:
        _part = None


class Dropout(nn.Dropout):
    """Dropout of (rows, …) whose noise does not depend on how `update` splits the batch: it is drawn for all rows, in every part.

    On a CPU the probability is rounded to 1/256: a byte decides on each value, many times faster than torch's own draws.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        rows, whole = _part or (slice(None), len(x))
        shape = (whole, *x.shape[1:])
        if x.is_cuda:
            return x * F.dropout(x.new_ones(shape), self.p)[rows]
        drop = min(round(256 * self.p), 255)
        seed = int(torch.randint(2**62, ()))
        noise = np.frombuffer(bytearray(np.random.default_rng(seed).bytes(math.prod(shape))), np.uint8).reshape(shape)
        kept = (torch.from_numpy(noise)[rows] >= drop).to(x.dtype)
        return x * kept.mul_(256 / (256 - drop))


def _average(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {k: float(sum(float(r[k]) for r in rows) / len(rows)) for k in rows[-1]}


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def rng(seed: int, step: int) -> np.random.Generator:
    """The generator of one training step."""
    return np.random.default_rng((seed, step))


def warmup_cosine(step: float, *, steps: int, peak: float, warmup: int, floor: float = 0.0) -> float:
    """Learning rate of a step: linear to `peak` in `warmup` steps, then half a cosine down to `floor`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def inverse_sqrt(step: float, *, peak: float, warmup: int) -> float:
    """Learning rate of a step as fairseq's inverse_sqrt: linear to `peak` in `warmup` steps, then falling with the root of the step."""
    return peak * min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))


def perplexity(counts: Tensor) -> Tensor:
    """Of classes drawn as often as counted: e to their entropy, 1 where nothing was counted. (…, classes) → (…)."""
    return torch.special.entr(counts / counts.sum(-1, keepdim=True).clamp(min=1)).sum(-1).exp()


def decay_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: matrices decay; biases, gains and other vectors do not."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
