"""bshall's HuBERT-Soft and HuBERT-Discrete (hubert/model.py of bshall/hubert), a base of 12 heads on torch's blocks.

Its `units` pads the waveform by 40 samples on both sides and projects the last block; a layer here is neither.
"""

from __future__ import annotations

from textless.units.encoders.checkpoint import Checkpoint
from textless.units.encoders.layouts.by_shapes import config_by_shapes
from textless.units.encoders.layouts.layout import Layout
from textless.units.encoders.layouts.source import Source, renamed, stacked, weight_norm

BASE = {768: 12}  # heads by width


def _fits(source: Source) -> bool:
    return {"positional_embedding.conv.bias", "encoder.layers.0.self_attn.in_proj_weight"} <= set(source.names)


def _read(source: Source) -> Checkpoint:
    names, get = stacked(renamed(source.names, _renamed), source.get)
    config = config_by_shapes(source, names, get, "a HuBERT-Soft checkpoint", by_width=BASE)
    return Checkpoint(str(source.path), config, names, get)


def _renamed(name: str) -> str:
    if name.startswith("feature_extractor."):
        part = name.removeprefix("feature_extractor.")
        for kind, ours in (("conv", "conv"), ("norm", "layer_norm")):
            if part.startswith(kind):
                number, _, rest = part.removeprefix(kind).partition(".")
                return f"feature_extractor.conv_layers.{number}.{ours}.{rest}"
    for theirs, ours in (
        ("feature_projection.norm.", "feature_projection.layer_norm."),
        ("positional_embedding.", "encoder.pos_conv_embed."),
        (".self_attn.in_proj_", ".attention.qkv_proj."),
        (".self_attn.", ".attention."),
        (".linear1.", ".feed_forward.intermediate_dense."),
        (".linear2.", ".feed_forward.output_dense."),
        (".norm1.", ".layer_norm."),
        (".norm2.", ".final_layer_norm."),
    ):
        name = name.replace(theirs, ours)
    return weight_norm(f"encoder.layer_norm{name[4:]}" if name.startswith("norm.") else name)


SOFT = Layout("a HuBERT-Soft checkpoint", _fits, _read)
