"""Some hundred cases of the fuzzer with a fixed seed, and that it finds what it looks for; `python tests/fuzz.py` is
the long run.
"""

import fuzz
import pytest

FORMATS = list(fuzz.FORMATS)

BROKEN = """
import os, signal
import fuzz
from textless.errors import ModelError

fuzz.SECONDS = 0.3

def build(folder):
    (folder / "a.txt").write_text("good, 1, 2, 3")

def reader(fault):
    return lambda folder: fault() if folder.name == "case" else None

def fail(error):
    raise error

def loop():
    while True:
        pass

for name, fault in {
    "fine": lambda: None,
    "ours": lambda: fail(ModelError("a: is damaged; copy it again")),
    "another": lambda: {}["key"],
    "lines": lambda: fail(ModelError("a: is damaged;\\ncopy it again")),
    "memory": lambda: bytearray(3 << 30),
    "spent": lambda: fail(ModelError("a: not a model (DefaultCPUAllocator: can't allocate memory)")),
    "endless": loop,
    "dies": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}.items():
    fuzz.FORMATS[name] = fuzz.Format(build, reader(fault))
"""


def test_it_finds_what_it_looks_for(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    names = ["fine", "ours", "another", "lines", "memory", "spent", "endless", "dies"]
    found = fuzz.hunt(names, cases=2 * len(names), keep=tmp_path / "kept", load="broken")
    assert found.cases == dict.fromkeys(names, 2)
    assert {name: (fault.partition(" at ")[0], cases) for (name, fault), cases in found.faults.items()} == {
        "another": ("KeyError", [0, 1]),
        "lines": ("ModelError of more than a line", [0, 1]),
        "memory": ("memory ran out", [0, 1]),
        "spent": ("memory ran out before ModelError", [0, 1]),
        "endless": ("not done after 0.3 s", [0, 1]),
        "dies": ("the process ended with -11", [0, 1]),
    }
    assert {f"{name}-0-1" for name in names[2:]} <= {p.name for p in (tmp_path / "kept").iterdir()}


@pytest.mark.parametrize("name", ["stream", "text", "manifest", "archive"])
def test_a_case_is_always_the_same(name, tmp_path):
    for k in "ab":
        (tmp_path / k).mkdir()
    sources = [fuzz.prepare(name, tmp_path / k) for k in "ab"]
    changed = 0
    for n in range(20):
        folders = [tmp_path / k / "case" for k in "ab"]
        for source, folder in zip(sources, folders, strict=True):
            fuzz.case(name, 3, n, source, folder)
        trees = [
            {p.name: p.read_bytes().replace(bytes(s), b"") for p in f.rglob("*") if p.is_file()}
            for s, f in zip(sources, folders, strict=True)
        ]
        assert trees[0] == trees[1]
        changed += bool(fuzz.only_changed(folders[0]))
    assert changed > 15


@pytest.fixture(scope="module")
def found():
    return fuzz.hunt(FORMATS, cases=470)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_but_our_errors(name, found):
    assert found.cases[name] > 5
    assert {fault: cases for (format, fault), cases in found.faults.items() if format == name} == {}


@pytest.mark.slow
def test_nothing_but_our_errors_for_long():
    assert fuzz.hunt(FORMATS, seed=1, cases=5000).faults == {}
