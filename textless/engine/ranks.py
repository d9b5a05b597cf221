"""Processes that run one pipeline together, as torchrun and `accelerate launch` start them.

The first makes everything. The others join in where a step is `collective`, when the first has called them: with files in the step's
scratch folder, so that nothing is needed but the store. Launchers end the others when one process fails.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

POLL = 0.2  # seconds


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK") or 0)


def size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def call(scratch: Path) -> None:
    """In the first process: let the others join in, if there are any. What a call of an earlier launch left is removed."""
    shutil.rmtree(scratch / "ranks", ignore_errors=True)
    if size() > 1:
        (scratch / "ranks").mkdir(exist_ok=True)
        (scratch / "ranks" / "launch").write_text(_launch())


def called(scratch: Path) -> bool:
    """Whether the first process of this launch, not of another on the same store, has called."""
    try:
        return (scratch / "ranks" / "launch").read_text() == _launch()
    except FileNotFoundError:
        return False


def corner(scratch: Path) -> Path:
    """A folder of this process's own, where it may write what nobody will read."""
    folder = scratch / "ranks" / str(rank())
    folder.mkdir(exist_ok=True)
    return folder


def leave(scratch: Path) -> None:
    """In the others: say that nothing in the scratch folder is needed any more."""
    (scratch / "ranks" / f"{rank()}.left").touch()


def wait_until_left(scratch: Path) -> None:
    """In the first process: go on when all others have left."""
    while size() > 1 and len(list((scratch / "ranks").glob("*.left"))) < size() - 1:
        time.sleep(POLL)


def _launch() -> str:
    return " ".join(
        os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "WORLD_SIZE")
    )
