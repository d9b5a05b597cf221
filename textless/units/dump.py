"""Unit dumps: a folder of parquet shards that any data library opens, and the JSONL stream between commands."""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from textless.errors import AudioError, DumpError, TextlessError
from textless.names import encodable, plain
from textless.units.types import UnitContract, Units
from textless.weights import write_text

VERSION = 1
ROW_GROUP = 256
MORE = "more"  # the column of a row in a stream whose next part follows
LONGEST = 65535  # frames that one uint16 duration holds; a longer run is split


@dataclass(frozen=True, eq=False)
class UnitRow:
    """One sequence: `source` is the audio file's name; `offset` and `samples` are the part of it, at the contract's sample rate."""

    id: str
    units: Units
    speaker: str | None = None
    source: str = ""
    offset: int = 0
    samples: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, form in (("id", plain), ("speaker", plain), ("source", encodable)):  # as those of `Row` and of tables
            if isinstance(value := getattr(self, name), str) and not value.isascii():
                object.__setattr__(self, name, form(value))


# ------------------------------------------------------------------------------------------------------------ parquet


def _schema(contract: UnitContract, durations: bool, extra: dict[str, Any]):
    import pyarrow as pa

    unit = pa.uint16() if (contract.n_units or LONGEST + 1) <= LONGEST + 1 else pa.uint32()
    # Explicit, because a column whose first rows are all null would become of type null.
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("units", pa.list_(unit), nullable=False),
        *([pa.field("durations", pa.list_(pa.uint16()), nullable=False)] if durations else []),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("speaker", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
        *(pa.field(name, pa.infer_type([value])) for name, value in sorted(extra.items())),
    ]
    return pa.schema(fields, metadata={"textless": json.dumps({"version": VERSION, "contract": contract.to_dict()}, sort_keys=True)})


def write_shard(path: Path, rows: Iterable[UnitRow], *, contract: UnitContract, durations: bool = True) -> int:
    """Write one parquet shard, beside and renamed; returns the number of rows.

    With `durations` units are deduplicated; without, each stands for one frame. Raises ContractError for units of another contract.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    writer, total, group = None, 0, []
    try:
        for row in rows:
            contract.check(row.units.contract, mine="the dump", theirs=row.id)
            group.append(_record(row, durations))
            if writer is None:
                schema = _schema(contract, durations, row.extra)
                writer = pq.ParquetWriter(temporary, schema, compression="zstd")
            if len(group) == ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                total, group = total + len(group), []
        if writer is None:
            schema = _schema(contract, durations, {})
            writer = pq.ParquetWriter(temporary, schema, compression="zstd")
        if group or not total:
            writer.write_table(pa.Table.from_pylist(group, schema))
        writer.close()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return total + len(group)


def write_results(path: Path, results: Iterable[tuple[Any, UnitRow | AudioError]], *, contract: UnitContract) -> list[dict[str, str]]:
    """Write the good of (what it came from, its units or why there are none) as a shard; return the bad as {"id", "error"}."""
    failures: list[dict[str, str]] = []

    def good() -> Iterator[UnitRow]:
        for source, result in results:
            if isinstance(result, AudioError):
                failures.append({"id": source.id, "error": str(result)})
            else:
                yield result

    write_shard(path, good(), contract=contract)
    return failures


def _record(row: UnitRow, durations: bool) -> dict[str, Any]:
    record = {
        "id": row.id,
        "frames": row.units.n_frames,
        "speaker": row.speaker,
        "source": row.source,
        "offset": row.offset,
        "samples": row.samples,
        **row.extra,
    }
    if not durations:
        return record | {"units": row.units.frames()}
    units = row.units.deduplicated()
    runs, lengths = units.units, units.durations
    if len(lengths) and lengths.max() > LONGEST:
        pieces = -(-lengths // LONGEST)
        runs = np.repeat(runs, pieces)
        ends = np.cumsum(pieces) - 1
        rest = lengths - (pieces - 1) * LONGEST
        lengths = np.full(len(runs), LONGEST)
        lengths[ends] = rest
    return record | {"units": runs, "durations": lengths}


def finish_dump(folder: Path, *, contract: UnitContract, license: str | None = None) -> dict[str, Any]:
    """Count what the shards under `data/` hold and write `dump.json` and `README.md`; returns the totals."""
    import pyarrow.parquet as pq

    totals = {"rows": 0, "units": 0, "frames": 0}
    for shard in sorted((folder / "data").glob("*.parquet")):
        file = pq.ParquetFile(shard)
        totals["rows"] += file.metadata.num_rows
        for batch in file.iter_batches(ROW_GROUP, columns=["units", "frames"]):
            totals["units"] += len(batch.column("units").flatten())
            totals["frames"] += sum(batch.column("frames").to_pylist())
    if contract.frame_rate:
        totals["hours"] = round(totals["frames"] / contract.frame_rate / 3600, 4)
    about = {"textless": "dump", "version": VERSION, "contract": contract.to_dict(), "totals": totals, "license": license}
    write_text(folder / "README.md", _readme(contract, totals, license))
    write_text(folder / "dump.json", json.dumps(about, indent=1) + "\n")
    return totals


def _readme(contract: UnitContract, totals: dict[str, Any], license: str | None) -> str:
    hours = f"{totals['hours']:.2f} hours, " if "hours" in totals else ""
    facts = "\n".join(f"| {k} | {v if v is not None else 'unknown'} |" for k, v in contract.to_dict().items())
    return f"""# Discrete speech units

