"""Several processes on one store: the work is done once while leases are healthy, and the bytes are right whatever
befalls the leases.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import fault_steps as faults
import pytest
from fault_steps import Copy, Files, Work, contents, notes

from textless.engine import lease, store
from textless.engine.lease import Lease, host
from textless.engine.manifest import damage
from textless.engine.store import Store

PROCESSES = 8


@pytest.fixture
def texts(tmp_path):
    """150 small files: four shards."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(150):
        (folder / f"t{n}.txt").write_text(f"text {n}\n")
    return Files(folder=str(folder))


def graph(texts, log="", **kwargs):
    one = Work(name="one", log=log, **kwargs)
    return [one, Work(name="two", below=one, log=log, **kwargs), Copy(files=texts, times=2, log=log, **kwargs)]


def expected(tmp_path, steps):
    alone = Store(tmp_path / "alone")
    for step in steps:
        alone.run(step)
    return contents(alone.root / "artefacts")


def leftovers(root: Path) -> list[str]:
    """What is in `work` but for leases and their guard."""
    return sorted(p.name for p in (root / "work").iterdir() if p.name != ".guard" and not p.name.endswith(".lease"))


def play(tmp_path, texts, count, *, leases, **kwargs):
    """Rounds of all processes, each on a store of its own, and the lines that the steps left."""
    roots = [tmp_path / f"round{n}" for n in range(count)]
    log = str(tmp_path / "log")
    steps = graph(texts, log, **kwargs)
    meet = faults.barrier(PROCESSES)
    arguments = (meet, [str(r) for r in roots], steps)
    children = [faults.start(faults.rounds, n, *arguments, seed=0, leases=leases) for n in range(PROCESSES)]
    for child in children:
        child.join(300)
    assert [c.exitcode for c in children] == [0] * PROCESSES
    alone = expected(tmp_path, graph(texts))
    for root in roots:
        assert contents(root / "artefacts") == alone
        assert not [line for folder in (root / "artefacts").iterdir() for line in damage(folder)]
        assert leftovers(root) == []
    return notes(log)


def often(few: int, many: int):
    """A few rounds by default, many in the slow suite."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


@often(10, 100)
def test_eight_processes_do_each_step_once(tmp_path, texts, count):
    lines = play(tmp_path, texts, count, leases=True)
    assert {what: lines.count(what) for what in set(lines)} == {"one": count, "two": count, "shard": 4 * count}


@often(4, 30)
def test_with_leases_that_seem_stale_the_work_is_done_twice_and_the_bytes_are_the_same(tmp_path, texts, count):
    """They sweep away what the others are at, and who was swept goes on: the worst that lost leases can do."""
    lines = play(tmp_path, texts, count, leases=False, pause=0.002)
    print(
        f"{count} rounds: {lines.count('one')} + {lines.count('two')} executions of two steps, "
        f"{lines.count('shard')} of 4 shards each"
    )
    assert lines.count("one") + lines.count("two") > 2 * count


# ------------------------------------------------------------------------------------------------------- stale leases


def hold(root: Path, step, **owner):
    """A lease of another process on the step."""
    file = root / "work" / f"{Store(root).name(step)}.lease"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"token": "f" * 32, "host": host(), "pid": os.getpid(), "beat": 7, **owner}))
    return file


def dead_pid() -> int:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "PATIENCE", 0.6)
    monkeypatch.setattr(store, "POLL", 0.02)


def seconds_for(root, step):
    start = time.monotonic()
    folder = Store(root).run(step)
    assert damage(folder) == []
    assert not list((root / "work").glob("*.lease"))
    return time.monotonic() - start


def test_a_lease_of_a_dead_process_here_is_taken_at_once(tmp_path):
    hold(tmp_path, Work(), pid=dead_pid())  # with the patience of 30 seconds
    assert seconds_for(tmp_path, Work()) < 5


def test_a_lease_whose_counter_stands_still_is_taken_over(tmp_path, impatient):
    """A host that died cannot be asked; neither can a process whose number another has by now: this one's."""
    for owner in ({"host": "elsewhere 1234", "pid": 1}, {"host": f"{host()}"}):
        root = tmp_path / str(len(owner))
        hold(root, Work(), **owner)
        assert 0.6 < seconds_for(root, Work()) < 10


