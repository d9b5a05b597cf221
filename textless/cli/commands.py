"""The commands on models: `encode`, `continue`, `resynth`, `score` and `quality`."""

from __future__ import annotations

import itertools
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from textless.audio.corpus import Corpus, Row
from textless.cli.inputs import StandardInput, holds_units, tokenize_files, unit_rows
from textless.cli.outputs import (
    Failures,
    check_output,
    check_some_good,
    counted,
    deliver_figures,
    deliver_file,
    deliver_folder,
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
from textless.errors import DumpError, TextlessError
from textless.model import Model, continue_rows, is_known, resynth_row, speak_rows, stream_rows
from textless.names import repeated
from textless.types import MeasuringQuantizer, StreamingVocoder, UnitContract
from textless.units.card import SPLIT, Origin, shard_name, split_of
from textless.units.dump import UnitRow, extra_types, read_hints, write_results, write_stream

if TYPE_CHECKING:
    from textless.units.encoders.base import Encoder
    from textless.units.tokenizer import Tokenizer

STREAM = (".jsonl",)


@dataclass
class Request:
    """What every command on models is given.

    Attributes:
        out: a file or folder, `-` for standard output, empty for none.
        contract: a JSON file that declares what the contract of the units leaves unknown.
        follow: models of the set or chain that a stream on standard input names, where the user named none.
        runs: whether unit files that do not say it hold runs, or frames.
    """

    inputs: list[str]
    out: str
    models: Model
    progress: Progress
    contract: str | None = None
    runs: bool | None = None
    overwrite: bool = False
    follow: Callable[[str], Model] | None = None
    stdin: Iterable[str] | None = None

    def read_header(self) -> bool:
        """Follow a stream on standard input to the models of its set or chain, before any is loaded; returns whether it
        holds runs without durations."""
        if "-" not in self.inputs:
            return False
        try:
            first = sys.stdin.readline()
        except (UnicodeDecodeError, OSError) as e:
            raise DumpError(f"standard input: cannot be read as text ({e})") from None
        self.stdin = itertools.chain([first] if first else [], sys.stdin)
        name, runs = read_hints(first)
        if self.follow and name is not None and is_known(name):
            self.models = self.follow(name)
        return runs

    def units(self, failures: Failures, contract: UnitContract, mine: str, *, parts: bool = False) -> Iterator[UnitRow]:
        """Rows of units for a model; audio is encoded, and rows that fail are put aside.

        `parts`: rows that standard input holds in parts are not joined. Raises ContractError for units of another kind.
        """
        checked: set[UnitContract] = set()  # what cannot be compared is said once, not of every row
        rows = unit_rows(
            self.inputs, self.models, self.contract, runs=self.runs, parts=parts, stdin=self.stdin, base=True
        )
        for row in failures.sift(rows):
            if row.units.contract not in checked:
                contract.check(row.units.contract, mine=mine, theirs=row.id)
                checked.add(row.units.contract)
            yield replace(row, units=replace(row.units, contract=contract))


def shard_place(n: int, split: str) -> str:
    return f"data/{shard_name(n, split)}"


def encode(
    request: Request,
    *,
    verbose: bool = False,
    channel: str | None = None,
    license: str | None = None,
    language: str | None = None,
) -> int:
    """Audio → units; returns the exit code. `license` and `language` are of the audio."""
    origin = Origin(license=license, language=language)
    if origin.stated() and (request.out == "-" or is_file(request.out, STREAM)):
        raise TextlessError("a stream does not hold --license and --language; give a folder, which becomes a dump")
    check_output(request.out, STREAM, request.overwrite, folder="parquet")
    with StandardInput(request.inputs) as sources:
        corpus = Corpus.load(sources).with_channel(channel)
        tokenizer = request.models.tokenizer
        watch = _Distances(tokenizer, verbose)
        code = _encode(request, corpus, tokenizer, watch, origin)
        watch.warn()
        return code


def _encode(request: Request, corpus: Corpus, tokenizer: Tokenizer, watch: _Distances, origin: Origin) -> int:
    contract, failures = tokenizer.contract, Failures()
    has_splits = any(row.split for row in corpus)
    rows = failures.sift(_with_split(tokenize_files(corpus, tokenizer, request.progress, watch), has_splits))
    if request.out == "-":
        write_stream(sys.stdout, rows, contract=contract, hints=_hints(request.models))
        return failures.finish()

    key = {
        "command": "encode",
        "contract": contract.to_dict(),
        "precision": tokenizer.precision,
        "corpus": corpus.fingerprint(hash_or_missing),
        **({"splits": True} if has_splits else {}),
        **origin.stated(),
    }
    if is_file(request.out, STREAM):
        return deliver_file(
            request.out, key, lambda path: write_rows(path, rows, contract), request.overwrite, failures
        )
    import pyarrow

    from textless.units.tokenizer import tokenize

    def write_shard(rows: list[Row], path: Path) -> list[dict[str, Any]]:
        results = _with_split(tokenize(rows, tokenizer, watch=watch), has_splits)
        return write_results(path, results, contract=contract, extra={SPLIT: pyarrow.string()} if has_splits else None)

    def fill(job: Job) -> None:
        run_shards(job, list(corpus), write_shard, shard_place, lambda row: split_of(row.split) if has_splits else "")

    failures = Failures(good=len(corpus))
    return deliver_folder(
        request.out,
        key,
        fill,
        request.overwrite,
        request.progress,
        contract=contract,
        failures=failures,
        origin=origin,
    )


def _with_split(results: Iterator[tuple[Any, Any]], has_splits: bool) -> Iterator[tuple[Any, Any]]:
    """The results, whose rows of units have the extra column `split` where the corpus has splits."""
    for row, result in results:
        named = has_splits and isinstance(result, UnitRow)
        yield row, replace(result, extra={**result.extra, SPLIT: row.split}) if named else result


class _Distances:
    """The distance of each file's frames from the codebook, printed when verbose; files too far away are counted."""

    def __init__(self, tokenizer: Tokenizer, verbose: bool) -> None:
        from textless.units.encoders.signal import SIGNAL

        self.quantizer, self.rate, self.verbose = tokenizer.quantizer, tokenizer.encoder.sample_rate, verbose
        # Distances of plain MFCC follow loudness and microphone.
        self.trained = tokenizer.contract.encoder not in SIGNAL
        self.files = 0
        self.far: list[str] = []

    def __call__(self, row: UnitRow, distance: float | None) -> None:
        seconds = (row.samples or 0) / self.rate
        self.files += 1
        text = f"{one_line(row.id)}: {seconds:.2f} s, {len(row.units)} units"
        if distance is not None and isinstance(self.quantizer, MeasuringQuantizer):
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
                f"warning: {len(self.far)} of {self.files} files are far from what the encoder was trained on "
                f"(music, silence, another language or noise?), such as {one_line(self.far[0])}",
                file=sys.stderr,
            )


