"""Which units are drawn, and what drawing speakers does to an interval. (``tests/test_wer.py``: over utterances.)"""

from __future__ import annotations

import random

import numpy as np
import pytest

from asr.scoring import bootstrap
from asr.scoring.bootstrap import FEWEST_SPEAKERS, bootstrap_interval, pooled, unit_of


def test_speakers_are_drawn_when_all_are_known_and_there_are_enough() -> None:
    five = [f"s{i % FEWEST_SPEAKERS}" for i in range(20)]
    assert (unit_of(five).unit, unit_of(five).units) == ("speaker", 5)
    assert unit_of(five).drawn == "5 speakers"
    for fewer in (["s0", "s1", "s2", "s3"] * 5, [*five, ""], [""] * 3):
        assert (unit_of(fewer).unit, unit_of(fewer).units) == ("utterance", len(fewer))
    assert unit_of([""]).drawn == "1 utterance"


def test_an_interval_over_speakers_equals_a_slow_loop() -> None:
    generator = random.Random(5)
    speakers = [f"s{generator.randrange(8)}" for _ in range(60)]
    lengths = [generator.randint(1, 20) for _ in speakers]
    errors = [
        min(n, generator.choice([0, 0, 1, 3])) + (2 if s in ("s1", "s2") else 0)
        for n, s in zip(lengths, speakers, strict=True)
    ]
    names = sorted(set(speakers))
    rates = []
    for _ in range(10_000):
        drawn = [generator.choice(names) for _ in names]
        chosen = [i for name in drawn for i, s in enumerate(speakers) if s == name]
        rates.append(sum(errors[i] for i in chosen) / sum(lengths[i] for i in chosen))
    rates.sort()
    slow = rates[250], rates[9749]
    # As in test_wer: a quantile of 10,000 draws has a standard error of about 3 % of the half width.
    assert bootstrap_interval(errors, lengths, speakers) == pytest.approx(slow, abs=0.1 * (slow[1] - slow[0]))


def test_speakers_who_differ_make_the_interval_wider_than_utterances_do() -> None:
    # Half of the speakers have all the errors: 10 independent draws, not 100.
    speakers = [f"s{i % 10}" for i in range(100)]
    errors, lengths = [5 * (i % 2) for i in range(100)], [10] * 100
    wide, narrow = bootstrap_interval(errors, lengths, speakers), bootstrap_interval(errors, lengths)
    assert None not in (*wide, *narrow)
    ratio = (wide[1] - wide[0]) / (narrow[1] - narrow[0])  # type: ignore[operator]
    assert ratio == pytest.approx(10**0.5, rel=0.15)


def test_an_interval_over_speakers_covers_the_true_rate_where_one_over_utterances_does_not() -> None:
    generator = np.random.default_rng(1)
    speakers = [f"s{i % 20}" for i in range(200)]
    covered = {"speaker": 0, "utterance": 0}
    for trial in range(150):
        chance = np.clip(generator.normal(0.2, 0.08, 20), 0, 1)
        errors = generator.binomial(10, np.tile(chance, 10))
        for unit, names in (("speaker", speakers), ("utterance", None)):
            low, high = bootstrap_interval(errors, [10] * 200, names, resamples=500, seed=trial)
            covered[unit] += low <= 0.2 <= high  # type: ignore[operator]
    # 20 speakers: a little below the 95 % it says; utterances as if independent: far below.
    assert covered["speaker"] >= 0.85 * 150
    assert covered["utterance"] <= 0.75 * 150


def test_numbers_are_pooled_by_speaker() -> None:
    assert pooled(np.array([[1, 2, 3], [10, 20, 30]]), ["x", "y", "x"]).tolist() == [[4, 2], [40, 20]]


def test_the_interval_does_not_depend_on_the_order_of_a_speaker_s_utterances() -> None:
    speakers, errors, lengths = ["a", "a", "b", "c", "d", "e"], [1, 0, 2, 3, 0, 1], [4, 5, 6, 7, 8, 9]
    swapped = bootstrap_interval([0, 1, 2, 3, 0, 1], [5, 4, 6, 7, 8, 9], speakers)
    assert swapped == bootstrap_interval(errors, lengths, speakers)


def test_blocks_of_draws_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [[0, 1, 2, 5, 3], [5, 6, 7, 8, 9]]
    whole = bootstrap.resampled_sums(values, None, 1003)
    monkeypatch.setattr(bootstrap, "_BLOCK", 50)
    assert (bootstrap.resampled_sums(values, None, 1003) == whole).all()
