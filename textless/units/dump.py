"""Unit dumps: a folder of parquet shards that any data library opens, and the JSONL stream between commands."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from textless.errors import AudioError, ContractError, DumpError, TextlessError
from textless.files import atomic, write_text
from textless.text import joined
from textless.types import OURS, UnitContract, UnitRow, Units
from textless.units.blocks import DEFAULTS, Block, Part, contract_of, flat, grouped, n_rows
from textless.units.card import Origin, readme

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

VERSION = 1
ROW_GROUP = 256
MOST_VALUES = 1 << 28  # units of a row group; a few bytes of parquet may claim any number
DEEPEST = 30  # nested lists or structures in an extra column
MOST_BYTES = 1 << 31  # of a row group
MORE = "more"  # the column that marks a row of a stream whose next part follows
CHECKED = 4096  # shards that are opened with the dump, in half a second; of more each is when it is read
PITCH = "pitch"  # the column of `Units.pitch` where the contract has pitch; elsewhere an extra column like others
LONGEST = 65535  # frames that one uint16 duration holds; a longer run is split


# ------------------------------------------------------------------------------------------------------------ parquet


def _schema(contract: UnitContract, durations: bool, extra: Iterable[pa.Field]) -> pa.Schema:
    import pyarrow as pa

    unit = pa.uint16() if contract.n_units and contract.n_units <= 1 << 16 else pa.uint32()
    # Explicit, because a column whose first rows are all null would become of type null.
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("units", pa.list_(unit), nullable=False),
        *([pa.field("durations", pa.list_(pa.uint16()), nullable=False)] if durations else []),
        *([pa.field(PITCH, pa.list_(pa.uint8()), nullable=False)] if contract.pitch else []),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("speaker", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
        *extra,
    ]
    return pa.schema(
        fields, metadata={"textless": json.dumps({"version": VERSION, "contract": contract.to_dict()}, sort_keys=True)}
    )


def extra_types(rows: Sequence[UnitRow], known: Mapping[str, pa.DataType] | None = None) -> dict[str, pa.DataType]:
    """The type of each extra column of some rows, sorted by name.

    Raises DumpError for a column that no one type can hold.
    """
    names = sorted({name for row in rows for name in row.extra} - (known or {}).keys())
    types = {**(known or {}), **{name: _extra(rows, name).type for name in names}}
    return dict(sorted(types.items()))


def _extra(rows: Sequence[UnitRow], name: str, kind: pa.DataType | None = None) -> pa.Array:
    """An extra column whose values survive the round trip. Raises DumpError when they do not."""
    import pyarrow as pa

    values = [row.extra.get(name) for row in rows]
    with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError):
        array = pa.array(values, kind)
        if str(array.type).count("<") <= DEEPEST and all(map(_same, values, array.to_pylist())):
            return array
    first = next(v for v in values if v is not None)
    which = kind or f"the type of {str(first)[:40]!r} ({type(first).__name__})"
    raise DumpError(
        f"{rows[0].id}: in the rows from this one on, column {name!r} does not keep {which}; give it one simple type"
    )


def _same(a: Any, b: Any) -> bool:
    """Equal, NaN included: 1 and 1.0 are, 1 and true are not."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b or (a != a and b != b))


