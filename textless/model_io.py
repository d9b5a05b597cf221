"""Model folders: `config.json` and `model.safetensors`, the format of every model of this package."""

from __future__ import annotations

import json
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
LARGEST = 3.4028234663852886e38  # of float32
LARGEST_JSON = 1 << 24  # bytes; the index of a model in a thousand files has a tenth of it
# What loaders read: in a folder, files with these suffixes; next to a model file, files of these names. See
# `model_files`.
IN_FOLDER = (".safetensors", ".bin", ".pt", "config.json", ".index.json", "textless.json", "merges.json")
NEXT_TO_FILE = (CONFIG, "dict.txt", "speakers.txt", "styles.txt")


def save_model(folder: Path | str, *, kind: str, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Write a model folder. `kind` is the kind of model: `hubert`, `codebook`, `lm`, `vocoder`.

    Each file is written atomically, the configuration last, so that a folder with a configuration is complete.
    """
    import numpy as np
    from safetensors.numpy import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / TENSORS) as temporary:
        # save_file would make the file readable by its owner only; safetensors writes an array's memory, ignoring its
        # strides.
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
    except (KeyError, TypeError) as e:  # numpy lacks the type
        raise ModelError(f"{file}: holds tensors of type {e}; weights are kept in float32 or float16") from None
    for name, tensor in tensors.items():
        if tensor.dtype.kind != "f":
            raise ModelError(
                f"{file}: {name} holds {tensor.dtype} where weights are floating point; copy the model again"
            )
        check_finite(file, name, tensor)
    return config, tensors


def read_config(folder: Path | str, *, kind: str) -> dict[str, Any]:
    """The configuration of a model folder, without `kind`. Raises ModelError as `load_model`."""
    config = read_json(Path(folder) / CONFIG)
    if config.get("kind") != kind:
        theirs = config.get("kind") or config.get("model_type")
        what = f"a model of kind {theirs!r}" if theirs else f"a {CONFIG} that does not say what the model is,"
        raise ModelError(f"{folder}: holds {what} where a {kind} is wanted")
    del config["kind"]
    return config


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file of a model folder. Raises ModelError."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ModelError(
                f"{path}: has {path.stat().st_size >> 20} MiB, which is no configuration of a model; "
                "copy the model again"
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
    """The names of the torch tensors in a folder, and a function that reads one of them, checked by `finite`.

    Reads `model.safetensors`, else `pytorch_model.bin`, in one file or in shards with an index as transformers writes
    them. Raises ModelError when there is none, or one is damaged.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    files = _weight_files(folder)
    for file in files:
        if not file.exists():
            raise ModelError(f"{folder}: has no weights ({file.name} is missing); copy the model again")
    if files[0].suffix == ".bin":
        from textless.pickles import load_torch

        state: dict[str, Tensor] = {}
        for file in files:
            if not isinstance(content := load_torch(file), dict):
                raise ModelError(f"{file}: not a state dict")
            state |= tensors_of(content)
        return list(state), finite(files[0] if len(files) == 1 else folder, state.__getitem__)
    opened: dict[str, Any] = {}  # by the name of a tensor, the file that holds it
    for file in files:
        try:
            tensors = safe_open(str(file), "pt")
            opened |= dict.fromkeys(tensors.keys(), tensors)
        except (OSError, SafetensorError) as e:
            raise ModelError(f"{file}: cannot be read ({e}); copy the model again") from None
    return list(opened), finite(folder, lambda name: opened[name].get_tensor(name))


def _weight_files(folder: Path) -> list[Path]:
    """The files of a folder that hold its weights, safetensors before pickles; they may not exist."""
    for file in (folder / TENSORS, folder / "pytorch_model.bin"):
        index = folder / f"{file.name}.index.json"
        if file.exists():
            return [file]
        if not index.exists():
            continue
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ModelError(f"{index}: has no weight_map; copy the model again")
        names = sorted({str(name) for name in places.values()})
        if outside := [name for name in names if Path(name).name != name or Path(name).suffix != file.suffix]:
            raise ModelError(f"{index}: {outside[0]!r} is not a file of this folder")
        return [folder / name for name in names]
    return [folder / TENSORS]


def tensors_of(state: dict[Any, Any]) -> dict[str, Tensor]:
    """The named tensors of a state dict; files from other tools also hold versions and counters."""
    from torch import Tensor

    return {name: tensor for name, tensor in state.items() if isinstance(name, str) and isinstance(tensor, Tensor)}


def finite(place: Path | str, get: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
    """`get`, from a name to its tensor, with a check that raises ModelError for NaN or infinite values."""

    def checked(name: str) -> Tensor:
        tensor = get(name)
        check_finite(place, name, tensor)
        return tensor

    return checked


def check_finite(place: Path | str, name: str, tensor: np.ndarray | Tensor) -> None:
    """Raise ModelError when a tensor of a file holds NaN, an infinity, or what is one in float32.

    The minimum and maximum show both, since NaN propagates, and need no memory.
    """
    import numpy as np

    low = high = 0.0
    if isinstance(tensor, np.ndarray):
        if np.issubdtype(tensor.dtype, np.floating) and tensor.size:
            low, high = float(tensor.min()), float(tensor.max())
    elif tensor.is_floating_point() and tensor.numel():
        low, high = (float(x) for x in (tensor.detach() if tensor.itemsize > 1 else tensor.detach().float()).aminmax())
    if not -LARGEST <= low <= high <= LARGEST:
        raise ModelError(
            f"{place}: {name} holds values that are not numbers (NaN or infinite); train it again, or copy it again"
        )


def check_blocks(place: Path | str, field: str, value: int, names: Iterable[str], prefix: str) -> None:
    """Raise ModelError when `field` of a configuration exceeds the number of blocks, named `prefix`N.…, in its weights.

    Checked before the blocks are allocated.
    """
    number = re.compile(re.escape(prefix) + r"(\d+)\.")
    if value > (blocks := len({match[1] for name in names if (match := number.match(name))})):
        raise ModelError(
            f"{place}: {field} is {value} but there are weights of {blocks}; "
            "are configuration and weights of one model?"
        )


def check_shapes(place: Path | str, expected: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise ModelError unless a file has exactly these names and shapes; `expected` may be on the meta device."""
    for name, tensor in expected.items():
        if name not in shapes:
            raise ModelError(f"{place}: has no {name}, for which its configuration asks; are they of one model?")
        if tuple(shapes[name]) != tuple(tensor.shape):
            raise ModelError(
                f"{place}: {name} is {tuple(shapes[name])} where its configuration asks for {tuple(tensor.shape)}; "
                "are they of one model?"
            )
    if left := sorted(set(shapes) - set(expected)):
        raise ModelError(f"{place}: has {left[0]}, for which its configuration does not ask; are they of one model?")


def model_files(place: Path) -> dict[str, Path]:
    """The files that a model on disk is read from, by their names below `place` ("" for `place` itself, if a file).

    In a folder: files of `IN_FOLDER`, and the base of a projected encoder, under any name. Next to a file: files of
    `NEXT_TO_FILE`, its own name with `.json`, and the file that a configuration names as `f0_stats`. Other files
    (notes, logs, tokenizers) do not count.
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
    related = [*(place.with_name(name) for name in NEXT_TO_FILE), configs[1], *statistics]
    return {"": place, **{f.name: f for f in related if f.is_file() and f != place}}


def _entry(file: Path, key: str) -> str | None:
    """A string of a JSON file, None if it has none; damaged files are errors in the loaders."""
    try:
        value = read_json(file).get(key)
    except ModelError:
        return None
    return value if isinstance(value, str) else None


def take(place: Path | str, tensors: Mapping[str, np.ndarray], name: str, axes: int = 2) -> np.ndarray:
    """A floating-point tensor of a model folder with this number of axes, none of them empty. Raises ModelError."""
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != axes or not tensor.size or tensor.dtype.kind != "f":
        about = "is missing" if tensor is None else f"is {tensor.shape} {tensor.dtype}"
        raise ModelError(
            f"{place}: {name} {about} where {axes} axes of floating point are wanted; copy the model again"
        )
    return tensor


def to_torch(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """A state dict in float32: weights may be stored in half precision, arithmetic is in full."""
    import torch

    state = {k: torch.from_numpy(v.copy()) for k, v in tensors.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def from_torch(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """A module's state dict as contiguous float32 arrays that share no memory."""
    return {k: v.detach().cpu().float().contiguous().numpy().copy() for k, v in state.items()}


def round_half(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict with every weight rounded to the nearest float16, still stored as float32.

    A model that is published in half precision must be the one that later stages were trained on: round it before them.
    """
    return {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
