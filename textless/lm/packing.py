"""Documents of units as full rows of tokens, from disk: what a language model is trained on.

Packing as in Slam (Maimon et al. 2025, arXiv:2502.15814) and nanochat: rows are full, and no document sees another.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from textless.errors import TrainingError
from textless.training.loop import rng
from textless.types import Units


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents one after the other, each `</s>` u1 … uN, and a last `</s>`; arrays in memory, or mapped from files.

    Attributes:
        tokens: (N + 1,) uint16, or uint32 where units need it.
        durations: (N,) uint16, frames of each unit, at most what the model knows; 0 at `</s>`.
        lengths: (documents,) int64, tokens of each.
    """

    tokens: np.ndarray
    durations: np.ndarray
    lengths: np.ndarray

    @classmethod
    def pack(
        cls, documents: Iterable[Units], *, n_units: int, max_duration: int, folder: Path | None = None
    ) -> Documents:
        """Take documents one by one; empty ones are left out.

        Args:
            folder: write them there, and map the files: what is trained on then never has to be in memory. Files that stand there are
                taken for these documents.

        Raises TrainingError when there is nothing in them.
        """
        kinds = {"tokens": np.uint16 if n_units < 2**16 else np.uint32, "durations": np.uint16, "lengths": np.int64}
        rows = (
            {
                "tokens": np.append(n_units, d.units),
                "durations": np.append(0, np.minimum(d.durations, max_duration)),
                "lengths": [len(d) + 1],
            }
            for d in documents
            if len(d)
        )
        if folder is None:
            buffers = {name: io.BytesIO() for name in kinds}
            _write(buffers, rows, kinds, n_units)
            found = {name: np.frombuffer(buffers[name].getbuffer(), kind) for name, kind in kinds.items()}
        else:
            if not folder.is_dir():
                _write_folder(folder, rows, kinds, n_units)
            found = _map(folder, kinds)
        if not len(found["lengths"]):
            raise TrainingError("no units to train on")
        return cls(**found)

    def units(self, most: int | None = None) -> list[np.ndarray]:
        """The units of the first documents, together at most `most` tokens of them; at least of one."""
        ends = np.cumsum(self.lengths)
        count = len(ends) if most is None else max(1, int(np.searchsorted(ends, most, side="right")))
        return [
            np.asarray(self.tokens[end - length + 1 : end], np.int64)
            for end, length in zip(ends[:count], self.lengths, strict=False)
        ]


def _write(files: Mapping[str, BinaryIO], rows: Iterable[dict[str, Any]], kinds: dict[str, type], n_units: int) -> None:
    for row in rows:
        for name, values in row.items():
            files[name].write(np.asarray(values, kinds[name]).tobytes())
    files["tokens"].write(np.array([n_units], kinds["tokens"]).tobytes())


def _write_folder(folder: Path, rows: Iterable[dict[str, Any]], kinds: dict[str, type], n_units: int) -> None:
    attempt = folder.with_name(f"{folder.name}.part")
    attempt.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(attempt / name, "wb")) for name in kinds}
        _write(files, rows, kinds, n_units)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the folder and nothing in it
    attempt.rename(folder)


def _map(folder: Path, kinds: dict[str, type]) -> dict[str, np.ndarray]:
    try:
        files = {name: folder / name for name in kinds}
        found = {
            n: np.memmap(f, kinds[n], mode="r") if f.stat().st_size else np.empty(0, kinds[n]) for n, f in files.items()
        }
    except (OSError, ValueError):
        found = {}
    if not found or not len(found["tokens"]) - 1 == len(found["durations"]) == found["lengths"].sum():
        raise TrainingError(f"{folder}: these packed documents are damaged; remove the folder, it is made again")
    return found


class Batch(NamedTuple):
    """Packed rows; all (B, context) int64.

    Attributes:
        tokens: what is read.
        positions: place of each token in its document, or in the piece of it that is in this row.
        targets: the token that follows.
        durations: class of the duration of the unit that is read (frames - 1); -100 at `</s>`, which has none.
    """

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    durations: Tensor


class Packer:
    """Rows of `context` tokens from an endless stream of documents, shuffled anew in each epoch.

    A document is `</s>` u1 … uN with targets u1 … uN `</s>`. One that reaches over the end of a row goes on in the next as a piece of
    its own, with positions from 0: this is also how a long document is cut, and how windows of a long sequence look at inference.
    Row r is a function of (seed, r) alone. In memory are 24 bytes a document, and the rows.
    """

    def __init__(self, documents: Documents, *, context: int, seed: int) -> None:
        self.documents, self.context, self.seed = documents, context, seed
        self.starts = np.cumsum(documents.lengths) - documents.lengths
        self._epoch, self._order, self._ends = -1, np.empty(0, np.int64), np.empty(0, np.int64)

    def _shuffle(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._order = rng(self.seed, epoch).permutation(len(self.starts))
            self._ends, self._epoch = np.cumsum(self.documents.lengths[self._order]), epoch

    def pieces(self, row: int) -> list[tuple[int, int, int]]:
        """[(document, first token, tokens)] of a row."""
        found, at, left = [], row * self.context, self.context
        while left:
            epoch, offset = divmod(at, len(self.documents.durations))
            self._shuffle(epoch)
            j = int(np.searchsorted(self._ends, offset, side="right"))
            document, until_end = int(self._order[j]), int(self._ends[j]) - offset
            taken = min(left, until_end)
            found.append((document, int(self.documents.lengths[document]) - until_end, taken))
            at, left = at + taken, left - taken
        return found

    def batch(self, first: int, rows: int) -> Batch:
        """Rows first … first + rows - 1."""
        pieces = [piece for row in range(first, first + rows) for piece in self.pieces(row)]
        spans = [(self.starts[document] + start, length) for document, start, length in pieces]
        # A document's last target is the `</s>` that begins the next.
        columns = (
            np.concatenate([self.documents.tokens[at : at + length] for at, length in spans]),
            np.concatenate([np.arange(length) for _, length in spans]),
            np.concatenate([self.documents.tokens[at + 1 : at + length + 1] for at, length in spans]),
            np.concatenate([self.documents.durations[at : at + length] for at, length in spans]).astype(np.int64) - 1,
        )
        tokens, positions, targets, classes = (
            torch.from_numpy(c.astype(np.int64).reshape(rows, self.context)) for c in columns
        )
        return Batch(tokens, positions, targets, classes.masked_fill_(classes < 0, -100))


def document_mask(positions: Tensor) -> Tensor:
    """(B, T) positions → (B, 1, T, T) bool: each token sees itself and what stands before it in its document."""
    place = torch.arange(positions.shape[1], device=positions.device)
    first = (place - positions)[:, :, None]
    return ((place <= place[:, None]) & (place >= first))[:, None]