def continue_units(request: Request, *, stream: bool, **options: Any) -> int:
    """Units (or audio) → units and their continuations; returns the exit code."""
    check_output(request.out, STREAM, request.overwrite, folder="parquet")
    if stream and request.out != "-":
        raise TextlessError(
            "--stream writes units while they are sampled; give -o - and another command that reads them"
        )
    request.read_header()
    failures, lm = Failures(), request.models.lm
    rows = request.units(failures, lm.base_contract, "the language model")
    if request.out == "-":
        continued = counted(continue_rows(lm, rows, parts=stream, **options), request.progress)
        hints = _hints(request.models) | ({} if lm.has_durations else {"runs": True})
        write_stream(sys.stdout, continued, contract=lm.base_contract, hints=hints)
        return failures.finish()
    prompts = list(rows)
    columns = extra_types(prompts)  # of all shards alike
    key = {
        "command": "continue",
        "version": 3,
        "lm": hash_model(request.models.files("lm")),
        "precision": request.models.lm_precision,
        "prompts": hash_rows(prompts),
        "columns": hash_columns(prompts),
        **options,
    }
    if is_file(request.out, STREAM):
        continued = counted(continue_rows(lm, prompts, **options), request.progress)
        return deliver_file(
            request.out, key, lambda path: write_rows(path, continued, lm.base_contract), request.overwrite, failures
        )

    def write_shard(rows: list[UnitRow], path: Path) -> list[dict[str, Any]]:
        continued = ((row, row) for row in continue_rows(lm, rows, **options))
        return write_results(path, continued, contract=lm.base_contract, extra=columns)

    def fill(job: Job) -> None:
        run_shards(job, prompts, write_shard, shard_place)

    return deliver_folder(
        request.out, key, fill, request.overwrite, request.progress, contract=lm.base_contract, failures=failures
    )


