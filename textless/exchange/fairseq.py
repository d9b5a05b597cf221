"""fairseq's labels of HuBERT: `SPLIT.km`, its manifest `SPLIT.tsv`, and the dictionary `dict.km.txt`.

Sources: facebookresearch/fairseq examples/hubert/simple_kmeans/{README.md,dump_km_label.py},
examples/wav2vec/wav2vec_manifest.py,
fairseq/data/audio/hubert_dataset.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from textless.errors import ContractError, ContractWarning, DumpError
from textless.exchange.base import (
    Declared,
    Format,
    Lines,
    Seen,
    batches,
    block_of,
    distinct,
    lines,
    numbers,
    numbers_of,
    place,
    placed,
    row_of,
    settled,
    stem,
    untimed,
)
from textless.exchange.lines import HEAD, bare, head_lines, is_bare
from textless.names import encodable
from textless.text import joined
from textless.types import UnitContract, UnitRow
from textless.units.blocks import Part
from textless.units.card import MOST_SPLITS

DICTIONARY = "dict.km.txt"
SAMPLE_RATE = 16_000  # of everything that fairseq makes these labels of
LEAST = 20  # frames of a row whose length is compared with its audio's
APART = 1.5  # factor between the samples a frame of two rows that says they are not of one corpus
BYTES = "surrogateescape"  # paths may be any bytes


def _fits(path: Path, head: bytes) -> bool:
    if path.is_dir():
        if (path / "dump.json").exists() or not (files := _label_files(path)) or _has_audio(path):
            return False
        with open(files[0], "rb") as f:
            return _is_labels(head_lines(f.read(HEAD)))
    first = head_lines(head)
    if path.suffix == ".km":
        return _is_labels(first)
    return is_bare(first) and _manifest(path) is not None


def _is_labels(texts: list[str]) -> bool:
    """Whether lines of a .km are units; each may be one."""
    return is_bare(texts) or (bool(texts) and all(bare(line.replace("-", "")) for line in texts))


def _label_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.km") if p.is_file() and not p.name.startswith("."))


def _has_audio(folder: Path) -> bool:
    from textless.audio.io import AUDIO, MEDIA

    return any(name.lower().endswith(AUDIO + MEDIA) for name in os.listdir(folder))


def _manifest(labels: Path) -> Path | None:
    """The manifest next to labels, if it is one: its first line is a folder, the others have a tab."""
    file = labels.with_suffix(".tsv")
    if file == labels or not file.is_file():
        return None
    with contextlib.closing(lines(file, BYTES)) as listed:
        first, second = next(listed, (0, "\t"))[1], next(listed, (0, "\t"))[1]
    return file if "\t" not in first and "\t" in second else None


# -------------------------------------------------------------------------------------------------------------- reading


def _read(path: Path, declared: Declared) -> Iterator[Part]:
    if path.is_dir():
        if not (files := _label_files(path)):
            raise DumpError(f"{path}: has no SPLIT.km; give a folder of fairseq's labels")
    elif path.suffix == ".tsv" and path.with_suffix(".km").is_file():
        files = [path.with_suffix(".km")]
    else:
        files = [path]
    declared = _with_dictionary(files[0].with_name(DICTIONARY), declared)
    manifests = [_manifest(file) for file in files]
    by_path = _check_counts(files, manifests)
    seen = Seen()
    for file, manifest in zip(files, manifests, strict=True):
        extra: dict[str, object] = {"split": file.stem} if len(files) > 1 else {}
        before = f"{file.stem}-" if len(files) > 1 else ""
        rows = settled(file, _rows(file, manifest, declared, by_path, before, extra), declared)
        yield from distinct(file, rows, seen) if manifest and by_path else (part for _, part in rows)


def _with_dictionary(file: Path, declared: Declared) -> Declared:
    """With the size of the codebook, where the dictionary holds the units from 0 without a gap."""
    if not file.is_file():
        return declared
    symbols = []
    for n, line in lines(file):
        symbol, _, count = line.rpartition(" ")
        if not count.isdigit():
            raise DumpError(f"{file}, line {n}: {line[:40]!r} is not UNIT COUNT")
        symbols.append(symbol)
    units = {s for s in symbols if s.isascii() and s.isdigit()}
    size, known = len(units), declared.contract.n_units
    if not size or units != {str(k) for k in range(size)}:
        return declared
    if known is not None and known != size:
        raise ContractError(f"{file}: lists {size} units, but n_units is {known}; leave --n-units out, or correct it")
    return Declared(contract=declared.contract.with_(n_units=size), runs=declared.runs)


def _check_counts(files: list[Path], manifests: list[Path | None]) -> bool:
    """Whether rows are called by their paths, since two stems are equal. Raises DumpError for a manifest of another
    length."""
    stems: list[np.ndarray] = []  # their hashes, 8 bytes each
    for file, manifest in zip(files, manifests, strict=True):
        if manifest is None:
            continue
        stems.append(np.fromiter((hash(stem(path)) for _, (path, _) in _listed(manifest)[1]), np.int64))
        listed, held = len(stems[-1]), _count_lines(file)
        if held != listed:
            raise DumpError(
                f"{file}, line {min(held, listed) + 1}: {held} lines, but {manifest.name} lists {listed} files; "
                f"make both of one corpus, or move {manifest.name} away to call rows by their lines"
            )
    hashes = np.sort(np.concatenate([np.empty(0, np.int64), *stems]))
    return bool((hashes[1:] == hashes[:-1]).any())


def _count_lines(file: Path) -> int:
    total, last = 0, b"\n"
    with place(file), open(file, "rb") as f:
        while block := f.read(1 << 20):
            total += block.count(b"\n")
            if b"\r" in block or last == b"\r":  # counting them takes long
                total += block.count(b"\r") - (last + block).count(b"\r\n")
            last = block[-1:]
    return total + (last not in (b"\n", b"\r"))


def _listed(manifest: Path) -> tuple[str, Iterator[tuple[int, tuple[str, int]]]]:
    """The root of a manifest, and its files: (line, (path from the root, samples at the file's own rate))."""
    numbered = lines(manifest, BYTES)
    root = next(numbered, (0, ""))[1].strip()

    def files() -> Iterator[tuple[int, tuple[str, int]]]:
        for n, line in numbered:
            path, tab, samples = line.strip().partition("\t")
            if not tab or not path or not (samples.isascii() and samples.isdigit()) or len(samples) > 15:
                raise DumpError(
                    f"{manifest}, line {n}: {line[:40]!a} is not PATH<TAB>SAMPLES, as fairseq's manifests are"
                )
            yield n, (path, int(samples))

    return root, files()


def _rows(
    file: Path,
    manifest: Path | None,
    declared: Declared,
    by_path: bool,
    before: str,
    extra: dict[str, object],
) -> Iterator[tuple[Lines, Part]]:
    contract = untimed(declared)
    if manifest is None:

        def numbered(n: int, line: str) -> UnitRow:
            return row_of(f"{before}{n}", numbers(line), declared, extra=extra)

        for batch in batches(lines(file)):
            units = None if extra else numbers_of([line for _, line in batch])
            if block := block_of([f"{before}{n}" for n, _ in batch], units, contract):
                yield [n for n, _ in batch], block
            else:
                yield from placed(file, batch, numbered)
        return
    root, listed = _listed(manifest)
    check = _Lengths(file, manifest, declared)

    def row(n: int, line: str) -> UnitRow:
        m, (path, samples) = next(listed, (0, ("", 0)))
        if not m:
            raise DumpError(f"{manifest.name} has no more files")
        units = numbers(line)
        check(n, m, len(units), samples)
        return row_of(_id(path, by_path), units, declared, source=_source(path, root), samples=samples, extra=extra)

    for batch in batches(lines(file)):
        units = None if extra else numbers_of([line for _, line in batch])
        of_batch = list(itertools.islice(listed, len(batch)))
        samples = [samples for _, (_, samples) in of_batch]
        if (
            units
            and len(of_batch) == len(batch)
            and check.all([n for n, _ in batch], np.diff(units[1], prepend=0), samples)
        ):
            ids = [_id(path, by_path) for _, (path, _) in of_batch]
            sources = [_source(path, root) for _, (path, _) in of_batch]
            if block := block_of(ids, units, contract, source=sources, samples=samples):
                yield [n for n, _ in batch], block
                continue
        listed = itertools.chain(of_batch, listed)
        yield from placed(file, batch, row)


def _id(path: str, by_path: bool) -> str:
    name = os.path.splitext(path)[0] if by_path else stem(path)
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


def _source(path: str, root: str) -> str:
    return encodable(f"/{path}" if root == "/" else path)


class _Lengths:
    """Whether frames and samples belong together. Raises DumpError where they cannot be of one corpus."""

    def __init__(self, file: Path, manifest: Path, declared: Declared) -> None:
        self.file, self.manifest, self.runs = file, manifest, declared.runs
        rate = declared.contract.frame_rate
        self.hop = (declared.contract.sample_rate or SAMPLE_RATE) / rate if rate else None
        self.line = 0

    def __call__(self, n: int, m: int, frames: int, samples: int) -> None:
        if self.runs or frames < LEAST:
            return
        if self.hop is None:
            self.hop, self.line = samples / frames, n
        expected = self.hop * frames
        if not expected / APART <= samples <= expected * APART:
            known = f"line {self.line} has {self.hop:.0f} a frame" if self.line else f"a frame is {self.hop:.0f}"
            raise DumpError(
                f"{frames} units for {samples} samples in {self.manifest.name}, line {m}, where {known}; the "
                "manifest is of "
                "another corpus, or --frame-rate is wrong, or these are runs (--runs)"
            )

    def all(self, lines: list[int], frames: np.ndarray, samples: list[int]) -> bool:
        """Whether those of several lines belong together; (lines,) int64 frames."""
        long = frames >= LEAST
        if self.runs or not long.any():
            return True
        if self.hop is None:
            k = int(long.argmax())
            self.hop, self.line = samples[k] / int(frames[k]), lines[k]
        expected, listed = self.hop * frames[long], np.array(samples)[long]
        return bool(((expected / APART <= listed) & (listed <= expected * APART)).all())


# -------------------------------------------------------------------------------------------------------------- writing


class _Labels:
    """Labels and manifest of one split, while they are written.

    The root is `/` where the sources are absolute, else the working folder.
    """

    def __init__(self, labels: Path, stack: contextlib.ExitStack) -> None:
        self.km = stack.enter_context(labels.open("w", encoding="ascii", newline="\n"))
        self.tsv = stack.enter_context(labels.with_suffix(".tsv").open("w", encoding="utf-8", newline="\n"))
        self.absolute: bool | None = None

    def add(self, row: UnitRow, path: str, samples: int) -> None:
        absolute = os.path.isabs(path)
        if self.absolute is None:
            self.absolute = absolute
            self.tsv.write("/\n" if absolute else f"{os.getcwd()}\n")
            if not absolute:
                warnings.warn(
                    f"fairseq: sources are relative, so the manifest's root is {os.getcwd()}; correct its "
                    "first line if the audio is elsewhere",
                    ContractWarning,
                    stacklevel=2,
                )
        if absolute != self.absolute:
            raise DumpError(f"{row.id}: source {path[:80]!r} is absolute where others are not, or the other way round")
        self.tsv.write(f"{path[1:] if absolute else path}\t{samples}\n")
        self.km.write(f"{joined(row.units.frames())}\n")


def _write(path: Path, rows: Iterable[UnitRow]) -> None:
    """A folder of `SPLIT.tsv`, `SPLIT.km` and the dictionary: a split for each value of the column `split`, else
    `train`.

    A path that ends in `.km` is the labels of all rows, with manifest and dictionary next to it.
    """
    folder = path.parent if path.suffix == ".km" else path
    temporary = (
        folder.parent / f".{path.name}.{os.getpid()}" if folder == path else folder / f".{path.name}.{os.getpid()}"
    )
    try:
        temporary.mkdir()
        _fill(temporary, rows, path.stem if folder != path else None)
        if folder == path:
            temporary.rename(path)
            return
        made = sorted(temporary.iterdir())
        for file in made:
            there = folder / file.name
            if there.exists() and (file.name != DICTIONARY or there.read_bytes() != file.read_bytes()):
                raise DumpError(f"{there}: exists, and is another; give another folder")
        for file in made:
            file.replace(folder / file.name)
    except OSError as e:
        raise DumpError(f"{e.filename or path}: {e.strerror or e}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(folder: Path, rows: Iterable[UnitRow], only: str | None) -> None:
    size: int | None = None
    largest = -1
    splits: dict[str, _Labels] = {}
    told: set[str] = set()
    with contextlib.ExitStack() as stack:
        for row in rows:
            split = only or str(row.extra.get("split") or "train")
            if split not in splits:
                if split.startswith(".") or "/" in split or "\0" in split or len(splits) >= MOST_SPLITS:
                    raise DumpError(
                        f"{row.id}: split {split[:40]!r} is no name of a file; give at most 64 simple names"
                    )
                splits[split] = _Labels(folder / f"{split}.km", stack)
            if row.offset:
                raise DumpError(
                    f"{row.id}: is a part of {row.source[:80]!r}; fairseq's labels are of whole files: cut them"
                )
            path = row.source or f"{row.id}.wav"
            if bad := next((c for c in path if c in "\n\r\t"), None):
                raise DumpError(f"{row.id}: a manifest cannot hold {bad!r} in the path {path[:40]!r}; rename it")
            if not row.source:
                _once(told, "rows have no source; the manifest lists their ids with .wav")
            if row.id not in (stem(path), os.path.splitext(path)[0]):
                _once(told, "cannot hold ids that are not the names of the files; left out")
            if row.extra.keys() - {"split"}:
                _once(told, "cannot hold extra; left out")
            splits[split].add(row, path, row.samples or _estimate(row, told))
            size = row.units.contract.n_units if size is None else size
            largest = max(largest, int(row.units.units.max(initial=-1)))
        if not splits:
            _Labels(folder / f"{only or 'train'}.km", stack).tsv.write(f"{os.getcwd()}\n")
    if size is None and largest >= 0:
        _once(
            told, f"n_units is unknown; {DICTIONARY} lists 0 to {largest}, the largest unit (--n-units K declares it)"
        )
    units = size if size is not None else largest + 1
    (folder / DICTIONARY).write_text("".join(f"{k} 1\n" for k in range(units)), newline="\n")


def _estimate(row: UnitRow, told: set[str]) -> int:
    """Samples of a row that does not say: frames times the hop."""
    contract: UnitContract = row.units.contract
    if contract.frame_rate is None:
        raise DumpError(
            f"{row.id}: neither its samples nor its frame rate are known; fairseq's manifest needs them "
            "(--frame-rate R)"
        )
    _once(told, "rows do not say how many samples they have; the manifest has frames times the hop")
    return round(row.units.n_frames * (contract.sample_rate or SAMPLE_RATE) / contract.frame_rate)


def _once(told: set[str], text: str) -> None:
    if text not in told:
        told.add(text)
        warnings.warn(f"fairseq: {text}", ContractWarning, stacklevel=2)


FAIRSEQ = Format(
    name="fairseq",
    read=_read,
    write=_write,
    fits=_fits,
    suffixes=(".km",),
    folder=True,
    loses=("speaker", "contract"),
)
