"""What the tests of reliability run in processes of their own: small steps that know nothing of speech, and a chain of
the real ones.

It is imported by workers and by children that are forked from a server which has imported all of it, so that one costs
milliseconds.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile

from conftest import ROOT
from textless.engine import lease, store
from textless.engine.step import MapStep, Source, Step, path, runtime
from textless.engine.store import Store
from textless.steps import STEPS

PRELOAD = [
    "fault_steps",
    "torch",
    "faiss",
    "sklearn.cluster",
    "soundfile",
    "soxr",
    "pyarrow.parquet",
    "textless.training.loop",
    "textless.model",
    "textless.lm.train",
    "textless.metrics.diversity",
    "textless.metrics.lm",
    "textless.units.encoders.pretrain",
    "textless.audio.mfcc",
    "textless.units.tokenizer",
    "textless.units.kmeans",
    "textless.units.mfcc_lda.lda",
    "textless.units.mfcc_lda.ladder",
    "textless.units.encoders.projected",
    "textless.units.encoders.hubert_frames",
    "textless.vocoder.train",
    "textless.audio.f0",
    "textless.vocoder.griffin_lim",
    "textless.units.dump",
    "textless.training.tensorboard",
]


def note(log: str, what: str) -> None:
    """A line in a file that all processes share: short appends are never torn."""
    with open(log, "a") as f:
        f.write(f"{what}\n")


def notes(log: str | Path) -> list[str]:
    return Path(log).read_text().split() if Path(log).exists() else []


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file of an artefact, or of all artefacts, but for the manifests."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "manifest.json"
    }


# ---------------------------------------------------------------------------------------------- steps without speech


@dataclass(frozen=True, kw_only=True)
class Files(Source):
    """A folder of text files."""

    type = "files"
    folder: str = path()

    def content(self, hash_file):
        return [[p.stem, hash_file(str(p))] for p in sorted(Path(self.folder).iterdir())]


@dataclass(frozen=True, kw_only=True)
class Work(Step):
    """Some files, one after the other, as `mode` has it; each execution is a line in `log`."""

    type = "work"
    name: str = "work"
    parts: int = 4
    below: Step | None = None
    log: str = runtime("")
    pause: float = runtime(0.0)
    mode: str = runtime("")

    def run(self, job):
        if self.log:
            note(self.log, self.name)
        below = (job.inputs["below"] / "parts" / "0.txt").read_text() if self.below else ""
        for n in range(self.parts):
            time.sleep(self.pause)
            (job.path / "parts").mkdir(parents=True, exist_ok=True)  # as many a library's save does
            (job.path / "parts" / f"{n}.txt").write_text(f"{self.name} {n} {below}".strip() * 50)
            if n == 1 and self.mode == "stop" and not (job.scratch / "stopped").exists():
                (job.scratch / "stopped").touch()
                os.kill(os.getpid(), signal.SIGSTOP)


@dataclass(frozen=True, kw_only=True)
class Copy(MapStep):
    """Files, repeated; each shard is a line in `log`.

    `mode` is what befalls a worker in it, and `marks` the folder that says it did.
    """

    type = "copy"
    rows_from = ("files",)
    files: Files
    times: int = 1
    log: str = runtime("")
    pause: float = runtime(0.0)
    mode: str = runtime("")
    marks: str = runtime("")

    def rows(self, job):
        return [SimpleNamespace(id=p.stem, path=str(p)) for p in sorted(Path(self.files.folder).iterdir())]

    def identity(self, row, hash_file):
        return [row.id, hash_file(row.path)]

    def shard_path(self, n):
        return f"data/{n}"

    def shard(self, tools, rows, out):
        if self.log:
            note(self.log, "shard")
        for half, some in enumerate(
            (rows[::2], rows[1::2])
        ):  # two files, each whole, in a folder made as many a library does
            time.sleep(self.pause)
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{half}.txt").write_text("".join(Path(row.path).read_text() * self.times for row in some))
            if not half:
                self._befall(rows[0])
        return [{"id": row.id, "error": "odd"} for row in rows if self.mode == "fail" and row.id.endswith("7")]

    def _befall(self, row):
        if self.mode == "die" or (self.mode == "die-once" and _first(self.marks, "died")):
            os._exit(9)
        if self.mode == "kill-once" and _first(self.marks, "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mode == "stop" and _first(self.marks, "stopped"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.mode == "rewrite" and _first(self.marks, "rewritten"):
            Path(row.path).write_text("something else")


def _first(folder: str, what: str) -> bool:
    """Whether this is the first visit."""
    try:
        os.close(os.open(Path(folder) / what, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------ the real ones


def write_noise(folder: Path, names: list[str], *, seconds: float = 0.15, salt: int = 0) -> None:
    """A noise of its own for each name, 16 bits at 16 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        noise = np.random.default_rng([salt, *name.encode()]).integers(
            -9000, 9000, round(seconds * 16000), dtype=np.int16
        )
        soundfile.write(folder / f"{name}.wav", noise, 16000, subtype="PCM_16")


