"""The compiled sweeps of a GRU layer's training pass: one time step forward, one back, and those of its norm.

Each does in one way through memory what would be a dozen operations of torch, 16 units at a time; the matrix products
between them are torch's. All run on one thread, without the GIL. Arrays are flat.

Axes: b batch, s steps (in the order of the direction), r rows (b x steps, in the order of time), h units, g gates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.jit import compiled, inlined
from asr.model.cpu.cells import sigmoid, tanh
from asr.model.cpu.packed import LANES
from asr.model.cpu.vectors import Vector, filled, fma, load, load_from, store

#: what a step keeps of each unit for the way back: 1 - z, and the factors of dL/dh' at (xn, r, z, hn)
KEPT = 5
#: steps, or rows, whose sums are added up by themselves first: long sums in float32 lose digits
BLOCK = 32
#: sums of the way back: dL/dgates, dL/dgates times the projection (three gates each), dL/dhn
SUMS = 7
Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
#: numbers as products take them: float32, or bf16 as uint16
Stored = npt.NDArray[Any]


class Walk(NamedTuple):
    """One direction of a layer. The second of two directions reads each utterance from its end."""

    #: valid steps of each utterance, and of the padded batch
    lengths: Longs
    steps: int
    #: units, a multiple of ``LANES``
    size: int
    way: int
    ways: int
    #: values per row of the layer's output, and where this direction's begin
    out_width: int
    out_at: int


class Forward(NamedTuple):
    """Hold the arrays that a step forward reads and writes."""

    #: the projections of all directions, (r, ways, 3 h)
    z: Stored
    #: the norm of the projections, (ways, 3 h); the shift has the bias in it
    scale: Floats
    shift: Floats
    #: what is added to the state's product, (ways, 3 h)
    bias: Floats
    #: the state so far, (b, h)
    state: Floats
    #: all states, (s + 1, b, h), the first one zero
    h: Stored
    #: the layer's output, (r, out_width)
    out: Stored
    #: what the way back needs, (s, b, KEPT, h)
    kept: Stored


class Backward(NamedTuple):
    """Hold the arrays that a step back reads and writes."""

    #: the gradient of the layer's output, (r, out_width)
    grad: Stored
    #: what comes back past the gates, (b, h)
    state: Floats
    kept: Stored
    z: Stored
    #: gradients at the recurrent product, (s, b, 3 h)
    at_hidden: Stored
    #: gradients at the gates' input, (r, ways, 3 h)
    at_gates: Stored
    #: (blocks of steps, SUMS h)
    sums: Floats


@compiled
def step_forward(s: int, walk: Walk, data: Forward, own: int) -> None:
    """Compute the states after step ``s``; zeros beyond an utterance's end.

    Args:
        own: address of the state's product, (b, 3 h), stored as ``data.h``.
    """
    batch = len(walk.lengths)
    size = walk.size
    for b in range(batch):
        row = _row(s, b, walk)
        h_at = ((s + 1) * batch + b) * size
        kept_at = (s * batch + b) * KEPT * size
        out_at = row * walk.out_width + walk.out_at

        if s >= walk.lengths[b]:
            data.h[h_at : h_at + size] = 0
            data.out[out_at : out_at + size] = 0
            data.kept[kept_at : kept_at + KEPT * size] = 0
            continue
        for j in range(0, size, LANES):
            z_at = (row * walk.ways + walk.way) * 3 * size + j
            gate_at = walk.way * 3 * size + j
            own_at = b * 3 * size + j
            x_reset = _normalized(data, z_at, gate_at)
            x_update = _normalized(data, z_at + size, gate_at + size)
            x_new = _normalized(data, z_at + 2 * size, gate_at + 2 * size)
            own_reset = load_from(own, own_at, data.h) + load(data.bias, gate_at)
            own_update = load_from(own, own_at + size, data.h) + load(data.bias, gate_at + size)
            own_new = load_from(own, own_at + 2 * size, data.h) + load(data.bias, gate_at + 2 * size)

            before = load(data.state, b * size + j)
            reset = sigmoid(x_reset + own_reset)
            update = sigmoid(x_update + own_update)
            candidate = tanh(fma(reset, own_new, x_new))
            away = before - candidate
            new = fma(update, away, candidate)
            store(data.state, b * size + j, new)
            store(data.h, h_at + j, new)
            store(data.out, out_at + j, new)

            keep = filled(1.0) - update
            at_candidate = keep * (filled(1.0) - candidate * candidate)
            at_own_new = at_candidate * reset
            store(data.kept, kept_at + j, keep)
            store(data.kept, kept_at + size + j, at_candidate)
            store(data.kept, kept_at + 2 * size + j, at_own_new * own_new * (filled(1.0) - reset))
            store(data.kept, kept_at + 3 * size + j, away * update * keep)
            store(data.kept, kept_at + 4 * size + j, at_own_new)


@compiled
def step_backward(s: int, walk: Walk, data: Backward, carry: int) -> None:
    """Compute the gradients of step ``s`` from those of its output and of what came after it.

    Args:
        carry: address of what comes back through the next step's product, (b, h), stored as ``data.kept``.
    """
    batch = len(walk.lengths)
    size = walk.size
    for b in range(batch):
        row = _row(s, b, walk)
        hidden_at = (s * batch + b) * 3 * size
        gates_at = (row * walk.ways + walk.way) * 3 * size

        if s >= walk.lengths[b]:
            data.at_hidden[hidden_at : hidden_at + 3 * size] = 0
            data.at_gates[gates_at : gates_at + 3 * size] = 0
            continue
        for j in range(0, size, LANES):
            state_at = b * size + j
            kept_at = (s * batch + b) * KEPT * size + j
            at_state = load(data.state, state_at) + load(data.grad, row * walk.out_width + walk.out_at + j)
            at_state = at_state + load_from(carry, state_at, data.kept)
            keep = load(data.kept, kept_at)
            store(data.state, state_at, at_state - at_state * keep)

            at_new = at_state * load(data.kept, kept_at + size)
            at_reset = at_state * load(data.kept, kept_at + 2 * size)
            at_update = at_state * load(data.kept, kept_at + 3 * size)
            at_own_new = at_state * load(data.kept, kept_at + 4 * size)
            store(data.at_hidden, hidden_at + j, at_reset)
            store(data.at_hidden, hidden_at + size + j, at_update)
            store(data.at_hidden, hidden_at + 2 * size + j, at_own_new)

            sums_at = s // BLOCK * SUMS * size + j
            _pass_gate(data, gates_at + j, sums_at, size, at_reset)
            _pass_gate(data, gates_at + size + j, sums_at + size, size, at_update)
            _pass_gate(data, gates_at + 2 * size + j, sums_at + 2 * size, size, at_new)
            _add(data.sums, sums_at + 6 * size, at_own_new)


@inlined
def _row(s: int, b: int, walk: Walk) -> int:
    """Return the row that a direction reads at its step ``s``."""
    length = int(walk.lengths[b])
    if walk.way == 1 and s < length:
        return b * walk.steps + length - 1 - s
    return b * walk.steps + s


@inlined
def _normalized(data: Forward, z_at: int, gate_at: int) -> Vector:
    return fma(load(data.scale, gate_at), load(data.z, z_at), load(data.shift, gate_at))


@inlined
def _pass_gate(data: Backward, gates_at: int, sums_at: int, size: int, at_gate: Vector) -> None:
    """Write a gate's gradient, and add it and its product with the projection to the sums."""
    store(data.at_gates, gates_at, at_gate)
    _add(data.sums, sums_at, at_gate)
    _add(data.sums, sums_at + 3 * size, at_gate * load(data.z, gates_at))


