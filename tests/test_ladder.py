import math

import numpy as np
import pytest
import soundfile
import soxr
import torch

from textless import open_dump
from textless.audio.mel import htk_edges, htk_log_mel, hz_to_htk, normalise
from textless.engine.store import Store
from textless.engine.yaml import load_pipeline
from textless.errors import ModelError, TrainingError
from textless.steps import STEPS
from textless.units.encoders.hubert import HubertConfig
from textless.units.encoders.hubert_frames import n_frames
from textless.units.encoders.load import load_encoder
from textless.units.mfcc_lda.ladder import LadderEncoder, fit_ladder
from textless.units.mfcc_lda.vtln import CONTEXT, HIGHEST, MEASURED, WARPS, Voice, modulation_cepstra, warping


@pytest.fixture(scope="module")
def pieces(clip):
    """The clip in seven files."""
    return [clip[i : i + 16000] for i in range(0, 7 * 16000, 16000)]


@pytest.fixture(scope="module")
def ladder(pieces):
    return fit_ladder(pieces, n_clusters=30, dim=12, rounds=2)[0]


def test_warping_fetches_from_the_warped_frequency():
    """A peak at 2000 Hz is at 2000 / w Hz afterwards; without a warp nothing changes, but at the top, where nothing
    is fetched.
    """
    below = int((htk_edges(80)[1:-1] < hz_to_htk(torch.tensor(HIGHEST))).sum())
    assert below > 75
    torch.testing.assert_close(warping(1.0)[:, :below], torch.eye(80)[:, :below])
    centres = htk_edges(80)[1:-1]
    peak = torch.exp(-(((centres - hz_to_htk(torch.tensor(2000.0))) / 120) ** 2)).float()
    for warp in WARPS:
        warped = peak @ warping(warp)
        assert float(warped @ centres.float() / warped.sum()) == pytest.approx(
            float(hz_to_htk(torch.tensor(2000.0 / warp))), abs=15
        )
        torch.testing.assert_close(warping(warp).sum(0), torch.ones(80))  # each is an interpolation
    top = float(centres @ warping(1.16)[:, -1].double())  # the last filter would be fetched from far above 7600 Hz
    assert 700 * math.expm1(top / 1127) == pytest.approx(7600, rel=1e-5)


def test_modulation_cepstra_are_two_cosine_transforms():
    """Against sums written out: over the mels, then, under a Hamming window, over time, the file's edges repeated."""
    mel = torch.randn(31, 80, generator=torch.Generator().manual_seed(0))

    def cosine(k, n, size):
        return np.sqrt((1 if k == 0 else 2) / size) * np.cos(np.pi / size * (n + 0.5) * k)

    cepstra = np.array(
        [[sum(float(row[n]) * cosine(k, n, 80) for n in range(80)) for k in range(13)] for row in mel @ warping(1.0)]
    )
    cepstra = (cepstra - cepstra.mean(0)) / np.sqrt(cepstra.var(0) + 1e-5)
    size = 2 * CONTEXT + 1
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    want = [
        [
            sum(window[j] * cosine(m, j, size) * cepstra[min(max(t + j - CONTEXT, 0), 30), k] for j in range(size))
            for k in range(13)
            for m in range(6)
        ]
        for t in range(0, 31, 2)
    ]
    np.testing.assert_allclose(modulation_cepstra(mel).numpy(), want, atol=1e-4)
    torch.testing.assert_close(modulation_cepstra(mel, step=8), modulation_cepstra(mel)[::4])


@pytest.mark.parametrize("factor", [0.87, 0.93, 1.0, 1.07, 1.13])
def test_a_voice_finds_out_by_how_much_the_spectrum_was_stretched(ladder, clip, factor):
    """Speech that is played faster by a factor has its resonances higher by it; the model knows it as it was."""
    faster = torch.from_numpy(soxr.resample(clip, 16000 * factor, 16000))
    assert ladder.voice.warp(htk_log_mel(faster)) == factor
    # And takes it out: what is left is nearer to the original than it was.
    original, stretched = (normalise(htk_log_mel(torch.from_numpy(x)).mean(0)[:, None]) for x in (clip, faster.numpy()))
    mended = normalise(ladder.voice(htk_log_mel(faster)).mean(0)[:, None])
    assert (mended - original)[:70].norm() <= 0.5 * (stretched - original)[:70].norm() or factor == 1.0


def test_the_first_minute_of_a_long_file_counts(ladder, clip):
    mel = htk_log_mel(torch.from_numpy(clip))
    long = torch.cat([mel] * 9)[:MEASURED]
    assert ladder.voice.warp(torch.cat([long, torch.randn(4000, 80)])) == ladder.voice.warp(long)


def test_only_the_first_minute_of_a_file_counts(ladder, clip):
    """What follows is three times as long, and of another voice."""
    faster = torch.from_numpy(soxr.resample(clip, 16000 * 1.13, 16000))
    beginning, rest = (
        torch.cat([htk_log_mel(x)] * 30)[:n] for x, n in ((torch.from_numpy(clip), 6000), (faster, 18000))
    )
    assert ladder.voice.warp(rest) == 1.13
    assert ladder.voice.warp(torch.cat([beginning, rest])) == ladder.voice.warp(beginning) != 1.13


