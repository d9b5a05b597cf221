"""`Units` and `UnitContract`: what passes between the stages, and what it says of its origin."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from textless.errors import ContractError, ContractWarning, DumpError

MOST_UNITS = 1 << 24  # of a codebook: figures hold a count for each
LONGEST_ROW = 1 << 24  # frames, 93 h at 50 Hz; a row of 40 bytes must not ask for gigabytes
FRAMES_PER_UNIT = 64  # on average, that a longer row may have
NUMBERS = {
    "layer": (1, 10_000),
    "window": (0, 1e9),
    "sample_rate": (1, 1e9),
    "frame_rate": (1e-3, 1e9),
    "n_units": (1, MOST_UNITS),
}
WHOLE = ("layer", "sample_rate", "n_units")


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

    Raises ContractError for a field of another type, or a number that no units have.
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

    def __post_init__(self) -> None:
        for f in fields(self):
            if (value := getattr(self, f.name)) is None:
                continue
            if f.name not in NUMBERS:
                if not isinstance(value, str):
                    raise ContractError(f"{f.name} must be text or null, not {_brief(value)}")
                continue
            low, high = NUMBERS[f.name]
            kind = numbers.Integral if f.name in WHOLE else numbers.Real
            whole = isinstance(value, float) and value.is_integer()  # a rate of 16000.0
            if isinstance(value, bool) or not (isinstance(value, kind) or whole) or not low <= value <= high:
                what = "a whole number" if f.name in WHOLE else "a number"
                raise ContractError(f"{f.name} must be {what} from {low:g} to {high:g}, or null, not {_brief(value)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> UnitContract:
        """Raises ContractError for what is no object, and for a field that this version does not know."""
        if not isinstance(data, dict):
            raise ContractError(f"a contract must be an object, not {_brief(data)}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ContractError(
                f"contract has unknown fields {_brief(', '.join(unknown))}; was it written by a newer textless?"
            )
        return cls(**data)

    def with_(self, **changes: Any) -> UnitContract:
        return replace(self, **changes)

    def conflict(self, other: UnitContract) -> str | None:
        """The first field that both know and that differs."""
        for f in fields(self):
            a, b = getattr(self, f.name), getattr(other, f.name)
            if a is not None and b is not None and a != b:
                return f.name
        return None

    def check(self, other: UnitContract, *, mine: str, theirs: str) -> None:
        """Raise ContractError unless `other` may be used where `self` is expected.

        Args:
            mine, theirs: what the two contracts belong to, for the message, e.g. "the vocoder" and "units.jsonl".

        Warns ContractWarning where one side is known and the other is not; `n_units` is always compared when both are known.
        """
        if name := self.conflict(other):
            a, b = getattr(self, name), getattr(other, name)
            raise ContractError(
                f"{theirs} and {mine} are of different units: {name} is {_short(b)} in {theirs} but {_short(a)} in {mine}; "
                "use models of one set, or encode again"
            )
        unknown = [f.name for f in fields(self) if (getattr(self, f.name) is None) != (getattr(other, f.name) is None)]
        if unknown:
            warnings.warn(
                f"{theirs} and {mine}: cannot compare {', '.join(unknown)}, known on one side only; --contract FILE declares it",
                ContractWarning,
                stacklevel=2,
            )


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _brief(value: Any) -> str:
    """A value of unknown kind and size, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


@dataclass(frozen=True, eq=False)
class Units:
    """A sequence of discrete units.

    Attributes:
        units: (N,) int64.
        durations: (N,) int64, frames of each unit, or None when each unit is one frame.
        contract: their origin.

    Raises DumpError for what is no integers of one dimension, durations below 1 or of more than `LONGEST_ROW` frames together (a longer
    row may have `FRAMES_PER_UNIT` frames a unit), ContractError for a unit that is outside the codebook, or beyond `MOST_UNITS`.
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
                raise DumpError(f"durations must be at least 1 frame, not {durations.min()}")
            longest = max(LONGEST_ROW, FRAMES_PER_UNIT * len(units))
            # The longest first, so that their sum is a number of 64 bits.
            if len(durations) and max(durations.max(), durations.clip(max=longest + 1).sum()) > longest:
                raise DumpError(
                    f"the durations are more than {longest} frames together, the most that a row of {len(units)} units may have"
                )
            object.__setattr__(self, "durations", durations)
        n = self.contract.n_units
        if len(units) and not 0 <= units.min() <= units.max() < (n or MOST_UNITS):
            bad = units.min() if units.min() < 0 else units.max()
            codebook = (
                f"the codebook of {n} units" if n else f"any codebook (n_units is unknown, and at most {MOST_UNITS})"
            )
            raise ContractError(f"unit {bad} is outside {codebook}")

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
        return (
            Units(frames, None, self.contract) if self.durations is None else Units.from_frames(frames, self.contract)
        )

    def __add__(self, other: Units) -> Units:
        """One after the other. A run across the seam stays two units, so that the seam can be found again."""
        return Units.joined([self, other])

    @classmethod
    def joined(cls, parts: Sequence[Units]) -> Units:
        """One or more parts one after the other, as `+` joins two."""
        first = parts[0]
        for other in parts[1:]:
            if other.contract is not first.contract:
                first.contract.check(other.contract, mine="the first part", theirs="the second part")
        durations = None if all(p.durations is None for p in parts) else np.concatenate([p._durations() for p in parts])
        return cls(np.concatenate([p.units for p in parts]), durations, first.contract)

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
    if values is None or (isinstance(values, list | tuple) and any(v is None for v in values)):
        raise DumpError(f"{what} must be integers, not null")
    if isinstance(values, list | tuple) and any(isinstance(v, bool) for v in values):  # numpy takes them for 0 and 1
        raise DumpError(f"{what} must be integers, not true or false")
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # lists of several lengths
        raise DumpError(f"{what} must be one-dimensional: a list of integers") from None
    if array.ndim != 1:
        raise DumpError(f"{what} must be one-dimensional, got shape {array.shape} of {array.dtype}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise DumpError(f"{what} must be integers below 2^63, got {array.dtype}")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise DumpError(f"{what} must be integers below 2^63, got {array.max()}")
    return array.astype(np.int64, copy=False)
