"""Ends of an interval that are computed: they are those of very many resamples, and refused where they would not be."""

from __future__ import annotations

import numpy as np
import pytest

from asr.scoring import bootstrap
from asr.scoring.bootstrap import bootstrap_interval
from asr.scoring.quantiles import ideal_ends

UTTERANCES = 12_000


def utterances(rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 40, UTTERANCES)
    # Most have no error and some have many, as real ones.
    chance = np.where(generator.random(UTTERANCES) < 0.6, 0.0, np.clip(generator.gamma(1, rate, UTTERANCES), 0, 1))
    return generator.binomial(lengths, chance), lengths


def drawn_rates(errors: np.ndarray, lengths: np.ndarray, resamples: int) -> np.ndarray:
    """Rates of resamples, drawn as the numbers of times that each distinct pair comes."""
    pairs, counts = np.unique(np.stack([errors, lengths]), axis=1, return_counts=True)
    times = np.random.default_rng(5).multinomial(len(errors), counts / len(errors), size=resamples)
    return (times @ pairs[0]) / (times @ pairs[1])


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_a_resample_is_outside_of_the_computed_ends_as_often_as_they_say(rate: float) -> None:
    errors, lengths = utterances(rate)
    ends = ideal_ends(errors, lengths, 0.025)
    assert ends is not None
    rates = drawn_rates(errors, lengths, 40_000)
    below, above = (rates <= ends[0]).mean(), (rates >= ends[1]).mean()
    # 40,000 draws: a standard deviation of 0.0008.
    assert below == pytest.approx(0.025, abs=0.003)
    assert above == pytest.approx(0.025, abs=0.003)


def test_ends_of_a_normal_sum_are_those_of_the_normal_distribution() -> None:
    # One word each: the errors of a resample are binomial, here with mean 5,000 and a deviation of 50.
    errors = np.arange(10_000) % 2
    ends = ideal_ends(errors, np.ones(10_000, dtype=np.int64), 0.025)
    assert ends == pytest.approx((0.5 - 0.00979982, 0.5 + 0.00979982), abs=2e-6)


def test_ends_are_not_computed_where_they_would_be_wrong() -> None:
    lengths = np.full(UTTERANCES, 10)
    few = np.zeros(UTTERANCES, dtype=np.int64)
    few[:3] = 1  # the errors of a resample are 0, 1, 2, …: no continuous distribution
    assert ideal_ends(few, lengths, 0.025) is None
    assert ideal_ends(few, np.zeros(UTTERANCES, dtype=np.int64), 0.025) is None
    assert ideal_ends(np.zeros(UTTERANCES, dtype=np.int64), lengths, 0.025) is None
    # Drawn instead: most resamples have between 0 and 7 of the three errors.
    assert bootstrap_interval(few, lengths, resamples=1000) == (0.0, pytest.approx(7 / lengths.sum(), rel=0.2))


def test_an_interval_is_computed_for_many_utterances_and_is_that_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, lengths = utterances(0.1, seed=3)
    computed = bootstrap_interval(errors, lengths, seed=1)
    assert computed == bootstrap_interval(errors, lengths, seed=2) == ideal_ends(errors, lengths, 0.025)
    monkeypatch.setattr(bootstrap, "COMPUTED_FROM", UTTERANCES + 1)
    drawn = bootstrap_interval(errors, lengths, resamples=4_000)
    assert drawn != computed
    # A quantile of 4,000 draws has a standard error of about 5 % of the half width.
    assert drawn == pytest.approx(computed, abs=0.1 * (computed[1] - computed[0]))  # type: ignore[operator]


def test_where_all_utterances_have_the_same_rate_it_is_the_interval() -> None:
    lengths = np.tile([4, 8], UTTERANCES // 2)
    assert bootstrap_interval(lengths // 4, lengths) == (0.25, 0.25)
