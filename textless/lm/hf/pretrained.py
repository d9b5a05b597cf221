"""Causal language models of `transformers` from their folders: safetensors only, and without running remote code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.checks import Count, check
from textless.errors import ModelError
from textless.model_io import check_finite, open_tensors, read_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def load_pretrained(folder: Path) -> PreTrainedModel:
    """The model of a folder, on the CPU.

    Raises ModelError in one line, also for weights that are pickled, missing, not finite, or smaller than the
    configuration.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = read_json(folder / "config.json").get("model_type")
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder}: holds an adapter, which is another model's; merge it first")
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        _check_size(folder, AutoConfig.from_pretrained(str(folder), **options))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True, **options
        )
        model, info = loaded
    except ModelError:
        raise
    except Exception as e:  # transformers, safetensors and huggingface_hub raise their own types
        raise ModelError(f"{folder}: cannot be loaded as a causal language model ({first_line(e)})") from None
    if missing := sorted(info["missing_keys"]):  # transformers would initialise them at random
        raise ModelError(f"{folder}: has no {missing[0]}, which a {kind} needs; copy the model again")
    for name, tensor in model.state_dict().items():
        check_finite(folder, name, tensor)
    return model


def _check_size(folder: Path, config: PretrainedConfig) -> None:
    """Raise ModelError, before allocating memory, for a configuration with more layers or parameters than the files."""
    import torch
    from transformers import AutoModelForCausalLM

    files = list(folder.glob("*.safetensors"))
    if not files:
        return  # the error of transformers says what is missing
    numbers = {match[1] for name in open_tensors(folder)[0] if (match := re.search(r"\.(\d+)\.", name))}
    place, layers = folder / "config.json", config.get_text_config().num_hidden_layers
    if check(layers, Count, f"{place}: the number of layers") > len(numbers):
        raise ModelError(
            f"{place}: has {layers} layers but there are weights of {len(numbers)}; are they of one model?"
        )
    with torch.device("meta"):
        asked = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    held = sum(file.stat().st_size for file in files)
    if asked > held:  # no parameter takes less than a byte
        raise ModelError(
            f"{place}: asks for {asked} parameters where the weights have {held} bytes; are they of one model?"
        )


def first_line(error: Exception) -> str:
    """Of the message of another library's error, which may be pages."""
    return str(error).strip().split("\n")[0][:200]
