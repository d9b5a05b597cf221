"""`Units` and `UnitContract`: what passes between the stages, and what it says of its origin."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from textless.errors import ContractError, ContractWarning, DumpError


@dataclass(frozen=True, kw_only=True)
class UnitContract:
    """Where units come from. None means unknown; two known values must agree.

    Attributes:
        encoder: sha256 of the encoder's parameters up to `layer`, or the name of a signal-processing front end (`mfcc`, `logmel`).
        layer: units are made from the output of this block, 1-based, before any final norm. None for MFCC and log-mel.
        window: seconds; attention sees longer files in windows of this length. 0 where a file is always seen whole.
        normalisation: of the waveform, before the encoder: `none`, `layer_norm_1e-5` or `zscore_1e-7`.
        transform: what stands between encoder and k-means, `none` if nothing.
        sample_rate: of the audio, Hz.
        frame_rate: frames per second.
        n_units: size of the codebook.
        codebook: sha256 of the centroids as float32.
    """

    encoder: str | None = None
    layer: int | None = None
    window: float | None = None
    normalisation: str | None = None
    transform: str | None = None
    sample_rate: int | None = None
    frame_rate: float | None = None
    n_units: int | None = None
    codebook: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> UnitContract:
        """Raises ContractError for a field that this version does not know."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ContractError(f"contract has unknown fields {', '.join(unknown)}; was it written by a newer textless?")
        return cls(**data)

    def with_(self, **changes: Any) -> UnitContract:
        return replace(self, **changes)

    def check(self, other: UnitContract, *, mine: str, theirs: str) -> None:
        """Raise ContractError unless `other` may be used where `self` is expected.

        Args:
            mine, theirs: what the two contracts belong to, for the message, e.g. "the vocoder" and "units.jsonl".

        Warns ContractWarning where one side is known and the other is not; `n_units` is always compared when both are known.
        """
        unknown = []
        for f in fields(self):
            a, b = getattr(self, f.name), getattr(other, f.name)
            if a is not None and b is not None and a != b:
                raise ContractError(
                    f"{theirs} and {mine} are of different units: {f.name} is {_short(b)} in {theirs} but {_short(a)} in {mine}; "
                    "use models of one set, or encode again"
                )
            if (a is None) != (b is None):
                unknown.append(f.name)
        if unknown:
            warnings.warn(
                f"{theirs} and {mine}: cannot compare {', '.join(unknown)}, known on one side only; --contract FILE declares it",
                ContractWarning,
                stacklevel=2,
            )


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


@dataclass(frozen=True, eq=False)
class Units:
    """A sequence of discrete units.

    Attributes:
        units: (N,) int64.
        durations: (N,) int64, frames of each unit, or None when each unit is one frame.
        contract: their origin.
    """

    units: np.ndarray
    durations: np.ndarray | None = None
    contract: UnitContract = UnitContract()

    def __post_init__(self) -> None:
        units = _int_vector(self.units, "units")
        object.__setattr__(self, "units", units)
        if self.durations is not None:
            durations = _int_vector(self.durations, "durations")
            if durations.shape != units.shape:
                raise DumpError(f"{len(units)} units but {len(durations)} durations")
            if len(durations) and durations.min() < 1:
                raise DumpError("durations must be at least 1 frame")
            object.__setattr__(self, "durations", durations)
        n = self.contract.n_units
        if len(units) and (units.min() < 0 or (n is not None and units.max() >= n)):
            bad = units.min() if units.min() < 0 else units.max()
            raise ContractError(f"unit {bad} is outside the codebook of {n if n is not None else 'any'} units")

    @classmethod
    def of(cls, sequence: Units | np.ndarray | list[int], contract: UnitContract = UnitContract()) -> Units:
        """`sequence` itself when it is Units, else its integers taken literally: one frame each, never deduplicated."""
        return sequence if isinstance(sequence, Units) else cls(sequence, None, contract)  # type: ignore[arg-type]

    @classmethod
    def from_frames(cls, frames: np.ndarray, contract: UnitContract = UnitContract()) -> Units:
        """Deduplicate frame units (T,) int64: runs become one unit with its duration."""
        frames = _int_vector(frames, "frames")
        if not len(frames):
            return cls(frames, frames, contract)
        starts = np.flatnonzero(np.concatenate(([True], frames[1:] != frames[:-1])))
        return cls(frames[starts], np.diff(np.append(starts, len(frames))), contract)

    def frames(self) -> np.ndarray:
        """(T,) int64, one unit a frame."""
        return self.units if self.durations is None else np.repeat(self.units, self.durations)

    def deduplicated(self) -> Units:
        """The same frames with every run joined into one unit."""
        return Units.from_frames(self.frames(), self.contract)

    @property
    def n_frames(self) -> int:
        return len(self.units) if self.durations is None else int(self.durations.sum())

    @property
    def seconds(self) -> float:
        """Raises ContractError when the frame rate is unknown."""
        return self.n_frames / self.frame_rate

    @property
    def frame_rate(self) -> float:
        if self.contract.frame_rate is None:
            raise ContractError("the frame rate of these units is unknown; declare it with --contract")
        return self.contract.frame_rate

    def between(self, start: float, stop: float | None = None) -> Units:
        """The part from `start` to `stop` seconds (rounded to frames); a unit that is cut keeps the frames inside."""
        first = round(start * self.frame_rate)
        last = None if stop is None else round(stop * self.frame_rate)
        frames = self.frames()[first:last]
        return Units(frames, None, self.contract) if self.durations is None else Units.from_frames(frames, self.contract)

    def __add__(self, other: Units) -> Units:
        """One after the other. A run across the seam stays two units, so that the seam can be found again."""
        self.contract.check(other.contract, mine="the first part", theirs="the second part")
        if self.durations is None and other.durations is None:
            durations = None
        else:
            durations = np.concatenate([self._durations(), other._durations()])
        return Units(np.concatenate([self.units, other.units]), durations, self.contract)

    def _durations(self) -> np.ndarray:
        return np.ones_like(self.units) if self.durations is None else self.durations

    def __len__(self) -> int:
        return len(self.units)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Units):
            return NotImplemented
        return (
            self.contract == other.contract
            and np.array_equal(self.units, other.units)
            and np.array_equal(self._durations(), other._durations())
        )

    __hash__ = None  # type: ignore[assignment]


def _int_vector(values: Any, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise DumpError(f"{what} must be one-dimensional, got shape {array.shape}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise DumpError(f"{what} must be integers, got {array.dtype}")
    return array.astype(np.int64, copy=False)
