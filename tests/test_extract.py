"""The extractor against `Hubert.forward`, which is what training runs and what is held against transformers and
fairseq.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from textless.audio import mel as logmel
from textless.audio import mfcc
from textless.audio.mel import normalise
from textless.errors import AudioError, ModelError
from textless.units.encoders import extract
from textless.units.encoders.extract import MARGIN, Extractor, windows
from textless.units.encoders.hubert import EPSILON, PRESETS, Hubert, HubertConfig
from textless.units.encoders.hubert_frames import n_frames

SMALL = {"conv_dim": 32, "dim": 64, "layers": 3, "heads": 4, "ffn_dim": 64, "pos_conv_kernel": 16, "pos_conv_groups": 4}
BASE = HubertConfig(**SMALL)
CONFIGS = {
    "base": BASE,
    "base-normalised": replace(BASE, normalisation="zscore_1e-7", conv_bias=True),
    "large": HubertConfig(**SMALL, conv_bias=True, conv_norm="layer", pre_ln=True, normalisation="layer_norm_1e-5"),
    "stack": HubertConfig(
        **{**SMALL, "pos_conv_kernel": 7}, conv_norm="layer", normalisation="layer_norm_1e-5", pos_conv_depth=3
    ),
    "logmel": PRESETS["nano"],
    "logmel-normalised": replace(PRESETS["nano"], normalisation="layer_norm_1e-5"),
}
every = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(scope="module")
def models():
    made = {}
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        made[name] = Hubert(config).fold_weight_norm().eval()
        for module in made[name].modules():  # norms that do something
            if isinstance(module, torch.nn.LayerNorm | torch.nn.GroupNorm):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.1)
    return made


def naive(model, waveform, layer):
    """By the training model, the whole file at once, in double precision.

    The spectrogram alone is the extractor's, which `test_spectrogram` holds against one in double precision: that of a
    band 70 dB below its frame is rounded to 1e-4 nats, and where a short file varies little in this band the norm makes
    more of it.
    """
    x = torch.from_numpy(np.asarray(waveform, np.float64))
    if model.config.front_end == "conv":
        x = model.double().prepare(x)
    else:
        x = normalise(spectrogram(model, waveform).double())
    with torch.inference_mode():
        frames = model.double()(x[None])[1][layer - 1][0].numpy()
    model.float()
    return frames


def spectrogram(model, waveform):
    """As the extractor sees it, before the norm. (T', n_mels) float32."""
    front = Extractor(model).front
    with torch.inference_mode():
        return front._mel(
            extract._samples(lambda: [waveform], len(waveform)),
            0,
            mfcc.n_frames(len(waveform)),
            front.measure(lambda: [waveform]),
        )


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@every
@pytest.mark.parametrize("samples", [400, 719, 720, 1000, 16159, 16160, 40000])
def test_equals_the_model(models, name, clip, samples):
    got = Extractor(models[name])([clip[2000 : 2000 + samples]], [1, 2])[0]
    for layer in (1, 2):
        close(got[layer - 1], naive(models[name], clip[2000 : 2000 + samples], layer))
        assert got[layer - 1].dtype == np.float32


@every
def test_the_ffn_is_what_the_feed_forward_network_returns(models, name, clip):
    files = [clip[2000:18000], clip[30000:37000]]
    extractor = Extractor(models[name], tap="ffn")
    together = extractor(files, [0, 1, 2])
    streamed = [np.concatenate(x) for x in zip(*extractor.stream(lambda: [files[0]], [0, 1, 2]), strict=True)]
    [blocks] = Extractor(models[name])(files[:1], [0, 1, 2])
    for got, piece, block in zip(together[0][1:], streamed[1:], blocks[1:], strict=True):
        close(got, piece)
        assert np.abs(got - block).max() > 0.1 * np.abs(block).max()
    close(together[0][0], blocks[0])  # there is none before the first block
    for file, outputs in zip(files, together, strict=True):
        for layer, got in zip((1, 2), outputs[1:], strict=True):
            seen = []
            hook = (
                models[name]
                .encoder.layers[layer - 1]
                .feed_forward.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out))
            )
            naive(models[name], file, layer)
            hook.remove()
            close(got, seen[0][0].numpy())
            assert got.dtype == np.float32


