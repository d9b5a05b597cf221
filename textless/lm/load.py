"""Language models from files, of every kind that the package knows."""

from __future__ import annotations

from pathlib import Path

import torch

from textless.checks import check, read_fields
from textless.errors import ContractError, ModelError
from textless.lm.decoder import Decoder
from textless.lm.fast_decode import check_precision
from textless.lm.gslm.ulm import load_ulm
from textless.lm.hf.causal import OURS, load_causal
from textless.lm.hf.foreign import load_foreign, says_units
from textless.lm.model import LMConfig, UnitLM
from textless.model_io import CONFIG, check_blocks, check_shapes, load_model, read_json, to_torch
from textless.types import UnitContract
from textless.units.merges import MergeTable
from textless.zoo import contract_of, resolve


def load_lm(
    path: Path | str,
    dictionary: Path | str | None = None,
    *,
    contract: UnitContract = UnitContract(),
    precision: str = "fp32",
) -> Decoder:
    """A language model, on the CPU, in evaluation mode.

    Args:
        path: one of four kinds, or a published name (`textless.zoo`) or `OWNER/NAME` on the Hugging Face hub, which
            is fetched:
            a folder of `UnitLM.save`, with a `config.json`;
            a folder of `CausalUnitLM.save`, which started from a text model, with a `textless.json`;
            a folder of another tool's: SlamKit's, TWIST's, or any of transformers' with a `textless.json` that says
            which tokens are units (see `textless.lm.hf.foreign`);
            a file: GSLM's, a fairseq checkpoint (`.pt`).
        dictionary: of the fairseq checkpoint; without it the `dict.txt` in its folder.
        contract: of the units of another tool's model, as far as its files do not state it.
        precision: of continuations: `fp32`, or `int8` (see `UnitLM`; a model that started from a text model stays in
            float32).

    Raises:
        ModelError: it is missing, damaged, or holds something else; it cannot be fetched; the precision is unknown.
        ContractError: the contract is not that of the files.
    """
    precision, known = check_precision(precision), contract_of(path)
    path, contract = resolve(path, "lm"), contract.joined(known, mine="the units", theirs=str(path))
    lm = _load(path, dictionary, contract, precision)
    lm.contract = lm.contract.joined(known, mine=str(path), theirs="its entry in the table")
    lm.merges = MergeTable.of(path, lm.contract)
    return lm


def _load(path: Path, dictionary: Path | str | None, contract: UnitContract, precision: str) -> Decoder:
    if dictionary is not None or path.is_file():
        return load_ulm(path, dictionary or path.parent / "dict.txt", contract, precision=precision)
    if (path / OURS).is_file() and not says_units(path):
        return load_causal(path)
    if "kind" not in read_json(path / CONFIG):
        return load_foreign(path, contract, precision=precision)
    return load_unit_lm(path, precision=precision)


def load_unit_lm(path: Path, *, precision: str) -> UnitLM:
    """The model of a folder that `UnitLM.save` wrote, on the CPU, in evaluation mode. Raises ModelError."""
    entries, tensors = load_model(path, kind="lm")
    try:
        if "contract" not in entries:
            raise ModelError(f"{path / CONFIG}: has no contract, which says what its units are; copy the model again")
        contract = UnitContract.from_dict(check(entries.pop("contract"), dict, f"{path / CONFIG}: contract"))
        config = read_fields(LMConfig, entries, str(path / CONFIG))
        check_blocks(path, "layers", config.layers, tensors, "blocks.")
        with torch.device("meta"):  # without allocating: the sizes are not yet checked
            check_shapes(path, UnitLM(config, contract).state_dict(), {name: t.shape for name, t in tensors.items()})
        model = UnitLM(config, contract, precision=precision)
    except ContractError as e:
        raise ModelError(f"{path / CONFIG}: {e}") from None
    model.load_state_dict(to_torch(tensors))
    return model.eval()
