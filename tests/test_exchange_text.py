"""Unit files of a line of text a row: fairseq, GSLM, textlesslib, ZeroSpeech 2021, Kaldi, ESPnet.

Fixtures are written by hand after the originals' sources, which each test names.
"""

import warnings

import numpy as np
import pytest

from textless import read_units, write_units
from textless.errors import ContractError, ContractWarning, DumpError, TextlessError
from textless.exchange.formats import find_format
from textless.types import UnitContract, UnitRow, Units

K100 = UnitContract(frame_rate=50.0, n_units=100)


def read(path, *args, **options):
    return [(r.id, r.units.units.tolist()) for r in read_units(path, *args, **options)]


def put(folder, **files):
    """Files by name, where `__` is a dot."""
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8", newline="")
    return folder


def named(path):
    found = find_format(path)
    return found and found.name


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# -------------------------------------------------------------------------------------------------------------- fairseq

# facebookresearch/fairseq examples/wav2vec/wav2vec_manifest.py: root, then PATH<TAB>FRAMES;
# examples/hubert/simple_kmeans/
# dump_km_label.py: units with a space between, a line a file; README.md there: `seq 0 K-1`, each with " 1" behind it.
TSV = "/data/LibriSpeech\n84/121123/84-121123-0000.flac\t1680\n84/121550/84-121550-0001.flac\t1040\n"
KM = "71 71 12 12 12\n5 5 5\n"
DICT = "".join(f"{k} 1\n" for k in range(100))


@pytest.fixture
def labels(tmp_path):
    return put(tmp_path, train__tsv=TSV, train__km=KM, dict__km__txt=DICT)


def test_fairseq_labels_have_the_names_of_their_manifest(labels):
    for path in (labels / "train.km", labels / "train.tsv", labels):
        rows = list(read_units(path, "fairseq"))
        assert [(r.id, r.units.units.tolist()) for r in rows] == [
            ("84-121123-0000", [71, 71, 12, 12, 12]),
            ("84-121550-0001", [5, 5, 5]),
        ]
        assert [r.source for r in rows] == ["84/121123/84-121123-0000.flac", "84/121550/84-121550-0001.flac"]
        assert [(r.offset, r.samples) for r in rows] == [(0, 1680), (0, 1040)]
        assert {r.units.contract for r in rows} == {UnitContract(n_units=100)}
        assert all(r.units.durations is None and r.extra == {} for r in rows)
    assert named(labels) == named(labels / "train.km") == "fairseq"
    assert named(labels / "train.tsv") is None


def test_fairseq_files_of_one_stem_are_called_by_their_paths(labels):
    put(labels, train__tsv="/data\na/001.wav\t1680\nb/001.wav\t1040\n")
    assert [name for name, _ in read(labels / "train.km")] == ["a/001", "b/001"]
    put(labels, train__tsv="/data\na/001.wav\t1680\na/001.flac\t1040\n")
    with pytest.raises(DumpError, match=r"train\.km, line 2: id 'a/001' comes twice, first in .*train\.km, line 1"):
        read(labels / "train.km")


def test_a_km_alone_is_called_by_its_lines(tmp_path):
    put(tmp_path, train__km=KM)
    assert read(tmp_path / "train.km") == [("1", [71, 71, 12, 12, 12]), ("2", [5, 5, 5])]
    assert named(tmp_path / "train.km") == "fairseq"


def test_a_line_of_labels_may_hold_no_unit_or_one(tmp_path):
    put(tmp_path, train__km="\n7\n3 3")
    assert read(tmp_path / "train.km") == [("1", []), ("2", [7]), ("3", [3, 3])]


