"""Scan Ogg files page by page: the start of each of several streams in a row, and whether the end cuts a page.

Source: RFC 3533. Streams that follow each other ("chained", as of web radio or joined files) are decoded one by one.
"""

from __future__ import annotations

from typing import BinaryIO

from asr.limits import STREAMS

_CAPTURE, _HEADER_BYTES = b"OggS", 27
#: flags of a page that begins a stream
_FIRST = 0x02
_CHUNK = 1 << 20
#: the largest page: header, 255 segment lengths, 255 segments of 255 bytes
_LONGEST = _HEADER_BYTES + 255 + 255 * 255


def read_links(file: BinaryIO, start: int, stop: int) -> tuple[list[tuple[int, int]], str]:
    """Find the streams that follow each other in the file, and the reason if the last one is cut (empty: it is whole).

    A page that begins a stream right after another such page belongs to the same link: streams side by side.

    Returns:
        (start, length in bytes) of each link, and the reason.
    """
    begins: list[int] = []
    after_first = False
    cut = ""
    data = b""
    at = base = end = start
    while at < stop:
        if at + _LONGEST > base + len(data) < stop:
            file.seek(at)
            data = file.read(min(stop - at, _CHUNK))
            base = at

        here = at - base
        if data[here : here + 4] != _CAPTURE:
            found = data.find(_CAPTURE, here + 1)
            if found < 0 and base + len(data) >= stop:  # something else behind the last page
                break
            at = base + found if found >= 0 else base + len(data) - len(_CAPTURE) + 1
            continue

        size = _page_bytes(data, here)
        if size is None or at + size > stop:
            needs = "a page header" if size is None else f"the last page needs {size:,} bytes"
            cut = f"truncated: {needs}, the file holds {stop - at:,} of them; fetch it again"
            end = stop
            break

        is_first = bool(data[here + 5] & _FIRST)
        if is_first and not after_first:
            if len(begins) == STREAMS:
                cut = f"truncated: more than {STREAMS:,} streams in a row; decode them one by one"
                break
            begins.append(at)
        after_first = is_first
        at = end = at + size

    begins = begins or [start]
    return [(first, last - first) for first, last in zip(begins, [*begins[1:], end], strict=True)], cut


def _page_bytes(data: bytes, at: int) -> int | None:
    """Return the size of the page there; None if its header is incomplete."""
    if len(data) < at + _HEADER_BYTES:
        return None
    segments = data[at + _HEADER_BYTES - 1]
    first = at + _HEADER_BYTES
    if len(data) < first + segments:
        return None
    return _HEADER_BYTES + segments + sum(data[first : first + segments])
