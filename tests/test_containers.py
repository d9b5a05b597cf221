"""Headers of audio files against the bytes that are there: joined streams, lengths unknown, zero, wrapped or wrong, odd
channels.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from textless.audio import containers
from textless.audio import io as audio
from textless.audio.io import AudioError, Parts, audio_lengths, audio_samples, read_audio, stream_audio

FORMS = {
    "wav": ("WAV", "PCM_16"),
    "wide.wav": ("WAVEX", "PCM_24"),
    "double.wav": ("WAV", "DOUBLE"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "aifc": ("AIFF", "FLOAT"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
UNCOMPRESSED = [name for name in FORMS if name not in ("flac", "ogg", "opus", "mp3")]
PICTURE = b"ID3\4\0\0\0\0\1\0" + bytes(128)  # a tag of 128 bytes


def tone(seconds: float = 0.5, hz: float = 300) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(round(seconds * 16_000)) / 16_000)).astype(np.float32)


def coded(kind: str, x: np.ndarray | None = None, rate: int = 16_000, **how) -> bytes:
    form, subtype = FORMS[kind]
    out, x = io.BytesIO(), tone() if x is None else x
    with sf.SoundFile(out, "w", rate, 1 if x.ndim == 1 else x.shape[1], subtype, format=form, **how) as f:
        f.write(x)
    return out.getvalue()


def save(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def with_bytes(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def read(path: Path) -> np.ndarray:
    """What all three ways of reading agree on."""
    whole = read_audio(path)
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(path, block=777))), whole)
    assert audio_samples(path) == len(whole)
    return whole


def error(path: Path) -> str:
    reasons = []
    for reading in (read_audio, lambda p: list(stream_audio(p))):
        with pytest.raises(AudioError) as caught:
            reading(path)
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1]
    assert reasons[0].startswith(f"{path}: ")
    assert "\n" not in reasons[0]
    return reasons[0]


# ---- joined files


@pytest.mark.parametrize("between", [b"", PICTURE, b"TAG" + bytes(125)])
@pytest.mark.parametrize("kind", FORMS)
def test_joined_files_are_read_one_after_the_other(tmp_path, kind, between):
    parts = [coded(kind, tone(0.5, 200)), coded(kind, tone(0.3, 400)), coded(kind, tone(0.4, 300))]
    alone = [read_audio(save(tmp_path / f"{n}.{kind}", part)) for n, part in enumerate(parts)]
    joined = read(save(tmp_path / f"all.{kind}", between.join(parts)))
    np.testing.assert_array_equal(joined, np.concatenate(alone))
    at = len(alone[0]) + 10  # within the second
    np.testing.assert_array_equal(read_audio(tmp_path / f"all.{kind}", offset=at, samples=3000), joined[at : at + 3000])
    np.testing.assert_array_equal(read_audio(tmp_path / f"all.{kind}", offset=100, samples=9000), joined[100:9100])


def test_joined_files_at_another_rate(tmp_path):
    rate, x = 22_050, np.random.default_rng(0).normal(0, 0.1, 60_000).astype(np.float32)
    for kind in ("wav", "ogg"):
        parts = [coded(kind, part, rate) for part in (x[:30_000], x[30_000:])]
        raw = np.concatenate([sf.read(io.BytesIO(part), dtype="float32")[0] for part in parts])
        whole = read(save(tmp_path / f"a.{kind}", b"".join(parts)))
        assert audio_lengths(tmp_path / f"a.{kind}") == (60_000, rate, len(whole))
        np.testing.assert_array_equal(whole, read_audio(save(tmp_path / "b.wav", coded("double.wav", raw, rate))))
        part = read_audio(tmp_path / f"a.{kind}", offset=30_000, samples=5000)
        np.testing.assert_allclose(part, whole[30_000:35_000], atol=1e-6)


def test_joined_files_of_two_formats_and_of_two_rates(tmp_path):
    parts = {kind: coded(kind) for kind in ("wav", "flac")}
    alone = [read(save(tmp_path / f"one.{kind}", part)) for kind, part in parts.items()]
    np.testing.assert_array_equal(read(save(tmp_path / "a.wav", b"".join(parts.values()))), np.concatenate(alone))
    assert "8000 and 16000 Hz" in error(save(tmp_path / "b.wav", coded("wav") + coded("wav", rate=8000)))


@pytest.mark.parametrize("first", ["wav", "aiff", "w64", "flac", "ogg"])
@pytest.mark.parametrize("second", ["wav", "aiff", "au", "caf", "sph", "w64", "flac", "ogg", "mp3"])
def test_joined_files_of_any_two_formats(tmp_path, first, second):
    between = PICTURE if (first, second) == ("flac", "mp3") else b""  # without its tag no mp3 is found in flac
    parts = coded(first, tone(0.5, 200)), coded(second, tone(0.4, 300))
    alone = read(save(tmp_path / f"1.{first}", parts[0])), read(save(tmp_path / f"2.{second}", parts[1]))
    np.testing.assert_array_equal(read(save(tmp_path / f"a.{first}", between.join(parts))), np.concatenate(alone))


def test_a_header_in_the_metadata_of_flac_is_no_other_file(tmp_path):
    data = coded("flac")
    foreign = b"riff" + coded("wav")[:200]  # as `flac --keep-foreign-metadata` keeps the header of a wav
    block = b"\x02" + len(foreign).to_bytes(3, "big") + foreign
    alone = read(save(tmp_path / "a.flac", data))
    np.testing.assert_array_equal(read(save(tmp_path / "b.flac", data[:42] + block + data[42:])), alone)


@pytest.mark.parametrize("kind", FORMS)
def test_joined_files_of_which_one_is_cut(tmp_path, kind):
    # the second is another, so that no half of one fits to a half of the other by chance
    first, second = coded(kind, tone(1.0)), coded(kind, tone(0.9, 250))
    save(tmp_path / f"a.{kind}", first + second[: len(second) * 2 // 3])
    error(tmp_path / f"a.{kind}")
    save(tmp_path / f"b.{kind}", first[: len(first) * 2 // 3] + second)
    error(tmp_path / f"b.{kind}")


def test_a_cut_end_behind_a_joined_file_names_what_is_there(tmp_path):
    data = coded("wav")
    assert "has 15000 of 16000 bytes" in error(save(tmp_path / "a.wav", data + data[:-1000]))
    assert "another file begins at byte 5000" in error(save(tmp_path / "b.wav", data[:5000] + data))
    assert "10000 bytes follow" in error(save(tmp_path / "c.wav", data[:10_000] + data))
    assert "checksum of the Ogg page" in error(save(tmp_path / "a.ogg", coded("ogg")[:-100] + coded("ogg")))


def test_an_ogg_page_that_is_damaged(tmp_path):
    data = coded("opus", tone(3))
    pages = [at for at in range(len(data)) if data[at : at + 5] == b"OggS\0"]
    assert f"checksum of the Ogg page at byte {pages[-1]}" in error(
        save(tmp_path / "a.opus", with_bytes(data, len(data) - 60, b"rot"))
    )


# ---- an mp3's frames are counted


def without_header(mp3: bytes) -> bytes:
    return mp3[mp3.index(mp3[:2], 100) :]


def test_joined_mp3_of_which_the_second_has_no_header(tmp_path):
    first, second = coded("mp3", tone(2)), without_header(coded("mp3", tone(3)))
    alone = len(read_audio(save(tmp_path / "second.mp3", second)))
    assert abs(alone - 48_000) < 1700  # the encoder's delay and padding are not known
    np.testing.assert_array_equal(
        read_audio(save(tmp_path / "a.mp3", first + second))[:32_000], read_audio(save(tmp_path / "b.mp3", first))
    )
    assert len(read_audio(tmp_path / "a.mp3")) == 32_000 + alone


@pytest.mark.parametrize("order", [1, -1])
def test_joined_mp3_without_headers_of_other_bit_rates(tmp_path, order):
    """libsndfile guesses the length by the first frame's rate: a third, or three times what is there."""
    parts = [
        without_header(coded("mp3", tone(3), bitrate_mode="CONSTANT", compression_level=level)) for level in (0.1, 0.9)
    ]
    assert len(parts[0]) > 2 * len(parts[1])
    data = b"".join(parts[::order])
    path = save(tmp_path / "a.mp3", data)
    guessed = sf.info(path).frames
    assert not 90_000 < guessed < 100_000
    assert 95_000 < len(read_audio(path)) < 98_500
    assert abs(audio_samples(path) - len(read_audio(path))) <= 1152


