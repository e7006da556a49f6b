"""Convolutions of each channel alone on CPU, with gradients that take as long as the convolution.

oneDNN's own gradients take many times as long: that of the input in bf16 with a stride of 2 (55 times, 64 channels,
3 x 3), and that of the weights of a convolution over time (8 times in float32, 176 channels, 9 taps).

Axes: b batch, t time, f bins, c channels; j and k the same after the stride.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]


def convolve_by_channel(conv: nn.Conv1d | nn.Conv2d, x_btfc: Tensor) -> Tensor:
    """Run a convolution with a group for each channel and padding of half the kernel, on values with channels last.

    Shapes: (b, t, f, c) -> (b, j, k, c). One over a single axis runs along t.
    """
    over_one_axis = isinstance(conv, nn.Conv1d)
    weight = conv.weight[..., None] if over_one_axis else conv.weight
    stride = (conv.stride[0], 1 if over_one_axis else conv.stride[1])
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    bias = conv.bias
    x_bctf = x_btfc.permute(0, 3, 1, 2)
    if x_btfc.device.type == "cpu" and torch.is_grad_enabled():
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x_bctf, weight = x_bctf.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        out_bctf: Tensor = _ByChannel.apply(x_bctf, weight, bias, stride, padding)
    else:
        out_bctf = F.conv2d(x_bctf, weight, bias, stride, padding, groups=conv.groups)
    return out_bctf.permute(0, 2, 3, 1)


class _ByChannel(torch.autograd.Function):
    """``F.conv2d`` with a group for each channel, and its gradients. Shapes: (b, c, t, f), (c, 1, kt, kf), (c,)."""

    @staticmethod
    def forward(ctx: Any, x_bctf: Tensor, weight: Tensor, bias_c: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        """Convolve as torch does, and keep what the gradients need."""
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias_c is not None
        ctx.save_for_backward(x_bctf, weight)
        return F.conv2d(x_bctf, weight, bias_c, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_bctf, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        is_over_time = ctx.stride == (1, 1) and weight.shape[3] == 1
        at_x, at_weight = None, None
        if ctx.needs_input_grad[0]:
            # bf16 is fast without a stride only.
            dtype = grad.dtype if is_over_time else torch.promote_types(grad.dtype, torch.float32)
            at_x, _, _ = _torchs(ctx, grad.to(dtype), x_bctf.to(dtype), weight.to(dtype), (True, False, False))
            at_x = at_x.to(x_bctf.dtype)
        if ctx.needs_input_grad[1]:
            if is_over_time:
                at_weight = _over_time(x_bctf, grad, weight.shape[2]).to(weight.dtype)
            else:
                _, at_weight, _ = _torchs(ctx, grad, x_bctf, weight, (False, True, False))
                # Torch gives the axis of one channel a stride that the weight has not: several processes would warn.
                at_weight = at_weight.flatten(1).view(weight.shape)
        at_bias = grad.sum((0, 2, 3)) if ctx.has_bias else None
        return at_x, at_weight, at_bias, None, None


def _torchs(
    ctx: Any, grad: Tensor, x_bctf: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    made: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x_bctf, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), len(weight), wanted
    )
    return made


def _over_time(x_bct1: Tensor, grad_bct1: Tensor, taps: int) -> Tensor:
    """Return the weights' gradient: for each tap, the gradient times the input that it saw. Shapes: -> (c, 1, k, 1)."""
    wide = torch.promote_types(x_bct1.dtype, torch.float32)
    x_btc = F.pad(x_bct1[..., 0].transpose(1, 2).to(wide), (0, 0, taps // 2, taps // 2))
    grad_btc = grad_bct1[..., 0].transpose(1, 2).to(wide)
    steps = grad_btc.shape[1]
    at_taps = [(x_btc[:, k : k + steps] * grad_btc).sum((0, 1)) for k in range(taps)]
    return torch.stack(at_taps, dim=1)[:, None, :, None]
