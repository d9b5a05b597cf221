"""The pitch of units: log-F0 above a speaker's mean, in steps, as a second stream beside the units.

Kharitonov et al., "Text-free prosody-aware generative spoken language modeling" (2022, arXiv:2109.03264), section 3.2.
Its 32 steps of log-F0 have equal mass in the training data. Here they are equally wide, so that they need no training
and mean the same in every dump; unvoiced units have a class of their own, as there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from textless.errors import AudioError, DumpError
from textless.types import PITCH_CLASSES, UnitContract, UnitRow, Units

STEPS = PITCH_CLASSES - 1
CENTS = 75.0  # a step: 32 of them are two octaves, and the rounding is below what listeners hear as a movement
MIDDLE = (STEPS + 1) / 2  # the step at the mean, which is a border of two


def mean_octaves(contours: Iterable[np.ndarray]) -> float:
    """Mean of log2 F0 over the voiced frames of some files: (T,) Hz each, 0 where unvoiced. NaN without such frames."""
    total, count = 0.0, 0
    for f0 in contours:
        voiced = np.log2(f0[f0 > 0].astype(np.float64))
        total, count = total + float(voiced.sum()), count + len(voiced)
    return total / count if count else math.nan


def pitch_of_units(f0: np.ndarray, durations: np.ndarray, mean: float) -> np.ndarray:
    """The pitch of each unit of a file.

    Args:
        f0: (T,) Hz, 0 where unvoiced (see `track_f0`); frames beyond the units are left out.
        durations: (N,) int64, frames of each unit.
        mean: log2 of the Hz that the pitch is relative to (`mean_octaves`).

    Returns:
        (N,) int64. 0 where less than half of the frames are voiced, else 1 … 32: the step of 75 cents that is nearest
        to the mean of log-F0 over the voiced frames. The steps reach 1162.5 cents to either side; beyond, the last.

    Raises:
        AudioError: fewer frames of F0 than of units.
    """
    frames = int(durations.sum())
    if len(f0) < frames:
        raise AudioError(f"F0 has {len(f0)} frames and the units {frames}; track F0 in the audio of these units")
    units = np.repeat(np.arange(len(durations)), durations)
    f0 = f0[:frames].astype(np.float64)
    voiced = np.bincount(units, f0 > 0, len(durations))
    octaves = np.bincount(units, np.log2(np.where(f0 > 0, f0, 1.0)), len(durations))
    steps = 1200 / CENTS * (octaves / np.maximum(voiced, 1) - mean) + MIDDLE
    is_voiced = 2 * voiced >= durations  # never of a file without a voiced frame, whose mean is NaN
    return np.where(is_voiced, np.clip(np.rint(np.where(is_voiced, steps, 1)), 1, STEPS), 0).astype(np.int64)


def pitch_hz(pitch: np.ndarray, mean: float) -> np.ndarray:
    """The way back, for a speaker whose mean is `mean`: (N,) int64 → (N,) float64 Hz, 0 where unvoiced."""
    return np.where(pitch > 0, 2 ** (mean + (pitch - MIDDLE) * CENTS / 1200), 0.0)


def with_pitch(
    rows: Iterable[UnitRow], f0: Mapping[str, np.ndarray], contract: UnitContract
) -> tuple[UnitContract, Iterator[UnitRow]]:
    """Rows with the pitch of their units, and the contract of those.

    Pitch is relative to the mean of the row's speaker over all of `rows`; where no row has a speaker, to that of the
    row.

    Args:
        rows: of a dump, which can be read twice.
        f0: (T,) Hz by id, 0 where unvoiced, at the frame rate of the units.
        contract: of the rows.

    Raises:
        DumpError: the rows have pitch already, some have a speaker and others none, or a row has no F0.
        AudioError: F0 with fewer frames than the units.
    """
    contours: dict[str | None, list[np.ndarray]] = {}
    for row in rows:
        if row.id not in f0:
            raise DumpError(f"{row.id}: there is no F0 of these units; track it in the audio that they were made from")
        contours.setdefault(row.speaker, []).append(f0[row.id][: row.units.n_frames])
    if None in contours and len(contours) > 1:
        raise DumpError(
            "some rows have a speaker and others none; pitch is relative to the speaker, so name all or none"
        )
    if contract.pitch:
        raise DumpError("these units have pitch already; give those that they were made from")
    by_speaker = None not in contours
    contract = contract.with_(pitch="speaker" if by_speaker else "file")
    means = {speaker: mean_octaves(group) for speaker, group in contours.items()} if by_speaker else {}

    def pitched() -> Iterator[UnitRow]:
        for row in rows:
            units = row.units.deduplicated()
            assert units.durations is not None
            mean = means[row.speaker] if by_speaker else mean_octaves([f0[row.id][: units.n_frames]])
            pitch = pitch_of_units(f0[row.id], units.durations, mean)
            yield replace(row, units=Units(units.units, units.durations, contract, pitch))

    return contract, pitched()
