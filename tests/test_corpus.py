"""Corpora: the forms in which they come, what is wrong with some, what makes two the same, and audio decoded once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import threading
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from textless.audio import rows as module
from textless.audio import sources
from textless.audio.corpus import (
    Corpus,
    PackedAudio,
    Row,
    load_sources,
    read_row,
    read_rows,
    read_some,
    row_identity,
    sha256_file,
)
from textless.audio.io import AudioError, audio_samples, read_audio, write_audio
from textless.errors import CorpusError
from textless.metrics.alignments import read_alignments
from textless.metrics.asr import read_text
from textless.metrics.items import read_items
from textless.metrics.lm import read_pairs
from textless.metrics.units import measure_units
from textless.types import UnitContract, Units
from textless.units.dump import UnitRow


def noise(path: Path, samples: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, np.random.default_rng(seed).uniform(-0.5, 0.5, samples))
    return path


def touch(folder: Path, *names: str) -> Path:
    """Nothing may be opened when a corpus is listed, so empty files do."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def ids(*args, **how) -> list[str]:
    return [row.id for row in Corpus.load(*args, **how)]


def error(*args, **how) -> str:
    with pytest.raises(CorpusError) as caught:
        Corpus.load(*args, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- folders, files, globs


def test_a_folder_is_listed_in_order_with_every_suffix(tmp_path):
    touch(
        tmp_path, "b/x.WAV", "a/z.opus", "a/y.flac", "c.mp3", "d.ogg", "e.oga", "a/notes.txt", "a/._y.wav", "a/.t.flac"
    )
    rows = list(Corpus.load(tmp_path))
    assert [r.id for r in rows] == ["y", "z", "x", "c", "d", "e"]
    assert rows[0] == Row("y", str(tmp_path / "a/y.flac"))


def test_every_suffix_of_a_format_that_is_decoded_is_listed(tmp_path):
    touch(
        tmp_path,
        "a.aiff",
        "b.AIF",
        "c.aifc",
        "d.au",
        "e.snd",
        "f.caf",
        "g.w64",
        "h.rf64",
        "i.Sph",
        "j.wave",
        "k.bwf",
        "l.nist",
    )
    assert ids(tmp_path) == list("abcdefghijkl")
    assert ids(f"{tmp_path}/*.AIF") == ["b"]
    assert ids(tmp_path / "b.AIF") == ["b"]


def test_what_cannot_be_decoded_is_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "has_ffmpeg", lambda: False)
    touch(
        tmp_path,
        "in/good.wav",
        "in/talk.m4a",
        "in/b/clip.MP4",
        "in/b/x.webm",
        "in/notes.txt",
        "in/._t.m4a",
        "other/a.ircam",
        "other/b.ircam",
    )
    for source in (tmp_path / "in", f"{tmp_path}/in/**/*"):
        with pytest.warns(UserWarning, match="passed over") as told:
            assert ids(source) == ["good"]
        [line] = {str(w.message) for w in told}
        assert line.startswith(f"{source}: 3 audio or video files are passed over, such as {tmp_path}/in/b/clip.MP4; ")
        assert line.endswith(
            ".m4a, .mp4, .webm can be decoded with PyAV (in a clone of textless: "
            "pip install -c constraints.txt '.[media]')"
        )
    assert "2 audio or video files are passed over, such as" in error(tmp_path / "other")
    assert ".ircam cannot be decoded, convert to wav or flac with ffmpeg" in error(tmp_path / "other/a.ircam")
    assert ".m4a can be decoded with PyAV (in a clone" in error(tmp_path / "in/talk.m4a")
    with warnings.catch_warnings(action="error"):
        assert ids(tmp_path / "in/good.wav") == ids(f"{tmp_path}/in/*.wav") == ["good"]


def test_ids_are_paths_where_stems_are_alike(tmp_path):
    touch(tmp_path, "19/198/a.wav", "26/495/a.wav", "26/495/b.c.wav")
    assert ids(tmp_path) == ["19/198/a", "26/495/a", "26/495/b.c"]
    assert ids(tmp_path / "26") == ["a", "b.c"]
    assert ids([tmp_path / "19", tmp_path / "26"]) == ["19/198/a", "26/495/a", "26/495/b.c"]
    assert ids(f"{tmp_path}/*/*/a.*") == ["19/198/a", "26/495/a"]


def test_a_duplicate_id_names_both(tmp_path):
    touch(tmp_path, "a.wav", "a.opus")
    text = error(tmp_path)
    assert "id 'a'" in text
    assert str(tmp_path / "a.wav") in text
    assert str(tmp_path / "a.opus") in text
    path = write(tmp_path / "m.jsonl", '{"audio": "a.wav", "samples": 5}\n{"audio": "a.wav", "offset": 5}\n')
    assert "at sample 0" in error(path)
    assert "at sample 5" in error(path)


def test_paths_are_absolute(tmp_path, monkeypatch):
    touch(tmp_path, "d/a.wav")
    monkeypatch.chdir(tmp_path)
    for source in ("d", "d/a.wav", "d/*.wav", "./d/../d", Path("d"), ["d"], iter(["d"])):
        assert [r.path for r in Corpus.load(source)] == [str(tmp_path / "d/a.wav")]


