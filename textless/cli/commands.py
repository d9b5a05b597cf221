"""What `textless encode`, `continue`, `resynth`, `score` and `quality` do, over files, folders and pipes."""

from __future__ import annotations

import itertools
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from textless.audio.corpus import Corpus
from textless.cli.inputs import StandardInput, holds_units, tokenize_files, unit_rows
from textless.cli.outputs import (
    Failures,
    check_output,
    check_some_good,
    counted,
    deliver,
    deliver_file,
    hash_columns,
    hash_model,
    hash_or_missing,
    hash_rows,
    is_file,
    write_json,
    write_rows,
)
from textless.cli.progress import one_line
from textless.engine.job import Job, Progress
from textless.engine.shards import run_shards
from textless.errors import TextlessError
from textless.model import Model, continue_rows, resynth_row, speak_rows, stream_rows
from textless.names import repeated
from textless.types import StreamingVocoder, UnitContract, Units
from textless.units.dump import UnitRow, extra_types, write_results, write_stream

STREAM = (".jsonl",)


def encode(
    inputs: list[str], out: str, models: Model, *, overwrite: bool, progress: Progress, verbose: bool = False
) -> int:
    """Audio → units; returns the exit code."""
    check_output(out, STREAM, overwrite, folder="parquet")
    with StandardInput(inputs) as sources:
        corpus = Corpus.load(sources)
        tokenizer = models.tokenizer
        watch = _Distances(tokenizer, verbose)
        failures = Failures()
        rows = failures.sift(tokenize_files(corpus, tokenizer, progress, watch))
        if out == "-":
            write_stream(sys.stdout, rows, contract=tokenizer.contract)
            watch.warn()
            return failures.finish()

        from textless.units.tokenizer import tokenize

        def make(job: Job) -> None:
            run_shards(
                job,
                list(corpus),
                lambda rows, path: write_results(
                    path, tokenize(rows, tokenizer, watch=watch), contract=tokenizer.contract
                ),
                lambda n: f"data/{n:05d}.parquet",
            )

        key = {
            "command": "encode",
            "contract": tokenizer.contract.to_dict(),
            "precision": tokenizer.precision,
            "corpus": corpus.fingerprint(hash_or_missing),
        }
        if is_file(out, STREAM):
            code = deliver_file(out, key, lambda path: write_rows(path, rows, tokenizer.contract), overwrite, failures)
        else:
            code = deliver(out, key, make, len(corpus), overwrite, progress, contract=tokenizer.contract)
        watch.warn()
        return code


class _Distances:
    """How far each file's frames lie from the codebook: told on standard error, and a warning about those that lie too far."""

    def __init__(self, tokenizer: Any, verbose: bool) -> None:
        from textless.units.encoders.signal import SIGNAL

        self.quantizer, self.rate, self.verbose = tokenizer.quantizer, tokenizer.encoder.sample_rate, verbose
        self.trained = (
            tokenizer.contract.encoder not in SIGNAL
        )  # distances of plain MFCC follow loudness and microphone
        self.files, self.far = 0, []

    def __call__(self, row: UnitRow, distance: float | None) -> None:
        seconds = (row.samples or 0) / self.rate
        self.files += 1
        text = f"{one_line(row.id)}: {seconds:.2f} s, {len(row.units)} units"
        if distance is not None:  # the quantizer is a MeasuringQuantizer
            far, training = self.trained and self.quantizer.is_far(distance, seconds), self.quantizer.distances
            self.far += [row.id] * far
            known = (
                f"{distance / (training['mean'] or 1):.2f} of training's{' (far)' * far}"
                if training
                else "unknown to the codebook"
            )
            text += f", distance {known}"
        if self.verbose:
            print(text, file=sys.stderr)

    def warn(self) -> None:
        if self.far:
            print(
                f"warning: {len(self.far)} of {self.files} files are far from what the encoder was trained on (music, silence, another "
                f"language or noise?), such as {one_line(self.far[0])}",
                file=sys.stderr,
            )


