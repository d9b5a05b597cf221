"""Audio to units: frames, codebooks and labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.engine.step import Step, runtime
from textless.errors import AudioError, ModelError, TrainingError
from textless.steps.common import AudioMap, finish_units, place
from textless.steps.sources import Corpus

if TYPE_CHECKING:
    from textless.engine.job import Job
    from textless.units.encode import Tokenizer
    from textless.units.types import UnitContract


def encoder_of(job: Job, step: Any, contract: UnitContract | None = None) -> Any:
    from textless.units.encode import SIGNAL, load_encoder

    if step.precision == "auto":
        raise ModelError("precision auto differs from machine to machine; a step names fp32 or bf16")
    if isinstance(step.encoder, str):
        if step.encoder not in SIGNAL:
            raise ModelError(f"encoder {step.encoder!r} is unknown; known: {', '.join(SIGNAL)}, or a $step")
        return load_encoder(step.encoder)
    layer = step.layer or (contract.layer if contract else None)
    window = contract.window if step.window is None and contract else step.window
    return load_encoder(place(job, step, "encoder"), layer, precision=step.precision, window=window, device=step.device)


def tokenizer_of(job: Job, step: Any) -> Tokenizer:
    from textless.units.encode import Tokenizer
    from textless.units.kmeans import load_codebook

    codebook = load_codebook(place(job, step, "codebook"))
    return Tokenizer(encoder_of(job, step, codebook.contract), codebook)


@dataclass(frozen=True, kw_only=True)
class Frames(AudioMap):
    """Encoder outputs on disk; `fraction` keeps a random share of each file's frames, for k-means. `context` joins each with neighbours."""

    type = "frames"
    version = 2
    audio: Corpus
    encoder: str | Step
    layer: int | None = None
    window: float | None = None
    precision: str = "fp32"
    context: int = 0
    fraction: float = 1.0
    seed: int = 0
    device: str = runtime("cpu")
    batch_seconds: float = runtime(60.0)

    def tools(self, job: Job) -> Any:
        from textless.units.projected import ProjectedEncoder

        encoder = encoder_of(job, self)
        return ProjectedEncoder(encoder, context=self.context) if self.context else encoder

    def shard_path(self, n: int) -> str:
        return f"data/{n:05d}"

    def shard(self, tools: Any, rows: list, out: Path) -> list[dict[str, Any]]:
        from textless.units.encode import encode_rows
        from textless.units.frames import thin, write_frames

        failures, frames = [], []
        for row, _, pieces in encode_rows(rows, tools, batch_seconds=self.batch_seconds):
            try:
                if isinstance(pieces, AudioError):
                    raise pieces
                frames.append((row.id, thin(pieces, row.id, fraction=self.fraction, seed=self.seed)))
            except AudioError as e:
                failures.append({"id": row.id, "error": str(e)})
        write_frames(out, frames, dim=tools.dim)
        return failures

    def finish(self, job: Job, tools: Any) -> None:
        job.contract = tools.contract.to_dict()
        (job.path / "frames.json").write_text(json.dumps({"contract": job.contract, "fraction": self.fraction}, indent=1) + "\n")


def frames_contract(folder: Path) -> UnitContract:
    from textless.units.types import UnitContract

    return UnitContract.from_dict(json.loads((folder / "frames.json").read_text())["contract"])


@dataclass(frozen=True, kw_only=True)
class KMeans(Step):
    """A codebook from frames, or from a random sample of them that fits into memory."""

    type = "kmeans"
    version = 2
    frames: Frames
    n_units: int
    algorithm: str = "lloyd"
    init: str = "k-means++"
    transform: str = "none"
    iterations: int | None = None
    restarts: int | None = None
    tolerance: float = 1e-3
    max_frames: int | None = 1_000_000
    seed: int = 0

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
class Encode(AudioMap):
    """Audio to a unit dump in one go; no frames reach the disk. Without `layer` or `window`, the codebook's."""

    type = "encode"
    version = 2
    audio: Corpus
    encoder: str | Step
    codebook: Step
    layer: int | None = None
    window: float | None = None
    precision: str = "fp32"
    device: str = runtime("cpu")
    batch_seconds: float = runtime(60.0)

    def tools(self, job: Job) -> Tokenizer:
        return tokenizer_of(job, self)

    def shard(self, tools: Tokenizer, rows: list, out: Path) -> list[dict[str, Any]]:
        from textless.units.dump import write_results
        from textless.units.encode import tokenize

        return write_results(out, tokenize(rows, tools, batch_seconds=self.batch_seconds), contract=tools.contract)

    def finish(self, job: Job, tools: Tokenizer) -> None:
        finish_units(job, tools.contract)


@dataclass(frozen=True, kw_only=True)
class Assign(Step):
    """Units of frames that are on disk."""

    type = "assign"
    frames: Frames
    codebook: KMeans

    def run(self, job: Job) -> None:
        from textless.units.dump import UnitRow, write_results
        from textless.units.frames import read_frames
        from textless.units.kmeans import load_codebook
        from textless.units.types import Units

        if self.frames.fraction < 1:
            raise TrainingError(f"only {self.frames.fraction:g} of the frames were kept; assign needs them all (fraction: 1)")
        codebook = load_codebook(job.inputs["codebook"])
        contract = codebook.contract_for(frames_contract(job.inputs["frames"]))
        rows = {row.id: row for row in self.frames.audio.load()}
        results = (
            (
                rows[name],
                UnitRow(
                    id=name,
                    units=Units.from_frames(codebook.predict(frames), contract),
                    speaker=rows[name].speaker,
                    source=Path(rows[name].path).name,
                    offset=rows[name].offset,
                    samples=rows[name].samples or 0,
                ),
            )
            for name, frames in read_frames(job.inputs["frames"])
        )
        (job.path / "data").mkdir(exist_ok=True)
        write_results(job.path / "data" / "00000.parquet", results, contract=contract)
        finish_units(job, contract)