def write_corpus(folder: Path, rows: int, *, seconds: float, order: int = 1) -> Path:
    """Hums of two speakers that differ, with their manifest, words and phones; returns the manifest.

    `order` -1 turns it round.
    """
    names = [f"s{n:03d}" for n in range(rows)]
    (folder / "audio").mkdir(parents=True)
    for n, name in enumerate(names):
        draw = np.random.default_rng(n)
        t = np.arange(round((seconds + 0.02 * (n % 5)) * 16000)) / 16000
        wave = 0.3 * np.sin(
            2 * np.pi * (110 + 40 * (n % 7)) * t * (1 + 0.2 * np.sin(5 * t))
        ) + 0.03 * draw.standard_normal(len(t))
        soundfile.write(folder / "audio" / f"{name}.wav", wave.astype(np.float32), 16000, subtype="PCM_16")
    lines = [f"{name}\taudio/{name}.wav\t{'ab'[n % 2]}" for n, name in enumerate(names)]
    (folder / "speech.tsv").write_text("\n".join(["id\tpath\tspeaker", *lines[::order]]) + "\n")
    (folder / "words.tsv").write_text("".join(f"{name}\tyes\n" for name in names))
    (folder / "said.tsv").write_text("amy-0\tThe kettle sings before the water boils.\n")
    times = [f"{a * seconds / 4:.3f}" for a in range(5)]
    phones = [
        f"{name}\t{times[a]}\t{times[a + 1]}\t{'aebf'[(a + n) % 4]}" for n, name in enumerate(names) for a in range(4)
    ]
    (folder / "phones.tsv").write_text("\n".join(["id\tstart\tend\tphone", *phones]) + "\n")
    items = [
        f"{name} {times[a]} {times[a + 1]} {'aebf'[(a + n) % 4]} p q {'ab'[n % 2]}"
        for n, name in enumerate(names)
        for a in range(4)
    ]
    (folder / "audio" / "test.item").write_text(
        "\n".join(["#file onset offset #phone prev next speaker", *items]) + "\n"
    )
    (folder / "units.txt").write_text("".join(f"{name}|1 1 2 5 5 {n}\n" for n, name in enumerate(names[:7])))
    return folder / "speech.tsv"


