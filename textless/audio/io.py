"""Reading and writing audio: mono float32 at 16 kHz from any format. Long files are streamed in bounded memory."""

from __future__ import annotations

import math
import os
import stat
import struct
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf
import soxr

from textless.audio.containers import Stream, Window, find_streams
from textless.audio.place import Place, place_of
from textless.errors import AudioError, how_to_install
from textless.files import atomic

SAMPLE_RATE = 16_000  # Hz
BLOCK = 10 * SAMPLE_RATE  # samples decoded at once
SLACK = 0.01  # seconds; durations in manifests are rounded
# Decoders and hot mixes overshoot 1 and are clipped; beyond this the samples are integers kept as floats.
LOUDEST = 16.0
MP3_PADDING = 2 * 1152  # samples; encoders disagree by up to two frames on what the header counts

PADDED = 2048  # samples; what an encoder of aac adds to fill its last frame, and containers do not count
RATES = (1_000, 1_000_000)  # Hz, lowest and highest; a header that states another is wrong
CANCELLED = 0.1  # of the power that the mean of unrelated channels has; below it the channels cancel each other
FRESH = 2_000_000_000  # ns since a file was written, within which its times do not tell whether it was written again
CHANNELS = 8  # with more of them, fewer samples are decoded at once

# fmt: off
# Formats that folders and globs are searched for: libsndfile decodes them, and `containers` finds their end.
AUDIO = (
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au",
    ".snd", ".caf", ".sph", ".nist",
)
# Media that FFmpeg decodes, which the extra `media` brings; without it a search skips them with a warning.
MEDIA = (
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".aac", ".ac3", ".eac3", ".dts", ".mp1", ".mp2",
    ".mpga", ".mpg", ".mpeg", ".wma", ".wmv", ".asf", ".amr", ".awb", ".ape", ".wv", ".mpc", ".tta", ".tak",
    ".ra", ".rm", ".mka", ".mkv", ".webm", ".weba", ".avi", ".flv", ".ogv", ".ogx", ".spx", ".shn", ".dsf", ".dff",
)
# Media that cannot be decoded; a search skips them with a warning.
OTHER_MEDIA = (
    ".alac", ".gsm", ".pcm", ".bw64", ".voc", ".8svx", ".svx", ".avr", ".paf", ".pvf", ".sds", ".ircam",
)
# fmt: on

MISTAKEN = (".ogv", ".ogx", ".spx", ".mp1", ".mp2", ".mpga")  # media that begin as a format of libsndfile does
FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS")}


def read_audio(
    path: str | Path | Place,
    *,
    offset: int = 0,
    samples: int | None = None,
    sample_rate: int = SAMPLE_RATE,
    channel: int | None = None,
) -> np.ndarray:
    """The waveform of a file, or `samples` of it from `offset` on, both counted at `sample_rate`.

    Returns (samples,) float32 in [-1, 1]: channels averaged, or the one `channel`, counted from 0; resampled (soxr HQ),
    clipped. Reads what libsndfile decodes (wav, flac, ogg vorbis, ogg opus, mp3, aiff, au, caf, w64, sph) and, with the
    extra `media`, what FFmpeg decodes (m4a, mp4, webm, mkv, wma …), at 1 kHz to 1 MHz. Concatenated files are
    read to the end of the last; a header without a length (0, the largest number, or wrapped at 4 GiB) means all bytes
    up to the end. Where channels cancel each other one of them is used, 10 s at a time, and a warning names the file. A
    part is that slice of the whole, exactly or, in a wav or flac of another rate, to 1e-6. A file that ends up to 10 ms
    before `offset + samples` gives what it has.

    Raises AudioError, naming the file, when it is missing, empty, not audio, cut short, holds NaN or infinite samples,
    states a sample rate outside the range above, lacks the channel, or ends before the requested part. An mp3 without a
    Xing, Info or VBRI header states no length: that it is cut short goes unnoticed.
    """
    return np.concatenate(list(_part(place_of(path, channel), offset, samples, sample_rate)))


