import numpy as np
import pytest

from textless.errors import ContractError, ModelError, TrainingError
from textless.units.kmeans import Codebook, fit_codebook, load_codebook, transform_frames
from textless.units.types import UnitContract


def blobs(k=5, n=80, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((k, dim)) * 10
    return (centres[:, None] + rng.standard_normal((k, n, dim))).reshape(-1, dim).astype(np.float32), np.repeat(np.arange(k), n)


def test_predict_is_the_nearest_centroid():
    rng = np.random.default_rng(0)
    centroids, frames = rng.standard_normal((7, 3)).astype(np.float32), rng.standard_normal((70000, 3)).astype(np.float32)
    distances = ((frames[:, None] - centroids) ** 2).sum(-1)
    assert np.array_equal(Codebook(centroids).predict(frames), distances.argmin(1))


def test_finds_clusters():
    frames, truth = blobs()
    codebook, figures = fit_codebook(frames, 5, restarts=5, contract=UnitContract(encoder="mfcc"))
    units = codebook.predict(frames)
    assert all(len(set(units[truth == k])) == 1 for k in range(5))
    assert len(set(units)) == 5
    naive = ((frames - codebook.centroids[units]) ** 2).sum(1).mean()
    assert figures["inertia"] == pytest.approx(naive, rel=1e-3)
    assert figures["dead_units"] == 0
    assert figures["inertia_curve"][0] >= figures["inertia_curve"][-1]
    assert codebook.contract.encoder == "mfcc"
    assert codebook.contract.n_units == 5


def test_the_same_seed_gives_the_same_bytes():
    frames, _ = blobs(seed=1)
    a, b, c = (fit_codebook(frames, 8, seed=s)[0] for s in (0, 0, 1))
    assert np.array_equal(a.centroids, b.centroids)
    assert not np.array_equal(a.centroids, c.centroids)


def test_layer_norm_makes_scale_irrelevant():
    frames, _ = blobs(dim=16)
    codebook, _ = fit_codebook(frames, 5, transform="layer_norm")
    assert codebook.contract.transform == "layer_norm"
    assert np.array_equal(codebook.predict(frames), codebook.predict(frames * 100))
    y = transform_frames(frames, "layer_norm")
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(1), 1, atol=1e-3)


def test_save_and_load(tmp_path):
    codebook, _ = fit_codebook(blobs()[0], 5, transform="layer_norm", contract=UnitContract(layer=3))
    codebook.save(tmp_path / "km")
    back = load_codebook(tmp_path / "km")
    assert np.array_equal(back.centroids, codebook.centroids)
    assert back.contract == codebook.contract


def test_npy_is_of_unknown_origin(tmp_path):
    np.save(tmp_path / "c.npy", np.eye(3, dtype=np.float32))
    codebook = load_codebook(tmp_path / "c.npy")
    assert codebook.n_units == 3
    assert codebook.contract.encoder is None


def test_frames_of_another_encoder_are_refused():
    codebook = Codebook(np.eye(3), UnitContract(encoder="mfcc", frame_rate=100.0))
    frames = UnitContract(encoder="mfcc", frame_rate=100.0)
    assert codebook.contract_for(frames) == codebook.contract
    assert Codebook(np.eye(3)).contract_for(frames).encoder == "mfcc"
    with pytest.raises(ContractError, match="encoder is mfcc in the codebook but logmel in the encoder"):
        codebook.contract_for(frames.with_(encoder="logmel"))


def test_bad_input(tmp_path):
    frames, _ = blobs()
    with pytest.raises(TrainingError, match="400 frames cannot make 500 units"):
        fit_codebook(frames, 500)
    frames[17, 2] = np.nan
    with pytest.raises(TrainingError, match="frame 17 holds NaN"):
        fit_codebook(frames, 5)
    with pytest.raises(ModelError, match="do not fit a codebook of 3 dimensions"):
        Codebook(np.eye(3)).predict(np.zeros((2, 4), np.float32))
    (tmp_path / "bad.npy").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"bad\.npy: not a \.npy of centroids"):
        load_codebook(tmp_path / "bad.npy")
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ModelError, match=r"pickle\.npy"):
        load_codebook(tmp_path / "pickle.npy")
    with pytest.raises(ModelError, match="nowhere: no such file or folder, and no published codebook"):
        load_codebook(tmp_path / "nowhere")