def test_a_folder_of_labels_is_all_its_splits(labels):
    put(labels, valid__tsv="/data/LibriSpeech\n1/2/1-2-3.flac\t720\n", valid__km="9 9\n")
    rows = list(read_units(labels))
    assert [(r.id, r.extra) for r in rows] == [
        ("84-121123-0000", {"split": "train"}),
        ("84-121550-0001", {"split": "train"}),
        ("1-2-3", {"split": "valid"}),
    ]
    (labels / "valid.tsv").unlink()
    assert [r.id for r in read_units(labels)][2] == "valid-1"


@pytest.mark.parametrize("km", ["71 71\n", "71 71\n5\n6\n", "71 71\n\n5\n"])
def test_labels_and_manifest_of_other_lengths_are_refused_before_the_first_row(labels, km):
    put(labels, train__km=km)
    with pytest.raises(DumpError, match=r"train\.km, line [23]: [13] lines, but train\.tsv lists 2 files; make both"):
        next(read_units(labels / "train.km"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_count_as_they_are_read(labels, end):
    put(labels, train__km=KM.replace("\n", end))
    assert len(read(labels)) == 2


def test_a_unit_outside_the_dictionary_is_refused(labels):
    put(labels, train__km="71 71\n5 100 5\n")
    with pytest.raises(DumpError, match=r"train\.km, line 2: unit 100 is outside the codebook of 100 units"):
        read(labels)


def test_a_dictionary_of_another_size_than_declared_is_refused(labels):
    with pytest.raises(ContractError, match=r"dict\.km\.txt: lists 100 units, but n_units is 50"):
        read(labels, n_units=50)


def test_a_dictionary_with_gaps_says_nothing_of_the_codebook(labels):
    # fairseq/data/dictionary.py: in the order of counts, filled up; a unit that never occurs is not in it.
    put(labels, dict__km__txt="12 30\n71 20\nmadeupword0000 0\n")
    assert next(read_units(labels)).units.contract.n_units is None


@pytest.mark.parametrize(
    ("wrong", "line"),
    [("/data\na.wav 1680\nb.wav\t1040\n", 2), ("/data\na.wav\t1680\nb.wav\t1.5\n", 3), ("/data\na.wav\t1\n\t5\n", 3)],
)
def test_a_manifest_that_is_none_is_refused(labels, wrong, line):
    put(labels, train__tsv=wrong)
    with pytest.raises(DumpError, match=rf"train\.(tsv|km), line ({line}|1): "):
        read(labels / "train.km", runs=True)


def test_a_manifest_of_another_corpus_is_refused(tmp_path):
    lengths = [30, 60, 90]
    put(
        tmp_path,
        train__km="".join("7 " * (n - 1) + "7\n" for n in lengths),
        train__tsv="/data\n" + "".join(f"{n}.wav\t{320 * n + 80}\n" for n in reversed(lengths)),
    )
    with pytest.raises(
        DumpError, match=r"train\.km, line 1: 30 units for 28880 samples in train\.tsv, line 2, where a"
    ):
        read(tmp_path / "train.km", frame_rate=50)
    with pytest.raises(
        DumpError, match=r"train\.km, line 2: .* where line 1 has 963 a frame; the manifest is of another"
    ):
        read(tmp_path / "train.km")
    put(tmp_path, train__tsv="/data\n" + "".join(f"{n}.wav\t{320 * n + 80}\n" for n in lengths))
    assert len(read(tmp_path / "train.km", frame_rate=50)) == len(read(tmp_path / "train.km")) == 3


def test_labels_of_other_rates_are_taken(tmp_path):
    # HuBERT's first labels are of MFCC at 100 Hz; a file of 24 kHz is counted at its own rate.
    put(tmp_path, a__km="7 " * 99 + "7\n" + "8 " * 49 + "8\n", a__tsv="/data\na.wav\t16000\nb.wav\t8000\n")
    assert len(read(tmp_path / "a.km")) == len(read(tmp_path / "a.km", frame_rate=100)) == 2


def test_paths_may_be_any_bytes(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"/data\n\xff.wav\t1680\n")
    put(tmp_path, a__km="7 7\n")
    (row,) = read_units(tmp_path / "a.km")
    assert (row.id, row.source) == ("\\udcff", "\\udcff.wav")


def test_a_folder_for_fairseq_is_byte_for_byte_as_its_tools_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contract = UnitContract(n_units=5, frame_rate=50.0)
    rows = [
        UnitRow("a", Units([3, 1], [2, 1], contract), source="x/a.wav", samples=1040),
        UnitRow("b", Units([0, 0], None, contract), source="b.wav", samples=720),
    ]
    with pytest.warns(ContractWarning, match="sources are relative"):
        write_units(tmp_path / "out", rows, "fairseq")
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir() if p.name != "contract.json"} == {
        "train.tsv": f"{tmp_path}\nx/a.wav\t1040\nb.wav\t720\n",
        "train.km": "3 3 1\n0 0\n",
        "dict.km.txt": "0 1\n1 1\n2 1\n3 1\n4 1\n",
    }
    back = list(read_units(tmp_path / "out"))
    assert [(r.id, r.source, r.samples) for r in back] == [(r.id, r.source, r.samples) for r in rows]
    assert [r.units.frames().tolist() for r in back] == [[3, 3, 1], [0, 0]]
    assert {r.units.contract for r in back} == {contract}


def test_absolute_sources_and_splits_come_back(tmp_path):
    rows = [
        UnitRow(n, Units([1, 1], None, K100), source=f"/data/{n}.wav", samples=720, extra={"split": split})
        for n, split in (("a", "train"), ("b", "train"), ("c", "valid"))
    ]
    write_units(tmp_path / "out", rows, "fairseq")
    assert (tmp_path / "out" / "train.tsv").read_text() == "/\ndata/a.wav\t720\ndata/b.wav\t720\n"
    back = list(read_units(tmp_path / "out"))
    assert [(r.id, r.source, r.extra, r.units) for r in back] == [(r.id, r.source, r.extra, r.units) for r in rows]


def test_a_km_is_written_with_its_companions(tmp_path):
    row = UnitRow("a", Units([1, 1], None, K100), source="/data/a.wav", samples=720)
    write_units(tmp_path / "train.km", [row])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dict.km.txt",
        "train.km",
        "train.km.contract.json",
        "train.tsv",
    ]
    write_units(tmp_path / "valid.km", [row])  # of one dictionary
    other = UnitRow("a", Units([1, 1], None, K100.with_(n_units=50)), source="/data/a.wav", samples=720)
    with pytest.raises(DumpError, match=r"dict\.km\.txt: exists, and is another"):
        write_units(tmp_path / "test.km", [other])
    assert not (tmp_path / "test.km").exists()


