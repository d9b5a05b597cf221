"""Continuation by sampling: units one after the other, each with its duration."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from textless.errors import ContractError
from textless.lm.cache import KVCache
from textless.types import Units

if TYPE_CHECKING:
    from textless.lm.decoder import UnitDecoder

BATCH = 16  # continuations that are sampled together
FULL = 0.7  # prompts are read together when so much of the rectangle around them is full


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next unit is drawn. Durations are drawn at the same temperature, unrestricted.

    Attributes:
        temperature: 0 takes the likeliest unit each time.
        top_k: only the k likeliest.
        top_p: only the likeliest that together have this probability (Holtzman et al. 2020, arXiv:1904.09751).
        min_p: only those with at least this share of the likeliest one's probability (Nguyen et al. 2024, arXiv:2407.01082).
        repetition_penalty: the logits of units that were read or added before are divided by it where positive, multiplied where
            negative (Keskar et al. 2019, arXiv:1909.05858); 1 changes nothing.
        no_repeat_ngram: never complete n units in a row that stood there before.

    They apply in the order of `generate` in transformers: repetition_penalty, no_repeat_ngram, temperature, top_k, top_p, min_p. So top_p
    counts probabilities among what top_k left, and min_p removes from what top_p left. What is left is drawn in proportion.

    Raises ValueError for numbers out of range.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int | None = None

    def __post_init__(self) -> None:
        infinity = float("inf")
        for name, least, most in (
            ("temperature", 0, infinity),
            ("top_k", 1, infinity),
            ("top_p", 0, 1),
            ("min_p", 0, 1),
            ("repetition_penalty", 1e-9, infinity),
            ("no_repeat_ngram", 1, infinity),
        ):
            value = getattr(self, name)
            if value is not None and not (least <= value <= most and value < infinity):
                raise ValueError(
                    f"{name} must be {f'from {least} to {most}' if most < infinity else f'at least {least:g}'}, got {value}"
                )

    def draw(self, logits: np.ndarray, seen: Sequence[int], generator: np.random.Generator) -> int:
        """An index of (K,) float64 logits, -inf = never; `seen` are the tokens before it. Temperature 0: the largest."""
        p = self.weights(logits, seen)
        cumulative = np.cumsum(p)
        # Never past the last index of positive probability, even when the product rounds up to the whole sum.
        return int(
            min(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"), np.flatnonzero(p)[-1])
        )

    def weights(self, logits: np.ndarray, seen: Sequence[int]) -> np.ndarray:
        """(K,) float64 in proportion to which `draw` takes an index."""
        if self.repetition_penalty != 1 or self.no_repeat_ngram:
            logits = logits.copy()
        if self.repetition_penalty != 1:
            old = np.unique(np.asarray(seen, np.int64))
            logits[old] = np.where(
                logits[old] > 0, logits[old] / self.repetition_penalty, logits[old] * self.repetition_penalty
            )
        if self.no_repeat_ngram:
            banned = [u for u in completions(seen, self.no_repeat_ngram) if np.isfinite(logits[u])]
            if len(banned) < np.isfinite(logits).sum():  # when nothing else is left, a repeat it is
                logits[banned] = -np.inf
        if self.temperature == 0:
            return (np.arange(len(logits)) == logits.argmax()).astype(np.float64)
        if self.top_k is not None and self.top_k < len(logits):
            best = np.argpartition(-logits, self.top_k - 1)[: self.top_k]
            kept = np.full_like(logits, -np.inf)
            kept[best] = logits[best]
            logits = kept
        p = np.exp((logits - logits.max()) / self.temperature)
        if self.top_p is not None and self.top_p < 1:
            order = np.argsort(-p, kind="stable")
            before = np.cumsum(p[order])[:-1]  # the likeliest is always left
            p[order[1:][before >= self.top_p * p.sum()]] = 0
        if self.min_p is not None:
            p[p < self.min_p] = 0  # the likeliest has 1 here
        return p


def completions(seen: Sequence[int], n: int) -> list[int]:
    """The tokens that would complete an n-gram of `seen` again, after its last n - 1."""
    tokens = np.asarray(seen, np.int64)
    if len(tokens) < n:
        return []
    grams = np.lib.stride_tricks.sliding_window_view(tokens, n)
    same = (grams[:, :-1] == tokens[len(tokens) - n + 1 :]).all(1)
    return np.unique(grams[same, -1]).tolist()


class Continuation:
    """One prompt on its way: what was added, how much is wanted, and the generator that decides."""

    def __init__(
        self,
        prompt: Units,
        *,
        sampling: Sampling,
        end: int,
        frames: int | None,
        max_units: int | None,
        seed: int,
        durations: bool,
    ) -> None:
        self.prompt, self.sampling, self.end, self.frames_left, self.units_left = (
            prompt,
            sampling,
            end,
            frames,
            max_units,
        )
        self.deduplicated = prompt.durations is not None
        self.durations_wanted = self.deduplicated and durations
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

    def add_unit(self, logits: np.ndarray) -> None:
        """Draw what comes next from (n_units + 1,) logits."""
        logits = logits.astype(np.float64)
        if self.frames_left is not None:
            logits[self.end] = -np.inf
        if self.deduplicated and self.tokens[-1] != self.end:
            logits[self.tokens[-1]] = -np.inf
        unit = self.sampling.draw(logits, self.tokens[1:], self.generator)
        if unit == self.end:
            self.ended = True
            return
        self.tokens.append(unit)
        self.units.append(unit)

    def add_duration(self, logits: np.ndarray) -> None:
        """Draw the duration of the unit just added from (max_duration,) logits, and cut it where the asked length ends."""
        duration = 1
        if self.durations_wanted:
            duration += Sampling(temperature=self.sampling.temperature).draw(
                logits.astype(np.float64), (), self.generator
            )
        if self.frames_left is not None:
            duration = min(duration, self.frames_left)
            self.frames_left -= duration
        if self.units_left is not None:
            self.units_left -= 1
        self.durations.append(duration)

    def added(self, start: int = 0) -> Units:
        """What was added from the unit `start` on."""
        durations = np.array(self.durations[start:], np.int64) if self.durations_wanted else None
        return Units(np.array(self.units[start:], np.int64), durations, self.prompt.contract)

    def result(self, only_new: bool) -> Units:
        prompt = (
            self.prompt
            if self.durations_wanted == self.deduplicated
            else Units(self.prompt.units, None, self.prompt.contract)
        )
        return self.added() if only_new else prompt + self.added()


def begin(
    lm: UnitDecoder,
    prompts: Sequence[Units],
    seeds: Sequence[int],
    *,
    sampling: Sampling,
    seconds: float | None,
    max_new_units: int | None,
) -> list[Continuation]:
    """Continuations that are still empty. The prompts are already under the model's contract.

    Raises ValueError without a length or with one below 0, ContractError for `seconds` where the frame rate is unknown or the model does
    not give durations.
    """
    if seconds is None and max_new_units is None:
        raise ValueError("say how much to add: seconds or max_new_units")
    for name, value in (("seconds", seconds), ("max_new_units", max_new_units)):
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be at least 0, got {value}")
    frames = None
    if seconds is not None:
        if lm.frame_rate is None:
            raise ContractError(
                "the frame rate of the language model's units is unknown; ask for max_new_units instead of seconds"
            )
        if not lm.has_durations and any(p.durations is not None for p in prompts):
            raise ContractError(
                "this language model does not say how long units last; ask for max_new_units instead of seconds"
            )
        frames = round(seconds * lm.frame_rate)
    return [
        Continuation(
            p,
            sampling=sampling,
            end=lm.n_units,
            frames=frames,
            max_units=max_new_units,
            seed=seed,
            durations=lm.has_durations,
        )
        for p, seed in zip(prompts, seeds, strict=True)
    ]


def generate(lm: UnitDecoder, todo: Sequence[Continuation]) -> None:
    """Run continuations to their end, several at a time."""
    for i in range(0, len(todo), BATCH):
        for _ in advance(lm, todo[i : i + BATCH]):
            pass


def advance(lm: UnitDecoder, batch: Sequence[Continuation]) -> Iterator[None]:
    """Run continuations together, pausing after each unit (and duration) that they add."""
    if all(c.done for c in batch):
        return
    training = lm.training
    lm.eval()
    try:
        steps = _steps(lm, batch)
        while True:
            with torch.inference_mode():  # not around the pause: who goes on there must not find himself in it
                if next(steps, None) is None:
                    return
            yield
    finally:
        lm.train(training)


def _steps(lm: UnitDecoder, batch: Sequence[Continuation]) -> Iterator[bool]:
    context, half = lm.config.context, lm.config.context // 2
    cache = KVCache(lm.config, len(batch), min(context, max(len(c.tokens) + c.most for c in batch)), lm.device)
    hidden = torch.empty(len(batch), lm.config.dim, device=lm.device)

    def read(i: int, tokens: list[int]) -> None:
        row = cache.row(i)
        row.filled.zero_()
        hidden[i] = lm.read(torch.tensor([tokens], device=lm.device), row)[0, -1]

    for c in batch:
        if len(c.tokens) > context:
            message = f"a prompt of {len(c.prompt)} units is longer than the model's context of {context}; reading its last {half}"
            warnings.warn(message, UserWarning, stacklevel=5)
    tokens = [c.tokens if len(c.tokens) <= context else c.tokens[-half:] for c in batch]
    fresh = [
        i for i in range(len(batch)) if not i or tokens[i] != tokens[i - 1]
    ]  # the others are more samples of the same prompt
    longest = max(map(len, tokens))
    if len(fresh) == len(batch) and sum(map(len, tokens)) > FULL * longest * len(batch):
        # What fills up a row stands after its end: nobody before it looks there, and what it left in the cache is written over.
        padded = torch.tensor([t + [0] * (longest - len(t)) for t in tokens], device=lm.device)
        lengths = torch.tensor([len(t) for t in tokens], device=lm.device)
        hidden = lm.read(padded, cache)[torch.arange(len(batch), device=lm.device), lengths - 1]
        cache.filled.copy_(lengths)
    else:
        for i, t in enumerate(tokens):
            if i in fresh:
                read(i, t)
            else:
                cache.copy(i - 1, i)
                hidden[i] = hidden[i - 1]
    filled = cache.filled.tolist()

    while True:
        logits = lm.unit_logits(hidden).cpu().numpy()
        for c, row in zip(batch, logits, strict=True):
            if not c.done:
                c.add_unit(row)
        # A row that is done or full rides along at place 0, and nobody reads what it says there; a full one is then read anew.
        full = [i for i, c in enumerate(batch) if not c.done and filled[i] == context]
        if aside := [i for i, c in enumerate(batch) if c.done or i in full]:
            cache.filled[aside] = 0
        hidden = lm.read(torch.tensor([[c.tokens[-1]] for c in batch], device=lm.device), cache)[:, 0]
        for i in full:
            read(i, batch[i].tokens[-half:])
        filled = cache.filled.tolist()
        wanted = any(c.durations_wanted for c in batch)
        durations = lm.duration_logits(hidden).cpu().numpy() if wanted else [None] * len(batch)
        for c, row in zip(batch, durations, strict=True):
            if not c.done:
                c.add_duration(row)
        yield True
        if all(c.done for c in batch):
            return
