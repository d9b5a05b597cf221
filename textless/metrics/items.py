"""Items of an ABX test: stretches of speech, each of them a phone between two others, by one speaker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from textless.errors import CorpusError
from textless.metrics.alignments import Alignment, seconds
from textless.names import plain

SILENCE = frozenset({"SIL", "sil", "sp", "spn"})
RULES = ("published", "window_centred")
WINDOW = 0.025  # seconds that a frame hears in the rule `window_centred`
ROUNDING = 1e-6  # of a frame
COLUMNS = ("file", "onset", "offset", "phone", "prev-phone", "next-phone", "speaker")


class Item(NamedTuple):
    """From `onset` to `offset` (seconds), `speaker` says `previous`, `phone` and `next` in `file`, or `phone` alone."""

    file: str
    onset: float
    offset: float
    phone: str
    previous: str
    next: str
    speaker: str


def read_items(path: Path | str) -> list[Item]:
    """Read an item file of ZeroSpeech.

    After a header each line is `#file onset offset #phone prev-phone next-phone speaker`. Times are in seconds; fields
    are separated by white space.

    Raises CorpusError that names the line.
    """
    items = []
    try:
        with open(path, encoding="utf-8-sig") as f:
            for n, line in enumerate(f, 1):
                if n == 1:
                    _check_header(line.split(), f"{path}, line 1")
                    continue
                if not (fields := line.split()):
                    continue
                if len(fields) != 7:
                    raise CorpusError(
                        f"{path}, line {n}: {len(fields)} fields; "
                        "an item has 7: file, onset, offset, phone, previous, next, speaker"
                    )
                items.append(Item(plain(fields[0]), *_times(fields[1], fields[2], f"{path}, line {n}"), *fields[3:]))
    except (OSError, UnicodeDecodeError) as e:
        raise CorpusError(f"{path}: cannot be read as an item file ({e})") from None
    if not items:
        raise CorpusError(f"{path}: holds no items; a header line is followed by one item a line")
    return items


def _check_header(header: list[str], where: str) -> None:
    """A first line that is an item would be lost, and columns in another order would be read as others."""
    names = [name.lstrip("#") for name in header]
    moved = any(name in COLUMNS and COLUMNS.index(name) != place for place, name in enumerate(names))
    if moved or (len(header) == len(COLUMNS) and not {*names} & {*COLUMNS}):
        raise CorpusError(
            f"{where}: {' '.join(header)[:80]!r} is not the header of an item file: #file onset offset #phone "
            "prev-phone next-phone speaker"
        )


def _times(onset: str, offset: str, where: str) -> tuple[float, float]:
    try:
        start, end = seconds(onset), seconds(offset)
    except ValueError:
        raise CorpusError(f"{where}: onset {onset!r} and offset {offset!r} must be numbers of seconds") from None
    if not 0 <= start < end:
        raise CorpusError(f"{where}: onset {onset} and offset {offset} are no stretch of time")
    return start, end


def items_of(alignments: Mapping[str, Alignment], speakers: Mapping[str, str | None]) -> list[Item]:
    """Triphones of aligned files, as in the item files of ZeroSpeech 2021.

    An item reaches from the start of the phone before to the end of the phone after, so that its context can be
    heard. Silence (`SIL`, `sil`, `sp`, `spn`) is neither the phone nor its context, and phones that do not touch are no
    context of each other: the first and last phone of a phrase are context only. Files without a speaker are left out.
    """
    items = []
    for file, phones in alignments.items():
        if (speaker := speakers.get(file)) is None:
            continue
        for before, middle, after in zip(phones, phones[1:], phones[2:], strict=False):
            touching = abs(before[1] - middle[0]) < 1e-3 and abs(middle[1] - after[0]) < 1e-3
            if touching and SILENCE.isdisjoint((before[2], middle[2], after[2])):
                items.append(Item(file, before[0], after[1], middle[2], before[2], after[2], speaker))
    return items


def item_span(
    onset: np.ndarray, offset: np.ndarray, frames: np.ndarray, *, frame_rate: float, rule: str = "published"
) -> tuple[np.ndarray, np.ndarray]:
    """First and last frame (exclusive) of items, each int64 of the shape of the arguments.

    Args:
        onset, offset: seconds.
        frames: of the item's file.
        frame_rate: frames a second.
        rule: `published`, that of Libri-light, ZeroSpeech and fastabx (`dataset.py`, item_frontiers): frame t is at
            (t + 1/2) / frame_rate, and the item has the frames from onset to offset, both included; or
            `window_centred`: frame t is at t / frame_rate + 12.5 ms, the middle of a window of 25 ms, and the offset is
            not included.
    """
    # Times are decimals: a product that is whole but for its rounding counts as whole.
    if rule == "published":
        first = np.ceil(onset * frame_rate - 0.5 - ROUNDING)
        last = np.floor(offset * frame_rate - 0.5 + ROUNDING) + 1
    else:
        first, last = (np.ceil((t - WINDOW / 2) * frame_rate - ROUNDING) for t in (onset, offset))
    return np.maximum(first, 0).astype(np.int64), np.minimum(last, frames).astype(np.int64)
