"""Names of devices, checked before anything is loaded on one."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager

import torch

from textless.errors import DeviceError, ModelError, check_known, unknown

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of matrix products


def resolve(device: str) -> torch.device:
    """The device of this name: `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: the name is unknown, there is no such GPU, or the device lacks float64.
    """
    name = str(device)
    if name == "cpu":
        return torch.device("cpu")
    if re.fullmatch(r"mps(:0)?", name):
        raise DeviceError("device 'mps' has no float64, which norms, statistics and F0 need; use cpu")
    if not re.fullmatch(r"cuda(:(0|[1-9][0-9]*))?", name):
        raise DeviceError(unknown("device", name, ("cpu", "cuda", "cuda:N")))
    if not torch.cuda.is_available():
        why = "finds none on this machine" if torch.version.cuda or torch.version.hip else "was built without CUDA"
        raise DeviceError(f"device {name!r} is a GPU, but this torch {why}; use cpu")
    # Compared as a Python int: torch keeps an index in a byte, and would name another GPU.
    if (index := int(name[5:] or 0)) >= (count := torch.cuda.device_count()):
        known = ", ".join(f"cuda:{i}" for i in range(count))
        raise DeviceError(f"device {name!r} is not on this machine; it has {known}")
    return torch.device("cuda", index) if ":" in name else torch.device("cuda")


def dtype_of(precision: str) -> torch.dtype:
    """The type of matrix products. Raises ModelError for an unknown precision."""
    check_known("precision", precision, PRECISIONS, ModelError)
    return PRECISIONS[precision]


def resolve_precision(precision: str, device: str = "cpu") -> str:
    """`auto` → `bf16` where the device has matrix units for it, else `fp32`.

    Raises ModelError for an unknown precision.
    """
    check_known("precision", precision, (*PRECISIONS, "auto"), ModelError)
    if precision != "auto":
        return precision
    fast = _gpu_has_bf16(device) if device.startswith("cuda") else torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


def check_training(device: str, precision: str) -> None:
    """Raise DeviceError when the device, from `resolve`, lacks the precision (`fp32` or `bf16`)."""
    if precision == "bf16" and device.startswith("cuda") and not _gpu_has_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise DeviceError(
            f"device {device!r} ({name}) has no bfloat16, or emulates it slowly; train with precision fp32"
        )


def _gpu_has_bf16(device: str) -> bool:
    """Whether this GPU multiplies in bfloat16 without emulation."""
    with torch.cuda.device(device):  # the query is about the current GPU
        return torch.cuda.is_bf16_supported(including_emulation=False)


def fork_rng(device: str) -> AbstractContextManager[None]:
    """A block after which torch's generators of the CPU and of this device have the state from before."""
    return torch.random.fork_rng([device] if device.startswith("cuda") else [])
