"""The load benchmark of the server, in short: nothing fails, and nothing is cut off at the end."""

from __future__ import annotations

import numpy as np
import pytest

from asr.transcribe import Recognizer
from benchmarks.serve import measure, percentile, quarters
from tests.builders import tones, write_wav
from tests.models import save_random_model

pytest.importorskip("starlette", reason="needs the extra 'server'")


def test_a_short_load_has_the_librarys_texts_no_errors_and_an_orderly_end(tmp_path):
    folder = save_random_model(tmp_path / "model")
    recognizer = Recognizer.load(folder, "cpu", no_speech_threshold=1)  # tones are no speech
    rng = np.random.default_rng(0)
    paths = [write_wav(tmp_path / f"{text}.wav", tones(text, rng)) for text in ("abcd", "dcba abc", "a")]
    facts = measure(str(folder), recognizer, paths, 4, 40, ["--no-speech-threshold", "1"])
    assert facts["other texts"] == [] and facts["first status"] == 200
    assert facts["statuses"] == {"200": 40}
    assert facts["SIGTERM under load"]["exit"] == 0
    assert facts["SIGTERM under load"]["server cut off"] == 0


def test_a_benchmark_of_another_model_would_name_the_files_that_differ(tmp_path):
    recognizer = Recognizer.load(save_random_model(tmp_path / "other", seed=4), "cpu", no_speech_threshold=1)
    path = write_wav(tmp_path / "a.wav", tones("abcd", np.random.default_rng(0)))
    folder = str(save_random_model(tmp_path / "model"))
    assert measure(folder, recognizer, [path], 1, 1, ["--no-speech-threshold", "1"])["other texts"] == ["a.wav"]


def test_quarters_and_percentiles():
    assert quarters([1, 1, 5, 5, 5, 5, 2, 2]) == (1, 2)
    assert [percentile(range(100), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 99]
