"""The command line: click commands; nothing is computed here, and nothing heavy is imported before a command runs."""

from textless.cli.app import cli, main

__all__ = ["cli", "main"]
