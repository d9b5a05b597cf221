"""What commands write: streams, files and folders that appear whole, receipts that say which command made them, and
failed rows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from textless.audio.corpus import sha256_file
from textless.cli.locks import RECEIPT, discard, sole
from textless.cli.progress import one_line
from textless.engine.job import Job, Progress, remove_temporaries, write_failures
from textless.engine.step import digest
from textless.errors import AudioError, OutputExistsError, RowsFailedError, TextlessError
from textless.files import write_text
from textless.model_io import model_files
from textless.types import UnitContract
from textless.units.card import Origin
from textless.units.dump import UnitRow, finish_dump, write_stream

if TYPE_CHECKING:
    from textless.cli.commands import Request

Receipt = dict[str, Any]  # the JSON object; empty: there is none

# Suffixes of files, which no folder of an output may have.
_FILES = (
    "wav wave w64 rf64 flac ogg oga opus mp2 mp3 m4a m4b aac aif aiff aifc au snd caf wma amr ape wv sph gsm voc raw "
    "pcm webm mka mkv mp4 mov avi 3gp jsonl ndjson json tsv csv txt parquet arrow feather npy npz pt pth bin pkl "
    "pickle ckpt safetensors h5 hdf5 ark scp yaml yml toml xml html htm md pdf zip gz bz2 xz zst tar tgz 7z rar km "
    "unit units ltr wrd phn phones lab mlf ctm stm rttm textgrid eaf trs cha srt vtt align ali item lst dict vocab "
    "bpe joblib onnx gguf tflite mat dat db sqlite duckdb orc avro lance tfrecord log xls xlsx doc docx png jpg jpeg "
    "gif svg ps tex bib ipynb py sh ini cfg conf"
)
OTHER_FILES = frozenset(f".{name}" for name in _FILES.split())


class Failures:
    """Rows that failed: sifted out of results, reported, and turned into the exit code."""

    def __init__(self, good: int = 0) -> None:
        self.rows: list[dict[str, Any]] = []
        self.good = good

    def sift(self, results: Iterable[tuple[Any, Any]]) -> Iterator[UnitRow]:
        for row, result in results:
            if isinstance(result, AudioError):
                self.rows.append({"id": row.id, "error": str(result)})
            else:
                self.good += 1
                yield result

    def finish(self) -> int:
        """0 all done, 1 some failed. The list goes to standard error. Raises RowsFailedError when every row failed."""
        check_some_good(self.rows, self.good)
        for row in self.rows:
            print(f"failed: {one_line(row['error'])}", file=sys.stderr)
        return 1 if self.rows else 0


def check_some_good(failures: list[dict[str, Any]], good: int) -> None:
    if not good:
        if not failures:
            raise TextlessError("nothing to do: the input has no rows")
        raise RowsFailedError.of(failures)


def is_file(out: str, suffixes: Iterable[str]) -> bool:
    """Whether an output is one file, by its suffix."""
    return out != "-" and Path(out).suffix.lower() in suffixes


def check_output(out: str, suffixes: Iterable[str], overwrite: bool, *, folder: str | None = None) -> None:
    """Refuse an output for its name, or for what is already there, before anything is computed.

    Args:
        suffixes: of the files that the command writes.
        folder: it also writes folders of this. None: it writes files only, of any name that has no other format's
            suffix.
    """
    if out == "-":
        return
    path = real(out)
    suffix = Path("x" + path.name).suffix.lower()  # of .wav too
    if not path.parent.is_dir():
        raise OutputExistsError(f"{path.parent}: no such folder to write {path.name} into; make it first")
    if folder and suffix not in suffixes and (path.is_dir() or out.endswith(os.sep)):
        return
    # Audio has more formats than can be listed: a short suffix is taken for one.
    known = suffix in OTHER_FILES or (".wav" in suffixes and re.fullmatch(r"\.(?!v\d)[a-z][a-z0-9]{1,4}", suffix))
    if suffix not in suffixes and known:
        forms = " or ".join(
            [f"FILE{s}" for s in suffixes] + ([f"a folder of {folder}, without a suffix"] if folder else [])
        )
        raise OutputExistsError(f"{out}: this command does not write {suffix} files; give {forms}")
    if folder and suffix not in suffixes:
        return
    if path.exists() and not path.is_file():
        raise OutputExistsError(f"{out}: is a folder or device where a file is to be written; give another name")
    if path.exists() and not overwrite and not _is_as_written(path, _read_receipt(_receipt_of_file(path))):
        raise OutputExistsError(f"{out}: exists and is not as textless wrote it; give another name or --overwrite")


def real(out: str | Path) -> Path:
    """The path of an output, links followed."""
    path = Path(os.path.realpath(out))
    if not path.name:
        raise OutputExistsError(f"{out}: give the name of a file or folder")
    return path


def write_rows(path: Path, rows: Iterable[UnitRow], contract: UnitContract) -> None:
    with open(path, "w", encoding="utf-8") as f:
        write_stream(f, rows, contract=contract)


def write_json(out: IO[str], value: Any) -> None:
    out.write(json.dumps(value, indent=1) + "\n")


def counted(rows: Iterable[UnitRow], progress: Progress) -> Iterator[UnitRow]:
    for n, row in enumerate(rows, 1):
        yield row
        progress(n, n, "rows")


# ---------------------------------------------------------------------------------------------- whole files and folders


class _Output:
    """An output with a receipt, which holds the key of the command that made it.

    The same command finds its output and does nothing. Another command's output, or one that was changed since, is
    refused, or with `overwrite` replaced once the new one is whole.
    """

    def __init__(self, out: str, request: dict[str, Any], overwrite: bool) -> None:
        self.out, self.path, self.request, self.overwrite = out, real(out), request, overwrite
        self.key = digest(request)

    def deliver(self) -> int:
        """Make the output, unless it is there; returns the exit code."""
        if receipt := self.done():
            return self._already(receipt)
        with sole(self.path) as partial:
            receipt = self.done()  # by another process that held the lock
            if not receipt:
                self.check()
                self.make(partial)
        return self._already(receipt) if receipt else self.report()

    def done(self) -> Receipt:
        """The receipt of this request's output when nothing of it is missing or changed, else an empty one."""
        receipt = self.receipt()
        return receipt if receipt.get("key") == self.key and self.is_whole(receipt) else {}

    def _already(self, receipt: Receipt) -> int:
        if isinstance(text := receipt.get("told"), str):
            print(text)
        print(f"{self.out}: already done", file=sys.stderr)
        return 1 if self.has_failures(receipt) else 0

    def receipt_text(self, **about: Any) -> str:
        return json.dumps({"key": self.key, "command": self.request["command"], **about}) + "\n"

    def receipt(self) -> Receipt:
        raise NotImplementedError

    def is_whole(self, receipt: Receipt) -> bool:
        raise NotImplementedError

    def has_failures(self, receipt: Receipt) -> bool:
        raise NotImplementedError

    def check(self) -> None:
        """Raises OutputExistsError for what must not be replaced."""
        raise NotImplementedError

    def make(self, partial: Path) -> None:
        """Write the output next to its place and rename it when it is whole. `partial` is a free name there."""
        raise NotImplementedError

    def report(self) -> int:
        """Print what the command says when it is done; returns the exit code."""
        raise NotImplementedError