def resynth(request: Request, *, stream: bool, **options: Any) -> int:
    """Units (or audio) → speech; returns the exit code."""
    from textless.audio.io import FORMATS, write_audio, write_wav

    check_output(request.out, FORMATS, request.overwrite, folder="wavs")
    if stream and request.out != "-":
        raise TextlessError(
            "--stream speaks while units come; give -o - and a player that reads a wav from standard input"
        )
    # Left out of the key where they are not given, as in versions that did not have them.
    options = {name: value for name, value in options.items() if value is not None or name not in ("style", "level")}
    import textless.vocoder.load  # noqa: F401  # what takes long, while the command before this one starts too

    untimed = request.read_header()
    options["durations"] = options["durations"] or ("predict" if untimed else "given")
    failures, vocoder = Failures(), request.models.vocoder
    if stream and not isinstance(vocoder, StreamingVocoder):
        raise TextlessError("this vocoder speaks whole rows only; leave --stream out, or give a vocoder that streams")
    rows = request.units(failures, vocoder.contract, "the vocoder", parts=stream)
    if request.runs and options["durations"] == "given":
        rows = _timed(rows)
    if request.out == "-":
        spoken = (
            stream_rows(vocoder, rows, **options)
            if stream and isinstance(vocoder, StreamingVocoder)
            else (resynth_row(vocoder, row, **options) for row in rows)
        )
        write_wav(sys.stdout.buffer, spoken, sample_rate=vocoder.sample_rate)
        return failures.finish()
    single = is_file(request.out, FORMATS)
    sequences = list(itertools.islice(rows, 2) if single else rows)
    if single and len(sequences) != 1:
        check_some_good(failures.rows, len(sequences))
        raise TextlessError(f"{request.out}: one file holds one row, but there are more; give a folder")
    key = {
        "command": "resynth",
        "vocoder": hash_model(request.models.files("vocoder")),
        **_precision(request.models),
        "units": hash_rows(sequences),
        **options,
    }
    if single:

        def speak(path: Path) -> None:
            write_audio(path, resynth_row(vocoder, sequences[0], **options), sample_rate=vocoder.sample_rate)

        return deliver_file(request.out, key, speak, request.overwrite, failures)

    def fill(job: Job) -> None:
        for n, _ in enumerate(speak_rows(vocoder, sequences, job.path, **options), 1):
            request.progress(n, len(sequences), "files")

    return deliver_folder(request.out, key, fill, request.overwrite, request.progress, failures=failures)


def _hints(models: Model) -> dict[str, str]:
    """The set or chain that units are of, for the next command. None is named where a part is another's, or where the
    set is a folder, which may be elsewhere."""
    whole = is_known(str(models.name)) and not any(models.parts.values())
    return {"model": str(models.name)} if whole else {}


def _timed(rows: Iterator[UnitRow]) -> Iterator[UnitRow]:
    """Raises DumpError for runs that do not say how long they last."""
    for row in rows:
        if row.units.durations is None and len(row.units):
            raise DumpError(f"{row.id}: how long its runs last is unknown; give --durations predict, or --frames")
        yield row


def _precision(models: Model) -> dict[str, str]:
    """The vocoder's precision for a key. fp32 is left out, as in keys of versions that had no other."""
    from textless.devices import resolve_precision

    precision = resolve_precision(models.precision, models.device)
    return {} if precision == "fp32" else {"precision": precision}


