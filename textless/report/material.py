"""Examples: sound and units of the same id, collected by walking the graph up from the steps that synthesise speech."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from textless.audio.io import SAMPLE_RATE, audio_samples, read_audio
from textless.audio.place import Place
from textless.audio.rows import Row, within_file
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
DRIFT = 0.1  # seconds; the largest difference in length of aligned units and speech


@dataclass
class Units:
    """Units of a track, each of `durations` frames; the first begins where the track does."""

    name: str
    units: np.ndarray
    durations: np.ndarray
    frame_rate: float


@dataclass
class Track:
    """An excerpt of a sound, with its units and phones. Seconds are counted from the start of the whole sound.

    Attributes:
        kind: `original`, `resynthesis`, `continuation` or `copy`.
        waveform: (samples,) float32 at 16 kHz of the excerpt, None where there is no sound.
        start, seconds, total: start and length of the excerpt, and length of the whole sound.
        prompt: end of the prompt of a continuation.
        phones: (start, end, phone) inside the excerpt.
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
    """One id with its tracks."""

    id: str
    speaker: str | None
    tracks: list[Track]


class _Spoken(NamedTuple):
    """A step with units, a step with speech, or speech with the units that it was synthesised from."""

    units: Step | None
    speech: Step | None

    @property
    def step(self) -> Step:
        """The step that names the track."""
        step = self.speech or self.units
        assert step is not None
        return step


Root = tuple[str, str]  # where the audio of an example comes from (file, offset, samples), and its id there
File = tuple[str | Place, int]  # where it is, and its first sample
_Part = tuple[_Spoken, UnitRow | None, str]  # row, and path of its speech, of one id


def read_phones(pipeline: Pipeline, store: Store) -> dict[str, list[tuple[float, float, str]]]:
    """All alignments of a pipeline by id; files that cannot be read are left out."""
    from textless.metrics.alignments import read_alignments

    steps = pipeline.steps.values()
    files = [Path(step.file) for step in steps if isinstance(step, Alignments)]
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
    """The first `count` examples in the order of their ids."""
    return _Finder(pipeline, store, phones).examples(count)


