"""What is in front of a Conformer's layers: convolutions that halve the time two or three times.

After the first they are cheap ones by channel (FastConformer), or full ones (the Conformers before it).

Axes: b batch, t frames, f bins, c channels, k places under a kernel, s steps, h units.

Source: Rekesh et al. 2023, "Fast Conformer with linearly scalable attention for efficient speech recognition",
section 3.1; Dong et al. 2018, "Speech-Transformer", for full convolutions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from asr.config import ConformerConfig
from asr.limits import check_step
from asr.model.conv import step_mask
from asr.model.cpu.by_channel import convolve_by_channel
from asr.model.folded import strided
from asr.runtime import to_device

KERNEL, STRIDE = 3, 2


class FirstConvolution(nn.Conv2d):
    """The convolution of features, which have one channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, KERNEL, STRIDE, KERNEL // 2)

    def forward(self, x_btf1: Tensor) -> Tensor:
        """Convolve. Shapes: (b, t, f, 1) -> (b, t', f', c)."""
        # One product of the values under the kernel at each place: its gradient is several times as fast on CPU.
        around_btf = F.pad(x_btf1[..., 0], (KERNEL // 2,) * 4)
        under_btfk = around_btf.unfold(1, KERNEL, STRIDE).unfold(2, KERNEL, STRIDE).flatten(3)
        return F.linear(under_btfk, self.weight.flatten(1), self.bias)


class ByChannel(nn.Conv2d):
    """A convolution of each channel alone."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, KERNEL, STRIDE, KERNEL // 2, groups=channels)

    def forward(self, x_btfc: Tensor) -> Tensor:
        """Convolve. Shapes: (b, t, f, c) -> (b, t', f', c)."""
        return convolve_by_channel(self, x_btfc)


class FullConvolution(nn.Conv2d):
    """A convolution over all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, KERNEL, STRIDE, KERNEL // 2)

    def forward(self, x_btfc: Tensor) -> Tensor:
        """Convolve. Shapes: (b, t, f, c) -> (b, t', f', c)."""
        return super().forward(x_btfc.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PointwiseImage(nn.Conv2d):
    """A convolution over the channels of a single place."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)

    def forward(self, x_btfc: Tensor) -> Tensor:
        """Convolve. Shapes: (b, t, f, c) -> (b, t, f, c)."""
        return F.linear(x_btfc, self.weight.flatten(1), self.bias)


class Subsampling(nn.Module):
    """Halve time and bins ``halvings`` times, and project each step to the width of the layers."""

    def __init__(self, bins: int, cfg: ConformerConfig, hidden: int, halvings: int) -> None:
        super().__init__()
        channels, is_full = cfg.subsampling_channels, cfg.subsampling_kind == "full"
        check_step("a convolution", channels * strided(bins, KERNEL, STRIDE))
        layers: list[nn.Module] = [FirstConvolution(channels), nn.ReLU(inplace=True)]
        for _ in range(halvings - 1):
            layers += [FullConvolution(channels)] if is_full else [ByChannel(channels), PointwiseImage(channels)]
            layers.append(nn.ReLU(inplace=True))
        self.layers = nn.ModuleList(layers)
        for _ in range(halvings):
            bins = strided(bins, KERNEL, STRIDE)
        self.linear = nn.Linear(channels * bins, hidden)

    def forward(self, features_btf: Tensor, num_frames_b: Tensor) -> Tensor:
        """Return values per step, of which those beyond each utterance mean nothing. Shapes: (b, t, f) -> (b, s, h).

        Args:
            num_frames_b: on the CPU, whatever the device of the features.
        """
        outside_bt = ~step_mask(num_frames_b, features_btf.shape[1], features_btf.device)
        # Masked by filling, not by a product: padding may hold inf or nan.
        x_btfc = features_btf.masked_fill(outside_bt[:, :, None], 0.0)[..., None]
        num_b = num_frames_b
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                num_b = (num_b + 1) // STRIDE
                _clear_behind(x_btfc, num_b)
            x_btfc = layer(x_btfc)
        # Published models have the channels outside.
        x_bsh: Tensor = self.linear(x_btfc.transpose(2, 3).flatten(2))
        return x_bsh


def _clear_behind(x_btfc: Tensor, num_b: Tensor) -> None:
    """Set the first step behind each utterance to zero: it is all of the padding that the next convolution sees.

    Shapes: (b, t, f, c), (b,) on the CPU.
    """
    padded_n = (num_b < x_btfc.shape[1]).nonzero()[:, 0]
    if len(padded_n):
        device = x_btfc.device
        x_btfc[to_device(padded_n, device), to_device(num_b[padded_n], device)] = 0.0
