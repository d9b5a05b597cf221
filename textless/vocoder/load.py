"""A vocoder from what stands on disk: a folder of ours, or a published unit HiFi-GAN."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from textless import weights
from textless.errors import ModelError
from textless.units.types import UnitContract
from textless.vocoder.hifigan import UnitHifiGan, load_hifigan
from textless.vocoder.model import UnitVocoder, VocoderConfig


def load_vocoder(path: Path | str, config: Path | str | None = None, *, precision: str = "fp32") -> UnitVocoder | UnitHifiGan:
    """Read a vocoder, ready for `resynth`.

    Args:
        path: a folder that `UnitVocoder.save` wrote, or the `.pt` of a unit HiFi-GAN (speech-resynthesis, fairseq, textlesslib).
        config: of the latter; None is `config.json` beside it, else its own name with `.json`.
        precision: `fp32`, or `bf16` for matrix products: faster where the processor has matrix units for it, with a little noise.

    Raises:
        ModelError: it is missing, damaged, or something else.
    """
    if precision not in ("fp32", "bf16"):
        raise ModelError(f"precision is {precision!r}; known: fp32, bf16")
    if config is not None or Path(path).is_file():
        return load_hifigan(path, config, precision=precision)
    entries, tensors = weights.load_model(path, kind="vocoder")
    contract = UnitContract.from_dict(entries.pop("contract", {}))
    if unknown := sorted(set(entries) - {f.name for f in fields(VocoderConfig)}):
        raise ModelError(f"{path}: unknown fields {', '.join(unknown)}; was it written by a newer textless?")
    try:
        model = UnitVocoder(VocoderConfig(**{**entries, "speakers": tuple(entries["speakers"])}), contract)
        model.load_state_dict(weights.to_torch(tensors))
    except (KeyError, TypeError, RuntimeError) as e:
        raise ModelError(f"{path}: configuration and weights do not fit together ({' '.join(str(e).split())[:200]})") from None
    return model.eval() if precision == "fp32" else model.eval().lower()
