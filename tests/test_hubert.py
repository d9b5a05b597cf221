import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from textless.audio.mel import HTK_FLOOR, htk_filters, htk_log_mel, normalise
from textless.errors import AudioError, ModelError
from textless.units.encoders.hubert import (
    CONV_KERNELS,
    CONV_STRIDES,
    PRESETS,
    Hubert,
    HubertConfig,
    PositionalStack,
    sums_of_squares,
)
from textless.units.encoders.hubert_encoder import HubertEncoder, encoder_hash, save_encoder
from textless.units.encoders.hubert_frames import n_frames
from textless.units.encoders.load import load_encoder

SMALL = {"conv_dim": 32, "dim": 48, "layers": 3, "heads": 4, "ffn_dim": 64, "pos_conv_kernel": 16, "pos_conv_groups": 4}
BASE = HubertConfig(**SMALL)
LARGE = HubertConfig(**SMALL, conv_bias=True, conv_norm="layer", pre_ln=True, normalisation="layer_norm_1e-5")


def theirs(config: HubertConfig):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.HubertModel(
        transformers.HubertConfig(
            hidden_size=config.dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.ffn_dim,
            conv_dim=(config.conv_dim,) * 7,
            conv_kernel=CONV_KERNELS,
            conv_stride=CONV_STRIDES,
            conv_bias=config.conv_bias,
            feat_extract_norm=config.conv_norm,
            do_stable_layer_norm=config.pre_ln,
            num_conv_pos_embeddings=config.pos_conv_kernel,
            num_conv_pos_embedding_groups=config.pos_conv_groups,
        )
    ).eval()


@pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])
def test_equals_transformers_layer_by_layer(config, clip):
    reference = theirs(config)
    model = Hubert(config).eval()
    model.load_state_dict(reference.state_dict())
    wave = torch.from_numpy(clip[:20000])
    with torch.inference_mode():
        hidden = reference(model.prepare(wave)[None], output_hidden_states=True).hidden_states
        final, ours = model(model.prepare(wave)[None])
    for layer in range(1, config.layers + 1):
        if layer == config.layers and config.pre_ln:
            continue  # the last hidden state of transformers has the final norm on top
        want = hidden[layer][0].numpy()
        assert np.abs(ours[layer - 1][0].numpy() - want).max() < 1e-5 * np.abs(want).max()
    torch.testing.assert_close(
        final[0], reference(model.prepare(wave)[None]).last_hidden_state[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("config", [BASE, PRESETS["nano"]], ids=["conv", "logmel"])
@pytest.mark.parametrize("samples", [400, 401, 719, 720, 16000, 16001, 16159, 16160, 16399])
def test_frame_count(config, samples):
    model = Hubert(config).eval()
    with torch.inference_mode():
        [frames] = model(model.prepare(torch.randn(samples))[None], layers=1)[1]
    assert frames.shape == (1, n_frames(samples), config.dim)
    assert n_frames(samples) == (samples - 400) // 320 + 1


@pytest.mark.parametrize("config", [LARGE, PRESETS["nano"]], ids=["conv", "logmel"])
def test_truncation_and_folding_change_nothing(config, clip):
    torch.manual_seed(0)
    model = Hubert(config).eval()
    inputs = model.prepare(torch.from_numpy(clip[:16000]))[None]
    with torch.inference_mode():
        want = model(inputs)[1][1]
        short = model.truncate(2).fold_weight_norm()
        assert len(short.encoder.layers) == 2
        torch.testing.assert_close(short(inputs)[0], want, atol=1e-5, rtol=0)


def test_hash_is_of_what_the_output_depends_on(tmp_path):
    torch.manual_seed(0)
    model = Hubert(PRESETS["nano"])
    save_encoder(tmp_path / "a", model)
    with torch.no_grad():
        model.masked_spec_embed += 1
        model.encoder.layers[1].attention.q_proj.weight += 1
    save_encoder(tmp_path / "b", model)
    first = [load_encoder(tmp_path / name, 1).contract for name in "ab"]
    second = [load_encoder(tmp_path / name, 2).contract for name in "ab"]
    assert first[0] == first[1]
    assert second[0] != second[1]
    assert first[0].encoder != second[0].encoder


def test_hash_does_not_depend_on_threads(tmp_path):
    save_encoder(tmp_path / "a", Hubert(PRESETS["tiny"]))
    hashes, before = set(), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            hashes.add(load_encoder(tmp_path / "a", 1).contract.encoder)
    finally:
        torch.set_num_threads(before)
    assert len(hashes) == 1


def test_padding_is_not_seen():
    """In training, a short crop in a batch gives what it gives alone."""
    torch.manual_seed(0)
    model = Hubert(PRESETS["nano"]).eval()
    mel = torch.randn(2, 99, 40)
    padding = torch.zeros(2, 50, dtype=torch.bool)
    padding[1, 30:] = True
    mel[1, 59:] = 0
    with torch.inference_mode():
        together = model(mel, padding=padding)[0][1, :30]
        alone = model(mel[1:, :59])[0][0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_padding_is_not_seen_by_a_stack_of_convolutions():
    """Whose second convolution would see what the first makes of the padding."""
    torch.manual_seed(0)
    stack = PositionalStack(HubertConfig(**SMALL, pos_conv_depth=3)).eval()
    x, padding = torch.randn(2, 50, 48), torch.zeros(2, 50, dtype=torch.bool)
    padding[1, 30:] = True
    x[1, 30:] = 0
    with torch.inference_mode():
        torch.testing.assert_close(stack(x, padding)[1, :30], stack(x[1:, :30])[0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(stack(x)[1, :30], stack(x[1:, :30])[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spread", [0, 1, 8])
def test_sums_of_squares_are_rounded_once(spread):
    """Also where values differ by many orders of magnitude, and in every part of the rows."""
    rng = np.random.default_rng(spread)
    x = (rng.standard_normal((1000, 5)) * np.exp(spread * rng.standard_normal((1000, 5)))).astype(np.float32)
    for rows in (1, 255, 256, 257, 1000):
        want = [math.fsum(np.square(column.astype(np.float64))) for column in x[:rows].T]
        assert sums_of_squares(x[:rows]).tolist() == want
    assert sums_of_squares(np.zeros((300, 2), np.float32)).tolist() == [0, 0]
    assert np.isnan(sums_of_squares(np.array([[1, np.nan], [2, 3]], np.float32))).tolist() == [False, True]


def test_mask_replaces_frames():
    torch.manual_seed(0)
    model = Hubert(PRESETS["nano"]).eval()
    a, b = torch.randn(1, 99, 40), torch.randn(1, 99, 40)
    everything = torch.ones(1, 50, dtype=torch.bool)
    with torch.inference_mode():
        torch.testing.assert_close(model(a, mask=everything)[0], model(b, mask=everything)[0])
        assert not torch.allclose(model(a)[0], model(b)[0])


def test_log_mel_equals_a_naive_one(clip):
    wave = clip[3000:5000]
    bank = htk_filters(80).numpy().astype(np.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    naive = []
    for start in range(0, len(wave) - 399, 160):
        spectrum = np.fft.rfft(wave[start : start + 400].astype(np.float64) * window, 512)
        naive.append(np.log(np.maximum((np.abs(spectrum) ** 2) @ bank, HTK_FLOOR)))
    np.testing.assert_allclose(htk_log_mel(torch.from_numpy(wave)).numpy(), naive, atol=1e-3)
    assert (bank.sum(0) > 0).all()


def test_log_mel_of_silence_is_its_floor():
    """A millionth: 16-bit silence stays above it."""
    silence = htk_log_mel(torch.zeros(400))
    torch.testing.assert_close(silence, torch.full((1, 80), -13.815511))  # ln 1e-6
    step = htk_log_mel(torch.full((400,), 2**-15) * torch.tensor([1.0, -1.0]).repeat(200))
    assert step.max() > silence.max()


@pytest.mark.parametrize("n_mels", [40, 80])
def test_mel_filters_are_those_of_a_naive_computation(n_mels):
    """HTK's scale: 1127 ln(1 + f / 700), from 20 Hz to 8 kHz."""
    low, high = (1127 * np.log(1 + f / 700) for f in (20, 8000))
    edges = [low + k * (high - low) / (n_mels + 1) for k in range(n_mels + 2)]
    want = np.zeros((257, n_mels))
    for b in range(257):
        mel = 1127 * np.log(1 + b * 31.25 / 700)
        for m, (left, peak, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
            if left < mel < right:
                want[b, m] = (mel - left) / (peak - left) if mel < peak else (right - mel) / (right - peak)
    np.testing.assert_allclose(htk_filters(n_mels), want, atol=1e-6)


def test_normalise():
    y = normalise(torch.randn(500, 7) * 9 + 3)
    torch.testing.assert_close(y.mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0), torch.ones(7), atol=1e-2, rtol=0)
    assert torch.isfinite(normalise(torch.zeros(5, 3))).all()
    quiet = 0.001 * torch.randn(500, 7)  # its variance, a millionth, is less than what is added to it
    want = (quiet - quiet.mean(0)) / (quiet.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(normalise(quiet), want)


def test_bad_input(tmp_path):
    model = Hubert(BASE).eval()
    with pytest.raises(ModelError, match="layer 4 does not exist: the encoder has layers 1 to 3"):
        HubertEncoder(model, 4)
    with pytest.raises(AudioError, match="399 samples are shorter than one frame"):
        HubertEncoder(model, 3).encode_one(np.zeros(399, np.float32))
    with pytest.raises(ModelError, match="front_end is 'fft'"):
        replace(BASE, front_end="fft")
    save_encoder(tmp_path / "a", Hubert(BASE))
    weights = tmp_path / "a" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        load_encoder(tmp_path / "a")
    with pytest.raises(ModelError, match="nowhere: no such file or folder, and no published encoder"):
        load_encoder(tmp_path / "nowhere")


def test_presets_have_their_size():
    assert sum(p.numel() for p in Hubert(PRESETS["tiny"]).parameters()) < 6e6
    with torch.device("meta"):
        assert sum(p.numel() for p in Hubert(PRESETS["base"]).parameters()) == 94_371_712
    assert encoder_hash(Hubert(PRESETS["nano"])) != encoder_hash(Hubert(PRESETS["nano"]))
