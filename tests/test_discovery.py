"""Units mapped to phones, and discovered terms, against published implementations.

`data/discophon/random.json`: random files, and what discophon 0.2.0 (its functions cooccurrence_matrix,
phone_assignments, phone_error_rate, phone_segmentation and pnmi) gives for them in Python 3.12. Of each phone the file
has its length in steps of 10 ms. `data/tde/random.json`: random phones, words and classes, and what bootphon/tdev2 at
0361afd gives for them.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations, groupby

import numpy as np
import pytest
from test_robustness import naive

from conftest import ROOT
from textless.errors import CorpusError
from textless.metrics.alignments import read_alignments
from textless.metrics.boundaries import BoundaryScores, compare_boundaries
from textless.metrics.discovery import unit_discovery
from textless.metrics.labels import read_labels
from textless.metrics.term_discovery import read_segments, terms

DISCOPHON = json.loads((ROOT / "tests/data/discophon/random.json").read_text())
TDE = json.loads((ROOT / "tests/data/tde/random.json").read_text())
NAMES = {
    "per": "per",
    "precision": "boundary_precision",
    "recall": "boundary_recall",
    "f1": "boundary_f1",
    "r_val": "boundary_r_value",
    "os": "boundary_over_segmentation",
}


def aligned(runs):
    at, out = 0, []
    for phone, length in runs:
        out.append((at / 100, (at + length) / 100, phone))
        at += length
    return out


def of(case, **options):
    units = {name: np.array(row) for name, row in case["units"].items()}
    phones = {name: aligned(runs) for name, runs in case["phones"].items()}
    return unit_discovery(units, phones, n_units=case["n_units"], frame_rate=1000 / case["step"], **options)


@pytest.mark.parametrize("case", DISCOPHON, ids=str)
def test_scores_are_those_of_discophon(case):
    scores = case["scores"]
    found = of(case, n_phones=case["n_phones"] if "one-to-one" in scores else None)
    assert found["pnmi_10ms"] == pytest.approx(scores["pnmi"], abs=1e-12)
    for kind in scores.keys() - {"pnmi"}:
        for theirs, ours in NAMES.items():
            value = found.get(f"{kind.replace('-', '_')}_{ours}_same_files")
            assert value == pytest.approx(scores[kind][theirs], abs=1e-12)


def oracle(dev, test, n_units):
    """PER by a many-to-one mapping of dev, from the definition (discophon, docs/benchmark/tasks.md)."""
    counts = Counter()
    for units, phones in dev:
        counts.update(zip(np.repeat(units, 2).tolist(), phones, strict=False))
    often = Counter(phone for _, phones in dev for phone in phones)
    best = {u: max(often, key=lambda p: (counts[u, p], often[p])) for u in range(n_units)}
    edits = length = 0
    for units, phones in test:
        gold = [p for p, _ in groupby(phones)]
        edits += naive([p for p, _ in groupby(best[u] for u in units.tolist())], gold)
        length += len(gold)
    return edits / length


def test_a_mapping_fitted_on_other_files():
    rng = np.random.default_rng(1)

    def files(letter, n):
        out = {}
        for k in range(n):
            runs = [[str(p), int(rng.integers(2, 9)) * 2] for p in rng.choice(list("SABC"), 20)]
            phones = [p for p, length in runs for _ in range(length)]
            units = np.array(["SABC".index(p) for p in phones[::2]]) * 2
            units = np.where(rng.random(len(units)) < 0.3, rng.integers(0, 8, len(units)), units)
            out[f"{letter}{k}"] = units, runs, phones
        return out

    dev, test = files("d", 3), files("t", 4)
    dev_units, dev_phones = ({k: f(v) for k, v in dev.items()} for f in (lambda v: v[0], lambda v: aligned(v[1])))
    units, phones = ({k: f(v) for k, v in test.items()} for f in (lambda v: v[0], lambda v: aligned(v[1])))
    found = unit_discovery(units, phones, n_units=9, fit=(dev_units, dev_phones))
    pairs = [[(v[0], v[2]) for v in part.values()] for part in (dev, test)]
    assert found["many_to_one_per"] == oracle(pairs[0], pairs[1], 9)
    assert found["many_to_one_per_same_files"] == oracle(pairs[1], pairs[1], 9)
    assert found["many_to_one_per"] != found["many_to_one_per_same_files"]
    assert found["many_to_one_per_low"] < found["many_to_one_per"] < found["many_to_one_per_high"]
    assert not any("one_to_one" in key for key in found)  # nine units, four phones


def test_windows_part_at_whole_milliseconds():
    gold = np.array([100, 125])  # the midpoint is 112, the earlier's
    assert compare_boundaries(np.array([112]), gold) == BoundaryScores(1, 1, 2)
    assert compare_boundaries(np.array([112, 113]), gold).hits == 2
    assert compare_boundaries(np.array([80, 145]), gold).hits == 2  # both ends belong to a window
    assert compare_boundaries(np.array([79, 146]), gold).hits == 0
    assert compare_boundaries(np.array([95, 105]), gold) == BoundaryScores(1, 2, 2)
    assert BoundaryScores(1, 9, 2).r_value < 0
    for score in ("recall", "over_segmentation", "r_value"):
        with pytest.raises(CorpusError, match="the gold sequences have no boundary"):
            getattr(BoundaryScores(0, 3, 0), score)
    with pytest.raises(CorpusError, match="no boundary is predicted"):
        _ = BoundaryScores(0, 0, 3).precision


A = [(0.0, 0.1, "a"), (0.1, 0.2, "b")]


def test_where_nothing_is_labelled_is_silence():
    units = {"x": np.array([1, 1, 2, 1, 3])}
    found = unit_discovery(units, {"x": [(0.04, 0.06, "a"), (0.08, 0.1, "b")]}, n_units=4)
    assert found["many_to_one_per_same_files"] == 0
    labels = [(0, 0.04, "SIL"), (0.04, 0.06, "a"), (0.06, 0.08, "SIL"), (0.08, 0.1, "b")]
    whole = unit_discovery(units, {"x": labels}, n_units=4)
    assert found == whole


@pytest.mark.parametrize(
    ("units", "alignment", "rate", "what"),
    [
        ([0] * 12, A, 50, "its phones end at 0.2 s and its units at 0.24 s"),
        ([0] * 8, A, 50, "its phones end at 0.2 s and its units at 0.16 s"),
        ([0] * 10, [*A, (0.15, 0.2, "c")], 50, "'c' at 0.15 s begins before"),
        ([0] * 15, A, 75, "a unit lasts no multiple of 10 ms"),
        ([], A[:0], 50, "x: there are no units"),
        ([7] * 10, A, 50, "unit 7 is outside"),
        ([0] * 10, [(0, 0.2, "a")], 50, "the same phone"),
    ],
)
def test_what_cannot_be_scored(units, alignment, rate, what):
    with pytest.raises(CorpusError, match=what):
        unit_discovery({"x": np.array(units, int)}, {"x": alignment}, n_units=4, frame_rate=rate)


def test_discophons_alignments(tmp_path):
    path = tmp_path / "alignment-eng-dev.txt"
    path.write_text("#file onset offset #phone\nb 0 0.1 SIL\nb 0.1 0.23 ə\na 0.00 0.05 t\n")
    assert read_alignments(path) == {"b": [(0, 0.1, "SIL"), (0.1, 0.23, "ə")], "a": [(0, 0.05, "t")]}
    assert read_alignments(tmp_path) == read_alignments(path)
    path.write_text("#file onset offset #phone\nb 0 0.1 SIL\nb 0.12 0.23 ə\n")
    with pytest.raises(CorpusError, match=r"dev.txt, line 3: begins at 0.12 s, not where the line before ends"):
        read_alignments(path)
    path.write_text("#file onset offset #phone\nb 0 0.1\n")
    with pytest.raises(CorpusError, match="line 2: a line is file, onset, offset"):
        read_alignments(path)


def trees(tmp_path, case):
    for name in ("phn", "wrd", "classes"):
        (tmp_path / f"x.{name}").write_text(case[name])
    return (
        read_segments(tmp_path / "x.classes"),
        read_alignments(tmp_path / "x.phn"),
        read_labels(tmp_path / "x.wrd", "words"),
    )


@pytest.mark.parametrize("case", range(len(TDE)))
def test_terms_are_those_of_tdev2(tmp_path, case):
    found = terms(*trees(tmp_path, TDE[case]))
    for name, value in TDE[case]["scores"].items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_edit_distance_and_coverage_from_the_definition(tmp_path):
    """tde/measures/ned.py and coverage.py, for fragments whose phones are all inside."""
    rng = np.random.default_rng(0)
    labels = [str(p) for p in rng.choice(["SIL", "SPN", "a", "b"], 60)]
    phones = {"f": [(k / 10, (k + 1) / 10, p) for k, p in enumerate(labels)]}
    spans = [(int(k), int(k + n)) for k, n in zip(rng.integers(0, 50, 30), rng.integers(1, 6, 30), strict=True)]
    classes = {str(c): [("f", a / 10, b / 10) for a, b in spans[c::4]] for c in range(4)}
    distances = []
    for c in range(4):
        for x, y in combinations(spans[c::4], 2):
            s, t = ([p for p in labels[a:b] if p != "SIL"] for a, b in (x, y))
            distances.append(naive(s, t) / max(len(s), len(t)) if s or t else 1)
    found = terms(classes, phones)
    assert found["ned"] == pytest.approx(np.mean(distances))
    spoken = {k for k, p in enumerate(labels) if p not in ("SIL", "SPN")}
    assert found["coverage"] == len(spoken & {k for a, b in spans for k in range(a, b)}) / len(spoken)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Class 1\nf 0 1\n\nClass 1:\nf 1 2\n", "line 4: a class needs a name of its own"),
        ("f 0 1\n", "line 1: belongs to no class"),
        ("Class 1\nf 1 1\n", "line 2: a segment is file, onset, offset"),
        ("Class 1\nf 1\n", "line 2: a segment is"),
        ("Class 1\n\n", "holds no segments"),
    ],
)
def test_classes_that_are_malformed(tmp_path, text, what):
    (tmp_path / "x.classes").write_text(text)
    with pytest.raises(CorpusError, match=what):
        read_segments(tmp_path / "x.classes")


def test_terms_of_other_files():
    phones = {"f": A}
    with pytest.raises(CorpusError, match="g: has segments but no phones"):
        terms({"1": [("g", 0, 1)]}, phones)
    with pytest.raises(CorpusError, match="no segment covers a phone"):
        terms({"1": [("f", 5, 6)]}, phones)
    with pytest.raises(CorpusError, match="f: has segments but no words"):
        terms({"1": [("f", 0, 1)]}, phones, {"g": A})
    with pytest.raises(CorpusError, match="no phone but silence"):
        terms({"1": [("f", 0, 1)]}, {"f": [(0, 1, "SIL")]})


def test_labels_without_a_length_say_nothing():
    segments = {"1": [("f", 0, 1), ("f", 1, 2)]}
    phones, words = [(0, 1, "a"), (1, 2, "b")], [(0, 1, "u"), (1, 2, "v")]
    scores = terms(segments, {"f": phones}, {"f": words})
    assert terms(segments, {"f": [*phones, (0.5, 0.5, "x")]}, {"f": [*words, (0.2, 0.2, "w")]}) == scores
