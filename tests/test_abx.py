import json
from pathlib import Path

import naive_abx
import numpy as np
import pytest

from textless.errors import CorpusError, ModelError
from textless.metrics.abx_error import abx
from textless.metrics.alignments import frame_span
from textless.metrics.dtw import dtw, dtw_units
from textless.metrics.items import Item, item_span, items_of, read_items

FASTABX = Path(__file__).parent / "data" / "fastabx"

RATE = 50

ANY_CONTEXT = {
    ("identical", "within"): 0.32718999800746734,
    ("identical", "across"): 0.28967017345480794,
    ("angular", "within"): 0.30550816594851465,
    ("angular", "across"): 0.32401888400630535,
}


def item(file, first, last, phone, speaker="s", context="pq"):
    """An item that holds the frames `first` to `last` of a file."""
    return Item(file, first / RATE, last / RATE, phone, context[0], context[1], speaker)


def speech(seed, *, speakers=("s", "t", "u"), dim=4, units=False, files=3):
    """Files of random frames, and items of 1 to 9 frames that lie one after the other."""
    rng = np.random.default_rng(seed)
    there, items = {}, []
    for speaker in speakers:
        for k in range(files):
            name, at = f"{speaker}{k}", 0
            for _ in range(12):
                length = int(rng.integers(1, 10))
                phone, context = "abc"[rng.integers(3)], ("pq", "rs")[rng.integers(2)]
                items.append(item(name, at, at + length, phone, speaker, context))
                at += length
            there[name] = rng.integers(0, 4, at) if units else rng.standard_normal((at, dim))
    return there, items


def segments(files, items):
    """In the order in which `abx` sorts them."""
    out = []
    for i in sorted(items, key=lambda i: (i.previous, i.next, i.speaker, i.phone, i)):
        first, last = round(i.onset * RATE), min(round(i.offset * RATE), len(files[i.file]))
        if first < last:
            out.append((files[i.file][first:last], i.phone, (i.previous, i.next), i.speaker))
    return out


@pytest.mark.parametrize("speakers", ["within", "across"])
@pytest.mark.parametrize("kind", ["angular", "euclidean", "identical"])
def test_errors_equal_a_naive_computation(kind, speakers):
    for seed in range(2):
        files, items = speech(seed, units=kind == "identical", files=2)
        got = abx(files, items, frame_rate=RATE, distance=kind, speakers=speakers)
        want = naive_abx.abx(segments(files, items), kind=kind, speakers=speakers)
        assert got["error"] == pytest.approx(want, abs=1e-6)
        assert 0 < got["error"] < 1


@pytest.mark.parametrize("context", ["within", "any"])
def test_a_context_of_any_phones_is_one_context(context):
    files, items = speech(3, files=2)
    pieces = [(x, phone, around if context == "within" else "", s) for x, phone, around, s in segments(files, items)]
    for speakers in ("within", "across"):
        got = abx(files, items, RATE, "euclidean", speakers, context=context)
        assert got["error"] == pytest.approx(naive_abx.abx(pieces, kind="euclidean", speakers=speakers), abs=1e-6)


def fastabx():
    frames, units = np.load(FASTABX / "frames.npz"), np.load(FASTABX / "units.npz")
    return {k: v.astype(np.float32) for k, v in frames.items()}, dict(units), read_items(FASTABX / "clip.item")


@pytest.mark.parametrize("speakers", ["within", "across"])
@pytest.mark.parametrize("kind", ["angular", "euclidean", "identical"])
def test_errors_equal_those_of_fastabx(kind, speakers):
    """fastabx 0.9.0 on 60 files of mini LibriSpeech, without subsampling."""
    frames, units, items = fastabx()
    name = f"{'units' if kind == 'identical' else 'frames'}_{kind}_{speakers}"
    got = abx(units if kind == "identical" else frames, items, distance=kind, speakers=speakers)
    assert got["error"] == pytest.approx(json.loads((FASTABX / "fastabx.json").read_text())[name], abs=1e-6)


