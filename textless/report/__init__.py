"""What a pipeline made, as one HTML page that needs nothing else."""

from __future__ import annotations

from textless.report.page import make_report

__all__ = ["make_report"]
