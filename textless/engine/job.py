"""What a step sees while it runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textless.engine.hashes import FileHashes, write_text
from textless.engine.manifest import Digests
from textless.engine.shards import Pool
from textless.engine.step import Keys
from textless.names import encodable

Progress = Callable[[int, int, str], None]


class Job:
    """What a step sees while it runs. It can be sent to a worker.

    Attributes:
        path: the folder that becomes the artefact. Nobody else writes there.
        inputs: artefact folder of each input by field name; sources have none.
        scratch: a folder that lasts until the step is finished, for checkpoints and the like. Several processes may share it, so files
            appear in it whole, by rename.
        pool: where finished shards are kept.
        digests: hashes of files that were read for them; the manifest takes them.
        on: where shards are done, `loky:N` or `dask:ADDRESS`; None: here.
        tensorboard: folder for TensorBoard's event files, None when they are not wanted.
        metrics, contract: for the manifest, to be filled in.
        failures: rows that could not be done, as {"id", "error"}.
        amount: how much was done, as progress told it: shards, steps of training.
        shards: keys of what a map is made of.
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
    return Job(path, inputs, lambda done, total, what: None, scratch=scratch, root=root)


def write_failures(path: Path, failures: list[dict[str, Any]]) -> None:
    """A line of JSON for each row that could not be done."""
    rows = [
        {name: encodable(value) if isinstance(value, str) else value for name, value in f.items()} for f in failures
    ]
    write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def remove_temporaries(folder: Path, *, keep: str = "") -> None:
    """Remove what killed attempts were writing: files and folders whose names start with a dot, but for `keep`."""
    for leftover in [p for p in temporaries(folder) if p.name != keep]:
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def temporaries(folder: Path) -> list[Path]:
    """Whatever begins with a dot, not looking within; their owner may be removing them too."""
    found: list[Path] = []
    for here, folders, files in os.walk(folder):
        found += [Path(here, name) for name in (*folders, *files) if name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
    return found
