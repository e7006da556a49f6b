"""Find the samples in files with a header, and the number of bytes that the header promises: WAV and its kin, SPHERE.

libsndfile trusts the size of a file over its header, so that it reads a cut download as a shorter recording. If the
sizes in the header were never filled in (by a recorder that was killed), it reads nothing or refuses the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from asr.limits import CHUNKS, SOUND_HEADER
from asr.sound.splice import FilePart

#: sizes from here on mean that the writer did not know the size (a pipe): 2 GiB less 64 KiB, as in SoX and others
_UNKNOWN_32 = 0x7FFF0000
_UNKNOWN_64 = 0x7FFFFFFFFFFF0000
#: no file is that long, and the system refuses to go to such a place
_BEYOND = 1 << 42
#: some writers count the header into the data
_SLACK_BYTES = 64
#: fewer bytes than this after the samples are no continued recording
_LEAST_MORE = 4096
#: the code of MP3 in a WAV file
MPEG_CODES = (0x50, 0x55)
#: the bytes after the four letters of W64's names, except for the first name
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")


@dataclass(frozen=True)
class SampleArea:
    """Say where the samples are. ``cut``: the file ends before their end; ``more``: it goes on after the promised end.

    ``patches``: bytes that the header should have, by their place, so that libsndfile reads all samples.
    """

    start: int
    num_bytes: int
    cut: str = ""
    more: str = ""
    patches: tuple[tuple[int, bytes], ...] = ()
    code: int = 0

    def parts(self, file: BinaryIO) -> list[FilePart]:
        """Return the file with the header that it should have."""
        file.seek(0)
        head = bytearray(file.read(self.start))
        for place, content in self.patches:
            head[place : place + len(content)] = content
        return [bytes(head), (self.start, self.num_bytes)]


def find_samples(file: BinaryIO, size: int, head: bytes) -> SampleArea | None:
    """Return the samples of a file that begins with ``head``; None for another kind, or an end inside the header."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _wav(file, size, ">" if head[:4] == b"RIFX" else "<")
    if head[:16] == _W64_RIFF:
        return _w64(file, size)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(file, size)
    if head[:4] == b"caff":
        return _caf(file, size)
    if head[:4] == b".snd":
        start, promised = struct.unpack(">II", head[4:12].ljust(8, b"\0"))
        return _area(file, size, start, promised, promised >= _UNKNOWN_32, [(8, b"\xff" * 4)])
    if head[:8] == b"NIST_1A\n":
        return _sphere(file, size, head)
    return None


def _chunks(
    file: BinaryIO, at: int, size_format: str, align: int, name_bytes: int = 4, counted: int = 0
) -> Iterator[tuple[int, bytes, int]]:
    """Yield the place, name and content size of each chunk; the file then stands at the chunk's content.

    Args:
        at: the place of the first chunk.
        size_format: of the size that follows the name, for ``struct``.
        align: chunks are padded to a multiple of this.
        counted: bytes of the chunk's header that the size includes.
    """
    header_bytes = name_bytes + struct.calcsize(size_format)
    for _ in range(CHUNKS):
        file.seek(at)
        header = file.read(header_bytes)
        if len(header) < header_bytes:
            return
        num_bytes: int = struct.unpack(size_format, header[name_bytes:])[0] - counted
        yield at, header[:name_bytes], num_bytes
        at += header_bytes + max(0, num_bytes + -num_bytes % align)
        if at >= _BEYOND:
            return


def _wav(file: BinaryIO, size: int, order: str) -> SampleArea | None:
    code = 0
    long_size = None
    for at, name, num_bytes in _chunks(file, 12, order + "I", align=2):
        if name == b"fmt ":
            (code,) = struct.unpack(order + "H", file.read(2).ljust(2, b"\0"))
        elif name == b"ds64":
            long_at = at
            _, long_size = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        elif name == b"data":
            start = at + 8
            unknown = num_bytes >= _UNKNOWN_32
            patches = [(4, b"\xff" * 4), (at + 4, b"\xff" * 4)]
            if long_size is not None and num_bytes == 0xFFFFFFFF:
                num_bytes = long_size
                unknown = long_size >= _UNKNOWN_64
                # The sizes must be those of the file as it is: libsndfile accepts no others.
                patches = [(long_at + 8, struct.pack("<QQ", size - 8, size - start))]
            return _area(file, size, start, num_bytes, unknown, patches, order + "4xI", code)
    return None


