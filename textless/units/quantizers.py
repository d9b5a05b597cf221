"""A quantizer from a folder, a file or a name: one table of the kinds that are known."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from textless.errors import ModelError, did_you_mean
from textless.model_io import CONFIG, read_json
from textless.types import Quantizer, UnitContract
from textless.units.centroids import read_centroids
from textless.units.head import Head, read_head
from textless.units.kmeans import Codebook


@runtime_checkable
class StoredQuantizer(Quantizer, Protocol):
    """A quantizer in a model folder: `config.json`, whose `kind` is a key of `KINDS`, and `model.safetensors`."""

    def save(self, folder: Path | str) -> None:
        """Write a model folder (`textless.model_io.save_model`)."""

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote. Raises ModelError when the folder holds something else, or is damaged."""


# `kind` of config.json → the class that reads the folder.
KINDS: dict[str, type[StoredQuantizer]] = {"codebook": Codebook, "head": Head}


def load_codebook(source: Path | str, layer: int | None = None, *, tap: str | None = None) -> StoredQuantizer:
    """A quantizer.

    Args:
        source: a folder that one of `KINDS` wrote; a file of centroids, of any format of `read_centroids`, of which
            nothing is run; a checkpoint of SpidR or DinoSR, whose prediction heads are quantizers; or a published
            name, which is fetched.
        layer: of a checkpoint, the block whose codebook a head predicts, 1-based; `FILE#LAYER` says the same. None:
            the last. Others have no choice, and ignore it.
        tap: of a checkpoint without a `config.json`, which does not say its project: `ffn` for SpidR, `block` for
            DinoSR; see `read_head`.

    The origin of centroids from other tools is unknown, unless their file is a published one.

    Raises:
        ModelError: no such file or name, or no quantizer in it, or no such head.
    """
    from textless.zoo import PUBLISHED, fetch_codebook

    if (numbered := re.fullmatch(r"(.+)#(\d{1,4})", str(source))) and not Path(source).exists():
        source, layer = numbered[1], int(numbered[2])
    path = Path(source)
    if numbered and (path.is_dir() or str(source) in PUBLISHED):
        raise ModelError(f"{source}: is no checkpoint with heads of blocks, as SpidR's; leave #{layer} out")
    if not path.exists() and str(source) in PUBLISHED:
        return _published(fetch_codebook(str(source)), PUBLISHED[str(source)].contract)
    if not path.exists():
        raise ModelError(
            f"{path}: no such file or folder, and no published codebook has this "
            f"name{did_you_mean(str(source), PUBLISHED)}"
        )
    if path.is_dir():
        kind = read_json(path / CONFIG).get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise ModelError(f"{path}: holds a model of kind {kind!r} where a {' or '.join(KINDS)} is wanted")
        return KINDS[kind].load(path)
    if (head := read_head(path, layer, tap)) is not None:
        return head
    if numbered:
        raise ModelError(f"{path}: has no heads of blocks, as SpidR and DinoSR have; leave #{layer} out")
    codebook = read_centroids(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = next((e for e in PUBLISHED.values() if e.codebook and e.codebook.sha256 == digest), None)
    return codebook.declare(entry.contract) if entry else codebook


def _published(path: Path, contract: UnitContract) -> StoredQuantizer:
    """A published quantizer, with what its table says of it. Raises ModelError."""
    head = read_head(path, contract.layer, contract.tapped)
    return read_centroids(path).declare(contract) if head is None else head
