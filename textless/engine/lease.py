"""Leases: who works on a key, so that others wait instead of doing the same.

A lease saves work and no more: what is published is right even if two work on one key. Its file holds a counter that its owner
raises. Whoever sees it stand still for `PATIENCE` seconds by an own clock takes the lease over: clocks of two hosts are never compared.
The lease of a process that is known to be dead, on the same host, is taken at once.
"""

from __future__ import annotations

import contextlib
import fcntl
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
        return (_owner(_read(self.file)) or {}).get("token") == self.token

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
        owner = {"token": self.token, "host": host(), "pid": os.getpid(), "beat": self._beat}
        write_text(self.file, json.dumps(owner))

    def _dead(self, text: str) -> bool:
        self.owner = _owner(text)
        return bool(self.owner) and self.owner.get("host") == host() and not _alive(self.owner.get("pid"))

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
    """This host, since it was started."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return socket.gethostname()


def _read(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _owner(text: str | None) -> dict[str, Any] | None:
    """None where there is no lease, or one that cannot be read: its owner is unknown."""
    try:
        owner = json.loads(text or "")
        return owner if isinstance(owner, dict) else None
    except ValueError:
        return None


def _alive(pid: Any) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, TypeError, OverflowError):
        pass
    return True