@pytest.mark.parametrize("name", ["logmel", "logmel-normalised"])
@pytest.mark.parametrize(("gain", "offset"), [(1, 0), (1e-4, 0), (0.1, 0.9), (0, 0)])
@pytest.mark.parametrize("samples", [400, 1000, 9000])
def test_spectrogram(models, name, clip, samples, gain, offset):
    """Against one in double precision, to float32's rounding of each frame's samples.

    The magnitude of a bin is off by no more than c · eps · (the norm of the frame that is transformed) · sqrt(samples):
    five roundings of each sample (offset, level, gain, window and what the window itself is rounded to) and one for
    each of the transform's nine stages. A band, of weights w, is the square of a norm of magnitudes √w · |X|: it is off
    by no more than the same times √Σw.
    """
    config = models[name].config
    wave = (clip[2000 : 2000 + samples] * gain + offset).astype(np.float32)
    got = spectrogram(models[name], wave).double().numpy()
    x = wave.astype(np.float64)
    if config.normalisation != "none":
        x = (x - x.mean()) / np.sqrt(x.var() + EPSILON[config.normalisation])
    frames = np.lib.stride_tricks.sliding_window_view(x, mfcc.WINDOW)[:: mfcc.HOP] * np.hanning(mfcc.WINDOW)
    filters = logmel.htk_filters(config.n_mels).double().numpy()
    band = np.sqrt(np.square(np.abs(np.fft.rfft(frames, logmel.N_FFT))) @ filters)
    rounding = (
        14 * 2**-24 * np.linalg.norm(frames, axis=1, keepdims=True) * np.sqrt(mfcc.WINDOW) * np.sqrt(filters.sum(0))
    )
    floor = np.sqrt(1e-6)
    low, high = (2 * np.log(np.maximum(b, floor)) for b in (band - rounding, band + rounding))
    last = 4 * 2**-24 * np.abs(got).max()  # of the sum and the logarithm
    assert (got >= low - last).all()
    assert (got <= high + last).all()


@every
@pytest.mark.parametrize("change", ["very soft", "loud with an offset", "silent"])
def test_level_does_not_matter(models, name, clip, change):
    """GroupNorm's epsilon rules at very low levels, and a large offset causes cancellation."""
    wave = clip[20000:29000]
    wave = {"very soft": wave * 1e-4, "loud with an offset": wave * 0.1 + 0.9, "silent": wave * 0}[change]
    [[got]] = Extractor(models[name])([wave.astype(np.float32)], [2])
    assert np.isfinite(got).all()
    if name == "logmel" and change != "loud with an offset":
        return  # below the floor a spectrogram is constant, and a normalised constant is rounding in any implementation
    rounding = 0.0
    if models[name].config.front_end == "logmel":
        # The mean of a band is kept in float32. Where the band hardly varies, the norm makes as much more of
        # its last bit.
        mel = spectrogram(models[name], wave.astype(np.float32)).double()
        rounding = float((2**-23 * mel.mean(0).abs() / torch.sqrt(mel.var(0, unbiased=False) + 1e-5)).max())
        assert rounding < 1e-3
    close(got, naive(models[name], wave.astype(np.float32), 2), 2e-5 + rounding)


@every
@pytest.mark.parametrize("packed", [15_000, 100])
def test_a_file_does_not_see_its_neighbours(models, name, clip, packed, monkeypatch):
    monkeypatch.setattr(extract, "PACKED", packed)
    extractor = Extractor(models[name])
    rng = np.random.default_rng(0)
    files = [clip[s : s + n] for s, n in zip(rng.integers(0, 50000, 9), rng.integers(400, 40000, 9), strict=True)]
    files[3] = files[3] * 1e-3  # a soft one among loud ones
    alone = [extractor([f], [2])[0][0] for f in files]
    for order in (range(9), rng.permutation(9), [4], [2, 7]):
        for i, [got] in zip(order, extractor([files[i] for i in order], [2]), strict=True):
            close(got, alone[i])


@every
@pytest.mark.parametrize("block", [160, 399, 7001])
def test_how_a_file_is_cut_does_not_matter(models, name, clip, block, monkeypatch):
    extractor = Extractor(models[name])
    wave = clip[:40321]
    [[want]] = extractor([wave], [2])
    monkeypatch.setattr(extract, "TILE", 7)
    monkeypatch.setattr(extract, "STRETCH", 31)
    got = [x for [x] in extractor.stream(lambda: (wave[i : i + block] for i in range(0, len(wave), block)), [2])]
    close(np.concatenate(got), want)


