import tracemalloc

import numpy as np
import pytest

from textless.errors import ContractError, ModelError, TrainingError
from textless.types import UnitContract
from textless.units import lloyd
from textless.units.kmeans import Codebook, KMeans, fit_codebook, transform_frames
from textless.units.quantizers import load_codebook


def blobs(k=5, n=80, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((k, dim)) * 10
    return (centres[:, None] + rng.standard_normal((k, n, dim))).reshape(-1, dim).astype(np.float32), np.repeat(
        np.arange(k), n
    )


def naive_assign(frames, centroids):
    distances = np.stack([((frames - c) ** 2).sum(1) for c in centroids.astype(np.float64)], 1)
    return distances.argmin(1), distances.min(1).mean()


def naive_lloyd(frames, centroids, iterations):
    """In float64; a centroid without a frame stays where it is."""
    frames, centroids, curve = frames.astype(np.float64), centroids.astype(np.float64), []
    for _ in range(iterations):
        labels, inertia = naive_assign(frames, centroids)
        curve.append(inertia)
        centroids = np.stack(
            [frames[labels == k].mean(0) if (labels == k).any() else centroids[k] for k in range(len(centroids))]
        )
    return centroids, [*curve, naive_assign(frames, centroids)[1]]


def points(frames):
    made = lloyd.Points(frames, lambda x: x)
    made.mean = made.measure()
    return made


def test_predict_is_the_nearest_centroid():
    rng = np.random.default_rng(0)
    centroids, frames = (
        rng.standard_normal((7, 3)).astype(np.float32),
        rng.standard_normal((70000, 3)).astype(np.float32),
    )
    distances = ((frames[:, None] - centroids) ** 2).sum(-1)
    assert np.array_equal(Codebook(centroids).predict(frames), distances.argmin(1))


def test_the_first_of_equal_centroids_wins():
    codebook = Codebook(np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32))
    assert codebook.predict(np.array([[0, 1], [1, 0], [0, 3], [0.5, 0.5]], np.float32)).tolist() == [1, 0, 1, 0]


def test_frames_far_from_the_origin_keep_their_digits():
    """Squares of 4096 have no quarters left in single precision."""
    rng = np.random.default_rng(0)
    centroids, frames = (4096 + rng.integers(0, 16, (n, 4)).astype(np.float32) / 4 for n in (40, 500))
    distances = np.square(frames[:, None].astype(np.float64) - centroids).sum(2)
    units, found = Codebook(centroids).nearest(frames)
    assert np.array_equal(np.take_along_axis(distances, units[:, None], 1)[:, 0], distances.min(1))
    np.testing.assert_allclose(found, np.sqrt(distances.min(1)), atol=1e-2)


