"""The inference network: the same answers as a network of recurrent layers on a CPU, several times as fast.

Weights are put once into the order in which the processor reads them, with norms folded in; utterances lie one after
the other without padding; products, convolutions and recurrent layers are compiled loops (``loops``) in which every
number is summed in an order of its own. So an utterance's log-probabilities are the same bits alone, in any batch, in
any order, on any number of threads.

Axes: b utterances, t frames, r rows (steps of all utterances), s steps, f bins, h units, g gates, v vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from llvmlite import binding

from asr.config import ModelConfig
from asr.machine import num_threads, pool_of
from asr.model.cpu.packed import GRU, LANES, LSTM, TANH, Conv, Floats, Stored, Weights, features, round_up
from asr.model.folded import GATES, Arrays, DirectionWeights, count_parameters, fold_convs, fold_directions, strided
from asr.native import Native

#: work on a range of things; and a way to do such work for a number of things
Work = Callable[[int, int], None]
Spread = Callable[[int, Work], None]
_CELLS = {"gru": GRU, "lstm": LSTM, "tanh": TANH}
_narrow, _project, _convolve, _recur = (
    Native("asr.model.cpu.loops", name) for name in ("narrow", "project", "convolve", "recur")
)


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
    narrow = np.empty(wide.shape, np.uint16)
    _narrow(wide.reshape(-1), narrow.reshape(-1))
    return narrow


def packed(matrix_nrk: npt.NDArray[Any], bias_n: npt.NDArray[Any], precision: str) -> Weights:
    """Pack weights of (outputs, runs, terms per run) into blocks; outputs and runs are filled up with zeros."""
    group = 1 if precision == "fp32" else 2
    outputs, runs, terms = matrix_nrk.shape
    columns = round_up(outputs, LANES) // LANES
    groups = round_up(terms, group) // group

    if matrix_nrk.shape != (columns * LANES, runs, groups * group):
        full = np.zeros((columns * LANES, runs, groups * group), np.float32)
        full[:outputs, :, :terms] = matrix_nrk
        matrix_nrk = full
    bias = np.zeros(columns * LANES, np.float32)
    bias[:outputs] = bias_n
    blocks = matrix_nrk.reshape(columns, LANES, runs * groups, group).transpose(0, 2, 1, 3)
    values = stored(blocks, precision).reshape(-1)
    return Weights(values, bias, columns, values.size // columns, runs, groups)


class InferenceNetwork:
    """A network for use only (``asr.model.contract``), made from the weights of a ``DeepSpeech2``."""

    on_gpu = False

    def __init__(self, cfg: ModelConfig, bins: int, vocabulary_size: int, arrays: Arrays, precision: str) -> None:
        """Pack the weights, given by the names of the network's state.

        Args:
            bins: values per frame of the features.
        """
        self.precision = precision
        self.cfg = cfg
        self.bins = bins
        self.vocabulary_size = vocabulary_size
        self.num_parameters = count_parameters(cfg, bins, vocabulary_size)
        self._pack(arrays)

    def _pack(self, arrays: Arrays) -> None:
        precision = self.precision
        hidden = self.cfg.hidden
        self.convs = _convs(self.cfg, self.bins, arrays, precision)
        last = self.convs[-1]
        #: values per row of the first layer's input, and the places of those that mean something
        self.width = round_up(last.bins * last.channels, LANES)
        places = np.arange(last.bins * last.channels)

        self.layers: list[Recurrent] = []
        width = self.width
        for i in range(self.cfg.layers):
            made = _recurrent(self.cfg, i, fold_directions(self.cfg, arrays, i), places, width, precision)
            self.layers.append(made)
            width = made.output_size
            places = np.concatenate([start + np.arange(hidden) for start in range(0, width, made.size)])

        self.ahead_kh: Floats | None = None
        if self.cfg.lookahead_steps:
            self.ahead_kh = np.zeros((self.cfg.lookahead_steps + 1, width), np.float32)
            self.ahead_kh[:, :hidden] = arrays["lookahead.weight_h1k"][:, 0].T
        output_vk = np.zeros((self.vocabulary_size, 1, width), np.float32)
        output_vk[:, 0, places] = arrays["output.weight"]
        self.output = packed(output_vk, arrays["output.bias"], precision)

    @property
    def stride(self) -> int:
        """Frames per step."""
        return math.prod(self.cfg.time_strides)

    def fingerprint(self) -> str:
        """Return a name for the weights and for how they are computed with."""
        digest = hashlib.sha256(f"{type(self).__name__} {self.precision} {self.cfg.model_dump_json()}".encode())
        packs = [conv.weights for conv in self.convs]
        packs += [pack for layer in self.layers for pack in (layer.projection, *layer.own)]
        for pack in [*packs, self.output]:
            digest.update(pack.values.tobytes())
            digest.update(pack.bias.tobytes())
        if self.ahead_kh is not None:
            digest.update(self.ahead_kh.tobytes())
        return digest.hexdigest()

    def eval(self) -> Self:
        """Return the network itself, which is always in evaluation mode."""
        return self

    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Compute log-probabilities of utterances, on as many threads as may be used here. Shapes: (t, f) -> (s, v).

        Raises:
            ValueError: the features have another number of bins than the model was built for.
        """
        for features_tf in features:
            if features_tf.shape[1] != self.bins:
                raise ValueError(f"features have {features_tf.shape[1]} bins, the model was built for {self.bins}")
        threads = num_threads()
        if threads == 1 or not features:
            return self._run(features, _alone)

        with pool_of(threads, "asr-fast") as pool:
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
        logits_rv = np.zeros((batch.rows, self.output.columns * LANES), np.float32)
        if batch.rows:
            self._encode(features, batch, logits_rv, spread)

        log_probs_rv = log_softmax(logits_rv[:, : self.vocabulary_size])
        answers: list[Floats] = [log_probs_rv[:0]] * len(features)
        for i, start, length in zip(order, starts, lengths, strict=True):
            answers[i] = log_probs_rv[start : start + length]
        return answers

    def _encode(self, features: Sequence[Floats], batch: _Utterances, logits_rv: Floats, spread: Spread) -> None:
        """Compute the rows of logits."""
        used = int((batch.lengths > 0).sum())
        starts = batch.starts[:used]
        lengths = batch.lengths[:used]
        narrow = np.zeros(batch.rows * self.width, self.stored_type)
        for i, start in zip(batch.order[:used], starts, strict=True):
            self._front_end(features[i], narrow, int(start), spread)

        wide_rh = np.empty((0, 0), np.float32)
        for layer in self.layers:
            wide_rh = self._recurrent(layer, wide_rh, narrow, starts, lengths, spread)
            narrow = stored(wide_rh, self.precision).reshape(-1)
        if self.ahead_kh is not None:
            wide_rh = look_ahead(wide_rh, starts, lengths, self.ahead_kh)
            narrow = stored(wide_rh, self.precision).reshape(-1)

        width = len(narrow) // batch.rows
        flat = logits_rv.reshape(-1)
        spread(batch.rows, lambda first, last: _project(narrow, width, first, last, self.output, flat))

    @property
    def stored_type(self) -> Any:
        return np.float32 if self.precision == "fp32" else np.uint16

    def _steps(self, frames: int) -> int:
        for conv in self.convs:
            frames = -(-frames // conv.stride_t)
        return frames

    def _front_end(self, features_tf: Floats, rows: Stored, start: int, spread: Spread) -> None:
        """Run the convolutions of one utterance, and write its rows from row ``start`` on."""
        length = len(features_tf)
        conv = self.convs[0]
        x, _, row = self._room(conv, length)
        pad_f = conv.kernel_f // 2
        inside = x[conv.kernel_t // 2 * row :][: length * row].reshape(length, row)
        inside[:, pad_f : pad_f + conv.bins_in] = stored(features_tf, self.precision)

        for conv, following in zip(self.convs, [*self.convs[1:], None], strict=True):
            length = -(-length // conv.stride_t)
            y, y_at, y_row = rows, start * self.width, self.width
            if following is not None:
                y, y_at, y_row = self._room(following, length)
            spread(length, partial(_convolve_part, conv, x, row, y, y_at, y_row))
            x, row = y, y_row

    def _room(self, conv: Conv, length: int) -> tuple[Stored, int, int]:
        """Return zeros for a convolution's input and its padding, where the input begins, and elements per frame."""
        row = (conv.bins_in + conv.kernel_f // 2 * 2) * conv.channels_in
        # One group more at the end: the last run may be filled up with what follows it.
        room = np.zeros((length + conv.kernel_t // 2 * 2) * row + 2, self.stored_type)
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
        spread(rows, lambda first, last: _project(narrow, width, first, last, layer.projection, x))

        own = np.empty(rows * ways * size, np.float32)
        gates = layer.own[0].columns * LANES // size

        def run_directions(first: int, last: int) -> None:
            for way in range(first, last):
                states = np.zeros(2 * len(lengths) * size, np.float32)
                narrow_states = np.zeros(len(states), self.stored_type)
                room = np.empty(len(lengths) * gates * LANES, np.float32)
                _recur(
                    layer.cell, way, ways, size, x, layer.own[way], starts, lengths, own, states, narrow_states, room
                )

        spread(ways, run_directions)

        out_rh: Floats = own.reshape(rows, ways * size)
        if layer.summed and ways == 2:
            out_rh = out_rh[:, :size] + out_rh[:, size:]
        return out_rh + before_rh if layer.residual else out_rh


def look_ahead(x_rh: Floats, starts: Any, lengths: Any, weight_kh: Floats) -> Floats:
    """Compute each unit's weighted sum over itself and its next values inside the utterance. Shapes: -> (r, h)."""
    out_rh = np.zeros_like(x_rh)
    for start, length in zip(starts, lengths, strict=True):
        own_sh = x_rh[start : start + length]
        for k, weight_h in enumerate(weight_kh[:length]):
            out_rh[start : start + length - k] += weight_h * own_sh[k:]
    return out_rh


def _convolve_part(conv: Conv, x: Stored, x_row: int, y: Stored, y_at: int, y_row: int, first: int, last: int) -> None:
    work = np.empty(conv.bins * conv.weights.columns * LANES, np.float32)
    _convolve(conv, x, x_row, first, last, y, y_at, y_row, work)


def _longest_first(features: Sequence[Floats]) -> list[int]:
    return sorted(range(len(features)), key=lambda i: -len(features[i]))


def _alone(count: int, work: Work) -> None:
    work(0, count)


def _shared(pool: ThreadPoolExecutor, threads: int, count: int, work: Work) -> None:
    """Do one part of the work on each thread."""
    ends = [count * i // threads for i in range(threads + 1)]
    list(pool.map(work, ends[:-1], ends[1:]))


def log_softmax(logits_rv: Floats) -> Floats:
    """Compute the logarithm of each row's softmax, each row by itself. Shapes: (r, v) -> (r, v)."""
    below_rv = logits_rv - logits_rv.max(axis=1, keepdims=True, initial=-np.inf)
    log_probs_rv: Floats = below_rv - np.log(np.exp(below_rv).sum(axis=1, keepdims=True))
    return log_probs_rv


def _convs(cfg: ModelConfig, bins: int, arrays: Arrays, precision: str) -> list[Conv]:
    """Pack the convolutions, with their norms folded in."""
    made = []
    for weight_octf, bias_o, (kernel_t, kernel_f), (stride_t, stride_f) in fold_convs(cfg, arrays):
        channels = len(weight_octf)
        # In a run bins are outside and channels inside, as in the input.
        matrix_otk = weight_octf.transpose(0, 2, 3, 1).reshape(channels, kernel_t, -1)
        bins_out = strided(bins, kernel_f, stride_f)
        made.append(
            Conv(
                weights=packed(matrix_otk, bias_o, precision),
                kernel_t=kernel_t,
                kernel_f=kernel_f,
                stride_t=stride_t,
                stride_f=stride_f,
                channels_in=weight_octf.shape[1],
                channels=channels,
                bins_in=bins,
                bins=bins_out,
                clip=np.float32(cfg.relu_clip),
            )
        )
        bins = bins_out
    return made


def _recurrent(
    cfg: ModelConfig,
    number: int,
    directions: Sequence[DirectionWeights],
    places: npt.NDArray[Any],
    width: int,
    precision: str,
) -> Recurrent:
    """Pack a layer's weights, for an input of ``width`` values per row, of which those in ``places`` count."""
    gates = GATES[cfg.cell]
    hidden = cfg.hidden
    size = round_up(hidden, LANES)
    projection = np.zeros((len(directions), gates, size, 1, width), np.float32)
    bias = np.zeros((len(directions), gates, size), np.float32)
    own = []
    for way, (w_input_gi, w_hidden_gh, bias_g, bias_hidden_g) in enumerate(directions):
        projection[way][:, :hidden, 0, places] = w_input_gi.reshape(gates, hidden, -1)
        bias[way, :, :hidden] = bias_g.reshape(gates, hidden)

        own_gh = np.zeros((gates, size, 1, size), np.float32)
        own_gh[:, :hidden, 0, :hidden] = w_hidden_gh.reshape(gates, hidden, hidden)
        own_bias = np.zeros((gates, size), np.float32)
        own_bias[:, :hidden] = bias_hidden_g.reshape(gates, hidden)
        own.append(packed(own_gh.reshape(gates * size, 1, size), own_bias.reshape(-1), precision))
    return Recurrent(
        cell=_CELLS[cfg.cell],
        size=size,
        projection=packed(projection.reshape(-1, 1, width), bias.reshape(-1), precision),
        own=tuple(own),
        summed=len(directions) == 1 or cfg.merge == "sum",
        residual=cfg.residual and number > 0,
    )