def test_errors_in_any_context_equal_those_of_fastabx():
    """As fastabx 0.9.0 gives them on the items of six of the files, without subsampling."""
    frames, units, items = fastabx()
    chosen = sorted(frames)[::10]
    some = [i for i in items if i.file in chosen]
    for (kind, speakers), error in ANY_CONTEXT.items():
        got = abx(units if kind == "identical" else frames, some, distance=kind, speakers=speakers, context="any")
        assert got["error"] == pytest.approx(error, abs=1e-6)


def test_distances_equal_naive_ones(monkeypatch):
    monkeypatch.setattr("textless.metrics.dtw.PAIRS", 128)
    monkeypatch.setattr("textless.metrics.dtw.CELLS", 1 << 12)
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 3, rng.integers(1, 14)), rng.integers(0, 3, rng.integers(1, 14))) for _ in range(300)]
    pairs += [(rng.integers(0, 3, n), rng.integers(0, 3, m)) for n, m in ((40, 1), (1, 40), (200, 70), (9000, 2))]
    blocks = [(x[:, None] != y).astype(np.float32) for x, y in pairs]
    sizes = np.array([b.size for b in blocks])
    rows, columns = np.array([b.shape for b in blocks]).T
    want = [naive_abx.dtw(x, y, "identical") for x, y in pairs]
    assert (
        dtw(np.concatenate([b.ravel() for b in blocks]), np.cumsum(sizes) - sizes, columns, rows, columns).tolist()
        == want
    )
    units = np.concatenate([u for pair in pairs for u in pair])
    begins = np.concatenate([[0], np.cumsum([len(u) for pair in pairs for u in pair])])
    assert dtw_units(units, begins[0:-1:2], begins[1::2], rows, columns).tolist() == want
    assert want != [naive_abx.dtw(y, x, "identical") for x, y in pairs]  # ties are resolved along the columns


def test_an_error_that_is_known():
    """Within: phone a is unit 1 twice, b is unit 2 once.

    X = a1: A = a2 is at 0, B at 1: right; so is X = a2. No X is b, which is alone.
    """
    files = {"f": np.array([1, 1, 1, 1, 2, 2])}
    items = [item("f", 0, 2, "a"), item("f", 2, 4, "a"), item("f", 4, 6, "b")]
    right = abx(files, items, frame_rate=RATE, distance="identical")
    assert (right["error"], right["cells"], right["items"]) == (0, 1, 3)
    # Where all are equal every triple is a tie.
    files["f"][:] = 7
    assert abx(files, items, frame_rate=RATE, distance="identical")["error"] == 0.5
    # A is further from X than B is.
    files["f"][:] = [1, 1, 2, 2, 1, 2]
    assert abx(files, items, frame_rate=RATE, distance="identical")["error"] == 1


def test_path_length_divides_the_cost():
    """1 1 2 against 1 2 2 is passed at no cost; 1 1 2 against 2 costs two cells of three; 1 2 against 3 3 costs both of
    two.
    """
    one = np.array([[0, 1, 1], [0, 1, 1], [1, 0, 0]], np.float32)
    two = np.array([[1], [1], [0]], np.float32)
    three = np.ones((2, 2), np.float32)
    flat = np.concatenate([one.ravel(), two.ravel(), three.ravel()])
    out = dtw(flat, np.array([0, 9, 12]), np.array([3, 1, 2]), np.array([3, 3, 2]), np.array([3, 1, 2]))
    assert out == pytest.approx([0, 2 / 3, 1])


