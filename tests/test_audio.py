from __future__ import annotations

import logging
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr.data import audio
from asr.errors import DataError
from tests.builders import dominant_hz, noise, sine, sphere_bytes, without_length, write_wav

INT16_STEP = 1 / 32768


def _message(path: Path, **options: object) -> str:
    """The error of loading a file, without the file's name in front."""
    with pytest.raises(DataError) as caught:
        audio.load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_saved_samples_come_back_within_one_int16_step(tmp_path, suffix):
    wave = noise(0.5, seed=1, amplitude=0.9)
    path = tmp_path / "sub" / f"x{suffix}"
    audio.save(path, wave, 16000)
    loaded, rate = audio.load(path)
    assert rate == 16000
    assert loaded.dtype == np.float32
    assert loaded.shape == wave.shape
    assert np.abs(loaded - wave).max() <= INT16_STEP
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_info_says_what_the_header_says(tmp_path):
    path = write_wav(tmp_path / "x.wav", sine(0.25, rate_hz=8000), 8000)
    assert audio.info(path) == audio.AudioInfo(8000, 1, 2000, "WAV")
    assert audio.info(path).duration_s == 0.25


@pytest.mark.parametrize(
    ("name", "format", "subtype"),
    [("x.mp3", None, None), ("x.ogg", None, None), ("x.opus", "OGG", "OPUS")],
)
def test_compressed_formats_are_read_with_length_and_tone_kept(tmp_path, name, format, subtype):
    wave = sine(1.0, 440.0)
    path = tmp_path / name
    soundfile.write(path, wave, 16000, format=format, subtype=subtype)
    loaded, rate = audio.load(path)
    assert rate == 16000
    assert len(loaded) == len(wave)
    assert dominant_hz(loaded, rate) == pytest.approx(440, abs=1)
    # lossy, but the loudness of a tone survives to a tenth
    assert np.sqrt(np.mean(loaded**2)) == pytest.approx(np.sqrt(np.mean(wave**2)), rel=0.1)


def test_a_sphere_file_is_read_to_the_bit(tmp_path):
    wave = noise(0.5, seed=2, amplitude=0.5)
    path = tmp_path / "x.sph"
    path.write_bytes(sphere_bytes(wave))
    loaded, rate = audio.load(path)
    assert rate == 16000
    np.testing.assert_array_equal(np.round(loaded * 32768), np.round(wave * 32767))


@given(start=st.integers(0, 4000), count=st.integers(1, 4000))
def test_a_part_equals_the_slice_of_the_whole(tmp_path_factory, start, count):
    path = tmp_path_factory.getbasetemp() / "whole.flac"
    if not path.exists():
        write_wav(path, noise(0.5, seed=3))
    whole, rate = audio.load(path)
    part, _ = audio.load(path, offset_s=start / rate, duration_s=count / rate)
    np.testing.assert_array_equal(part, whole[start : start + count])


def test_an_offset_without_duration_reads_to_the_end(tmp_path):
    path = write_wav(tmp_path / "x.wav")
    whole, _ = audio.load(path)
    np.testing.assert_array_equal(audio.load(path, offset_s=0.25)[0], whole[4000:])


def test_a_duration_beyond_the_end_is_an_error_with_both_times(tmp_path):
    path = write_wav(tmp_path / "x.wav")
    assert _message(path, duration_s=1.5) == "the part ends at 1.50 s, the audio at 1.00 s"
    assert _message(path, offset_s=0.5, duration_s=0.6) == "the part ends at 1.10 s, the audio at 1.00 s"


def test_a_duration_that_is_rounded_up_by_a_frame_is_accepted(tmp_path):
    path = write_wav(tmp_path / "x.wav")
    assert len(audio.load(path, duration_s=1.01)[0]) == 16000


def test_an_offset_beyond_the_end_is_an_error(tmp_path):
    path = write_wav(tmp_path / "x.wav")
    assert _message(path, offset_s=1.0) == "the part starts at 1.00 s, the audio ends at 1.00 s"
    assert _message(path, offset_s=7.5, duration_s=1.0) == "the part starts at 7.50 s, the audio ends at 1.00 s"


