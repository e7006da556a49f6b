"""The inference network on streams: each keeps its state, and many go through the network in one tick.

A stream's log-probabilities are those of the whole recording, to the last bit, however it is cut and whichever streams
share its ticks.

Axes: t frames, f bins, r rows (steps of all streams), s steps, h units, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asr.model.cpu.inference import InferenceNetwork, Recurrent, log_softmax, look_ahead, stored
from asr.model.cpu.packed import LANES, Conv, Floats, Longs, Stored
from asr.native import Flat, Native

_project, _convolve, _recur = (Native("asr.model.cpu.loops", name) for name in ("project", "convolve", "recur"))


class _Convolution:
    """One convolution of a stream: the input that its next steps see."""

    def __init__(self, conv: Conv, dtype: type) -> None:
        self._conv = conv
        self._flat = Flat(conv)
        self._before = conv.kernel_t // 2
        self._pad_f = conv.kernel_f // 2
        #: bins of a frame, with the padding on both sides
        self._bins = conv.bins_in + 2 * self._pad_f
        self._seen_tfc: Stored = np.zeros((self._before, self._bins, conv.channels_in), dtype)
        #: frames so far, and those that are before the first one that is kept
        self._frames = 0
        self._steps = 0

    def feed(self, frames_tfc: Stored, is_last: bool) -> Stored:
        """Take frames, and return the steps that are known now. Shapes: (t, f, c) -> (s, f, c)."""
        conv = self._conv
        after = self._before if is_last else 0
        kept, new = len(self._seen_tfc), len(frames_tfc)
        # One row more at the end: the last run may be filled up with what follows it.
        x_tfc = np.zeros((kept + new + after + 1, self._bins, conv.channels_in), self._seen_tfc.dtype)
        x_tfc[:kept] = self._seen_tfc
        x_tfc[kept : kept + new, self._pad_f : self._pad_f + conv.bins_in] = frames_tfc
        self._frames += new

        length = kept + new + after
        steps = max(0, (length - conv.kernel_t) // conv.stride_t + 1)
        if is_last:
            steps = -(-self._frames // conv.stride_t) - self._steps
        y_sfc = np.empty((steps, conv.bins, conv.channels), x_tfc.dtype)
        if steps:
            work = np.empty(conv.bins * conv.weights.columns * LANES, np.float32)
            row = self._bins * conv.channels_in
            y_row = conv.bins * conv.channels
            _convolve(self._flat, x_tfc.reshape(-1), row, 0, steps, y_sfc.reshape(-1), 0, y_row, work)
        self._steps += steps
        self._seen_tfc = x_tfc[steps * conv.stride_t : length].copy()
        return y_sfc


class State:
    """Hold what the network keeps of one stream between two ticks."""

    def __init__(self, network: InferenceNetwork) -> None:
        """Begin a stream; ``asr.model.streamable`` says which networks can."""
        dtype = network.stored_type
        self.convolutions = [_Convolution(conv, dtype) for conv in network.convs]
        sizes = [layer.size for layer in network.layers]
        #: of each layer: state, memory cell, and the state as products take it
        self.hidden = [np.zeros((2, size), np.float32) for size in sizes]
        self.narrow = [np.zeros(size, dtype) for size in sizes]
        #: rows that wait for what they look ahead to
        self.waiting_rh = np.zeros((0, sizes[-1]), np.float32)


def tick(
    network: InferenceNetwork, states: Sequence[State], features: Sequence[Floats], is_last: Sequence[bool]
) -> list[Floats]:
    """Take some streams further, and return the log-probabilities that are known now. Shapes: (t, f) -> (s, v) of each.

    Args:
        is_last: the stream ends with these frames.
    """
    rows = [
        _front_end(network, state, features_tf, last)
        for state, features_tf, last in zip(states, features, is_last, strict=True)
    ]
    moving = sorted((i for i in range(len(rows)) if len(rows[i])), key=lambda i: -len(rows[i]))
    wide = [np.zeros((0, network.layers[-1].size), np.float32)] * len(rows)
    if moving:
        encoded_rh = _encode(network, [states[i] for i in moving], [rows[i] for i in moving])
        ends = np.cumsum([len(rows[i]) for i in moving])
        for i, own_rh in zip(moving, np.split(encoded_rh, ends[:-1]), strict=True):
            wide[i] = own_rh

    if network.ahead_kh is not None:
        wide = [
            _look_ahead(network.ahead_kh, state, own_rh, last)
            for state, own_rh, last in zip(states, wide, is_last, strict=True)
        ]
    log_probs_rv = _log_probs(network, np.concatenate(wide))
    return np.split(log_probs_rv, np.cumsum([len(own_rh) for own_rh in wide])[:-1])


def _front_end(network: InferenceNetwork, state: State, features_tf: Floats, is_last: bool) -> Stored:
    """Run the convolutions of one stream. Shapes: (t, f) -> (r, values of the first layer's input)."""
    x_tfc: Stored = stored(features_tf, network.precision)[:, :, None]
    for convolution in state.convolutions:
        x_tfc = convolution.feed(x_tfc, is_last)
    steps, bins, channels = x_tfc.shape
    rows = np.zeros((steps, network.width), x_tfc.dtype)
    rows[:, : bins * channels] = x_tfc.reshape(steps, bins * channels)
    return rows


def _encode(network: InferenceNetwork, states: Sequence[State], rows: Sequence[Stored]) -> Floats:
    """Run the recurrent layers on streams in the order of falling lengths. Shapes: -> (r, h)."""
    lengths = np.array([len(own) for own in rows], np.int64)
    starts = np.cumsum(lengths) - lengths
    narrow = np.concatenate(rows)
    wide_rh = np.empty((0, 0), np.float32)
    for i, layer in enumerate(network.layers):
        out_rh = _recurrent(layer, i, states, narrow, starts, lengths)
        wide_rh = out_rh + wide_rh if layer.residual else out_rh
        narrow = stored(wide_rh, network.precision)
    return wide_rh


def _recurrent(
    layer: Recurrent, number: int, states: Sequence[State], narrow: Stored, starts: Longs, lengths: Longs
) -> Floats:
    """Run one layer, and keep each stream's state. Shapes: (r, values of its input) -> (r, h)."""
    rows, width = narrow.shape
    size, streams = layer.size, len(states)
    x = np.empty(rows * layer.projection.columns * LANES, np.float32)
    _project(narrow.reshape(-1), width, 0, rows, layer.projection, x)

    hidden = np.stack([state.hidden[number] for state in states], axis=1)
    now = np.zeros((2, streams, size), narrow.dtype)
    now[0] = [state.narrow[number] for state in states]
    out_rh = np.empty((rows, size), np.float32)
    gates = layer.own[0].columns * LANES // size
    room = np.empty(streams * gates * LANES, np.float32)
    flat = out_rh.reshape(-1), hidden.reshape(-1), now.reshape(-1)
    _recur(layer.cell, 0, 1, size, x, layer.own[0], starts, lengths, *flat, room)

    for b, state in enumerate(states):
        state.hidden[number] = hidden[:, b].copy()
        state.narrow[number] = now[lengths[b] % 2, b].copy()
    return out_rh


def _look_ahead(weight_kh: Floats, state: State, new_rh: Floats, is_last: bool) -> Floats:
    """Return the rows whose next ones are there, and keep the others. Shapes: -> (r, h)."""
    rows_rh = np.concatenate([state.waiting_rh, new_rh])
    length = len(rows_rh)
    known = length if is_last else max(0, length - (len(weight_kh) - 1))
    state.waiting_rh = rows_rh[known:]
    whole = np.zeros(1, np.int64), np.array([length])
    return look_ahead(rows_rh, *whole, weight_kh)[:known] if known else rows_rh[:0]


def _log_probs(network: InferenceNetwork, wide_rh: Floats) -> Floats:
    """Compute the output layer and its log-softmax. Shapes: (r, h) -> (r, v)."""
    rows, width = wide_rh.shape
    logits_rv = np.zeros((rows, network.output.columns * LANES), np.float32)
    if rows:
        narrow = stored(wide_rh, network.precision).reshape(-1)
        _project(narrow, width, 0, rows, network.output, logits_rv.reshape(-1))
    return log_softmax(logits_rv[:, : network.vocabulary_size])
