"""Public speech by name, from a server on this machine that has a few files of it."""

import csv
import gzip
import hashlib
import io
import os
import signal
import tarfile
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import soundfile
import test_fetch

from textless.audio import datasets
from textless.audio.corpus import Corpus
from textless.audio.datasets import DATASETS, Archive, fetch_dataset, unpack
from textless.errors import CorpusError, ModelError, OutputExistsError
from textless.metrics.asr import read_text

server, cache = test_fetch.server, test_fetch.cache  # fixtures

TRAIN = ["1088/134315/1088-134315-0000", "2416/152139/2416-152139-0000", "1867/154075/1867-154075-0000"]
DEV = ["1272/135031/1272-135031-0000"]


def sound(seed):
    out = io.BytesIO()
    soundfile.write(out, 0.1 * np.random.default_rng(seed).standard_normal(8000), 16000, format="FLAC")
    return out.getvalue()


def tar(members, **links):
    """A .tar.gz of {name: bytes}, and links {name: target}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as f:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o666
            f.addfile(info, io.BytesIO(data))
        for name, target in links.items():
            info = tarfile.TarInfo(f"LibriSpeech/{name}")
            info.type, info.linkname = (tarfile.SYMTYPE, target) if name != "hard" else (tarfile.LNKTYPE, target)
            f.addfile(info)
    return out.getvalue()


def archive(part, ids):
    members = {f"LibriSpeech/{part}/{i}.flac": sound(k) for k, i in enumerate(ids)}
    said = "".join(f"{i.split('/')[-1]} WHAT  {i} SAYS\n" for i in (*ids, "nobody"))
    return tar({"LibriSpeech/LICENSE.TXT": b"CC BY 4.0", f"LibriSpeech/{part}/all.trans.txt": said.encode(), **members})


@pytest.fixture
def mini(server, monkeypatch):
    """mini LibriSpeech of four files; `offer` replaces an archive of the server's, with or without its checksum in the
    table.
    """

    def offer(name, data, *, known=True):
        server.files[f"/31/{name}"] = data
        archives[name] = Archive(
            url=f"{server.address}/31/{name}",
            **({"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} if known else {}),
        )
        whole = replace(DATASETS["mini_librispeech"], archives=tuple(archives.values()), files=4)
        monkeypatch.setitem(DATASETS, "mini_librispeech", whole)

    archives: dict[str, Archive] = {}
    offer("train-clean-5.tar.gz", archive("train-clean-5", TRAIN))
    offer("dev-clean-2.tar.gz", archive("dev-clean-2", DEV))
    return offer


def table(path):
    with open(path, newline="") as f:
        return [tuple(row) for row in csv.reader(f, delimiter="\t")]


def test_what_is_fetched_is_a_corpus(server, mini, textless_command, tmp_path):
    code, out, err = textless_command("fetch", "mini_librispeech", "-o", tmp_path / "data")
    folder = tmp_path / "data"
    assert (code, out) == (0, f"{folder}/mini_librispeech.tsv\n")
    assert "CC BY 4.0: LibriSpeech" in err
    corpus = Corpus.load(folder / "mini_librispeech.tsv")
    assert {(r.id, r.speaker, r.split) for r in corpus} == {
        ("1088-134315-0000", "1088", "train"),
        ("2416-152139-0000", "2416", "dev"),
        ("1867-154075-0000", "1867", "test"),
        ("1272-135031-0000", "1272", "dev-clean-2"),
    }
    assert all(Path(r.path).is_file() for r in corpus)
    # as pipelines/tiny.yaml reads it
    train = Corpus.load([folder / "mini_librispeech"], splits=folder / "splits.tsv", split="train")
    assert [(r.id, r.speaker) for r in train] == [("1088-134315-0000", "1088")]
    assert (folder / "mini_librispeech" / "LICENSE.TXT").exists()
    assert sorted(p.name for p in folder.iterdir()) == [
        *(".fetch.lock", "mini_librispeech", "mini_librispeech.tsv", "mini_librispeech.txt", "splits.tsv")
    ]
    said = read_text(folder / "mini_librispeech.txt")
    assert said == {i.split("/")[-1]: f"WHAT {i} SAYS" for i in (*TRAIN, *DEV)}

    before = len(server.requests)
    assert textless_command("fetch", "mini_librispeech", "-o", folder)[::2] == (0, "mini_librispeech: already there\n")
    assert len(server.requests) == before

    code, out, err = textless_command("encode", folder / "mini_librispeech", "-o", tmp_path / "dump")
    assert code == 0


def test_the_tables_are_made_again_and_never_overwritten(mini, tmp_path):
    mine = "corpus\tid\tspeaker\tsplit\nother\ta\tamy\ttrain\nmini_librispeech\t1088-134315-0000\t1088\tdev\n"
    (tmp_path / "splits.tsv").write_text(mine)
    manifest, new = fetch_dataset("mini_librispeech", tmp_path)
    assert new
    assert (tmp_path / "splits.tsv").read_text().startswith(mine)
    assert len(table(tmp_path / "splits.tsv")) == 1 + 1 + 4
    whole = manifest.read_bytes()
    manifest.unlink()  # killed before it was written
    assert fetch_dataset("mini_librispeech", tmp_path) == (manifest, False)
    assert manifest.read_bytes() == whole
    manifest.write_text("audio\n")
    fetch_dataset("mini_librispeech", tmp_path)
    assert manifest.read_text() == "audio\n"
    (tmp_path / "mini_librispeech.txt").write_text("a\tmine\n")
    fetch_dataset("mini_librispeech", tmp_path)
    assert (tmp_path / "mini_librispeech.txt").read_text() == "a\tmine\n"
    (tmp_path / "splits.tsv").write_text("id\tsplit\n")
    with pytest.raises(OutputExistsError, match=r"splits.tsv: has other columns than corpus, id, speaker, split"):
        fetch_dataset("mini_librispeech", tmp_path)


def test_a_cut_connection_is_resumed(server, mini, tmp_path):
    server.cuts = [1000]
    total = sum(map(len, (server.files["/31/train-clean-5.tar.gz"], server.files["/31/dev-clean-2.tar.gz"])))
    fetch_dataset("mini_librispeech", tmp_path)
    assert server.served == total


def test_killed_while_it_unpacks(mini, tmp_path, monkeypatch):
    real = tarfile.TarFile.extract

    def stop(self, member, *args, **kwargs):
        real(self, member, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "extract", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch_dataset("mini_librispeech", tmp_path)
    assert not (tmp_path / "mini_librispeech").exists()
    (tmp_path / "mini_librispeech.partial" / "left").touch()
    monkeypatch.setattr(tarfile.TarFile, "extract", real)
    assert fetch_dataset("mini_librispeech", tmp_path)[1]
    assert not list(tmp_path.glob("**/left"))


def test_a_killed_process_is_finished(server, mini, tmp_path):
    server.cuts, server.stall = [1000], threading.Event()
    url = DATASETS["mini_librispeech"].archives[0].url
    code = (
        "from dataclasses import replace; from textless import datasets as d; m = d.DATASETS['mini_librispeech']\n"
        f"d.DATASETS['mini_librispeech'] = replace(m, archives=(d.Archive(url={url!r}),))\n"
        f"d.fetch_dataset('mini_librispeech', {str(tmp_path)!r})"
    )
    process = test_fetch.start(code, PYTHONPATH=str(test_fetch.ROOT))
    until = time.monotonic() + 20
    while not server.served:
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert fetch_dataset("mini_librispeech", tmp_path)[1]


def test_a_wrong_checksum_and_a_truncated_archive(server, mini, tmp_path):
    good = server.files["/31/dev-clean-2.tar.gz"]
    server.files["/31/dev-clean-2.tar.gz"] = good[:-1] + b"x"
    with pytest.raises(ModelError, match=r"dev-clean-2.tar.gz: returned a file with sha256 .* is expected"):
        fetch_dataset("mini_librispeech", tmp_path)
    server.files["/31/dev-clean-2.tar.gz"] = good[:-1]
    with pytest.raises(ModelError, match=rf"has {len(good) - 1} bytes where {len(good)} are expected"):
        fetch_dataset("mini_librispeech", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == [".fetch.lock"]


@pytest.mark.parametrize("cut", [20, 300, -4, -12])  # in gzip's data, and in its checksum
def test_without_a_published_checksum_gzips_own_must_do(server, mini, tmp_path, cut):
    good = archive("dev-clean-2", DEV)
    mini("dev-clean-2.tar.gz", good[:cut], known=False)
    with pytest.raises(
        CorpusError, match=r"dev-clean-2.tar.gz: is cut short or damaged \(.*\); the same command fetches it again"
    ):
        fetch_dataset("mini_librispeech", tmp_path)
    assert not (tmp_path / "mini_librispeech.partial").exists()
    mini("dev-clean-2.tar.gz", good, known=False)
    assert fetch_dataset("mini_librispeech", tmp_path)[1]


def test_files_that_are_missing(server, mini, tmp_path):
    mini("dev-clean-2.tar.gz", archive("dev-clean-2", []), known=False)
    with pytest.raises(CorpusError, match="the archives hold 3 audio files where 4 are expected"):
        fetch_dataset("mini_librispeech", tmp_path)
    mini("dev-clean-2.tar.gz", archive("dev-clean-2", DEV), known=False)
    fetch_dataset("mini_librispeech", tmp_path)
    next((tmp_path / "mini_librispeech").rglob("*.flac")).unlink()
    with pytest.raises(CorpusError, match="holds 3 of the 4 audio files of mini_librispeech; remove it"):
        fetch_dataset("mini_librispeech", tmp_path)


HOSTILE = {
    "up": tar({"LibriSpeech/../../evil.flac": b"x"}),
    "absolute": tar({"/tmp/evil.flac": b"x"}),
    "bare": tar({"evil.flac": b"x"}),
    "symlink": tar({}, link="/etc"),
    "hard link": tar({"LibriSpeech/a": b"x"}, hard="LibriSpeech/a"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members_are_refused(tmp_path, name):
    (tmp_path / "evil.tar.gz").write_bytes(HOSTILE[name])
    with pytest.raises(CorpusError, match="is not a plain file in a folder of its own"):
        unpack(tmp_path / "evil.tar.gz", tmp_path / "in")
    assert not [p for p in tmp_path.rglob("*") if "evil.flac" in p.name]
    assert not [p for p in (tmp_path / "in").rglob("*") if p.is_symlink()]


def member(name="LibriSpeech/a.flac", data=b"", *, kind=tarfile.REGTYPE, pax=None, size=None, gnu=False):
    """A .tar.gz of one member. `pax` is what an extended header says of it, `size` what its own header says."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = len(data) if size is None else size, kind, pax or {}
    blocks = (
        info.tobuf(tarfile.GNU_FORMAT if gnu else tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512) + bytes(1024)
    )
    return gzip.compress(blocks, 1)


