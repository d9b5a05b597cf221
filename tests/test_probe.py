"""Probes: the regression, the sample of frames, the command and the step."""

import json

import numpy as np
import pytest
import soundfile
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from test_quality import row

from textless.errors import CorpusError, ModelError
from textless.metrics import probe
from textless.metrics.encoded import beside, check_layers, encoded_layers
from textless.metrics.labelled import Labelled, collect_labelled, labels_of, read_any_labels, unit_layers
from textless.metrics.layers import layer_table, probe_layers
from textless.metrics.probing import folds, lonely
from textless.types import UnitContract
from textless.units.encoders.signal import SignalEncoder
from textless.units.frames import write_frames


def labelled_rows(classes=3, files=12, each=20, strength=2.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, files * each)
    x = rng.standard_normal((len(y), 6))
    x[:, :classes] += strength * np.eye(classes)[y]
    return x, np.array([f"p{k}" for k in y]), np.repeat([f"f{k:02}" for k in range(files)], each)


def test_accuracy_and_chance_are_those_of_scikit_learn():
    x, y, files = labelled_rows()
    ours = probe(x, y, files, seed=1)
    right, majority = [], []
    for train, test in folds(y, files, seed=1):
        scaler = StandardScaler().fit(x[train])
        model = LogisticRegression(C=1.0, max_iter=1000, tol=1e-3).fit(scaler.transform(x[train]), y[train])
        right += (model.predict(scaler.transform(x[test])) == y[test]).tolist()
        majority += (DummyClassifier().fit(x[train], y[train]).predict(x[test]) == y[test]).tolist()
    assert ours["accuracy"] == pytest.approx(np.mean(right), abs=2 / len(y))  # of two near ties
    assert ours["accuracy_chance"] == np.mean(majority)
    assert ours["accuracy"] > 0.75
    assert ours["accuracy_low"] < ours["accuracy"] < ours["accuracy_high"]
    assert {k: ours[k] for k in ("rows", "classes", "files", "groups")} == {
        "rows": 240, "classes": 3, "files": 12, "groups": 12
    }  # fmt: skip


def test_a_group_is_never_on_both_sides():
    _, y, files = labelled_rows()
    groups = np.array([f"s{int(name[1:]) % 6}" for name in files])
    parts = folds(y, groups, seed=3)
    assert sorted(np.concatenate([test for _, test in parts]).tolist()) == list(range(len(y)))
    for train, test in parts:
        assert not set(groups[train]) & set(groups[test])
        assert len(train) + len(test) == len(y)
    shuffled = np.random.default_rng(0).permutation(len(y))
    again = folds(y[shuffled], groups[shuffled], seed=3)
    assert [set(groups[shuffled][test]) for _, test in again] == [set(groups[test]) for _, test in parts]


def test_random_labels_stay_at_chance():
    x, y, files = labelled_rows(strength=0, classes=2, files=40)
    values = probe(x, y, files)
    assert values["accuracy_low"] <= 0.5 <= values["accuracy_high"]
    strong = probe(*labelled_rows(classes=2, files=40))
    assert strong["accuracy_shuffled"] < 0.65 < strong["accuracy"]


def test_what_cannot_be_probed_is_said():
    x, y, files = labelled_rows()
    with pytest.raises(CorpusError, match="all labels are the same; a probe needs two classes"):
        probe(x, ["a"] * len(x), files)
    with pytest.raises(CorpusError, match="3 files have labels, and a probe needs 5"):
        probe(x, y, np.array(["a", "b", "c"] * 80))
    with pytest.raises(CorpusError, match="no label has more than 4 files, and a probe needs 5 at least"):
        probe(x[:12], list("abc" * 4), files[::20])
    with pytest.raises(CorpusError, match="NaN or infinite"):
        probe(np.where(np.arange(6) == 2, np.nan, x), y, files)
    assert lonely(np.array(["a", "a", "b"]), np.array(["f", "g", "f"])) == ["b"]


def filled(order, most, whole=False):
    sample = Labelled(most, seed=4)
    for k in order:
        x = np.arange(30, dtype=np.float32)[:, None] + 100 * k
        sample.add(
            f"f{k}", {"1": x, "2": -x}, "whole" if whole else [None if t % 3 else f"p{t % 2}" for t in range(30)]
        )
    return sample.settle()


