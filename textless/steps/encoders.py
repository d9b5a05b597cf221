"""Encoders that are made here: the ladder, projections, and HuBERTs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from textless.checks import Count, Dropped, NotNegative, OneOf, Positive, Probability, Seed
from textless.engine.step import Step, runtime
from textless.errors import TrainingError
from textless.steps.common import Device, Precision, board, packed, place, progress
from textless.steps.sources import Corpus
from textless.steps.units import Frames, frames_contract

if TYPE_CHECKING:
    from textless.engine.job import Job


@dataclass(frozen=True, kw_only=True)
class Ladder(Step):
    """The ladder, fitted on a random part of a corpus: an encoder that needs no training, and the voice that a HuBERT can hear in."""

    type = "ladder"
    audio: Corpus
    hours: Positive = 1.5
    n_clusters: Count = 500
    dim: Count = 40
    rounds: Count = 4
    seed: Seed = 0

    def check(self) -> None:
        if self.n_clusters <= self.dim:
            raise TrainingError(
                f"n_clusters is {self.n_clusters}, which cannot make dim {self.dim}; more clusters, or a smaller dim"
            )

    def run(self, job: Job) -> None:
        from textless.audio.corpus import read_some
        from textless.units.mfcc_lda.ladder import fit_ladder

        rows = read_some(self.audio.load(), seconds=3600 * self.hours, seed=self.seed)
        encoder, job.metrics = fit_ladder(
            rows, n_clusters=self.n_clusters, dim=self.dim, rounds=self.rounds, seed=self.seed
        )
        encoder.save(job.path)
        job.contract = encoder.contract.to_dict()


@dataclass(frozen=True, kw_only=True)
class Lda(Step):
    """A projection of frames in which clusters stand apart (`pca`: in which frames vary most). An encoder like any other.

    The clusters are the codebook's, over the frames themselves or over `labelled`, frames of the same places.
    """

    type = "lda"
    version = 2
    frames: Frames
    codebook: Step | None = None
    labelled: Frames | None = None
    method: Annotated[str, OneOf("lda", "pca")] = "lda"
    dim: Count = 40

    def check(self) -> None:
        if self.method == "lda" and self.codebook is None:
            raise TrainingError(
                "lda needs a codebook, whose clusters are to stand apart; give codebook, or method: pca"
            )

    def inputs(self) -> dict[str, Step]:
        """With the encoder that made the frames: it becomes part of the result."""
        below = {"encoder": self.frames.encoder} if isinstance(self.frames.encoder, Step) else {}
        return {**super().inputs(), **below}

    def run(self, job: Job) -> None:
        from textless.units.encoders.load import load_encoder, save_projected
        from textless.units.frames import read_frames, read_pairs
        from textless.units.mfcc_lda.lda import LdaEncoder, fit_projection
        from textless.units.quantizers import load_codebook

        folder, contract = job.inputs["frames"], frames_contract(job.inputs["frames"])
        if self.codebook is None:
            pieces: Any = ((frames, None) for _, frames in read_frames(folder))
        else:
            codebook = load_codebook(place(job, self, "codebook"))
            other = job.inputs["labelled"] if self.labelled else folder
            codebook.contract_for(frames_contract(other))
            pieces = ((frames, codebook.predict(theirs)) for frames, theirs in read_pairs(folder, other))
        projection = fit_projection(pieces, dim=self.dim, method=self.method)
        if contract.encoder == "context_mfcc":
            LdaEncoder(projection).save(job.path)
        else:
            below = self.frames.encoder if isinstance(self.frames.encoder, str) else place(job, self.frames, "encoder")
            save_projected(job.path, below, projection, layer=contract.layer, context=self.frames.context)
        job.contract = load_encoder(job.path, window=contract.window).contract.to_dict()


# Of each preset of `units.hubert`, which is not imported for planning.
LAYERS = {"nano": 2, "tiny": 4, "small": 8, "base": 12, "large": 24, "xlarge": 48}


@dataclass(frozen=True, kw_only=True)
class Pretrain(Step):
    """A HuBERT from audio and labels. Its weights are rounded to half precision, so that what ships is what the later steps saw."""

    type = "pretrain"
    version = 2
    collective = True
    audio: Corpus
    labels: Step
    preset: Annotated[str, OneOf(*LAYERS)] = "tiny"
    steps: Count
    batch: Count = 8
    crop_seconds: Positive = 4.0
    lr: Positive = 1e-3
    mask_prob: Probability = 0.8
    mask_span: Count = 10
    unmasked_weight: NotNegative = 0.5
    dropout: Dropped = 0.0
    layer_drop: Dropped = 0.0
    head: Annotated[str, OneOf("linear", "cosine")] = "linear"
    voice: Ladder | None = None
    start: Pretrain | None = None
    precision: Precision = "fp32"
    seed: Seed = 0
    device: Device = runtime("cpu")
    micro_batch: Count | None = runtime(None)

    def layers(self) -> int:
        """Layers of the encoder that is trained."""
        return LAYERS[self.preset]

    def run(self, job: Job) -> None:
        from textless.audio.mfcc import to_rate
        from textless.model_io import load_model, round_half, to_torch
        from textless.units.dump import Dump
        from textless.units.encoders.hubert import PRESETS
        from textless.units.encoders.hubert_encoder import save_encoder
        from textless.units.encoders.hubert_frames import FRAME_RATE, n_frames
        from textless.units.encoders.pretrain import pretrain
        from textless.units.mfcc_lda.ladder import LadderEncoder

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
