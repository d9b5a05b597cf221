"""What there is to hear and see: the sound and the units of the same id, found by walking the graph up from what was spoken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from textless.audio.io import SAMPLE_RATE, audio_samples, read_audio
from textless.engine.pipeline import Pipeline
from textless.engine.step import Source, Step
from textless.engine.store import Store, check_bytes
from textless.errors import AudioError, CorpusError, DumpError
from textless.steps import Align, Alignments, Continue, CopySynthesis, Resynth
from textless.steps import Corpus as CorpusStep
from textless.units.dump import Dump, UnitRow

LONGEST = 15.0  # seconds of one track
SHORTEST = 2.0
SOUND = 240.0  # seconds of all tracks together: 10 MB of WAV in base64, and 2 MB of spectrograms
DRIFT = 0.1  # seconds by which units and their speech may differ in length and still count as aligned


@dataclass
class Units:
    """A row of units under a sound: `durations` frames of each, of which the first begins where the track does."""

    name: str
    units: np.ndarray
    durations: np.ndarray
    frame_rate: float


@dataclass
class Track:
    """A stretch of sound and what stands under it. Seconds are counted from the start of the whole sound.

    Attributes:
        kind: `original`, `resynthesis`, `continuation` or `copy`.
        waveform: (samples,) float32 at 16 kHz of the stretch, None where there is no sound.
        start, seconds, total: where the stretch begins, how long it is, and how long the whole is.
        prompt: where a continuation begins.
        phones: (start, end, phone) that fall into the stretch.
    """

    name: str
    kind: str
    note: str = ""
    rows: list[Units] = field(default_factory=list)
    phones: list[tuple[float, float, str]] = field(default_factory=list)
    waveform: np.ndarray | None = None
    start: float = 0.0
    seconds: float = 0.0
    total: float = 0.0
    prompt: float | None = None


@dataclass
class Example:
    """One id, and every track of it."""

    id: str
    speaker: str | None
    tracks: list[Track]


class _Spoken(NamedTuple):
    """Units of a step, or sound of one, or both."""

    units: Step | None
    speech: Step | None


def read_phones(pipeline: Pipeline, store: Store) -> dict[str, list[tuple[float, float, str]]]:
    """All alignments of a pipeline by id; those that cannot be read are left out."""
    from textless.metrics.alignments import read_alignments

    steps = pipeline.steps.values()
    files = [step.file for step in steps if isinstance(step, Alignments)]
    files += [store.folder(step) / "phones.tsv" for step in steps if isinstance(step, Align)]
    out: dict[str, list[tuple[float, float, str]]] = {}
    for file in files:
        try:
            out |= read_alignments(file)
        except CorpusError:
            continue
    return out


def find_examples(
    pipeline: Pipeline, store: Store, phones: dict[str, list[tuple[float, float, str]]], *, count: int
) -> list[Example]:
    """The first examples by id."""
    return _Finder(pipeline, store, phones).examples(count)


class _Finder:
    def __init__(self, pipeline: Pipeline, store: Store, phones: dict[str, list[tuple[float, float, str]]]) -> None:
        self.pipeline, self.store, self.phones = pipeline, store, phones
        self._corpora: dict[int, dict[str, Any]] = {}  # rows by id, by the step that holds them
        self._dumps: dict[str, dict[str, UnitRow]] = {}  # rows of the ids that are shown, by artefact
        self._wanted: set[str] = set()

    def examples(self, count: int) -> list[Example]:
        spoken = self._spoken()
        # Which ids there are costs a look through every dump; sound is then read of the first ones only.
        roots = sorted({root for one in spoken for _, _, root in self._rows(one)}, key=lambda root: (root[1], root[0]))[
            :count
        ]
        self._wanted = {name for _, name in roots}
        found: dict[tuple[str, str], list[tuple[_Spoken, UnitRow | None, str]]] = defaultdict(list)
        for one in spoken:
            for row, name, root in self._rows(one):
                if root in roots:
                    found[root].append((one, row, name))
        drafts = [self._example(root, found[root]) for root in roots]
        limit = _limit([draft.total for _, tracks in drafts for draft, _ in tracks])
        for _, tracks in drafts:
            for track, file in tracks:
                _cut(track, file, limit)
        return [
            Example(root[1], speaker, [t for t, _ in tracks])
            for root, (speaker, tracks) in zip(roots, drafts, strict=True)
        ]

    def _spoken(self) -> list[_Spoken]:
        """In the pipeline's order, and continuations that nobody spoke."""
        done = [s for s in self.pipeline.steps.values() if not isinstance(s, Source) and self.store.has(s)]
        out = [_Spoken(s.units if self.store.has(s.units) else None, s) for s in done if isinstance(s, Resynth)]
        out = [one for one in out if one.units]
        out += [_Spoken(None, s) for s in done if isinstance(s, CopySynthesis)]
        out += [_Spoken(s, None) for s in done if isinstance(s, Continue) and all(one.units is not s for one in out)]
        # The same step under two names is one.
        return list({tuple(s and self.store.name(s) for s in one): one for one in out}.values())

    def _rows(self, one: _Spoken) -> Iterator[tuple[UnitRow | None, str, tuple[str, str]]]:
        """Each row, what its file is called, and its root: (where its audio comes from, id there)."""
        from textless.audio.corpus import file_stem
        from textless.model import named

        if one.units is None:
            assert isinstance(one.speech, CopySynthesis)
            corpus = one.speech.audio
            files = {p.stem: p for p in self.store.folder(one.speech).glob("data/*/*.wav")}
            for audio in corpus.load():
                if (stem := file_stem(audio.id)) in files:
                    yield None, str(files[stem]), self._root(corpus, audio.id)
            return
        folder = self.store.folder(one.speech) if one.speech else None
        step, parents = one.units, []
        while isinstance(step, Continue):
            parents.append(step)
            step = step.prompts
        corpus = self._corpus(step)
        for row, name in named(_rows_of(self.store.folder(one.units))):
            root = row.id
            for parent in parents:
                root = root.rpartition("-")[0] if parent.samples > 1 else root
            yield row, str(folder / f"{name}.wav") if folder else "", self._root(corpus, root)

    def _root(self, corpus: CorpusStep | None, name: str) -> tuple[str, str]:
        """Two corpora that hold the same part of the same file under the same id are of one mind."""
        row = self._audio(corpus).get(name)
        return ("" if row is None else f"{row.path}\0{row.offset}\0{row.samples}"), name

    def _audio(self, corpus: CorpusStep | None) -> dict[str, Any]:
        if id(corpus) not in self._corpora:
            self._corpora[id(corpus)] = {} if corpus is None else {row.id: row for row in corpus.load()}
        return self._corpora[id(corpus)]

    def _picked(self, step: Step) -> dict[str, UnitRow]:
        name = self.store.name(step)
        if name not in self._dumps:
            self._dumps[name] = {row.id: row for row in _rows_of(self.store.folder(step)) if row.id in self._wanted}
        return self._dumps[name]

    def _corpus(self, step: Step) -> CorpusStep | None:
        """Where units come from: of `encode`, and of `assign` through its frames."""
        audio = getattr(step, "audio", None) or getattr(getattr(step, "frames", None), "audio", None)
        return audio if isinstance(audio, CorpusStep) else None

    def _example(
        self, root: tuple[str, str], found: list[tuple[_Spoken, UnitRow | None, str]]
    ) -> tuple[str | None, list]:
        """Speaker; tracks, not yet cut, and the file of each."""
        tracks: list[tuple[Track, tuple[str, int] | None]] = []
        original, rows = self._original(root, found)
        if original:
            tracks.append((original, rows))
        for one, row, file in found:
            tracks.append((self._track(one, row, file), (file, 0) if file else None))
        speakers = [row.speaker for _, row, _ in found if row is not None and row.speaker]
        return (speakers[0] if speakers else None), [t for t in tracks if t[0].total > 0]

    def _original(self, root: tuple[str, str], found: list) -> tuple[Track | None, tuple[str, int] | None]:
        """The corpus's sound with every row of units that was made of it."""
        path, _, where = root[0].partition("\0")
        sources: dict[str, Step] = {}
        for one, _, _ in found:
            step = one.units
            while isinstance(step, Continue):
                step = step.prompts
            if step is not None and self.store.has(step):
                sources.setdefault(self.store.name(step), step)
        rows = []
        for step in sources.values():
            row = self._picked(step).get(root[1])
            if row is not None and row.units.contract.frame_rate:
                rows.append(_units(self.pipeline.name_of(step), row))
        track = Track("original", "original", rows=rows, phones=self.phones.get(root[1], []))
        if path:
            offset, samples = (None if part == "None" else int(part) for part in where.split("\0"))
            try:
                track.total = (samples or audio_samples(path) - (offset or 0)) / SAMPLE_RATE
                return track, (path, offset or 0)
            except AudioError as e:
                track.note = str(e).rpartition("/")[2]
        track.total = max((_seconds(r) for r in rows), default=0.0)
        return (track if rows else None), None

    def _track(self, one: _Spoken, row: UnitRow | None, file: str) -> Track:
        speech = one.speech
        made = f"{self.pipeline.name_of(speech or one.units)}"
        if row is None:
            track = Track(made, "copy", note="rebuilt from its spectrogram")
        else:
            track = Track(made, "continuation" if isinstance(one.units, Continue) else "resynthesis")
            if isinstance(one.units, Continue):
                track.name = f"{made} · {row.id}" if one.units.samples > 1 else made
                if row.units.contract.frame_rate and "prompt_frames" in row.extra:
                    track.prompt = row.extra["prompt_frames"] / row.units.contract.frame_rate
            if row.units.contract.frame_rate:
                track.rows = [_units(self.pipeline.name_of(one.units), row)]
                track.total = _seconds(track.rows[0])
        if isinstance(speech, Resynth):
            facts = [f"vocoder {self.pipeline.name_of(speech.vocoder)}"]
            facts += [f"speaker {speech.speaker}"] if speech.speaker is not None else []
            facts += ["pitch of the original"] if speech.f0 else []
            track.note = ", ".join(facts)
        if file:
            try:
                spoken = audio_samples(file) / SAMPLE_RATE
            except AudioError:  # the row failed, and failures.jsonl says why
                track.total = 0.0
                return track
            if track.rows and abs(spoken - track.total) > DRIFT:  # durations were predicted: nobody wrote down which
                track.rows, track.note, track.prompt = [], f"{track.note}; durations predicted, units not aligned", None
            track.total = spoken
        return track


