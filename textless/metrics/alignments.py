"""Alignments: which phone is spoken when, read from a table, and which frames that is."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path

from textless.errors import CorpusError
from textless.metrics.labels import read_labels
from textless.names import plain

Alignment = list[tuple[float, float, str]]  # (start, end, phone), in seconds
LATEST = 1e9  # seconds; no recording is so long


def read_alignments(path: Path | str) -> dict[str, Alignment]:
    """Read phones with times: {id: [(start, end, phone)]}, in seconds.

    Args:
        path: a tsv with columns id, start, end (seconds), phone; a CTM; a TextGrid, labels of Audacity or a .phn of
            TIMIT, whose id is the file's stem; an alignment of DiscoPhon or ZeroSpeech 2017, whose lines are file,
            onset, offset, phone; or a folder of these (`read_labels`).

    Raises:
        CorpusError: a file is malformed; it names the line.
    """
    if (labels := read_labels(path, "phones")) is not None:
        return labels
    out: dict[str, Alignment] = defaultdict(list)
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            rows = csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
            if missing := {"id", "start", "end", "phone"} - set(rows.fieldnames or ()):
                raise CorpusError(
                    f"{path}: column {', '.join(sorted(missing))} is missing; an alignment has id, start, end, phone"
                )
            for row in rows:
                try:
                    start, end = seconds(row["start"]), seconds(row["end"])
                    if not 0 <= start <= end:
                        raise ValueError
                    out[plain(row["id"])].append((start, end, row["phone"]))
                except (AttributeError, TypeError, ValueError):  # AttributeError: a line without an id
                    raise CorpusError(
                        f"{path}, line {rows.line_num}: start and end must be seconds from 0 on, the start first; "
                        "correct the line"
                    ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise CorpusError(f"{path}: cannot be read as an alignment ({e})") from None
    return dict(out)


def frame_phones(alignment: Alignment, frames: int, *, frame_rate: float, window: float = 0.025) -> list[str | None]:
    """Phone at the middle of each frame's window, None where there is none."""
    out: list[str | None] = [None] * frames
    for start, end, phone in alignment:
        first, last = frame_span(start, end, frames, frame_rate=frame_rate, window=window)
        out[first:last] = [phone] * max(0, last - first)
    return out


def frame_span(
    onset: float, offset: float, frames: int, *, frame_rate: float, window: float = 0.025
) -> tuple[int, int]:
    """First and last frame (exclusive) whose window has its middle between `onset` and `offset`, of so many frames.

    The window of frame t is `window` seconds long from t / frame_rate on: its middle is at
    t / frame_rate + window / 2.
    """
    first, last = (math.ceil((t - window / 2) * frame_rate - 1e-9) for t in (onset, offset))
    return max(0, first), min(frames, last)


def seconds(text: str) -> float:
    """A time in a file. Raises ValueError when it is no number, NaN, or later than any recording."""
    value = float(text)
    if not abs(value) < LATEST:
        raise ValueError(f"{text} is no time")
    return value
