"""The command line. Nothing is computed here; nothing heavy is imported before a command runs."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from textless import __version__
from textless.checks import (
    Count,
    NewUnits,
    Penalty,
    Probability,
    PromptLength,
    Samples,
    Seed,
    Share,
    Smoothing,
    Temperature,
)
from textless.cli.convert import convert
from textless.cli.describe import describe
from textless.cli.export import export
from textless.cli.models import models_
from textless.cli.numbers import Number
from textless.cli.pipelines import COMMANDS
from textless.cli.probe import probe
from textless.cli.progress import Clean, Line, one_line
from textless.cli.signals import Terminated, orderly_end
from textless.errors import TextlessError, is_out_of_memory

if TYPE_CHECKING:
    from textless.cli.commands import Request

MODEL = "tiny-en"
# What says which models a command uses; see `textless.model.Model`.
PARTS = (
    "encoder",
    "layer",
    "tap",
    "codebook",
    "smoothing",
    "lm",
    "vocoder",
    "device",
    "precision",
    "lm_precision",
)


def main() -> None:
    """Entry point: exit codes 0 done, 1 some rows failed, 2 nothing done, 130 interrupted, 143 SIGTERM, 129 SIGHUP."""
    warnings.showwarning = lambda message, *_: print(f"warning: {one_line(str(message))}", file=sys.stderr)
    streams = sys.stdout, sys.stderr
    # Also for what libraries print: file names and ids are untrusted.
    sys.stdout, sys.stderr = Clean(sys.stdout), Clean(sys.stderr)
    try:
        code = _run()
    finally:
        sys.stdout, sys.stderr = streams
    sys.exit(code)


def _run() -> int:
    try:
        with orderly_end():
            code = cli(prog_name="textless", standalone_mode=False)
            sys.stdout.flush()
    except Terminated as e:
        with contextlib.suppress(OSError):  # the terminal may be closed
            print("terminated; the same command goes on from here", file=sys.stderr, flush=True)
        code = e.code
    except click.ClickException as e:
        e.show()
        code = 2
    except TextlessError as e:
        code = _refuse(str(e))
    except (KeyboardInterrupt, click.Abort) as e:
        if isinstance(e.__cause__, EOFError):  # click turns any EOFError into Abort
            return _refuse(
                f"a file is cut short ({e.__cause__}); check the inputs, and the store with `textless verify`"
            )
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader has closed the pipe; without this Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as e:  # a full disk, a file that was removed meanwhile
        code = _refuse(f"{e.filename or 'the output'}: {e.strerror or e}")
        try:
            sys.stdout.flush()
        except OSError:  # or Python complains again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (MemoryError, RuntimeError) as e:
        if not is_out_of_memory(e):
            raise
        code = _refuse("more memory is needed than is free; give less at a time, or close other programs")
    return code


def _refuse(reason: str) -> int:
    print(f"error: {one_line(reason)}", file=sys.stderr)
    return 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="textless")
def cli() -> None:
    """Speech to discrete units, units continued by a language model, and units to speech again."""


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several decorators as one; the first is the outermost."""

    def apply(f: Any) -> Any:
        for decorator in reversed(decorators):
            f = decorator(f)
        return f

    return apply


models = options(
    click.option(
        "--model",
        default=MODEL,
        show_default=True,
        metavar="NAME|DIR",
        help="Set of encoder, codebook, LM and vocoder.",
    ),
    click.option(
        "--encoder", metavar="NAME|PATH", help="Another encoder: mfcc, a folder, a fairseq .pt, or a published name."
    ),
    click.option("--layer", type=Number(Count), help="Its layer, 1-based.  [default: the codebook's]"),
    click.option(
        "--tap",
        type=click.Choice(["block", "ffn"]),
        help="Of that layer, the block's output or its feed-forward's.  [default: the codebook's]",
    ),
    click.option(
        "--codebook",
        metavar="NAME|PATH",
        help="Another codebook: a folder, a file of any tool (.npy, .bin, .index, …), or a published name.",
    ),
    click.option(
        "--smoothing",
        type=Number(Smoothing),
        metavar="PRICE",
        help="Of audio: the price of a change of the unit, 0.2: a fifth fewer units.  [default: the set's, or 0]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "auto"]),
        default="fp32",
        show_default=True,
        help="Of encoder and vocoder.",
    ),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …"),
)
lm_option = click.option(
    "--lm",
    metavar="NAME|PATH",
    help="Another language model: a published name, a folder, or fairseq's .pt with its dict.txt in the same folder.",
)
output = click.option("-o", "--output", "out", required=True, metavar="OUT")
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that is already there.")
inputs = click.argument("inputs", nargs=-1, required=True, metavar="IN...")
declared = options(
    click.option("--contract", metavar="FILE", help="JSON with what the units' contract leaves unknown."),
    click.option(
        "--runs/--frames",
        default=None,
        help="Of unit files that do not say it: repetitions were removed, or each unit is one frame.",
    ),
)
origin = options(
    click.option(
        "--license", metavar="NAME", help="Licence of the audio, for the dump's card: cc-by-4.0, a name or an address."
    ),
    click.option("--language", metavar="CODE", help="Language of the audio, for the dump's card: en, or en,fr."),
)
speech_options = options(
    click.option(
        "--speaker", metavar="NAME", help="Speaker, by name or index.  [default: the row's own, else the first]"
    ),
    click.option(
        "--style", metavar="NAME", help="Style, by name or index, of a vocoder that has some.  [default: the first]"
    ),
    click.option(
        "--durations",
        type=click.Choice(["given", "predict"]),
        help="[default: given, and predict for a stream of runs that has none]",
    ),
    click.option(
        "--level",
        type=click.Choice(["raw", "peak"]),
        help="raw: as the network speaks; peak: each row divided by its largest sample.  [default: the vocoder's own]",
    ),
)


