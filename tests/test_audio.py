"""Reading and writing audio: every way in which a file can be wrong has a test here."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from scipy.signal import resample_poly

from textless.audio import containers
from textless.audio import io as audio
from textless.audio.io import AudioError, audio_samples, read_audio, stream_audio, write_audio

KINDS = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}
LOSSLESS = ("wav", "flac")


def sweep(seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 + 300 * t) * t)).astype(np.float32)


def save(path: Path, x: np.ndarray, rate: int = 16_000, **kind) -> Path:
    with sf.SoundFile(path, "w", rate, 1 if x.ndim == 1 else x.shape[1], **(kind or KINDS[path.suffix[1:]])) as f:
        f.write(x)
    return path


def error(path: Path, **how) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path, **how)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


# ---- what is read


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_mono_waveform(tmp_path, kind):
    x = sweep()
    y = read_audio(save(tmp_path / f"a.{kind}", x))
    assert y.dtype == np.float32
    assert y.shape == x.shape
    if kind in LOSSLESS:
        np.testing.assert_allclose(y, x, atol=2 / 32768)
    else:
        assert np.corrcoef(y, x)[0, 1] > 0.99  # also says that the codec's delay is taken off


@pytest.mark.parametrize("kind", KINDS)
def test_channels_are_averaged(tmp_path, kind):
    left = sweep()
    path = save(tmp_path / f"a.{kind}", np.stack([left, 0.2 * left[::-1]], axis=1))
    raw, _ = sf.read(path, dtype="float64")
    assert abs(raw[:, 0] - raw[:, 1]).max() > 0.3
    np.testing.assert_allclose(read_audio(path), (raw[:, 0] + raw[:, 1]) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_against_scipy(tmp_path, rate):
    rng = np.random.default_rng(rate)
    t = np.arange(2 * rate) / rate
    # in the pass band of both filters
    x = sum(0.1 * np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in rng.uniform(50, 0.35 * min(rate, 16_000), 6))
    y = read_audio(save(tmp_path / "a.wav", x, rate, format="WAV", subtype="DOUBLE"))
    common = np.gcd(rate, 16_000)
    oracle = resample_poly(x, 16_000 // common, rate // common, window=("kaiser", 12.0))
    assert len(y) == 32_000
    np.testing.assert_allclose(y[800:-800], oracle[800:-800], atol=2e-3)


def test_resampling_keeps_a_sine_where_it_was_and_removes_what_would_alias(tmp_path):
    t = np.arange(96_000) / 48_000
    x = 0.5 * np.sin(2 * np.pi * 1000 * t) + 0.4 * np.sin(2 * np.pi * 11_000 * t)
    y = read_audio(save(tmp_path / "a.wav", x, 48_000, format="WAV", subtype="DOUBLE"))
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000)
    np.testing.assert_allclose(y[800:-800], expected[800:-800], atol=1e-4)


def test_another_target_rate(tmp_path):
    path = save(tmp_path / "a.wav", sweep(rate=48_000), 48_000)
    assert len(read_audio(path, sample_rate=8_000)) == 8_000
    raw, _ = sf.read(path, dtype="float32")
    np.testing.assert_array_equal(read_audio(path, sample_rate=48_000), raw)


def test_samples_stay_within_one(tmp_path):
    x = np.full(16_000, 1.5)
    x[::2] = -1.5
    y = read_audio(save(tmp_path / "a.wav", x, format="WAV", subtype="FLOAT"))
    assert y.max() == 1
    assert y.min() == -1


# ---- streams, parts, lengths


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("kind", KINDS)
def test_stream_equals_read(tmp_path, monkeypatch, kind, rate, channels):
    if kind == "opus" and rate == 44_100:
        rate = 48_000
    if kind == "mp3":
        channels = min(channels, 2)
    x = sweep(1.5, rate)
    path = save(tmp_path / f"a.{kind}", np.stack([x] * channels, axis=1) * np.linspace(1, 0.5, channels), rate)
    whole = read_audio(path)
    monkeypatch.setattr(audio, "BLOCK", 1000)
    blocks = list(stream_audio(path, block=777))
    assert {len(b) for b in blocks[:-1]} == {777}
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    np.testing.assert_array_equal(read_audio(path), whole)
    assert audio_samples(path) == len(whole) == 24_000
    assert [len(b) for b in stream_audio(path, block=8000)] == [8000] * 3


def test_a_stream_reads_no_further_than_it_is_asked(tmp_path, monkeypatch):
    path = save(tmp_path / "a.wav", sweep(5))
    read = []
    original = sf.SoundFile.read
    monkeypatch.setattr(audio, "BLOCK", 1000)
    monkeypatch.setattr(sf.SoundFile, "read", lambda self, n, **how: read.append(n) or original(self, n, **how))
    next(stream_audio(path, block=2500))
    assert sum(read) == 3000


PARTS = [(0, 10), (1, 16_000), (15_999, 3), (20_001, 9_000), (47_990, 10)]


@pytest.mark.parametrize("rate", [16_000, 24_000])
@pytest.mark.parametrize("kind", ["ogg", "opus", "mp3"])
def test_a_part_of_a_lossy_file_is_exactly_that_slice(tmp_path, monkeypatch, kind, rate):
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * rate)
    path = save(tmp_path / f"a.{kind}", noise, rate)
    whole = read_audio(path)
    monkeypatch.setattr(audio, "BLOCK", 7000)
    for offset, samples in PARTS:
        np.testing.assert_array_equal(
            read_audio(path, offset=offset, samples=samples), whole[offset : offset + samples]
        )
    np.testing.assert_array_equal(read_audio(path, offset=30_000), whole[30_000:])


@pytest.mark.parametrize("kind", ["ogg", "opus", "mp3"])
def test_lossy_files_are_never_sought_in(tmp_path, monkeypatch, kind):
    """Seeking in Opus is inexact by 2e-4 in some files, and soundfile's own read seeks in whatever it thinks it can."""
    path = save(tmp_path / f"a.{kind}", sweep(3))
    monkeypatch.setattr(audio, "BLOCK", 1000)
    monkeypatch.setattr(sf.SoundFile, "seek", lambda self, *to: pytest.fail(f"seeks to {to}"))
    assert len(read_audio(path, offset=40_000)) == 8_000
    assert sum(map(len, stream_audio(path))) == 48_000


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000, 8_000])
@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_part_of_a_lossless_file_is_that_slice(tmp_path, kind, rate):
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * rate)
    path = save(tmp_path / f"a.{kind}", noise, rate)
    whole = read_audio(path)
    for offset, samples in PARTS:
        part = read_audio(path, offset=offset, samples=samples)
        np.testing.assert_allclose(
            part, whole[offset : offset + samples], atol=0 if rate == 16_000 else 1e-6, strict=True
        )


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("samples", [100, 4_801, 16_001, 30_000])
def test_the_length_from_the_header_is_that_of_the_waveform(tmp_path, rate, samples):
    path = save(tmp_path / "a.wav", np.zeros(samples), rate)
    assert audio_samples(path) == len(read_audio(path))
    assert audio_samples(path, 24_000) == len(read_audio(path, sample_rate=24_000))


