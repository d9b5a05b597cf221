"""Synthesised speech compared with the original: sentence by sentence (`compare`), and over many (`summarise`).

| measure | | better |
|---|---|---|
| `log_mel_l1` | mean absolute difference of 80-band log-mel magnitudes, nats (`losses.log_mel_l1`) | lower |
| `mcd` | mel-cepstral distortion after time warping, dB (`mcd.mel_cepstral_distortion`) | lower |
| `f0_cents` | mean absolute difference of F0 over frames of 20 ms voiced in both, cents (`f0.track_f0`) | lower |
| `voicing_error` | share of frames whose voicing differs | lower |
| `stoi` | short-time objective intelligibility (Taal et al. 2011), by pystoi | higher, up to 1 |
| `uer` | unit error rate: edit distance of the deduplicated units, over the number of the original's | lower |
| `wer` | word error rate of a recogniser against the text (`asr.recognise`); `wer_original`: of the original | lower |

`log_mel_l1`, `f0_cents`, `voicing_error` and `stoi` compare moments in time, over the shorter of the two. STOI and not
ESTOI: it is what vocoders and codecs are reported by.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from textless.audio.corpus import Row, file_stem, read_rows
from textless.audio.io import SAMPLE_RATE
from textless.audio.waveform import as_waveforms
from textless.errors import AudioError, CorpusError, TextlessError, how_to_install
from textless.metrics.asr import Recogniser, recognise, words_of
from textless.metrics.bootstrap import interval
from textless.metrics.edit_distance import edit_distance
from textless.metrics.metric import Metric, count, number, percent
from textless.text import duration
from textless.types import Units

# Of each sentence, in the order of display.
MEASURES = {
    "log_mel_l1": Metric("log-mel distance, nats", number(3), interval=True),
    "mcd": Metric("mel-cepstral distortion, dB", number(2), interval=True),
    "f0_cents": Metric("pitch error, cents", number(0), interval=True),
    "voicing_error": Metric("voicing error", percent, interval=True),
    "stoi": Metric("STOI", number(3), interval=True),
    "uer": Metric("unit error rate", percent, interval=True, ratio=("unit_edits", "units")),
    "wer": Metric("word error rate", percent, interval=True, baseline="original", ratio=("word_edits", "words")),
    "wer_original": Metric(
        "word error rate of the original",
        percent,
        interval=True,
        printed=False,  # it is in the line of `wer`
        ratio=("word_edits_original", "words"),
    ),
}
METRICS = {"files": Metric("files", count), "seconds": Metric("speech", duration), **MEASURES}
LAG = 0.1  # seconds; sentences whose lengths differ by more are warned about
SHORTEST, LONGEST = 1600, 120 * SAMPLE_RATE  # samples of a sentence

Encode = Callable[[Sequence[np.ndarray]], Sequence[Units]]


@dataclass(frozen=True, slots=True)
class Pair:
    """A synthesised file and its original, whose id the pair has."""

    speech: Row
    reference: Row

    @property
    def id(self) -> str:
        return self.reference.id


def pair_rows(speech: Iterable[Row], reference: Iterable[Row]) -> list[Pair]:
    """Pair each synthesised file with the original of its name: the id, or the file name that `resynth` makes of it.

    Raises:
        CorpusError: some have no original, or several.
    """
    synthesised, originals = list(speech), list(reference)
    times = Counter(file_stem(row.id) for row in originals)
    by_name = {name: row for row in originals if times[name := file_stem(row.id)] == 1}
    if lost := [row.id for row in synthesised if file_stem(row.id) not in by_name]:
        raise CorpusError(
            f"{len(lost)} of {len(synthesised)} files have no original of their name, such as {', '.join(lost[:3])}; "
            f"those of the reference are called {', '.join(row.id for row in originals[:3])} …"
        )
    return [Pair(row, by_name[file_stem(row.id)]) for row in synthesised]


def check_text(pairs: Sequence[Pair], text: Mapping[str, str]) -> None:
    """Raises CorpusError where the words of some are missing."""
    if lost := [pair.id for pair in pairs if pair.id not in text]:
        raise CorpusError(
            f"the words of {len(lost)} of {len(pairs)} files are missing, such as {', '.join(lost[:3])}; "
            "are the ids the same?"
        )


def check_stoi() -> None:
    """Raises TextlessError when pystoi is not installed."""
    if not find_spec("pystoi"):
        raise TextlessError(f"STOI needs pystoi, which is not installed; {how_to_install('eval')}")


def compare(
    speech: np.ndarray,
    reference: np.ndarray,
    *,
    stoi: bool = True,
    encode: Encode | None = None,
    text: str | None = None,
    asr: Recogniser | None = None,
) -> dict[str, Any]:
    """Measure one sentence.

    Args:
        speech, reference: synthesised and original waveform, (samples,) float32 at 16 kHz, 0.1 seconds to two minutes.
        encode: waveforms to units, such as `Tokenizer.encode_batch`, for `uer`.
        text: the words, for `wer`.
        asr: a waveform to its transcript, see `load_recogniser`; None is PocketSphinx.

    Returns:
        `seconds` and `seconds_original`; each of `MEASURES`, or for a ratio its two numbers; the transcripts `heard`
        and `heard_original`. A measure is missing where it is not defined: `f0_cents` where no frame is voiced in both,
        `stoi` of less than 0.4 seconds of speech.

    Raises:
        AudioError: too short or too long. TextlessError: pystoi or pocketsphinx are needed and not installed.
    """
    speech, reference = as_waveforms([speech, reference])
    samples = min(len(speech), len(reference))
    if samples < SHORTEST or max(len(speech), len(reference)) > LONGEST:
        raise AudioError(
            f"{len(speech) / SAMPLE_RATE:.1f} s of speech against {len(reference) / SAMPLE_RATE:.1f} s of reference; "
            f"sentences of {SHORTEST / SAMPLE_RATE:g} to {LONGEST / SAMPLE_RATE:.0f} s can be compared"
        )
    values: dict[str, Any] = {
        "seconds": len(speech) / SAMPLE_RATE,
        "seconds_original": len(reference) / SAMPLE_RATE,
        **_acoustic(speech, reference, samples),
    }
    if stoi:
        values["stoi"] = _stoi(speech[:samples], reference[:samples])
    if encode:
        originals, ours = (units.deduplicated().units for units in encode([reference, speech]))
        values |= {"unit_edits": edit_distance(originals, ours), "units": len(originals)}
    if text is not None:
        hear = asr or recognise
        said, heard, heard_original = words_of(text), hear(speech), hear(reference)
        values |= {
            "words": len(said),
            "word_edits": edit_distance(said, words_of(heard)),
            "word_edits_original": edit_distance(said, words_of(heard_original)),
            "heard": heard,
            "heard_original": heard_original,
        }
    return {name: value for name, value in values.items() if not (isinstance(value, float) and math.isnan(value))}


def _acoustic(speech: np.ndarray, reference: np.ndarray, samples: int) -> dict[str, float]:
    """Spectral and pitch distances; those of moments in time over the first `samples`.

    torch is imported here, so that tables of metrics do not need it.
    """
    import torch

    from textless.audio.f0 import f0_cents_error, track_f0, voicing_error
    from textless.metrics.mcd import mel_cepstral_distortion
    from textless.vocoder.losses import log_mel_l1

    cut = [speech[:samples], reference[:samples]]
    f0 = track_f0(cut, sample_rate=SAMPLE_RATE)
    return {
        "log_mel_l1": float(log_mel_l1(*(torch.from_numpy(w)[None] for w in cut), sample_rate=SAMPLE_RATE)),
        "mcd": mel_cepstral_distortion(speech, reference),
        "f0_cents": f0_cents_error(*f0),
        "voicing_error": voicing_error(*f0),
    }


def _stoi(speech: np.ndarray, reference: np.ndarray) -> float:
    check_stoi()
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)  # pystoi then returns 1e-5
        try:
            return float(stoi(reference, speech, SAMPLE_RATE))
        except RuntimeWarning:
            return math.nan


def compare_pairs(
    pairs: Sequence[Pair],
    *,
    stoi: bool = True,
    encode: Encode | None = None,
    text: Mapping[str, str] | None = None,
    asr: Recogniser | None = None,
) -> Iterator[dict[str, Any]]:
    """`compare` of each pair of files, with its `id`; {"id", "error"} of a pair that cannot be read or compared."""
    both = zip(pairs, read_rows(p.speech for p in pairs), read_rows(p.reference for p in pairs), strict=True)
    for pair, (_, speech), (_, reference) in both:
        if isinstance(speech, AudioError) or isinstance(reference, AudioError):
            yield {"id": pair.id, "error": str(speech if isinstance(speech, AudioError) else reference)}
            continue
        words = text[pair.id] if text is not None else None
        try:
            yield {"id": pair.id, **compare(speech, reference, stoi=stoi, encode=encode, text=words, asr=asr)}
        except AudioError as e:
            yield {"id": pair.id, "error": f"{pair.speech.place}: {e}"}


# ------------------------------------------------------------------------------------------------- over many sentences

Sentence = Mapping[str, Any]  # what `compare` returns, and `id`


def summarise(sentences: Sequence[Sentence], *, seed: int = 0) -> dict[str, float]:
    """Means over sentences, and rates over all of them together.

    Intervals are by the bootstrap over sentences; for word error rates see Bisani & Ney 2004, Bootstrap estimates for
    confidence intervals in ASR performance evaluation.

    Returns:
        Each measure, over the sentences that have it, and `_low` and `_high`, its 95 % interval where there are two or
        more. `files`, `seconds`: of the synthesised speech.

    Warns where synthesised speech and original differ in length. Raises CorpusError: no sentence.
    """
    if not sentences:
        raise CorpusError("there are no sentences to compare")
    sentences = sorted(sentences, key=lambda s: s["id"])  # so that the draws do not depend on the order of the input
    late = [s["id"] for s in sentences if abs(s["seconds"] - s["seconds_original"]) > LAG]
    if late:
        warnings.warn(
            f"{len(late)} of {len(sentences)} files are longer or shorter than their originals by more than {LAG} s, "
            f"such as {late[0]}; only mcd, uer and wer allow for that",
            stacklevel=2,
        )
    values = {"files": float(len(sentences)), "seconds": sum(s["seconds"] for s in sentences)}
    for measure in MEASURES:
        over, under = sums_of(sentences, measure)
        defined = under > 0
        if defined.any():
            values[measure] = float(over[defined].sum() / under[defined].sum())
        if defined.sum() > 1:
            values[f"{measure}_low"], values[f"{measure}_high"] = interval(over[defined], under[defined], seed=seed)
    return values


def sums_of(sentences: Sequence[Sentence], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of a measure, (N,) float64 each.

    For a mean, they are the value and 1; 0 and 0 where it is missing.
    """
    metric = MEASURES.get(measure)
    above, below = metric.ratio if metric and metric.ratio else (measure, None)
    over = np.array([s.get(above, 0) for s in sentences], np.float64)
    under = np.array([s.get(below, 0) if below else float(above in s) for s in sentences], np.float64)
    return over, under
