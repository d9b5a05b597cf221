"""What units are worth: how much of the phones is in them, and what they cost.

PNMI and purities are those of Hsu et al. (2021, section IV-C). `measure_units` gives these, the bit rates and the ABX of
`textless.metrics.abx_error` in one dictionary, which a step writes into its manifest and `textless quality` prints; `measure_frames` gives the
ABX of an encoder's frames. A figure `NAME` that compares with phones has `NAME_chance` beside it, the same after labels were shuffled.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from textless.errors import CorpusError
from textless.metrics.abx_error import abx
from textless.metrics.items import Alignment, Item, frame_span, items_of, seconds
from textless.names import by_plain_name, plain, repeated
from textless.types import Units
from textless.units.dump import UnitRow

RESAMPLES = 200  # each goes over all frames


def read_alignments(path: Path | str) -> dict[str, Alignment]:
    """A tsv with columns id, start, end (seconds), phone → {id: [(start, end, phone)]}. Raises CorpusError that names the line."""
    out: dict[str, Alignment] = defaultdict(list)
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            rows = csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
            if missing := {"id", "start", "end", "phone"} - set(rows.fieldnames or ()):
                raise CorpusError(
                    f"{path}: column {', '.join(sorted(missing))} is missing; an alignment has id, start, end, phone"
                )
            for row in rows:
                try:
                    out[plain(row["id"])].append((seconds(row["start"]), seconds(row["end"]), row["phone"]))
                except (AttributeError, TypeError, ValueError):  # the first of a line without an id
                    raise CorpusError(
                        f"{path}, line {rows.line_num}: start and end must be numbers of seconds; correct the line"
                    ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise CorpusError(f"{path}: cannot be read as an alignment ({e})") from None
    return dict(out)


def frame_phones(alignment: Alignment, frames: int, *, frame_rate: float, window: float = 0.025) -> list[str | None]:
    """Phone at the middle of each frame's window, None where there is none."""
    out: list[str | None] = [None] * frames
    for start, end, phone in alignment:
        first, last = frame_span(start, end, frames, frame_rate=frame_rate, window=window)
        out[first:last] = [phone] * max(0, last - first)
    return out


def unit_quality(
    pairs: Iterable[tuple[np.ndarray, list[str | None]]], *, n_units: int, seed: int = 0
) -> dict[str, float]:
    """Compare units with phones, frame by frame.

    Args:
        pairs: of each file, frame units (T,) int64 and the phones of `frame_phones`; frames without a phone are left out.

    Returns:
        `pnmi`: mutual information over the phones' entropy, and `_low`, `_high`, its 95 % interval by a bootstrap over files, less the
        bias;
        `phone_purity`: share of frames whose phone is the most frequent of their unit; `cluster_purity`: share whose unit is the most
        frequent of their phone; each with `_chance`, the same with the units shuffled over the frames, the floor that few frames raise;
        `active_units` and `frames`, of the frames that have a phone.

    Raises:
        CorpusError: no frame has both a unit and a phone.
    """
    all_units, phone_ids, file, files = aligned(pairs)
    rng = np.random.default_rng(seed)
    joint = shares(phone_ids, all_units, n_units)
    chance = shares(phone_ids, rng.permutation(all_units), n_units)
    # Of files drawn with replacement: a frame counts as often as its file was drawn.
    draws = (np.bincount(rng.integers(files, size=files), minlength=files) for _ in range(RESAMPLES))
    whole = pnmi(joint)
    drawn = np.array([pnmi(shares(phone_ids, all_units, n_units, times[file])) for times in draws])
    # Fewer different frames share more by chance: what is drawn lies too high by about its mean's distance from the whole.
    low, high = np.percentile(drawn - drawn.mean() + whole, [2.5, 97.5])
    return {
        "pnmi": whole,
        "pnmi_low": float(low),
        "pnmi_high": float(high),
        "pnmi_chance": pnmi(chance),
        "phone_purity": float(joint.max(0).sum()),
        "phone_purity_chance": float(chance.max(0).sum()),
        "cluster_purity": float(joint.max(1).sum()),
        "cluster_purity_chance": float(chance.max(1).sum()),
        "active_units": float((joint.sum(0) > 0).sum()),
        "frames": float(len(all_units)),
    }


