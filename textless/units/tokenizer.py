"""Waveforms → units: an encoder with a quantizer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from textless.audio.corpus import Recording, Row, read_rows
from textless.audio.waveform import as_waveform, as_waveforms
from textless.errors import AudioError, ContractError
from textless.types import Encoder, Quantizer, Units
from textless.units.dump import UnitRow
from textless.units.smoothing import quantize, smoothing_of

BATCH_SECONDS = 60.0  # of audio encoded together
LONG_SECONDS = 600  # longer files are encoded as they are read


class Tokenizer:
    """Encoder and quantizer: waveform → units. `contract` is what its units carry.

    Args:
        smoothing: λ, the price of a change of the unit in mean squared distances of the codebook, see
            `units.smoothing`; 0 is none, and None the quantizer's own.

    Raises ContractError when the quantizer was made on frames of another encoder, layer or dimension, and ModelError
    when its units cannot be smoothed.
    """

    def __init__(self, encoder: Encoder, quantizer: Quantizer, *, smoothing: float | None = None) -> None:
        if quantizer.dim != encoder.dim:
            raise ContractError(
                f"the codebook has {quantizer.dim} dimensions but the encoder {encoder.dim}; use a pair"
            )
        self.encoder, self.quantizer, self.precision = encoder, quantizer, encoder.precision
        self.smoothing = smoothing_of(quantizer, smoothing)
        self.contract = quantizer.contract_for(encoder.contract).with_(smoothing=self.smoothing)

    @property
    def codebook(self) -> Quantizer:
        """The quantizer, by the name that it had before 0.2."""
        return self.quantizer

    def encode(self, waveform: np.ndarray) -> Units:
        """(samples,) float in [-1, 1] → Units, deduplicated.

        Raises AudioError as `as_waveform`, and below one frame.
        """
        return self.measure([self.encoder.encode_one(as_waveform(waveform))])[0]

    def encode_batch(self, waveforms: Sequence[np.ndarray]) -> list[Units]:
        """Several waveforms together, each as `encode` gives it. Raises as `encode`."""
        return [self.measure([frames])[0] for frames in self.encoder.encode_batch(as_waveforms(waveforms))]

    def measure(self, pieces: Iterable[np.ndarray]) -> tuple[Units, float | None]:
        """Frames of one file, (t, D) float32 each → its units, and the mean distance of its frames to the nearest.

        The distance is None where the quantizer measures none (`MeasuringQuantizer`).
        """
        units, distance = quantize(self.quantizer, pieces, self.smoothing)
        return Units.from_frames(units, self.contract), distance


def tokenize(
    rows: Iterable[Row],
    tokenizer: Tokenizer,
    *,
    batch_seconds: float = BATCH_SECONDS,
    watch: Callable[[UnitRow, float | None], None] = lambda row, distance: None,
) -> Iterator[tuple[Row, UnitRow | AudioError]]:
    """Units of every row, or the error, in order; see `encode_rows`.

    `watch` gets each with its distance (`measure`).
    """
    for row, samples, pieces in encode_rows(rows, tokenizer.encoder, batch_seconds=batch_seconds):
        try:
            if isinstance(pieces, AudioError):
                raise pieces
            units, distance = tokenizer.measure(pieces)
        except AudioError as e:
            yield row, e
            continue
        source = row.source_name
        result = UnitRow(
            id=row.id, units=units, speaker=row.speaker, source=source, offset=row.offset, samples=samples()
        )
        watch(result, distance)
        yield row, result


def encode_rows(
    rows: Iterable[Row], encoder: Encoder, *, batch_seconds: float = BATCH_SECONDS
) -> Iterator[tuple[Row, Callable[[], int], Iterable[np.ndarray] | AudioError]]:
    """Frames of every row, or the error, in order.

    Files are decoded ahead in threads and encoded `batch_seconds` of audio at a time, which changes nothing but the
    speed. A file longer than ten minutes is encoded as it is read, while its frames are consumed.

    Yields:
        the row; a function that returns its number of samples, to be called after its frames are consumed; its frames
        in pieces (t, D) float32, or the error. An AudioError in the middle of a long file is raised while its pieces
        are consumed.
    """
    batch: list[tuple[Row, np.ndarray | AudioError]] = []
    seconds = 0.0
    for row, audio in read_rows(rows, longest=LONG_SECONDS * encoder.sample_rate):
        if isinstance(audio, Recording):
            yield from _encoded(batch, encoder)
            batch, seconds = [], 0.0
            yield row, audio.samples, _named(row, encoder.stream(audio.blocks))
            continue
        if isinstance(audio, np.ndarray) and encoder.n_frames(len(audio)) < 1:
            try:
                encoder.encode_one(audio)  # the error says how long a file must be
            except AudioError as e:
                audio = AudioError(f"{row.place}: {e}")
        batch.append((row, audio))
        seconds += len(audio) / encoder.sample_rate if isinstance(audio, np.ndarray) else 0
        if seconds >= batch_seconds:
            yield from _encoded(batch, encoder)
            batch, seconds = [], 0.0
    yield from _encoded(batch, encoder)


def _encoded(
    batch: list[tuple[Row, np.ndarray | AudioError]], encoder: Encoder
) -> Iterator[tuple[Row, Callable[[], int], Iterable[np.ndarray] | AudioError]]:
    frames = iter(encoder.encode_batch([w for _, w in batch if isinstance(w, np.ndarray)]))
    for row, audio in batch:
        n = len(audio) if isinstance(audio, np.ndarray) else 0
        yield row, functools.partial(int, n), audio if isinstance(audio, AudioError) else [next(frames)]


def _named(row: Row, pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same pieces; errors get the file's name."""
    try:
        yield from pieces
    except AudioError as e:
        raise e if str(row.place) in str(e) else AudioError(f"{row.place}: {e}") from None
