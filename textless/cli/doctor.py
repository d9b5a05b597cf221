"""`textless doctor`: what is installed, what is usable, and what is wrong.

Each check returns lines (label, text) and problems: what is wrong, where, and the remedy, one line each.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

Report = tuple[list[tuple[str, str]], list[str]]

NEEDED = (  # distribution, :module if its name differs
    "torch numpy faiss-cpu:faiss scikit-learn:sklearn soundfile soxr pyarrow transformers "
    "huggingface-hub:huggingface_hub safetensors joblib click pyyaml:yaml fsspec"
)
OPTIONAL = {
    "train": "accelerate tensorboard",
    "dask": "distributed",
    "s3": "s3fs",
    "eval": "pocketsphinx pystoi",
    "media": "av",
}
FAISS = ("faiss-cpu", "faiss-gpu-cu12", "faiss-gpu-cu11", "faiss-gpu")  # any one of them will do
ATTEMPT = "importing "  # on standard error, before an import that may end Python
NVIDIA = Path("/dev/nvidia0")
LITTLE = 2e9  # bytes of free disk


def versions() -> Report:
    """Every dependency is imported, since an installed one may be broken."""
    lines = [
        ("textless", f"{_version('textless') or 'from a clone'}, {Path(__file__).parent.parent}"),
        ("python", f"{platform.python_version()}, {platform.platform()}, {sys.executable}"),
    ]
    problems = []
    faiss = [name for name in FAISS if _version(name)]
    if len(faiss) > 1:
        both = " and ".join(faiss)
        problems.append(f"{both}: overwrite each other; pip uninstall {' '.join(faiss)}, then install one of them")
    for entry in NEEDED.split():
        name, _, module = entry.partition(":")
        module = module or name
        name = faiss[0] if module == "faiss" and faiss else name
        print(f"{ATTEMPT}{module}", file=sys.stderr, flush=True)
        try:
            importlib.import_module(module)
        except Exception as e:
            lines.append((name, f"{_version(name) or 'not installed'}: cannot be imported"))
            problems.append(f"{module}: cannot be imported ({_line(e)}); pip install --force-reinstall {name}")
        else:
            lines.append((name, _version(name) or "?"))
    for extra, names in OPTIONAL.items():
        lines += [(n, _version(n) or f"not installed; the extra `{extra}` brings it") for n in names.split()]
    return lines, problems


def compute() -> Report:
    """Cores, threads and GPUs that torch can use; each GPU multiplies two matrices."""
    import torch

    from textless.devices import resolve_precision

    usable, threads = usable_cores(), torch.get_num_threads()
    lines = [("cores", f"{usable} usable, torch uses {threads}; --precision auto is {resolve_precision('auto')}")]
    if threads > usable:
        lines.append(("warning", f"more threads than cores are slow; set OMP_NUM_THREADS={usable}"))
    problems = []
    gpus = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    for device in gpus:
        try:
            properties, x = torch.cuda.get_device_properties(device), torch.arange(64.0).reshape(8, 8)
            if not torch.allclose((x.to(device) @ x.to(device)).cpu(), x @ x):
                raise ArithmeticError("a product of two matrices is wrong")
            lines.append((device, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
        except Exception as e:
            problems.append(
                f"{device}: cannot compute ({_line(e)}); check its driver, or install torch for it; --device cpu works"
            )
    if not gpus:
        lines.append(("gpu", "none that torch can use"))
        if NVIDIA.exists():
            problems.append(
                f"{NVIDIA} exists, but torch {torch.__version__} cannot use it; install torch for CUDA, or the driver"
            )
    return lines, problems


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that affinity and the control group leave to this process."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if quota.is_file():
        limit, _, period = quota.read_text().partition(" ")
        cores = cores if limit == "max" else min(cores, int(limit) / int(period))
    return max(1, math.ceil(cores))


def folders() -> Report:
    """The store and the caches: where they are, their sizes, and whether they can be written."""
    from huggingface_hub import constants

    from textless.audio.fetch import _cache, _offline
    from textless.engine.store import default_root

    lines, problems = [], []
    for label, path, variable in (("store", default_root(), "TEXTLESS_STORE"), ("cache", _cache(), "TEXTLESS_CACHE")):
        existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        state = f"{_size(path) / 1e9:.1f} GB" if path.exists() else "not created yet"
        lines.append((label, f"{path}: {state}, {free / 1e9:.1f} GB free"))
        if free < LITTLE:
            lines.append(("warning", f"{path}: the disk is nearly full; training and shards need more"))
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as e:
            problems.append(
                f"{path}: cannot be written ({e.strerror}); correct its permissions, "
                f"or set {variable} to another folder"
            )
    offline = _offline()
    lines.append(("hub cache", f"{constants.HF_HUB_CACHE}, {f'offline by {offline}' if offline else 'online'}"))
    return lines, problems


def _size(folder: Path) -> int:
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, files in os.walk(folder) for name in files)


def models() -> Report:
    """The embedded models are loaded."""
    from textless.model import EMBEDDED, Model

    model, problems = Model(EMBEDDED / "tiny-en"), []
    for part in ("tokenizer", "lm", "vocoder"):
        try:
            getattr(model, part)
        except Exception as e:
            problems.append(f"{_line(e)}; install textless again")
    return [("models", f"tiny-en in {model.name}{'' if problems else ', complete'}")], problems


CHECKS: list[Callable[[], Report]] = [versions, compute, folders, models]


def report(checks: Sequence[Callable[[], Report]] = ()) -> Report:
    """Lines and problems of every check. A check that fails is a problem, unless an earlier problem explains it."""
    lines: list[tuple[str, str]] = []
    problems: list[str] = []
    for check in checks or CHECKS:
        try:
            more, wrong = check()
        except Exception as e:
            text = f"could not be checked ({_line(e)})"
            more, wrong = ([(check.__name__, text)], []) if problems else ([], [f"{check.__name__}: {text}; report it"])
        lines += more
        problems += wrong
    return lines, problems


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def main() -> int:
    """Print the report; returns 1 if there is a problem."""
    lines, problems = report()
    for label, text in [*lines, *(("problem", problem) for problem in problems)]:
        print(f"{label:16} {text}")
    print(f"{'':16} {f'{len(problems)} problems' if problems else 'no problem was found'}", flush=True)
    return 1 if problems else 0


def run() -> tuple[str, int]:
    """Run `main` in a process of its own, since a broken library may end Python: its output, and the exit code."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from textless.cli.doctor import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode in (0, 1) and done.stdout:
        return done.stdout, done.returncode
    imports = [line.removeprefix(ATTEMPT) for line in done.stderr.splitlines() if line.startswith(ATTEMPT)]
    name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    where = f"at {imports[-1]} or after it" if imports else _line(done.stderr.strip().rsplit("\n", 1)[-1])
    return f"{done.stdout}{'problem':16} Python ended with {name} {where}; install that package again\n", 1
