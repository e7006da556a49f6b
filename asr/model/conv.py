"""The convolutional front-end: 2-D convolutions over time and frequency, norm, clipped ReLU, masks after each.

Axes: b batch, c channels, s steps (time), f bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.config import ConvConfig
from asr.limits import check_step
from asr.model.cpu.conv_grad import convolve
from asr.model.folded import strided
from asr.model.norm import RowNorm
from asr.model.recompute import computed_twice
from asr.runtime import to_device


def strided_b(num_b: Tensor, kernel: int, stride: int) -> Tensor:
    """Count the same for a batch of lengths; an empty utterance stays empty. Shapes: (b,) -> (b,)."""
    return torch.where(num_b > 0, (num_b + 2 * (kernel // 2) - kernel) // stride + 1, 0)


def step_mask(num_steps_b: Tensor, length: int, device: torch.device | None = None) -> Tensor:
    """Return true inside each utterance, on the device of the lengths or another one. Shapes: (b,) -> (b, length)."""
    if device is not None:
        num_steps_b = to_device(num_steps_b, device)
    return torch.arange(length, device=num_steps_b.device)[None, :] < num_steps_b[:, None]


class ConvFrontEnd(nn.Module):
    """A stack of 2-D convolutions, which turns features into one vector per step."""

    #: the backward pass computes the layers again, instead of their values being kept for it
    is_checkpointed = False

    def __init__(self, layers: Sequence[ConvConfig], bins: int, relu_clip: float, norm: bool) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.relu_clip = relu_clip
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        channels = 1
        for layer in layers:
            padding = (layer.kernel_tf[0] // 2, layer.kernel_tf[1] // 2)
            # With a norm there is no bias: the norm's shift takes its place.
            conv = nn.Conv2d(channels, layer.channels, layer.kernel_tf, layer.stride_tf, padding, bias=not norm)
            self.convs.append(conv)
            self.norms.append(RowNorm(layer.channels) if norm else nn.Identity())
            channels = layer.channels
            bins = strided(bins, layer.kernel_tf[1], layer.stride_tf[1])
            check_step("a convolution", channels * bins)
        self.output_size = channels * bins

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Count the steps that each number of frames gives. Shapes: (b,) -> (b,)."""
        for layer in self.layers:
            num_frames_b = strided_b(num_frames_b, layer.kernel_tf[0], layer.stride_tf[0])
        return num_frames_b

    def forward(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve the features; the output is zero in the padding. Shapes: (b, t, f), (b,) -> (b, s, c * f'), (b,).

        Args:
            num_frames_b: on the CPU, whatever the device of the features.
        """
        if self.is_checkpointed and self.training:
            return computed_twice(self, self._convolve, features_btf, num_frames_b)
        return self._convolve(features_btf, num_frames_b)

    def _convolve(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        num_b = num_frames_b
        inside_bt = step_mask(num_b, features_btf.shape[1], features_btf.device)
        # Masked by filling, not by a product: padding may hold inf or nan.
        x_bcsf = features_btf.masked_fill(~inside_bt[:, :, None], 0.0).unsqueeze(1)
        # Channels last: the values of a step lie together, so valid steps are rows that can be gathered.
        x_bcsf = x_bcsf.contiguous(memory_format=torch.channels_last)

        for layer, conv, norm in zip(self.layers, self.convs, self.norms, strict=True):
            assert isinstance(conv, nn.Conv2d)
            x_bcsf = convolve(conv, x_bcsf) if self.training else conv(x_bcsf)
            num_b = strided_b(num_b, layer.kernel_tf[0], layer.stride_tf[0])
            x_bcsf = self._normalize(norm, x_bcsf.permute(0, 2, 3, 1), num_b).permute(0, 3, 1, 2)
        return x_bcsf.permute(0, 2, 3, 1).flatten(2), num_b

    def _normalize(self, norm: nn.Module, x_bsfc: Tensor, num_steps_b: Tensor) -> Tensor:
        """Apply norm and clipped ReLU to the valid steps, and set the others to zero. Shapes: (b, s, f, c), (b,).

        Padding must not enter the statistics, and it must be zero for the next layer, whose kernel reaches into it.
        """
        batch, steps, bins, channels = x_bsfc.shape
        if x_bsfc.device.type == "cuda":
            from asr.model.cuda.norm import normalize_steps

            return normalize_steps(norm, x_bsfc, step_mask(num_steps_b, steps, x_bsfc.device), self.relu_clip)

        rows_rfc = x_bsfc.reshape(batch * steps, bins, channels)
        valid_r = step_mask(num_steps_b, steps).flatten().nonzero()[:, 0]
        padded = len(valid_r) < len(rows_rfc)

        if padded:
            rows_rfc = rows_rfc[valid_r]
        rows_rfc = norm(rows_rfc.reshape(-1, channels)).view(-1, bins, channels)
        rows_rfc = F.hardtanh(rows_rfc, 0.0, self.relu_clip)
        if padded:
            rows_rfc = rows_rfc.new_zeros(batch * steps, bins, channels).index_copy(0, valid_r, rows_rfc)

        return rows_rfc.view(batch, steps, bins, channels)
