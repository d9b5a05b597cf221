"""The step `units`: other tools' unit files in a pipeline."""

import pytest

from textless import open_dump
from textless.engine.step import Keys
from textless.engine.store import Store
from textless.engine.yaml import load_pipeline
from textless.errors import ContractError, DumpError, StoreError
from textless.steps import STEPS
from textless.steps.units import Units

ROWS = {"a": [7, 7, 12, 12, 12, 3], "b": [5, 5, 5, 1]}


@pytest.fixture
def labels(tmp_path):
    """fairseq's labels of two files, with their manifest."""
    (tmp_path / "train.tsv").write_text("/data\na.wav\t1920\nb.wav\t1360\n")
    (tmp_path / "train.km").write_text("".join(" ".join(map(str, u)) + "\n" for u in ROWS.values()))
    return tmp_path / "train.km"


def made(tmp_path, step):
    store = Store(tmp_path / "store")
    return open_dump(store.run(step))


def key(step):
    return Keys(lambda file: str(hash(open(file, "rb").read()))).of(step)


def test_a_unit_file_becomes_a_dump(tmp_path, labels):
    dump = made(tmp_path, Units(file=str(labels), frame_rate=50.0, n_units=20))
    assert {row.id: row.units.frames().tolist() for row in dump} == ROWS
    assert dump.contract.n_units == 20
    assert dump.contract.frame_rate == 50


def test_the_key_is_of_the_content(tmp_path, labels):
    before = key(Units(file=str(labels)))
    assert key(Units(file=str(labels))) == before
    assert key(Units(file=str(labels), n_units=20)) != before
    manifest = labels.with_suffix(".tsv")
    manifest.write_text(manifest.read_text().replace("a.wav", "c.wav"))
    assert key(Units(file=str(labels))) != before


def test_a_folder_is_a_unit_file_too(tmp_path, labels):
    folder = tmp_path / "labels"
    folder.mkdir()
    for file in (labels, labels.with_suffix(".tsv")):
        file.rename(folder / file.name)
    before = key(Units(file=str(folder)))
    dump = made(tmp_path, Units(file=str(folder), frame_rate=50.0))
    assert [row.id for row in dump] == ["a", "b"]
    (folder / "train.km").write_text("1\n2\n")
    assert key(Units(file=str(folder))) != before


def test_runs_are_declared(tmp_path):
    (tmp_path / "g.txt").write_text("a|7 12\nb|5 1\n")
    dump = made(tmp_path, Units(file=str(tmp_path / "g.txt"), runs=True, frame_rate=50.0))
    assert dump.contract.frame_rate is None  # runs of unknown length cannot be timed


def test_what_is_wrong_names_its_line(tmp_path, labels):
    with pytest.raises(DumpError, match=r"train.km, line 1: unit 12 is outside the codebook of 10 units"):
        made(tmp_path, Units(file=str(labels), n_units=10))
    with pytest.raises(StoreError, match="gone"):
        made(tmp_path, Units(file=str(tmp_path / "gone.km")))
    with pytest.raises(DumpError, match=r"no unit format 'gsml'.*gslm"):
        Units(file=str(labels), format="gsml")
    (tmp_path / "train.km.contract.json").write_text('{"n_units": 20}')
    with pytest.raises(ContractError, match="n_units 20"):
        made(tmp_path, Units(file=str(labels), n_units=21))


def test_it_is_named_in_a_pipeline(tmp_path, labels):
    (tmp_path / "p.yaml").write_text(
        "steps:\n  units: {file: train.km, frame_rate: 50, n_units: 20}\n  quality: {units: $units}\n"
    )
    pipeline = load_pipeline(tmp_path / "p.yaml", STEPS)
    store = Store(tmp_path / "store")
    for step in pipeline.plan(store):
        store.run(step)
    assert pipeline.pick([]) == ["quality"]
    assert store.manifest(pipeline.steps["units"])["metrics"]["rows"] == 2
