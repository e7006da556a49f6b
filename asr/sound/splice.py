"""Present parts of a file, and bytes of our own, as one file to read and seek in."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, BinaryIO

#: bytes of our own, or (start, length) in the file
FilePart = bytes | tuple[int, int]
#: read up to this many bytes from an offset of a file: ``read_at(count, offset)``
ReadAt = Callable[[int, int], bytes]
#: size of the end of an MP3 file in which a decoder looks for a tag
_TAG_BYTES = 128


class Spliced(io.RawIOBase):
    """Read the parts one after the other.

    Args:
        claimed: the size that the file reports, if a decoder computes the length of the recording from it. Between the
            end of the parts and this size there is nothing to read, except for zeros where a tag would be.
    """

    def __init__(self, read_at: ReadAt, parts: Sequence[FilePart], claimed: int = 0) -> None:
        self._read_at = read_at
        self._parts = [part for part in parts if _length(part)]
        self._ends = list(accumulate(map(_length, self._parts)))
        self._size = max(claimed, self._ends[-1] if self._ends else 0)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        done = 0
        while done < len(buffer) and (content := self._next(len(buffer) - done)):
            buffer[done : done + len(content)] = content
            done += len(content)
        return done

    def _next(self, count: int) -> bytes:
        """Return bytes from the current position, up to the end of a part."""
        i = bisect_right(self._ends, self._at)
        if i == len(self._ends):
            left = self._size - self._at
            content = bytes(max(0, min(count, left))) if left <= _TAG_BYTES else b""
        else:
            part = self._parts[i]
            skipped = self._at - (self._ends[i] - _length(part))
            count = min(count, self._ends[i] - self._at)
            if isinstance(part, bytes):
                content = part[skipped : skipped + count]
            else:
                content = self._read_at(count, part[0] + skipped)

        self._at += len(content)
        return content


def reader_at(file: BinaryIO) -> ReadAt:
    """Return a function that reads an open file at an offset."""

    def read_at(count: int, offset: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    return read_at


def _length(part: FilePart) -> int:
    return len(part) if isinstance(part, bytes) else part[1]
