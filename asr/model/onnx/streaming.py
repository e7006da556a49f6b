"""A network in one direction as a graph that takes a piece at a time, with its state as inputs and outputs.

Every input ``state_X`` begins as zeros, and takes what the output ``new_state_X`` gave for the piece before. Pieces may
have any length, none included. All answers together are those of the whole: a convolution waits until it has all that
its kernel sees, and the last piece (``is_last``) is followed by the zeros that a whole utterance ends with.

Axes: b batch (streams in step), n samples, t frames, s steps, f bins, c channels, i inputs, h units, l length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from asr.config import ModelConfig
from asr.model.folded import Arrays, fold_convs, fold_directions, strided
from asr.model.onnx.features import FrontEnd, of_spectra, spectra, with_statistics
from asr.model.onnx.graph import Graph
from asr.model.onnx.network import add_log_probs, convolution, recurrence, row_convolution, rows


class Stream:
    """A graph for pieces, in the making: its states, and whether the piece is the last one."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        #: the shape that each state begins with, as zeros; "b" stands for the number of streams
        self.states: dict[str, list[str | int]] = {}
        is_last = graph.input("is_last", "bool", [1])
        self._is_last = graph.cast(is_last, "int64")

    def state(self, name: str, shape: list[str | int], declared: list[str | int] | None = None) -> str:
        """Add a state that begins as zeros of a shape.

        Args:
            declared: the shape of the input, if an axis of it changes.
        """
        self.states[f"state_{name}"] = shape
        return self.graph.input(f"state_{name}", "float32", declared or shape)

    def new_state(self, name: str, value: str, shape: list[str | int]) -> None:
        """Add what a state is for the next piece."""
        self.graph.output(value, f"new_state_{name}", "float32", shape)

    def over_time(
        self,
        name: str,
        x_bcl: str,
        shape: list[str | int],
        *,
        kernel: int,
        stride: int,
        after: int,
        convolve: Callable[[str], str],
    ) -> str:
        """Add a convolution over axis 2, which keeps what the next piece's outputs must see.

        Args:
            shape: of the state at the start: the zeros before the first piece.
            kernel, stride: along the axis.
            after: zeros behind the last piece.
            convolve: adds the convolution itself, without padding.
        """
        graph = self.graph
        changing = [*shape[:2], f"kept_{name}", *shape[3:]]
        buffer = graph.op("Concat", self.state(name, shape, changing), x_bcl, axis=2)
        buffer = self._extended(buffer, graph.op("Mul", self._is_last, graph.integers(after)), len(shape))

        length = graph.length(buffer, 2)
        whole = graph.op("Add", graph.op("Sub", length, graph.integers(kernel)), graph.integers(stride))
        count = graph.op("Div", graph.op("Max", whole, graph.integers(0)), graph.integers(stride))
        kept_from = graph.op("Mul", count, graph.integers(stride))
        self.new_state(name, graph.slice_from(buffer, kept_from, 2), [*shape[:2], f"new_{name}", *shape[3:]])

        # A runtime refuses to convolve less than a kernel; what zeros make then is not counted.
        missing = graph.op("Max", graph.op("Sub", graph.integers(kernel), length), graph.integers(0))
        return graph.slice_to(convolve(self._extended(buffer, missing, len(shape))), count, 2)

    def _extended(self, value: str, count: str, rank: int) -> str:
        """Append zeros along axis 2. Shapes: count (1,)."""
        parts = [self.graph.integers(*[0] * (rank + 2)), count]
        if rank > 3:
            parts.append(self.graph.integers(*[0] * (rank - 3)))
        pads = self.graph.op("Concat", *parts, axis=0)
        return self.graph.op("Pad", value, pads, self.graph.number(0.0))

    def recurrent(self, cfg: ModelConfig, arrays: Arrays, layer: int, x_sbi: str) -> str:
        """Add a recurrent layer that goes on where the last piece ended. Shapes: (s, b, i) -> (s, b, h)."""
        graph = self.graph
        names = [f"layer_{layer}"] + ([f"cell_{layer}"] if cfg.cell == "lstm" else [])
        shape: list[str | int] = [1, "b", cfg.hidden]
        before = [self.state(name, shape) for name in names]

        # No operator may be given no step at all: it gets one, and the state stays as it was.
        count = graph.length(x_sbi, 0)
        missing = graph.op("Max", graph.op("Sub", graph.integers(1), count), graph.integers(0))
        pads = graph.op("Concat", graph.integers(0, 0, 0), missing, graph.integers(0, 0), axis=0)
        x_sbi = graph.op("Pad", x_sbi, pads, graph.number(0.0))
        out_s1bh, *after = recurrence(graph, cfg, fold_directions(cfg, arrays, layer), x_sbi, "", *before)

        has_steps = graph.op("Greater", count, graph.integers(0))
        for name, old, new in zip(names, before, after, strict=True):
            self.new_state(name, graph.op("Where", has_steps, new, old), shape)
        return graph.slice_to(graph.op("Squeeze", out_s1bh, graph.integers(1)), count, 0)


