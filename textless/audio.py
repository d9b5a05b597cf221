"""Audio files in and out: mono float32 at 16 kHz, whatever the file holds. Long files stream at bounded memory."""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf
import soxr

from textless.errors import AudioError

SAMPLE_RATE = 16_000  # Hz
BLOCK = 10 * SAMPLE_RATE  # samples decoded at once
SLACK = 0.01  # seconds; durations in manifests are rounded
LOUDEST = 16.0  # decoders and hot mixes overshoot 1 and are clipped; beyond this the samples are integers kept as floats
MP3_PADDING = 2 * 1152  # samples; encoders disagree by up to two frames on what the header counts

OGG_PAGE = 27 + 255 + 255 * 255  # bytes of the longest possible page
UNKNOWN_LENGTH = 0x7FFF_F000  # a program writing WAV into a pipe states this (sox, espeak) or more (ffmpeg)

FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS")}


def read_audio(path: str | Path, *, offset: int = 0, samples: int | None = None, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """The waveform of a file, or `samples` of it from `offset` on, both counted at `sample_rate`.

    Returns (samples,) float32 in [-1, 1]: channels averaged, resampled (soxr HQ), clipped. Reads wav, flac, ogg vorbis,
    ogg opus and mp3 at any rate. A part is that slice of the whole, exactly or, in a wav
    or flac of another rate, to 1e-6. A file that ends up to 10 ms before `offset + samples` gives what it has.

    Raises AudioError, naming the file, when it is missing, empty, not audio, cut short, holds NaN or infinite samples, or ends
    before the part asked for. Of an mp3 without a Xing, Info or VBRI header nobody knows the length: it is not noticed when it
    is cut, and where its bit rate varies libsndfile may stop early.
    """
    return np.concatenate(list(_part(path, offset, samples, sample_rate)))


def stream_audio(
    path: str | Path, *, offset: int = 0, samples: int | None = None, block: int = BLOCK, sample_rate: int = SAMPLE_RATE
) -> Iterator[np.ndarray]:
    """The same in blocks of `block` samples (the last may be shorter), at bounded memory.

    Yields (block,) float32 in [-1, 1] at `sample_rate`; put together they equal what `read_audio` gives. Raises as `read_audio`,
    a fault in the middle of the file when it is reached.
    """
    held = np.empty(0, np.float32)
    for part in _part(path, offset, samples, sample_rate):
        held = np.concatenate([held, part])
        while len(held) >= block:
            yield held[:block]
            held = held[block:]
    if len(held):
        yield held


def _part(path: str | Path, offset: int, samples: int | None, sample_rate: int) -> Iterator[np.ndarray]:
    """What `read_audio` gives, as it is decoded."""
    if offset < 0 or (samples is not None and samples <= 0):
        raise AudioError(f"{path}: cannot read {samples} samples from {offset}; give an offset >= 0 and samples > 0")
    stop, position = None if samples is None else offset + samples, offset
    for part in _decode(path, sample_rate, offset):
        part = part if stop is None else part[: stop - position]
        position += len(part)
        yield part
        if position == stop:
            return
    if position == offset or (stop is not None and position < stop - SLACK * sample_rate):
        wanted = f"samples {offset} to {stop}" if stop is not None else f"sample {offset} on"
        raise AudioError(
            f"{path}: ends before {wanted} at {sample_rate} Hz ({audio_samples(path, sample_rate)} samples in all); "
            "correct the manifest's offset and samples"
        )


def audio_samples(path: str | Path, sample_rate: int = SAMPLE_RATE) -> int:
    """Length of the whole file in samples at `sample_rate`, from its header (without one mp3 is a guess). Raises as `read_audio`."""
    with _open(path) as f:
        return _resampled(f.frames, f.samplerate, sample_rate)


def write_audio(path: str | Path, waveform: np.ndarray, *, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a waveform, (samples,) float in [-1, 1] and clipped to that, in the format its suffix names.

    .wav and .flac are 16-bit (what was read from 16 bits is written back bit for bit), .ogg is Vorbis, .opus Opus. The file
    appears whole, by rename, and replaces what was there. Raises AudioError for another suffix, a rate that the format does
    not have, a waveform that is empty, not one-dimensional or holds NaN, and a folder that cannot be written.
    """
    path, waveform = Path(path), np.asarray(waveform, dtype=np.float32)
    if path.suffix.lower() not in FORMATS:
        raise AudioError(f"{path}: cannot write {path.suffix or 'a file without a suffix'}; use one of {', '.join(FORMATS)}")
    if waveform.ndim != 1 or not len(waveform):
        raise AudioError(f"{path}: not written: a waveform has the shape (samples,), samples > 0, not {waveform.shape}")
    if np.isnan(waveform).any():
        raise AudioError(f"{path}: not written: sample {int(np.isnan(waveform).argmax())} of the waveform is NaN")
    kind, subtype = FORMATS[path.suffix.lower()]
    # libsndfile would floor instead of round
    data = to_int16(waveform) if subtype == "PCM_16" else waveform.clip(-1, 1)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with sf.SoundFile(temporary, "w", sample_rate, 1, subtype, format=kind) as f:
            for start in range(0, len(data), BLOCK):  # the Vorbis encoder keeps a whole write on its stack
                f.write(data[start : start + BLOCK])
        temporary.replace(path)
    except (sf.LibsndfileError, OSError, AssertionError) as e:  # soundfile asserts that the disk took every sample
        reason = getattr(e, "error_string", None) or getattr(e, "strerror", None) or "the disk may be full"
        raise AudioError(f"{path}: cannot be written at {sample_rate} Hz ({_line(reason)}); check the folder and the rate") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_wav(out: BinaryIO, waveforms: Iterable[np.ndarray], *, sample_rate: int = SAMPLE_RATE) -> None:
    """Write (samples,) waveforms as they come, one after the other, as one 16-bit WAV into a pipe: its header says no length.

    Nothing is written before there is a first waveform. Raises AudioError when one holds NaN.
    """
    pipe = 0xFFFF_FFFF  # as ffmpeg writes it: until the end
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    header = b"RIFF" + struct.pack("<I", pipe) + b"WAVE" + form + b"data" + struct.pack("<I", pipe)
    for waveform in waveforms:
        out.write(header + _pcm(waveform))
        out.flush()
        header = b""


def _pcm(waveform: np.ndarray) -> bytes:
    if np.isnan(waveform).any():
        raise AudioError(f"not written: sample {int(np.isnan(waveform).argmax())} of the waveform is NaN")
    return to_int16(waveform).astype("<i2").tobytes()


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """(samples,) float in [-1, 1] → (samples,) int16, 32768 steps to 1: the inverse of how 16-bit files are read."""
    return np.rint(waveform * 32768.0).clip(-32768, 32767).astype(np.int16)


class _Forward(sf.SoundFile):
    """A file that is read from one end to the other.

    soundfile seeks after every read from a seekable file, to where it already is; the mp3 decoder then loses what it carries
    over from frame to frame, and the next samples are wrong by up to 0.5 (Opus: 2e-4).
    """

    def seekable(self) -> bool:
        return False


def _decode(path: str | Path, sample_rate: int, offset: int = 0) -> Iterator[np.ndarray]:
    """Mono blocks at `sample_rate` from sample `offset` on."""
    with _open(path) as f:
        position, skip = 0, offset
        if f.subtype.startswith(("PCM", "FLOAT", "DOUBLE")):  # wav and flac: in all others seeking is inexact
            # start where both rates have a sample, a second early, since the resampler looks around
            common = math.gcd(f.samplerate, sample_rate)
            periods = max(0, offset - sample_rate) * common // sample_rate
            position, skip = min(periods * f.samplerate // common, f.frames), offset - periods * sample_rate // common
        resampler = None if f.samplerate == sample_rate else soxr.ResampleStream(f.samplerate, sample_rate, 1, quality="HQ")
        for block, last in _blocks(f, path, position):
            if resampler:
                block = resampler.resample_chunk(block, last=last)
            if skip:
                block, skip = block[skip:], max(0, skip - len(block))
            if len(block):
                yield block.clip(-1, 1)


def _blocks(f: _Forward, path: str | Path, position: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Checked mono blocks at the file's own rate from `position` on, each with whether it is the last."""
    try:
        if position:
            f.seek(position)
        last = False
        while not last:
            wanted = min(BLOCK, f.frames - position)  # beyond them the flac decoder trips over any bytes that follow
            block = f.read(wanted, dtype="float32", always_2d=True)
            block = block[:, 0] if f.channels == 1 else block.mean(axis=1)
            if len(block) and not (peak := np.abs(block).max()) <= LOUDEST:
                if np.isfinite(peak):
                    raise AudioError(f"{path}: samples reach {peak:.6g} where 1 is full scale; divide them by 32768")
                first = position + int(np.isfinite(block).argmin())
                raise AudioError(f"{path}: sample {first} is NaN or infinite (counted at {f.samplerate} Hz); repair or drop the file")
            position += len(block)
            last = len(block) < wanted or position == f.frames
            if last and position < _promised(f, path):
                raise AudioError(f"{path}: cut short (has {position} of {f.frames} samples); copy it again")
            yield block, last
    except sf.LibsndfileError as e:
        raise AudioError(f"{path}: damaged or cut short ({_line(e.error_string)}); copy it again") from None


def _promised(f: _Forward, path: str | Path) -> int:
    """Samples that the file must have: what its header says, 0 for an mp3 without a header, whose length libsndfile guesses."""
    if f.format != "MP3":
        return f.frames
    with open(path, "rb") as raw:
        head = raw.read(10)
        if head[:3] == b"ID3":  # a length of four times seven bits
            raw.seek(10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)))
        head = raw.read(200)
    return f.frames - MP3_PADDING if any(tag in head for tag in (b"Xing", b"Info", b"VBRI")) else 0


