"""`textless benchmark`: a benchmark of the field, on a model, on units, or on the scores of another tool."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textless.benchmarks.names import NEEDS
from textless.errors import TextlessError

if TYPE_CHECKING:
    from collections.abc import Callable

    from textless.audio.corpus import Corpus
    from textless.benchmarks.base import Benchmark
    from textless.cli.commands import Request
    from textless.engine.job import Job
    from textless.types import Encoder, UnitContract
    from textless.units.dump import UnitRow


def run(request: Request, name: str, folder: str, **options: Any) -> int:
    """Run a benchmark; returns the exit code.

    Options are `split`, `units`, `scores` and `seed` of the command.
    """
    from textless.benchmarks.display import show
    from textless.benchmarks.table import benchmark_named, run_benchmark
    from textless.cli.outputs import Failures, check_output, deliver_file, deliver_folder

    benchmark = benchmark_named(name)
    if options["scores"] and options["units"]:
        raise TextlessError("--scores are another tool's, --units are those of a model; give one of the two")
    if request.out not in ("", "-"):
        check_output(request.out, (".json",), request.overwrite, folder="results")
    split, seed, scores = options["split"], options["seed"], options["scores"]
    measured = {"scores": scores} if scores else _measured(request, benchmark, folder, split, options["units"])
    report = run_benchmark(name, folder, split=split, seed=seed, **measured)
    content = json.dumps([report.result, report.files], sort_keys=True)
    key = {"command": "benchmark", "name": name, "result": hashlib.sha256(content.encode()).hexdigest()}
    failures = Failures(good=1)

    def write(path: Path) -> str:
        path.write_text(report.json(), encoding="utf-8")
        return show(report.result)

    def fill(job: Job) -> None:
        report.write(job.path)

    if request.out == "-":
        print(report.json(), end="")
        return failures.finish()
    if request.out.endswith(".json"):
        return deliver_file(request.out, key, write, request.overwrite, failures)
    print(show(report.result))
    if request.out:
        return deliver_folder(request.out, key, fill, request.overwrite, request.progress, failures=failures)
    return failures.finish()


def _measured(request: Request, benchmark: Benchmark, folder: str, split: str, units: str | None) -> dict[str, Any]:
    """What `run_benchmark` measures: a language model and units, units alone, or frames."""
    from textless.cli.commands import _tokenizer_or_encoder
    from textless.units.frames import read_frames
    from textless.units.tokenizer import Tokenizer

    if NEEDS[benchmark.name] == "lm":
        lm = request.models.lm
        return {"lm": lm, "rows": _units(request, benchmark, folder, split, units, lm.base_contract)}
    if units:
        return {"rows": _units(request, benchmark, folder, split, units, None)}
    model = _tokenizer_or_encoder(request.models)
    encoder = model.encoder if isinstance(model, Tokenizer) else model
    kept = _encoded_frames(request, encoder, _corpus(benchmark, folder, split))
    return {"frames": dict(read_frames(kept)), "frame_rate": encoder.frame_rate}


def _units(
    request: Request, benchmark: Benchmark, folder: str, split: str, units: str | None, contract: UnitContract | None
) -> list[UnitRow]:
    """Units of the recordings: those that are given, or the tokenizer's, which are kept in the cache."""
    from textless.cli.inputs import holds_units, unit_rows
    from textless.cli.outputs import Failures
    from textless.units.dump import write_results
    from textless.units.tokenizer import tokenize

    if units is None:
        tokenizer, corpus = request.models.tokenizer, _corpus(benchmark, folder, split)

        def write_shard(rows: list[Any], path: Path) -> list[dict[str, Any]]:
            return write_results(path, tokenize(rows, tokenizer), contract=tokenizer.contract)

        identity = ["units", tokenizer.contract.to_dict(), tokenizer.precision]
        units = str(_kept(request, corpus, identity, write_shard, tokenizer.contract))
    elif not holds_units(units):
        raise TextlessError(f"{units}: --units is a dump or file of units; of audio they are made without it")
    if contract is None:
        return list(Failures().sift(unit_rows([units], request.models, request.contract)))
    return list(replace(request, inputs=[units]).units(Failures(), contract, "the language model"))


def _corpus(benchmark: Benchmark, folder: str, split: str) -> Corpus:
    """The recordings that the benchmark measures, by their paths from the folder on, without suffix."""
    from textless.audio.corpus import Corpus
    from textless.names import plain

    wanted = set(benchmark.recordings(Path(folder), split))
    rows = [
        replace(row, id=plain(Path(row.path).relative_to(Path(folder).resolve()).with_suffix("").as_posix()))
        for row in Corpus.load(folder)
    ]
    return Corpus(row for row in rows if row.id in wanted)


def _encoded_frames(request: Request, encoder: Encoder, corpus: Corpus) -> Path:
    """A folder of frames of the recordings, kept in the cache."""
    from textless.errors import AudioError
    from textless.units.frames import write_frames
    from textless.units.tokenizer import encode_rows

    def write_shard(rows: list[Any], path: Path) -> list[dict[str, Any]]:
        frames: list[tuple[str, np.ndarray]] = []
        failures = []
        for row, _, pieces in encode_rows(rows, encoder):
            try:
                if isinstance(pieces, AudioError):
                    raise pieces
                frames.append((row.id, np.concatenate(list(pieces))))
            except AudioError as e:
                failures.append({"id": row.id, "error": str(e)})
        write_frames(path, frames, dim=encoder.dim)
        return failures

    return _kept(request, corpus, ["frames", encoder.contract.to_dict(), encoder.precision], write_shard, None)


def _kept(
    request: Request,
    corpus: Corpus,
    identity: list[Any],
    write_shard: Callable[[list[Any], Path], list[dict[str, Any]]],
    contract: UnitContract | None,
) -> Path:
    """A folder of shards of the corpus in the cache, made on the first call.

    Args:
        identity: what the shards depend on, next to the corpus.
        contract: of units, whose shards become a dump; None: of frames.

    Raises:
        TextlessError: a recording cannot be read.
    """
    from textless.audio.fetch import _cache
    from textless.cli.commands import shard_place
    from textless.cli.outputs import Failures, deliver_folder, hash_or_missing
    from textless.engine.shards import run_shards
    from textless.engine.step import digest

    key = {"command": "benchmark", "identity": identity, "corpus": corpus.fingerprint(hash_or_missing)}
    kept = _cache() / "benchmarks" / digest(key)
    kept.parent.mkdir(parents=True, exist_ok=True)

    def fill(job: Job) -> None:
        path = shard_place if contract else "data/{:05d}".format
        run_shards(job, list(corpus), write_shard, path)

    failures = Failures(good=len(corpus))
    code = deliver_folder(str(kept), key, fill, False, request.progress, contract=contract, failures=failures)
    if code:
        raise TextlessError(f"some recordings cannot be read, see {kept}/failures.jsonl; mend them")
    return kept
