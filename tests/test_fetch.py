"""Downloads and the table of published models, against servers on this machine."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from conftest import ROOT
from textless.audio import fetch as module
from textless.audio.fetch import fetch
from textless.errors import ModelError
from textless.zoo import (
    CHAINS,
    CODEBOOKS,
    PUBLISHED,
    Codebook,
    Encoder,
    Published,
    fetch_codebook,
    fetch_encoder,
    published,
)

DATA = hashlib.shake_256(b"weights").digest(1_000_000)
SHA = hashlib.sha256(DATA).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`, and imitates the parts of the hub that snapshot_download uses for
    `server.repositories`."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, path = self.server, urlsplit(self.path).path
        server.requests.append((self.command, path, self.headers.get("Range"), self.headers.get("If-Range")))
        if path.startswith("/api/models/"):
            return self.api(*re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path).groups())
        if found := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            repo, _, name = found.groups()
            if repo == "owner/gated":
                return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
            data = server.repositories[repo][name]
            return self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
        if path not in server.files:
            return self.answer(404, b"not here")
        self.file(server.files[path])

    def api(self, repo, what, revision):
        files = self.server.repositories.get(repo)
        if files is None:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in (None, "main", COMMIT):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if what == "tree":
            body = [
                {"type": "file", "path": k, "size": len(v), "oid": hashlib.sha1(v).hexdigest()}
                for k, v in files.items()
            ]
        else:
            body = {
                "id": repo,
                "modelId": repo,
                "sha": COMMIT,
                "siblings": [{"rfilename": k, "size": len(v)} for k, v in files.items()],
            }
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def file(self, data):
        server, start = self.server, 0
        headers = {"ETag": server.etag} if server.etag else {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(wanted[1])
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start + server.shift}-{len(data) - 1}/{len(data)}"
        self.answer(206 if start else 200, data[start:], headers, cut=server.cuts.pop(0) if server.cuts else None)

    def answer(self, status, body, headers=(), cut=None):
        """`cut`: close the connection after so many bytes."""
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **dict(headers)}.items() if self.server.lengths else ():
            self.send_header(name, str(value))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            if self.command == "GET":
                self.server.served += len(body[:cut])  # before the client has it and looks
                self.wfile.write(body[:cut])
                if cut is not None and self.server.stall:
                    self.server.stall.wait(10)


@pytest.fixture
def server():
    s = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.daemon_threads = True
    s.files, s.repositories = {"/models/km.bin": DATA}, {}
    s.etag, s.ranges, s.cuts, s.shift, s.stall = '"one"', True, [], 0, None
    s.lengths = True
    s.requests, s.served = [], 0
    s.address = f"http://127.0.0.1:{s.server_port}"
    s.url = f"{s.address}/models/km.bin"
    thread = threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield s
    if s.stall:
        s.stall.set()
    s.shutdown()
    thread.join()
    s.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTLESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(module, "PAUSE", 0)
    return tmp_path / "cache"


def kept(cache):
    return {p.name for p in cache.rglob("*") if p.is_file()}


def fails(match, *args, **kwargs):
    """The error of a call of `fetch`: one line that matches."""
    with pytest.raises(ModelError, match=match) as caught:
        fetch(*args, **{"sha256": None, **kwargs})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def start(code, **env):
    """A process of its own; its environment is this one with changes, None removes."""
    env = {k: v for k, v in {**os.environ, **env}.items() if v is not None}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)


def fetching(url):
    return f"from textless.audio.fetch import fetch\nprint(fetch({url!r}, sha256=None))"


# ---------------------------------------------------------------------------------------------------------- one file


def test_a_file_is_downloaded_once(server, cache):
    seen = []
    path = fetch(server.url, sha256=SHA, size=len(DATA), progress=lambda *a: seen.append(a))
    assert path == cache / hashlib.sha256(server.url.encode()).hexdigest()[:12] / "km.bin"
    assert path.read_bytes() == DATA
    assert seen[-1] == (1, 1, "MB of km.bin")
    assert kept(cache) == {"km.bin", "km.bin.sha256", "km.bin.lock"}
    assert fetch(server.url, sha256=SHA.upper()) == fetch(server.url, sha256=None) == path
    assert len(server.requests) == 1


def test_urls_do_not_collide_and_make_safe_names(server, cache):
    server.files |= {"/other/km.bin": b"other", "/..%2f..%2fetc": b"up", "/": b"root"}
    assert fetch(f"{server.address}/other/km.bin", sha256=None) != fetch(server.url, sha256=None)
    for url, name in (("/..%2f..%2fetc?x=/y#z", "_.._etc"), ("/", "file")):
        path = fetch(server.address + url, sha256=None)
        assert (path.name, path.parent.parent) == (name, cache)


def test_where_the_cache_is(monkeypatch, tmp_path):
    source = tmp_path / "a.bin"
    source.write_bytes(b"abc")
    monkeypatch.delenv("TEXTLESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a local file needs no network
    path = fetch(source.as_uri(), sha256=None)
    assert path.read_bytes() == b"abc"
    assert path.parent.parent == tmp_path / "xdg" / "textless" / "files"


@pytest.mark.parametrize("known", [SHA, None])
def test_a_cut_connection_is_resumed(server, known):
    server.cuts = [300_000, 200_000]
    assert fetch(server.url, sha256=known).read_bytes() == DATA
    assert server.served == len(DATA)  # no byte twice
    assert [r[2:] for r in server.requests] == [(None, None), ("bytes=300000-", '"one"'), ("bytes=500000-", '"one"')]


def test_a_killed_process_is_resumed(server, cache):
    server.cuts, server.stall = [500_000], threading.Event()
    process = start(fetching(server.url))
    until = time.monotonic() + 10
    while not (found := [p for p in cache.rglob("km.bin.partial") if p.stat().st_size > 300_000]):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = found[0].stat().st_size
    assert fetch(server.url, sha256=None).read_bytes() == DATA
    assert [r[2] for r in server.requests] == [None, f"bytes={left}-"]
    assert kept(cache) == {"km.bin", "km.bin.sha256", "km.bin.lock"}


def test_a_whole_partial_is_not_downloaded_again(server):
    path = fetch(server.url, sha256=None)
    path.rename(path.with_name("km.bin.partial"))  # killed before the rename
    server.served = 0
    assert fetch(server.url, sha256=SHA).read_bytes() == DATA
    assert server.served == 0


@pytest.mark.parametrize("change", ["etag", "no ranges", "no etag", "wrong part"])
def test_from_the_beginning_where_resuming_would_mix_two_files(server, change):
    path = fetch(server.url, sha256=None)
    path.unlink()
    path.with_name("km.bin.sha256").unlink()
    server.files["/models/km.bin"] = new = DATA[::-1]
    path.with_name("km.bin.partial").write_bytes(DATA[:300_000])
    path.with_name("km.bin.etag").write_text({"etag": '"zero"', "no etag": ""}.get(change, '"one"'))
    server.ranges, server.shift = change != "no ranges", int(change == "wrong part")
    server.served = 0
    assert fetch(server.url, sha256=None).read_bytes() == new
    assert server.requests[-1][2] == (None if change in ("no etag", "wrong part") else "bytes=300000-")


def test_it_gives_up_when_nothing_more_comes(server):
    server.cuts = [1000] + [0] * 20
    fails(
        r"cannot be fetched \(the connection ended after 1000 of 1000000 bytes\); try again, or copy the file to /",
        server.url,
    )
    assert len(server.requests) == module.TRIES
    server.ranges, server.requests, server.cuts = False, [], [1000] * 20
    fails("the connection ended", server.url)
    assert len(server.requests) == module.TRIES


def test_a_server_that_states_no_length(server, cache):
    server.lengths, server.cuts = False, [1000]
    fails(f"{SHA} is expected", server.url, sha256=SHA)  # only the hash or the size show that it was cut
    assert kept(cache) == {"km.bin.lock"}
    server.cuts, server.requests = [1000], []
    assert fetch(server.url, sha256=None, size=len(DATA)).read_bytes() == DATA
    assert len(server.requests) == 2


def test_a_wrong_hash_leaves_nothing(server, cache):
    wrong = "0" * 64
    assert SHA in fails(f"{wrong} is expected", server.url, sha256=wrong)
    assert kept(cache) == {"km.bin.lock"}
    fails("has 1000000 bytes where 7 are expected", server.url, size=7)
    assert kept(cache) == {"km.bin.lock"}
    path = fetch(server.url, sha256=None)
    fails(f"{SHA} where {wrong} is expected; remove it", server.url, sha256=wrong)
    assert path.exists()


def test_the_first_download_is_trusted_and_held_to(server, cache):
    path = fetch(server.url, sha256=None)
    assert path.with_name("km.bin.sha256").read_text() == f"{SHA}  km.bin\n"
    path.unlink()
    server.files["/models/km.bin"], server.etag = b"something else", '"two"'
    message = fails(f"{SHA} is expected; remove .*km.bin.sha256 if it was meant", server.url)
    assert hashlib.sha256(b"something else").hexdigest() in message
    assert kept(cache) == {"km.bin.lock", "km.bin.sha256"}
    server.files["/models/km.bin"] = DATA
    assert fetch(server.url, sha256=None).read_bytes() == DATA


def test_a_file_copied_by_hand_is_checked(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    path = Path(fails("unset HF_HUB_OFFLINE or copy http", server.url).split(" to ")[-1])
    path.write_bytes(b"wrong")
    fails("remove it to fetch it again", server.url, sha256=SHA)
    path.write_bytes(DATA)
    assert fetch(server.url, sha256=SHA) == path
    assert server.requests == []


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_makes_no_connection(server, monkeypatch, variable):
    monkeypatch.setenv(variable, "on")
    message = fails(
        f"^km.bin is not in the cache and {variable} is set: unset {variable} or copy {server.url} to /", server.url
    )
    assert message.endswith("/km.bin")
    assert server.requests == []
    monkeypatch.setenv(variable, "0")
    assert fetch(server.url, sha256=None).read_bytes() == DATA


def test_no_such_file_and_no_server(server, tmp_path):
    fails(r"/models/none: cannot be fetched \(HTTP 404 .*copy the file to /.*/none$", f"{server.address}/models/none")
    assert len(server.requests) == 1  # not tried again
    server.socket.close()
    fails(r"cannot be fetched \(Connection refused\); .*copy the file to /", server.url)
    fails(r"the host is unknown, or there is no network", "https://nowhere.invalid/km.bin")
    fails(r"No such file", (tmp_path / "none").as_uri())
    fails("only https://, http:// and file://", "ftp://host/km.bin")
    fails("only https://, http:// and file://", "km.bin")
    fails("control characters", f"{server.address}/a b")


def test_two_processes_download_once(server):
    server.cuts, server.stall = [900_000], threading.Event()
    processes = [start(fetching(server.url)) for _ in range(2)]
    until = time.monotonic() + 10
    while not server.requests:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.3)  # the other one comes to the lock
    server.stall.set()
    outputs = {p.communicate(timeout=20)[0] for p in processes}
    assert [p.returncode for p in processes] == [0, 0]
    assert len(outputs) == 1
    assert Path(outputs.pop().strip()).read_bytes() == DATA
    assert server.served == len(DATA)


def test_a_cache_that_cannot_be_written(server, cache, tmp_path, monkeypatch):
    path = fetch(server.url, sha256=None)
    path.unlink()
    path.with_name("km.bin.partial").symlink_to("/dev/full")
    fails(r"km.bin: cannot be written \(No space left on device\); make room", server.url)
    (tmp_path / "file").touch()
    monkeypatch.setenv("TEXTLESS_CACHE", str(tmp_path / "file"))
    fails(r"cannot be written \(Not a directory\); .* TEXTLESS_CACHE", server.url)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_without_permission(server, tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir(mode=0o500)
    monkeypatch.setenv("TEXTLESS_CACHE", str(tmp_path / "closed"))
    fails(r"cannot be written \(Permission denied\)", server.url)


# ------------------------------------------------------------------------------------------------------ hostile servers


@contextlib.contextmanager
def saying(*answers):
    """The address of a server that answers its connections one after the other with these bytes, the last one for
    ever."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        todo, over = list(answers), threading.Event()

        def serve():
            while not over.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = s.accept()
                    with connection:
                        connection.recv(1 << 16)
                        if not over.is_set():
                            connection.sendall(todo.pop(0) if len(todo) > 1 else todo[0])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{s.getsockname()[1]}/km.bin"
        finally:
            over.set()
            with contextlib.suppress(OSError):
                socket.create_connection(s.getsockname()).close()
            thread.join()


