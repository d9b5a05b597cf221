"""Ids in one form, and files called after them."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest

from textless import model as module
from textless.engine.job import write_failures
from textless.model import named, resynth_row
from textless.names import encodable, plain, repeated
from textless.types import Units
from textless.units.dump import UnitRow

NFC, NFD = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))


def test_one_form():
    assert NFC != NFD
    assert plain(NFC) == plain(NFD) == NFC
    assert plain("a-b c") == "a-b c"
    assert encodable(NFD) == NFD
    assert plain("caf\udce9") == encodable("caf\udce9") == "caf\\udce9"
    assert encodable("\ud800é") == "\\ud800é"
    assert repeated("abcb") == "b"
    assert repeated("abc") is None


def test_failures_of_odd_file_names_are_listed_in_utf8(tmp_path):
    write_failures(tmp_path / "f.jsonl", [{"id": "caf\\udce9", "error": "/caf\udce9.wav: no such file"}])
    row = json.loads((tmp_path / "f.jsonl").read_text(encoding="utf-8"))
    assert row == {"id": "caf\\udce9", "error": "/caf\\udce9.wav: no such file"}


def test_files_of_repeated_ids_are_numbered_in_linear_time(monkeypatch):
    formatted = 0

    class Counted(str):
        def __format__(self, form):
            nonlocal formatted
            formatted += 1
            return str(self)

    monkeypatch.setattr(module, "file_stem", Counted)
    rows = [UnitRow(name, Units(np.array([0]))) for name in ["a-3", *["a"] * 10_000, "a-2", "b"]]
    names = [name for _, name in named(rows)]
    assert names[:4] == ["a-3", "a", "a-2", "a-4"]
    assert names[-3:] == ["a-10001", "a-2-2", "b"]
    assert len(set(names)) == len(rows)
    assert formatted < 11_000


def test_a_voice_is_found_whatever_its_unicode_form():
    class Vocoder:
        def __init__(self, speakers):
            self.speakers = speakers

        def resynth(self, units, *, speaker, durations, f0):
            return speaker

    units = Units(np.array([0]))
    for known in (NFC, NFD):
        vocoder = Vocoder(["ann", known])
        for name in (NFC, NFD):
            assert resynth_row(vocoder, UnitRow("a", units, speaker=name)) == known
            assert resynth_row(vocoder, UnitRow("a", units), speaker=name) == known
        assert resynth_row(vocoder, UnitRow("a", units, speaker="eve")) is None
        assert resynth_row(vocoder, UnitRow("a", units), speaker="eve") == "eve"  # the vocoder refuses it
        assert resynth_row(vocoder, UnitRow("a", units), speaker=1) == 1


@pytest.mark.parametrize("command", ["continue", "score", "resynth"])
def test_files_of_several_inputs_have_the_ids_that_encode_gives(command, textless_command, speech, tmp_path):
    for folder in "xy":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").write_bytes((speech / "a.wav").read_bytes())
    inputs = tmp_path / "x", f"{tmp_path}/y/*.wav"
    if command == "resynth":
        code, _, _ = textless_command(command, *inputs, "-o", tmp_path / "out")
        assert (code, sorted(p.name for p in (tmp_path / "out").glob("*.wav"))) == (0, ["x_a.wav", "y_a.wav"])
        return
    more = ("--seconds", "0.1") if command == "continue" else ()
    code, _, _ = textless_command(command, *inputs, "-o", tmp_path / "out.jsonl", *more)
    text = (tmp_path / "out.jsonl").read_text()
    assert code == 0
    assert '"id": "x/a"' in text
    assert '"id": "y/a"' in text


def test_one_file_twice_is_refused(textless_command, speech, tmp_path):
    code, _, err = textless_command("continue", speech / "a.wav", speech / "a.wav", "-o", tmp_path / "out.jsonl")
    assert code == 2
    assert "duplicate id" in err
    assert not (tmp_path / "out.jsonl").exists()


def test_units_and_audio_keep_the_order_of_the_inputs(textless_command, speech, tmp_path):
    textless_command("encode", speech / "b.wav", "-o", tmp_path / "b.jsonl")
    inputs = speech / "c.wav", tmp_path / "b.jsonl", speech / "a.wav"
    code, out, _ = textless_command("score", *inputs, "-o", "-")
    assert code == 0
    assert [line.split('"')[3] for line in out.splitlines()] == ["c", "b", "a"]


def test_figures_by_id_refuse_ids_that_repeat(textless_command, speech, tmp_path):
    textless_command("encode", speech / "a.wav", "-o", tmp_path / "u.jsonl")
    (tmp_path / "pairs.tsv").write_text("good\tbad\na\ta\n")
    (tmp_path / "phones.tsv").write_text("id\tstart\tend\tphone\na\t0\t0.5\tA\na\t0.5\t1\tB\n")
    units = [tmp_path / "u.jsonl"] * 2
    for command in (
        ["score", *units, "--pairs", tmp_path / "pairs.tsv"],
        ["quality", *units, "--alignments", tmp_path / "phones.tsv"],
    ):
        code, _, err = textless_command(*command)
        assert code == 2
        assert "two rows are called 'a'" in err
