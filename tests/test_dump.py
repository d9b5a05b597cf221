import io
import json
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import textless.units.dump as dump_module
from textless.errors import ContractError, DumpError
from textless.types import LONGEST_ROW, MOST_UNITS, UnitContract, Units
from textless.units.dump import (
    LONGEST,
    ROW_GROUP,
    Dump,
    UnitRow,
    finish_dump,
    open_dump,
    read_stream,
    write_shard,
    write_stream,
)

CONTRACT = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=300)


def rows(n, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    return [
        UnitRow(
            f"r{i}",
            Units.from_frames(rng.integers(0, 300, rng.integers(0, 20)).repeat(3), CONTRACT),
            source="x.wav",
            **kwargs,
        )
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
    """Shards are in a folder of their own, and columns that are all null keep their type."""
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
        json.dumps(
            units_identity(replace(row, units=Units(np.array([1, 2]), np.array([3, 4]), UnitContract(n_units=5))))
        )
        == identities[0]
    )


# --------------------------------------------------------------------------------------------------- what rows may hold

ODD_ROWS = [
    ({"id": None}, "id must be text, not 'None'"),
    ({"id": True}, "id must be text, not 'True'"),
    ({"id": 1.5}, "id must be text, not '1.5'"),
    ({"id": ["a"]}, "id must be text"),
    ({"id": ""}, "id is empty"),
    ({"id": "\ud800"}, "id is not Unicode text"),
    ({"speaker": False}, "speaker must be text"),
    ({"speaker": ["x"]}, "speaker must be text"),
    ({"source": 3.5}, "source must be text"),
    ({"offset": -1}, "offset must be a whole number of samples"),
    ({"offset": True}, "offset must be a whole number of samples"),
    ({"samples": 1.0}, "samples must be a whole number of samples"),
    ({"samples": 2**63}, "samples must be a whole number of samples"),
    ({"units": None}, "units must be integers, not null"),
    ({"units": [1, None]}, "units must be integers, not null"),
    ({"units": [1, True]}, "units must be integers, not true or false"),
    ({"units": [1, 2.0]}, "units must be integers"),
    ({"units": ["1", "2"]}, "units must be integers"),
    ({"units": "12"}, "units must be one-dimensional"),
    ({"units": {"a": 1}}, "units must be one-dimensional"),
    ({"units": [[1], [2]]}, "units must be one-dimensional"),
    ({"units": [[1], [2, 3]]}, "units must be one-dimensional"),
    ({"units": [1, -1]}, "unit -1 is outside"),
    ({"units": [1, 2**63]}, "units must be integers below 2\\^63"),
    ({"units": [1, 2**64]}, "units must be integers below 2\\^63"),
    ({"durations": [1]}, "2 units but 1 durations"),
    ({"durations": [1, 0]}, "durations must be at least 1 frame, not 0"),
    ({"durations": [1, -3]}, "durations must be at least 1 frame, not -3"),
    ({"durations": [1, 1.5]}, "durations must be integers"),
    ({"durations": [1, None]}, "durations must be integers, not null"),
    ({"durations": [2**63 - 1, 2**63 - 1]}, "the durations are more than 16777216 frames"),
    ({"durations": [LONGEST_ROW, 1]}, "the durations are more than 16777216 frames"),
    ({"frames": 4}, "frames is 4, but the units have 3 together"),
    ({"frames": "long"}, "frames is long, but the units have 3 together"),
    ({"frames": 3, "durations": None}, "frames is 3, but the units have 2 together"),
]


@pytest.mark.parametrize(("odd", "error"), ODD_ROWS)
def test_odd_rows_are_refused_in_a_stream_by_line(odd, error):
    row = {"id": "a", "units": [1, 2], "durations": [1, 2]} | odd
    with pytest.raises(DumpError, match=rf"u\.jsonl, line 2: .*{error}"):
        list(read_stream([HEADER, json.dumps(row)], name="u.jsonl"))


@pytest.mark.parametrize(
    ("odd", "error"), [(odd, error) for odd, error in ODD_ROWS if odd.keys() & {"id", "speaker", "offset", "samples"}]
)
def test_odd_rows_are_refused_in_python(odd, error):
    with pytest.raises(DumpError, match=error):
        UnitRow(**{"id": "a", "units": Units.of([1])} | odd)


def test_the_longest_row():
    durations = np.array([LONGEST_ROW - 1, 1])
    assert Units(np.array([0, 1]), durations).n_frames == LONGEST_ROW
    many = np.full(LONGEST_ROW // 32, 40)  # more frames, and units enough for them
    assert Units(np.zeros(len(many), np.int64), many).n_frames == 40 * len(many)


def test_whole_numbers_are_taken_as_text():
    line = json.dumps({"id": 5, "speaker": 7, "units": [1], "frames": 1, "durations": [1]})
    row = next(read_stream([HEADER, line]))
    assert (row.id, row.speaker, row.extra) == ("5", "7", {})
    assert UnitRow(np.int64(5), Units.of([1]), speaker=7).speaker == "7"


def test_a_source_that_is_not_unicode_is_spelled_out(tmp_path):
    row = UnitRow("a", Units.of([1], CONTRACT), source="caf\udce9.wav")
    assert make(tmp_path / "d", [[row]])[0].source == "caf\\udce9.wav"


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"version": "1"}, "version must be a whole number, not '1'"),
        ({"version": True}, "version must be a whole number"),
        ({"version": 2}, "version 2, this textless reads up to 1"),
        ({"contract": None}, "the contract is missing"),
        ({"contract": []}, "a contract must be an object"),
        ({"contract": {"n_units": "100"}}, "n_units must be a whole number from 1 to .*, not '100'"),
        ({"contract": {"n_units": 0}}, "n_units must be a whole number"),
        ({"contract": {"n_units": 2**40}}, "n_units must be a whole number"),
        ({"contract": {"layer": 1.5}}, "layer must be a whole number"),
        ({"contract": {"layer": True}}, "layer must be a whole number"),
        ({"contract": {"frame_rate": "fast"}}, "frame_rate must be a number"),
        ({"contract": {"frame_rate": -5}}, "frame_rate must be a number"),
        ({"contract": {"frame_rate": float("nan")}}, "frame_rate must be a number"),
        ({"contract": {"frame_rate": float("inf")}}, "frame_rate must be a number"),
        ({"contract": {"encoder": 5}}, "encoder must be text"),
        ({"contract": {"colour": 5}}, "unknown fields 'colour'"),
    ],
)
def test_odd_headers(tmp_path, header, error):
    """In a stream and in dump.json alike."""
    line = json.dumps({"textless": "units", "version": 1, "contract": {"n_units": 5}} | header)
    with pytest.raises(DumpError, match=f"u.jsonl, line 1: .*{error}"):
        list(read_stream([line, '{"id": "a", "units": [1]}'], name="u.jsonl"))
    make(tmp_path, [rows(2)])
    about = json.loads((tmp_path / "dump.json").read_text())
    (tmp_path / "dump.json").write_text(json.dumps(about | header))
    with pytest.raises(DumpError, match=rf"dump\.json: .*{error}"):
        open_dump(tmp_path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("null", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"textless": "dump", "ver', "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        ('{"textless": "units", "contract": {}}', "textless is 'units' where 'dump' is expected"),
        ('{"contract": {}, "totals": []}', "totals must be an object"),
        ('{"contract": {}, "totals": {"rows": "2"}}', "totals must be an object with whole numbers"),
        ('{"contract": {}, "totals": {"frames": -1}}', "totals must be an object with whole numbers"),
        ('{"contract": {}, "shards": []}', "shards must be an object"),
    ],
)
def test_odd_texts_of_dump_json(tmp_path, text, error):
    make(tmp_path, [rows(2)])
    (tmp_path / "dump.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DumpError, match=rf"dump\.json: .*{error}"):
        open_dump(tmp_path)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"id": "a", "units": [' + "9" * 5000 + "]}", "5", "null"])
def test_odd_lines_of_a_stream(line):
    with pytest.raises(DumpError, match="line 2: "):
        list(read_stream([HEADER, line]))


def test_a_stream_that_is_not_text(tmp_path):
    path = tmp_path / "u.jsonl"
    path.write_bytes(HEADER.encode() + b'\n{"id": "\xff", "units": [1]}\n')
    with pytest.raises(DumpError, match="cannot be read as text"):
        open_dump(path)
    path.write_bytes(
        b"\xef\xbb\xbf" + HEADER.encode() + b'\n{"id": "a", "units": [1]}\n'
    )  # as editors of Windows save it
    assert [r.id for r in open_dump(path)] == ["a"]


def test_parts_are_joined_in_one_go(monkeypatch):
    """A row of many parts costs what its units cost: each part is copied once."""
    joined, calls = np.concatenate, []
    monkeypatch.setattr(np, "concatenate", lambda arrays, *a, **k: calls.append(len(arrays)) or joined(arrays, *a, **k))
    lines = [json.dumps({"id": "a", "units": [n % 5], "durations": [2], "more": True}) for n in range(499)]
    (row,) = read_stream([HEADER, *lines, json.dumps({"id": "a", "units": [3], "durations": [1]})])
    assert row.units.units.tolist() == [n % 5 for n in range(499)] + [3]
    assert row.units.n_frames == 2 * 499 + 1
    assert calls == [500, 500]  # durations and units


# ------------------------------------------------------------------------------------------------------- extra columns


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1, 1.5], [1.0, 1.5]),
        ([None, "x"], [None, "x"]),
        ([None, None], [None, None]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}]),
        ([b"x", b"y"], [b"x", b"y"]),
        ([True, None], [True, None]),
        ([2**63 - 1, 0], [2**63 - 1, 0]),
        ([1, True], None),
        ([True, 1.0], None),
        ([1, "1"], None),
        (["x", b"x"], None),
        ([2**53 + 1, 0.5], None),
        ([2**63, 1], None),
        ([{"a": 1}, {"b": 2}], None),
        ([{}, {}], None),
        ([[1], "x"], None),
        (["\ud800", "x"], None),
        ([{1, 2}, None], None),
        ([json.loads("[" * 30 + "]" * 30), None], [json.loads("[" * 30 + "]" * 30), None]),
        ([json.loads("[" * 31 + "]" * 31), None], None),
        ([json.loads("[" * 900 + "]" * 900), None], None),
    ],
)
def test_an_extra_column_comes_out_as_it_went_in_or_is_named(tmp_path, values, kept):
    some = [UnitRow(f"r{n}", Units.of([n], CONTRACT), extra={"note": v}) for n, v in enumerate(values)]
    if kept is None:
        with pytest.raises(DumpError, match="note"):
            make(tmp_path / "d", [some])
        assert not list((tmp_path / "d" / "data").iterdir())
    else:
        back = [r.extra["note"] for r in make(tmp_path / "d", [some])]
        assert back == kept
        assert [isinstance(v, bool) for v in back] == [isinstance(v, bool) for v in values]


