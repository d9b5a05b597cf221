"""Commands as a user gives them: what they write, what they say, how they exit."""

import json
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile

import textless
from conftest import GOLDEN
from textless.cli import pipelines as cli_pipelines


def one_line(err):
    assert "Traceback" not in err
    return [line for line in err.splitlines() if line.startswith("error: ")]


# ------------------------------------------------------------------------------------------------------------- chain


def test_the_three_commands_in_a_pipe(textless_command, speech, tmp_path):
    code, units, _ = textless_command("encode", speech / "b.wav", "-o", "-")
    assert code == 0
    header, row = map(json.loads, units.splitlines())
    assert header["textless"] == "units"
    assert row["id"] == "b"
    assert sum(row["durations"]) == (19000 - 400) // 320 + 1
    code, more, _ = textless_command("continue", "-", "-o", "-", "--seconds", "1.5", stdin=units)
    assert code == 0
    longer = json.loads(more.splitlines()[1])
    assert longer["units"][: len(row["units"])] == row["units"]
    assert sum(longer["durations"]) == sum(row["durations"]) + 75
    code, _, err = textless_command("resynth", "-", "-o", tmp_path / "out.wav", stdin=more)
    assert (code, err) == (0, "")
    wave, rate = soundfile.read(tmp_path / "out.wav")
    assert rate == 16000
    assert len(wave) == sum(longer["durations"]) * 320


def test_python_gives_what_the_commands_give(textless_command, speech, model_set, tmp_path):
    _, text, _ = textless_command("encode", speech / "a.wav", "-o", "-")
    model = textless.load(model_set)
    units = model.encode(textless.read_audio(speech / "a.wav"))
    assert json.loads(text.splitlines()[1])["units"] == units.units.tolist()
    textless_command("resynth", "-", "-o", tmp_path / "a.wav", "--speaker", "ben", stdin=text)
    want = model.resynth(units, speaker="ben")
    np.testing.assert_allclose(soundfile.read(tmp_path / "a.wav")[0], np.clip(want, -1, 1), atol=1e-4)


def test_channels_are_encoded_apart(textless_command, speech, tmp_path):
    left, right = (soundfile.read(speech / f"{name}.wav")[0][:16000] for name in "ab")
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), 16000)
    soundfile.write(tmp_path / "right.wav", right, 16000)

    def encoded(*arguments):
        code, text, _ = textless_command("encode", *arguments, "-o", "-")
        assert code == 0
        return {row["id"]: row["units"] for row in map(json.loads, text.splitlines()[1:])}

    each = encoded(tmp_path / "call.wav", "--channel", "each")
    assert list(each) == ["call-0", "call-1"]
    assert each["call-1"] == encoded(tmp_path / "call.wav", "--channel", "right")["call"]
    assert each["call-1"] == encoded(tmp_path / "right.wav")["right"] != each["call-0"]
    code, _, err = textless_command("encode", tmp_path / "call.wav", "-o", "-", "--channel", "middle")
    assert code == 2
    assert "channel 'middle' is none of left, right, mix" in one_line(err)[0]


def test_folders(textless_command, speech, tmp_path):
    code, _, _ = textless_command("encode", speech, "-o", tmp_path / "dump")
    assert code == 0
    dump = textless.open_dump(tmp_path / "dump")
    assert sorted(r.id for r in dump) == ["a", "b", "c"]
    assert {r.source for r in dump} == {"a.wav", "b.wav", "c.wav"}
    code, _, _ = textless_command(
        "continue", tmp_path / "dump", "-o", tmp_path / "more", "--samples", 2, "--prompt-seconds", 0.5, "--seconds", 1
    )
    assert code == 0
    more = textless.open_dump(tmp_path / "more")
    assert sorted(r.id for r in more) == ["a-0", "a-1", "b-0", "b-1", "c-0", "c-1"]
    assert {(r.units.n_frames, r.extra["prompt_frames"]) for r in more} == {(75, 25)}
    code, _, _ = textless_command("resynth", tmp_path / "more", "-o", tmp_path / "wavs")
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "wavs").glob("*.wav")) == [f"{n}-{k}.wav" for n in "abc" for k in (0, 1)]


def test_audio_can_be_continued_and_spoken_at_once(textless_command, speech, tmp_path):
    code, text, _ = textless_command("continue", speech / "a.wav", "-o", "-", "--only-new", "--seconds", 1)
    assert code == 0
    assert sum(json.loads(text.splitlines()[1])["durations"]) == 50
    code, _, _ = textless_command("resynth", speech / "a.wav", "-o", tmp_path / "a.flac")
    assert code == 0
    assert soundfile.info(tmp_path / "a.flac").format == "FLAC"


