"""Conversion between `UnitLM` and the LlamaForCausalLM of `transformers`, for its tools (generate, TRL, vLLM, SlamKit).

A Llama has no duration head: the export leaves it out, and the import makes a fresh one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from textless.errors import ModelError
from textless.files import write_text
from textless.lm.hf.foreign import UnitTokens, write_unit_tokens
from textless.lm.hf.pretrained import without_progress
from textless.lm.model import LMConfig, UnitLM
from textless.model_io import read_json
from textless.types import UnitContract

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


def to_llama(lm: UnitLM) -> LlamaForCausalLM:
    """The same units, the same logits; float32, in evaluation mode. Token n_units is `</s>`: bos and eos.

    Raises ModelError for a model with pitch.
    """
    if lm.has_pitch:
        raise ModelError("a Llama reads units alone, and this language model also their pitch; train one without")
    from transformers import LlamaConfig, LlamaForCausalLM

    c = lm.config
    model = LlamaForCausalLM(
        LlamaConfig(  # type: ignore[call-arg]  # rope_theta: version 5 takes it without declaring it
            vocab_size=c.n_units + 1,
            hidden_size=c.dim,
            intermediate_size=c.ffn_dim,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            num_key_value_heads=c.heads,
            max_position_embeddings=c.context,
            rms_norm_eps=c.norm_eps,
            rope_theta=c.rope_theta,
            tie_word_embeddings=True,
            attention_bias=False,
            mlp_bias=False,
            bos_token_id=c.n_units,
            eos_token_id=c.n_units,
        )
    )
    state = {
        "model.embed_tokens.weight": lm.embed.weight,
        "lm_head.weight": lm.embed.weight,
        "model.norm.weight": lm.norm.weight,
    }
    for i, block in enumerate(lm.blocks):
        names = _names(i)
        for name, weight in zip(names["qkv"], block.qkv.weight.chunk(3), strict=True):
            state[name] = weight
        for name, weight in zip(names["gate_up"], block.gate_up.weight.chunk(2), strict=True):
            state[name] = weight
        for ours in ("norm1", "norm2", "out", "down"):
            state[names[ours][0]] = getattr(block, ours).weight
    model.load_state_dict({k: v.detach().cpu() for k, v in state.items()})
    return model.eval()


def from_llama(model: LlamaForCausalLM, contract: UnitContract) -> UnitLM:
    """A Llama over units as a unit language model, in evaluation mode.

    Its duration head is fresh: all durations are equally likely.

    Args:
        model: vocabulary of n_units + 1, the last token is `</s>` (eos).
        contract: of its units.

    Raises:
        ModelError: something in it that this architecture does not have (grouped keys, biases, scaled RoPE, an untied
            output …).
        ContractError: another number of units than in the contract.
    """
    c = model.config
    rope = getattr(c, "rope_parameters", None) or {
        "rope_theta": c.rope_theta,
        **(getattr(c, "rope_scaling", None) or {}),
    }
    required = {
        "model_type": (c.model_type, "llama"),
        "eos_token_id": (c.eos_token_id, c.vocab_size - 1),
        "num_key_value_heads": (c.num_key_value_heads, c.num_attention_heads),
        "head_dim": (
            getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
            c.hidden_size // c.num_attention_heads,
        ),
        "hidden_act": (c.hidden_act, "silu"),
        "tie_word_embeddings": (c.tie_word_embeddings, True),
        "attention_bias": (c.attention_bias, False),
        "mlp_bias": (c.mlp_bias, False),
        "rope_type": (rope.get("rope_type", "default"), "default"),
    }
    for name, (actual, expected) in required.items():
        if actual != expected:
            raise ModelError(f"the Llama model has {name} {actual!r}; a unit language model needs {expected!r}")
    config = LMConfig(
        n_units=c.vocab_size - 1,
        dim=c.hidden_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        ffn_dim=c.intermediate_size,
        context=c.max_position_embeddings,
        rope_theta=float(rope["rope_theta"]),
        norm_eps=c.rms_norm_eps,
    )
    lm, source = UnitLM(config, contract), model.state_dict()
    state = {"embed.weight": source["model.embed_tokens.weight"], "norm.weight": source["model.norm.weight"]}
    for i in range(config.layers):
        for ours, theirs in _names(i).items():
            state[f"blocks.{i}.{ours}.weight"] = torch.cat([source[name] for name in theirs])
    state["duration.weight"] = lm.duration.weight
    lm.load_state_dict({k: v.detach().cpu().float() for k, v in state.items()})
    return lm.eval()


def export_llama(lm: UnitLM, folder: Path | str) -> None:
    """Write a folder for `AutoModelForCausalLM` and `AutoTokenizer` of transformers, `pipeline`, vLLM, and `load_lm`.

    The logits are equal. The text of a unit is SlamKit's, `<Un71>`; a prompt begins with `</s>`. `load_lm` reads it
    without durations.
    """
    from transformers import GenerationConfig

    model, end, folder = to_llama(lm), lm.n_units, Path(folder)
    model.generation_config = GenerationConfig(
        bos_token_id=end, eos_token_id=end, pad_token_id=end, do_sample=True, temperature=0.8, top_k=0
    )
    lm.save_merges(folder)
    with without_progress():
        model.save_pretrained(folder)
    unit_tokenizer(lm.n_units, context=lm.config.context).save_pretrained(folder)
    # Version 5 writes another name of the class, which version 4, and so many a vLLM, does not know.
    place = folder / "tokenizer_config.json"
    write_text(place, json.dumps({**read_json(place), "tokenizer_class": "PreTrainedTokenizerFast"}, indent=1) + "\n")
    write_unit_tokens(folder, UnitTokens(offset=0, begin=end, end=end, contract=lm.contract))


def unit_tokenizer(n_units: int, *, context: int) -> PreTrainedTokenizerFast:
    """Text such as `<Un71><Un12>` to `</s>` and tokens, and back. White space is skipped, other text is an error."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    end = "</s>"
    tokenizer = Tokenizer(models.WordLevel({**{f"<Un{unit}>": unit for unit in range(n_units)}, end: n_units}))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.Split(">", "merged_with_previous")]
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{end} $0", special_tokens=[(end, n_units)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=end,
        eos_token=end,
        pad_token=end,
        padding_side="left",
        model_max_length=context,
        model_input_names=["input_ids", "attention_mask"],  # a Llama takes no token types
    )


def _names(layer: int) -> dict[str, list[str]]:
    """Our parameter → those of transformers that it concatenates, in order."""
    p = f"model.layers.{layer}"
    return {
        "norm1": [f"{p}.input_layernorm.weight"],
        "qkv": [f"{p}.self_attn.{x}_proj.weight" for x in "qkv"],
        "out": [f"{p}.self_attn.o_proj.weight"],
        "norm2": [f"{p}.post_attention_layernorm.weight"],
        "gate_up": [f"{p}.mlp.{x}_proj.weight" for x in ("gate", "up")],
        "down": [f"{p}.mlp.down_proj.weight"],
    }
