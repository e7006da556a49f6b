"""The layers of a network as nodes of a graph: convolutions, recurrent layers, lookahead, output.

Axes: b batch, t frames, s steps, f bins, c channels, d directions, i inputs, g gates, h units, v vocabulary.
"""

from __future__ import annotations

import numpy as np

from asr.config import ModelConfig
from asr.model.folded import Arrays, ConvWeights, DirectionWeights, fold_convs, fold_directions, fold_windows
from asr.model.onnx.graph import Floats, Graph

#: cell: its operator, and the places of torch's blocks of gates in the operator's order
_CELLS = {"tanh": ("RNN", [0]), "gru": ("GRU", [1, 0, 2]), "lstm": ("LSTM", [0, 3, 1, 2])}


def add_network(graph: Graph, cfg: ModelConfig, arrays: Arrays, features_btf: str, num_frames_b: str) -> None:
    """Add a network from features to the outputs ``log_probs`` (b, s, v) and ``num_steps`` (b,).

    Args:
        features_btf, num_frames_b: names of values; what lies beyond an utterance's frames may be anything.
    """
    x_btf = graph.masked(features_btf, num_frames_b, axis=1, rank=3)
    x_bsi, num_b = _convolutions(graph, cfg, arrays, x_btf, num_frames_b)
    if cfg.encoder == "recurrent":
        x_bsh = _recurrent_layers(graph, cfg, arrays, x_bsi, num_b)
    else:
        x_bsh, num_b = _window_layers(graph, cfg, arrays, x_bsi, num_b)
    add_log_probs(graph, arrays, x_bsh)
    graph.output(num_b, "num_steps", "int64", ["b"])