def test_several_sources_keep_their_order(tmp_path):
    touch(tmp_path, "z/a.wav", "y/b.wav", "c.mp3")
    write(tmp_path / "m.csv", "path,id\nq.wav,first\n")
    sources = [tmp_path / "z", tmp_path / "m.csv", tmp_path / "c.mp3", f"{tmp_path}/y/*.wav"]
    assert ids(sources) == ["a", "first", "c", "b"]


def test_globs(tmp_path):
    touch(tmp_path, "a/1.wav", "a/2.txt", "b/c/3.flac")
    (tmp_path / "b/folder.wav").mkdir()
    assert ids(f"{tmp_path}/**/*") == ["1", "3"]
    assert ids(f"{tmp_path}/[ab]/?.wav") == ["1"]
    assert f"{tmp_path}/*.nothing: no audio" in error(f"{tmp_path}/*.nothing")
    touch(tmp_path, "take[1].wav")
    assert ids(tmp_path / "take[1].wav") == ["take[1]"]


def test_sources_that_are_none(tmp_path):
    touch(tmp_path, "a.wav", "notes.txt")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/nowhere: no such file or folder" in error(tmp_path / "nowhere")
    assert f"{tmp_path}/m.tsv: no such file or folder" in error(tmp_path / "m.tsv")
    assert f"{tmp_path}/empty: no audio" in error([tmp_path / "a.wav", tmp_path / "empty"])
    assert f"{tmp_path}/notes.txt: neither audio" in error(tmp_path / "notes.txt")
    assert "no source given" in error([])
    assert "no source given" in error(iter([]))


def test_a_missing_file_shows_when_it_is_read(tmp_path):
    write(tmp_path / "m.tsv", "sub\na.wav\t100\n")
    for source in (tmp_path / "m.tsv", tmp_path / "b.wav"):
        (row,) = Corpus.load(source)
        with pytest.raises(AudioError, match=f"{row.path}: no such file"):
            read_row(row)


# ---- manifests


def test_fairseq_manifest(tmp_path):
    path = write(tmp_path / "train.tsv", "../audio\n19/a.flac\t100\n26/b.flac\t200\n")
    audio = tmp_path.parent / "audio"
    assert list(Corpus.load(path)) == [
        Row("a", str(audio / "19/a.flac"), samples=100),
        Row("b", str(audio / "26/b.flac"), samples=200),
    ]
    write(path, f"{tmp_path}/else\r\n19/a.flac\t100\r\n26/a.flac\t200\r\n\r\n")
    rows = list(Corpus.load(path))
    assert [r.id for r in rows] == ["19/a", "26/a"]
    assert rows[0].path == f"{tmp_path}/else/19/a.flac"
    assert rows[1].samples == 200


@pytest.mark.parametrize("root", ["path", "audio", "id", "/", "."])
def test_a_root_that_looks_like_a_header(tmp_path, root):
    (row,) = Corpus.load(write(tmp_path / "m.tsv", f"{root}\na.wav\t100\n"))
    assert row == Row("a", str(tmp_path / root / "a.wav") if root != "." else str(tmp_path / "a.wav"), samples=100)


def test_a_header_that_looks_like_a_root(tmp_path):
    assert ids(write(tmp_path / "m.tsv", "path\na.wav\nb.wav\n")) == ["a", "b"]


@pytest.mark.parametrize("line", ["a.wav", "a.wav\t1\t2", "a.wav\tlong", "a.wav\t1.5", "a.wav\t-1", "a.wav\t"])
def test_malformed_fairseq_lines(tmp_path, line):
    path = write(tmp_path / "m.tsv", f"root\nb.wav\t100\n{line}\n")
    assert f"{path}:3: expected" in error(path)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_fairseq_counts_at_the_rate_of_the_file(tmp_path, rate):
    frames = rate + 7
    sf.write(tmp_path / "a.wav", np.zeros(frames), rate)
    (row,) = Corpus.load(write(tmp_path / "m.tsv", f"{tmp_path}\na.wav\t{frames}\n"))
    assert row.samples == audio_samples(tmp_path / "a.wav")
    assert len(read_row(row)) == len(read_audio(tmp_path / "a.wav"))


def test_a_stale_fairseq_manifest_is_refused(tmp_path):
    for name in "abc":
        sf.write(tmp_path / f"{name}.wav", np.zeros(800), 8000)
    path = write(tmp_path / "m.tsv", f"{tmp_path}\na.wav\t800\n\nb.wav\t1600\nc.wav\t{'9' * 5000}\n")
    assert f"{path}:4: b.wav has 800 samples at 8000 Hz, not 1600 (2 such lines)" in error(path)
    (tmp_path / "b.wav").write_bytes(b"")  # what cannot be opened fails when it is read, and not the others
    write(path, f"{tmp_path}\na.wav\t800\nb.wav\t1600\n")
    assert [r.samples for r in Corpus.load(path)] == [1600, 1600]


def test_counts_of_other_manifests_are_at_16_khz(tmp_path):
    sf.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    (row,) = Corpus.load(write(tmp_path / "m.tsv", "path\toffset\tsamples\na.wav\t1600\t8000\n"))
    assert (row.offset, row.samples) == (1600, 8000)
    assert len(read_row(row)) == 8000


RECORDS = [
    {"id": "one", "audio": "a/1.wav", "offset": 160, "samples": 320, "speaker": "s", "split": "train"},
    {"id": "two", "audio": "/elsewhere/2.wav"},
]


