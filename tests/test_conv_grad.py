"""The weights' gradient of a convolution by matrix products is torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config import ConvConfig
from asr.model.conv import ConvFrontEnd
from asr.model.cpu.conv_grad import Convolution, convolve


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 7])),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.sampled_from([1, 2, 9, 70]), st.integers(1, 11)),  # more steps than are written out at once
    st.booleans(),
)
def test_all_gradients_are_those_of_conv2d(kernel, stride, sizes, room, with_bias):
    batch, channels, outputs = sizes
    random = torch.Generator().manual_seed(sum(kernel + stride + sizes + room))

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()

    x, w, bias = drawn(batch, channels, *room), drawn(outputs, channels, *kernel), drawn(outputs)
    given = [x, w, bias] if with_bias else [x, w]
    padding = (kernel[0] // 2, kernel[1] // 2)
    expected = F.conv2d(x, w, bias if with_bias else None, stride, padding)
    ours = Convolution.apply(x, w, bias if with_bias else None, stride)
    assert torch.equal(ours, expected)
    grad = torch.randn(expected.shape, generator=random, dtype=torch.float64)
    for one, two in zip(
        torch.autograd.grad(ours, given, grad), torch.autograd.grad(expected, given, grad), strict=True
    ):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(("bf16", "capability"), [(False, "AVX512"), (True, "AVX512"), (False, "AVX2")])
def test_the_front_end_trains_the_same_with_it(bf16, capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    layers = (ConvConfig(channels=4, kernel_tf=(5, 7)), ConvConfig(channels=4, kernel_tf=(5, 21), stride_tf=(1, 2)))
    calls = []
    original = Convolution.apply
    monkeypatch.setattr(Convolution, "apply", lambda *args: calls.append(1) or original(*args))
    results = []
    for way in (convolve, lambda conv, x_bcsf: conv(x_bcsf)):
        monkeypatch.setattr("asr.model.conv.convolve", way)
        torch.manual_seed(1)
        front_end = ConvFrontEnd(layers, 40, 20.0, norm=True).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out, _ = front_end(torch.randn(2, 30, 40), torch.tensor([30, 21]))
        out.float().square().sum().backward()
        results.append([p.grad for p in front_end.parameters()])
    for ours, torchs in zip(*results, strict=True):
        # bf16 rounds at 2^-9, and each utterance's part is rounded
        assert (ours - torchs).norm() <= (0.01 if bf16 else 1e-5) * torchs.norm()
    assert len(calls) == (2 if capability == "AVX2" else 1), "the wide kernel, and with AVX2 that of one channel"
