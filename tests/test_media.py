"""Media that FFmpeg decodes: lengths, channels, damage, and what is said without PyAV. The files are made here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from textless.audio import io as audio
from textless.audio import sources
from textless.audio.corpus import Corpus, read_rows
from textless.audio.io import AudioError, audio_channels, audio_samples, read_audio, stream_audio

av = pytest.importorskip("av")

KINDS = {
    ".m4a": "aac", ".mp4": "aac", ".webm": "libopus", ".mkv": "pcm_s16le", ".mka": "flac", ".mov": "alac",
    ".aac": "aac", ".wma": "wmav2", ".avi": "pcm_u8", ".m4b": "aac",
}  # fmt: skip


def make(
    path: Path, *, seconds: float = 2.0, rate: int = 16000, channels: int = 1, codec: str | None = None
) -> np.ndarray:
    """A file of tones, 440 Hz in the first channel, twice that in the second; returns (samples, channels)."""
    codec = codec or KINDS[path.suffix]
    rate = 48000 if codec == "libopus" else rate
    t = np.arange(round(seconds * rate)) / rate
    tones = np.stack([0.4 * np.sin(2 * np.pi * 440 * (c + 1) * t) for c in range(channels)]).astype(np.float32)
    layout = "mono" if channels == 1 else "stereo"
    with av.open(str(path), "w", format="adts" if path.suffix == ".aac" else None) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if codec == "wmav2":
            stream.bit_rate = 64000
        stream.codec_context.open()
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate, frame_size=size)
        for start in range(0, tones.shape[1], size):
            part = np.ascontiguousarray(tones[:, start : start + size])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            for piece in resampler.resample(frame):
                container.mux(stream.encode(piece))
        for piece in resampler.resample(None):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return tones.T


@pytest.mark.parametrize("suffix", KINDS)
def test_every_kind_is_decoded(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    make(path)
    waveform = read_audio(path)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - 32000) <= 4096
    assert abs(len(waveform) - audio_samples(path)) <= 4096
    spectrum = np.abs(np.fft.rfft(waveform[8000:24000]))
    assert spectrum.argmax() == 440
    assert 0.35 < np.abs(waveform[8000:24000]).max() < 0.45
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(path, block=777))), waveform)
    np.testing.assert_allclose(read_audio(path, offset=9000, samples=5000), waveform[9000:14000], atol=1e-6)


def test_lossless_media_are_exact(tmp_path):
    for name in ("a.mkv", "b.mka", "c.mov"):
        samples = make(tmp_path / name)
        np.testing.assert_allclose(read_audio(tmp_path / name), samples[:, 0], atol=1e-4)


def test_an_mp4_has_the_length_that_its_header_counts(tmp_path):
    make(tmp_path / "a.mp4", seconds=1.0)
    assert len(read_audio(tmp_path / "a.mp4")) == audio_samples(tmp_path / "a.mp4") == 16000


def test_channels_of_media(tmp_path):
    samples = make(tmp_path / "a.mkv", channels=2)
    assert audio_channels(tmp_path / "a.mkv") == 2
    for n in (0, 1):
        np.testing.assert_allclose(read_audio(tmp_path / "a.mkv", channel=n), samples[:, n], atol=1e-4)
    np.testing.assert_allclose(read_audio(tmp_path / "a.mkv"), samples.mean(axis=1), atol=1e-4)


def test_a_folder_of_media_is_a_corpus(tmp_path):
    make(tmp_path / "a.m4a")
    make(tmp_path / "b.mp4", rate=44100, channels=2)
    make(tmp_path / "c.webm")
    (tmp_path / "d.ircam").touch()
    with pytest.warns(UserWarning, match=r"1 audio or video file is passed over.*\.ircam cannot be decoded, convert"):
        corpus = Corpus.load(tmp_path)
    assert [r.id for r in corpus] == ["a", "b", "c"]
    assert all(abs(len(w) - 32000) <= 4096 for _, w in read_rows(corpus))
    assert [r.id for r in Corpus.load(f"{tmp_path}/*.mp4")] == [r.id for r in Corpus.load(tmp_path / "b.mp4")] == ["b"]


def test_without_pyav_the_remedy_is_named(tmp_path, monkeypatch):
    make(tmp_path / "a.m4a")
    monkeypatch.setattr("textless.audio.media.has_ffmpeg", lambda: False)
    audio._surveyed.cache_clear()
    with pytest.raises(AudioError, match=r"a\.m4a: \.m4a needs PyAV, which is not installed; .*'\.\[media\]'"):
        read_audio(tmp_path / "a.m4a")
    monkeypatch.setattr(sources, "has_ffmpeg", lambda: False)
    with pytest.raises(Exception, match=r"\.m4a can be decoded with PyAV \(in a clone of textless: pip install"):
        Corpus.load(tmp_path)


def test_damaged_media_give_audio_errors_only(tmp_path):
    path = tmp_path / "a.mkv"
    make(path)
    data = path.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match=r"cut short \(has \d+ of 32000 samples\)"):
        read_audio(tmp_path / "cut.mkv")
    rng = np.random.default_rng(0)
    for suffix in (".m4a", ".webm", ".wma", ".avi"):
        make(tmp_path / f"b{suffix}", seconds=0.3)
        whole = (tmp_path / f"b{suffix}").read_bytes()
        for n in range(25):
            damaged = bytearray(whole)
            for _ in range(rng.integers(1, 20)):
                damaged[int(rng.integers(min(len(whole), 600)))] = int(rng.integers(256))
            (tmp_path / f"{n}{suffix}").write_bytes(damaged)
            try:
                read_audio(tmp_path / f"{n}{suffix}")
            except AudioError as e:
                assert "\n" not in str(e)  # noqa: PT017


def test_files_that_name_others_are_not_followed(tmp_path):
    make(tmp_path / "secret.m4a")
    (tmp_path / "list.m4a").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.m4a\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.m4a\n")
    for name in ("list.m4a", "concat.mp4"):
        with pytest.raises(AudioError, match="cannot be decoded"):
            read_audio(tmp_path / name)


def test_names_that_are_not_utf8_and_files_without_sound(tmp_path):
    make(tmp_path / "a.mp4")
    odd = Path(tmp_path / "caf\udce9.mp4")
    (tmp_path / "a.mp4").rename(odd)
    assert len(read_audio(odd)) == 32000
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(AudioError, match="has no sound"):
        read_audio(tmp_path / "v.mp4")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_length(tmp_path):
    peaks = []
    for minutes in (1, 30):
        make(tmp_path / f"{minutes}.m4a", seconds=60 * minutes)
        code = (
            "import re\nfrom textless.audio.io import stream_audio\n"
            f"print(sum(map(len, stream_audio({str(tmp_path / f'{minutes}.m4a')!r}))))\n"
            "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        samples, peak = map(int, done.stdout.split())
        assert abs(samples - 60 * minutes * 16000) <= 4096
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 30_000  # KiB; the waveform alone is 115 MB
