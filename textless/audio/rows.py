"""Rows of a corpus: parts of audio files, and their waveforms, decoded ahead of the reader."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from textless.audio.io import SAMPLE_RATE, Parts, audio_samples, read_audio, stream_audio
from textless.audio.place import Member, Place
from textless.errors import AudioError
from textless.names import plain

AHEAD = 20 * 60 * SAMPLE_RATE  # samples decoded before they are asked for
LONGEST_STEM = 180  # bytes; file systems take names of 255, and suffixes and numbers are added


@dataclass(frozen=True, slots=True)
class Row:
    """`samples` samples of the file at `path` (absolute) from `offset` on, counted at 16 kHz; None: to the end.

    `id`, `speaker` and `split` are normalised by `names.plain`; the path is kept as the file system gives it.

    Attributes:
        source: what units call the file; None: the name of the file. Files of one name have their paths here, from the
            corpus's folder on.
        channel: the only one that is read, from 0; None: the mean of all.
        member: the audio file within the file at `path`, a tar or parquet file.
    """

    id: str
    path: str
    offset: int = 0
    samples: int | None = None
    speaker: str | None = None
    split: str | None = None
    source: str | None = None
    channel: int | None = None
    member: Member | None = None

    @property
    def place(self) -> str | Place:
        """Where its sound is, for `read_audio`: the path, where that says all."""
        if self.channel is None and self.member is None:
            return self.path
        return Place(self.path, self.channel, self.member)

    @property
    def source_name(self) -> str:
        """What units call the file."""
        return self.source or os.path.basename(self.path if self.member is None else self.member.name)

    def __post_init__(self) -> None:
        for name in ("id", "speaker", "split"):
            if (value := getattr(self, name)) is not None and not value.isascii():
                object.__setattr__(self, name, plain(value))


def file_stem(name: str) -> str:
    """A file name for an id: characters that are unsafe in paths or shells become `_`, and a long id ends in a hash."""
    stem = re.sub(r"[^\w.+=@-]", "_", name).lstrip(".") or "_"
    if len(stem.encode()) <= LONGEST_STEM:
        return stem
    return (
        stem.encode()[: LONGEST_STEM - 17].decode(errors="ignore")
        + "-"
        + hashlib.sha256(name.encode()).hexdigest()[:16]
    )


def row_identity(row: Row, hash_file: Callable[[str], str]) -> list[Any]:
    """What identifies a row, whatever its path: id, sha256 of the file's bytes, part, speaker, split.

    A row that is one channel or a member of its file has these as well.
    """
    return [row.id, hash_file(row.path), row.offset, row.samples, row.speaker, row.split, *within_file(row)]


def within_file(row: Row) -> list[Any]:
    """What of its file a row is, besides the span: nothing, or the channel and the member."""
    if row.channel is None and row.member is None:
        return []
    return [row.channel, None if row.member is None else [row.member.name, row.member.start]]


def read_row(row: Row) -> np.ndarray:
    """The waveform of a row, (samples,) float32 in [-1, 1] at 16 kHz. Raises AudioError as `read_audio`."""
    return read_audio(row.place, offset=row.offset, samples=row.samples)


class Recording:
    """A row that is too long for memory: its waveform is read in blocks, any number of times."""

    def __init__(self, row: Row) -> None:
        self.row, self._samples = row, 0

    def blocks(self) -> Iterator[np.ndarray]:
        """(samples,) float32 in [-1, 1] at 16 kHz, block by block. Raises AudioError as `stream_audio`."""
        samples = 0
        for block in stream_audio(self.row.place, offset=self.row.offset, samples=self.row.samples):
            samples += len(block)
            yield block
        self._samples = samples

    def beginning(self, samples: int) -> np.ndarray:
        """Its first samples, (samples,) float32; the rest is not decoded. Raises as `blocks`."""
        parts, missing = [], samples
        for block in self.blocks():
            parts.append(block[:missing])
            missing -= len(parts[-1])
            if missing <= 0:
                break
        return np.concatenate(parts)

    def samples(self) -> int:
        """Its length, which is known after it has been read to its end once."""
        return self._samples


Audio = np.ndarray | Recording | AudioError


@overload
def read_rows(rows: Iterable[Row]) -> Iterator[tuple[Row, np.ndarray | AudioError]]: ...
@overload
def read_rows(rows: Iterable[Row], *, longest: int | None) -> Iterator[tuple[Row, Audio]]: ...
def read_rows(rows: Iterable[Row], *, longest: int | None = None) -> Iterator[tuple[Row, Audio]]:
    """Each row with its waveform (samples,) float32, or the AudioError that reading it raised, in order.

    Files are decoded in threads, since libsndfile and soxr release the interpreter lock, and at most AHEAD samples and
    a few rows ahead of the reader, so that memory stays bounded; a single row may be longer. Consecutive rows of a
    lossy file, in the order of their offsets, share one pass of the decoder. A row of more than `longest` samples comes
    as a Recording.
    """

    def length(row: Row) -> int:
        try:
            return max(0, row.samples or audio_samples(row.place) - row.offset)
        except AudioError:
            return 0  # the error is raised again when the row is read

    def decode(row: Row, samples: int, parts: Parts | None, before: Future[Audio] | None) -> Audio:
        if before is not None:
            before.exception()  # parts of one file are decoded in order
        try:
            if longest is not None and samples > longest:
                return Recording(row)
            return read_row(row) if parts is None else parts.read(row.offset, row.samples)
        except AudioError as e:
            return e

    threads = os.cpu_count() or 1
    rows, held = iter(rows), 0
    parts: Parts | None = None
    before: Future[Audio] | None = None
    headers: deque[tuple[Row, Future[int]]] = deque()
    ahead: deque[tuple[Row, int, Future[Audio]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            for row in itertools.islice(rows, 2 * threads + 1 - len(headers) - len(ahead)):
                headers.append((row, pool.submit(length, row)))
            while headers and (not ahead or (headers[0][1].done() and held + headers[0][1].result() <= AHEAD)):
                row, samples = headers[0][0], headers.popleft()[1].result()
                if row.samples is None:
                    parts = before = None
                elif parts is None or parts.path != row.place:
                    parts, before = Parts(row.place), None
                future = pool.submit(decode, row, samples, parts, before)
                before = future if parts else None
                in_memory = 0 if longest is not None and samples > longest else samples
                ahead.append((row, in_memory, future))
                held += in_memory
            if not ahead:
                return
            row, in_memory, future = ahead.popleft()
            yield row, future.result()
            del future
            held -= in_memory
    finally:
        pool.shutdown(cancel_futures=True)


def read_some(rows: Iterable[Row], *, seconds: float, seed: int, longest: float = 60.0) -> list[np.ndarray]:
    """Waveforms of a random sample of rows, `seconds` together; the order depends on the seed and the ids alone.

    A row is cut to its first `longest` seconds, and one that cannot be read is skipped.
    """
    order = sorted(rows, key=lambda row: hashlib.sha256(f"{seed} {row.id}".encode()).digest())
    most, total = round(longest * SAMPLE_RATE), 0
    waveforms: list[np.ndarray] = []
    for _, audio in read_rows(order, longest=most):
        try:
            if isinstance(audio, AudioError):
                raise audio
            waveforms.append(audio.beginning(most) if isinstance(audio, Recording) else audio)
        except AudioError:
            continue
        total += len(waveforms[-1])
        if total >= seconds * SAMPLE_RATE:
            break
    return waveforms
