"""The cells of recurrent layers on 16 units at a time, in the processor's vectors; and numbers made narrow.

Each unit is computed by the same instructions wherever it lies, so no result depends on its neighbours.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from asr.model.cpu.tiles import LANES, fused

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()

#: tanh(x) is about x P(x^2) / Q(x^2) for |x| up to the bound, beyond which it is 1 in float32; good to 4e-7.
#: Source: Eigen's generic_fast_tanh_float (MPL 2), a minimax fit.
_TANH_BOUND = 7.90531110763549805
_TANH_P = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
           1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)  # fmt: skip
_TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


class _Vector:
    """A vector of float32 being computed, with the usual operators."""

    def __init__(self, builder: Any, value: Any, lanes: int = LANES) -> None:
        self.builder, self.value, self.lanes = builder, value, lanes

    def _same(self, other: Any) -> Any:
        if isinstance(other, _Vector):
            return other.value
        return ir.Constant(ir.VectorType(_F32, self.lanes), [float(other)] * self.lanes)

    def _new(self, value: Any) -> _Vector:
        return _Vector(self.builder, value, self.lanes)

    def __add__(self, other: Any) -> _Vector:
        return self._new(self.builder.fadd(self.value, self._same(other)))

    def __sub__(self, other: Any) -> _Vector:
        return self._new(self.builder.fsub(self.value, self._same(other)))

    def __mul__(self, other: Any) -> _Vector:
        return self._new(self.builder.fmul(self.value, self._same(other)))

    def __truediv__(self, other: Any) -> _Vector:
        return self._new(self.builder.fdiv(self.value, self._same(other)))

    def plus_product(self, a: _Vector, b: _Vector) -> _Vector:
        """self + a b, rounded once."""
        return self._new(fused(self.builder, a.value, b.value, self.value))

    def within(self, low: float, high: float) -> _Vector:
        """Held between two bounds; what is not a number stays so."""
        value = self.value
        for sign, bound in (("<", low), (">", high)):
            outside = self.builder.fcmp_ordered(sign, value, self._same(bound))
            value = self.builder.select(outside, self._same(bound), value)
        return self._new(value)


def _polynomial(x: _Vector, coefficients: tuple[float, ...]) -> _Vector:
    total = x._new(x._same(coefficients[0]))
    for coefficient in coefficients[1:]:
        total = x._new(x._same(coefficient)).plus_product(total, x)
    return total


def _tanh(x: _Vector) -> _Vector:
    x = x.within(-_TANH_BOUND, _TANH_BOUND)
    square = x * x
    return x * _polynomial(square, _TANH_P) / _polynomial(square, _TANH_Q)


def _sigmoid(x: _Vector) -> _Vector:
    return _tanh(x * 0.5) * 0.5 + 0.5


def _gru(x: list[_Vector], own: list[_Vector], state: _Vector, cell: _Vector) -> tuple[_Vector, _Vector]:
    reset, update = _sigmoid(x[0] + own[0]), _sigmoid(x[1] + own[1])
    candidate = _tanh(x[2].plus_product(reset, own[2]))
    return candidate.plus_product(update, state - candidate), cell


def _lstm(x: list[_Vector], own: list[_Vector], state: _Vector, cell: _Vector) -> tuple[_Vector, _Vector]:
    gate = [one + other for one, other in zip(x, own, strict=True)]
    cell = (_sigmoid(gate[1]) * cell).plus_product(_sigmoid(gate[0]), _tanh(gate[2]))
    return _sigmoid(gate[3]) * _tanh(cell), cell


def _simple(x: list[_Vector], own: list[_Vector], state: _Vector, cell: _Vector) -> tuple[_Vector, _Vector]:
    return _tanh(x[0] + own[0]), cell


def _address(context: Any, builder: Any, array: Any, value: Any, at: Any) -> Any:
    data = builder.bitcast(context.make_array(array)(context, builder, value).data, _I8.as_pointer())
    return builder.gep(data, [builder.mul(at, ir.Constant(_I64, array.dtype.bitwidth // 8))])


def _load(builder: Any, address: Any) -> _Vector:
    kind = ir.VectorType(_F32, LANES)
    return _Vector(builder, builder.load(builder.bitcast(address, kind.as_pointer()), align=4))


def _store(builder: Any, address: Any, value: Any, align: int) -> None:
    builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=align)


def _bf16_bits(builder: Any, value: Any, lanes: int) -> Any:
    """The nearest bf16 (ties to even) of float32, as 16-bit integers; what is not a number stays so."""

    def whole(number: int) -> Any:
        return ir.Constant(ir.VectorType(_I32, lanes), [number] * lanes)

    bits = builder.bitcast(value, ir.VectorType(_I32, lanes))
    odd = builder.and_(builder.lshr(bits, whole(16)), whole(1))
    rounded = builder.lshr(builder.add(builder.add(bits, whole(0x7FFF)), odd), whole(16))
    rounded = builder.select(builder.fcmp_unordered("uno", value, value), whole(0x7FC0), rounded)
    return builder.trunc(rounded, ir.VectorType(_I16, lanes))


def _make(cell: Any, gates: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]  # numba has no types
    def step(
        typing_context: Any, x: Any, x_at: Any, x_gate: Any, own: Any, own_at: Any,
        state: Any, cells: Any, state_at: Any, narrow: Any, narrow_at: Any, out: Any, out_at: Any,
    ) -> Any:  # fmt: skip
        """Takes 16 units of one utterance a step on: state, its narrow copy for the next product, and the output.

        The gates' input lies ``x_gate`` apart in ``x``, what the state adds to it side by side in ``own``.
        """
        n = types.intp
        signature = types.void(x, n, n, own, n, state, cells, n, narrow, n, out, n)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x_, x_at_, x_gate_, own_, own_at_, state_, cells_, state_at_, narrow_, narrow_at_, out_, out_at_ = arguments
            x_p = _address(context, builder, x, x_, x_at_)
            gate = builder.mul(x_gate_, ir.Constant(_I64, 4))
            own_p = _address(context, builder, own, own_, own_at_)
            state_p, cell_p = (
                _address(context, builder, a, v, state_at_) for a, v in ((state, state_), (cells, cells_))
            )
            xs, owns = [], []
            for g in range(gates):
                xs.append(_load(builder, builder.gep(x_p, [builder.mul(gate, ir.Constant(_I64, g))])))
                owns.append(_load(builder, builder.gep(own_p, [ir.Constant(_I64, 4 * LANES * g)])))
            new, new_cell = cell(xs, owns, _load(builder, state_p), _load(builder, cell_p))
            _store(builder, state_p, new.value, 4)
            if new_cell.value is not None and gates == 4:
                _store(builder, cell_p, new_cell.value, 4)
            _store(builder, _address(context, builder, out, out_, out_at_), new.value, 4)
            narrow_p = _address(context, builder, narrow, narrow_, narrow_at_)
            narrowed = new.value if narrow.dtype == types.float32 else _bf16_bits(builder, new.value, LANES)
            _store(builder, narrow_p, narrowed, 2)
            return context.get_dummy_value()

        return signature, generate

    return step


gru_step, lstm_step, tanh_step = _make(_gru, 3), _make(_lstm, 4), _make(_simple, 1)


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def as_stored(typing_context: Any, value: Any, where: Any) -> Any:
    """A float32 as the elements of an array are: itself, or bf16 as uint16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if where.dtype == types.float32:
            return arguments[0]
        vector = ir.VectorType(_F32, 1)
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[0], ir.Constant(_I32, 0))
        return builder.extract_element(_bf16_bits(builder, one, 1), ir.Constant(_I32, 0))

    return where.dtype(types.float32, where), generate
