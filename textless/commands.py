"""What `textless encode`, `continue`, `resynth`, `score` and `quality` do, over files, folders and pipes."""

from __future__ import annotations

import itertools
import json
import math
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from textless.corpus import Corpus
from textless.engine.job import Job, Progress
from textless.engine.shards import run_shards
from textless.errors import TextlessError
from textless.inputs import StandardInput, holds_units, tokenize_files, unit_rows
from textless.model import Model, continue_rows, resynth_row, speak_rows, stream_rows
from textless.names import repeated
from textless.outputs import (
    Failures,
    check_some_good,
    counted,
    deliver,
    hash_model,
    hash_or_missing,
    hash_rows,
    is_stream,
    refuse,
    write_json,
    write_units,
)
from textless.units.dump import UnitRow, write_results
from textless.units.types import Units
from textless.weights import write_text


def encode(inputs: list[str], out: str, models: Model, *, overwrite: bool, progress: Progress, verbose: bool = False) -> int:
    """Audio → units; returns the exit code."""
    refuse(out, overwrite)
    with StandardInput(inputs) as sources:
        corpus = Corpus.load(sources)
        tokenizer = models.tokenizer
        watch = _Distances(tokenizer, verbose)
        if is_stream(out):
            failures = Failures(out)
            rows = failures.sift(tokenize_files(corpus, tokenizer, progress, watch))
            write_units(out, rows, tokenizer.contract)
            watch.warn()
            return failures.finish()

        from textless.units.encode import tokenize

        def make(job: Job) -> None:
            run_shards(
                job,
                list(corpus),
                lambda rows, path: write_results(path, tokenize(rows, tokenizer, watch=watch), contract=tokenizer.contract),
                lambda n: f"data/{n:05d}.parquet",
            )

        key = {
            "command": "encode",
            "contract": tokenizer.contract.to_dict(),
            "precision": tokenizer.precision,
            "corpus": corpus.fingerprint(hash_or_missing),
        }
        code = deliver(Path(out), key, make, len(corpus), overwrite, progress, contract=tokenizer.contract)
        watch.warn()
        return code


