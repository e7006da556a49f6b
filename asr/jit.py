"""Functions compiled to machine code by numba: the settings that all compiled code of the library shares."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import IndexDataCacheFile
from numba.extending import overload

F = TypeVar("F", bound=Callable[..., Any])


class CacheFile(IndexDataCacheFile):  # type: ignore[misc]  # numba has no types
    """The machine code of one function on disk, in a file of its own for each time that it was compiled.

    numba counts the files of a function from 1. Two processes that compile it for different arguments at the same time
    both write the first one, and the index of one may end up with the code of the other, which ends later processes.
    """

    def _data_name(self, number: int) -> str:
        return f"{uuid.uuid4().hex}.{super()._data_name(number)}"


def compiled(function: F) -> F:
    """Compile a function at its first call; the machine code is kept on disk and runs without the GIL."""
    return cast(F, _kept(numba.njit(nogil=True, cache=True, error_model="numpy")(function)))


def native(function: F) -> F:
    """Compile a function for ``asr.native``, which calls it, and keeps its machine code."""
    return cast(F, numba.njit(nogil=True, error_model="numpy")(function))


#: for functions that such functions call
part = native


def summing(function: F) -> F:
    """Compile a function in which sums may be taken in any order: several terms at once."""
    fast = {"reassoc", "contract", "arcp", "nsz"}
    return cast(F, _kept(numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=fast)(function)))


def _kept(dispatcher: Any) -> Any:
    """Return a compiled function whose machine code is kept as ``CacheFile`` does it."""
    if not numba.config.DISABLE_JIT:
        dispatcher._cache._cache_file.__class__ = CacheFile
    return dispatcher


def inlined(function: F) -> F:
    """Compile a function into its callers."""
    return cast(F, numba.njit(nogil=True, error_model="numpy", inline="always")(function))


def choose_by_type(function: Callable[..., Any], choose: Callable[..., Callable[..., Any]]) -> None:
    """Let compiled code that calls a function call another one, chosen by the numba types of the arguments."""
    overload(function, strict=False)(choose)  # strict: the two would need the same annotations
