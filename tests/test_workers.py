"""Workers that die inside a map: loky's, which are processes here, and dask's, which a scheduler hands out."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager

import fault_steps as faults
import pytest
from fault_steps import contents, notes

from textless.engine.store import Store
from textless.errors import StoreError

SHARDS = 4


@pytest.fixture
def step(tmp_path):
    """A map over 150 files in four shards, and what becomes of its rows."""
    return faults.copies(tmp_path)


@pytest.fixture
def alone(tmp_path, step):
    folder = contents(Store(tmp_path / "alone").run(step()))
    (tmp_path / "log").unlink()
    return folder


@pytest.mark.parametrize("mode", ["kill-once", "die-once"])
def test_a_worker_that_dies_takes_nothing_with_it(tmp_path, step, alone, mode):
    store = Store(tmp_path / "store", on="loky:2")
    progress = []
    folder = store.run(step(mode=mode), lambda done, total, what: progress.append((done, total)))
    assert contents(folder) == alone
    assert (tmp_path / "marks" / ("killed" if mode == "kill-once" else "died")).exists()
    assert SHARDS < len(notes(tmp_path / "log")) <= SHARDS + 2  # one more for each that was under way
    assert progress[-1] == (SHARDS, SHARDS)
    assert not any(p.is_dir() for p in (store.root / "work").iterdir())


def test_workers_that_always_die_are_told_in_one_line(tmp_path, step):
    with pytest.raises(
        StoreError, match=r"copy: the workers of loky:2 die at once, perhaps for lack of memory; use fewer"
    ):
        Store(tmp_path / "store", on="loky:2").run(step(mode="die"))
    assert list((tmp_path / "store" / "shards").glob("*")) == []


def test_workers_give_the_bytes_of_one_process(tmp_path, step, alone):
    assert contents(Store(tmp_path / "store", on="loky:2").run(step())) == alone
    assert len(notes(tmp_path / "log")) == SHARDS


@pytest.mark.parametrize(
    "on", ["loky", "loky:0", "loky:x", "loky:nan", "loky:1000000", f"loky:{'9' * 5000}", "dask:", "ray"]
)
def test_a_place_that_cannot_be_is_refused(tmp_path, step, on):
    with pytest.raises(StoreError, match="expected loky:N"):
        Store(tmp_path / "store", on=on).run(step())


# --------------------------------------------------------------------------------------------------------------- dask


@contextmanager
def cluster():
    pytest.importorskip("distributed")
    import dask
    from distributed import LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "protocol": "tcp://", "dashboard_address": None}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(processes=True, **options) as workers,
    ):
        yield workers


@pytest.mark.slow
def test_on_dask_a_worker_is_killed_and_the_bytes_are_the_same(tmp_path, step, alone):
    with cluster() as workers:
        killed = []

        def kill():
            while not notes(tmp_path / "log"):
                time.sleep(0.01)
            killed.append(next(iter(workers.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        store = Store(tmp_path / "store", on=f"dask:{workers.scheduler_address}")
        assert contents(store.run(step(pause=0.5))) == alone
        thread.join()
        assert killed
        assert not any(p.is_dir() for p in (store.root / "work").iterdir())


@pytest.mark.slow
def test_on_dask_workers_that_always_die_are_told_in_one_line(tmp_path, step):
    with cluster() as workers:
        on = f"dask:{workers.scheduler_address}"
        with pytest.raises(StoreError, match=f"copy: the workers of {on} die"):
            Store(tmp_path / "store", on=on).run(step(mode="die"))


@pytest.mark.slow
def test_without_a_scheduler(tmp_path, step):
    pytest.importorskip("distributed")
    with pytest.raises(StoreError, match="no dask scheduler answers"):
        Store(tmp_path / "store", on="dask:tcp://127.0.0.1:9").run(step())
