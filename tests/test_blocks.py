"""Rows in blocks are the same rows, read and written."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from textless import read_units, write_units
from textless.errors import ContractError, DumpError
from textless.exchange import base
from textless.exchange.formats import FORMATS
from textless.types import UnitContract, UnitRow, Units
from textless.units.blocks import Block, Rows, flat, grouped, n_rows
from textless.units.dump import Dump

CONTRACT = UnitContract(n_units=1200, frame_rate=50.0)
LENGTHS = (3, 0, 1, 40, 0, 7, 200, 2)


def block_of(seed, *, timed=False, largest=1200, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    units = rng.integers(0, largest, sum(lengths))
    units[1::3] = units[: len(units[1::3])]
    units = np.repeat(units, rng.integers(1, 4, len(units)))[: len(units)]
    return Block(
        ids=[f"r{seed}-{k}" for k in range(len(lengths))],
        units=units,
        ends=np.cumsum(lengths),
        contract=CONTRACT,
        durations=rng.integers(1, 5, len(units)) if timed else None,
        columns={
            "source": [f"r{seed}-{k}.wav" for k in range(len(lengths))],
            "samples": [320 * n + 80 for n in lengths],
        },
    )


def same(a, b):
    names = ("id", "speaker", "source", "offset", "samples", "units")
    a, b = ([tuple(getattr(row, n) for n in names) for row in rows] for rows in (a, b))
    return a == b


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_block_computes_what_its_rows_do(seed, timed):
    block = block_of(seed, timed=timed)
    rows = list(block)
    assert [len(row.units) for row in rows] == list(LENGTHS)
    assert [r.units.units.tolist() for r in block.frames()] == [r.units.frames().tolist() for r in rows]
    for dense, row in zip(block.deduplicated(), rows, strict=True):
        expected = row.units.deduplicated()
        assert dense.units.units.tolist() == expected.units.tolist()
        assert dense.units.durations.tolist() == expected.durations.tolist()
    assert block.texts(", ") == [", ".join(map(str, row.units.units.tolist())) for row in rows]
    assert same(block[2:5], rows[2:5])
    assert same(flat(block.pieces()), rows)
    repeating = [bool((r.units.units[1:] == r.units.units[:-1]).any()) for r in rows]
    assert block.repeats() == (repeating.index(True) if any(repeating) else None)


@pytest.mark.parametrize("lengths", [(2, 2), (2, 0, 2), (0, 2, 0, 0, 2, 0)])
def test_equal_units_on_either_side_of_a_seam_are_no_repetition(lengths):
    ids = [str(k) for k in range(len(lengths))]
    block = Block(ids=ids, units=np.array([1, 2, 2, 3]), ends=np.cumsum(lengths), contract=CONTRACT)
    assert block.repeats() is None
    assert [len(row.units) for row in block.deduplicated()] == list(lengths)


@pytest.mark.parametrize("largest", [10, 1000, 1 << 16, 1 << 20])
def test_texts_of_large_units(largest):
    block = replace(block_of(0, largest=largest), contract=UnitContract())
    assert block.texts("><Un") == ["><Un".join(map(str, row.units.units.tolist())) for row in block]


def test_what_is_not_sound_is_refused_by_its_rows():
    units, ends = np.array([1, 2]), np.array([1, 2])
    for wrong in (np.array([1, 1200]), np.array([1, -1])):
        block = Block(ids=["a", "b"], units=wrong, ends=ends, contract=CONTRACT)
        assert not block.is_sound()
        with pytest.raises(ContractError, match="outside the codebook"):
            list(block)
    block = Block(ids=["a", "b"], units=units, ends=ends, contract=CONTRACT, durations=np.array([1, 0]))
    assert not block.is_sound()


@pytest.mark.parametrize("size", [1, 3, 8, 50])
def test_groups_have_their_size(size):
    rows = [*block_of(1), *block_of(2), *block_of(3)]
    parts = [block_of(1), *block_of(2), block_of(3)]
    groups = list(grouped(parts, size))
    assert {sum(map(n_rows, g)) for g in groups[:-1]} <= {size}
    assert same(flat(part for g in groups for part in g), rows)


def test_rows_that_were_begun_go_on_in_blocks():
    rows = Rows([block_of(1), *block_of(2), block_of(3)])
    first = [next(rows) for _ in range(3)]
    assert same([*first, *flat(rows.blocks())], [*block_of(1), *block_of(2), *block_of(3)])


BLOCKS = sorted(name for name, f in FORMATS.items() if f.blocks)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("timed", [False, True])
def test_blocks_are_written_as_their_rows_are(tmp_path, name, timed):
    blocks = [block_of(seed, timed=timed) for seed in range(70)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a format does not hold
        write_units(tmp_path / "blocks", Rows(blocks), name)
        write_units(tmp_path / "rows", (row for block in blocks for row in block), name)
    files = sorted(p.relative_to(tmp_path / "rows") for p in (tmp_path / "rows").rglob("*") if p.is_file())
    for file in files or [""]:
        assert (tmp_path / "blocks" / file).read_bytes() == (tmp_path / "rows" / file).read_bytes()


@pytest.mark.parametrize("name", ["dump", "fairseq", "gslm", "kaldi", "ulm", "zerospeech"])
def test_what_is_read_in_blocks_are_the_rows(tmp_path, name, monkeypatch):
    monkeypatch.setattr(base, "BATCH", 300)
    given = [row for seed in range(3) for row in block_of(seed)]
    for row in given:  # fairseq compares lengths
        object.__setattr__(row, "samples", 320 * len(row.units) + 80)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_units(tmp_path / "x", given, name)
        parts = list(read_units(tmp_path / "x", name, contract=CONTRACT).blocks())
        monkeypatch.setattr("textless.exchange.lines.numbers_of", lambda *_: None)
        monkeypatch.setattr("textless.exchange.fairseq.numbers_of", lambda *_: None)
        monkeypatch.setattr(Dump, "blocks", Dump.__iter__)
        alone = list(read_units(tmp_path / "x", name, contract=CONTRACT).blocks())
    assert all(isinstance(part, Block) for part in parts)
    assert all(isinstance(part, UnitRow) for part in alone)
    assert same(flat(parts), alone)


def test_an_error_waits_for_its_line(tmp_path):
    (tmp_path / "g.txt").write_text("a|1 1\nb|2 2\nc|x\n")
    rows = read_units(tmp_path / "g.txt", "gslm", runs=False)
    assert [next(rows).id, next(rows).id] == ["a", "b"]
    with pytest.raises(DumpError, match=r"g\.txt, line 3: 'x' is not a unit"):
        next(rows)


def test_a_unit_beyond_what_is_declared_names_its_line(tmp_path):
    (tmp_path / "g.txt").write_text("a|1 1\nb|2 20\n")
    with pytest.raises(DumpError, match=r"g\.txt, line 2: unit 20 is outside"):
        list(read_units(tmp_path / "g.txt", n_units=20))
    write_units(tmp_path / "d", [UnitRow("a", Units(np.array([1, 20])))])
    with pytest.raises(ContractError, match="unit 20 is outside"):
        list(read_units(tmp_path / "d", n_units=20))
