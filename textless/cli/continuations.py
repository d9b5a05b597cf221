"""`quality --continuations`: what continuations say, by a recogniser and a judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from textless.audio.corpus import Corpus, read_rows
from textless.audio.io import SAMPLE_RATE
from textless.cli.inputs import holds_units
from textless.cli.outputs import (
    Failures,
    check_output,
    check_some_good,
    deliver_figures,
    hash_model,
    hash_or_missing,
    hash_rows,
    write_json,
)
from textless.errors import AudioError, TextlessError
from textless.metrics.continuations import holds_transcripts, read_transcripts
from textless.names import repeated
from textless.types import Units
from textless.units.dump import UnitRow

if TYPE_CHECKING:
    from textless.cli.commands import Request

Heard = Iterator[tuple[str, np.ndarray | AudioError]]  # ids and waveforms at 16 kHz


def measure(request: Request, *, asr: str | None, judge: str | None, seed: int, **others: Any) -> int:
    """Diversity and perplexity of continuations: transcripts, wavs, or units, which are spoken; returns the exit code.

    Recogniser, judge and vocoder enter the key by their hashes. `others`: options of other measures, which are refused.
    """
    if given := [f"--{name.replace('_', '-')}" for name, value in others.items() if value]:
        raise TextlessError(f"--continuations and {given[0]} are of different measures; ask for one or the other")
    from textless.lm.hf.pretrained import find_folder
    from textless.metrics.asr import load_recogniser
    from textless.metrics.continuations import score, summarise
    from textless.metrics.judge import Judge
    from textless.metrics.table import continuations_table

    if request.out:
        check_output(request.out, (".json",), request.overwrite)
    failures, device = Failures(), request.models.device
    texts = [name for name in request.inputs if holds_transcripts(name)]
    if texts and (len(texts) < len(request.inputs) or len(texts) > 1 or asr):
        raise TextlessError(f"{texts[0]}: transcripts; give them as the only input, without --asr")
    key: dict[str, Any] = {"command": "quality of continuations", "seed": seed}
    if texts:
        transcripts, files, heard = read_transcripts(texts[0]), 0, None
        key["transcripts"] = dict(sorted(transcripts.items()))
    else:
        transcripts, (files, heard) = {}, _waveforms(request, key, failures)
        key["asr"] = hash_model(find_folder(asr, "a recogniser")) if asr else "pocketsphinx"
    key["judge"] = hash_model(find_folder(judge, "a judge")) if judge else None

    def write(file: IO[str] | None) -> str:
        reader = Judge(judge, device) if judge else None  # before hours of transcribing
        if heard is not None:
            hear = load_recogniser(asr, "transcripts of continuations without --asr need", device)
            for n, (name, waveform) in enumerate(heard, 1):
                if isinstance(waveform, AudioError):
                    failures.rows.append({"id": name, "error": str(waveform)})
                else:
                    transcripts[name] = hear(waveform)
                request.progress(n, files, "files")
        failures.good = len(transcripts)
        check_some_good(failures.rows, failures.good)
        samples = score(transcripts, reader)
        figures = summarise(samples, seed=seed)
        if file:
            names = {"asr": None if texts else asr or "pocketsphinx", "judge": judge}
            write_json(file, {"figures": figures, "samples": samples, **names})
        return continuations_table(figures)

    return deliver_figures(request, key, write, failures)


def _waveforms(request: Request, key: dict[str, Any], failures: Failures) -> tuple[int, Heard]:
    """How many samples the inputs hold, and their audio; what it depends on is added to the key."""
    units = [name for name in request.inputs if holds_units(name)]
    if units and len(units) < len(request.inputs):
        raise TextlessError("units and audio are not measured together; give one or the other")
    if not units:
        corpus = Corpus.load(request.inputs)
        key["corpus"] = corpus.fingerprint(hash_or_missing)
        return len(corpus), ((row.id, waveform) for row, waveform in read_rows(corpus))
    vocoder = request.models.vocoder
    rows = [_without_prompt(row) for row in request.units(failures, vocoder.contract, "the vocoder")]
    if (name := repeated(row.id for row in rows)) is not None:
        raise TextlessError(f"two samples are called {name!r}; give one of them another id")
    key |= {"units": hash_rows(rows), "vocoder": hash_model(request.models.place("vocoder"))}
    return len(rows), ((row.id, _speak(vocoder, row)) for row in rows)


def _without_prompt(row: UnitRow) -> UnitRow:
    """The row without the prompt that `continue` left in it; all prompts are alike in their samples."""
    units, first = row.units, int(row.extra.get("prompt_frames") or 0)
    frames, pitch = units.frames()[first:], units.pitch_frames()
    kept = Units(frames, None, units.contract, None if pitch is None else pitch[first:])
    return replace(row, units=kept if units.durations is None else kept.deduplicated())


def _speak(vocoder: Any, row: UnitRow) -> np.ndarray:
    import soxr

    from textless.model import resynth_row

    if not len(row.units):
        return np.zeros(0, np.float32)
    waveform = resynth_row(vocoder, row, durations="predict" if row.units.durations is None else "given")
    return soxr.resample(waveform, vocoder.sample_rate, SAMPLE_RATE, quality="HQ")
