"""Steps: thin adapters from library functions to the engine, and the table of their names in pipelines.

Nothing heavy is imported before a step runs, so that planning costs no more than reading the pipeline. A new step is a
class in one of these files, a line of `STEPS`, and a section of docs/steps.md; `python tests/golden_keys.py` then
records its key.
"""

from __future__ import annotations

from textless.engine.step import Step
from textless.steps.align import Align
from textless.steps.benchmark import Benchmark, BenchmarkData
from textless.steps.encoders import Ladder, Lda, Pretrain
from textless.steps.lm import Continue, Score, TrainLM
from textless.steps.merge import Merge
from textless.steps.probe import Probe
from textless.steps.quality import (
    Continuations,
    CopySynthesis,
    Difference,
    FrameABX,
    Robustness,
    SpeechQuality,
    UnitQuality,
)
from textless.steps.sources import Alignments, Corpus, Items, Labels, Model, Pretrained, Text
from textless.steps.units import Assign, Encode, Frames, KMeans, Units
from textless.steps.vocoder import F0, Bundle, Pitch, Resynth, TrainVocoder

STEPS: dict[str, type[Step]] = {
    cls.type: cls
    for cls in (
        Corpus,
        Alignments,
        Items,
        Labels,
        Text,
        Model,
        Pretrained,
        Frames,
        KMeans,
        Ladder,
        Lda,
        Assign,
        Encode,
        Units,
        Merge,
        Pretrain,
        TrainLM,
        Continue,
        Score,
        F0,
        Pitch,
        TrainVocoder,
        Resynth,
        Align,
        UnitQuality,
        FrameABX,
        Robustness,
        CopySynthesis,
        SpeechQuality,
        Continuations,
        Difference,
        BenchmarkData,
        Benchmark,
        Probe,
        Bundle,
    )
}