def test_a_part_beyond_the_end(tmp_path):
    path = save(tmp_path / "a.wav", sweep())
    assert "ends before samples 8000 to 17000" in error(path, offset=8_000, samples=9_000)
    assert "16000 samples in all" in error(path, offset=8_000, samples=9_000)
    assert "ends before sample 16000" in error(path, offset=16_000)
    assert "ends before" in error(path, offset=10**9, samples=1)
    assert "ends before" in error(path, samples=16_161)
    assert len(read_audio(path, samples=16_160)) == 16_000  # durations in manifests are rounded
    assert "offset" in error(path, offset=-1)
    assert "samples > 0" in error(path, samples=0)


# ---- files that are wrong


def test_missing_empty_folder_and_other_files(tmp_path):
    assert "no such file" in error(tmp_path / "a.wav")
    (tmp_path / "b.wav").touch()
    assert "empty (0 bytes)" in error(tmp_path / "b.wav")
    assert "is a folder" in error(tmp_path)
    (tmp_path / "c.wav").write_text("a text, not a sound\n" * 20)
    assert "not audio" in error(tmp_path / "c.wav")
    (tmp_path / "d.raw").write_bytes(bytes(1000))
    assert "not audio" in error(tmp_path / "d.raw")
    assert "cannot be read" in error(save(tmp_path / "e.wav", sweep()) / "below.wav")


