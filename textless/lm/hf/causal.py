"""A unit language model that starts from a text language model of `transformers`.

This is TWIST (Hassid et al. 2023, arXiv:2305.13009). The layers keep their weights; the token embeddings and the output
are new, of n_units + 1 rows, and there is a duration head as in `UnitLM`. Any model that `AutoModelForCausalLM` loads
can be used if it takes positions, a mask and a KV cache (Llama, Qwen, OPT, GPT-2 …): each model is tried on a few
tokens before it is returned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from textless.checks import Count, check
from textless.errors import ContractError, ModelError
from textless.files import write_text
from textless.lm.cache import KVCache
from textless.lm.decoder import Decoder
from textless.lm.hf.pretrained import first_line, load_pretrained, without_progress
from textless.lm.packing import document_mask
from textless.model_io import check_finite, from_torch, read_json
from textless.types import UnitContract

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OURS, DURATION = "textless.json", "textless.safetensors"  # in the folder that transformers writes
NOISE = 0.1  # around the mean text embedding, in standard deviations of the text embeddings


@dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """Shape of the model, see `DecoderConfig`.

    Attributes:
        heads: of keys and values, which may be fewer than those of queries.
    """

    n_units: int
    dim: int
    layers: int
    heads: int
    head_dim: int
    context: int
    max_duration: int


class PastKeyValues:
    """A `KVCache` with the interface of a `transformers` cache.

    Args:
        positions: (B, T) int64, of the keys and values that the layers append.
        length: of the longest row, with them.
    """

    is_compileable = False

    def __init__(self, cache: KVCache, positions: Tensor, length: int) -> None:
        self.cache, self.positions, self.length = cache, positions, length

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, T, head_dim) twice → all keys and values, (B, heads, length, head_dim) twice."""
        rows = torch.arange(len(self.positions), device=keys.device)[:, None]
        all_keys, all_values = self.cache.kv[layer]
        all_keys[rows, :, self.positions] = keys.transpose(1, 2)
        all_values[rows, :, self.positions] = values.transpose(1, 2)
        return all_keys[:, :, : self.length], all_values[:, :, : self.length]

    def get_seq_length(self, layer: int = 0) -> int:
        return self.length - self.positions.shape[1]