def test_what_fairseq_does_not_know_is_said_or_refused(tmp_path):
    part = UnitRow("a", Units([1, 1], None, K100), source="/data/a.wav", offset=5, samples=720)
    with pytest.raises(DumpError, match=r"a: is a part of '/data/a.wav'"):
        write_units(tmp_path / "out", [part], "fairseq")
    with pytest.raises(DumpError, match="a: neither its samples nor its frame rate are known"):
        write_units(tmp_path / "out", [UnitRow("a", Units([1, 1]), source="/a.wav")], "fairseq")
    assert not list(tmp_path.iterdir())
    bare = UnitRow("a", Units([1, 7], None, UnitContract(frame_rate=50.0)), speaker="s", extra={"text": "x"})
    with pytest.warns(ContractWarning) as said:
        write_units(tmp_path / "out", [bare, UnitRow("b", bare.units)], "fairseq")
    texts = [str(w.message) for w in said]
    assert len(texts) == 6
    for part in ("no source", "relative", "samples", "extra", "n_units is unknown", "cannot hold speaker"):
        assert sum(part in t for t in texts) >= 1, part
    assert (tmp_path / "out" / "train.tsv").read_text().split("\n", 1)[1] == "a.wav\t640\nb.wav\t640\n"
    assert len((tmp_path / "out" / "dict.km.txt").read_text().splitlines()) == 8


