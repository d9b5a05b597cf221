"""Metrics of language models: likelihoods, accuracy on pairs of a good and a bad sequence, and controls without pairs.

A language model here is anything with `nll(units) → (N + 1,) float64` nats, such as `UnitLM` and `KneserNey`. Where it
has `nll_batch(list of units) → list of arrays`, many are scored in one call.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from textless.errors import CorpusError
from textless.lm.ngram import KneserNey
from textless.metrics.bootstrap import interval, percentiles
from textless.metrics.metric import Metric, number, percent
from textless.names import by_plain_name, plain
from textless.types import Units
from textless.units.dump import UnitRow

if TYPE_CHECKING:
    from textless.lm.decoder import Decoder
    from textless.units.merges import MergeTable

# Of `likelihoods`: of the model, and of the n-gram models that it is compared with.
METRICS = {
    "nll_per_unit": Metric("NLL per unit, nats", number(3), interval=True),
    "bits_per_second": Metric("bits a second of audio", number(1), interval=True),
    "unigram_nll_per_unit": Metric("NLL per unit of a unigram, nats", number(3), interval=True),
    "unigram_bits_per_second": Metric("bits a second of audio, unigram", number(1), interval=True),
    "fivegram_nll_per_unit": Metric("NLL per unit of a 5-gram, nats", number(3), interval=True),
    "fivegram_bits_per_second": Metric("bits a second of audio, 5-gram", number(1), interval=True),
    # Of a model with pitch, see `textless.lm.streams`.
    "duration_nll_per_unit": Metric("NLL per duration, nats", number(3), interval=True),
    "pitch_nll_per_unit": Metric("NLL per pitch, nats", number(3), interval=True),
    "unigram_pitch_nll_per_unit": Metric("NLL per pitch of a unigram, nats", number(3), interval=True),
}
# Of groups of rows, see `textless.metrics.groups`.
GROUP_METRICS = {
    "nll_per_unit": METRICS["nll_per_unit"],
    "bits_per_second": METRICS["bits_per_second"],
    "pairs": Metric("accuracy on pairs", percent, interval=True),
    "pairs_per_unit": Metric("accuracy on pairs, mean NLL per unit", percent, interval=True),
    "reversed": Metric("real likelier than reversed", percent, interval=True),
    "shuffled": Metric("real likelier than shuffled", percent, interval=True),
    "spliced": Metric("real likelier than spliced", percent, interval=True),
}
RESAMPLES = 10_000
SEGMENT = 0.5  # seconds of a segment that is shuffled: longer than a phone or syllable, shorter than a phrase
SEGMENT_UNITS = 12  # the same where the frame rate is unknown, at 50 frames a second and two frames a unit
CHUNK = 256  # rows that are scored in one call


class Scorer(Protocol):
    """A language model that scores units."""

    def nll(self, units: Units, /) -> np.ndarray: ...


class SizedScorer(Scorer, Protocol):
    """One that knows the size of its vocabulary."""

    @property
    def n_units(self) -> int: ...


def score(lm: Scorer, rows: Iterable[UnitRow]) -> Iterator[dict[str, Any]]:
    """Likelihood of each row of a dump, never deduplicated.

    Yields:
        `id`; `nll`: nats of all units and of `</s>`; `units`: N, `</s>` not counted, merged ones where the model is
        over those; `nll_per_unit`: `nll` / (N + 1), or / N where the model has no `</s>` at the end (0 for no token);
        `bits_per_second`: of audio, missing where the frame rate is unknown or there is no frame. Of a model with pitch
        also `duration_nll_per_unit` and `pitch_nll_per_unit`, / N.
    """
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        for row, scores in zip(chunk, _nll(lm, [r.units for r in chunk]), strict=True):
            total = float(scores.sum())
            n = len(scores) - ends(lm)
            values = {"id": row.id, "nll": total, "units": n, "nll_per_unit": total / max(1, len(scores))}
            rate = row.units.contract.frame_rate or getattr(lm, "frame_rate", None)
            if rate and row.units.n_frames:
                values["bits_per_second"] = total / math.log(2) / (row.units.n_frames / rate)
            for name, nats in _streams(lm, row.units).items():
                values[f"{name}_nll_per_unit"] = float(nats.sum()) / max(1, len(row.units))
            yield values


def _nll(lm: Scorer, sequences: Sequence[Units]) -> list[np.ndarray]:
    return lm.nll_batch(sequences) if sequences and hasattr(lm, "nll_batch") else [lm.nll(s) for s in sequences]


def _streams(lm: Scorer, units: Units) -> dict[str, np.ndarray]:
    """Nats of durations and of pitch, of a model that has both; of others nothing."""
    if not getattr(lm, "has_pitch", False):
        return {}
    from textless.lm.streams import stream_nll

    nats = stream_nll(cast("Decoder", lm), units)
    return {"duration": nats["durations"], "pitch": nats["pitch"]}


def _totals(lm: Scorer, sequences: Sequence[Units], normalise: bool) -> np.ndarray:
    """(len(sequences),) float64: nats of each with its `</s>`, summed, or with `normalise` their mean."""
    return np.array([s.mean() if normalise and len(s) else s.sum() for s in _nll(lm, sequences)])


def ends(lm: Scorer) -> int:
    """How many values `nll` has besides those of the units: 1, or 0 where the model has no `</s>` at the end."""
    return int(getattr(lm, "ends", True))


def log_likelihoods(lm: Scorer, sequences: Sequence[Units]) -> tuple[np.ndarray, np.ndarray]:
    """(S,) float64 each: nats of each sequence with its `</s>`, summed, and a unit; the larger is likelier."""
    scores = _nll(lm, sequences)
    return -np.array([s.sum() for s in scores]), -np.array([s.mean() if len(s) else 0.0 for s in scores])


def likelihoods(
    lm: SizedScorer, rows: Sequence[UnitRow], train: Sequence[Units] = (), *, seed: int = 0
) -> dict[str, float]:
    """Likelihood of a dump, under the model and under n-gram models of its training units.

    Args:
        train: the units that the model was trained on; without them there is no n-gram model.

    Returns:
        `nll_per_unit` and, where the frame rate is known, `bits_per_second`, as in `score`, over all rows together; the
        same of a unigram and of a 5-gram with modified Kneser-Ney smoothing, under `unigram_` and `fivegram_`; each
        with `_low` and `_high`, its 95 % interval by a bootstrap over rows, with the same draws for all models. Of a
        model with pitch also `duration_nll_per_unit`, `pitch_nll_per_unit` and, with `train`,
        `unigram_pitch_nll_per_unit`, of its add-one frequencies there.

    Raises:
        CorpusError: no row.
    """
    if not rows:
        raise CorpusError("there are no units to score")
    rows = sorted(rows, key=lambda row: row.id)
    if table := getattr(lm, "merges", None):  # n-grams are of the same units as the model
        rows = [replace(row, units=_merged(table, row.units)) for row in rows]
        train = [_merged(table, units) for units in train]
    models: dict[str, Scorer] = {"": lm}
    if train:
        n_units = rows[0].units.contract.n_units or lm.n_units
        models |= {
            f"{name}_": KneserNey.fit(train, n_units, order=order) for name, order in (("unigram", 1), ("fivegram", 5))
        }
    units = np.array([len(row.units) for row in rows])
    rate = rows[0].units.contract.frame_rate or getattr(lm, "frame_rate", None)
    seconds = np.array([row.units.n_frames for row in rows]) / rate if rate else None
    values: dict[str, float] = {}
    for name, model in models.items():
        totals = _totals(model, [row.units for row in rows], False)
        for measure, over, under in (
            ("nll_per_unit", totals, units + ends(model)),
            ("bits_per_second", totals / math.log(2), seconds),
        ):
            if under is not None:
                values[name + measure] = float(over.sum() / under.sum())
                values[f"{name}{measure}_low"], values[f"{name}{measure}_high"] = interval(over, under, seed=seed)
    for name, totals in _stream_totals(lm, rows, train).items():
        values[name] = float(totals.sum() / units.sum())
        values[f"{name}_low"], values[f"{name}_high"] = interval(totals, units, seed=seed)
    return values


def _merged(table: MergeTable, units: Units) -> Units:
    if units.contract.merges:
        return units
    plain_units = Units(units.units, units.durations, units.contract.with_(pitch=None))
    return table.merge(plain_units.deduplicated())[0]


def _stream_totals(lm: Scorer, rows: Sequence[UnitRow], train: Sequence[Units]) -> dict[str, np.ndarray]:
    """(rows,) nats of durations and of pitch, by their metric; nothing where the model has no pitch."""
    streams = [_streams(lm, row.units) for row in rows]
    totals = {f"{name}_nll_per_unit": np.array([s[name].sum() for s in streams]) for name in streams[0]}
    pitches = [units.pitch for units in train if units.pitch is not None]
    if totals and pitches:
        from textless.lm.streams import unigram_nats

        nats = unigram_nats(np.concatenate(pitches))
        totals["unigram_pitch_nll_per_unit"] = np.array([nats[row.units.pitch].sum() for row in rows])
    return totals


def by_speaker(lm: Scorer, rows: Iterable[UnitRow]) -> dict[str, dict[str, float]]:
    """`nll_per_unit` and `bits_per_second` of each speaker's rows together; empty where no row has a speaker."""
    groups: dict[str, list[UnitRow]] = {}
    for row in rows:
        if row.speaker is not None:
            groups.setdefault(row.speaker, []).append(row)
    out = {}
    for speaker, members in sorted(groups.items()):
        scores = list(score(lm, members))
        nats, tokens = sum(s["nll"] for s in scores), sum(s["units"] + ends(lm) for s in scores)
        out[speaker] = {"nll_per_unit": nats / max(1, tokens), "rows": float(len(members))}
        if all("bits_per_second" in s for s in scores):
            seconds = sum(s["nll"] / math.log(2) / s["bits_per_second"] for s in scores)
            out[speaker]["bits_per_second"] = nats / math.log(2) / seconds
    return out


