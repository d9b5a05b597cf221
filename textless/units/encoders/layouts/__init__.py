"""The table of layouts: one file for each project whose encoders are read, one line here."""

from __future__ import annotations

from textless.units.encoders.layouts.fairseq import FAIRSEQ, FAIRSEQ_BARE
from textless.units.encoders.layouts.layout import Layout
from textless.units.encoders.layouts.minimal_hubert import MINIMAL_HUBERT
from textless.units.encoders.layouts.ours import OURS
from textless.units.encoders.layouts.soft import SOFT
from textless.units.encoders.layouts.spidr import SPIDR
from textless.units.encoders.layouts.torchaudio import TORCHAUDIO
from textless.units.encoders.layouts.transformers import TRANSFORMERS

# The first that fits reads the source: those that settings show come before those that names show.
LAYOUTS: tuple[Layout, ...] = (
    OURS,
    TRANSFORMERS,
    FAIRSEQ,
    MINIMAL_HUBERT,
    SPIDR,
    SOFT,
    TORCHAUDIO,
    FAIRSEQ_BARE,
)
