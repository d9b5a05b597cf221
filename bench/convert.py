"""Seconds to convert rows of 500 units from one tool's file to another's, next to a plain loop of `split` and `join`,
or of `json`, in turn.

python bench/convert.py [ROWS] [FOLDER]      # 10000 rows, and a temporary folder
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import compare, header

from textless.exchange.formats import read_units, write_units
from textless.types import UnitContract

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
LENGTH, K = 500, 500
CONTRACT = UnitContract(n_units=K, frame_rate=50.0)


def make(folder: Path) -> None:
    """fairseq's labels and manifest, GSLM's text and a dump of the same rows, in runs of about two frames."""
    rng = np.random.default_rng(0)
    with open(folder / "train.km", "w") as km, open(folder / "train.tsv", "w") as tsv, open(folder / "g.txt", "w") as g:
        tsv.write("/data\n")
        for n in range(ROWS):
            frames = np.repeat(rng.integers(0, K, LENGTH), rng.integers(1, 4, LENGTH))[:LENGTH]
            text = " ".join(map(str, frames.tolist()))
            km.write(f"{text}\n")
            tsv.write(f"{n % 100}/{n:07d}.flac\t{LENGTH * 320 + 80}\n")
            g.write(f"{n:07d}|{text}\n")
    write_units(folder / "dump", read_units(folder / "train.km", contract=CONTRACT))


def convert(source: Path, target: str) -> Callable[[], None]:
    out = source.parent / "ours"

    def run() -> None:
        clear(out)
        write_units(out, read_units(source, contract=CONTRACT), target)

    return run


def clear(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True) if out.is_dir() else out.unlink(missing_ok=True)
    out.with_name(f"{out.name}.contract.json").unlink(missing_ok=True)


def text_loop(folder: Path, separator: str, mark: str) -> Callable[[], None]:
    """Labels to lines with names, as every script does it."""

    def run() -> None:
        with open(folder / "train.km") as km, open(folder / "train.tsv") as tsv, open(folder / "plain", "w") as out:
            next(tsv)
            for line, listed in zip(km, tsv, strict=True):
                name = Path(listed.split("\t")[0]).stem
                units = [int(u) for u in line.split()]
                assert min(units) >= 0
                assert max(units) < K
                out.write(f"{name}{mark}{separator.join(str(u) for u in units)}\n")

    return run


def json_loop(folder: Path) -> Callable[[], None]:
    """GSLM's text to JSON lines."""

    def run() -> None:
        with open(folder / "g.txt") as source, open(folder / "plain", "w") as out:
            for line in source:
                name, text = line.rstrip("\n").split("|")
                units = [int(u) for u in text.split()]
                assert min(units) >= 0
                assert max(units) < K
                out.write(json.dumps({"id": name, "units": units}) + "\n")

    return run


def dump_loop(folder: Path) -> Callable[[], None]:
    """A dump to lines with names."""
    import pyarrow.parquet as pq

    def run() -> None:
        with open(folder / "plain", "w") as out:
            for shard in sorted((folder / "dump" / "data").glob("*.parquet")):
                for batch in pq.ParquetFile(shard).iter_batches(256):
                    for row in batch.to_pylist():
                        frames = [u for u, n in zip(row["units"], row["durations"], strict=True) for _ in range(n)]
                        out.write(f"{row['id']}|{' '.join(str(u) for u in frames)}\n")

    return run


def parquet_loop(folder: Path) -> Callable[[], None]:
    """Labels to parquet, repetitions removed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def run() -> None:
        schema = pa.schema(
            [("id", pa.string()), ("units", pa.list_(pa.uint16())), ("durations", pa.list_(pa.uint16()))]
        )
        with (
            open(folder / "train.km") as km,
            open(folder / "train.tsv") as tsv,
            pq.ParquetWriter(folder / "plain", schema, compression="zstd") as out,
        ):
            next(tsv)
            rows = []
            for line, listed in zip(km, tsv, strict=True):
                units: list[int] = []
                durations: list[int] = []
                for u in map(int, line.split()):
                    if units and units[-1] == u:
                        durations[-1] += 1
                    else:
                        units.append(u)
                        durations.append(1)
                rows.append({"id": Path(listed.split("\t")[0]).stem, "units": units, "durations": durations})
                if len(rows) == 256:
                    out.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
            out.write_table(pa.Table.from_pylist(rows, schema))

    return run


def peak(source: Path, target: str) -> float:
    """MB at the most of a process that converts, above those of one that imports."""
    code = (  # ru_maxrss would be that of the process that starts this one
        "import re, sys, pyarrow.parquet; from textless.exchange.formats import read_units, write_units; "
        "most = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024; "
        "before = most(); "
        "write_units(sys.argv[2], read_units(sys.argv[1], n_units=500, frame_rate=50.0), sys.argv[3]); "
        "print(most() - before)"
    )
    out = source.parent / "ours"
    clear(out)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, source, out, target], capture_output=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    import warnings

    warnings.simplefilter("ignore")
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    make(folder)
    header(f"converting {ROWS} rows x {LENGTH} units")
    km = folder / "train.km"
    for name, source, target, loop in (
        ("fairseq to gslm", km, "gslm", text_loop(folder, " ", "|")),
        ("fairseq to zerospeech", km, "zerospeech", text_loop(folder, ",", "\t")),
        ("fairseq to dump", km, "dump", parquet_loop(folder)),
        ("gslm to jsonl", folder / "g.txt", "jsonl", json_loop(folder)),
        ("dump to gslm", folder / "dump", "gslm", dump_loop(folder)),
    ):
        ours, theirs, ratio = compare(convert(source, target), loop, runs=3)
        print(
            f"{name:22} {ours:7.2f} s    plain loop {theirs:7.2f} s    {ratio:5.1f} x    {peak(source, target):6.0f} MB"
        )
    if len(sys.argv) <= 2:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
