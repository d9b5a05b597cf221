"""Artefacts to a remote and back: in memory, in a folder, and on moto's S3 server."""

import errno
import hashlib
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass

import fsspec
import pytest

from textless.engine import remote
from textless.engine.remote import existing, pull, push
from textless.engine.step import Step
from textless.engine.store import Store
from textless.errors import StoreError

FILES = {
    "codebook.npy": b"\0\1" * 500,
    "data/00000.parquet": b"first",
    "data/deep/00001.parquet": b"second",
    "empty": b"",
    "same": b"first",
}
UNIQUE = len(set(FILES.values()))


@pytest.fixture(scope="module")
def s3():
    """Address of a bucket on a server of our own."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            patch.setenv(f"AWS_{name}", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        patch.setenv("NO_PROXY", "127.0.0.1")
        fs = fsspec.filesystem("s3")
        fs.mkdir("bucket")
        yield "s3://bucket"
        type(fs).clear_instance_cache()
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def url(request, tmp_path):
    """An empty remote."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    return f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/remote"


@pytest.fixture
def memory(tmp_path):
    return f"memory://{tmp_path.name}"


def make(root, files=FILES, *, step="kmeans", key=None):
    """An artefact by hand; returns its name."""
    key = key or hashlib.sha256(step.encode()).hexdigest()
    folder = root / "artefacts" / f"{step}-{key[:12]}"
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    about = {path: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()}
    payload = {"step": step, "version": 1, "fields": {}, "inputs": {}}
    told = {"step": step, "key": key, "payload": payload, "fields": {}, "lineage": {key: payload}, "files": about}
    told |= {
        "metrics": {},
        "contract": None,
        "failures": 0,
        "seconds": 1.0,
        "attempts": 1,
        "amount": None,
        "shards": [],
    }
    told |= {"versions": {}, "source": "", "finished": 0.0, "host": ""}
    (folder / "manifest.json").write_text(json.dumps(told))
    return folder.name


def content(root):
    """Every file below a root, so that nothing is overlooked."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def place(url):
    return fsspec.core.url_to_fs(url)


def blob(url, data):
    fs, base = place(url)
    return fs, f"{base}/blobs/{hashlib.sha256(data).hexdigest()}"


def manifest(url, name):
    fs, base = place(url)
    return fs, f"{base}/artefacts/{name}.json"


class Killed(BaseException):
    """As if the process ended here."""


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of a method of a file system; the one number `fail_at` ends in Killed, and all after it."""

    def watch(url, method, fail_at=None):
        fs, lock = place(url)[0], threading.Lock()
        original, done = getattr(fs, method), []

        def call(*args, **kwargs):
            with lock:
                if fail_at is not None and len(done) >= fail_at:
                    raise Killed
                done.append(args)
            return original(*args, **kwargs)

        monkeypatch.setattr(fs, method, call)
        return done

    return watch


def test_what_is_pulled_is_what_was_pushed(tmp_path, url):
    one, two = make(tmp_path / "a"), make(tmp_path / "a", {"lm.pt": b"weights"}, step="train_lm")
    assert existing(url, [one, two]) == set()
    assert push(tmp_path / "a", url, [one, two]) == [one, two]
    assert existing(url, [one, "other-0123456789ab"]) == {one}
    assert pull(url, tmp_path / "b", [two, one]) == [two, one]
    assert content(tmp_path / "b") == content(tmp_path / "a")  # and nothing is left in work


def test_large_files_take_the_same_way(tmp_path, url, monkeypatch):
    monkeypatch.setattr(remote, "LARGE", 6)
    name = make(tmp_path / "a")
    assert push(tmp_path / "a", url, [name]) == pull(url, tmp_path / "b", [name]) == [name]
    assert content(tmp_path / "b") == content(tmp_path / "a")


def test_what_is_there_is_not_sent_again(tmp_path, url, calls):
    name = make(tmp_path / "a")
    sent = calls(url, "put_file")
    assert push(tmp_path / "a", url, [name, name]) == [name]
    assert len(sent) == UNIQUE  # equal files once
    assert push(tmp_path / "a", url, [name]) == []
    grown = make(tmp_path / "a", {**FILES, "data/00002.parquet": b"third"}, step="grown")
    assert push(tmp_path / "a", url, [name, grown]) == [grown]
    assert len(sent) == UNIQUE + 1


def test_what_is_here_is_not_fetched_again(tmp_path, url, calls):
    name = make(tmp_path / "a")
    push(tmp_path / "a", url, [name])
    fetched, looked = calls(url, "get_file"), calls(url, "ls")
    assert pull(url, tmp_path / "b", [name, name]) == [name]
    assert (len(fetched), len(looked)) == (len(FILES), 1)
    assert pull(url, tmp_path / "b", [name]) == []
    assert (len(fetched), len(looked)) == (len(FILES), 1)


