"""The CTC loss is the sum over all paths, and ``min_steps`` says when there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asr.ctc import LONG_STEPS, ctc_loss
from asr.data.targets import min_steps
from asr.training.penalties import confidence_penalty, consistency_loss
from tests.reference import ctc_paths

# Float32 sums of a few log-probabilities of size 10: a few times 1e-6.
CLOSE = {"rel": 1e-4, "abs": 1e-5}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.asarray(logits, np.float32)).log_softmax(-1).numpy()


@st.composite
def log_prob_arrays(draw, max_steps: int = 6, max_vocabulary: int = 4, vocabulary: int | None = None) -> np.ndarray:
    shape = (draw(st.integers(1, max_steps)), vocabulary or draw(st.integers(2, max_vocabulary)))
    return log_softmax(draw(hnp.arrays(np.float32, shape, elements=st.floats(-5, 5, width=32))))


def targets(vocabulary: int, longest: int = 4) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, vocabulary - 1), max_size=longest)


def loss_of(log_probs_sv: np.ndarray, targets_u: list[int]) -> float:
    """The loss of one utterance alone."""
    loss_b = ctc_loss(
        torch.from_numpy(log_probs_sv)[None],
        torch.tensor([len(log_probs_sv)]),
        torch.tensor([targets_u], dtype=torch.int64),
        torch.tensor([len(targets_u)]),
    )
    return loss_b.item()


def test_the_oracle_collapses_as_the_paper_does():
    # B(a-ab-) = B(-aa--abb) = aab, section 3.1
    assert ctc_paths.collapse([1, 0, 1, 2, 0]) == ctc_paths.collapse([0, 1, 1, 0, 0, 1, 2, 2]) == (1, 1, 2)


@given(log_prob_arrays())
def test_the_oracle_shares_out_all_probability(log_probs_sv):
    # 1e-5: float32 log-softmax of six steps
    assert sum(ctc_paths.labelling_probs(log_probs_sv).values()) == pytest.approx(1, abs=1e-5)


@given(st.data(), log_prob_arrays())
def test_the_loss_is_the_sum_over_all_paths(data, log_probs_sv):
    targets_u = data.draw(targets(log_probs_sv.shape[1]))
    expected = ctc_paths.loss_nats(log_probs_sv, targets_u)
    assert loss_of(log_probs_sv, targets_u) == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("targets_u", [[], [1], [1, 1], [1, 2, 1], [1, 1, 1], [2, 2, 1]])
def test_the_loss_of_repeats_and_of_no_labels_is_the_sum_over_all_paths(targets_u):
    log_probs_sv = log_softmax(np.random.default_rng(0).normal(size=(5, 3)))
    assert loss_of(log_probs_sv, targets_u) == pytest.approx(ctc_paths.loss_nats(log_probs_sv, targets_u), **CLOSE)


@settings(max_examples=25)
@given(st.data(), st.lists(log_prob_arrays(max_steps=5, vocabulary=3), min_size=2, max_size=4))
def test_padding_and_neighbours_do_not_change_a_loss(data, utterances):
    all_targets = [data.draw(targets(3, longest=3)) for _ in utterances]
    longest = max(map(len, utterances)) + 2
    log_probs_bsv = torch.full((len(utterances), longest, 3), 7.0)  # not even log-probabilities
    targets_bu = torch.full((len(utterances), 4), 2)
    for i, (log_probs_sv, targets_u) in enumerate(zip(utterances, all_targets, strict=True)):
        log_probs_bsv[i, : len(log_probs_sv)] = torch.from_numpy(log_probs_sv)
        targets_bu[i, : len(targets_u)] = torch.tensor(targets_u)
    loss_b = ctc_loss(
        log_probs_bsv,
        torch.tensor([len(u) for u in utterances]),
        targets_bu,
        torch.tensor([len(t) for t in all_targets]),
    )
    expected = [ctc_paths.loss_nats(u, t) for u, t in zip(utterances, all_targets, strict=True)]
    assert loss_b.tolist() == pytest.approx(expected, **CLOSE)


@given(targets(4, longest=5))
def test_min_steps_is_the_threshold_at_which_the_loss_becomes_infinite(targets_u):
    fewest = min_steps(targets_u)
    uniform_sv = log_softmax(np.zeros((fewest + 1, 4)))
    assert math.isfinite(loss_of(uniform_sv, targets_u))
    if fewest:
        assert math.isfinite(loss_of(uniform_sv[:fewest], targets_u))
    if fewest > 1:
        assert loss_of(uniform_sv[: fewest - 1], targets_u) == math.inf


@pytest.mark.parametrize(("text", "fewest"), [("", 0), ("a", 1), ("ab", 2), ("aa", 3), ("aaa", 5), ("abba", 5)])
def test_min_steps_counts_a_blank_between_equal_neighbours(text, fewest):
    assert min_steps([ord(c) for c in text]) == fewest


@settings(max_examples=25)
@given(st.data(), log_prob_arrays(max_steps=5, max_vocabulary=3))
def test_the_gradient_is_that_of_the_sum_over_all_paths(data, logits_sv):
    steps = len(logits_sv)
    targets_u = data.draw(targets(logits_sv.shape[1], longest=3).filter(lambda t: min_steps(t) <= steps))
    # Through log_softmax: torch's CTC backward is defined on what a softmax gives, not on free numbers.
    ours = torch.from_numpy(logits_sv).requires_grad_()
    exact = torch.from_numpy(logits_sv).double().requires_grad_()
    ctc_loss(
        ours.log_softmax(-1)[None],
        torch.tensor([steps]),
        torch.tensor([targets_u], dtype=torch.int64),
        torch.tensor([len(targets_u)]),
    ).sum().backward()
    ctc_paths.differentiable_loss(exact.log_softmax(-1), targets_u).backward()
    # 1e-5: gradients are differences of probabilities, so at most 1, in float32
    np.testing.assert_allclose(ours.grad.numpy(), exact.grad.numpy(), atol=1e-5)


def test_no_gradient_reaches_the_padding():
    log_probs_bsv = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1).requires_grad_()
    ctc_loss(log_probs_bsv, torch.tensor([6, 3]), torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])).sum().backward()
    assert log_probs_bsv.grad[1, 3:].abs().max() == 0
    assert log_probs_bsv.grad[1, :3].abs().min() > 0


def test_half_precision_log_probs_are_summed_in_float32():
    log_probs_bsv = torch.zeros(1, 400, 3).log_softmax(-1)
    args = torch.tensor([400]), torch.tensor([[1, 2]]), torch.tensor([2])
    loss_b = ctc_loss(log_probs_bsv.bfloat16(), *args)
    assert loss_b.dtype == torch.float32
    # The inputs are rounded (a step of bf16 near 1.1 is 2^-7); the sum of 400 of them must not be rounded again.
    assert loss_b.item() == pytest.approx(ctc_loss(log_probs_bsv.bfloat16().float(), *args).item(), abs=0)


def test_the_confidence_penalty_is_0_for_uniform_and_ln_v_a_step_for_sure_distributions():
    uniform_bsv = torch.full((1, 4, 5), 0.2).log()
    assert confidence_penalty(uniform_bsv, torch.tensor([4])).item() == pytest.approx(0, abs=1e-5)
    sure_bsv = torch.log_softmax(torch.eye(5)[None, :4] * 60, -1)
    assert confidence_penalty(sure_bsv, torch.tensor([4])).item() == pytest.approx(4 * math.log(5), rel=1e-5)


def test_the_confidence_penalty_is_the_divergence_and_knows_no_padding():
    log_probs_bsv = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    found_b = confidence_penalty(log_probs_bsv, torch.tensor([6, 2, 0]))
    for i, steps in enumerate((6, 2, 0)):
        uniform_sv = torch.full((steps, 4), 0.25)
        divergence = torch.nn.functional.kl_div(uniform_sv.log(), log_probs_bsv[i, :steps].exp(), reduction="sum")
        assert found_b[i].item() == pytest.approx(divergence.item(), abs=1e-5)
    with_padding_bsv = torch.nn.functional.pad(log_probs_bsv, (0, 0, 0, 3), value=float("nan"))
    assert torch.allclose(confidence_penalty(with_padding_bsv, torch.tensor([6, 2, 0])), found_b)


def test_the_disagreement_is_the_mean_divergence_both_ways_and_knows_no_padding():
    generator = torch.Generator().manual_seed(0)
    first_bsv, second_bsv = (torch.randn(3, 6, 4, generator=generator).log_softmax(-1) for _ in range(2))
    found_b = consistency_loss(first_bsv, second_bsv, torch.tensor([6, 2, 0]))
    for i, steps in enumerate((6, 2, 0)):
        p_sv, q_sv = first_bsv[i, :steps].exp().double(), second_bsv[i, :steps].exp().double()
        expected = ((p_sv * (p_sv / q_sv).log()).sum() + (q_sv * (q_sv / p_sv).log()).sum()) / 2
        assert found_b[i].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    assert consistency_loss(first_bsv, first_bsv, torch.tensor([6, 6, 6])).abs().max() < 1e-6
    padded = [torch.nn.functional.pad(x_bsv, (0, 0, 0, 3), value=-1.0) for x_bsv in (first_bsv, second_bsv)]
    assert torch.allclose(consistency_loss(*padded, torch.tensor([6, 2, 0])), found_b)


def test_each_output_is_drawn_to_the_other_as_to_a_given_distribution():
    """The gradient by the logits is (own - other) / 2, as for cross entropy with the other as soft labels."""
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(2, 5, 4, generator=generator, requires_grad=True) for _ in range(2)]
    consistency_loss(*(one.log_softmax(-1) for one in logits), torch.tensor([5, 3])).sum().backward()
    first, second = (one.detach().softmax(-1) for one in logits)
    inside = (torch.arange(5)[None, :] < torch.tensor([5, 3])[:, None])[:, :, None]
    for own, other, one in ((first, second, logits[0]), (second, first, logits[1])):
        torch.testing.assert_close(one.grad, (own - other) / 2 * inside, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [LONG_STEPS, 3000])
def test_the_gradient_of_a_long_utterance_is_exact(steps):
    # Sure of the wrong tokens, as a network early on: some 10 nats a step, which is where float32 sums are worst.
    logits_bsv = 3 * torch.randn(1, steps, 5, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([steps]), torch.randint(1, 5, (1, steps // 10)), torch.tensor([steps // 10])
    ours = logits_bsv.clone().requires_grad_()
    loss_b = ctc_loss(ours.log_softmax(2), *lengths)
    assert loss_b.dtype == torch.float32
    loss_b.sum().backward()
    exact = logits_bsv.double().requires_grad_()
    log_probs_sbv = exact.log_softmax(2).transpose(0, 1)
    F.ctc_loss(log_probs_sbv, lengths[1], lengths[0], lengths[2], reduction="sum").backward()
    # What remains is the rounding of the float32 log-softmax.
    assert (ours.grad - exact.grad).norm() < 1e-4 * exact.grad.norm()


def test_the_posteriors_behind_the_gradient_sum_to_one_at_every_step_of_a_long_utterance():
    steps = 3000
    log_probs_bsv = (3 * torch.randn(1, steps, 5, generator=torch.Generator().manual_seed(2))).log_softmax(2)
    log_probs_bsv.requires_grad_()
    targets_bu = torch.randint(1, 5, (1, 300))
    ctc_loss(log_probs_bsv, torch.tensor([steps]), targets_bu, torch.tensor([300])).sum().backward()
    # torch hands back probability minus posterior, so each step's sum is the difference of two sums that are 1
    assert log_probs_bsv.grad.sum(2).abs().max() < 1e-4
