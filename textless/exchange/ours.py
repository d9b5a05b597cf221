"""Our own two forms: a dump and a stream."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from textless.errors import DumpError
from textless.exchange.base import Declared, Format, writing
from textless.types import UnitContract, UnitRow
from textless.units.blocks import Part, contract_of, flat, grouped
from textless.units.card import MOST_SPLITS, SPLIT, Origin, shard_name, split_of
from textless.units.dump import ROW_GROUP, Dump, extra_types, finish_dump, read_file, write_shard, write_stream

ROWS = 1 << 16  # of a shard
SPLIT_ROWS = 1 << 12  # of a shard of one split, which is held in memory, since rows of other splits come between


def _read_dump(path: Path, declared: Declared) -> Iterator[Part]:
    yield from Dump(path).blocks()


def write_dump(path: Path, rows: Iterable[Part], *, origin: Origin = Origin()) -> None:
    """`origin` is of the audio that the units are of. Where rows have the extra column `split`, a shard holds rows of
    one split, so that `datasets` can load them apart. Raises DumpError for more than 64 splits."""
    finish_dump(path, contract=write_shards(path, rows), **origin.stated())


def write_shards(path: Path, rows: Iterable[Part]) -> UnitContract:
    """The shards of a dump below a folder; returns the contract of the first row."""
    (path / "data").mkdir(parents=True)
    waiting = grouped(rows, ROW_GROUP)
    first = next(waiting, [])
    contract = contract_of(first[0]) if first else UnitContract()
    groups = itertools.chain([first], waiting)
    if any(isinstance(row, UnitRow) and row.extra.get(SPLIT) is not None for row in first):
        for name, shard, types in _by_split(flat(itertools.chain.from_iterable(groups))):
            write_shard(path / "data" / name, shard, contract=contract, extra=types)
        return contract
    for n in itertools.count():
        shard_groups = list(itertools.islice(groups, 1))
        if not shard_groups:
            break
        parts = itertools.chain(shard_groups, itertools.islice(groups, ROWS // ROW_GROUP - 1))
        write_shard(path / "data" / shard_name(n), itertools.chain.from_iterable(parts), contract=contract)
    return contract


def _by_split(rows: Iterable[UnitRow]) -> Iterator[tuple[str, list[UnitRow], dict[str, Any]]]:
    """Name, rows and types of the extra columns of each shard."""
    waiting: dict[str, list[UnitRow]] = {}
    count: Counter[str] = Counter()
    types: dict[str, Any] = {}

    def shard(split: str) -> tuple[str, list[UnitRow], dict[str, Any]]:
        nonlocal types
        known = {name: kind for name, kind in types.items() if str(kind) != "null"}  # all rows so far had null there
        types = extra_types([row for group in waiting.values() for row in group], known)
        count[split] += 1
        return shard_name(count[split] - 1, split), waiting[split], types

    for row in rows:
        split = split_of(row.extra.get(SPLIT))
        waiting.setdefault(split, []).append(row)
        if len(waiting) > MOST_SPLITS:
            raise DumpError(f"{row.id}: more than {MOST_SPLITS} splits; is the column {SPLIT!r} something else?")
        if len(waiting[split]) == SPLIT_ROWS:
            yield shard(split)
            waiting[split] = []
    for split in waiting:
        if waiting[split]:
            yield shard(split)


def _read_stream(path: Path, declared: Declared) -> Iterator[UnitRow]:
    yield from read_file(path)


def _write_stream(path: Path, rows: Iterable[Part]) -> None:
    waiting = iter(rows)
    first = list(itertools.islice(waiting, 1))
    with writing(path) as temporary, open(temporary, "w", encoding="utf-8") as f:
        write_stream(f, itertools.chain(first, waiting), contract=contract_of(first[0]) if first else UnitContract())


DUMP = Format(
    name="dump",
    read=_read_dump,
    write=write_dump,
    fits=lambda path, head: path.is_dir() and (path / "dump.json").exists(),
    folder=True,
    blocks=True,
)
STREAM = Format(
    name="jsonl",
    read=_read_stream,
    write=_write_stream,
    fits=lambda path, head: head.lstrip(b"\xef\xbb\xbf").startswith(b"{") and b'"textless"' in head.split(b"\n")[0],
    suffixes=(".jsonl",),
    blocks=True,
)
