"""What `textless encode`, `continue`, `resynth`, `score` and `quality` do, over files, folders and pipes."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from textless.corpus import Corpus, Row, sha256_file
from textless.engine.job import Job, Progress, remove_temporaries, write_failures
from textless.engine.shards import run_shards
from textless.engine.step import digest
from textless.errors import AudioError, ContractError, OutputExistsError, RowsFailedError, TextlessError
from textless.model import Model, continue_rows, resynth_row, speak_rows, stream_rows
from textless.units.dump import Dump, UnitRow, finish_dump, read_stream, write_results, write_stream
from textless.units.types import UnitContract, Units
from textless.weights import write_text

RECEIPT = ".textless.json"  # in an output folder: the key of the command that made it


def encode(inputs: list[str], out: str, models: Model, *, overwrite: bool, progress: Progress, verbose: bool = False) -> int:
    """Audio → units; returns the exit code."""
    _refuse(out, overwrite)
    with _standard_input(inputs) as sources:
        corpus = Corpus.load(sources)
        tokenizer = models.tokenizer
        watch = _Distances(tokenizer, verbose)
        if _is_stream(out):
            failures = _Failures(out)
            rows = failures.sift(_tokenize(corpus, tokenizer, progress, watch))
            _stream(out, rows, tokenizer.contract)
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
            "corpus": corpus.fingerprint(_hash_or_missing),
        }
        code = _deliver(Path(out), key, make, len(corpus), overwrite, progress, contract=tokenizer.contract)
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
    _refuse(out, overwrite)
    if stream and out != "-":
        raise TextlessError("--stream writes units while they are sampled; give -o - and another command that reads them")
    failures = _Failures(out)
    lm = models.lm
    rows = failures.sift(_unit_rows(inputs, models, contract))
    if _is_stream(out):
        _stream(out, _counted(continue_rows(lm, rows, parts=stream, **options), progress), lm.contract)
        return failures.finish()
    prompts = list(rows)

    def make(job: Job) -> None:
        run_shards(
            job,
            prompts,
            lambda some, path: write_results(path, ((r, r) for r in continue_rows(lm, some, **options)), contract=lm.contract),
            lambda n: f"data/{n:05d}.parquet",
        )

    lm_key = {"lm": _hash_model(models.place("lm")), "precision": models.lm_precision}
    key = {"command": "continue", "version": 2, **lm_key, "prompts": _hash_rows(prompts), **options}
    return _deliver(Path(out), key, make, len(prompts), overwrite, progress, contract=lm.contract, failures=failures)


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

    _refuse(out, overwrite)
    if stream and out != "-":
        raise TextlessError("--stream speaks while units come; give -o - and a player that reads a wav from standard input")
    single = Path(out).suffix.lower() in FORMATS
    failures = _Failures(out)
    vocoder = models.vocoder
    if stream and not hasattr(vocoder, "stream"):
        raise TextlessError("a HiFi-GAN speaks whole rows only; leave --stream out, or give a vocoder that textless trained")
    rows = failures.sift(_unit_rows(inputs, models, contract, parts=stream))
    if out == "-":
        spoken = stream_rows(vocoder, rows, **options) if stream else (resynth_row(vocoder, row, **options) for row in rows)
        write_wav(sys.stdout.buffer, spoken, sample_rate=vocoder.sample_rate)
        return failures.finish()
    if single:
        two = list(itertools.islice(rows, 2))
        if len(two) != 1:
            _check_some_good(failures.rows, len(two))
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
    key = {"command": "resynth", "vocoder": _hash_model(models.place("vocoder")), **precision, "units": _hash_rows(sequences), **options}
    return _deliver(Path(out), key, make, len(sequences), overwrite, progress, failures=failures)


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
        _refuse(out, overwrite)
    failures = _Failures(out or "-")
    lm = models.lm
    rows = []
    for row in failures.sift(_unit_rows(inputs, models, contract)):
        lm.contract.check(row.units.contract, mine="the language model", theirs=row.id)
        rows.append(replace(row, units=Units(row.units.units, row.units.durations, lm.contract)))
    _check_some_good(failures.rows, failures.good)
    gold = scoring.read_pairs(pairs, {row.id: row.units for row in rows}) if pairs else []
    scores = list(_counted(scoring.score(lm, rows), progress))
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
        _refuse(out, overwrite)
    phones: dict[str, Any] = {
        "alignments": read_alignments(alignments) if alignments else None,
        "items": read_items(items) if items else None,
    }
    failures = _Failures(out or "-")
    units = [name for name in inputs if _holds_units(name)]
    if units and len(units) < len(inputs):
        raise TextlessError("units and audio are not measured alike; give one or the other")
    if units and perturb:
        raise TextlessError("--perturb changes audio and encodes it again; give the audio that these units were made from")
    if units:
        rows = list(failures.sift(_unit_rows(inputs, models, contract)))
        _check_some_good(failures.rows, failures.good)
        figures, about = measure_units(rows, **phones, seed=seed), rows[0].units.contract
    else:
        from textless.units.measure import measure_audio

        corpus, model = Corpus.load(inputs), _tokenizer_or_encoder(models)
        figures, failed = measure_audio(corpus, model, **phones, perturb=perturb, seed=seed, progress=progress)
        failures.rows, failures.good, about = failed, len(corpus) - len(failed), model.contract
    if out:
        _write_json(out, {"figures": figures, "contract": about.to_dict()})
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
        _refuse(out, overwrite)
    if units := [name for name in inputs if _holds_units(name)]:
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
    failures, sentences, tokenizer = _Failures(out or "-"), [], models.tokenizer
    for n, sentence in enumerate(compare_pairs(pairs, stoi=stoi, encode=tokenizer.encode_batch, text=words), 1):
        (failures.rows if "error" in sentence else sentences).append(sentence)
        progress(n, len(pairs), "files")
    failures.good = len(sentences)
    _check_some_good(failures.rows, failures.good)
    figures = summarise(sentences, seed=seed)
    if out:
        _write_json(out, {"figures": figures, "sentences": sentences, "contract": tokenizer.contract.to_dict()})
    print(speech_table(figures), file=sys.stderr if out == "-" else sys.stdout)
    return failures.finish()


def _tokenizer_or_encoder(models: Model) -> Any:
    """An encoder that is given without a codebook stands alone."""
    if models.parts["encoder"] is None or models.parts["codebook"] is not None:
        return models.tokenizer
    from textless.units.encode import load_encoder

    return load_encoder(models.place("encoder"), models.layer, precision=models.precision, device=models.device)


# ------------------------------------------------------------------------------------------------------------- inputs


class _standard_input:
    """The inputs, with `-` replaced by a temporary file of what stands on standard input."""

    def __init__(self, inputs: list[str]) -> None:
        self.inputs = inputs

    def __enter__(self) -> list[str]:
        self.folder = tempfile.mkdtemp() if "-" in self.inputs else None
        if self.folder:
            with open(Path(self.folder) / "stdin.wav", "wb") as f:
                shutil.copyfileobj(sys.stdin.buffer, f)
        return [str(Path(self.folder) / "stdin.wav") if i == "-" and self.folder else i for i in self.inputs]

    def __exit__(self, *_: object) -> None:
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def _tokenize(
    rows: Iterable[Row], tokenizer: Any, progress: Progress, watch: Callable[[UnitRow, float], None] = lambda row, distance: None
) -> Iterator[tuple[Any, Any]]:
    from textless.units.encode import tokenize

    rows = list(rows)
    for n, result in enumerate(tokenize(rows, tokenizer, watch=watch), 1):
        yield result
        progress(n, len(rows), "files")


def _unit_rows(inputs: list[str], models: Model, contract: str | None, *, parts: bool = False) -> Iterator[tuple[Any, Any]]:
    """(what it came from, UnitRow or AudioError) of every input: a stream, a dump, or audio, which is encoded on the way.

    `parts`: rows that standard input holds in parts are not joined.
    """
    declared = _declared(contract)
    tokenizer = None
    for name in inputs:
        if name == "-":
            found: Iterable[tuple[Any, Any]] = ((r, r) for r in read_stream(sys.stdin, parts=parts))
        elif (Path(name) / "dump.json").exists():
            found = ((r, r) for r in Dump(Path(name)))
        elif _holds_units(name):
            found = _rows_of_file(Path(name))
        else:
            tokenizer = tokenizer or models.tokenizer
            found = _tokenize(Corpus.load(name), tokenizer, lambda done, total, what: None)
        for source, row in found:
            yield source, _declare(row, declared) if declared and isinstance(row, UnitRow) else row


def _holds_units(name: str) -> bool:
    """A stream or a dump, and not audio."""
    return name == "-" or (Path(name) / "dump.json").exists() or (Path(name).suffix == ".jsonl" and _is_unit_stream(Path(name)))


def _rows_of_file(path: Path) -> Iterator[tuple[UnitRow, UnitRow]]:
    with open(path, encoding="utf-8") as f:
        yield from ((r, r) for r in read_stream(f, name=str(path)))


def _is_unit_stream(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8") as f:
            return '"textless"' in f.readline()
    except (OSError, UnicodeDecodeError) as e:
        raise TextlessError(f"{path}: cannot be read ({e})") from None


def _declared(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        data = json.loads(Path(path).read_text())
    except (OSError, ValueError) as e:
        raise ContractError(f"{path}: not a contract ({e})") from None
    return UnitContract.from_dict(data.get("contract", data)).to_dict()


def _declare(row: UnitRow, declared: dict[str, Any]) -> UnitRow:
    """Fill in what the row's contract does not know."""
    known = {k: v for k, v in row.units.contract.to_dict().items() if v is not None}
    contract = UnitContract.from_dict({**declared, **known})
    return replace(row, units=Units(row.units.units, row.units.durations, contract))