def write_shard(
    path: Path,
    rows: Iterable[Part],
    *,
    contract: UnitContract,
    durations: bool = True,
    extra: Mapping[str, pa.DataType] | None = None,
) -> int:
    """Write one parquet shard to a temporary file and rename it; returns the number of rows.

    With `durations` units are deduplicated; without, each unit is one frame. `extra` gives types of extra columns (see
    `extra_types`); the types of the others come from the first `ROW_GROUP` rows. Raises ContractError for units of
    another contract, DumpError for an extra column whose values are of several types, or that begins after those rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    total, types = 0, dict(extra or {})

    def write(group: list[Part]) -> None:
        nonlocal writer, total, types
        if writer is None:
            types = extra_types([part for part in group if isinstance(part, UnitRow)], types)
            schema = _schema(contract, durations, (pa.field(name, kind) for name, kind in types.items()))
            writer = pq.ParquetWriter(place, schema, compression="zstd", write_page_checksum=True)
        table = _table_of(group, writer.schema, durations)
        writer.write_table(_table(list(flat(group)), writer.schema, durations) if table is None else table)
        total += sum(map(n_rows, group))

    try:
        with atomic(path) as place:
            for group in grouped(_of_contract(rows, contract), ROW_GROUP):
                write(group)
            if not total:
                write([])
            if writer:
                writer.close()
    except (pa.ArrowException, OverflowError) as e:
        raise DumpError(f"{path}: cannot be written ({_line(e)})") from None
    finally:
        if writer:
            writer.is_open = False  # or its destructor would try again to write, and print an error
    return total


def _of_contract(parts: Iterable[Part], contract: UnitContract) -> Iterator[Part]:
    for part in parts:
        contract.check(
            contract_of(part),
            mine="the dump",
            theirs=part.id if isinstance(part, UnitRow) else part.ids[0],
            together=True,
        )
        yield part


def _table_of(group: Sequence[Part], schema: pa.Schema, durations: bool) -> pa.Table | None:
    """The table of `_table`, of blocks. None where it must be made of rows: there are some, or extra columns, or a
    number is too large."""
    import pyarrow as pa

    blocks = [part for part in group if isinstance(part, Block)]
    if not blocks or len(blocks) < len(group) or set(schema.names) - set(OURS):
        return None
    held = [block.deduplicated() if durations else block.frames() for block in blocks]
    values: dict[str, Any] = {"id": [name for block in blocks for name in block.ids]}
    values["frames"] = np.concatenate([np.diff(block.frame_ends(), prepend=0) for block in held])
    for name, usual in DEFAULTS.items():
        values[name] = [v for block in blocks for v in block.columns.get(name) or [usual] * len(block)]
    ends = np.cumsum(np.concatenate([[0], *(np.diff(block.ends, prepend=0) for block in held)]))
    arrays = []
    for f in schema:
        if f.name not in ("units", "durations"):
            arrays.append(pa.array(values[f.name], f.type))
            continue
        kind = np.dtype(f.type.value_type.to_pandas_dtype())
        items: list[np.ndarray] = [getattr(block, f.name) for block in held]
        if max(item.max(initial=0) for item in items) > np.iinfo(kind).max:
            return None
        joined = pa.array(np.concatenate([item.astype(kind) for item in items]))
        arrays.append(pa.ListArray.from_arrays(pa.array(ends, pa.int32()), joined, type=f.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _table(rows: Sequence[UnitRow], schema: pa.Schema, durations: bool) -> pa.Table:
    import pyarrow as pa

    records = [_record(row, durations) for row in rows]
    lists = {"units", "durations", *([PITCH] if rows and rows[0].units.contract.pitch else [])}
    for row in rows:
        if late := sorted(row.extra.keys() - set(schema.names)):
            raise DumpError(
                f"{row.id}: column {late[0]!r} is in none of the first {ROW_GROUP} rows; give it a value there, or null"
            )
    arrays = [
        _list_array([r[f.name] for r in records], f.type)
        if f.name in lists
        else _extra(rows, f.name, f.type)
        if f.name not in OURS
        else pa.array([r[f.name] for r in records], f.type)
        for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _list_array(values: Sequence[np.ndarray], kind: pa.ListType) -> pa.Array:
    """Arrays (n,) int64 as lists of a smaller integer type. Raises ArrowInvalid for a number that it cannot hold."""
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, values)])
    joined = pa.array(np.concatenate(values) if values else np.empty(0, np.int64)).cast(kind.value_type)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), joined, type=kind)


def write_results(
    path: Path,
    results: Iterable[tuple[Any, UnitRow | AudioError]],
    *,
    contract: UnitContract,
    extra: Mapping[str, pa.DataType] | None = None,
) -> list[dict[str, str]]:
    """Write the rows of (source, row or error) as a shard; return the errors as {"id", "error"}."""
    failures: list[dict[str, str]] = []

    def rows() -> Iterator[UnitRow]:
        for source, result in results:
            if isinstance(result, AudioError):
                failures.append({"id": source.id, "error": str(result)})
            else:
                yield result

    write_shard(path, rows(), contract=contract, extra=extra)
    return failures


def _record(row: UnitRow, durations: bool) -> dict[str, Any]:
    record = {
        "id": row.id,
        "frames": row.units.n_frames,
        "speaker": row.speaker,
        "source": row.source,
        "offset": row.offset,
        "samples": row.samples,
    }
    if row.units.contract.pitch and row.units.pitch is None:
        raise DumpError(f"{row.id}: these units have no pitch, though their contract has; the step `pitch` adds it")
    if not durations:
        return record | {"units": row.units.frames(), PITCH: row.units.pitch_frames()}
    units = row.units.deduplicated()
    runs, lengths, pitch = units.units, units.durations, units.pitch
    assert lengths is not None  # deduplicated
    if len(lengths) and lengths.max() > LONGEST:
        if units.contract.merges:
            raise DumpError(f"{row.id}: a merged unit of {lengths.max()} frames is longer than {LONGEST}; cut the row")
        pieces = -(-lengths // LONGEST)
        runs = np.repeat(runs, pieces)
        pitch = None if pitch is None else np.repeat(pitch, pieces)
        ends = np.cumsum(pieces) - 1
        rest = lengths - (pieces - 1) * LONGEST
        lengths = np.full(len(runs), LONGEST)
        lengths[ends] = rest
    return record | {"units": runs, "durations": lengths, PITCH: pitch}


def finish_dump(
    folder: Path, *, contract: UnitContract, license: str | None = None, language: str | None = None
) -> dict[str, Any]:
    """Count what the shards under `data/` hold and write `dump.json` and `README.md`; returns the totals.

    `license` and `language` are of the audio; see `textless.units.card.Origin`.
    """
    origin = Origin(license=license, language=language)
    totals: dict[str, Any] = {"rows": 0, "units": 0, "frames": 0}
    shards, schemas = {}, []
    for shard in _shards(folder):
        with _opened(shard) as file:
            totals["rows"] += file.metadata.num_rows
            schemas.append(file.schema_arrow)
            for batch in file.iter_batches(ROW_GROUP, columns=["frames"]):
                totals["frames"] += sum(batch.column("frames").to_pylist())
            totals["units"] += _count_units(file)
            shards[shard.name] = _footer(shard)
    if contract.frame_rate:
        totals["hours"] = round(totals["frames"] / contract.frame_rate / 3600, 4)
    about = {
        "textless": "dump",
        "version": VERSION,
        "contract": contract.to_dict(),
        "totals": totals,
        "license": license,
        **({"language": language} if language else {}),
    }
    write_text(folder / "README.md", readme(contract, totals, origin, schemas, list(shards)))
    write_text(folder / "dump.json", json.dumps({**about, "shards": shards}, indent=1) + "\n")
    return totals


def _count_units(file: pq.ParquetFile) -> int:
    """Units of all rows, by the statistics of the columns, where an empty row counts as a null."""
    column = next(k for k in range(len(file.schema)) if file.schema.column(k).path.split(".")[0] == "units")
    chunks = [file.metadata.row_group(g).column(column) for g in range(file.metadata.num_row_groups)]
    if all(chunk.statistics is not None and chunk.statistics.has_null_count for chunk in chunks):
        return sum(chunk.num_values - chunk.statistics.null_count for chunk in chunks)
    return sum(len(batch.column("units").flatten()) for batch in file.iter_batches(ROW_GROUP, columns=["units"]))


def _shards(folder: Path) -> list[Path]:
    return [folder / "data" / name for name in _shard_names(folder)]


def _shard_names(folder: Path) -> list[str]:
    names = os.listdir(folder / "data") if (folder / "data").is_dir() else []
    return sorted(n for n in names if n.endswith(".parquet") and not n.startswith("."))  # macOS leaves ._NAME


def _footer(shard: Path) -> str:
    """sha256 of a parquet file's footer: the offsets of its pages, and the minimum and maximum of each column."""
    with open(shard, "rb") as f:
        end = f.seek(-8, os.SEEK_END)
        f.seek(max(0, end - int.from_bytes(f.read(4), "little")))
        return hashlib.sha256(f.read()).hexdigest()


