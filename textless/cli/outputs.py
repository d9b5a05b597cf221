"""What commands leave: streams, files and folders that appear whole, what made them, and what failed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from textless.audio.corpus import sha256_file
from textless.cli.progress import one_line
from textless.engine.job import Job, Progress, remove_temporaries, write_failures
from textless.engine.step import digest
from textless.errors import AudioError, OutputExistsError, RowsFailedError, TextlessError
from textless.files import write_text
from textless.model_io import model_files
from textless.types import UnitContract
from textless.units.dump import UnitRow, finish_dump, write_stream

RECEIPT = ".textless.json"  # in an output folder, and of a file beside it: the key of the command that made it
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# Of an output NAME, beside it while it is made.
LOCK, PARTIAL = ".{}.textless.lock", ".{}.textless.partial"

# Suffixes of files that no command would call a folder.
_FILES = (
    "wav wave w64 rf64 flac ogg oga opus mp2 mp3 m4a m4b aac aif aiff aifc au snd caf wma amr ape wv sph gsm voc raw pcm webm mka "
    "mkv mp4 mov avi 3gp jsonl ndjson json tsv csv txt parquet arrow feather npy npz pt pth bin pkl pickle ckpt safetensors h5 hdf5 "
    "ark scp yaml yml toml xml html htm md pdf zip gz bz2 xz zst tar tgz 7z rar "
    "km unit units ltr wrd phn phones lab mlf ctm stm rttm textgrid eaf trs cha srt vtt align ali item lst dict vocab "
    "bpe joblib onnx gguf tflite mat dat db sqlite duckdb orc avro lance tfrecord log xls xlsx doc docx "
    "png jpg jpeg gif svg ps tex bib ipynb py sh ini cfg conf"
)
OTHER_FILES = frozenset(f".{name}" for name in _FILES.split())


class Failures:
    """Rows that failed: sifted out of results, reported, and turned into the exit code."""

    def __init__(self) -> None:
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
        """0 all done, 1 some failed. The list goes to standard error. Raises RowsFailedError when nothing was done."""
        check_some_good(self.rows, self.good)
        for row in self.rows:
            print(f"failed: {one_line(row['error'])}", file=sys.stderr)
        return 1 if self.rows else 0


def check_some_good(failures: list[dict[str, str]], good: int) -> None:
    if not good:
        if not failures:
            raise TextlessError("nothing to do: the input has no rows")
        raise RowsFailedError.of(failures)


def is_file(out: str, suffixes: Iterable[str]) -> bool:
    return out != "-" and Path(out).suffix.lower() in suffixes


def check_output(out: str, suffixes: Iterable[str], overwrite: bool, *, folder: str | None = None) -> None:
    """Refuse an output by its name, or for what is there, before anything is computed.

    Args:
        suffixes: of the files that the command writes.
        folder: what it writes otherwise, a folder of this. None: nothing but files, called as one likes, but not as another format.
    """
    if out == "-":
        return
    path = real(out)
    suffix = Path("x" + path.name).suffix.lower()  # of .wav too
    if not path.parent.is_dir():
        raise OutputExistsError(f"{path.parent}: no such folder to write {path.name} into; make it first")
    if folder and suffix not in suffixes and (path.is_dir() or out.endswith(os.sep)):
        return
    # What looks like another format than those of audio is one that is not written.
    known = suffix in OTHER_FILES or (".wav" in suffixes and re.fullmatch(r"\.(?!v\d)[a-z][a-z0-9]{1,4}", suffix))
    if suffix not in suffixes and known:
        forms = " or ".join(
            [f"FILE{s}" for s in suffixes] + ([f"a folder of {folder}, without a suffix"] if folder else [])
        )
        raise OutputExistsError(f"{out}: {suffix} is not what is written here; give {forms}")
    if folder and suffix not in suffixes:
        return
    if path.exists() and not path.is_file():
        raise OutputExistsError(f"{out}: is a folder or device where a file is to be written; give another name")
    if path.exists() and not overwrite and _receipt_of_file(path) is None:
        raise OutputExistsError(f"{out}: exists and is not as textless wrote it; give another name or --overwrite")


def real(out: str | Path) -> Path:
    """Where an output is, links followed."""
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


# ------------------------------------------------------------------------------------------------- one command at a time


@contextlib.contextmanager
def sole(out: Path) -> Iterator[Path]:
    """An output for one command at a time; others wait. Gives a place beside it for what is not finished, which the block may make.

    What commands that were killed left beside their outputs in this folder is swept away. Errors of writing are one line.
    """
    place, partial = (out.with_name(name.format(out.name)) for name in (LOCK, PARTIAL))
    with _explained(out):
        lock = _lock(place, wait=True)
        try:
            if lock is not None:
                _sweep_folder(out.parent, place)
            _discard(partial)
            yield partial
        finally:
            _discard(partial)
            if lock is not None:
                with contextlib.suppress(OSError):
                    place.unlink()
                os.close(lock)


def _sweep_folder(folder: Path, mine: Path) -> None:
    """Remove what killed commands left in a folder, and receipts of files that are gone."""
    for place in folder.glob(LOCK.format("*")):
        if place != mine:
            _sweep(place)
    for receipt in folder.glob(f".*{RECEIPT}"):
        name = receipt.name[1:].removesuffix(RECEIPT)
        if not (folder / name).exists() and not (folder / LOCK.format(name)).exists():
            receipt.unlink(missing_ok=True)


def _sweep(place: Path) -> None:
    """Remove what is left beside an output whose command is dead: nobody holds its lock."""
    with contextlib.suppress(OSError):
        if (lock := _lock(place, wait=False)) is not None:
            _discard(place.with_name(PARTIAL.format(place.name.removeprefix(".").removesuffix(".textless.lock"))))
            place.unlink()
            os.close(lock)


def _lock(place: Path, *, wait: bool) -> int | None:
    """A file locked by this process, open. None: the file system knows no locks, or without `wait` somebody holds it."""
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
                print(
                    f"waiting for another textless that writes {place.name[1:].removesuffix('.textless.lock')}",
                    file=sys.stderr,
                )
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
        os.close(file)  # whoever held it has removed it meanwhile
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


def _discard(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------- folders


def deliver(
    out: str,
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
    key, folder = digest(request), real(out)
    if _is_done(folder, key):
        return _already(out, 1 if (folder / "failures.jsonl").exists() else 0)
    earlier = failures.rows if failures else []
    if not total:
        check_some_good(earlier, 0)
    _check_folders(out, folder, key, overwrite)
    with sole(folder) as partial:
        if _is_done(folder, key):  # by another that was at it
            return _already(out, 1 if (folder / "failures.jsonl").exists() else 0)
        _check_folders(out, folder, key, overwrite)
        work = _work(folder)
        if work.exists() and _key(work) != key:
            work.replace(partial) if work.is_dir() else work.unlink()
            _discard(partial)
        if not work.exists():  # with its receipt from the start: what has none is not ours
            partial.mkdir()
            _write_receipt(partial, key, request)
            partial.rename(work)
        job = None
        try:
            job = Job(work, {}, progress)
            make(job)
            failed = earlier + job.failures
            (work / "failures.jsonl").unlink(missing_ok=True)
            if failed:
                write_failures(work / "failures.jsonl", failed)
            if contract:
                finish_dump(work, contract=contract)
        except RowsFailedError:
            _discard(work)
            raise
        except (TextlessError, OSError):
            if not any(p.is_file() and not p.name.startswith(".") for p in work.rglob("*")):
                _discard(work)  # a bad request; there is nothing to go on with
            raise
        shutil.rmtree(job.scratch)
        remove_temporaries(work, keep=RECEIPT)
        _write_receipt(work, key, request)
        if folder.exists():
            folder.rename(partial)
        work.rename(folder)
    if failed:
        print(f"{len(failed)} of {total + len(earlier)} failed: {Path(out) / 'failures.jsonl'}", file=sys.stderr)
    return 1 if failed else 0


def _work(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _check_folders(out: str, folder: Path, key: str, overwrite: bool) -> None:
    """Raises OutputExistsError for a folder of somebody else's, or without `overwrite` of another command's."""
    states = (
        (folder, out, "holds the result of another command"),
        (_work(folder), f"{out}.partial", "was left by another command"),
    )
    for place, name, state in states:
        if place.exists() and _key(place) is None and (not place.is_dir() or any(place.iterdir())):
            raise OutputExistsError(f"{name}: exists and was not made by textless; give another name")
        if place.exists() and _key(place) not in (None, key) and not overwrite:
            raise OutputExistsError(f"{name}: {state}; give another name or --overwrite")
    if _key(folder) == key and not overwrite:
        raise OutputExistsError(
            f"{out}: is done, but files of it are missing or changed; give another name or --overwrite"
        )


def _is_done(folder: Path, key: str) -> bool:
    """Whether the command has made the folder, and all that it left is there."""
    receipt = _read_receipt(folder / RECEIPT)
    if receipt.get("key") != key:
        return False
    sizes = receipt.get("files", {})  # earlier versions listed none
    return isinstance(sizes, dict) and all(
        (p := folder / name).is_file() and p.stat().st_size == size for name, size in sizes.items()
    )


def _write_receipt(folder: Path, key: str, request: dict[str, Any]) -> None:
    files = {
        p.relative_to(folder).as_posix(): p.stat().st_size
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != RECEIPT
    }
    write_text(folder / RECEIPT, json.dumps({"key": key, "command": request["command"], "files": files}) + "\n")


def _key(folder: Path) -> str | None:
    return _read_receipt(folder / RECEIPT).get("key")


def _read_receipt(place: Path) -> dict[str, Any]:
    try:
        receipt = json.loads(place.read_text(encoding="utf-8"))
        return receipt if isinstance(receipt, dict) and isinstance(receipt.get("key"), str) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _already(out: str, code: int) -> int:
    print(f"{out}: already done", file=sys.stderr)
    return code


# --------------------------------------------------------------------------------------------------------- single files


def deliver_file(
    out: str, request: dict[str, Any], make: Callable[[Path], str | None], overwrite: bool, failures: Failures
) -> int:
    """Make a file elsewhere and rename it when it is whole; `make` may return what to print when it is there.

    `.NAME.textless.json` beside it says which command made it, and its sha256. The same command finds it done and prints the same;
    another command's file, or one that was changed since, is refused, or with `overwrite` replaced.
    """
    key, path = digest(request), real(out)
    code = _file_is_done(out, path, key)
    if code is not None:
        return code
    with sole(path) as partial:
        if (code := _file_is_done(out, path, key)) is not None:  # by another that was at it
            return code
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{out}: holds the result of another command; give another name or --overwrite")
        partial.mkdir()
        made, receipt, lost = partial / path.name, partial / RECEIPT, partial / "failures.jsonl"
        try:
            told = make(made)
            check_some_good(failures.rows, failures.good)
        except TextlessError as e:  # it names the file where the user knows it
            raise type(e)(str(e).replace(str(made), out)) from None
        about = {
            "key": key,
            "command": request["command"],
            "sha256": sha256_file(made),
            "failures": len(failures.rows),
            "told": told,
        }
        write_text(receipt, json.dumps(about) + "\n")
        list_of_failures = path.with_name(f"{path.name}.failures.jsonl")
        if failures.rows:
            write_failures(lost, failures.rows)
            lost.replace(list_of_failures)
        elif _read_receipt(_receipt_place(path)).get("failures"):
            list_of_failures.unlink(missing_ok=True)
        receipt.replace(_receipt_place(path))
        made.replace(path)
    if told:
        print(told)
    return failures.finish()


def _file_is_done(out: str, path: Path, key: str) -> int | None:
    receipt = _receipt_of_file(path) or {}
    if receipt.get("key") != key:
        return None
    if isinstance(told := receipt.get("told"), str):
        print(told)
    return _already(out, 1 if receipt.get("failures") else 0)


def _receipt_place(path: Path) -> Path:
    return path.with_name(f".{path.name}{RECEIPT}")


def _receipt_of_file(path: Path) -> dict[str, Any] | None:
    """What is known of a file that is as a command left it."""
    receipt = _read_receipt(_receipt_place(path))
    return receipt if receipt and path.is_file() and receipt.get("sha256") == sha256_file(path) else None


def hash_or_missing(path: str) -> str:
    """A file that is not there fails when its row comes; the others are done."""
    try:
        return sha256_file(path)
    except AudioError:
        return "missing"


def hash_columns(rows: list[UnitRow]) -> str:
    """Of what `hash_rows` leaves out."""
    return digest([[r.source, r.offset, r.samples, repr(sorted(r.extra.items()))] for r in rows])


def hash_rows(rows: list[UnitRow]) -> str:
    return digest(
        [
            [r.id, r.speaker, r.units.units.tolist(), None if (d := r.units.durations) is None else d.tolist()]
            for r in rows
        ]
    )


def hash_model(place: str | Path) -> str:
    place = Path(place)
    files = [*model_files(place).values()] if place.is_file() else [f for f in sorted(place.rglob("*")) if f.is_file()]
    return digest([[f.name, sha256_file(f)] for f in files])
