"""A child that multiprocessing forks, with OpenMP's threads running in its parent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conftest import ROOT

CODE = """
import os, signal, sys
import numpy as np
import torch
from textless.units.encode import HubertEncoder
from textless.units.hubert import PRESETS, Hubert
from textless.units.kmeans import KMeans

torch.manual_seed(0)
encoder = HubertEncoder(Hubert(PRESETS["nano"]).eval(), 2)
wave = 0.1 * np.random.default_rng(0).standard_normal(80_000).astype(np.float32)

def work():
    frames = encoder.encode(wave)
    kmeans = KMeans(20, algorithm=sys.argv[1], restarts=1, iterations=2).fit(np.tile(frames, (4, 1)))
    return frames.tobytes() + kmeans.codebook.centroids.tobytes()

assert torch.get_num_threads() == 2
work()
reader, writer = os.pipe()
child = os.fork()
if not child:
    signal.alarm(100)  # ends a deadlock
    with open(writer, "wb") as f:
        f.write(bytes([torch.get_num_threads()]) + work())
    os._exit(0)
os.close(writer)
with open(reader, "rb") as f:
    made = f.read()
assert os.waitpid(child, 0)[1] == 0, "the child did not end by itself"
torch.set_num_threads(1)
import faiss
faiss.omp_set_num_threads(1)
assert made[0] == 1
assert made[1:] == work()
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="nothing is forked here")
@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
def test_a_forked_child_encodes_and_clusters(algorithm):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, algorithm],
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.returncode, done.stderr
