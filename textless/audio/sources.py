"""Sources of audio: files, folders, globs and manifests, read as rows with ids."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from textless.audio.io import AUDIO, MEDIA, OTHER_MEDIA
from textless.audio.kaldi import is_kaldi, read_kaldi
from textless.audio.lhotse import find_lhotse, is_lhotse, read_lhotse
from textless.audio.manifests import (
    MANIFESTS,
    Draft,
    is_list,
    read_json_lines,
    read_list,
    read_records,
    read_table,
    read_tabular,
    suffix_of,
)
from textless.audio.media import has_ffmpeg
from textless.audio.packages import (
    PACKAGES,
    is_tarred,
    read_package,
    read_parquet_audio,
    read_tar,
    read_tarred,
    refuse_compressed,
)
from textless.audio.rows import Row
from textless.errors import CorpusError, how_to_install
from textless.names import plain


def load_sources(sources: Iterable[str | Path]) -> list[list[Row]]:
    """The rows of each of several sources, named together. See `Corpus.load`."""
    drafts = [_drafts(os.fspath(one)) for one in sources]
    if not drafts:
        raise CorpusError("no source given; name an audio file, a folder or a manifest")
    drafts = _once(drafts)
    rows = iter(_name([d for part in drafts for d in part]))
    return [list(itertools.islice(rows, len(part))) for part in drafts]


def _once(sources: list[list[Draft]]) -> list[list[Draft]]:
    """Without the files that a link leads to where another path to them has fewer links."""
    searched = [d for drafts in sources for d in drafts if d.links is not None]
    if not any(d.links for d in searched):
        return sources
    real = {d.fields["path"]: os.path.realpath(d.fields["path"]) for d in searched}
    fewest: dict[str, int] = {}
    for d in sorted(searched, key=lambda d: -(d.links or 0)):
        fewest[real[d.fields["path"]]] = d.links or 0
    return [[d for d in drafts if d.links is None or d.links == fewest[real[d.fields["path"]]]] for drafts in sources]


def _drafts(source: str) -> list[Draft]:
    """The rows of one source, at least one."""
    if "\0" in source:
        raise CorpusError(f"{source!r}: a path cannot hold NUL")
    suffix = suffix_of(source)
    if is_kaldi(source):
        drafts = read_kaldi(source)
    elif os.path.isdir(source):
        drafts = _decoded(source, _walk(source)) or _packaged(source)
    elif glob.has_magic(source) and not os.path.exists(source):
        fixed = os.path.dirname(source[: min(source.find(c) for c in "*?[" if c in source)])
        found = [path for path in sorted(_expand(source)) if not os.path.isdir(path)]
        media = [path for path in found if path.lower().endswith(AUDIO + MEDIA + OTHER_MEDIA)]
        drafts = _decoded(source, [Draft({"path": path}, fixed, 2 * os.path.islink(path)) for path in media])
        if not media:
            drafts = [d for path in found if suffix_of(path) in PACKAGES for d in _manifest(path)]
    elif suffix in AUDIO:
        drafts = [Draft({"path": source}, os.path.dirname(source))]
    elif not os.path.exists(source):
        raise CorpusError(f"{source}: no such file or folder")
    elif suffix in MEDIA and has_ffmpeg():
        drafts = [Draft({"path": source}, os.path.dirname(source))]
    elif suffix in MANIFESTS:
        drafts = _manifest(source)
    elif suffix in MEDIA + OTHER_MEDIA:
        raise CorpusError(f"{source}: {_remedies([suffix])}")
    elif is_list(source):
        drafts = read_list(source)
    else:
        refuse_compressed(source)
        raise CorpusError(f"{source}: neither audio ({', '.join(AUDIO)}) nor a manifest ({', '.join(MANIFESTS)})")
    if not drafts:
        raise CorpusError(f"{source}: no audio there; audio files end in {', '.join(AUDIO)}")
    return drafts


def _manifest(source: str) -> list[Draft]:
    """The rows of a manifest. Raises CorpusError, naming the line, when it is malformed."""
    suffix = suffix_of(source)
    if suffix == ".scp":
        return read_kaldi(source)
    if suffix == ".tar":
        return read_tar(source)
    if suffix in (".jsonl", ".json", ".jsonl.gz"):
        records = read_json_lines(source)
        if is_tarred(records):
            return read_tarred(source, records)
        read = read_lhotse if records and is_lhotse(records[0][1]) else read_records
        return read(source, records)
    if suffix == ".parquet" and (drafts := read_parquet_audio(source)) is not None:
        return drafts
    return read_tabular(source)


def _packaged(folder: str) -> list[Draft]:
    """What a folder without audio files holds in another form: lhotse's, or parquet and tar files of audio."""
    if manifests := find_lhotse(folder):
        return [draft for manifest in manifests for draft in _manifest(manifest)]
    files = sorted(os.path.join(below, name) for below, names, _ in _folders(folder) for name in names)
    drafts = [
        draft
        for path in files
        if suffix_of(path) in PACKAGES and not os.path.basename(path).startswith(".")
        for draft in read_package(path)
    ]
    if not drafts:
        for path in files:
            refuse_compressed(path)
    return drafts


def _decoded(source: str, drafts: list[Draft]) -> list[Draft]:
    """Those that can be decoded; one warning names the rest. Raises CorpusError when none can be decoded."""
    known = AUDIO + MEDIA if has_ffmpeg() else AUDIO
    other = [d.fields["path"] for d in drafts if not d.fields["path"].lower().endswith(known)]
    if other:
        skipped = "file is passed over" if len(other) == 1 else "files are passed over"
        what = f"{len(other)} audio or video {skipped}, such as {other[0]}"
        line = f"{source}: {what}; {_remedies(sorted({suffix_of(path) for path in other}))}"
        if len(other) == len(drafts):
            raise CorpusError(line)
        warnings.warn(line, stacklevel=1)
    return [d for d in drafts if d.fields["path"].lower().endswith(known)]