class _File(_Output):
    """A file. Its receipt `.NAME.textless.json`, next to it, holds its sha256; failed rows are in
    `NAME.failures.jsonl`. Further files that `write` leaves next to it are delivered with it.
    """

    text: str | None

    def __init__(
        self,
        out: str,
        request: dict[str, Any],
        write: Callable[[Path], str | None],
        overwrite: bool,
        failures: Failures,
    ) -> None:
        super().__init__(out, request, overwrite)
        self.write, self.failures = write, failures

    def receipt(self) -> Receipt:
        return _read_receipt(_receipt_of_file(self.path))

    def is_whole(self, receipt: Receipt) -> bool:
        beside = receipt.get("beside", {})
        return _is_as_written(self.path, receipt) and all(
            (p := self.path.with_name(name)).is_file() and sha256_file(p) == known for name, known in beside.items()
        )

    def has_failures(self, receipt: Receipt) -> bool:
        return bool(receipt.get("failures"))

    def check(self) -> None:
        if self.path.exists() and not self.overwrite:
            raise OutputExistsError(
                f"{self.out}: holds the result of another command; give another name or --overwrite"
            )

    def make(self, partial: Path) -> None:
        partial.mkdir()
        file, receipt, lost = partial / self.path.name, partial / RECEIPT, partial / "failures.jsonl"
        try:
            self.text = self.write(file)
            check_some_good(self.failures.rows, self.failures.good)
        except TextlessError as e:  # it names the file where the user knows it
            raise type(e)(str(e).replace(str(file), self.out)) from None
        failed = len(self.failures.rows)
        beside = {p: sha256_file(p) for p in sorted(partial.iterdir()) if p != file}
        self._check_beside({p.name: known for p, known in beside.items()})
        about = {"beside": {p.name: known for p, known in beside.items()}} if beside else {}
        write_text(receipt, self.receipt_text(sha256=sha256_file(file), failures=failed, told=self.text, **about))
        list_of_failures = self.path.with_name(f"{self.path.name}.failures.jsonl")
        if failed:
            write_failures(lost, self.failures.rows)
            lost.replace(list_of_failures)
        elif self.receipt().get("failures"):
            list_of_failures.unlink(missing_ok=True)
        gone = [
            (old, known)
            for name, known in self.receipt().get("beside", {}).items()
            if not (partial / name).exists() and (old := self.path.with_name(name)).is_file()
        ]  # companions of the output that is replaced, which this one lacks
        receipt.replace(_receipt_of_file(self.path))
        for old, known in gone:
            if sha256_file(old) == known:
                old.unlink()
        for part in beside:
            part.replace(self.path.with_name(part.name))
        file.replace(self.path)

    def _check_beside(self, beside: dict[str, str]) -> None:
        """Raises OutputExistsError for another file under one of these names, unless `overwrite`."""
        ours = self.receipt().get("beside", {})
        for name, known in beside.items():
            there = self.path.with_name(name)
            if there.exists() and not self.overwrite and sha256_file(there) not in (known, ours.get(name)):
                raise OutputExistsError(
                    f"{there}: exists, and {self.out} needs this name; give another name or --overwrite"
                )

    def report(self) -> int:
        if self.text:
            print(self.text)
        return self.failures.finish()


