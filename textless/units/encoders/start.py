"""What a pre-training starts with: encoder and classifier, fresh, ours, or of another project's checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textless.devices import fork_rng
from textless.errors import TrainingError
from textless.model_io import round_half
from textless.training.configs import PretrainConfig
from textless.training.loop import Dropout
from textless.units.encoders.convert import Checkpoint, open_checkpoint
from textless.units.encoders.hubert import PRESETS, Hubert
from textless.units.encoders.load import resolve_encoder

if TYPE_CHECKING:
    from textless.units.mfcc_lda.vtln import Voice

SPECIALS = 4  # classes before the labels: special symbols of fairseq's dictionaries


class Head(nn.Module):
    """Classifier of frames: (…, dim) → logits (…, n_classes).

    `linear` is for plain cross-entropy, cheaper and as good (MelHuBERT). `cosine` is the paper's equation 3: the cosine
    between the projected frame and the embedding of each class, of `final_dim` values, divided by 0.1.

    Class `first` is label 0: fairseq's heads begin with classes that no label has.
    """

    def __init__(self, dim: int, n_classes: int, kind: str, *, final_dim: int = 256, first: int = 0) -> None:
        super().__init__()
        self.kind, self.first = kind, first
        if kind == "linear":
            self.final_proj = nn.Linear(dim, n_classes)
        else:
            self.final_proj = nn.Linear(dim, final_dim)
            self.label_embs = nn.Parameter(torch.empty(n_classes, final_dim).uniform_())

    def forward(self, x: Tensor) -> Tensor:
        x = self.final_proj(x)
        if self.kind == "linear":
            return x
        return F.normalize(x.float(), dim=-1) @ F.normalize(self.label_embs.float(), dim=-1).T / 0.1


def load_pretrained(source: Path | str) -> Hubert:
    """A HuBERT or wav2vec 2.0 to train further: all layers, weight norm not folded.

    Args:
        source: a file, folder or published name, as of `load_encoder`.

    Raises ModelError.
    """
    return _open(source).load_trainable()


def _open(source: Path | str) -> Checkpoint:
    """A checkpoint with the waveform normalisation that is published for it, if its own files are unreliable."""
    place, _, normalisation = resolve_encoder(source)
    checkpoint = open_checkpoint(place)
    if normalisation is None:
        return checkpoint
    return replace(checkpoint, config=replace(checkpoint.config, normalisation=normalisation))


def networks(
    config: PretrainConfig, n_classes: int, start: Hubert | Path | str | None, voice: Voice | None, device: str
) -> tuple[Hubert, Head]:
    """The encoder and the classifier, on the CPU; arguments and errors are those of `pretrain`."""
    origin = _open(start) if isinstance(start, Path | str) else start
    _check_start(config, origin)
    with fork_rng(device):
        torch.manual_seed(config.seed)
        model = _network(config, origin, voice)
        if isinstance(origin, Checkpoint) and config.head == "keep":
            head = _kept_head(origin, n_classes)
        else:
            head = Head(model.config.dim, n_classes, config.head)
    if start is not None and voice is not None:
        own, weights = model.voice.state_dict() if model.voice is not None else {}, round_half(voice.state_dict())
        if not (own and all(torch.equal(own[name], weights[name]) for name in own)):
            raise TrainingError("the encoder to start from has another voice; use the ladder that it was trained with")
    for module in model.encoder.layers.modules():
        if isinstance(module, Dropout):
            module.p = config.dropout
    frozen = config.freeze_front_end
    model.feature_extractor.requires_grad_(not (isinstance(origin, Checkpoint) if frozen is None else frozen))
    return model, head


def _check_start(config: PretrainConfig, origin: Hubert | Checkpoint | None) -> None:
    """Raise TrainingError when options do not fit what the training starts from."""
    if config.head == "keep" and not isinstance(origin, Checkpoint):
        raise TrainingError("head is keep, but only a file, folder or name to start from brings a head; give one")
    if config.freeze_front_end and origin is None:
        raise TrainingError("freeze_front_end would freeze random weights; give start, or leave it out")
    if isinstance(origin, Checkpoint) and config.preset != PretrainConfig.preset:
        preset, shape = PRESETS[config.preset], origin.config
        if (preset.dim, preset.layers) != (shape.dim, shape.layers):
            raise TrainingError(
                f"preset is {config.preset}, {preset.layers} layers of {preset.dim}, but {origin.place} has "
                f"{shape.layers} of {shape.dim}; leave preset out: the start has its own shape"
            )


def _network(config: PretrainConfig, origin: Hubert | Checkpoint | None, voice: Voice | None) -> Hubert:
    """An encoder with random weights, or with those of the origin."""
    if isinstance(origin, Checkpoint):
        return origin.load_trainable()
    shape = PRESETS[config.preset] if origin is None else origin.config
    weights = {} if voice is None else round_half(voice.state_dict())
    if weights and origin is None:
        clusters, dim = weights["centroids"].shape
        shape = replace(shape, voice_clusters=clusters, voice_dim=dim)
    model = Hubert(shape).train()
    if origin is not None:
        model.load_state_dict(origin.state_dict())
    elif model.voice is not None:
        model.voice.load_state_dict(weights)
    return model


def _kept_head(origin: Checkpoint, n_classes: int) -> Head:
    """The head of a checkpoint of fairseq's. Raises ModelError, and TrainingError when its labels are others."""
    weights = origin.load_head()
    classes, final_dim = weights["label_embs"].shape
    if classes - SPECIALS != n_classes:
        raise TrainingError(
            f"{origin.place}: its head is for {classes - SPECIALS} labels where there are {n_classes}; "
            "train a new one (head: linear or cosine)"
        )
    head = Head(origin.config.dim, classes, "cosine", final_dim=final_dim, first=SPECIALS)
    head.load_state_dict(weights)
    return head
