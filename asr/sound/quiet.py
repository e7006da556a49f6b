"""Keeps what the MP3 decoder inside libsndfile writes to the C library's stderr from the terminal.

It complains there in lines of its own, past libsndfile and Python, of what is read all the same; what matters to a
user is in our errors and notes. Only C's ``stderr`` is replaced, and only while MP3 is decoded: Python's, and with it
all that is logged meanwhile, does not go through it.
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
    """While any thread is inside, C's stderr leads nowhere; on systems where it cannot be found nothing happens."""
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
    """C's variable, and an open file that forgets what is written."""
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
