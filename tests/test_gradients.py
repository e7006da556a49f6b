"""What is minimised where a network gives outputs after layers before the last."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from asr.batch import Batch, empty_batch
from asr.ctc import ctc_loss
from asr.runtime import Machine
from asr.training.gradients import gradients, halves
from asr.training.penalties import confidence_penalty, consistency_loss

CPU = Machine(torch.device("cpu"), "fp32", 1)


class ManyOutputs(nn.Module):
    """A network with so many outputs behind the last one in training: one linear layer each."""

    def __init__(self, more: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(8, 5) for _ in range(1 + more))

    def forward(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        outputs = [layer(features_btf).log_softmax(-1) for layer in self.layers]
        return torch.cat(outputs), num_frames_b.repeat(len(outputs))


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(1)
    lengths = torch.tensor([12, 9, 5])
    targets = torch.tensor([[1, 2, 3], [4, 0, 0], [2, 1, 0]])
    return Batch(torch.randn(3, 12, 8), lengths, targets, torch.tensor([3, 1, 2]), ("a", "b", "c"), 1.0)


def _grads(network: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def _losses(layer: nn.Module, features_btf: Tensor, batch: Batch) -> Tensor:
    log_probs_bsv = layer(features_btf).log_softmax(-1)
    return ctc_loss(log_probs_bsv, batch.num_frames_b, batch.targets_bu, batch.num_targets_b)


@pytest.mark.parametrize("more", [1, 3])
@pytest.mark.parametrize("views", [1, 2])
def test_early_losses_have_their_share_and_the_losses_returned_are_those_of_the_last_layer(batch, more, views):
    inputs = [batch.features_btf]
    if views == 2:
        inputs.append(torch.randn(3, 12, 8))
        batch = replace(batch, twin_btf=inputs[1])
    network = ManyOutputs(more)
    found_b = gradients(network, batch, 3, CPU, inter_weight=0.3, smoothing=0.1, consistency=0.2)

    expected = ManyOutputs(more)
    last, *early = ([_losses(layer, one, batch) for one in inputs] for layer in expected.layers)
    last_b = torch.stack(last).mean(0)
    outputs = [expected.layers[0](one).log_softmax(-1) for one in inputs]
    total = 0.9 * last_b.sum()
    total = total + 0.1 * sum(confidence_penalty(one, batch.num_frames_b).sum() for one in outputs) / views
    if views == 2:
        total = total + 0.2 * consistency_loss(*outputs, batch.num_frames_b).sum()
    mean_early = torch.stack([torch.stack(losses) for losses in early]).mean((0, 1)).sum()
    ((0.7 * total + 0.3 * mean_early) / 3).backward()

    assert torch.allclose(found_b, last_b, rtol=1e-5)
    for left, right in zip(_grads(network), _grads(expected), strict=True):
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-6)  # sums in another order


def test_halves_add_up_to_the_whole(batch):
    whole, parts = ManyOutputs(2), ManyOutputs(2)
    losses_b = gradients(whole, batch, 3, CPU, inter_weight=0.5)
    found = [gradients(parts, half, 3, CPU, inter_weight=0.5) for half in halves(batch)]
    assert torch.allclose(torch.cat(found), losses_b, rtol=1e-5)
    for left, right in zip(_grads(parts), _grads(whole), strict=True):
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-6)


def test_one_output_gives_the_same_bits_with_any_share(batch):
    networks = [ManyOutputs(0), ManyOutputs(0)]
    losses = [gradients(one, batch, 3, CPU, inter_weight=w) for one, w in zip(networks, (0.0, 0.5), strict=True)]
    assert torch.equal(*losses)
    assert all(torch.equal(left, right) for left, right in zip(*map(_grads, networks), strict=True))


def test_a_process_without_utterances_gives_every_weight_a_gradient_of_zero():
    network = ManyOutputs(2)
    nothing = replace(empty_batch(8), features_btf=torch.zeros(1, 1, 8))
    assert gradients(network, nothing, 3, CPU, inter_weight=0.5).shape == (0,)
    assert len(_grads(network)) == 6 and all(not grad.any() for grad in _grads(network))
