"""The command line. Nothing is computed here; nothing heavy is imported before a command runs."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from textless import __version__
from textless.checks import Count, NewUnits, Penalty, Probability, PromptLength, Samples, Seed, Share, Temperature
from textless.cli.numbers import Number
from textless.cli.pipelines import COMMANDS
from textless.cli.progress import Clean, Line, one_line
from textless.cli.signals import Terminated, orderly_end
from textless.errors import TextlessError, is_out_of_memory

if TYPE_CHECKING:
    from textless.cli.commands import Request

MODEL = "tiny-en"
# What says which models a command uses; see `textless.model.Model`.
PARTS = ("encoder", "layer", "codebook", "lm", "vocoder", "device", "precision", "lm_precision")


def main() -> None:
    """Entry point: exit codes 0 done, 1 some rows failed, 2 nothing done, 130 interrupted, 143 terminated (SIGTERM), 129 hung up."""
    warnings.showwarning = lambda message, *_: print(f"warning: {one_line(str(message))}", file=sys.stderr)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        Clean(sys.stdout),
        Clean(sys.stderr),
    )  # whatever prints: names and texts of others reach the terminal there
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
        with contextlib.suppress(OSError):  # of a terminal that has gone
            print("terminated; the same command goes on from here", file=sys.stderr, flush=True)
        code = e.code
    except click.ClickException as e:
        e.show()
        code = 2
    except TextlessError as e:
        code = _refuse(str(e))
    except (KeyboardInterrupt, click.Abort) as e:
        if isinstance(e.__cause__, EOFError):  # click takes the end of a file for a user who has gone
            return _refuse(
                f"a file ends before it should ({e.__cause__}); look at what was given, and at the store with `textless verify`"
            )
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as e:  # of a disk, of a file that went meanwhile
        code = _refuse(f"{e.filename or 'the output'}: {e.strerror or e}")
        try:
            sys.stdout.flush()
        except OSError:  # or Python would complain of it once more
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
    """Several decorators as one, first on top."""

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
        "--codebook",
        metavar="NAME|PATH",
        help="Another codebook: a folder, .npy, scikit-learn's .bin, or a published name.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "auto"]),
        default="fp32",
        show_default=True,
        help="Encoder's, vocoder's.",
    ),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …"),
)
output = click.option("-o", "--output", "out", required=True, metavar="OUT")
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that is already there.")
inputs = click.argument("inputs", nargs=-1, required=True, metavar="IN...")
contract = click.option(
    "--contract", metavar="FILE", help="JSON that declares what the units' contract leaves unknown."
)
speech_options = options(
    click.option(
        "--speaker", metavar="NAME", help="A voice by name or index.  [default: the row's own, else the first]"
    ),
    click.option("--durations", type=click.Choice(["given", "predict"]), default="given", show_default=True),
)


def request_of(given: dict[str, Any], *, quiet: bool = False) -> Request:
    """The part of a command's options that every command on models has; it is taken out of them."""
    from textless.cli.commands import Request
    from textless.model import Model

    parts = {name: given.pop(name) for name in PARTS if name in given}
    return Request(
        inputs=list(given.pop("inputs")),
        out=given.pop("out") or "",
        models=Model(given.pop("model"), **parts),
        progress=(lambda done, total, what: None) if quiet else Line(),
        contract=given.pop("contract", None),
        overwrite=given.pop("overwrite"),
    )


@cli.command()
@inputs
@output
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Say of each file how long it is, and how far from what the encoder was trained on.",
)
@models
@overwrite
def encode(verbose: bool, **given: Any) -> int:
    """Turn audio into units.

    IN is audio files, folders, globs or manifests, or - for a file on standard input. OUT is a folder (parquet), FILE.jsonl, or - for a
    stream that `continue` and `resynth` read.
    """
    from textless.cli import commands

    return commands.encode(request_of(given, quiet=verbose), verbose=verbose)