def rows_of(records: list[dict], folder: Path) -> list[Row]:
    return [Row(**{k: v for k, v in r.items() if k != "audio"}, path=str(folder / r["audio"])) for r in records]


def test_jsonl_csv_tsv_and_parquet_say_the_same(tmp_path):
    columns = list(RECORDS[0])
    cells = [columns, *([str(r.get(c, "")) for c in columns] for r in RECORDS)]
    write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, RECORDS)) + "\n\n")
    write(tmp_path / "m.csv", "\ufeff" + "\n".join(map(",".join, cells)))
    write(tmp_path / "m.TSV", "\n".join(map("\t".join, cells)))
    unwanted = {
        "more": pa.array([10**15, 0], pa.timestamp("ms"))
    }  # a year that Python has not: no other column is looked at
    pq.write_table(pa.table({c: [r.get(c) for r in RECORDS] for c in columns} | unwanted), tmp_path / "m.parquet")
    for name in ("m.jsonl", "m.csv", "m.TSV", "m.parquet"):
        assert list(Corpus.load(tmp_path / name)) == rows_of(RECORDS, tmp_path), name


@pytest.mark.parametrize("name", ["audio", "path", "file", "file_name"])
def test_the_names_of_the_path(tmp_path, name):
    assert ids(write(tmp_path / "m.csv", f"x,{name}\n5,a.wav\n")) == ["a"]
    assert ids(write(tmp_path / "m.jsonl", json.dumps({name: "b.wav", "x": 5}))) == ["b"]


def test_csv_knows_quotes_and_tsv_does_not(tmp_path):
    assert ids(write(tmp_path / "m.csv", 'id,path,text\n"a,b",a.wav,"two\nlines"\nc,c.wav,x\n')) == ["a,b", "c"]
    assert ids(write(tmp_path / "m.tsv", 'id\tpath\n"a\ta.wav\nb"\tb.wav\n')) == ['"a', 'b"']


def test_durations_are_seconds_and_gaps_of_pandas_are_gaps(tmp_path):
    path = write(
        tmp_path / "m.jsonl", '{"path": "a.wav", "duration": 1.23}\n{"path": "b.wav", "samples": 7.0, "duration": 9}\n'
    )
    assert [r.samples for r in Corpus.load(path)] == [19_680, 7]
    table = pa.table(
        {"path": ["a.wav", "b.wav"], "samples": [16_000.0, float("nan")], "speaker": ["x", None], "id": [1, 2]}
    )
    pq.write_table(table, tmp_path / "m.parquet")
    assert [dataclasses.astuple(r)[2:6] for r in Corpus.load(tmp_path / "m.parquet")] == [
        (0, 16_000, "x", None),
        (0, None, None, None),
    ]
    assert ids(tmp_path / "m.parquet") == ["1", "2"]


@pytest.mark.parametrize(
    "fields",
    [{"offset": 12.0}, {"offset": "12.5"}, {"offset": -1}, {"samples": 1.5}, {"samples": -1}, {"samples": "x"},
     {"duration": "1 s"},
     {"duration": float("inf")}, {"samples": [1]}],
)  # fmt: skip
def test_offsets_and_lengths_that_are_none(tmp_path, fields):
    path = write(tmp_path / "m.jsonl", '{"path": "a.wav"}\n' + json.dumps({"path": "b.wav", **fields}))
    assert f"{path}:2: offset and samples are whole numbers" in error(path)


def test_malformed_manifests(tmp_path):
    path = tmp_path / "m.jsonl"
    assert f"{path}:2: not JSON" in error(write(path, '{"path": "a.wav"}\n{"path": \n'))
    assert f"{path}:2: not JSON" in error(write(path, '{"path": "a.wav"}\n' + "[" * 100_000 + "\n"))
    assert f"{path}:1: expected an object" in error(write(path, '["a.wav"]\n'))
    assert f"{path}:1: no path" in error(write(path, '{"id": "a"}\n'))
    assert f"{path}:1: no path" in error(write(path, '{"audio": {"bytes": null}}\n'))
    assert f"{path}: no audio" in error(write(path, "\n"))
    path = tmp_path / "m.csv"
    assert f"{path}:2: no path" in error(write(path, "name,length\na,1\n"))
    assert f"{path}:3: does not have the 2 fields" in error(write(path, "id,path\na,a.wav\nb\n"))
    assert f"{path}:2: does not have the 2 fields" in error(write(path, "id,path\na,a.wav,c\n"))
    assert f"{path}:2: cannot be read" in error(write(path, f"id,path\na,{'a' * 200_000}\n"))
    path.write_bytes(b"id,path\n\xff\xfe,a.wav\n")
    assert f"{path}:2: id " in error(path)
    assert "save the manifest as UTF-8" in error(path)
    path.write_bytes("id,path\na,a.wav\n".encode("utf-16"))
    assert f"{path}: cannot be read as text" in error(path)
    path = tmp_path / "m.tsv"
    assert f"{path}:2: no path" in error(write(path, "id\tlength\na\t1\n"))
    assert f"{path}: no audio" in error(write(path, "root\n"))
    assert f"{path}: no audio" in error(write(path, ""))
    path = tmp_path / "m.parquet"
    assert f"{path}: not a parquet file" in error(write(path, "id,path\na,a.wav\n"))


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"id": {"x": 1}}, "id"),
        ({"id": True}, "id"),
        ({"speaker": ["ann"]}, "speaker"),
        ({"split": 1.5}, "split"),
        ({"samples": True}, "samples"),
        ({"offset": False}, "offset"),
        ({"duration": True}, "duration"),
    ],
)
def test_values_of_manifests_of_another_type(tmp_path, record, name):
    path = write(tmp_path / "m.jsonl", json.dumps({"path": "a.wav", **record}) + "\n")
    assert f"{path}:1: " in error(path)
    assert name in error(path)


