"""HuBERT checkpoints of transformers, fairseq, torchaudio and textless, converted to one form.

Each format becomes the same configuration and the same parameters under the same names, so that one model has one
identity wherever its file comes from. Only what is below the requested layer is read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from textless.audio.mfcc import SAMPLE_RATE
from textless.checks import Count, OneOf, Size, check, read_fields
from textless.errors import ModelError
from textless.model_io import CONFIG, check_blocks, finite, open_tensors, read_json, tensors_of
from textless.units.encoders.hubert import CONV_KERNELS, CONV_STRIDES, Hubert, HubertConfig

# Model types of transformers with one architecture, trained in different ways.
SAME_ARCHITECTURE = ("hubert", "wav2vec2", "unispeech", "unispeech-sat")
CONV_NORM = Annotated[str, OneOf("group", "layer")]
EXTRACTOR_MODE = Annotated[str, OneOf("default", "layer_norm")]  # fairseq's names for them
# Prefixes of the names in transformers' models with a head.
PREFIXES = ("hubert.", "wav2vec2.", "unispeech.", "unispeech_sat.")


@dataclass(frozen=True)
class Checkpoint:
    """A model in a file.

    Attributes:
        place: for messages.
        config: of the whole model.
        names: of each parameter, its name in the file.
        get: reads a tensor by its name in the file.
    """

    place: str
    config: HubertConfig
    names: dict[str, str]
    get: Callable[[str], Tensor]

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
        template = {_any_layer(n) for n in model.state_dict()} | {f"encoder.layer_norm.{p}" for p in ("weight", "bias")}
        if more := [n for n in self.names if n.startswith(("feature_", "encoder.")) and _any_layer(n) not in template]:
            raise ModelError(
                f"{self.place}: has {self.names[more[0]]}, which HuBERT does not have: it is of another architecture"
            )
        state = {}
        for name, empty in model.state_dict().items():
            if name == "masked_spec_embed" and name not in self.names:
                state[name] = torch.zeros(config.dim)  # for pre-training only
                continue
            if name not in self.names:
                raise ModelError(
                    f"{self.place}: has no {name}; the file is damaged or of another architecture than HuBERT"
                )
            tensor = self.get(self.names[name])
            if tensor.shape != empty.shape or not tensor.is_floating_point():
                actual = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
                raise ModelError(f"{self.place}: {self.names[name]} is {actual} where {tuple(empty.shape)} is expected")
            state[name] = tensor.float().clone()  # not mapped from the file
        model.load_state_dict(state, assign=True)
        return model.fold_weight_norm().eval().requires_grad_(False)


def open_checkpoint(source: Path | str) -> Checkpoint:
    """A HuBERT in a file or folder; its weights are read later.

    Args:
        source: a textless model folder; a transformers folder (`config.json` of type hubert, wav2vec2, unispeech or
            unispeech-sat, safetensors or `pytorch_model.bin`); a fairseq `.pt`; or a torchaudio state dict.

    Raises:
        ModelError: it is none of these, is damaged, or holds another architecture.
    """
    source = Path(source)
    if source.is_dir():
        config = read_json(source / CONFIG)
        return _ours(source, config) if "kind" in config else _transformers(source, config)
    from textless.pickles import load_torch

    content = load_torch(source)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        return _fairseq(source, content)
    if isinstance(content, dict) and content and len(tensors_of(content)) == len(content):
        return _torchaudio(source, content)
    raise ModelError(
        f"{source}: neither a fairseq checkpoint nor a torchaudio state dict; give one of these or a model folder"
    )


def _any_layer(name: str) -> str:
    return re.sub(r"layers\.\d+\.", "layers.N.", name)


# ------------------------------------------------------------------------------------------------------------ textless


def _ours(folder: Path, config: dict[str, Any]) -> Checkpoint:
    if config["kind"] != "hubert":
        raise ModelError(f"{folder}: holds a model of kind {config['kind']!r} where a hubert is wanted")
    hubert = read_fields(HubertConfig, {k: v for k, v in config.items() if k != "kind"}, str(folder / CONFIG))
    names, get = open_tensors(folder)
    return Checkpoint(str(folder), hubert, {n: n for n in names}, get)


# -------------------------------------------------------------------------------------------------------- transformers


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


def _transformers(folder: Path, config: dict[str, Any]) -> Checkpoint:
    if not fits(config):
        raise ModelError(f"{folder}: a {config.get('model_type')} of this shape is not a HuBERT that textless can run")
    # Fields that a configuration leaves out have the default of transformers' HubertConfig, which is base.
    entry = _entries(folder / CONFIG, config)
    norm = entry("feat_extract_norm", "group", CONV_NORM)
    check_rate(folder, preprocessor_settings(folder))
    hubert = _hubert(
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
    names, get = open_tensors(folder)
    return Checkpoint(str(folder), hubert, _renamed(names, lambda n: _weight_norm(_unprefixed(n))), get)


def _entries(place: Path, config: dict[str, Any]) -> Callable[[str, Any, Any], Any]:
    """Entries of an untrusted configuration by (name, default, type). Raises ModelError for another type or range."""
    return lambda key, default, hint: check(config.get(key, default), hint, f"{place}: {key}")


def _hubert(place: Path, **fields: Any) -> HubertConfig:
    """The configuration. Raises ModelError with the file's name."""
    try:
        return HubertConfig(**fields)
    except ModelError as e:
        raise ModelError(f"{place}: {e}") from None


