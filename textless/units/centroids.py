"""The centroids of other tools' k-means files, of which nothing is run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from textless.errors import ModelError
from textless.pickles import LARGE, RATIO, SMALL, load_joblib, load_torch, plain, reading
from textless.units.faiss_index import is_faiss, read_faiss
from textless.units.kmeans import Codebook

# Names of the centroids: scikit-learn's (and bshall's kmeans.pt), PINT's, and plain ones.
NAMES = ("cluster_centers_", "cluster_centers", "centroids", "centers", "codebook")
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # begins what torch.save wrote before it wrote zips


def read_centroids(path: Path) -> Codebook:
    """Centroids of unknown origin (K, D).

    From a `.npy` or `.npz`; `.safetensors`; a faiss index of k-means; what `torch.save` wrote, a tensor or a dict; or
    a pickle or joblib dump of scikit-learn's k-means. Of several arrays that of a name in `NAMES` is taken, else the
    only one of two dimensions. Which it is, but for the first two, the content says, not the name.

    Raises ModelError when the file holds none, or more than one.
    """
    with path.open("rb") as f:
        head = f.read(8)
    if path.suffix == ".npy":
        content: Any = _npy(path)
    elif path.suffix == ".npz":
        content = _npz(path)
    elif path.suffix == ".safetensors":
        content = _safetensors(path)
    elif is_faiss(head) or path.suffix in (".index", ".faiss"):
        content = read_faiss(path)
    else:
        content = load_torch(path) if head[:4] == b"PK\3\4" else load_joblib(path)
        content = plain(load_torch(path) if type(content) is int and content == TORCH_MAGIC else content)
    centroids = _pick(path, content)
    if centroids.dtype.kind not in "fiu":
        raise ModelError(f"{path}: holds centroids of type {centroids.dtype}, which are not numbers")
    try:
        with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, and is refused
            return Codebook(centroids)
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from None


def _pick(path: Path, content: Any) -> np.ndarray:
    """The centroids in what a file holds, which is an array, a tensor, or a dict of them. Raises ModelError."""
    items = content.items() if isinstance(content, dict) else ()
    arrays = {str(name): array for name, value in items if (array := _array(value)) is not None}
    named = [arrays[name] for name in NAMES if name in arrays]
    tables = {name: array for name, array in arrays.items() if array.ndim == 2}
    if len(tables) > 1 and not named:
        raise ModelError(
            f"{path}: holds {len(tables)} tables ({_some(tables)}) and says of none that it holds centroids; save "
            "them as .npy"
        )
    centroids = next(iter([*named, *tables.values()]), _array(content))
    if centroids is None:
        there = f" but {_some(content)}" if isinstance(content, dict) and content else ""
        raise ModelError(
            f"{path}: holds no k-means (no cluster_centers_){there}; give a codebook folder, a .npy or "
            "scikit-learn's file"
        )
    return centroids


def _some(names: Iterable[Any]) -> str:
    """Names of a file's entries, for a message of one line."""
    names = sorted(f"{str(name)[:40]!a}" for name in names)
    return ", ".join([*names[:3], "…"] if len(names) > 3 else names)


def _array(value: Any) -> np.ndarray | None:
    """An array or a tensor as an array, else None."""
    if isinstance(value, np.ndarray):
        return value
    if type(value).__module__ == "torch" and type(value).__name__ == "Tensor":
        value = value.detach()
        return (value.float() if value.is_floating_point() else value).numpy()
    return None


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # the header may claim any size
    # The header is Python; and a file that begins like a zip is taken for an .npz.
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TokenError, zipfile.BadZipFile) as e:
        raise ModelError(f"{path}: not a .npy of centroids ({e})") from None


def _npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name. A member that grows to more than a file of its size may, or is shorter than it says, raises
    ModelError.
    """
    with reading(path), zipfile.ZipFile(path) as z:
        entries = [e for e in z.infolist() if e.filename.endswith(".npy")]
        limit = min(LARGE, max(SMALL, RATIO * path.stat().st_size))
        if sum(e.file_size for e in entries) > limit:
            raise ModelError(f"grows to more than {limit >> 20} MiB; save the centroids alone, as .npy")
        return {e.filename.removesuffix(".npy"): _parsed(z.read(e)) for e in entries}


def _parsed(data: bytes) -> np.ndarray:
    """A .npy in memory; its header is compared with the bytes that follow before an array is made."""
    stream = io.BytesIO(data)
    versions = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, is_fortran, dtype = versions[np.lib.format.read_magic(stream)](stream)
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with reading(path), safe_open(str(path), "pt") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
