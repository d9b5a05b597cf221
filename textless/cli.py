"""The command line. Nothing is computed here; nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from textless import __version__
from textless.errors import PipelineError, TextlessError, did_you_mean

MODEL = "tiny-en"


def main() -> None:
    """Entry point: exit codes 0 done, 1 some rows failed, 2 nothing done, 130 interrupted."""
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        code = cli(prog_name="textless", standalone_mode=False)
    except click.ClickException as e:
        e.show()
        code = 2
    except TextlessError as e:
        print(f"error: {e}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


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
    click.option("--model", default=MODEL, show_default=True, metavar="NAME|DIR", help="Set of encoder, codebook, LM and vocoder."),
    click.option("--encoder", metavar="NAME|PATH", help="Another encoder: mfcc, a folder, a fairseq .pt, or a published name."),
    click.option("--layer", type=click.IntRange(min=1), help="Its layer, 1-based.  [default: the codebook's]"),
    click.option("--codebook", metavar="NAME|PATH", help="Another codebook: a folder, .npy, scikit-learn's .bin, or a published name."),
    click.option(
        "--precision", type=click.Choice(["fp32", "bf16", "auto"]), default="fp32", show_default=True, help="Encoder's, vocoder's."
    ),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …"),
)
output = click.option("-o", "--output", "out", required=True, metavar="OUT")
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that is already there.")
inputs = click.argument("inputs", nargs=-1, required=True, metavar="IN...")
contract = click.option("--contract", metavar="FILE", help="JSON that declares what the units' contract leaves unknown.")
speech_options = options(
    click.option("--speaker", metavar="NAME", help="A voice by name or index.  [default: the row's own, else the first]"),
    click.option("--durations", type=click.Choice(["given", "predict"]), default="given", show_default=True),
)


@cli.command()
@inputs
@output
@models
@overwrite
def encode(inputs: tuple[str, ...], out: str, overwrite: bool, **parts: Any) -> int:
    """Turn audio into units.

    IN is audio files, folders, globs or manifests, or - for a file on standard input. OUT is a folder (parquet), FILE.jsonl, or - for a
    stream that `continue` and `resynth` read.
    """
    from textless import commands

    return commands.encode(list(inputs), out, commands.Model(parts.pop("model"), **parts), overwrite=overwrite, progress=_progress())


@cli.command("continue")
@inputs
@output
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How much to add.  [default: 3]")
@click.option("--max-new-units", type=click.IntRange(min=1), help="Instead: as many units, or fewer where the model ends.")
@click.option("--prompt-seconds", type=click.FloatRange(min=0, min_open=True), help="Take only the start of each input.  [default: all]")
@click.option("--samples", default=1, show_default=True, type=click.IntRange(min=1), help="Continuations of each input.")
@click.option("--temperature", default=0.7, show_default=True, type=click.FloatRange(min=0), help="0 takes the likeliest unit each time.")
@click.option("--top-k", type=click.IntRange(min=1), help="Draw from the likeliest K only.")
@click.option("--top-p", type=click.FloatRange(0, 1), help="Draw from the likeliest that together have this probability.")
@click.option("--min-p", type=click.FloatRange(0, 1), help="Draw from those with this share of the likeliest's probability.")
@click.option("--repetition-penalty", default=1.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--no-repeat-ngram", type=click.IntRange(min=1), metavar="N", help="Never N units in a row that stood there before.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only-new", is_flag=True, help="Leave the prompt out.")
@click.option("--stream", is_flag=True, help="Write units as they are sampled, row by row, so that `resynth --stream` can follow.")
@models
@click.option("--lm", metavar="PATH", help="Another language model: a folder, or fairseq's .pt with its dict.txt beside it.")
@click.option("--lm-precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True, help="int8 is faster.")
@contract
@overwrite
def continue_(inputs: tuple[str, ...], out: str, overwrite: bool, contract: str | None, **given: Any) -> int:
    """Continue units by the language model.

    IN is unit dumps, FILE.jsonl, - for a stream, or audio, which is encoded first. OUT is a folder (parquet), FILE.jsonl, or -.
    """
    from textless import commands

    if given["seconds"] is None and given["max_new_units"] is None:
        given["seconds"] = 3.0
    parts = {k: given.pop(k) for k in ("model", "encoder", "layer", "codebook", "lm", "device", "precision", "lm_precision")}
    return commands.continue_units(
        list(inputs),
        out,
        commands.Model(parts.pop("model"), **parts),
        contract=contract,
        overwrite=overwrite,
        progress=_progress(),
        **given,
    )


@cli.command()
@inputs
@click.option("-o", "--output", "out", metavar="FILE", help="Write the score of each row: FILE.jsonl, or - for standard output.")
@click.option("--pairs", metavar="FILE", help="Ids that are good and bad: a tsv, csv or jsonl with these two columns.")
@click.option("--controls", is_flag=True, help="Compare each row with itself reversed, shuffled and spliced.")
@click.option("--seed", default=0, show_default=True, help="Of the controls and the intervals.")
@models
@click.option("--lm", metavar="PATH", help="Another language model: a folder, or fairseq's .pt with its dict.txt beside it.")
@contract
@overwrite
def score(inputs: tuple[str, ...], out: str | None, overwrite: bool, contract: str | None, **given: Any) -> int:
    """Say how likely units are to the language model.

    IN is unit dumps, FILE.jsonl, - for a stream, or audio, which is encoded first. Figures over all rows go to standard output (to
    standard error with -o -).
    """
    from textless import commands

    parts = {k: given.pop(k) for k in ("model", "encoder", "layer", "codebook", "lm", "device", "precision")}
    return commands.score(
        list(inputs),
        out,
        commands.Model(parts.pop("model"), **parts),
        contract=contract,
        overwrite=overwrite,
        progress=_progress(),
        **given,
    )


@cli.command()
@inputs
@output
@speech_options
@click.option("--stream", is_flag=True, help="Speak while units come: with -o -.")
@models
@click.option("--vocoder", metavar="PATH", help="Another vocoder: a folder, or a unit HiFi-GAN's .pt with its config.json beside it.")
@contract
@overwrite
def resynth(inputs: tuple[str, ...], out: str, overwrite: bool, contract: str | None, **given: Any) -> int:
    """Speak units.

    IN is unit dumps, FILE.jsonl, - for a stream, or audio, which is encoded first. OUT is a folder of wavs, or for one row FILE.wav
    (flac, ogg, opus), or - for a wav on standard output, one row after the other.
    """
    from textless import commands

    parts = {k: given.pop(k) for k in ("model", "encoder", "layer", "codebook", "vocoder", "device", "precision")}
    if given["speaker"] and given["speaker"].isdigit():
        given["speaker"] = int(given["speaker"])
    return commands.resynth(
        list(inputs),
        out,
        commands.Model(parts.pop("model"), **parts),
        contract=contract,
        overwrite=overwrite,
        progress=_progress(),
        **given,
    )


@cli.command()
@inputs
@click.option("--alignments", metavar="TSV", help="Phones (id, start, end, phone): PNMI, purities and, if speakers are known, ABX.")
@click.option("--items", metavar="FILE", help="Item file of ZeroSpeech for ABX, instead of the alignments' triphones.")
@click.option("--perturb", is_flag=True, help="Of audio: edits between its units and those of the same faster, higher, noisy … (slow).")
@click.option("--reference", metavar="AUDIO", help="IN is speech that was made: compare it with the originals, by id.")
@click.option("--text", metavar="TSV", help="With --reference, what they say (id, tab, words): word error rates, of English.")
@click.option("--json", "out", metavar="FILE", help="Write the figures: FILE.json, or - for standard output.")
@click.option("--seed", default=0, show_default=True, help="Of draws, intervals, shuffled labels and noise.")
@models
@contract
@overwrite
def quality(inputs: tuple[str, ...], out: str | None, overwrite: bool, contract: str | None, **given: Any) -> int:
    """Say what units are worth: their cost, and how well they tell phones apart. Or what speech is worth, beside its reference.

    IN is unit dumps, FILE.jsonl, - for a stream; or audio, which is encoded first, and then frames are measured too. With --encoder and
    no --codebook only frames are. Each figure that compares with phones stands beside its chance level (to standard error with --json -).

    With --reference: spectral distances, pitch, STOI, units after encoding again, and words, with 95 % intervals over files.
    """
    from textless import commands

    parts = {k: given.pop(k) for k in ("model", "encoder", "layer", "codebook", "device", "precision")}
    return commands.quality(
        list(inputs),
        out,
        commands.Model(parts.pop("model"), **parts),
        contract=contract,
        overwrite=overwrite,
        progress=_progress(),
        **given,
    )


# ---------------------------------------------------------------------------------------------------------- pipelines

pipeline_options = options(
    click.argument("pipeline", metavar="FILE|NAME"),
    click.option("-s", "settings", multiple=True, metavar="NAME=VALUE", help="Replace a variable, or a field: km2.n_units=200."),
    click.option(
        "--store", type=click.Path(file_okay=False), help="Where artefacts are kept.  [default: $TEXTLESS_STORE, ~/.cache/textless]"
    ),
)


@cli.command()
@pipeline_options
@click.argument("targets", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Say what would run.")
@click.option("--tensorboard", is_flag=True, help="Write the curves of trainings to STORE/tensorboard.")
def run(pipeline: str, targets: tuple[str, ...], settings: tuple[str, ...], store: str | None, dry_run: bool, tensorboard: bool) -> int:
    """Make what is missing of a pipeline, or of the TARGET steps. Killed at any moment, the same command goes on.

    Trainings run in several processes under torchrun and accelerate launch: torchrun --nproc_per_node 2 -m textless run FILE
    """
    from textless.engine.ranks import rank

    if tensorboard and not find_spec("tensorboard"):
        raise TextlessError("tensorboard is not installed; pip install 'textless[train]'")
    graph, place = _open(pipeline, settings, store)
    place.tensorboard = tensorboard
    if dry_run:
        missing = graph.plan(place, targets)
        for step in missing:
            click.echo(f"{graph.name_of(step):12} {place.name(step)}")
        click.echo(f"{len(missing)} of {len(graph.steps)} steps would run", err=True)
        return 0
    line = _Line()
    made = graph.run(place, targets, started=line.start, progress=line)
    line.end()
    failed = graph.failed(place, targets)
    if rank() == 0:
        for name, folder in made.items():
            click.echo(f"{name:12} {folder}")
        for name, (rows, file) in failed.items():
            click.echo(f"{name}: {rows} rows failed: {file}", err=True)
    return 1 if failed else 0


@cli.command()
@pipeline_options
@click.argument("step")
def why(pipeline: str, step: str, settings: tuple[str, ...], store: str | None) -> None:
    """Say why a step would run: what differs from the last one made, down to the cause."""
    from textless.engine.why import why as explain

    graph, place = _open(pipeline, settings, store)
    for line in explain(graph, place, step):
        click.echo(line)


@cli.command()
@pipeline_options
def status(pipeline: str, settings: tuple[str, ...], store: str | None) -> None:
    """Say what of a pipeline is done."""
    graph, place = _open(pipeline, settings, store)
    for name, step in graph.steps.items():
        state = graph.state(place, name)
        manifest = place.manifest(step) if state == "done" else None
        seconds = f"{manifest['seconds']:8.1f} s  {place.name(step)}" if manifest else ""
        click.echo(f"{name:12} {step.type:14} {state:8} {seconds}".rstrip())
    place.save_hashes()


@cli.command()
@pipeline_options
@click.argument("step")
def show(pipeline: str, step: str, settings: tuple[str, ...], store: str | None) -> None:
    """Print what is known of a step's result: fields, figures, contract, files."""
    graph, place = _open(pipeline, settings, store)
    graph.pick([step])
    manifest = place.manifest(graph.steps[step])
    if manifest is None:
        raise PipelineError(f"{step} has not been made; `textless run {pipeline} {step}` makes it")
    click.echo(str(place.folder(graph.steps[step])))
    for name in ("fields", "metrics", "contract", "files", "failures", "seconds", "attempts", "versions"):
        value = manifest[name]
        if name == "metrics" and isinstance(value, dict):
            value = {k: v[-1] if isinstance(v, list) and v else v for k, v in value.items()}  # of a curve, its end
        click.echo(f"{name}: {json.dumps(value, indent=1) if isinstance(value, dict) else value}")


