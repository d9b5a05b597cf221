"""Our own two forms: a dump and a stream."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from textless.exchange.base import Declared, Format, writing
from textless.types import UnitContract, UnitRow
from textless.units.card import Origin
from textless.units.dump import Dump, finish_dump, read_file, write_shard, write_stream

ROWS = 1 << 16  # of a shard


def _read_dump(path: Path, declared: Declared) -> Iterator[UnitRow]:
    yield from Dump(path)


def write_dump(path: Path, rows: Iterable[UnitRow], *, origin: Origin = Origin()) -> None:
    """`origin` is of the audio that the units are made of."""
    (path / "data").mkdir(parents=True)
    waiting = iter(rows)
    contract = UnitContract()
    for n in itertools.count():
        first = list(itertools.islice(waiting, 1))
        if n and not first:
            break
        contract = first[0].units.contract if first and not n else contract
        shard = itertools.chain(first, itertools.islice(waiting, ROWS - 1))
        write_shard(path / "data" / f"{n:05d}.parquet", shard, contract=contract)
    finish_dump(path, contract=contract, **origin.stated())


def _read_stream(path: Path, declared: Declared) -> Iterator[UnitRow]:
    yield from read_file(path)


def _write_stream(path: Path, rows: Iterable[UnitRow]) -> None:
    waiting = iter(rows)
    first = list(itertools.islice(waiting, 1))
    contract = first[0].units.contract if first else UnitContract()
    with writing(path) as temporary, open(temporary, "w", encoding="utf-8") as f:
        write_stream(f, itertools.chain(first, waiting), contract=contract)


DUMP = Format(
    name="dump",
    read=_read_dump,
    write=write_dump,
    fits=lambda path, head: path.is_dir() and (path / "dump.json").exists(),
    folder=True,
)
STREAM = Format(
    name="jsonl",
    read=_read_stream,
    write=_write_stream,
    fits=lambda path, head: head.lstrip(b"\xef\xbb\xbf").startswith(b"{") and b'"textless"' in head.split(b"\n")[0],
    suffixes=(".jsonl",),
)
