"""The inference network: the same answers as a network of recurrent layers on a CPU, several times as fast.

Weights are put once into the order in which the processor reads them, with norms folded in; utterances lie one after
the other without padding; products, convolutions and recurrent layers are compiled loops (``loops``) in which every
number is summed in an order of its own. So an utterance's log-probabilities are the same bits alone, in any batch, in
any order, on any number of threads.

Axes: b utterances, t frames, r rows (steps of all utterances), s steps, f bins, h units, g gates, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import binding
from torch import Tensor, nn

from asr.model.contract import NetworkForUse
from asr.model.conv import strided
from asr.model.cpu import loops
from asr.model.cpu.loops import Conv, Floats, Stored
from asr.model.cpu.tiles import Weights, features, round_up
from asr.model.cpu.vectors import LANES
from asr.model.network import DeepSpeech2
from asr.model.recurrent import GATES, RecurrentLayer

#: work on a range of things; and a way to do such work for a number of things
Work = Callable[[int, int], None]
Spread = Callable[[int, Work], None]
_CELLS = {"gru": loops.GRU, "lstm": loops.LSTM, "tanh": loops.TANH}


@dataclass(frozen=True)
class Recurrent:
    """A recurrent layer: one projection for all directions, and each direction's recurrent product."""

    cell: int
    #: units of a direction, a multiple of ``LANES``
    size: int
    projection: Weights
    own: tuple[Weights, ...]
    summed: bool
    residual: bool

    @property
    def output_size(self) -> int:
        """Values per row of the output."""
        return self.size if self.summed else len(self.own) * self.size


@dataclass(frozen=True)
class _Utterances:
    """Hold the places of a batch's utterances among its rows, longest first."""

    #: places in the caller's order
    order: list[int]
    lengths: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    rows: int


def runs_here(precision: str) -> bool:
    """Check whether this machine has the instructions of a precision."""
    have = features()
    if precision == "bf16":
        # The instruction is written out, and so needs LLVM's assembler.
        return {"avx512f", "avx512bf16"} <= have and hasattr(binding, "initialize_native_asmparser")
    return "fma" in have or "neon" in have


def stored(values: npt.NDArray[Any], precision: str) -> Stored:
    """Return values as products take them: float32, or bf16 as uint16."""
    wide = np.ascontiguousarray(values, np.float32)
    if precision == "fp32":
        return wide
    return torch.from_numpy(wide).bfloat16().view(torch.int16).numpy().view(np.uint16)