def test_another_rate_is_an_error_that_names_both_and_the_next_step(tmp_path):
    path = write_wav(tmp_path / "x.wav", sine(rate_hz=8000), 8000)
    wave, rate = audio.load(path)
    with pytest.raises(DataError) as caught:
        audio.at_rate(wave, rate, 16000, False, path, "do this")
    assert str(caught.value) == f"{path}: 8000 Hz audio, the model wants 16000 Hz; do this"


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8000, 16000), (16000, 8000), (44100, 16000), (22050, 16000)])
def test_resampling_gives_the_expected_length_and_keeps_the_tone(tmp_path, from_hz, to_hz):
    path = write_wav(tmp_path / "x.wav", sine(1.0, 440.0, from_hz), from_hz)
    wave = audio.at_rate(*audio.load(path), to_hz, True, path, "")
    rate = to_hz
    assert abs(len(wave) - to_hz) <= 1
    assert wave.dtype == np.float32
    assert dominant_hz(wave, rate) == pytest.approx(440, abs=1.01)
    # away from the ends, where the filter sees silence, the wave is the same tone sampled anew
    expected = sine(1.0, 440.0, to_hz)[: len(wave)]
    middle = slice(to_hz // 10, -to_hz // 10)
    assert np.abs(wave[middle] - expected[middle]).max() < 2e-3


def test_resampling_down_removes_what_would_alias():
    wave = audio.resampled(sine(1.0, 6000.0, 16000), 16000, 8000)
    assert np.abs(wave[800:-800]).max() < 1e-4


def test_resampling_to_the_same_rate_returns_the_wave_itself():
    wave = sine(0.1)
    assert audio.resampled(wave, 16000, 16000) is wave


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_a_faster_wave_is_shorter_and_higher(speed):
    wave = audio.change_speed(sine(1.0, 400.0), speed, 16000)
    assert len(wave) == pytest.approx(16000 / speed, abs=2)
    assert dominant_hz(wave, 16000) == pytest.approx(400 * speed, abs=1.5)


def test_stereo_is_an_error(tmp_path):
    left, right = sine(0.5, 300.0), sine(0.5, 500.0)
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    assert _message(path) == (
        "2 channels, expected 1; 'asr prepare' takes --mix or --channel N, a manifest row \"channel\""
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_named(tmp_path, bad):
    wave = sine(0.5)
    wave[1234] = bad
    path = tmp_path / "x.wav"
    soundfile.write(path, wave, 16000, subtype="FLOAT")
    assert _message(path) == "sample 1,234 is not a finite number; the file is damaged, write it again"


def test_a_missing_file_is_named(tmp_path):
    assert _message(tmp_path / "none.wav") == "cannot read the audio: no such file or directory"
    with pytest.raises(DataError, match=r"none\.wav: cannot read the audio: no such file or directory$"):
        audio.info(tmp_path / "none.wav")


def test_a_folder_is_named(tmp_path):
    assert _message(tmp_path) == "is a folder, expected an audio file"


def test_zero_bytes_are_named(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"")
    assert _message(tmp_path / "x.wav") == "the file is empty (0 bytes)"


def test_a_header_without_samples_is_named(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(0, np.float32), 16000)
    assert _message(path) == "the audio has no samples"
    assert audio.info(path).num_samples == 0


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.mp3", "x"])
def test_a_text_file_is_not_audio_whatever_its_name(tmp_path, monkeypatch, name):
    monkeypatch.setattr("asr.sound.ffmpeg.available", lambda: None)
    path = tmp_path / name
    path.write_text("this is a transcript\n" * 100)
    message = _message(path)
    assert message.startswith("not audio that can be read (")
    readable = "WAV, FLAC, SPHERE, MP3 and Ogg are, most others where ffmpeg is installed (it is not)"
    assert message.endswith(f"); {readable}")
    with pytest.raises(DataError, match="not audio that can be read"):
        audio.info(path)


@pytest.mark.parametrize("num_bytes", [1, 20, 30])
def test_a_wav_that_is_cut_inside_its_header_is_not_audio(tmp_path, num_bytes):
    path = write_wav(tmp_path / "x.wav")
    path.write_bytes(path.read_bytes()[:num_bytes])
    assert _message(path).startswith("not audio that can be read (")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_wav_is_an_error_and_not_a_shorter_recording(tmp_path, share):
    path = write_wav(tmp_path / "x.wav")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    held = int(len(whole) * share) - 44
    expected = f"truncated: the header promises 32,000 bytes of samples, the file holds {held:,}; fetch it again"
    assert _message(path) == expected
    assert _message(path, duration_s=1.0) == expected
    assert len(audio.load(path, duration_s=0.05)[0]) == 800  # the manifest promises no more than there is
    kept = audio.info(path, keep_truncated=True)
    assert (kept.num_samples, kept.truncated) == (held // 2, expected)
    with pytest.raises(DataError) as caught:
        audio.info(path)
    assert str(caught.value) == f"{path}: {expected}"


def test_a_truncated_wav_with_chunks_before_the_data_is_found_too(tmp_path):
    path = write_wav(tmp_path / "x.wav")
    whole = path.read_bytes()
    note = b"LIST" + struct.pack("<I", 5) + b"hello\0"  # odd size: padded to even
    path.write_bytes(whole[:36] + note + whole[36:])
    assert len(audio.load(path)[0]) == 16000
    path.write_bytes((whole[:36] + note + whole[36:])[:20_000])
    assert _message(path).startswith("truncated: the header promises 32,000 bytes of samples, the file holds 19,942")


def test_a_wav_written_to_a_pipe_is_read_though_its_header_knows_no_size(tmp_path):
    path = write_wav(tmp_path / "x.wav")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    assert len(audio.load(path)[0]) == 16000


@pytest.mark.parametrize("count", [8000, 160_000])
def test_a_flac_written_to_a_pipe_is_read_and_counted_though_its_header_knows_no_length(tmp_path, count):
    wave_n = audio.load(write_wav(tmp_path / "whole.flac", noise(count / 16000)))[0]
    path = without_length(write_wav(tmp_path / "x.flac", noise(count / 16000)))
    assert audio.info(path) == audio.AudioInfo(16000, 1, count, "FLAC")
    np.testing.assert_array_equal(audio.load(path)[0], wave_n)
    np.testing.assert_array_equal(audio.load(path, offset_s=0.1)[0], wave_n[1600:])
    np.testing.assert_array_equal(audio.load(path, offset_s=0.1, duration_s=0.3)[0], wave_n[1600:6400])
    end_s = count / 16000
    assert _message(path, duration_s=99.0) == f"the part ends at 99.00 s, the audio at {end_s:.2f} s"
    assert _message(path, offset_s=end_s) == f"the part starts at {end_s:.2f} s, the audio ends at {end_s:.2f} s"


def test_damage_in_a_flac_written_to_a_pipe_is_an_error(tmp_path):
    path = without_length(write_wav(tmp_path / "x.flac", noise(10.0)))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = bytes(5000)
    path.write_bytes(content)
    assert _message(path).startswith("truncated or damaged: cannot be decoded (")
    with pytest.raises(DataError, match="truncated or damaged: cannot be decoded"):
        audio.info(path)


def test_a_truncated_flac_is_an_error(tmp_path):
    path = write_wav(tmp_path / "x.flac", noise(1.0))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert _message(path).startswith("truncated")


def test_a_flac_with_damaged_bytes_is_an_error(tmp_path):
    path = write_wav(tmp_path / "x.flac", noise(1.0))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = bytes(5000)
    path.write_bytes(content)
    assert _message(path).startswith("truncated or damaged: cannot be decoded (")


@pytest.mark.parametrize("num_bytes", [1024, 1025, 10_001])
def test_a_truncated_sphere_file_is_an_error_and_not_a_shorter_recording(tmp_path, num_bytes):
    path = tmp_path / "x.sph"
    path.write_bytes(sphere_bytes(noise(1.0))[:num_bytes])
    assert _message(path) == (
        f"truncated: the header promises 32,000 bytes of samples, the file holds {num_bytes - 1024:,}; fetch it again"
    )


def test_a_sphere_header_that_is_cut_is_not_audio(tmp_path):
    path = tmp_path / "x.sph"
    path.write_bytes(sphere_bytes(noise(1.0))[:100])
    with pytest.raises(DataError, match=r"x\.sph: "):
        audio.load(path)


def test_a_truncated_mp3_is_an_error(tmp_path):
    path = tmp_path / "x.mp3"
    soundfile.write(path, noise(2.0), 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert _message(path).startswith("truncated: the header promises ")
    assert _message(path, offset_s=1.9).startswith("truncated: the header promises ")


@pytest.mark.parametrize("name", ["a\0b.wav", "\ud800.wav"])
def test_an_impossible_name_is_an_error_that_can_be_printed(tmp_path, name):
    with pytest.raises(DataError, match="the name is impossible") as caught:
        audio.load(tmp_path / name)
    str(caught.value).encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path):
    path = write_wav(tmp_path / "x.wav")
    path.chmod(0)
    assert _message(path) == "cannot read the audio: permission denied"


def test_saving_below_a_regular_file_is_an_error_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as caught:
        audio.save(tmp_path / "file" / "x.wav", sine(0.1), 16000)
    assert str(caught.value).startswith(f"{tmp_path / 'file' / 'x.wav'}: cannot write the audio: ")


@pytest.mark.parametrize("name", ["x.xyz", "x.mp3", "x"])
def test_saving_with_a_suffix_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path, name):
    with pytest.raises(DataError, match=r"cannot write the audio: .*; \.wav and \.flac can be written$"):
        audio.save(tmp_path / name, sine(0.1), 16000)
    assert list(tmp_path.iterdir()) == []


def test_saving_over_the_file_size_limit_is_an_error_and_keeps_the_old_file(tmp_path):
    path = write_wav(tmp_path / "x.wav", sine(0.01))
    before = path.read_bytes()
    script = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from asr.data import audio\n"
        "from asr.errors import DataError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    audio.save(sys.argv[1], np.zeros(100_000, np.float32), 16000)\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.stdout.startswith(f"{path}: cannot write the audio: "), done.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]


def test_loading_says_nothing(tmp_path, caplog, capfd):
    path = write_wav(tmp_path / "x.wav")
    with caplog.at_level(logging.DEBUG):
        audio.load(path)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def test_real_opus_speech_is_read(shared_data):
    paths = sorted(p for p in (shared_data / "speechocean762").rglob("*") if p.suffix in (".ogg", ".opus"))[:20]
    if not paths:
        pytest.skip("no speechocean762 in the folder of real speech")
    for path in paths:
        wave, rate = audio.load(path)
        assert rate == 16000
        assert len(wave) == audio.info(path).num_samples > rate / 2
        assert 0.001 < np.abs(wave).max() <= 1.5  # a decoder may overshoot full scale
