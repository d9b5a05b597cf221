"""The table of vocoders: their forms on disk, and the function that reads each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from textless.vocoder.base import BaseVocoder
from textless.vocoder.hifigan.hub import is_hub_folder, load_hub_folder
from textless.vocoder.hifigan.model import load_hifigan
from textless.vocoder.model import load_unit_vocoder
from textless.zoo import contract_of, resolve


class Format(NamedTuple):
    """One form.

    Attributes:
        matches: (path, config) → whether the path is in this form; must not raise.
        load: (path, config, precision) → the vocoder. Raises ModelError.
    """

    matches: Callable[[Path, Path | str | None], bool]
    load: Callable[[Path, Path | str | None, str], BaseVocoder]


FORMATS = (  # the first that matches; the last takes the rest, and says what is missing
    Format(
        lambda path, config: config is not None or path.is_file(),
        lambda path, config, precision: load_hifigan(path, config, precision=precision),
    ),
    Format(
        lambda path, config: is_hub_folder(path),
        lambda path, config, precision: load_hub_folder(path, precision=precision),
    ),
    Format(
        lambda path, config: True,
        lambda path, config, precision: load_unit_vocoder(path, precision=precision),
    ),
)


def load_vocoder(path: Path | str, config: Path | str | None = None, *, precision: str = "fp32") -> BaseVocoder:
    """Read a vocoder, ready for `resynth`.

    Args:
        path: a folder that `UnitVocoder.save` wrote, a hub folder of unit-hifigan, or the `.pt` of a unit HiFi-GAN
            (speech-resynthesis, fairseq, textlesslib); a published name (`textless.zoo`) or `OWNER/NAME` on the Hugging
            Face hub, which is fetched.
        config: of such a `.pt`; None is `config.json` in its folder, else its own name with `.json`.
        precision: `fp32`, or `bf16` for matrix products: faster where the processor has matrix units for it, with a
            little noise.

    Raises:
        ModelError: it is missing, damaged, or something else; it cannot be fetched.
    """
    known, path = contract_of(path), resolve(path, "vocoder")
    form = next(form for form in FORMATS if form.matches(path, config))
    vocoder = form.load(path, config, precision)
    vocoder.contract = vocoder.contract.joined(known, mine=str(path), theirs="its entry in the table")
    return vocoder
