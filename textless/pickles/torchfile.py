"""Checkpoints of torch's, in both its file formats."""

from __future__ import annotations

import io
import math
import mmap
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from textless.errors import ModelError
from textless.pickles.files import mapped, reading
from textless.pickles.machine import DAMAGED, TRUSTED, UNSAFE, WORDS, Name, Reader, only, shown, sizes

EXPANDED = 2**24  # elements of a tensor that repeats its storage; others are as large as their storage at most
OBJECTS = 64 << 20  # bytes of what stands beside the tensors

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older form
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Bool": "bool",
    "Byte": "uint8",
}
_STORAGES |= {"Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64", "Untyped": "uint8"}
_DTYPES = {*_STORAGES.values(), "uint16", "uint32", "uint64"}


def load_torch(path: Path | str) -> Any:
    """What `torch.save` wrote, as a zip or in the older form: plain Python data, torch tensors (on the CPU, without gradients) and `Stub`s.

    The tensors of a zip are mapped from the file: what is not touched is not read, and checksums are not compared.
    Raises ModelError when the file is missing, damaged or no checkpoint, when it names what could run code, and when tensors do not fit it.
    """
    with reading(path):
        source = mapped(path)
        return _load_zip(source, path) if source[:4] == b"PK\3\4" else _load_legacy(source)


class Torch(Reader):
    """Adds tensors. `storage(key, nbytes)` gives the bytes of a storage as a tensor of uint8."""

    words = re.compile(
        rf"{WORDS}|torch\.(Tensor|nn\.parameter\.Parameter|((cuda|storage)\.)?({'|'.join(_STORAGES)})Storage)"
    )

    def __init__(self, source: mmap.mmap | io.BytesIO, storage: Callable[[str, int], Any]) -> None:
        import torch

        super().__init__(source)
        self.torch, self.storage = torch, storage
        self.storages: dict[tuple[str, Any], Any] = {}  # by key and dtype, as tensors of one dimension
        self.flat: dict[int, Any] = {}  # the same by identity: tensors are made of these alone

    def find(self, module: str, name: str) -> Any:
        return getattr(self.torch, name) if module == "torch" and name in _DTYPES else super().find(module, name)

    def persistent(self, reference: Any) -> Any:
        kind, cls, key, _location, count, *view = only(reference, tuple)
        if kind != "storage" or view not in ([], [None]):
            raise ModelError(f"refers to something other than a storage ({shown(kind)}); {UNSAFE}")
        dtype = getattr(self.torch, _STORAGES[only(cls, Name).name.rpartition(".")[2].removesuffix("Storage")])
        sizes((count,), tuple)
        if (only(key, str), dtype) not in self.storages:
            data = self.storage(key, count * dtype.itemsize)
            if data.data_ptr() % dtype.itemsize:
                data = data.clone()  # torch.save aligns them, others need not
            data = self.storages[key, dtype] = data.view(dtype)
            self.flat[id(data)] = data
        if len(data := self.storages[key, dtype]) != count:
            raise ValueError("a storage of two sizes")
        return data

    def make_tensor(
        self, data: Any, offset: Any, size: Any, stride: Any, grad: Any = None, hooks: Any = None, metadata: Any = None
    ) -> Any:
        if id(data) not in self.flat or metadata:
            raise ModelError(f"holds a tensor that is made of something else than a storage; {UNSAFE}")
        size, stride, (offset,) = (sizes(numbers, tuple, self.torch.Size) for numbers in (size, stride, (offset,)))
        count, last = math.prod(size), sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if offset + (last if count else -1) >= len(data) or count > max(len(data), EXPANDED):
            raise ModelError(f"holds a tensor that reaches outside of its storage; {DAMAGED}")
        return data.as_strided(size, stride, offset)

    def make_tensor3(
        self, data: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
    ) -> Any:
        """Of dtypes without a storage class of their own."""
        if (
            id(data) not in self.flat
            or data.dtype != self.torch.uint8
            or dtype == self.torch.bool
            or data.data_ptr() % dtype.itemsize
        ):
            raise ModelError(f"holds a tensor that is made of something else than a storage; {UNSAFE}")
        view = data[: len(data) - len(data) % dtype.itemsize].view(only(dtype, self.torch.dtype))
        self.flat[id(view)] = view
        return self.make_tensor(view, offset, size, stride, grad, hooks, metadata)

    def make_subclass(self, function: Any, cls: Any, args: Any, state: Any) -> Any:
        if only(cls, Name).name not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
            raise ModelError(f"holds tensors of a class that is not torch's ({shown(cls)}); {UNSAFE}")
        if not only(function, Name).name.startswith("torch._utils."):
            raise ModelError(f"makes a tensor by something else than torch ({shown(function)}); {UNSAFE}")
        return self.call(function, args)

    def make_size(self, size: Any = ()) -> Any:
        return self.torch.Size(sizes(size, tuple, list))

    def check_bools(self) -> None:
        """Anything but 0 and 1 in a tensor of bool can make torch count wrong, and write where it should not."""
        for (_, dtype), data in self.storages.items():
            if dtype == self.torch.bool and len(data) and data.view(self.torch.uint8).max() > 1:
                raise ModelError(f"holds a tensor of bool with other values; {DAMAGED}")


