"""Units to speech: a unit vocoder, its training, its losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textless.lazy import attach

if TYPE_CHECKING:
    from textless.vocoder.data import Clip as Clip
    from textless.vocoder.load import load_vocoder as load_vocoder
    from textless.vocoder.model import UnitVocoder as UnitVocoder
    from textless.vocoder.model import VocoderConfig as VocoderConfig
    from textless.vocoder.train import train_vocoder as train_vocoder

if __name__ != "textless.vocoder":
    raise ImportError("import textless.vocoder: the folder vocoder at the root of the repository is a link for readers")

# Imported on first use: torch takes more than a second, and `import textless` must not wait for it.
_WHERE = {
    "UnitVocoder": "textless.vocoder.model",
    "VocoderConfig": "textless.vocoder.model",
    "load_vocoder": "textless.vocoder.load",
    "Clip": "textless.vocoder.data",
    "train_vocoder": "textless.vocoder.train",
}
__all__ = sorted(_WHERE)
__getattr__, __dir__ = attach(__name__, _WHERE)
