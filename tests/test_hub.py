"""Dumps pushed to a local stand-in of the Hugging Face hub, which keeps commits: all of one, or nothing.

Its addresses and answers are those that huggingface/huggingface_hub, src/huggingface_hub/{hf_api,_commit_api,lfs}.py,
asks for and reads.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml

from conftest import ROOT
from textless.errors import DumpError, TextlessError
from textless.exchange import read_units, write_units
from textless.types import UnitContract, UnitRow, Units
from textless.units import push_dump
from textless.units.hub import upload_of

CONTRACT = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=300)
REPOSITORY = re.compile(r"/api/datasets/([\w.-]+/[\w.-]+)(?:/(revision|tree|branch|preupload|commit)/([^/?]+))?")


class Hub(BaseHTTPRequestHandler):
    """`repositories`: {name: {"private": …, "branches": {branch: {path: bytes}}}}."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def handle_any(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/lfs/"):
            server.objects[self.path.rsplit("/", 1)[-1]] = body
            return self.answer({})
        if self.headers.get("Authorization") != "Bearer good":
            return self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path.endswith("/info/lfs/objects/batch"):
            return self.batch(json.loads(body))
        name, what, revision = REPOSITORY.match(self.path).groups()
        if (repository := server.repositories.get(name)) is None:
            return self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        branches = repository["branches"]
        if what == "branch":
            known = revision in branches
            branches.setdefault(revision, dict(branches["main"]))
            return self.answer({}, 409 if known else 200)
        files = branches[revision or "main"]
        return getattr(self, what or "revision")(name, repository, files, body)

    do_GET = do_POST = do_PUT = handle_any

    def create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "me":
            return self.answer({"error": "Forbidden"}, 403)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repositories[name] = {"private": private, "branches": {"main": {".gitattributes": b"*"}}}
        return self.answer({"url": f"{self.server.address}/datasets/{name}"})

    def batch(self, asked):
        objects = [
            {**o, "actions": {"upload": {"href": f"{self.server.address}/lfs/{o['oid']}", "header": {}}}}
            for o in asked["objects"]
        ]
        return self.answer({"transfer": "basic", "objects": objects})

    def revision(self, name, repository, files, body):
        about = {"id": name, "sha": "a" * 40, "private": repository["private"]}
        return self.answer(about | {"siblings": [{"rfilename": path} for path in files]})

    def tree(self, name, repository, files, body):
        oid = "b" * 40
        return self.answer([{"type": "file", "path": p, "size": len(d), "oid": oid} for p, d in files.items()])

    def preupload(self, name, repository, files, body):
        names = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(".parquet") and self.server.lfs else "regular" for path in names}
        return self.answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})

    def commit(self, name, repository, files, body):
        if self.server.broken == "commit":
            self.close_connection = True  # without an answer
            return None
        if self.server.broken == "conflict":
            return self.answer({"error": "A commit has happened since"}, 412)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.server.commits += 1
        url = f"{self.server.address}/datasets/{name}/commit/{'c' * 40}"
        return self.answer({"commitUrl": url, "commitOid": "c" * 40})

    def answer(self, value, status=200, headers=None):
        data = json.dumps(value).encode()
        self.send_response(status)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        for key, text in sent.items():
            self.send_header(key, text)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.repositories, server.objects = {}, {}
    server.lfs, server.broken, server.commits = True, None, 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def push(hub, tmp_path):
    """`textless push` in a process of its own: huggingface_hub reads the environment when it is imported."""

    def run(*args, token="good", endpoint=None):
        known = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "HUGGING"))}
        env = {**known, "HF_ENDPOINT": endpoint or hub.address, "HF_HOME": str(tmp_path / "hf"), "no_proxy": "*"}
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | ({"HF_TOKEN": token} if token else {})
        command = [sys.executable, "-m", "textless", "push", *map(str, args)]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    return run


def rows(n=3, **extra):
    return [
        UnitRow(f"r{i}", Units.from_frames(np.array([5, 5, 17, 3][: i + 1]), CONTRACT), extra=extra) for i in range(n)
    ]


@pytest.fixture
def dump(tmp_path):
    write_units(tmp_path / "dump", rows(), license="cc-by-4.0", language="en")
    return tmp_path / "dump"


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def remote(hub, name="me/units", branch="main"):
    return {k: v for k, v in hub.repositories[name]["branches"][branch].items() if k != ".gitattributes"}


@pytest.mark.parametrize("lfs", [True, False])
def test_a_dump_becomes_a_data_set_in_one_commit(push, hub, dump, tmp_path, lfs):
    hub.lfs = lfs
    (dump / ".textless.json").write_text("{}")
    (dump / "failures.jsonl").write_text('{"id": "x", "error": "/home/me/x.wav: cut short"}\n')
    code, out, err = push(dump, "hub:me/units")
    assert code == 0, err
    whole = contents(dump)
    sent = {k: whole[k] for k in ("README.md", "dump.json", "data/00000.parquet")}
    assert out == f"{hub.address}/datasets/me/units\n"
    assert f"{dump}: 3 rows, {sum(map(len, sent.values())):,} bytes in 3 files\n" in err
    assert 'load it with datasets.load_dataset("me/units")' in err
    assert (remote(hub), hub.commits, bool(hub.objects)) == (sent, 1, lfs)
    for path, data in remote(hub).items():
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes(data)
    assert [r.id for r in read_units(tmp_path / "copy")] == ["r0", "r1", "r2"]
    assert not hub.repositories["me/units"]["private"]