def continue_units(
    inputs: list[str],
    out: str,
    models: Model,
    *,
    contract: str | None,
    overwrite: bool,
    progress: Progress,
    stream: bool,
    **options: Any,
) -> int:
    """Units (or audio) → units and their continuations; returns the exit code."""
    check_output(out, STREAM, overwrite, folder="parquet")
    if stream and out != "-":
        raise TextlessError(
            "--stream writes units while they are sampled; give -o - and another command that reads them"
        )
    failures = Failures()
    lm = models.lm
    rows = _fitting(failures.sift(unit_rows(inputs, models, contract)), lm.contract, "the language model")
    if out == "-":
        write_stream(
            sys.stdout, counted(continue_rows(lm, rows, parts=stream, **options), progress), contract=lm.contract
        )
        return failures.finish()
    prompts = list(rows)
    columns = extra_types(prompts)  # of all shards alike

    def make(job: Job) -> None:
        run_shards(
            job,
            prompts,
            lambda some, path: write_results(
                path, ((r, r) for r in continue_rows(lm, some, **options)), contract=lm.contract, extra=columns
            ),
            lambda n: f"data/{n:05d}.parquet",
        )

    lm_key = {"lm": hash_model(models.place("lm")), "precision": models.lm_precision}
    key = {
        "command": "continue",
        "version": 3,
        **lm_key,
        "prompts": hash_rows(prompts),
        "columns": hash_columns(prompts),
        **options,
    }
    if is_file(out, STREAM):
        continued = counted(continue_rows(lm, prompts, **options), progress)
        return deliver_file(out, key, lambda path: write_rows(path, continued, lm.contract), overwrite, failures)
    return deliver(out, key, make, len(prompts), overwrite, progress, contract=lm.contract, failures=failures)


def _fitting(rows: Iterable[UnitRow], contract: UnitContract, mine: str) -> Iterator[UnitRow]:
    """The rows with a model's contract, before anything is made of them. Raises ContractError for units of another kind."""
    for row in rows:
        contract.check(row.units.contract, mine=mine, theirs=row.id)
        yield replace(row, units=Units(row.units.units, row.units.durations, contract))


def resynth(
    inputs: list[str],
    out: str,
    models: Model,
    *,
    contract: str | None,
    overwrite: bool,
    progress: Progress,
    stream: bool,
    **options: Any,
) -> int:
    """Units (or audio) → speech; returns the exit code."""
    from textless.audio.io import FORMATS, write_audio, write_wav

    check_output(out, FORMATS, overwrite, folder="wavs")
    if stream and out != "-":
        raise TextlessError(
            "--stream speaks while units come; give -o - and a player that reads a wav from standard input"
        )
    failures = Failures()
    vocoder = models.vocoder
    if stream and not isinstance(vocoder, StreamingVocoder):
        raise TextlessError(
            "this vocoder speaks whole rows only; leave --stream out, or give a vocoder that textless trained"
        )
    rows = _fitting(failures.sift(unit_rows(inputs, models, contract, parts=stream)), vocoder.contract, "the vocoder")
    if out == "-":
        spoken = (
            stream_rows(vocoder, rows, **options)
            if stream and isinstance(vocoder, StreamingVocoder)
            else (resynth_row(vocoder, row, **options) for row in rows)
        )
        write_wav(sys.stdout.buffer, spoken, sample_rate=vocoder.sample_rate)
        return failures.finish()
    single = is_file(out, FORMATS)
    sequences = list(itertools.islice(rows, 2) if single else rows)
    if single and len(sequences) != 1:
        check_some_good(failures.rows, len(sequences))
        raise TextlessError(f"{out}: one file holds one row, but there are more; give a folder")

    def make(job: Job) -> None:
        for n, _ in enumerate(speak_rows(vocoder, sequences, job.path, **options), 1):
            progress(n, len(sequences), "files")

    from textless.units.encoders.load import resolve_precision

    spoken_in = resolve_precision(models.precision, models.device)
    precision = {} if spoken_in == "fp32" else {"precision": spoken_in}
    key = {
        "command": "resynth",
        "vocoder": hash_model(models.place("vocoder")),
        **precision,
        "units": hash_rows(sequences),
        **options,
    }
    if single:

        def speak(path: Path) -> None:
            write_audio(path, resynth_row(vocoder, sequences[0], **options), sample_rate=vocoder.sample_rate)

        return deliver_file(out, key, speak, overwrite, failures)
    return deliver(out, key, make, len(sequences), overwrite, progress, failures=failures)


