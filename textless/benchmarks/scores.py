"""Scores of recordings: by a language model, or from the files of another tool; and their submission files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from textless.benchmarks.trees import matched
from textless.errors import CorpusError
from textless.metrics.lm import Scorer, log_likelihoods
from textless.names import plain
from textless.units.dump import UnitRow

Scores = dict[str, dict[str, float]]  # {"mean" or "sum": {recording: log-likelihood}}
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def model_scores(lm: Scorer, rows: Iterable[UnitRow], wanted: Sequence[str]) -> Scores:
    """Log-likelihood of each recording that is wanted, in nats: of all its units, and a unit.

    Args:
        rows: units whose id, or else whose source, is the recording's path from the benchmark's folder, or its end.

    Raises:
        CorpusError: recordings without units; it names one.
    """
    there: dict[str, UnitRow] = {}
    for row in rows:
        there[row.id] = row
        if row.source:
            there.setdefault(PurePosixPath(row.source).with_suffix("").as_posix(), row)
    chosen = matched(wanted, there)
    if missing := [name for name in wanted if name not in chosen]:
        raise CorpusError(
            f"{len(missing)} of {len(wanted)} recordings have no units, such as {missing[0]}; "
            "encode the whole folder of the benchmark, and give units whose ids are its file names"
        )
    totals, means = log_likelihoods(lm, [chosen[name].units for name in wanted])
    return {
        "mean": dict(zip(wanted, means.tolist(), strict=True)),
        "sum": dict(zip(wanted, totals.tolist(), strict=True)),
    }


def read_scores(path: Path) -> dict[str, float]:
    """Scores of another tool: {recording, as a path without suffix: score}; the larger is likelier.

    Args:
        path: a file of lines `NAME SCORE`, or a .csv or .tsv of two columns, with or without a header; or a folder of
            these, whose path from there on, without suffix, comes before the names: `lexical/dev.txt`, `TASK.csv`.

    Raises:
        CorpusError: no score, a line that is none, a name that comes twice, NaN. Names file and line.
    """
    if not path.exists():
        raise CorpusError(f"{path}: no such file or folder of scores")
    if path.is_file():
        return _read_file(path, "")
    out: dict[str, float] = {}
    for file in sorted(f for f in path.rglob("*") if f.suffix.lower() in (".txt", ".csv", ".tsv")):
        out |= _read_file(file, file.relative_to(path).with_suffix("").as_posix() + "/")
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
    for n, row in enumerate(rows, 1):
        if not row:
            continue
        try:
            name, text = row
            value = float(text)
        except ValueError:
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


def given_scores(scores: Mapping[str, float], wanted: Sequence[str], where: Path) -> dict[str, float]:
    """The score of each recording that is wanted. Raises CorpusError, naming one, where some have none."""
    chosen = matched(wanted, scores)
    if missing := [name for name in wanted if name not in chosen]:
        raise CorpusError(
            f"{where}: {len(missing)} of {len(wanted)} recordings have no score, such as {missing[0]}; "
            "each recording of the split needs one"
        )
    return chosen


def write_scores(path: Path, scores: Mapping[str, float]) -> None:
    """A submission file of ZeroSpeech: lines `NAME SCORE`, the file name without suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{PurePosixPath(name).name} {np.format_float_positional(value)}\n" for name, value in scores.items())
    path.write_text("".join(lines), encoding="utf-8")
