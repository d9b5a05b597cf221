"""TensorBoard event files of a training."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """Writer of scalars and audio samples; pass it to a training as `log`, and `listen` as `listen`.

    A training that resumes from a checkpoint writes to the same folder: events of an earlier attempt beyond the
    checkpoint are purged.

    Args:
        folder: log directory.
        name: of the training; tags are `name/loss` and so on.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.first = folder, name, 0

    @cached_property
    def writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=self.first)

    def __call__(self, step: int, row: dict[str, float]) -> None:
        """Write the scalars of a row; values that are not finite are left out."""
        self.first = self.first or step
        for name, value in row.items():
            if name != "step" and math.isfinite(value):
                self.writer.add_scalar(f"{self.name}/{name}", value, step)
        self.writer.flush()  # visible at once, and a kill loses nothing

    def listen(self, step: int, waveform: np.ndarray, sample_rate: int) -> None:
        """Write an audio sample: (samples,) float32 in [-1, 1]."""
        self.first = self.first or step
        self.writer.add_audio(f"{self.name}/sample", waveform[None].clip(-1, 1), step, sample_rate)
        self.writer.flush()
