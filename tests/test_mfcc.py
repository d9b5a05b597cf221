import numpy as np
import pytest

from textless.audio.mfcc import deltas, mfcc, n_frames, to_rate
from textless.errors import AudioError, TrainingError
from textless.units.encoders.hubert_frames import n_frames as hubert_frames
from textless.units.kmeans import Codebook


def test_equals_fairseq(clip, golden):
    theirs = golden("mfcc.npz")["mfcc"]
    ours = mfcc(clip)
    assert ours.shape == theirs.shape == (739, 39)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_equals_kaldi_native_fbank():
    """Another implementation of Kaldi's recipe, on noise, tones, silence and across the borders of blocks."""
    knf = pytest.importorskip("kaldi_native_fbank")
    rng = np.random.default_rng(0)
    t = np.arange(50000) / 16000
    for wave in (
        0.1 * rng.standard_normal(50000),
        0.5 * np.sin(2 * np.pi * 440 * t) + 0.1,
        np.zeros(700),
        1e-4 * rng.standard_normal(900),
    ):
        options = knf.MfccOptions()
        options.frame_opts.dither = 0.0
        options.use_energy = False
        theirs = knf.OnlineMfcc(options)
        theirs.accept_waveform(16000, wave.astype(np.float32))
        theirs.input_finished()
        want = np.stack([theirs.get_frame(i) for i in range(theirs.num_frames_ready)])
        ours = mfcc(wave.astype(np.float32))[:, :13]
        assert ours.shape == want.shape
        assert np.abs(ours - want).max() < 1e-4 * np.abs(want).max()


def test_labels_of_a_published_codebook(clip, golden):
    g = golden("mfcc.npz")
    assert np.array_equal(Codebook(g["centroids"]).predict(mfcc(clip)), g["labels"])


def test_scale_matters(clip):
    """The trap: waveforms scaled to 16-bit integers would give other labels."""
    with pytest.raises(AudioError, match="divide int16 samples by 32768"):
        mfcc(clip * 32768)


def test_deltas_equal_the_formula():
    x = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    want = np.zeros_like(x)
    for t in range(9):
        for n in (1, 2):
            want[t] += n * (x[min(t + n, 8)] - x[max(t - n, 0)]) / 10
    np.testing.assert_allclose(deltas(x), want, atol=1e-6)


@pytest.mark.parametrize("samples", [400, 559, 560, 719, 720, 118613, 118614])
def test_frame_counts(samples):
    assert n_frames(samples) == len(mfcc(np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1))
    assert n_frames(samples) in (2 * hubert_frames(samples) - 1, 2 * hubert_frames(samples))


def test_too_short():
    with pytest.raises(AudioError, match="399 samples are shorter than one frame"):
        mfcc(np.zeros(399, np.float32))


def test_to_rate_of_the_same_window():
    """739 MFCC frames for 370 of HuBERT, not 740: frame t belongs to MFCC frame 2 t, the last to the last."""
    picked = to_rate(np.arange(739), rate=100, target_rate=50, frames=370)
    assert picked[0] == 0
    assert picked[-1] == 738
    assert np.array_equal(picked, 2 * np.arange(370))


def test_to_rate_rounds_to_the_nearest():
    """At 86 Hz frame t of 50 Hz begins at label 1.72 t: 0, 1.72, 3.44, 5.16, 6.88."""
    assert to_rate(np.arange(9), rate=86, target_rate=50, frames=5).tolist() == [0, 2, 3, 5, 7]


@pytest.mark.parametrize("labels", [738, 742, 370])
def test_to_rate_refuses_labels_of_other_audio(labels):
    with pytest.raises(TrainingError, match=f"{labels} labels at 100 Hz do not fit 370 frames at 50 Hz"):
        to_rate(np.arange(labels), rate=100, target_rate=50, frames=370)