def test_names_that_are_nowhere_are_left_out(tmp_path, url):
    name = make(tmp_path / "a")
    assert push(tmp_path / "a", url, ["gone-0123456789ab"]) == []
    assert push(tmp_path / "a", url, ["gone-0123456789ab", name]) == [name]
    assert pull(url, tmp_path / "b", ["gone-0123456789ab"]) == []
    assert content(tmp_path / "b") == {}


def test_one_listing_tells_what_is_there(tmp_path, url, calls):
    names = [make(tmp_path / "a", step=f"step{k}") for k in range(5)]
    push(tmp_path / "a", url, names)
    looked, asked = calls(url, "ls"), calls(url, "exists", fail_at=0)
    assert existing(url, names) == set(names)
    assert (len(looked), asked) == (1, [])


@pytest.mark.parametrize("sends", range(UNIQUE))
def test_a_killed_push_shows_nothing_and_is_finished_by_the_next(tmp_path, url, calls, monkeypatch, sends):
    name = make(tmp_path / "a")
    sent = calls(url, "put_file", fail_at=sends)
    with pytest.raises(Killed):
        push(tmp_path / "a", url, [name])
    assert len(sent) == sends
    monkeypatch.undo()
    assert existing(url, [name]) == set()
    assert pull(url, tmp_path / "b", [name]) == []
    again = calls(url, "put_file")
    assert push(tmp_path / "a", url, [name]) == [name]
    assert len(again) == UNIQUE - sends
    assert pull(url, tmp_path / "b", [name]) == [name]
    assert content(tmp_path / "b") == content(tmp_path / "a")


def test_killed_before_the_manifest(tmp_path, url, calls, monkeypatch):
    name = make(tmp_path / "a")
    calls(url, "pipe_file", fail_at=0)
    with pytest.raises(Killed):
        push(tmp_path / "a", url, [name])
    assert existing(url, [name]) == set()
    monkeypatch.undo()
    again = calls(url, "put_file")
    assert push(tmp_path / "a", url, [name]) == [name]
    assert again == []


def test_a_blob_cut_short_is_sent_again(tmp_path, url, calls):
    name = make(tmp_path / "a")
    fs, path = blob(url, b"second")
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    fs.pipe_file(path, b"sec")
    push(tmp_path / "a", url, [name])
    assert fs.cat_file(path) == b"second"


def test_a_killed_pull_shows_nothing(tmp_path, url, calls, monkeypatch):
    name = make(tmp_path / "a")
    push(tmp_path / "a", url, [name])
    calls(url, "get_file", fail_at=2)
    with pytest.raises(Killed):
        pull(url, tmp_path / "b", [name])
    assert content(tmp_path / "b") == {}
    monkeypatch.undo()
    assert pull(url, tmp_path / "b", [name]) == [name]


def test_a_killed_push_into_a_folder_spares_what_is_there(tmp_path, monkeypatch):
    """Of two pushers of equal files, one is killed while it writes what the other has published."""
    url, name = f"file://{tmp_path}/remote", make(tmp_path / "a")
    push(tmp_path / "a", url, [name])
    fs = place(url)[0]

    def put_file(local, path):
        fs.pipe_file(path, b"se")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(remote, "_list", lambda fs, folder: [])
        patch.setattr(fs, "put_file", put_file)
        with pytest.raises(Killed):
            push(tmp_path / "a", url, [name])
    assert pull(url, tmp_path / "b", [name]) == [name]


def test_what_another_process_pushed_is_seen(tmp_path, s3):
    """s3fs remembers listings."""
    url, names = f"{s3}/{tmp_path.name}", [make(tmp_path / "a", step=step) for step in ("one", "two")]
    push(tmp_path / "a", url, names[:1])
    assert existing(url, names) == {names[0]}
    another = fsspec.filesystem("s3", skip_instance_cache=True)
    another.pipe_file(
        manifest(url, names[1])[1], (tmp_path / "a" / "artefacts" / names[1] / "manifest.json").read_bytes()
    )
    assert existing(url, names) == set(names)


def test_a_pull_swept_away_is_not_put_on_the_remote(tmp_path, monkeypatch):
    url, name = f"file://{tmp_path}/remote", make(tmp_path / "a")
    push(tmp_path / "a", url, [name])
    fs = place(url)[0]
    original = fs.get_file

    def get_file(blob, target):
        shutil.rmtree(tmp_path / "b" / "work")
        original(blob, target)

    monkeypatch.setattr(fs, "get_file", get_file)
    with pytest.raises(StoreError, match=rf"^{tmp_path}/b/work/.pull-.*: No such file"):
        pull(url, tmp_path / "b", [name])


