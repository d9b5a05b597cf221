"""sSIMI of ZeroSpeech 2021: do distances of spoken words follow human judgements of their similarity?

Sources: zerospeech/zerospeech2021 `semantic.py` and `leaderboard.py` (SemanticScore), arXiv:2011.11588.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from textless.benchmarks.base import Benchmark, Figure, Figures, Given, Outcome
from textless.benchmarks.layout import csv_text, matched, read_table
from textless.errors import CorpusError
from textless.metrics.bootstrap import RESAMPLES, percentiles
from textless.names import plain

DISTANCES, POOLINGS = ("euclidean", "cosine"), ("mean", "max")
MOST = 10  # recordings of a word of librispeech


class Words(NamedTuple):
    """Two words of a dataset, and how alike people find them.

    Attributes:
        type: `synthetic` or `librispeech`.
        recordings: pairs of these, of the first word and the second, over whose distances the mean is taken.
        human: larger for words that are more alike.
        words: as pairs.csv has them.
    """

    type: str
    dataset: str
    recordings: list[tuple[str, str]]
    human: float
    words: tuple[str, str]


def read_words(folder: Path, split: str) -> list[Words]:
    """The pairs of `semantic/SPLIT/pairs.csv` with the recordings of gold.csv.

    Of synthetic speech, recordings of one voice are compared, and all voices count that say both words; of librispeech
    all recordings. Human is `relatedness` where no cell of it is empty in the type's dataset, else `similarity`.

    Raises:
        CorpusError: another table, a word without recordings, a judgement that is missing or no number.
    """
    place = folder / "semantic" / split
    pairs = read_table(place / "pairs.csv", ["type", "dataset", "word_1", "word_2", "similarity", "relatedness"])
    tokens: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row in read_table(place / "gold.csv", ["type", "filename", "word", "voice"]):
        name = plain(row["filename"].removesuffix(".wav"))
        tokens[row["type"], row["word"]].append((f"semantic/{split}/{row['type']}/{name}", row["voice"]))
    sparse = {(row["type"], row["dataset"]) for row in pairs if not row["relatedness"].strip()}
    out = []
    for n, row in enumerate(pairs, 2):
        where, kind, words = f"{place / 'pairs.csv'}, line {n}", row["type"], (row["word_1"], row["word_2"])
        column = "similarity" if (kind, row["dataset"]) in sparse else "relatedness"
        try:
            human = float(row[column])
            if not np.isfinite(human):
                raise ValueError
        except ValueError:
            raise CorpusError(f"{where}: {column} is {row[column][:20]!r}; it must be a number") from None
        for word in words:
            if not (count := len(tokens[kind, word])) or (kind == "librispeech" and count > MOST):
                raise CorpusError(f"{where}: gold.csv has {count} recordings of {word} of {kind}; 1 to {MOST} are used")
        first, second = (tokens[kind, word] for word in words)
        recordings = [(a, b) for a, voice in first for b, other in second if kind != "synthetic" or voice == other]
        if not recordings:
            raise CorpusError(f"{where}: no voice says both {' and '.join(words)}")
        out.append(Words(kind, row["dataset"], recordings, human, words))
    return out


def correlation(human: np.ndarray, distances: np.ndarray, seed: int) -> Figure | None:
    """100 × Spearman's correlation of minus the judgements (N,) with the distances (N,); None where it is undefined.

    Higher is better. The interval is by a bootstrap over pairs of words; draws without a correlation are left out.
    """
    draws = np.random.default_rng(seed).integers(len(human), size=(RESAMPLES, len(human)))
    value = _spearman(-human[None], distances[None])[0]
    if not np.isfinite(value):
        return None
    resamples = _spearman(-human[draws], distances[draws])
    low, high = percentiles(resamples[np.isfinite(resamples)])
    return {"value": float(value), "low": low, "high": high, "n": len(human)}


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(R,) of rows (R, N), in hundredths; NaN where a row is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(values, axis=1) for values in (x, y))
    a, b = (values - values.mean(1, keepdims=True) for values in (a, b))
    norms = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return 100 * np.divide((a * b).sum(1), norms, out=np.full(len(a), np.nan), where=norms > 0)


@dataclass(frozen=True, kw_only=True)
class Similarity(Benchmark):
    """sSIMI of frames: means of each type over datasets, unweighted and weighted by their pairs, and each dataset."""

    chance: ClassVar[float] = 0
    scale: ClassVar[float] = 1
    unit: ClassVar[str] = "100 × Spearman"

    def recordings(self, folder: Path, split: str) -> list[str]:
        return _recordings(read_words(folder, split))

    def run(self, given: Given) -> Outcome:
        words = read_words(given.folder, given.split)
        wanted = _recordings(words)
        if given.scores is not None:
            frames = read_matrices(given.scores, wanted)
        elif given.frames is None:
            raise CorpusError(
                f"{self.name} measures frames of an encoder, not units; give a model, or the matrices of another tool "
                "as scores"
            )
        else:
            frames = matched(wanted, given.frames)
        if missing := [name for name in wanted if name not in frames]:
            raise CorpusError(
                f"{len(missing)} of {len(wanted)} recordings have no frames, such as {missing[0]}; encode them all"
            )
        figures: dict[str, Figures] = {}
        files: dict[str, str] = {}
        notes: list[str] = []
        for pooling in POOLINGS:
            pooled = {name: _pooled(name, frames[name], pooling) for name in wanted}
            for distance in DISTANCES:
                kind = f"{distance} {pooling}"
                values = np.array([_distance(pooled, pair.recordings, distance) for pair in words])
                figures[kind], undefined = summaries(words, values, given.seed)
                notes += [f"{kind}: all distances of {name} are equal; it has no correlation" for name in undefined]
                files[f"score_semantic_{given.split}_pairs ({kind}).csv"] = csv_text(
                    ["type", "dataset", "word_1", "word_2", "score"],
                    [[p.type, p.dataset, *p.words, repr(v)] for p, v in zip(words, values.tolist(), strict=True)],
                )
        if not figures["euclidean mean"]:
            raise CorpusError("the distances of all pairs of words are equal; is the representation constant?")
        return Outcome(
            figures={kind: table for kind, table in figures.items() if table},
            ranked_by="euclidean mean",
            size={"pairs": len(words), "recordings": len(wanted)},
            notes=notes,
            files=files,
        )


def summaries(words: Sequence[Words], distances: np.ndarray, seed: int) -> tuple[Figures, list[str]]:
    """Figures of each type and dataset and their two means, and the names of those without a correlation."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for n, pair in enumerate(words):
        groups[pair.type, pair.dataset].append(n)
    human, undefined = np.array([pair.human for pair in words]), []
    each: dict[str, dict[str, Figure]] = defaultdict(dict)
    for (kind, dataset), members in sorted(groups.items()):
        if (one := correlation(human[members], distances[members], seed)) is None:
            undefined.append(f"{kind} {dataset}")
        else:
            each[kind][dataset] = one
    means: Figures = {"mean over datasets": {}, "weighted by pairs": {}}
    for kind, datasets in each.items():
        values = [one["value"] for one in datasets.values()]
        counts = [one["n"] for one in datasets.values()]
        means["mean over datasets"][kind] = {"value": float(np.mean(values)), "n": len(values)}
        means["weighted by pairs"][kind] = {"value": float(np.average(values, weights=counts)), "n": sum(counts)}
    return (means | each if each else {}), undefined


