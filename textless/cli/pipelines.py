"""The commands on pipelines and the store.

Nothing is computed here; nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from textless.checks import Between
from textless.cli.numbers import Number
from textless.cli.progress import Line
from textless.cli.push import Push
from textless.errors import OutputExistsError, PipelineError, StoreError, TextlessError, did_you_mean, how_to_install
from textless.text import duration

if TYPE_CHECKING:
    from textless.engine.pipeline import Pipeline
    from textless.engine.store import Store

EXAMPLES = Annotated[int, Between(0, 1000)]
DAYS = Annotated[float, Between(0, 36_500)]
settings_option = click.option(
    "-s", "settings", multiple=True, metavar="NAME=VALUE", help="Replace a variable, or a field: km2.n_units=200."
)
store_option = click.option(
    "--store",
    type=click.Path(file_okay=False),
    help="Folder of the results.  [default: $TEXTLESS_STORE, ~/.cache/textless]",
)


@dataclass
class Opened:
    """A pipeline and the store that it runs in. `name` is the name or file that the user gave."""

    name: str
    graph: Pipeline
    store: Store

    @classmethod
    def of(cls, name: str, settings: tuple[str, ...], store: str | None) -> Opened:
        from textless.engine.store import Store
        from textless.engine.yaml import load_pipeline
        from textless.steps import STEPS

        file = find_pipeline(name)
        graph = load_pipeline(file, STEPS, settings, find=find_pipeline)
        graph.file = str(file)
        return cls(name, graph, Store(store))


def on_pipeline(f: Callable[..., Any]) -> Callable[..., Any]:
    """A command on FILE|NAME, with the options -s and --store, that passes the opened pipeline to `f`."""

    @functools.wraps(f)
    def command(pipeline: str, settings: tuple[str, ...], store: str | None, **options: Any) -> Any:
        return f(Opened.of(pipeline, settings, store), **options)

    return click.argument("pipeline", metavar="FILE|NAME")(settings_option(store_option(command)))


@click.command()
@on_pipeline
@click.argument("targets", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print what would run, and an estimate of the time from earlier runs.")
@click.option(
    "--on",
    metavar="WORKERS",
    help="Where shards are computed: loky:N, N local processes; dask:ADDRESS, the workers of a scheduler.",
)
@click.option("--tensorboard", is_flag=True, help="Write training curves to STORE/tensorboard.")
@click.option("--table", "figures", is_flag=True, help="Print the metrics of the steps, as `textless table` does.")
@click.option("--report", "page", metavar="FILE", help="Write a report too, as `textless report` does.")
def run(
    opened: Opened,
    targets: tuple[str, ...],
    dry_run: bool,
    on: str | None,
    tensorboard: bool,
    figures: bool,
    page: str | None,
) -> int:
    """Compute what is missing of a pipeline, or of the TARGET steps. Killed at any moment, the same command goes on.

    Training steps run in several processes under torchrun and accelerate launch:
    torchrun --nproc_per_node 2 -m textless run FILE
    """
    from textless.engine.table import tables, text
    from textless.ranks import rank

    if tensorboard and not find_spec("tensorboard"):
        raise TextlessError(f"tensorboard is not installed; {how_to_install('train')}")
    graph, place = opened.graph, opened.store
    place.tensorboard, place.on = tensorboard, on
    if dry_run:
        return _dry_run(graph, place, targets)
    line = Line()
    artefacts = graph.run(place, targets, started=line.start, progress=line)
    line.end()
    failed = graph.failed(place, targets)
    if rank() == 0:
        for name, folder in artefacts.items():
            click.echo(f"{name:12} {folder}")
        if figures:
            click.echo("\n" + text(tables(graph, place, artefacts)))
        if page:
            _report(graph, place, page)
        for name, (rows, file) in failed.items():
            click.echo(f"{name}: {rows} rows failed: {file}", err=True)
    return 1 if failed else 0


def _dry_run(graph: Pipeline, place: Store, targets: tuple[str, ...]) -> int:
    from textless.engine.estimate import estimate

    missing = graph.plan(place, targets)
    seconds = estimate(place, missing)
    names = [graph.name_of(step) for step in missing]
    for name, step, needs in zip(names, missing, seconds, strict=True):
        about = "" if needs is None else f"about {duration(needs)}"
        click.echo(f"{name:{max(map(len, names))}}  {place.name(step):32}  {about}".rstrip())
    total = (
        f", about {duration(sum(s for s in seconds if s is not None))}" if any(s is not None for s in seconds) else ""
    )
    unknown = f" and {seconds.count(None)} steps of unknown length" if total and None in seconds else ""
    click.echo(f"{len(missing)} of {len(graph.steps)} steps would run{total}{unknown}", err=True)
    return 0


@click.command()
@on_pipeline
@click.argument("step")
def why(opened: Opened, step: str) -> None:
    """Print why a step would run: what differs from its last result, down to the cause."""
    from textless.engine.explain import why as explain

    for name in opened.graph.pick([step]):
        for line in explain(opened.graph, opened.store, name):
            click.echo(line)


@click.command()
@on_pipeline
def status(opened: Opened) -> None:
    """Print which steps of a pipeline are done."""
    graph, place = opened.graph, opened.store
    width = max(map(len, graph.steps), default=0)
    for name, step in graph.steps.items():
        state = graph.state(place, name)
        manifest = place.manifest(step) if state == "done" else None
        seconds = f"{duration(manifest['seconds']):>10}  {place.name(step)}" if manifest else ""
        click.echo(f"{name:{width}}  {step.type:14} {state:8} {seconds}".rstrip())
    place.save_hashes()


@click.command()
@on_pipeline
@click.argument("step")
@click.option(
    "--provenance",
    is_flag=True,
    help="Print every step above it, with settings, time and host, and the sources.",
)
def show(opened: Opened, step: str, provenance: bool) -> None:
    """Print the manifest of a step's result: fields, metrics, contract, files."""
    from textless.engine.explain import provenance as tell

    graph, place = opened.graph, opened.store
    for name in graph.pick([step]):
        manifest = place.manifest(graph.steps[name])
        if manifest is None:
            state = "is damaged" if graph.state(place, name) == "damaged" else "has not been made"
            raise PipelineError(f"{name} {state}; `textless run {opened.name} {name}` makes it")
        click.echo(str(place.folder(graph.steps[name])))
        if provenance:
            click.echo("\n".join(tell(place, name, graph.steps[name])))
            continue
        for key in ("fields", "metrics", "contract", "files", "failures", "seconds", "attempts", "versions"):
            value = manifest[key]
            if key == "metrics" and isinstance(value, dict):
                value = {
                    k: v[-1] if isinstance(v, list) and v else v for k, v in value.items()
                }  # the last value of a curve
            if key == "files":
                value = {
                    k: v if isinstance(v, int) else v["size"] for k, v in value.items()
                }  # older manifests have sizes only
            click.echo(f"{key}: {json.dumps(value, indent=1) if isinstance(value, dict) else value}")