def answer(body, *headers, status="200 OK"):
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode("latin-1") + body


LENGTHS = ["-1", "-999999999999", "ten", "", "9" * 5000, "\u00b2", "1e3", "0x10", " "]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_that_is_no_number_counts_as_none(cache, length):
    with saying(answer(DATA, f"Content-Length: {length}")) as url:
        assert fetch(url, sha256=SHA).read_bytes() == DATA
    with saying(answer(DATA, f"Content-Length: {length}")) as url:
        assert fetch(url, sha256=None, size=len(DATA)).read_bytes() == DATA


def test_no_more_is_read_than_the_stated_size(cache):
    with saying(answer(DATA + b"x")) as url:
        fails(
            "sends more than the expected 1000000 bytes; the file at this address was replaced",
            url,
            size=len(DATA),
        )
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(DATA), DATA) for _ in range(3)) + b"0\r\n\r\n"
    with saying(answer(chunked, "Transfer-Encoding: chunked", f"Content-Length: {len(DATA)}")) as url:
        fails("sends more than the expected 1000000 bytes", url)
    with saying(answer(DATA, "Content-Length: 10")) as url:  # of which the client reads ten
        fails("has 10 bytes where 1000000 are expected", url, size=len(DATA))
    with saying(answer(DATA, "Content-Length: 999999999999999")) as url:
        fails("has 999999999999999 bytes where 1000000 are expected", url, size=len(DATA))
        fails("the connection ended after 1000000 of 999999999999999 bytes", url)
    with saying(answer(DATA[:-1])) as url:
        fails("the connection ended after 999999 of 1000000 bytes", url, size=len(DATA))
    assert {name.removeprefix("km.bin") for name in kept(cache)} <= {".lock", ".partial", ".etag"}


