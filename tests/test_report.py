"""The report: what is in the page, and that it works in a browser."""

import ast
import base64
import io
import json
import re
import shutil
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from conftest import ROOT
from textless.audio.io import read_audio
from textless.engine.pipeline import Pipeline
from textless.engine.step import Step
from textless.engine.store import Store
from textless.errors import OutputExistsError, PipelineError
from textless.report import make_report, material, page
from textless.report.codebooks import count, manner
from textless.report.curves import Series, chart, curves
from textless.report.html import Html, data, joined, markup, text
from textless.report.material import _limit, find_examples
from textless.report.media import png, spectrogram, wave_path
from textless.report.numbers import number, thinned, ticks, value_text
from textless.steps import (
    Alignments,
    Assign,
    Continue,
    CopySynthesis,
    Corpus,
    Encode,
    Frames,
    KMeans,
    Model,
    Resynth,
    UnitQuality,
)
from textless.types import UnitContract, Units
from textless.units.dump import Dump, UnitRow

EVIL = "</script><script>document.title='broken'</script>"
VOID = {"meta", "link", "img", "br"}


@dataclass(frozen=True, kw_only=True)
class Teach(Step):
    """A training of no time."""

    type = "teach"
    rate: float = 0.5

    def run(self, job):
        rows = [{"step": float(n), "loss": 3.0 * self.rate**n, "lr": 1e-3} for n in range(1, 6)]
        job.metrics = {"curve": rows, "mcd": 3.5, "mcd_low": 3.25, "mcd_high": 3.75, "pnmi": 0.5, "pnmi_chance": 0.25}


