"""A unit language model that starts from a text language model of transformers' (TWIST: Hassid et al. 2023, arXiv:2305.13009).

The layers keep their weights; the token embeddings and the output are made anew, n_units + 1 rows, and a duration head stands beside
them as in `UnitLM`. Whatever `AutoModelForCausalLM` loads will do if it takes positions and a mask and keeps keys and values (Llama,
Qwen, OPT, GPT-2 …): each model is tried on a few tokens before it is given out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from textless.checks import Count, check
from textless.errors import ContractError, ModelError
from textless.files import write_text
from textless.lm.cache import KVCache
from textless.lm.decoder import UnitDecoder
from textless.lm.hf.pretrained import first_line, load_pretrained
from textless.lm.packing import document_mask
from textless.model_io import check_finite, from_torch, read_json
from textless.types import UnitContract

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OURS, DURATION = "textless.json", "textless.safetensors"  # beside the files of transformers
NOISE = 0.1  # around the mean text embedding, in standard deviations of the text embeddings


@dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """What the callers of a unit language model ask for.

    Attributes:
        dim: width of the hidden states that the output reads.
        heads: of keys and values, which may be fewer than those of queries.
        context: tokens that are seen at once, `</s>` included.
    """

    n_units: int
    dim: int
    layers: int
    heads: int
    head_dim: int
    context: int
    max_duration: int


class Past:
    """A `KVCache` as transformers' layers see a cache: they hand over keys and values for `positions`, (B, T) int64, and get all that there
    are then, `length` in the longest row.
    """

    is_compileable = False

    def __init__(self, cache: KVCache, positions: Tensor, length: int) -> None:
        self.cache, self.positions, self.length = cache, positions, length

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """(B, heads, T, head_dim) twice → (B, heads, length, head_dim) twice."""
        rows = torch.arange(len(self.positions), device=keys.device)[:, None]
        for kept, new in zip(self.cache.both[layer], (keys, values), strict=True):
            kept[rows, :, self.positions] = new.transpose(1, 2)
        return tuple(self.cache.both[layer][..., : self.length, :])

    def get_seq_length(self, layer: int = 0) -> int:
        return self.length - self.positions.shape[1]


class CausalUnitLM(UnitDecoder):
    """A causal language model of transformers' over units: token n_units is `</s>`. Scores, continues and trains as `UnitLM` does.

    Args:
        model: vocabulary of n_units + 1; it is used, not copied.
        contract: of its units; n_units must be known.
        context: at most what the model can see, which is the default.

    Raises:
        ModelError: the model has another vocabulary, or cannot be used in this way.
        ContractError: the contract does not say how many units there are.
    """

    def __init__(
        self, model: PreTrainedModel, contract: UnitContract, *, context: int | None = None, max_duration: int = 32
    ) -> None:
        super().__init__()
        if contract.n_units is None:
            raise ContractError("the number of units is unknown; declare n_units with --contract")
        c, self.kind = model.config.get_text_config(), model.config.model_type
        rows, output = model.get_input_embeddings().weight.shape[0], model.get_output_embeddings()
        if output is None or {rows, output.weight.shape[0]} != {contract.n_units + 1}:
            raise ModelError(
                f"the {self.kind} has a vocabulary of {rows}, where {contract.n_units} units and </s> are wanted"
            )
        window = getattr(c, "sliding_window", None) if getattr(c, "use_sliding_window", True) else None
        longest = min((n for n in (getattr(c, "max_position_embeddings", None), window) if n), default=context)
        if longest is None or not 2 <= (context or longest) <= longest:
            raise ModelError(f"the {self.kind} sees {longest} tokens at once; a context of {context} is not possible")
        heads = c.num_attention_heads
        self.model, self.contract = model.float(), contract
        self.config = CausalConfig(
            n_units=contract.n_units,
            dim=output.weight.shape[1],
            layers=c.num_hidden_layers,
            heads=getattr(c, "num_key_value_heads", None) or heads,
            head_dim=getattr(c, "head_dim", None) or c.hidden_size // heads,
            context=context or longest,
            max_duration=max_duration,
        )
        self.duration = nn.Linear(self.config.dim, max_duration, bias=False, device=output.weight.device)
        nn.init.zeros_(self.duration.weight)  # all durations alike
        self._try()

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Hidden states that the output reads, (B, T, dim) float32. Arguments as in `UnitLM.forward`."""
        return self._hidden(tokens, positions, mask, None)

    @torch.inference_mode()
    def read(self, tokens: Tensor, cache: KVCache) -> Tensor:
        positions = cache.filled[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        mask = torch.arange(int(positions.max()) + 1, device=tokens.device) <= positions[:, None, :, None]
        hidden = self._hidden(tokens, positions, mask, Past(cache, positions, mask.shape[-1]))
        cache.filled += tokens.shape[1]
        return hidden

    def _hidden(self, tokens: Tensor, positions: Tensor | None, mask: Tensor | None, past: Past | None) -> Tensor:
        if mask is not None:  # added to the scores, which every attention of transformers' understands
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
        return self.model.base_model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=past,
            use_cache=past is not None,
        ).last_hidden_state

    def unit_logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, n_units + 1) float32: what comes next."""
        return self.model.get_output_embeddings()(hidden).float()

    def duration_logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, max_duration) float32: class d - 1 is a duration of d frames, of the unit just read."""
        return self.duration(hidden).float()

    def _try(self) -> None:
        """Raise ModelError unless documents in one row are as apart, reading on is as reading at once, and logits are the model's."""
        n, device = min(5, self.config.context), self.device
        first = torch.arange(self.n_units, self.n_units + n, device=device)[None] % (self.n_units + 1)  # `</s>`, 0, 1 …
        second = first[:, :2]
        positions = torch.cat([torch.arange(n, device=device), torch.arange(2, device=device)])[None]
        try:
            with self.evaluating():
                alone = self(first)
                packed = self(torch.cat([first, second], 1), positions=positions, mask=document_mask(positions))
                cache = KVCache(self.config, 2, n, device)
                self.read(first[:, :-1], cache.row(0)), self.read(first[:, :1], cache.row(1))
                read = self.read(torch.cat([first[:, -1:], first[:, 1:2]]), cache)[:, 0]
                pairs = {
                    "keep documents in one row apart": (packed, torch.cat([alone, self(second)], 1)),
                    "read on from kept keys and values": (read, alone[0, [-1, 1]]),
                    "give plain logits": (self.unit_logits(alone), self.model(first).logits.float()),
                }
        except Exception as e:  # of any architecture that was not made for this
            raise ModelError(
                f"the {self.kind} cannot be a unit language model ({type(e).__name__}: {first_line(e)})"
            ) from None
        for what, (found, wanted) in pairs.items():
            if found.shape != wanted.shape or not (found - wanted).abs().max() <= 1e-3 * wanted.abs().max():
                raise ModelError(f"the {self.kind} cannot be a unit language model: it does not {what}")

    def save(self, folder: Path | str) -> None:
        """Write a folder that transformers loads as the same causal model, and `load_causal` with its contract and duration head."""
        from safetensors.numpy import save

        folder = Path(folder)
        self.model.save_pretrained(folder)
        (folder / DURATION).write_bytes(save(from_torch({"duration.weight": self.duration.weight})))
        content = {"kind": "causal_lm", "context": self.config.context, "contract": self.contract.to_dict()}
        write_text(folder / OURS, json.dumps(content, indent=1) + "\n")  # last: a folder with it is whole