def test_numbers_as_names_of_speakers(tmp_path):
    """pandas reads a column of numbers in which one is missing as floats."""
    path = tmp_path / "m.parquet"
    columns = {"path": ["a.wav", "b.wav", "c.wav"], "speaker": [1088.0, None, 19.0]}
    pq.write_table(pa.table(columns), path)
    assert [row.speaker for row in Corpus.load(path)] == ["1088", None, "19"]


def test_a_column_that_is_there_twice(tmp_path):
    path = write(tmp_path / "m.csv", "path,speaker,path\na.wav,ann,b.wav\n")
    assert f"{path}:1: has the column 'path' twice" in error(path)


@pytest.mark.parametrize("times", ["1\t0.5", "-1\t0.5", "-2\t-1"])
def test_phones_that_end_before_they_begin(tmp_path, times):
    path = write(tmp_path / "phones.tsv", f"id\tstart\tend\tphone\na\t0\t0\tp\na\t{times}\tq\n")
    with pytest.raises(CorpusError, match="line 3: start and end must be seconds from 0 on, the start first"):
        read_alignments(path)


def test_a_pipe_or_a_device_has_no_hash(tmp_path):
    """Reading one would never end."""
    os.mkfifo(tmp_path / "pipe.wav")
    os.symlink("/dev/zero", tmp_path / "zero.wav")
    for name in ("pipe.wav", "zero.wav"):
        with pytest.raises(AudioError, match=f"{name}: cannot be read .is not a file but a pipe or a device"):
            sha256_file(tmp_path / name)


# ---- splits


@pytest.fixture
def split_folder(tmp_path):
    touch(tmp_path, "x/a.wav", "x/b.wav", "y/c.wav", "y/d.wav")
    write(
        tmp_path / "splits.tsv",
        "corpus\tid\tspeaker\tsplit\nx\ta\tann\ttrain\nx\tb\tbob\tdev\ny\tc\t\ttrain\nz\tother\tzoe\ttest\n",
    )
    return tmp_path


def test_splits_are_joined(split_folder):
    corpus = Corpus.load([split_folder / "x", split_folder / "y"], splits=split_folder / "splits.tsv")
    assert [(r.id, r.speaker, r.split) for r in corpus] == [
        ("a", "ann", "train"), ("b", "bob", "dev"), ("c", None, "train"), ("d", None, None),
    ]  # fmt: skip
    assert ids([split_folder / "x", split_folder / "y"], splits=split_folder / "splits.tsv", split="train") == [
        "a",
        "c",
    ]
    assert len(corpus) == 4
    assert corpus[1] == list(corpus)[1]
    assert [r.id for r in corpus.select(speakers=["ann", "bob"])] == ["a", "b"]
    assert [r.id for r in corpus.select("dev", {"ann", "bob"})] == ["b"]
    assert [r.id for r in corpus.select()] == ["a", "b", "c", "d"]


def test_splits_by_csv_and_by_stem(split_folder):
    write(
        split_folder / "m.jsonl",
        '{"id": "n1", "audio": "x/a.wav", "speaker": "old", "split": "old"}\n{"audio": "y/d.wav"}\n',
    )
    splits = write(split_folder / "s.csv", "id,split\na,train\n")
    rows = list(Corpus.load(split_folder / "m.jsonl", splits=splits))
    assert [(r.id, r.speaker, r.split) for r in rows] == [("n1", "old", "train"), ("d", None, None)]
    write(splits, "id,split\na,train\nn1,dev\n")
    assert Corpus.load(split_folder / "m.jsonl", splits=splits)[0].split == "dev"


def test_a_split_of_the_manifest_itself(tmp_path):
    path = write(tmp_path / "m.csv", "path,split\na.wav,train\nb.wav,dev\n")
    assert ids(path, split="dev") == ["b"]


def test_when_no_row_remains(split_folder):
    how = {"splits": split_folder / "splits.tsv"}
    assert "splits: dev, train; speakers: ann, bob" in error(split_folder / "x", split="test", **how)
    assert "no row has split 'test'" in error(split_folder / "x", split="test", **how)
    assert "splits: none" in error(split_folder / "x", split="train")
    with pytest.raises(CorpusError, match=r"no row has speakers \['eve'\]"):
        Corpus.load(split_folder / "x", **how).select(speakers=["eve"])


def test_tables_of_splits_that_do_not_fit(split_folder):
    splits = split_folder / "splits.tsv"
    assert f"{splits}: has none of the ids" in error(split_folder / "y/d.wav", splits=splits)
    assert "other.tsv: cannot be read" in error(split_folder, splits=split_folder / "other.tsv")
    write(splits, "id\tset\na\ttrain\n")
    assert f"{splits}: the header must name the columns id and split" in error(split_folder, splits=splits)
    write(splits, "id\tsplit\na\ttrain\na\ttrain\nb\tdev\n")
    assert len(Corpus.load(split_folder, splits=splits)) == 4
    write(splits, "id\tsplit\na\ttrain\na\tdev\n")
    assert f"{splits}:3: duplicate id 'a'" in error(split_folder, splits=splits)


