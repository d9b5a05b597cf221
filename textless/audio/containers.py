"""Where the sound is in an audio file: what its headers state, compared with the bytes of the file.

libsndfile trusts headers. It reads only the first of concatenated streams, ends a WAV beyond 4 GiB where its 32-bit
length wraps, and reads a truncated file up to its end, all without an error.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from textless.errors import AudioError

PIECE = 1 << 20  # bytes that a search reads at once
CHUNKS = 10_000  # most chunks of one file; no recording has more
STRAY = 1 << 13  # bytes after the sound that may be of unknown format: tags, the padding of a disk's block
FRAME = 1 << 16  # bytes of the longest FLAC frame, where the header does not state it
WRAPPED = 1 << 32
# Lengths that programs write before they know the length: sox and espeak in a pipe, arecord until it ends. ffmpeg
# writes the largest number, other programs that number less the size of a header.
UNKNOWN = (0x7FFF_F000, 0x8000_0000, (1 << 64) - 1)
UNLIMITED = 0xFFFF_FF00
ID3 = b"ID3\4\0\0\0\0\1\0" + bytes(128)  # libsndfile detects mp3 by the suffix or by a tag that is not empty
W64_DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")


@dataclass(frozen=True, slots=True)
class Stream:
    """One audio stream of a file.

    Attributes:
        start, stop: its bytes.
        header: bytes to put before them.
        plain: the file can be opened as it is.
        stated: a header states the number of samples, and fewer are an error.
        frames: the samples of an mp3 without such a header, counted.
        spare: a header that states `frames`, for a decoder that expects fewer.
    """

    start: int
    stop: int
    header: bytes = b""
    plain: bool = False
    stated: bool = True
    frames: int | None = None
    spare: bytes = b""


class Window(io.RawIOBase):
    """The bytes of a stream as a file object."""

    def __init__(self, file: BinaryIO, stream: Stream) -> None:
        self.file = file  # closed with this
        self.stream, self.position = stream, 0
        self.length = len(stream.header) + stream.stop - stream.start

    def close(self) -> None:
        self.file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # libsndfile may seek before the start, and an exception cannot pass through it
        self.position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length}[whence])
        return self.position

    def read(self, n: int = -1) -> bytes:
        header = self.stream.header
        n = max(0, min(n if n >= 0 else self.length, self.length - self.position))
        data = header[self.position : self.position + n]
        if len(data) < n:
            try:
                self.file.seek(self.stream.start + self.position + len(data) - len(header))
                data += self.file.read(n - len(data))
            except OSError:
                n = len(data)  # noticed later, as a file that is cut short
        self.position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def find_streams(f: BinaryIO, size: int, suffix: str) -> tuple[Stream, ...]:
    """The streams of a file of `size` bytes, in order; a file of an unknown format is one stream.

    Raises AudioError, without the file's name, when a stream is shorter than its header states, or bytes follow that no
    header counts.
    """
    streams: list[Stream] = []
    start, reader, magic = 0, None, b""
    while start < size and (following := _reader(f, body := _skip_tags(f, start, size), size)):
        reader, magic = following, _at(f, body, 4)
        stream, start = reader(f, body, size)
        streams.append(stream)
        if len(streams) == 1 and stream.stop == size:  # libsndfile skips tags before flac and, by its suffix, mp3
            skips = reader is _flac or (reader is _mp3 and suffix == ".mp3")
            streams = [replace(stream, plain=(skips and stream.header in (b"", ID3)) or not (body or stream.header))]
    if streams and (stray := size - _skip_tags(f, start, size)) > STRAY:
        raise AudioError(
            f"{stray} bytes follow the sound that the header counts, and they are neither chunks nor another file: "
            "its length is wrong (write it again with ffmpeg or sox --ignore-length), "
            "or one of several joined files is cut short (join them again)"
        )
    if streams and reader in UNCOMPRESSED and start < size:
        # the first of concatenated files is cut short if the next begins before its samples end
        again = (
            p for p in _search(f, re.compile(re.escape(magic)), 4, streams[-1].start + 4, size) if _reader(f, p, size)
        )
        if (other := next(again, None)) is not None:
            raise _cut(f"another file begins at byte {other}, within its samples")
    return tuple(streams) or (Stream(0, size, plain=True),)


Reader = Callable[[BinaryIO, int, int], tuple[Stream, int]]


def _reader(f: BinaryIO, start: int, size: int) -> Reader | None:
    """The reader of the format that begins at `start`, None for an unknown format."""
    head = _at(f, start, 16)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _wav
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff
    if head == W64_RIFF:
        return _w64
    known = {b"OggS": _ogg, b"fLaC": _flac, b".snd": _au, b"dns.": _au, b"caff": _caf, b"NIST": _nist}
    if reader := known.get(head[:4]):
        return reader
    length = _mp3_frame(head)
    return _mp3 if length and _mp3_frame(_at(f, start + length, 4)) else None


def _at(f: BinaryIO, position: int, n: int) -> bytes:
    f.seek(max(0, position))  # a position before the start of a short file reads as its start
    return f.read(n)


def _search(f: BinaryIO, pattern: re.Pattern[bytes], longest: int, start: int, stop: int) -> Iterator[int]:
    """Positions of a pattern of up to `longest` bytes, in order."""
    while start < stop:
        piece = _at(f, start, min(PIECE, stop - start))
        last = start + len(piece) >= stop or len(piece) < longest
        for match in pattern.finditer(piece):
            if last or match.start() <= len(piece) - longest:
                yield start + match.start()
        if last:
            return
        start += len(piece) - longest + 1


def _skip_tags(f: BinaryIO, position: int, size: int) -> int:
    """The position after the ID3v2 and ID3v1 tags that begin at `position`."""
    while position < size:
        head = _at(f, position, 10)
        if head[:3] == b"ID3" and len(head) == 10:  # a length of four times seven bits
            position += 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        elif head[:3] == b"TAG" and (size - position == 128 or _reader(f, position + 128, size)):
            position += 128
        else:
            break
    return position


def _cut(reason: str) -> AudioError:
    return AudioError(f"cut short ({reason}); copy it again")


# ------------------------------------------------- uncompressed formats: a header that states the bytes of samples


def _check_length(available: int, stated: int) -> None:
    if stated > available:
        raise _cut(f"has {available} of {stated} bytes of samples")


def _chunks(f: BinaryIO, position: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(name, length, position of its content) of each chunk."""
    for _ in range(CHUNKS):
        head = _at(f, position, 8)
        if len(head) < 8:
            return
        name, length = struct.unpack(f"{order}4sI", head)
        yield name, length, position + 8
        position += 8 + length + length % 2
    raise AudioError(f"has more than {CHUNKS} chunks; write it again with ffmpeg")