# ----------------------------------------------------------------------------------------------------------------- GSLM


def test_gslm(tmp_path):
    # fairseq examples/textless_nlp/gslm/speech2unit/clustering/quantize_with_kmeans.py: f"{base_fname}|{pred_str}\n"
    put(tmp_path, q="84-121123-0000|71 71 12\ntalk_|5\na|b|3 3\nnone|\n")
    assert named(tmp_path / "q") == "gslm"
    assert read(tmp_path / "q") == [("84-121123-0000", [71, 71, 12]), ("talk_", [5]), ("a|b", [3, 3]), ("none", [])]


def test_gslm_without_names_is_called_by_its_lines(tmp_path):
    put(tmp_path, q="71 71 12\n5 5\n")  # --hide-fname
    assert named(tmp_path / "q") == "gslm"
    assert read(tmp_path / "q") == [("1", [71, 71, 12]), ("2", [5, 5])]


def test_text_of_a_unit_lm_is_runs(tmp_path):
    # fairseq examples/textless_nlp/gslm/ulm/README.md: units with a space between, repetitions removed
    put(tmp_path, train="71 12 71\n5 7\n")
    rows = list(read_units(tmp_path / "train", "ulm", frame_rate=50.0))
    assert [r.units.units.tolist() for r in rows] == [[71, 12, 71], [5, 7]]
    assert {r.units.contract for r in rows} == {UnitContract()}
    with pytest.warns(ContractWarning, match=r"train: nothing in it .* taken as frames"):
        rows = list(read_units(tmp_path / "train", frame_rate=50.0))
    assert {r.units.contract for r in rows} == {UnitContract(frame_rate=50.0)}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a|1 1\nb 2\n", r"q, line 2: 'b 2' is not NAME\|UNITS"),
        ("a|1 1\nb|2 -3\n", "q, line 2: '-3' is not a unit"),
        ("a|1 1\nb|2.5\n", "q, line 2: '2.5' is not a unit"),
        ("a|1 1\na|2\n", "q, line 2: id 'a' comes twice, first in .*q, line 1"),
        ("a|1 1\n|2\n", "q, line 2: id is empty"),
        ("a|1 1\nb|2 100\n", "q, line 2: unit 100 is outside .*--n-units"),
        ("a|12-45 3-4\n", "q, line 1: '12-45' is a group of several codebooks"),
    ],
)
def test_gslm_that_is_wrong_names_its_line(tmp_path, text, error):
    put(tmp_path, q=text)
    with pytest.raises(DumpError, match=error):
        read(tmp_path / "q", "gslm", n_units=100)


# ---------------------------------------------------------------------------------------------------------- textlesslib

# facebookresearch/textlesslib tools/distributed_transcribe/transcribe.py: f"{name}\t{stream}" with --preserve_name;
# the streams
# are written apart, and merge_files strips each line.


def test_textlesslib_with_durations_is_runs(tmp_path):
    put(tmp_path, x__units="a\t71 12 71\nb\t5\nc\n", x__durations="a\t2 1 3\nb\t4\nc\n")
    put(tmp_path, y__units="a\t7,12,7\nb\t5\n", y__durations="a\t2,1,3\nb\t4\n")  # --separator ,
    assert named(tmp_path / "y.units") == "textlesslib"
    assert named(tmp_path / "x.units") == "textlesslib"
    rows = list(read_units(tmp_path / "x.units"))
    assert [(r.id, r.units.units.tolist(), r.units.durations.tolist()) for r in rows] == [
        ("a", [71, 12, 71], [2, 1, 3]),
        ("b", [5], [4]),
        ("c", [], []),
    ]


