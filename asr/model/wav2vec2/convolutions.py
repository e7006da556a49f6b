"""The convolutions of wav2vec 2.0: over samples, and over steps, by which the layers know where a step is.

Axes: b batch, n samples, s steps (of any convolution), c channels, h units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from asr.config.networks import Wav2Vec2Shape
from asr.model.steps import unpadded_steps

#: of the norms between convolutions; that of the others is in the config
_EPS = 1e-5


class SampleConvolutions(nn.Module):
    """Convolutions over the samples, which find a vector for each step; without padding."""

    def __init__(self, shape: Wav2Vec2Shape) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(ConvolutionLayer(shape, i) for i in range(len(shape.convs)))

    def forward(self, waves_bn: Tensor, num_samples_b: Tensor, run: Callable[..., Tensor]) -> Tensor:
        """Convolve the samples. Shapes: (b, n), (b,) -> (b, c, s).

        Args:
            run: calls a layer with the arguments that follow it.
        """
        values_bcs = waves_bn[:, None]
        for layer in self.conv_layers:
            assert isinstance(layer, ConvolutionLayer)
            num_samples_b = layer.num_steps(num_samples_b)
            values_bcs = run(layer, values_bcs, num_samples_b)
        return values_bcs


class ConvolutionLayer(nn.Module):
    """A convolution, a norm (over time, over channels, or none), and GELU."""

    def __init__(self, shape: Wav2Vec2Shape, number: int) -> None:
        super().__init__()
        cfg = shape.convs[number]
        inputs = shape.convs[number - 1].channels if number else 1
        self.conv = nn.Conv1d(inputs, cfg.channels, cfg.kernel, cfg.stride, bias=shape.conv_bias)
        nn.init.normal_(self.conv.weight, std=(2 / (inputs * cfg.kernel)) ** 0.5)
        self.layer_norm: nn.Module | None = None
        if shape.feat_extract_norm == "layer":
            self.layer_norm = nn.LayerNorm(cfg.channels, _EPS)
        elif not number:
            self.layer_norm = TimeNorm(cfg.channels)

    def num_steps(self, num_samples_b: Tensor) -> Tensor:
        """Count the steps of inputs of so many values. Shapes: (b,) -> (b,)."""
        return unpadded_steps([(self.conv.kernel_size[0], self.conv.stride[0])], num_samples_b)

    def forward(self, values_bcs: Tensor, num_steps_b: Tensor) -> Tensor:
        """Convolve. Shapes: (b, c, s), (b,) -> (b, c', s').

        Args:
            num_steps_b: the steps that this layer gives; on the CPU.
        """
        values_bcs = self.conv(values_bcs)
        if isinstance(self.layer_norm, TimeNorm):
            values_bcs = self.layer_norm(values_bcs, num_steps_b)
        elif self.layer_norm is not None:
            values_bcs = self.layer_norm(values_bcs.transpose(1, 2)).transpose(1, 2)
        return F.gelu(values_bcs)


class TimeNorm(nn.Module):
    """Bring each channel of an utterance to mean 0 and variance 1 over the utterance's own steps.

    It is a group norm with a group for each channel, which takes no padding into its statistics: what an utterance gets
    does not depend on how long the others of its batch are. (In ``transformers`` and torchaudio it does.)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = _EPS

    def forward(self, values_bcs: Tensor, num_steps_b: Tensor) -> Tensor:
        """Normalise each utterance; what follows its steps is zero. Shapes: (b, c, s), (b,) -> (b, c, s)."""
        steps = values_bcs.shape[2]
        lengths = num_steps_b.tolist()
        if all(length == steps for length in lengths):
            return self._normalized(values_bcs)
        # One after the other: masked sums of the batch would hold the longest tensors of the network several times.
        rows = []
        for i, length in enumerate(lengths):
            row_1cs = self._normalized(values_bcs[i : i + 1, :, :length])
            rows.append(F.pad(row_1cs, (0, steps - length)))
        return torch.cat(rows)

    def _normalized(self, values_bcs: Tensor) -> Tensor:
        if not values_bcs.shape[2]:
            return values_bcs
        # Not F.group_norm, which refuses an utterance of one step.
        return torch.group_norm(values_bcs, len(self.weight), self.weight, self.bias, self.eps)


class PositionalConvolution(nn.Module):
    """A convolution over many steps: what it gives is added to them, and tells the layers where a step is.

    Its weights have a length for each tap and a direction (weight norm).
    """

    def __init__(self, shape: Wav2Vec2Shape) -> None:
        super().__init__()
        width, kernel = shape.hidden_size, shape.num_conv_pos_embeddings
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=shape.num_conv_pos_embedding_groups)
        nn.init.normal_(conv.weight, std=2 * (1 / (kernel * width)) ** 0.5)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = parametrizations.weight_norm(conv, dim=2)

    def forward(self, values_bsh: Tensor) -> Tensor:
        """Return what is to be added; the padding must be zero. Shapes: (b, s, h) -> (b, s, h)."""
        made_bhs = self.conv(values_bsh.transpose(1, 2))
        # With an even kernel there is a step too many.
        return F.gelu(made_bhs[:, :, : values_bsh.shape[1]]).transpose(1, 2)
