"""What is installed, what it can use, and what is wrong: `textless doctor`.

Each check is a function that gives lines (label, text) and problems, one line each: what, where, what to do. None of them may fail.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

Found = tuple[list[tuple[str, str]], list[str]]

NEEDED = (  # distribution, :module where it is called otherwise
    "torch numpy faiss-cpu:faiss scikit-learn:sklearn soundfile soxr pyarrow transformers huggingface-hub:huggingface_hub safetensors "
    "joblib click pyyaml:yaml fsspec"
)
OPTIONAL = {
    "accelerate": "train",
    "tensorboard": "train",
    "distributed": "dask",
    "s3fs": "s3",
    "pocketsphinx": "eval",
    "pystoi": "eval",
}
GPU_FAISS = ("faiss-gpu-cu12", "faiss-gpu-cu11", "faiss-gpu")
ATTEMPT = "importing "  # on standard error, before what may bring Python down
LITTLE = 2e9  # bytes of free disk


def report(checks: list[Callable[[], Found]] | None = None) -> Found:
    """Lines and problems of every check; one that fails itself is a problem."""
    lines, problems = [], []
    for check in checks or CHECKS:
        try:
            more, wrong = check()
        except Exception as e:
            more, wrong = [], [f"{check.__name__}: could not be checked ({_line(e)}); please report it"]
            if problems:  # most likely of a library that is broken, which was said
                more, wrong = [(check.__name__, f"could not be checked ({_line(e)})")], []
        lines += more
        problems += wrong
    return lines, problems


def versions() -> Found:
    """Every dependency is imported: one that is installed may still be broken."""
    lines = [
        (
            "textless",
            f"{metadata.version('textless') if _version('textless') else 'from a clone'}, {Path(__file__).parent.parent}",
        )
    ]
    lines.append(("python", f"{platform.python_version()}, {platform.platform()}, {sys.executable}"))
    problems = []
    for name, _, module in (entry.partition(":") for entry in NEEDED.split()):
        module = module or name
        installed = name if name != "faiss-cpu" else next((n for n in (name, *GPU_FAISS) if _version(n)), name)
        print(f"{ATTEMPT}{module}", file=sys.stderr, flush=True)
        try:
            loaded = importlib.import_module(module)
        except Exception as e:
            lines.append((installed, f"{_version(installed) or 'not installed'}: cannot be imported"))
            problems.append(f"{module}: cannot be imported ({_line(e)}); pip install --force-reinstall {installed}")
            continue
        number = _version(installed) or getattr(loaded, "__version__", "?")
        lines.append((installed, number + DETAILS.get(module, lambda m: "")(loaded)))
    for name, extra in OPTIONAL.items():
        lines.append((name, _version(name) or f"not installed; the extra `{extra}` brings it"))
    return lines, problems


def _torch_build(torch: Any) -> str:
    return (
        f", built for CUDA {torch.version.cuda}"
        if torch.version.cuda
        else ", built for ROCm"
        if torch.version.hip
        else ", built for CPU"
    )


DETAILS: dict[str, Callable[[Any], str]] = {
    "torch": _torch_build,
    "soundfile": lambda m: f", libsndfile {m.__libsndfile_version__}",
    "faiss": lambda m: f", {n} GPUs" if (n := m.get_num_gpus()) else "",
}


def threads() -> Found:
    import torch

    cores, allowed, quota = os.cpu_count() or 1, allowed_cores(), cpu_quota()
    usable, used = max(1, math.ceil(min(allowed, quota))), torch.get_num_threads()
    limits = [f"{allowed} by affinity"] * (allowed < cores) + [f"{quota:g} by cgroup"] * (quota < cores)
    lines = [("cores", f"{cores}{', of which usable ' + ', '.join(limits) if limits else ''}")]
    lines.append(("threads", f"torch {used}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"))
    if used > usable:
        lines.append(
            ("warning", f"torch uses {used} threads on {usable} cores, which is slow; set OMP_NUM_THREADS={usable}")
        )
    return lines, []


def allowed_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores that the control group may use, infinite without a limit."""
    with contextlib.suppress(OSError, ValueError):
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        if quota != "max" and int(quota) > 0:
            return int(quota) / int(period)
    return math.inf


def matrix_units() -> Found:
    import torch

    from textless.units.encoders.load import resolve_precision

    names = {"AMX": "_is_amx_tile_supported", "AVX512-bf16": "_is_avx512_bf16_supported"}
    there = [name for name, f in names.items() if getattr(torch.cpu, f, bool)()]
    return [
        ("matrix units", f"{', '.join(there) or 'none'}; --precision auto is {resolve_precision('auto')} on the CPU")
    ], []


def accelerator() -> Found:
    import torch

    lines, problems = [], []
    devices = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    for device in devices:
        try:
            at = torch.cuda.get_device_properties(device)
            x = torch.arange(64.0).reshape(8, 8)
            if not torch.allclose((x.to(device) @ x.to(device)).cpu(), x @ x):
                raise ArithmeticError("a product of two matrices came out wrong")
            lines.append((device, f"{at.name}, {at.total_memory / 2**30:.0f} GiB"))
        except Exception as e:
            problems.append(
                f"{device}: cannot compute ({_line(e)}); check its driver, or install torch for it; --device cpu works"
            )
    if not devices:
        lines.append(("accelerator", "none that can be used"))
        if has_nvidia():
            problems.append(
                f"/dev/nvidia0 is there, but torch {torch.__version__} cannot use it; install torch for CUDA, or the driver"
            )
    return lines, problems


def has_nvidia() -> bool:
    return Path("/dev/nvidia0").exists()


