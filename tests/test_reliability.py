"""What keys promise: what is not in a key changes no byte, and a corpus that grows or changes costs what is new in
it."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import fault_steps as faults
import numpy as np
import pytest
from fault_steps import chain, contents, runtime_fields

from textless.engine.shards import split_rows
from textless.engine.step import Keys, Source
from textless.engine.store import Store
from textless.steps import STEPS, Corpus, Encode, Frames, KMeans

# Everything that is not in a key, but for paths and `device`, with another value than the default.
RUNTIME = {
    "frames": {"batch_seconds": 0.7},
    "encode": {"batch_seconds": 0.7},
    "pretrain": {"micro_batch": 1},
    "train_lm": {"micro_batch": 1},
    "train_vocoder": {"micro_batch": 1},
}
# Another order of additions, whose last bits differ: compared as numbers.
ROUNDED = {
    "hidden": "data/00000/frames.npy",
    **dict.fromkeys(("hubert", "lm", "lm1", "melody", "mel", "voice"), "model.safetensors"),
}


def test_all_runtime_fields_are_tried_below():
    assert {name: runtime_fields(kind) - {"device"} for name, kind in STEPS.items()} == {
        n: set(RUNTIME.get(n, ())) for n in STEPS
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One step of every kind, made with the defaults: its store, the steps, and the bytes of each."""
    folder = tmp_path_factory.mktemp("made")
    store, steps = Store(folder / "store"), chain(faults.write_corpus(folder / "corpus", 10, seconds=0.4))
    assert {type(s) for s in steps.values()} == {kind for kind in STEPS.values() if not issubclass(kind, Source)}
    return store, steps, {name: contents(store.run(step)) for name, step in steps.items()}


def told(store: Store, step) -> dict:
    """What a manifest says of the result."""
    manifest = store.manifest(step)
    return {
        name: manifest[name]
        for name in ("key", "payload", "fields", "files", "metrics", "contract", "failures", "lineage")
    }


@pytest.mark.parametrize("on", [None, pytest.param("loky:2", marks=pytest.mark.slow)])
def test_what_is_not_in_a_key_changes_no_byte(made, tmp_path, on):
    """Another store, the corpus elsewhere and in another order, other batches, workers, with TensorBoard."""
    first, steps, want = made
    changed = {n: RUNTIME[s.type] for n, s in steps.items() if s.type in RUNTIME and n not in ROUNDED}
    others = chain(faults.write_corpus(tmp_path / "elsewhere", 10, seconds=0.4, order=-1), **changed)
    store = Store(tmp_path / "store", on=on, tensorboard=bool(on))
    for name, step in others.items():
        got = contents(store.run(step))
        assert store.name(step) == first.name(steps[name])
        assert [f for f in got.keys() | want[name].keys() if got.get(f) != want[name].get(f)] == [], name
        assert told(store, step) == told(first, steps[name])


