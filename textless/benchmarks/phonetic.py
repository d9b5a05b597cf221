"""ABX of ZeroSpeech 2021, or of any folder with an item file: do frames or units tell phones apart?

The measure is `textless.metrics.abx`, which equals fastabx. Sources: zerospeech/zerospeech2021 `phonetic_eval`
(`eval_ABX.py`), Schatz et al. 2013, arXiv:2011.11588.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from textless.benchmarks.base import Benchmark, Figure, Figures, Given, Outcome
from textless.benchmarks.layout import audio_files, matched
from textless.errors import CorpusError
from textless.metrics.abx_error import abx
from textless.metrics.items import Item, read_items

# ZeroSpeech 2021 compares at most so many items of one phone, context and speaker, with so many speakers of X. Of any
# context there are too many to compare them all.
ZEROSPEECH = {"max_items": 10, "max_speakers": 5}


class ItemSet(NamedTuple):
    """An item file, the folder of its recordings from the benchmark's folder on, and the limits of its benchmark."""

    name: str
    file: Path
    place: str
    limits: dict[str, Any]

    def recordings(self, items: Sequence[Item]) -> dict[str, str]:
        """Path from the benchmark's folder on → file of the items."""
        return {f"{self.place}/{item.file}".lstrip("/"): item.file for item in items}


def item_sets(folder: Path, split: str) -> list[ItemSet]:
    """Those of `phonetic/SPLIT-…/`, or all item files of a plain folder. Raises CorpusError where there is none."""
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder")
    phonetic = folder / "phonetic"
    if phonetic.is_dir():
        out = []
        for place in sorted(p for p in phonetic.iterdir() if p.is_dir() and p.name.split("-")[0] == split):
            files = sorted(place.glob("*.item")) or sorted(phonetic.glob(f"{place.name}.item"))
            out += [ItemSet(file.stem, file, f"phonetic/{place.name}", ZEROSPEECH) for file in files]
        if not out:
            raise CorpusError(f"{phonetic}: has no folder {split}-… with an item file; is it the tree of another year?")
        return out
    files = sorted(folder.rglob("*.item"))
    if not files:
        raise CorpusError(f"{folder}: holds no item file (.item), nor a folder phonetic that has some")
    return [ItemSet(f.stem, f, "" if (p := f.parent.relative_to(folder).as_posix()) == "." else p, {}) for f in files]


@dataclass(frozen=True, kw_only=True)
class Phonetic(Benchmark):
    """ABX errors of frames by angles, or of units by whether they are the same; within and across speakers."""

    better: ClassVar[str] = "lower"
    unit: ClassVar[str] = "error, %"

    def recordings(self, folder: Path, split: str) -> list[str]:
        sets = item_sets(folder, split)
        wanted = dict.fromkeys(name for one in sets for name in one.recordings(read_items(one.file)))
        return list(matched(wanted, {name: name for name in audio_files(folder)}).values())

    def run(self, given: Given) -> Outcome:
        files, rate, distance = _measured(self.name, given)
        sets = [(one, read_items(one.file)) for one in item_sets(given.folder, given.split)]
        wanted = list(dict.fromkeys(name for one, items in sets for name in one.recordings(items)))
        there = matched(wanted, files)
        figures: dict[str, Figures] = {"within context": {}, "any context": {}}
        notes: list[str] = []
        for one, items in sets:
            own = {file: there[path] for path, file in one.recordings(items).items() if path in there}
            if missing := len({item.file for item in items}) - len(own):
                notes.append(f"{one.file.name}: {missing} of its files are not there; their items are left out")
            for kind, table in figures.items():
                context = kind.split()[0]
                limits = ZEROSPEECH if context == "any" else one.limits
                figures_here, why = _errors(own, items, rate, distance, context, limits, given.seed)
                if figures_here:
                    table[one.name] = figures_here
                notes += [f"{one.file.name}, {kind}: {line}" for line in why]
        if not figures["within context"]:
            raise CorpusError(f"{self.name}: {notes[-1]}" if notes else f"{self.name}: no item can be compared")
        notes.append(f"distance: {distance}; frame rule: published")
        limited = "both contexts" if any(one.limits for one, _ in sets) else "any context"
        notes.append(
            f"{limited}: at most 10 items of one phone, context and speaker and 5 speakers of X, drawn by the seed"
        )
        return Outcome(
            figures={kind: table for kind, table in figures.items() if table},
            ranked_by="within context",
            size={"items": sum(len(items) for _, items in sets), "recordings": len(there)},
            notes=notes,
        )


def _measured(name: str, given: Given) -> tuple[Mapping[str, np.ndarray], float, str]:
    """Frames or units by recording, their rate, and their distance."""
    if given.frames is not None:
        return given.frames, given.frame_rate, "angular"
    if given.scores is not None or not given.rows:
        raise CorpusError(f"{name}: give an encoder or --units; another tool's scores are no frames")
    if not (rate := given.rows[0].units.contract.frame_rate):
        raise CorpusError(f"{name}: the frame rate of these units is unknown; declare it with --contract")
    return {row.id: row.units.frames() for row in given.rows}, rate, "identical"


def _errors(
    files: Mapping[str, np.ndarray],
    items: Sequence[Item],
    rate: float,
    distance: str,
    context: str,
    limits: Mapping[str, Any],
    seed: int,
) -> tuple[dict[str, Figure], list[str]]:
    """Figures within and across speakers, and why one is missing."""
    out: dict[str, Figure] = {}
    why = []
    for speakers in ("within", "across"):
        try:
            one = abx(files, items, rate, distance, speakers, context=context, seed=seed, **limits)
        except CorpusError as e:
            why.append(str(e))
            continue
        out[speakers] = {"value": one["error"], **{k: one[k] for k in ("low", "high")}, "n": int(one["items"])}
    return out, why


ABX = Phonetic(name="abx", title="ABX", paper="Schatz et al. 2013; Nguyen et al. 2020, arXiv:2011.11588")
