"""Manifests: tables of audio files, in the forms that other tools write."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Any

from textless.audio.io import MP3_PADDING, SAMPLE_RATE, audio_lengths
from textless.errors import AudioError, CorpusError
from textless.names import encodable

MANIFESTS = (".tsv", ".csv", ".jsonl", ".parquet")
PATH_COLUMNS = ("audio", "path", "file", "file_name")
COLUMNS = (*PATH_COLUMNS, "id", "offset", "samples", "duration", "speaker", "split")
UNDECODED = "surrogateescape"  # how Python keeps the bytes of a path that are not UTF-8


@dataclass(slots=True)
class Draft:
    """The fields of a Row, perhaps without an id, and the folder that its path is relative to.

    Attributes:
        links: of a file found by a search, the links that lead to it, as a sum: 1 for a folder within the source, 2 for
            the file, 4 for the source. None for a file that was named.
    """

    fields: dict[str, Any]
    root: str
    links: int | None = None


def read_manifest(source: str, suffix: str) -> list[Draft]:
    """The rows of a manifest. Raises CorpusError, naming the line, when it is malformed."""
    read = {".tsv": _tsv, ".csv": read_table, ".jsonl": _jsonl, ".parquet": _parquet}[suffix]
    root, records = read(source)
    folder = os.path.join(os.path.dirname(source), root)
    return [_draft(record, folder, f"{source}:{n}") for n, record in records]


# A manifest's root folder, relative to the manifest, and its records, each with its line.
Records = tuple[str, list[tuple[int, Any]]]


def _tsv(source: str) -> Records:
    """With a header, or fairseq's: a line with the root folder, then lines of a path, a tab and a number."""
    first, *rest = _lines(source, UNDECODED) or [""]
    lines = [(n, line.rstrip("\n").split("\t")) for n, line in enumerate(rest, 2) if line.strip()]
    # a header of a single column looks like a folder until the next line
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
    reader = csv.DictReader(_lines(source, errors), **form)
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
        with open(source, "rb") as f:  # a path may be any bytes, which pyarrow does not accept
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


def _draft(record: Any, folder: str, place: str) -> Draft:
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
    if wrong := [
        name for name in ("id", "speaker", "split") if (value := fields.get(name)) and encodable(value) != value
    ]:
        raise CorpusError(
            f"{place}: {wrong[0]} {fields[wrong[0]]!r} is not UTF-8; "
            "save the manifest as UTF-8 (paths may be any bytes)"
        )
    return Draft(fields, folder)
