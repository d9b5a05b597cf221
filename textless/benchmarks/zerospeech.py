"""Benchmarks of ZeroSpeech 2021 and 2023 with a table of right and wrong recordings: sWUGGY, sBLIMP, prosAudit.

Sources: zerospeech/zerospeech2021 (`lexical.py`, `syntactic.py`), zerospeech/benchmarks (`tasks/lm`), arXiv:2011.11588,
arXiv:2302.12057.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from textless.benchmarks.base import Benchmark, Pair
from textless.benchmarks.trees import read_neighbours
from textless.errors import CorpusError
from textless.names import plain

BANDS = ((1.0, "oov"), (5.0, "1-5"), (20.0, "6-20"), (100.0, "21-100"), (float("inf"), ">100"))
SLAMKIT_SWUGGY, SLAMKIT_SBLIMP = ("swuggy_inter", "swuggy_oov"), ("sblimp",)
Row = Mapping[str, str]


def read_gold(folder: Path, required: Sequence[str]) -> tuple[list[dict[str, str]], Path]:
    """Rows of `gold.csv` in a folder, and its path. Raises CorpusError for a missing file or column; it names it."""
    path = folder / "gold.csv"
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; a split whose gold table is not public cannot be scored here")
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            reader = csv.DictReader(f)
            header = reader.fieldnames or []
            if missing := [c for c in required if c not in header]:
                raise CorpusError(
                    f"{path}: column {', '.join(missing)} is missing; it has {', '.join(header) or 'none'}. "
                    "Is it the table of another benchmark or version?"
                )
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise CorpusError(f"{path}: cannot be read as a table ({e})") from None
    if not rows:
        raise CorpusError(f"{path}: holds no row")
    for n, row in enumerate(rows, 2):
        if any(row[c] is None for c in required):
            raise CorpusError(f"{path}, line {n}: has fewer fields than the header; correct the line")
        if row["correct"] not in ("0", "1"):
            raise CorpusError(f"{path}, line {n}: correct is {row['correct'][:20]!r}; it must be 0 or 1")
    return rows, path


def paired(
    folder: Path, place: str, key: Sequence[str], columns: Sequence[str] = ()
) -> list[tuple[Row, Row, str, str]]:
    """(right row, wrong row, right recording, wrong recording) of each key of a split.

    The originals pair the n-th right row with the n-th wrong one; pairs here are those with one key, whatever the
    order of the rows.
    """
    rows, path = read_gold(folder / place, ["filename", *key, *columns, "correct"])
    sides: dict[tuple[str, ...], dict[str, tuple[int, dict[str, str]]]] = defaultdict(dict)
    for n, row in enumerate(rows, 2):
        identity = tuple(row[c] for c in key)
        if row["correct"] in sides[identity]:
            raise CorpusError(
                f"{path}, line {n}: a second row with correct {row['correct']} for "
                f"{', '.join(f'{c} {v}' for c, v in zip(key, identity, strict=True))}; "
                f"the first is in line {sides[identity][row['correct']][0]}"
            )
        sides[identity][row["correct"]] = n, row
    out: list[tuple[Row, Row, str, str]] = []
    for identity, two in sides.items():
        if len(two) < 2:
            (n, row), *_ = two.values()
            raise CorpusError(f"{path}, line {n}: {row['filename']} has no counterpart with {' '.join(identity)}")
        right, wrong = two["1"][1], two["0"][1]
        good, bad = (f"{place}/{plain(row['filename'].removesuffix('.wav'))}" for row in (right, wrong))
        out.append((right, wrong, good, bad))
    return out


def band(frequency: str) -> str:
    """The band of a word's frequency in LibriSpeech, as the reference names it; an empty cell is `unknown`."""
    try:
        value = float(frequency)
    except ValueError:
        return "unknown"
    return next(name for edge, name in BANDS if value < edge)


def read_swuggy(folder: Path, split: str, names: Sequence[str]) -> tuple[list[Pair], list[str]]:
    """Pairs of `lexical/SPLIT`: a word and a non-word of one id and voice; or those of SlamKit's trees."""
    if not (folder / "lexical").exists() and (slamkit := read_neighbours(names, SLAMKIT_SWUGGY))[0]:
        return slamkit
    out = []
    for right, _, good, bad in paired(folder, f"lexical/{split}", ("voice", "id"), ("frequency",)):
        labels = {"voice": right["voice"], "frequency": band(right["frequency"]), "length": right.get("length") or ""}
        out.append(Pair(good, bad, right["id"], labels))
    return out, []


def read_sblimp(folder: Path, split: str, names: Sequence[str]) -> tuple[list[Pair], list[str]]:
    """Pairs of `syntactic/SPLIT`. Ids begin again in every subtype, so that type, subtype and id are an item."""
    if not (folder / "syntactic").exists() and (slamkit := read_neighbours(names, SLAMKIT_SBLIMP))[0]:
        return slamkit
    out = []
    for right, _, good, bad in paired(folder, f"syntactic/{split}", ("voice", "type", "subtype", "id")):
        item = "\t".join((right["type"], right["subtype"], right["id"]))
        out.append(Pair(good, bad, item, {k: right[k] for k in ("voice", "type", "subtype")}))
    return out, []


def read_prosaudit(folder: Path, split: str, names: Sequence[str]) -> tuple[list[Pair], list[str]]:
    """Pairs of `english/SPLIT`: type and id, of the types lexical and protosyntax."""
    out = []
    for right, _, good, bad in paired(folder, f"english/{split}", ("voice", "type", "id")):
        out.append(Pair(good, bad, f"{right['type']}\t{right['id']}", {k: right[k] for k in ("voice", "type")}))
    return out, []


SWUGGY = Benchmark(
    name="swuggy",
    title="sWUGGY",
    paper="Nguyen et al. 2020, arXiv:2011.11588",
    read=read_swuggy,
    ranked_by="sum",
    parts={"in vocabulary": lambda labels: labels.get("frequency") not in (None, "oov", "unknown")},
    groups={"frequency": "items", "length": "items", "voice": "pairs", "set": "items"},
    scores="lexical/{split}.txt",
)
SBLIMP = Benchmark(
    name="sblimp",
    title="sBLIMP",
    paper="Nguyen et al. 2020, arXiv:2011.11588",
    read=read_sblimp,
    ranked_by="sum",
    groups={"type": "items", "subtype": "items", "voice": "pairs"},
    averages=("type",),
    scores="syntactic/{split}.txt",
)
PROSAUDIT = Benchmark(
    name="prosaudit",
    title="prosAudit",
    paper="de Seyssel et al. 2023, arXiv:2302.12057",
    read=read_prosaudit,
    ranked_by="sum",
    overall=False,
    groups={"type": "items", "voice": "pairs"},
    scores="english_{split}.txt",
)
