"""What a project's way to keep an encoder is to the table of layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from textless.units.encoders.checkpoint import Checkpoint
from textless.units.encoders.layouts.source import Source


class Layout(NamedTuple):
    """How to recognise an encoder of a project, and how to read it.

    Attributes:
        what: in words, for messages.
        fits: whether a source is of this layout, by its settings and names.
        read: raises ModelError when it is damaged, or of an architecture that `Hubert` cannot be.
    """

    what: str
    fits: Callable[[Source], bool]
    read: Callable[[Source], Checkpoint]