@pytest.mark.parametrize("size", [b"-1", b"-5", b"zz", b"fffffffffffffffff"])
def test_chunks_of_no_length_or_of_any(cache, size):
    with saying(answer(size + b"\r\n" + DATA, "Transfer-Encoding: chunked")) as url:
        fails("cannot be fetched|returned|sends more", url, sha256=SHA, size=len(DATA))
    assert "km.bin" not in kept(cache)


PAGES = {
    "empty": b"",
    "html": b"<!DOCTYPE html>\n<p>Sign in",
    "mark": b"\xef\xbb\xbf\r\n <HTML>",
    "xml": b"<?xml version='1.0'?><Error/>",
}


@pytest.mark.parametrize("body", PAGES.values(), ids=PAGES)
def test_an_answer_that_is_no_file(cache, body):
    what = "returned a web page" if body else "returned an empty file"
    for headers in ([], [f"Content-Length: {len(body)}"]):
        with saying(answer(body, *headers)) as url:
            fails(what, url)
            fails(what, url, sha256=SHA)
    with saying(answer(b"sign in", "Content-Type: text/html; charset=utf-8")) as url:
        fails("returned a web page", url)
        fails("returned a web page", url, size=3)
    assert {name.removeprefix("km.bin") for name in kept(cache)} <= {".lock", ".etag"}
    with saying(answer(b"", "Content-Range: bytes */0", status="416 Range Not Satisfiable")) as url:
        fails("returned an empty file", url)


