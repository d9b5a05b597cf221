"""fairseq's checkpoints: HuBERT and wav2vec 2.0, pre-trained or fine-tuned, old and new; ContentVec's legacy ones.

s3prl's converted ones hold the same under other keys (s3prl/s3prl, s3prl/upstream/hubert/convert.py), which
`open_source` has renamed. ESPnet's have these names without a configuration.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Annotated, Any

from textless.checks import Count, OneOf, Size
from textless.errors import ModelError
from textless.units.encoders.checkpoint import Checkpoint
from textless.units.encoders.hubert import CONV_KERNELS, CONV_STRIDES, HubertConfig
from textless.units.encoders.layouts.by_shapes import config_by_shapes
from textless.units.encoders.layouts.layout import Layout
from textless.units.encoders.layouts.source import Source, check_rate, hubert_config, renamed, weight_norm

EXTRACTOR_MODE = Annotated[str, OneOf("default", "layer_norm")]  # fairseq's names for them


def _fits(source: Source) -> bool:
    return not source.path.is_dir() and bool(source.settings.get("cfg") or source.settings.get("args"))


def _read(source: Source) -> Checkpoint:
    from textless.pickles import plain

    path = source.path
    cfg = plain(source.settings.get("cfg")) or plain(source.settings.get("args"))
    if not isinstance(cfg, dict):
        raise ModelError(f"{path}: its configuration (cfg or args) is no object; give the file as it was published")
    # `args`, before 2021, is flat.
    model, task = (cfg[k] if isinstance(cfg.get(k), dict) else cfg for k in ("model", "task"))
    check_rate(path, task, "sample_rate")
    if isinstance(inner := plain(model.get("w2v_args")), dict):
        check_rate(path, task if not isinstance(inner.get("task"), dict) else inner["task"], "sample_rate")
        model = inner["model"] if isinstance(inner.get("model"), dict) else inner
    config = _config(source, model, task)
    names = renamed(source.names, lambda n: _from_fairseq(n, config.conv_norm))
    temperature = source.entry(model)("logit_temp", 0.1, float)
    return Checkpoint(str(path), config, names, source.get, temperature=temperature)


def _config(source: Source, model: dict[str, Any], task: dict[str, Any]) -> HubertConfig:
    path, entry = source.path, source.entry(model)
    name = model.get("_name") or model.get("arch")
    if "encoder_layers" not in model or not (name is None or str(name).startswith(("hubert", "wav2vec2"))):
        hint = "; give its legacy file" if name == "contentvec" else ""
        raise ModelError(
            f"{path}: holds {name or 'another model'} of fairseq's where a hubert or wav2vec2 is wanted{hint}"
        )
    convs = conv_layers(
        path, model.get("conv_feature_layers", "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2")
    )
    dims, kernels, strides = zip(*convs, strict=True)
    if kernels != CONV_KERNELS or strides != CONV_STRIDES or len(set(dims)) != 1:
        raise ModelError(f"{path}: has other convolutions than HuBERT ({model['conv_feature_layers']})")
    if model.get("activation_fn", "gelu") != "gelu" or model.get("layer_type", "transformer") != "transformer":
        raise ModelError(
            f"{path}: has blocks of another kind ({model.get('layer_type')}, {model.get('activation_fn')}) than HuBERT"
        )
    return hubert_config(
        path,
        conv_dim=dims[0],
        conv_bias=entry("conv_bias", False, bool),
        conv_norm={"default": "group", "layer_norm": "layer"}[entry("extractor_mode", "default", EXTRACTOR_MODE)],
        dim=entry("encoder_embed_dim", 768, Size),
        layers=entry("encoder_layers", 12, Count),
        heads=entry("encoder_attention_heads", 12, Count),
        ffn_dim=entry("encoder_ffn_embed_dim", 3072, Size),
        pre_ln=entry("layer_norm_first", False, bool),
        pos_conv_kernel=entry("conv_pos", 128, Size),
        pos_conv_groups=entry("conv_pos_groups", 16, Count),
        normalisation="layer_norm_1e-5" if source.entry(task)("normalize", False, bool) else "none",
    )


def _from_fairseq(name: str, conv_norm: str) -> str:
    name = name.removeprefix("w2v_encoder.w2v_model.")
    norm = r"0\.2" if conv_norm == "group" else r"(\d)\.2\.1"
    layer = "0" if conv_norm == "group" else r"\1"
    for pattern, ours in (
        (r"^mask_emb$", "masked_spec_embed"),
        (rf"^feature_extractor\.conv_layers\.{norm}\.", rf"feature_extractor.conv_layers.{layer}.layer_norm."),
        (r"^feature_extractor\.conv_layers\.(\d)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
        (r"^layer_norm\.", "feature_projection.layer_norm."),
        (r"^post_extract_proj\.", "feature_projection.projection."),
        (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
        (r"\.self_attn\.", ".attention."),
        (r"\.self_attn_layer_norm\.", ".layer_norm."),
        (r"\.fc1\.", ".feed_forward.intermediate_dense."),
        (r"\.fc2\.", ".feed_forward.output_dense."),
    ):
        name = re.sub(pattern, ours, name)
    return weight_norm(name)


def conv_layers(path: Path, text: Any) -> list[tuple[int, int, int]]:
    """fairseq's `conv_feature_layers`, a Python expression of lists, `+` and `*` in a string: read, never evaluated."""

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int(n)) if 0 < n < 10_000:
                return n
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                values = [value(e) for e in elements]
                return values if isinstance(node, ast.List) else tuple(values)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                a, b = value(left), value(right)
                if isinstance(a, list) and isinstance(b, list):
                    return a + b
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                a, b = value(left), value(right)
                if isinstance(a, list) and isinstance(b, int) and len(a) * b <= 64:
                    return a * b
        raise ValueError

    try:
        layers = value(ast.parse(str(text).strip(), mode="eval").body)
        if not layers or any(len(layer) != 3 for layer in layers):
            raise ValueError
        return layers
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ModelError(
            f"{path}: conv_feature_layers {str(text)[:60]!r} is not a list of (dimension, kernel, stride)"
        ) from None


def _fits_bare(source: Source) -> bool:
    return {"post_extract_proj.weight", "encoder.layers.0.self_attn.k_proj.weight"} <= set(source.names)


def _read_bare(source: Source) -> Checkpoint:
    """Without a configuration, as ESPnet keeps it: of base alone, since where the norms of others are is not shown."""
    if "feature_extractor.conv_layers.1.2.1.weight" in source.names:
        raise ModelError(
            f"{source.path}: a fairseq checkpoint without its configuration (cfg or args), which says where the norms "
            "are; give the file as it was published"
        )
    names = renamed(source.names, lambda n: _from_fairseq(n, "group"))
    config = config_by_shapes(source, names, source.get, "a fairseq state dict without configuration")
    return Checkpoint(str(source.path), config, names, source.get)


FAIRSEQ = Layout("a fairseq or s3prl checkpoint", _fits, _read)
FAIRSEQ_BARE = Layout("ESPnet's fairseq encoder", _fits_bare, _read_bare)
