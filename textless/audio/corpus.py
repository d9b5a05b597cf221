"""A corpus: an ordered list of parts of audio files, read from folders, globs and manifests without opening any of the audio."""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import itertools
import json
import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np

from textless.audio.io import (
    AUDIO,
    MP3_PADDING,
    OTHER_MEDIA,
    SAMPLE_RATE,
    Parts,
    audio_lengths,
    audio_samples,
    read_audio,
    stream_audio,
    to_int16,
)
from textless.errors import AudioError, CorpusError
from textless.files import atomic, sha256_of, write_text
from textless.names import encodable, plain

AHEAD = 20 * 60 * SAMPLE_RATE  # samples decoded before they are asked for
MANIFESTS = (".tsv", ".csv", ".jsonl", ".parquet")
PATH_COLUMNS = ("audio", "path", "file", "file_name")
LONGEST_STEM = 180  # bytes; file systems take names of 255, and suffixes and numbers are added
COLUMNS = (*PATH_COLUMNS, "id", "offset", "samples", "duration", "speaker", "split")
UNDECODED = "surrogateescape"  # how Python keeps the bytes of a path that are not UTF-8


@dataclass(frozen=True, slots=True)
class Row:
    """`samples` samples of the file at `path` (absolute) from `offset` on, both at 16 kHz; samples None: to the end.

    `id`, `speaker` and `split` are kept in the form that `names.plain` gives; the path is what the file system says.
    """

    id: str
    path: str
    offset: int = 0
    samples: int | None = None
    speaker: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        for name in ("id", "speaker", "split"):
            if (value := getattr(self, name)) is not None and not value.isascii():
                object.__setattr__(self, name, plain(value))


def file_stem(name: str) -> str:
    """What a file of this id is called: what a path or a shell would trip over becomes `_`, and the end of a long one a hash."""
    stem = re.sub(r"[^\w.+=@-]", "_", name).lstrip(".") or "_"
    if len(stem.encode()) <= LONGEST_STEM:
        return stem
    return (
        stem.encode()[: LONGEST_STEM - 17].decode(errors="ignore")
        + "-"
        + hashlib.sha256(name.encode()).hexdigest()[:16]
    )


def row_identity(row: Row, hash_file: Callable[[str], str]) -> list[Any]:
    """What makes a row what it is, wherever its file lies: id, sha256 of the audio's bytes, part, speaker, split."""
    return [row.id, hash_file(row.path), row.offset, row.samples, row.speaker, row.split]


def read_row(row: Row) -> np.ndarray:
    """The waveform of a row, (samples,) float32 in [-1, 1] at 16 kHz. Raises AudioError as `read_audio`."""
    return read_audio(row.path, offset=row.offset, samples=row.samples)