class CausalDecoder(Decoder):
    """A causal language model of `transformers`; a subclass says which of its tokens are the units.

    Args:
        model: it is used, not copied.
        contract: of its units; n_units must be known.
        context: at most that of the model, which is the default.
        max_duration: classes of the duration head, 0 without one.

    Raises:
        ModelError: the model cannot be used in this way.
    """

    config: CausalConfig

    def __init__(self, model: PreTrainedModel, contract: UnitContract, *, context: int | None, max_duration: int):
        super().__init__()
        c, self.kind = model.config.get_text_config(), model.config.model_type
        output = vocabulary(model)[1]
        if output is None:
            raise ModelError(f"the {self.kind} has no output over a vocabulary")
        window = getattr(c, "sliding_window", None) if getattr(c, "use_sliding_window", True) else None
        longest = min((n for n in (getattr(c, "max_position_embeddings", None), window) if n), default=context)
        if longest is None or not 2 <= (context or longest) <= longest:
            raise ModelError(f"the {self.kind} sees {longest} tokens at once; a context of {context} is not possible")
        heads = c.num_attention_heads
        assert contract.n_units is not None
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

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self._hidden(tokens, positions, mask, None)

    @torch.inference_mode()
    def forward_cached(self, tokens: Tensor, cache: KVCache) -> Tensor:
        positions = cache.lengths[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        mask = torch.arange(int(positions.max()) + 1, device=tokens.device) <= positions[:, None, :, None]
        hidden = self._hidden(tokens, positions, mask, PastKeyValues(cache, positions, mask.shape[-1]))
        cache.lengths += tokens.shape[1]
        return hidden

    def _hidden(
        self, tokens: Tensor, positions: Tensor | None, mask: Tensor | None, past: PastKeyValues | None
    ) -> Tensor:
        if mask is not None:  # an additive mask, which every attention implementation of transformers takes
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
        return self.model.base_model(
            input_ids=self.rows(tokens),
            position_ids=positions,
            attention_mask=mask,
            past_key_values=past,
            use_cache=past is not None,
        ).last_hidden_state

    def rows(self, tokens: Tensor) -> Tensor:
        """Tokens of ours → the model's, (B, T) int64."""
        return tokens

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, vocabulary of the model) float32."""
        return self.model.get_output_embeddings()(hidden).float()

    def unit_logits(self, hidden: Tensor) -> Tensor:
        return self.logits(hidden)

    def _try(self) -> None:
        """Raise ModelError unless the model can be used.

        Packed documents must be independent, cached steps equal to the whole sequence, and logits those of the model.
        """
        n, device = min(5, self.config.context), self.device
        first = torch.arange(self.n_units, self.n_units + n, device=device)[None] % (self.n_units + 1)  # `</s>`, 0, 1 …
        second = first[:, :2]
        positions = torch.cat([torch.arange(n, device=device), torch.arange(2, device=device)])[None]
        try:
            with self.evaluating():
                alone = self(first)
                packed = self(torch.cat([first, second], 1), positions=positions, mask=document_mask(positions))
                cache = KVCache(self.config, 2, n, device)
                self.forward_cached(first[:, :-1], cache.row(0))
                self.forward_cached(first[:, :1], cache.row(1))
                step = self.forward_cached(torch.cat([first[:, -1:], first[:, 1:2]]), cache)[:, 0]
                pairs = {
                    "keep documents in one row apart": (packed, torch.cat([alone, self(second)], 1)),
                    "continue from a KV cache": (step, alone[0, [-1, 1]]),
                    "give plain logits": (self.logits(alone), self.model(self.rows(first)).logits.float()),
                }
        except Exception as e:  # of any type: the architecture is unknown
            raise ModelError(
                f"the {self.kind} cannot be a unit language model ({type(e).__name__}: {first_line(e)})"
            ) from None
        for what, (actual, expected) in pairs.items():
            if actual.shape != expected.shape or not (actual - expected).abs().max() <= 1e-3 * expected.abs().max():
                raise ModelError(f"the {self.kind} cannot be a unit language model: it does not {what}")


class CausalUnitLM(CausalDecoder):
    """A causal language model of `transformers` over units: token n_units is `</s>`. Used and trained as `UnitLM`.

    Args:
        model: vocabulary of n_units + 1; it is used, not copied.
        contract: of its units; n_units must be known.
        context: at most that of the model, which is the default.

    Raises:
        ModelError: the model has another vocabulary, or cannot be used in this way.
        ContractError: the contract does not say how many units there are.
    """

    def __init__(
        self, model: PreTrainedModel, contract: UnitContract, *, context: int | None = None, max_duration: int = 32
    ) -> None:
        if contract.n_units is None:
            raise ContractError("the number of units is unknown; declare n_units with --contract")
        embeddings, output = vocabulary(model)
        rows = len(embeddings.weight)
        if output is None or {rows, output.weight.shape[0]} != {contract.n_units + 1}:
            raise ModelError(
                f"the {model.config.model_type} has a vocabulary of {rows}, where {contract.n_units} units and </s> "
                "are wanted"
            )
        super().__init__(model, contract, context=context, max_duration=max_duration)
        self.duration = nn.Linear(self.config.dim, max_duration, bias=False, device=output.weight.device)
        nn.init.zeros_(self.duration.weight)  # all durations are equally likely
        self._try()

    def save(self, folder: Path | str) -> None:
        """Write a folder for `load_causal`, which transformers loads too, without contract and duration head."""
        from safetensors.numpy import save

        folder = Path(folder)
        self.save_merges(folder)
        with without_progress():
            self.model.save_pretrained(folder)
        (folder / DURATION).write_bytes(save(from_torch({"duration.weight": self.duration.weight})))
        content = {"kind": "causal_lm", "context": self.config.context, "contract": self.contract.to_dict()}
        write_text(folder / OURS, json.dumps(content, indent=1) + "\n")  # last: a folder that has it is complete


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
        source: a `transformers` folder, or a model, which is changed in place.
        contract: of the units; n_units must be known.
        embeddings: `fresh`, normal with the standard deviation of the text's, or `mean`, each unit at the mean text
            embedding with a tenth of that as noise. An untied output is initialised in the same way, from its own rows.
        context: tokens seen at once; at most that of the model, which is the default.
        max_duration: longest duration that the duration head has, in frames.
        seed: of the embeddings.

    Raises:
        ModelError: the folder is missing or damaged; the model cannot be used in this way.
        ContractError: the contract does not say how many units there are.
        ValueError: `embeddings` is neither.
    """
    if embeddings not in ("fresh", "mean"):
        raise ValueError(f"embeddings must be 'fresh' or 'mean', got {embeddings!r}")
    if contract.n_units is None:
        raise ContractError("the number of units is unknown; declare n_units with --contract")
    model = load_pretrained(Path(source)) if isinstance(source, Path | str) else source
    inputs, output = vocabulary(model)
    if output is None:
        raise ModelError(f"the {model.config.model_type} has no output over a vocabulary")
    end, generator = contract.n_units, torch.Generator().manual_seed(seed)

    def initialised(weight: Tensor) -> Tensor:
        weight = weight.detach().float()
        noise = torch.randn(end + 1, weight.shape[1], generator=generator).to(weight.device) * weight.std()
        return noise if embeddings == "fresh" else weight.mean(0) + NOISE * noise

    tied = inputs.weight is output.weight
    new = [initialised(inputs.weight)] if tied else [initialised(inputs.weight), initialised(output.weight)]
    replace_vocabulary(model, new)
    return CausalUnitLM(model, contract, context=context, max_duration=max_duration).eval()


def replace_vocabulary(model: PreTrainedModel, new: Sequence[Tensor], bias: Tensor | None = None) -> None:
    """Give a model the vocabulary of a `CausalUnitLM`, in place.

    Args:
        new: (n_units + 1, width) float32, the embeddings, and where it is not tied to them the output.
        bias: (n_units + 1,) of the output, where it has one; by default zero.
    """
    from transformers import GenerationConfig

    end = len(new[0]) - 1
    model.resize_token_embeddings(end + 1, mean_resizing=False)
    inputs, output = vocabulary(model)
    assert output is not None  # for mypy: resizing keeps it
    with torch.no_grad():
        for weight, values in zip((inputs.weight, output.weight), new, strict=False):
            weight.copy_(values)
        if getattr(output, "bias", None) is not None:
            output.bias.copy_(torch.zeros(end + 1) if bias is None else bias)
    # The text's padding token is a unit now: with a padding index it would get no gradient.
    inputs.padding_idx = None
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.pad_token_id, config.bos_token_id, config.eos_token_id = None, end, end
    model.generation_config = GenerationConfig(bos_token_id=end, eos_token_id=end)


def vocabulary(model: PreTrainedModel) -> tuple[nn.Embedding, nn.Linear | None]:
    """The token embeddings and the output over the vocabulary."""
    return cast("nn.Embedding", model.get_input_embeddings()), cast("nn.Linear | None", model.get_output_embeddings())


def load_causal(folder: Path | str) -> CausalUnitLM:
    """The language model of a folder that `CausalUnitLM.save` wrote, on the CPU, in evaluation mode.

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
