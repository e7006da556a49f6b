"""Arrays without reference counting, for the inside of a compiled function whose caller holds them.

numba counts a reference each time an array is taken out of a tuple or sliced: two locked instructions, about 10 ns,
which in a search add up to more than its arithmetic.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def borrowed(typing_context: Any, thing: Any) -> Any:
    """An array, or a tuple of arrays, numbers and further tuples, whose arrays belong to nobody.

    They and their slices are valid as long as the caller's are.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _borrow(context, builder, thing, arguments[0])

    return thing(thing), generate


def _borrow(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        array = cgutils.create_struct_proxy(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):  # type: ignore[attr-defined]
        for place, inner in enumerate(kind):
            part = builder.extract_value(value, place)
            value = builder.insert_value(value, _borrow(context, builder, inner, part), place)
    return value
