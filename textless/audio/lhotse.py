"""Manifests of lhotse: recordings, supervisions and cuts, as JSON lines. Times are seconds.

After lhotse-speech/lhotse, lhotse/audio/recording.py, lhotse/supervision.py, lhotse/cut/ and test/fixtures.
"""

from __future__ import annotations

import os
import re
from typing import Any

from textless.audio.io import SAMPLE_RATE
from textless.audio.manifests import Draft, draft_of, found, read_json_lines, seconds_of, span
from textless.errors import CorpusError

CUTS = ("MonoCut", "MultiCut", "Cut")
OTHER_CUTS = ("MixedCut", "PaddingCut")
SHAR = re.compile(r"cuts\.\d+\.jsonl(\.gz)?")


def is_lhotse(record: Any) -> bool:
    """Whether the first record of a file is one of lhotse's."""
    if not isinstance(record, dict):
        return False
    return (
        {"sources", "sampling_rate"} <= record.keys()
        or {"recording_id", "start", "duration"} <= record.keys()
        or record.get("type") in CUTS + OTHER_CUTS
    )


def find_lhotse(folder: str) -> list[str]:
    """The manifests of a folder that holds lhotse's: its cuts, else its supervisions, else its recordings; or those of
    Shar, `cuts.000000.jsonl.gz` and on."""
    for kind in ("cuts", "supervisions", "recordings"):
        for suffix in (".jsonl.gz", ".jsonl"):
            if os.path.isfile(path := os.path.join(folder, kind + suffix)):
                return [path]
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if SHAR.fullmatch(name)]


def read_lhotse(source: str, records: list[tuple[int, Any]]) -> list[Draft]:
    """A row for each cut, supervision or recording.

    The recordings of supervisions are in the file of the same name with `recordings` in it. Raises CorpusError, naming
    the line, for audio that is no file, for mixed cuts, and for what is malformed.
    """
    if "recording_id" in records[0][1]:
        return _supervisions(source, records)
    drafts = []
    for n, record in records:
        place = f"{source}:{n}"
        record = _object(record, place)
        if "sources" in record:
            drafts.append(_draft(source, place, record, {"id": record.get("id")}))
            continue
        if record.get("type") not in CUTS or "recording" not in record:
            raise CorpusError(
                f"{place}: {str(record.get('type'))[:40]} is no part of one recording; make it plain audio with lhotse "
                "(CutSet.save_audios)"
            )
        given = {"id": record.get("id"), "speaker": speaker_of(record)}
        drafts.append(_draft(source, place, _object(record["recording"], place), given, record))
    return drafts


def speaker_of(cut: dict[str, Any]) -> Any:
    """The speaker of all of its supervisions; None where they have several."""
    supervisions = cut.get("supervisions")
    speakers = [s.get("speaker") for s in supervisions if isinstance(s, dict)] if isinstance(supervisions, list) else []
    return speakers[0] if speakers and all(s == speakers[0] for s in speakers) else None


def _supervisions(source: str, records: list[tuple[int, Any]]) -> list[Draft]:
    name = os.path.basename(source)
    companions = [name.replace("supervisions", "recordings")] if "supervisions" in name else []
    companions += [c[:-3] if c.endswith(".gz") else f"{c}.gz" for c in companions]
    paths = [os.path.join(os.path.dirname(source), c) for c in companions]
    if not (companion := next((p for p in paths if os.path.isfile(p)), None)):
        where = companions[0] if companions else "a file of recordings"
        raise CorpusError(f"{source}: supervisions need their recordings next to them; {where} is not there")
    recordings = {}
    for n, record in read_json_lines(companion):
        record = _object(record, f"{companion}:{n}")
        recordings[str(record.get("id"))] = record
    drafts = []
    for n, record in records:
        place = f"{source}:{n}"
        record = _object(record, place)
        if (recording := recordings.get(str(record.get("recording_id")))) is None:
            raise CorpusError(f"{place}: {str(record.get('recording_id'))[:80]!r} is not a recording of {companion}")
        drafts.append(_draft(source, place, recording, {k: record.get(k) for k in ("id", "speaker")}, record))
    return drafts


def _draft(
    source: str, place: str, recording: dict[str, Any], given: dict[str, Any], part: dict[str, Any] | None = None
) -> Draft:
    """The row of a recording, or of a part of it that has `start`, `duration` and perhaps `channel`."""
    if not given.get("id"):
        raise CorpusError(f"{place}: has no id; correct the line")
    path, channel = _file(place, recording, None if part is None else part.get("channel"))
    folder = os.path.dirname(source)
    record = {**given, "path": found(path, os.curdir, folder), "channel": channel}
    if part is not None:
        start, length = (seconds_of(part.get(name), place, name) for name in ("start", "duration"))
        if start is None or length is None:
            raise CorpusError(f"{place}: has no start and duration, in seconds; correct the line")
        whole = seconds_of(recording.get("duration"), place, "duration of the recording")
        times = span(start, length)
        if whole is not None and start < whole < start + length and start + length - whole < 0.5:
            times["samples"] = max(1, round(whole * SAMPLE_RATE) - times["offset"])
        record |= times
    return draft_of(record, folder, place)


def _file(place: str, recording: dict[str, Any], wanted: Any) -> tuple[str, int | None]:
    """The path of the recording's file and the channel of it, from 0; None: all."""
    sources = recording.get("sources")
    if not isinstance(sources, list) or not sources or not all(isinstance(s, dict) for s in sources):
        raise CorpusError(f"{place}: the recording has no sources; correct the line")
    for one in sources:
        if one.get("type") != "file":
            why = ", which is never run" if one.get("type") == "command" else ""
            raise CorpusError(f"{place}: the audio is a {str(one.get('type'))[:40]}{why}; lhotse can save it as files")
    if recording.get("transforms"):
        raise CorpusError(f"{place}: the audio is changed by lhotse when it is read; save what it gives as files")
    channels = [_channels(one, place) for one in sources]
    every = {c for some in channels for c in some}
    numbers = wanted if isinstance(wanted, list) else sorted(every) if wanted is None else [wanted]
    if not numbers or not all(isinstance(c, int) and not isinstance(c, bool) for c in numbers):
        raise CorpusError(f"{place}: channel {str(wanted)[:40]} is no number, nor a list of them; correct the line")
    asked = set(numbers)
    if not asked <= every:
        raise CorpusError(f"{place}: channel {sorted(asked - every)[0]} is none of the recording's {sorted(every)}")
    holding = [(one, some) for one, some in zip(sources, channels, strict=True) if asked & set(some)]
    if len(holding) != 1 or (len(asked) > 1 and asked != set(holding[0][1])):
        raise CorpusError(f"{place}: channels of several files, or some of a file's, are not mixed; give a row to each")
    one, some = holding[0]
    if not isinstance(one.get("source"), str):
        raise CorpusError(f"{place}: the source has no path; correct the line")
    return one["source"], None if len(asked) == len(some) else some.index(asked.pop())


def _channels(source: dict[str, Any], place: str) -> list[int]:
    channels = source.get("channels")
    if not isinstance(channels, list) or not channels or not all(isinstance(c, int) for c in channels):
        raise CorpusError(f"{place}: the source names no channels; correct the line")
    return channels


def _object(record: Any, place: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise CorpusError(f"{place}: expected an object of lhotse, not {str(record)[:40]!r}")
    return record
