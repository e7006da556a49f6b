"""The compiled loops of use: convolutions, projections and recurrent layers on utterances without padding.

Rows of all utterances lie one after the other in flat arrays. Every loop runs on one thread, without the GIL.

Axes: r rows (steps of all utterances), f bins, b utterances, s steps, h units, g gates, k terms of a sum.
"""

from __future__ import annotations

import numpy as np

from asr.jit import native, part
from asr.model.cpu.cells import gru, lstm, tanh
from asr.model.cpu.packed import GRU, LANES, TANH, Conv, Floats, Longs, Stored, Weights, features
from asr.model.cpu.tiles import tile
from asr.model.cpu.vectors import as_stored, load, store

#: the processor has vectors of 512 bits, and 32 of them
WIDE = "avx512f" in features()
#: rows that share weights while those are in the cache
_BLOCK = 64


@native
def narrow(x: Floats, y: Stored) -> None:
    """Write float32 as bf16, rounded to nearest. Both are flat."""
    whole = len(x) - len(x) % LANES
    for i in range(0, whole, LANES):
        store(y, i, load(x, i))
    for i in range(whole, len(x)):
        y[i] = as_stored(x[i], y)


@part
def product(
    a: Stored,
    a_at: int,
    a_row: int,
    a_run: int,
    rows: int,
    w: Weights,
    first: int,
    columns: int,
    apart: int,
    out: Floats,
    out_at: int,
    out_row: int,
) -> None:
    """Compute out = bias + a w for any number of rows and of columns of 16 (``tiles`` explains the arguments)."""
    c = 0
    while c < columns:
        wide = min(columns - c, 3) if WIDE else 1
        w_c = first + c * apart
        r = 0
        while r < rows:
            x = a_at + r * a_row
            o = out_at + r * out_row + c * LANES
            left = rows - r
            if wide == 3:
                if left >= 8:
                    tile(8, 3, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                    r += 8
                elif left >= 4:
                    tile(4, 3, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                    r += 4
                elif left >= 2:
                    tile(2, 3, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                    r += 2
                else:
                    tile(1, 3, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                    r += 1
            elif wide == 2:
                if left >= 8:
                    tile(8, 2, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                    r += 8
                elif left >= 4:
                    tile(4, 2, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                    r += 4
                elif left >= 2:
                    tile(2, 2, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                    r += 2
                else:
                    tile(1, 2, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                    r += 1
            elif left >= 8 and WIDE:
                tile(8, 1, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                r += 8
            elif left >= 4:
                tile(4, 1, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                r += 4
            elif left >= 2:
                tile(2, 1, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                r += 2
            else:
                tile(1, 1, a, x, a_row, a_run, w, w_c, apart, out, o, out_row)
                r += 1
        c += wide


@native
def project(a: Stored, a_row: int, first: int, last: int, w: Weights, out: Floats) -> None:
    """Compute out = bias + a w, row by row. Weights serve some rows before the next ones are taken from memory."""
    out_row = w.columns * LANES
    for r in range(first, last, _BLOCK):
        rows = min(_BLOCK, last - r)
        for c in range(0, w.columns, 3):
            few = min(3, w.columns - c)
            product(a, r * a_row, a_row, 0, rows, w, c, few, 1, out, r * out_row + c * LANES, out_row)


@native
def convolve(
    conv: Conv, x: Stored, x_row: int, first: int, last: int, y: Stored, y_at: int, y_row: int, work: Floats
) -> None:
    """Compute some steps of a convolution with its clipped ReLU, of one utterance whose padding is there.

    Args:
        x_row, y_row: elements per frame of the input, and per step of the output.
        work: room for one step, bins x columns of the weights x 16.
    """
    w = conv.weights
    width = w.columns * LANES
    x_bin = conv.stride_f * conv.channels_in
    for s in range(first, last):
        x_at = s * conv.stride_t * x_row
        product(x, x_at, x_bin, x_row, conv.bins, w, 0, w.columns, 1, work, 0, width)
        at = y_at + s * y_row
        for f in range(conv.bins):
            for c in range(conv.channels):
                value = work[f * width + c]
                if value < 0:
                    value = np.float32(0)
                if value > conv.clip:
                    value = conv.clip
                y[at + f * conv.channels + c] = as_stored(value, y)


@native
def recur(
    cell: int,
    way: int,
    ways: int,
    size: int,
    x: Floats,
    w: Weights,
    starts: Longs,
    lengths: Longs,
    out: Floats,
    states: Floats,
    narrow: Stored,
    own: Floats,
) -> None:
    """Run one direction of a recurrent layer over utterances in the order of falling lengths.

    The second direction reads each utterance from its end.

    Args:
        size: units, a multiple of 16.
        x: the gates' input, (r, ways, gates x size); ``out``: (r, ways, size).
        states: zeros, (2, utterances, size): the states, and memory cells.
        narrow: zeros, of the same shape: the states as products take them, those of this step and of the next, in turn.
        own: room for a block of units, (utterances, gates, 16).
    """
    gates = w.columns * LANES // size
    unit_blocks = size // LANES
    active = len(lengths)
    half = active * size

    for s in range(lengths[0]):
        while lengths[active - 1] <= s:
            active -= 1
        now = (s % 2) * half
        later = (1 - s % 2) * half
        for j in range(unit_blocks):
            product(narrow, now, size, 0, active, w, j, gates, unit_blocks, own, 0, gates * LANES)
            for b in range(active):
                row = starts[b] + (lengths[b] - 1 - s if way == 1 else s)
                x_at = (row * ways + way) * gates * size + j * LANES
                own_at = b * gates * LANES
                h_at = b * size + j * LANES
                first = load(x, x_at) + load(own, own_at)
                if cell == TANH:
                    new = tanh(first)
                else:
                    second = load(x, x_at + size) + load(own, own_at + LANES)
                    x_third = load(x, x_at + 2 * size)
                    own_third = load(own, own_at + 2 * LANES)
                    if cell == GRU:
                        new = gru(first, second, x_third, own_third, load(states, h_at))
                    else:
                        fourth = load(x, x_at + 3 * size) + load(own, own_at + 3 * LANES)
                        new, memory = lstm(first, second, x_third + own_third, fourth, load(states, half + h_at))
                        store(states, half + h_at, memory)
                store(states, h_at, new)
                store(narrow, later + h_at, new)
                store(out, (row * ways + way) * size + j * LANES, new)