def test_averages_are_over_contexts_then_speakers_then_pairs():
    """Speaker s errs in one of two contexts, t in none of one: (a, b) is the mean of 1/2 and 0. (b, a) has a cell of t
    alone, at 0.
    """
    files = {"s": np.array([1, 1, 2, 1, 3, 1]), "t": np.array([1, 1, 2, 2])}
    items = [
        *(item("s", k, k + 1, phone, "s", "pq") for k, phone in enumerate("aab")),
        *(item("s", k, k + 1, phone, "s", "rs") for k, phone in ((3, "a"), (4, "a"), (5, "b"))),
        *(item("t", k, k + 1, phone, "t", "pq") for k, phone in enumerate("aabb")),
    ]
    # In the second context X = 1 is as near to B = 1 as can be and not to A = 3 (wrong); X = 3 is at 1 from both
    # (one half).
    got = abx(files, items, frame_rate=RATE, distance="identical")
    assert got["error"] == pytest.approx((((0 + 0.75) / 2 + 0) / 2 + 0) / 2)
    assert got["cells"] == 4


def test_a_frame_of_zeros_is_far_from_all_others():
    frames = np.array([[1.0, 0], [1, 0], [0, 0], [0, 0]])
    items = [item("f", 0, 1, "a"), item("f", 1, 2, "a"), item("f", 2, 3, "b"), item("f", 3, 4, "b")]
    assert abx({"f": frames}, items, frame_rate=RATE)["error"] == 0
    frames = np.array([[1.0, 0], [-1, 0.8], [0, 0]])  # farther than 0.79, the angle of 141 degrees
    assert abx({"f": frames}, items[:3], frame_rate=RATE)["error"] == 0


def test_the_order_of_items_and_files_does_not_matter_and_the_seed_draws():
    files, items = speech(5, files=8)
    options = {"frame_rate": RATE, "speakers": "across", "max_items": 3, "max_speakers": 1}
    one = abx(files, items, **options)
    assert abx(dict(reversed(files.items())), items[::-1], **options) == one
    assert abx(files, items, **options, seed=1)["error"] != one["error"]
    assert one["cells"] < abx(files, items, **{**options, "max_speakers": 2})["cells"]


def test_few_cells_at_once_are_the_same(monkeypatch):
    files, items = speech(2)
    whole = abx(files, items, frame_rate=RATE)
    monkeypatch.setattr("textless.metrics.abx_error.CELLS", 50)
    assert abx(files, items, frame_rate=RATE) == whole


def test_what_cannot_be_compared():
    files, items = speech(1)
    with pytest.raises(CorpusError, match="none of the 108 items is in these files"):
        abx({"other": np.zeros((9, 2))}, items, frame_rate=RATE)
    lone = [i for i in items if i.speaker == "s"]
    with pytest.raises(CorpusError, match="no ABX across speakers: among 36 items none has a context with two phones"):
        abx(files, lone, frame_rate=RATE, speakers="across")
    with pytest.raises(CorpusError, match="no ABX within speakers: among 2 items"):
        abx({"f": np.arange(9)}, [item("f", 0, 2, "a"), item("f", 2, 4, "b")], frame_rate=RATE, distance="identical")
    short = [*items, Item("s0", 0.001, 0.002, "a", "p", "q", "s"), Item("s0", 99.0, 100.0, "a", "p", "q", "s")]
    assert abx(files, short, frame_rate=RATE) == abx(files, items, frame_rate=RATE)
    files["s1"][3] = np.nan
    with pytest.raises(ModelError, match="s1: its frames hold NaN"):
        abx(files, items, frame_rate=RATE)
    files, items = speech(1)
    for name in ("distance", "speakers", "context", "rule"):
        with pytest.raises(ValueError, match=f"{name} is one of .*, not 'manhattan'"):
            abx(files, items, **{name: "manhattan"})
    for rate in (0, -50, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="frame_rate is a number of frames a second, above 0"):
            abx(files, items, frame_rate=rate)


