"""The table of benchmarks, and how one is run and printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from textless.benchmarks.base import CHANCE, SCORES, Benchmark, Pair, figures
from textless.benchmarks.published import PUBLISHED
from textless.benchmarks.scores import Scores, given_scores, model_scores, read_scores, write_scores
from textless.benchmarks.trees import SALMON, SSTORYCLOZE, TSTORYCLOZE, recordings
from textless.benchmarks.zerospeech import PROSAUDIT, SBLIMP, SWUGGY
from textless.errors import CorpusError, did_you_mean
from textless.metrics.lm import Scorer
from textless.units.dump import UnitRow

BENCHMARKS: dict[str, Benchmark] = {b.name: b for b in (SWUGGY, SBLIMP, TSTORYCLOZE, SSTORYCLOZE, SALMON, PROSAUDIT)}


def benchmark_named(name: str) -> Benchmark:
    """Raises CorpusError for an unknown name."""
    if name not in BENCHMARKS:
        raise CorpusError(f"no benchmark {name[:40]!r}{did_you_mean(name, BENCHMARKS)}")
    return BENCHMARKS[name]


def run_benchmark(
    name: str,
    folder: Path | str,
    *,
    split: str = "dev",
    lm: Scorer | None = None,
    rows: Iterable[UnitRow] = (),
    scores: Path | str | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], Scores]:
    """Score a benchmark of pairs: by a language model on units of its recordings, or by the scores of another tool.

    Args:
        folder: the benchmark as it is published (docs/benchmarks-of-the-field.md).
        split: of a benchmark that has some.
        lm, rows: the model, and units of all recordings.
        scores: instead: a file or folder, see `read_scores`.
        seed: of the bootstrap.

    Returns:
        the result, ready for JSON: `figures` (see `base.figures`) under `mean` and `sum`, or `given`; `ranked_by`;
        `chance`, `pairs`, `ties`, `notes`, `published`; and the scores.

    Raises:
        CorpusError: no such benchmark or folder, another layout, recordings without units or scores.
    """
    benchmark, folder = benchmark_named(name), Path(folder)
    given = None if scores is None else read_scores(Path(scores))
    names = recordings(folder) or sorted(given or ())
    pairs, notes = benchmark.read(folder, split, names)
    wanted = [file for pair in pairs for file in (pair.good, pair.bad)]
    if given is not None:
        measured: Scores = {"given": given_scores(given, wanted, Path(str(scores)))}
    elif lm is None:
        raise CorpusError(f"{name}: give a language model and units, or the scores of another tool")
    else:
        rows = list(rows)
        measured = model_scores(lm, rows, wanted)
        notes += _long(lm, rows)
    result = {
        "benchmark": name,
        "title": benchmark.title,
        "paper": benchmark.paper,
        "split": split,
        "pairs": len(pairs),
        "ranked_by": benchmark.ranked_by if given is None else "given",
        "chance": CHANCE,
        "ties": {kind: _ties(pairs, values) for kind, values in measured.items()},
        "figures": {kind: figures(benchmark, pairs, values, seed=seed) for kind, values in measured.items()},
        "notes": notes,
        "published": [row for row in PUBLISHED if row["benchmark"] == name],
    }
    return result, measured


def _ties(pairs: Iterable[Pair], scores: Mapping[str, float]) -> int:
    return sum(scores[p.good] == scores[p.bad] for p in pairs)


def _long(lm: Scorer, rows: Iterable[UnitRow]) -> list[str]:
    context = getattr(getattr(lm, "config", None), "context", None)
    over = sum(len(row.units) > context for row in rows) if context else 0
    note = (
        f"{over} recordings are longer than the {context} units that the model sees at once, and are scored in windows"
    )
    return [note] if over else []


def submission(benchmark: Benchmark, folder: Path, split: str, scores: Mapping[str, float]) -> None:
    """Write the score file of a submission into a folder, where the benchmark defines one."""
    if benchmark.scores:
        write_scores(folder / benchmark.scores.format(split=split), scores)


def show(result: Mapping[str, Any]) -> str:
    """The result as a table: one line a figure, and rows of published systems."""
    kinds = [k for k in (result["ranked_by"], *SCORES) if k in result["figures"]]
    kinds = list(dict.fromkeys(kinds))
    heads = {"mean": "a unit", "sum": "summed", "given": "score"}
    split = f", {result['split']}" if result["split"] else ""
    lines = [f"{result['title']} ({result['paper']}){split}: {result['pairs']} pairs, chance {CHANCE:.0%}"]
    head = ["", f"{heads[kinds[0]]} *", "95 % interval", *(heads[k] for k in kinds[1:]), "n"]
    rows = [head]
    for name, figure in _flat(result["figures"][kinds[0]]):
        others = [dict(_flat(result["figures"][k]))[name] for k in kinds[1:]]
        interval = f"{100 * figure['low']:.1f} – {100 * figure['high']:.1f}"
        rows.append(
            [
                name,
                f"{100 * figure['value']:.2f}",
                interval,
                *(f"{100 * o['value']:.2f}" for o in others),
                f"{figure['n']}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]).rstrip() for r in rows]
    if len(kinds) > 1:
        lines.append(f"* the log-likelihood {heads[kinds[0]]} is what the paper compares; a tie counts one half")
    lines += [f"{n} pairs tie ({heads[k]})" for k, n in result["ties"].items() if n]
    lines += result["notes"]
    lines += [
        f"published: {row['system']}, {row['figure']} {row['value']} ({row['source']})" for row in result["published"]
    ]
    return "\n".join(lines)


def _flat(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    out: list[tuple[str, Mapping[str, float]]] = []
    for name, value in figures.items():
        if "value" in value:
            out.append((name, value))
        else:
            out += [(f"{name} {group or '-'}", inner) for group, inner in value.items()]
    return out
