"""GSLM's published unit language models: fairseq's `transformer_lm` checkpoints with the `dict.txt` beside them.

Lakhotia et al. 2021 (arXiv:2102.01192); the files are listed in fairseq's examples/textless_nlp/gslm/ulm. The decoder is pre-norm with
sinusoidal positions (the first token is at 2), embeddings scaled by sqrt(dim) and ReLU. Its vocabulary is a dictionary: four specials, the
units in the order of their frequency, `madeupword…` up to a multiple of eight. Here tokens are those of `UnitLM`: the units, then `</s>`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.errors import ContractError, ModelError
from textless.lm.decoder import UnitDecoder
from textless.lm.fast_decode import Layer, Reader, check_precision
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
from textless.types import UnitContract, Units

FIRST_POSITION = 2  # fairseq's padding index + 1
ACTIVATIONS = dict(zip(KNOWN_ACTIVATIONS, (F.relu, F.gelu), strict=True))


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


class ULM(UnitDecoder):
    """A published unit language model; it scores and continues as `UnitLM` does, and is not for training.

    It was trained on deduplicated units and knows nothing of durations: a continuation has none, nor has the prompt in it, so a vocoder
    that predicts them has to follow, and lengths are numbers of units. After a prompt with durations no unit follows itself; after bare
    units it may, as in GSLM's own sampling.

    Args:
        rows: (n_units + 1,) int64 on the CPU, entry of the dictionary of each token, -1 for a unit that it lacks.
        contract: the units that it speaks.
    """

    has_durations = False

    def __init__(self, config: ULMConfig, rows: Tensor, contract: UnitContract = UnitContract()) -> None:
        super().__init__()
        self.config, self.contract = config, contract.with_(n_units=config.n_units)
        self.lacking = frozenset(np.flatnonzero(rows.numpy() < 0).tolist())
        self.register_buffer("rows", torch.where(rows < 0, UNKNOWN, rows), persistent=False)
        self.register_buffer("missing", rows < 0, persistent=False)
        steps = torch.arange(config.dim // 2, dtype=torch.float32, device=rows.device) * -(
            math.log(10000) / (config.dim // 2 - 1)
        )
        self.register_buffer("frequencies", steps.exp(), persistent=False)
        self.embed = nn.Embedding(config.entries, config.dim)
        self.blocks = nn.ModuleList(ULMBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim) if config.final_norm else nn.Identity()
        self.output = nn.Linear(config.dim, config.entries, bias=False)

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm, (B, T, dim) float32. Arguments as in `UnitLM.forward`."""
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

    def reader(self) -> Reader:
        numbers = torch.arange(self.config.context, device=self.device)
        return Reader(
            lambda tokens, places: self._embed(tokens, numbers[places]),
            [Layer(b.norm1, b.qkv, b.out, b.norm2, b.up, b.activation, b.down) for b in self.blocks],
            self.norm,
            heads=self.config.heads,
            rotary=None,
            precision=self.precision,
        )

    def unit_logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, n_units + 1) float32: what comes next, to sample from; -inf for units that the dictionary lacks.

        The other entries of the dictionary are left out, so a softmax over this is a little more than fairseq's: `log_probabilities` is it.
        """
        return self.output(hidden).float()[..., self.rows].masked_fill(self.missing, -torch.inf)

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, n_units + 1) float64, nats, of a softmax over the whole dictionary: fairseq's."""
        return torch.log_softmax(self.output(hidden).double(), -1)[..., self.rows].masked_fill(self.missing, -torch.inf)

    def take(self, units: Units | np.ndarray | Sequence[int], what: str) -> Units:
        """`units` under this model's contract. Raises ContractError also for a unit that the dictionary lacks."""
        taken = super().take(units, what)
        if lacking := self.lacking.intersection(taken.units.tolist()):
            raise ContractError(
                f"unit {min(lacking)} in {what} is not in the language model's dictionary; use models of one set"
            )
        return taken


def load_ulm(
    checkpoint: Path | str, dictionary: Path | str, contract: UnitContract = UnitContract(), *, precision: str = "fp32"
) -> ULM:
    """A unit language model of fairseq's, on the CPU, in evaluation mode, in float32. Nothing in the files is run.

    Args:
        checkpoint: `.pt` of a `transformer_lm`, of any size, with tied or untied output.
        dictionary: the `dict.txt` beside it.
        contract: of its units, as far as it is known. Its n_units may be more than the dictionary tells.
        precision: of continuations: `fp32`, or `int8`, see `UnitLM`.

    Raises:
        ModelError: a file is missing, damaged or of another kind; they are not of one model; an adaptive softmax or something else that
            GSLM's models do not have.
        ContractError: the dictionary has more units than the contract.
    """
    check_precision(precision)
    place, entries, units = str(checkpoint), *read_dictionary(dictionary)
    content = load_torch(checkpoint)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ModelError(f"{place}: not a checkpoint of fairseq's; give the .pt of a unit language model")
    settings = plain(content.get("cfg")) or plain(content.get("args"))
    if not isinstance(settings, dict):
        raise ModelError(
            f"{place}: a checkpoint of fairseq's without its configuration (cfg or args); give the file as it was published"
        )
    model, task = (
        settings[k] if isinstance(settings.get(k), dict) else settings for k in ("model", "task")
    )  # args is flat
    tensors = {k: v for k, v in content["model"].items() if isinstance(k, str) and isinstance(v, Tensor)}
    check_architecture(place, model, task, tensors)
    state, sizes = rename(place, tensors, shared=bool(model.get("share_decoder_input_output_embed")))
    if sizes["entries"] != entries:
        raise ModelError(
            f"{dictionary}: is of another model: {entries} entries with fairseq's specials, where {place} has {sizes['entries']}; "
            "give the dict.txt that was published beside it"
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
    with torch.device("meta"):  # nothing is drawn that will be replaced
        ulm = ULM(config, rows, contract)
    for name, empty in ulm.state_dict().items():
        if name not in state or state[name].shape != empty.shape:
            found = f"is {tuple(state[name].shape)}" if name in state else "is missing"
            raise ModelError(
                f"{place}: what {name} is made of {found} where {tuple(empty.shape)} is expected; the file is damaged"
            )
    ulm.load_state_dict(state, assign=True)
    ulm.precision = precision
    return ulm.eval().requires_grad_(False)
