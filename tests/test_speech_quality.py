"""Measures of made speech: each against a naive computation or a known answer, over sentences, and between systems."""

import json
import math
import sys

import numpy as np
import pytest
import soundfile
import torch
from scipy.fft import dct
from scipy.optimize import nnls

from conftest import ROOT
from textless.audio.corpus import Row
from textless.audio.io import read_audio, to_int16
from textless.audio.mel import slaney_filters, slaney_log_mel
from textless.engine.store import Store
from textless.engine.yaml import load_pipeline
from textless.errors import AudioError, CorpusError, PipelineError, TextlessError
from textless.metrics import asr as recognise
from textless.metrics import mcd
from textless.metrics import speech as quality
from textless.metrics.difference import paired_difference
from textless.metrics.dtw import warped_distance
from textless.metrics.edit_distance import edit_distance
from textless.metrics.mcd import mel_cepstra, mel_cepstral_distortion
from textless.metrics.speech import check_text, compare, compare_pairs, pair_rows, summarise
from textless.steps import STEPS
from textless.types import Units
from textless.vocoder.griffin_lim import copy_synthesis, griffin_lim, mel_to_magnitudes

SMOKE = ROOT / "pipelines" / "smoke"
SAID = {
    "amy-0": "The kettle sings before the water boils.",
    "ben-3": "She counted seven stones and put them back again.",
}


@pytest.fixture(scope="session")
def sentence():
    """Two seconds of espeak-ng, (samples,) float32."""
    return read_audio(SMOKE / "amy-0.opus")[:32000]


def voice(hertz, seconds=1.0):
    """A steady buzz: the first harmonics, each weaker than the last."""
    t = np.arange(round(16000 * seconds)) / 16000
    return (0.1 * sum(np.sin(2 * np.pi * k * hertz * t) / k for k in range(1, 15))).astype(np.float32)


# ------------------------------------------------------------------------------------------------------- distortions


def test_cepstra_equal_a_transform_of_scipy(sentence):
    mel = slaney_log_mel(torch.from_numpy(sentence)[None], sample_rate=16000)[0].double().numpy()
    want = dct(mel, axis=0, type=2, norm="ortho")[1:14].T * math.sqrt(2 / 80)
    assert mel_cepstra(sentence) == pytest.approx(want, abs=1e-9)


def naive_warp(a, b):
    """Cell by cell: least cost, and cells on the path that has it."""
    best = {}
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            before = [best[p] for p in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if p in best]
            cost, cells = min(before, key=lambda way: way[0], default=(0.0, 0))
            best[i, j] = cost + math.dist(x, y), cells + 1
    cost, cells = best[len(a) - 1, len(b) - 1]
    return cost / cells


def test_warped_distance_equals_a_naive_one():
    rng = np.random.default_rng(0)
    for n, m in ((1, 1), (1, 6), (7, 1), (5, 9), (12, 8), (30, 31)):
        a, b = rng.standard_normal((n, 3)), rng.standard_normal((m, 3))
        assert warped_distance(a, b) == pytest.approx(naive_warp(a, b), rel=1e-12)
        assert warped_distance(a, np.repeat(a, 2, 0)) == pytest.approx(0, abs=1e-12)


def test_distortion_is_in_decibels(monkeypatch):
    """Of a spectrum with a ripple of 1 dB: the root mean square of a cosine.

    Of one that is only louder, or ripples too fast: none.
    """
    fast = np.cos(np.pi * 14 * (np.arange(80) + 0.5) / 80)
    slow = np.cos(np.pi * 3 * (np.arange(80) + 0.5) / 80)
    decibel = math.log(10) / 20

    def distortion(change):
        mels = iter([change[:, None] + np.zeros((80, 5)), np.zeros((80, 7))])
        monkeypatch.setattr(mcd, "slaney_log_mel", lambda wave, sample_rate: torch.from_numpy(next(mels))[None])
        return mel_cepstral_distortion(np.zeros(1024), np.zeros(1024))

    assert distortion(decibel * slow) == pytest.approx(1 / math.sqrt(2))
    assert distortion(6 * decibel * slow + 3) == pytest.approx(6 / math.sqrt(2))
    assert distortion(decibel * fast) == pytest.approx(0, abs=1e-12)


