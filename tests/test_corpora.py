"""Corpora in the forms of other tools. Fixtures follow the tools' sources, which each test names."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from click.testing import CliRunner

from textless.audio import parquet as parquet_module
from textless.audio.corpus import Corpus, read_row, read_rows, row_identity, sha256_file
from textless.audio.io import AudioError, audio_channels, audio_samples, read_audio
from textless.audio.place import Member, Place
from textless.cli.app import cli
from textless.engine.step import Keys
from textless.engine.yaml import load_pipeline
from textless.errors import CorpusError, TextlessError
from textless.steps import STEPS
from textless.steps import Corpus as CorpusStep
from textless.units.dump import open_dump


def tone(path: Path, seconds: float = 1.0, *, rate: int = 16000, channels: int = 1, seed: int = 0) -> Path:
    """A file of noise, each channel its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate), channels)), rate)
    return path


def lines(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def rows(source: Path | str) -> dict[str, tuple]:
    return {r.id: (os.path.basename(r.path), r.offset, r.samples, r.speaker) for r in Corpus.load(source)}


def error(source: Path | str) -> str:
    with pytest.raises(CorpusError) as caught:
        Corpus.load(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- Kaldi: kaldi-asr/kaldi, src/featbin/extract-segments.cc, egs/wsj/s5/utils/validate_data_dir.sh


@pytest.fixture
def kaldi(tmp_path):
    tone(tmp_path / "audio/call one.wav", 4)
    tone(tmp_path / "audio/b.wav", 2, rate=8000, channels=2)
    lines(tmp_path / "data/wav.scp", f"rec1 {tmp_path}/audio/call one.wav", "rec2\t../audio/b.wav")
    return tmp_path / "data"


def test_a_folder_of_kaldi_without_segments_has_its_recordings(kaldi, tmp_path):
    lines(kaldi / "utt2spk", "rec1 anna", "rec2 ben")
    expected = {"rec1": ("call one.wav", 0, None, "anna"), "rec2": ("b.wav", 0, None, "ben")}
    assert rows(kaldi) == rows(kaldi / "wav.scp") == expected
    assert [len(w) for _, w in read_rows(Corpus.load(kaldi))] == [64000, 32000]


def test_segments_of_kaldi_are_seconds(kaldi):
    lines(
        kaldi / "segments",
        "u1 rec1 0.57 1.25",
        "u2 rec1 3 -1",
        "u3 rec1 3 4.4",
        "u4 rec2 0.5 1.0 1",
        "u5 rec2 0 2.499 0",
    )
    lines(kaldi / "utt2spk", *(f"u{n} s{n}" for n in range(1, 6)))
    assert rows(kaldi) == {
        "u1": ("call one.wav", 9120, 10880, "s1"),
        "u2": ("call one.wav", 48000, 16000, "s2"),
        "u3": ("call one.wav", 48000, 16000, "s3"),
        "u4": ("b.wav", 8000, 8000, "s4"),
        "u5": ("b.wav", 0, 32000, "s5"),
    }
    corpus = Corpus.load(kaldi)
    assert [r.channel for r in corpus] == [None, None, None, 1, 0]
    whole = read_audio(kaldi / "../audio/b.wav", channel=1)
    np.testing.assert_allclose(read_row(corpus[3]), whole[8000:16000], atol=1e-5)


def test_segments_that_kaldi_drops_are_dropped_with_a_warning(kaldi):
    lines(
        kaldi / "segments", "good rec1 0 1", "late rec1 3 4.5", "past rec1 4 -1", "short rec1 1 1.1", "ok rec1 1 1.101"
    )
    with pytest.warns(UserWarning, match="3 of 5 segments are left out") as caught:
        assert set(rows(kaldi)) == {"good", "ok"}
    assert str(caught[0].message).endswith("segments:2")


def test_a_command_of_kaldi_is_never_run(tmp_path):
    mark = tmp_path / "ran"
    lines(tmp_path / "wav.scp", "a a.wav", f"b touch {mark}; sph2pipe -f wav b.sph |")
    assert f"{tmp_path}/wav.scp:2: " in error(tmp_path)
    assert "is a command, which is never run" in error(tmp_path)
    assert not mark.exists()
    lines(tmp_path / "wav.scp", "a raw.ark:17")
    assert "archives of Kaldi are not read" in error(tmp_path)


def test_paths_of_kaldi_count_from_the_working_folder_or_the_file(tmp_path, monkeypatch):
    tone(tmp_path / "run/wavs/a.wav")
    tone(tmp_path / "run/data/wavs/b.wav")
    lines(tmp_path / "run/data/wav.scp", "a wavs/a.wav", "b wavs/b.wav")
    monkeypatch.chdir(tmp_path / "run")
    assert [len(w) for _, w in read_rows(Corpus.load("data"))] == [16000, 16000]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("u other 0 1", "is not a recording of wav.scp"),
        ("u rec1 1", "has no start and end"),
        ("u rec1 2 1", "is no part of a recording"),
        ("u rec1 -1 1", "is no part of a recording"),
        ("u rec1 nan 1", "is no part of a recording"),
        ("u rec1 0 1e300", "is no part of a recording"),
        ("u rec1 0 1 x", "channel 'x' is none of"),
        ("u", "a line is a name"),
        ("good rec1 0 1", "duplicate 'good'"),
    ],
)
def test_malformed_segments_are_named_with_their_line(kaldi, line, what):
    lines(kaldi / "segments", "good rec1 0 1", line)
    text = error(kaldi)
    assert text.startswith(f"{kaldi}/segments:2: ")
    assert what in text


