"""torchrun and `accelerate launch` on `textless run`: the artefacts of one process, made once, and resumed when
killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from conftest import ROOT

pytestmark = pytest.mark.slow

PIPELINE = f"""
steps:
  corpus:  {{manifest: {ROOT / "pipelines" / "smoke" / "speech.tsv"}, split: dev}}
  mfcc:    {{step: frames, audio: $corpus, encoder: mfcc, keep: temp}}
  km:      {{step: kmeans, frames: $mfcc, n_units: 16, iterations: 5}}
  units:   {{step: assign, frames: $mfcc, codebook: $km}}
  hubert:  {{step: pretrain, audio: $corpus, labels: $units, preset: nano, steps: 200, batch: 4, crop_seconds: 0.5,
             layer_drop: 0.2}}
  lm:      {{step: train_lm, units: $units, dev: $units, preset: nano, steps: 40, batch_tokens: 512, context: 128,
             micro_batch: 1}}
  voice:   {{step: train_vocoder, audio: $corpus, units: $units, preset: nano, steps: 20, batch: 4, crop_seconds: 0.3}}
"""
# Checkpoints come at most every ten seconds; so that a short training has some, here they come with every row.
SCRIPT = """
import textless.training.loop
textless.training.loop.CHECKPOINT_SECONDS = textless.training.loop.CHECKPOINT_STEPS = 0
from textless.cli import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launchers")
    (folder / "p.yaml").write_text(PIPELINE)
    (folder / "textless_often.py").write_text(SCRIPT)
    return folder


def torchrun(folder, store, *arguments, module=("-m", "textless")):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *module]
    return start([*command, "run", str(folder / "p.yaml"), "--store", str(folder / store), *arguments])


def start(command):
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT
    )


def finish(child):
    out, err = child.communicate(timeout=600)
    assert child.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def together(folder):
    curves = ["--tensorboard"] if find_spec("tensorboard") else []
    return folder / "together", *finish(torchrun(folder, "together", *curves))


def weights(store, step):
    from safetensors.numpy import load_file

    (found,) = (store / "artefacts").glob(f"{step}-*/model.safetensors")
    return load_file(found)


def test_two_processes_publish_what_one_does(folder, together):
    store, out, err = together
    assert [line.split()[0] for line in out.splitlines()] == ["hubert", "lm", "voice"]
    announced = [
        line.strip() for line in err.splitlines()
    ]  # each once; a slow machine says more of a step in lines of their own
    assert announced.count("[1/6] mfcc") == announced.count("[6/6] voice") == 1
    alone, _ = finish(
        start([sys.executable, "-m", "textless", "run", str(folder / "p.yaml"), "--store", str(folder / "alone")])
    )
    assert alone.replace("/alone/", "/together/") == out  # the same keys
    for step in ("pretrain", "train_lm", "train_vocoder"):
        one, two = weights(folder / "alone", step), weights(store, step)
        for name, value in one.items():
            assert abs(value.astype("f4") - two[name].astype("f4")).max() < 2e-3, (
                step,
                name,
            )  # one step of half precision at 1 … 4
    assert not list((store / "work").glob("*/*"))
    manifests = [json.loads(p.read_text()) for p in (store / "artefacts").glob("*/manifest.json")]
    assert {m["step"]: m["attempts"] for m in manifests} == dict.fromkeys(
        ("kmeans", "assign", "pretrain", "train_lm", "train_vocoder"), 1
    )


def test_the_first_process_writes_the_curves(together):
    pytest.importorskip("tensorboard")
    files = list((together[0] / "tensorboard").glob("*/*"))
    assert sorted(p.parent.name.split("-")[0] for p in files) == ["pretrain", "train_lm", "train_vocoder"]


def test_two_killed_processes_are_resumed_to_the_same_bytes(folder, together):
    child = torchrun(folder, "killed", "hubert", module=(str(folder / "textless_often.py"),))
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not list(
        (folder / "killed" / "work").glob("pretrain-*/scratch/checkpoint.pt")
    ):
        assert child.poll() is None
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGTERM)  # torchrun's own; it ends its processes
    child.communicate(timeout=60)
    checkpoint = list((folder / "killed" / "work").glob("pretrain-*/scratch/checkpoint.pt"))
    assert checkpoint
    finish(torchrun(folder, "killed", "hubert"))
    (manifest,) = (folder / "killed" / "artefacts").glob("pretrain-*/manifest.json")
    assert json.loads(manifest.read_text())["attempts"] == 2
    (a,), (b,) = (
        list(store.glob("artefacts/pretrain-*/model.safetensors")) for store in (folder / "killed", together[0])
    )
    assert a.read_bytes() == b.read_bytes()


def test_an_error_of_the_first_process_ends_all(folder):
    # The first process clusters, while the other one waits for the training.
    child = torchrun(folder, "wrong", "hubert", "-s", "km.n_units=1000000")
    assert "cannot make 1000000 units" in child.communicate(timeout=120)[1]
    assert child.returncode != 0


def test_accelerate(folder, together):
    pytest.importorskip("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_machines",
        "1",
        "--num_processes",
        "2",
    ]
    command += ["--main_process_port", port, "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "textless"]
    finish(start([*command, "run", str(folder / "p.yaml"), "hubert", "--store", str(folder / "accelerate")]))
    for name, value in weights(folder / "accelerate", "pretrain").items():
        assert (value == weights(together[0], "pretrain")[name]).all(), name
