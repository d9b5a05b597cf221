"""Frames on disk, in fairseq's shape: all frames of a shard in one `.npy`, a count per line beside it, and the ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from textless.errors import TrainingError


def write_frames(folder: Path, rows: Iterable[tuple[str, np.ndarray]], *, dim: int) -> None:
    """Write a shard folder: `frames.npy` (N, D) float32, `frames.len`, `frames.ids`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    np.save(folder / "frames.npy", np.concatenate([f for _, f in rows]) if rows else np.empty((0, dim), np.float32))
    (folder / "frames.len").write_text("".join(f"{len(f)}\n" for _, f in rows))
    (folder / "frames.ids").write_text("".join(f"{i}\n" for i, _ in rows))


def read_frames(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(id, (T, D) float32) of every row of every shard below a folder, memory-mapped."""
    for shard in sorted(p.parent for p in folder.rglob("frames.npy")):
        frames = np.load(shard / "frames.npy", mmap_mode="r")
        start = 0
        for name, count in zip((shard / "frames.ids").read_text().split("\n"), (shard / "frames.len").read_text().split(), strict=False):
            yield name, frames[start : start + int(count)]
            start += int(count)


def gather_frames(folder: Path) -> np.ndarray:
    """All frames below a folder, (N, D) float32, in memory. Raises TrainingError when there are none."""
    shards = [a for p in sorted(folder.rglob("frames.npy")) if len(a := np.load(p, mmap_mode="r"))]
    if not shards:
        raise TrainingError(f"{folder}: holds no frames; is the corpus empty, or every file shorter than a frame?")
    return np.concatenate(shards)


def thin(pieces: Iterable[np.ndarray], name: str, *, fraction: float, seed: int) -> np.ndarray:
    """A random share of a file's frames, given in pieces, which depends on its id and not on its neighbours. Returns (t, D) float32."""
    draw = np.random.default_rng((seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")))
    return np.concatenate([frames if fraction >= 1 else frames[draw.random(len(frames)) < fraction] for frames in pieces])
