"""minimal_hubert's checkpoints and hub folders.

Its three sizes (src/minimal_hubert/config.py of mxmpl/minimal_hubert) have the heads of the published HuBERTs; for
other widths a head has 64 dimensions, as in base and large. It taps a block before the residual
(`get_intermediate_outputs`), and hears layer-normed waveforms where every convolution has a layer norm.
"""

from __future__ import annotations

from textless.units.encoders.checkpoint import Checkpoint
from textless.units.encoders.layouts.by_shapes import HEADS, config_by_shapes
from textless.units.encoders.layouts.layout import Layout
from textless.units.encoders.layouts.source import Source, renamed, stacked


def _fits(source: Source) -> bool:
    return {"feature_projection.0.projection.weight", "encoder.layers.0.attention.qkv.weight"} <= set(source.names)


def _read(source: Source) -> Checkpoint:
    names, get = stacked(renamed(source.names, _renamed), source.get)
    width = len(get(names["feature_projection.projection.weight"]))
    config = config_by_shapes(
        source, names, get, "a minimal_hubert checkpoint", by_width={width: HEADS.get(width, max(1, width // 64))}
    )
    return Checkpoint(str(source.path), config, names, get, tap="ffn")


def _renamed(name: str) -> str:
    for theirs, ours in (
        ("mask_embedding", "masked_spec_embed"),
        ("feature_projection.0.", "feature_projection."),
        (".pos_conv_embed.convs.0.", ".pos_conv_embed.conv."),
        (".attention.qkv.", ".attention.qkv_proj."),
        (".attention.proj.", ".attention.out_proj."),
    ):
        name = name.replace(theirs, ours)
    return name


MINIMAL_HUBERT = Layout("a minimal_hubert checkpoint or hub folder", _fits, _read)
