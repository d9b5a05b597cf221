"""What a step sees while it runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textless.engine.hashes import FileHashes
from textless.engine.manifest import Digests
from textless.engine.shards import Pool
from textless.engine.step import Keys
from textless.files import write_text
from textless.names import encodable

Progress = Callable[[int, int, str], None]  # done, total, of what


def no_progress(done: int, total: int, what: str) -> None:
    """A Progress that shows nothing."""


class Job:
    """What a step sees while it runs. It can be pickled and sent to a worker.

    Attributes:
        path: the folder that becomes the artefact. No other process writes to it.
        inputs: artefact folder of each input by field name; sources have none.
        scratch: a folder that persists until the step is finished, for checkpoints and the like. Several processes may
            share it, so files in it are written atomically (`textless.files`).
        pool: finished shards.
        digests: hashes of files that were computed on the way; the manifest uses them.
        on: workers that make shards, `loky:N` or `dask:ADDRESS`; None: this process.
        tensorboard: folder for TensorBoard's event files, None for none.
        metrics, contract: for the manifest, to be set by the step.
        failures: rows that failed, as {"id", "error"}.
        amount: the last total that was passed to `progress`: shards, steps of training.
        shards: keys of the shards of a map step.
    """

    def __init__(
        self,
        path: Path,
        inputs: dict[str, Path],
        progress: Progress,
        *,
        scratch: Path | None = None,
        root: Path | None = None,
    ) -> None:
        self.path, self.inputs, self._progress, self._root = path, inputs, progress, root
        self.scratch = scratch or path / ".scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.digests = Digests()
        self.pool = Pool(self.scratch / "shards", root and root / "shards", self.digests)
        self.keys = Keys(FileHashes((root or self.scratch) / "hashes.json"))
        self.on: str | None = None
        self.tensorboard: Path | None = None
        self.metrics: dict[str, Any] = {}
        self.contract: dict[str, Any] | None = None
        self.failures: list[dict[str, Any]] = []
        self.amount: int | None = None
        self.shards: list[str] = []

    def progress(self, done: int, total: int, what: str) -> None:
        self.amount = total
        self._progress(done, total, what)

    def __reduce__(self) -> tuple[Any, ...]:
        return remote_job, (self.path, self.inputs, self.scratch, self._root)


def remote_job(path: Path, inputs: dict[str, Path], scratch: Path, root: Path | None) -> Job:
    """A job in another process, without progress."""
    return Job(path, inputs, no_progress, scratch=scratch, root=root)


def write_failures(path: Path, failures: list[dict[str, Any]]) -> None:
    """A line of JSON for each row that failed."""
    lines = []
    for failure in failures:
        row = {name: encodable(value) if isinstance(value, str) else value for name, value in failure.items()}
        lines.append(json.dumps(row, sort_keys=True) + "\n")
    write_text(path, "".join(lines))


def remove_temporaries(folder: Path, *, keep: str = "") -> None:
    """Remove what killed attempts were writing: files and folders whose names start with a dot, except `keep`."""
    for leftover in [p for p in temporaries(folder) if p.name != keep]:
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def temporaries(folder: Path) -> list[Path]:
    """Files and folders whose names start with a dot, without the content of such folders."""
    paths: list[Path] = []
    for top, folders, files in os.walk(folder):
        paths += [Path(top, name) for name in (*folders, *files) if name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
    return paths