@pytest.mark.parametrize("separator", [" ", ",", "_", "|", "::"])
def test_textlesslib_separators(tmp_path, separator):
    put(tmp_path, x__units=f"7{separator}71{separator}7\n\n5\n", x__durations=f"1{separator}2{separator}3\n\n5\n")
    rows = list(read_units(tmp_path / "x.units", "textlesslib"))
    assert [(r.id, r.units.units.tolist()) for r in rows] == [("1", [7, 71, 7]), ("2", []), ("3", [5])]
    assert rows[0].units.durations.tolist() == [1, 2, 3]


def test_textlesslib_without_durations_is_frames(tmp_path):
    put(tmp_path, x__units="a\t71 71\n")
    assert read(tmp_path / "x.units") == [("a", [71, 71])]
    with pytest.raises(DumpError, match=r"x\.units, line 1: equal units"):
        read(tmp_path / "x.units", runs=True)


@pytest.mark.parametrize(
    ("units", "durations", "error"),
    [
        ("a\t1 2\nb\t3\n", "a\t1 2\n", r"x\.units, line 2: x\.durations has no more lines"),
        ("a\t1 2\n", "a\t1 2\nb\t3\n", r"x\.durations, line 2: x\.units has fewer lines"),
        ("a\t1 2\nb\t3\n", "b\t3\na\t1 2\n", r"x\.units, line 1: x\.durations, line 1 is of 'b'"),
        ("a\t1 2\n", "a\t1 2 3\n", r"x\.units, line 1: 2 units, but 3 durations in x\.durations, line 1"),
        ("a\t1 2\n", "a\t1 0\n", r"x\.units, line 1: durations must be at least 1 frame"),
        ("a\t1 2\n", "a\t1 1.5\n", r"x\.units, line 1: '1.5' is not"),
        ("1 2\na\t3 4\n", "1 1\na\t1 1\n", r"x\.units, line 2: has the name 'a'"),
    ],
)
def test_durations_that_do_not_fit_name_the_line(tmp_path, units, durations, error):
    put(tmp_path, x__units=units, x__durations=durations)
    with pytest.raises(DumpError, match=error):
        read(tmp_path / "x.units", "textlesslib")


def test_durations_and_pitch_are_no_units(tmp_path):
    put(tmp_path, x__units="1 2\n", x__durations="1 2\n", x__f0s="0 120\n")
    with pytest.raises(DumpError, match=r"x\.durations: holds the durations of units; give x\.units"):
        read(tmp_path / "x.durations")
    with pytest.warns(ContractWarning, match=r"x\.f0s: pitch is not read"):
        read(tmp_path / "x.units")


def test_textlesslib_is_written_in_two_files(tmp_path):
    rows = [UnitRow("a", Units([3, 1], [2, 1], K100)), UnitRow("b", Units([4], None, K100))]
    rows += [UnitRow("c", Units([], [], K100))]
    write_units(tmp_path / "x.units", rows)
    assert (tmp_path / "x.units").read_text() == "a\t3 1\nb\t4\nc\n"
    assert (tmp_path / "x.durations").read_text() == "a\t2 1\nb\t1\nc\n"
    assert [r.units for r in read_units(tmp_path / "x.units")] == [r.units for r in rows]
    write_units(tmp_path / "y.units", rows[1:2])
    assert (tmp_path / "y.units").read_text() == "b\t4\n"
    assert not (tmp_path / "y.durations").exists()


# ----------------------------------------------------------------------------------------------------------- ZeroSpeech


def test_zerospeech(tmp_path):
    # zerospeech/zerospeech2021_baseline scripts/quantize_audio.py: "\n" before every line but the first
    put(tmp_path, quantized_outputs__txt="6295-64301-0000\t31,31,7\n1272-1\t5")
    assert named(tmp_path / "quantized_outputs.txt") == "zerospeech"
    assert read(tmp_path / "quantized_outputs.txt") == [("6295-64301-0000", [31, 31, 7]), ("1272-1", [5])]
    rows = list(read_units(tmp_path / "quantized_outputs.txt"))
    write_units(tmp_path / "back.txt", rows, "zerospeech")
    assert (tmp_path / "back.txt").read_bytes() == (tmp_path / "quantized_outputs.txt").read_bytes()