def test_distances_of_noise(sentence):
    noisy = sentence + 0.01 * np.random.default_rng(0).standard_normal(len(sentence)).astype(np.float32)
    louder = compare(noisy / 2, noisy)
    assert (louder["mcd"], louder["log_mel_l1"]) == (pytest.approx(0, abs=1e-3), pytest.approx(math.log(2), abs=1e-3))
    a, b = mel_cepstra(noisy), mel_cepstra(sentence)
    assert compare(noisy, sentence)["mcd"] == pytest.approx(10 / math.log(10) * math.sqrt(2) * naive_warp(a, b))


# ------------------------------------------------------------------------------------------------------ of one sentence


def test_a_sentence_beside_itself(sentence):
    figures = compare(sentence, sentence, encode=lambda waves: [Units.of([1, 1, 2])] * 2)
    assert figures.pop("stoi") == pytest.approx(1)
    assert figures == {
        "seconds": 2,
        "seconds_original": 2,
        "log_mel_l1": 0,
        "mcd": 0,
        "f0_cents": 0,
        "voicing_error": 0,
        "unit_edits": 0,
        "units": 2,
    }


def test_pitch_and_voicing():
    low, high = voice(200), voice(200 * 2 ** (1 / 12))
    assert compare(high, low)["f0_cents"] == pytest.approx(100, abs=3)
    half = low.copy()
    half[len(half) // 2 :] = 0
    figures = compare(half, low)
    assert figures["voicing_error"] == pytest.approx(0.5, abs=0.05)
    assert figures["f0_cents"] < 5
    assert "f0_cents" not in compare(np.zeros_like(low), low)


def test_stoi(sentence):
    from pystoi import stoi

    noisy = sentence + 0.02 * np.random.default_rng(0).standard_normal(len(sentence)).astype(np.float32)
    longer = np.concatenate([noisy, noisy[:500]])
    assert compare(longer, sentence)["stoi"] == stoi(sentence, noisy, 16000)  # the original first
    assert 0.3 < compare(noisy, sentence)["stoi"] < 0.97
    assert "stoi" not in compare(noisy, sentence, stoi=False)
    assert "stoi" not in compare(noisy[:4000], sentence[:4000])  # a quarter of a second: pystoi itself says 1e-5


def test_units_of_the_original_are_counted(sentence):
    made, real = Units.of([5, 5, 7, 8, 8, 9]), Units.of([5, 6, 7, 7, 8, 1, 1])

    def encode(waves):
        assert [len(w) for w in waves] == [32000, 31000]
        return [real, made]

    figures = compare(sentence[:31000], sentence, encode=encode)
    assert (figures["unit_edits"], figures["units"]) == (2, 5)  # 5 7 8 9 of 5 6 7 8 1


def test_words_are_compared_without_case_and_punctuation(sentence, monkeypatch):
    assert recognise.words_of("“Don’t,” he said—twenty-one 'times', o'clock; 3.5!") == [
        *("don't", "he", "said", "twenty", "one", "times", "o'clock", "3", "5")
    ]
    heard = {32000: "the cat sings", 31000: ""}
    monkeypatch.setattr(quality, "recognise", lambda wave: heard[len(wave)])
    figures = compare(sentence[:31000], sentence, text="The kettle SINGS, loudly.")
    assert {k: figures[k] for k in ("words", "word_edits", "word_edits_original")} == {
        "words": 4,
        "word_edits": 4,
        "word_edits_original": 2,
    }
    assert (figures["heard"], figures["heard_original"]) == ("", "the cat sings")
    assert edit_distance([], ["a", "b"]) == 2


def test_too_short_or_too_long(sentence):
    for wave in (sentence[:1599], np.zeros(121 * 16000, np.float32)):
        with pytest.raises(AudioError, match=r"sentences of 0\.1 to 120 s"):
            compare(wave, sentence)


def test_what_is_heard_does_not_depend_on_what_was_heard_before(monkeypatch):
    """Noise in between would change what a decoder that goes on hears next. The same is not decoded twice."""
    wave, noise = (
        read_audio(SMOKE / "ben-3.opus"),
        0.3 * np.random.default_rng(0).standard_normal(32000).astype(np.float32),
    )
    monkeypatch.setattr(recognise, "_transcripts", {})
    heard = recognise.recognise(wave)
    assert recognise.recognise(noise) == ""
    assert recognise._decode(to_int16(wave).tobytes()) == heard
    monkeypatch.setattr(recognise, "_decode", None)
    assert recognise.recognise(wave) == heard
    assert edit_distance(recognise.words_of(SAID["ben-3"]), recognise.words_of(heard)) < 9  # something is understood


def test_extras_that_are_not_installed(monkeypatch, sentence):
    monkeypatch.setitem(sys.modules, "pystoi", None)
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    monkeypatch.setattr(recognise, "find_spec", lambda name: None)
    monkeypatch.setattr(recognise, "_transcripts", {})
    with pytest.raises(
        TextlessError,
        match=r"pystoi, which is not installed; in a clone of textless: pip install -c constraints.txt '\.\[eval\]'",
    ):
        compare(sentence, sentence)
    with pytest.raises(
        TextlessError,
        match=(
            r"pocketsphinx, which is not installed; in a clone of textless: pip install -c "
            r"constraints.txt '\.\[eval\]'"
        ),
    ):
        compare(sentence, sentence, stoi=False, text="a")


# ------------------------------------------------------------------------------------------------------------- files


def rows(*names):
    return [Row(name, f"/{name}.wav") for name in names]


def test_pairs_by_id_or_by_what_a_file_of_that_id_is_called():
    pairs = pair_rows(rows("x_1", "b"), rows("a", "b", "x/1"))
    assert [(p.id, p.speech.id, p.reference.id) for p in pairs] == [("x/1", "x_1", "x/1"), ("b", "b", "b")]
    with pytest.raises(
        CorpusError,
        match="2 of 3 files have no original of their name, such as c, d; those of the reference are called a, b",
    ):
        pair_rows(rows("c", "b", "d"), rows("a", "b"))
    with pytest.raises(CorpusError, match="such as x_1"):
        pair_rows(rows("x_1"), rows("x/1", "x_1"))
    with pytest.raises(CorpusError, match="the words of 1 of 2 files are missing, such as b"):
        check_text(pair_rows(rows("a", "b"), rows("a", "b")), {"a": "word"})


def test_read_text(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("a\tOne, two.\n\nb\tThree\tfour\n")
    assert recognise.read_text(path) == {"a": "One, two.", "b": "Three\tfour"}
    path.write_text("a\tone\nb two\n")
    with pytest.raises(CorpusError, match="line 2: no words after a tab"):
        recognise.read_text(path)
    with pytest.raises(CorpusError, match="cannot be read as text"):
        recognise.read_text(tmp_path / "none.tsv")


def test_files_that_cannot_be_compared(tmp_path, sentence):
    for folder in ("made", "real"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            soundfile.write(tmp_path / folder / f"{name}.wav", sentence[:20000], 16000)
    (tmp_path / "real" / "a.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "made" / "b.wav", sentence[:100], 16000)
    made, real = ([Row(name, str(tmp_path / folder / f"{name}.wav")) for name in "abc"] for folder in ("made", "real"))
    a, b, c = compare_pairs(pair_rows(made, real), stoi=False)
    assert a["id"] == "a"
    assert a["error"].startswith(str(tmp_path / "real" / "a.wav"))
    assert b["error"].startswith(f"{tmp_path / 'made' / 'b.wav'}: 0.0 s of speech against 1.2 s of reference")
    assert (c["id"], c["mcd"]) == ("c", pytest.approx(0, abs=1e-9))


# ------------------------------------------------------------------------------------------------------ over sentences


def system(n, seed, shift=0.0):
    """Sentences that differ among each other more than systems do: the same of every system, but for a little noise."""
    hard, own = np.random.default_rng(0), np.random.default_rng(seed)
    words = hard.integers(5, 30, n)
    mcd, wrong = 6 + hard.standard_normal(n), np.minimum(words, hard.integers(0, 12, n) + own.integers(0, 2, n))
    return [
        {
            "id": f"s{k}",
            "seconds": 2.0,
            "seconds_original": 2.05,
            "mcd": mcd[k] + shift + 0.05 * own.standard_normal(),
            "word_edits": int(wrong[k]),
            "word_edits_original": int(wrong[k] // 2),
            "words": int(words[k]),
        }
        for k in range(n)
    ]


def naive_interval(ratio, n, seed):
    rng = np.random.default_rng(seed)
    return np.percentile([ratio(rng.integers(n, size=n).tolist()) for _ in range(1000)], [2.5, 97.5])


def test_intervals_equal_a_naive_bootstrap():
    sentences = sorted(system(25, 1), key=lambda s: s["id"])
    figures = summarise(sentences[::-1], seed=3)

    def mean(chosen):
        return sum(sentences[k]["mcd"] for k in chosen) / len(chosen)

    def rate(chosen):
        return sum(sentences[k]["word_edits"] for k in chosen) / sum(sentences[k]["words"] for k in chosen)

    for name, ratio in (("mcd", mean), ("wer", rate)):
        assert figures[name] == pytest.approx(ratio(range(25)))
        assert [figures[f"{name}_low"], figures[f"{name}_high"]] == pytest.approx(naive_interval(ratio, 25, 3))
    assert figures["wer_original"] < figures["wer"]
    assert (figures["files"], figures["seconds"]) == (25, 50)
    assert "stoi" not in figures


def test_intervals_of_many_sentences_are_those_of_the_normal_distribution():
    sentences = system(2000, 1)
    figures = summarise(sentences)
    error = np.std([s["mcd"] for s in sentences]) / math.sqrt(2000)
    assert [figures["mcd_low"], figures["mcd_high"]] == pytest.approx(
        [figures["mcd"] - 1.96 * error, figures["mcd"] + 1.96 * error], abs=0.008
    )


def test_a_measure_is_over_the_sentences_that_have_it():
    sentences = [{**s, "stoi": 0.5} if k % 2 else s for k, s in enumerate(system(10, 1))]
    figures = summarise(sentences)
    assert figures["stoi"] == figures["stoi_low"] == figures["stoi_high"] == 0.5
    alone = summarise(sentences[:1])
    assert alone["mcd"] == sentences[0]["mcd"]
    assert "mcd_low" not in alone
    with pytest.raises(CorpusError, match="no sentences"):
        summarise([])
    with pytest.warns(UserWarning, match=r"1 of 10 files are longer or shorter .* such as s4"):
        summarise([{**s, "seconds": 3.0} if s["id"] == "s4" else s for s in sentences])


def test_the_paired_difference_sees_what_intervals_hide():
    a, b = system(60, 1, shift=0.2), system(60, 2)
    ours, theirs = summarise(a), summarise(b)
    assert ours["mcd_low"] < theirs["mcd_high"]  # the intervals overlap
    value, low, high = paired_difference(a, b[::-1], "mcd")
    assert value == pytest.approx(ours["mcd"] - theirs["mcd"])
    assert 0.15 < low < value < high < 0.25
    assert paired_difference(b, a, "mcd") == pytest.approx((-value, -high, -low))
    value, low, high = paired_difference(a, b, "wer")
    assert value == pytest.approx(ours["wer"] - theirs["wer"])
    ordered = [sorted(x, key=lambda s: s["id"]) for x in (a, b)]

    def difference(chosen):
        first, second = (sum(x[k]["word_edits"] for k in chosen) / sum(x[k]["words"] for k in chosen) for x in ordered)
        return first - second

    assert [low, high] == pytest.approx(naive_interval(difference, 60, 0))
    assert paired_difference(a, a, "wer") == (0, 0, 0)


def test_the_paired_difference_is_of_the_same_sentences():
    a = system(5, 1)
    with pytest.raises(CorpusError, match="1 sentences are in one of the two only, such as s4"):
        paired_difference(a, a[:4], "mcd")
    with pytest.raises(CorpusError, match="no sentence has the measure 'stoi' in both"):
        paired_difference(a, a, "stoi")
    b = [{**s, "f0_cents": 10.0} for s in a]
    del b[0]["f0_cents"]
    assert paired_difference([{**s, "f0_cents": 30.0 if s["id"] != "s0" else 1e6} for s in a], b, "f0_cents") == (
        20,
        20,
        20,
    )


# ----------------------------------------------------------------------------------------------------- copy synthesis


def test_magnitudes_are_as_near_to_the_mel_bands_as_can_be(sentence):
    mel = slaney_log_mel(torch.from_numpy(sentence)[None], sample_rate=16000)[0].exp()[:, 20:80:10]
    found = mel_to_magnitudes(mel, sample_rate=16000)
    assert found.min() >= 0
    filters = slaney_filters(1024, 80, 16000).T.double().numpy()
    for bands, magnitudes in zip(mel.T.double().numpy(), found.T.double().numpy(), strict=True):
        assert np.linalg.norm(filters @ magnitudes - bands) <= nnls(filters, bands)[1] + 0.02 * np.linalg.norm(bands)


def test_griffin_lim_finds_phases_that_fit(clip):
    """To 2 % of true magnitudes; without momentum it would be 5 %, after six iterations 16 %."""
    window = torch.hann_window(1024)
    spectra = torch.stft(torch.from_numpy(clip[:24000]), 1024, 256, window=window, return_complex=True).abs()
    made = griffin_lim(spectra, samples=24000)
    found = torch.stft(made, 1024, 256, window=window, return_complex=True).abs()
    assert float((found - spectra).norm() / spectra.norm()) < 0.035


def test_copy_synthesis(sentence):
    copy = copy_synthesis(sentence)
    assert copy.shape == sentence.shape
    assert copy.dtype == np.float32
    figures = compare(copy, sentence)
    assert figures["log_mel_l1"] < 0.2
    assert figures["stoi"] > 0.9
    assert not np.allclose(copy, sentence, atol=0.01)  # the phases are others
    assert np.array_equal(copy_synthesis(sentence), copy)
    assert not np.array_equal(copy_synthesis(sentence, seed=1), copy)
    with pytest.raises(AudioError, match="512 samples are too short"):
        copy_synthesis(sentence[:512])


# ------------------------------------------------------------------------------------------------------------- steps


def test_speech_quality_as_a_step(tmp_path, sentence):
    (tmp_path / "audio").mkdir()
    for k, name in enumerate(SAID):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", sentence[k * 16000 : (k + 1) * 16000], 16000)
    soundfile.write(tmp_path / "audio" / "short.wav", sentence[:100], 16000)
    said = "".join(f"{name}\t{text}\n" for name, text in SAID.items())
    (tmp_path / "words.tsv").write_text(said)
    (tmp_path / "p.yaml").write_text(
        "steps:\n"
        "  corpus: {manifest: audio}\n"
        "  words:  {step: text, file: words.tsv}\n"
        "  mfcc:   {step: frames, audio: $corpus, encoder: mfcc}\n"
        "  km:     {step: kmeans, frames: $mfcc, n_units: 8}\n"
        "  copy:   {step: copy_synthesis, audio: $corpus}\n"
        "  worth:  {step: speech_quality, speech: $copy, reference: $corpus, encoder: mfcc, "
        "codebook: $km, text: $words}\n"
        "  bare:   {step: speech_quality, speech: $copy, reference: $corpus}\n"
    )
    store, graph = Store(tmp_path / "store"), load_pipeline(tmp_path / "p.yaml", STEPS)
    graph.run(store, ["worth", "bare"])
    worth, bare = (store.manifest(graph.steps[name]) for name in ("worth", "bare"))
    assert [
        json.loads(line)["id"]
        for line in (store.folder(graph.steps["copy"]) / "failures.jsonl").read_text().splitlines()
    ] == ["short"]
    folder = store.folder(graph.steps["worth"])
    sentences = [json.loads(line) for file in folder.glob("data/*.jsonl") for line in file.read_text().splitlines()]
    assert sorted(s["id"] for s in sentences) == sorted(SAID)
    assert worth["metrics"] == summarise(sentences) == json.loads((folder / "speech_quality.json").read_text())
    assert {"log_mel_l1", "mcd", "f0_cents", "voicing_error", "stoi", "uer", "wer", "wer_original_high"} <= set(
        worth["metrics"]
    )
    assert 0 < worth["metrics"]["uer"] < 0.6
    assert worth["contract"]["n_units"] == 8
    assert "mcd" in bare["metrics"]
    assert not {"uer", "wer"} & set(bare["metrics"])
    half = "  half:   {step: speech_quality, speech: $copy, reference: $corpus, encoder: mfcc}\n"
    (tmp_path / "half.yaml").write_text((tmp_path / "p.yaml").read_text() + half)
    with pytest.raises(PipelineError, match="give both or neither"):
        load_pipeline(tmp_path / "half.yaml", STEPS)
    (tmp_path / "words.tsv").write_text(said.replace("ben-3", "ben-4"))
    with pytest.raises(CorpusError, match="the words of 1 of 2 files are missing, such as ben-3"):
        load_pipeline(tmp_path / "p.yaml", STEPS).run(Store(tmp_path / "store"), ["worth"])
