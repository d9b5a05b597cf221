"""The files of a fairseq language model: dictionary, configuration, and decoder under our parameter names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from textless.checks import Between, check
from textless.errors import ModelError, check_known
from textless.model_io import check_finite
from textless.pickles import reading

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # the first entries of every dictionary, which are not in its file
END, UNKNOWN = 2, 3
LONGEST = 2**18  # tokens of context: no weight has this size, so that nothing else limits it
MOST_UNITS = 1 << 20  # a larger integer in a dictionary is not a unit, and would allocate memory
KNOWN_ACTIVATIONS = ("relu", "gelu")


def read_dictionary(path: Path | str) -> tuple[int, dict[int, int]]:
    """fairseq's `dict.txt`, which has a symbol and its count on each line.

    Returns:
        (number of entries with the specials, unit → its entry).

    Raises ModelError.
    """
    units: dict[int, int] = {}
    with reading(path):
        with Path(path).open("rb") as f:
            text = f.read(1 << 24)
        if b"\0" in text[:4096]:
            raise ModelError("is not a fairseq dictionary; give the dict.txt of the checkpoint")
        lines = text.decode().removesuffix("\n").split("\n")
        seen = set(SPECIALS)
        for number, line in enumerate(lines, 1):
            symbol, _, count = line.rstrip().rpartition(" ")
            if not symbol or not count.isdecimal():
                raise ModelError(
                    f"line {number} is not a symbol and its count ({line[:40]!r}); give the dict.txt of the checkpoint"
                )
            if symbol in seen:
                raise ModelError(
                    f"has {symbol[:40]!r} twice, the second time in line {number}; give the file as it was published"
                )
            seen.add(symbol)
            if symbol.startswith("madeupword"):
                continue
            if not symbol.isdecimal() or len(symbol) > 8 or str(int(symbol)) != symbol or int(symbol) >= MOST_UNITS:
                raise ModelError(
                    f"line {number}: {symbol[:40]!r} is not a unit; a unit language model's symbols are integers"
                )
            units[int(symbol)] = len(SPECIALS) + number - 1
        if len(units) < 2:
            raise ModelError("has fewer than 2 units; give the dict.txt of the checkpoint")
    return len(SPECIALS) + len(lines), units


def check_architecture(place: str, model: dict[str, Any], task: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Raise ModelError for what GSLM's models do not have, with its fairseq name.

    Additional parameters are refused by `rename`.
    """
    name = model.get("_name") or model.get("arch")
    if "decoder_attention_heads" not in model or not str(name or "transformer_lm").startswith("transformer_lm"):
        raise ModelError(f"{place}: holds fairseq's {name or 'model of another kind'} where a transformer_lm is wanted")
    if model.get("adaptive_softmax_cutoff") or any(key.startswith("decoder.adaptive_softmax.") for key in state):
        raise ModelError(
            f"{place}: has an adaptive softmax (adaptive_softmax_cutoff), which GSLM does not use; not supported"
        )
    for flag in (
        "adaptive_input",
        "character_embeddings",
        "decoder_learned_pos",
        "no_token_positional_embeddings",
        "add_bos_token",
    ):
        if True in (model.get(flag), task.get(flag)):
            raise ModelError(
                f"{place}: was made with {flag}, which GSLM's unit language models do not have; not supported"
            )
    check_known(f"{place}: activation_fn", model.get("activation_fn", "relu"), KNOWN_ACTIVATIONS, ModelError)


def context_of(place: str, model: dict[str, Any], task: dict[str, Any]) -> int:
    """The context by fairseq's rule.

    In an OmegaConf configuration the model's entries may be references to the task's, which stay strings.
    """
    for key in ("max_target_positions", "tokens_per_sample"):
        for value in (model.get(key), task.get(key)):
            if type(value) is int:
                return check(value, Annotated[int, Between(2, LONGEST)], f"{place}: {key}")
    return 1024


def rename(place: str, source: dict[str, Tensor], *, shared: bool) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The parameters of a fairseq decoder under our names.

    Returns:
        (our parameters in float32, the sizes that follow from them).

    Raises ModelError for parameters that are missing, or not in this decoder.
    """
    left = {k.removeprefix("decoder."): v for k, v in source.items()}
    for unused in ("version", "embed_positions._float_tensor"):
        left.pop(unused, None)

    def take(name: str, axes: int) -> Tensor:
        if name not in left or left[name].ndim != axes or not left[name].is_floating_point():
            raise ModelError(
                f"{place}: has no decoder.{name} of {axes} axes; the file is damaged or of another architecture"
            )
        check_finite(place, f"decoder.{name}", left[name])
        return left.pop(name).float().clone()  # independent of the file

    state = {"embed.weight": take("embed_tokens.weight", 2)}
    # Called `embed_out` before 2020.
    untied = next((name for name in ("output_projection.weight", "embed_out") if name in left), None)
    if untied is None and not shared:
        raise ModelError(
            f"{place}: has no decoder.output_projection.weight; the file is damaged or of another architecture"
        )
    state["output.weight"] = take(untied, 2) if untied else state["embed.weight"]
    layers = len({name.split(".")[1] for name in left if name.startswith("layers.")})
    pairs = {"norm": "layer_norm"} if any(name.startswith("layer_norm.") for name in left) else {}
    for i in range(layers):
        p = f"layers.{i}"
        pairs |= {f"blocks.{i}.norm1": f"{p}.self_attn_layer_norm", f"blocks.{i}.norm2": f"{p}.final_layer_norm"}
        pairs |= {
            f"blocks.{i}.out": f"{p}.self_attn.out_proj",
            f"blocks.{i}.up": f"{p}.fc1",
            f"blocks.{i}.down": f"{p}.fc2",
        }
    for kind, axes in (("weight", 2), ("bias", 1)):
        for ours, theirs in pairs.items():
            state[f"{ours}.{kind}"] = take(f"{theirs}.{kind}", 1 if "norm" in ours else axes)
        for i in range(layers):
            parts = [take(f"layers.{i}.self_attn.{x}_proj.{kind}", axes) for x in "qkv"]
            if len({part.shape for part in parts}) > 1:
                raise ModelError(f"{place}: queries, keys and values of layer {i} differ in shape; the file is damaged")
            state[f"blocks.{i}.qkv.{kind}"] = torch.cat(parts)
    if left or not layers:
        what = f"decoder.{min(left)}, which GSLM's unit language models do not have" if left else "no layers"
        raise ModelError(f"{place}: has {what}; it is damaged or of another architecture")
    (entries, dim), ffn_dim = state["embed.weight"].shape, len(state["blocks.0.up.weight"])
    return state, {"entries": entries, "dim": dim, "layers": layers, "ffn_dim": ffn_dim}
