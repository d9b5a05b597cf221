"""Inputs from outside the graph: audio, alignments, weights."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.engine.step import HashFile, Source, added, path
from textless.errors import ModelError, StoreError

if TYPE_CHECKING:
    from textless.audio.corpus import Corpus as Rows
    from textless.units.card import Origin
    from textless.zoo import Published


def or_missing(hash_file: HashFile) -> HashFile:
    """The same, and "missing" for a missing file: its row fails when it is processed, and the others succeed."""

    def hash_or_missing(file: str) -> str:
        try:
            return hash_file(file)
        except StoreError:
            return "missing"

    return hash_or_missing


@dataclass(frozen=True, kw_only=True)
class Corpus(Source):
    """Audio: a folder, glob or manifest, or a list of them.

    `splits` is a table that adds split and speaker by id; `split` keeps the rows of one or several splits. `license`
    and `language` are stated by the dumps that are made of the audio. `channel` is left, right, mix, a number from 0,
    or each, as `encode --channel` has it.
    """

    type = "corpus"
    gives = ("audio",)
    manifest: str | list = path()
    splits: str | None = path(None)
    split: str | list | None = None
    license: str | None = added(None)
    language: str | None = added(None)
    channel: str | int | None = added(None)

    def check(self) -> None:
        self.origin()
        if self.channel not in (None, "each"):
            from textless.audio.manifests import channel_of

            channel_of(self.channel, self.type)

    def origin(self) -> Origin:
        from textless.units.card import Origin

        return Origin(license=self.license, language=self.language)

    def load(self) -> Rows:
        """The rows at the time of the first call: files that are added to the folder later are not part of this run."""
        return self._rows

    @functools.cached_property
    def _rows(self) -> Rows:
        from textless.audio.corpus import Corpus as Rows

        rows = Rows.load(self.manifest, splits=self.splits, split=self.split)
        return rows.with_channel(self.channel)

    def content(self, hash_file: HashFile) -> str:
        return self.load().fingerprint(or_missing(hash_file))


@dataclass(frozen=True, kw_only=True)
class Alignments(Source):
    """A tsv with id, start, end and phone, for metrics; no training step takes it."""

    type = "alignments"
    gives = ("alignments",)
    file: str = path()

    def content(self, hash_file: HashFile) -> Any:
        from textless.metrics.labels import labels_content

        return labels_content(self.file, hash_file)


@dataclass(frozen=True, kw_only=True)
class Items(Source):
    """An item file of ZeroSpeech, for ABX."""

    type = "items"
    gives = ("items",)
    file: str = path()

    def content(self, hash_file: HashFile) -> str:
        return hash_file(self.file)


@dataclass(frozen=True, kw_only=True)
class Labels(Source):
    """Labels of files, lines of id, tab, label, for probes; no training step takes it."""

    type = "labels"
    gives = ("labels",)
    file: str = path()

    def content(self, hash_file: HashFile) -> str:
        return hash_file(self.file)


@dataclass(frozen=True, kw_only=True)
class Text(Source):
    """Transcripts, lines of id, tab, words, for metrics; no training step takes them."""

    type = "text"
    gives = ("text",)
    file: str = path()

    def content(self, hash_file: HashFile) -> Any:
        from textless.metrics.labels import labels_content

        return labels_content(self.file, hash_file)


@dataclass(frozen=True, kw_only=True)
class Pretrained(Source):
    """A folder of transformers, a recogniser or a text language model, for metrics; no training step takes it."""

    type = "pretrained"
    gives = ("recogniser", "judge")
    file: str = path()

    def content(self, hash_file: HashFile) -> Any:
        folder = Path(self.file)
        if not folder.is_dir():
            raise ModelError(f"{folder}: no such folder; give one of transformers, with its tokenizer")
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        return [[f.relative_to(folder).as_posix(), hash_file(str(f))] for f in files]


@dataclass(frozen=True, kw_only=True)
class UnitFile(Source):
    """A unit file or folder of any tool, with its companions; what the step `units` reads. No pipeline names it."""

    type = "unit_file"
    file: str = path()

    def content(self, hash_file: HashFile) -> Any:
        from textless.exchange.formats import companions, files_of

        file = Path(self.file)
        if file.is_dir():
            return [file.name, [[p.relative_to(file).as_posix(), hash_file(str(p))] for p in files_of(file)]]
        return [file.name, hash_file(self.file), [[p.name, hash_file(str(p))] for p in companions(file)]]


@dataclass(frozen=True, kw_only=True)
class Model(Source):
    """Pretrained weights; a field that holds it uses its part (encoder, codebook, …).

    `name` is an embedded bundle or a published chain; `file` a bundle or a single model on disk, in any format of
    `load_encoder`.
    """

    type = "model"
    gives = ("encoder", "codebook", "lm", "vocoder")
    name: str | None = None
    file: str | None = path(None)

    def check(self) -> None:
        if (self.name is None) == (self.file is None):
            raise ModelError("a model is given by its name or by its file, one of the two")

    def content(self, hash_file: HashFile) -> dict[str, Any]:
        if entry := self._published():
            from textless.zoo import fetch_part

            hashes = {
                f"{part}/{k}": v
                for part in entry.parts
                for k, v in _weights(fetch_part(self.name or "", part), hash_file).items()
            }
            return {**hashes, "normalisation": entry.encoder.normalisation, "layer": entry.encoder.layer}
        return _weights(self._place(), hash_file)

    def part(self, field: str) -> Path | str:
        """Folder, file or published name for a field."""
        if self._published():
            return self.name or ""
        place = self._place()
        return place / field if (place / field).is_dir() else place

    def layers(self) -> int | None:
        """Number of layers of the encoder, where a configuration on disk has it."""
        from textless.model_io import CONFIG, read_json

        with contextlib.suppress(ModelError):
            config = read_json(Path(self.part("encoder")) / CONFIG)
            layers = config.get("layers", config.get("num_hidden_layers"))
            return layers if isinstance(layers, int) else None
        return None

    def _published(self) -> Published | None:
        from textless.zoo import PUBLISHED

        return PUBLISHED.get(self.name or "") if self.file is None else None

    def _place(self) -> Path:
        from textless.model import find_model

        return (
            Path(self.file)
            if self.file is not None and Path(self.file).is_file()
            else find_model(self.file or self.name or "")
        )


def _weights(place: Path, hash_file: HashFile) -> dict[str, str]:
    """Hash of each file of a model."""
    from textless.model_io import model_files

    return {name: hash_file(str(file)) for name, file in model_files(place).items()}
