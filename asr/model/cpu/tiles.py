"""Small blocks of a matrix product, in the processor's own dot products.

A block is a few rows by a few columns of 16, held in registers over the whole sum. Every element is summed by itself,
in the order of its terms, whatever the block is: so no result depends on what else is computed beside it.

Axes: r rows, c columns, k terms of a sum. Terms come in groups of 4 bytes: one float32, or two bf16 (as uint16).
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from asr.model.cpu.packed import LANES
from asr.model.cpu.vectors import FLOATS, I32, I64, address, fused

_PAIRS = ir.VectorType(I32, LANES)
#: Named by its instruction: LLVM's name for it has changed between versions.
_DOT_BF16 = ir.InlineAsm(ir.FunctionType(FLOATS, (FLOATS, _PAIRS, _PAIRS)), "vdpbf16ps $3, $2, $0", "=v,0,v,v")
if hasattr(binding, "initialize_native_asmparser"):
    # For the instruction above. At import, as code that holds it may come from disk: else LLVM ends the process.
    binding.initialize_native_asmparser()


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]  # numba has no types
def tile(
    typing_context: Any,
    rows: Any,
    columns: Any,
    a: Any,
    a_at: Any,
    a_row: Any,
    a_run: Any,
    w: Any,
    first: Any,
    apart: Any,
    out: Any,
    out_at: Any,
    out_row: Any,
) -> Any:
    """Compute out = bias + a w, for a[r, k] = a[a_at + r a_row + a_run (k // groups) + k % groups].

    Places are counted in elements, those of k in groups.

    Args:
        rows, columns: size of the block, as literal numbers; 8 x 3 is the largest that fits 32 registers.
        w: ``Weights``; ``first``: its first block of columns; ``apart``: blocks from one to the next.
        out: columns of 16 lie side by side, rows ``out_row`` apart.
    """
    n = types.intp
    signature = types.void(rows, columns, a, n, n, n, w, n, n, out, n, n)
    num_rows = rows.literal_value
    num_columns = columns.literal_value
    narrow = a.dtype != types.float32
    kind = _PAIRS if narrow else FLOATS

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a_, a_at_, a_row_, a_run_, w_, first_, apart_, out_, out_at_, out_row_ = arguments[2:]
        values, bias, _, column, runs, groups = cgutils.unpack_tuple(builder, w_)
        values_kind, bias_kind = w.types[0], w.types[1]

        def times(value: Any, factor: int) -> Any:
            return builder.mul(value, ir.Constant(I64, factor))

        def at(place: Any, kind: Any) -> Any:
            return builder.bitcast(place, kind.as_pointer())

        def broadcast(place: Any) -> Any:
            """Load one group of terms into all lanes."""
            group = builder.load(at(place, kind.element), align=1)
            one = builder.insert_element(ir.Constant(kind, ir.Undefined), group, ir.Constant(I32, 0))
            zeros = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
            return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

        # every sum starts at its bias
        sums = [[cgutils.alloca_once(builder, FLOATS) for _ in range(num_columns)] for _ in range(num_rows)]
        w_places = []
        for c in range(num_columns):
            block = builder.add(first_, times(apart_, c))
            w_places.append(address(context, builder, values_kind, values, builder.mul(block, column)))
            bias_place = address(context, builder, bias_kind, bias, times(block, LANES))
            start = builder.load(at(bias_place, FLOATS), align=4)
            for r in range(num_rows):
                builder.store(start, sums[r][c])

        a_places = [address(context, builder, a, a_, builder.add(a_at_, times(a_row_, r))) for r in range(num_rows)]
        with cgutils.for_range(builder, runs) as run:
            a_of_run = times(builder.mul(run.index, a_run_), a.dtype.bitwidth // 8)
            w_of_run = times(builder.mul(run.index, groups), 4 * LANES)
            with cgutils.for_range(builder, groups) as group:
                a_offset = builder.add(a_of_run, times(group.index, 4))
                w_offset = builder.add(w_of_run, times(group.index, 4 * LANES))
                weights = [builder.load(at(builder.gep(w, [w_offset]), kind), align=4) for w in w_places]
                for r in range(num_rows):
                    term = broadcast(builder.gep(a_places[r], [a_offset]))
                    for c in range(num_columns):
                        total = builder.load(sums[r][c])
                        if narrow:
                            total = builder.call(_DOT_BF16, [total, term, weights[c]])
                        else:
                            total = fused(builder, term, weights[c], total)
                        builder.store(total, sums[r][c])

        for r in range(num_rows):
            row_at = builder.add(out_at_, times(out_row_, r))
            for c in range(num_columns):
                place = address(context, builder, out, out_, builder.add(row_at, ir.Constant(I64, LANES * c)))
                builder.store(builder.load(sums[r][c]), at(place, FLOATS), align=4)
        return context.get_dummy_value()

    return signature, generate
