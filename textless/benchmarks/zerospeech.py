"""Benchmarks of ZeroSpeech 2021 and 2023 with a table of right and wrong recordings: sWUGGY, sBLIMP, prosAudit.

Sources: zerospeech/zerospeech2021 (`lexical.py`, `syntactic.py`, `leaderboard.py`), zerospeech/benchmarks
(`zerospeech/tasks/lm`), arXiv:2011.11588, arXiv:2302.12057. Their baselines are scored by log-likelihoods summed over
the recording (zerospeech/zerospeech2021_baseline `scripts/utils/lm_scoring.py`, compute_proba_LSTM).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from textless.benchmarks.layout import read_table
from textless.benchmarks.pairs import Pair, PairBenchmark, Pairs, Table
from textless.benchmarks.trees import read_neighbours
from textless.errors import CorpusError
from textless.names import plain

BANDS = ((1.0, "oov"), (5.0, "1-5"), (20.0, "6-20"), (100.0, "21-100"), (float("inf"), ">100"))
UNKNOWN = "unknown"  # the band of an empty cell
SLAMKIT_SWUGGY, SLAMKIT_SBLIMP = ("swuggy_inter", "swuggy_oov"), ("sblimp",)
Row = Mapping[str, str]


class Rows(NamedTuple):
    """A right and a wrong row of a gold table, and their recordings."""

    right: Row
    wrong: Row
    good: str
    bad: str


def paired(
    folder: Path, place: str, key: Sequence[str], columns: Sequence[str] = ()
) -> tuple[list[Rows], list[str], list[str]]:
    """The right and wrong row of each key of a split; a note on rows without a counterpart, and their recordings.

    For sWUGGY the original joins rows on their key, and so leaves those without a counterpart out. For the others it
    pairs the n-th right row with the n-th wrong one; pairs here are those with one key, whatever the order of the rows.
    """
    path = folder / place / "gold.csv"
    rows = read_table(path, ["filename", *key, *columns, "correct"])
    sides: dict[tuple[str, ...], dict[str, tuple[int, Row]]] = defaultdict(dict)
    for n, row in enumerate(rows, 2):
        if row["correct"] not in ("0", "1"):
            raise CorpusError(f"{path}, line {n}: correct is {row['correct'][:20]!r}; it must be 0 or 1")
        identity = tuple(row[c] for c in key)
        if row["correct"] in sides[identity]:
            raise CorpusError(
                f"{path}, line {n}: a second row with correct {row['correct']} for "
                f"{', '.join(f'{c} {v}' for c, v in zip(key, identity, strict=True))}; "
                f"the first is in line {sides[identity][row['correct']][0]}"
            )
        sides[identity][row["correct"]] = n, row
    complete = sorted((two for two in sides.values() if len(two) == 2), key=lambda two: two["1"][0])
    both = [(two["1"][1], two["0"][1]) for two in complete]
    lone = [next(iter(two.values())) for two in sides.values() if len(two) < 2]
    if not both:
        raise CorpusError(f"{path}: no row with correct 1 has one with correct 0 and the same {', '.join(key)}")
    notes = []
    if lone:
        n, first = lone[0]
        notes.append(
            f"{len(lone)} rows of gold.csv have no counterpart and are left out, such as {first['filename']} "
            f"in line {n}"
        )
    out = []
    for right, wrong in both:
        out.append(Rows(right, wrong, _recording(place, right), _recording(place, wrong)))
    return out, notes, [_recording(place, row) for _, row in lone]


def _recording(place: str, row: Row) -> str:
    return f"{place}/{plain(row['filename'].removesuffix('.wav'))}"


def band(frequency: str) -> str:
    """The band of a word's frequency in LibriSpeech, as the reference names it; an empty cell is `unknown`."""
    try:
        value = float(frequency)
    except ValueError:
        return UNKNOWN
    return next((name for edge, name in BANDS if 0 <= value < edge), UNKNOWN)


