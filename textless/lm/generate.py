"""Continuation by sampling: units one after the other, each with its duration."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from textless.errors import ContractError
from textless.lm.model import KVCache
from textless.units.types import Units

if TYPE_CHECKING:
    from textless.lm.model import UnitLM

BATCH = 16  # prompts that are continued together


class Continuation:
    """One prompt on its way: what was added, how much is wanted, and the generator that decides."""

    def __init__(self, prompt: Units, *, end: int, frames: int | None, max_units: int | None, seed: int) -> None:
        self.prompt, self.end, self.frames_left, self.units_left = prompt, end, frames, max_units
        self.deduplicated = prompt.durations is not None
        self.generator = np.random.default_rng(seed)
        self.tokens = [end, *prompt.units.tolist()]  # all that was read or is to be read
        self.units: list[int] = []
        self.durations: list[int] = []
        self.ended = False

    @property
    def done(self) -> bool:
        return self.ended or self.frames_left == 0 or self.units_left == 0

    @property
    def most(self) -> int:
        """Units that may still be added at most."""
        return min(n for n in (self.frames_left, self.units_left) if n is not None)

    def add_unit(self, logits: np.ndarray, temperature: float, top_k: int | None) -> None:
        """Draw what comes next from (n_units + 1,) logits."""
        logits = logits.astype(np.float64)
        if self.frames_left is not None:
            logits[self.end] = -np.inf
        if self.deduplicated and self.tokens[-1] != self.end:
            logits[self.tokens[-1]] = -np.inf
        unit = draw(logits, temperature, top_k, self.generator)
        if unit == self.end:
            self.ended = True
            return
        self.tokens.append(unit)
        self.units.append(unit)

    def add_duration(self, logits: np.ndarray, temperature: float) -> None:
        """Draw the duration of the unit just added from (max_duration,) logits, and cut it where the asked length ends."""
        duration = 1 + draw(logits.astype(np.float64), temperature, None, self.generator) if self.deduplicated else 1
        if self.frames_left is not None:
            duration = min(duration, self.frames_left)
            self.frames_left -= duration
        if self.units_left is not None:
            self.units_left -= 1
        self.durations.append(duration)

    def result(self, only_new: bool) -> Units:
        new = Units(np.array(self.units, np.int64), np.array(self.durations, np.int64) if self.deduplicated else None, self.prompt.contract)
        return new if only_new else self.prompt + new


def draw(logits: np.ndarray, temperature: float, top_k: int | None, generator: np.random.Generator) -> int:
    """An index of (K,) float64 logits, -inf = never. Temperature 0: the largest."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        best = np.argpartition(-logits, top_k - 1)[:top_k]
        kept = np.full_like(logits, -np.inf)
        kept[best] = logits[best]
        logits = kept
    p = np.exp((logits - logits.max()) / temperature)
    cumulative = np.cumsum(p)
    # Never past the last index of positive probability, even when the product rounds up to the whole sum.
    return int(min(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"), np.flatnonzero(p)[-1]))


def generate(
    lm: UnitLM,
    prompts: list[Units],
    *,
    seconds: float | None,
    max_new_units: int | None,
    temperature: float,
    top_k: int | None,
    seed: int,
    only_new: bool,
) -> list[Units]:
    """Continue each prompt; see `UnitLM.continue_units`. The prompts are already under the model's contract."""
    if seconds is None and max_new_units is None:
        raise ValueError("say how much to add: seconds or max_new_units")
    for name, value, least in (("seconds", seconds, 0), ("max_new_units", max_new_units, 0), ("top_k", top_k, 1)):
        if value is not None and not least <= value < float("inf"):
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    frames = None
    if seconds is not None:
        if lm.frame_rate is None:
            raise ContractError("the frame rate of the language model's units is unknown; ask for max_new_units instead of seconds")
        frames = round(seconds * lm.frame_rate)
    todo = [Continuation(p, end=lm.n_units, frames=frames, max_units=max_new_units, seed=seed + i) for i, p in enumerate(prompts)]
    with lm.evaluating():
        for i in range(0, len(todo), BATCH):
            _continue(lm, todo[i : i + BATCH], temperature, top_k)
    return [c.result(only_new) for c in todo]


def _continue(lm: UnitLM, batch: list[Continuation], temperature: float, top_k: int | None) -> None:
    context, half = lm.config.context, lm.config.context // 2
    if all(c.done for c in batch):
        return
    cache = KVCache(lm.config, len(batch), min(context, max(len(c.tokens) + c.most for c in batch)), lm.device)
    hidden = torch.empty(len(batch), lm.config.dim, device=lm.device)

    def read(i: int, tokens: list[int]) -> None:
        row = cache.row(i)
        row.filled.zero_()
        hidden[i] = lm(torch.tensor([tokens], device=lm.device), cache=row)[0, -1]

    for i, c in enumerate(batch):
        if len(c.tokens) > context:
            message = f"a prompt of {len(c.prompt)} units is longer than the model's context of {context}; reading its last {half}"
            warnings.warn(message, UserWarning, stacklevel=4)
        read(i, c.tokens if len(c.tokens) <= context else c.tokens[-half:])
    filled = cache.filled.tolist()

    while True:
        logits = lm.unit_logits(hidden).cpu().numpy()
        for c, row in zip(batch, logits, strict=True):
            if not c.done:
                c.add_unit(row, temperature, top_k)
        # A row that is done or full rides along at place 0, and nobody reads what it says there; a full one is then read anew.
        full = [i for i, c in enumerate(batch) if not c.done and filled[i] == context]
        cache.filled[[i for i, c in enumerate(batch) if c.done or i in full]] = 0
        hidden = lm(torch.tensor([c.tokens[-1:] for c in batch], device=lm.device), cache=cache)[:, 0]
        for i in full:
            read(i, batch[i].tokens[-half:])
        filled = cache.filled.tolist()
        logits = lm.duration_logits(hidden).cpu().numpy()
        for c, row in zip(batch, logits, strict=True):
            if not c.done:
                c.add_duration(row, temperature)
        if all(c.done for c in batch):
            return
