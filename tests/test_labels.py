"""Phones and words with times, in the forms of other tools. Fixtures follow the sources that tests name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from textless.audio.textgrid import Tier, read_textgrid
from textless.errors import CorpusError, TextlessError
from textless.metrics.alignments import read_alignments
from textless.metrics.asr import read_text
from textless.metrics.labels import labels_content
from textless.steps import Alignments, Text

# praat/praat, fon/TextGrid.cpp, melder/melder_writetext.cpp: the long form, as the Montreal Forced Aligner has it too
LONG, SHORT = ((ROOT / f"tests/data/textgrid/{form}.TextGrid").read_text() for form in ("long", "short"))
TIERS = [
    Tier("words", [(0, 0.5, ""), (0.5, 1.0, 'say "hi"'), (1.0, 1.5, "now")]),
    Tier("phones", [(0, 0.5, ""), (0.5, 0.73, "s"), (0.73, 1.5, "EY1")]),
    Tier("tones", [(0.6, 0.6, "H*")], True),
]


def error(path: Path, read=read_alignments) -> str:
    with pytest.raises(CorpusError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [LONG, SHORT])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_textgrids_long_and_short(tmp_path, text, encoding):
    (tmp_path / "utt.TextGrid").write_bytes(text.encode(encoding))
    assert read_textgrid(tmp_path / "utt.TextGrid") == TIERS
    (tmp_path / "utt.TextGrid").rename(tmp_path / "utt.txt")  # by content, not by suffix
    assert read_alignments(tmp_path / "utt.txt") == {"utt": [(0.5, 0.73, "s"), (0.73, 1.5, "EY1")]}
    assert read_text(tmp_path / "utt.txt") == {"utt": 'say "hi" now'}


def test_a_label_of_several_lines_and_a_comment(tmp_path):
    text = LONG.replace('"now"', '"now\n3 ""4"" <exists>"').replace("item []: ", "item []: ! 12 a remark of 7 words")
    assert read_textgrid(write(tmp_path / "a.TextGrid", text))[0].intervals[-1] == (1.0, 1.5, 'now\n3 "4" <exists>')


def test_the_tier_of_each_speaker_is_taken(tmp_path):
    text = SHORT.replace('"words"', '"anna - phones"').replace('"phones"', '"ben - phones"')
    path = write(tmp_path / "a.TextGrid", text)
    assert [label for _, _, label in read_alignments(path)["a"]] == ["s", 'say "hi"', "EY1", "now"]
    assert "has no tier 'words'; its tiers of intervals: 'anna - phones', 'ben - phones'" in error(path, read_text)
    one = SHORT.replace("<exists>\n3", "<exists>\n1").replace('"words"', '"Mary"')
    assert [label for _, _, label in read_alignments(write(path, one))["a"]] == ['say "hi"', "now"]


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("<exists>\n3", "<exists>\n4", 42, "the class of a tier is missing"),
        ("<exists>\n3", "<exists>\n3.5", 7, "the number of tiers is no number"),
        ("0.5\n1.0", "1.0\n0.5", 17, "an interval ends before it starts"),
        ("0.73\n", "1e999\n", 31, "a time is no time"),
        ('"TextGrid"', '"Pitch"', 2, "it holds something else"),
        ('"now"', "now", 24, "the name of a tier is missing"),
    ],
)
def test_malformed_textgrids_are_named_with_a_line(tmp_path, old, new, line, what):
    path = write(tmp_path / "a.TextGrid", SHORT.replace(old, new))
    text = error(path)
    assert what in text
    assert text.startswith(f"{path}, line {line}: ")


def test_ctm(tmp_path):
    # kaldi-asr/kaldi, src/latbin/nbest-to-ctm.cc; NIST's sclite: comments, and a confidence at the end
    path = write(tmp_path / "a.ctm", ";; from kaldi\nu-1 1 0.50 0.25 HH 0.9\nu-1 1 0.75 0.1 AY\nu-2 A 0 1.5 S\n")
    expected = {"u-1": [(0.5, 0.75, "HH"), (0.75, 0.85, "AY")], "u-2": [(0.0, 1.5, "S")]}
    assert read_alignments(path) == expected
    assert read_text(path) == {"u-1": "HH AY", "u-2": "S"}
    assert read_alignments(path.rename(tmp_path / "a.txt")) == expected
    assert "line 2: 0 and -1 are no times" in error(write(tmp_path / "b.ctm", "u 1 0 1 a\nu 1 0 -1 b\n"))
    assert "line 2: 'u' has several channels" in error(write(tmp_path / "b.ctm", "u A 0 1 a\nu B 0 1 b\n"))
    assert "line 1: a line is name, channel" in error(write(tmp_path / "b.ctm", "u 1 0 1\n"))


def test_labels_of_audacity(tmp_path):
    # audacity/audacity, src/LabelTrack.cpp: frequencies come in a line of their own
    path = write(
        tmp_path / "utt.txt", "0.500000\t0.730000\ts\n\\\t1000.0\t4000.0\n0.730000\t1.500000\tEY1\n1.5\t1.6\t\n"
    )
    assert read_alignments(path) == {"utt": [(0.5, 0.73, "s"), (0.73, 1.5, "EY1")]}
    assert read_text(path) == {"utt": "s EY1"}


def test_timit_counts_samples(tmp_path):
    # TIMIT, doc/timitdoc.txt: "BEGINNING_SAMPLE# ENDING_SAMPLE# TEXT", at 16 kHz; SA1 of each speaker is one sentence
    for who in ("DR1/FCJF0", "DR2/MABC0"):
        write(tmp_path / f"timit/{who}/SA1.PHN", "0 3200 h#\n3200 4800 sh\n")
        write(tmp_path / f"timit/{who}/SA1.WRD", "3200 4800 she\n")
        write(tmp_path / f"timit/{who}/SA1.TXT", "0 46797 She had your dark suit.\n")
    phones = [(0.0, 0.2, "h#"), (0.2, 0.3, "sh")]
    assert read_alignments(tmp_path / "timit") == {"DR1/FCJF0/SA1": phones, "DR2/MABC0/SA1": phones}
    assert read_text(tmp_path / "timit/DR1") == {"SA1": "she"}
    assert read_alignments(tmp_path / "timit/DR1/FCJF0/SA1.PHN") == {"SA1": phones}
    assert "line 1: a line is start, end (whole samples" in error(write(tmp_path / "a.phn", "0.0 0.2 h#\n"))
    assert "line 2: 5 and 3 are no times" in error(write(tmp_path / "a.phn", "0 5 h#\n5 3 sh\n"))


def test_a_folder_of_textgrids_has_their_stems_as_ids(tmp_path):
    write(tmp_path / "mfa/s1/a.TextGrid", LONG)
    write(tmp_path / "mfa/s2/b.TextGrid", SHORT)
    write(tmp_path / "mfa/notes.txt", "made by hand\n")
    assert set(read_alignments(tmp_path / "mfa")) == {"a", "b"}
    (tmp_path / "empty").mkdir()
    assert "holds no phones; files of labels end in .textgrid" in error(tmp_path / "empty")


def test_our_own_tables_are_read_as_before(tmp_path):
    path = write(tmp_path / "a.tsv", "id\tstart\tend\tphone\na\t0\t0.5\tA\n")
    assert read_alignments(path) == {"a": [(0.0, 0.5, "A")]}
    assert read_text(write(tmp_path / "b.txt", "a b 1 2\tsaid words\n")) == {"a b 1 2": "said words"}
    assert "column end, id, phone, start is missing" in error(write(tmp_path / "c.tsv", "x\ty\n"))
    assert "no words after a tab" in error(write(tmp_path / "d.tsv", "utt words\n"), read_text)
    assert Alignments(file=str(path)).content(lambda file: "sha") == "sha"


def test_what_identifies_labels(tmp_path):
    write(tmp_path / "mfa/s1/a.TextGrid", LONG)
    assert labels_content(str(tmp_path / "mfa"), lambda file: "sha") == {"s1/a.TextGrid": "sha"}
    path = str(tmp_path / "mfa/s1/a.TextGrid")  # whose name is an id
    assert Text(file=path).content(lambda file: "sha") == {"a.TextGrid": "sha"}


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_labels_give_errors_of_ours_only(tmp_path, count):
    wholes = {
        "a.TextGrid": LONG, "b.TextGrid": SHORT, "c.ctm": "u 1 0.50 0.25 HH 0.9\nu 1 0.75 0.1 AY\n",
        "d.txt": "0.5\t0.7\ts\n0.7\t1.5\tEY1\n", "e.phn": "0 3200 h#\n3200 4800 sh\n",
    }  # fmt: skip
    odd = [b"-", b"9" * 400, b"nan", b"\n", b'"', b"\0", b"1e400"]
    rng = np.random.default_rng(7)
    failed = 0
    for n in range(count):
        name, text = list(wholes.items())[n % len(wholes)]
        data = bytearray(text.encode())
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data)))
            if rng.random() < 0.5:
                data[at] = int(rng.integers(256))
            else:
                data[at : at + int(rng.integers(0, 9))] = odd[rng.integers(len(odd))]
        (tmp_path / name).write_bytes(data)
        for read in (read_alignments, read_text):
            try:
                read(tmp_path / name)
            except TextlessError as e:
                failed += 1
                assert "\n" not in str(e)  # noqa: PT017
    assert failed
