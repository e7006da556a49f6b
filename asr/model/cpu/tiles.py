"""Small blocks of a matrix product, in the processor's own dot products: what the compiled loops of use are made of.

A block is a few rows by a few columns of 16, held in registers over the whole sum. Every element is summed by itself,
in the order of its terms, whatever the block: so no result depends on what else is computed beside it.

Axes: r rows, c columns, k terms of a sum. Terms come in groups of 4 bytes: one float32, two bf16 (as uint16), four
8-bit integers (uint8 in rows, int8 in weights). Weights lie in blocks of 16 columns: (c / 16, k / group, 16, group).
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

#: columns of a block of weights: a vector of 512 bits
LANES = 16
_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _INTS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
#: Named by their instructions: LLVM's names for them have changed between versions.
_DOT_BF16 = ir.InlineAsm(ir.FunctionType(_FLOATS, (_FLOATS, _INTS, _INTS)), "vdpbf16ps $3, $2, $0", "=v,0,v,v")
_DOT_INT8 = ir.InlineAsm(ir.FunctionType(_INTS, (_INTS, _INTS, _INTS)), "vpdpbusd $3, $2, $0", "=v,0,v,v")


def features() -> frozenset[str]:
    """What this processor can do, in LLVM's words; less where numba was told so (``NUMBA_CPU_FEATURES``)."""
    told = config.CPU_FEATURES
    if told is not None:
        return frozenset(word[1:] for word in told.split(",") if word.startswith("+"))
    return frozenset(name for name, has in binding.get_host_cpu_features().items() if has)


#: whether vectors of 512 bits, and 32 of them, are there
WIDE = "avx512f" in features()


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c on vectors, rounded once."""
    kind = ir.FunctionType(a.type, (a.type,) * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{a.type.count}f32"), [a, b, c])


def _make(rows: int, columns: int) -> Any:
    """The block product of so many rows and so many columns of 16."""

    @intrinsic  # type: ignore[untyped-decorator]  # numba has no types
    def tile(
        typing_context: Any, a: Any, a_at: Any, a_row: Any, runs: Any, run: Any, groups: Any,
        w: Any, w_at: Any, w_column: Any, bias: Any, bias_at: Any, bias_column: Any,
        out: Any, out_at: Any, out_row: Any, out_column: Any,
    ) -> Any:  # fmt: skip
        """out = bias + a w, for a[r, k] = a[a_at + r a_row + run * (k // groups) + k % groups].

        A sum goes over ``runs`` runs of ``groups`` groups each, the runs ``run`` elements apart. All places are counted
        in elements, those of groups in groups.
        """
        n = types.intp
        signature = types.void(a, n, n, n, n, n, w, n, n, bias, n, n, out, n, n, n)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            binding.initialize_native_asmparser()  # for the instructions above; it may be asked again
            (a_, a_at_, a_row_, runs_, run_, groups_, w_, w_at_, w_column_, bias_, bias_at_, bias_column_,
             out_, out_at_, out_row_, out_column_) = arguments  # fmt: skip
            integers = isinstance(out.dtype, types.Integer)
            vector = _INTS if integers else _FLOATS

            def pointer(array: Any, value: Any, at: Any) -> Any:
                data = builder.bitcast(context.make_array(array)(context, builder, value).data, _I8.as_pointer())
                return builder.gep(data, [builder.mul(at, ir.Constant(_I64, array.dtype.bitwidth // 8))])

            def beside(address: Any, kind: Any) -> Any:
                return builder.bitcast(address, kind.as_pointer())

            def times(value: Any, factor: int) -> Any:
                return builder.mul(value, ir.Constant(_I64, factor))

            item = a.dtype.bitwidth // 8
            a_p, w_p = pointer(a, a_, a_at_), pointer(w, w_, w_at_)
            bias_p, out_p = pointer(bias, bias_, bias_at_), pointer(out, out_, out_at_)
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(columns)] for _ in range(rows)]
            for c in range(columns):
                first = builder.load(beside(builder.gep(bias_p, [times(bias_column_, 4 * c)]), vector), align=4)
                for r in range(rows):
                    builder.store(first, sums[r][c])
            a_row_p = [builder.gep(a_p, [times(a_row_, item * r)]) for r in range(rows)]
            w_column_p = [builder.gep(w_p, [times(w_column_, w.dtype.bitwidth // 8 * c)]) for c in range(columns)]
            with cgutils.for_range(builder, runs_) as outer:
                a_run = times(builder.mul(outer.index, run_), item)
                w_run = times(builder.mul(outer.index, groups_), 4 * LANES)
                with cgutils.for_range(builder, groups_) as inner:
                    a_k = builder.add(a_run, times(inner.index, 4))
                    w_k = builder.add(w_run, times(inner.index, 4 * LANES))
                    kind = _FLOATS if a.dtype == types.float32 else _INTS
                    weights = [builder.load(beside(builder.gep(p, [w_k]), kind), align=4) for p in w_column_p]
                    for r in range(rows):
                        one = builder.load(beside(builder.gep(a_row_p[r], [a_k]), kind.element), align=1)
                        term = builder.insert_element(ir.Constant(kind, ir.Undefined), one, ir.Constant(_I32, 0))
                        zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
                        term = builder.shuffle_vector(term, ir.Constant(kind, ir.Undefined), zeros)
                        for c in range(columns):
                            total = builder.load(sums[r][c])
                            if a.dtype == types.float32:
                                total = fused(builder, term, weights[c], total)
                            else:
                                dot = _DOT_BF16 if a.dtype == types.uint16 else _DOT_INT8
                                total = builder.call(dot, [total, term, weights[c]])
                            builder.store(total, sums[r][c])
            for r in range(rows):
                row_p = builder.gep(out_p, [times(out_row_, 4 * r)])
                for c in range(columns):
                    place = beside(builder.gep(row_p, [times(out_column_, 4 * c)]), vector)
                    builder.store(builder.load(sums[r][c]), place, align=4)
            return context.get_dummy_value()

        return signature, generate

    return tile


# The widest that fits 32 registers, and what is left of the rows.
tile_8x3, tile_4x3, tile_2x3, tile_1x3 = (_make(r, 3) for r in (8, 4, 2, 1))
tile_8x2, tile_4x2, tile_2x2, tile_1x2 = (_make(r, 2) for r in (8, 4, 2, 1))
tile_8x1, tile_4x1, tile_2x1, tile_1x1 = (_make(r, 1) for r in (8, 4, 2, 1))
