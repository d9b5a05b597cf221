"""Metrics as steps: units and frames against phones and under perturbations, and speech against a reference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from textless.checks import Count, Device, NotNegative, OneOf, Precision, Seed, Smoothing, Tap, runtime
from textless.engine.step import HashFile, MapStep, Step, added, takes
from textless.errors import TrainingError
from textless.steps.align import Align, read_phones
from textless.steps.common import AudioMap, Failures, collect
from textless.steps.sources import Alignments, Corpus, Items, Pretrained, Text, or_missing
from textless.steps.units import Frames, check_layer, frames_contract, tokenizer_of

if TYPE_CHECKING:
    import numpy as np

    from textless.audio.corpus import Row
    from textless.engine.job import Job
    from textless.units.tokenizer import Tokenizer


def _phones(job: Job, step: Any) -> dict[str, Any]:
    from textless.metrics.items import read_items

    return {"alignments": read_phones(job, step), "items": read_items(step.items.file) if step.items else None}


def _finish(job: Job, name: str, metrics: dict[str, float], contract: dict[str, Any] | None) -> None:
    job.metrics, job.contract = metrics, contract
    (job.path / name).write_text(json.dumps(metrics, indent=1) + "\n")


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("data/*.jsonl")) for line in file.read_text().splitlines()]


@dataclass(frozen=True, kw_only=True)
class UnitQuality(Step):
    """PNMI, purities, phone error rate, boundaries, ABX and bit rates of units, in `quality.json`."""

    type = "quality"
    gives = ("metrics",)
    version = 4
    units: Step = takes("units")
    alignments: Alignments | Align | None = None
    items: Items | None = None
    fit: Step | None = takes("units", None)
    fit_alignments: Alignments | None = None
    n_phones: Count | None = None
    seed: Seed = 0
    by: str | None = added(None)

    def check(self) -> None:
        if self.fit is not None and self.alignments is None:
            raise TrainingError("units to fit a mapping on need alignments; give alignments")
        if self.by and Path(self.by).is_file():
            raise TrainingError(f"quality.by is a column of the dump, and {self.by} is a file; give the column")
        if self.fit_alignments is not None and self.fit is None:
            raise TrainingError("fit_alignments are of the files in fit; give fit too")

    def run(self, job: Job) -> None:
        from textless.metrics.alignments import read_alignments
        from textless.metrics.units import measure_units
        from textless.units.dump import Dump

        dump, phones = Dump(job.inputs["units"]), _phones(job, self)
        metrics = measure_units(
            dump,
            **phones,
            fit=Dump(job.inputs["fit"]) if self.fit else None,
            fit_alignments=read_alignments(self.fit_alignments.file) if self.fit_alignments else None,
            n_phones=self.n_phones,
            seed=self.seed,
        )
        _finish(job, "quality.json", metrics, dump.contract.to_dict())
        if self.by:
            from textless.metrics.groups import quality_by_group

            groups = quality_by_group(list(dump), self.by, **phones, seed=self.seed)
            (job.path / "groups.json").write_text(json.dumps(groups, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class FrameABX(Step):
    """ABX of frames that are on disk, in `abx.json`."""

    type = "abx"
    gives = ("metrics",)
    version = 3
    frames: Frames
    alignments: Alignments | Align | None = None
    items: Items | None = None
    distance: Annotated[str, OneOf("angular", "euclidean")] = "angular"
    context: Annotated[str, OneOf("within", "any")] = "within"
    rule: Annotated[str, OneOf("published", "window_centred")] = "published"
    max_items: Count | None = None
    max_speakers: Count | None = None
    seed: Seed = 0

    def check(self) -> None:
        if isinstance(self.frames, Frames) and self.frames.fraction < 1:
            raise TrainingError(
                f"only {self.frames.fraction:g} of the frames are kept; abx needs them all (fraction: 1)"
            )
        if self.alignments is None and self.items is None:
            raise TrainingError("abx compares phones; give alignments or items")

    def run(self, job: Job) -> None:
        from textless.metrics.units import measure_frames
        from textless.units.frames import read_frames

        contract = frames_contract(job.inputs["frames"])
        metrics = measure_frames(
            dict(read_frames(job.inputs["frames"])),
            frame_rate=contract.frame_rate or 0,
            **_phones(job, self),
            speakers={row.id: row.speaker for row in self.frames.audio.load()},
            distance=self.distance,
            context=self.context,
            rule=self.rule,
            max_items=self.max_items,
            max_speakers=self.max_speakers,
            seed=self.seed,
        )
        _finish(job, "abx.json", metrics, contract.to_dict())


@dataclass(frozen=True, kw_only=True)
class Robustness(AudioMap):
    """Unit edit distances of audio to perturbations of it (speed, stretch, pitch, noise), in `robustness.json`."""

    type = "robustness"
    gives = ("metrics",)
    version = 2
    audio: Corpus
    encoder: str | Step = takes("encoder")
    codebook: Step = takes("codebook")
    layer: Count | None = None
    tap: Tap | None = added(None)
    smoothing: Smoothing | None = added(None)
    window: NotNegative | None = None
    precision: Precision = "fp32"
    seed: Seed = 0
    device: Device = runtime("cpu")

    def check(self) -> None:
        check_layer(self)

    def tools(self, job: Job) -> Tokenizer:
        return tokenizer_of(job, self)

    def shard_path(self, n: int) -> str:
        return f"data/{n:05d}.jsonl"

    def shard(self, tools: Tokenizer, rows: list, out: Path) -> Failures:
        from textless.audio.corpus import read_rows
        from textless.metrics.robustness import unit_edit_distances

        lines: list[str] = []

        def measure(row: Row, waveform: np.ndarray) -> None:
            distances = unit_edit_distances(waveform, tools.encode_batch, name=row.id, seed=self.seed)
            lines.append(json.dumps({"id": row.id, **distances}) + "\n")

        failures = collect(read_rows(rows), measure)
        out.write_text("".join(lines))
        return failures

    def finish(self, job: Job, tools: Tokenizer) -> None:
        from textless.metrics.robustness import mean_distances

        metrics = mean_distances(
            ({k: v for k, v in row.items() if k != "id"} for row in _lines(job.path)), seed=self.seed
        )
        _finish(job, "robustness.json", metrics, tools.contract.to_dict())


@dataclass(frozen=True, kw_only=True)
class CopySynthesis(AudioMap):
    """Griffin-Lim from the mel spectrogram of the audio itself, as `ID.wav`: a baseline for vocoders."""

    type = "copy_synthesis"
    gives = ("speech",)
    audio: Corpus
    seed: Seed = 0

    def shard_path(self, n: int) -> str:
        return f"data/{n:05d}"

    def shard(self, tools: Any, rows: list, out: Path) -> Failures:
        from textless.audio.corpus import file_stem, read_rows
        from textless.audio.io import write_audio
        from textless.vocoder.griffin_lim import copy_synthesis

        out.mkdir(exist_ok=True)

        def rebuild(row: Row, waveform: np.ndarray) -> None:
            write_audio(out / f"{file_stem(row.id)}.wav", copy_synthesis(waveform, seed=self.seed))

        return collect(read_rows(rows), rebuild)


@dataclass(frozen=True, kw_only=True)
class SpeechQuality(MapStep):
    """Synthetic speech against the original: each sentence in `data/N.jsonl`, and over all in `speech_quality.json`."""

    type = "speech_quality"
    gives = ("metrics",)
    rows_from = ("speech", "reference")
    speech: Step = takes("speech")
    reference: Corpus
    encoder: str | Step | None = takes("encoder", None)
    codebook: Step | None = takes("codebook", None)
    layer: Count | None = None
    tap: Tap | None = added(None)
    smoothing: Smoothing | None = added(None)
    window: NotNegative | None = None
    precision: Precision = "fp32"
    text: Text | None = None
    asr: Pretrained | None = added(None)
    seed: Seed = 0
    device: Device = runtime("cpu")

    def check(self) -> None:
        if self.asr and not self.text:
            raise TrainingError("a recogniser is compared with what is said; give text")
        if (self.encoder is None) != (self.codebook is None):
            raise TrainingError("unit error rates need an encoder and a codebook; give both or neither")
        if self.smoothing is not None and self.codebook is None:
            raise TrainingError("speech_quality.smoothing is of units, and there is no codebook; leave it out")
        check_layer(self)

    def rows(self, job: Job) -> list:
        from textless.audio.corpus import Corpus as Rows
        from textless.metrics.asr import read_text
        from textless.metrics.speech import check_text, pair_rows

        pairs = pair_rows(Rows.load(job.inputs["speech"]), self.reference.load())
        if self.text:
            check_text(pairs, read_text(self.text.file))
        return pairs

    def identity(self, row: Any, hash_file: HashFile) -> Any:
        from textless.audio.corpus import row_identity

        return [row_identity(row.reference, or_missing(hash_file)), hash_file(row.speech.path)]

    def tools(self, job: Job) -> Any:
        """Tokenizer, words and recogniser, or None. Missing packages are an error, never another result."""
        from textless.metrics.asr import load_recogniser, read_text
        from textless.metrics.speech import check_stoi

        check_stoi()
        tokenizer = tokenizer_of(job, self) if self.codebook else None
        if not self.text:
            return tokenizer, None, None
        return tokenizer, read_text(self.text.file), load_recogniser(_folder(self.asr), device=self.device)

    def shard_path(self, n: int) -> str:
        return f"data/{n:05d}.jsonl"

    def shard(self, tools: Any, rows: list, out: Path) -> Failures:
        from textless.metrics.speech import compare_pairs

        tokenizer, text, asr = tools
        encode = tokenizer.encode_batch if tokenizer else None
        sentences = list(compare_pairs(rows, encode=encode, text=text, asr=asr))
        out.write_text("".join(json.dumps(s) + "\n" for s in sentences if "error" not in s))
        return [s for s in sentences if "error" in s]

    def finish(self, job: Job, tools: Any) -> None:
        from textless.metrics.speech import summarise

        metrics = summarise(_lines(job.path), seed=self.seed)
        _finish(job, "speech_quality.json", metrics, tools[0].contract.to_dict() if tools[0] else None)


@dataclass(frozen=True, kw_only=True)
class Continuations(MapStep):
    """What spoken samples of a language model say: `transcripts.jsonl`, and their measures in `continuations.json`."""

    type = "continuations"
    gives = ("metrics",)
    rows_from = ("speech", "judge")  # the judge reads the transcripts of all shards
    speech: Step = takes("speech")
    asr: Pretrained | None = None
    judge: Pretrained | None = added(None)  # out of the keys of shards also where there is none
    seed: Seed = 0
    device: Device = runtime("cpu")

    def rows(self, job: Job) -> list:
        from textless.audio.corpus import Corpus as Rows

        return list(Rows.load(job.inputs["speech"]))

    def identity(self, row: Any, hash_file: HashFile) -> Any:
        from textless.audio.corpus import row_identity

        return row_identity(row, or_missing(hash_file))

    def tools(self, job: Job) -> Any:
        from textless.metrics.asr import load_recogniser

        return load_recogniser(_folder(self.asr), "transcripts of continuations without asr need", self.device)

    def shard_path(self, n: int) -> str:
        return f"data/{n:05d}.jsonl"

    def shard(self, tools: Any, rows: list, out: Path) -> Failures:
        from textless.audio.corpus import read_rows

        lines: list[str] = []

        def transcribe(row: Row, waveform: np.ndarray) -> None:
            lines.append(json.dumps({"id": row.id, "text": tools(waveform)}) + "\n")

        failures = collect(read_rows(rows), transcribe)
        out.write_text("".join(lines))
        return failures

    def finish(self, job: Job, tools: Any) -> None:
        from textless.metrics.continuations import score, summarise
        from textless.metrics.judge import Judge

        judge = Judge(self.judge.file, self.device) if self.judge else None
        samples = score({row["id"]: row["text"] for row in _lines(job.path)}, judge)
        (job.path / "transcripts.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
        temperature = getattr(getattr(self.speech, "units", None), "temperature", None)
        known = {} if temperature is None else {"temperature": float(temperature)}
        _finish(job, "continuations.json", known | summarise(samples, seed=self.seed), None)


def _folder(source: Pretrained | None) -> str | None:
    return source.file if source else None


@dataclass(frozen=True, kw_only=True)
class Difference(Step):
    """Metrics of `a` minus those of `b` over the same files, in `difference.json`: units against phones, or speech."""

    type = "difference"
    gives = ("metrics",)
    version = 2
    a: Step
    b: Step
    alignments: Alignments | Align | None = None
    seed: Seed = 0

    def check(self) -> None:
        for field in ("a", "b"):
            self.must_give(field, "units" if self.alignments else "metrics")

    def compared(self) -> tuple[Step, ...]:
        return () if self.alignments else (self.a, self.b)

    def run(self, job: Job) -> None:
        from textless.metrics.difference import differences, unit_difference
        from textless.units.dump import Dump

        phones = read_phones(job, self)
        if phones is not None:
            metrics = unit_difference(Dump(job.inputs["a"]), Dump(job.inputs["b"]), phones, seed=self.seed)
        else:
            metrics = differences(_lines(job.inputs["a"]), _lines(job.inputs["b"]), seed=self.seed)
        _finish(job, "difference.json", metrics, None)
