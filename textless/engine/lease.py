"""Leases: who works on a key, so that other processes wait instead of doing the same work.

The lease. `work/NAME.lease` holds the owner (host, process id, start time of the process), a random token, and a
counter that the owner increments every `BEAT` seconds. A process takes a lease by writing this file: when there is
none, when the owner is a dead process of the same host, or when the counter has not changed for `PATIENCE` seconds of
the taker's own clock; clocks of two hosts are never compared. The owner removes the file at the end, if its token is
still in it. A lease saves work and no more: what is published is right even if two processes work on one key.

The guard. A lease is read, judged and written under `guard`, a lock (flock) on a file `.guard` in the same folder, held
for milliseconds. Whatever else must not happen in between takes the same guard: registering a run, removing an
artefact.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from textless.errors import StoreError
from textless.files import write_text

BEAT = 3.0  # seconds between two increments of the counter
PATIENCE = 30.0  # seconds without one after which the owner counts as dead


class Lease:
    """A lease on a name, in a folder that all processes share. After `take` has returned True, work within `held()`."""

    def __init__(self, file: Path) -> None:
        self.file, self.token = file, uuid.uuid4().hex
        self.owner: dict[str, Any] | None = None  # the other process that holds it, as of the last call
        self._seen: tuple[str, float] | None = None  # the last content that was new, and when it was read
        self._beat = 0

    def take(self) -> bool:
        """Whether it is ours now. Only repeated calls can detect that an owner on another host has died."""
        with guard(self.file.parent):
            text = _read(self.file)
            if text is not None and not self._stale(text):
                return False
            self._write()
            return True

    def mine(self) -> bool:
        """Whether it has not been taken over."""
        return (parse_owner(_read(self.file)) or {}).get("token") == self.token

    def busy(self) -> bool:
        """Whether a process holds it that is not known to be dead."""
        text = _read(self.file)
        return text is not None and not self._dead(text)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Increment the counter while the block runs, and release the lease after it."""

        def write() -> None:
            with guard(self.file.parent):
                if self.mine():
                    self._write()

        try:
            with beating(write):
                yield
        finally:
            with contextlib.suppress(OSError), guard(self.file.parent):
                if self.mine():
                    self.file.unlink()

    def _write(self) -> None:
        self._beat += 1
        write_text(self.file, json.dumps({"token": self.token, **process(), "beat": self._beat}))

    def _dead(self, text: str) -> bool:
        self.owner = parse_owner(text)
        return is_dead(self.owner or {})

    def _stale(self, text: str) -> bool:
        if self._dead(text):
            return True
        now = time.monotonic()
        if self._seen is None or self._seen[0] != text:
            self._seen = text, now
        return now - self._seen[1] > PATIENCE


@contextlib.contextmanager
def beating(write: Callable[[], None]) -> Iterator[None]:
    """Call `write` every `BEAT` seconds while the block runs. A write that fails with OSError is left out."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):
                write()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[None]:
    """One process at a time in the block, which should take milliseconds.

    Not where the file system has no locks, or after `PATIENCE` seconds because the process that holds the lock is
    stopped: then work may be done twice.
    """
    try:
        import fcntl
    except ImportError:
        raise StoreError("this system has no locks of files (fcntl); use Linux, macOS, or WSL on Windows") from None
    with open(folder / ".guard", "a") as f:
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.002)
        yield


@functools.cache
def host() -> str:
    """This host since its last boot; of several containers on it, each with its own process ids, this one."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def process() -> dict[str, Any]:
    """Identifies this process among all others, for `is_dead` and `is_here`."""
    return {"host": host(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner is a process of this host that has ended. The owner may be any JSON object."""
    if owner.get("host") != host():
        return False
    pid, started = owner.get("pid"), owner.get("started")
    return not _alive(pid) or (isinstance(started, str) and started != _started(pid))


def is_here(owner: dict[str, Any]) -> bool:
    """Whether the owner is a running process of this host, by its start time too: process ids are reused."""
    return owner.get("host") == host() and isinstance(owner.get("started"), str) and not is_dead(owner)


def parse_owner(text: str | None) -> dict[str, Any] | None:
    """The owner in a file's content; None where there is no file, or it cannot be parsed."""
    try:
        owner = json.loads(text or "")
        return owner if isinstance(owner, dict) else None
    except (ValueError, RecursionError):
        return None


def _read(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise StoreError(f"{file}: a folder where a lease belongs; remove it") from None


def _alive(pid: Any) -> bool:
    if os.name == "nt":  # on Windows, signal 0 ends a process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, TypeError, OverflowError):
        pass
    return True


def _started(pid: Any) -> str | None:
    """When a process was started, in the kernel's clock ticks; None where that is not known."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, TypeError, IndexError, OverflowError):
        return None
