"""What passes between the stages (`Units`, `UnitRow`, `UnitContract`), and the four contracts that people extend.

`Encoder`, `Quantizer`, `UnitDecoder` and `Vocoder` are protocols: any class that has these methods can be used in their
place.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, TypedDict, TypeGuard, Unpack, overload, runtime_checkable

import numpy as np

from textless.errors import ContractError, ContractWarning, DumpError, check_known
from textless.names import encodable, plain

MOST_UNITS = 1 << 24  # of a codebook: metrics hold a count for each
LONGEST_ROW = 1 << 24  # frames, 93 h at 50 Hz; a row of 40 bytes must not expand to gigabytes
FRAMES_PER_UNIT = 64  # on average, the most in a longer row
NUMBERS = {
    "layer": (1, 10_000),
    "window": (0, 1e9),
    "sample_rate": (1, 1e9),
    "frame_rate": (1e-3, 1e9),
    "n_units": (1, MOST_UNITS),
    "base_units": (1, MOST_UNITS),
    "smoothing": (0, 1e6),
}
WHOLE = ("layer", "sample_rate", "n_units", "base_units")
TAPS = ("block", "ffn")
LATER = (  # fields that the first contracts lack; left out where None
    "tap",
    "merges",
    "base_units",
    "pitch",
    "smoothing",
)
PITCHES = ("speaker", "file")
PITCH_CLASSES = 33  # of `Units.pitch`: 0 is unvoiced, see `textless.audio.pitch`
OURS = ("id", "units", "durations", "frames", "speaker", "source", "offset", "samples")  # columns of a row


@dataclass(frozen=True, kw_only=True)
class UnitContract:
    """Where units come from. None means unknown; two known values must agree.

    Attributes:
        encoder: sha256 of the encoder's parameters up to `layer`, or the name of a signal-processing front end (`mfcc`,
            `logmel`).
        layer: units are made from the output of this block, 1-based, before any final norm. None for MFCC and log-mel.
        window: seconds; attention sees longer files in windows of this length. 0 where a file is always seen whole.
        normalisation: of the waveform, before the encoder: `none`, `layer_norm_1e-5` or `zscore_1e-7`.
        transform: of the frames, between encoder and quantizer; `none` if there is none.
        sample_rate: of the audio, Hz.
        frame_rate: frames per second.
        merges: sha256 of the merge table of merged units (`textless.units.merges`); None where units are those of the
            codebook.
        n_units: size of the codebook; of merged units that of their vocabulary.
        base_units: of merged units, the size of the codebook.
        codebook: sha256 of the quantizer's parameters; of k-means, of the centroids as float32.
        tap: `ffn` where units are made from the output of the block's feed-forward network, before the residual. None
            is the block's own output, as is `block`, which is kept as None.
        pitch: whose mean the pitch of the units is relative to, `speaker` or `file`; None for units without pitch, as
            merged ones are.
        smoothing: λ, the price of a change of the unit (`units.smoothing`). None is none, as is 0, which is kept as
            None.

    Raises ContractError for a field of another type, for a number out of range, for an unknown tap or pitch, for one of
    `merges` and `base_units` without the other, and for merged units with pitch.
    """

    encoder: str | None = None
    layer: int | None = None
    window: float | None = None
    normalisation: str | None = None
    transform: str | None = None
    sample_rate: int | None = None
    frame_rate: float | None = None
    merges: str | None = None
    n_units: int | None = None
    base_units: int | None = None
    codebook: str | None = None
    tap: str | None = None
    pitch: str | None = None
    smoothing: float | None = None

    def __post_init__(self) -> None:
        if self.tap is not None:
            check_known("tap", self.tap, TAPS, ContractError)
        if self.pitch is not None:
            check_known("pitch", self.pitch, PITCHES, ContractError)
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
        if (self.merges is None) != (self.base_units is None):
            raise ContractError("merges and base_units are of merged units, which have both, or neither")
        if self.merges and self.pitch:
            raise ContractError("merged units have no pitch; merge units without it, or leave them as they are")
        # One spelling, which is also that of contracts without these fields.
        if self.tap == "block":
            object.__setattr__(self, "tap", None)
        if self.smoothing == 0:
            object.__setattr__(self, "smoothing", None)

    @property
    def tapped(self) -> str | None:
        """`block` or `ffn`; None where the layer is unknown, and with it what is tapped."""
        return self.tap or (None if self.layer is None else "block")

    def base(self) -> UnitContract:
        """Of the units that were merged; itself where none were."""
        return self.with_(n_units=self.base_units, merges=None, base_units=None) if self.merges else self

    @property
    def smoothed(self) -> float | None:
        """λ, 0 where there is no smoothing; None where the codebook is unknown, and with it how it was used."""
        return self.smoothing or (None if self.codebook is None else 0)

    def to_dict(self) -> dict[str, str | float | None]:
        """All fields, but of `LATER` only those that are known, so that earlier contracts are written as they were."""
        return {k: v for k, v in asdict(self).items() if v is not None or k not in LATER}

    @classmethod
    def from_dict(cls, data: object) -> UnitContract:
        """Raises ContractError when `data` is not an object, or has a field that this version does not know."""
        if not isinstance(data, dict):
            raise ContractError(f"a contract must be an object, not {_brief(data)}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ContractError(
                f"contract has unknown fields {_brief(', '.join(unknown))}; was it written by a newer textless?"
            )
        return cls(**data)

    def with_(self, **changes: str | float | None) -> UnitContract:
        """A copy with other values. Raises ContractError as the constructor, and for an unknown field."""
        return self.from_dict(self.to_dict() | changes)

    def conflict(self, other: UnitContract) -> str | None:
        """The first field that is known on both sides and differs."""
        for f in fields(self):
            a, b = self._known(f.name), other._known(f.name)
            if a is not None and b is not None and a != b:
                return f.name
        return None

    def _known(self, name: str) -> Any:
        if name == "merges" and self.n_units is not None:
            return self.merges or "none"  # a codebook of known size is not merged
        return {"tap": self.tapped, "smoothing": self.smoothed}.get(name, getattr(self, name))

    def joined(self, other: UnitContract, *, mine: str, theirs: str) -> UnitContract:
        """This contract, and what only the other knows. Raises ContractError, naming the two, where they differ."""
        if name := self.conflict(other):
            raise ContractError(
                f"{theirs} and {mine} are of different units: {name} is {_short(other._known(name))} in {theirs} but "
                f"{_short(self._known(name))} in {mine}; use models of one set"
            )
        return other.with_(**{k: v for k, v in self.to_dict().items() if v is not None})

    def check(self, other: UnitContract, *, mine: str, theirs: str, together: bool = False) -> None:
        """Raise ContractError unless `other` may be used where `self` is expected.

        Args:
            mine, theirs: the owners of the two contracts, for the message, e.g. "the vocoder" and "units.jsonl".
            together: both become one sequence, dump or figure, whose contract holds for each part.

        Warns ContractWarning where one side is known and the other is not, unless both have the same codebook: it was
        made on one kind of frames, and nothing remains to compare. `n_units` is always compared when both are known. It
        also warns where nothing but the smoothing differs, unless `together`: such units mean the same to a model,
        which has learned other durations and changes.
        """
        name = self.conflict(other)
        if name == "smoothing" and not together:
            warnings.warn(
                f"{theirs} and {mine} differ in smoothing: {other.smoothed:g} in {theirs} but {self.smoothed:g} in "
                f"{mine}; the units are the same, their durations and changes are not",
                ContractWarning,
                stacklevel=2,
            )
            return
        if name:
            a, b = self._known(name), other._known(name)
            raise ContractError(
                f"{theirs} and {mine} are of different units: {name} is {_short(b)} in {theirs} but {_short(a)} in "
                f"{mine}; "
                "use models of one set, or encode again"
            )
        unknown = [f.name for f in fields(self) if (getattr(self, f.name) is None) != (getattr(other, f.name) is None)]
        unknown = [name for name in unknown if name != "pitch"]  # None says that there is none, and who needs it looks
        if unknown and (self.codebook is None or self.codebook != other.codebook):
            warnings.warn(
                f"{theirs} and {mine}: cannot compare {', '.join(unknown)}, known on one side only; --contract FILE "
                "declares it",
                ContractWarning,
                stacklevel=2,
            )


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _brief(value: Any) -> str:
    """A value of unknown type and size, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