def test_standard_input_may_be_audio(textless_command, speech):
    code, text, _ = textless_command("encode", "-", "-o", "-", stdin=(speech / "a.wav").read_bytes())
    assert code == 0
    _, same, _ = textless_command("encode", speech / "a.wav", "-o", "-")
    assert json.loads(text.splitlines()[1])["units"] == json.loads(same.splitlines()[1])["units"]


def test_mfcc_with_a_codebook_of_ones_own(textless_command, clip, golden, tmp_path):
    np.save(tmp_path / "km.npy", golden("mfcc.npz")["centroids"])
    soundfile.write(tmp_path / "clip.wav", clip, 16000, subtype="FLOAT")
    code, text, _ = textless_command(
        "encode", tmp_path / "clip.wav", "-o", "-", "--encoder", "mfcc", "--codebook", tmp_path / "km.npy"
    )
    assert code == 0
    row = json.loads(text.splitlines()[1])
    assert np.array_equal(np.repeat(row["units"], row["durations"]), golden("mfcc.npz")["labels"])
    code, _, err = textless_command("encode", tmp_path / "clip.wav", "-o", "-", "--encoder", "mfcc")
    assert code == 2
    assert "give --codebook" in one_line(err)[0]


def test_samples_do_not_depend_on_their_neighbours(textless_command, speech, tmp_path):
    textless_command("encode", speech, "-o", tmp_path / "all.jsonl")
    textless_command("encode", speech / "b.wav", "-o", tmp_path / "b.jsonl")
    rows = {}
    for name in ("all", "b"):
        _, text, _ = textless_command("continue", tmp_path / f"{name}.jsonl", "-o", "-", "--seed", 5)
        rows[name] = {r["id"]: r["units"] for r in map(json.loads, text.splitlines()[1:])}
    assert rows["all"]["b"] == rows["b"]["b"]
    _, text, _ = textless_command("continue", tmp_path / "b.jsonl", "-o", "-", "--seed", 6)
    assert json.loads(text.splitlines()[1])["units"] != rows["b"]["b"]


# ----------------------------------------------------------------------------------------------- outputs that exist


def test_the_same_command_does_nothing_and_another_refuses(textless_command, speech, tmp_path):
    out = tmp_path / "dump"
    textless_command("encode", speech, "-o", out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    code, _, err = textless_command("encode", speech, "-o", out)
    assert code == 0
    assert "already done" in err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before
    code, _, err = textless_command("encode", speech / "a.wav", "-o", out)
    assert code == 2
    assert "--overwrite" in one_line(err)[0]
    assert len(textless.open_dump(out)) == 3
    (speech / "bad.wav").write_text("no")
    assert textless_command("encode", speech / "bad.wav", "-o", out, "--overwrite")[0] == 2
    assert len(textless.open_dump(out)) == 3  # the old one stays until the new one is whole
    assert textless_command("encode", speech / "a.wav", "-o", out, "--overwrite")[0] == 0
    assert len(textless.open_dump(out)) == 1


def test_a_folder_that_we_did_not_make_is_never_touched(textless_command, speech, tmp_path):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    for command, source in (("encode", speech), ("continue", speech), ("resynth", speech)):
        for overwrite in ((), ("--overwrite",)):
            code, _, err = textless_command(command, source, "-o", out, *overwrite)
            assert code == 2
            assert "precious: exists and was not made by textless" in one_line(err)[0]
    assert (out / "thesis.txt").read_text() == "x"


def test_a_file_is_refused(textless_command, speech, tmp_path):
    for command, name in (("encode", "u.jsonl"), ("resynth", "a.wav")):
        (tmp_path / name).write_text("mine")
        code, _, err = textless_command(command, speech / "a.wav", "-o", tmp_path / name)
        assert code == 2
        assert "exists" in one_line(err)[0]
        assert (tmp_path / name).read_text() == "mine"
        assert textless_command(command, speech / "a.wav", "-o", tmp_path / name, "--overwrite")[0] == 0
        assert (tmp_path / name).read_bytes() != b"mine"


def test_an_interrupted_encode_is_finished(textless_command, speech, tmp_path, monkeypatch):
    from textless.units.kmeans import Codebook

    real, calls = Codebook.nearest, []

    def stop(self, frames):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, frames)

    monkeypatch.setattr(Codebook, "nearest", stop)
    assert textless_command("encode", speech, "-o", tmp_path / "dump")[0] == 130
    assert not (tmp_path / "dump").exists()
    (tmp_path / "dump.partial" / "data").mkdir(exist_ok=True)
    (tmp_path / "dump.partial" / "data" / ".00000.parquet.1").write_text("left by a killed attempt")
    monkeypatch.setattr(Codebook, "nearest", real)
    assert textless_command("encode", speech, "-o", tmp_path / "dump")[0] == 0
    assert not (tmp_path / "dump.partial").exists()
    assert sorted(p.name for p in (tmp_path / "dump").rglob("*")) == [
        ".textless.json", "00000.parquet", "README.md", "data", "dump.json"
    ]  # fmt: skip
    assert len(textless.open_dump(tmp_path / "dump")) == 3


