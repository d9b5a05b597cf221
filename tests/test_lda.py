import numpy as np
import pytest

from textless.errors import ContractError, TrainingError
from textless.units.encode import SIGNAL, Tokenizer, load_encoder
from textless.units.hubert_frames import n_frames
from textless.units.kmeans import Codebook
from textless.units.lda import DIM, LdaEncoder, context_mfcc, fit_lda
from textless.units.mfcc import mfcc
from textless.units.types import UnitContract


def test_context_is_made_of_neighbours(clip):
    frames = context_mfcc(clip)
    cepstra = mfcc(clip)[::2, :13]
    cepstra = (cepstra - cepstra.mean(0)) / cepstra.std(0)
    assert frames.shape == (370, DIM)
    for t in (0, 1, 100, 369):
        want = np.concatenate([cepstra[np.clip(t + k, 0, 369)] for k in range(-3, 4)])
        np.testing.assert_allclose(frames[t], want, atol=1e-3)


def test_projection_whitens_within_clusters():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 60, 6000)
    mixing = rng.standard_normal((DIM, DIM)).astype(np.float32)
    frames = (3 * rng.standard_normal((60, DIM))[labels] + rng.standard_normal((6000, DIM))).astype(np.float32) @ mixing
    encoder = fit_lda(frames, labels, dim=10)
    projected = frames @ encoder.projection
    within = projected - np.stack([projected[labels == k].mean(0) for k in range(60)])[labels]
    np.testing.assert_allclose(np.cov(within.T), np.eye(10), atol=0.15)
    assert projected.var(0).min() > 2  # between clusters there is more


def test_is_an_encoder(clip, tmp_path):
    rng = np.random.default_rng(0)
    encoder = fit_lda(rng.standard_normal((4000, DIM)).astype(np.float32), rng.integers(0, 60, 4000), dim=12)
    encoder.save(tmp_path)
    back = load_encoder(tmp_path)
    assert isinstance(back, LdaEncoder)
    assert back.contract == encoder.contract
    assert np.array_equal(back.encode_one(clip), encoder.encode_one(clip))
    assert back.encode_one(clip).shape == (n_frames(len(clip)), 12)


def test_too_few_clusters():
    with pytest.raises(TrainingError, match="20 clusters cannot make 40 dimensions"):
        fit_lda(np.zeros((100, DIM), np.float32), np.arange(100) % 20)


@pytest.mark.parametrize("name", SIGNAL)
def test_signal_encoders_keep_their_promises(name, clip):
    encoder = load_encoder(name)
    frames = encoder.encode(clip)
    assert frames.dtype == np.float32
    assert frames.shape == (encoder.n_frames(len(clip)), encoder.dim)
    assert encoder.contract.encoder == name
    assert encoder.contract.frame_rate == encoder.frame_rate
    two = encoder.encode([clip, clip[:5000]])
    assert np.array_equal(two[0], frames)
    assert len(two[1]) == encoder.n_frames(5000)


def test_tokenizer_refuses_a_codebook_of_another_encoder():
    with pytest.raises(ContractError, match="encoder is logmel in the codebook but mfcc in the encoder"):
        Tokenizer(load_encoder("mfcc"), Codebook(np.zeros((2, 39)), UnitContract(encoder="logmel")))
    with pytest.raises(ContractError, match="3 dimensions but the encoder 39"):
        Tokenizer(load_encoder("mfcc"), Codebook(np.eye(3)))
