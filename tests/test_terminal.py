"""What a terminal is shown of names and texts that others chose."""

import io
import sys

import numpy as np
import soundfile

from textless.cli.progress import Clean, Line, clean, one_line

HOSTILE = "bad\x1b[2J\x07\x9b31m\u202egpj\u2066\r\x7f"
SHOWN = r"bad\x1b[2J\x07\x9b31m\u202egpj\u2066\r\x7f"


def test_control_characters_are_spelled_out():
    assert clean(HOSTILE) == SHOWN
    assert clean("naïve 語 🙂\ta\nb") == "naïve 語 🙂\ta\nb"
    assert clean("caf\udce9") == r"caf\udce9"
    assert one_line("a\nb\r\n") == r"a\nb"


def test_a_clean_stream():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    stream = Clean(out)
    print("a\x1bé\r", file=stream, flush=True)
    stream.write("\r\x1b[K3/4 \x1b[Kfiles")
    stream.buffer.write(b"\x00\x1b")  # sound passes as it is
    stream.flush()
    assert out.buffer.getvalue() == b"a\\x1b\\xe9\\r\n" + b"\x00\x1b\r\x1b[K3/4 \\x1b[Kfiles"


def test_progress_on_a_terminal_is_rewritten(monkeypatch):
    out = io.StringIO()
    out.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", Clean(out))
    line = Line()
    line(2, 2, f"of {HOSTILE}")
    assert out.getvalue() == f"\r\x1b[K2/2 of {SHOWN}, 0 s"


def test_hostile_names_in_messages(textless_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rec").mkdir()
    good, bad = (tmp_path / "rec" / f"{name}{HOSTILE}\n.wav" for name in ("good", "bad"))
    soundfile.write(good, np.zeros(16000, np.float32), 16000)
    bad.touch()
    commands = [
        ("encode", "rec", "-o", "u.jsonl"),
        ("encode", "rec", "-o", "dump"),
        ("encode", "-v", "rec", "-o", "-"),
        ("encode", str(bad), "-o", "-"),
        ("encode", str(good), "-o", str(tmp_path / HOSTILE / "dump")),
        ("resynth", "u.jsonl", "-o", "x" + HOSTILE + ".mp3"),
        ("continue", HOSTILE, "-o", "-"),
        ("run", HOSTILE),
        ("status", "./" + HOSTILE + ".yaml"),
        ("show", "smoke", HOSTILE),
        ("fetch", HOSTILE),
    ]
    for command in commands:
        code, out, err = textless_command(*command)
        assert clean(out + err) == out + err, command
        assert not [line for line in err.splitlines() if line.startswith("error: ") and "\n" in line]
        if code == 2:
            assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1, (command, err)
            assert r"\x1b[2J" in err
