"""The unit language model: a Llama-shaped decoder over units, with a head for how long each unit lasts.

The middle of GSLM (Lakhotia et al. 2021, arXiv:2102.01192): units without repeats, in sequences that begin and end with `</s>`. The
durations beside them are pGSLM's duration stream (Kharitonov et al. 2022, arXiv:2109.03264), here as a classifier on the same hidden
state. The decoder is Llama's (Touvron et al. 2023, arXiv:2302.13971), so that `textless.lm.llama` can hand it to transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.errors import ContractError, ModelError
from textless.lm.decode import RMS, Layer, Reader, check_precision, swiglu
from textless.training import Dropout
from textless.units.types import UnitContract, Units
from textless.weights import from_torch, load_model, save_model, to_torch


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Shape of a unit language model.

    Attributes:
        n_units: size of the codebook; the vocabulary has one token more, `</s>` = n_units.
        ffn_dim: inner width of the SwiGLU.
        context: tokens that are seen at once, `</s>` included.
        max_duration: longest duration that the duration head knows, in frames; longer ones count as this.
    """

    n_units: int
    dim: int
    layers: int
    heads: int
    ffn_dim: int
    context: int
    max_duration: int = 32
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads):
            raise ModelError(f"dim {self.dim} must be a multiple of 2 × heads ({self.heads})")
        if self.n_units < 2 or self.context < 2:
            raise ModelError(f"a language model needs at least 2 units and a context of 2, got {self.n_units} and {self.context}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


PRESETS: dict[str, dict[str, int]] = {
    "nano": {"dim": 96, "layers": 2, "heads": 3, "ffn_dim": 256},  # 0.3 M parameters at 500 units
    "tiny": {"dim": 320, "layers": 6, "heads": 5, "ffn_dim": 864},  # 7.6 M
    "small": {"dim": 512, "layers": 8, "heads": 8, "ffn_dim": 1376},  # 25 M
    "base": {"dim": 768, "layers": 12, "heads": 12, "ffn_dim": 2048},  # 85 M
    "gslm": {"dim": 1024, "layers": 12, "heads": 16, "ffn_dim": 2752},  # 153 M: GSLM's width and depth; its 4096 without a gate are these
}


SCORED = 8192  # tokens that are scored together


class KVCache:
    """Keys and values of what was read, each row filled from the left to a length of its own.

    Attributes:
        both: (layers, 2, B, heads, length, head_dim), the keys and the values.
        filled: (B,) int64.
        graph: what `textless.lm.decode` has recorded for steps on a GPU.
    """

    graph: Any = None

    def __init__(self, config: LMConfig, batch: int, length: int, device: torch.device) -> None:
        self.both = torch.zeros(config.layers, 2, batch, config.heads, length, config.head_dim, device=device)
        self.filled = torch.zeros(batch, dtype=torch.int64, device=device)

    def row(self, i: int) -> KVCache:
        """A view of row i: what is read into it is in this cache."""
        view = object.__new__(KVCache)
        view.both, view.filled = self.both[:, :, i : i + 1], self.filled[i : i + 1]
        return view

    def copy(self, source: int, target: int) -> None:
        """Give row `target` what row `source` has read."""
        self.both[:, :, target] = self.both[:, :, source]
        self.filled[target] = self.filled[source]


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in the layout of transformers' Llama, where dimension i turns with i + head_dim / 2.

    Args:
        x: (B, heads, T, head_dim).
        cos, sin: (B, 1, T, head_dim) or (1, 1, T, head_dim).
    """
    a, b = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-b, a], dim=-1) * sin).to(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU. (B, T, dim) → (B, T, dim)."""

    def __init__(self, config: LMConfig, dropout: float) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1, self.norm2 = RMSNorm(config.dim, config.norm_eps), RMSNorm(config.dim, config.norm_eps)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.gate_up = nn.Linear(config.dim, 2 * config.ffn_dim, bias=False)
        self.down = nn.Linear(config.ffn_dim, config.dim, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(F.silu(gate) * up))


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
                log_p = self.log_probabilities(self(tokens[:, :-1])).gather(-1, tokens[:, 1:, None])[..., 0].cpu().numpy()
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

        one = isinstance(prompt, Units | np.ndarray) or (len(prompt) > 0 and all(isinstance(u, int | np.integer) for u in prompt))
        prompts = [self.take(p, "the prompt") for p in ([prompt] if one else prompt)]
        seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int | np.integer) else list(seed)
        todo = begin(self, prompts, seeds, sampling=Sampling(**sampling), seconds=seconds, max_new_units=max_new_units)
        generate(self, todo)
        results = [c.result(only_new) for c in todo]
        return results[0] if one else results

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


