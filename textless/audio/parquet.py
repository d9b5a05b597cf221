"""Audio files that are values of a parquet file, read a few at once, in bounded memory."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

HELD = 1 << 28  # bytes of audio that are kept after reading, for the decoder that comes after the reader of headers
AT_ONCE = 16  # rows


class _Reader:
    """Bytes of the rows of one parquet file, fastest in order: a few rows are read at once."""

    def __init__(self, path: str, column: str) -> None:
        import pyarrow.parquet

        self.file = open(path, "rb")  # noqa: SIM115  (closed with the reader)
        self.parquet = pyarrow.parquet.ParquetFile(self.file, pre_buffer=False, buffer_size=1 << 20)
        self.column = column
        self.lock = threading.Lock()
        self.held: OrderedDict[int, bytes | None] = OrderedDict()
        self.bytes_held = 0
        self.next = 0
        self.batches: Iterator[Any] = iter(())
        self.ends = []
        total = 0
        for group in range(self.parquet.metadata.num_row_groups):
            total += self.parquet.metadata.row_group(group).num_rows
            self.ends.append(total)

    def read(self, row: int) -> bytes | None:
        with self.lock:
            if row not in self.held and not self.next <= row < self.next + 4 * AT_ONCE:
                self._go_to(row)
            while row not in self.held:
                batch = next(self.batches, None)
                if batch is None:
                    if self.next >= self.ends[-1]:
                        raise ValueError("it has fewer rows than before")
                    self._go_to(self.next)
                    continue
                for value in batch.column(0).field("bytes"):
                    self._keep(self.next, value.as_py(), row)
                    self.next += 1
            self.held.move_to_end(row)
            return self.held[row]

    def _go_to(self, row: int) -> None:
        """Begin at the row group of a row."""
        group = next(i for i, end in enumerate(self.ends) if row < end)
        self.next = self.ends[group - 1] if group else 0
        self.batches = self.parquet.iter_batches(AT_ONCE, row_groups=[group], columns=[f"{self.column}.bytes"])

    def _keep(self, row: int, value: bytes | None, wanted: int) -> None:
        self.bytes_held += len(value or b"") - len(self.held.pop(row, None) or b"")
        self.held[row] = value
        while self.bytes_held > HELD and len(self.held) > 1:
            oldest = next(r for r in self.held if r != wanted)
            self.bytes_held -= len(self.held.pop(oldest) or b"")


_readers: OrderedDict[tuple[Any, ...], _Reader] = OrderedDict()
_lock = threading.Lock()


def read_bytes(path: str, column: str, row: int) -> bytes:
    """The audio file in a row of a parquet file. Raises OSError."""
    import pyarrow

    info = os.stat(path)
    key = (os.getpid(), path, column, info.st_size, info.st_mtime_ns, info.st_ino)
    try:
        with _lock:
            if key not in _readers:
                _readers[key] = _Reader(path, column)
                while len(_readers) > 2:
                    _readers.popitem(last=False)
            _readers.move_to_end(key)
            reader = _readers[key]
        data = reader.read(row)
    except (pyarrow.ArrowException, ValueError, StopIteration) as e:
        raise OSError(
            5, f"the parquet file is damaged: {str(e).splitlines()[0] if str(e) else type(e).__name__}"
        ) from None
    if not data:
        raise OSError(5, "its row holds no bytes")
    return data