class Page(HTMLParser):
    """What a test asks of a page. Raises AssertionError when elements do not nest."""

    def __init__(self, path):
        super().__init__()
        self.elements, self._open, self.source = [], [], path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self._open
        self.data = json.loads(next(e.text for e in self.elements if e.attrs.get("id") == "data"))

    def handle_starttag(self, tag, attrs):
        element = SimpleNamespace(tag=tag, attrs=dict(attrs), text="", above=list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(SimpleNamespace(tag=tag, attrs=dict(attrs), text="", above=list(self._open)))

    def handle_endtag(self, tag):
        assert self._open, tag
        assert self._open.pop().tag == tag

    def handle_data(self, text):
        for element in self._open:
            element.text += text

    def find(self, tag, inside=None, **attrs):
        attrs = {k.rstrip("_"): v for k, v in attrs.items()}
        return [
            e
            for e in self.elements
            if e.tag == tag
            and all(
                v in (e.attrs.get(k) or "").split() if k == "class" else e.attrs.get(k) == v for k, v in attrs.items()
            )
            and (inside is None or inside in e.above)
        ]

    def sections(self):
        return [e.attrs["id"] for e in self.find("section") if "id" in e.attrs]


def content(address):
    kind, _, text = address.partition(";base64,")
    return kind, base64.b64decode(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory, model_set):
    """A pipeline that is done, and its page: three clips, units of two kinds, two voices, two continuations of each,
    phones.
    """
    root = tmp_path_factory.mktemp("report")
    for k in range(3):
        t = np.arange(16000 + 3200 * k) / 16000
        wave = 0.3 * np.sin(2 * np.pi * (200 + 150 * k) * t * (1 + 0.3 * np.sin(3 * t)))
        soundfile.write(root / f"{k}.wav", wave.astype(np.float32), 16000, subtype="PCM_16")
    ids = ["a", "b", EVIL]
    (root / "clips.tsv").write_text(
        "id\tpath\tspeaker\n" + "".join(f"{name}\t{k}.wav\tamy\n" for k, name in enumerate(ids))
    )
    phones = [("a", 0.1, 0.3, "AH0"), ("a", 0.3, 0.6, "<S>"), ("a", 0.6, 1.0, "SIL"), ("b", 0.0, 0.5, "T")]
    (root / "phones.tsv").write_text(
        "id\tstart\tend\tphone\n" + "".join(f"{i}\t{a}\t{b}\t{p}\n" for i, a, b, p in phones)
    )
    clips, model = Corpus(manifest=str(root / "clips.tsv")), Model(file=str(model_set))
    aligned = Alignments(file=str(root / "phones.tsv"))
    mfcc = Frames(audio=clips, encoder="mfcc")
    km = KMeans(frames=mfcc, n_units=6, iterations=4)
    units = Encode(audio=clips, encoder=model, codebook=model)
    more = Continue(lm=model, prompts=units, prompt_seconds=0.5, seconds=0.6, samples=2)
    steps = {
        "clips": clips,
        "phones": aligned,
        "model": model,
        "mfcc": mfcc,
        "km": km,
        "labels": Assign(frames=mfcc, codebook=km),
        "units": units,
        "more": more,
        "again": Resynth(units=units, vocoder=model, speaker="amy"),
        "ben": Resynth(units=units, vocoder=model, speaker="ben"),
        "speech": Resynth(units=more, vocoder=model),
        "quality": UnitQuality(units=units),
        "teach@rate=0.5": Teach(),
        "teach@rate=0.8": Teach(rate=0.8),
        "<never>": Teach(rate=0.1),
    }
    variants = {f"teach@rate={r}": {"rate": r} for r in (0.5, 0.8)}
    pipeline = Pipeline(steps, variants=variants, file=str(root / "my.yaml"))
    store = Store(root / "store")
    pipeline.run(store, [n for n in pipeline.pick([]) if n != "<never>"])
    make_report(pipeline, store, root / "report.html", title="all & <sundry>")
    return SimpleNamespace(
        root=root, pipeline=pipeline, store=store, path=root / "report.html", page=Page(root / "report.html"), ids=ids
    )


def tracks(made, example):
    """Name and data of each track of an example."""
    article = made.page.find("article")[example]
    return {
        s.attrs["aria-label"]: made.page.data["tracks"][int(s.attrs["data-track"])]
        for s in made.page.find("section", article)
    }


def test_the_page_is_whole_and_stands_alone(made):
    assert made.page.sections() == ["examples", "steps", "metrics", "curves", "units"]
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp", made.page.source)
    assert not made.page.find("script", src=None)[2:]
    assert all(e.attrs["src"].startswith("data:") for e in made.page.elements if "src" in e.attrs)
    assert all(e.attrs["href"].startswith(("#", "data:")) for e in made.page.elements if "href" in e.attrs)
    assert "default-src 'none'" in made.page.source
    assert not re.search(r"\{\{\w+\}\}", made.page.source)


def test_what_comes_from_data_is_escaped(made):
    assert EVIL not in made.page.source
    assert len(made.page.find("script")) == 2
    assert made.page.find("h1")[0].text == "all & <sundry>"
    assert [
        a.text.split(" speaker")[0] for a in made.page.find("h3") if any(e.tag == "article" for e in a.above)
    ] == sorted(made.ids)
    assert data({"</script>": "<!--&"}) == '{"\\u003c/script\\u003e":"\\u003c!--\\u0026"}'
    spans = tracks(made, 1)["original"]["rows"][-1]["spans"]
    assert [[*s[:3]] for s in spans] == [[0.1, 0.3, "AH0"], [0.3, 0.6, "<S>"], [0.6, 1.0, "SIL"]]
    assert [s[3] for s in spans] == ["vowel", "other", "silence"]


def test_only_pieces_of_a_page_are_not_escaped():
    hostile = """'"><img src=x onerror=alert(1)>&"""
    escaped = "&#x27;&quot;&gt;&lt;img src=x onerror=alert(1)&gt;&amp;"
    assert markup("<b title='{0}'>{0}</b>", hostile) == f"<b title='{escaped}'>{escaped}</b>"
    assert markup("{}", markup("<i>{x:.1f}</i>", x=0.25)) == "<i>0.2</i>"
    assert markup("{}", f"<i>{hostile}</i>") == f"&lt;i&gt;{escaped}&lt;/i&gt;"  # an f-string is no piece
    assert markup("{x.name}", x=SimpleNamespace(name="<")) == "&lt;"
    assert joined(["<", Html("<br>"), 3], " ") == "&lt; <br> 3"
    assert text("caf\udce9").encode() == "caf\ufffd".encode()


def test_every_template_is_a_literal():
    """A value that is in a template before `markup` sees it would not be escaped."""
    for file in sorted((ROOT / "textless" / "report").glob("*.py")):
        tree = ast.parse(file.read_text())
        assigned = [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)]
        constants = {ast.unparse(target) for n in assigned for target in n.targets}
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)):
            if call.func.id == "markup":
                template = call.args[0]
                literal = isinstance(template, ast.Constant) or (
                    isinstance(template, ast.Name) and template.id in constants
                )
                assert literal, f"{file.name}:{call.lineno}"
            if call.func.id == "Html" and call.args:
                own = ast.unparse(call.args[0]) in ("style", "script")
                assert own or file.name == "html.py", f"{file.name}:{call.lineno}"