def packed(matrix_nrk: npt.NDArray[Any], bias_n: npt.NDArray[Any], precision: str) -> Weights:
    """Pack weights of (outputs, runs, terms per run) into blocks; outputs and runs are filled up with zeros."""
    group = 1 if precision == "fp32" else 2
    outputs, runs, terms = matrix_nrk.shape
    columns = round_up(outputs, LANES) // LANES
    groups = round_up(terms, group) // group

    full = np.zeros((columns * LANES, runs, groups * group), np.float32)
    full[:outputs, :, :terms] = matrix_nrk
    bias = np.zeros(columns * LANES, np.float32)
    bias[:outputs] = bias_n
    blocks = full.reshape(columns, LANES, runs * groups, group).transpose(0, 2, 1, 3)
    values = stored(blocks, precision).reshape(-1)
    return Weights(values, bias, columns, values.size // columns, runs, groups)


class InferenceNetwork(NetworkForUse):
    """A network for use only (``asr.model.contract``); it does not follow the original's weights later on."""

    def __init__(self, network: DeepSpeech2, precision: str) -> None:
        self.source = network.eval()
        self.precision = precision
        self.cfg = network.cfg
        self.bins = network.bins
        self.vocabulary_size = network.vocabulary_size
        with torch.no_grad():
            self._pack(network)

    def _pack(self, network: DeepSpeech2) -> None:
        precision = self.precision
        hidden = self.cfg.hidden
        self._convs = _convs(network, precision)
        last = self._convs[-1]
        #: values per row of the first layer's input, and the places of those that mean something
        self._width = round_up(last.bins * last.channels, LANES)
        places = np.arange(last.bins * last.channels)

        self._layers: list[Recurrent] = []
        width = self._width
        for i, layer in enumerate(network.layers):
            assert isinstance(layer, RecurrentLayer)
            made = _recurrent(layer, places, width, precision, residual=self.cfg.residual and i > 0)
            self._layers.append(made)
            width = made.output_size
            places = np.concatenate([start + np.arange(hidden) for start in range(0, width, made.size)])

        self._ahead_kh: Floats | None = None
        if network.lookahead is not None:
            self._ahead_kh = np.zeros((network.lookahead.steps + 1, width), np.float32)
            self._ahead_kh[:, :hidden] = _array(network.lookahead.weight_h1k)[:, 0].T
        output_vk = np.zeros((self.vocabulary_size, 1, width), np.float32)
        output_vk[:, 0, places] = _array(network.output.weight)
        self._output = packed(output_vk, _array(network.output.bias), precision)

    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Compute log-probabilities of utterances, on as many threads as torch may use here. Shapes: (t, f) -> (s, v).

        Raises:
            ValueError: the features have another number of bins than the model was built for.
        """
        for features_tf in features:
            if features_tf.shape[1] != self.bins:
                raise ValueError(f"features have {features_tf.shape[1]} bins, the model was built for {self.bins}")
        threads = torch.get_num_threads()
        if threads == 1 or not features:
            return self._run(features, _alone)

        with ThreadPoolExecutor(threads, "asr-fast", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            if len(features) == 1:
                return self._run(features, partial(_shared, pool, threads))
            # Every thread gets utterances of like lengths, and none waits for another before its end.
            order = _longest_first(features)
            groups = [order[i::threads] for i in range(min(threads, len(features)))]
            done = pool.map(lambda group: self._run([features[i] for i in group], _alone), groups)
            answers: list[Floats] = [np.empty(0, np.float32)] * len(features)
            for group, group_answers in zip(groups, done, strict=True):
                for i, log_probs_sv in zip(group, group_answers, strict=True):
                    answers[i] = log_probs_sv
        return answers

    def _run(self, features: Sequence[Floats], spread: Spread) -> list[Floats]:
        """Compute log-probabilities of utterances, with the work spread over threads in this way."""
        order = _longest_first(features)
        lengths = np.array([self._steps(len(features[i])) for i in order], np.int64)
        starts = np.cumsum(lengths) - lengths
        batch = _Utterances(order, lengths, starts, int(lengths.sum()))
        logits_rv = np.zeros((batch.rows, self._output.columns * LANES), np.float32)
        if batch.rows:
            self._encode(features, batch, logits_rv, spread)

        logits = torch.from_numpy(logits_rv)[:, : self.vocabulary_size].contiguous()
        log_probs_rv = logits.log_softmax(-1).numpy()
        answers: list[Floats] = [log_probs_rv[:0]] * len(features)
        for i, start, length in zip(order, starts, lengths, strict=True):
            answers[i] = log_probs_rv[start : start + length]
        return answers

    def _encode(self, features: Sequence[Floats], batch: _Utterances, logits_rv: Floats, spread: Spread) -> None:
        """Compute the rows of logits."""
        used = int((batch.lengths > 0).sum())
        starts = batch.starts[:used]
        lengths = batch.lengths[:used]
        narrow = np.zeros(batch.rows * self._width, self._stored)
        for i, start in zip(batch.order[:used], starts, strict=True):
            self._front_end(features[i], narrow, int(start), spread)

        wide_rh = np.empty((0, 0), np.float32)
        for layer in self._layers:
            wide_rh = self._recurrent(layer, wide_rh, narrow, starts, lengths, spread)
            narrow = stored(wide_rh, self.precision).reshape(-1)
        if self._ahead_kh is not None:
            wide_rh = _look_ahead(wide_rh, starts, lengths, self._ahead_kh)
            narrow = stored(wide_rh, self.precision).reshape(-1)

        width = len(narrow) // batch.rows
        flat = logits_rv.reshape(-1)
        spread(batch.rows, lambda first, last: loops.project(narrow, width, first, last, self._output, flat))

    @property
    def _stored(self) -> Any:
        return np.float32 if self.precision == "fp32" else np.uint16

    def _steps(self, frames: int) -> int:
        for conv in self._convs:
            frames = -(-frames // conv.stride_t)
        return frames

    def _front_end(self, features_tf: Floats, rows: Stored, start: int, spread: Spread) -> None:
        """Run the convolutions of one utterance, and write its rows from row ``start`` on."""
        length = len(features_tf)
        conv = self._convs[0]
        x, _, row = self._room(conv, length)
        pad_f = conv.kernel_f // 2
        inside = x[conv.kernel_t // 2 * row :][: length * row].reshape(length, row)
        inside[:, pad_f : pad_f + conv.bins_in] = stored(features_tf, self.precision)

        for conv, following in zip(self._convs, [*self._convs[1:], None], strict=True):
            length = -(-length // conv.stride_t)
            y, y_at, y_row = rows, start * self._width, self._width
            if following is not None:
                y, y_at, y_row = self._room(following, length)
            spread(length, partial(_convolve, conv, x, row, y, y_at, y_row))
            x, row = y, y_row

    def _room(self, conv: Conv, length: int) -> tuple[Stored, int, int]:
        """Return zeros for a convolution's input and its padding, where the input begins, and elements per frame."""
        row = (conv.bins_in + conv.kernel_f // 2 * 2) * conv.channels_in
        # One group more at the end: the last run may be filled up with what follows it.
        room = np.zeros((length + conv.kernel_t // 2 * 2) * row + 2, self._stored)
        return room, conv.kernel_t // 2 * row + conv.kernel_f // 2 * conv.channels_in, row

    def _recurrent(
        self, layer: Recurrent, before_rh: Floats, narrow: Stored, starts: Any, lengths: Any, spread: Spread
    ) -> Floats:
        """Run a recurrent layer on ``narrow``, which is ``before_rh`` as products take it. Shapes: -> (r, h or 2 h)."""
        rows = int(lengths.sum())
        ways = len(layer.own)
        size = layer.size
        x = np.empty(rows * layer.projection.columns * LANES, np.float32)
        width = len(narrow) // rows
        spread(rows, lambda first, last: loops.project(narrow, width, first, last, layer.projection, x))

        own = np.empty(rows * ways * size, np.float32)

        def run_directions(first: int, last: int) -> None:
            for way in range(first, last):
                loops.recur(layer.cell, way, ways, size, x, layer.own[way], starts, lengths, own)

        spread(ways, run_directions)

        out_rh: Floats = own.reshape(rows, ways * size)
        if layer.summed and ways == 2:
            out_rh = out_rh[:, :size] + out_rh[:, size:]
        return out_rh + before_rh if layer.residual else out_rh


def _look_ahead(x_rh: Floats, starts: Any, lengths: Any, weight_kh: Floats) -> Floats:
    """Compute each unit's weighted sum over itself and its next values inside the utterance. Shapes: -> (r, h)."""
    out_rh = np.zeros_like(x_rh)
    for start, length in zip(starts, lengths, strict=True):
        own_sh = x_rh[start : start + length]
        for k, weight_h in enumerate(weight_kh[:length]):
            out_rh[start : start + length - k] += weight_h * own_sh[k:]
    return out_rh


def _convolve(conv: Conv, x: Stored, x_row: int, y: Stored, y_at: int, y_row: int, first: int, last: int) -> None:
    loops.convolve(conv, x, x_row, first, last, y, y_at, y_row)


def _longest_first(features: Sequence[Floats]) -> list[int]:
    return sorted(range(len(features)), key=lambda i: -len(features[i]))


def _alone(count: int, work: Work) -> None:
    work(0, count)


def _shared(pool: ThreadPoolExecutor, threads: int, count: int, work: Work) -> None:
    """Do one part of the work on each thread."""
    ends = [count * i // threads for i in range(threads + 1)]
    list(pool.map(work, ends[:-1], ends[1:]))


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().float().cpu().numpy()
    return array


def _convs(network: DeepSpeech2, precision: str) -> list[Conv]:
    """Pack the convolutions, with their norms folded in."""
    front_end = network.front_end
    bins = network.bins
    made = []
    for layer, conv, norm in zip(front_end.layers, front_end.convs, front_end.norms, strict=True):
        assert isinstance(conv, nn.Conv2d)
        weight_octf = _array(conv.weight)
        bias_o = np.zeros(layer.channels, np.float32) if conv.bias is None else _array(conv.bias)
        if isinstance(norm, nn.BatchNorm1d):
            assert norm.running_mean is not None and norm.running_var is not None  # as ConvFrontEnd makes it
            scale_o = _array(norm.weight / (norm.running_var + norm.eps).sqrt())
            weight_octf = weight_octf * scale_o[:, None, None, None]
            bias_o = _array(norm.bias) + scale_o * (bias_o - _array(norm.running_mean))

        kernel_t, kernel_f = layer.kernel_tf
        stride_t, stride_f = layer.stride_tf
        # In a run bins are outside and channels inside, as in the input.
        matrix_otk = weight_octf.transpose(0, 2, 3, 1).reshape(layer.channels, kernel_t, -1)
        bins_out = strided(bins, kernel_f, stride_f)
        made.append(
            Conv(
                weights=packed(matrix_otk, bias_o, precision),
                kernel_t=kernel_t,
                kernel_f=kernel_f,
                stride_t=stride_t,
                stride_f=stride_f,
                channels_in=weight_octf.shape[1],
                channels=layer.channels,
                bins_in=bins,
                bins=bins_out,
                clip=np.float32(network.cfg.relu_clip),
            )
        )
        bins = bins_out
    return made


def _recurrent(
    layer: RecurrentLayer, places: npt.NDArray[Any], width: int, precision: str, *, residual: bool
) -> Recurrent:
    """Pack a layer's weights, for an input of ``width`` values per row, of which those in ``places`` count."""
    directions = layer.directions
    gates = GATES[layer.cell]
    hidden = directions[0].hidden
    size = round_up(hidden, LANES)
    projection = np.zeros((len(directions), gates, size, 1, width), np.float32)
    bias = np.zeros((len(directions), gates, size), np.float32)
    own = []
    for way, direction in enumerate(directions):
        # In evaluation mode the norm needs nothing of the input.
        nothing = torch.empty(0)
        w_input_gi, w_hidden_gh, bias_g, bias_hidden_g = map(_array, direction.weights(nothing, nothing))
        projection[way][:, :hidden, 0, places] = w_input_gi.reshape(gates, hidden, -1)
        bias[way, :, :hidden] = bias_g.reshape(gates, hidden)

        own_gh = np.zeros((gates, size, 1, size), np.float32)
        own_gh[:, :hidden, 0, :hidden] = w_hidden_gh.reshape(gates, hidden, hidden)
        own_bias = np.zeros((gates, size), np.float32)
        own_bias[:, :hidden] = bias_hidden_g.reshape(gates, hidden)
        own.append(packed(own_gh.reshape(gates * size, 1, size), own_bias.reshape(-1), precision))
    return Recurrent(
        cell=_CELLS[layer.cell],
        size=size,
        projection=packed(projection.reshape(-1, 1, width), bias.reshape(-1), precision),
        own=tuple(own),
        summed=len(directions) == 1 or layer.merge == "sum",
        residual=residual,
    )
