"""The store: artefacts that are complete or absent, and the work folders in which they are made.

    artefacts/NAME          results; NAME is the step's type and the first 12 digits of its key
    shards/KEY              shards of map steps, hard-linked into artefacts (see `shards`)
    work/NAME/TOKEN         an attempt at a step, by the token of its lease; it becomes artefacts/NAME
    work/NAME/scratch       what survives an attempt: checkpoints, shards with failed rows
    work/NAME.lease         which process works on the step (see `lease`)
    live/, runs/            what live and recorded runs need (see `live` and `gc`)
    damaged/                artefacts that were damaged and have been made again
    hashes.json             hashes of source files (see `hashes`)
    tensorboard/NAME        event files of trainings

An attempt takes the lease, removes what earlier attempts left, runs the step in a new folder, and writes the manifest
after all other files are on the disk. One rename publishes the folder; if another process was first, its result stays.
A folder to be removed is first renamed to work/.trash.ID, so that no process sees a part of it. Everything in `work`
may be deleted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from textless import ranks
from textless.engine import collective
from textless.engine.hashes import FileHashes, write_error
from textless.engine.job import Job, Progress, no_progress, remote_job, temporaries, write_failures
from textless.engine.lease import Lease, guard
from textless.engine.manifest import MANIFEST, damage, faults, publish, read_manifest, write_manifest
from textless.engine.shards import Pool, run_map
from textless.engine.step import Keys, MapStep, Source, Step
from textless.errors import RowsFailedError, StoreError
from textless.files import write_text

POLL = 0.2  # seconds
MARK = ".attempt"  # in an attempt's folder until it is published
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def default_root() -> Path:
    """TEXTLESS_STORE, else `textless` in the user's cache folder."""
    if root := os.environ.get("TEXTLESS_STORE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textless"


class Store:
    """Artefacts by key, in a root folder. `run(step)` makes one, once its inputs exist. An artefact never changes.

    Args:
        root: by default `default_root()`.
        on: workers that make the shards of map steps, `loky:N` or `dask:ADDRESS`.
        tensorboard: whether trainings write event files.
    """

    def __init__(self, root: Path | str | None = None, *, on: str | None = None, tensorboard: bool = False) -> None:
        self.root = Path(root) if root is not None else default_root()
        self.on, self.tensorboard = on, tensorboard
        self._hashes = FileHashes(self.root / "hashes.json")
        self.keys = Keys(self._hashes)
        self._warned: set[Path] = set()

    def folder(self, step: Step) -> Path:
        return self.root / "artefacts" / self.name(step)

    def name(self, step: Step) -> str:
        return f"{step.type}-{self.keys.of(step)[:12]}"

    def work(self, step: Step) -> Path:
        return self.root / "work" / self.name(step)

    def has(self, step: Step) -> bool:
        """Whether the artefact exists. Raises StoreError when it was made with other defaults, which no key shows."""
        manifest = self.manifest(step)
        if manifest is None:
            return False
        if manifest["key"] != self.keys.of(step):
            problem = "made from something else, whose key begins alike"
            raise StoreError(f"{self.folder(step)}: {problem}; give another store with --store")
        changed = {
            k: (manifest["fields"][k], v)
            for k, v in step.settings().items()
            if k in manifest["fields"] and manifest["fields"][k] != v
        }
        if changed:
            name, (old, new) = next(iter(changed.items()))
            raise StoreError(
                f"{step.type}: the default of {name} was edited from {old!r} to {new!r}, so equal keys would mean "
                f"different results; bump the version of step {step.type}"
            )
        return True

    def manifest(self, step: Step) -> dict[str, Any] | None:
        """None where the artefact is missing or damaged (a warning says so once). Its files are not read."""
        folder = self.folder(step)
        manifest = read_manifest(folder)
        if manifest is None:
            fault: str | None = f"{folder / MANIFEST}: missing or damaged"
        else:
            fault = next(faults(folder, manifest["files"]), None)
        if fault is None:
            return manifest
        if folder.exists() and folder not in self._warned:  # else it has been dropped
            self._warned.add(folder)
            warnings.warn(f"{fault}; {folder.name} counts as not there: `textless run` makes it again", stacklevel=2)
        return None

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Of everything in the store, newest first."""
        manifests = [m for p in (self.root / "artefacts").glob(f"*/{MANIFEST}") if (m := read_manifest(p.parent))]
        yield from sorted(manifests, key=lambda m: m["finished"], reverse=True)

    def run(self, step: Step, progress: Progress = no_progress) -> Path:
        """Make the artefact of a step whose inputs are in the store, and return its folder; at once if it exists.

        Checkpoints and shards survive a crash and belong to keys, so the same call continues from them. While another
        process works on the step, this one waits. Of several processes of a launcher the first runs the step, and the
        others join or wait.
        """
        if isinstance(step, Source):
            raise StoreError(f"{step.type} is a source; it has no artefact")
        if ranks.rank():
            self.join(step)
            return self.wait(step)
        if self.has(step):
            self._tidy(step)
            return self.folder(step)
        with self._explained():
            self.root.joinpath("work").mkdir(parents=True, exist_ok=True)
            lease = self._lease(step)
            while not self.has(step):
                if not lease.take():
                    owner = lease.owner or {}
                    host = str(owner["host"]).partition(" ")[0] if owner.get("host") else "an unknown host"
                    progress(0, 1, f"waiting for process {owner.get('pid', '?')} on {host}")
                    time.sleep(POLL)
                    continue
                with lease.held():
                    if not self.has(step):
                        self._attempt(step, lease, progress)
        return self.folder(step)

    def _attempt(self, step: Step, lease: Lease, progress: Progress) -> None:
        """One attempt. A process that was wrongly taken for dead may make another; only one is published."""
        work = self.work(step)
        path, scratch = work / lease.token, work / "scratch"
        try:
            with self._explained():
                if not self._sweep(work, lease):
                    return
                path.mkdir(parents=True)
                (path / MARK).touch()
                job = Job(path, self.inputs(step), progress, scratch=scratch, root=self.root)
                job.keys, job.on = self.keys, self.on
                job.tensorboard = self.root / "tensorboard" / self.name(step) if self.tensorboard else None
                attempts = _count_attempt(scratch / "attempts")
                start = time.monotonic()
                self._check_inputs(step)
                if step.collective:
                    collective.announce(scratch)
                run_map(step, job) if isinstance(step, MapStep) else step.run(job)
                if step.collective:
                    collective.wait_until_left(scratch)
                self._publish(step, job, attempts=attempts, seconds=round(time.monotonic() - start, 3))
        except Exception as e:
            # If another process took over, it removed our folder, which explains the error: `run` waits for its result.
            if lease.mine() and not self.has(step):
                if isinstance(e, RowsFailedError):
                    self._discard(work)  # the error is not kept: the next run tries every row again
                if not isinstance(e, StoreError):
                    check_bytes(self.inputs(step).values())
                raise
        finally:
            self._discard(path)
        if self.has(step):
            self._discard(work)

    def _check_inputs(self, step: Step) -> None:
        """Raise StoreError when an input is missing or damaged."""
        for name, parent in step.inputs().items():
            if not isinstance(parent, Source) and not self.has(parent):
                raise StoreError(f"{step.type}.{name}: {self.folder(parent)} is missing or damaged; run again")

    def _sweep(self, work: Path, lease: Lease) -> bool:
        """Remove what earlier attempts left, except checkpoints and finished shards. False if the lease was lost."""
        trash = self.root / "work" / f".trash.{uuid.uuid4().hex}"
        with guard(self.root / "work"):
            if not lease.mine():
                return False
            scratch = work / "scratch"
            earlier = [p for p in work.iterdir() if p != scratch] if work.exists() else []
            earlier += [*self.root.glob(f"work/.{work.name}.lease.*"), *self.root.glob("work/.probe.*")]
            for n, leftover in enumerate([*earlier, *temporaries(scratch)]):
                with contextlib.suppress(FileNotFoundError):  # its owner removed it
                    leftover.rename(trash.with_name(f"{trash.name}.{n}"))
        self._empty_trash()
        return True

    def _empty_trash(self) -> None:
        for leftover in self.root.glob("work/.trash.*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def _tidy(self, step: Step) -> None:
        """Remove the remains of an attempt that was killed just after it had been published."""
        with contextlib.suppress(OSError):
            if self.work(step).exists() and (lease := self._lease(step)).take():
                with lease.held():
                    self._discard(self.work(step))
            self._empty_trash()

    def _lease(self, step: Step) -> Lease:
        return Lease(self.root / "work" / f"{self.name(step)}.lease")

    def join(self, step: Step) -> None:
        """In all processes but the first: join a collective step once it has begun, unless the artefact exists."""
        scratch = self.work(step) / "scratch"
        while step.collective and not self.has(step):
            if collective.announced(scratch):
                with self._explained():
                    step.run(remote_job(collective.private_folder(scratch), self.inputs(step), scratch, self.root))
                    collective.leave(scratch)
                return
            time.sleep(POLL)

    def wait(self, step: Step) -> Path:
        """In all processes but the first: the artefact's folder, once it exists."""
        while not self.has(step):
            time.sleep(POLL)
        return self.folder(step)

    def inputs(self, step: Step) -> dict[str, Path]:
        """Artefact folder of each input by field name."""
        return {n: self.folder(s) for n, s in step.inputs().items() if not isinstance(s, Source)}

    def _publish(self, step: Step, job: Job, **about: Any) -> None:
        for name, source in step.inputs().items():
            if isinstance(source, Source) and source.content(self._hashes) != self.keys.payload(source)["content"]:
                which = f" ({self._hashes.changed[-1]})" if self._hashes.changed else ""
                raise StoreError(f"{step.type}: {name} changed while it was read{which}; run again")
        # If this process was taken for dead, its folder was swept away, and the mark with it: unlinking fails, so that
        # the part that was written since then is not published.
        (job.path / MARK).unlink()
        if job.failures:
            write_failures(job.path / "failures.jsonl", job.failures)
        about |= {
            "step": step.type,
            "key": self.keys.of(step),
            "payload": self.keys.payload(step),
            "fields": step.settings(),
        }
        about |= {"lineage": self.keys.lineage(step), "metrics": job.metrics, "contract": job.contract}
        about |= {"failures": len(job.failures), "amount": job.amount, "shards": job.shards}
        write_manifest(job.path, about, job.digests)
        publish(self.root, job.path, self.name(step))

    def busy(self, step: Step) -> bool:
        """Whether a process works on the step that is not known to be dead."""
        return self._lease(step).busy()

    def drop(self, step: Step) -> None:
        """Remove an artefact, atomically as others see it, and the shards that only it holds."""
        manifest = self.manifest(step) or {}
        self._discard(self.folder(step))
        pool = Pool(self.work(step), self.root / "shards")
        for key in manifest.get("shards", ()):
            pool.drop(key, self._discard)

    def _discard(self, folder: Path) -> None:
        trash = self.root / "work" / f".trash.{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def save_hashes(self) -> None:
        """Save the file hashes for the next run; in a read-only store they are computed again."""
        with contextlib.suppress(OSError):
            self._hashes.save()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise StoreError where the store is the cause of an error: libraries report a full disk in many ways."""
        try:
            yield
        except StoreError:
            raise
        except Exception as e:
            if isinstance(e, NotADirectoryError | FileExistsError) and not self.root.is_dir():
                raise StoreError(
                    f"{self.root}: not a folder; give another place with --store or TEXTLESS_STORE"
                ) from None
            causes = (
                os.strerror(n) for n in CANNOT_WRITE if getattr(e, "errno", None) == n or os.strerror(n) in str(e)
            )
            if problem := next(causes, None) or self._cannot_write():
                raise StoreError(
                    f"{self.root}: {problem}; run again when there is room, or give another place with --store"
                ) from None
            raise

    def _cannot_write(self) -> str | None:
        try:
            (self.root / "work").mkdir(parents=True, exist_ok=True)
            problem = write_error(self.root / "work")
        except OSError as e:
            problem = e
        return os.strerror(problem.errno or 0) if problem else None


def check_bytes(folders: Iterable[Path]) -> None:
    """Read artefacts after a step has failed on them. Raises StoreError when their bytes have changed."""
    for folder in folders:
        if folder.exists() and (problems := damage(folder)):
            raise StoreError(f"{problems[0]}; remove {folder} and run again") from None


def _count_attempt(path: Path) -> int:
    text = path.read_bytes()[:9] if path.exists() else b""
    attempts = int(text) + 1 if text.isdigit() else 1
    write_text(path, str(attempts))
    return attempts
