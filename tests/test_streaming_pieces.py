from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decode.types import TimedWord
from asr.errors import DataError
from asr.streaming.pieces import PiecePool, PieceStream
from asr.streaming.results import Result, Rules
from asr.transcribe import Failure, Recognizer
from asr.transcript import Segment, Transcript
from tests.builders import Wave, noise
from tests.models import save_random_model
from tests.test_pauses import speech


class Counting:
    """A recognizer whose text is how many samples it was given, said in one word over all of them."""

    def __init__(self, fails_at: int = -1) -> None:
        self.given: list[int] = []
        self.calls = 0
        self._fails_at = fails_at

    def transcribe_all(self, sources: Sequence[tuple[Wave, int]]) -> Iterator[Transcript | Failure]:
        self.calls += 1
        for wave_n, rate_hz in sources:
            self.given.append(len(wave_n))
            if len(self.given) == self._fails_at:
                yield Failure("array", "array: no memory")
                continue
            word = TimedWord(str(len(wave_n)), 0.0, len(wave_n) / rate_hz)
            yield Transcript("array", word.word, word.end_s, -1.0, (Segment(0.0, word.end_s, word.word, (word,)),))


def pool_of(recognizer: Counting) -> PiecePool:
    return PiecePool(cast("Recognizer", recognizer))


def run(wave_n: Wave, chunk: int, rules: Rules = Rules(), ticks: int = 1) -> list[Result]:
    """The results of one stream, pushed in chunks of so many samples, with a tick after every so many."""
    pool = pool_of(Counting())
    stream = pool.open(16000, rules)
    results: list[Result] = []
    for i in range(0, len(wave_n), chunk):
        stream.push(wave_n[i : i + chunk])
        if i // chunk % ticks == 0:
            results += results_of(pool, stream)
    stream.finish()
    return results + results_of(pool, stream)


def results_of(pool: PiecePool, stream: PieceStream) -> list[Result]:
    ticked = pool.tick()
    assert {each for each, _ in ticked} <= {stream}
    return [result for _, results in ticked for result in results]


def test_a_passage_ends_in_the_pause_after_what_was_said() -> None:
    wave_n, words = speech("3www9ww9w" + "9" * 3)
    results = run(wave_n, 1600, Rules(pause_s=0.6))
    said = [result for result in results if result.text]
    assert len(said) == 3
    for result, (first, last) in zip(said, ((0, 2), (3, 4), (5, 5)), strict=True):
        assert result.start_s <= words[first][0]
        assert result.end_s > words[last][1]
        assert result.final and result.stable == len(result.text)
    assert [result.start_s for result in results[1:]] == [result.end_s for result in results[:-1]]
    assert results[-1].end_s == pytest.approx(len(wave_n) / 16000)


@settings(max_examples=15)
@given(chunk=st.integers(160, 48000), ticks=st.integers(1, 7), seed=st.integers(0, 3))
def test_results_depend_on_the_samples_not_on_how_they_are_pushed(chunk: int, ticks: int, seed: int) -> None:
    wave_n, _ = speech("w2ww9w99ww3www9w", seed=seed)
    rules = Rules(silence_s=1.0, pause_s=0.7, longest_s=2.0)
    assert run(wave_n, chunk, rules, ticks) == run(wave_n, len(wave_n), rules)


def test_silence_is_not_given_to_the_model_and_gives_empty_results() -> None:
    results = run(noise(10.0, amplitude=1e-3), 1600)
    assert len(results) > 1
    assert all(result.text == "" and not result.words and result.final for result in results)


@pytest.mark.parametrize("silence_s", [0.2, 0.4, 0.5, 2.4])
def test_passages_of_silence_follow_each_other_however_short(silence_s: float) -> None:
    results = run(noise(4.0, amplitude=1e-3), 1600, Rules(silence_s=silence_s))
    assert all(result.start_s < result.end_s for result in results)
    assert [result.start_s for result in results[1:]] == [result.end_s for result in results[:-1]]
    assert results[-1].end_s == 4.0


def test_silence_is_held_no_longer_than_the_longest_passage() -> None:
    results = run(noise(10.0, amplitude=1e-3), 1600, Rules(silence_s=3600.0, pause_s=3600.0, longest_s=3.0))
    assert max(result.end_s - result.start_s for result in results) <= 3.0


def test_long_quiet_at_the_ends_of_a_passage_is_left_out_and_times_stay_those_of_the_stream() -> None:
    wave_n, words = speech("99w999")
    said = [result for result in run(wave_n, 1600) if result.text]
    assert len(said) == 1
    word = said[0].words[0]
    assert words[0][0] - 0.2 < word.start_s < words[0][0]
    assert words[0][1] < word.end_s < words[0][1] + 0.2