def test_layer_norm_written_out():
    """Of frames whose variance is about the 1e-5 that is added to it."""
    x = 0.003 * np.random.default_rng(0).standard_normal((20, 30)) + 1
    frames = x.astype(np.float32).astype(np.float64)
    want = (frames - frames.mean(1, keepdims=True)) / np.sqrt(frames.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(
        transform_frames(x, "layer_norm"), want, rtol=1e-4, atol=1e-4
    )  # 2^-24 of one is 2e-5 of a deviation


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
    assert figures["repaired_units"] == 0
    assert codebook.contract.encoder == "mfcc"
    assert codebook.contract.n_units == 5


@pytest.mark.parametrize("block", [2**19, 100])
def test_lloyd_is_the_naive_one(monkeypatch, block):
    monkeypatch.setattr(lloyd, "BLOCK", block)
    frames = np.random.default_rng(0).standard_normal((3000, 5)).astype(np.float32) + 20
    made = points(frames)
    centroids, curve, repaired, dead = lloyd.lloyd(made, frames[:9] - made.mean, iterations=12, tolerance=0)
    want, naive = naive_lloyd(frames, frames[:9], 12)
    np.testing.assert_allclose(centroids + made.mean, want, atol=1e-3)
    np.testing.assert_allclose(curve, naive, rtol=1e-5)
    assert (repaired, dead) == (0, 0)


def test_no_worse_than_scikit_learn():
    from sklearn.cluster import KMeans as Theirs

    rng = np.random.default_rng(0)
    frames = (rng.standard_normal((60, 8))[rng.integers(0, 60, 20000)] * 3 + rng.standard_normal((20000, 8))).astype(
        np.float32
    )
    theirs = Theirs(30, n_init=1, random_state=0).fit(frames).inertia_ / len(frames)
    for seed in range(3):
        kmeans = KMeans(30, tolerance=1e-4, seed=seed).fit(frames)
        assert kmeans.metrics["inertia"] < 1.01 * theirs
        assert kmeans.metrics["inertia"] == pytest.approx(naive_assign(frames, kmeans.codebook.centroids)[1], rel=1e-4)


def test_plus_plus_spreads_its_seeds():
    frames, truth = blobs(k=12, n=50, dim=16)
    for seed in range(5):
        seeds = lloyd.plus_plus(frames - frames.mean(0), 12, np.random.default_rng(seed)) + frames.mean(0)
        assert len({int(truth[((frames - c) ** 2).sum(1).argmin()]) for c in seeds}) == 12


def test_dead_centroids_are_put_on_the_farthest_frames():
    frames, _ = blobs(k=6)
    start = frames[:6] + np.float32([[0], *[[1000]] * 5])  # five are dead from the start, and without repair stay so
    assert len(np.unique(naive_assign(frames, naive_lloyd(frames, start, 20)[0])[0])) == 1
    made = points(frames)
    _, curve, repaired, dead = lloyd.lloyd(made, start - made.mean, iterations=20, tolerance=1e-3)
    assert repaired >= 5
    assert dead == 0
    assert curve[-1] < 1.3 * naive_lloyd(frames, frames[::80], 20)[1][-1]

    # Nine frames in ten are digital silence, and so are most random starts.
    silence = np.concatenate([np.full((3600, 4), 7, np.float32), frames])
    kmeans = KMeans(6, init="random", seed=0).fit(silence)
    assert kmeans.metrics["repaired_units"] > 0
    assert kmeans.metrics["dead_units"] == 0
    assert len(set(kmeans.predict(silence))) == 6


def test_more_units_than_different_frames_leaves_dead_ones():
    frames = np.repeat(np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32), 40, 0)
    for init in ("k-means++", "random"):
        metrics = KMeans(5, init=init).fit(frames).metrics
        assert metrics["dead_units"] == 2
        assert metrics["inertia"] < 1e-6
        assert len(metrics["inertia_curve"]) < 10


def test_frames_far_from_the_origin():
    frames, _ = blobs(k=8)
    far = (frames + np.float32(1e3)).astype(np.float32)
    near = KMeans(8, seed=1).fit(frames)
    there = KMeans(8, seed=1).fit(far)
    assert np.array_equal(near.predict(frames), there.predict(far))
    assert np.array_equal(there.predict(far), naive_assign(far, there.codebook.centroids)[0])
    assert there.metrics["inertia"] == pytest.approx(near.metrics["inertia"], rel=1e-4)
    mini = KMeans(8, algorithm="minibatch").fit(far)
    assert mini.metrics["inertia"] == pytest.approx(naive_assign(far, mini.codebook.centroids)[1], rel=1e-4)


def test_it_stops_and_keeps_the_best_start():
    frames = np.random.default_rng(0).standard_normal((4000, 6)).astype(np.float32)
    coarse, fine = (KMeans(40, tolerance=t).fit(frames).metrics["inertia_curve"] for t in (1e-2, 1e-4))
    assert len(coarse) < len(fine) <= 51
    assert np.diff(fine).max() <= 0
    assert fine[: len(coarse)] == coarse
    assert (coarse[-2] - coarse[-1]) / coarse[-2] <= 1e-2 < (coarse[-3] - coarse[-2]) / coarse[-3]
    assert len(KMeans(40, iterations=3, tolerance=0).fit(frames).metrics["inertia_curve"]) == 4
    one, several = (KMeans(40, restarts=n).fit(frames).metrics["inertia"] for n in (1, 5))
    assert several <= one


