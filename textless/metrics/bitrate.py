"""What units cost: bit rates, and how the codebook is used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from textless.errors import CorpusError
from textless.metrics.bootstrap import percentiles
from textless.metrics.metric import Metric, count, number
from textless.text import duration
from textless.types import Units

RESAMPLES = 200
METRICS = {
    "seconds": Metric("speech", duration),
    "active_units": Metric("units that occur", count),
    "perplexity": Metric("perplexity of the units", number(1)),
    "segment_ms": Metric("mean length of a run, ms", number(1)),
    "units_per_second": Metric("runs a second", number(1)),
    "bitrate_codebook": Metric("bits a second, log2 K a frame", number(0)),
    "bitrate_frames": Metric("bits a second, entropy of frames", number(0)),
    "bitrate": Metric("bits a second, entropy of runs", number(0)),
}


def unit_cost(sequences: Iterable[Units], *, n_units: int | None = None) -> dict[str, float]:
    """Bit rates of units and the use of their codebook; needs no phones.

    Returns:
        `active_units`: how many occur; `perplexity`: 2 to the entropy of the distribution of frame units; `segment_ms`:
        mean length of a run of one unit; `units_per_second`: runs; `bitrate_codebook`: log2 of `n_units` for each frame
        (where the number is known), `bitrate_frames`: entropy of frame units for each frame, `bitrate`: entropy of
        deduplicated units for each run, all in bits a second: a unigram code, durations not counted; `seconds`.

    Raises:
        CorpusError: no units. ContractError: their frame rate is unknown.
    """
    frames, runs, seconds = np.zeros(0, np.int64), np.zeros(0, np.int64), 0.0  # how often each unit occurs
    for units in sequences:
        seconds += units.seconds
        frames = _added(frames, units.frames())
        runs = _added(runs, units.deduplicated().units)
    if not seconds:
        raise CorpusError("there are no units to measure")
    return _cost(frames, runs, seconds, n_units)


def cost_intervals(sequences: Sequence[Units], *, n_units: int | None = None, seed: int = 0) -> dict[str, float]:
    """95 % intervals of `unit_cost`, NAME_low and NAME_high, by a bootstrap over the sequences, less the bias.

    `seconds` and `active_units` have none. Raises as `unit_cost`.
    """
    counts = [np.bincount(u.frames()) for u in sequences], [np.bincount(u.deduplicated().units) for u in sequences]
    size = max(map(len, counts[0]), default=0)
    frames, runs = (np.array([np.pad(c, (0, size - len(c))) for c in part]) for part in counts)  # (N, K) int64
    seconds = np.array([u.seconds for u in sequences])
    if not seconds.sum():
        raise CorpusError("there are no units to measure")
    rng, n = np.random.default_rng(seed), len(seconds)
    whole, drawn = _cost(frames.sum(0), runs.sum(0), float(seconds.sum()), n_units), []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(n, size=n), minlength=n)
        if total := float(times @ seconds):
            drawn.append(_cost(times @ frames, times @ runs, total, n_units))
    out = {}
    for name, value in whole.items():
        if name not in ("seconds", "active_units"):
            draws = np.array([draw[name] for draw in drawn])
            # Fewer different sequences have fewer different units, so an entropy is biased downwards.
            out[f"{name}_low"], out[f"{name}_high"] = percentiles(draws - draws.mean() + value)
    return out


def _cost(frames: np.ndarray, runs: np.ndarray, seconds: float, n_units: int | None) -> dict[str, float]:
    """`unit_cost`, of how often each unit occurs in frames and in runs, (K,) int64."""
    n_frames, n_runs = int(frames.sum()), int(runs.sum())
    bits, bits_of_runs = _entropy(frames), _entropy(runs)
    rate = n_frames / seconds
    return {
        "active_units": float((frames > 0).sum()),
        "perplexity": 2**bits,
        "segment_ms": 1000 * seconds / n_runs,
        "units_per_second": n_runs / seconds,
        **({"bitrate_codebook": math.log2(n_units) * rate} if n_units else {}),
        "bitrate_frames": bits * rate,
        "bitrate": bits_of_runs * n_runs / seconds,
        "seconds": seconds,
    }


def _added(counts: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Counts, (K,) int64, and those of more units; K grows as it must."""
    more = np.bincount(units, minlength=len(counts))
    more[: len(counts)] += counts
    return more


def _entropy(counts: np.ndarray) -> float:
    """Bits a unit, of how often each occurs."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0
