"""Garbage collection: records of runs, and what neither these nor live runs need.

The roots are the artefacts that recorded runs of the last days need, and those that live runs want (see `live`).
Everything else that is older than these days is garbage. Ages are by the store's file system, from the times of its
files and of one that is written now: no host's clock is trusted.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textless.engine import live
from textless.engine.lease import Lease, guard
from textless.engine.step import digest
from textless.errors import StoreError
from textless.files import write_text

DAY = 86400.0  # seconds


def record_run(root: Path, file: str, targets: dict[str, str], needed: list[str]) -> None:
    """Record what a run needs, before it looks at which of it exists. A read-only store keeps no records."""
    record = {"pipeline": file, "targets": targets, "needed": sorted(set(needed))}
    with contextlib.suppress(OSError):
        (root / "runs").mkdir(parents=True, exist_ok=True)
        (root / "work").mkdir(exist_ok=True)
        with guard(root / "work"):
            text = json.dumps({**record, "when": time.time()}, indent=1) + "\n"
            write_text(root / "runs" / f"{digest(record)[:16]}.json", text)


def records(root: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Every recorded run, the latest first; None where the record is damaged."""
    for _, file in sorted(((_mtime(file), file) for file in (root / "runs").glob("[!.]*.json")), reverse=True):
        with contextlib.suppress(FileNotFoundError):
            yield file, _read_record(file)


def _read_record(file: Path) -> dict[str, Any] | None:
    try:
        run = json.loads(file.read_bytes())
        return run if isinstance(run["needed"], list) and all(isinstance(name, str) for name in run["needed"]) else None
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def remove_records(root: Path, *, days: float) -> None:
    """Remove the records of older runs."""
    since = live.store_time(root) - days * DAY
    for file, _ in records(root):
        if _mtime(file) < since:
            file.unlink(missing_ok=True)


def roots(root: Path, days: float = math.inf) -> set[str]:
    """Artefacts that recorded runs of the last `days` need. Raises StoreError when one of these records is damaged."""
    since, out = live.store_time(root) - days * DAY, set()
    for file, run in records(root):
        if _mtime(file) >= since:
            if run is None:
                raise StoreError(
                    f"{file}: damaged, so what its run needs is unknown; remove it, and run that pipeline again"
                )
            out |= set(run["needed"])
    return out


def garbage(root: Path, *, days: float) -> Iterator[tuple[Path, int]]:
    """Folders that may be removed, and their bytes: artefacts, unfinished work, shards that no artefact holds.

    They are older than `days`, and no run since then needs them. What a live run wants is kept, however old; to see
    which runs of other hosts are live takes up to `lease.PATIENCE` seconds. Raises StoreError as `roots`.
    """
    if not root.is_dir():
        return
    live.remove_dead(root)
    since = live.store_time(root) - days * DAY
    reachable, running = roots(root, days), live.runs(root)
    for kind in ("artefacts", "work"):
        for folder in sorted((root / kind).glob("*")):
            needed = folder.name in reachable or any(run.may_want(folder.name) for run in running)
            if needed or not folder.is_dir() or _mtime(folder) >= since:
                continue
            if not Lease(root / "work" / f"{folder.name}.lease").busy():
                yield folder, _size(folder)
    since = min([since, *(run.since for run in running)])  # a live run may have made shards that no artefact holds yet
    for folder in sorted((root / "shards").glob("*")):
        with contextlib.suppress(OSError):
            files = [p for p in (folder / "result").rglob("*") if p.is_file()] or list(folder.iterdir())
            stats = [p.stat() for p in files]
            if all(s.st_nlink == 1 and s.st_mtime < since for s in stats):
                yield folder, sum(s.st_size for s in stats)


def remove(root: Path, folder: Path, *, days: float) -> bool:
    """Remove garbage, atomically as others see it; False if a run wants it by now."""
    trash = root / "work" / f".trash.{uuid.uuid4().hex}"
    (root / "work").mkdir(exist_ok=True)
    with guard(root / "work"):
        if folder.name in roots(root, days) or any(run.may_want(folder.name) for run in live.runs(root)):
            return False
        with contextlib.suppress(FileNotFoundError):
            folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
    return True


def _mtime(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return math.inf


def _size(folder: Path) -> int:
    """Bytes that removing the folder frees: a file with more links than a shard and an artefact is not counted."""
    stats = [p.lstat() for p in folder.rglob("*") if p.is_file()]
    return sum(s.st_size for s in stats if s.st_nlink <= 2)