def test_ways_of_continuing(textless_command, speech):
    units = textless_command("encode", speech, "-o", "-")[1]
    results = {}
    for options in (
        (),
        ("--top-p", 0.5),
        ("--min-p", 0.9),
        ("--no-repeat-ngram", 2),
        ("--repetition-penalty", 3),
        ("--lm-precision", "int8"),
        ("--max-new-units", 4),
    ):
        code, out, err = textless_command("continue", "-", "-o", "-", "--temperature", 1, *options, stdin=units)
        assert (code, err) == (0, "")
        results[options] = out
    assert len(set(results.values())) >= 6
    prompts = [len(json.loads(line)["units"]) for line in units.splitlines()[1:]]
    rows = [json.loads(line) for line in results["--max-new-units", 4].splitlines()[1:]]
    assert all(n <= len(row["units"]) <= n + 4 for n, row in zip(prompts, rows, strict=True))


def test_score(textless_command, speech, tmp_path, model_set):
    assert textless_command("encode", speech, "-o", tmp_path / "dump")[0] == 0
    code, out, _ = textless_command("score", tmp_path / "dump", "-o", tmp_path / "scores.jsonl")
    assert code == 0
    figures = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert figures["rows"] == "3"
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    lm, dump = textless.load_lm(model_set / "lm"), textless.open_dump(tmp_path / "dump")
    for row, theirs in zip(rows, dump, strict=True):
        assert row["id"] == theirs.id
        assert row["nll"] == pytest.approx(float(lm.nll(theirs.units).sum()), rel=1e-5)
    assert float(figures["nll_per_unit"]) == pytest.approx(
        sum(r["nll"] for r in rows) / sum(r["units"] + 1 for r in rows), rel=1e-3
    )
    assert {"bits_per_second"} <= figures.keys()
    written = (tmp_path / "scores.jsonl").read_bytes()
    assert textless_command("score", tmp_path / "dump", "-o", tmp_path / "scores.jsonl")[:2] == (
        0,
        out,
    )  # the figures, as before
    assert textless_command("score", tmp_path / "dump", "-o", tmp_path / "scores.jsonl", "--controls")[0] == 2
    assert (tmp_path / "scores.jsonl").read_bytes() == written

    (tmp_path / "gold.tsv").write_text("good\tbad\na\tb\nc\tb\n")
    code, out, _ = textless_command("score", tmp_path / "dump", "--pairs", tmp_path / "gold.tsv", "--controls")
    assert code == 0
    assert "of 2" in out.split("pairs_per_unit")[1]
    assert {"reversed", "shuffled", "spliced"} <= {line.split()[0] for line in out.splitlines()}
    (tmp_path / "gold.tsv").write_text("good\tbad\na\tx\n")
    code, _, err = textless_command("score", tmp_path / "dump", "--pairs", tmp_path / "gold.tsv")
    assert code == 2
    assert "gold.tsv:2" in one_line(err)[0]
    assert textless_command("score", speech / "a.wav", "-o", "-")[0] == 0  # audio is encoded first


