"""Waveforms → units: an encoder with a codebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from textless.audio.corpus import Recording, Row, read_rows
from textless.audio.waveform import as_waveform, as_waveforms
from textless.errors import AudioError, ContractError
from textless.types import Units
from textless.units.dump import UnitRow
from textless.units.encoders.base import Encoder
from textless.units.kmeans import Codebook

BATCH_SECONDS = 60.0  # of audio encoded together
LONG_SECONDS = 600  # longer files are encoded as they are read


class Tokenizer:
    """Encoder and codebook: waveform → units. `contract` is what its units carry."""

    def __init__(self, encoder: Encoder, codebook: Codebook) -> None:
        """Raises ContractError when the codebook was made on frames of another encoder, layer or dimension."""
        if codebook.centroids.shape[1] != encoder.dim:
            raise ContractError(
                f"the codebook has {codebook.centroids.shape[1]} dimensions but the encoder {encoder.dim}; use a pair"
            )
        self.encoder, self.codebook, self.precision = encoder, codebook, encoder.precision
        self.contract = codebook.contract_for(encoder.contract)

    def encode(self, waveform: np.ndarray) -> Units:
        """(samples,) float in [-1, 1] → Units, deduplicated. Raises AudioError when it is something else, or shorter than one frame."""
        return Units.from_frames(self.codebook.predict(self.encoder.encode_one(as_waveform(waveform))), self.contract)

    def encode_batch(self, waveforms: Sequence[np.ndarray]) -> list[Units]:
        """Several waveforms together, each as `encode` gives it, and raising as that."""
        return [self._units([frames]) for frames in self.encoder.encode_batch(as_waveforms(waveforms))]

    def _units(self, pieces: Iterable[np.ndarray]) -> Units:
        return self.measure(pieces)[0]

    def measure(self, pieces: Iterable[np.ndarray]) -> tuple[Units, float]:
        """Frames of one file in pieces, (t, D) float32 each → its units, and the mean distance of frames to their centroids."""
        found = [self.codebook.nearest(frames) for frames in pieces]
        units, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return Units.from_frames(units, self.contract), float(distances.mean(dtype=np.float64))


def tokenize(
    rows: Iterable[Row],
    tokenizer: Tokenizer,
    *,
    batch_seconds: float = BATCH_SECONDS,
    watch: Callable[[UnitRow, float], None] = lambda row, distance: None,
) -> Iterator[tuple[Row, UnitRow | AudioError]]:
    """Units of every row, or why there are none, in order; see `encode_rows`. `watch` is told the mean distance of each (`measure`)."""
    for row, samples, pieces in encode_rows(rows, tokenizer.encoder, batch_seconds=batch_seconds):
        try:
            if isinstance(pieces, AudioError):
                raise pieces
            units, distance = tokenizer.measure(pieces)
        except AudioError as e:
            yield row, e
            continue
        source = Path(row.path).name
        made = UnitRow(id=row.id, units=units, speaker=row.speaker, source=source, offset=row.offset, samples=samples())
        watch(made, distance)
        yield row, made


def encode_rows(
    rows: Iterable[Row], encoder: Encoder, *, batch_seconds: float = BATCH_SECONDS
) -> Iterator[tuple[Row, Callable[[], int], Iterable[np.ndarray] | AudioError]]:
    """Frames of every row, or why there are none, in order.

    Files are decoded ahead in threads and encoded `batch_seconds` of audio at a time, which changes nothing but the speed. One that is
    longer than ten minutes is encoded as it is read, while its frames are taken.

    Yields:
        the row; a function that gives its samples, once its frames have been taken; pieces of its frames (t, D) float32, or the error.
        An AudioError in the middle of a long file is raised where its pieces are taken.
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
                encoder.encode_one(audio)  # says how long a file must be
            except AudioError as e:
                audio = AudioError(f"{row.path}: {e}")
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
        yield row, lambda n=n: n, audio if isinstance(audio, AudioError) else [next(frames)]  # type: ignore[misc]


def _named(row: Row, pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same, its errors with the file's name."""
    try:
        yield from pieces
    except AudioError as e:
        raise e if row.path in str(e) else AudioError(f"{row.path}: {e}") from None
