"""What is written beside a result: all that is known of how it came about."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import time
from pathlib import Path
from typing import Any

from textless.engine.hashes import write_text

MANIFEST = "manifest.json"
LIBRARIES = ("torch", "numpy", "faiss-cpu", "faiss-gpu-cu12", "scikit-learn", "soundfile", "soxr", "pystoi", "pocketsphinx")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """None where there is none, or one that is damaged: then the artefact counts as not there."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return manifest if isinstance(manifest, dict) and "key" in manifest else None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    """The last file of an artefact, when all others are on the disk, power cut or not."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as f:
            os.fsync(f.fileno())
            files[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}
    about |= {
        "files": files,
        "versions": versions(),
        "source": source_hash(),
        "finished": time.time(),
        "host": socket.gethostname(),
    }
    write_text(folder / MANIFEST, json.dumps(about, indent=1) + "\n")
    with open(folder / MANIFEST, "rb") as f:
        os.fsync(f.fileno())


@functools.cache
def source_hash() -> str:
    """sha256 over the package's source, recorded so that `why` can say that the code has changed since."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Of Python and the libraries that results depend on."""
    out = {"python": platform.python_version()}
    for name in ("textless", *LIBRARIES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            out[name] = importlib.metadata.version(name)
    return out