def read_swuggy(folder: Path, split: str, names: Sequence[str]) -> Pairs:
    """Pairs of `lexical/SPLIT`: a word and a non-word of one id and voice; or those of SlamKit's trees."""
    if not (folder / "lexical").exists() and (slamkit := read_neighbours(names, SLAMKIT_SWUGGY)).pairs:
        return slamkit
    rows, notes, lone = paired(folder, f"lexical/{split}", ("voice", "id"), ("frequency",))
    text = "word" if any(row.wrong.get("word") for row in rows) else "phones"
    pairs = []
    for right, wrong, good, bad in rows:
        labels = {"voice": right["voice"], "frequency": band(right["frequency"])}
        if right.get("length"):
            labels["length"] = right["length"]
        pairs.append(Pair(good, bad, right["id"], labels, (right.get(text) or "", wrong.get(text) or "")))
    bands = Counter({pair.item: pair.labels["frequency"] for pair in pairs}.values())
    if empty := [name for _, name in BANDS[1:] if not bands[name]]:
        notes.append(f"no word is in the bands {', '.join(empty)}: the original's in-vocabulary figure is NaN here")
    if bands[UNKNOWN]:
        notes.append(f"{bands[UNKNOWN]} words have no frequency: they count in all, and in no band nor in vocabulary")
    return Pairs(pairs, "sum", notes, lone=lone)


def read_sblimp(folder: Path, split: str, names: Sequence[str]) -> Pairs:
    """Pairs of `syntactic/SPLIT`. Ids begin again in every subtype, so that type, subtype and id are an item."""
    if not (folder / "syntactic").exists() and (slamkit := read_neighbours(names, SLAMKIT_SBLIMP)).pairs:
        return slamkit
    rows, notes, lone = paired(folder, f"syntactic/{split}", ("voice", "type", "subtype", "id"))
    pairs = []
    for right, wrong, good, bad in rows:
        item = "\t".join((right["type"], right["subtype"], right["id"]))
        texts = right.get("transcription") or "", wrong.get("transcription") or ""
        pairs.append(Pair(good, bad, item, {k: right[k] for k in ("voice", "type", "subtype")}, texts))
    return Pairs(pairs, "sum", notes, lone=lone)


def read_prosaudit(folder: Path, split: str, names: Sequence[str]) -> Pairs:
    """Pairs of `english/SPLIT`: type and id, of the types lexical and protosyntax."""
    rows, notes, lone = paired(folder, f"english/{split}", ("voice", "type", "id"))
    pairs = [
        Pair(good, bad, f"{right['type']}\t{right['id']}", {k: right[k] for k in ("voice", "type")})
        for right, _, good, bad in rows
    ]
    return Pairs(pairs, "sum", notes, lone=lone)


SWUGGY = PairBenchmark(
    name="swuggy",
    title="sWUGGY",
    paper="Nguyen et al. 2020, arXiv:2011.11588",
    read=read_swuggy,
    parts={"in vocabulary": lambda labels: labels.get("frequency") in {name for _, name in BANDS[1:]}},
    groups={"frequency": "items", "length": "items", "voice": "pairs", "set": "items"},
    order=[name for _, name in BANDS],
    scores="lexical/{split}.txt",
    tables=(
        Table("score_lexical_{split}_by_pair.csv", ("word", "non word"), lambda pair: pair.texts),
        Table("score_lexical_{split}_by_frequency.csv", ("frequency",)),
        Table("score_lexical_{split}_by_length.csv", ("length",)),
    ),
)
SBLIMP = PairBenchmark(
    name="sblimp",
    title="sBLIMP",
    paper="Nguyen et al. 2020, arXiv:2011.11588",
    read=read_sblimp,
    groups={"type": "items", "subtype": "items", "voice": "pairs"},
    averages=("type",),
    scores="syntactic/{split}.txt",
    tables=(
        Table("score_syntactic_{split}_by_pair.csv", ("sentence", "non sentence"), lambda pair: pair.texts),
        Table("score_syntactic_{split}_by_type.csv", ("type",)),
    ),
)
PROSAUDIT = PairBenchmark(
    name="prosaudit",
    title="prosAudit",
    paper="de Seyssel et al. 2023, arXiv:2302.12057",
    read=read_prosaudit,
    overall=False,
    groups={"type": "items", "voice": "pairs"},
    scores="english_{split}.txt",
    tables=(
        Table("score_prosodic_english_{split}_by_pair.csv", ("id", "type"), lambda p: p.item.split("\t")[::-1]),
        Table("score_prosodic_english_{split}_by_type.csv", ("type",)),
    ),
)
