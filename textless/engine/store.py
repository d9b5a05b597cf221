"""The store: artefacts that are complete or not there, and the work folders in which they grow."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from textless.engine import ranks
from textless.engine.hashes import FileHashes, write_text
from textless.engine.step import Keys, Source, Step
from textless.errors import RowsFailedError, StoreError

MANIFEST = "manifest.json"
LIBRARIES = ("torch", "numpy", "faiss-cpu", "faiss-gpu-cu12", "scikit-learn", "soundfile", "soxr", "pystoi", "pocketsphinx")
Progress = Callable[[int, int, str], None]


def default_root() -> Path:
    """TEXTLESS_STORE, else `textless` in the user's cache folder."""
    if root := os.environ.get("TEXTLESS_STORE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textless"


class Job:
    """What a step sees while it runs.

    Attributes:
        path: the work folder; everything in it becomes the artefact.
        inputs: artefact folder of each input by field name; sources have none.
        tensorboard: folder for TensorBoard's event files, None when they are not wanted.
        metrics, contract: for the manifest, to be filled in.
    """

    def __init__(
        self, path: Path, inputs: dict[str, Path], progress: Progress, *, scratch: Path | None = None, tensorboard: Path | None = None
    ) -> None:
        self.path, self.inputs, self.progress = path, inputs, progress
        self.tensorboard, self._scratch = tensorboard, scratch or path / ".scratch"
        self.metrics: dict[str, Any] = {}
        self.contract: dict[str, Any] | None = None

    @property
    def scratch(self) -> Path:
        """A folder that lasts until the step is finished, for checkpoints and the like; it does not enter the artefact.

        The processes of a collective step share it; only the first writes there.
        """
        self._scratch.mkdir(exist_ok=True)
        return self._scratch

    def record_failures(self, shard: int, failures: list[dict[str, Any]]) -> None:
        folder = self.scratch / "failures"
        folder.mkdir(exist_ok=True)
        write_failures(folder / f"{shard:05d}.jsonl", failures)

    def failures(self) -> list[dict[str, Any]]:
        """Of all shards so far."""
        files = sorted(self.scratch.glob("failures/*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def remove_temporaries(folder: Path, *, keep: str = "") -> None:
    """Remove what killed attempts were writing: files and folders whose names start with a dot, but for `keep`."""
    for leftover in [p for p in folder.rglob(".*") if p.name != keep]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def write_failures(path: Path, failures: list[dict[str, Any]]) -> None:
    """A line of JSON for each row that could not be done."""
    write_text(path, "".join(json.dumps(f, sort_keys=True) + "\n" for f in failures))


class Store:
    """Artefacts by key below a root folder. `run(step)` makes one, its inputs being there.

    With `tensorboard`, trainings write event files into `tensorboard/STEP-KEY` beside the artefacts, where they stay.
    """

    def __init__(self, root: Path | str | None = None, *, tensorboard: bool = False) -> None:
        self.root = Path(root) if root is not None else default_root()
        self.tensorboard = tensorboard
        self._hashes = FileHashes(self.root / "hashes.json")
        self.keys = Keys(self._hashes)

    def folder(self, step: Step) -> Path:
        return self.root / "artefacts" / self.name(step)

    def name(self, step: Step) -> str:
        return f"{step.type}-{self.keys.of(step)[:12]}"

    def work(self, step: Step) -> Path:
        return self.root / "work" / self.name(step)

    def has(self, step: Step) -> bool:
        """Whether the artefact is there. Raises StoreError when it was made with other defaults, which the key cannot show."""
        manifest = self.manifest(step)
        if manifest is None:
            return False
        changed = {
            k: (manifest["fields"][k], v) for k, v in step.settings().items() if k in manifest["fields"] and manifest["fields"][k] != v
        }
        if changed:
            name, (old, new) = next(iter(changed.items()))
            raise StoreError(
                f"{step.type}: the default of {name} was edited from {old!r} to {new!r}, so equal keys would stand for different results; "
                f"bump the version of step {step.type}"
            )
        return True

    def manifest(self, step: Step) -> dict[str, Any] | None:
        return self.read_manifest(self.folder(step))

    def read_manifest(self, folder: Path) -> dict[str, Any] | None:
        try:
            return json.loads((folder / MANIFEST).read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            raise StoreError(f"{folder / MANIFEST}: damaged; remove {folder} and run again") from None

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Of everything in the store, newest first."""
        found = [m for p in (self.root / "artefacts").glob(f"*/{MANIFEST}") if (m := self.read_manifest(p.parent))]
        yield from sorted(found, key=lambda m: m["finished"], reverse=True)

    def run(self, step: Step, progress: Progress = lambda done, total, what: None) -> Path:
        """Make the artefact of a step whose inputs are in the store, and return its folder; at once if it is there.

        The work folder outlives a crash and belongs to the key, so the same call goes on from what is finished. Of several processes
        the first does this, and the others join in or wait.
        """
        if isinstance(step, Source):
            raise StoreError(f"{step.type} is a source; it has no artefact")
        if ranks.rank():
            self.join(step)
            return self.wait(step)
        with _explain(self.root), self._lock(step):
            if self.has(step):
                return self.folder(step)
            work = self.work(step)
            work.mkdir(parents=True, exist_ok=True)
            tensorboard = self.root / "tensorboard" / self.name(step) if self.tensorboard else None
            job = Job(work, self._inputs(step), progress, tensorboard=tensorboard)
            attempts = _count_attempt(job.scratch / "attempts")
            start = time.monotonic()
            if step.collective:
                ranks.call(job.scratch)
            try:
                step.run(job)
            except RowsFailedError:
                shutil.rmtree(work)  # an error is not kept: the next run tries every row again
                raise
            if step.collective:
                ranks.wait_until_left(job.scratch)
            self._publish(step, job, attempts=attempts, seconds=time.monotonic() - start)
            return self.folder(step)

    def join(self, step: Step) -> None:
        """Beside the first process: take part in a collective step once it has begun. Nothing to do for others, or if it is there."""
        scratch = self.work(step) / ".scratch"
        while step.collective and not self.has(step):
            if ranks.called(scratch):
                with _explain(self.root):
                    step.run(Job(ranks.corner(scratch), self._inputs(step), lambda done, total, what: None, scratch=scratch))
                    ranks.leave(scratch)
                return
            time.sleep(ranks.POLL)

    def wait(self, step: Step) -> Path:
        """Beside the first process: the artefact's folder, once it is there."""
        while not self.has(step):
            time.sleep(ranks.POLL)
        return self.folder(step)

    def _inputs(self, step: Step) -> dict[str, Path]:
        return {n: self.folder(s) for n, s in step.inputs().items() if not isinstance(s, Source)}

    def _publish(self, step: Step, job: Job, *, attempts: int, seconds: float) -> None:
        failures = job.failures()
        if failures:
            write_failures(job.path / "failures.jsonl", failures)
        shutil.rmtree(job.scratch)
        remove_temporaries(job.path)
        lineage = self.keys.lineage(step)
        manifest = {
            "step": step.type,
            "key": self.keys.of(step),
            "payload": self.keys.payload(step),
            "fields": step.settings(),
            "lineage": lineage,
            "files": {str(p.relative_to(job.path)): p.stat().st_size for p in sorted(job.path.rglob("*")) if p.is_file()},
            "metrics": job.metrics,
            "failures": len(failures),
            "contract": job.contract,
            "versions": versions(),
            "source": source_hash(),
            "seconds": round(seconds, 3),
            "attempts": attempts,
            "finished": time.time(),
            "host": socket.gethostname(),
        }
        write_text(job.path / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        target = self.folder(step)
        target.parent.mkdir(parents=True, exist_ok=True)
        job.path.rename(target)

    @contextlib.contextmanager
    def _lock(self, step: Step) -> Iterator[None]:
        """One process works on a key; another waits, and finds the result. The kernel frees the lock of a dead process."""
        folder = self.root / "work"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{self.name(step)}.lock", "w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield

    def drop(self, step: Step) -> None:
        """Remove an artefact: the manifest first, so that it is never there in part."""
        folder = self.folder(step)
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def save_hashes(self) -> None:
        """Keep the file hashes for the next look; a store that cannot be written only costs the time."""
        with contextlib.suppress(OSError):
            self._hashes.save()


@functools.cache
def source_hash() -> str:
    """sha256 over the package's source, recorded so that `why` can say that the code has changed since."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of Python and the libraries that results depend on."""
    out = {"python": platform.python_version()}
    for name in ("textless", *LIBRARIES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            out[name] = importlib.metadata.version(name)
    return out


@contextlib.contextmanager
def _explain(root: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as e:
        raise StoreError(f"{e.filename}: no permission to write; give another place with --store or TEXTLESS_STORE") from None
    except (NotADirectoryError, FileExistsError):
        raise StoreError(f"{root}: not a folder; give another place with --store or TEXTLESS_STORE") from None
    except OSError as e:
        if e.errno in (28, 30, 122):  # no space, read-only, over quota
            raise StoreError(f"{root}: {os.strerror(e.errno)}; free some or give another place with --store") from None
        raise


def _count_attempt(path: Path) -> int:
    attempts = int(path.read_text() or 0) + 1 if path.exists() else 1
    path.write_text(str(attempts))
    return attempts
