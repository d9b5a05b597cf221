"""Published unit HiFi-GANs (speech-resynthesis, fairseq, textlesslib)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textless.lazy import attach

if TYPE_CHECKING:
    from textless.vocoder.hifigan.generator import Generator as Generator
    from textless.vocoder.hifigan.model import UnitHifiGan as UnitHifiGan
    from textless.vocoder.hifigan.model import load_hifigan as load_hifigan

# Imported on first use, so that a package costs nothing that is not needed.
_WHERE = {
    "UnitHifiGan": "textless.vocoder.hifigan.model",
    "load_hifigan": "textless.vocoder.hifigan.model",
    "Generator": "textless.vocoder.hifigan.generator",
}
__all__ = sorted(_WHERE)
__getattr__, __dir__ = attach(__name__, _WHERE, rest="textless.vocoder.hifigan.model")
