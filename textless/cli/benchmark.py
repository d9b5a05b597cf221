"""`textless benchmark`: a benchmark of the field, from a model, from units, or from the scores of another tool."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.errors import TextlessError

if TYPE_CHECKING:
    from textless.cli.commands import Request
    from textless.engine.job import Job
    from textless.units.dump import UnitRow


def run(request: Request, name: str, folder: str, **options: Any) -> int:
    """Score a benchmark; returns the exit code.

    Options are `split`, `units`, `scores` and `seed` of the command.
    """
    from textless.benchmarks.scores import read_scores
    from textless.benchmarks.table import benchmark_named, run_benchmark, show, submission
    from textless.cli.outputs import Failures, check_output, deliver_file, deliver_folder, hash_model, hash_rows

    benchmark = benchmark_named(name)
    split, scores, seed = options["split"], options["scores"], options["seed"]
    if scores and options["units"]:
        raise TextlessError("--scores are another tool's, --units are scored by --lm; give one of the two")
    if request.out not in ("", "-"):
        check_output(request.out, (".json",), request.overwrite, folder="results")
    rows: list[UnitRow] = []
    failures = Failures(good=1)
    if not scores:
        rows = _units(request, folder, options["units"])
        failures.good = len(rows)
    lm = None if scores else request.models.lm
    result, measured = run_benchmark(name, folder, split=split, lm=lm, rows=rows, scores=scores, seed=seed)
    key = {
        "command": "benchmark",
        "name": name,
        "split": split,
        "seed": seed,
        "result": hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest(),
        "scores": hashlib.sha256(json.dumps(read_scores(Path(scores))).encode()).hexdigest() if scores else None,
        "lm": None if scores else hash_model(request.models.place("lm")),
        "units": None if scores else hash_rows(rows),
    }

    def write(path: Path) -> str:
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return show(result)

    def fill(job: Job) -> None:
        write(job.path / "result.json")
        (job.path / "table.txt").write_text(show(result) + "\n", encoding="utf-8")
        for kind, values in measured.items():
            submission(benchmark, job.path / kind, split, values)

    if request.out == "-":
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return failures.finish()
    if request.out and request.out.endswith(".json"):
        return deliver_file(request.out, key, write, request.overwrite, failures)
    print(show(result))
    if request.out:
        return deliver_folder(request.out, key, fill, request.overwrite, request.progress, failures=failures)
    return failures.finish()


def _units(request: Request, folder: str, units: str | None) -> list[UnitRow]:
    """Units of the recordings: those that are given, or those of the model, encoded once and kept in the cache."""
    from textless.audio.corpus import Corpus
    from textless.audio.fetch import _cache
    from textless.cli import commands
    from textless.cli.outputs import Failures, hash_or_missing
    from textless.engine.step import digest

    if units is None:
        tokenizer = request.models.tokenizer
        corpus = Corpus.load(folder)
        identity = [tokenizer.contract.to_dict(), tokenizer.precision, corpus.fingerprint(hash_or_missing)]
        kept = _cache() / "benchmarks" / digest(identity)
        kept.parent.mkdir(parents=True, exist_ok=True)
        code = commands.encode(replace(request, inputs=[folder], out=str(kept), overwrite=False))
        if code:
            raise TextlessError(
                f"{folder}: some of its recordings cannot be read, see {kept}/failures.jsonl; mend them"
            )
        units = str(kept)
    lm = request.models.lm
    return list(replace(request, inputs=[units]).units(Failures(), lm.contract, "the language model"))
