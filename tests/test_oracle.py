"""The oracle of n-best lists takes the text with the fewest word errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import DataError
from asr.scoring.oracle import oracle
from asr.scoring.wer import score
from tests.reference.edit_distance import edit_distance

texts = st.lists(st.sampled_from(["a", "b", "cc"]), max_size=5).map(" ".join)


@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_errors_are_the_least_of_each_list_by_an_independent_edit_distance(rows: list[tuple[str, list[str]]]) -> None:
    found = oracle([(f"u{i}", reference, each) for i, (reference, each) in enumerate(rows)])
    least = [min(edit_distance(ref.split(), text.split()) for text in each) for ref, each in rows]
    assert [one.counts.errors for one in found.per_utterance] == least
    for one, (_, each), errors in zip(found.per_utterance, rows, least, strict=True):
        first = next(t for t in each if edit_distance(one.reference.split(), t.split()) == errors)
        assert one.hypothesis == first


def test_lists_of_one_text_are_scored_as_it() -> None:
    rows = [("u1", "a b c", "a x"), ("u2", "d", "d e")]
    assert oracle([(id_, ref, [hyp]) for id_, ref, hyp in rows], alignment="sclite", normalization="lower") == score(
        rows, alignment="sclite", normalization="lower"
    )


def test_the_costs_of_the_alignment_decide() -> None:
    # Levenshtein: 5 errors in both, so the first; sclite: 6 in the first (tests/test_sclite.py), 5 in the second.
    rows = [("u1", "v w x a b", ["a b p q r", "q q q q q"])]
    assert oracle(rows).per_utterance[0].hypothesis == "a b p q r"
    assert oracle(rows, alignment="sclite").per_utterance[0].hypothesis == "q q q q q"


def test_no_texts_are_an_empty_one_and_no_rows_are_refused() -> None:
    assert oracle([("u1", "a b", [])]).wer.deletions == 2
    with pytest.raises(DataError, match="no utterances to score"):
        oracle([])
