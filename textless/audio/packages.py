"""Audio within other files, read in place: tar files of WebDataset, NeMo and lhotse, and parquet with the Audio struct
of `datasets`.

After webdataset/webdataset, webdataset/tariterators.py (base_plus_ext); NVIDIA/NeMo,
scripts/speech_recognition/convert_to_tarred_audio_dataset.py; lhotse-speech/lhotse, lhotse/shar/utils.py and
lhotse/shar/writers/audio.py; huggingface/datasets, src/datasets/features/audio.py.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from typing import Any

from textless.audio.io import AUDIO, MEDIA
from textless.audio.lhotse import speaker_of
from textless.audio.manifests import COLUMNS, NEMO, PATH_COLUMNS, Draft, draft_of, found, nemo_draft
from textless.audio.media import has_ffmpeg
from textless.audio.parquet import AT_ONCE
from textless.audio.place import Member
from textless.errors import CorpusError

PACKAGES = (".parquet", ".tar")
SPLIT = re.compile(r"(\w[\w.-]*)-\d{5}-of-\d{5}")  # how `datasets` names its shards
COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4)|tgz|tbz2?|txz)$", re.IGNORECASE)
SMALL = 1 << 20  # bytes of a json that may describe a member


def read_package(path: str) -> list[Draft]:
    """The audio of a parquet or tar file, found by a search; none where it holds none. Raises CorpusError."""
    return read_tar(path) if path.lower().endswith(".tar") else read_parquet_audio(path) or []


# ------------------------------------------------------------------------------------------------------------- tar


def read_tar(source: str) -> list[Draft]:
    """The audio members of a tar, each read in place; `speaker`, `id` and `split` of a `KEY.json` go with it.

    Without an id a row has its key: the path up to the first dot of the name. Raises CorpusError for a tar that is
    compressed or damaged.
    """
    audio, about = _members(source)
    drafts = []
    for key, member in audio:
        record = {k: about.get(key, {}).get(k) for k in ("id", "speaker", "split")}
        drafts.append(_within(source, member, draft_of({**record, "path": source}, "", f"{source}, {member.name}")))
    return drafts


def _within(source: str, member: Member, draft: Draft) -> Draft:
    draft.fields["path"], draft.fields["member"], draft.root = source, member, os.path.dirname(source)
    return draft


def _members(source: str) -> tuple[list[tuple[str, Member]], dict[str, dict[str, Any]]]:
    """The key and place of each audio member, and by key what a json says of it."""
    suffixes = AUDIO + MEDIA if has_ffmpeg() else AUDIO
    audio: list[tuple[str, Member]] = []
    about: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(source, "r:") as tar:
            for info in tar:
                if not info.isreg() or info.issparse() or os.path.basename(info.name).startswith("."):
                    continue
                if info.name.lower().endswith(suffixes):
                    audio.append((_key(info.name), Member(info.name, info.offset_data, info.size)))
                elif info.name.lower().endswith(".json") and info.size < SMALL and (file := tar.extractfile(info)):
                    about[_key(info.name)] = _about(file.read())
    except (tarfile.TarError, OSError, EOFError, ValueError) as e:
        raise CorpusError(
            f"{source}: not a tar that can be read in place ({e}); unpack it if it is compressed"
        ) from None
    return audio, about


def refuse_compressed(source: str) -> None:
    """Raises CorpusError for a compressed tar: its members cannot be read in place."""
    if COMPRESSED.search(source):
        raise CorpusError(f"{source}: a compressed tar cannot be read in place; decompress it to a .tar, or unpack it")


# -------------------------------------------------------------------------------------- manifests of members of a tar


def is_tarred(records: list[tuple[int, Any]]) -> bool:
    """Whether the first record is of audio in a tar: NeMo's with `shard_id`, or a cut of lhotse's Shar."""
    first = records[0][1] if records else None
    return isinstance(first, dict) and ((NEMO in first and "shard_id" in first) or _shar_cut(first))


def _shar_cut(record: Any) -> bool:
    recording = record.get("recording") if isinstance(record, dict) else None
    sources = recording.get("sources") if isinstance(recording, dict) else None
    return isinstance(sources, list) and any(isinstance(one, dict) and one.get("type") == "shar" for one in sources)


def read_tarred(source: str, records: list[tuple[int, Any]]) -> list[Draft]:
    """The rows of a manifest whose audio is in tar files next to it: `audio_N.tar` of NeMo (or in the folder above),
    `recording.N.tar` of lhotse's Shar, next to `cuts.N.jsonl.gz`.

    Raises CorpusError for a tar or a member that is not there, and for what is malformed.
    """
    read = _nemo_row if NEMO in records[0][1] else _shar_row
    tars: dict[str, dict[str, Member]] = {}
    drafts = []
    for n, record in records:
        place = f"{source}:{n}"
        if not isinstance(record, dict):
            raise CorpusError(f"{place}: expected an object, not {str(record)[:40]!r}")
        tar, names, draft = read(source, record, place)
        if NEMO in record and os.path.isfile(draft.fields["path"]):  # unpacked
            drafts.append(draft)
            continue
        if tar not in tars:
            if not os.path.isfile(tar):
                raise CorpusError(f"{place}: its audio is in {tar}, which is not there; copy it next to the manifest")
            known = [member for _, member in _members(tar)[0]]
            tars[tar] = {name: m for m in known for name in (os.path.splitext(m.name)[0], m.name)}
        if not (member := next((tars[tar][name] for name in names if name in tars[tar]), None)):
            raise CorpusError(f"{place}: {tar} has no audio {names[0][:80]!r}; is the manifest of another tar?")
        drafts.append(_within(tar, member, draft))
    return drafts


def _nemo_row(source: str, record: dict[str, Any], place: str) -> tuple[str, list[str], Draft]:
    """Its tar, the names that its member may have, and the row. Rows of one member are called `NAME-sub1` and on."""
    name, shard = record.get(NEMO), record.get("shard_id")
    if not isinstance(name, str) or not isinstance(shard, int) or isinstance(shard, bool):
        raise CorpusError(f"{place}: {NEMO} must be a name, and shard_id a number; correct the line")
    folder = os.path.dirname(source)
    draft = nemo_draft(record, folder, place)
    names = [name]
    if part := re.fullmatch(r"(.+)(-sub\d+)(\.\w+)", name):
        names.append(part[1] + part[3])
        draft.ending = part[2]
    return found(f"audio_{shard}.tar", folder, os.path.dirname(os.path.abspath(folder))), names, draft


def _shar_row(source: str, record: dict[str, Any], place: str) -> tuple[str, list[str], Draft]:
    name = record.get("id")
    if not isinstance(name, str) or not name or not _shar_cut(record):
        raise CorpusError(f"{place}: is no cut of Shar, with an id; correct the line")
    folder, base = os.path.split(source)
    number = base.removeprefix("cuts").removesuffix(".gz").removesuffix(".jsonl")
    draft = draft_of({"id": name, "speaker": speaker_of(record), "path": source}, folder, place)
    return os.path.join(folder, f"recording{number}.tar"), [name], draft


def _key(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, base.partition(".")[0])


def _about(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# --------------------------------------------------------------------------------------------------------- parquet


def read_parquet_audio(source: str) -> list[Draft] | None:
    """The rows of a parquet file with an Audio struct, of which the bytes are left where they are; None without one.

    Raises CorpusError when the file cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    folder, name = os.path.split(source)
    try:
        with open(source, "rb") as f:  # a path may be any bytes, which pyarrow does not accept
            file = pyarrow.parquet.ParquetFile(f)
            if (column := _audio_column(file.schema_arrow)) is None:
                return None
            known = [c for c in (*COLUMNS, "speaker_id") if c in file.schema_arrow.names and c not in PATH_COLUMNS]
            known = [c for c in known if not pyarrow.types.is_nested(file.schema_arrow.field(c).type)]
            records = file.read([f"{column}.path", *known]).to_pylist()
            empty = _without_bytes(file, column)
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise CorpusError(f"{source}: not a parquet file that can be read ({str(e).splitlines()[0]})") from None
    shard = SPLIT.fullmatch(os.path.splitext(name)[0])
    drafts = []
    for n, record in enumerate(records):
        path = (record.pop(column) or {}).get("path")
        file_name = path or f"{os.path.splitext(name)[0]}-{n:06d}"
        record = {"speaker": record.pop("speaker_id", None), "split": shard and shard[1]} | {
            k: v for k, v in record.items() if v is not None
        }
        if n in empty:  # a path without bytes is of a file elsewhere
            drafts.append(draft_of({**record, "path": path}, folder, f"{source}:{n + 1}"))
            continue
        draft = draft_of({**record, "path": name}, folder, f"{source}:{n + 1}")
        draft.fields["member"] = Member(os.path.basename(file_name) if path else file_name, n, 0, column)
        drafts.append(draft)
    return drafts