def test_an_extra_column_that_begins_late(tmp_path):
    some = rows(ROW_GROUP + 2)
    some[3] = UnitRow("early", Units.of([1], CONTRACT), extra={"note": "x"})
    assert [r.extra["note"] for r in make(tmp_path / "d", [some])][:5] == [None, None, None, "x", None]
    some[-1] = UnitRow("late", Units.of([1], CONTRACT), extra={"other": "x"})
    with pytest.raises(DumpError, match="late: column 'other' is in none of the first 256 rows"):
        make(tmp_path / "e", [some])
    some[-1] = UnitRow("late", Units.of([1], CONTRACT), extra={"note": 5})
    with pytest.raises(DumpError, match="column 'note' does not keep string"):
        make(tmp_path / "f", [some])


@pytest.mark.parametrize("name", ["id", "units", "durations", "frames", "speaker", "source", "offset", "samples"])
def test_extra_columns_have_names_of_their_own(name):
    with pytest.raises(DumpError, match=f"a: an extra column cannot be called {name}"):
        UnitRow("a", Units.of([1]), extra={name: 1})


def test_an_extra_column_that_is_no_json(tmp_path):
    out = io.StringIO()
    with pytest.raises(DumpError, match="a: the extra columns note cannot be written as JSON"):
        write_stream(out, [UnitRow("a", Units.of([1], CONTRACT), extra={"note": b"x"})], contract=CONTRACT)


