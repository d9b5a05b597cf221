"""A HuBERT as an encoder: waveforms → the frames of one of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textless.audio.waveform import as_blocks, as_waveform, as_waveforms
from textless.errors import ModelError, check_known
from textless.model_io import from_torch, save_model
from textless.types import TAPS, Blocks, UnitContract
from textless.units.encoders import hubert_frames
from textless.units.encoders.base import Encoder, encoder_digest

if TYPE_CHECKING:
    from textless.units.encoders.hubert import Hubert

WINDOW_SECONDS = 60.0  # attention sees longer files in windows of this length


class HubertEncoder(Encoder):
    """A HuBERT up to one of its layers.

    Args:
        model: as `Checkpoint.load` gives it; blocks above the layer are removed, in place.
        precision, window, tap: see `Extractor`.
    """

    def __init__(
        self,
        model: Hubert,
        layer: int,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        window: float = WINDOW_SECONDS,
        tap: str = "block",
    ) -> None:
        from textless.units.encoders.extract import Extractor

        check_known("tap", tap, TAPS, ModelError)
        if not 1 <= layer <= len(model.encoder.layers):
            raise ModelError(f"layer {layer} does not exist: the encoder has layers 1 to {len(model.encoder.layers)}")
        model = model.truncate(layer).fold_weight_norm().eval()
        self.layer, self.dim, self.sample_rate = layer, model.config.dim, model.config.sample_rate
        self.frame_rate = hubert_frames.FRAME_RATE
        self.contract = UnitContract(
            encoder=encoder_hash(model, tap),
            layer=layer,
            window=window,
            normalisation=model.config.normalisation,
            sample_rate=self.sample_rate,
            frame_rate=self.frame_rate,
            tap=tap,
        )
        self.precision = precision
        self.extractor = Extractor(model.to(device), precision=precision, window=window, tap=tap)

    def n_frames(self, samples: int) -> int:
        return hubert_frames.n_frames(samples)

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        [[frames]] = self.extractor([as_waveform(waveform)], [self.layer])
        return frames

    def encode_batch(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [frames for [frames] in self.extractor(as_waveforms(waveforms), [self.layer])]

    def encode_layers(self, waveform: np.ndarray, layers: Sequence[int]) -> dict[int, np.ndarray]:
        """Several layers in one pass: {layer: (T, D) float32}.

        Raises ModelError for a layer above the encoder's own.
        """
        if wrong := [n for n in layers if not 1 <= n <= self.layer]:
            raise ModelError(f"layer {wrong[0]} does not exist: the encoder was loaded with layers 1 to {self.layer}")
        return dict(zip(layers, self.extractor([as_waveform(waveform)], layers)[0], strict=True))

    def stream(self, blocks: Blocks) -> Iterator[np.ndarray]:
        return (frames for [frames] in self.extractor.stream(as_blocks(blocks), [self.layer]))


def encoder_hash(model: Hubert, tap: str = "block") -> str:
    """`encoder_digest` of every parameter that the output depends on, in float32, weight norm folded.

    And of settings that weights do not show, such as the number of heads, where they are unusual (`hubert.unshown`),
    and of a tap other than the block's output.
    """
    from textless.units.encoders.hubert import unshown

    used = {name: tensor for name, tensor in model.state_dict().items() if name != "masked_spec_embed"}
    settings = unshown(model.config) | ({} if tap == "block" else {"tap": tap})
    return encoder_digest("", {name: t.detach().cpu().float().numpy() for name, t in used.items()}, settings)


def save_encoder(folder: Path | str, model: Hubert) -> None:
    """Write a HuBERT as a model folder."""
    save_model(folder, kind="hubert", config=model.config.to_dict(), tensors=from_torch(model.state_dict()))
