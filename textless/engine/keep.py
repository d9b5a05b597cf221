"""What is kept and what may go: records of runs, garbage, and whether what is there is still what was written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textless.engine.hashes import write_text
from textless.engine.lease import Lease, guard
from textless.engine.manifest import MANIFEST, read_manifest
from textless.engine.step import digest

DAY = 86400.0  # seconds


def record_run(root: Path, file: str, targets: dict[str, str], needed: list[str]) -> None:
    """Say that a run wants these artefacts, before it looks what of them is there. A store that cannot be written keeps no records."""
    record = {"pipeline": file, "targets": targets, "needed": sorted(set(needed))}
    with contextlib.suppress(OSError):
        (root / "runs").mkdir(parents=True, exist_ok=True)
        (root / "work").mkdir(exist_ok=True)
        with guard(root / "work"):
            write_text(root / "runs" / f"{digest(record)[:16]}.json", json.dumps({**record, "when": time.time()}, indent=1) + "\n")


def runs(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every recorded run, latest first."""
    found = []
    for file in (root / "runs").glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append((file, json.loads(file.read_text())))
    yield from sorted(found, key=lambda run: run[1]["when"], reverse=True)


def garbage(root: Path, *, days: float) -> Iterator[tuple[Path, int]]:
    """What is older than `days` and no run since then needs, and its bytes: artefacts, unfinished work, shards that no artefact holds."""
    since = time.time() - days * DAY
    wanted = needed(root, days)
    for kind in ("artefacts", "work"):
        for folder in sorted((root / kind).glob("*")):
            old = folder.is_dir() and folder.stat().st_mtime < since
            if old and folder.name not in wanted and not Lease(root / "work" / f"{folder.name}.lease").busy():
                yield folder, _bytes(folder)
    for folder in sorted((root / "shards").glob("*")):
        files = [p.stat() for p in (folder / "result").rglob("*") if p.is_file()] or [p.stat() for p in folder.iterdir()]
        if all(f.st_nlink == 1 and f.st_mtime < since for f in files):
            yield folder, sum(f.st_size for f in files)


def remove(root: Path, folder: Path, *, days: float) -> bool:
    """Remove garbage, at once as far as others can see; False if a run wants it by now."""
    trash = root / "work" / f".trash.{uuid.uuid4().hex}"
    with guard(root / "work"):
        if folder.name in needed(root, days):
            return False
        with contextlib.suppress(FileNotFoundError):
            folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
    return True


def forget(root: Path, *, days: float) -> None:
    """Remove the records of older runs."""
    for file, run in runs(root):
        if run["when"] < time.time() - days * DAY:
            file.unlink(missing_ok=True)


def damage(folder: Path) -> list[str]:
    """What of an artefact is not as its manifest says, a line each: every byte is read."""
    manifest = read_manifest(folder)
    if manifest is None:
        return [f"{folder / MANIFEST}: missing or damaged"]
    out = []
    for name, about in manifest["files"].items():
        path = folder / name
        size, sha256 = (about, None) if isinstance(about, int) else (about["size"], about["sha256"])  # older manifests have sizes alone
        if not path.is_file():
            out.append(f"{path}: missing")
        elif path.stat().st_size != size:
            out.append(f"{path}: {path.stat().st_size} bytes, not {size}")
        elif sha256:
            with open(path, "rb") as f:
                if hashlib.file_digest(f, "sha256").hexdigest() != sha256:
                    out.append(f"{path}: its bytes changed")
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    return out + [f"{folder / name}: was not there when it was made" for name in sorted(there - manifest["files"].keys())]


def needed(root: Path, days: float = math.inf) -> set[str]:
    """Artefacts that the runs of the last `days` keep."""
    since = time.time() - days * DAY
    return {name for _, run in runs(root) if run["when"] >= since for name in run["needed"]}


def _bytes(folder: Path) -> int:
    files = [p.lstat() for p in folder.rglob("*") if p.is_file()]
    return sum(f.st_size for f in files if f.st_nlink <= 2)