def test_a_second_push_replaces_the_dump_and_leaves_nothing_of_it(push, hub, tmp_path):
    write_units(tmp_path / "first", rows(split="train"), license="mit")
    write_units(tmp_path / "second", rows(2), license="mit")
    assert push(tmp_path / "first", "hub:me/units")[0] == 0
    hub.repositories["me/units"]["branches"]["main"]["notes.txt"] = b"kept"
    assert push(tmp_path / "second", "hub:me/units")[0] == 0
    assert remote(hub) == {**contents(tmp_path / "second"), "notes.txt": b"kept"}
    assert hub.commits == 2


def test_private_and_a_branch(push, hub, dump):
    code, out, err = push(dump, "hub:me/units", "--private", "--revision", "v2")
    assert code == 0, err
    assert out == f"{hub.address}/datasets/me/units/tree/v2\n"
    assert 'load_dataset("me/units", revision="v2")' in err
    assert hub.repositories["me/units"]["private"]
    assert (remote(hub), remote(hub, branch="v2")) == ({}, contents(dump))
    hub.repositories["me/units"]["private"] = False
    code, _, err = push(dump, "hub:me/units", "--private")
    assert (code, "me/units: exists and is public" in err) == (2, True)
    assert hub.commits == 1


def test_a_repository_of_something_else_is_left_alone(push, hub, dump):
    hub.repositories["me/text"] = {"private": False, "branches": {"main": {"README.md": b"", "train.csv": b"a"}}}
    code, _, err = push(dump, "hub:me/text")
    assert (code, "me/text: holds train.csv and no unit dump" in err) == (2, True)
    assert hub.commits == 0


def test_what_the_hub_refuses_is_one_line_and_publishes_nothing(push, hub, dump):
    for target, token, what in (
        ("hub:me/units", None, "HTTP 401; log in with `hf auth login`, or set HF_TOKEN"),
        ("hub:me/units", "bad", "HTTP 401; log in"),
        ("hub:you/units", "good", "HTTP 403; the token may not write to you"),
    ):
        code, out, err = push(dump, target, token=token)
        assert (code, out) == (2, "")
        assert err.splitlines()[-1].startswith(f"error: {hub.address}/datasets/{target[4:]}: cannot be written")
        assert what in err
    assert hub.repositories == {}
    code, _, err = push(dump, "hub:me/units", endpoint="http://127.0.0.1:9")
    assert (code, "127.0.0.1:9/datasets/me/units: cannot be written, and nothing is published" in err) == (2, True)
    assert "Traceback" not in err


@pytest.mark.parametrize(("broken", "what"), [("commit", "; push again"), ("conflict", "HTTP 412; it was changed")])
def test_an_interrupted_push_publishes_nothing_and_goes_on(push, hub, dump, broken, what):
    hub.broken = broken
    code, _, err = push(dump, "hub:me/units")
    assert (code, "nothing is published" in err, what in err) == (2, True, True)
    assert (remote(hub), hub.commits) == ({}, 0)
    hub.broken = None
    assert push(dump, "hub:me/units")[0] == 0
    assert (remote(hub), hub.commits) == (contents(dump), 1)


# ------------------------------------------------------------------------------------------------- what is uploaded


def header(data):
    return yaml.safe_load(data.decode().split("---\n")[1])


def test_a_dump_without_a_licence_is_refused_and_may_be_given_one(tmp_path):
    write_units(tmp_path / "d", rows(), language="en")
    before = contents(tmp_path / "d")
    with pytest.raises(DumpError, match=r"d: states no licence, .* give --license, such as cc-by-4\.0"):
        push_dump(tmp_path / "d", "hub:me/units")
    upload = upload_of(tmp_path / "d", license="CC BY 4.0")
    assert header(upload.files["README.md"])["license"] == "cc-by-4.0"
    assert header(upload.files["README.md"])["language"] == ["en"]
    about = json.loads(upload.files["dump.json"])
    assert about == {**json.loads(before["dump.json"]), "license": "CC BY 4.0"}
    assert contents(tmp_path / "d") == before
    shard = upload.files["data/00000.parquet"].read_bytes()
    assert hashlib.sha256(shard).digest() == hashlib.sha256(before["data/00000.parquet"]).digest()
    sizes = (len(upload.files["README.md"]), len(upload.files["dump.json"]), len(shard))
    assert (upload.rows, upload.size) == (3, sum(sizes))


def test_a_card_that_was_edited_is_kept_where_it_states_a_licence(dump):
    card = dump / "README.md"
    card.write_text(card.read_text() + "\nOur own words.\n")
    assert upload_of(dump).files["README.md"] == card
    card.write_text("Our own words.\n")
    assert header(upload_of(dump).files["README.md"])["license"] == "cc-by-4.0"
    card.unlink()
    assert header(upload_of(dump).files["README.md"])["license"] == "cc-by-4.0"


def test_what_is_no_whole_dump_is_not_sent(dump, tmp_path):
    with pytest.raises(DumpError, match=r"not a unit dump \(dump.json is missing\); make one with"):
        push_dump(tmp_path, "hub:me/units")
    with pytest.raises(DumpError, match="a licence is one line"):
        push_dump(dump, "hub:me/units", license="a\nb")
    (dump / "data" / "00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DumpError, match=r"00000\.parquet"):
        push_dump(dump, "hub:me/units")


@pytest.mark.parametrize("target", ["me/units", "hub:units", "hub:me/units/x", "hub:../x y", "https://x/me/units", ""])
def test_a_target_is_an_owner_and_a_name(dump, target):
    with pytest.raises(TextlessError, match="is no place for a dump; give hub:OWNER/NAME"):
        push_dump(dump, target)