class _Distances:
    """How far each file's frames lie from the codebook: told on standard error, and a warning about those that lie too far."""

    def __init__(self, tokenizer: Any, verbose: bool) -> None:
        from textless.units.encode import SIGNAL

        self.codebook, self.rate, self.verbose = tokenizer.codebook, tokenizer.encoder.sample_rate, verbose
        self.trained = tokenizer.contract.encoder not in SIGNAL  # distances of plain MFCC follow loudness and microphone
        self.files, self.far = 0, []

    def __call__(self, row: UnitRow, distance: float) -> None:
        seconds = (row.samples or 0) / self.rate
        far, training = self.trained and self.codebook.is_far(distance, seconds), self.codebook.distances
        self.files += 1
        self.far += [row.id] * far
        if self.verbose:
            known = f"{distance / (training['mean'] or 1):.2f} of training's{' (far)' * far}" if training else "unknown to the codebook"
            print(f"{row.id}: {seconds:.2f} s, {len(row.units)} units, distance {known}", file=sys.stderr)

    def warn(self) -> None:
        if self.far:
            print(
                f"warning: {len(self.far)} of {self.files} files are far from what the encoder was trained on (music, silence, another "
                f"language or noise?), such as {self.far[0]}",
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
    refuse(out, overwrite)
    if stream and out != "-":
        raise TextlessError("--stream writes units while they are sampled; give -o - and another command that reads them")
    failures = Failures(out)
    lm = models.lm
    rows = failures.sift(unit_rows(inputs, models, contract))
    if is_stream(out):
        write_units(out, counted(continue_rows(lm, rows, parts=stream, **options), progress), lm.contract)
        return failures.finish()
    prompts = list(rows)

    def make(job: Job) -> None:
        run_shards(
            job,
            prompts,
            lambda some, path: write_results(path, ((r, r) for r in continue_rows(lm, some, **options)), contract=lm.contract),
            lambda n: f"data/{n:05d}.parquet",
        )

    lm_key = {"lm": hash_model(models.place("lm")), "precision": models.lm_precision}
    key = {"command": "continue", "version": 2, **lm_key, "prompts": hash_rows(prompts), **options}
    return deliver(Path(out), key, make, len(prompts), overwrite, progress, contract=lm.contract, failures=failures)


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
    from textless.audio import FORMATS, write_audio, write_wav

    refuse(out, overwrite)
    if stream and out != "-":
        raise TextlessError("--stream speaks while units come; give -o - and a player that reads a wav from standard input")
    single = Path(out).suffix.lower() in FORMATS
    failures = Failures(out)
    vocoder = models.vocoder
    if stream and not hasattr(vocoder, "stream"):
        raise TextlessError("a HiFi-GAN speaks whole rows only; leave --stream out, or give a vocoder that textless trained")
    rows = failures.sift(unit_rows(inputs, models, contract, parts=stream))
    if out == "-":
        spoken = stream_rows(vocoder, rows, **options) if stream else (resynth_row(vocoder, row, **options) for row in rows)
        write_wav(sys.stdout.buffer, spoken, sample_rate=vocoder.sample_rate)
        return failures.finish()
    if single:
        two = list(itertools.islice(rows, 2))
        if len(two) != 1:
            check_some_good(failures.rows, len(two))
            raise TextlessError(f"{out}: one file holds one row, but there are more; give a folder")
        write_audio(out, resynth_row(vocoder, two[0], **options), sample_rate=vocoder.sample_rate)
        return failures.finish()
    sequences = list(rows)

    def make(job: Job) -> None:
        for n, _ in enumerate(speak_rows(vocoder, sequences, job.path, **options), 1):
            progress(n, len(sequences), "files")

    from textless.units.encode import resolve_precision

    spoken_in = resolve_precision(models.precision, models.device)
    precision = {} if spoken_in == "fp32" else {"precision": spoken_in}
    key = {"command": "resynth", "vocoder": hash_model(models.place("vocoder")), **precision, "units": hash_rows(sequences), **options}
    return deliver(Path(out), key, make, len(sequences), overwrite, progress, failures=failures)


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
    from textless.lm import score as scoring

    if out:
        refuse(out, overwrite)
    failures = Failures(out or "-")
    lm = models.lm
    rows = []
    for row in failures.sift(unit_rows(inputs, models, contract)):
        lm.contract.check(row.units.contract, mine="the language model", theirs=row.id)
        rows.append(replace(row, units=Units(row.units.units, row.units.durations, lm.contract)))
    check_some_good(failures.rows, failures.good)
    if pairs and (name := repeated(row.id for row in rows)) is not None:
        raise TextlessError(f"two rows are called {name!r}; pairs are found by id: give one of them another")
    gold = scoring.read_pairs(pairs, {row.id: row.units for row in rows}) if pairs else []
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
    lines = "".join(json.dumps(s) + "\n" for s in scores)
    if out == "-":
        sys.stdout.write(lines)
    elif out:
        write_text(Path(out), lines)
    for name, value in figures.items():
        print(f"{name:16} {_figure(value)}", file=sys.stderr if out == "-" else sys.stdout)
    return failures.finish()


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        share = f"{value['accuracy']:.1%} [{value['low']:.1%}, {value['high']:.1%}] of {value['n']}" if value["n"] else "none long enough"
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
            raise TextlessError("--alignments, --items and --perturb measure units; --reference compares speech; ask for one or the other")
        return _speech_quality(inputs, out, models, reference, text, overwrite=overwrite, progress=progress, seed=seed)
    if text:
        raise TextlessError("--text is what the originals say; give them with --reference")
    from textless.figures import table
    from textless.units.items import read_items
    from textless.units.quality import measure_units, read_alignments

    if out:
        refuse(out, overwrite)
    phones: dict[str, Any] = {
        "alignments": read_alignments(alignments) if alignments else None,
        "items": read_items(items) if items else None,
    }
    failures = Failures(out or "-")
    units = [name for name in inputs if holds_units(name)]
    if units and len(units) < len(inputs):
        raise TextlessError("units and audio are not measured alike; give one or the other")
    if units and perturb:
        raise TextlessError("--perturb changes audio and encodes it again; give the audio that these units were made from")
    if units:
        rows = list(failures.sift(unit_rows(inputs, models, contract)))
        check_some_good(failures.rows, failures.good)
        figures, about = measure_units(rows, **phones, seed=seed), rows[0].units.contract
    else:
        from textless.units.measure import measure_audio

        corpus, model = Corpus.load(inputs), _tokenizer_or_encoder(models)
        figures, failed = measure_audio(corpus, model, **phones, perturb=perturb, seed=seed, progress=progress)
        failures.rows, failures.good, about = failed, len(corpus) - len(failed), model.contract
    if out:
        write_json(out, {"figures": figures, "contract": about.to_dict()})
    print(table(figures), file=sys.stderr if out == "-" else sys.stdout)
    return failures.finish()


def _speech_quality(
    inputs: list[str], out: str | None, models: Model, reference: str, text: str | None, *, overwrite: bool, progress: Progress, seed: int
) -> int:
    from textless.figures import speech_table
    from textless.recognise import check_recogniser, read_text
    from textless.vocoder.bootstrap import summarise
    from textless.vocoder.quality import check_stoi, check_text, compare_pairs, pair_rows

    if out:
        refuse(out, overwrite)
    if units := [name for name in inputs if holds_units(name)]:
        raise TextlessError(f"{units[0]}: units; --reference compares audio that was made with the original")
    pairs, words, stoi = pair_rows(Corpus.load(inputs), Corpus.load(reference)), None, True
    if text:
        check_recogniser()
        words = read_text(text)
        check_text(pairs, words)
    try:
        check_stoi()
    except TextlessError as e:
        stoi = False
        warnings.warn(f"STOI is left out: {e}", stacklevel=1)
    failures, sentences, tokenizer = Failures(out or "-"), [], models.tokenizer
    for n, sentence in enumerate(compare_pairs(pairs, stoi=stoi, encode=tokenizer.encode_batch, text=words), 1):
        (failures.rows if "error" in sentence else sentences).append(sentence)
        progress(n, len(pairs), "files")
    failures.good = len(sentences)
    check_some_good(failures.rows, failures.good)
    figures = summarise(sentences, seed=seed)
    if out:
        write_json(out, {"figures": figures, "sentences": sentences, "contract": tokenizer.contract.to_dict()})
    print(speech_table(figures), file=sys.stderr if out == "-" else sys.stdout)
    return failures.finish()


def _tokenizer_or_encoder(models: Model) -> Any:
    """An encoder that is given without a codebook stands alone."""
    if models.parts["encoder"] is None or models.parts["codebook"] is not None:
        return models.tokenizer
    from textless.units.encode import load_encoder

    return load_encoder(models.place("encoder"), models.layer, precision=models.precision, device=models.device)
