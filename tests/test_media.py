from __future__ import annotations

import io
import itertools
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr.data import audio
from asr.errors import DataError
from asr.recordings import media
from asr.recordings.inputs import Part
from asr.recordings.media import Stream, open_array, open_stream
from asr.sound import ffmpeg, recording
from tests.builders import Wave, dominant_hz, noise, sine, sphere_bytes, without_length, write_wav


def whole(stream: Stream) -> Wave:
    with stream:
        return np.concatenate(list(stream.blocks()))


def message(source: object, part: Part = Part(), rate_hz: int = 16000, name: str = "") -> str:
    """The error of opening and reading, in one line, without the name in front."""
    with pytest.raises(DataError) as caught:
        whole(open_stream(source, rate_hz, part, name))
    where = str(source) if isinstance(source, Path) else name
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{where}: ")
    return str(caught.value).removeprefix(f"{where}: ")


def stereo(path: Path, rate_hz: int = 16000) -> tuple[Path, np.ndarray]:
    channels = np.stack([noise(1.5, rate_hz, seed=k) for k in range(2)], axis=1)
    soundfile.write(path, channels, rate_hz, subtype="FLOAT")
    return path, channels.astype(np.float32)


def stdin_of(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def pipe_wav(wave_n: Wave, size: int = 0xFFFFFFFF) -> bytes:
    """A WAV file as a program writes it to a pipe: sizes unknown."""
    content = bytearray(wav_bytes(wave_n))
    content[4:8] = content[40:44] = size.to_bytes(4, "little")
    return bytes(content)


def wav_bytes(wave_n: Wave, rate_hz: int = 16000, **options: str) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, wave_n, rate_hz, format=options.pop("format", "WAV"), **options)
    return content.getvalue()


# Samples: what comes out is what audio.load and resampling of the whole give


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".sph", ".mp3", ".ogg"])
def test_a_file_is_what_audio_load_gives(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    if suffix == ".sph":
        path.write_bytes(sphere_bytes(noise(25, seed=1)))
    else:
        soundfile.write(path, noise(25, seed=1), 16000)
    stream = open_stream(path, 16000)
    assert (stream.rate_hz, stream.notes) == (16000, ())
    # A decoder that adds up in floats may differ in the last bit where a block begins.
    np.testing.assert_allclose(whole(stream), audio.load(path)[0], rtol=0, atol=1e-7 if suffix == ".mp3" else 0)


@given(block_s=st.floats(0.01, 2), start=st.integers(0, 20000), count=st.integers(1, 20000))
def test_any_block_size_gives_the_samples_of_the_part(tmp_path_factory, block_s, start, count):
    path = tmp_path_factory.getbasetemp() / "blocks.flac"
    if not path.exists():
        write_wav(path, noise(3, seed=3))
    wave_n = audio.load(path)[0]
    part = Part(start_s=start / 16000, end_s=(start + count) / 16000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "BLOCK_S", block_s)
        with open_stream(path, 16000, part) as stream:
            blocks = list(stream.blocks())
    assert {len(b) for b in blocks[:-1]} <= {round(block_s * 16000)}
    np.testing.assert_array_equal(np.concatenate(blocks), wave_n[start : start + count])


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 8000)])
@pytest.mark.parametrize("duration_s", [0.003, 1.0, 27.3])
def test_resampling_block_by_block_is_resampling_the_whole(tmp_path, from_hz, to_hz, duration_s):
    path = write_wav(tmp_path / "x.wav", noise(duration_s, from_hz, seed=2), from_hz)
    stream = open_stream(path, to_hz)
    assert stream.notes == (f"resampled from {from_hz} to {to_hz} Hz",)
    with stream:
        blocks = list(stream.blocks())
    assert [len(b) for b in blocks[:-1]] == [10 * to_hz] * (len(blocks) - 1)
    expected = audio.resampled(audio.load(path)[0], from_hz, to_hz)
    assert len(np.concatenate(blocks)) == len(expected)
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=0, atol=1e-6)
    assert stream.duration_s == pytest.approx(duration_s, abs=1 / to_hz)