def _behind(f: BinaryIO, end: int, size: int, order: str) -> int:
    """The end of the chunks after the sound, which ends at `end`; some programs omit the padding to an even length."""
    if end % 2 and end < size and _at(f, end, 1) == b"\0":
        end += 1
    for name, length, content in _chunks(f, end, order):
        if (
            not re.fullmatch(rb"[ -~]{4}", name)
            or content + length > size
            or name in (b"RIFF", b"RIFX", b"RF64", b"FORM")
            or _reader(f, content - 8, size)  # the magic of Ogg, FLAC and others reads as a chunk's name
        ):
            break
        end = min(size, content + length + length % 2)
    return end


def _wav(f: BinaryIO, start: int, size: int) -> tuple[Stream, int]:
    order = ">" if _at(f, start, 4) == b"RIFX" else "<"
    form, wide = b"", None
    for name, length, position in _chunks(f, start + 12, order):
        if name == b"data":
            break
        if name == b"fmt ":
            form = name + struct.pack("<I", length) + _at(f, position, min(length, PIECE))
        if name == b"ds64":  # RF64 keeps its sizes in a chunk of 64-bit numbers
            wide = int.from_bytes(_at(f, position + 8, 8), "little")
    else:
        raise _cut("it has no data chunk")
    available = size - position
    stated = wide if wide is not None and length == WRAPPED - 1 else length
    stop = position + stated
    end = _behind(f, stop, size, order) if stated <= available else size
    nothing = stated == 0 and end < size and not _reader(f, end, size)
    if nothing or (stated > available and stated in UNKNOWN) or (wide is None and stated >= UNLIMITED):
        stop = end = next(_search(f, re.compile(rb"RIFF....WAVE", re.DOTALL), 12, position, size), size)
    else:
        _check_length(available, stated)
        wraps = size - end >> 32
        if wide is not None or not wraps:
            return Stream(start, end), end
        stop += wraps * WRAPPED
        end = _behind(f, stop, size, order)
    if order == ">":
        return Stream(start, stop), end
    length = stop - position
    if length < UNLIMITED and wide is None and position - start <= PIECE:
        header = bytearray(_at(f, start, position - start))
        header[4:8], header[-4:] = struct.pack("<I", len(header) - 8 + length), struct.pack("<I", length)
    else:
        sizes = struct.pack("<4sIQQQI", b"ds64", 28, length + len(form) + 48, length, 0, 0)
        header = bytearray(b"RF64\xff\xff\xff\xffWAVE" + sizes + form + b"data\xff\xff\xff\xff")
    return Stream(position, stop, bytes(header)), end


