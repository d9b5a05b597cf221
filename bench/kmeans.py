"""k-means against scikit-learn's MiniBatchKMeans with fairseq's settings: seconds, inertia, memory.

OMP_NUM_THREADS=1 python bench/kmeans.py FOLDER [RUNS]   # 477 000 × 39, K = 100: MFCC of the folder's audio
OMP_NUM_THREADS=1 python bench/kmeans.py synthetic       # 200 000 × 768, K = 500: a mixture of 2000 with variances 1 /
                                                         n; # scikit-learn takes 15 minutes of one core, runs once
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import compare, header

from textless.units.kmeans import KMeans
from textless.units.lloyd import Assignment, Points

MEASURE = "--memory"


def mfcc_frames(folder, n=477_000):
    from textless.audio.corpus import Corpus, read_rows
    from textless.audio.mfcc import mfcc

    frames = np.concatenate([mfcc(waveform) for _, waveform in read_rows(Corpus.load(folder))])
    return frames[np.sort(np.random.default_rng(0).permutation(len(frames))[:n])]


def mixture(n=200_000, dim=768, components=2000):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((components, dim), np.float32)
    frames = centres[rng.integers(0, components, n)]
    for start in range(0, n, 20_000):
        frames[start : start + 20_000] += rng.standard_normal((20_000, dim), np.float32)
    frames *= ((1 + np.arange(dim)) ** -0.5).astype(np.float32)
    return frames


def memory(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1]) * 1024


def peak_memory(path, n_units):
    """The peak that training a codebook reaches, in samples, the sample itself included."""
    frames = np.load(path)
    KMeans(2).fit(frames[:100])  # the libraries are loaded
    without = memory("VmRSS") - frames.nbytes
    KMeans(n_units, seed=0).fit(frames)
    print((memory("VmHWM") - without) / frames.nbytes)


def main(source, runs):
    synthetic = source == "synthetic"
    frames, n_units = (mixture(), 500) if synthetic else (mfcc_frames(source), 100)
    points = Points(frames, lambda x: x)
    points.mean = points.measure()

    def inertia(kmeans):
        return Assignment(points, kmeans.codebook.centroids - points.mean).inertia

    seeds = [iter(range(1000)) for _ in "ab"]
    fits = {"ours": [], "theirs": []}

    def ours():
        fits["ours"].append(KMeans(n_units, seed=next(seeds[0])).fit(frames))

    def theirs():
        from sklearn.cluster import MiniBatchKMeans

        settings = {
            "n_init": 20,
            "batch_size": 10_000,
            "max_iter": 100,
            "tol": 0.0,
            "max_no_improvement": 100,
            "reassignment_ratio": 0.0,
        }
        fits["theirs"].append(
            MiniBatchKMeans(n_units, **settings, compute_labels=False, random_state=next(seeds[1])).fit(frames)
        )

    header(f"k-means, {len(frames)} × {frames.shape[1]}, K = {n_units}")
    if synthetic:
        start = time.perf_counter()
        ours()
        a = time.perf_counter() - start
        theirs()
        b = time.perf_counter() - start - a
        ratio = b / a
    else:
        a, b, ratio = compare(ours, theirs, runs=runs)
    mine = [inertia(k) for k in fits["ours"]]
    other = [Assignment(points, np.float32(k.cluster_centers_ - points.mean)).inertia for k in fits["theirs"]]
    print(f"textless {a:.2f} s   MiniBatchKMeans {b:.2f} s   ratio {ratio:.1f}")
    print(f"inertia, mean (worst) of {len(mine)}: textless {np.mean(mine):.4g} ({max(mine):.4g})", end="   ")
    print(f"MiniBatchKMeans {np.mean(other):.4g} (best {min(other):.4g})")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.npy"
        np.save(path, frames)
        done = subprocess.run(
            [sys.executable, __file__, MEASURE, path, str(n_units)], capture_output=True, text=True, check=True
        )
    print(f"peak memory: {float(done.stdout):.2f} samples")


if sys.argv[1] == MEASURE:
    peak_memory(sys.argv[2], int(sys.argv[3]))
else:
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
