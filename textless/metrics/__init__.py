"""Everything that is measured: of units, of language models, of speech."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textless.lazy import attach

if TYPE_CHECKING:
    from textless.metrics.abx_error import abx as abx
    from textless.metrics.items import items_of as items_of
    from textless.metrics.items import read_items as read_items
    from textless.metrics.units import measure_units as measure_units
    from textless.metrics.units import read_alignments as read_alignments
    from textless.metrics.units import unit_quality as unit_quality

# Imported on first use, so that a package costs nothing that is not needed.
_WHERE = {
    "abx": "textless.metrics.abx_error",
    "read_items": "textless.metrics.items",
    "items_of": "textless.metrics.items",
    "read_alignments": "textless.metrics.units",
    "unit_quality": "textless.metrics.units",
    "measure_units": "textless.metrics.units",
}
__all__ = sorted(_WHERE)
__getattr__, __dir__ = attach(__name__, _WHERE)
