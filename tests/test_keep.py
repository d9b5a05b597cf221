"""What is kept and what may go, what it is worth, how it came about: garbage, verification, tables, estimates,
provenance.
"""

import json
import os
import random
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from textless.engine import gc as keep
from textless.engine.estimate import estimate
from textless.engine.explain import provenance
from textless.engine.gc import garbage, remove
from textless.engine.lease import Lease
from textless.engine.manifest import damage
from textless.engine.pipeline import Pipeline
from textless.engine.step import MapStep, Source, Step, path
from textless.engine.store import Store
from textless.engine.table import Table, tables, text
from textless.errors import PipelineError


@dataclass(frozen=True, kw_only=True)
class Words(Source):
    type = "words"
    file: str = path()

    def content(self, hash_file):
        return hash_file(self.file)


@dataclass(frozen=True, kw_only=True)
class Node(Step):
    """Sums its inputs' numbers and its own."""

    type = "node"
    a: Step | None = None
    b: Step | None = None
    number: int

    def run(self, job):
        total = self.number + sum(int((folder / "sum").read_text()) for folder in job.inputs.values())
        (job.path / "sum").write_text(str(total))
        job.metrics = {"sum": total, "curve": [3.0, 2.0, 1.5], "part": {"half": total / 2, "why": "text"}}


@dataclass(frozen=True, kw_only=True)
class Train(Step):
    type = "train"
    steps: int
    lr: float = 1.0

    def run(self, job):
        job.progress(self.steps, self.steps, "steps")


@dataclass(frozen=True, kw_only=True)
class Rows(MapStep):
    type = "rows"
    rows_from = ("count",)
    count: Step

    def rows(self, job):
        return [SimpleNamespace(id=f"row{i}") for i in range(int((job.inputs["count"] / "sum").read_text()))]

    def identity(self, row, hash_file):
        return row.id

    def shard_path(self, n):
        return f"data/{n}.txt"

    def shard(self, tools, rows, out):
        out.write_text(" ".join(r.id for r in rows))
        return []


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def age(root: Path, days: float) -> None:
    """Make everything in the store, and the records of runs, older."""
    then = time.time() - days * keep.DAY
    for p in root.rglob("*"):
        os.utime(p, (then, then))
    for file in (root / "runs").glob("*.json"):
        run = json.loads(file.read_text())
        file.write_text(json.dumps({**run, "when": run["when"] - days * keep.DAY}))
        os.utime(file, (then, then))


# ------------------------------------------------------------------------------------------------------------ garbage


def random_pipeline(rng: random.Random) -> Pipeline:
    nodes: list[Step] = []
    for _ in range(rng.randint(2, 7)):
        parents = {name: rng.choice(nodes) for name in "ab" if nodes and rng.random() < 0.7}
        nodes.append(Node(number=rng.randint(0, 3), **parents))
    pipeline = Pipeline({f"n{i}": node for i, node in enumerate(nodes)})
    pipeline.temporary = {name for name in pipeline.steps if rng.random() < 0.2}
    return pipeline


