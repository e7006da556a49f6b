"""Alignment with sclite's costs: optimal, its ties broken as sclite breaks them, and fast."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asr.scoring.sclite
from asr.errors import DataError
from asr.scoring.sclite import align_words
from asr.scoring.wer import Counts, word_counts
from tests.reference.sclite_alignment import operations

LETTERS = {"equal": "C", "substitute": "S", "delete": "D", "insert": "I"}
# Few words, so that ties are common.
words = st.lists(st.sampled_from("abc"), max_size=9)


def kinds(reference: list[str], hypothesis: list[str]) -> list[str]:
    (rows,) = align_words([(reference, hypothesis)])
    return [LETTERS[kind] for kind, _, _ in rows]


@given(words, words)
def test_operations_are_those_of_a_slow_table(reference: list[str], hypothesis: list[str]) -> None:
    assert kinds(reference, hypothesis) == operations(reference, hypothesis)


@given(st.lists(st.tuples(words, words), max_size=6))
def test_many_pairs_at_once_are_aligned_as_each_alone(pairs: list[tuple[list[str], list[str]]]) -> None:
    assert align_words(pairs) == [align_words([pair])[0] for pair in pairs]


@given(words, words)
def test_rows_rebuild_both_texts(reference: list[str], hypothesis: list[str]) -> None:
    (rows,) = align_words([(reference, hypothesis)])
    assert [ref for _, ref, _ in rows if ref is not None] == reference
    assert [hyp for _, _, hyp in rows if hyp is not None] == hypothesis
    for kind, ref, hyp in rows:
        assert {"delete": hyp is None, "insert": ref is None, "equal": ref == hyp}.get(kind, None not in (ref, hyp))


def test_blocks_change_nothing(monkeypatch) -> None:
    generator = random.Random(2)
    pairs = [tuple(generator.choices("abcd", k=generator.randint(0, 12)) for _ in range(2)) for _ in range(60)]
    whole = align_words(pairs)
    monkeypatch.setattr("asr.scoring.sclite._BLOCK", 200)
    assert align_words(pairs) == whole


def test_two_words_made_right_are_worth_one_more_error() -> None:
    # By hand: 5 substitutions cost 5 * 4 = 20; deleting v, w, x and inserting p, q, r costs 6 * 3 = 18.
    reference, hypothesis = "v w x a b", "a b p q r"
    assert kinds(reference.split(), hypothesis.split()) == list("DDDCCIII")
    assert word_counts([(reference, hypothesis)]) == [Counts(5, 0, 0, 5)]
    assert word_counts([(reference, hypothesis)], "sclite") == [Counts(0, 3, 3, 5)]


def test_equally_many_errors_are_split_differently() -> None:
    # 2 substitutions cost 8, a deletion and an insertion 6: two errors either way.
    assert word_counts([("a b", "b c")]) == [Counts(2, 0, 0, 2)]
    assert word_counts([("a b", "b c")], "sclite") == [Counts(0, 1, 1, 2)]


#: (reference, hypothesis, (S, D, I) as sclite 2.10 of SCTK 2.4.10 prints them)
PRINTED = [
    ("a b c d e", "b c d e f", (0, 1, 1)),
    ("x y a", "a p q", (3, 0, 0)),  # 3 substitutions and 4 errors of gaps cost 12 both
    ("v w x y z a b", "a b p q r s t", (7, 0, 0)),
    ("v w x y z", "p q r", (3, 2, 0)),
    ("v w x a b", "a b p q r", (0, 3, 3)),
    ("one two three four", "two three four one", (0, 1, 1)),
    ("q r s t u v w", "q q r s t v w", (0, 1, 1)),
    ("b a n a n a s", "p a n a m a s", (2, 0, 0)),
    ("yes it is", "", (0, 3, 0)),
]


def test_counts_are_those_that_sclite_prints() -> None:
    found = word_counts([(reference, hypothesis) for reference, hypothesis, _ in PRINTED], "sclite")
    assert [(c.substitutions, c.deletions, c.insertions) for c in found] == [counts for *_, counts in PRINTED]


def test_long_texts_are_aligned_in_seconds() -> None:
    generator = random.Random(0)
    reference = generator.choices("abcdefgh", k=2000)
    hypothesis = [word for word in reference if generator.random() > 0.2]
    start = time.perf_counter()
    (rows,) = align_words([(reference, hypothesis)])
    assert time.perf_counter() - start < 10
    assert sum(kind == "delete" for kind, _, _ in rows) - sum(kind == "insert" for kind, _, _ in rows) == 2000 - len(
        hypothesis
    )


def test_texts_too_long_for_one_table_are_one_line(monkeypatch) -> None:
    monkeypatch.setattr(asr.scoring.sclite, "ALIGNMENT", 20)
    assert align_words([(["a", "b", "c", "d"], ["e", "f", "g", "h", "i"])])
    with pytest.raises(
        DataError, match=r"^5 reference words beside 5 words, .* 'a b c d e …'\); score the text in seg"
    ):
        align_words([(["a", "b", "c", "d", "e"], ["f", "g", "h", "i", "j"])])
