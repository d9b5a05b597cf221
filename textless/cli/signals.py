"""Signals that end a command: it cleans up and keeps what is done."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

GRACE = 5.0  # seconds between a signal and the end, however long a library's own loop takes


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came. `code` is 128 and the signal's number, as shells have it."""


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise Terminated in the main thread. A process that still runs GRACE seconds
    later is ended.

    A signal that was ignored, as SIGHUP is under nohup, stays ignored. Outside of the main thread, where no signal
    arrives, this does nothing.
    """
    numbers = [
        n
        for name in ("SIGTERM", "SIGHUP")
        if (n := getattr(signal, name, None)) and signal.getsignal(n) == signal.SIG_DFL
    ]
    if not numbers or threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True
        signal.signal(number, signal.SIG_DFL)  # the second one ends it at once
        raise Terminated(128 + number)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, end)
    # Python runs its handlers once the main thread is back from a library; the C handler writes the number to the pipe
    # at once.
    threading.Thread(target=_insist, args=(reader, numbers), daemon=True).start()
    try:
        yield
    finally:
        if not ended:  # else the thread also limits the time of the interpreter's shutdown
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(before)
            os.close(writer)


def _insist(reader: int, numbers: list[signal.Signals]) -> None:
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while byte := pipe.read(1):
            if byte[0] in numbers:
                time.sleep(GRACE)
                os._exit(128 + byte[0])
