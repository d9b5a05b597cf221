"""The unit language model: a Llama-shaped decoder over units, with a head for how long each unit lasts.

The middle of GSLM (Lakhotia et al. 2021, arXiv:2102.01192): units without repeats, in sequences that begin and end with
`</s>`. The durations are pGSLM's duration stream (Kharitonov et al. 2022, arXiv:2109.03264), here as a
classifier on the same hidden state. The decoder is Llama's (Touvron et al. 2023, arXiv:2302.13971), so that
`textless.lm.hf.llama` can hand it to transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.checks import Between, Count, Positive, Size, check_fields
from textless.errors import ContractError, ModelError
from textless.lm.decoder import Decoder
from textless.lm.fast_decode import LINEAR, FastDecoder, FastRMSNorm, Layer, check_precision, swiglu
from textless.lm.gslm.fairseq import LONGEST
from textless.model_io import from_torch, save_model
from textless.training.loop import Dropout
from textless.types import PITCH_CLASSES, UnitContract


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Shape of a unit language model.

    Attributes:
        n_units: size of the codebook; the vocabulary has one token more, `</s>` = n_units.
        ffn_dim: inner width of the SwiGLU.
        context: tokens that are seen at once, `</s>` included.
        max_duration: longest duration that the duration head has, in frames; longer ones count as this.

    Raises ModelError that names a field whose value has another type or makes no sense.
    """

    n_units: Size
    dim: Size
    layers: Count
    heads: Count
    ffn_dim: Size
    context: Annotated[int, Between(1, LONGEST)]
    max_duration: Size = 32
    rope_theta: Positive = 10000.0
    norm_eps: Positive = 1e-5

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dim % (2 * self.heads):
            raise ModelError(f"dim {self.dim} must be a multiple of 2 × heads ({self.heads})")
        if self.n_units < 2 or self.context < 2:
            raise ModelError(
                f"a language model needs at least 2 units and a context of 2, got {self.n_units} and {self.context}"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


PRESETS: dict[str, dict[str, int]] = {
    "nano": {"dim": 96, "layers": 2, "heads": 3, "ffn_dim": 256},  # 0.3 M parameters at 500 units
    "tiny": {"dim": 320, "layers": 6, "heads": 5, "ffn_dim": 864},  # 7.6 M
    "small": {"dim": 512, "layers": 8, "heads": 8, "ffn_dim": 1376},  # 25 M
    "base": {"dim": 768, "layers": 12, "heads": 12, "ffn_dim": 2048},  # 85 M
    # 153 M: GSLM's width and depth; 2752 with a gate have the parameters of its 4096 without
    "gslm": {"dim": 1024, "layers": 12, "heads": 16, "ffn_dim": 2752},
}


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in the layout of transformers' Llama, where dimension i is rotated with i + head_dim / 2.

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


class UnitLM(Decoder):
    """A Llama-shaped decoder over units, with a duration head; where the contract has pitch, also with a pitch head.

    Args:
        contract: of its units. An unknown `n_units` in it is filled in from the configuration.
        dropout: on the embeddings and on what each layer adds, while training; not part of the model folder.
        precision: of continuations: `fp32`, or `int8`, faster; not part of the model folder either. Scoring is always
            in float32.

    Raises:
        ContractError: the contract's n_units is not the configuration's.
    """

    config: LMConfig
    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        config: LMConfig,
        contract: UnitContract = UnitContract(),
        *,
        dropout: float = 0.0,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        if contract.n_units not in (None, config.n_units):
            raise ContractError(
                f"the language model has {config.n_units} units but its contract says {contract.n_units}"
            )
        self.config, self.contract = config, contract.with_(n_units=config.n_units)
        self.precision = check_precision(precision)
        self.embed = nn.Embedding(config.n_units + 1, config.dim)
        self.dropout = Dropout(dropout)
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(config, dropout) for _ in range(config.layers)))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.duration = nn.Linear(config.dim, config.max_duration, bias=False)
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        angles = torch.outer(torch.arange(config.context, dtype=torch.float32), config.rope_theta**-half).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.has_pitch = contract.pitch is not None
        if self.has_pitch:
            self.pitch_embed = nn.Embedding(PITCH_CLASSES, config.dim)
            self.pitch = nn.Linear(config.dim, PITCH_CLASSES, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, p in self.named_parameters():
            if p.ndim == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (2 * self.config.layers) ** 0.5 if last else 0.02)
        # All durations are equally likely, without a random draw: the fresh head of an imported model is reproducible.
        nn.init.zeros_(self.duration.weight)
        if self.has_pitch:
            nn.init.zeros_(self.pitch.weight)
            nn.init.zeros_(self.pitch_embed.weight)

    def embedded(self, tokens: Tensor) -> Tensor:
        """Any shape int64 → (…, dim) float32. Where the model has pitch, tokens are those of `joint`."""
        if not self.has_pitch:
            return self.embed(tokens)
        vocabulary = self.config.n_units + 1
        return self.embed(tokens % vocabulary) + self.pitch_embed(tokens // vocabulary)

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        x = self.dropout(self.embedded(tokens))
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return self.norm(x)

    def fast_decoder(self) -> FastDecoder:
        linear = LINEAR[self.precision]
        layers = [
            Layer(
                FastRMSNorm(b.norm1.weight, b.norm1.eps),
                linear(b.qkv),
                linear(b.out),
                FastRMSNorm(b.norm2.weight, b.norm2.eps),
                linear(b.gate_up),
                swiglu,
                linear(b.down),
            )
            for b in self.blocks
        ]
        return FastDecoder(
            lambda tokens, positions: self.embedded(tokens),
            layers,
            FastRMSNorm(self.norm.weight, self.norm.eps),
            heads=self.config.heads,
            rotary=(self.cos, self.sin),
        )

    def unit_logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed.weight).float()

    def save(self, folder: Path | str) -> None:
        config = {**asdict(self.config), "contract": self.contract.to_dict()}
        self.save_merges(folder)
        save_model(folder, kind="lm", config=config, tensors=from_torch(self.state_dict()))
