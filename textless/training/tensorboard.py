"""Training curves for TensorBoard."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """Event files of one training; give it to a training as `log`.

    A training that goes on from a checkpoint goes on in the same folder: what an earlier attempt wrote beyond that point is not shown.

    Args:
        folder: for the event files.
        name: of the training; tags are `name/loss` and so on.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.first = folder, name, 0

    @cached_property
    def writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=self.first)

    def __call__(self, step: int, row: dict[str, float]) -> None:
        """Write the figures of a row; those that are not finite numbers are left out."""
        self.first = self.first or step
        for name, value in row.items():
            if name != "step" and math.isfinite(value):
                self.writer.add_scalar(f"{self.name}/{name}", value, step)
        self.writer.flush()  # so that it can be seen at once, and a kill loses nothing

    def listen(self, step: int, waveform: np.ndarray, sample_rate: int) -> None:
        """Write a sample: (samples,) float32 in [-1, 1]."""
        self.first = self.first or step
        self.writer.add_audio(f"{self.name}/sample", waveform[None].clip(-1, 1), step, sample_rate)
        self.writer.flush()
