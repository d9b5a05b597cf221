"""Declarations of metrics: each key that a function returns has one, each declared key is returned, and each is
printed.
"""

import importlib
import pkgutil
from types import SimpleNamespace

import numpy as np
import pytest
from test_difference import speech as spoken
from test_pitch import melodic_lm, pitched
from test_quality import row

import textless.metrics
from conftest import ROOT
from textless.audio.io import read_audio
from textless.metrics import (
    bitrate,
    continuations,
    diversity,
    lm,
    pnmi,
    robustness,
    speech,
    term_discovery,
    units,
)
from textless.metrics.alignments import frame_phones
from textless.metrics.table import ALL, SPEECH, UNITS, speech_table, table
from textless.types import UnitRow, Units

UNPRINTED = {"frames", "wer_original"}  # in files alone, and in the line of `wer`


def declared(metrics):
    return set().union(*(metric.keys(name) for name, metric in metrics.items()))


def of_units():
    rows, alignments = spoken()
    # As many units as phones, which are p, q, a, b, c and three that do not occur.
    return units.measure_units(rows[2:], alignments=alignments, fit=rows[:2], n_phones=8), units.METRICS


def of_terms():
    phones = {"f": [(0, 0.1, "a"), (0.1, 0.2, "b")]}
    return term_discovery.terms({"1": [("f", 0, 0.1), ("f", 0.1, 0.2)]}, phones, phones), term_discovery.METRICS


def of_bitrates():
    return bitrate.unit_cost([row("a", [1, 1, 2]).units], n_units=8), bitrate.METRICS


def of_phones():
    rows, alignments = spoken()
    frames = [r.units.frames() for r in rows]
    pairs = [(u, frame_phones(alignments[r.id], len(u), frame_rate=50)) for r, u in zip(rows, frames, strict=True)]
    return pnmi.unit_quality(pairs, n_units=8), pnmi.METRICS


def of_frames():
    rows, alignments = spoken()
    files = {r.id: np.eye(8)[r.units.frames()] for r in rows}
    speakers = {r.id: r.speaker for r in rows}
    found = units.measure_frames(files, frame_rate=50, alignments=alignments, speakers=speakers)
    return found, units.FRAME_METRICS


def of_perturbations():
    waves = np.random.default_rng(0).standard_normal((2, 8000)).astype(np.float32)
    encode = lambda changed: [Units.of((w[::320] > 0).astype(int)) for w in changed]  # noqa: E731
    return robustness.mean_distances([robustness.unit_edit_distances(w, encode) for w in waves]), robustness.METRICS


def of_speech():
    real = read_audio(ROOT / "pipelines" / "smoke" / "amy-0.opus")[:32000]
    made = real + 0.01 * np.random.default_rng(0).standard_normal(len(real)).astype(np.float32)
    encode = lambda waves: [Units.of([1, 2])] * len(waves)  # noqa: E731
    sentence = speech.compare(made, real, encode=encode, text="The kettle sings")
    return speech.summarise([{"id": name, **sentence} for name in "ab"]), speech.METRICS


def of_likelihoods():
    rows = [UnitRow(name, pitched(9, seed)) for seed, name in enumerate("ab")]
    return lm.likelihoods(melodic_lm(), rows, [r.units for r in rows]), lm.METRICS


def of_samples():
    return diversity.diversity({"prompt": [[1, 2, 3], [1, 2, 4]]}), diversity.METRICS


def of_transcripts():
    judge = SimpleNamespace(nll=lambda texts: {name: np.ones(3) for name in texts})
    return continuations.summarise(continuations.score({"a": "x y z", "b": "y z"}, judge)), continuations.METRICS


@pytest.mark.parametrize(
    "measured",
    [
        *(of_units, of_bitrates, of_phones, of_frames, of_perturbations, of_speech, of_likelihoods, of_samples),
        *(of_transcripts, of_terms),
    ],
)
def test_every_key_that_is_returned_is_declared_and_the_reverse(measured):
    values, metrics = measured()
    assert set(values) == declared(metrics)


def test_every_declaration_is_in_a_table():
    for module in pkgutil.iter_modules(textless.metrics.__path__):
        metrics = getattr(importlib.import_module(f"textless.metrics.{module.name}"), "METRICS", {})
        assert set(metrics) <= set(ALL), module.name
    assert {name for name, metric in ALL.items() if not metric.printed} == UNPRINTED


@pytest.mark.parametrize(
    ("metrics", "show", "baseline"), [(UNITS, table, "chance"), (SPEECH, speech_table, "original")]
)
def test_every_metric_is_printed_with_its_interval_and_baseline(metrics, show, baseline):
    values = dict.fromkeys(declared(metrics), 0.25)
    head, *lines = show(values).splitlines()
    assert head.split() == ["value", "95", "%", "interval", baseline]
    printed = {name: metric for name, metric in metrics.items() if metric.printed}
    assert len(lines) == len(printed)
    for line, metric in zip(lines, printed.values(), strict=True):
        label, values = line[: len(metric.label)], line[len(metric.label) :].split("  ")
        columns = [value.strip() for value in values if value.strip()]
        text = metric.format(0.25)
        assert label == metric.label
        assert columns == [text, *([f"{text} – {text}"] * metric.interval), *([text] if metric.baseline else [])]
        assert metric.baseline in (None, baseline)
