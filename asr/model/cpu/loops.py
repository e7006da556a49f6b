"""The compiled loops of use: convolutions, projections and recurrent layers on utterances without padding.

Rows of all utterances lie one after the other. Every loop runs on one thread, without the GIL.

Axes: r rows (steps of all utterances), f bins, b utterances, s steps, h units, g gates, k terms of a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from asr.jit import compiled
from asr.model.cpu.cells import as_stored, gru_step, lstm_step, tanh_step
from asr.model.cpu.tiles import (
    LANES,
    WIDE,
    tile_1x1,
    tile_1x2,
    tile_1x3,
    tile_2x3,
    tile_4x1,
    tile_4x2,
    tile_4x3,
    tile_8x1,
    tile_8x2,
    tile_8x3,
)

#: rows that share weights while those are in the cache
_BLOCK = 64
GRU, LSTM, TANH = 0, 1, 2
Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
#: numbers as products take them: float32, or bf16 as uint16
Stored = npt.NDArray[Any]


@compiled
def product(
    a: Stored, a_at: int, a_row: int, rows: int, runs: int, run: int, groups: int, w: Stored, w_at: int,
    w_column: int, columns: int, bias: Floats, bias_at: int, bias_column: int, out: Floats, out_at: int,
    out_row: int, out_column: int,
) -> None:  # fmt: skip
    """out = bias + a w for any number of rows and of columns of 16 (see ``fast_tiles`` for the rest)."""
    c = 0
    while c < columns:
        wide = min(columns - c, 3) if WIDE else 1
        v, w_c, b_c, o_c = w_column, w_at + c * w_column, bias_at + c * bias_column, out_at + c * out_column
        d, e = bias_column, out_column
        r = 0
        while r < rows:
            x, o = a_at + r * a_row, o_c + r * out_row
            left = rows - r
            if wide == 3:
                if left >= 8:
                    tile_8x3(a, x, a_row, runs, run, groups, w, w_c, v, bias, b_c, d, out, o, out_row, e)
                    r += 8
                elif left >= 4:
                    tile_4x3(a, x, a_row, runs, run, groups, w, w_c, v, bias, b_c, d, out, o, out_row, e)
                    r += 4
                elif left >= 2:
                    tile_2x3(a, x, a_row, runs, run, groups, w, w_c, v, bias, b_c, d, out, o, out_row, e)
                    r += 2
                else:
                    tile_1x3(a, x, a_row, runs, run, groups, w, w_c, v, bias, b_c, d, out, o, out_row, e)
                    r += 1
            elif wide == 2:
                if left >= 8:
                    tile_8x2(a, x, a_row, runs, run, groups, w, w_c, v, bias, b_c, d, out, o, out_row, e)
                    r += 8
                elif left >= 4:
                    tile_4x2(a, x, a_row, runs, run, groups, w, w_c, v, bias, b_c, d, out, o, out_row, e)
                    r += 4
                else:
                    tile_1x2(a, x, a_row, runs, run, groups, w, w_c, v, bias, b_c, d, out, o, out_row, e)
                    r += 1
            elif left >= 8 and WIDE:
                tile_8x1(a, x, a_row, runs, run, groups, w, w_c, v, bias, b_c, d, out, o, out_row, e)
                r += 8
            elif left >= 4:
                tile_4x1(a, x, a_row, runs, run, groups, w, w_c, v, bias, b_c, d, out, o, out_row, e)
                r += 4
            else:
                tile_1x1(a, x, a_row, runs, run, groups, w, w_c, v, bias, b_c, d, out, o, out_row, e)
                r += 1
        c += wide


@compiled
def project(
    a: Stored, a_row: int, first: int, last: int, groups: int, w: Stored, w_column: int, columns: int, bias: Floats,
    out: Floats, out_row: int,
) -> None:  # fmt: skip
    """out = bias + a w, row by row. Weights are used for some rows before the next ones are taken from memory."""
    r = first
    while r < last:
        some = min(_BLOCK, last - r)
        c = 0
        while c < columns:
            few = min(3, columns - c)
            product(a, r * a_row, a_row, some, 1, 0, groups, w, c * w_column, w_column, few, bias, c * LANES, LANES,
                    out, r * out_row + c * LANES, out_row, LANES)  # fmt: skip
            c += few
        r += some


@compiled
def convolve(
    x: Stored, x_step: int, x_run: int, x_bin: int, first: int, last: int, bins: int, runs: int, groups: int,
    w: Stored, w_column: int, columns: int, bias: Floats, clip: np.float32, channels: int, y: Stored, y_at: int,
    y_step: int, work: Floats,
) -> None:  # fmt: skip
    """A clipped ReLU of a convolution, of one utterance whose padding is there.

    Frames of a step lie ``x_run`` apart, steps ``x_step``, bins ``x_bin``; the values under the kernel in one frame lie
    together. ``work`` is room for one step: (bins, 16 columns).
    """
    width = columns * LANES
    for s in range(first, last):
        product(x, s * x_step, x_bin, bins, runs, x_run, groups, w, 0, w_column, columns, bias, 0, LANES,
                work, 0, width, LANES)  # fmt: skip
        at = y_at + s * y_step
        for f in range(bins):
            for c in range(channels):
                value = work[f * width + c]
                if value < 0:
                    value = np.float32(0)
                if value > clip:
                    value = clip
                y[at + f * channels + c] = as_stored(value, y)


@compiled
def recur(
    cell: int, x: Floats, x_at: int, x_row: int, size: int, w: Stored, groups: int, bias: Floats, state: Floats,
    cells: Floats, narrow: Stored, starts: Longs, lengths: Longs, backward: bool, out: Floats, out_at: int,
    out_row: int, work: Floats,
) -> None:  # fmt: skip
    """One direction of a recurrent layer, over utterances in the order of falling lengths.

    Args:
        x: the gates' input, (r, gates x size) at ``x_at``; ``size``: units, a multiple of 16.
        state, cells, narrow: room for (b, size), and twice that, of zeros.
        work: room for (b, gates, 16).
    """
    gates = 3 if cell == GRU else 4 if cell == LSTM else 1
    unit_blocks, w_column = size // LANES, groups * LANES * (4 // w.itemsize)
    active, half = len(lengths), len(lengths) * size
    for s in range(lengths[0]):
        while lengths[active - 1] <= s:
            active -= 1
        now, later = (s % 2) * half, (1 - s % 2) * half
        for j in range(unit_blocks):
            product(narrow, now, size, active, 1, 0, groups, w, j * w_column, unit_blocks * w_column, gates,
                    bias, j * LANES, size, work, 0, gates * LANES, LANES)  # fmt: skip
            for b in range(active):
                row = starts[b] + (lengths[b] - 1 - s if backward else s)
                from_x, own, h = x_at + row * x_row + j * LANES, b * gates * LANES, b * size + j * LANES
                to = out_at + row * out_row + j * LANES
                if cell == GRU:
                    gru_step(x, from_x, size, work, own, state, cells, h, narrow, later + h, out, to)
                elif cell == LSTM:
                    lstm_step(x, from_x, size, work, own, state, cells, h, narrow, later + h, out, to)
                else:
                    tanh_step(x, from_x, size, work, own, state, cells, h, narrow, later + h, out, to)


@compiled
def join(
    own: Floats, first: int, last: int, size: int, ways: int, summed: bool, before: Floats, residual: bool,
    out: Floats, narrow: Stored,
) -> None:  # fmt: skip
    """What the next layer sees: both directions side by side or summed, and what went in, where it is added.

    ``out`` keeps it as float32, ``narrow`` as products take it.
    """
    width = size if summed else ways * size
    for r in range(first, last):
        at = r * width
        for u in range(width):
            value = own[r * ways * size + u]
            if summed and ways == 2:
                value += own[(r * ways + 1) * size + u]
            if residual:
                value += before[at + u]
            out[at + u] = value
            narrow[at + u] = as_stored(value, narrow)


@compiled
def look_ahead(
    x: Floats, starts: Longs, lengths: Longs, size: int, w: Floats, out: Floats, narrow: Stored,
) -> None:  # fmt: skip
    """Each unit's sum over itself and its next values inside the utterance. Shapes: w (k, size)."""
    for b in range(len(lengths)):
        for s in range(lengths[b]):
            at = (starts[b] + s) * size
            for u in range(size):
                out[at + u] = np.float32(0)
            for k in range(min(len(w), lengths[b] - s)):
                for u in range(size):
                    out[at + u] += w[k, u] * x[at + k * size + u]
            for u in range(size):
                narrow[at + u] = as_stored(out[at + u], narrow)
