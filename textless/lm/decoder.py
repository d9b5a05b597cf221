"""What every language model over units can do: score units, and continue them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack, overload

import numpy as np
import torch
from torch import Tensor, nn

from textless.errors import ContractError
from textless.lm.cache import KVCache
from textless.lm.fast_decode import FastDecoder
from textless.lm.streams import joint
from textless.types import ContinueOptions, GenerateOptions, UnitContract, Units, UnitsLike, is_batch

if TYPE_CHECKING:
    from textless import types
    from textless.lm.generate import Continuation
    from textless.units.merges import MergeTable

BATCH_TOKENS = 8192  # that are scored together


class DecoderConfig(Protocol):
    """Shape of a decoder.

    Attributes:
        n_units: K; the vocabulary has `</s>` besides.
        dim: of the hidden states that the output reads.
        heads: of keys and values.
        context: tokens that are seen at once, `</s>` included.
        max_duration: classes of the duration head, 0 without one.
    """

    @property
    def n_units(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def max_duration(self) -> int: ...


class Decoder(nn.Module):
    """A causal decoder over units, the base of every language model: it scores units and continues them.

    It implements `textless.types.UnitDecoder`. A subclass sets the attributes, and has `forward`, `unit_logits`, and
    `fast_decoder` (or `forward_cached`). Tokens 0 … n_units - 1 are the units, token n_units is `</s>`, which begins
    and ends every sequence, unless `begins` or `ends` says otherwise.

    Attributes:
        config: shape of the model.
        contract: of the units.
        embed: the token embeddings; a subclass with a `forward_cached` of its own needs none.
        duration: the duration head, (dim → max_duration), where `has_durations`.
        has_durations: whether the units of a continuation have durations.
        pitch: the pitch head, (dim → PITCH_CLASSES), where `has_pitch`.
        has_pitch: whether the model reads and predicts the pitch of units; `forward` then takes tokens of `joint`.
        begins, ends: whether sequences begin, and end, with `</s>`. Without it at the end its logit is -inf.
        precision: of continuations, `fp32` or `int8`; scoring is always in float32.
        merges: of a model over merged units, their table. Then units of the codebook are taken too: they are
            deduplicated and merged first.
    """

    config: DecoderConfig
    contract: UnitContract
    embed: nn.Embedding
    duration: nn.Linear
    pitch: nn.Linear
    has_durations = begins = ends = True
    has_pitch = False
    precision = "fp32"
    merges: MergeTable | None = None
    _fast: tuple[Any, FastDecoder] | None = None  # with what it was made from

    @property
    def n_units(self) -> int:
        return self.config.n_units

    @property
    def base_contract(self) -> UnitContract:
        """Of the units of the codebook; `contract` where they are not merged."""
        return self.contract.base()

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

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm.

        Args:
            tokens: (B, T) int64.
            positions: (B, T) int64 within each document, with `mask` (B, 1, T, T) bool, True = sees. Neither: one
                document a row, causal.

        Returns:
            (B, T, dim) float32.
        """
        raise NotImplementedError

    def unit_logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, n_units + 1) float32: of the next token."""
        raise NotImplementedError

    def duration_logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, max_duration) float32: class d - 1 is a duration of d frames, of the unit at that position."""
        return self.duration(hidden).float()

    def pitch_logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, PITCH_CLASSES) float32: of the pitch of the unit at that position, see `Units.pitch`."""
        return self.pitch(hidden).float()

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, n_units + 1) float64, nats: of the next token."""
        return torch.log_softmax(self.unit_logits(hidden).double(), -1)

    def nll(self, units: UnitsLike) -> np.ndarray:
        """Negative log-likelihood of each unit, and of the end.

        Args:
            units: Units, or bare integers. Scored as they are, never deduplicated, but by a model over merged units,
                which merges units of the codebook first. Durations and pitch are not scored (see
                `textless.lm.streams.stream_nll`).

        A sequence longer than the context is read in windows of `context` tokens that overlap by half, and each unit is
        scored in the first window that holds it; so beyond the first window every unit is predicted from at least half
        a context.

        Returns:
            (N + 1,) float64, nats, of N merged units where they are merged; the last is that of `</s>`. Where
            sequences have no `</s>` at their end (`ends`) it is left out: (N,). Where they have none at their beginning
            (`begins`), nothing predicts the first unit: its value is log n_units, of a uniform distribution.

        Raises:
            ContractError: units of another kind, or outside the vocabulary; no pitch, where the model reads it.
        """
        document, read = self.document(units)
        inputs, targets = (torch.tensor(t, dtype=torch.int64, device=self.device) for t in (read[:-1], document[1:]))
        scores = []
        with self.evaluating():
            for first, at in self.windows(len(inputs)):
                hidden = self(inputs[None, first : at.stop])[0, at.start - first :]
                scores.append(-self.log_probabilities(hidden).gather(-1, targets[at, None])[:, 0].cpu())
        return self._with_first(document, torch.cat(scores).numpy() if scores else np.empty(0))

    def windows(self, n: int) -> Iterator[tuple[int, slice]]:
        """Where each window of `nll` over n inputs begins, and the positions that are scored in it."""
        done = first = 0
        while done < n:
            stop = min(n, first + self.config.context)
            yield first, slice(done, stop)
            done, first = stop, first + self.config.context // 2

    def document(self, units: UnitsLike) -> tuple[list[int], list[int]]:
        """The tokens of a sequence, with `</s>` where sequences begin and end with it, and what is read of each."""
        units, around = self.checked(units, "the units"), [self.n_units]
        tokens = around * self.begins + units.units.tolist() + around * self.ends
        if units.pitch is None:
            return tokens, tokens
        return tokens, joint(tokens, [0] * (self.begins + 1) + units.pitch.tolist(), self.n_units + 1)

    def _with_first(self, document: list[int], scores: np.ndarray) -> np.ndarray:
        """The scores of all tokens but the first, with that of the first where it is a unit."""
        return scores if self.begins or not document else np.append(np.log(self.n_units), scores)

    def nll_batch(self, sequences: Sequence[UnitsLike]) -> list[np.ndarray]:
        """What `nll` gives for each of several, at once: [(N + 1,) float64]. Raises as `nll`."""
        rows, read = zip(*map(self.document, sequences), strict=True) if sequences else ((), ())
        scores: dict[int, np.ndarray] = {}
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while order:
            longest = len(rows[order[-1]]) - 1  # tokens to read
            if not 0 < longest <= self.config.context:
                alone = order.pop()
                scores[alone] = self.nll(sequences[alone])
                continue
            # Rows of similar lengths, with right padding: under the causal mask it changes nothing before it.
            batch = [order.pop() for _ in range(min(len(order), max(1, BATCH_TOKENS // longest)))]
            tokens, inputs = (self._padded([values[i] for i in batch], longest + 1) for values in (rows, read))
            with self.evaluating():
                log_p = self.log_probabilities(self(inputs[:, :-1])).gather(-1, tokens[:, 1:, None])[..., 0]
            for i, row in zip(batch, log_p.cpu().numpy(), strict=True):
                scores[i] = self._with_first(rows[i], -row[: max(0, len(rows[i]) - 1)])
        return [scores[i] for i in range(len(rows))]

    def _padded(self, rows: Sequence[list[int]], length: int) -> Tensor:
        """(rows, length) int64, `</s>` after the end of each."""
        padded = torch.full((len(rows), length), self.n_units)
        for values, row in zip(padded, rows, strict=True):
            values[: len(row)] = torch.tensor(row, dtype=torch.int64)
        return padded.to(self.device)

    @overload
    def continue_units(self, prompt: UnitsLike, **options: Unpack[ContinueOptions]) -> Units: ...
    @overload
    def continue_units(self, prompt: Sequence[UnitsLike], **options: Unpack[ContinueOptions]) -> list[Units]: ...
    def continue_units(
        self,
        prompt: UnitsLike | Sequence[UnitsLike],
        *,
        seed: int | Sequence[int] = 0,
        only_new: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> Units | list[Units]:
        """Sample what follows a prompt.

        Args:
            prompt: Units, bare integers (one frame each), or a list of such prompts. May be empty: then it begins from
                `</s>` alone, if the model's sequences do.
            seed: of this call; prompt i of a list is sampled with `seed + i`, or with seed i of a list of seeds,
                whatever else is in the list (up to the last bits of the arithmetic, which depend on the batch: two
                units must be tied within about 1e-6 for it to show; with int8 a last bit may count for more).
            only_new: leave the prompt out of the result.
            seconds: length to add. `</s>` is never sampled and the last unit is cut, so that exactly round(seconds ×
                frame_rate) frames are added (fewer only when `max_new_units` is reached first). A model without
                durations adds to a prompt with them as many units as the prompt has in that time, or fewer with `</s>`.
            max_new_units: number of units to add at most. Without `seconds` the continuation may end earlier, with
                `</s>`.
            temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram: see `Sampling`; 0.8 is the
                temperature, 0 is greedy.

        A prompt with durations is continued deduplicated: no unit follows itself, and durations are sampled from the
        duration head. A prompt without them is continued literally: one frame a unit, repeats allowed, and so is the
        result. A model without durations (GSLM's, SlamKit's, TWIST's) gives none. A model with pitch reads
        that of the prompt, and samples that of each unit after its duration; others leave it out. When the context is
        full (or the prompt longer than it, with a warning), the last half of a context is read again as a new prefill.

        Returns:
            Units with the contract of the model; a list for a list. A model over merged units continues units of the
            codebook by units of the codebook (see `MergeTable.expand`).

        Raises:
            ContractError: units of another kind or outside the vocabulary; `seconds` where the frame rate is unknown;
                an empty prompt where sequences do not begin with `</s>`; no pitch, where the model reads it.
            ValueError: neither `seconds` nor `max_new_units`, or one of the numbers is out of range.
        """
        from textless.lm.generate import begin, generate

        batch: Sequence[Any] = prompt if is_batch(prompt) else [prompt]
        prompts = [self.checked(p, "the prompt") for p in batch]
        seeds = [int(seed) + i for i in range(len(prompts))] if isinstance(seed, int | np.integer) else list(seed)
        todo = begin(self, prompts, seeds, **options)
        generate(self, todo)
        results = [self._continued(p, c, only_new) for p, c in zip(batch, todo, strict=True)]
        return results if is_batch(prompt) else results[0]

    def _continued(self, prompt: UnitsLike, c: Continuation, only_new: bool) -> Units:
        """The result in the units of the prompt: where these were merged, what was added is expanded."""
        table = self._table_for(prompt)
        if table is None:
            return c.result(only_new)
        given, new = Units.of(prompt), table.expand(c.added())
        durations = given.durations if self.has_durations else None
        return new if only_new else Units(given.units, durations, table.base) + new

    def _table_for(self, units: UnitsLike) -> MergeTable | None:
        """The merge table, where the model is over merged units and these are not."""
        return self.merges if isinstance(units, Units) and not units.contract.merges else None

    def stream(self, prompt: UnitsLike, *, seed: int = 0, **options: Unpack[GenerateOptions]) -> Iterator[Units]:
        """What `continue_units(…, only_new=True)` gives, unit by unit as it is sampled, for a vocoder that streams."""
        from textless.lm.generate import advance, begin

        [c] = begin(self, [self.checked(prompt, "the prompt")], [seed], **options)
        sent, table = 0, self._table_for(prompt)
        for _ in advance(self, [c]):
            if len(c.units) > sent:
                yield c.added(sent) if table is None else table.expand(c.added(sent))
                sent = len(c.units)

    def forward_cached(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Append tokens to the rows of the cache: a prefill, or with one token a row a decode step. Without gradients.

        Args:
            tokens: (B, T) int64.

        Returns:
            (B, T, dim) float32, hidden states after the final norm.
        """
        # Made again when the weights were loaded or moved since; weights that are trained go through `train`.
        weight = self.embed.weight
        source = (self.precision, weight.data_ptr(), None if weight.is_inference() else weight._version)
        if self._fast is None or self._fast[0] != source:
            self._fast = source, self.fast_decoder()
        return self._fast[1].forward_cached(tokens, cache)

    def save(self, folder: Path | str) -> None:
        """Write a model folder, see `textless.load_lm`."""
        raise NotImplementedError

    def save_merges(self, folder: Path | str) -> None:
        """Write the merge table into a model folder. Raises ContractError where units are merged and it is missing."""
        if self.contract.merges and self.merges is None:
            raise ContractError("the language model is over merged units; set `merges` to their table before saving")
        if self.merges:
            self.merges.save(folder)

    def fast_decoder(self) -> FastDecoder:
        """The current weights at `precision`, arranged for inference."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._fast = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_fast"}

    def checked(self, units: UnitsLike, what: str) -> Units:
        """`units` with this model's contract, and pitch only where the model reads it.

        Raises ContractError for another kind, for units outside the vocabulary, and without pitch where it is read.
        """
        if table := self._table_for(units):
            given = Units.of(units)
            table.base.check(given.contract, mine="the language model", theirs=what)
            units, _ = table.merge(Units(given.units, given.durations, table.base).deduplicated())
        result = Units.of(units)
        if isinstance(units, Units):
            self.contract.check(units.contract, mine="the language model", theirs=what)
        if len(result) and result.units.max() >= self.n_units:
            raise ContractError(
                f"unit {result.units.max()} in {what} is outside the language model's vocabulary of {self.n_units} "
                "units; use models of one set, or encode again"
            )
        if self.has_pitch and len(result) and result.pitch is None:
            raise ContractError(
                f"the language model reads the pitch of units, and {what} have none; the step `pitch` adds it"
            )
        return Units(result.units, result.durations, self.contract, result.pitch if self.has_pitch else None)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inference mode and evaluation mode; the training mode is restored afterwards."""
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.train(training)


UnitDecoder = Decoder  # its name before 0.2, for one release

if TYPE_CHECKING:
    _CONTRACT: type[types.UnitDecoder] = Decoder  # that mypy compares the two
