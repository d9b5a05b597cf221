"""Units to speech: the vocoder, and the set of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textless.engine.step import Step, runtime
from textless.steps.common import board, packed, place, progress
from textless.steps.sources import Corpus

if TYPE_CHECKING:
    from textless.engine.store import Job


@dataclass(frozen=True, kw_only=True)
class TrainVocoder(Step):
    """A voice from units and their audio."""

    type = "train_vocoder"
    collective = True
    audio: Corpus
    units: Step
    preset: str = "small"
    steps: int
    batch: int = 16
    crop_seconds: float = 1.0
    lr: float = 1e-3
    precision: str = "fp32"
    seed: int = 0
    device: str = runtime("cpu")
    micro_batch: int | None = runtime(None)

    def run(self, job: Job) -> None:
        from functools import partial

        from textless.units.dump import Dump
        from textless.vocoder import Clip, train_vocoder
        from textless.weights import round_half

        dump = Dump(job.inputs["units"])
        rows = {row.id: row.units for row in dump}
        audio = packed(job, self.audio, set(rows))
        clips = [
            Clip(rows[name], partial(audio.waveform, i), int(samples), speaker)
            for i, (name, samples, speaker) in enumerate(zip(audio.ids, audio.lengths, audio.speakers, strict=True))
        ]
        curves = board(job, self.type)
        vocoder, job.metrics = train_vocoder(
            clips,
            contract=dump.contract,
            preset=self.preset,
            steps=self.steps,
            batch=self.batch,
            crop_seconds=self.crop_seconds,
            lr=self.lr,
            seed=self.seed,
            checkpoint=job.scratch / "checkpoint.pt",
            log=progress(job, self.steps, curves),
            listen=curves.listen if curves else None,
            device=self.device,
            precision=self.precision,
            micro_batch=self.micro_batch,
        )
        vocoder.load_state_dict(round_half(vocoder.state_dict()))
        vocoder.save(job.path)
        job.contract = dump.contract.to_dict()


@dataclass(frozen=True, kw_only=True)
class Resynth(Step):
    """Units to speech: `ID.wav` for each row."""

    type = "resynth"
    units: Step
    vocoder: Step
    speaker: str | int | None = None
    durations: str = "given"

    def run(self, job: Job) -> None:
        from textless.model import speak_rows
        from textless.units.dump import Dump
        from textless.vocoder import load_vocoder

        vocoder = load_vocoder(place(job, self, "vocoder"))
        rows = Dump(job.inputs["units"])
        for n, _ in enumerate(speak_rows(vocoder, rows, job.path, speaker=self.speaker, durations=self.durations), 1):
            job.progress(n, len(rows), "files")


@dataclass(frozen=True, kw_only=True)
class Bundle(Step):
    """Encoder, codebook, language model and vocoder as one folder in half precision: what `textless.load` and `--model` take."""

    type = "bundle"
    encoder: Step
    codebook: Step
    lm: Step
    vocoder: Step

    def run(self, job: Job) -> None:
        from textless.model import bundle

        job.contract = bundle(job.path, **{name: job.inputs[name] for name in ("encoder", "codebook", "lm", "vocoder")}).to_dict()
