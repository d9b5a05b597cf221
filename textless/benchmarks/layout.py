"""Files of benchmarks: which recordings a folder has, names that mean the same recording, and gold tables."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from textless.audio.io import AUDIO
from textless.errors import CorpusError
from textless.names import plain

T = TypeVar("T")


def audio_files(folder: Path) -> list[str]:
    """Paths of all audio files below a folder, from there on and without suffix, sorted. Raises CorpusError."""
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder")
    out = []
    for place, _, files in os.walk(folder, followlinks=True):
        inside = Path(place).relative_to(folder)
        out += [plain((inside / f).with_suffix("").as_posix()) for f in files if Path(f).suffix.lower() in AUDIO]
    return sorted(out)


def matched(wanted: Iterable[str], there: Mapping[str, T]) -> dict[str, T]:
    """What is there of each name that is wanted.

    It is there under the same path; or under the same file name and a path that has fewer folders in the same order, or
    more. A name that could be several recordings is none of them: `sample_1_0` alone may be of any task.
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in there:
        by_stem[PurePosixPath(name).name].append(name)
    chosen: dict[str, str] = {}
    for name in wanted:
        same = [name] if name in there else by_stem.get(PurePosixPath(name).name, ())
        if len(candidates := [other for other in same if _within(name, other) or _within(other, name)]) == 1:
            chosen[name] = candidates[0]
    uses = Counter(chosen.values())
    return {name: there[other] for name, other in chosen.items() if uses[other] == 1}


def _within(path: str, longer: str) -> bool:
    """Whether all parts of a path come in another, in order."""
    parts = iter(PurePosixPath(longer).parts)
    return all(part in parts for part in PurePosixPath(path).parts)


def read_table(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a .csv with a header. Raises CorpusError for a missing file or column, or a short line; it names it."""
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; a split whose gold table is not public cannot be scored here")
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            reader = csv.DictReader(f)
            header = reader.fieldnames or []
            if missing := [c for c in required if c not in header]:
                raise CorpusError(
                    f"{path}: column {', '.join(missing)} is missing; it has {', '.join(header)[:200] or 'none'}. "
                    "Is it the table of another benchmark or version?"
                )
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise CorpusError(f"{path}: cannot be read as a table ({e})") from None
    if not rows:
        raise CorpusError(f"{path}: holds no row")
    for n, row in enumerate(rows, 2):
        if any(row[c] is None for c in required):
            raise CorpusError(f"{path}, line {n}: has fewer fields than the header; correct the line")
    return rows


def csv_text(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The text of a .csv."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()
