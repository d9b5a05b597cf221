"""Model folders: `config.json` beside `model.safetensors`, the form in which every model of ours is kept."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.errors import ModelError
from textless.files import atomic, write_text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CONFIG, TENSORS = "config.json", "model.safetensors"
LARGEST_JSON = 1 << 24  # bytes; the index of a model in a thousand files has a tenth of it
# What loaders read of a folder, by the end of the name, and beside a file, by the name. `model_files` lists them.
IN_FOLDER = (".safetensors", ".bin", ".pt", "config.json", ".index.json", "textless.json")
BESIDE = (CONFIG, "dict.txt", "speakers.txt", "styles.txt")


def save_model(folder: Path | str, *, kind: str, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Write a model folder; `kind` says what it is (`hubert`, `codebook`, `lm`, `vocoder`).

    Each file is written beside and renamed, the configuration last, so that a folder with a configuration is whole.
    """
    import numpy as np
    from safetensors.numpy import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / TENSORS) as temporary:
        # save_file would make it readable by its owner alone; and safetensors writes the memory of an array, whatever its strides say.
        temporary.write_bytes(save({name: np.ascontiguousarray(t) for name, t in tensors.items()}))
    write_text(folder / CONFIG, json.dumps({"kind": kind, **config}, indent=1) + "\n")


