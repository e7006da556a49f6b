"""The gradient of a convolution's weights on CPU, as matrix products.

oneDNN's own is slow for wide kernels: for Deep Speech 2's second one (11 x 21, bf16) it takes nine times as long as the
convolution, this 1.6 times. Here the values under the kernel at each place are written out over frequency alone, and
shifts over time go to the other factor, which has fewer values: one product per utterance and phase of the stride over
time. A single channel has few values anyway: those under the whole kernel are written out, for some steps at a time.

Axes: b batch, c channels in, o channels out, t frames in, f bins in, j frames of one phase, k bins out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]
#: steps of a single channel whose values under the kernel are written out at once: they stay in the cache
_STEPS = 32


def convolve(conv: nn.Conv2d, x_bcsf: Tensor) -> Tensor:
    """Run a convolution in training, with its gradient by products where that is faster.

    Shapes: (b, c, t, f) -> (b, o, j, k).
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_bcsf.dtype
    if x_bcsf.device.type != "cpu" or conv.kernel_size[1] <= _narrow(conv.in_channels, dtype):
        return conv(x_bcsf)  # type: ignore[no-any-return]
    bias = None if conv.bias is None else conv.bias.to(dtype)
    out: Tensor = Convolution.apply(x_bcsf.to(dtype), conv.weight.to(dtype), bias, conv.stride)
    return out


def _narrow(channels: int, dtype: torch.dtype) -> int:
    """Return the number of bins up to which oneDNN has a fast way of its own."""
    slow = channels == 1 and dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return 6 if slow else 14


class Convolution(torch.autograd.Function):
    """``F.conv2d`` with padding of half the kernel, and its gradients. Shapes: (b, c, t, f), (o, c, kt, kf), (o,)."""

    @staticmethod
    def forward(ctx: Any, x_bctf: Tensor, w_octf: Tensor, bias_o: Tensor | None, stride: Pair) -> Tensor:
        """Convolve as torch does, and keep what the gradients need."""
        ctx.stride = stride
        ctx.has_bias = bias_o is not None
        ctx.save_for_backward(x_bctf, w_octf)
        return F.conv2d(x_bctf, w_octf, bias_o, stride, _padding(w_octf))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_bctf, w_octf = ctx.saved_tensors
        at_x, at_w, at_bias = None, None, None
        if ctx.needs_input_grad[0]:
            wanted = (True, False, False)
            at_x, _, _ = torch.ops.aten.convolution_backward(
                grads[0], x_bctf, w_octf, None, ctx.stride, _padding(w_octf), (1, 1), False, (0, 0), 1, wanted
            )
        if ctx.needs_input_grad[1]:
            gradient = weight_gradient if x_bctf.shape[1] > 1 else weight_gradient_of_one_channel
            at_w = gradient(x_bctf, grads[0], (w_octf.shape[2], w_octf.shape[3]), ctx.stride)
        if ctx.has_bias:
            at_bias = grads[0].sum((0, 2, 3))
        return at_x, at_w, at_bias, None


def weight_gradient(x_bctf: Tensor, grad_bojk: Tensor, kernel: Pair, stride: Pair) -> Tensor:
    """Compute the gradient from the input and the output's gradient, for padding of half the kernel.

    Shapes: (b, c, t, f), (b, o, j, k) -> (o, c, kt, kf).
    """
    kernel_t, kernel_f = kernel
    stride_t, stride_f = stride
    channels = x_bctf.shape[1]
    _, outputs, steps, places = grad_bojk.shape
    wide = torch.promote_types(x_bctf.dtype, torch.float32)
    at_w = x_bctf.new_zeros(kernel_t, outputs, kernel_f * channels, dtype=wide)
    around = (0, 0, kernel_f // 2, kernel_f // 2 + stride_f, kernel_t // 2, kernel_t // 2 + stride_t)

    for x_tfc, grad_jko in zip(x_bctf.permute(0, 2, 3, 1), grad_bojk.permute(0, 2, 3, 1), strict=True):
        padded_tfc = F.pad(x_tfc, around).contiguous()
        frame = padded_tfc.stride(0)
        for phase in range(min(stride_t, kernel_t)):
            shifts = len(range(phase, kernel_t, stride_t))
            rows = steps + shifts - 1
            # the values under the kernel in each frame of this phase, at each place
            under_jkw = padded_tfc.as_strided(
                size=(rows, places, kernel_f * channels),
                stride=(stride_t * frame, stride_f * channels, 1),
                storage_offset=phase * frame,
            )
            # beside frame j the gradients of steps j - shifts + 1 to j
            padded_jko = F.pad(grad_jko, (0, 0, 0, 0, shifts - 1, shifts - 1)).contiguous()
            beside = padded_jko.as_strided(
                size=(rows, places, shifts, outputs), stride=(places * outputs, outputs, places * outputs, 1)
            )
            product = beside.reshape(rows * places, -1).T @ under_jkw.reshape(rows * places, -1)
            at_w[phase::stride_t] += product.view(shifts, outputs, -1).flip(0)

    at_tofc = at_w.view(kernel_t, outputs, kernel_f, channels)
    return at_tofc.permute(1, 3, 0, 2).to(x_bctf.dtype).contiguous(memory_format=torch.channels_last)


def weight_gradient_of_one_channel(x_b1tf: Tensor, grad_bojk: Tensor, kernel: Pair, stride: Pair) -> Tensor:
    """Compute the same for an input of one channel. Shapes: (b, 1, t, f), (b, o, j, k) -> (o, 1, kt, kf)."""
    kernel_t, kernel_f = kernel
    stride_t, stride_f = stride
    _, outputs, steps, places = grad_bojk.shape
    wide = torch.promote_types(x_b1tf.dtype, torch.float32)
    at_w = x_b1tf.new_zeros(outputs, kernel_t * kernel_f, dtype=wide)
    around = (kernel_f // 2, kernel_f // 2, kernel_t // 2, kernel_t // 2)

    for x_tf, grad_jko in zip(x_b1tf[:, 0], grad_bojk.permute(0, 2, 3, 1), strict=True):
        padded_tf = F.pad(x_tf, around).contiguous()
        frame = padded_tf.stride(0)
        for first in range(0, steps, _STEPS):
            part_jko = grad_jko[first : first + _STEPS]
            under_jktf = padded_tf.as_strided(
                size=(len(part_jko), places, kernel_t, kernel_f),
                stride=(stride_t * frame, stride_f, frame, 1),
                storage_offset=first * stride_t * frame,
            )
            rows = len(part_jko) * places
            at_w += part_jko.reshape(rows, outputs).T @ under_jktf.reshape(rows, -1)

    return at_w.view(outputs, 1, kernel_t, kernel_f).to(x_b1tf.dtype)


def _padding(w_octf: Tensor) -> Pair:
    return w_octf.shape[2] // 2, w_octf.shape[3] // 2
