"""Benchmarks that are folders of recordings and nothing else: spoken StoryCloze, SALMon, and SlamKit's trees.

Sources: slp-rl/SpokenStoryCloze `README.md`, slp-rl/salmon `salmon.py`, slp-rl/slamkit
`slamkit/metric/modelling_metric.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from textless.benchmarks.pairs import Pair, PairBenchmark, Pairs
from textless.errors import CorpusError

SALMON_TASKS = (
    "bg_alignment",
    "bg_all_consistency",
    "bg_domain_consistency",
    "gender_consistency",
    "rir_consistency",
    "sentiment_alignment",
    "sentiment_consistency",
    "speaker_consistency",
)


def below(names: Iterable[str], folder: str) -> list[str]:
    """The names in a folder of that name, at any depth; or all where no folder has it."""
    names = list(names)
    return [n for n in names if folder in PurePosixPath(n).parts[:-1]] or names


def read_stories(names: Sequence[str], folder: str) -> Pairs:
    """Pairs of a story's right and wrong ending: `2N_…_correct` and `2N+1_…_incorrect`, in the order of N.

    SlamKit pairs neighbours in the order of their numbers; these are the same where no number is missing.
    """
    stories: dict[int, dict[bool, str]] = defaultdict(dict)
    for path in below(names, folder):
        name = PurePosixPath(path).name
        if not (match := re.match(r"(\d+)_", name)):
            continue
        number = int(match[1])
        right = number % 2 == 0
        if name.endswith(("_correct", "_incorrect")) and name.endswith("_correct") != right:
            raise CorpusError(f"{path}: even numbers end in _correct and odd ones in _incorrect; is the tree another?")
        if right in stories[number // 2]:
            raise CorpusError(
                f"{path}: a second recording with the number {number}, next to {stories[number // 2][right]}"
            )
        stories[number // 2][right] = path
    return _complete({str(n): stories[n] for n in sorted(stories)}, "NUMBER_STORY_correct.wav and NUMBER+1_…_incorrect")


def read_salmon(names: Sequence[str]) -> Pairs:
    """Pairs of each task: `sample_N_0` is right and `sample_N_1` wrong."""
    samples: dict[tuple[str, int], dict[bool, str]] = defaultdict(dict)
    for path in names:
        task = next((p for p in PurePosixPath(path).parts[:-1] if p in SALMON_TASKS), None)
        if task and (match := re.fullmatch(r"sample_(\d+)_([01])", PurePosixPath(path).name)):
            sides = samples[task, int(match[1])]
            if (right := match[2] == "0") in sides:
                raise CorpusError(f"{path}: a second recording of sample {match[1]} of {task}, next to {sides[right]}")
            sides[right] = path
    read = _complete({f"{t}\t{n}": samples[t, n] for t, n in sorted(samples)}, "TASK/sample_N_0.wav and sample_N_1.wav")
    pairs = [Pair(p.good, p.bad, p.item, {"task": p.item.split("\t")[0]}) for p in read.pairs]
    notes = [*read.notes]
    if missing := [t for t in SALMON_TASKS if t not in {p.labels["task"] for p in pairs}]:
        notes.append(f"there are no pairs of {', '.join(missing)}")
    return Pairs(pairs, "mean", notes)


def read_neighbours(names: Sequence[str], roots: Sequence[str]) -> Pairs:
    """Pairs of SlamKit's trees, `ROOT/FOLDER/N_….wav` or `N+….wav`: in a folder, sorted by N, each two are one pair.

    SlamKit pairs over the ends of folders where one has an odd number of recordings.
    """
    folders: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for path in names:
        *above, name = PurePosixPath(path).parts
        root = next((r for r in roots if r in above), None)
        if root and (match := re.match(r"(\d+)[_+]", name)):
            folders[root, "/".join(above)].append((int(match[1]), path))
    pairs, notes = [], []
    for (root, folder), members in sorted(folders.items()):
        members.sort()
        if len(members) % 2:
            notes.append(
                f"{folder} has {len(members)} recordings, an odd number; the last has no counterpart and is left out"
            )
        for (_, good), (_, bad) in zip(members[::2], members[1::2], strict=False):
            pairs.append(Pair(good, bad, good, {"set": root}))
    return Pairs(pairs, "mean", notes, original=False)


def _complete(items: Mapping[str, Mapping[bool, str]], shape: str) -> Pairs:
    """Pairs of the items with both sides, and a note on the others."""
    pairs = [Pair(sides[True], sides[False], item) for item, sides in items.items() if len(sides) == 2]
    lone = [next(iter(sides.values())) for sides in items.values() if len(sides) < 2]
    if not pairs:
        raise CorpusError(f"there is no pair of recordings named {shape}; is this the folder of another benchmark?")
    note = f"{len(lone)} recordings have no counterpart and are left out, such as {lone[0]}" if lone else ""
    return Pairs(pairs, "mean", [note] if note else [])


def _stories(name: str, title: str, inside: str) -> PairBenchmark:
    return PairBenchmark(
        name=name,
        title=title,
        paper="Hassid et al. 2023, arXiv:2305.13009",
        has_splits=False,
        read=lambda folder, split, names: read_stories(names, inside),
    )


TSTORYCLOZE = _stories("tstorycloze", "Topic StoryCloze", "tSC")
SSTORYCLOZE = _stories("sstorycloze", "Spoken StoryCloze", "sSC")
SALMON = PairBenchmark(
    name="salmon",
    title="SALMon",
    paper="Maimon et al. 2024, arXiv:2409.07437",
    has_splits=False,
    read=lambda folder, split, names: read_salmon(names),
    overall=False,
    groups={"task": "items"},
)
