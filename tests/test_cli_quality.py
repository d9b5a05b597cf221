"""`textless quality`, end to end."""

import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from conftest import ROOT
from textless.cli.app import cli
from textless.errors import TextlessError
from textless.metrics import asr as recognise
from textless.metrics import speech as quality
from textless.metrics.discovery import METRICS as DISCOVERY
from textless.metrics.discovery import SAME
from textless.metrics.table import SPEECH, UNITS, speech_table, table
from textless.types import UnitContract


def run(*args, code=0, stdin=None):
    result = CliRunner().invoke(cli, ["quality", *map(str, args)], standalone_mode=False, input=stdin)
    if result.exception:
        raise result.exception
    assert result.return_value == code
    return result


@pytest.fixture
def data(tmp_path):
    """Two speakers who say a and b between p and q: audio with a manifest, alignments, an item file and a stream of
    units.
    """
    phones = [phone for middle in "aabb" for phone in ("p", middle, "q")]
    hertz = {"p": 300, "q": 1500, "a": 600, "b": 2500}
    rng = np.random.default_rng(0)
    manifest, lines, items = (
        ["id\tpath\tspeaker"],
        ["id\tstart\tend\tphone"],
        ["#file onset offset #phone prev-phone next-phone speaker"],
    )
    contract = UnitContract(encoder="mfcc", frame_rate=50.0, n_units=8).to_dict()
    stream = [json.dumps({"textless": "units", "version": 1, "contract": contract})]
    for speaker, tone in (("s", 1.0), ("t", 1.03)):
        for k in range(2):
            name = f"{speaker}{k}"
            wave = np.concatenate([0.3 * np.sin(2 * np.pi * hertz[p] * tone * np.arange(1600) / 16000) for p in phones])
            soundfile.write(tmp_path / f"{name}.wav", wave + 0.01 * rng.standard_normal(len(wave)), 16000)
            manifest.append(f"{name}\t{name}.wav\t{speaker}")
            lines += [f"{name}\t{i / 10}\t{(i + 1) / 10}\t{p}" for i, p in enumerate(phones)]
            items += [
                f"{name} {i / 10:.1f} {(i + 3) / 10:.1f} {phones[i + 1]} p q {speaker}"
                for i in range(0, len(phones), 3)
            ]
            units = np.repeat([["p", "q", "a", "b"].index(p) for p in phones], 5).tolist()
            stream.append(json.dumps({"id": name, "units": units, "speaker": speaker}))
    (tmp_path / "audio.tsv").write_text("\n".join(manifest) + "\n")
    (tmp_path / "phones.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "x.item").write_text("\n".join(items) + "\n")
    (tmp_path / "units.jsonl").write_text("\n".join(stream) + "\n")
    return tmp_path


def test_units_with_alignments(data):
    out = run(data / "units.jsonl", "--alignments", data / "phones.tsv", "--json", data / "q.json").stdout
    first, *lines = out.splitlines()
    assert first.split() == ["value", "95", "%", "interval", "chance"]
    assert len({len(line) for line in lines if "PNMI " in line or "ABX" in line or "purity" in line}) == 1
    assert [line.split()[-5:-1] for line in lines if "ABX" in line] == [["0.0%", "0.0%", "–", "0.0%"]] * 2
    written = json.loads((data / "q.json").read_text())
    assert written["contract"]["n_units"] == 8
    assert written["figures"]["abx_within"] == 0
    assert {"pnmi_chance", "phone_purity_chance", "cluster_purity_chance", "abx_across_chance"} <= set(
        written["figures"]
    )
    with pytest.raises(
        TextlessError, match=r"q.json: holds the result of another command; give another name or --overwrite"
    ):
        run(data / "units.jsonl", "--json", data / "q.json")
    run(data / "units.jsonl", "--json", data / "q.json", "--overwrite")
    assert "pnmi" not in json.loads((data / "q.json").read_text())["figures"]


def test_a_stream_in_and_json_out(data):
    result = run("-", "--items", data / "x.item", "--json", "-", stdin=(data / "units.jsonl").read_text())
    assert json.loads(result.stdout)["figures"]["abx_across"] == 0
    assert "ABX error" in result.stderr


def test_audio_is_encoded_and_its_frames_are_measured_too(data, model_set):
    args = (
        data / "audio.tsv",
        "--model",
        model_set,
        "--alignments",
        data / "phones.tsv",
        "--perturb",
        "--json",
        data / "q.json",
    )
    out = run(*args).stdout
    figures = json.loads((data / "q.json").read_text())["figures"]
    assert {
        "pnmi",
        "abx_within",
        "frame_abx_within",
        "frame_abx_across_chance",
        "ued_speed_0.9",
        "ued_noise_10",
    } <= set(figures)
    assert "ABX error, frames, across speakers" in out
    assert "unit edits" in out
    run(*args, "--overwrite")
    assert json.loads((data / "q.json").read_text())["figures"] == figures


def test_units_of_a_dump_are_those_of_its_audio(data, model_set):
    done = CliRunner().invoke(
        cli, ["encode", str(data / "audio.tsv"), "-o", str(data / "dump"), "--model", str(model_set)]
    )
    assert done.exit_code == 0
    options = ("--alignments", data / "phones.tsv", "--json", data / "q.json", "--overwrite")
    run(data / "dump", *options)
    dump = json.loads((data / "q.json").read_text())["figures"]
    run(data / "audio.tsv", "--model", model_set, *options)
    audio = json.loads((data / "q.json").read_text())["figures"]
    assert {k: v for k, v in audio.items() if not k.startswith("frame_")} == dump


def test_an_encoder_alone_is_measured_by_its_frames(data):
    out = run(data / "audio.tsv", "--encoder", "mfcc", "--items", data / "x.item").stdout
    assert [line.split(",")[1] for line in out.splitlines()[1:]] == [" frames", " frames"]
    with pytest.raises(TextlessError, match="give alignments or items, or a codebook too"):
        run(data / "audio.tsv", "--encoder", "mfcc")
    with pytest.raises(TextlessError, match="give a codebook too"):
        run(data / "audio.tsv", "--encoder", "mfcc", "--items", data / "x.item", "--perturb")


def test_files_that_cannot_be_read(data, model_set):
    (data / "s0.wav").write_bytes(b"RIFF")
    result = run(data / "audio.tsv", "--model", model_set, "--alignments", data / "phones.tsv", code=1)
    assert "s0.wav" in result.stderr
    for name in ("s1", "t0", "t1"):
        (data / f"{name}.wav").write_bytes(b"RIFF")
    with pytest.raises(TextlessError, match="none of the 4 rows could be done"):
        run(data / "audio.tsv", "--model", model_set)


@pytest.mark.parametrize(
    ("change", "args", "what"),
    [
        (
            ("phones.tsv", "s0", "s9", "s1", "s8", "t0", "t9", "t1", "t8"),
            ["--alignments", "phones.tsv"],
            "do the ids of units and alignment",
        ),
        (("x.item", "s1 0.0", "s1 zero"), ["--items", "x.item"], "x.item, line 6: onset 'zero'"),
        (("x.item", " a ", " b "), ["--items", "x.item"], "no ABX within speakers: among 16 items none has a context"),
        (
            ("units.jsonl", '"frame_rate": 50.0', '"frame_rate": null'),
            [],
            "frame rate of these units is unknown; declare it with --contract",
        ),
        (("units.jsonl", "x", "x"), ["--perturb"], "--perturb changes audio"),
        (("units.jsonl", "x", "x"), ["s0.wav"], "give one or the other"),
        (("units.jsonl", "x", "x"), ["--alignments", "none.tsv"], "none.tsv: cannot be read"),
    ],
)
def test_bad_input_is_one_clear_error(data, monkeypatch, change, args, what):
    monkeypatch.chdir(data)
    name, *words = change
    text = (data / name).read_text()
    for old, new in zip(words[::2], words[1::2], strict=True):
        text = text.replace(old, new)
    (data / name).write_text(text)
    with pytest.raises(TextlessError, match=what):
        run("units.jsonl", *args)


def test_a_declared_frame_rate(data):
    (data / "units.jsonl").write_text(
        (data / "units.jsonl").read_text().replace('"frame_rate": 50.0', '"frame_rate": null')
    )
    (data / "c.json").write_text(json.dumps({"frame_rate": 50.0}))
    assert (
        "PNMI" in run(data / "units.jsonl", "--alignments", data / "phones.tsv", "--contract", data / "c.json").stdout
    )


def test_every_figure_is_shown(data, model_set):
    run(
        data / "audio.tsv",
        "--model",
        model_set,
        "--alignments",
        data / "phones.tsv",
        "--perturb",
        "--json",
        data / "q.json",
    )
    figures = json.loads((data / "q.json").read_text())["figures"]
    # Without --fit, and with more units than phones.
    shown = {k: m for k, m in UNITS.items() if k not in DISCOVERY or ("many_to_one" in k and k.endswith(SAME))}
    shown |= {"pnmi_10ms": UNITS["pnmi_10ms"]}
    assert {k for k in figures if not k.endswith(("_chance", "_cells", "_low", "_high"))} == set(shown)
    assert len(table(figures).splitlines()) == len([metric for metric in shown.values() if metric.printed]) + 1


@pytest.fixture
def made(tmp_path, clip):
    """Originals and what was made of them, here the same with noise and a louder first one; a text."""
    for folder in ("real", "made"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for k, name in enumerate("ab"):
        wave = clip[k * 16000 : (k + 1) * 16000]
        soundfile.write(tmp_path / "real" / f"{name}.flac", wave, 16000)
        soundfile.write(tmp_path / "made" / f"{name}.wav", wave + 0.01 * rng.standard_normal(len(wave)), 16000)
    (tmp_path / "text.tsv").write_text("a\tSome words\nb\tand others\n")
    return tmp_path


def test_speech_beside_its_reference(made, model_set):
    args = (made / "made", "--reference", made / "real", "--model", model_set, "--text", made / "text.tsv")
    out = run(*args, "--json", made / "q.json").stdout
    written = json.loads((made / "q.json").read_text())
    first, *lines = out.splitlines()
    assert first.split() == ["value", "95", "%", "interval", "original"]
    assert {s["id"] for s in written["sentences"]} == {"a", "b"}
    assert written["contract"]["n_units"] == 20
    figures = written["figures"]
    assert set(SPEECH) <= set(figures)
    assert speech_table(figures) == out.rstrip("\n")
    assert len(lines) == len([metric for metric in SPEECH.values() if metric.printed])
    wer = next(line for line in lines if "word error" in line)
    assert wer.split()[3:] == [
        f"{figures['wer']:.1%}",
        f"{figures['wer_low']:.1%}",
        "–",
        f"{figures['wer_high']:.1%}",
        f"{figures['wer_original']:.1%}",
    ]
    assert figures["wer"] == sum(s["word_edits"] for s in written["sentences"]) / 4


def test_speech_without_text_or_stoi(made, model_set, monkeypatch):
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    args = (made / "made", "--reference", made / "real", "--model", model_set, "--json", "-")
    with pytest.warns(
        UserWarning, match=r"STOI is left out: .*in a clone of textless: pip install -c constraints.txt '\.\[eval\]'"
    ):
        result = run(*args)
    figures = json.loads(result.stdout)["figures"]
    assert {"mcd", "uer"} <= set(figures)
    assert not {"stoi", "wer"} & set(figures)
    assert "mel-cepstral" in result.stderr
    monkeypatch.undo()
    (made / "made" / "a.wav").write_bytes(b"RIFF")
    result = run(*args, code=1)
    assert [s["id"] for s in json.loads(result.stdout)["sentences"]] == ["b"]
    assert "a.wav" in result.stderr
    (made / "made" / "b.wav").write_bytes(b"RIFF")
    with pytest.raises(TextlessError, match="none of the 2 rows could be done"):
        run(*args)


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["made"], "--text is what the originals say; give them with --reference"),
        (["made", "--reference", "real", "--perturb"], "ask for one or the other"),
        (["units.jsonl", "--reference", "real"], "units.jsonl: units; --reference compares audio"),
        (["made", "--reference", "real/a.flac"], "1 of 2 files have no original of their name, such as b"),
        (["made/b.wav", "--reference", "real"], "the words of 1 of 1 files are missing, such as b"),
        (["made/a.wav", "--reference", "real", "--json", "mine.json"], "mine.json: exists"),
    ],
)
def test_a_bad_comparison_is_one_clear_error(made, monkeypatch, args, what):
    monkeypatch.chdir(made)
    (made / "text.tsv").write_text("a\tSome words\n")
    (made / "mine.json").write_text("{}")
    (made / "units.jsonl").write_text('{"textless": "units", "version": 1, "contract": {}}\n')
    with pytest.raises(TextlessError, match=what):
        run(*args, "--text", "text.tsv")