@inlined
def _add(array: Stored, at: int, value: Vector) -> None:
    store(array, at, load(array, at) + value)


@compiled
def moments(first: int, last: int, steps: int, lengths: Longs, width: int, z: Stored, sums: Floats) -> None:
    """Add up the rows of some utterances, and their squares. Shapes: z (r, width), sums (b, blocks, 2, width)."""
    blocks = (steps + BLOCK - 1) // BLOCK
    for b in range(first, last):
        for s in range(lengths[b]):
            sums_at = (b * blocks + s // BLOCK) * 2 * width
            for j in range(0, width, LANES):
                value = load(z, (b * steps + s) * width + j)
                _add(sums, sums_at + j, value)
                _add(sums, sums_at + width + j, value * value)


class NormBack(NamedTuple):
    """Factors of the way back through the norm, (width,) each."""

    by_gate: Floats
    by_projection: Floats
    constant: Floats


@compiled
def through_norm(
    first: int, last: int, steps: int, lengths: Longs, width: int, at_gates: Stored, z: Stored, factors: NormBack
) -> None:
    """Turn gradients at the gates' input into those at the projection, in place; padding stays zero.

    at_gates = by_gate at_gates + by_projection z + constant. Shapes: at_gates, z (r, width).
    """
    for b in range(first, last):
        for s in range(lengths[b]):
            row = (b * steps + s) * width
            for j in range(0, width, LANES):
                total = fma(load(factors.by_projection, j), load(z, row + j), load(factors.constant, j))
                store(at_gates, row + j, fma(load(factors.by_gate, j), load(at_gates, row + j), total))
