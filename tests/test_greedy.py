"""Greedy decoding: the text of the best path, where its tokens are, and what is refused."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asr.data.tokenizer import CharTokenizer
from asr.decode.greedy import greedy, words_with_times
from asr.decode.types import Hypothesis, Span, TimedWord, check_log_probs
from tests.reference import ctc_paths

TOKENIZER = CharTokenizer((" ", "a", "b"))


def log_softmax(logits_sv: np.ndarray) -> np.ndarray:
    shifted = logits_sv - logits_sv.max(axis=1, keepdims=True, initial=-1e9)
    return (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)


def peaked(path_s: list[int], vocabulary: int = 4) -> np.ndarray:
    """Log-probabilities whose best path is this one."""
    logits_sv = np.zeros((len(path_s), vocabulary))
    logits_sv[np.arange(len(path_s)), path_s] = 3.0
    return log_softmax(logits_sv)


def certain(path_s: list[int], vocabulary: int = 4) -> np.ndarray:
    """Probability 1 along a path: every other entry is -inf."""
    log_probs_sv = np.full((len(path_s), vocabulary), -np.inf, np.float32)
    log_probs_sv[np.arange(len(path_s)), path_s] = 0.0
    return log_probs_sv


@st.composite
def log_prob_arrays(draw) -> np.ndarray:
    """Few distinct values, so that ties and repeats are common."""
    shape = (draw(st.integers(0, 12)), 4)
    return log_softmax(draw(hnp.arrays(np.float64, shape, elements=st.sampled_from([-40.0, 0.0, 1.0, 2.5]))))


@given(log_prob_arrays())
def test_greedy_gives_the_text_of_the_best_path(log_probs_sv):
    hypothesis = greedy(log_probs_sv, TOKENIZER)
    labels = ctc_paths.greedy(log_probs_sv)
    assert tuple(span.token for span in hypothesis.spans) == labels
    assert hypothesis.text == "".join(" ab"[token - 1] for token in labels)


@given(log_prob_arrays())
def test_the_score_is_the_log_prob_of_the_best_path(log_probs_sv):
    expected = sum(max(float(x) for x in row) for row in log_probs_sv)
    assert greedy(log_probs_sv, TOKENIZER).log_prob == pytest.approx(expected, rel=1e-12)  # both sum in float64


@given(st.lists(st.integers(0, 3), max_size=15))
def test_spans_are_the_runs_of_the_path_in_order(path_s):
    spans = greedy(peaked(path_s), TOKENIZER).spans
    rebuilt = [0] * len(path_s)
    end = 0
    for span in spans:
        assert end <= span.start < span.end <= len(path_s)
        rebuilt[span.start : span.end] = [span.token] * (span.end - span.start)
        end = span.end
    assert rebuilt == path_s
    for before, after in itertools.pairwise(spans):
        assert before.token != after.token or before.end < after.start, "equal neighbours have a blank between them"


def test_zero_steps_give_the_empty_text_for_certain():
    assert greedy(np.zeros((0, 4), np.float32), TOKENIZER) == Hypothesis("", 0.0, ())


def test_one_step_gives_one_token():
    hypothesis = greedy(certain([2]), TOKENIZER)
    assert hypothesis == Hypothesis("a", 0.0, (Span(2, 0, 1, 0.0),))


def test_all_blank_gives_the_empty_text():
    hypothesis = greedy(peaked([0, 0, 0]), TOKENIZER)
    assert (hypothesis.text, hypothesis.spans) == ("", ())
    assert hypothesis.log_prob < 0


def test_impossible_tokens_are_allowed():
    assert greedy(certain([2, 0, 2, 3, 3]), TOKENIZER) == Hypothesis(
        "aab", 0.0, (Span(2, 0, 1, 0.0), Span(2, 2, 3, 0.0), Span(3, 3, 5, 0.0))
    )


def test_a_vocabulary_of_only_the_blank_writes_nothing():
    assert greedy(np.zeros((3, 1), np.float32), CharTokenizer(())) == Hypothesis("", 0.0, ())


def test_ties_go_to_the_lower_token():
    assert greedy(log_softmax(np.zeros((2, 4))), TOKENIZER).text == ""
    assert greedy(log_softmax(np.array([[0.0, 0.0, 1.0, 1.0]])), TOKENIZER).text == "a"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[1.0, 2.0, -3.0, 0.5]]), r"must sum to 1 \(got 11.81 in step 0\): did you pass logits\?"),
        (np.array([[0.7, 0.1, 0.1, 0.1]]), r"must sum to 1 \(got 5.329 in step 0\): did you pass probabilities\?"),
        (np.vstack([peaked([1, 2]), [[-1, -1, -1, -1]]]), r"got 1.472 in step 2\): did you pass logits\?"),
        (np.full((1, 4), -np.inf), r"got 0 in step 0"),
        (np.array([[np.inf, 0, 0, 0]]), r"got inf in step 0"),
        (np.vstack([peaked([1]), [[np.nan, 0, 0, 0]]]), "not a number in step 1"),
        (np.zeros(4), r"shape \(steps, vocabulary\), got \(4,\)"),
        (peaked([1, 2])[None], r"shape \(steps, vocabulary\), got \(1, 2, 4\)"),
    ],
    ids=["logits", "probs", "one bad row", "all -inf", "inf", "nan", "1-d", "3-d"],
)
def test_what_is_not_log_probs_is_refused_with_what_it_looks_like(values, message):
    with pytest.raises(ValueError, match=message):
        greedy(values.astype(np.float32), TOKENIZER)


def test_another_vocabulary_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"log_probs has 5 tokens, the tokenizer 4 \(blank included\)"):
        greedy(peaked([1], vocabulary=5), TOKENIZER)


def test_rows_may_miss_one_by_a_thousandth_and_no_more():
    row = np.log([[0.25, 0.25, 0.25, 0.25]])
    check_log_probs((row + 0.0009).astype(np.float32))
    check_log_probs((row - 0.0009).astype(np.float32))
    for shift in (0.0012, -0.0012):
        with pytest.raises(ValueError, match="must sum to 1"):
            check_log_probs((row + shift).astype(np.float32))


def words(text_path: str) -> list[TimedWord]:
    """Words of a path written with its symbols, ``-`` for blank, at 0.1 s a step."""
    hypothesis = greedy(certain(["- ab".index(c) for c in text_path]), TOKENIZER)
    return words_with_times(hypothesis, TOKENIZER, 0.1)


def test_a_word_lasts_from_its_first_token_to_the_end_of_its_last():
    assert words("-aa-b -bb") == [TimedWord("ab", 0.1, 0.5, 1.0), TimedWord("b", 0.7, 0.9, 1.0)]


def test_a_word_is_as_sure_as_its_tokens_at_their_strongest_steps():
    p_sv = np.array([[0.1, 0.0, 0.9, 0.0], [0.3, 0.0, 0.7, 0.0], [0.2, 0.0, 0.0, 0.8]], np.float32)
    with np.errstate(divide="ignore"):
        (word,) = words_with_times(greedy(np.log(p_sv), TOKENIZER), TOKENIZER, 0.1)
    assert (word.word, word.confidence) == ("ab", pytest.approx(0.72))


def test_rows_that_sum_to_a_little_more_than_one_give_no_confidence_above_it():
    heard = Hypothesis("ab", 0.0, (Span(2, 0, 1, 9e-4), Span(3, 1, 2, 9e-4)))
    assert words_with_times(heard, TOKENIZER, 0.1)[0].confidence == 1.0


@pytest.mark.parametrize("path", [" -a b-", " a - b ", "a  b  ", " - a- -b- - "])
def test_spaces_at_the_ends_and_doubled_make_no_words(path):
    found = words(path)
    assert [w.word for w in found] == ["a", "b"]
    assert [round(w.start_s * 10) for w in found] == [path.index("a"), path.index("b")]


@pytest.mark.parametrize("path", ["", "---", " ", " - "])
def test_no_letters_make_no_words(path):
    assert words(path) == []


@given(st.lists(st.integers(0, 3), max_size=15))
def test_the_timed_words_are_the_words_of_the_text_in_order(path_s):
    hypothesis = greedy(certain(path_s), TOKENIZER)
    found = words_with_times(hypothesis, TOKENIZER, 0.02)
    assert [w.word for w in found] == hypothesis.text.split()
    times = [t for w in found for t in (w.start_s, w.end_s)]
    assert times == sorted(times)
    assert all(0 <= t <= round(0.02 * len(path_s), 3) for t in times)


def test_the_beams_share_and_the_sound_count_alike():
    heard = Hypothesis("a", 0.0, (Span(2, 0, 1, float(np.log(0.25))),), word_shares=(1.0,))
    (word,) = words_with_times(heard, TOKENIZER, 0.1)
    assert word.confidence == pytest.approx(0.5)


def test_threads_that_ask_for_the_same_spans_all_get_them():
    for _ in range(50):
        hypothesis = greedy(certain([2, 0, 3] * 200), TOKENIZER)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: hypothesis.spans, range(8)))  # noqa: B023
        assert all(spans == found[0] for spans in found) and len(found[0]) == 400
    with pytest.raises(AttributeError, match="no 'span'"):
        hypothesis.span  # noqa: B018
