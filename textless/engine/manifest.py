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
    sync(folder / MANIFEST)


def publish(root: Path, work: Path, name: str) -> bool:
    """Move a whole folder to where artefacts are looked for, by one rename; False if somebody else was first."""
    target = root / "artefacts" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and read_manifest(target) is None:
        # Damaged, by a failing disk or a hand. It is kept: to look at it is its owner's decision, and so is to remove it.
        (root / "damaged").mkdir(exist_ok=True)
        target.rename(root / "damaged" / f"{name}.{work.name.lstrip('.')}")
    try:
        work.rename(target)
    except OSError:
        if read_manifest(target) is None:
            raise
        return False
    sync(target.parent)
    return True


def sync(path: Path) -> None:
    """Have a file or folder on the disk, so that no power cut leaves a manifest without what it lists."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
