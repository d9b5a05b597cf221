"""The loop that every training runs in: resumable at any moment, with the same result as if it had never stopped.

The randomness of step n is a function of (seed, n) alone, never of what ran before. So the position in the data and the
state of the generators need not be kept: a checkpoint is the parameters, the optimiser and the number of steps done.

An update depends on its whole batch. How the batch is split, over processes and into micro-batches, depends on the
machine and changes the last bits of a sum, nothing else. So every process draws the whole batch and computes its own
rows.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless import devices
from textless.checks import check_fields
from textless.errors import TrainingError
from textless.files import atomic, sync
from textless.training import distributed
from textless.training.configs import TrainConfig

CHECKPOINT_SECONDS = 10.0
CHECKPOINT_STEPS = 200

Row = dict[str, float]  # of a training curve: `step`, and metrics averaged since the row before
Log = Callable[[int, Row], None]
Config = TypeVar("Config", bound=TrainConfig)


class Stateful(Protocol):
    """What a checkpoint holds: modules, optimisers, averages, clocks."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def configure(kind: type[Config], config: Config | None, settings: Mapping[str, Any]) -> tuple[Config, str]:
    """The checked configuration of a training, and the device of this process.

    Args:
        settings: fields by name; they replace those of `config`.

    Raises:
        TrainingError: a field holds what its annotation does not allow, or two do not go together.
        DeviceError: the device is unknown, missing, or has no such precision.
    """
    config = kind(**settings) if config is None else replace(config, **settings)
    device = distributed.place(config.device)
    check_fields(config, TrainingError)
    config.check()
    devices.check_training(device, config.precision)
    return config, device


