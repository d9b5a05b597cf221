"""Hashes of files, remembered, so that a large file is read once to be identified by its content."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

from textless.errors import StoreError
from textless.files import sha256_of, write_text

HASH = re.compile("[0-9a-f]{64}")
PROBE = 1 << 20  # bytes that fit onto a disk which is not full


class FileHashes:
    """sha256 of files, remembered by path and `_identity`, so that a second look is a stat.

    `changed` lists the files whose hash was another one at the time of the call before.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self.changed: list[str] = []
        self._new = False

    @functools.cached_property
    def _known(self) -> dict[str, list[Any]]:
        try:
            known = json.loads(self.memory.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        items = known.items() if isinstance(known, dict) else ()
        return {
            path: entry for path, entry in items if isinstance(entry, list) and len(entry) == 5 and is_hash(entry[-1])
        }

    def __call__(self, path: str) -> str:
        try:
            identity = _identity(path)
            known = self._known.get(path)
            if known and known[:-1] == identity:
                return known[-1]
            digest = sha256_of(path)
        except OSError as e:
            raise StoreError(f"{path}: {e.strerror}; correct the manifest or restore the file") from None
        if known and known[-1] != digest:
            self.changed.append(path)
        self._known[path] = [*identity, digest]
        self._new = True
        return digest

    def save(self) -> None:
        if self._new:
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.memory, json.dumps(self._known))
            self._new = False


def _identity(path: str) -> list[int]:
    """Size, times and inode: `cp -p` and `rsync -t` keep the modification time, not the change time and the inode."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_hash(value: object) -> bool:
    """Whether this is a sha256 in hex."""
    return isinstance(value, str) and HASH.fullmatch(value) is not None


def write_error(folder: Path) -> OSError | None:
    """Why nothing large can be written into a folder. Libraries report a full disk in many ways."""
    probe = folder / f".probe.{uuid.uuid4().hex}"
    try:
        probe.write_bytes(bytes(PROBE))
    except OSError as e:
        return e
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return None