def _w64(file: BinaryIO, size: int) -> SampleArea | None:
    for at, name, num_bytes in _chunks(file, 40, "<Q", align=8, name_bytes=16, counted=24):
        if name == b"data" + _W64_TAIL:
            patches = [(16, struct.pack("<Q", size)), (at + 16, struct.pack("<Q", size - at))]
            return _area(file, size, at + 24, max(0, num_bytes), num_bytes >= _UNKNOWN_64, patches, "<16xQ")
    return None


def _aiff(file: BinaryIO, size: int) -> SampleArea | None:
    for at, name, num_bytes in _chunks(file, 12, ">I", align=2):
        if name == b"SSND":
            (skipped,) = struct.unpack(">I", file.read(4).ljust(4, b"\0"))
            promised = max(0, num_bytes - 8 - skipped)
            patches = [(4, struct.pack(">I", min(size - 8, _UNKNOWN_32))), (at + 4, struct.pack(">I", size - at - 8))]
            return _area(file, size, at + 16 + skipped, promised, num_bytes >= _UNKNOWN_32, patches, ">4xI")
    return None


def _caf(file: BinaryIO, size: int) -> SampleArea | None:
    for at, name, num_bytes in _chunks(file, 8, ">q", align=1):
        if name == b"data":
            # 4: the number of edits comes before the samples
            patches = [(at + 4, struct.pack(">q", size - at - 12))]
            return _area(file, size, at + 16, max(0, num_bytes - 4), num_bytes < 0, patches, ">4xq")
    return None


def _sphere(file: BinaryIO, size: int, head: bytes) -> SampleArea | None:
    fields = {words[0]: words[2] for words in map(bytes.split, head[:1024].split(b"\n")) if len(words) == 3}
    if b"," in fields.get(b"sample_coding", b""):  # compressed
        return None
    try:
        start = int(head[8:16])
        samples = int(fields.get(b"sample_count", 0))
        width = int(fields.get(b"sample_n_bytes", 1))
        channels = int(fields.get(b"channel_count", 1))
    except ValueError:
        return None
    if min(start, samples, width, channels) < 0:
        return None
    return _area(file, size, start, samples * width * channels, b"sample_count" not in fields, [])


def _area(
    file: BinaryIO,
    size: int,
    start: int,
    promised: int,
    unknown: bool,
    patches: list[tuple[int, bytes]],
    chunk_format: str = "",
    code: int = 0,
) -> SampleArea | None:
    """Return the area of samples that begin at ``start``.

    Args:
        unknown: the promised size means that the writer did not know it.
        patches: bytes that tell libsndfile that the samples go on to the end of the file.
        chunk_format: the header of a chunk after the samples (for ``struct``); empty: no chunks follow.
    """
    held = size - start
    if held < 0 or start > SOUND_HEADER:
        return None

    cut = more = ""
    if not unknown and held + _SLACK_BYTES < promised:
        cut = f"truncated: the header promises {promised:,} bytes of samples, the file holds {held:,}; fetch it again"
    elif not unknown:
        least_more = _LEAST_MORE if promised else 0
        if held - promised <= least_more or _are_chunks(file, size, start + promised, chunk_format):
            return SampleArea(start, min(promised, held), code=code)
        more = f"the header promises {promised:,} bytes of samples, the file holds {held:,}: read to its end"
    return SampleArea(start, held, cut, more, tuple(patches), code)


def _are_chunks(file: BinaryIO, size: int, at: int, chunk_format: str) -> bool:
    """Return true if a chunk that fits the file, padding or a tag begins there (or at the next even place)."""
    file.seek(at)
    head = file.read(_LEAST_MORE)
    if not head.strip(b"\0"):
        return not any(iter(lambda: file.read(1 << 20).strip(b"\0"), b""))
    if head[:3] in (b"ID3", b"TAG"):
        return True
    if not chunk_format:
        return False

    header_bytes = struct.calcsize(chunk_format)
    for shift in (at % 2, 0):
        header = head[shift : shift + header_bytes]
        name = header[:4]
        if len(header) == header_bytes and name.isascii() and name.decode().isprintable():
            (num_bytes,) = struct.unpack(chunk_format, header)
            return bool(at + shift + header_bytes + num_bytes <= size + 1)
    return False
