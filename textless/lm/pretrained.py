"""Causal language models of transformers' from their folders: weights as safetensors only, and nobody's code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from textless.errors import ModelError
from textless.weights import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_pretrained(folder: Path) -> PreTrainedModel:
    """The model of a folder, whole, on the CPU. Raises ModelError in one line, also for weights that are pickled or missing."""
    from transformers import AutoModelForCausalLM

    kind = read_json(folder / "config.json").get("model_type")
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder}: holds an adapter, which is another model's; merge it first")
    options = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(str(folder), **options)
    except Exception as e:  # transformers, safetensors and huggingface_hub each have their own
        raise ModelError(f"{folder}: cannot be loaded as a causal language model ({first_line(e)})") from None
    if missing := sorted(info["missing_keys"]):  # transformers would draw them at random
        raise ModelError(f"{folder}: has no {missing[0]}, which a {kind} needs; copy the model again")
    return model


def first_line(error: Exception) -> str:
    """Of what others' errors say, which may be pages."""
    return str(error).strip().split("\n")[0][:200]