# ---- NeMo: NVIDIA/NeMo, nemo/collections/common/parts/preprocessing/manifest.py


def test_times_of_nemo_are_seconds(tmp_path):
    tone(tmp_path / "wavs/a.wav", 3)
    tone(tmp_path / "wavs/b.wav", 1)
    path = lines(
        tmp_path / "train.json",
        {"audio_filepath": "wavs/a.wav", "duration": 1.5, "offset": 0.25, "text": "one", "speaker": 7},
        {"audio_filepath": "wavs/a.wav", "duration": 1, "offset": 2, "text": "two"},
        {"audio_filepath": str(tmp_path / "wavs/b.wav"), "duration": 1.0, "text": "three", "offset": None},
    )
    expected = {
        "a-00000250-00001750": ("a.wav", 4000, 24000, "7"),
        "a-00002000-00003000": ("a.wav", 32000, 16000, None),
        "b": ("b.wav", 0, 16000, None),
    }
    assert rows(path) == expected
    assert rows(path.rename(tmp_path / "train.jsonl")) == expected
    assert [len(w) for _, w in read_rows(Corpus.load(tmp_path / "train.jsonl"))] == [24000, 16000, 16000]


@pytest.mark.parametrize("field", [{"offset": -1}, {"duration": "long"}, {"offset": float("nan")}, {"duration": True}])
def test_times_of_nemo_that_are_none(tmp_path, field):
    path = lines(tmp_path / "m.json", {"audio_filepath": "a.wav"}, {"audio_filepath": "a.wav", **field})
    assert f"{path}:2: {next(iter(field))} " in error(path)


def test_a_row_of_nemo_of_several_files_is_refused(tmp_path):
    path = lines(tmp_path / "m.json", {"audio_filepath": "a.wav"}, {"audio_filepath": ["a.wav", "b.wav"]})
    assert f"{path}:2: no path under audio_filepath" in error(path)
    assert ":1: not JSON" in error(lines(tmp_path / "other.json", "[", "]"))


# ---- lhotse: lhotse-speech/lhotse, test/fixtures, lhotse/audio/recording.py, lhotse/supervision.py


def recording(name: str, path: str, seconds: float, channels: list[int]) -> dict:
    source = {"type": "file", "channels": channels, "source": path}
    count = {"sampling_rate": 8000, "num_samples": round(8000 * seconds), "duration": seconds}
    return {"id": name, "sources": [source], **count, "channel_ids": channels}


@pytest.fixture
def lhotse(tmp_path):
    tone(tmp_path / "mono.wav", 2, rate=8000)
    tone(tmp_path / "call.wav", 3, rate=8000, channels=2, seed=1)
    recordings = [recording("rec-1", "mono.wav", 2.0, [0]), recording("rec-2", str(tmp_path / "call.wav"), 3.0, [0, 1])]
    with gzip.open(tmp_path / "recordings.jsonl.gz", "wt") as f:
        f.writelines(json.dumps(r) + "\n" for r in recordings)
    return tmp_path


def supervision(name: str, rec: str, start: float, duration: float, channel: int | list[int]) -> dict:
    part = {"recording_id": rec, "start": start, "duration": duration, "channel": channel}
    return {"id": name, **part, "text": "x", "language": "en", "speaker": f"spk-{name}"}


