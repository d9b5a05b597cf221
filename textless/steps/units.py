"""Audio to units: frames, codebooks and labels."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from textless.checks import (
    Between,
    Count,
    Device,
    NotNegative,
    OneOf,
    Positive,
    Precision,
    Seed,
    Share,
    Smoothing,
    Tap,
    check,
    runtime,
)
from textless.engine.step import Step, added, path, takes
from textless.errors import ModelError, TrainingError
from textless.steps.common import AudioMap, Failures, collect, finish_units, place
from textless.steps.sources import Corpus, UnitFile

if TYPE_CHECKING:
    import numpy as np

    from textless.audio.corpus import Row
    from textless.engine.job import Job
    from textless.types import UnitContract
    from textless.units.tokenizer import Tokenizer


FrontEnd = Annotated[str, OneOf("mfcc", "logmel", "context_mfcc")]  # `units.encoders.signal.SIGNAL`


def encoder_of(job: Job, step: Any, contract: UnitContract | None = None) -> Any:
    from textless.units.encoders.load import load_encoder

    if isinstance(step.encoder, str):
        return load_encoder(step.encoder, device=step.device)
    layer = step.layer or (contract.layer if contract else None)
    tap = step.tap or (contract.tapped if contract else None)
    window = contract.window if step.window is None and contract else step.window
    return load_encoder(
        place(job, step, "encoder"), layer, precision=step.precision, window=window, tap=tap, device=step.device
    )


def check_layer(step: Any) -> None:
    """Raise ModelError for an unknown front end or a missing layer, as far as is known without the encoder."""
    if isinstance(step.encoder, str):
        check(step.encoder, FrontEnd, f"{step.type}.encoder")
        if step.layer is not None:
            raise ModelError(
                f"{step.type}.layer is {step.layer}, but the front end {step.encoder} has no layers; leave it out"
            )
        if step.tap is not None:
            raise ModelError(
                f"{step.type}.tap is {step.tap}, but the front end {step.encoder} has no blocks; leave it out"
            )
    if step.layer is None or not hasattr(step.encoder, "layers"):  # only `Pretrain` and `Model` have them
        return
    layers = step.encoder.layers()
    if layers is not None and step.layer > layers:
        raise ModelError(f"{step.type}.layer is {step.layer}, but the encoder has layers 1 to {layers}")


def tokenizer_of(job: Job, step: Any) -> Tokenizer:
    from textless.units.quantizers import load_codebook
    from textless.units.tokenizer import Tokenizer

    codebook = load_codebook(place(job, step, "codebook"), step.layer, tap=step.tap)
    return Tokenizer(encoder_of(job, step, codebook.contract), codebook, smoothing=step.smoothing)


@dataclass(frozen=True, kw_only=True)
class Frames(AudioMap):
    """Encoder outputs on disk.

    `fraction` keeps a random share of each file's frames, for k-means; `context` concatenates each with its neighbours.
    """

    type = "frames"
    gives = ("frames",)
    version = 2
    audio: Corpus
    encoder: str | Step = takes("encoder")
    layer: Count | None = None
    tap: Tap | None = added(None)
    window: NotNegative | None = None
    precision: Precision = "fp32"
    context: Annotated[int, Between(0, 1000)] = 0
    fraction: Share = 1.0
    seed: Seed = 0
    device: Device = runtime("cpu")
    batch_seconds: Positive = runtime(60.0)

    def check(self) -> None:
        check_layer(self)

    def tools(self, job: Job) -> Any:
        from textless.units.encoders.projected import ProjectedEncoder

        encoder = encoder_of(job, self)
        return ProjectedEncoder(encoder, context=self.context) if self.context else encoder

    def shard_path(self, n: int) -> str:
        return f"data/{n:05d}"

    def shard(self, tools: Any, rows: list, out: Path) -> Failures:
        from textless.units.frames import thin, write_frames
        from textless.units.tokenizer import encode_rows

        frames: list[tuple[str, np.ndarray]] = []

        def keep(row: Row, pieces: Iterable[np.ndarray]) -> None:
            frames.append((row.id, thin(pieces, row.id, fraction=self.fraction, seed=self.seed)))

        encoded = encode_rows(rows, tools, batch_seconds=self.batch_seconds)
        failures = collect(((row, pieces) for row, _, pieces in encoded), keep)
        write_frames(out, frames, dim=tools.dim)
        return failures

    def finish(self, job: Job, tools: Any) -> None:
        job.contract = tools.contract.to_dict()
        (job.path / "frames.json").write_text(
            json.dumps({"contract": job.contract, "fraction": self.fraction}, indent=1) + "\n"
        )


def frames_contract(folder: Path) -> UnitContract:
    from textless.types import UnitContract

    return UnitContract.from_dict(json.loads((folder / "frames.json").read_text())["contract"])


@dataclass(frozen=True, kw_only=True)
class KMeans(Step):
    """A codebook from frames, or from a random sample of them that fits into memory."""

    type = "kmeans"
    gives = ("codebook",)
    version = 2
    frames: Frames
    n_units: Annotated[int, Between(1, 2**24)]
    algorithm: Annotated[str, OneOf("lloyd", "minibatch")] = "lloyd"
    init: Annotated[str, OneOf("k-means++", "random")] = "k-means++"
    transform: Annotated[str, OneOf("none", "layer_norm")] = "none"
    iterations: Count | None = None
    restarts: Count | None = None
    tolerance: NotNegative = 1e-3
    max_frames: Count | None = 1_000_000
    seed: Seed = 0

    def check(self) -> None:
        if self.max_frames is not None and self.max_frames < self.n_units:
            raise TrainingError(f"n_units is {self.n_units}, more than max_frames ({self.max_frames}) can make")

    def run(self, job: Job) -> None:
        from textless.units.frames import find_shards, sample_frames
        from textless.units.kmeans import fit_codebook

        frames = sample_frames(find_shards(job.inputs["frames"]), self.max_frames, self.seed)
        codebook, metrics = fit_codebook(
            frames,
            self.n_units,
            algorithm=self.algorithm,
            init=self.init,
            transform=self.transform,
            iterations=self.iterations,
            restarts=self.restarts,
            tolerance=self.tolerance,
            seed=self.seed,
            contract=frames_contract(job.inputs["frames"]),
        )
        codebook.save(job.path)
        job.metrics = {**metrics, "frames": len(frames)}
        job.contract = codebook.contract.to_dict()


@dataclass(frozen=True, kw_only=True)
class Units(Step):
    """A unit file or folder of any tool as a unit dump; what it does not say is declared, as `textless convert` has
    it."""

    type = "units"
    gives = ("units",)
    file: str = path()
    format: str | None = None
    frame_rate: Annotated[float, Between(1e-3, 1e9)] | None = None
    n_units: Count | None = None
    runs: bool | None = None

    def check(self) -> None:
        if self.format is not None:
            from textless.exchange.formats import format_named

            format_named(self.format)

    def inputs(self) -> dict[str, Step]:
        return {**super().inputs(), "file": self._source}

    @functools.cached_property
    def _source(self) -> UnitFile:
        return UnitFile(file=self.file)

    def run(self, job: Job) -> None:
        from textless.exchange.formats import read_units
        from textless.exchange.ours import write_shards
        from textless.units.merges import MergeTable

        rows = read_units(self.file, self.format, frame_rate=self.frame_rate, n_units=self.n_units, runs=self.runs)
        contract = write_shards(job.path, rows.blocks())
        if table := MergeTable.of(self.file, contract):
            table.save(job.path)
        finish_units(job, contract)


@dataclass(frozen=True, kw_only=True)
class Encode(AudioMap):
    """Audio to a unit dump, without frames on disk. `layer`, `window` and `smoothing` default to the codebook's."""

    type = "encode"
    gives = ("units",)
    version = 2
    audio: Corpus
    encoder: str | Step = takes("encoder")
    codebook: Step = takes("codebook")
    layer: Count | None = None
    tap: Tap | None = added(None)
    smoothing: Smoothing | None = added(None)
    window: NotNegative | None = None
    precision: Precision = "fp32"
    device: Device = runtime("cpu")
    batch_seconds: Positive = runtime(60.0)

    def check(self) -> None:
        check_layer(self)

    def tools(self, job: Job) -> Tokenizer:
        return tokenizer_of(job, self)

    def shard(self, tools: Tokenizer, rows: list, out: Path) -> Failures:
        from textless.units.dump import write_results
        from textless.units.tokenizer import tokenize

        return write_results(out, tokenize(rows, tools, batch_seconds=self.batch_seconds), contract=tools.contract)

    def finish(self, job: Job, tools: Tokenizer) -> None:
        finish_units(job, tools.contract, self.audio.origin())


