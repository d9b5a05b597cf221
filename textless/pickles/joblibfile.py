"""k-means of scikit-learn's, and whatever else joblib or pickle wrote."""

from __future__ import annotations

import bz2
import io
import lzma
import mmap
import re
import zlib
from pathlib import Path
from typing import Any

from textless.errors import ModelError
from textless.pickles.files import mapped, reading
from textless.pickles.machine import DAMAGED, INERT, TRUSTED, Reader, Stub, only

UNPACKED, RATIO, SMALL = (
    4 << 30,
    200,
    64 << 20,
)  # a compressed file may grow to RATIO times its size or SMALL, and never over UNPACKED


def load_joblib(path: Path | str) -> Any:
    """What `joblib.dump` (also compressed by zlib, gzip, bz2, lzma or xz) or `pickle.dump` wrote: plain data, arrays and `Stub`s.

    Arrays are in memory and writable; a fitted sklearn model is a `Stub` with its attributes in `state`.
    Raises ModelError when the file is missing, damaged or no pickle, when it names what could run code or holds arrays of Python objects,
    and when it is compressed and grows to more than 200 times its size (64 MiB are always allowed) or 4 GiB.
    """
    with reading(path):
        source = mapped(path)
        if source[:4] == b"PK\3\4":
            raise ModelError("is a zip, as torch.save writes, where a joblib dump is wanted; give the k-means model")
        if source[:2] == b"ZF" or source[:4] == b"\x04\x22\x4d\x18":
            raise ModelError(f"is compressed by lz4 or by joblib before 0.10, which is not read; {TRUSTED}")
        tool = _decompressor(source[:5])
        return Joblib(_unpack(source, tool) if tool else source).load()


def _decompressor(head: bytes) -> Any:
    if head[:1] == b"\x78" or head[:2] == b"\x1f\x8b":
        return zlib.decompressobj(47)  # zlib or gzip, as the head says
    if head[:2] == b"BZ":
        return bz2.BZ2Decompressor()
    if head == b"\xfd7zXZ" or head[:2] == b"\x5d\x00":
        return lzma.LZMADecompressor(
            memlimit=256 << 20
        )  # the file says how much memory it wants: the highest preset wants 65 MiB
    return None


def _unpack(source: mmap.mmap, tool: Any) -> io.BytesIO:
    """Everything that is packed in `source`, in pieces, and no more than the limits allow."""
    limit, piece, out = min(UNPACKED, max(SMALL, RATIO * len(source))), 1 << 20, io.BytesIO()
    while not tool.eof:
        hungry = getattr(tool, "needs_input", True)
        data = getattr(tool, "unconsumed_tail", b"") or (source.read(piece) if hungry else b"")
        out.write(got := tool.decompress(data, piece))
        if hungry and not data and not got and not tool.eof:
            raise ModelError(f"is cut short; {DAMAGED}")
        if out.tell() > limit:
            raise ModelError(f"grows to more than {limit >> 20} MiB when unpacked; {TRUSTED}, without compression")
    out.seek(0)
    return out


class Joblib(Reader):
    """Adds arrays whose bytes stand in the file right after the object that describes them."""

    inert = re.compile(rf"{INERT}|joblib\.numpy_pickle\.NumpyArrayWrapper")

    def build(self, target: Any, state: Any) -> Any:
        wrapper = super().build(target, state)
        if type(wrapper) is not Stub or not wrapper.name.endswith("joblib.numpy_pickle.NumpyArrayWrapper"):
            return wrapper
        subclass, shape, order, dtype = (
            only(wrapper.state, dict)[key] for key in ("subclass", "shape", "order", "dtype")
        )
        self.make_empty(subclass)  # refuses others
        if (
            wrapper.state.get("numpy_array_alignment_bytes") is not None
        ):  # of joblib 1.2 and later: a byte says how many fill up
            self.source.read(self.source.read(1)[0])
        if (n := self.check_array(shape, dtype)) > self.size - self.source.tell():
            raise ModelError(f"is cut short: an array of {n} bytes is larger than the rest of the file; {DAMAGED}")
        array = self.make_array(self.source.read(n), dtype, shape, order)
        return array.astype(dtype.newbyteorder("="), copy=False)