# --------------------------------------------------------------------------------------------------- shards and damage


def three(folder):
    make(folder, [rows(3), [UnitRow("b", Units.of([1, 2], CONTRACT))], [UnitRow("c", Units.of([3], CONTRACT))]])
    return folder / "data"


@pytest.mark.parametrize("which", ["00000", "00001", "00002"])
@pytest.mark.parametrize("older", [False, True])
def test_a_shard_that_is_missing(tmp_path, which, older):
    """Dumps that list no shards have their number of rows."""
    data = three(tmp_path)
    if older:
        forget_shards(tmp_path)
        assert len(open_dump(tmp_path)) == 5
    (data / f"{which}.parquet").unlink()
    with pytest.raises(DumpError, match="a shard is missing" if older else f"{which}.parquet: this shard is missing"):
        open_dump(tmp_path)


def forget_shards(folder):
    about = json.loads((folder / "dump.json").read_text())
    del about["shards"]
    (folder / "dump.json").write_text(json.dumps(about))


def test_no_shard_at_all(tmp_path):
    data = three(tmp_path)
    forget_shards(tmp_path)
    about = json.loads((tmp_path / "dump.json").read_text())
    del about["totals"]
    (tmp_path / "dump.json").write_text(json.dumps(about))
    for shard in data.iterdir():
        shard.unlink()
    with pytest.raises(DumpError, match="shard is missing"):
        open_dump(tmp_path)


