"""Where a sound is: in a file, in one of its channels, or in a member of an archive that is read in place."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from textless.audio.containers import Stream, Window


@dataclass(frozen=True, slots=True)
class Member:
    """An audio file within another file.

    Attributes:
        name: its own file name, perhaps with folders.
        start: in a tar, its first byte; in a parquet file, its row.
        size: in a tar, its bytes.
        column: in a parquet file, the column that holds its bytes; "" in a tar.
    """

    name: str
    start: int
    size: int = 0
    column: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A file, one of its channels (from 0; None: all), a member of it. As text: the path, which messages name."""

    path: str
    channel: int | None = None
    member: Member | None = None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}/{self.member.name}"

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.path if self.member is None else self.member.name)[1].lower()

    def open(self) -> BinaryIO:
        """The bytes of the audio file. Raises OSError."""
        if self.member is None:
            return open(self.path, "rb")
        if self.member.column:
            from textless.audio.parquet import read_bytes

            return io.BytesIO(read_bytes(self.path, self.member.column, self.member.start))
        span = Stream(self.member.start, self.member.start + self.member.size)
        return cast(BinaryIO, Window(open(self.path, "rb"), span))


def place_of(path: str | Path | Place, channel: int | None = None) -> Place:
    """The place of a file; `channel` replaces that of a place, if given."""
    if isinstance(path, Place):
        return path if channel is None else Place(path.path, channel, path.member)
    return Place(os.fspath(path), channel)
