"""Configuration and weights of a published unit HiFi-GAN: entries and tensors, each checked when it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from textless.checks import Between, check
from textless.errors import ModelError
from textless.model_io import check_finite

WEIGHT_NORM = {"weight_g": "weight_v", "parametrizations.weight.original0": "parametrizations.weight.original1"}


class Settings:
    """A configuration whose entries are checked. Raises ModelError that names file and entry."""

    def __init__(self, place: Path, entries: dict[str, Any]) -> None:
        self.place, self.entries = place, entries
        self.get = entries.get

    def error(self, what: str) -> ModelError:
        return ModelError(f"{self.place}: {what}")

    def __getitem__(self, key: str) -> Any:
        if key not in self.entries:
            raise self.error(f"has no {key}; give the configuration that was published with the checkpoint")
        return self.entries[key]

    def whole(self, key: str, default: int | None = None) -> int:
        value = self[key] if default is None else self.get(key, default)
        if type(value) is not int or not 1 <= value <= 1_000_000:
            raise self.error(f"{key} is {_brief(value)} where a whole number from 1 to 1000000 is wanted")
        return value

    def wholes(self, key: str, value: Any = None) -> list[int]:
        value = self[key] if value is None else value
        short = isinstance(value, list) and 1 <= len(value) <= 64
        if not short or any(type(v) is not int or not 1 <= v <= 1000 for v in value):
            raise self.error(
                f"{key} is {_brief(value)} where a list of whole numbers from 1 to 1000, 64 at most, is wanted"
            )
        return value

    def rate(self, key: str, default: int) -> int:
        """Hz."""
        return check(self.get(key, default), Annotated[int, Between(1000, 768_000)], f"{self.place}: {key}")

    def inner(self, key: str) -> Settings:
        if not isinstance(self[key], dict):
            raise self.error(f"{key} is {_brief(self[key])} where an object is wanted")
        return Settings(self.place, self[key])


def _brief(value: Any) -> str:
    return repr(str(value)[:40])


class Weights:
    """Tensors of a checkpoint, weight norm folded, to be taken one by one in float32.

    Raises ModelError for a tensor that is missing, of another shape, or not finite.
    """

    def __init__(self, place: Path, settings: Settings, state: dict[Any, Any]) -> None:
        self.place, self.config, self.left = (
            place,
            settings.place,
            {str(name): tensor for name, tensor in state.items()},
        )
        for name, tensor in self.left.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise ModelError(
                    f"{place}: {name} is not a tensor of floating point; the file is damaged, or not of a unit HiFi-GAN"
                )
        for gain, direction in WEIGHT_NORM.items():
            for module in [name.removesuffix(f".{gain}") for name in self.left if name.endswith(f".{gain}")]:
                g, v = self.left.pop(f"{module}.{gain}"), self.left.pop(f"{module}.{direction}", torch.empty(0))
                for part, tensor in ((gain, g), (direction, v)):
                    check_finite(place, f"{module}.{part}", tensor)
                g, v = g.float(), v.float()
                if v.ndim != 3 or g.shape != (len(v), 1, 1):
                    raise ModelError(
                        f"{place}: {module}.{direction} is missing or does not fit {gain}; the file is damaged"
                    )
                self.left[f"{module}.weight"] = v * (g / v.norm(dim=(1, 2), keepdim=True))

    def take(self, name: str, *shape: int | None) -> Tensor:
        """A tensor of this shape, None for any size, in memory of its own."""
        if name not in self.left:
            raise ModelError(f"{self.place}: has no {name}, for which {self.config} asks; are they of one model?")
        tensor = self.left.pop(name)
        if tensor.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, tensor.shape, strict=True)):
            expected = str(shape).replace("None", "any")
            raise ModelError(
                f"{self.place}: {name} is {tuple(tensor.shape)} where {self.config} asks for {expected}; "
                "are they of one model?"
            )
        check_finite(self.place, name, tensor)
        return tensor.float().clone()

    def pair(self, name: str, *shape: int, axis: int = 0) -> tuple[Tensor, Tensor]:
        """The weight of this shape and the bias, whose size is that of an axis."""
        return self.take(f"{name}.weight", *shape), self.take(f"{name}.bias", shape[axis])

    def fill(self, name: str, module: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
        """module(…) with the parameters under `name`."""
        with torch.device("meta"):  # parameters that are replaced are neither allocated nor drawn
            filled = module(*args, **options)
        filled.load_state_dict(
            {key: self.take(f"{name}.{key}", *empty.shape) for key, empty in filled.state_dict().items()}, assign=True
        )
        return filled

    def table(self, name: str, rows: int | None, dim: int) -> nn.Embedding:
        return nn.Embedding.from_pretrained(self.take(f"{name}.weight", rows, dim))

    def close(self) -> None:
        """Raise ModelError for a tensor that was not taken."""
        if self.left:
            raise ModelError(
                f"{self.place}: has {min(self.left)}, for which {self.config} does not ask; are they of one model?"
            )
