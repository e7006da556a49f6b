"""Reliability tables: bins, calibration error and normalised cross entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.scoring.reliability import format_reliability, outcomes, reliability

words = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(words)
def test_every_word_is_in_one_bin(rows):
    table = reliability(rows)
    assert sum(b.words for b in table.bins) == table.words == len(rows)
    for b in table.bins:
        assert b.correct_low <= b.correct + 1e-12 and b.correct <= b.correct_high + 1e-12
    right = sum(b.words * b.correct for b in table.bins)
    assert right == pytest.approx(table.correct * len(rows))


def test_words_right_as_often_as_they_say_have_no_calibration_error_to_speak_of():
    rng = np.random.default_rng(0)
    said = rng.uniform(0, 1, 40_000)
    true = reliability(list(zip(said.tolist(), (rng.uniform(0, 1, said.size) < said).tolist(), strict=True)))
    boast = reliability(list(zip(np.sqrt(said).tolist(), (rng.uniform(0, 1, said.size) < said).tolist(), strict=True)))
    assert true.ece < 0.01 < 0.1 < boast.ece
    assert true.nce > 0.2 > boast.nce


def test_the_cross_entropy_by_hand():
    # four words, three right; an oracle reaches 1 but for the clipping, the mean of all words 0
    mean = reliability([(0.75, True)] * 3 + [(0.75, False)])
    assert mean.nce == pytest.approx(0) and mean.ece == pytest.approx(0)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    oracle = reliability([(1.0, True)] * 3 + [(0.0, False)])
    assert oracle.nce == pytest.approx(1 + math.log(0.999) / entropy)


def test_nothing_to_tell_apart_is_undefined_and_no_words_are_no_table():
    assert reliability([(0.9, True)]).nce is None and "undefined" in format_reliability(reliability([(0.9, True)]))
    assert reliability([]) is None


def test_a_deleted_word_has_no_confidence_and_an_inserted_one_is_wrong():
    assert outcomes("a b c", "a c", [0.9, 0.8]) == [(0.9, True), (0.8, True)]
    assert outcomes("a c", "a b c", [0.9, 0.8, 0.3]) == [(0.9, True), (0.8, False), (0.3, True)]
    with pytest.raises(ValueError):
        outcomes("a b", "a b", [0.9])


def test_the_table_for_people_names_every_bin():
    text = format_reliability(reliability([(0.2, False), (0.85, True), (0.999, True)]))
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["0.00", "0.80", "0.99"]