def _aiff(f: BinaryIO, start: int, size: int) -> tuple[Stream, int]:
    for name, length, position in _chunks(f, start + 12, ">"):
        if name == b"SSND":
            return _aiff_sound(f, start, size, length, position)
    raise _cut("it has no SSND chunk")


def _aiff_sound(f: BinaryIO, start: int, size: int, length: int, position: int) -> tuple[Stream, int]:
    if (length <= 8 and _behind(f, position + length, size, ">") < size) or length >= UNLIMITED:
        stop = next(_search(f, re.compile(rb"FORM....AIF[FC]", re.DOTALL), 12, position, size), size)
        if stop - position >= UNLIMITED or position - start > PIECE:
            raise AudioError("states no length, which cannot be repaired at this size; write it again with ffmpeg")
        header = bytearray(_at(f, start, position - start))
        header[4:8], header[-4:] = struct.pack(">I", stop - start - 8), struct.pack(">I", stop - position)
        return Stream(position, stop, bytes(header)), stop
    _check_length(size - position, length)
    end = _behind(f, position + length, size, ">")
    return Stream(start, end), end


def _w64(f: BinaryIO, start: int, size: int) -> tuple[Stream, int]:
    position = start + 40
    for _ in range(CHUNKS):
        head = _at(f, position, 24)
        if len(head) < 24:
            raise _cut("it has no data chunk")
        length = int.from_bytes(head[16:], "little")
        if head[:16] == W64_DATA:
            break
        position += max(24, length + -length % 8)
    else:
        raise AudioError(f"has more than {CHUNKS} chunks; write it again with ffmpeg")
    if length <= 24 or length >= 1 << 62:
        return Stream(start, size), size
    _check_length(size - position, length)
    stop = position + length  # libsndfile reads all bytes that follow as samples
    end = min(size, stop + -length % 8)
    while (
        end < size
        and not _reader(f, end, size)
        and 24 <= (length := int.from_bytes(_at(f, end + 16, 8), "little")) <= size - end
    ):
        end = min(size, end + length + -length % 8)
    return Stream(start, stop), end


def _au(f: BinaryIO, start: int, size: int) -> tuple[Stream, int]:
    head = _at(f, start, 24)
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 24:
        raise _cut("its header ends early")
    offset, stated = struct.unpack(f"{order}II", head[4:12])
    position = start + offset
    available = size - position
    if stated and stated != WRAPPED - 1:
        _check_length(available, stated)
        if available - stated < WRAPPED:
            return Stream(start, position + stated), position + stated
    unknown = head[:8] + b"\xff\xff\xff\xff" + head[12:]
    return Stream(start + 24, size, unknown), size


