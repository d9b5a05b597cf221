"""Faults, injected for real: processes killed at random moments, disks that are full or cannot be written, files cut
short or changed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import fault_steps as faults
import pytest
from fault_steps import chain, contents, notes

from textless.engine.manifest import damage
from textless.engine.pipeline import Pipeline
from textless.engine.shards import Pool
from textless.engine.store import Store
from textless.errors import StoreError, TrainingError
from textless.training import loop as training

SEED = int(os.environ.get("FAULTS_SEED", "0"))


class Reference:
    """What an undisturbed run makes of the chain, each step in a process of its own, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "undisturbed")
        self.steps = chain(faults.write_corpus(folder / "corpus", 70, seconds=0.25), steps=12)
        self.seconds: dict[str, float] = {}

    def make(self, name: str) -> dict[str, bytes]:
        """Bytes of a step's files; everything that it takes is made before it."""
        for missing in Pipeline(self.steps).plan(self.store, [name]):
            start = time.monotonic()
            child = faults.start(faults.run, str(self.store.root), missing, often=True)
            child.join()
            assert child.exitcode == 0
            self.seconds[self.store.name(missing)] = time.monotonic() - start
        return contents(self.store.folder(self.steps[name]))

    def inputs(self, name: str, root: Path) -> None:
        """Put what a step takes into another store."""
        self.make(name)
        for step in self.steps[name].inputs().values():
            if (folder := self.store.folder(step)).exists():
                shutil.copytree(folder, root / "artefacts" / folder.name, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("reference"))


@pytest.fixture
def often(monkeypatch):
    """Checkpoints with every row, and a row every four steps, as in the children."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", 0)
    monkeypatch.setitem(training.train.__kwdefaults__, "log_every", 4)


@pytest.fixture
def texts(tmp_path):
    """150 small files, four shards, and what becomes of them."""
    return faults.copies(tmp_path)


def check_whole(root: Path) -> None:
    """Whatever is in a store is what its manifest says, and shards in the pool are whole."""
    assert [line for folder in (root / "artefacts").glob("*") for line in damage(folder)] == []
    pool = Pool(root / "nowhere", root / "shards")
    assert all(pool.find(shard.name) for shard in (root / "shards").glob("*"))


def leftovers(root: Path) -> list[str]:
    """What is in `work` but for leases and their guard."""
    return sorted(p.name for p in (root / "work").iterdir() if p.name != ".guard" and not p.name.endswith(".lease"))


# --------------------------------------------------------------------------------------------------------------- kill


def torment(reference: Reference, root: Path, name: str, kills: int, draw: random.Random) -> None:
    """Kill a step so many times at random moments, the same call again after each; from the start again when it was
    faster.
    """
    want, step, store = reference.make(name), reference.steps[name], Store(root)
    reference.inputs(name, root)
    while True:
        child = faults.start(faults.run, str(root), step, often=True)
        child.join(draw.uniform(0, 1.1 * reference.seconds[store.name(step)]) if kills else 300)
        if child.exitcode is None:
            child.kill()
            child.join()
            kills -= 1
            check_whole(root)
            continue
        assert child.exitcode == 0
        assert contents(store.folder(step)) == want
        check_whole(root)
        if not kills:
            break
        store.drop(step)
        shutil.rmtree(root / "shards", ignore_errors=True)
    assert leftovers(root) == []


KILLS = {  # by step, in the slow suite
    "mfcc": 20,
    "km1": 10,
    "labels": 10,
    "ladder": 10,
    "lda": 10,
    "hubert": 20,
    "hidden": 15,
    "km2": 10,
    "units": 15,
    "lm": 20,
    "f0": 15,
    "mel": 20,
    "voice": 20,
    "set": 10,
    "more": 15,
    "speech": 15,
    "scores": 5,
    "robust": 5,
}


@pytest.mark.parametrize("name", ["mfcc", "km1", "hubert", "lm1", "more1"])
def test_killed_twice_the_bytes_are_the_same(reference, tmp_path, name):
    print("seed", SEED)
    torment(reference, tmp_path, name, 2, random.Random(f"{SEED} {name} twice"))


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_killed_again_and_again_the_bytes_are_the_same(reference, tmp_path, name):
    print("seed", SEED, "kills", KILLS[name])
    torment(reference, tmp_path, name, KILLS[name], random.Random(f"{SEED} {name}"))


# -------------------------------------------------------------------------------------------- disks that cannot take it


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    try:
        made = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as e:
        pytest.skip(f"no mount here: {e}")
    if made.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, free: int) -> None:
    """Leave so many bytes free."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    stat = os.statvfs(disk)
    with open(ballast, "wb") as f:
        f.write(bytes(max(0, stat.f_bavail * stat.f_frsize - free)))


def error_of(store: Store, step) -> str | None:
    try:
        store.run(step)
    except StoreError as e:
        return str(e)
    return None


@pytest.mark.parametrize(
    "name",
    [
        "mfcc",
        "km1",
        "hubert",
        "lm1",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("units", "f0", "mel", "more", "speech", "copies")),
    ],
)
def test_a_full_disk_is_told_in_one_line_and_nothing_is_half_made(reference, disk, often, name):
    """The disk is full at once, then a little later each time: in shards, in checkpoints, in the result and its
    manifest.
    """
    want, step = reference.make(name), reference.steps[name]
    root = disk / "store"
    reference.inputs(name, root)
    there = sorted((root / "artefacts").glob("*"))
    full = 0
    for free in [0, *(2**n for n in range(10, 25))]:
        fill(disk, free)
        if (error := error_of(Store(root), step)) is None:
            break
        assert (
            error
            == f"{root}: No space left on device; run again when there is room, or give another place with --store"
        )
        assert sorted((root / "artefacts").glob("*")) == there
        check_whole(root)
        full += 1
    print(f"{name}: {full} times full")
    assert full > 3
    assert contents(Store(root).folder(step)) == want
    assert json.loads((Store(root).folder(step) / "manifest.json").read_text())["failures"] == 0
    check_whole(root)
    assert leftovers(root) == []


