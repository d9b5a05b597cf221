"""Artefacts of a store in object storage, or in any other place that fsspec reaches.

    URL/artefacts/NAME.json     the manifest: written last, and only if there is none; it makes the artefact complete
    URL/blobs/SHA256            the files that manifests list, by content

Objects cannot be renamed atomically, and equal keys do not promise equal bytes on different machines. Files that are
addressed by content cannot be mixed up: no push changes what a manifest points to. Equal files are stored once, and a
push that was killed continues with what is missing.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from textless.engine.job import Progress, no_progress
from textless.engine.manifest import MANIFEST, parse_manifest, publish, whole_manifest
from textless.errors import StoreError, TextlessError, did_you_mean
from textless.files import sha256_of, sync

# Protocols where a write is atomic, and can be refused where the object exists.
OBJECT_STORES = {"s3", "gs", "abfs", "memory"}
THREADS = 8
LARGE = 32 << 20  # bytes; larger files go one at a time, since fsspec holds several parts of each in memory


class File(NamedTuple):
    path: str  # within the artefact
    size: int
    sha256: str


def existing(url: str, names: Iterable[str]) -> set[str]:
    """Which of these artefacts are complete in the remote."""
    with _explain(url):
        return _complete(*_open(url)) & set(names)


def push(root: Path, url: str, names: Iterable[str], progress: Progress = no_progress) -> list[str]:
    """Upload artefacts that the store has and the remote lacks; returns their names."""
    with _explain(url):
        fs, base = _open(url)
        complete = _complete(fs, base)
        folders = {name: root / "artefacts" / name for name in names if name not in complete}
        folders = {name: folder for name, folder in folders.items() if (folder / MANIFEST).exists()}
        manifests = {name: (folder / MANIFEST).read_bytes() for name, folder in folders.items()}
        if not folders:
            return []
        blobs = {PurePosixPath(e["name"]).name: e["size"] for e in _list(fs, f"{base}/blobs")}
        missing: dict[str, list[File]] = {}
        for name, folder in folders.items():
            files = _files(manifests[name], name, folder / MANIFEST, f"remove {folder} and run again")
            missing[name] = list({f.sha256: f for f in files if blobs.get(f.sha256) != f.size}.values())
            blobs |= {f.sha256: f.size for f in missing[name]}
        if not _is_object_store(fs):
            for part in ("artefacts", "blobs", "partial"):
                fs.makedirs(f"{base}/{part}", exist_ok=True)

        def send(job: tuple[Path, File]) -> None:
            folder, file = job
            if not _holds(folder / file.path, file):
                raise StoreError(f"{folder / file.path}: not as its manifest says; remove {folder} and run again")
            _put(fs, base, folder / file.path, f"{base}/blobs/{file.sha256}")

        done, total, pushed = 0, sum(map(len, missing.values())), []
        for name, folder in folders.items():
            for _ in _each(fs, send, [(folder, file) for file in missing[name]]):
                done += 1
                progress(done, total, "files")
            if _create(fs, base, f"{base}/artefacts/{name}.json", manifests[name]):
                pushed.append(name)
        return pushed


def pull(url: str, root: Path, names: Iterable[str], progress: Progress = no_progress) -> list[str]:
    """Download artefacts that the remote has and the store lacks, checked and atomically; returns their names."""
    with _explain(url):
        missing = [name for name in dict.fromkeys(names) if whole_manifest(root / "artefacts" / name) is None]
        if not missing:
            return []
        fs, base = _open(url)
        complete = _complete(fs, base)
        manifests = {name: fs.cat_file(f"{base}/artefacts/{name}.json") for name in missing if name in complete}
        again = "remove it there and push the artefact again"
        files = {name: _files(data, name, f"{url}/artefacts/{name}.json", again) for name, data in manifests.items()}

        def fetch(job: tuple[Path, File]) -> None:
            target, file = job
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                fs.get_file(f"{base}/blobs/{file.sha256}", str(target))
                problem = "damaged"
            except FileNotFoundError:
                if not target.parent.exists():  # removed by another process
                    raise
                problem = "missing"
            if not _holds(target, file):
                cure = "remove it and the manifests that list it there, and push again"
                raise StoreError(f"{url}/blobs/{file.sha256}: {problem}; {cure}")
            sync(target)

        done, total, pulled = 0, sum(map(len, files.values())), []
        for name, data in manifests.items():
            work = root / "work" / f".pull-{secrets.token_hex(8)}"
            try:
                work.mkdir(parents=True)
                for _ in _each(fs, fetch, [(work / file.path, file) for file in files[name]]):
                    done += 1
                    progress(done, total, "files")
                (work / MANIFEST).write_bytes(data)
                for path in (work / MANIFEST, work, *(p for p in work.rglob("*") if p.is_dir())):
                    sync(path)
                if publish(root, work, name):
                    pulled.append(name)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return pulled


def _open(url: str) -> tuple[Any, str]:
    """File system and path of a URL."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ValueError, TypeError) as e:  # TypeError: a URL without a host, for example
        known = did_you_mean(url.split("://")[0], fsspec.available_protocols()) if "not known" in str(e) else ""
        raise StoreError(f"{url}: {e}{known or '; correct the address'}") from None


