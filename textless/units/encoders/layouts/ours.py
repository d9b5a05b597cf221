"""Folders of textless: `config.json` of kind hubert, `model.safetensors`."""

from __future__ import annotations

from textless.checks import read_fields
from textless.errors import ModelError
from textless.model_io import CONFIG
from textless.units.encoders.checkpoint import Checkpoint
from textless.units.encoders.hubert import HubertConfig
from textless.units.encoders.layouts.layout import Layout
from textless.units.encoders.layouts.source import Source


def _read(source: Source) -> Checkpoint:
    config, folder = source.settings, source.path
    if config["kind"] != "hubert":
        raise ModelError(f"{folder}: holds a model of kind {config['kind']!r} where a hubert is wanted")
    hubert = read_fields(HubertConfig, {k: v for k, v in config.items() if k != "kind"}, str(folder / CONFIG))
    return Checkpoint(str(folder), hubert, {n: n for n in source.names}, source.get)


OURS = Layout("a textless folder", lambda source: source.path.is_dir() and "kind" in source.settings, _read)