# ---- names in other forms, and links


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
ODD = b"caf\xe9"  # Latin-1


def test_names_that_differ_in_unicode_form_are_one(tmp_path):
    touch(tmp_path, f"rec/{NFD}.wav", "rec/plain.wav")
    for form in (NFC, NFD):
        splits = write(tmp_path / "s.tsv", f"id\tsplit\tspeaker\n{form}\tt{form}\ts{form}\nplain\tdev\tann\n")
        corpus = Corpus.load(tmp_path / "rec", splits=splits)
        assert [(r.id, r.split, r.speaker) for r in corpus] == [(NFC, f"t{NFC}", f"s{NFC}"), ("plain", "dev", "ann")]
        assert corpus[0].path == str(tmp_path / f"rec/{NFD}.wav")  # the file system's own
        for wanted in (NFC, NFD):
            assert [r.id for r in corpus.select(f"t{wanted}", [f"s{wanted}"])] == [NFC]
        assert Row(form, "x", speaker=form, split=form) == Row(NFC, "x", speaker=NFC, split=NFC)
        write(
            tmp_path / "m.jsonl",
            json.dumps({"path": "a.wav", "id": form}) + "\n" + json.dumps({"path": "b.wav", "id": "b"}),
        )
        assert ids(tmp_path / "m.jsonl") == [NFC, "b"]
    write(splits, f"id\tsplit\n{NFC}\t{NFC}\n{NFD}\t{NFD}\n")
    assert Corpus.load(tmp_path / "rec", splits=splits)[0].split == NFC
    touch(tmp_path, f"rec/{NFC}.wav")
    assert "duplicate id" in error(tmp_path / "rec")


def test_tables_are_joined_whatever_their_unicode_form(tmp_path):
    units = Units(np.array([1, 2, 1, 2]), None, UnitContract(frame_rate=50.0, n_units=3))
    for form in (NFC, NFD):
        assert UnitRow(form, units, speaker=form).id == NFC
        table = write(tmp_path / "p.tsv", f"\ufeffid\tstart\tend\tphone\n{form}\t0\t0.04\tA\n{form}\t0.04\t0.09\tB\n")
        assert list(read_alignments(table)) == [NFC]
        phones = {form: [(0.0, 0.04, "A"), (0.04, 0.09, "B")]}
        assert measure_units([UnitRow(form, units)], alignments=phones)["frames"] == 4
        assert read_text(write(tmp_path / "t.tsv", f"\ufeff{form}\tone two\n")) == {NFC: "one two"}
        items = write(
            tmp_path / "i.item", f"#file onset offset #phone prev-phone next-phone speaker\n{form} 0 1 A B C s\n"
        )
        assert read_items(items)[0].file == NFC
        pairs = write(tmp_path / "pairs.tsv", f"good\tbad\n{form}\tb\n")
        for known in (NFC, NFD):
            assert read_pairs(pairs, {known: units, "b": units}) == [(units, units)]


@pytest.fixture
def odd(tmp_path):
    """A folder with ok.wav and a file whose name is not UTF-8."""
    noise(tmp_path / "rec/ok.wav", 800)
    try:
        shutil.copy(tmp_path / "rec/ok.wav", os.fsencode(tmp_path / "rec") + b"/" + ODD + b".wav")
    except OSError:
        pytest.skip("file names must be Unicode here")
    return tmp_path


def test_file_names_that_are_not_utf8(odd):
    name = os.fsdecode(ODD)
    for source in (odd / "rec", f"{odd}/rec/*.wav", f"{odd}/**/*.wav", [odd / f"rec/{name}.wav", odd / "rec/ok.wav"]):
        rows = list(Corpus.load(source))
        assert [r.id for r in rows] == ["caf\\udce9", "ok"]
        np.testing.assert_array_equal(*(read_row(r) for r in rows))
    assert Corpus(rows).fingerprint(sha256_file)
    assert sorted(PackedAudio.build(Corpus(rows), odd / "packed").ids) == ["caf\\udce9", "ok"]
    write_audio(odd / f"{name}.flac", np.zeros(10))
    assert len(read_audio(odd / f"{name}.flac")) == 10
    row = UnitRow(rows[0].id, Units(np.array([1])), source=f"{name}.wav")
    assert row.source == "caf\\udce9.wav"


@pytest.mark.parametrize("name", ["m.tsv", "fairseq.tsv", "m.csv", "m.jsonl", "escaped.jsonl"])
def test_paths_of_manifests_are_any_bytes(odd, name):
    path, file = odd / name, b"rec/" + ODD + b".wav"
    path.write_bytes(
        {
            "m.tsv": b"id\tpath\na\t%s\n",
            "fairseq.tsv": b"\n%s\t800\n",
            "m.csv": b"id,path\na,%s\n",
            "m.jsonl": b'{"id": "a", "path": "%s"}\n',
            "escaped.jsonl": b'{"id": "a", "path": "%s"}\n',
        }[name]
        % (json.dumps(os.fsdecode(file))[1:-1].encode() if name == "escaped.jsonl" else file)
    )
    (row,) = Corpus.load(path)
    assert len(read_row(row)) == 800