@click.command()
@on_pipeline
@click.argument("targets", nargs=-1)
@click.option(
    "--csv", "as_csv", is_flag=True, help="Comma-separated, with every digit, one line for each step and metric."
)
def table(opened: Opened, targets: tuple[str, ...], as_csv: bool) -> None:
    """Print the metrics of a pipeline's steps: one table for each type of step."""
    from textless.engine.table import csv, tables, text

    metrics = tables(opened.graph, opened.store, targets)
    if not metrics:
        raise PipelineError(f"no figures yet; `textless run {opened.name}` makes them")
    click.echo(csv(metrics) if as_csv else text(metrics), nl=not as_csv)


@click.command()
@on_pipeline
@click.option("-o", "--output", "out", required=True, metavar="FILE", help="The page: FILE.html.")
@click.option("--examples", type=Number(EXAMPLES), default=8, show_default=True, help="How many recordings are shown.")
def report(opened: Opened, out: str, examples: int) -> None:
    """Write one HTML page of a pipeline's results: sounds with their units, metrics, training curves, codebooks."""
    _report(opened.graph, opened.store, out, examples)


def _report(graph: Pipeline, place: Store, out: str, examples: int = 8) -> None:
    from textless.engine.step import Source
    from textless.engine.store import check_bytes
    from textless.report import make_report

    try:
        make_report(graph, place, Path(out), examples=examples, title=Path(graph.file).stem)
    except (OutputExistsError, PipelineError, StoreError):
        raise
    except Exception:
        check_bytes(place.folder(s) for s in graph.above(graph.steps) if not isinstance(s, Source) and place.has(s))
        raise
    click.echo(f"{'report':12} {Path(out).resolve()}")


