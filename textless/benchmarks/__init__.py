"""Benchmarks of the field for spoken language models, by the field's rules.

    result, scores = run_benchmark("swuggy", "zerospeech2021", lm=load_lm("lm"), rows=Dump("units"))
    print(show(result))

| module | |
|---|---|
| `table` | the benchmarks by name, running and printing |
| `base` | pairs, and how often the right one is likelier |
| `zerospeech`, `trees` | the layouts: sWUGGY, sBLIMP, prosAudit; StoryCloze, SALMon, SlamKit's trees |
| `scores` | scores of a model, or of another tool; submission files |
| `published` | figures of published systems, with their sources |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textless.lazy import attach

if TYPE_CHECKING:
    from textless.benchmarks.table import BENCHMARKS as BENCHMARKS
    from textless.benchmarks.table import run_benchmark as run_benchmark
    from textless.benchmarks.table import show as show

_WHERE = dict.fromkeys(("BENCHMARKS", "run_benchmark", "show"), "textless.benchmarks.table")
__all__ = sorted(_WHERE)
__getattr__, __dir__ = attach(__name__, _WHERE)