def test_the_sample_does_not_depend_on_the_order_and_is_of_labelled_frames():
    a, b = filled(range(9), 20), filled([3, 8, 1, 0, 7, 2, 6, 5, 4], 20)
    assert len(a.labels) == 20
    for name in ("labels", "files"):
        assert getattr(a, name).tolist() == getattr(b, name).tolist()
    assert np.array_equal(a.layers["1"], b.layers["1"])
    assert np.array_equal(a.layers["1"], -a.layers["2"])
    assert len(filled(range(9), 1000).labels) == 90
    assert set(a.layers["1"].ravel()) < set(filled(range(9), 1000).layers["1"].ravel())
    for value, label, file in zip(a.layers["1"].ravel(), a.labels, a.files, strict=True):
        assert (int(value) % 100 % 3, label) == (0, f"p{int(value) % 100 % 2}")
        assert file == f"f{int(value) // 100}"


def test_labels_of_files_come_with_means():
    sample = filled(range(3), 1000, whole=True)
    assert np.stack(sample.means["1"]).ravel().tolist() == [14.5, 114.5, 214.5]
    assert sample.whole == ["whole"] * 3
    assert len(sample.labels) == 90


def test_units_are_one_hot_and_files_their_shares():
    rows = [row("a", [1, 1, 2, 0]), row("b", [2, 2, 2, 2])]
    sample = collect_labelled(unit_layers(rows, 4), {"a": "x", "b": "y"}, 50)
    assert np.stack(sample.means["units"]).tolist() == [[0.25, 0.5, 0.25, 0], [0, 0, 1, 0]]
    with pytest.raises(CorpusError, match=r"no file has labels: they are of ids such as 'c'.*such as 'a'"):
        collect_labelled(unit_layers(rows, 4), {"c": "x"}, 50)


def test_speakers_are_split_where_labels_allow_it():
    def result(speaker_of, label_of):
        rng, sample = np.random.default_rng(0), Labelled()
        for k in range(40):
            sample.add(f"f{k}", {"1": rng.standard_normal((9, 3)).astype(np.float32)}, label_of(k))
        return probe_layers(sample.settle(), {f"f{k}": speaker_of(k) for k in range(40)})

    language, speaker = lambda k: "en" if k % 2 else "de", lambda k: f"s{k % 8}"
    assert result(speaker, language)["split"] == "speaker"
    assert result(speaker, lambda k: [f"p{t % 2}" for t in range(9)])["split"] == "speaker"
    assert result(speaker, speaker)["split"] == "file"  # a speaker is always of one speaker
    assert result(lambda k: f"s{k % 4}", language)["split"] == "file"  # four are too few
    assert result(lambda k: None if k == 5 else f"s{k % 8}", language)["split"] == "file"
    values = result(speaker, language)["layers"]["1"]
    assert {f"{k}_{end}" for k in ("accuracy", "cka", "cca") for end in ("low", "high", "chance")} < values.keys()


def test_labels_in_files(tmp_path):
    file = tmp_path / "labels.tsv"
    file.write_text("id\tspeaker\na\tx y\nb\tz\n")
    assert read_any_labels(file) == {"a": "x y", "b": "z"}
    file.write_text("1\tann\n2\t5\n")
    assert read_any_labels(file) == {"1": "ann", "2": "5"}
    file.write_text("id\tstart\tend\tphone\na\t0\t1\tp\n")
    assert read_any_labels(file) == {"a": [(0.0, 1.0, "p")]}
    for text, error in (("a\tx\na\ty\n", "line 2: 'a' has a second label"), ("a\tx\nb\t\n", "line 2: a line is an id")):
        file.write_text(text)
        with pytest.raises(CorpusError, match=error):
            read_any_labels(file)
    with pytest.raises(CorpusError, match=r"no row has the column 'sex'; known: speaker"):
        labels_of({"a": {"speaker": "x", "sex": None}}, "sex")


def test_layers_in_one_pass_and_other_features(clip, model_set, tmp_path):
    from textless.audio.corpus import Corpus
    from textless.units.encoders.load import load_encoder

    soundfile.write(tmp_path / "a.wav", clip[:16000], 16000)
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    encoder, mfcc, failures = load_encoder(model_set / "encoder"), SignalEncoder("mfcc"), []
    rows = Corpus.load(tmp_path)
    [(name, layers)] = encoded_layers(rows, encoder, check_layers(encoder, None), [("mfcc", mfcc)], failures=failures)
    assert (name, list(layers)) == ("a", ["1", "2", "mfcc"])
    assert [f["id"] for f in failures] == ["b"]
    wave = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    for n in (1, 2):
        alone = load_encoder(model_set / "encoder", n).encode(wave)
        assert np.allclose(layers[str(n)], alone, atol=1e-4)
    assert np.array_equal(layers["mfcc"], mfcc.encode(wave)[::2][: len(layers["1"])])  # 100 Hz at 50 Hz
    assert beside(4, 50, np.arange(3), 50).tolist() == [0, 1, 2, 2]
    with pytest.raises(ModelError, match="layer 3 does not exist: the encoder has layers 1 to 2"):
        check_layers(encoder, [1, 3])
    with pytest.raises(ModelError, match="no layers to choose from"):
        check_layers(mfcc, [1])