def add_features(stream: Stream, front_end: FrontEnd, samples_bn: str) -> str:
    """Add what turns the samples of a piece into normalised features. Shapes: (b, n) -> (b, t, f).

    A piece of no samples must be the last one. The features must need nothing of the whole (``asr.model.onnx.export``).
    """
    graph = stream.graph
    preemphasis = front_end.cfg.preemphasis
    if preemphasis:
        # Before the first sample lies the same sample once more.
        changing: list[str | int] = ["b", "kept_sample"]
        before = graph.op("Concat", stream.state("sample", ["b", 0], changing), samples_bn, axis=1)
        stream.new_state("sample", graph.slice(before, -1, None, axis=1), ["b", "new_sample"])
        previous_bn = graph.op(
            "Concat", graph.slice(before, 0, 1, axis=1), graph.slice(samples_bn, 0, -1, axis=1), axis=1
        )
        samples_bn = graph.op("Sub", samples_bn, graph.op("Mul", graph.number(preemphasis), previous_bn))

    spectra_bft = stream.over_time(
        "samples",
        graph.op("Unsqueeze", samples_bn, graph.integers(1)),
        ["b", 1, front_end.before],
        kernel=len(front_end.window_n),
        stride=front_end.hop,
        after=len(front_end.window_n) - front_end.before,
        convolve=partial(spectra, graph, front_end),
    )
    return with_statistics(graph, front_end, of_spectra(graph, front_end, spectra_bft))


def add_network(stream: Stream, cfg: ModelConfig, arrays: Arrays, features_btf: str, bins: int) -> None:
    """Add a network of one direction, from the features of a piece to the output ``log_probs``."""
    graph = stream.graph
    x_bctf = graph.op("Unsqueeze", features_btf, graph.integers(1))
    for i, conv in enumerate(fold_convs(cfg, arrays)):
        kernel = conv.kernel_tf[0]
        x_bctf = stream.over_time(
            f"conv_{i}",
            x_bctf,
            ["b", conv.weight_octf.shape[1], kernel // 2, bins],
            kernel=kernel,
            stride=conv.stride_tf[0],
            after=kernel // 2,
            convolve=partial(convolution, graph, cfg, conv, pad_t=0),
        )
        bins = strided(bins, conv.kernel_tf[1], conv.stride_tf[1])
    x_sbi = graph.op("Transpose", rows(graph, cfg, arrays, x_bctf), perm=[1, 0, 2])

    for i in range(cfg.layers):
        out_sbh = stream.recurrent(cfg, arrays, i, x_sbi)
        x_sbi = graph.op("Add", x_sbi, out_sbh) if cfg.residual and i else out_sbh

    x_bsh = graph.op("Transpose", x_sbi, perm=[1, 0, 2])
    if cfg.lookahead_steps:
        x_bhs = stream.over_time(
            "lookahead",
            graph.op("Transpose", x_sbi, perm=[1, 2, 0]),
            ["b", cfg.hidden, 0],
            kernel=cfg.lookahead_steps + 1,
            stride=1,
            after=cfg.lookahead_steps,
            convolve=partial(row_convolution, graph, arrays, after=0),
        )
        x_bsh = graph.op("Transpose", x_bhs, perm=[0, 2, 1])
    add_log_probs(graph, arrays, x_bsh)
