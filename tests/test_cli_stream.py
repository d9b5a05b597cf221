"""Speaking while the language model still thinks: rows in parts, through pipes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from conftest import GOLDEN
from textless.audio.io import read_audio, write_wav
from textless.errors import AudioError, DumpError
from textless.types import UnitContract, Units
from textless.units.dump import MORE, UnitRow, join_parts, read_stream, split_row, write_stream

CONTRACT = UnitContract(n_units=9, sample_rate=16000, frame_rate=50.0)
SHELL = [sys.executable, "-m", "textless"]


def row(units, durations=None, name="a", **extra) -> UnitRow:
    given = None if durations is None else np.array(durations)
    return UnitRow(id=name, units=Units(np.array(units, np.int64), given, CONTRACT), speaker="eve", extra=extra)


def test_parts_go_through_a_stream_and_are_joined():
    whole = row([1, 2, 3, 1], [4, 1, 2, 2], note="x")
    pieces = [Units(whole.units.units[k : k + 2], whole.units.durations[k : k + 2], CONTRACT) for k in (0, 2)]
    parts = list(split_row(whole, pieces))
    assert [MORE in p.extra for p in parts] == [True, False]
    text = io.StringIO()
    write_stream(text, [row([5], [1], "b"), *parts, row([6], [1], "c")], contract=CONTRACT)
    lines = text.getvalue().splitlines()
    assert [json.loads(line)["id"] for line in lines[1:]] == ["b", "a", "a", "c"]
    joined = list(read_stream(lines))
    assert [r.id for r in joined] == ["b", "a", "c"]
    np.testing.assert_array_equal(joined[1].units.frames(), whole.units.frames())
    assert (joined[1].extra, joined[1].speaker) == ({"note": "x"}, "eve")
    assert [len(r.units) for r in read_stream(lines, parts=True)] == [1, 2, 2, 1]
    assert [len(r.units) for r in split_row(whole, [])] == [0]


def test_a_row_whose_last_part_is_missing():
    parts = list(split_row(row([1, 2]), [Units(np.array([1]), None, CONTRACT), Units(np.array([2]), None, CONTRACT)]))
    for broken in (parts[:1], [parts[0], row([3], name="b")]):
        with pytest.raises(DumpError, match="a: its last part is missing"):
            list(join_parts(broken))


def test_wav_into_a_pipe(tmp_path):
    waves = [np.linspace(-1, 1, n, dtype=np.float32) for n in (500, 0, 301)]
    out = io.BytesIO()
    write_wav(out, waves)
    (tmp_path / "x.wav").write_bytes(out.getvalue())
    np.testing.assert_allclose(read_audio(tmp_path / "x.wav"), np.concatenate(waves), atol=2**-15)
    out = io.BytesIO()
    with pytest.raises(AudioError, match="NaN"):
        write_wav(out, [np.array([np.nan])])
    assert out.getvalue() == b""


@pytest.fixture(scope="module")
def prompt(tmp_path_factory):
    """A prompt as units, and the continuations of it that whole commands make."""
    folder = tmp_path_factory.mktemp("stream")
    here = os.path.join(os.path.dirname(__file__), "..", "pipelines", "smoke", "amy-4.opus")
    run(["encode", here, "-o", str(folder / "units.jsonl")])
    run(
        [
            "continue",
            str(folder / "units.jsonl"),
            "-o",
            str(folder / "more.jsonl"),
            "--seconds",
            "1",
            "--samples",
            "2",
            "--seed",
            "3",
        ]
    )
    return folder


def run(arguments: list[str], **options) -> subprocess.CompletedProcess:
    done = subprocess.run([*SHELL, *arguments], capture_output=True, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done


def test_streamed_continuations_are_the_same(prompt):
    options = ["--seconds", "1", "--samples", "2", "--seed", "3"]
    lines = run(["continue", str(prompt / "units.jsonl"), "-o", "-", *options, "--stream"]).stdout.decode().splitlines()
    whole = (prompt / "more.jsonl").read_text().splitlines()
    assert len(lines) > len(whole) + 4
    for a, b in zip(read_stream(lines), read_stream(whole), strict=True):
        np.testing.assert_array_equal(a.units.frames(), b.units.frames())
        assert (a.id, a.extra) == (b.id, b.extra)


def test_streamed_speech_is_the_same(prompt, tmp_path):
    run(["resynth", str(prompt / "more.jsonl"), "-o", str(tmp_path / "wavs")])
    expected = np.concatenate([read_audio(p) for p in sorted((tmp_path / "wavs").glob("*.wav"))])
    options = ["--seconds", "1", "--samples", "2", "--seed", "3", "--stream"]
    units = run(["continue", str(prompt / "units.jsonl"), "-o", "-", *options]).stdout
    for how in (["--stream"], []):
        (tmp_path / "a.wav").write_bytes(run(["resynth", "-", "-o", "-", *how], input=units).stdout)
        np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), expected, atol=2e-4)


def test_it_speaks_before_the_row_has_ended(prompt):
    lines = (prompt / "more.jsonl").read_text().splitlines()
    header, first = lines[0], json.loads(lines[1])
    with subprocess.Popen(
        [*SHELL, "resynth", "-", "-o", "-", "--stream"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as p:
        p.stdin.write((header + "\n" + json.dumps({**first, "more": True}) + "\n").encode())
        p.stdin.flush()
        begun = p.stdout.read(44 + 16000)  # half a second of speech, while its last part is still to come
        assert begun[:4] == b"RIFF"
        assert p.poll() is None
        p.stdin.write((json.dumps({"id": first["id"], "units": [1, 2], "durations": [3, 3]}) + "\n").encode())
        p.stdin.close()
        rest = p.stdout.read()
    assert p.returncode == 0
    assert len(begun) - 44 + len(rest) == 2 * 320 * (sum(first["durations"]) + 6)


def test_what_cannot_be_streamed(prompt, tmp_path):
    for command in (["continue", str(prompt / "units.jsonl")], ["resynth", str(prompt / "more.jsonl")]):
        done = subprocess.run([*SHELL, *command, "--stream", "-o", str(tmp_path / "out")], capture_output=True)
        assert done.returncode == 2
        assert b"give -o -" in done.stderr
        assert not (tmp_path / "out").exists()
    cut = "\n".join(
        [*(prompt / "more.jsonl").read_text().splitlines()[:1], json.dumps({"id": "a", "units": [1], "more": True})]
    )
    done = subprocess.run([*SHELL, "resynth", "-", "-o", "-"], input=cut.encode(), capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"its last part is missing" in done.stderr


def test_a_published_hifigan_speaks(tmp_path):
    """Its checkpoint and configuration as they were published, in whole rows and as a stream."""
    golden = np.load(GOLDEN / "codehifigan_plain.npz")
    contract = UnitContract(n_units=json.loads((GOLDEN / "codehifigan_plain.json").read_text())["num_embeddings"])
    with open(tmp_path / "u.jsonl", "w") as f:
        write_stream(f, [UnitRow(id="a", units=Units(golden["code"], None, contract))], contract=contract)
    model = ["--vocoder", str(GOLDEN / "codehifigan_plain.pt")]
    run(["resynth", str(tmp_path / "u.jsonl"), "-o", str(tmp_path / "a.wav"), *model])
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), golden["wav"].ravel(), atol=1e-4)
    done = run(["resynth", "-", "-o", "-", "--stream", *model], input=(tmp_path / "u.jsonl").read_bytes())
    (tmp_path / "b.wav").write_bytes(done.stdout)
    np.testing.assert_allclose(read_audio(tmp_path / "b.wav"), golden["wav"].ravel(), atol=1e-4)


def test_unit_hifigan_speaks_in_its_voices_and_styles(tmp_path):
    place = GOLDEN / "peers" / "unit_hifigan_speakers_styles"
    golden, contract = np.load(place / "expected.npz"), UnitContract(n_units=20)
    with open(tmp_path / "u.jsonl", "w") as f:
        write_stream(f, [UnitRow(id="a", units=Units(golden["units"], None, contract))], contract=contract)
    command = ["resynth", str(tmp_path / "u.jsonl"), "--vocoder", str(place)]
    voice = ["--speaker", "p225", "--style", "laughing"]
    for level, key in ((), "generate"), (("--level", "raw"), "forward"):
        name = str(tmp_path / f"{key}.wav")
        run([*command, "-o", name, *voice, *level])
        np.testing.assert_allclose(read_audio(name), golden[key].ravel(), atol=1e-4)
    (tmp_path / "s.wav").write_bytes(run([*command, "-o", "-", "--stream", *voice, "--level", "raw"]).stdout)
    np.testing.assert_allclose(read_audio(tmp_path / "s.wav"), golden["forward"].ravel(), atol=1e-4)
    for options, message in (
        (("--speaker", "9999"), b"no speaker '9999'; it has lj, p225, or 0 to 1"),
        (("--style", "sad"), b"no style 'sad'; it has read, laughing, or 0 to 1"),
        (("--stream",), b"ask for the level raw to stream"),
    ):
        done = subprocess.run([*SHELL, *command, "-o", "-", *options], capture_output=True)
        assert (done.returncode, done.stderr.count(b"error: ")) == (2, 1)
        assert message in done.stderr