@pytest.mark.parametrize("seed", range(20))
def test_garbage_is_never_what_a_kept_run_needs(store, seed):
    """Random graphs run at random times: what the recent ones need is there and whole, nothing else is."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 4)):
        random_pipeline(rng).run(store)
        age(store.root, rng.choice([10, 40]))
    kept = [(p := random_pipeline(rng), p.run(store)) for _ in range(rng.randint(1, 4))]
    before = {p.name for p in (store.root / "artefacts").iterdir()}
    needed = {
        name
        for _, run in keep.records(store.root)
        if run["when"] > time.time() - 30 * keep.DAY
        for name in run["needed"]
    }
    for folder, _ in list(garbage(store.root, days=30)):
        assert remove(store.root, folder, days=30)
    left = {p.name for p in (store.root / "artefacts").iterdir()}
    assert needed & before <= left
    for pipeline, folders in kept:
        assert all(damage(folder) == [] for folder in folders.values())
        assert pipeline.plan(store) == []
    unaged = {p.name for p in (store.root / "artefacts").iterdir() if p.stat().st_mtime > time.time() - 30 * keep.DAY}
    assert left <= needed | unaged


def test_what_a_run_wants_by_now_is_not_removed(store):
    pipeline = Pipeline({"n": Node(number=1)})
    pipeline.run(store)
    age(store.root, 40)
    found = [folder for folder, _ in garbage(store.root, days=30)]
    assert found == [store.folder(pipeline.steps["n"])]
    pipeline.run(store)  # between the list and the removal
    assert not remove(store.root, found[0], days=30)
    assert store.has(pipeline.steps["n"])


def test_a_running_step_and_its_work_are_not_garbage(store):
    work = store.root / "work" / "node-0123456789ab"
    (work / "scratch").mkdir(parents=True)
    lease = Lease(store.root / "work" / f"{work.name}.lease")
    assert lease.take()
    age(store.root, 40)
    with lease.held():
        assert list(garbage(store.root, days=30)) == []
    assert [folder for folder, _ in garbage(store.root, days=30)] == [work]


def test_shards_go_when_no_artefact_holds_them(store):
    pipeline = Pipeline({"rows": Rows(count=(n := Node(number=100))), "n": n})
    pipeline.run(store, ["rows"])
    shards = sorted((store.root / "shards").iterdir())
    assert len(shards) == 2
    age(store.root, 40)
    Pipeline({"n": n}).run(store)
    for folder, size in garbage(store.root, days=30):
        assert size > 0
        assert remove(store.root, folder, days=30)
    assert not list((store.root / "shards").iterdir())
    assert [p.name for p in (store.root / "artefacts").iterdir()] == [store.name(n)]


def test_gc_lists_and_removes_on_yes(textless_command, store):
    Pipeline({"n": Node(number=1)}).run(store)
    age(store.root, 40)
    folder = store.folder(Node(number=1))
    code, out, err = textless_command("gc", "--store", store.root)
    assert code == 0
    assert str(folder) in out
    assert "1 folders, 0.0 MB; --yes removes them" in err
    assert folder.exists()
    assert textless_command("gc", "--store", store.root, "--days", 50)[1] == ""
    assert str(folder) in textless_command("gc", "--store", store.root, "--yes")[1]
    assert not folder.exists()
    assert not list((store.root / "runs").iterdir())


# ------------------------------------------------------------------------------------------------------- verification


def test_damage_is_found(store):
    folder = store.run(Node(number=1))
    assert damage(folder) == []
    (folder / "sum").write_text("2")
    assert damage(folder) == [f"{folder / 'sum'}: its bytes changed"]
    (folder / "sum").write_text("22")
    assert damage(folder) == [f"{folder / 'sum'}: 2 bytes, not 1"]
    (folder / "sum").rename(folder / "total")
    assert damage(folder) == [f"{folder / 'sum'}: missing", f"{folder / 'total'}: was not there when it was made"]
    (folder / "total").rename(folder / "sum")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": {"sum": 2}}))  # as before hashes were kept
    assert damage(folder) == []
    (folder / "manifest.json").write_text("{")
    assert damage(folder) == [f"{folder / 'manifest.json'}: missing or damaged"]


def test_verify(textless_command, store):
    store.run(Node(number=1))
    folder = store.run(Node(number=2))
    assert textless_command("verify", "--store", store.root)[:2] == (0, "")
    (folder / "sum").write_text("7")
    code, out, err = textless_command("verify", "--store", store.root)
    assert (code, out) == (1, f"{folder / 'sum'}: its bytes changed\n")
    assert "1 of 2 artefacts are damaged; remove their folders and run again" in err


# ------------------------------------------------------------------------------------------- figures, times, provenance


def test_figures_side_by_side(store):
    pipeline = Pipeline({f"n@x={n}": Node(number=n) for n in (1, 2)}, variants={f"n@x={n}": {"x": n} for n in (1, 2)})
    assert tables(pipeline, store) == []
    pipeline.run(store)
    (table,) = tables(pipeline, store)
    rows = {"n@x=1": [1, 1, 1.5, 0.5], "n@x=2": [2, 2, 1.5, 1.0]}
    assert table == Table("node", ["x", "sum", "curve", "part.half"], rows)
    assert text([table]).splitlines() == [
        "node   x  sum  curve  part.half",
        "n@x=1  1    1    1.5        0.5",
        "n@x=2  2    2    1.5          1",
    ]
    assert list(tables(pipeline, store, ["n@x=2"])[0].rows) == ["n@x=2"]
    assert list(tables(pipeline, store, ["n"])[0].rows) == ["n@x=1", "n@x=2"]


def test_what_a_step_compares_stands_beside_it(store):
    @dataclass(frozen=True, kw_only=True)
    class Less(Node):
        type = "less"

        def compared(self):
            return (self.a,)

    one, two = Node(number=1), Node(number=2)
    pipeline = Pipeline({"one": one, "two": two, "less": Less(number=3, a=two, b=one)})
    pipeline.run(store)
    assert [list(table.rows) for table in tables(pipeline, store, ["less"])] == [["two"], ["less"]]


def test_a_wide_table_is_turned_on_its_side():
    table = Table("t", [f"figure_of_some_length_{i}" for i in range(9)], {"a": [1.23456789] * 9, "b": [None] * 9})
    lines = text([table]).splitlines()
    assert lines[0].split() == ["t", "a", "b"]
    assert lines[1].split() == ["figure_of_some_length_0", "1.235"]
    assert len(lines) == 10


def test_intervals_stand_beside_their_figures():
    table = Table("t", ["x", "x_low", "x_high", "y_low"], {"a": [1.5, 1.0, 2.0, 3], "b": [1.5, None, None, None]})
    assert text([table]).splitlines() == ["t           x  y_low", "a  1.5 [1, 2]      3", "b         1.5       "]


def test_time_is_told_from_the_nearest_of_its_kind(store):
    assert estimate(store, [Train(steps=10)]) == [None]
    for step, seconds in ((Train(steps=10), 5.0), (Train(steps=10, lr=2.0), 50.0)):
        folder = store.run(step)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "seconds": seconds}))
    assert estimate(store, [Train(steps=40), Train(steps=40, lr=2.0), Node(number=1)]) == [20.0, 200.0, None]


def test_only_missing_shards_take_time(store):
    small, large = Node(number=100), Node(number=128)
    for step in (small, large, Rows(count=small)):
        store.run(step)
    folder = store.folder(Rows(count=small))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["amount"] == 2
    (folder / "manifest.json").write_text(json.dumps({**manifest, "seconds": 8.0}))
    assert estimate(store, [Rows(count=large)]) == [8.0]
    assert estimate(store, [Rows(count=Node(number=1000))]) == [8.0]  # its rows are not known yet
    (store.root / "shards" / store.keys.shard(Rows(count=large), [])).mkdir()  # of no shard that is asked for
    assert estimate(store, [Rows(count=large)]) == [8.0]
    store.run(Rows(count=large))
    shutil.rmtree(store.folder(Rows(count=large)))
    assert estimate(store, [Rows(count=large)]) == [0.0]


def test_provenance_goes_down_to_the_sources(store, tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("one")
    words = Words(file=str(file))
    below = Node(number=1, a=words)
    Pipeline({"top": (top := Node(number=2, a=below, b=below))}).run(store)
    store.drop(below)
    lines = provenance(store, "top", top)
    assert lines[0] == f"top: {store.name(top)}, version 1, number 2"
    assert lines[1].startswith("  made 2")
    assert " s with python 3." in lines[1]
    assert lines[2:] == [
        f"  a: {store.name(below)}, version 1, number 1",
        "    no longer in the store",
        f"    a: words {store.keys.of(words)[:12]}, file {file}",
        f"  b: {store.name(below)}, as above",
    ]


# ------------------------------------------------------------------------------------------------- on the command line


RECIPE = """
steps:
  corpus: {manifest: speech}
  mfcc:   {step: frames, audio: $corpus, encoder: mfcc}
  km:     {step: kmeans, frames: $mfcc, n_units: 4, iterations: 2, restarts: 1}
  units:  {step: encode, audio: $corpus, encoder: mfcc, codebook: $km}
