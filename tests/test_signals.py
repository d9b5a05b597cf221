"""SIGTERM, SIGHUP, SIGINT and SIGKILL to a command: how it ends, what it leaves, and that its workers end with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from textless.cli.signals import orderly_end

HERE = Path(__file__).parent


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Python code in a session of its own; it prints a line when it is ready."""
    code = f"import sys\nsys.path.insert(0, {str(HERE)!r})\n{textwrap.dedent(code)}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def end(process: subprocess.Popen[str], number: int, seconds: float = 30) -> tuple[int, str]:
    """Wait until it is ready, send a signal; its exit code and the last line of standard error."""
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=seconds)
    return process.returncode, (err.strip().splitlines() or [""])[-1]


COMMAND = """
    import functools, time
    from textless.cli import app as cli, signals
    signals.GRACE = float(sys.argv[1])

    @cli.cli.command()
    def work():
        try:
            {body}
        finally:
            open(sys.argv[2], "w").write("in order")

    cli.cli = functools.partial(cli.cli, args=["work"])
    cli.main()
"""

SLEEP = 'print("ready", flush=True); time.sleep({})'

ENDS = [
    (signal.SIGTERM, 143, "terminated; the same command goes on from here"),
    (signal.SIGHUP, 129, "terminated; the same command goes on from here"),
    (signal.SIGINT, 130, "interrupted; the same command goes on from here"),
]


@pytest.mark.parametrize(("number", "code", "said"), ENDS)
def test_a_command_ends_in_order(tmp_path, number, code, said):
    process = start(COMMAND.format(body=SLEEP.format(600)), 60, tmp_path / "end")
    assert end(process, number) == (code, said)
    assert (tmp_path / "end").read_text() == "in order"


def test_what_does_not_come_back_is_ended_all_the_same(tmp_path):
    """The handler runs, and what it raises is swallowed, as by a library that calls back."""
    body = """
            while True:
                try:
                    print("ready", flush=True)
                    time.sleep(600)
                except BaseException:
                    pass
    """
    process = start(COMMAND.format(body=body.strip()), 0.3, tmp_path / "end")
    assert end(process, signal.SIGTERM)[0] == 143
    assert not (tmp_path / "end").exists()


def test_what_nohup_ignores_stays_ignored(tmp_path):
    code = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + textwrap.dedent(
        COMMAND.format(body=SLEEP.format(1))
    )
    process = start(code, 60, tmp_path / "end")
    assert end(process, signal.SIGHUP)[0] == 0
    assert (tmp_path / "end").read_text() == "in order"


def test_handlers_are_as_they_were_behind_a_command():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)]
    with orderly_end():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_step_that_is_terminated_gives_its_lease_back_and_goes_on(tmp_path):
    code = """
        import fault_steps, time
        from textless.engine.pipeline import Pipeline
        from textless.engine.store import Store
        from textless.cli.signals import orderly_end

        def wait(self, below):
            print("ready", flush=True)
            time.sleep(600)

        fault_steps.Copy._befall = wait
        step = fault_steps.Copy(files=fault_steps.Files(folder=sys.argv[2]))
        with orderly_end():
            Pipeline({"copy": step}).run(Store(sys.argv[1]))
    """
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    assert end(start(code, tmp_path / "store", tmp_path / "texts"), signal.SIGTERM)[0] == 143
    assert not list((tmp_path / "store").glob("work/*.lease"))
    assert not list((tmp_path / "store").glob("live/*"))


# ------------------------------------------------------------------------------------------------------------ workers

WORKERS = """
    import fault_steps, time
    from textless.engine.pipeline import Pipeline
    from textless.engine.store import Store
    from textless.cli.signals import orderly_end

    step = fault_steps.Copy(files=fault_steps.Files(folder=sys.argv[2]), pause=600.0, log=sys.argv[3])
    with orderly_end():
        Pipeline({"copy": step}).run(Store(sys.argv[1], on="loky:2"))
"""


def of_session(leader: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to find processes in")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        signal.SIGKILL,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGHUP)),
    ],
)
def test_no_worker_outlives_its_command(tmp_path, number):
    """Whatever ends the command, also when its workers cannot be notified."""
    (tmp_path / "texts").mkdir()
    for n in range(150):
        (tmp_path / "texts" / f"t{n}.txt").write_text("x")
    process = start(WORKERS, tmp_path / "store", tmp_path / "texts", tmp_path / "log")
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "log").exists() or len((tmp_path / "log").read_text().split()) < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        process.wait(30)
        deadline = time.monotonic() + 30
        while (left := of_session(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left
    finally:
        for pid in of_session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