def test_an_mp3_is_known_by_its_frames(tmp_path):
    data = coded("mp3")
    np.testing.assert_array_equal(read(save(tmp_path / "a.dat", data)), read(save(tmp_path / "a.mp3", data)))
    np.testing.assert_array_equal(read(save(tmp_path / "b.mp3", PICTURE + data)), read(tmp_path / "a.mp3"))


# ---- lengths that are not known


SIZES = [0, 0xFFFF_FFFF, 0xFFFF_FFDB, 0x7FFF_F000, 0x8000_0000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM"])
def test_a_wav_that_does_not_know_its_length_is_read_to_the_end(tmp_path, subtype, size):
    out = io.BytesIO()
    with sf.SoundFile(out, "w", 16_000, 1, subtype, format="WAV") as f:
        f.write(tone())
    data, field = out.getvalue(), struct.pack("<I", size)
    at = data.index(b"data") + 4
    whole = read(save(tmp_path / "whole.wav", data))
    unknown = with_bytes(with_bytes(data, at, field), 4, field)
    np.testing.assert_array_equal(read(save(tmp_path / "a.wav", unknown)), whole)
    np.testing.assert_array_equal(read(save(tmp_path / "b.wav", unknown * 2)), np.tile(whole, 2))
    np.testing.assert_array_equal(
        read(save(tmp_path / "c.wav", with_bytes(data, at, field))), whole
    )  # the other size is right


@pytest.mark.parametrize("size", [16_001, 20_000, 3_000_000_000, 0x7FFF_F002, 0x7FFF_FFFE, 0xFFFF_0000])
def test_a_wav_that_states_more_than_is_there_is_cut(tmp_path, size):
    data = coded("wav")
    path = save(tmp_path / "a.wav", with_bytes(data, data.index(b"data") + 4, struct.pack("<I", size)))
    assert f"cut short (has 16000 of {size} bytes" in error(path)


def test_a_wav_that_states_less_than_is_there(tmp_path):
    data = coded("wav")
    path = save(tmp_path / "a.wav", with_bytes(data, data.index(b"data") + 4, struct.pack("<I", 2000)))
    assert "14000 bytes follow the sound that the header counts" in error(path)


def test_a_wav_without_samples_and_with_a_list(tmp_path):
    head = coded("wav", tone(0.1))
    head = with_bytes(head[: head.index(b"data") + 8], head.index(b"data") + 4, bytes(4))
    assert "has no samples" in error(save(tmp_path / "a.wav", head))
    assert "has no samples" in error(save(tmp_path / "b.wav", head + b"LIST" + struct.pack("<I", 4) + b"INFO"))


def test_chunks_behind_samples_of_an_odd_length(tmp_path):
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 16_000, 1, 8)
    chunk = b"LIST" + struct.pack("<I", 4) + b"abcd"
    samples = (np.arange(2001) % 256).astype(np.uint8).tobytes()
    for pad in (b"\0", b""):
        body = b"WAVE" + form + b"data" + struct.pack("<I", len(samples)) + samples + pad + chunk * 3000
        path = save(tmp_path / "a.wav", b"RIFF" + struct.pack("<I", len(body)) + body)
        assert len(read(path)) == 2001