def test_shards_of_elsewhere(tmp_path):
    data = three(tmp_path / "d")
    other = three(tmp_path / "other")
    write_shard(other / "00001.parquet", [UnitRow("x", Units.of([1, 2], CONTRACT))], contract=CONTRACT)
    shutil.copy(other / "00001.parquet", data / "00001.parquet")
    with pytest.raises(DumpError, match=r"00001\.parquet: not the shard that dump\.json lists"):
        open_dump(tmp_path / "d")
    data = three(tmp_path / "swapped")
    (data / "00001.parquet").rename(data / "x")
    (data / "00002.parquet").rename(data / "00001.parquet")
    (data / "x").rename(data / "00002.parquet")
    with pytest.raises(DumpError, match="not the shard"):
        open_dump(tmp_path / "swapped")
    data = three(tmp_path / "more")
    shutil.copy(data / "00001.parquet", data / "00003.parquet")
    with pytest.raises(DumpError, match=r"00003\.parquet: not the shard"):
        open_dump(tmp_path / "more")
    (data / "00003.parquet").rename(data / "._00003.parquet")  # as macOS leaves them on other disks
    assert len(open_dump(tmp_path / "more")) == 5


def test_a_shard_of_another_contract(tmp_path):
    data = three(tmp_path)
    theirs = CONTRACT.with_(encoder="logmel")
    write_shard(data / "00001.parquet", [UnitRow("x", Units.of([1, 2], theirs))], contract=theirs)
    forget_shards(tmp_path)
    with pytest.raises(DumpError, match=r"00001\.parquet: is of another dump: its contract has another encoder"):
        open_dump(tmp_path)


