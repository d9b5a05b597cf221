"""Units to speech: a unit vocoder, its training, its losses."""

from __future__ import annotations

import importlib
from typing import Any

# Imported on first use: torch takes more than a second, and `import textless` must not wait for it.
_WHERE = {
    "UnitVocoder": "model",
    "VocoderConfig": "model",
    "load_vocoder": "load",
    "Clip": "clips",
    "train_vocoder": "train",
}
__all__ = ["Clip", "UnitVocoder", "VocoderConfig", "load_vocoder", "train_vocoder"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
