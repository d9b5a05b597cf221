"""Data folders of Kaldi: wav.scp, with segments and utt2spk next to it.

After kaldi-asr/kaldi, src/featbin/extract-segments.cc.
"""

from __future__ import annotations

import os
import re
import warnings
from multiprocessing.pool import ThreadPool

from textless.audio.io import SAMPLE_RATE, audio_samples
from textless.audio.manifests import UNDECODED, Draft, channel_of, draft_of, found, read_lines
from textless.errors import AudioError, CorpusError

OVERSHOOT = round(0.5 * SAMPLE_RATE)  # samples; a segment that ends later than this after its recording is dropped
SHORTEST = round(0.1 * SAMPLE_RATE)  # samples; segments of so many and fewer are dropped


def is_kaldi(source: str) -> bool:
    """Whether a folder is a data folder of Kaldi."""
    return os.path.isfile(os.path.join(source, "wav.scp"))


def read_kaldi(source: str) -> list[Draft]:
    """The utterances of a folder or of its wav.scp; without `segments` these are the recordings.

    Paths count from the working folder, as Kaldi has it, or from the file's. Raises CorpusError, naming file and line,
    for commands, which are never run, for archives, and for what is malformed.
    """
    folder = source if os.path.isdir(source) else os.path.dirname(source)
    scp = os.path.join(source, "wav.scp") if os.path.isdir(source) else source
    recordings: dict[str, str] = {}
    lines: dict[str, int] = {}
    for n, name, path in _table(scp):
        if path.endswith("|"):
            raise CorpusError(
                f"{scp}:{n}: {path[:80]!r} is a command, which is never run; write its sound to a file, and the file's "
                "path here"
            )
        if re.search(r"\.ark(:\d+)?$", path) or path == "-":
            raise CorpusError(f"{scp}:{n}: {path[:80]!r} is no audio file; archives of Kaldi are not read")
        recordings[name], lines[name] = found(path, os.curdir, folder), n
    speakers = {}
    if os.path.isfile(utt2spk := os.path.join(folder, "utt2spk")):
        speakers = {name: speaker for _, name, speaker in _table(utt2spk)}
    if os.path.isfile(segments := os.path.join(folder, "segments")):
        return _segments(segments, recordings, speakers, folder)
    return [
        draft_of({"id": name, "path": path, "speaker": speakers.get(name)}, folder, f"{scp}:{lines[name]}")
        for name, path in recordings.items()
    ]


def _segments(source: str, recordings: dict[str, str], speakers: dict[str, str], folder: str) -> list[Draft]:
    rows = []
    for n, name, rest in _table(source):
        fields = rest.split()
        if len(fields) not in (3, 4) or fields[0] not in recordings:
            why = "is not a recording of wav.scp" if fields and fields[0] not in recordings else "has no start and end"
            raise CorpusError(f"{source}:{n}: {fields[0][:80] if fields else name!r} {why}; correct the line")
        try:
            start, end = (float(t) for t in fields[1:3])
            if not (0 <= start < 1e9 and (end == -1 or start < end < 1e9)):
                raise ValueError
        except ValueError:
            raise CorpusError(
                f"{source}:{n}: {fields[1][:40]} to {fields[2][:40]} is no part of a recording, in seconds from 0; "
                "correct the line (-1: up to the end)"
            ) from None
        channel = None if len(fields) == 3 or fields[3] == "-1" else channel_of(fields[3], f"{source}:{n}")
        rows.append(
            (n, name, fields[0], round(start * SAMPLE_RATE), -1 if end == -1 else round(end * SAMPLE_RATE), channel)
        )
    used = list(dict.fromkeys(row[2] for row in rows))
    with ThreadPool() as pool:
        lengths = dict(zip(used, pool.map(_length, [recordings[name] for name in used], chunksize=64), strict=True))
    drafts, dropped = [], []
    for n, name, recording, start, end, channel in rows:
        length = lengths[recording]
        stop = end
        if length is not None:  # a file that cannot be read fails when it comes to it
            stop = length if end == -1 else min(end, length)
            if start >= length or end >= length + OVERSHOOT or stop - start <= SHORTEST:
                dropped.append(f"{source}:{n}")
                continue
        record = {"id": name, "path": recordings[recording], "offset": start, "speaker": speakers.get(name)}
        record |= {"channel": channel} | ({} if stop == -1 else {"samples": stop - start})
        drafts.append(draft_of(record, folder, f"{source}:{n}"))
    if dropped:
        warnings.warn(
            f"{source}: {len(dropped)} of {len(rows)} segments are left out, as Kaldi does: at most 0.1 s long, or "
            f"0.5 s beyond the recording; the first: {dropped[0]}",
            stacklevel=1,
        )
    return drafts


def _length(path: str) -> int | None:
    try:
        return audio_samples(path)
    except AudioError:
        return None


def _table(source: str) -> list[tuple[int, str, str]]:
    """Lines of a name, white space, and the rest. Raises CorpusError for a line without a rest, and for names twice."""
    rows: dict[str, tuple[int, str, str]] = {}
    for n, line in enumerate(read_lines(source, UNDECODED), 1):
        if not line.strip():
            continue
        name, *following = line.strip().split(None, 1)
        if not following:
            raise CorpusError(f"{source}:{n}: a line is a name and what belongs to it; {name[:80]!r} has nothing")
        if name in rows:
            raise CorpusError(f"{source}:{n}: duplicate {name[:80]!r}, as in line {rows[name][0]}; drop one of them")
        rows[name] = (n, name, following[0])
    return list(rows.values())