# -------------------------------------------------------------------------------------------------------------- pairs


def pair_accuracy(
    lm: Scorer, pairs: Sequence[tuple[Units, Units]], *, normalise: bool = False, seed: int = 0
) -> dict[str, float]:
    """How often the good sequence of a pair is more likely: sWUGGY and sBLIMP (Nguyen et al. 2020, arXiv:2011.11588).

    Args:
        pairs: (good, bad), never deduplicated.
        normalise: compare the mean over units and `</s>`, not the sum, as TWIST does (Hassid et al. 2023,
            arXiv:2305.13009).

    Returns:
        `accuracy`: share of pairs whose good sequence has the lower NLL, a tie counting one half; `low`, `high`: its
        95 % interval, by a percentile bootstrap over pairs; `n`: number of pairs.

    Raises:
        CorpusError: no pair.
    """
    if not len(pairs):
        raise CorpusError("no pair to compare; is the list empty?")
    totals = _totals(lm, [units for pair in pairs for units in pair], normalise)
    return _accuracy(totals[::2], totals[1::2], seed)


def _accuracy(good: np.ndarray, bad: np.ndarray, seed: int) -> dict[str, float]:
    n = len(good)
    worth = np.array([0.0, 0.5, 1.0])
    counts = np.bincount(1 + np.sign(bad - good).astype(np.int64), minlength=3)
    # A pair is lost, tied or won. How many of each a resample of n pairs has is a multinomial draw.
    low, high = percentiles(np.random.default_rng(seed).multinomial(n, counts / n, RESAMPLES) @ worth / n)
    return {"accuracy": float(counts @ worth / n), "low": low, "high": high, "n": n}


