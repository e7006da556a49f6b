"""Vectors of 16 float32 in compiled code: a type for numba, with load, store and arithmetic.

Each operation is an instruction of LLVM, so every unit is computed in the same way wherever it lies, and no result
depends on its neighbours. Arrays hold float32, or bf16 as uint16 (the upper half of a float32); both are loaded as
float32.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from asr.model.cpu.packed import LANES

#: A vector as type checkers see it.
Vector = Any

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32 = ir.FloatType()
FLOATS = ir.VectorType(F32, LANES)


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


_vector = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def _add_operator(symbol: Any, instruction: str) -> None:
    """Make an operator of Python work on vectors."""

    @infer_global(symbol)
    class _Template(ConcreteTemplate):  # type: ignore[misc]
        cases = (signature(_vector, _vector, _vector),)

    @lower_builtin(symbol, _vector, _vector)  # type: ignore[untyped-decorator]
    def _lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments)


_add_operator(operator.add, "fadd")
_add_operator(operator.sub, "fsub")
_add_operator(operator.mul, "fmul")
_add_operator(operator.truediv, "fdiv")


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Generate a b + c on vectors, rounded once."""
    kind = ir.FunctionType(a.type, (a.type,) * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{a.type.count}f32")
    return builder.call(function, [a, b, c])


def address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Generate the address of an element of an array of this numba type."""
    data = builder.bitcast(context.make_array(kind)(context, builder, array).data, I8.as_pointer())
    return builder.gep(data, [builder.mul(index, ir.Constant(I64, kind.dtype.bitwidth // 8))])


@intrinsic  # type: ignore[untyped-decorator]
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return fused(builder, *arguments)

    return _vector(_vector, _vector, _vector), generate


@intrinsic  # type: ignore[untyped-decorator]
def filled(typing_context: Any, value: Any) -> Any:
    """Return a vector whose values are all this number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, builder.fptrunc(arguments[0], F32))

    return _vector(types.float64), generate


@intrinsic  # type: ignore[untyped-decorator]
def clamp(typing_context: Any, x: Any, low: Any, high: Any) -> Any:
    """Hold values between two bounds; what is not a number stays so."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, low_, high_ = arguments
        value = builder.select(builder.fcmp_ordered("<", value, low_), low_, value)
        return builder.select(builder.fcmp_ordered(">", value, high_), high_, value)

    return _vector(_vector, _vector, _vector), generate


@intrinsic  # type: ignore[untyped-decorator]
def load(typing_context: Any, array: Any, at: Any) -> Any:
    """Read 16 values of an array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _read(builder, address(context, builder, array, *arguments), array.dtype)

    return _vector(array, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def load_from(typing_context: Any, pointer: Any, at: Any, like: Any) -> Any:
    """Read 16 values at an address, stored as the elements of an array ``like``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer_, at_, _ = arguments
        offset = builder.mul(at_, ir.Constant(I64, like.dtype.bitwidth // 8))
        return _read(builder, builder.inttoptr(builder.add(pointer_, offset), I8.as_pointer()), like.dtype)

    return _vector(types.intp, types.intp, like), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(typing_context: Any, array: Any, at: Any, value: Any) -> Any:
    """Write 16 values into an array, rounded to bf16 if that is what it holds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_, at_, value_ = arguments
        place = address(context, builder, array, array_, at_)
        align = 4
        if array.dtype != types.float32:
            value_ = _bf16_bits(builder, value_)
            align = 2
        builder.store(value_, builder.bitcast(place, value_.type.as_pointer()), align=align)
        return context.get_dummy_value()

    return types.void(array, types.intp, _vector), generate


@intrinsic  # type: ignore[untyped-decorator]
def as_stored(typing_context: Any, value: Any, array: Any) -> Any:
    """Return one float32 as the elements of an array are: itself, or bf16 as uint16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if array.dtype == types.float32:
            return arguments[0]
        alone = ir.Constant(ir.VectorType(F32, 1), ir.Undefined)
        bits = _bf16_bits(builder, builder.insert_element(alone, arguments[0], ir.Constant(I32, 0)))
        return builder.extract_element(bits, ir.Constant(I32, 0))

    return array.dtype(types.float32, array), generate


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), value, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(FLOATS, ir.Undefined), zeros)


def _read(builder: Any, place: Any, dtype: Any) -> Any:
    """Generate the load of 16 values of this numba type as float32."""
    if dtype == types.float32:
        return builder.load(builder.bitcast(place, FLOATS.as_pointer()), align=4)
    whole = ir.VectorType(I32, LANES)
    bits = builder.load(builder.bitcast(place, ir.VectorType(I16, LANES).as_pointer()), align=2)
    upper_half = builder.shl(builder.zext(bits, whole), ir.Constant(whole, [16] * LANES))
    return builder.bitcast(upper_half, FLOATS)


def _bf16_bits(builder: Any, value: Any) -> Any:
    """Generate the nearest bf16 (ties to even) of float32, as 16-bit integers; what is not a number stays so."""
    lanes = value.type.count
    whole = ir.VectorType(I32, lanes)

    def filled_with(number: int) -> Any:
        return ir.Constant(whole, [number] * lanes)

    bits = builder.bitcast(value, whole)
    odd = builder.and_(builder.lshr(bits, filled_with(16)), filled_with(1))
    rounded = builder.add(builder.add(bits, filled_with(0x7FFF)), odd)
    rounded = builder.lshr(rounded, filled_with(16))
    rounded = builder.select(builder.fcmp_unordered("uno", value, value), filled_with(0x7FC0), rounded)
    return builder.trunc(rounded, ir.VectorType(I16, lanes))
