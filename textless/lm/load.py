"""Language models from files, of whatever kind."""

from __future__ import annotations

from pathlib import Path

import torch

from textless.checks import check, read_fields
from textless.errors import ContractError, ModelError
from textless.lm.decoder import UnitDecoder
from textless.lm.fast_decode import check_precision
from textless.lm.model import LMConfig, UnitLM
from textless.model_io import CONFIG, check_blocks, check_shapes, load_model, to_torch
from textless.types import UnitContract


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
        from textless.lm.gslm.ulm import load_ulm

        return load_ulm(path, Path(dictionary or path.parent / "dict.txt"), contract, precision=precision)
    if (path / "textless.json").is_file():
        from textless.lm.hf.causal import load_causal

        return load_causal(path)
    check_precision(precision)
    entries, tensors = load_model(path, kind="lm")
    try:
        if "contract" not in entries:
            raise ModelError(f"{path / CONFIG}: has no contract, which says what its units are; copy the model again")
        kept = UnitContract.from_dict(check(entries.pop("contract"), dict, f"{path / CONFIG}: contract"))
        config = read_fields(LMConfig, entries, str(path / CONFIG))
        check_blocks(path, "layers", config.layers, tensors, "blocks.")
        with torch.device("meta"):  # of any size at once
            check_shapes(path, UnitLM(config, kept).state_dict(), {name: t.shape for name, t in tensors.items()})
        model = UnitLM(config, kept, precision=precision)
    except ContractError as e:
        raise ModelError(f"{path / CONFIG}: {e}") from None
    model.load_state_dict(to_torch(tensors))
    return model.eval()
