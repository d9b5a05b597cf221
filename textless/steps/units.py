"""Audio to units: frames, codebooks, labels, pre-training, and what units are worth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.engine.step import MapStep, Step, runtime
from textless.errors import AudioError, ContractError, ModelError, TrainingError
from textless.steps.common import finish_units, packed, place, progress
from textless.steps.sources import Alignments, Corpus

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
    """Encoder outputs on disk; `fraction` keeps a random share of each file's frames, for k-means."""

    type = "frames"
    version = 2
    audio: Corpus
    encoder: str | Step
    layer: int | None = None
    window: float | None = None
    precision: str = "fp32"
    fraction: float = 1.0
    seed: int = 0
    device: str = runtime("cpu")
    batch_seconds: float = runtime(60.0)

    def rows(self, job: Job) -> list:
        return list(self.audio.load())

    def tools(self, job: Job) -> Any:
        return _encoder(job, self)

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
    """A codebook from frames."""

    type = "kmeans"
    frames: Frames
    n_units: int
    transform: str = "none"
    iterations: int = 50
    restarts: int = 1
    seed: int = 0

    def run(self, job: Job) -> None:
        from textless.units.frames import gather_frames
        from textless.units.kmeans import fit_codebook

        codebook, job.metrics = fit_codebook(
            gather_frames(job.inputs["frames"]),
            self.n_units,
            transform=self.transform,
            iterations=self.iterations,
            restarts=self.restarts,
            seed=self.seed,
            contract=_frames_contract(job.inputs["frames"]),
        )
        codebook.save(job.path)
        job.contract = codebook.contract.to_dict()


@dataclass(frozen=True, kw_only=True)
class Lda(Step):
    """The ladder: a projection of `context_mfcc` frames in which their clusters stand apart. An encoder like any other."""

    type = "lda"
    frames: Frames
    codebook: KMeans
    dim: int = 40

    def run(self, job: Job) -> None:
        from textless.units.frames import gather_frames
        from textless.units.kmeans import load_codebook
        from textless.units.lda import fit_lda

        if (name := _frames_contract(job.inputs["frames"]).encoder) != "context_mfcc":
            raise ContractError(f"lda projects frames of context_mfcc, not of {name}")
        frames, codebook = gather_frames(job.inputs["frames"]), load_codebook(job.inputs["codebook"])
        encoder = fit_lda(frames, codebook.predict(frames), dim=self.dim)
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
    head: str = "linear"
    precision: str = "fp32"
    seed: int = 0
    device: str = runtime("cpu")

    def run(self, job: Job) -> None:
        from textless.units.dump import Dump
        from textless.units.encode import save_encoder
        from textless.units.hubert import PRESETS
        from textless.units.hubert_frames import FRAME_RATE, n_frames
        from textless.units.mfcc import to_rate
        from textless.units.pretrain import pretrain
        from textless.weights import round_half

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
            head=self.head,
            precision=self.precision,
            device=self.device,
            seed=self.seed,
            log=progress(job, self.steps),
        )
        model.load_state_dict(round_half(model.state_dict()))
        save_encoder(job.path, model)
        hours = self.steps * self.batch * self.crop_seconds / 3600
        job.metrics = {**curve[-1], "audio_hours_seen": round(hours, 2), "curve": curve}


@dataclass(frozen=True, kw_only=True)
class UnitQuality(Step):
    """PNMI and purities of units against an alignment, in `quality.json`."""

    type = "quality"
    units: Step
    alignments: Alignments

    def run(self, job: Job) -> None:
        from textless.units.dump import Dump
        from textless.units.quality import frame_phones, read_alignments, unit_quality

        dump, phones = Dump(job.inputs["units"]), read_alignments(self.alignments.file)
        pairs = (
            (frames, frame_phones(phones[row.id], len(frames), frame_rate=row.units.frame_rate))
            for row in dump
            if row.id in phones
            for frames in [row.units.frames()]
        )
        job.metrics = unit_quality(pairs, n_units=dump.contract.n_units or 0)
        job.contract = dump.contract.to_dict()
        (job.path / "quality.json").write_text(json.dumps(job.metrics, indent=1) + "\n")
