"""What commands leave behind: the same command again, other commands, full disks, several at once, killed ones, and
hostile names.
"""

import contextlib
import fcntl
import json
import os
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest

import textless
from textless.cli import locks
from textless.cli.locks import sole
from textless.cli.outputs import Failures, check_output, deliver_file
from textless.errors import ModelError, OutputExistsError
from textless.model import named, resynth_row
from textless.types import UnitContract, Units
from textless.units.dump import UnitRow, extra_types, write_shard


@pytest.fixture
def units(tmp_path, model_set):
    """Writes NAME.jsonl of units for the random set."""
    contract = json.loads((model_set / "lm" / "config.json").read_text())["contract"]

    def write(name, *ids, **declared):
        header = {"textless": "units", "version": 1, "contract": {**contract, **declared}}
        rows = [{"id": i, "units": [1, 2 + len(i), 3], "durations": [2, 4, 3]} for i in ids]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (header, *rows)))

    write("a", "a")
    write("b", "bb")
    return write


COMMANDS = {
    "encode": ("encode", "A.wav", "-o", "u.jsonl"),
    "continue": ("continue", "A.jsonl", "-o", "more.jsonl", "--seconds", "0.2"),
    "score": ("score", "A.jsonl", "-o", "s.jsonl"),
    "quality": ("quality", "A.jsonl", "--json", "q.json"),
    "resynth": ("resynth", "A.jsonl", "-o", "out.wav"),
    "resynth to flac": ("resynth", "A.jsonl", "-o", "out.flac", "--speaker", "ben"),
    "encode to a folder": ("encode", "A.wav", "-o", "dump"),
    "continue to a folder": ("continue", "A.jsonl", "-o", "more", "--seconds", "0.2"),
    "resynth to a folder": ("resynth", "A.jsonl", "-o", "wavs"),
}
OPTIONS = {
    "encode": ("--layer", "1", "--codebook", "km.npy"),
    "continue": ("--seed", "3"),
    "score": ("--controls",),
    "quality": ("--seed", "3"),
    "resynth": ("--durations", "predict"),
}