def load_model(folder: Path | str, *, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a model folder: (configuration without `kind`, tensors by name).

    Raises ModelError when the folder is missing, damaged, or holds a model of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config, file = read_config(folder, kind=kind), Path(folder) / TENSORS
    try:
        tensors = load_file(str(file))
    except (OSError, SafetensorError) as e:
        raise ModelError(f"{file}: cannot be read ({e}); copy the model again") from None
    except (KeyError, TypeError) as e:  # numpy has no such type
        raise ModelError(f"{file}: holds tensors of type {e}; weights are kept in float32 or float16") from None
    for name, tensor in tensors.items():
        check_finite(file, name, tensor)
    return config, tensors


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
        if path.stat().st_size > LARGEST_JSON:
            raise ModelError(
                f"{path}: has {path.stat().st_size >> 20} MiB, which is no configuration of a model; copy the model again"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{path.parent}: not a model folder ({path.name} is missing)") from None
    except (OSError, ValueError) as e:
        raise ModelError(f"{path}: not JSON that can be read ({e})") from None
    except RecursionError:
        raise ModelError(f"{path}: not JSON that can be read (nested too deeply)") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object")
    return content


def open_tensors(folder: Path | str) -> tuple[list[str], Callable[[str], Tensor]]:
    """The names of the torch tensors in a folder, and a function that reads one of them (`finite`); the others stay on disk.

    Takes `model.safetensors`, alone or in shards with an index as transformers writes them, or else `pytorch_model.bin`.
    Raises ModelError when there is none, or one is damaged.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    index, pickled = folder / f"{TENSORS}.index.json", folder / "pytorch_model.bin"
    files = [folder / TENSORS]
    if index.exists() and not files[0].exists():
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ModelError(f"{index}: has no weight_map; copy the model again")
        names = sorted({str(name) for name in places.values()})
        if outside := [name for name in names if Path(name).name != name]:
            raise ModelError(f"{index}: {outside[0]!r} is not a file of this folder")
        files = [folder / name for name in names]
    elif pickled.exists() and not files[0].exists():
        from textless.pickles import load_torch

        state = load_torch(pickled)
        if not isinstance(state, dict):
            raise ModelError(f"{pickled}: not a state dict")
        state = tensors_of(state)
        return list(state), finite(pickled, state.__getitem__)
    where = {}
    for file in files:
        if not file.exists():
            raise ModelError(f"{folder}: has no weights ({file.name} is missing); copy the model again")
        try:
            opened = safe_open(str(file), "pt")
            where |= dict.fromkeys(opened.keys(), opened)
        except (OSError, SafetensorError) as e:
            raise ModelError(f"{file}: cannot be read ({e}); copy the model again") from None
    return list(where), finite(folder, lambda name: where[name].get_tensor(name))


def tensors_of(state: dict[Any, Any]) -> dict[str, Tensor]:
    """What of a state dict are tensors under names; files of others hold versions and counters beside them."""
    from torch import Tensor

    return {name: tensor for name, tensor in state.items() if isinstance(name, str) and isinstance(tensor, Tensor)}


def finite(place: Path | str, get: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
    """`get`, a function from a name to its tensor, which raises ModelError for one with NaN or infinite values."""

    def checked(name: str) -> Tensor:
        tensor = get(name)
        check_finite(place, name, tensor)
        return tensor

    return checked


def check_finite(place: Path | str, name: str, tensor: np.ndarray | Tensor) -> None:
    """Raise ModelError when a tensor of a file holds NaN or an infinity. One pass that keeps nothing, as NaN survives a minimum."""
    import numpy as np

    low = high = 0.0
    if isinstance(tensor, np.ndarray):
        if np.issubdtype(tensor.dtype, np.floating) and tensor.size:
            low, high = float(tensor.min()), float(tensor.max())
    elif tensor.is_floating_point() and tensor.numel():
        low, high = (float(x) for x in (tensor.detach() if tensor.itemsize > 1 else tensor.detach().float()).aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ModelError(
            f"{place}: {name} holds values that are not numbers (NaN or infinite); train it again, or copy it again"
        )


def check_blocks(place: Path | str, field: str, value: int, names: Iterable[str], prefix: str) -> None:
    """Raise ModelError when a configuration says more blocks than there are under names like `prefix`N.…, before they are built."""
    number = re.compile(re.escape(prefix) + r"(\d+)\.")
    if value > (blocks := len({match[1] for name in names if (match := number.match(name))})):
        raise ModelError(
            f"{place}: {field} is {value} but there are weights of {blocks}; are configuration and weights of one model?"
        )


def check_shapes(place: Path | str, expected: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise ModelError unless a file has tensors of just these names and shapes; `expected` may be of a module on the meta device."""
    for name, tensor in expected.items():
        if name not in shapes:
            raise ModelError(f"{place}: has no {name}, for which its configuration asks; are they of one model?")
        if tuple(shapes[name]) != tuple(tensor.shape):
            wanted = tuple(tensor.shape)
            raise ModelError(
                f"{place}: {name} is {tuple(shapes[name])} where its configuration asks for {wanted}; are they of one model?"
            )
    if left := sorted(set(shapes) - set(expected)):
        raise ModelError(f"{place}: has {left[0]}, for which its configuration does not ask; are they of one model?")


def model_files(place: Path) -> dict[str, Path]:
    """Every file that a model on disk is read from, by its name below `place` ("" for `place` itself, if that is a file).

    Of a folder those of `IN_FOLDER`, and what a projected encoder has below it under any name; of a file those of `BESIDE`, its own
    name with `.json`, and what a configuration calls `f0_stats`. What else is there (notes, logs, tokenizers) makes no difference.
    """
    if not place.is_file():
        files = {f for f in place.rglob("*") if f.name.endswith(IN_FOLDER)}
        for config in [f for f in files if f.name == CONFIG]:
            base = _entry(config, "base")
            if base and ".." not in Path(base).parts:
                files.add(config.parent / base)
        return {str(f.relative_to(place)): f for f in sorted(files) if f.is_file()}
    configs = [place.with_name(CONFIG), place.with_suffix(".json")]
    statistics = [
        place.with_name(Path(name).name)
        for config in configs
        if (name := _entry(config, "f0_stats")) and Path(name).name
    ]
    beside = [*(place.with_name(name) for name in BESIDE), configs[1], *statistics]
    return {"": place, **{f.name: f for f in beside if f.is_file() and f != place}}


def _entry(file: Path, key: str) -> str | None:
    """A string in a JSON file, None where there is none; a damaged file is the loader's to complain of."""
    try:
        value = read_json(file).get(key)
    except ModelError:
        return None
    return value if isinstance(value, str) else None


def take(place: Path | str, tensors: Mapping[str, np.ndarray], name: str, axes: int = 2) -> np.ndarray:
    """A tensor of a model folder, of floating point and so many axes, none of them empty. Raises ModelError."""
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != axes or not tensor.size or tensor.dtype.kind != "f":
        about = "is missing" if tensor is None else f"is {tensor.shape} {tensor.dtype}"
        raise ModelError(
            f"{place}: {name} {about} where {axes} axes of floating point are wanted; copy the model again"
        )
    return tensor


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
