"""The manifest of an artefact: its files with their hashes, and everything that is known of how it was made."""

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from textless.engine.hashes import is_hash
from textless.errors import StoreError
from textless.files import sync, write_text

MANIFEST = "manifest.json"
LIBRARIES = (
    "torch",
    "numpy",
    "faiss-cpu",
    "faiss-gpu-cu12",
    "scikit-learn",
    "soundfile",
    "soxr",
    "pystoi",
    "pocketsphinx",
)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """None where there is none, or a damaged one: then the artefact counts as missing."""
    try:
        return parse_manifest((folder / MANIFEST).read_bytes(), folder.name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    except OSError as e:
        raise StoreError(
            f"{folder / MANIFEST}: cannot be read ({e.strerror}); make it readable and run again"
        ) from None


def whole_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an artefact whose files have the sizes that it lists, and no others exist; None otherwise."""
    manifest = read_manifest(folder)
    return manifest if manifest and next(faults(folder, manifest["files"]), None) is None else None


def parse_manifest(data: bytes, name: str) -> dict[str, Any]:
    """The manifest of the artefact called `name`. It may be untrusted: each field is checked.

    Raises ValueError, which says what is wrong with it.
    """
    try:
        value = json.loads(data)
        _check(value, name)
    except (TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise ValueError("no manifest that this version knows") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"not JSON: {e}") from None
    return value


def _check(value: dict[str, Any], name: str) -> None:
    for field, right in _FIELDS.items():
        if field not in value and field not in _OPTIONAL:
            raise ValueError(f"no {field}")
        if field in value and not right(value[field]):
            raise ValueError(f"no {field} that this version knows")
    if name != f"{value['step']}-{value['key'][:12]}":
        raise ValueError(f"its key is not that of {name}")
    if value["lineage"].get(value["key"]) != value["payload"]:
        raise ValueError("its lineage is of another key")
    folders = {str(parent) for path in value["files"] for parent in PurePosixPath(path).parents}
    for path, about in value["files"].items():
        pure = PurePosixPath(path)
        inside = not pure.is_absolute() and ".." not in pure.parts and "\0" not in path
        if not inside or str(pure) != path or path in {*folders, "."} or pure.parts[0] == MANIFEST:
            raise ValueError(f"no path of a file: {path[:200]!r}")
        size = about if type(about) is int else about["size"]  # older manifests have sizes alone
        if not _count(size) or not (size is about or is_hash(about["sha256"])):
            raise ValueError(f"no size or sha256 of {path[:200]!r}")


def _count(value: object) -> bool:
    return type(value) is int and value >= 0


def _text(value: object) -> bool:
    return isinstance(value, str)


def _mapping(value: object) -> bool:
    return isinstance(value, dict)


def _payload(value: object) -> bool:
    """Whether a value is a payload, which is what a key is the hash of."""
    return (
        isinstance(value, dict)
        and isinstance(value["step"], str)
        and type(value["version"]) is int
        and isinstance(value["fields"], dict)
        and isinstance(value["inputs"], dict)
        and all(map(is_hash, value["inputs"].values()))
    )


def _lineage(value: object) -> bool:
    return isinstance(value, dict) and all(
        _payload(payload) and all(key in value for key in payload["inputs"].values()) for payload in value.values()
    )


def _number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


_FIELDS: Mapping[str, Callable[[object], bool]] = {
    "step": _text,
    "key": is_hash,
    "payload": _payload,
    "fields": _mapping,
    "lineage": _lineage,
    "metrics": lambda value: value is None or isinstance(value, dict),
    "contract": lambda value: value is None or isinstance(value, dict),
    "failures": _count,
    "seconds": _number(0, 1e12),
    "attempts": _count,
    "amount": lambda value: value is None or _count(value),
    "shards": lambda value: isinstance(value, list) and all(map(is_hash, value)),
    "files": _mapping,
    "versions": lambda value: isinstance(value, dict) and all(map(_text, value.values())),
    "source": _text,
    "finished": _number(0, 250_000_000_000),  # seconds since 1970, to where calendars end
    "host": _text,
}
_OPTIONAL = ("amount", "shards")  # not in manifests of older versions


class Digests:
    """sha256 of files, each inode read once: shards are hard links of the files of artefacts.

    An inode is read again when its size or times have changed.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], str] = {}

    def __call__(self, path: Path) -> str:
        with open(path, "rb") as f:
            stat = os.fstat(f.fileno())
            identity = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
            if identity not in self._known:
                self._known[identity] = hashlib.file_digest(f, "sha256").hexdigest()
            return self._known[identity]


def faults(folder: Path, files: Mapping[str, Any], digests: Digests | None = None) -> Iterator[str]:
    """The differences between a folder and its list of `files`, a line each. Bytes are read only with `digests`.

    Additional files count: steps read all files of a folder. Names that begin with a dot, as file managers and NFS
    leave them, are read by no step and reported only when all bytes are read.
    """
    for name, about in files.items():
        path = folder / name
        # Older manifests have sizes alone.
        size, sha256 = (about, None) if isinstance(about, int) else (about["size"], about["sha256"])
        try:
            actual = path.stat().st_size if path.is_file() else None
            if actual is None:
                yield f"{path}: missing"
            elif actual != size:
                yield f"{path}: {actual} bytes, not {size}"
            elif digests and sha256 and digests(path) != sha256:
                yield f"{path}: its bytes changed"
        except OSError as e:
            yield f"{path}: cannot be read ({e.strerror})"
    names = {os.path.relpath(os.path.join(top, name), folder) for top, _, names in os.walk(folder) for name in names}
    for name in sorted(names - files.keys() - {MANIFEST}):
        if digests or not os.path.basename(name).startswith("."):
            yield f"{folder / name}: was not there when it was made"


def damage(folder: Path, digests: Digests | None = None) -> list[str]:
    """The differences between an artefact and its manifest, a line each: every byte is read."""
    manifest = read_manifest(folder)
    if manifest is None:
        return [f"{folder / MANIFEST}: missing or damaged"]
    return list(faults(folder, manifest["files"], digests or Digests()))


def write_manifest(folder: Path, about: dict[str, Any], digests: Digests | None = None) -> None:
    """Write the last file of an artefact, after all others are on the disk, even through a power cut."""
    files, digests = {}, digests or Digests()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync(path)
        files[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": digests(path)}
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
    """Move a complete folder to the artefacts by one rename; False if another process was first."""
    target = root / "artefacts" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and whole_manifest(target) is None:
        # Damaged, by a failing disk or by hand. It is kept: to inspect and to remove it is the user's decision.
        (root / "damaged").mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # dropped in the meantime
            target.rename(root / "damaged" / f"{name}.{work.name.lstrip('.')}")
    try:
        work.rename(target)
    except OSError:
        if whole_manifest(target) is None:
            raise
        return False
    sync(target.parent)
    return True


@functools.cache
def source_hash() -> str:
    """sha256 of the package's source, recorded so that `why` can say that the code has changed since."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    out = {"python": platform.python_version()}
    for name in ("textless", *LIBRARIES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            out[name] = importlib.metadata.version(name)
    return out