def _is_object_store(fs: Any) -> bool:
    return not OBJECT_STORES.isdisjoint([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def _list(fs: Any, folder: str) -> list[dict[str, Any]]:
    """The current entries of a folder; none if it does not exist."""
    fs.invalidate_cache()
    try:
        return fs.ls(folder, detail=True)
    except FileNotFoundError as e:
        if "NoSuchBucket" in str(e.__cause__):
            raise
        return []


def _complete(fs: Any, base: str) -> set[str]:
    names = [PurePosixPath(entry["name"]).name for entry in _list(fs, f"{base}/artefacts")]
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def _files(manifest: bytes, name: str, where: object, cure: str) -> list[File]:
    """The files that a manifest lists. It may be untrusted."""
    try:
        files = parse_manifest(manifest, name)["files"]
        return [File(path, entry["size"], entry["sha256"]) for path, entry in files.items()]
    except TypeError:
        raise StoreError(f"{where}: damaged (no sha256 of its files, as in older versions); {cure}") from None
    except ValueError as e:
        raise StoreError(f"{where}: damaged ({e}); {cure}") from None


def _each(fs: Any, call: Callable[[Any], None], jobs: list[tuple[Path, File]]) -> Iterator[None]:
    """Call with each job; with several small ones at a time where the file system is a network service."""
    with ThreadPoolExecutor(THREADS if fs.async_impl else 1) as pool:
        yield from pool.map(call, [job for job in jobs if job[1].size < LARGE])
    yield from map(call, [job for job in jobs if job[1].size >= LARGE])


def _holds(path: Path, file: File) -> bool:
    """Whether a file exists and has this content."""
    return path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.sha256


@contextlib.contextmanager
def _aside(fs: Any, base: str) -> Iterator[str]:
    """A path for an incomplete file."""
    partial = f"{base}/partial/{secrets.token_hex(8)}"
    try:
        yield partial
    finally:
        with contextlib.suppress(Exception):  # it has been moved, or a more important error is raised
            fs.rm_file(partial)


def _put(fs: Any, base: str, path: Path, blob: str) -> None:
    """Upload a file atomically."""
    if _is_object_store(fs):
        fs.put_file(str(path), blob)
        return
    with _aside(fs, base) as partial:
        fs.put_file(str(path), partial)
        fs.mv(partial, blob)


def _create(fs: Any, base: str, path: str, data: bytes) -> bool:
    """Create a small file atomically; False if it exists."""

    def is_there() -> bool:
        fs.invalidate_cache()
        return fs.exists(path)

    if _is_object_store(fs):
        try:
            fs.pipe_file(path, data, mode="create")
        except Exception as e:
            if isinstance(e, FileExistsError) or is_there():  # services report it in different ways, as 409 or 412
                return False
            if getattr(e, "errno", None) != errno.ENOSYS:
                raise
            fs.pipe_file(path, data)  # a service like S3 without conditional writes
        return True
    with _aside(fs, base) as partial:
        fs.pipe_file(partial, data)
        try:
            fs.link(partial, path)
        except FileExistsError:
            return False
        except (AttributeError, OSError):  # no links: a manifest written between the next two lines is as good as ours
            if is_there():
                return False
            fs.mv(partial, path)
    return True


@contextlib.contextmanager
def _explain(url: str) -> Iterator[None]:
    """Raise errors of file systems and the libraries behind them as StoreError, which says what to do."""
    try:
        yield
    except TextlessError:
        raise
    except ImportError as e:
        raise StoreError(f"{url}: {e}; pip install {getattr(e.__cause__, 'name', None) or 'what it needs'}") from None
    except Exception as e:
        if type(e).__module__ == "builtins" and not isinstance(e, OSError | ValueError | NotImplementedError):
            raise  # a bug
        where = getattr(e, "filename", None) or url
        problem = " ".join(str(getattr(e, "strerror", None) or e).split()) or type(e).__name__
        if isinstance(e, PermissionError):
            cure = "check the credentials, and what they allow"
        elif isinstance(e, FileNotFoundError):
            cure = "create it or correct the address"
        else:
            cure = "solve this and run the same command again: it continues from here"
        raise StoreError(f"{where}: {problem}; {cure}") from None
