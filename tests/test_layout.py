"""What the design promises of the tree and of imports."""

import ast
import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

import textless
import textless.lm
import textless.units
import textless.vocoder
from conftest import GOLDEN, ROOT
from textless.lazy import attach
from textless.moved import MOVED

HEAVY = ("torch", "sklearn", "joblib", "pyarrow", "faiss", "transformers", "scipy")
# Who may import whom: a room, and the rooms below it. Imports for type checkers alone do not count; lazy ones do.
SMALL = {"errors", "files", "ranks", "text", "names", "checks", "devices", "model_io", "pickles", "lazy"}
BELOW = {
    "errors": set(),
    "names": set(),
    "files": set(),
    "ranks": set(),
    "text": set(),
    "lazy": set(),
    "moved": set(),
    "checks": {"errors"},
    "devices": {"errors"},
    "pickles": {"errors"},
    "model_io": {"errors", "files", "pickles"},
    "types": {"errors", "names"},
    "training": {"errors", "files", "ranks", "devices", "lazy", "checks"},
    "audio": {*SMALL, "types"},
    "zoo": {"errors", "types", "audio"},
    "units": {*SMALL, "types", "audio", "training", "zoo"},
    "lm": {*SMALL, "types", "audio", "training", "units.dump", "units.merges", "zoo"},
    "vocoder": {*SMALL, "types", "audio", "training", "units.dump", "zoo"},
    "metrics": {*SMALL, "types", "audio", "units", "lm", "vocoder"},
    "benchmarks": {*SMALL, "types", "audio", "units", "lm", "metrics"},
    "exchange": {*SMALL, "types", "audio", "units"},
    "model": {*SMALL, "types", "audio", "units", "lm", "vocoder", "zoo"},
    "engine": {"errors", "files", "ranks", "text", "names", "checks"},
    "steps": {
        *SMALL,
        "types",
        "audio",
        "training",
        "units",
        "lm",
        "vocoder",
        "metrics",
        "benchmarks",
        "exchange",
        "model",
        "engine",
        "zoo",
    },
    "report": {*SMALL, "types", "audio", "units", "metrics", "model", "engine", "steps"},
    "cli": {
        *SMALL,
        "types",
        "audio",
        "units",
        "lm",
        "vocoder",
        "metrics",
        "benchmarks",
        "exchange",
        "model",
        "engine",
        "steps",
        "report",
        "zoo",
    },
}


def imported(code):
    script = f"import sys\n{code}\nprint([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import textless",
        "import textless.lm, textless.vocoder, textless.units, textless.steps, textless.cli.app",
        "from textless import Units, UnitContract, TextlessError",
        "import textless.cli as c\ntry: c.cli(['--help'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert imported(code) == []


def test_planning_imports_nothing_heavy(tmp_path):
    code = (
        f"from textless.cli.app import cli\ncli(['run', 'smoke', '--dry-run', '--store', "
        f"{str(tmp_path)!r}], standalone_mode=False)"
    )
    assert imported(code) == []


def test_the_public_surface_resolves():
    for name in textless.__all__:
        assert getattr(textless, name) is not None
    for package in (textless.units, textless.lm, textless.vocoder):
        for name in package.__all__:
            assert getattr(package, name) is not None
    for module in (textless, textless.units):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = module.nothing


def test_the_doors_resolve():
    for door in ("units", "vocoder"):
        assert (ROOT / door).is_symlink()
        assert not (ROOT / door).readlink().is_absolute()
        assert (ROOT / door).resolve() == ROOT / "textless" / door
    done = subprocess.run([sys.executable, ROOT / "cli.py", "--version"], capture_output=True, text=True, cwd="/")
    assert done.stdout == f"textless, version {textless.__version__}\n"


def modules():
    """Every module of the package: its name without `textless.`, and its file."""
    root = ROOT / "textless"
    for file in sorted(root.rglob("*.py")):
        yield ".".join(file.relative_to(root).with_suffix("").parts).removesuffix("__init__").rstrip("."), file


def imports(file):
    """Modules of ours that a file imports, lazily or not, for other than type checkers."""
    known, tree = {name for name, _ in modules()}, ast.parse(file.read_text())
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("textless.") for a in node.names if a.name.startswith("textless."))
        elif (node.module or "").split(".")[0] == "textless":
            base = (node.module or "").removeprefix("textless").lstrip(".")
            for a in node.names:
                full = f"{base}.{a.name}".lstrip(".")
                yield full if full in known else base


def test_every_room_is_in_the_table():
    assert {name.partition(".")[0] for name, _ in modules()} - {"", "__main__"} == set(BELOW)


