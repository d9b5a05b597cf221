"""Seconds to open a unit dump of many shards, to read its first rows, and the files that are open meanwhile.

python bench/dump.py [SHARDS]      # 100000 shards, which are links to one
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import header

from textless.types import UnitContract, UnitRow, Units
from textless.units.dump import Dump, finish_dump, write_shard

SHARDS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
ROWS = 10  # of a shard


def make(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = [UnitRow(f"r{k}", Units(rng.integers(0, 500, 100))) for k in range(ROWS)]
    first = folder / "data" / f"{0:06d}.parquet"
    write_shard(first, rows, contract=UnitContract())
    finish_dump(folder, contract=UnitContract())
    about = json.loads((folder / "dump.json").read_text())
    (hashed,) = about["shards"].values()
    source = first.rename(folder / "first")
    for k in range(SHARDS):
        if k % 50_000 == 0:  # a file has so many links at the most
            copy = folder / f"first{k}"
            copy.write_bytes(source.read_bytes())
        os.link(copy, folder / "data" / f"{k:06d}.parquet")
    about["totals"] = {"rows": ROWS * SHARDS, "units": 100 * ROWS * SHARDS, "frames": 100 * ROWS * SHARDS}
    about["shards"] = {f"{k:06d}.parquet": hashed for k in range(SHARDS)}
    (folder / "dump.json").write_text(json.dumps(about))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "dump"
        make(folder)
        header(f"a dump of {SHARDS} shards, {ROWS * SHARDS} rows")
        before = open_files()
        start = time.perf_counter()
        dump = Dump(folder)
        print(f"open: {time.perf_counter() - start:.2f} s, {len(dump)} rows, {open_files() - before} files open")
        start = time.perf_counter()
        most = 0
        for n, _ in enumerate(dump):
            most = max(most, open_files() - before) if n % 97 == 0 else most
            if n == 100 * ROWS:
                break
        print(f"the first {100 * ROWS} rows: {time.perf_counter() - start:.2f} s, {most} files open at the most")


if __name__ == "__main__":
    main()
