"""AdamW written out (Loshchilov and Hutter 2019, algorithm 2), and what every optimiser of a training was given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

KEPT = 4  # steps whose gradients and parameters are kept


class Record:
    """Of one optimiser: the learning rate of each step; of the first few the gradients and, before and after, the
    parameters.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.gradients: list[list[np.ndarray | None]] = []
        self.before: list[list[np.ndarray]] = []
        self.after: list[list[np.ndarray]] = []

    def norms(self) -> list[float]:
        """Of the gradients of a step, all of them together: as they were given to the optimiser."""
        return [
            math.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in step if g is not None))
            for step in self.gradients
        ]


@contextmanager
def recorded() -> Iterator[list[Record]]:
    """The optimisers that make a step in the block, in the order of their first."""
    found: list[Record] = []
    records: dict[torch.optim.Optimizer, Record] = {}

    def copies(tensors: list[torch.Tensor | None]) -> list[np.ndarray | None]:
        return [None if t is None else t.detach().numpy().copy() for t in tensors]

    def before(optimiser: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if optimiser not in records:
            records[optimiser] = Record()
            found.append(records[optimiser])
        record, parameters = records[optimiser], [p for group in optimiser.param_groups for p in group["params"]]
        record.rates.append(optimiser.param_groups[0]["lr"])
        if len(record.rates) <= KEPT:
            record.before.append(copies(parameters))
            record.gradients.append(copies([p.grad for p in parameters]))

    def after(optimiser: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if len(records[optimiser].rates) <= KEPT:
            records[optimiser].after.append(copies([p for group in optimiser.param_groups for p in group["params"]]))

    hooks = register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def check(record: Record, *, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    """The steps that are kept are AdamW's, in double precision; matrices decay, and vectors do not.

    The optimiser computes in float32: a parameter is rounded a few times a step, and what is taken from it is off by a
    few rounding errors of the moments, a part in a million.
    """
    first, second = betas
    for i, start in enumerate(record.before[0]):
        decay = weight_decay if start.ndim >= 2 else 0.0
        mean, square = np.zeros(start.shape), np.zeros(start.shape)
        steps = zip(record.rates, record.before, record.gradients, record.after, strict=False)
        for n, (rate, before, gradients, after) in enumerate(steps, 1):
            if (g := gradients[i]) is None:
                assert np.array_equal(before[i], after[i])
                continue
            g = g.astype(np.float64)
            mean, square = first * mean + (1 - first) * g, second * square + (1 - second) * g**2
            step = mean / (1 - first**n) / (np.sqrt(square / (1 - second**n)) + eps)
            expected = before[i] * (1 - rate * decay) - rate * step
            assert (np.abs(after[i] - expected) <= 4 * 2**-24 * np.abs(expected) + 1e-5 * rate).all(), (
                f"parameter {i}, step {n}"
            )
