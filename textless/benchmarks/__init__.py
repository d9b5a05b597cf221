"""Benchmarks of the field for spoken language models, by the field's rules.

    report = run_benchmark("swuggy", "zerospeech2021", lm=load_lm("lm"), rows=Dump("units"))
    print(show(report.result))

| module | |
|---|---|
| `table` | the benchmarks by name, and running one |
| `names` | their names, and what each needs |
| `base` | what a benchmark is given, and what it returns |
| `pairs` | benchmarks of pairs: how often the right one is likelier |
| `zerospeech`, `trees` | their layouts: sWUGGY, sBLIMP, prosAudit; StoryCloze, SALMon, SlamKit's trees |
| `semantic`, `phonetic` | sSIMI, ABX |
| `layout` | recordings of a folder, names that mean the same recording, gold tables |
| `scores` | scores of a model, or of another tool; submission files |
| `display`, `published` | the table that is printed; figures of published systems, with their sources |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textless.lazy import attach

if TYPE_CHECKING:
    from textless.benchmarks.display import show as show
    from textless.benchmarks.table import BENCHMARKS as BENCHMARKS
    from textless.benchmarks.table import run_benchmark as run_benchmark

_WHERE = {
    **dict.fromkeys(("BENCHMARKS", "run_benchmark"), "textless.benchmarks.table"),
    "show": "textless.benchmarks.display",
}
__all__ = sorted(_WHERE)
__getattr__, __dir__ = attach(__name__, _WHERE)
