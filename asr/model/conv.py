"""The convolutional front-end: 2-D convolutions over time and frequency, norm, clipped ReLU, masks after each.

Axes: b batch, c channels, s steps (time), f bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.config import ConvConfig


def strided(length: int, kernel: int, stride: int) -> int:
    """Outputs of a "same"-padded convolution with an odd kernel: ceil(length / stride)."""
    return (length + 2 * (kernel // 2) - kernel) // stride + 1


def strided_b(num_b: Tensor, kernel: int, stride: int) -> Tensor:
    """The same formula for a batch; an empty utterance stays empty."""
    return torch.where(num_b > 0, (num_b + 2 * (kernel // 2) - kernel) // stride + 1, 0)


def step_mask(num_steps_b: Tensor, length: int) -> Tensor:
    """True inside each utterance. Shapes: (b,) -> (b, length)."""
    return torch.arange(length, device=num_steps_b.device)[None, :] < num_steps_b[:, None]


class ConvFrontEnd(nn.Module):
    """Features to one vector a step. Shapes: (b, t, f), (b,) -> (b, s, c * f'), (b,)."""

    def __init__(self, layers: Sequence[ConvConfig], bins: int, relu_clip: float, norm: bool) -> None:
        super().__init__()
        self.layers, self.relu_clip = tuple(layers), relu_clip
        channels = 1
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for layer in layers:
            padding = (layer.kernel_tf[0] // 2, layer.kernel_tf[1] // 2)
            # The norm's shift takes the bias's place.
            self.convs.append(
                nn.Conv2d(channels, layer.channels, layer.kernel_tf, layer.stride_tf, padding, bias=not norm)
            )
            self.norms.append(nn.BatchNorm1d(layer.channels) if norm else nn.Identity())
            channels = layer.channels
            bins = strided(bins, layer.kernel_tf[1], layer.stride_tf[1])
        self.output_size = channels * bins

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Steps that each number of frames gives. Shapes: (b,) -> (b,)."""
        for layer in self.layers:
            num_frames_b = strided_b(num_frames_b, layer.kernel_tf[0], layer.stride_tf[0])
        return num_frames_b

    def forward(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        batch, num_b = len(num_frames_b), num_frames_b
        inside_bt = step_mask(num_b, features_btf.shape[1])
        # Channels last: a step's values lie together, so valid steps are rows that can be gathered.
        # Not a product with the mask: padding may hold inf or nan.
        x_bcsf = features_btf.masked_fill(~inside_bt[:, :, None], 0.0).unsqueeze(1)
        x_bcsf = x_bcsf.contiguous(memory_format=torch.channels_last)
        for layer, conv, norm in zip(self.layers, self.convs, self.norms, strict=True):
            x_bsfc = conv(x_bcsf).permute(0, 2, 3, 1)
            num_b = strided_b(num_b, layer.kernel_tf[0], layer.stride_tf[0])
            steps, bins, channels = x_bsfc.shape[1:]
            # Valid steps only: padding must neither enter the statistics nor, as a kernel reaches back from it, be
            # anything but zero for the next layer.
            valid_r = step_mask(num_b, steps).flatten().nonzero()[:, 0]
            padded = len(valid_r) < batch * steps
            rows_rfc = x_bsfc.reshape(batch * steps, bins, channels)
            rows_rfc = rows_rfc[valid_r] if padded else rows_rfc
            rows_rfc = norm(rows_rfc.view(-1, channels)).view(-1, bins, channels)
            rows_rfc = F.hardtanh(rows_rfc, 0.0, self.relu_clip)
            if padded:
                rows_rfc = rows_rfc.new_zeros(batch * steps, bins, channels).index_copy(0, valid_r, rows_rfc)
            x_bcsf = rows_rfc.view(batch, steps, bins, channels).permute(0, 3, 1, 2)
        return x_bcsf.permute(0, 2, 3, 1).reshape(batch, steps, bins * channels), num_b