def request_of(given: dict[str, Any], *, quiet: bool = False) -> Request:
    """Remove from a command's options those that all commands on models have, and return them as a request."""
    from textless.cli.commands import Request
    from textless.model import Model

    parts = {name: given.pop(name) for name in PARTS if name in given}
    named = click.get_current_context().get_parameter_source("model") is not click.core.ParameterSource.DEFAULT
    return Request(
        inputs=list(given.pop("inputs")),
        out=given.pop("out") or "",
        models=Model(given.pop("model"), **parts),
        progress=(lambda done, total, what: None) if quiet else Line(),
        contract=given.pop("contract", None),
        runs=given.pop("runs", None),
        overwrite=given.pop("overwrite"),
        follow=None if named else partial(Model, **parts),
    )


@cli.command()
@inputs
@output
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Print the length of each file, and its distance from the encoder's training data.",
)
@click.option(
    "--channel",
    metavar="CHANNEL",
    help="left, right, a number from 0, or each: a row for each channel.  [default: mix, their mean]",
)
@origin
@models
@overwrite
def encode(verbose: bool, channel: str | None, license: str | None, language: str | None, **given: Any) -> int:
    """Turn audio into units.

    IN is audio files, folders, globs or manifests, or - for a file on standard input. OUT is a folder (parquet),
    FILE.jsonl, or - for a stream that `continue` and `resynth` read.
    """
    from textless.cli import commands

    request = request_of(given, quiet=verbose)
    return commands.encode(request, verbose=verbose, channel=channel, license=license, language=language)


@cli.command("continue")
@inputs
@output
@click.option("--seconds", type=Number(PromptLength), help="Length to add.  [default: 3]")
@click.option(
    "--max-new-units", type=Number(NewUnits), help="Instead of a length: so many units, or fewer if the model ends."
)
@click.option(
    "--prompt-seconds",
    type=Number(PromptLength),
    help="Take only the start of each input.  [default: all]",
)
@click.option("--samples", default=1, show_default=True, type=Number(Samples), help="Continuations of each input.")
@click.option(
    "--temperature",
    default=0.8,
    show_default=True,
    type=Number(Temperature),
    help="0 always takes the likeliest unit.",
)
@click.option("--top-k", type=Number(Count), help="Sample from the K likeliest units only.")
@click.option(
    "--top-p", type=Number(Share), help="Sample from the likeliest units that have this probability in total."
)
@click.option(
    "--min-p",
    type=Number(Probability),
    help="Sample from units with at least this share of the likeliest one's probability.",
)
@click.option("--repetition-penalty", default=1.0, show_default=True, type=Number(Penalty))
@click.option("--no-repeat-ngram", type=Number(Count), metavar="N", help="Never repeat N units in a row.")
@click.option("--seed", type=Number(Seed), default=0, show_default=True)
@click.option("--only-new", is_flag=True, help="Leave the prompt out.")
@click.option("--stream", is_flag=True, help="Write units as they are sampled, for `resynth --stream`.")
@models
@lm_option
@click.option(
    "--lm-precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True, help="int8 is faster."
)
@declared
@overwrite
def continue_(**given: Any) -> int:
    """Continue units with the language model.

    IN is unit dumps, FILE.jsonl, - for a stream, or audio, which is encoded first. OUT is a folder (parquet),
    FILE.jsonl, or -.
    """
    from textless.cli import commands

    if given["seconds"] is None and given["max_new_units"] is None:
        given["seconds"] = 3.0
    request = request_of(given)
    return commands.continue_units(request, **given)