@pytest.fixture
def given(units, tmp_path, speech, model_set, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (speech / f"{name}.wav").rename(tmp_path / f"{name}.wav")
    from textless.units.quantizers import load_codebook

    np.save(tmp_path / "km.npy", load_codebook(model_set / "codebook").centroids + 1)
    return lambda name, letter: tuple(part.replace("A", letter) for part in COMMANDS[name])


def contents(place):
    """Of a file, or of a folder but for its receipt."""
    files = (
        [place]
        if place.is_file()
        else sorted(p for p in place.rglob("*") if p.is_file() and p.name != ".textless.json")
    )
    return {p.name: p.read_bytes() for p in files}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_does_nothing_and_another_refuses(textless_command, given, tmp_path, name):
    out = tmp_path / given(name, "a")[3]
    code, told, _ = textless_command(*given(name, "a"))
    assert code == 0
    made, times = contents(out), out.stat().st_mtime_ns
    code, again, err = textless_command(*given(name, "a"))
    assert (code, again) == (0, told)
    assert f"{out.name}: already done" in err
    assert (contents(out), out.stat().st_mtime_ns) == (made, times)
    for other in (given(name, "b"), (*given(name, "a"), *OPTIONS[name.split()[0]])):
        code, _, err = textless_command(*other)
        assert code == 2
        assert f"{out.name}: holds the result of another command; give another name or --overwrite" in err
        assert contents(out) == made
    assert textless_command(*given(name, "b"), "--overwrite")[0] == 0
    assert contents(out) != made
    assert textless_command(*given(name, "b"))[0] == 0
    assert not [p.name for p in tmp_path.iterdir() if "partial" in p.name or "lock" in p.name]


@pytest.mark.parametrize("name", ["encode", "score", "quality", "resynth"])
def test_a_file_that_was_changed_is_its_owners(textless_command, given, tmp_path, name):
    command = given(name, "a")
    assert textless_command(*command)[0] == 0
    (tmp_path / command[3]).write_text("mine")
    code, _, err = textless_command(*command)
    assert code == 2
    assert "exists and is not as textless wrote it" in err
    assert (tmp_path / command[3]).read_text() == "mine"
    (tmp_path / command[3]).unlink()
    assert textless_command(*command)[0] == 0  # a receipt without its file is none


def test_a_folder_that_has_lost_a_file_is_not_done(textless_command, given, tmp_path):
    assert textless_command(*given("encode to a folder", "a"))[0] == 0
    (tmp_path / "dump" / "data" / "00000.parquet").unlink()
    code, _, err = textless_command(*given("encode to a folder", "a"))
    assert code == 2
    assert "dump: is done, but files of it are missing or changed" in err
    assert textless_command(*given("encode to a folder", "a"), "--overwrite")[0] == 0
    assert len(textless.open_dump(tmp_path / "dump")) == 1


@pytest.mark.parametrize("command", ["continue", "score", "resynth"])
@pytest.mark.parametrize("form", ["file", "folder"])
def test_units_of_another_kind_are_not_already_done(textless_command, given, units, tmp_path, command, form):
    if command == "score" and form == "folder":
        pytest.skip("score writes files")
    request = given(command if form == "file" else f"{command} to a folder", "a")
    assert textless_command(*request)[0] == 0
    units("a", "a", encoder="0" * 64)
    code, _, err = textless_command(*request)
    assert code == 2
    assert "a and the" in err
    assert "are of different units: encoder is 000000000000 in a but" in err


def test_failures_stand_beside_a_file_as_long_as_there_are_any(textless_command, given, tmp_path):
    (tmp_path / "c.wav").write_text("no audio")
    both = ("encode", "a.wav", "c.wav", "-o", "u.jsonl")
    assert textless_command(*both)[0] == 1
    assert json.loads((tmp_path / "u.jsonl.failures.jsonl").read_text())["id"] == "c"
    assert textless_command(*both)[0] == 1  # done before, and still not all of it
    assert textless_command("encode", "a.wav", "b.wav", "-o", "u.jsonl", "--overwrite")[0] == 0
    assert not (tmp_path / "u.jsonl.failures.jsonl").exists()


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "suffix",
    [
        ".wav",
        ".MP3",
        ".opus",
        ".m4a",
        ".parquet",
        ".json",
        ".tsv",
        ".jsonl.gz",
        ".npy",
        ".km",
        ".txt",
        ".csv",
        ".pt",
        ".zip",
        ".TextGrid",
        ".ltr",
        ".ctm",
    ],
)
def test_units_are_written_into_no_other_format(tmp_path, suffix):
    with pytest.raises(
        OutputExistsError, match=r"this command does not write \.\w+ files; give FILE\.jsonl or a folder of parquet"
    ):
        check_output(str(tmp_path / f"x{suffix}"), (".jsonl",), False, folder="parquet")


@pytest.mark.parametrize("suffix", [".mp3", ".m4a", ".aiff", ".jsonl", ".txt", ".xyz", ".Wave"])
def test_speech_is_written_into_no_other_format(tmp_path, suffix):
    from textless.audio.io import FORMATS

    with pytest.raises(
        OutputExistsError, match=r"this command does not write \.\w+ files; give FILE\.wav or FILE\.flac"
    ):
        check_output(str(tmp_path / f"x{suffix}"), FORMATS, False, folder="wavs")


@pytest.mark.parametrize(
    ("suffixes", "other"),
    [((".jsonl",), "x.wav"), ((".jsonl",), "x.json"), ((".json",), "x.jsonl"), ((".json",), "x.flac")],
)
def test_figures_are_written_into_no_other_format(tmp_path, suffixes, other):
    with pytest.raises(OutputExistsError, match=rf"this command does not write \.\w+ files; give FILE{suffixes[0]}"):
        check_output(str(tmp_path / other), suffixes, False)