def _audio_column(schema: Any) -> str | None:
    """The column that is an Audio struct: the one that the metadata of `datasets` names, else `audio` or its like."""
    import pyarrow

    structs = [
        field.name
        for field in schema
        if pyarrow.types.is_struct(field.type) and {"bytes", "path"} <= {f.name for f in field.type}
    ]
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        named = [name for name in structs if features[name].get("_type") == "Audio"]
    except (KeyError, TypeError, ValueError, AttributeError):
        named = [name for name in structs if name in (*PATH_COLUMNS, "speech")]
    return named[0] if named else None


def _without_bytes(file: Any, column: str) -> set[int]:
    """Rows of which the bytes are null; without reading any where the statistics of the file say that none is."""
    metadata = file.metadata
    place = next(i for i in range(len(file.schema)) if file.schema.column(i).path == f"{column}.bytes")
    empty: set[int] = set()
    first = 0
    for group in range(metadata.num_row_groups):
        part = metadata.row_group(group)
        statistics = part.column(place).statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count:
            n = first
            for batch in file.iter_batches(AT_ONCE, row_groups=[group], columns=[f"{column}.bytes"]):
                empty.update(
                    n + i for i, null in enumerate(batch.column(0).field("bytes").is_null().to_pylist()) if null
                )
                n += len(batch)
        first += part.num_rows
    return empty