def read_matrices(folder: Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """The matrices of a submission, `semantic/SPLIT/SET/NAME.txt` (a frame a line) or `.npy`: (T, D) float64 each.

    Raises:
        CorpusError: one is missing, is no matrix, has other columns, or NaN. Names it.
    """
    out: dict[str, np.ndarray] = {}
    for name in wanted:
        file = next((f for end in (".txt", ".npy") if (f := folder / f"{name}{end}").is_file()), None)
        if file is None:
            raise CorpusError(f"{folder / name}.txt: no such file; each recording has a matrix, a frame a line")
        try:
            matrix = np.load(file, allow_pickle=False) if file.suffix == ".npy" else np.loadtxt(file, ndmin=2)
            out[name] = np.asarray(matrix, np.float64)
        except (OSError, ValueError) as e:
            raise CorpusError(f"{file}: cannot be read as a matrix ({e})") from None
        columns = out[wanted[0]].shape[-1]
        if out[name].ndim != 2 or not out[name].size or out[name].shape[1] != columns:
            raise CorpusError(f"{file}: has the shape {out[name].shape}; all have frames of {columns} numbers")
    return out


def _recordings(words: Sequence[Words]) -> list[str]:
    return list(dict.fromkeys(name for pair in words for two in pair.recordings for name in two))


def _pooled(name: str, frames: np.ndarray, pooling: str) -> np.ndarray:
    if not len(frames) or not np.isfinite(frames).all():
        raise CorpusError(f"{name}: its frames are none, or hold NaN or infinite values")
    frames = np.asarray(frames, np.float64)
    return frames.mean(0) if pooling == "mean" else frames.max(0)


def _distance(pooled: Mapping[str, np.ndarray], recordings: Sequence[tuple[str, str]], distance: str) -> float:
    """The mean distance of the pairs of recordings. A zero vector has no angle: its cosine distance is 1."""
    x, y = (np.array([pooled[name] for name in side]) for side in zip(*recordings, strict=True))
    if distance == "euclidean":
        return float(np.sqrt(np.square(x - y).sum(1)).mean())
    norms = np.sqrt(np.square(x).sum(1) * np.square(y).sum(1))
    return float((1 - np.divide((x * y).sum(1), norms, out=np.zeros(len(x)), where=norms > 0)).mean())


SSIMI = Similarity(name="ssimi", title="sSIMI", paper="Nguyen et al. 2020, arXiv:2011.11588")
