"""Other tools' files: unit files, corpora and alignments, read and written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textless.lazy import attach

if TYPE_CHECKING:
    from textless.exchange.formats import FORMATS as FORMATS
    from textless.exchange.formats import read_units as read_units
    from textless.exchange.formats import write_units as write_units

_WHERE = {
    "FORMATS": "textless.exchange.formats",
    "read_units": "textless.exchange.formats",
    "write_units": "textless.exchange.formats",
}
__all__ = sorted(_WHERE)
__getattr__, __dir__ = attach(__name__, _WHERE)
