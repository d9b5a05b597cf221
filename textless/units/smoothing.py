"""Duration-penalised units: changing the unit has a price, so that noise at the edge of two clusters makes no units.

Kamper and van Niekerk 2021 (arXiv 2012.07551), section 3.2, with a constant price instead of a reward of each frame;
Visser and Kamper 2025. The price is λ times the mean squared distance of the codebook's training frames to their
centroids, so that λ means the same for all codebooks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np

from textless.errors import ModelError, SmoothingWarning
from textless.types import MeasuringQuantizer, Quantizer, SmoothableQuantizer, UnitContract

LOOK_BACK = 500  # frames that may be undecided, 10 s at 50 Hz; read speech needs 1 s (docs/units.md)
BLOCK = 32  # frames between two decisions
SLICE = 1024  # frames whose distances to all units are held together
# Mean squared distances of the training frames, by `UnitContract.codebook`: of codebooks from before they were kept.
SQUARED = {"d405519fdb4e2ed0fcdd129045c47c7ef717ecee4b9c10bd1fdf6e6b6660022c": 125.956}  # tiny-en


class Smoother:
    """The cheapest units of a sequence of frames, while the frames come.

    The units u minimise Σ costs[t, u[t]] + price · (number of t with u[t] ≠ u[t - 1]), by Viterbi in O(T K). Of equally
    cheap sequences it takes the one whose last unit has the smallest number and, from there backwards, in which each
    unit lasts as long as it can and follows the one with the smallest number.

    A unit is returned when every sequence that can still be the cheapest has it. Where that takes more than
    `look_back` frames, the sequence that is cheapest so far is taken; `seams` counts where a later frame would have
    changed it. Without seams the units are those of all costs at once. The pieces' lengths change nothing.

    Args:
        price: of a change, at least 0, in the unit of the costs.
        look_back: frames that may remain undecided after `BLOCK` more have come: the delay is at most their sum.

    Attributes:
        seams: places where units differ from the cheapest ones because of `look_back`, so far.
    """

    def __init__(self, price: float, *, look_back: int | None = None) -> None:
        self.price, self.seams = np.float32(price), 0
        self.look_back = LOOK_BACK if look_back is None else look_back
        # Held frames: the total of the cheapest sequence that ends in each unit, less the least of these totals.
        self._totals = np.empty((0, 0), np.float32)
        self._best = np.empty(0, np.int64)  # the unit whose total is the least, of each held frame
        self._held = 0
        self._last: int | None = None  # the unit of the first held frame, once it is returned; all others are undecided
        self._since = 0  # frames since the last decision

    def push(self, costs: np.ndarray) -> np.ndarray:
        """Costs of the next frames, (t, K) float32, finite → the units decided by them, (n,) int64."""
        decided = [np.empty(0, np.int64)]
        while len(costs):
            part, costs = np.split(costs, [BLOCK - self._since])
            self._extend(part)
            self._since += len(part)
            if self._since == BLOCK:
                self._since = 0
                decided.append(self._decide())
        return np.concatenate(decided)

    def finish(self) -> np.ndarray:
        """The units of the frames that are still undecided, (n,) int64. No frames can follow."""
        if not self._held:
            return np.empty(0, np.int64)
        return self._take(self._held - 1, int(self._best[self._held - 1]))

    def _extend(self, costs: np.ndarray) -> None:
        n = self._held
        if n + len(costs) > len(self._totals):
            totals = np.empty((2 * (n + BLOCK), costs.shape[1]), np.float32)
            best = np.empty(len(totals), np.int64)
            if n:
                totals[:n], best[:n] = self._totals[:n], self._best[:n]
            self._totals, self._best = totals, best
        totals, best, price = self._totals, self._best, self.price
        new = totals[n : n + len(costs)]
        new[:] = costs
        before = totals[n - 1] if n else np.zeros_like(new[0])
        cheapest = np.empty_like(before)
        for t, total in enumerate(new, n):
            np.minimum(before, price, out=cheapest)  # to stay, or to come from the best
            np.add(total, cheapest, out=total)
            best[t] = k = total.argmin()
            np.subtract(total, total[k], out=total)
            before = total
        self._held += len(costs)

    def _decide(self) -> np.ndarray:
        """The units that no later frame can change, and those beyond `look_back`."""
        first = 0 if self._last is None else 1
        due = self._held - 1 - self.look_back  # the last frame beyond the look-back
        t = self._held - 1
        units = np.flatnonzero(self._totals[t] <= self.price)  # no sequence goes on from the others
        while len(units) > 1 and t > max(first, due):
            t -= 1
            units = self._before(t, units)
            if (units == units[0]).all():
                units = units[:1]
        if len(units) == 1:
            return self._take(t, int(units[0]))
        if due < first:
            return np.empty(0, np.int64)
        return self._take(due, int(self._trace(self._held - 1, int(self._best[self._held - 1]), due)[0]))

    def _before(self, t: int, units: np.ndarray) -> np.ndarray:
        """Of the sequences that have these units at frame t + 1, the units at frame t."""
        return np.where(self._totals[t, units] <= self.price, units, self._best[t])

    def _trace(self, t: int, unit: int, first: int) -> np.ndarray:
        """(t + 1 - first,) int64: from held frame `first` to t, the sequence that ends in `unit`."""
        totals, best, price = self._totals, self._best, self.price
        path = [unit]
        for s in range(t - 1, first - 1, -1):
            if totals[s, unit] > price:
                unit = int(best[s])
            path.append(unit)
        return np.array(path[::-1], np.int64)

    def _take(self, t: int, unit: int) -> np.ndarray:
        """Decide held frames up to t, and drop all before t."""
        first = 0 if self._last is None else 1
        path = self._trace(t, unit, 0)
        if self._last is not None and path[0] != self._last:
            self.seams += 1
        kept = self._held - t
        self._totals[:kept], self._best[:kept] = self._totals[t : self._held].copy(), self._best[t : self._held].copy()
        self._held, self._last = kept, unit
        return path[first:]


def smoothing_of(quantizer: Quantizer, smoothing: float | None) -> float:
    """λ of a quantizer's units: `smoothing`, or where it is None the quantizer's own; 0 is no smoothing.

    Raises:
        ContractError: it is negative, not finite, or no number.
        ModelError: it is above 0, and the quantizer has no distances, or does not say how large they are.
    """
    own = quantizer.contract.smoothing if smoothing is None else UnitContract(smoothing=smoothing).smoothing
    if own:
        price_of_change(quantizer, own)
    return own or 0.0


def price_of_change(quantizer: Quantizer, smoothing: float) -> float:
    """λ times the mean squared distance of the training frames. Raises ModelError as `smoothing_of`."""
    if not isinstance(quantizer, SmoothableQuantizer):
        raise ModelError(
            f"a {type(quantizer).__name__.lower()} has no distances, so that its units cannot be smoothed; "
            "leave smoothing out, or take a k-means codebook"
        )
    squared = (quantizer.distances or {}).get("squared", SQUARED.get(quantizer.contract.codebook or ""))
    if squared is None:
        raise ModelError(
            "the codebook does not say the mean squared distance of its training frames, the unit of smoothing; "
            "train it again, or give frames that it was trained on to `Codebook.measure`, and save it"
        )
    return smoothing * squared


def quantize(
    quantizer: Quantizer, pieces: Iterable[np.ndarray], smoothing: float = 0.0
) -> tuple[np.ndarray, float | None]:
    """Frames of one file, (t, D) float32 each → the unit of each frame, (T,) int64, and how well the frames fit.

    That is the mean distance of a frame to the unit nearest to it; None where the quantizer measures none
    (`MeasuringQuantizer`).

    Args:
        smoothing: λ; see `smoothing_of`, which this raises as.
    """
    if smoothing:
        return _smoothed(quantizer, pieces, price_of_change(quantizer, smoothing))
    if not isinstance(quantizer, MeasuringQuantizer):
        return np.concatenate([quantizer.predict(frames) for frames in pieces]), None
    nearest = [quantizer.nearest(frames) for frames in pieces]
    units, distances = (np.concatenate(parts) for parts in zip(*nearest, strict=True))
    return units, float(distances.mean(dtype=np.float64))


def _smoothed(quantizer: Quantizer, pieces: Iterable[np.ndarray], price: float) -> tuple[np.ndarray, float]:
    assert isinstance(quantizer, SmoothableQuantizer)
    smoother, units, distances = Smoother(price), [], []
    for frames in pieces:
        for start in range(0, max(len(frames), 1), SLICE):
            squared = quantizer.squared_distances(frames[start : start + SLICE])
            distances.append(np.sqrt(squared.min(1)))
            units.append(smoother.push(squared))
    units.append(smoother.finish())
    if smoother.seams:
        warnings.warn(
            f"smoothing: at {smoother.seams} places of a file the choice was open for over {LOOK_BACK} frames, and the "
            "units are not the cheapest; is it noise or music, or the price too high?",
            SmoothingWarning,
            stacklevel=2,
        )
    return np.concatenate(units), float(np.concatenate(distances).mean(dtype=np.float64))
