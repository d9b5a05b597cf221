"""Sounds and pictures as addresses that hold their data, and waveforms as SVG paths."""

from __future__ import annotations

import base64
import io
import math
import struct
import zlib

import numpy as np

from textless.audio.io import SAMPLE_RATE, to_int16

PEAKS = 200  # a second, of a drawn waveform
RANGE = 9.0  # nats below the loudest that a spectrogram still shows

# Viridis in nine steps: lightness alone tells its colours apart, so it reads without colour vision and in print.
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
LEVELS = 64  # of a picture: fewer than eye or file would need 256 for


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sound(waveform: np.ndarray) -> str:
    """(samples,) float32 at 16 kHz as the address of a WAV of 16 bits.

    FLAC would be half as long, but Chromium 150 hangs in some seeks.
    """
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, to_int16(waveform), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return _address("audio/wav", out.getvalue())


def png(levels: np.ndarray) -> bytes:
    """A PNG of (height, width) integers below LEVELS, in the colours of viridis."""
    height, width = levels.shape
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in VIRIDIS])
    at = np.linspace(0, len(anchors) - 1, LEVELS)
    palette = (
        np.stack([np.interp(at, range(len(anchors)), channel) for channel in anchors.T], axis=1)
        .round()
        .astype(np.uint8)
    )
    filters = np.zeros((height, 1), np.uint8)  # each line starts with its filter: none
    rows = np.concatenate([filters, levels.astype(np.uint8)], axis=1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (b"IHDR", head), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def picture(shares: np.ndarray) -> str:
    """The address of a PNG of (height, width) float in [0, 1]."""
    return _address("image/png", png((np.clip(shares, 0, 1) * (LEVELS - 1)).round()))


def spectrogram(waveform: np.ndarray) -> str:
    """The address of a picture of 80 mel bands, high ones on top.

    Column t shows the 10 ms from t / 100 s on, so the picture is as long as the waveform.
    """
    import torch

    from textless.audio.mel import htk_log_mel
    from textless.audio.mfcc import HOP, WINDOW

    columns = max(1, math.ceil(len(waveform) / HOP))
    before = (WINDOW - HOP) // 2  # centres each window on its column
    padded = np.zeros((columns - 1) * HOP + WINDOW, np.float32)
    padded[before : before + len(waveform)] = waveform[: len(padded) - before]
    mel = htk_log_mel(torch.from_numpy(padded)).numpy().T[::-1]
    return picture(1 + (mel - mel.max()) / RANGE)


def wave_path(waveform: np.ndarray) -> tuple[str, int]:
    """An SVG path of the waveform's envelope, 200 columns a second, y from -100 to 100; and the number of columns."""
    step = SAMPLE_RATE // PEAKS
    columns = max(1, math.ceil(len(waveform) / step))
    padded = np.zeros(columns * step, np.float32)
    padded[: len(waveform)] = waveform
    blocks = padded.reshape(columns, step) * (100 / max(0.05, float(np.abs(padded).max())))
    high, low = blocks.max(1).round().astype(int), blocks.min(1).round().astype(int)
    # A vertical stroke for each column, at least one unit long, so that silence is a line.
    return "".join(f"M{x} {-h}V{max(-h + 1, -l)}" for x, (h, l) in enumerate(zip(high, low, strict=True))), columns