def without_condition(fs, monkeypatch):
    """A service like S3 that knows no conditional writes; a folder on a file system without links."""
    original = fs.pipe_file

    def pipe_file(path, data, mode="overwrite"):
        if mode == "create":
            raise OSError(errno.ENOSYS, "A header you provided implies functionality that is not implemented")
        original(path, data)

    def link(a, b):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fs, "pipe_file", pipe_file)
    monkeypatch.setattr(fs, "link", link, raising=False)


@pytest.mark.parametrize("condition", [True, False])
def test_the_first_of_two_pushers_stays(tmp_path, url, monkeypatch, condition):
    """Of two that both saw nothing there, and whose bytes differ."""
    if not condition:
        without_condition(place(url)[0], monkeypatch)
    name = make(tmp_path / "a")
    assert make(tmp_path / "b", {**FILES, "codebook.npy": b"other bytes", "empty": b"not so"}) == name
    assert push(tmp_path / "a", url, [name]) == [name]
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_complete", lambda fs, base: set())
        assert push(tmp_path / "b", url, [name]) == []
    fs, path = manifest(url, name)
    assert fs.cat_file(path) == (tmp_path / "a" / "artefacts" / name / "manifest.json").read_bytes()
    pull(url, tmp_path / "c", [name])
    assert content(tmp_path / "c") == content(tmp_path / "a")


def test_another_error_of_the_manifest_is_not_taken_for_a_rival(tmp_path, url, monkeypatch):
    fs = place(url)[0]

    def pipe_file(*args, **kwargs):
        raise OSError(errno.EIO, "Internal error")

    monkeypatch.setattr(fs, "pipe_file", pipe_file)
    with pytest.raises(StoreError, match="Internal error"):
        push(tmp_path / "a", url, [make(tmp_path / "a")])


@pytest.mark.parametrize("there_is", [b"Second", b"secon", b"seconds", b"", None])
def test_a_damaged_blob(tmp_path, url, there_is):
    name = make(tmp_path / "a")
    push(tmp_path / "a", url, [name])
    fs, path = blob(url, b"second")
    fs.rm_file(path)
    if there_is is not None:
        fs.pipe_file(path, there_is)
    with pytest.raises(
        StoreError, match=f"blobs/{path[-64:]}: {'missing' if there_is is None else 'damaged'}; remove"
    ) as e:
        pull(url, tmp_path / "b", [name])
    assert "\n" not in str(e.value)
    assert content(tmp_path / "b") == {}
    # What the message says helps.
    if there_is is not None:
        fs.rm_file(path)
    fs.rm_file(manifest(url, name)[1])
    assert push(tmp_path / "a", url, [name]) == pull(url, tmp_path / "b", [name]) == [name]


KEY = hashlib.sha256(b"kmeans").hexdigest()
GOOD = {"size": 5, "sha256": hashlib.sha256(b"first").hexdigest()}
HOSTILE = [
    "/tmp/x",
    "//x",
    "..",
    "../x",
    "a/../../x",
    "a/../b",
    "./x",
    "a//b",
    "a/",
    "",
    ".",
    "manifest.json",
    "manifest.json/x",
    "a\0b",
]


@pytest.mark.parametrize(
    "change",
    [
        *({"files": {path: GOOD}} for path in HOSTILE),
        {"files": {"a": GOOD, "a/b": GOOD}},
        {"files": {"a": 5}},
        {"files": {"a": {"size": 5}}},
        {"files": {"a": {**GOOD, "size": -1}}},
        {"files": {"a": {**GOOD, "size": "5"}}},
        {"files": {"a": {**GOOD, "size": True}}},
        {"files": {"a": {**GOOD, "sha256": "../../artefacts/x"}}},
        {"files": {"a": {**GOOD, "sha256": None}}},
        {"files": ["a"]},
        {"files": None},
        {"key": "0" * 64},
        {"key": KEY[:12]},
        {"key": KEY + "0"},
        {"key": None},
        {"step": "encode"},
        {"step": "../kmeans"},
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        None,
    ],
    ids=lambda change: ascii(change)[:60],
)
def test_a_damaged_or_hostile_manifest(tmp_path, memory, change):
    name = make(tmp_path / "a")
    push(tmp_path / "a", memory, [name])
    fs, path = manifest(memory, name)
    data = fs.cat_file(path)
    if isinstance(change, dict):
        change = json.dumps({**json.loads(data), **change}).encode()
    fs.pipe_file(path, data[:-20] if change is None else change)
    with pytest.raises(StoreError, match=rf"artefacts/{name}.json: damaged \(.+\); remove it there and push") as e:
        pull(memory, tmp_path / "b" / "store", [name])
    assert "\n" not in str(e.value)
    assert content(tmp_path / "b") == {}


