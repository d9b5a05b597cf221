"""The configuration of an encoder that a state dict alone shows, by the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from textless.errors import ModelError
from textless.units.encoders.hubert import HubertConfig
from textless.units.encoders.layouts.source import Source, hubert_config

# Attention heads by width, which a state dict does not say: base, large, xlarge and XLS-R 2B.
HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}


def config_by_shapes(
    source: Source,
    names: dict[str, str],
    get: Callable[[str], Tensor],
    what: str,
    *,
    by_width: Mapping[int, int] = HEADS,
    **settings: Any,
) -> HubertConfig:
    """The configuration of a model whose settings follow from its shapes, but for the heads.

    Args:
        names: ours → the file's.
        what: the layout, for messages.
        by_width: heads, where they are neither declared nor among the settings.
        settings: known otherwise. By default a model with a layer norm in every convolution is one like large: norms
            before the sublayers, and waveforms layer-normed.

    Raises ModelError when tensors are missing, or the heads are unknown.
    """

    def shape(name: str) -> tuple[int, ...]:
        return tuple(get(names[name]).shape)

    conv = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
    try:
        dim, conv_dim = shape("feature_projection.projection.weight")
        if settings.get("pos_conv_depth"):
            _, per_group, kernel = shape("encoder.pos_conv_embed.convs.0.weight")
        else:
            _, per_group, kernel = shape(f"{conv}1")
            if shape(f"{conv}0") != (1, 1, kernel):
                raise ValueError
        ffn_dim, _ = shape("encoder.layers.0.feed_forward.intermediate_dense.weight")
        if not per_group:
            raise ValueError
    except (KeyError, ValueError):
        raise ModelError(
            f"{source.path}: these tensors are not those of {what}; give a file with its configuration"
        ) from None
    large = "feature_extractor.conv_layers.1.layer_norm.weight" in names
    fields = {
        "conv_dim": conv_dim,
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in names,
        "conv_norm": "layer" if large else "group",
        "dim": dim,
        "layers": len({m[1] for n in names if (m := re.match(r"encoder\.layers\.(\d+)\.", n))}),
        "ffn_dim": ffn_dim,
        "pre_ln": large,
        "pos_conv_kernel": kernel,
        "pos_conv_groups": dim // per_group,
        "normalisation": "layer_norm_1e-5" if large else "none",
        **settings,
    }
    if "heads" not in fields:
        fields["heads"] = _heads(source, what, dim, by_width)
    return hubert_config(source.path, **fields)


def _heads(source: Source, what: str, dim: int, by_width: Mapping[int, int]) -> int:
    if heads := source.declared_heads or by_width.get(dim):
        return heads
    widths = ", ".join(map(str, by_width))
    raise ModelError(
        f"{source.path}: {what} does not say its attention heads, known for the widths {widths} but not for {dim}; "
        f'declare them: heads in Python, or {{"heads": N}} in {source.path.with_suffix(".json").name} next to it'
    )
