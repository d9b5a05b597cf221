"""Causal language models of `transformers` from their folders. Nothing is downloaded, unpickled or run.

`transformers` gets a configuration and tensors, never the folder: pickled weights (`pytorch_model.bin`) are read by
`textless.pickles`, and entries of a configuration that name code or a repository are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.checks import Count, check
from textless.errors import ModelError
from textless.model_io import CONFIG, open_tensors, read_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

SLAMKIT = "speech_language_model"  # its model_type; the model's own configuration is its base_config
PREFIX = "lm."  # of SlamKit's weights
# Entries that make transformers fetch or run what is not in the folder.
FOREIGN = ("auto_map", "attn_implementation", "_attn_implementation", "_name_or_path", "quantization_config")


def load_pretrained(folder: Path) -> PreTrainedModel:
    """The model of a folder, on the CPU: one of `AutoModelForCausalLM`, or what SlamKit wraps.

    Raises ModelError in one line, also for weights that are missing, not finite, or smaller than the configuration.
    """
    content = read_json(folder / CONFIG)
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder}: holds an adapter, which is another model's; merge it first")
    names, get = open_tensors(folder)
    try:
        state, kind = {name: get(name) for name in names}, content.get("model_type")
        if kind == SLAMKIT:
            content = check(content.get("base_config"), dict, f"{folder / CONFIG}: base_config")
            state, kind = {name.removeprefix(PREFIX): t for name, t in state.items()}, content.get("model_type")
        config, architecture = _architecture(content, kind)
        _check_size(folder, config, architecture, state)
        with _without_progress():
            model, info = architecture.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True, local_files_only=True
            )
    except ModelError:
        raise
    except Exception as e:  # transformers and torch raise their own types
        raise ModelError(f"{folder}: cannot be loaded as a causal language model ({first_line(e)})") from None
    if missing := sorted(info["missing_keys"]):  # transformers would initialise them at random
        raise ModelError(f"{folder}: has no {missing[0]}, which a {kind} needs; copy the model again")
    return model


def _architecture(content: dict[str, Any], kind: Any) -> tuple[PretrainedConfig, Any]:
    """The configuration and its class of a causal language model. Raises ValueError where there is none."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        config = CONFIG_MAPPING[kind].from_dict({k: v for k, v in content.items() if k not in FOREIGN})
    except KeyError:
        raise ValueError(f"transformers has no architecture {kind!r}") from None
    stated = content.get("architectures") or []
    if getattr(config, "is_encoder_decoder", False) or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"it is a {kind}; a Llama, Qwen, OPT, GPT-2 … fits")
    architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if stated and architecture.__name__ not in stated:
        raise ValueError(f"it is a {stated[0]}, where a {architecture.__name__} is wanted")
    return config, architecture


def _check_size(folder: Path, config: PretrainedConfig, architecture: Any, state: dict[str, Tensor]) -> None:
    """Raise ModelError, before allocating memory, for a configuration with more layers or parameters than the files."""
    import torch

    numbers = {match[1] for name in state if (match := re.search(r"\.(\d+)\.", name))}
    place, layers = folder / CONFIG, config.get_text_config().num_hidden_layers
    if check(layers, Count, f"{place}: the number of layers") > len(numbers):
        raise ModelError(
            f"{place}: has {layers} layers but there are weights of {len(numbers)}; are they of one model?"
        )
    with torch.device("meta"):
        asked = sum(p.numel() for p in architecture(config).parameters())
    held = sum(tensor.numel() * tensor.itemsize for tensor in state.values())
    if asked > held:  # no parameter takes less than a byte
        raise ModelError(
            f"{place}: asks for {asked} parameters where the weights have {held} bytes; are they of one model?"
        )


@contextmanager
def _without_progress() -> Iterator[None]:
    """Hide the bar of transformers, which would be between the lines of a command."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """Of the message of another library's error, which may be pages."""
    return str(error).strip().split("\n")[0][:200]
