"""Keep the messages of libsndfile's MP3 decoder, which go to the C library's stderr, off the terminal.

The decoder writes them past libsndfile and Python, about files that it reads all the same; our errors and notes have
what matters to a user. Only C's ``stderr`` is replaced, and only while MP3 is decoded. Python's stderr, and with it the
log, does not go through it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_lock = threading.Lock()
_inside = 0
_before: int | None = None


@contextmanager
def quiet_decoder() -> Iterator[None]:
    """Discard C's stderr while any thread is inside; do nothing on systems where it cannot be found."""
    global _inside, _before
    found = _stderr_and_nowhere()
    if found is None:
        yield
        return
    variable, nowhere = found
    with _lock:
        _inside += 1
        if _inside == 1:
            _before, variable.value = variable.value, nowhere
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                variable.value = _before


@cache
def _stderr_and_nowhere() -> tuple[ctypes.c_void_p, int] | None:
    """Return C's variable, and an open file that discards its input."""
    if os.name != "posix":
        return None
    program = ctypes.CDLL(None)
    for name in ("stderr", "__stderrp"):
        try:
            variable = ctypes.c_void_p.in_dll(program, name)
            program.fopen.restype = ctypes.c_void_p
            nowhere = program.fopen(b"/dev/null", b"w")
        except (ValueError, AttributeError):
            continue
        if nowhere:
            return variable, nowhere
    return None
