"""GSLM's published unit language models: fairseq's `transformer_lm` checkpoints with their `dict.txt`.

Lakhotia et al. 2021 (arXiv:2102.01192); the files are listed in fairseq's examples/textless_nlp/gslm/ulm. The decoder
is pre-norm with sinusoidal positions (the first token is at 2), embeddings scaled by sqrt(dim) and ReLU. Its vocabulary
is a dictionary: four specials, the units in the order of their frequency, `madeupword…` up to a multiple of eight. Here
tokens are those of `UnitLM`: the units, then `</s>`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.errors import ContractError, ModelError
from textless.lm.decoder import Decoder
from textless.lm.fast_decode import LINEAR, FastDecoder, Layer, check_precision
from textless.lm.gslm.fairseq import (
    END,
    KNOWN_ACTIVATIONS,
    UNKNOWN,
    check_architecture,
    context_of,
    read_dictionary,
    rename,
)
from textless.pickles import load_torch, plain
from textless.types import UnitContract, Units, UnitsLike

FIRST_POSITION = 2  # fairseq's padding index + 1
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = dict(zip(KNOWN_ACTIVATIONS, (F.relu, F.gelu), strict=True))


@dataclass(frozen=True, kw_only=True)
class ULMConfig:
    """Shape of a published unit language model.

    Attributes:
        n_units: 1 + the largest unit; some below may not be in the dictionary.
        entries: of the dictionary, specials and padding included.
        context: tokens that are seen at once, the first `</s>` included.
    """

    n_units: int
    entries: int
    dim: int
    layers: int
    heads: int
    ffn_dim: int
    context: int
    activation: str = "relu"
    scale_embedding: bool = True
    final_norm: bool = True

    @property
    def max_duration(self) -> int:
        """There is no duration head."""
        return 0

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


class ULMBlock(nn.Module):
    """Pre-norm attention and feed-forward. (B, T, dim) → (B, T, dim)."""

    def __init__(self, config: ULMConfig) -> None:
        super().__init__()
        self.heads, self.activation = config.heads, ACTIVATIONS[config.activation]
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.up, self.down = nn.Linear(config.dim, config.ffn_dim), nn.Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class ULM(Decoder):
    """A published unit language model; it scores and continues as `UnitLM` does, and is not for training.

    It was trained on deduplicated units and has no duration head: a continuation has no durations, nor has the prompt
    in it. So it needs a vocoder that predicts durations, and lengths are numbers of units. After a prompt with
    durations no unit follows itself; after bare units it may, as in GSLM's own sampling.

    Args:
        rows: (n_units + 1,) int64 on the CPU, entry of the dictionary of each token, -1 for a unit that it lacks.
        contract: of its units.
    """

    config: ULMConfig
    rows: Tensor
    missing: Tensor
    frequencies: Tensor
    has_durations = False

    def __init__(self, config: ULMConfig, rows: Tensor, contract: UnitContract = UnitContract()) -> None:
        super().__init__()
        self.config, self.contract = config, contract.with_(n_units=config.n_units)
        self.lacking = frozenset(np.flatnonzero(rows.numpy() < 0).tolist())
        self.register_buffer("rows", torch.where(rows < 0, UNKNOWN, rows), persistent=False)
        self.register_buffer("missing", rows < 0, persistent=False)
        step = -math.log(10000) / (config.dim // 2 - 1)
        frequencies = (torch.arange(config.dim // 2, dtype=torch.float32, device=rows.device) * step).exp()
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.embed = nn.Embedding(config.entries, config.dim)
        self.blocks = cast("Sequence[ULMBlock]", nn.ModuleList(ULMBlock(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.dim) if config.final_norm else nn.Identity()
        self.output = nn.Linear(config.dim, config.entries, bias=False)

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        x = self._embed(tokens, positions)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        angles = (positions + FIRST_POSITION)[..., None] * self.frequencies
        scale = math.sqrt(self.config.dim) if self.config.scale_embedding else 1.0
        return scale * self.embed(self.rows[tokens]) + torch.cat([angles.sin(), angles.cos()], dim=-1)

    def fast_decoder(self) -> FastDecoder:
        linear, numbers = LINEAR[self.precision], torch.arange(self.config.context, device=self.device)
        return FastDecoder(
            lambda tokens, positions: self._embed(tokens, numbers[positions]),
            [
                Layer(b.norm1, linear(b.qkv), linear(b.out), b.norm2, linear(b.up), b.activation, linear(b.down))
                for b in self.blocks
            ],
            self.norm,
            heads=self.config.heads,
            rotary=None,
        )

    def unit_logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, n_units + 1) float32: of the next token; -inf for units that the dictionary lacks.

        The other entries of the dictionary are left out, so probabilities are a little higher than fairseq's;
        `log_probabilities` has fairseq's.
        """
        return self.output(hidden).float()[..., self.rows].masked_fill(self.missing, -torch.inf)

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, n_units + 1) float64, nats, of a softmax over the whole dictionary: fairseq's."""
        return torch.log_softmax(self.output(hidden).double(), -1)[..., self.rows].masked_fill(self.missing, -torch.inf)

    def checked(self, units: UnitsLike, what: str) -> Units:
        """`units` under this model's contract. Raises ContractError also for a unit that the dictionary lacks."""
        result = super().checked(units, what)
        if lacking := self.lacking.intersection(result.units.tolist()):
            raise ContractError(
                f"unit {min(lacking)} in {what} is not in the language model's dictionary; use models of one set"
            )
        return result