class UnitLM(UnitDecoder):
    """Decoder over units. Tokens 0 … n_units - 1 are the units, token n_units is `</s>`, which begins and ends every sequence.

    Args:
        contract: the units that it speaks. An unknown `n_units` in it is filled in from the configuration.
        dropout: on the embeddings and on what each layer adds, while training; not part of the model folder.
        precision: of continuations: `fp32`, or `int8`, faster; not part of the model folder either. Scoring is always in float32.

    Raises:
        ContractError: the contract's n_units is not the configuration's.
    """

    def __init__(self, config: LMConfig, contract: UnitContract = UnitContract(), *, dropout: float = 0.0, precision: str = "fp32") -> None:
        super().__init__()
        if contract.n_units not in (None, config.n_units):
            raise ContractError(f"the language model has {config.n_units} units but its contract says {contract.n_units}")
        self.config, self.contract, self.precision = config, contract.with_(n_units=config.n_units), check_precision(precision)
        self.embed = nn.Embedding(config.n_units + 1, config.dim)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.duration = nn.Linear(config.dim, config.max_duration, bias=False)
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        angles = torch.outer(torch.arange(config.context, dtype=torch.float32), config.rope_theta**-half).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, p in self.named_parameters():
            if p.ndim == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (2 * self.config.layers) ** 0.5 if last else 0.02)
        nn.init.zeros_(self.duration.weight)  # all durations alike, without a draw: an imported model's fresh head is reproducible

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm.

        Args:
            tokens: (B, T) int64.
            positions: (B, T) int64 within each document, with `mask` (B, 1, T, T) bool, True = sees. Neither: one document a row, causal.

        Returns:
            (B, T, dim) float32.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        x = self.dropout(self.embed(tokens))
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return self.norm(x)

    def reader(self) -> Reader:
        layers = [
            Layer(RMS(b.norm1.weight, b.norm1.eps), b.qkv, b.out, RMS(b.norm2.weight, b.norm2.eps), b.gate_up, swiglu, b.down)
            for b in self.blocks
        ]
        return Reader(
            lambda tokens, places: self.embed.weight[tokens],
            layers,
            RMS(self.norm.weight, self.norm.eps),
            heads=self.config.heads,
            rotary=(self.cos, self.sin),
            precision=self.precision,
        )

    def unit_logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, n_units + 1) float32: what comes next."""
        return F.linear(hidden, self.embed.weight).float()

    def duration_logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, max_duration) float32: class d - 1 is a duration of d frames, of the unit just read."""
        return self.duration(hidden).float()

    def save(self, folder: Path | str) -> None:
        """Write a model folder, see `load_lm`."""
        config = {**asdict(self.config), "contract": self.contract.to_dict()}
        save_model(folder, kind="lm", config=config, tensors=from_torch(self.state_dict()))


def load_lm(
    path: Path | str,
    dictionary: Path | str | None = None,
    *,
    contract: UnitContract = UnitContract(),
    precision: str = "fp32",
) -> UnitDecoder:
    """A language model, on the CPU, in evaluation mode.

    Args:
        path: a folder written by `UnitLM.save`; one of `CausalUnitLM.save`, which began as a text model; or GSLM's, a checkpoint of
            fairseq's (`.pt`).
        dictionary: of fairseq's model; without it the `dict.txt` beside the checkpoint.
        contract: of the units of fairseq's model, which its files do not say.
        precision: of continuations: `fp32`, or `int8` (see `UnitLM`; one that began as a text model stays in float32).

    Raises:
        ModelError: it is missing, damaged, or holds something else.
    """
    path = Path(path)
    if dictionary is not None or path.is_file():
        from textless.lm.ulm import load_ulm

        return load_ulm(path, Path(dictionary or path.parent / "dict.txt"), contract, precision=precision)
    if (path / "textless.json").is_file():
        from textless.lm.causal import load_causal

        return load_causal(path)
    config, tensors = load_model(path, kind="lm")
    try:
        kept = UnitContract.from_dict(config.pop("contract"))
        model = UnitLM(LMConfig(**config), kept, precision=precision)
        model.load_state_dict(to_torch(tensors))
    except (KeyError, TypeError, RuntimeError) as e:
        raise ModelError(f"{path}: not a language model of this version ({e})") from None
    return model.eval()