@dataclass(frozen=True, eq=False)
class Units:
    """A sequence of discrete units.

    Attributes:
        units: (N,) int64.
        durations: (N,) int64, frames of each unit, or None when each unit is one frame.
        contract: their origin.
        pitch: (N,) int64, of each unit, in the steps of `textless.audio.pitch`, 0 where unvoiced; None without.

    Raises DumpError for values that are not integers of one dimension, for durations below 1, for pitch outside its
    steps, and for more than `LONGEST_ROW` frames in total (a longer row may have `FRAMES_PER_UNIT` frames a unit);
    ContractError for a unit outside the codebook, or beyond `MOST_UNITS`.
    """

    units: np.ndarray
    durations: np.ndarray | None = None
    contract: UnitContract = UnitContract()
    pitch: np.ndarray | None = None

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
            # Clipped, so that the sum fits 64 bits.
            if len(durations) and max(durations.max(), durations.clip(max=longest + 1).sum()) > longest:
                raise DumpError(
                    f"the durations are more than {longest} frames together, the most that a row of {len(units)} units "
                    "may have"
                )
            object.__setattr__(self, "durations", durations)
        if self.pitch is not None:
            object.__setattr__(self, "pitch", _pitch_vector(self.pitch, len(units)))
        n = self.contract.n_units
        if len(units) and not 0 <= units.min() <= units.max() < (n or MOST_UNITS):
            bad = units.min() if units.min() < 0 else units.max()
            codebook = (
                f"the codebook of {n} units" if n else f"any codebook (n_units is unknown, and at most {MOST_UNITS})"
            )
            raise ContractError(f"unit {bad} is outside {codebook}")

    @classmethod
    def of(cls, sequence: UnitsLike, contract: UnitContract = UnitContract()) -> Units:
        """`sequence` itself when it is Units, else its integers taken literally: one frame each, never deduplicated."""
        return sequence if isinstance(sequence, Units) else cls(sequence, None, contract)  # type: ignore[arg-type]

    @classmethod
    def from_frames(
        cls, frames: np.ndarray, contract: UnitContract = UnitContract(), pitch: np.ndarray | None = None
    ) -> Units:
        """Deduplicate frame units (T,) int64, and their pitch (T,) int64: runs become one unit with its duration.

        Raises ContractError for merged units: their frames do not say where one ends and the same begins again.
        """
        if contract.merges:
            raise ContractError("merged units cannot be cut, or made of frames; expand them first (MergeTable.expand)")
        frames = _int_vector(frames, "frames")
        if not len(frames):
            return cls(frames, frames, contract, pitch)
        starts = np.flatnonzero(np.concatenate(([True], frames[1:] != frames[:-1])))
        durations = np.diff(np.append(starts, len(frames)))
        return cls(frames[starts], durations, contract, None if pitch is None else _pitch_of_runs(pitch, durations))

    def frames(self) -> np.ndarray:
        """(T,) int64, one unit a frame."""
        return self.units if self.durations is None else np.repeat(self.units, self.durations)

    def pitch_frames(self) -> np.ndarray | None:
        """(T,) int64, the pitch of each frame; None without pitch."""
        return None if self.pitch is None else np.repeat(self.pitch, self._durations())

    def deduplicated(self) -> Units:
        """The same frames with every run joined into one unit. Merged units have no runs: they stay as they are."""
        if self.contract.merges:
            return Units(self.units, self._durations(), self.contract)
        return Units.from_frames(self.frames(), self.contract, self.pitch_frames())

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
        """The part from `start` to `stop` seconds, rounded to frames; a unit that is cut keeps the frames inside.

        Beyond the end there is nothing. Raises DumpError for a negative time, NaN, or a stop before the start.
        """
        if not 0 <= start <= (start if stop is None else stop):
            raise DumpError(f"there is no part from {start} to {stop} s; give times from 0, the start first")
        first = round(min(start, self.seconds) * self.frame_rate)
        last = None if stop is None else round(min(stop, self.seconds) * self.frame_rate)
        frames, pitch = self.frames()[first:last], self.pitch_frames()
        pitch = None if pitch is None else pitch[first:last]
        if self.durations is None:
            return Units(frames, None, self.contract, pitch)
        return Units.from_frames(frames, self.contract, pitch)

    def __add__(self, other: Units) -> Units:
        """Concatenation. A run across the seam stays two units, so that the seam can be located afterwards."""
        return Units.joined([self, other])

    @classmethod
    def joined(cls, parts: Sequence[Units]) -> Units:
        """The concatenation of one or more parts, as `+` joins two."""
        first = parts[0]
        for other in parts[1:]:
            if other.contract is not first.contract:
                first.contract.check(other.contract, mine="the first part", theirs="the second part", together=True)
        durations = None if all(p.durations is None for p in parts) else np.concatenate([p._durations() for p in parts])
        pitches = [p.pitch for p in parts if p.pitch is not None or len(p)]
        pitch = [p for p in pitches if p is not None]
        if pitch and len(pitch) < len(pitches):
            raise ContractError("some of these parts have pitch and others none; give all of them pitch, or none")
        return cls(
            np.concatenate([p.units for p in parts]),
            durations,
            first.contract,
            np.concatenate(pitch) if pitch else None,
        )

    def _durations(self) -> np.ndarray:
        return np.ones_like(self.units) if self.durations is None else self.durations

    def __len__(self) -> int:
        return len(self.units)

    def __repr__(self) -> str:
        rate, n_units = self.contract.frame_rate, self.contract.n_units
        length = f"{self.n_frames} frames" if rate is None else f"{self.n_frames / rate:.2f} s"
        return f"Units({len(self)} units, {length}, K={'?' if n_units is None else n_units})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Units):
            return NotImplemented
        return (
            self.contract == other.contract
            and np.array_equal(self.units, other.units)
            and np.array_equal(self._durations(), other._durations())
            and (self.pitch is None) == (other.pitch is None)
            and (self.pitch is None or other.pitch is None or np.array_equal(self.pitch, other.pitch))
        )

    __hash__ = None  # type: ignore[assignment]