class Corpus:
    """Rows in order, each id once. Raises CorpusError, naming both rows, when an id stands twice."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = tuple(rows)
        seen: dict[str, Row] = {}
        for row in self.rows:
            if (other := seen.setdefault(row.id, row)) is not row:
                raise CorpusError(
                    f"id {row.id!r} stands twice: {_place(other)} and {_place(row)}; drop or rename one, choose by a glob such as "
                    "'FOLDER/*.wav', or give ids in a manifest"
                )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, i: int) -> Row:
        return self.rows[i]

    @classmethod
    def load(
        cls,
        source: str | Path | Iterable[str | Path],
        *,
        splits: str | Path | None = None,
        split: str | Collection[str] | None = None,
    ) -> Corpus:
        """The rows of one source or of several, in order.

        A source is an audio file, a folder (all audio below it, sorted), a glob of audio files, or a manifest:
        - fairseq .tsv: a line with the root folder, then `relative/path<TAB>samples`, all samples of the file, at the file's own
          rate; the header of each file is read, and a row of another length means that the manifest is stale;
        - .tsv or .csv with a header, .jsonl, .parquet: `audio` (or `path`, `file`, `file_name`), and as far as they are known
          `id`, `offset` (samples at 16 kHz), `samples` (at 16 kHz) or `duration` (seconds), `speaker`, `split`.
        Relative paths start at the manifest's folder. A row without an id is called by its stem or, where any two stems are
        alike, all are by their paths from the sources' common folder, without suffix. That a file is missing shows when it is read.
        Links are followed; a folder or file that is also there without the link is taken once, by its own name. Paths may be any bytes.
        Ids, speakers and splits are compared in Unicode NFC; bytes of a file name that are not UTF-8 stand in its id as `\\udcXX`.

        `splits` is a .tsv or .csv with the columns `id`, `split` and perhaps `speaker`, joined by id, else by stem; what it
        says replaces what the source says. `split` keeps the rows of that split, or of those. Raises CorpusError when a source is missing
        or malformed, an id stands twice, or no row remains.
        """
        rows = [row for part in load_sources([source] if isinstance(source, str | Path) else source) for row in part]
        corpus = cls(rows if splits is None else _join(rows, Path(splits)))
        return corpus if split is None else corpus.select(split=split)

    def select(self, split: str | Collection[str] | None = None, speakers: Collection[str] | None = None) -> Corpus:
        """The rows of a split or of some, of some speakers, or both. Raises CorpusError, saying which there are, when none remains."""
        splits = None if split is None else {plain(s) for s in ([split] if isinstance(split, str) else split)}
        speakers = None if speakers is None else {plain(s) for s in speakers}
        rows = [
            r
            for r in self.rows
            if (splits is None or r.split in splits) and (speakers is None or r.speaker in speakers)
        ]
        if not rows:
            there = {name: sorted({getattr(r, name) or "none" for r in self.rows}) for name in ("split", "speaker")}
            wanted = [f"split {split!r}"] * (split is not None) + [f"speakers {sorted(speakers or [])}"] * (
                speakers is not None
            )
            raise CorpusError(
                f"no row has {' and '.join(wanted)}; splits: {_some(there['split'])}; speakers: {_some(there['speaker'])}"
            )
        return Corpus(rows)

    def fingerprint(self, hash_file: Callable[[str], str]) -> str:
        """sha256 in hex over ids, audio bytes, parts, speakers and splits: not over where the files lie, nor in which order.

        `hash_file` gives the sha256 of a file by its path, as `sha256_file`; it is called once for each file.
        """
        hashes = {path: hash_file(path) for path in {r.path for r in self.rows}}
        quote = json.encoder.encode_basestring_ascii  # json.dumps of row_identity, in a quarter of its time

        def text(value: str | int | None) -> str | int:
            return quote(value) if isinstance(value, str) else "null" if value is None else value

        rows = sorted(
            f"[{quote(r.id)}, {quote(hashes[r.path])}, {r.offset}, {text(r.samples)}, {text(r.speaker)}, {text(r.split)}]"
            for r in self.rows
        )
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """sha256 of a file's bytes in hex. Raises AudioError when it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as e:
        raise AudioError(
            f"{path}: cannot be read ({e.strerror}); correct the manifest or copy the file again"
        ) from None