@cli.command()
@inputs
@click.option(
    "-o", "--output", "out", metavar="FILE", help="Write the score of each row: FILE.jsonl, or - for standard output."
)
@click.option("--pairs", metavar="FILE", help="Pairs of ids: a tsv, csv or jsonl with the columns good and bad.")
@click.option("--by", metavar="NAME|FILE", help="Also for each speaker, value of a column, or group of a tsv.")
@click.option("--controls", is_flag=True, help="Compare each row with its reversed, shuffled and spliced form.")
@click.option("--seed", type=Number(Seed), default=0, show_default=True, help="Of controls and confidence intervals.")
@models
@lm_option
@declared
@overwrite
def score(**given: Any) -> int:
    """Compute the likelihood of units under the language model.

    IN is unit dumps, FILE.jsonl, - for a stream, or audio, which is encoded first. Metrics over all rows are printed to
    standard output (to standard error with -o -).
    """
    from textless.cli import commands

    request = request_of(given)
    return commands.score(request, **given)


@cli.command()
@inputs
@output
@speech_options
@click.option("--stream", is_flag=True, help="Write audio while units arrive; with -o -.")
@models
@click.option(
    "--vocoder",
    metavar="NAME|PATH",
    help="Another vocoder: a published name, a folder (ours, unit-hifigan's), or a unit HiFi-GAN's .pt with its "
    "config.json next to it.",
)
@declared
@overwrite
def resynth(**given: Any) -> int:
    """Synthesise speech from units; a stream of a published chain is spoken by that chain's vocoder.

    IN is unit dumps, FILE.jsonl, - for a stream, or audio, which is encoded first. OUT is a folder of wavs, or for one
    row FILE.wav (flac, ogg, opus), or - for a wav on standard output, one row after the other. A speaker or style that
    the vocoder does not have is answered with those that it has.
    """
    from textless.cli import commands

    request = request_of(given)
    return commands.resynth(request, **given)


@cli.command()
@click.argument("inputs", nargs=-1, metavar="IN...")
@click.option(
    "--alignments",
    metavar="FILE",
    help="Phones (id, start, end, phone; TextGrid, CTM, TIMIT …): PNMI, purities and, if speakers are known, ABX.",
)
@click.option("--fit", metavar="DUMP", help="Units of other files: fit the mapping of units to phones there, for PER.")
@click.option("--fit-alignments", metavar="FILE", help="Phones of --fit.  [default: those in --alignments]")
@click.option("--n-phones", type=Number(Count), help="Phones of the language and silence, for one-to-one mapping.")
@click.option("--segments", metavar="FILE", help="Instead of IN, discovered terms (Class N; file onset offset).")
@click.option("--words", metavar="FILE", help="With --segments, words with times: token, type and boundary scores.")
@click.option("--items", metavar="FILE", help="Item file of ZeroSpeech for ABX, instead of the alignments' triphones.")
@click.option(
    "--perturb",
    is_flag=True,
    help="Of audio: edit distance between its units and those of changed speed, pitch, noise … (slow).",
)
@click.option("--by", metavar="NAME|FILE", help="Of units: also for each speaker, value of a column or group of a tsv.")
@click.option("--reference", metavar="AUDIO", help="IN is synthesised speech: compare it with these originals, by id.")
@click.option(
    "--text",
    metavar="FILE",
    help="With --reference, the transcripts (id, tab, words; or TextGrid, CTM …): word error rates, in English.",
)
@click.option(
    "--continuations",
    is_flag=True,
    help="IN is samples of a language model, as wavs, units or transcripts: diversity of what they say.",
)
@click.option(
    "--asr",
    metavar="FOLDER",
    help="With --text or --continuations, a CTC recogniser of transformers.  [default: PocketSphinx, English]",
)
@click.option(
    "--judge",
    metavar="FOLDER",
    help="With --continuations, a text language model of transformers: perplexity of the transcripts.",
)
@click.option("--json", "out", metavar="FILE", help="Write the metrics: FILE.json, or - for standard output.")
@click.option(
    "--seed",
    type=Number(Seed),
    default=0,
    show_default=True,
    help="Of sampling, confidence intervals, shuffled labels and noise.",
)
@models
@declared
@overwrite
def quality(continuations: bool, judge: str | None, **given: Any) -> int:
    """Measure units: bit rates, and how well they separate phones. Or measure synthesised speech against its reference.

    IN is unit dumps, FILE.jsonl, - for a stream; or audio, which is encoded first, and then its frames are measured
    too. With --encoder and no --codebook only frames are measured. Metrics that compare with phones are printed with
    their chance level (to standard error with --json -).

    With --reference: spectral distances, pitch, STOI, units of the speech encoded again, and words, with 95 % intervals
    over files.

    With --continuations: self-BLEU, auto-BLEU and VERT of transcripts as GSLM's script has them, and perplexity, with
    95 % intervals over prompts. Of units the prompt is left out, and the vocoder speaks the rest; transcripts are
    FILE.txt (id, tab, words) or FILE.jsonl (id, text). Samples of a prompt are called ID-0, ID-1 ….

    With --segments: edit distance and coverage of discovered terms, and with --words their tokens, types, boundaries.
    """
    from textless.cli import commands
    from textless.cli.continuations import measure

    request = request_of(given)
    segments, words = given.pop("segments"), given.pop("words")
    if segments:
        others = {**given, "continuations": continuations, "judge": judge}
        if used := [name for name, value in others.items() if value and name != "alignments"]:
            raise TextlessError(f"--{used[0].replace('_', '-')} does not go with --segments; leave it out")
        return commands.terms(request, segments, alignments=given["alignments"], words=words)
    if words:
        raise TextlessError("--words are compared with --segments; give these too")
    if not request.inputs:
        raise click.UsageError("Missing argument 'IN...'.")
    if continuations:
        return measure(request, judge=judge, **given)
    if judge:
        raise TextlessError("--judge reads transcripts of continuations; give --continuations")
    return commands.quality(request, **given)


