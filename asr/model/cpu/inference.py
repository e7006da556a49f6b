"""A twin of the network for use on a CPU: the same answers, several times as fast, and each by itself.

Weights are put once into the order in which the processor reads them, with norms folded in; utterances lie one after
the other without padding; products, convolutions and recurrent layers are compiled loops (``fast_loops``) in which
every number is summed in an order of its own. So an utterance's log-probabilities are the same bits alone, in any
batch, in any order, on any number of threads.

Axes: b utterances, t frames, r rows (steps of all utterances), s steps, f bins, h units, g gates, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import binding
from torch import Tensor, nn

from asr.model.conv import strided
from asr.model.cpu import loops as loops
from asr.model.cpu.tiles import LANES, features
from asr.model.network import DeepSpeech2
from asr.model.recurrent import GATES, RecurrentLayer

Floats = npt.NDArray[np.float32]
#: how numbers are stored for products: float32, or bf16 as the upper halves of float32
Stored = npt.NDArray[Any]
#: work on a range; and how a count of things is worked on
Work = Callable[[int, int], None]
Spread = Callable[[int, Work], None]
PRECISIONS = ("fp32", "bf16")
_CELLS = {"gru": loops.GRU, "lstm": loops.LSTM, "tanh": loops.TANH}


def runs_here(precision: str) -> bool:
    """Whether this machine has the instructions of a precision."""
    have = features()
    if precision == "bf16":
        # The instruction is written out, and so needs LLVM's assembler.
        return {"avx512f", "avx512bf16"} <= have and hasattr(binding, "initialize_native_asmparser")
    return "fma" in have or "neon" in have


def up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def stored(values: npt.NDArray[Any], precision: str) -> Stored:
    """Values as products take them."""
    if precision == "fp32":
        return np.ascontiguousarray(values, np.float32)
    return (
        torch.from_numpy(np.ascontiguousarray(values, np.float32)).bfloat16().view(torch.int16).numpy().view(np.uint16)
    )


@dataclass(frozen=True)
class Weights:
    """A matrix in blocks of 16 columns, as ``fast_tiles`` takes it, with its bias.

    Shapes: (columns, runs x groups, 16, group), (16 columns,).
    """

    values: Stored
    bias: Floats
    columns: int
    runs: int
    groups: int

    @property
    def column(self) -> int:
        """Elements a block."""
        return self.values.size // self.columns


def packed(matrix_nrk: npt.NDArray[Any], bias_n: npt.NDArray[Any], precision: str) -> Weights:
    """Weights of (outputs, runs, terms a run), outputs and runs filled up with zeros."""
    group = 1 if precision == "fp32" else 2
    outputs, runs, terms = matrix_nrk.shape
    columns, groups = up(outputs, LANES) // LANES, up(terms, group) // group
    full = np.zeros((columns * LANES, runs, groups * group), np.float32)
    full[:outputs, :, :terms] = matrix_nrk
    bias = np.zeros(columns * LANES, np.float32)
    bias[:outputs] = bias_n
    blocks = full.reshape(columns, LANES, runs * groups, group).transpose(0, 2, 1, 3)
    return Weights(stored(blocks, precision).reshape(-1), bias, columns, runs, groups)


@dataclass(frozen=True)
class Conv:
    """A convolution with its norm folded in."""

    weights: Weights
    kernel_tf: tuple[int, int]
    stride_tf: tuple[int, int]
    channels_in: int
    channels: int
    bins_in: int
    bins: int


@dataclass(frozen=True)
class Recurrent:
    """A recurrent layer: one projection for all directions, and each direction's own product."""

    cell: int
    gates: int
    size: int
    projection: Weights
    own: tuple[Weights, ...]
    summed: bool
    residual: bool


