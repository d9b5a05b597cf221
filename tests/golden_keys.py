"""Keys of every step type, over all shipped pipelines: what a change of the code must not change without a version.

    python tests/golden_keys.py            # writes tests/data/golden_keys.txt

What comes from outside (audio, alignments, weights) has a fixed content here, so that the keys depend on the code and
the pipelines alone. A line holds the pipeline, the step's name in it, its type, and the first 12 digits of its key; for
a map also those of a shard's key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_type_hints
from unittest.mock import patch

from textless.engine.step import Keys, MapStep, Source, Step
from textless.engine.yaml import load_pipeline
from textless.steps import (
    STEPS,
    Align,
    Alignments,
    Benchmark,
    BenchmarkData,
    Corpus,
    FrameABX,
    Frames,
    Items,
    KMeans,
    Ladder,
    Lda,
    Probe,
    Text,
)
from textless.steps.quality import Continuations, CopySynthesis

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
TABLE = Path(__file__).resolve().parent / "data" / "golden_keys.txt"


def named_steps() -> Iterator[tuple[str, str, Step]]:
    """Pipeline, name and step: those of the shipped pipelines, then the types that no shipped pipeline names."""
    seen = set()
    for file in sorted(PIPELINES.glob("*.yaml")):
        for name, step in sorted(load_pipeline(file, STEPS).steps.items()):
            seen.add(step.type)
            yield file.name, name, step
    corpus = Corpus(manifest="x")
    mfcc = Frames(audio=corpus, encoder="mfcc")
    others: list[Step] = [
        Align(audio=corpus, text=Text(file="x")),
        Lda(frames=mfcc, codebook=KMeans(frames=mfcc, n_units=100)),
        Ladder(audio=corpus),
        smallest(Alignments),
        smallest(Items),
        FrameABX(frames=mfcc, items=Items(file="x")),
        BenchmarkData(name="abx", folder="x"),
        Benchmark(data=BenchmarkData(name="abx", folder="x"), frames=mfcc),
        Continuations(speech=CopySynthesis(audio=corpus)),
        Probe(of=mfcc, column="speaker"),
    ]
    written = {step.type for step in others}
    others += [smallest(cls) for kind, cls in STEPS.items() if kind not in seen | written]
    yield from (("-", step.type, step) for step in others if step.type not in seen)


def smallest(cls: type[Step]) -> Step:
    """A step with its required fields alone: text is "x", a number 1, a step the smallest one of its type."""
    hints = get_type_hints(cls)

    def value(hint: type) -> object:
        hint = (get_args(hint) or (hint,))[0]  # of several types the first
        if isinstance(hint, type) and issubclass(hint, Step):
            return Frames(audio=Corpus(manifest="x"), encoder="mfcc") if hint is Step else smallest(hint)
        return "x" if hint is str else 1

    return cls(**{f.name: value(hints[f.name]) for f in fields(cls) if f.default is f.default_factory is MISSING})


def table() -> str:
    """The lines of `data/golden_keys.txt`."""
    with contextlib.ExitStack() as fixed:
        for cls in STEPS.values():
            if issubclass(cls, Source):
                fixed.enter_context(patch.object(cls, "content", lambda self, hash_file: "c"))
            if issubclass(cls, MapStep):
                fixed.enter_context(patch.object(cls, "identity", lambda self, row, hash_file: row))
        return "".join(_lines(Keys(lambda file: "0" * 64)))


def _lines(keys: Keys) -> Iterator[str]:
    for file, name, step in named_steps():
        shard = f" {keys.shard(step, ['row'])[:12]}" if isinstance(step, MapStep) else ""
        yield f"{file} {name} {step.type} {keys.of(step)[:12]}{shard}\n"


if __name__ == "__main__":
    TABLE.write_text(table())