# ------------------------------------------------------------------------------------------------------------ measures


def score(request: Request, *, pairs: str | None, controls: bool, seed: int, by: str | None = None) -> int:
    """Likelihood of units (or audio); returns the exit code."""
    from textless.metrics import lm as scoring

    if request.out:
        check_output(request.out, STREAM, request.overwrite)
    request.read_header()
    failures, lm = Failures(), request.models.lm
    rows = list(request.units(failures, lm.base_contract, "the language model"))
    check_some_good(failures.rows, failures.good)
    if pairs and (name := repeated(row.id for row in rows)) is not None:
        raise TextlessError(f"two rows are called {name!r}; pairs are found by id: give one of them another")
    gold = scoring.read_pairs(pairs, {row.id: row.units for row in rows}) if pairs else []

    def write(file: IO[str] | None) -> str:
        """Scores to a file; returns the metrics, a line each."""
        progress = request.progress
        scores = []
        for n, row in enumerate(scoring.score(lm, rows), 1):
            scores.append(row)
            progress(n, n, "rows")
        nats, tokens = sum(s["nll"] for s in scores), sum(s["units"] + scoring.ends(lm) for s in scores)
        figures: dict[str, Any] = {"rows": len(rows), "nll_per_unit": nats / max(1, tokens)}
        if lm.frame_rate and (frames := sum(row.units.n_frames for row in rows)):
            figures["bits_per_second"] = nats / math.log(2) / (frames / lm.frame_rate)
        if gold:
            figures["pairs"] = scoring.pair_accuracy(lm, gold, seed=seed)
            figures["pairs_per_unit"] = scoring.pair_accuracy(lm, gold, normalise=True, seed=seed)
        if controls:
            figures |= scoring.controls(lm, rows, seed=seed)
        if file:
            file.writelines(json.dumps(s) + "\n" for s in scores)
        groups = ""
        if by:
            from textless.metrics.groups import group_table, score_by_group

            result = score_by_group(lm, rows, by, pairs=pairs, with_controls=controls, seed=seed)
            groups = f"\n\n{group_table(result, scoring.GROUP_METRICS, by)}"
        lines = "\n".join(f"{name:16} {_figure(value)}" for name, value in figures.items())
        return lines + groups

    key = {
        "command": "score",
        "lm": hash_model(request.models.files("lm")),
        "units": hash_rows(rows),
        "controls": controls,
        "seed": seed,
        "pairs": hash_or_missing(pairs) if pairs else None,
        **_by(by),
    }
    return deliver_figures(request, key, write, failures)


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
    request: Request,
    *,
    alignments: str | None,
    items: str | None,
    perturb: bool,
    reference: str | None,
    text: str | None,
    asr: str | None,
    seed: int,
    by: str | None = None,
    **discovery: Any,
) -> int:
    """Metrics of units, of audio through an encoder, or of speech against its reference; returns the exit code."""
    if asr and not text:
        raise TextlessError("--asr makes transcripts; give --text to compare them with, or --continuations")
    if by and (reference is not None or not all(map(holds_units, request.inputs))):
        raise TextlessError("--by groups rows of units; encode the audio first, and give the units")
    if reference is not None:
        if alignments or items or perturb or any(discovery.values()):
            raise TextlessError(
                "--alignments, --items, --fit and --perturb measure units; --reference compares speech; "
                "ask for one or the other"
            )
        return _speech_quality(request, reference, text, asr, seed)
    if text:
        raise TextlessError("--text is what the originals say; give them with --reference")
    from textless.metrics.alignments import read_alignments
    from textless.metrics.items import read_items
    from textless.metrics.labels import labels_content

    if request.out:
        check_output(request.out, (".json",), request.overwrite)
    phones: dict[str, Any] = {
        "alignments": read_alignments(alignments) if alignments else None,
        "items": read_items(items) if items else None,
    }
    units = [name for name in request.inputs if holds_units(name)]
    if units and len(units) < len(request.inputs):
        raise TextlessError("units and audio are not measured alike; give one or the other")
    if units and perturb:
        raise TextlessError(
            "--perturb changes audio and encodes it again; give the audio that these units were made from"
        )
    key: dict[str, Any] = {"command": "quality", "version": 4, "seed": seed, "perturb": perturb}  # as the step's
    phones |= _fitted(request, key, **discovery)
    key |= {
        "alignments": labels_content(alignments, hash_or_missing) if alignments else None,
        "items": hash_or_missing(items) if items else None,
    }
    if units:
        return _unit_quality(request, key, phones, seed, by)
    return _audio_quality(request, key, {**phones, "perturb": perturb}, seed)


