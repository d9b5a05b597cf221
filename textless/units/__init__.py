"""Speech → units: encoders, k-means, pre-training, dumps and what measures them."""

from __future__ import annotations

import importlib
from typing import Any

# Found when first asked for, so that `import textless.units` does not import torch.
_WHERE = {
    "UnitContract": "types",
    "Units": "types",
    "load_encoder": "encode",
    "Tokenizer": "encode",
    "Codebook": "kmeans",
    "KMeans": "kmeans",
    "fit_codebook": "kmeans",
    "load_codebook": "kmeans",
    "fit_ladder": "ladder",
    "fit_lda": "lda",
    "Hubert": "hubert",
    "HubertConfig": "hubert",
    "Dump": "dump",
    "UnitRow": "dump",
    "open_dump": "dump",
    "items_of": "items",
    "read_items": "items",
    "read_alignments": "quality",
    "unit_quality": "quality",
    "measure_units": "quality",
    "measure_audio": "measure",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
