"""The benchmark of live sockets, in short: every message is answered, and the texts are the library's."""

from __future__ import annotations

import numpy as np
import pytest

from asr.transcribe import Recognizer
from tests.builders import tones
from tests.models import save_streaming_model

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("websockets", reason="needs the extra 'server'")

from benchmarks.live import Stream, measure, played
from benchmarks.serve import started


def test_a_short_load_has_the_librarys_texts(tmp_path):
    folder = save_streaming_model(tmp_path / "model")
    recognizer = Recognizer.load(folder, "cpu", no_speech_threshold=1)  # tones are no speech
    rng = np.random.default_rng(0)
    waves = [np.round(tones(text, rng) * 32767).astype(np.int16) for text in ("abcd", "dcba abc", "a")]
    with started(str(folder), ["--no-speech-threshold", "1"]) as server:
        facts = measure(recognizer, server, waves, 3, 0.8, 0.1)
        other = Recognizer.load(save_streaming_model(tmp_path / "other"), "cpu", no_speech_threshold=0)
        refused = measure(other, server, waves, 1, 0.3, 0.1)
    assert facts["other texts"] == 0
    assert 0 < facts["added delay ms"]["50%"] <= facts["added delay ms"]["100%"]
    assert refused["other texts"] == 1


def test_a_stream_plays_the_recordings_in_turn():
    waves = [np.full(16000, i, np.int16) for i in range(3)]
    pcm_n = played(waves, 2.5, 2)
    assert [int(pcm_n[i]) for i in (0, 16000, 32000)] == [2, 0, 1]
    assert len(pcm_n) == 40000
    assert Stream(pcm_n).texts == []