def test_channels_are_mixed_down_or_chosen(tmp_path):
    path, channels = stereo(tmp_path / "x.wav")
    mixed = open_stream(path, 16000)
    assert mixed.notes == ("2 channels mixed down",)
    np.testing.assert_allclose(whole(mixed), channels.mean(axis=1), atol=1e-7)
    second = open_stream(path, 16000, Part(channel=2, start_s=0.5, end_s=1))
    assert second.notes == ("channel 2 of 2",)
    np.testing.assert_array_equal(whole(second), channels[8000:16000, 1])
    assert message(path, Part(channel=3)) == "channel 3 is wanted, the audio has 2"
    with pytest.raises(DataError, match="channel 0 is wanted; channels count from 1"):
        Part(channel=0)


def test_an_end_that_was_rounded_is_the_end_of_the_file(tmp_path):
    path = write_wav(tmp_path / "x.wav", noise(1.2345))
    for end_s in (1.22, 1.2344, 1.25):
        assert len(whole(open_stream(path, 16000, Part(end_s=end_s)))) == round(1.2345 * 16000)
    assert len(whole(open_stream(path, 16000, Part(end_s=1.2)))) == 19200


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part(start_s=1.5), "the part starts at 1.50 s, the audio ends at 1.00 s"),
        (Part(start_s=1.0), "the part starts at 1.00 s, the audio ends at 1.00 s"),
        (Part(end_s=1.5), "the part ends at 1.50 s, the audio at 1.00 s"),
        (Part(end_s=1e-6), "the part is shorter than a sample"),
    ],
)
def test_a_part_that_is_not_there_is_an_error(tmp_path, part, expected):
    assert message(write_wav(tmp_path / "x.wav"), part) == expected


# Inputs that are no plain file


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF024, 0])
def test_a_wav_that_was_written_to_a_pipe_is_read_from_standard_input(monkeypatch, size):
    wave_n = np.round(noise(12) * 32768) / 32768
    stdin_of(monkeypatch, pipe_wav(wave_n, size))
    stream = open_stream(None, 16000, Part(start_s=1.0))
    np.testing.assert_array_equal(whole(stream), wave_n[16000:])


