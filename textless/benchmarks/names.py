"""Names of benchmarks, and what of a model each measures; planning reads them without imports."""

from __future__ import annotations

NEEDS = {
    "swuggy": "lm",  # a language model on units
    "sblimp": "lm",
    "tstorycloze": "lm",
    "sstorycloze": "lm",
    "salmon": "lm",
    "prosaudit": "lm",
    "ssimi": "frames",  # of an encoder
    "abx": "frames",  # or units, each as long as a frame
}
