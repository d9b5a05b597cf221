"""smoke.yaml, the whole chain from nothing: a second run does nothing, and killing it changes no byte."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT

pytestmark = pytest.mark.slow


# Checkpoints come at most every ten seconds; so that the short trainings of smoke.yaml have some, here they come with
# every row.
COMMAND = (
    "import textless.training.loop as t; t.CHECKPOINT_SECONDS = 0; t.CHECKPOINT_STEPS = 50; from "
    "textless.cli.app import main; main()"
)


def smoke(store):
    command = [sys.executable, "-c", COMMAND, "run", "smoke", "--store", str(store)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def contents(store):
    folder = Path(store) / "artefacts"
    return {
        p.relative_to(folder): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "manifest.json"
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = tmp_path_factory.mktemp("undisturbed")
    child = smoke(store)
    out, err = child.communicate()
    assert child.returncode == 0, err
    return store, out


def test_speech_comes_out(undisturbed):
    import soundfile

    store, out = undisturbed
    wavs = sorted((store / "artefacts").glob("resynth-*/*.wav"))
    assert len(wavs) == 3
    assert all(soundfile.info(w).duration == pytest.approx(3.5) for w in wavs)
    assert "speech" in out
    assert not list((store / "work").glob("*/*"))


def test_a_second_run_does_nothing(undisturbed):
    store, out = undisturbed
    before = {p: p.stat().st_mtime_ns for p in (store / "artefacts").rglob("*")}
    child = smoke(store)
    assert child.communicate()[0] == out
    assert {p: p.stat().st_mtime_ns for p in (store / "artefacts").rglob("*")} == before


def test_killed_again_and_again_the_bytes_are_the_same(undisturbed, tmp_path):
    """SIGKILL during each kind of work, the checkpointed trainings among them."""
    kills = 0
    for step in ("frames-", "pretrain-", "train_lm-", "train_vocoder-"):
        child = smoke(tmp_path)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and child.poll() is None:
            work = list((tmp_path / "work").glob(f"{step}*/scratch"))
            if work and (step == "frames-" or list(work[0].glob("checkpoint.pt"))):
                break
            time.sleep(0.01)
        kills += child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert kills == 4
    child = smoke(tmp_path)
    _, err = child.communicate()
    assert child.returncode == 0, err
    assert contents(tmp_path) == contents(undisturbed[0])