def test_frames_of_an_item_by_either_rule():
    """Written out: the times of frames, and which of them are within."""
    cases = ((0.0, 0.1), (0.013, 0.2), (0.0125, 0.0325), (0.41, 0.61), (0.01, 0.03), (0.5, 9.0), (0.3, 0.305))
    onsets, offsets = np.array(cases).T
    for rate in (50, 100, 25):
        for rule in ("published", "window_centred"):
            first, last = item_span(onsets, offsets, np.full(len(cases), 30), frame_rate=rate, rule=rule)
            for (onset, offset), a, b in zip(cases, first, last, strict=True):
                if rule == "published":
                    inside = [t for t in range(30) if onset - 1e-9 <= (t + 0.5) / rate <= offset + 1e-9]
                else:
                    inside = [t for t in range(30) if onset - 1e-9 <= t / rate + 0.0125 < offset - 1e-9]
                assert list(range(a, b)) == inside


def test_the_rule_is_an_option_and_published_is_its_default():
    files, items = speech(4)
    items = [i._replace(onset=i.onset + 0.012, offset=i.offset + 0.012) for i in items]
    published, centred = abx(files, items, RATE), abx(files, items, RATE, rule="window_centred")
    assert published == abx(files, items, RATE, rule="published")
    assert published["error"] != centred["error"]


def test_frames_of_a_phone_have_their_middle_inside():
    for onset, offset in ((0.0, 0.1), (0.013, 0.2), (0.0125, 0.0325), (0.5, 9.0)):
        inside = [t for t in range(30) if onset <= t / RATE + 0.0125 + 1e-12 and t / RATE + 0.0125 + 1e-12 < offset]
        first, last = frame_span(onset, offset, 30, frame_rate=RATE)
        assert list(range(first, last)) == inside


def test_triphones_of_an_alignment():
    aligned = {
        "f": [
            (0, 1, "SIL"),
            (1, 2, "a"),
            (2, 3, "b"),
            (3, 4, "c"),
            (4, 5, "d"),
            (5, 6, "sp"),
            (6, 7, "a"),
            (7.5, 8, "b"),
            (8, 9, "c"),
        ],
        "g": [(0, 1, "a"), (1, 2, "b"), (2, 3, "c")],
    }
    assert items_of(aligned, {"f": "s", "g": None}) == [
        Item("f", 1, 4, "b", "a", "c", "s"),
        Item("f", 2, 5, "c", "b", "d", "s"),
    ]


def test_item_files(tmp_path):
    path = tmp_path / "x.item"
    path.write_text(
        "#file onset offset #phone prev-phone next-phone speaker\nf 0.0 0.2 AE K T spk1\n\nf 0.1\t0.3 T AE S spk1\n"
    )
    assert read_items(path) == [
        Item("f", 0.0, 0.2, "AE", "K", "T", "spk1"),
        Item("f", 0.1, 0.3, "T", "AE", "S", "spk1"),
    ]
    for line, what in (
        ("f 0 1 a b c", "line 3: 6 fields"),
        ("f zero 1 a b c s", "line 3: onset 'zero'"),
        ("f 1 0.5 a b c s", "line 3: .* no stretch of time"),
        ("f 0 nan a b c s", "line 3: onset '0' and offset 'nan' must be numbers"),
        ("f 0 1e308 a b c s", "line 3: onset '0' and offset '1e308' must be numbers"),
    ):
        path.write_text(f"#file\nf 0 1 a b c s\n{line}\n")
        with pytest.raises(CorpusError, match=what):
            read_items(path)
    for header in (
        "f 0 1 a b c s",  # an item that would be lost
        "#file onset offset #phone speaker prev-phone next-phone",
        "#file #phone onset offset prev-phone next-phone speaker",
    ):
        path.write_text(f"{header}\nf 0 1 a b c s\n")
        with pytest.raises(CorpusError, match=r"line 1: .* is not the header of an item file"):
            read_items(path)
    path.write_text("#file onset\n")
    with pytest.raises(CorpusError, match="holds no items"):
        read_items(path)
    with pytest.raises(CorpusError, match="cannot be read as an item file"):
        read_items(tmp_path / "none.item")
