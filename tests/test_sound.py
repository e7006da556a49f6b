"""Sound files of every kind: exact lengths, parts that equal the whole, what is cut, joined, or has an odd header."""

from __future__ import annotations

import contextlib
import functools
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.corpora.importers import IMPORTERS
from asr.corpora.prepare import Prepared, prepare
from asr.corpora.recipe import Request
from asr.data import audio
from asr.data.manifest import Manifest, Utterance, write
from asr.doctor import examine
from asr.doctor.sound import read_header
from asr.errors import DataError
from asr.recordings.inputs import Part
from asr.recordings.media import open_stream
from asr.sound import mpeg
from asr.sound.containers import find_samples
from asr.sound.reader import open_recording
from asr.utterance import load_wave
from tests.builders import noise, promising, sphere_bytes, without_length, write_wav

CASES = Path(__file__).parent / "cases" / "audio"
RATE = 16000


def speechlike(duration_s: float, rate_hz: int = RATE, seed: int = 0) -> np.ndarray:
    """Bursts of a tone in noise between pauses, for which a codec of variable rate takes very different frames."""
    n = np.arange(round(duration_s * rate_hz)) / rate_hz
    bursts = np.sin(2 * np.pi * 220 * n) * 0.3 + noise(duration_s, rate_hz, seed)[: len(n)]
    return (bursts * (np.sin(2 * np.pi * 0.8 * n) > 0)).astype(np.float32)


def encoded(wave_n: np.ndarray, rate_hz: int = RATE, **options: object) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, wave_n, rate_hz, **options)  # type: ignore[arg-type]
    return content.getvalue()


def mp3(wave_n: np.ndarray, rate_hz: int = RATE, mode: str = "VARIABLE") -> bytes:
    return encoded(wave_n, rate_hz, format="MP3", bitrate_mode=mode, compression_level=0.9)


def without_tag(content: bytes) -> bytes:
    """An MP3 file without its first frame, which holds the Info tag."""
    (run,), _ = mpeg.scan(content, 0, len(content))
    assert run.tag is not None
    return content[run.offsets[0] :]


#: SUBTYPE.FORMAT of the files that soundfile writes
WRITTEN = (
    "pcm_16.wav pcm_24.wav float.wav ulaw.wav ima_adpcm.wav ms_adpcm.wav gsm610.wav pcm_16.wavex pcm_16.flac "
    "pcm_16.aiff alaw.au pcm_16.caf pcm_16.w64 pcm_16.rf64 vorbis.ogg opus.ogg"
)


@functools.cache
def kinds() -> dict[str, bytes]:
    """A file of every kind, 8 s or so each."""
    wave_n = speechlike(8)
    files = {
        f"{subtype}.{format}".lower(): encoded(wave_n, format=format, subtype=subtype)
        for subtype, format in (name.upper().split(".") for name in WRITTEN.split())
    }
    files["pcm.sph"] = sphere_bytes(wave_n)
    files["variable.mp3"], files["constant.mp3"] = mp3(wave_n), mp3(wave_n, mode="CONSTANT")
    files["no-tag.mp3"] = without_tag(mp3(wave_n))
    files["joined.mp3"] = mp3(speechlike(4)) + mp3(speechlike(4, seed=1))
    files["two-rates.mp3"] = mp3(speechlike(4)) + mp3(speechlike(4, 44100, seed=1), 44100)
    files["two-channels.mp3"] = mp3(speechlike(4)) + mp3(np.stack([speechlike(4, seed=k) for k in (1, 2)], 1))
    files["11k.mp3"] = mp3(speechlike(8, 11025), 11025)
    files["two-links.ogg"] = files["vorbis.ogg"] + encoded(speechlike(3), format="OGG", subtype="VORBIS")
    files["two-codecs.ogg"] = files["vorbis.ogg"] + files["opus.ogg"]
    files["two-rates.ogg"] = files["vorbis.ogg"] + encoded(speechlike(3, 44100), 44100, format="OGG", subtype="VORBIS")
    files["id3.flac"] = id3(3000) + files["pcm_16.flac"]
    return files


