"""Pictures, sounds, numbers and data as text that stands inside a page."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
import string
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, LiteralString, TypeGuard

import numpy as np

from textless.audio.io import SAMPLE_RATE, to_int16
from textless.metrics.table import ALL

PEAKS = 200  # a second, of a drawn waveform
MEL_RATE = 100  # columns a second, of a spectrogram
LARGEST = 1e300  # of the numbers that are drawn
RANGE = 9.0  # nats below the loudest that a spectrogram still shows

# Viridis in nine steps: lightness alone tells its colours apart, so it reads without colour vision and in print.
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
LEVELS = 64  # of a picture: fewer than eye or file would need 256 for


class Html(str):
    """A piece of a page. Only the functions below make one; every other string is text, and is escaped where it enters a page."""


def text(value: object) -> Html:
    """Anything, escaped for HTML and for attributes in quotes; a piece of a page as it is.

    Surrogates, of file names that are not UTF-8, become U+FFFD: no file in UTF-8 can hold them.
    """
    return value if isinstance(value, Html) else Html(re.sub("[\ud800-\udfff]", "\ufffd", html.escape(str(value))))


class _Escaping(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return text(format(value, format_spec) if format_spec else value)


def markup(template: LiteralString, *values: object, **named: object) -> Html:
    """A template in the syntax of `str.format` with its values, each of them escaped unless it is a piece of a page.

    The template is a literal: an f-string would put its values in before they can be escaped.
    """
    return Html(_Escaping().format(template, *values, **named))


def joined(pieces: Iterable[object], between: LiteralString = "") -> Html:
    """Pieces of a page one after the other; what is not one is escaped."""
    return Html(between.join(map(text, pieces)))


def data(value: Any) -> Html:
    """JSON for a <script> element: nothing in it can end the element."""
    out = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Html(out.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a value out of a file is a number that can be drawn: not NaN, and so small that a difference of two is no infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def number(value: object) -> str:
    """Three digits that say something; counts in full. What is no number as it is."""
    if not is_finite(value):
        return "–" if value is None else str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e12):
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if abs(value) < 1e-3:
        return f"{value:.2e}".replace("e-0", "e-")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def figure(name: str, value: object) -> str:
    """The value of a metric as the command line prints it; of one that is not declared as a number."""
    if not is_finite(value):
        return number(value)
    if name == "hours":
        return duration(3600 * value)
    return ALL[name].format(value) if name in ALL else number(value)


def label(name: str) -> str:
    """What a figure is called in words."""
    group, dot, rest = name.partition(".")
    return ALL[name].label if name in ALL else f"{group}{': ' if dot else ''}{rest}".replace("_", " ")


def duration(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sound(waveform: np.ndarray) -> str:
    """(samples,) float32 at 16 kHz as the address of a WAV of 16 bits. FLAC would be half as long, but Chromium 150 hangs in some seeks."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, to_int16(waveform), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return _address("audio/wav", out.getvalue())


def png(levels: np.ndarray) -> bytes:
    """A picture (height, width) of integers below LEVELS, in the colours of viridis."""
    height, width = levels.shape
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in VIRIDIS])
    at = np.linspace(0, len(anchors) - 1, LEVELS)
    palette = (
        np.stack([np.interp(at, range(len(anchors)), channel) for channel in anchors.T], axis=1)
        .round()
        .astype(np.uint8)
    )
    rows = np.concatenate(
        [np.zeros((height, 1), np.uint8), levels.astype(np.uint8)], axis=1
    )  # each line starts with its filter: none

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (b"IHDR", head), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def picture(shares: np.ndarray) -> str:
    """The address of a PNG of (height, width) float in [0, 1]."""
    return _address("image/png", png((np.clip(shares, 0, 1) * (LEVELS - 1)).round()))


def spectrogram(waveform: np.ndarray) -> str:
    """The address of a picture of 80 mel bands, high ones on top. Column t shows the 10 ms from t / 100 s on, so it spans the waveform."""
    import torch

    from textless.audio.mel import htk_log_mel
    from textless.audio.mfcc import HOP, WINDOW

    columns = max(1, math.ceil(len(waveform) / HOP))
    before = (WINDOW - HOP) // 2  # so that a window has its middle in the middle of its column
    padded = np.zeros((columns - 1) * HOP + WINDOW, np.float32)
    padded[before : before + len(waveform)] = waveform[: len(padded) - before]
    mel = htk_log_mel(torch.from_numpy(padded)).numpy().T[::-1]
    return picture(1 + (mel - mel.max()) / RANGE)


def wave_path(waveform: np.ndarray) -> tuple[str, int]:
    """An SVG path of the waveform's extent, 200 columns a second, y from -100 to 100; and how many columns."""
    step = SAMPLE_RATE // PEAKS
    columns = max(1, math.ceil(len(waveform) / step))
    padded = np.zeros(columns * step, np.float32)
    padded[: len(waveform)] = waveform
    blocks = padded.reshape(columns, step) * (100 / max(0.05, float(np.abs(padded).max())))
    high, low = blocks.max(1).round().astype(int), blocks.min(1).round().astype(int)
    # A vertical stroke for each column; where high and low agree a stroke of one unit, so that silence is a line.
    return "".join(f"M{x} {-h}V{max(-h + 1, -l)}" for x, (h, l) in enumerate(zip(high, low, strict=True))), columns


def ticks(low: float, high: float, count: int = 5) -> list[tuple[float, str]]:
    """Round numbers between two, about so many, and how they are written: with the digits that the distance between them needs."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return [
        (v, f"{v:.{digits}f}" if 1e-4 < step < 1e4 or not v else f"{v:.0e}".replace("e-0", "e-").replace("e+0", "e"))
        for v in values
    ]


def powers(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis."""
    return [(10.0**k, number(10.0**k)) for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def thinned(points: Sequence[Any], limit: int) -> list[Any]:
    """At most so many of the points, evenly, the first and the last among them."""
    if len(points) <= limit:
        return list(points)
    return [points[round(k * (len(points) - 1) / (limit - 1))] for k in range(limit)]
