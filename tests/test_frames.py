import tracemalloc

import numpy as np
import pytest

from textless.errors import TrainingError
from textless.units.frames import find_shards, read_frames, read_pairs, sample_frames, thin, write_frames


def rows(n=20, length=50, dim=2):
    """Row k's frame t is (k, t, 0 …)."""
    frames = np.zeros((n, length, dim), np.float32)
    frames[..., 0], frames[..., 1] = np.arange(n)[:, None], np.arange(length)
    return [(f"row-{k}", frames[k]) for k in range(n)]


def shards(folder, rows, count):
    for k in range(count):
        write_frames(folder / f"{k:03d}", rows[k::count], dim=rows[0][1].shape[1])
    return find_shards(folder)


def test_what_is_written_is_read(tmp_path):
    shards(tmp_path, rows(5), 2)
    back = dict(read_frames(tmp_path))
    assert sorted(back) == [f"row-{k}" for k in range(5)]
    assert all(np.array_equal(back[name], frames) for name, frames in rows(5))


def test_a_sample_does_not_depend_on_the_shards(tmp_path):
    one, many = shards(tmp_path / "one", rows(), 1), shards(tmp_path / "many", rows()[::-1], 7)
    for n in (1, 100, 999, 1000, 5000, None):
        a = sample_frames(one, n, seed=3)
        assert a.shape == (min(n or 1000, 1000), 2)
        assert len(np.unique(a, axis=0)) == len(a)
        assert np.array_equal(a, sample_frames(many, n, seed=3))
        assert np.array_equal(a, sample_frames(many[::-1], n, seed=3))
    # A larger sample begins with the smaller one, and another seed gives another.
    assert np.array_equal(sample_frames(one, 500, seed=3)[:100], sample_frames(one, 100, seed=3))
    assert not np.array_equal(sample_frames(one, 100, seed=4), sample_frames(one, 100, seed=3))
    # More rows do not change the order of those that were there.
    few = sample_frames(shards(tmp_path / "few", rows(10), 3), None, seed=3)
    both = sample_frames(one, None, seed=3)
    assert np.array_equal(both[both[:, 0] < 10], few)


def test_a_sample_is_uniform(tmp_path):
    """Chi-square of how often each of 1000 frames is among 100, and is first, over 400 seeds."""
    folder = shards(tmp_path, rows(), 4)
    taken, first, pairs = np.zeros(1000), np.zeros(20), 0
    for seed in range(400):
        sample = sample_frames(folder, 100, seed)
        index = (sample[:, 0] * 50 + sample[:, 1]).astype(int)
        taken[index] += 1
        first[int(sample[0, 0])] += 1
        chosen = np.zeros(1000, bool)
        chosen[index] = True
        pairs += (chosen.reshape(20, 50)[:, 1:] & chosen.reshape(20, 50)[:, :-1]).sum()
    # Without replacement: each count has variance 400 · 0.1 · 0.9, and the sum of squares 0.9 times chi-square's.
    chi = np.square(taken - 40).sum() / 40 / 0.9
    assert abs(chi - 999) < 4 * np.sqrt(2 * 999)
    assert abs(np.square(first - 20).sum() / 20 - 19) < 4 * np.sqrt(2 * 19)
    expected = 400 * 980 * 0.1 * 99 / 999  # neighbours that are both taken
    assert abs(pairs - expected) < 4 * np.sqrt(expected)


def test_a_sample_takes_the_memory_of_itself_and_a_shard(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(12):
        write_frames(
            tmp_path / f"{k}", [(f"{k}-{i}", rng.standard_normal((1000, 64), np.float32)) for i in range(10)], dim=64
        )
    tracemalloc.start()
    sample = sample_frames(find_shards(tmp_path), 4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sample.shape == (4000, 64)
    assert peak < sample.nbytes + 2**20 < 12 * 10_000 * 64 * 4 / 14


def test_pairs_are_of_the_same_places(tmp_path):
    shards(tmp_path / "a", rows(6), 2)
    shards(tmp_path / "b", [(name, frames[:, :1] * 2) for name, frames in rows(6)], 2)
    pairs = list(read_pairs(tmp_path / "a", tmp_path / "b"))
    assert len(pairs) == 6
    assert all(np.array_equal(a[:, :1] * 2, b) for a, b in pairs)
    shards(tmp_path / "short", [(name, frames[1:]) for name, frames in rows(6)], 2)
    with pytest.raises(
        TrainingError,
        match=r"'row-0' has 50 frames in .*a but 49 frames in .*short; both must be made of the same audio",
    ):
        list(read_pairs(tmp_path / "a", tmp_path / "short"))
    shards(tmp_path / "more", rows(8), 2)
    with pytest.raises(TrainingError, match="row-6"):
        list(read_pairs(tmp_path / "a", tmp_path / "more"))
    shards(tmp_path / "one", rows(1), 1)
    with pytest.raises(TrainingError, match=r"'row-2' has frames in .*a but none"):
        list(read_pairs(tmp_path / "one", tmp_path / "a"))


def test_thin_keeps_a_share_that_depends_on_the_name():
    frames = np.arange(10000, dtype=np.float32)[:, None]
    a = thin([frames[:3000], frames[3000:]], "x", fraction=0.25, seed=0)
    assert np.array_equal(a, thin([frames], "x", fraction=0.25, seed=0))
    assert not np.array_equal(a, thin([frames], "y", fraction=0.25, seed=0)[: len(a)])
    assert abs(len(a) - 2500) < 4 * np.sqrt(10000 * 0.25 * 0.75)


def test_bad_frames(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="empty: holds no frames"):
        find_shards(tmp_path / "empty")
    write_frames(tmp_path / "empty" / "0", [], dim=3)
    with pytest.raises(TrainingError, match="empty: holds no frames"):
        find_shards(tmp_path / "empty")

    good = shards(tmp_path / "good", rows(), 2)
    with pytest.raises(TrainingError, match="take at least 1"):
        sample_frames(good, 0)
    with pytest.raises(TrainingError, match="duplicate id 'row-0'"):
        sample_frames([*good, good[0]], 10)
    write_frames(tmp_path / "wide", [("w", np.zeros((5, 3), np.float32))], dim=3)
    with pytest.raises(
        TrainingError, match=r"wide: frames of 3 dimensions, but 2 in .*; they are of different encoders"
    ):
        sample_frames([*good, tmp_path / "wide"], 10)
    bad = rows()
    bad[4][1][7] = np.nan
    with pytest.raises(TrainingError, match="frame 7 of row 'row-4' holds NaN"):
        sample_frames(shards(tmp_path / "nan", bad, 3), None)
    (tmp_path / "good" / "001" / "frames.len").write_text("3\n")
    with pytest.raises(TrainingError, match=r"001: 10 ids and 3 frames listed, but the file holds 500 frames"):
        sample_frames(good, 10)
    (tmp_path / "good" / "000" / "frames.npy").write_bytes(b"no")
    with pytest.raises(TrainingError, match=r"000/frames\.npy: cannot be read"):
        find_shards(tmp_path / "good")
