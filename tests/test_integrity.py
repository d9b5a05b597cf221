"""Artefacts, shards and records whose files are not what was written: found, made again, or refused in one line; never
taken for whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
from test_keep import Node, Rows

from textless.engine.hashes import FileHashes
from textless.engine.manifest import Digests, damage, parse_manifest, read_manifest
from textless.engine.pipeline import Pipeline
from textless.engine.shards import shard_damage
from textless.engine.store import Store
from textless.errors import StoreError

pytestmark = pytest.mark.filterwarnings("ignore:.* counts as not there")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def flip(path: Path) -> None:
    """Turn a bit and keep the times, as a failing disk does."""
    times, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    with open(path, "r+b") as f:
        f.write(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "manifest.json"
    }


def rows(count: int = 100) -> Pipeline:
    return Pipeline({"n": (n := Node(number=count)), "rows": Rows(count=n)})


# ------------------------------------------------------------------------------------------------------------- shards


def test_a_shard_carries_the_hashes_of_its_files(store):
    folder = rows().run(store, ["rows"])["rows"]
    for shard in (store.root / "shards").iterdir():
        about = json.loads((shard / "shard.json").read_text())
        assert about["sha256"] == {".": hashlib.sha256((shard / "result").read_bytes()).hexdigest()}
    (store.root / "shards").rename(store.root / "away")
    assert {p.read_bytes() for p in (folder / "data").iterdir()} == {
        (s / "result").read_bytes() for s in (store.root / "away").iterdir()
    }


def test_a_turned_bit_is_not_linked_back(store):
    """An artefact and the pool have one file between them.

    What is made again has the bytes that were written, not the turned ones.
    """
    folder = rows().run(store, ["rows"])["rows"]
    want = contents(folder)
    flip(folder / "data" / "1.txt")
    assert len(damage(folder)) == 1
    shutil.rmtree(folder)
    assert contents(rows().run(Store(store.root), ["rows"])["rows"]) == want
    assert all(shard_damage(shard, Digests()) == [] for shard in (store.root / "shards").iterdir())


def test_only_the_damaged_shard_is_made_again(store, monkeypatch):
    folder = rows(500).run(store, ["rows"])["rows"]
    want, done, shard = contents(folder), [], Rows.shard
    flip(folder / "data" / "3.txt")
    shutil.rmtree(folder)
    monkeypatch.setattr(
        Rows, "shard", lambda self, tools, some, out: (done.append(out), shard(self, tools, some, out))[1]
    )
    assert contents(rows(500).run(Store(store.root), ["rows"])["rows"]) == want
    assert len(done) == 1


def test_a_disk_that_never_gives_back_what_was_written_is_told(store, monkeypatch):
    class Failing(Digests):
        def __call__(self, path):
            return hashlib.sha256(os.urandom(8)).hexdigest()

    monkeypatch.setattr("textless.engine.job.Digests", Failing)
    with pytest.raises(
        StoreError, match=r"shards: shards are gone or damaged as soon as they are made; check the disk"
    ):
        rows().run(store, ["rows"])


def test_a_shard_of_an_older_version_has_no_hashes_and_serves(store):
    folder = rows().run(store, ["rows"])["rows"]
    want = contents(folder)
    for file in (store.root / "shards").glob("*/shard.json"):
        about = json.loads(file.read_text())
        file.write_text(json.dumps({k: about[k] for k in ("failures", "sizes")}))
    shutil.rmtree(folder)
    assert contents(rows().run(Store(store.root), ["rows"])["rows"]) == want
    assert read_manifest(folder)["amount"] == 0


ABOUTS = [
    "",
    "[]",
    "null",
    "{}",
    '{"failures": 5, "sizes": {}}',
    '{"failures": [1], "sizes": {}}',
    '{"failures": [], "sizes": []}',
]
ABOUTS += ['{"failures": [], "sizes": {".": 1}, "sha256": {}}', "[" * 100_000]


@pytest.mark.parametrize("about", ABOUTS, ids=range(len(ABOUTS)))
def test_a_damaged_shard_json(store, about):
    folder = rows().run(store, ["rows"])["rows"]
    want = contents(folder)
    shutil.rmtree(folder)
    shard = next((store.root / "shards").iterdir())
    (shard / "shard.json").write_text(about)
    assert shard_damage(shard, Digests()) == [f"{shard / 'shard.json'}: missing or damaged"]
    assert contents(rows().run(Store(store.root), ["rows"])["rows"]) == want
    assert shard_damage(shard, Digests()) == []


def test_verify_reads_shards_too_each_file_once(textless_command, store, monkeypatch):
    folder = rows().run(store, ["rows"])["rows"]
    assert textless_command("verify", "--store", store.root)[::2] == (
        0,
        "0 of 2 artefacts and 0 of 2 shards are damaged\n",
    )
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, kind: read.append(f.name) or digest(f, kind))
    textless_command("verify", "--store", store.root)
    assert len(read) == 3  # the number, and two files that an artefact and a shard have between them
    shutil.rmtree(folder)
    shard = next((store.root / "shards").iterdir())
    flip(shard / "result")
    code, out, err = textless_command("verify", "--store", store.root)
    assert (code, out) == (1, f"{shard / 'result'}: its bytes changed\n")
    assert "0 of 1 artefacts and 1 of 2 shards are damaged; remove their folders and run again" in err


# ---------------------------------------------------------------------------------------------------- artefacts' files


HARMS = {
    "missing": lambda file: file.unlink(),
    "emptied": lambda file: (file.unlink(), file.touch()),
    "shortened": lambda file: (file.unlink(), file.write_text("r")),
    "more": lambda file: file.with_name("9.txt").write_text("row7 row8"),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_not_whole_counts_as_not_there_and_is_kept_aside(store, harm):
    pipeline = rows()
    folder = pipeline.run(store, ["rows"])["rows"]
    want = contents(folder)
    HARMS[harm](folder / "data" / "1.txt")
    odd = contents(folder)
    assert pipeline.state(store, "rows") == "damaged"
    assert pipeline.plan(store, ["rows"]) == [pipeline.steps["rows"]]
    with pytest.warns(UserWarning, match=r"rows-\w+/data/[19].txt: .*; rows-\w+ counts as not there"):
        assert contents(pipeline.run(Store(store.root), ["rows"])["rows"]) == want
    (aside,) = (store.root / "damaged").iterdir()
    assert contents(aside) == odd


@pytest.mark.parametrize("harm", ["missing", "emptied", "more"])
def test_an_input_is_whole_when_a_step_takes_it(store, harm):
    """What takes it is asked for again, after a file of its input is gone."""
    top = Node(number=1, a=(below := Node(number=2)))
    pipeline = Pipeline({"top": top, "below": below})
    pipeline.run(store, ["top"])
    store.drop(top)
    HARMS[harm](store.folder(below) / "sum")
    with pytest.raises(StoreError, match=r"node\.a: .* is missing or damaged; run again"):
        Store(store.root).run(top)
    assert (pipeline.run(Store(store.root), ["top"])["top"] / "sum").read_text() == "3"


def test_names_that_file_managers_leave_are_no_damage(store):
    folder = store.run(Node(number=1))
    (folder / ".DS_Store").touch()
    assert store.has(Node(number=1))
    assert damage(folder) == [f"{folder / '.DS_Store'}: was not there when it was made"]


def test_a_step_that_fails_on_bytes_that_changed_names_the_file(store, monkeypatch):
    """Of the same length, so that it is not noticed earlier: the error is not that of the library that failed on it."""
    top = Node(number=1, a=(below := Node(number=25)))
    store.run(below)
    file = store.folder(below) / "sum"
    file.write_text("x5")
    with pytest.raises(StoreError) as e:
        Store(store.root).run(top)
    assert str(e.value) == f"{file}: its bytes changed; remove {file.parent} and run again"
    file.write_text("25")
    monkeypatch.setattr(Node, "run", lambda self, job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Store(store.root).run(top)


def test_the_end_of_a_file_is_no_interruption(textless_command, monkeypatch):
    def read(*_, **__):
        raise EOFError("No data left in file")

    monkeypatch.setattr("textless.engine.yaml.load_pipeline", read)
    code, _, err = textless_command("status", "quickstart")
    assert code == 2
    assert err.strip() == (
        "error: a file is cut short (No data left in file); check the inputs, and the store with `textless verify`"
    )


# ---------------------------------------------------------------------------------------------------------- manifests


ODD = [None, [], {}, "x", -1, True, 1.5, float("nan"), [1], {"x": 1}]
GOOD = {"metrics": [None, {}, {"x": 1}], "contract": [None, {}, {"x": 1}], "fields": [{}, {"x": 1}], "source": ["x"],
        "host": ["x"], "versions": [{}], "seconds": [1.5], "finished": [1.5], "amount": [None], "shards": [[]],
        "files": [{}, {"x": 1}], "step": [], "key": [], "payload": [], "lineage": [], "failures": [],
        "attempts": []}  # fmt: skip


@pytest.fixture
def manifest(store):
    return json.loads((store.run(Node(number=1)) / "manifest.json").read_text())


@pytest.mark.parametrize("field", GOOD)
def test_every_field_of_a_manifest_has_its_type(store, manifest, field):
    name = store.name(Node(number=1))
    for value in ODD:
        data = json.dumps({**manifest, field: value}).encode()
        if any(value is good or (value == good and type(value) is type(good)) for good in GOOD[field]):
            assert parse_manifest(data, name)[field] == value
        else:
            with pytest.raises(ValueError, match=rf"{field}|lineage|this version knows|its key|no size or sha256"):
                parse_manifest(data, name)
    without = {k: v for k, v in manifest.items() if k != field}
    if field in ("amount", "shards"):  # older versions wrote none
        assert parse_manifest(json.dumps(without).encode(), name) == without
    else:
        with pytest.raises(ValueError, match=f"no {field}"):
            parse_manifest(json.dumps(without).encode(), name)


def test_a_manifest_of_the_year_9999_is_none(store, manifest):
    for value, right in ((250_000_000_000, True), (253_402_300_800, False), (1e400, False), (-1, False)):
        data = json.dumps({**manifest, "finished": value}).encode()
        (store.folder(Node(number=1)) / "manifest.json").write_bytes(data)
        assert bool(store.manifest(Node(number=1))) == right


@pytest.mark.parametrize(
    "files",
    [["sum"], {"../sum": 1}, {"/etc/passwd": 1}, {"sum": "1"}, {"sum": -1}, {"sum": {"size": 1}}, {"a/../sum": 1}],
)
def test_files_of_a_manifest_are_within_its_folder(store, manifest, files):
    with pytest.raises(ValueError, match=r"no path of a file|no size or sha256|no files|this version knows"):
        parse_manifest(json.dumps({**manifest, "files": files}).encode(), store.name(Node(number=1)))


def test_shards_of_a_manifest_are_keys(store, manifest):
    """They are names of folders that `drop` removes."""
    folder = store.folder(Node(number=1))
    precious = store.root / "precious" / "result"
    precious.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "shards": ["../precious"]}))
    store.drop(Node(number=1))
    assert precious.exists()


RECIPE = """
steps:
  corpus: {manifest: speech}
  mfcc:   {step: frames, audio: $corpus, encoder: mfcc}
  km:     {step: kmeans, frames: $mfcc, n_units: 4, iterations: 2, restarts: 1}
