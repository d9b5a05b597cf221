"""A quantizer without a codebook, as an example: what a new one needs besides a line in
`textless.units.quantizers.KINDS`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from textless.errors import ContractError, ModelError
from textless.model_io import load_model, save_model, take
from textless.types import Quantizer, UnitContract


class SignQuantizer(Quantizer):
    """Lookup-free quantization (Yu et al. 2024): each unit is the signs of a projection, read as a binary number.

    Args:
        projection: (D, bits) float32; K is 2 ** bits.
        contract: of the frames.
    """

    def __init__(self, projection: np.ndarray, contract: UnitContract = UnitContract()) -> None:
        self.projection = np.ascontiguousarray(projection, np.float32)
        digest = hashlib.sha256(b"sign" + self.projection.tobytes()).hexdigest()
        self.contract = contract.with_(transform="none", n_units=self.n_units, codebook=digest)

    @property
    def dim(self) -> int:
        return self.projection.shape[0]

    @property
    def n_units(self) -> int:
        return 1 << self.projection.shape[1]

    def predict(self, frames: np.ndarray) -> np.ndarray:
        frames = np.asarray(frames)
        if frames.ndim != 2 or frames.shape[1] != self.dim or not np.isfinite(frames).all():
            raise ModelError(f"frames of shape {frames.shape} are not (T, {self.dim}) and finite")
        return (frames @ self.projection > 0) @ (1 << np.arange(self.projection.shape[1]))

    def save(self, folder: Path | str) -> None:
        tensors = {"projection": self.projection}
        save_model(folder, kind="sign", config={"contract": self.contract.to_dict()}, tensors=tensors)

    @classmethod
    def load(cls, folder: Path | str) -> SignQuantizer:
        config, tensors = load_model(folder, kind="sign")
        try:
            return cls(take(folder, tensors, "projection"), UnitContract.from_dict(config.get("contract")))
        except ContractError as e:
            raise ModelError(f"{folder}: {e}") from None
