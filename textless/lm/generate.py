"""Autoregressive generation: the prefill of prompts, then decode steps that sample a unit and its duration a row."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch
from torch import Tensor

from textless.errors import ContractError
from textless.lm.cache import KVCache
from textless.lm.streams import joint
from textless.types import LONGEST_ROW, SamplingOptions, Units

if TYPE_CHECKING:
    from textless.lm.decoder import Decoder
    from textless.units.merges import MergeTable

BATCH = 16  # continuations that are sampled together
FULL = 0.7  # prompts are padded into one prefill when at least this share of it is no padding


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next unit is drawn. Durations and pitch are drawn at the same temperature, unrestricted.

    Attributes:
        temperature: 0 takes the likeliest unit each time.
        top_k: only the k likeliest units (Fan et al. 2018, arXiv:1805.04833).
        top_p: nucleus sampling: only the likeliest that together have this probability (Holtzman et al. 2020,
            arXiv:1904.09751).
        min_p: only those with at least this share of the likeliest one's probability (Nguyen et al. 2024,
            arXiv:2407.01082).
        repetition_penalty: the logits of units that are in the prompt or were sampled are divided by it where positive,
            multiplied where negative (Keskar et al. 2019, arXiv:1909.05858); 1 changes nothing.
        no_repeat_ngram: no n units in a row occur twice.

    They apply in the order of `generate` in transformers: repetition_penalty, no_repeat_ngram, temperature, top_k,
    top_p, min_p. So top_p counts probabilities among what top_k left, and min_p removes from what top_p left. The rest
    is renormalised.

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
                bounds = f"from {least} to {most}" if most < infinity else f"at least {least:g}"
                raise ValueError(f"{name} must be {bounds}, got {value}")

    def draw(self, logits: np.ndarray, seen: Sequence[int], generator: np.random.Generator) -> int:
        """Sample an index of (K,) float64 logits, -inf = never, after the tokens `seen`. Temperature 0: the largest."""
        p = self.weights(logits, seen)
        cumulative = np.cumsum(p)
        index = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
        # Never past the last index of positive probability, even when the product rounds up to the whole sum.
        return int(min(index, np.flatnonzero(p)[-1]))

    def weights(self, logits: np.ndarray, seen: Sequence[int]) -> np.ndarray:
        """(K,) float64, the unnormalised probabilities that `draw` samples from."""
        if self.repetition_penalty != 1 or self.no_repeat_ngram:
            logits = logits.copy()
        if self.repetition_penalty != 1:
            old, penalty = np.unique(np.asarray(seen, np.int64)), self.repetition_penalty
            logits[old] = np.where(logits[old] > 0, logits[old] / penalty, logits[old] * penalty)
        if self.no_repeat_ngram:
            banned = [u for u in banned_tokens(seen, self.no_repeat_ngram) if np.isfinite(logits[u])]
            if len(banned) < np.isfinite(logits).sum():  # when nothing else is left, a repeat is allowed
                logits[banned] = -np.inf
        if self.temperature == 0:
            return (np.arange(len(logits)) == logits.argmax()).astype(np.float64)
        if self.top_k is not None and self.top_k < len(logits):
            best = np.argpartition(-logits, self.top_k - 1)[: self.top_k]
            top = np.full_like(logits, -np.inf)
            top[best] = logits[best]
            logits = top
        with np.errstate(over="ignore"):  # at the smallest temperatures all but the likeliest are at -inf
            p = np.exp((logits - logits.max()) / self.temperature)
        if self.top_p is not None and self.top_p < 1:
            order = np.argsort(-p, kind="stable")
            before = np.cumsum(p[order])[:-1]  # the likeliest is always left
            p[order[1:][before >= self.top_p * p.sum()]] = 0
        if self.min_p is not None:
            p[p < self.min_p] = 0  # the likeliest has 1 here
        return p


def banned_tokens(seen: Sequence[int], n: int) -> list[int]:
    """The tokens that would complete an n-gram of `seen` for the second time."""
    tokens = np.asarray(seen, np.int64)
    if len(tokens) < n:
        return []
    grams = np.lib.stride_tricks.sliding_window_view(tokens, n)
    same = (grams[:, :-1] == tokens[len(tokens) - n + 1 :]).all(1)
    return np.unique(grams[same, -1]).tolist()


@dataclass(eq=False)
class Continuation:
    """The state of one row: its prompt, what was added, how much may still be added, and its random generator.

    Attributes:
        end: the token `</s>`.
        begins: whether sequences begin with it.
        frames_left, units_left: None = no limit.
        has_durations: whether the model has a duration head.
        has_pitch: whether it reads and samples pitch.
        merges: of merged units.
    """

    prompt: Units
    sampling: Sampling
    generator: np.random.Generator
    end: int
    frames_left: int | None
    units_left: int | None
    has_durations: bool
    begins: bool = True
    has_pitch: bool = False
    merges: MergeTable | None = None
    units: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    pitch: list[int] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self.deduplicated = self.prompt.durations is not None
        self.samples_durations = self.deduplicated and self.has_durations
        self.tokens = [self.end] * self.begins + self.prompt.units.tolist()  # those that were read, and the next one
        pitch = self.prompt.pitch
        self.before = [0] * (self.begins + 1) + ([] if pitch is None else pitch.tolist())  # pitch before each token

    def inputs(self, last: int | None = None) -> list[int]:
        """What the model reads of its tokens, or of the last so many of them."""
        first = 0 if last is None else max(0, len(self.tokens) - last)
        tokens = self.tokens[first:]
        return joint(tokens, self.before[first:], self.end + 1) if self.has_pitch else tokens

    @property
    def done(self) -> bool:
        return self.ended or self.frames_left == 0 or self.units_left == 0

    @property
    def most(self) -> int:
        """Most units that may still be added."""
        return min(n for n in (self.frames_left, self.units_left) if n is not None)

    def add_unit(self, logits: np.ndarray) -> None:
        """Sample the next unit from (n_units + 1,) logits."""
        logits = logits.astype(np.float64)
        if self.frames_left is not None:
            logits[self.end] = -np.inf
        if self.deduplicated and self.tokens[-1] != self.end:
            logits[self._repeating(self.tokens[-1])] = -np.inf
        unit = self.sampling.draw(logits, self.tokens[int(self.begins) :], self.generator)
        if unit == self.end:
            self.ended = True
            return
        self.tokens.append(unit)
        self.units.append(unit)

    def _repeating(self, last: int) -> int | np.ndarray:
        """The units that would repeat `last`; of merged ones those that begin with the base unit that it ends with."""
        return last if self.merges is None else np.flatnonzero(self.merges.first == self.merges.last[last])

    def add_duration(self, logits: np.ndarray | None) -> None:
        """Sample the duration of the last unit from (max_duration,) logits, cut to the length to add. None: 1 frame."""
        duration = 1
        if self.samples_durations and logits is not None:
            if self.merges is not None:  # a frame at least for each of its base units
                logits = logits.copy()
                logits[: min(self.merges.lengths[self.units[-1]], len(logits)) - 1] = -np.inf
            duration += self._draw(logits)
        if self.frames_left is not None:
            duration = min(duration, self.frames_left)
            self.frames_left -= duration
        if self.units_left is not None:
            self.units_left -= 1
        self.durations.append(duration)

    def add_pitch(self, logits: np.ndarray) -> None:
        """Sample the pitch of the last unit from (PITCH_CLASSES,) logits."""
        self.pitch.append(self._draw(logits))
        self.before.append(self.pitch[-1])

    def _draw(self, logits: np.ndarray) -> int:
        """Sample a duration or pitch, at the temperature of the units."""
        return Sampling(temperature=self.sampling.temperature).draw(logits.astype(np.float64), (), self.generator)

    def added(self, start: int = 0) -> Units:
        """What was added, from its unit `start` on."""
        durations = np.array(self.durations[start:], np.int64) if self.samples_durations else None
        pitch = np.array(self.pitch[start:], np.int64) if self.has_pitch else None
        return Units(np.array(self.units[start:], np.int64), durations, self.prompt.contract, pitch)

    def result(self, only_new: bool) -> Units:
        if only_new:
            return self.added()
        durations = self.prompt.durations if self.has_durations else None
        return Units(self.prompt.units, durations, self.prompt.contract, self.prompt.pitch) + self.added()


def begin(
    lm: Decoder,
    prompts: Sequence[Units],
    seeds: Sequence[int],
    *,
    seconds: float | None = None,
    max_new_units: int | None = None,
    **sampling: Unpack[SamplingOptions],
) -> list[Continuation]:
    """Continuations with nothing added yet. The prompts already have the model's contract.

    Warns UserWarning of a prompt that is longer than the context. Raises ValueError without a length or with one below
    0, ContractError for `seconds` where the frame rate is unknown, and for an empty prompt where nothing begins a
    sequence, or gives a rate of units where durations are not sampled.
    """
    if seconds is None and max_new_units is None:
        raise ValueError("the length to add is missing: give seconds or max_new_units")
    for name, value in (("seconds", seconds), ("max_new_units", max_new_units)):
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be at least 0, got {value}")
    frames = None
    if seconds is not None:
        if lm.frame_rate is None:
            raise ContractError(
                "the frame rate of the language model's units is unknown; give max_new_units instead of seconds"
            )
        frames = round(seconds * lm.frame_rate)
    if max(frames or 0, max_new_units or 0) > LONGEST_ROW:
        raise ValueError(f"seconds or max_new_units ask for more than {LONGEST_ROW} frames, the most that a row has")
    if not lm.begins and not all(map(len, prompts)):
        raise ContractError("this language model has no symbol that begins a sequence; give a prompt of a unit or more")
    how = Sampling(**sampling)
    todo = []
    for p, seed in zip(prompts, seeds, strict=True):
        length = frames, max_new_units
        if frames is not None and p.durations is not None and not lm.has_durations:
            length = None, _units_in(frames, p, max_new_units)
        heads = lm.has_durations, lm.begins, lm.has_pitch
        todo.append(Continuation(p, how, np.random.default_rng(seed), lm.n_units, *length, *heads, merges=lm.merges))
    context = lm.config.context
    for c in todo:
        if len(c.tokens) > context and not c.done:
            message = f"a prompt of {len(c.prompt)} units is longer than the model's context of {context}"
            warnings.warn(f"{message}; reading its last {context // 2}", UserWarning, stacklevel=3)
    return todo


def _units_in(frames: int, prompt: Units, most: int | None) -> int:
    """How many units so many frames have at the rate of the prompt, at most `most`."""
    if not len(prompt):
        raise ContractError("this language model has no durations; give max_new_units instead of seconds")
    units = round(frames * len(prompt) / prompt.n_frames)
    return units if most is None else min(units, most)


def generate(lm: Decoder, todo: Sequence[Continuation]) -> None:
    """Run continuations to their end, in batches."""
    for i in range(0, len(todo), BATCH):
        for _ in advance(lm, todo[i : i + BATCH]):
            pass


def advance(lm: Decoder, batch: Sequence[Continuation]) -> Iterator[None]:
    """Run continuations in one batch; yields after each decode step, which adds a unit to each unfinished row."""
    if all(c.done for c in batch):
        return
    training = lm.training
    lm.eval()
    try:
        steps = _steps(lm, batch)
        while True:
            with torch.inference_mode():  # not around the yield: the caller must not run in inference mode
                if next(steps, None) is None:
                    return
            yield
    finally:
        lm.train(training)


def _steps(lm: Decoder, batch: Sequence[Continuation]) -> Iterator[bool]:
    context = lm.config.context
    cache = KVCache(lm.config, len(batch), min(context, max(len(c.tokens) + c.most for c in batch)), lm.device)
    hidden = _prefill(lm, batch, cache)
    lengths = cache.lengths.tolist()
    while True:
        logits = lm.unit_logits(hidden).cpu().numpy()
        for c, row in zip(batch, logits, strict=True):
            if not c.done:
                c.add_unit(row)
        # A row that is done or whose context is full takes part in the step at position 0, where its result is not
        # used; a full row is then prefilled again with the last half of a context.
        full = [i for i, c in enumerate(batch) if not c.done and lengths[i] == context]
        if unused := [i for i, c in enumerate(batch) if c.done or i in full]:
            cache.lengths[unused] = 0
        last = torch.tensor([c.inputs(1) for c in batch], device=lm.device)
        hidden = lm.forward_cached(last, cache)[:, 0]
        for i in full:
            hidden[i] = _prefill_row(lm, batch[i].inputs(context // 2), cache, i)
        lengths = cache.lengths.tolist()
        durations: Sequence[np.ndarray | None] = [None] * len(batch)
        if any(c.samples_durations for c in batch):
            durations = list(lm.duration_logits(hidden).cpu().numpy())
        pitches = lm.pitch_logits(hidden).cpu().numpy() if lm.has_pitch else None
        for i, (c, duration) in enumerate(zip(batch, durations, strict=True)):
            if not c.done:
                c.add_duration(duration)
                if pitches is not None:
                    c.add_pitch(pitches[i])
        yield True
        if all(c.done for c in batch):
            return


def _prefill(lm: Decoder, batch: Sequence[Continuation], cache: KVCache) -> Tensor:
    """Read the prompts into the rows of the cache; of one longer than the context, the last half of a context.

    Returns:
        (B, dim) float32, the hidden states at their ends.
    """
    context = lm.config.context
    tokens = [c.inputs(None if len(c.tokens) <= context else context // 2) for c in batch]
    repeated = [i > 0 and tokens[i] == tokens[i - 1] for i in range(len(batch))]  # more samples of one prompt
    longest = max(map(len, tokens))
    if not any(repeated) and sum(map(len, tokens)) > FULL * longest * len(batch):
        # Right padding: under the causal mask it changes nothing before it, and later steps overwrite it in the cache.
        padded = torch.tensor([t + [0] * (longest - len(t)) for t in tokens], device=lm.device)
        lengths = torch.tensor([len(t) for t in tokens], device=lm.device)
        hidden = lm.forward_cached(padded, cache)[torch.arange(len(batch), device=lm.device), lengths - 1]
        cache.lengths.copy_(lengths)
        return hidden
    hidden = torch.empty(len(batch), lm.config.dim, device=lm.device)
    for i, t in enumerate(tokens):
        if repeated[i]:
            cache.copy(i - 1, i)
            hidden[i] = hidden[i - 1]
        else:
            hidden[i] = _prefill_row(lm, t, cache, i)
    return hidden


def _prefill_row(lm: Decoder, tokens: list[int], cache: KVCache, i: int) -> Tensor:
    """Replace row i of the cache by these tokens. (dim,), the hidden state at their end."""
    row = cache.row(i)
    row.lengths.zero_()
    return lm.forward_cached(torch.tensor([tokens], device=lm.device), row)[0, -1]
