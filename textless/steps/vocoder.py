"""Units to speech: F0, the vocoder, and the bundle of models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from textless.checks import Between, Device, OneOf, runtime
from textless.engine.step import HashFile, MapStep, Step, added, takes
from textless.errors import ModelError, TrainingError
from textless.steps.common import (
    AudioMap,
    Failures,
    board,
    collect,
    finish_units,
    packed,
    place,
    progress,
    units_identity,
)
from textless.steps.sources import Corpus
from textless.training.configs import VocoderTrainConfig

SAMPLE_RATE = 16_000  # Hz, of `textless.audio.io`, which is not imported for planning

if TYPE_CHECKING:
    import numpy as np

    from textless.audio.corpus import PackedAudio
    from textless.engine.job import Job
    from textless.types import UnitRow, Units
    from textless.vocoder import Clip, UnitVocoder
    from textless.vocoder.base import BaseVocoder


@dataclass(frozen=True, kw_only=True)
class F0(AudioMap):
    """Fundamental frequency in Hz, 0 where unvoiced, as frames of one value."""

    type = "f0"
    gives = ("f0",)
    audio: Corpus
    frame_rate: Annotated[float, Between(1, SAMPLE_RATE)] = 50.0
    device: Device = runtime("cpu")

    def check(self) -> None:
        if round(SAMPLE_RATE / self.frame_rate) * self.frame_rate != SAMPLE_RATE:
            raise TrainingError(
                f"f0.frame_rate is {self.frame_rate:g}, not a whole number of samples each at {SAMPLE_RATE} Hz"
            )

    def shard_path(self, n: int) -> str:
        return f"data/{n:05d}"

    def shard(self, tools: Any, rows: list, out: Path) -> Failures:
        from textless.audio.corpus import read_rows
        from textless.audio.f0 import track_f0
        from textless.units.frames import write_frames

        waveforms: dict[str, np.ndarray] = {}
        failures = collect(read_rows(rows), lambda row, waveform: waveforms.update({row.id: waveform}))
        contours = track_f0(list(waveforms.values()), hop=round(SAMPLE_RATE / self.frame_rate), device=self.device)
        write_frames(out, ((name, f0[:, None]) for name, f0 in zip(waveforms, contours, strict=True)), dim=1)
        return failures

    def finish(self, job: Job, tools: Any) -> None:
        (job.path / "frames.json").write_text(json.dumps({"frame_rate": self.frame_rate}) + "\n")


def check_f0(job: Job, frame_rate: float | None) -> None:
    """Raise TrainingError where the step takes F0 and its frame rate is not that of the units, if that is known."""
    from textless.model_io import read_json

    if "f0" in job.inputs and frame_rate is not None:
        rate = read_json(job.inputs["f0"] / "frames.json").get("frame_rate")
        if rate != frame_rate:
            raise TrainingError(
                f"units have {frame_rate:g} frames a second and F0 has {rate}; give F0 with frame_rate: {frame_rate:g}"
            )


def f0_of(job: Job, frame_rate: float | None) -> dict[str, Any]:
    """(T,) float32 Hz of each id, where the step takes F0. Raises as `check_f0`."""
    from textless.units.frames import read_frames

    if "f0" not in job.inputs:
        return {}
    check_f0(job, frame_rate)
    return {name: frames[:, 0] for name, frames in read_frames(job.inputs["f0"])}


@dataclass(frozen=True, kw_only=True)
class Pitch(Step):
    """Units with their pitch: log-F0 above the mean of the row's speaker, in steps; of the row where none has a
    speaker."""

    type = "pitch"
    gives = ("units",)
    units: Step = takes("units")
    f0: F0

    def run(self, job: Job) -> None:
        from textless.audio.pitch import with_pitch
        from textless.exchange.ours import write_shards
        from textless.units.card import origin_of
        from textless.units.dump import Dump

        dump = Dump(job.inputs["units"])
        contract, rows = with_pitch(dump, f0_of(job, dump.contract.frame_rate), dump.contract)
        write_shards(job.path, rows)
        finish_units(job, contract, origin_of(dump.folder))


@dataclass(frozen=True, kw_only=True)
class TrainVocoder(VocoderTrainConfig, Step):
    """A vocoder from units and their audio."""

    type = "train_vocoder"
    gives = ("vocoder",)
    version = 2
    collective = True
    audio: Corpus
    units: Step = takes("units")
    f0: F0 | None = None
    start: Step | None = takes("vocoder", None)

    def run(self, job: Job) -> None:
        from textless.model_io import round_half
        from textless.units.dump import Dump
        from textless.units.merges import base_rows
        from textless.vocoder import train_vocoder

        dump = Dump(job.inputs["units"])
        contract = dump.contract.base()
        rows, f0 = {row.id: row.units for row in base_rows(dump)}, f0_of(job, dump.contract.frame_rate)
        curves = board(job, self.type)
        vocoder, job.metrics = train_vocoder(
            _clips(packed(job, self.audio, set(rows)), rows, f0),
            self,
            contract=contract,
            f0=self.f0 is not None,
            start=_start(place(job, self, "start")) if self.start else None,
            checkpoint=job.scratch / "checkpoint.pt",
            log=progress(job, self.steps, curves),
            listen=curves.listen if curves else None,
        )
        vocoder.load_state_dict(round_half(vocoder.state_dict()))
        vocoder.save(job.path)
        job.contract = contract.to_dict()


def _start(path: Path | str) -> UnitVocoder:
    """The vocoder to continue from. Raises TrainingError for one that this trainer did not train."""
    from textless.vocoder import UnitVocoder, load_vocoder

    vocoder = load_vocoder(path)
    if not isinstance(vocoder, UnitVocoder):
        raise TrainingError(f"{path}: a unit HiFi-GAN cannot be trained further; start from a train_vocoder step")
    return vocoder


def _clips(audio: PackedAudio, units: Mapping[str, Units], f0: Mapping[str, np.ndarray]) -> list[Clip]:
    from textless.vocoder import Clip

    clips = []
    for i, (name, samples, speaker) in enumerate(zip(audio.ids, audio.lengths, audio.speakers, strict=True)):
        contour = f0[name][: units[name].n_frames] if name in f0 else None
        clips.append(Clip(units[name], partial(audio.waveform, i), int(samples), speaker, contour))
    return clips


@dataclass(frozen=True, slots=True)
class Utterance:
    """A row of units to synthesise into a file of this name, with this F0 if one is given."""

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
    gives = ("speech",)
    rows_from = ("units", "f0")
    units: Step = takes("units")
    vocoder: Step = takes("vocoder")
    f0: F0 | None = None
    speaker: str | int | None = None
    durations: Annotated[str, OneOf("given", "predict")] = "given"
    style: str | int | None = added(None)
    level: Annotated[str, OneOf("raw", "peak")] | None = added(None)

    def check(self) -> None:
        for field in ("speaker", "style"):
            value = getattr(self, field)
            if isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, field, str(value))  # YAML reads a name of digits as a number

    def rows(self, job: Job) -> list[Utterance]:
        from textless.model import named
        from textless.units.dump import Dump
        from textless.units.merges import base_rows

        dump = Dump(job.inputs["units"])
        f0 = f0_of(job, dump.contract.frame_rate)
        return [Utterance(row, name, f0.get(row.id)) for row, name in named(base_rows(dump))]

    def identity(self, row: Utterance, hash_file: HashFile) -> Any:
        return [
            row.name,
            units_identity(row.row),
            None if row.f0 is None else hashlib.sha256(row.f0.tobytes()).hexdigest(),
        ]

    def tools(self, job: Job) -> BaseVocoder:
        from textless.vocoder import load_vocoder

        vocoder = load_vocoder(place(job, self, "vocoder"))
        check_f0(job, vocoder.frame_rate)
        return vocoder

    def shard_path(self, n: int) -> str:
        return "."

    def shard(self, tools: BaseVocoder, rows: list[Utterance], out: Path) -> Failures:
        from textless.audio.io import write_audio
        from textless.model import resynth_row

        out.mkdir()

        def speak(_: Utterance, row: Utterance) -> None:
            follow = None if self.f0 is None else {} if row.f0 is None else {row.id: row.f0}
            waveform = resynth_row(
                tools,
                row.row,
                f0=follow,
                speaker=self.speaker,
                durations=self.durations,
                style=self.style,
                level=self.level,
            )
            write_audio(out / f"{row.name}.wav", waveform, sample_rate=tools.sample_rate)

        return collect(((row, row) for row in rows), speak, ModelError)


@dataclass(frozen=True, kw_only=True)
class Bundle(Step):
    """Encoder, codebook, language model and vocoder in one folder of half precision, as `textless.load` takes it."""

    type = "bundle"
    encoder: Step = takes("encoder")
    codebook: Step = takes("codebook")
    lm: Step = takes("lm")
    vocoder: Step = takes("vocoder")

    def run(self, job: Job) -> None:
        from textless.model import bundle

        job.contract = bundle(
            job.path, **{name: job.inputs[name] for name in ("encoder", "codebook", "lm", "vocoder")}
        ).to_dict()
