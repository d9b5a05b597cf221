"""The stages as steps: thin adapters from library functions to the engine, and the one table that pipelines name them by.

Nothing heavy is imported before a step runs, so that planning costs no more than reading the pipeline.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.engine.step import HashFile, MapStep, Source, Step, path, runtime
from textless.errors import AudioError, ContractError, ModelError, StoreError, TrainingError

if TYPE_CHECKING:
    from textless.corpus import Corpus as Rows
    from textless.corpus import PackedAudio
    from textless.engine.store import Job
    from textless.units.encode import Tokenizer
    from textless.units.types import UnitContract

# ------------------------------------------------------------------------------------------------------------ sources


@dataclass(frozen=True, kw_only=True)
class Corpus(Source):
    """Audio: a folder, glob or manifest, or a list of them; `splits` joins split and speaker by id, `split` keeps one."""

    type = "corpus"
    manifest: str | list = path()
    splits: str | None = path(None)
    split: str | None = None

    def load(self) -> Rows:
        from textless.corpus import Corpus as Rows

        return Rows.load(self.manifest, splits=self.splits, split=self.split)

    def content(self, hash_file: HashFile) -> str:
        def hash_or_missing(file: str) -> str:
            try:
                return hash_file(file)
            except StoreError:
                return "missing"  # its row fails when it comes to it, and the others are done

        return self.load().fingerprint(hash_or_missing)


@dataclass(frozen=True, kw_only=True)
class Alignments(Source):
    """A tsv with id, start, end and phone, for measuring; training steps do not take it."""

    type = "alignments"
    file: str = path()

    def content(self, hash_file: HashFile) -> str:
        return hash_file(self.file)


@dataclass(frozen=True, kw_only=True)
class Model(Source):
    """Weights from outside, of which each field takes its part.

    `name` is an embedded set or a published encoder; `file` a set or a single model on disk, in any form that `load_encoder` takes.
    """

    type = "model"
    name: str | None = None
    file: str | None = path(None)

    def content(self, hash_file: HashFile) -> dict[str, Any]:
        if entry := self._published():
            from textless.units.published import fetch_codebook, fetch_encoder

            places = {"encoder": fetch_encoder(self.name or "")} | ({"codebook": fetch_codebook(self.name or "")} if entry.codebook else {})
            hashes = {f"{part}/{k}": v for part, place in places.items() for k, v in _weights(place, hash_file).items()}
            return {**hashes, "normalisation": entry.normalisation, "layer": entry.layer}
        return _weights(self._place(), hash_file)

    def part(self, field: str) -> Path | str:
        """What stands for a field: a folder, a file, or a published name."""
        if self._published():
            return self.name or ""
        place = self._place()
        return place / field if (place / field).is_dir() else place

    def _published(self) -> Any:
        from textless.units.published import PUBLISHED

        return PUBLISHED.get(self.name or "") if self.file is None else None

    def _place(self) -> Path:
        from textless.model import find_model

        if (self.name is None) == (self.file is None):
            raise ModelError("a model is given by its name or by its file, one of the two")
        return Path(self.file) if self.file is not None and Path(self.file).is_file() else find_model(self.file or self.name or "")


def _weights(place: Path, hash_file: HashFile) -> dict[str, str]:
    """Hashes of a file, or of what a folder's models are read from."""
    if place.is_file():
        return {"": hash_file(str(place))}
    kinds = (".safetensors", ".bin", "config.json", ".index.json")
    return {str(f.relative_to(place)): hash_file(str(f)) for f in sorted(place.rglob("*")) if f.is_file() and f.name.endswith(kinds)}


def _place(job: Job, step: Any, field: str) -> Path | str:
    """Where the model that a field names lies: an artefact, or a part of weights from outside."""
    value = getattr(step, field)
    return value.part(field) if isinstance(value, Model) else job.inputs[field]


