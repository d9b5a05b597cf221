"""Benchmarks of the field, against oracles written from the definitions of the originals."""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from textless.benchmarks import BENCHMARKS, run_benchmark, show
from textless.benchmarks.layout import matched
from textless.benchmarks.names import NEEDS
from textless.benchmarks.published import PUBLISHED
from textless.benchmarks.zerospeech import band
from textless.errors import CorpusError, TrainingError
from textless.metrics import abx, read_items
from textless.steps import Benchmark, BenchmarkData, Corpus, Encode, Frames, KMeans
from textless.types import UnitContract, Units
from textless.units.dump import UnitRow, finish_dump, write_shard

REFERENCE = Path(__file__).parent / "data" / "zerospeech2021"
CONTRACT = UnitContract(frame_rate=50.0, n_units=30)
RNG = np.random.default_rng(7)


class Weights:
    """Each unit costs itself, `</s>` a half: sums and means rank differently where lengths differ."""

    def nll(self, units: Units) -> np.ndarray:
        return np.append(units.units.astype(np.float64), 0.5)


def write_csv(path: Path, rows: list[dict], columns: list[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]
    path.write_text("".join(line + end for line in lines), newline="")


def write_lines(path: Path, scores: dict[str, float], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} {value}{end}" for name, value in scores.items()), newline="")


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def values(figures: dict) -> dict:
    return {name: figure["value"] for name, figure in figures.items()}


def won(right: float, wrong: float) -> float:
    return 1.0 if right > wrong else 0.5 if right == wrong else 0.0


def coarse(n: int) -> np.ndarray:
    """(n,) scores of few values, so that many tie."""
    return -RNG.integers(1, 5, n).astype(float)


def test_the_table_has_all_names() -> None:
    assert list(BENCHMARKS) == list(NEEDS)
    assert {row["benchmark"] for row in PUBLISHED} <= set(NEEDS)
    assert all(row["score"] in ("mean", "sum", "") for row in PUBLISHED)


# ------------------------------------------------------------------------- numbers that the reference itself prints


def _statistics(figures: dict) -> dict:
    return {name: [f["n"], f["value"], f["std"]] for name, f in figures.items()}


@pytest.mark.parametrize("name", ["swuggy", "sblimp"])
def test_figures_of_zerospeech2021_itself(name: str) -> None:
    """tests/data/zerospeech2021/README.md says what printed them."""
    expected = json.loads((REFERENCE / "expected.json").read_text())[name]
    report = run_benchmark(name, REFERENCE, scores=REFERENCE / "scores")
    figures = report.result["figures"]["given"]
    for one, value in expected.items():
        if isinstance(value, float):
            assert figures[one]["value"] == pytest.approx(value, abs=1e-12)
        else:
            assert list(figures[one]) == list(value)
            for group, numbers in _statistics(figures[one]).items():
                assert numbers == pytest.approx(value[group], abs=1e-12)
    table = f"score_{'lexical' if name == 'swuggy' else 'syntactic'}_dev_by_pair.csv"
    assert report.files[f"given/{table}"] == (REFERENCE / table).read_text()


def test_correlations_of_zerospeech2021_itself(tmp_path: Path) -> None:
    for name, matrix in json.loads((REFERENCE / "matrices.json").read_text()).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(tmp_path / f"{name}.txt", matrix)
    figures = run_benchmark("ssimi", REFERENCE, scores=tmp_path).result["figures"]
    for kind, types in json.loads((REFERENCE / "expected.json").read_text())["ssimi"].items():
        for one, correlations in types.items():
            assert values(figures[kind][one]) == pytest.approx(correlations, abs=1e-9)


# ------------------------------------------------------------------------------------------------------------- sWUGGY


def lexical(root: Path, *, columns: list[str] | None = None, end: str = "\n") -> tuple[list[dict], dict[str, float]]:
    """Words of voices that miss some, in any order; ids beyond 9; every band but one; an unknown frequency."""
    rows = []
    for i, frequency in enumerate([0, 1, 4, 5, 19, 20, 99, 0, 5, "", 7, 20], 1):
        for voice in "ABCD"[: 1 + i % 4]:
            for correct in (1, 0):
                rows.append(
                    {
                        "filename": f"f{len(rows):02d}x",
                        "id": i,
                        "voice": voice,
                        "frequency": frequency if correct else "",
                        "word": f"word{i}" if correct else "",
                        "phones": f"W {i} {correct}",
                        "length": 3 + i % 9 if correct else 99,
                        "correct": correct,
                    }
                )
    rows = [rows[k] for k in RNG.permutation(len(rows))]
    write_csv(root / "lexical/dev/gold.csv", rows, columns or list(rows[0]), end)
    return rows, dict(zip((r["filename"] for r in rows), coarse(len(rows)).tolist(), strict=True))


def lexical_oracle(rows: list[dict], scores: dict[str, float]) -> dict:
    """zerospeech2021 lexical.py: load_data joins on (voice, id), evaluate_by_pair means over voices by id,
    evaluate_by_frequency cuts [0, 1, 5, 20, 100, inf) on the left; leaderboard.py: _score_invocab weights by n.
    """
    voices, about = defaultdict(list), {}
    for w in rows:
        for n in rows:
            if w["correct"] == 1 and n["correct"] == 0 and (w["voice"], w["id"]) == (n["voice"], n["id"]):
                voices[w["id"]].append(won(scores[w["filename"]], scores[n["filename"]]))
                about[w["id"]] = w
    pairs = {i: sum(v) / len(v) for i, v in voices.items()}
    bands, lengths = defaultdict(list), defaultdict(list)
    edges = {"oov": (0, 1), "1-5": (1, 5), "6-20": (5, 20), "21-100": (20, 100), ">100": (100, float("inf"))}
    for i, value in pairs.items():
        lengths[about[i]["length"]].append(value)
        for name, (low, high) in edges.items():
            if about[i]["frequency"] != "" and low <= about[i]["frequency"] < high:
                bands[name].append(value)
    known = [v for name, members in bands.items() if name != "oov" for v in members]
    mean = lambda v: sum(v) / len(v)  # noqa: E731
    return {
        "all": mean(list(pairs.values())),
        "in vocabulary": mean(known),
        "frequency": {name: mean(v) for name, v in bands.items()},
        "length": {str(n): mean(v) for n, v in lengths.items()},
        "pairs": {(about[i]["word"], i): v for i, v in pairs.items()},
    }


@pytest.mark.parametrize(
    ("columns", "end"),
    [
        (None, "\n"),
        (["correct", "length", "phones", "word", "frequency", "voice", "id", "filename"], "\r\n"),
    ],
)
def test_swuggy_is_the_reference_s(tmp_path: Path, columns: list[str] | None, end: str) -> None:
    rows, scores = lexical(tmp_path, columns=columns, end=end)
    write_lines(tmp_path / "scores/lexical/dev.txt", scores, end)
    write_lines(tmp_path / "scores/syntactic/dev.txt", {"elsewhere": 1.0})
    report = run_benchmark("swuggy", tmp_path, scores=tmp_path / "scores")
    expected, figures = lexical_oracle(rows, scores), report.result["figures"]["given"]
    for name in ("all", "in vocabulary"):
        assert figures[name]["value"] == pytest.approx(expected[name], abs=1e-12)
    assert figures["in vocabulary"]["n"] == 9
    bands = values(figures["frequency"])
    assert list(bands) == ["oov", "1-5", "6-20", "21-100", "unknown"]
    del bands["unknown"]
    assert bands == pytest.approx(expected["frequency"], abs=1e-12)
    assert values(figures["length"]) == pytest.approx(expected["length"], abs=1e-12)
    assert list(figures["length"]) == sorted(figures["length"], key=int)
    assert report.result["size"] == {"pairs": len(rows) // 2, "items": 12}
    assert report.result["ranked_by"] == "given"
    by_file = {(r["id"], r["voice"], r["correct"]): scores[r["filename"]] for r in rows}
    ties = sum(by_file[i, v, 0] == by_file[i, v, 1] for i, v in {(i, v) for i, v, _ in by_file})
    assert report.result["ties"] == {"given": ties}
    assert ties
    notes = " ".join(report.result["notes"])
    assert ">100" in notes
    assert "NaN" in notes
    assert "1 words have no frequency" in notes
    # The tables of its score folder, four decimals; no non-word has a text, so that the phones stand for both.
    table = list(csv.reader(report.files["given/score_lexical_dev_by_pair.csv"].splitlines()))
    assert table[0] == ["word", "non word", "score"]
    assert table[1:] == [
        [f"W {i} 1", f"W {i} 0", f"{v:.4f}"] for (_, i), v in sorted(expected["pairs"].items(), key=lambda p: p[0][1])
    ]
    band_rows = {
        r["frequency"]: r for r in csv.DictReader(report.files["given/score_lexical_dev_by_frequency.csv"].splitlines())
    }
    six = [expected["pairs"][f"word{i}", i] for i in (4, 5, 9, 11)]
    assert band_rows["6-20"] == {
        "frequency": "6-20",
        "n": "4",
        "score": f"{np.mean(six):.4f}",
        "std": f"{np.std(six, ddof=1):.4f}",
    }
    assert figures["frequency"]["6-20"]["std"] == pytest.approx(np.std(six, ddof=1))


def test_the_figure_by_voice_is_over_its_recordings(tmp_path: Path) -> None:
    rows, scores = lexical(tmp_path)
    write_lines(tmp_path / "dev.txt", scores)
    voices = defaultdict(list)
    for w in rows:
        for n in rows:
            if w["correct"] > n["correct"] and (w["voice"], w["id"]) == (n["voice"], n["id"]):
                voices[w["voice"]].append(won(scores[w["filename"]], scores[n["filename"]]))
    figures = run_benchmark("swuggy", tmp_path, scores=tmp_path / "dev.txt").result["figures"]["given"]
    assert values(figures["voice"]) == pytest.approx({v: np.mean(w) for v, w in voices.items()}, abs=1e-12)


def test_bands_open_to_the_right() -> None:
    cells = ["0", "1", "4", "5", "19", "20", "99", "100", "1000000", "", "x"]
    assert [band(c) for c in cells] == [
        *("oov", "1-5", "1-5", "6-20", "6-20", "21-100", "21-100", ">100", ">100", "unknown", "unknown")
    ]


def test_a_row_without_a_counterpart_is_left_out_and_said(tmp_path: Path) -> None:
    rows, scores = lexical(tmp_path)
    lone = next(r for r in rows if r["correct"] == 0 and r["id"] == 3)
    rest = [r for r in rows if r is not lone]
    write_csv(tmp_path / "lexical/dev/gold.csv", rest, list(rows[0]))
    word = next(r for r in rest if r["correct"] == 1 and (r["voice"], r["id"]) == (lone["voice"], 3))
    # ZeroSpeech wants a score of each row, also of one that it then leaves out; without it nothing differs.
    for without in ({lone["filename"]}, {lone["filename"], word["filename"]}):
        write_lines(tmp_path / "dev.txt", {k: v for k, v in scores.items() if k not in without})
        result = run_benchmark("swuggy", tmp_path, scores=tmp_path / "dev.txt").result
        value = result["figures"]["given"]["all"]["value"]
        assert value == pytest.approx(lexical_oracle(rest, scores)["all"], abs=1e-12)
        assert any("1 rows of gold.csv have no counterpart" in note for note in result["notes"])
    write_lines(tmp_path / "dev.txt", scores)
    with pytest.raises(CorpusError, match="1 scores are of recordings that the split does not have"):
        run_benchmark("swuggy", tmp_path, scores=tmp_path / "dev.txt")


# --------------------------------------------------------------------------------------------------- sBLIMP, prosAudit


def sentences(path: Path, types: dict[str, list[str]]) -> tuple[list[dict], dict[str, float]]:
    """Ids that begin again in every subtype; voices that miss some. Right and wrong rows in one order, as they come."""
    rows = []
    for kind, subtypes in types.items():
        for subtype in subtypes:
            for i in range(1, 12):
                for voice in "AB"[: 1 + i % 2]:
                    for correct in (1, 0):
                        name = f"s{len(rows):03d}"
                        row = {"filename": name, "id": i, "voice": voice, "type": kind, "subtype": subtype}
                        rows.append(row | {"transcription": f"{subtype} {i} {correct}", "correct": correct})
    write_csv(path, rows, list(rows[0]))
    return rows, dict(zip((r["filename"] for r in rows), coarse(len(rows)).tolist(), strict=True))


def syntactic_oracle(rows: list[dict], scores: dict[str, float], by: tuple[str, ...]) -> dict[str, dict]:
    """zerospeech2021 syntactic.py, load_data: the n-th right row with the n-th wrong one; evaluate_by_pair: means by
    (type, subtype, id). zerospeech/benchmarks tasks/lm/prosody.py, prosodic_by_pair: by (type, id).
    """
    right, wrong = ([r for r in rows if r["correct"] == c] for c in (1, 0))
    groups, types = defaultdict(list), defaultdict(list)
    for r, w in zip(right, wrong, strict=True):
        groups[tuple(r[k] for k in by)].append(won(scores[r["filename"]], scores[w["filename"]]))
    pairs = {key: sum(v) / len(v) for key, v in groups.items()}
    for key, value in pairs.items():
        types[key[0]].append(value)
    return {"pairs": pairs, "types": {k: sum(v) / len(v) for k, v in types.items()}}


def test_sblimp_is_the_reference_s(tmp_path: Path) -> None:
    types = {"agreement": ["a", "b"], "binding": ["c"]}
    rows, scores = sentences(tmp_path / "syntactic/dev/gold.csv", types)
    write_lines(tmp_path / "scores/syntactic/dev.txt", scores)
    expected = syntactic_oracle(rows, scores, ("type", "subtype", "id"))
    shuffled = [rows[k] for k in RNG.permutation(len(rows))]  # pairs do not depend on the order of the rows
    for order in (rows, shuffled):
        write_csv(tmp_path / "syntactic/dev/gold.csv", order, list(rows[0]))
        report = run_benchmark("sblimp", tmp_path, scores=tmp_path / "scores")
        figures = report.result["figures"]["given"]
        pairs = list(expected["pairs"].values())
        assert figures["all"]["value"] == pytest.approx(np.mean(pairs), abs=1e-12)
        assert figures["all"]["n"] == 33
        assert figures["all"]["std"] == pytest.approx(np.std(pairs, ddof=1))
        assert values(figures["type"]) == pytest.approx(expected["types"], abs=1e-12)
        mean = figures["mean over types"]
        assert mean["value"] == pytest.approx(np.mean(list(expected["types"].values())), abs=1e-12)
        assert mean["n"] == 2
        table = list(csv.reader(report.files["given/score_syntactic_dev_by_pair.csv"].splitlines()))
        assert table[0] == ["sentence", "non sentence", "score"]
        body = [[f"{s} {i} 1", f"{s} {i} 0", f"{v:.4f}"] for (_, s, i), v in sorted(expected["pairs"].items())]
        assert table[1:] == body


def test_prosaudit_is_the_reference_s(tmp_path: Path) -> None:
    rows, scores = sentences(tmp_path / "english/dev/gold.csv", {"lexical": ["-"], "protosyntax": ["-"]})
    write_lines(tmp_path / "scores/english_dev.txt", scores)
    report = run_benchmark("prosaudit", tmp_path, scores=tmp_path / "scores")
    expected = syntactic_oracle(rows, scores, ("type", "id"))
    figures = report.result["figures"]["given"]
    assert values(figures["type"]) == pytest.approx(expected["types"], abs=1e-12)
    assert "all" not in figures  # none over both
    table = list(csv.reader(report.files["given/score_prosodic_english_dev_by_pair.csv"].splitlines()))
    assert table[0] == ["id", "type", "score"]
    keys = sorted(expected["pairs"])
    assert table[1:] == [[str(i), kind, f"{expected['pairs'][kind, i]:.4f}"] for kind, i in keys]


# ------------------------------------------------------------------------------------------ StoryCloze, SALMon, SlamKit


def slamkit_oracle(names: list[str], scores: dict[str, float], separator: str = "_") -> float:
    """slamkit modelling_metric.py, ModellingMetricDataset: sorted by the integer before the separator, neighbours."""
    ordered = sorted(names, key=lambda name: int(Path(name).name.split(separator)[0]))
    return float(np.mean([won(scores[a], scores[b]) for a, b in zip(ordered[::2], ordered[1::2], strict=True)]))


def stories(root: Path, folder: str) -> list[str]:
    """Numbers up to 31, with a gap of one whole story: as strings, 10 comes before 2."""
    numbers = [n for n in range(32) if n not in (6, 7)]
    names = [f"{folder}/{n}_{n // 2}_{'in' * (n % 2)}correct" for n in numbers]
    for name in names:
        touch(root / f"{name}.wav")
    return names


@pytest.mark.parametrize(("name", "folder"), [("tstorycloze", "tSC"), ("sstorycloze", "sSC")])
def test_storycloze_is_slamkit_s(tmp_path: Path, name: str, folder: str) -> None:
    other = {"tSC": "sSC", "sSC": "tSC"}[folder]
    names = stories(tmp_path / "both", folder)
    stories(tmp_path / "both", other)
    scores = dict(zip(names, coarse(len(names)).tolist(), strict=True))
    (tmp_path / "given").mkdir()
    for place in (folder, other):
        table = [{"file": Path(n).name + ".wav", "score": v if place == folder else 0.0} for n, v in scores.items()]
        write_csv(tmp_path / f"given/{place}.csv", table, ["file", "score"])
    (tmp_path / "empty").mkdir()
    for data in ("both", "empty"):  # without audio the scores say which recordings there are
        result = run_benchmark(name, tmp_path / data, scores=tmp_path / "given").result
        figures = result["figures"]["given"]
        assert figures["all"]["value"] == pytest.approx(slamkit_oracle(names, scores), abs=1e-12)
        assert figures["all"]["n"] == 15
    assert result["split"] is None


def test_a_story_without_its_counterpart_is_left_out_and_said(tmp_path: Path) -> None:
    names = stories(tmp_path, "tSC")
    (tmp_path / f"{names[1]}.wav").unlink()
    scores = dict(zip(names, coarse(len(names)).tolist(), strict=True))
    write_lines(tmp_path / "scores.txt", {Path(n).name: v for n, v in scores.items()})
    result = run_benchmark("tstorycloze", tmp_path, scores=tmp_path / "scores.txt").result
    assert result["figures"]["given"]["all"]["value"] == slamkit_oracle(names[2:], scores)
    assert result["notes"] == [f"1 recordings have no counterpart and are left out, such as {names[0]}"]


def test_salmon_is_the_original_s(tmp_path: Path) -> None:
    tasks = {"bg_alignment": [0, 2, 10], "gender_consistency": [1, 3, 4, 20], "rir_consistency": [0, 1]}
    scores, expected = {}, {}
    for task, numbers in tasks.items():
        mine = {}
        for n in numbers:
            for side in (1, 0):
                touch(tmp_path / f"tree/{task}/sample_{n}_{side}.wav")
                mine[f"sample_{n}_{side}"] = float(RNG.integers(3))
        write_csv(tmp_path / f"given/{task}.csv", [{"a": k, "b": v} for k, v in mine.items()], ["a", "b"])
        # salmon.py, SalmonDataset: files of a sample sorted, the first is right; main: 1, 0.5, 0
        expected[task] = np.mean([won(mine[f"sample_{n}_0"], mine[f"sample_{n}_1"]) for n in numbers])
        scores |= {f"{task}/{k}": v for k, v in mine.items()}
    (tmp_path / "bare").mkdir()
    for tree in ("tree", "bare"):
        result = run_benchmark("salmon", tmp_path / tree, scores=tmp_path / "given").result
        figures = result["figures"]["given"]
        assert values(figures["task"]) == pytest.approx(expected, abs=1e-12)
        assert "all" not in figures
        assert "there are no pairs of bg_all_consistency" in result["notes"][0]


def test_slamkit_s_trees(tmp_path: Path) -> None:
    scores: dict[str, float] = {}
    expected: dict[str, list[float]] = defaultdict(list)
    for root, separator, folders in (
        ("swuggy_inter", "_", ["a", "b"]),
        ("swuggy_oov", "_", ["a"]),
        ("sblimp", "+", ["x", "y"]),
    ):
        for folder in folders:
            names = [f"{root}/{folder}/{n}{separator}{'zyx'[n % 3]}_{n}" for n in (0, 1, 2, 3, 10, 11, 100, 205)]
            for name in names:
                touch(tmp_path / f"{name}.wav")
                scores[name] = float(RNG.integers(3))
            expected[root].append(slamkit_oracle(names, scores, separator))
    touch(tmp_path / "sblimp/x/300+odd.wav")
    scores["sblimp/x/300+odd"] = 9.0
    write_csv(tmp_path / "scores.csv", [{"name": k, "score": v} for k, v in scores.items()], ["name", "score"])
    swuggy = run_benchmark("swuggy", tmp_path, scores=tmp_path / "scores.csv")
    sets = values(swuggy.result["figures"]["given"]["set"])
    assert sets == pytest.approx({root: np.mean(expected[root]) for root in ("swuggy_inter", "swuggy_oov")})
    assert list(swuggy.files) == ["given/by_pair.csv"]  # no submission file of ZeroSpeech
    sblimp = run_benchmark("sblimp", tmp_path, scores=tmp_path / "scores.csv").result
    assert sblimp["figures"]["given"]["all"]["value"] == pytest.approx(np.mean(expected["sblimp"]))
    assert sblimp["notes"] == ["sblimp/x has 9 recordings, an odd number; the last has no counterpart and is left out"]
    rows = [UnitRow(n, Units(RNG.integers(30, size=4), None, CONTRACT)) for n in scores]
    assert run_benchmark("swuggy", tmp_path, lm=Weights(), rows=rows).result["ranked_by"] == "mean"


# ----------------------------------------------------------------------------------------------------- with a model


def test_a_model_is_ranked_by_the_sum_or_the_mean(tmp_path: Path) -> None:
    """Both are reported; the longer recording wins by the mean here, and loses by the sum."""
    names = stories(tmp_path, "tSC")
    rows = [UnitRow(n, Units(np.full(9 - 6 * (k % 2), 1 + k % 2), None, CONTRACT)) for k, n in enumerate(names)]
    report = run_benchmark("tstorycloze", tmp_path, lm=Weights(), rows=rows)
    # right: 9 units of cost 1 and a half, sum 9.5, mean 0.95; wrong: 3 of cost 2 and a half, sum 6.5, mean 1.625
    figures = report.result["figures"]
    assert report.result["ranked_by"] == "mean"
    assert (figures["mean"]["all"]["value"], figures["sum"]["all"]["value"]) == (1.0, 0.0)
    table = list(csv.DictReader(report.files["mean/by_pair.csv"].splitlines()))
    assert table[0] == {
        "right": names[0],
        "wrong": names[1],
        "score right": "-0.95",
        "score wrong": "-1.625",
        "score": "1",
    }


@pytest.mark.parametrize("ids", ["paths", "stems", "sources"])
def test_units_go_by_path_or_stem_or_source(tmp_path: Path, ids: str) -> None:
    rows, _ = lexical(tmp_path)
    units = {r["filename"]: Units(RNG.integers(30, size=RNG.integers(3, 6)), None, CONTRACT) for r in rows}
    dump = []
    for n, (name, own) in enumerate(units.items()):
        id = {"paths": f"lexical/dev/{name}", "stems": name, "sources": f"row{n}"}[ids]
        dump.append(UnitRow(id, own, source=f"{name}.wav" if ids == "sources" else None))
    dump.append(UnitRow("of another split", dump[0].units))
    report = run_benchmark("swuggy", tmp_path, lm=Weights(), rows=dump)
    sums = {name: -float(own.units.sum() + 0.5) for name, own in units.items()}
    means = {name: total / (len(units[name]) + 1) for name, total in sums.items()}
    for kind, scores in (("sum", sums), ("mean", means)):
        expected, figures = lexical_oracle(rows, scores), report.result["figures"][kind]
        assert figures["all"]["value"] == pytest.approx(expected["all"], abs=1e-12)
        assert figures["in vocabulary"]["value"] == pytest.approx(expected["in vocabulary"], abs=1e-12)
    assert report.result["ranked_by"] == "sum"
    # What it writes for a submission gives the same figures when it is read again.
    report.write(tmp_path / "out")
    again = run_benchmark("swuggy", tmp_path, scores=tmp_path / "out/sum").result["figures"]["given"]
    assert again == report.result["figures"]["sum"]


def test_a_name_that_may_be_several_recordings_is_none() -> None:
    wanted = ["a/x/1", "a/y/1", "b/2", "c/3"]
    there = {"1": "one", "2": "two", "a/c/3": "three", "q/3": "other"}
    assert matched(wanted, there) == {"b/2": "two", "c/3": "three"}
    assert matched(["lexical/dev/n"], {"more/lexical/up/dev/n": 1, "dev/lexical/n": 2}) == {"lexical/dev/n": 1}


def test_long_recordings_are_said(tmp_path: Path, model_set: Path) -> None:
    from textless.lm import load_lm

    names = stories(tmp_path, "tSC")
    lm = load_lm(model_set / "lm")
    sizes = [127, 128, *[10] * (len(names) - 2)]  # with `</s>` the first fills the context of 128, the second does not
    rows = [UnitRow(n, Units(RNG.integers(20, size=k), None, lm.contract)) for n, k in zip(names, sizes, strict=True)]
    rows.append(UnitRow("not of the benchmark", Units(RNG.integers(20, size=999), None, lm.contract)))
    notes = run_benchmark("tstorycloze", tmp_path, lm=lm, rows=rows).result["notes"]
    assert len(notes) == 1
    assert notes[0].startswith("1 recordings are longer than the 128 tokens")


# -------------------------------------------------------------------------------------------------------------- sSIMI


def semantic(root: Path) -> tuple[list[dict], list[dict], dict[str, np.ndarray]]:
    """Two types of two datasets, one of them without relatedness for one pair; voices that miss words."""
    gold, pairs = [], []
    for kind in ("synthetic", "librispeech"):
        for w in range(9):
            for k in range(2 + w % 3):
                row = {"type": kind, "filename": f"{kind[0]}{w}{k}", "word": f"w{w}"}
                gold.append(row | {"voice": "ABC"[(k + w // 6) % 3] if kind == "synthetic" else ""})
        for dataset in ("mturk", "simlex"):
            for n in range(8):
                human = {"similarity": round(RNG.random() * 10, 1), "relatedness": round(RNG.random() * 10, 1)}
                if (dataset, n) == ("simlex", 3):
                    human["relatedness"] = ""
                row = {"type": kind, "dataset": dataset, "word_1": f"w{n}", "word_2": f"w{(n + 3) % 9}"}
                if not (dataset == "mturk" and n > 5):
                    pairs.append(row | human)
    write_csv(root / "semantic/dev/gold.csv", [gold[k] for k in RNG.permutation(len(gold))], list(gold[0]))
    write_csv(root / "semantic/dev/pairs.csv", [pairs[k] for k in RNG.permutation(len(pairs))], list(pairs[0]), "\r\n")
    frames = {f"semantic/dev/{r['type']}/{r['filename']}": RNG.standard_normal((RNG.integers(1, 6), 4)) for r in gold}
    return gold, pairs, frames


def semantic_oracle(gold: list[dict], pairs: list[dict], frames: dict, metric: str, pooling: str) -> dict:
    """zerospeech2021 semantic.py: _compute_distance_{synthetic,librispeech}, _correlation; leaderboard.py,
    SemanticScore.general: mean and mean weighted by pairs.
    """
    from scipy.spatial.distance import cdist
    from scipy.stats import spearmanr

    groups, out = defaultdict(list), defaultdict(dict)
    for p in pairs:
        pool = {}
        for r in gold:
            if r["type"] == p["type"]:
                matrix = frames[f"semantic/dev/{r['type']}/{r['filename']}"]
                pool.setdefault(r["word"], []).append((r["voice"], getattr(np, pooling)(matrix, axis=0)))
        two = [
            cdist([x], [y], metric)[0, 0]
            for v, x in pool[p["word_1"]]
            for w, y in pool[p["word_2"]]
            if p["type"] == "librispeech" or v == w
        ]
        groups[p["type"], p["dataset"]].append((p, sum(two) / len(two)))
    for (kind, dataset), members in groups.items():
        column = "similarity" if any(p["relatedness"] == "" for p, _ in members) else "relatedness"
        rho = spearmanr([-p[column] for p, _ in members], [d for _, d in members])[0]
        out[kind][dataset] = (100 * rho, len(members))
    return out


def test_a_judgement_that_is_no_number_is_refused(tmp_path: Path) -> None:
    _, pairs, frames = semantic(tmp_path)
    pairs[3]["similarity"] = pairs[3]["relatedness"] = "nan"
    write_csv(tmp_path / "semantic/dev/pairs.csv", pairs, list(pairs[0]))
    with pytest.raises(CorpusError, match=r"pairs\.csv, line 5: \w+ is 'nan'; it must be a number"):
        run_benchmark("ssimi", tmp_path, frames={Path(n).name: f for n, f in frames.items()})


@pytest.mark.parametrize("given", ["frames", "txt", "npy"])
def test_ssimi_is_the_reference_s(tmp_path: Path, given: str) -> None:
    gold, pairs, frames = semantic(tmp_path)
    if given == "frames":
        report = run_benchmark("ssimi", tmp_path, frames={Path(n).name: f for n, f in frames.items()})
    else:
        for name, matrix in frames.items():
            file = tmp_path / "given" / f"{name}.{given}"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(file, matrix, fmt="%.18e") if given == "txt" else np.save(file, matrix)
        report = run_benchmark("ssimi", tmp_path, scores=tmp_path / "given")
    assert report.result["ranked_by"] == "euclidean mean"
    for metric in ("euclidean", "cosine"):
        for pooling in ("mean", "max"):
            figures = report.result["figures"][f"{metric} {pooling}"]
            for kind, datasets in semantic_oracle(gold, pairs, frames, metric, pooling).items():
                expected = {dataset: rho for dataset, (rho, _) in datasets.items()}
                assert values(figures[kind]) == pytest.approx(expected, abs=1e-9)
                rhos, counts = zip(*datasets.values(), strict=True)
                assert figures["mean over datasets"][kind]["value"] == pytest.approx(np.mean(rhos), abs=1e-9)
                weighted = figures["weighted by pairs"][kind]
                assert weighted["value"] == pytest.approx(np.average(rhos, weights=counts), abs=1e-9)
                assert weighted["n"] == 14
    assert "* euclidean mean: the benchmark's own choice" in show(report.result)


def test_ssimi_is_higher_where_near_words_are_alike(tmp_path: Path) -> None:
    """The sign: distances that fall as judgements rise give + 100."""
    gold = [{"type": "librispeech", "filename": f"f{k}", "word": f"w{k}", "voice": ""} for k in range(5)]
    pairs = [
        {"type": "librispeech", "dataset": "d", "word_1": "w0", "word_2": f"w{k}", "similarity": -k, "relatedness": ""}
        for k in range(1, 5)
    ]
    write_csv(tmp_path / "semantic/dev/gold.csv", gold, list(gold[0]))
    write_csv(tmp_path / "semantic/dev/pairs.csv", pairs, list(pairs[0]))
    frames = {f"f{k}": np.full((2, 3), float(k)) for k in range(5)}
    result = run_benchmark("ssimi", tmp_path, frames=frames).result
    assert result["figures"]["euclidean mean"]["librispeech"]["d"]["value"] == pytest.approx(100)
    assert "cosine mean" not in result["figures"]  # all point the same way
    assert result["notes"][0] == "cosine mean: all distances of librispeech d are equal; it has no correlation"
    with pytest.raises(CorpusError, match="is the representation constant"):
        run_benchmark("ssimi", tmp_path, frames=dict.fromkeys(frames, frames["f1"]))


# ---------------------------------------------------------------------------------------------------------------- ABX


def items(path: Path, sizes: dict[str, int]) -> None:
    """Items of two speakers and phones in files of these sizes (frames)."""
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for n, (name, size) in enumerate(sizes.items()):
        for k in range(0, size - 6, 3):
            phone, after = "ab"[(k // 3) % 2], "xy"[(k // 3) % 3 % 2]
            lines.append(f"{name} {k / 50:.3f} {(k + 5) / 50:.3f} {phone} s {after} speaker{n % 2}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("layout", ["phonetic", "plain"])
def test_abx_is_the_metric_s(tmp_path: Path, layout: str) -> None:
    sizes = {"u1": 40, "u2": 31, "u3": 35}
    place = tmp_path / ("phonetic/dev-clean" if layout == "phonetic" else "")
    items(place / "dev-clean.item", {**sizes, "gone": 20})
    items(tmp_path / "phonetic/test-clean/test-clean.item", sizes) if layout == "phonetic" else None
    inside = place.relative_to(tmp_path).as_posix() + "/" if layout == "phonetic" else ""
    frames = {f"{inside}{n}": RNG.standard_normal((size, 3)).astype(np.float32) for n, size in sizes.items()}
    units = [UnitRow(n, Units(RNG.integers(4, size=size), None, CONTRACT)) for n, size in frames_sizes(frames)]
    limits = {"any": {"max_items": 10, "max_speakers": 5}, "within": {}}
    if layout == "phonetic":
        limits["within"] = limits["any"]
    for given, files, distance in (
        ({"frames": frames, "frame_rate": 50}, frames, "angular"),
        ({"rows": units}, {r.id: r.units.units for r in units}, "identical"),
    ):
        result = run_benchmark("abx", tmp_path, **given).result
        files = {name.removeprefix(inside): f for name, f in files.items()}
        for context in ("within", "any"):
            figures = result["figures"][f"{context} context"]
            assert list(figures) == ["dev-clean"]
            for speakers in ("within", "across"):
                expected = abx(
                    files,
                    read_items(place / "dev-clean.item"),
                    50,
                    distance,
                    speakers,
                    context=context,
                    **limits[context],
                )
                assert figures["dev-clean"][speakers]["value"] == expected["error"]
                assert figures["dev-clean"][speakers]["n"] == expected["items"]
        assert "dev-clean.item: 1 of its files are not there; their items are left out" in result["notes"]
        assert (result["better"], result["ranked_by"]) == ("lower", "within context")
        limited = "both contexts" if layout == "phonetic" else "any context"
        assert result["notes"][-1].startswith(f"{limited}: at most 10 items")


def frames_sizes(frames: dict[str, np.ndarray]) -> list[tuple[str, int]]:
    return [(name, len(f)) for name, f in frames.items()]


# ---------------------------------------------------------------------------------------------------- command and step


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small sWUGGY with sound, and recordings of another split that cannot be read."""
    root, rows = tmp_path / "zs", []
    for i in (1, 2, 10):
        for voice in "AB":
            for correct in (1, 0):
                name = f"w{i}{voice}{correct}"
                sound(root / f"lexical/dev/{name}.wav", 0.3 + 0.02 * len(rows))
                rows.append({"filename": name, "id": i, "voice": voice, "frequency": i, "correct": correct})
    write_csv(root / "lexical/dev/gold.csv", rows, list(rows[0]))
    touch(root / "lexical/test/broken.wav")
    return root


def sound(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * RNG.standard_normal(int(16000 * seconds)), 16000, subtype="PCM_16")


@pytest.fixture
def benchmark(textless_command, model_set, monkeypatch, tmp_path):
    """Run `textless benchmark`; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("TEXTLESS_CACHE", str(tmp_path / "cache"))

    def run(*args: object, model: Path | None = model_set) -> tuple[int, str, str]:
        return textless_command("benchmark", *args, *(["--model", str(model)] if model else []))

    return run


def test_the_command_encodes_once_and_prints_a_table(benchmark, tree: Path, tmp_path: Path, monkeypatch) -> None:
    from textless.units.tokenizer import Tokenizer

    code, out, err = benchmark("swuggy", tree, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "sWUGGY, dev (Nguyen et al. 2020, arXiv:2011.11588)"
    assert max(map(len, out.splitlines())) <= 80
    assert "SpidR (L6)" in out
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["ranked_by"] == "sum"
    assert out == (tmp_path / "out/table.txt").read_text()
    lines = (tmp_path / "out/sum/lexical/dev.txt").read_text().splitlines()
    assert sorted(line.split(" ")[0] for line in lines) == sorted(p.stem for p in (tree / "lexical/dev").glob("*.wav"))
    monkeypatch.setattr(Tokenizer, "measure", lambda *_: pytest.fail("encoded again"))
    code, _, _ = benchmark("swuggy", tree, "-o", tmp_path / "out.json")
    assert code == 0
    assert json.loads((tmp_path / "out.json").read_text()) == result
    code, out, _ = benchmark("swuggy", tree, "-o", "-")
    assert json.loads(out) == result
    # The same from the scores that it wrote.
    code, _, _ = benchmark("swuggy", tree, "--scores", tmp_path / "out/sum", "-o", tmp_path / "again.json", model=None)
    assert code == 0
    assert json.loads((tmp_path / "again.json").read_text())["figures"]["given"] == result["figures"]["sum"]
    code, _, err = benchmark("swuggy", tree, "--split", "test")
    assert code == 2
    assert "a split whose gold table is not public cannot be scored here" in err


def test_abx_and_ssimi_by_the_command(benchmark, textless_command, tmp_path: Path, monkeypatch) -> None:
    from textless.units.encoders.hubert_encoder import HubertEncoder

    gold, pairs, _ = semantic(tmp_path / "zs")
    for row in gold:
        sound(tmp_path / f"zs/semantic/dev/{row['type']}/{row['filename']}.wav", 0.2 + 0.01 * RNG.integers(10))
    items(tmp_path / "zs/phonetic/dev-clean/dev-clean.item", {"u1": 40, "u2": 30})
    for name in ("u1", "u2"):
        sound(tmp_path / f"zs/phonetic/dev-clean/{name}.wav", 0.9)
    outs = {}
    for name in ("ssimi", "abx"):
        code, outs[name], err = benchmark(name, tmp_path / "zs")
        assert (code, err) == (0, "")
        assert max(map(len, outs[name].splitlines())) <= 80
    assert "100 × Spearman, higher is better, chance 0" in outs["ssimi"]
    assert "error, %, lower is better, chance 50" in outs["abx"]
    with monkeypatch.context() as patch:
        patch.setattr(HubertEncoder, "encode_batch", lambda *_: pytest.fail("encoded again"))
        for name, out in outs.items():
            assert benchmark(name, tmp_path / "zs")[1] == out
    assert len(pairs) == 28
    code, _, err = textless_command("encode", tmp_path / "zs/phonetic/dev-clean", "-o", tmp_path / "units")
    assert code == 0, err
    code, out, err = benchmark("abx", tmp_path / "zs", "--units", tmp_path / "units", model=None)
    assert (code, err) == (0, "")
    assert "distance: identical" in out
    code, _, err = benchmark("ssimi", tmp_path / "zs", "--units", tmp_path / "units", model=None)
    assert (code, err.count("\n")) == (2, 1)
    assert "ssimi measures frames of an encoder" in err


def test_the_step_and_the_command_give_equal_numbers(
    benchmark, textless_command, tree: Path, tmp_path: Path, model_set
):
    assert benchmark("swuggy", tree, "-o", tmp_path / "out.json")[0] == 0
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text(
        f"""
steps:
  swuggy: {{step: benchmark_data, name: swuggy, folder: {tree}}}
  audio: {{step: corpus, manifest: "{tree}/lexical/dev/*.wav"}}
  encoder: {{step: model, file: {model_set}/encoder}}
  codebook: {{step: model, file: {model_set}/codebook}}
  lm: {{step: model, file: {model_set}/lm}}
  units: {{step: encode, audio: $audio, encoder: $encoder, codebook: $codebook}}
  scored: {{step: benchmark, data: $swuggy, units: $units, lm: $lm}}
"""
    )
    code, _out, err = textless_command("run", pipeline, "--store", tmp_path / "store")
    assert code == 0, err
    result = next((tmp_path / "store").rglob("result.json"))
    assert json.loads(result.read_text()) == json.loads((tmp_path / "out.json").read_text())
    assert (result.parent / "sum/lexical/dev.txt").is_file()


@pytest.mark.parametrize(
    ("name", "given", "what"),
    [
        ("swuggy", {}, "give units and lm, and no frames"),
        ("swuggy", {"units": "encode"}, "give units and lm, and no frames"),
        ("abx", {}, "give one of the two, and no lm"),
        ("ssimi", {"units": "encode"}, "ssimi measures frames of an encoder"),
        ("ssimi", {"frames": "some"}, "ssimi needs all"),
    ],
)
def test_a_step_without_what_it_needs(name: str, given: dict[str, str], what: str) -> None:
    audio = Corpus(manifest="x")
    steps = {
        "encode": Encode(
            audio=audio, encoder="mfcc", codebook=KMeans(frames=Frames(audio=audio, encoder="mfcc"), n_units=5)
        ),
        "some": Frames(audio=audio, encoder="mfcc", fraction=0.5),
    }
    with pytest.raises(TrainingError, match=what):
        Benchmark(data=BenchmarkData(name=name, folder="x"), **{field: steps[step] for field, step in given.items()})


# ----------------------------------------------------------------------------------------------------------- bad input


def _no_column(t: Path) -> None:
    gold = t / "zs/lexical/dev/gold.csv"
    gold.write_text(gold.read_text().replace("voice", "speaker", 1))


def _no_row(t: Path) -> None:
    gold = t / "zs/lexical/dev/gold.csv"
    gold.write_text(gold.read_text().splitlines()[0] + "\n")


def _short_row(t: Path) -> None:
    gold = t / "zs/lexical/dev/gold.csv"
    gold.write_text(gold.read_text() + "w99,9\n")


def _twice(t: Path) -> None:
    gold = t / "zs/lexical/dev/gold.csv"
    gold.write_text(gold.read_text() + gold.read_text().splitlines()[1] + "\n")


def _correct(t: Path) -> None:
    gold = t / "zs/lexical/dev/gold.csv"
    gold.write_text(gold.read_text().replace(",1\n", ",yes\n", 1))


def _extra_name(t: Path) -> None:
    gold = t / "zs/lexical/dev/gold.csv"
    gold.write_text(gold.read_text() + "nowhere1,77,A,1,1\nnowhere0,77,A,,0\n")


@pytest.mark.parametrize(
    ("change", "args", "what"),
    [
        (None, ["sblimp", "zs"], "zs/syntactic/dev/gold.csv: no such file"),
        (None, ["salmon", "zs"], "is this the folder of another benchmark?"),
        (None, ["abx", "zs"], "holds no item file"),
        (None, ["ssimi", "zs"], "semantic/dev/pairs.csv: no such file"),
        (None, ["swuggy", "none"], "no such"),
        (None, ["swugy", "zs"], "no benchmark 'swugy'; did you mean 'swuggy'?"),
        (None, ["swuggy", "zs", "--scores", "none.txt"], "none.txt: no such file or folder of scores"),
        (None, ["swuggy", "zs", "--scores", "s.txt", "--units", "u"], "give one of the two"),
        (_no_column, ["swuggy", "zs"], "column voice is missing; it has filename, id, speaker, frequency, correct"),
        (_no_row, ["swuggy", "zs"], "gold.csv: holds no row"),
        (_short_row, ["swuggy", "zs"], "gold.csv, line 14: has fewer fields than the header"),
        (_twice, ["swuggy", "zs"], "gold.csv, line 14: a second row with correct 1 for voice A, id 1"),
        (_correct, ["swuggy", "zs"], "gold.csv, line 2: correct is 'yes'; it must be 0 or 1"),
        (_extra_name, ["swuggy", "zs"], "2 of 14 recordings have no units, such as lexical/dev/nowhere1"),
    ],
)
def test_bad_input_is_one_line(benchmark, tree: Path, tmp_path: Path, monkeypatch, change, args, what) -> None:
    monkeypatch.chdir(tmp_path)
    if change:
        change(tmp_path)
    code, out, err = benchmark(*args, "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert what in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("w1A1 -1\nw1A1 -2\n", "line 2: w1A1 comes twice"),
        ("w1A1 -1\nw1A0 nan\n", "line 2: the score of w1A0 is NaN"),
        ("w1A1 -1\nw1A0\n", "line 2: expected a name and a score, not 'w1A0'"),
        ("w1A1 -1 -2\n", "line 1: expected a name and a score"),
        ("w1A1 -1\n", "11 of 12 recordings have no score, such as lexical/dev/w1A0"),
        ("", "holds no score"),
    ],
)
def test_bad_scores_are_one_line(benchmark, tree: Path, tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "dev.txt").write_text(text)
    code, out, err = benchmark("swuggy", tree, "--scores", tmp_path / "dev.txt", model=None)
    assert (code, out) == (2, "")
    assert what in err
    assert err.count("\n") == 1


def test_units_of_another_codebook_and_a_set_without_a_language_model(benchmark, tree, tmp_path, model_set) -> None:
    other = UnitContract(frame_rate=50.0, n_units=20, codebook="0" * 64)
    rows = [
        UnitRow(f"lexical/dev/{p.stem}", Units(np.array([1, 2]), None, other)) for p in tree.rglob("lexical/dev/*.wav")
    ]
    (tmp_path / "dump/data").mkdir(parents=True)
    write_shard(tmp_path / "dump/data/0.parquet", rows, contract=other)
    finish_dump(tmp_path / "dump", contract=other)
    code, _, err = benchmark("swuggy", tree, "--units", tmp_path / "dump")
    assert (code, err.count("\n")) == (2, 1)
    assert "codebook" in err
    shutil.copytree(model_set, tmp_path / "set", ignore=shutil.ignore_patterns("lm"))
    code, _, err = benchmark("swuggy", tree, model=tmp_path / "set")
    assert (code, err.count("\n")) == (2, 1)
    assert "lm" in err
