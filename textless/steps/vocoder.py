"""Units to speech: fundamental frequency, the vocoder, and the set of models."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.engine.step import HashFile, MapStep, Step, runtime
from textless.errors import AudioError, ModelError, TrainingError
from textless.steps.common import AudioMap, board, packed, place, progress, units_identity
from textless.steps.sources import Corpus

if TYPE_CHECKING:
    import numpy as np

    from textless.engine.job import Job
    from textless.units.dump import UnitRow
    from textless.vocoder import UnitVocoder


@dataclass(frozen=True, kw_only=True)
class F0(AudioMap):
    """Fundamental frequency in Hz, 0 where unvoiced, as frames of one value."""

    type = "f0"
    audio: Corpus
    frame_rate: float = 50.0
    device: str = runtime("cpu")

    def shard_path(self, n: int) -> str:
        return f"data/{n:05d}"

    def shard(self, tools: Any, rows: list, out: Path) -> list[dict[str, Any]]:
        from textless.audio import SAMPLE_RATE
        from textless.corpus import read_rows
        from textless.units.frames import write_frames
        from textless.vocoder.f0 import track_f0

        hop = round(SAMPLE_RATE / self.frame_rate)
        if hop * self.frame_rate != SAMPLE_RATE:
            raise TrainingError(f"{self.frame_rate:g} frames a second are not a whole number of samples each at {SAMPLE_RATE} Hz")
        failures, waveforms = [], {}
        for row, waveform in read_rows(rows):
            if isinstance(waveform, AudioError):
                failures.append({"id": row.id, "error": str(waveform)})
            else:
                waveforms[row.id] = waveform
        found = track_f0(list(waveforms.values()), hop=hop, device=self.device)
        write_frames(out, ((name, f0[:, None]) for name, f0 in zip(waveforms, found, strict=True)), dim=1)
        return failures

    def finish(self, job: Job, tools: Any) -> None:
        (job.path / "frames.json").write_text(json.dumps({"frame_rate": self.frame_rate}) + "\n")


def f0_of(job: Job) -> dict[str, Any]:
    """(T,) float32 Hz of each id, where the step takes F0."""
    from textless.units.frames import read_frames

    return {name: frames[:, 0] for name, frames in read_frames(job.inputs["f0"])} if "f0" in job.inputs else {}


@dataclass(frozen=True, kw_only=True)
class TrainVocoder(Step):
    """A voice from units and their audio."""

    type = "train_vocoder"
    version = 2
    collective = True
    audio: Corpus
    units: Step
    f0: F0 | None = None
    start: Step | None = None
    adversarial: str | None = None
    preset: str = "small"
    upsample: int = 1
    causal: bool = False
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
        from textless.vocoder import Clip, load_vocoder, train_vocoder
        from textless.weights import round_half

        dump = Dump(job.inputs["units"])
        rows = {row.id: row.units for row in dump}
        audio, f0 = packed(job, self.audio, set(rows)), f0_of(job)
        clips = []
        for i, (name, samples, speaker) in enumerate(zip(audio.ids, audio.lengths, audio.speakers, strict=True)):
            units = rows[name]
            contour = f0[name][: units.n_frames] if name in f0 else None
            clips.append(Clip(units, partial(audio.waveform, i), int(samples), speaker, contour))
        curves = board(job, self.type)
        vocoder, job.metrics = train_vocoder(
            clips,
            contract=dump.contract,
            preset=self.preset,
            f0=self.f0 is not None,
            upsample=self.upsample,
            causal=self.causal,
            start=load_vocoder(place(job, self, "start")) if self.start else None,
            adversarial=self.adversarial,
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


@dataclass(frozen=True, slots=True)
class Utterance:
    """A row of units to be spoken into a file of this name, following this F0 if one is given."""

    row: UnitRow
    name: str
    f0: np.ndarray | None

    @property
    def id(self) -> str:
        return self.row.id


@dataclass(frozen=True, kw_only=True)
class Resynth(MapStep):
    """Units to speech: `ID.wav` for each row."""

    type = "resynth"
    rows_from = ("units", "f0")
    units: Step
    vocoder: Step
    f0: F0 | None = None
    speaker: str | int | None = None
    durations: str = "given"

    def rows(self, job: Job) -> list:
        from textless.model import named
        from textless.units.dump import Dump

        f0 = f0_of(job)
        return [Utterance(row, name, f0.get(row.id)) for row, name in named(Dump(job.inputs["units"]))]

    def identity(self, row: Utterance, hash_file: HashFile) -> Any:
        return [row.name, units_identity(row.row), None if row.f0 is None else hashlib.sha256(row.f0.tobytes()).hexdigest()]

    def tools(self, job: Job) -> UnitVocoder:
        from textless.vocoder import load_vocoder

        return load_vocoder(place(job, self, "vocoder"))

    def shard_path(self, n: int) -> str:
        return "."

    def shard(self, tools: UnitVocoder, rows: list[Utterance], out: Path) -> list[dict[str, Any]]:
        from textless.audio import write_audio
        from textless.model import resynth_row

        out.mkdir()
        failures = []
        for row in rows:
            follow = None if self.f0 is None else {} if row.f0 is None else {row.id: row.f0}
            try:
                waveform = resynth_row(tools, row.row, speaker=self.speaker, durations=self.durations, f0=follow)
                write_audio(out / f"{row.name}.wav", waveform, sample_rate=tools.sample_rate)
            except ModelError as e:
                failures.append({"id": row.id, "error": str(e)})
        return failures


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
