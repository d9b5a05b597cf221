import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from textless.errors import AudioError, ModelError
from textless.units.encoders.hubert_frames import n_frames
from textless.units.encoders.transformers import MODELS, load_transformers

transformers = pytest.importorskip("transformers")

TRUNK = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
# 16 channels a group: with fewer, and a kernel of 16, the bfloat16 convolution of oneDNN is wrong on processors with
# AMX (torch 2.13).
WAVE = {**TRUNK, "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
DATA2VEC = {
    **WAVE,
    "num_conv_pos_embeddings": 2,
    "conv_pos_kernel_size": 5,
    "do_stable_layer_norm": True,
}  # a field it does not read
W2V_BERT = {**TRUNK, "conv_depthwise_kernel_size": 5, "output_hidden_size": 32}
STRIDE_640 = {"conv_dim": (16,) * 8, "conv_kernel": (10, 3, 3, 3, 3, 2, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2, 2)}

VARIANTS = {
    "wav2vec2-base": ("wav2vec2", WAVE),
    "wav2vec2-large": ("wav2vec2", {**WAVE, **LARGE}),
    "wav2vec2-mms": ("wav2vec2", {**WAVE, **LARGE, "adapter_attn_dim": 4}),
    "wav2vec2-adapter": ("wav2vec2", {**WAVE, "add_adapter": True, "output_hidden_size": 32}),
    "wavlm-base": ("wavlm", WAVE),
    "wavlm-large": ("wavlm", {**WAVE, **LARGE}),
    "data2vec": ("data2vec-audio", DATA2VEC),
    "unispeech": ("unispeech", WAVE),
    "unispeech-large": ("unispeech", {**WAVE, **LARGE}),
    "unispeech-sat": ("unispeech-sat", WAVE),
    "unispeech-sat-large": ("unispeech-sat", {**WAVE, **LARGE}),
    "distilhubert": ("hubert", {**WAVE, "feat_proj_layer_norm": False}),
    "hubert-batch-norm": ("hubert", {**WAVE, "conv_pos_batch_norm": True}),
    "hubert-25hz": ("hubert", {**WAVE, **STRIDE_640}),
    "w2v-bert": ("wav2vec2-bert", W2V_BERT),
    "w2v-bert-relative": ("wav2vec2-bert", {**W2V_BERT, "position_embeddings_type": "relative"}),
    "w2v-bert-rotary": ("wav2vec2-bert", {**W2V_BERT, "position_embeddings_type": "rotary"}),
    "w2v-bert-adapter": (
        "wav2vec2-bert",
        {**W2V_BERT, "add_adapter": True, "use_intermediate_ffn_before_adapter": True},
    ),
}
ONE_OF_EACH = ["wav2vec2-large", "wavlm-base", "data2vec", "unispeech", "unispeech-sat", "distilhubert", "w2v-bert"]


def build(name, folder):
    """Save a model of this variant with random weights."""
    kind, settings = VARIANTS[name]
    torch.manual_seed(0)
    cls = getattr(transformers, MODELS[kind])
    model = cls(cls.config_class(**settings))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.05 * torch.rand_like(tensor)  # so that no bias or running mean is zero
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """name → folder of a model, made once and left unchanged by the tests."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = build(name, tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture
def copy(folders, tmp_path):
    """name → a copy of its folder that a test may change."""
    return lambda name: shutil.copytree(folders(name), tmp_path / name)


def theirs(folder, waveform):
    """The output of every block of transformers' own full model, plainest attention: [(T, D)]."""
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        if model.config.model_type == "wav2vec2-bert":
            inputs = transformers.SeamlessM4TFeatureExtractor()(waveform, sampling_rate=16000, return_tensors="pt")
            frames = int(inputs["attention_mask"].sum())
        else:
            norm = getattr(model.config, "feat_extract_norm", "layer") == "layer"
            extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=norm)
            inputs, frames = extractor(waveform, sampling_rate=16000, return_tensors="pt"), None
            inputs.pop("attention_mask", None)
        outputs = []
        top = model.encoder.layers[-1].register_forward_hook(lambda module, given, out: outputs.append(out))
        hidden = model(**inputs, output_hidden_states=True).hidden_states
        top.remove()
    last = (
        outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    )  # hidden_states[-1] may have the final norm on top
    return [h[0, :frames].numpy() for h in (*hidden[1:-1], last)]


