"""Tensors and plain data from untrusted pickles; nothing in them is run.

- `load_torch`: what `torch.save` wrote;
- `load_joblib`: what `joblib.dump` or `pickle.dump` wrote, such as a k-means of scikit-learn;
- `plain`: the objects in them (configurations, dictionaries, fitted models) as dicts and lists.

A pickle is a program that names functions and calls them. Python's own unpickler runs it, but `find_class` imports
nothing: it returns a `Name`. A call of one makes a `Stub` or runs a function that is harmless for any arguments.
"""

from __future__ import annotations

import _compat_pickle
import bz2
import io
import lzma
import math
import mmap
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from textless.errors import ModelError

__all__ = ["Name", "Stub", "load_joblib", "load_torch", "plain", "reading"]
__path__: list[str] = []  # it was a package before 0.2: textless.moved finds the names of its modules

STEPS = 5_000_000  # reads of a file (up to three an opcode) and copied items: a large dictionary has a million
DEPTH = 200  # of lists in lists: enough for every configuration, and far from Python's recursion limit
SMALL, RATIO, LARGE = 64 << 20, 200, 4 << 30  # a compressed file may grow to SMALL or RATIO times its size, up to LARGE
EXPANDED = 2**24  # elements of a tensor that repeats its storage; others are as large as their storage at most
OBJECTS = 64 << 20  # bytes of a checkpoint other than its tensors
DAMAGED = "download or copy it again"
UNSAFE = "nothing was run; take the file from its first publisher, or its weights as safetensors"
TRUSTED = "where you trust it, load it with what wrote it and save it again"
_STORAGES = {"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Bool": "bool"}
_STORAGES |= {"Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64", "Untyped": "uint8"}
_MAPPINGS, _CONTAINERS = (dict, OrderedDict), (list, tuple, set, frozenset, dict, OrderedDict)


@dataclass(eq=False, slots=True)
class Name:
    """A class or function that a pickle names: "module.qualname", never the thing; `call` is done in its place."""

    name: str
    call: Callable[..., Any] | None = field(default=None, repr=False)


@dataclass(eq=False, slots=True)
class Stub:
    """An object of a class that is not imported.

    `name` is the class, `args` what it was called with (a tuple; keywords are a dict at its end), `state` its
    attributes (mostly a dict; None without), `items` what a subclass of dict or list holds (of its kind; None without).
    """

    name: str
    args: tuple = field(default=(), repr=False)
    state: Any = field(default=None, repr=False)
    items: Any = field(default=None, repr=False)

    def append(self, item: Any) -> None:
        self.items = [] if self.items is None else self.items
        self.items.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items = {} if self.items is None else self.items
        self.items[key] = value


def load_torch(path: Path | str) -> Any:
    """What `torch.save` wrote, as a zip or in the older form: plain data, tensors (CPU, no gradients) and `Stub`s.

    The tensors of a zip are mapped from the file: untouched ones are not read, and checksums are not compared.
    Raises ModelError when the file is missing, damaged or no checkpoint, when it names what could run code, and when
    tensors do not fit it.
    """
    with reading(path):
        source = _mapped(path)
        value, reader = _load_zip(source, path) if source[:4] == b"PK\3\4" else _load_legacy(source)
        for (_, dtype), data in reader.storages.items():  # with other bools torch writes out of bounds
            ok = str(dtype) != "torch.bool" or data.numpy().view(np.uint8).max(initial=0) < 2
            _check(ok, "holds a tensor of bool with other values")
        return reader.release(value)