@contextlib.contextmanager
def _opened(shard: Path) -> Iterator[pq.ParquetFile]:
    """An open shard; errors of the library become a DumpError that names it. Checksums of pages are verified."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard, page_checksum_verification=True) as file:
            yield file
    except TextlessError:
        raise
    except (pa.ArrowException, OSError, MemoryError, ValueError, OverflowError, KeyError, RecursionError) as e:
        raise DumpError(f"{shard}: cannot be read ({_line(e)}); encode again") from None


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class Dump:
    """A unit dump on disk: iterate, `len`, `[i]`, `.contract`. Holds one row group and at most one open file.

    Opening it raises DumpError for a dump.json or a shard that cannot be read, for missing columns and columns of other
    types, and for shards that are missing or of another dump; of a dump of more than `CHECKED` shards, reading does.
    Reading rows raises DumpError for damaged pages and for invalid units.
    """

    def __init__(self, folder: Path) -> None:
        about = _read_about(folder / "dump.json")
        self.folder = folder
        self.contract: UnitContract = about["contract"]
        self.totals: dict[str, Any] = about["totals"]
        self._starts: list[int] = []
        self._groups: list[tuple[Path, int]] = []
        self._total = 0
        shards, listed = _shard_names(folder), about["shards"]
        names = set(shards)
        if not shards or (listed is not None and listed.keys() - names):
            name: str = min(listed.keys() - names) if listed else "*.parquet"
            raise DumpError(f"{folder / 'data' / name}: this shard is missing; copy the dump again, or encode again")
        self._unopened, self._listed = iter(shards), listed
        if len(shards) <= CHECKED or "rows" not in self.totals:
            while self._open_next():
                pass
        self._held: tuple[int, list[UnitRow]] = (-1, [])

    def _open_next(self) -> bool:
        """Check the next shard and list its row groups. False when there are no more."""
        name = next(self._unopened, None)
        if name is None:
            if self.totals.get("rows", self._total) != self._total:
                raise DumpError(
                    f"{self.folder}: its shards have {self._total} rows, dump.json says {self.totals['rows']}: a shard "
                    "is missing, or added"
                )
            return False
        shard = self.folder / "data" / name
        with _opened(shard) as file:
            if self._listed is not None and self._listed.get(shard.name) != _footer(shard):
                raise DumpError(f"{shard}: not the shard that dump.json lists; copy the dump again, or encode again")
            _check_shard(shard, file, self.contract)
            for group in range(file.metadata.num_row_groups):
                self._starts.append(self._total)
                self._groups.append((shard, group))
                self._total += file.metadata.row_group(group).num_rows
        return True

    def _each_group(self) -> Iterator[int]:
        """The numbers of all row groups; shards are opened on the way."""
        g = 0
        while g < len(self._groups) or self._open_next():
            if g < len(self._groups):
                yield g
                g += 1

    def __len__(self) -> int:
        return int(self.totals.get("rows", self._total))

    def shards(self) -> list[Path]:
        """Its parquet files, in order."""
        return _shards(self.folder)

    def __iter__(self) -> Iterator[UnitRow]:
        for g in self._each_group():
            yield from self._rows(g)

    def blocks(self) -> Iterator[Part]:
        """The rows, in blocks where they have no extra columns. Raises as reading rows does."""
        for g in self._each_group():
            shard, group = self._groups[g]
            with _opened(shard) as file:
                block = _block_of(file.read_row_group(group), self.contract)
            if block is None:
                yield from self._rows(g)
            else:
                yield from block.pieces()

    def __getitem__(self, i: int) -> UnitRow:
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        i %= len(self)
        while i >= self._total and self._open_next():
            pass
        g = bisect.bisect_right(self._starts, i) - 1
        return self._rows(g)[i - self._starts[g]]

    def _rows(self, g: int) -> list[UnitRow]:
        if self._held[0] != g:
            shard, group = self._groups[g]
            with _opened(shard) as file:
                first = sum(file.metadata.row_group(k).num_rows for k in range(group))
                self._held = g, list(_rows_of(file.read_row_group(group), self.contract, shard, first))
        return self._held[1]


def _check_shard(shard: Path, file: pq.ParquetFile, contract: UnitContract) -> None:
    """Raise DumpError unless columns and row groups are as they must be, and the shard has the dump's contract."""
    import pyarrow as pa

    schema = file.schema_arrow
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise DumpError(f"{shard}: has the column {twice[0]} twice")
    if missing := [name for name in ("id", "units") if name not in schema.names]:
        raise DumpError(f"{shard}: has no column {missing[0]}; a unit dump has id, units and more (docs/formats.md)")
    if contract.pitch and PITCH not in schema.names:
        raise DumpError(f"{shard}: has no column {PITCH}, though its contract has pitch; make the dump again")
    for name in ("units", "durations", *([PITCH] if contract.pitch else [])):
        kind = schema.field(name).type if name in schema.names else pa.list_(pa.uint16())
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not lists or not (pa.types.is_integer(kind.value_type) or pa.types.is_null(kind.value_type)):
            raise DumpError(f"{shard}: column {name} holds {kind} where lists of integers are expected")
    for g in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(g)
        values = max(group.column(k).num_values for k in range(group.num_columns))
        if values > MOST_VALUES or group.total_byte_size > MOST_BYTES:
            raise DumpError(
                f"{shard}: a row group of {values} values, {group.total_byte_size} bytes; write smaller ones"
            )
    if text := (schema.metadata or {}).get(b"textless"):
        try:
            theirs = UnitContract.from_dict(json.loads(text)["contract"])
        except (ValueError, KeyError, TypeError, ContractError) as e:
            raise DumpError(
                f"{shard}: its contract cannot be read ({_line(e)}); copy the dump again, or encode again"
            ) from None
        if differing := contract.conflict(theirs):
            raise DumpError(f"{shard}: is of another dump: its contract has another {differing} than dump.json")


