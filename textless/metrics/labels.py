"""Phones and words with times, as other tools write them: TextGrid, CTM, Audacity, TIMIT, DiscoPhon, ZeroSpeech.

TextGrid: Montreal Forced Aligner, montreal_forced_aligner/textgrid.py, tiers `words` and `phones`, with several
speakers `SPEAKER - words`. CTM: kaldi-asr/kaldi, src/latbin/nbest-to-ctm.cc, and NIST's sclite. Audacity:
audacity/audacity, src/LabelTrack.cpp. TIMIT: its doc/timitdoc.txt, samples at 16 kHz. DiscoPhon: bootphon/discophon,
src/discophon/data.py; ZeroSpeech 2017: bootphon/tdev2, docs/source/usage/format.rst, the same without a header.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textless.audio.textgrid import Tier, is_textgrid, read_textgrid
from textless.errors import CorpusError
from textless.names import plain

Labels = list[tuple[float, float, str]]  # (start, end, label), in seconds
LATEST = 1e9  # seconds; no recording is so long
TIMIT_RATE = 16_000  # Hz, of the samples that TIMIT counts
SUFFIXES = (".textgrid", ".ctm", ".phn", ".wrd", ".txt")  # what a folder is searched for
TIMIT = {"phones": ".phn", "words": ".wrd"}
NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
CTM = re.compile(rf"\S+\s+\S+\s+{NUMBER}\s+{NUMBER}\s+\S+(?:\s+\S+)*\s*")
AUDACITY = re.compile(rf"({NUMBER}\t{NUMBER}(\t.*)?|\\\t.*)")
COLUMNS = re.compile(rf"\S+ +{NUMBER} +{NUMBER} +\S+ *")  # file, onset, offset, label
COLUMNS_HEAD = "#file onset offset #"
HEAD = 1 << 16  # bytes by which a format is recognised


def read_labels(path: Path | str, kind: str) -> dict[str, Labels] | None:
    """Labels of a file by id, or of a folder of such files; None for a file of another form.

    In a TextGrid, labels of Audacity and files of TIMIT the id is the file's stem; in a folder where two stems are
    equal, all are paths below it, as in a corpus. Intervals without a label are left out.

    Args:
        kind: phones or words: which tier of a TextGrid, and of TIMIT which files.

    Raises:
        CorpusError: a file is malformed, which names the line, or a folder holds none.
    """
    if not os.path.isdir(path):
        reader = _reader(Path(path)) if os.path.isfile(path) else None  # what is missing, our tables' reader says
        return None if reader is None else reader(Path(path), kind)
    files = label_files(path)
    if any(f.suffix.lower() == TIMIT[kind] for f in files):  # .txt and the other kind are next to them
        files = [f for f in files if f.suffix.lower() == TIMIT[kind]]
    stems = [plain(f.stem) for f in files]
    by_path = len(set(stems)) < len(stems)
    out: dict[str, Labels] = {}
    for file, stem in zip(files, stems, strict=True):
        if (reader := _reader(file)) is None:
            continue
        name = plain(file.relative_to(path).with_suffix("").as_posix()) if by_path else stem
        for found, labels in reader(file, kind).items():
            out[found if reader in NAMED_WITHIN else name] = labels
    if not out:
        raise CorpusError(f"{path}: holds no {kind}; files of labels end in {', '.join(SUFFIXES)}")
    return out


def label_files(path: Path | str) -> list[Path]:
    """The files of labels that a file or folder is, sorted."""
    if not os.path.isdir(path):
        return [Path(path)]
    found = (Path(folder) / name for folder, _, names in os.walk(path) for name in names if not name.startswith("."))
    return sorted(f for f in found if f.suffix.lower() in SUFFIXES)


def labels_content(path: str, hash_file: Callable[[str], str]) -> Any:
    """What identifies phones or words, for keys: the hash of a file, or of each by name, where the names are ids."""
    if os.path.isdir(path):
        return {plain(f.relative_to(path).as_posix()): hash_file(str(f)) for f in label_files(path)}
    if os.path.isfile(path) and _reader(Path(path)) not in (None, *NAMED_WITHIN):
        return {plain(os.path.basename(path)): hash_file(path)}
    return hash_file(path)


def _reader(path: Path) -> Callable[[Path, str], dict[str, Labels]] | None:
    """The reader of a file's form, by its content; TIMIT's and CTM's by the suffix as well."""
    try:
        with open(path, "rb") as f:
            head = f.read(HEAD)
    except OSError as e:
        raise CorpusError(f"{path}: cannot be read ({e.strerror})") from None
    if is_textgrid(head) or path.suffix.lower() == ".textgrid":
        return _textgrid
    if path.suffix.lower() == ".ctm":
        return _ctm
    lines = head.decode("utf-8-sig", errors="replace").splitlines()
    lines = [line for line in (lines[:-1] if len(head) == HEAD else lines) if line.strip()]
    if lines and (lines[0].startswith(COLUMNS_HEAD) or all(COLUMNS.fullmatch(line) for line in lines)):
        return _columns
    if path.suffix.lower() in TIMIT.values():
        return _timit
    if lines and all(AUDACITY.fullmatch(line) for line in lines):
        return _audacity
    if lines and all(CTM.fullmatch(line) or line.startswith(";;") for line in lines) and "\t" not in lines[0]:
        return _ctm
    return None


