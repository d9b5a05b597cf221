"""Metrics of a tokenizer, or of an encoder alone, on audio: those of `units`, `robustness` and ABX of frames."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textless.audio.corpus import Row, read_rows
from textless.errors import AudioError, CorpusError, RowsFailedError
from textless.metrics.alignments import Alignment
from textless.metrics.items import Item
from textless.metrics.robustness import mean_distances, unit_edit_distances
from textless.metrics.units import measure_frames, measure_units
from textless.names import by_plain_name
from textless.types import Encoder
from textless.units.dump import UnitRow
from textless.units.frames import read_frames, write_frames
from textless.units.tokenizer import Tokenizer, encode_rows

SHARD = 64  # files whose frames are held before they are written to disk

Progress = Callable[[int, int, str], None]
Failures = list[dict[str, str]]


def measure_tokenizer(
    rows: Iterable[Row],
    model: Tokenizer | Encoder,
    *,
    alignments: Mapping[str, Alignment] | None = None,
    items: Sequence[Item] | None = None,
    perturb: bool = False,
    seed: int = 0,
    progress: Progress = lambda done, total, what: None,
    **discovery: Any,
) -> tuple[dict[str, float], Failures]:
    """Encode audio, and measure its units and frames.

    Args:
        model: a tokenizer, for metrics of its units and, where there are phones, of its frames; or an encoder.
        discovery: `fit`, `fit_alignments` and `n_phones` of `measure_units`.
        perturb: also encode each file perturbed, eight times, and compare the units (see `unit_edit_distances`).

    Returns:
        what `measure_units`, `measure_frames` and `mean_distances` return; and the rows that failed, as {"id",
        "error"}. Frames of the files that have phones are kept in a temporary folder, 4 D bytes each.

    Raises:
        RowsFailedError: all rows failed. CorpusError: nothing to measure an encoder by. Otherwise as the three.
    """
    tokenizer, encoder = (model, model.encoder) if isinstance(model, Tokenizer) else (None, model)
    rows = list(rows)
    alignments = None if alignments is None else by_plain_name(alignments)
    phones = set(alignments or ()) | {item.file for item in items or ()}
    if tokenizer is None and perturb:
        raise CorpusError(
            "an encoder alone makes no units to compare with those of perturbed audio; give a codebook too"
        )
    if tokenizer is None and not phones:
        raise CorpusError(
            "an encoder alone is measured by how its frames tell phones apart; "
            "give alignments or items, or a codebook too"
        )
    run = _Run(rows, encoder, tokenizer, progress)
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n, shard in enumerate(_shards(run.frames(phones))):
            write_frames(Path(folder) / f"{n:06d}", shard, dim=encoder.dim)
        if len(run.failures) == len(rows):
            raise RowsFailedError.of(run.failures)
        if tokenizer:
            values |= measure_units(run.units, alignments=alignments, items=items, seed=seed, **discovery)
        if phones:
            values |= measure_frames(
                dict(read_frames(Path(folder))),
                frame_rate=encoder.frame_rate,
                alignments=alignments,
                items=items,
                speakers={row.id: row.speaker for row in rows},
                seed=seed,
            )
    if tokenizer and perturb:
        values |= mean_distances(run.distances(tokenizer, seed), seed=seed)
    return values, run.failures


measure_audio = measure_tokenizer  # its name before 0.2, importable for one release


@dataclass
class _Run:
    """Rows that are encoded, and what comes of them: units, and failures."""

    rows: list[Row]
    encoder: Encoder
    tokenizer: Tokenizer | None
    progress: Progress
    units: list[UnitRow] = field(default_factory=list)
    failures: Failures = field(default_factory=list)

    def frames(self, ids: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Encode all rows; yields the frames of those in `ids`, and collects the units of all."""
        for n, (row, samples, pieces) in enumerate(encode_rows(self.rows, self.encoder), 1):
            try:
                if isinstance(pieces, AudioError):
                    raise pieces
                frames = np.concatenate(list(pieces))
            except AudioError as e:
                self.failures.append({"id": row.id, "error": str(e)})
                continue
            if self.tokenizer:
                units, _ = self.tokenizer.measure([frames])
                self.units.append(UnitRow(id=row.id, units=units, speaker=row.speaker, samples=samples()))
            if row.id in ids:
                yield row.id, frames
            self.progress(n, len(self.rows), "files")

    def distances(self, tokenizer: Tokenizer, seed: int) -> Iterator[dict[str, float]]:
        """Unit edit distances of each row that has not failed."""
        failed = {failure["id"] for failure in self.failures}
        rows = [row for row in self.rows if row.id not in failed]
        for n, (row, waveform) in enumerate(read_rows(rows), 1):
            try:
                if isinstance(waveform, AudioError):
                    raise waveform
                yield unit_edit_distances(waveform, tokenizer.encode_batch, name=row.id, seed=seed)
            except AudioError as e:  # too short once it is sped up
                self.failures.append({"id": row.id, "error": f"{row.place}: {e}"})
            self.progress(n, len(rows), "files perturbed")


def _shards(files: Iterable[tuple[str, np.ndarray]]) -> Iterator[list[tuple[str, np.ndarray]]]:
    shard: list[tuple[str, np.ndarray]] = []
    for file in files:
        shard.append(file)
        if len(shard) == SHARD:
            yield shard
            shard = []
    if shard:
        yield shard
