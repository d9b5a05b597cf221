"""The results of a pipeline as one self-contained HTML page."""

from __future__ import annotations

from textless.report.page import make_report

__all__ = ["make_report"]