def _caf(f: BinaryIO, start: int, size: int) -> tuple[Stream, int]:
    position = start + 8
    for _ in range(CHUNKS):
        head = _at(f, position, 12)
        if len(head) < 12:
            raise _cut("it has no data chunk")
        position += 12
        length = int.from_bytes(head[4:], "big")
        if head[:4] == b"data":
            break
        position += length
    else:
        raise AudioError(f"has more than {CHUNKS} chunks; write it again with ffmpeg")
    if length in (0, (1 << 64) - 1):  # up to the end of the file, which libsndfile does not support
        header = _at(f, start, position - start - 8) if position - start <= PIECE else b""
        return Stream(position, size, header + (size - position).to_bytes(8, "big")), size
    _check_length(size - position, length)
    end = position + length
    while end < size and not _reader(f, end, size) and (head := _at(f, end, 12))[4:]:
        if not re.fullmatch(rb"[ -~]{4}", head[:4]) or (after := end + 12 + int.from_bytes(head[4:], "big")) > size:
            break
        end = after
    return Stream(start, end), end


def _nist(f: BinaryIO, start: int, size: int) -> tuple[Stream, int]:
    head = _at(f, start, 16)
    offset = int(head[8:16]) if head[8:16].strip().isdigit() else 1024
    text = _at(f, start, min(offset, PIECE))
    fields = dict(re.findall(rb"^(\w+) -i (\d{1,12})\s*$", text, re.MULTILINE))
    numbers = [int(fields.get(name, b"0")) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    stated = numbers[0] * (numbers[1] or 1) * numbers[2]
    if not stated or b"embedded" in text:
        return Stream(start, size), size
    _check_length(size - start - offset, stated)
    return Stream(start, start + offset + stated), start + offset + stated


UNCOMPRESSED = (_wav, _aiff, _w64, _au, _caf, _nist)


# ------------------------------------------------------------------------------------------------------ Ogg: pages


OGG = re.compile(rb"OggS\0")
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def page_checksum(page: bytes) -> int:
    """The CRC of an Ogg page with its CRC field set to 0: zlib's CRC with the bits in reverse order."""
    crc = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int.from_bytes(crc.to_bytes(4, "little").translate(MIRRORED), "big")


def _ogg(f: BinaryIO, start: int, size: int) -> tuple[Stream, int]:
    """One link of a chained Ogg file: from the pages that begin streams to the last page before the next such pages."""
    position: int | None = start
    begun = ended = False
    numbers: dict[bytes, int] = {}  # number of the last page of each stream
    while position is not None and position < size:
        head = _at(f, position, 27)
        if head[:5] != b"OggS\0":
            position = next(
                _search(f, OGG, 5, position + 1, size), None
            )  # pages may follow after bytes that are no page
            continue
        sizes = f.read(head[26]) if len(head) == 27 else b""
        page = head + sizes + f.read(sum(sizes))
        if len(head) < 27 or len(page) < 27 + head[26] + sum(sizes):
            if ended:
                break
            raise _cut("its last Ogg page is not whole")
        begins, serial, number = bool(head[5] & 2), head[14:18], int.from_bytes(head[18:22], "little")
        if begins and begun:
            break
        if page_checksum(page) != int.from_bytes(page[22:26], "little"):
            raise AudioError(
                f"damaged or cut short (the checksum of the Ogg page at byte {position} is wrong); copy it again"
            )
        if not begins and number < numbers.get(serial, 1 << 32):
            raise _cut(f"the stream of the Ogg page at byte {position} has no beginning")
        begun = begun or not begins
        numbers[serial], ended = number, bool(head[5] & 4)
        position += len(page)
        end = position
    if not ended:
        raise _cut("its last Ogg page does not end the stream")
    stop = end if _reader(f, _skip_tags(f, end, size), size) else size
    return Stream(start, stop), stop


# --------------------------------------------------------------- FLAC: the count of samples against the last frame


BEGINNINGS = re.compile(
    rb"fLaC[\x00\x80]\0\0\x22|(RIFF|RIFX|RF64)....WAVE|FORM....AIF[FC]|OggS\0\x02|\.snd\0\0|caff\0\x01\0\0|NIST_1A\n"
    rb"|ID3[\x02-\x04]\0|" + re.escape(W64_RIFF),
    re.DOTALL,
)


def _flac(f: BinaryIO, body: int, size: int) -> tuple[Stream, int]:
    starts = _search(f, BEGINNINGS, 16, _flac_audio(f, body), size)
    end = next((start for start in starts if _reader(f, _skip_tags(f, start, size), size)), size)
    stop = end - 128 if _at(f, end - 128, 3) == b"TAG" else end
    info = _at(f, body, 42)
    if len(info) < 42:
        return Stream(body, end), end
    (field,) = struct.unpack(">Q", info[18:26])  # rate, channels, bits, and 36 bits of samples
    stated = field & (1 << 36) - 1
    longest = int.from_bytes(info[15:18], "big") or FRAME
    shortest, largest = struct.unpack(">HH", info[8:12])
    block = shortest if shortest == largest else 0
    samples = _flac_samples(_at(f, max(body + 42, stop - longest), min(longest, stop)), block)
    if samples is None and not stated:
        raise _cut("its last frame is not whole")
    if samples is None or samples <= stated:
        return Stream(body, end), end
    # an encoder that writes into a pipe cannot go back to write the count
    header = info[:18] + struct.pack(">Q", field >> 36 << 36 | samples) + info[26:]
    return Stream(body + 42, stop, header, stated=not stated), end


def _flac_audio(f: BinaryIO, body: int) -> int:
    """The position of the first frame, after the metadata, which may hold the headers of other files."""
    position = body + 4
    for _ in range(CHUNKS):
        head = _at(f, position, 4)
        position += 4 + int.from_bytes(head[1:], "big")
        if len(head) < 4 or head[0] & 0x80:
            break
    return position


def _table(polynomial: int, bits: int) -> list[int]:
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return table


CRC8, CRC16 = _table(0x07, 8), _table(0x8005, 16)


def _flac_samples(tail: bytes, block: int) -> int | None:
    """Samples of a FLAC stream by the number of its last frame, None where no whole frame ends with `tail`.

    `block`: samples of a frame, where all frames but the last have as many, else 0.
    """
    for match in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", tail))):
        frame = tail[match.start() :]
        if samples := _flac_frame(frame[:32], block):
            crc = 0
            for byte in frame:
                crc = (crc << 8 & 0xFF00) ^ CRC16[crc >> 8 ^ byte]
            if not crc:
                return samples
    return None


def _flac_frame(frame: bytes, block: int) -> int | None:
    """Samples of the stream up to the end of the frame whose header this is, None where it is not a frame header."""
    if len(frame) < 8:
        return None
    sizes, rates = frame[2] >> 4, frame[2] & 15
    ones = 8 - (~frame[4] & 0xFF).bit_length()  # leading ones of the frame number, which is coded as UTF-8
    if not sizes or rates == 15 or ones in (1, 8):
        return None
    rest = max(0, ones - 1)
    number = frame[4] & 0x7F >> ones
    for byte in frame[5 : 5 + rest]:
        number = number << 6 | byte & 0x3F
    at = 5 + rest
    extra = {6: 1, 7: 2}.get(sizes, 0)
    samples = int.from_bytes(frame[at : at + extra], "big") + 1 if extra else 192 if sizes == 1 else 576 << sizes - 2
    if sizes >= 8:
        samples = 256 << sizes - 8
    at += extra + {12: 1, 13: 2, 14: 2}.get(rates, 0)
    crc = 0
    for byte in frame[:at]:
        crc = CRC8[crc ^ byte]
    if at >= len(frame) or crc != frame[at]:
        return None
    return samples + number if frame[1] & 1 else (samples + number * block) * bool(block) or None


# ----------------------------------------------------------------------------------------------------- mp3: frames


BITRATES = {  # kbit/s of layer III by MPEG version: 1, then 2 and 2.5
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
FRAMES = {  # bytes of a frame by the second byte of its header, without the bit of its checksum, and the third
    (0xE2 | version << 3, bits << 4 | rate << 2 | padding << 1): (144 if version == 3 else 72) * kbits * 1000 // hertz
    + padding
    for version, hertzes in RATES.items()
    for rate, hertz in enumerate(hertzes)
    for bits, kbits in enumerate(BITRATES[version or 2])
    if kbits
    for padding in (0, 1)
}


def _mp3_frame(head: bytes) -> int | None:
    """Bytes of the layer III frame whose header this is, None where it is not a frame header."""
    return FRAMES.get((head[1] & 0xFE, head[2] & 0xFE)) if len(head) >= 4 and head[0] == 0xFF else None


def _mp3_kind(head: bytes) -> tuple[int, int]:
    """Version and rate, which are equal in all frames of a stream."""
    return head[1] & 0xFE, head[2] & 0x0C


def _mp3(f: BinaryIO, body: int, size: int) -> tuple[Stream, int]:
    """A stream, up to a frame with a header or another rate, or to the last frame that its own header counts."""
    first = _at(f, body, 4)
    counted = _mp3_count(_at(f, body, 64))
    position, frames, base, piece = body, 0, 0, b""
    while position + 4 <= size:
        if not base <= position <= base + len(piece) - 64:
            base, piece = position, _at(f, position, PIECE)
        head = piece[position - base : position - base + 64]
        length = _mp3_frame(head)
        if length is None:
            if _reader(f, position, size):  # another format
                break
            position = _mp3_next(f, position, size)
            continue
        if position > body and (_mp3_kind(head) != _mp3_kind(first) or _mp3_count(head) is not None):
            break
        if position + length > size:
            position = size
            break
        frames += position > body or counted is None
        position += length
        if counted and frames == counted:
            end = position
        if counted and frames > counted + 2:  # encoders differ by up to two in what they count
            return Stream(body, end, ID3), end
    else:
        position = size
    if counted:
        return Stream(body, position, ID3), position
    # a header, in a frame that is large enough for it
    head = bytes([0xFF, first[1] | 1, first[2] & 0x0C | 0xE0, first[3]])
    spare = bytearray(head + bytes((_mp3_frame(head) or 64) - 4))
    at = _mp3_side(head)
    spare[at : at + 12] = b"Xing" + struct.pack(">II", 1, frames)
    samples = frames * (1152 if first[1] & 8 else 576)
    return Stream(body, position, ID3, stated=False, frames=samples, spare=ID3 + bytes(spare)), position


def _mp3_next(f: BinaryIO, position: int, size: int) -> int:
    """The position after a tag, else of the next frame that another frame follows; `size` where there is none."""
    if (behind := _skip_tags(f, position, size)) > position:
        return behind
    for at in _search(f, re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"), 2, position + 1, size):
        length = _mp3_frame(_at(f, at, 4))
        if length and _mp3_frame(_at(f, at + length, 4)):
            return at
    return size


def _mp3_side(head: bytes) -> int:
    """The position of a Xing or Info header in its frame: after the side information of a silent frame."""
    mono = head[3] >> 6 == 3
    return 4 + ((17 if mono else 32) if head[1] & 8 else (9 if mono else 17))


def _mp3_count(frame: bytes) -> int | None:
    """The frames that a Xing, Info or VBRI header counts, 0 if it has no count, None for a frame without a header."""
    at = _mp3_side(frame)
    if frame[at : at + 4] in (b"Xing", b"Info"):
        return int.from_bytes(frame[at + 8 : at + 12], "big") if frame[at + 7] & 1 else 0
    return int.from_bytes(frame[50:54], "big") if frame[36:40] == b"VBRI" else None