def test_groups_of_codebooks_are_refused_by_name(tmp_path):
    # the same: "-".join of the groups of one frame
    put(tmp_path, q="a\t12-45,12-45,3-4")
    assert named(tmp_path / "q") == "zerospeech"
    with pytest.raises(DumpError, match="q, line 1: '12-45' is a group of several codebooks"):
        read(tmp_path / "q")


# ----------------------------------------------------------------------------------------------------- Kaldi and ESPnet


def test_kaldi(tmp_path):
    # espnet/espnet egs2/TEMPLATE/asr1/scripts/feats/perform_kmeans.sh: `ark,t` without its brackets, sorted
    put(tmp_path, text__km__x="103-1240-0000  71 71 12\n103-1240-0001  5 5\nA-empty\n")
    assert named(tmp_path / "text.km.x") == "kaldi"
    assert read(tmp_path / "text.km.x") == [("103-1240-0000", [71, 71, 12]), ("103-1240-0001", [5, 5]), ("A-empty", [])]


def test_kaldi_is_written_in_the_order_of_bytes(tmp_path):
    rows = [UnitRow(name, Units([n, n], None, K100)) for n, name in enumerate(["b", "é", "Z", "a-2", "a", "10", "9"])]
    write_units(tmp_path / "x", rows, "kaldi")
    assert (tmp_path / "x").read_text() == "10 5 5\n9 6 6\nZ 2 2\na 4 4\na-2 3 3\nb 0 0\né 1 1\n"
    with pytest.raises(DumpError, match="id 'a' comes twice"):
        write_units(tmp_path / "y", [rows[4], rows[0], rows[4]], "kaldi")
    with pytest.raises(DumpError, match="id 'a b': kaldi cannot hold ' '"):
        write_units(tmp_path / "y", [UnitRow("a b", rows[0].units)], "kaldi")
    assert not any(p.name.startswith((".", "y")) for p in tmp_path.iterdir())


def test_espnet_has_a_character_a_unit(tmp_path):
    # espnet egs2/TEMPLATE/asr2/asr2.sh: chr(0x4E00 + unit), `ts` as they are, `rm` with repetitions removed
    frames, runs = "\u4e47\u4e47\u4e0c", "\u4e47\u4e0c"  # 71 71 12
    put(tmp_path, text__ts__km=f"a {frames}\nb\n", text__rm__km=f"a {runs}\nb\n")
    for name, units, rate in (("text.ts.km", [71, 71, 12], 50.0), ("text.rm.km", [71, 12], None)):
        assert named(tmp_path / name) == "espnet"
        rows = list(read_units(tmp_path / name, frame_rate=50.0))
        assert [(r.id, r.units.units.tolist()) for r in rows] == [("a", units), ("b", [])]
        assert {r.units.contract.frame_rate for r in rows} == {rate}
    row = UnitRow("a", Units([71, 71, 12], None, K100))
    for name in ("text.ts.x", "text.rm.x"):
        write_units(tmp_path / name, [row], "espnet")
        assert (tmp_path / name).read_text() == f"a {runs if 'rm' in name else frames}\n"
    put(tmp_path, text__ts__km="a \u4e00x\n")
    with pytest.raises(DumpError, match=r"text\.ts\.km, line 1: 'x' is no character of a unit"):
        read(tmp_path / "text.ts.km", "espnet")


def test_a_chinese_transcript_is_not_taken_for_units(tmp_path):
    put(tmp_path, text="BAC009S0002W0122 而对楼市成交\n")
    assert find_format(tmp_path / "text") is None


# ------------------------------------------------------------------------------------------------------ what is no unit