def test_paths_that_no_file_can_have(tmp_path):
    path = tmp_path / "m.jsonl"
    for text in ('"a\\u0000.wav"', '"a\\ud800.wav"'):
        assert f"{path}:1: no file can have the path" in error(write(path, f'{{"path": {text}}}\n'))
    assert "a path cannot hold NUL" in error("a\0.wav")


def test_each_file_is_one_row_whatever_links_there_are(tmp_path):
    touch(tmp_path, "rec/a.wav", "rec/in/c.wav", "other/b.wav")
    links = {
        "more": "../other",
        "again": ".",
        "in/up": "..",
        "same.wav": "a.wav",
        "far.wav": "../other/d.wav",
        "x": "y",
        "y": "x",
    }
    touch(tmp_path, "other/d.wav")
    for link, target in links.items():
        (tmp_path / "rec" / link).symlink_to(target)
    want = ["rec/a.wav", "rec/in/c.wav", "rec/more/b.wav", "rec/more/d.wav"]

    def found(source) -> list[str]:
        return [str(Path(r.path).relative_to(tmp_path)) for r in Corpus.load(source)]

    assert sorted(found(tmp_path / "rec")) == sorted(want)
    assert sorted(found(f"{tmp_path}/rec/**/*.wav")) == sorted(want)
    assert found(f"{tmp_path}/rec/**/in/*") == ["rec/in/c.wav"]
    # What another source holds without a link is taken there.
    assert found([tmp_path / "rec", tmp_path / "other"]) == ["rec/a.wav", "rec/in/c.wav", "other/b.wav", "other/d.wav"]
    (tmp_path / "twin").symlink_to("other")
    assert found([tmp_path / "twin", tmp_path / "other"]) == ["other/b.wav", "other/d.wav"]
    assert found(tmp_path / "twin") == ["twin/b.wav", "twin/d.wav"]


def test_links_to_nothing_fail_when_they_are_read(tmp_path):
    touch(tmp_path, "ok.wav")
    for link, target in (("a.wav", "nothing.wav"), ("b.wav", "c.wav"), ("c.wav", "b.wav")):
        (tmp_path / link).symlink_to(target)
    rows = list(Corpus.load(tmp_path))
    assert [r.id for r in rows] == ["a", "b", "c", "ok"]
    for row, why in zip(rows[:3], ("no such file", "cannot be read", "cannot be read"), strict=True):
        with pytest.raises(AudioError, match=why):
            read_row(row)


def test_a_folder_that_cannot_be_read_is_not_passed_over_in_silence(tmp_path, monkeypatch):
    touch(tmp_path, "a.wav", "shut/b.wav")
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.warns(UserWarning, match=r"shut: cannot be read \(Permission denied\); its audio is left out"):
        assert ids(tmp_path) == ["a"]


def test_rows_of_several_sources_are_named_together(tmp_path):
    touch(tmp_path, "x/a.wav", "y/a.wav", "y/b.wav")
    assert [[r.id for r in rows] for rows in load_sources([tmp_path / "y", tmp_path / "x"])] == [
        ["y/a", "y/b"],
        ["x/a"],
    ]


# ---- the fingerprint


@pytest.fixture
def heard(tmp_path):
    for n in range(3):
        noise(tmp_path / f"in/{n}.wav", 1000 + 100 * n, seed=n)
    return tmp_path


def fingerprint(rows) -> str:
    return Corpus(rows).fingerprint(sha256_file)


def test_order_and_place_do_not_matter(heard):
    rows = list(Corpus.load(heard / "in"))
    first = fingerprint(rows)
    assert len(first) == 64
    assert fingerprint(rows[::-1]) == first
    shutil.copytree(heard / "in", heard / "some/where")
    assert Corpus.load(heard / "some").fingerprint(sha256_file) == first
    moved = write(heard / "m.csv", "path,id\nsome/where/1.wav,1\nin/2.wav,2\nin/0.wav,0\n")
    assert Corpus.load(moved).fingerprint(sha256_file) == first


def test_it_is_of_the_rows_as_json_would_write_them():
    """Keys depend on it: what is written faster must be what `json.dumps` writes, whatever is in the names."""
    rows = [
        Row('q"\\/\n', "/a"),
        Row("ü \u2028", "/b", 3, 7, "s\tp", "träin"),
        Row("c", "/c", 0, None, None, "x"),
        Row("d", "/d", 1, 0, "", None),
    ]
    written = sorted(json.dumps(row_identity(row, lambda path: path * 2)) for row in rows)
    assert Corpus(rows).fingerprint(lambda path: path * 2) == hashlib.sha256("\n".join(written).encode()).hexdigest()


def test_everything_else_does(heard):
    rows = list(Corpus.load(heard / "in"))
    changes = [{"id": "x"}, {"speaker": "x"}, {"split": "x"}, {"offset": 1}, {"samples": 900}, {"path": rows[1].path}]
    changed = [fingerprint([dataclasses.replace(rows[0], **change), *rows[1:]]) for change in changes]
    noise(Path(rows[0].path), 1000, seed=9)
    seen = {fingerprint(rows), fingerprint(rows[:2]), *changed}
    noise(Path(rows[0].path), 1000, seed=0)
    seen.add(fingerprint(rows))
    assert len(seen) == len(changes) + 3


def test_each_file_is_hashed_once(heard):
    path, asked = str(heard / "in/0.wav"), []
    rows = [Row("a", path, 0, 100), Row("b", path, 100, 100)]
    Corpus(rows).fingerprint(lambda p: asked.append(p) or "00")
    assert asked == [path]


