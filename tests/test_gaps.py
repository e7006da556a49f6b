"""Alignment of what fits: the gaps are those of the best path, found again by trying all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.alignment import best_path, gaps
from asr.alignment.forced import force_align
from asr.alignment.gaps import Gap, find_gaps
from asr.alignment.unmatched import stretches, tokens_of_words
from asr.data.subwords import SubwordTokenizer
from asr.data.tokenizer import CharTokenizer
from tests.test_align import log_softmax

#: low costs, so that gaps pay in a few steps
GAP_COST, CHARACTER_COST = 3.0, 1.0
LETTERS = [0, 0, 1, 1, 2]


@pytest.fixture(autouse=True)
def low_costs(monkeypatch):
    monkeypatch.setattr(gaps, "GAP_COST", GAP_COST)
    monkeypatch.setattr(gaps, "CHARACTER_COST", CHARACTER_COST)


def stretch_score(log_probs_sv, words, delimiter: int) -> float:
    tokens: list[int] = []
    for word in words:
        tokens += [delimiter, *word] if tokens and delimiter >= 0 else word
    try:
        return force_align(log_probs_sv, tokens, delimiter=delimiter).log_prob
    except ValueError:  # too few steps
        return -math.inf


def gap_score(log_probs_sv, words) -> float:
    letters = sum(LETTERS[token] for word in words for token in word)
    return float(log_probs_sv.max(axis=1).astype(np.float64).sum()) - GAP_COST - CHARACTER_COST * letters


def score_of(log_probs_sv, words, delimiter: int, found: list[Gap]) -> float:
    total = sum(gap_score(log_probs_sv[g.start : g.end], words[g.first_word : g.end_word]) for g in found)
    for part in stretches(found, len(log_probs_sv), len(words)):
        total += stretch_score(log_probs_sv[part.steps], words[part.words], delimiter)
    return total


def best_score(log_probs_sv, words, delimiter: int) -> float:
    """The best of all ways to cut steps and words into stretches and gaps, by turns."""
    steps, count = len(log_probs_sv), len(words)
    # best[kind][s][w]: up to step s and word w, the last part being a stretch (0) or a gap (1)
    best = np.full((2, steps + 1, count + 1), -math.inf)
    best[:, 0, 0] = 0.0
    for end in range(1, steps + 1):
        for done in range(count + 1):
            for start in range(end):
                for first in range(done + 1):
                    part = log_probs_sv[start:end]
                    if first < done and best[1, start, first] > -math.inf:
                        value = best[1, start, first] + stretch_score(part, words[first:done], delimiter)
                        best[0, end, done] = max(best[0, end, done], value)
                    if best[0, start, first] > -math.inf:
                        value = best[0, start, first] + gap_score(part, words[first:done])
                        best[1, end, done] = max(best[1, end, done], value)
    return float(best[:, steps, count].max())


@st.composite
def problems(draw):
    steps = draw(st.integers(1, 7))
    logits = draw(st.lists(st.lists(st.floats(-6, 6), min_size=5, max_size=5), min_size=steps, max_size=steps))
    words = draw(st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=2), min_size=1, max_size=3))
    return log_softmax(np.array(logits)), words


@given(problem=problems(), delimiter=st.sampled_from([-1, 1]))
def test_no_other_gaps_are_better(problem, delimiter):
    log_probs_sv, words = problem
    found = find_gaps(log_probs_sv, words, LETTERS, delimiter=delimiter)
    # 1e-4: what force_align takes in float32 is summed in another order
    assert score_of(log_probs_sv, words, delimiter, found) == pytest.approx(
        best_score(log_probs_sv, words, delimiter), abs=1e-4
    )
    assert all(gap.start < gap.end and gap.first_word <= gap.end_word for gap in found)


@pytest.mark.parametrize("delimiter", [-1, 1])
@pytest.mark.parametrize("seed", range(5))
def test_blocks_change_nothing(seed, delimiter, monkeypatch):
    rng = np.random.default_rng(seed)
    log_probs_sv = log_softmax(3 * rng.normal(size=(100, 5)))
    words = [rng.integers(2, 5, size=rng.integers(1, 4)).tolist() for _ in range(25)]
    whole = find_gaps(log_probs_sv, words, LETTERS, delimiter=delimiter)
    monkeypatch.setattr(best_path, "_ONE_BLOCK", 1)  # then a block has 29 steps
    assert find_gaps(log_probs_sv, words, LETTERS, delimiter=delimiter) == whole
    assert len(whole) > 2


def said(path_s: list[int]) -> np.ndarray:
    logits_sv = np.zeros((len(path_s), 5))
    logits_sv[np.arange(len(path_s)), path_s] = 9
    return log_softmax(logits_sv)


def test_what_fits_has_no_gap():
    assert find_gaps(said([2, 0, 3, 1, 4, 0]), [[2, 3], [4]], LETTERS, delimiter=1) == []
    assert find_gaps(said([2, 0, 3, 4, 0]), [[2, 3], [4]], LETTERS) == []


def test_a_gap_is_as_short_as_it_can_be():
    # 2 3, then 4 4 4 that the text lacks, then 2: the gap begins behind the word and ends before the next
    log_probs_sv = said([2, 2, 3, 3, 0, 4, 0, 4, 0, 4, 0, 2, 2])
    (gap,) = find_gaps(log_probs_sv, [[2, 3], [2]], LETTERS)
    assert gap == Gap(5, 10, 1, 1)


def test_words_that_nobody_says_are_left_out_together_and_at_the_ends():
    log_probs_sv = said([0, 2, 0, 3, 0, 2, 3, 2, 0])
    words = [[4, 4], [4, 2], [2, 3, 2, 3, 2], [4], [3, 4]]
    found = find_gaps(log_probs_sv, words, LETTERS)
    assert [(gap.first_word, gap.end_word) for gap in found] == [(0, 2), (3, 5)]


def test_nothing_fits():
    (gap,) = find_gaps(said([0, 4, 0, 4, 0, 4, 0]), [[2, 3, 2], [3, 3]], LETTERS)
    assert gap == Gap(0, 7, 0, 2) and stretches([gap], 7, 2) == []


def test_without_steps_or_words_there_is_nothing_to_say():
    assert find_gaps(said([])[:0], [[2]], LETTERS) == []
    assert find_gaps(said([2, 0]), [], LETTERS) == []


def test_the_tokens_of_words_are_those_between_their_spaces():
    letters = CharTokenizer((" ", "A", "B"))
    tokens = letters.encode("A  BA AB B ")
    assert tokens_of_words(tokens, [1, 2, 1], letters) == [[2], [3, 2, 1, 2, 3], [3]]
    pieces = SubwordTokenizer.train(["THE SHED THE SHED HELLO WORLD", "OTHERS SHED THE LORD"], 24, "bpe")
    text = "THE SHED OTHERS"
    words = tokens_of_words(pieces.encode(text), [1, 1, 1], pieces)
    assert [pieces.decode(word).strip() for word in words] == text.split()