def test_a_recogniser_that_is_not_installed(made, monkeypatch):
    monkeypatch.setattr(recognise, "find_spec", lambda name: None)
    with pytest.raises(
        TextlessError,
        match=(
            r"pocketsphinx, which is not installed; in a clone of textless: pip install -c "
            r"constraints.txt '\.\[eval\]'"
        ),
    ):
        run(made / "made", "--reference", made / "real", "--text", made / "text.tsv")


def test_units_fitted_on_others(data):
    head, *rows = (data / "units.jsonl").read_text().splitlines()
    swapped = [r.replace("0, 0, 0, 0, 0", "1, 1, 1, 1, 1") for r in rows[2:]]  # units of q are those of p, there
    (data / "test.jsonl").write_text("\n".join([head, *rows[:2]]) + "\n")
    (data / "dev.jsonl").write_text("\n".join([head, *swapped]) + "\n")
    args = (data / "test.jsonl", "--alignments", data / "phones.tsv", "--fit", data / "dev.jsonl")
    out = run(*args, "--json", data / "q.json").stdout
    figures = json.loads((data / "q.json").read_text())["figures"]
    # p and q are as frequent in dev, and the unit of p does not occur there: it has the most frequent phone.
    assert figures["many_to_one_per_same_files"] == 0 < figures["many_to_one_per"]
    assert "PER, many-to-one, same files" in out
    phones = (data / "phones.tsv").read_text().splitlines()
    (data / "dev.tsv").write_text("\n".join(line for line in phones if not line.startswith("s")) + "\n")
    run(*args, "--fit-alignments", data / "dev.tsv", "--json", data / "r.json")
    assert json.loads((data / "r.json").read_text())["figures"] == figures
    with pytest.raises(TextlessError, match="2 files are fitted on and scored, such as s0"):
        run(*args[:3], "--fit", data / "test.jsonl")
    with pytest.raises(TextlessError, match="there are 8 units, and 4 phones of which 4 occur"):
        run(*args, "--n-phones", 4)
    with pytest.raises(TextlessError, match="--fit-alignments has the phones of --fit"):
        run(*args[:3], "--fit-alignments", data / "dev.tsv")
    with pytest.raises(TextlessError, match="need alignments"):
        run(data / "test.jsonl", "--fit", data / "dev.jsonl")


def test_terms(tmp_path):
    case = json.loads((ROOT / "tests/data/tde/random.json").read_text())[0]
    for name in ("phn", "wrd", "classes"):
        (tmp_path / f"x.{name}").write_text(case[name])
    args = ("--segments", tmp_path / "x.classes", "--alignments", tmp_path / "x.phn")
    assert "token F1" in run(*args, "--words", tmp_path / "x.wrd", "--json", tmp_path / "t.json").stdout
    figures = json.loads((tmp_path / "t.json").read_text())["figures"]
    assert figures["ned"] == pytest.approx(case["scores"]["ned"])
    assert "token_f1" not in json.loads(run(*args, "--json", "-").stdout)["figures"]
    for bad, what in (
        (["--segments", tmp_path / "x.classes"], "give these, and no IN"),
        ([tmp_path, *args], "give these, and no IN"),
        ([*args, "--perturb"], "--perturb does not go with --segments"),
        (["--words", tmp_path / "x.wrd", tmp_path], "--words are compared with --segments"),
    ):
        with pytest.raises(TextlessError, match=what):
            run(*bad)
