"""Causal language models and CTC recognisers of `transformers` from their folders. Nothing is unpickled or run.

`transformers` gets a configuration and tensors, never the folder: pickled weights (`pytorch_model.bin`) are read by
`textless.pickles`, and entries of a configuration that name code or a repository are left out. Only tokenizers and
feature extractors, which hold no tensors, are read by `transformers` itself, without code from the folder.
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
from textless.zoo import is_repository

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SLAMKIT = "speech_language_model"  # its model_type; the model's own configuration is its base_config
PREFIX = "lm."  # of SlamKit's weights
# By task: the table of transformers, what its models are, and what fits.
TASKS = {
    "causal": ("MODEL_FOR_CAUSAL_LM_MAPPING", "causal language model", "a Llama, Qwen, OPT, GPT-2 … fits"),
    "ctc": ("MODEL_FOR_CTC_MAPPING", "CTC recogniser", "a Wav2Vec2ForCTC, HubertForCTC, WavLMForCTC … fits"),
}
FOR_TRAINING = "masked_spec_embed"  # replaces masked frames; published recognisers lack it
# Entries that make transformers fetch or run what is not in the folder.
FOREIGN = ("auto_map", "attn_implementation", "_attn_implementation", "_name_or_path", "quantization_config")


def find_folder(place: Path | str, what: str) -> Path:
    """A folder on disk, else that of `owner/name` on the Hugging Face hub, tokenizer included.

    Raises ModelError when it is neither; `what` names the model.
    """
    if Path(place).is_dir():
        return Path(place)
    if not is_repository(str(place)):
        raise ModelError(f"{place}: no such folder; {what} is a folder of transformers or a name OWNER/NAME on its hub")
    from textless.audio.fetch import fetch_repository

    try:
        return fetch_repository(str(place), tokenizer=True)
    except ModelError as e:
        raise ModelError(f"{place}: no such folder here, and on the hub: {e}") from None


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder. Raises ModelError in one line, also for one without vocabulary."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as e:  # transformers and tokenizers raise their own types
        raise ModelError(f"{folder}: its tokenizer cannot be read ({first_line(e)}); copy the model again") from None
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes an empty one where there are no files
        raise ModelError(f"{folder}: has no tokenizer; copy tokenizer.json or the vocabulary of the model next to it")
    return tokenizer


def load_pretrained(folder: Path, task: str = "causal") -> PreTrainedModel:
    """The model of a folder, on the CPU: one of `AutoModelForCausalLM` or `AutoModelForCTC`, or what SlamKit wraps.

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
        config, architecture = _architecture(content, kind, task)
        _check_size(folder, config, architecture, state)
        with without_progress(), _without_report(task):
            model, info = architecture.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True, local_files_only=True
            )
    except ModelError:
        raise
    except Exception as e:  # transformers and torch raise their own types
        raise ModelError(f"{folder}: cannot be loaded as a {TASKS[task][1]} ({first_line(e)})") from None
    # transformers would initialise them at random
    if missing := sorted(name for name in info["missing_keys"] if not name.endswith(FOR_TRAINING)):
        raise ModelError(f"{folder}: has no {missing[0]}, which a {kind} needs; copy the model again")
    return model


def _architecture(content: dict[str, Any], kind: Any, task: str) -> tuple[PretrainedConfig, Any]:
    """The configuration and the class of its model for a task. Raises ValueError where there is none."""
    import transformers
    from transformers import CONFIG_MAPPING

    models, fits = getattr(transformers, TASKS[task][0]), TASKS[task][2]
    try:
        config = CONFIG_MAPPING[kind].from_dict({k: v for k, v in content.items() if k not in FOREIGN})
    except KeyError:
        raise ValueError(f"transformers has no architecture {kind!r}") from None
    stated = content.get("architectures") or []
    if getattr(config, "is_encoder_decoder", False) or type(config) not in models:
        raise ValueError(f"it is a {kind}; {fits}")
    architecture: Any = models[type(config)]
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
def without_progress() -> Iterator[None]:
    """Hide the bar of transformers, which would be between the lines of a command."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _without_report(task: str) -> Iterator[None]:
    """Hide what transformers says of a recogniser without `FOR_TRAINING`: pages, of what is not used."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    if task == "ctc":
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def first_line(error: Exception) -> str:
    """Of the message of another library's error, which may be pages."""
    return str(error).strip().split("\n")[0][:200]