def change(folder, name, by=1.0):
    """Add to one tensor of a folder, or remove it (by=None)."""
    tensors = load_file(folder / "model.safetensors")
    if by is None:
        del tensors[name]
    else:
        tensors[name] = tensors[name] + by
    save_file(tensors, folder / "model.safetensors")


def settings(folder, file="config.json", **changes):
    path = folder / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_transformers_layer_by_layer(folders, clip, name):
    wave = clip[3000:18990]  # an odd number of mel frames
    want = theirs(folders(name), wave)
    encoders = [load_transformers(folders(name), layer) for layer in (1, 2, 3)]
    together = encoders[-1].encode_layers(wave, [3, 1, 2])
    for layer, (encoder, expected) in enumerate(zip(encoders, want, strict=True), 1):
        frames = encoder.encode_one(wave)
        assert frames.dtype == np.float32
        assert frames.shape == expected.shape == (encoder.n_frames(len(wave)), encoder.dim)
        assert np.abs(frames - expected).max() < 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(together[layer], frames, atol=1e-5 * np.abs(expected).max())
        assert len(encoder.model.encoder.layers) == layer
    assert len({e.contract.encoder for e in encoders}) == 3


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "wavlm-large", "hubert-batch-norm", "hubert-25hz"])
def test_frame_count(folders, name):
    encoder = load_transformers(folders(name), 1)
    window, hop = {"w2v-bert": (560, 320), "hubert-25hz": (720, 640)}.get(name, (400, 320))
    assert encoder.frame_rate == encoder.contract.frame_rate == 16000 / hop
    noise = np.random.default_rng(0).standard_normal(20000).astype(np.float32) / 10
    for samples in (window, window + 1, window + hop - 1, window + hop, 16000, 16001, 16159, 16160, 16399):
        frames = encoder.encode_one(noise[:samples])
        assert len(frames) == encoder.n_frames(samples) == (samples - window) // hop + 1
        assert np.isfinite(frames).all()
        if (window, hop) == (400, 320):
            assert encoder.n_frames(samples) == n_frames(samples)
    assert encoder.n_frames(window - 1) == encoder.n_frames(0) == 0
    for samples in (window - 1, 0):
        with pytest.raises(
            AudioError, match=rf"^{samples} samples are shorter than one frame \({window} samples at 16 kHz\)$"
        ):
            encoder.encode_one(noise[:samples])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_hash_is_of_what_the_output_depends_on(copy, name):
    folder = copy(name)
    names = sorted(load_file(folder / "model.safetensors"))
    above, below, front = (
        next(n for n in names if n.startswith(p)) for p in ("encoder.layers.2.", "encoder.layers.1.", "feature_")
    )
    first = load_transformers(folder, 2).contract
    assert (first.layer, first.window, first.sample_rate, len(first.encoder)) == (2, 0.0, 16000, 64)
    change(folder, above)
    if "masked_spec_embed" in names:
        change(folder, "masked_spec_embed")
    assert load_transformers(folder, 2).contract == first
    settings(folder, num_hidden_layers=2)
    save_file(
        {n: t for n, t in load_file(folder / "model.safetensors").items() if not n.startswith("encoder.layers.2.")},
        folder / "model.safetensors",
    )
    assert load_transformers(folder, None).contract == first
    for changed in (below, front):
        before = load_transformers(folder, 2).contract.encoder
        change(folder, changed)
        assert load_transformers(folder, 2).contract.encoder != before


def test_hash_knows_the_architecture_but_not_threads_or_precision(copy):
    folder, hashes, before = copy("wav2vec2-base"), set(), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            hashes |= {
                load_transformers(folder, 1, precision=precision).contract.encoder for precision in ("fp32", "bf16")
            }
    finally:
        torch.set_num_threads(before)
    assert len(hashes) == 1
    settings(folder, model_type="unispeech")  # the same parameters by name and shape
    assert load_transformers(folder, 1).contract.encoder not in hashes


@pytest.mark.parametrize("name", ["wav2vec2-base", "w2v-bert"])
def test_a_list_is_its_members_alone(folders, clip, name):
    encoder = load_transformers(folders(name), 2)
    waves = [clip[:8000], clip[8000:20000]]
    for one, of_many in zip(waves, encoder.encode(waves), strict=True):
        np.testing.assert_array_equal(of_many, encoder.encode_one(one))
        np.testing.assert_array_equal(of_many, encoder.encode(one))
    assert encoder.encode([]) == []