@every
def test_long_files_are_seen_in_windows(models, name, clip):
    """Each window gives what a file of its frames would, but for statistics, which are the whole file's; no frame is
    lost.
    """
    wave = np.tile(clip, 2)[: 400 + 320 * 499]
    [[whole]] = Extractor(models[name], window=0)([wave], [2])
    extractor = Extractor(models[name], window=3)
    pieces = [x for [x] in extractor.stream(lambda: [wave[:70000], wave[70000:]], [2])]
    assert len(pieces) > 2
    got = np.concatenate(pieces)
    assert got.shape == whole.shape == (500, models[name].config.dim)
    close(extractor([wave], [2])[0][0], got)
    assert np.abs(got - whole).max() > 1e-4  # it is an approximation
    assert np.corrcoef(got.ravel(), whole.ravel())[0, 1] > 0.98
    close(Extractor(models[name], window=10)([wave], [2])[0][0], whole)


@pytest.mark.parametrize(("normalisation", "epsilon"), [("layer_norm_1e-5", 1e-5), ("zscore_1e-7", 1e-7)])
def test_a_quiet_file_is_normalised_with_the_epsilon_of_its_kind(normalisation, epsilon, clip):
    """Of a variance of about 1e-6, to which an epsilon is much or little."""
    torch.manual_seed(0)
    model = Hubert(replace(CONFIGS["large"], normalisation=normalisation)).fold_weight_norm().eval()
    x = clip[16000:32000].astype(np.float64)
    x = x * (0.001 / x.std())
    wave = x.astype(np.float32)
    want = ((x - x.mean()) / np.sqrt(x.var() + epsilon)).astype(np.float32)
    np.testing.assert_allclose(model.prepare(torch.from_numpy(wave)), want, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        frames = model(torch.from_numpy(want)[None])[1][1][0].numpy()
    [[found]] = Extractor(model, window=0)([wave], [2])
    close(found, frames, 1e-4)


def test_windows_by_number():
    """A twelfth of a window of 1200 frames is 100: windows begin 1000 frames apart, and the last ends with the file."""
    assert list(windows(1200, 1200)) == [(0, 1200, 0, 1200)]
    assert list(windows(3300, 1200)) == [
        (0, 1200, 0, 1100),
        (1000, 2200, 1100, 2100),
        (2000, 3200, 2100, 3100),
        (2100, 3300, 3100, 3300),
    ]


def test_windows_cover_every_frame_once():
    for window in (1, 2, 5, 12, 30, 3000):
        margin = round(window * MARGIN)
        for frames in [*range(1, 100), 2999, 3000, 3001, 10000]:
            cuts = list(windows(frames, window))
            assert [first for _, _, first, _ in cuts] == [0, *(last for _, _, _, last in cuts[:-1])]
            assert cuts[-1][3] == frames
            for start, stop, first, last in cuts:
                assert 0 <= start <= first < last <= stop <= frames
                assert stop - start == min(window, frames)
                assert first - start >= margin or first == 0
                assert stop - last >= margin or last == frames
    assert list(windows(10**6, 0)) == [(0, 10**6, 0, 10**6)]


@every
def test_bfloat16_is_close(models, name, clip):
    [[single]] = Extractor(models[name])([clip[:32000]], [2])
    [[half]] = Extractor(models[name], precision="bf16")([clip[:32000]], [2])
    assert half.dtype == np.float32
    assert 0 < np.abs(half - single).max() < 0.1 * np.abs(single).max()


def test_layers_above_are_not_run(models, clip):
    model = models["base"]
    [[want]] = Extractor(model)([clip[:8000]], [1])
    broken = Hubert(BASE).fold_weight_norm().eval()
    broken.load_state_dict(model.state_dict())
    for block in broken.encoder.layers[1:]:
        torch.nn.init.constant_(block.feed_forward.output_dense.weight, float("nan"))
    assert np.array_equal(Extractor(broken)([clip[:8000]], [1])[0][0], want)
    assert np.isnan(Extractor(broken)([clip[:8000]], [2])[0][0]).all()


def test_bad_input(models, clip):
    extractor = Extractor(models["base"])
    assert extractor([], [1]) == []
    for samples in (0, 1, 399):
        with pytest.raises(AudioError, match=f"{samples} samples are shorter than one frame"):
            extractor([clip[:samples]], [1])
        with pytest.raises(AudioError, match=f"{samples} samples are shorter than one frame"):
            list(extractor.stream(lambda n=samples: [clip[:n]], [1]))
    for name in ("base", "logmel"):
        with pytest.raises(AudioError, match="0 samples are shorter than one frame"):
            list(Extractor(models[name]).stream(list, [1]))
    with pytest.raises(ModelError, match="precision is 'fp8'; known: fp32, bf16"):
        Extractor(models["base"], precision="fp8")
    lengths = iter([40000, 40000, 20000])
    with pytest.raises(AudioError, match="changed while it was read"):
        list(extractor.stream(lambda: [clip[: next(lengths)]], [1]))
    assert n_frames(399) == 0