def _fitted(
    request: Request, key: dict[str, Any], fit: str | None, fit_alignments: str | None, n_phones: int | None
) -> dict[str, Any]:
    """Options of `measure_units` for units that are mapped to phones; what is given enters the key."""
    from textless.metrics.alignments import read_alignments
    from textless.metrics.labels import labels_content

    if fit_alignments and not fit:
        raise TextlessError("--fit-alignments has the phones of --fit; give both")
    rows = None
    if fit:
        failures = Failures()
        rows = list(failures.sift(unit_rows([fit], request.models, request.contract, runs=request.runs)))
        check_some_good(failures.rows, failures.good)
        key |= {"fit": hash_rows(rows)}
    key |= {"fit_alignments": labels_content(fit_alignments, hash_or_missing)} if fit_alignments else {}
    key |= {"n_phones": n_phones} if n_phones else {}
    others = read_alignments(fit_alignments) if fit_alignments else None
    return {"fit": rows, "fit_alignments": others, "n_phones": n_phones}


def terms(request: Request, segments: str, *, alignments: str | None, words: str | None) -> int:
    """Metrics of discovered terms; returns the exit code."""
    from textless.metrics.alignments import read_alignments
    from textless.metrics.labels import labels_content, read_labels
    from textless.metrics.table import terms_table
    from textless.metrics.term_discovery import read_segments
    from textless.metrics.term_discovery import terms as measure_terms

    if request.out:
        check_output(request.out, (".json",), request.overwrite)
    if request.inputs or not alignments:
        raise TextlessError("--segments are compared with --alignments; give these, and no IN")
    classes, phones = read_segments(segments), read_alignments(alignments)
    lexicon = read_labels(words, "words") if words else None
    if words and lexicon is None:
        raise TextlessError(f"{words}: holds no words with times; give lines of file, onset, offset, word, or a CTM …")

    def write(file: IO[str] | None) -> str:
        figures = measure_terms(classes, phones, lexicon)
        if file:
            write_json(file, {"figures": figures})
        return terms_table(figures)

    key: dict[str, Any] = {"command": "quality of terms", "segments": hash_or_missing(segments)}
    key |= {
        name: labels_content(file, hash_or_missing) for name, file in (("phones", alignments), ("words", words)) if file
    }
    return deliver_figures(request, key, write, Failures(good=len(classes)))


def _unit_quality(request: Request, key: dict[str, Any], phones: dict[str, Any], seed: int, by: str | None) -> int:
    from textless.metrics.groups import group_table, quality_by_group
    from textless.metrics.table import UNITS, table
    from textless.metrics.units import measure_units

    failures = Failures()
    rows = list(failures.sift(unit_rows(request.inputs, request.models, request.contract, runs=request.runs)))
    check_some_good(failures.rows, failures.good)
    contracts = list({row.units.contract: None for row in rows})
    of_groups = {name: phones[name] for name in ("alignments", "items")}
    key |= {"units": hash_rows(rows), "contracts": [contract.to_dict() for contract in contracts], **_by(by)}

    def write(file: IO[str] | None) -> str:
        figures = measure_units(rows, **phones, seed=seed)
        groups = quality_by_group(rows, by, **of_groups, seed=seed) if by else {}
        if file:
            write_json(file, {"figures": figures, "contract": contracts[0].to_dict(), **groups})
        return table(figures) + (f"\n\n{group_table(groups, UNITS, by)}" if by else "")

    return deliver_figures(request, key, write, failures)