def test_a_long_standard_input_goes_through_a_file_that_is_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(media, "_SPOOL_BYTES", 10_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stdin_of(monkeypatch, wav_bytes(noise(1)))
    stream = open_stream(None, 16000)
    assert list(tmp_path.iterdir())
    assert len(whole(stream)) == 16000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("limit", "free", "expected"),
    [
        (20_000, 10**18, "more than 0 GiB from a pipe, which is days of audio; write it to a file, and give that"),
        (10**18, 10**6, "the disk of {} is nearly full; make room, or set TMPDIR to a folder on another disk"),
    ],
)
def test_a_standard_input_without_end_does_not_fill_the_disk(monkeypatch, tmp_path, limit, free, expected):
    monkeypatch.setattr(media, "_SPOOL_BYTES", 10_000)
    monkeypatch.setattr(media, "PIPED_AUDIO", limit)
    monkeypatch.setattr(media.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stdin_of(monkeypatch, wav_bytes(noise(1)))
    assert message(None, name="stdin") == expected.format(tmp_path)
    assert not list(tmp_path.iterdir())


def test_standard_input_without_audio_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr("asr.sound.ffmpeg.available", lambda: None)
    stdin_of(monkeypatch, b"")
    assert message(None, name="stdin") == "is empty (0 bytes)"
    stdin_of(monkeypatch, b"hello, world\n" * 100)
    assert message(None, name="stdin").startswith("not audio that can be read (")
    monkeypatch.setattr(sys, "stdin", None)
    assert message(None, name="stdin") == "no audio comes in: pipe a file into it (… < a.wav)"


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_such_a_wav_is_read_as_a_file_too(tmp_path, size):
    wave_n = noise(25)
    path = tmp_path / "killed.wav"
    path.write_bytes(pipe_wav(wave_n, size))
    expected = whole(open_stream(wav_bytes(wave_n), 16000))
    np.testing.assert_array_equal(whole(open_stream(path, 16000)), expected)
    part = whole(open_stream(path, 16000, Part(start_s=12.5, end_s=24)))
    np.testing.assert_array_equal(part, expected[200_000:384_000])


def test_a_wav_without_samples_but_with_something_after_them_has_none(tmp_path):
    content = bytearray(wav_bytes(noise(0.1)[:0])) + b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    content[4:8] = (len(content) - 8).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    assert message(tmp_path / "a.wav") == "the audio has no samples"


@pytest.mark.parametrize("seconds", [0.5, 35.0])
def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path, seconds):
    wave_n = noise(seconds)
    soundfile.write(tmp_path / "whole.flac", wave_n, 16000)
    path = tmp_path / "piped.flac"
    soundfile.write(path, wave_n, 16000)
    content = without_length(path).read_bytes()
    expected = whole(open_stream(tmp_path / "whole.flac", 16000))
    stream = open_stream(path, 16000)
    np.testing.assert_array_equal(whole(stream), expected)
    assert stream.duration_s == seconds
    np.testing.assert_array_equal(whole(open_stream(content, 16000)), expected)
    part = whole(open_stream(path, 16000, Part(start_s=seconds / 2)))
    np.testing.assert_array_equal(part, expected[len(expected) // 2 :])
    assert message(path, Part(start_s=seconds + 1)).startswith("the part starts at")


@pytest.mark.parametrize(
    ("start_s", "end_s"),
    [(0.5, 0.5), (0.5, 0.2), (-1, None), (float("nan"), None), (0, float("nan")), (0, float("inf")), (1e305, None)],
)
def test_a_part_that_no_recording_has_is_refused(start_s, end_s):
    with pytest.raises(DataError, match=r"a part from .* s to .*; expected seconds from the start of the file"):
        Part(start_s=start_s, end_s=end_s)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_is_read_to_its_end(tmp_path):
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(pipe_wav(noise(2))))
    writer.start()
    assert len(whole(open_stream(pipe, 16000))) == 32000
    writer.join()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_that_nobody_named_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(DataError, match=r"pipe.wav: is a pipe or a device, expected an audio file"):
        open_stream(tmp_path / "pipe.wav", 16000, pipes=False)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
def test_the_content_of_a_file_is_read_as_the_file(format):
    content = wav_bytes(noise(1, 8000), 8000, format=format)
    stream = open_stream(content, 16000, name="upload")
    assert len(whole(stream)) == 16000
    assert stream.duration_s == 1.0


@pytest.mark.parametrize(
    ("dtype", "scale", "middle"), [("int16", 32768, 0), ("int32", 2**31, 0), ("uint8", 128, 128), ("float64", 1, 0)]
)
def test_an_array_of_any_sample_type_is_scaled_to_one(dtype, scale, middle):
    wave_n = np.round(noise(1, amplitude=0.9) * 128) / 128
    array = (wave_n * scale + middle).astype(dtype)
    np.testing.assert_array_equal(whole(open_array(array, 16000, 16000)), wave_n)
    both = np.stack([array, np.full_like(array, middle)], axis=1)
    np.testing.assert_allclose(whole(open_array(both, 16000, 16000)), wave_n / 2)
    np.testing.assert_array_equal(whole(open_array(both, 16000, 16000, Part(1, 0.5))), wave_n[8000:])


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.zeros((2, 16000)), "channels first? expected (n, channels), so give samples.T"),
        (np.zeros((1, 16000)), "channels first? expected (n, channels), so give samples.T"),
        (np.zeros((2, 2, 16000)), "samples of shape (2, 2, 16000); expected (n,) or (n, channels)"),
        (np.float32(0.5), "samples of shape (); expected (n,) or (n, channels)"),
        (np.zeros(0), "the array has no samples"),
        ([0.0, float("nan")], "the array holds values that are not finite numbers (NaN or infinity)"),
        ([0.0, float("inf")], "the array holds values that are not finite numbers (NaN or infinity)"),
        ([0, 1], "samples of type int64; expected int16, int32, uint8, or float in [-1, 1]"),
        (np.zeros(4, complex), "samples of type complex128; expected int16, int32, uint8, or float in [-1, 1]"),
        ([1000.0, -12345.0], "floats up to 12345; expected [-1, 1]: divide 16-bit values by 32768"),
        ([[0.0], [0.0, 0.1]], "not an array of samples ("),
        (["a"], "samples of type <U1; expected int16"),
    ],
)
def test_an_array_that_holds_no_samples_is_refused(samples, expected):
    with pytest.raises(DataError) as caught:
        open_array(samples, 16000, 16000, name="call 7")
    assert str(caught.value).startswith("call 7: ")
    assert expected in str(caught.value)