def read_pairs(path: Path | str, units: Mapping[str, Units]) -> list[tuple[Units, Units]]:
    """Read a gold list: pairs of (good, bad).

    Args:
        path: .tsv or .csv with a header that names the columns `good` and `bad`, or .jsonl of objects with these; the
            values are ids. Other columns are ignored.
        units: of each id, such as `{row.id: row.units for row in dump}`.

    Raises:
        CorpusError: a file that cannot be read, no pair in it, a missing column, an id without units. Names the line.
    """
    path = Path(path)
    if path.suffix.lower() not in (".tsv", ".csv", ".jsonl"):
        raise CorpusError(f"{path}: a list of pairs is a .tsv, .csv or .jsonl")
    try:
        with open(path, encoding="utf-8-sig") as f:
            lines = f.readlines()
    except (OSError, UnicodeDecodeError) as e:
        raise CorpusError(f"{path}: cannot be read as text ({e})") from None
    pairs, by_id = [], by_plain_name(units)
    for n, row in (_objects if path.suffix.lower() == ".jsonl" else _table)(path, lines):
        ids = []
        for column in ("good", "bad"):
            if not isinstance(name := row.get(column), str) or not name:
                raise CorpusError(f"{path}:{n}: {column} is missing; a pair has the ids good and bad")
            if (name := plain(name)) not in by_id:
                raise CorpusError(
                    f"{path}:{n}: there are no units of {column} {name!r}; is this the dump that the list is of?"
                )
            ids.append(name)
        pairs.append((by_id[ids[0]], by_id[ids[1]]))
    if not pairs:
        raise CorpusError(f"{path}: has no pair")
    return pairs


