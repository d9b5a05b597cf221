"""What units cost: bit rates, and how the codebook is used."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from textless.errors import CorpusError
from textless.metrics.metric import Metric, count, number
from textless.text import duration
from textless.types import Units

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
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    seconds = 0.0
    for units in sequences:
        seconds += units.seconds
        parts.append((units.frames(), units.deduplicated().units))
    if not seconds:
        raise CorpusError("there are no units to measure")
    frames, runs = (np.concatenate(sequence) for sequence in zip(*parts, strict=True))
    bits, bits_of_runs = _entropy(frames), _entropy(runs)
    rate = len(frames) / seconds
    return {
        "active_units": float(len(np.unique(frames))),
        "perplexity": 2**bits,
        "segment_ms": 1000 * seconds / len(runs),
        "units_per_second": len(runs) / seconds,
        **({"bitrate_codebook": math.log2(n_units) * rate} if n_units else {}),
        "bitrate_frames": bits * rate,
        "bitrate": bits_of_runs * len(runs) / seconds,
        "seconds": seconds,
    }


def _entropy(units: np.ndarray) -> float:
    """Bits a unit."""
    counts = np.bincount(units)
    shares = counts[counts > 0] / len(units)
    return float(-(shares * np.log2(shares)).sum()) + 0.0
