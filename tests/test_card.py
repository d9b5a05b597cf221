"""A dump as a data set: the card of its README, what is stated of the audio, `describe`, and the specification."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner

from conftest import ROOT
from textless.cli.app import cli
from textless.engine.job import Job
from textless.engine.shards import run_shards
from textless.engine.step import Keys
from textless.engine.store import Store
from textless.errors import DumpError
from textless.exchange import read_units, write_units
from textless.steps.sources import Corpus, Model
from textless.steps.units import Encode
from textless.types import UnitContract, UnitRow, Units
from textless.units.card import LICENSES, SIZES, Origin, metadata
from textless.units.dump import finish_dump, write_shard

CONTRACT = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=300)


def rows(n=3, **extra):
    return [
        UnitRow(f"r{i}", Units.from_frames(np.array([5, 5, 17, 3][: i + 1]), CONTRACT), speaker="amy", extra=extra)
        for i in range(n)
    ]


def header(folder):
    text = (folder / "README.md").read_text()
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_states_licence_language_size_files_and_features(tmp_path):
    write_units(tmp_path / "d", rows(score=1.5, tags=["x"]), license="CC BY 4.0", language="en, pt-BR")
    card = header(tmp_path / "d")
    assert card["license"] == "cc-by-4.0"
    assert card["language"] == ["en", "pt-BR"]
    assert card["size_categories"] == ["n<1K"]
    assert card["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}]
    assert card["dataset_info"]["features"] == [
        {"name": "id", "dtype": "string"},
        {"name": "units", "sequence": "uint16"},
        {"name": "durations", "sequence": "uint16"},
        {"name": "frames", "dtype": "int32"},
        {"name": "speaker", "dtype": "string"},
        {"name": "source", "dtype": "string"},
        {"name": "offset", "dtype": "int64"},
        {"name": "samples", "dtype": "int64"},
        {"name": "score", "dtype": "float64"},
        {"name": "tags", "sequence": "string"},
    ]
    about = json.loads((tmp_path / "d" / "dump.json").read_text())
    assert (about["license"], about["language"]) == ("CC BY 4.0", "en, pt-BR")
    assert [r.id for r in read_units(tmp_path / "d")] == ["r0", "r1", "r2"]


def test_the_hub_reads_the_card(tmp_path, caplog):
    """`datasets.load_dataset` reads it with huggingface_hub, and warns of a README without a header."""
    hub = pytest.importorskip("huggingface_hub")
    write_units(tmp_path / "d", rows(), license="mit", language="en")
    card = hub.DatasetCard.load(tmp_path / "d" / "README.md")
    assert caplog.records == []
    assert (card.data.license, card.data.language) == ("mit", ["en"])
    (tmp_path / "bare.md").write_text("# bare")
    hub.DatasetCard.load(tmp_path / "bare.md")
    assert "metadata block was not found" in caplog.text


def test_load_dataset_warns_of_nothing(tmp_path, recwarn, caplog):
    datasets = pytest.importorskip("datasets")
    write_units(tmp_path / "d", rows(), license="mit", language="en")
    data = datasets.load_dataset(str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))["train"]
    assert [r["units"] for r in data] == [[5], [5], [5, 17]]
    assert not recwarn.list
    assert caplog.records == []


# ------------------------------------------------------------------------------------------------------------- splits


def in_splits(*splits):
    return [replace(row, extra={"split": split}) for row, split in zip(rows(len(splits)), splits, strict=True)]


def shards(folder):
    return [p.name for p in sorted((folder / "data").iterdir())]


def test_a_shard_holds_one_split_and_the_card_lists_them(tmp_path):
    splits = ["train", "dev-clean-2", "train", "Test", None, "all"]
    write_units(tmp_path / "d", in_splits(*splits))
    names = ["all_", "dev_clean_2", "test", "train", "unsplit"]
    assert shards(tmp_path / "d") == [f"{name}-00000.parquet" for name in names]
    assert header(tmp_path / "d")["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "all_", "path": "data/all_-*.parquet"},
                {"split": "dev_clean_2", "path": "data/dev_clean_2-*.parquet"},
                {"split": "test", "path": "data/test-*.parquet"},
                {"split": "train", "path": "data/train-*.parquet"},
                {"split": "unsplit", "path": "data/unsplit-*.parquet"},
            ],
        }
    ]
    assert {"name": "split", "dtype": "string"} in header(tmp_path / "d")["dataset_info"]["features"]
    read = {r.id: r.extra["split"] for r in read_units(tmp_path / "d")}
    assert read == {f"r{i}": split for i, split in enumerate(splits)}
    write_units(tmp_path / "again", read_units(tmp_path / "d"))
    assert shards(tmp_path / "again") == shards(tmp_path / "d")


def test_splits_that_alternate_fill_shards_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("textless.exchange.ours.SPLIT_ROWS", 2)
    some = in_splits("a", "b", "a", "a", "b", "a", "a")
    some[1].extra["late"] = "x"  # null in the rows of the first shard
    write_units(tmp_path / "d", some)
    assert shards(tmp_path / "d") == [f"{n}.parquet" for n in ("a-00000", "a-00001", "a-00002", "b-00000")]
    assert [r.id for r in read_units(tmp_path / "d")] == ["r0", "r2", "r3", "r5", "r6", "r1", "r4"]
    assert header(tmp_path / "d")["dataset_info"]["features"][-2] == {"name": "late", "dtype": "string"}


def test_what_is_no_split_is_refused(tmp_path):
    with pytest.raises(DumpError, match="r64: more than 64 splits"):
        write_units(tmp_path / "d", in_splits(*map(str, range(65))))
    with pytest.raises(DumpError, match="is longer than 64 characters"):
        write_units(tmp_path / "e", in_splits("x" * 65))


def test_load_dataset_gives_the_splits(tmp_path, recwarn, caplog):
    datasets = pytest.importorskip("datasets")
    write_units(tmp_path / "d", in_splits("train", "dev-clean", "train"), license="mit", language="en")
    data = datasets.load_dataset(str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    assert {name: part["id"][:] for name, part in data.items()} == {"train": ["r0", "r2"], "dev_clean": ["r1"]}
    assert str(data["train"].features["units"].feature.dtype) == "uint16"
    assert not recwarn.list
    assert caplog.records == []


def test_encode_keeps_the_splits_of_the_corpus(textless_command, speech, tmp_path):
    files = sorted(speech.rglob("*.wav"))[:3]
    splits = ("train", "train", "test")
    manifest = [{"path": str(f), "id": f"u{n}", "split": s} for n, (f, s) in enumerate(zip(files, splits, strict=True))]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in manifest))
    code, _, err = textless_command("encode", tmp_path / "m.jsonl", "-o", tmp_path / "d")
    assert code == 0, err
    assert shards(tmp_path / "d") == ["test-00000.parquet", "train-00000.parquet"]
    assert {r.id: r.extra for r in read_units(tmp_path / "d")} == {
        f"u{n}": {"split": split} for n, split in enumerate(splits)
    }
    assert textless_command("encode", tmp_path / "m.jsonl", "-o", tmp_path / "d.jsonl")[0] == 0
    assert [r.extra["split"] for r in read_units(tmp_path / "d.jsonl")] == list(splits)
    assert textless_command("encode", speech, "-o", tmp_path / "e")[0] == 0
    assert shards(tmp_path / "e") == ["00000.parquet"]
    assert "split" not in next(read_units(tmp_path / "e")).extra


def test_shards_of_splits_do_not_depend_on_the_order_of_rows(tmp_path):
    """Rows in another order are the same request, which goes on with the shards that are there."""
    some = [SimpleNamespace(id=f"r{n}", split="ab"[n % 2]) for n in range(150)]
    places = []
    for name, ordered in (("x", some), ("y", some[::-1])):
        job = Job(tmp_path / name, {}, lambda *_: None)

        def write(members, path):
            path.write_text(" ".join(row.id for row in members))
            return []

        run_shards(job, ordered, write, lambda n, part: f"{part}-{n}", lambda row: row.split)
        shards_ = sorted(p for p in (tmp_path / name).iterdir() if p.is_file())
        places.append({p.name: p.read_text() for p in shards_})
        keys = {n: (job.pool.find(str(n)) / "result").read_text() for n in range(len(shards_))}
        assert list(keys.values()) == [places[0][p] for p in sorted(places[0])]
    assert places[0] == places[1]
    assert sorted(places[0]) == ["a-0", "a-1", "b-0", "b-1"]


def test_features_are_left_out_where_shards_differ_or_have_other_types(tmp_path):
    (tmp_path / "data").mkdir()
    for n, some in enumerate((rows(), rows(note="x"))):
        write_shard(tmp_path / "data" / f"{n}.parquet", some, contract=CONTRACT)
    finish_dump(tmp_path, contract=CONTRACT)
    assert "dataset_info" not in header(tmp_path)
    assert "license" not in header(tmp_path)
    write_units(tmp_path / "e", rows(nested={"a": 1}))
    assert "dataset_info" not in header(tmp_path / "e")


@pytest.mark.parametrize(
    ("given", "stated"),
    [
        ("cc0-1.0", {"license": "cc0-1.0"}),
        ("Our own, 2024", {"license": "other", "license_name": "our-own,-2024"}),
        ("https://example.org/terms", {"license": "other", "license_link": "https://example.org/terms"}),
        (None, {}),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_another(given, stated):
    card = metadata({"rows": 1}, Origin(license=given), [])
    assert {k: v for k, v in card.items() if k.startswith("license")} == stated
    assert "cc-by-4.0" in LICENSES


@pytest.mark.parametrize(
    ("rows_", "size"), [(0, 0), (999, 0), (1000, 1), (9_999, 1), (10_000, 2), (10**6, 4), (10**20, 7)]
)
def test_size_categories(rows_, size):
    assert metadata({"rows": rows_}, Origin(), [])["size_categories"] == [SIZES[size]]


@pytest.mark.parametrize(
    "given",
    [
        {"license": ""},
        {"license": "a\nb"},
        {"license": "x" * 201},
        {"language": "English language"},
        {"language": "en;fr"},
        {"language": ","},
    ],
)
def test_what_cannot_be_stated_is_refused(tmp_path, given):
    with pytest.raises(DumpError, match=r"a (licence|language) is"):
        write_units(tmp_path / "d", rows(), **given)
    assert list(tmp_path.iterdir()) == []


def test_only_a_dump_holds_a_licence(tmp_path):
    with pytest.raises(DumpError, match="does not hold a licence"):
        write_units(tmp_path / "d.jsonl", rows(), license="mit")


def test_a_licence_changes_the_key_of_a_corpus_and_its_absence_does_not(tmp_path):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"id": "a", "path": "a.wav"}\n')
    keys = Keys(lambda file: "hash")
    plain = Corpus(manifest=str(manifest))
    assert "license" not in keys.payload(plain)["fields"]
    assert keys.of(plain) != keys.of(Corpus(manifest=str(manifest), license="mit"))
    with pytest.raises(DumpError, match="a language is"):
        Corpus(manifest=str(manifest), language="English language")


# ------------------------------------------------------------------------------------------------------------- commands


def test_encode_states_the_licence_in_the_dump(textless_command, speech, tmp_path):
    options = ("--license", "cc-by-4.0", "--language", "en")
    code, _, err = textless_command("encode", speech, "-o", tmp_path / "d", *options)
    assert code == 0, err
    assert (header(tmp_path / "d")["license"], header(tmp_path / "d")["language"]) == ("cc-by-4.0", ["en"])
    assert "already done" in textless_command("encode", speech, "-o", tmp_path / "d", *options)[2]
    code, _, err = textless_command("encode", speech, "-o", tmp_path / "d", "--license", "mit")
    assert (code, "another command" in err) == (2, True)
    code, _, err = textless_command("encode", speech, "-o", tmp_path / "d.jsonl", *options)
    assert (code, "a stream does not hold --license" in err) == (2, True)


def test_convert_states_the_licence_in_the_dump(textless_command, tmp_path):
    (tmp_path / "u").write_text('{"audio":"a.wav","units":[1,1,2]}\n')
    code, _, err = textless_command(
        "convert", tmp_path / "u", "-o", tmp_path / "d", "--license", "mit", "--language", "en"
    )
    assert code == 0, err
    assert (header(tmp_path / "d")["license"], header(tmp_path / "d")["language"]) == ("mit", ["en"])
    assert textless_command("convert", tmp_path / "d", "-o", tmp_path / "again")[0] == 0
    assert header(tmp_path / "again")["license"] == "mit"
    options = ("--to", "discophon", "--license", "mit")
    code, _, err = textless_command("convert", tmp_path / "u", "-o", tmp_path / "e", *options)
    assert (code, "discophon does not hold --license" in err) == (2, True)


def test_a_step_states_the_licence_of_its_corpus(speech, model_set, tmp_path):
    audio = Corpus(manifest=str(speech), license="cc-by-4.0", language="en")
    model = Model(file=str(model_set))
    made = Store(tmp_path / "store").run(Encode(audio=audio, encoder=model, codebook=model))
    assert (header(made)["license"], header(made)["language"]) == ("cc-by-4.0", ["en"])


def described(*args):
    result = CliRunner().invoke(cli, ["describe", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0
    return {line[:34].strip(): line[34:].strip() for line in result.output.splitlines()}


def test_describe(tmp_path):
    write_units(tmp_path / "d", [*rows(), UnitRow("x", Units.of([1], CONTRACT))], license="mit")
    found = described(tmp_path / "d")
    assert {k: found[k] for k in ("rows", "units", "frames", "hours", "speakers", "license", "language")} == {
        "rows": "4",
        "units": "5",
        "frames": "7",
        "hours": "0.0000",
        "speakers": "1 (1 rows without)",
        "license": "mit",
        "language": "not stated",
    }
    assert found["runs a second"] == f"{5 / (7 / 50):.1f}"
    assert found["bits a second, log2 K a frame"] == f"{np.log2(300) * 50:.0f}"
    assert (found["contract.n_units"], found["contract.layer"]) == ("300", "unknown")


def test_describe_a_file_of_another_tool(tmp_path):
    (tmp_path / "u").write_text('{"audio":"a.wav","units":[1,1,2]}\n')
    assert described(tmp_path / "u")["format"] == "unit-hifigan"
    assert described(tmp_path / "u")["hours"] == "unknown (no frame rate; give --frame-rate)"
    assert "license" not in described(tmp_path / "u")
    assert "runs a second" not in described(tmp_path / "u")
    assert described(tmp_path / "u", "--frame-rate", 50)["runs a second"] == f"{2 / (3 / 50):.1f}"
    (tmp_path / "u").write_text('{"audio":"a.wav","units":[]}\n')
    assert described(tmp_path / "u", "--frame-rate", 50)["hours"] == "0.0000"


def test_describe_names_splits_and_runs_of_unknown_length(tmp_path):
    write_units(tmp_path / "d", in_splits("train", "dev", None, "train"))
    found = described(tmp_path / "d")
    assert (found["format"], found["splits"]) == ("dump", "dev 1, train 2, none 1")
    (tmp_path / "u").write_text('{"file_name": "a.wav", "audio_repr": "<Un5><Un17>"}\n')
    with pytest.warns(UserWarning, match="taken as runs of unknown length"):
        found = described(tmp_path / "u", "--frame-rate", 50)
    assert (found["units"], found["hours"]) == ("2", "unknown (no durations)")
    assert found["frames"] == "unknown (runs, whose durations the file does not hold)"


# -------------------------------------------------------------------------------------------------------- specification


def test_the_reader_of_the_specification(tmp_path):
    """The twenty lines in docs/unit-dump.md, in a process that cannot import textless."""
    text = (ROOT / "docs" / "unit-dump.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    assert len(code.splitlines()) <= 20
    assert "textless" not in re.findall(r"^(?:import|from) (\w+)", code, re.M)
    write_units(tmp_path / "d", rows(), license="mit")
    script = f"import sys; sys.modules['textless'] = None\n{code}\nimport json\n"
    script += (
        "print(json.dumps([[r['id'], list(map(int, r['frames'])), r['speaker']] for r in read_dump(sys.argv[1])]))"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "d"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[r.id, r.units.frames().tolist(), r.speaker] for r in rows()]
    about = json.loads((tmp_path / "d" / "dump.json").read_text())
    (tmp_path / "d" / "dump.json").write_text(json.dumps({**about, "version": 99}))
    failed = subprocess.run([sys.executable, "-c", script, tmp_path / "d"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "version 99" in failed.stderr


def test_the_specification_lists_every_column_and_field(tmp_path):
    text = (ROOT / "docs" / "unit-dump.md").read_text()
    write_units(tmp_path / "d", rows())
    columns = pa.parquet.read_schema(Path(tmp_path / "d" / "data" / "00000.parquet"))
    for name in [*columns.names, *json.loads((tmp_path / "d" / "dump.json").read_text()), *CONTRACT.to_dict()]:
        assert f"`{name}`" in text, name
