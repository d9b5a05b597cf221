"""Data parallelism: each process computes some rows of every batch, and gradients are summed over the processes.

Processes are started by `torchrun` or `accelerate launch`, which set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT in the environment. In a process that was started alone, every function here does nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from textless.devices import resolve
from textless.errors import TrainingError
from textless.ranks import rank, size

# The first process may decode a large corpus while the others wait. When one process dies, the launcher ends the
# others.
PATIENCE = timedelta(days=1)


def place(device: str) -> str:
    """The device of this process: with several processes on a host, `cuda` is the GPU with this process's local rank.

    Raises DeviceError as `devices.resolve`, TrainingError when there are fewer GPUs than processes.
    """
    if size() == 1 or device != "cuda":
        return str(resolve(device))
    local = int(os.environ.get("LOCAL_RANK") or 0)
    if local >= torch.cuda.device_count():
        raise TrainingError(
            f"process {local} of this host has no GPU; there are {torch.cuda.device_count()}: start as many processes"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def parts(rows: int, micro_batch: int | None = None) -> list[slice]:
    """The rows of a batch that this process computes, `micro_batch` at a time.

    Raises TrainingError when there are fewer rows than processes: one without rows would have no gradient to add.
    """
    if micro_batch is not None and micro_batch < 1:
        raise TrainingError(f"micro_batch is {micro_batch}; it must be at least one row")
    if rows < size():
        raise TrainingError(
            f"a batch of {rows} rows cannot be split over {size()} processes; start fewer, or make the batch larger"
        )
    first, end = rows * rank() // size(), rows * (rank() + 1) // size()
    step = micro_batch or end - first
    return [slice(at, min(at + step, end)) for at in range(first, end, step)]


def add(tensors: Sequence[Tensor]) -> None:
    """All-reduce (sum) in place; all processes must pass the same shapes. One exchange per dtype and device."""
    if size() == 1:
        return
    _connect()
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in groups.values():
        flat = torch.cat([t.reshape(-1) for t in group])
        dist.all_reduce(flat)
        for tensor, summed in zip(group, flat.split([t.numel() for t in group]), strict=True):
            tensor.copy_(summed.view_as(tensor))


def wait() -> None:
    """Barrier: return when all processes have called it."""
    add([torch.zeros(1)])


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """Run the block in the first process, then in the others, which find the files that it wrote."""
    if rank():
        wait()
    yield
    if not rank():
        wait()


def check_same(number: int, what: str) -> None:
    """Raise TrainingError in every process when one has another number than the first."""
    numbers = torch.zeros(size(), dtype=torch.int64)
    numbers[rank()] = number
    add([numbers])
    if (different := (numbers != numbers[0]).nonzero()).numel():
        i = int(different[0])
        raise TrainingError(
            f"{what} is {int(numbers[0])} in process 0 but {int(numbers[i])} in process {i}; "
            "all hosts must see the same files: put the store on a file system that they share"
        )


def _connect() -> None:
    if dist.is_initialized():
        return
    if not os.environ.get("MASTER_ADDR"):
        raise TrainingError(
            f"WORLD_SIZE is {size()} but MASTER_ADDR is not set; start the processes with torchrun or accelerate launch"
        )
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)
