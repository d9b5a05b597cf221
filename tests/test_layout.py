"""What the design promises of the tree and of imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import textless
import textless.lm
import textless.units
import textless.vocoder
from conftest import ROOT

HEAVY = ("torch", "sklearn", "joblib", "pyarrow", "faiss", "transformers", "scipy")
ALLOWED = {
    "errors": set(),
    "containers": {"errors"},
    "audio": {"errors", "containers"},
    "names": set(),
    "waveforms": {"errors", "audio"},
    "corpus": {"errors", "audio", "names"},
    "edits": set(),
    "intervals": set(),
    "progress": set(),
    "checks": {"errors"},
    "weights": {"errors", "pickles"},
    "curves": set(),
    "devices": {"errors"},
    "distributed": {"devices", "errors"},
    "training": {"devices", "errors", "distributed"},
    "pickles": {"errors", "pickles"},
    "fetch": {"errors"},
    "recognise": {"errors", "audio", "names", "waveforms"},
    "engine": {"checks", "errors", "engine", "names"},
    "units": {
        "checks",
        "errors",
        "audio",
        "corpus",
        "names",
        "waveforms",
        "weights",
        "training",
        "devices",
        "distributed",
        "pickles",
        "fetch",
        "edits",
        "intervals",
        "recognise",
        "units",
    },
    "lm": {
        "checks",
        "devices",
        "errors",
        "names",
        "pickles",
        "weights",
        "training",
        "distributed",
        "intervals",
        "lm",
        "units.types",
        "units.dump",
    },
    "vocoder": {
        "checks",
        "errors",
        "audio",
        "corpus",
        "waveforms",
        "weights",
        "pickles",
        "training",
        "recognise",
        "devices",
        "distributed",
        "edits",
        "intervals",
        "vocoder",
        "units.types",
        "units.dump",
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
        "import textless.lm, textless.vocoder, textless.units, textless.steps, textless.cli",
        "from textless import Units, UnitContract, TextlessError",
        "import textless.cli as c\ntry: c.cli(['--help'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert imported(code) == []


def test_planning_imports_nothing_heavy(tmp_path):
    code = f"from textless.cli import cli\ncli(['run', 'smoke', '--dry-run', '--store', {str(tmp_path)!r}], standalone_mode=False)"
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


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_who_may_import_whom(part):
    root = ROOT / "textless"
    files = sorted((root / part).glob("*.py")) if (root / part).is_dir() else [root / f"{part}.py"]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "textless":
                rest = node.module.split(".")[1:]
                names = [".".join([*rest, a.name]) for a in node.names] if len(rest) < 2 else [".".join(rest)]
            elif isinstance(node, ast.Import):
                names = [".".join(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "textless"]
            for name in names:
                assert any(name == ok or name.startswith(ok + ".") for ok in ALLOWED[part]), f"{file} imports {name}"


def test_nothing_large_or_foreign_is_tracked():
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        pytest.skip("not a git checkout")
    sizes = {f: (ROOT / f).stat().st_size for f in done.stdout.split("\0") if f and Path(ROOT / f).is_file()}
    assert max(sizes.values()) < 20 * 2**20
    assert sum(s for f, s in sizes.items() if f.endswith(".safetensors")) < 60 * 2**20
