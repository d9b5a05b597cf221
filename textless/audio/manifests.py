"""Manifests: tables of audio files, in the forms that other tools write."""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections import Counter
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Any

from textless.audio.io import AUDIO, MEDIA, MP3_PADDING, SAMPLE_RATE, audio_lengths
from textless.errors import AudioError, CorpusError
from textless.names import encodable

MANIFESTS = (".tsv", ".csv", ".jsonl", ".json", ".jsonl.gz", ".scp", ".parquet", ".tar")
PATH_COLUMNS = ("audio", "path", "file", "file_name")
COLUMNS = (*PATH_COLUMNS, "id", "offset", "samples", "duration", "speaker", "split", "channel")
CHANNELS = {"left": 0, "right": 1, "mix": None}
NEMO = "audio_filepath"  # the column by which NeMo's manifests are known
UNDECODED = "surrogateescape"  # how Python keeps the bytes of a path that are not UTF-8


@dataclass(slots=True)
class Draft:
    """The fields of a Row, perhaps without an id, and the folder that its path is relative to.

    Attributes:
        links: of a file found by a search, the links that lead to it, as a sum: 1 for a folder within the source, 2 for
            the file, 4 for the source. None for a file that was named.
        ending: of the id that a row without one is given; tells parts of one file apart.
    """

    fields: dict[str, Any]
    root: str
    links: int | None = None
    ending: str = ""

    @property
    def file(self) -> str:
        """The audio file's path; that of a member is below the file that holds it."""
        member = self.fields.get("member")
        return self.fields["path"] if member is None else os.path.join(self.fields["path"], member.name)


def suffix_of(path: str) -> str:
    """Suffix in small letters; `.jsonl.gz` is one."""
    path = path.lower()
    return ".jsonl.gz" if path.endswith(".jsonl.gz") else os.path.splitext(path)[1]


def read_tabular(source: str) -> list[Draft]:
    """The rows of a .tsv, .csv or .parquet. Raises CorpusError, naming the line, when it is malformed."""
    root, records = {".tsv": _tsv, ".csv": read_table, ".parquet": _parquet}[suffix_of(source)](source)
    folder = os.path.join(os.path.dirname(source), root)
    return [draft_of(record, folder, f"{source}:{n}") for n, record in records]


def is_list(source: str) -> bool:
    """Whether the first line of a file that is not blank is a path of audio."""
    try:
        with open(source, "rb") as f:
            head = f.read(1 << 16)
    except OSError:
        return False
    first = next((line for line in head.splitlines() if line.strip()), b"")
    return b"\0" not in head and first.strip().lower().endswith(tuple(s.encode() for s in AUDIO + MEDIA))


def read_list(source: str) -> list[Draft]:
    """A path a line, from the list's folder or from the working folder."""
    lines = [line.rstrip("\n") for line in read_lines(source, UNDECODED)]
    for n, line in enumerate(lines, 1):
        if line.strip() and not line.strip().lower().endswith(AUDIO + MEDIA):
            raise CorpusError(f"{source}:{n}: {line.strip()[:80]!r} is no path of audio; a list has one path a line")
    folder = os.path.dirname(source)
    return [Draft({"path": found(line.strip(), folder, os.curdir)}, folder) for line in lines if line.strip()]


def found(path: str, *folders: str) -> str:
    """A path, made absolute, in the first of the folders that has it, else in the first of them."""
    paths = [os.path.join(folder, path) for folder in folders]
    return os.path.abspath(next((p for p in paths if "\0" not in p and os.path.exists(p)), paths[0]))


# A manifest's root folder, relative to the manifest, and its records, each with its line.
Records = tuple[str, list[tuple[int, Any]]]


def _tsv(source: str) -> Records:
    """With a header, or fairseq's: a line with the root folder, then lines of a path, a tab and a number."""
    first, *rest = read_lines(source, UNDECODED) or [""]
    lines = [(n, line.rstrip("\n").split("\t")) for n, line in enumerate(rest, 2) if line.strip()]
    # a header of a single column looks like a folder until the next line
    if {"client_id", "path"} <= set(first.strip("\r\n").split("\t")):
        return _common_voice(source, [first, *rest])
    if "\t" in first or (first.strip() in PATH_COLUMNS and all(len(fields) == 1 for _, fields in lines)):
        return read_table(source)
    for n, fields in lines:
        if len(fields) != 2 or not fields[1].strip().isdecimal():
            raise CorpusError(
                f"{source}:{n}: expected `relative/path<TAB>samples`, as line 1 is not a header with a column named "
                f"{', '.join(PATH_COLUMNS)}; correct the line or the header"
            )
    folder, paths = os.path.join(os.path.dirname(source), first.strip()), [fields[0] for _, fields in lines]
    with ThreadPool() as pool:
        counted = [
            (os.path.join(folder, path), fields[1].strip()) for path, (_, fields) in zip(paths, lines, strict=True)
        ]
        samples = pool.starmap(_whole, counted, chunksize=256)
    if stale := [
        (n, path, why) for (n, _), path, why in zip(lines, paths, samples, strict=True) if isinstance(why, str)
    ]:
        n, path, why = stale[0]
        more = f" ({len(stale)} such lines)" if len(stale) > 1 else ""
        raise CorpusError(f"{source}:{n}: {path} {why}{more}; the manifest is of other files: write it again")
    return first.strip(), [
        (n, {"path": path, "samples": count}) for (n, _), path, count in zip(lines, paths, samples, strict=True)
    ]


