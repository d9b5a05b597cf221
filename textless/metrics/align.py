"""Forced alignment of English by PocketSphinx, offline: phones for metrics of units where there are no manual labels.

It shows trends; it is no gold standard.
"""

from __future__ import annotations

import numpy as np

from textless.audio.io import to_int16
from textless.audio.waveform import as_waveform
from textless.errors import CorpusError
from textless.metrics.alignments import Alignment
from textless.metrics.asr import check_recogniser, decode_utterance, words_of

FRAME = 0.01  # seconds of PocketSphinx's frames


def align(waveform: np.ndarray, text: str) -> Alignment:
    """Align words with a waveform: CMUdict's pronunciations, acoustic model `en-us`, two passes (words, then phones).

    Args:
        waveform: (samples,) float32 in [-1, 1] at 16 kHz.
        text: the words; case and punctuation do not count.

    Returns:
        [(start, end, phone)], seconds, ARPAbet without stress, `SIL` for silence; one after the other without gaps.

    Raises:
        CorpusError: a word is not in the dictionary, or the words do not fit the audio.
        TextlessError: pocketsphinx is not installed.
    """
    check_recogniser("alignments need")
    from pocketsphinx import Decoder

    # The best path through the lattice of words may leave one too short for its phones, and then nothing is aligned.
    decoder = Decoder(samprate=16000, cmn="batch", lm=None, bestpath=False, loglevel="FATAL")
    words = words_of(text)
    if unknown := [word for word in words if decoder.lookup_word(word) is None]:
        raise CorpusError(f"cannot be aligned: {', '.join(sorted(set(unknown))[:3])} not in the dictionary")
    samples = to_int16(as_waveform(waveform)).tobytes()
    try:
        decoder.set_align_text(" ".join(words))
        decode_utterance(decoder, samples)
        decoder.set_alignment()  # of the phones, within the words of the first pass
        decode_utterance(decoder, samples)
        phones = [phone for word in decoder.get_alignment() for phone in word]
    except (RuntimeError, TypeError, ValueError):  # from its wrapper, after a search without a result
        raise CorpusError("cannot be aligned: the words do not fit the audio") from None
    return [(round(p.start * FRAME, 2), round((p.start + p.duration) * FRAME, 2), p.name) for p in phones]