class FastNetwork:
    """The twin of a network in evaluation mode (``asr.model.contract``); it does not follow the weights later on."""

    def __init__(self, network: DeepSpeech2, precision: str) -> None:
        self.source, self.precision = network.eval(), precision
        cfg = network.cfg
        self.cfg, self.bins, self.vocabulary_size = cfg, network.bins, network.vocabulary_size
        with torch.no_grad():
            self._convs = _convs(network, precision)
            last = self._convs[-1]
            #: what a row of the first layer's input holds, and what it means
            self._width = up(last.bins * last.channels, LANES)
            places = np.arange(last.bins * last.channels)
            self._layers: list[Recurrent] = []
            width = self._width
            for i, layer in enumerate(network.layers):
                assert isinstance(layer, RecurrentLayer)
                made = _recurrent(layer, places, width, precision, residual=cfg.residual and i > 0)
                self._layers.append(made)
                ways = 1 if made.summed else len(made.own)
                width = ways * made.size
                places = np.concatenate([way * made.size + np.arange(cfg.hidden) for way in range(ways)])
            self._ahead = None
            if network.lookahead is not None:
                self._ahead = np.zeros((network.lookahead.steps + 1, width), np.float32)
                self._ahead[:, : cfg.hidden] = _array(network.lookahead.weight_h1k)[:, 0].T
            output_vk = np.zeros((self.vocabulary_size, 1, width), np.float32)
            output_vk[:, 0, places] = _array(network.output.weight)
            self._output = packed(output_vk, _array(network.output.bias), precision)

    @property
    def stride(self) -> int:
        """Frames a step."""
        return self.source.stride

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Output steps of utterances. Shapes: (b,) -> (b,)."""
        return self.source.num_steps(num_frames_b)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The original's."""
        return self.source.parameters(recurse)

    def state_dict(self) -> dict[str, Any]:
        """The original's."""
        return self.source.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Not possible: the weights are packed."""
        raise TypeError("a network prepared for use takes no weights: load them before preparing it")

    def to(self, device: torch.device | str) -> FastNetwork:
        """Itself, on a CPU only."""
        if torch.device(device).type != "cpu":
            raise TypeError("a network prepared for a CPU stays there: move it before preparing it")
        return self

    def eval(self) -> FastNetwork:
        """Itself: it is for use only."""
        return self

    def __call__(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and the number of valid steps. Shapes: (b, t, f), (b,) -> (b, s, v), (b,)."""
        frames = num_frames_b.tolist()
        each = self.each([one_tf[:n].numpy() for one_tf, n in zip(features_btf, frames, strict=True)])
        num_steps_b = torch.tensor([len(one_sv) for one_sv in each], dtype=torch.int64)
        log_probs_bsv = torch.zeros(len(each), max(map(len, each), default=0), self.vocabulary_size)
        for i, one_sv in enumerate(each):
            log_probs_bsv[i, : len(one_sv)] = torch.from_numpy(one_sv)
        return log_probs_bsv, num_steps_b

    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Log-probabilities of utterances, on as many threads as torch may use here. Shapes: (t, f) -> (s, v).

        Raises:
            ValueError: the features have another number of bins than the model was built for.
        """
        for one_tf in features:
            if one_tf.shape[1] != self.bins:
                raise ValueError(f"features have {one_tf.shape[1]} bins, the model was built for {self.bins}")
        threads = torch.get_num_threads()
        if threads == 1 or not features:
            return self._run(features, _alone)
        with ThreadPoolExecutor(threads, "asr-fast", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            if len(features) == 1:
                return self._run(features, partial(_shared, pool, threads))
            # Like lengths to every thread. No thread waits for another before its end.
            order = sorted(range(len(features)), key=lambda i: -len(features[i]))
            groups = [order[i::threads] for i in range(min(threads, len(features)))]
            done = pool.map(lambda group: self._run([features[i] for i in group], _alone), groups)
            found = {
                i: one_sv
                for group, each in zip(groups, done, strict=True)
                for i, one_sv in zip(group, each, strict=True)
            }
        return [found[i] for i in range(len(features))]

    def _run(self, features: Sequence[Floats], spread: Spread) -> list[Floats]:
        order = sorted(range(len(features)), key=lambda i: -len(features[i]))
        lengths = np.array([self._steps(len(features[i])) for i in order], np.int64)
        starts = np.cumsum(lengths) - lengths
        rows, used = int(lengths.sum()), int((lengths > 0).sum())
        logits_rv = np.zeros((rows, self._output.columns * LANES), np.float32)
        if rows:
            narrow = np.zeros(rows * self._width, self._stored)
            for i, start in zip(order[:used], starts, strict=False):
                self._front_end(features[i], narrow, int(start), spread)
            wide = np.empty(0, np.float32)
            for layer in self._layers:
                wide, narrow = self._recurrent(layer, wide, narrow, starts[:used], lengths[:used], spread)
            if self._ahead is not None:
                before, wide = wide, np.empty_like(wide)
                loops.look_ahead(before, starts[:used], lengths[:used], self._ahead.shape[1], self._ahead, wide, narrow)
            out, width = self._output, len(narrow) // rows
            spread(rows, lambda first, last: loops.project(
                narrow, width, first, last, out.groups, out.values, out.column, out.columns, out.bias,
                logits_rv.reshape(-1), logits_rv.shape[1]))  # fmt: skip
        logits = torch.from_numpy(logits_rv)[:, : self.vocabulary_size].contiguous()
        log_probs_rv = logits.log_softmax(-1).numpy()
        answers: list[Floats] = [log_probs_rv[:0]] * len(features)
        for i, start, length in zip(order, starts, lengths, strict=True):
            answers[i] = log_probs_rv[start : start + length]
        return answers

    @property
    def _stored(self) -> Any:
        return np.float32 if self.precision == "fp32" else np.uint16

    def _steps(self, frames: int) -> int:
        for conv in self._convs:
            frames = -(-frames // conv.stride_tf[0])
        return frames

    def _front_end(self, features_tf: Floats, rows: Stored, start: int, spread: Spread) -> None:
        """Convolutions of one utterance into its rows."""
        length, conv = len(features_tf), self._convs[0]
        x, _, row = self._room(conv, length)
        pad_t, pad_f = conv.kernel_tf[0] // 2, conv.kernel_tf[1] // 2
        inside = x[pad_t * row : (pad_t + length) * row].reshape(length, row)[:, pad_f : pad_f + conv.bins_in]
        inside[:] = stored(features_tf, self.precision)
        for i, conv in enumerate(self._convs):
            steps = -(-length // conv.stride_tf[0])
            if i + 1 < len(self._convs):
                y, y_at, y_row = self._room(self._convs[i + 1], steps)
            else:
                y, y_at, y_row = rows, start * self._width, self._width
            spread(steps, partial(self._convolve, conv, x, row, y, y_at, y_row))
            x, row, length = y, y_row, steps

    def _room(self, conv: Conv, length: int) -> tuple[Stored, int, int]:
        """Zeros around a convolution's input, where it begins, and elements a frame."""
        pad_t, pad_f = conv.kernel_tf[0] // 2, conv.kernel_tf[1] // 2
        row = (conv.bins_in + 2 * pad_f) * conv.channels_in
        # one group more: the last run may be filled up with what follows it
        return np.zeros((length + 2 * pad_t) * row + 2, self._stored), pad_t * row + pad_f * conv.channels_in, row

    def _convolve(
        self, conv: Conv, x: Stored, row: int, y: Stored, y_at: int, y_row: int, first: int, last: int
    ) -> None:
        w = conv.weights
        work = np.empty(conv.bins * w.columns * LANES, np.float32)
        loops.convolve(
            x, conv.stride_tf[0] * row, row, conv.stride_tf[1] * conv.channels_in, first, last, conv.bins,
            w.runs, w.groups, w.values, w.column, w.columns, w.bias, np.float32(self.cfg.relu_clip), conv.channels,
            y, y_at, y_row, work,
        )  # fmt: skip

    def _recurrent(
        self, layer: Recurrent, before: Floats, narrow: Stored, starts: Any, lengths: Any, spread: Spread
    ) -> tuple[Floats, Stored]:
        rows, w, ways = int(lengths.sum()), layer.projection, len(layer.own)
        gates, size, width = layer.gates * layer.size, layer.size, len(narrow) // rows
        x = np.empty(rows * ways * gates, np.float32)
        spread(rows, lambda first, last: loops.project(
            narrow, width, first, last, w.groups, w.values, w.column, w.columns, w.bias, x, ways * gates))  # fmt: skip
        own = np.empty(rows * ways * size, np.float32)

        def direction(first: int, last: int) -> None:
            for way in range(first, last):
                of = layer.own[way]
                many = len(lengths) * size
                loops.recur(
                    layer.cell, x, way * gates, ways * gates, size, of.values, of.groups, of.bias,
                    np.zeros(many, np.float32), np.zeros(many, np.float32), np.zeros(2 * many, self._stored),
                    starts, lengths, way == 1, own, way * size, ways * size,
                    np.empty(len(lengths) * layer.gates * LANES, np.float32),
                )  # fmt: skip

        spread(ways, direction)
        out_width = size if layer.summed else ways * size
        wide, after = np.empty(rows * out_width, np.float32), np.empty(rows * out_width, self._stored)
        spread(rows, lambda first, last: loops.join(
            own, first, last, size, ways, layer.summed, before, layer.residual, wide, after))  # fmt: skip
        return wide, after