def test_names_of_outputs_that_are_taken(tmp_path):
    from textless.audio.io import FORMATS

    for name in ("dump", "dump.v2", "v1.2", "run-0.5", "exp.2024", "x.wav/", "x.km/"):
        check_output(f"{tmp_path}/{name}", (".jsonl",), False, folder="parquet")
        check_output(f"{tmp_path}/{name}", FORMATS, False, folder="wavs")
    check_output(f"{tmp_path}/hubert.base", (".jsonl",), False, folder="parquet")
    for name in ("U.JSONL", "scores", "-"):
        check_output(f"{tmp_path}/{name}" if name != "-" else "-", (".jsonl",), False)
    (tmp_path / "old.mp3").mkdir()  # as an earlier version made it
    check_output(f"{tmp_path}/old.mp3", FORMATS, False, folder="wavs")
    (tmp_path / "u.jsonl").mkdir()
    for name in (f"{tmp_path}/u.jsonl", "/dev/null"):
        with pytest.raises(OutputExistsError, match="is a folder or device where a file is to be written"):
            check_output(name, (".jsonl",), True)
    with pytest.raises(OutputExistsError, match=r"no such folder to write u\.jsonl into"):
        check_output(f"{tmp_path}/none/u.jsonl", (".jsonl",), True)
    with pytest.raises(OutputExistsError, match="give the name of a file or folder"):
        check_output("/", (".jsonl",), True, folder="parquet")


def test_a_link_stays_a_link(textless_command, given, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "u.jsonl").symlink_to(tmp_path / "elsewhere" / "real.jsonl")
    assert textless_command(*given("encode", "a"))[0] == 0
    assert (tmp_path / "u.jsonl").is_symlink()
    assert len(textless.open_dump(tmp_path / "elsewhere" / "real.jsonl")) == 1


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["a/b", "a_b", "a b"], ["a_b", "a_b-2", "a_b-3"]),
        (["A", "a", "a-2"], ["A", "a-2", "a-2-2"]),
        (["Ä", "ä"], ["Ä", "ä-2"]),
        (["\u1112\u1161\u11ab", "\ud55c"], ["\ud55c", "\ud55c-2"]),  # ids are kept composed
        (["..", "/", "\0", "x\n"], ["_", "_-2", "_-3", "x_"]),
    ],
)
def test_files_of_ids_that_are_alike(ids, names):
    assert [name for _, name in named(UnitRow(i, Units.of([1])) for i in ids)] == names


def test_files_of_long_ids():
    """Short enough for a file system with a suffix and a number, and apart where only their ends are."""
    ids = ["y" * 300 + end for end in ("", "a", "b")] + ["é" * 150, "z" * 180]
    names = [name for _, name in named(UnitRow(i, Units.of([1])) for i in ids)]
    assert len(set(names)) == 5
    assert max(len(n.encode()) for n in names) <= 180
    assert names[4] == "z" * 180
    assert names[0].startswith("y" * 150)


# ----------------------------------------------------------------------------------------------------- disks and others


