"""What frames need of vectors: 16 frames at a time, each in a lane of its own.

Arrays of lanes are flat: row ``i`` holds value ``i`` of 16 frames.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from asr.jit import inlined
from asr.model.cpu.packed import LANES
from asr.model.cpu.vectors import F32, FLOATS, I32, I64, Vector, address, filled, fma

_INTEGERS = ir.VectorType(I32, LANES)
#: the bits of the square root of a half in float32: what is left of a number without its power of two begins there
_ROOT = 0x3F3504F3


@intrinsic  # type: ignore[untyped-decorator]
def to_lanes(
    typing_context: Any, wave: Any, at: Any, hop: Any, window: Any, window_at: Any, out: Any, out_at: Any
) -> Any:
    """Copy 16 samples of 16 frames, weighted by a window, to 16 rows of lanes.

    The first frame begins at ``at``, each of the others ``hop`` samples after the one before.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wave_, at_, hop_, window_, window_at_, out_, out_at_ = arguments
        weights = _read(builder, address(context, builder, window, window_, window_at_))
        first = address(context, builder, wave, wave_, at_)
        rows = [builder.fmul(row, weights) for row in _read_rows(builder, first, hop_)]
        place = address(context, builder, out, out_, out_at_)
        _write_rows(builder, place, ir.Constant(I64, LANES), _transposed(builder, rows))
        return context.get_dummy_value()

    return types.void(wave, types.intp, types.intp, window, types.intp, out, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def to_frames(typing_context: Any, lanes: Any, at: Any, out: Any, out_at: Any, out_row: Any) -> Any:
    """Copy 16 rows of lanes to 16 values each of 16 frames, which are ``out_row`` values apart."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes_, at_, out_, out_at_, out_row_ = arguments
        rows = _read_rows(builder, address(context, builder, lanes, lanes_, at_), ir.Constant(I64, LANES))
        place = address(context, builder, out, out_, out_at_)
        _write_rows(builder, place, out_row_, _transposed(builder, rows))
        return context.get_dummy_value()

    return types.void(lanes, types.intp, out, types.intp, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def _halves(typing_context: Any, value: Any) -> Any:
    """Split numbers into powers of two and what is left, from the square root of a half up to that of two."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.sub(builder.bitcast(arguments[0], _INTEGERS), _integers(_ROOT))
        power = builder.sitofp(builder.ashr(bits, _integers(23)), FLOATS)
        left = builder.add(builder.and_(bits, _integers(0x7FFFFF)), _integers(_ROOT))
        return context.make_tuple(builder, signature.return_type, [power, builder.bitcast(left, FLOATS)])

    return types.UniTuple(value, 2)(value), generate


@intrinsic  # type: ignore[untyped-decorator]
def _where_finite(typing_context: Any, value: Any, then: Any) -> Any:
    """Return ``then`` where numbers are finite, and themselves where they are infinite or not a number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value_, then_ = arguments
        is_finite = builder.fcmp_ordered("<", value_, ir.Constant(FLOATS, [float("inf")] * LANES))
        return builder.select(is_finite, then_, value_)

    return value(value, value), generate


@inlined
def log(x: Vector) -> Vector:
    """Compute natural logarithms of positive normal numbers, good to 1 in 10 million.

    Source: Moshier's Cephes, ``logf``.
    """
    power, left = _halves(x)
    f = left - filled(1.0)

    p = filled(7.0376836292e-2)
    p = fma(p, f, filled(-1.1514610310e-1))
    p = fma(p, f, filled(1.1676998740e-1))
    p = fma(p, f, filled(-1.2420140846e-1))
    p = fma(p, f, filled(1.4249322787e-1))
    p = fma(p, f, filled(-1.6668057665e-1))
    p = fma(p, f, filled(2.0000714765e-1))
    p = fma(p, f, filled(-2.4999993993e-1))
    p = fma(p, f, filled(3.3333331174e-1))

    # The logarithm of 2 in two parts: the first has few digits, so that its product with a power is exact.
    square = f * f
    small = fma(power, filled(-2.12194440e-4), p * f * square)
    small = fma(square, filled(-0.5), small)
    return _where_finite(x, fma(power, filled(0.693359375), f + small))


def _integers(value: int) -> Any:
    return ir.Constant(_INTEGERS, [value] * LANES)


def _read(builder: Any, place: Any) -> Any:
    return builder.load(builder.bitcast(place, FLOATS.as_pointer()), align=4)


def _read_rows(builder: Any, place: Any, apart: Any) -> list[Any]:
    """Generate the load of 16 vectors that begin so many values apart."""
    first = builder.bitcast(place, F32.as_pointer())
    return [_read(builder, builder.gep(first, [builder.mul(apart, ir.Constant(I64, i))])) for i in range(LANES)]


def _write_rows(builder: Any, place: Any, apart: Any, rows: list[Any]) -> None:
    first = builder.bitcast(place, F32.as_pointer())
    for i, row in enumerate(rows):
        there = builder.gep(first, [builder.mul(apart, ir.Constant(I64, i))])
        builder.store(row, builder.bitcast(there, FLOATS.as_pointer()), align=4)


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Generate the transpose of 16 vectors: blocks off the diagonal change places, of 1, 2, 4 and 8 values."""
    for size in (1, 2, 4, 8):
        # of a pair of rows as one of 32 values
        upper = [i if not i & size else LANES + i - size for i in range(LANES)]
        lower = [i + size if not i & size else LANES + i for i in range(LANES)]
        for i in range(LANES):
            if not i & size:
                pair = rows[i], rows[i + size]
                rows[i], rows[i + size] = (
                    builder.shuffle_vector(*pair, ir.Constant(_INTEGERS, order)) for order in (upper, lower)
                )
    return rows