def _rows_of(table: pa.Table, contract: UnitContract, shard: Path, first: int) -> Iterator[UnitRow]:
    lists = [name for name in ("units", "durations", PITCH) if name in table.column_names]
    lists = lists if contract.pitch else [name for name in lists if name != PITCH]
    columns = {name: table[name].to_pylist() for name in table.column_names if name not in lists}
    columns |= {name: _lists(table[name]) for name in lists}
    for n in range(table.num_rows):
        try:
            yield _row({name: values[n] for name, values in columns.items()}, contract)
        except (DumpError, ContractError) as e:
            raise DumpError(f"{shard}, row {first + n} ({str(columns['id'][n])[:60]}): {e}") from None


def _block_of(table: pa.Table, contract: UnitContract) -> Block | None:
    """The rows of a row group. None where they must be looked at one by one."""
    import pyarrow as pa

    kinds = {
        "id": pa.string(),
        "source": pa.string(),
        "offset": pa.int64(),
        "samples": pa.int64(),
        "frames": pa.int32(),
    }
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    if columns.keys() - set(OURS) or any(column.null_count for name, column in columns.items() if name != "speaker"):
        return None
    if any(name in columns and columns[name].type != kind for name, kind in kinds.items()):
        return None
    lists = {name: columns.pop(name) for name in ("units", "durations") if name in columns}
    if any(not pa.types.is_list(c.type) or c.flatten().null_count for c in lists.values()):
        return None
    if columns.get("speaker", pa.array([], pa.string())).type != pa.string():
        return None
    numbers = {name: c.flatten().to_numpy(zero_copy_only=False).astype(np.int64) for name, c in lists.items()}
    ends = {
        name: np.cumsum(c.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64) for name, c in lists.items()
    }
    values = {name: column.to_pylist() for name, column in columns.items()}
    ids, frames = values.pop("id"), values.pop("frames", None)
    block = Block(
        ids=ids,
        units=numbers["units"],
        ends=ends["units"],
        contract=contract,
        durations=numbers.get("durations"),
        columns=values,
    )
    texts = "".join([*ids, *values.get("source", ()), *filter(None, values.get("speaker", ()))])
    counts = [n for name in ("offset", "samples") for n in values.get(name, ())]
    if not all(ids) or not texts.isascii() or min(counts, default=0) < 0 or not block.is_sound():
        return None
    if "durations" in ends and not np.array_equal(ends["durations"], ends["units"]):
        return None
    counted = frames is not None and (block.durations is not None or any(frames))
    return None if counted and not np.array_equal(np.cumsum(frames), block.frame_ends()) else block