def test_an_array_at_half_a_hertz_or_none_is_refused():
    for rate in (0, -1, 16000.5, float("nan"), "16000", None):
        with pytest.raises(DataError, match=r"a sample rate of .* Hz"):
            open_array(np.zeros(100), rate, 16000)


# Damage


def test_a_file_that_is_missing_empty_or_a_folder_is_an_error(tmp_path):
    assert "no such file" in message(tmp_path / "none.wav")
    assert "no such file" in message(tmp_path / "none.mp4")
    (tmp_path / "empty.wav").touch()
    assert message(tmp_path / "empty.wav") == "the file is empty (0 bytes)"
    assert message(tmp_path) == "is a folder, expected an audio file"
    with pytest.raises(DataError, match="the name is impossible"):
        open_stream(tmp_path / "a\0b.wav", 16000)


def test_a_header_without_samples_is_an_error(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(0), 16000)
    assert message(tmp_path / "x.wav") == "the audio has no samples"


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".sph"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_file_that_was_cut_gives_what_it_holds_and_says_so(tmp_path, suffix, as_bytes):
    path = tmp_path / f"x{suffix}"
    content = sphere_bytes(noise(30)) if suffix == ".sph" else wav_bytes(noise(30), format=suffix[1:].upper())
    path.write_bytes(content[: len(content) * 3 // 4])
    stream = open_stream(path.read_bytes() if as_bytes else path, 16000, name="upload")
    wave_n = whole(stream)
    expected_n = whole(open_stream(content, 16000))
    assert 22 * 16000 < len(wave_n) < 23 * 16000
    np.testing.assert_array_equal(wave_n, expected_n[: len(wave_n)])
    assert stream.truncated.startswith("truncated")
    part = open_stream(path, 16000, Part(start_s=1, end_s=2))
    np.testing.assert_array_equal(whole(part), expected_n[16000:32000])
    assert message(path, Part(start_s=29)).startswith("truncated")


def test_a_value_that_is_no_number_is_an_error_with_its_place(tmp_path):
    wave_n = noise(25)
    wave_n[16000 * 22] = np.nan
    soundfile.write(tmp_path / "x.wav", wave_n, 16000, subtype="FLOAT")
    assert message(tmp_path / "x.wav") == "sample 352,000 is not a finite number; the file is damaged, write it again"
    assert message(tmp_path / "x.wav", Part(start_s=21)).startswith("sample 352,000 is not a finite number")
    assert len(whole(open_stream(tmp_path / "x.wav", 16000, Part(end_s=22)))) == 22 * 16000


def test_a_rate_that_no_speech_has_is_an_error(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 7)
    assert message(tmp_path / "x.wav").startswith("its header says 7 Hz")


def test_what_is_no_audio_is_an_error_that_says_what_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.sound.ffmpeg.available", lambda: None)
    (tmp_path / "x.txt").write_text("hello\n" * 100)
    (tmp_path / "x.raw").write_bytes(bytes(1000))
    readable = "; WAV, FLAC, SPHERE, MP3 and Ogg are, most others where ffmpeg is installed (it is not)"
    assert message(tmp_path / "x.txt").startswith("not audio that can be read (")
    assert message(tmp_path / "x.txt").endswith(readable)
    assert message(tmp_path / "x.raw") == (
        "samples without a header: their rate and format are not known; make a WAV of them, for example "
        "sox -t raw -r 16000 -e signed -b 16 -c 1 x.raw OUT.wav"
    )
    (tmp_path / "y.raw").write_bytes(wav_bytes(noise(1)))  # only the name is wrong
    assert len(whole(open_stream(tmp_path / "y.raw", 16000))) == 16000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "https://example.org/a.wav",
            "is an address, expected a file: nothing is downloaded here; fetch it first "
            "(curl -LO https://example.org/a.wav)",
        ),
        ("file:///tmp/a.wav", "is an address, expected a file's name: leave file:// away"),
    ],
)
def test_an_address_is_an_error_that_says_what_to_do(name, expected):
    assert message(Path(name)) == expected


