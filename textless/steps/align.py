"""Forced alignment of audio and words to phones, for metrics."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textless.engine.step import HashFile
from textless.errors import CorpusError, TextlessError
from textless.steps.common import AudioMap, Failures, collect
from textless.steps.sources import Alignments, Corpus, Text

if TYPE_CHECKING:
    import numpy as np

    from textless.engine.job import Job
    from textless.metrics.alignments import Alignment

COLUMNS = ("id", "start", "end", "phone")


@dataclass(frozen=True, kw_only=True)
class Align(AudioMap):
    """Start and end of each phone of the words in `text`, in `phones.tsv`; no training step takes it."""

    type = "align"
    gives = ("alignments",)
    rows_from = ("audio", "text")
    audio: Corpus
    text: Text

    @cached_property
    def _words(self) -> dict[str, str]:
        from textless.metrics.asr import read_text

        return read_text(self.text.file)

    def identity(self, row: Any, hash_file: HashFile) -> Any:
        return [super().identity(row, hash_file), self._words.get(row.id)]

    def tools(self, job: Job) -> dict[str, str]:
        from textless.metrics.asr import check_recogniser

        check_recogniser("alignments need")
        return self._words

    def shard_path(self, n: int) -> str:
        return f"data/{n:05d}.tsv"

    def shard(self, tools: dict[str, str], rows: list, out: Path) -> Failures:
        from textless.audio.corpus import Row, read_rows
        from textless.metrics.align import align

        with open(out, "w", newline="", encoding="utf-8") as f:
            table = csv.writer(f, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE)

            def work(row: Row, waveform: np.ndarray) -> None:
                if row.id not in tools:
                    raise CorpusError("cannot be aligned: there are no words of this id")
                phones = align(waveform, tools[row.id])
                table.writerows([row.id, f"{start:.2f}", f"{end:.2f}", phone] for start, end, phone in phones)

            return collect(read_rows(rows), work, TextlessError)

    def finish(self, job: Job, tools: Any) -> None:
        from textless.metrics.alignments import read_alignments

        with open(job.path / "phones.tsv", "w", encoding="utf-8") as f:
            f.write("\t".join(COLUMNS) + "\n")
            f.writelines(part.read_text(encoding="utf-8") for part in sorted(job.path.glob("data/*.tsv")))
        aligned = read_alignments(job.path / "phones.tsv")
        job.metrics = {"files": float(len(aligned)), "seconds": sum(phones[-1][1] for phones in aligned.values())}


def read_phones(job: Job, step: Any) -> dict[str, Alignment] | None:
    """The phones in a step's field `alignments`, a file or the artefact of `Align`; None where it is empty."""
    from textless.metrics.alignments import read_alignments

    if step.alignments is None:
        return None
    return read_alignments(
        step.alignments.file if isinstance(step.alignments, Alignments) else job.inputs["alignments"] / "phones.tsv"
    )