# ----------------------------------------------------------------------------------------------------- audio to units


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
    return load_encoder(_place(job, step, "encoder"), layer, precision=step.precision, window=window, device=step.device)


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


def _finish_units(job: Job, contract: UnitContract) -> None:
    from textless.units.dump import finish_dump

    job.metrics = finish_dump(job.path, contract=contract)
    job.contract = contract.to_dict()


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

        codebook = load_codebook(_place(job, self, "codebook"))
        return Tokenizer(_encoder(job, self, codebook.contract), codebook)

    def shard(self, tools: Tokenizer, rows: list, out: Path) -> list[dict[str, Any]]:
        from textless.units.dump import write_results
        from textless.units.encode import tokenize

        return write_results(out, tokenize(rows, tools, batch_seconds=self.batch_seconds), contract=tools.contract)

    def finish(self, job: Job, tools: Tokenizer) -> None:
        _finish_units(job, tools.contract)


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
        _finish_units(job, contract)


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
        audio = _packed(job, self.audio, set(labels))
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
            log=_progress(job, self.steps),
        )
        model.load_state_dict(round_half(model.state_dict()))
        save_encoder(job.path, model)
        hours = self.steps * self.batch * self.crop_seconds / 3600
        job.metrics = {**curve[-1], "audio_hours_seen": round(hours, 2), "curve": curve}


def _packed(job: Job, corpus: Corpus, ids: set[str]) -> PackedAudio:
    """The audio of the rows that have units, decoded into the step's scratch folder."""
    from textless.corpus import Corpus as Rows
    from textless.corpus import PackedAudio

    rows = [row for row in corpus.load() if row.id in ids]
    if not rows:
        raise TrainingError("no id stands both in the corpus and in the units; encode the corpus that is trained on")
    return PackedAudio.build(Rows(rows), job.scratch / "audio")


def _progress(job: Job, steps: int) -> Any:
    def log(step: int, row: dict[str, float]) -> None:
        figures = " ".join(f"{k} {v:.3g}" for k, v in row.items() if k != "step")
        job.progress(step, steps, figures)

    return log


# ------------------------------------------------------------------------------------------------- the language model


@dataclass(frozen=True, kw_only=True)
class TrainLM(Step):
    """A unit language model; `dev` units are only measured on."""

    type = "train_lm"
    units: Step
    dev: Step | None = None
    preset: str = "tiny"
    start: Step | None = None
    steps: int
    batch_tokens: int = 8192
    context: int = 512
    lr: float = 1e-3
    dropout: float = 0.1
    precision: str = "fp32"
    seed: int = 0
    device: str = runtime("cpu")

    def run(self, job: Job) -> None:
        from textless.lm import from_causal, train_lm
        from textless.units.dump import Dump
        from textless.weights import round_half

        dump = Dump(job.inputs["units"])
        start = None
        if self.start is not None:
            start = from_causal(Path(_place(job, self, "start")), dump.contract, context=self.context, seed=self.seed)
        dev = [row.units for row in Dump(job.inputs["dev"])] if self.dev else None
        lm, job.metrics = train_lm(
            [row.units for row in dump],
            contract=dump.contract,
            preset=self.preset,
            start=start,
            steps=self.steps,
            batch_tokens=self.batch_tokens,
            context=self.context,
            lr=self.lr,
            dropout=self.dropout,
            dev=dev,
            seed=self.seed,
            checkpoint=job.scratch / "checkpoint.pt",
            log=_progress(job, self.steps),
            device=self.device,
            precision=self.precision,
        )
        lm.load_state_dict(round_half(lm.state_dict()))
        lm.save(job.path)
        job.contract = dump.contract.to_dict()