def _whole(path: str, counted: str) -> int | str:
    """Samples at 16 kHz of a file that has `counted` samples at its own rate, or a message when it has another number.

    A file that cannot be opened keeps the number, and its row fails when it is read.
    """
    count = int(counted[:18])  # Python refuses numbers of thousands of digits
    try:
        frames, rate, samples = audio_lengths(path)
    except AudioError:
        return count
    if abs(count - frames) > (MP3_PADDING if path.lower().endswith(".mp3") else 0):
        return f"has {frames} samples at {rate} Hz, not {count}"
    return count if rate == SAMPLE_RATE else samples


def read_table(source: str, errors: str = UNDECODED) -> Records:
    """A .csv, or a .tsv (without quoting), with a header."""
    form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if source.lower().endswith(".tsv") else {}
    reader = csv.DictReader(read_lines(source, errors), **form)
    try:
        names = reader.fieldnames or []
        if twice := sorted({name for name in names if names.count(name) > 1 and name in COLUMNS}):
            raise CorpusError(f"{source}:1: has the column {twice[0]!r} twice; drop one of them")
        rows: list[tuple[int, Any]] = [(reader.line_num, row) for row in reader]
    except csv.Error as e:
        raise CorpusError(f"{source}:{reader.line_num + 1}: cannot be read ({e}); correct the line") from None
    for n, row in rows:
        if None in row or None in row.values():
            raise CorpusError(
                f"{source}:{n}: does not have the {len(reader.fieldnames or [])} fields of the header; correct the line"
            )
    return "", rows


def _common_voice(source: str, lines: list[str]) -> Records:
    """Common Voice: `path` is a name in the folder `clips`, `client_id` the speaker, and the file's name the split.

    Some releases quote sentences, others leave bare quotation marks; a line that has the fields of the header is taken
    as it is, and only others are read as quoted.
    """
    header = lines[0].rstrip("\n").split("\t")
    name = os.path.splitext(os.path.basename(source))[0]
    split = name if name in ("train", "dev", "test") else None
    rows: list[tuple[int, Any]] = []
    n = 1
    while n < len(lines):
        first, fields = n + 1, lines[n].rstrip("\n").split("\t")
        text = lines[n]
        n += 1
        if not text.strip():
            continue
        if len(fields) != len(header):
            fields = _quoted(text, len(header))
            for more in range(4):  # a sentence of several lines
                if fields or n + more >= len(lines):
                    break
                text += lines[n + more]
                if fields := _quoted(text, len(header)):
                    n += more + 1
        if not fields:
            raise CorpusError(
                f"{source}:{first}: does not have the {len(header)} fields of the header; correct the line"
            )
        record = dict(zip(header, fields, strict=True))
        rows.append((first, {"path": record["path"], "speaker": record["client_id"], "split": split}))
    folder = os.path.dirname(source)
    if (
        not rows
        or not os.path.isdir(os.path.join(folder, "clips"))
        or os.path.exists(os.path.join(folder, rows[0][1]["path"]))
    ):
        return "", rows
    for _, record in rows:
        if not os.path.splitext(record["path"])[1]:  # the first releases
            record["path"] += ".mp3"
    return "clips", rows


def _quoted(text: str, n: int) -> list[str]:
    """The fields of one record with quotation marks, [] unless there are `n`."""
    try:
        records = list(csv.reader(text.splitlines(keepends=True), delimiter="\t", strict=True))
    except csv.Error:
        return []
    return records[0] if len(records) == 1 and len(records[0]) == n else []


def read_records(source: str, records: list[tuple[int, Any]]) -> list[Draft]:
    """The rows of JSON lines, ours or NeMo's, as the first record says. Raises CorpusError that names the line."""
    if records and isinstance(records[0][1], dict) and NEMO in records[0][1]:
        return _nemo(source, records)
    folder = os.path.dirname(source)
    return [draft_of(record, folder, f"{source}:{n}") for n, record in records]


def _nemo(source: str, records: list[tuple[int, Any]]) -> list[Draft]:
    """NeMo: `offset` and `duration` are seconds; several rows may share a file, whose ids then have the times."""
    folder = os.path.dirname(source)
    drafts = []
    for n, record in records:
        drafts.append(nemo_draft(record, folder, f"{source}:{n}"))
    tell_apart(drafts)
    return drafts