@pytest.mark.parametrize(
    "target", ["ftp://127.0.0.1/km.bin", "file:///etc/passwd", "data:,x", "gopher://127.0.0.1/", "//[", "javascript:0"]
)
def test_a_redirect_elsewhere_is_refused(cache, target):
    with saying(answer(b"", f"Location: {target}", status="302 Found")) as url:
        fails("km.bin: cannot be fetched", url)
    assert not [p for p in cache.rglob("*") if p.is_file() and p.read_bytes()]


def test_a_redirect_from_https_to_http_is_refused_and_from_http_to_http_is_not(server):
    redirects = module._Redirects()
    request = urllib.request.Request("https://host/km.bin")
    with pytest.raises(urllib.error.URLError, match=r"redirected to http://host/km\.bin, which is not https"):
        redirects.redirect_request(request, None, 302, "", {}, "http://host/km.bin")
    assert (
        redirects.redirect_request(request, None, 302, "", {}, "https://other/km.bin").full_url
        == "https://other/km.bin"
    )
    with saying(answer(b"", "Location: ftp://127.0.0.1/km.bin", status="302 Found")) as url:
        fails(r"redirected to ftp://127\.0\.0\.1/km\.bin, which is not https", url)
    with saying(answer(b"", f"Location: {server.url}", status="302 Found")) as url:
        assert fetch(url, sha256=SHA).read_bytes() == DATA
    with saying(answer(b"", "Location: /km.bin", status="302 Found")) as url:
        fails("redirect|infinite", url)