def test_closing_twice_is_fine(tmp_path):
    stream = open_stream(write_wav(tmp_path / "x.wav"), 16000)
    assert len(list(stream.blocks())) == 1
    stream.close()
    stream.close()


@pytest.mark.parametrize("rate_hz", [16000, 48000])
def test_a_long_file_is_never_held_whole(tmp_path, rate_hz):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", rate_hz, 2) as file:
        for _ in range(6):
            file.write(np.zeros((60 * rate_hz, 2), np.int16))
    tracemalloc.start()
    with open_stream(path, 16000) as stream:
        count = sum(len(block) for block in stream.blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 360 * 16000
    assert peak < 4 * media.BLOCK_S * rate_hz * 2 * 4  # 360 s are nine times as much


# ffmpeg: a script in its place shows the ways to fail; a real one is used where there is one


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program ``ffmpeg`` that is alone on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nimport sys, time\nout = sys.stdout.buffer\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


posix = pytest.mark.skipif(os.name != "posix", reason="the stand-in for ffmpeg is a script")


def float_wav(wave_n: Wave, rate_hz: int = 16000) -> str:
    """A program's line that writes a WAV as ffmpeg does to a pipe."""
    return f"out.write({wav_bytes(wave_n, rate_hz, subtype='FLOAT')!r}); out.flush()"


@posix
def test_without_ffmpeg_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "x.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    assert message(tmp_path / "x.m4a") == (
        ".m4a is read through ffmpeg, which is not on the PATH; install ffmpeg (apt install ffmpeg, "
        "brew install ffmpeg, winget install ffmpeg), or convert the file to WAV"
    )
    # What only has the wrong name is read all the same.
    shutil.copy(write_wav(tmp_path / "x.wav"), tmp_path / "y.mp4")
    assert len(whole(open_stream(tmp_path / "y.mp4", 16000))) == 16000


@posix
def test_what_ffmpeg_writes_is_read_to_its_end(tmp_path, monkeypatch):
    wave_n = noise(1)
    fake(tmp_path, monkeypatch, "print('  Duration: 00:00:01.02, start', file=sys.stderr)\n" + float_wav(wave_n))
    (tmp_path / "-x %d.mp4").write_bytes(b"video")
    stream = open_stream(tmp_path / "-x %d.mp4", 8000, Part(start_s=0.5))
    assert stream.notes == ("decoded by ffmpeg", "resampled from 16000 to 8000 Hz")
    np.testing.assert_allclose(whole(stream), audio.resampled(wave_n[8000:], 16000, 8000), atol=1e-6)
    assert stream.duration_s == 0.5


@posix
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("sys.exit('[in#0 @ 0x1] [error] moov atom not found')", "ffmpeg cannot decode it (moov atom not found)"),
        ("sys.exit('something else')", "ffmpeg cannot decode it (something else)"),
        ("sys.exit(3)", "ffmpeg cannot decode it (it says nothing)"),
        (
            "sys.exit(\"[fatal] Stream map '' matches no streams.\")",
            "holds no sound: ffmpeg finds no audio track in it (a video without sound?)",
        ),
        ("pass", "ffmpeg finds nothing in it that can be decoded"),
        (
            "sys.exit('[error] x: partial file')",
            "truncated: ffmpeg meets the end of the file too early; fetch it again",
        ),
        (float_wav(noise(0.1)[:0]), "the audio has no samples"),
    ],
)
def test_what_ffmpeg_cannot_decode_is_an_error_in_one_line(tmp_path, monkeypatch, script, expected):
    fake(tmp_path, monkeypatch, script)
    (tmp_path / "x.mp4").write_bytes(b"video")
    assert message(tmp_path / "x.mp4") == expected