def preprocessor_settings(folder: Path) -> dict[str, Any]:
    """Settings of transformers' feature extractor; version 5 may store them in `processor_config.json`."""
    if (path := folder / "preprocessor_config.json").is_file():
        return read_json(path)
    if (path := folder / "processor_config.json").is_file():
        return check(read_json(path).get("feature_extractor", {}), dict, f"{path}: feature_extractor")
    return {}


def check_rate(place: Path, settings: dict[str, Any], key: str = "sampling_rate") -> None:
    """Raise ModelError when a model takes audio at another rate than textless reads; a missing rate is that one."""
    if (rate := settings.get(key)) is not None and (isinstance(rate, bool) or rate != SAMPLE_RATE):
        raise ModelError(f"{place}: {key}: takes audio at {rate!r} Hz; textless reads {SAMPLE_RATE} Hz")


def waveform_normalisation(folder: Path, conv_norm: str) -> str:
    """The feature extractor's; where unspecified, the one that such a first convolution is trained with."""
    normalise = preprocessor_settings(folder).get("do_normalize", conv_norm == "layer")
    return "zscore_1e-7" if check(normalise, bool, f"{folder}: do_normalize of the preprocessor") else "none"


def _unprefixed(name: str) -> str:
    return next((name.removeprefix(p) for p in PREFIXES if name.startswith(p)), name)


def _weight_norm(name: str) -> str:
    """Rename the two parameters of weight norm from torch's old names to its new ones."""
    return name.replace("conv.weight_g", "conv.parametrizations.weight.original0").replace(
        "conv.weight_v", "conv.parametrizations.weight.original1"
    )


def _renamed(names: Iterable[str], rename: Callable[[str], str]) -> dict[str, str]:
    return {rename(n): n for n in names}


# ------------------------------------------------------------------------------------------------------------- fairseq


