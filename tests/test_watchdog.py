"""The watchdog says why a model writes next to nothing, and says nothing about one that writes."""

from __future__ import annotations

import numpy as np
import pytest

from asr.training.watchdog import Health, Tally, cases_differ, diagnosis

SILENT = Health(blank_fraction=0.97, emitted_ratio=0.02, steps_per_token=4.0)


def diagnose(now: Health = SILENT, **changes: object) -> str | None:
    values = {"step": 5000, "total_steps": 9000, "lr": 1e-3, "losses_nats": [90.0, 80.0, 70.0], **changes}
    return diagnosis(now, **values)


def emissions(path_s: list[int]) -> np.ndarray:
    log_probs_sv = np.full((len(path_s), 3), np.log(0.1), np.float32)
    log_probs_sv[np.arange(len(path_s)), path_s] = np.log(0.8)
    return log_probs_sv


def test_health_is_counted_over_the_whole_set():
    tally = Tally()
    tally.add(emissions([0, 0, 1]), num_emitted=1, num_reference=1)
    tally.add(emissions([0, 2, 2, 0, 0]), num_emitted=1, num_reference=3)
    assert tally.health() == Health(blank_fraction=5 / 8, emitted_ratio=2 / 4, steps_per_token=8 / 4)


def test_health_of_nothing_is_finite():
    tally = Tally()
    assert tally.health() == Health(0.0, 0.0, 0.0)
    tally.add(np.zeros((0, 3), np.float32), 0, 0)
    assert tally.health() == Health(0.0, 0.0, 0.0)


def test_a_model_that_writes_is_left_in_peace():
    # whatever else is the matter: exactly a tenth of the reference's tokens is writing
    assert diagnose(Health(0.9, 0.1, 1.0), losses_nats=[1.0, 2.0, 9.0], lost_case=True) is None
    assert diagnose(Health(0.9, 0.0999, 4.0)) is not None


def test_every_diagnosis_says_what_was_seen():
    assert diagnose().startswith("97% of steps are blank, 0.02 tokens emitted for each in the text: ")


def test_texts_that_differ_in_case_are_named_first():
    line = diagnose(Health(0.97, 0.02, 1.0), lost_case=True, step=1)
    assert "likely a mistake: dev and training text differ in case; set text.normalization" in line


@pytest.mark.parametrize(("steps_per_token", "too_few"), [(1.19, True), (1.2, False)])
def test_too_few_steps_a_token_are_named(steps_per_token, too_few):
    line = diagnose(Health(0.97, 0.02, steps_per_token), step=1)
    assert ("only 1.2 output steps per token; lower the time strides" in line) == too_few


@pytest.mark.parametrize(
    ("losses_nats", "rose"),
    [([90.0, 60.0, 90.1], True), ([90.0, 60.0, 90.0], False), ([60.0, 90.1], False), ([60.0, 70.0, 95.0], True)],
)
def test_a_loss_that_rose_by_half_in_three_epochs_is_named(losses_nats, rose):
    line = diagnose(losses_nats=losses_nats, step=1)
    assert (f"the loss rose from 60.0 to {losses_nats[-1]:.1f} nats; lower optim.lr" in line) == rose


def test_a_network_that_is_frozen_yet_is_not_called_a_mistake():
    assert "is trained before step 10,000 (train.freeze)" in diagnose(
        step=9999, total_steps=20_000, frozen_steps=10_000
    )
    assert "usual early plateau" in diagnose(step=11_999, total_steps=20_000, frozen_steps=10_000)
    assert "likely a mistake" in diagnose(step=12_000, total_steps=20_000, frozen_steps=10_000)


@pytest.mark.parametrize(
    ("total_steps", "patience"),
    [(90_000, 2000), (3000, 1000), (100, 200)],
    ids=["at most 2,000 updates", "a third of the run", "at least 200"],
)
def test_the_early_plateau_is_called_usual_for_a_while(total_steps, patience):
    early = diagnose(step=patience - 1, total_steps=total_steps)
    assert f"the usual early plateau (step {patience - 1:,}); it ends by itself" in early
    assert "mistake" not in early
    late = diagnose(step=patience, total_steps=total_steps)
    assert f"still so after {patience:,} steps, likely a mistake: check that the transcripts belong" in late


@pytest.mark.parametrize(
    ("train", "dev", "differ"),
    [
        (["yes no"], ["YES NO"], True),
        (["yes no"], ["no yes"], False),
        (["yes no" * 5, "Y"], ["Yes"], False),
        (["123"], ["123"], False),
        (["YES"], ["yes 1"], True),
    ],
)
def test_text_in_the_other_case_is_noticed(train, dev, differ):
    assert cases_differ(train, dev) is differ