@posix
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "print('[error] stream 0, offset 0xeb8c: partial file', file=sys.stderr)\n" + float_wav(noise(1)),
            "truncated: ffmpeg meets the end of the file too early; fetch it again",
        ),
        (
            float_wav(noise(1)) + "\nsys.exit('[error] broken')",
            "truncated or damaged: ffmpeg cannot decode all of it (broken); fetch it again",
        ),
        (
            "sys.stderr.write('[warning] a packet is odd\\n' * 60_000)\n"
            + float_wav(noise(1))
            + "\nsys.exit('[error] stream 0, offset 0xeb8c: partial file')",
            "truncated: ffmpeg meets the end of the file too early; fetch it again",
        ),
    ],
    # The scripts hold samples: as names they would be too long for the environment of the fake ffmpeg.
    ids=["cut", "broken", "many warnings"],
)
def test_what_ffmpeg_decodes_of_a_cut_file_is_given(tmp_path, monkeypatch, script, expected):
    fake(tmp_path, monkeypatch, script)
    (tmp_path / "x.mp4").write_bytes(b"video")
    stream = open_stream(tmp_path / "x.mp4", 16000)
    np.testing.assert_array_equal(whole(stream), noise(1))
    assert stream.truncated == expected


@posix
def test_names_and_tags_are_not_taken_for_what_is_wrong(tmp_path, monkeypatch):
    said = (
        "[info] Input #0, from 'file:{path}':\n[info]     comment : partial file, ended prematurely\n"
        "[info]             : Duration: 00:00:09.00\n[info]   Duration: 00:00:01.00, start: 0\n"
        "[warning] {path}: odd\n"
    )
    folder = tmp_path / "partial file" / "matches no streams"
    folder.mkdir(parents=True)
    path = folder / "x.mp4"
    path.write_bytes(b"video")
    fake(
        tmp_path,
        monkeypatch,
        f"sys.stderr.write({said.format(path=path)!r})\nsys.stderr.flush()\n" + float_wav(noise(1)),
    )
    stream = open_stream(path, 16000)
    assert len(whole(stream)) == 16000


@posix
def test_reading_what_ffmpeg_says_does_not_move_the_place_where_it_writes_on(tmp_path, monkeypatch):
    script = "import os\nsys.stderr.write('x' * 1_200_000)\nsys.stderr.flush()\n"
    # The first samples are there when the messages have been read.
    script += float_wav(noise(1)) + "\nout.flush()\ntime.sleep(0.3)\n"
    script += "sys.exit(os.lseek(2, 0, os.SEEK_CUR) != 1_200_000)"
    fake(tmp_path, monkeypatch, script)
    (tmp_path / "x.mp4").write_bytes(b"video")
    assert len(whole(open_stream(tmp_path / "x.mp4", 16000))) == 16000


@posix
def test_a_part_beyond_the_end_of_what_ffmpeg_decodes_is_an_error(tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, float_wav(noise(1)))
    (tmp_path / "x.mp4").write_bytes(b"video")
    assert message(tmp_path / "x.mp4", Part(start_s=2)) == "the part starts at 2.00 s, the audio ends at 1.00 s"
    assert message(tmp_path / "x.mp4", Part(end_s=2)) == "the part ends at 2.00 s, the audio at 1.00 s"
    assert len(whole(open_stream(tmp_path / "x.mp4", 16000, Part(end_s=1.01)))) == 16000


@posix
def test_closing_ends_an_ffmpeg_that_goes_on(tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, float_wav(noise(20)) + "\nwhile True: out.write(bytes(100000))")
    (tmp_path / "x.mp4").write_bytes(b"video")
    with open_stream(tmp_path / "x.mp4", 16000) as stream:
        next(stream.blocks())
        process = stream._recording._decoder._process
        assert process.poll() is None
    assert process.poll() is not None
    assert len(whole(open_stream(tmp_path / "x.mp4", 16000, Part(end_s=15)))) == 15 * 16000


