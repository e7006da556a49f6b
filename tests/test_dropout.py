"""Dropout with cheap random numbers does what dropout does."""

from __future__ import annotations

import pytest
import torch

from asr.model.cpu.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_the_share_dropped_is_p_and_the_mean_is_kept(p):
    torch.manual_seed(0)
    x = torch.ones(400, 1001)  # not a multiple of eight: the last draw is cut
    out = Dropout(p).train()(x)
    # p is rounded to a 256th; 4e5 draws have a standard error below 8e-4
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=1 / 512 + 4e-3)
    assert out.mean().item() == pytest.approx(1, abs=8e-3)
    assert len(out.unique()) == 2, "kept values are scaled alike"


@pytest.mark.parametrize("p", [0.002, 0.1, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_scaled_by_exactly_what_it_is_kept_with(p, dtype):
    torch.manual_seed(0)
    out = Dropout(p).train()(torch.ones(4096, dtype=dtype))
    kept = out[out != 0]
    # so many of the 256 bytes drop a value, and p of nearly 1 drops not all of them
    dropped = {0.002: 1, 0.1: 26, 0.3: 77, 0.5: 128, 0.9: 230, 0.999: 255}[p]
    assert kept.numel() and torch.equal(kept, torch.full_like(kept, 256 / (256 - dropped)))


def test_the_mean_is_kept_in_bfloat16_too():
    torch.manual_seed(0)
    x = torch.rand(2_000_000).bfloat16()
    for p in (0.1, 0.15):  # 256 / (256 - 26), rounded to bfloat16, is a third of a percent too small
        kept = Dropout(p).train()(x).float().sum() / x.float().sum()
        assert kept.item() == pytest.approx(1, abs=1.5e-3)


def test_less_than_half_a_256th_is_none():
    x = torch.ones(100_000)
    assert Dropout(1e-4).train()(x) is x


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (Dropout(0.5).train()(torch.ones(80_000)) == 0).float().view(-1, 8)
    correlation = torch.corrcoef(dropped.T) - torch.eye(8)
    # eight values share one draw; 10,000 rows: 4 standard errors
    assert correlation.abs().max() < 0.04


def test_the_seed_decides_the_mask_and_the_gradient_follows_it():
    x = torch.ones(100, requires_grad=True)
    outs = []
    for _ in range(2):
        torch.manual_seed(5)
        outs.append(Dropout(0.4).train()(x))
    assert torch.equal(*outs)
    outs[0].sum().backward()
    assert x.grad is not None and torch.equal(x.grad, outs[0].detach())


def test_nothing_is_dropped_in_use_or_without_p():
    x = torch.randn(50)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x