@pytest.mark.parametrize("tag", ['"\xff"', "a\x01b", '"' + "x" * 9000 + '"'])
def test_a_tag_that_no_header_can_hold_is_not_kept(cache, tag):
    with saying(
        answer(DATA[:1000], f"ETag: {tag}", f"Content-Length: {len(DATA)}"),
        answer(DATA, f"Content-Length: {len(DATA)}"),
    ) as url:
        assert fetch(url, sha256=SHA).read_bytes() == DATA


def test_what_is_kept_beside_a_file_may_be_damaged(server):
    path = fetch(server.url, sha256=None)
    for name in ("km.bin.sha256", "km.bin.etag"):
        path.with_name(name).write_bytes(b"\xff\x00\n")
    assert fetch(server.url, sha256=SHA) == path
    path.with_name("km.bin.sha256").write_bytes(b"\xff\x00\n")
    path.rename(path.with_name("km.bin.partial"))
    assert fetch(server.url, sha256=SHA).read_bytes() == DATA


# ------------------------------------------------------------------------------------------------------------ the hub


def hub(home, address, *calls, **env):
    """What fetch_repository gives for each (repository, revision): file names, or the error; huggingface_hub reads the
    environment when it is imported, so in a process of its own."""
    code = f"""
import json
from textless.errors import ModelError
from textless.fetch import fetch_repository
for repo, revision in {calls!r}:
    try:
        print(json.dumps(sorted(p.name for p in fetch_repository(repo, revision=revision).iterdir())))
    except ModelError as e:
        print(json.dumps(str(e)))
"""
    process = start(code, HF_ENDPOINT=address, HF_HOME=str(home), HF_HUB_CACHE=None, HF_TOKEN=None, **env)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


