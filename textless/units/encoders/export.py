"""A HuBERT for other tools: a folder that transformers, fairseq or torchaudio reads.

The reverse of `convert.py`: the same parameters, bit for bit, under the names that each tool gives them.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textless.audio.mfcc import SAMPLE_RATE
from textless.errors import ContractWarning, ModelError, check_known
from textless.model_io import CONFIG, TENSORS
from textless.units.encoders.convert import Checkpoint, open_checkpoint
from textless.units.encoders.hubert import CONV_KERNELS, CONV_STRIDES, HubertConfig
from textless.units.encoders.hubert_frames import FRAME_RATE

CHECKPOINT = "hubert.pt"  # in the folder for fairseq, and in that for torchaudio


def export_hubert(source: Path | str, folder: Path | str, *, to: str, normalisation: str | None = None) -> None:
    """Write a HuBERT as another tool reads it.

    Args:
        source: whatever `open_checkpoint` reads, with the front end `conv`.
        folder: to be written, empty or not there:
            transformers: `config.json`, `model.safetensors` and `preprocessor_config.json`, for
                `HubertModel.from_pretrained`;
            fairseq: `hubert.pt`, a checkpoint of `hubert_pretraining` without a pre-training head;
            torchaudio: `hubert.pt`, a state dict, and `config.json`, the arguments of
                `torchaudio.models.wav2vec2_model` that it fits.
        to: `transformers`, `fairseq` or `torchaudio`.
        normalisation: of the waveform, overriding the source's, as in `load_encoder`.

    A tool has one formula for the normalisation of the waveform: transformers adds 1e-7 to the variance, fairseq 1e-5.
    Where a model had the other one, ContractWarning says so; torchaudio leaves it to the caller.

    Raises:
        ModelError: another target, a log-mel front end, no such model, or one that the target cannot express.
    """
    check_known("to", to, TARGETS, ModelError)
    checkpoint = open_checkpoint(source)
    config = checkpoint.config
    if config.front_end != "conv":
        raise ModelError(
            f"{source}: its front end is log-mel, which {to} does not have; export a convolutional one (base, large)"
        )
    if config.pos_conv_depth:
        raise ModelError(
            f"{source}: its positions are of several convolutions, as SpidR's and DinoSR's, which {to} does not have; "
            "export a HuBERT or wav2vec 2.0"
        )
    if checkpoint.tap != "block":
        warnings.warn(
            f"{to} takes the output of a block, this model's project its {checkpoint.tap}: read it again with --tap "
            f"{checkpoint.tap} for the same units",
            ContractWarning,
            stacklevel=2,
        )
    config = config if normalisation is None else replace(config, normalisation=normalisation)
    state = parameters(checkpoint)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    TARGETS[to](config, state, folder)
    if config.normalisation not in ("none", theirs := {"transformers": "zscore_1e-7"}.get(to, "layer_norm_1e-5")):
        warnings.warn(
            f"{to} normalises the waveform by {theirs}, this model was trained with {config.normalisation}: frames "
            "differ by about 4e-4; give it waveforms that are normalised already to have the same",
            ContractWarning,
            stacklevel=2,
        )


def parameters(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All parameters by the names of `Hubert`, float32, weight norm not folded. Raises ModelError as `load`."""
    state = checkpoint.load_trainable().state_dict()
    if "masked_spec_embed" not in checkpoint.names:  # of pre-training; a state dict of torchaudio's does not have it
        state["masked_spec_embed"] = torch.zeros(checkpoint.config.dim)
    return state


# -------------------------------------------------------------------------------------------------------- transformers