def _rows_of(folder: Path) -> Iterator[UnitRow]:
    try:
        yield from Dump(folder)
    except DumpError:
        check_bytes([folder])


def _units(name: str, row: UnitRow) -> Units:
    units = row.units
    durations = np.ones_like(units.units) if units.durations is None else units.durations
    return Units(name, units.units, durations, units.frame_rate)


def _seconds(row: Units) -> float:
    return float(row.durations.sum() / row.frame_rate)


def _limit(totals: list[float]) -> float:
    """So many seconds of each track that all together stay below SOUND."""
    limit = LONGEST
    while limit > SHORTEST and sum(min(t, limit) for t in totals) > SOUND:
        limit -= 0.5
    return limit


def _cut(track: Track, file: tuple[str, int] | None, limit: float) -> None:
    """Keep `limit` seconds: the first, or those around the place where a continuation begins."""
    rate = track.rows[0].frame_rate if track.rows else 100.0
    if track.prompt and track.total > limit:
        track.start = round(max(0.0, min(track.prompt - limit / 3, track.total - limit)) * rate) / rate
    track.seconds = min(limit, track.total - track.start)
    if file:
        path, offset = file
        try:
            track.waveform = read_audio(
                path,
                offset=offset + round(track.start * SAMPLE_RATE),
                samples=max(1, round(track.seconds * SAMPLE_RATE)),
            )
            track.seconds = len(track.waveform) / SAMPLE_RATE
        except AudioError as e:
            track.note = str(e).rpartition("/")[2]
    end = track.start + track.seconds
    track.rows = [_between(row, track.start, end) for row in track.rows]
    track.phones = [(max(a, track.start), min(b, end), p) for a, b, p in track.phones if a < end and b > track.start]


def _between(row: Units, start: float, end: float) -> Units:
    """The runs in a stretch; one that is cut keeps the frames inside."""
    ends = np.cumsum(row.durations)
    first, last = round(start * row.frame_rate), round(end * row.frame_rate)
    durations = np.minimum(ends, last) - np.maximum(ends - row.durations, first)
    return Units(row.name, row.units[durations > 0], durations[durations > 0], row.frame_rate)
