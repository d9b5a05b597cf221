"""The engine by itself: steps that know nothing of speech."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import golden_keys
import numpy as np
import pytest

from conftest import ROOT
from textless.engine.explain import why
from textless.engine.hashes import FileHashes
from textless.engine.pipeline import Pipeline
from textless.engine.shards import ROWS_PER_SHARD, split_rows
from textless.engine.step import Keys, MapStep, Source, Step, added, canonical, path, runtime
from textless.engine.store import Store
from textless.errors import PipelineError, RowsFailedError, StepTypeError, StoreError
from textless.steps import STEPS, BenchmarkData
from textless.steps.common import units_identity
from textless.types import UnitContract, Units
from textless.units.dump import UnitRow

RUNS: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Text(Source):
    type = "text"
    file: str = path()

    def content(self, hash_file):
        return hash_file(self.file)


@dataclass(frozen=True, kw_only=True)
class Upper(Step):
    type = "upper"
    text: Text
    times: int = 1
    workers: int = runtime(1)

    def run(self, job):
        RUNS.append("upper")
        (job.path / "out.txt").write_text(Path(self.text.file).read_text().upper() * self.times)
        job.metrics = {"length": 3}


@dataclass(frozen=True, kw_only=True)
class Join(Step):
    type = "join"
    left: Step
    right: Step
    glue: str = "-"

    def run(self, job):
        RUNS.append("join")
        parts = [(job.inputs[n] / "out.txt").read_text() for n in ("left", "right")]
        (job.path / "out.txt").write_text(self.glue.join(parts))


@dataclass(frozen=True, kw_only=True)
class Rows(MapStep):
    type = "rows"
    count: int
    break_at: str = runtime("")

    def rows(self, job):
        return [SimpleNamespace(id=f"row{i}") for i in range(self.count)]

    def identity(self, row, hash_file):
        return row.id

    def shard_path(self, n):
        return f"data/{n}.txt"

    def shard(self, tools, rows, out):
        RUNS.append("shard")
        out.write_text("".join(r.id + "\n" for r in rows))
        if any(r.id == self.break_at for r in rows):
            raise KeyboardInterrupt
        return [{"id": r.id, "error": "odd"} for r in rows if r.id.endswith("7")]


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "in.txt"
    file.write_text("abc")
    return Text(file=str(file))


@pytest.fixture
def store(tmp_path):
    RUNS.clear()
    return Store(tmp_path / "store")


def graph(text, **kwargs):
    one, two = Upper(text=text), Upper(text=text, times=2)
    both = Join(left=one, right=Upper(text=text, times=2), **kwargs)
    return Pipeline({"text": text, "one": one, "two": two, "both": both})


# --------------------------------------------------------------------------------------------------------------- keys


def test_a_key_is_the_hash_of_the_canonical_payload():
    step = Rows(count=3)
    payload = {"step": "rows", "version": 1, "fields": {"count": 3}, "inputs": {}}
    text = '{"fields":{"count":3},"inputs":{},"step":"rows","version":1}'
    assert canonical(payload) == text
    assert Keys(str).of(step) == hashlib.sha256(text.encode()).hexdigest()


def test_defaults_and_runtime_fields_stay_out(text):
    key = Keys(lambda p: "h").of
    assert key(Upper(text=text)) == key(Upper(text=text, times=1, workers=8))
    assert key(Upper(text=text)) != key(Upper(text=text, times=2))
    assert key(Upper(text=text)) == key(Upper(text=Text(file="/elsewhere")))  # content, not place


def test_inputs_and_version_enter(text, monkeypatch):
    keys = Keys(lambda p: "h")
    one, two = Upper(text=text), Upper(text=text, times=2)
    assert keys.of(Join(left=one, right=two)) != keys.of(Join(left=two, right=one))
    before = keys.of(Upper(text=text))
    monkeypatch.setattr(Upper, "version", 2)
    assert keys.of(Upper(text=text)) != before


@pytest.mark.parametrize("bad", [object(), {1, 2}, Path("x"), float("nan"), {1: 2}, b"x", [object()]])
def test_only_json_values_enter_a_key(bad):
    @dataclass(frozen=True, kw_only=True)
    class Any(Step):
        type = "any"
        value: object = None

    with pytest.raises(StepTypeError, match=r"any\.value"):
        Keys(str).of(Any(value=bad))
    with pytest.raises(TypeError):
        Keys(str).of(Any(value=bad))


def test_keys_are_those_of_before():
    """A key changes only with its step's version, raised on purpose: then run `python tests/golden_keys.py`."""
    assert golden_keys.table() == golden_keys.TABLE.read_text()