def test_what_a_manifest_says_is_escaped(made, tmp_path):
    name = f"teach{EVIL}"
    metrics = {"curve": [{"step": 1, EVIL: EVIL}]}
    manifest = {"seconds": 1.0, "failures": EVIL, "metrics": metrics, "versions": {"textless": EVIL}, "finished": 0}
    pipeline = Pipeline({name: Teach(rate=0.3)}, file=str(tmp_path / f"{EVIL.replace('/', '')}.yaml"))
    for html in (page._steps(pipeline, Store(tmp_path), {name: manifest}), page._about(pipeline, {name: manifest})):
        assert isinstance(html, Html)
        assert "<script" not in html
        assert "&lt;script" in html
    assert "<script" not in chart(EVIL, EVIL, [Series(EVIL, [(0.0, 1.0), (1.0, 2.0)])], [])


def test_the_page_may_neither_be_sent_elsewhere_nor_send(made):
    [policy] = [
        e.attrs["content"] for e in made.page.find("meta") if e.attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert {"default-src 'none'", "base-uri 'none'", "form-action 'none'"} <= set(policy.split("; "))


@dataclass(frozen=True, kw_only=True)
class Strange(Step):
    """Figures that are none."""

    type = "strange"

    def run(self, job):
        odd = ["text", None, float("nan"), float("-inf"), 10**400, -1e308, 1e308, [], {"a": []}, True]
        job.metrics = {
            "mcd": 10**400,
            "pnmi": float("nan"),
            "curve": [{"step": step, "loss": value} for step in (1, "one", 10**400) for value in odd],
            "flat_curve": [{"step": 1, "loss": 1e299}, {"step": 1, "loss": -1e299}],
            "list_curve": [1e308, -1e308],
            "wer": odd,
            "uer": {"low": "x", "high": {}},
        }


def test_figures_that_are_no_numbers(tmp_path):
    pipeline, store = Pipeline({"odd": Strange(), "odd@x=1": Strange()}), Store(tmp_path)
    pipeline.run(store)
    make_report(pipeline, store, tmp_path / "r.html", title="odd")
    page = Page(tmp_path / "r.html")
    assert page.sections() == ["steps", "metrics", "curves"]
    assert all(len(s["points"]) == 2 for c in page.data["charts"] for s in c["series"])
    assert [value_text("mcd", v) for v in (3.5, "x", None, 10**400, float("nan"))] == [
        "3.50",
        "x",
        "–",
        str(10**400),
        "nan",
    ]


def test_what_is_said_of_the_same_id_is_one_example(made):
    assert list(tracks(made, 0)) == ["original", "again", "ben", f"speech · {EVIL}-0", f"speech · {EVIL}-1"]
    assert list(tracks(made, 1)) == ["original", "again", "ben", "speech · a-0", "speech · a-1"]


def test_sounds_are_those_of_the_corpus_and_of_the_steps(made):
    article = made.page.find("article")[1]
    sounds = {a.attrs["aria-label"]: content(a.attrs["src"]) for a in made.page.find("audio", article)}
    assert {kind for kind, _ in sounds.values()} == {"data:audio/wav"}
    waves = {name: soundfile.read(io.BytesIO(wav), dtype="float32")[0] for name, (_, wav) in sounds.items()}
    assert np.array_equal(waves["original"], read_audio(made.root / "0.wav"))
    assert np.array_equal(waves["ben"], read_audio(made.store.folder(made.pipeline.steps["ben"]) / "a.wav"))
    assert np.array_equal(
        waves["speech · a-1"], read_audio(made.store.folder(made.pipeline.steps["speech"]) / "a-1.wav")
    )


def test_units_are_aligned_with_the_sound(made):
    for example in range(3):
        for name, track in tracks(made, example).items():
            [units] = [row for row in track["rows"] if row["kind"] == "units"]
            assert len(units["units"]) == len(units["durations"])
            assert sum(units["durations"]) / units["rate"] == pytest.approx(
                track["seconds"], abs=0.025 if name == "original" else 1e-9
            )
    row = next(r for r in Dump(made.store.folder(made.pipeline.steps["units"])) if r.id == "a")
    shown = tracks(made, 1)["original"]["rows"][0]
    assert np.array_equal(np.repeat(shown["units"], shown["durations"]), row.units.frames())


def test_a_mark_stands_where_the_continuation_begins(made):
    article = made.page.find("article")[1]
    seams = [
        float(s.attrs["style"].removeprefix("left:").removesuffix("%"))
        for s in made.page.find("div", article, class_="seam")
    ]
    assert seams == [
        pytest.approx(100 * 0.5 / t["seconds"], abs=1e-3) for name, t in tracks(made, 1).items() if "speech" in name
    ]
    assert [s.text for s in made.page.find("span", article, class_="new")] == ["continuation"] * 2


def test_steps_tell_what_is_done_and_what_is_not(made):
    [table] = made.page.find("table", class_="steps")
    rows = [r.text for r in made.page.find("tr", table)][1:]
    assert len(rows) == 11
    assert "<never>" not in "".join(rows)
    [steps] = [s for s in made.page.find("section") if s.attrs.get("id") == "steps"]
    assert [li.text for li in made.page.find("li", steps)] == ["<never> teach"]
    assert "11 of 12 steps done" in made.page.find("header", class_="top")[0].text
    assert "my.yaml" in made.page.source
    assert str(made.root) not in made.page.source


def test_variants_stand_side_by_side_with_intervals_and_chance(made):
    [region] = [e for e in made.page.find("div") if e.attrs.get("aria-label") == "metrics of teach"]
    assert [th.text for th in made.page.find("th", region, scope="col")] == ["teach@rate=0.5", "teach@rate=0.8"]
    rows = {r.text for r in made.page.find("tr", region)}
    assert "mel-cepstral distortion, dB3.50 [3.25, 3.75]3.50 [3.25, 3.75]" in rows
    assert "PNMI0.500 chance 0.2500.500 chance 0.250" in rows
    assert "rate0.5000.800" in rows


def test_curves_of_a_figure_share_a_chart(made):
    found = curves(made.pipeline, made.store)
    assert [(k, [s.name for s in v]) for k, v in found.items() if k[0] == "teach"] == [
        (("teach", "loss", "step"), ["teach@rate=0.5", "teach@rate=0.8"]),
        (("teach", "lr", "step"), ["teach@rate=0.5", "teach@rate=0.8"]),
    ]
    inertia = made.store.manifest(made.pipeline.steps["km"])["metrics"]["inertia_curve"]
    assert [y for _, y in found["kmeans", "inertia", "round"][0].points] == inertia
    [chart] = [c for c in made.page.data["charts"] if c["unit"] == "step" and c["series"][0]["points"][0][1] == 1.5]
    assert chart["series"][0]["points"] == [[n, pytest.approx(3 * 0.5**n, rel=1e-4)] for n in range(1, 6)]


def test_a_curve_may_have_holes(tmp_path):
    """Figures of a development set are in some rows only, and a training may have met infinity."""

    @dataclass(frozen=True, kw_only=True)
    class Odd(Step):
        type = "odd"

        def run(self, job):
            job.metrics = {
                "curve": [
                    {"step": 1, "dev": 2.0, "loss": float("inf")},
                    {"step": 2, "loss": 2.0},
                    {"step": 3, "dev": 1.0, "loss": 1.0},
                ]
            }

    pipeline, store = Pipeline({"odd": Odd()}), Store(tmp_path)
    pipeline.run(store)
    assert {k[1]: s[0].points for k, s in curves(pipeline, store).items()} == {
        "dev": [(1, 2), (3, 1)],
        "loss": [(2, 2), (3, 1)],
    }
    make_report(pipeline, store, tmp_path / "r.html", title="odd")
    assert Page(tmp_path / "r.html").sections() == ["steps", "curves"]


def test_units_are_counted(made):
    contract = UnitContract(n_units=5, frame_rate=50.0)
    rows = [
        UnitRow(id="x", units=Units.from_frames(np.array([0, 0, 1, 1, 1, 3]), contract)),
        UnitRow(id="y", units=Units(np.array([1, 1, 3]), None, contract)),
    ]
    use = count("u", rows, {"x": [(0.0, 0.05, "S"), (0.05, 0.12, "AH1")]}, n_units=5, frame_rate=50.0)
    assert use.frames.tolist() == [2, 5, 0, 2, 0]
    assert use.runs.tolist() == [1, 2, 0, 2, 0]
    assert use.dead == [2, 4]
    assert {(i, j): int(use.follows[i, j]) for i, j in np.argwhere(use.follows)} == {(0, 1): 1, (1, 3): 2}
    assert use.phones == ["AH1", "S"]
    assert use.together.tolist() == [[0, 2], [3, 0], [0, 0], [1, 0], [0, 0]]
    assert [manner(p) for p in ("AH1", "ng", "SIL", "ɑ")] == ["vowel", "nasal", "silence", "other"]


def test_each_dump_has_its_histograms_pictures_and_table(made):
    folds = made.page.find("details", class_="use")
    assert [made.page.find("b", f)[0].text for f in folds] == ["labels", "units"]
    dump = Dump(made.store.folder(made.pipeline.steps["units"]))
    frames = np.concatenate([row.units.frames() for row in dump])
    counts = np.bincount(frames, minlength=20)
    rows = made.page.find("tr", folds[1])[1:]
    assert len(rows) == 20
    cells = [[float(td.attrs["data-value"]) for td in made.page.find("td", r)[:4]] for r in rows]
    assert {int(c[0]): int(c[2]) for c in cells} == dict(enumerate(counts.tolist()))
    assert [c[1] for c in cells] == sorted((c[1] for c in cells), reverse=True)
    assert all(len(made.page.find("img", f)) == 2 for f in folds)
    if dead := np.flatnonzero(counts == 0).tolist():
        assert (
            made.page.find("p", folds[1], class_="dead")[0].text
            == f"{len(dead)} of 20 units never occur: {', '.join(map(str, dead))}"
        )


def test_the_same_store_gives_the_same_bytes_and_a_report_is_replaced(made, tmp_path):
    make_report(made.pipeline, Store(made.store.root), tmp_path / "b.html", title="all & <sundry>")
    assert (tmp_path / "b.html").read_bytes() == made.path.read_bytes()
    make_report(made.pipeline, made.store, tmp_path / "b.html", title="another", examples=1)
    assert len(Page(tmp_path / "b.html").find("article")) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["b.html"]


def test_a_file_of_others_is_left_alone(made, tmp_path):
    (tmp_path / "mine.html").write_text("<html>my own</html>")
    for out in (tmp_path / "mine.html", tmp_path):
        with pytest.raises(OutputExistsError, match="is no report of textless"):
            make_report(made.pipeline, made.store, out, title="t")
    assert (tmp_path / "mine.html").read_text() == "<html>my own</html>"


def test_nothing_to_show(made, tmp_path):
    with pytest.raises(PipelineError, match=r"my.yaml is done; `textless run .*my.yaml` makes it"):
        make_report(made.pipeline, Store(tmp_path), tmp_path / "r.html", title="t")
    assert not (tmp_path / "r.html").exists()


def test_what_is_missing_leaves_its_section_out(made, tmp_path):
    steps = made.pipeline.steps
    for names, sections in (
        (["clips", "model", "units"], ["steps", "metrics", "units"]),
        (["teach@rate=0.5"], ["steps", "metrics", "curves"]),
        (["clips", "model", "units", "more"], ["examples", "steps", "metrics", "units"]),
    ):
        make_report(Pipeline({n: steps[n] for n in names}), made.store, tmp_path / "r.html", title="t")
        page = Page(tmp_path / "r.html")
        assert page.sections() == sections
    # Continuations that were not spoken are shown too, the original with its sound.
    assert len(page.find("audio")) == 3
    assert len(page.find("div", class_="seam")) == 6
    assert not page.find("canvas", class_="phones")


def test_an_original_that_is_gone_is_left_out(made, tmp_path):
    """What was made is still there to be heard: the hash of the audio is remembered."""
    original = made.root / "1.wav"
    kept = original.read_bytes()
    try:
        made.store.folder(made.pipeline.steps["ben"])  # keys are known before the file goes
        original.unlink()
        [_, _, example] = find_examples(made.pipeline, made.store, {}, count=8)
    finally:
        original.write_bytes(kept)
    assert example.id == "b"
    assert example.tracks[0].waveform is None
    assert "no such file" in example.tracks[0].note
    assert all(t.waveform is not None for t in example.tracks[1:])


def test_copies_are_shown_and_units_of_predicted_length_are_not(made, tmp_path):
    clips, model, units = (made.pipeline.steps[n] for n in ("clips", "model", "units"))
    pipeline = Pipeline(
        {"copy": CopySynthesis(audio=clips), "free": Resynth(units=units, vocoder=model, durations="predict")}
    )
    pipeline.run(made.store)
    example = find_examples(pipeline, made.store, {}, count=2)[1]
    original, free, copy = example.tracks
    assert (example.id, free.kind, copy.kind) == ("a", "resynthesis", "copy")
    assert np.array_equal(
        copy.waveform, read_audio(made.store.folder(pipeline.steps["copy"]) / "data" / "00000" / "a.wav")
    )
    assert abs(free.total - original.total) > 0.2
    assert not free.rows
    assert "durations predicted" in free.note


def test_long_sounds_are_cut(made, tmp_path):
    """Around the place where a continuation begins, to whole frames."""
    track = material.Track("t", "continuation", prompt=20.0, total=26.0)
    units = np.arange(1300) % 7
    track.rows = [material.Units("u", units, np.ones_like(units), 50.0)]
    material._cut(track, None, 9.0)
    assert (track.start, track.seconds) == (17.0, 9.0)
    assert np.array_equal(track.rows[0].units, units[850:1300])
    assert _limit([40.0] * 10) == 15
    assert sum(min(40.0, _limit([40.0] * 64)) for _ in range(64)) <= 240
    assert _limit([3.0] * 80) == 15


def test_pictures():
    levels = np.arange(64).reshape(4, 16)
    made = png(levels)
    assert made[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", made[16:24]) == (16, 4)
    start = made.index(b"IDAT")
    [length] = struct.unpack(">I", made[start - 4 : start])
    raw = np.frombuffer(zlib.decompress(made[start + 4 : start + 4 + length]), np.uint8).reshape(4, 17)
    assert np.array_equal(raw[:, 1:], levels)
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    kind, picture = content(spectrogram(np.concatenate([np.zeros(8000, np.float32), tone])))
    assert kind == "data:image/png"
    assert struct.unpack(">II", picture[16:24]) == (150, 80)
    assert wave_path(np.array([0.5] * 80 + [-0.25] * 80, np.float32)) == ("M0 -100V-99M1 50V51", 2)


def test_numbers_have_the_digits_that_say_something():
    assert [number(x) for x in (0.123456, 12.3456, 123.456, 0.00012345, 5, 3.0, None, float("nan"))] == [
        "0.123",
        "12.3",
        "123",
        "1.23e-4",
        "5",
        "3",
        "–",
        "nan",
    ]
    assert number(12345.6) == number(12346) == "12\N{NARROW NO-BREAK SPACE}346"
    assert ticks(0.05, 0.32) == [(0.1, "0.1"), (0.2, "0.2"), (0.3, "0.3")]
    assert thinned(range(1000), 4) == [0, 333, 666, 999]


# ------------------------------------------------------------------------------------------------------------ browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


class Browser:
    """Chromium without a window, through chromedriver's protocol: JSON over HTTP, for which the standard library will
    do.
    """

    def __init__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{s.getsockname()[1]}"
        self.driver = subprocess.Popen(
            [DRIVER, f"--port={self.url.rpartition(':')[2]}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.url + "/status").close()
                break
            except OSError:
                time.sleep(0.05)
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--autoplay-policy=no-user-gesture-required",
        ]
        options = {"binary": CHROMIUM, "args": arguments}
        wanted = {"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options}
        self.session = ""
        self.session = "/session/" + self._post("/session", capabilities={"alwaysMatch": wanted})["sessionId"]

    def _post(self, path, **body):
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + self.session + path, json.dumps(body).encode(), head, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as e:
            raise AssertionError(json.load(e)["value"]["message"]) from None

    def devtools(self, command, **options):
        return self._post("/goog/cdp/execute", cmd=command, params=options)

    def open(self, path, *, width=1280, height=900, scheme="light"):
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._post("/url", url=path.as_uri())

    def js(self, script):
        """What `return` in the script gives; of a promise what it comes to."""
        return self._post("/execute/sync", script=script, args=[])

    def mouse(self, selector, share=0.5, kind="click"):
        """Move to a place in an element, `share` of its width from the left, and click."""
        x, y = self.js(
            f"const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            f"const b = e.getBoundingClientRect(); return [b.left + {share} * b.width, b.top + b.height / 2]"
        )
        self.devtools("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for event in ("mousePressed", "mouseReleased") if kind == "click" else ():
            self.devtools("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", clickCount=1)

    def key(self, key):
        for event in ("keyDown", "keyUp"):
            self.devtools("Input.dispatchKeyEvent", type=event, key=key)

    def until(self, condition):
        deadline = time.monotonic() + 20
        while not (value := self.js(f"return {condition}")):
            assert time.monotonic() < deadline, condition
            time.sleep(0.05)
        return value

    def console(self):
        return [entry["message"] for entry in self._post("/se/log", type="browser")]

    def close(self):
        try:
            if self.session:
                request = urllib.request.Request(self.url + self.session, method="DELETE")
                urllib.request.urlopen(request, timeout=20).close()
        finally:
            self.driver.terminate()
            self.driver.wait()


@pytest.fixture(scope="module")
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)")
    it = Browser()
    yield it
    it.close()


def test_in_a_browser_units_are_heard_and_sounds_play(made, browser):
    browser.open(made.path)
    assert browser.js("return document.title") == "all & <sundry>"
    units = "#example-2 .original canvas.units"
    # A click on a unit: its stretch alone is played, and the player is where it begins.
    browser.mouse(units, 0.5)
    track = tracks(made, 1)["original"]
    row = track["rows"][0]
    ends = np.cumsum(row["durations"]) / row["rate"]
    n = int(np.searchsorted(ends, 0.5 * track["seconds"], side="right"))
    start, end = ends[n] - row["durations"][n] / row["rate"], ends[n]
    heard = browser.until("document.querySelector('#example-2 .original').dataset.heard")
    assert heard == f"{start:.3f} {end:.3f}"
    audio = "document.querySelector('#example-2 .original audio')"
    assert browser.js(f"return {audio}.currentTime") == pytest.approx(start, abs=1e-3)
    assert f"unit {row['units'][n]} · " in browser.js(
        "return document.querySelector('#example-2 .original .value').textContent"
    )
    # With the keyboard: the next one.
    browser.js(f"document.querySelector('{units}').focus()")
    browser.key("ArrowRight")
    browser.key("Enter")
    browser.until(f"document.querySelector('#example-2 .original').dataset.heard.startsWith('{end:.3f}')")
    # A click into the spectrogram seeks.
    browser.mouse("#example-2 .original .spectrogram", 0.25)
    assert browser.js(f"return {audio}.currentTime") == pytest.approx(0.25 * track["seconds"], abs=0.02)
    # A player plays, its cursor moves, and another one stops it.
    browser.js(f"return {audio}.play()")
    browser.until(f"{audio}.currentTime > {0.3 * track['seconds']}")
    assert (
        float(browser.js("return parseFloat(document.querySelector('#example-2 .original .cursor').style.left)")) > 25
    )
    browser.js("return document.querySelector('#example-2 .resynthesis audio').play()")
    browser.until(f"{audio}.paused")
    assert browser.console() == []


def test_in_a_browser_tables_sort_and_values_show(made, browser):
    browser.open(made.path)
    column = "[...document.querySelectorAll('.use[open] tbody tr')].map((r) => +r.cells[0].dataset.value)"
    before = browser.js(f"return {column}")
    browser.mouse(".use[open] th:first-child button")
    assert browser.js(f"return {column}") == sorted(before)
    assert browser.js("return document.querySelector('.use[open] th').getAttribute('aria-sort')") == "ascending"
    browser.mouse(".use[open] th:first-child button")
    assert browser.js(f"return {column}") == sorted(before, reverse=True)
    browser.mouse("#curves svg[data-chart]", 0.6, kind="move")
    assert "km" in browser.js("return document.querySelector('#curves .tip:not([hidden])').textContent")
    browser.mouse(".use[open] .map.square", 0.5, kind="move")
    assert re.fullmatch(
        r"unit \d → unit \d: [\d.]+ %",
        browser.js("return document.querySelector('.use[open] .tip:not([hidden])').textContent"),
    )
    assert browser.console() == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_in_a_browser_it_fits_the_screen(made, browser, tmp_path, width, scheme):
    browser.open(made.path, width=width, scheme=scheme)
    assert browser.js("return document.documentElement.scrollWidth") <= width
    paper = browser.js("return getComputedStyle(document.documentElement).backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) < 100) == (scheme == "dark")
    # Units are drawn: the canvas is as wide as its time, and has colours.
    drawn = browser.js(
        "const c = document.querySelector('canvas.units'), d = "
        "c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return [c.width, new Set(Array.from({length: c.width}, (_, x) => d.slice(4 * (12 * c.width "
        "+ x)).slice(0, 3).join())).size]"
    )
    assert drawn[0] > 100
    assert drawn[1] > 3
    shot = base64.b64decode(browser.devtools("Page.captureScreenshot", format="png")["data"])
    (tmp_path / "page.png").write_bytes(shot)
    assert struct.unpack(">I", shot[16:20]) == (width,)
    assert browser.console() == []