# ------------------------------------------------------------------------------------------------------------ outputs


class _Failures:
    """Rows that failed: sifted out of results, reported, and turned into the exit code."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.rows: list[dict[str, str]] = []
        self.good = 0

    def sift(self, results: Iterable[tuple[Any, Any]]) -> Iterator[UnitRow]:
        for row, result in results:
            if isinstance(result, AudioError):
                self.rows.append({"id": row.id, "error": str(result)})
            else:
                self.good += 1
                yield result

    def finish(self) -> int:
        """0 all done, 1 some failed. The list goes to standard error, and beside a file. Raises AudioError when nothing was done."""
        _check_some_good(self.rows, self.good)
        for row in self.rows:
            print(f"failed: {row['error']}", file=sys.stderr)
        if self.rows and self.out != "-":
            write_failures(Path(f"{self.out}.failures.jsonl"), self.rows)
        return 1 if self.rows else 0


def _check_some_good(failures: list[dict[str, str]], good: int) -> None:
    if not good:
        if not failures:
            raise TextlessError("nothing to do: the input has no rows")
        raise RowsFailedError.of(failures)


def _is_stream(out: str) -> bool:
    return out == "-" or out.endswith(".jsonl")


def _refuse(out: str, overwrite: bool) -> None:
    """A single file that exists is refused before anything is computed."""
    path = Path(out)
    if out != "-" and path.is_file() and not overwrite:
        raise OutputExistsError(f"{out}: exists; give another name or --overwrite")
    if out != "-" and not path.absolute().parent.is_dir():
        raise OutputExistsError(f"{path.absolute().parent}: no such folder to write {path.name} into; make it first")


def _stream(out: str, rows: Iterable[UnitRow], contract: UnitContract) -> None:
    if out == "-":
        write_stream(sys.stdout, rows, contract=contract)
        return
    path = Path(out)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as f:
            n = write_stream(f, rows, contract=contract)
        if n:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_json(out: str, value: Any) -> None:
    text = json.dumps(value, indent=1) + "\n"
    _ = sys.stdout.write(text) if out == "-" else write_text(Path(out), text)


def _counted(rows: Iterable[UnitRow], progress: Progress) -> Iterator[UnitRow]:
    for n, row in enumerate(rows, 1):
        yield row
        progress(n, n, "rows")


def _deliver(
    out: Path,
    request: dict[str, Any],
    make: Callable[[Job], None],
    total: int,
    overwrite: bool,
    progress: Progress,
    *,
    contract: UnitContract | None = None,
    failures: _Failures | None = None,
) -> int:
    """Make a folder under another name and rename it when it is whole.

    The same command goes on with what an earlier one left, or finds the folder done; another command's folder is refused, or with
    `overwrite` replaced once the new one is whole. A folder that no command of ours made is refused in any case.
    """
    key = digest(request)
    work = out.with_name(f"{out.name}.partial")
    for folder, state in ((out, "holds the result of another command"), (work, "was left by another command that did not finish")):
        if folder.exists() and _receipt(folder) is None and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputExistsError(f"{folder}: exists and was not made by textless; give another name")
        if folder.exists() and _receipt(folder) not in (None, key) and not overwrite:
            raise OutputExistsError(f"{folder}: {state}; give another name or --overwrite")
    if work.exists() and _receipt(work) != key:
        shutil.rmtree(work)
    if _receipt(out) == key:
        print(f"{out}: already done", file=sys.stderr)
        return 1 if (out / "failures.jsonl").exists() else 0
    earlier = failures.rows if failures else []
    if not total:
        _check_some_good(earlier, 0)
    work.mkdir(exist_ok=True)
    write_text(work / RECEIPT, json.dumps({"key": key, "command": request["command"]}) + "\n")
    job = Job(work, {}, progress)
    try:
        make(job)
    except RowsFailedError:
        shutil.rmtree(work)
        raise
    except TextlessError:
        if not any(p.is_file() and not p.name.startswith(".") for p in work.rglob("*")):
            shutil.rmtree(work)  # a bad request; there is nothing to go on with
        raise
    failed = earlier + job.failures
    if failed:
        write_failures(work / "failures.jsonl", failed)
        print(f"{len(failed)} of {total + len(earlier)} failed: {out / 'failures.jsonl'}", file=sys.stderr)
    shutil.rmtree(job.scratch)
    remove_temporaries(work, keep=RECEIPT)
    if contract:
        finish_dump(work, contract=contract)
    if out.exists():
        shutil.rmtree(out)
    work.rename(out)
    return 1 if failed else 0


def _receipt(folder: Path) -> str | None:
    try:
        return json.loads((folder / RECEIPT).read_text())["key"]
    except (OSError, ValueError, KeyError):
        return None


def _hash_or_missing(path: str) -> str:
    """A file that is not there fails when its row comes; the others are done."""
    try:
        return sha256_file(path)
    except AudioError:
        return "missing"


def _hash_rows(rows: list[UnitRow]) -> str:
    return digest([[r.id, r.speaker, r.units.units.tolist(), None if (d := r.units.durations) is None else d.tolist()] for r in rows])


def _hash_model(place: str | Path) -> str:
    place = Path(place)
    files = [place] if place.is_file() else [f for f in sorted(place.rglob("*")) if f.is_file()]
    return digest([[f.name, sha256_file(f)] for f in files])
