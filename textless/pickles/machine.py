"""A pickle read as data: the opcodes of Python's pickle machine over our own harmless functions.

A pickle is a program: it names functions and has them called. Here a name stays a word (`Name`), a call becomes a record (`Stub`) or is
done by a function of this module that is harmless for any argument, and every other name is refused. No module is imported, no real
class or function is reached, so none can be called or changed. Nor can a file keep a reader busy: the steps, the bytes made from bytes
and the depth are bounded.
"""

from __future__ import annotations

import io
import itertools
import math
import mmap
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from textless.errors import ModelError

STEPS = 2_000_000  # opcodes in a file, and items that our functions copy: a checkpoint has some ten thousand, a large dictionary a million
DEPTH = 200  # of lists in lists: enough for every configuration, and far from Python's recursion limit
DAMAGED = "download or copy it again"
UNSAFE = "nothing was run; take the file from its first publisher, or its weights as safetensors"
TRUSTED = "where you trust it, load it with what wrote it and save it again"

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # protocols 0 to 2 use the names of Python 2
_RENAMED |= {
    f"builtins.{old}": f"builtins.{new}" for old, new in (("long", "int"), ("unicode", "str"), ("xrange", "range"))
}
INERT = r"(fairseq|fairseq_cli|omegaconf|sklearn|typing|enum|numpy\.random)\..+|argparse\.Namespace|builtins\.object"  # make stubs
WORDS = (  # stand for a type, and cannot be called
    r"builtins\.(int|float|str|bool|list|dict|tuple)|numpy\.(ndarray|(u?int|float|complex)\d+|bool_?|str_|bytes_)"
)
_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,5})")
_VALUES = re.compile(r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?(STRING|UNICODE8?|BYTES8?)|BYTEARRAY8")
_PUSH = {op.name for op in pickletools.opcodes if _VALUES.fullmatch(op.name)}


class Name:
    """A class or function that a pickle names: the words `name` ("module.qualname"), never the thing itself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Stub:
    """An object that a pickle makes of a class which is not taken.

    `name` is the class, `args` what it was called with (a tuple; keywords are a dict at its end), `state` the attributes to restore it
    with (mostly a dict; None without), `items` what a subclass of dict or list holds (a dict or list; None without).
    """

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: tuple = ()) -> None:
        self.name, self.args, self.state, self.items = name, args, None, None

    def __repr__(self) -> str:
        return f"<{self.name} object>"


class Reader:
    """One or more pickles of a source, read opcode by opcode.

    Python's own unpickler calls what it is given, and reserves memory for whatever length or memo index a file states. joblib, whose arrays
    stand between opcodes, needs a reader in Python in any case.
    """

    functions: dict[str, Callable[..., Any]] = {}  # noqa: RUF012 (what may be called: by its name, our function of (reader, *args))
    inert, words = re.compile(INERT), re.compile(WORDS)

    def __init__(self, source: mmap.mmap | io.BytesIO) -> None:
        self.source = source
        self.size = len(source.getbuffer() if isinstance(source, io.BytesIO) else source)
        self.steps, self.room = STEPS, 2 * self.size  # an array of protocol 2 is text, then bytes, then the array

    def spend(self, steps: int, room: int = 0) -> None:
        """Take from what a file may cost: without this, a few bytes could copy a large list again and again."""
        self.steps -= steps
        self.room -= room
        if self.steps < 0 or self.room < 0:
            raise ModelError(f"takes more steps or memory than any model of its size; if it is no attack, {DAMAGED}")

    def load(self) -> Any:
        """The next pickle. Raises ModelError, and whatever damaged bytes lead to."""
        memo: dict[int, Any] = {}
        stack: list[Any] = []
        marks: list[list[Any]] = []  # the stacks below
        for op, arg, position in pickletools.genops(self.source):
            self.spend(1)
            name = op.name
            if name in _PUSH:
                stack.append(arg)
                continue
            if name in (
                "APPENDS",
                "SETITEMS",
                "ADDITEMS",
                "LIST",
                "TUPLE",
                "DICT",
                "FROZENSET",
                "OBJ",
                "INST",
                "POP_MARK",
            ):
                items, stack = stack, marks.pop()
            match name:
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    memo[arg] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[arg])
                case "MARK":
                    marks.append(stack)
                    stack = []
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
                case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                    stack.append({"TUPLE": tuple, "LIST": list, "DICT": dict, "SET": set}[name[6:]]())
                case "TUPLE" | "LIST":
                    stack.append(tuple(items) if name == "TUPLE" else items)
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    items = [stack.pop() for _ in range(int(name[5:]))]
                    stack.append(tuple(reversed(items)))
                case "APPEND":
                    item = stack.pop()
                    self.extend(stack[-1], [item])
                case "APPENDS":
                    self.extend(stack[-1], items)
                case "SETITEM":
                    item, key = stack.pop(), stack.pop()
                    self.update(stack[-1], [key, item])
                case "SETITEMS":
                    self.update(stack[-1], items)
                case "DICT":
                    stack.append({})
                    self.update(stack[-1], items)
                case "ADDITEMS":
                    only(stack[-1], set).update(hashable(items))
                case "FROZENSET":
                    stack.append(frozenset(hashable(items)))
                case "GLOBAL":
                    stack.append(self.find(*arg.split(" ", 1)))
                case "STACK_GLOBAL":
                    item = only(stack.pop(), str)
                    stack.append(self.find(only(stack.pop(), str), item))
                case "REDUCE" | "NEWOBJ":
                    item = stack.pop()
                    stack.append(self.call(stack.pop(), item))
                case "NEWOBJ_EX":
                    keywords, item = only(stack.pop(), dict), stack.pop()
                    stack.append(self.call(stack.pop(), item, keywords))
                case "INST":
                    stack.append(self.call(self.find(*arg.split(" ", 1)), tuple(items)))
                case "OBJ":
                    stack.append(self.call(items[0], tuple(items[1:])))
                case "BUILD":
                    item = stack.pop()
                    stack.append(self.build(stack.pop(), item))
                case "BINPERSID":
                    stack.append(self.persistent(stack.pop()))
                case "DUP":
                    stack.append(stack[-1])
                case "POP" if stack:
                    stack.pop()
                case "POP":
                    stack = marks.pop()
                case "PROTO":
                    if arg > 5:
                        raise ModelError(f"is written in pickle protocol {arg}, which is unknown; {DAMAGED}")
                case "POP_MARK" | "FRAME":
                    pass  # frames only help to read ahead
                case "STOP":
                    check_depth(stack[-1])
                    return stack[-1]
                case _:  # the extension registry, buffers outside of the file, references as text
                    raise ModelError(f"uses {name} at {position}, which no model needs; {UNSAFE}")

    def find(self, module: str, name: str) -> Any:
        """What a name stands for: itself. Raises ModelError for one that is not known to be harmless."""
        full = f"{_RENAMED.get(module, module)}.{name}"
        full = _RENAMED.get(full, full)
        if full.endswith("NDArrayWrapper"):
            raise ModelError(f"was written by joblib before 0.10, with its arrays in other files; {TRUSTED}")
        if full in self.functions or self.inert.fullmatch(full) or self.words.fullmatch(full):
            return Name(full)
        raise ModelError(f"names {shown(full)}, which could run code; {UNSAFE}")

    def call(self, what: Any, args: Any, keywords: dict | None = None) -> Any:
        """What our function of that name gives, or a stub."""
        name = only(what, Name).name
        self.spend(10)  # results are larger than opcodes
        if function := self.functions.get(name):
            return function(self, *only(args, tuple), **(keywords or {}))
        if self.inert.fullmatch(name):
            return Stub(name, (*only(args, tuple), keywords) if keywords else only(args, tuple))
        raise ModelError(f"calls {name}, which no model needs; {UNSAFE}")

    def build(self, target: Any, state: Any) -> Any:
        """An object with its state set: of a stub recorded, of arrays and dtypes checked and set, of a state dict left out."""
        if type(target) is Stub and target.state is None:
            if (
                type(state) is tuple
                and len(state) == 2
                and type(state[1]) is dict
                and type(state[0]) in (dict, type(None))
            ):  # with slots
                self.spend(len(state[0] or ()) + len(state[1]))
                state = {**(state[0] or {}), **state[1]}
            target.state = state
        elif type(target) is np.ndarray and target.shape == (0,) and type(state) is tuple and len(state) == 5:
            _version, shape, dtype, fortran, data = state
            data = data.encode("latin1") if type(data) is str else data  # Python 2
            self.check_array(shape, dtype, data)
            target.__setstate__((1, shape, dtype, bool(fortran), data))
        elif (
            isinstance(target, np.dtype) and type(state) is tuple and list(state[2:5]) == [None] * 3
        ):  # neither fields nor a shape
            if state[1] == ">":  # all else that numpy would take on trust is as in any dtype of that code
                sizes = (target.itemsize, target.alignment) if target.kind in "SU" else (-1, -1)
                target.__setstate__((3, ">", None, None, None, *sizes, 0))
        elif type(target) is not OrderedDict:  # a state dict has attributes, the versions of its modules
            raise ModelError(f"changes an object of type {type(target).__name__}; {UNSAFE}")
        return target

    def persistent(self, reference: Any) -> Any:
        raise ModelError(f"refers to data outside of the file; {UNSAFE}")

    def extend(self, target: Any, items: list) -> None:
        if type(target) is Stub:
            target.items = target = [] if target.items is None else target.items
        only(target, list).extend(items)

    def update(self, target: Any, items: list) -> None:
        if type(target) is Stub:
            target.items = target = {} if target.items is None else target.items
        only(target, dict, OrderedDict).update(zip(hashable(items[::2]), items[1::2], strict=True))

    def check_array(self, shape: Any, dtype: Any, data: Any = None) -> int:
        """The bytes of an array. Raises TypeError or ValueError when there is no such array, or `data` is not its bytes."""
        if not isinstance(dtype, np.dtype):
            raise TypeError("an array of no dtype")
        count = math.prod(sizes(shape, tuple)) * dtype.itemsize
        if data is not None:
            self.spend(0, len(only(data, bytes, bytearray)))
            if len(data) != count or (dtype.kind == "b" and count and np.frombuffer(data, np.uint8).max() > 1):
                raise ValueError("an array whose bytes do not fit its shape and type")
        return count

    # ---- what may be called, with any arguments: those of a wrong type or number raise TypeError

    def make_dict(self, items: Any = ()) -> OrderedDict:
        self.spend(len(only(items, list, tuple)))
        pairs = [only(pair, list, tuple) for pair in items]
        return OrderedDict(zip(hashable(key for key, _ in pairs), (value for _, value in pairs), strict=True))

    def make_set(self, items: Any = ()) -> set:
        self.spend(len(only(items, list, tuple)))
        return set(hashable(items))

    def make_bytes(self, data: Any = b"", encoding: Any = "latin1") -> bytes:
        self.spend(0, len(only(data, str, bytes, bytearray)))
        if only(encoding, str) not in ("latin1", "latin-1"):
            raise ValueError("bytes of an unknown encoding")
        return data.encode("latin1") if type(data) is str else bytes(data)

    def make_path(self, *parts: Any) -> str:
        self.spend(len(parts), sum(len(only(part, str)) for part in parts))
        return "/".join(parts).replace("//", "/", 1)  # the first part of an absolute path is "/"

    def make_object(self, cls: Any, base: Any, state: Any) -> Stub:
        return only(self.call(cls, () if state is None else (state,)), Stub)

    def make_type(self, *args: Any) -> Name:
        if len(args) != 1 or args[0] is not None:
            raise ModelError(f"calls builtins.type, which could run code; {UNSAFE}")
        return Name("builtins.NoneType")

    def make_generic(self, origin: Any, args: Any) -> Stub:
        if type(origin) is not Name or not origin.name.startswith("typing."):
            raise ModelError(f"calls operator.getitem, which could run code; {UNSAFE}")
        return Stub("typing.generic", (origin, args))

    def make_dtype(self, code: Any, align: Any = False, copy: Any = True) -> np.dtype:
        if type(code) is not str or not _DTYPE.fullmatch(code):
            raise ModelError(f"holds arrays of Python objects or records (dtype {shown(code)}); {UNSAFE}")
        return np.dtype(code, copy=True)  # one of its own, as the byte order is set on it

    def make_empty(self, cls: Any, shape: Any = None, code: Any = None) -> np.ndarray:
        if type(cls) is not Name or cls.name != "numpy.ndarray":
            raise ModelError(f"holds arrays of a class that is not numpy.ndarray ({shown(cls)}); {UNSAFE}")
        return np.empty(0, np.int8)

    def make_array(self, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
        self.check_array(shape, dtype, data)
        array = np.ndarray(shape, dtype, data, order="F" if order == "F" else "C").copy(order="A")
        return array if axes is None or order != "K" else array.transpose(axes)

    def make_scalar(self, dtype: Any, data: Any) -> Any:
        return self.make_array(self.make_bytes(data), dtype, (1,), "C")[0]


Reader.functions |= {
    "_codecs.encode": Reader.make_bytes,
    "builtins.bytearray": lambda reader, *args: bytearray(reader.make_bytes(*args)),
    "builtins.bytes": Reader.make_bytes,
    "builtins.complex": lambda reader, *args: complex(*[only(a, float, int) for a in args]),
    "builtins.frozenset": lambda reader, *args: frozenset(reader.make_set(*args)),
    "builtins.range": lambda reader, *args: range(*[only(a, int) for a in args]),
    "builtins.set": Reader.make_set,
    "builtins.slice": lambda reader, *args: slice(*[only(a, int, type(None)) for a in args]),
    "builtins.type": Reader.make_type,
    "collections.OrderedDict": Reader.make_dict,
    "collections.defaultdict": lambda reader, factory=None: {},  # the factory is a stranger's: what is missing is to be missed
    "copyreg._reconstructor": Reader.make_object,
    "numpy.dtype": Reader.make_dtype,
    **{f"{module}.getitem": Reader.make_generic for module in ("operator", "_operator")},
    **{f"numpy.{core}.multiarray._reconstruct": Reader.make_empty for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Reader.make_scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": Reader.make_array for core in ("core", "_core")},
    **{
        f"pathlib.{kind}Path": Reader.make_path for kind in ("", "Posix", "Windows", "Pure", "PurePosix", "PureWindows")
    },
}


def only(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{type(value).__name__} where {kinds[0].__name__} is wanted")
    return value


def sizes(numbers: Any, *kinds: type) -> list[int]:
    """Sizes, strides, counts: none negative, and none so large that to multiply them takes long."""
    if len(only(numbers, *kinds)) > 32 or not all(0 <= only(n, int) < 2**63 for n in numbers):
        raise ValueError("sizes that are impossible")
    return list(numbers)


def hashable(keys: Iterable[Any]) -> list[Any]:
    """The keys, when each hashes at once and differently: tuples of tuples can take for ever, and multiples of 2^61 - 1 collide."""
    keys = list(keys)
    for key in keys:
        for part in key if type(key) is tuple and len(key) <= 16 else (key,):
            if type(part) is int and abs(part) < 2**61 - 1:
                continue
            if isinstance(part, np.generic) and part.dtype.kind in "biufSU":
                continue
            if type(part) not in (str, bytes, float, bool, type(None), Stub, Name):
                raise ModelError(
                    f"has a key of type {type(part).__name__} or an endless one, which no model needs; {DAMAGED}"
                )
    return keys


def check_depth(value: Any) -> None:
    """Whoever goes through the data, if only to compare or print it, does so recursively."""
    seen: set[int] = set()
    levels = [iter((value,))]
    while levels:
        for v in levels[-1]:
            kind = type(v)
            if kind in (list, tuple, dict, OrderedDict, set, frozenset, Stub) and id(v) not in seen:
                seen.add(id(v))
                parts = (v.args, v.state, v.items) if kind is Stub else v
                levels.append(itertools.chain(v, v.values()) if kind in (dict, OrderedDict) else iter(parts))
                break
        else:
            levels.pop()
        if len(levels) > DEPTH:
            raise ModelError(f"is nested deeper than {DEPTH}, which no model is; {DAMAGED}")


def shown(words: Any) -> str:
    """A stranger's words for an error line: short, nothing that a terminal would obey. Of other objects the type, as they can be huge."""
    text = words if type(words) is str else str(words) if isinstance(words, Exception | Name) else type(words).__name__
    return " ".join("".join(c if c.isprintable() else " " for c in text[:200]).split()) or type(words).__name__