def from_causal(
    source: Path | str | PreTrainedModel,
    contract: UnitContract,
    *,
    embeddings: str = "fresh",
    context: int | None = None,
    max_duration: int = 32,
    seed: int = 0,
) -> CausalUnitLM:
    """A text language model as the start of a unit language model, in evaluation mode, in float32, to be trained.

    Args:
        source: a folder of transformers' with safetensors, or a model, which is changed and used.
        contract: of the units; n_units must be known.
        embeddings: `fresh`, normal with the standard deviation of the text's, or `mean`, each unit at the mean text embedding with a
            tenth of that as noise; an output that is not tied likewise, from its own rows.
        context: tokens seen at once; default and most is what the model can.
        max_duration: longest duration that the duration head knows, in frames.
        seed: of the embeddings.

    Raises:
        ModelError: the folder is missing, damaged or without safetensors; the model cannot be used in this way.
        ContractError: the contract does not say how many units there are.
        ValueError: `embeddings` is neither.
    """
    from transformers import GenerationConfig

    if embeddings not in ("fresh", "mean"):
        raise ValueError(f"embeddings must be 'fresh' or 'mean', got {embeddings!r}")
    if contract.n_units is None:
        raise ContractError("the number of units is unknown; declare n_units with --contract")
    model = load_pretrained(Path(source)) if isinstance(source, Path | str) else source
    if model.get_output_embeddings() is None:
        raise ModelError(f"the {model.config.model_type} has no output over a vocabulary")
    end, generator = contract.n_units, torch.Generator().manual_seed(seed)

    def rows(weight: Tensor) -> Tensor:
        weight = weight.detach().float()
        noise = torch.randn(end + 1, weight.shape[1], generator=generator).to(weight.device) * weight.std()
        return noise if embeddings == "fresh" else weight.mean(0) + NOISE * noise

    into, output = model.get_input_embeddings(), model.get_output_embeddings()
    new = [rows(into.weight)] if output.weight is into.weight else [rows(into.weight), rows(output.weight)]
    model.resize_token_embeddings(end + 1, mean_resizing=False)
    with torch.no_grad():
        for module, weight in zip((model.get_input_embeddings(), model.get_output_embeddings()), new, strict=False):
            module.weight.copy_(weight)
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            model.get_output_embeddings().bias.zero_()
    # The text's padding token is a unit now: left as it was, it would never learn.
    model.get_input_embeddings().padding_idx = None
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.pad_token_id, config.bos_token_id, config.eos_token_id = None, end, end
    model.generation_config = GenerationConfig(bos_token_id=end, eos_token_id=end)
    return CausalUnitLM(model, contract, context=context, max_duration=max_duration).eval()


def load_causal(folder: Path | str) -> CausalUnitLM:
    """The language model of a folder written by `CausalUnitLM.save`, on the CPU, in evaluation mode. Reads safetensors only.

    Raises:
        ModelError: the folder is missing, damaged, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    ours = read_json(folder / OURS)
    if ours.get("kind") != "causal_lm":
        raise ModelError(f"{folder}: holds a model of kind {ours.get('kind')!r} where a causal_lm is wanted")
    try:
        contract = UnitContract.from_dict(check(ours["contract"], dict, f"{OURS}: contract"))
        context = check(ours["context"], Count, f"{OURS}: context")
        model = load_pretrained(folder)
        weight = load_file(folder / DURATION)["duration.weight"].float()
        check_finite(DURATION, "duration.weight", weight)
        lm = CausalUnitLM(model, contract, context=context, max_duration=len(weight))
        lm.duration.load_state_dict({"weight": weight})
    except (ModelError, ContractError) as e:
        raise ModelError(str(e) if str(e).startswith(str(folder)) else f"{folder}: {e}") from None
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as e:
        raise ModelError(f"{folder}: not a language model of this version ({first_line(e)})") from None
    return lm.eval()