NO_UNITS = {
    "train.tsv": "/data\na.wav\t1680\nb.wav\t1040\n",
    "header.tsv": "id\taudio\toffset\na\ta.wav\t0\n",
    "list.csv": "audio,samples\na.wav,5\n",
    "paths.txt": "/data/a.wav\n/data/b.wav\n",
    "bare.tsv": "a.wav\t1680\nb.wav\t1040\n",
    "vits.txt": "a.wav|0\nb.wav|1\n",
    "words.txt": "a ONE TWO\nb THREE\n",
    "ljspeech.csv": "LJ001-0001|Printing, in 1455|Printing\n",
    "utt2num_samples": "a 1680\nb 1040\n",
    "segments": "u1 rec1 0.0 1.5\nu2 rec1 1.5 2.0\n",
    "channels.txt": "a.wav 1680 1\nb.wav 1040 1\n",
    "ids.txt": "1\n2\n3\n",
    "wav.scp": "a /data/a.wav\nb sph2pipe x |\n",
    "nemo.json": '{"audio_filepath": "a.wav", "duration": 1.5}\n',
    "dates.txt": "2026-01-01 a\n2026-01-02 b\n",
    "segments.txt": "u1 103 0.0 1.5\nu2 103 1.5 2.0\n",
    "lengths.csv": "a,5\nb,7\n",
    "table.csv": "id,units\na,71 71 12\nb,5 5\n",
    "empty": "",
    "blank.txt": "\n\n",
}


@pytest.mark.parametrize("name", NO_UNITS)
def test_manifests_and_lists_are_not_taken_for_units(tmp_path, name):
    (tmp_path / name).write_text(NO_UNITS[name])
    assert find_format(tmp_path / name) is None
    with pytest.raises(DumpError, match=r"holds no units in a known form .* --from"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.km", "7 7\n5 -5\n"),
        ("x", "a|7 7\nb|7 x\n"),
        ("x", "a 7 7\nb 7 1.5\n"),
        ("x", "a\t7 7\nb\t7 1.5\n"),
        ("x", "a\t7,7\nb\t7,1.5"),
        ("x.km", "7-1 7-2\n"),
        ("x", "a|7-1 7-2\n"),
        ("x", "a 7-1 7-2\n"),
    ],
)
def test_damage_is_found_by_reading_and_names_its_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DumpError, match=rf"{name}, line \d: '.*' is (not a unit|a group)"):
        read(tmp_path / name)


def test_audio_is_not_taken_for_units(speech):
    assert find_format(speech) is None
    for file in speech.iterdir():
        assert find_format(file) is None
    put(speech, train__km="1 1\n")
    assert find_format(speech) is None
    assert named(speech / "train.km") == "fairseq"


@pytest.mark.parametrize("name", ["gslm", "zerospeech", "kaldi", "textlesslib"])
def test_a_line_longer_than_the_head_is_recognised(tmp_path, name):
    rows = [UnitRow("a-b", Units(np.tile([71, 71, 12], 20_000), None, K100)), UnitRow("c-d", Units([1, 1], None, K100))]
    write_units(tmp_path / "x.units", rows, name)
    assert named(tmp_path / "x.units") == name
    assert [r.units for r in read_units(tmp_path / "x.units")] == [r.units for r in rows]


# ---------------------------------------------------------------------------------------------------------- round trips


def ragged(seed, n=40, k=700):
    rng = np.random.default_rng(seed)
    contract = UnitContract(frame_rate=50.0, n_units=k, encoder="e")
    rows = []
    for i in range(n):
        frames = np.repeat(rng.integers(0, k, rng.integers(1, 30)), rng.integers(1, 5))
        if rng.random() < 0.1:
            frames = frames[:0]
        source = f"/data/{rng.integers(5)}/{i}-é.wav"
        rows.append(UnitRow(f"{i}-é", Units(frames, None, contract), source=source, samples=320 * len(frames) + 80))
    return rows


