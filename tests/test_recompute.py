from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from asr.config import ConvConfig
from asr.model.conv import ConvFrontEnd

LAYERS = (ConvConfig(channels=8), ConvConfig(channels=6, kernel_tf=(5, 21), stride_tf=(1, 2)))


def _two(norm: bool) -> tuple[ConvFrontEnd, ConvFrontEnd]:
    """The same front-end without activation checkpointing and with it."""
    torch.manual_seed(0)
    plain = ConvFrontEnd(LAYERS, 40, 20.0, norm).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.is_checkpointed = True
    return plain, checkpointed


def _pass(front_end: ConvFrontEnd, dtype: torch.dtype) -> Tensor:
    features_btf = torch.randn(3, 50, 40, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        out_bsi, _ = front_end(features_btf, torch.tensor([50, 31, 7]))
    return out_bsi.float()


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_and_running_statistics_are_the_same_to_the_bit(norm, dtype):
    plain, checkpointed = _two(norm)
    for _ in range(2):
        outs = [_pass(front_end, dtype) for front_end in (plain, checkpointed)]
        assert torch.equal(*outs)
        for out_bsi in outs:
            (out_bsi * torch.linspace(-1, 1, out_bsi.shape[2])).sum().backward()

    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
        assert torch.equal(parameter.grad, checkpointed.get_parameter(name).grad), name
    assert all(torch.equal(own, other) for own, other in zip(plain.buffers(), checkpointed.buffers(), strict=True))
    assert [int(b) for name, b in checkpointed.named_buffers() if name.endswith("tracked")] == [2, 2] * norm


def test_only_the_features_are_kept_for_the_backward_pass():
    kept_bytes = []
    for front_end in _two(norm=True):
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _pass(front_end, torch.float32)
        kept_bytes.append(sum(kept.values()))

    weights = sum(p.nbytes for p in _two(norm=True)[0].parameters())
    assert kept_bytes[0] > weights + 5 * 3 * 50 * 40 * 4
    assert kept_bytes[1] <= 2 * 3 * 50 * 40 * 4
