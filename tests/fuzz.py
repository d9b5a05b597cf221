"""A fuzzer of everything that reads files: good files are changed at random, and the only exception may be one of ours.

    python tests/fuzz.py                                    # ten minutes over all formats
    python tests/fuzz.py --seconds 3600 --format audio --format dump --seed 7
    python tests/fuzz.py --format units-gslm --cases 10000
    python tests/fuzz.py --format audio --seed 7 --case 1234    # one case again, with its traceback

A case is a folder of good files of which one is changed, by format, seed and number alone. It is read in a process of
its own that may have MEMORY bytes of address space beyond what it starts with, and SECONDS of processor time for a
case. What is found:

- an exception that is no TextlessError, or one of ours whose message is not one line;
- memory that runs out, also where the reader turns that into an error of its own;
- a case that takes longer, or a process that dies.

Each kind is listed once, with the first case that shows it, and the case's files are kept in --keep. The exit code is 1
where there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import io
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import fuzz_exchange  # noqa: E402

from conftest import GOLDEN, build_set  # noqa: E402

MEMORY = 1 << 30  # bytes beyond those of a process that has read the good files
SECONDS = 10.0  # of processor time, for a case of some kilobytes
HANGS = 60.0  # seconds without a word, after which a process is ended: in C no alarm is heard
SPENT = re.compile(r"allocate|bad_alloc|out of memory|MemoryError|enforce fail", re.IGNORECASE)


@dataclass(frozen=True)
class Format:
    """`build` writes good files to a folder, `read` reads the folder as a command would; `weight` cases for each of
    another format.
    """

    build: Callable[[Path], None]
    read: Callable[[Path], None]
    weight: int = 1


# ------------------------------------------------------------------------------------------------------------ changes

HOSTILE = [
    *(
        "-1",
        "0",
        "1",
        "-0.0",
        "1e309",
        "-1e309",
        "1e-320",
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "inf",
        "0x10",
        "1_0",
        "2147483647",
    ),
    *(
        "-2147483649",
        "65536",
        "4294967296",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551616",
        "1" + "0" * 30,
    ),
    *(
        "9" * 5000,
        '""',
        "null",
        "true",
        "[]",
        "{}",
        "[null]",
        '[[1, 2], "a"]',
        '"\\u0000"',
        '"\\ud800"',
        '"../../x"',
        '"/"',
        '"a\\nb"',
    ),
    *(
        "[" * 2000 + "]" * 2000,
        '{"a":' * 2000 + "1" + "}" * 2000,
        '"' + "x" * 20000 + '"',
        "\x00",
        "\x1b[2J",
        "\u2028",
        "é",
        "💥",
        "~",
        "",
    ),
    *(
        "!!python/object:os.system {}",
        "&a [*a, *a]",
        "*a",
        "<<: {}",
        "${a}",
        "$a",
        "? ",
        "- ",
        ": ",
        "|",
        "%",
        "\t",
        "\r\n",
        ",",
        ";",
    ),
]
VALUES = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        0.5,
        -0.0,
        1e308,
        1e309,
        float("nan"),
        float("-inf"),
        2**31,
        2**63 - 1,
        -(2**63),
        2**64,
        10**30,
    ),
    *(
        "",
        "a",
        "\x00",
        "\ud800",
        "../x",
        "a\nb",
        "1",
        "x" * 20000,
        [],
        {},
        [[]],
        [None],
        [1.5, "a"],
        {"a": {}},
        list(range(300)),
    ),
    *([2**40] * 3, 100_000_000, 1_000_000_000, [100_000_000], [[1, 2], [3]]),
]
INTEGERS = [
    n.to_bytes(width, order, signed=True) for width in (2, 4, 8) for order in ("little", "big") for n in (0, 1, -1)
]
INTEGERS += [
    (1 << (8 * width - 1 - less)).to_bytes(width, o)
    for width in (2, 4, 8)
    for o in ("little", "big")
    for less in (0, 1, 4)
]
TEXT = {
    *(".json", ".jsonl", ".yaml", ".tsv", ".csv", ".txt", ".item", ".sha256", ".km", ".km20", ".units", ".durations"),
    *(".scp", ".ctm", ".phn", ".wrd", ".TextGrid", ""),
}
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z_$][\w./-]*|[\[\]{}:,\t]')


def change_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    out = bytearray(data)

    def place() -> int:  # headers are at the beginning, and some at the end
        size = len(out)
        return rng.choice(
            (
                rng.randrange(min(size, 64) or 1),
                rng.randrange(min(size, 512) or 1),
                rng.randrange(size or 1),
                max(0, size - 40),
            )
        )

    kind = rng.randrange(8)
    a = place()
    if kind == 0:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            at = place()
            if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del out[a:]
    elif kind == 2:
        del out[a : a + rng.choice((1, 4, 100, 5000))]
    elif kind == 3:
        out[a:a] = out[a : a + rng.choice((1, 4, 100, 5000))] * rng.choice((1, 2, 50))
    elif kind == 4:
        b = rng.randrange(len(other) or 1)
        out[a:] = other[b:]
    elif kind == 5:
        value = rng.choice(INTEGERS)
        out[a : a + len(value)] = value
    elif kind == 6:
        n = rng.choice((1, 8, 200))
        out[a : a + n] = rng.choice((bytes(n), b"\xff" * n, rng.randbytes(n)))
    else:
        out[a:a] = rng.choice((b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", rng.randbytes(16)))
    return bytes(out)


def change_text(rng: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    lines = text.splitlines(keepends=True)
    kind = rng.randrange(8)
    if kind < 4 and (tokens := list(TOKEN.finditer(text))):
        token = rng.choice(tokens)
        text = text[: token.start()] + rng.choice([*HOSTILE, rng.choice(tokens)[0]]) + text[token.end() :]
    elif kind < 6 and lines:
        n = rng.randrange(len(lines))
        lines[n : n + rng.choice((0, 1))] = lines[n : n + 1] * rng.choice((0, 1, 2, 2000))
        if rng.random() < 0.3:
            rng.shuffle(lines)
        text = "".join(lines)
    elif kind == 6 and lines:
        n = rng.randrange(len(lines))
        text = "".join([*lines[:n], rng.choice(HOSTILE), "\n", *lines[n:]])
    else:
        a = rng.randrange(len(text) or 1)
        text = text[:a] + rng.choice(("", rng.choice(HOSTILE))) + text[a + rng.choice((0, 1, 10)) :]
    return text.encode("utf-8", "surrogateescape")


def change_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with one of its nodes changed."""
    nodes: list[tuple[Any, Any]] = []

    def collect(holder: Any) -> None:
        for key in list(holder) if isinstance(holder, dict) else range(min(len(holder), 50)):
            nodes.append((holder, key))
            if isinstance(holder[key], dict | list):
                collect(holder[key])

    if isinstance(value, dict | list):
        collect(value)
    if not nodes or rng.random() < 0.03:
        return copy.deepcopy(rng.choice(VALUES))
    holder, key = rng.choice(nodes)
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[str(rng.choice(VALUES))[:100]] = holder.pop(key)
    elif kind == 2:
        other, name = rng.choice(nodes)
        with contextlib.suppress(KeyError, IndexError):
            holder[key] = json.loads(json.dumps(other[name]))
    elif kind == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = rng.choice(
            (holder[key] + 1, -holder[key], holder[key] * 2, holder[key] * 10**7, float(holder[key]), str(holder[key]))
        )
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def change_json(rng: random.Random, data: bytes) -> bytes:
    return json.dumps(change_value(rng, json.loads(data))).encode()