def test_a_language_model_of_fairseqs(textless_command, golden, tmp_path):
    """GSLM's form: a checkpoint with its dictionary, and units without durations."""
    (tmp_path / "ulm.pt").write_bytes((GOLDEN / "ulm.pt").read_bytes())
    (tmp_path / "dict.txt").write_bytes((GOLDEN / "ulm_dict.txt").read_bytes())
    units = golden("ulm.npz")["units"].tolist()
    (tmp_path / "u.jsonl").write_text(
        '{"textless": "units", "version": 1, "contract": {}}\n' + json.dumps({"id": "a", "units": units}) + "\n"
    )
    code, _, _ = textless_command(
        "score", tmp_path / "u.jsonl", "--lm", tmp_path / "ulm.pt", "-o", tmp_path / "s.jsonl"
    )
    assert code == 0
    score = json.loads((tmp_path / "s.jsonl").read_text())
    assert score["nll"] == pytest.approx(float(golden("ulm.npz")["nll"].sum()), rel=1e-5)
    code, out, _ = textless_command(
        "continue",
        tmp_path / "u.jsonl",
        "--lm",
        tmp_path / "ulm.pt",
        "-o",
        "-",
        "--max-new-units",
        5,
        "--temperature",
        0,
    )
    assert code == 0
    assert json.loads(out.splitlines()[1])["units"][: len(units)] == units
    code, _, err = textless_command("continue", tmp_path / "u.jsonl", "--lm", tmp_path / "ulm.pt", "-o", "-")
    assert code == 2
    assert "give max_new_units instead of seconds" in one_line(err)[0]


# ------------------------------------------------------------------------------------- encoders and codebooks of others


@pytest.fixture
def strangers(tmp_path):
    """fairseq's HuBERT, and a k-means of scikit-learn's on its third layer, dumped by joblib."""
    cluster = pytest.importorskip("sklearn.cluster")
    joblib = pytest.importorskip("joblib")
    frames = textless.load_encoder(GOLDEN / "hubert_base.pt", 3).encode(textless.read_audio(GOLDEN / "clip.flac"))
    km = cluster.MiniBatchKMeans(9, n_init=1, random_state=0).fit(frames)
    joblib.dump(km, tmp_path / "km9.bin")
    return GOLDEN / "hubert_base.pt", tmp_path / "km9.bin", km.predict(frames)


def test_a_published_codebook_file(textless_command, golden):
    code, out, _ = textless_command(
        "encode", GOLDEN / "clip.flac", "-o", "-", "--encoder", "mfcc", "--codebook", GOLDEN / "km20.bin"
    )
    assert code == 0
    row = json.loads(out.splitlines()[1])
    assert np.array_equal(np.repeat(row["units"], row["durations"]), golden("mfcc.npz")["labels"])


def test_fairseq_files(textless_command, strangers, tmp_path):
    encoder, codebook, labels = strangers
    parts = ["--encoder", encoder, "--layer", 3, "--codebook", codebook]
    code, out, err = textless_command("encode", GOLDEN / "clip.flac", "-o", "-", *parts)
    assert (code, err) == (0, "")
    header, row = map(json.loads, out.splitlines())
    assert np.array_equal(np.repeat(row["units"], row["durations"]), labels)
    assert (header["contract"]["layer"], header["contract"]["n_units"], header["contract"]["window"]) == (3, 9, 60)
    code, out, _ = textless_command("encode", GOLDEN / "clip.flac", "-o", "-", *parts, "--precision", "bf16")
    half = json.loads(out.splitlines()[1])
    assert json.loads(out.splitlines()[0]) == header
    assert np.mean(np.repeat(half["units"], half["durations"]) == labels) > 0.9
    # Another precision is another command.
    assert textless_command("encode", GOLDEN / "clip.flac", "-o", tmp_path / "dump", *parts)[0] == 0
    assert textless_command("encode", GOLDEN / "clip.flac", "-o", tmp_path / "dump", *parts)[0] == 0
    assert (
        textless_command("encode", GOLDEN / "clip.flac", "-o", tmp_path / "dump", *parts, "--precision", "bf16")[0] == 2
    )


