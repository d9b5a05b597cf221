import json

import numpy as np
import pytest
import soundfile
from sklearn.metrics import mutual_info_score

from textless.engine.store import Store
from textless.engine.yaml import load_pipeline
from textless.errors import ContractError, CorpusError, PipelineError
from textless.metrics.alignments import frame_phones, read_alignments
from textless.metrics.bitrate import unit_cost
from textless.metrics.items import Item
from textless.metrics.pnmi import unit_quality
from textless.metrics.units import measure_frames, measure_units
from textless.steps import STEPS
from textless.types import UnitContract, Units
from textless.units.dump import UnitRow


def test_frame_phones_at_the_middle_of_the_window():
    phones = frame_phones([(0.0, 0.05, "a"), (0.05, 0.1, "b"), (0.2, 9.0, "c")], 12, frame_rate=50)
    middles = [t / 50 + 0.0125 for t in range(12)]
    want = ["a" if m < 0.05 else "b" if m < 0.1 else "c" if m >= 0.2 else None for m in middles]
    assert phones == want


def test_figures_equal_a_naive_computation():
    rng = np.random.default_rng(0)
    phones = rng.integers(0, 4, 5000)
    units = np.where(rng.random(5000) < 0.6, phones * 2, rng.integers(0, 8, 5000))
    q = unit_quality([(units, [str(p) for p in phones])], n_units=10)
    entropy = -sum(p * np.log(p) for p in np.bincount(phones) / 5000)
    assert q["pnmi"] == pytest.approx(mutual_info_score(phones, units) / entropy, rel=1e-9)
    assert q["phone_purity"] == pytest.approx(sum(np.bincount(phones[units == u]).max() for u in set(units)) / 5000)
    assert q["cluster_purity"] == pytest.approx(sum(np.bincount(units[phones == p]).max() for p in set(phones)) / 5000)
    assert q["active_units"] == 8
    assert 0 < q["pnmi_chance"] < 0.02 < q["pnmi"]


def test_frames_without_a_phone_are_left_out():
    q = unit_quality([(np.array([0, 1, 2, 0]), ["a", None, "b", None])], n_units=3)
    assert q["frames"] == 2
    assert q["pnmi"] == pytest.approx(1)
    with pytest.raises(CorpusError, match="no frame has both"):
        unit_quality([(np.array([0]), [None])], n_units=3)