def _by(by: str | None) -> dict[str, Any]:
    """`--by` for a key: nothing without it, as in keys of versions that did not have it."""
    return {"by": [by, hash_or_missing(by) if Path(by).is_file() else None]} if by else {}


def _audio_quality(request: Request, key: dict[str, Any], options: dict[str, Any], seed: int) -> int:
    from textless.metrics.table import table
    from textless.metrics.tokenizer import measure_tokenizer

    failures, corpus, model = Failures(), Corpus.load(request.inputs), _tokenizer_or_encoder(request.models)
    key |= {
        "corpus": corpus.fingerprint(hash_or_missing),
        "contract": model.contract.to_dict(),
        "precision": request.models.precision,
    }

    def write(file: IO[str] | None) -> str:
        figures, failures.rows = measure_tokenizer(corpus, model, **options, seed=seed, progress=request.progress)
        failures.good = len(corpus) - len(failures.rows)
        if file:
            write_json(file, {"figures": figures, "contract": model.contract.to_dict()})
        return table(figures)

    return deliver_figures(request, key, write, failures)


def _tokenizer_or_encoder(models: Model) -> Tokenizer | Encoder:
    """The tokenizer, or where an encoder is given without a codebook, that encoder."""
    if models.parts["encoder"] is None or models.parts["codebook"] is not None:
        return models.tokenizer
    if models.smoothing is not None:
        raise TextlessError("--smoothing is of units, and without --codebook frames alone are measured; leave it out")
    from textless.units.encoders.load import load_encoder

    return load_encoder(
        models.place("encoder"), models.layer, tap=models.tap, precision=models.precision, device=models.device
    )


def _speech_quality(request: Request, reference: str, text: str | None, asr: str | None, seed: int) -> int:
    from textless.lm.hf.pretrained import find_folder
    from textless.metrics.asr import load_recogniser, read_text
    from textless.metrics.labels import labels_content
    from textless.metrics.speech import check_stoi, check_text, compare_pairs, pair_rows, summarise
    from textless.metrics.table import speech_table

    if request.out:
        check_output(request.out, (".json",), request.overwrite)
    if units := [name for name in request.inputs if holds_units(name)]:
        raise TextlessError(f"{units[0]}: units; --reference compares audio that was made with the original")
    generated, originals = Corpus.load(request.inputs), Corpus.load(reference)
    pairs, words, hear, stoi = pair_rows(generated, originals), None, None, True
    if text:
        hear = load_recogniser(asr, device=request.models.device)
        words = read_text(text)
        check_text(pairs, words)
    try:
        check_stoi()
    except TextlessError as e:
        stoi = False
        warnings.warn(f"STOI is left out: {e}", stacklevel=1)
    failures, tokenizer = Failures(), request.models.tokenizer

    def write(file: IO[str] | None) -> str:
        sentences: list[dict[str, Any]] = []
        compared = compare_pairs(pairs, stoi=stoi, encode=tokenizer.encode_batch, text=words, asr=hear)
        for n, sentence in enumerate(compared, 1):
            (failures.rows if "error" in sentence else sentences).append(sentence)
            request.progress(n, len(pairs), "files")
        failures.good = len(sentences)
        check_some_good(failures.rows, failures.good)
        figures = summarise(sentences, seed=seed)
        if file:
            about = {"contract": tokenizer.contract.to_dict(), **({"asr": asr} if asr else {})}
            write_json(file, {"figures": figures, "sentences": sentences, **about})
        return speech_table(figures)

    key = {
        "command": "quality of speech",
        "corpora": [corpus.fingerprint(hash_or_missing) for corpus in (generated, originals)],
        "seed": seed,
        "stoi": stoi,
        "text": labels_content(text, hash_or_missing) if text else None,
        **({"asr": hash_model(find_folder(asr, "a recogniser"))} if asr else {}),
        "contract": tokenizer.contract.to_dict(),
        "precision": request.models.precision,
    }
    return deliver_figures(request, key, write, failures)
