"""Benchmarks that are folders of recordings and nothing else: spoken StoryCloze, SALMon, and SlamKit's trees.

Sources: slp-rl/SpokenStoryCloze `README.md`, slp-rl/salmon `salmon.py`, slp-rl/slamkit `metric/modelling_metric.py`.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from textless.audio.io import AUDIO
from textless.benchmarks.base import Benchmark, Pair
from textless.errors import CorpusError
from textless.names import plain

T = TypeVar("T")
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


def recordings(folder: Path) -> list[str]:
    """Paths of all audio files below a folder, from there on and without suffix, sorted. Raises CorpusError."""
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder")
    out = []
    for place, _, files in os.walk(folder, followlinks=True):
        inside = Path(place).relative_to(folder)
        out += [plain((inside / f).with_suffix("").as_posix()) for f in files if Path(f).suffix.lower() in AUDIO]
    return sorted(out)


def matched(wanted: Iterable[str], there: Mapping[str, T]) -> dict[str, T]:
    """What is there of each name that is wanted: under the same path, or else under its file name where one has it."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in there:
        by_stem[PurePosixPath(name).name].append(name)
    out = {}
    for name in wanted:
        if name in there:
            out[name] = there[name]
            continue
        same = [n for n in by_stem.get(PurePosixPath(name).name, ()) if name.endswith(n) or n.endswith(name)]
        if len(same) == 1:
            out[name] = there[same[0]]
    return out


def below(names: Iterable[str], folder: str) -> Iterator[tuple[str, str]]:
    """(path, file name) of the names in a folder of that name, at any depth; or of all where no folder has it."""
    names = list(names)
    inside = [n for n in names if folder in PurePosixPath(n).parts[:-1]]
    yield from ((n, PurePosixPath(n).name) for n in inside or names)


def read_stories(names: Sequence[str], folder: str) -> tuple[list[Pair], list[str]]:
    """Pairs of a story's right and wrong ending: `2N_…_correct` and `2N+1_…_incorrect`, in the order of N."""
    stories: dict[int, dict[bool, str]] = defaultdict(dict)
    for path, name in below(names, folder):
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


def read_salmon(names: Sequence[str]) -> tuple[list[Pair], list[str]]:
    """Pairs of each task: `sample_N_0` is right and `sample_N_1` wrong."""
    samples: dict[str, dict[bool, str]] = defaultdict(dict)
    for path in names:
        task = next((p for p in PurePosixPath(path).parts[:-1] if p in SALMON_TASKS), None)
        if task and (match := re.fullmatch(r"sample_(\d+)_([01])", PurePosixPath(path).name)):
            samples[f"{task}\t{int(match[1]):09d}"][match[2] == "0"] = path
    pairs, notes = _complete(dict(sorted(samples.items())), "TASK/sample_N_0.wav and sample_N_1.wav")
    pairs = [Pair(p.good, p.bad, p.item, {"task": p.item.split("\t")[0]}) for p in pairs]
    if missing := [t for t in SALMON_TASKS if t not in {p.labels["task"] for p in pairs}]:
        notes.append(f"no recordings of {', '.join(missing)}")
    return pairs, notes


def read_neighbours(names: Sequence[str], roots: Sequence[str]) -> tuple[list[Pair], list[str]]:
    """Pairs of SlamKit's trees, `ROOT/FOLDER/N_….wav` or `N+….wav`: in a folder, sorted by N, each two are one pair."""
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
                f"{folder}: {len(members)} recordings, an odd number; the last has no counterpart and is left out"
            )
        for (_, good), (_, bad) in zip(members[::2], members[1::2], strict=False):
            pairs.append(Pair(good, bad, good, {"set": root}))
    return pairs, notes


def _complete(items: Mapping[str, Mapping[bool, str]], shape: str) -> tuple[list[Pair], list[str]]:
    """Pairs of the items with both sides, and a note on the others."""
    pairs = [Pair(sides[True], sides[False], item) for item, sides in items.items() if len(sides) == 2]
    lone = [next(iter(sides.values())) for sides in items.values() if len(sides) < 2]
    if not pairs:
        raise CorpusError(f"there is no pair of recordings named {shape}; is this the folder of another benchmark?")
    note = f"{len(lone)} recordings have no counterpart and are left out, such as {lone[0]}" if lone else ""
    return pairs, [note] if note else []


def _stories(name: str, title: str, inside: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        paper="Hassid et al. 2023, arXiv:2305.13009",
        read=lambda folder, split, names: read_stories(names, inside),
        ranked_by="mean",
    )


TSTORYCLOZE = _stories("tstorycloze", "Topic StoryCloze", "tSC")
SSTORYCLOZE = _stories("sstorycloze", "Spoken StoryCloze", "sSC")
SALMON = Benchmark(
    name="salmon",
    title="SALMon",
    paper="Maimon et al. 2024, arXiv:2409.07437",
    read=lambda folder, split, names: read_salmon(names),
    ranked_by="mean",
    overall=False,
    groups={"task": "items"},
)
