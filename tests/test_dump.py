import io
import json

import numpy as np
import pytest

from textless.errors import ContractError, DumpError
from textless.units.dump import LONGEST, ROW_GROUP, Dump, UnitRow, finish_dump, open_dump, read_stream, write_shard, write_stream
from textless.units.types import UnitContract, Units

CONTRACT = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=300)


def rows(n, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    return [
        UnitRow(f"r{i}", Units.from_frames(rng.integers(0, 300, rng.integers(0, 20)).repeat(3), CONTRACT), source="x.wav", **kwargs)
        for i in range(n)
    ]


def make(folder, shards, **kwargs):
    (folder / "data").mkdir(parents=True)
    for i, shard in enumerate(shards):
        write_shard(folder / "data" / f"{i:05d}.parquet", shard, contract=CONTRACT, **kwargs)
    finish_dump(folder, contract=CONTRACT)
    return open_dump(folder)


def test_round_trip_and_random_access(tmp_path):
    many = rows(ROW_GROUP * 2 + 7)
    dump = make(tmp_path / "d", [many[: ROW_GROUP + 3], [], many[ROW_GROUP + 3 :]])
    assert len(dump) == len(many)
    assert dump.contract == CONTRACT
    assert [r.id for r in dump] == [r.id for r in many]
    for i in (0, ROW_GROUP - 1, ROW_GROUP, ROW_GROUP + 3, len(many) - 1, -1):
        assert dump[i].id == many[i].id
        assert dump[i].units == many[i].units
    with pytest.raises(IndexError):
        dump[len(many)]
    assert dump.totals["frames"] == sum(r.units.n_frames for r in many)
    assert dump.totals["hours"] == round(dump.totals["frames"] / 50 / 3600, 4) > 0


def test_frame_units_have_no_durations(tmp_path):
    dump = make(tmp_path / "d", [rows(3)], durations=False)
    assert dump[1].units.durations is None
    assert np.array_equal(dump[1].units.frames(), rows(3)[1].units.frames())


def test_a_long_run_is_split(tmp_path):
    units = Units(np.array([7, 8]), np.array([2 * LONGEST + 5, 3]), CONTRACT)
    back = make(tmp_path / "d", [[UnitRow("long", units)]])[0].units
    assert back.units.tolist() == [7, 7, 7, 8]
    assert back.durations.tolist() == [LONGEST, LONGEST, 5, 3]
    assert back.n_frames == units.n_frames


def test_opens_in_pandas_and_polars(tmp_path):
    """Shards stand apart from other files, and columns that are all null keep their type."""
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    make(tmp_path / "d", [rows(4), rows(0), [UnitRow("z", Units.of([1], CONTRACT), speaker="s")]])
    frame = pandas.read_parquet(tmp_path / "d" / "data")
    assert frame["id"].tolist() == ["r0", "r1", "r2", "r3", "z"]
    table = polars.read_parquet(tmp_path / "d" / "data" / "*.parquet")
    assert table.schema["speaker"] == polars.String
    assert table.schema["units"] == polars.List(polars.UInt16)


def test_extra_columns_are_kept(tmp_path):
    dump = make(tmp_path / "d", [rows(2, extra={"sample": 3, "note": "x"})])
    assert dump[0].extra == {"sample": 3, "note": "x"}


def test_units_of_another_contract_are_refused_and_nothing_is_left(tmp_path):
    other = UnitRow("o", Units.of([1], CONTRACT.with_(n_units=50)))
    with pytest.raises(ContractError, match="n_units is 50 in o but 300 in the dump"):
        write_shard(tmp_path / "0.parquet", [*rows(2), other], contract=CONTRACT)
    assert list(tmp_path.iterdir()) == []


def test_not_a_dump(tmp_path):
    with pytest.raises(DumpError, match="not a unit dump"):
        open_dump(tmp_path)
    (tmp_path / "dump.json").write_text(json.dumps({"version": 99, "contract": {}}))
    with pytest.raises(DumpError, match="upgrade"):
        open_dump(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    make(tmp_path / "d", [rows(2)])
    shard = tmp_path / "d" / "data" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DumpError, match=r"00000\.parquet: cannot be read"):
        Dump(tmp_path / "d")


def test_stream_round_trip(tmp_path):
    some = [*rows(3, speaker="amy"), UnitRow("f", Units.of([1, 1], CONTRACT), extra={"k": 1})]
    text = io.StringIO()
    assert write_stream(text, some, contract=CONTRACT) == 4
    back = list(read_stream(text.getvalue().splitlines()))
    assert [r.units for r in back] == [r.units for r in some]
    assert back[0].speaker == "amy"
    assert back[3].units.durations is None
    assert back[3].extra == {"k": 1}
    (tmp_path / "u.jsonl").write_text(text.getvalue())
    assert len(open_dump(tmp_path / "u.jsonl")) == 4


HEADER = json.dumps({"textless": "units", "version": 1, "contract": {"n_units": 5}})


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([], "is empty"),
        (['{"id": "a", "units": [1]}'], "line 1: the first line must be the header"),
        ([HEADER, "{"], "line 2"),
        ([HEADER, '{"id": "a"}'], "line 2: 'units' is missing"),
        ([HEADER, '{"id": "a", "units": [7]}'], "line 2: unit 7 is outside the codebook of 5"),
        ([HEADER, '{"id": "a", "units": [1, 2], "durations": [1]}'], "line 2: 2 units but 1 durations"),
    ],
)
def test_stream_errors_name_the_line(lines, error):
    with pytest.raises(DumpError, match=error):
        list(read_stream(lines, name="u.jsonl"))


def test_stream_refuses_fractions():
    with pytest.raises(DumpError, match="line 2"):
        list(read_stream([HEADER, '{"id": "a", "units": [1.5]}']))


def test_rows_of_units_are_told_apart_by_all_that_makes_them():
    from dataclasses import replace

    from textless.steps.common import units_identity

    row = UnitRow(id="a", units=Units(np.array([1, 2]), np.array([3, 4]), UnitContract(n_units=5)), speaker="s")
    others = [
        replace(row, id="b"),
        replace(row, speaker=None),
        replace(row, extra={"x": 1}),
        replace(row, units=Units(np.array([1, 3]), np.array([3, 4]), UnitContract(n_units=5))),
        replace(row, units=Units(np.array([1, 2]), np.array([3, 5]), UnitContract(n_units=5))),
        replace(row, units=Units(np.array([1, 2]), None, UnitContract(n_units=5))),
        replace(row, units=Units(np.array([1, 2]), np.array([3, 4]), UnitContract(n_units=6))),
    ]
    identities = [json.dumps(units_identity(r)) for r in (row, *others)]
    assert len(set(identities)) == len(identities)
    assert (
        json.dumps(units_identity(replace(row, units=Units(np.array([1, 2]), np.array([3, 4]), UnitContract(n_units=5))))) == identities[0]
    )