def load_joblib(path: Path | str) -> Any:
    """What `joblib.dump` (zlib, gzip, bz2, lzma, xz or plain) or `pickle.dump` wrote: plain data, arrays and `Stub`s.

    Arrays are in memory and writable; a fitted sklearn model is a `Stub` with its attributes in `state`.
    Raises ModelError when the file is missing, damaged or no pickle, when it names what could run code or holds arrays
    of objects, and when it unpacks to more than 200 times its size (64 MiB are always allowed) or 4 GiB.
    """
    with reading(path):
        source = _mapped(path)
        head = source[:5]
        _check(head[:4] != b"PK\3\4", "is a zip, as torch.save writes, not a joblib dump", "give the k-means model")
        is_old = re.match(rb"ZF|\x04\x22\x4d\x18", head)
        _check(not is_old, "is compressed by lz4 or by joblib before 0.10", TRUSTED)
        tool: Any = None
        if re.match(rb"\x78|\x1f\x8b", head):
            tool = zlib.decompressobj(47)  # zlib or gzip
        elif re.match(rb"\xfd7zXZ|\x5d\0", head):
            tool = lzma.LZMADecompressor(memlimit=256 << 20)  # the highest preset needs 65 MiB
        elif head[:2] == b"BZ":
            tool = bz2.BZ2Decompressor()
        if tool is None:
            reader = Unpickler(source)
        else:
            limit = min(LARGE, max(SMALL, RATIO * len(source)))
            data = tool.decompress(source, limit + 1)
            _check(len(data) <= limit, f"grows to more than {limit >> 20} MiB", f"{TRUSTED}, without compression")
            _check(tool.eof, "is cut short")
            reader = Unpickler(io.BytesIO(data))
        return reader.release(reader.load())


