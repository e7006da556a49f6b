"""The NIST matched-pairs test: segments by hand, by a second road, and as NIST's own program has them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.scoring.matched_pairs import MatchedPairs, error_segments, matched_pairs, z_test
from asr.scoring.sclite import align_words
from asr.scoring.wer import align
from tests.reference.mapsswe import differences, z_of

texts = st.lists(st.sampled_from("ab"), max_size=9).map(" ".join)


def found(reference: str, first: str, second: str) -> list[tuple[int, int]]:
    pairs = [(reference.split(), hypothesis.split()) for hypothesis in (first, second)]
    return list(error_segments(*align_words(pairs)))


def test_segments_of_an_example_worked_by_hand() -> None:
    reference = "a b c d e f g h i"
    # first:    a X c d e f g h i      wrong in b
    # second:   a b c d E g h i j      wrong in e, without f, and a word more at the end
    # both right: a; c d (two: the first segment ends); g h i (two: the second ends); what follows is the third.
    assert found(reference, "a X c d e f g h i", "a b c d E g h i j") == [(1, 0), (0, 2), (0, 1)]


def test_one_correct_word_parts_nothing_and_two_do() -> None:
    assert found("a b c", "X b Y", "a b c") == [(2, 0)]
    assert found("a b c d", "X b c Y", "a b c d") == [(1, 0), (1, 0)]
    # An insertion between the two correct words keeps the segment open.
    assert found("a b c d", "X b z c Y", "a b c d") == [(3, 0)]
    assert found("a b c d", "X b c Y", "a b z c d") == [(2, 1)]


def test_words_are_right_only_when_both_systems_have_them() -> None:
    # Each has two correct words in a row, but not the same two.
    assert found("a b c d e", "a b X d e", "X b c d Y") == [(1, 2)]
    assert found("a b c d e f", "X b c d e f", "a b c Y e f") == [(1, 0), (0, 1)]


def test_insertions_at_the_end_count_for_both() -> None:
    assert found("a b c", "a b c z", "a b c") == [(1, 0)]
    assert found("a b c", "a b c", "a b c z") == [(0, 1)]
    assert found("", "z", "") == [(1, 0)]
    assert found("", "", "") == []


@given(texts, texts, texts)
def test_segments_hold_all_errors_of_both(reference: str, first: str, second: str) -> None:
    pairs = found(reference, first, second)
    assert all(a + b > 0 for a, b in pairs)
    for system, hypothesis in enumerate((first, second)):
        wrong = sum(kind != "equal" for kind, _, _ in align(reference, hypothesis, "sclite"))
        assert sum(pair[system] for pair in pairs) == wrong
    assert found(reference, second, first) == [(b, a) for a, b in pairs]


@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=5))
def test_the_test_equals_a_second_implementation(rows: list[tuple[str, str, str]]) -> None:
    expected = differences(rows)
    aligned = [align_words([(row[0].split(), row[system].split()) for row in rows]) for system in (1, 2)]
    result = matched_pairs(*aligned)
    assert result.segments == len(expected)
    if len(set(expected)) > 1:
        assert result.z == pytest.approx(z_of(expected))
        assert result.p == pytest.approx(math.erfc(abs(z_of(expected)) / math.sqrt(2)))


#: (reference, first, second); what sc_stats 1.3 of SCTK 2.4.10 prints for these, with sclite's alignments, is below
NIST = [
    (
        "one two three four five six seven eight",
        "one two tree four five six seven eight",
        "one two three four five six seven eight",
    ),
    ("a b c d e f g h", "a x c d e f y h", "a b c d e f g h"),
    ("the cat sat on the mat", "the cat sat on the mat", "the cat sat on a mat"),
    ("go", "go now", "go"),
    ("go", "go", "go now"),
    ("yes it is", "", "yes"),
    ("v w x a b", "a b p q r", "v w x a b"),
    ("k l m n o p q r s t", "k l m n o p q r s t", "k z l m n o p q r s"),
    ("one two three four", "two three four one", "one two three four"),
    ("u v", "u v", "u v"),
    ("q r s t u v w", "q q r s t v w", "q r t u v w x"),
    ("b a n a n a s", "b a n a n a s", "p a n a m a s"),
]


def test_the_result_is_what_nist_s_own_program_prints() -> None:
    # MTCH_PR_RESULTS … (# segs: 18) … (mean: 0.389) (std dev: 1.335) (Z Stat: 1.236) (Stat Diff: No)
    aligned = [align_words([(row[0].split(), row[system].split()) for row in NIST]) for system in (1, 2)]
    result = matched_pairs(*aligned)
    assert result.segments == 18
    assert (round(result.mean or 0, 3), round(result.z or 0, 3)) == (0.389, 1.236)
    assert result.p == pytest.approx(0.216, abs=5e-4)  # two-sided, of the normal distribution


def test_z_by_hand() -> None:
    # mean 1, squared deviations 0 0 1 1, s = sqrt(2 / 3), z = 1 / (sqrt(2 / 3) / 2) = sqrt(6)
    result = z_test([1, 1, 0, 2])
    assert (result.segments, result.mean) == (4, 1.0)
    assert result.z == pytest.approx(math.sqrt(6))
    assert result.p == pytest.approx(0.01431, abs=1e-5)  # normal tables: 2 * (1 - Phi(2.4495))


def test_what_is_not_defined_is_said_so() -> None:
    assert z_test([]) == MatchedPairs(0, None, None, None)
    assert z_test([3]) == MatchedPairs(1, 3.0, None, None)
    assert z_test([1, 1]) == MatchedPairs(2, 1.0, None, None)
    assert z_test([0, 0]) == MatchedPairs(2, 0.0, 0.0, 1.0)