def test_a_published_pair(textless_command, strangers, monkeypatch, tmp_path):
    """By one name: fetched, its layer known, and nothing left to warn of. Then in Python, and in a pipeline."""
    from textless.engine.store import Store
    from textless.engine.yaml import load_pipeline
    from textless.steps import STEPS
    from textless.zoo import PUBLISHED, Codebook, Encoder, Published

    encoder, codebook, labels = strangers
    common = {"licence": "none", "source": "tests"}
    entry = Published(
        encoder=Encoder(place=encoder.as_uri(), layer=3, normalisation="none", **common),
        codebook=Codebook(place=codebook.as_uri(), n_units=9, **common),
    )
    monkeypatch.setitem(PUBLISHED, "golden/km9", entry)
    monkeypatch.setenv("TEXTLESS_CACHE", str(tmp_path / "cache"))
    code, out, err = textless_command("encode", GOLDEN / "clip.flac", "-o", "-", model="golden/km9")
    assert (code, err) == (0, "")
    row = json.loads(out.splitlines()[1])
    assert np.array_equal(np.repeat(row["units"], row["durations"]), labels)
    units = textless.load("golden/km9").encode(textless.read_audio(GOLDEN / "clip.flac"))
    assert np.array_equal(units.frames(), labels)
    assert json.loads(out.splitlines()[0])["contract"] == units.contract.to_dict()
    code, _, err = textless_command("resynth", GOLDEN / "clip.flac", "-o", tmp_path / "a.wav", model="golden/km9")
    assert code == 2
    assert one_line(err) == ["error: golden/km9 has no vocoder; give one with --vocoder"]

    for source in ("name: golden/km9", f"file: {encoder}"):
        km = "model" if source.startswith("name") else "km"
        (tmp_path / "p.yaml").write_text(
            f"steps:\n  model: {{{source}}}\n  km: {{step: model, file: km9.bin}}\n  corpus: "
            f"{{manifest: {GOLDEN / 'clip.flac'}}}\n"
            f"  units: {{step: encode, audio: $corpus, encoder: $model, codebook: ${km}, layer: 3}}\n"
        )
        graph, store = load_pipeline(tmp_path / "p.yaml", STEPS), Store(tmp_path / "store")
        made = graph.run(store, ["units"])["units"]
        assert np.array_equal(textless.open_dump(made)[0].units.frames(), labels)


def test_long_recordings_are_encoded_as_they_are_read(textless_command, monkeypatch, clip, tmp_path):
    """The same units whether a row is held or streamed, alone or among others, whole or a part of its file."""
    from textless.units import tokenizer as module

    long = np.tile(clip, 3)
    soundfile.write(tmp_path / "long.flac", long, 16000)
    soundfile.write(tmp_path / "short.flac", clip[:9000], 16000)
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(
            json.dumps(row)
            for row in (
                {"path": "short.flac", "id": "a"},
                {"path": "long.flac", "id": "b"},
                {"path": "long.flac", "id": "c", "offset": 40000, "samples": 200_000},
                {"path": "short.flac", "id": "d", "offset": 8900},
                {"path": "gone.flac", "id": "e"},
                {"path": "short.flac", "id": "f"},
            )
        )
    )
    code, held, err = textless_command("encode", tmp_path / "rows.jsonl", "-o", "-")
    assert code == 1
    assert "d: " in err
    assert "100 samples are shorter than one frame" in err
    monkeypatch.setattr(module, "LONG_SECONDS", 5)
    streamed = textless_command("encode", tmp_path / "rows.jsonl", "-o", "-")[1]
    assert streamed == held
    rows = [json.loads(line) for line in streamed.splitlines()[1:]]
    assert [(row["id"], row["samples"]) for row in rows] == [("a", 9000), ("b", len(long)), ("c", 200_000), ("f", 9000)]
    assert sum(rows[1]["durations"]) == (len(long) - 400) // 320 + 1


def test_a_long_recording_that_breaks_off_is_a_failed_row(textless_command, monkeypatch, clip, tmp_path):
    from textless.units import tokenizer as module

    soundfile.write(tmp_path / "long.flac", np.tile(clip, 3), 16000)
    data = (tmp_path / "long.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    monkeypatch.setattr(module, "LONG_SECONDS", 5)
    code, out, err = textless_command("encode", tmp_path / "long.flac", tmp_path / "cut.flac", "-o", "-")
    assert code == 1
    assert [json.loads(line)["id"] for line in out.splitlines()[1:]] == ["long"]
    assert "cut.flac: " in err


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (["--encoder", "hubert-base-ls961"], "did you mean 'hubert-base-ls960'?"),
        (["--encoder", "hubert_base.pt", "--layer", "9"], "layer 9 does not exist: the encoder has layers 1 to 4"),
        (
            ["--encoder", "hubert_base.pt", "--codebook", "km20.bin"],
            "the codebook has 39 dimensions but the encoder 64",
        ),
        (["--encoder", "ulm.pt"], "holds transformer_lm of fairseq's where a hubert or wav2vec2 is wanted"),
        (["--encoder", "clip.flac"], "clip.flac: "),
        (["--codebook", "hubert_base.pt"], "hubert_base.pt: holds no k-means (no cluster_centers_) but 'args', "),
        (["--codebook", "clip.km"], "clip.km: "),
        (["--codebook", "evil.bin"], "evil.bin: names posix.system, which could run code; nothing was run"),
        (["--encoder", "evil.bin"], "evil.bin: "),
        (["--encoder", "cut.pt"], "cut.pt: "),
        (["--codebook", "hubert-base-ls960/km100"], "km.bin is not in the cache and HF_HUB_OFFLINE is set"),
        (["--encoder", "facebook/nothing-like-this"], "no such file or folder here, and on the hub: "),
    ],
)
def test_what_is_no_encoder_or_codebook(textless_command, monkeypatch, tmp_path, parts, says):
    for file in ("hubert_base.pt", "km20.bin", "ulm.pt", "clip.flac", "clip.km"):
        (tmp_path / file).write_bytes((GOLDEN / file).read_bytes())
    (tmp_path / "evil.bin").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    (tmp_path / "cut.pt").write_bytes((GOLDEN / "hubert_base.pt").read_bytes()[:300_000])
    monkeypatch.setenv("TEXTLESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    code, out, err = textless_command("encode", "clip.flac", "-o", "dump", *parts)
    assert (code, out) == (2, "")
    assert len(one_line(err)) == 1
    assert says in one_line(err)[0]
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "dump").exists()


