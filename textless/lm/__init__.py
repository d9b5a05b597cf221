"""Units to units: a language model over discrete units, its training, and its continuations."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "CausalUnitLM": "causal",
    "KneserNey": "ngram",
    "LMConfig": "model",
    "Sampling": "generate",
    "ULM": "ulm",
    "UnitLM": "model",
    "export_llama": "llama",
    "from_causal": "causal",
    "from_llama": "llama",
    "load_lm": "load",
    "pair_accuracy": "score",
    "train_lm": "train",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    # Lazy: importing torch takes longer than most commands run.
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