def test_recordings_of_lhotse(lhotse):
    expected = {"rec-1": ("mono.wav", 0, None, None), "rec-2": ("call.wav", 0, None, None)}
    assert rows(lhotse / "recordings.jsonl.gz") == expected


def test_supervisions_of_lhotse_count_from_the_recording(lhotse):
    path = lines(
        lhotse / "supervisions.jsonl",
        supervision("s1", "rec-1", 0.5, 1.0, 0),
        supervision("s2", "rec-2", 1.0, 0.5, 1),
        supervision("s3", "rec-2", 0.0, 3.0, [0, 1]),
        supervision("s4", "rec-1", 1.0, 1.02, 0),  # rounded beyond the end
    )
    assert rows(path) == {
        "s1": ("mono.wav", 8000, 16000, "spk-s1"),
        "s2": ("call.wav", 16000, 8000, "spk-s2"),
        "s3": ("call.wav", 0, 48000, "spk-s3"),
        "s4": ("mono.wav", 16000, 16000, "spk-s4"),
    }
    assert [r.channel for r in Corpus.load(path)] == [None, 1, None, None]
    assert not any(isinstance(w, AudioError) for _, w in read_rows(Corpus.load(path)))
    path.unlink()
    lines(lhotse / "other_supervisions_dev.jsonl", supervision("s1", "rec-1", 0.5, 1.0, 0))
    assert "other_recordings_dev.jsonl is not there" in error(lhotse / "other_supervisions_dev.jsonl")


def test_cuts_of_lhotse_may_be_wider_than_their_supervisions(lhotse):
    cut = {"id": "cut-1", "start": 0.5, "duration": 1.25, "channel": 1, "type": "MonoCut"}
    cut["supervisions"] = [supervision("s", "rec-2", 0.1, 0.5, 1)]
    cut["recording"] = recording("rec-2", str(lhotse / "call.wav"), 3.0, [0, 1])
    path = lines(lhotse / "cuts.jsonl", cut)
    assert rows(path) == {"cut-1": ("call.wav", 8000, 20000, "spk-s")}
    lines(path, {"id": "m", "type": "MixedCut", "tracks": []})
    assert f"{path}:1: MixedCut is no part of one recording" in error(path)


def test_a_folder_of_lhotse_is_read_where_it_holds_no_audio(lhotse, tmp_path):
    folder = tmp_path / "manifests"
    folder.mkdir()
    (lhotse / "recordings.jsonl.gz").rename(folder / "recordings.jsonl.gz")
    assert list(rows(folder)) == ["rec-1", "rec-2"]
    lines(folder / "supervisions.jsonl", supervision("s1", "rec-1", 0.5, 1.0, 0))
    assert list(rows(folder)) == ["s1"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            {"sources": [{"type": "command", "channels": [0], "source": "touch ran"}]},
            "is a command, which is never run",
        ),
        ({"sources": [{"type": "url", "channels": [0], "source": "https://x"}]}, "the audio is a url"),
        ({"sources": []}, "has no sources"),
        ({"sources": [{"type": "file", "channels": [0], "source": 5}]}, "has no path"),
        ({"sources": [{"type": "file", "source": "a.wav"}]}, "names no channels"),
        ({"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}, "is changed by lhotse"),
        ({"id": None}, "has no id"),
    ],
)
def test_recordings_that_cannot_be_read_are_refused(tmp_path, change, what):
    path = lines(tmp_path / "recordings.jsonl", {**recording("a", "a.wav", 1.0, [0]), **change})
    assert f"{path}:1: " in error(path)
    assert what in error(path)


# ---- lists, Common Voice: common-voice/CorporaCreator, cv-dataset CHANGELOG.md


def test_a_list_has_a_path_a_line(tmp_path, monkeypatch):
    for name in ("here/a.wav", "there/with space.flac"):
        tone(tmp_path / name)
    path = lines(tmp_path / "here/list.txt", "a.wav", "", "there/with space.flac", f"{tmp_path}/gone.wav")
    monkeypatch.chdir(tmp_path)
    assert [r.path for r in Corpus.load(path)] == [
        f"{tmp_path}/here/a.wav",
        f"{tmp_path}/there/with space.flac",
        f"{tmp_path}/gone.wav",
    ]
    lines(path, "a.wav", "b 5 17 3")
    assert f"{path}:2: 'b 5 17 3' is no path of audio" in error(path)
    assert "neither audio" in error(lines(tmp_path / "units.km", "71 71 12"))


