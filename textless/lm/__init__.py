"""Units to units: a language model over discrete units, its training, and its continuations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textless.lazy import attach

if TYPE_CHECKING:
    from textless.lm.generate import Sampling as Sampling
    from textless.lm.gslm.ulm import ULM as ULM
    from textless.lm.hf.causal import CausalUnitLM as CausalUnitLM
    from textless.lm.hf.causal import from_causal as from_causal
    from textless.lm.hf.foreign import ForeignLM as ForeignLM
    from textless.lm.hf.llama import export_llama as export_llama
    from textless.lm.hf.llama import from_llama as from_llama
    from textless.lm.load import load_lm as load_lm
    from textless.lm.model import LMConfig as LMConfig
    from textless.lm.model import UnitLM as UnitLM
    from textless.lm.ngram import KneserNey as KneserNey
    from textless.lm.train import train_lm as train_lm
    from textless.metrics.lm import pair_accuracy as pair_accuracy

_WHERE = {
    "CausalUnitLM": "textless.lm.hf.causal",
    "ForeignLM": "textless.lm.hf.foreign",
    "KneserNey": "textless.lm.ngram",
    "LMConfig": "textless.lm.model",
    "Sampling": "textless.lm.generate",
    "ULM": "textless.lm.gslm.ulm",
    "UnitLM": "textless.lm.model",
    "export_llama": "textless.lm.hf.llama",
    "from_causal": "textless.lm.hf.causal",
    "from_llama": "textless.lm.hf.llama",
    "load_lm": "textless.lm.load",
    "pair_accuracy": "textless.metrics.lm",
    "train_lm": "textless.lm.train",
}

__all__ = sorted(_WHERE)
__getattr__, __dir__ = attach(__name__, _WHERE)
