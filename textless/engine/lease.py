"""Leases: who works on a key, so that others wait instead of doing the same.

A lease saves work and no more: what is published is right even if two work on one key. Its file holds a counter that its owner
raises. Whoever sees it stand still for `PATIENCE` seconds by an own clock takes the lease over: clocks of two hosts are never compared.
The lease of a process that is known to be dead, on the same host, is taken at once.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textless.engine.hashes import write_text
from textless.errors import StoreError

BEAT = 3.0  # seconds between two raises of the counter
PATIENCE = 30.0  # seconds without one after which the owner counts as dead


class Lease:
    """A lease on a name, in a folder that all processes share. `with lease.held():` around the work, once `take` said yes."""

    def __init__(self, file: Path) -> None:
        self.file, self.token = file, uuid.uuid4().hex
        self.owner: dict[str, Any] | None = None  # who else holds it, as far as the last look showed
        self._seen: tuple[str, float] | None = None
        self._beat = 0

    def take(self) -> bool:
        """Whether it is ours now. Ask again after a while: that is how it is seen that an owner has died."""
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
        """Whether somebody holds it who is not known to be dead."""
        text = _read(self.file)
        return text is not None and not self._dead(text)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raise the counter while the block runs, and give the lease back behind it."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT):
                with contextlib.suppress(OSError), guard(self.file.parent):
                    if not self.mine():
                        return
                    self._write()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
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
def guard(folder: Path) -> Iterator[None]:
    """One process at a time, for the blink in which a lease changes hands.

    Where the file system knows no locks, or who has this one was stopped in that blink, work may be done twice.
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
    """This host, since it was started; of several containers on one, each with its own numbers of processes, this one."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def process() -> dict[str, Any]:
    """What tells this process from all others, for `is_dead` and `is_here`."""
    return {"host": host(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether a process of this host is known to be dead; the owner may be anything that JSON can say."""
    if owner.get("host") != host():
        return False
    pid, started = owner.get("pid"), owner.get("started")
    return not _alive(pid) or (isinstance(started, str) and started != _started(pid))


def is_here(owner: dict[str, Any]) -> bool:
    """Whether a process is known to be alive, on this host: its number alone might be another's by now."""
    return owner.get("host") == host() and isinstance(owner.get("started"), str) and not is_dead(owner)


def parse_owner(text: str | None) -> dict[str, Any] | None:
    """None where there is no lease, or one that cannot be read: its owner is unknown."""
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
    if os.name == "nt":  # there, signal 0 ends a process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, TypeError, OverflowError):
        pass
    return True


def _started(pid: Any) -> str | None:
    """When a process was started, in the kernel's own count; None where that is not known."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, TypeError, IndexError, OverflowError):
        return None
