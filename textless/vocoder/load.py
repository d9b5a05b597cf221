"""A vocoder from what stands on disk: a folder of ours, or a published unit HiFi-GAN."""

from __future__ import annotations

from pathlib import Path

import torch

from textless import model_io as weights
from textless.checks import check, read_fields
from textless.errors import ContractError, ModelError
from textless.types import UnitContract
from textless.vocoder.hifigan.model import UnitHifiGan, load_hifigan
from textless.vocoder.model import UnitVocoder, VocoderConfig


def load_vocoder(
    path: Path | str, config: Path | str | None = None, *, precision: str = "fp32"
) -> UnitVocoder | UnitHifiGan:
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
    place = Path(path) / weights.CONFIG
    try:
        contract = UnitContract.from_dict(check(entries.pop("contract", {}), dict, f"{place}: contract"))
        config = read_fields(VocoderConfig, entries, str(place))
    except ContractError as e:
        raise ModelError(f"{place}: {e}") from None
    weights.check_blocks(path, "layers", config.layers, tensors, "trunk.blocks.")
    if config.f0:
        weights.check_blocks(path, "pitch_layers", config.pitch_layers, tensors, "pitch.trunk.blocks.")
    try:
        with torch.device("meta"):  # of any size at once
            empty = UnitVocoder(config, contract)
    except ModelError as e:
        raise ModelError(f"{place}: {e}") from None
    weights.check_shapes(path, empty.state_dict(), {name: t.shape for name, t in tensors.items()})
    model = UnitVocoder(config, contract)
    model.load_state_dict(weights.to_torch(tensors))
    return model.eval() if precision == "fp32" else model.eval().lower()
