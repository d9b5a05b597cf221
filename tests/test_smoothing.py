"""Duration-penalised units: exact, by any pieces, at a bounded look-back; and in the contract of what takes them."""

import itertools
import json
import shutil
import warnings

import numpy as np
import pytest

import textless
from conftest import GOLDEN
from textless.errors import ContractError, ContractWarning, ModelError, SmoothingWarning
from textless.types import UnitContract, Units
from textless.units import smoothing
from textless.units.encoders.load import load_encoder
from textless.units.head import Head
from textless.units.kmeans import Codebook, fit_codebook
from textless.units.quantizers import load_codebook
from textless.units.smoothing import BLOCK, Smoother, quantize
from textless.units.tokenizer import Tokenizer

RNG = np.random.default_rng(0)
CONTRACT = UnitContract(n_units=5, codebook="ab" * 32)


def smooth(costs, price, pieces=1, **options):
    """(units (T,), the smoother) of costs in pieces of about equal lengths."""
    smoother = Smoother(price, **options)
    parts = [smoother.push(part) for part in np.array_split(costs, pieces)]
    return np.concatenate([*parts, smoother.finish()]), smoother


def cost(costs, price, units):
    return costs[np.arange(len(units)), list(units)].sum() + price * np.count_nonzero(np.diff(units))


def naive_viterbi(costs, price):
    """O(T K²) in float64, with the ties of `Smoother`: before a unit comes itself, else the first of the best."""
    total, pointers = costs[0].astype(np.float64), []
    n = len(total)
    for row in costs[1:]:
        ways = total[:, None] + price * (1 - np.eye(n))  # from, to
        pointer = ways.argmin(0)
        stay = np.arange(n)
        pointer = np.where(ways[stay, stay] <= ways.min(0), stay, pointer)
        pointers.append(pointer)
        total = row + ways[pointer, stay]
    units = [int(total.argmin())]
    for pointer in reversed(pointers):
        units.append(int(pointer[units[-1]]))
    return np.array(units[::-1])


def walk(frames, n_units):
    """(T, K) float32: costs of a point that moves slowly among units, with noise."""
    rng = np.random.default_rng(frames)
    points = np.cumsum(rng.standard_normal((frames, 3)), 0) + rng.standard_normal((frames, 3))
    centroids = points[rng.choice(frames, n_units, replace=False)]
    return np.square(points[:, None] - centroids).sum(2).astype(np.float32)


def undecided(frames, price):
    """Costs that leave the choice of two units open to the end: both fit, and only the last frame tells."""
    costs = np.full((frames, 3), price, np.float32)
    costs[:, :2] = 0
    costs[-1] = [10 * price, 0, 10 * price]
    return costs


def test_the_cheapest_of_all_sequences():
    for _ in range(150):
        frames, n_units = RNG.integers(1, 9), RNG.integers(1, 4)
        costs = RNG.integers(0, 6, (frames, n_units)).astype(np.float32)  # small whole numbers: exact, with many ties
        price = float(RNG.integers(0, 5))
        every = [cost(costs, price, units) for units in itertools.product(range(n_units), repeat=frames)]
        units, smoother = smooth(costs, price)
        assert (units.shape, units.dtype, smoother.seams) == ((frames,), np.int64, 0)
        assert cost(costs, price, units) == min(every)