def aligned(pairs: Iterable[tuple[np.ndarray, list[str | None]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Units, phones as numbers, and file, from 0, of all frames that have a phone, (N,) int64 each; and how many pairs there are.

    `pairs` and errors are those of `unit_quality`.
    """
    units, phones, files = [], [], []
    for file, (u, p) in enumerate(pairs):
        keep = [i for i, phone in enumerate(p[: len(u)]) if phone is not None]
        units.append(np.asarray(u)[keep])
        phones.extend(p[i] for i in keep)
        files.append(np.full(len(keep), file))
    if not phones:
        raise CorpusError("no frame has both a unit and a phone; do the ids of units and alignment agree?")
    return np.concatenate(units), np.unique(np.array(phones), return_inverse=True)[1], np.concatenate(files), len(files)


def shares(phones: np.ndarray, units: np.ndarray, n_units: int, weights: np.ndarray | None = None) -> np.ndarray:
    """(phones, n_units) float64: share of the frames, each as often as its weight says, that have this phone and this unit."""
    size = (phones.max() + 1) * n_units
    counts = (
        np.bincount(phones * n_units + units, weights=weights, minlength=size).reshape(-1, n_units).astype(np.float64)
    )
    return counts / counts.sum()


def pnmi(joint: np.ndarray) -> float:
    """Mutual information over the phones' entropy, of `shares`. Raises CorpusError where there is but one phone, whose entropy is 0."""
    phone, unit = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    if len(phone) < 2:
        raise CorpusError("all frames have the same phone; PNMI and purities need two at least")
    seen = joint > 0
    information = (joint[seen] * np.log(joint[seen] / (phone @ unit)[seen])).sum()
    entropy = -(phone[phone > 0] * np.log(phone[phone > 0])).sum()
    return float(information / entropy) if entropy else 0.0  # of drawn files, all with the same phone


def unit_cost(sequences: Iterable[Units], *, n_units: int | None = None) -> dict[str, float]:
    """What units cost and how they are used, without phones.

    Returns:
        `active_units`: that occur; `perplexity`: of the distribution of frame units, 2 to its entropy; `segment_ms`: mean length of a run
        of one unit; `units_per_second`: runs; `bitrate_codebook`: log2 of `n_units` for each frame (where the number is known),
        `bitrate_frames`: entropy of frame units for each frame, `bitrate`: entropy of deduplicated units for each run, all in bits a
        second, as unigrams cost that are coded apart from their durations; `seconds`.

    Raises:
        CorpusError: no units. ContractError: their frame rate is unknown.
    """
    frames, runs, seconds = [], [], 0.0
    for units in sequences:
        seconds += units.seconds
        frames.append(units.frames())
        runs.append(units.deduplicated().units)
    frames, runs = (np.concatenate(parts) if parts else np.empty(0, np.int64) for parts in (frames, runs))
    if not len(frames):
        raise CorpusError("there are no units to measure")
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


def measure_units(
    rows: Iterable[UnitRow],
    *,
    alignments: Mapping[str, Alignment] | None = None,
    items: Sequence[Item] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """All that is known of units: `unit_cost`; with alignments `unit_quality`; with items, or the triphones of the alignments, `abx_within`
    and `abx_across` with `_chance` and `_cells`.

    Items made from alignments need rows with speakers; where they give no ABX a warning says why.

    Raises:
        CorpusError: no units; alignments of other files; items that were given and make no cell. ContractError: units of several
            codebooks, or of an unknown frame rate.
    """
    rows = sorted(
        rows, key=lambda row: row.id
    )  # what the seed shuffles is then the same in whatever order the rows come
    for row in rows[1:]:
        rows[0].units.contract.check(row.units.contract, mine=rows[0].id, theirs=row.id)
    figures = unit_cost((row.units for row in rows), n_units=rows[0].units.contract.n_units if rows else None)
    figures["files"] = float(len(rows))
    if alignments is None and items is None:
        return figures
    if (name := repeated(row.id for row in rows)) is not None:
        raise CorpusError(f"two rows are called {name!r}; phones are found by id: measure them one after the other")
    rate = rows[0].units.frame_rate
    files = {row.id: row.units.frames() for row in rows}
    if alignments is not None:
        alignments = by_plain_name(alignments)
        pairs = ((u, frame_phones(alignments[i], len(u), frame_rate=rate)) for i, u in files.items() if i in alignments)
        n_units = rows[0].units.contract.n_units or 1 + max(int(u.max(initial=0)) for u in files.values())
        figures = unit_quality(pairs, n_units=n_units, seed=seed) | figures
    speakers = {row.id: row.speaker for row in rows}
    return figures | _discriminate(
        files, alignments, items, speakers, frame_rate=rate, distance="discrete", name="abx", seed=seed
    )


def measure_frames(
    files: Mapping[str, np.ndarray],
    *,
    frame_rate: float,
    alignments: Mapping[str, Alignment] | None = None,
    items: Sequence[Item] | None = None,
    speakers: Mapping[str, str | None],
    distance: str = "angular",
    max_items: int = 10,
    max_speakers: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """ABX of frames {id: (T, D) float}: `frame_abx_within` and `frame_abx_across` with `_chance` and `_cells`, by the items that are given
    or the triphones of the alignments. Warns and raises as `measure_units`; for the rest see `abx`."""
    limits = {"distance": distance, "max_items": max_items, "max_speakers": max_speakers}
    return _discriminate(
        files, alignments, items, speakers, frame_rate=frame_rate, name="frame_abx", seed=seed, **limits
    )


def _discriminate(
    files: Mapping[str, np.ndarray],
    alignments: Mapping[str, Alignment] | None,
    items: Sequence[Item] | None,
    speakers: Mapping[str, str | None],
    *,
    name: str,
    **options: object,
) -> dict[str, float]:
    """ABX within and across speakers, one of them left out where it has no cell."""
    there = (
        items if items is not None else items_of({i: a for i, a in (alignments or {}).items() if i in files}, speakers)
    )
    figures: dict[str, float] = {}
    reasons = []
    for mode in ("within", "across"):
        try:
            found = abx(files, there, speakers=mode, **options)  # type: ignore[arg-type]
        except CorpusError as e:
            reasons.append(str(e))
            continue
        figures[f"{name}_{mode}"] = found["error"]
        figures |= {f"{name}_{mode}_{k}": found[k] for k in ("low", "high", "chance", "cells")}
    if items is not None and not figures:
        raise CorpusError(reasons[0])
    if reasons:
        unknown = "no ABX: it is not known who speaks; give a manifest with the column speaker, or an item file"
        warnings.warn(reasons[-1] if items is not None or any(speakers.values()) else unknown, stacklevel=1)
    return figures
