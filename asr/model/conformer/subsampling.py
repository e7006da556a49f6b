"""What is in front of a Conformer's layers: convolutions that halve the time two or three times, cheap ones by channel.

Axes: b batch, t frames, f bins, c channels, s steps, h units, r rows.

Source: Rekesh et al. 2023, "Fast Conformer with linearly scalable attention for efficient speech recognition",
section 3.1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from asr.limits import check_step
from asr.model.conv import step_mask, strided
from asr.model.cpu.by_channel import convolve_by_channel
from asr.runtime import to_device

KERNEL, STRIDE = 3, 2


class Subsampling(nn.Module):
    """Halve time and bins ``halvings`` times, and project each step to the width of the layers.

    After the first convolution each halving is one of each channel alone and one over the channels of a single place.
    """

    def __init__(self, bins: int, channels: int, hidden: int, halvings: int) -> None:
        super().__init__()
        check_step("a convolution", channels * strided(bins, KERNEL, STRIDE))
        padding = KERNEL // 2
        layers: list[nn.Module] = [nn.Conv2d(1, channels, KERNEL, STRIDE, padding), nn.ReLU()]
        for _ in range(halvings - 1):
            layers.append(nn.Conv2d(channels, channels, KERNEL, STRIDE, padding, groups=channels))
            layers += [nn.Conv2d(channels, channels, 1), nn.ReLU()]
        self.layers = nn.ModuleList(layers)
        for _ in range(halvings):
            bins = strided(bins, KERNEL, STRIDE)
        self.linear = nn.Linear(channels * bins, hidden)

    def forward(self, features_btf: Tensor, num_frames_b: Tensor) -> Tensor:
        """Return values per step, of which those beyond each utterance mean nothing. Shapes: (b, t, f) -> (b, s, h).

        Args:
            num_frames_b: on the CPU, whatever the device of the features.
        """
        # Masked by filling, not by a product: padding may hold inf or nan.
        x_btfc = _masked(features_btf[..., None], num_frames_b)
        num_b = num_frames_b
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                # The next convolution reaches into the padding.
                num_b = (num_b + 1) // STRIDE
                x_btfc = _masked(F.relu(x_btfc), num_b)
            else:
                assert isinstance(layer, nn.Conv2d)
                x_btfc = _convolved(layer, x_btfc)
        # Published models have the channels outside.
        x_bsh: Tensor = self.linear(x_btfc.transpose(2, 3).flatten(2))
        return x_bsh


def _convolved(conv: nn.Conv2d, x_btfc: Tensor) -> Tensor:
    """Apply a convolution to values with their channels last. Shapes: (b, t, f, c) -> (b, t', f', c')."""
    if conv.in_channels == 1 and conv.stride[0] == STRIDE and conv.out_channels > 1:
        # The values under the kernel at each place, and one product of all places.
        around_btf = F.pad(x_btfc[..., 0], (KERNEL // 2,) * 4)
        x_btfc = around_btf.unfold(1, KERNEL, STRIDE).unfold(2, KERNEL, STRIDE).flatten(3)
    elif conv.groups > 1:
        return convolve_by_channel(conv, x_btfc)
    return F.linear(x_btfc, conv.weight.flatten(1), conv.bias)


def _masked(x_btfc: Tensor, num_b: Tensor) -> Tensor:
    """Set what lies beyond each utterance to zero. Shapes: (b, t, f, c), (b,) on the CPU."""
    outside_bt = ~step_mask(num_b, x_btfc.shape[1])
    if not outside_bt.any():
        return x_btfc
    return x_btfc.masked_fill(to_device(outside_bt, x_btfc.device)[:, :, None, None], 0.0)