def test_the_ladder_is_the_same_each_time_and_when_it_is_loaded(ladder, pieces, tmp_path):
    again, figures = fit_ladder(pieces, n_clusters=30, dim=12, rounds=2)
    assert again.contract == ladder.contract
    assert len(figures["distortion"]) == 2
    assert sum(figures["warps"].values()) == len(pieces)
    ladder.save(tmp_path / "ladder")
    loaded = load_encoder(tmp_path / "ladder")
    assert isinstance(loaded, LadderEncoder)
    assert loaded.contract == ladder.contract
    frames = ladder.encode(pieces[2])
    assert frames.shape == (n_frames(16000), 12)
    np.testing.assert_array_equal(loaded.encode(pieces[2]), frames)


def test_clusters_stand_apart_in_the_ladder(ladder, pieces):
    """That is what the projection is for: variance within clusters is one in each dimension, and between them it is
    more.
    """
    frames = np.concatenate(ladder.encode(pieces))
    nearest = (np.square(frames[:, None] - ladder.voice.centroids.numpy()).sum(2)).argmin(1)
    within = np.square(frames - ladder.voice.centroids.numpy()[nearest]).mean(0)
    assert (within < 1.3).all()
    assert (frames.var(0) > 2 * within).all()


def test_bad_requests(pieces):
    with pytest.raises(TrainingError, match="30 clusters cannot make 40 dimensions"):
        fit_ladder(pieces, n_clusters=30, dim=40)
    with pytest.raises(TrainingError, match="frames cannot make 500 units"):
        fit_ladder(pieces[:2], n_clusters=500)
    with pytest.raises(TrainingError):
        fit_ladder([np.zeros(100, np.float32)])
    with pytest.raises(ModelError, match="a voice warps spectrograms of 80 mels"):
        HubertConfig(front_end="conv", voice_clusters=10)


def test_warps_of_a_voice_are_exact_choices():
    """The warp is the one of the least distortion, and distortion a mean of squared distances."""
    torch.manual_seed(0)
    voice, mel = Voice(torch.randn(78, 5), torch.randn(7, 5)), torch.randn(200, 80)
    naive = {}
    for warp in WARPS:
        frames = modulation_cepstra(mel, warp)[::4] @ voice.projection
        naive[warp] = float(torch.cdist(frames, voice.centroids).square().amin(1).mean())
        assert voice.distortion(mel, warp) == pytest.approx(naive[warp], rel=1e-4)
    assert voice.warp(mel) == min(naive, key=naive.get)


def test_two_iterations_as_steps(clip, tmp_path):
    """The ladder's labels and its voice, a HuBERT, and another that goes on from the first with its own labels."""
    audio = tmp_path / "audio"
    audio.mkdir()
    for k in range(6):
        soundfile.write(audio / f"{k}.wav", clip[16000 * k : 16000 * (k + 1)], 16000)
    pretrain = "preset: tiny, batch: 2, crop_seconds: 0.5, dropout: 0.1, voice: $ladder, seed: 1"
    (tmp_path / "units.yaml").write_text(f"""
steps:
  corpus:  {{manifest: audio}}
  ladder:  {{audio: $corpus, n_clusters: 20, dim: 5, rounds: 2}}
  rungs:   {{step: frames, audio: $corpus, encoder: $ladder}}
  km0:     {{step: kmeans, frames: $rungs, n_units: 8}}
  labels0: {{step: encode, audio: $corpus, encoder: $ladder, codebook: $km0}}
  hubert1: {{step: pretrain, audio: $corpus, labels: $labels0, steps: 2, {pretrain}}}
  hidden1: {{step: frames, audio: $corpus, encoder: $hubert1, layer: 3}}
  km1:     {{step: kmeans, frames: $hidden1, n_units: 8, transform: layer_norm}}
  labels1: {{step: encode, audio: $corpus, encoder: $hubert1, codebook: $km1}}
  hubert2: {{step: pretrain, audio: $corpus, labels: $labels1, start: $hubert1, steps: 1, lr: 1e-8,
             unmasked_weight: 0.1, {pretrain}}}
""")
    graph, store = load_pipeline(tmp_path / "units.yaml", STEPS), Store(tmp_path / "store")
    folders = graph.run(store, ["hubert1", "hubert2", "labels1"])
    first, second = (load_encoder(folders[name], layer=3) for name in ("hubert1", "hubert2"))
    assert first.extractor.front.voice is not None
    assert first.contract != second.contract
    np.testing.assert_allclose(second.encode(clip), first.encode(clip), atol=0.02)  # with hardly any learning rate
    assert len(open_dump(folders["labels1"])) == 6
    assert store.manifest(graph.steps["ladder"])["metrics"]["warps"]
