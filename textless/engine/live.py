"""Live runs: the artefacts that running processes need, which neither `gc` nor the end of another run removes.

A run writes `live/ID.json` before it looks at which artefacts exist: its process, the names of all artefacts that it
may need, the store's time at its start, and a counter that it increments every `lease.BEAT` seconds. It removes the
file at its end. The file is first written under `lease.guard`, and artefacts are removed under the same guard, after
reading these files: so a run is either seen, or finds the artefact gone and makes it again. A run of this host is dead
when its process is; one of another host when its counter does not change for `lease.PATIENCE` seconds of the reader's
own clock. Ages are by the clock of the store's file system, never by a host's.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from textless.engine import lease
from textless.files import write_text

POLL = 0.2  # seconds


class Run(NamedTuple):
    """A run that is not known to be dead.

    Attributes:
        text: content of its file.
        wants: names of artefacts; None if that cannot be read.
        since: the store's time at its start.
    """

    file: Path
    text: str
    wants: frozenset[str] | None
    since: float

    def may_want(self, name: str) -> bool:
        return self.wants is None or name in self.wants


@contextlib.contextmanager
def registered(root: Path, wants: Iterable[str]) -> Iterator[None]:
    """Register a run that wants these artefacts, for the time of the block. A read-only store needs no registration."""
    file, beat = root / "live" / f"{uuid.uuid4().hex}.json", 0
    about: dict[str, Any] = {**lease.process(), "wants": sorted(set(wants)), "since": store_time(root)}

    def write() -> None:
        nonlocal beat
        beat += 1
        write_text(file, json.dumps({**about, "beat": beat}))

    with contextlib.suppress(OSError):
        for folder in (root / "work", file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with lease.guard(root / "work"):
            write()
    try:
        with lease.beating(write):
            yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def runs(root: Path) -> list[Run]:
    """Runs that are not known to be dead. Files of dead processes of this host are removed."""
    out = []
    for file in (root / "live").glob("[!.]*.json"):
        with contextlib.suppress(OSError):
            text = file.read_text(errors="replace")
            if lease.is_dead(owner := lease.parse_owner(text) or {}):
                file.unlink()
                continue
            wants, since = owner.get("wants"), owner.get("since")
            known = isinstance(wants, list) and all(isinstance(name, str) for name in wants)
            began = float(since) if isinstance(since, int | float) and since == since else 0.0
            out.append(Run(file, text, frozenset(wants or ()) if known else None, began))
    return out


def remove_dead(root: Path) -> None:
    """Remove the files of runs whose counter does not change within `lease.PATIENCE` seconds; wait for that long."""
    unchanged = {run.file: run.text for run in runs(root) if not lease.is_here(lease.parse_owner(run.text) or {})}
    deadline = time.monotonic() + lease.PATIENCE
    while unchanged and time.monotonic() < deadline:
        time.sleep(POLL)
        now = {run.file: run.text for run in runs(root)}
        unchanged = {file: text for file, text in unchanged.items() if now.get(file) == text}
    for file in unchanged:
        with contextlib.suppress(OSError):
            file.unlink()


def store_time(root: Path) -> float:
    """Seconds since 1970 by the store's file system, which may be on another host; by this host if it is read-only."""
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