def _fairseq(path: Path, content: dict[str, Any]) -> Checkpoint:
    from textless.pickles import plain

    cfg = plain(content.get("cfg")) or plain(content.get("args"))
    if not isinstance(cfg, dict):
        raise ModelError(
            f"{path}: a fairseq checkpoint without its configuration (cfg or args); give the file as it was published"
        )
    # `args`, before 2021, is flat.
    model, task = (cfg[k] if isinstance(cfg.get(k), dict) else cfg for k in ("model", "task"))
    check_rate(path, task, "sample_rate")
    if isinstance(inner := plain(model.get("w2v_args")), dict):
        check_rate(path, task if not isinstance(inner.get("task"), dict) else inner["task"], "sample_rate")
        model = inner["model"] if isinstance(inner.get("model"), dict) else inner
    name = model.get("_name") or model.get("arch")
    if "encoder_layers" not in model or not (name is None or str(name).startswith(("hubert", "wav2vec2"))):
        raise ModelError(f"{path}: holds {name or 'another model'} of fairseq's where a hubert or wav2vec2 is wanted")
    convs = _conv_layers(
        path, model.get("conv_feature_layers", "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2")
    )
    dims, kernels, strides = zip(*convs, strict=True)
    if kernels != CONV_KERNELS or strides != CONV_STRIDES or len(set(dims)) != 1:
        raise ModelError(f"{path}: has other convolutions than HuBERT ({model['conv_feature_layers']})")
    if model.get("activation_fn", "gelu") != "gelu" or model.get("layer_type", "transformer") != "transformer":
        raise ModelError(
            f"{path}: has blocks of another kind ({model.get('layer_type')}, {model.get('activation_fn')}) than HuBERT"
        )
    entry = _entries(path, model)
    config = _hubert(
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
        normalisation="layer_norm_1e-5" if _entries(path, task)("normalize", False, bool) else "none",
    )
    state = tensors_of(content["model"])
    return Checkpoint(
        str(path),
        config,
        _renamed(state, lambda n: _from_fairseq(n, config.conv_norm)),
        finite(path, state.__getitem__),
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
    return _weight_norm(name)


def _conv_layers(path: Path, text: Any) -> list[tuple[int, int, int]]:
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


# ---------------------------------------------------------------------------------------------------------- torchaudio

# Attention heads by width, which a state dict does not say: base, large, xlarge and XLS-R 2B.
HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}


def _torchaudio(path: Path, state: dict[str, Tensor]) -> Checkpoint:
    names = _renamed(state, lambda n: _weight_norm(_from_torchaudio(n)))
    shape = {ours: tuple(state[theirs].shape) for ours, theirs in names.items()}
    try:
        dim, conv_dim = shape["feature_projection.projection.weight"]
        gain, (_, per_group, kernel) = (
            shape[f"encoder.pos_conv_embed.conv.parametrizations.weight.original{i}"] for i in (0, 1)
        )
        ffn_dim = shape["encoder.layers.0.feed_forward.intermediate_dense.weight"][0]
        if gain != (1, 1, kernel) or not per_group:
            raise ValueError
    except (KeyError, ValueError):
        raise ModelError(
            f"{path}: these tensors are not those of a torchaudio HuBERT; give a file with its configuration"
        ) from None
    if dim not in HEADS:
        widths = ", ".join(map(str, HEADS))
        raise ModelError(
            f"{path}: a torchaudio state dict does not say its attention heads, known for the widths {widths} "
            f"but not for {dim}; give the model with its configuration: a transformers folder or a fairseq checkpoint"
        )
    large = "feature_extractor.conv_layers.1.layer_norm.weight" in shape
    config = _hubert(
        path,
        conv_dim=conv_dim,
        conv_bias="feature_extractor.conv_layers.0.conv.bias" in shape,
        conv_norm="layer" if large else "group",
        dim=dim,
        layers=len({m[1] for n in shape if (m := re.match(r"encoder\.layers\.(\d+)\.", n))}),
        heads=HEADS[dim],
        ffn_dim=ffn_dim,
        pre_ln=large,
        pos_conv_kernel=kernel,
        pos_conv_groups=dim // per_group,
        normalisation="layer_norm_1e-5" if large else "none",
    )
    return Checkpoint(str(path), config, names, finite(path, state.__getitem__))


def _from_torchaudio(name: str) -> str:
    name = name.removeprefix("model.").removeprefix("wav2vec2.")
    name = name.replace("encoder.feature_projection.", "feature_projection.").replace(
        "encoder.transformer.", "encoder."
    )
    return {"mask_generator.mask_embedding": "masked_spec_embed"}.get(name, name)