@click.command()
@click.argument("pipeline", metavar="[FILE|NAME]", required=False)
@settings_option
@store_option
def verify(pipeline: str | None, settings: tuple[str, ...], store: str | None) -> int:
    """Read every byte in the store, or of one pipeline's results, and compare it with the hashes that were written."""
    from textless.engine.manifest import Digests, damage
    from textless.engine.shards import shard_damage
    from textless.engine.step import Source
    from textless.engine.store import Store

    if pipeline:
        opened = Opened.of(pipeline, settings, store)
        graph, place = opened.graph, opened.store
        steps = [s for s in graph.above(graph.steps) if not isinstance(s, Source)]
        folders = sorted({place.folder(s) for s in steps if place.folder(s).exists()})
        keys = {key for s in steps for key in (place.manifest(s) or {}).get("shards", ())}
        shards = sorted(p for key in keys if (p := place.root / "shards" / key).is_dir())
    else:
        root = Store(store).root
        folders, shards = (
            sorted(p for p in (root / kind).glob("[!.]*") if p.is_dir()) for kind in ("artefacts", "shards")
        )
    line, digests, bad = Line(), Digests(), [0, 0]
    for n, folder in enumerate([*folders, *shards], 1):
        problems = damage(folder, digests) if n <= len(folders) else shard_damage(folder, digests)
        for text in problems:
            click.echo(text)
        bad[n > len(folders)] += bool(problems)
        line(n, len(folders) + len(shards), "artefacts and shards")
    line.end()
    said = f"{bad[0]} of {len(folders)} artefacts" + (f" and {bad[1]} of {len(shards)} shards" if shards else "")
    click.echo(f"{said} are damaged{'; remove their folders and run again' if any(bad) else ''}", err=True)
    return 1 if any(bad) else 0


@click.command()
@store_option
@click.option(
    "--days", type=Number(DAYS), default=30.0, show_default=True, help="Keep what runs of the last so many days need."
)
@click.option("--yes", is_flag=True, help="Remove it; without this option it is only listed.")
def gc(store: str | None, days: float, yes: bool) -> None:
    """List, or with --yes remove, what no recent run needs: artefacts, unfinished work, shards."""
    from textless.engine.gc import garbage, remove, remove_records
    from textless.engine.store import Store

    root = Store(store).root
    total = count = 0
    for folder, size in garbage(root, days=days):
        if not yes or remove(root, folder, days=days):
            click.echo(f"{size / 1e6:10.1f} MB  {folder}")
            total, count = total + size, count + 1
    if yes:
        remove_records(root, days=days)
    click.echo(
        f"{count} folders, {total / 1e6:.1f} MB{' removed' if yes else '; --yes removes them' if count else ''}",
        err=True,
    )


@click.command(cls=Push)
@click.argument("url")
@on_pipeline
@click.argument("targets", nargs=-1)
def push(opened: Opened, url: str, targets: tuple[str, ...]) -> None:
    """Copy a pipeline's results to a URL: s3://BUCKET/FOLDER, or any other that fsspec reads.

    `textless push DUMP hub:OWNER/NAME` uploads a unit dump to the Hugging Face hub instead, with the options --private,
    --revision BRANCH and --license NAME.
    """
    from textless.engine import remote
    from textless.engine.step import Source

    graph, place = opened.graph, opened.store
    names = [place.name(s) for s in graph.above(targets) if not isinstance(s, Source) and place.has(s)]
    line = Line()
    sent = remote.push(place.root, url, names, line)
    line.end()
    for name in sent:
        click.echo(name)
    click.echo(f"{len(sent)} of {len(names)} artefacts sent, the others are there already", err=True)


@click.command()
@click.argument("url")
@on_pipeline
@click.argument("targets", nargs=-1)
def pull(opened: Opened, url: str, targets: tuple[str, ...]) -> None:
    """Copy what a pipeline lacks from a URL that it was pushed to; `run` then computes the rest."""
    from textless.engine import remote

    graph, place = opened.graph, opened.store
    remotely = remote.existing(url, [place.name(step) for step in graph.plan(place, targets)])
    line = Line()
    brought = remote.pull(url, place.root, graph.wanted(place, targets, remotely), line)
    line.end()
    for name in brought:
        click.echo(name)
    left = len(graph.plan(place, targets))
    click.echo(f"{len(brought)} artefacts copied, {left} steps left for `textless run`", err=True)


COMMANDS = (run, why, status, show, table, report, verify, gc, push, pull)


def find_pipeline(name: str) -> Path:
    """A file, or a recipe of the package by its name. Raises PipelineError that lists these."""
    if Path(name).suffix in (".yaml", ".yml") or os.sep in name:
        if not Path(name).is_file():
            raise PipelineError(f"{name}: no such file")
        return Path(name)
    package = Path(__file__).parent.parent
    folders = (package / "pipelines", package.parent / "pipelines")  # in the wheel; in a clone
    known = {p.stem: p for folder in folders for p in folder.glob("*.yaml")}
    if name not in known:
        raise PipelineError(f"no pipeline {name!r}{did_you_mean(name, known)}")
    return known[name]
