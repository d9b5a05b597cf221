"""How speech that was made compares with the original, sentence by sentence; `textless.metrics.systems` says what that is over many.

| measure | | where speech is better it |
|---|---|---|
| `log_mel_l1` | mean absolute difference of 80-band log-mel magnitudes, nats (`losses.log_mel_l1`) | falls |
| `mcd` | mel-cepstral distortion after time warping, dB (`mcd.mel_cepstral_distortion`) | falls |
| `f0_cents` | mean absolute difference of F0 over frames of 20 ms voiced in both, cents (`f0.track_f0`) | falls |
| `voicing_error` | share of frames whose voicing differs | falls |
| `stoi` | short-time objective intelligibility (Taal et al. 2011), by pystoi | rises, to 1 |
| `uer` | unit error rate: edits between the deduplicated units of the original and of the made, over the number of the former | falls |
| `wer` | word error rate of the made against the text, by `recognise`; `wer_original` is that of the original | falls |

`log_mel_l1`, `f0_cents`, `voicing_error` and `stoi` compare moments in time, over the shorter of the two. STOI and not ESTOI: it is what
vocoders and codecs are reported by.
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
import torch

from textless.audio.corpus import Row, file_stem, read_rows
from textless.audio.f0 import f0_cents_error, track_f0, voicing_error
from textless.audio.io import SAMPLE_RATE
from textless.audio.waveform import as_waveforms
from textless.errors import AudioError, CorpusError, TextlessError
from textless.metrics.asr import recognise, words_of
from textless.metrics.edit_distance import levenshtein
from textless.metrics.mcd import mel_cepstral_distortion
from textless.types import Units
from textless.vocoder.losses import log_mel_l1

SHORTEST, LONGEST = 1600, 120 * SAMPLE_RATE  # samples of a sentence

Encode = Callable[[Sequence[np.ndarray]], Sequence[Units]]


@dataclass(frozen=True, slots=True)
class Pair:
    """A made file and its original, by whose id they are called."""

    made: Row
    real: Row

    @property
    def id(self) -> str:
        return self.real.id


def pair_rows(made: Iterable[Row], reference: Iterable[Row]) -> list[Pair]:
    """Each made file with the original of its name: the id, or what `resynth` calls its file.

    Raises:
        CorpusError: some have none, or several.
    """
    made, reference = list(made), list(reference)
    times = Counter(file_stem(row.id) for row in reference)
    originals = {name: row for row in reference if times[name := file_stem(row.id)] == 1}
    if lost := [row.id for row in made if file_stem(row.id) not in originals]:
        raise CorpusError(
            f"{len(lost)} of {len(made)} files have no original of their name, such as {', '.join(lost[:3])}; "
            f"those of the reference are called {', '.join(row.id for row in reference[:3])} …"
        )
    return [Pair(row, originals[file_stem(row.id)]) for row in made]


def check_text(pairs: Sequence[Pair], text: Mapping[str, str]) -> None:
    """Raises CorpusError where the words of some are missing."""
    if lost := [pair.id for pair in pairs if pair.id not in text]:
        raise CorpusError(
            f"the words of {len(lost)} of {len(pairs)} files are missing, such as {', '.join(lost[:3])}; are the ids the same?"
        )


def check_stoi() -> None:
    """Raises TextlessError when pystoi is not installed."""
    if not find_spec("pystoi"):
        raise TextlessError("STOI needs pystoi, which is not installed; pip install 'textless[eval]'")


def compare(
    made: np.ndarray, real: np.ndarray, *, stoi: bool = True, encode: Encode | None = None, text: str | None = None
) -> dict[str, Any]:
    """What is measured of one sentence.

    Args:
        made, real: (samples,) float32 at 16 kHz, from 0.1 seconds to two minutes.
        encode: waveforms to units, such as `Tokenizer.encode_batch`, for `uer`.
        text: what is said, for `wer`.

    Returns:
        `seconds` and `seconds_original`; the measures, or for rates what they are ratios of (see `bootstrap.RATES`); what was `heard` and
        `heard_original`. A measure is missing where it is not defined: `f0_cents` where no frame is voiced in both, `stoi` of less than
        0.4 seconds of speech.

    Raises:
        AudioError: too short or too long. TextlessError: pystoi or pocketsphinx are wanted and not installed.
    """
    made, real = as_waveforms([made, real])
    samples = min(len(made), len(real))
    if samples < SHORTEST or max(len(made), len(real)) > LONGEST:
        raise AudioError(
            f"{len(made) / SAMPLE_RATE:.1f} s made of {len(real) / SAMPLE_RATE:.1f} s; sentences of {SHORTEST / SAMPLE_RATE:g} to "
            f"{LONGEST / SAMPLE_RATE:.0f} s can be compared"
        )
    pair = [made[:samples], real[:samples]]
    mel = log_mel_l1(*(torch.from_numpy(w)[None] for w in pair), sample_rate=SAMPLE_RATE)
    f0 = track_f0(pair, sample_rate=SAMPLE_RATE)
    figures: dict[str, Any] = {
        "seconds": len(made) / SAMPLE_RATE,
        "seconds_original": len(real) / SAMPLE_RATE,
        "log_mel_l1": float(mel),
        "mcd": mel_cepstral_distortion(made, real),
        "f0_cents": f0_cents_error(*f0),
        "voicing_error": voicing_error(*f0),
    }
    if stoi:
        figures["stoi"] = _stoi(*pair)
    if encode:
        theirs, ours = (units.deduplicated().units for units in encode([real, made]))
        figures |= {"unit_edits": levenshtein(theirs, ours), "units": len(theirs)}
    if text is not None:
        said, heard, heard_original = words_of(text), recognise(made), recognise(real)
        figures |= {
            "words": len(said),
            "word_edits": levenshtein(said, words_of(heard)),
            "word_edits_original": levenshtein(said, words_of(heard_original)),
            "heard": heard,
            "heard_original": heard_original,
        }
    return {name: value for name, value in figures.items() if not (isinstance(value, float) and math.isnan(value))}


def _stoi(made: np.ndarray, real: np.ndarray) -> float:
    check_stoi()
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)  # instead of 1e-5 for a figure
        try:
            return float(stoi(real, made, SAMPLE_RATE))
        except RuntimeWarning:
            return math.nan


def compare_pairs(
    pairs: Sequence[Pair], *, stoi: bool = True, encode: Encode | None = None, text: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """`compare` of each pair of files, with its `id`; or, for what cannot be read or compared, {"id", "error"}."""
    both = zip(pairs, read_rows(p.made for p in pairs), read_rows(p.real for p in pairs), strict=True)
    for pair, (_, made), (_, real) in both:
        if isinstance(made, AudioError) or isinstance(real, AudioError):
            yield {"id": pair.id, "error": str(made if isinstance(made, AudioError) else real)}
            continue
        try:
            yield {
                "id": pair.id,
                **compare(made, real, stoi=stoi, encode=encode, text=text[pair.id] if text is not None else None),
            }
        except AudioError as e:
            yield {"id": pair.id, "error": f"{pair.made.path}: {e}"}
