"""Audio that FFmpeg decodes, through PyAV (extra `media`): m4a, mp4, webm, mkv, aac, wma. Memory is bounded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from textless.audio.place import Place
from textless.errors import AudioError

# Formats that are opened. Others lead to further files and addresses (hls, concat, dash), or take no file at all.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,ac3,eac3,dts,mp3,mpeg,mpegts,mpegvideo,asf,amr,amrnb,amrwb,ape,wv,mpc,"
    "mpc8,tta,tak,rm,avi,flv,live_flv,ogg,shn,dsf,iff"
)


@dataclass(frozen=True, slots=True)
class Header:
    """Channels, rate in Hz, and samples at that rate; `stated`: by the file, not counted from its packets."""

    channels: int
    rate: int
    samples: int
    stated: bool


def has_ffmpeg() -> bool:
    """Whether PyAV is installed, whose wheel holds FFmpeg."""
    return find_spec("av") is not None


def probe(place: Place) -> Header:
    """The first audio stream of a file. Its first packets are decoded, since headers of HE-AAC state half the rate.

    Raises AudioError when there is none, and as `decode`.
    """
    with _opened(place) as container:
        stream = container.streams.audio[0]
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise AudioError(f"{place}: has no samples (an interrupted recording?); drop it or repair its header")
        rate, channels = first.sample_rate, len(first.layout.channels)
        seconds = _stated_seconds(container, stream)
    if seconds is not None:
        return Header(channels, rate, round(seconds * rate), True)
    with _opened(place) as container:
        stream = container.streams.audio[0]
        ticks = packets = 0
        for packet in container.demux(stream):
            ticks += packet.duration or 0 if packet.size else 0
            packets += packet.size > 0
        seconds = float(ticks * stream.time_base) if ticks else packets * first.samples / rate
    return Header(channels, rate, max(1, round(seconds * rate)), False)


def decode(place: Place, block: int) -> Iterator[np.ndarray]:
    """The first audio stream in blocks, (block, channels) float32; the last may be shorter.

    Raises AudioError when the file cannot be decoded, or its rate or channels change on the way.
    """
    parts: list[np.ndarray] = []
    held, form = 0, None
    with _opened(place) as container:
        for frame in container.decode(container.streams.audio[0]):
            samples = _samples(frame)
            if form not in (None, (frame.sample_rate, samples.shape[1])):
                raise AudioError(f"{place}: its rate or channels change on the way; convert it to wav with ffmpeg")
            form = (frame.sample_rate, samples.shape[1])
            parts.append(samples)
            held += len(samples)
            if held >= block:
                joined = np.concatenate(parts)
                for start in range(0, held - held % block, block):
                    yield joined[start : start + block]
                parts = [joined[held - held % block :].copy()]
                held %= block
    if held:
        yield np.concatenate(parts)


@contextlib.contextmanager
def _opened(place: Place) -> Iterator[Any]:
    """A container with at least one audio stream; what FFmpeg raises within the block is an AudioError."""
    import av

    av.logging.set_level(None)  # its remarks about damage, which come as errors here
    try:
        # a file object, since a path may be any bytes, and one like `concat:a` would be a protocol of FFmpeg
        with (
            place.open() as file,
            av.open(file, options={"format_whitelist": DEMUXERS}, metadata_errors="replace") as container,
        ):
            if not container.streams.audio:
                raise AudioError(f"{place}: has no sound; drop it")
            yield container
    except AudioError:
        raise
    except (av.error.FFmpegError, ValueError, OverflowError, EOFError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        reason = " ".join(reason.split())
        raise AudioError(
            f"{place}: cannot be decoded ({reason}); copy it again, or convert it to wav or flac"
        ) from None
    except OSError as e:
        raise AudioError(f"{place}: cannot be read ({e.strerror})") from None


def _stated_seconds(container: Any, stream: Any) -> float | None:
    """The length that the file states of its sound. A whole file's may be that of the picture, and of a raw stream
    it is guessed from the bit rate: these are not taken."""
    if stream.duration and container.format.name not in ("aac", "ac3", "eac3", "mp3", "dts", "amr", "mpeg", "mpegts"):
        return float(stream.duration * stream.time_base)
    written = stream.metadata.get("DURATION", "")  # matroska and webm, `00:01:02.345000000`
    with contextlib.suppress(ValueError):
        hours, minutes, seconds = written.split(":")
        total = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        return total if 0 < total < 1e8 else None
    if container.duration and not container.streams.video and container.format.name == "matroska,webm":
        return float(container.duration / 1_000_000)
    return None


def _samples(frame: Any) -> np.ndarray:
    """(samples, channels) float32 of a frame of any sample format."""
    channels = len(frame.layout.channels)
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, channels)
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype.kind == "u":
        return (values.astype(np.float32) - 128) / 128
    return (values / float(1 << (8 * values.dtype.itemsize - 1))).astype(np.float32)