class PackedAudio:
    """A corpus decoded once into one memory-mapped file of 16-bit samples, for trainings that draw random crops.

    `ids` and `speakers` are lists, `lengths` (N,) int64 in samples at 16 kHz. 16-bit audio at 16 kHz is kept bit for bit.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        index = json.loads((self.folder / "index.json").read_text())
        rows = [r for r in index["rows"] if r[0] not in index["bad"]]
        self.ids: list[str] = [r[0] for r in rows]
        self.speakers: list[str | None] = [r[3] for r in rows]
        self.lengths = np.array(index["lengths"], dtype=np.int64)
        self._ends = np.cumsum(self.lengths)
        self._audio = np.memmap(self.folder / "audio.i16", dtype="<i2", mode="r")

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self):
        return PackedAudio, (self.folder,)  # a pickled memory map would carry all of the audio

    def waveform(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Row i, or a slice of it: (samples,) float32 in [-1, 1] at 16 kHz."""
        first = self._ends[i] - self.lengths[i]
        start, stop, _ = slice(start, stop).indices(int(self.lengths[i]))
        return self._audio[first + start : first + stop].astype(np.float32) / 32768

    @classmethod
    def build(
        cls, corpus: Corpus, folder: str | Path, *, on_bad: Callable[[Row, AudioError], None] | None = None
    ) -> PackedAudio:
        """Decode a corpus into `folder` (`audio.i16`, `index.json`), or open what is there if it was made of the same rows.

        The rows are compared, not the audio: a folder belongs to one content. A row that cannot be read is given to `on_bad`
        and left out, also when the folder is opened again; without `on_bad` its AudioError is raised. Raises CorpusError when
        no row can be read.
        """
        folder = Path(folder)
        audio, index = folder / "audio.i16", folder / "index.json"
        rows = [[r.id, r.offset, r.samples, r.speaker] for r in corpus]
        if (known := _known(index, audio)) and known["rows"] == rows and (on_bad or not known["bad"]):
            for row in corpus:
                if on_bad and row.id in known["bad"]:
                    on_bad(row, AudioError(known["bad"][row.id]))
            return cls(folder)
        folder.mkdir(parents=True, exist_ok=True)
        index.unlink(missing_ok=True)  # the old index must not meet the new audio
        lengths, bad = [], {}
        with atomic(audio) as temporary, open(temporary, "wb") as f:
            for row, decoded in read_rows(corpus):
                if isinstance(decoded, AudioError):
                    if on_bad is None:
                        raise decoded
                    on_bad(row, decoded)
                    bad[row.id] = str(decoded)
                else:
                    f.write(to_int16(decoded).astype("<i2", copy=False).data)
                    lengths.append(len(decoded))
            if not lengths:
                raise CorpusError(
                    f"none of the {len(rows)} rows can be read, such as {next(iter(bad.values()), 'none at all')}"
                )
        write_text(index, json.dumps({"rows": rows, "lengths": lengths, "bad": bad}))
        return cls(folder)


def _known(index: Path, audio: Path) -> dict[str, Any] | None:
    """The index of a packed folder, or None where there is none or it does not fit its audio."""
    try:
        known = json.loads(index.read_text())
        return known if audio.stat().st_size == 2 * sum(known["lengths"]) else None
    except (OSError, ValueError):
        return None


class Recording:
    """A row that is too long to be held: its waveform comes in blocks, as often as it is asked for."""

    def __init__(self, row: Row) -> None:
        self.row, self._samples = row, 0

    def blocks(self) -> Iterator[np.ndarray]:
        """(samples,) float32 in [-1, 1] at 16 kHz, block by block. Raises AudioError as `read_audio`, a fault when it is reached."""
        samples = 0
        for block in stream_audio(self.row.path, offset=self.row.offset, samples=self.row.samples):
            samples += len(block)
            yield block
        self._samples = samples

    def beginning(self, samples: int) -> np.ndarray:
        """Its first samples, (samples,) float32; what lies behind them is not decoded. Raises as `blocks`."""
        parts, missing = [], samples
        for block in self.blocks():
            parts.append(block[:missing])
            missing -= len(parts[-1])
            if missing <= 0:
                break
        return np.concatenate(parts)

    def samples(self) -> int:
        """Its length, known when it has once been read to its end."""
        return self._samples