def test_the_hash_of_a_missing_file(tmp_path):
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read \(No such file"):
        sha256_file(tmp_path / "a.wav")
    write(tmp_path / "a", "abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ---- rows read ahead


def test_rows_are_read_in_order_with_their_errors(heard):
    (heard / "in/1.wav").write_bytes(b"")
    rows = list(Corpus.load(heard / "in")) + [Row(f"again{n}", str(heard / "in/2.wav"), 10 * n, 50) for n in range(20)]
    read = list(read_rows(rows))
    assert [r for r, _ in read] == rows
    assert "empty" in str(read.pop(1)[1])
    for row, waveform in read:
        np.testing.assert_array_equal(waveform, read_audio(row.path)[row.offset :][: row.samples])


def test_rows_are_read_only_a_few_ahead(heard, monkeypatch):
    started = []
    monkeypatch.setattr(module, "read_row", lambda row: started.append(row) or np.zeros(1))
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    rows = read_rows([Row(str(n), "x") for n in range(100)])
    next(rows)
    rows.close()
    assert 1 <= len(started) <= 5


def test_no_more_is_decoded_ahead_than_some_seconds(heard, monkeypatch):
    decoded = []
    monkeypatch.setattr(module, "read_row", lambda row: decoded.append(row.id) or np.zeros(1))
    monkeypatch.setattr(module, "audio_samples", lambda path: 1000 * int(path))
    monkeypatch.setattr(module.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(module, "AHEAD", 5000)
    # the second fills what may be ahead; one that is longer than that is decoded when it is its turn
    rows = [Row(str(n), str(length)) for n, length in enumerate([2, 3, 4, 90, 1, 1, 90, 90])]
    read = read_rows(rows)
    for n, most in enumerate([2, 2, 3, 4, 6, 6, 7, 8]):
        assert next(read)[0] == rows[n]
        assert decoded == [row.id for row in rows[: len(decoded)]]
        assert n < len(decoded) <= most
    assert [row for row, _ in read] == []
    assert len(decoded) == 8


def test_rows_of_a_lossy_file_are_decoded_once(tmp_path, monkeypatch):
    from textless.audio import io as audio

    monkeypatch.setattr(audio, "BLOCK", 1000)
    x, rng = np.random.default_rng(0).normal(0, 0.1, 60_000), np.random.default_rng(1)
    paths = [str(tmp_path / name) for name in ("a.mp3", "b.ogg", "c.wav")]
    for path in paths:
        sf.write(path, x, 16_000)
    rows = [Row(f"{path}{n}", path, 1000 * n, int(rng.integers(1, 3000))) for path in paths for n in range(50)]
    rows[20:20] = [Row("long", paths[0], 100, 9000), Row("whole", paths[0]), Row("end", paths[1], 50_000, 10_000)]
    alone = [read_row(row) for row in rows]
    count, original = [], sf.SoundFile.read
    monkeypatch.setattr(sf.SoundFile, "read", lambda self, n, **how: count.append(n) or original(self, n, **how))
    read = list(read_rows(rows, longest=8000))
    assert [row for row, _ in read] == rows
    for (row, waveform), right in zip(read, alone, strict=True):
        if isinstance(waveform, module.Recording):
            assert row.id in ("long", "whole", "end")
            waveform = np.concatenate(list(waveform.blocks()))
        np.testing.assert_array_equal(waveform, right)
    # a.mp3 before and behind the rows between, b.ogg, c.wav, and the three that are long
    assert sum(count) < (22 + 52 + 52) * 1000 + 50 * 4000 + (10 + 60 + 60) * 1000


def test_reading_ahead_ends_when_the_reader_goes(tmp_path):
    sf.write(tmp_path / "a.mp3", np.random.default_rng(0).normal(0, 0.1, 160_000), 16_000)
    rows = read_rows([Row(str(n), str(tmp_path / "a.mp3"), 1000 * n, 1000) for n in range(150)])
    next(rows)
    before = {t.name for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")}
    rows.close()
    assert not {t.name for t in threading.enumerate()} & before


# ---- packed audio


def test_packed_audio_is_the_audio(heard):
    with sf.SoundFile(heard / "in/stereo.flac", "w", 44_100, 2) as f:
        f.write(np.random.default_rng(5).uniform(-0.3, 0.3, (5000, 2)))
    rows = [*Corpus.load(heard / "in"), Row("part", str(heard / "in/1.wav"), 100, 200, speaker="ann")]
    packed = PackedAudio.build(Corpus(rows), heard / "packed")
    assert packed.ids == ["0", "1", "2", "stereo", "part"]
    assert packed.speakers == [None, None, None, None, "ann"]
    assert len(packed) == 5
    assert packed.lengths.dtype == np.int64
    assert packed.lengths.tolist() == [1000, 1100, 1200, 1814, 200]
    for i, row in enumerate(rows):
        whole = packed.waveform(i)
        assert whole.dtype == np.float32
        np.testing.assert_allclose(whole, read_row(row), atol=0.51 / 32768 if row.id == "stereo" else 0, strict=True)
        np.testing.assert_array_equal(packed.waveform(i, 10, 60), whole[10:60])
        np.testing.assert_array_equal(packed.waveform(i, 50), whole[50:])
        np.testing.assert_array_equal(packed.waveform(i, 50, 10**9), whole[50:])
        np.testing.assert_array_equal(packed.waveform(i, 10**9), whole[:0])
    assert {p.name for p in (heard / "packed").iterdir()} == {"audio.i16", "index.json"}
    assert (heard / "packed/audio.i16").stat().st_size == 2 * packed.lengths.sum()


def test_packed_audio_is_opened_again_if_it_is_of_the_same_rows(heard, monkeypatch):
    corpus = Corpus.load(heard / "in")
    before = PackedAudio.build(corpus, heard / "packed")
    with monkeypatch.context() as m:
        m.setattr(module, "read_row", lambda row: pytest.fail("decodes again"))
        again = PackedAudio.build(corpus, heard / "packed")
    assert again.ids == before.ids
    np.testing.assert_array_equal(again.waveform(2), before.waveform(2))
    for rows in (
        list(corpus)[:2],
        list(corpus)[::-1],
        [dataclasses.replace(r, speaker="s") for r in corpus],
        [dataclasses.replace(r, offset=7) for r in corpus],
        [dataclasses.replace(r, samples=7) for r in corpus],
    ):
        packed = PackedAudio.build(Corpus(rows), heard / "packed")
        assert packed.ids == [r.id for r in rows]
        assert packed.speakers == [r.speaker for r in rows]
        np.testing.assert_array_equal(packed.waveform(1), read_row(rows[1]))


@pytest.mark.parametrize("damage", ["audio", "index", "missing"])
def test_packed_audio_that_is_damaged_is_made_again(heard, damage):
    corpus, folder = Corpus.load(heard / "in"), heard / "packed"
    PackedAudio.build(corpus, folder)
    audio = (folder / "audio.i16").read_bytes()
    if damage == "audio":
        (folder / "audio.i16").write_bytes(audio[:-2])
    elif damage == "index":
        (folder / "index.json").write_text('{"rows')
    else:
        (folder / "audio.i16").unlink()
    PackedAudio.build(corpus, folder)
    assert (folder / "audio.i16").read_bytes() == audio


def test_packed_audio_with_bad_files(heard):
    (heard / "in/1.wav").write_bytes((heard / "in/1.wav").read_bytes()[:500])
    corpus, folder, bad = Corpus.load(heard / "in"), heard / "packed", []
    with pytest.raises(AudioError, match=r"1\.wav: cut short"):
        PackedAudio.build(corpus, folder)
    assert list(folder.iterdir()) == []
    for _ in range(2):  # made, then opened
        packed = PackedAudio.build(corpus, folder, on_bad=lambda row, e: bad.append((row.id, str(e))))
        assert packed.ids == ["0", "2"]
        assert packed.lengths.tolist() == [1000, 1200]
        np.testing.assert_array_equal(packed.waveform(1), read_audio(heard / "in/2.wav"))
    assert bad[0] == bad[1]
    assert bad[0][0] == "1"
    assert "1.wav: cut short" in bad[0][1]
    with pytest.raises(AudioError, match="cut short"):
        PackedAudio.build(corpus, folder)
    noise(heard / "in/1.wav", 1100, seed=1)
    assert PackedAudio.build(corpus, folder).ids == ["0", "1", "2"]
    with pytest.raises(CorpusError, match=r"none of the 1 rows can be read, such as .*no\.wav: no such file"):
        PackedAudio.build(Corpus([Row("no", str(heard / "no.wav"))]), heard / "none", on_bad=lambda row, e: None)


def test_a_build_that_dies_between_its_two_files_is_not_opened(heard, monkeypatch):
    corpus, folder = Corpus.load(heard / "in"), heard / "packed"
    PackedAudio.build(corpus, folder)
    other = Corpus([dataclasses.replace(r, path=corpus[2].path, samples=len(read_row(r))) for r in corpus])
    replace = Path.replace

    def dies(self, target):
        if Path(target).name == "index.json":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as m:
        m.setattr(Path, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            PackedAudio.build(other, folder)
    np.testing.assert_array_equal(PackedAudio.build(corpus, folder).waveform(0), read_row(corpus[0]))


def test_a_pickled_map_does_not_carry_the_audio(heard):
    noise(heard / "in/long.wav", 100_000)
    packed = PackedAudio.build(Corpus.load(heard / "in"), heard / "packed")
    pickled = pickle.dumps(packed)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).waveform(3), packed.waveform(3))


def test_some_rows_are_read_in_an_order_of_the_seeds_own(tmp_path):
    files = [noise(tmp_path / f"{k}.wav", 16000, k) for k in range(12)] + [noise(tmp_path / "long.wav", 5 * 16000, 99)]
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    rows = [Row(id=f.stem, path=str(f)) for f in [*files, tmp_path / "bad.wav"]]
    everything = read_some(rows, seconds=1000, seed=0, longest=2)
    assert sorted(map(len, everything)) == [16000] * 12 + [32000]  # one cut, one passed over
    longest = max(everything, key=len)
    np.testing.assert_array_equal(longest, read_audio(tmp_path / "long.wav")[:32000])
    for mixed in (rows, rows[::-1]):
        some = read_some(mixed, seconds=3, seed=0, longest=2)
        assert 3 * 16000 <= sum(map(len, some)) < 5 * 16000
        for one, other in zip(some, everything, strict=False):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(read_some(rows, seconds=1, seed=1)[0], everything[0])
