"""What every language model over units can do: score units, and continue them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from textless.errors import ContractError
from textless.lm.cache import KVCache
from textless.lm.fast_decode import Reader
from textless.types import Units, is_batch

SCORED = 8192  # tokens that are scored together


class UnitDecoder(nn.Module):
    """What every language model over units can do, from its hidden states: score units, and continue them.

    A subclass has `config` (n_units, layers, heads, head_dim, dim, context), `contract`, `embed`, and the methods `forward`,
    `unit_logits`, `duration_logits` and `reader` (or `read`) of `UnitLM`. Tokens 0 … n_units - 1 are the units, token n_units is `</s>`.
    """

    has_durations = True  # whether it gives the units of a continuation durations
    precision = "fp32"  # of what `read` computes; scoring is always in float32
    _reader: tuple[Any, Reader] | None = None

    @property
    def n_units(self) -> int:
        return self.config.n_units

    @property
    def frame_rate(self) -> float | None:
        """Frames per second, None when unknown."""
        return self.contract.frame_rate

    @property
    def sample_rate(self) -> int | None:
        """Hz of the audio behind the units, None when unknown."""
        return self.contract.sample_rate

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, n_units + 1) float64, nats: of what comes next."""
        return torch.log_softmax(self.unit_logits(hidden).double(), -1)

    def nll(self, units: Units | np.ndarray | Sequence[int]) -> np.ndarray:
        """Negative log-likelihood of each unit, and of the end.

        Args:
            units: Units, or bare integers. Scored as they stand: never deduplicated. Durations are not scored.

        A sequence longer than the context is read in windows of `context` tokens that overlap by half, and each unit is scored in the
        first window that holds it; so beyond the first window every unit is predicted from at least half a context.

        Returns:
            (N + 1,) float64, nats; the last is that of `</s>`.

        Raises:
            ContractError: units of another kind, or outside the vocabulary.
        """
        sequence = self.take(units, "the units").units
        tokens = torch.tensor([self.n_units, *sequence.tolist(), self.n_units], device=self.device)
        read, target = tokens[:-1], tokens[1:]
        context, scores = self.config.context, []
        done = start = 0
        with self.evaluating():
            while done < len(read):
                hidden = self(read[None, start : start + context])[0, done - start :]
                wanted = target[done : done + len(hidden)]
                scores.append(-self.log_probabilities(hidden).gather(-1, wanted[:, None])[:, 0].cpu())
                done += len(hidden)
                start += context // 2
        return torch.cat(scores).numpy()

    def nll_batch(self, sequences: Sequence[Units | np.ndarray]) -> list[np.ndarray]:
        """What `nll` gives for each of several, at once: [(N + 1,) float64]. Raises as `nll`."""
        taken = [self.take(s, "the units").units.tolist() for s in sequences]
        scores: dict[int, np.ndarray] = {}
        order = sorted(range(len(taken)), key=lambda i: len(taken[i]))
        while order:
            longest = len(taken[order[-1]]) + 1
            if longest > self.config.context:
                alone = order.pop()
                scores[alone] = self.nll(sequences[alone])
                continue
            # Those of about the same length together; what fills up a row stands after its end, where nobody before it looks.
            some = [order.pop() for _ in range(min(len(order), max(1, SCORED // longest)))]
            tokens = torch.full((len(some), longest + 1), self.n_units)
            for row, i in zip(tokens, some, strict=True):
                row[1 : 1 + len(taken[i])] = torch.tensor(taken[i], dtype=torch.int64)
            tokens = tokens.to(self.device)
            with self.evaluating():
                log_p = (
                    self.log_probabilities(self(tokens[:, :-1])).gather(-1, tokens[:, 1:, None])[..., 0].cpu().numpy()
                )
            scores |= {i: -row[: len(taken[i]) + 1] for i, row in zip(some, log_p, strict=True)}
        return [scores[i] for i in range(len(taken))]

    def continue_units(
        self,
        prompt: Units | np.ndarray | Sequence[Any],
        *,
        seconds: float | None = None,
        max_new_units: int | None = None,
        seed: int | Sequence[int] = 0,
        only_new: bool = False,
        **sampling: Any,
    ) -> Units | list[Units]:
        """Sample what comes after a prompt.

        Args:
            prompt: Units, bare integers (one frame each), or a list of such prompts. May be empty: then it begins from `</s>` alone.
            seconds: length to add. `</s>` is never sampled and the last unit is cut, so that exactly round(seconds × frame_rate)
                frames are added (fewer only when `max_new_units` is reached first).
            max_new_units: number of units to add at most. Without `seconds` the continuation may end earlier, with `</s>`.
            seed: of this call; prompt i of a list is sampled with `seed + i`, or with seed i of a list of seeds, whatever else is in the
                list (up to the last bits of the arithmetic, which depend on the batch: two units must be tied within about 1e-6 for it to
                show; with int8 a last bit may count for more).
            only_new: leave the prompt out of the result.
            sampling: `temperature` (0.8; 0 is greedy), `top_k`, `top_p`, `min_p`, `repetition_penalty`, `no_repeat_ngram`; see `Sampling`.

        A prompt with durations is continued deduplicated: no unit follows itself, and durations are sampled from the duration head. A
        prompt without them is continued literally: one frame a unit, repeats allowed, and so is the result. A model without durations
        (GSLM's) gives none. When the context is full (or the prompt longer than it, with a warning), reading begins again from the last
        half of a context.

        Returns:
            Units with the contract of the model; a list for a list.

        Raises:
            ContractError: units of another kind or outside the vocabulary; `seconds` where the frame rate is unknown.
            ValueError: neither `seconds` nor `max_new_units`, or one of the numbers is out of range.
        """
        from textless.lm.generate import Sampling, begin, generate

        batch: Sequence[Any] = prompt if is_batch(prompt) else [prompt]
        prompts = [self.take(p, "the prompt") for p in batch]
        seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int | np.integer) else list(seed)
        todo = begin(self, prompts, seeds, sampling=Sampling(**sampling), seconds=seconds, max_new_units=max_new_units)
        generate(self, todo)
        results = [c.result(only_new) for c in todo]
        return results if is_batch(prompt) else results[0]

    def stream(
        self,
        prompt: Units | np.ndarray | Sequence[int],
        *,
        seconds: float | None = None,
        max_new_units: int | None = None,
        seed: int = 0,
        **sampling: Any,
    ) -> Iterator[Units]:
        """What `continue_units(…, only_new=True)` gives, unit by unit as they are sampled, so that a voice can follow."""
        from textless.lm.generate import Sampling, advance, begin

        [c] = begin(
            self,
            [self.take(prompt, "the prompt")],
            [seed],
            sampling=Sampling(**sampling),
            seconds=seconds,
            max_new_units=max_new_units,
        )
        given = 0
        for _ in advance(self, [c]):
            if len(c.units) > given:
                yield c.added(given)
                given = len(c.units)

    def read(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Read tokens, (B, T) int64, after what is in the cache, into it. (B, T, dim) float32 after the final norm, without gradients."""
        # Weights that were loaded or moved since are laid out anew; those that are trained in `train`.
        weight = self.embed.weight
        laid_out_from = (self.precision, weight.data_ptr(), None if weight.is_inference() else weight._version)
        if self._reader is None or self._reader[0] != laid_out_from:
            self._reader = laid_out_from, self.reader()
        return self._reader[1].read(tokens, cache)

    def reader(self) -> Reader:
        """The weights as they are now, laid out for reading at `precision`."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._reader = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_reader"}

    def take(self, units: Units | np.ndarray | Sequence[int], what: str) -> Units:
        """`units` under this model's contract. Raises ContractError when they are of another kind or outside the vocabulary."""
        taken = Units.of(units)
        if isinstance(units, Units):
            self.contract.check(units.contract, mine="the language model", theirs=what)
        if len(taken) and taken.units.max() >= self.n_units:
            raise ContractError(
                f"unit {taken.units.max()} in {what} is outside the language model's vocabulary of {self.n_units} units; "
                "use models of one set, or encode again"
            )
        return Units(taken.units, taken.durations, self.contract)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inference mode and evaluation mode; training goes on afterwards as it was."""
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.train(training)
