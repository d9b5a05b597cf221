"""The store: artefacts that are complete or not there, and the work folders in which they grow."""

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
from textless.engine.gc import damage
from textless.engine.hashes import FileHashes, write_error, write_text
from textless.engine.job import Job, Progress, remote_job, temporaries, write_failures
from textless.engine.lease import Lease, guard
from textless.engine.manifest import MANIFEST, faults, publish, read_manifest, write_manifest
from textless.engine.shards import Pool, run_map
from textless.engine.step import Keys, MapStep, Source, Step
from textless.errors import RowsFailedError, StoreError

POLL = 0.2  # seconds
MARK = ".attempt"  # in an attempt's folder until it is published
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def default_root() -> Path:
    """TEXTLESS_STORE, else `textless` in the user's cache folder."""
    if root := os.environ.get("TEXTLESS_STORE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textless"


class Store:
    """Artefacts by key below a root folder. `run(step)` makes one, its inputs being there.

    Artefacts appear by one rename of a folder that is whole, and never change. Everything in `work` may be thrown away. With `on`, shards
    of map steps are done by workers; with `tensorboard`, trainings write event files into `tensorboard/STEP-KEY` beside the artefacts.
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
        """Whether the artefact is there. Raises StoreError when it was made with other defaults, which the key cannot show."""
        manifest = self.manifest(step)
        if manifest is None:
            return False
        if manifest["key"] != self.keys.of(step):
            raise StoreError(
                f"{self.folder(step)}: made of something else, whose key begins alike; give another store with --store"
            )
        changed = {
            k: (manifest["fields"][k], v)
            for k, v in step.settings().items()
            if k in manifest["fields"] and manifest["fields"][k] != v
        }
        if changed:
            name, (old, new) = next(iter(changed.items()))
            raise StoreError(
                f"{step.type}: the default of {name} was edited from {old!r} to {new!r}, so equal keys would stand for different results; "
                f"bump the version of step {step.type}"
            )
        return True

    def manifest(self, step: Step) -> dict[str, Any] | None:
        """None where the artefact is not there, or damaged as far as is seen without reading its files: then a warning says so, once."""
        folder = self.folder(step)
        manifest = read_manifest(folder)
        fault = (
            next(faults(folder, manifest["files"]), None) if manifest else f"{folder / MANIFEST}: missing or damaged"
        )
        if fault is None:
            return manifest
        if folder.exists() and folder not in self._warned:  # else it was dropped
            self._warned.add(folder)
            warnings.warn(f"{fault}; {folder.name} counts as not there: `textless run` makes it again", stacklevel=2)
        return None

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Of everything in the store, newest first."""
        found = [m for p in (self.root / "artefacts").glob(f"*/{MANIFEST}") if (m := read_manifest(p.parent))]
        yield from sorted(found, key=lambda m: m["finished"], reverse=True)

    def run(self, step: Step, progress: Progress = lambda done, total, what: None) -> Path:
        """Make the artefact of a step whose inputs are in the store, and return its folder; at once if it is there.

        Checkpoints and shards outlive a crash and belong to keys, so the same call goes on from what is finished. While another process
        works on the step this one waits; of several that a launcher started, the first does this, and the others join in or wait.
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
        """One go at a step. Whoever was thought dead and is not may be at it too: each in a folder of its own, one is published."""
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
            # If someone took over, our folder was swept away: no wonder that this failed. Theirs will be found, or waited for.
            if lease.mine() and not self.has(step):
                if isinstance(e, RowsFailedError):
                    self._discard(work)  # an error is not kept: the next run tries every row again
                if not isinstance(e, StoreError):
                    check_bytes(self.inputs(step).values())
                raise
        finally:
            self._discard(path)
        if self.has(step):
            self._discard(work)

    def _check_inputs(self, step: Step) -> None:
        """Raise StoreError when an input is not there, or not all of it: nothing is made of a part."""
        for name, parent in step.inputs().items():
            if not isinstance(parent, Source) and not self.has(parent):
                raise StoreError(
                    f"{step.type}.{name}: {self.folder(parent)} is not there any more, or damaged; run again"
                )

    def _sweep(self, work: Path, lease: Lease) -> bool:
        """Put away what earlier attempts left, all but checkpoints and finished shards. False if the lease was lost."""
        trash = self.root / "work" / f".trash.{uuid.uuid4().hex}"
        with guard(self.root / "work"):
            if not lease.mine():
                return False
            scratch = work / "scratch"
            earlier = [p for p in work.iterdir() if p != scratch] if work.exists() else []
            earlier += [*self.root.glob(f"work/.{work.name}.lease.*"), *self.root.glob("work/.probe.*")]
            for n, leftover in enumerate([*earlier, *temporaries(scratch)]):
                with contextlib.suppress(FileNotFoundError):  # its owner was faster
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
        """Remove what is left of a step that was killed when it had just been published."""
        with contextlib.suppress(OSError):
            if self.work(step).exists() and (lease := self._lease(step)).take():
                with lease.held():
                    self._discard(self.work(step))
            self._empty_trash()

    def _lease(self, step: Step) -> Lease:
        return Lease(self.root / "work" / f"{self.name(step)}.lease")

    def join(self, step: Step) -> None:
        """Beside the first process: take part in a collective step once it has begun. Nothing to do for others, or if it is there."""
        scratch = self.work(step) / "scratch"
        while step.collective and not self.has(step):
            if collective.announced(scratch):
                with self._explained():
                    step.run(remote_job(collective.private_folder(scratch), self.inputs(step), scratch, self.root))
                    collective.leave(scratch)
                return
            time.sleep(POLL)

    def wait(self, step: Step) -> Path:
        """Beside the first process: the artefact's folder, once it is there."""
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
        # Who was thought dead finds that its folder was swept away. What it has written since then is not whole, and the mark is gone.
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
        """Whether a process works on it that is not known to be dead."""
        return self._lease(step).busy()

    def drop(self, step: Step) -> None:
        """Remove an artefact, at once as far as others can see, and the shards that only it holds."""
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
        """Keep the file hashes for the next look; a store that cannot be written only costs the time."""
        with contextlib.suppress(OSError):
            self._hashes.save()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What is wrong with the store in one line, if that is what is wrong: libraries tell a full disk in many ways."""
        try:
            yield
        except StoreError:
            raise
        except Exception as e:
            if isinstance(e, NotADirectoryError | FileExistsError) and not self.root.is_dir():
                raise StoreError(
                    f"{self.root}: not a folder; give another place with --store or TEXTLESS_STORE"
                ) from None
            told = (os.strerror(n) for n in CANNOT_WRITE if getattr(e, "errno", None) == n or os.strerror(n) in str(e))
            if problem := next(told, None) or self._cannot_write():
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
    """When something went wrong with artefacts: raise StoreError if it is their bytes, which are all read, that are not as they were."""
    for folder in folders:
        if folder.exists() and (found := damage(folder)):
            raise StoreError(f"{found[0]}; remove {folder} and run again") from None


def _count_attempt(path: Path) -> int:
    text = path.read_bytes()[:9] if path.exists() else b""
    attempts = int(text) + 1 if text.isdigit() else 1
    write_text(path, str(attempts))
    return attempts