def _open(pipeline: str, settings: tuple[str, ...], store: str | None) -> Any:
    from textless.engine.store import Store
    from textless.engine.yaml import load_pipeline
    from textless.steps import STEPS

    return load_pipeline(find_pipeline(pipeline), STEPS, settings), Store(store)


def find_pipeline(name: str) -> Path:
    """A file, or a recipe that comes with textless by its name. Raises PipelineError that lists those."""
    if Path(name).suffix in (".yaml", ".yml") or os.sep in name:
        if not Path(name).is_file():
            raise PipelineError(f"{name}: no such file")
        return Path(name)
    here = Path(__file__).parent
    folders = (here / "pipelines", here.parent / "pipelines")  # in the wheel; in a clone
    known = {p.stem: p for folder in folders for p in folder.glob("*.yaml")}
    if name not in known:
        raise PipelineError(f"no pipeline {name!r}{did_you_mean(name, known)}")
    return known[name]


# ----------------------------------------------------------------------------------------------------------- progress


def _progress() -> Callable[[int, int, str], None]:
    return _Line()


class _Line:
    """Progress on standard error: one line that is rewritten on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.last = self.begun = time.monotonic()
        self.label, self.open = "", False

    def start(self, name: str, n: int, total: int) -> None:
        self.end()
        self.label, self.begun = f"[{n}/{total}] {name:12} ", time.monotonic()
        print(self.label, end="" if self.terminal else "\n", file=sys.stderr, flush=True)
        self.open = True

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if now - self.last < (0.1 if self.terminal else 10) and not (self.terminal and done == total):
            return
        self.last = now
        text = f"{self.label}{done}/{total} {what}, {now - self.begun:.0f} s"
        print(f"\r\x1b[K{text[:118]}" if self.terminal else text, end="" if self.terminal else "\n", file=sys.stderr, flush=True)
        self.open = True

    def end(self) -> None:
        if self.terminal and self.open:
            print(file=sys.stderr)
        self.open = False
