"""The convolutional front-end: 2-D convolutions over time and frequency, norm, clipped ReLU, masks after each.

Axes: b batch, c channels, s steps (time), f bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.config import ConvConfig
from asr.model.cpu.conv_grad import Convolution, pays
from asr.model.norm import Reduce


def strided(length: int, kernel: int, stride: int) -> int:
    """Outputs of a "same"-padded convolution with an odd kernel: ceil(length / stride)."""
    return (length + 2 * (kernel // 2) - kernel) // stride + 1


def strided_b(num_b: Tensor, kernel: int, stride: int) -> Tensor:
    """The same formula for a batch; an empty utterance stays empty."""
    return torch.where(num_b > 0, (num_b + 2 * (kernel // 2) - kernel) // stride + 1, 0)


def step_mask(num_steps_b: Tensor, length: int) -> Tensor:
    """True inside each utterance. Shapes: (b,) -> (b, length)."""
    return torch.arange(length, device=num_steps_b.device)[None, :] < num_steps_b[:, None]


class RowNorm(nn.BatchNorm1d):
    """Batch norm of rows, torch's own; where several processes train, by the statistics of the rows of all of them."""

    reduce: Reduce | None = None

    def forward(self, rows_rc: Tensor) -> Tensor:
        if not self.training or (self.reduce is None and len(rows_rc) != 1):
            return super().forward(rows_rc)
        reduce = self.reduce or (lambda sums: sums)  # one row alone: torch's own refuses to train on it
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        wide_rc = rows_rc.to(torch.promote_types(rows_rc.dtype, torch.float32))
        count = wide_rc.new_tensor([len(wide_rc)])
        sum_c, rows = torch.split(reduce(torch.cat([wide_rc.sum(0), count])), [self.num_features, 1])
        mean_c = sum_c / rows
        # In two sweeps: a difference of large squares would lose what torch's own norm keeps.
        var_c = reduce((wide_rc - mean_c).square().sum(0)) / rows
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean_c, momentum)
            self.running_var.lerp_(var_c * (rows / (rows - 1).clamp(min=1)), momentum)
        out_rc: Tensor = self.weight * (wide_rc - mean_c) * (var_c + self.eps).rsqrt() + self.bias
        return out_rc.to(rows_rc.dtype)


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
            self.norms.append(RowNorm(layer.channels) if norm else nn.Identity())
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
            x_bsfc = self._convolve(conv, layer, x_bcsf).permute(0, 2, 3, 1)
            num_b = strided_b(num_b, layer.kernel_tf[0], layer.stride_tf[0])
            steps, bins, channels = x_bsfc.shape[1:]
            # Valid steps only: padding must neither enter the statistics nor, as a kernel reaches back from it, be
            # anything but zero for the next layer.
            valid_r = step_mask(num_b, steps).flatten().nonzero()[:, 0]
            padded = len(valid_r) < batch * steps
            rows_rfc = x_bsfc.reshape(batch * steps, bins, channels)
            rows_rfc = rows_rfc[valid_r] if padded else rows_rfc
            rows_rfc = norm(rows_rfc.reshape(-1, channels)).view(-1, bins, channels)
            rows_rfc = F.hardtanh(rows_rfc, 0.0, self.relu_clip)
            if padded:
                rows_rfc = rows_rfc.new_zeros(batch * steps, bins, channels).index_copy(0, valid_r, rows_rfc)
            x_bcsf = rows_rfc.view(batch, steps, bins, channels).permute(0, 3, 1, 2)
        return x_bcsf.permute(0, 2, 3, 1).reshape(batch, steps, bins * channels), num_b

    def _convolve(self, conv: nn.Module, layer: ConvConfig, x_bcsf: Tensor) -> Tensor:
        if not (self.training and x_bcsf.device.type == "cpu" and pays(x_bcsf.shape[1], layer.kernel_tf)):
            return conv(x_bcsf)  # type: ignore[no-any-return]
        assert isinstance(conv, nn.Conv2d)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_bcsf.dtype
        bias = None if conv.bias is None else conv.bias.to(dtype)
        out: Tensor = Convolution.apply(x_bcsf.to(dtype), conv.weight.to(dtype), bias, layer.stride_tf)
        return out
