"""Which of several processes this is: torchrun and `accelerate launch` set RANK and WORLD_SIZE."""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK") or 0)


def size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE") or 1)
