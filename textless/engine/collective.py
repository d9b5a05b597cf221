"""Steps that several processes run together, as torchrun and `accelerate launch` start them.

The first process makes everything. The others join where a step is `collective`, once the first has announced it: by
files in the step's scratch folder, so that nothing is needed but the store. Launchers end the others when one process
fails.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from textless.ranks import rank, size

POLL = 0.2  # seconds
_LAUNCH = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "WORLD_SIZE")  # these tell one launch from another


def announce(scratch: Path) -> None:
    """In the first process: let the others join, if there are any. The announcement of an earlier launch is removed."""
    shutil.rmtree(scratch / "ranks", ignore_errors=True)
    if size() > 1:
        (scratch / "ranks").mkdir(exist_ok=True)
        (scratch / "ranks" / "launch").write_text(_launch())


def announced(scratch: Path) -> bool:
    """Whether the first process of this launch, not of another on the same store, has announced the step."""
    try:
        return (scratch / "ranks" / "launch").read_text() == _launch()
    except FileNotFoundError:
        return False


def private_folder(scratch: Path) -> Path:
    """A folder for files of this process that no other process reads."""
    folder = scratch / "ranks" / str(rank())
    folder.mkdir(exist_ok=True)
    return folder


def leave(scratch: Path) -> None:
    """In the others: say that this process needs nothing in the scratch folder any more."""
    (scratch / "ranks" / f"{rank()}.left").touch()


def wait_until_left(scratch: Path) -> None:
    """In the first process: wait until all others have left."""
    while size() > 1 and len(list((scratch / "ranks").glob("*.left"))) < size() - 1:
        time.sleep(POLL)


def _launch() -> str:
    return " ".join(os.environ.get(name, "") for name in _LAUNCH)
