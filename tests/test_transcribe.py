"""Recognizer: files in, transcripts out, in order, each by itself."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch

import asr.recordings.listening
import asr.transcribe
from asr import Recognizer
from asr.data import audio
from asr.errors import CheckpointError, ConfigError, DataError
from asr.outputs import document
from asr.transcribe import Failure, Transcript
from tests.builders import noise, sphere_bytes, tones, write_wav
from tests.models import save_random_model
from tests.pretend_cuda import pretended_cuda


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def recognizer(folder) -> Recognizer:
    return Recognizer.load(folder, "cpu", no_speech_threshold=1)  # tones are no speech


@pytest.fixture(scope="module")
def waves(tmp_path_factory) -> list[Path]:
    """Utterances of very different durations."""
    place, rng = tmp_path_factory.mktemp("waves"), np.random.default_rng(0)
    texts = ("abcd dcba", "a b", "d", "cab cab cab cab cab", "bad")
    return [write_wav(place / f"{i}.wav", tones(text, rng)) for i, text in enumerate(texts)]


def test_the_package_exports_the_recognizer_and_loads_no_more_than_it_needs():
    script = (
        "import sys, asr\n"
        "assert 'torch' not in sys.modules\n"
        "from asr import Recognizer\n"
        "heavy = {'matplotlib', 'tensorboard', 'sklearn', 'librosa', 'numba', 'scipy', 'rapidfuzz'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Recognizer is asr.transcribe.Recognizer
    with pytest.raises(AttributeError, match="no attribute 'Recogniser'"):
        _ = asr.Recogniser


def test_a_recognizer_loads_from_a_model_folder_or_a_run_folder(tmp_path, waves):
    save_random_model(tmp_path / "run" / "best")
    from_run = Recognizer.load(tmp_path / "run", "cpu").transcribe(waves[0])
    assert from_run == Recognizer.load(str(tmp_path / "run" / "best"), "cpu").transcribe(str(waves[0]))


def test_what_is_no_model_or_device_is_refused(tmp_path, folder):
    with pytest.raises(CheckpointError, match="no such model folder or run folder"):
        Recognizer.load(tmp_path / "none")
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        Recognizer.load(folder, "gpu")


def test_a_transcript_says_what_and_when(recognizer, waves):
    result = recognizer.transcribe(waves[0])
    assert result.path == str(waves[0]) and result.notes == () and result.seams == ()
    assert result.duration_s == pytest.approx(audio.info(waves[0]).duration_s)
    assert result.text and result.text == " ".join(w.word for w in result.words)
    assert result.log_prob < 0


def test_word_times_rise_and_stay_inside_the_audio(recognizer, waves):
    for result in recognizer.transcribe_all(waves):
        times = [t for w in result.words for t in (w.start_s, w.end_s)]
        assert times == sorted(times)
        # 0.5 ms: times are rounded to milliseconds
        assert times[0] >= 0 and times[-1] <= result.duration_s + 0.0005


def test_results_come_in_the_order_of_the_files_whatever_their_lengths(recognizer, waves):
    for paths in (waves, waves[::-1], [*waves, *waves]):
        assert [r.path for r in recognizer.transcribe_all(paths)] == [str(p) for p in paths]


def test_a_recording_that_is_too_long_fails_without_being_read_to_its_end(recognizer, waves, tmp_path):
    long = write_wav(tmp_path / "long.wav", noise(120))
    with mock.patch.object(asr.recordings.listening, "extract", wraps=asr.recordings.listening.extract) as extract:
        results = list(recognizer.transcribe_all([waves[0], long, waves[1]], most_s=30.0))
    assert [type(result) for result in results] == [Transcript, Failure, Transcript]
    assert results[1].why == f"{long}: the audio is longer than what is allowed here"
    assert sum(len(call.args[1]) for call in extract.call_args_list) / 16000 < 60


def test_a_file_gets_the_same_transcript_alone_and_in_a_batch(recognizer, waves):
    together = list(recognizer.transcribe_all(waves))
    for path, result in zip(waves, together, strict=True):
        alone = recognizer.transcribe(path)
        assert (alone.text, alone.words) == (result.text, result.words)
        # 1e-4 nats: sums of about 100 float32 log-probabilities, each the same to 1e-6
        assert alone.log_prob == pytest.approx(result.log_prob, abs=1e-4)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_neither_batches_nor_order_nor_threads_nor_the_number_of_decoders_change_an_answer(folder, waves, precision):
    recognizer = Recognizer.load(folder, "cpu", precision=precision)
    paths = [*waves, Path("gone.wav"), *waves]
    expected = list(recognizer.transcribe_all(paths))
    for options in ({"batch_s": 0.01}, {"batch_s": 2.0}, {"batch_s": 500.0, "jobs": 1}, {"jobs": 5}):
        assert answers(recognizer.transcribe_all(paths, **options)) == answers(expected), options
    backwards = answers(recognizer.transcribe_all(paths[::-1]))
    assert backwards[::-1] == answers(expected)


def answers(results) -> list[tuple]:
    return [(r.path, getattr(r, "text", None), getattr(r, "words", None)) for r in results]


def test_a_stream_of_recordings_without_end_is_taken_a_little_at_a_time(recognizer, waves):
    taken = []

    def endless():
        for path in itertools.cycle(waves):
            taken.append(path)
            yield path

    results = recognizer.transcribe_all(endless(), batch_s=4.0)
    for number in range(300):
        assert next(results).path == str(waves[number % len(waves)])
    longest_s = max(audio.info(path).duration_s for path in waves)
    assert len(taken) < 300 + 4 * 320 / min(0.1, longest_s)
    results.close()


def test_a_long_recording_is_cut_and_says_where_and_its_words_have_the_times_of_the_whole(recognizer, tmp_path):
    rng = np.random.default_rng(1)
    parts = [tones("abcd", rng), np.zeros(16000, np.float32)] * 5
    path = write_wav(tmp_path / "long.wav", np.concatenate(parts))
    alone = recognizer.transcribe(write_wav(tmp_path / "first.wav", np.concatenate(parts[:2])))
    longest_s = 2 * len(parts[0]) / 16000 + 2.2
    (result,) = recognizer.transcribe_all([path], longest_s=longest_s)
    assert isinstance(result, Transcript)
    assert result.duration_s == pytest.approx(sum(map(len, parts)) / 16000)
    assert result.seams and all(seam.kind == "pause" and seam.length_s > 0.3 for seam in result.seams)
    times = [t for w in result.words for t in (w.start_s, w.end_s)]
    assert times == sorted(times) and times[-1] <= result.duration_s
    assert result.text == " ".join(segment.text for segment in result.segments)
    assert times[-1] > result.duration_s - 3 and alone.text
    whole = recognizer.transcribe(path)
    assert whole.seams == ()  # this model states no limit, so 20 s
    again = recognizer.transcribe_all([path], longest_s=longest_s, batch_s=0.5)
    assert answers(again) == answers([result])


def test_samples_with_their_rate_are_a_recording(recognizer, waves):
    wave_n, rate = soundfile.read(waves[0], dtype="int16")
    expected = recognizer.transcribe(waves[0])
    for samples_n in (wave_n, (wave_n / 32768).astype(np.float32), wave_n / 32768):
        result = recognizer.transcribe(samples_n, sample_rate_hz=rate)
        assert (result.text, result.words, result.path) == (expected.text, expected.words, "array")
    twice = np.stack([wave_n, wave_n], axis=1)
    both = recognizer.transcribe(twice, sample_rate_hz=rate)
    assert both.text == expected.text and "2 channels" in both.notes[0]


def test_a_list_gives_a_list_and_misuse_is_said(recognizer, waves):
    assert [one.path for one in recognizer.transcribe(waves)] == [str(path) for path in waves]
    assert recognizer.transcribe([]) == []
    with pytest.raises(ValueError, match="samples need their rate"):
        recognizer.transcribe(np.zeros(16000, np.float32))
    with pytest.raises(ValueError, match="files state their own"):
        recognizer.transcribe(waves[0], sample_rate_hz=16000)
    with pytest.raises(ValueError, match="files state their own"):
        recognizer.transcribe(waves, sample_rate_hz=16000)
    samples = np.zeros(16000, np.float32)
    for wrong, kind in ((42, "int"), ([samples], "ndarray"), ((samples, 16000), "ndarray"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"list of names; got {kind}"):
            recognizer.transcribe(wrong)
    with pytest.raises(DataError, match="file name too long"):
        recognizer.transcribe("x" * 300 + ".wav")
    with pytest.raises(DataError, match=r"gone\.wav"):
        recognizer.transcribe([waves[0], "gone.wav"])


class _Slow:
    """A decoder that does nothing until it may, and counts who waits for it."""

    def __init__(self, decoder, fails=None):
        self._decoder, self._fails = decoder, fails
        self.source, self.name, self.lm = "", "slow", None
        self.free, self.done = threading.Event(), 0

    def decode(self, log_probs_sv):
        self.free.wait(60)
        self.done += 1
        if self._fails is not None:
            raise self._fails
        return self._decoder.decode(log_probs_sv)


def test_what_a_decoder_raises_is_raised_and_no_thread_is_left(recognizer, waves):
    slow = _Slow(recognizer.decoder, RuntimeError("out of order"))
    slow.free.set()
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="out of order"):
        list(Recognizer(recognizer.model, slow).transcribe_all(waves * 10))
    assert set(threading.enumerate()) <= before


def test_what_still_waits_for_the_decoder_is_dropped_when_the_caller_goes(recognizer, waves):
    slow = _Slow(recognizer.decoder)
    results = Recognizer(recognizer.model, slow).transcribe_all(waves * 5, jobs=1)
    timer = threading.Timer(0.3, slow.free.set)
    timer.start()
    next(results)
    slow.free.clear()
    threading.Timer(0.3, slow.free.set).start()
    results.close()
    assert slow.done < 25


def test_a_decoder_slower_than_the_network_holds_it_back(recognizer):
    slow = _Slow(recognizer.decoder)
    told = []
    said, still = tones("abcd", np.random.default_rng(0)), np.zeros(2 * 16000, np.float32)
    sound = np.concatenate([said, still] * 200)

    def run():
        return list(Recognizer(recognizer.model, slow).transcribe_all([(sound, 16000)], advance=told.append))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and len(told) < 100:
            time.sleep(0.01)
        held = len(told)
        slow.free.set()
        (result,) = running.result(60)
    assert isinstance(result, Transcript) and held < 20 < len(told)


def test_thousands_of_failures_before_one_recording_take_no_time(recognizer, waves, tmp_path):
    began = time.perf_counter()
    results = list(recognizer.transcribe_all([*(tmp_path / f"{i}.wav" for i in range(3000)), waves[0], waves[1]]))
    assert [type(one) for one in results[-3:]] == [Failure, Transcript, Transcript] and len(results) == 3002
    assert time.perf_counter() - began < 20


def test_progress_is_told_in_seconds_of_audio(recognizer, waves):
    told = []
    list(recognizer.transcribe_all(waves, advance=told.append))
    assert sum(told) == pytest.approx(sum(audio.info(path).duration_s for path in waves))


def test_no_files_give_no_transcripts(recognizer):
    assert list(recognizer.transcribe_all([])) == []


def unusable(folder: Path) -> dict[str, tuple[Path, str]]:
    """One file of every kind that cannot be used, and what must be said of it."""
    good = noise(0.5)
    files = {
        "missing": (folder / "missing.wav", "no such file"),
        "empty": (folder / "empty.wav", "empty (0 bytes)"),
        "folder": (folder / "folder.wav", "is a folder"),
        "text": (folder / "text.wav", "not audio that can be read"),
        "no samples": (folder / "none.wav", "no samples"),
        "nan": (folder / "nan.wav", "sample 100 is not a finite number"),
    }
    files["empty"][0].touch()
    files["folder"][0].mkdir()
    files["text"][0].write_text("these are words, not samples\n" * 50)
    write_wav(files["no samples"][0], good[:0])
    soundfile.write(files["nan"][0], np.where(np.arange(len(good)) == 100, np.nan, good), 16000, subtype="FLOAT")
    return files


def test_each_unusable_file_is_a_failure_of_one_line_and_stops_nothing(recognizer, waves, tmp_path):
    files = unusable(tmp_path)
    paths = [p for path, _ in files.values() for p in (path, waves[0])]
    results = list(recognizer.transcribe_all(paths))
    assert [r.path for r in results] == [str(p) for p in paths]
    expected = recognizer.transcribe(waves[0])
    for (kind, (path, what)), failed, done in zip(files.items(), results[::2], results[1::2], strict=True):
        assert isinstance(failed, Failure), kind
        assert failed.why.startswith(f"{path}: ") and what in failed.why and "\n" not in failed.why, kind
        assert isinstance(done, Transcript) and done.text == expected.text, kind


def test_a_cut_recording_gives_the_text_of_what_it_holds_and_says_so(recognizer, waves, tmp_path):
    whole_n, rate = audio.load(waves[0])
    paths = {"wav": tmp_path / "a.wav", "flac": tmp_path / "a.flac", "sph": tmp_path / "a.sph"}
    for suffix, path in paths.items():
        content = sphere_bytes(whole_n, rate) if suffix == "sph" else write_wav(path, whole_n, rate).read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
    whole = recognizer.transcribe(waves[0])
    assert not whole.truncated and "truncated" not in document(whole)
    for cut in recognizer.transcribe(list(paths.values())):
        held_n = whole_n[: round(cut.duration_s * rate)]
        assert 0.3 * len(whole_n) < len(held_n) < 0.8 * len(whole_n)
        assert cut.text == recognizer.transcribe(np.round(held_n * 32768) / 32768, rate).text
        assert cut.truncated.startswith("truncated") and document(cut)["truncated"] == cut.truncated


def test_one_unusable_file_alone_is_an_error(recognizer, tmp_path):
    for path, what in unusable(tmp_path).values():
        with pytest.raises(DataError) as error:
            recognizer.transcribe(path)
        assert what in str(error.value)


@pytest.mark.parametrize("samples", [1, 10, 320])
def test_a_clip_shorter_than_a_window_is_transcribed(recognizer, tmp_path, samples):
    result = recognizer.transcribe(write_wav(tmp_path / "a.wav", noise(1.0)[:samples]))
    assert result.duration_s == samples / 16000
    assert all(w.end_s <= result.duration_s + 0.0005 for w in result.words)


def test_silence_is_transcribed(recognizer, tmp_path):
    assert isinstance(recognizer.transcribe(write_wav(tmp_path / "a.wav", np.zeros(8000, np.float32))), Transcript)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".sph"])
def test_every_format_is_transcribed(recognizer, tmp_path, suffix):
    wave, path = tones("abcd dcba", np.random.default_rng(0)), tmp_path / f"a{suffix}"
    if suffix == ".sph":
        path.write_bytes(sphere_bytes(wave))
    else:
        soundfile.write(path, wave, 16000)
    result = recognizer.transcribe(path)
    assert result.text
    # 0.15 s: MP3 pads its start and end with up to two frames of 36 ms each
    assert result.duration_s == pytest.approx(len(wave) / 16000, abs=0.15)


def test_another_rate_and_several_channels_are_taken_and_said(recognizer, tmp_path):
    path = write_wav(tmp_path / "8k.wav", tones("abcd", np.random.default_rng(0), 8000), 8000)
    result = recognizer.transcribe(path)
    assert result.notes == ("resampled from 8000 to 16000 Hz",)
    assert result.duration_s == pytest.approx(audio.info(path).duration_s, abs=1 / 8000)
    good = tones("abcd", np.random.default_rng(0))
    soundfile.write(tmp_path / "two.wav", np.stack([good, good], axis=1), 16000)
    assert any("2 channels" in note for note in recognizer.transcribe(tmp_path / "two.wav").notes)


@pytest.mark.parametrize("name", ["new\nline\ttab.wav", "-dash.wav", "dollar $x$ é.wav", " .wav"])
def test_a_strange_name_is_kept(recognizer, tmp_path, name):
    path = write_wav(tmp_path / "a.wav").rename(tmp_path / name)
    assert recognizer.transcribe(path).path == str(path)


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are Unicode there")
def test_a_name_that_is_not_utf8_is_kept(recognizer, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write_wav(tmp_path / "a.wav").rename(path)
    (result,) = recognizer.transcribe_all([path])
    assert isinstance(result, Transcript) and result.path == str(path)


def test_log_probs_are_what_the_transcript_is_read_from(recognizer, waves):
    log_probs_sv = recognizer.log_probs(recognizer.load_wave(waves[0]))
    assert log_probs_sv.shape[1] == recognizer.model.tokenizer.vocabulary_size
    best = float(log_probs_sv.max(axis=1).sum(dtype=np.float64))
    assert best == pytest.approx(recognizer.transcribe(waves[0]).log_prob, abs=1e-4)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def numbered(results) -> list[tuple]:
    return [(r.path, getattr(r, "text", None), getattr(r, "why", None), getattr(r, "notes", None)) for r in results]


def test_a_gpu_gives_the_transcripts_of_a_cpu_in_the_same_order(folder, recognizer, waves, tmp_path, four_threads):
    rng = np.random.default_rng(1)
    long = np.concatenate([tones("abcd", rng), np.zeros(16000, np.float32)] * 5)
    samples = np.stack([long, long], axis=1)
    (tmp_path / "text.wav").write_text("no sound")
    names = [write_wav(tmp_path / "long.wav", long), tmp_path / "gone.wav", *waves, tmp_path / "text.wav", waves[0]]
    expected = list(recognizer.transcribe_all([*names, (samples, 16000)], longest_s=4.0))
    assert len([one for one in expected if isinstance(one, Failure)]) == 2 and expected[0].seams
    with pretended_cuda():
        on_gpu = Recognizer.load(folder, "cuda", precision="fp32", no_speech_threshold=1)
        found = list(on_gpu.transcribe_all([*names, (samples, 16000)], longest_s=4.0))
    assert numbered(found) == numbered(expected)
    assert [getattr(one, "seams", ()) for one in found] == [getattr(one, "seams", ()) for one in expected]
    assert not [t.name for t in threading.enumerate() if t.name.startswith("asr-")]


def test_beside_a_gpu_recordings_are_read_in_threads_but_a_pipe_in_the_callers(folder, waves, tmp_path, four_threads):
    os.mkfifo(tmp_path / "pipe.wav")
    content = waves[1].read_bytes()
    writer = threading.Thread(target=lambda: (tmp_path / "pipe.wav").write_bytes(content))
    writer.start()
    readers: dict[str, str] = {}
    opened = asr.recordings.listening.open_source

    def watched(source, rate_hz):
        readers[str(source)] = threading.current_thread().name.rpartition("_")[0]
        return opened(source, rate_hz)

    with pretended_cuda(), mock.patch("asr.recordings.listening.open_source", watched):
        on_gpu = Recognizer.load(folder, "cuda", no_speech_threshold=1)
        found = list(on_gpu.transcribe_all([waves[0], tmp_path / "pipe.wav", waves[2]]))
    writer.join()
    assert [one.path for one in found] == [str(waves[0]), str(tmp_path / "pipe.wav"), str(waves[2])]
    assert all(isinstance(one, Transcript) for one in found)
    assert readers == {str(waves[0]): "asr-ahead", str(tmp_path / "pipe.wav"): "", str(waves[2]): "asr-ahead"}


def test_a_piece_that_does_not_fit_into_the_memory_fails_its_recording_alone(recognizer, waves, monkeypatch):
    longest = max(waves, key=lambda path: audio.info(path).duration_s)
    expected = list(recognizer.transcribe_all(waves))
    network = type(recognizer.model.network)
    most_s = audio.info(longest).duration_s - 0.05
    each = network.each

    def limited(self, features):
        if max(map(len, features)) * recognizer.model.frame_s > most_s:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return each(self, features)

    monkeypatch.setattr(network, "each", limited)
    found = list(recognizer.transcribe_all(waves))
    (failure,) = (one for one in found if isinstance(one, Failure))
    assert failure.path == str(longest)
    assert re.match(rf"{longest}: [0-9.]+ s at once do not fit into the memory; cut them into shorter", failure.why)
    assert [one for one in found if one is not failure] == [one for one in expected if one.path != str(longest)]


def test_a_call_on_a_gpu_that_is_given_up_leaves_no_thread(folder, waves, four_threads):
    with pretended_cuda():
        on_gpu = Recognizer.load(folder, "cuda", no_speech_threshold=1)
        results = on_gpu.transcribe_all(itertools.cycle(waves), batch_s=4.0)
        assert [next(results).path for _ in range(7)] == [str(waves[i % len(waves)]) for i in range(7)]
        results.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("asr-")]