def id3(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


#: and of those that the functions below put together
PUT_TOGETHER = (
    "pcm.sph variable.mp3 constant.mp3 no-tag.mp3 joined.mp3 two-rates.mp3 two-channels.mp3 11k.mp3 "
    "two-links.ogg two-codecs.ogg two-rates.ogg id3.flac"
)
ALL = f"{WRITTEN} {PUT_TOGETHER}".split()


def content(name: str) -> bytes:
    return kinds()[name]


@functools.cache
def whole(name: str) -> np.ndarray:
    """One read of everything, straight on."""
    with open_recording(content(name), name) as reader:
        samples = reader.read(10**7)
        assert len(samples) == reader.frames and not reader.truncated
    return samples


# A part is the same samples as the whole


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.floats(0, 0.99), count=st.integers(1, 30_000), block=st.integers(300, 20_000))
def test_a_part_in_blocks_is_that_stretch_of_the_whole(name, at, count, block):
    expected = whole(name)
    start = int(at * len(expected))
    expected = expected[start : start + count]
    # A decoder of Opus that starts inside a recording has another past; 1e-4 is below the step of 16 bits' noise.
    tolerance = 1e-4 if "opus" in name or "codecs" in name else 0.0
    with open_recording(content(name), name) as reader:
        assert reader.skip(start) == start
        parts = []
        while sum(map(len, parts)) < len(expected):
            parts.append(reader.read(min(block, len(expected) - sum(map(len, parts)))))
            assert len(parts[-1])
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ALL)
def test_load_info_stream_and_doctor_agree_on_the_length(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(content(name))
    rate, num_samples = audio.info(path).sample_rate_hz, len(whole(name))
    assert audio.info(path).num_samples == num_samples
    assert len(audio.load(path)[0]) == num_samples
    header = read_header(str(path))
    assert (header.num_samples, header.code, header.truncated) == (num_samples, "", "")
    with open_stream(path, rate) as stream:
        assert sum(map(len, stream.blocks())) == num_samples
        assert stream.duration_s == num_samples / rate and not stream.truncated


@pytest.mark.parametrize("name", ["variable.mp3", "pcm_16.flac", "vorbis.ogg"])
def test_what_is_decoded_is_what_was_encoded(name):
    # An MP3's length is that of the frames but for what its tag says was added; 8 s is what went in.
    assert len(whole(name)) == 8 * RATE
    lag = np.argmax(np.correlate(whole(name)[RATE : 2 * RATE, 0], speechlike(8)[RATE : 2 * RATE], "same")) - RATE // 2
    assert lag == 0


# MP3: the length is counted, not guessed


@pytest.mark.parametrize(
    ("name", "seconds"), [("joined.mp3", 3.279), ("vbr_notag.mp3", 4.248), ("vbr_notag_loudfirst.mp3", 9.18)]
)
def test_an_mp3_without_a_right_tag_is_as_long_as_its_frames(name, seconds):
    info = audio.info(CASES / name)
    assert info.duration_s == pytest.approx(seconds, abs=1e-3)
    assert len(audio.load(CASES / name)[0]) == info.num_samples
    with open_stream(CASES / name, 16000) as stream:
        assert sum(map(len, stream.blocks())) / 16000 == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize("size", [1 << 42, 1 << 62, (1 << 63) - 1])
def test_a_chunk_that_no_file_has_room_for_ends_the_search_for_samples(tmp_path, size):
    path = tmp_path / "a.caf"
    path.write_bytes(b"caff\0\1\0\0free" + size.to_bytes(8, "big") + bytes(100))
    with pytest.raises(DataError, match="not audio that can be read"):
        audio.info(path)


@pytest.mark.parametrize("format", ["WAV", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "OGG", "MP3"])
def test_a_file_cut_anywhere_in_its_header_is_one_line(tmp_path, format):
    content = io.BytesIO()
    soundfile.write(content, noise(0.1), 16000, format=format)
    path = tmp_path / "a.wav"
    for size in range(1, 130):
        path.write_bytes(content.getvalue()[:size])
        with contextlib.suppress(DataError):  # a header without samples is read
            assert audio.info(path, keep_truncated=True).num_samples < 130


@pytest.mark.parametrize("field", [b"sample_count -i ", b"sample_n_bytes -i ", b"channel_count -i "])
def test_a_sphere_header_of_negative_numbers_is_no_header(tmp_path, field):
    path = tmp_path / "a.sph"
    path.write_bytes(sphere_bytes(noise(0.5)).replace(field, field + b"-"))
    try:
        assert audio.info(path).num_samples > 0  # libsndfile may read it all the same
    except DataError as error:
        assert str(error).startswith(str(path))


def test_an_au_that_ends_inside_its_header_is_no_audio():
    for num_bytes in (4, 8, 11):
        with pytest.raises(DataError, match="not audio that can be read"):
            open_recording(content("alaw.au")[:num_bytes], "x.au")


def test_mp3_frames_with_nothing_in_them_are_damage(tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes(b"\xff\xfb\x90\x00" * 500)
    with pytest.raises(DataError, match=r"a.mp3: truncated or damaged: its MP3 frames cannot be decoded"):
        audio.load(path, channel="mix")


def test_an_mp3_that_holds_less_than_its_tag_promises_is_cut():
    with pytest.raises(DataError) as caught:
        audio.load(CASES / "cuttag.mp3")
    assert str(caught.value) == (
        f"{CASES / 'cuttag.mp3'}: truncated: the header promises 118 frames, the file holds 58; fetch it again"
    )
    with open_stream(CASES / "cuttag.mp3", 16000) as stream:
        assert sum(map(len, stream.blocks())) / 16000 == pytest.approx(2.05, abs=0.06)
        assert stream.truncated.startswith("truncated: the header promises 118 frames")


TAIL = {
    "id3v1": b"TAG" + bytes(125),
    "ape": b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(16),
    "zeros": bytes(5000),
    "text": b"\r\nHTTP trailer\r\n" * 20,
}


@pytest.mark.parametrize("tail", TAIL)
@pytest.mark.parametrize(
    "front",
    [b"", id3(5000), id3(100) + id3(300_000), bytes(700)],
    ids=["nothing", "tag", "two tags", "zeros"],
)
def test_what_stands_around_the_frames_is_no_sound(tmp_path, tail, front):
    path = tmp_path / "a.mp3"
    sound = without_tag(mp3(speechlike(3)))
    path.write_bytes(sound)
    expected = audio.load(path)[0]
    path.write_bytes(front + sound + TAIL[tail])
    np.testing.assert_array_equal(audio.load(path)[0], expected)
    assert audio.info(path).num_samples == len(expected)


@pytest.mark.parametrize(
    "between",
    [b"TAG" + bytes(125), id3(200_000), bytes(3000), noise(1).tobytes()[:20_000]],
    ids=["ID3v1", "ID3v2", "zeros", "noise"],
)
def test_what_stands_between_the_frames_is_passed_over(tmp_path, between):
    first, second = (without_tag(mp3(speechlike(3, seed=k))) for k in (0, 1))
    path = tmp_path / "a.mp3"
    path.write_bytes(first + second)
    expected = audio.load(path)[0]
    path.write_bytes(first + between + second)
    np.testing.assert_array_equal(audio.load(path)[0], expected)


def test_an_mp3_cut_inside_a_frame_is_cut_where_no_tag_says_that_it_is_whole(tmp_path):
    sound = without_tag(mp3(speechlike(3)))
    path = tmp_path / "a.mp3"
    path.write_bytes(sound[:-10])
    info = audio.info(path, keep_truncated=True)
    path.write_bytes(sound)
    assert info.truncated.startswith("truncated: the last frame needs ")
    assert info.num_samples == audio.info(path).num_samples - 576


def test_an_mp3_with_all_the_frames_that_its_tag_promises_is_whole_whatever_comes_then(tmp_path):
    sound = mp3(speechlike(3))
    (run,), _ = mpeg.scan(sound, 0, len(sound))
    path = tmp_path / "a.mp3"
    path.write_bytes(sound + sound[run.offsets[0] : run.offsets[0] + 30])
    info = audio.info(path)
    assert (info.num_samples, info.truncated) == (3 * RATE, "")


def test_an_mp3_inside_a_wav_is_read_as_its_frames(tmp_path):
    sound = without_tag(mp3(speechlike(3)))
    head = b"fmt " + (30).to_bytes(4, "little") + (0x55).to_bytes(2, "little") + (1).to_bytes(2, "little")
    head += RATE.to_bytes(4, "little") + (4000).to_bytes(4, "little") + (1).to_bytes(2, "little") + bytes(2)
    head += (12).to_bytes(2, "little") + bytes(12)
    body = b"WAVE" + head + b"data" + len(sound).to_bytes(4, "little") + sound + bytes(len(sound) % 2)
    (tmp_path / "a.wav").write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)
    (tmp_path / "a.mp3").write_bytes(sound)
    np.testing.assert_array_equal(audio.load(tmp_path / "a.wav")[0], audio.load(tmp_path / "a.mp3")[0])


def test_the_length_of_an_hour_of_mp3_is_known_at_once(tmp_path):
    minute = without_tag(mp3(speechlike(60, 44100), 44100))
    path = tmp_path / "hour.mp3"
    path.write_bytes(minute * 60)
    began = time.process_time()
    info = audio.info(path)
    took_s = time.process_time() - began
    assert info.duration_s == pytest.approx(3600, abs=3)
    assert took_s < 0.6  # 0.1 s on an idle core


@pytest.mark.parametrize("damage", ["bits", "joined", "part"])
def test_the_decoder_says_nothing_on_stderr(tmp_path, damage):
    sound = bytearray(mp3(speechlike(5)))
    if damage == "bits":
        for place in range(len(sound) // 3, len(sound), 997):
            sound[place] ^= 0x55
    (tmp_path / "a.mp3").write_bytes(sound + sound if damage == "joined" else sound)
    offset = "offset_s=2.5" if damage == "part" else "offset_s=0"
    script = (
        "from asr.data import audio\nfrom asr.errors import DataError\n"
        f"try:\n  print(len(audio.load('a.mp3', {offset})[0]) > 0)\n"
        "except DataError as error:\n  print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and done.stdout


# Ogg


def test_streams_in_a_row_are_all_read():
    info = audio.info(CASES / "two_links.ogg")
    assert info.duration_s == pytest.approx(3.146, abs=0.06)
    assert len(audio.load(CASES / "two_links.ogg")[0]) == info.num_samples


def test_streams_of_other_rates_and_codecs_come_at_the_rate_of_the_first():
    assert len(whole("two-rates.ogg")) == 11 * RATE
    assert len(whole("two-codecs.ogg")) == 16 * RATE
    tail = whole("two-rates.ogg")[8 * RATE + 1600 : -1600, 0]
    expected = audio.resampled(speechlike(3, 44100), 44100, RATE)[1600:-1600]
    assert np.corrcoef(tail[: len(expected)], expected)[0, 1] > 0.95


@pytest.mark.parametrize(("name", "seconds"), [("cut.opus", 1.99), ("cut.ogg", 0.98)])
def test_an_ogg_cut_inside_a_page_is_cut_and_not_shorter(tmp_path, name, seconds):
    with pytest.raises(DataError, match="truncated: the last page needs "):
        audio.info(CASES / name)
    with open_stream(CASES / name, 16000) as stream:
        assert sum(map(len, stream.blocks())) / 16000 == pytest.approx(seconds, abs=0.06)
        assert stream.truncated.startswith("truncated: the last page needs ")


def test_an_ogg_that_ends_with_a_whole_page_is_whole_and_so_is_one_with_something_behind(tmp_path):
    sound = content("vorbis.ogg")
    path = tmp_path / "a.ogg"
    path.write_bytes(sound[: sound.rindex(b"OggS")])
    assert 4 * RATE < audio.info(path).num_samples < 8 * RATE
    path.write_bytes(sound + b"\0\r\n" * 30)
    np.testing.assert_array_equal(audio.load(path)[0], whole("vorbis.ogg")[:, 0])


# Headers that are wrong


def patched(name: str, *changes: tuple[bytes, int, bytes]) -> bytes:
    """A file with other bytes, each so many behind a mark."""
    sound = bytearray(content(name))
    for mark, behind, new in changes:
        place = sound.index(mark) + behind
        sound[place : place + len(new)] = new
    return bytes(sound)


UNFINISHED = {
    "pcm_16.wav": [(b"data", 4, bytes(4))],
    "pcm_24.wav": [(b"data", 4, (3000).to_bytes(4, "little")), (b"RIFF", 4, (3036).to_bytes(4, "little"))],
    "float.wav": [(b"data", 4, (4000).to_bytes(4, "little"))],
    "pcm_16.wavex": [(b"data", 4, b"\xff" * 4)],
    "pcm_16.aiff": [(b"SSND", 4, (8 + 2000).to_bytes(4, "big"))],
    "alaw.au": [(b".snd", 8, (1000).to_bytes(4, "big"))],
    "pcm_16.caf": [(b"data", 4, b"\xff" * 8)],
    "pcm_16.w64": [(b"data\xf3\xac", 16, (24 + 2000).to_bytes(8, "little"))],
    "pcm_16.rf64": [(b"ds64", 16, bytes(8))],
    "pcm.sph": [(b"sample_count -i 128000", 0, b"sample_count -i 000100")],
}


@pytest.mark.parametrize("name", UNFINISHED)
def test_a_header_that_promises_less_than_there_is_is_read_to_the_end(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(patched(name, *UNFINISHED[name]))
    np.testing.assert_array_equal(audio.load(path)[0][: 8 * RATE], whole(name)[:, 0])
    with open_stream(path, RATE) as stream:
        says_nothing = b"\xff" * 4 in UNFINISHED[name][0][2]
        assert ("read to its end" in " ".join(stream.notes)) is not says_nothing


@pytest.mark.parametrize("name", [*UNFINISHED, "vorbis.ogg", "opus.ogg", "pcm_16.flac", "variable.mp3", "gsm610.wav"])
def test_a_cut_file_gives_what_it_holds_and_says_so(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(content(name)[: len(content(name)) * 6 // 10])
    with pytest.raises(DataError, match="truncated"):
        audio.load(path)
    with pytest.raises(DataError, match="truncated"):
        audio.info(path)
    with open_stream(path, RATE) as stream:
        wave_n = np.concatenate(list(stream.blocks()))
        assert stream.truncated.startswith("truncated")
    # Ogg by whole pages; a frame or block of another codec may be lost.
    assert (0.3 if name.endswith("ogg") else 0.5) * 8 * RATE < len(wave_n) < 0.7 * 8 * RATE
    same = len(wave_n) - 2000
    np.testing.assert_allclose(wave_n[:same], whole(name)[:same, 0], atol=1e-4 if "opus" in name else 1e-6)
    # A part that is all there can be used, as a manifest of prepare --keep-truncated asks for.
    np.testing.assert_array_equal(audio.load(path, duration_s=len(wave_n) / RATE)[0], wave_n)
    with pytest.raises(DataError, match="truncated"):
        audio.load(path, duration_s=len(wave_n) / RATE + 0.03)


@pytest.mark.parametrize("tail", [b"LIST\x04\0\0\0INFO", b"id3 \x10\x27\0\0" + bytes(10_000), bytes(20_000), id3(9000)])
def test_what_stands_behind_the_samples_of_a_wav_is_no_sound(tmp_path, tail):
    path = tmp_path / "a.wav"
    path.write_bytes(content("pcm_16.wav") + tail)
    np.testing.assert_array_equal(audio.load(path)[0], whole("pcm_16.wav")[:, 0])


# What cannot seek is not damaged


def test_a_flac_behind_an_id3_tag_is_sound_for_everything(tmp_path):
    path = CASES / "id3.flac"
    info = audio.info(path)
    assert (info.num_samples, info.sample_rate_hz) == (66_413, 16000)
    write(tmp_path / "train.jsonl", [Utterance("u", str(path), 4.1508, "a b c d e")])
    assert not [f for f in examine([tmp_path / "train.jsonl"], deep=True).findings if f.code.startswith("audio")]
    wave_n = audio.load(path)[0]
    np.testing.assert_array_equal(audio.load(path, offset_s=2.0)[0], wave_n[32_000:])


def test_gsm_and_flac_of_unknown_length_are_read_from_the_start_to_reach_a_part(tmp_path):
    (tmp_path / "a.wav").write_bytes(content("gsm610.wav"))
    flac = without_length(write_wav(tmp_path / "a.flac", speechlike(8)))
    for path in (tmp_path / "a.wav", flac):
        wave_n = audio.load(path)[0]
        np.testing.assert_array_equal(audio.load(path, offset_s=5.0, duration_s=1)[0], wave_n[80_000:96_000])
        with open_stream(path, RATE, Part(start_s=5.0, end_s=6.0)) as stream:
            np.testing.assert_array_equal(np.concatenate(list(stream.blocks())), wave_n[80_000:96_000])


# The slack


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("off", [-321, -320, -1, 0, 1, 320, 321])
def test_the_slack_is_20_ms_to_the_sample_on_both_sides(tmp_path, known, off):
    path = write_wav(tmp_path / "a.flac", noise(1.0))
    if not known:
        without_length(path)
    says_s = (RATE + off) / RATE
    if off > 320:
        with pytest.raises(DataError, match=r"the part ends at 1\.02 s, the audio at 1\.00 s"):
            audio.load(path, duration_s=says_s)
        return
    # Up to 20 ms are a rounding, so that the file's last samples are kept; more is another end.
    assert len(audio.load(path, duration_s=says_s)[0]) == (RATE if off >= -320 else RATE + off)
    with open_stream(path, RATE, Part(end_s=says_s)) as stream:
        assert sum(map(len, stream.blocks())) == (RATE if off >= -320 else RATE + off)


@pytest.mark.parametrize("off", [-1, 0, 320, 321])
def test_behind_an_offset_the_slack_allows_a_late_end_only(tmp_path, off):
    path = write_wav(tmp_path / "a.flac", noise(1.0))
    part = {"offset_s": 0.5, "duration_s": (RATE // 2 + off) / RATE}
    if off > 320:
        with pytest.raises(DataError, match="the part ends at"):
            audio.load(path, **part)
    else:
        assert len(audio.load(path, **part)[0]) == RATE // 2 + min(off, 0)


# Writing


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_writing_rounds_to_the_nearest_step(tmp_path, suffix):
    wave_n = np.concatenate([np.random.default_rng(0).uniform(-1, 1, 50_000), [1.0, -1.0, 1.5, -1.5]])
    audio.save(tmp_path / f"a.{suffix}", wave_n.astype(np.float32), RATE)
    error_n = audio.load(tmp_path / f"a.{suffix}")[0] * 32768 - np.clip(wave_n * 32768, -32768, 32767)
    assert np.abs(error_n).max() <= 0.51  # half a step, and the input's own rounding to float32
    assert abs(error_n.mean()) < 0.01


def test_a_cut_recording_is_an_error_for_the_rows_that_need_what_is_lost(tmp_path):
    path = write_wav(tmp_path / "a.flac", noise(9.0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    held_s = audio.info(path, keep_truncated=True).duration_s
    rows = [
        Utterance("lost", "a.flac", 9.0, "a b c"),
        Utterance("kept", "a.flac", round(held_s, 4), "d e f"),
        Utterance("early", "a.flac", 1.0, "g h i", offset_s=0.5),
    ]
    write(tmp_path / "train.jsonl", rows)
    report = examine([tmp_path / "train.jsonl"], deep=True)
    found = {f.severity: [e.id for e in f.examples] for f in report.findings if f.code == "audio-truncated"}
    assert found == {"error": ["lost"], "warning": ["kept", "early"]}
    assert list(report.manifests[0].errors) == [1]


# What a header promises is compared with the file


#: a kind of file, and how its header comes to promise far more sound than the file holds
HOSTILE = {
    "pcm_16.flac": 60 * RATE * 3600,
    "vorbis.ogg": 60 * RATE * 3600,
    "opus.ogg": 60 * 48000 * 3600,
    "pcm_16.wav": [(b"data", 4, (0x70000000).to_bytes(4, "little"))],
    "pcm_16.aiff": [(b"SSND", 4, (0x70000000).to_bytes(4, "big"))],
    "alaw.au": [(b".snd", 8, (0x70000000).to_bytes(4, "big"))],
    "pcm_16.w64": [(b"data\xf3\xac", 16, (1 << 60).to_bytes(8, "little"))],
    "pcm_16.caf": [(b"data", 4, (1 << 60).to_bytes(8, "big"))],
    "pcm.sph": [(b"sample_count -i 128000", 0, b"sample_count -i 999999")],
}


def hostile(name: str) -> bytes:
    change = HOSTILE[name]
    return promising(content(name), change) if isinstance(change, int) else patched(name, *change)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_promises_hours_that_are_not_there_is_one_line_everywhere(tmp_path, name):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(hostile(name))
    path.with_suffix(".txt").write_text("a b c")
    for read in (audio.info, audio.load):
        with pytest.raises(DataError, match=r"truncated: the header promises|too long for one utterance"):
            read(path)
    assert audio.info(path, keep_truncated=True).num_samples == pytest.approx(len(whole(name)), abs=500)
    assert read_header(str(path)).truncated.startswith("truncated: the header promises")

    done = prepared(tmp_path / "in", keep_truncated="yes")
    assert abs(done.utterances["in"][0].duration_s - 8) < 0.05
    with pytest.raises(DataError, match="truncated: the header promises"):
        prepared(tmp_path / "in")


@pytest.mark.parametrize(
    ("name", "mark", "behind", "new"),
    [
        ("pcm_16.wav", b"fmt ", 16, (0xFFFFFFF0).to_bytes(4, "little")),
        ("pcm_16.aiff", b"COMM", 10, (0xFFFFFFF0).to_bytes(4, "big")),
        ("vorbis.ogg", b"\x01vorbis", 0, b"\x01vorbis"),
    ],
)
def test_a_number_that_is_not_used_changes_nothing(name, mark, behind, new):
    """The bytes per second of a WAV and the frames of an AIFF say again what other fields say."""
    with open_recording(patched(name, (mark, behind, new)), name) as reader:
        assert reader.measure() == len(whole(name)) and not reader.truncated


@pytest.mark.parametrize(
    ("sound", "expected"),
    [
        (
            lambda: promising(content("pcm_16.flac"), (1 << 36) - 1),
            "68,719,476,735 samples at 16000 Hz, more than 7 days",
        ),
        (
            lambda: patched("pcm_16.wav", (b"fmt ", 12, b"\xff\xff\xff\x7f")),
            "2147483647 Hz, which is no rate of speech",
        ),
    ],
)
def test_rates_and_lengths_that_no_recording_has_are_refused_at_once(sound, expected):
    with pytest.raises(DataError, match=expected):
        open_recording(sound(), "x")


def test_a_recording_longer_than_the_longest_is_refused_where_its_length_is_not_known(tmp_path, monkeypatch):
    path = without_length(write_wav(tmp_path / "a.flac", noise(12)))
    assert audio.info(path).duration_s == 12
    monkeypatch.setattr("asr.sound.recording.RECORDING_S", 11)
    with pytest.raises(DataError, match="is longer than 0 days, the most that is read; cut it"):
        audio.info(path)


def test_very_many_channels_are_read_in_small_blocks(monkeypatch):
    many = encoded(np.zeros((9000, 40), np.float32), format="WAV", subtype="PCM_16")
    monkeypatch.setattr("asr.sound.recording._BLOCK_VALUES", 40 * 1000)
    with open_recording(many) as reader:
        assert [len(wave_n) for wave_n in reader.waves(channel="mix")] == [1000] * 9
    monkeypatch.setattr("asr.sound.recording.CHANNELS", 39)
    with pytest.raises(DataError, match="its header says 40 channels, expected 39 or fewer"):
        open_recording(many)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("duration_s", [None, 1.5])
def test_an_utterance_too_long_for_the_memory_is_refused(tmp_path, monkeypatch, known, duration_s):
    path = write_wav(tmp_path / "a.flac", noise(2.0))
    if not known:
        without_length(path)
    monkeypatch.setattr("asr.data.audio.UTTERANCE_SAMPLES", RATE)
    with pytest.raises(DataError, match="hours or more are too long for one utterance; cut it into parts"):
        audio.load(path, duration_s=duration_s)
    assert len(audio.load(path, offset_s=0.5, duration_s=1.0)[0]) == RATE


@pytest.mark.parametrize("name", ["vorbis.ogg", "two-rates.mp3"])
def test_more_streams_in_a_row_than_any_file_has_are_cut_off(monkeypatch, name):
    one = content(name)
    monkeypatch.setattr("asr.sound.ogg.STREAMS", 3)
    monkeypatch.setattr("asr.sound.mpeg.STREAMS", 3)
    with open_recording(one, name) as reader:
        assert not reader.truncated
        num_samples = reader.frames
    with open_recording(one * 5, name) as reader:
        assert reader.truncated.startswith("truncated: ")
        assert num_samples < reader.frames < 5 * num_samples


def test_the_search_for_frames_in_other_data_ends(tmp_path, monkeypatch):
    """Headers of frames of free size, each with another one near it, and never two in a row."""
    false = (b"\xff\xfb\x00\x00" + bytes(20) + b"\xff\xfb\x00\x00" + bytes(25)) * 1000
    sound = content("constant.mp3")
    with open_recording(sound + false + sound, "x.mp3") as reader:
        assert reader.measure() == pytest.approx(2 * len(whole("constant.mp3")), abs=4000)
    monkeypatch.setattr("asr.sound.mpeg.FALSE_FRAMES", 500)
    with open_recording(sound + false + sound, "x.mp3") as reader:
        assert reader.truncated.startswith("truncated: what follows is no MP3")


def test_a_header_of_very_many_chunks_is_left_to_libsndfile(monkeypatch):
    sound = content("pcm_16.wav")
    sound = sound[:36] + b"LIST\4\0\0\0abcd" * 20 + sound[36:]
    assert find_samples(io.BytesIO(sound), len(sound), sound[:4096]) is not None
    monkeypatch.setattr("asr.sound.containers.CHUNKS", 10)
    assert find_samples(io.BytesIO(sound), len(sound), sound[:4096]) is None
    with open_recording(sound) as reader:
        assert reader.measure() == len(whole("pcm_16.wav"))


# What transcribe reads, prepare takes


def prepared(source: Path, **options: str) -> Prepared:
    return prepare(IMPORTERS["folder"], Request(source.parent / "out", sources=(source,), options=options))


def test_every_kind_of_file_is_prepared_with_its_exact_duration(tmp_path):
    names = {name.replace("wavex", "wav").replace(".", f"-{i}."): name for i, name in enumerate(ALL)}
    (tmp_path / "in").mkdir()
    for own, name in names.items():
        (tmp_path / "in" / own).write_bytes(content(name))
        (tmp_path / "in" / own).with_suffix(".txt").write_text("a b c")
    done = prepared(tmp_path / "in")
    assert done.dropped == {}
    manifest = Manifest(done.manifests["in"], done.utterances["in"])
    for row in manifest:
        name = names[Path(row.audio_path).name]
        rate = audio.info(row.audio_path).sample_rate_hz
        assert row.duration_s == round(len(whole(name)) / rate, 4)
        assert len(load_wave(manifest, row, rate, False)) == len(whole(name))
    assert not [f for f in examine([manifest.path]).findings if f.code.startswith("audio") or f.code == "duration"]


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_a_cut_recording_is_prepared_where_it_is_asked_for_and_then_trained_on(tmp_path, suffix):
    (tmp_path / "in").mkdir()
    name = {"wav": "pcm_16.wav", "flac": "pcm_16.flac", "mp3": "variable.mp3", "ogg": "vorbis.ogg"}[suffix]
    for id_, share in (("whole", 1.0), ("cut", 0.6)):
        (tmp_path / "in" / f"{id_}.{suffix}").write_bytes(content(name)[: int(len(content(name)) * share)])
        (tmp_path / "in" / f"{id_}.txt").write_text("a b c")
    done = prepared(tmp_path / "in")
    assert [u.id for u in done.utterances["in"]] == ["whole"]
    assert "truncated" in done.dropped["cut"] and done.dropped["cut"].endswith(", or add --keep-truncated")
    done = prepared(tmp_path / "in", keep_truncated="yes")
    assert done.dropped == {}
    manifest = Manifest(done.manifests["in"], done.utterances["in"])
    cut = next(u for u in manifest if u.id == "cut")
    assert 2 < cut.duration_s < 6
    assert abs(len(load_wave(manifest, cut, RATE, False)) / RATE - cut.duration_s) < 1e-4
    assert examine([manifest.path]).errors == 0


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for ffmpeg is a script")
def test_what_ffmpeg_decodes_is_prepared_and_loaded_as_it_is_transcribed(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.m4a").write_bytes(b"a telephone's")
    (tmp_path / "in" / "a.txt").write_text("a b c")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"\.m4a is read through ffmpeg, which is not on the PATH; install ffmpeg"):
        prepared(tmp_path / "in")
    decoded = encoded(noise(2.5), format="WAV", subtype="FLOAT")
    (tmp_path / "ffmpeg").write_text(f"#!{sys.executable}\nimport sys\nsys.stdout.buffer.write({decoded!r})\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    done = prepared(tmp_path / "in")
    manifest = Manifest(done.manifests["in"], done.utterances["in"])
    (row,) = manifest
    assert row.duration_s == 2.5
    np.testing.assert_array_equal(load_wave(manifest, row, RATE, False), noise(2.5))
    assert not [f for f in examine([manifest.path], deep=True).findings if f.code.startswith("audio")]
    part = audio.load(tmp_path / "in" / "a.m4a", offset_s=1.0, duration_s=0.5)[0]
    np.testing.assert_array_equal(part, noise(2.5)[RATE : RATE * 3 // 2])


def test_an_mp3_beside_a_macs_resource_fork_is_read(tmp_path):
    (tmp_path / "a.mp3").write_bytes(content("variable.mp3"))
    (tmp_path / "._a.mp3").write_bytes(b"\0\x05\x16\x07" + bytes(200))
    assert len(audio.load(tmp_path / "a.mp3")[0]) == 8 * RATE