# --------------------------------------------------------------------------------------------------------- bad input


def bad_files(folder):
    good = (folder / "a.wav").read_bytes()
    made = {
        "empty.wav": b"",
        "cut.wav": good[: len(good) // 2],
        "text.wav": b"this is not audio, whatever it is called",
        "short.wav": None,
        "nan.wav": None,
    }
    for name, data in made.items():
        if data is not None:
            (folder / name).write_bytes(data)
    soundfile.write(folder / "short.wav", np.zeros(399, np.float32), 16000)
    soundfile.write(folder / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    return list(made)


def test_each_bad_file_is_named_in_one_line_and_nothing_is_written(textless_command, speech, tmp_path):
    for name in bad_files(speech):
        for out in (tmp_path / "dump", tmp_path / "u.jsonl", "-"):
            code, text, err = textless_command("encode", speech / name, "-o", out)
            assert code == 2, name
            assert name in one_line(err)[0]
            assert "Traceback" not in err
            assert not [line for line in text.splitlines()[1:] if line]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["speech"]


def test_among_good_files_the_bad_are_listed(textless_command, speech, tmp_path):
    bad = bad_files(speech)
    code, _, err = textless_command("encode", speech, "-o", tmp_path / "dump")
    assert code == 1
    assert "5 of 8 failed" in err
    failures = [json.loads(line) for line in (tmp_path / "dump" / "failures.jsonl").read_text().splitlines()]
    assert sorted(f["id"] + ".wav" for f in failures) == sorted(bad)
    assert all(f["id"] in f["error"] for f in failures)
    assert sorted(r.id for r in textless.open_dump(tmp_path / "dump")) == ["a", "b", "c"]
    code, text, err = textless_command("encode", speech, "-o", "-")
    assert code == 1
    assert len(text.splitlines()) == 4
    assert err.count("failed: ") == 5
    code, _, _ = textless_command("encode", speech, "-o", tmp_path / "u.jsonl")
    assert code == 1
    assert len((tmp_path / "u.jsonl.failures.jsonl").read_text().splitlines()) == 5
    assert textless_command("encode", speech, "-o", tmp_path / "dump")[0] == 1  # done before, and still not all of it


def test_a_missing_file_of_a_manifest_is_one_of_the_bad(textless_command, speech, tmp_path):
    manifest = speech / "m.tsv"
    manifest.write_text(".\na.wav\t16000\ngone.wav\t16000\n")
    code, _, err = textless_command("encode", manifest, "-o", tmp_path / "dump")
    assert code == 1
    assert "1 of 2 failed" in err
    assert "gone.wav" in (tmp_path / "dump" / "failures.jsonl").read_text()
    manifest.write_text(".\ngone.wav\t16000\nlost.wav\t1\n")
    code, _, err = textless_command("encode", manifest, "-o", tmp_path / "none")
    assert code == 2
    assert "none of the 2 rows could be done; the first: " in one_line(err)[0]
    assert not list(tmp_path.glob("none*"))


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("encode", "gone.wav", "-o", "-"), "gone.wav"),
        (("encode", "SPEECH", "-o", "no/such/place"), "no such folder"),
        (("encode", "SPEECH", "-o", "-", "--layer", "7"), "layer 7 does not exist"),
        (("encode", "SPEECH", "-o", "-", "--codebook", "gone.npy"), "gone.npy"),
        (("continue", "gone.jsonl", "-o", "-"), "gone.jsonl"),
        (("continue", "-", "-o", "-"), "standard input: is empty"),
        (("resynth", "SPEECH", "-o", "one.wav"), "one file holds one row"),
        (("resynth", "SPEECH", "-o", "wavs", "--speaker", "zoe"), "amy, ben"),
        (("resynth", "-", "-o", "wavs"), "standard input: is empty"),
        (("run", "quickstrat"), "did you mean 'quickstart'"),
        (("run", "gone.yaml"), "gone.yaml: no such file"),
        (("run", "smoke", "-s", "km1.n_unit=3"), "did you mean 'n_units'"),
        (("run", "smoke", "speach"), "did you mean 'speech'"),
        (("why", "smoke", "speach"), "did you mean 'speech'"),
        (("show", "smoke", "km1"), "has not been made"),
    ],
)
def test_bad_requests(textless_command, speech, tmp_path, monkeypatch, args, error):
    monkeypatch.chdir(tmp_path)
    args = [str(speech) if a == "SPEECH" else a for a in args]
    if args[0] in ("run", "why", "show"):
        args += ["--store", "store"]
    code, _, err = textless_command(*args)
    assert code == 2
    assert len(one_line(err)) == 1
    assert error in one_line(err)[0]
    assert {p.name for p in tmp_path.iterdir()} <= {"speech", "store"}


