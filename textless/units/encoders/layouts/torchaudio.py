"""torchaudio's state dicts of HuBERT and wav2vec 2.0, also in ESPnet's checkpoints; and transformers' bare ones."""

from __future__ import annotations

from textless.units.encoders.checkpoint import Checkpoint
from textless.units.encoders.layouts.by_shapes import config_by_shapes
from textless.units.encoders.layouts.layout import Layout
from textless.units.encoders.layouts.source import Source, renamed, weight_norm


def _fits(source: Source) -> bool:
    return "encoder.layers.0.attention.k_proj.weight" in {_from_torchaudio(n) for n in source.names}


def _read(source: Source) -> Checkpoint:
    names = renamed(source.names, lambda n: weight_norm(_from_torchaudio(n)))
    config = config_by_shapes(source, names, source.get, "a torchaudio state dict")
    return Checkpoint(str(source.path), config, names, source.get)


def _from_torchaudio(name: str) -> str:
    name = name.removeprefix("model.").removeprefix("wav2vec2.")
    name = name.replace("encoder.feature_projection.", "feature_projection.").replace(
        "encoder.transformer.", "encoder."
    )
    return {"mask_generator.mask_embedding": "masked_spec_embed"}.get(name, name)


TORCHAUDIO = Layout("a torchaudio state dict", _fits, _read)