def _transformers(config: HubertConfig, state: dict[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save

    settings = {
        "model_type": "hubert",
        "architectures": ["HubertModel"],
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_dim,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "do_stable_layer_norm": config.pre_ln,
        "conv_dim": [config.conv_dim] * len(CONV_KERNELS),
        "conv_kernel": [*CONV_KERNELS],
        "conv_stride": [*CONV_STRIDES],
        "conv_bias": config.conv_bias,
        "num_feat_extract_layers": len(CONV_KERNELS),
        "feat_extract_norm": config.conv_norm,
        "feat_extract_activation": "gelu",
        "feat_proj_layer_norm": True,
        "num_conv_pos_embeddings": config.pos_conv_kernel,
        "num_conv_pos_embedding_groups": config.pos_conv_groups,
        "conv_pos_batch_norm": False,
        "torch_dtype": "float32",
    }
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": config.normalisation != "none",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": config.conv_norm == "layer",  # group norms were trained without one
        "sampling_rate": SAMPLE_RATE,
    }
    _write_json(folder / "preprocessor_config.json", preprocessor)
    (folder / TENSORS).write_bytes(save(state, {"format": "pt"}))  # transformers asks for this mark
    _write_json(folder / CONFIG, settings)


# ------------------------------------------------------------------------------------------------------------- fairseq


def _fairseq(config: HubertConfig, state: dict[str, Tensor], folder: Path) -> None:
    """A checkpoint of plain values and tensors alone, as fairseq 0.12 and `convert` read it.

    fairseq builds no classes where the dictionary is None, so that a head is a projection that is not used.
    """
    if config.conv_dim == config.dim:
        raise ModelError(
            f"fairseq has no projection where convolutions and blocks both have {config.dim} channels, but this model "
            "has; export it to transformers or torchaudio"
        )
    model = {_fairseq_name(name, config.conv_norm): tensor for name, tensor in state.items()}
    model |= {"final_proj.weight": torch.zeros(1, config.dim), "final_proj.bias": torch.zeros(1)}
    content = {
        "args": None,
        "cfg": {"_name": None, "model": _fairseq_model(config), "task": _fairseq_task(config)},
        "model": model,
        "criterion": None,
        "optimizer_history": [{"criterion_name": "HubertCriterion", "num_updates": 0}],
        "task_state": {"dictionaries": [None]},
        "extra_state": {"epoch": 1, "train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    torch.save(content, folder / CHECKPOINT)


def _fairseq_model(config: HubertConfig) -> dict[str, Any]:
    """fairseq's `HubertConfig` (fairseq/models/hubert/hubert.py); what is left out has fairseq's defaults."""
    convolutions = [(config.conv_dim, k, s) for k, s in zip(CONV_KERNELS, CONV_STRIDES, strict=True)]
    return {
        "_name": "hubert",
        "label_rate": FRAME_RATE,
        "extractor_mode": "default" if config.conv_norm == "group" else "layer_norm",
        "encoder_layers": config.layers,
        "encoder_embed_dim": config.dim,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "encoder_attention_heads": config.heads,
        "activation_fn": "gelu",
        "layer_type": "transformer",
        "final_dim": 1,
        "untie_final_proj": False,
        "layer_norm_first": config.pre_ln,
        "conv_feature_layers": repr(convolutions),
        "conv_bias": config.conv_bias,
        "conv_pos": config.pos_conv_kernel,
        "conv_pos_groups": config.pos_conv_groups,
    }


def _fairseq_task(config: HubertConfig) -> dict[str, Any]:
    return {
        "_name": "hubert_pretraining",
        "data": ".",
        "fine_tuning": False,
        "labels": ["km"],
        "label_dir": None,
        "label_rate": FRAME_RATE,
        "sample_rate": SAMPLE_RATE,
        "normalize": config.normalisation != "none",
    }


def _fairseq_name(name: str, conv_norm: str) -> str:
    norm = r"0.2." if conv_norm == "group" else r"\1.2.1."
    for pattern, theirs in (
        (r"^masked_spec_embed$", "mask_emb"),
        (r"^feature_extractor\.conv_layers\.(\d)\.layer_norm\.", rf"feature_extractor.conv_layers.{norm}"),
        (r"^feature_extractor\.conv_layers\.(\d)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
        (r"^feature_projection\.layer_norm\.", "layer_norm."),
        (r"^feature_projection\.projection\.", "post_extract_proj."),
        (r"^encoder\.pos_conv_embed\.conv\.", "encoder.pos_conv.0."),
        (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
        (r"\.attention\.", ".self_attn."),
        (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
        (r"\.feed_forward\.output_dense\.", ".fc2."),
    ):
        name = re.sub(pattern, theirs, name)
    return _old_weight_norm(name)


def _old_weight_norm(name: str) -> str:
    """torch's older names, which modules of both kinds read."""
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


# ---------------------------------------------------------------------------------------------------------- torchaudio


def _torchaudio(config: HubertConfig, state: dict[str, Tensor], folder: Path) -> None:
    if config.pre_ln != (config.conv_norm == "layer"):
        raise ModelError(
            "torchaudio's models have layer norms both in the convolutions and before the blocks, or neither; "
            "export this one to transformers or fairseq"
        )
    model = {_torchaudio_name(name): tensor for name, tensor in state.items() if name != "masked_spec_embed"}
    arguments = {
        "extractor_mode": f"{config.conv_norm}_norm",
        "extractor_conv_layer_config": [
            [config.conv_dim, k, s] for k, s in zip(CONV_KERNELS, CONV_STRIDES, strict=True)
        ],
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.dim,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": config.pos_conv_kernel,
        "encoder_pos_conv_groups": config.pos_conv_groups,
        "encoder_num_layers": config.layers,
        "encoder_num_heads": config.heads,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": config.ffn_dim,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": config.pre_ln,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }
    torch.save(model, folder / CHECKPOINT)
    _write_json(folder / CONFIG, arguments)


def _torchaudio_name(name: str) -> str:
    name = re.sub(r"^encoder\.", "encoder.transformer.", name)
    return _old_weight_norm(re.sub(r"^feature_projection\.", "encoder.feature_projection.", name))


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


Writer = Callable[[HubertConfig, dict[str, Tensor], Path], None]
TARGETS: dict[str, Writer] = {"transformers": _transformers, "fairseq": _fairseq, "torchaudio": _torchaudio}