@cli.command("continue")
@inputs
@output
@click.option("--seconds", type=Number(PromptLength), help="How much to add.  [default: 3]")
@click.option("--max-new-units", type=Number(NewUnits), help="Instead: as many units, or fewer where the model ends.")
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
    help="0 takes the likeliest unit each time.",
)
@click.option("--top-k", type=Number(Count), help="Draw from the likeliest K only.")
@click.option("--top-p", type=Number(Share), help="Draw from the likeliest that together have this probability.")
@click.option(
    "--min-p", type=Number(Probability), help="Draw from those with this share of the likeliest's probability."
)
@click.option("--repetition-penalty", default=1.0, show_default=True, type=Number(Penalty))
@click.option(
    "--no-repeat-ngram", type=Number(Count), metavar="N", help="Never N units in a row that stood there before."
)
@click.option("--seed", type=Number(Seed), default=0, show_default=True)
@click.option("--only-new", is_flag=True, help="Leave the prompt out.")
@click.option(
    "--stream", is_flag=True, help="Write units as they are sampled, row by row, so that `resynth --stream` can follow."
)
@models
@click.option(
    "--lm", metavar="PATH", help="Another language model: a folder, or fairseq's .pt with its dict.txt beside it."
)
@click.option(
    "--lm-precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True, help="int8 is faster."
)
@contract
@overwrite
def continue_(**given: Any) -> int:
    """Continue units by the language model.

    IN is unit dumps, FILE.jsonl, - for a stream, or audio, which is encoded first. OUT is a folder (parquet), FILE.jsonl, or -.
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
@click.option("--pairs", metavar="FILE", help="Ids that are good and bad: a tsv, csv or jsonl with these two columns.")
@click.option("--controls", is_flag=True, help="Compare each row with itself reversed, shuffled and spliced.")
@click.option("--seed", type=Number(Seed), default=0, show_default=True, help="Of the controls and the intervals.")
@models
@click.option(
    "--lm", metavar="PATH", help="Another language model: a folder, or fairseq's .pt with its dict.txt beside it."
)
@contract
@overwrite
def score(**given: Any) -> int:
    """Say how likely units are to the language model.

    IN is unit dumps, FILE.jsonl, - for a stream, or audio, which is encoded first. Figures over all rows go to standard output (to
    standard error with -o -).
    """
    from textless.cli import commands

    request = request_of(given)
    return commands.score(request, **given)


@cli.command()
@inputs
@output
@speech_options
@click.option("--stream", is_flag=True, help="Speak while units come: with -o -.")
@models
@click.option(
    "--vocoder",
    metavar="PATH",
    help="Another vocoder: a folder, or a unit HiFi-GAN's .pt with its config.json beside it.",
)
@contract
@overwrite
def resynth(**given: Any) -> int:
    """Speak units.

    IN is unit dumps, FILE.jsonl, - for a stream, or audio, which is encoded first. OUT is a folder of wavs, or for one row FILE.wav
    (flac, ogg, opus), or - for a wav on standard output, one row after the other.
    """
    from textless.cli import commands

    request = request_of(given)
    return commands.resynth(request, **given)


@cli.command()
@inputs
@click.option(
    "--alignments",
    metavar="TSV",
    help="Phones (id, start, end, phone): PNMI, purities and, if speakers are known, ABX.",
)
@click.option("--items", metavar="FILE", help="Item file of ZeroSpeech for ABX, instead of the alignments' triphones.")
@click.option(
    "--perturb",
    is_flag=True,
    help="Of audio: edits between its units and those of the same faster, higher, noisy … (slow).",
)
@click.option("--reference", metavar="AUDIO", help="IN is speech that was made: compare it with the originals, by id.")
@click.option(
    "--text", metavar="TSV", help="With --reference, what they say (id, tab, words): word error rates, of English."
)
@click.option("--json", "out", metavar="FILE", help="Write the figures: FILE.json, or - for standard output.")
@click.option(
    "--seed", type=Number(Seed), default=0, show_default=True, help="Of draws, intervals, shuffled labels and noise."
)
@models
@contract
@overwrite
def quality(**given: Any) -> int:
    """Say what units are worth: their cost, and how well they tell phones apart. Or what speech is worth, beside its reference.

    IN is unit dumps, FILE.jsonl, - for a stream; or audio, which is encoded first, and then frames are measured too. With --encoder and
    no --codebook only frames are. Each figure that compares with phones stands beside its chance level (to standard error with --json -).

    With --reference: spectral distances, pitch, STOI, units after encoding again, and words, with 95 % intervals over files.
    """
    from textless.cli import commands

    request = request_of(given)
    return commands.quality(request, **given)


@cli.command()
@click.argument("name", required=False)
@click.option(
    "-o", "--output", "out", metavar="DIR", help="Folder that a data set goes into.  [default: the working folder]"
)
def fetch(name: str | None, out: str | None) -> None:
    """Fetch public speech, or a published encoder with its codebook. Killed at any moment, the same command goes on.

    NAME is mini_librispeech or kathleen_en, which come as DIR/NAME with the manifest DIR/NAME.tsv, the words DIR/NAME.txt and their part
    of DIR/splits.tsv; or an encoder of docs/encoders.md, which goes into the cache. Without NAME: says which there are.
    """
    from textless.audio.datasets import DATASETS, fetch_dataset
    from textless.errors import did_you_mean
    from textless.units.encoders.zoo import PUBLISHED, fetch_codebook, fetch_encoder

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
        raise TextlessError(f"no data set or encoder {name!r}{did_you_mean(name, known)}; `textless fetch` lists them")
    elif out is not None:
        raise TextlessError(f"{name} is an encoder and goes into the cache (TEXTLESS_CACHE, HF_HOME); leave -o out")
    else:
        click.echo(str(fetch_encoder(name)))
        if PUBLISHED[name].codebook:
            click.echo(str(fetch_codebook(name)))


@cli.command()
def doctor() -> int:
    """Say what is installed and what is wrong with it: the first thing to look at, and to send with a question."""
    from textless.cli.doctor import run

    text, code = run()
    click.echo(text, nl=False)
    return code


for command in COMMANDS:
    cli.add_command(command)
