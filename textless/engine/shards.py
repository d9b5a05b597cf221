"""Map steps: rows in shards, each made once, in this process or by workers, and stored under its own key."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.engine.hashes import write_error
from textless.engine.manifest import Digests, faults
from textless.engine.step import Keys, MapStep
from textless.errors import RowsFailedError, StoreError, how_to_install
from textless.files import sync

if TYPE_CHECKING:
    from textless.engine.job import Job

Make = Callable[[Path], list[dict[str, Any]]]  # writes a shard to a path and returns its failures

ABOUT = "shard.json"  # a shard's failures, sizes and hashes
ROWS_PER_SHARD = 64
ANSWER = 10  # seconds that a scheduler has to answer
POLL = 1.0  # seconds between two checks of a worker for its parent
PATIENCE = 3  # times that all workers may die without finishing a shard, or that shards may vanish


def split_rows(rows: list[Any]) -> list[list[Any]]:
    """Rows into shards by the hash of their id. The count is a power of two: a growing corpus keeps or splits them."""
    count = 1 << ((len(rows) - 1) // ROWS_PER_SHARD).bit_length() if rows else 1
    shards: list[list[Any]] = [[] for _ in range(count)]
    for row in sorted(rows, key=lambda row: row.id):
        shards[int.from_bytes(hashlib.sha256(row.id.encode()).digest()[:8], "big") % count].append(row)
    return shards


class Pool:
    """Finished shards by key: folders with `result`, a file or folder, and `shard.json`. Each appears by one rename.

    A shard in which a row failed stays with the job (`own`); others are shared, and hard-linked into artefacts.
    """

    def __init__(self, own: Path, shared: Path | None = None, digests: Digests | None = None) -> None:
        self.own, self.shared, self.digests = own, shared, digests or Digests()

    def find(self, key: str) -> Path | None:
        """The folder of a shard whose files have their recorded sizes, else None. `place` checks the bytes."""
        for folder in (self.shared, self.own):
            about = _read_about(folder / key) if folder else None
            if folder and about and next(faults(folder / key / "result", about["sizes"]), None) is None:
                return folder / key
        return None

    def add(self, key: str, make: Make, check: Callable[[], None] = lambda: None) -> None:
        """Make a shard. `check` may raise before it is published."""
        self.own.mkdir(parents=True, exist_ok=True)
        temporary = self.own / f".{key}.{uuid.uuid4().hex}"
        temporary.mkdir()
        (temporary / ABOUT).touch()
        try:
            failures = _make_or_disk_error(make, temporary / "result")
            check()
            files = _files(temporary / "result")
            for path in files.values():  # a published shard is trusted from then on, even after a power cut
                sync(path)
            about = {"failures": failures, "sizes": {name: path.stat().st_size for name, path in files.items()}}
            about["sha256"] = {name: self.digests(path) for name, path in files.items()}
            # If this process was taken for dead, its folder was swept away, and ABOUT with it: opening it fails, so
            # that the part that was written since then is not published.
            with open(temporary / ABOUT, "r+") as f:
                json.dump(about, f, sort_keys=True)
            sync(temporary / ABOUT)
            folder = self.own if failures or self.shared is None else self.shared
            folder.mkdir(parents=True, exist_ok=True)
            try:
                temporary.rename(folder / key)
            except OSError:
                if self.find(key):  # another process was faster
                    return
                self._set_aside(folder / key)
                temporary.rename(folder / key)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def place(self, key: str, target: Path) -> list[dict[str, Any]]:
        """Link a shard to `target`; returns its failures.

        Raises FileNotFoundError when it does not exist (any more), or its bytes have changed: then it is moved away.
        """
        shard = self.find(key)
        about = _read_about(shard) if shard else None
        if shard is None or about is None:
            raise FileNotFoundError(key)
        link(shard / "result", target)
        # Shards of older versions have no hashes. The artefact's manifest takes these: files are read once.
        for name, sha256 in about.get("sha256", {}).items():
            if self.digests(target / name) != sha256:
                shutil.rmtree(target) if target.is_dir() else target.unlink()
                self._set_aside(shard)
                raise FileNotFoundError(key)
        return about["failures"]

    def _set_aside(self, shard: Path) -> None:
        """Move a damaged shard to where leftovers are removed."""
        self.own.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shard.rename(self.own / f".damaged.{uuid.uuid4().hex}")

    def drop(self, key: str, discard: Callable[[Path], None]) -> None:
        """Remove a shared shard, unless an artefact holds it."""
        if self.shared and all(p.stat().st_nlink == 1 for p in _files(self.shared / key / "result").values()):
            discard(self.shared / key)


def shard_damage(shard: Path, digests: Digests) -> list[str]:
    """The differences between a shard and what was written, a line each: every byte is read."""
    about = _read_about(shard)
    if about is None:
        return [f"{shard / ABOUT}: missing or damaged"]
    hashes = about.get("sha256", {})  # older versions wrote none
    files = {name: {"size": size, "sha256": hashes.get(name)} for name, size in about["sizes"].items()}
    return list(faults(shard / "result", files, digests))


def _read_about(shard: Path) -> dict[str, Any] | None:
    try:
        about = json.loads((shard / ABOUT).read_bytes())
        failures, sizes, hashes = about["failures"], about["sizes"], about.get("sha256", {})
        valid = (
            all(isinstance(f, dict) and {"id", "error"} <= f.keys() for f in failures)
            and all(type(size) is int for size in sizes.values())
            and ("sha256" not in about or hashes.keys() == sizes.keys())
        )
        return about if valid else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _files(result: Path) -> dict[str, Path]:
    """Files of a shard by path within its result; a result that is a file is `.`."""
    files = [result] if result.is_file() else sorted(p for p in result.rglob("*") if p.is_file())
    return {p.relative_to(result).as_posix(): p for p in files}


def _make_or_disk_error(make: Make, result: Path) -> list[dict[str, Any]]:
    """Make a shard. A full disk is no failure of a row, and raises OSError whichever error a library made of it."""
    try:
        failures = make(result)
    except Exception:
        if problem := write_error(result.parent):
            raise problem from None
        raise
    if failures and (problem := write_error(result.parent)):
        raise problem
    return failures


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or all files of a folder; copy where the file system has no links. Existing files stay."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            link(file, target / file.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise
    except OSError:
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(source, temporary)
        temporary.replace(target)


def run_shards(
    job: Job,
    rows: list[Any],
    shard: Callable[[list[Any], Path], list[dict[str, Any]]],
    shard_path: Callable[[int, str], str],
    part: Callable[[Any], str] = lambda row: "",
) -> None:
    """Process rows shard by shard in this process, for commands, which are not steps.

    Rows of different parts are in different shards; `shard_path` is given a shard's number within its part, and the
    part. Raises RowsFailedError when all rows failed.
    """
    parts: dict[str, list[Any]] = {}
    for row in rows:
        parts.setdefault(part(row), []).append(row)
    shards = [
        (shard_path(n, name), members)
        for name, group in sorted((parts or {"": []}).items())  # in whatever order the rows come, as in `split_rows`
        for n, members in enumerate(split_rows(group))
    ]
    for n, (place, members) in enumerate(shards):
        for _ in range(PATIENCE):
            if not job.pool.find(str(n)):
                job.pool.add(str(n), partial(shard, members))
            with contextlib.suppress(FileNotFoundError):
                job.failures += job.pool.place(str(n), job.path / place)
                break
        else:
            raise _vanishing(job)
        job.progress(n + 1, len(shards), "shards")
    _check_some_good(job, len(rows))


def run_map(step: MapStep, job: Job) -> None:
    """Run a map step: find the shards that exist, make the others, link all into the artefact.

    Raises RowsFailedError when all rows failed, and StoreError when a row's file changes meanwhile or workers keep
    dying.
    """
    task = _Task(step, job)
    placed: dict[int, list[dict[str, Any]]] = {}  # failures by shard
    amount = None
    for _ in range(PATIENCE):
        missing = [n for n, key in enumerate(task.keys) if n not in placed and not job.pool.find(key)]
        amount = len(missing) if amount is None else amount
        done = len(task.keys) - len(missing)
        if done:
            job.progress(done, len(task.keys), "shards")
        for _ in _in_this_process(task, missing) if job.on is None else _by_workers(task, missing):
            done += 1
            job.progress(done, len(task.keys), "shards")
        for n, key in enumerate(task.keys):
            if n not in placed:
                # Not found: removed with another artefact since `find`, or its bytes changed.
                with contextlib.suppress(FileNotFoundError):
                    placed[n] = job.pool.place(key, job.path / step.shard_path(n))
        if len(placed) == len(task.keys):
            break
    else:
        raise _vanishing(job)
    job.failures += [failure for n in range(len(task.keys)) for failure in placed[n]]
    job.amount, job.shards = amount, task.keys
    _check_some_good(job, sum(map(len, task.shards)))
    step.finish(job, task.tools)


def _vanishing(job: Job) -> StoreError:
    where = job.pool.shared or job.pool.own
    return StoreError(
        f"{where}: shards are gone or damaged as soon as they are made; check the disk, and what else removes files"
    )


class _Task:
    """A map step in one process: its rows, keys and tools."""

    def __init__(self, step: MapStep, job: Job, keys: Keys | None = None) -> None:
        self.step, self.job = step, job
        self.shards = split_rows(step.rows(job))
        self._keys = keys or job.keys
        self.keys = [self._keys.shard(step, members) for members in self.shards]

    @property
    def tools(self) -> Any:
        if not hasattr(self, "_tools"):
            self._tools = self.step.tools(self.job)
        return self._tools

    def make(self, n: int, key: str) -> None:
        """Make shard n. Its inputs must have the content that its key says, before and after."""

        def check() -> None:
            if self._keys.shard(self.step, self.shards[n]) != key:
                raise StoreError(f"{self.step.type}: a file changed while it was read{self._which()}; run again")

        check()
        self.job.pool.add(key, lambda out: self.step.shard(self.tools, self.shards[n], out), check)

    def _which(self) -> str:
        changed = getattr(self._keys.hash_file, "changed", None)
        return f" ({changed[-1]})" if changed else ""


def _in_this_process(task: _Task, missing: list[int]) -> Iterator[None]:
    for n in missing:
        task.make(n, task.keys[n])
        yield


def _by_workers(task: _Task, missing: list[int]) -> Iterator[None]:
    """Make shards with the workers of `job.on`; yields once for each that is finished."""
    kind, _, where = (task.job.on or "").partition(":")
    if kind == "loky" and re.fullmatch("[1-9][0-9]{0,2}", where):
        return _by_loky(task, missing, int(where))
    if kind == "dask" and where:
        return _by_dask(task, missing, where)
    raise StoreError(
        f"--on {task.job.on}: expected loky:N, N local processes, or dask:ADDRESS, the workers of a scheduler"
    )


def _by_loky(task: _Task, missing: list[int], size: int) -> Iterator[None]:
    """A worker that dies loses only the shard that it was making."""
    from concurrent.futures.process import BrokenProcessPool

    import joblib

    deaths = 0
    while missing:
        finished = 0
        try:
            calls = (joblib.delayed(_do_remotely)(task.job, task.step, n, task.keys[n], os.getpid()) for n in missing)
            for _ in joblib.Parallel(n_jobs=size, backend="loky", return_as="generator_unordered", batch_size=1)(calls):
                finished += 1
                yield
            return
        except BrokenProcessPool:
            left = [n for n in missing if not task.job.pool.find(task.keys[n])]
            for _ in range(len(missing) - len(left) - finished):  # finished, but not reported by a worker that died
                yield
            deaths = deaths + 1 if len(left) == len(missing) else 0
            missing = left
            if deaths == PATIENCE:
                raise _dying(task) from None


def _by_dask(task: _Task, missing: list[int], where: str) -> Iterator[None]:
    """The scheduler gives the shard of a dead worker to another. Not by joblib, which hangs when a scheduler fails."""
    try:
        from distributed import CancelledError, Client, KilledWorker, as_completed
    except ImportError:
        raise StoreError(f"dask is not installed; {how_to_install('dask')}") from None
    try:
        client = Client(where, timeout=ANSWER, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as e:
        raise StoreError(f"--on {task.job.on}: no dask scheduler answers ({e})") from None
    with client:
        calls = [client.submit(_do_remotely, task.job, task.step, n, task.keys[n], pure=False) for n in missing]
        try:
            for call in as_completed(calls, loop=client.loop):
                call.result()
                yield
        except KilledWorker:
            raise _dying(task) from None
        except CancelledError:
            raise StoreError(f"--on {task.job.on}: the dask scheduler has gone; start it, and run again") from None
        finally:
            client.cancel(calls)


def _dying(task: _Task) -> StoreError:
    return StoreError(
        f"{task.step.type}: the workers of {task.job.on} die at once, perhaps for lack of memory; use fewer"
    )


_current: tuple[Path, _Task] | None = None  # in a worker: the last attempt's folder and task
_one_at_a_time = threading.Lock()  # dask's workers have threads, and a shard may seed generators that all threads share


def _do_remotely(job: Job, step: MapStep, n: int, key: str, parent: int | None = None) -> None:
    """In a worker: make one shard. Rows and tools are cached for the same attempt. The worker ends with `parent`."""
    global _current
    if parent is not None:
        _end_with(parent)
    with _one_at_a_time:
        if _current is None or _current[0] != job.path:
            _current = job.path, _Task(step, job, job.keys)
        if not job.pool.find(key):
            _current[1].make(n, key)


_watched: set[int] = set()


def _end_with(parent: int) -> None:
    """In a worker: exit when the process that started it has ended. A worker gets no signal when that one is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    if parent not in _watched:
        _watched.add(parent)
        threading.Thread(target=watch, daemon=True).start()


def _check_some_good(job: Job, rows: int) -> None:
    if rows and len(job.failures) == rows:
        raise RowsFailedError.of(job.failures)
