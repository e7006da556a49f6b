"""The weights of a Deep Speech 2 network as arrays: their names and shapes, and what is left of them in use.

In use a norm is a scale and a shift, which go into the weights of the layer before it.

Axes: o channels out, c channels in, t kernel in time, f kernel in bins, g gates (gates x units), i inputs, h units,
taps k of a window.
"""

from __future__ import annotations

import math
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
#: of the batches that a norm of convolutions has seen
COUNTER = "num_batches_tracked"
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


class WindowWeights(NamedTuple):
    """A layer of a time-delay or feed-forward network with its norm folded in."""

    w_hki: Floats
    bias_h: Floats
    dilation: int
    stride: int


def strided(length: int, kernel: int, stride: int) -> int:
    """Count the outputs of a "same"-padded convolution with an odd kernel: ceil(length / stride)."""
    return (length + 2 * (kernel // 2) - kernel) // stride + 1


def shapes(cfg: ModelConfig, bins: int, vocabulary_size: int) -> dict[str, Shape]:
    """Return the shapes of a network's state by name, in the order of its layers; counters of batches are (,)."""
    found: dict[str, Shape] = {}
    channels_in = 1
    for i, conv in enumerate(cfg.conv):
        found[f"front_end.convs.{i}.weight"] = (conv.channels, channels_in, *conv.kernel_tf)
        own = (conv.channels,)
        if cfg.norm:
            norm = f"front_end.norms.{i}"
            found |= {f"{norm}.{name}": own for name in ("weight", "bias", "running_mean", "running_var")}
            found[f"{norm}.{COUNTER}"] = ()
        else:
            found[f"front_end.convs.{i}.bias"] = own
        channels_in = conv.channels
        bins = strided(bins, conv.kernel_tf[1], conv.stride_tf[1])

    inputs = channels_in * bins
    gates = GATES[cfg.cell] * cfg.hidden
    for i in range(cfg.layers):
        for direction in DIRECTIONS[: 1 + cfg.bidirectional]:
            name = f"layers.{i}.{direction}"
            found[f"{name}.w_input_gi"] = (gates, inputs)
            found[f"{name}.w_hidden_gh"] = (gates, cfg.hidden)
            found[f"{name}.bias_g"] = (gates,)
            if cfg.cell == "gru":
                found[f"{name}.bias_hidden_g"] = (gates,)
            if cfg.norm:
                found |= {f"{name}.norm.{part}": (gates,) for part in ("weight_g", "running_mean_g", "running_var_g")}
        inputs = 2 * cfg.hidden if cfg.bidirectional and cfg.merge == "concat" else cfg.hidden

    if cfg.lookahead_steps:
        found["lookahead.weight_h1k"] = (inputs, 1, cfg.lookahead_steps + 1)
    return found | {"output.weight": (vocabulary_size, inputs), "output.bias": (vocabulary_size,)}


def count_parameters(cfg: ModelConfig, bins: int, vocabulary_size: int, part: str = "") -> int:
    """Count the trained weights, of all or of those whose names begin with ``part``."""
    of_state = shapes(cfg, bins, vocabulary_size).items()
    return sum(math.prod(shape) for name, shape in of_state if name.startswith(part) and is_trained(name))


def is_trained(name: str) -> bool:
    """Return false for running statistics and counters."""
    return not name.rpartition(".")[2].startswith(("running_", COUNTER))


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


def fold_windows(cfg: ModelConfig, arrays: Arrays) -> list[WindowWeights]:
    """Return the layers of a time-delay or feed-forward network, each with its norm folded in."""
    folded = []
    stride = cfg.time_strides[-1]
    for i in range(cfg.layers):
        w_hki, bias_h = (_floats(arrays, f"layers.{i}.{name}") for name in ("w_hki", "bias_h"))
        if cfg.norm:
            norm = f"layers.{i}.norm"
            variance_h = _floats(arrays, f"{norm}.running_var_g")
            scale_h = _floats(arrays, f"{norm}.weight_g") / np.sqrt(variance_h + np.float32(EPS))
            w_hki = scale_h[:, None, None] * w_hki
            bias_h = bias_h - scale_h * _floats(arrays, f"{norm}.running_mean_g")
        dilations = cfg.tdnn.dilations if cfg.encoder == "tdnn" else (1,)
        folded.append(WindowWeights(w_hki, bias_h, dilations[min(i, len(dilations) - 1)], 1 if i else stride))
    return folded


def _floats(arrays: Arrays, name: str) -> Floats:
    return np.asarray(arrays[name], np.float32)