def test_a_repository_of_the_hub(server, tmp_path):
    common = {"config.json": b"{}", "README.md": b"#", "tf_model.h5": b"1", "pytorch_model.bin": b"2"}
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    server.repositories = {
        "owner/safe": {**common, "preprocessor_config.json": b"{}", "model.safetensors": DATA},
        "owner/old": common,
        "owner/split": {
            **common,
            "model.safetensors.index.json": index,
            "model-1.safetensors": b"a",
            "model-2.safetensors": b"b",
        },
        "owner/text": {"README.md": b"#"},
        "owner/gated": common,
    }
    home, at = tmp_path / "hf", server.address
    there = [("owner/safe", None), ("owner/safe", COMMIT), ("owner/old", None), ("owner/split", "main")]
    safe = ["config.json", "model.safetensors", "preprocessor_config.json"]
    whole = [safe, safe, ["config.json", "pytorch_model.bin"]]
    whole += [["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]]
    wrong = [("owner/text", None), ("owner/none", None), ("owner/safe", "v9"), ("owner/gated", None), ("a/b/c", None)]
    found = hub(home, at, *there, *wrong)
    assert found[:4] == whole
    text, none, revision, gated, name = found[4:]
    assert text.startswith("owner/text: holds no config.json with model.safetensors or pytorch_model.bin")
    assert none.startswith(f"{at}/owner/none: no such repository")
    assert revision == f"{at}/owner/safe: has no revision 'v9'"
    assert gated.startswith(f"{at}/owner/gated: is gated; accept")
    assert name.startswith("a/b/c: neither a folder nor the name of a repository")

    # what an interrupted download leaves is not taken for the whole
    (broken,) = home.glob("hub/models--owner--old/snapshots/*/pytorch_model.bin")
    broken.unlink()
    assert hub(home, at, ("owner/old", None)) == [whole[2]]

    # from the cache, without network
    server.shutdown()
    server.socket.close()
    before = len(server.requests)
    *again, gone = hub(home, at, *there, ("owner/new", None))
    assert again == whole
    assert re.match(
        rf"{at}/owner/new: cannot be fetched \(.*[Cc]onnection refused.*\); try again, or give the folder of a copy$",
        gone,
    )
    *again, gone = hub(home, at, *there, ("owner/new", None), HF_HUB_OFFLINE="1")
    assert again == whole
    assert gone == (
        f"owner/new is not in the cache {home}/hub and HF_HUB_OFFLINE is set: "
        f"unset HF_HUB_OFFLINE or give the folder of a copy of {at}/owner/new"
    )
    assert len(server.requests) == before


# ---------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_entry_is_complete(name):
    entry = PUBLISHED[name]
    for part in entry.parts.values():
        assert part.licence
        assert part.source.startswith("https://")
        files = [(part.place, part.sha256), *((url, digest) for _, url, digest in part.also)]
        for place, digest in files:
            assert place.startswith("https://") or re.fullmatch(r"[\w.-]+/[\w.-]+", place)
            assert digest is None or (re.fullmatch("[0-9a-f]{64}", digest) and place.startswith("https://"))
        assert part.revision is None or (re.fullmatch("[0-9a-f]{40}", part.revision) and "://" not in part.place)
        assert all(re.fullmatch(r"[a-z]+\.(json|txt)", file) for file, *_ in part.also)
    encoder, codebook = entry.encoder, entry.codebook
    assert encoder.normalisation in ("none", "layer_norm_1e-5", "zscore_1e-7")
    assert encoder.frame_rate in (25.0, 50.0, 100.0)
    if codebook:
        assert encoder.layer
    if name in CODEBOOKS:
        assert re.search(rf"/(km{codebook.n_units}|head{encoder.layer})(-\w+)?$", name)
        assert PUBLISHED[name.split("/")[0]].encoder == encoder
    if name in CHAINS:
        assert "/" not in name
        assert codebook
        assert entry.lm or entry.vocoder


@pytest.mark.parametrize(
    "index",
    ["", "{", "[]", "[" * 100_000, '{"weight_map": 5}', '{"weight_map": {"a": 5}}', '{"weight_map": {"a": "x"}}'],
)
def test_a_damaged_index_is_not_whole(tmp_path, index):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / module.INDEX).write_text(index)
    assert not module._has_weights(tmp_path)


def test_codebooks_are_listed_once():
    for field in ("place", "sha256"):
        values = [v for codebook in CODEBOOKS.values() if (v := getattr(codebook, field))]
        assert len(values) == len(set(values))


def test_an_unknown_name():
    with pytest.raises(ModelError, match="did you mean 'hubert-base-ls960/km100'"):
        published("hubert-base-ls960/km101")
    with pytest.raises(ModelError, match="take hubert-base-ls960/km50 or "):
        fetch_codebook("hubert-base-ls960")
    with pytest.raises(ModelError, match="distilhubert has no codebook; train one"):
        fetch_codebook("distilhubert")


def test_published_files_are_fetched_and_checked(server, monkeypatch):
    common = {"place": server.url, "licence": "none", "source": "https://here"}
    codebook = Codebook(sha256=SHA, n_units=5, **common)
    for name, digest in (("good", SHA), ("bad", "0" * 64)):
        encoder = Encoder(sha256=digest, normalisation="none", layer=1, **common)
        monkeypatch.setitem(PUBLISHED, name, Published(encoder=encoder, codebook=codebook))
    assert fetch_encoder("good").read_bytes() == fetch_codebook("good").read_bytes() == DATA
    with pytest.raises(ModelError, match=f"{SHA} where 0{{64}} is expected"):
        fetch_encoder("bad")
