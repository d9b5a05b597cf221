"""What `textless doctor` says of an installation, with one thing broken at a time."""

import os
import shutil
import signal
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
        number = versions[name] if name in versions else real(name)
        if number is None:
            raise metadata.PackageNotFoundError(name)
        return number

    monkeypatch.setattr(metadata, "version", version)
    return versions


def texts(report):
    return dict(report[0])


def test_the_report_says_what_is_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTLESS_STORE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "artefacts").mkdir()
    with open(tmp_path / "artefacts" / "large", "wb") as f:
        f.truncate(1_500_000_000)
    code, out = doctor.main(), capsys.readouterr().out
    assert code == 0
    assert f"torch            {torch.__version__}" in out
    assert f"store            {tmp_path}: 1.5 GB, " in out
    assert "offline by HF_HUB_OFFLINE" in out
    assert f"tiny-en in {ROOT / 'textless' / 'models' / 'tiny-en'}, complete" in out
    assert out.endswith("no problem was found\n")


def test_problems_are_exit_code_1(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", [lambda: ([("a", "b")], ["c: d; e"])])
    assert doctor.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "a                b",
        "problem          c: d; e",
        "                 1 problems",
    ]


@pytest.mark.slow
def test_the_command(textless_command):
    code, out, err = textless_command("doctor")
    assert (code, err) == (0, "")
    assert out.endswith("no problem was found\n")


def test_a_broken_package_is_a_problem_and_nothing_is_raised(monkeypatch, installed):
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

    assert doctor.report([check]) == ([], ["check: could not be checked (no way); report it"])
    assert doctor.report([doctor.versions, check])[1] == problems  # an earlier problem explains it


@pytest.mark.parametrize("how", [f"os.kill(os.getpid(), {signal.SIGILL:d})", "os._exit(3)"])
def test_a_library_that_ends_python(monkeypatch, tmp_path, how):
    (tmp_path / "torch.py").write_text(f"import os\n{how}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    text, code = doctor.run()
    assert code == 1
    name = "SIGILL" if "kill" in how else "exit code 3"
    assert text.endswith(
        f"problem          Python ended with {name} at torch or after it; install that package again\n"
    )


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert texts(doctor.compute())["cores"].startswith("2 usable, torch uses 64; --precision auto is ")
    assert texts(doctor.compute())["warning"] == "more threads than cores are slow; set OMP_NUM_THREADS=2"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert "warning" not in texts(doctor.compute())


def test_the_quota_of_a_control_group(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    quota = tmp_path / "cpu.max"
    assert doctor.usable_cores(quota) == 8
    for text, cores in (("max 100000\n", 8), ("400000 100000\n", 4), ("150000 100000\n", 2), ("100 100000\n", 1)):
        quota.write_text(text)
        assert doctor.usable_cores(quota) == cores


def test_a_gpu_that_cannot_be_used(monkeypatch, tmp_path):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert doctor.compute()[1] == []
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path / "nvidia0")
    assert [p.split(",")[0] for p in doctor.compute()[1]] == [f"{tmp_path}/nvidia0 exists"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: SimpleNamespace(name="T4", total_memory=2**34))
    assert doctor.compute()[1][0].startswith("cuda:0: cannot compute (")
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    lines, problems = doctor.compute()
    assert (dict(lines)["cuda:0"], problems) == ("T4, 16 GiB", [])


def test_a_store_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTLESS_STORE", str(tmp_path / "not" / "yet"))
    assert "not created yet" in texts(doctor.folders())["store"]
    assert not (tmp_path / "not").exists()

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(doctor, "LITTLE", float("inf"))
    lines, problems = doctor.folders()
    assert problems[0] == (
        f"{tmp_path}/not/yet: cannot be written (Permission denied); correct its permissions, "
        "or set TEXTLESS_STORE to another folder"
    )
    assert problems[1].endswith("or set TEXTLESS_CACHE to another folder")
    assert "nearly full" in dict(lines)["warning"]


def test_two_builds_of_faiss(installed):
    installed |= {"faiss-cpu": "1.9.0", "faiss-gpu-cu12": "1.9.0"}
    assert doctor.versions()[1] == [
        "faiss-cpu and faiss-gpu-cu12: overwrite each other; pip uninstall faiss-cpu faiss-gpu-cu12, "
        "then install one of them"
    ]


def test_embedded_models_that_are_damaged(monkeypatch, tmp_path):
    import textless.model

    assert doctor.models()[1] == []
    shutil.copytree(textless.model.EMBEDDED / "tiny-en", tmp_path / "tiny-en")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "tiny-en" / "lm" / "model.safetensors").write_text(pointer)
    weights = tmp_path / "tiny-en" / "vocoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "tiny-en" / "encoder" / "config.json").unlink()
    monkeypatch.setattr(textless.model, "EMBEDDED", tmp_path)
    lines, problems = doctor.models()
    assert len(problems) == 3
    for part, problem in zip(("encoder", "lm", "vocoder"), problems, strict=True):
        assert f"{tmp_path}/tiny-en/{part}" in problem
        assert problem.endswith("; install textless again")
    assert "complete" not in dict(lines)["models"]


def test_the_doctor_needs_nothing_heavy_to_begin():
    assert Path(doctor.__file__).is_relative_to(ROOT)
    body = Path(doctor.__file__).read_text().split("\ndef ")[0]
    assert "import torch" not in body