def score(
    inputs: list[str],
    out: str | None,
    models: Model,
    *,
    contract: str | None,
    overwrite: bool,
    progress: Progress,
    pairs: str | None,
    controls: bool,
    seed: int,
) -> int:
    """Likelihood of units (or audio); returns the exit code."""
    from textless.metrics import lm as scoring

    if out:
        check_output(out, STREAM, overwrite)
    failures = Failures()
    lm = models.lm
    rows = list(_fitting(failures.sift(unit_rows(inputs, models, contract)), lm.contract, "the language model"))
    check_some_good(failures.rows, failures.good)
    if pairs and (name := repeated(row.id for row in rows)) is not None:
        raise TextlessError(f"two rows are called {name!r}; pairs are found by id: give one of them another")
    gold = scoring.read_pairs(pairs, {row.id: row.units for row in rows}) if pairs else []

    def write(file: IO[str] | None) -> str:
        """Scores to a file; returns the figures, a line each."""
        scores = list(counted(scoring.score(lm, rows), progress))
        nats, tokens = sum(s["nll"] for s in scores), sum(s["units"] + 1 for s in scores)
        figures: dict[str, Any] = {"rows": len(rows), "nll_per_unit": nats / tokens}
        if lm.frame_rate and (frames := sum(row.units.n_frames for row in rows)):
            figures["bits_per_second"] = nats / math.log(2) / (frames / lm.frame_rate)
        if gold:
            figures["pairs"] = scoring.pair_accuracy(lm, gold, seed=seed)
            figures["pairs_per_unit"] = scoring.pair_accuracy(lm, gold, normalise=True, seed=seed)
        if controls:
            figures |= scoring.controls(lm, rows, seed=seed)
        if file:
            file.writelines(json.dumps(s) + "\n" for s in scores)
        return "\n".join(f"{name:16} {_figure(value)}" for name, value in figures.items())

    key = {
        "command": "score",
        "lm": hash_model(models.place("lm")),
        "units": hash_rows(rows),
        "controls": controls,
        "seed": seed,
    }
    return _tell(out, {**key, "pairs": hash_or_missing(pairs) if pairs else None}, write, overwrite, failures)


def _tell(
    out: str | None, key: dict[str, Any], write: Callable[[IO[str] | None], str], overwrite: bool, failures: Failures
) -> int:
    """Write what a command measured to a file or standard output, and print the figures, to standard error if the other is taken."""

    def to_file(path: Path) -> str:
        with open(path, "w", encoding="utf-8") as f:
            return write(f)

    if out and out != "-":
        return deliver_file(out, key, to_file, overwrite, failures)
    print(write(sys.stdout if out else None), file=sys.stderr if out else sys.stdout)
    return failures.finish()


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        share = (
            f"{value['accuracy']:.1%} [{value['low']:.1%}, {value['high']:.1%}] of {value['n']}"
            if value["n"]
            else "none long enough"
        )
        return share + (f", {value['left_out']} too short" if value.get("left_out") else "")
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def quality(
    inputs: list[str],
    out: str | None,
    models: Model,
    *,
    alignments: str | None,
    items: str | None,
    perturb: bool,
    reference: str | None,
    text: str | None,
    contract: str | None,
    overwrite: bool,
    progress: Progress,
    seed: int,
) -> int:
    """What units, or the units and frames of audio, are worth, or speech beside its reference; returns the exit code."""
    if reference is not None:
        if alignments or items or perturb:
            raise TextlessError(
                "--alignments, --items and --perturb measure units; --reference compares speech; ask for one or the other"
            )
        return _speech_quality(inputs, out, models, reference, text, overwrite=overwrite, progress=progress, seed=seed)
    if text:
        raise TextlessError("--text is what the originals say; give them with --reference")
    from textless.metrics.alignments import read_alignments
    from textless.metrics.items import read_items
    from textless.metrics.table import table
    from textless.metrics.units import measure_units

    if out:
        check_output(out, (".json",), overwrite)
    phones: dict[str, Any] = {
        "alignments": read_alignments(alignments) if alignments else None,
        "items": read_items(items) if items else None,
    }
    failures = Failures()
    units = [name for name in inputs if holds_units(name)]
    if units and len(units) < len(inputs):
        raise TextlessError("units and audio are not measured alike; give one or the other")
    if units and perturb:
        raise TextlessError(
            "--perturb changes audio and encodes it again; give the audio that these units were made from"
        )
    key: dict[str, Any] = {"command": "quality", "seed": seed, "perturb": perturb}
    key |= {
        name: hash_or_missing(file) if file else None for name, file in (("alignments", alignments), ("items", items))
    }
    if units:
        rows = list(failures.sift(unit_rows(inputs, models, contract)))
        check_some_good(failures.rows, failures.good)
        key |= {"units": hash_rows(rows), "contracts": [c.to_dict() for c in {r.units.contract: None for r in rows}]}

        def measure() -> dict[str, Any]:
            return {"figures": measure_units(rows, **phones, seed=seed), "contract": rows[0].units.contract.to_dict()}

    else:
        from textless.metrics.tokenizer import measure_tokenizer

        corpus, model = Corpus.load(inputs), _tokenizer_or_encoder(models)
        key |= {
            "corpus": corpus.fingerprint(hash_or_missing),
            "contract": model.contract.to_dict(),
            "precision": models.precision,
        }

        def measure() -> dict[str, Any]:
            figures, failures.rows = measure_tokenizer(
                corpus, model, **phones, perturb=perturb, seed=seed, progress=progress
            )
            failures.good = len(corpus) - len(failures.rows)
            return {"figures": figures, "contract": model.contract.to_dict()}

    def write(file: IO[str] | None) -> str:
        found = measure()
        if file:
            write_json(file, found)
        return table(found["figures"])

    return _tell(out, key, write, overwrite, failures)