def test_a_lease_whose_counter_rises_is_waited_for(tmp_path, impatient):
    """The owner is somewhere else, alive, and slower than our patience."""
    log = tmp_path / "log"
    child = faults.start(faults.run, str(tmp_path), Work(log=str(log), pause=0.4), beat=0.05, patience=0.6)
    while not log.exists():
        time.sleep(0.01)
    waits = []
    Store(tmp_path).run(Work(log=str(log)), lambda done, total, what: waits.append(what))
    child.join()
    assert child.exitcode == 0
    assert notes(log) == ["work"]
    assert set(waits) == {f"waiting for process {child.pid} on {host().split()[0]}"}


@pytest.mark.parametrize("when", [0.0, 2**33], ids=["1970", "2242"])
def test_clocks_of_other_hosts_do_not_matter(tmp_path, impatient, when):
    file = hold(tmp_path, Work(), host="elsewhere 1234")
    os.utime(file, (when, when))
    os.utime(file.parent, (when, when))
    assert not Lease(file).take()
    assert 0.6 < seconds_for(tmp_path, Work()) < 10


UNREADABLE = [
    b"",
    b'{"token": "f',
    b"\x00\xff\xfe" * 9,
    b"[1]",
    b'{"host": "", "pid": "x"}',
    b'{"host": null, "pid": -1}',
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_lease_that_cannot_be_read_is_of_somebody_unknown(tmp_path, impatient, text):
    hold(tmp_path, Work()).write_bytes(text)
    assert 0.6 < seconds_for(tmp_path, Work()) < 10


# ------------------------------------------------------------------------------------------------ owners that wake up


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.mark.parametrize("wakes", ["during", "after"])
@pytest.mark.parametrize("kind", ["step", "map"])
def test_an_owner_that_was_stopped_and_wakes_up(tmp_path, texts, kind, wakes):
    """It stops in the middle, beyond everybody's patience; another takes over, sweeps its folder, and is slow itself.

    Awake again, it finds its folder gone, or made again by its own `mkdir`: what it has then is not whole, and must not
    be published.
    """
    root, log, marks = tmp_path / "store", str(tmp_path / "log"), tmp_path / "marks"
    marks.mkdir()

    def step(**kwargs):
        return Work(log=log, **kwargs) if kind == "step" else Copy(files=texts, log=log, marks=str(marks), **kwargs)

    impatient = {"beat": 0.05, "patience": 0.4}
    first = faults.start(faults.run, str(root), step(mode="stop", pause=0.002), **impatient)
    until(lambda: stopped(first.pid))
    second = faults.start(faults.run, str(root), step(pause=0.1 if kind == "step" else 0.005), **impatient)
    before = len(notes(log))
    if wakes == "during":
        until(lambda: len(notes(log)) > before)
    else:
        second.join(60)
    os.kill(first.pid, signal.SIGCONT)
    for child in (first, second):
        child.join(60)
    assert (first.exitcode, second.exitcode) == (0, 0)
    alone = Store(tmp_path / "alone")
    assert contents(root / "artefacts") == contents(alone.run(step()).parent)
    assert damage(Store(root).folder(step())) == []
    assert leftovers(root) == []
    for shard in (root / "shards").glob("*"):
        assert contents(shard / "result") == contents(alone.root / "shards" / shard.name / "result")


def test_an_owner_that_is_stopped_while_it_holds_the_guard(tmp_path):
    """The lock on the guard is held for milliseconds; a process that stops in it does not block the others."""
    (tmp_path / "work").mkdir()
    first = faults.start(faults.keep_guard, str(tmp_path / "work"))
    until((tmp_path / "work" / "held").exists)
    os.kill(first.pid, signal.SIGSTOP)
    second = faults.start(faults.run, str(tmp_path), Work(), beat=0.05, patience=0.2)
    second.join(30)
    try:
        assert second.exitcode == 0
        assert damage(Store(tmp_path).folder(Work())) == []
    finally:
        for child in (first, second):
            child.kill()
            child.join()
