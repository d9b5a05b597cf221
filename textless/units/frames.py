"""Frames on disk, in fairseq's layout: the frames of a shard in one `.npy`, with text files of their counts and ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np

from textless.errors import TrainingError


def write_frames(folder: Path, rows: Iterable[tuple[str, np.ndarray]], *, dim: int) -> None:
    """Write a shard folder: `frames.npy` (N, D) float32, `frames.len`, `frames.ids`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    np.save(folder / "frames.npy", np.concatenate([f for _, f in rows]) if rows else np.empty((0, dim), np.float32))
    (folder / "frames.len").write_text("".join(f"{len(f)}\n" for _, f in rows))
    (folder / "frames.ids").write_text("".join(f"{i}\n" for i, _ in rows))


def find_shards(folder: Path) -> list[Path]:
    """Shard folders below a folder, in the order of their names. Raises TrainingError when they hold no frames."""
    shards = sorted(p.parent for p in folder.rglob("frames.npy"))
    if not any(len(_open(shard)) for shard in shards):
        raise TrainingError(f"{folder}: holds no frames; is the corpus empty, or every file shorter than a frame?")
    return shards


def read_frames(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(id, (T, D) float32) of every row of every shard below a folder, memory-mapped."""
    for shard in sorted(p.parent for p in folder.rglob("frames.npy")):
        frames, start = _open(shard), 0
        for name, count in _rows(shard, len(frames)):
            yield name, frames[start : start + count]
            start += count


def read_pairs(folder: Path, other: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames (t, D) and (t, E) of the same places below two folders, file by file.

    Raises TrainingError when a file is in one folder only, or has more frames in one: both must be made with the same
    corpus, fraction and seed.
    """
    requirement = "both must be made of the same audio, at one frame rate, with one fraction and seed"
    theirs = read_frames(other)
    for name, frames in read_frames(folder):
        second, pair = next(theirs, (None, frames))
        if second != name or len(pair) != len(frames):
            theirs_has = f"{len(pair)} frames" if second == name else f"{second!r} in its place"
            raise TrainingError(
                f"{name!r} has {len(frames)} frames in {folder} but {theirs_has} in {other}; {requirement}"
            )
        yield frames, pair
    if (left := next(theirs, None)) is not None:
        raise TrainingError(f"{left[0]!r} has frames in {other} but none in {folder}; {requirement}")


def sample_frames(shards: Sequence[Path], n: int | None, seed: int = 0) -> np.ndarray:
    """A random sample of the frames of some shards, the same however the rows are spread over them.

    Each frame has a number, a hash of the seed, its row's id and its position in the row; the sample is the frames with
    the n smallest numbers, in the order of the numbers, which is random.

    Args:
        shards: folders as `write_frames` makes them.
        n: size of the sample; None, or more than there are: all.

    Returns:
        (n, D) float32. In addition, memory holds the numbers of 2 n frames and of one shard, and the sampled frames of
        that shard.

    Raises:
        TrainingError: n below 1, a sampled frame that is not finite, a duplicate id, shards of several dimensions, a
            damaged shard.
    """
    if n is not None and n < 1:
        raise TrainingError(f"a sample of {n} frames is none; take at least 1, or none for all of them")
    seen: set[str] = set()
    dims: dict[int, Path] = {}
    for shard in shards:
        frames = _open(shard)
        if len(dims := {frames.shape[1]: shard, **dims}) > 1:
            (a, first), (b, second) = dims.items()
            raise TrainingError(
                f"{first}: frames of {a} dimensions, but {b} in {second}; they are of different encoders"
            )
        for name, _ in _rows(shard, len(frames)):
            if name in seen:
                raise TrainingError(f"{shard}: duplicate id {name!r} among the shards; give each shard once")
            seen.add(name)
    sample = _smallest((_numbers(shard, seed) for shard in shards), n)
    out = np.empty((len(sample), next(iter(dims), 0)), np.float32)
    for shard in shards:
        numbers, frames = _numbers(shard, seed), _open(shard)
        place = np.searchsorted(sample, numbers).clip(max=max(len(sample) - 1, 0))
        sampled = np.flatnonzero(sample[place] == numbers) if len(sample) else np.empty(0, np.int64)
        out[place[sampled]] = x = frames[sampled]
        if not (finite := np.isfinite(x).all(1)).all():
            raise TrainingError(
                f"{shard}: {_name(shard, int(sampled[finite.argmin()]))} holds NaN or infinite values; leave that file "
                "out"
            )
    return out


def _smallest(batches: Iterable[np.ndarray], n: int | None) -> np.ndarray:
    """The n smallest of all numbers, sorted, in the memory of 2 n and one batch. None: all."""
    kept = np.empty(0, np.uint64)
    waiting: list[np.ndarray] = []
    for batch in batches:
        waiting.append(batch[batch < kept[-1]] if len(kept) == n else batch)
        if n is not None and sum(map(len, waiting)) >= n:
            kept, waiting = np.unique(np.concatenate([kept, *waiting]))[:n], []
    return np.unique(np.concatenate([kept, *waiting]))[:n]


def _numbers(shard: Path, seed: int) -> np.ndarray:
    """A 64-bit number for each frame, (N,) uint64: SplitMix64 (Steele et al. 2014), seeded by the row's id."""
    out = [np.empty(0, np.uint64)]
    for name, count in _rows(shard, len(_open(shard))):
        start = np.frombuffer(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "<u8")
        z = start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out.append(z ^ (z >> np.uint64(31)))
    return np.concatenate(out)


def _open(shard: Path) -> np.ndarray:
    try:
        return np.load(shard / "frames.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as e:  # the header is Python
        raise TrainingError(f"{shard / 'frames.npy'}: cannot be read ({e}); make the frames again") from None


def _rows(shard: Path, frames: int) -> list[tuple[str, int]]:
    """(id, frames) of each row. Raises TrainingError when they do not add up to the shard's frames."""
    names, counts = (
        (shard / "frames.ids").read_text().split("\n")[:-1],
        list(map(int, (shard / "frames.len").read_text().split())),
    )
    if len(names) != len(counts) or sum(counts) != frames:
        raise TrainingError(
            f"{shard}: {len(names)} ids and {sum(counts)} frames listed, but the file holds {frames} frames; make them "
            "again"
        )
    return list(zip(names, counts, strict=True))


def _name(shard: Path, frame: int) -> str:
    """The name of a frame of a shard, for an error."""
    for name, count in _rows(shard, len(_open(shard))):
        if frame < count:
            return f"frame {frame} of row {name!r}"
        frame -= count
    raise AssertionError


def thin(pieces: Iterable[np.ndarray], name: str, *, fraction: float, seed: int) -> np.ndarray:
    """A random share of a file's frames, (t, D) float32, from its frames in pieces.

    It depends on the id, not on other files.
    """
    draw = np.random.default_rng((seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")))
    return np.concatenate(
        [frames if fraction >= 1 else frames[draw.random(len(frames)) < fraction] for frames in pieces]
    )