def chain(manifest: Path, *, steps: int = 4, **changes: dict[str, object]) -> dict[str, Step]:
    """One step of every kind that makes something, by name, inputs first; `changes` are fields by the step's name."""
    made: dict[str, Step] = {}

    def add(name: str, kind: str, **settings: object) -> Step:
        made[name] = STEPS[kind](**{**settings, **changes.get(name, {})})
        return made[name]

    corpus = STEPS["corpus"](manifest=str(manifest))
    phones = STEPS["alignments"](file=str(manifest.with_name("phones.tsv")))
    mfcc = add("mfcc", "frames", audio=corpus, encoder="mfcc")
    km1 = add("km1", "kmeans", frames=mfcc, n_units=8, iterations=5)
    labels = add("labels", "assign", frames=mfcc, codebook=km1)
    lm1 = add("lm1", "train_lm", units=labels, preset="nano", steps=steps, batch_tokens=128, context=32)
    add("more1", "continue", lm=lm1, prompts=labels, prompt_seconds=0.1, seconds=0.1)
    add("ladder", "ladder", audio=corpus, n_clusters=8, dim=6, rounds=1, hours=0.001)
    add("lda", "lda", frames=mfcc, codebook=km1, dim=5)
    hubert = add(
        "hubert",
        "pretrain",
        audio=corpus,
        labels=labels,
        preset="nano",
        steps=steps,
        batch=4,
        crop_seconds=0.2,
        layer_drop=0.1,
    )
    hidden = add("hidden", "frames", audio=corpus, encoder=hubert, layer=2)
    km2 = add("km2", "kmeans", frames=hidden, n_units=8, iterations=5, transform="layer_norm")
    units = add("units", "encode", audio=corpus, encoder=hubert, codebook=km2)
    add("taken", "units", file=str(manifest.with_name("units.txt")), format="gslm", frame_rate=50.0, n_units=8)
    add("pairs", "merge", units=units, n_units=10)
    lm = add("lm", "train_lm", units=units, dev=units, preset="nano", steps=steps, batch_tokens=128, context=32)
    f0 = add("f0", "f0", audio=corpus)
    pitched = add("pitched", "pitch", units=units, f0=f0)
    add("melody", "train_lm", units=pitched, dev=pitched, preset="nano", steps=steps, batch_tokens=128, context=32)
    voiced = {"audio": corpus, "units": units, "f0": f0, "preset": "nano", "crop_seconds": 0.2}
    mel = add("mel", "train_vocoder", **voiced, steps=steps, batch=4)
    voice = add("voice", "train_vocoder", **voiced, start=mel, adversarial="small", steps=max(2, steps // 2), batch=2)
    add("set", "bundle", encoder=hubert, codebook=km2, lm=lm, vocoder=voice)
    more = add("more", "continue", lm=lm, prompts=units, prompt_seconds=0.1, seconds=0.2)
    speech = add("speech", "resynth", units=more, vocoder=voice)
    add("heard", "continuations", speech=speech)
    add("scores", "score", lm=lm, units=units)
    add("worth", "quality", units=units, alignments=phones)
    add("apart", "difference", a=labels, b=units, alignments=phones)
    read = STEPS["corpus"](manifest=str(ROOT / "pipelines" / "smoke"))  # hums have no words; those without any fail
    add("said", "align", audio=read, text=STEPS["text"](file=str(manifest.with_name("said.tsv"))))
    add("read_off", "probe", of=units, alignments=phones)
    add("abx", "abx", frames=mfcc, alignments=phones)
    test = STEPS["benchmark_data"](name="abx", folder=str(manifest.with_name("audio")))
    add("field", "benchmark", data=test, frames=mfcc)
    add("robust", "robustness", audio=corpus, encoder="mfcc", codebook=km1)
    copies = add("copies", "copy_synthesis", audio=corpus)
    add("judged", "speech_quality", speech=copies, reference=corpus, encoder="mfcc", codebook=km1)
    return made


def runtime_fields(kind: type[Step]) -> set[str]:
    """Fields that are not in the key, but for paths."""
    return {f.name for f in fields(kind) if f.metadata.get("runtime") and not f.metadata.get("path")}


# --------------------------------------------------------------------------------------------------- in a child process


def start(function: Callable[..., None], *args: object, **kwargs: object) -> multiprocessing.Process:
    """A child that calls the function, forked from a server that has imported everything and computed nothing."""
    child = _server().Process(target=function, args=args, kwargs=kwargs)
    child.start()
    return child


@functools.cache
def _server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the server does not take it from us otherwise
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return context


def barrier(count: int):
    return _server().Barrier(count, timeout=120)


def run(
    root: str, step: Step, *, on: str | None = None, beat: float = 0, patience: float = 0, often: bool = False
) -> None:
    """Run a step; with `often`, trainings write a checkpoint with every row."""
    import torch

    from textless.training import loop as training

    torch.set_num_threads(1)
    lease.BEAT, lease.PATIENCE, store.POLL = beat or lease.BEAT, patience or lease.PATIENCE, 0.02
    if often:
        training.CHECKPOINT_SECONDS = training.CHECKPOINT_STEPS = 0
        training.train.__kwdefaults__["log_every"] = 4
    Store(root, on=on).run(step)


def rounds(number: int, meet, roots: list[str], steps: list[Step], *, seed: int, leases: bool) -> None:
    """In step with the other children: the steps in one store after the other.

    Without leases, any of them may seem stale.
    """
    store.POLL = 0.005
    draw = random.Random(1000 * seed + number)
    if not leases:
        lease.Lease._stale = lambda self, text: draw.random() < 0.05
    for root in roots:
        meet.wait()
        time.sleep(draw.choice((0, 0, 0.02)) * draw.random())
        for step in steps:
            Store(root).run(step)


def keep_guard(folder: str) -> None:
    with lease.guard(Path(folder)):
        (Path(folder) / "held").touch()
        time.sleep(600)


def copies(folder: Path) -> Callable[..., Copy]:
    """150 small files, four shards, and what copies them: a step of any settings."""
    for name in ("texts", "marks"):
        (folder / name).mkdir()
    for n in range(150):
        (folder / "texts" / f"t{n}.txt").write_text(f"text {n}\n")
    files, log = Files(folder=str(folder / "texts")), str(folder / "log")
    return lambda **kwargs: Copy(files=files, log=log, marks=str(folder / "marks"), **kwargs)
