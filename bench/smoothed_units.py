"""What a price on changes of the unit costs and saves, for docs/units.md: tiny-en's units on unseen speakers, against
phones and perturbations, in a trigram model, and spoken by the voice of plain units.

python bench/smoothed_units.py DIR      # about four minutes; words need the extra eval

DIR holds mini_librispeech/ and kathleen_en/, their .txt, mini_librispeech.phones.tsv and splits.tsv.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
from common import header

import textless
from textless.audio.corpus import Corpus, Row, read_rows
from textless.lm.ngram import KneserNey
from textless.metrics.alignments import read_alignments
from textless.metrics.asr import read_text
from textless.metrics.difference import paired_difference, unit_difference
from textless.metrics.robustness import mean_distances, unit_edit_distances
from textless.metrics.speech import compare, summarise
from textless.metrics.units import measure_units
from textless.types import UnitRow, Units
from textless.units.smoothing import Smoother, quantize
from textless.units.tokenizer import encode_rows

DIR = Path(sys.argv[1])
PRICES = (0, 0.1, 0.13, 0.15, 0.2, 0.4, 0.8)
TABLE = (0, 0.1, 0.2, 0.4, 0.8)
MODEL = textless.load("tiny-en")
TOKENIZER = MODEL.tokenizer
Frames = dict[str, np.ndarray]


def corpus(split: str, name: str = "mini_librispeech", every: int = 1) -> list[Row]:
    rows = Corpus.load(DIR / name, splits=DIR / "splits.tsv", split=split)
    return sorted(rows, key=lambda row: row.id)[::every]


def frames_of(rows: list[Row]) -> Frames:
    return {row.id: np.concatenate(list(pieces)) for row, _, pieces in encode_rows(rows, TOKENIZER.encoder)}


def units_of(frames: np.ndarray, price: float) -> Units:
    return Units.from_frames(quantize(TOKENIZER.quantizer, [frames], price)[0], TOKENIZER.contract)


def unsquared(frames: np.ndarray, price: float) -> Units:
    """With a price on the distance instead of its square, in units of the mean distance."""
    codebook = TOKENIZER.quantizer
    smoother = Smoother(price * codebook.distances["mean"])
    pieces = [smoother.push(np.sqrt(codebook.squared_distances(frames))), smoother.finish()]
    return Units.from_frames(np.concatenate(pieces), TOKENIZER.contract)


def dump(frames: Frames, rows: list[Row], price: float, units=units_of) -> list[UnitRow]:
    speakers = {row.id: row.speaker for row in rows}
    return [UnitRow(name, units(x, price), speaker=speakers[name]) for name, x in frames.items()]


def against_phones(split: str) -> None:
    phones, rows = read_alignments(DIR / "mini_librispeech.phones.tsv"), corpus(split)
    frames = frames_of(rows)
    base = dump(frames, rows, 0)
    bits = measure_units(base)["bitrate"]
    header(f"{split}: {len(rows)} files, phones of {len(phones.keys() & frames.keys())}")
    tries = [(price, units_of, "") for price in PRICES] + [(0.075, unsquared, ", on the distance unsquared")]
    for price, units, what in tries:
        own = dump(frames, rows, price, units)
        values = measure_units(own, alignments=phones)
        names = ("units_per_second", "bitrate", "pnmi", "phone_purity", "abx_within", "abx_across")
        print(f"{price}{what}: ", ", ".join(f"{name} {values[name]:.4g}" for name in names))
        if price:
            less = unit_difference(own, base, phones)
            shown = [
                f"{n} {less[n]:+.4f} [{less[n + '_low']:+.4f}, {less[n + '_high']:+.4f}]" for n in names if n in less
            ]
            print(f"    less plain units: bits {values['bitrate'] / bits - 1:+.1%},", ", ".join(shown))


def in_a_trigram() -> None:
    train, test = corpus("train", every=6), corpus("test")
    seen, heard = frames_of(train), frames_of(test)
    header(f"trigram of {len(train)} files, on {len(test)}")
    for price in TABLE:
        model = KneserNey.fit([row.units for row in dump(seen, train, price)], 100, order=3)
        units = [row.units for row in dump(heard, test, price)]
        nats = sum(float(model.nll(u).sum()) for u in units)
        print(f"{price}: {nats / np.log(2) / sum(u.seconds for u in units):.1f} bits a second")


def perturbed(every: int = 12) -> None:
    rows = corpus("test", every=every)
    header(f"unit edit distance, {len(rows)} files")
    distances: dict[float, list[dict[str, float]]] = {price: [] for price in TABLE}
    for row, waveform in read_rows(rows):
        encoded: list[np.ndarray] = []

        def encode(waveforms, price: float, encoded=encoded) -> list[Units]:
            encoded.extend([] if encoded else TOKENIZER.encoder.encode_batch(list(waveforms)))
            return [units_of(frames, price) for frames in encoded]

        for price, own in distances.items():
            own.append(unit_edit_distances(waveform, lambda w, price=price: encode(w, price), name=row.id))
    for price, own in distances.items():
        means = mean_distances(own)
        kinds = [name for name in means if not name.endswith(("_low", "_high"))]
        print(f"{price}: {np.mean([means[name] for name in kinds]):.1%}, mean of {len(kinds)} perturbations")


def spoken(rows: list[Row], text: dict[str, str]) -> None:
    header(f"spoken, {len(rows)} files")
    sentences: dict[float, list[dict]] = {price: [] for price in TABLE}
    for row, waveform in read_rows(rows):
        frames = TOKENIZER.encoder.encode_one(waveform)
        for price, own in sentences.items():
            speech = MODEL.resynth(units_of(frames, price), speaker="kathleen")
            said = compare(speech, waveform, stoi=False, encode=TOKENIZER.encode_batch, text=text.get(row.id))
            own.append({"id": row.id, **said})
    for price, own in sentences.items():
        values = summarise(own)
        shown = [f"{n} {values[n]:.4g}" for n in ("mcd", "log_mel_l1", "uer", "wer", "wer_original") if n in values]
        if "wer" in values:
            shown.append(f"[{values['wer_low']:.3f}, {values['wer_high']:.3f}]")
        more, low, high = paired_difference(own, sentences[0], "uer")
        print(f"{price}: ", ", ".join(shown), f"uer less plain {more:+.4f} [{low:+.4f}, {high:+.4f}]")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for part in ("dev", "test"):
        against_phones(part)
    in_a_trigram()
    perturbed()
    spoken(corpus("test", every=12), {})
    spoken(corpus("test", "kathleen_en", every=4), read_text(DIR / "kathleen_en.txt"))