def _lists(column: pa.ChunkedArray) -> list[np.ndarray | list[None] | None]:
    values = [item.values for chunk in column.chunks for item in chunk]
    return [v if v is None else [None] if v.null_count else v.to_numpy(zero_copy_only=False) for v in values]


def _row(record: dict[str, Any], contract: UnitContract) -> UnitRow:
    """A row from a record. Raises DumpError and ContractError without the place of the row, which the caller adds."""
    if missing := [name for name in ("id", "units") if name not in record]:
        raise DumpError(f"{missing[0]!r} is missing")
    known = {k: record.pop(k) for k in ("id", "speaker", "source", "offset", "samples") if k in record}
    frames, durations = record.pop("frames", None), record.pop("durations", None)
    pitch = record.pop(PITCH, None) if contract.pitch else None
    if contract.pitch and pitch is None:
        raise DumpError(f"{PITCH!r} is missing, though the contract has it")
    durations, pitch = (None if values is None else _integers(values) for values in (durations, pitch))
    units = Units(_integers(record.pop("units")), durations, contract, pitch)
    row = UnitRow(units=units, extra=record, **known)
    # Other programs write 0 frames where there are no durations.
    if frames is not None and (frames or durations is not None) and frames != units.n_frames:
        raise DumpError(f"frames is {str(frames)[:60]}, but the units have {units.n_frames} together")
    return row