def _remedies(suffixes: list[str]) -> str:
    """What to do about files that cannot be decoded, which end in these suffixes."""
    media = [suffix for suffix in suffixes if suffix in MEDIA]
    rest = [suffix for suffix in suffixes if suffix not in MEDIA]
    parts = [f"{abridged(media)} can be decoded with PyAV ({how_to_install('media')})"] if media else []
    parts += [f"{abridged(rest)} cannot be decoded, convert to wav or flac with ffmpeg"] if rest else []
    return "; ".join(parts)


def _walk(folder: str) -> list[Draft]:
    """All media files below a folder, sorted."""
    named = 4 * os.path.islink(folder.rstrip(os.sep))
    drafts = [
        Draft({"path": path}, folder, named + link + 2 * os.path.islink(path))
        for subfolder, names, link in _folders(folder)
        for name in names
        if name.lower().endswith(AUDIO + MEDIA + OTHER_MEDIA) and not name.startswith(".")
        for path in [os.path.join(subfolder, name)]
    ]
    return sorted(drafts, key=lambda d: d.fields["path"])


def _folders(top: str) -> Iterator[tuple[str, list[str], bool]]:
    """Every folder below one, links followed, with its files and whether a link led to it.

    Each is entered once, by a path without links where there is one: links to a parent would otherwise never end.
    """
    seen: set[tuple[int, int]] = set()
    tops, link = [top], False
    while tops:
        links: list[str] = []
        for start in tops:
            for folder, subfolders, names in os.walk(start, onerror=_unreadable):
                with contextlib.suppress(OSError):
                    status = os.stat(folder)
                    if (status.st_dev, status.st_ino) in seen:
                        subfolders.clear()
                        continue
                    seen.add((status.st_dev, status.st_ino))
                links += [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
                yield folder, names, link
        tops, link = sorted(links), True


def _unreadable(e: OSError) -> None:
    warnings.warn(f"{e.filename}: cannot be read ({e.strerror}); its audio is left out", stacklevel=1)


def _expand(pattern: str) -> set[str]:
    """What a glob matches. `**` enters each folder once; that of `glob` follows links to a parent over and over."""
    if not (stars := re.search(r"(?<![^/])\*\*(?:/+|$)", pattern)):
        return set(glob.glob(pattern))
    before, after = pattern[: stars.start()], pattern[stars.end() :]
    tops = glob.glob(before) if before else [os.curdir]
    below = [
        folder
        for top in tops
        if os.path.isdir(top)
        for folder, _, _ in _folders(top)
        if not _hidden(folder[len(top) :])
    ]
    return {path for folder in below for path in _expand(os.path.join(glob.escape(folder), after or "*"))}


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split(os.sep))


def _name(drafts: list[Draft]) -> list[Row]:
    """Rows with absolute paths. Rows without an id are named by stem or, where two stems are equal, all by path.

    Files of one name have as their source the path below the folder that all share.
    """
    unnamed = [d for d in drafts if "id" not in d.fields]
    stems = [plain(_stem(d.file)) + d.ending for d in unnamed]
    by_path = len(set(stems)) < len(unnamed)
    for draft in drafts:
        draft.fields["path"] = os.path.abspath(draft.fields["path"])
    root = os.path.commonpath([os.path.abspath(d.root) for d in unnamed]) if by_path else ""
    for draft, stem in zip(unnamed, stems, strict=True):
        file = os.path.splitext(draft.file)[0]
        draft.fields["id"] = Path(os.path.relpath(file, root)).as_posix() + draft.ending if by_path else stem
    _name_sources(drafts)
    return [Row(**d.fields) for d in drafts]


def _name_sources(drafts: list[Draft]) -> None:
    """Give a source to rows of which another file has the name. All others are called by the name of their file."""
    files: dict[str, set[str]] = {}
    for draft in drafts:
        files.setdefault(os.path.basename(draft.file), set()).add(draft.file)
    if not (alike := [d for d in drafts if len(files[os.path.basename(d.file)]) > 1]):
        return
    roots = {os.path.abspath(d.root) for d in drafts} | {os.path.dirname(d.file) for d in alike if d.links is None}
    root = os.path.commonpath(roots)
    for draft in alike:
        draft.fields["source"] = Path(os.path.relpath(draft.file, root)).as_posix()


def join_splits(rows: list[Row], splits: Path) -> list[Row]:
    """Rows with the split and speaker of a table, joined by id, else by stem.

    Raises CorpusError when no row is in it.
    """
    by_id: dict[str, dict[str, str]] = {}
    for n, record in read_table(str(splits), errors="strict")[1]:
        if not {"id", "split"} <= record.keys():
            raise CorpusError(f"{splits}: the header must name the columns id and split, not {', '.join(record)}")
        values = {name: plain(record[name]) for name in ("split", "speaker") if record.get(name)}
        if by_id.setdefault(plain(record["id"]), values) != values:
            raise CorpusError(f"{splits}:{n}: duplicate id {record['id']!r} with other values; drop one of the lines")
    if not any(r.id in by_id or plain(_stem(r.path)) in by_id for r in rows):
        raise CorpusError(
            f"{splits}: has none of the ids of the corpus, such as {rows[0].id!r}; check that they belong together"
        )
    joined = []
    for row in rows:
        values = by_id.get(row.id) or by_id.get(plain(_stem(row.path))) or {}
        joined.append(replace(row, split=values.get("split", row.split), speaker=values.get("speaker", row.speaker)))
    return joined


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def abridged(names: list[str]) -> str:
    """At most eight of the names, for a message."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