{totals["rows"]:,} sequences, {hours}{totals["units"]:,} units, {totals["frames"]:,} frames.
Licence of the audio: {license or "not stated"}.

| contract | |
|---|---|
{facts}

    import textless;  dump = textless.open_dump(".");  dump[0].units
    import pandas;    pandas.read_parquet("data")
    import polars;    polars.read_parquet("data/*.parquet")
    import datasets;  datasets.load_dataset("parquet", data_files="data/*.parquet")

`units` are deduplicated where `durations` (frames of each unit) stand beside them; otherwise each unit is one frame.
`offset` and `samples` say which part of the file `source` a row is, in samples at the contract's rate.
"""


class Dump:
    """A unit dump on disk: iterate, `len`, `[i]`, `.contract`. Holds one row group at a time."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        about = _read_about(folder / "dump.json")
        self.folder = folder
        self.contract = UnitContract.from_dict(about["contract"])
        self.totals: dict[str, Any] = about.get("totals", {})
        self._starts: list[int] = []
        self._groups: list[tuple[Any, int]] = []
        self._total = 0
        for shard in sorted((folder / "data").glob("*.parquet")):
            try:
                file = pq.ParquetFile(shard)
            except (pa.ArrowException, OSError) as e:
                raise DumpError(f"{shard}: cannot be read ({str(e).splitlines()[0]}); encode again") from None
            for group in range(file.metadata.num_row_groups):
                self._starts.append(self._total)
                self._groups.append((file, group))
                self._total += file.metadata.row_group(group).num_rows
        self._held: tuple[int, list[UnitRow]] = (-1, [])

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[UnitRow]:
        for g in range(len(self._groups)):
            yield from self._rows(g)

    def __getitem__(self, i: int) -> UnitRow:
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        i %= len(self)
        g = bisect.bisect_right(self._starts, i) - 1
        return self._rows(g)[i - self._starts[g]]

    def _rows(self, g: int) -> list[UnitRow]:
        if self._held[0] != g:
            file, group = self._groups[g]
            self._held = g, [_row(r, self.contract) for r in file.read_row_group(group).to_pylist()]
        return self._held[1]


def _row(record: dict[str, Any], contract: UnitContract) -> UnitRow:
    known = {k: record.pop(k) for k in ("id", "speaker", "source", "offset", "samples") if k in record}
    record.pop("frames", None)
    durations = record.pop("durations", None)
    units = Units(_integers(record.pop("units")), None if durations is None else _integers(durations), contract)
    return UnitRow(units=units, extra=record, **known)


