"""The stages as steps: thin adapters from library functions to the engine, and the one table that pipelines name them by.

Nothing heavy is imported before a step runs, so that planning costs no more than reading the pipeline.
"""

from __future__ import annotations

from textless.engine.step import Step
from textless.steps.lm import Continue, Score, TrainLM
from textless.steps.sources import Alignments, Corpus, Model
from textless.steps.units import Assign, Encode, Frames, KMeans, Lda, Pretrain, UnitQuality
from textless.steps.vocoder import Bundle, Resynth, TrainVocoder

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
