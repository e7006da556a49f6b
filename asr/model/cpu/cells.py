"""The cells of recurrent layers on 16 units at a time."""

from __future__ import annotations

from asr.jit import inlined
from asr.model.cpu.vectors import Vector, clamp, filled, fma


@inlined
def tanh(x: Vector) -> Vector:
    """Compute tanh(x), good to 4e-7: x P(x^2) / Q(x^2) within bounds beyond which tanh is 1 in float32.

    Source: Eigen's generic_fast_tanh_float (MPL 2), a minimax fit.
    """
    x = clamp(x, filled(-7.90531110763549805), filled(7.90531110763549805))
    square = x * x

    p = filled(-2.76076847742355e-16)
    p = fma(p, square, filled(2.00018790482477e-13))
    p = fma(p, square, filled(-8.60467152213735e-11))
    p = fma(p, square, filled(5.12229709037114e-08))
    p = fma(p, square, filled(1.48572235717979e-05))
    p = fma(p, square, filled(6.37261928875436e-04))
    p = fma(p, square, filled(4.89352455891786e-03))

    q = filled(1.19825839466702e-06)
    q = fma(q, square, filled(1.18534705686654e-04))
    q = fma(q, square, filled(2.26843463243900e-03))
    q = fma(q, square, filled(4.89352518554385e-03))
    return x * p / q


@inlined
def sigmoid(x: Vector) -> Vector:
    """Compute 1 / (1 + exp(-x)), by way of tanh."""
    return tanh(x * filled(0.5)) * filled(0.5) + filled(0.5)


@inlined
def gru(x_reset: Vector, x_update: Vector, x_new: Vector, own_new: Vector, state: Vector) -> Vector:
    """Return a GRU's next state.

    Args:
        x_reset, x_update: what the gates see of input and state together.
        x_new, own_new: what the candidate sees of the input, and of the state.
    """
    candidate = tanh(fma(sigmoid(x_reset), own_new, x_new))
    return fma(sigmoid(x_update), state - candidate, candidate)


@inlined
def lstm(x_input: Vector, x_forget: Vector, x_cell: Vector, x_output: Vector, cell: Vector) -> tuple[Vector, Vector]:
    """Return an LSTM's next state and memory cell, from what each gate sees of input and state together."""
    cell = fma(sigmoid(x_input), tanh(x_cell), sigmoid(x_forget) * cell)
    return sigmoid(x_output) * tanh(cell), cell
