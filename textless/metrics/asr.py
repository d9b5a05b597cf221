"""Automatic speech recognition, for word error rates and transcripts of continuations.

The default is PocketSphinx with the English model in its wheel, offline. Its word error rates are high and only compare
with each other: report that of the original audio with that of synthesised speech. `CTC` is any CTC recogniser of
`transformers`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textless.audio.io import SAMPLE_RATE, to_int16
from textless.audio.waveform import as_waveform
from textless.errors import CorpusError, ModelError, TextlessError, how_to_install
from textless.metrics.labels import read_labels
from textless.names import plain

if TYPE_CHECKING:
    from pocketsphinx import Decoder

Recogniser = Callable[[np.ndarray], str]  # a waveform (samples,) float32 at 16 kHz to its transcript
SHORTEST = 400  # samples of a frame of wav2vec 2.0; less has no words


def recognise(waveform: np.ndarray) -> str:
    """Transcript of a waveform (samples,) float32 in [-1, 1] at 16 kHz, "" where no word is recognised.

    PocketSphinx 5 with its defaults: acoustic model `en-us`, its trigram model, CMUdict; cepstral mean of the whole
    file (`cmn` batch), noise removal, three passes. A decoder carries noise estimates and Gaussians over to its next
    file, so each file gets a new one, at 0.3 s: the transcript depends on the file alone.

    Raises:
        TextlessError: pocketsphinx is not installed.
    """
    samples = to_int16(as_waveform(waveform)).tobytes()
    key = hashlib.sha256(samples).digest()
    if key not in _transcripts:
        _transcripts[key] = _decode(samples)
    return _transcripts[key]


_transcripts: dict[bytes, str] = {}  # by the hash of the samples: several systems of one run have the same originals


def _decode(samples: bytes) -> str:
    check_recogniser()
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=16000, cmn="batch", loglevel="FATAL")
    decode_utterance(decoder, samples)
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


def decode_utterance(decoder: Decoder, samples: bytes) -> None:
    """Run a decoder of PocketSphinx over a whole utterance, 16-bit samples."""
    decoder.start_utt()
    decoder.process_raw(samples, full_utt=True)
    decoder.end_utt()


class CTC:
    """A CTC recogniser of `transformers`, such as wav2vec 2.0, HuBERT or WavLM fine-tuned on text.

    Decoding is greedy: the likeliest label of each frame, repetitions joined and blanks removed by its own tokenizer;
    no language model, also where the folder has one. Files are read one by one, so that a transcript depends on the
    file alone: padding would change the statistics of a group norm.

    Args:
        place: a folder with the model, its tokenizer and its feature extractor; or `owner/name` on the hub.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        ModelError: the folder is missing or damaged, holds another kind of model, or one that does not hear 16 kHz.
    """

    def __init__(self, place: Path | str, device: str = "cpu") -> None:
        from transformers import AutoFeatureExtractor

        from textless.lm.hf.pretrained import find_folder, first_line, load_pretrained, load_tokenizer

        folder = find_folder(place, "a recogniser")
        self.model = load_pretrained(folder, "ctc").eval().to(device)
        self.tokenizer = load_tokenizer(folder)
        try:
            self.extractor = AutoFeatureExtractor.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as e:  # transformers raises its own types
            raise ModelError(f"{folder}: its feature extractor cannot be read ({first_line(e)})") from None
        if (rate := self.extractor.sampling_rate) != SAMPLE_RATE:
            raise ModelError(f"{folder}: hears {rate} Hz, where audio is at {SAMPLE_RATE}; give one for {SAMPLE_RATE}")
        if len(self.tokenizer) < self.model.config.vocab_size:
            raise ModelError(
                f"{folder}: has {self.model.config.vocab_size} labels and a tokenizer of {len(self.tokenizer)}; "
                "are they of one model?"
            )

    def __call__(self, waveform: np.ndarray) -> str:
        """Transcript of a waveform (samples,) float32 in [-1, 1] at 16 kHz; "" for less than 25 ms."""
        import torch

        waveform = as_waveform(waveform)
        if len(waveform) < SHORTEST:
            return ""
        inputs = self.extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.inference_mode():
            labels = self.model(**inputs.to(self.model.device)).logits[0].argmax(-1)
        return str(self.tokenizer.decode(labels.tolist())).strip()


def load_recogniser(place: Path | str | None, what: str = "word error rates need", device: str = "cpu") -> Recogniser:
    """The recogniser of a folder or name (see `CTC`), or of None: PocketSphinx.

    Raises:
        ModelError: see `CTC`. TextlessError: pocketsphinx is not installed; `what` needs it.
    """
    if place is not None:
        return CTC(place, device)
    check_recogniser(what)
    return recognise


def check_recogniser(what: str = "word error rates need") -> None:
    """Raises TextlessError when pocketsphinx is not installed."""
    if not find_spec("pocketsphinx"):
        raise TextlessError(f"{what} pocketsphinx, which is not installed; {how_to_install('eval')}")


def words_of(text: str) -> list[str]:
    """Words as word error rates compare them: lower case, runs of letters and digits, with apostrophes between them.

    Hyphens and any other punctuation separate words. Numbers are not spelled out.
    """
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))


def read_text(path: Path | str) -> dict[str, str]:
    """Read what is said: {id: words}.

    Args:
        path: lines of id, tab, words; or words with times, in any form of `read_labels`.

    Raises:
        CorpusError: a file is malformed; it names the line.
    """
    if (labels := read_labels(path, "words")) is not None:
        return {name: " ".join(word for _, _, word in words) for name, words in labels.items()}
    out: dict[str, str] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise CorpusError(f"{path}: cannot be read as text ({e})") from None
    for n, line in enumerate(lines, 1):
        name, _, text = line.partition("\t")
        if line.strip() and not words_of(text):
            raise CorpusError(f"{path}, line {n}: no words after a tab; a line is an id, a tab and what is said")
        if line.strip():
            out[plain(name)] = text
    return out