@cli.command()
@click.argument("name", required=False)
@click.option("-o", "--output", "out", metavar="DIR", help="Folder for a data set.  [default: the working folder]")
def fetch(name: str | None, out: str | None) -> None:
    """Fetch public speech, or all parts of a published model. Killed at any moment, the same command goes on.

    NAME is mini_librispeech or kathleen_en, written to DIR/NAME with the manifest DIR/NAME.tsv, the transcripts
    DIR/NAME.txt and their part of DIR/splits.tsv; or a model of `textless models`, which goes into the cache. Without
    NAME: lists the names.
    """
    from textless.audio.datasets import DATASETS, fetch_dataset
    from textless.errors import did_you_mean
    from textless.zoo import PUBLISHED, fetch_part

    if name is None:
        click.echo("\n".join([*DATASETS, *PUBLISHED]))
    elif name in DATASETS:
        line = Line()
        manifest, new = fetch_dataset(name, out or ".", progress=line)
        line.end()
        click.echo(f"{name}: {DATASETS[name].about if new else 'already there'}", err=True)
        click.echo(str(manifest))
    elif name not in PUBLISHED:
        known = [*DATASETS, *PUBLISHED]
        raise TextlessError(f"no data set or model {name!r}{did_you_mean(name, known)}; `textless fetch` lists them")
    elif out is not None:
        raise TextlessError(f"{name} is a model and goes into the cache (TEXTLESS_CACHE, HF_HOME); leave -o out")
    else:
        for part in PUBLISHED[name].parts:
            click.echo(str(fetch_part(name, part)))


@cli.command()
def doctor() -> int:
    """Check the installation: versions, what is usable, and problems with their remedies.

    Send its output with a question.
    """
    from textless.cli.doctor import run

    text, code = run()
    click.echo(text, nl=False)
    return code


@cli.command()
@click.argument("name", metavar="NAME")
@click.argument("folder", metavar="DIR")
@click.option("-o", "--output", "out", metavar="OUT", help="OUT.json; or a folder, with submission files; - for JSON.")
@click.option("--split", default="dev", show_default=True, metavar="NAME", help="Of a benchmark that has splits.")
@click.option("--units", metavar="DUMP", help="Units of all its recordings.  [default: DIR is encoded, once]")
@click.option(
    "--scores",
    metavar="FILE|DIR",
    help="Scores of another tool instead of a model: lines NAME SCORE, or csv; of ssimi a submission's folder.",
)
@click.option(
    "--seed", type=Number(Seed), default=0, show_default=True, help="Of confidence intervals, and of what abx draws."
)
@models
@lm_option
@declared
@overwrite
def benchmark(
    name: str, folder: str, split: str, units: str | None, scores: str | None, seed: int, **given: Any
) -> int:
    """Run a benchmark of the field on a model, or on the scores of another tool.

    NAME is swuggy, sblimp, tstorycloze, sstorycloze, salmon or prosaudit, which score units with a language model; or
    ssimi or abx, which measure frames of an encoder (abx with --units these). DIR is the benchmark's folder as it is
    published; docs/benchmarks-of-the-field.md says where to get it, and by which rule it is scored.
    """
    from textless.cli.benchmark import run

    request = request_of({"inputs": (folder,), **given})
    return run(request, name, folder, split=split, units=units, scores=scores, seed=seed)


for command in (convert, describe, export, models_, probe, *COMMANDS):
    cli.add_command(command)
