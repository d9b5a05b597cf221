"""Runs that are alive keep what they want from `gc` and from other runs, whatever any clock says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from test_concurrency import dead_pid
from test_keep import Node, Rows, age

from textless.engine import gc as keep
from textless.engine import lease, live
from textless.engine.gc import garbage, remove
from textless.engine.lease import host, is_dead, process
from textless.engine.pipeline import Pipeline
from textless.engine.store import Store
from textless.errors import StoreError


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "PATIENCE", 0.5)
    monkeypatch.setattr(live, "POLL", 0.02)


def chain() -> Pipeline:
    below = Node(number=1)
    return Pipeline({"below": below, "top": Node(number=2, a=below)}, temporary={"below"})


def write(root, name="0", **about):
    """What a run left, or keeps up, in another process."""
    (root / "live").mkdir(parents=True, exist_ok=True)
    file = root / "live" / f"{name}.json"
    file.write_text(
        json.dumps({"host": "elsewhere 1", "pid": 1, "started": "1", "wants": [], "since": 0.0, "beat": 1, **about})
    )
    return file


def collect(root, days=30.0):
    return [folder.name for folder, _ in list(garbage(root, days=days)) if remove(root, folder, days=days)]


# ------------------------------------------------------------------------------------------------------------ garbage


def test_what_a_live_run_wants_is_no_garbage(store):
    folder = chain().run(store, ["below"])["below"]
    age(store.root, 40)
    with live.registered(store.root, [folder.name]):
        age(store.root, 40)
        assert collect(store.root) == []
        assert not remove(store.root, folder, days=30)  # listed before the run began
    assert collect(store.root) == [folder.name]


def test_a_run_says_while_it_runs_what_it_wants_temporary_results_too(store, monkeypatch):
    pipeline, seen = chain(), []
    run = Node.run
    monkeypatch.setattr(Node, "run", lambda self, job: (seen.extend(live.runs(store.root)), run(self, job))[1])
    pipeline.run(store, ["top"])
    assert {run.wants for run in seen} == {frozenset(map(store.name, pipeline.steps.values()))}
    assert live.runs(store.root) == []
    assert list((store.root / "live").iterdir()) == []


def test_a_run_of_many_days_is_kept_from_its_end_on(store, monkeypatch):
    """Its record is as old as its beginning while it runs, and as young as its end behind it."""
    pipeline = Pipeline({"n": Node(number=1)})
    run = Node.run
    monkeypatch.setattr(Node, "run", lambda self, job: (run(self, job), age(store.root, 40))[0])
    folder = pipeline.run(store)["n"]
    os.utime(folder, (0, 0))
    assert collect(store.root) == []
    age(store.root, 40)
    assert collect(store.root) == [folder.name]


def test_a_run_that_failed_is_not_alive(store, monkeypatch):
    monkeypatch.setattr(Node, "run", lambda self, job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        chain().run(store, ["top"])
    assert list((store.root / "live").iterdir()) == []


def test_shards_that_a_live_run_may_be_at_are_kept(store):
    """The map has made them since it began, and no artefact holds them yet."""
    Pipeline({"rows": Rows(count=(n := Node(number=100))), "n": n}).run(store, ["rows"])
    store.drop(n)
    (artefact,) = (store.root / "artefacts").iterdir()
    artefact.rename(store.root / "away")
    for file in (store.root / "away" / "data").iterdir():
        file.unlink()
    age(store.root, 40)
    write(store.root, **process(), since=time.time() - 50 * keep.DAY)
    assert collect(store.root) == []
    write(store.root, **process(), since=time.time() - 35 * keep.DAY)
    assert len(collect(store.root)) == 2


@pytest.mark.parametrize("started", [True, False])
def test_a_dead_process_of_this_host_keeps_nothing(store, started):
    folder = chain().run(store, ["below"])["below"]
    age(store.root, 40)
    owner = (
        {"host": host(), "pid": dead_pid(), "started": "7"}
        if started
        else {"host": host(), "pid": os.getpid(), "started": "7"}
    )
    file = write(store.root, **owner, wants=[folder.name])  # gone; or its number is another's by now
    assert collect(store.root) == [folder.name]
    assert not file.exists()


def test_a_run_of_another_host_is_alive_as_long_as_its_counter_moves(store, monkeypatch):
    folder = chain().run(store, ["below"])["below"]
    age(store.root, 40)
    write(store.root, wants=[folder.name])
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 3:  # it is not quick, but quicker than our patience
            write(store.root, wants=[folder.name], beat=2)

    with monkeypatch.context() as patch:
        patch.setattr(lease, "PATIENCE", 1e9)
        patch.setattr(live, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic, time=time.time))
        assert collect(store.root) == []
    assert len(looks) == 3
    assert collect(store.root) == [folder.name]  # it did not move for the time we waited
    assert list((store.root / "live").iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", '{"wants": 5}', "[" * 100_000, "\0\xff"])
def test_what_cannot_be_read_may_want_everything_until_it_stands_still(store, text):
    folder = chain().run(store, ["below"])["below"]
    age(store.root, 40)
    file = write(store.root)
    file.write_text(text)
    assert not remove(store.root, folder, days=30)
    assert collect(store.root) == [folder.name]


@pytest.mark.parametrize("off", [-400, -3, 3, 400])
def test_the_clock_of_who_collects_does_not_matter(store, monkeypatch, off):
    """It is days off, ahead or behind; the times of files are those of the store's file system."""
    folder = chain().run(store, ["below"])["below"]
    old = store.run(Node(number=7))
    os.utime(old, (time.time() - 2 * keep.DAY,) * 2)
    os.utime(folder, (0, 0))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + off * keep.DAY)
    assert collect(store.root, days=1) == [old.name]
    assert folder.exists()


