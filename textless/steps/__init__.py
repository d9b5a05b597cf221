"""The stages as steps: thin adapters from library functions to the engine, and the one table that pipelines name them by.

Nothing heavy is imported before a step runs, so that planning costs no more than reading the pipeline.
"""

from __future__ import annotations

from textless.engine.step import Step
from textless.steps.encoders import Ladder, Lda, Pretrain
from textless.steps.lm import Continue, Score, TrainLM
from textless.steps.quality import FrameABX, Robustness, UnitQuality
from textless.steps.sources import Alignments, Corpus, Items, Model
from textless.steps.units import Assign, Encode, Frames, KMeans
from textless.steps.vocoder import Bundle, Resynth, TrainVocoder

STEPS: dict[str, type[Step]] = {
    cls.type: cls
    for cls in (
        Corpus,
        Alignments,
        Items,
        Model,
        Frames,
        KMeans,
        Ladder,
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
        FrameABX,
        Robustness,
        Bundle,
    )
}