HELD = {"fairseq": {"source", "samples"}}
LINE_FORMATS = ["fairseq", "gslm", "textlesslib", "zerospeech", "kaldi", "espnet", "ulm"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("name", LINE_FORMATS)
def test_rows_come_back(tmp_path, name, timed, seed):
    rows = ragged(seed)
    if timed:
        rows = [UnitRow(r.id, r.units.deduplicated(), source=r.source, samples=r.samples) for r in rows]
    path = tmp_path / "out"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        write_units(path, rows, name)
    lost = {w for s in said for w in ("durations", "id", "source", "samples") if w in str(s.message).split(";")[0]}
    expected = set() if name in HELD else {"source", "samples"}
    assert lost == expected | ({"id"} | ({"durations"} if timed else set()) if name == "ulm" else set())
    given = None if name == "ulm" or (name == "textlesslib" and timed) else False
    back = list(read_units(path, name, runs=given))
    if name in ("kaldi", "espnet"):
        rows = sorted(rows, key=lambda r: r.id.encode())
    assert [r.id for r in back] == [r.id if name != "ulm" else str(n) for n, r in enumerate(rows, 1)]
    for a, b in zip(rows, back, strict=True):
        expected = a.units if name != "ulm" else a.units.deduplicated()
        got = b.units.units if name == "ulm" else b.units.frames()
        assert np.array_equal(expected.units if name == "ulm" else expected.frames(), got)
        assert (b.units.durations is not None) == (name == "textlesslib" and timed)
        for field in HELD.get(name, ()):
            assert getattr(a, field) == getattr(b, field)
        contract = a.units.contract
        assert b.units.contract == (contract.with_(frame_rate=None) if name == "ulm" else contract)


@pytest.mark.parametrize("name", ["gslm", "textlesslib", "zerospeech", "kaldi", "ulm"])
def test_what_was_read_is_written_byte_for_byte(tmp_path, name):
    rows = sorted(ragged(7), key=lambda r: r.id.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_units(tmp_path / "b", rows, name)
        write_units(tmp_path / "c", list(read_units(tmp_path / "b", name)), name)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


# -------------------------------------------------------------------------------------------------------- damaged files


def damaged(data, rng):
    """Some bytes changed, cut, doubled or put in."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data) + 1))
        kind = rng.integers(5)
        if kind == 0 and at < len(data):
            data[at] = rng.integers(256)
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 2:
            data[at:at] = bytes(data[at : at + int(rng.integers(1, 20))])
        elif kind == 3:
            data[at:at] = rng.choice(
                [b"\r", b"\n", b"\t", b"|", b"-1", b"1.5", b"9" * 25, b"\0", b"\xff", b",", b"\xef\xbb\xbf"]
            )
        else:
            del data[at:]
    return bytes(data)


def try_damaged(folder, name, count):
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = ragged(1, n=6)
        if name == "textlesslib":
            rows = [UnitRow(r.id, r.units.deduplicated()) for r in rows]
        path = folder / ("x.km" if name == "fairseq" else "x.units" if name == "textlesslib" else "text.ts.x")
        write_units(path, rows, name)
        sound = {p: p.read_bytes() for p in folder.iterdir()}
        files = sorted(sound)
        texts = []
        for _ in range(count):
            victim = files[int(rng.integers(len(files)))]
            victim.write_bytes(damaged(sound[victim], rng))
            try:
                for given in (name, None):
                    list(read_units(path, given))
            except TextlessError as e:
                texts.append(str(e))
            victim.write_bytes(sound[victim])
    assert not [t for t in texts if "\n" in t or not t.startswith(str(folder))]
    assert len(texts) > count / 10


@pytest.mark.parametrize("name", LINE_FORMATS)
def test_damaged_files_are_errors_of_ours(tmp_path, name):
    try_damaged(tmp_path, name, 300)


@pytest.mark.slow
@pytest.mark.parametrize("name", LINE_FORMATS)
def test_many_damaged_files_are_errors_of_ours(tmp_path, name):
    try_damaged(tmp_path, name, 10_000)