sweep: {km.n_units: [4, 5]}
"""


@pytest.fixture
def recipe(speech, tmp_path):
    (tmp_path / "sweep.yaml").write_text(RECIPE)
    return tmp_path / "sweep.yaml"


def test_a_sweep_from_the_command_line(textless_command, recipe, store):
    where = ("--store", store.root)
    code, out, err = textless_command("run", recipe, "--dry-run", *where)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "mfcc",
        "km@km.n_units=4",
        "units@km.n_units=4",
        "km@km.n_units=5",
        "units@km.n_units=5",
    ]
    assert "5 of 6 steps would run" in err
    assert "about" not in out
    with pytest.raises(PipelineError, match="no figures yet"):
        raise_of(textless_command("table", recipe, *where))
    assert textless_command("run", recipe, "km@km.n_units=5", *where)[0] == 0
    code, out, err = textless_command("run", recipe, "--dry-run", *where)
    assert re.search(r"about \d+\.\d s$", out.splitlines()[0])
    assert textless_command("run", recipe, *where)[0] == 0
    out = textless_command("table", recipe, "km", *where)[1]
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["kmeans", "km.n_units"],
        ["km@km.n_units=4", "4"],
        ["km@km.n_units=5", "5"],
    ]
    rows = textless_command("table", recipe, "--csv", *where)[1].splitlines()
    assert rows[0] == "step,type,figure,value"
    assert "km@km.n_units=5,kmeans,km.n_units,5" in rows
    out = textless_command("show", recipe, "units@km.n_units=5", "--provenance", *where)[1]
    assert out.splitlines()[1].startswith("units@km.n_units=5: encode-")
    assert "corpus" in out
    assert textless_command("verify", recipe, *where)[0] == 0
    assert textless_command("why", recipe, "km", *where)[1].count("is done") == 2


def test_pushed_and_pulled_from_the_command_line(textless_command, recipe, store, tmp_path):
    url, where, there = f"file://{tmp_path / 'remote'}", ("--store", store.root), ("--store", tmp_path / "other")
    assert textless_command("run", recipe, "units@km.n_units=4", *where)[0] == 0
    code, out, err = textless_command("push", url, recipe, *where)
    assert (code, len(out.split())) == (0, 3)
    assert "3 of 3 artefacts sent" in err
    code, out, err = textless_command("pull", url, recipe, "units@km.n_units=4", *there)
    assert (code, out.split()) == (0, [store.name(step) for step in steps_of(recipe, "units@km.n_units=4")])
    assert "1 artefacts copied, 0 steps left" in err
    code, out, err = textless_command("pull", url, recipe, *there)
    assert "1 artefacts copied, 2 steps left" in err  # mfcc, for the other codebook
    assert textless_command("run", recipe, *there)[0] == 0


def steps_of(recipe, name):
    from textless.engine.yaml import load_pipeline
    from textless.steps import STEPS

    return [load_pipeline(recipe, STEPS).steps[name]]


def raise_of(answer):
    code, _, err = answer
    assert code == 2
    raise PipelineError(err)


@pytest.mark.parametrize("on", ["loky", "loky:0", "loky:many", "spark:4", "dask:", "dask:tcp://127.0.0.1:1"])
def test_workers_that_are_not_there(textless_command, recipe, store, monkeypatch, on):
    monkeypatch.setattr("textless.engine.shards.ANSWER", 0.5)
    pytest.importorskip("distributed") if on.startswith("dask:t") else None
    code, _, err = textless_command("run", recipe, "mfcc", "--store", store.root, "--on", on)
    assert code == 2
    assert f"--on {on}: " in err
    assert len(err.strip().splitlines()[-1].split("error:")) == 2


def test_a_run_can_end_in_tables_and_a_page(textless_command, recipe, store, tmp_path):
    page = tmp_path / "page.html"
    code, out, _ = textless_command("run", recipe, "units", "--store", store.root, "--table", "--report", page)
    assert code == 0
    assert str(page) in out
    assert "<h1" in page.read_text()
    assert any(line.startswith("encode ") and "frames" in line for line in out.splitlines())
    again = tmp_path / "again.html"
    assert textless_command("report", recipe, "--store", store.root, "-o", again, "--examples", 2)[:2] == (
        0,
        f"{'report':12} {again}\n",
    )
    again.write_text("mine")
    code, _, err = textless_command("report", recipe, "--store", store.root, "-o", again)
    assert (code, again.read_text()) == (2, "mine")
    assert "again.html" in err
