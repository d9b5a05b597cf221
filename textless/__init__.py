"""Speech to discrete units, units continued by a language model, and units to speech again.

import textless
m = textless.load("tiny-en")
units = m.encode(waveform)
more = m.continue_units(units, seconds=3)
speech = m.resynth(more)
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"

# Imported on first use: `import textless` costs nothing that is not needed.
_PUBLIC = {
    "load": "textless.model",
    "Model": "textless.model",
    "load_encoder": "textless.units.encode",
    "load_codebook": "textless.units.kmeans",
    "load_lm": "textless.lm",
    "load_vocoder": "textless.vocoder",
    "open_dump": "textless.units.dump",
    "read_audio": "textless.audio",
    "stream_audio": "textless.audio",
    "write_audio": "textless.audio",
    "Corpus": "textless.corpus",
    "Units": "textless.units.types",
    "UnitContract": "textless.units.types",
    "TextlessError": "textless.errors",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'textless' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__


def _one_thread() -> None:
    """OpenMP's threads are not there after a fork, and computing on several would wait for them for ever."""
    for name, function in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        if (limit := getattr(sys.modules.get(name), function, None)) is not None:
            limit(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread)