def _speech_quality(
    inputs: list[str],
    out: str | None,
    models: Model,
    reference: str,
    text: str | None,
    *,
    overwrite: bool,
    progress: Progress,
    seed: int,
) -> int:
    from textless.metrics.asr import check_recogniser, read_text
    from textless.metrics.speech import check_stoi, check_text, compare_pairs, pair_rows, summarise
    from textless.metrics.table import speech_table

    if out:
        check_output(out, (".json",), overwrite)
    if units := [name for name in inputs if holds_units(name)]:
        raise TextlessError(f"{units[0]}: units; --reference compares audio that was made with the original")
    made, originals = Corpus.load(inputs), Corpus.load(reference)
    pairs, words, stoi = pair_rows(made, originals), None, True
    if text:
        check_recogniser()
        words = read_text(text)
        check_text(pairs, words)
    try:
        check_stoi()
    except TextlessError as e:
        stoi = False
        warnings.warn(f"STOI is left out: {e}", stacklevel=1)
    failures, tokenizer = Failures(), models.tokenizer

    def write(file: IO[str] | None) -> str:
        sentences: list[dict[str, Any]] = []
        for n, sentence in enumerate(compare_pairs(pairs, stoi=stoi, encode=tokenizer.encode_batch, text=words), 1):
            (failures.rows if "error" in sentence else sentences).append(sentence)
            progress(n, len(pairs), "files")
        failures.good = len(sentences)
        check_some_good(failures.rows, failures.good)
        figures = summarise(sentences, seed=seed)
        if file:
            write_json(file, {"figures": figures, "sentences": sentences, "contract": tokenizer.contract.to_dict()})
        return speech_table(figures)

    key = {
        "command": "quality of speech",
        "corpora": [c.fingerprint(hash_or_missing) for c in (made, originals)],
        "seed": seed,
        "stoi": stoi,
    }
    key |= {
        "text": hash_or_missing(text) if text else None,
        "contract": tokenizer.contract.to_dict(),
        "precision": models.precision,
    }
    return _tell(out, key, write, overwrite, failures)


def _tokenizer_or_encoder(models: Model) -> Any:
    """An encoder that is given without a codebook stands alone."""
    if models.parts["encoder"] is None or models.parts["codebook"] is not None:
        return models.tokenizer
    from textless.units.encoders.load import load_encoder

    return load_encoder(models.place("encoder"), models.layer, precision=models.precision, device=models.device)
