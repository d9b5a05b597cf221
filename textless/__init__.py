"""Speech to discrete units, units continued by a language model, and units to speech again.

import textless
m = textless.load("tiny-en")
units = m.encode(waveform)
more = m.continue_units(units, seconds=3)
speech = m.resynth(more)
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from textless import moved
from textless.lazy import attach

if TYPE_CHECKING:
    from textless import metrics as metrics
    from textless.audio.corpus import Corpus as Corpus
    from textless.audio.io import read_audio as read_audio
    from textless.audio.io import stream_audio as stream_audio
    from textless.audio.io import write_audio as write_audio
    from textless.errors import TextlessError as TextlessError
    from textless.exchange.formats import read_units as read_units
    from textless.exchange.formats import write_units as write_units
    from textless.lm import load_lm as load_lm
    from textless.model import Model as Model
    from textless.model import load as load
    from textless.types import UnitContract as UnitContract
    from textless.types import Units as Units
    from textless.units.dump import open_dump as open_dump
    from textless.units.encoders.load import load_encoder as load_encoder
    from textless.units.quantizers import load_codebook as load_codebook
    from textless.vocoder import load_vocoder as load_vocoder

__version__ = "0.1.0"

# Imported on first use: `import textless` costs nothing that is not needed.
_PUBLIC = {
    "load": "textless.model",
    "Model": "textless.model",
    "load_encoder": "textless.units.encoders.load",
    "load_codebook": "textless.units.quantizers",
    "load_lm": "textless.lm",
    "load_vocoder": "textless.vocoder",
    "open_dump": "textless.units.dump",
    "read_audio": "textless.audio.io",
    "stream_audio": "textless.audio.io",
    "write_audio": "textless.audio.io",
    "Corpus": "textless.audio.corpus",
    "Units": "textless.types",
    "UnitContract": "textless.types",
    "TextlessError": "textless.errors",
    "metrics": "textless.metrics",
    "read_units": "textless.exchange.formats",
    "write_units": "textless.exchange.formats",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = attach(__name__, _PUBLIC)


def _one_thread() -> None:
    """OpenMP's threads are not there after a fork, and a computation on several would never end."""
    for name, function in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        if (limit := getattr(sys.modules.get(name), function, None)) is not None:
            limit(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread)

moved.install()
