"""A corpus: an ordered list of parts of audio files, read from folders, globs and manifests without decoding any."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from textless.audio.io import audio_channels
from textless.audio.manifests import channel_of
from textless.audio.packed import PackedAudio
from textless.audio.rows import Recording, Row, file_stem, read_row, read_rows, read_some, row_identity, within_file
from textless.audio.sources import abridged, join_splits, load_sources
from textless.errors import AudioError, CorpusError
from textless.files import sha256_of
from textless.names import plain

__all__ = [
    "Corpus",
    "PackedAudio",
    "Recording",
    "Row",
    "file_stem",
    "load_sources",
    "read_row",
    "read_rows",
    "read_some",
    "row_identity",
    "sha256_file",
]


class Corpus:
    """Rows in order, with unique ids. Raises CorpusError, naming both rows, for a duplicate id."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = tuple(rows)
        seen: dict[str, Row] = {}
        for row in self.rows:
            if (other := seen.setdefault(row.id, row)) is not row:
                raise CorpusError(
                    f"duplicate id {row.id!r}: {_place(other)} and {_place(row)}; drop or rename one, "
                    "select by a glob such as 'FOLDER/*.wav', or give ids in a manifest"
                )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, i: int) -> Row:
        return self.rows[i]

    @classmethod
    def load(
        cls,
        source: str | Path | Iterable[str | Path],
        *,
        splits: str | Path | None = None,
        split: str | Collection[str] | None = None,
    ) -> Corpus:
        """The rows of one source or of several, in order.

        A source is an audio file, a folder (all audio below it, sorted), a glob of audio files, or a manifest:
        - fairseq .tsv: a line with the root folder, then `relative/path<TAB>samples`, all samples of the file, at the
          file's own rate; the header of each file is read, and a row of another length means that the manifest is
          stale;
        - .tsv or .csv with a header, .jsonl, .parquet: `audio` (or `path`, `file`, `file_name`), and optionally
          `id`, `offset` (samples at 16 kHz), `samples` (at 16 kHz) or `duration` (seconds), `speaker`, `split`,
          `channel` (from 0; left, right, mix);
        - a folder of Kaldi or its wav.scp, with `segments` and `utt2spk` next to it; commands are never run;
        - NeMo's .json or .jsonl, `offset` and `duration` in seconds; lhotse's recordings, supervisions and cuts,
          .jsonl or .jsonl.gz, or a folder of these; a .tsv of Common Voice, next to its folder `clips`; a file with a
          path a line;
        - parquet with the Audio struct of `datasets`, and .tar of WebDataset, whose audio is read in place; or a folder
          or glob of these.

        Relative paths start at the manifest's folder. The id of a row without one is its file's stem; where two stems
        are equal, the ids of all such rows are their paths from the sources' common folder, without suffix; rows of
        NeMo that share a file end in their times in milliseconds. Two files of one name have their paths as `source`. A
        missing
        file is an error when it is read. Links are followed; a folder or file that is also found without a link is
        taken once, by that path. Paths may be any bytes. Ids, speakers and splits are compared in Unicode NFC; bytes of
        a file name that are not UTF-8 become `\\udcXX` in its id.

        `splits` is a .tsv or .csv with the columns `id`, `split` and optionally `speaker`, joined by id, else by stem;
        its values replace those of the source. `split` keeps the rows of that split, or of those. Raises CorpusError
        when a source is missing or malformed, for a duplicate id, and when no row remains.
        """
        rows = [row for part in load_sources([source] if isinstance(source, str | Path) else source) for row in part]
        corpus = cls(rows if splits is None else join_splits(rows, Path(splits)))
        return corpus if split is None else corpus.select(split=split)

    def select(self, split: str | Collection[str] | None = None, speakers: Collection[str] | None = None) -> Corpus:
        """The rows of one or several splits, of some speakers, or both.

        Raises CorpusError, listing the known ones, when none remains.
        """
        splits = None if split is None else {plain(s) for s in ([split] if isinstance(split, str) else split)}
        speakers = None if speakers is None else {plain(s) for s in speakers}
        rows = [
            r
            for r in self.rows
            if (splits is None or r.split in splits) and (speakers is None or r.speaker in speakers)
        ]
        if not rows:
            conditions = [f"split {split!r}"] if split is not None else []
            conditions += [f"speakers {sorted(speakers)}"] if speakers is not None else []
            known_splits = abridged(sorted({r.split or "none" for r in self.rows}))
            known_speakers = abridged(sorted({r.speaker or "none" for r in self.rows}))
            raise CorpusError(
                f"no row has {' and '.join(conditions)}; splits: {known_splits}; speakers: {known_speakers}"
            )
        return Corpus(rows)

    def with_channel(self, channel: str | int | None) -> Corpus:
        """The rows, of which those without a channel of their own have this one.

        Args:
            channel: `left`, `right`, a number from 0, `mix` (the mean, as without a choice); or `each`: a row for each
                channel of a file, with the channel at the end of its id (`call-0`, `call-1`). Files of one channel
                keep their row.

        Raises:
            CorpusError: the channel is none of these.
        """
        if channel is None:
            return self
        if channel != "each":
            number = channel_of(channel, "--channel")
            return Corpus(replace(r, channel=number if r.channel is None else r.channel) for r in self.rows)
        rows: list[Row] = []
        for row in self.rows:
            try:
                channels = 1 if row.channel is not None else audio_channels(row.place)
            except AudioError:  # raised again when the row is read
                channels = 1
            rows += [replace(row, id=f"{row.id}-{n}", channel=n) for n in range(channels)] if channels > 1 else [row]
        return Corpus(rows)

    def fingerprint(self, hash_file: Callable[[str], str]) -> str:
        """sha256 in hex over ids, audio bytes, parts, speakers and splits: not over paths, nor the order of rows.

        `hash_file` gives the sha256 of a file by its path, as `sha256_file`; it is called once for each file.
        """
        hashes = {path: hash_file(path) for path in {r.path for r in self.rows}}
        quote = json.encoder.encode_basestring_ascii  # json.dumps of row_identity, four times faster

        def text(value: str | int | None) -> str | int:
            return quote(value) if isinstance(value, str) else "null" if value is None else value

        def rest(row: Row) -> str:
            return "".join(f", {json.dumps(value)}" for value in within_file(row))

        rows = sorted(
            f"[{quote(r.id)}, {quote(hashes[r.path])}, {r.offset}, "
            f"{text(r.samples)}, {text(r.speaker)}, {text(r.split)}{rest(r)}]"
            for r in self.rows
        )
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """sha256 of a file's bytes in hex. Raises AudioError when it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as e:
        raise AudioError(
            f"{path}: cannot be read ({e.strerror}); correct the manifest or copy the file again"
        ) from None


def _place(row: Row) -> str:
    place = str(row.place)
    place = place if place.isprintable() else repr(place)  # a message is one line, and a path may have several
    return f"{place} at sample {row.offset}" if row.offset or row.samples else place
