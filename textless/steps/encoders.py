"""Steps that train encoders: the ladder, projections, and HuBERTs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from textless.checks import Count, OneOf, Positive, Seed
from textless.engine.step import Step, takes
from textless.errors import TrainingError
from textless.steps.common import board, packed, place, progress
from textless.steps.sources import Corpus, Model
from textless.steps.units import Frames, frames_contract
from textless.training.configs import HUBERT_LAYERS, PretrainConfig

if TYPE_CHECKING:
    import numpy as np

    from textless.audio.corpus import PackedAudio
    from textless.engine.job import Job
    from textless.units.dump import Dump
    from textless.units.encoders.hubert import Hubert


@dataclass(frozen=True, kw_only=True)
class Ladder(Step):
    """The ladder, fitted on a random part of a corpus: an encoder without a network; a HuBERT can use its VTLN."""

    type = "ladder"
    gives = ("encoder",)
    audio: Corpus
    hours: Positive = 1.5
    n_clusters: Count = 500
    dim: Count = 40
    rounds: Count = 4
    seed: Seed = 0

    def check(self) -> None:
        if self.n_clusters <= self.dim:
            raise TrainingError(
                f"n_clusters is {self.n_clusters}, too few for dim {self.dim}; give more clusters, or a smaller dim"
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
    """A projection of frames that separates clusters (LDA), or keeps the most variance (PCA). An encoder like any
    other.

    The clusters are those of the codebook, over the frames themselves or over `labelled`, other frames of the same
    audio.
    """

    type = "lda"
    gives = ("encoder",)
    version = 2
    frames: Frames
    codebook: Step | None = takes("codebook", None)
    labelled: Frames | None = None
    method: Annotated[str, OneOf("lda", "pca")] = "lda"
    dim: Count = 40

    def check(self) -> None:
        if self.method == "lda" and self.codebook is None:
            raise TrainingError("lda needs a codebook, whose clusters it separates; give codebook, or method: pca")

    def inputs(self) -> dict[str, Step]:
        """With the encoder of the frames: it becomes part of the result."""
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
            save_projected(
                job.path, below, projection, layer=contract.layer, tap=contract.tap, context=self.frames.context
            )
        job.contract = load_encoder(job.path, window=contract.window).contract.to_dict()


@dataclass(frozen=True, kw_only=True)
class Pretrain(PretrainConfig, Step):
    """A HuBERT from audio and labels. Weights are rounded to half precision: what ships is what the later steps saw.

    Rows of `audio` with labels in `dev` are only measured on.
    """

    type = "pretrain"
    gives = ("encoder",)
    version = 2
    collective = True
    audio: Corpus
    labels: Step = takes("units")
    voice: Ladder | None = None
    start: Pretrain | Model | None = None
    dev: Step | None = takes("units", None)

    def check(self) -> None:
        super().check()
        if isinstance(self.start, Pretrain) and self.start.preset != self.preset:
            raise TrainingError(
                f"pretrain.preset is {self.preset}, but the encoder to start from is {self.start.preset}; "
                "give the same preset"
            )
        if self.head == "keep" and not isinstance(self.start, Model):
            raise TrainingError("pretrain.head is keep, but a step model alone brings a head; start from one")
        if self.freeze_front_end and self.start is None:
            raise TrainingError("pretrain.freeze_front_end would freeze random weights; give start, or leave it out")

    def layers(self) -> int | None:
        """Layers of the encoder that is trained, where they are known before it is."""
        return HUBERT_LAYERS[self.preset] if self.start is None else self.start.layers()

    def run(self, job: Job) -> None:
        from textless.model_io import round_half
        from textless.units.dump import Dump
        from textless.units.encoders.hubert_encoder import save_encoder
        from textless.units.encoders.pretrain import pretrain
        from textless.units.mfcc_lda.ladder import LadderEncoder

        dump = Dump(job.inputs["labels"])
        if dump.contract.frame_rate is None or dump.contract.n_units is None:
            raise TrainingError("the labels' frame rate or number of units is unknown")
        audio, labels = _labelled(job, self.audio, dump)
        dev = None
        if self.dev is not None:
            measured = Dump(job.inputs["dev"])
            dump.contract.check(measured.contract, mine="pretrain.labels", theirs="pretrain.dev")
            dev = _labelled(job, self.audio, measured, "dev_audio")
            if both := set(audio.ids) & set(dev[0].ids):
                raise TrainingError(f"{min(both)} is in both labels and dev; measure on files that are not trained on")
        model, curve = pretrain(
            audio,
            labels,
            self,
            n_classes=dump.contract.n_units,
            folder=job.scratch,
            start=self._start(job),
            voice=LadderEncoder.load(job.inputs["voice"]).voice if self.voice else None,
            dev=dev,
            log=progress(job, self.steps, board(job, self.type)),
        )
        model.load_state_dict(round_half(model.state_dict()))
        save_encoder(job.path, model)
        hours = self.steps * self.batch * self.crop_seconds / 3600
        job.metrics = {**curve[-1], "audio_hours_seen": round(hours, 2), "curve": curve}

    def _start(self, job: Job) -> Hubert | Path | str | None:
        from textless.units.encoders.start import load_pretrained

        if isinstance(self.start, Model):
            return self.start.part("encoder")
        return None if self.start is None else load_pretrained(job.inputs["start"])


def _labelled(job: Job, corpus: Corpus, dump: Dump, folder: str = "audio") -> tuple[PackedAudio, list[np.ndarray]]:
    """The audio of the rows of a dump, and the labels of each file at the encoder's frame rate."""
    from textless.audio.mfcc import to_rate
    from textless.units.encoders.hubert_frames import FRAME_RATE, n_frames

    labels = {row.id: row.units.frames() for row in dump}
    audio, rate = packed(job, corpus, set(labels), folder), dump.contract.frame_rate or 0
    return audio, [
        to_rate(labels[name], rate=rate, target_rate=FRAME_RATE, frames=n_frames(int(samples)))
        for name, samples in zip(audio.ids, audio.lengths, strict=True)
    ]
