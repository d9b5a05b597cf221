"""The overhead of the engine, with steps that compute nothing.

python bench/engine.py [FOLDER]      # a folder on the disk to measure, by default a temporary one; it needs half a
gigabyte

Planning a graph of twelve steps; a whole process with nothing to do over a corpus of 100 000 files; the shards of
a map, with all work around them; the memory of a map over a million rows.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import header

from textless.engine.pipeline import Pipeline
from textless.engine.step import MapStep, Step
from textless.engine.store import Store
from textless.steps import Corpus
from textless.steps.common import AudioMap

FILES, SHARDS, ROWS = 100_000, 1024, 1_000_000


@dataclass(frozen=True, kw_only=True)
class Nothing(Step):
    type = "nothing"
    after: Step | None = None
    beside: Step | None = None
    n: int

    def run(self, job):
        (job.path / "result").touch()


@dataclass(frozen=True, slots=True)
class Number:
    id: str


@dataclass(frozen=True, kw_only=True)
class Count(MapStep):
    type = "count"
    rows_from = ()
    n: int

    def rows(self, job):
        return [Number(f"row{i}") for i in range(self.n)]

    def identity(self, row, hash_file):
        return row.id

    def shard(self, tools, rows, out):
        out.write_text("".join(row.id for row in rows))
        return []


@dataclass(frozen=True, kw_only=True)
class Sizes(AudioMap):
    type = "sizes"
    audio: Corpus

    def shard(self, tools, rows, out):
        out.write_text("".join(f"{row.id} {row.samples}\n" for row in rows))
        return []


def graph() -> Pipeline:
    """Twelve steps, each on the two before."""
    steps: dict[str, Step] = {}
    before: list[Step | None] = [None, None]
    for n in range(12):
        steps[f"step{n}"] = Nothing(after=before[-1], beside=before[-2], n=n)
        before.append(steps[f"step{n}"])
    return Pipeline(steps)


def corpus(folder: Path) -> Pipeline:
    return Pipeline({"sizes": Sizes(audio=Corpus(manifest=str(folder / "corpus.tsv")))})


def make_corpus(folder: Path) -> None:
    lines = [f"{folder / 'audio'}"]
    for i in range(FILES):
        file = folder / "audio" / f"{i // 1000:03d}" / f"{i:06d}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(i))
        lines.append(f"{file.relative_to(folder / 'audio')}\t16000")
    (folder / "corpus.tsv").write_text("\n".join(lines) + "\n")


def seconds(f) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def process(*args: str) -> str:
    return subprocess.run([sys.executable, __file__, *args], check=True, capture_output=True, text=True).stdout


def main(folder: Path) -> None:
    header("the engine alone, medians of 7")
    graph().run(Store(folder / "graph"))
    planning = statistics.median(seconds(lambda: graph().plan(Store(folder / "graph"))) for _ in range(7))
    print(f"planning 12 steps that are done                {planning * 1e3:8.2f} ms")
    missing = statistics.median(seconds(lambda: graph().plan(Store(folder / "none"))) for _ in range(7))
    print(f"planning 12 steps that are missing             {missing * 1e3:8.2f} ms")

    make_corpus(folder)
    corpus(folder).run(Store(folder / "corpus"))
    nothing = statistics.median(seconds(lambda: process("noop", str(folder))) for _ in range(7))
    print(f"a run that finds {FILES} files done, process  {nothing:8.2f} s")

    step = Count(n=SHARDS * 64)
    shard = statistics.median(seconds(lambda n=n: Store(folder / f"shards{n}").run(step)) for n in range(7)) / SHARDS
    print(f"a shard of {SHARDS}                                {shard * 1e3:8.2f} ms")
    print(f"a map over {ROWS} rows, peak memory          {process('memory', str(folder)).strip()}")


if sys.argv[1:2] == ["noop"]:
    corpus(Path(sys.argv[2])).run(Store(Path(sys.argv[2]) / "corpus"))
elif sys.argv[1:2] == ["memory"]:
    Store(Path(sys.argv[2]) / "memory").run(Count(n=ROWS))
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MB")
else:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as scratch:
        main(Path(scratch))