def read_rows(rows: Iterable[Row], *, longest: int | None = None) -> Iterator[tuple[Row, Any]]:
    """Each row with its waveform (samples,) float32, or the AudioError that reading it raised, in order.

    Files are decoded in threads, since libsndfile and soxr work outside the interpreter lock, and only as far ahead of the reader as
    AHEAD samples and a few rows, so that memory stays bounded; a single row may be longer. A lossy file of which rows follow each other
    is decoded once, where they are in the order of their offsets. Of rows with more than `longest` samples a Recording is given instead.
    """

    def length(row: Row) -> int:
        try:
            return max(0, row.samples or audio_samples(row.path) - row.offset)
        except AudioError:
            return 0  # it is said when the row is read

    def decode(
        row: Row, samples: int, parts: Parts | None, before: Future | None
    ) -> np.ndarray | Recording | AudioError:
        if before is not None:
            before.exception()  # a part is decoded behind the one before it
        try:
            if longest is not None and samples > longest:
                return Recording(row)
            return read_row(row) if parts is None else parts.read(row.offset, row.samples)
        except AudioError as e:
            return e

    threads = os.cpu_count() or 1
    rows, held = iter(rows), 0
    parts, before = None, None
    headers: deque[tuple[Row, Future[int]]] = deque()
    ahead: deque[tuple[Row, int, Future]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            for row in itertools.islice(rows, 2 * threads + 1 - len(headers) - len(ahead)):
                headers.append((row, pool.submit(length, row)))
            while headers and (not ahead or (headers[0][1].done() and held + headers[0][1].result() <= AHEAD)):
                row, samples = headers[0][0], headers.popleft()[1].result()
                if row.samples is None:
                    parts = before = None
                elif parts is None or parts.path != row.path:
                    parts, before = Parts(row.path), None
                future = pool.submit(decode, row, samples, parts, before)
                before = future if parts else None
                in_memory = 0 if longest is not None and samples > longest else samples
                ahead.append((row, in_memory, future))
                held += in_memory
            if not ahead:
                return
            row, in_memory, future = ahead.popleft()
            yield row, future.result()
            del future
            held -= in_memory
    finally:
        pool.shutdown(cancel_futures=True)


def read_some(rows: Iterable[Row], *, seconds: float, seed: int, longest: float = 60.0) -> list[np.ndarray]:
    """Waveforms of rows in an order that depends on the seed and their ids alone, until there are so many seconds.

    Of a row no more than its first `longest` seconds are taken, and a row that cannot be read is passed over.
    """
    order = sorted(rows, key=lambda row: hashlib.sha256(f"{seed} {row.id}".encode()).digest())
    taken, found = 0, []
    for _, audio in read_rows(order, longest=round(longest * SAMPLE_RATE)):
        try:
            if isinstance(audio, AudioError):
                raise audio
            found.append(audio.beginning(round(longest * SAMPLE_RATE)) if isinstance(audio, Recording) else audio)
        except AudioError:
            continue
        taken += len(found[-1])
        if taken >= seconds * SAMPLE_RATE:
            break
    return found


def load_sources(sources: Iterable[str | Path]) -> list[list[Row]]:
    """The rows of each of several sources, named together. See `Corpus.load`."""
    drafts = [_drafts(os.fspath(one)) for one in sources]
    if not drafts:
        raise CorpusError("no source given; name an audio file, a folder or a manifest")
    drafts = _once(drafts)
    rows = iter(_name([d for part in drafts for d in part]))
    return [list(itertools.islice(rows, len(part))) for part in drafts]


def _once(sources: list[list[_Draft]]) -> list[list[_Draft]]:
    """The same without the files that were found by a link, and also by fewer."""
    found = [d for drafts in sources for d in drafts if d.links is not None]
    if not any(d.links for d in found):
        return sources
    real = {d.fields["path"]: os.path.realpath(d.fields["path"]) for d in found}
    fewest: dict[str, int] = {}
    for d in sorted(found, key=lambda d: -(d.links or 0)):
        fewest[real[d.fields["path"]]] = d.links or 0
    return [[d for d in drafts if d.links is None or d.links == fewest[real[d.fields["path"]]]] for drafts in sources]


@dataclass(slots=True)
class _Draft:
    """A row whose id may have to be found, and the folder that its path is told from.

    Attributes: links: of what was searched for, whether links lead to it: 1 of a folder within, 2 its own, 4 the source, added up. None:
        it was named.
    """

    fields: dict[str, Any]
    root: str
    links: int | None = None


def _drafts(source: str) -> list[_Draft]:
    """The rows of one source, at least one."""
    if "\0" in source:
        raise CorpusError(f"{source!r}: a path holds no NUL")
    suffix = os.path.splitext(source)[1].lower()
    if os.path.isdir(source):
        drafts = _decoded(source, _walk(source))
    elif glob.has_magic(source) and not os.path.exists(source):
        fixed = os.path.dirname(source[: min(source.find(c) for c in "*?[" if c in source)])
        found = sorted(_expand(source))
        media = [path for path in found if path.lower().endswith(AUDIO + OTHER_MEDIA) and not os.path.isdir(path)]
        drafts = _decoded(source, [_Draft({"path": path}, fixed, 2 * os.path.islink(path)) for path in media])
    elif suffix in AUDIO:
        drafts = [_Draft({"path": source}, os.path.dirname(source))]
    elif not os.path.exists(source):
        raise CorpusError(f"{source}: no such file or folder")
    elif suffix in MANIFESTS:
        drafts = _manifest(source, suffix)
    elif suffix in OTHER_MEDIA:
        raise CorpusError(f"{source}: {suffix} cannot be decoded; convert it to wav or flac with ffmpeg")
    else:
        raise CorpusError(f"{source}: neither audio ({', '.join(AUDIO)}) nor a manifest ({', '.join(MANIFESTS)})")
    if not drafts:
        raise CorpusError(f"{source}: no audio there; audio files end in {', '.join(AUDIO)}")
    return drafts


def _decoded(source: str, drafts: list[_Draft]) -> list[_Draft]:
    """Those that can be decoded; of the others one line says what to do. Raises CorpusError when there are no others."""
    other = [d.fields["path"] for d in drafts if not d.fields["path"].lower().endswith(AUDIO)]
    if other:
        suffixes = _some(sorted({os.path.splitext(path)[1].lower() for path in other}))
        what = f"{len(other)} audio or video {'file is' if len(other) == 1 else 'files are'} passed over, such as {other[0]}"
        line = f"{source}: {what}; {suffixes} cannot be decoded, convert to wav or flac with ffmpeg"
        if len(other) == len(drafts):
            raise CorpusError(line)
        warnings.warn(line, stacklevel=1)
    return [d for d in drafts if d.fields["path"].lower().endswith(AUDIO)]


def _walk(folder: str) -> list[_Draft]:
    """All media files below a folder, sorted."""
    named = 4 * os.path.islink(folder.rstrip(os.sep))
    drafts = [
        _Draft({"path": path}, folder, named + link + 2 * os.path.islink(path))
        for here, names, link in _folders(folder)
        for name in names
        if name.lower().endswith(AUDIO + OTHER_MEDIA) and not name.startswith(".")
        for path in [os.path.join(here, name)]
    ]
    return sorted(drafts, key=lambda d: d.fields["path"])


def _folders(top: str) -> Iterator[tuple[str, list[str], bool]]:
    """Every folder below one, links followed, with its files and whether a link led there.

    Each is entered once, by its own path where it has one: links that lead back up make a tree without end.
    """
    seen: set[tuple[int, int]] = set()
    tops, link = [top], False
    while tops:
        links: list[str] = []
        for start in tops:
            for here, folders, names in os.walk(start, onerror=_unreadable):
                with contextlib.suppress(OSError):
                    status = os.stat(here)
                    if (status.st_dev, status.st_ino) in seen:
                        folders.clear()
                        continue
                    seen.add((status.st_dev, status.st_ino))
                links += [path for name in folders if os.path.islink(path := os.path.join(here, name))]
                yield here, names, link
        tops, link = sorted(links), True


def _unreadable(e: OSError) -> None:
    warnings.warn(f"{e.filename}: cannot be read ({e.strerror}); its audio is left out", stacklevel=1)


def _expand(pattern: str) -> set[str]:
    """What a glob matches. `**` enters each folder once, where that of the library follows links that lead back up."""
    before, stars, after = re.match(r"(.*?)(?:(?<![^/])(\*\*)(?:/+|$)(.*))?$", pattern, re.DOTALL).groups()  # type: ignore[union-attr]
    if not stars:
        return set(glob.glob(pattern))
    tops = glob.glob(before) if before else [os.curdir]
    below = [
        here for top in tops if os.path.isdir(top) for here, _, _ in _folders(top) if not _hidden(here[len(top) :])
    ]
    return {path for here in below for path in _expand(os.path.join(glob.escape(here), after or "*"))}


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split(os.sep))