def plain(value: Any) -> Any:
    """What was loaded, with every `Stub` and `Name` turned into plain data; tensors, arrays and other values stay.

    OmegaConf containers become dicts and lists (interpolations and "???" unchanged), other objects the dict of their
    attributes, enum members their value, classes their name, numpy scalars Python numbers. What is shared stays shared.
    Raises ModelError when a value holds itself or is nested too deeply.
    """
    done: dict[int, Any] = {}  # by identity: an object that occurs a thousand times is converted once
    nothing: dict[str, Any] = {}

    def content(stub: Stub) -> Any:
        """An object that lives as long as the stub, as objects are known by their identity."""
        if stub.name.startswith("omegaconf.") and type(stub.state) is dict:  # its _parent leads back up
            for key in ("_content", "_val"):
                if key in stub.state:
                    return stub.state[key]
        if stub.items is not None or stub.state is not None:
            return stub.state if stub.items is None else stub.items
        return stub.args[0] if len(stub.args) == 1 else stub.args or nothing  # of an enum member its value

    def turn(value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is Name:
            return value.name
        if isinstance(value, np.generic):
            return value.item()
        if kind not in (Stub, list, tuple, *_MAPPINGS):
            return value
        if id(value) not in done and depth <= DEPTH:
            done[id(value)] = done  # until it is complete
            if kind is Stub:
                result = turn(content(value), depth + 1)
            elif kind in _MAPPINGS:
                result = kind((*_hashable([turn(k, depth + 1)]), turn(v, depth + 1)) for k, v in value.items())
            else:
                result = kind([turn(v, depth + 1) for v in value])
            done[id(value)] = result
        if done.get(id(value), done) is done:
            raise ModelError(f"a value holds itself or is nested deeper than {DEPTH}; it cannot be taken as plain data")
        return done[id(value)]

    return turn(value, 0)


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Every error as a ModelError of one line that begins with the path: damaged bytes can raise anything."""
    try:
        yield
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from None
    except FileNotFoundError:
        raise ModelError(f"{path}: does not exist; check the path") from None
    except MemoryError:
        raise ModelError(f"{path}: needs more memory than there is; if it should be small, {DAMAGED}") from None
    except OSError as e:
        raise ModelError(f"{path}: cannot be read ({e.strerror or _shown(e)}); check the file") from None
    except Exception as e:
        fault = f"is cut short, damaged, or of another kind ({type(e).__name__}: {_shown(e)})"
        raise ModelError(f"{path}: {fault}; {DAMAGED}") from None


def _mapped(path: Path | str) -> mmap.mmap:
    """The file's bytes. Reading past the end gives fewer, so no length reserves memory; writes stay in memory."""
    path = Path(path)
    kind = "folder" if path.is_dir() else "device or pipe"
    _check(path.is_file() or not path.exists(), f"is a {kind}, not a file", "give a file")
    _check(path.stat().st_size, "is empty")
    with path.open("rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)


def _check(ok: Any, fault: str, remedy: str = DAMAGED) -> None:
    if not ok:
        raise ModelError(f"{fault}; {remedy}")


def _only(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{type(value).__name__}, not {kinds[0].__name__}")
    return value


def _shown(text: Any) -> str:
    """Text of others for an error line: short, no control characters. Of other objects the type."""
    kind = type(text).__name__
    text = text.name if type(text) is Name else str(text) if isinstance(text, str | Exception) else kind
    return " ".join("".join(c if c.isprintable() else " " for c in text[:200]).split()) or kind


def _hashable(keys: Iterable[Any]) -> list[Any]:
    """The keys, when they hash fast: tuples of tuples can take exponential time, and multiples of 2^61 - 1 collide."""
    keys = list(keys)
    for part in (part for key in keys for part in (key if type(key) is tuple and len(key) <= 16 else (key,))):
        ok = type(part) in (str, bytes, float, bool, NoneType, Stub, Name)
        ok = ok or (type(part) is int and abs(part) < 2**61 - 1)
        ok = ok or (isinstance(part, np.generic) and part.dtype.kind in "biufSU")
        _check(ok, f"has a key of type {type(part).__name__} or an endless one, which no model needs")
    return keys


def _sizes(numbers: Any, *kinds: type) -> list[int]:
    """Sizes, strides, counts: none negative, and none so large that to multiply them takes long."""
    if len(_only(numbers, *kinds)) > 32 or not all(0 <= _only(n, int) < 2**63 for n in numbers):
        raise ValueError("sizes that are impossible")
    return list(numbers)


def _array_bytes(shape: Any, dtype: Any, data: Any = None) -> int:
    """The bytes of an array. Raises TypeError or ValueError when there is no such array, or `data` is not its bytes."""
    if not isinstance(dtype, np.dtype):
        raise TypeError("an array of no dtype")
    count = math.prod(_sizes(shape, tuple)) * dtype.itemsize
    if data is not None and len(_only(data, bytes, bytearray)) != count:
        raise ValueError("an array whose bytes do not fit its shape")
    if data and dtype.kind == "b" and np.frombuffer(data, np.uint8).max() > 1:
        raise ValueError("an array of bool with other values")
    return count


def _check_depth(value: Any) -> None:
    """Users of the data walk through it recursively, if only to compare or print it."""
    heights: dict[int, int] = {}  # by identity

    def height(v: Any, above: int) -> int:
        if type(v) not in (*_CONTAINERS, Stub):
            return 0
        if id(v) not in heights and above <= DEPTH:
            heights[id(v)] = 0  # of what holds itself
            parts = (v.args, v.state, v.items) if type(v) is Stub else (*v, *v.values()) if type(v) in _MAPPINGS else v
            heights[id(v)] = 1 + max((height(part, above + 1) for part in parts), default=0)
        _check(above + heights.get(id(v), 1) <= DEPTH + 1, f"is nested deeper than {DEPTH}, which no model is")
        return heights[id(v)]

    height(value, 0)
    heights.clear()  # the function holds itself


# ---- what may be called, with any arguments: those of a wrong type or number raise TypeError


def _checked(function: Callable[..., Any], *kinds: type) -> Callable[..., Any]:
    return lambda *args: function(*[_only(a, *kinds) for a in args])


def _pair(pair: Any) -> tuple[Any, Any]:
    key, value = _only(pair, list, tuple)
    return (*_hashable([key]), value)


def _make_bytes(data: Any = b"", encoding: Any = "latin1") -> bytes:
    if _only(encoding, str) not in ("latin1", "latin-1"):
        raise ValueError("bytes of an unknown encoding")
    return data.encode("latin1") if type(data) is str else bytes(_only(data, bytes, bytearray))


def _make_generic(origin: Any, args: Any) -> Stub:
    _check(_only(origin, Name).name.startswith("typing."), f"calls operator.getitem of {_shown(origin)}", UNSAFE)
    return Stub("typing.generic", (origin, args))


def _make_dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    ok = type(code) is str and re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,5})", code)
    _check(ok, f"holds arrays of Python objects or records (dtype {_shown(code)})", UNSAFE)
    return np.dtype(code, copy=True)  # one of its own, as the byte order is set on it


def _make_empty(cls: Any, shape: Any = None, code: Any = None) -> np.ndarray:
    _check(_only(cls, Name).name == "numpy.ndarray", f"holds arrays of {_shown(cls)}, not numpy.ndarray", UNSAFE)
    return np.empty(0, np.int8)


def _make_array(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    _array_bytes(shape, dtype, data)
    array = np.ndarray(shape, dtype, data, order="F" if order == "F" else "C").copy(order="A")
    return array if axes is None or order != "K" else array.transpose(axes)


_CALLS: dict[str, Callable[..., Any] | None] = {  # pattern of a name: what a call does (None: refuse)
    r"(fairseq|fairseq_cli|omegaconf|sklearn|typing|enum|numpy\.random)\..+|argparse\.Namespace|builtins\.object": Stub,
    r"joblib\.numpy_pickle\.NumpyArrayWrapper": Stub,
    r"builtins\.(int|float|str|bool|list|dict|tuple)": None,
    r"numpy\.(ndarray|(u?int|float|complex)\d+|bool_?|str_|bytes_)": None,
    r"_codecs\.encode|builtins\.bytes": _make_bytes,
    r"builtins\.bytearray": lambda *args: bytearray(_make_bytes(*args)),
    r"builtins\.complex": _checked(complex, float, int),
    r"builtins\.frozenset": _checked(lambda items=(): frozenset(_hashable(items)), list, tuple),
    r"builtins\.range": _checked(range, int),
    r"builtins\.set": _checked(lambda items=(): set(_hashable(items)), list, tuple),
    r"builtins\.slice": _checked(slice, int, NoneType),
    r"builtins\.type": _checked(lambda _: Name("builtins.NoneType"), NoneType),
    r"collections\.OrderedDict": _checked(lambda items=(): OrderedDict(map(_pair, items)), list, tuple),
    r"collections\.defaultdict": lambda factory=None: {},  # without the factory: a missing key is an error
    r"copyreg\._reconstructor": lambda cls, base, state: cls.call(cls.name, () if state is None else (state,)),
    r"numpy\.dtype": _make_dtype,
    r"_?operator\.getitem": _make_generic,
    r"numpy\._?core\.multiarray\._reconstruct": _make_empty,
    r"numpy\._?core\.multiarray\.scalar": lambda dtype, data: _make_array(_make_bytes(data), dtype, (1,), "C")[0],
    r"numpy\._?core\.numeric\._frombuffer": _make_array,
    r"pathlib\.(Pure)?(Posix|Windows)?Path": _checked(lambda *parts: "/".join(parts).replace("//", "/", 1), str),
}


class Unpickler(pickle._Unpickler):
    """Python's own unpickler, with every opcode that names, calls, changes or hashes objects checked.

    It is the one in Python: the one in C reserves memory for every length and memo index that a file states, and reads
    ahead of the arrays that joblib puts between opcodes. Steps, bytes made of bytes and depth are bounded.
    """

    append: Callable[[Any], None]
    memo: dict[int, Any]
    stack: list[Any]

    def __init__(self, source: mmap.mmap | io.BytesIO) -> None:
        super().__init__(source, encoding="latin1")
        self.source, self.calls = source, _CALLS
        self.size = len(source.getbuffer() if isinstance(source, io.BytesIO) else source)
        self.steps, self.room = STEPS, 2 * self.size  # an array of protocol 2 is text, then bytes, then the array
        self._file_read = self.read_counted

    def spend(self, steps: int, room: int = 0) -> None:
        """Take from what a file may cost: without this, a few bytes could copy a large list again and again."""
        self.steps, self.room = self.steps - steps, self.room - room
        ok = self.steps >= 0 and self.room >= 0
        _check(ok, "takes more steps or memory than any model of its size", f"if it is no attack, {DAMAGED}")

    def read_counted(self, n: int) -> bytes:
        self.spend(1)
        return self.source.read(n)

    def load(self) -> Any:
        """The next pickle. Raises ModelError, and whatever damaged bytes lead to."""
        value = super().load()
        self.memo = {}  # each pickle has its own
        _check_depth(value)
        return value

    def release(self, value: Any) -> Any:
        """The value; the reader holds itself, and its bytes would stay in memory until the next garbage collection."""
        vars(self).clear()
        return value

    def find_class(self, module: str, name: str) -> Any:
        """The only door: a `Name` for one that is known to be harmless. Raises ModelError for every other one."""
        self.spend(10, len(module) + len(name))
        old = _compat_pickle.IMPORT_MAPPING.get(module, module), name  # protocols 0 to 2 use the names of Python 2
        full = ".".join(_compat_pickle.NAME_MAPPING.get((module, name), old))
        is_old = full.endswith("NDArrayWrapper")
        _check(not is_old, "was written by joblib before 0.10, with its arrays in other files", TRUSTED)
        for pattern, call in self.calls.items():
            if re.fullmatch(pattern, full):
                return Name(full, call)
        raise ModelError(f"names {_shown(full)}, which could run code; {UNSAFE}")

    def call(self, what: Any, args: Any, keywords: dict[Any, Any] | None = None) -> Any:
        """What our function for that name returns, or a stub."""
        self.spend(10 + len(_only(args, tuple)), sum(len(a) for a in args if type(a) in (str, bytes, bytearray)))
        self.spend(sum(len(a) for a in args if type(a) in _CONTAINERS))
        if _only(what, Name).call is Stub:
            return Stub(what.name, (*args, keywords) if keywords else args)
        _check(what.call and not keywords, f"calls {what.name}, which no model needs", UNSAFE)
        return what.call(*args)

    def _instantiate(self, klass: Any, args: list[Any]) -> None:  # of INST and OBJ
        self.append(self.call(klass, tuple(args)))

    def load_build(self) -> None:
        """Sets an object's state: of a stub it is recorded, of arrays and dtypes checked, of a state dict left out."""
        state, target = self.stack.pop(), self.stack[-1]
        set_state: Any = getattr(target, "__setstate__", None)  # of numpy
        if type(target) is Stub and target.state is None:
            if type(state) is tuple and [type(part) for part in state] in ([dict, dict], [NoneType, dict]):
                self.spend(sum(len(part or ()) for part in state))
                state = {**(state[0] or {}), **state[1]}
            target.state = state
            if target.name.endswith("joblib.numpy_pickle.NumpyArrayWrapper"):
                self.stack[-1] = self.read_array(**_only(state, dict))
        elif type(target) is np.ndarray and target.shape == (0,) and type(state) is tuple and len(state) == 5:
            _version, shape, dtype, fortran, data = state
            data = data.encode("latin1") if type(data) is str else data  # Python 2
            _array_bytes(shape, dtype, _only(data, bytes, bytearray))
            self.spend(0, len(data))
            set_state((1, shape, dtype, bool(fortran), data))
        elif isinstance(target, np.dtype) and type(state) is tuple and list(state[2:5]) == [None] * 3:  # no fields
            if state[1] == ">":  # all else that numpy would take on trust is as in any dtype of that code
                sizes = (target.itemsize, target.alignment) if target.kind in "SU" else (-1, -1)
                set_state((3, ">", None, None, None, *sizes, 0))
        else:  # a state dict has attributes, the versions of its modules
            _check(type(target) is OrderedDict, f"changes an object of type {type(target).__name__}", UNSAFE)

    def read_array(self, subclass: Any, shape: Any, order: Any, dtype: Any, **options: Any) -> np.ndarray:
        """joblib's array, whose bytes follow the object that describes it."""
        _make_empty(subclass)  # refuses others
        if options.get("numpy_array_alignment_bytes") is not None:  # joblib 1.2 and later: a byte counts the padding
            self.source.read(self.source.read(1)[0])
        n = _array_bytes(shape, dtype)
        fits = n <= self.size - self.source.tell()
        _check(fits, f"is cut short: an array of {n} bytes is larger than the rest of the file")
        return _make_array(self.source.read(n), dtype, shape, order).astype(dtype.newbyteorder("="), copy=False)


def _refusal(opcode: str) -> Callable[[Any], None]:
    return lambda r: _check(False, f"uses {opcode}, which no model needs", UNSAFE)


_DICTS = (*_MAPPINGS, Stub)
_REFUSED = ("PERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER")  # what is outside of the pickle
Unpickler.dispatch = pickle._Unpickler.dispatch | {
    pickle.APPEND[0]: lambda r: (_only(r.stack[-2], list, Stub), r.load_append()),
    pickle.APPENDS[0]: lambda r: (_only(r.metastack[-1][-1], list, Stub), r.load_appends()),
    pickle.SETITEM[0]: lambda r: (_only(r.stack[-3], *_DICTS), _hashable(r.stack[-2:-1]), r.load_setitem()),
    pickle.SETITEMS[0]: lambda r: (_only(r.metastack[-1][-1], *_DICTS), _hashable(r.stack[::2]), r.load_setitems()),
    pickle.DICT[0]: lambda r: (_hashable(r.stack[::2]), r.load_dict()),
    pickle.ADDITEMS[0]: lambda r: (_only(r.metastack[-1][-1], set), _hashable(r.stack), r.load_additems()),
    pickle.FROZENSET[0]: lambda r: (_hashable(r.stack), r.load_frozenset()),
    pickle.REDUCE[0]: lambda r: r.append(r.call(r.stack.pop(-2), r.stack.pop())),
    pickle.NEWOBJ[0]: lambda r: r.append(r.call(r.stack.pop(-2), r.stack.pop())),
    pickle.NEWOBJ_EX[0]: lambda r: r.append(r.call(r.stack.pop(-3), r.stack.pop(-2), _only(r.stack.pop(), dict))),
    pickle.BUILD[0]: Unpickler.load_build,
    pickle.FRAME[0]: lambda r: r.read(8),  # only helps to read ahead
    pickle.BYTEARRAY8[0]: lambda r: r.append(bytearray(r.read(min(r.size, *struct.unpack("<Q", r.read(8)))))),
    **{getattr(pickle, opcode)[0]: _refusal(opcode) for opcode in _REFUSED},
}


class Torch(Unpickler):
    """Adds tensors. `storage(key, nbytes)` gives the bytes of a storage as a tensor of uint8."""

    def __init__(self, source: mmap.mmap | io.BytesIO, storage: Callable[[str, int], Any]) -> None:
        import torch

        super().__init__(source)
        self.storage, self.size_kinds = storage, (tuple, torch.Size)
        names = (*_STORAGES.values(), "uint16", "uint32", "uint64")
        self.dtypes = {f"torch.{name}": getattr(torch, name) for name in names}
        self.storages: dict[tuple[str, Any], Any] = {}  # by key and dtype, as tensors of one dimension
        self.whole: set[int] = set()  # the same by identity: tensors are made of these alone
        self.calls = _CALLS | {
            rf"torch\.((cuda|storage)\.)?({'|'.join(_STORAGES)})Storage": None,
            r"torch\.Size": lambda size=(): torch.Size(_sizes(size, tuple, list)),
            r"torch\.device": _checked(lambda *parts: torch.device(":".join(map(str, parts))), str, int),
            r"torch\.serialization\._get_layout": _checked(str, str),
            r"torch\._utils\._rebuild_tensor(_v[23])?": self.make_tensor,
            r"torch\._utils\._rebuild_parameter(_with_state)?": lambda data, *rest: _only(data, torch.Tensor),
        }

    def find_class(self, module: str, name: str) -> Any:
        return self.dtypes.get(f"{module}.{name}") or super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        kind, cls, key, _location, count, *view = _only(pid, tuple)
        _check(kind == "storage" and view in ([], [None]), f"refers to {_shown(kind)}, not to a storage", UNSAFE)
        dtype = self.dtypes["torch." + _STORAGES[_only(cls, Name).name.rpartition(".")[2].removesuffix("Storage")]]
        _sizes((count,), tuple)
        if (_only(key, str), dtype) not in self.storages:
            data = self.storage(key, count * dtype.itemsize)
            data = data.clone() if data.data_ptr() % dtype.itemsize else data  # torch.save aligns them, others need not
            self.storages[key, dtype] = data.view(dtype)
            self.whole.add(id(self.storages[key, dtype]))
        _check(len(self.storages[key, dtype]) == count, "has a storage of two sizes")
        return self.storages[key, dtype]

    def make_tensor(self, data: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        """A view of a storage. `rest`: with gradients?, hooks, the dtype where a storage has none, metadata."""
        _check(id(data) in self.whole, "holds a tensor that is made of something else than a storage", UNSAFE)
        rest = rest[2:]
        dtype, *metadata = rest if rest and rest[0] in self.dtypes.values() else (data.dtype, *rest)
        if dtype != data.dtype:  # one without a storage class of its own, which is made of bytes
            is_aligned = dtype.itemsize > 1 and data.data_ptr() % dtype.itemsize == 0
            fits = is_aligned and data.dtype == self.dtypes["torch.uint8"]
            _check(fits, "holds a tensor whose storage is of another type", UNSAFE)
            data = data[: len(data) - len(data) % dtype.itemsize].view(dtype)
        _check(not any(metadata), "holds a tensor with metadata", UNSAFE)
        size, stride, (offset,) = (_sizes(numbers, *self.size_kinds) for numbers in (size, stride, (offset,)))
        count, last = math.prod(size), sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        inside = offset + (last if count else -1) < len(data) and count <= max(len(data), EXPANDED)
        _check(inside, "holds a tensor that reaches outside of its storage")
        return data.as_strided(size, stride, offset)


def _load_zip(source: mmap.mmap, path: Path | str) -> tuple[Any, Torch]:
    """A zip of `NAME/data.pkl` and the storages, `NAME/data/KEY`, whose bytes are as they are in memory."""
    import torch

    with zipfile.ZipFile(path) as z:
        entries = z.infolist()
    members, everything = {entry.filename: entry for entry in entries}, np.frombuffer(source, np.uint8)
    root = next((name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")), None)
    kept = root and len(members) == len(entries) and sum(entry.file_size for entry in entries) <= len(source)
    kept = kept and not any(e.compress_type or e.flag_bits & 1 or e.compress_size != e.file_size for e in entries)
    fault = "is a zip that torch.save did not write (no data.pkl, or members compressed, encrypted or twice)"
    _check(kept, fault, "give the checkpoint")
    is_program = any(name.startswith((f"{root}/code/", f"{root}/constants.pkl")) for name in members)
    _check(not is_program, "is TorchScript, a program", "take the checkpoint that it was made from")

    def content(name: str) -> np.ndarray:
        """The bytes of a member, mapped."""
        start, size = members[name].header_offset + 30, members[name].file_size
        head = source[start - 30 : start]
        start += sum(struct.unpack("<HH", head[26:]))
        _check(head[:4] == b"PK\3\4" and start + size <= len(source), "is cut short")
        return everything[start : start + size]

    def storage(key: str, nbytes: int) -> Any:
        data = content(f"{root}/data/{key}")
        _check(len(data) == nbytes, f"has a storage of {len(data)} bytes, not of the {nbytes} that are stated")
        return torch.from_numpy(data)

    is_little = f"{root}/byteorder" not in members or content(f"{root}/byteorder").tobytes() == b"little"
    _check(is_little, "was written on a big-endian machine", f"{TRUSTED} on another")
    data = content(f"{root}/data.pkl")
    _check(len(data) <= OBJECTS, f"has {len(data)} bytes of objects, not tensors, which no checkpoint needs", UNSAFE)
    reader = Torch(io.BytesIO(data.tobytes()), storage)
    return reader.load(), reader


def _load_legacy(source: mmap.mmap) -> tuple[Any, Torch]:
    """The older form: pickles of a magic number, version, machine, value, keys; then each storage's length, bytes."""
    import torch

    storages: dict[str, Any] = {}

    def storage(key: str, nbytes: int) -> Any:
        if key not in storages:
            reader.spend(0, nbytes)
            storages[key] = torch.empty(nbytes, dtype=torch.uint8)  # filled below
        return storages[key]

    reader = Torch(source, storage)
    for number in (0x1950A86A20F9469CFC6C, 1001):
        is_same = type(got := reader.load()) is int and got == number
        _check(is_same, "is a pickle that torch.save did not write", "give the checkpoint")
    is_little = _only(reader.load(), dict).get("little_endian") is True
    _check(is_little, "was written on a big-endian machine", f"{TRUSTED} on another")
    value, keys = reader.load(), _only(reader.load(), list)
    _check(sorted(_only(key, str) for key in keys) == sorted(storages), "lists other storages than its tensors use")
    widths = {key: dtype.itemsize for key, dtype in reversed(reader.storages)}  # of its first dtype
    for key in keys:
        (count,), data = struct.unpack("<q", source.read(8)), source.read(len(storages[key]))
        fits = count * widths[key] == len(data) == len(storages[key])
        _check(fits, "is cut short, or has storages of other sizes than its tensors'")
        storages[key].numpy()[:] = np.frombuffer(data, np.uint8)
    return value, reader