@dataclass(frozen=True, kw_only=True)
class Assign(Step):
    """Frames on disk to a unit dump."""

    type = "assign"
    gives = ("units",)
    frames: Frames
    codebook: Step = takes("codebook")
    smoothing: Smoothing | None = added(None)

    def check(self) -> None:
        if isinstance(self.frames, Frames) and self.frames.fraction < 1:
            raise TrainingError(
                f"only {self.frames.fraction:g} of the frames are kept; assign needs them all (fraction: 1)"
            )

    def run(self, job: Job) -> None:
        from textless.types import Units
        from textless.units.dump import UnitRow, write_results
        from textless.units.frames import read_frames
        from textless.units.quantizers import load_codebook
        from textless.units.smoothing import quantize, smoothing_of

        frames_of = frames_contract(job.inputs["frames"])
        codebook = load_codebook(place(job, self, "codebook"), frames_of.layer, tap=frames_of.tapped)
        smoothing = smoothing_of(codebook, self.smoothing)
        contract = codebook.contract_for(frames_of).with_(smoothing=smoothing)
        rows = {row.id: row for row in self.frames.audio.load()}
        results = (
            (
                rows[name],
                UnitRow(
                    id=name,
                    units=Units.from_frames(quantize(codebook, [frames], smoothing)[0], contract),
                    speaker=rows[name].speaker,
                    source=rows[name].source_name,
                    offset=rows[name].offset,
                    samples=rows[name].samples or 0,
                ),
            )
            for name, frames in read_frames(job.inputs["frames"])
        )
        (job.path / "data").mkdir(exist_ok=True)
        write_results(job.path / "data" / "00000.parquet", results, contract=contract)
        finish_units(job, contract, self.frames.audio.origin())