"""


def test_every_command_says_which_manifest_is_damaged(textless_command, speech, tmp_path, store):
    recipe = tmp_path / "p.yaml"
    recipe.write_text(RECIPE)
    where = ("--store", store.root)
    assert textless_command("run", recipe, *where)[0] == 0
    (folder,) = (store.root / "artefacts").glob("kmeans-*")
    url = f"file://{tmp_path / 'remote'}"
    whole = (folder / "manifest.json").read_bytes()
    for text in (
        b'{"key": "x"}',
        b"[]",
        b"",
        whole.replace(b'"files"', b'"filed"'),
        whole.replace(b'"failures": 0', b'"failures": "0"'),
    ):
        (folder / "manifest.json").write_bytes(text)
        for name, *more in (
            ("table", recipe),
            ("status", recipe),
            ("show", recipe, "km"),
            ("why", recipe, "km"),
            ("push", url, recipe),
            ("report", recipe, "-o", tmp_path / "r.html"),
            ("run", recipe, "--dry-run"),
            ("gc",),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                code, _, err = textless_command(name, *more, *where)
            assert code in (0, 2), name
            assert "Traceback" not in err
            assert name == "gc" or f"{folder / 'manifest.json'}: missing or damaged" in err, name
        assert "damaged" in textless_command("status", recipe, *where)[1]
        assert (
            textless_command("show", recipe, "km", *where)[2]
            .splitlines()[-1]
            .startswith("error: km is damaged; `textless run")
        )
        code, out, _ = textless_command("verify", *where)
        assert (code, out) == (1, f"{folder / 'manifest.json'}: missing or damaged\n")
    assert textless_command("run", recipe, *where)[0] == 0
    assert textless_command("verify", *where)[0] == 0
    assert len(list((store.root / "damaged").iterdir())) == 1


def test_a_page_leaves_out_nothing_that_is_damaged(textless_command, speech, tmp_path, store):
    """A dump whose bytes changed, of its own length, is no dump that is not there."""
    recipe = tmp_path / "p.yaml"
    recipe.write_text(f"{RECIPE}  units: {{step: assign, frames: $mfcc, codebook: $km}}\n")
    assert textless_command("run", recipe, "--store", store.root)[0] == 0
    (folder,) = (store.root / "artefacts").glob("assign-*")
    file = folder / "data" / "00000.parquet"
    file.write_bytes(bytes(file.stat().st_size))
    code, _, err = textless_command("report", recipe, "--store", store.root, "-o", tmp_path / "r.html")
    assert code == 2
    assert err == f"error: {file}: its bytes changed; remove {folder} and run again\n"
    assert not (tmp_path / "r.html").exists()


# ------------------------------------------------------------------------------------------------------------ records


DAMAGED = [
    b"",
    b"[]",
    b"null",
    b"5",
    b'{"needed": ',
    b'{"needed": 5}',
    b'{"needed": [5]}',
    b'{"when": 1}',
    b"\xff\x00",
    b"[" * 100_000,
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_gc_does_not_guess_what_a_damaged_record_says(textless_command, store, text):
    pipeline = Pipeline({"n": Node(number=1)})
    folder = pipeline.run(store)["n"]
    (record,) = (store.root / "runs").iterdir()
    os.utime(folder, (0, 0))
    record.write_bytes(text)
    code, _, err = textless_command("gc", "--store", store.root, "--yes")
    assert code == 2
    assert err.startswith(f"error: {record}: damaged, so what its run needs is unknown; remove it")
    assert folder.exists()
    os.utime(record, (0, 0))  # what it said is of no matter by now
    assert textless_command("gc", "--store", store.root, "--yes")[0] == 0
    assert not folder.exists()
    assert not record.exists()


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_record_keeps_temporary_results_and_harms_no_run(store, text):
    (store.root / "runs").mkdir(parents=True)
    (store.root / "runs" / "0.json").write_bytes(text)
    pipeline = Pipeline({"below": (below := Node(number=1)), "top": Node(number=1, a=below)}, temporary={"below"})
    pipeline.run(store, ["top"])
    assert store.has(below)
    (store.root / "runs" / "0.json").unlink()
    store.drop(pipeline.steps["top"])
    pipeline.run(store, ["top"])
    assert not store.has(below)


@pytest.mark.parametrize("text", [b"", b"x", b"\xff\xfe", b"9" * 5000, b"-1", b"[]"])
def test_a_damaged_count_of_attempts(store, monkeypatch, text):
    monkeypatch.setattr(Node, "run", lambda self, job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.run(Node(number=1))
    monkeypatch.undo()
    (store.work(Node(number=1)) / "scratch" / "attempts").write_bytes(text)
    store.run(Node(number=1))
    assert store.manifest(Node(number=1))["attempts"] >= 1


def test_a_remembered_hash_that_is_none_is_made_again(tmp_path):
    file = tmp_path / "x"
    file.write_text("x")
    want = hashlib.sha256(b"x").hexdigest()
    hashes = FileHashes(tmp_path / "hashes.json")
    assert hashes(str(file)) == want
    hashes.save()
    known = json.loads((tmp_path / "hashes.json").read_text())
    for odd in (None, 5, "", "x", want[:-1], want.upper() + "\n", [want]):
        (tmp_path / "hashes.json").write_text(json.dumps({p: [*entry[:-1], odd] for p, entry in known.items()}))
        assert FileHashes(tmp_path / "hashes.json")(str(file)) == want
