"""The surface that all vocoders share: units in any form → waveforms, one sequence or a list."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast, overload

import numpy as np
from torch import nn

from textless.errors import ContractError, ModelError, check_known
from textless.types import UnitContract, Units, UnitsLike, is_batch

if TYPE_CHECKING:
    from textless.types import Vocoder

QUIETEST = 1e-8  # the least peak that is divided by, unit-hifigan's


class BaseVocoder(nn.Module):
    """A vocoder.

    A subclass implements `_speak`; with F0 also `_contours`, with a duration predictor also `predict_durations`.

    Args:
        contract: of its units.
        n_units, sample_rate, hop: size of the codebook; Hz; samples of a frame.
        speakers, styles: names; `styles` is empty where there are none.

    Attributes:
        frame_rate: units a second.
        contract, n_units, sample_rate, hop, speakers, styles: as above.
        level: of `resynth` where none is asked for, `raw` or `peak`.
    """

    level = "raw"

    def __init__(
        self,
        contract: UnitContract,
        *,
        n_units: int,
        sample_rate: int,
        hop: int,
        speakers: Sequence[str],
        styles: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.contract, self.n_units, self.sample_rate, self.hop = contract, n_units, sample_rate, hop
        self.frame_rate = sample_rate / hop
        self.speakers, self.styles = tuple(speakers), tuple(styles)

    @overload
    def resynth(
        self,
        units: UnitsLike,
        *,
        speaker: str | int | None = None,
        durations: str = "given",
        style: str | int | None = None,
        level: str | None = None,
        f0: np.ndarray | None = None,
    ) -> np.ndarray: ...
    @overload
    def resynth(
        self,
        units: Sequence[UnitsLike],
        *,
        speaker: str | int | None = None,
        durations: str = "given",
        style: str | int | None = None,
        level: str | None = None,
        f0: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]: ...
    def resynth(
        self,
        units: UnitsLike | Sequence[UnitsLike],
        *,
        speaker: str | int | None = None,
        durations: str = "given",
        style: str | int | None = None,
        level: str | None = None,
        f0: np.ndarray | Sequence[np.ndarray] | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Speak units.

        Args:
            units: Units or (N,) integers, or a list of those. A bare array is taken literally: each unit is one frame,
                or has a duration of its own if durations are predicted.
            speaker, style: name or index; None is the first. A string that is both a name and a number is taken as the
                name, an integer that is both as the index.
            durations: "given": those of the units, one frame each where there are none. "predict": predicted from the
                units, for Units with their runs joined.
            level: "raw": the samples of the network. "peak": each row divided by its largest sample. None: the
                vocoder's own, `level`.
            f0: fundamental frequency to follow, or a list of those, in the form that the class documents; None is
                that of the units' pitch, where they have it, else predicted, where the vocoder can.

        Returns:
            (frames * hop,) float32 at `sample_rate`, or a list of them. A row of a list equals the row alone, to 1e-5.

        Raises:
            ContractError: units of another kind, or outside the codebook.
            ModelError: no units, an unknown speaker, style or level, no duration predictor, or F0 that is missing, of
                another length or form, or for a vocoder without F0.
        """
        batch = is_batch(units) and len(units) > 0  # an empty list is refused as a sequence of no units
        rows = cast(Sequence[UnitsLike], units if batch else [units])
        f0_rows = cast(Sequence[np.ndarray] | None, f0 if batch or f0 is None else [f0])
        check_durations(durations)
        level = self._level(level)
        index, style_index = self.speaker_index(speaker), self.style_index(style)
        spoken = self._spoken(rows, durations, index)
        frames = [units.frames() for units in spoken]
        f0_rows = self._melody(spoken, index) if f0_rows is None else f0_rows
        contours = self._contours(f0_rows, frames, index)
        waveforms = self._speak(frames, contours, index, style_index)
        if level == "peak":
            waveforms = [wave / max(np.abs(wave).max(), QUIETEST) for wave in waveforms]
        return waveforms if batch else waveforms[0]

    def predict_durations(self, units: Sequence[np.ndarray], *, speaker: str | int | None = None) -> list[np.ndarray]:
        """Frames of each unit.

        Args:
            units: sequences (N,) int64 in the codebook, runs already joined.

        Returns:
            a list of (N,) int64, at least 1.

        Raises:
            ModelError: the vocoder has no duration predictor.
        """
        raise ModelError("the vocoder does not predict durations; give units with durations, or a unit for each frame")

    def speaker_index(self, speaker: str | int | None) -> int:
        """Position of a speaker, given by name or index; see `index_of`. Raises ModelError for an unknown one."""
        return index_of("speaker", speaker, self.speakers)

    def style_index(self, style: str | int | None) -> int:
        """Position of a style, as of a speaker; 0 for None, also where there are none."""
        return 0 if style is None else index_of("style", style, self.styles)

    def _level(self, level: str | None, *, stream: bool = False) -> str:
        """The level that is asked for, else the vocoder's own. Raises ModelError."""
        level = self.level if level is None else level
        check_known("level", level, ("raw", "peak"), ModelError)
        if stream and level == "peak":
            raise ModelError(
                "level is peak: a row is divided by its largest sample, which is known at its end only; "
                "ask for the level raw to stream"
            )
        return level

    def checked(self, units: UnitsLike) -> Units:
        """Units, or a bare array of them, as Units of this vocoder.

        Raises ContractError for units of another kind or outside the codebook, ModelError for none.
        """
        if isinstance(units, Units):
            self.contract.check(units.contract, mine="the vocoder", theirs="the units")
            if len(units) and units.units.max() >= self.n_units:
                raise ContractError(
                    f"unit {units.units.max()} is outside the vocoder's codebook of {self.n_units} units"
                )
        else:
            units = Units.of(units, self.contract)
        if not len(units):
            raise ModelError("there are no units to speak")
        return units

    def _spoken(self, rows: Sequence[UnitsLike], durations: str, speaker: int) -> list[Units]:
        """The units of each row, with durations given or predicted."""
        checked = [self.checked(row) for row in rows]
        if durations == "given":
            return checked
        joined = [
            units.deduplicated() if isinstance(row, Units) else units for row, units in zip(rows, checked, strict=True)
        ]
        predicted = self.predict_durations([units.units for units in joined], speaker=speaker)
        return [replace(units, durations=lengths) for units, lengths in zip(joined, predicted, strict=True)]

    def _melody(self, rows: Sequence[Units], speaker: int) -> list[np.ndarray] | None:
        """F0 of rows by the pitch of their units, in the form of `f0`. None where none has pitch."""
        if any(units.pitch is not None for units in rows):
            warnings.warn(
                "the vocoder is one without F0: the pitch of the units is not heard", UserWarning, stacklevel=4
            )
        return None

    def _contours(
        self, f0: Sequence[np.ndarray] | None, frames: list[np.ndarray], speaker: int
    ) -> list[np.ndarray] | None:
        """F0 of each row of `frames`, checked and in the form that `_speak` takes. Raises ModelError."""
        if f0 is not None:
            raise ModelError("the vocoder is one without F0, and cannot follow one; leave f0 out")
        return None

    def _speak(
        self, frames: list[np.ndarray], contours: list[np.ndarray] | None, speaker: int, style: int
    ) -> list[np.ndarray]:
        """Rows (T,) int64, and their F0 from `_contours` → (T * hop,) float32 each."""
        raise NotImplementedError


