"""Everything that is measured of an encoder and its codebook, from audio."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from textless.audio.corpus import Row, read_rows
from textless.errors import AudioError, CorpusError, RowsFailedError
from textless.metrics.items import Alignment, Item
from textless.metrics.robustness import edit_distances, mean_distances
from textless.metrics.units import measure_frames, measure_units
from textless.names import by_plain_name
from textless.types import Units
from textless.units.dump import UnitRow
from textless.units.encoders.base import Encoder
from textless.units.frames import read_frames, write_frames
from textless.units.tokenizer import Tokenizer, encode_rows

SHARD = 64  # files whose frames are held before they go to disk


def measure_audio(
    rows: Iterable[Row],
    model: Tokenizer | Encoder,
    *,
    alignments: Mapping[str, Alignment] | None = None,
    items: Sequence[Item] | None = None,
    perturb: bool = False,
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> tuple[dict[str, float], list[dict[str, str]]]:
    """Encode audio and measure what comes of it.

    Args:
        model: a tokenizer, whose units are measured, and its frames where there are phones; or an encoder, of which frames only are.
        perturb: also encode each file perturbed, eight times, and compare the units (see `edit_distances`).

    Returns:
        the figures of `measure_units`, `measure_frames` and `mean_distances`; and the rows that failed, as {"id", "error"}. Frames of the
        files that have phones wait in a temporary folder, 4 D bytes each.

    Raises:
        RowsFailedError: all rows failed. CorpusError: nothing to measure an encoder by. Otherwise as the three.
    """
    tokenizer, encoder = (model, model.encoder) if isinstance(model, Tokenizer) else (None, model)
    rows = list(rows)
    alignments = None if alignments is None else by_plain_name(alignments)
    wanted = set(alignments or ()) | {item.file for item in items or ()}
    if tokenizer is None and perturb:
        raise CorpusError(
            "an encoder alone makes no units to compare with those of perturbed audio; give a codebook too"
        )
    if tokenizer is None and not wanted:
        raise CorpusError(
            "an encoder alone is measured by how its frames tell phones apart; give alignments or items, or a codebook too"
        )
    units: list[UnitRow] = []
    failures: list[dict[str, str]] = []
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:

        def kept() -> Iterator[tuple[str, np.ndarray]]:
            """Frames of the files that have phones, while units are made of all."""
            for n, (row, samples, pieces) in enumerate(encode_rows(rows, encoder), 1):
                try:
                    if isinstance(pieces, AudioError):
                        raise pieces
                    frames = np.concatenate(list(pieces))
                except AudioError as e:
                    failures.append({"id": row.id, "error": str(e)})
                    continue
                if tokenizer:
                    made = Units.from_frames(tokenizer.quantizer.predict(frames), tokenizer.contract)
                    units.append(UnitRow(id=row.id, units=made, speaker=row.speaker, samples=samples()))
                if row.id in wanted:
                    yield row.id, frames
                progress(n, len(rows), "files")

        for n, shard in enumerate(_shards(kept())):
            write_frames(Path(folder) / f"{n:06d}", shard, dim=encoder.dim)
        if len(failures) == len(rows):
            raise RowsFailedError.of(failures)
        if tokenizer:
            figures |= measure_units(units, alignments=alignments, items=items, seed=seed)
        if wanted:
            figures |= measure_frames(
                dict(read_frames(Path(folder))),
                frame_rate=encoder.frame_rate,
                alignments=alignments,
                items=items,
                speakers={row.id: row.speaker for row in rows},
                seed=seed,
            )
    if tokenizer and perturb:
        bad = {failure["id"] for failure in failures}
        figures |= mean_distances(
            _distances([row for row in rows if row.id not in bad], tokenizer, failures, seed, progress), seed=seed
        )
    return figures, failures


def _shards(files: Iterable[tuple[str, np.ndarray]]) -> Iterator[list[tuple[str, np.ndarray]]]:
    shard: list[tuple[str, np.ndarray]] = []
    for file in files:
        shard.append(file)
        if len(shard) == SHARD:
            yield shard
            shard = []
    if shard:
        yield shard


def _distances(
    rows: list[Row],
    tokenizer: Tokenizer,
    failures: list[dict[str, str]],
    seed: int,
    progress: Callable[[int, int, str], None],
) -> Iterator[dict[str, float]]:
    for n, (row, waveform) in enumerate(read_rows(rows), 1):
        try:
            if isinstance(waveform, AudioError):
                raise waveform
            yield edit_distances(waveform, tokenizer.encode_batch, name=row.id, seed=seed)
        except AudioError as e:  # too short once it is sped up
            failures.append({"id": row.id, "error": f"{row.path}: {e}"})
        progress(n, len(rows), "files perturbed")
