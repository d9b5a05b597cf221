"""`textless models`: the embedded sets and the published chains."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from textless.cli.progress import one_line

WIDTH = 80  # columns of a terminal
LETTERS = {"encoder": "e", "codebook": "c", "lm": "l", "vocoder": "v"}


@click.command("models")
def models_() -> None:
    """List the models that have a name: what each has, the size of its download, whether it is here, its licence.

    Parts: e an encoder, c a codebook, l a language model, v a vocoder. Where the pages do not say the size of every
    part it is ? or more than the sum of the others, until they are fetched.
    """
    rows = [("name", "has", "MB", "here", "licence"), *embedded(), *published()]
    for name, parts, size, here, licence in rows:
        line = f"{name:44} {parts:4} {size:>6} {here:4} {licence}"
        click.echo(f"{line[: WIDTH - 1]}…" if len(line) > WIDTH and sys.stdout.isatty() else line)


def embedded() -> list[tuple[str, str, str, str, str]]:
    """The rows of the sets that come with textless."""
    from textless.model import EMBEDDED, PARTS

    return [
        (
            one_line(folder.name),
            "".join(LETTERS[part] if (folder / part).is_dir() else "-" for part in PARTS),
            f"{_size(folder):d}",
            "yes",
            "comes with textless",
        )
        for folder in sorted(EMBEDDED.iterdir())
        if folder.is_dir() and not folder.name.startswith("_")
    ]


def published() -> list[tuple[str, str, str, str, str]]:
    """The rows of the table of `textless.zoo`."""
    from textless.zoo import PUBLISHED, local

    rows = []
    for name, chain in PUBLISHED.items():
        here = {part: local(entry) for part, entry in chain.parts.items()}
        sizes = [
            entry.size if (path := here[part]) is None else _size(path.parent if path.is_file() else path)
            for part, entry in {entry.place: (part, entry) for part, entry in chain.parts.items()}.values()
        ]
        known = sum(size or 0 for size in sizes)
        missing = sum(path is None for path in here.values())
        rows.append(
            (
                name,
                "".join(letter if part in here else "-" for part, letter in LETTERS.items()),
                (f">{known}" if known else "?") if None in sizes else str(known),
                "yes" if not missing else "no" if missing == len(here) else "part",
                ", ".join(sorted({part.licence for part in chain.parts.values()}, key=lambda x: ("-NC" not in x, x))),
            )
        )
    return rows


def _size(folder: Path) -> int:
    """MB of the files in a folder."""
    return -(-sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) // 1_000_000)