def test_a_manifest_that_tells_another_size(tmp_path, memory):
    name = make(tmp_path / "a")
    push(tmp_path / "a", memory, [name])
    fs, path = manifest(memory, name)
    fs.pipe_file(path, json.dumps({**json.loads(fs.cat_file(path)), "files": {"a": {**GOOD, "size": 4}}}).encode())
    with pytest.raises(StoreError, match="damaged"):
        pull(memory, tmp_path / "b", [name])
    assert content(tmp_path / "b") == {}


def test_a_link_in_the_remote_is_no_link_here(tmp_path):
    url, name = f"file://{tmp_path}/remote", make(tmp_path / "a")
    push(tmp_path / "a", url, [name])
    secret, path = tmp_path / "secret", tmp_path / "remote" / "blobs" / GOOD["sha256"]
    path.rename(secret)
    path.symlink_to(secret)
    assert pull(url, tmp_path / "b", [name]) == [name]
    assert not any(p.is_symlink() for p in (tmp_path / "b").rglob("*"))


def test_what_is_damaged_here_is_not_pushed(tmp_path, url):
    name = make(tmp_path / "a")
    folder = tmp_path / "a" / "artefacts" / name
    (folder / "data/deep/00001.parquet").write_bytes(b"Second")
    with pytest.raises(StoreError, match=r"00001.parquet: not as its manifest says; remove"):
        push(tmp_path / "a", url, [name])
    assert not fsspec.core.url_to_fs(url)[0].exists(blob(url, b"second")[1])
    (folder / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"manifest.json: damaged .*; remove .* and run again"):
        push(tmp_path / "a", url, [name])
    assert existing(url, [name]) == set()


def test_a_damaged_artefact_is_replaced_and_kept_aside(tmp_path, memory):
    name = make(tmp_path / "a")
    push(tmp_path / "a", memory, [name])
    (tmp_path / "b/artefacts" / name).mkdir(parents=True)
    (tmp_path / "b/artefacts" / name / "manifest.json").write_text("{")
    assert pull(memory, tmp_path / "b", [name]) == [name]
    assert content(tmp_path / "b/artefacts") == content(tmp_path / "a/artefacts")
    assert list(content(tmp_path / "b/damaged").values()) == [b"{"]


def test_who_comes_second_drops_its_own(tmp_path, memory, monkeypatch):
    name = make(tmp_path / "a")
    push(tmp_path / "a", memory, [name])
    original = remote.publish

    def publish(root, work, name):
        make(tmp_path / "b", {"out": b"made meanwhile"})
        return original(root, work, name)

    monkeypatch.setattr(remote, "publish", publish)
    assert pull(memory, tmp_path / "b", [name]) == []
    assert set(content(tmp_path / "b")) == {f"artefacts/{name}/out", f"artefacts/{name}/manifest.json"}


def test_progress_counts_files(tmp_path, memory):
    names, seen = [make(tmp_path / "a"), make(tmp_path / "a", {"x": b"x"}, step="other")], []
    push(tmp_path / "a", memory, names, lambda *call: seen.append(call))
    assert seen == [(k + 1, UNIQUE + 1, "files") for k in range(UNIQUE + 1)]
    seen.clear()
    pull(memory, tmp_path / "b", names, lambda *call: seen.append(call))
    assert seen == [(k + 1, len(FILES) + 1, "files") for k in range(len(FILES) + 1)]


def test_an_unknown_protocol(tmp_path):
    with pytest.raises(StoreError, match=r"^sftpp://host: Protocol not known: sftpp; did you mean 'sftp'\?$"):
        existing("sftpp://host", [])


def test_a_missing_package(monkeypatch):
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StoreError, match=r"^s3://bucket/x: Install s3fs to access S3; pip install s3fs$"):
        existing("s3://bucket/x", [])


def test_no_such_bucket(tmp_path, s3):
    name = make(tmp_path / "a")
    for call in (
        lambda: push(tmp_path / "a", "s3://nowhere/x", [name]),
        lambda: pull("s3://nowhere/x", tmp_path / "b", [name]),
    ):
        with pytest.raises(
            StoreError, match=r"^s3://nowhere/x: The specified bucket does not exist; create it or correct the address$"
        ):
            call()
    assert not fsspec.filesystem("s3").exists("s3://nowhere")