def numbers(file: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(file) if file.suffix == ".safetensors" else {"": np.load(file)}


@pytest.mark.parametrize("name", ROUNDED)
def test_what_is_not_in_a_key_changes_last_bits_at_most(made, tmp_path, name):
    first, steps, _ = made
    shutil.copytree(first.root / "artefacts", tmp_path / "artefacts")
    store = Store(tmp_path)
    store.drop(steps[name])
    manifest = Path(steps["mfcc"].audio.manifest)
    other = chain(manifest, **{name: RUNTIME[steps[name].type]})[name]
    got, want = numbers(store.run(other) / ROUNDED[name]), numbers(first.folder(steps[name]) / ROUNDED[name])
    assert got.keys() == want.keys()
    for key, array in want.items():
        # What differs in a last bit may be rounded to neighbours in half precision, which are 1e-3 apart from 1 on.
        step = np.abs(np.spacing(array))
        assert (np.abs(got[key].astype(np.float64) - array) <= 3e-4 + step).all(), (key, array.dtype)


# ---------------------------------------------------------------------------------------------------- incremental maps


class Grown:
    """A corpus of tiny files, a map over it, and how much of it was done: shards and rows."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
        self.folder, self.names = folder / "audio", [f"n{n:04d}" for n in range(rows)]
        self.manifest, self.root = folder / "speech.jsonl", folder / "store"
        faults.write_noise(self.folder, self.names, seconds=0.1)
        self.ids = {name: name for name in self.names}
        self.done: Counter[str] = Counter()
        for kind in (Frames, Encode):
            monkeypatch.setattr(kind, "shard", self._counting(kind.shard))

    def _counting(self, shard):
        def count(step, tools, rows, out):
            self.done.update(shards=1, rows=len(rows))
            return shard(step, tools, rows, out)

        return count

    def corpus(self) -> Corpus:
        rows = [{"id": self.ids[name], "path": str(self.folder / f"{name}.wav")} for name in self.names]
        self.manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Corpus(manifest=str(self.manifest))

    def run(self, make=lambda corpus: Frames(audio=corpus, encoder="mfcc")) -> tuple[Path, dict[str, int]]:
        """The artefact, and what was done for it."""
        self.done.clear()
        step = make(self.corpus())
        return Store(self.root).run(step), dict(self.done)

    def scratch(self) -> dict[str, bytes]:
        """Its bytes when made in a store where nothing is."""
        here, self.root = self.root, self.root.with_name("scratch")
        shutil.rmtree(self.root, ignore_errors=True)
        folder, _ = self.run()
        self.root = here
        return contents(folder)

    def holding(self, names: list[str]) -> dict[str, int]:
        """What there is to do when just the shards are done that these are in."""
        shards = [shard for shard in split_rows(list(self.corpus().load())) if any(row.id in names for row in shard)]
        return {"shards": len(shards), "rows": sum(map(len, shards))} if shards else {}


@pytest.fixture(params=[150, pytest.param(1519, marks=pytest.mark.slow)])
def grown(request, tmp_path, monkeypatch):
    grown = Grown(tmp_path, monkeypatch, request.param)
    count = len(split_rows(list(grown.corpus().load())))
    assert grown.run()[1] == {"shards": count, "rows": request.param}
    return grown


def test_files_that_join_cost_their_shards(grown):
    before, _ = grown.run()
    count = 10 if len(grown.names) > 1000 else 2
    new = [f"new{n}" for n in range(count)]
    faults.write_noise(grown.folder, new, seconds=0.1, salt=1)
    grown.names += new
    grown.ids |= {name: name for name in new}
    folder, done = grown.run()
    shards = len(list((folder / "data").iterdir()))
    print(
        f"{len(grown.names) - count} files and {count} more: {done['rows']} files in "
        f"{done['shards']} of {shards} shards"
    )
    assert done == grown.holding(new)
    assert done["shards"] <= count < shards
    assert contents(folder) == grown.scratch()
    # The rest is the same files: in the pool, in the artefact of before, and in this one.
    shared = [p for p in folder.rglob("frames.npy") if p.stat().st_nlink == 3]
    assert len(shared) == len(list(folder.rglob("frames.npy"))) - done["shards"]
    for path in shared:
        assert path.stat().st_ino == (before / path.relative_to(folder)).stat().st_ino
    # And back again, without them: all of it was there.
    grown.names = grown.names[:-count]
    assert grown.run() == (before, {})


def test_files_that_leave_cost_their_shards(grown):
    gone = [grown.names.pop(n) for n in (5, 77, 123)]
    folder, done = grown.run()
    assert 1 <= done["shards"] <= len(gone) < len(list((folder / "data").iterdir()))
    assert contents(folder) == grown.scratch()


def test_place_and_order_cost_nothing(grown, tmp_path):
    before, _ = grown.run()
    grown.names.reverse()
    assert grown.run() == (before, {})
    grown.folder = grown.folder.rename(tmp_path / "moved")
    assert grown.run() == (before, {})
    for n, path in enumerate(sorted(grown.folder.iterdir())):
        os.utime(path, (n, n))
    assert grown.run() == (before, {})
    want = contents(before)
    shutil.rmtree(Store(grown.root).folder(Frames(audio=grown.corpus(), encoder="mfcc")))
    assert grown.run() == (before, {})  # from the pool
    assert contents(before) == want


def test_other_bytes_under_an_old_name_cost_a_shard(grown):
    faults.write_noise(grown.folder, [grown.names[50]], seconds=0.1, salt=2)
    folder, done = grown.run()
    assert done == grown.holding([grown.names[50]])
    assert done["shards"] == 1
    assert contents(folder) == grown.scratch()


def test_another_id_costs_the_shards_of_both(grown):
    grown.ids[grown.names[50]] = "somebody"
    folder, done = grown.run()
    assert done["shards"] in (1, 2)
    assert contents(folder) == grown.scratch()
    assert grown.holding(["somebody"])["shards"] == 1


def test_other_settings_cost_everything_and_a_codebook_too(grown):
    """Shards belong to the step: what it is set to, and its inputs other than rows."""
    count = len(split_rows(list(grown.corpus().load())))
    everything = {"shards": count, "rows": len(grown.names)}
    assert grown.run(lambda corpus: Frames(audio=corpus, encoder="mfcc", fraction=0.5))[1] == everything
    for seed in (0, 1):
        frames = Frames(audio=grown.corpus(), encoder="mfcc")
        codebook = KMeans(frames=frames, n_units=4, iterations=2, seed=seed)
        Store(grown.root).run(codebook)
        assert grown.run(lambda corpus, km=codebook: Encode(audio=corpus, encoder="mfcc", codebook=km))[1] == everything
        assert grown.run(lambda corpus, km=codebook: Encode(audio=corpus, encoder="mfcc", codebook=km))[1] == {}


def test_a_key_of_a_shard_tells_all_that_it_depends_on(grown):
    keys, corpus = Keys(lambda path: Path(path).name), grown.corpus()
    rows = list(corpus.load())[:3]
    grown.names = grown.names[:5]
    fewer = grown.corpus()
    one = keys.shard(Frames(audio=corpus, encoder="mfcc"), rows)
    assert one == keys.shard(Frames(audio=fewer, encoder="mfcc", batch_seconds=3.0, device="cuda"), rows)
    others = [
        keys.shard(Frames(audio=corpus, encoder="mfcc", seed=1), rows),
        keys.shard(Frames(audio=corpus, encoder="logmel"), rows),
        keys.shard(Frames(audio=corpus, encoder="mfcc"), rows[:2]),
        keys.shard(Frames(audio=corpus, encoder="mfcc"), rows[::-1]),
    ]
    assert len({one, *others}) == 5