@contextmanager
def _open(path: str | Path) -> Iterator[_Forward]:
    """The file opened for reading, after everything that libsndfile would pass over in silence has been checked."""
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise AudioError(f"{path}: is a folder, not an audio file")
        if not info.st_size:
            raise AudioError(f"{path}: is empty (0 bytes); copy it again")
        if reason := _cut_short(path, info.st_size):
            raise AudioError(f"{path}: cut short ({reason}); copy it again")
        f = _Forward(path)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except OSError as e:
        raise AudioError(f"{path}: cannot be read ({e.strerror})") from None
    except (sf.LibsndfileError, TypeError) as e:  # soundfile takes .raw for headerless and asks for its arguments
        reason = getattr(e, "error_string", "no header")
        raise AudioError(f"{path}: not audio that can be read ({_line(reason)}); convert it to wav or flac") from None
    with f:
        if not _resampled(f.frames, f.samplerate, SAMPLE_RATE):
            raise AudioError(f"{path}: has no samples (an interrupted recording?); drop it or repair its header")
        yield f


def _cut_short(path: str | Path, size: int) -> str | None:
    """Why an Ogg or WAV file of `size` bytes is not whole: libsndfile reads what is left of one without a word."""
    with open(path, "rb") as f:
        head = f.read(12)
        if head[:4] == b"OggS":
            f.seek(max(0, size - 2 * OGG_PAGE))
            return None if _ends_stream(f.read()) else "its last Ogg page does not end the stream"
        if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
            return None
        wide = None  # RF64 keeps its sizes in a chunk of 64-bit numbers
        while len(chunk := f.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                length = wide if wide is not None and length == 0xFFFF_FFFF else length
                there = size - f.tell()
                return None if length <= there or length >= UNKNOWN_LENGTH else f"has {there} of {length} bytes of samples"
            if name == b"ds64":
                wide = int.from_bytes(f.read(16)[8:], "little")
                length -= 16
            f.seek(length + length % 2, os.SEEK_CUR)
        return "it has no data chunk"


def _ends_stream(tail: bytes) -> bool:
    """Whether the last Ogg page in `tail` is whole and carries the end-of-stream flag."""
    page = end = tail.find(b"OggS\0")
    # from page to page, so that an "OggS" among the samples is not taken for one
    while tail[end : end + 4] == b"OggS" and len(tail) >= end + 27:
        page, segments = end, tail[end + 26]
        end += 27 + segments + sum(tail[end + 27 : end + 27 + segments])
    return page < end <= len(tail) and bool(tail[page + 5] & 4)


def _resampled(samples: int, rate: int, target: int) -> int:
    """Samples that soxr makes of `samples`: rounded to the nearest, halves up."""
    return (2 * samples * target + rate) // (2 * rate)


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