def nemo_draft(record: Any, folder: str, place: str) -> Draft:
    """A row of NeMo, whose file is relative to `folder`, else to the working folder."""
    if not isinstance(record, dict) or not isinstance(record.get(NEMO), str):
        raise CorpusError(f"{place}: no path under {NEMO}; a row is of one file")
    fields: dict[str, Any] = {"path": found(os.path.expanduser(record[NEMO]), folder, os.curdir)}
    start, length = (seconds_of(record.get(name), place, name) for name in ("offset", "duration"))
    more = {name: record.get(name) for name in ("id", "speaker", "split", "channel")}
    return draft_of({**more, **fields, **span(start or 0.0, length)}, folder, place)


def span(start: float, length: float | None) -> dict[str, int]:
    """Seconds as `offset` and `samples` at 16 kHz; None: up to the end."""
    offset = round(start * SAMPLE_RATE)
    if length is None:
        return {"offset": offset}
    return {"offset": offset, "samples": max(1, round((start + length) * SAMPLE_RATE) - offset)}


def seconds_of(value: Any, place: str, name: str) -> float | None:
    """A time of a manifest. Raises CorpusError for what is none."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or not 0 <= (seconds := float(value)) < 1e9:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise CorpusError(f"{place}: {name} {str(value)[:40]!r} is no time in seconds; correct the line") from None
    return seconds


def tell_apart(drafts: list[Draft]) -> None:
    """Let the ids of rows that share a file end in their start and end in milliseconds."""
    count = Counter(d.file for d in drafts if "id" not in d.fields)
    for draft in drafts:
        if count[draft.file] > 1 and "id" not in draft.fields:
            start, samples = draft.fields.get("offset", 0), draft.fields.get("samples")
            ends = [start] + ([start + samples] if samples else [])
            draft.ending = "".join(f"-{round(end * 1000 / SAMPLE_RATE):08d}" for end in ends)


def read_json_lines(source: str) -> list[tuple[int, Any]]:
    """Numbered records of JSON lines, which may be gzipped. Raises CorpusError that names the line."""
    rows = []
    for n, line in enumerate(read_lines(source, UNDECODED), 1):
        try:
            if line.strip():
                rows.append((n, json.loads(line)))
        except (ValueError, RecursionError) as e:
            raise CorpusError(f"{source}:{n}: not JSON ({e}); correct the line") from None
    return rows


def _parquet(source: str) -> Records:
    import pyarrow
    import pyarrow.parquet

    try:
        with open(source, "rb") as f:  # a path may be any bytes, which pyarrow does not accept
            file = pyarrow.parquet.ParquetFile(f)
            rows = file.read([name for name in file.schema_arrow.names if name in COLUMNS]).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise CorpusError(f"{source}: not a parquet file that can be read ({str(e).splitlines()[0]})") from None
    return "", list(enumerate(rows, 1))


def read_lines(source: str, errors: str) -> list[str]:
    """The lines of a text file, which may be gzipped. Raises CorpusError when it is none."""
    try:
        if source.lower().endswith(".gz"):
            with gzip.open(source, "rt", encoding="utf-8-sig", errors=errors) as f:
                lines = f.readlines()
        else:
            with open(source, encoding="utf-8-sig", errors=errors) as f:
                lines = f.readlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
        raise CorpusError(f"{source}: cannot be read as text ({e})") from None
    if any("\0" in line for line in lines):
        raise CorpusError(f"{source}: cannot be read as text (it holds NUL bytes); save it as UTF-8")
    return lines


def draft_of(record: Any, folder: str, place: str) -> Draft:
    """A manifest's record as the fields of a Row; `place` is its file and line."""
    if not isinstance(record, dict):
        raise CorpusError(f"{place}: expected an object with a path and more, not {str(record)[:40]!r}")
    # v != v: a missing value that pandas wrote as NaN
    known = {k: v for k, v in record.items() if v is not None and v != "" and v == v}
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
        if any(isinstance(known.get(name), bool) for name in ("offset", "samples", "duration")):
            raise ValueError
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
    for name in ("id", "speaker", "split"):
        if name in known:
            value = known[name]
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # a column of numbers with a gap is of floats in pandas
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise CorpusError(f"{place}: {name} must be text, not {str(value)[:40]!r} ({type(value).__name__})")
            fields[name] = str(value)
    if "channel" in known and (channel := channel_of(known["channel"], place)) is not None:
        fields["channel"] = channel
    if wrong := [
        name for name in ("id", "speaker", "split") if (value := fields.get(name)) and encodable(value) != value
    ]:
        raise CorpusError(
            f"{place}: {wrong[0]} {fields[wrong[0]]!r} is not UTF-8; "
            "save the manifest as UTF-8 (paths may be any bytes)"
        )
    return Draft(fields, folder)


def channel_of(value: Any, place: str) -> int | None:
    """A channel: left, right, a number from 0, or mix (None). Raises CorpusError, naming `place`, for anything else."""
    text = str(value).strip().lower()
    if text in CHANNELS:
        return CHANNELS[text]
    try:
        number = float(text)
        if not 0 <= number < 1024 or number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise CorpusError(f"{place}: channel {text[:40]!r} is none of left, right, mix, and numbers from 0") from None
    return int(number)
