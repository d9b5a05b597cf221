"""A file lock for each output, which lets one command at a time write it, and a path for unfinished work."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from textless.errors import OutputExistsError

RECEIPT = ".textless.json"  # in an output folder, and next to an output file: the key of the command that made it
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# Next to an output NAME while it is written.
LOCK, PARTIAL = ".{}.textless.lock", ".{}.textless.partial"


@contextlib.contextmanager
def sole(out: Path) -> Iterator[Path]:
    """Hold an output for one command; others wait. Yields a path next to it for unfinished work, which the block may
    create.

    What killed commands left next to their outputs in the same folder is removed. An OSError becomes an
    OutputExistsError of one line.
    """
    place, partial = (out.with_name(name.format(out.name)) for name in (LOCK, PARTIAL))
    with _explained(out):
        lock = _lock(place, wait=True)
        try:
            if lock is not None:
                _sweep_folder(out.parent, place)
            discard(partial)
            yield partial
        finally:
            discard(partial)
            if lock is not None:
                with contextlib.suppress(OSError):
                    place.unlink()
                os.close(lock)


def discard(path: Path) -> None:
    """Remove a folder as far as that is possible."""
    shutil.rmtree(path, ignore_errors=True)


def _sweep_folder(folder: Path, mine: Path) -> None:
    """Remove what killed commands left in a folder, and receipts of files that no longer exist."""
    for place in folder.glob(LOCK.format("*")):
        if place != mine:
            _sweep(place)
    for receipt in folder.glob(f".*{RECEIPT}"):
        name = receipt.name[1:].removesuffix(RECEIPT)
        if not (folder / name).exists() and not (folder / LOCK.format(name)).exists():
            receipt.unlink(missing_ok=True)


def _sweep(place: Path) -> None:
    """Remove what is left of a command that died: no process holds its lock."""
    with contextlib.suppress(OSError):
        if (lock := _lock(place, wait=False)) is not None:
            discard(place.with_name(PARTIAL.format(place.name.removeprefix(".").removesuffix(".textless.lock"))))
            place.unlink()
            os.close(lock)


def _lock(place: Path, *, wait: bool) -> int | None:
    """An open file that this process has locked.

    None: the file system has no locks, or (without `wait`) another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        file = os.open(place, os.O_RDWR | (os.O_CREAT if wait else 0), 0o666)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    os.close(file)
                    return None
                name = place.name[1:].removesuffix(".textless.lock")
                print(f"waiting for another textless that writes {name}", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(place)):
                    return file
        except OSError as e:
            os.close(file)
            if e.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                if wait:
                    place.unlink(missing_ok=True)
                return None
            raise
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its last holder has removed it meanwhile
        if not wait:
            return None


@contextlib.contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else (str(e).splitlines() or ["unknown"])[0]
        reason += f": {e.filename}" if e.filename and e.errno not in CANNOT_WRITE else ""
        raise OutputExistsError(
            f"{out}: cannot be written ({reason}); run again when it can, or give another place"
        ) from None
