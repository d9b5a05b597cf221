"""SpidR's and DinoSR's checkpoints, with a `config.json` next to them, or of the papers' size.

The student is the encoder (src/spidr/models/ of facebookresearch/spidr). The released files have no configuration:
they have the defaults of `DinoSRConfig` (src/spidr/config.py), whose 12 heads alone do not show in the shapes. A block
is tapped before the residual, and waveforms are layer-normed.
"""

from __future__ import annotations

import re

from textless.checks import Count, check
from textless.errors import ModelError
from textless.model_io import CONFIG, read_json
from textless.units.encoders.checkpoint import Checkpoint
from textless.units.encoders.hubert import CONV_KERNELS, CONV_STRIDES
from textless.units.encoders.layouts.by_shapes import config_by_shapes
from textless.units.encoders.layouts.layout import Layout
from textless.units.encoders.layouts.source import Source, renamed, stacked

BASE = {768: 12}  # heads by width
SHAPES = [[kernel, stride] for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES, strict=True)]


def _fits(source: Source) -> bool:
    return {"student.layers.0.attention.qkv.weight", "student.pos_conv_embed.convs.0.weight"} <= set(source.names)


def _read(source: Source) -> Checkpoint:
    theirs = renamed((n for n in source.names if not n.startswith("teacher.")), _renamed)
    names, get = stacked(theirs, source.get)
    place = source.path.parent / CONFIG
    settings = read_json(place) if place.is_file() else {}
    entry = source.entry(check(settings.get("model", settings), dict, f"{place}: model"), place)
    convs = entry("extractor_conv_layer_config", None, list | None)
    if convs is not None and [c[1:] if isinstance(c, list) else c for c in convs] != SHAPES:
        raise ModelError(f"{place}: has other convolutions than HuBERT ({str(convs)[:60]})")
    heads = entry("encoder_num_heads", None, Count | None)
    config = config_by_shapes(
        source,
        names,
        get,
        "a SpidR or DinoSR checkpoint without configuration",
        by_width=BASE,
        pre_ln=entry("encoder_layer_norm_first", False, bool),
        pos_conv_depth=len({m[1] for n in names if (m := re.match(r"encoder\.pos_conv_embed\.convs\.(\d+)\.", n))}),
        normalisation="layer_norm_1e-5",
        **({} if heads is None else {"heads": heads}),
    )
    thirds = [f"encoder.layers.{i}.attention.{part}_proj.bias" for i in range(config.layers) for part in "qkv"]
    return Checkpoint(
        str(source.path), config, names, get, tap="ffn", zeros=frozenset(n for n in thirds if n not in names)
    )


def _renamed(name: str) -> str:
    for theirs, ours in (
        ("mask_embedding", "masked_spec_embed"),
        ("student.", "encoder."),
        (".attention.qkv.", ".attention.qkv_proj."),
        (".attention.proj.", ".attention.out_proj."),
    ):
        name = name.replace(theirs, ours)
    return name


SPIDR = Layout("a SpidR or DinoSR checkpoint", _fits, _read)