def _manifest(source: str, suffix: str) -> list[_Draft]:
    read = {".tsv": _tsv, ".csv": _table, ".jsonl": _jsonl, ".parquet": _parquet}[suffix]
    root, records = read(source)
    folder = os.path.join(os.path.dirname(source), root)
    return [_draft(record, folder, f"{source}:{n}") for n, record in records]


# A manifest's reader gives the folder that its paths start at, as seen from its own, and its records, each with its line.
Records = tuple[str, list[tuple[int, Any]]]


def _tsv(source: str) -> Records:
    """With a header, or fairseq's, whose first line is a folder and each of the others a path, a tab and a number."""
    first, *rest = _lines(source, UNDECODED) or [""]
    lines = [(n, line.rstrip("\n").split("\t")) for n, line in enumerate(rest, 2) if line.strip()]
    # a header of a single column looks like a folder until the next line
    if "\t" in first or (first.strip() in PATH_COLUMNS and all(len(fields) == 1 for _, fields in lines)):
        return _table(source)
    for n, fields in lines:
        if len(fields) != 2 or not fields[1].strip().isdecimal():
            raise CorpusError(
                f"{source}:{n}: expected `relative/path<TAB>samples`, as line 1 is not a header with a column named "
                f"{', '.join(PATH_COLUMNS)}; correct the line or the header"
            )
    folder, paths = os.path.join(os.path.dirname(source), first.strip()), [fields[0] for _, fields in lines]
    with ThreadPool() as pool:
        whole = zip(
            (os.path.join(folder, path) for path in paths), (fields[1].strip() for _, fields in lines), strict=True
        )
        samples = pool.starmap(_whole, whole, chunksize=256)
    if stale := [
        (n, path, why) for (n, _), path, why in zip(lines, paths, samples, strict=True) if isinstance(why, str)
    ]:
        n, path, why = stale[0]
        more = f" ({len(stale)} such lines)" if len(stale) > 1 else ""
        raise CorpusError(f"{source}:{n}: {path} {why}{more}; the manifest is of other files: write it again")
    return first.strip(), [
        (n, {"path": path, "samples": there}) for (n, _), path, there in zip(lines, paths, samples, strict=True)
    ]


