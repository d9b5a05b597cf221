"""Sequence packing: documents of units as full rows of tokens, from memory or from disk, to train a language model on.

As in Slam (Maimon et al. 2025, arXiv:2502.15814) and nanochat: rows are full, and no document attends to another.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from textless.errors import TrainingError
from textless.files import sync
from textless.training.loop import rng
from textless.types import Units

Dtypes = Mapping[str, type[np.integer[Any]]]  # of the arrays


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents one after the other, each `</s>` u1 … uN, and a last `</s>`; arrays in memory, or mapped from files.

    Attributes:
        tokens: (N + 1,) uint16, or uint32 where units need it.
        durations: (N,) uint16, frames of each unit, at most the model's `max_duration`; 0 at `</s>`.
        lengths: (documents,) int64, tokens of each.
        pitch: (N,) uint8, pitch of each unit, 0 at `</s>`; None without.
    """

    tokens: np.ndarray
    durations: np.ndarray
    lengths: np.ndarray
    pitch: np.ndarray | None = None

    @classmethod
    def pack(
        cls,
        documents: Iterable[Units],
        *,
        n_units: int,
        max_duration: int,
        folder: Path | None = None,
        pitch: bool = False,
    ) -> Documents:
        """Pack deduplicated documents one by one; empty ones are left out.

        Args:
            pitch: with the pitch of their units, which all of them have.
            folder: write the arrays there and memory-map them, so that the training data need not fit in memory. If the
                folder is there, it is used and `documents` is not read.

        Raises TrainingError when there are no units.
        """
        dtypes: Dtypes = {
            "tokens": np.uint16 if n_units < 2**16 else np.uint32,
            "durations": np.uint16,
            "lengths": np.int64,
            **({"pitch": np.uint8} if pitch else {}),
        }

        def rows() -> Iterator[dict[str, Any]]:
            for d in documents:
                if len(d):
                    assert d.durations is not None
                    durations = np.append(0, np.minimum(d.durations, max_duration))
                    row = {"tokens": np.append(n_units, d.units), "durations": durations, "lengths": [len(d) + 1]}
                    if pitch:
                        assert d.pitch is not None
                        row["pitch"] = np.append(0, d.pitch)
                    yield row

        if folder is None:
            buffers = {name: io.BytesIO() for name in dtypes}
            _write(buffers, rows(), dtypes, n_units)
            arrays = {name: np.frombuffer(buffers[name].getbuffer(), dtype) for name, dtype in dtypes.items()}
        else:
            if not folder.is_dir():
                _write_folder(folder, rows(), dtypes, n_units)
            arrays = _map(folder, dtypes)
        if not len(arrays["lengths"]):
            raise TrainingError("no units to train on")
        return cls(**arrays)

    def units(self, most: int | None = None) -> list[np.ndarray]:
        """The units of the first documents, together at most `most` tokens, but of at least one document."""
        ends = np.cumsum(self.lengths)
        count = len(ends) if most is None else max(1, int(np.searchsorted(ends, most, side="right")))
        return [
            np.asarray(self.tokens[end - length + 1 : end], np.int64)
            for end, length in zip(ends[:count], self.lengths, strict=False)
        ]


def _write(files: Mapping[str, BinaryIO], rows: Iterable[dict[str, Any]], dtypes: Dtypes, n_units: int) -> None:
    for row in rows:
        for name, values in row.items():
            files[name].write(np.asarray(values, dtypes[name]).tobytes())
    files["tokens"].write(np.array([n_units], dtypes["tokens"]).tobytes())


def _write_folder(folder: Path, rows: Iterable[dict[str, Any]], dtypes: Dtypes, n_units: int) -> None:
    attempt = folder.with_name(f"{folder.name}.part")
    attempt.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(attempt / name, "wb")) for name in dtypes}
        _write(files, rows, dtypes, n_units)
    for name in files:
        sync(attempt / name)  # else after a power cut the folder could be there without its data
    attempt.rename(folder)


def _map(folder: Path, dtypes: Dtypes) -> dict[str, np.ndarray]:
    try:
        files = {name: folder / name for name in dtypes}
        arrays = {
            name: np.memmap(file, dtypes[name], mode="r") if file.stat().st_size else np.empty(0, dtypes[name])
            for name, file in files.items()
        }
    except (OSError, ValueError):
        arrays = {}
    lengths = {len(a) - (name == "tokens") for name, a in arrays.items() if name != "lengths"}
    if not arrays or lengths != {arrays["lengths"].sum()}:
        raise TrainingError(f"{folder}: these packed documents are damaged; remove the folder, it is made again")
    return arrays


class Batch(NamedTuple):
    """Packed rows; all (B, context) int64.

    Attributes:
        tokens: the input; with pitch, of `textless.lm.streams.joint`.
        positions: of each token in its document, or in the piece of it that is in this row.
        targets: the next token.
        durations: class of the duration of the input unit (frames - 1); -100 at `</s>`, which has none.
        pitch: of the input unit; -100 at `</s>`, and everywhere without pitch.
    """

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    durations: Tensor
    pitch: Tensor


class Packer:
    """Rows of `context` tokens from an endless stream of documents, shuffled in each epoch.

    A document is `</s>` u1 … uN with targets u1 … uN `</s>`. At the end of a row a document is cut, and the rest is a
    piece of the next row with positions from 0: long documents are cut in the same way, and windows of a long sequence
    look so at inference. Row r is a function of (seed, r) alone. Memory holds 24 bytes a document, and the rows.
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
        pieces, at, left = [], row * self.context, self.context
        while left:
            epoch, offset = divmod(at, len(self.documents.durations))
            self._shuffle(epoch)
            j = int(np.searchsorted(self._ends, offset, side="right"))
            document, until_end = int(self._order[j]), int(self._ends[j]) - offset
            length = min(left, until_end)
            pieces.append((document, int(self.documents.lengths[document]) - until_end, length))
            at, left = at + length, left - length
        return pieces

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
        ends = classes < 0
        pitch = torch.full_like(classes, -100)
        if self.documents.pitch is not None:
            values = [self._pitch(at, length) for at, length in spans]
            pitch, before = (torch.from_numpy(np.concatenate(v).reshape(rows, -1)) for v in zip(*values, strict=True))
            tokens = tokens + (int(self.documents.tokens[-1]) + 1) * before
        return Batch(tokens, positions, targets, classes.masked_fill_(ends, -100), pitch.masked_fill_(ends, -100))

    def _pitch(self, at: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(length,) int64: the pitch of a piece of a document, and the pitch before each of its tokens."""
        assert self.documents.pitch is not None
        values = np.append(0, self.documents.pitch[max(0, at - 1) : at + length]).astype(np.int64)[-length - 1 :]
        is_unit = self.documents.durations[at : at + length] > 0
        return values[1:], np.where(is_unit, values[:-1], 0)  # `</s>` follows another document


def document_mask(positions: Tensor) -> Tensor:
    """(B, T) positions → (B, 1, T, T) bool: each token attends to itself and to those before it in its document."""
    place = torch.arange(positions.shape[1], device=positions.device)
    first = (place - positions)[:, :, None]
    return ((place <= place[:, None]) & (place >= first))[:, None]
