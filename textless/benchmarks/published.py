"""Figures of published systems, as their papers print them, in percent."""

from __future__ import annotations

PUBLISHED: tuple[dict[str, str], ...] = ()