def stream_audio(
    path: str | Path | Place,
    *,
    offset: int = 0,
    samples: int | None = None,
    block: int = BLOCK,
    sample_rate: int = SAMPLE_RATE,
    channel: int | None = None,
) -> Iterator[np.ndarray]:
    """As `read_audio`, in blocks of `block` samples (the last may be shorter), in bounded memory.

    Yields (block,) float32 in [-1, 1] at `sample_rate`; concatenated they equal the waveform of `read_audio`. Raises as
    `read_audio`; damage in the middle of the file is raised where it is reached.
    """
    held = np.empty(0, np.float32)
    for part in _part(place_of(path, channel), offset, samples, sample_rate):
        held = np.concatenate([held, part])
        while len(held) >= block:
            yield held[:block]
            held = held[block:]
    if len(held):
        yield held


class Parts:
    """Parts of one file, each as `read_audio` gives it, for consecutive rows.

    Decoders of lossy formats must begin at the start of a file. Here each part continues from the one before, whose
    samples are kept for parts that overlap it; only a part with a smaller offset starts the decoder again. Not
    thread-safe.
    """

    def __init__(self, path: str | Path | Place) -> None:
        self.path = path
        self._decoded: Iterator[np.ndarray] | None = None
        self._held: list[np.ndarray] = []  # blocks from sample _start on
        self._start = self._stop = 0
        self._fault: AudioError | None = None  # the error at which decoding ended

    def read(self, offset: int, samples: int | None = None) -> np.ndarray:
        """(samples,) float32 at 16 kHz. Raises as `read_audio`."""
        _check_part(self.path, offset, samples)
        if samples is None or _survey(self.path).exact:
            return read_audio(self.path, offset=offset, samples=samples)
        if self._decoded is None or offset < self._start:
            self._decoded, self._held, self._fault = _decode(self.path, SAMPLE_RATE), [], None
            self._start = self._stop = 0
        stop = offset + samples
        while self._stop < stop and self._fault is None:
            try:
                block = next(self._decoded, None)
            except AudioError as e:
                self._fault = e
                break
            if block is None:
                break
            self._held.append(block)
            self._stop += len(block)
            self._drop(offset)
        self._drop(offset)
        if self._stop < stop and self._fault is not None:
            raise AudioError(str(self._fault))
        _check_end(self.path, offset, stop, min(max(self._stop, offset), stop), SAMPLE_RATE)
        return np.concatenate(self._held)[offset - self._start : stop - self._start]

    def _drop(self, offset: int) -> None:
        """Drop the blocks that end before `offset`."""
        while self._held and self._start + len(self._held[0]) <= offset:
            self._start += len(self._held.pop(0))


def _check_part(path: str | Path | Place, offset: int, samples: int | None) -> None:
    if offset < 0 or (samples is not None and samples <= 0):
        raise AudioError(f"{path}: cannot read {samples} samples from {offset}; give an offset >= 0 and samples > 0")


def _part(path: str | Path | Place, offset: int, samples: int | None, sample_rate: int) -> Iterator[np.ndarray]:
    """The blocks of `read_audio`, as they are decoded."""
    _check_part(path, offset, samples)
    _check_rate(sample_rate)
    stop, position = None if samples is None else offset + samples, offset
    for part in _decode(path, sample_rate, offset):
        part = part if stop is None else part[: stop - position]
        position += len(part)
        yield part
        if position == stop:
            return
    _check_end(path, offset, stop, position, sample_rate)


def _check_end(path: str | Path | Place, offset: int, stop: int | None, position: int, sample_rate: int) -> None:
    """Raise AudioError when a file that ends at `position` does not have the part from `offset` to `stop`."""
    if position == offset or (stop is not None and position < stop - SLACK * sample_rate):
        part = f"samples {offset} to {stop}" if stop is not None else f"sample {offset} on"
        raise AudioError(
            f"{path}: ends before {part} at {sample_rate} Hz ({audio_samples(path, sample_rate)} samples in all); "
            "correct the manifest's offset and samples"
        )


def audio_samples(path: str | Path | Place, sample_rate: int = SAMPLE_RATE) -> int:
    """Length of the whole file in samples at `sample_rate`, without decoding it. Raises as `read_audio`."""
    _check_rate(sample_rate)
    sound = _survey(path)
    return _resampled(sum(sound.frames), sound.rate, sample_rate)


def audio_lengths(path: str | Path | Place) -> tuple[int, int, int]:
    """Samples of the whole file at its own rate, that rate in Hz, and `audio_samples`. Raises as `read_audio`."""
    sound = _survey(path)
    return sum(sound.frames), sound.rate, _resampled(sum(sound.frames), sound.rate, SAMPLE_RATE)


def audio_channels(path: str | Path | Place) -> int:
    """How many channels a file has. Raises as `read_audio`."""
    return _survey(path).channels