class _Folder(_Output):
    """A folder, with its receipt and the list of failed rows in it. The same command goes on with what an earlier one
    left unfinished.

    A folder that has no receipt was not made by textless and is refused in any case.
    """

    def __init__(
        self,
        out: str,
        request: dict[str, Any],
        fill: Callable[[Job], None],
        overwrite: bool,
        progress: Progress,
        contract: UnitContract | None,
        failures: Failures,
        origin: Origin,
    ) -> None:
        super().__init__(out, request, overwrite)
        self.fill, self.progress, self.contract, self.failures = fill, progress, contract, failures
        self.origin = origin
        self.total = failures.good + len(failures.rows)
        self.work = self.path.with_name(f"{self.path.name}.partial")

    def receipt(self) -> Receipt:
        return _read_receipt(self.path / RECEIPT)

    def is_whole(self, receipt: Receipt) -> bool:
        sizes = receipt.get("files", {})  # earlier versions listed none
        return isinstance(sizes, dict) and all(
            (p := self.path / name).is_file() and p.stat().st_size == size for name, size in sizes.items()
        )

    def has_failures(self, receipt: Receipt) -> bool:
        return (self.path / "failures.jsonl").exists()

    def check(self) -> None:
        states = (
            (self.path, self.out, "holds the result of another command"),
            (self.work, f"{self.out}.partial", "was left by another command"),
        )
        for place, name, state in states:
            key = _read_receipt(place / RECEIPT).get("key")
            if place.exists() and key is None and (not place.is_dir() or any(place.iterdir())):
                raise OutputExistsError(f"{name}: exists and was not made by textless; give another name")
            if place.exists() and key not in (None, self.key) and not self.overwrite:
                raise OutputExistsError(f"{name}: {state}; give another name or --overwrite")
        if self.receipt().get("key") == self.key and not self.overwrite:
            raise OutputExistsError(
                f"{self.out}: is done, but files of it are missing or changed; give another name or --overwrite"
            )

    def make(self, partial: Path) -> None:
        check_some_good(self.failures.rows, self.failures.good)
        self._begin(partial)
        job = Job(self.work, {}, self.progress)
        try:
            self.fill(job)
            self.failures.rows += job.failures
            (self.work / "failures.jsonl").unlink(missing_ok=True)
            if self.failures.rows:
                write_failures(self.work / "failures.jsonl", self.failures.rows)
            if self.contract:
                finish_dump(self.work, contract=self.contract, **self.origin.stated())
        except RowsFailedError:
            discard(self.work)
            raise
        except (TextlessError, OSError):
            if not any(p.is_file() and not p.name.startswith(".") for p in self.work.rglob("*")):
                discard(self.work)  # a bad request; there is nothing to go on with
            raise
        shutil.rmtree(job.scratch)
        remove_temporaries(self.work, keep=RECEIPT)
        self._write_receipt(self.work)
        if self.path.exists():
            self.path.rename(partial)
        self.work.rename(self.path)

    def _begin(self, partial: Path) -> None:
        """Keep what an earlier run of this command left, or start a folder that has a receipt from its first moment."""
        if self.work.exists() and _read_receipt(self.work / RECEIPT).get("key") != self.key:
            self.work.replace(partial) if self.work.is_dir() else self.work.unlink()
            discard(partial)
        if not self.work.exists():
            partial.mkdir()
            self._write_receipt(partial)
            partial.rename(self.work)

    def _write_receipt(self, folder: Path) -> None:
        files = {
            p.relative_to(folder).as_posix(): p.stat().st_size
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name != RECEIPT
        }
        write_text(folder / RECEIPT, self.receipt_text(files=files))

    def report(self) -> int:
        if failed := len(self.failures.rows):
            print(f"{failed} of {self.total} failed: {Path(self.out) / 'failures.jsonl'}", file=sys.stderr)
        return 1 if failed else 0


