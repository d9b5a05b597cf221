"""`textless probe`: what labels units, frames or the layers of an encoder hold."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from textless.checks import Count, Seed
from textless.cli.numbers import Number
from textless.cli.progress import Line
from textless.errors import TextlessError

if TYPE_CHECKING:
    from textless.metrics.labelled import Labels, Layers

MOST_LAYERS = 1000


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option("--labels", metavar="FILE", help="Phones, as `quality` reads them, or lines of id, tab, label.")
@click.option("--column", metavar="NAME", help="Instead: speaker, split or an extra column of the units or manifest.")
@click.option("-o", "--output", "out", metavar="FILE", help="Write the figures: FILE.json, or - for standard output.")
@click.option("--encoder", metavar="NAME|PATH", default="tiny-en", show_default=True, help="Of audio.")
@click.option("--layers", metavar="1-4,6", help="Of the encoder, in one pass.  [default: all]")
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(["mfcc", "logmel", "context_mfcc"]),
    help="Of audio: other features, which are probed too, and compared with each layer by CKA and CCA.",
)
@click.option("--speakers", metavar="FILE", help="Lines of id, tab, speaker, where the input does not have them.")
@click.option("--contract", metavar="FILE", help="JSON with what the units' contract leaves unknown.")
@click.option("--max-frames", type=Number(Count), default=10_000, show_default=True, help="A random sample of so many.")
@click.option("--seed", type=Number(Seed), default=0, show_default=True, help="Of the sample, the parts and intervals.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …")
@click.option("--overwrite", is_flag=True, help="Replace an output that is already there.")
def probe(**given: Any) -> int:
    """Measure which labels a linear classifier reads off units, frames or each layer of an encoder; with CKA and CCA.

    IN is unit dumps, a folder of frames (of the step `frames`), or audio, which is encoded. Labels of files (speaker,
    language) are read off the mean of a file's frames, or its shares of units; phones off each frame. Each figure has
    its 95 % interval over files and its chance level.
    """
    return run(**given)


def run(
    inputs: tuple[str, ...], labels: str | None, column: str | None, out: str | None, overwrite: bool, **options: Any
) -> int:
    """Returns the exit code."""
    from textless.cli.outputs import Failures, check_output, deliver_file, write_json
    from textless.metrics.layers import layer_table, probe_layers

    if (labels is None) == (column is None):
        raise TextlessError("a probe needs labels: give --labels FILE or --column NAME, one of the two")
    if out:
        check_output(out, (".json",), overwrite)
    source = _Source(list(inputs), labels, column, options)

    def write(file: IO[str] | None) -> str:
        sample = source.sample()
        others = [name for name in options["against"] if name in sample.layers]
        figures = probe_layers(sample, source.speakers, others=others, seed=options["seed"])
        if file:
            write_json(file, {"figures": figures, "labels": column or labels, **source.about})
        return layer_table(figures)

    def to_file(path: Path) -> str:
        with open(path, "w", encoding="utf-8") as f:
            return write(f)

    failures = Failures()
    if out and out != "-":
        key = {"command": "probe", "column": column, **source.key(), **options, "against": list(options["against"])}
        for option in ("device", "contract"):  # what is declared is in the contract of `about`
            key.pop(option)
        source.failures = failures.rows
        failures.good = 1
        return deliver_file(out, key, to_file, overwrite, failures)
    source.failures, failures.good = failures.rows, 1
    print(write(sys.stdout if out else None), file=sys.stderr if out else sys.stdout)
    return failures.finish()


class _Source:
    """The input, whatever it is: its frames, labels and speakers.

    Attributes:
        speakers: by file. labels: by file. about: its contract, for the output. failures: rows that could not be read.
    """

    def __init__(self, inputs: list[str], labels: str | None, column: str | None, options: dict[str, Any]) -> None:
        from textless.cli.inputs import holds_units
        from textless.metrics.labelled import labels_of, read_any_labels, read_file_labels

        self.inputs, self.file, self.options = inputs, labels, options
        self.failures: list[dict[str, Any]] = []
        self.speakers: dict[str, str | None] = {}
        columns: dict[str, dict[str, Any]] = {}
        folders = [name for name in inputs if Path(name).is_dir() and any(Path(name).rglob("frames.npy"))]
        units = [name for name in inputs if name not in folders and holds_units(name)]
        self.kind = "frames" if folders else "units" if units else "audio"
        if (folders or units) and len(folders or units) < len(inputs):
            raise TextlessError("units, frames and audio are not probed together; give one of them")
        for option, value in (("--layers", options["layers"]), ("--against", options["against"])):
            if value and self.kind != "audio":
                raise TextlessError(f"{option} is of audio, which is encoded; {inputs[0]} holds {self.kind}")
        columns = {"frames": self._open_frames, "units": self._open_units, "audio": self._open_audio}[self.kind]()
        if options["speakers"]:
            self.speakers = dict(read_file_labels(options["speakers"]))
        self.labels: Labels = read_any_labels(labels) if labels else labels_of(columns, str(column))

    def _open_frames(self) -> dict[str, dict[str, Any]]:
        from textless.model_io import read_json
        from textless.types import UnitContract

        contracts: list[UnitContract] = []
        for name in self.inputs:
            about = Path(name) / "frames.json"
            if not about.is_file():
                raise TextlessError(f"{about}: is missing, which says the frame rate; give the folder of a step frames")
            stated = read_json(about)
            if not isinstance(stated.get("contract"), dict) or not isinstance(stated.get("fraction"), int | float):
                raise TextlessError(f"{about}: does not say contract and fraction; give the folder of a step frames")
            if stated["fraction"] < 1 and self.file:
                raise TextlessError(f"{name}: only a share of its frames is kept, at unknown times; make all of them")
            contracts.append(UnitContract.from_dict(stated["contract"]))
            contracts[0].check(contracts[-1], mine=self.inputs[0], theirs=name, together=True)
        self.contract = contracts[0]
        return {}

    def _open_units(self) -> dict[str, dict[str, Any]]:
        from textless.cli.inputs import unit_rows
        from textless.metrics.units import check_rows
        from textless.model import Model

        self.rows = [row for _, row in unit_rows(self.inputs, Model("tiny-en"), self.options["contract"])]
        self.contract = check_rows(self.rows)
        self.speakers = {row.id: row.speaker for row in self.rows}
        return {row.id: {**row.extra, "speaker": row.speaker} for row in self.rows}

    def _open_audio(self) -> dict[str, dict[str, Any]]:
        from textless.audio.corpus import Corpus

        self.corpus = Corpus.load(self.inputs)
        self.speakers = {row.id: row.speaker for row in self.corpus}
        self.encoder, self.chosen = _encoder(self.options)
        self.contract = self.encoder.contract
        return {row.id: {"speaker": row.speaker, "split": row.split} for row in self.corpus}

    @property
    def about(self) -> dict[str, Any]:
        return {"contract": self.contract.to_dict()}

    def key(self) -> dict[str, Any]:
        """What identifies the input and the labels."""
        from textless.cli.outputs import hash_or_missing, hash_rows
        from textless.metrics.labels import labels_content

        content: Any
        if self.kind == "units":
            content = hash_rows(self.rows)
        elif self.kind == "audio":
            content = self.corpus.fingerprint(hash_or_missing)
        else:
            files = (file for name in self.inputs for file in sorted(Path(name).rglob("frames.*")))
            content = [hash_or_missing(str(file)) for file in files]
        speakers = self.options["speakers"]
        return {
            "input": content,
            **self.about,
            "label_file": labels_content(self.file, hash_or_missing) if self.file else None,
            "speaker_file": hash_or_missing(speakers) if speakers else None,
        }

    def sample(self) -> Any:
        from textless.metrics.labelled import collect_labelled

        most, seed = self.options["max_frames"], self.options["seed"]
        rate = self.contract.frame_rate
        if not rate:
            raise TextlessError("the frame rate of these units is unknown; declare it with --contract")
        return collect_labelled(self._files(), self.labels, rate, most=most, seed=seed)

    def _files(self) -> Iterator[tuple[str, Layers]]:
        from textless.units.frames import read_frames

        if self.kind == "frames":
            for name in self.inputs:
                yield from ((i, {"frames": x}) for i, x in read_frames(Path(name)))
        elif self.kind == "units":
            from textless.metrics.labelled import unit_layers

            most = 1 + max((int(row.units.units.max(initial=0)) for row in self.rows), default=0)
            yield from unit_layers(self.rows, self.contract.n_units or most)
        else:
            yield from self._encoded()

    def _encoded(self) -> Iterator[tuple[str, Layers]]:
        from textless.metrics.encoded import encoded_layers
        from textless.units.encoders.load import load_encoder

        rows = [row for row in self.corpus if row.id in self.labels]  # no other is of use
        others = [(name, load_encoder(name)) for name in self.options["against"]]
        line = Line()
        for n, file in enumerate(encoded_layers(rows, self.encoder, self.chosen, others, failures=self.failures), 1):
            yield file
            line(n, len(rows), "files")
        line.end()


def _encoder(options: dict[str, Any]) -> tuple[Any, list[int] | None]:
    """The encoder, up to the last layer that is asked for, and the layers."""
    from textless.metrics.encoded import check_layers
    from textless.model import Model
    from textless.units.encoders.load import load_encoder, resolve_encoder
    from textless.units.encoders.signal import SIGNAL

    layers = parse_layers(options["layers"])
    place = Model(options["encoder"], encoder=options["encoder"], device=options["device"]).place("encoder")
    if str(place) in SIGNAL:
        encoder = load_encoder(place)
    else:
        source, _, normalisation = resolve_encoder(place)  # not the layer that was published as the best
        encoder = load_encoder(
            source, max(layers) if layers else None, normalisation=normalisation, device=options["device"]
        )
    return encoder, check_layers(encoder, layers)


def parse_layers(text: str | None) -> list[int] | None:
    """`1-4,6` → [1, 2, 3, 4, 6]; None for `all` or nothing. Raises TextlessError."""
    if text is None or text == "all":
        return None
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last:
            raise TextlessError(f"--layers is {text[:60]!r}; give numbers from 1 on, such as 1-4,6, or all")
        layers.update(range(first, last + 1))
    return sorted(layers)