def test_a_store_that_is_read_only(reference, disk):
    reference.inputs("km1", disk / "store")
    mfcc, km1 = reference.steps["mfcc"], reference.steps["km1"]
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    check_read_only(disk / "store", mfcc, km1, "Read-only file system")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_belongs_to_somebody_else(reference, tmp_path):
    reference.inputs("km1", tmp_path / "store")
    for folder in (tmp_path / "store").rglob("*"):
        folder.chmod(0o555)
    (tmp_path / "store").chmod(0o555)
    check_read_only(tmp_path / "store", reference.steps["mfcc"], reference.steps["km1"], "Permission denied")


def check_read_only(root, there, missing, problem):
    pipeline = Pipeline({"mfcc": there, "km1": missing})
    assert pipeline.run(Store(root), ["mfcc"]) == {"mfcc": Store(root).folder(there)}
    assert Store(root).run(there) == Store(root).folder(there)
    with pytest.raises(StoreError) as e:
        pipeline.run(Store(root), ["km1"])
    assert str(e.value) == f"{root}: {problem}; run again when there is room, or give another place with --store"


# ---------------------------------------------------------------------------------- files that change or are cut short


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, texts):
    root = tmp_path / "store"
    with pytest.raises(StoreError, match=r"copy: a file changed while it was read \(.*/t\d+\.txt\); run again"):
        Store(root).run(texts(mode="rewrite"))
    kept = len(list((root / "shards").glob("*")))
    assert len(notes(tmp_path / "log")) == kept + 1
    assert not list((root / "artefacts").glob("*"))
    again = contents(Store(root).run(texts()))
    assert len(notes(tmp_path / "log")) == 4 + 1  # only that shard once more
    assert again == contents(Store(tmp_path / "alone").run(texts()))
    assert sum(file.count(b"something else") for file in again.values()) == 1


def test_a_source_that_changes_while_a_step_reads_it_is_refused(reference, tmp_path, monkeypatch):
    """Not a map: the ladder reads all of the corpus at once."""
    shutil.copytree(Path(reference.steps["ladder"].audio.manifest).parent, tmp_path / "corpus")
    step = chain(tmp_path / "corpus" / "speech.tsv")["ladder"]
    run, wav = type(step).run, tmp_path / "corpus" / "audio" / "s007.wav"

    def rewrite(self, job):
        run(self, job)
        wav.write_bytes(wav.read_bytes()[:-2] + b"\0\1")

    monkeypatch.setattr(type(step), "run", rewrite)
    with pytest.raises(StoreError, match=r"ladder: audio changed while it was read \(.*s007\.wav\); run again"):
        Store(tmp_path / "store").run(step)
    assert not list((tmp_path / "store" / "artefacts").glob("*"))


@pytest.mark.parametrize("text", [b"", b'{"/x": [1, 2', b"[]", b"null", b"\xff\x00\x80", b'{"%s": 7}', b'{"%s": [1]}'])
def test_hashes_that_cannot_be_read_are_made_again(tmp_path, texts, text):
    root = tmp_path / "store"
    key = Store(root).keys.of(texts())
    root.mkdir()
    (root / "hashes.json").write_bytes(text.replace(b"%s", str(tmp_path / "texts" / "t1.txt").encode()))
    store = Store(root)
    assert store.keys.of(texts()) == key
    store.save_hashes()
    assert len(json.loads((root / "hashes.json").read_text())) == 150


@pytest.mark.parametrize("harm", ["cut", "lost", "about", "empty"])
def test_a_damaged_shard_in_the_pool_is_made_again(tmp_path, texts, harm):
    """Before its artefact was published: a cut in power, or a hand. Those that are whole are not made again."""
    root = tmp_path / "store"
    want = contents(Store(root).run(texts()))
    shutil.rmtree(Store(root).folder(texts()))
    shard = sorted((root / "shards").iterdir())[1]
    file = shard / "result" / "1.txt"
    if harm == "cut":
        os.truncate(file, file.stat().st_size - 1)
    elif harm == "lost":
        file.unlink()
    elif harm == "about":
        os.truncate(shard / "shard.json", 7)
    else:
        shutil.rmtree(shard)
        shard.mkdir()
    (tmp_path / "log").unlink()
    assert contents(Store(root).run(texts())) == want
    assert len(notes(tmp_path / "log")) == 1
    check_whole(root)
    assert leftovers(root) == []


@pytest.mark.parametrize("length", [0, 1000, -30])
def test_a_damaged_checkpoint_is_told_in_one_line_and_kept(reference, tmp_path, often, monkeypatch, length):
    """It holds what hours have made, and a copy may be somewhere: starting over is for its owner to decide."""
    want, step, root = reference.make("lm1"), reference.steps["lm1"], tmp_path / "store"
    reference.inputs("lm1", root)
    save = training._save

    def interrupted(path, *arguments):
        save(path, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Store(root).run(step)
    monkeypatch.setattr(training, "_save", save)
    checkpoint = Store(root).work(step) / "scratch" / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:length])
    with pytest.raises(TrainingError) as e:
        Store(root).run(step)
    assert (
        str(e.value) == f"{checkpoint}: this checkpoint is damaged; restore it from a copy, or remove it to start over"
    )
    assert checkpoint.read_bytes() == whole[:length]
    if length:
        checkpoint.write_bytes(whole)
    else:
        checkpoint.unlink()
    assert contents(Store(root).run(step)) == want
