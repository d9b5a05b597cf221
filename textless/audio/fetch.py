"""Downloads: resumed, verified, and kept in a cache."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from textless.errors import ModelError
from textless.files import sha256_of, write_text

BLOCK = 1 << 16  # bytes read at once; a killed process loses at most as many
TIMEOUT = 30  # seconds without a byte, after which a connection counts as dropped
TRIES = 4  # connections in a row without new bytes, before giving up
PAUSE = 0.5  # seconds before the second try, doubled before each further one
TRUE = {"1", "ON", "YES", "TRUE"}  # values that huggingface_hub reads as true
WEIGHTS, INDEX, PICKLE = "*.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
# Files of a repository.
PATTERNS = ("config.json", "preprocessor_config.json", "tokeniser_config.json", "textless.json", INDEX, WEIGHTS)
TOKENIZER = (
    *("tokenizer*", "vocab*", "merges.txt", "*.model"),
    *("special_tokens_map.json", "added_tokens.json", "processor_config.json"),
)

NUMBER = re.compile(r"[0-9]{1,18}")  # of bytes, in a header
EXTENT = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)")  # Content-Range
TAG = re.compile(r"[\x20-\x7e]{1,256}")  # ETag or date that can be sent back

Progress = Callable[[int, int, str], None]


class _Dropped(Exception):
    """A connection that ended early or a server that is busy: worth another try."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https, and from http to http: never to local files or FTP, never away from encryption."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in {"https", urlsplit(req.full_url).scheme}:
            raise urllib.error.URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold a lock file: one process at a time is in the block. Raises ModelError on a system without file locks."""
    try:
        import fcntl
    except ImportError:
        raise ModelError("this system has no file locks (fcntl); use Linux, macOS, or WSL on Windows") from None
    with open(lock, "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def fetch(
    url: str,
    *,
    sha256: str | None,
    size: int | None = None,
    progress: Progress | None = None,
    to: Path | None = None,
) -> Path:
    """The local copy of a file: downloaded by the first call, taken from the cache without network by later ones.

    Args:
        url: https://, http:// or file://.
        sha256: of the file, 64 hex digits. None if it is not published: then the first download is trusted, its hash is
            kept in `NAME.sha256`, and every later download from this URL must have the same.
        size: in bytes, if known. No more is read, and less is an error.
        progress: called with megabytes done, megabytes in all, and what is downloaded.
        to: where it is kept, for files that are read together; None is a place of its own in the cache.

    The file is renamed into place after its size and hash are checked. Until then it grows as `NAME.partial`, which the
    next call resumes, unless the file on the server has changed. If several processes ask for one file, one downloads
    and the others wait. The cache is $TEXTLESS_CACHE, else `textless/files` in the user's cache folder; a file that was
    copied into it by hand is checked once and used.

    Raises ModelError without network, for a missing file, for a redirect to anything but https (or from http to http),
    for an empty response or a web page, when HF_HUB_OFFLINE is set, for a wrong size or hash, and when the cache cannot
    be written.
    """
    path, sha256 = to or place(url), sha256 and sha256.lower()
    if _cached(path, sha256):
        return path
    if not url.startswith("file:") and (variable := _offline()):
        with contextlib.suppress(OSError):  # so that there is a folder to copy to
            path.parent.mkdir(parents=True, exist_ok=True)
        raise ModelError(
            f"{path.name} is not in the cache and {variable} is set: unset {variable} or copy {url} to {path}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(_with_suffix(path, ".lock")):
            if not _cached(path, sha256):  # another process may have been faster
                total = _download(url, path, bool(sha256 or _recorded(path)), size, progress)
                _accept(url, path, sha256, total)
    except OSError as e:
        raise ModelError(
            f"{e.filename or path}: cannot be written ({e.strerror or e}); "
            "make room, or give another cache with TEXTLESS_CACHE"
        ) from None
    return path


def cached(source: str, revision: str | None = None) -> Path | None:
    """The local copy of a URL, or of a repository of the hub, if it is complete. Makes no connection."""
    if "://" in source:
        return path if (path := place(source)).is_file() else None
    from huggingface_hub import snapshot_download

    with contextlib.suppress(OSError, ValueError):  # not cached or not completely, no name of a repository
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=[*PATTERNS], local_files_only=True))
        return folder if _has_weights(folder) else None
    return None


def fetch_repository(
    repo: str, *, revision: str | None = None, progress: Progress | None = None, tokenizer: bool = False
) -> Path:
    """The local folder of a repository of the Hugging Face hub: its weights, and the configurations that loaders read.

    Args:
        repo: `owner/name`, looked up at $HF_ENDPOINT if that is set.
        revision: commit, tag or branch; None is the main branch.
        progress: called once before a download: zero, megabytes in all, and what is downloaded.
        tokenizer: fetch its tokenizer too.

    Weights are all `*.safetensors`, or pytorch_model.bin if the repository has none. They are kept in huggingface_hub's
    cache, which resumes and verifies downloads. A cached repository is returned without network, so that a branch stays
    at the commit that it had when it was fetched.

    Raises ModelError when the repository or revision does not exist, is gated or holds no weights, without network, and
    when HF_HUB_OFFLINE is set and it is not in the cache.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    folder = cached(repo, revision)
    if folder and (not tokenizer or any(p for t in TOKENIZER for p in folder.glob(t))):
        return folder
    patterns = [*PATTERNS, *(TOKENIZER if tokenizer else ())]
    with _hub_errors(repo, revision):
        if variable := _offline():
            raise ModelError(
                f"{repo} is not in the cache {constants.HF_HUB_CACHE} and {variable} is set: "
                f"unset {variable} or give the folder of a copy of {constants.ENDPOINT}/{repo}"
            )
        sizes = {
            file.rfilename: file.size or 0
            for file in HfApi().model_info(repo, revision=revision, files_metadata=True).siblings or []
        }
        if not any(name.endswith(".safetensors") for name in sizes):
            patterns.append(PICKLE)
        if progress:
            total = sum(size for name, size in sizes.items() if any(fnmatch(name, p) for p in patterns))
            progress(0, _megabytes(total), f"MB of {repo}")
        with _bars_on_a_terminal():
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    if not _has_weights(folder):
        raise ModelError(f"{repo}: holds no config.json with model.safetensors or {PICKLE}; is it a model?")
    return folder