CV = "client_id\tpath\tsentence\tup_votes\taccents\tlocale"


def test_common_voice_has_its_audio_in_clips(tmp_path):
    for n in range(4):
        tone(tmp_path / f"de/clips/common_voice_de_{n}.mp3", 0.2)
    path = lines(
        tmp_path / "de/train.tsv",
        CV,
        'anna\tcommon_voice_de_0.mp3\t"Er sagte\t2\t\tde',  # a bare quotation mark
        'ben\tcommon_voice_de_1.mp3\tSie "fragte".\t2\t\tde',
        'cleo\tcommon_voice_de_2.mp3\t"Ein ""Wort""\tmit Tab"\t2\t\tde',  # quoted where needed
        'dora\tcommon_voice_de_3.mp3\t"zwei\nZeilen"\t2\t\tde',
    )
    found = Corpus.load(path)
    assert [(r.id, r.speaker, r.split) for r in found] == [
        (f"common_voice_de_{n}", speaker, "train") for n, speaker in enumerate(("anna", "ben", "cleo", "dora"))
    ]
    assert all(Path(r.path).is_file() for r in found)
    assert [r.split for r in Corpus.load(path.rename(tmp_path / "de/validated.tsv"))] == [None] * 4


def test_a_line_of_common_voice_that_lacks_fields_is_named(tmp_path):
    (tmp_path / "clips").mkdir()
    path = lines(tmp_path / "dev.tsv", CV, "a\ta.mp3\tx\t2\t\tde", "b\tb.mp3")
    assert f"{path}:3: does not have the 6 fields" in error(path)


# ---- parquet with the Audio struct: huggingface/datasets, src/datasets/features/audio.py (pa_type)


def wav_bytes(seed: int, seconds: float = 0.5, rate: int = 16000, form: str = "WAV") -> bytes:
    out = io.BytesIO()
    sf.write(out, np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)), rate, format=form)
    return out.getvalue()


def audio_table(n: int, **columns: list) -> pa.Table:
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    audio = [{"bytes": wav_bytes(i), "path": f"utt{i}.wav"} for i in range(n)]
    return pa.table({"audio": pa.array(audio, struct), **columns})


def test_parquet_holds_audio_as_bytes(tmp_path):
    n = 50
    path = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(audio_table(n, speaker_id=list(range(n)), text=["x"] * n), path, row_group_size=20)
    corpus = Corpus.load(path)
    assert corpus[3].id == "utt3"
    assert (corpus[3].speaker, corpus[3].split, corpus[3].source_name) == ("3", "train", "utt3.wav")
    for i, (_, waveform) in enumerate(read_rows(corpus)):
        np.testing.assert_array_equal(waveform, sf.read(io.BytesIO(wav_bytes(i)), dtype="float32")[0])
    for i in (49, 0, 21, 20, 5):  # in any order
        np.testing.assert_array_equal(read_row(corpus[i]), sf.read(io.BytesIO(wav_bytes(i)), dtype="float32")[0])
    assert [r.id for r in Corpus.load(tmp_path)] == [r.id for r in corpus]
    assert len(Corpus.load(f"{tmp_path}/*.parquet")) == n


def test_bytes_of_parquet_are_held_within_bounds(tmp_path, monkeypatch):
    pq.write_table(audio_table(40), tmp_path / "a.parquet", row_group_size=40)
    monkeypatch.setattr(parquet_module, "HELD", 3 * len(wav_bytes(0)))
    reader = parquet_module._Reader(str(tmp_path / "a.parquet"), "audio")
    for i in (0, 39, 1, 17, 17, 16):
        assert reader.read(i) == wav_bytes(i)
        assert len(reader.held) <= 3
        assert reader.bytes_held == sum(len(b) for b in reader.held.values())


def test_a_row_of_parquet_without_bytes_is_a_path(tmp_path):
    tone(tmp_path / "b.flac")
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    audio = [{"bytes": wav_bytes(0), "path": None}, {"bytes": None, "path": "b.flac"}]
    pq.write_table(pa.table({"audio": pa.array(audio, struct)}), tmp_path / "m.parquet")
    corpus = Corpus.load(tmp_path / "m.parquet")
    assert [r.id for r in corpus] == ["m-000000", "b"]
    assert [len(w) for _, w in read_rows(corpus)] == [8000, 16000]


