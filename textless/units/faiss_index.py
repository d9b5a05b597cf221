"""The centroids of a faiss index, read by hand.

faiss's own reader is no place for a file of unknown origin: it reserves memory for every size that a file states, does
not check the graph of an HNSW index, which its search then follows, and opens other files that an index on disk names.
Here only what k-means needs is read (faiss `impl/index_read.cpp`): linear maps, and the vectors of a flat index, be it
alone, the storage of an HNSW, or the coarse quantizer of an inverted file. Nothing after them is looked at.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from textless.errors import ModelError
from textless.pickles import reading

FLAT = ("IxF2", "IxFl", "IxFI")
HNSW = ("IHNf",)
INVERTED = ("IwFl", "IwFd", "IwPQ", "IwQR", "IwPf", "IwSQ", "IwSq")
LINEAR = ("LTra", "rrot", "PCAm", "PcAm", "Pcam")
KINDS = (*FLAT, *HNSW, *INVERTED, "IxPT")
L2 = 1  # faiss's number of the metric
DEEP = 4  # indices within indices, and maps: no k-means has more
LARGEST = 2**25  # values of the centroids that a small file of a map and a few vectors may grow to


def is_faiss(head: bytes) -> bool:
    """Whether a file begins like an index of a kind that is read here."""
    return head[:4].decode("latin1") in KINDS


def read_faiss(path: Path) -> np.ndarray:
    """The centroids of a faiss index, (K, D) float32, D being the dimensions before its linear maps.

    Nearest of these is what is nearest in the index, as the rows of its maps are orthonormal: |Ax - c| and |x - Aᵀc|
    differ by what no centroid changes. A search through an HNSW is approximate, and may miss the nearest.

    Raises ModelError for another kind of index (inner products, quantized vectors, whitening), and a damaged one.
    """
    with reading(path):
        centroids = _Reader(np.memmap(path, np.uint8, mode="r")).index()
        if not np.isfinite(centroids).all():
            raise ModelError("holds vectors with NaN or infinite values; download or copy it again")
        return centroids


class _Reader:
    """Reads one value after the other; more than there is raises ModelError before memory is reserved."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = data, 0

    def take(self, code: str) -> Any:
        """The value, or the values, of a `struct` code."""
        values = struct.unpack(f"<{code}", self.bytes(struct.calcsize(f"<{code}")))
        return values[0] if len(values) == 1 else values

    def bytes(self, n: int) -> bytes:
        if n > len(self.data) - self.at:
            raise ModelError("is cut short, or damaged; download or copy it again")
        self.at += n
        return self.data[self.at - n : self.at].tobytes()

    def kind(self) -> str:
        return self.bytes(4).decode("latin1")

    def vector(self, width: int = 4) -> np.ndarray:
        """A length, and so many items of so many bytes; as float32 where those are four."""
        data = self.bytes(self.take("Q") * width)
        return np.frombuffer(data, "<f4" if width == 4 else np.uint8)

    def index(self, depth: int = 0) -> np.ndarray:
        kind = self.kind()
        if kind not in KINDS or depth > DEEP:
            raise ModelError(
                f"holds a faiss index of kind {kind!a}, not k-means; give a flat index, an inverted file over one, or "
                "the centroids as .npy"
            )
        dim, count, _, _, _, metric = self.take("iqqqBi")
        if metric != L2:
            raise ModelError(f"compares by faiss's metric {metric}, not by Euclidean distance; it is no k-means")
        if kind in FLAT:
            vectors = self.vector()
            _check(dim > 0 and count > 0 and len(vectors) == dim * count, "has vectors of another size than it states")
            return vectors.reshape(count, dim)
        maps = []
        if kind == "IxPT":
            maps = [self.linear() for _ in range(min(self.take("i"), DEEP))]
        elif kind in INVERTED:
            count, _ = self.take("QQ")  # lists, of which each has a centroid
        else:
            for width in (8, 4, 4, 8, 4):  # of the HNSW: probabilities, neighbours, levels, offsets, the graph
                self.vector(width)
            self.take("iiiii")
        centroids = self.index(depth + 1)
        for matrix, offset in reversed(maps):
            centroids = _pulled_back(centroids, matrix, offset)
        _check(centroids.shape[1] == dim and (maps or len(centroids) == count), "has parts of different sizes")
        return centroids

    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """x → A x + b: A (out, in), b (out,)."""
        kind = self.kind()
        if kind not in LINEAR:
            raise ModelError(f"transforms vectors by {kind!a}, which is no linear map; give the centroids as .npy")
        if kind.lower() == "pcam":
            self.take({"PCAm": "fB", "PcAm": "fBi", "Pcam": "ffBi"}[kind])
            for _ in range(3):  # mean, eigenvalues, all components
                self.vector()
        has_bias, matrix, offset = self.take("B"), self.vector(), self.vector()
        d_in, d_out, _ = self.take("iiB")
        fits = d_in > 0 and d_out > 0 and len(matrix) == d_in * d_out and len(offset) >= bool(has_bias) * d_out
        _check(fits, "has a linear map of another size than it states")
        return matrix.reshape(d_out, d_in), offset[:d_out] if has_bias else np.zeros(d_out, np.float32)


def _pulled_back(centroids: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Centroids (K, out) before a map whose rows are orthonormal: (K, in) float32."""
    _check(centroids.shape[1] == len(matrix), "has parts of different sizes")
    _check(len(centroids) * matrix.shape[1] <= LARGEST, "has more and wider centroids than any k-means")
    rows = matrix.astype(np.float64)
    if len(rows) > rows.shape[1] or not np.abs(rows @ rows.T - np.eye(len(rows))).max() < 1e-3 * math.sqrt(len(rows)):
        raise ModelError("transforms vectors by a matrix that is not orthonormal; give the centroids as .npy")
    return ((centroids - offset.astype(np.float64)) @ rows).astype(np.float32)


def _check(ok: Any, fault: str) -> None:
    if not ok:
        raise ModelError(f"{fault}; download or copy it again")
