"""`textless convert`: unit files of any tool to those of another."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from textless.checks import Between, Count
from textless.cli.numbers import Number
from textless.cli.progress import Line
from textless.errors import DumpError, OutputExistsError, TextlessError

if TYPE_CHECKING:
    from textless.cli.outputs import Failures
    from textless.engine.job import Job
    from textless.units.blocks import Part
    from textless.units.card import Origin

FrameRate = Annotated[float, Between(1e-3, 1e9)]


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option("-o", "--output", "out", required=True, metavar="OUT")
@click.option("--from", "source", metavar="FORMAT", help="Format of IN.  [default: by content]")
@click.option("--to", "target", metavar="FORMAT", help="Format of OUT.  [default: by suffix, a dump without one]")
@click.option("--contract", metavar="FILE", help="JSON with what the units' contract leaves unknown.")
@click.option("--frame-rate", type=Number(FrameRate), metavar="R", help="Frames a second, where IN does not say.")
@click.option("--n-units", type=Number(Count), metavar="K", help="Size of the codebook, where IN does not say.")
@click.option(
    "--runs/--frames",
    default=None,
    help="Whether repetitions were removed, or each unit is one frame, where IN does not say."
    "  [default: what the format usually has]",
)
@click.option(
    "--license", metavar="NAME", help="Licence of the audio, for a dump's card: cc-by-4.0, a name or an address."
)
@click.option("--language", metavar="CODE", help="Language of the audio, for a dump's card: en, or en,fr.")
@click.option("--overwrite", is_flag=True, help="Replace an output that is already there.")
def convert(inputs: tuple[str, ...], out: str, source: str | None, target: str | None, **given: Any) -> int:
    """Convert unit files of other tools, or to them.

    IN is files or folders, or - for standard input; manifests, durations and dictionaries are found next to them. OUT
    is a folder, a file, or - for a stream as `encode -o -` writes. The formats are listed in docs/formats.md.
    """
    overwrite = given.pop("overwrite")
    return run(list(inputs), out, source, target, _Given(**given), overwrite=overwrite)


@dataclass(frozen=True)
class _Given:
    """What is declared of the inputs."""

    contract: str | None = None
    frame_rate: float | None = None
    n_units: int | None = None
    runs: bool | None = None
    license: str | None = None
    language: str | None = None


def run(
    inputs: list[str], out: str, source: str | None, target: str | None, given: _Given, *, overwrite: bool = False
) -> int:
    """Unit files → one unit file or folder; returns the exit code."""
    from textless.cli.inputs import StandardInput, declared_contract
    from textless.cli.outputs import Failures, deliver_file, deliver_folder
    from textless.exchange.formats import format_for, format_named, read_units, write_units
    from textless.units.blocks import Rows, contract_of
    from textless.units.dump import Dump, write_stream
    from textless.units.merges import MergeTable

    if source:
        format_named(source)
    if out == "-" and target not in (None, "jsonl"):
        raise TextlessError("-o - writes the stream of textless (jsonl); give a file or folder for another format")
    chosen = format_for("-" if out == "-" else out.rstrip(os.sep), "jsonl" if out == "-" else target)
    as_folder = _check(out, chosen, overwrite)
    origin = _origin(inputs, chosen.name, given)
    contract = declared_contract(given.contract)
    line, failures = Line(), Failures()
    with StandardInput(inputs) as names:
        read = partial(
            read_units,
            format=source,
            contract=contract,
            frame_rate=given.frame_rate,
            n_units=given.n_units,
            runs=given.runs,
        )

        def rows() -> Rows:
            return Rows(_counted(_together(names, read), failures, line))

        if out == "-":
            waiting = rows().blocks()
            first = list(islice(waiting, 1))
            header = contract_of(first[0]) if first else contract
            write_stream(sys.stdout, chain(first, waiting), contract=header)
            return failures.finish()

        key = {
            "command": "convert",
            "inputs": [_fingerprint(Path(name)) for name in names],
            "from": source,
            "to": chosen.name,
            "contract": contract.to_dict(),
            "frame_rate": given.frame_rate,
            "n_units": given.n_units,
            "runs": given.runs,
            **origin.stated(),
        }
        if not as_folder:
            return deliver_file(out, key, lambda path: write_units(path, rows(), chosen.name), overwrite, failures)

        def fill(job: Job) -> None:
            with _written_folder(job, out) as folder:
                write_units(folder, rows(), chosen.name, **origin.stated())
                if not failures.good:
                    raise TextlessError("nothing to do: the input has no rows")
                if chosen.name == "dump" and (table := MergeTable.of(names[0], Dump(folder).contract)):
                    table.save(folder)

        return deliver_folder(out.rstrip(os.sep), key, fill, overwrite, line, failures=Failures(good=1))


def _origin(inputs: list[str], format: str, given: _Given) -> Origin:
    """Licence and language for the card of a dump: those given, else those that the inputs agree on."""
    from textless.units.card import Origin, origin_of

    origin = Origin(license=given.license, language=given.language)
    if origin.stated() and format != "dump":
        raise TextlessError(f"{format} does not hold --license and --language; only a dump does")
    earlier = {origin_of(Path(name)) for name in inputs} if format == "dump" else set()
    return Origin(**(earlier.pop().stated() | origin.stated())) if len(earlier) == 1 else origin


@contextlib.contextmanager
def _written_folder(job: Job, out: str) -> Iterator[Path]:
    """A folder for the block to write, whose files replace those of the job after it. Errors name `out` instead."""
    folder = job.scratch / "written"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        yield folder
    except TextlessError as e:
        shutil.rmtree(folder, ignore_errors=True)
        raise type(e)(str(e).replace(str(folder), out)) from None
    for old in job.path.iterdir():
        if not old.name.startswith("."):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for part in folder.iterdir():
        part.replace(job.path / part.name)


def _check(out: str, chosen: Any, overwrite: bool) -> bool:
    """Refuse an output for its name or for what is there. Returns whether the format writes a folder to it."""
    from textless.audio.io import AUDIO, MEDIA, OTHER_MEDIA
    from textless.cli.outputs import check_output
    from textless.exchange.formats import FORMATS

    if out == "-":
        return False
    suffix = Path(out).suffix.lower()
    others = {s for f in FORMATS.values() for s in f.suffixes} - {*chosen.suffixes, *chosen.asked}
    if suffix in others or suffix in AUDIO + MEDIA + OTHER_MEDIA:
        raise OutputExistsError(
            f"{out}: {suffix} is not a suffix of {chosen.name} files; give another name, or another --to"
        )
    folder = bool(chosen.folder and suffix not in chosen.suffixes)
    check_output(out, () if folder or not suffix else (suffix,), overwrite, folder=chosen.name if folder else None)
    return folder


def _together(names: list[str], read: Any) -> Iterator[Part]:
    """The rows of all inputs. Where two have one id, those of all inputs have their input's path, from the common
    folder, before them; else they come in blocks."""
    from textless.units.blocks import contract_of

    if twice := next((n for k, n in enumerate(names) if n in names[:k]), None):
        raise DumpError(f"{twice}: is given twice; give it once")
    prefixes = [""] * len(names)
    if len(names) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is said is said when the rows are converted
            clash = _clash(row.id for name in names for row in read(name))
        if clash:
            root = os.path.commonpath([os.path.abspath(os.path.dirname(n) or ".") for n in names])
            paths = [Path(os.path.relpath(n, root)) for n in names]
            short = [p.with_suffix("") for p in paths]
            prefixes = [f"{p.as_posix()}/" for p in (short if len(set(short)) == len(short) else paths)]
    contract = None  # of the first input; an output has one
    for name, prefix in zip(names, prefixes, strict=True):
        last = contract
        for part in read(name) if prefix else read(name).blocks():
            theirs = contract_of(part)
            if contract is None:
                contract = theirs
            elif theirs is not last:
                contract.check(theirs, mine=names[0], theirs=name, together=True)
            last = theirs
            yield replace(part, id=f"{prefix}{part.id}") if prefix else part


def _counted(parts: Iterable[Part], failures: Failures, line: Line) -> Iterator[Part]:
    from textless.units.blocks import n_rows

    for part in parts:
        failures.good += n_rows(part)
        yield part
        line(failures.good, failures.good, "rows")


def _clash(ids: Iterable[str]) -> bool:
    seen: set[str] = set()
    return any(i in seen or seen.add(i) for i in ids)  # type: ignore[func-returns-value]


def _fingerprint(path: Path) -> list[Any]:
    """Name and hash of an input and of what may belong to it. Raises DumpError when it is not there."""
    from textless.audio.corpus import sha256_file
    from textless.exchange.formats import companions, files_of

    if path.is_dir():
        return [path.name, [[p.relative_to(path).as_posix(), sha256_file(p)] for p in files_of(path)]]
    if not path.is_file():
        raise DumpError(f"{path}: no such file or folder")
    return [path.name, sha256_file(path), [[p.name, sha256_file(p)] for p in companions(path)]]