@pytest.mark.parametrize("damage", ["shard", "dump.json"])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, damage):
    """In pages, their headers and the footer of a shard, and in dump.json."""
    make(tmp_path, [rows(6, extra={"note": "x"}, speaker="amy")])
    path = tmp_path / "dump.json" if damage == "dump.json" else tmp_path / "data" / "00000.parquet"
    whole, counts = path.read_bytes(), Counter()

    def read():
        return [
            (r.id, r.speaker, r.source, r.extra, r.units.units.tolist(), r.units.durations.tolist())
            for r in open_dump(tmp_path)
        ]

    right = read()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            counts["same" if read() == right else "other"] += 1
        except DumpError:
            counts["refused"] += 1
    assert counts["other"] == 0
    assert counts["refused"] > (len(whole) // 5) // (2 if damage == "shard" else 5)


@pytest.mark.parametrize("cut", [0, 3, 11, 200, -20, -1])
def test_a_shard_cut_short(tmp_path, cut):
    data = three(tmp_path)
    (data / "00001.parquet").write_bytes((data / "00001.parquet").read_bytes()[:cut])
    with pytest.raises(DumpError, match=r"00001\.parquet: "):
        open_dump(tmp_path)


def foreign(folder, columns, **about):
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "data" / "00000.parquet")
    (folder / "dump.json").write_text(json.dumps({"contract": CONTRACT.to_dict(), **about}))
    return folder


UNITS = pa.array([[1, 2], [3]])


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"units": UNITS}, "has no column id"),
        ({"id": ["a", "b"]}, "has no column units"),
        (
            {"id": ["a", "b"], "units": pa.array([[1.0, 2.0], [3.0]])},
            "column units holds list<.*double.*> where lists of integers are expected",
        ),
        ({"id": ["a", "b"], "units": pa.array([1, 2])}, "column units holds int64"),
        ({"id": ["a", "b"], "units": pa.array([[True], [False]])}, "column units holds list<.*bool"),
        ({"id": ["a", "b"], "units": UNITS, "durations": ["x", "y"]}, "column durations holds string"),
        ({"id": ["a", None], "units": UNITS}, "row 1 .None.: id must be text"),
        ({"id": [1.5, 2.5], "units": UNITS}, "row 0 .1.5.: id must be text"),
        ({"id": ["a", "b"], "units": pa.array([[1], None])}, "row 1 .b.: units must be integers, not null"),
        ({"id": ["a", "b"], "units": pa.array([[1], [None]])}, "row 1 .b.: units must be integers, not null"),
        (
            {"id": ["a", "b"], "units": UNITS, "durations": pa.array([[1, 2], [None]])},
            "row 1 .b.: durations must be integers, not null",
        ),
        (
            {"id": ["a", "b"], "units": UNITS, "durations": pa.array([[1, 2], [1, 2]])},
            "row 1 .b.: 1 units but 2 durations",
        ),
        (
            {"id": ["a", "b"], "units": pa.array([[1], [2**63]], pa.list_(pa.uint64()))},
            "row 1 .b.: units must be integers below",
        ),
        ({"id": ["a", "b"], "units": pa.array([[1], [300]])}, "row 1 .b.: unit 300 is outside the codebook of 300"),
        (
            {"id": ["a", "b"], "units": UNITS, "durations": pa.array([[1, 2], [4]]), "frames": [3, 5]},
            "row 1 .b.: frames is 5",
        ),
        ({"id": ["a", "b"], "units": UNITS, "offset": [0, -1]}, "row 1 .b.: offset must be a whole number"),
    ],
)
def test_shards_of_other_programs_that_are_no_dumps(tmp_path, columns, error):
    with pytest.raises(DumpError, match=rf"00000\.parquet.* {error}"):
        list(open_dump(foreign(tmp_path / "d", columns)))


def test_shards_of_other_programs(tmp_path):
    """Without durations, or with null in their place; with wider types, and without what is not needed."""
    some = {
        "id": [1, 2],
        "units": pa.array([[1, 2], [3]], pa.large_list(pa.int32())),
        "durations": pa.array([None, [4]]),
    }
    first, second = open_dump(foreign(tmp_path / "d", some, totals=None))
    assert (first.id, first.units.units.tolist(), first.units.durations, first.source) == ("1", [1, 2], None, "")
    assert (second.id, second.units.units.tolist(), second.units.durations.tolist()) == ("2", [3], [4])


