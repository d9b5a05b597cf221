"""Maps: rows in shards, done here or by workers, each of them once and kept by its own key."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.engine.step import Keys, MapStep
from textless.errors import RowsFailedError, StoreError

if TYPE_CHECKING:
    from textless.engine.store import Job

Do = Callable[[Path], list[dict[str, Any]]]

ROWS_PER_SHARD = 64
PATIENCE = 3  # times that workers may die without having finished a shard


def split_rows(rows: list[Any]) -> list[list[Any]]:
    """Rows into shards by the hash of their id. The count is a power of two, so that a grown corpus keeps or splits its shards."""
    count = 1 << ((len(rows) - 1) // ROWS_PER_SHARD).bit_length() if rows else 1
    shards: list[list[Any]] = [[] for _ in range(count)]
    for row in sorted(rows, key=lambda row: row.id):
        shards[int.from_bytes(hashlib.sha256(row.id.encode()).digest()[:8], "big") % count].append(row)
    return shards


class Pool:
    """Finished shards by key: folders with `result`, a file or folder, and `failures.jsonl`. One appears whole, by rename.

    A shard in which a row failed stays with the job (`own`); others are shared, and hard-linked to where they are wanted.
    """

    def __init__(self, own: Path, shared: Path | None = None) -> None:
        self.own, self.shared = own, shared

    def find(self, key: str) -> Path | None:
        return next((folder / key for folder in (self.shared, self.own) if folder and (folder / key).is_dir()), None)

    def add(self, key: str, do: Do, check: Callable[[], None] = lambda: None) -> None:
        """Make a shard. `check` is called before it is kept."""
        self.own.mkdir(parents=True, exist_ok=True)
        temporary = self.own / f".{key}.{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            failures = do(temporary / "result")
            check()
            (temporary / "failures.jsonl").write_text("".join(json.dumps(f, sort_keys=True) + "\n" for f in failures))
            folder = self.own if failures or self.shared is None else self.shared
            folder.mkdir(parents=True, exist_ok=True)
            try:
                temporary.rename(folder / key)
            except OSError:
                if not self.find(key):  # where it is there, another process was faster
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def place(self, key: str, target: Path) -> list[dict[str, Any]]:
        """Link a shard to `target`; returns its failures. Raises FileNotFoundError when it is not there (any more)."""
        found = self.find(key)
        if found is None:
            raise FileNotFoundError(key)
        link(found / "result", target)
        return [json.loads(line) for line in (found / "failures.jsonl").read_text().splitlines()]


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or all files of a folder; copied where the file system has no links. What is there already stays."""
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
    job: Job, rows: list[Any], shard: Callable[[list[Any], Path], list[dict[str, Any]]], shard_path: Callable[[int], str]
) -> None:
    """Do rows in shards that are finished one by one, in this process: for what is not a step.

    Raises RowsFailedError when all rows failed.
    """
    shards = split_rows(rows)
    for n, members in enumerate(shards):
        if not job.pool.find(str(n)):
            job.pool.add(str(n), lambda out, members=members: shard(members, out))
        job.failures += job.pool.place(str(n), job.path / shard_path(n))
        job.progress(n + 1, len(shards), "shards")
    _check_some_good(job, len(rows))


def run_map(step: MapStep, job: Job) -> None:
    """Do a map step: find the shards that were ever finished, do the others, put all in their places.

    Raises RowsFailedError when all rows failed, and StoreError when a row's file changes meanwhile or workers keep dying.
    """
    task = _Task(step, job)
    missing = [n for n, key in enumerate(task.keys) if not job.pool.find(key)]
    done = len(task.keys) - len(missing)
    if done:
        job.progress(done, len(task.keys), "shards")
    for _ in _here(task, missing) if job.on is None else _by_workers(task, missing):
        done += 1
        job.progress(done, len(task.keys), "shards")
    for n, key in enumerate(task.keys):
        job.failures += job.pool.place(key, job.path / step.shard_path(n))
    _check_some_good(job, sum(map(len, task.shards)))
    step.finish(job, task.tools)


class _Task:
    """A map in one process: its rows, keys and tools."""

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

    def do(self, n: int, key: str) -> None:
        """Make shard n. What it was made of must be what its key says, before and after."""

        def check() -> None:
            if self._keys.shard(self.step, self.shards[n]) != key:
                raise StoreError(f"{self.step.type}: a file changed while it was read{self._which()}; run again")

        check()
        self.job.pool.add(key, lambda out: self.step.shard(self.tools, self.shards[n], out), check)

    def _which(self) -> str:
        changed = getattr(self._keys.hash_file, "changed", None)
        return f" ({changed[-1]})" if changed else ""


def _here(task: _Task, missing: list[int]) -> Iterator[None]:
    for n in missing:
        task.do(n, task.keys[n])
        yield


def _by_workers(task: _Task, missing: list[int]) -> Iterator[None]:
    """Shards through joblib. Workers that die take nothing with them but the shards that they were at."""
    from concurrent.futures.process import BrokenProcessPool

    import joblib

    step, job = task.step, task.job
    deaths = 0
    while missing:
        before = len(missing)
        try:
            with _workers(job.on or "") as size:
                calls = (joblib.delayed(_do_remotely)(job, step, n, task.keys[n]) for n in missing)
                yield from joblib.Parallel(n_jobs=size, return_as="generator_unordered", batch_size=1)(calls)
        except BrokenProcessPool:
            missing = [n for n in missing if not job.pool.find(task.keys[n])]
            deaths = deaths + 1 if len(missing) == before else 0
            if deaths == PATIENCE:
                raise StoreError(f"{step.type}: the workers of {job.on} die at once, perhaps for lack of memory; use fewer") from None
        else:
            return


@contextlib.contextmanager
def _workers(on: str) -> Iterator[int]:
    """joblib's backend for `loky:4` or `dask:ADDRESS`, and how many workers there are."""
    import joblib

    kind, _, where = on.partition(":")
    if kind == "loky" and where.isdecimal() and int(where) > 0:
        with joblib.parallel_config("loky"):
            yield int(where)
    elif kind == "dask" and where:
        try:
            from distributed import Client
        except ImportError:
            raise StoreError("dask is not installed; pip install 'textless[dask]'") from None
        try:
            client = Client(where, timeout=10, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as e:
            raise StoreError(f"--on {on}: no dask scheduler answers ({e})") from None
        with client, joblib.parallel_config("dask", client=client, wait_for_workers_timeout=60):
            yield -1
    else:
        raise StoreError(f"--on {on}: expected loky:N, N processes here, or dask:ADDRESS, the workers of a scheduler")


_tasks: dict[str, _Task] = {}


def _do_remotely(job: Job, step: MapStep, n: int, key: str) -> None:
    """In a worker: one shard into the pool. Rows and tools stay for the next shard of the same step."""
    name = str(job.pool.own)
    if name not in _tasks:
        _tasks.clear()
        _tasks[name] = _Task(step, job, job.keys)
    if not job.pool.find(key):
        _tasks[name].do(n, key)


def _check_some_good(job: Job, rows: int) -> None:
    if rows and len(job.failures) == rows:
        raise RowsFailedError.of(job.failures)
