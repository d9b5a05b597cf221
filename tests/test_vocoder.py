"""The unit vocoder: its arithmetic against naive oracles, and its promises about batches, durations, F0 and
speakers."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from textless.audio.mel import slaney_filters, slaney_log_mel
from textless.errors import ContractError, DumpError, ModelError
from textless.types import UnitContract, Units
from textless.vocoder import UnitVocoder, VocoderConfig, load_vocoder, losses
from textless.vocoder.head import ISTFT, SpectrumHead

CONTRACT = UnitContract(encoder="logmel", sample_rate=16000, frame_rate=50.0, n_units=7)


def vocoder(speakers=("ann", "bob"), contract=CONTRACT, seed=0, **fields) -> UnitVocoder:
    """Untrained; its convolutions are made larger than at birth, so that context and padding would be heard."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = UnitVocoder(VocoderConfig.of(contract, speakers=speakers, preset="nano", **fields), contract).eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.ndim >= 2:
                    p.normal_(std=0.1)
                elif name.endswith("bias"):  # a bias is what turns padding into sound where a mask is missing
                    p.normal_(std=0.3)
    return model


def units_of(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(7, size=n)


# ------------------------------------------------------------------------------------------------------------ iSTFT


@pytest.mark.parametrize(("n_fft", "hop"), [(1280, 320), (640, 160)])
def test_istft_inverts_stft(n_fft, hop):
    frames, side = 9, (n_fft - hop) // 2
    x = torch.randn(2, frames * hop, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (side, side))
    spectrum = torch.stft(padded, n_fft, hop, window=torch.hann_window(n_fft), center=False, return_complex=True)
    back = ISTFT(n_fft, hop)(spectrum.transpose(1, 2), torch.ones(2, frames))
    assert back.shape == x.shape
    torch.testing.assert_close(back, x, atol=2e-5, rtol=0)


def test_istft_of_any_spectrum_is_torchs():
    """Not only of consistent spectrograms: torch.istft with its centre cut gives the same samples away from the
    ends."""
    n_fft, hop, frames = 1280, 320, 12
    spectrum = torch.randn(1, frames, n_fft // 2 + 1, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    ours = ISTFT(n_fft, hop)(spectrum, torch.ones(1, frames))[0]
    theirs = torch.istft(spectrum.transpose(1, 2), n_fft, hop, window=torch.hann_window(n_fft), center=True)[0]
    # torch's sample 0 is the middle of frame 0; ours is half a hop before it
    torch.testing.assert_close(ours[hop // 2 :][n_fft:-n_fft], theirs[n_fft : n_fft + len(ours) - hop // 2 - 2 * n_fft])


# ------------------------------------------------------------------------------------------------------------ losses


def naive_mel_filters(n_fft: int, n_mels: int, rate: int) -> np.ndarray:
    def hz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * math.exp(math.log(6.4) / 27 * (mel - 15))

    top = 15 + math.log(rate / 2 / 1000) / (math.log(6.4) / 27)
    edges = [hz(top * i / (n_mels + 1)) for i in range(n_mels + 2)]
    filters = np.zeros((n_fft // 2 + 1, n_mels))
    for m in range(n_mels):
        low, centre, high = edges[m : m + 3]
        for k in range(n_fft // 2 + 1):
            f = k * rate / n_fft
            if low < f <= centre:
                filters[k, m] = (f - low) / (centre - low)
            elif centre < f < high:
                filters[k, m] = (high - f) / (high - centre)
            filters[k, m] *= 2 / (high - low)
    return filters


@pytest.mark.parametrize(("n_fft", "n_mels"), [*losses.SCALES, (1024, 80)])
def test_mel_filters_are_the_naive_ones(n_fft, n_mels):
    ours = slaney_filters(n_fft, n_mels, 16000).numpy()
    np.testing.assert_allclose(ours, naive_mel_filters(n_fft, n_mels, 16000), atol=1e-8, rtol=1e-5)
    assert (ours.sum(0) > 0).all(), "a filter between two bins hears nothing"


def test_log_mel_is_the_naive_one():
    x = np.random.default_rng(0).normal(size=3000).astype(np.float32) * 0.1
    padded = np.pad(x, 512, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    spectra = np.array([np.abs(np.fft.rfft(padded[i : i + 1024] * window)) for i in range(0, 3001, 256)])
    expected = np.log(np.maximum(spectra @ naive_mel_filters(1024, 80, 16000), 1e-5))
    ours = slaney_log_mel(torch.from_numpy(x)[None], sample_rate=16000)[0]
    np.testing.assert_allclose(ours.numpy().T, expected, atol=1e-3)


def test_log_mel_of_silence_is_its_floor():
    silence = slaney_log_mel(torch.zeros(1, 3000), sample_rate=16000)
    torch.testing.assert_close(silence, torch.full_like(silence, -11.512925))  # ln 1e-5


def test_the_loss_is_the_mean_over_five_scales():
    a, b = torch.randn(2, 2, 4000, generator=torch.Generator().manual_seed(0))
    scales = ((2048, 160), (1024, 80), (512, 40), (256, 20), (128, 10))
    mels = [
        [slaney_log_mel(x, sample_rate=16000, window=w, n_mels=m).double() for x in (a, 0.1 * b)] for w, m in scales
    ]
    want = np.mean([float((x - y).abs().mean()) for x, y in mels])
    assert float(losses.multi_scale_mel(a, 0.1 * b, sample_rate=16000)) == pytest.approx(want, rel=1e-5)


def test_half_of_the_duration_predictor_drops_out():
    """While it is trained; what is kept counts twice."""
    predictor = vocoder().durations.train()
    torch.manual_seed(0)
    x = torch.randn(1, 402, predictor.project.in_features)
    trained, still = predictor.layer(0, x), predictor.eval().layer(0, x)
    kept = trained != 0
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.0125)  # four standard errors
    torch.testing.assert_close(trained[kept], 2 * still[kept])


def test_loss_is_finite_and_so_is_its_gradient_at_silence():
    silent = torch.zeros(1, 4000, requires_grad=True)
    loud = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    loss = losses.multi_scale_mel(silent, loud, sample_rate=16000)
    loss.backward()
    assert torch.isfinite(silent.grad).all()
    assert losses.multi_scale_mel(loud, loud, sample_rate=16000) == 0 < loss


# ------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize(("frame_rate", "hop"), [(50.0, 320), (100.0, 160), (25.0, 640)])
def test_length_is_frames_times_hop(frame_rate, hop):
    model = vocoder(contract=CONTRACT.with_(frame_rate=frame_rate))
    assert (model.config.hop, model.config.n_fft, model.frame_rate, model.sample_rate) == (
        hop,
        4 * hop,
        frame_rate,
        16000,
    )
    for n in (1, 2, 17):
        audio = model.resynth(units_of(n, 0))
        assert audio.shape == (n * hop,)
        assert audio.dtype == np.float32
        assert np.abs(audio).max() > 1e-4


@pytest.mark.parametrize("fields", [{}, {"causal": True}, {"f0": True}, {"f0": True, "causal": True}], ids=str)
def test_a_row_does_not_hear_its_batch(fields):
    model = vocoder(**fields)
    rows = [units_of(n, n) for n in (3, 40, 1, 23, 39)]
    together = model.resynth(rows, speaker="bob")
    for row, audio in zip(rows, together, strict=True):
        alone = model.resynth(row, speaker="bob")
        assert audio.shape == alone.shape
        np.testing.assert_allclose(audio, alone, atol=1e-5)
    # the tolerance is far below what a missing mask would do: context is heard at all
    assert np.abs(model.resynth(rows[1][:23]) - model.resynth(rows[1])[: 23 * 320]).max() > 1e-2


def test_predicted_durations_do_not_hear_their_batch():
    model = vocoder()
    with torch.no_grad():
        model.durations.project.weight.mul_(5)
    rows = [units_of(n, n) for n in (3, 40, 23)]
    for row, durations in zip(rows, model.predict_durations(rows), strict=True):
        assert durations.shape == row.shape
        assert durations.min() >= 1
        np.testing.assert_array_equal(durations, model.predict_durations([row])[0])


def test_many_long_rows_are_spoken_in_several_batches(monkeypatch):
    model, rows = vocoder(), [units_of(n, n) for n in (5, 30, 8, 31, 2)]
    expected = model.resynth(rows)
    shapes = []
    forward = model.forward
    monkeypatch.setattr("textless.vocoder.data.BATCH_FRAMES", 32)
    monkeypatch.setattr(
        model, "forward", lambda units, *rest: shapes.append(tuple(units.shape)) or forward(units, *rest)
    )
    for a, b in zip(model.resynth(rows), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert shapes == [(1, 31), (1, 30), (3, 8)]


def test_given_durations_repeat_and_a_bare_array_is_literal():
    model = vocoder()
    units = Units(np.array([1, 4, 4, 2]), np.array([3, 1, 2, 5]), CONTRACT)
    np.testing.assert_array_equal(model.resynth(units), model.resynth(units.frames()))
    assert len(model.resynth(Units(units.units, None, CONTRACT))) == 4 * 320
    assert len(model.resynth([1, 1, 1])) == 3 * 320


def test_predicted_durations():
    model = vocoder()
    with torch.no_grad():  # every unit lasts exp(1.3) = 3.67 frames: 4
        model.durations.project.weight.zero_()
        model.durations.project.bias.fill_(1.3)
    # of Units the runs are joined (1, 4, 2), a bare array is taken literally
    units = Units(np.array([1, 4, 4, 2]), np.array([3, 1, 2, 5]), CONTRACT)
    np.testing.assert_array_equal(model.resynth(units, durations="predict"), model.resynth(np.repeat([1, 4, 2], 4)))
    np.testing.assert_array_equal(
        model.resynth([1, 4, 4, 2], durations="predict"), model.resynth(np.repeat([1, 4, 4, 2], 4))
    )
    with torch.no_grad():
        model.durations.project.bias.fill_(-3)
    assert len(model.resynth(units, durations="predict")) == 3 * 320


def test_magnitudes_are_clipped():
    """A runaway log-magnitude must not become infinite: each frame is at most an impulse of n_fft / 4."""
    model = vocoder()
    with torch.no_grad():
        model.head.project.bias[: model.config.n_fft // 2 + 1] = 1e4
    audio = model.resynth(units_of(5, 0))
    assert np.isfinite(audio).all()
    assert 1 < np.abs(audio).max() <= 4 * model.config.n_fft / 4


def test_magnitudes_are_clipped_by_number():
    """At what a sine of full scale has under the window; filters of sources at ten."""
    one, none = torch.ones(1, 1, 641), torch.zeros(1, 1, 641)
    plain, excited = (SpectrumHead(4, 1280, 320, excited=e) for e in (False, True))
    with torch.no_grad():
        for head in (plain, excited):
            head.project.weight.zero_()
            head.project.bias.fill_(99.0)
        torch.testing.assert_close(plain.spectrum(torch.zeros(1, 1, 4)).abs(), 320 * one)
        torch.testing.assert_close(excited.spectrum(torch.zeros(1, 1, 4), (one, (none, none))).abs(), 10 * one)
        torch.testing.assert_close(excited.spectrum(torch.zeros(1, 1, 4), (none, (one, none))).abs(), 10 * one)


def test_f0_is_followed():
    model, units = vocoder(f0=True), units_of(60, 0)
    model.head.project.bias.data[:641] += 3  # pulses, louder than noise
    for hz in (100.0, 180.0):
        audio = model.resynth(units, f0=np.full(60, hz))
        power = np.abs(np.fft.rfft(audio[:16000] * np.hanning(16000))) ** 2  # a bin is a hertz
        comb = [power[[f + k for k in range(round(hz), 7800, round(hz))]].sum() for f in (0, round(hz / 2))]
        assert comb[0] > 10 * comb[1], "no harmonics at the multiples of F0"
    whispered = model.resynth(units, f0=np.zeros(60))
    assert np.abs(whispered).max() < 0.5 * np.abs(audio).max()
    rows = [units[:7], units]
    both = model.resynth(rows, f0=[np.full(7, 150.0), np.full(60, 100.0)])
    # These pulses are a hundred times as loud as speech. A sample sums 641 bins: 2^-24 · √641 = 1.5e-6 of the largest.
    np.testing.assert_allclose(
        both[0], model.resynth(rows[0], f0=np.full(7, 150.0)), atol=2e-6 * np.abs(both[0]).max(), rtol=0
    )


def test_predicted_f0_is_what_it_speaks_with():
    model, units = vocoder(f0=True), units_of(60, 0)
    f0 = model.predict_f0(units, speaker="bob")
    assert f0.shape == (60,)
    assert 0 < (f0 > 0).sum() < 60
    np.testing.assert_allclose(
        model.resynth(units, speaker="bob", f0=f0), model.resynth(units, speaker="bob"), atol=1e-5
    )


def test_f0_that_cannot_be_followed():
    model, units = vocoder(f0=True), units_of(5, 0)
    with pytest.raises(ModelError, match=r"\[4\] frames.*\[5\]"):
        model.resynth(units, f0=np.ones(4))
    with pytest.raises(ModelError, match="Hz"):
        model.resynth(units, f0=np.full(5, np.nan))
    with pytest.raises(ModelError, match="Hz, up to 8000"):
        model.resynth(units, f0=np.full(5, 8001.0))
    with pytest.raises(ModelError, match="without F0"):
        vocoder().resynth(units, f0=np.full(5, 100.0))


def test_causal_hears_the_past_only():
    model, units = vocoder(causal=True), units_of(60, 0)
    other = units.copy()
    other[40] = (other[40] + 1) % 7
    a, b = model.resynth(units), model.resynth(other)
    reach = (40 - 2) * 320  # the windows of the iSTFT reach into two frames before
    np.testing.assert_array_equal(a[:reach], b[:reach])
    assert np.abs(a - b)[40 * 320 : 41 * 320].max() > 1e-3


def test_presets_have_the_size_they_say():
    for preset, millions in (("small", 3.9), ("base", 16.1)):
        model = UnitVocoder(VocoderConfig.of(CONTRACT, speakers=("a",), preset=preset, f0=True), CONTRACT)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


def test_speakers_by_name_and_index_differ():
    model, units = vocoder(), units_of(9, 0)
    ann, bob = model.resynth(units, speaker="ann"), model.resynth(units, speaker="bob")
    np.testing.assert_array_equal(model.resynth(units), ann)
    np.testing.assert_array_equal(model.resynth(units, speaker=1), bob)
    assert np.abs(ann - bob).max() > 1e-3


@pytest.mark.parametrize("fields", [{}, {"f0": True}], ids=str)
def test_bf16_is_nearly_the_same(tmp_path, fields):
    model, rows = vocoder(**fields), [units_of(40, 0), units_of(23, 1)]
    model.save(tmp_path / "v")
    low = load_vocoder(tmp_path / "v", precision="bf16")
    for exact, made in zip(model.resynth(rows), low.resynth(rows), strict=True):
        assert made.dtype == np.float32
        assert 0 < ((made - exact) ** 2).mean() < 0.03 * (exact**2).mean()
    np.testing.assert_allclose(low.resynth(rows)[1], low.resynth(rows[1]), atol=1e-5)
    streamed = np.concatenate(list(low.stream(np.split(rows[0], 8))))
    assert ((streamed - low.resynth(rows[0])) ** 2).mean() < 1e-3 * (streamed**2).mean()
    with pytest.raises(ModelError, match="fp16"):
        load_vocoder(tmp_path / "v", precision="fp16")


def test_what_earlier_versions_saved_is_read(tmp_path):
    """A configuration without the fields that came later is a vocoder without F0."""
    import json

    model, units = vocoder(), units_of(20, 0)
    model.save(tmp_path / "v")
    config = json.loads((tmp_path / "v" / "config.json").read_text())
    for name in ("f0", "pitch_dim", "pitch_layers", "upsample", "causal"):
        del config[name]
    (tmp_path / "v" / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(load_vocoder(tmp_path / "v").resynth(units), model.resynth(units))


@pytest.mark.filterwarnings("ignore::textless.errors.ContractWarning")
def test_requests_that_cannot_be_met():
    model = vocoder()
    with pytest.raises(ModelError, match=r"'eve'.*ann, bob"):
        model.resynth([1, 2], speaker="eve")
    for index in (2, -1):
        with pytest.raises(ModelError, match="ann, bob"):
            model.resynth([1, 2], speaker=index)
    with pytest.raises(ModelError) as e:
        vocoder(speakers=[f"s{i:02}" for i in range(30)]).resynth([1], speaker="x")
    assert "s19 … (30 in all)" in str(e.value)
    assert "s20" not in str(e.value)
    for nothing in ([], np.zeros(0, np.int64), Units(np.zeros(0, np.int64), None, CONTRACT), [[1, 2], []]):
        with pytest.raises(ModelError, match="no units"):
            model.resynth(nothing)
    with pytest.raises(ModelError, match="durations"):
        model.resynth([1], durations="long")
    with pytest.raises(DumpError):
        model.resynth(np.array([0.5, 1.0]))
    for outside in ([7], np.array([-1]), Units(np.array([7]))):
        with pytest.raises(ContractError, match="outside"):
            model.resynth(outside)
    with pytest.raises(ContractError, match="encoder is mfcc in the units but logmel in the vocoder"):
        model.resynth(Units(np.array([1]), None, CONTRACT.with_(encoder="mfcc")))


@pytest.mark.parametrize(
    "contract",
    [
        CONTRACT.with_(frame_rate=None),
        CONTRACT.with_(n_units=None),
        CONTRACT.with_(frame_rate=30.0),  # 533.3 samples a frame
    ],
)
def test_contracts_that_give_no_vocoder(contract):
    with pytest.raises(ModelError):
        VocoderConfig.of(contract, speakers=["a"], preset="nano")


def test_configurations_that_fit_no_contract():
    config = VocoderConfig.of(CONTRACT, speakers=["a"], preset="nano")
    for contract in (CONTRACT.with_(frame_rate=100.0), CONTRACT.with_(n_units=8), UnitContract()):
        with pytest.raises(ModelError):
            UnitVocoder(config, contract)
    for speakers in ([], ["a", "a"]):
        with pytest.raises(ModelError, match="speaker"):
            UnitVocoder(VocoderConfig.of(CONTRACT, speakers=speakers, preset="nano"), CONTRACT)
    with pytest.raises(ModelError, match="nano, small, base"):
        VocoderConfig.of(CONTRACT, speakers=["a"], preset="huge")
    with pytest.raises(ModelError, match="upsample is 2; known: 1"):  # a trial of versions before 0.2
        vocoder(upsample=2)


def test_saved_and_loaded_it_sounds_the_same(tmp_path):
    model, units = vocoder(), units_of(20, 0)
    model.save(tmp_path / "v")
    again = load_vocoder(tmp_path / "v")
    assert (again.config, again.contract) == (model.config, model.contract)
    np.testing.assert_array_equal(again.resynth(units, speaker="bob"), model.resynth(units, speaker="bob"))
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_vocoder(tmp_path)
    config = (tmp_path / "v" / "config.json").read_text()
    (tmp_path / "v" / "config.json").write_text(config.replace('"dim": 64', '"dim": 72'))
    with pytest.raises(ModelError, match="where its configuration asks for"):
        load_vocoder(tmp_path / "v")
    (tmp_path / "v" / "config.json").write_text(config.replace('"dim": 64', '"dim": 64, "emotions": 1'))
    with pytest.raises(ModelError, match="emotions"):
        load_vocoder(tmp_path / "v")


def test_importing_the_package_does_not_import_torch():
    code = (
        "import sys, textless.vocoder; assert 'torch' not in sys.modules; textless.vocoder.Clip; "
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