NOT_NUMBERS = ("nan", "inf", "-inf", "1e12", "1e400", "-1", "9" * 5000, "many", "")
NUMERIC = {
    "encode": ("--layer", "--smoothing"),
    "continue": (
        "--seconds",
        "--max-new-units",
        "--prompt-seconds",
        "--samples",
        "--temperature",
        "--top-k",
        "--top-p",
        "--min-p",
        "--repetition-penalty",
        "--no-repeat-ngram",
        "--seed",
        "--layer",
        "--smoothing",
    ),
    "score": ("--seed", "--layer", "--smoothing"),
    "resynth": ("--layer", "--smoothing"),
    "quality": ("--seed", "--layer", "--smoothing", "--n-phones"),
    "benchmark": ("--seed", "--layer", "--smoothing"),
    "probe": ("--max-frames", "--seed"),
    "report": ("--examples",),
    "gc": ("--days",),
    "convert": ("--frame-rate", "--n-units"),
    "describe": ("--frame-rate", "--n-units"),
}


def numeric_options(command):
    """Options of a command that take a number: by their type, or by a default that is one."""
    from textless.cli.numbers import Number

    for option in command.params:
        number = isinstance(option.type, Number | click.types.IntParamType | click.types.FloatParamType)
        if number and not getattr(option, "is_flag", False):
            yield option


def test_every_numeric_option_has_a_range():
    from textless.cli.app import cli
    from textless.cli.numbers import Number

    options = {name: list(numeric_options(command)) for name, command in cli.commands.items()}
    assert {name: {o.opts[-1] for o in found} for name, found in options.items() if found} == {
        name: set(known) for name, known in NUMERIC.items()
    }
    assert all(isinstance(o.type, Number) for found in options.values() for o in found)


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, options in NUMERIC.items() for o in options])
def test_numbers_out_of_range_are_refused_in_one_line(textless_command, tmp_path, monkeypatch, command, option):
    monkeypatch.chdir(tmp_path)
    for value in NOT_NUMBERS:
        arguments = {"gc": (), "score": ("u.jsonl",), "quality": ("u.jsonl",), "describe": ("u.jsonl",)}.get(
            command, ("u.jsonl", "-o", "c.jsonl")
        )
        code, out, err = textless_command(command, *arguments, f"{option}={value}", model=None)
        assert (code, out) == (2, ""), value
        assert err.startswith(f"error: {option} is "), value
        assert (err.count("\n"), len(err) < 200) == (1, True), value
    assert not list(tmp_path.iterdir())


def test_no_such_model(textless_command, speech):
    code, _, err = textless_command("encode", speech, "-o", "-", "--model", "huge-xx", model=None)
    assert code == 2
    assert "huge-xx: neither a folder" in one_line(err)[0]