def _integers(values: Any) -> Any:
    """The values; an empty list as integers, since numpy would make it float."""
    return np.empty(0, np.int64) if isinstance(values, list) and not values else values


def _read_about(path: Path) -> dict[str, Any]:
    """dump.json, checked: `contract`, `totals`, and `shards` (None in a dump that lists none)."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DumpError(f"{path.parent}: not a unit dump (dump.json is missing)") from None
    except OSError as e:
        raise DumpError(f"{path}: cannot be read ({e.strerror})") from None
    except (ValueError, RecursionError) as e:
        raise DumpError(f"{path}: not JSON ({e})") from None
    try:
        contract = _check_about(about, "dump")
        totals, shards = about.get("totals"), about.get("shards")
        totals = {} if totals is None else totals
        counts = [totals.get(name, 0) for name in ("rows", "units", "frames")] if isinstance(totals, dict) else [None]
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts):
            raise DumpError("totals must be an object with whole numbers of rows, units and frames")
        if shards is not None and not (isinstance(shards, dict) and shards):
            raise DumpError("shards must be an object with a hash for each shard")
    except (DumpError, ContractError) as e:
        raise DumpError(f"{path}: {e}") from None
    return {**about, "contract": contract, "totals": totals, "shards": shards}


def _check_about(about: Any, what: str) -> UnitContract:
    """The contract in dump.json or in the header of a stream."""
    if not isinstance(about, dict):
        raise DumpError("not a JSON object")
    version = about.get("version", VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DumpError(f"version must be a whole number, not {str(version)[:60]!r}")
    if version > VERSION:
        raise DumpError(f"{what} version {version}, this textless reads up to {VERSION}; upgrade")
    if about.get("textless", what) != what:
        raise DumpError(f"textless is {str(about['textless'])[:60]!r} where {what!r} is expected")
    if about.get("contract") is None:
        raise DumpError("the contract is missing")
    return UnitContract.from_dict(about["contract"])


def open_dump(path: Path | str) -> Dump | list[UnitRow]:
    """A dump folder, opened lazily, or a `.jsonl` stream, read whole. Raises DumpError."""
    path = Path(path)
    return list(read_file(path)) if path.is_file() else Dump(path)


# ------------------------------------------------------------------------------------------------------------- stream


def write_stream(
    out: IO[str], rows: Iterable[Part], *, contract: UnitContract, hints: Mapping[str, Any] | None = None
) -> int:
    """JSON lines: a header with the contract, then the rows, flushed as they come so that the next command can start.

    `hints` for that command are further entries of the header, see `read_hints`.
    """
    out.write(
        json.dumps({"textless": "units", "version": VERSION, "contract": contract.to_dict(), **(hints or {})}) + "\n"
    )
    out.flush()
    n = 0
    for part in rows:
        lines = [_line_of(part)] if isinstance(part, UnitRow) else _lines_of(part)
        out.write("".join(lines))
        out.flush()
        n += len(lines)
    return n


def _line_of(row: UnitRow) -> str:
    record = {name: getattr(row, name) for name in DEFAULTS}
    durations = row.units.durations
    lengths = None if durations is None else joined(durations, ", ")
    pitch = {} if row.units.pitch is None else {PITCH: row.units.pitch.tolist()}
    try:
        return _as_json(row.id, joined(row.units.units, ", "), lengths, record, row.extra | pitch)
    except (TypeError, ValueError, RecursionError) as e:
        raise DumpError(
            f"{row.id}: the extra columns {', '.join(sorted(row.extra))[:200]} cannot be written as JSON ({e})"
        ) from None


def _lines_of(block: Block) -> list[str]:
    """The lines of rows without extra columns."""
    texts = block.texts(", ")
    lengths = itertools.repeat(None) if block.durations is None else block.texts(", ", of="durations")
    names = list(block.columns)
    values = zip(*block.columns.values(), strict=True) if names else itertools.repeat(())
    return [
        _as_json(name, text, length, dict(zip(names, row, strict=True)), {})
        for name, text, length, row in zip(block.ids, texts, lengths, values)  # noqa: B905
    ]


def _as_json(name: str, units: str, durations: str | None, columns: dict[str, Any], extra: dict[str, Any]) -> str:
    """A line with its end. Units and durations come as json writes them, six times as fast."""
    record = {k: columns[k] for k, usual in DEFAULTS.items() if k in columns and columns[k] != usual} | extra
    rest = f", {json.dumps(record)[1:]}" if record else "}"
    lengths = "" if durations is None else f', "durations": [{durations}]'
    return f'{{"id": {json.dumps(name)}, "units": [{units}]{lengths}{rest}\n'


def split_row(row: UnitRow, pieces: Iterable[Units]) -> Iterator[UnitRow]:
    """A row in parts: rows of the same id, all but the last with `more` in their extra columns.

    A part is yielded when the next one has arrived, so that the last is known. Without any piece it is one empty row.
    """
    waiting = None
    for piece in pieces:
        if waiting is not None:
            yield replace(row, units=waiting, extra={**row.extra, MORE: True})
        waiting = piece
    yield replace(row, units=Units(np.empty(0, np.int64), None, row.units.contract) if waiting is None else waiting)


def join_parts(rows: Iterable[UnitRow]) -> Iterator[UnitRow]:
    """Join the parts of rows; other rows pass unchanged. Raises DumpError when a row's last part is missing."""
    parts: list[UnitRow] = []
    for row in rows:
        if parts and row.id != parts[-1].id:
            break
        parts.append(row)
        if not row.extra.get(MORE):
            yield row if len(parts) == 1 else replace(row, units=Units.joined([p.units for p in parts]))
            parts = []
    if parts:
        raise DumpError(f"{parts[0].id}: its last part is missing; was the command before this one stopped?")


