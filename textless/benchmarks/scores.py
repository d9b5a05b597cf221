"""Scores of recordings: by a language model, or from the files of another tool; and their submission files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from textless.benchmarks.layout import matched
from textless.errors import CorpusError
from textless.metrics.lm import Scorer, log_likelihoods
from textless.names import plain
from textless.units.dump import UnitRow

Scores = dict[str, dict[str, float]]  # {"mean" or "sum": {recording: log-likelihood}}
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
TABLES = (".txt", ".csv", ".tsv")
NAMES = ("name", "file", "filename", "file_name", "id", "audio")  # a header's names for the recording


def model_scores(lm: Scorer, rows: Iterable[UnitRow], wanted: Sequence[str]) -> tuple[Scores, list[UnitRow]]:
    """Log-likelihood of each recording that is wanted, in nats: of all its units and `</s>`, and a token of these.

    Args:
        rows: units whose id, or else whose source, is the recording's path from the benchmark's folder, or its end.

    Returns:
        the scores, and the rows that were scored.

    Raises:
        CorpusError: recordings without units; it names one.
    """
    there: dict[str, UnitRow] = {}
    rows = list(rows)
    for row in rows:
        there[row.id] = row
    for row in rows:
        if row.source:
            there.setdefault(PurePosixPath(row.source).with_suffix("").as_posix(), row)
    by_id = matched(wanted, {row.id: row for row in rows})
    chosen = matched(wanted, there) | by_id
    if missing := [name for name in wanted if name not in chosen]:
        raise CorpusError(
            f"{len(missing)} of {len(wanted)} recordings have no units, such as {missing[0]}; "
            "encode the whole folder of the benchmark, and give units whose ids are its file names"
        )
    used = [chosen[name] for name in wanted]
    totals, means = log_likelihoods(lm, [row.units for row in used])
    scores = {"mean": means, "sum": totals}
    return {kind: dict(zip(wanted, values.tolist(), strict=True)) for kind, values in scores.items()}, used


def read_scores(path: Path, place: str | None = None, name: str = "") -> dict[str, float]:
    """Scores of another tool: {recording, as a path without suffix: score}; the larger is likelier.

    Args:
        path: a file of lines `NAME SCORE`; or a .csv or .tsv of two columns, or with a header that names `score`; or a
            folder of these, whose path from there on, without suffix, comes before the names: `TASK.csv`.
        place: where a submission has its file; a folder that has it is read no further.
        name: of the benchmark. A file of this name in a folder comes before no names.

    Raises:
        CorpusError: no score, a line that is none, a name that comes twice, NaN. Names file and line.
    """
    if not path.exists():
        raise CorpusError(f"{path}: no such file or folder of scores")
    if path.is_file():
        return _read_file(path, "")
    if place and (path / place).is_file():
        return _read_file(path / place, "")
    out: dict[str, float] = {}
    for file in sorted(f for f in path.rglob("*") if f.suffix.lower() in TABLES):
        inside = file.relative_to(path).with_suffix("")
        for recording, score in _read_file(file, "" if inside.name == name else f"{inside.as_posix()}/").items():
            if recording in out:
                raise CorpusError(f"{file}: {recording} has a score in another file of {path} too; keep one")
            out[recording] = score
    if not out:
        raise CorpusError(f"{path}: holds no .txt, .csv or .tsv file of scores")
    return out


def _read_file(path: Path, above: str) -> dict[str, float]:
    out: dict[str, float] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            first = f.readline()
            f.seek(0)
            cells = csv.reader(f, delimiter="," if "," in first else "\t") if "," in first or "\t" in first else None
            rows = [*cells] if cells else [line.split() for line in f]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise CorpusError(f"{path}: cannot be read as scores ({e})") from None
    columns = _columns(rows[0]) if rows else None
    for n, row in enumerate(rows, 1):
        if not row or (n == 1 and columns):
            continue
        try:
            name, text = (row[c] for c in columns) if columns else row
            value = float(text)
        except (ValueError, IndexError):
            if n == 1 and len(row) == 2:
                continue  # a header
            raise CorpusError(f"{path}, line {n}: expected a name and a score, not {' '.join(row)[:60]!r}") from None
        if math.isnan(value):
            raise CorpusError(f"{path}, line {n}: the score of {name} is NaN; the model that gave it failed on it")
        name = plain(above + (name[: -len(end)] if (end := PurePosixPath(name).suffix).lower() in SUFFIXES else name))
        if name in out:
            raise CorpusError(f"{path}, line {n}: {name} comes twice; each recording has one score")
        out[name] = value
    if not out:
        raise CorpusError(f"{path}: holds no score")
    return out


def _columns(header: Sequence[str]) -> tuple[int, int] | None:
    """Where a header has the recording and its score; None: it is no header that names them."""
    names = [cell.strip().lower() for cell in header]
    recording = next((names.index(name) for name in NAMES if name in names), None)
    return None if recording is None or "score" not in names else (recording, names.index("score"))


def given_scores(
    scores: Mapping[str, float], wanted: Sequence[str], where: Path | None, known: Sequence[str] | None = None
) -> dict[str, float]:
    """The score of each recording that is wanted.

    Args:
        known: all recordings of the split. Scores of others are an error, as in ZeroSpeech's validation; None: scores
            of others are not read.

    Raises:
        CorpusError: recordings without a score, or others; it names one.
    """
    chosen = matched(wanted, scores)
    if missing := [name for name in wanted if name not in chosen]:
        raise CorpusError(
            f"{where}: {len(missing)} of {len(wanted)} recordings have no score, such as {missing[0]}; "
            "each recording of the split needs one"
        )
    if known is not None and (extra := sorted(set(scores) - set(matched(scores, dict.fromkeys(known))))):
        raise CorpusError(
            f"{where}: {len(extra)} scores are of recordings that the split does not have, such as {extra[0]}; "
            "is it another split?"
        )
    return chosen


def score_lines(scores: Mapping[str, float]) -> str:
    """A submission file of ZeroSpeech: lines `NAME SCORE`, the file name without suffix."""
    return "".join(f"{PurePosixPath(n).name} {np.format_float_positional(value)}\n" for n, value in scores.items())