def test_frames_are_not_copied(monkeypatch, tmp_path):
    monkeypatch.setattr(lloyd, "BLOCK", 2**16)
    frames = np.random.default_rng(0).standard_normal((200_000, 64)).astype(np.float32)
    np.save(tmp_path / "frames.npy", frames)
    mapped = np.load(tmp_path / "frames.npy", mmap_mode="r")
    lloyd.Assignment(points(frames[:100]), frames[:2])  # what is imported is not of the frames
    tracemalloc.start()
    kmeans = KMeans(20, transform="layer_norm", iterations=2).fit(mapped)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * frames.nbytes
    assert np.array_equal(
        kmeans.codebook.centroids, KMeans(20, transform="layer_norm", iterations=2).fit(frames).codebook.centroids
    )


def test_the_memory_of_gpus_is_reserved_once(monkeypatch):
    """It takes longer than an iteration.

    Stand-ins for faiss-gpu: what would be searched on GPUs is searched on the CPU.
    """
    import faiss

    frames, _ = blobs(k=20, n=300)
    expected = KMeans(20, restarts=2).fit(frames)
    reserved, used = [], []

    def move(resources, index):
        used.append(list(resources))
        return index

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(
        faiss, "StandardGpuResources", lambda: reserved.append(len(reserved)) or reserved[-1], raising=False
    )
    monkeypatch.setattr(faiss, "index_cpu_to_gpu_multiple_py", move, raising=False)
    kmeans = KMeans(20, restarts=2).fit(frames)
    assert reserved == [0, 1]
    assert len(used) > len(kmeans.metrics["inertia_curve"])
    assert all(resources == [0, 1] for resources in used)
    assert np.array_equal(kmeans.codebook.centroids, expected.codebook.centroids)


def test_minibatch_is_scikit_learn_as_fairseq_sets_it():
    from sklearn.cluster import MiniBatchKMeans

    frames, _ = blobs(k=10, n=300)
    x = frames - points(frames).mean
    theirs = MiniBatchKMeans(
        10,
        n_init=20,
        batch_size=10_000,
        max_iter=100,
        tol=0.0,
        max_no_improvement=100,
        reassignment_ratio=0.0,
        random_state=0,
    ).fit(x)
    ours = KMeans(10, algorithm="minibatch").fit(frames)
    np.testing.assert_allclose(ours.codebook.centroids - points(frames).mean, theirs.cluster_centers_, atol=1e-5)
    assert ours.metrics["inertia"] == pytest.approx(naive_assign(frames, ours.codebook.centroids)[1], rel=1e-4)
    assert ours.metrics["dead_units"] == 0


def test_the_same_seed_gives_the_same_bytes():
    frames, _ = blobs(k=8, n=1000, seed=1)  # enough for every stage
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
    with pytest.raises(TrainingError, match=r"frames must be \(N, D\), got shape \(1600,\)"):
        fit_codebook(frames.ravel(), 5)
    with pytest.raises(TrainingError, match=r"frames of different shapes \(3,\), \(4,\) cannot be joined"):
        fit_codebook([frames, frames[:, :3]], 5)
    with pytest.raises(TrainingError, match="0 frames cannot make 5 units"):
        fit_codebook([], 5)
    with pytest.raises(TrainingError, match="algorithm is 'elkan'; known: lloyd, minibatch"):
        KMeans(5, algorithm="elkan")
    with pytest.raises(TrainingError, match="restarts is 0 but must be at least 1"):
        KMeans(5, restarts=0)
    with pytest.raises(TrainingError, match="no codebook yet; call fit"):
        KMeans(5).predict(frames)
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


@pytest.mark.parametrize("old", [b"}", b"False", b"'shape'"])
def test_a_header_of_npy_that_is_no_python_is_named(tmp_path, old):
    np.save(tmp_path / "c.npy", np.zeros((3, 2), np.float32))
    data = (tmp_path / "c.npy").read_bytes()
    (tmp_path / "c.npy").write_bytes(data.replace(old, b"(" * len(old), 1))
    with pytest.raises(ModelError, match=r"c\.npy: not a \.npy of centroids"):
        load_codebook(tmp_path / "c.npy")
