"""Configurations of the three trainings: the trainer reads one, and the pipeline step inherits its fields.

Nothing heavy is imported: planning a pipeline needs the fields and not the trainers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from textless.checks import (
    Between,
    Count,
    Device,
    Dropped,
    Large,
    NotNegative,
    OneOf,
    Positive,
    Precision,
    Probability,
    Seed,
    Share,
    runtime,
)
from textless.errors import TrainingError

# Presets of `units.encoders.hubert`, and the number of layers of each.
HUBERT_LAYERS = {"nano": 2, "tiny": 4, "small": 8, "base": 12, "large": 24, "xlarge": 48}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fields of every training.

    Attributes:
        lr: peak learning rate of AdamW.
        precision: `fp32`, or `bf16` for autocast with fp32 parameters and losses.
        seed: of everything random. On one device and number of threads, the same seed gives the same weights bit for
            bit, interrupted or not.
        device: where it runs; with several processes on a host, `cuda` is the GPU with the number of the process.
        micro_batch: rows of a batch computed at once, None = all. Fewer need less memory and change the last bits.
    """

    lr: Positive = 1e-3
    precision: Precision = "fp32"
    seed: Seed = 0
    device: Device = runtime("cpu")
    micro_batch: Count | None = runtime(None)

    def check(self) -> None:
        """Raise TrainingError for fields that do not go together; annotations say what each may hold alone."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """HuBERT pre-training.

    Attributes:
        preset: size of the encoder, a name of `units.encoders.hubert.PRESETS`.
        steps: updates.
        batch: crops per update.
        crop_seconds: length of a crop.
        mask_prob: share of the frames in masked spans, before overlap.
        mask_span: frames of a span.
        unmasked_weight: weight of the loss over unmasked frames; masked frames have weight 1.
        dropout: share of each sublayer's output that is set to zero. It keeps a small encoder from learning its teacher
            by heart.
        layer_drop: probability of each block to be skipped in an update, for the whole batch.
        head: classifier: `linear` (cross-entropy), `cosine` (the paper's logits), or `keep`, that of the checkpoint to
            start from, which must be fairseq's.
        freeze_front_end: whether the front end keeps the weights that it starts with. None: it does when the start is
            from outside, as fairseq fine-tunes (`feature_grad_mult: 0` of its HubertAsrConfig), else not.
        layer_decay: the learning rate of each layer is that of the layer above times this; the head and the last norm
            have `lr` (Clark et al. 2020, arXiv:2003.10555, as BEiT's code numbers the layers).
    """

    preset: Annotated[str, OneOf(*HUBERT_LAYERS)] = "tiny"
    steps: Count
    batch: Count = 8
    crop_seconds: Positive = 4.0
    mask_prob: Probability = 0.8
    mask_span: Count = 10
    unmasked_weight: NotNegative = 0.5
    dropout: Dropped = 0.0
    layer_drop: Dropped = 0.0
    head: Annotated[str, OneOf("linear", "cosine", "keep")] = "linear"
    freeze_front_end: bool | None = None
    layer_decay: Share = 1.0


@dataclass(frozen=True, kw_only=True)
class LMTrainConfig(TrainConfig):
    """Training of a unit language model, for a budget of `steps`, `tokens` or `minutes`: exactly one of the three.

    Attributes:
        preset: size of the model, a name of `lm.model.PRESETS`.
        steps: updates.
        tokens: tokens to learn from, in as many updates as that takes.
        minutes: time, interruptions excluded, in one process. The schedule follows the clock, so the number of updates
            depends on the machine: for exploring.
        batch_tokens: tokens per update, rounded down to whole rows.
        context: tokens per row, and of the model.
        schedule: of the learning rate after a warm-up of 3 % of the steps: `cosine` down to a twentieth of the peak, or
            `inverse_sqrt` (fairseq's), falling with the root of the step.
        dropout: of embeddings and residual branches.
    """

    preset: Annotated[str, OneOf("nano", "tiny", "small", "base", "gslm")] = "tiny"
    steps: Count | None = None
    tokens: Large | None = None
    minutes: Positive | None = None
    batch_tokens: Count = 8192
    context: Annotated[int, Between(2, 2**18)] = 512
    schedule: Annotated[str, OneOf("cosine", "inverse_sqrt")] = "cosine"
    dropout: Dropped = 0.1

    def check(self) -> None:
        if sum(budget is not None for budget in (self.steps, self.tokens, self.minutes)) != 1:
            raise TrainingError("train_lm needs a budget, in steps, tokens or minutes; give one of the three")
        if self.batch_tokens < self.context:
            raise TrainingError(f"batch_tokens is {self.batch_tokens}, less than one row of context {self.context}")

    @property
    def batch(self) -> int:
        """Rows of `context` tokens per update."""
        return self.batch_tokens // self.context

    @property
    def updates(self) -> int | None:
        """Number of updates, None for a budget of time."""
        return self.steps if self.tokens is None else -(-self.tokens // (self.batch * self.context))


@dataclass(frozen=True, kw_only=True)
class VocoderTrainConfig(TrainConfig):
    """Training of a unit vocoder.

    Attributes:
        adversarial: size of the discriminators, `small` for a CPU or `large` for a GPU; None = spectral losses only.
            Discriminators start untrained, so start from a vocoder that already works.
        preset: size of the model, a name of `vocoder.model.PRESETS`.
        causal: whether convolutions see the past only.
        steps: updates.
        batch: crops per update.
        crop_seconds: length of a crop.
    """

    adversarial: Annotated[str, OneOf("small", "large")] | None = None
    preset: Annotated[str, OneOf("nano", "small", "base")] = "small"
    causal: bool = False
    steps: Count
    batch: Count = 16
    crop_seconds: Positive = 1.0
