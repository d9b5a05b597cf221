"""Published chains by name, against a server on this machine that has small files in the place of theirs."""

import io
import json
import re
import runpy
import shlex
import zipfile

import numpy as np
import pytest
import soundfile
import stand_ins
import test_fetch

import textless
from conftest import GOLDEN, ROOT
from textless import zoo
from textless.audio.archives import fetch_unpacked
from textless.errors import ModelError
from textless.zoo import CHAINS, PUBLISHED, Encoder, Part, Published, fetch_part

server = test_fetch.server
HUB = ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE", "HF_HUB_CACHE", "HF_HUB_OFFLINE")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Of files and of repositories, both empty; no network but the server on this machine."""
    monkeypatch.setenv("TEXTLESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(test_fetch.module, "PAUSE", 0)
    return tmp_path / "cache"


@pytest.fixture
def stand_in(server, monkeypatch, tmp_path):
    """The table with small files, which the server has; huggingface_hub, which reads its settings once, asks it too."""
    from huggingface_hub import constants

    names, server.files, server.repositories = stand_ins.table(PUBLISHED, server.address)
    for name, chain in names.items():
        monkeypatch.setitem(PUBLISHED, name, chain)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    for setting, value in zip(HUB, (server.address, template, str(tmp_path / "hub"), False), strict=True):
        monkeypatch.setattr(constants, setting, value)
    return names


def without_network(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def run_chain(run, name, folder):
    """`encode`, `continue` and `resynth` as far as the chain goes; returns what they wrote to standard error."""
    chain, said = PUBLISHED[name], ""
    steps = [("encode", GOLDEN / "clip.flac", folder / "units.jsonl", ())]
    if chain.lm:
        steps.append(("continue", steps[-1][2], folder / "more.jsonl", ("--prompt-seconds", 1, "--max-new-units", 8)))
    if chain.vocoder:
        predict = ("--durations", "predict") if chain.lm else ()
        steps.append(("resynth", steps[-1][2], folder / "out.wav", predict))
    for command, source, out, options in steps:
        code, _, err = run(command, source, "-o", out, *options, model=name)
        assert code == 0, (command, err)
        said += err
    rows = [
        [json.loads(line) for line in out.read_text().splitlines()] for _, _, out, _ in steps if out.suffix != ".wav"
    ]
    assert all(row[0]["contract"]["n_units"] == chain.codebook.n_units for row in rows)
    if chain.lm:
        (_, prompt), (_, more) = rows
        given = len(more["units"]) - 8
        assert more["units"][:given] == prompt["units"][:given]
        assert 0 <= given < len(prompt["units"])
    if chain.vocoder:
        wave, rate = soundfile.read(folder / "out.wav")
        assert rate == 16000
        assert len(wave) > 0
        assert np.abs(wave).max() > 0
    return said


@pytest.mark.parametrize("name", [name for name, chain in PUBLISHED.items() if chain.codebook])
def test_every_chain_by_its_name(stand_in, textless_command, tmp_path, name):
    said = run_chain(textless_command, name, tmp_path).splitlines()
    free = not any("-NC" in part.licence for part in PUBLISHED[name].parts.values())
    assert [line for line in said if "not for commercial use" not in line] == []
    assert bool(said) != free


@pytest.mark.parametrize("name", [name for name, chain in PUBLISHED.items() if not chain.codebook])
def test_every_encoder_by_its_name(stand_in, clip, name):
    encoder = textless.load_encoder(name)
    frames = encoder.encode(clip)
    assert frames.shape == (encoder.n_frames(len(clip)), encoder.dim)
    assert np.isfinite(frames).all()


# ------------------------------------------------------------------------------------------------------------ parts


def test_parts_by_name(stand_in, textless_command, tmp_path):
    """A language model and a vocoder of one chain with the units of another of the same codebook; not of any other."""
    units = tmp_path / "units.jsonl"
    textless_command("encode", GOLDEN / "clip.flac", "-o", units, model="hubert-base-ls960/km100")
    more = tmp_path / "more.jsonl"
    options = ("--lm", "gslm-hubert-km100", "--prompt-seconds", 1, "--max-new-units", 5)
    code, _, err = textless_command("continue", units, "-o", more, *options, model="hubert-base-ls960/km100")
    assert (code, err) == (0, "")
    options = ("--vocoder", "gslm-hubert-km100", "--durations", "predict")
    code, _, err = textless_command(
        "resynth", more, "-o", tmp_path / "a.wav", *options, model="hubert-base-ls960/km100"
    )
    assert (code, err) == (0, "")
    for command, part, other, out in (
        ("continue", "lm", "gslm-hubert-km50", "b.jsonl"),
        ("resynth", "vocoder", "mhubert-vp-en", "b.wav"),
    ):
        options = (f"--{part}", other, "-o", tmp_path / out, *(("--max-new-units", 5) if part == "lm" else ()))
        code, _, err = textless_command(command, units, *options, model="hubert-base-ls960/km100")
        assert code == 2
        assert "are of different units" in err


def test_in_python(stand_in, clip):
    model = textless.load("gslm-hubert-km100")
    assert repr(model) == "<Model gslm-hubert-km100: encoder, codebook, lm, vocoder; n_units 50, frame_rate 50>"
    units = model.encode(clip)
    more = model.continue_units(units.between(0, 1), seconds=None, max_new_units=6, only_new=True)
    assert len(more) == 6
    assert len(model.resynth(more, durations="predict"))
    assert model.lm.contract.codebook == model.vocoder.contract.codebook == units.contract.codebook
    assert textless.load_lm("gslm-hubert-km100").n_units == 50
    assert textless.load_vocoder("gslm-hubert-km100").n_units == 50


def test_a_part_that_a_chain_lacks(stand_in, textless_command, tmp_path):
    argument = (GOLDEN / "clip.flac", "-o", tmp_path / "out.wav")
    code, _, err = textless_command("resynth", *argument, model="gslm-hubert-km50")
    assert code == 2
    assert err == "error: gslm-hubert-km50 has no vocoder; give one with --vocoder\n"
    code, _, err = textless_command("resynth", *argument, model="hubert-base-ls960/km100")
    assert err == "error: hubert-base-ls960/km100 has no vocoder; take gslm-hubert-km100\n"
    code, _, err = textless_command("continue", *argument[:2], "-", model="twist-350M")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean 'twist-350m'" in err


def test_a_pipeline(stand_in, server, tmp_path, monkeypatch):
    """$model in YAML: every part, without network once it is fetched."""
    from textless.engine.store import Store
    from textless.engine.yaml import load_pipeline
    from textless.steps import STEPS

    (tmp_path / "p.yaml").write_text(
        f"""steps:
  model: {{name: gslm-hubert-km100}}
  corpus: {{manifest: {GOLDEN / "clip.flac"}}}
  units: {{step: encode, audio: $corpus, encoder: $model, codebook: $model}}
  more: {{step: continue, lm: $model, prompts: $units, prompt_seconds: 1, max_new_units: 5}}
  speech: {{step: resynth, units: $more, vocoder: $model, durations: predict}}
"""
    )
    graph = load_pipeline(tmp_path / "p.yaml", STEPS)
    speech = graph.run(Store(tmp_path / "store"), ["speech"])["speech"]
    assert [f.name for f in speech.rglob("*.wav")] == ["clip.wav"]
    without_network(monkeypatch)
    asked = len(server.requests)
    graph = load_pipeline(tmp_path / "p.yaml", STEPS)
    assert graph.run(Store(tmp_path / "store"), ["speech"])["speech"] == speech
    assert len(server.requests) == asked


# ---------------------------------------------------------------------------------------------------------- downloads


def test_without_network_once_it_is_fetched(stand_in, server, textless_command, tmp_path, monkeypatch):
    code, paths, err = textless_command("fetch", "gslm-hubert-km100")
    assert (code, err) == (0, "")
    assert len(paths.split()) == 4
    without_network(monkeypatch)
    asked = len(server.requests)
    assert run_chain(textless_command, "gslm-hubert-km100", tmp_path) == ""
    assert textless_command("fetch", "gslm-hubert-km100") == (0, paths, "")
    assert len(server.requests) == asked
    for name, missing in (
        ("gslm-hubert-km50", "km.bin"),
        ("mhubert-vp-en", "mhubert_base_vp_en_es_fr_it3_L11_km1000.bin"),
    ):
        code, _, err = textless_command("encode", GOLDEN / "clip.flac", "-o", "-", model=name)
        assert (code, err.count("\n")) == (2, 1)
        assert f"error: {missing} is not in the cache and HF_HUB_OFFLINE is set: unset HF_HUB_OFFLINE or copy" in err


def test_a_large_download_and_a_licence_are_said_once(stand_in, textless_command, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "LARGE", 0)
    units, out = tmp_path / "u.jsonl", tmp_path / "a.wav"
    textless_command("encode", GOLDEN / "clip.flac", "-o", units, model="hubert-base-ls960-layer-9/km500")
    code, _, err = textless_command("resynth", units, "-o", out, model="expresso-hubert-km500")
    assert code == 0
    licence, size = err.splitlines()
    assert licence.startswith("expresso-hubert-km500: the vocoder is not for commercial use (CC-BY-NC-4.0")
    assert re.fullmatch(r"fetching the vocoder of expresso-hubert-km500: \d+ MB", size)
    code, _, err = textless_command("resynth", units, "-o", tmp_path / "b.wav", model="expresso-hubert-km500")
    assert (code, err) == (0, "")
    assert zoo.fetch_encoder("mhubert-base-25hz").is_dir()  # of a repository, the sum of its files


def test_the_size_of_a_repository_is_said(stand_in, server, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "LARGE", 0)
    fetch_part("mhubert-base-25hz", "encoder")
    total = sum(len(data) for data in server.repositories["slprl/mhubert-base-25hz"].values())
    assert capsys.readouterr().err == f"fetching the encoder of mhubert-base-25hz: {-(-total // 1_000_000)} MB\n"
    fetch_part("mhubert-base-25hz", "encoder")
    assert capsys.readouterr().err == ""


def test_a_file_that_is_not_the_published_one(stand_in, monkeypatch):
    chain = PUBLISHED["gslm-hubert-km100"]
    (name, url, _), wrong = chain.vocoder.also[0], "0" * 64
    voice = zoo.replace(chain.vocoder, also=((name, url, wrong),))
    monkeypatch.setitem(PUBLISHED, "wrong", zoo.replace(chain, vocoder=voice))
    with pytest.raises(ModelError, match=f"config.json: returned a file with sha256 .* where {wrong} is expected"):
        fetch_part("wrong", "vocoder")
    assert zoo.local(voice) is None
    lm = zoo.replace(chain.lm, sha256=wrong)
    monkeypatch.setitem(PUBLISHED, "wrong", zoo.replace(chain, lm=lm))
    with pytest.raises(ModelError, match=f"where {wrong} is expected"):
        fetch_part("wrong", "lm")
    assert zoo.local(lm) is None


# ----------------------------------------------------------------------------------------------------------- archives


def archive(server, name, data):
    server.files[f"/{name}"] = data
    return f"{server.address}/{name}"


def test_an_archive_is_fetched_and_unpacked_once(server, cache):
    server.cuts = [100]  # the connection breaks, and is resumed
    url = archive(server, "lm.tgz", stand_ins.tar({"lm/dict.txt": b"0 1\n", "lm/a.pt": bytes(5000)}))
    folder = fetch_unpacked(url, sha256=None)
    assert {str(f.relative_to(folder)): f.stat().st_size for f in folder.rglob("*.*")} == {
        "lm/dict.txt": 4,
        "lm/a.pt": 5000,
    }
    assert server.served == len(server.files["/lm.tgz"])
    assert fetch_unpacked(url, sha256=None) == folder
    assert server.served == len(server.files["/lm.tgz"])
    assert not list(cache.rglob("*.tgz"))  # it would take the space twice


def link(name="lm/a", target="/etc/passwd"):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info, target


def evil_zip(*members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as f:
        for name, data in members:
            f.writestr(name, data)
    return out.getvalue()


def encrypted():
    data = bytearray(evil_zip(("lm/a", b"x")))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    return bytes(data)


HOSTILE = {
    "up": (evil_zip(("lm/../../evil", b"x")), "is not a plain file inside the archive"),
    "absolute": (evil_zip(("/tmp/evil", b"x")), "is not a plain file inside the archive"),
    "drive": (evil_zip(("lm\\..\\..\\evil", b"x")), "is not a plain file inside the archive"),
    "link": (evil_zip(link()), "is not a plain file inside the archive"),
    "encrypted": (encrypted(), "is not a plain file inside the archive"),
    "bomb": (evil_zip(("lm/a", bytes(30_000_000))), "unpacks to more than 20000000 bytes"),
    "many": (evil_zip(*((f"lm/{k}", b"") for k in range(10_001))), "unpacks to more than"),
    "twice": (evil_zip(("lm/a", b"x"), ("lm/a/b", b"y")), "is both a file and a folder"),
    "line break": (evil_zip(("lm/a\nb", b"x")), "is not a name that a file can have"),
    "cut": (evil_zip(("lm/a", bytes(1000)))[:-30], "is cut short or damaged"),
    "no zip": (b"PK\x03\x04 nothing", "is cut short or damaged"),
    "checksum": (evil_zip(("lm/a", b"abcdef" * 99)).replace(b"lm/a", b"lm/b", 1), "is cut short or damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(server, cache, tmp_path, name):
    data, message = HOSTILE[name]
    with pytest.raises(ModelError, match=message) as caught:
        fetch_unpacked(archive(server, "lm.zip", data), sha256=None)
    assert str(caught.value).isprintable()
    assert not [p for p in tmp_path.rglob("*") if p.name in ("evil", "a", "b", "lm.zip", "lm.zip.sha256")]
    good = archive(server, "lm.zip", evil_zip(("lm/a", b"x")))
    server.etag = '"two"'
    assert (fetch_unpacked(good, sha256=None) / "lm" / "a").read_bytes() == b"x"


def test_an_archive_that_holds_no_model(server, monkeypatch):
    lm = Part(place=archive(server, "lm.zip", evil_zip(("README", b"x"))), licence="none", source="https://here")
    encoder = Encoder(place="a/b", normalisation="none", licence="none", source="https://here")
    monkeypatch.setitem(PUBLISHED, "empty", Published(encoder=encoder, lm=lm))
    with pytest.raises(ModelError, match=r"holds neither a config.json nor a checkpoint with its dict.txt"):
        fetch_part("empty", "lm")


# -------------------------------------------------------------------------------------------------------------- lists


def test_the_list_fits_a_terminal(stand_in, textless_command, monkeypatch):
    """A line for each name, with what is here; no longer than 80 columns on a terminal."""
    rows = {line.split()[0]: line.split() for line in textless_command("models", model=None)[1].splitlines()[1:]}
    assert list(rows) == ["tiny-en", *PUBLISHED]
    assert rows["tiny-en"][1:4] == ["eclv", "31", "yes"]
    assert rows["gslm-hubert-km100"][1:4] == ["eclv", ">378", "no"]
    assert rows["gslm-hubert-km50"][1] == "ecl-"
    assert rows["expresso-hubert-km500"][1] == "ec-v"
    assert rows["hubert-base-ls960"][1:5] == ["e---", "378", "no", "Apache-2.0"]
    fetch_part("gslm-hubert-km100", "encoder")
    fetch_part("gslm-hubert-km50", "codebook")
    fetch_part("gslm-hubert-km50", "lm")
    rows = {line.split()[0]: line.split() for line in textless_command("models", model=None)[1].splitlines()[1:]}
    assert rows["gslm-hubert-km100"][3] == "part"
    assert rows["gslm-hubert-km50"][2:4] == ["3", "yes"]  # of the files here
    assert rows["mhubert-vp-en"][3] == "no"
    monkeypatch.setattr("textless.cli.progress.Clean.isatty", lambda self: True, raising=False)
    lines = textless_command("models", model=None)[1].splitlines()
    assert max(map(len, lines)) == 80
    assert [line.split()[0] for line in lines[2:]] == [*PUBLISHED]
    assert "CC-BY-NC-4.0" in next(line for line in lines if line.startswith("expresso-hubert-km500"))


def commands():
    """The blocks of commands of the page, each with its title."""
    text = (ROOT / "docs" / "models.md").read_text()
    for block in re.findall(r"(?:^    textless .*\n)+", text, re.M):
        lines = [shlex.split(line)[1:] for line in block.splitlines()]
        yield pytest.param(lines, id=lines[-1][lines[-1].index("--model") + 1] if "--model" in lines[-1] else "first")


@pytest.mark.parametrize("lines", [*commands()])
def test_the_commands_of_the_page_work(stand_in, textless_command, tmp_path, monkeypatch, lines):
    monkeypatch.chdir(tmp_path)
    wave, rate = soundfile.read(GOLDEN / "clip.flac")
    soundfile.write("talk.wav", wave[: 2 * rate], rate)
    for line in lines:
        code, _, err = textless_command(*line, model=None)
        assert code == 0, (line, err)
        if line[-1] == "predict" or "out.wav" in line:
            assert soundfile.info("out.wav").duration > 0


def test_every_chain_is_on_the_page():
    text = (ROOT / "docs" / "models.md").read_text()
    assert [c.id for c in commands()] == ["first", *CHAINS]
    for name, (units, *_) in CHAINS.items():
        parts = PUBLISHED[name].parts
        licences = "; ".join(f"{part} {entry.licence}" for part, entry in parts.items())
        sizes = [entry.size for entry in parts.values()]
        known = sum(size or 0 for size in sizes)
        size = known if None not in sizes else f"> {known}" if known else "?"
        assert f"| `{name}` | `{units}` | {', '.join(parts)} | {size} | {licences} |" in text


def test_the_comparison_with_the_real_ones_runs(stand_in, monkeypatch, capsys):
    bench = runpy.run_path(str(ROOT / "bench" / "published.py"))
    bench["EXPECTED"]["gslm-hubert-km100"] = ([0] * 20, None)
    bench["report"]("gslm-hubert-km100", GOLDEN / "clip.flac")
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"gslm-hubert-km100: \d+ units of 370 frames, first \[\d+, .*; mean NLL \d", lines[0])
    assert lines[2] == "  units as expected: False; NLL expected: None"
    assert re.match(r"  speech of \d+\.\d\d s", lines[3])


def test_a_stream_names_its_chain_to_every_command(stand_in, textless_command):
    """encode | continue | score, the chain named once; a part of another chain leaves the name out."""
    name = "twist-350m"
    code, units, err = textless_command("encode", GOLDEN / "clip.flac", "-o", "-", model=name)
    assert (code, err, json.loads(units.splitlines()[0])["model"]) == (0, "", name)
    code, more, err = textless_command("continue", "-", "-o", "-", "--prompt-seconds", 1, model=None, stdin=units)
    header = json.loads(more.splitlines()[0])
    assert (code, err, header["model"], header["runs"]) == (0, "", name, True)
    code, out, err = textless_command("score", "-", model=None, stdin=units)
    assert (code, err) == (0, "")
    assert out == textless_command("score", "-", model=name, stdin=units)[1]
    given = ("-o", "-", "--prompt-seconds", 1, "--lm", name)
    assert "model" not in json.loads(
        textless_command("continue", "-", *given, stdin=units, model=name)[1].split("\n")[0]
    )


@pytest.mark.parametrize("name", ["twist-350m", "slam", "gslm-hubert-km100"])
def test_the_commands_in_a_pipe(stand_in, textless_command, tmp_path, name):
    """Without a length, and without a file between the two."""
    argument = (GOLDEN / "clip.flac", "-o", "-", "--prompt-seconds", 1)
    code, more, err = textless_command("continue", *argument, model=name)
    assert (code, err) == (0, "")
    code, _, err = textless_command("resynth", "-", "-o", tmp_path / "out.wav", model=None, stdin=more)
    assert (code, err) == (0, "")
    assert soundfile.info(tmp_path / "out.wav").duration > 0.5