# ------------------------------------------------------------------------------------------------- command and step


@pytest.fixture
def spoken(tmp_path):
    """Ten files of two phones by two speakers: a manifest, phones, and units that are the phones."""
    contract = {"encoder": "mfcc", "frame_rate": 50.0, "n_units": 4}
    phones, manifest = ["id\tstart\tend\tphone"], ["id\taudio\tspeaker"]
    stream = [json.dumps({"textless": "units", "version": 1, "contract": contract})]
    rng = np.random.default_rng(0)
    for k in range(10):
        t = np.arange(3200) / 16000
        parts = [0.3 * np.sin(2 * np.pi * hertz * t * (1 + 0.1 * (k % 2))) for hertz in (300, 2000, 300, 2000)]
        wave = np.concatenate(parts)
        soundfile.write(tmp_path / f"f{k}.wav", wave + 0.01 * rng.standard_normal(len(wave)), 16000)
        phones += [f"f{k}\t{0.2 * i:.1f}\t{0.2 * (i + 1):.1f}\t{'ab'[i % 2]}" for i in range(4)]
        manifest.append(f"f{k}\tf{k}.wav\ts{k % 2}")
        units = np.repeat([0, 1, 0, 1], 10).tolist()
        stream.append(json.dumps({"id": f"f{k}", "units": units, "speaker": f"s{k % 2}", "sex": "mf"[k % 3 % 2]}))
    (tmp_path / "m.tsv").write_text("\n".join(manifest) + "\n")
    (tmp_path / "phones.tsv").write_text("\n".join(phones) + "\n")
    (tmp_path / "u.jsonl").write_text("\n".join(stream) + "\n")
    return tmp_path


def test_the_command(textless_command, spoken, model_set, monkeypatch):
    monkeypatch.chdir(spoken)
    common = ("--labels", "phones.tsv", "--encoder", model_set / "encoder")
    code, out, err = textless_command("probe", "m.tsv", *common, "--against", "mfcc", "-o", "p.json", model=None)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["layer", "1", "2", "mfcc"]
    assert "no file is both trained and tested on" in lines[-1]
    values = json.loads((spoken / "p.json").read_text())["figures"]
    assert values["layers"]["1"]["accuracy"] > 0.8
    assert "mfcc_cka" in values["layers"]["1"]
    assert "mfcc_cka" not in values["layers"]["mfcc"]
    assert layer_table(values) + "\n" == out
    code, out, _ = textless_command("probe", "m.tsv", *common, "--layers", "2", model=None)
    assert [line.split()[0] for line in out.splitlines()[:-1]] == ["layer", "2"]
    code, out, _ = textless_command("probe", "u.jsonl", "--labels", "phones.tsv", model=None)
    assert code == 0
    assert float(out.splitlines()[1].split()[1].rstrip("%")) > 90
    code, out, _ = textless_command("probe", "u.jsonl", "--column", "speaker", model=None)
    assert (code, out.splitlines()[1].split()[0]) == (0, "units")
    # Units of a file that does not say its frame rate are the same once it is declared.
    rows = [json.loads(line) for line in (spoken / "u.jsonl").read_text().splitlines()[1:]]
    (spoken / "plain.jsonl").write_text(
        "".join(json.dumps({"file": r["id"], "units": r["units"]}) + "\n" for r in rows)
    )
    (spoken / "c.json").write_text('{"frame_rate": 50, "n_units": 4}')
    _, known, _ = textless_command("probe", "u.jsonl", "--labels", "phones.tsv", model=None)
    arguments = ("probe", "plain.jsonl", "--labels", "phones.tsv")
    assert textless_command(*arguments, "--contract", "c.json", model=None)[:2] == (0, known)
    code, _, err = textless_command(*arguments, model=None)
    assert (code, err) == (2, "error: the frame rate of these units is unknown; declare it with --contract\n")