def test_keys_are_equal_in_every_process():
    for seed in ("0", "random"):
        code = "import golden_keys; print(golden_keys.table(), end='')"
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
        assert (
            subprocess.check_output([sys.executable, "-c", code], env=env, text=True) == golden_keys.TABLE.read_text()
        )


def test_every_step_type_has_a_golden_key():
    assert {line.split()[2] for line in golden_keys.TABLE.read_text().splitlines()} == set(STEPS)


def test_a_field_added_later_changes_no_key_while_it_has_its_default():
    @dataclass(frozen=True, kw_only=True)
    class Before(MapStep):
        type = "grown"
        times: int = 2

        def identity(self, row, hash_file):
            return row

    @dataclass(frozen=True, kw_only=True)
    class After(Before):
        loud: bool = added(False)

    keys = Keys(str)
    assert keys.of(After()) == keys.of(Before())
    assert keys.shard(After(), ["row"]) == keys.shard(Before(), ["row"])
    assert keys.of(After(loud=True)) != keys.of(Before())
    assert keys.shard(After(loud=True), ["row"]) != keys.shard(Before(), ["row"])


def test_rows_of_units_enter_keys_as_before():
    contract = UnitContract(encoder="mfcc", frame_rate=50.0, n_units=9)
    row = UnitRow(
        "a", Units([1, 2], [3, 4], contract), speaker="s", source="a.wav", offset=0, samples=7, extra={"x": 1}
    )
    text = (
        "UnitContract(encoder='mfcc', layer=None, window=None, normalisation=None, transform=None, sample_rate=None, "
        "frame_rate=50.0, n_units=9, codebook=None)"
    )
    numbers = np.array([1, 2], np.int64).tobytes() + b"/" + np.array([3, 4], np.int64).tobytes()
    digest = hashlib.sha256(numbers + text.encode()).hexdigest()
    assert units_identity(row) == ["a", digest, "s", "a.wav", 0, 7, "[('x', 1)]"]


# -------------------------------------------------------------------------------------------------------------- store


def test_runs_once_and_publishes_whole(text, store):
    pipeline = graph(text)
    made = pipeline.run(store)
    assert (made["both"] / "out.txt").read_text() == "ABC-ABCABC"
    assert sorted(RUNS) == ["join", "upper", "upper"]  # the two equal steps are one
    RUNS.clear()
    assert pipeline.run(store) == made
    assert pipeline.plan(store) == []
    assert RUNS == []
    manifest = json.loads((made["both"] / "manifest.json").read_text())
    assert manifest["files"] == {"out.txt": {"size": 10, "sha256": hashlib.sha256(b"ABC-ABCABC").hexdigest()}}
    assert manifest["attempts"] == 1
    assert manifest["lineage"][manifest["key"]] == manifest["payload"]
    assert not any(p.is_dir() for p in (store.root / "work").iterdir())


def test_content_decides_not_place_or_time(text, store, tmp_path):
    store.run(Upper(text=text))
    moved = tmp_path / "moved.txt"
    os.rename(text.file, moved)
    os.utime(moved, (0, 0))
    assert Store(store.root).has(Upper(text=Text(file=str(moved))))
    moved.write_text("abd")
    assert not Store(store.root).has(Upper(text=Text(file=str(moved))))


def test_file_hashes_are_remembered(text, store):
    store.keys.of(text)
    store.save_hashes()
    known = json.loads((store.root / "hashes.json").read_text())
    assert list(known) == [text.file]
    known[text.file][-1] = "f" * 64  # a stat is enough: the file is not read again
    (store.root / "hashes.json").write_text(json.dumps(known))
    assert Store(store.root).keys.of(text) != store.keys.of(text)
    size, mtime, _, _, digest = known[text.file]
    (store.root / "hashes.json").write_text(
        json.dumps({text.file: [size, mtime, digest]})
    )  # as earlier versions wrote it
    assert Store(store.root).keys.of(text) == store.keys.of(text)


