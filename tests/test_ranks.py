"""Several processes on one pipeline: the first makes everything, the others join in where a step is collective.

No torch here.
"""

import os
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from textless import ranks
from textless.engine import collective
from textless.engine.pipeline import Pipeline
from textless.engine.step import Step
from textless.engine.store import Store


@dataclass(frozen=True, kw_only=True)
class Alone(Step):
    type = "alone"
    above: Step | None = None
    name: str

    def run(self, job):
        print(f"{self.name} by {ranks.rank()}")
        (job.path / "out").write_text(self.name)


@dataclass(frozen=True, kw_only=True)
class Together(Step):
    """Each process says in the shared scratch folder that it is there, and waits for all to be."""

    type = "together"
    collective = True
    above: Step
    name: str

    def run(self, job):
        print(f"{self.name} by {ranks.rank()} from {(job.inputs['above'] / 'out').read_text()}")
        (job.scratch / f"{self.name}{ranks.rank()}").touch()
        deadline = time.monotonic() + 20
        while len(list(job.scratch.glob(f"{self.name}*"))) < ranks.size():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (job.path / "out").write_text(f"{self.name} by {ranks.rank()}")
        job.progress(1, 1, "rounds")


def graph():
    a = Alone(name="a")
    b = Together(above=a, name="b")
    c = Together(above=b, name="c")
    return Pipeline({"a": a, "b": b, "c": c, "d": Alone(above=c, name="d")}, {"a", "b", "c"})


def launch(store, processes=2, **environment):
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_ranks as t
        say = lambda *what: print(what[0], t.ranks.rank())
        made = t.graph().run(t.Store({str(store)!r}), started=say, progress=say)
        print((made["d"] / "out").read_text())
    """
    together = {"MASTER_ADDR": "here", "MASTER_PORT": "1", "WORLD_SIZE": str(processes), **environment}
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, **together, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def outputs(children):
    out = [child.communicate(timeout=60)[0].splitlines() for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    return out


def test_three_processes_publish_once(tmp_path):
    first, *others = outputs(launch(tmp_path, 3))
    assert first == [
        "a 0",
        "a by 0",
        "b 0",
        "b by 0 from a",
        "1 0",
        "c 0",
        "c by 0 from b by 0",
        "1 0",
        "d 0",
        "d by 0",
        "d",
    ]
    for n, lines in enumerate(others, 1):
        assert lines == [f"b by {n} from a", f"c by {n} from b by 0", "d"]
    assert not list((tmp_path / "work").glob("*/*"))
    (folder,) = (tmp_path / "artefacts").iterdir()  # what is temporary was dropped
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "out"]
    assert outputs(launch(tmp_path, 2)) == [["d"], ["d"]]


def test_the_number_of_processes_is_not_in_the_key(tmp_path, monkeypatch):
    name = Store(tmp_path).name(graph().steps["c"])
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert Store(tmp_path).name(graph().steps["c"]) == name


def test_a_call_of_another_launch_is_not_answered(tmp_path):
    """A launch that was killed left its call, and files of its processes; the next one works all the same."""
    store, steps = Store(tmp_path), graph().steps
    store.run(steps["a"])
    left = store.work(steps["b"]) / "scratch" / "ranks"
    left.mkdir(parents=True)
    (left / "launch").write_text("there 2  2")
    (left / "1.left").touch()
    assert not collective.announced(left.parent)
    assert outputs(launch(tmp_path))[1] == ["b by 1 from a", "c by 1 from b by 0", "d"]


def test_the_others_wait_for_the_first(tmp_path):
    first, second = launch(tmp_path)
    first.kill()
    first.wait()
    with pytest.raises(subprocess.TimeoutExpired):
        second.communicate(timeout=1)
    second.kill()  # as a launcher does
    second.wait()
