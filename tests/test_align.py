"""Phones of known words: on espeak-ng's voices, whose order and pauses are known."""

from __future__ import annotations

import csv
from itertools import pairwise

import numpy as np
import pytest

from conftest import ROOT
from textless.audio.corpus import Corpus as Rows
from textless.audio.io import read_audio
from textless.engine.job import Job
from textless.errors import CorpusError, TextlessError
from textless.metrics import asr as recognise
from textless.metrics.align import align
from textless.steps import Align, UnitQuality
from textless.steps.align import read_phones
from textless.steps.sources import Alignments, Corpus, Text

SMOKE = ROOT / "pipelines" / "smoke"
SAID = "The kettle sings before the water boils."
PHONES = "DH AH K EH T AH L S IH NG Z B IH F AO R DH AH W AO T ER B OY L Z".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    return read_audio(SMOKE / "amy-0.opus")


def test_phones_stand_in_order_without_gaps(wave):
    found = align(wave, SAID)
    assert [p for _, _, p in found if p != "SIL"] == PHONES
    assert found[0][0] == 0
    assert found[-1][1] == pytest.approx(len(wave) / 16000, abs=0.05)
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairwise(found))
    assert align(wave, SAID) == found


def test_a_pause_in_front_moves_them_all(wave):
    rng = np.random.default_rng(0)
    quiet = (1e-4 * rng.standard_normal(8000)).astype(np.float32)
    before, after = (
        [(s, p) for s, _, p in align(w, SAID) if p != "SIL"] for w in (wave, np.concatenate([quiet, wave]))
    )
    moved = [b - a for (a, _), (b, _) in zip(before, after, strict=True)]
    assert np.median(moved) == pytest.approx(0.5, abs=0.02)


def test_what_cannot_be_aligned_says_why(wave, monkeypatch):
    with pytest.raises(CorpusError, match="cannot be aligned: kettlex, singz not in the dictionary"):
        align(wave, "The kettlex singz.")
    with pytest.raises(CorpusError, match="the words do not fit the audio"):
        align(wave[:3200], SAID)
    monkeypatch.setattr(recognise, "find_spec", lambda name: None)
    with pytest.raises(
        TextlessError,
        match=(
            r"alignments need pocketsphinx, which is not installed; in a clone of textless: pip install "
            r"-c constraints.txt '\.\[eval\]'"
        ),
    ):
        align(wave, SAID)


def test_as_a_step(tmp_path):
    (tmp_path / "rows.tsv").write_text(f"audio\n{SMOKE}/amy-0.opus\n{SMOKE}/amy-1.opus\n{SMOKE}/ben-3.opus\n")
    (tmp_path / "words.txt").write_text(f"amy-0\t{SAID}\nben-3\tzzzyx\n")
    step = Align(audio=Corpus(manifest=str(tmp_path / "rows.tsv")), text=Text(file=str(tmp_path / "words.txt")))
    job = Job(tmp_path / "made", {}, lambda *a: None)
    rows = list(Rows.load(tmp_path / "rows.tsv"))
    (job.path / "data").mkdir()
    failures = step.shard(step.tools(job), rows, job.path / step.shard_path(0))
    assert [(f["id"], f["error"]) for f in failures] == [
        ("amy-1", "cannot be aligned: there are no words of this id"),
        ("ben-3", "cannot be aligned: zzzyx not in the dictionary"),
    ]
    step.finish(job, None)
    with open(job.path / "phones.tsv", newline="") as f:
        table = list(csv.DictReader(f, delimiter="\t"))
    assert [r["phone"] for r in table if r["phone"] != "SIL"] == PHONES
    assert {r["id"] for r in table} == {"amy-0"}
    assert job.metrics["files"] == 1
    # as a step that measures takes them: from the artefact, or from a file
    reader = Job(tmp_path / "other", {"alignments": job.path}, lambda *a: None)
    found = read_phones(reader, UnitQuality(units=None, alignments=step))
    assert found == read_phones(
        reader, UnitQuality(units=None, alignments=Alignments(file=str(job.path / "phones.tsv")))
    )
    assert [p for _, _, p in found["amy-0"] if p != "SIL"] == PHONES
    assert read_phones(reader, UnitQuality(units=None)) is None
    # other words of a row are another shard; those of a row that is not there change nothing
    keys = [step.identity(row, str) for row in rows]
    (tmp_path / "words.txt").write_text("amy-0\tOther words.\nben-3\tzzzyx\nnobody\tat all\n")
    changed = Align(audio=step.audio, text=Text(file=str(tmp_path / "words.txt")))
    assert [changed.identity(row, str) == key for row, key in zip(rows, keys, strict=True)] == [False, True, True]
