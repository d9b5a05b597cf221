"""What commands leave: streams, files, and folders that appear whole; and what failed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from textless.corpus import sha256_file
from textless.engine.job import Job, Progress, remove_temporaries, write_failures
from textless.engine.step import digest
from textless.errors import AudioError, OutputExistsError, RowsFailedError, TextlessError
from textless.units.dump import UnitRow, finish_dump, write_stream
from textless.units.types import UnitContract
from textless.weights import write_text

RECEIPT = ".textless.json"  # in an output folder: the key of the command that made it


class Failures:
    """Rows that failed: sifted out of results, reported, and turned into the exit code."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.rows: list[dict[str, str]] = []
        self.good = 0

    def sift(self, results: Iterable[tuple[Any, Any]]) -> Iterator[UnitRow]:
        for row, result in results:
            if isinstance(result, AudioError):
                self.rows.append({"id": row.id, "error": str(result)})
            else:
                self.good += 1
                yield result

    def finish(self) -> int:
        """0 all done, 1 some failed. The list goes to standard error, and beside a file. Raises AudioError when nothing was done."""
        check_some_good(self.rows, self.good)
        for row in self.rows:
            print(f"failed: {row['error']}", file=sys.stderr)
        if self.rows and self.out != "-":
            write_failures(Path(f"{self.out}.failures.jsonl"), self.rows)
        return 1 if self.rows else 0


def check_some_good(failures: list[dict[str, str]], good: int) -> None:
    if not good:
        if not failures:
            raise TextlessError("nothing to do: the input has no rows")
        raise RowsFailedError.of(failures)


def is_stream(out: str) -> bool:
    return out == "-" or out.endswith(".jsonl")


def refuse(out: str, overwrite: bool) -> None:
    """A single file that exists is refused before anything is computed."""
    path = Path(out)
    if out != "-" and path.is_file() and not overwrite:
        raise OutputExistsError(f"{out}: exists; give another name or --overwrite")
    if out != "-" and not path.absolute().parent.is_dir():
        raise OutputExistsError(f"{path.absolute().parent}: no such folder to write {path.name} into; make it first")


def write_units(out: str, rows: Iterable[UnitRow], contract: UnitContract) -> None:
    if out == "-":
        write_stream(sys.stdout, rows, contract=contract)
        return
    path = Path(out)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as f:
            n = write_stream(f, rows, contract=contract)
        if n:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(out: str, value: Any) -> None:
    text = json.dumps(value, indent=1) + "\n"
    _ = sys.stdout.write(text) if out == "-" else write_text(Path(out), text)


def counted(rows: Iterable[UnitRow], progress: Progress) -> Iterator[UnitRow]:
    for n, row in enumerate(rows, 1):
        yield row
        progress(n, n, "rows")


def deliver(
    out: Path,
    request: dict[str, Any],
    make: Callable[[Job], None],
    total: int,
    overwrite: bool,
    progress: Progress,
    *,
    contract: UnitContract | None = None,
    failures: Failures | None = None,
) -> int:
    """Make a folder under another name and rename it when it is whole.

    The same command goes on with what an earlier one left, or finds the folder done; another command's folder is refused, or with
    `overwrite` replaced once the new one is whole. A folder that no command of ours made is refused in any case.
    """
    key = digest(request)
    work = out.with_name(f"{out.name}.partial")
    for folder, state in ((out, "holds the result of another command"), (work, "was left by another command that did not finish")):
        if folder.exists() and _receipt(folder) is None and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputExistsError(f"{folder}: exists and was not made by textless; give another name")
        if folder.exists() and _receipt(folder) not in (None, key) and not overwrite:
            raise OutputExistsError(f"{folder}: {state}; give another name or --overwrite")
    if work.exists() and _receipt(work) != key:
        shutil.rmtree(work)
    if _receipt(out) == key:
        print(f"{out}: already done", file=sys.stderr)
        return 1 if (out / "failures.jsonl").exists() else 0
    earlier = failures.rows if failures else []
    if not total:
        check_some_good(earlier, 0)
    work.mkdir(exist_ok=True)
    write_text(work / RECEIPT, json.dumps({"key": key, "command": request["command"]}) + "\n")
    job = Job(work, {}, progress)
    try:
        make(job)
    except RowsFailedError:
        shutil.rmtree(work)
        raise
    except TextlessError:
        if not any(p.is_file() and not p.name.startswith(".") for p in work.rglob("*")):
            shutil.rmtree(work)  # a bad request; there is nothing to go on with
        raise
    failed = earlier + job.failures
    if failed:
        write_failures(work / "failures.jsonl", failed)
        print(f"{len(failed)} of {total + len(earlier)} failed: {out / 'failures.jsonl'}", file=sys.stderr)
    shutil.rmtree(job.scratch)
    remove_temporaries(work, keep=RECEIPT)
    if contract:
        finish_dump(work, contract=contract)
    if out.exists():
        shutil.rmtree(out)
    work.rename(out)
    return 1 if failed else 0


def _receipt(folder: Path) -> str | None:
    try:
        return json.loads((folder / RECEIPT).read_text())["key"]
    except (OSError, ValueError, KeyError):
        return None


def hash_or_missing(path: str) -> str:
    """A file that is not there fails when its row comes; the others are done."""
    try:
        return sha256_file(path)
    except AudioError:
        return "missing"


def hash_rows(rows: list[UnitRow]) -> str:
    return digest([[r.id, r.speaker, r.units.units.tolist(), None if (d := r.units.durations) is None else d.tolist()] for r in rows])


def hash_model(place: str | Path) -> str:
    place = Path(place)
    files = [place] if place.is_file() else [f for f in sorted(place.rglob("*")) if f.is_file()]
    return digest([[f.name, sha256_file(f)] for f in files])