def test_a_short_recording_is_given_whole() -> None:
    wave_n, _ = speech("3ww2w4")
    assert [result.text for result in run(wave_n, 777)] == [str(len(wave_n))]


def test_a_long_passage_ends_in_the_next_short_pause() -> None:
    wave_n, _ = speech("w3" * 12)
    ends_s = [result.end_s for result in run(wave_n, 1600, Rules(longest_s=2.0))]
    assert len(ends_s) > 3
    assert all(2.0 <= stop_s - start_s < 3.0 for start_s, stop_s in zip([0.0, *ends_s[:-2]], ends_s[:-1], strict=True))


def test_a_passage_without_pause_is_cut_all_the_same() -> None:
    results = run(noise(20.0, amplitude=0.3) * np.hanning(320000).astype(np.float32) ** 8, 1600, Rules(longest_s=2.0))
    assert max(result.end_s - result.start_s for result in results) <= 3.1


def test_a_flush_ends_the_passage_at_once_and_time_goes_on() -> None:
    wave_n, _ = speech("2w1")
    pool = pool_of(Counting())
    stream = pool.open(16000)
    stream.push(wave_n)
    stream.flush()
    stream.flush()  # nothing is left to end
    first = results_of(pool, stream)
    stream.push(wave_n)
    stream.finish()
    second = results_of(pool, stream)
    assert [result.text for result in first + second] == [str(len(wave_n))] * 2
    assert second[0].start_s == first[0].end_s == len(wave_n) / 16000
    assert stream.is_done


def test_the_passages_of_all_streams_go_through_the_model_together() -> None:
    wave_n, _ = speech("2w1")
    recognizer = Counting()
    pool = pool_of(recognizer)
    streams = [pool.open(16000) for _ in range(5)]
    for i, stream in enumerate(streams):
        stream.push(wave_n[: len(wave_n) - i])
        stream.finish()
    ticked = dict(pool.tick())
    assert recognizer.calls == 1
    assert [ticked[stream][0].text for stream in streams] == [str(len(wave_n) - i) for i in range(5)]
    assert pool.tick() == []


def test_a_closed_stream_is_forgotten() -> None:
    pool = pool_of(Counting())
    stream = pool.open(16000)
    stream.push(noise(1.0))
    stream.finish()
    stream.close()
    stream.close()
    assert pool.tick() == []


def test_a_stream_that_cannot_be_transcribed_ends_and_says_why_and_the_others_go_on() -> None:
    wave_n, _ = speech("2w1")
    pool = pool_of(Counting(fails_at=1))
    bad, good = pool.open(16000), pool.open(16000)
    for stream in (bad, good):
        stream.push(wave_n)
        stream.flush()
    ticked = dict(pool.tick())
    assert ticked[bad] == [] and bad.is_done and "no memory" in bad.failure
    assert ticked[good][0].text and not good.is_done and not good.failure


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (np.array([0.0, np.nan], np.float32), "not finite"),
        (np.array([0.0, 2e4], np.float32), "divide 16-bit values"),
        (np.zeros((4, 2), np.float32), "one channel"),
        (np.zeros(4, np.int64), "int64"),
    ],
)
def test_samples_that_are_none_are_refused_when_they_are_pushed(samples: Any, why: str) -> None:
    stream = pool_of(Counting()).open(16000)
    with pytest.raises(DataError, match=why):
        stream.push(samples)


@pytest.mark.parametrize("rate_hz", [0, 999, 16000.5, 1e9, "16000"])
def test_a_rate_that_no_speech_has_is_refused(rate_hz: Any) -> None:
    with pytest.raises(DataError, match="sample rate"):
        pool_of(Counting()).open(rate_hz)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
def test_a_stream_gives_what_the_recognizer_gives_of_the_same_samples(tmp_path: Path, rate_hz: int) -> None:
    recognizer = Recognizer.load(save_random_model(tmp_path / "model"), no_speech_threshold=1.0)
    wave_n, _ = speech("2ww2", rate_hz)
    pcm_n = np.round(wave_n * 32767).astype(np.int16)
    pool = PiecePool(recognizer)
    stream = pool.open(rate_hz)
    for i in range(0, len(pcm_n), 500):
        stream.push(pcm_n[i : i + 500])
    stream.finish()
    (result,) = results_of(pool, stream)
    whole = recognizer.transcribe(pcm_n, rate_hz)
    assert (result.text, result.words, result.log_prob) == (whole.text, whole.words, whole.log_prob)
    assert result.text