def _whole(path: str, counted: str) -> int | str:
    """Samples at 16 kHz of a file of which fairseq counted so many at its own rate, or in which way they are others.

    Where the file cannot be opened they are taken as they are, and its row fails when it is read.
    """
    count = int(counted[:18])  # of more digits Python may read none
    try:
        frames, rate, samples = audio_lengths(path)
    except AudioError:
        return count
    if abs(count - frames) > (MP3_PADDING if path.lower().endswith(".mp3") else 0):
        return f"has {frames} samples at {rate} Hz, not {count}"
    return count if rate == SAMPLE_RATE else samples


def _table(source: str, errors: str = UNDECODED) -> Records:
    """A .csv, or a .tsv, which knows no quotes, with a header."""
    form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if source.lower().endswith(".tsv") else {}
    reader = csv.DictReader(_lines(source, errors), **form)
    try:
        rows: list[tuple[int, Any]] = [(reader.line_num, row) for row in reader]
    except csv.Error as e:
        raise CorpusError(f"{source}:{reader.line_num + 1}: cannot be read ({e}); correct the line") from None
    for n, row in rows:
        if None in row or None in row.values():
            raise CorpusError(
                f"{source}:{n}: does not have the {len(reader.fieldnames or [])} fields of the header; correct the line"
            )
    return "", rows


def _jsonl(source: str) -> Records:
    rows = []
    for n, line in enumerate(_lines(source, UNDECODED), 1):
        try:
            if line.strip():
                rows.append((n, json.loads(line)))
        except (ValueError, RecursionError) as e:
            raise CorpusError(f"{source}:{n}: not JSON ({e}); correct the line") from None
    return "", rows


def _parquet(source: str) -> Records:
    import pyarrow
    import pyarrow.parquet

    try:
        with open(source, "rb") as f:  # a path may be any bytes, which pyarrow does not take
            file = pyarrow.parquet.ParquetFile(f)
            rows = file.read([name for name in file.schema_arrow.names if name in COLUMNS]).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise CorpusError(f"{source}: not a parquet file that can be read ({str(e).splitlines()[0]})") from None
    return "", list(enumerate(rows, 1))


