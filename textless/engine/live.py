"""Runs that are alive, and the artefacts that they still want: a file each, whose counter its process raises.

No clock is compared with another. A run of this host is dead when its process is; one of another host when its counter stands still for
`lease.PATIENCE` seconds by the clock of who looks. What time it is, the store's own file system says.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from textless.engine import lease
from textless.engine.hashes import write_text

POLL = 0.2  # seconds


class Run(NamedTuple):
    """A run that is not known to be dead: what it wants, None if that cannot be read, and the store's time when it began."""

    file: Path
    text: str
    wants: frozenset[str] | None
    since: float

    def may_want(self, name: str) -> bool:
        return self.wants is None or name in self.wants


@contextlib.contextmanager
def alive(root: Path, wants: Iterable[str]) -> Iterator[None]:
    """Say that a run wants these artefacts as long as the block runs. A store that cannot be written loses nothing either."""
    file, over, beat = root / "live" / f"{uuid.uuid4().hex}.json", threading.Event(), 0
    about: dict[str, Any] = {**lease.process(), "wants": sorted(set(wants)), "since": store_time(root)}

    def write() -> None:
        nonlocal beat
        beat += 1
        write_text(file, json.dumps({**about, "beat": beat}))

    def raise_counter() -> None:
        while not over.wait(lease.BEAT):
            with contextlib.suppress(OSError):
                write()

    with contextlib.suppress(OSError):
        for folder in (root / "work", file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with lease.guard(root / "work"):
            write()
    thread = threading.Thread(target=raise_counter, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):
            file.unlink()


def runs(root: Path) -> list[Run]:
    """Those that are not known to be dead. What dead ones of this host left is removed."""
    found = []
    for file in (root / "live").glob("[!.]*.json"):
        with contextlib.suppress(OSError):
            text = file.read_text(errors="replace")
            if lease.is_dead(owner := lease.parse_owner(text) or {}):
                file.unlink()
                continue
            wants, since = owner.get("wants"), owner.get("since")
            known = isinstance(wants, list) and all(isinstance(name, str) for name in wants)
            began = float(since) if isinstance(since, int | float) and since == since else 0.0
            found.append(Run(file, text, frozenset(wants or ()) if known else None, began))
    return found


def bury(root: Path) -> None:
    """Remove what is left of runs whose counter does not move: looked at until each has moved, or for `lease.PATIENCE` seconds."""
    before = {run.file: run.text for run in runs(root) if not lease.is_here(lease.parse_owner(run.text) or {})}
    deadline = time.monotonic() + lease.PATIENCE
    while before and time.monotonic() < deadline:
        time.sleep(POLL)
        now = {run.file: run.text for run in runs(root)}
        before = {file: text for file, text in before.items() if now.get(file) == text}
    for file in before:
        with contextlib.suppress(OSError):
            file.unlink()


def store_time(root: Path) -> float:
    """Seconds since 1970 by the file system of the store, which may be another host's; where it cannot be written, by this host."""
    probe = root / "work" / f".probe.{uuid.uuid4().hex}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
