"""What `textless doctor` says of an installation, with one thing broken at a time."""

import json
import os
import signal
import struct
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import ROOT
from textless.cli import doctor


@pytest.fixture
def installed(monkeypatch):
    """Versions of packages as they are given; the others as they are."""
    versions, real = {}, metadata.version

    def version(name):
        found = versions[name] if name in versions else real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    return versions


def texts(found):
    return dict(found[0])


def test_the_report_says_what_is_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTLESS_STORE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "artefacts" / "kmeans-1").mkdir(parents=True)
    (tmp_path / "artefacts" / "kmeans-1" / "manifest.json").write_text("{}")
    code, out = doctor.main(), capsys.readouterr().out
    assert code == 0
    assert f"torch            {torch.__version__}" in out
    assert f"store            {tmp_path}: 1 artefacts, TEXTLESS_STORE {tmp_path}, " in out
    assert "forbidden by HF_HUB_OFFLINE" in out
    assert out.endswith("nothing wrong was found\n")


def test_problems_are_exit_code_1(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", [lambda: ([("a", "b")], ["c: d; e"])])
    assert doctor.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "a                b",
        "problem          c: d; e",
        "                 1 to be mended",
    ]


@pytest.mark.slow
def test_the_command(textless_command):
    code, out, err = textless_command("doctor")
    assert (code, err) == (0, "")
    assert out.endswith("nothing wrong was found\n")


def test_what_is_broken_is_told_and_nothing_is_raised(monkeypatch, installed):
    real = doctor.importlib.import_module

    def broken(name, *package):
        if name == "soxr":
            raise OSError("libsoxr.so.0:\ncannot open shared object file")
        return real(name, *package)

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    installed["pystoi"] = None
    lines, problems = doctor.versions()
    assert problems == [
        "soxr: cannot be imported (libsoxr.so.0: cannot open shared object file); pip install --force-reinstall soxr",
    ]
    assert dict(lines)["pystoi"] == "not installed; the extra `eval` brings it"

    def check():
        raise RuntimeError("no\nway")

    assert doctor.report([check]) == ([], ["check: could not be checked (no way); please report it"])
    assert doctor.report([doctor.versions, check])[1] == problems  # what follows from it is not told again


