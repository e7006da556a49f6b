"""The weights of a Deep Speech 2 network as arrays: their names and shapes, and what is left of them in use.

In use a norm is a scale and a shift, which go into the weights of the layer before it.

Axes: o channels out, c channels in, t kernel in time, f kernel in bins, g gates (gates x units), i inputs, h units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.config import ModelConfig

Floats = npt.NDArray[np.float32]
#: arrays by the names of the network's state, such as ``layers.0.forward_direction.bias_g``
Arrays = Mapping[str, npt.NDArray[np.generic]]
Shape = tuple[int, ...]

#: gates of each cell: blocks of rows in its weights
GATES = {"tanh": 1, "gru": 3, "lstm": 4}
#: added to the variance that a norm divides by
EPS = 1e-5
DIRECTIONS = ("forward_direction", "backward_direction")


class ConvWeights(NamedTuple):
    """A convolution with its norm folded in."""

    weight_octf: Floats
    bias_o: Floats
    kernel_tf: tuple[int, int]
    stride_tf: tuple[int, int]


class DirectionWeights(NamedTuple):
    """One direction of a recurrent layer with its norm folded in; gates in torch's order."""

    w_input_gi: Floats
    w_hidden_gh: Floats
    bias_g: Floats
    #: zeros but in a GRU, whose candidate has it inside the reset gate's product
    bias_hidden_g: Floats


def fold_convs(cfg: ModelConfig, arrays: Arrays) -> list[ConvWeights]:
    """Return the convolutions, each with its norm folded in."""
    folded = []
    for i, layer in enumerate(cfg.conv):
        weight_octf = _floats(arrays, f"front_end.convs.{i}.weight")
        if cfg.norm:
            norm = f"front_end.norms.{i}"
            variance_o = _floats(arrays, f"{norm}.running_var")
            scale_o = _floats(arrays, f"{norm}.weight") / np.sqrt(variance_o + np.float32(EPS))
            weight_octf = weight_octf * scale_o[:, None, None, None]
            bias_o = _floats(arrays, f"{norm}.bias") - scale_o * _floats(arrays, f"{norm}.running_mean")
        else:
            bias_o = _floats(arrays, f"front_end.convs.{i}.bias")
        folded.append(ConvWeights(weight_octf, bias_o, layer.kernel_tf, layer.stride_tf))
    return folded


def fold_directions(cfg: ModelConfig, arrays: Arrays, layer: int) -> list[DirectionWeights]:
    """Return the directions of a recurrent layer, counted from 0: the forward one, and the backward one if there is."""
    folded = []
    for direction in DIRECTIONS[: 1 + cfg.bidirectional]:
        name = f"layers.{layer}.{direction}"
        w_input_gi = _floats(arrays, f"{name}.w_input_gi")
        bias_g = _floats(arrays, f"{name}.bias_g")
        if cfg.norm:
            variance_g = _floats(arrays, f"{name}.norm.running_var_g")
            scale_g = _floats(arrays, f"{name}.norm.weight_g") * (1 / np.sqrt(variance_g + np.float32(EPS)))
            w_input_gi = scale_g[:, None] * w_input_gi
            bias_g = bias_g - scale_g * _floats(arrays, f"{name}.norm.running_mean_g")
        bias_hidden_g = np.zeros_like(bias_g)
        if cfg.cell == "gru":
            bias_hidden_g = _floats(arrays, f"{name}.bias_hidden_g")
        folded.append(DirectionWeights(w_input_gi, _floats(arrays, f"{name}.w_hidden_gh"), bias_g, bias_hidden_g))
    return folded


def _floats(arrays: Arrays, name: str) -> Floats:
    return np.asarray(arrays[name], np.float32)
