"""A linear classifier of frames as a quantizer: SpidR's and DinoSR's prediction heads."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from textless.checks import check
from textless.errors import ContractError, ModelError
from textless.model_io import CONFIG, finite, load_model, read_json, save_model, take, tensors_of
from textless.types import Quantizer, UnitContract

TAPS = {"spidr": "ffn", "dinosr": "block"}  # what the heads of a project are trained on


class Head(Quantizer):
    """The unit of a frame x is the largest of W x + b.

    Attributes:
        weight: W, (K, D) float32.
        bias: b, (K,) float32.
        contract: of the frames, with `n_units`, `codebook` and `transform` filled in.

    Raises ModelError when they do not fit, or are not finite.
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray, contract: UnitContract = UnitContract()) -> None:
        weight, bias = (np.ascontiguousarray(x, np.float32) for x in (weight, bias))
        if weight.ndim != 2 or not weight.size or bias.shape != weight.shape[:1]:
            raise ModelError(f"a head has weights (K, D) and biases (K,), not {weight.shape} and {bias.shape}")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ModelError("a head holds NaN or infinite values")
        self.weight, self.bias = weight, bias
        self.contract = contract.with_(
            n_units=len(weight),
            codebook=hashlib.sha256(weight.tobytes() + bias.tobytes()).hexdigest(),
            transform="none",
        )

    @property
    def dim(self) -> int:
        return self.weight.shape[1]

    @property
    def n_units(self) -> int:
        return len(self.weight)

    def predict(self, frames: np.ndarray) -> np.ndarray:
        """The first of equals. (T, D) float32 → (T,) int64. Raises ModelError as `Codebook.predict`."""
        frames = np.asarray(frames)
        if frames.ndim != 2 or frames.shape[1] != self.dim or frames.dtype.kind not in "fiu":
            what = f"frames of shape {frames.shape} and type {frames.dtype}"
            raise ModelError(f"{what} do not fit a head of {self.dim} dimensions; give (T, D) float32")
        scores = np.asarray(frames, np.float32) @ self.weight.T + self.bias
        if not np.isfinite(scores).all():
            frame = int(np.isfinite(scores).all(1).argmin())
            raise ModelError(f"frame {frame} holds NaN, infinite or huge values; make the frames again")
        return scores.argmax(1).astype(np.int64)

    def save(self, folder: Path | str) -> None:
        tensors = {"weight": self.weight, "bias": self.bias}
        save_model(folder, kind="head", config={"contract": self.contract.to_dict()}, tensors=tensors)

    @classmethod
    def load(cls, folder: Path | str) -> Head:
        """Raises ModelError when the folder holds no head, or a damaged one."""
        place = Path(folder) / CONFIG
        config, tensors = load_model(folder, kind="head")
        try:
            contract = UnitContract.from_dict(check(config.get("contract"), dict, f"{place}: contract"))
            head = cls(take(folder, tensors, "weight"), take(folder, tensors, "bias", 1), contract)
        except (ContractError, ModelError) as e:
            raise ModelError(str(e) if str(e).startswith(str(folder)) else f"{place}: {e}") from None
        if contract.n_units not in (None, head.n_units):
            raise ModelError(
                f"{place}: has {head.n_units} units where its contract says {contract.n_units}; copy the model again"
            )
        return head


def read_head(path: Path, layer: int | None = None, tap: str | None = None) -> Head | None:
    """A prediction head of a SpidR or DinoSR checkpoint; None where the file is of another kind.

    Each head predicts the codebook of one of the upper blocks. SpidR's takes the frames of its own block, before the
    residual (tap `ffn`); all of DinoSR's take the output of the last block (tap `block`) (facebookresearch/spidr,
    `get_codebooks`). The contract is that of these frames.

    Args:
        layer: the block whose codebook is predicted, 1-based; None is the last.
        tap: of the checkpoint's project; None: its `config.json` says it.

    Raises ModelError: no head for this block; a project that is unknown, or another than the tap says; a damaged file.
    """
    from textless.pickles import load_torch
    from textless.units.encoders.load import load_encoder

    with path.open("rb") as f:
        if path.suffix == ".npz" or f.read(4) != b"PK\3\4":
            return None
    content = load_torch(path)
    state = tensors_of(content["model"]) if isinstance(content, dict) and isinstance(content.get("model"), dict) else {}
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    heads, blocks = (_count(state, pattern) for pattern in (r"heads\.(\d+)\.0\.weight", r"student\.layers\.(\d+)\..*"))
    if not heads or not blocks:
        return None
    layer = blocks if layer is None else layer
    if not blocks - heads < layer <= blocks:
        raise ModelError(f"{path}: block {layer} has no head; the blocks {blocks - heads + 1} to {blocks} have one")
    project = _project(path)
    if project is None and tap is None:
        raise ModelError(
            f"{path}: does not say whether it is SpidR or DinoSR, whose heads take other frames; give its config.json, "
            "or the tap: ffn for SpidR, block for DinoSR"
        )
    if project is not None and tap not in (None, TAPS[project]):
        raise ModelError(f"{path}: the heads take the tap {TAPS[project]!r}, not {tap!r}; leave the tap out")
    tap = tap or TAPS[project or ""]
    read = finite(path, state.__getitem__)
    name = f"heads.{layer - (blocks - heads) - 1}.0"
    if f"{name}.bias" not in state:
        raise ModelError(f"{path}: has no {name}.bias; download or copy it again")
    contract = load_encoder(path, layer if tap == "ffn" else blocks, tap=tap).contract
    weight, bias = (read(f"{name}.{part}").float().numpy() for part in ("weight", "bias"))
    try:
        return Head(weight, bias, contract)
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from None


def _count(names: Any, pattern: str) -> int:
    """How many numbers the names that match have."""
    return len({match[1] for name in names if (match := re.fullmatch(pattern, name))})


def _project(path: Path) -> str | None:
    """`spidr` or `dinosr`, as the configuration next to a checkpoint says it; None where it does not."""
    place = path.with_name(CONFIG)
    settings = read_json(place) if place.is_file() else {}
    model = settings.get("model")
    if not isinstance(model, dict):
        return None
    if "ema_timescale" in model:  # SpidRConfig's own; it has all fields of DinoSRConfig too
        return "spidr"
    return "dinosr" if "ema_final_step" in model else None