def store() -> Found:
    from textless.engine.store import default_root

    root = default_root()
    count = sum(1 for _ in (root / "artefacts").glob("*/manifest.json"))
    lines, problems = _folder(
        "store", root, f"{count} artefacts, TEXTLESS_STORE {os.environ.get('TEXTLESS_STORE', 'not set')}"
    )
    return lines, [f"{p}, or give another with TEXTLESS_STORE or --store" for p in problems]


def caches() -> Found:
    from textless.audio import fetch

    lines, problems = _folder("cache", fetch._cache(), "fetched files")
    problems = [f"{p}, or give another with TEXTLESS_CACHE" for p in problems]
    with contextlib.suppress(ImportError):
        from huggingface_hub import constants

        lines.append(("hub cache", str(constants.HF_HUB_CACHE)))
    offline = fetch._offline()
    lines.append(
        (
            "network",
            f"forbidden by {offline}" if offline else "allowed: HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE are not set",
        )
    )
    return lines, problems


def _folder(label: str, path: Path, about: str) -> Found:
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    lines = [(label, f"{path}: {about}, {free / 1e9:.1f} GB free{'' if path.exists() else ', not made yet'}")]
    if free < LITTLE:
        lines.append(("warning", f"{path}: the disk is nearly full; trainings and shards need more"))
    try:
        with tempfile.TemporaryFile(dir=there):
            return lines, []
    except OSError as e:
        return lines, [f"{path}: cannot be written ({e.strerror}); correct its permissions"]


def conflicts() -> Found:
    """Known bad company, by version numbers."""
    lines, problems = [], []
    torch = _numbers("torch")
    for name, expected in (("torchaudio", lambda n: n[:2]), ("torchvision", lambda n: (2, n[1] - 15))):
        if torch and (n := _numbers(name)) and n >= (0, 15) and expected(n) != torch[:2]:
            problems.append(
                f"{name} {_version(name)}: belongs to torch {'.'.join(map(str, expected(n)))}, not {_version('torch')}; "
                f"pip install --upgrade {name}, or remove it: textless does not need it"
            )
    if _numbers("numpy") >= (2,):
        for name, oldest in (("faiss-cpu", (1, 9)), ("scikit-learn", (1, 4, 2))):
            if (n := _numbers(name)) and n < oldest:
                problems.append(
                    f"{name} {_version(name)}: does not know numpy {_version('numpy')}; pip install --upgrade {name}"
                )
    if len(both := [n for n in ("faiss-cpu", *GPU_FAISS) if _version(n)]) > 1:
        problems.append(
            f"{' and '.join(both)}: overwrite each other; pip uninstall {' '.join(both)}, then install one of them"
        )
    if _version("fairseq"):
        lines.append(("fairseq", f"{_version('fairseq')}: not needed, its checkpoints are read without it"))
    if len(loaded := openmp()) > 1:
        lines.append(
            ("OpenMP", f"{' and '.join(loaded)} are both loaded; should it hang or crash, OMP_NUM_THREADS=1 is safe")
        )
    return lines, problems


def openmp(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """OpenMP runtimes in this process, where the system tells."""
    text = maps.read_text() if maps.exists() else ""
    return sorted(set(re.findall(r"/(libgomp|libiomp5|libomp)[^/\n]*\.so", text)))


def embedded() -> Found:
    from textless.model import EMBEDDED, PARTS
    from textless.model_io import CONFIG, TENSORS, read_json

    folder, problems = EMBEDDED / "tiny-en", []
    for part in PARTS:
        try:
            read_json(folder / part / CONFIG)
            problems += [f"{p}; install textless again" for p in [truncation(folder / part / TENSORS)] if p]
        except Exception as e:
            problems.append(f"{_line(e)}; install textless again")
    return [("models", f"tiny-en in {folder}{'' if problems else ', whole'}")], problems


def truncation(path: Path) -> str | None:
    """What is wrong with the size of a .safetensors, by its own header."""
    with open(path, "rb") as f:
        try:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
            length = f.tell() + max(v["data_offsets"][1] for k, v in header.items() if k != "__metadata__")
        except (struct.error, ValueError, MemoryError, OverflowError, TypeError, KeyError):
            return f"{path}: not weights, or cut short (a git LFS pointer?)"
    return (
        None
        if path.stat().st_size == length
        else f"{path}: has {path.stat().st_size} bytes where {length} are expected"
    )


CHECKS = [versions, threads, matrix_units, accelerator, store, caches, conflicts, embedded]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except Exception:
        return None


def _numbers(name: str) -> tuple[int, ...]:
    """Of a version: (2, 6, 0); () where it is not installed."""
    return tuple(int(n) for n in re.findall(r"\d+", re.split(r"\+|post|rc|dev|a\d|b\d", _version(name) or "")[0]))


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def main() -> int:
    """Print the report; 1 when something is wrong."""
    lines, problems = report()
    for label, text in lines:
        print(f"{label:16} {text}")
    for problem in problems:
        print(f"{'problem':16} {problem}")
    print(f"{'':16} {f'{len(problems)} to be mended' if problems else 'nothing wrong was found'}", flush=True)
    return 1 if problems else 0


def run() -> tuple[str, int]:
    """`main` in a process of its own, since a broken library may bring Python down: what it prints, and the exit code."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from textless.cli.doctor import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode in (0, 1) and done.stdout:
        return done.stdout, done.returncode
    tried = [line.removeprefix(ATTEMPT) for line in done.stderr.splitlines() if line.startswith(ATTEMPT)]
    name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    what = f"at {tried[-1]} or what came after it" if tried else _line(done.stderr.strip().rsplit("\n", 1)[-1])
    return f"{done.stdout}{'problem':16} Python ended with {name} {what}; install that package again\n", 1
