"""Values as text for people to read."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`3.2 s`, `1.5 min` from 100 s on, `2.5 h` from 100 min on."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