def _alone(count: int, work: Work) -> None:
    work(0, count)


def _shared(pool: ThreadPoolExecutor, threads: int, count: int, work: Work) -> None:
    """One part of the work on each thread."""
    ends = [count * i // threads for i in range(threads + 1)]
    list(pool.map(work, ends[:-1], ends[1:]))


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().float().cpu().numpy()
    return array


def _convs(network: DeepSpeech2, precision: str) -> list[Conv]:
    front, bins, made = network.front_end, network.bins, []
    for layer, conv, norm in zip(front.layers, front.convs, front.norms, strict=True):
        assert isinstance(conv, nn.Conv2d)
        weight_octf = _array(conv.weight)
        bias_o = np.zeros(layer.channels, np.float32) if conv.bias is None else _array(conv.bias)
        if isinstance(norm, nn.BatchNorm1d):
            assert norm.running_mean is not None and norm.running_var is not None  # as ConvFrontEnd makes it
            scale_o = _array(norm.weight / (norm.running_var + norm.eps).sqrt())
            weight_octf = weight_octf * scale_o[:, None, None, None]
            bias_o = _array(norm.bias) + scale_o * (bias_o - _array(norm.running_mean))
        kernel_t, kernel_f = layer.kernel_tf
        # A run: the values under the kernel in one frame, bins outside, channels inside.
        matrix_otk = weight_octf.transpose(0, 2, 3, 1).reshape(layer.channels, kernel_t, -1)
        after = strided(bins, kernel_f, layer.stride_tf[1])
        made.append(
            Conv(packed(matrix_otk, bias_o, precision), layer.kernel_tf, layer.stride_tf,
                 weight_octf.shape[1], layer.channels, bins, after)
        )  # fmt: skip
        bins = after
    return made


def _recurrent(
    layer: RecurrentLayer, places: npt.NDArray[Any], width: int, precision: str, *, residual: bool
) -> Recurrent:
    """A layer's weights, for an input whose values lie in these places of a row."""
    ways = [layer.forward_direction]
    if layer.backward_direction is not None:
        ways.append(layer.backward_direction)
    hidden, gates = ways[0].hidden, GATES[layer.cell]
    size = up(hidden, LANES)
    projection = np.zeros((len(ways), gates, size, 1, width), np.float32)
    bias = np.zeros((len(ways), gates, size), np.float32)
    own = []
    for way, direction in enumerate(ways):
        # in evaluation mode the norm asks nothing of the input
        nothing = torch.empty(0)
        w_gi, w_gh, bias_g, bias_hidden_g = map(_array, direction.prepare(nothing, nothing, False)[0])
        projection[way][:, :hidden, 0, places] = w_gi.reshape(gates, hidden, -1)
        bias[way, :, :hidden] = bias_g.reshape(gates, hidden)
        own_gh, own_bias = np.zeros((gates, size, 1, size), np.float32), np.zeros((gates, size), np.float32)
        own_gh[:, :hidden, 0, :hidden] = w_gh.reshape(gates, hidden, hidden)
        own_bias[:, :hidden] = bias_hidden_g.reshape(gates, hidden)
        own.append(packed(own_gh.reshape(gates * size, 1, size), own_bias.reshape(-1), precision))
    every = packed(projection.reshape(-1, 1, width), bias.reshape(-1), precision)
    summed = len(ways) == 1 or layer.merge == "sum"
    return Recurrent(_CELLS[layer.cell], gates, size, every, tuple(own), summed, residual)