def _integers(values: list[int]) -> np.ndarray:
    return np.array(values) if values else np.empty(0, np.int64)  # an empty list would become float


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise DumpError(f"{path.parent}: not a unit dump (dump.json is missing)") from None
    except ValueError as e:
        raise DumpError(f"{path}: not JSON ({e})") from None
    if about.get("version", 0) > VERSION:
        raise DumpError(f"{path}: dump version {about['version']}, this textless reads up to {VERSION}; upgrade")
    return about


def open_dump(path: Path | str) -> Dump | list[UnitRow]:
    """A dump folder, opened lazily, or a `.jsonl` stream, read whole. Raises DumpError."""
    path = Path(path)
    if path.is_file():
        with open(path, encoding="utf-8") as f:
            return list(read_stream(f, name=str(path)))
    return Dump(path)


# ------------------------------------------------------------------------------------------------------------- stream


def write_stream(out: IO[str], rows: Iterable[UnitRow], *, contract: UnitContract) -> int:
    """JSON lines: a header with the contract, then a row each, flushed as they come so that the next command can start."""
    out.write(json.dumps({"textless": "units", "version": VERSION, "contract": contract.to_dict()}) + "\n")
    n = 0
    for n, row in enumerate(rows, 1):  # noqa: B007
        record: dict[str, Any] = {"id": row.id, "units": row.units.units.tolist()}
        if row.units.durations is not None:
            record["durations"] = row.units.durations.tolist()
        for name in ("speaker", "source", "offset", "samples"):
            if value := getattr(row, name):
                record[name] = value
        out.write(json.dumps(record | row.extra) + "\n")
        out.flush()
    return n


def split_row(row: UnitRow, pieces: Iterable[Units]) -> Iterator[UnitRow]:
    """A row in parts: rows of the same id with `more` in their extra columns, which the last has not.

    A part is given when the next one is there, so that the last is known to be it. Without any piece it is one empty row.
    """
    waiting = None
    for piece in pieces:
        if waiting is not None:
            yield replace(row, units=waiting, extra={**row.extra, MORE: True})
        waiting = piece
    yield replace(row, units=Units(np.empty(0, np.int64), None, row.units.contract) if waiting is None else waiting)


def join_parts(rows: Iterable[UnitRow]) -> Iterator[UnitRow]:
    """Rows in parts as whole rows; others as they are. Raises DumpError when a row's last part is missing."""
    parts: list[UnitRow] = []
    for row in rows:
        if parts and row.id != parts[-1].id:
            break
        parts.append(row)
        if not row.extra.get(MORE):
            yield row if len(parts) == 1 else replace(row, units=sum((p.units for p in parts[1:]), parts[0].units))
            parts = []
    if parts:
        raise DumpError(f"{parts[0].id}: its last part did not come; was the command before this one stopped?")


def read_stream(lines: IO[str] | Sequence[str], *, name: str = "standard input", parts: bool = False) -> Iterator[UnitRow]:
    """Rows of a stream, as they come; `parts`: rows in parts are not joined. Raises DumpError that names the line."""
    rows = _read_lines(lines, name)
    return rows if parts else join_parts(rows)


def _read_lines(lines: IO[str] | Sequence[str], name: str) -> Iterator[UnitRow]:
    contract = None
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
            if contract is None:
                if record.get("textless") != "units":
                    raise ValueError("the first line must be the header that `textless encode -o -` writes")
                contract = UnitContract.from_dict(record["contract"])
                continue
            row = {"source": "", "offset": 0, "samples": 0} | record
            yield _row(row, contract)
        except (ValueError, KeyError, TypeError, TextlessError) as e:
            what = f"{e} is missing" if isinstance(e, KeyError) else str(e)
            raise DumpError(f"{name}, line {n}: {what}") from None
    if contract is None:
        raise DumpError(f"{name}: is empty; a unit stream starts with a header line")