class LostConnection(Exception):
    """Libraries have exceptions of their own."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError("Access Denied"), "Access Denied; check the credentials"),
        (OSError(errno.EBUSY, "Please reduce\nyour request rate"), "Please reduce your request rate; "),
        (TimeoutError(), "TimeoutError; "),
        (NotImplementedError(), "NotImplementedError; "),
        (LostConnection("cannot reach 10.0.0.1"), "cannot reach 10.0.0.1; "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_the_place_are_one_line(tmp_path, url, monkeypatch, error, said):
    def fail(*args, **kwargs):
        raise error

    name = make(tmp_path / "a")
    push(tmp_path / "a", url, [name])
    new = make(tmp_path / "a", {"new": b"new"}, step="new")
    calls = {
        "ls": lambda: existing(url, [name]),
        "put_file": lambda: push(tmp_path / "a", url, [new]),
        "pipe_file": lambda: push(tmp_path / "a", url, [new]),
        "get_file": lambda: pull(url, tmp_path / "b", [name]),
        "cat_file": lambda: pull(url, tmp_path / "b", [name]),
    }
    for method in calls:
        with monkeypatch.context() as patch:
            patch.setattr(place(url)[0], method, fail)
            with pytest.raises(StoreError) as e:
                calls[method]()
            assert str(e.value).startswith(f"{url}: {said}")
            assert "\n" not in str(e.value)


def test_a_mistake_of_ours_is_not_put_on_the_place(memory, monkeypatch):
    def fail(*args, **kwargs):
        raise AttributeError("typo")

    monkeypatch.setattr(place(memory)[0], "ls", fail)
    with pytest.raises(AttributeError, match="typo"):
        existing(memory, [])


def test_a_store_that_cannot_be_written(tmp_path, memory):
    name = make(tmp_path / "a")
    push(tmp_path / "a", memory, [name])
    (tmp_path / "b").write_text("a file")
    with pytest.raises(StoreError, match=rf"^{tmp_path}/b.*Not a directory"):
        pull(memory, tmp_path / "b", [name])


@pytest.mark.parametrize("url", ["file", "s3"], indirect=True)  # readers of fsspec's memory share one position
def test_threads_at_the_same_artefacts(tmp_path, url):
    names = [make(tmp_path / "a", {**FILES, "own": bytes([k])}, step=f"step{k}") for k in range(3)]
    with ThreadPoolExecutor(4) as pool:
        pushed = [name for result in pool.map(lambda _: push(tmp_path / "a", url, names), range(4)) for name in result]
        pulled = [name for result in pool.map(lambda _: pull(url, tmp_path / "b", names), range(4)) for name in result]
    assert set(pushed) == set(names)
    assert sorted(pulled) == names
    assert content(tmp_path / "b") == content(tmp_path / "a")


def test_processes_at_the_same_artefacts(tmp_path):
    """A folder that several hosts share: of pushers whose bytes differ one is first, and nothing is mixed."""
    url, roots = f"file://{tmp_path}/remote", [tmp_path / f"pusher{k}" for k in range(4)]
    for root in roots:
        names = [make(root, {**FILES, "own": root.name.encode()}, step=f"step{k}") for k in range(3)]
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        pushed = [name for result in pool.map(push, roots, [url] * 4, [names] * 4) for name in result]
        pulled = [name for result in pool.map(pull, [url] * 4, [tmp_path / "b"] * 4, [names] * 4) for name in result]
    assert sorted(pushed) == sorted(pulled) == names
    for name in names:
        assert content(tmp_path / "b" / "artefacts" / name) in [content(root / "artefacts" / name) for root in roots]
    assert content(tmp_path / "remote" / "partial") == {}


@dataclass(frozen=True, kw_only=True)
class Write(Step):
    type = "write"
    text: str

    def run(self, job):
        (job.path / "data").mkdir()
        (job.path / "data" / "out.txt").write_text(self.text)


def test_between_stores(tmp_path, url):
    step, here, elsewhere = Write(text="abc"), Store(tmp_path / "a"), Store(tmp_path / "b")
    here.run(step)
    assert push(here.root, url, [here.name(step)]) == [here.name(step)]
    assert pull(url, elsewhere.root, [elsewhere.name(step)]) == [here.name(step)]
    assert elsewhere.has(step)
    assert (elsewhere.folder(step) / "data" / "out.txt").read_text() == "abc"


def test_fsspec_is_imported_only_when_asked():
    subprocess.run(
        [sys.executable, "-c", "import sys, textless.engine.remote; assert 'fsspec' not in sys.modules"], check=True
    )
