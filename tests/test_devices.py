"""Names of devices. No GPU is needed: torch's answers are replaced."""

from __future__ import annotations

import pytest
import torch

from textless.devices import resolve
from textless.errors import DeviceError


@pytest.fixture
def gpus(monkeypatch):
    """As on a machine with two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_devices_that_are_there(gpus):
    assert resolve("cpu") == torch.device("cpu")
    assert resolve("cuda") == torch.device("cuda")
    assert resolve("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    "name", ["gpu0", "", "CUDA", "cuda:", "cuda:-1", "cuda:01", "cuda:1 ", "cuda:１", "meta", "cpu\n", "None"]
)
def test_names_of_no_device(gpus, name):
    with pytest.raises(DeviceError) as e:
        resolve(name)
    assert str(e.value) == f"device is {name!r}; known: cpu, cuda, cuda:N"


@pytest.mark.parametrize("name", ["cuda:2", "cuda:99", "cuda:256", f"cuda:{2**64}"])
def test_gpus_past_the_last(gpus, name):
    with pytest.raises(DeviceError) as e:
        resolve(name)
    assert str(e.value) == f"device {name!r} is not on this machine; it has cuda:0, cuda:1"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
@pytest.mark.parametrize(("version", "why"), [("12.4", "finds none on this machine"), (None, "was built without CUDA")])
def test_no_gpu_at_all(monkeypatch, name, version, why):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(DeviceError) as e:
        resolve(name)
    assert str(e.value) == f"device {name!r} is a GPU, but this torch {why}; use cpu"


@pytest.mark.parametrize("name", ["mps", "mps:0"])
def test_mps_is_refused(name):
    with pytest.raises(DeviceError, match=r"^device 'mps' has no float64, which .* need; use cpu$"):
        resolve(name)


def test_auto_precision_is_that_of_the_named_gpu(monkeypatch):
    """torch is asked about its current GPU; here the second has bfloat16 and the first has not."""
    from textless.devices import resolve_precision

    current = ["cuda:0"]

    class Device:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            current.append(self.device)

        def __exit__(self, *_):
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1] == "cuda:1")
    assert [resolve_precision("auto", device) for device in ("cuda:0", "cuda:1")] == ["fp32", "bf16"]
    assert current == ["cuda:0"]