def test_an_image_is_no_audio(tmp_path):
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array([{"bytes": b"x", "path": "a.png"}], struct)})
    pq.write_table(table, tmp_path / "m.parquet")
    assert "no path" in error(tmp_path / "m.parquet")


# ---- WebDataset: webdataset/webdataset, webdataset/tariterators.py


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_members_of_a_tar_are_read_in_place(tmp_path):
    members = {f"part/{i:03d}.flac": wav_bytes(i, form="FLAC") for i in range(5)}
    about = {f"part/{i:03d}.json": json.dumps({"speaker": f"s{i}"}).encode() for i in range(5)}
    both = {name: data for pair in zip(members.items(), about.items(), strict=True) for name, data in pair}
    path = tar_of(tmp_path / "shard-000.tar", both)
    corpus = Corpus.load(path)
    assert [(r.id, r.speaker) for r in corpus] == [(f"{i:03d}", f"s{i}") for i in range(5)]
    for (_, waveform), data in zip(read_rows(corpus), members.values(), strict=True):
        np.testing.assert_array_equal(waveform, sf.read(io.BytesIO(data), dtype="float32")[0])
    tar_of(tmp_path / "shard-001.tar", members)
    both_shards = Corpus.load(tmp_path)
    assert both_shards[0].id == "shard-000.tar/part/000"
    assert both_shards[5].source_name == "shard-001.tar/part/000.flac"
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        tar.add(path, "x.wav")
    assert "unpack it if it is compressed" in error(tmp_path / "z.tar")