def sparse(path: Path, header: bytes, samples: int, places: dict[int, np.ndarray]) -> Path:
    with open(path, "wb") as f:
        f.write(header)
        f.truncate(len(header) + 2 * samples)
        for at, x in places.items():
            f.seek(len(header) + 2 * at)
            f.write(x.tobytes())
    if os.stat(path).st_blocks * 512 > 1 << 24:
        pytest.skip("no sparse files here")
    return path


def test_a_wav_whose_sizes_wrapped(tmp_path):
    samples = (2 << 31) + 30 * 16_000  # two times 4 GiB and 30 s
    size = 2 * samples
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    header = (
        b"RIFF" + struct.pack("<I", (size + 36) % 2**32) + b"WAVE" + form + b"data" + struct.pack("<I", size % 2**32)
    )
    mark = (1000 * np.arange(1, 9)).astype("<i2")
    path = sparse(tmp_path / "a.wav", header, samples, {samples - 8: mark, 60 * 16_000: mark})
    assert audio_samples(path) == samples
    np.testing.assert_array_equal(read_audio(path, offset=samples - 8), mark / 32768)
    np.testing.assert_array_equal(read_audio(path, offset=60 * 16_000, samples=8), mark / 32768)
    with open(path, "ab") as f:
        f.write(b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert audio_samples(path) == samples
    with open(path, "r+b") as f:
        f.truncate((1 << 32) - 1000)  # cut within
    assert "bytes follow the sound that the header counts" in error(path)


def test_an_rf64_that_does_not_know_its_length(tmp_path):
    data = coded("rf64")
    whole, at = read(save(tmp_path / "whole.wav", data)), data.index(b"ds64") + 8
    for field in (bytes(24), b"\xff" * 24):
        np.testing.assert_array_equal(read(save(tmp_path / "a.wav", with_bytes(data, at, field))), whole)
    assert "cut short" in error(save(tmp_path / "b.wav", with_bytes(data, at + 8, struct.pack("<Q", 1 << 40))))


@pytest.mark.parametrize("size", [0, 8, 0xFFFF_FFFF])
@pytest.mark.parametrize("kind", ["aiff", "aifc"])
def test_an_aiff_that_does_not_know_its_length(tmp_path, kind, size):
    data, field = coded(kind), struct.pack(">I", size)
    whole, at = read(save(tmp_path / f"whole.{kind}", data)), data.index(b"SSND") + 4
    for unknown in (with_bytes(data, at, field), with_bytes(with_bytes(data, at, field), 4, field)):
        np.testing.assert_array_equal(read(save(tmp_path / f"a.{kind}", unknown)), whole)
        np.testing.assert_array_equal(read(save(tmp_path / f"b.{kind}", unknown * 2)), np.tile(whole, 2))


@pytest.mark.parametrize(
    ("kind", "mark", "field"), [("au", b".snd", b"\xff" * 4), ("au", b".snd", bytes(4)), ("caf", b"data", b"\xff" * 8)]
)
def test_au_and_caf_that_do_not_know_their_length(tmp_path, kind, mark, field):
    data = coded(kind)
    at = data.index(mark) + (8 if kind == "au" else 4)
    whole = read(save(tmp_path / f"whole.{kind}", data))
    np.testing.assert_array_equal(read(save(tmp_path / f"a.{kind}", with_bytes(data, at, field))), whole)


@pytest.mark.parametrize("kind", UNCOMPRESSED)
def test_uncompressed_files_that_are_cut(tmp_path, kind):
    data = coded(kind)
    assert len(read(save(tmp_path / f"a.{kind}", data))) == 8000
    for cut in (1, 2, 500, len(data) // 2):
        assert "cut short" in error(save(tmp_path / f"a.{kind}", data[:-cut]))


def flac_of(data: bytes, samples: int) -> bytes:
    (field,) = struct.unpack(">Q", data[18:26])
    return with_bytes(data, 18, struct.pack(">Q", field >> 36 << 36 | samples))


def test_a_flac_that_does_not_know_its_length(tmp_path):
    x = np.random.default_rng(0).normal(0, 0.1, 50_000)
    for n in (50_000, 4096, 100):  # the last frame is shorter, as long as the others, the only one
        data = coded("flac", x[:n])
        whole, piped = read(save(tmp_path / "whole.flac", data)), flac_of(data, 0)
        np.testing.assert_array_equal(read(save(tmp_path / "a.flac", piped)), whole)
        np.testing.assert_array_equal(read(save(tmp_path / "b.flac", PICTURE + piped + b"TAG" + bytes(125))), whole)
        np.testing.assert_array_equal(read(save(tmp_path / "c.flac", piped * 2)), np.tile(whole, 2))
        np.testing.assert_array_equal(read_audio(tmp_path / "a.flac", offset=50), whole[50:])
        for cut in (1, 7, len(piped) // 2):
            assert "cut short (its last frame is not whole)" in error(save(tmp_path / "d.flac", piped[:-cut]))
        np.testing.assert_array_equal(
            read(save(tmp_path / "e.flac", flac_of(data, n // 2))), whole
        )  # more than is stated
        assert "cut short" in error(save(tmp_path / "f.flac", flac_of(data, (1 << 36) - 1)))


# ---- rates, channels


@pytest.mark.parametrize("rate", [1, 7, 999, 1_000_001, 10**9])
@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "caf"])
def test_rates_that_no_recording_has(tmp_path, kind, rate):
    if kind == "aiff":
        rate = min(rate, 2**29)
    path = save(tmp_path / f"a.{kind}", coded(kind, rate=rate))
    assert f"sample rate of {rate} Hz" in error(path)
    with pytest.raises(AudioError, match="sample rate"):
        audio_samples(path)


@pytest.mark.parametrize("rate", [0, 1, -16_000, 10**9])
def test_rates_that_are_not_resampled_to(tmp_path, rate):
    path = save(tmp_path / "a.wav", coded("wav"))
    for reading in (read_audio, audio_samples, lambda p, sample_rate: list(stream_audio(p, sample_rate=sample_rate))):
        with pytest.raises(AudioError, match=f"cannot resample to {rate} Hz"):
            reading(path, sample_rate=rate)


def test_many_channels_are_read_in_smaller_blocks(tmp_path):
    x = tone(2)
    path = save(tmp_path / "a.wav", coded("wav", np.stack([x] * 256, axis=1)))
    tracemalloc.start()
    y = read_audio(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(y, x, atol=1e-4)
    assert peak < 24 << 20  # 33 MB for all channels at once


def stereo(path: Path, left: np.ndarray, right: np.ndarray, **how) -> Path:
    return save(path, coded(path.suffix[1:], np.stack([left, right], axis=1), **how))


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_of_channels_that_cancel_each_other_one_is_taken(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(audio, "BLOCK", 5000)
    noise = np.random.default_rng(0).normal(0, 1e-3, (2, 32_000)).astype(np.float32)
    path = stereo(tmp_path / f"a.{kind}", tone(2) + noise[0], -0.9 * tone(2) + noise[1])
    left = sf.read(path, dtype="float32")[0][:, 0]
    with pytest.warns(UserWarning, match=rf"a\.{kind}: its channels cancel each other"):
        whole = read(path)
    np.testing.assert_allclose(whole, left, atol=1e-6)
    with pytest.warns(UserWarning, match="cancel"):
        part = read_audio(path, offset=17_500, samples=4000)  # not where a block begins
    np.testing.assert_array_equal(part, whole[17_500:21_500])


def test_channels_that_do_not_cancel_are_averaged_in_silence(tmp_path):
    rng, x = np.random.default_rng(0), tone(1)
    with warnings.catch_warnings(action="error"):
        for left, right in ((x, 0 * x), (0 * x, 0 * x), (x, x), (x, -0.3 * x), tuple(rng.normal(0, 0.1, (2, 16_000)))):
            y = read_audio(stereo(tmp_path / "a.wav", left, right))
            np.testing.assert_allclose(y, (left + right) / 2, atol=1e-4)
        many = rng.normal(0, 0.1, (16_000, 64))
        np.testing.assert_allclose(
            read_audio(save(tmp_path / "b.wav", coded("wav", many))), many.mean(axis=1), atol=1e-4
        )


def test_where_the_first_channel_is_silent_another_is_taken(tmp_path):
    x = tone(1)
    path = save(tmp_path / "a.wav", coded("wav", np.stack([0 * x, x, -x], axis=1)))
    with pytest.warns(UserWarning, match="cancel"):
        np.testing.assert_allclose(read_audio(path), x, atol=1e-4)


# ---- files that are none


def test_a_pipe_and_a_name_with_a_nul(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    assert "is not a file but a pipe" in error(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="cannot be read"):
        read_audio("a\0.wav")


def test_a_name_that_is_not_utf_8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    try:
        save(Path(path), coded("wav"))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert len(read(Path(path))) == 8000


@pytest.mark.parametrize("kind", FORMS)
def test_headers_full_of_ones_or_zeros(tmp_path, kind):
    """Nothing but an AudioError, and no more memory than the file justifies."""
    data = coded(kind, tone(0.2))
    tracemalloc.start()
    for at in range(0, 96, 4):
        for value in (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"):
            path = save(tmp_path / f"a.{kind}", with_bytes(data, at, value))
            with contextlib.suppress(AudioError):
                assert len(read_audio(path)) < 20 * 16_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_chunks_without_end(tmp_path):
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    path = save(tmp_path / "a.wav", b"RIFF" + struct.pack("<I", 0) + b"WAVE" + form + b"JUNK\0\0\0\0" * 20_000)
    assert "more than 10000 chunks" in error(path)


# ---- parts of one file


@pytest.mark.parametrize("kind", ["mp3", "ogg", "opus", "flac"])
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_parts_are_what_each_gives_alone(tmp_path, monkeypatch, kind, rate):
    monkeypatch.setattr(audio, "BLOCK", 7000)
    x = np.random.default_rng(0).normal(0, 0.1, 5 * rate).astype(np.float32)
    path = save(tmp_path / f"a.{kind}", coded(kind, x, rate))
    parts = Parts(path)
    for offset, samples in [
        (0, 100),
        (100, 8000),
        (4000, 8000),
        (4000, 3),
        (30_000, 9000),
        (10, 50),
        (79_990, 10),
        (79_000, 1050),
    ]:
        np.testing.assert_array_equal(parts.read(offset, samples), read_audio(path, offset=offset, samples=samples))
    np.testing.assert_array_equal(parts.read(40_000), read_audio(path, offset=40_000))


def test_parts_in_order_are_decoded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK", 1000)
    path = save(tmp_path / "a.mp3", coded("mp3", tone(4)))
    read, original = [], sf.SoundFile.read
    monkeypatch.setattr(sf.SoundFile, "read", lambda self, n, **how: read.append(n) or original(self, n, **how))
    parts = Parts(path)
    for offset in range(0, 60_000, 500):
        assert len(parts.read(offset, 2000)) == 2000
        assert sum(map(len, parts._held)) <= 4000
    assert sum(read) == 62_000


def test_parts_of_a_file_with_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK", 1000)
    data = coded("mp3", tone(4))
    path = save(tmp_path / "a.mp3", data[: len(data) // 2])
    read, original = [], sf.SoundFile.read
    parts = Parts(path)
    assert len(parts.read(0, 1000)) == 1000
    for offset in (20_000, 40_000, 100_000):
        for reading in (lambda *part: read_audio(path, offset=part[0], samples=part[1]), parts.read):
            with pytest.raises(AudioError, match=r"a\.mp3: cut short"):
                reading(offset, 20_000)
    monkeypatch.setattr(sf.SoundFile, "read", lambda self, n, **how: read.append(n) or original(self, n, **how))
    with pytest.raises(AudioError, match="cut short"):
        parts.read(50_000, 1000)
    assert not read  # what is broken is not decoded for each part again
    assert len(parts.read(0, 1000)) == 1000


def test_parts_beyond_the_end(tmp_path):
    path = save(tmp_path / "a.ogg", coded("ogg", tone(1)))
    parts = Parts(path)
    for offset, samples in ((8000, 9000), (16_000, 10), (10**9, 5), (-1, 5), (0, 0)):
        with pytest.raises(AudioError) as alone:
            read_audio(path, offset=offset, samples=samples)
        with pytest.raises(AudioError) as behind:
            parts.read(offset, samples)
        assert str(behind.value) == str(alone.value)


def test_a_file_that_is_surveyed_once_is_surveyed_again_when_it_is_another(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "FRESH", -(1 << 62))  # as if it had been written long ago
    surveys, original = [], containers.find_streams
    monkeypatch.setattr(audio, "find_streams", lambda *of: surveys.append(of) or original(*of))
    path = save(tmp_path / "a.ogg", coded("ogg"))
    audio._surveyed.cache_clear()
    for _ in range(3):
        assert len(read_audio(path)) == audio_samples(path) == 8000
    assert len(surveys) == 1
    save(path, coded("ogg", tone(0.7)))
    assert len(read_audio(path)) == audio_samples(path) == 11_200
    assert len(surveys) == 2
