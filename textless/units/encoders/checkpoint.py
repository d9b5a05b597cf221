"""A HuBERT in a file, in one form whatever project's file it is: configuration, and where each parameter is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from textless.errors import ModelError
from textless.model_io import check_blocks
from textless.units.encoders.hubert import Hubert, HubertConfig


@dataclass(frozen=True)
class Checkpoint:
    """A model in a file.

    Attributes:
        place: for messages.
        config: of the whole model.
        names: of each parameter, its name in the file.
        get: reads a tensor by its name in the file.
        tap: what its project takes of a block, `block` or `ffn`; see `UnitContract`.
        zeros: parameters that the project's module lacks, which are zero in ours.
        temperature: that fairseq's pre-training head divides its cosines by.
    """

    place: str
    config: HubertConfig
    names: dict[str, str]
    get: Callable[[str], Tensor]
    tap: str = "block"
    zeros: Collection[str] = ()
    temperature: float = 0.1

    def load(self, layer: int | None = None, *, normalisation: str | None = None) -> Hubert:
        """The model with its first `layer` blocks (None: all), weight norm folded, in float32; nothing above is read.

        Raises ModelError when there is no such layer, or the parameters are not those of the architecture, or not
        finite.
        """
        config = self.config if normalisation is None else replace(self.config, normalisation=normalisation)
        check_blocks(self.place, "the number of layers", config.layers, self.names, "encoder.layers.")
        layer = config.layers if layer is None else layer
        if not 1 <= layer <= config.layers:
            raise ModelError(f"{self.place}: layer {layer} does not exist: the encoder has layers 1 to {config.layers}")
        with torch.device("meta"):  # no random weights, which would be replaced
            model = Hubert(replace(config, layers=layer)).truncate(layer)
        return self._fill(model).fold_weight_norm().eval().requires_grad_(False)

    def load_trainable(self) -> Hubert:
        """The whole model in float32, to train further: with its last norm, weight norm not folded.

        A mask embedding that the file lacks, as torchaudio's do, is drawn from torch's generator. Raises ModelError as
        `load`.
        """
        check_blocks(self.place, "the number of layers", self.config.layers, self.names, "encoder.layers.")
        with torch.device("meta"):
            model = Hubert(self.config)
        self._fill(model)
        if "masked_spec_embed" not in self.names:
            nn.init.uniform_(model.masked_spec_embed)
        return model.train()

    def load_head(self) -> dict[str, Tensor]:
        """fairseq's pre-training head in float32; the first classes are the four special symbols of its dictionary.

        Returns:
            `final_proj.weight` (final_dim, dim), `final_proj.bias` (final_dim,), `label_embs` (K + 4, final_dim).

        Raises:
            ModelError: the file has none, one for several sets of labels, or one of another temperature than 0.1.
        """
        names = {name: name for name in ("final_proj.weight", "final_proj.bias")} | {"label_embs": "label_embs_concat"}
        if not all(name in self.names for name in names.values()):
            raise ModelError(f"{self.place}: has no pre-training head of fairseq's to keep; train a new one")
        if self.temperature != 0.1:
            raise ModelError(
                f"{self.place}: its pre-training head has temperature {self.temperature}, not 0.1; train a new one"
            )
        head = {ours: self.get(self.names[theirs]).float() for ours, theirs in names.items()}
        final_dim = head["label_embs"].shape[-1]
        shapes = [tuple(head[name].shape) for name in ("final_proj.weight", "final_proj.bias")]
        if head["label_embs"].ndim != 2 or shapes != [(final_dim, self.config.dim), (final_dim,)]:
            raise ModelError(f"{self.place}: its pre-training head is for several sets of labels; train a new one")
        return head

    def _fill(self, model: Hubert) -> Hubert:
        """Read the parameters of a model that is on the meta device."""
        self._check_architecture(model)
        state = {name: self._parameter(name, empty) for name, empty in model.state_dict().items()}
        model.load_state_dict(state, assign=True)
        return model

    def _check_architecture(self, model: Hubert) -> None:
        template = {_any_layer(n) for n in model.state_dict()} | {f"encoder.layer_norm.{p}" for p in ("weight", "bias")}
        if more := [n for n in self.names if n.startswith(("feature_", "encoder.")) and _any_layer(n) not in template]:
            raise ModelError(
                f"{self.place}: has {self.names[more[0]]}, which HuBERT does not have: it is of another architecture"
            )

    def _parameter(self, name: str, empty: Tensor) -> Tensor:
        if name in self.zeros or (name == "masked_spec_embed" and name not in self.names):  # for pre-training only
            return torch.zeros(empty.shape)
        if name not in self.names:
            raise ModelError(f"{self.place}: has no {name}; the file is damaged or of another architecture than HuBERT")
        tensor = self.get(self.names[name])
        if tensor.shape != empty.shape or not tensor.is_floating_point():
            actual = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            raise ModelError(f"{self.place}: {self.names[name]} is {actual} where {tuple(empty.shape)} is expected")
        return tensor.to(torch.float32, copy=True)  # not mapped from the file


def _any_layer(name: str) -> str:
    return re.sub(r"layers\.\d+\.", "layers.N.", name)