def _textgrid(path: Path, kind: str) -> dict[str, Labels]:
    tiers = [t for t in read_textgrid(path) if not t.points]
    chosen = [t for t in tiers if _is_tier(t, kind)] or (tiers if len(tiers) == 1 else [])
    if not chosen:
        names = ", ".join(repr(t.name[:40]) for t in tiers) or "none"
        raise CorpusError(f"{path}: has no tier {kind!r}; its tiers of intervals: {names}")
    labels = [(start, end, label.strip()) for tier in chosen for start, end, label in tier.intervals if label.strip()]
    return {plain(path.stem): sorted(labels, key=lambda part: part[:2])}


def _is_tier(tier: Tier, kind: str) -> bool:
    return tier.name.rpartition(" - ")[2].strip().lower() in (kind, kind[:-1])


def _audacity(path: Path, kind: str) -> dict[str, Labels]:
    labels = []
    for n, line in _lines(path):
        if line.startswith("\\"):  # frequencies of the label above
            continue
        start, _, rest = line.partition("\t")
        end, _, label = rest.partition("\t")
        span = _span(path, n, start, end, 1)
        if label.strip():
            labels.append((*span, label.strip()))
    return {plain(path.stem): labels}


def _timit(path: Path, kind: str) -> dict[str, Labels]:
    labels = []
    for n, line in _lines(path):
        fields = line.split(None, 2)
        if len(fields) != 3 or not (fields[0].isdecimal() and fields[1].isdecimal()):
            raise CorpusError(
                f"{path}, line {n}: a line is start, end (whole samples at 16 kHz) and a label; correct it"
            )
        labels.append((*_span(path, n, fields[0], fields[1], TIMIT_RATE), fields[2].strip()))
    return {plain(path.stem): labels}


def _ctm(path: Path, kind: str) -> dict[str, Labels]:
    out: dict[str, Labels] = {}
    channels: dict[str, str] = {}
    for n, line in _lines(path):
        if line.startswith(";;"):
            continue
        fields = line.split()
        if len(fields) < 5:
            raise CorpusError(
                f"{path}, line {n}: a line is name, channel, start, duration (seconds), label; correct it"
            )
        name = plain(fields[0])
        if channels.setdefault(name, fields[1]) != fields[1]:
            raise CorpusError(f"{path}, line {n}: {name[:80]!r} has several channels; give each a name of its own")
        start, length = _span(path, n, fields[2], fields[3], 1, after=False)
        out.setdefault(name, []).append((start, round(start + length, 6), fields[4]))
    return out


def _columns(path: Path, kind: str) -> dict[str, Labels]:
    """File, onset, offset, label. With DiscoPhon's header each label begins where the last of its file ended."""
    out: dict[str, Labels] = {}
    lines = _lines(path)
    headed = lines[0][1].startswith(COLUMNS_HEAD)
    for n, line in lines[headed:]:
        fields = line.split()
        if len(fields) != 4:
            raise CorpusError(f"{path}, line {n}: a line is file, onset, offset (seconds), label; correct it")
        labels = out.setdefault(plain(fields[0]), [])
        start, end = _span(path, n, fields[1], fields[2], 1)
        if headed and start != (labels[-1][1] if labels else 0):
            raise CorpusError(f"{path}, line {n}: begins at {fields[1]} s, not where the line before ends; correct it")
        labels.append((start, end, fields[3]))
    return out


NAMED_WITHIN = (_ctm, _columns)  # whose ids are in the file, not its name


def _span(path: Path, n: int, first: str, second: str, rate: int, *, after: bool = True) -> tuple[float, float]:
    """Two times in seconds; `after`: the second is not before the first."""
    try:
        start, end = float(first) / rate, float(second) / rate
        if not (0 <= start < LATEST and 0 <= end < LATEST and (start <= end or not after)):
            raise ValueError
    except ValueError:
        raise CorpusError(f"{path}, line {n}: {first[:40]} and {second[:40]} are no times; correct the line") from None
    return start, end


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines that are not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise CorpusError(f"{path}: cannot be read as text ({e})") from None
    return [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