def load_ulm(
    checkpoint: Path | str, dictionary: Path | str, contract: UnitContract = UnitContract(), *, precision: str = "fp32"
) -> ULM:
    """fairseq's unit language model, on the CPU, in evaluation mode, in float32. No code in the files is run.

    Args:
        checkpoint: `.pt` of a `transformer_lm`, of any size, with tied or untied output.
        dictionary: its `dict.txt`.
        contract: of its units, as far as it is known. Its n_units may be more than the dictionary has.
        precision: of continuations: `fp32`, or `int8`, see `UnitLM`.

    Raises:
        ModelError: a file is missing, damaged or of another kind; they are not of one model; an adaptive softmax or
            something else that GSLM's models do not have.
        ContractError: the dictionary has more units than the contract.
    """
    check_precision(precision)
    place, entries, units = str(checkpoint), *read_dictionary(dictionary)
    model, task, tensors = _read_checkpoint(checkpoint)
    check_architecture(place, model, task, tensors)
    state, sizes = rename(place, tensors, shared=bool(model.get("share_decoder_input_output_embed")))
    if sizes["entries"] != entries:
        raise ModelError(
            f"{dictionary}: is of another model: {entries} entries with fairseq's specials, where {place} has "
            f"{sizes['entries']}; give the dict.txt that was published with it"
        )
    n_units = max(units) + 1
    if contract.n_units is not None and contract.n_units < n_units:
        raise ContractError(f"{dictionary}: has {n_units} units but the contract says {contract.n_units}")
    n_units = contract.n_units or n_units
    heads = model.get("decoder_attention_heads")
    if type(heads) is not int or heads < 1 or sizes["dim"] % heads or sizes["dim"] < 4 or sizes["dim"] % 2:
        raise ModelError(f"{place}: {heads!r} heads do not fit a width of {sizes['dim']}")
    config = ULMConfig(
        n_units=n_units,
        heads=heads,
        context=context_of(place, model, task),
        activation=model.get("activation_fn", "relu"),
        scale_embedding=not model.get("no_scale_embedding", False),
        final_norm="norm.weight" in state,
        **sizes,
    )
    rows = torch.tensor([*(units.get(unit, -1) for unit in range(n_units)), END])
    with torch.device("meta"):  # without initialising weights that are then replaced
        ulm = ULM(config, rows, contract)
    for name, empty in ulm.state_dict().items():
        if name not in state or state[name].shape != empty.shape:
            shape = f"is {tuple(state[name].shape)}" if name in state else "is missing"
            raise ModelError(
                f"{place}: what {name} is made of {shape} where {tuple(empty.shape)} is expected; the file is damaged"
            )
    ulm.load_state_dict(state, assign=True)
    ulm.precision = precision
    return ulm.eval().requires_grad_(False)


def _read_checkpoint(path: Path | str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """The configurations of model and task, and the tensors. Raises ModelError."""
    content = load_torch(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ModelError(f"{path}: not a fairseq checkpoint; give the .pt of a unit language model")
    settings = plain(content.get("cfg")) or plain(content.get("args"))
    if not isinstance(settings, dict):
        raise ModelError(
            f"{path}: a fairseq checkpoint without its configuration (cfg or args); give the file as it was published"
        )
    # `args` is flat, where `cfg` has a part for each.
    model, task = (settings[k] if isinstance(settings.get(k), dict) else settings for k in ("model", "task"))
    return model, task, {k: v for k, v in content["model"].items() if isinstance(k, str) and isinstance(v, Tensor)}
