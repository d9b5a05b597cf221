"""Language models from files, of whatever kind."""

from __future__ import annotations

from pathlib import Path

from textless.errors import ModelError
from textless.lm.decoder import UnitDecoder
from textless.lm.model import LMConfig, UnitLM
from textless.units.types import UnitContract
from textless.weights import load_model, to_torch


def load_lm(
    path: Path | str,
    dictionary: Path | str | None = None,
    *,
    contract: UnitContract = UnitContract(),
    precision: str = "fp32",
) -> UnitDecoder:
    """A language model, on the CPU, in evaluation mode.

    Args:
        path: a folder written by `UnitLM.save`; one of `CausalUnitLM.save`, which began as a text model; or GSLM's, a checkpoint of
            fairseq's (`.pt`).
        dictionary: of fairseq's model; without it the `dict.txt` beside the checkpoint.
        contract: of the units of fairseq's model, which its files do not say.
        precision: of continuations: `fp32`, or `int8` (see `UnitLM`; one that began as a text model stays in float32).

    Raises:
        ModelError: it is missing, damaged, or holds something else.
    """
    path = Path(path)
    if dictionary is not None or path.is_file():
        from textless.lm.ulm import load_ulm

        return load_ulm(path, Path(dictionary or path.parent / "dict.txt"), contract, precision=precision)
    if (path / "textless.json").is_file():
        from textless.lm.causal import load_causal

        return load_causal(path)
    config, tensors = load_model(path, kind="lm")
    try:
        kept = UnitContract.from_dict(config.pop("contract"))
        model = UnitLM(LMConfig(**config), kept, precision=precision)
        model.load_state_dict(to_torch(tensors))
    except (KeyError, TypeError, RuntimeError) as e:
        raise ModelError(f"{path}: not a language model of this version ({e})") from None
    return model.eval()