@pytest.mark.parametrize("function", [audio_samples, lambda path: next(stream_audio(path))])
def test_the_other_readers_say_the_same(tmp_path, function):
    with pytest.raises(AudioError, match=r"a\.wav: no such file"):
        function(tmp_path / "a.wav")
    whole = save(tmp_path / "b.opus", sweep()).read_bytes()
    (tmp_path / "b.opus").write_bytes(whole[:-100])
    with pytest.raises(AudioError, match=r"b\.opus: cut short"):
        function(tmp_path / "b.opus")


def test_unreadable(tmp_path, monkeypatch):
    path = save(tmp_path / "a.wav", sweep())

    def stat(_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as m:
        m.setattr(audio.os, "stat", stat)
        assert "cannot be read (Permission denied)" in error(path)


@pytest.mark.parametrize("kind", ["wav", "ogg"])
def test_no_samples(tmp_path, kind):
    assert "no samples" in error(save(tmp_path / f"a.{kind}", np.zeros(0)))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus"])
def test_a_file_cut_anywhere_is_an_error(tmp_path, kind):
    path = save(tmp_path / f"a.{kind}", sweep(0.6))
    whole = path.read_bytes()
    assert len(read_audio(path)) == 9600
    for length in [*range(1, 64), *range(64, len(whole), 97), *range(len(whole) - 64, len(whole))]:
        path.write_bytes(whole[:length])
        reason = error(path)
        if kind != "flac" and length > 12:
            assert "cut short" in reason


@pytest.mark.parametrize("kind", ["wav", "opus"])
def test_libsndfile_itself_reads_a_cut_file_in_silence(tmp_path, kind):
    """Why the ends of files are checked."""
    path = save(tmp_path / f"a.{kind}", sweep(5))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert 0 < len(sf.read(path)[0]) < 60_000
    assert "cut short" in error(path)
    assert "cut short" in error(path, samples=100)  # although these samples are there


def test_ogg_cut_between_two_pages(tmp_path):
    path = save(tmp_path / "a.opus", sweep(3))
    whole = path.read_bytes()
    last = whole.rfind(b"OggS")
    assert whole[last + 5] & 4
    path.write_bytes(whole[:last])
    assert "does not end the stream" in error(path)


def test_bytes_after_the_sound_do_no_harm(tmp_path):
    for kind in ("wav", "flac", "ogg", "opus", "mp3"):
        path = save(tmp_path / f"a.{kind}", sweep())
        path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
        assert len(read_audio(path)) == 16_000


def test_a_page_mark_among_the_samples_is_not_a_page(tmp_path):
    path = save(tmp_path / "a.opus", sweep(3))
    whole = bytearray(path.read_bytes())
    last = whole.rfind(b"OggS")
    body = last + 27 + whole[last + 26]
    assert len(whole) - body > 80
    whole[body + 40 : body + 68] = b"OggS" + bytes(22) + b"\1\5"  # would be a page of 33 bytes without the end flag
    whole[last + 22 : last + 26] = containers.page_checksum(whole[last:]).to_bytes(4, "little")
    path.write_bytes(whole)
    assert audio_samples(path) == 48_000
    whole[body + 45] = 4  # would be an end page, when the real one is cut
    for length in range(last, len(whole)):
        path.write_bytes(whole[:length])
        assert "cut short" in error(path)


def wav(data: bytes, *, size: int, riff: int | None = None, before: bytes = b"", after: bytes = b"") -> bytes:
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    body = b"WAVE" + fmt + before + b"data" + struct.pack("<I", size) + data + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def test_wav_headers(tmp_path):
    path, data = tmp_path / "a.wav", (sweep(0.1) * 32768).astype("<i2").tobytes()
    n = len(data)
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # a chunk of odd length has a byte of padding
    for whole in (
        wav(data, size=n),
        wav(data, size=n, before=odd, after=odd),
        wav(data, size=n, after=odd[:-3]),  # what is cut there is not sound
        wav(data, size=0xFFFF_FFFF, riff=0xFFFF_FFFF),  # ffmpeg into a pipe
        wav(data, size=0x7FFF_F000, riff=0x7FFF_F024),  # sox into a pipe
    ):
        path.write_bytes(whole)
        assert len(read_audio(path)) == n // 2
    path.write_bytes(wav(data[:-2], size=n))
    assert f"has {n - 2} of {n} bytes" in error(path)
    path.write_bytes(wav(data[:-2], size=n, before=odd))
    assert f"has {n - 2} of {n} bytes" in error(path)
    path.write_bytes(wav(data, size=n)[:36])
    assert "no data chunk" in error(path)


def test_a_wav_of_64_bits(tmp_path):
    path = tmp_path / "a.wav"
    save(path, sweep(), format="RF64", subtype="PCM_16")
    whole = path.read_bytes()
    assert whole[:4] == b"RF64"
    assert len(read_audio(path)) == 16_000
    for length in (*range(12, 110), len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "cut short" in error(path)


def test_mp3_in_blocks_equals_mp3_at_once(tmp_path, monkeypatch):
    path = save(tmp_path / "a.mp3", sweep(3))
    at_once, _ = sf.read(path, dtype="float32")
    monkeypatch.setattr(audio, "BLOCK", 5000)
    np.testing.assert_allclose(read_audio(path), at_once, rtol=0, atol=2e-7)


def test_mp3_that_states_its_length(tmp_path):
    path = save(tmp_path / "a.mp3", sweep(5))
    whole = path.read_bytes()
    assert b"Xing" in whole[:200] or b"Info" in whole[:200]
    path.write_bytes(whole[: len(whole) // 2])
    assert "cut short" in error(path)
    tag = b"ID3\4\0\0" + bytes([0, 1, 0, 0]) + bytes(1 << 14)
    path.write_bytes(tag + whole[: len(whole) // 2])
    assert "cut short" in error(path)
    path.write_bytes(tag + whole)
    assert len(read_audio(path)) == 80_000


def test_mp3_that_does_not(tmp_path):
    """A tag in front makes libsndfile guess too long a file: no reason to refuse it. The frames are counted instead."""
    with sf.SoundFile(
        tmp_path / "a.mp3", "w", 16_000, 1, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5
    ) as f:
        f.write(sweep(5))
    whole = (tmp_path / "a.mp3").read_bytes()
    second = whole.find(whole[:2], max(whole.find(b"Xing"), whole.find(b"Info")))
    (tmp_path / "a.mp3").write_bytes(b"ID3\4\0\0" + bytes([0, 1, 0, 0]) + bytes(1 << 14) + whole[second:])
    assert sf.info(tmp_path / "a.mp3").frames > 84_000
    assert 80_000 <= len(read_audio(tmp_path / "a.mp3")) == audio_samples(tmp_path / "a.mp3") < 84_000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers(tmp_path, monkeypatch, value):
    monkeypatch.setattr(audio, "BLOCK", 1000)
    x = sweep(2)
    x[20_345] = x[20_777] = value
    path = save(tmp_path / "a.wav", x, format="WAV", subtype="FLOAT")
    assert "sample 20345 is NaN or infinite" in error(path)
    assert "sample 20345 is NaN or infinite" in error(path, offset=20_100)
    assert len(read_audio(path, samples=20_000)) == 20_000
    with pytest.raises(AudioError, match="sample 20345"):
        list(stream_audio(path, block=100))


def test_not_a_number_in_one_channel_and_at_another_rate(tmp_path):
    x = np.stack([sweep(1, 48_000)] * 2, axis=1)
    x[7, 1] = np.nan
    path = save(tmp_path / "a.wav", x, 48_000, format="WAV", subtype="FLOAT")
    assert "sample 7 is NaN or infinite (counted at 48000 Hz)" in error(path)


def test_integers_kept_as_floats_are_not_clipped_to_noise(tmp_path):
    path = save(tmp_path / "a.wav", sweep() * 32768, format="WAV", subtype="FLOAT")
    assert "where 1 is full scale" in error(path)


# ---- what is written


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".WAV"])
def test_written_and_read_again(tmp_path, suffix):
    x = sweep() * 4
    path = tmp_path / f"a{suffix}"
    write_audio(path, x)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    y = read_audio(path)
    assert len(y) == len(x)
    assert np.corrcoef(y, x.clip(-1, 1))[0, 1] > 0.99
    assert abs(sf.read(path)[0]).max() < 1.4  # it is the writer that clips
    assert (sf.info(path).format, sf.info(path).subtype) == audio.FORMATS[suffix.lower()]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sixteen_bits_come_back_bit_for_bit(tmp_path, suffix):
    steps = np.array([-32768, -32767, -1, 0, 1, 12345, 32767] * 50, dtype=np.int16)
    sf.write(tmp_path / "a.wav", steps, 16_000)
    write_audio(tmp_path / f"b{suffix}", read_audio(tmp_path / "a.wav"))
    np.testing.assert_array_equal(sf.read(tmp_path / f"b{suffix}", dtype="int16")[0], steps)
    write_audio(tmp_path / f"b{suffix}", (steps.clip(-32767, 32766) + 0.4) / 32768)
    write_audio(tmp_path / f"c{suffix}", (steps.clip(-32767, 32766) - 0.4) / 32768)
    for name in "bc":  # rounded, not floored
        np.testing.assert_array_equal(
            sf.read(tmp_path / f"{name}{suffix}", dtype="int16")[0], steps.clip(-32767, 32766)
        )


def test_written_samples_are_clipped_not_wrapped(tmp_path):
    write_audio(tmp_path / "a.wav", np.array([2.0, -2.0, np.inf, -np.inf, 1.0]))
    np.testing.assert_array_equal(sf.read(tmp_path / "a.wav", dtype="int16")[0], [32767, -32768, 32767, -32768, 32767])


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus"])
def test_a_long_file_is_written_in_pieces(tmp_path, monkeypatch, suffix):
    x = sweep(3)
    write_audio(tmp_path / f"a{suffix}", x)
    monkeypatch.setattr(audio, "BLOCK", 5000)
    write_audio(tmp_path / f"b{suffix}", x)
    # Vorbis makes up what was before the start from the first piece
    a, b = (read_audio(tmp_path / f"{name}{suffix}")[256:] for name in "ab")
    np.testing.assert_array_equal(a, b)


def test_another_rate_is_written(tmp_path):
    write_audio(tmp_path / "a.wav", sweep(rate=24_000), sample_rate=24_000)
    assert sf.info(tmp_path / "a.wav").samplerate == 24_000


@pytest.mark.parametrize(
    ("name", "waveform", "rate", "reason"),
    [
        ("a.mp4", sweep(0.1), 16_000, "cannot write .mp4; use one of .wav, .flac"),
        ("a", sweep(0.1), 16_000, "without a suffix"),
        ("a.wav", np.array([0, 0.1, np.nan, np.nan]), 16_000, "sample 2 of the waveform is NaN"),
        ("a.wav", np.zeros((2, 100)), 16_000, r"not \(2, 100\)"),
        ("a.wav", np.zeros(0), 16_000, r"not \(0,\)"),
        ("a.opus", sweep(0.1), 22_050, "at 22050 Hz .*sample rates"),
        ("none/a.wav", sweep(0.1), 16_000, "check the folder"),
        *(
            (f"a.{kind}", sweep(0.1), rate, f"not {rate}")
            for kind in ("wav", "flac", "ogg")
            for rate in (-1, 0, 999, 2**40)
        ),
        ("folder.wav", sweep(0.1), 16_000, "directory"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, waveform, rate, reason):
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(AudioError, match=reason) as caught:
        write_audio(tmp_path / name, waveform, sample_rate=rate)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.wav"]


def test_a_failure_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.flac", sweep())
    before = (tmp_path / "a.flac").read_bytes()
    original, calls = sf.SoundFile.write, []

    def write(self, data):
        calls.append(len(data))
        assert len(calls) < 3  # as soundfile does where the disk is full
        original(self, data)

    monkeypatch.setattr(audio, "BLOCK", 1000)
    monkeypatch.setattr(sf.SoundFile, "write", write)
    with pytest.raises(AudioError, match=r"a\.flac: cannot be written .*disk"):
        write_audio(tmp_path / "a.flac", -sweep())
    assert len(calls) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.flac"]
    assert (tmp_path / "a.flac").read_bytes() == before


def test_what_is_there_is_replaced(tmp_path):
    write_audio(tmp_path / "a.wav", sweep())
    write_audio(tmp_path / "a.wav", sweep(0.5))
    assert audio_samples(tmp_path / "a.wav") == 8_000


def test_audio_needs_neither_torch_nor_scipy():
    code = (
        "import sys, textless.audio.io, textless.audio.corpus; print({'torch', 'scipy', 'pyarrow', "
        "'sklearn'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