def _table(path: Path, lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows of a .csv, or of a .tsv, where quotes have no meaning; the first line is a header."""
    form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix.lower() == ".tsv" else {}
    reader = csv.DictReader(lines, **form)
    try:
        if missing := [c for c in ("good", "bad") if c not in (reader.fieldnames or ())]:
            raise CorpusError(
                f"{path}:1: column {' and '.join(missing)} is missing; the first line names the columns good and bad"
            )
        for row in reader:
            yield reader.line_num, row
    except csv.Error as e:
        raise CorpusError(f"{path}:{reader.line_num + 1}: cannot be read ({e}); correct the line") from None


def _objects(path: Path, lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as e:
            raise CorpusError(f"{path}:{n}: not JSON ({e}); correct the line") from None
        if not isinstance(row, dict):
            raise CorpusError(f"{path}:{n}: expected an object with good and bad, not {str(row)[:40]!r}")
        yield n, row


# ----------------------------------------------------------------------------------------------------------- controls


def controls(lm: Scorer, rows: Iterable[UnitRow], *, seed: int = 0) -> dict[str, dict[str, float]]:
    """How often a real sequence is more likely, in mean NLL per unit, than a manipulated one: chance is one half.

    - `reversed`: in time.
    - `shuffled`: cut into segments of about half a second, which are permuted. Inside a segment nothing changes, so
        that a model whose context is a few units notices only the seams.
    - `spliced`: the first half, and from the end of another sequence as many frames as the second half has. The other
        is the next in length, so that the number of frames stays the same whenever it is long enough. There is one
        seam; the rest shows whether the model notices more than that.

    Units with durations are deduplicated, before and after; others are used as they are. Reversal and shuffling of a
    sequence depend on the seed and its id alone, and nothing depends on the order of the rows.

    Returns:
        for each control what `pair_accuracy` returns, and `left_out`: sequences that are too short, or otherwise
        unchanged. Where all are left out, `n` is 0 and accuracy and interval are missing.

    Raises:
        CorpusError: two rows of one id.
    """
    documents: dict[str, Units] = {}
    for row in rows:
        if row.id in documents:
            raise CorpusError(f"two rows are called {row.id!r}; how a control changes a row depends on its id")
        documents[row.id] = row.units if row.units.durations is None else row.units.deduplicated()
    ids = sorted(documents)
    real = dict(zip(ids, _totals(lm, [documents[i] for i in ids], True), strict=True))
    partners = _partners(documents, seed)
    makers = {
        "reversed": lambda i: _take(documents[i], np.arange(len(documents[i]))[::-1]),
        "shuffled": lambda i: shuffled(documents[i], _generator(seed, i)),
        "spliced": lambda i: spliced(documents[i], documents[partners[i]]),
    }
    out: dict[str, dict[str, float]] = {}
    for name, make in makers.items():
        controlled = {i: make(i) for i in ids}
        changed = [i for i in ids if not np.array_equal(controlled[i].units, documents[i].units)]
        out[name] = {"n": 0}
        if changed:
            good, bad = np.array([real[i] for i in changed]), _totals(lm, [controlled[i] for i in changed], True)
            out[name] = _accuracy(good, bad, seed)
        out[name]["left_out"] = len(ids) - len(changed)
    return out


def shuffled(units: Units, generator: np.random.Generator) -> Units:
    """`units` with its segments of about `SEGMENT` seconds permuted; unchanged where all permutations are the same."""
    rate = units.contract.frame_rate
    number_of_segments = round(units.n_frames / rate / SEGMENT if rate else len(units) / SEGMENT_UNITS)
    segments = np.array_split(np.arange(len(units)), min(max(1, number_of_segments), max(1, len(units))))
    changed = units
    for _ in range(20):  # of two segments every other permutation is the identity
        changed = _take(units, np.concatenate([segments[k] for k in generator.permutation(len(segments))]))
        if not np.array_equal(changed.units, units.units):
            break
    return changed


def spliced(units: Units, other: Units) -> Units:
    """The first half of `units`, in frames, and as its second half the last frames of `other`, or all it has.

    Unchanged below two frames, where there is no first half.
    """
    frames, others = units.frames(), other.frames()
    half = len(frames) // 2
    if not half:
        return units
    second_half = len(frames) - half
    last = slice(max(0, len(others) - second_half), None)
    joined, pitch = np.concatenate([frames[:half], others[last]]), None
    if (mine := units.pitch_frames()) is not None and (theirs := other.pitch_frames()) is not None:
        pitch = np.concatenate([mine[:half], theirs[last]])
    if units.durations is None:
        return Units(joined, None, units.contract, pitch)
    return Units.from_frames(joined, units.contract, pitch)


def _partners(documents: Mapping[str, Units], seed: int) -> dict[str, str]:
    """By id, the next in length; for the longest the one before, or itself if alone. The seed breaks ties."""
    order = sorted(documents, key=lambda i: (documents[i].n_frames, _generator(seed, i).random(), i))
    return dict(zip(order, order[1:] + order[-2:][:1], strict=True))


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")])


def _take(units: Units, indices: np.ndarray) -> Units:
    """The units at `indices`, in that order; with durations, runs across the seams are joined."""
    pitch = None if units.pitch is None else units.pitch[indices]
    if units.durations is None:
        return Units(units.units[indices], None, units.contract, pitch)
    return Units(units.units[indices], units.durations[indices], units.contract, pitch).deduplicated()
