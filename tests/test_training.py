"""What every training does with checkpoints and devices.

No GPU is needed: torch's answers are replaced.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from test_distributed import TRAININGS
from torch import nn

from textless.errors import DeviceError, TrainingError
from textless.training import distributed
from textless.training import loop as training


@pytest.fixture
def gpus(monkeypatch):
    """As on a machine with two GPUs, neither of which computes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def checkpoint(tmp_path):
    """Of four steps of `run`."""
    run(path := tmp_path / "checkpoint.pt", save=4)
    return path


def run(path, *, save=None, width=3, **more):
    module = nn.Linear(width, 2)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(training, "CHECKPOINT_STEPS", 1)
        optimiser = torch.optim.AdamW(module.parameters())

        def step(n):
            if n == save:
                raise KeyboardInterrupt
            loss = module(torch.ones(1, width)).square().sum()
            loss.backward()
            optimiser.step()
            return {"loss": loss.detach()}

        state = {"model": module, "optimiser": optimiser, **more}
        return module, training.train(step, state, steps=6, seed=0, checkpoint=path, log_every=2)
    return None


def test_a_bit_that_rots_is_seen(checkpoint):
    """torch.load compares no checksums: another weight would be trained on."""
    whole = checkpoint.read_bytes()
    weights = torch.load(checkpoint, weights_only=True)["state"]["model"]["weight"].numpy().tobytes()
    at = whole.index(weights) + 5
    checkpoint.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    with pytest.raises(TrainingError) as e:
        run(checkpoint)
    assert (
        str(e.value) == f"{checkpoint}: this checkpoint is damaged; restore it from a copy, or remove it to start over"
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        PermissionError(13, "Permission denied"),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("where", ["reading", "loading"])
def test_what_fails_for_another_reason_is_not_called_damaged(checkpoint, monkeypatch, error, where):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(*((torch, "load") if where == "reading" else (nn.Module, "load_state_dict")), fail)
    with pytest.raises(type(error)) as e:
        run(checkpoint)
    assert e.value is error


def test_a_checkpoint_of_another_training(checkpoint):
    other = (
        f"{checkpoint}: this checkpoint is of another model or training; use the options that it "
        f"was written with, or remove it to "
    )
    for changes in ({"width": 4}, {"judges": nn.Linear(1, 1)}):
        with pytest.raises(TrainingError) as e:
            run(checkpoint, **changes)
        assert str(e.value) == other + "start over"
    for content in ({"weights": torch.ones(3)}, [1, 2], {"state": 3}):
        torch.save(content, checkpoint)
        with pytest.raises(TrainingError) as e:
            run(checkpoint)
        assert str(e.value) == other + "start over"


def test_a_checkpoint_of_a_gpu_is_loaded_without_it(tmp_path, monkeypatch):
    """And of several processes none loads it to the first one's GPU.

    It is made here by saying of each tensor that it is on one.
    """
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    run(path := tmp_path / "checkpoint.pt", save=4)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(path, weights_only=True)
    _, curve = run(path)
    assert [row["step"] for row in curve] == [2, 4, 6]


@pytest.mark.parametrize("name", TRAININGS)
def test_devices_that_nobody_named_are_left_alone(name, gpus, tmp_path, monkeypatch):
    """Generators of all GPUs would be read and set, for which a context is made on each."""

    def refuse(*args, **kwargs):
        raise AssertionError("a GPU is used")

    monkeypatch.setattr(torch.cuda, "get_rng_state", refuse)
    monkeypatch.setattr(torch.cuda, "set_rng_state", refuse)
    before = torch.get_rng_state()
    TRAININGS[name](tmp_path, steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generator_of_the_gpu_that_is_named_is_restored(gpus, monkeypatch):
    kept = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"state of {device}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: kept.append((state, device)))
    training.train(lambda n: {"loss": 1.0}, {}, steps=1, seed=0, device="cuda:1")
    assert kept == [("state of cuda:1", "cuda:1")]


@pytest.mark.parametrize("name", TRAININGS)
def test_devices_that_cannot_be_had(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, why in (
        ("gpu0", "is 'gpu0'; known: cpu"),
        ("mps", "'mps' has no float64"),
        ("cuda", "'cuda' is a GPU, but"),
        ("cuda:99", "'cuda:99' is a GPU, but"),
    ):
        with pytest.raises(DeviceError, match=f"^device {why}"):
            TRAININGS[name](tmp_path, device=device)


@pytest.mark.parametrize("name", TRAININGS)
def test_precisions(name, gpus, tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match=r"^precision is 'fp16'; known: fp32, bf16$"):
        TRAININGS[name](tmp_path, precision="fp16")

    current = []

    @contextlib.contextmanager
    def device(name):
        current.append(name)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    # A V100 emulates bfloat16; the GPU asked about is the current one.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or current != ["cuda:1"]
    )
    with pytest.raises(DeviceError) as e:
        TRAININGS[name](tmp_path, device="cuda:1", precision="bf16")
    assert (
        str(e.value) == "device 'cuda:1' (Tesla V100) has no bfloat16, or emulates it slowly; train with precision fp32"
    )


def test_place_resolves(gpus):
    assert distributed.place("cpu") == "cpu"
    assert distributed.place("cuda") == "cuda"
    assert distributed.place("cuda:1") == "cuda:1"
    with pytest.raises(DeviceError, match="it has cuda:0, cuda:1"):
        distributed.place("cuda:2")