def _lines(source: str, errors: str) -> list[str]:
    try:
        with open(source, encoding="utf-8-sig", errors=errors) as f:
            lines = f.readlines()
    except (OSError, UnicodeDecodeError) as e:
        raise CorpusError(f"{source}: cannot be read as text ({e})") from None
    if any("\0" in line for line in lines):
        raise CorpusError(f"{source}: cannot be read as text (it holds NUL bytes); save it as UTF-8")
    return lines


def _draft(record: Any, folder: str, place: str) -> _Draft:
    """A manifest's record as the fields of a Row; `place` says where it stands."""
    if not isinstance(record, dict):
        raise CorpusError(f"{place}: expected an object with a path and more, not {str(record)[:40]!r}")
    known = {
        k: v for k, v in record.items() if v is not None and v != "" and v == v
    }  # v != v: a gap that pandas made NaN
    path = next((known[name] for name in PATH_COLUMNS if name in known), None)
    if not isinstance(path, str):
        raise CorpusError(f"{place}: no path; name the audio file under one of {', '.join(PATH_COLUMNS)}")
    fields: dict[str, Any] = {"path": os.path.join(folder, path)}
    try:
        if b"\0" in os.fsencode(path):
            raise ValueError
    except ValueError:
        raise CorpusError(f"{place}: no file can have the path {path!r}; correct the line") from None
    try:
        if "offset" in known:
            if not str(known["offset"]).isdecimal():  # 12.0 may well be seconds
                raise ValueError
            fields["offset"] = int(known["offset"])
        if "samples" in known or "duration" in known:
            samples = float(known["samples"]) if "samples" in known else round(float(known["duration"]) * SAMPLE_RATE)
            if samples < 0 or samples != int(samples):
                raise ValueError
            fields["samples"] = int(samples)
    except (TypeError, ValueError, OverflowError):
        raise CorpusError(
            f"{place}: offset and samples are whole numbers of samples at 16 kHz, duration is in seconds"
        ) from None
    fields |= {name: str(known[name]) for name in ("id", "speaker", "split") if name in known}
    if wrong := [
        name for name in ("id", "speaker", "split") if (value := fields.get(name)) and encodable(value) != value
    ]:
        raise CorpusError(
            f"{place}: {wrong[0]} {fields[wrong[0]]!r} is not UTF-8; save the manifest as UTF-8 (paths may be any bytes)"
        )
    return _Draft(fields, folder)


def _name(drafts: list[_Draft]) -> list[Row]:
    """Rows with absolute paths; those without an id by stem, or all of these by path where two stems are alike."""
    unnamed = [d for d in drafts if "id" not in d.fields]
    stems = [plain(_stem(d.fields["path"])) for d in unnamed]
    alike = len(set(stems)) < len(unnamed)
    for draft in drafts:
        draft.fields["path"] = os.path.abspath(draft.fields["path"])
    root = os.path.commonpath([os.path.abspath(d.root) for d in unnamed]) if alike else ""
    for draft, stem in zip(unnamed, stems, strict=True):
        path = draft.fields["path"]
        draft.fields["id"] = Path(os.path.relpath(os.path.splitext(path)[0], root)).as_posix() if alike else stem
    return [Row(**d.fields) for d in drafts]


def _join(rows: list[Row], splits: Path) -> list[Row]:
    """Rows with the split and speaker that a table gives by id, else by stem."""
    table: dict[str, dict[str, str]] = {}
    for n, record in _table(str(splits), errors="strict")[1]:
        if not {"id", "split"} <= record.keys():
            raise CorpusError(f"{splits}: the header must name the columns id and split, not {', '.join(record)}")
        found = {name: plain(record[name]) for name in ("split", "speaker") if record.get(name)}
        if table.setdefault(plain(record["id"]), found) != found:
            raise CorpusError(f"{splits}:{n}: id {record['id']!r} stands twice and differs; drop one of the lines")
    joined = [replace(r, **table.get(r.id) or table.get(plain(_stem(r.path))) or {}) for r in rows]
    if not any(r.id in table or plain(_stem(r.path)) in table for r in rows):
        raise CorpusError(
            f"{splits}: has none of the ids of the corpus, such as {rows[0].id!r}; check that they belong together"
        )
    return joined


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _place(row: Row) -> str:
    return f"{row.path} at sample {row.offset}" if row.offset or row.samples else row.path


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
