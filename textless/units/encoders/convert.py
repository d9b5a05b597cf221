"""HuBERT checkpoints of other projects, converted to one form.

Each layout (`layouts`) becomes the same configuration and the same parameters under the same names, so that one model
has one identity wherever its file comes from. Only what is below the requested layer is read.
"""

from __future__ import annotations

from pathlib import Path

from textless.errors import ModelError
from textless.units.encoders.checkpoint import Checkpoint
from textless.units.encoders.folder import some
from textless.units.encoders.layouts import LAYOUTS
from textless.units.encoders.layouts.source import open_source


def open_checkpoint(source: Path | str, heads: int | None = None) -> Checkpoint:
    """A HuBERT in a file or folder; its weights are read later.

    Args:
        source: a textless model folder; a transformers folder (`config.json` of type hubert, wav2vec2, unispeech or
            unispeech-sat, safetensors or `pytorch_model.bin`); a checkpoint of one of the projects in `layouts`, or a
            folder with one.
        heads: attention heads, for files that do not say them.

    Raises:
        ModelError: it is none of these, is damaged, holds another architecture, or has another number of heads.
    """
    opened = open_source(Path(source), heads)
    layout = next((layout for layout in LAYOUTS if layout.fits(opened)), None)
    if layout is None:
        known = ", ".join(layout.what for layout in LAYOUTS)
        there = some(sorted(opened.names)) or "no tensors"
        raise ModelError(f"{opened.path}: holds another model ({there}); encoders are read from {known}")
    checkpoint = layout.read(opened)
    if opened.heads not in (None, own := checkpoint.config.heads):
        raise ModelError(f"{opened.path}: has {own} attention heads, but {opened.heads} are declared")
    return checkpoint
