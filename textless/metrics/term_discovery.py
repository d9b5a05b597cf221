"""Term discovery, track 2 of ZeroSpeech 2017: fragments of speech in classes, against the phones and words there.

    segments = read_segments("found.classes")
    terms(segments, read_alignments("english.phn"), read_labels("english.wrd", "words"))["ned"]

The measures are those of Ludusan et al. (2014) as bootphon/tdev2 has them (tde/readers, tde/measures).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import accumulate, combinations
from pathlib import Path

from textless.errors import CorpusError
from textless.metrics.alignments import Alignment, seconds
from textless.metrics.edit_distance import edit_distance
from textless.metrics.labels import Labels
from textless.metrics.metric import Metric, count, percent
from textless.names import plain

Segment = tuple[str, float, float]  # (file, onset, offset), in seconds
Phones = tuple[tuple[float, float, str], ...]
Fragment = tuple[str, float, float, Phones]  # a segment, and the phones that it covers

SILENCE = "SIL"
UNSPOKEN = frozenset({"SIL", "SPN"})  # that need not be covered
METRICS = {
    "ned": Metric("normalised edit distance of pairs", percent),
    "coverage": Metric("coverage, of phones", percent),
    **{
        f"{what}_{name}": Metric(f"{what} {name.replace('f1', 'F1')}", percent)
        for what in ("token", "type", "boundary")
        for name in ("precision", "recall", "f1")
    },
    "term_classes": Metric("classes", count),
    "term_pairs": Metric("pairs of fragments", count),
    "fragments": Metric("different fragments", count),
}


def read_segments(path: Path | str) -> dict[str, list[Segment]]:
    """Read classes of fragments: a line `Class NAME`, then lines `file onset offset` in seconds, then a blank line.

    Raises CorpusError that names the line.
    """
    classes: dict[str, list[Segment]] = {}
    name: str | None = None
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise CorpusError(f"{path}: cannot be read as classes of segments ({e})") from None
    for n, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields:
            name = None
        elif fields[0] == "Class":
            name = fields[1].removesuffix(":") if len(fields) > 1 else ""
            if not name or name in classes:
                raise CorpusError(f"{path}, line {n}: a class needs a name of its own; {name[:40]!r} is not one")
            classes[name] = []
        elif name is None:
            raise CorpusError(f"{path}, line {n}: belongs to no class; a line `Class NAME` begins each")
        else:
            classes[name].append(_segment(fields, f"{path}, line {n}"))
    if not any(classes.values()):
        raise CorpusError(f"{path}: holds no segments; after `Class NAME` each line is file, onset, offset")
    return classes


def _segment(fields: list[str], where: str) -> Segment:
    try:
        file, onset, offset = fields
        start, end = seconds(onset), seconds(offset)
        if not 0 <= start < end:
            raise ValueError
    except ValueError:
        raise CorpusError(f"{where}: a segment is file, onset, offset (seconds, the onset first); correct it") from None
    return plain(file), start, end


def terms(
    classes: Mapping[str, Iterable[Segment]],
    phones: Mapping[str, Alignment],
    words: Mapping[str, Labels] | None = None,
) -> dict[str, float]:
    """How alike the fragments of a class are, and how well fragments agree with words.

    A fragment has the phones between its first and its last; these two if it covers 30 ms of them, or half of one that
    is shorter than 60 ms. A fragment without phones is left out; one that comes twice counts once, but in pairs.

    Args:
        classes: by name, their segments.
        phones: of all files of the corpus, silence (`SIL`) included.
        words: of the same files; `SIL` is no word.

    Returns:
        `ned`: over all pairs of a class, the mean of their edit distance over the length of the longer, without
        silence, 1 where both are silent; left out where there is no pair. `coverage`: share of the corpus's phones that
        are in a fragment, without `SIL` and `SPN`. With words: `token_precision`: share of fragments whose phones are
        exactly those of the word that they cover most; `token_recall`: share of words that are such a fragment;
        `type_precision`, `_recall`: the same of different sequences of phones, and of different words;
        `boundary_precision`, `_recall`: of onsets of first and offsets of last phones, and of words; and `_f1` of each.
        Also `term_classes`, `term_pairs` and `fragments`.

    Raises:
        CorpusError: a segment of a file without phones or words; no fragment has phones, or no phone is speech.
    """
    gold = {file: _Gold(alignment) for file, alignment in phones.items()}
    found = {name: _transcribed(segments, gold) for name, segments in classes.items()}
    found = {name: fragments for name, fragments in found.items() if fragments}
    fragments = sorted({fragment for members in found.values() for fragment in members})
    if not fragments:
        raise CorpusError("no segment covers a phone; do the times of segments and alignments agree?")
    ned, pairs = _ned(found)
    values = {"ned": ned / pairs} if pairs else {}
    values["coverage"] = _coverage(fragments, gold)
    if words is not None:
        lexicon = {file: _Gold(w for w in labels if w[2] != SILENCE) for file, labels in words.items()}
        if lost := sorted({f[0] for f in fragments if f[0] not in lexicon or not lexicon[f[0]].labels}):
            raise CorpusError(f"{lost[0]}: has segments but no words; give words of all files")
        values |= _tokens(fragments, gold, lexicon) | _boundaries(fragments, lexicon)
    return values | {"term_classes": len(found), "term_pairs": pairs, "fragments": len(fragments)}


class _Gold:
    """The different phones or words of a file, by time."""

    def __init__(self, labels: Iterable[tuple[float, float, str]]) -> None:
        self.labels: Phones = tuple(sorted({label for label in labels if label[0] < label[1]}))
        self.starts = [start for start, _, _ in self.labels]
        self.latest = list(accumulate((end for _, end, _ in self.labels), max))  # end of those up to each

    def overlapping(self, onset: float, offset: float) -> Phones:
        inside = self.labels[bisect_right(self.latest, onset) : bisect_left(self.starts, offset)]
        return tuple(part for part in inside if part[1] > onset)


def _transcribed(segments: Iterable[Segment], gold: Mapping[str, _Gold]) -> list[Fragment]:
    out = []
    for file, onset, offset in segments:
        if file not in gold:
            raise CorpusError(f"{file}: has segments but no phones; do the ids of segments and alignments agree?")
        if kept := _covered(gold[file], onset, offset):
            out.append((file, onset, offset, kept))
    return out


def _covered(phones: _Gold, onset: float, offset: float) -> Phones:
    """tde/readers/disc_reader.py, get_transcription."""
    inside = phones.overlapping(onset, offset)
    first = inside[:1] if inside and _heard(inside[0], onset, offset) else ()
    last = inside[-1:] if len(inside) > 1 and _heard(inside[-1], onset, offset) else ()
    return first + inside[1:-1] + last


def _heard(phone: tuple[float, float, str], onset: float, offset: float) -> bool:
    """tde/utils.py, check_boundary, in its order of arithmetic."""
    start, end, _ = phone
    shared = min(offset, end) - max(onset, start)
    return round(shared, 3) >= 0.030 if round(end - start, 3) >= 0.060 else shared / (end - start) >= 0.5


def _labels(phones: Phones) -> tuple[str, ...]:
    return tuple(phone for _, _, phone in phones)


def _ned(classes: Mapping[str, list[Fragment]]) -> tuple[float, int]:
    """Sum over pairs, and their number. Fragments of the same phones are counted, not compared."""
    total, pairs = 0.0, 0
    for fragments in classes.values():
        times = Counter(tuple(p for p in _labels(f[3]) if p != SILENCE) for f in fragments)
        pairs += len(fragments) * (len(fragments) - 1) // 2
        total += times[()] * (times[()] - 1) // 2
        total += sum(times[a] * times[b] * _distance(*sorted((a, b))) for a, b in combinations(times, 2))
    return total, pairs


@cache
def _distance(a: tuple[str, ...], b: tuple[str, ...]) -> float:
    return edit_distance(a, b) / max(len(a), len(b))


def _coverage(fragments: list[Fragment], gold: Mapping[str, _Gold]) -> float:
    spoken = sum(phone not in UNSPOKEN for phones in gold.values() for _, _, phone in phones.labels)
    if not spoken:
        raise CorpusError("the alignments hold no phone but silence")
    covered = {(file, phone) for file, _, _, phones in fragments for phone in phones if phone[2] not in UNSPOKEN}
    return len(covered) / spoken


def _tokens(fragments: list[Fragment], gold: Mapping[str, _Gold], words: Mapping[str, _Gold]) -> dict[str, float]:
    """tde/measures/token_type.py; of words that are covered alike, the first."""
    hits = set()
    for file, onset, offset, phones in fragments:
        if not (inside := words[file].overlapping(onset, offset)):
            continue
        word = max(inside, key=lambda w: (min(offset, w[1]) - max(onset, w[0])) / (w[1] - w[0]))
        if _labels(gold[file].overlapping(word[0], word[1])) == _labels(phones):
            hits.add((file, word, _labels(phones)))
    tokens = {(file, word) for file, gold_words in words.items() for word in gold_words.labels}
    types = {phones for _, _, phones in hits}
    return _scores("token", len({hit[:2] for hit in hits}), len(fragments), len(tokens)) | _scores(
        "type", len(types), len({_labels(f[3]) for f in fragments}), len({word[2] for _, word in tokens})
    )


def _boundaries(fragments: list[Fragment], words: Mapping[str, _Gold]) -> dict[str, float]:
    """tde/measures/boundary.py: an onset is right where a word begins, an offset where one ends."""
    onsets = {(f[0], f[3][0][0]) for f in fragments}
    offsets = {(f[0], f[3][-1][1]) for f in fragments}
    begins = {(file, word[0]) for file, gold_words in words.items() for word in gold_words.labels}
    ends = {(file, word[1]) for file, gold_words in words.items() for word in gold_words.labels}
    hits = (onsets & begins) | (offsets & ends)
    return _scores("boundary", len(hits), len(onsets | offsets), len(begins | ends))


def _scores(name: str, hits: int, found: int, gold: int) -> dict[str, float]:
    return {
        f"{name}_precision": hits / found,
        f"{name}_recall": hits / gold,
        f"{name}_f1": 2 * hits / (found + gold),
    }