def test_ties_keep_the_unit_and_then_take_the_first():
    flat = np.zeros((4, 3), np.float32)
    assert smooth(flat, 1)[0].tolist() == smooth(flat, 0)[0].tolist() == [0, 0, 0, 0]
    # Unit 1 must be left; to stay in it for a frame more costs what unit 0 and unit 2 cost there.
    costs = np.array([[9, 0, 9], [0, 0, 0], [9, 9, 0]], np.float32)
    assert smooth(costs, 2)[0].tolist() == [1, 2, 2]
    costs = np.array([[0, 9, 9], [0, 0, 9], [9, 0, 0]], np.float32)
    assert smooth(costs, 2)[0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("price", [0, 1, 3, 10, 100])
def test_units_are_those_of_a_naive_viterbi(price):
    costs = RNG.integers(0, 12, (700, 20)).astype(np.float32)
    assert np.array_equal(smooth(costs, price, look_back=700)[0], naive_viterbi(costs, price))
    costs = walk(700, 20)
    units, plain = smooth(costs, price, look_back=700)[0], naive_viterbi(costs, price)
    # Other roundings may choose another of nearly equal sequences.
    assert cost(costs.astype(np.float64), price, units) == pytest.approx(cost(costs, price, plain), rel=1e-5)
    assert np.mean(units == plain) > 0.99


def test_a_price_of_nothing_is_the_nearest_unit():
    costs = walk(500, 30)
    assert np.array_equal(smooth(costs, 0)[0], costs.argmin(1))


def test_a_higher_price_makes_no_more_changes():
    costs = walk(2000, 30)
    changes = [np.count_nonzero(np.diff(smooth(costs, price, look_back=2000)[0])) for price in (0, 1, 4, 16, 64, 1e9)]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 2 * changes[-2] > 0 == changes[-1]


@pytest.mark.parametrize("look_back", [0, 1, 7, 500])
def test_pieces_change_nothing(look_back):
    costs = np.concatenate([undecided(BLOCK + 9, 60.0), walk(20 * BLOCK + 5, 3)])
    whole, first = smooth(costs, 60.0, look_back=look_back)
    assert (first.seams > 0) == (look_back < 500)
    for pieces in (2, 3, len(costs), len(costs) + 3):  # some of them empty
        units, smoother = smooth(costs, 60.0, pieces, look_back=look_back)
        assert np.array_equal(units, whole)
        assert smoother.seams == first.seams


def test_a_bounded_look_back_differs_in_counted_places_only():
    costs = undecided(400, 1.0)
    assert smooth(costs, 1.0)[0].tolist() == [1] * 400
    units, smoother = smooth(costs, 1.0, look_back=50)
    assert smoother.seams == 1
    edge = int(np.flatnonzero(np.diff(units))[0]) + 1
    assert 300 <= edge < 350 + BLOCK  # what the last frame could still reach
    assert units.tolist() == [0] * edge + [1] * (400 - edge)

    differing = 0
    for price in (2.0, 8.0, 30.0, 200.0):
        costs = walk(3000, 10)
        whole, exact = smooth(costs, price, look_back=10**6)
        assert exact.seams == 0
        for look_back in (0, 4, 16, 500):
            units, smoother = smooth(costs, price, look_back=look_back)
            assert (smoother.seams > 0) == (not np.array_equal(units, whole))
            differing += smoother.seams > 0
    assert differing > 2  # the look-backs of no frame


def test_what_is_open_for_too_long_is_said(monkeypatch):
    """Two centroids of which the last frame alone tells."""
    book = Codebook(np.array([[0, 1], [0, -1], [9, 9]]), UnitContract(), {"squared": 1.0})
    frames = np.zeros((200, 2), np.float32)
    frames[-1] = [0, -9]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quantize(book, [frames], 1.0)[0].tolist() == [1] * 200
    monkeypatch.setattr(smoothing, "LOOK_BACK", 50)
    with pytest.warns(SmoothingWarning, match="at 1 places of a file the choice was open for over 50 frames"):
        assert len(quantize(book, [frames], 1.0)[0]) == 200


def test_units_come_before_the_end_and_within_the_delay():
    costs, smoother, out = walk(1000, 12), Smoother(5.0, look_back=40), 0
    for n, frame in enumerate(costs, 1):
        out += len(smoother.push(frame[None]))
        assert n - out <= 40 + BLOCK
    assert out > 900
    assert len(smoother._totals) <= 2 * (40 + 2 * BLOCK)
    assert out + len(smoother.finish()) == 1000
    # Where the last certain frame is farther back than the look-back.
    smoother, out = Smoother(1.0, look_back=5), 0
    for n, frame in enumerate(np.concatenate([[[0, 9, 9]], undecided(200, 1.0)]).astype(np.float32), 1):
        out += len(smoother.push(frame[None]))
        assert n - out <= 5 + BLOCK
    assert smooth(costs[:0], 1)[0].shape == Smoother(1).finish().shape == (0,)


# ------------------------------------------------------------------------------------------------- codebooks and files


@pytest.fixture(scope="module")
def codebook():
    frames = np.concatenate([RNG.standard_normal((400, 4)) + centre for centre in range(0, 20, 4)])
    return fit_codebook(frames.astype(np.float32), 5, contract=UnitContract(encoder="mfcc"))[0]


def speech_like(codebook, n=600):
    walk = np.repeat(RNG.integers(0, 5, n // 6), 6)
    return (codebook.centroids[walk] + 2 * RNG.standard_normal((len(walk), codebook.dim))).astype(np.float32)


def test_distances_to_all_units(codebook):
    frames = speech_like(codebook)
    squared = codebook.squared_distances(frames)
    naive = np.square(frames[:, None].astype(np.float64) - codebook.centroids).sum(2)
    np.testing.assert_allclose(squared, naive, rtol=1e-4, atol=1e-3)
    units, distances = codebook.nearest(frames)
    assert np.array_equal(squared.argmin(1), units)
    np.testing.assert_allclose(np.sqrt(squared.min(1)), distances, rtol=1e-6)
    assert codebook.squared_distances(frames[:0]).shape == (0, 5)
    with pytest.raises(ModelError, match="frame 3 holds NaN"):
        codebook.squared_distances(np.where(np.arange(6)[:, None] == 3, np.nan, frames[:6]))
    with pytest.raises(ModelError, match="do not fit a codebook of 4 dimensions"):
        codebook.squared_distances(frames[:, 1:])


def test_the_price_is_in_mean_squared_distances_of_the_training_frames(codebook, tmp_path):
    """As the codebook keeps it; so that the same λ does the same to the same frames on another scale."""
    frames = speech_like(codebook)
    measured = Codebook(codebook.centroids, codebook.contract)
    measured.measure(frames)
    squared = measured.distances["squared"]
    assert squared == pytest.approx(codebook.squared_distances(frames).min(1).mean(), rel=1e-4)
    units, distance = quantize(measured, [frames], 0.7)
    assert np.array_equal(units, smooth(codebook.squared_distances(frames), 0.7 * squared)[0])
    assert distance == pytest.approx(measured.nearest(frames)[1].mean(), rel=1e-5)

    measured.save(tmp_path)
    assert np.array_equal(quantize(load_codebook(tmp_path), [frames], 0.7)[0], units)  # six digits are kept
    larger = Codebook(16 * codebook.centroids, codebook.contract)
    larger.measure(16 * frames)
    assert np.array_equal(quantize(larger, [16 * frames], 0.7)[0], units)
    assert not np.array_equal(quantize(larger, [16 * frames], 0.0)[0], units)


def test_a_file_in_pieces_is_the_file(codebook):
    frames = speech_like(codebook, 3 * smoothing.SLICE)
    units, distance = quantize(codebook, [frames], 0.5)
    for cuts in ([1, 7, 700], [smoothing.SLICE, smoothing.SLICE]):
        again, same = quantize(codebook, np.split(frames, cuts), 0.5)
        assert np.array_equal(again, units)
        assert same == pytest.approx(distance, rel=1e-6)


def test_quantizers_that_cannot_be_smoothed(codebook):
    encoder = load_encoder("mfcc")
    head = Head(RNG.standard_normal((7, encoder.dim)), np.zeros(7))
    assert Tokenizer(encoder, head, smoothing=0).smoothing == 0
    with pytest.raises(ModelError, match="a head has no distances, so that its units cannot be smoothed; leave"):
        Tokenizer(encoder, head, smoothing=0.2)
    unknown = Codebook(RNG.standard_normal((7, encoder.dim)))
    with pytest.raises(ModelError, match="does not say the mean squared distance of its training frames"):
        Tokenizer(encoder, unknown, smoothing=0.2)
    unknown.measure(RNG.standard_normal((50, encoder.dim)))
    assert Tokenizer(encoder, unknown, smoothing=0.2).contract.smoothing == 0.2
    older = {k: v for k, v in unknown.distances.items() if k != "squared"}
    with pytest.raises(ModelError, match="train it again, or give frames that it was trained on to"):
        Tokenizer(encoder, Codebook(unknown.centroids, UnitContract(), older), smoothing=0.2)


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf"), 1e7, "0.2", True])
def test_a_smoothing_that_is_no_price(codebook, wrong, textless_command, tmp_path):
    with pytest.raises(ContractError, match="smoothing must be a number from 0 to 1e\\+06, or null, not"):
        smoothing.smoothing_of(codebook, wrong)
    with pytest.raises(ContractError, match="smoothing must be a number"):
        textless.load("tiny-en", smoothing=wrong)
    if not isinstance(wrong, float):
        return
    code, _, err = textless_command("encode", "nothing.wav", "-o", tmp_path / "dump", f"--smoothing={wrong}")
    assert code == 2
    assert "--smoothing" in err
    assert not (tmp_path / "dump").exists()


# --------------------------------------------------------------------------------------------------------- the contract


def test_a_contract_without_smoothing_is_as_before_there_was_any():
    for same in (CONTRACT.with_(smoothing=0), CONTRACT.with_(smoothing=0.0), CONTRACT.with_(smoothing=None)):
        assert same == CONTRACT
        assert (same.smoothing, same.smoothed) == (None, 0)
    assert "smoothing" not in CONTRACT.to_dict()
    assert UnitContract().smoothed is None
    smoothed = CONTRACT.with_(smoothing=0.2)
    assert UnitContract.from_dict(json.loads(json.dumps(smoothed.to_dict()))) == smoothed


def test_a_model_takes_units_of_another_smoothing_with_a_warning():
    smoothed = CONTRACT.with_(smoothing=0.2)
    for mine, theirs, say in (
        (CONTRACT, smoothed, "0.2 in it but 0 in the LM"),
        (smoothed, CONTRACT, "0 in it but 0.2"),
    ):
        assert mine.conflict(theirs) == "smoothing"
        with pytest.warns(ContractWarning, match=f"it and the LM differ in smoothing: {say}"):
            mine.check(theirs, mine="the LM", theirs="it")
        with pytest.raises(ContractError, match="smoothing is 0"):
            mine.check(theirs, mine="the LM", theirs="it", together=True)
    with pytest.raises(ContractError, match="n_units is 6 in it"):  # a difference that matters more
        CONTRACT.check(smoothed.with_(n_units=6), mine="the LM", theirs="it")
    with pytest.warns(ContractWarning, match="cannot compare codebook, smoothing, known on one side only"):
        UnitContract(n_units=5).check(smoothed, mine="a", theirs="b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smoothed.check(smoothed, mine="a", theirs="b")
    with pytest.raises(ContractError, match=r"smoothing is 0\.2 in the second part"):
        Units([1], None, CONTRACT) + Units([1], None, smoothed)


def test_a_set_encodes_the_units_that_its_language_model_knows(clip, tmp_path):
    """`bundle` puts the smoothing of the LM's units into the set's codebook; `smoothing=` has the last word."""
    from textless.model import bundle, find_model
    from textless.model_io import load_model, save_model

    plain = find_model("tiny-en")
    for part in ("lm", "vocoder"):
        config, tensors = load_model(plain / part, kind=part)
        config["contract"]["smoothing"] = 0.4
        save_model(tmp_path / part, kind=part, config=config, tensors=tensors)
    parts = {part: (tmp_path if part in ("lm", "vocoder") else plain) / part for part in textless.model.PARTS}
    assert bundle(tmp_path / "set", **parts).smoothing == 0.4
    units = textless.load(tmp_path / "set").encode(clip)
    assert units == textless.load("tiny-en", smoothing=0.4).encode(clip)
    assert units.contract.smoothing == 0.4
    assert textless.load(tmp_path / "set", smoothing=0).encode(clip) == textless.load("tiny-en").encode(clip)


def test_by_the_command_by_steps_and_by_python(clip, textless_command, tmp_path):
    """The same units, fewer than the plain ones, and another key of the output."""
    from textless.engine.store import Store
    from textless.engine.yaml import load_pipeline
    from textless.steps import STEPS
    from textless.units.dump import open_dump

    speech = tmp_path / "clip.flac"
    shutil.copy(GOLDEN / "clip.flac", speech)
    model = textless.load("tiny-en", smoothing=0.4)
    plain = textless.load("tiny-en")
    for smoothed in (["--smoothing", "0.4"], []):
        code, _, err = textless_command(
            "encode", speech, "-o", tmp_path / f"dump{len(smoothed)}", *smoothed, model="tiny-en"
        )
        assert code == 0, err
    dump = open_dump(tmp_path / "dump2")
    assert dump.contract == model.tokenizer.contract
    assert dump.contract.with_(smoothing=0) == open_dump(tmp_path / "dump0").contract == plain.tokenizer.contract
    code, _, err = textless_command("encode", speech, "-o", tmp_path / "dump0", "--smoothing", "0.4", model="tiny-en")
    assert code == 2
    assert "--overwrite" in err
    units = {row.id: row.units for row in dump}
    assert units["clip"] == model.encode(clip) == model.encode([clip, clip[:8000]])[0]
    assert len(units["clip"]) < 0.8 * len(plain.encode(clip))
    assert units["clip"].n_frames == plain.encode(clip).n_frames

    (tmp_path / "p.yaml").write_text(
        f"""steps:
  audio: {{step: corpus, manifest: "{speech}"}}
  model: {{name: tiny-en}}
  units: {{step: encode, audio: $audio, encoder: $model, codebook: $model, smoothing: 0.4}}
  frames: {{audio: $audio, encoder: $model, layer: 2}}
  same: {{step: assign, frames: $frames, codebook: $model, smoothing: 0.4}}
"""
    )
    pipeline = load_pipeline(tmp_path / "p.yaml", STEPS)
    store = Store(tmp_path / "store")
    pipeline.run(store)
    for name in ("units", "same"):
        assert {row.id: row.units for row in open_dump(store.folder(pipeline.steps[name]))} == units


def test_today_s_units_are_the_same_bytes(clip):
    units = textless.load("tiny-en", smoothing=0).encode(clip)
    tokenizer = textless.load("tiny-en").tokenizer
    frames = tokenizer.encoder.encode_one(clip)
    assert units == Units.from_frames(tokenizer.quantizer.predict(frames), tokenizer.contract)
    assert "smoothing" not in units.contract.to_dict()


def test_smoothing_of_what_has_no_units(clip, textless_command, tmp_path):
    from textless.errors import TrainingError
    from textless.steps import CopySynthesis, Corpus, SpeechQuality

    shutil.copy(GOLDEN / "clip.flac", tmp_path)
    (tmp_path / "phones.tsv").write_text("id\tstart\tend\tphone\nclip\t0\t1\tA\n")
    request = "quality", tmp_path / "clip.flac", "--encoder", "mfcc", "--alignments", tmp_path / "phones.tsv"
    code, _, err = textless_command(*request, "--smoothing", "0.2")
    assert (code, err.count("\n")) == (2, 1)
    assert "--smoothing is of units, and without --codebook frames alone are measured" in err
    audio = Corpus(manifest=str(tmp_path / "clip.flac"))
    with pytest.raises(TrainingError, match="smoothing is of units, and there is no codebook"):
        SpeechQuality(speech=CopySynthesis(audio=audio), reference=audio, smoothing=0.2)
