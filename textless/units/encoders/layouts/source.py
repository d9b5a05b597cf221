"""A file or folder that may hold an encoder, before it is known which project's it is."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from textless.audio.mfcc import SAMPLE_RATE
from textless.checks import Count, check
from textless.errors import ModelError
from textless.model_io import CONFIG, finite, open_tensors, read_json, tensors_of
from textless.units.encoders.folder import checkpoint_in, some
from textless.units.encoders.hubert import HubertConfig

# What training puts before the names of a model's parameters: DistributedDataParallel; ESPnet's pre-training with
# torchaudio's module or fairseq's, and its recognisers on top of s3prl's modules.
WRAPPERS = (
    "module.",
    "encoder.hubert_pretrain_model.",
    "hubert_pretrain_model.",
    "encoder.encoder.",
    "frontend.upstream.upstream.model.",
    "frontend.upstream.model.",
)


@dataclass(frozen=True)
class Source:
    """Settings and named tensors.

    Attributes:
        path: for messages.
        settings: of a folder its `config.json`; of a file what it holds apart from the state dict.
        open: reads the tensors' names, and gives a function that reads one, checked to be finite.
        heads: attention heads, where the caller declares them.
    """

    path: Path
    settings: dict[str, Any]
    open: Callable[[], tuple[list[str], Callable[[str], Tensor]]]
    heads: int | None = None

    @functools.cached_property
    def _opened(self) -> tuple[list[str], Callable[[str], Tensor]]:
        return self.open()

    @property
    def names(self) -> list[str]:
        return self._opened[0]

    @property
    def get(self) -> Callable[[str], Tensor]:
        return self._opened[1]

    @functools.cached_property
    def declared_heads(self) -> int | None:
        """Attention heads as the caller declares them, or `{"heads": N}` in `NAME.json` next to a file `NAME.pt`."""
        beside, settings = self.path.with_suffix(".json"), {}
        if self.heads is None and beside.is_file():
            with contextlib.suppress(ModelError):  # no object: it is of another tool
                settings = read_json(beside)
        return self.heads or check(settings.get("heads"), Count | None, f"{beside}: heads")

    def entry(self, settings: Mapping[str, Any], place: Path | None = None) -> Callable[[str, Any, Any], Any]:
        """Entries of untrusted settings by (name, default, type). Raises ModelError for another type or range."""
        place = place or self.path
        return lambda key, default, hint: check(settings.get(key, default), hint, f"{place}: {key}")


def open_source(path: Path, heads: int | None = None) -> Source:
    """What is in a folder with a `config.json`, in a checkpoint, or in a folder with one checkpoint.

    Raises ModelError when it is none of these, or is damaged.
    """
    path = checkpoint_in(path)
    if path.is_dir():
        return Source(path, read_json(path / CONFIG), lambda: open_tensors(path), heads)
    from textless.pickles import load_torch

    content = load_torch(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):  # Lightning
        content = content["state_dict"]
    settings, state = _split(content)
    tensors = unwrapped(tensors_of(state)) if isinstance(state, dict) else {}
    if not tensors and not settings:
        what = f"a dict of {some(content)}" if isinstance(content, dict) and content else f"a {type(content).__name__}"
        raise ModelError(f"{path}: holds {what}, no encoder's tensors; give its checkpoint or a model folder")
    return Source(path, settings, lambda: (list(tensors), finite(path, tensors.__getitem__)), heads)


def _split(content: Any) -> tuple[dict[str, Any], Any]:
    """Settings and state dict of a checkpoint: fairseq, minimal_hubert, SpidR; s3prl; bshall; a bare state dict."""
    if not isinstance(content, dict):
        return {}, None
    if isinstance(content.get("model_weight"), dict):
        cfg = {"model": content.get("model_cfg"), "task": content.get("task_cfg")}
        return {"cfg": cfg}, content["model_weight"]
    for key in ("model", "hubert"):
        if isinstance(content.get(key), dict):
            return {k: v for k, v in content.items() if k != key}, content[key]
    return {}, content


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what training wraps around the encoder, and without the tensors outside of it."""
    for wrapper in WRAPPERS:
        inside = {name.removeprefix(wrapper): t for name, t in state.items() if name.startswith(wrapper)}
        state = inside or state
    return state


def renamed(names: Iterable[str], rename: Callable[[str], str]) -> dict[str, str]:
    return {rename(n): n for n in names}


def weight_norm(name: str) -> str:
    """Rename the two parameters of weight norm from torch's old names to its new ones."""
    return name.replace("conv.weight_g", "conv.parametrizations.weight.original0").replace(
        "conv.weight_v", "conv.parametrizations.weight.original1"
    )


def stacked(names: dict[str, str], get: Callable[[str], Tensor]) -> tuple[dict[str, str], Callable[[str], Tensor]]:
    """Query, key and value apart, where a file has them stacked.

    Args:
        names: ours → the file's. `attention.qkv_proj` (3 D, …) becomes `q_proj`, `k_proj` and `v_proj`, each a third:
            `NAME[0]`, `NAME[1]` and `NAME[2]` of the file.
    """
    apart: dict[str, str] = {}
    for ours, theirs in names.items():
        if ".qkv_proj." in ours:
            apart |= {ours.replace("qkv_proj", f"{part}_proj"): f"{theirs}[{i}]" for i, part in enumerate("qkv")}
        else:
            apart[ours] = theirs

    def third(name: str) -> Tensor:
        if not name.endswith(("[0]", "[1]", "[2]")):
            return get(name)
        whole = get(name[:-3])
        size = len(whole) // 3
        return whole[int(name[-2]) * size :][: max(size, len(whole) - 2 * size)]  # of no multiple of 3: a wrong shape

    return apart, third


def check_rate(place: Path, settings: dict[str, Any], key: str = "sampling_rate") -> None:
    """Raise ModelError when a model takes audio at another rate than textless reads; a missing rate is that one."""
    if (rate := settings.get(key)) is not None and (isinstance(rate, bool) or rate != SAMPLE_RATE):
        raise ModelError(f"{place}: {key}: takes audio at {rate!r} Hz; textless reads {SAMPLE_RATE} Hz")


def hubert_config(place: Path, **fields: Any) -> HubertConfig:
    """The configuration. Raises ModelError with the file's name."""
    try:
        return HubertConfig(**fields)
    except ModelError as e:
        raise ModelError(f"{place}: {e}") from None