def convert(program: str, path: Path, *options: str) -> Path:
    """One second at 440 Hz, then one at 880 Hz, in the format of the suffix."""
    wave_n = np.concatenate([sine(3, 440), sine(3, 880)])
    source = write_wav(path.with_name("source.wav"), wave_n)
    subprocess.run([program, "-loglevel", "error", "-y", "-i", source, *options, path], check=True)
    return path


@pytest.mark.parametrize("name", ["x.m4a", "x.mp4", "x.aac", "x.webm", "x.mka", "x.wma", "x.mov", "x.ac3"])
def test_other_formats_are_decoded_by_ffmpeg(tmp_path, real_ffmpeg, name):
    path = convert(real_ffmpeg, tmp_path / name, "-ac", "2", "-ar", "48000")
    stream = open_stream(path, 16000)
    assert stream.notes == ("decoded by ffmpeg", "2 channels mixed down", "resampled from 48000 to 16000 Hz")
    wave_n = whole(stream)
    assert len(wave_n) == pytest.approx(6 * 16000, abs=0.1 * 16000)
    part_n = whole(open_stream(path, 16000, Part(channel=1, start_s=4.0, end_s=5.0)))
    assert len(part_n) == 16000
    assert dominant_hz(part_n, 16000) == pytest.approx(880, abs=2)