def change_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    n = rng.randrange(len(lines))
    lines[n] = change_json(rng, lines[n]) + b"\n"
    return b"".join(lines)


def change_safetensors(rng: random.Random, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    head = change_json(rng, data[8 : 8 + length])
    return len(head).to_bytes(8, "little") + head + data[8 + length :]


def change_parquet(rng: random.Random, data: bytes) -> bytes:
    """Another type, other values or no values in a column, of a file that is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    name = rng.choice(table.column_names)
    n, column, rows = table.column_names.index(name), table.column(name), table.num_rows
    kind = rng.randrange(5)
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        values: list[Any] = [rng.choice(([], None, [1], "x", 1.5, 2**40, [-1], ["a"], {"a": 1}, b"\xff", True))] * rows
        table = table.set_column(n, name, pa.array(values))
    elif kind == 2:
        values = column.to_pylist()
        row = rng.randrange(rows)
        values[row] = (
            None
            if not isinstance(values[row], list)
            else rng.choice(([], [None], values[row][:-1], [2**31 - 1] * 3, [-5]))
        )
        kind_of = pa.list_(pa.int64()) if pa.types.is_list(column.type) else column.type
        table = table.set_column(n, name, pa.array(values, kind_of))
    elif kind == 3:
        table = table.rename_columns([rng.choice(("units", "x", "")) if c == name else c for c in table.column_names])
    else:
        table = pa.concat_tables([table] * rng.choice((0, 2, 5))) if rng.random() < 0.5 else table.slice(0, 0)
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def change_zip(rng: random.Random, data: bytes) -> bytes:
    """A member changed, in an archive whose checksums fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        members = source.infolist()
        chosen = (
            rng.choice([m for m in members if m.filename.endswith(".pkl")] or members)
            if rng.random() < 0.8
            else rng.choice(members)
        )
        for member in members:
            content = source.read(member)
            if member is chosen:
                content = change_bytes(rng, content, content)
            target.writestr(member, content)
    return out.getvalue()


def change_gzip(rng: random.Random, data: bytes) -> bytes:
    inner = gzip.decompress(data)
    return gzip.compress(change_bytes(rng, inner, inner), 1, mtime=0)


INSIDE = {
    ".json": change_json,
    ".jsonl": change_lines,
    ".safetensors": change_safetensors,
    ".parquet": change_parquet,
    ".pt": change_zip,
    ".gz": change_gzip,
}


def change(rng: random.Random, folder: Path) -> None:
    """Change a file of the folder, often more than once."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    file = rng.choice(files)
    other = rng.choice([f for f in files if f.suffix == file.suffix])
    chance = rng.random()
    if chance < 0.02:
        file.unlink()
        if rng.random() < 0.5:
            file.mkdir()
        return
    if chance < 0.04:
        file.write_bytes(rng.choice((b"", b"\n", b"\x00" * 100, rng.choice(files).read_bytes())))
        return
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        data = file.read_bytes()
        inside, chance = INSIDE.get(file.suffix), rng.random()
        with contextlib.suppress(Exception):  # what is damaged already cannot be changed inside
            if inside and chance < 0.45:
                data = inside(rng, data)
            elif file.suffix in TEXT and chance < 0.9:
                data = change_text(rng, data)
            else:
                data = change_bytes(rng, data, other.read_bytes())
        file.write_bytes(data)


# ------------------------------------------------------------------------------------------------------------ formats


def tone(samples: int) -> Any:
    import numpy as np

    return (0.3 * np.sin(0.07 * np.arange(samples))).astype(np.float32)


def build_audio(folder: Path) -> None:
    import soundfile

    for suffix, subtype in (
        ("wav", "PCM_16"),
        ("wav", "FLOAT"),
        ("flac", "PCM_16"),
        ("ogg", "VORBIS"),
        ("ogg", "OPUS"),
        ("mp3", None),
    ):
        with contextlib.suppress(Exception):  # a libsndfile that cannot write it
            soundfile.write(folder / f"{subtype}.{suffix}", tone(4000), 16000, subtype=subtype, format=suffix.upper())
    for file in folder.glob("*.ogg"):
        file.write_bytes(same_serial(file.read_bytes()))


def same_serial(data: bytes) -> bytes:
    """An Ogg stream under the serial number 1: libsndfile draws another each time."""
    out = bytearray(data)
    at = 0
    while at < len(out):
        end = at + 27 + out[at + 26] + sum(out[at + 27 : at + 27 + out[at + 26]])
        out[at + 14 : at + 18], out[at + 22 : at + 26] = b"\x01\x00\x00\x00", bytes(4)
        crc = 0
        for byte in out[at:end]:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1) ^ (0x104C11DB7 if crc & 0x80000000 else 0)
        out[at + 22 : at + 26] = crc.to_bytes(4, "little")
        at = end
    return bytes(out)


def read_audio_files(folder: Path) -> None:
    import numpy as np

    from textless.audio.io import audio_samples, read_audio

    for file in only_changed(folder):
        audio_samples(file)
        waveform = read_audio(file)
        assert waveform.dtype == np.float32, waveform.dtype
        assert waveform.ndim == 1, waveform.shape
        assert np.isfinite(waveform).all(), "not finite"


def rows_of_units() -> list[Any]:
    from textless.types import UnitContract, Units
    from textless.units.dump import UnitRow

    contract = UnitContract(encoder="mfcc", layer=2, sample_rate=16000, frame_rate=50.0, n_units=20)
    rows = [
        ("a", [5, 17, 3], [2, 1, 4], "amy"),
        ("b/c", [1], [9], None),
        ("d", [], [], "ben"),
        ("e", [2, 3] * 40, [1, 2] * 40, None),
    ]
    return [
        UnitRow(
            id=i,
            units=Units(integers(u), integers(d), contract),
            speaker=s,
            source=f"{i}.wav",
            offset=16,
            samples=999,
            extra={"x": 1.5},
        )
        for i, u, d, s in rows
    ]


def integers(values: list[int]) -> Any:
    import numpy as np

    return np.array(values, np.int64)


def check_units(rows: Any) -> None:
    import numpy as np

    for row in rows:
        assert isinstance(row.id, str), f"id {row.id!r}"
        assert row.speaker is None or isinstance(row.speaker, str), f"speaker {row.speaker!r}"
        assert isinstance(row.source, str), f"source {row.source!r}"
        assert all(isinstance(n, int) for n in (row.offset, row.samples)), (
            f"offset {row.offset!r}, samples {row.samples!r}"
        )
        assert row.units.units.dtype == np.int64, row.units.units.dtype
        assert row.units.n_frames >= 0, "frames overflow"


def build_stream(folder: Path) -> None:
    from textless.units.dump import write_stream

    rows = rows_of_units()
    with open(folder / "units.jsonl", "w") as f:
        write_stream(f, rows, contract=rows[0].units.contract)


def read_streams(folder: Path) -> None:
    from textless.cli.inputs import holds_units
    from textless.units.dump import open_dump

    holds_units(str(folder / "units.jsonl"))
    check_units(open_dump(folder / "units.jsonl"))


def build_dump(folder: Path) -> None:
    from textless.units.dump import finish_dump, write_shard

    rows = rows_of_units()
    (folder / "data").mkdir()
    for n in range(2):
        shard = [row if not n else type(row)(id=f"{row.id}-{n}", units=row.units, extra=row.extra) for row in rows]
        write_shard(folder / "data" / f"{n:05d}.parquet", shard, contract=rows[0].units.contract)
    finish_dump(folder, contract=rows[0].units.contract)


def read_dump(folder: Path) -> None:
    from textless.units.dump import open_dump

    dump = open_dump(folder)
    check_units(dump)
    if len(dump):
        check_units([dump[0], dump[len(dump) - 1]])


PIPELINE = """\
vars: {data: data, n: 50, rate: 5e-4}
sweep: {n: [50, 100], rate: [1e-3, 5e-4]}
steps:
  train: {step: corpus, manifest: "${data}/train.tsv", split: &some [train]}
  test: {step: corpus, manifest: "${data}/test.tsv", split: *some}
  frames: {audio: $train, encoder: mfcc, fraction: 0.1, keep: temp}
  km: {step: kmeans, frames: $frames, n_units: "${n}", seed: 3}
  units: {step: encode, audio: $train, encoder: mfcc, codebook: $km}
  lm: {step: train_lm, units: $units, preset: nano, steps: 10, lr: "${rate}"}
  more: {step: continue, lm: $lm, prompts: $units, top_p: 0.9}
"""


def build_yaml(folder: Path) -> None:
    (folder / "base.yaml").write_text(PIPELINE)
    (folder / "p.yaml").write_text(
        "extends: base.yaml\nvars: {n: 20}\nsteps:\n  km: {iterations: 5}\n  extra: {step: quality, units: $units}\n"
    )


def read_yaml(folder: Path) -> None:
    from textless.engine.yaml import load_pipeline
    from textless.steps import STEPS

    for name in ("base.yaml", "p.yaml"):
        pipeline = load_pipeline(folder / name, STEPS, ["rate=1e-3"] if name == "base.yaml" else [])
        pipeline.pick([])


def build_manifests(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "fairseq.tsv").write_text("/audio\na.wav\t16000\nb/c.wav\t32000\n")
    header = ["audio", "id", "offset", "samples", "duration", "speaker", "split"]
    rows: list[list[Any]] = [
        ["a.wav", "a", 0, 1600, None, "amy", "train"],
        ["b/c.wav", "c", 160, None, 0.5, "ben", "test"],
    ]
    for suffix, between in (("tsv", "\t"), ("csv", ",")):
        lines = [between.join("" if v is None else str(v) for v in row) for row in (header, *rows)]
        (folder / f"table.{suffix}").write_text("\n".join(lines) + "\n")
    records = [dict(zip(header, row, strict=True)) for row in rows]
    (folder / "table.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in r.items() if v is not None}) + "\n" for r in records)
    )
    pq.write_table(pa.Table.from_pylist(records), folder / "table.parquet")
    (folder / "splits.csv").write_text("id,split,speaker\na,dev,amy\nc,test,ben\n")


def read_manifests(folder: Path) -> None:
    from textless.audio.corpus import Corpus

    for file in only_changed(folder):
        if file.name == "splits.csv":
            rows = Corpus.load(good(folder) / "table.tsv", splits=file)
        else:
            rows = Corpus.load(file)
        for row in rows:
            texts = (row.id, row.path, row.speaker or "", row.split or "")
            assert all(isinstance(t, str) for t in texts), f"{texts!r}"
            assert isinstance(row.offset, int), f"{row.offset!r}"
            assert row.offset >= 0, f"{row.offset!r}"
            assert row.samples is None or (isinstance(row.samples, int) and row.samples >= 0), f"{row.samples!r}"


def build_texts(folder: Path) -> None:
    (folder / "phones.tsv").write_text("id\tstart\tend\tphone\na\t0.0\t0.25\tAH0\na\t0.25\t0.5\tSIL\nb\t0\t1\tT\n")
    (folder / "x.item").write_text(
        "#file onset offset #phone prev-phone next-phone speaker\na 0.1 0.2 AH B T amy\nb 0.3 0.45 T AH K ben\n"
    )
    (folder / "words.txt").write_text("a\tHELLO WORLD\nb\tit's me\n")
    (folder / "contract.json").write_text(
        json.dumps({"contract": {"encoder": "mfcc", "layer": 3, "frame_rate": 50.0, "n_units": 20}})
    )
    shutil.copy(GOLDEN / "ulm_dict.txt", folder / "dict.txt")


def read_texts(folder: Path) -> None:
    from textless.cli.inputs import declared_contract
    from textless.lm.gslm.fairseq import read_dictionary
    from textless.metrics.alignments import frame_phones, read_alignments
    from textless.metrics.asr import read_text
    from textless.metrics.items import read_items

    for file in only_changed(folder):
        if file.name == "phones.tsv":
            for phones in read_alignments(file).values():
                frame_phones(phones, 100, frame_rate=50.0)
        elif file.name == "x.item":
            read_items(file)
        elif file.name == "words.txt":
            read_text(file)
        elif file.name == "dict.txt":
            read_dictionary(file)
        else:
            declared_contract(str(file))


def build_models(folder: Path) -> None:
    import numpy as np
    import torch

    from textless.units.mfcc_lda.lda import fit_lda

    made = build_set(folder / "made")
    shutil.move(made, folder / "set")
    shutil.rmtree(folder / "made")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    fit_lda(rng.standard_normal((300, 91)).astype(np.float32), np.arange(300) % 7, dim=4).save(folder / "lda")


def read_models(folder: Path) -> None:
    from textless.lm import load_lm
    from textless.model import Model
    from textless.units.encoders.load import load_encoder
    from textless.units.quantizers import load_codebook
    from textless.vocoder import load_vocoder

    readers: dict[str, Callable[[Path], Any]] = {
        "encoder": load_encoder,
        "codebook": load_codebook,
        "lm": load_lm,
        "vocoder": load_vocoder,
        "lda": load_encoder,
    }
    for file in only_changed(folder):
        part = file.parent.name
        if part in readers:
            readers[part](file.parent)
        if part in ("encoder", "codebook"):
            _ = Model(folder / "set").tokenizer


def build_transformers(folder: Path) -> None:
    import torch
    import transformers

    trunk = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    wave = {**trunk, "conv_dim": (4,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    for name, settings in (
        ("Hubert", wave),
        ("Wav2Vec2", {**wave, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}),
        ("WavLM", wave),
    ):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings))
        model.save_pretrained(folder / name)
        (folder / name / "preprocessor_config.json").write_text(
            json.dumps({"do_normalize": True, "sampling_rate": 16000})
        )


def read_transformers(folder: Path) -> None:
    from textless.units.encoders.load import load_encoder

    for file in only_changed(folder):
        load_encoder(file.parent)


def build_pickles(folder: Path) -> None:
    import numpy as np
    import torch

    for name in ("hubert_base.pt", "ulm.pt", "codehifigan_duration.pt", "codehifigan_duration.json", "km20.bin"):
        shutil.copy(GOLDEN / name, folder / name)
    shutil.copy(GOLDEN / "ulm_dict.txt", folder / "dict.txt")
    state = {"a": torch.ones(3, 4), "b": [1, 2.5, "x", None, (True,)], "c": {"d": np.arange(3).tolist()}}
    torch.save(state, folder / "small.pt")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    np.save(folder / "km.npy", np.ones((4, 3), np.float32))
    shutil.copy(GOLDEN / "peers" / "cpc" / "cpc.pt", folder / "cpc.pt")


def build_codebooks(folder: Path) -> None:
    import faiss
    import numpy as np
    import torch
    from safetensors.numpy import save_file

    from textless.units.head import Head

    centroids = np.random.default_rng(0).standard_normal((300, 24)).astype(np.float32)
    np.savez(folder / "km.npz", centroids=centroids)
    np.savez_compressed(folder / "small.npz", centroids)
    save_file({"cluster_centers": centroids}, folder / "km.safetensors")
    torch.save({"n_features_in_": 24, "cluster_centers_": torch.from_numpy(centroids)}, folder / "km.pt")
    for name, factory in (("a", "Flat"), ("b", "IVF9,Flat"), ("c", "OPQ4_16,IVF9_HNSW32,PQ4x4fsr")):
        index = faiss.index_factory(24, factory)
        index.train(centroids)
        index.add(centroids[:9])
        faiss.write_index(index, str(folder / f"{name}.index"))
    Head(centroids, centroids[:, 0]).save(folder / "head")


def read_codebooks(folder: Path) -> None:
    from textless.units.quantizers import load_codebook

    for file in only_changed(folder):
        load_codebook(file.parent if file.parent.name == "head" else file)


def read_pickles(folder: Path) -> None:
    from textless.lm import load_lm
    from textless.pickles import load_joblib, load_torch
    from textless.units.encoders.load import load_encoder
    from textless.units.quantizers import load_codebook
    from textless.vocoder import load_vocoder

    for file in only_changed(folder):
        if file.name in ("hubert_base.pt", "cpc.pt"):
            load_encoder(file)
        elif file.name in ("ulm.pt", "dict.txt"):
            load_lm(folder / "ulm.pt", folder / "dict.txt")
        elif file.name.startswith("codehifigan"):
            load_vocoder(folder / "codehifigan_duration.pt")
        elif file.suffix in (".bin", ".npy"):
            load_codebook(file)
            if file.suffix == ".bin":
                load_joblib(file)
        else:
            load_torch(file)


def build_archive(folder: Path) -> None:
    import tarfile

    with gzip.GzipFile(folder / "a.tar.gz", "wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name in ("top/LICENSE", "top/a/1.flac", "top/a/" + "long" * 40 + ".txt"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(b"x" * 700))


def read_archive(folder: Path) -> None:
    from textless.audio.datasets import unpack

    try:
        if (folder / "a.tar.gz").is_file():
            unpack(folder / "a.tar.gz", folder / "in")
        outside = {p.name for p in folder.iterdir()} - {"a.tar.gz", "in"}
        assert not outside, f"unpacked {outside}"
        assert all(p.is_dir() or (p.is_file() and not p.is_symlink()) for p in folder.rglob("*")), (
            "something that is no file"
        )
    finally:
        shutil.rmtree(folder / "in", ignore_errors=True)


def store_of(folder: Path) -> tuple[Any, Any]:
    from textless.engine.pipeline import Pipeline
    from textless.engine.store import Store
    from textless.steps import Corpus, Frames, KMeans

    frames = Frames(audio=Corpus(manifest=str(good(folder) / "audio" / "clips.tsv")), encoder="mfcc")
    return Pipeline({"frames": frames, "km": KMeans(frames=frames, n_units=2, iterations=1)}), Store(folder / "store")


def build_store(folder: Path) -> None:
    import soundfile

    (folder / "audio").mkdir()
    for name in "ab":
        soundfile.write(folder / "audio" / f"{name}.wav", tone(6400), 16000)
    (folder / "audio" / "clips.tsv").write_text("audio\na.wav\nb.wav\n")
    pipeline, store = store_of(folder)
    pipeline.run(store)


def read_store(folder: Path) -> None:
    from textless.engine.gc import garbage, records, roots
    from textless.engine.manifest import damage
    from textless.engine.table import csv, tables, text
    from textless.report import make_report

    pipeline, store = store_of(folder)
    list(store.manifests())
    list(records(store.root))
    roots(store.root)
    list(garbage(store.root, days=0))
    for artefact in (store.root / "artefacts").glob("*"):
        damage(artefact)
    found = tables(pipeline, store)
    text(found)
    csv(found)
    with contextlib.suppress(FileNotFoundError):
        (folder / "r.html").unlink()
    if any(store.has(step) for step in pipeline.steps.values() if step.type in ("frames", "kmeans")):
        make_report(pipeline, store, folder / "r.html", title="t")
    pipeline.run(store)


FORMATS = {
    "audio": Format(build_audio, read_audio_files, 4),
    "stream": Format(build_stream, read_streams, 6),
    "dump": Format(build_dump, read_dump, 6),
    "yaml": Format(build_yaml, read_yaml, 3),
    "manifest": Format(build_manifests, read_manifests, 6),
    "text": Format(build_texts, read_texts, 6),
    "model": Format(build_models, read_models, 2),
    "transformers": Format(build_transformers, read_transformers, 1),
    "pickle": Format(build_pickles, read_pickles, 3),
    "codebook": Format(build_codebooks, read_codebooks, 3),
    "archive": Format(build_archive, read_archive, 4),
    "store": Format(build_store, read_store, 1),
    **{name: Format(build, read) for name, build, read in fuzz_exchange.formats()},
}


# ---------------------------------------------------------------------------------------------------------- the process

_GOOD: dict[Path, Path] = {}  # of a folder of a case, the folder that it was copied from


def good(folder: Path) -> Path:
    return _GOOD.get(folder, folder)


def only_changed(folder: Path) -> list[Path]:
    """The files that are not as they were, also those that are gone; all of them of a good folder."""
    source = good(folder)
    names = [p.relative_to(source) for p in sorted(source.rglob("*")) if p.is_file()]
    if source == folder:
        return [folder / n for n in names]
    return [
        folder / n
        for n in names
        if not (folder / n).is_file() or (folder / n).read_bytes() != (source / n).read_bytes()
    ]


class TooLong(BaseException):
    """The processor time of a case is over."""


def _alarm(*_: object) -> None:
    raise TooLong


def judge(read: Callable[[Path], None], folder: Path) -> str | None:
    """What is wrong with how a folder is read, None where nothing is."""
    from textless.errors import TextlessError

    signal.signal(signal.SIGPROF, _alarm)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read(folder)
    except TextlessError as e:
        if SPENT.search(str(e)):
            return f"memory ran out before {type(e).__name__}"
        return f"{type(e).__name__} of more than a line" if "\n" in str(e) else None
    except TooLong:
        return f"not done after {SECONDS:g} s"
    except MemoryError:
        return f"memory ran out at {_where()}"
    except Exception as e:
        return f"{'memory ran out' if SPENT.search(str(e)) else type(e).__name__} at {_where()}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def _where() -> str:
    """The innermost line of the package that an exception came through."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [f for f in frames if "/textless/" in f.filename and "site-packages" not in f.filename] or frames
    return f"{Path(ours[-1].filename).parent.name}/{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def prepare(name: str, root: Path) -> Path:
    """The good files of a format, which are read once."""
    folder = root / name
    folder.mkdir()
    FORMATS[name].build(folder)
    FORMATS[name].read(folder)
    return folder


def case(name: str, seed: int, n: int, source: Path, folder: Path) -> None:
    """Write the files of a case."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    _GOOD[folder] = source
    change(random.Random(f"{name}/{seed}/{n}"), folder)


def schedule(formats: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Format and number of each case, without end."""
    n = dict.fromkeys(formats, 0)
    while True:
        for name in formats:
            for _ in range(FORMATS[name].weight):
                yield name, n[name]
                n[name] += 1


def work(formats: Sequence[str], seed: int, first: int, count: int, root: Path) -> None:
    """Do cases, saying on standard output which is begun and what is found: a line of JSON each."""
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(*what: Any) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    sources = {name: prepare(name, root) for name in formats}
    for name in formats:  # once more, so that all is imported and every pool of memory is there
        judge(FORMATS[name].read, sources[name])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for descriptor in (1, 2):  # decoders of mp3 talk
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    for i, (name, n) in enumerate(schedule(formats)):
        if i >= count:
            return
        if i < first:
            continue
        folder = root / "case"
        case(name, seed, n, sources[name], folder)
        say("begin", i, name, n)
        if fault := judge(FORMATS[name].read, folder):
            kept = root / "found" / f"{name}-{seed}-{n}"
            if not kept.exists():
                shutil.copytree(folder, kept)
            say("fault", name, n, fault)


# ----------------------------------------------------------------------------------------------------------- the parent


@dataclass
class Found:
    """What came of a hunt: cases done by format, and by format and fault the first case and how many there are."""

    cases: dict[str, int] = field(default_factory=dict)
    faults: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add(self, name: str, n: int, fault: str) -> None:
        self.faults.setdefault((name, fault), []).append(n)


def hunt(
    formats: Sequence[str],
    *,
    seed: int = 0,
    seconds: float | None = None,
    cases: int | None = None,
    keep: Path | None = None,
    load: str = "",
) -> Found:
    """Fuzz formats for so many seconds or cases.

    `load` is a module that the process imports first, which may add formats.
    """
    found, first = Found(), 0
    until = time.monotonic() + (seconds if seconds is not None else float("inf"))
    count = sys.maxsize if cases is None else cases
    while first < count and time.monotonic() < until:
        with tempfile.TemporaryDirectory(prefix="textless-fuzz-") as root:
            command = [
                sys.executable,
                __file__,
                "--work",
                json.dumps([list(formats), seed, first, count, root]),
                "--load",
                load,
            ]
            before, current = first, None
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
            ) as process:
                assert process.stdout
                fault = None
                while True:
                    if time.monotonic() > until or not select.select([process.stdout], [], [], HANGS)[0]:
                        fault = None if time.monotonic() > until else f"nothing heard for {HANGS:g} s"
                        process.kill()
                        break
                    if not (line := process.stdout.readline()):
                        if code := process.wait():
                            fault = f"the process ended with {code}"
                        break
                    kind, *what = json.loads(line)
                    if kind == "begin":
                        first, current = what[0] + 1, what[1:]
                        found.cases[current[0]] = found.cases.get(current[0], 0) + 1
                    elif kind == "fault":
                        found.add(*what)
                error = process.stderr.read() if process.stderr else ""
            if fault and current is None:
                raise RuntimeError(f"the process could not begin: {fault}\n{error}")
            if fault and current:
                found.add(*current, fault)
            if keep:
                for folder in sorted(Path(root).glob("found/*")):
                    shutil.copytree(folder, keep / folder.name, dirs_exist_ok=True)
                if fault and current:
                    shutil.copytree(Path(root) / "case", keep / f"{current[0]}-{seed}-{current[1]}", dirs_exist_ok=True)
            if not fault and first == before:
                break
    return found


