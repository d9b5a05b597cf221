"""Good files of the formats of other tools, and how commands read them, for `fuzz.py`: unit files, corpora, labels."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

UNITS = (
    *("fairseq", "gslm", "ulm", "textlesslib", "zerospeech", "kaldi", "espnet", "slamkit", "slamkit-tokens"),
    *("unit-hifigan", "discophon", "minimal-hubert", "huggingface", "speech-resynthesis", "textgrid"),
)
LINES = (
    "gslm",
    "ulm",
    "textlesslib",
    "zerospeech",
    "kaldi",
    "espnet",
    "speech-resynthesis",
)  # the others are JSON lines


# ------------------------------------------------------------------------------------------------------------ units


def rows_of_units(timed: bool) -> list[Any]:
    import numpy as np

    from textless.types import UnitContract, UnitRow, Units

    contract = UnitContract(sample_rate=16000, frame_rate=50.0, n_units=20)
    units = {"a": [5, 5, 17, 3, 3, 3], "b/c": [1] * 9, "e": [2, 3, 3] * 30}
    rows = []
    for name, frames in units.items():
        some = Units.from_frames(np.array(frames, np.int64), contract)
        plain = Units(np.array(frames, np.int64), None, contract)
        rows.append(
            UnitRow(
                id=name,
                units=some if timed else plain,
                speaker="amy",
                source=f"/x/{name}.wav",
                samples=320 * len(frames),
            )
        )
    return rows


def place_of(name: str, folder: Path) -> Path:
    if name in ("fairseq", "textgrid"):
        return folder / "in"
    return folder / {"textlesslib": "in.units", "espnet": "text.ts.km20"}.get(
        name, "in.txt" if name in LINES else "in.jsonl"
    )


def build_units(name: str, folder: Path) -> None:
    from textless.exchange import write_units

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_units(place_of(name, folder), rows_of_units(name == "textlesslib"), name)


def read_unit_files(name: str, folder: Path) -> None:
    """By content, as commands do, and by name."""
    import numpy as np

    from textless.errors import TextlessError
    from textless.exchange import read_units
    from textless.exchange.formats import find_format

    place = place_of(name, folder)
    fault: TextlessError | None = None
    for chosen in (None, name):
        try:
            if chosen is None and place.exists():
                find_format(place)
            for row in read_units(place, chosen, frame_rate=50.0):
                assert isinstance(row.id, str), f"id {row.id!r}"
                assert row.speaker is None or isinstance(row.speaker, str), f"speaker {row.speaker!r}"
                assert isinstance(row.samples, int), f"samples {row.samples!r}"
                assert row.units.units.dtype == np.int64, row.units.units.dtype
                assert row.units.n_frames >= 0, "frames overflow"
        except TextlessError as e:
            fault = e
            if "\n" in str(e):
                raise
    if fault:
        raise fault


# ------------------------------------------------------------------------------------------------------------ corpora


def wav(path: Path, samples: int = 3200, channels: int = 1) -> None:
    import numpy as np
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    tone = (0.3 * np.sin(0.07 * np.arange(samples))).astype(np.float32)
    soundfile.write(path, np.stack([tone] * channels, 1), 16000)


def lines(path: Path, *texts: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((t if isinstance(t, str) else json.dumps(t)) + "\n" for t in texts))


def build_kaldi(folder: Path) -> None:
    wav(folder / "a b.wav")
    wav(folder / "c.wav", channels=2)
    lines(folder / "wav.scp", "rec1 a b.wav", "rec2 c.wav")
    lines(folder / "segments", "u1 rec1 0.02 0.15", "u2 rec2 0 -1 0")
    lines(folder / "utt2spk", "u1 amy", "u2 ben")


def tar_of(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def build_tarred(folder: Path) -> None:
    """NeMo's and lhotse's manifests of members of a tar."""
    wav(folder / "a.wav", 400)
    data = (folder / "a.wav").read_bytes()
    (folder / "a.wav").unlink()
    row = {"duration": 0.01, "offset": 0.005, "shard_id": 0, "text": "x"}
    lines(folder / "m.json", {**row, "audio_filepath": "a.wav"}, {**row, "audio_filepath": "a-sub1.wav"})
    tar_of(folder / "audio_0.tar", {"a.wav": data})
    recording = {"id": "r", "sources": [{"type": "shar", "channels": [0], "source": ""}], "sampling_rate": 16000}
    cut = {"id": "c", "start": 0.0, "duration": 0.025, "channel": 0, "type": "MonoCut", "recording": recording}
    lines(folder / "cuts.000000.jsonl", {**cut, "supervisions": [{"speaker": "amy"}]})
    tar_of(folder / "recording.000000.tar", {"c.wav": data, "c.json": json.dumps(recording).encode()})


def build_nemo(folder: Path) -> None:
    wav(folder / "a.wav")
    rows = [{"audio_filepath": "a.wav", "duration": 0.1, "offset": t, "text": "x", "speaker": 7} for t in (0.0, 0.05)]
    lines(folder / "m.json", *rows)
    lines(folder / "n.jsonl", *rows)


def build_lhotse(folder: Path) -> None:
    wav(folder / "c.wav", channels=2)
    source = {"type": "file", "channels": [0, 1], "source": "c.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": 16000, "num_samples": 3200, "duration": 0.2}
    part = {"id": "s", "recording_id": "r", "start": 0.02, "duration": 0.1, "channel": 1, "speaker": "amy"}
    cut = {"id": "k", "start": 0.0, "duration": 0.2, "channel": 0, "type": "MonoCut", "supervisions": [part]}
    lines(folder / "cuts.jsonl", {**cut, "recording": recording}, {**cut, "id": "l", "recording": recording})
    lines(folder / "recordings.jsonl", recording)
    lines(folder / "supervisions.jsonl", part)
    for name in ("recordings", "supervisions"):
        data = (folder / f"{name}.jsonl").read_bytes()
        (folder / f"x_{name}_y.jsonl.gz").write_bytes(gzip.compress(data, 1, mtime=0))


def build_common_voice(folder: Path) -> None:
    for name in "ab":
        wav(folder / "clips" / f"{name}.wav")
    lines(
        folder / "train.tsv",
        "client_id\tpath\tsentence\tlocale",
        'amy\ta.wav\t"Er sagte\tde',
        'ben\tb.wav\t"zwei\nZeilen"\tde',
    )


def build_list(folder: Path) -> None:
    wav(folder / "a.wav")
    lines(folder / "list.txt", "a.wav", "gone.flac")
    lines(folder / "list", "a.wav")


def build_parquet_audio(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wav(folder / "a.wav")
    data = (folder / "a.wav").read_bytes()
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    audio = [{"bytes": data, "path": "u.wav"}, {"bytes": data, "path": None}, {"bytes": None, "path": "a.wav"}]
    table = pa.table({"audio": pa.array(audio, struct), "speaker_id": [1, 2, 3], "split": ["x", None, "y"]})
    pq.write_table(table, folder / "train-00000-of-00001.parquet", row_group_size=2)


def build_tar(folder: Path) -> None:
    wav(folder / "a.wav", 400)
    members = {"p/1.wav": (folder / "a.wav").read_bytes(), "p/1.json": b'{"speaker": "amy", "split": "dev"}'}
    members["p/" + "long" * 40 + ".wav"] = members["p/1.wav"]
    (folder / "a.wav").unlink()
    tar_of(folder / "s.tar", members)


def read_corpora(names: tuple[str, ...], folder: Path) -> None:
    """Each of some sources, and the sound of its rows."""
    from textless.audio.corpus import Corpus, read_row
    from textless.errors import AudioError, TextlessError

    fault: TextlessError | None = None
    for name in names:
        try:
            for row in Corpus.load(folder / name if name else folder):
                texts = (row.id, row.path, row.speaker or "", row.split or "", row.source_name)
                assert all(isinstance(t, str) for t in texts), f"{texts!r}"
                assert isinstance(row.offset, int), f"{row.offset!r}"
                assert row.offset >= 0, f"{row.offset!r}"
                assert row.samples is None or (isinstance(row.samples, int) and row.samples >= 0), f"{row.samples!r}"
                with contextlib.suppress(AudioError):
                    read_row(row)
        except TextlessError as e:
            fault = e
            if "\n" in str(e):
                raise
    if fault:
        raise fault


# ------------------------------------------------------------------------------------------------------------ labels


def build_labels(folder: Path) -> None:
    from textless.exchange.textgrid import write_tier

    text = write_tier(rows_of_units(True)[0].units).replace('"units"', '"phones"')
    (folder / "a.TextGrid").write_text(text)
    values = [line.partition(" = ")[2].strip() or "<exists>" for line in text.splitlines()]
    short = [v for line, v in zip(text.splitlines(), values, strict=True) if "=" in line or "<exists>" in line]
    (folder / "b.TextGrid").write_bytes("\n".join(['File type = "ooTextFile"', *short[1:]]).encode("utf-16"))
    lines(folder / "c.ctm", ";; a comment", "a 1 0.00 0.25 AH 0.9", "a 1 0.25 0.25 SIL", "b A 0 1 T")
    lines(folder / "d.txt", "0.000000\t0.250000\tAH", "\\\t100.0\t2000.0", "0.25\t0.5\tSIL")
    lines(folder / "e.phn", "0 4000 h#", "4000 8000 ah")
    lines(folder / "f.wrd", "0 4000 she", "4000 8000 had")


def read_label_files(folder: Path) -> None:
    from fuzz import only_changed

    from textless.metrics.alignments import frame_phones, read_alignments
    from textless.metrics.asr import read_text

    for file in only_changed(folder):
        if file.suffix != ".wrd":
            for phones in read_alignments(file).values():
                frame_phones(phones, 100, frame_rate=50.0)
        if file.suffix in (".wrd", ".ctm"):
            read_text(file)


CORPORA: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "corpus-kaldi": (build_kaldi, ("", "wav.scp")),
    "corpus-nemo": (build_nemo, ("m.json", "n.jsonl")),
    "corpus-lhotse": (
        build_lhotse,
        ("cuts.jsonl", "recordings.jsonl", "supervisions.jsonl", "x_supervisions_y.jsonl.gz"),
    ),
    "corpus-common-voice": (build_common_voice, ("train.tsv",)),
    "corpus-list": (build_list, ("list.txt", "list")),
    "corpus-parquet": (build_parquet_audio, ("train-00000-of-00001.parquet",)),
    "corpus-tar": (build_tar, ("", "s.tar")),
    "corpus-tarred": (build_tarred, ("m.json", "cuts.000000.jsonl", "")),
}


def formats() -> Iterator[tuple[str, Callable[[Path], None], Callable[[Path], None]]]:
    """Name, `build` and `read` of each."""
    for name in UNITS:
        yield f"units-{name}", functools.partial(build_units, name), functools.partial(read_unit_files, name)
    for name, (build, sources) in CORPORA.items():
        yield name, build, functools.partial(read_corpora, sources)
    yield "labels", build_labels, read_label_files
