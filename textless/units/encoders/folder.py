"""Which file of a folder the encoder is read from; apart from the layouts so that it needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from textless.errors import ModelError
from textless.model_io import CONFIG, TENSORS, read_json

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin")
WEIGHTS = (TENSORS, f"{TENSORS}.index.json", "pytorch_model.bin")  # what `open_tensors` reads


def checkpoint_in(path: Path) -> Path:
    """The path itself; of a folder that is neither ours nor transformers', its checkpoint.

    Raises ModelError when such a folder has no checkpoint, or several.
    """
    if not path.is_dir() or _is_whole(path):
        return path
    there = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    inside = [name for name in there if name.endswith(CHECKPOINTS) and (path / name).is_file()]
    if len(inside) == 1:
        return path / inside[0]
    hint = f"give one of its checkpoints: {some(inside)}" if inside else "give a checkpoint, or a folder with one"
    missing = "no weights" if (path / CONFIG).is_file() else f"{CONFIG} is missing"
    raise ModelError(f"{path}: not a model folder ({missing}; it holds {some(there) or 'nothing'}); {hint}")


def _is_whole(folder: Path) -> bool:
    """Whether a folder has a configuration, and weights where that says, or where `open_tensors` looks for them."""
    if not (folder / CONFIG).is_file():
        return False
    ours = {"kind", "model_type"} & read_json(folder / CONFIG).keys()
    return bool(ours) or any((folder / name).is_file() for name in WEIGHTS)


def some(names: Iterable[Any]) -> str:
    """The first names, for a message."""
    shown = [str(name)[:60] for name in names]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