def again(name: str, seed: int, n: int, keep: Path) -> None:
    """One case in this process, with its traceback."""
    with tempfile.TemporaryDirectory(prefix="textless-fuzz-") as root:
        source, folder = prepare(name, Path(root)), keep / f"{name}-{seed}-{n}"
        case(name, seed, n, source, folder)
        print(f"{folder}: changed {', '.join(str(p.relative_to(folder)) for p in only_changed(folder))}")
        FORMATS[name].read(folder)
        print("read without an error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", action="append", choices=FORMATS, help="only this one; may be given more than once")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--cases", type=int, help="instead of a time, so many of each format (times its weight)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one, in this process")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz"), help="folder for the files of cases that show a fault"
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--load", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        sys.modules["fuzz"] = sys.modules["__main__"]
        __import__(options.load)
    if options.work:
        *what, root = json.loads(options.work)
        return work(*what, Path(root))
    formats = options.format or list(FORMATS)
    if options.case is not None:
        return again(formats[0], options.seed, options.case, options.keep)
    limit: dict[str, Any] = {"seconds": options.seconds}
    if options.cases is not None:
        limit = {"cases": options.cases * sum(FORMATS[name].weight for name in formats)}
    found = hunt(formats, seed=options.seed, keep=options.keep, **limit)
    for (name, fault), cases in sorted(found.faults.items()):
        print(
            f"{name}: {fault}  ({len(cases)} cases, the first --format {name} --seed {options.seed} --case {cases[0]})"
        )
    print(
        f"{sum(found.cases.values())} cases ({', '.join(f'{k} {v}' for k, v in found.cases.items())}), "
        f"{len(found.faults)} faults"
    )
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    main()
