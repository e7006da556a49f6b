"""The compiled training pass of a GRU layer, against torch's own GRU and its autograd (which test_model.py holds)."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.model.conv import step_mask
from asr.model.cpu import gru_layer
from asr.model.recurrent import RecurrentLayer, reversal


def layer_of(*, bidirectional: bool = True, merge: str = "sum", norm: bool = True, hidden: int = 32) -> RecurrentLayer:
    torch.manual_seed(1)
    layer = RecurrentLayer("gru", 24, hidden, bidirectional=bidirectional, merge=merge, norm=norm).train()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def passed(layer: RecurrentLayer, x_bsi: Tensor, num_steps_b: Tensor, *, bf16: bool = False) -> list[Tensor]:
    """The layer's output, all gradients of a weighted sum of it, and its running statistics after."""
    x_bsi = x_bsi.clone().requires_grad_()
    mask_bs = step_mask(num_steps_b, x_bsi.shape[1])
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out_bsh = layer(x_bsi * mask_bs[:, :, None], mask_bs, reversal(num_steps_b, x_bsi.shape[1]))
    weights = torch.randn(out_bsh.shape, generator=torch.Generator().manual_seed(2))
    (out_bsh * weights).sum().backward()
    assert x_bsi.grad is not None
    return [out_bsh.detach().float(), x_bsi.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]


def by_torch(layer: RecurrentLayer, monkeypatch: pytest.MonkeyPatch, *args: Tensor, **options: bool) -> list[Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(gru_layer, "can_run", lambda *_: False)
        return passed(layer, *args, **options)


def error(ours: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(ours, expected, strict=True)
    return max(float((one - two).norm() / two.norm().clamp(min=1e-6)) for one, two in pairs)


@pytest.fixture
def no_runs_elsewhere(monkeypatch):
    """Fails where the compiled pass is not the one that runs."""
    calls = []
    original = gru_layer.GruLayer.apply
    monkeypatch.setattr(gru_layer.GruLayer, "apply", lambda *args: calls.append(1) or original(*args))
    yield
    assert calls


@pytest.mark.usefixtures("no_runs_elsewhere")
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("hidden", [32, 20], ids=["whole vectors", "units filled up"])
@pytest.mark.parametrize(("bidirectional", "merge"), [(False, "sum"), (True, "sum"), (True, "concat")])
def test_output_gradients_and_statistics_are_those_of_torch(bidirectional, merge, hidden, norm, monkeypatch):
    layer = layer_of(bidirectional=bidirectional, merge=merge, norm=norm, hidden=hidden)
    x_bsi, num_steps_b = torch.randn(5, 40, 24), torch.tensor([40, 13, 7, 1, 40])  # two blocks of sums
    expected = by_torch(copy.deepcopy(layer), monkeypatch, x_bsi, num_steps_b)
    # float32 sums in another order: observed 5e-7
    assert error(passed(layer, x_bsi, num_steps_b), expected) < 5e-6


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 3))
def test_any_lengths_and_any_padding(lengths, extra):
    if not any(lengths):
        lengths = [1, *lengths]
    x_bsi = torch.randn(len(lengths), max(lengths) + extra, 24, generator=torch.Generator().manual_seed(sum(lengths)))
    layer = layer_of(merge="concat", norm=False)
    with pytest.MonkeyPatch.context() as patch:
        expected = by_torch(copy.deepcopy(layer), patch, x_bsi, torch.tensor(lengths))
    assert error(passed(layer, x_bsi, torch.tensor(lengths)), expected) < 5e-6


def test_under_bf16_it_is_as_near_to_float32_as_torch(monkeypatch):
    layer = layer_of(hidden=64)
    x_bsi, num_steps_b = torch.randn(8, 60, 24), torch.tensor([60, 60, 51, 44, 30, 9, 2, 60])
    exact = by_torch(copy.deepcopy(layer), monkeypatch, x_bsi, num_steps_b)
    torchs = by_torch(copy.deepcopy(layer), monkeypatch, x_bsi, num_steps_b, bf16=True)
    ours = passed(layer, x_bsi, num_steps_b, bf16=True)
    assert error(ours, exact) < max(0.01, 1.2 * error(torchs, exact))


def test_the_same_bits_every_time_and_on_two_threads():
    x_bsi, num_steps_b = torch.randn(4, 30, 24), torch.tensor([30, 20, 11, 3])
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (2, 2, 1):
            torch.set_num_threads(threads)
            results.append(passed(layer_of(), x_bsi, num_steps_b))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results[:2], strict=True))
    assert error(results[2], results[0]) < 5e-6  # products over several threads are summed otherwise


def test_without_packed_products_the_result_is_the_same(monkeypatch):
    """As in a torch without oneDNN."""
    x_bsi, num_steps_b = torch.randn(3, 12, 24), torch.tensor([12, 9, 4])
    expected = passed(layer_of(), x_bsi, num_steps_b)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert error(passed(layer_of(), x_bsi, num_steps_b), expected) < 5e-6


def test_a_frozen_input_and_garbage_in_the_padding_do_no_harm():
    layer = layer_of()
    num_steps_b = torch.tensor([6, 3])
    mask_bs = step_mask(num_steps_b, 6)
    x_bsi = torch.randn(2, 6, 24)
    outs = []
    for garbage in (0.0, 1e3):
        layer.zero_grad()
        out = layer(torch.where(mask_bs[:, :, None], x_bsi, garbage), mask_bs, reversal(num_steps_b, 6))
        out.sum().backward()
        outs.append([out.detach(), *(p.grad.clone() for p in layer.parameters())])
    assert not outs[0][0][1, 3:].any()
    assert error(outs[1], outs[0]) < 1e-5