def test_a_damaged_tar_of_a_folder_is_no_smaller_corpus(tmp_path):
    for name in "ab":
        tar_of(tmp_path / f"{name}.tar", {f"{name}.wav": wav_bytes(0)})
    assert len(Corpus.load(tmp_path)) == 2
    (tmp_path / "b.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:700])
    assert error(tmp_path).startswith(f"{tmp_path}/b.tar: ")


def test_a_member_that_is_cut_fails_by_its_name(tmp_path):
    path = tar_of(tmp_path / "a.tar", {"a.wav": wav_bytes(0)[:500], "b.wav": wav_bytes(1)})
    bad, good = (result for _, result in read_rows(Corpus.load(path)))
    assert isinstance(bad, AudioError)
    assert str(bad).startswith(f"{path}/a.wav: cut short")
    assert len(good) == 8000


def test_a_compressed_tar_is_named_with_a_remedy(tmp_path):
    tar_of(tmp_path / "a.tar", {"a.wav": wav_bytes(0)})
    (tmp_path / "d").mkdir()
    for name, mode in (("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar.bz2", "w:bz2")):
        with tarfile.open(tmp_path / "d" / name, mode) as tar:
            tar.add(tmp_path / "a.tar", "a.wav")
        what = error(tmp_path / "d" / name)
        assert f"{name}: a compressed tar cannot be read in place; decompress it to a .tar" in what
    assert "x.tar.bz2: a compressed tar cannot be read in place" in error(tmp_path / "d")


def test_nemo_has_its_audio_in_numbered_tars(tmp_path):
    """scripts/speech_recognition/convert_to_tarred_audio_dataset.py, _create_shard: rows of one file share a member."""
    for shard in (0, 1):
        members = {f"x_{n}.wav": wav_bytes(n, 0.5) for n in (2 * shard, 2 * shard + 1)}
        tar_of(tmp_path / f"audio_{shard}.tar", members)
    row = {"text": "x", "duration": 0.25}
    path = lines(
        tmp_path / "tarred_audio_manifest.json",
        {**row, "audio_filepath": "x_0.wav", "shard_id": 0, "offset": 0.0, "speaker": "amy"},
        {**row, "audio_filepath": "x_0-sub1.wav", "shard_id": 0, "offset": 0.25},
        {**row, "audio_filepath": "x_3.wav", "shard_id": 1},
    )
    corpus = Corpus.load(path)
    assert [(r.id, r.offset, r.samples, r.speaker, r.source_name) for r in corpus] == [
        ("x_0", 0, 4000, "amy", "x_0.wav"),
        ("x_0-sub1", 4000, 4000, None, "x_0.wav"),
        ("x_3", 0, 4000, None, "x_3.wav"),
    ]
    whole = sf.read(io.BytesIO(wav_bytes(0, 0.5)), dtype="float32")[0]
    np.testing.assert_array_equal(read_row(corpus[1]), whole[4000:])
    sharded = tmp_path / "sharded_manifests" / "manifest_1.json"
    assert [r.id for r in Corpus.load(lines(sharded, {**row, "audio_filepath": "x_3.wav", "shard_id": 1}))] == ["x_3"]
    lines(path, {**row, "audio_filepath": "x_9.wav", "shard_id": 0})
    assert f"{path}:1: {tmp_path}/audio_0.tar has no audio 'x_9.wav'" in error(path)
    lines(path, {**row, "audio_filepath": "x_0.wav", "shard_id": 7})
    assert f"{path}:1: its audio is in {tmp_path}/audio_7.tar, which is not there" in error(path)
    lines(path, {**row, "audio_filepath": "x_0.wav", "shard_id": "0"})
    assert "shard_id a number" in error(path)


def test_shar_of_lhotse_has_its_audio_in_tars(tmp_path):
    """lhotse/shar/utils.py (to_shar_placeholder), writers/audio.py: ID.flac and ID.json, the recording."""
    for shard in (0, 1):
        cuts, members = [], {}
        for name in (f"cut.{shard}a", f"cut.{shard}b"):
            sources = [{"type": "shar", "channels": [0], "source": ""}]
            about = {
                "id": f"rec-{name}",
                "sources": sources,
                "sampling_rate": 16000,
                "num_samples": 8000,
                "duration": 0.5,
            }
            cut = {"id": name, "start": 0.0, "duration": 0.5, "channel": 0, "type": "MonoCut", "recording": about}
            cuts.append({**cut, "supervisions": [supervision("s", about["id"], 0.0, 0.5, 0)]})
            members |= {f"{name}.flac": wav_bytes(shard, form="FLAC"), f"{name}.json": json.dumps(about).encode()}
        path = lines(tmp_path / f"cuts.{shard:06d}.jsonl", *cuts)
        path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        tar_of(tmp_path / f"recording.{shard:06d}.tar", members)
    corpus = Corpus.load(tmp_path)
    assert [(r.id, r.speaker, r.source_name) for r in corpus] == [
        (f"cut.{name}", "spk-s", f"cut.{name}.flac") for name in ("0a", "0b", "1a", "1b")
    ]
    assert [len(w) for _, w in read_rows(corpus)] == [8000] * 4
    assert len(Corpus.load(tmp_path / "cuts.000001.jsonl.gz")) == 2
    (tmp_path / "recording.000001.tar").unlink()
    assert "recording.000001.tar, which is not there" in error(tmp_path)


def test_a_path_of_two_lines_is_named_in_one(tmp_path):
    path = lines(tmp_path / "m.jsonl", *({"path": "a\nb.wav", "id": "x"} for _ in range(2)))
    assert "\n" not in error(path)
    assert "a\\nb.wav'" in error(path)


# ---- channels, sources, keys


def test_channels(tmp_path):
    tone(tmp_path / "call.wav", 1, channels=2)
    data, _ = sf.read(tmp_path / "call.wav", dtype="float32")
    for n in (0, 1):
        np.testing.assert_array_equal(read_audio(tmp_path / "call.wav", channel=n), data[:, n])
    assert audio_channels(tmp_path / "call.wav") == 2
    with pytest.raises(AudioError, match=r"call.wav: has 2 channels, and no channel 2 \(they count from 0\)"):
        read_audio(tmp_path / "call.wav", channel=2)
    path = lines(tmp_path / "m.jsonl", {"path": "call.wav", "channel": "right"}, {"path": "call.wav", "id": "x"})
    assert [r.channel for r in Corpus.load(path)] == [1, None]
    assert [r.channel for r in Corpus.load(path).with_channel("left")] == [1, 0]
    assert [r.channel for r in Corpus.load(path).with_channel("mix")] == [1, None]
    tone(tmp_path / "mono.wav", 1)
    each = Corpus.load([tmp_path / "call.wav", tmp_path / "mono.wav"]).with_channel("each")
    assert [(r.id, r.channel) for r in each] == [("call-0", 0), ("call-1", 1), ("mono", None)]
    assert [float(w[0]) for _, w in read_rows(each)][:2] == list(data[0])
    lines(path, {"path": "call.wav", "channel": "middle"})
    assert f"{path}:1: channel 'middle' is none of left, right, mix, and numbers from 0" in error(path)


def test_two_files_of_one_name_have_two_sources(tmp_path):
    for name in ("a/001.wav", "b/001.wav", "b/002.wav"):
        tone(tmp_path / name)
    assert [r.source_name for r in Corpus.load(tmp_path)] == ["a/001.wav", "b/001.wav", "002.wav"]
    assert [r.source for r in Corpus.load(tmp_path / "b")] == [None, None]
    lines(tmp_path / "m.csv", "path,id", "a/001.wav,x", "b/001.wav,y", "b/001.wav,z")
    assert [r.source_name for r in Corpus.load(tmp_path / "m.csv")] == ["a/001.wav", "b/001.wav", "b/001.wav"]


def test_a_row_of_a_whole_file_is_identified_as_before(tmp_path):
    tone(tmp_path / "a.wav")
    row = Corpus.load(tmp_path)[0]
    sha = sha256_file(tmp_path / "a.wav")
    assert row_identity(row, sha256_file) == ["a", sha, 0, None, None, None]
    texts = {Corpus([row]).with_channel(c).fingerprint(sha256_file) for c in (None, "mix", 0, 1)}
    assert len(texts) == 3
    path = tar_of(tmp_path / "a.tar", {"a.wav": wav_bytes(0), "b.wav": wav_bytes(0)})
    first, second = Corpus.load(path)
    assert row_identity(first, sha256_file)[1:] != row_identity(second, sha256_file)[1:]
    step = CorpusStep(manifest=str(path))
    assert step.content(sha256_file) == Corpus.load(path).fingerprint(sha256_file)


def test_a_place_is_named_by_its_member(tmp_path):
    assert str(Place("a.tar", member=Member("x/b.wav", 512, 10))) == "a.tar/x/b.wav"
    path = tone(tmp_path / "a.wav")
    assert audio_samples(Place(str(path), channel=0)) == 16000


def test_the_step_corpus_reads_a_channel_as_encode_does(tmp_path):
    tone(tmp_path / "call.wav", channels=2)

    def content(**given):
        return CorpusStep(manifest=str(tmp_path), **given).content(sha256_file)

    assert [r.channel for r in CorpusStep(manifest=str(tmp_path), channel="right").load()] == [1]
    assert [r.id for r in CorpusStep(manifest=str(tmp_path), channel="each").load()] == ["call-0", "call-1"]
    assert CorpusStep(manifest=str(tmp_path), channel=0).load()[0].channel == 0
    assert content() == Corpus.load(tmp_path).fingerprint(sha256_file)
    assert len({content(), content(channel="left"), content(channel="right"), content(channel="each")}) == 4
    keys = Keys(sha256_file)
    assert "channel" not in keys.payload(CorpusStep(manifest=str(tmp_path)))["fields"]
    assert keys.of(CorpusStep(manifest=str(tmp_path))) != keys.of(CorpusStep(manifest=str(tmp_path), channel="left"))
    with pytest.raises(CorpusError, match="corpus: channel 'middle' is none of left, right, mix"):
        CorpusStep(manifest=str(tmp_path), channel="middle")


# ---- every form, from any working folder, with files of one name in two folders

NAMES = ("a/001.wav", "b/001.wav")


def write_kaldi(folder: Path) -> str:
    lines(folder / "data/wav.scp", *(f"u{n} ../{name}" for n, name in enumerate(NAMES)))
    return "data"


def write_nemo(folder: Path) -> str:
    lines(folder / "m.json", *({"audio_filepath": name, "duration": 0.5} for name in NAMES))
    return "m.json"


def write_lhotse(folder: Path) -> str:
    parts = [recording(f"u{n}", f"../{name}", 0.5, [0]) for n, name in enumerate(NAMES)]
    lines(folder / "lhotse/recordings.jsonl", *parts)
    return "lhotse"


def write_common_voice(folder: Path) -> str:
    for name in NAMES:
        (folder / "clips" / name).parent.mkdir(parents=True)
        (folder / name).rename(folder / "clips" / name)
    lines(folder / "other.tsv", CV, *(f"s\t{name}\tx\t2\t\tde" for name in NAMES))
    return "other.tsv"


def write_list(folder: Path) -> str:
    lines(folder / "list", *NAMES)
    return "list"


def write_parquet(folder: Path) -> str:
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for name in NAMES:
        audio = [{"bytes": (folder / name).read_bytes(), "path": "001.wav"}]
        pq.write_table(pa.table({"audio": pa.array(audio, struct)}), folder / f"{name[0]}.parquet")
        (folder / name).unlink()
    return "."


def write_tar(folder: Path) -> str:
    tar_of(folder / "s.tar", {name: (folder / name).read_bytes() for name in NAMES})
    return "s.tar"


FORMS = {
    "kaldi": write_kaldi,
    "nemo": write_nemo,
    "lhotse": write_lhotse,
    "common voice": write_common_voice,
    "list": write_list,
    "parquet": write_parquet,
    "tar": write_tar,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_corpus_is_read_from_any_working_folder(form, tmp_path, monkeypatch, model_set):
    folder, other = tmp_path / "corpus", tmp_path / "other"
    other.mkdir()
    for n, name in enumerate(NAMES):
        tone(folder / name, 0.5, seed=n)
    place = FORMS[form](folder)
    lines(folder / "p.yaml", f"steps:\n  audio: {{step: corpus, manifest: {place}, channel: left}}")
    seen = []
    for cwd, source in ((folder, place), (tmp_path, f"corpus/{place}"), (other, f"../corpus/{place}")):
        monkeypatch.chdir(cwd)
        step = load_pipeline(folder / "p.yaml", STEPS).steps["audio"]
        for corpus in (Corpus.load(source), step.load()):
            waveforms = [w for _, w in read_rows(corpus)]
            assert not any(isinstance(w, AudioError) for w in waveforms)
            assert len({w.tobytes() for w in waveforms}) == 2
            seen.append([(r.id, r.source_name, len(w)) for r, w in zip(corpus, waveforms, strict=True)])
        out = tmp_path / f"{len(seen)}.jsonl"
        done = CliRunner().invoke(cli, ["encode", source, "-o", str(out), "--model", str(model_set)])
        assert done.exit_code == 0, done.exception
        assert [(r.id, r.source) for r in open_dump(out)] == [(name, called) for name, called, _ in seen[0]]
    assert all(rows == seen[0] for rows in seen)
    sources = [called for _, called, _ in seen[0]]
    assert len(set(sources)) == 2
    assert all(s.endswith("001.wav") and not s.startswith(("/", "..")) for s in sources)


# ---- damage


@pytest.mark.filterwarnings("ignore:.*segments are left out")
@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_corpora_give_errors_of_ours_only(kaldi, tmp_path, count):
    lines(kaldi / "segments", "u1 rec1 0.57 1.25", "u2 rec1 3 -1 0")
    lhotse = lines(
        tmp_path / "l/supervisions.jsonl",
        supervision("s1", "rec-1", 0.5, 1.0, 0),
        supervision("s2", "rec-1", 1, 0.5, [0]),
    )
    lines(tmp_path / "l/recordings.jsonl", recording("rec-1", "mono.wav", 2.0, [0]))
    nemo = lines(tmp_path / "n/m.json", {"audio_filepath": "a.wav", "duration": 1.5, "offset": 0.25, "speaker": 7})
    voice = lines(tmp_path / "cv/dev.tsv", CV, 'a\ta.mp3\t"x"\t2\t\tde', "b\tb.mp3\ty\t2\t\tde")
    tar = (
        tar_of(tmp_path / "t/s.tar", {"a.wav": b"RIFF", "a.json": b'{"id": "a"}'})
        if not (tmp_path / "t").mkdir()
        else None
    )
    parquet = tmp_path / "p.parquet"
    pq.write_table(audio_table(2), parquet)
    targets = [
        (kaldi / "segments", kaldi), (kaldi / "wav.scp", kaldi), (lhotse, lhotse), (nemo, nemo), (voice, voice),
        (tar, tar), (tmp_path / "l/recordings.jsonl", lhotse), (parquet, parquet),
    ]  # fmt: skip
    odd = [b"-", b"9" * 400, b"\t", b"\n", b'"', b"null", b"[", b"\xff", b"\0"]
    rng = np.random.default_rng(5)
    whole = {path: path.read_bytes() for path, _ in targets}
    for n in range(count):
        path, source = targets[n % len(targets)]
        data = bytearray(whole[path])
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data) + 1))
            match rng.integers(4):
                case 0 if at < len(data):
                    data[at] = int(rng.integers(256))
                case 1:
                    del data[at : at + int(rng.integers(1, 9))]
                case 2:
                    data[at:at] = odd[rng.integers(len(odd))]
                case _:
                    data = data[: at + 1]
        path.write_bytes(data)
        try:
            for row in Corpus.load(source):
                with contextlib.suppress(AudioError):
                    read_row(row)
        except TextlessError as e:
            assert "\n" not in str(e)  # noqa: PT017
        path.write_bytes(whole[path])