@pytest.mark.parametrize("how", [f"os.kill(os.getpid(), {signal.SIGILL:d})", "os._exit(3)"])
def test_a_library_that_ends_python(monkeypatch, tmp_path, how):
    (tmp_path / "torch.py").write_text(f"import os\n{how}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    text, code = doctor.run()
    assert code == 1
    name = "SIGILL" if "kill" in how else "exit code 3"
    assert text.endswith(
        f"problem          Python ended with {name} at torch or what came after it; install that package again\n"
    )


def test_more_threads_than_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "allowed_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 1.5)
    assert texts(doctor.threads())["cores"] == "64, of which usable 2 by affinity, 1.5 by cgroup"
    assert texts(doctor.threads())["warning"].endswith("64 threads on 2 cores, which is slow; set OMP_NUM_THREADS=2")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert "warning" not in texts(doctor.threads())


def test_the_quota_of_a_control_group(tmp_path):
    assert doctor.cpu_quota(tmp_path) == float("inf")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert doctor.cpu_quota(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor.cpu_quota(tmp_path) == float("inf")
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert doctor.cpu_quota(tmp_path) == 4


def test_matrix_units(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert texts(doctor.matrix_units())["matrix units"] == "AVX512-bf16; --precision auto is fp32 on the CPU"


def test_a_gpu_that_cannot_be_used(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor, "has_nvidia", lambda: True)
    assert [p.split(",")[0] for p in doctor.accelerator()[1]] == ["/dev/nvidia0 is there"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: SimpleNamespace(name="T4", total_memory=2**34))
    assert doctor.accelerator()[1][0].startswith("cuda:0: cannot compute (")
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    assert doctor.accelerator() == ([("cuda:0", "T4, 16 GiB")], [])


def test_a_store_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTLESS_STORE", str(tmp_path / "not" / "yet"))
    assert "0 artefacts" in texts(doctor.store())["store"]
    assert "not made yet" in texts(doctor.store())["store"]
    assert not (tmp_path / "not").exists()

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(doctor, "LITTLE", float("inf"))
    lines, problems = doctor.store()
    assert problems == [
        f"{tmp_path}/not/yet: cannot be written (Permission denied); correct its permissions, "
        "or give another with TEXTLESS_STORE or --store"
    ]
    assert "nearly full" in dict(lines)["warning"]


@pytest.mark.parametrize(
    ("packages", "problem"),
    [
        ({"torch": "2.6.0+cpu", "torchaudio": "2.6.0"}, None),
        (
            {"torch": "2.7.0", "torchaudio": "2.6.0+cu124"},
            "torchaudio 2.6.0+cu124: belongs to torch 2.6, not 2.7.0; pip",
        ),
        ({"torch": "2.6.0", "torchvision": "0.21.0"}, None),
        ({"torch": "2.6.0", "torchvision": "0.22.1"}, "torchvision 0.22.1: belongs to torch 2.7, not 2.6.0; pip"),
        ({"numpy": "2.0.0", "faiss-cpu": "1.8.0.post1"}, "faiss-cpu 1.8.0.post1: does not know numpy 2.0.0; pip"),
        ({"numpy": "2.0.0", "scikit-learn": "1.4.1"}, "scikit-learn 1.4.1: does not know numpy 2.0.0; pip"),
        ({"numpy": "1.26.4", "scikit-learn": "1.4.0", "faiss-cpu": "1.8.0"}, None),
        ({"faiss-gpu-cu12": "1.9.0"}, "faiss-cpu and faiss-gpu-cu12: overwrite each other; pip"),
    ],
)
def test_versions_that_do_not_go_together(installed, packages, problem):
    installed |= {
        "torchaudio": None,
        "torchvision": None,
        "numpy": "1.26.4",
        "faiss-cpu": "1.9.0",
        "scikit-learn": "1.5",
        **packages,
    }
    problems = doctor.conflicts()[1]
    assert len(problems) == (problem is not None)
    assert problem is None or problems[0].startswith(problem)


def test_what_is_only_said(installed, monkeypatch, tmp_path):
    (tmp_path / "maps").write_text(
        "7f r-xp 00 08:01 1 /x/libgomp-a34.so.1\n7f r-xp 00 08:01 2 /y/libgomp.so.1\n7f r-xp 0 0 3 /z/libiomp5.so\n"
    )
    assert doctor.openmp(tmp_path / "maps") == ["libgomp", "libiomp5"]
    assert doctor.openmp(tmp_path / "none") == []
    installed["fairseq"] = "0.12.2"
    monkeypatch.setattr(doctor, "openmp", lambda: ["libgomp", "libiomp5"])
    lines, problems = doctor.conflicts()
    assert problems == []
    assert "not needed" in dict(lines)["fairseq"]
    assert "libgomp and libiomp5 are both loaded" in dict(lines)["OpenMP"]


def test_embedded_models_that_are_cut_short(monkeypatch, tmp_path):
    import textless.model

    assert doctor.embedded()[1] == []
    header = json.dumps({"__metadata__": {}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    whole = struct.pack("<Q", len(header)) + header + bytes(8)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for part, weights in {"encoder": whole, "codebook": whole[:-1], "lm": pointer, "vocoder": b""}.items():
        folder = tmp_path / "tiny-en" / part
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
    monkeypatch.setattr(textless.model, "EMBEDDED", tmp_path)
    codebook, lm, vocoder = doctor.embedded()[1]
    assert codebook.endswith(f"has {len(whole) - 1} bytes where {len(whole)} are expected; install textless again")
    assert "lm/model.safetensors: not weights, or cut short" in lm
    assert "vocoder/model.safetensors: not weights, or cut short" in vocoder
    (tmp_path / "tiny-en" / "encoder" / "config.json").unlink()
    assert "not a model folder" in doctor.embedded()[1][0]


def test_the_doctor_needs_nothing_heavy_to_begin():
    assert Path(doctor.__file__).is_relative_to(ROOT)
    body = Path(doctor.__file__).read_text().split("\ndef ")[0]
    assert "import torch" not in body
