"""Encoders that the library transformers runs: wav2vec 2.0, WavLM, data2vec, UniSpeech, w2v-BERT 2.0 and others.

wav2vec 2.0 includes XLS-R and MMS, UniSpeech UniSpeech-SAT; HuBERTs that `hubert.py` cannot express (DistilHuBERT, 25
Hz) are here too. Only the blocks up to the requested layer are built, read and run; a file is always encoded whole and
alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np

from textless.audio.mfcc import SAMPLE_RATE
from textless.audio.waveform import as_waveform
from textless.checks import Between, Positive, Size, check
from textless.errors import AudioError, ModelError, check_known
from textless.model_io import CONFIG, check_blocks, open_tensors, read_json
from textless.types import UnitContract
from textless.units.encoders.base import Encoder, encoder_digest
from textless.units.encoders.hubert import EPSILON, fold
from textless.units.encoders.layouts.by_shapes import HEADS
from textless.units.encoders.layouts.source import check_rate
from textless.units.encoders.layouts.transformers import preprocessor_settings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# model_type of config.json → class of transformers. The attention of WavLM has no SDPA path there, that of the others
# has.
MODELS = {
    "data2vec-audio": "Data2VecAudioModel",
    "hubert": "HubertModel",
    "unispeech": "UniSpeechModel",
    "unispeech-sat": "UniSpeechSatModel",
    "wav2vec2": "Wav2Vec2Model",
    "wav2vec2-bert": "Wav2Vec2BertModel",
    "wavlm": "WavLMModel",
}
WEIGHT_NORM = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))


def load_transformers(
    folder: Path | str,
    layer: int | None,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    normalisation: str | None = None,
) -> TransformersEncoder:
    """An encoder from a transformers folder: `config.json` and safetensors, with or without a head.

    Args:
        layer: 1-based, the output of that block before any final norm; None is the last. Nothing above it is read or
            run.
        precision: of the arithmetic, `fp32` or `bf16`; frames are float32 either way.
        normalisation: of the waveform; None: from the preprocessor's configuration, else from the norm of the first
            convolution.

    Raises:
        ModelError: another architecture, no such layer, or weights that are missing, unexpected or of another shape.
    """
    folder = Path(folder)
    settings = read_json(folder / CONFIG)
    kind = settings.get("model_type", "")
    check_known(f"{folder}: model_type", kind, MODELS, ModelError)
    import torch
    import transformers

    from textless.devices import dtype_of

    dtype = dtype_of(precision)

    names, get = open_tensors(folder)
    preprocessor = preprocessor_settings(folder)
    check_rate(folder, preprocessor)
    cls = getattr(transformers, MODELS[kind])
    try:
        config = cls.config_class.from_dict(settings)
        check_config(folder, config, names)
        blocks, layer = config.num_hidden_layers, config.num_hidden_layers if layer is None else layer
        if not 1 <= layer <= blocks:
            raise ModelError(f"layer {layer} does not exist: the encoder has layers 1 to {blocks}")
        front = (MelFrontEnd if kind == "wav2vec2-bert" else WaveFrontEnd)(config, preprocessor, normalisation)
        model = _build(cls, config, layer)
    except ModelError:
        raise
    except Exception as e:  # transformers checks the values with exceptions of many kinds
        reason = " ".join(str(e).split())
        raise ModelError(
            f"{folder}: its configuration describes no {kind} that can be built ({type(e).__name__}: {reason})"
        ) from e
    state = _select(folder, names, get, model, layer)
    # `num_batches_tracked` is a counter of training.
    used = {name: tensor.numpy() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    digest = encoder_digest(kind, used, unshown(config))
    model.load_state_dict(state, assign=True)
    cast(torch.nn.Module, model.requires_grad_(False)).to(device, dtype)
    return TransformersEncoder(model, front, layer, digest, precision)


# Settings of a configuration that change the output and do not show in the weights' names and shapes; published models
# have the defaults of transformers. The first convolution has stride 5, all others 2.
UNSHOWN = (
    "hidden_act",
    "feat_extract_activation",
    "layer_norm_eps",
    "num_conv_pos_embedding_groups",
    "max_bucket_distance",
    "position_embeddings_type",
    "rotary_embedding_base",
    "left_max_position_embeddings",
)


def unshown(config: Any) -> dict[str, Any]:
    """The settings that change the output, do not show in the weights, and differ from the usual ones."""
    usual = type(config)()
    facts = {
        name: getattr(config, name) for name in UNSHOWN if getattr(config, name, None) != getattr(usual, name, None)
    }
    if config.num_attention_heads != HEADS.get(config.hidden_size, max(1, config.hidden_size // 64)):
        facts["num_attention_heads"] = config.num_attention_heads
    strides = list(getattr(config, "conv_stride", ()))
    if strides != [5, *[2] * (len(strides) - 1)][: len(strides)]:
        facts["conv_stride"] = strides
    return facts


def check_config(folder: Path, config: Any, names: Sequence[str]) -> None:
    """Raise ModelError for a configuration that is too large to build, or divides by zero, before anything is built."""
    place = folder / CONFIG
    inner = [name[name.index("encoder.layers.") :] for name in names if "encoder.layers." in name]
    for field in ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"):
        check(getattr(config, field, 1), Size, f"{place}: {field}")
    check(config.layer_norm_eps, Positive, f"{place}: layer_norm_eps")
    check(
        getattr(config, "max_source_positions", 1), Annotated[int, Between(1, 2**15)], f"{place}: max_source_positions"
    )
    if config.hidden_size % config.num_attention_heads:
        raise ModelError(
            f"{place}: num_attention_heads is {config.num_attention_heads}, which does not divide {config.hidden_size}"
        )
    check_blocks(folder, "num_hidden_layers", config.num_hidden_layers, inner, "encoder.layers.")
    if hasattr(config, "conv_kernel"):
        front = [name[name.index("conv_layers.") :] for name in names if "feature_extractor.conv_layers." in name]
        check_blocks(folder, "the number of convolutions", len(config.conv_dim), front, "conv_layers.")
        for field in ("conv_kernel", "conv_stride", "conv_dim"):
            for value in getattr(config, field):
                check(value, Size, f"{place}: {field}")


class TransformersEncoder(Encoder):
    """A transformers encoder up to one of its layers. Built by `load_transformers`.

    Attributes: those of `Encoder`, and layer: 1-based.
    """

    def __init__(
        self, model: PreTrainedModel, front: WaveFrontEnd | MelFrontEnd, layer: int, digest: str, precision: str
    ) -> None:
        self.model, self.front, self.layer, self.precision = model, front, layer, precision
        self.dim = model.config.hidden_size
        self.sample_rate = front.sample_rate
        self.frame_rate = front.sample_rate / front.hop
        self.contract = UnitContract(
            encoder=digest,
            layer=layer,
            window=0.0,
            normalisation=front.normalisation,
            sample_rate=self.sample_rate,
            frame_rate=self.frame_rate,
        )

    def n_frames(self, samples: int) -> int:
        """T = floor((samples - window) / hop) + 1."""
        return 0 if samples < self.front.window else (samples - self.front.window) // self.front.hop + 1

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        """(samples,) float32 in [-1, 1] → (T, D) float32. Raises AudioError when shorter than one frame."""
        return self._run(waveform, output_hidden_states=False).last_hidden_state[0].float().cpu().numpy()

    def encode_layers(self, waveform: np.ndarray, layers: list[int]) -> dict[int, np.ndarray]:
        """Several layers in one pass: (samples,) float32 → {layer: (T, D) float32}.

        Raises AudioError when shorter than one frame, ModelError for a layer above the one that was loaded.
        """
        for layer in layers:
            if not 1 <= layer <= self.layer:
                raise ModelError(f"layer {layer} does not exist: the encoder was loaded with layers 1 to {self.layer}")
        hidden = self._run(waveform, output_hidden_states=True).hidden_states  # the first is the input of block 1
        return {layer: hidden[layer][0].float().cpu().numpy() for layer in layers}

    def _run(self, waveform: np.ndarray, **options: bool) -> Any:
        import torch

        waveform = as_waveform(waveform)
        if len(waveform) < self.front.window:
            need = f"{self.front.window} samples at {self.sample_rate / 1000:g} kHz"
            raise AudioError(f"{len(waveform)} samples are shorter than one frame ({need})")
        with torch.inference_mode():
            inputs = torch.from_numpy(self.front(waveform))[None].to(self.model.device, self.model.dtype)
            return self.model(inputs, return_dict=True, **options)


class WaveFrontEnd:
    """Input of convolutions on the waveform: (samples,) float32 → the same, normalised over the file.

    Attributes:
        window, hop: receptive field of a frame before the transformer, and stride, in samples.
    """

    def __init__(self, config: Any, preprocessor: dict[str, Any], normalisation: str | None) -> None:
        self.sample_rate = SAMPLE_RATE
        self.window, self.hop = 1, 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            self.window += (kernel - 1) * self.hop
            self.hop *= stride
        if normalisation is None:
            # Every convolution of data2vec has a layer norm; its configuration has no such field.
            by_norm = getattr(config, "feat_extract_norm", "layer") == "layer"
            normalise = check(preprocessor.get("do_normalize", by_norm), bool, "do_normalize of the preprocessor")
            normalisation = "zscore_1e-7" if normalise else "none"
        check_known("normalisation", normalisation, ("none", *EPSILON), ModelError)
        self.normalisation = normalisation

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        if self.normalisation == "none":
            return waveform
        x = waveform.astype(np.float64)
        return ((x - x.mean()) / np.sqrt(x.var() + EPSILON[self.normalisation])).astype(np.float32)


class MelFrontEnd:
    """The log-mel front end of w2v-BERT: (samples,) float32 → (T, 160) float32.

    A frame is two mel frames of 10 ms; each band is normalised. An odd last mel frame is dropped, as transformers
    masks it; it still counts in the mean and variance of the bands. Attributes as in WaveFrontEnd.
    """

    normalisation = "none"

    def __init__(self, config: Any, preprocessor: dict[str, Any], normalisation: str | None) -> None:
        from transformers import SeamlessM4TFeatureExtractor

        if normalisation not in (None, "none"):
            raise ModelError(
                f"normalisation is {normalisation!r}, but w2v-BERT normalises its mel bands: it can only be none"
            )
        self.extractor = cast(SeamlessM4TFeatureExtractor, SeamlessM4TFeatureExtractor.from_dict(preprocessor))
        width = self.extractor.num_mel_bins * self.extractor.stride
        if width != config.feature_projection_input_dim:
            raise ModelError(
                f"the preprocessor gives {width} features a frame, the encoder takes "
                f"{config.feature_projection_input_dim}"
            )
        self.sample_rate = SAMPLE_RATE
        self.hop = 160 * self.extractor.stride  # 400 and 160 samples are constants of the extractor, at any rate
        self.window = 400 + self.hop - 160

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        features = self.extractor(
            waveform, sampling_rate=self.sample_rate, pad_to_multiple_of=None, return_tensors="np"
        )
        return features["input_features"][0].astype(np.float32)


def _select(
    folder: Path, names: Sequence[str], get: Callable[[str], Tensor], model: PreTrainedModel, layer: int
) -> dict[str, Tensor]:
    """Exactly the weights of the truncated model, float32, weight norm folded.

    Raises ModelError when they do not fit it.
    """
    import torch

    prefix = f"{model.base_model_prefix}."
    # In a checkpoint with a head, names outside the prefix are the head.
    places = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)} or {n: n for n in names}
    above = ["masked_spec_embed$", r"adapter\.", r"intermediate_ffn\."]
    if _stable(model):
        above.append(r"encoder\.layer_norm\.")
    unused = re.compile("|".join(above))
    block = re.compile(r"encoder\.layers\.(\d+)\.")
    tensors = {}
    for name, place in places.items():
        if not unused.match(name) and not ((m := block.match(name)) and int(m[1]) >= layer):
            tensor = get(place)
            tensors[name] = tensor.to(
                torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True
            ).contiguous()
    for gain, direction in WEIGHT_NORM:
        for stem in [name.removesuffix(gain) for name in tensors if name.endswith(gain)]:
            if stem + direction in tensors:
                tensors[stem + ".weight"] = fold(tensors.pop(stem + gain), tensors.pop(stem + direction))
    expected = model.state_dict()
    for what, differing in (
        ("missing", expected.keys() - tensors.keys()),
        ("unexpected", tensors.keys() - expected.keys()),
    ):
        if differing:
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise ModelError(f"{folder}: weights do not fit the architecture ({what}: {min(differing)}{more})")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
            raise ModelError(f"{folder}: weights do not fit the architecture ({name} has shape {shapes})")
    return tensors


def _build(cls: type[PreTrainedModel], config: Any, layer: int) -> PreTrainedModel:
    """The first `layer` blocks and all before them, on the meta device; without the norm on top, drop-out and masks."""
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    config.num_hidden_layers = layer  # no block depends on how many follow (WavLM's position bias is made in the first)
    config.layerdrop = config.mask_time_prob = config.mask_feature_prob = 0.0
    config.apply_spec_augment = config.add_adapter = config.use_intermediate_ffn_before_adapter = False
    config._attn_implementation = "sdpa" if cls._supports_sdpa else "eager"
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = cls(config).eval()
    if hasattr(model, "masked_spec_embed"):
        del model.masked_spec_embed
    if _stable(model):
        model.encoder.layer_norm = nn.Identity()
    if getattr(model.encoder, "embed_positions", None) is not None:  # a table of w2v-BERT that is in no file
        model.encoder.embed_positions = type(model.encoder.embed_positions)(config)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return model


def _stable(model: PreTrainedModel) -> bool:
    """Whether `encoder.layer_norm` follows the blocks. By class: models ignore some fields of their configurations."""
    return type(model.encoder).__name__.endswith("StableLayerNorm")