def autocast(device: str, precision: str) -> torch.autocast:
    """A block in bfloat16 where the precision is `bf16`."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def train(
    step: Callable[[int], Mapping[str, Any]],
    state: Mapping[str, Stateful],
    *,
    steps: int | Clock,
    seed: int,
    checkpoint: Path | None = None,
    measure: Callable[[int], Row] | None = None,
    log: Log | None = None,
    log_every: int = 50,
    speed: tuple[str, float] | None = None,
    device: str = "cpu",
) -> list[Row]:
    """Call `step(n)` for n = 0, 1, … and return the training curve.

    It has ten parameters because rows, checkpoints and seeds interact here and nowhere else.

    Args:
        step: one update; returns its metrics, floats or scalar tensors, to be averaged over `log_every` steps. Torch's
            generators are seeded from (seed, n) before the call; draw data with `rng(seed, n)`.
        state: everything that the training changes.
        steps: number of steps, or a clock: the last step is the one after which its time is over.
        checkpoint: file to resume from and to write to, every 10 seconds or 200 steps, whichever is later. The first
            process writes it, and all resume from it.
        measure: called with the number of steps before each row; its metrics join the row.
        log: called in every process with the number of steps and the row, which then also has `speed`.
        speed: a metric and its amount per step, logged per second.
        device: where `step` computes; its generators are restored at the end.

    Returns:
        one row per `log_every` steps, those before a resumption included.

    Raises:
        TrainingError: a metric is not finite; processes see different checkpoints; the checkpoint, which is kept, is
            damaged or of another training.
    """
    saver = _Saver(checkpoint, {**state, "clock": steps} if isinstance(steps, Clock) else state)
    start, curve = saver.resume()
    distributed.check_same(start, "the step to resume from")
    recent: list[Mapping[str, Any]] = []
    with devices.fork_rng(device):
        since, begun = start, time.monotonic()
        for n in itertools.count(start) if isinstance(steps, Clock) else range(start, steps):
            torch.manual_seed(_mix(seed, n))
            recent.append(step(n))
            last = steps.fraction >= 1 if isinstance(steps, Clock) else n + 1 == steps
            if last or (n + 1) % log_every == 0:
                row, recent = _average(n + 1, recent), []
                rate = {speed[0]: speed[1] * (n + 1 - since) / (time.monotonic() - begun)} if speed else {}
                if measure:
                    row |= measure(n + 1)
                curve.append(row)
                if log:
                    log(n + 1, row | rate)
                if not last:  # only between rows, so that a resumed curve is the curve of an undisturbed run
                    saver.save_if_due(n + 1, curve)
                since, begun = n + 1, time.monotonic()
            if last:
                break
    return curve


def _average(step: int, metrics: Sequence[Mapping[str, Any]]) -> Row:
    """A row of the curve. Raises TrainingError for NaN and infinity."""
    means = {name: float(sum(float(m[name]) for m in metrics) / len(metrics)) for name in metrics[-1]}
    row = {"step": float(step), **means}
    if not all(map(math.isfinite, row.values())):
        raise TrainingError(f"training diverged at step {step}: {row}; lower the learning rate")
    return row


class _Saver:
    """Writes and reads the checkpoint of a training."""

    def __init__(self, path: Path | None, state: Mapping[str, Stateful]) -> None:
        self.path, self.state = path, state
        self.saved_at, self.saved_step = time.monotonic(), 0

    def resume(self) -> tuple[int, list[Row]]:
        """The number of steps done and the curve, 0 and none without a checkpoint."""
        curve: list[Row] = []
        if self.path is not None and self.path.exists():
            self.saved_step, curve = _resume(self.path, self.state)
        return self.saved_step, curve

    def save_if_due(self, step: int, curve: list[Row]) -> None:
        due = step - self.saved_step >= CHECKPOINT_STEPS and time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS
        if self.path is not None and due:
            if distributed.rank() == 0:
                _save(self.path, step, self.state, curve)
            self.saved_at, self.saved_step = time.monotonic(), step


def _save(path: Path, step: int, state: Mapping[str, Stateful], curve: list[Row]) -> None:
    with atomic(path) as temporary:
        torch.save({"step": step, "state": {k: v.state_dict() for k, v in state.items()}, "curve": curve}, temporary)
        sync(temporary)  # else a power cut could leave neither this one nor the last


def _resume(path: Path, state: Mapping[str, Stateful]) -> tuple[int, list[Row]]:
    """Load a checkpoint into `state`; returns the steps done and the curve.

    A damaged one is an error and not skipped: days of training may be in it, and a copy may exist. Any other failure,
    such as too little memory, says nothing about the file and is passed on.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself compares no checksums
            damaged = archive.testzip() is not None
    except (OSError, MemoryError):
        raise
    except Exception:  # zipfile has no one class for everything that can be wrong with an archive
        damaged = True
    if damaged:
        raise TrainingError(f"{path}: this checkpoint is damaged; restore it from a copy, or remove it to start over")
    try:
        # To the CPU first: on a GPU it would need its memory twice, and each of several processes would load it to the
        # first one's GPU.
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if set(saved["state"]) != set(state):
            raise KeyError(*saved["state"])
        for name, part in state.items():
            part.load_state_dict(saved["state"][name])
        return saved["step"], saved["curve"]
    except (pickle.UnpicklingError, KeyError, TypeError, ValueError, RuntimeError) as e:
        # RuntimeError is also the class of CUDA's errors and of failed allocations.
        if isinstance(e, RuntimeError) and not str(e).startswith(
            ("Error(s) in loading state_dict", "PytorchStreamReader")
        ):
            raise
        raise TrainingError(
            f"{path}: this checkpoint is of another model or training; use the options that it was written with, "
            "or remove it to start over"
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
    """One optimiser step on a batch of `rows` rows, of which this process computes its own, `micro_batch` at a time.

    Args:
        losses: some rows of the batch → metrics, tensors of any shape. Each is a sum over these rows divided by the
            count of the whole batch, so that metrics of parts add up to that of the batch. The gradient is that of
            `loss`. Before each part, torch's generators are reset to their state at the call of `update`.
        lr: learning rate of this step; groups of the optimiser may have an `lr_scale`, a factor of it.
        clip: maximum gradient norm; a longer gradient is scaled to it.

    Returns:
        the metrics of the whole batch, the same in every process, with `grad_norm` (before clipping) and `lr`.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    optimiser.zero_grad(set_to_none=True)
    total: dict[str, Tensor] = {}
    for part in distributed.parts(rows, micro_batch):
        torch.manual_seed(torch.initial_seed())
        with _part_of_batch(part, rows):
            metrics = losses(part)
            metrics["loss"].backward()
        for name, metric in metrics.items():
            metric = metric.detach().float()
            total[name] = total[name] + metric if name in total else metric.clone()
    distributed.add([p.grad for p in parameters if p.grad is not None])
    distributed.add(list(total.values()))
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    optimiser.step()
    return {**total, "grad_norm": norm.detach(), "lr": torch.tensor(lr)}


class Clock:
    """A budget of time for a training, interruptions excluded.

    Args:
        seconds: the budget.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._before, self._since = seconds, 0.0, time.monotonic()

    @property
    def fraction(self) -> float:
        """The share of the budget that is used, above 1 when it is exceeded."""
        return (self._before + time.monotonic() - self._since) / self.seconds

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.fraction * self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before, self._since = state["spent"], time.monotonic()


class Average:
    """Exponential moving average (EMA) of a model's weights, for trainings whose weights do not settle.

    The first steps count less: the decay of step n is (n + 1) / (n + 10) at most (as in TensorFlow's
    ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
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


_part: tuple[slice, int] | None = None  # the rows that are computed and the size of their batch; None: the whole batch


@contextlib.contextmanager
def _part_of_batch(rows: slice, whole: int) -> Iterator[None]:
    global _part
    _part = (rows, whole) if rows.stop - rows.start < whole else None
    try:
        yield
    finally:
        _part = None


class Dropout(nn.Dropout):
    """Dropout of (rows, …) whose noise does not depend on how `update` splits the batch: parts draw it for all rows.

    On a CPU the probability is rounded to 1/256: one random byte per value, many times faster than torch's own draws.
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
    """Learning rate of a step (fairseq's inverse_sqrt): linear to `peak` in `warmup` steps, then ~ 1 / √step."""
    return peak * min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of a distribution over classes, given as counts; 1 without counts. (…, classes) → (…)."""
    return torch.special.entr(counts / counts.sum(-1, keepdim=True).clamp(min=1)).sum(-1).exp()


def crop_speed(lengths: np.ndarray, *, crop: int, batch: int, frame_rate: float) -> tuple[str, float]:
    """`speed` of a training on crops of files of `lengths` frames: seconds of audio per step, without padding."""
    mean = float(np.average(np.minimum(crop, lengths), weights=lengths))
    return "audio_hours_per_hour", batch * mean / frame_rate


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: matrices decay; biases, gains and other vectors do not."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
