"""Hashes of files, remembered, so that content can identify what is large."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from textless.errors import StoreError


class FileHashes:
    """sha256 of files, remembered by (path, size, mtime), so that a second look is a stat.

    `changed` lists the files whose bytes were others when they were last asked for.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self.changed: list[str] = []
        self._new = False

    @functools.cached_property
    def _known(self) -> dict[str, list[Any]]:
        try:
            return json.loads(self.memory.read_text())
        except (OSError, ValueError):
            return {}

    def __call__(self, path: str) -> str:
        try:
            stat = os.stat(path)
            known = self._known.get(path)
            if known and known[0] == stat.st_size and known[1] == stat.st_mtime_ns:
                return known[2]
            with open(path, "rb") as f:
                digest = hashlib.file_digest(f, "sha256").hexdigest()
        except OSError as e:
            raise StoreError(f"{path}: {e.strerror}; correct the manifest or bring the file back") from None
        if known and known[2] != digest:
            self.changed.append(path)
        self._known[path] = [stat.st_size, stat.st_mtime_ns, digest]
        self._new = True
        return digest

    def save(self) -> None:
        if self._new:
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.memory, json.dumps(self._known))
            self._new = False


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