def test_read_alignments(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\tstart\tend\tphone\nx\t0\t0.5\tA"\nx\t0.5\t1\tB\n')
    assert read_alignments(path) == {"x": [(0.0, 0.5, 'A"'), (0.5, 1.0, "B")]}
    path.write_text("id\tstart\n")
    with pytest.raises(CorpusError, match="column end, phone is missing"):
        read_alignments(path)
    path.write_text("id\tstart\tend\tphone\nx\t0\t1\ta\nx\tone\t2\tb\n")
    with pytest.raises(CorpusError, match="line 3: start and end must be seconds"):
        read_alignments(path)
    for time in ("nan", "inf", "-inf", "1e308", "-1e308"):
        path.write_text(f"id\tstart\tend\tphone\nx\t0\t1\ta\nx\t1\t{time}\tb\n")
        with pytest.raises(CorpusError, match="line 3: start and end must be seconds"):
            read_alignments(path)
    with pytest.raises(CorpusError, match="cannot be read as an alignment"):
        read_alignments(tmp_path / "none.tsv")


def test_chance_is_what_shuffled_labels_give():
    rng = np.random.default_rng(0)
    phones = rng.integers(0, 4, 20000)
    q = unit_quality([(phones, [str(p) for p in phones])], n_units=4)
    assert q["pnmi"] == q["phone_purity"] == q["cluster_purity"] == pytest.approx(1)
    assert q["phone_purity_chance"] == pytest.approx(0.25, abs=0.02)
    assert q["cluster_purity_chance"] == pytest.approx(0.25, abs=0.02)
    assert q["pnmi_chance"] < 0.001
    with pytest.raises(CorpusError, match="the same phone"):
        unit_quality([(phones, ["a"] * len(phones))], n_units=4)


def test_cost_of_units():
    """Frames 0 0 1 1 1 1 2 3 at 50 Hz: entropy 1.75 bits; four runs in 160 ms, 2 bits each."""
    c = unit_cost([row("f", [0, 0, 1, 1, 1, 1, 2, 3]).units], n_units=8)
    assert c["active_units"] == 4
    assert c["perplexity"] == pytest.approx(2**1.75)
    assert c["segment_ms"] == pytest.approx(40)
    assert c["units_per_second"] == pytest.approx(25)
    assert c["bitrate_codebook"] == pytest.approx(150)
    assert c["bitrate_frames"] == pytest.approx(1.75 * 50)
    assert c["bitrate"] == pytest.approx(2 * 25)
    assert c["seconds"] == pytest.approx(0.16)
    assert unit_cost([row("f", [3, 3]).units])["bitrate"] == 0
    with pytest.raises(CorpusError, match="no units"):
        unit_cost([])
    with pytest.raises(ContractError, match="frame rate of these units is unknown"):
        unit_cost([Units.of([1, 2])])


def row(name, frames, speaker=None):
    return UnitRow(
        id=name, units=Units.from_frames(np.array(frames), UnitContract(frame_rate=50.0, n_units=8)), speaker=speaker
    )


def corpus():
    """Two speakers of three files each, phones a and b between p and q in turn, units that tell all of them apart; and
    the alignments.
    """
    rows, alignments = [], {}
    for speaker in "st":
        for k in range(3):
            name = f"{speaker}{k}"
            phones = [phone for middle in "aabb" for phone in ("p", middle, "q")]
            alignments[name] = [(i / 10, (i + 1) / 10, phone) for i, phone in enumerate(phones)]
            rows.append(row(name, np.repeat(["pqab".index(phone) for phone in phones], 5), speaker))
    return rows, alignments


def test_units_are_measured_in_one_go():
    rows, alignments = corpus()
    m = measure_units(rows, alignments=alignments)
    assert m["pnmi"] == m["phone_purity"] == pytest.approx(1, abs=0.1)
    assert m["abx_within"] == m["abx_across"] == 0
    assert m["abx_within_chance"] == pytest.approx(0.5, abs=0.2)
    assert m["files"] == 6
    assert {"bitrate", "perplexity", "segment_ms", "active_units"} <= set(m)
    assert set(measure_units(rows)) == set(unit_cost([r.units for r in rows], n_units=8)) | {"files"}


def test_items_take_the_place_of_the_alignments_triphones():
    rows, _ = corpus()
    items = [Item(r.id, 0.1, 0.2, "a", "p", "q", r.speaker) for r in rows] + [
        Item(r.id, 0.7, 0.8, "b", "p", "q", r.speaker) for r in rows
    ]
    m = measure_units(rows, items=items)
    assert m["abx_within"] == m["abx_across"] == 0
    assert "pnmi" not in m
    with pytest.raises(CorpusError, match="none of the 1 items is in these files"):
        measure_units(rows, items=[Item("x", 0, 1, "a", "p", "q", "s")])


def test_where_abx_has_no_items_the_rest_is_measured():
    rows, alignments = corpus()
    with pytest.warns(UserWarning, match="the speakers are not known"):
        m = measure_units([row(r.id, r.units.frames()) for r in rows], alignments=alignments)
    assert "pnmi" in m
    assert "abx_within" not in m
    with pytest.warns(UserWarning, match="no ABX across speakers"):
        m = measure_units(rows[:3], alignments=alignments)
    assert "abx_within" in m
    assert "abx_across" not in m


def test_units_of_other_files_or_codebooks():
    rows, alignments = corpus()
    with pytest.raises(CorpusError, match="do the ids of units and alignment agree"):
        measure_units(rows, alignments={f"other-{k}": v for k, v in alignments.items()})
    other = UnitRow(id="z", units=Units.of([1, 2], UnitContract(frame_rate=50.0, n_units=9)))
    with pytest.raises(ContractError, match="n_units is 9 in z but 8 in s0"):
        measure_units([*rows, other])


def test_frames_are_measured_as_units_are():
    rows, alignments = corpus()
    files = {r.id: np.eye(8)[r.units.frames()] for r in rows}
    speakers = {r.id: r.speaker for r in rows}
    m = measure_frames(files, frame_rate=50, alignments=alignments, speakers=speakers)
    assert m["frame_abx_within"] == m["frame_abx_across"] == 0
    units = measure_units(rows, alignments=alignments)
    assert {k.removeprefix("frame_"): v for k, v in m.items()} == {
        k: v for k, v in units.items() if k.startswith("abx")
    }


def test_figures_as_steps(tmp_path):
    """The three steps on a minute of noise: figures in manifests, and files that cannot be read are failures of their
    own.
    """
    rng = np.random.default_rng(0)
    (tmp_path / "audio.tsv").write_text(
        "id\tpath\tspeaker\n" + "".join(f"{s}{k}\t{s}{k}.wav\t{s}\n" for s in "st" for k in range(2))
    )
    lines = ["id\tstart\tend\tphone"]
    for s in "st":
        for k in range(2):
            soundfile.write(tmp_path / f"{s}{k}.wav", 0.1 * rng.standard_normal(32000), 16000)
            lines += [f"{s}{k}\t{i / 10}\t{(i + 1) / 10}\t{p}" for i, p in enumerate("paqpaqpbqpbqpaqpbq")]
    (tmp_path / "phones.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "long.tsv").write_text("\n".join([*lines, *(f"{s}{k}\t1.8\t1.98\tSIL" for s in "st" for k in (0, 1))]))
    (tmp_path / "splits.tsv").write_text("id\tsplit\ns0\tdev\nt0\tdev\ns1\ttest\nt1\ttest\n")
    there = [f"s{k} {onset} {onset + 0.3} {phone} p q s" for k in range(2) for onset, phone in ((0, "a"), (0.6, "b"))]
    (tmp_path / "x.item").write_text("\n".join(["#file", *there]) + "\n")
    (tmp_path / "p.yaml").write_text(
        "steps:\n"
        "  corpus: {manifest: audio.tsv}\n"
        "  phones: {step: alignments, file: phones.tsv}\n"
        "  long:   {step: alignments, file: long.tsv}\n"
        "  items:  {file: x.item}\n"
        "  mfcc:   {step: frames, audio: $corpus, encoder: mfcc}\n"
        "  km:     {step: kmeans, frames: $mfcc, n_units: 8}\n"
        "  units:  {step: assign, frames: $mfcc, codebook: $km}\n"
        "  bare:   {step: quality, units: $units}\n"
        "  worth:  {step: quality, units: $units, alignments: $phones, items: $items}\n"
        "  abx:    {frames: $mfcc, alignments: $phones, distance: euclidean}\n"
        "  dev:    {manifest: audio.tsv, step: corpus, split: dev, splits: splits.tsv}\n"
        "  test:   {manifest: audio.tsv, step: corpus, split: test, splits: splits.tsv}\n"
        "  devu:   {step: encode, audio: $dev, encoder: mfcc, codebook: $km}\n"
        "  testu:  {step: encode, audio: $test, encoder: mfcc, codebook: $km}\n"
        "  fitted: {step: quality, units: $testu, alignments: $long, fit: $devu, fit_alignments: $long}\n"
        "  robust: {step: robustness, audio: $corpus, encoder: mfcc, codebook: $km}\n"
    )
    store = Store(tmp_path / "store")
    graph = load_pipeline(tmp_path / "p.yaml", STEPS)
    with pytest.warns(UserWarning, match="no ABX across speakers"):
        graph.run(store, ["bare", "worth", "abx", "robust"])
    metrics = {name: store.manifest(graph.steps[name])["metrics"] for name in ("bare", "worth", "abx", "robust")}
    graph.run(store, ["fitted"])
    fitted = store.manifest(graph.steps["fitted"])["metrics"]
    assert fitted["many_to_one_per_same_files"] != fitted["many_to_one_per"]
    assert "pnmi" not in metrics["bare"]
    assert {"pnmi", "pnmi_chance", "abx_within", "bitrate"} <= set(metrics["worth"])
    assert "abx_across" not in metrics["worth"]
    assert {"frame_abx_within", "frame_abx_across_chance"} <= set(metrics["abx"])
    assert len([name for name in metrics["robust"] if not name.endswith(("_low", "_high"))]) == 8
    assert all(0 < v <= 2 for v in metrics["robust"].values())
    folder = store.folder(graph.steps["robust"])
    assert json.loads((folder / "robustness.json").read_text()) == metrics["robust"]
    alone = "abx: {frames: $mfcc}"
    thin = (
        "thin: {step: frames, audio: $corpus, encoder: mfcc, fraction: 0.5}\n  abx: {frames: "
        "$thin, alignments: $phones}"
    )
    fit = "bad: {step: quality, units: $units, fit: $units}"
    for bad, what in (
        (alone, "give alignments or items"),
        (thin, "only 0.5 of the frames"),
        (fit, "units to fit a mapping on need alignments"),
    ):
        text = (tmp_path / "p.yaml").read_text().split("  bare:")[0]
        (tmp_path / "bad.yaml").write_text(f"{text}  {bad}\n")
        with pytest.raises(PipelineError, match=rf"bad\.yaml:\d+: .*{what}"):
            load_pipeline(tmp_path / "bad.yaml", STEPS)


def test_intervals_are_over_files():
    """Files that are all alike leave nothing in doubt; files that differ do, the more the fewer there are."""
    rng = np.random.default_rng(0)

    def file(good):
        phones = rng.integers(3, size=200)
        return (phones if good else rng.integers(3, size=200)), [f"p{p}" for p in phones]

    one = file(True)
    same = unit_quality([one] * 8, n_units=3)
    assert same["pnmi"] == pytest.approx(1)
    assert same["pnmi_low"] == same["pnmi_high"] == pytest.approx(1)
    few, many = (unit_quality([file(i % 2 == 0) for i in range(n)], n_units=3) for n in (6, 60))
    for figures in (few, many):
        assert figures["pnmi_low"] < figures["pnmi"] < figures["pnmi_high"]
    assert many["pnmi_high"] - many["pnmi_low"] < (few["pnmi_high"] - few["pnmi_low"]) / 2


def test_the_interval_of_pnmi_is_the_bootstrap_written_out():
    """Two hundred draws of files; from the 2.5th to the 97.5th percentile, moved by the mean's distance from the
    whole."""
    rng = np.random.default_rng(5)
    files = []
    for k in range(12):
        phones = rng.integers(4, size=60)
        files.append((np.where(rng.random(60) < k / 12, phones, rng.integers(4, size=60)), phones))
    figures = unit_quality([(u, [f"p{p}" for p in phones]) for u, phones in files], n_units=4, seed=3)

    def of(chosen):
        units, phones = (np.concatenate([files[k][which] for k in chosen]) for which in (0, 1))
        counts = np.bincount(phones) / len(phones)
        return mutual_info_score(phones, units) / -sum(p * np.log(p) for p in counts if p)

    rng = np.random.default_rng(3)
    rng.permutation(12 * 60)  # of chance, which is drawn first
    drawn = [of(rng.integers(12, size=12)) for _ in range(200)]
    low, high = np.percentile(drawn, [2.5, 97.5]) - np.mean(drawn) + of(range(12))
    assert figures["pnmi_low"] == pytest.approx(low)
    assert figures["pnmi_high"] == pytest.approx(high)


def test_the_interval_of_pnmi_is_not_biased():
    """Many units on few frames: an uncorrected bootstrap is above the figure itself."""
    rng = np.random.default_rng(0)
    files = [(rng.integers(50, size=40), [f"p{p}" for p in rng.integers(20, size=40)]) for _ in range(30)]
    figures = unit_quality(files, n_units=50)
    middle = (figures["pnmi_low"] + figures["pnmi_high"]) / 2
    assert figures["pnmi_low"] < figures["pnmi"] < figures["pnmi_high"]
    assert middle == pytest.approx(figures["pnmi"], abs=0.2 * (figures["pnmi_high"] - figures["pnmi_low"]))
