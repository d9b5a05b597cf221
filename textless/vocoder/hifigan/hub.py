"""Hub folders of unit-hifigan (github.com/bootphon/unit-hifigan, 0.2): `config.json` and `model.safetensors`.

The network is the published one (`model.py`) under other names. Its sizes are constants of unit-hifigan's code; the
configuration holds the number of units, the dimension of the embeddings, and the names of speakers and styles.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from textless.checks import Size, check
from textless.errors import ModelError
from textless.model_io import CONFIG, open_tensors, read_json
from textless.vocoder.hifigan.checkpoint import Settings, Weights
from textless.vocoder.hifigan.model import UnitHifiGan

KERNELS = [3, 7, 11]
ARCHITECTURE = {
    "sampling_rate": 16_000,
    "upsample_rates": [5, 4, 4, 2, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4, 4],
    "resblock_kernel_sizes": KERNELS,
    "resblock_dilation_sizes": [[1, 3, 5]] * len(KERNELS),
}
TABLES = {"unit_embedding": "dict", "f0_embedding": "f0_quant_embed"}
TABLES |= {"speaker_embedding": "spkr", "style_embedding": "style"}


def is_hub_folder(path: Path) -> bool:
    """Whether a folder is unit-hifigan's, by its configuration."""
    try:
        config = read_json(path / CONFIG)
    except ModelError:
        return False
    return "kind" not in config and "model_type" not in config and "n_units" in config


def load_hub_folder(folder: Path, *, precision: str = "fp32") -> UnitHifiGan:
    """The vocoder, on the CPU; its own level is `peak`, as unit-hifigan's `generate` returns speech.

    F0, where the model has `f0_bins`, is given as their indices. Raises ModelError for a folder that is incomplete or
    damaged, and for weights that do not fit the configuration.
    """
    place = folder / CONFIG
    config = read_json(place)
    speakers, styles = (_names(config.get(key), f"{place}: {key}") for key in ("speakers", "styles"))
    bins = check(config.get("f0_bins") or [], list, f"{place}: f0_bins")
    names, get = open_tensors(folder)
    state = {_published(name): get(name) for name in names}
    for table, rows in (("spkr", speakers), ("style", styles)):
        shape = tuple(state[f"{table}.weight"].shape) if f"{table}.weight" in state else (0,)
        if len(rows) != shape[0]:
            raise ModelError(f"{folder}: {len(rows)} names for the {shape[0]} rows of {table}; are they of one model?")
    width = state["conv_pre.bias"].numel() if "conv_pre.bias" in state else 512
    entries: dict[str, Any] = {
        **ARCHITECTURE,
        "num_embeddings": check(config.get("n_units"), Size, f"{place}: n_units"),
        "embedding_dim": check(config.get("embedding_dim", 128), Size, f"{place}: embedding_dim"),
        "upsample_initial_channel": width,
        "f0": bool(bins),
        "f0_quant_num_bin": len(bins),
        "multispkr": bool(speakers),
        "multistyle": bool(styles),
    }
    settings = Settings(place, entries)
    weights = Weights(folder, settings, state)
    vocoder = UnitHifiGan(settings, weights, speakers=speakers, styles=styles, precision=precision)
    vocoder.level = "peak"
    return vocoder


def _names(value: Any, what: str) -> list[str]:
    names = check(value or [], list, what)
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ModelError(f"{what} is not a list of different names; copy the model again")
    return names


def _published(name: str) -> str:
    """A name of unit-hifigan's → the one of speech-resynthesis."""
    name = name.removeprefix("generator.")
    table, _, rest = name.partition(".")
    if table in TABLES:
        return f"{TABLES[table]}.{rest}"
    name = re.sub(r"^upsamplers\.", "ups.", name)

    def block(match: re.Match[str]) -> str:
        stage, kernel, layer, conv = (int(number) for number in match.groups())
        return f"resblocks.{stage * len(KERNELS) + kernel}.convs{conv}.{layer}."

    return re.sub(r"^mrfs\.(\d+)\.residual_blocks\.(\d+)\.(\d+)\.conv(\d)\.", block, name)
