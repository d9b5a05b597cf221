"""Duration-penalised units: Viterbi as `Smoother` does it, against two other ways, and the distances that all need.

OMP_NUM_THREADS=1 python bench/smoothing.py FOLDER [SECONDS]   # K = 500, on frames of tiny-en of the folder's audio

Times are of the processor, so that other processes hardly count.
"""

import statistics
import sys
import time

import numpy as np
from common import header

import textless
from textless.audio.corpus import Corpus, read_rows
from textless.units.kmeans import fit_codebook
from textless.units.smoothing import SLICE, Smoother, price_of_change

PRICE = 0.2
RUNS = 5


def frames_of(folder, seconds):
    encoder, frames, n = textless.load("tiny-en").tokenizer.encoder, [], 0
    for _, waveform in read_rows(Corpus.load(folder)):
        frames.append(encoder.encode_one(waveform))
        n += len(frames[-1])
        if n >= seconds * encoder.frame_rate:
            break
    return np.concatenate(frames), n / encoder.frame_rate


def smoother(costs, price):
    s = Smoother(price)
    parts = [s.push(costs[i : i + SLICE]) for i in range(0, len(costs), SLICE)]
    return np.concatenate([*parts, s.finish()])


def pointers(costs, price):
    """A pointer for every unit of every frame, totals that grow: the textbook's."""
    total, back = costs[0], np.empty(costs.shape, np.int64)
    every = np.arange(costs.shape[1])
    for t in range(1, len(costs)):
        k = total.argmin()
        back[t] = np.where(total <= total[k] + price, every, k)
        total = costs[t] + np.minimum(total, total[k] + price)
    return trace(back, int(total.argmin()))


def survivors(costs, price):
    """Totals of the units alone from which a sequence can go on; all others start again from the best."""
    total, stays, best = costs[0] - costs[0].min(), [], [int(costs[0].argmin())]
    for row in costs[1:]:
        alive = np.flatnonzero(total <= price)
        stays.append(alive)
        new = row + price
        new[alive] = row[alive] + total[alive]
        best.append(int(new.argmin()))
        total = new - new[best[-1]]
    units = [best[-1]]
    for alive, k in zip(reversed(stays), reversed(best[:-1]), strict=True):
        units.append(units[-1] if units[-1] in alive else k)
    return np.array(units[::-1])


def trace(back, unit):
    units = [unit]
    for row in back[:0:-1]:
        units.append(int(row[units[-1]]))
    return np.array(units[::-1])


def main(folder, seconds):
    frames, seconds = frames_of(folder, seconds)
    codebook, _ = fit_codebook(frames, 500, transform="layer_norm")
    price = price_of_change(codebook, PRICE)
    header(f"{seconds:.0f} s of speech, {len(frames)} frames, K = 500, λ = {PRICE}")
    costs = codebook.squared_distances(frames)
    ways = {
        "Smoother": lambda: smoother(costs, price),
        "pointers": lambda: pointers(costs, price),
        "survivors": lambda: survivors(costs, price),
        "distances to all units": lambda: codebook.squared_distances(frames),
        "nearest, without smoothing": lambda: codebook.nearest(frames),
    }
    taken = {name: [] for name in ways}
    for _ in range(RUNS):
        for name, way in ways.items():
            start = time.process_time()
            way()
            taken[name].append(time.process_time() - start)
    for name, times in taken.items():
        print(f"{name}: {seconds / statistics.median(times):.0f} x real time")
    ours = smoother(costs, price)
    for name in ("pointers", "survivors"):
        print(f"the same units as {name}: {np.mean(ours == ways[name]()):.6f}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 600.0)