class _Finder:
    def __init__(self, pipeline: Pipeline, store: Store, phones: dict[str, list[tuple[float, float, str]]]) -> None:
        self.pipeline, self.store, self.phones = pipeline, store, phones
        self._corpora: dict[int, dict[str, Any]] = {}  # rows by id, by the step that holds them
        self._sounds: dict[str, Row] = {}  # by what identifies them in a root
        self._dumps: dict[str, dict[str, UnitRow]] = {}  # rows of the ids that are shown, by artefact
        self._ids: set[str] = set()  # that are shown

    def examples(self, count: int) -> list[Example]:
        spoken = self._spoken()
        # All dumps are read for their ids; sound is read for the first ids only.
        roots = {root for one in spoken for _, _, root in self._rows(one)}
        shown = sorted(roots, key=lambda root: (root[1], root[0]))[:count]
        self._ids = {name for _, name in shown}
        parts: dict[Root, list[_Part]] = defaultdict(list)
        for one in spoken:
            for row, name, root in self._rows(one):
                if root in shown:
                    parts[root].append((one, row, name))
        drafts = [self._example(root, parts[root]) for root in shown]
        limit = _limit([draft.total for _, tracks in drafts for draft, _ in tracks])
        for _, tracks in drafts:
            for track, file in tracks:
                _cut(track, file, limit)
        return [
            Example(root[1], speaker, [t for t, _ in tracks])
            for root, (speaker, tracks) in zip(shown, drafts, strict=True)
        ]

    def _spoken(self) -> list[_Spoken]:
        """Synthesised speech in the pipeline's order, then continuations without speech."""
        done = [s for s in self.pipeline.steps.values() if not isinstance(s, Source) and self.store.has(s)]
        out = [_Spoken(s.units if self.store.has(s.units) else None, s) for s in done if isinstance(s, Resynth)]
        out = [one for one in out if one.units]
        out += [_Spoken(None, s) for s in done if isinstance(s, CopySynthesis)]
        out += [_Spoken(s, None) for s in done if isinstance(s, Continue) and all(one.units is not s for one in out)]
        # A step that has two names in the pipeline is shown once.
        return list({tuple(s and self.store.name(s) for s in one): one for one in out}.values())

    def _rows(self, one: _Spoken) -> Iterator[tuple[UnitRow | None, str, Root]]:
        """Each row, the name of its file, and its root."""
        from textless.audio.corpus import file_stem
        from textless.model import named

        if one.units is None:
            assert isinstance(one.speech, CopySynthesis)
            audio = one.speech.audio
            files = {p.stem: p for p in self.store.folder(one.speech).glob("data/*/*.wav")}
            for original in audio.load():
                if (stem := file_stem(original.id)) in files:
                    yield None, str(files[stem]), self._root(audio, original.id)
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

    def _root(self, corpus: CorpusStep | None, name: str) -> Root:
        """The same for two corpora that hold the same part of the same file under the same id."""
        row = self._audio(corpus).get(name)
        if row is None:
            return "", name
        text = "\0".join(map(str, (row.path, row.offset, row.samples, *within_file(row))))
        self._sounds[text] = row
        return text, name

    def _audio(self, corpus: CorpusStep | None) -> dict[str, Any]:
        if id(corpus) not in self._corpora:
            self._corpora[id(corpus)] = {} if corpus is None else {row.id: row for row in corpus.load()}
        return self._corpora[id(corpus)]

    def _picked(self, step: Step) -> dict[str, UnitRow]:
        name = self.store.name(step)
        if name not in self._dumps:
            self._dumps[name] = {row.id: row for row in _rows_of(self.store.folder(step)) if row.id in self._ids}
        return self._dumps[name]

    def _corpus(self, step: Step) -> CorpusStep | None:
        """The corpus of units: that of `encode`, or that of `assign`'s frames."""
        audio = getattr(step, "audio", None) or getattr(getattr(step, "frames", None), "audio", None)
        return audio if isinstance(audio, CorpusStep) else None

    def _example(self, root: Root, parts: list[_Part]) -> tuple[str | None, list[tuple[Track, File | None]]]:
        """Speaker; tracks, not yet cut, and the file of each."""
        tracks: list[tuple[Track, File | None]] = []
        original, recording = self._original(root, parts)
        if original:
            tracks.append((original, recording))
        for one, row, file in parts:
            tracks.append((self._track(one, row, file), (file, 0) if file else None))
        speakers = [row.speaker for _, row, _ in parts if row is not None and row.speaker]
        return (speakers[0] if speakers else None), [t for t in tracks if t[0].total > 0]

    def _original(self, root: Root, parts: list[_Part]) -> tuple[Track | None, File | None]:
        """The sound of the corpus, with the units that each step encoded it as."""
        sound = self._sounds.get(root[0])
        sources: dict[str, Step] = {}
        for one, _, _ in parts:
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
        if sound is not None:
            try:
                track.total = (sound.samples or audio_samples(sound.place) - sound.offset) / SAMPLE_RATE
                return track, (sound.place, sound.offset)
            except AudioError as e:
                track.note = str(e).rpartition("/")[2]
        track.total = max((_seconds(r) for r in rows), default=0.0)
        return (track if rows else None), None

    def _track(self, one: _Spoken, row: UnitRow | None, file: str) -> Track:
        speech, units = one.speech, one.units
        name = str(self.pipeline.name_of(one.step))
        if row is None or units is None:
            track = Track(name, "copy", note="rebuilt from its spectrogram")
        else:
            track = Track(name, "continuation" if isinstance(units, Continue) else "resynthesis")
            if isinstance(units, Continue):
                track.name = f"{name} · {row.id}" if units.samples > 1 else name
                if row.units.contract.frame_rate and "prompt_frames" in row.extra:
                    track.prompt = row.extra["prompt_frames"] / row.units.contract.frame_rate
            if row.units.contract.frame_rate:
                track.rows = [_units(self.pipeline.name_of(units), row)]
                track.total = _seconds(track.rows[0])
        if isinstance(speech, Resynth):
            facts = [f"vocoder {self.pipeline.name_of(speech.vocoder)}"]
            facts += [f"speaker {speech.speaker}"] if speech.speaker is not None else []
            facts += ["pitch of the original"] if speech.f0 else []
            track.note = ", ".join(facts)
        if file:
            try:
                seconds = audio_samples(file) / SAMPLE_RATE
            except AudioError:  # the row failed, and failures.jsonl says why
                track.total = 0.0
                return track
            if track.rows and abs(seconds - track.total) > DRIFT:  # durations were predicted, and are not known here
                track.rows, track.note, track.prompt = [], f"{track.note}; durations predicted, units not aligned", None
            track.total = seconds
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
    """Most seconds of each track for which all together stay below SOUND."""
    limit = LONGEST
    while limit > SHORTEST and sum(min(t, limit) for t in totals) > SOUND:
        limit -= 0.5
    return limit


def _cut(track: Track, file: File | None, limit: float) -> None:
    """Keep `limit` seconds: the first, or those around the end of a prompt."""
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
    """The runs between two times; one that is cut keeps the frames inside."""
    ends = np.cumsum(row.durations)
    first, last = round(start * row.frame_rate), round(end * row.frame_rate)
    durations = np.minimum(ends, last) - np.maximum(ends - row.durations, first)
    return Units(row.name, row.units[durations > 0], durations[durations > 0], row.frame_rate)