def read_stream(lines: Iterable[str], *, name: str = "standard input", parts: bool = False) -> Iterator[UnitRow]:
    """Rows of a stream, as they arrive; with `parts`, rows in parts are not joined.

    Raises DumpError that names the line.
    """
    rows = _read_lines(lines, name)
    return rows if parts else join_parts(rows)


def read_hints(line: str) -> tuple[str | None, bool]:
    """What the header of a stream says besides its contract: the name of the set or chain that its units are of, None
    where it names none, and whether they are runs whose durations are unknown. A line that is no header says nothing.
    """
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        return None, False
    if not isinstance(header, dict) or header.get("textless") != "units":
        return None, False
    name = header.get("model")
    return (name if isinstance(name, str) else None), header.get("runs") is True


def read_file(path: Path) -> Iterator[UnitRow]:
    """Rows of a `.jsonl` file, as `read_stream` gives them."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            yield from read_stream(f, name=str(path))
    except OSError as e:
        raise DumpError(f"{path}: cannot be read ({e.strerror})") from None


def _read_lines(lines: Iterable[str], name: str) -> Iterator[UnitRow]:
    contract, n, source = None, 0, iter(lines)
    while True:
        try:
            line = next(source, None)
        except (UnicodeDecodeError, OSError) as e:
            raise DumpError(f"{name}, after line {n}: cannot be read as text ({e})") from None
        if line is None:
            break
        n += 1
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise DumpError("not an object")
            if contract is not None:
                row = _row(record, contract)
            elif record.get("textless") != "units":
                raise DumpError("the first line must be the header that `textless encode -o -` writes")
            else:
                contract = _check_about(record, "units")
                continue
        except (ValueError, RecursionError, TextlessError) as e:
            raise DumpError(f"{name}, line {n}: {e}") from None
        yield row
    if contract is None:
        raise DumpError(f"{name}: is empty; a unit stream starts with a header line")