@pytest.mark.parametrize("how", ["in its place", "by a rename"])
def test_other_bytes_of_the_same_size_and_time_are_others(how, tmp_path):
    path, memory = tmp_path / "a.txt", tmp_path / "hashes.json"
    path.write_text("abc")
    os.utime(path, (1e9, 1e9))
    hashes = FileHashes(memory)
    before = hashes(str(path))
    hashes.save()
    place = path if how == "in its place" else tmp_path / "new.txt"
    place.write_text("abd")
    os.utime(place, (1e9, 1e9))  # as `cp -p` and `rsync -t` leave it
    place.replace(path)
    again = FileHashes(memory)
    assert again(str(path)) == hashlib.sha256(b"abd").hexdigest() != before
    assert again.changed == [str(path)]


def test_a_failed_step_leaves_nothing_and_is_not_cached(text, store, monkeypatch):
    monkeypatch.setattr(Upper, "run", lambda self, job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.run(Upper(text=text))
    assert not store.has(Upper(text=text))
    monkeypatch.undo()
    store.run(Upper(text=text))
    assert store.manifest(Upper(text=text))["attempts"] == 2


def test_an_edited_default_is_refused_and_a_new_one_is_a_hit(text, store, monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Newer(Upper):
        times: int = 1
        extra: str | None = None

    @dataclass(frozen=True, kw_only=True)
    class Edited(Upper):
        times: int = 3

    store.run(Upper(text=text))
    assert store.has(Newer(text=text))
    with pytest.raises(StoreError, match=r"default of times was edited from 1 to 3.*bump the version of step upper"):
        store.has(Edited(text=text))


@pytest.mark.filterwarnings("ignore:.* counts as not there")
@pytest.mark.parametrize("damage", ['{"step": ', "", "[]", "{}", "\0\0"])
def test_a_damaged_artefact_is_made_again_and_kept_aside(text, store, damage):
    folder = store.run(Upper(text=text))
    (folder / "manifest.json").write_text(damage)
    (folder / "out.txt").write_text("precious")
    assert not store.has(Upper(text=text))
    assert list(store.manifests()) == []
    assert (store.run(Upper(text=text)) / "out.txt").read_text() == "ABC"
    assert RUNS == ["upper", "upper"]
    assert [p.read_text() for p in (store.root / "damaged").glob("*/out.txt")] == ["precious"]


def test_another_key_that_begins_alike_is_not_taken_for_ours(text, store):
    folder = store.run(Upper(text=text))
    manifest = json.loads((folder / "manifest.json").read_text())
    other = manifest["key"][:12] + "0" * 52
    (folder / "manifest.json").write_text(
        json.dumps({**manifest, "key": other, "lineage": {**manifest["lineage"], other: manifest["payload"]}})
    )
    with pytest.raises(StoreError, match="made from something else, whose key begins alike"):
        store.has(Upper(text=text))


def test_a_store_that_cannot_be_written(text, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file: not a folder; give another place with --store"):
        Store(tmp_path / "file").run(Upper(text=text))


def test_a_vanished_source_is_named(store, tmp_path):
    with pytest.raises(StoreError, match=r"gone\.txt: No such file"):
        store.has(Upper(text=Text(file=str(tmp_path / "gone.txt"))))


@pytest.mark.parametrize(
    "name", sorted(name for name, step in STEPS.items() if any(f.name == "seed" for f in fields(step)))
)
def test_the_seed_of_every_step_enters_its_key(name, text):
    step = STEPS[name]
    needed = {f.name: Upper(text=text) for f in fields(step) if f.default is MISSING}
    needed |= {field: 1 for field in ("n_units", "steps") if field in needed}
    benchmark = {"data": BenchmarkData(name="abx", folder=str(Path(text.file).parent)), "units": Upper(text=text)}
    special = {"abx": {"items": Upper(text=text)}, "train_lm": {"steps": 1}, "benchmark": benchmark}
    special["probe"] = {"column": "speaker"}
    needed |= special.get(name, {})
    keys = {Keys(lambda p: "0").of(step(**needed, seed=seed)) for seed in (0, 1, 2)}
    assert len(keys) == 3


# ---------------------------------------------------------------------------------------------------------- map steps


def test_shards_partition_rows_whatever_their_order():
    rows = [SimpleNamespace(id=str(i)) for i in range(300)]
    shards = split_rows(rows)
    assert len(shards) == 8
    assert sorted(int(r.id) for s in shards for r in s) == list(range(300))
    there = {r.id: n for n, s in enumerate(shards) for r in s}
    assert there == {r.id: n for n, s in enumerate(split_rows(rows[::-1])) for r in s}
    for count in (0, 1, ROWS_PER_SHARD, ROWS_PER_SHARD + 1, 1519):
        n = len(split_rows(rows[:1] * count))
        assert n & (n - 1) == 0
        assert count <= n * ROWS_PER_SHARD


def test_shards_by_number():
    """Sixty-four rows to a shard at most, and a power of two of shards."""
    rows = [SimpleNamespace(id=str(i)) for i in range(300)]
    assert [len(split_rows(rows[:n])) for n in (0, 1, 64, 65, 128, 129, 256, 257)] == [1, 1, 1, 2, 2, 4, 4, 8]


def test_an_interrupted_map_goes_on_where_it_was(store):
    total = len(split_rows(Rows(count=500).rows(None)))
    last = split_rows(Rows(count=500).rows(None))[total - 2][0].id
    with pytest.raises(KeyboardInterrupt):
        store.run(Rows(count=500, break_at=last))
    assert RUNS.count("shard") == total - 1
    assert not store.has(Rows(count=500))
    RUNS.clear()
    folder = store.run(Rows(count=500))  # a runtime field is not in the key
    assert RUNS.count("shard") == 2
    undisturbed = Store(store.root.parent / "other").run(Rows(count=500))
    for file in (p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"):
        assert (folder / file).read_bytes() == (undisturbed / file).read_bytes()
    assert len(list((folder / "data").iterdir())) == total
    failures = [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]
    assert len(failures) == 50
    assert store.manifest(Rows(count=500))["failures"] == 50


def test_all_rows_failed_is_an_error_that_is_not_kept(store, monkeypatch):
    def away(self, tools, rows, out):
        out.write_text("")
        return [{"id": r.id, "error": "away"} for r in rows]

    monkeypatch.setattr(Rows, "shard", away)
    with pytest.raises(RowsFailedError, match="none of the 9 rows could be done; the first: away"):
        store.run(Rows(count=9))
    monkeypatch.undo()
    assert len((store.run(Rows(count=9)) / "data" / "0.txt").read_text().split()) == 9


def test_killed_while_running(tmp_path):
    """SIGKILL in the middle of a map, and the same call again."""
    code = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_engine as t
        from textless.engine.store import Store
        slow = t.Rows.shard
        t.Rows.shard = lambda self, tools, rows, out: (time.sleep(0.05), slow(self, tools, rows, out))[1]
        Store({str(tmp_path / "store")!r}).run(t.Rows(count=500))
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])

    def finished():
        return [*tmp_path.glob("store/shards/[!.]*"), *tmp_path.glob("store/work/*/scratch/shards/[!.]*")]

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(finished()) < 2:
        time.sleep(0.01)
    child.kill()
    child.wait()
    done = len(finished())
    assert done >= 2
    RUNS.clear()
    store = Store(tmp_path / "store")
    folder = store.run(Rows(count=500))
    assert RUNS.count("shard") == len(list((folder / "data").iterdir())) - done
    assert store.manifest(Rows(count=500))["attempts"] == 2
    assert not list(folder.rglob(".*"))


def test_two_processes_do_the_work_once(tmp_path):
    code = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_engine as t
        from textless.engine.store import Store
        run = t.Rows.run
        t.Rows.run = lambda self, job: (time.sleep(0.5), run(self, job))[1]
        Store({str(tmp_path / "store")!r}).run(t.Rows(count=9))
        print(len(t.RUNS))
    """
    children = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert sorted(c.communicate()[0].strip() for c in children) == ["0", "1"]


# ---------------------------------------------------------------------------------------------------------- pipelines


def test_only_what_is_missing_is_asked_for(text, store):
    pipeline = graph(text)
    pipeline.run(store)
    store.drop(pipeline.steps["one"])
    assert pipeline.plan(store, ["both"]) == []
    assert [pipeline.name_of(s) for s in pipeline.plan(store, ["one"])] == ["one"]


def test_temporary_artefacts_are_dropped(text, store):
    pipeline = graph(text)
    pipeline.temporary = {"one"}
    pipeline.run(store, ["both"])
    assert pipeline.state(store, "one") == "missing"
    assert pipeline.state(store, "both") == "done"
    assert pipeline.state(store, "text") == "source"
    assert pipeline.plan(store, ["both"]) == []
    pipeline.run(store, ["one"])
    assert pipeline.state(store, "one") == "done"  # it was asked for


def test_what_a_kill_behind_the_publication_left_is_swept_up(text, store):
    pipeline = graph(text)
    pipeline.run(store)
    left = store.work(pipeline.steps["one"]) / "scratch"
    left.mkdir(parents=True)
    (left / "checkpoint.pt").write_text("large")
    RUNS.clear()
    pipeline.run(store)
    assert not left.parent.exists()
    assert RUNS == []


def test_what_is_dropped_leaves_no_shards_but_those_that_others_hold(store):
    @dataclass(frozen=True, kw_only=True)
    class Some(Rows):
        type = "some"
        rows_from = ()
        first: int = runtime(0)

        def rows(self, job):
            return [SimpleNamespace(id=f"r{i}x") for i in range(self.first, self.count)]

    few, many = Some(count=64), Some(count=128)
    pipeline = Pipeline({"few": few, "many": many}, temporary={"many"})
    pipeline.run(store, ["few", "many"])
    assert len(list((store.root / "shards").iterdir())) == 3
    store.drop(many)
    assert [p.name for p in (store.root / "shards").iterdir()] == store.manifest(few)["shards"]
    store.drop(few)
    assert not list((store.root / "shards").iterdir())
    assert not list((store.root / "artefacts").iterdir())


def test_a_shard_that_goes_while_it_is_wanted_is_made_again(store, monkeypatch):
    from textless.engine.shards import Pool

    store.run(Rows(count=6))
    store.drop(Rows(count=6))
    place, gone = Pool.place, []

    def once_gone(self, key, target):
        if not gone:
            gone.append(key)
            self.drop(key, lambda folder: shutil.rmtree(folder))
        return place(self, key, target)

    monkeypatch.setattr(Pool, "place", once_gone)
    folder = store.run(Rows(count=6))
    assert gone
    assert len((folder / "data" / "0.txt").read_text().split()) == 6


def test_why_down_to_the_cause(text, store):
    graph(text).run(store)
    assert why(graph(text), store, "both")[0].startswith("both is done")
    assert why(graph(text, glue="+"), store, "both")[1:] == ["  both.glue: the default → +"]
    Path(text.file).write_text("changed")
    fresh = Store(store.root)
    changed = graph(Text(file=text.file))
    assert why(changed, fresh, "both")[1:] == ["  both.left.text: its content changed"]  # reported once
    third = Path(text.file).with_name("third.txt")
    third.write_text("third")
    fresh.run(Upper(text=Text(file=str(third)), times=7))  # newer, but further away
    assert why(changed, fresh, "two")[1:] == ["  two.text: its content changed"]
    assert "never been made" in why(Pipeline({"r": Rows(count=1)}), fresh, "r")[0]
    with pytest.raises(PipelineError, match=r"no step 'bth'.*did you mean 'both'"):
        why(changed, fresh, "bth")


def test_source_drift_is_shown(text, store):
    folder = store.run(Upper(text=text))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "source": "0" * 64}))
    assert "the source code has changed since" in why(Pipeline({"u": Upper(text=text)}), store, "u")[1]
