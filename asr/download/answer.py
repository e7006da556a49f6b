"""What a host answers: how long to wait for it, where its bytes belong, and why it is of no use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

from asr.errors import os_reason


@dataclass(frozen=True)
class Patience:
    """Limits of waiting for a host.

    Units: seconds. A pause doubles from ``pause_s`` to ``longest_pause_s``.
    """

    timeout_s: float = 60.0
    #: a connection that brings fewer bytes a second, over this long, is given up
    window_s: float = 60.0
    least_bytes_per_s: float = 1000.0
    #: tries in a row that bring no byte, or too few. Before the first byte only a busy host is asked again, so that a
    #: dead link is reported at once; after it more patience, so that a router's restart does not end a night's download
    tries_at_first: int = 3
    tries: int = 10
    pause_s: float = 1.0
    longest_pause_s: float = 60.0


@dataclass(eq=False)
class Broken(Exception):
    """A connection or an answer that failed."""

    reason: str
    #: another try cannot help
    final: bool = False
    #: there was no answer at all
    unreachable: bool = False
    #: bytes came, but too slowly to wait for the rest
    slow: bool = False
    #: how long the host asks to be left alone
    wait_s: float = 0.0


class Pace:
    """The speed of a connection."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._began_s = time.monotonic()
        self._count = 0

    def check(self, count: int) -> None:
        """Count bytes, and give up a connection that has been too slow for the whole window."""
        self._count += count
        seconds = time.monotonic() - self._began_s
        if seconds < self._patience.window_s:
            return
        if self._count < self._patience.least_bytes_per_s * seconds:
            raise Broken(f"too slow: {self._count:,} bytes in {seconds:.0f} s", slow=True)
        self._began_s += seconds
        self._count = 0


def extent(answer: HTTPResponse, have: int) -> tuple[int, int]:
    """Return where an answer's bytes begin in the file, and the file's size (0: the host does not say)."""
    if answer.status != 206:
        length = answer.headers.get("Content-Length", "")
        return 0, number(length)
    unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
    span, _, size = rest.partition("/")
    if unit != "bytes" or span.partition("-")[0] != str(have):
        raise Broken(f"the host answers with bytes {rest or '?'}, asked was for {have}-", final=True)
    return have, number(size)


def number(text: str) -> int:
    """Return a number in a header; 0: it is none, or nobody's size."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def validator(state: dict[str, Any]) -> str:
    """Return what If-Range takes: a strong ETag, or else the date (RFC 9110, 13.1.5)."""
    etag = str(state.get("etag") or "")
    return etag if etag and not etag.startswith("W/") else str(state.get("date") or "")


def why(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return os_reason(error)
    return str(error) or type(error).__name__
