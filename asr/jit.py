"""Functions compiled to machine code by numba: the settings that all compiled code of the library shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.extending import overload

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function at its first call; the machine code is kept on disk and runs without the GIL."""
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def summing(function: F) -> F:
    """Compile a function in which sums may be taken in any order: several terms at once."""
    fast = {"reassoc", "contract", "arcp", "nsz"}
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=fast)(function))


def inlined(function: F) -> F:
    """Compile a function into its callers."""
    return cast(F, numba.njit(nogil=True, error_model="numpy", inline="always")(function))


def choose_by_type(function: Callable[..., Any], choose: Callable[..., Callable[..., Any]]) -> None:
    """Let compiled code that calls a function call another one, chosen by the numba types of the arguments."""
    overload(function, strict=False)(choose)  # strict: the two would need the same annotations