if TYPE_CHECKING:
    _CONTRACT: type[Vocoder] = BaseVocoder  # that mypy compares the two


def check_durations(durations: str) -> None:
    """Raise ModelError for a value that `resynth` does not know."""
    check_known("durations", durations, ("given", "predict"), ModelError)


def index_of(what: str, value: str | int | None, names: Sequence[str]) -> int:
    """Position of a name, None for the first.

    A string is a name, or else an index in decimal digits. An integer is an index, or else the name that is written so.

    Raises ModelError for an unknown one, with some that are known.
    """
    number, name = isinstance(value, int | np.integer) and not isinstance(value, bool), str(value)
    if value is None and names:
        return 0
    if isinstance(value, int | np.integer) and number and 0 <= value < len(names):
        return int(value)
    if (number or isinstance(value, str)) and name in names:
        return names.index(name)
    if isinstance(value, str) and (index := next((i for i in range(len(names)) if str(i) == value), None)) is not None:
        return index
    shown = ", ".join(names[:20]) + (f" … ({len(names)} in all)" if len(names) > 20 else "")
    has = f"it has {shown}, or 0 to {len(names) - 1}" if names else "it has none"
    close = next((n for n in names if isinstance(value, str) and n.lower() == value.strip().lower()), None)
    raise ModelError(f"the vocoder has no {what} {value!r}; {f'did you mean {close!r}? ' if close else ''}{has}")
