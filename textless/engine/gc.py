"""What is kept and what may go: records of runs, garbage, and whether what is there is still what was written.

How old something is, the store's file system says, by the times of its files and of one that is made now: no host's clock is believed.
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
from textless.engine.hashes import write_text
from textless.engine.lease import Lease, guard
from textless.engine.manifest import MANIFEST, Digests, faults, read_manifest
from textless.engine.step import digest
from textless.errors import StoreError

DAY = 86400.0  # seconds


def record_run(root: Path, file: str, targets: dict[str, str], needed: list[str]) -> None:
    """Say that a run wants these artefacts, before it looks what of them is there. A store that cannot be written keeps no records."""
    record = {"pipeline": file, "targets": targets, "needed": sorted(set(needed))}
    with contextlib.suppress(OSError):
        (root / "runs").mkdir(parents=True, exist_ok=True)
        (root / "work").mkdir(exist_ok=True)
        with guard(root / "work"):
            write_text(
                root / "runs" / f"{digest(record)[:16]}.json",
                json.dumps({**record, "when": time.time()}, indent=1) + "\n",
            )


def runs(root: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Every recorded run, latest first; None stands for a record that is damaged."""
    for _, file in sorted(((_time(file), file) for file in (root / "runs").glob("[!.]*.json")), reverse=True):
        with contextlib.suppress(FileNotFoundError):
            yield file, _record(file)


def _record(file: Path) -> dict[str, Any] | None:
    try:
        run = json.loads(file.read_bytes())
        return run if isinstance(run["needed"], list) and all(isinstance(name, str) for name in run["needed"]) else None
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _time(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return math.inf


def garbage(root: Path, *, days: float) -> Iterator[tuple[Path, int]]:
    """What is older than `days` and no run since then needs, and its bytes: artefacts, unfinished work, shards that no artefact holds.

    What a run that is alive wants is kept, however old: whether those of other hosts are is seen by looking for a while.
    Raises StoreError when the record of a run is damaged, so that nobody knows what it needs.
    """
    if not root.is_dir():
        return
    live.bury(root)
    since = live.store_time(root) - days * DAY
    wanted, now = needed(root, days), live.runs(root)
    for kind in ("artefacts", "work"):
        for folder in sorted((root / kind).glob("*")):
            old = folder.is_dir() and _time(folder) < since and folder.name not in wanted
            if (
                old
                and not any(run.may_want(folder.name) for run in now)
                and not Lease(root / "work" / f"{folder.name}.lease").busy()
            ):
                yield folder, _bytes(folder)
    since = min([since, *(run.since for run in now)])  # a run may be at a map whose shards no artefact holds yet
    for folder in sorted((root / "shards").glob("*")):
        with contextlib.suppress(OSError):
            files = [p.stat() for p in (folder / "result").rglob("*") if p.is_file()] or [
                p.stat() for p in folder.iterdir()
            ]
            if all(f.st_nlink == 1 and f.st_mtime < since for f in files):
                yield folder, sum(f.st_size for f in files)


def remove(root: Path, folder: Path, *, days: float) -> bool:
    """Remove garbage, at once as far as others can see; False if a run wants it by now."""
    trash = root / "work" / f".trash.{uuid.uuid4().hex}"
    (root / "work").mkdir(exist_ok=True)
    with guard(root / "work"):
        if folder.name in needed(root, days) or any(run.may_want(folder.name) for run in live.runs(root)):
            return False
        with contextlib.suppress(FileNotFoundError):
            folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
    return True


def forget(root: Path, *, days: float) -> None:
    """Remove the records of older runs."""
    since = live.store_time(root) - days * DAY
    for file, _ in runs(root):
        if _time(file) < since:
            file.unlink(missing_ok=True)


def damage(folder: Path, digests: Digests | None = None) -> list[str]:
    """What of an artefact is not as its manifest says, a line each: every byte is read."""
    manifest = read_manifest(folder)
    if manifest is None:
        return [f"{folder / MANIFEST}: missing or damaged"]
    return list(faults(folder, manifest["files"], digests or Digests()))


def needed(root: Path, days: float = math.inf) -> set[str]:
    """Artefacts that the runs of the last `days` keep. Raises StoreError when the record of one of these runs is damaged."""
    since, out = live.store_time(root) - days * DAY, set()
    for file, run in runs(root):
        if _time(file) >= since:
            if run is None:
                raise StoreError(
                    f"{file}: damaged, so that nobody knows what its run needs; remove it, and run that pipeline again"
                )
            out |= set(run["needed"])
    return out


def _bytes(folder: Path) -> int:
    files = [p.lstat() for p in folder.rglob("*") if p.is_file()]
    return sum(f.st_size for f in files if f.st_nlink <= 2)