@pytest.mark.parametrize(
    "head",
    [
        "Wav2Vec2ForCTC",
        "Wav2Vec2ForPreTraining",
        "WavLMForCTC",
        "Data2VecAudioForCTC",
        "UniSpeechSatForPreTraining",
        "Wav2Vec2BertForCTC",
    ],
)
def test_a_head_is_left_out(tmp_path, clip, head):
    cls = getattr(transformers, head)
    shape = DATA2VEC if "Data2Vec" in head else W2V_BERT if "Bert" in head else WAVE
    small = {"codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 4, "vocab_size": 5}
    model = cls(cls.config_class(**shape, **small))
    model.save_pretrained(tmp_path / "headed")
    model.base_model.save_pretrained(tmp_path / "bare")
    assert any(n.startswith(model.base_model_prefix) for n in load_file(tmp_path / "headed" / "model.safetensors"))
    headed, bare = load_transformers(tmp_path / "headed", 2), load_transformers(tmp_path / "bare", 2)
    assert headed.contract == bare.contract
    np.testing.assert_array_equal(headed.encode_one(clip[:8000]), bare.encode_one(clip[:8000]))


def test_sharded_weights(folders, tmp_path, clip):
    whole = load_transformers(folders("wavlm-base"), 2)
    transformers.AutoModel.from_pretrained(folders("wavlm-base")).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    parts = load_transformers(tmp_path, 2)
    assert parts.contract == whole.contract
    np.testing.assert_array_equal(parts.encode_one(clip[:8000]), whole.encode_one(clip[:8000]))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(ModelError, match=r"model-00002.* is missing"):
        load_transformers(tmp_path, 2)
    settings(
        tmp_path,
        "model.safetensors.index.json",
        weight_map=dict.fromkeys(index["weight_map"], "../elsewhere.safetensors"),
    )
    with pytest.raises(ModelError, match=r"'\.\./elsewhere\.safetensors' is not a file of this folder"):
        load_transformers(tmp_path, 2)


def test_old_names_half_precision_and_defaults_of_the_file(copy, clip):
    folder = copy("wav2vec2-base")
    want, tensors = load_transformers(folder, 3), load_file(folder / "model.safetensors")
    stem = "encoder.pos_conv_embed.conv."
    for new, old in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        tensors[stem + old] = tensors.pop(stem + new)
    save_file(tensors, folder / "model.safetensors")
    assert load_transformers(folder, 3).contract == want.contract
    settings(folder, output_hidden_states=True, return_dict=False, torch_dtype="float16")
    np.testing.assert_array_equal(load_transformers(folder, 3).encode_one(clip[:8000]), want.encode_one(clip[:8000]))
    save_file({n: t.half() for n, t in tensors.items()}, folder / "model.safetensors")
    half = load_transformers(folder, 3)
    assert half.model.dtype == torch.float32
    np.testing.assert_allclose(half.encode_one(clip[:8000]), want.encode_one(clip[:8000]), atol=2e-2)


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "hubert-batch-norm", "w2v-bert-relative"])
def test_bf16_is_close(folders, clip, name):
    wave = clip[:16000]
    full, half = (load_transformers(folders(name), 3, precision=p) for p in ("fp32", "bf16"))
    assert half.model.dtype == torch.bfloat16
    a, b = full.encode_one(wave), half.encode_one(wave)
    assert b.dtype == np.float32
    assert np.isfinite(b).all()
    assert np.linalg.norm(a - b) < 5e-2 * np.linalg.norm(a)


