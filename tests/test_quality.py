import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from textless.errors import CorpusError
from textless.units.quality import frame_phones, read_alignments, unit_quality


def test_frame_phones_at_the_middle_of_the_window():
    phones = frame_phones([(0.0, 0.05, "a"), (0.05, 0.1, "b"), (0.2, 9.0, "c")], 12, frame_rate=50)
    middles = [t / 50 + 0.0125 for t in range(12)]
    want = ["a" if m < 0.05 else "b" if m < 0.1 else "c" if m >= 0.2 else None for m in middles]
    assert phones == want


def test_figures_equal_a_naive_computation():
    rng = np.random.default_rng(0)
    phones = rng.integers(0, 4, 5000)
    units = np.where(rng.random(5000) < 0.6, phones * 2, rng.integers(0, 8, 5000))
    q = unit_quality([(units, [str(p) for p in phones])], n_units=10)
    entropy = -sum(p * np.log(p) for p in np.bincount(phones) / 5000)
    assert q["pnmi"] == pytest.approx(mutual_info_score(phones, units) / entropy, rel=1e-9)
    assert q["phone_purity"] == pytest.approx(sum(np.bincount(phones[units == u]).max() for u in set(units)) / 5000)
    assert q["cluster_purity"] == pytest.approx(sum(np.bincount(units[phones == p]).max() for p in set(phones)) / 5000)
    assert q["active_units"] == 8
    assert 0 < q["pnmi_chance"] < 0.02 < q["pnmi"]


def test_frames_without_a_phone_are_left_out():
    q = unit_quality([(np.array([0, 1, 2, 0]), ["a", None, "b", None])], n_units=3)
    assert q["frames"] == 2
    assert q["pnmi"] == pytest.approx(1)
    with pytest.raises(CorpusError, match="no frame has both"):
        unit_quality([(np.array([0]), [None])], n_units=3)


def test_read_alignments(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\tstart\tend\tphone\nx\t0\t0.5\tA"\nx\t0.5\t1\tB\n')
    assert read_alignments(path) == {"x": [(0.0, 0.5, 'A"'), (0.5, 1.0, "B")]}
    path.write_text("id\tstart\n")
    with pytest.raises(CorpusError, match="column end, phone is missing"):
        read_alignments(path)