# ------------------------------------------------------------------------------------------------------------ places


def place(url: str) -> Path:
    """Where a URL is cached: under its own name in a folder that is unique to it.

    Raises ModelError for other schemes.
    """
    if not url.startswith(("https://", "http://", "file://")):
        raise ModelError(f"{url}: only https://, http:// and file:// can be fetched")
    name = unquote(re.split(r"[?#]", url)[0].rsplit("/", 1)[-1])
    name = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII).lstrip(".")[-150:]
    return _cache() / hashlib.sha256(url.encode()).hexdigest()[:12] / (name or "file")


def _cache() -> Path:
    if root := os.environ.get("TEXTLESS_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textless" / "files"


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _offline() -> str | None:
    """The environment variable that forbids the network, of those that huggingface_hub reads, in its order."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if value := os.environ.get(variable):
            return variable if value.upper() in TRUE else None
    return None


# ---------------------------------------------------------------------------------------------------------- one file


def _cached(path: Path, sha256: str | None) -> bool:
    """Whether the file is in the cache. Raises ModelError when its hash is not the expected one."""
    if not path.is_file():
        return False
    digest = _recorded(path)
    if digest is None:  # copied by hand
        try:
            digest = sha256_of(path)
        except OSError as e:
            raise ModelError(f"{path}: cannot be read ({e.strerror})") from None
        if sha256 in (None, digest):
            with contextlib.suppress(OSError):  # a shared, read-only cache is hashed again by each call
                _record(path, digest)
    if sha256 not in (None, digest):
        raise ModelError(f"{path}: has sha256 {digest} where {sha256} is expected; remove it to fetch it again")
    return True


def _download(url: str, path: Path, known: bool, size: int | None, progress: Progress | None) -> int | None:
    """Download `NAME.partial` to its full length, over several connections if needed.

    Returns that length if it is known.
    """
    partial = _with_suffix(path, ".partial")
    idle = furthest = 0
    while True:
        try:
            return _receive(url, path, known, size, progress)
        except _Dropped as e:
            reached = _length(partial)
            idle = idle + 1 if reached <= furthest else 1
            furthest = max(furthest, reached)
            if idle >= TRIES:
                raise _unreachable(url, path, str(e)) from None
        time.sleep(PAUSE * 2 ** (idle - 1))


def _receive(url: str, path: Path, known: bool, size: int | None, progress: Progress | None) -> int | None:
    """One connection: the rest of the file, or all of it if the server has no ranges or the file has changed."""
    partial, tag = _with_suffix(path, ".partial"), _with_suffix(path, ".etag")
    start = _length(partial)
    version = _tag(tag.read_text(errors="replace")) if tag.is_file() else ""
    headers = {"User-Agent": "textless"}
    if start and (version or known):  # with neither, a mix of two different files would go unnoticed
        headers["Range"] = f"bytes={start}-"
        if version:
            headers["If-Range"] = version
    with _connect(url, headers, path) as response:
        status, total = getattr(response, "status", None), None  # a file:// has no status
        extent = EXTENT.fullmatch(response.headers.get("Content-Range", ""))
        if status in (206, 416):
            total = int(extent[2]) if extent and extent[2] != "*" else None
            if status == 416 and total == start:
                return total  # complete already: killed before its hash was checked
            if status == 416 or not extent or extent[1] != str(start):
                partial.unlink(missing_ok=True)
                raise _Dropped("the server sends another part than the requested one")
        else:
            start, length = 0, response.headers.get("Content-Length", "")
            total = int(length) if NUMBER.fullmatch(length) else None
        if response.headers.get_content_type() == "text/html":
            raise _web_page(url, path)
        if None not in (total, size) and total != size:
            partial.unlink(missing_ok=True)
            raise ModelError(
                f"{url}: has {total} bytes where {size} are expected; the file at this address was replaced"
            )
        total = size if total is None else total
        with open(partial, "ab" if start else "wb") as f:
            if not start:
                tag.write_text(_version(response.headers))
            done = start
            while block := _read(response):
                done += len(block)
                if total is not None and done > total:
                    partial.unlink(missing_ok=True)
                    raise ModelError(
                        f"{url}: sends more than the expected {total} bytes; the file at this address was replaced"
                    )
                f.write(block)
                if progress:
                    progress(_megabytes(done), _megabytes(total or done), f"MB of {path.name}")
        if total is not None and done < total:
            raise _Dropped(f"the connection ended after {done} of {total} bytes")
        return total


def _connect(url: str, headers: dict[str, str], path: Path) -> Any:
    """The server's response. Raises _Dropped if another try may help, else ModelError."""
    try:
        return urllib.request.build_opener(_Redirects).open(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as e:
        if e.code == 416:
            return e
        e.close()
        reason = _line(f"HTTP {e.code} {e.reason}")
        if e.code == 429 or e.code >= 500:
            raise _Dropped(reason) from None
        raise _unreachable(url, path, reason) from None
    except (http.client.InvalidURL, ValueError) as e:
        raise _unreachable(url, path, str(e)) from None
    except (http.client.HTTPException, OSError) as e:
        cause = e.reason if isinstance(e, urllib.error.URLError) else e
        passing = isinstance(cause, (http.client.HTTPException, ConnectionError, TimeoutError))
        if passing and not isinstance(cause, ConnectionRefusedError):
            raise _Dropped(_line(cause)) from None
        raise _unreachable(url, path, _line(cause)) from None


def _read(response: Any) -> bytes:
    try:
        return response.read1(BLOCK)  # `read` accepts a chunk of -1 bytes and never returns
    except (http.client.HTTPException, OSError, ValueError) as e:
        raise _Dropped(_line(e)) from None


def _accept(url: str, path: Path, sha256: str | None, total: int | None) -> None:
    """Check the finished download and rename it.

    Raises ModelError, and removes it, when it is not the expected file.
    """
    partial, tag = _with_suffix(path, ".partial"), _with_suffix(path, ".etag")
    if not _length(partial):
        partial.unlink(missing_ok=True)
        raise ModelError(f"{url}: returned an empty file; try again, or copy the file to {path}")
    expected, digest, fault = sha256 or _recorded(path), sha256_of(partial), ""
    with open(partial, "rb") as f:
        page = f.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
    if page and expected != digest:
        partial.unlink()
        raise _web_page(url, path)
    if total is not None and _length(partial) != total:
        fault = f"returned {_length(partial)} bytes where {total} are expected; try again"
    elif expected not in (None, digest):
        fault = f"returned a file with sha256 {digest} where {expected} is expected; " + (
            "it was damaged in transfer or replaced"
            if sha256
            else f"remove {_with_suffix(path, '.sha256')} if it was meant to change"
        )
    if fault:
        partial.unlink()
        tag.unlink(missing_ok=True)
        raise ModelError(f"{url}: {fault}")
    _record(path, digest)
    partial.replace(path)
    tag.unlink(missing_ok=True)


def _version(headers: Any) -> str:
    """The value for If-Range: a strong ETag, else the date; "" without either."""
    etag = headers.get("ETag", "")
    return _tag(etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", ""))


def _tag(value: str) -> str:
    """The value, or "" for one that no header can hold."""
    return value if TAG.fullmatch(value) else ""


def _recorded(path: Path) -> str | None:
    """The hash of a cached file, from `NAME.sha256`."""
    with contextlib.suppress(OSError):
        if digest := re.match(r"[0-9a-f]{64}\b", _with_suffix(path, ".sha256").read_text(errors="replace")):
            return digest[0]
    return None


def _record(path: Path, digest: str) -> None:
    write_text(_with_suffix(path, ".sha256"), f"{digest}  {path.name}\n")  # as sha256sum writes it


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _megabytes(n: int) -> int:
    return -(-n // 1_000_000)


def _unreachable(url: str, path: Path, reason: str) -> ModelError:
    return ModelError(f"{url}: cannot be fetched ({reason}); try again, or copy the file to {path}")


def _web_page(url: str, path: Path) -> ModelError:
    """No model or archive begins as HTML or XML; login pages and error pages do."""
    return ModelError(
        f"{url}: returned a web page, not the file (a login page or an error?); "
        f"open it in a browser, or copy the file to {path}"
    )


def _line(reason: Any) -> str:
    if isinstance(reason, socket.gaierror):
        return "the host is unknown, or there is no network"
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split())


# ------------------------------------------------------------------------------------------------------------ the hub


def _has_weights(folder: Path) -> bool:
    """Whether a snapshot is complete: older versions of huggingface_hub also return interrupted ones."""
    if not (folder / "config.json").is_file():
        return False
    if (folder / INDEX).is_file():
        try:
            return all(
                (folder / name).is_file() for name in json.loads((folder / INDEX).read_text())["weight_map"].values()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False
    return any(folder.glob(WEIGHTS)) or (folder / PICKLE).is_file()


@contextlib.contextmanager
def _bars_on_a_terminal() -> Iterator[None]:
    """Hide huggingface_hub's progress where standard error is a file or a pipe."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def _hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Turn the errors of huggingface_hub and of its HTTP library into a ModelError of one line."""
    from huggingface_hub import constants, errors

    at = f"{constants.ENDPOINT}/{repo}"
    try:
        yield
    except ModelError:
        raise
    except errors.GatedRepoError:
        raise ModelError(f"{at}: is gated; accept its terms on that page, then log in with `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{at}: has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{at}: no such repository, or a private one; check the name, or log in with `hf auth login`"
        ) from None
    except errors.HFValidationError:
        raise ModelError(f"{repo}: neither a folder nor the name of a repository (owner/name)") from None
    except Exception as e:
        answer = getattr(e, "response", None)
        reason = f"HTTP {answer.status_code}" if answer is not None else _line(str(e).split("\n")[0] or e)
        raise ModelError(f"{at}: cannot be fetched ({reason}); try again, or give the folder of a copy") from None