@pytest.mark.parametrize("content", ["[]", '"mfcc"', "3", '{"contract": 5}', '{"contract": null}', "[" * 100_000, "{"])
def test_a_file_that_is_no_contract(content, textless_command, tmp_path):
    (tmp_path / "c.json").write_text(content)
    text = '{"textless": "units", "version": 1, "contract": {}}\n{"id": "x", "units": [1, 2]}\n'
    code, _, err = textless_command(
        "continue", "-", "-o", "-", "--seconds", "0.5", "--contract", tmp_path / "c.json", stdin=text
    )
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {tmp_path / 'c.json'}: not a contract (")


def test_units_of_another_contract(textless_command, tmp_path):
    header = {"textless": "units", "version": 1, "contract": {"encoder": "mfcc", "n_units": 20, "frame_rate": 100.0}}
    text = json.dumps(header) + "\n" + json.dumps({"id": "x", "units": [1, 2], "durations": [30, 2]})
    for command, out, theirs in (("continue", "-", "language model"), ("resynth", tmp_path / "x.wav", "vocoder")):
        code, _, err = textless_command(command, "-", "-o", out, stdin=text)
        assert code == 2
        assert theirs in one_line(err)[0]
        assert "encoder is" in one_line(err)[0]
    assert not (tmp_path / "x.wav").exists()


def test_unknown_origin_warns_and_can_be_declared(textless_command, model_set, tmp_path):
    text = (
        '{"textless": "units", "version": 1, "contract": {"n_units": 20}}\n{"id": "x", "units": '
        '[1, 2], "durations": [30, 2]}'
    )
    code, _, err = textless_command("continue", "-", "-o", "-", "--seconds", "0.5", stdin=text)
    assert code == 0
    assert "warning: " in err
    assert "--contract FILE" in err
    codebook = model_set / "codebook" / "config.json"
    code, _, err = textless_command("continue", "-", "-o", "-", "--seconds", "0.5", "--contract", codebook, stdin=text)
    assert (code, err) == (0, "")


def test_a_declaration_against_what_the_units_say(textless_command, tmp_path):
    (tmp_path / "c.json").write_text('{"n_units": 30}')
    text = '{"textless": "units", "version": 1, "contract": {"n_units": 20}}\n{"id": "x", "units": [1, 2]}'
    code, _, err = textless_command("score", "-", "--contract", tmp_path / "c.json", stdin=text)
    assert code == 2
    assert "x: n_units is 20 in these units but 30 in --contract" in one_line(err)[0]


def test_units_beyond_the_codebook(textless_command):
    text = '{"textless": "units", "version": 1, "contract": {"n_units": 30}}\n{"id": "x", "units": [25]}'
    code, _, err = textless_command("continue", "-", "-o", "-", stdin=text)
    assert code == 2
    assert "n_units is 30" in one_line(err)[0]


# --------------------------------------------------------------------------------------------------------- pipelines


def test_a_pipeline_over_bad_files(textless_command, model_set, speech, tmp_path):
    bad_files(speech)
    args = ("run", "quickstart", "units", "-s", f"model={model_set}", "--store", tmp_path / "store")
    code, out, _ = textless_command(*args, "-s", f"audio={speech}")
    assert code == 1
    folder = Path(out.split()[1])
    assert len((folder / "failures.jsonl").read_text().splitlines()) == 5
    assert len(textless.open_dump(folder)) == 3
    code, _, err = textless_command(*[a if a != "units" else "more" for a in args], "-s", f"audio={speech}")
    assert code == 1  # what failed on the way counts
    assert "units: 5 rows failed: " in err
    code, _, err = textless_command(*args, "-s", f"audio={speech / 'text.wav'}")
    assert code == 2
    assert "text.wav" in one_line(err)[0]


def test_quickstart_with_the_random_set(textless_command, model_set, tmp_path):
    args = ("-s", f"model={model_set}", "-s", "speaker=amy", "--store", tmp_path / "store")
    code, out, _ = textless_command("run", "quickstart", *args)
    assert code == 0
    folder = Path(out.split()[1])
    assert len(list(folder.glob("*.wav"))) == 3
    assert textless_command("run", "quickstart", *args, "--dry-run")[1] == ""
    code, out, _ = textless_command("status", "quickstart", *args)
    assert out.count(" done ") == 3
    code, out, _ = textless_command("show", "quickstart", "more", *args)
    assert '"rows": 3' in out
    code, out, _ = textless_command("why", "quickstart", "speech", *args, "-s", "more.seconds=2")
    assert "speech.units.seconds: the default → 2.0" in out or "speech.units.seconds: 3" in out


def test_tensorboard_is_asked_for_but_not_there(textless_command, tmp_path, monkeypatch):
    monkeypatch.setattr(cli_pipelines, "find_spec", lambda name: None)
    code, _, err = textless_command("run", "smoke", "--store", tmp_path, "--tensorboard", "--dry-run")
    assert (code, one_line(err)) == (
        2,
        ["error: tensorboard is not installed; in a clone of textless: pip install -c constraints.txt '.[train]'"],
    )