@pytest.mark.parametrize("when", [0.0, 1e12, None, "x"])
def test_the_clock_of_who_ran_does_not_matter(store, when):
    folder = chain().run(store, ["below"])["below"]
    os.utime(folder, (0, 0))
    for file in (store.root / "runs").iterdir():
        file.write_text(json.dumps({**json.loads(file.read_text()), "when": when}))
    assert collect(store.root) == []
    for file in (store.root / "runs").iterdir():
        os.utime(file, (0, 0))
    assert collect(store.root) == [folder.name]


# --------------------------------------------------------------------------------------------------------- keep: temp


@pytest.mark.parametrize("wants", [True, False, None])
def test_a_temporary_result_that_another_run_wants_is_left_to_that_run(store, wants):
    """It has planned, and not read it yet."""
    pipeline = chain()
    name = store.name(pipeline.steps["below"])
    file = write(store.root, **process(), wants=[name] if wants else None if wants is None else ["other"])
    pipeline.run(store, ["top"])
    assert store.has(pipeline.steps["below"]) == (wants is not False)
    file.unlink()
    store.drop(pipeline.steps["top"])
    pipeline.run(store, ["top"])
    assert not store.has(pipeline.steps["below"])


def test_the_last_of_two_runs_drops_it(store, monkeypatch):
    """Each is a process in its own right, though they are threads here.

    The last one to finish leaves it to no other.
    """
    first, second = chain(), chain()
    second.steps["top"] = Node(number=3, a=second.steps["below"])
    meet, run = threading.Barrier(2), Node.run
    monkeypatch.setattr(Node, "run", lambda self, job: (self.number > 1 and meet.wait(30), run(self, job))[1])
    threads = [threading.Thread(target=p.run, args=(Store(store.root), ["top"])) for p in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.manifest(p.steps["top"])["metrics"]["sum"] for p in (first, second)] == [3, 4]
    assert not store.has(first.steps["below"])


def test_an_input_that_vanishes_is_made_again_whatever_the_error(store, monkeypatch):
    """Libraries tell a folder that is gone in many ways."""
    pipeline, run, lost = chain(), Node.run, []

    def vanish(self, job):
        if self.a and not lost:
            lost.append(store.drop(self.a))
            raise ValueError("not a dump")
        run(self, job)

    monkeypatch.setattr(Node, "run", vanish)
    assert (pipeline.run(store, ["top"])["top"] / "sum").read_text() == "3"
    assert lost


# -------------------------------------------------------------------------------------------------------- other systems


def test_a_store_that_cannot_be_written_needs_no_record(tmp_path):
    (tmp_path / "file").touch()
    with live.registered(tmp_path / "file", ["x"]):
        assert live.runs(tmp_path / "file") == []


def test_no_signal_is_sent_on_windows(monkeypatch):
    """There, `os.kill(pid, 0)` ends the process."""
    monkeypatch.setattr(
        lease, "os", SimpleNamespace(name="nt", kill=lambda *_: pytest.fail("it was killed"), getpid=os.getpid)
    )
    assert not is_dead({"host": host(), "pid": 1})


def test_a_system_without_locks_is_told_in_one_line(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(
        StoreError, match=r"^this system has no locks of files \(fcntl\); use Linux, macOS, or WSL on Windows$"
    ):
        chain().run(store)


def test_without_locks_the_engine_is_imported_and_plans(tmp_path):
    code = """
        import sys
        sys.modules["fcntl"] = None
        import textless.cli.app
        from textless.engine.pipeline import Pipeline
        from textless.engine.store import Store
        print(Pipeline({}).plan(Store(sys.argv[1])))
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    assert (
        subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