UnitsLike = Units | np.ndarray | Sequence[int]  # what `Units.of` takes


def is_batch(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether this is a list of sequences (of units, of samples) and not one: an array, `Units` or a list of numbers.

    An empty list is a batch of none. Text is not a batch, so that a function that takes one sequence can refuse it with
    its type.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return False
    return not (len(value) and np.isscalar(value[0]) and not isinstance(value[0], str | bytes))


def _int_vector(values: Any, what: str) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype == np.int64:
        return values
    if values is None or (isinstance(values, list | tuple) and any(v is None for v in values)):
        raise DumpError(f"{what} must be integers, not null")
    if isinstance(values, list | tuple) and any(isinstance(v, bool) for v in values):  # numpy makes them 0 and 1
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


def _pitch_vector(values: Any, n: int) -> np.ndarray:
    pitch = _int_vector(values, "pitch")
    if len(pitch) != n:
        raise DumpError(f"{n} units but {len(pitch)} values of pitch")
    if n and not 0 <= pitch.min() <= pitch.max() < PITCH_CLASSES:
        bad = pitch.min() if pitch.min() < 0 else pitch.max()
        raise DumpError(f"pitch must be from 0, unvoiced, to {PITCH_CLASSES - 1}, not {bad}")
    return pitch


def _pitch_of_runs(pitch: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """Pitch of frames that are joined into runs: (T,), the frames of each run (R,) → (R,), all int64.

    Of a run it is the mean over its voiced frames, where they are half of it or more.
    """
    runs = np.repeat(np.arange(len(durations)), durations)
    voiced = np.bincount(runs, pitch > 0, len(durations))
    mean = np.rint(np.bincount(runs, pitch, len(durations)) / np.maximum(voiced, 1)).astype(np.int64)
    return np.where(2 * voiced >= durations, mean, 0)


@dataclass(frozen=True, eq=False)
class UnitRow:
    """One sequence. `source` is its audio file's name; `offset` and `samples` say which part, at the contract's rate.

    An id or speaker that is a whole number is taken as text. Raises DumpError for values of other types, an empty id,
    text that is not Unicode, and extra columns with the name of one of the others.
    """

    id: str
    units: Units
    speaker: str | None = None
    source: str = ""
    offset: int = 0
    samples: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values: dict[str, str | int | None] = {
            "id": _text("id", self.id),
            "speaker": None if self.speaker is None else _text("speaker", self.speaker),
            "source": _text("source", "" if self.source is None else self.source),
            "offset": _count("offset", self.offset),
            "samples": _count("samples", self.samples),
        }
        if not values["id"]:
            raise DumpError("id is empty; each row needs one")
        if clash := [name for name in (*OURS, *["pitch"] * (self.units.pitch is not None)) if name in self.extra]:
            raise DumpError(f"{values['id']}: an extra column cannot be called {clash[0]}; rename it")
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _text(name: str, value: Any) -> str:
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DumpError(f"{name} must be text, not {str(value)[:60]!r} ({type(value).__name__})")
    if name == "source":  # a file's name may hold any bytes
        return encodable(value)
    if encodable(value) != value:  # a `Row` of such a file name has an id that can be written
        raise DumpError(f"{name} is not Unicode text: {value[:60]!a}")
    return plain(value)


def _count(name: str, value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 1 << 63:
        raise DumpError(f"{name} must be a whole number of samples, not {str(value)[:60]!r}")
    return int(value)


# ----------------------------------------------------------------------------------------- what people extend

Blocks = Callable[[], Iterable[np.ndarray]]  # a waveform from its start at each call, in blocks (samples,) float32


@runtime_checkable
class Encoder(Protocol):
    """Waveforms → frames. The frames of a file never depend on what is encoded with it.

    `textless.units.encoders.base.Encoder` has everything but `encode_one`, `n_frames` and the attributes.

    Attributes:
        sample_rate: Hz.
        frame_rate: frames a second.
        dim: D.
        contract: of the frames, without a quantizer.
        precision: `fp32` or `bf16`.
    """

    sample_rate: int
    frame_rate: float
    dim: int
    contract: UnitContract
    precision: str

    @overload
    def encode(self, waveform: np.ndarray) -> np.ndarray: ...
    @overload
    def encode(self, waveform: Sequence[np.ndarray]) -> list[np.ndarray]: ...
    def encode(self, waveform: np.ndarray | Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        """One waveform (samples,) float in [-1, 1] → frames (T, D) float32; a list of them → a list.

        Raises AudioError when it is something else (see `as_waveform`), or shorter than one frame.
        """

    def encode_one(self, waveform: np.ndarray) -> np.ndarray:
        """(samples,) float32 in [-1, 1] → (T, D) float32. Raises AudioError when it is shorter than one frame."""

    def encode_batch(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Several files, each as `encode_one` gives it, to 1e-5 of its largest value."""

    def n_frames(self, samples: int) -> int:
        """T of a file of this many samples."""

    def stream(self, blocks: Blocks) -> Iterator[np.ndarray]:
        """Frames of one file, piece by piece: (t, D) float32.

        `blocks` may be called more than once. Raises as `encode_one`.
        """


@runtime_checkable
class Quantizer(Protocol):
    """Frames → units. A subclass inherits `contract_for`.

    Attributes:
        dim: D of the frames that it takes.
        n_units: K.
        contract: of the frames that it was made on, with `n_units`, `codebook` and `transform` filled in.
    """

    contract: UnitContract

    @property
    def dim(self) -> int: ...
    @property
    def n_units(self) -> int: ...

    def predict(self, frames: np.ndarray) -> np.ndarray:
        """(T, D) float32 → (T,) int64 in [0, K). Raises ModelError when the frames are not (T, D) and finite."""

    def contract_for(self, frames: UnitContract) -> UnitContract:
        """Contract of the units that it makes of frames.

        Raises ContractError when it was made on frames of another kind.
        """
        mine = self.contract.with_(n_units=None, codebook=None, transform=None, smoothing=None)
        if mine != UnitContract():  # the origin of other tools' quantizers is unknown
            frames.check(mine, mine="the encoder", theirs="the codebook")
        return frames.with_(
            transform=self.contract.transform, n_units=self.contract.n_units, codebook=self.contract.codebook
        )


@runtime_checkable
class MeasuringQuantizer(Quantizer, Protocol):
    """A quantizer that also says how well each frame fits, such as k-means.

    `textless encode` warns about audio that fits badly.

    Attributes:
        distances: of the training frames, their `mean` at least; None where they are unknown.
    """

    distances: dict[str, float] | None

    def nearest(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `predict`, and the distance of each frame to its unit: (T, D) float32 → (T,) int64, (T,) float32."""

    def is_far(self, distance: float, seconds: float) -> bool:
        """Whether a file of this mean distance and length is unlike the training audio.

        False where `distances` is None.
        """


@runtime_checkable
class SmoothableQuantizer(MeasuringQuantizer, Protocol):
    """A quantizer whose units can be smoothed (`units.smoothing`): it knows the distance of a frame to every unit.

    Its `distances` may hold `squared`, the mean squared distance of the training frames to their units, in which the
    price of a change is counted.
    """

    def squared_distances(self, frames: np.ndarray) -> np.ndarray:
        """(T, D) float32 → (T, K) float32, at least 0; the least of a row is that of `nearest`. Raises as `predict`."""


class SamplingOptions(TypedDict, total=False):
    """The fields of `textless.lm.Sampling`, as keywords."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    no_repeat_ngram: int | None


class GenerateOptions(SamplingOptions, total=False):
    """How a prompt is continued: the length to add, in `seconds` or `max_new_units`, and the sampling."""

    seconds: float | None
    max_new_units: int | None


class ContinueOptions(GenerateOptions, total=False):
    """The keywords of `UnitDecoder.continue_units`; `only_new` leaves the prompt out of the result."""

    seed: int | Sequence[int]
    only_new: bool


@runtime_checkable
class UnitDecoder(Protocol):
    """A language model over units: scores them, and continues them.

    `textless.lm.decoder.Decoder` has everything but the network.

    Attributes:
        contract: of the units.
    """

    contract: UnitContract

    @property
    def n_units(self) -> int: ...

    def nll(self, units: UnitsLike) -> np.ndarray:
        """(N + 1,) float64 nats: of each unit given those before it, and of the end.

        Raises ContractError for other units.
        """

    @overload
    def continue_units(self, prompt: UnitsLike, **options: Unpack[ContinueOptions]) -> Units: ...
    @overload
    def continue_units(self, prompt: Sequence[UnitsLike], **options: Unpack[ContinueOptions]) -> list[Units]: ...
    def continue_units(
        self, prompt: UnitsLike | Sequence[UnitsLike], **options: Unpack[ContinueOptions]
    ) -> Units | list[Units]:
        """Units → Units, a list → a list: the prompt and the units sampled after it.

        Raises ContractError for other units.
        """


class SpeakOptions(TypedDict, total=False):
    """The keywords of `Vocoder.resynth` that hold for a row whatever its units are.

    Attributes:
        speaker: name or index; None is the first.
        durations: "given" or "predict".
        style, level: of vocoders that have them, see `BaseVocoder.resynth`; others need not accept them.
    """

    speaker: str | int | None
    durations: str
    style: str | int | None
    level: str | None


@runtime_checkable
class Vocoder(Protocol):
    """Units → speech. `textless.vocoder.base.BaseVocoder` has everything but the network.

    Attributes:
        contract: of the units that it takes.
        sample_rate: Hz.
        speakers: names; the first is the default.
    """

    contract: UnitContract

    @property
    def sample_rate(self) -> int: ...
    @property
    def speakers(self) -> tuple[str, ...]: ...

    @overload
    def resynth(
        self,
        units: UnitsLike,
        *,
        f0: np.ndarray | None = None,
        **options: Unpack[SpeakOptions],
    ) -> np.ndarray: ...
    @overload
    def resynth(
        self,
        units: Sequence[UnitsLike],
        *,
        f0: Sequence[np.ndarray] | None = None,
        **options: Unpack[SpeakOptions],
    ) -> list[np.ndarray]: ...
    def resynth(
        self,
        units: UnitsLike | Sequence[UnitsLike],
        *,
        f0: np.ndarray | Sequence[np.ndarray] | None = None,
        **options: Unpack[SpeakOptions],
    ) -> np.ndarray | list[np.ndarray]:
        """Units or (N,) integers → (samples,) float32 in [-1, 1] at `sample_rate`; a list → a list.

        Args:
            speaker, durations, style, level: see `SpeakOptions`.
            f0: (T,) to follow, Hz, 0 where unvoiced; None is predicted, where the vocoder can.

        Raises ContractError for units of another kind, ModelError for a request that cannot be met.
        """


@runtime_checkable
class StreamingVocoder(Vocoder, Protocol):
    """A vocoder that speaks while units are still coming."""

    def stream(self, pieces: Iterable[UnitsLike], **options: Unpack[SpeakOptions]) -> Iterator[np.ndarray]:
        """Pieces of one sequence → pieces of what `resynth` makes of the whole, (samples,) float32."""
