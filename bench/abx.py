"""ABX of frames and units of 60 files (tests/data/fastabx, 6684 triphones, 50 Hz, nothing drawn), next to fastabx, in
turn, on one thread: seconds of processor time from items in memory, and with reading them.

OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python bench/abx.py [RUNS]     # Python >= 3.12 and fastabx, which asks for it
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import header

from textless.metrics import abx, read_items

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "fastabx"
RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 7
ITEMS = FOLDER / "clip.item"
BY = {"within": (["prev-phone", "next-phone", "speaker"], None), "across": (["prev-phone", "next-phone"], ["speaker"])}


def ours(files: dict[str, np.ndarray], distance: str, speakers: str) -> tuple[float, float, float]:
    """Seconds without and with reading the items, and the error."""
    start = time.process_time()
    items = read_items(ITEMS)
    ready = time.process_time()
    error = abx(files, items, 50, distance, speakers)["error"]
    end = time.process_time()
    return end - ready, end - start, error


def theirs(folder: Path, distance: str, speakers: str) -> tuple[float, float, float]:
    import fastabx

    start = time.process_time()
    if distance == "identical":
        data = fastabx.Dataset.from_item_and_units(ITEMS, folder / "units.jsonl", 50, progress=False)
    else:
        data = fastabx.Dataset.from_item(ITEMS, folder, 50, progress=False)
    ready = time.process_time()
    by, across = BY[speakers]
    task = fastabx.Task(data, on="#phone", by=by, across=across)
    error = fastabx.Score(task, distance, progress=False).collapse(levels=[("next-phone", "prev-phone"), "speaker"])
    end = time.process_time()
    return end - ready, end - start, error


def main() -> None:
    torch.set_num_threads(1)
    frames = {k: v.astype(np.float32) for k, v in np.load(FOLDER / "frames.npz").items()}
    units = dict(np.load(FOLDER / "units.npz"))
    header("ABX, 60 files, 6684 triphones, one thread")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, x in frames.items():
            torch.save(torch.from_numpy(x), folder / f"{name}.pt")
        rows = [json.dumps({"audio": name, "units": u.tolist()}) for name, u in units.items()]
        (folder / "units.jsonl").write_text("\n".join(rows) + "\n")
        for distance in ("angular", "euclidean", "identical"):
            for speakers in ("within", "across"):
                files = units if distance == "identical" else frames
                pairs = [(ours(files, distance, speakers), theirs(folder, distance, speakers)) for _ in range(RUNS)]
                a, a_read, error = map(statistics.median, zip(*(p[0] for p in pairs), strict=True))
                b, b_read, other = map(statistics.median, zip(*(p[1] for p in pairs), strict=True))
                print(
                    f"{distance:9} {speakers}  textless {a:.3f} s  fastabx {b:.3f} s  ratio {b / a:.1f}, "
                    f"with reading {b_read / a_read:.1f}  errors {error:.6f} {other:.6f}"
                )


if __name__ == "__main__":
    main()
