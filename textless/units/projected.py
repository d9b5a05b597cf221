"""An encoder on top of another: each frame with its neighbours, through a linear projection that clusters or variance gave (`lda`)."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from textless.checks import Between, Count, check
from textless.errors import ModelError
from textless.units.encoder import Blocks, Encoder
from textless.units.lda import neighbours
from textless.weights import CONFIG, load_model, save_model, take

BASE = "base"  # folder of the encoder below, within the model's


class ProjectedEncoder(Encoder):
    """Frames of another encoder, in context and projected.

    Args:
        base: the encoder below.
        projection: ((2 context + 1) D, dim) float32, or None: as they are.
        context: neighbours on each side, edges replicated.

    The contract is that of the base, with a hash over its identity, its layer, the context and the projection.

    Raises ModelError when the projection does not fit the base.
    """

    def __init__(self, base: Encoder, projection: np.ndarray | None = None, *, context: int = 0) -> None:
        width = base.dim * (2 * context + 1)
        if projection is not None and projection.shape[0] != width:
            raise ModelError(f"a projection of {projection.shape[0]} dimensions does not fit an encoder of {width}, context included")
        self.base, self.context = base, context
        self.projection = None if projection is None else np.ascontiguousarray(projection, np.float32)
        self.dim = width if self.projection is None else self.projection.shape[1]
        self.sample_rate, self.frame_rate, self.precision = base.sample_rate, base.frame_rate, base.precision
        digest = hashlib.sha256(f"projected {base.contract.encoder} {base.contract.layer} {context} ".encode())
        digest.update(b"" if self.projection is None else self.projection.tobytes())
        self.contract = base.contract.with_(encoder=digest.hexdigest())

    def n_frames(self, samples: int) -> int:
        return self.base.n_frames(samples)

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        return self._whole(self.base.encode_one(waveform))

    def encode_batch(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._whole(frames) for frames in self.base.encode_batch(waveforms)]

    def stream(self, blocks: Blocks) -> Iterator[np.ndarray]:
        held = None
        for frames in self.base.stream(blocks):
            held = self._pad(frames, before=self.context) if held is None else np.concatenate([held, frames])
            if len(held) > 2 * self.context:
                yield self._project(held)
                held = held[len(held) - 2 * self.context :]
        if held is not None and self.context:
            yield self._project(self._pad(held, after=self.context))

    def _whole(self, frames: np.ndarray) -> np.ndarray:
        return self._project(self._pad(frames, before=self.context, after=self.context))

    def _pad(self, frames: np.ndarray, *, before: int = 0, after: int = 0) -> np.ndarray:
        return np.pad(frames, ((before, after), (0, 0)), mode="edge")

    def _project(self, padded: np.ndarray) -> np.ndarray:
        frames = neighbours(padded, self.context)
        return frames if self.projection is None else frames @ self.projection


def save_projected(folder: Path, base: Path | str, projection: np.ndarray, *, layer: int | None, context: int = 0) -> None:
    """Write a model folder that stands alone: the encoder below, whatever `load_encoder` takes, is copied into it. Raises ModelError."""
    from textless.units.encode import SIGNAL, resolve_encoder

    place, normalisation = str(base), None
    if place not in SIGNAL:
        source, layer, normalisation = resolve_encoder(base, layer)
        place = BASE if source.is_dir() else f"{BASE}/{source.name}"
        (folder / BASE).mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / BASE, ignore=shutil.ignore_patterns(".*", "manifest.json"), dirs_exist_ok=True)
        else:
            shutil.copyfile(source, folder / place)
    config = {"base": place, "layer": layer, "normalisation": normalisation, "context": context}
    save_model(folder, kind="projected", config=config, tensors={"projection": projection})


def load_projected(folder: Path, layer: int | None = None, **options: Any) -> ProjectedEncoder:
    """Read one; options are `load_encoder`'s for the encoder below. Raises ModelError as that, and when another layer is asked for."""
    from textless.units.encode import SIGNAL, load_encoder

    config, tensors = load_model(folder, kind="projected")
    for name, hint in (
        ("base", str),
        ("layer", Count | None),
        ("normalisation", str | None),
        ("context", Annotated[int, Between(0, 1000)]),
    ):
        check(config.get(name), hint, f"{Path(folder) / CONFIG}: {name}")
    if layer not in (None, config["layer"]):
        raise ModelError(f"{folder}: was fitted on layer {config['layer']}, not {layer}; leave the layer out")
    base = config["base"]
    if (base not in SIGNAL and Path(base).parts[:1] != (BASE,)) or ".." in Path(base).parts:
        raise ModelError(f"{folder}: the encoder below, {base!r}, does not lie in it; copy the model again")
    options["normalisation"] = options.get("normalisation") or config["normalisation"]
    below = load_encoder(base if base in SIGNAL else folder / base, config["layer"], **options)
    try:
        return ProjectedEncoder(below, take(folder, tensors, "projection"), context=config["context"])
    except ModelError as e:
        raise ModelError(str(e) if str(e).startswith(str(folder)) else f"{folder}: {e}") from None