@pytest.mark.parametrize("room", sorted(BELOW))
def test_who_may_import_whom(room):
    for name, file in modules():
        if name.partition(".")[0] == room:
            for other in filter(None, imports(file)):  # the package itself imports nothing
                assert any(f"{other}.".startswith(f"{ok}.") for ok in {*BELOW[room], room}), f"{file} imports {other}"


def test_no_circle():
    graph = {name: set(imports(file)) - {name} for name, file in modules()}
    done: set[str] = set()

    def visit(name, above):
        assert name not in above, f"a circle: {' → '.join((*above, name))}"
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*above, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_doors_refuse_to_be_imported():
    for door in ("units", "vocoder"):
        done = subprocess.run([sys.executable, "-c", f"import {door}"], capture_output=True, text=True, cwd=ROOT)
        assert f"ImportError: import textless.{door}" in done.stderr


def test_modules_are_found_under_the_names_they_had():
    code = "import warnings; warnings.simplefilter('error', DeprecationWarning); import textless.units.encode"
    assert (
        "textless.units.encode is now textless.units.tokenizer and"
        in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stderr
    )
    known = {f"textless.{name}" for name, _ in modules()}
    assert not known & set(MOVED)
    assert {place for places in MOVED.values() for place in places} <= known
    with pytest.warns(DeprecationWarning, match=r"textless\.corpus is now textless\.audio\.corpus"):
        importlib.reload(importlib.import_module("textless.corpus"))
    assert importlib.import_module("textless.units.encode").load_encoder is textless.load_encoder
    assert importlib.import_module("textless.units.encode").Tokenizer is textless.units.Tokenizer


def test_nothing_large_or_foreign_is_tracked():
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        pytest.skip("not a git checkout")
    sizes = {f: (ROOT / f).stat().st_size for f in done.stdout.split("\0") if f and Path(ROOT / f).is_file()}
    assert max(sizes.values()) < 20 * 2**20
    assert sum(s for f, s in sizes.items() if f.endswith(".safetensors")) < 60 * 2**20


# Names of modules that moved and have no successor: what they served was rewritten or removed.
GONE = {
    "textless.cli_pipelines": {"pipeline_options"},
    "textless.doctor": {
        *("Found", "GPU_FAISS", "DETAILS", "threads", "allowed_cores", "cpu_quota", "matrix_units", "accelerator"),
        *("has_nvidia", "store", "caches", "conflicts", "openmp", "embedded", "truncation"),
    },
    "textless.engine.sweep": {"LIMIT", "combinations", "instances"},
    "textless.figures": {"Form", "FIGURES"},
    "textless.units.abx": {"Groups", "Pairs"},
    "textless.outputs": {"is_stream", "refuse", "write_units", "deliver"},
    "textless.pickles.files": {"mapped"},
    "textless.pickles.joblibfile": {"UNPACKED", "Joblib"},
    "textless.pickles.machine": {
        *("INERT", "WORDS", "Reader", "only", "sizes", "hashable", "check_depth", "shown"),
    },
    "textless.report.figures": {"LABELS", "MEL_RATE", "figure"},
    "textless.units.checkpoints": {"SAME_TRUNK"},
    "textless.units.foreign": {"PRECISIONS"},
    "textless.vocoder.bootstrap": {"MEANS", "RATES"},
    "textless.vocoder.rows": {"check_units"},
}
OLD = [line.split(":") for line in (GOLDEN.parent / "names_0.1.txt").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("old", "names"), OLD, ids=[old for old, _ in OLD])
def test_every_module_of_the_version_before_is_found_with_its_names(old, names):
    module = importlib.import_module(old)
    if old in MOVED:
        assert {name for name in names.split() if not hasattr(module, name)} == GONE.get(old, set())


def test_every_module_that_is_gone_is_an_old_name():
    assert {old for old, _ in OLD} - {f"textless.{name}".rstrip(".") for name, _ in modules()} <= set(MOVED)


def test_a_package_that_was_a_module_has_its_names(monkeypatch):
    for name, content in (("shelf.book", {"title": 1, "_page": 2}), ("shelf.rest", {"title": 3, "author": 4})):
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    find, names = attach("shelf", {"title": "shelf.book", "book": "shelf.book"}, rest="shelf.rest")
    assert find("title") == 1  # a declared name comes before one of the rest
    assert find("book") is sys.modules["shelf.book"]
    assert find("author") == 4
    assert names() == ["book", "title"]
    for name in ("_page", "cover", "__path__", "__file__"):
        with pytest.raises(AttributeError, match=f"^module 'shelf' has no attribute '{name}'$"):
            find(name)
    bare, _ = attach("shelf", {"title": "shelf.book"})
    with pytest.raises(AttributeError, match="'author'"):
        bare("author")