def test_errors_of_the_command_are_one_line(textless_command, spoken, model_set, monkeypatch):
    monkeypatch.chdir(spoken)
    (spoken / "one.tsv").write_text("".join(f"f{k}\tx\n" for k in range(10)))
    (spoken / "few.tsv").write_text("f0\tx\nf1\ty\n")
    (spoken / "theirs.tsv").write_text("g0\tx\ng1\ty\n")
    for arguments, error in (
        (("u.jsonl",), "a probe needs labels: give --labels FILE or --column NAME"),
        (("u.jsonl", "--labels", "one.tsv"), "all labels are the same"),
        (("u.jsonl", "--labels", "few.tsv"), "2 files have labels, and a probe needs 5 at least"),
        (("u.jsonl", "--labels", "theirs.tsv"), "no file has labels: they are of ids such as 'g0'"),
        (("u.jsonl", "--labels", "none.tsv"), "none.tsv: cannot be read"),
        (("u.jsonl", "--column", "age"), "no row has the column 'age'; known: sex, speaker"),
        (("u.jsonl", "--column", "sex", "--layers", "1"), "--layers is of audio"),
        (("m.tsv", "--column", "speaker", "--layers", "3"), "layer 3 does not exist: the encoder has layers 1 to 2"),
        (("m.tsv", "--column", "speaker", "--layers", "2-1"), "--layers is '2-1'; give numbers from 1 on"),
    ):
        encoder = ("--encoder", model_set / "encoder")
        code, out, err = textless_command("probe", *arguments, *encoder, model=None)
        assert (code, out, err.count("\n")) == (2, "", 1), (arguments, err)
        assert error in err


def test_the_step(textless_command, spoken, monkeypatch):
    monkeypatch.chdir(spoken)
    (spoken / "sex.tsv").write_text("".join(f"f{k}\t{'mf'[k % 2]}\n" for k in range(10)))
    (spoken / "p.yaml").write_text(
        "steps:\n"
        "  audio:  {step: corpus, manifest: m.tsv}\n"
        "  phones: {step: alignments, file: phones.tsv}\n"
        "  sexes:  {step: labels, file: sex.tsv}\n"
        "  mfcc:   {step: frames, audio: $audio, encoder: mfcc}\n"
        "  units:  {step: units, file: u.jsonl}\n"
        "  a:      {step: probe, of: $mfcc, alignments: $phones}\n"
        "  b:      {step: probe, of: $units, labels: $sexes}\n"
        "  c:      {step: probe, of: $units, column: speaker}\n"
        "  d:      {step: quality, units: $units, by: sex}\n"
    )
    code, _, err = textless_command("run", "p.yaml", "--store", "store", model=None)
    assert code == 0, err
    files = {json.loads(p.read_text())["split"] for p in (spoken / "store").rglob("probe.json")}
    assert files == {"file"}
    [groups] = (spoken / "store").rglob("groups.json")
    assert json.loads(groups.read_text())["groups"].keys() == {"m", "f"}
    for bad in ("{step: probe, of: $units}", "{step: probe, of: $units, column: sex, labels: $sexes}"):
        (spoken / "q.yaml").write_text((spoken / "p.yaml").read_text() + f"  bad: {bad}\n")
        code, _, err = textless_command("run", "q.yaml", "--store", "store", "--dry-run", model=None)
        assert (code, err.count("\n")) == (2, 1)
        assert "a probe needs labels; give one of" in err


def test_folders_of_frames_are_of_one_encoder(textless_command, tmp_path):
    for name, rate in (("one", 50.0), ("two", 100.0)):
        (tmp_path / name / "data").mkdir(parents=True)
        write_frames(tmp_path / name / "data" / "00000", [(name, np.zeros((5, 2), np.float32))], dim=2)
        about = {"contract": UnitContract(encoder="e", frame_rate=rate).to_dict(), "fraction": 1.0}
        (tmp_path / name / "frames.json").write_text(json.dumps(about))
    (tmp_path / "l.tsv").write_text("one\tx\ntwo\ty\n")

    def refused(*inputs):
        code, out, err = textless_command("probe", *inputs, "--labels", tmp_path / "l.tsv", model=None)
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    assert "frame_rate is 100.0" in refused(tmp_path / "one", tmp_path / "two")
    for text in ("{}", "{", '{"contract": {}, "fraction": null}'):
        (tmp_path / "two" / "frames.json").write_text(text)
        assert "frames.json: " in refused(tmp_path / "two")