LONG = "a" * 10_000_000
STRANGE = {
    "NUL in an extended name": (member(pax={"path": "LibriSpeech/a\0b.flac"}), "is not a name that a file can have"),
    "line break in a name": (member("LibriSpeech/a\nb.flac"), "is not a name that a file can have"),
    "tabulator in a name": (member("LibriSpeech/a\tb.flac"), "is not a name that a file can have"),
    "escape sequence in a name": (member("LibriSpeech/\x1b[2J.flac"), "is not a name that a file can have"),
    "name that is not UTF-8": (member("LibriSpeech/caf\udce9.flac", gnu=True), "is not a name that a file can have"),
    "name of 300": (member("LibriSpeech/" + 300 * "a"), "is not a name that a file can have"),
    "name of 10 MB": (member("LibriSpeech/" + LONG, gnu=True), "is cut short or damaged"),
    "extended name of 10 MB": (member(pax={"path": LONG}), "is cut short or damaged"),
    "extended header of 10 MB": (member(pax={"comment": LONG}), "is cut short or damaged"),
    "negative size": (member(size=-512, gnu=True), "is cut short or damaged"),
    "negative extended size": (member(pax={"size": "-512"}), "is not a plain file"),
    "size past the end": (member(size=1 << 40, gnu=True), "is cut short or damaged"),
    "sparse file": (
        member(pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, data=b"9999999999\n"),
        "is cut short or damaged",
    ),
    "sparse map": (member(pax={"GNU.sparse.map": "0,1" + ",1,1" * 99}), "is cut short or damaged"),
    "old sparse file": (member(kind=tarfile.GNUTYPE_SPARSE), "is cut short or damaged"),
    "device": (member(kind=tarfile.CHRTYPE), "is not a plain file"),
    "pipe": (member(kind=tarfile.FIFOTYPE), "is not a plain file"),
    "zeros": (gzip.compress(bytes(30_000_000), 9), "unpacks to more than 20000000 bytes"),
    "bomb": (member(data=bytes(30_000_000)), "unpacks to more than 20000000 bytes"),
    "bomb behind the end": (
        gzip.compress(gzip.decompress(member(data=b"x")) + bytes(30_000_000), 9),
        "unpacks to more than 20000000",
    ),
    "file in a file": (tar({"top/a": b"x", "top/a/b": b"x"}), "is both a file and a folder"),
    "folder that becomes a file": (tar({"top/a/b": b"x", "top/a": b"x"}), "is both a file and a folder"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_members_are_one_line(tmp_path, name):
    data, message = STRANGE[name]
    (tmp_path / "evil.tar.gz").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(CorpusError, match=message) as caught:
            unpack(tmp_path / "evil.tar.gz", tmp_path / "in")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_time_that_no_file_can_have_is_left_out(tmp_path):
    for k, time_ in enumerate(("inf", "1e300", "-1e300")):
        (tmp_path / "a.tar.gz").write_bytes(member(data=b"x", pax={"mtime": time_}))
        unpack(tmp_path / "a.tar.gz", tmp_path / f"in{k}")
        assert (tmp_path / f"in{k}" / "a.flac").read_bytes() == b"x"


def test_damaged_tables_and_marks(mini, tmp_path):
    fetch_dataset("mini_librispeech", tmp_path)
    for damaged in (b"\xff\xfe", b"a" * 200_000, b"corpus\tid\0\n"):
        (tmp_path / "splits.tsv").write_bytes(damaged)
        with pytest.raises(OutputExistsError, match=r"splits.tsv: has other columns"):
            fetch_dataset("mini_librispeech", tmp_path)
        assert (tmp_path / "splits.tsv").read_bytes() == damaged
    for damaged in ("[]", "5", '{"files": null}', "[" * 100_000):
        (tmp_path / "mini_librispeech" / datasets.MARK).write_text(damaged)
        with pytest.raises((OutputExistsError, CorpusError)):
            fetch_dataset("mini_librispeech", tmp_path)


def test_a_through_and_through_hostile_archive_leaves_nothing(mini, tmp_path):
    mini("dev-clean-2.tar.gz", HOSTILE["symlink"])
    with pytest.raises(CorpusError, match="nothing was unpacked"):
        fetch_dataset("mini_librispeech", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == [".fetch.lock"]


def test_unpacked_files_are_plain(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tar({"top/a/b.flac": b"x"}))
    unpack(tmp_path / "a.tar.gz", tmp_path / "in")
    assert (tmp_path / "in" / "a" / "b.flac").stat().st_mode & 0o7022 == 0  # neither set-uid nor writable for others


def test_a_folder_of_somebody_else(server, mini, tmp_path):
    (tmp_path / "mini_librispeech").mkdir()
    with pytest.raises(OutputExistsError, match="exists and was not made by `textless fetch`"):
        fetch_dataset("mini_librispeech", tmp_path)
    assert not server.requests


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(mini, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(CorpusError, match=r"cannot be written \(Permission denied\)"):
        fetch_dataset("mini_librispeech", tmp_path / "closed")


def test_a_place_that_is_a_file(mini, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"cannot be written \(.*\); make room, or give another folder with -o"):
        fetch_dataset("mini_librispeech", tmp_path / "file")


def test_offline_says_what_to_do_and_does_it_with_a_copy(server, mini, textless_command, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("train-clean-5.tar.gz", "dev-clean-2.tar.gz"):
        code, out, err = textless_command("fetch", "mini_librispeech", "-o", tmp_path)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {name} is not in the cache and HF_HUB_OFFLINE is set: ")
        assert f"copy {server.address}/31/{name} to " in err
        Path(err.rstrip().split(" to ")[-1]).write_bytes(server.files[f"/31/{name}"])
    assert textless_command("fetch", "mini_librispeech", "-o", tmp_path)[0] == 0
    assert not server.requests


def test_no_network(server, mini, textless_command, tmp_path):
    server.socket.close()
    code, _, err = textless_command("fetch", "mini_librispeech", "-o", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be fetched (Connection refused); try again, or copy the file to " in err


def test_names(server, textless_command, monkeypatch, tmp_path):
    from textless.zoo import PUBLISHED, Codebook, Encoder, Published

    out = textless_command("fetch")[1].split()
    assert out == [*DATASETS, *PUBLISHED]
    code, _, err = textless_command("fetch", "mini_librispeach")
    assert (code, err) == (
        2,
        "error: no data set or model 'mini_librispeach'; did you mean 'mini_librispeech'?; "
        "`textless fetch` lists them\n",
    )
    common = {"place": server.url, "licence": "", "source": ""}
    encoder = Encoder(sha256=test_fetch.SHA, normalisation="none", layer=1, **common)
    entry = Published(encoder=encoder, codebook=Codebook(n_units=5, **common))
    monkeypatch.setitem(PUBLISHED, "good/km5", entry)
    code, out, _ = textless_command("fetch", "good/km5")
    assert code == 0
    assert [Path(line).name for line in out.split()] == ["km.bin", "km.bin"]
    assert "leave -o out" in textless_command("fetch", "good/km5", "-o", tmp_path)[2]


def test_the_splits_that_tiny_en_was_made_with():
    mini, kathleen = DATASETS["mini_librispeech"].who, DATASETS["kathleen_en"].who
    assert mini(PurePosixPath("dev-clean-2/1272/135031/1272-135031-0000.flac")) == ("1272", "dev-clean-2")
    of = {
        n: kathleen(PurePosixPath(f"data/arctic_{n}.wav"))[1]
        for n in ("a0051_1", "b0531_1", "a0001_1", "b0537_1592524792", "b0537_1")
    }
    assert list(of.values()) == ["dev", "test", "train", "train", "dev"]
    assert [len(prompts.split()) for prompts in datasets.SENTENCES.values()] == [54, 80]


def test_the_table_is_complete():
    documented = (test_fetch.ROOT / "docs" / "data.md").read_text()
    for name, d in DATASETS.items():
        assert f"| `{name}` |" in documented
        assert d.files
        assert d.about
        for a in d.archives:
            assert a.url.startswith("https://")
            assert a.url.endswith(".tar.gz")
            assert (a.sha256 is None) == (a.size is None)
            assert a.sha256 is None or len(a.sha256) == 64
