"""Long recordings: pieces joined as log-probabilities are the recording, at the right times, in bounded passages."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.tokenizer import BLANK_ID, CharTokenizer
from asr.decode.greedy import greedy, words_with_times
from asr.recordings.longform import (
    LONGEST_PASSAGE_S,
    PASSAGE_PAUSE_S,
    PASSAGE_S,
    Joiner,
    join_at,
    log_probs_of_recording,
    longest_piece_s,
    pause_log_probs,
)
from asr.recordings.media import open_array
from asr.recordings.pauses import Piece
from tests.builders import tones
from tests.models import save_random_model

RATE, STEP_S = 1000, 0.04
TOKENIZER = CharTokenizer((" ", "a", "b", "c"))
MODEL = SimpleNamespace(audio=SimpleNamespace(sample_rate_hz=RATE), step_s=STEP_S, tokenizer=TOKENIZER, training={})


def path_log_probs(path: list[int]) -> np.ndarray:
    """Log-probabilities whose best path is this one."""
    probs_sv = np.full((len(path), 5), 0.01, np.float32)
    probs_sv[np.arange(len(path)), path] = 0.96
    return np.log(probs_sv)


def steps(seconds: float) -> int:
    return round(seconds / STEP_S)


def piece(start_s: float, length_s: float, ends="end", pause_s=0.0, keep_from_s=None, keep_to_s=None) -> Piece:
    start_n, size = round(start_s * RATE), round(length_s * RATE)
    keep_from_n = start_n if keep_from_s is None else round(keep_from_s * RATE)
    keep_to_n = start_n + size if keep_to_s is None else round(keep_to_s * RATE)
    return Piece(np.zeros(0), start_n, start_n + size, keep_from_n, keep_to_n, ends, pause_s)


def spelled(*letters: str) -> np.ndarray:
    """Each letter in its step with a blank after it."""
    ids = [TOKENIZER.symbols.index(letter) + 1 for letter in letters]
    return path_log_probs([token for id_ in ids for token in (id_, BLANK_ID)])


def test_one_piece_is_the_recording():
    joiner = Joiner(MODEL)
    log_probs_sv = spelled("a", "b")
    assert joiner.add(piece(0, 4 * STEP_S), log_probs_sv) == []
    (whole,) = joiner.finish()
    assert whole.log_probs_sv.tobytes() == log_probs_sv.tobytes() and whole.seams == ()
    np.testing.assert_allclose(whole.start_s, np.arange(4) * STEP_S)
    np.testing.assert_allclose(whole.end_s, np.arange(1, 5) * STEP_S)


def test_the_last_step_ends_with_the_audio():
    joiner = Joiner(MODEL)
    joiner.add(piece(1.0, 3.5 * STEP_S), spelled("a", "b"))
    (whole,) = joiner.finish()
    assert whole.end_s[-1] == pytest.approx(1.0 + 3.5 * STEP_S)


def test_a_pause_keeps_words_apart_and_equal_tokens_two_and_times_are_those_of_the_recording():
    joiner = Joiner(MODEL)
    joiner.add(piece(2.0, 4 * STEP_S, "pause", 0.4), path_log_probs([2, 0, 0, 3]))
    assert joiner.add(piece(3.0, 4 * STEP_S), path_log_probs([3, 0, 2, 0])) == []
    (both,) = joiner.finish()
    hypothesis = greedy(both.log_probs_sv, TOKENIZER)
    assert hypothesis.text == "ab ba"
    first, second = words_with_times(hypothesis, TOKENIZER, (both.start_s, both.end_s))
    assert (first.start_s, first.end_s) == (2.0, 2.16)
    assert (second.start_s, second.end_s) == (3.0, 3.12)
    assert [(seam.kind, seam.at_s, seam.length_s) for seam in both.seams] == [("pause", 3.0, 0.4)]


def test_a_vocabulary_without_a_space_gets_a_sure_blank():
    subwords = SimpleNamespace(symbols=("▁a", "b"), vocabulary_size=3)
    assert np.exp(pause_log_probs(subwords)).argmax() == BLANK_ID
    for tokenizer in (subwords, TOKENIZER):
        assert np.exp(pause_log_probs(tokenizer)).sum() == pytest.approx(1, abs=1e-5)


@given(
    path=st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 3]), min_size=60, max_size=60),
    start=st.integers(20, 30),
    shared=st.integers(9, 20),
)
def test_two_parts_of_one_sequence_that_share_steps_join_to_it(path, start, shared):
    whole_sv = path_log_probs(path)
    before_sv, after_sv = whole_sv[: start + shared], whole_sv[start:]
    before_s, after_s = np.arange(start + shared) * STEP_S, np.arange(start, 60) * STEP_S
    at_before, at_after = join_at(before_sv, before_s, after_sv, after_s, (start + shared / 2) * STEP_S, STEP_S)
    joined_sv = np.concatenate([before_sv[:at_before], after_sv[at_after:]])
    np.testing.assert_array_equal(joined_sv, whole_sv)
    assert start < at_before < start + shared


def test_a_spike_that_lies_a_step_apart_in_two_parts_is_taken_once():
    # the same "b" at step 30 in the first part and at step 31 in the second, in the very middle of what they share
    before = [0] * 40
    after = [0] * 40  # its first step is step 20 of the recording
    before[30], after[11] = 3, 3
    before_s, after_s = np.arange(40) * STEP_S, (20 + np.arange(40)) * STEP_S
    at_before, at_after = join_at(
        path_log_probs(before), before_s, path_log_probs(after), after_s, 30.5 * STEP_S, STEP_S
    )
    assert [*before[:at_before], *after[at_after:]].count(3) == 1


def test_a_space_that_one_part_has_earlier_is_not_lost_between_two():
    # "b", a pause in speech, "c": the space is at its end in the first part, at its beginning in the second
    before, after = [0] * 40, [0] * 40  # the second's first step is step 20 of the recording
    before[26], before[34], before[36] = 3, 1, 4
    after[6], after[8], after[16] = 3, 1, 4
    for middle in range(28, 33):
        before_s = np.arange(40) * STEP_S
        after_s = (20 + np.arange(40)) * STEP_S
        at_before, at_after = join_at(
            path_log_probs(before), before_s, path_log_probs(after), after_s, middle * STEP_S, STEP_S
        )
        joined = [token for token in [*before[:at_before], *after[at_after:]] if token]
        assert joined == [3, 1, 4]


def test_an_overlap_is_joined_and_named():
    joiner = Joiner(MODEL)
    path = [0, 2, 0, 3, 0, 0, 0, 0, 0, 4, 0, 2]
    whole_sv = path_log_probs(path)
    shared_s = 6 * STEP_S
    first = piece(0, 10 * STEP_S, "overlap", shared_s, keep_to_s=7 * STEP_S)
    second = piece(4 * STEP_S, 8 * STEP_S, keep_from_s=7 * STEP_S)
    assert joiner.add(first, whole_sv[:10]) == []
    assert joiner.add(second, whole_sv[4:]) == []
    (joined,) = joiner.finish()
    np.testing.assert_array_equal(joined.log_probs_sv, whole_sv)
    np.testing.assert_allclose(joined.start_s, np.arange(12) * STEP_S)
    assert [(seam.kind, seam.length_s) for seam in joined.seams] == [("overlap", shared_s)]


def test_a_long_pause_ends_a_passage_and_a_long_passage_ends_at_the_next_pause():
    def passages(pauses_s, piece_s, whole=False):
        joiner, found, at_s = Joiner(MODEL, whole=whole), [], 0.0
        for pause_s in pauses_s:
            found += joiner.add(piece(at_s, piece_s, "pause", pause_s), path_log_probs([2] * steps(piece_s)))
            at_s += piece_s
        found += joiner.add(piece(at_s, piece_s), path_log_probs([2] * steps(piece_s)))
        return found + joiner.finish()

    assert len(passages([0.5] * 5, 4.0)) == 1
    assert len(passages([0.5, PASSAGE_PAUSE_S, 0.5], 4.0)) == 2
    assert len(passages([0.5, 3.0], 4.0, whole=True)) == 1
    in_bounds = passages([0.3] * 20, 20.0)
    assert len(in_bounds) > 1
    lengths_s = [one.end_s[-1] - one.start_s[0] for one in in_bounds]
    assert (
        all(PASSAGE_S <= length_s <= PASSAGE_S + 20 for length_s in lengths_s[:-1]) and lengths_s[-1] <= PASSAGE_S + 20
    )


def test_a_passage_without_any_pause_ends_too():
    joiner, found = Joiner(MODEL), []
    piece_s, shared_s, at_s = 20.0, 2.0, 0.0
    for _ in range(40):
        one = piece(at_s, piece_s, "overlap", shared_s, at_s + shared_s / 2, at_s + piece_s - shared_s / 2)
        found += joiner.add(one, path_log_probs([0] * steps(piece_s)))
        at_s += piece_s - shared_s
    assert found and all(one.end_s[-1] - one.start_s[0] <= LONGEST_PASSAGE_S + 2 * piece_s for one in found)
    starts_s = np.concatenate([one.start_s for one in [*found, *joiner.finish()]])
    np.testing.assert_allclose(np.diff(starts_s), STEP_S, atol=1e-6)  # nothing lost, nothing twice


def test_nothing_but_silence_gives_no_steps(tmp_path):
    from asr.model.checkpoint import load_model

    model = load_model(save_random_model(tmp_path / "m"))
    silence = open_array(np.zeros(30 * 16000, np.float32), 16000, model.audio.sample_rate_hz)
    with silence as stream:
        found = log_probs_of_recording(model, stream)
    assert found.log_probs_sv.shape[1] == model.tokenizer.vocabulary_size
    assert len(found.log_probs_sv) == len(found.start_s) == len(found.end_s)


def test_a_recording_no_longer_than_the_training_utterances_is_taken_whole(tmp_path):
    from asr.transcribe import Recognizer

    recognizer = Recognizer.load(save_random_model(tmp_path / "m"), "cpu", precision="fp32")
    rate = recognizer.model.audio.sample_rate_hz
    wave_n = tones("abcd dcba", np.random.default_rng(0))
    with open_array(wave_n, rate, rate) as stream:
        found = log_probs_of_recording(recognizer.model, stream)
    np.testing.assert_array_equal(found.log_probs_sv, recognizer.log_probs(wave_n))


def test_the_limit_is_the_longest_training_utterance():
    assert longest_piece_s(SimpleNamespace(training={"longest_s": 7.5})) == 7.5
    assert longest_piece_s(SimpleNamespace(training={})) == 20.0
    assert longest_piece_s(SimpleNamespace(training={"longest_s": 0.3})) == 0.5  # single digits
