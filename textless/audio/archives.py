"""Archives from the network, unpacked safely: plain files below one folder, of bounded number and size."""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, cast

from textless.audio.fetch import Progress, fetch, one_at_a_time, place
from textless.errors import CorpusError, ModelError

EXPANSION = 20  # most unpacked bytes per byte of an archive; audio and weights in one have a few
SMALL = 1_000_000  # bytes; a smaller archive may unpack to as much as one of this size, since tar pads
NAME = 1 << 16  # bytes of a header that holds a name
MOST_FILES = 10_000  # of a zip, whose list of contents is read at once


def unpacked(url: str) -> Path:
    """The folder that `fetch_unpacked` gives, which is there when it is complete."""
    path = place(url)
    return path.with_name(f"{path.name}.unpacked")


def fetch_unpacked(url: str, *, sha256: str | None, progress: Progress = lambda done, total, what: None) -> Path:
    """The local folder of an archive: downloaded and unpacked by the first call, taken from the cache by later ones.

    The folder is renamed into place when it is complete; then the archive is removed. If several processes ask for it,
    one works and the others wait.

    Raises ModelError as `fetch`, and as `unpack` raises CorpusError.
    """
    folder = unpacked(url)
    work = folder.with_name(f"{folder.name}.partial")
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():  # another process may have been faster
                archive = fetch(url, sha256=sha256, progress=progress)
                shutil.rmtree(work, ignore_errors=True)
                try:
                    unpack(archive, work, progress, keep_outermost=True)
                except CorpusError as e:
                    shutil.rmtree(work, ignore_errors=True)
                    archive.unlink(missing_ok=True)
                    if sha256 is None:  # the next download need not be the same
                        archive.with_name(f"{archive.name}.sha256").unlink(missing_ok=True)
                    raise ModelError(str(e)) from None
                work.rename(folder)
                archive.unlink(missing_ok=True)
    except OSError as e:
        raise ModelError(
            f"{e.filename or folder}: cannot be written ({e.strerror or e}); "
            "make room, or give another cache with TEXTLESS_CACHE"
        ) from None
    return folder


def unpack(
    archive: Path, folder: Path, progress: Progress = lambda done, total, what: None, *, keep_outermost: bool = False
) -> None:
    """Unpack a .tar.gz (.tgz) or .zip below `folder`.

    Args:
        progress: called with megabytes read, megabytes in all, and what is unpacked.
        keep_outermost: members keep their outermost folder, or have none. False: each member is in one, and it is left
            out.

    Raises CorpusError when it is cut short or damaged, when a member is not a plain file, is outside the folder or has
    a name that cannot be printed, and when it unpacks to more than EXPANSION times its size.
    """
    if not hasattr(tarfile, "data_filter"):
        raise CorpusError("this Python cannot unpack archives safely; use 3.11.4 or newer")
    folder.mkdir(parents=True, exist_ok=True)
    skipped = 0 if keep_outermost else 1
    try:
        if archive.name.lower().endswith(".zip"):
            _unpack_zip(archive, folder, progress, skipped)
        else:
            _unpack_tar(archive, folder, progress, skipped)
    except tarfile.FilterError as e:
        raise CorpusError(f"{archive}: {e}; nothing was unpacked") from None
    except (
        *(tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError),
        *(RecursionError, NotImplementedError),
    ) as e:
        raise CorpusError(f"{archive}: is cut short or damaged ({e}); the same command fetches it again") from None


def _unpack_tar(archive: Path, folder: Path, progress: Progress, skipped: int) -> None:
    total = archive.stat().st_size
    with open(archive, "rb") as raw, gzip.GzipFile(fileobj=raw) as whole:
        stream = _Bounded(whole, EXPANSION * max(total, SMALL))
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", tarinfo=_Member) as tar:
            for member in tar:
                if member.isdir():
                    continue
                target = _target(archive, member.name, skipped, plain=member.isreg() and member.size >= 0)
                # Times of files carry no information, and some cannot be set.
                plain = member.replace(name=target, mtime=None, deep=False)  # type: ignore[arg-type]
                try:
                    tar.extract(plain, folder, filter="data")
                except (FileExistsError, IsADirectoryError, NotADirectoryError):
                    raise _both(archive, member.name) from None
                progress(raw.tell() // 1_000_000, total // 1_000_000, f"MB of {archive.name} unpacked")
        while stream.read(1 << 20):  # gzip's checksum is at its end, which tar does not read
            pass


def _unpack_zip(archive: Path, folder: Path, progress: Progress, skipped: int) -> None:
    total = archive.stat().st_size
    with zipfile.ZipFile(archive) as whole:
        members = whole.infolist()
        limit = EXPANSION * max(total, SMALL)
        # `zipfile` reads no more of a member than the size stated here.
        if len(members) > MOST_FILES or sum(member.file_size for member in members) > limit:
            raise _too_much(archive, limit)
        for member in members:
            if member.is_dir():
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA takes what it states
                raise CorpusError(f"{archive}: {_shown(member.filename)} is not compressed by deflate; nothing is read")
            kind = stat.S_IFMT(member.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG) and not member.flag_bits & 1 and "\\" not in member.filename
            target = folder / _target(archive, member.filename, skipped, plain=plain)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with whole.open(member) as source, open(target, "xb") as f:
                    shutil.copyfileobj(source, f, 1 << 20)
            except (FileExistsError, IsADirectoryError, NotADirectoryError):
                raise _both(archive, member.filename) from None
            progress(member.header_offset // 1_000_000, total // 1_000_000, f"MB of {archive.name} unpacked")


def _target(archive: Path, name: str, skipped: int, *, plain: bool) -> str:
    """Where a member goes, below the folder. Raises CorpusError for one that is not a plain file inside it."""
    parts = PurePosixPath(name).parts
    if not plain or ".." in parts or len(parts) <= skipped or parts[0] == "/":
        what = "is not a plain file in a folder of its own" if skipped else "is not a plain file inside the archive"
        raise CorpusError(f"{archive}: {_shown(name)} {what}; nothing was unpacked")
    if not name.isprintable() or any(len(part.encode()) > 255 for part in parts):
        raise CorpusError(f"{archive}: {_shown(name)} is not a name that a file can have; nothing was unpacked")
    return "/".join(parts[skipped:])


def _shown(name: str) -> str:
    return f"{name[:100]!r}{' …' if len(name) > 100 else ''}"


def _both(archive: Path, name: str) -> CorpusError:
    return CorpusError(f"{archive}: {_shown(name)} is both a file and a folder; nothing was unpacked")


def _too_much(archive: Path | str, limit: int) -> CorpusError:
    return CorpusError(
        f"{archive}: unpacks to more than {limit} bytes, which no audio and no model does; nothing was unpacked"
    )


class _Member(tarfile.TarInfo):
    """A member with small headers: tarfile reads names and the maps of sparse files of any length into memory."""

    NAMES = (
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    )

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in self.NAMES and self.size > NAME):
            raise tarfile.ReadError("a header of another length than headers have")
        return super()._proc_member(archive)  # type: ignore[misc]

    def _refuse(self, *_: object) -> None:
        raise tarfile.ReadError("a sparse file")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


class _Bounded:
    """A stream of at most `limit` bytes; reading more raises CorpusError."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self.stream, self.limit, self.done = stream, limit, 0

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        self.done += len(block)
        if self.done > self.limit:
            raise _too_much(self.stream.name, self.limit)
        return block
