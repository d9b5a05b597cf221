"""Audio: files, corpora, spectra, pitch, downloads and data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textless.lazy import attach

if TYPE_CHECKING:
    from textless.audio.corpus import Corpus as Corpus
    from textless.audio.f0 import track_f0 as track_f0
    from textless.audio.io import AUDIO as AUDIO
    from textless.audio.io import SAMPLE_RATE as SAMPLE_RATE
    from textless.audio.io import read_audio as read_audio
    from textless.audio.io import stream_audio as stream_audio
    from textless.audio.io import to_int16 as to_int16
    from textless.audio.io import write_audio as write_audio

# Imported on first use, so that a package costs nothing that is not needed.
_WHERE = {
    "AUDIO": "textless.audio.io",
    "SAMPLE_RATE": "textless.audio.io",
    "read_audio": "textless.audio.io",
    "stream_audio": "textless.audio.io",
    "write_audio": "textless.audio.io",
    "to_int16": "textless.audio.io",
    "Corpus": "textless.audio.corpus",
    "track_f0": "textless.audio.f0",
}
__all__ = sorted(_WHERE)
__getattr__, __dir__ = attach(__name__, _WHERE, rest="textless.audio.io")
