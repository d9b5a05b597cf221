"""Folders of transformers: HuBERT, and models of one architecture with it, with or without a head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from textless.checks import Count, OneOf, Size, check
from textless.errors import ModelError
from textless.model_io import CONFIG, read_json
from textless.units.encoders.checkpoint import Checkpoint
from textless.units.encoders.hubert import CONV_KERNELS, CONV_STRIDES
from textless.units.encoders.layouts.layout import Layout
from textless.units.encoders.layouts.source import Source, check_rate, hubert_config, renamed, weight_norm

# Model types of transformers with one architecture, trained in different ways.
SAME_ARCHITECTURE = ("hubert", "wav2vec2", "unispeech", "unispeech-sat")
CONV_NORM = Annotated[str, OneOf("group", "layer")]
# Prefixes of the names in transformers' models with a head.
PREFIXES = ("hubert.", "wav2vec2.", "unispeech.", "unispeech_sat.")


def fits(config: dict[str, Any]) -> bool:
    """Whether transformers' configuration describes an encoder that `Hubert` can be."""
    return (
        config.get("model_type") in SAME_ARCHITECTURE
        and config.get("conv_kernel", [*CONV_KERNELS]) == [*CONV_KERNELS]
        and config.get("conv_stride", [*CONV_STRIDES]) == [*CONV_STRIDES]
        and isinstance(dims := config.get("conv_dim", [512] * 7), list)
        and len(dims) == len(CONV_KERNELS)
        and dims == dims[:1] * len(dims)
        and all(config.get(k, "gelu") == "gelu" for k in ("hidden_act", "feat_extract_activation"))
        and config.get("feat_proj_layer_norm", True)
        and not config.get("conv_pos_batch_norm", False)
        and not config.get("add_adapter", False)
        and config.get("adapter_attn_dim") is None
        and config.get("layer_norm_eps", 1e-5) == 1e-5
    )


def _read(source: Source) -> Checkpoint:
    folder, config = source.path, source.settings
    if not fits(config):
        raise ModelError(f"{folder}: a {config.get('model_type')} of this shape is not a HuBERT that textless can run")
    # Fields that a configuration leaves out have the default of transformers' HubertConfig, which is base.
    entry = source.entry(config, folder / CONFIG)
    norm = entry("feat_extract_norm", "group", CONV_NORM)
    check_rate(folder, preprocessor_settings(folder))
    hubert = hubert_config(
        folder / CONFIG,
        conv_dim=check(config.get("conv_dim", [512])[0], Size, f"{folder / CONFIG}: conv_dim"),
        conv_bias=entry("conv_bias", False, bool),
        conv_norm=norm,
        dim=entry("hidden_size", 768, Size),
        layers=entry("num_hidden_layers", 12, Count),
        heads=entry("num_attention_heads", 12, Count),
        ffn_dim=entry("intermediate_size", 3072, Size),
        pre_ln=entry("do_stable_layer_norm", False, bool),
        pos_conv_kernel=entry("num_conv_pos_embeddings", 128, Size),
        pos_conv_groups=entry("num_conv_pos_embedding_groups", 16, Count),
        normalisation=waveform_normalisation(folder, norm),
    )
    return Checkpoint(str(folder), hubert, renamed(source.names, lambda n: weight_norm(_unprefixed(n))), source.get)


def preprocessor_settings(folder: Path) -> dict[str, Any]:
    """Settings of transformers' feature extractor; version 5 may store them in `processor_config.json`."""
    if (path := folder / "preprocessor_config.json").is_file():
        return read_json(path)
    if (path := folder / "processor_config.json").is_file():
        return check(read_json(path).get("feature_extractor", {}), dict, f"{path}: feature_extractor")
    return {}


def waveform_normalisation(folder: Path, conv_norm: str) -> str:
    """The feature extractor's; where unspecified, the one that such a first convolution is trained with."""
    normalise = preprocessor_settings(folder).get("do_normalize", conv_norm == "layer")
    return "zscore_1e-7" if check(normalise, bool, f"{folder}: do_normalize of the preprocessor") else "none"


def _unprefixed(name: str) -> str:
    return next((name.removeprefix(p) for p in PREFIXES if name.startswith(p)), name)


TRANSFORMERS = Layout(
    "a transformers folder", lambda source: source.path.is_dir() and "model_type" in source.settings, _read
)
