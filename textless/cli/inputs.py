"""Inputs of commands: audio, dumps, streams, standard input."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from textless.audio.corpus import Corpus, Row, load_sources
from textless.audio.io import AUDIO, MEDIA
from textless.cli.locks import sole
from textless.engine.job import Progress
from textless.errors import ContractError, DumpError
from textless.exchange.base import Format
from textless.exchange.formats import find_format, read_units
from textless.model import Model
from textless.types import UnitContract
from textless.units.dump import UnitRow, read_stream
from textless.units.merges import FILE, MergeTable


class StandardInput:
    """The inputs, with `-` replaced by a temporary file that holds standard input."""

    def __init__(self, inputs: list[str]) -> None:
        self.inputs = inputs

    def __enter__(self) -> list[str]:
        self.stack = contextlib.ExitStack()
        if "-" not in self.inputs:
            return self.inputs
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(sole(Path(tempfile.gettempdir()) / f"stdin.{uuid.uuid4().hex}"))
            folder.mkdir(mode=0o700)
            with open(folder / "stdin.wav", "wb") as f:
                shutil.copyfileobj(sys.stdin.buffer, f)
            self.stack = stack.pop_all()
        return [str(folder / "stdin.wav") if i == "-" else i for i in self.inputs]

    def __exit__(self, *_: object) -> None:
        self.stack.close()


def tokenize_files(
    rows: Iterable[Row],
    tokenizer: Any,
    progress: Progress,
    watch: Callable[[UnitRow, float | None], None] = lambda row, distance: None,
) -> Iterator[tuple[Any, Any]]:
    from textless.units.tokenizer import tokenize

    rows = list(rows)
    for n, result in enumerate(tokenize(rows, tokenizer, watch=watch), 1):
        yield result
        progress(n, len(rows), "files")


def unit_rows(
    inputs: list[str],
    models: Model,
    contract: str | None,
    *,
    runs: bool | None = None,
    parts: bool = False,
    stdin: Iterable[str] | None = None,
    base: bool = False,
) -> Iterator[tuple[Any, Any]]:
    """(source, UnitRow or AudioError) of every input: a stream, a dump, or audio, which is encoded.

    Args:
        runs: whether unit files that do not say it hold runs.
        parts: rows that standard input holds in parts are not joined.
        stdin: the lines of standard input, if some were read already.
        base: merged units are expanded.
    """
    declared = declared_contract(contract)
    tokenizer = None
    audio = [name for name in inputs if not holds_units(name)]
    sources = load_sources(audio) if audio else []  # together, so that their ids differ
    Corpus(row for source in sources for row in source)
    waiting = iter(sources)
    for name in inputs:
        if chosen := _unit_format(name):
            units: Iterable[UnitRow] = read_units(name, chosen.name, contract=declared, runs=runs)
            yield from ((r, r) for r in (_expanded(name, units) if base else units))
            continue
        if name == "-":
            units = read_stream(stdin or sys.stdin, parts=parts)
            rows: Iterable[tuple[Any, Any]] = ((r, r) for r in (_expanded(name, units) if base else units))
        else:
            tokenizer = tokenizer or models.tokenizer
            rows = tokenize_files(next(waiting), tokenizer, lambda done, total, what: None)
        for source, row in rows:
            yield source, _declare(row, declared) if contract and isinstance(row, UnitRow) else row


def _expanded(name: str, rows: Iterable[UnitRow]) -> Iterator[UnitRow]:
    """Merged units as those of the codebook, by the table in the folder of their dump."""
    table = None
    for row in rows:
        if row.units.contract.merges:
            if name == "-":
                raise DumpError(
                    f"standard input: its units are merged, and {FILE} is not with them; give the merged dump"
                )
            table = table or MergeTable.of(name, row.units.contract)
            assert table is not None  # of merged units
            row = table.expand_row(row)
        yield row


def holds_units(name: str) -> bool:
    """Whether an input is a stream, a dump or another tool's unit file, not audio."""
    return name == "-" or _unit_format(name) is not None


def _unit_format(name: str) -> Format | None:
    """The format of an input that holds units."""
    path = Path(name)
    if name == "-" or path.suffix.lower() in AUDIO + MEDIA or not path.exists():
        return None
    return find_format(path)


def declared_contract(path: str | None) -> UnitContract:
    """The contract in a file of `--contract`; all unknown without one."""
    if path is None:
        return UnitContract()
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return UnitContract.from_dict(data.get("contract", data) if isinstance(data, dict) else data)
    except (OSError, ValueError, RecursionError, ContractError) as e:
        raise ContractError(f"{path}: not a contract ({e})") from None


def _declare(row: UnitRow, declared: UnitContract) -> UnitRow:
    """Fill in the fields that the row's contract leaves unknown. Raises ContractError where one is known to differ."""
    if name := row.units.contract.conflict(declared):
        raise ContractError(
            f"{row.id}: {name} is {getattr(row.units.contract, name)} in these units "
            f"but {getattr(declared, name)} in --contract; "
            "declare only what they leave unknown"
        )
    known = {k: v for k, v in row.units.contract.to_dict().items() if v is not None}
    contract = declared.with_(**known)
    return replace(row, units=replace(row.units, contract=contract))