def _convolutions(graph: Graph, cfg: ModelConfig, arrays: Arrays, x_btf: str, num_b: str) -> tuple[str, str]:
    """Add the convolutions; padding is zero, and stays so. Shapes: (b, t, f), (b,) -> (b, s, i), (b,)."""
    if not cfg.conv:
        return x_btf, num_b
    x_bcsf = graph.op("Unsqueeze", x_btf, graph.integers(1))
    for conv in fold_convs(cfg, arrays):
        x_bcsf = convolution(graph, cfg, conv, x_bcsf, pad_t=conv.kernel_tf[0] // 2)
        num_b = graph.strided(num_b, conv.stride_tf[0])
        # The next layer's kernel reaches into the padding.
        x_bcsf = graph.masked(x_bcsf, num_b, axis=2, rank=4)

    return rows(graph, cfg, arrays, x_bcsf), num_b


def convolution(graph: Graph, cfg: ModelConfig, conv: ConvWeights, x_bctf: str, pad_t: int) -> str:
    """Add a convolution and its clipped ReLU, with so many zeros at both ends of time. Shapes: (b, c, t, f)."""
    pad_f = conv.kernel_tf[1] // 2
    out_bosf = graph.op(
        "Conv",
        x_bctf,
        graph.weight(conv.weight_octf),
        graph.constant(conv.bias_o),
        kernel_shape=list(conv.kernel_tf),
        strides=list(conv.stride_tf),
        pads=[pad_t, pad_f, pad_t, pad_f],
    )
    return graph.op("Clip", out_bosf, graph.number(0.0), graph.number(cfg.relu_clip))


def rows(graph: Graph, cfg: ModelConfig, arrays: Arrays, x_bcsf: str) -> str:
    """Make one vector per step of the convolutions' output. Shapes: (b, c, s, f) -> (b, s, i)."""
    x_bsfc = graph.op("Transpose", x_bcsf, perm=[0, 2, 3, 1])
    return graph.op("Reshape", x_bsfc, graph.integers(0, 0, _inputs(cfg, arrays)))


def _inputs(cfg: ModelConfig, arrays: Arrays) -> int:
    """Count the inputs of the first layer of the encoder."""
    weight = "forward_direction.w_input_gi" if cfg.encoder == "recurrent" else "w_hki"
    return int(arrays[f"layers.0.{weight}"].shape[-1])


def _recurrent_layers(graph: Graph, cfg: ModelConfig, arrays: Arrays, x_bsi: str, num_b: str) -> str:
    """Add the recurrent layers and the lookahead. Shapes: (b, s, i), (b,) -> (b, s, h)."""
    x_sbi = graph.op("Transpose", x_bsi, perm=[1, 0, 2])
    for i in range(cfg.layers):
        out_sbh = _recurrent(graph, cfg, fold_directions(cfg, arrays, i), x_sbi, num_b)
        # From the second layer on input and output have one size.
        x_sbi = graph.op("Add", x_sbi, out_sbh) if cfg.residual and i else out_sbh
    x_bsh = graph.op("Transpose", x_sbi, perm=[1, 0, 2])
    if not cfg.lookahead_steps:
        return x_bsh
    x_bhs = graph.op("Transpose", graph.masked(x_bsh, num_b, axis=1, rank=3), perm=[0, 2, 1])
    out_bhs = row_convolution(graph, arrays, x_bhs, after=cfg.lookahead_steps)
    return graph.op("Transpose", out_bhs, perm=[0, 2, 1])


def _recurrent(graph: Graph, cfg: ModelConfig, directions: list[DirectionWeights], x_sbi: str, num_b: str) -> str:
    """Add a recurrent layer. Shapes: (s, b, i), (b,) -> (s, b, h or 2 h)."""
    # An operator need not take a length of 0. An utterance without steps gets one, which no result counts.
    lengths_b = graph.cast(graph.op("Max", num_b, graph.integer(1)), "int32")
    out_sdbh = recurrence(graph, cfg, directions, x_sbi, lengths_b)[0]
    if len(directions) == 1:
        return graph.op("Squeeze", out_sdbh, graph.integers(1))
    if cfg.merge == "sum":
        return graph.op("ReduceSum", out_sdbh, graph.integers(1), keepdims=0)
    out_sbdh = graph.op("Transpose", out_sdbh, perm=[0, 2, 1, 3])
    return graph.op("Reshape", out_sbdh, graph.integers(0, 0, 2 * cfg.hidden))


def recurrence(graph: Graph, cfg: ModelConfig, directions: list[DirectionWeights], x_sbi: str, *more: str) -> list[str]:
    """Add the operator of a recurrent layer; return its outputs (s, d, b, h), (d, b, h) and, of an LSTM, (d, b, h).

    Args:
        more: lengths (b,) or an empty name, and then the states at the start, if these are not zero.
    """
    operator, _ = _CELLS[cfg.cell]
    attributes = {"hidden_size": cfg.hidden, "direction": "bidirectional" if len(directions) == 2 else "forward"}
    if cfg.cell == "gru":
        attributes["linear_before_reset"] = 1
    weights = _weights(graph, cfg, directions)
    return graph.ops(operator, x_sbi, *weights, *more, count=3 if cfg.cell == "lstm" else 2, **attributes)


def _weights(graph: Graph, cfg: ModelConfig, directions: list[DirectionWeights]) -> list[str]:
    """Add the weights of a layer as the operators take them. Shapes: (d, g, i), (d, g, h), (d, 2 g)."""
    _, order = _CELLS[cfg.cell]

    def arranged(values: Floats) -> Floats:
        blocks = values.reshape(len(order), cfg.hidden, *values.shape[1:])
        return blocks[order].reshape(values.shape)

    w_input_dgi = np.stack([arranged(one.w_input_gi) for one in directions])
    w_hidden_dgh = np.stack([arranged(one.w_hidden_gh) for one in directions])
    biases = [np.concatenate([arranged(one.bias_g), arranged(one.bias_hidden_g)]) for one in directions]
    return [graph.weight(w_input_dgi), graph.weight(w_hidden_dgh), graph.constant(np.stack(biases))]


def row_convolution(graph: Graph, arrays: Arrays, x_bhs: str, after: int) -> str:
    """Add the lookahead, with zeros for so many steps behind the end. Shapes: (b, h, s) -> (b, h, s')."""
    weight_h1k = np.asarray(arrays["lookahead.weight_h1k"], np.float32)
    units, _, taps = weight_h1k.shape
    return graph.op("Conv", x_bhs, graph.weight(weight_h1k), group=units, kernel_shape=[taps], pads=[0, after])


def _window_layers(graph: Graph, cfg: ModelConfig, arrays: Arrays, x_bsi: str, num_b: str) -> tuple[str, str]:
    """Add the layers of a time-delay or feed-forward network. Shapes: (b, s, i), (b,) -> (b, s', h), (b,)."""
    x_bis = graph.op("Transpose", x_bsi, perm=[0, 2, 1])
    for i, window in enumerate(fold_windows(cfg, arrays)):
        taps = window.w_hki.shape[1]
        pad = window.dilation * (taps // 2)
        out_bhs = graph.op(
            "Conv",
            x_bis,
            graph.weight(window.w_hki.transpose(0, 2, 1)),
            graph.constant(window.bias_h),
            kernel_shape=[taps],
            dilations=[window.dilation],
            strides=[window.stride],
            pads=[pad, pad],
        )
        out_bhs = graph.op("Clip", out_bhs, graph.number(0.0), graph.number(cfg.relu_clip))
        num_b = graph.strided(num_b, window.stride)
        out_bhs = graph.masked(out_bhs, num_b, axis=2, rank=3)
        # From the second layer on input and output have one size.
        x_bis = graph.op("Add", x_bis, out_bhs) if cfg.residual and i else out_bhs
    return graph.op("Transpose", x_bis, perm=[0, 2, 1]), num_b


def add_log_probs(graph: Graph, arrays: Arrays, x_bsh: str) -> None:
    """Add the output layer, and its log-probabilities as an output of the graph."""
    weight_vh = arrays["output.weight"]
    logits_bsv = graph.op("MatMul", x_bsh, graph.weight(weight_vh.T))
    logits_bsv = graph.op("Add", logits_bsv, graph.constant(arrays["output.bias"]))
    log_probs_bsv = graph.op("LogSoftmax", logits_bsv, axis=-1)
    graph.output(log_probs_bsv, "log_probs", "float32", ["b", "s", len(weight_vh)])
