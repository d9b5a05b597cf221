"""Speech → units: encoders, quantizers, pre-training, dumps, and their metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textless.lazy import attach

if TYPE_CHECKING:
    from textless.metrics.alignments import read_alignments as read_alignments
    from textless.metrics.items import items_of as items_of
    from textless.metrics.items import read_items as read_items
    from textless.metrics.pnmi import unit_quality as unit_quality
    from textless.metrics.tokenizer import measure_audio as measure_audio
    from textless.metrics.tokenizer import measure_tokenizer as measure_tokenizer
    from textless.metrics.units import measure_units as measure_units
    from textless.types import UnitContract as UnitContract
    from textless.types import Units as Units
    from textless.units.dump import Dump as Dump
    from textless.units.dump import UnitRow as UnitRow
    from textless.units.dump import open_dump as open_dump
    from textless.units.encoders.hubert import Hubert as Hubert
    from textless.units.encoders.hubert import HubertConfig as HubertConfig
    from textless.units.encoders.load import load_encoder as load_encoder
    from textless.units.hub import push_dump as push_dump
    from textless.units.kmeans import Codebook as Codebook
    from textless.units.kmeans import KMeans as KMeans
    from textless.units.kmeans import fit_codebook as fit_codebook
    from textless.units.mfcc_lda.ladder import fit_ladder as fit_ladder
    from textless.units.mfcc_lda.lda import fit_lda as fit_lda
    from textless.units.quantizers import load_codebook as load_codebook
    from textless.units.tokenizer import Tokenizer as Tokenizer

if __name__ != "textless.units":
    raise ImportError("import textless.units: the folder units at the root of the repository is a link for readers")

# Imported on first use, so that `import textless.units` does not import torch.
_WHERE = {
    "UnitContract": "textless.types",
    "Units": "textless.types",
    "load_encoder": "textless.units.encoders.load",
    "Tokenizer": "textless.units.tokenizer",
    "Codebook": "textless.units.kmeans",
    "KMeans": "textless.units.kmeans",
    "fit_codebook": "textless.units.kmeans",
    "load_codebook": "textless.units.quantizers",
    "fit_ladder": "textless.units.mfcc_lda.ladder",
    "fit_lda": "textless.units.mfcc_lda.lda",
    "Hubert": "textless.units.encoders.hubert",
    "HubertConfig": "textless.units.encoders.hubert",
    "Dump": "textless.units.dump",
    "UnitRow": "textless.units.dump",
    "open_dump": "textless.units.dump",
    "push_dump": "textless.units.hub",
    "items_of": "textless.metrics.items",
    "read_items": "textless.metrics.items",
    "read_alignments": "textless.metrics.alignments",
    "unit_quality": "textless.metrics.pnmi",
    "measure_units": "textless.metrics.units",
    "measure_tokenizer": "textless.metrics.tokenizer",
    "measure_audio": "textless.metrics.tokenizer",  # the name of `measure_tokenizer` before 0.2
}
__all__ = sorted(_WHERE)
__getattr__, __dir__ = attach(__name__, _WHERE)