Torch.functions = Reader.functions | {
    "torch.Size": Torch.make_size,
    "torch.device": lambda reader, *args: reader.torch.device(":".join(str(only(arg, str, int)) for arg in args)),
    "torch.serialization._get_layout": lambda reader, name: only(name, str),
    "torch._tensor._rebuild_from_type_v2": Torch.make_subclass,
    "torch._utils._rebuild_tensor": Torch.make_tensor,
    "torch._utils._rebuild_tensor_v2": Torch.make_tensor,
    "torch._utils._rebuild_tensor_v3": Torch.make_tensor3,
    "torch._utils._rebuild_parameter": lambda reader, data, *rest: only(data, reader.torch.Tensor),
    "torch._utils._rebuild_parameter_with_state": lambda reader, data, *rest: only(data, reader.torch.Tensor),
}


def _load_zip(source: mmap.mmap, path: Path | str) -> Any:
    """A zip of `NAME/data.pkl` and the storages, `NAME/data/KEY`, whose bytes are as they are in memory."""
    import torch

    with zipfile.ZipFile(path) as z:
        entries = z.infolist()
    members = {entry.filename: entry for entry in entries}
    if any(entry.compress_type or entry.flag_bits & 1 or entry.compress_size != entry.file_size for entry in entries):
        raise ModelError(f"has compressed or encrypted members, which torch.save does not write; {UNSAFE}")
    root = next((name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")), None)
    if root is None or len(members) != len(entries) or sum(entry.file_size for entry in entries) > len(source):
        raise ModelError("is a zip that torch.save did not write (no data.pkl, or members twice); give the checkpoint")
    if any(name.startswith((f"{root}/code/", f"{root}/constants.pkl")) for name in members):
        raise ModelError("is TorchScript, a program; take the checkpoint that it was made from")

    def content(name: str) -> np.ndarray:
        """The bytes of a member, mapped."""
        entry = members[name]
        head = source[entry.header_offset : entry.header_offset + 30]
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
        if head[:4] != b"PK\3\4" or start + entry.file_size > len(source):
            raise ModelError(f"is cut short; {DAMAGED}")
        return np.frombuffer(source, np.uint8, entry.file_size, start) if entry.file_size else np.empty(0, np.uint8)

    def storage(key: str, nbytes: int) -> Any:
        if len(data := content(f"{root}/data/{key}")) != nbytes:
            raise ModelError(f"has a storage of {len(data)} bytes where {nbytes} are stated; {DAMAGED}")
        return torch.from_numpy(data) if nbytes else torch.empty(0, dtype=torch.uint8)

    if f"{root}/byteorder" in members and content(f"{root}/byteorder").tobytes() != b"little":
        raise ModelError(f"was written on a big-endian machine; {TRUSTED} on another")
    if len(data := content(f"{root}/data.pkl")) > OBJECTS:
        raise ModelError(f"has {len(data)} bytes of objects beside its tensors, which no checkpoint needs; {UNSAFE}")
    reader = Torch(io.BytesIO(data.tobytes()), storage)
    value = reader.load()
    reader.check_bools()
    return value


def _load_legacy(source: mmap.mmap) -> Any:
    """The older form: pickles of a magic number, a version, the machine, the value, the keys; then each storage's length and bytes."""
    import torch

    storages: dict[str, Any] = {}

    def storage(key: str, nbytes: int) -> Any:
        if key not in storages:
            reader.spend(0, nbytes)
            storages[key] = torch.empty(nbytes, dtype=torch.uint8)  # filled below
        return storages[key]

    reader = Torch(source, storage)
    for wanted in (_MAGIC, _PROTOCOL):
        if type(got := reader.load()) is not int or got != wanted:
            raise ModelError("is a pickle that torch.save did not write; give the checkpoint")
    if only(reader.load(), dict).get("little_endian") is not True:
        raise ModelError(f"was written on a big-endian machine; {TRUSTED} on another")
    value, keys = reader.load(), only(reader.load(), list)
    if sorted(only(key, str) for key in keys) != sorted(storages):
        raise ModelError(f"lists other storages than its tensors use; {DAMAGED}")
    widths = {
        key: dtype.itemsize for key, dtype in reversed(reader.storages)
    }  # the length is in elements of the first dtype
    for key in keys:
        (count,) = struct.unpack("<q", source.read(8))
        if count * widths[key] != len(storages[key]) or len(data := source.read(len(storages[key]))) != len(
            storages[key]
        ):
            raise ModelError(f"is cut short, or has storages of other sizes than its tensors'; {DAMAGED}")
        storages[key].numpy()[:] = np.frombuffer(data, np.uint8)
    reader.check_bools()
    return value
