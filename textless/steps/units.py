"""Audio to units: frames, codebooks, labels and pre-training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.engine.step import MapStep, Step, runtime
from textless.errors import AudioError, ModelError, TrainingError
from textless.steps.common import board, finish_units, packed, place, progress
from textless.steps.sources import Corpus

if TYPE_CHECKING:
    from textless.engine.store import Job
    from textless.units.encode import Tokenizer
    from textless.units.types import UnitContract


def _encoder(job: Job, step: Any, contract: UnitContract | None = None) -> Any:
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


@dataclass(frozen=True, kw_only=True)
class Frames(MapStep):
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

    def rows(self, job: Job) -> list:
        return list(self.audio.load())

    def tools(self, job: Job) -> Any:
        from textless.units.projected import ProjectedEncoder

        encoder = _encoder(job, self)
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


def _frames_contract(folder: Path) -> UnitContract:
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
            contract=_frames_contract(job.inputs["frames"]),
        )
        codebook.save(job.path)
        job.metrics = {**metrics, "frames": len(frames)}
        job.contract = codebook.contract.to_dict()


@dataclass(frozen=True, kw_only=True)
class Lda(Step):
    """A projection of frames in which clusters stand apart (`pca`: in which frames vary most). An encoder like any other.

    The clusters are the codebook's, over the frames themselves or over `labelled`, frames of the same places.
    """

    type = "lda"
    version = 2
    frames: Frames
    codebook: KMeans | None = None
    labelled: Frames | None = None
    method: str = "lda"
    dim: int = 40

    def inputs(self) -> dict[str, Step]:
        """With the encoder that made the frames: it becomes part of the result."""
        below = {"encoder": self.frames.encoder} if isinstance(self.frames.encoder, Step) else {}
        return {**super().inputs(), **below}

    def run(self, job: Job) -> None:
        from textless.units.encode import load_encoder
        from textless.units.frames import read_frames, read_pairs
        from textless.units.kmeans import load_codebook
        from textless.units.lda import LdaEncoder, fit_projection
        from textless.units.projected import save_projected

        if self.method == "lda" and self.codebook is None:
            raise TrainingError("lda needs a codebook, whose clusters are to stand apart; give codebook, or method: pca")
        folder, contract = job.inputs["frames"], _frames_contract(job.inputs["frames"])
        if self.codebook is None:
            pieces: Any = ((frames, None) for _, frames in read_frames(folder))
        else:
            codebook = load_codebook(job.inputs["codebook"])
            other = job.inputs["labelled"] if self.labelled else folder
            codebook.contract_for(_frames_contract(other))
            pieces = ((frames, codebook.predict(theirs)) for frames, theirs in read_pairs(folder, other))
        projection = fit_projection(pieces, dim=self.dim, method=self.method)
        if contract.encoder == "context_mfcc":
            LdaEncoder(projection).save(job.path)
        else:
            below = self.frames.encoder if isinstance(self.frames.encoder, str) else place(job, self.frames, "encoder")
            save_projected(job.path, below, projection, layer=contract.layer, context=self.frames.context)
        job.contract = load_encoder(job.path, window=contract.window).contract.to_dict()


@dataclass(frozen=True, kw_only=True)
class Ladder(Step):
    """The ladder, fitted on a random part of a corpus: an encoder that needs no training, and the voice that a HuBERT can hear in."""

    type = "ladder"
    audio: Corpus
    hours: float = 1.5
    n_clusters: int = 500
    dim: int = 40
    rounds: int = 4
    seed: int = 0

    def run(self, job: Job) -> None:
        from textless.corpus import read_some
        from textless.units.ladder import fit_ladder

        rows = read_some(self.audio.load(), seconds=3600 * self.hours, seed=self.seed)
        encoder, job.metrics = fit_ladder(rows, n_clusters=self.n_clusters, dim=self.dim, rounds=self.rounds, seed=self.seed)
        encoder.save(job.path)
        job.contract = encoder.contract.to_dict()


@dataclass(frozen=True, kw_only=True)
class Encode(MapStep):
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

    def rows(self, job: Job) -> list:
        return list(self.audio.load())

    def tools(self, job: Job) -> Tokenizer:
        from textless.units.encode import Tokenizer
        from textless.units.kmeans import load_codebook

        codebook = load_codebook(place(job, self, "codebook"))
        return Tokenizer(_encoder(job, self, codebook.contract), codebook)

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
        contract = codebook.contract_for(_frames_contract(job.inputs["frames"]))
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


@dataclass(frozen=True, kw_only=True)
class Pretrain(Step):
    """A HuBERT from audio and labels. Its weights are rounded to half precision, so that what ships is what the later steps saw."""

    type = "pretrain"
    version = 2
    collective = True
    audio: Corpus
    labels: Step
    preset: str = "tiny"
    steps: int
    batch: int = 8
    crop_seconds: float = 4.0
    lr: float = 1e-3
    mask_prob: float = 0.8
    mask_span: int = 10
    unmasked_weight: float = 0.5
    dropout: float = 0.0
    layer_drop: float = 0.0
    head: str = "linear"
    voice: Ladder | None = None
    start: Step | None = None
    precision: str = "fp32"
    seed: int = 0
    device: str = runtime("cpu")
    micro_batch: int | None = runtime(None)

    def run(self, job: Job) -> None:
        from textless.units.dump import Dump
        from textless.units.encode import save_encoder
        from textless.units.hubert import PRESETS
        from textless.units.hubert_frames import FRAME_RATE, n_frames
        from textless.units.ladder import LadderEncoder
        from textless.units.mfcc import to_rate
        from textless.units.pretrain import pretrain
        from textless.weights import load_model, round_half, to_torch

        if self.preset not in PRESETS:
            raise TrainingError(f"preset {self.preset!r} is unknown; known: {', '.join(PRESETS)}")
        dump = Dump(job.inputs["labels"])
        contract = dump.contract
        if contract.frame_rate is None or contract.n_units is None:
            raise TrainingError("the labels' frame rate or number of units is unknown")
        labels = {row.id: row.units.frames() for row in dump}
        audio = packed(job, self.audio, set(labels))
        model, curve = pretrain(
            audio,
            [
                to_rate(labels[name], rate=contract.frame_rate, target_rate=FRAME_RATE, frames=n_frames(int(samples)))
                for name, samples in zip(audio.ids, audio.lengths, strict=True)
            ],
            n_classes=contract.n_units,
            config=PRESETS[self.preset],
            steps=self.steps,
            folder=job.scratch,
            batch=self.batch,
            crop_seconds=self.crop_seconds,
            lr=self.lr,
            mask_prob=self.mask_prob,
            mask_span=self.mask_span,
            unmasked_weight=self.unmasked_weight,
            dropout=self.dropout,
            layer_drop=self.layer_drop,
            head=self.head,
            voice=LadderEncoder.load(job.inputs["voice"]).voice if self.voice else None,
            start=to_torch(load_model(job.inputs["start"], kind="hubert")[1]) if self.start else None,
            precision=self.precision,
            device=self.device,
            micro_batch=self.micro_batch,
            seed=self.seed,
            log=progress(job, self.steps, board(job, self.type)),
        )
        model.load_state_dict(round_half(model.state_dict()))
        save_encoder(job.path, model)
        hours = self.steps * self.batch * self.crop_seconds / 3600
        job.metrics = {**curve[-1], "audio_hours_seen": round(hours, 2), "curve": curve}
