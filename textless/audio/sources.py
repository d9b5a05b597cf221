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

from textless.audio.io import AUDIO, OTHER_MEDIA
from textless.audio.manifests import MANIFESTS, Draft, read_manifest, read_table
from textless.audio.rows import Row
from textless.errors import CorpusError
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
    suffix = os.path.splitext(source)[1].lower()
    if os.path.isdir(source):
        drafts = _decoded(source, _walk(source))
    elif glob.has_magic(source) and not os.path.exists(source):
        fixed = os.path.dirname(source[: min(source.find(c) for c in "*?[" if c in source)])
        media = [
            path
            for path in sorted(_expand(source))
            if path.lower().endswith(AUDIO + OTHER_MEDIA) and not os.path.isdir(path)
        ]
        drafts = _decoded(source, [Draft({"path": path}, fixed, 2 * os.path.islink(path)) for path in media])
    elif suffix in AUDIO:
        drafts = [Draft({"path": source}, os.path.dirname(source))]
    elif not os.path.exists(source):
        raise CorpusError(f"{source}: no such file or folder")
    elif suffix in MANIFESTS:
        drafts = read_manifest(source, suffix)
    elif suffix in OTHER_MEDIA:
        raise CorpusError(f"{source}: {suffix} cannot be decoded; convert it to wav or flac with ffmpeg")
    else:
        raise CorpusError(f"{source}: neither audio ({', '.join(AUDIO)}) nor a manifest ({', '.join(MANIFESTS)})")
    if not drafts:
        raise CorpusError(f"{source}: no audio there; audio files end in {', '.join(AUDIO)}")
    return drafts


def _decoded(source: str, drafts: list[Draft]) -> list[Draft]:
    """Those that can be decoded; one warning names the rest. Raises CorpusError when none can be decoded."""
    other = [d.fields["path"] for d in drafts if not d.fields["path"].lower().endswith(AUDIO)]
    if other:
        suffixes = abridged(sorted({os.path.splitext(path)[1].lower() for path in other}))
        skipped = "file is passed over" if len(other) == 1 else "files are passed over"
        what = f"{len(other)} audio or video {skipped}, such as {other[0]}"
        line = f"{source}: {what}; {suffixes} cannot be decoded, convert to wav or flac with ffmpeg"
        if len(other) == len(drafts):
            raise CorpusError(line)
        warnings.warn(line, stacklevel=1)
    return [d for d in drafts if d.fields["path"].lower().endswith(AUDIO)]


def _walk(folder: str) -> list[Draft]:
    """All media files below a folder, sorted."""
    named = 4 * os.path.islink(folder.rstrip(os.sep))
    drafts = [
        Draft({"path": path}, folder, named + link + 2 * os.path.islink(path))
        for subfolder, names, link in _folders(folder)
        for name in names
        if name.lower().endswith(AUDIO + OTHER_MEDIA) and not name.startswith(".")
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
    """Rows with absolute paths. Rows without an id are named by stem or, where two stems are equal, all by path."""
    unnamed = [d for d in drafts if "id" not in d.fields]
    stems = [plain(_stem(d.fields["path"])) for d in unnamed]
    by_path = len(set(stems)) < len(unnamed)
    for draft in drafts:
        draft.fields["path"] = os.path.abspath(draft.fields["path"])
    root = os.path.commonpath([os.path.abspath(d.root) for d in unnamed]) if by_path else ""
    for draft, stem in zip(unnamed, stems, strict=True):
        path = draft.fields["path"]
        draft.fields["id"] = Path(os.path.relpath(os.path.splitext(path)[0], root)).as_posix() if by_path else stem
    return [Row(**d.fields) for d in drafts]


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