def test_content_that_needs_ffmpeg_is_read_from_bytes_and_standard_input(tmp_path, real_ffmpeg, monkeypatch):
    content = convert(real_ffmpeg, tmp_path / "x.mp4").read_bytes()
    kept = set(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    from_bytes = whole(open_stream(content, 16000))
    stdin_of(monkeypatch, content)
    np.testing.assert_array_equal(whole(open_stream(None, 16000)), from_bytes)
    assert set(tmp_path.iterdir()) == kept


def test_a_video_without_sound_and_a_cut_file_are_told(tmp_path, real_ffmpeg):
    silent = tmp_path / "silent.mp4"
    picture = ["-f", "lavfi", "-i", "testsrc=duration=1:size=64x64:rate=5"]
    subprocess.run([real_ffmpeg, "-loglevel", "error", *picture, silent], check=True)
    assert message(silent).startswith("holds no sound")
    for name, options in (("x.mp4", ["-movflags", "+faststart"]), ("x.webm", []), ("y.mp4", [])):
        path = convert(real_ffmpeg, tmp_path / name, *options)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        if name == "y.mp4":  # what it is stands at its end
            assert message(path).startswith("ffmpeg cannot decode it (moov")
            continue
        stream = open_stream(path, 16000)
        assert 16000 < len(whole(stream)) < 5 * 16000
        assert stream.truncated.startswith("truncated")
    (tmp_path / "x.mov").write_text("this is no film\n" * 50)
    assert message(tmp_path / "x.mov").startswith(("ffmpeg cannot decode it (", "not audio that can be read"))


def test_no_name_is_an_option_or_an_address_for_ffmpeg(tmp_path, real_ffmpeg, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-y.m4a").write_bytes(convert(real_ffmpeg, tmp_path / "x.m4a").read_bytes())
    assert len(whole(open_stream("-y.m4a", 16000))) > 90000


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S" '
    'profiles="urn:mpeg:dash:profile:isoff-live:2011"><Period><AdaptationSet mimeType="audio/mp4"><Representation '
    'id="0" bandwidth="1000"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)


@pytest.mark.parametrize("suffix", ["m4a", "mov", "wav", "mp3", "txt"])
@pytest.mark.parametrize("text", [HLS, DASH, "ffconcat version 1.0\nfile {}\n"], ids=["hls", "dash", "concat"])
def test_a_list_that_names_another_file_is_refused_whatever_its_suffix(
    tmp_path, real_ffmpeg, monkeypatch, text, suffix
):
    monkeypatch.chdir(tmp_path)
    convert(real_ffmpeg, tmp_path / ("other.ts" if text is HLS else "other.m4a"))
    path = tmp_path / f"list.{suffix}"
    path.write_text(text.format("other.ts" if text is HLS else "other.m4a"))
    assert "a list of other files" in message(path) or message(path).startswith(
        "ffmpeg cannot decode it (Not detecting"
    )


@posix
def test_an_ffmpeg_that_gives_nothing_is_stopped_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.sound.ffmpeg.FFMPEG_QUIET_S", 0.5)
    (tmp_path / "x.mp4").write_bytes(b"video")
    fake(tmp_path, monkeypatch, "time.sleep(60)")
    began = time.perf_counter()
    assert message(tmp_path / "x.mp4") == "ffmpeg cannot decode it (no sound in 0.5 s, so it was stopped)"
    assert time.perf_counter() - began < 10


@posix
@pytest.mark.parametrize("then", ["time.sleep(60)", "import os; os.close(1); time.sleep(60)"], ids=["open", "closed"])
def test_what_ffmpeg_gave_before_it_went_quiet_is_kept(tmp_path, monkeypatch, then):
    monkeypatch.setattr("asr.sound.ffmpeg.FFMPEG_QUIET_S", 1.0)
    (tmp_path / "x.mp4").write_bytes(b"video")
    fake(tmp_path, monkeypatch, f"{float_wav(noise(12))}\n{then}")
    stream = open_stream(tmp_path / "x.mp4", 16000)
    np.testing.assert_array_equal(whole(stream), noise(12))
    assert stream.truncated == "truncated or damaged: ffmpeg gave no sound for 1 s, and was stopped"


@posix
def test_sound_without_end_is_stopped_at_the_longest_recording(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.sound.recording.RECORDING_S", 86400 / 4000)
    (tmp_path / "x.mp4").write_bytes(b"video")
    fake(tmp_path, monkeypatch, float_wav(noise(20)) + "\nwhile True: out.write(bytes(100000))")
    with pytest.raises(DataError, match=r"is longer than .* days, the most that is read; cut it"):
        whole(open_stream(tmp_path / "x.mp4", 16000))
    with pytest.raises(DataError, match="is longer than"):
        audio.info(tmp_path / "x.mp4")


#: suffixes, with how ffmpeg makes a file of it where its defaults do not fit the sound
MADE = (
    "3g2 -c:a aac,3gp -c:a aac,aac,ac3,asf,avi,flv -ar 44100,m2ts,m4a,m4b,m4v,mka,mkv,mov,mp4,mpeg,mpg,mts,ogv,webm,"
    "wma,wmv,wv"
)


@pytest.mark.parametrize("made", MADE.split(","))
def test_every_container_is_still_read(tmp_path, real_ffmpeg, made):
    suffix, *options = made.split()
    path = convert(real_ffmpeg, tmp_path / f"x.{suffix}", *options)
    assert audio.info(path).duration_s == pytest.approx(6, abs=0.1)


def test_the_list_of_demuxers_has_no_lists_and_all_that_suffixes_need(real_ffmpeg):
    allowed = set(ffmpeg._DEMUXERS.split(","))
    lists = "hls dash concat imf image2 image2pipe lavfi sdp rtsp rtp sap ffmetadata webm_dash_manifest vobsub tty data"
    assert not allowed & set(lists.split())
    # Encoders of these two are seldom part of ffmpeg, so no file of theirs can be made.
    assert {"amr", "ape"} <= allowed
    said = subprocess.run([real_ffmpeg, "-hide_banner", "-demuxers"], capture_output=True, text=True, check=True).stdout
    known = {name for line in said.splitlines() if line.startswith(" D") for name in line.split()[1].split(",")}
    assert len(allowed & known) > 60


def test_blocks_of_a_stream_can_go_straight_into_the_cutter(tmp_path):
    from asr.recordings.pauses import cut

    path = write_wav(tmp_path / "x.flac", noise(25, 44100), 44100)
    with open_stream(path, 16000) as stream:
        pieces = list(itertools.islice(cut(stream.blocks(), stream.rate_hz, 60), 2))
    assert [len(piece.wave_n) for piece in pieces] == [25 * 16000]
