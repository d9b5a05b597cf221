"""A corpus decoded once, for trainings that draw random crops."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from textless.audio.io import to_int16
from textless.audio.rows import Row, read_rows
from textless.errors import AudioError, CorpusError
from textless.files import atomic, write_text


class PackedAudio:
    """A corpus decoded once into one memory-mapped file of 16-bit samples, for trainings that draw random crops.

    `ids` and `speakers` have an entry for each row, `lengths` is (N,) int64 in samples at 16 kHz. 16-bit audio at 16
    kHz is kept bit for bit.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        index = json.loads((self.folder / "index.json").read_text())
        rows = [r for r in index["rows"] if r[0] not in index["bad"]]
        self.ids: list[str] = [r[0] for r in rows]
        self.speakers: list[str | None] = [r[3] for r in rows]
        self.lengths = np.array(index["lengths"], dtype=np.int64)
        self._ends = np.cumsum(self.lengths)
        self._audio = np.memmap(self.folder / "audio.i16", dtype="<i2", mode="r")

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[type[PackedAudio], tuple[Path]]:
        return PackedAudio, (self.folder,)  # a pickled memory map would copy all of the audio

    def waveform(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Row i, or a slice of it: (samples,) float32 in [-1, 1] at 16 kHz."""
        first = self._ends[i] - self.lengths[i]
        start, stop, _ = slice(start, stop).indices(int(self.lengths[i]))
        return self._audio[first + start : first + stop].astype(np.float32) / 32768

    @classmethod
    def build(
        cls, corpus: Iterable[Row], folder: str | Path, *, on_bad: Callable[[Row, AudioError], None] | None = None
    ) -> PackedAudio:
        """Decode a corpus into `folder` (`audio.i16`, `index.json`), or open the folder if it already holds these rows.

        The rows are compared, not the audio: a folder belongs to one content. A row that cannot be read is passed to
        `on_bad` and left out, also when the folder is opened again; without `on_bad` its AudioError is raised. Raises
        CorpusError when no row can be read.
        """
        corpus, folder = tuple(corpus), Path(folder)
        audio, index = folder / "audio.i16", folder / "index.json"
        rows = [[r.id, r.offset, r.samples, r.speaker] for r in corpus]
        if (known := _read_index(index, audio)) and known["rows"] == rows and (on_bad or not known["bad"]):
            for row in corpus:
                if on_bad and row.id in known["bad"]:
                    on_bad(row, AudioError(known["bad"][row.id]))
            return cls(folder)
        folder.mkdir(parents=True, exist_ok=True)
        index.unlink(missing_ok=True)  # the old index must not meet the new audio
        lengths: list[int] = []
        bad: dict[str, str] = {}
        with atomic(audio) as temporary, open(temporary, "wb") as f:
            for row, decoded in read_rows(corpus):
                if isinstance(decoded, AudioError):
                    if on_bad is None:
                        raise decoded
                    on_bad(row, decoded)
                    bad[row.id] = str(decoded)
                else:
                    f.write(to_int16(decoded).astype("<i2", copy=False).data)
                    lengths.append(len(decoded))
            if not lengths:
                raise CorpusError(
                    f"none of the {len(rows)} rows can be read, such as {next(iter(bad.values()), 'none at all')}"
                )
        write_text(index, json.dumps({"rows": rows, "lengths": lengths, "bad": bad}))
        return cls(folder)


def _read_index(index: Path, audio: Path) -> dict[str, Any] | None:
    """The index of a packed folder, or None where it is missing or does not match its audio."""
    try:
        content = json.loads(index.read_text())
        return content if audio.stat().st_size == 2 * sum(content["lengths"]) else None
    except (OSError, ValueError):
        return None