def test_normalisation(copy, clip):
    base, large = copy("wav2vec2-base"), copy("wav2vec2-large")
    assert load_transformers(base, 1).contract.normalisation == "none"
    assert load_transformers(large, 1).contract.normalisation == "zscore_1e-7"
    settings(base, "preprocessor_config.json", do_normalize=True)
    settings(large, "processor_config.json", feature_extractor={"do_normalize": False})
    encoder = load_transformers(base, 1)
    assert (encoder.contract.normalisation, encoder.sample_rate, encoder.frame_rate) == ("zscore_1e-7", 16000, 50.0)
    assert load_transformers(large, 1).contract.normalisation == "none"
    want = transformers.Wav2Vec2FeatureExtractor()(clip + 0.1, sampling_rate=16000, return_tensors="np")[
        "input_values"
    ][0]
    assert np.abs(encoder.front(clip + np.float32(0.1)) - want).max() < 1e-6 * np.abs(want).max()
    explicit = load_transformers(large, 1, normalisation="layer_norm_1e-5")
    wave = torch.from_numpy(clip)
    np.testing.assert_allclose(
        explicit.front(clip), torch.nn.functional.layer_norm(wave, wave.shape, eps=1e-5), atol=1e-5
    )
    assert np.isfinite(explicit.encode_one(np.zeros(800, np.float32))).all()
    with pytest.raises(ModelError, match=r"normalisation is 'zscore'; known: none, layer_norm_1e-5, zscore_1e-7"):
        load_transformers(base, 1, normalisation="zscore")
    settings(base, "preprocessor_config.json", sampling_rate=8000)
    with pytest.raises(ModelError, match="takes audio at 8000 Hz; textless reads 16000 Hz"):
        load_transformers(base, 1)
    with pytest.raises(ModelError, match="it can only be none"):
        load_transformers(copy("w2v-bert"), 1, normalisation="zscore_1e-7")


def test_loading_leaves_the_random_state_alone(folders):
    for name in ONE_OF_EACH:
        before = torch.get_rng_state()
        load_transformers(folders(name), 1)
        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_weights_must_fit(copy, name):
    folder = copy(name)
    names = sorted(load_file(folder / "model.safetensors"))
    below, above = (next(n for n in names if n.startswith(f"encoder.layers.{k}.")) for k in (1, 2))
    change(folder, above, None)
    load_transformers(folder, 2)
    with pytest.raises(ModelError, match=rf"weights do not fit the architecture \(missing: {above}\)"):
        load_transformers(folder, 3)
    change(folder, below, None)
    with pytest.raises(ModelError, match=rf"missing: {below}"):
        load_transformers(folder, 2)
    save_file(
        {"encoder.extra": torch.zeros(1), **load_file(folder / "model.safetensors")}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match=r"unexpected: encoder\.extra"):
        load_transformers(folder, 1)


def test_bad_input(copy, tmp_path, clip):
    folder = copy("wav2vec2-base")
    for layer in (0, 4, -1):
        with pytest.raises(ModelError, match=f"^layer {layer} does not exist: the encoder has layers 1 to 3$"):
            load_transformers(folder, layer)
    with pytest.raises(ModelError, match="layer 3 does not exist: the encoder was loaded with layers 1 to 2"):
        load_transformers(folder, 2).encode_layers(clip, [1, 3])
    with pytest.raises(ModelError, match="precision is 'int8'; known: fp32, bf16"):
        load_transformers(folder, 1, precision="int8")
    settings(folder, intermediate_size=40)
    with pytest.raises(ModelError, match=r"has shape \(48,\) instead of \(40,\)"):
        load_transformers(folder, 1)
    settings(folder, conv_stride=[5])
    with pytest.raises(ModelError, match="its configuration describes no wav2vec2 that can be built"):
        load_transformers(folder, 1)
    settings(folder, model_type="bert")
    with pytest.raises(ModelError, match=r"model_type is 'bert'; known: data2vec-audio, hubert, unispeech, .*wavlm$"):
        load_transformers(folder, 1)
    with pytest.raises(ModelError, match=r"not a model folder \(config\.json is missing\)"):
        load_transformers(tmp_path / "nowhere", 1)
    mel = copy("w2v-bert")
    settings(mel, "preprocessor_config.json", num_mel_bins=40)
    with pytest.raises(ModelError, match="the preprocessor gives 80 features a frame, the encoder takes 160"):
        load_transformers(mel, 1)


def test_weights_that_cannot_be_read(copy):
    folder = copy("wav2vec2-base")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        load_transformers(folder, 1)
    weights.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        load_transformers(folder, 1)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: is empty"):
        load_transformers(folder, 1)


def test_pickled_weights(copy, clip):
    folder = copy("wav2vec2-base")
    want = load_transformers(folder, 2)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    again = load_transformers(folder, 2)
    assert again.contract == want.contract
    np.testing.assert_array_equal(again.encode_one(clip[:8000]), want.encode_one(clip[:8000]))
