"""Audio within other files, read in place: tar files of WebDataset, and parquet with the Audio struct of `datasets`.

After webdataset/webdataset, webdataset/tariterators.py (base_plus_ext), and huggingface/datasets,
src/datasets/features/audio.py.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from typing import Any

from textless.audio.io import AUDIO, MEDIA
from textless.audio.manifests import COLUMNS, PATH_COLUMNS, Draft, draft_of
from textless.audio.media import has_ffmpeg
from textless.audio.parquet import AT_ONCE
from textless.audio.place import Member
from textless.errors import CorpusError

PACKAGES = (".parquet", ".tar")
SPLIT = re.compile(r"(\w[\w.-]*)-\d{5}-of-\d{5}")  # how `datasets` names its shards
SMALL = 1 << 20  # bytes of a json that may describe a member


def holds_audio(path: str) -> bool:
    """Whether a parquet or tar file, found by a search, holds audio."""
    try:
        return bool(read_tar(path) if path.lower().endswith(".tar") else read_parquet_audio(path))
    except CorpusError:
        return False


# ------------------------------------------------------------------------------------------------------------- tar


def read_tar(source: str) -> list[Draft]:
    """The audio members of a tar, each read in place; `speaker`, `id` and `split` of a `KEY.json` go with it.

    Without an id a row has its key: the path up to the first dot of the name. Raises CorpusError for a tar that is
    compressed or damaged.
    """
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
    drafts = []
    for key, member in audio:
        record = {k: about.get(key, {}).get(k) for k in ("id", "speaker", "split")}
        draft = draft_of({**record, "path": source}, "", f"{source}, {member.name}")
        draft.fields["member"], draft.root = member, os.path.dirname(source)
        drafts.append(draft)
    return drafts


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
