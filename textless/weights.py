"""Model folders: `config.json` beside `model.safetensors`, the form in which every model of ours is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

CONFIG, TENSORS = "config.json", "model.safetensors"


def save_model(folder: Path | str, *, kind: str, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Write a model folder; `kind` says what it is (`hubert`, `codebook`, `lm`, `vocoder`).

    Each file is written beside and renamed, the configuration last, so that a folder with a configuration is whole.
    """
    import numpy as np
    from safetensors.numpy import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{TENSORS}.{os.getpid()}"
    # save_file would make it readable by its owner alone; and safetensors writes the memory of an array, whatever its strides say.
    temporary.write_bytes(save({name: np.ascontiguousarray(t) for name, t in tensors.items()}))
    temporary.replace(folder / TENSORS)
    write_text(folder / CONFIG, json.dumps({"kind": kind, **config}, indent=1) + "\n")


def load_model(folder: Path | str, *, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a model folder: (configuration without `kind`, tensors by name).

    Raises ModelError when the folder is missing, damaged, or holds a model of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config = read_config(folder, kind=kind)
    try:
        return config, load_file(str(Path(folder) / TENSORS))
    except (OSError, SafetensorError) as e:
        raise ModelError(f"{Path(folder) / TENSORS}: cannot be read ({e}); copy the model again") from None


def read_config(folder: Path | str, *, kind: str) -> dict[str, Any]:
    """The configuration of a model folder without its weights. Raises ModelError as `load_model`."""
    config = read_json(Path(folder) / CONFIG)
    if config.get("kind") != kind:
        raise ModelError(f"{folder}: holds a model of kind {config.get('kind')!r} where a {kind} is wanted")
    del config["kind"]
    return config


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file of a model folder. Raises ModelError."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{path.parent}: not a model folder ({path.name} is missing)") from None
    except (OSError, ValueError) as e:
        raise ModelError(f"{path}: not JSON that can be read ({e})") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object")
    return content


def open_tensors(folder: Path | str) -> tuple[list[str], Callable[[str], Any]]:
    """The names of the torch tensors in a folder, and a function that reads one of them; the others stay on disk.

    Takes `model.safetensors`, alone or in shards with an index as transformers writes them, or else `pytorch_model.bin`.
    Raises ModelError when there is none, or one is damaged.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    index, pickled = folder / f"{TENSORS}.index.json", folder / "pytorch_model.bin"
    files = [folder / TENSORS]
    if index.exists() and not files[0].exists():
        names = sorted({str(name) for name in read_json(index).get("weight_map", {}).values()})
        if outside := [name for name in names if Path(name).name != name]:
            raise ModelError(f"{index}: {outside[0]!r} is not a file of this folder")
        files = [folder / name for name in names]
    elif pickled.exists() and not files[0].exists():
        from textless.pickles import load_torch

        state = load_torch(pickled)
        if not isinstance(state, dict):
            raise ModelError(f"{pickled}: not a state dict")
        return list(state), state.__getitem__
    where = {}
    for file in files:
        if not file.exists():
            raise ModelError(f"{folder}: has no weights ({file.name} is missing); copy the model again")
        try:
            opened = safe_open(str(file), "pt")
            where |= dict.fromkeys(opened.keys(), opened)
        except (OSError, SafetensorError) as e:
            raise ModelError(f"{file}: cannot be read ({e}); copy the model again") from None
    return list(where), lambda name: where[name].get_tensor(name)


def to_torch(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """As a state dict in float32: weights may be kept in half precision, arithmetic is in full."""
    import torch

    state = {k: torch.from_numpy(v.copy()) for k, v in tensors.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def from_torch(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """A module's state dict as contiguous arrays, float32, without aliases."""
    return {k: v.detach().cpu().float().contiguous().numpy().copy() for k, v in state.items()}


def round_half(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict with every weight rounded to the nearest float16, still stored as float32.

    What ships in half precision must be what the later stages were trained on: round first, then go on.
    """
    return {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}


def write_text(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