def test_a_row_group_of_more_than_memory(tmp_path, monkeypatch):
    """A few bytes of parquet may promise any number of equal values."""
    from textless.units import dump

    folder = foreign(tmp_path / "d", {"id": ["a"], "units": pa.array([[0] * 3000])})
    assert len(open_dump(folder)) == 1
    monkeypatch.setattr(dump, "MOST_VALUES", 2999)
    with pytest.raises(DumpError, match="a row group of 3000 values"):
        open_dump(folder)


def test_dumps_of_earlier_versions_are_read(tmp_path):
    """Written without checksums and without a list of shards."""
    dump = make(tmp_path / "d", [rows(5)])
    some = [(r.id, r.units.units.tolist()) for r in dump]
    table = pq.read_table(tmp_path / "d" / "data" / "00000.parquet")
    pq.write_table(table, tmp_path / "d" / "data" / "00000.parquet", compression="zstd")
    forget_shards(tmp_path / "d")
    assert [(r.id, r.units.units.tolist()) for r in open_dump(tmp_path / "d")] == some


def test_more_shards_than_files_may_be_open(tmp_path):
    make(tmp_path, [[UnitRow(f"r{n}", Units.of([n], CONTRACT))] for n in range(90)])
    code = """
import resource, sys, textless
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
dump = textless.open_dump(sys.argv[1])
print([r.units.units[0].item() for r in dump] == list(range(90)) and dump[89].id)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("r89\n", 0), done.stderr


def test_units_of_a_codebook_of_unknown_size(tmp_path):
    contract = UnitContract(frame_rate=50.0)
    (tmp_path / "data").mkdir()
    write_shard(
        tmp_path / "data" / "0.parquet", [UnitRow("a", Units.of([MOST_UNITS - 1, 1], contract))], contract=contract
    )
    finish_dump(tmp_path, contract=contract)
    assert open_dump(tmp_path)[0].units.units.tolist() == [MOST_UNITS - 1, 1]
    with pytest.raises(ContractError, match=f"unit {MOST_UNITS} is outside any codebook"):
        Units.of([MOST_UNITS])


def test_a_dump_of_many_shards_is_opened_at_once_and_checked_as_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("textless.units.dump.CHECKED", 4)
    (tmp_path / "data").mkdir()
    for k in range(6):
        rows = [UnitRow(f"{k}-{j}", Units(np.array([k, j]))) for j in range(3)]
        write_shard(tmp_path / "data" / f"{k:05d}.parquet", rows, contract=UnitContract())
    finish_dump(tmp_path, contract=UnitContract())
    opened = []
    plain = dump_module._opened
    monkeypatch.setattr(dump_module, "_opened", lambda shard: opened.append(shard.name) or plain(shard))
    dump = Dump(tmp_path)
    assert (len(dump), opened) == (18, [])
    assert dump[4].id == "1-1"
    assert len(set(opened)) == 2
    ids = [f"{k}-{j}" for k in range(6) for j in range(3)]
    assert [row.id for row in dump] == ids
    assert [row.id for part in Dump(tmp_path).blocks() for row in part] == ids
    assert [dump[-1].id, dump[17].id] == ["5-2", "5-2"]
    (tmp_path / "data" / "00003.parquet").write_bytes((tmp_path / "data" / "00002.parquet").read_bytes())
    dump = Dump(tmp_path)
    assert dump[0].id == "0-0"
    with pytest.raises(DumpError, match=r"00003\.parquet: not the shard that dump\.json lists"):
        list(dump)
    (tmp_path / "data" / "00003.parquet").unlink()
    with pytest.raises(DumpError, match=r"00003\.parquet: this shard is missing"):
        Dump(tmp_path)
