"""`textless convert`, and unit files of other tools given to the other commands."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from textless import Units, open_dump, read_units, write_units
from textless.cli.convert import _together
from textless.errors import ContractError, DumpError
from textless.types import UnitContract, UnitRow

DICT = "".join(f"{k} 1\n" for k in range(20))
ROWS = {"a": [7, 7, 12, 12, 12, 3], "b": [5, 5, 5, 1]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """fairseq's labels of two files, next to nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.tsv").write_text("/data\na.wav\t1920\nb.wav\t1360\n")
    (tmp_path / "train.km").write_text("".join(" ".join(map(str, u)) + "\n" for u in ROWS.values()))
    (tmp_path / "dict.km.txt").write_text(DICT)
    return tmp_path


@pytest.fixture
def convert(textless_command):
    return lambda *args, **options: textless_command("convert", *args, model=None, **options)


def frames(path, *args, **options):
    return {r.id: r.units.frames().tolist() for r in read_units(path, *args, **options)}


def names(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_labels_become_a_dump_and_the_same_command_finds_it(folder, convert):
    assert convert("train.km", "-o", "dump", "--frame-rate", "50") == (0, "", "")
    dump = open_dump(folder / "dump")
    assert {r.id: r.units.frames().tolist() for r in dump} == ROWS
    assert (dump.contract.n_units, dump.contract.frame_rate) == (20, 50.0)
    assert [(r.source, r.samples) for r in dump] == [("a.wav", 1920), ("b.wav", 1360)]
    assert convert("train.km", "-o", "dump", "--frame-rate", "50") == (0, "", "dump: already done\n")
    code, _, err = convert("train.km", "-o", "dump", "--frame-rate", "25")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds the result of another command" in err
    assert convert("train.km", "-o", "dump", "--frame-rate", "25", "--overwrite")[0] == 0
    assert open_dump(folder / "dump").contract.frame_rate == 25.0


def test_a_changed_companion_is_another_request(folder, convert):
    convert("train.km", "-o", "dump")
    (folder / "train.tsv").write_text("/data\nc.wav\t1920\nb.wav\t1360\n")
    assert "another command" in convert("train.km", "-o", "dump")[2]


@pytest.mark.parametrize("to", ["gslm", "kaldi", "zerospeech", "textlesslib", "fairseq", "jsonl", "dump"])
def test_there_and_back(folder, convert, to):
    assert convert("train.km", "-o", "there", "--to", to, "--frame-rate", "50")[0] == 0
    assert frames(folder / "there") == ROWS
    assert {(r.units.contract.n_units, r.units.contract.frame_rate) for r in read_units(folder / "there")} == {(20, 50)}
    code, out, _ = convert("there", "-o", "-")
    assert code == 0
    header, *rows = map(json.loads, out.splitlines())
    assert header["contract"]["n_units"] == 20
    assert [r["id"] for r in rows] == list(ROWS)


def test_the_suffix_names_the_format(folder, convert):
    assert convert("train.km", "-o", "x.units")[0] == 0
    assert (folder / "x.units").read_text() == "a\t7 7 12 12 12 3\nb\t5 5 5 1\n"
    assert convert("train.km", "-o", "x.jsonl")[0] == 0
    assert frames(folder / "x.jsonl") == ROWS
    os.mkdir("new")
    assert convert("x.jsonl", "-o", "new/valid.km")[0] == 0
    assert names(folder / "new") == ["dict.km.txt", "valid.km", "valid.km.contract.json", "valid.tsv"]
    assert (folder / "new" / "valid.km").read_bytes() == (folder / "train.km").read_bytes()
    assert (folder / "new" / "dict.km.txt").read_text() == DICT


def test_json_lines_of_other_tools_may_end_in_jsonl(folder, convert):
    for name in ("slamkit", "slamkit-tokens", "unit-hifigan", "discophon", "minimal-hubert", "huggingface"):
        assert convert("train.km", "-o", f"{name}.jsonl", "--to", name)[0] == 0
        assert "textless" not in (folder / f"{name}.jsonl").read_text()
    assert frames(folder / "slamkit.jsonl") == frames(folder / "unit-hifigan.jsonl") == ROWS


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("-o", "x.mp3"), ".mp3 is the suffix of no unit format"),
        (("-o", "x.mp3", "--to", "gslm"), ".mp3 is not a suffix of gslm files"),
        (("-o", "x.wav", "--to", "dump"), ".wav is not a suffix of dump files"),
        (("-o", "x.km", "--to", "gslm"), ".km is not a suffix of gslm files"),
        (("-o", "x.parquet", "--to", "dump"), "a folder of dump"),
        (("-o", "x.txt"), ".txt is the suffix of no unit format"),
        (("-o", "x", "--to", "gsml"), "no unit format 'gsml'; did you mean 'gslm'?"),
        (("-o", "x", "--from", "nothing"), "no unit format 'nothing'; known: dump, jsonl"),
        (("-o", "-", "--to", "gslm"), "-o - writes the stream"),
        (("-o", "nowhere/x"), "no such folder"),
        (("-o", "x", "--n-units", "0"), "--n-units"),
        (("-o", "x", "--frame-rate", "nan"), "--frame-rate"),
        (("-o", "x", "--n-units", "30"), "lists 20 units, but n_units is 30"),
        (("-o", "x", "--runs"), "train.km, line 1: equal units follow each other"),
        (("-o", "x", "--contract", "train.km"), "not a contract"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(folder, convert, args, error):
    before = names(folder)
    code, out, err = convert("train.km", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert error in err
    assert names(folder) == before


@pytest.mark.parametrize("target", ["dump", "gslm", "fairseq", "textlesslib", "jsonl"])
def test_damage_in_the_middle_leaves_nothing(folder, convert, target):
    before = names(folder)
    (folder / "train.km").write_text("7 7\n5 -5\n")
    code, _, err = convert("train.km", "-o", "x", "--to", target)
    assert (code, err) == (2, "error: train.km, line 2: '-5' is not a unit; units are whole numbers from 0\n")
    assert names(folder) == before
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_audio_and_manifests_are_not_converted(folder, convert, speech):
    for given in ("train.tsv", "speech", "speech/a.wav"):
        code, _, err = convert(given, "-o", "x")
        assert code == 2
        assert f"{given}: holds no units in a known form" in err


def test_an_empty_input_is_nothing_to_do(folder, convert):
    (folder / "e.km").write_text("")
    for target in ("gslm", "dump"):
        code, _, err = convert("e.km", "-o", "x", "--from", "fairseq", "--to", target)
        assert (code, err) == (2, "error: nothing to do: the input has no rows\n")
    assert "x" not in names(folder)


def test_ids_of_several_inputs_differ(folder, convert):
    os.mkdir("other")
    (folder / "other" / "train").write_text("a|1 1\nc|2 2\n")
    (folder / "only").write_text("d|1 1\n")
    assert convert("train.km", "only", "-o", "x.jsonl")[0] == 0
    assert list(frames("x.jsonl")) == ["a", "b", "d"]
    assert convert("train.km", "other/train", "-o", "y.jsonl")[0] == 0
    assert list(frames("y.jsonl")) == ["train/a", "train/b", "other/train/a", "other/train/c"]
    assert "is given twice" in convert("only", "only", "-o", "z")[2]
    with pytest.raises(DumpError, match="only: is given twice"):
        list(_together(["only", "only"], read_units))


def test_inputs_of_other_units_are_refused(folder, convert):
    (folder / "only").write_text("d|1 1\n")
    (folder / "only.contract.json").write_text('{"n_units": 50}')
    code, _, err = convert("train.km", "only", "-o", "x")
    assert code == 2
    assert "only and train.km are of different units: n_units is 50 in only but 20 in train.km" in err


def test_standard_input(folder, convert):
    code, out, _ = convert("-", "-o", "-", stdin="a|7 7\nb|5 5\n")
    assert code == 0
    assert [json.loads(line)["units"] for line in out.splitlines()[1:]] == [[7, 7], [5, 5]]


def test_frames_or_runs_is_said_and_can_be_declared(folder, convert):
    (folder / "g").write_text("a|7 12\n")
    code, _, err = convert("g", "-o", "x.jsonl", "--frame-rate", "50")
    assert (code, err.count("\n")) == (0, 1)
    assert "taken as frames" in err
    assert "--runs" in err
    for option, rate in (("--runs", None), ("--frames", 50.0)):
        assert convert("g", "-o", f"{option}.jsonl", "--frame-rate", "50", option)[2] == ""
        (row,) = read_units(f"{option}.jsonl")
        assert row.units.contract.frame_rate == rate


def test_what_a_format_cannot_hold_is_said_once(folder, convert):
    code, _, err = convert("train.km", "-o", "g", "--to", "gslm")
    assert (code, err) == (0, "warning: gslm cannot hold offset and samples, source; left out\n")
    assert json.loads((folder / "g.contract.json").read_text())["n_units"] == 20


def test_companions_of_others_are_not_replaced(folder, convert):
    convert("train.km", "-o", "dump")
    (folder / "x.durations").write_text("mine")
    code, _, err = convert("dump", "-o", "x.units")
    assert code == 2
    assert "x.durations: exists, and x.units needs this name" in err
    assert "x.units" not in names(folder)
    assert (folder / "x.durations").read_text() == "mine"
    assert convert("dump", "-o", "x.units", "--overwrite")[0] == 0
    assert convert("dump", "-o", "x.units")[2] == "x.units: already done\n"
    (folder / "x.durations").unlink()
    assert convert("dump", "-o", "x.units", "--overwrite")[0] == 0
    assert (folder / "x.durations").read_text() == "a\t2 3 1\nb\t3 1\n"


def test_companions_of_the_output_that_is_replaced_go_with_it(folder, convert):
    convert("train.km", "-o", "dump")
    assert convert("dump", "-o", "x.units")[0] == 0
    (folder / "runs.units").write_text("a\t7 12 3\n")
    assert convert("runs.units", "-o", "x.units", "--runs", "--overwrite")[0] == 0
    assert "x.durations" not in names(folder)
    assert [r.units.durations for r in read_units("x.units", runs=True)] == [None]


def test_a_licence_that_is_given_keeps_the_language_of_the_input(folder, convert):
    assert convert("train.km", "-o", "dump", "--language", "en")[0] == 0
    assert convert("dump", "-o", "again", "--license", "cc-by-4.0")[0] == 0
    about = json.loads((folder / "again" / "dump.json").read_text())
    assert (about["license"], about["language"]) == ("cc-by-4.0", "en")


def test_rows_of_two_codebooks_are_no_file_of_another_tool(folder):
    rows = [UnitRow(str(k), Units(np.array([k]), None, UnitContract(n_units=k + 5))) for k in range(2)]
    with pytest.raises(ContractError, match="a later one and the first row are of different units: n_units"):
        write_units(folder / "x.txt", rows, "gslm")
    assert "x.txt" not in names(folder)


def test_a_companion_contract_says_nothing_of_pitch_which_the_file_lacks(folder):
    units = Units(np.array([1, 2]), None, UnitContract(n_units=5, pitch="file"), np.array([3, 4]))
    write_units(folder / "x.txt", [UnitRow("a", units)], "gslm")
    (row,) = read_units(folder / "x.txt", runs=False)
    assert (row.units.contract.pitch, row.units.pitch) == (None, None)


def test_names_of_media_are_no_names_of_units(folder, convert):
    code, _, err = convert("train.km", "-o", "x.m4a", "--to", "gslm")
    assert (code, err.count("\n")) == (2, 1)
    assert "x.m4a" not in names(folder)


# ------------------------------------------------------------------------------------------------------- other commands


@pytest.fixture
def declared(folder, model_set):
    contract = json.loads((model_set / "lm" / "config.json").read_text())["contract"]
    (folder / "c.json").write_text(json.dumps(contract))
    (folder / "g.txt").write_text("a|7 7 12\nb|5 5\n")
    return "c.json"


@pytest.mark.parametrize("given", ["train.km", ".", "g.txt"])
def test_commands_that_take_a_dump_take_unit_files(folder, declared, textless_command, given):
    continued = textless_command("continue", given, "-o", "more.jsonl", "--max-new-units", "5", "--contract", declared)
    assert continued[0] == 0, continued
    assert [r.id for r in read_units("more.jsonl")] == ["a", "b"]
    assert textless_command("resynth", given, "-o", "wavs", "--contract", declared)[0] == 0
    assert soundfile.info("wavs/a.wav").frames > 0
    assert textless_command("score", given, "-o", "s.jsonl", "--contract", declared)[0] == 0
    assert len((folder / "s.jsonl").read_text().splitlines()) == 2
    code, out, err = textless_command("quality", given, "--contract", declared)
    assert code == 0, err
    assert "units" in out


def test_commands_are_given_runs_or_frames_and_warn_once(folder, declared, textless_command):
    (folder / "g.txt").write_text("".join(f"r{n}|7 12 5\n" for n in range(100)))
    run = functools.partial(textless_command, "score", "g.txt", "-o", "s.jsonl", "--overwrite")
    code, _, err = run()
    assert code == 0
    assert err.count("warning:") == 2  # frames or runs, and the contract
    assert "taken as frames" in err
    assert "r0 and the language model: cannot compare" in err
    for option in ("--runs", "--frames"):
        assert "taken as frames" not in run("--contract", declared, option)[2]


def test_runs_are_not_spoken_as_frames(folder, declared, textless_command):
    given = ("resynth", "g.txt", "-o", "wavs", "--contract", declared, "--runs")
    (folder / "g.txt").write_text("a|7 12\n")
    code, _, err = textless_command(*given)
    assert code == 2
    assert "a: how long its runs last is unknown; give --durations predict" in err


def test_audio_is_still_audio(folder, speech, textless_command):
    (speech / "train.km").write_text("1 1\n")  # next to the audio that it was made of
    for given in ("speech", "speech/a.wav", "list.tsv"):
        (folder / "list.tsv").write_text(f"{speech}\na.wav\t16000\n")
        assert textless_command("continue", given, "-o", "-", "--max-new-units", "2")[0] == 0


def test_help_does_not_import_the_formats():
    code = (
        "import sys, textless.cli.app; sys.exit('numpy' in sys.modules or 'textless.exchange.formats' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_memory_is_flat(folder, convert):
    """Twenty times the rows take about the same memory."""
    import tracemalloc

    rng = np.random.default_rng(0)
    row = " ".join(map(str, rng.integers(0, 20, 500)))
    peaks = []
    for n in (200, 4000):
        (folder / "g.txt").write_text("".join(f"{k}|{row}\n" for k in range(n)))
        tracemalloc.start()
        assert convert("g.txt", "-o", "z.txt", "--to", "zerospeech", "--overwrite")[0] == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4_000_000  # 40 MB of units; ids are held, 300 bytes each
