"""The compiled sweeps of a GRU layer's training pass: one time step forward, one back, and those of its norm.

Each does in one way through memory what would be a dozen operations of torch, 16 units at a time; the matrix products
between them are torch's. All run on one thread, without the GIL.

Axes: b batch, s steps (in the order of the direction), r rows (b x steps, in the order of time), h units, g gates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from asr.jit import compiled
from asr.model.cpu.cells import _bf16_bits, _sigmoid, _store, _tanh, _Vector
from asr.model.cpu.tiles import LANES

#: what a step keeps of each unit for the way back: 1 - z, and what dL/dh' is multiplied by for (xn, r, z, hn)
KEPT = 5
#: steps, or rows, whose sums are added up by themselves first: long sums in float32 lose digits
BLOCK = 32
#: sums of the way back: dL/dgates, dL/dgates times the projection (three gates each), dL/dhn
SUMS = 7
Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
#: numbers as products take them: float32, or bf16 as uint16
Stored = npt.NDArray[Any]
_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


class _Memory:
    """Reads and writes vectors of float32, whatever they are stored as."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context, self.builder = context, builder

    def at(self, array: Any, value: Any, index: Any) -> tuple[Any, Any]:
        """A place: (address, type of what is stored)."""
        data = self.builder.bitcast(self.context.make_array(array)(self.context, self.builder, value).data,
                                    _I8.as_pointer())  # fmt: skip
        return self._plus(data, array.dtype, index), array.dtype

    def address(self, number: Any, like: Any, index: Any) -> tuple[Any, Any]:
        """The same, of memory that is known by its address."""
        return self._plus(self.builder.inttoptr(number, _I8.as_pointer()), like.dtype, index), like.dtype

    def further(self, place: tuple[Any, Any], count: Any, times: int = 1) -> tuple[Any, Any]:
        index = self.builder.mul(count, ir.Constant(_I64, times))
        return self._plus(place[0], place[1], index), place[1]

    def _plus(self, pointer: Any, dtype: Any, index: Any) -> Any:
        return self.builder.gep(pointer, [self.builder.mul(index, ir.Constant(_I64, dtype.bitwidth // 8))])

    def read(self, place: tuple[Any, Any]) -> _Vector:
        builder, (address, dtype) = self.builder, place
        if dtype == types.float32:
            kind = ir.VectorType(_F32, LANES)
            return _Vector(builder, builder.load(builder.bitcast(address, kind.as_pointer()), align=4))
        halves = ir.VectorType(_I16, LANES)
        bits = builder.load(builder.bitcast(address, halves.as_pointer()), align=2)
        whole = builder.zext(bits, ir.VectorType(_I32, LANES))
        shifted = builder.shl(whole, ir.Constant(ir.VectorType(_I32, LANES), [16] * LANES))
        return _Vector(builder, builder.bitcast(shifted, ir.VectorType(_F32, LANES)))

    def write(self, place: tuple[Any, Any], value: _Vector) -> None:
        address, dtype = place
        if dtype == types.float32:
            _store(self.builder, address, value.value, 4)
        else:
            _store(self.builder, address, _bf16_bits(self.builder, value.value, LANES), 2)

    def add(self, place: tuple[Any, Any], value: _Vector) -> None:
        self.write(place, self.read(place) + value)


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _forward(
    typing_context: Any, z: Any, z_at: Any, scale: Any, shift: Any, bias: Any, gate_at: Any, size: Any, own: Any,
    own_at: Any, state: Any, state_at: Any, h: Any, h_at: Any, out: Any, out_at: Any, kept: Any, kept_at: Any,
) -> Any:  # fmt: skip
    """16 units of one utterance one step on. Gates lie ``size`` apart, what is kept too; ``own`` is an address."""
    n = types.intp
    signature = types.void(z, n, scale, shift, bias, n, n, n, n, state, n, h, n, out, n, kept, n)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (z_, z_at_, scale_, shift_, bias_, gate_at_, size_, own_, own_at_, state_, state_at_, h_, h_at_, out_, out_at_,
         kept_, kept_at_) = arguments  # fmt: skip
        memory = _Memory(context, builder)
        gates, recurrent = [], []
        for g in range(3):

            def of(place: tuple[Any, Any], g: int = g) -> _Vector:
                return memory.read(memory.further(place, size_, g))

            projected = of(memory.at(z, z_, z_at_))
            gates.append(of(memory.at(shift, shift_, gate_at_)).plus_product(
                of(memory.at(scale, scale_, gate_at_)), projected))  # fmt: skip
            recurrent.append(of(memory.address(own_, h, own_at_)) + of(memory.at(bias, bias_, gate_at_)))
        before = memory.at(state, state_, state_at_)
        state_h = memory.read(before)
        reset, update = _sigmoid(gates[0] + recurrent[0]), _sigmoid(gates[1] + recurrent[1])
        candidate = _tanh(gates[2].plus_product(reset, recurrent[2]))
        away = state_h - candidate
        new = candidate.plus_product(update, away)
        one = candidate._new(candidate._same(1.0))
        keep = one - update
        at_candidate = keep * (one - candidate * candidate)
        at_recurrent = at_candidate * reset
        rows = (keep, at_candidate, at_recurrent * recurrent[2] * (one - reset), away * update * keep, at_recurrent)
        for i, row in enumerate(rows):
            memory.write(memory.further(memory.at(kept, kept_, kept_at_), size_, i), row)
        memory.write(before, new)
        memory.write(memory.at(h, h_, h_at_), new)
        memory.write(memory.at(out, out_, out_at_), new)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def _backward(
    typing_context: Any, grad: Any, grad_at: Any, carry: Any, carry_at: Any, state: Any, state_at: Any, kept: Any,
    kept_at: Any, z: Any, z_at: Any, size: Any, at_hidden: Any, hidden_at: Any, at_gates: Any, gates_at: Any,
    sums: Any, sums_at: Any,
) -> Any:  # fmt: skip
    """16 units of one utterance one step back: gradients at the recurrent product and at the gates' input."""
    n = types.intp
    signature = types.void(grad, n, n, n, state, n, kept, n, z, n, n, at_hidden, n, at_gates, n, sums, n)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (grad_, grad_at_, carry_, carry_at_, state_, state_at_, kept_, kept_at_, z_, z_at_, size_, hidden_, hidden_at_,
         gates_, gates_at_, sums_, sums_at_) = arguments  # fmt: skip
        memory = _Memory(context, builder)
        later = memory.at(state, state_, state_at_)
        at_state = memory.read(later) + memory.read(memory.at(grad, grad_, grad_at_))
        at_state = at_state + memory.read(memory.address(carry_, kept, carry_at_))
        keep, candidate, reset, update, recurrent = (
            memory.read(memory.further(memory.at(kept, kept_, kept_at_), size_, i)) for i in range(KEPT)
        )
        memory.write(later, at_state - at_state * keep)
        on_x = [at_state * reset, at_state * update, at_state * candidate]
        on_h = [on_x[0], on_x[1], at_state * recurrent]
        first = memory.at(sums, sums_, sums_at_)
        for g in range(3):
            memory.write(memory.further(memory.at(at_hidden, hidden_, hidden_at_), size_, g), on_h[g])
            memory.write(memory.further(memory.at(at_gates, gates_, gates_at_), size_, g), on_x[g])
            projected = memory.read(memory.further(memory.at(z, z_, z_at_), size_, g))
            memory.add(memory.further(first, size_, g), on_x[g])
            memory.add(memory.further(first, size_, 3 + g), on_x[g] * projected)
        memory.add(memory.further(first, size_, 6), on_h[2])
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def _add_moments(typing_context: Any, z: Any, z_at: Any, sums: Any, sums_at: Any, width: Any) -> Any:
    """Adds 16 values and their squares, ``width`` further, to sums."""
    n = types.intp
    signature = types.void(z, n, sums, n, n)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        z_, z_at_, sums_, sums_at_, width_ = arguments
        memory = _Memory(context, builder)
        value, place = memory.read(memory.at(z, z_, z_at_)), memory.at(sums, sums_, sums_at_)
        memory.add(place, value)
        memory.add(memory.further(place, width_), value * value)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def _combine(
    typing_context: Any, at_gates: Any, z: Any, at: Any, by_gate: Any, by_projection: Any, constant: Any, gate_at: Any
) -> Any:
    """at_gates = by_gate at_gates + by_projection z + constant, of 16 gates."""
    n = types.intp
    signature = types.void(at_gates, z, n, by_gate, by_projection, constant, n)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        gates_, z_, at_, by_gate_, by_projection_, constant_, gate_at_ = arguments
        memory = _Memory(context, builder)
        place = memory.at(at_gates, gates_, at_)
        total = memory.read(memory.at(constant, constant_, gate_at_))
        total = total.plus_product(
            memory.read(memory.at(by_projection, by_projection_, gate_at_)), memory.read(memory.at(z, z_, at_))
        )
        total = total.plus_product(memory.read(memory.at(by_gate, by_gate_, gate_at_)), memory.read(place))
        memory.write(place, total)
        return context.get_dummy_value()

    return signature, generate


@compiled
def step_forward(
    s: int, steps: int, lengths: Longs, backward: bool, way: int, ways: int, size: int, z: Stored, scale: Floats,
    shift: Floats, bias: Floats, own: int, state: Floats, h: Stored, out: Stored, out_width: int, out_at: int,
    kept: Stored,
) -> None:  # fmt: skip
    """The states after step ``s`` of one direction; zeros beyond an utterance's end.

    Args:
        own: address of what the state adds to the gates, (b, 3 size), stored as ``h``.
        z: the projections of all directions, (r, ways, 3 size); scale, shift, bias: (ways, 3 size).
        h: (s + 1, b, size), of which the first is zero; ``kept``: (s, b, 5, size).
    """
    batch, gates = len(lengths), 3 * size
    for b in range(batch):
        inside = s < lengths[b]
        row = b * steps + (lengths[b] - 1 - s if backward and inside else s)
        h_at, kept_at, to = ((s + 1) * batch + b) * size, (s * batch + b) * KEPT * size, row * out_width + out_at
        if inside:
            for j in range(0, size, LANES):
                _forward(z, (row * ways + way) * gates + j, scale, shift, bias, way * gates + j, size, own,
                         b * gates + j, state, b * size + j, h, h_at + j, out, to + j, kept, kept_at + j)  # fmt: skip
        else:
            h[h_at : h_at + size] = 0
            out[to : to + size] = 0
            kept[kept_at : kept_at + KEPT * size] = 0


@compiled
def step_backward(
    s: int, steps: int, lengths: Longs, backward: bool, way: int, ways: int, size: int, grad: Stored, grad_width: int,
    grad_at: int, carry: int, state: Floats, kept: Stored, z: Stored, at_hidden: Stored, at_gates: Stored, sums: Floats,
) -> None:  # fmt: skip
    """The gradients of step ``s`` of one direction, from those of its output and of what came after it.

    Args:
        carry: address of what comes back through the next step's recurrent product, (b, size), stored as ``kept``.
        state: (b, size), what comes back past the gates.
        at_hidden: (s, b, 3 size), gradients at the recurrent product; at_gates: (r, ways, 3 size), at the gates' input.
        sums: (blocks of steps, 7 size).
    """
    batch, gates = len(lengths), 3 * size
    for b in range(batch):
        inside = s < lengths[b]
        row = b * steps + (lengths[b] - 1 - s if backward and inside else s)
        hidden_at, gates_at = (s * batch + b) * gates, (row * ways + way) * gates
        if inside:
            for j in range(0, size, LANES):
                _backward(grad, row * grad_width + grad_at + j, carry, b * size + j, state, b * size + j, kept,
                          (s * batch + b) * KEPT * size + j, z, gates_at + j, size, at_hidden, hidden_at + j,
                          at_gates, gates_at + j, sums, s // BLOCK * SUMS * size + j)  # fmt: skip
        else:
            at_hidden[hidden_at : hidden_at + gates] = 0
            at_gates[gates_at : gates_at + gates] = 0


@compiled
def moments(first: int, last: int, steps: int, lengths: Longs, width: int, z: Stored, sums: Floats) -> None:
    """Sums and sums of squares over the rows of some utterances. Shapes: z (r, width), sums (b, blocks, 2, width)."""
    blocks = (steps + BLOCK - 1) // BLOCK
    for b in range(first, last):
        for s in range(lengths[b]):
            to = (b * blocks + s // BLOCK) * 2 * width
            for j in range(0, width, LANES):
                _add_moments(z, (b * steps + s) * width + j, sums, to + j, width)


@compiled
def through_norm(
    first: int, last: int, steps: int, lengths: Longs, width: int, at_gates: Stored, z: Stored, by_gate: Floats,
    by_projection: Floats, constant: Floats,
) -> None:  # fmt: skip
    """Gradients at the projection from those at the gates' input, in place; zero stays what is outside.

    Shapes: at_gates, z (r, width), the others (width,).
    """
    for b in range(first, last):
        for s in range(lengths[b]):
            row = (b * steps + s) * width
            for j in range(0, width, LANES):
                _combine(at_gates, z, row + j, by_gate, by_projection, constant, j)
