"""Several processes that train one model: each computes some rows of every batch, and gradients are summed over all of them.

The processes are those that `torchrun` or `accelerate launch` starts; both say in the environment who is who (RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR, MASTER_PORT). Nothing here does anything in a process that was started alone.
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

PATIENCE = timedelta(
    days=1
)  # the first process may decode a large corpus while the others wait; launchers end the others of one that dies


def place(device: str) -> str:
    """The device of this process: of several on a host that shall run on `cuda`, each has the GPU of its own number.

    Raises DeviceError as `devices.resolve`, TrainingError when there are fewer GPUs than processes.
    """
    if size() == 1 or device != "cuda":
        return str(resolve(device))
    here = int(os.environ.get("LOCAL_RANK") or 0)
    if here >= torch.cuda.device_count():
        raise TrainingError(
            f"process {here} of this host has no GPU; there are {torch.cuda.device_count()}: start as many processes"
        )
    torch.cuda.set_device(here)
    return f"cuda:{here}"


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
    """Sum each tensor over the processes, in place; all processes must give the same shapes. One exchange for each dtype and device."""
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
    """Go on when all processes are here."""
    add([torch.zeros(1)])


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """Let the first process through the block before the others, which then find what it made."""
    if rank():
        wait()
    yield
    if not rank():
        wait()


def check_same(number: int, what: str) -> None:
    """Raise TrainingError in every process when one has another number than the first."""
    all_of_them = torch.zeros(size(), dtype=torch.int64)
    all_of_them[rank()] = number
    add([all_of_them])
    if (different := (all_of_them != all_of_them[0]).nonzero()).numel():
        i = int(different[0])
        raise TrainingError(
            f"{what} is {int(all_of_them[0])} in process 0 but {int(all_of_them[i])} in process {i}; "
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