def deliver_file(
    out: str, request: dict[str, Any], write: Callable[[Path], str | None], overwrite: bool, failures: Failures
) -> int:
    """Write a file under another name and rename it when it is whole; `write` may return a text to print.

    Returns the exit code.
    """
    return _File(out, request, write, overwrite, failures).deliver()


def deliver_figures(
    request: Request, key: dict[str, Any], write: Callable[[IO[str] | None], str], failures: Failures
) -> int:
    """Write measurements to the output, if there is one, and print the metrics: to standard error if -o is -."""

    def to_file(path: Path) -> str:
        with open(path, "w", encoding="utf-8") as f:
            return write(f)

    if request.out not in ("", "-"):
        return deliver_file(request.out, key, to_file, request.overwrite, failures)
    print(write(sys.stdout if request.out else None), file=sys.stderr if request.out else sys.stdout)
    return failures.finish()


def deliver_folder(
    out: str,
    request: dict[str, Any],
    fill: Callable[[Job], None],
    overwrite: bool,
    progress: Progress,
    *,
    contract: UnitContract | None = None,
    failures: Failures,
    origin: Origin = Origin(),
) -> int:
    """Fill a folder under another name and rename it when it is whole; returns the exit code.

    Args:
        contract: of the units, when the folder becomes a dump.
        failures: rows that failed before, and how many are still to be done.
        origin: of the audio, for the dump's card.
    """
    return _Folder(out, request, fill, overwrite, progress, contract, failures, origin).deliver()


# ---------------------------------------------------------------------------------------------------------- receipts


def _receipt_of_file(path: Path) -> Path:
    return path.with_name(f".{path.name}{RECEIPT}")


def _read_receipt(place: Path) -> Receipt:
    try:
        receipt = json.loads(place.read_text(encoding="utf-8"))
        return receipt if isinstance(receipt, dict) and isinstance(receipt.get("key"), str) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _is_as_written(path: Path, receipt: Receipt) -> bool:
    """Whether a file is as the command of its receipt wrote it."""
    return bool(receipt) and path.is_file() and receipt.get("sha256") == sha256_file(path)


def hash_or_missing(path: str) -> str:
    """The hash of a file. A missing file fails when its row is read; the other rows are done."""
    try:
        return sha256_file(path)
    except AudioError:
        return "missing"


def hash_columns(rows: list[UnitRow]) -> str:
    """A hash of the columns that `hash_rows` leaves out."""
    return digest([[r.source, r.offset, r.samples, repr(sorted(r.extra.items()))] for r in rows])


def hash_rows(rows: list[UnitRow]) -> str:
    return digest(
        [
            [
                *(r.id, r.speaker, r.units.units.tolist(), None if (d := r.units.durations) is None else d.tolist()),
                *([] if r.units.pitch is None else [r.units.pitch.tolist()]),  # which units did not have at first
            ]
            for r in rows
        ]
    )


def hash_model(place: str | Path) -> str:
    place = Path(place)
    files = [*model_files(place).values()] if place.is_file() else [f for f in sorted(place.rglob("*")) if f.is_file()]
    return digest([[f.name, sha256_file(f)] for f in files])