def _check_rate(rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"cannot resample to {rate} Hz; give a sample rate from {RATES[0]} to {RATES[1]} Hz")


def write_audio(path: str | Path, waveform: np.ndarray, *, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a waveform, (samples,) float, clipped to [-1, 1], in the format that the suffix names.

    .wav and .flac are 16-bit (16-bit audio that was read is written back bit for bit), .ogg is Vorbis, .opus Opus. The
    file is written atomically and replaces an existing one. Raises AudioError for another suffix, a rate that the
    format does not have, a waveform that is empty, not one-dimensional, not float or holds NaN, and a folder that
    cannot be written.
    """
    path, waveform = Path(path), np.asarray(waveform)
    if path.suffix.lower() not in FORMATS:
        raise AudioError(
            f"{path}: cannot write {path.suffix or 'a file without a suffix'}; use one of {', '.join(FORMATS)}"
        )
    if waveform.ndim != 1 or not len(waveform):
        raise AudioError(f"{path}: not written: a waveform has the shape (samples,), samples > 0, not {waveform.shape}")
    if waveform.dtype.kind != "f":
        raise AudioError(
            f"{path}: not written: a waveform is float in [-1, 1], not {waveform.dtype}; int16 is divided by 32768"
        )
    if not RATES[0] <= sample_rate <= RATES[1]:  # at 0 Hz the Vorbis encoder crashes
        raise AudioError(f"{path}: not written: a sample rate is {RATES[0]} to {RATES[1]} Hz, not {sample_rate}")
    waveform = waveform.astype(np.float32, copy=False)
    if np.isnan(waveform).any():
        raise AudioError(f"{path}: not written: sample {int(np.isnan(waveform).argmax())} of the waveform is NaN")
    kind, subtype = FORMATS[path.suffix.lower()]
    # libsndfile would floor instead of round
    data = to_int16(waveform) if subtype == "PCM_16" else waveform.clip(-1, 1)
    try:
        with (
            atomic(path) as temporary,
            sf.SoundFile(os.fsencode(temporary), "w", sample_rate, 1, subtype, format=kind) as f,
        ):
            for start in range(0, len(data), BLOCK):  # the Vorbis encoder keeps a whole write on its stack
                f.write(data[start : start + BLOCK])
    except (sf.LibsndfileError, OSError, AssertionError) as e:  # soundfile asserts that the disk took every sample
        reason = getattr(e, "error_string", None) or getattr(e, "strerror", None) or "the disk may be full"
        raise AudioError(
            f"{path}: cannot be written at {sample_rate} Hz ({_line(reason)}); check the folder and the rate"
        ) from None


def write_wav(out: BinaryIO, waveforms: Iterable[np.ndarray], *, sample_rate: int = SAMPLE_RATE) -> None:
    """Write (samples,) waveforms as they come into a pipe, as one 16-bit WAV whose header states no length.

    Nothing is written before the first waveform. Raises AudioError when one holds NaN.
    """
    pipe = 0xFFFF_FFFF  # the length that ffmpeg writes into a pipe: up to the end
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
    """(samples,) float in [-1, 1] → (samples,) int16, scaled by 32768: the inverse of reading a 16-bit file."""
    return np.rint(waveform * 32768.0).clip(-32768, 32767).astype(np.int16)


class _Forward(sf.SoundFile):
    """A file that is read from start to end.

    soundfile seeks after every read from a seekable file, to the position that it already has; the mp3 decoder then
    loses its state between frames, and the next samples are wrong by up to 0.5 (Opus: 2e-4).
    """

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _Sound:
    """The streams of a file that have samples and their lengths at `rate`. `exact`: seeking is exact to the sample.

    A file that FFmpeg decodes has no streams, and one length, which may be off by what a container rounds.
    """

    place: Place
    streams: tuple[Stream, ...]
    frames: tuple[int, ...]
    rate: int
    exact: bool
    channels: int
    stated: bool = True


def _decode(path: str | Path | Place, sample_rate: int, offset: int = 0) -> Iterator[np.ndarray]:
    """Mono blocks at `sample_rate` from sample `offset` on."""
    sound = _survey(path)
    position, skip = 0, offset
    if sound.exact:
        # start where both rates have a sample, one second early for the context of the resampler
        common, early = math.gcd(sound.rate, sample_rate), 0 if sound.rate == sample_rate else sample_rate
        periods = max(0, offset - early) * common // sample_rate
        position, skip = (
            min(periods * sound.rate // common, sum(sound.frames)),
            offset - periods * sample_rate // common,
        )
    resampler = None if sound.rate == sample_rate else soxr.ResampleStream(sound.rate, sample_rate, 1, quality="HQ")
    for block, last in _blocks(sound, position):
        if resampler:
            block = resampler.resample_chunk(block, last=last)
        if skip:
            block, skip = block[skip:], max(0, skip - len(block))
        if len(block):
            yield block.clip(-1, 1)


def _blocks(sound: _Sound, position: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Checked mono blocks at the file's own rate from `position` on, each with whether it is the last."""
    if not sound.streams:
        yield from _media_blocks(sound)
        return
    before = 0
    for n, (stream, frames) in enumerate(zip(sound.streams, sound.frames, strict=True), 1):
        if position < before + frames or n == len(sound.streams):
            for block, last in _stream_blocks(sound.place, stream, before, max(0, position - before)):
                yield block, last and n == len(sound.streams)
        before += frames


def _stream_blocks(place: Place, stream: Stream, before: int, position: int) -> Iterator[tuple[np.ndarray, bool]]:
    """The blocks of one stream, which follows `before` samples of other streams."""
    with _opened(place, stream) as f:
        at_once = BLOCK if f.channels <= CHANNELS else max(1, BLOCK * CHANNELS // f.channels)
        # channels are compared over the same blocks wherever reading starts
        skip = 0 if f.channels == 1 else position % at_once
        position -= skip
        if position:
            f.seek(position)
        last = False
        while not last:
            count = min(at_once, f.frames - position)  # past the last the flac decoder fails on bytes that follow
            block = _mono(f.read(count, dtype="float32", always_2d=True), place)
            start, position = position + skip, position + len(block)
            last = len(block) < count or position == f.frames
            block, skip = block[skip:], 0
            _check_block(block, place, before + start, f.samplerate)
            if last and stream.stated and position < f.frames - (MP3_PADDING if f.format == "MP3" else 0):
                raise AudioError(f"{place}: cut short (has {position} of {f.frames} samples); copy it again")
            yield block, last


def _media_blocks(sound: _Sound) -> Iterator[tuple[np.ndarray, bool]]:
    """The blocks of a file that FFmpeg decodes."""
    from textless.audio.media import decode

    position, held = 0, None
    for channels in decode(sound.place, BLOCK):
        if held is not None:
            yield held, False
        held = _mono(channels, sound.place)
        _check_block(held, sound.place, position, sound.rate)
        position += len(held)
    held = np.empty(0, np.float32) if held is None else held
    more = position - sum(sound.frames) if sound.stated else 0
    if more < -2 * PADDED:
        raise AudioError(f"{sound.place}: cut short (has {position} of {sum(sound.frames)} samples); copy it again")
    yield (held[: max(0, len(held) - more)] if 0 < more <= PADDED else held), True


def _check_block(block: np.ndarray, place: Place, first: int, rate: int) -> None:
    """Raise AudioError for samples that no audio has; `first` is the index of the block's first sample."""
    if len(block) and not (peak := np.abs(block).max()) <= LOUDEST:
        if np.isfinite(peak):
            raise AudioError(f"{place}: samples reach {peak:.6g} where 1 is full scale; divide them by 32768")
        bad = first + int(np.isfinite(block).argmin())
        raise AudioError(f"{place}: sample {bad} is NaN or infinite (counted at {rate} Hz); repair or drop the file")


def _mono(block: np.ndarray, place: Place) -> np.ndarray:
    """(samples, channels) → (samples,): the mean of the channels, or the first loud one where they cancel out."""
    if place.channel is not None:
        if not 0 <= place.channel < block.shape[1]:
            have = "one channel" if block.shape[1] == 1 else f"{block.shape[1]} channels"
            raise AudioError(f"{place}: has {have}, and no channel {place.channel} (they count from 0)")
        return np.ascontiguousarray(block[:, place.channel])
    if block.shape[1] == 1 or not len(block):
        return block[:, 0]
    mean = block.mean(axis=1)
    powers = np.einsum("tc,tc->c", block, block, dtype=np.float64) / len(block)
    if np.vdot(mean, mean) / len(block) < CANCELLED * powers.mean() / len(powers):
        warnings.warn(
            f"{place}: its channels cancel each other; one of them is used instead of their mean", stacklevel=1
        )
        return block[:, int((powers >= powers.mean() / 2).argmax())]
    return mean


def _survey(path: str | Path | Place) -> _Sound:
    """The streams of a file, after the checks that libsndfile does not make."""
    place = place_of(path)
    path = place.path
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise AudioError(f"{path}: is a folder, not an audio file")
        if not stat.S_ISREG(info.st_mode):
            raise AudioError(f"{path}: is not a file but a pipe or a device; save it as a file first")
        if not info.st_size:
            raise AudioError(f"{path}: is empty (0 bytes); copy it again")
        # within the resolution of its clock a file may be written twice with equal times
        survey = _surveyed if time.time_ns() - info.st_mtime_ns > FRESH else _surveyed.__wrapped__
        return survey(place, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except OSError as e:
        raise AudioError(f"{path}: cannot be read ({e.strerror})") from None
    except ValueError as e:  # a name with a NUL
        raise AudioError(f"{path!r}: cannot be read ({e})") from None


@lru_cache(maxsize=256)
def _surveyed(place: Place, size: int, *identity: int) -> _Sound:
    """As `_survey`, cached. `identity`: the times and the inode of the file, which change with its content."""
    with place.open() as raw:
        size = size if place.member is None else raw.seek(0, os.SEEK_END)
        try:
            candidates = find_streams(raw, size, place.suffix)
        except AudioError as e:
            raise AudioError(f"{place}: {e}") from None
    if place.suffix in MEDIA and (candidates == (Stream(0, size, plain=True),) or place.suffix in MISTAKEN):
        return _media(place)
    streams, frames, rates, exact, channels = [], [], [], True, []
    for stream in candidates:
        with _opened(place, stream) as f:
            samples = f.frames
            if stream.frames is not None and samples < stream.frames:
                stream = replace(stream, header=stream.spare, plain=False)
                samples = stream.frames
            rate = f.samplerate
            # seeking is inexact in all other formats
            exact = exact and f.subtype.startswith(("PCM", "FLOAT", "DOUBLE"))
            channels.append(f.channels)
        _check_stated_rate(place, rate)
        if samples:
            streams.append(stream)
            frames.append(min(samples, stream.frames or samples))
            rates.append(rate)
    if not _resampled(sum(frames), max(rates, default=1), SAMPLE_RATE):
        raise AudioError(f"{place}: has no samples (an interrupted recording?); drop it or repair its header")
    if len(set(rates)) > 1:
        raise AudioError(
            f"{place}: joins sounds of {' and '.join(str(r) for r in sorted(set(rates)))} Hz; split or resample it"
        )
    return _Sound(place, tuple(streams), tuple(frames), rates[0], exact, min(channels))


def _media(place: Place) -> _Sound:
    """As `_surveyed`, of a file that FFmpeg decodes."""
    from textless.audio.media import has_ffmpeg, probe

    if not has_ffmpeg():
        raise AudioError(f"{place}: {place.suffix} needs PyAV, which is not installed; {how_to_install('media')}")
    header = probe(place)
    _check_stated_rate(place, header.rate)
    return _Sound(place, (), (header.samples,), header.rate, False, header.channels, header.stated)


def _check_stated_rate(place: Place, rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"{place}: its header states a sample rate of {rate} Hz, which no recording has; correct it")


@contextmanager
def _opened(place: Place, stream: Stream) -> Iterator[_Forward]:
    """One stream of a file, opened for reading."""
    window = None if stream.plain and place.member is None else Window(place.open(), stream)
    try:
        try:
            f = _Forward(window or os.fsencode(place.path))  # soundfile encodes names that are not UTF-8 wrongly
        except (sf.LibsndfileError, TypeError) as e:  # for .raw soundfile asks for the arguments of a headerless file
            reason = getattr(e, "error_string", "no header")
            raise AudioError(
                f"{place}: not audio that can be read ({_line(reason)}); convert it to wav or flac"
            ) from None
        with f:
            try:
                yield f
            except sf.LibsndfileError as e:
                raise AudioError(f"{place}: damaged or cut short ({_line(e.error_string)}); copy it again") from None
    finally:
        if window:
            window.close()


def _resampled(samples: int, rate: int, target: int) -> int:
    """Length of `samples` after resampling by soxr: rounded to the nearest, halves up."""
    return (2 * samples * target + rate) // (2 * rate)


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