@contextlib.contextmanager
def largest_file(size):
    """No file grows beyond so many bytes: to a program it is as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "resynth to flac"])
@pytest.mark.parametrize("size", [0, 60])
def test_a_disk_that_is_full(textless_command, given, tmp_path, name, size):
    command = given(name, "a")
    before = sorted(os.listdir(tmp_path))
    with largest_file(size):
        code, _, err = textless_command(*command)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1), err
    assert command[3] in errors[0]
    assert "cannot be written" in errors[0]
    assert "Traceback" not in err
    left = [n for n in sorted(os.listdir(tmp_path)) if n not in before]
    assert left in ([], [f"{command[3]}.partial"] if name.endswith("folder") else [])
    assert textless_command(*command)[0] == 0
    assert (tmp_path / command[3]).exists()
    assert not [n for n in os.listdir(tmp_path) if "partial" in n]


def test_standard_output_that_is_full():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "textless", "fetch"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (2, "error: the output: No space left on device\n")


def test_memory_that_is_not_there(textless_command, units, tmp_path, monkeypatch):
    class Vocoder:
        speakers = ()

        def resynth(self, units, **options):
            raise self.error

    vocoder, row = Vocoder(), UnitRow("a", Units(np.array([1]), np.array([9])))
    for vocoder.error in (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), MemoryError()):
        with pytest.raises(ModelError, match="a: its 9 frames take more memory than is free"):
            resynth_row(vocoder, row)
    vocoder.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        resynth_row(vocoder, row)
    from textless.cli import commands

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(commands, "quality", fail)
    code, _, err = textless_command("quality", tmp_path / "a.jsonl")
    assert (code, err) == (
        2,
        "error: more memory is needed than is free; give less at a time, or close other programs\n",
    )


def test_one_command_at_a_time(tmp_path, capsys):
    """The second waits for the first, and finds that there is nothing to do."""
    out, at_work, go_on, done = str(tmp_path / "x.jsonl"), threading.Event(), threading.Event(), []
    failures = Failures()
    failures.good = 1

    def make(path):
        at_work.set()
        assert go_on.wait(20)
        path.write_text("made")

    def refuse(path):
        raise AssertionError("made twice")

    first = threading.Thread(target=lambda: done.append(deliver_file(out, {"command": "x"}, make, False, failures)))
    first.start()
    assert at_work.wait(20)
    second = threading.Thread(target=lambda: done.append(deliver_file(out, {"command": "x"}, refuse, False, failures)))
    second.start()
    while "waiting for another textless that writes x.jsonl" not in capsys.readouterr().err:
        assert second.is_alive()
    go_on.set()
    first.join(20)
    second.join(20)
    assert done == [0, 0]
    assert "x.jsonl: already done" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == [".x.jsonl.textless.json", "x.jsonl"]


def leftover(folder, name):
    (folder / locks.PARTIAL.format(name)).mkdir()
    (folder / locks.PARTIAL.format(name) / name).write_text("half")
    (folder / locks.LOCK.format(name)).touch()
    return folder / locks.LOCK.format(name)


def test_what_killed_commands_left_is_swept_and_nothing_of_living_ones(tmp_path):
    lock = leftover(tmp_path, "alive.wav")
    leftover(tmp_path, "dead.jsonl")
    leftover(tmp_path, "new.json")
    (tmp_path / ".moved.wav.textless.json").write_text("{}")
    (tmp_path / ".mine.partial").mkdir()
    with open(lock) as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with sole(tmp_path / "new.json") as partial:
            assert not partial.exists()
            partial.mkdir()
    assert sorted(os.listdir(tmp_path)) == [".alive.wav.textless.lock", ".alive.wav.textless.partial", ".mine.partial"]
    with sole(tmp_path / "new.json"):
        pass
    assert os.listdir(tmp_path) == [".mine.partial"]


def test_standard_input_is_kept_no_longer_than_the_command(textless_command, given, tmp_path, monkeypatch):
    import tempfile

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    leftover(tmp_path / "tmp", "stdin.killed")
    code, out, _ = textless_command("encode", "-", "-o", "-", stdin=(tmp_path / "a.wav").read_bytes())
    assert (code, json.loads(out.splitlines()[1])["id"]) == (0, "stdin")
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.parametrize("text", ["[]", "null", "{", '{"n_units": "20"}', '{"contract": {"colour": 1}}', "[" * 100_000])
def test_a_declared_contract_that_is_none(textless_command, given, tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    code, _, err = textless_command("continue", "a.jsonl", "-o", "-", "--contract", "c.json")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: c.json: not a contract (")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = leftover(tmp_path, "perhaps.wav")
    with sole(tmp_path / "new.json"):
        pass
    assert lock.exists()  # no process knows
    assert not [n for n in os.listdir(tmp_path) if "new" in n]


# -------------------------------------------------------------------------------------------------------------- columns


def test_all_shards_of_a_dump_have_the_same_columns(tmp_path):
    """Other programs take those of the first."""
    pandas = pytest.importorskip("pandas")
    contract = UnitContract(n_units=9)
    rows = [
        UnitRow(f"r{n}", Units.of([n], contract), extra={"note": 0.5} if n == 3 else {"other": n}) for n in range(4)
    ]
    types = extra_types(rows)
    for n in range(2):
        write_shard(tmp_path / f"{n}.parquet", rows[2 * n : 2 * n + 2], contract=contract, extra=types)
    table = pandas.read_parquet(tmp_path)
    assert table["note"].isna().tolist() == [True, True, True, False]
    assert table["other"].tolist()[:3] == [0, 1, 2]