@dataclass(frozen=True, kw_only=True)
class Continue(MapStep):
    """Prompts and what the language model adds to them, as a unit dump."""

    type = "continue"
    lm: Step
    prompts: Step
    seconds: float = 3.0
    prompt_seconds: float | None = None
    samples: int = 1
    limit: int | None = None
    temperature: float = 0.7
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int | None = None
    precision: str = "fp32"
    seed: int = 0
    only_new: bool = False

    def rows(self, job: Job) -> list:
        from textless.units.dump import Dump

        return sorted(Dump(job.inputs["prompts"]), key=lambda row: row.id)[: self.limit]

    def tools(self, job: Job) -> Any:
        from textless.lm import load_lm

        return load_lm(_place(job, self, "lm"), precision=self.precision)

    def shard(self, tools: Any, rows: list, out: Path) -> list[dict[str, Any]]:
        from textless.model import continue_rows
        from textless.units.dump import write_results

        new = continue_rows(
            tools,
            rows,
            seconds=self.seconds,
            prompt_seconds=self.prompt_seconds,
            samples=self.samples,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram=self.no_repeat_ngram,
            seed=self.seed,
            only_new=self.only_new,
        )
        return write_results(out, ((row, row) for row in new), contract=tools.contract)

    def finish(self, job: Job, tools: Any) -> None:
        from textless.lm.diversity import diversity
        from textless.units.dump import Dump
        from textless.units.types import Units

        _finish_units(job, tools.contract)
        added: dict[str, list] = {}
        for row in Dump(job.path):
            new = Units.from_frames(row.units.frames()[row.extra["prompt_frames"] :])
            added.setdefault(row.id.removesuffix(f"-{row.extra['sample']}") if self.samples > 1 else row.id, []).append(new.units)
        if added:
            job.metrics = {**(job.metrics or {}), "diversity": diversity(added)}


@dataclass(frozen=True, kw_only=True)
class Score(Step):
    """Likelihood of units, and of real ones against the same reversed, shuffled and spliced."""

    type = "score"
    lm: Step
    units: Step
    seed: int = 0

    def run(self, job: Job) -> None:
        from textless.lm import load_lm
        from textless.lm.score import controls, score
        from textless.lm.train import evaluate
        from textless.units.dump import Dump

        lm, rows = load_lm(_place(job, self, "lm")), list(Dump(job.inputs["units"]))
        (job.path / "scores.jsonl").write_text("".join(json.dumps(s) + "\n" for s in score(lm, rows)))
        job.metrics = {**evaluate(lm, [row.units for row in rows]), **controls(lm, rows, seed=self.seed)}


# -------------------------------------------------------------------------------------------------------- the vocoder


@dataclass(frozen=True, kw_only=True)
class TrainVocoder(Step):
    """A voice from units and their audio."""

    type = "train_vocoder"
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

    def run(self, job: Job) -> None:
        from functools import partial

        from textless.units.dump import Dump
        from textless.vocoder import Clip, train_vocoder
        from textless.weights import round_half

        dump = Dump(job.inputs["units"])
        rows = {row.id: row.units for row in dump}
        audio = _packed(job, self.audio, set(rows))
        clips = [
            Clip(rows[name], partial(audio.waveform, i), int(samples), speaker)
            for i, (name, samples, speaker) in enumerate(zip(audio.ids, audio.lengths, audio.speakers, strict=True))
        ]
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
            log=_progress(job, self.steps),
            device=self.device,
            precision=self.precision,
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

        vocoder = load_vocoder(_place(job, self, "vocoder"))
        rows = Dump(job.inputs["units"])
        for n, _ in enumerate(speak_rows(vocoder, rows, job.path, speaker=self.speaker, durations=self.durations), 1):
            job.progress(n, len(rows), "files")


# ------------------------------------------------------------------------------------------------ quality and release


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


STEPS: dict[str, type[Step]] = {
    cls.type: cls
    for cls in (
        Corpus,
        Alignments,
        Model,
        Frames,
        KMeans,
        Lda,
        Assign,
        Encode,
        Pretrain,
        TrainLM,
        Continue,
        Score,
        TrainVocoder,
        Resynth,
        UnitQuality,
        Bundle,
    )
}
