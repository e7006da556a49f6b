"""Find the samples in files with a header, and the number of bytes that the header promises: WAV and its kin, SPHERE.

libsndfile trusts the size of a file over its header, so that it reads a cut download as a shorter recording. If the
sizes in the header were never filled in (by a recorder that was killed), it reads nothing or refuses the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from asr.sound.splice import Piece

#: sizes from here on mean that the writer did not know the size (a pipe): 2 GiB less 64 KiB, as in SoX and others
_UNKNOWN_32 = 0x7FFF0000
_UNKNOWN_64 = 0x7FFFFFFFFFFF0000
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
class Layout:
    """Say where the samples are. ``cut``: the file ends before their end; ``more``: it goes on after the promised end.

    ``patches``: bytes that the header should have, by their place, so that libsndfile reads all samples.
    """

    start: int
    num_bytes: int
    cut: str = ""
    more: str = ""
    patches: tuple[tuple[int, bytes], ...] = ()
    code: int = 0

    def pieces(self, file: BinaryIO) -> list[Piece]:
        """Return the file with the header that it should have."""
        file.seek(0)
        head = bytearray(file.read(self.start))
        for place, content in self.patches:
            head[place : place + len(content)] = content
        return [bytes(head), (self.start, self.num_bytes)]


def find_layout(file: BinaryIO, size: int, head: bytes) -> Layout | None:
    """Return the layout of a file that begins with ``head``; None for another kind, or an end inside the header."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _wav(file, size, head)
    if head[:16] == _W64_RIFF:
        return _w64(file, size)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(file, size)
    if head[:4] == b"caff":
        return _caf(file, size)
    if head[:4] == b".snd":
        start, promised = struct.unpack(">II", head[4:12])
        return _layout(file, size, start, promised, promised >= _UNKNOWN_32, [(8, b"\xff" * 4)])
    if head[:8] == b"NIST_1A\n":
        return _sphere(file, size, head)
    return None


def _layout(
    file: BinaryIO, size: int, start: int, promised: int, unknown: bool, patches: list[tuple[int, bytes]],
    is_chunk: str = "", code: int = 0,
) -> Layout | None:  # fmt: skip
    """Return the layout of samples that begin at ``start``.

    Args:
        unknown: the promised size means that the writer did not know it.
        patches: bytes that tell libsndfile that the samples go on to the end of the file.
        is_chunk: format of the sizes of chunks after the samples (for ``struct``); empty: no chunks follow.
    """
    held = size - start
    if held < 0:
        return None
    if unknown:
        return Layout(start, held, patches=tuple(patches), code=code)
    if held + _SLACK_BYTES < promised:
        cut = f"truncated: the header promises {promised:,} bytes of samples, the file holds {held:,}; fetch it again"
        return Layout(start, held, cut, patches=tuple(patches), code=code)
    more = held - promised
    if more > (_LEAST_MORE if promised else 0) and not _are_chunks(file, size, start + promised, is_chunk):
        said = f"the header promises {promised:,} bytes of samples, the file holds {held:,}: read to its end"
        return Layout(start, held, more=said, patches=tuple(patches), code=code)
    return Layout(start, promised if promised < held else held, code=code)


def _are_chunks(file: BinaryIO, size: int, at: int, is_chunk: str) -> bool:
    """Return true if a chunk that fits the file, padding or a tag begins there (or at the next even place)."""
    file.seek(at)
    head = file.read(_LEAST_MORE)
    if not head.strip(b"\0"):
        return not any(iter(lambda: file.read(1 << 20).strip(b"\0"), b""))
    if head[:3] in (b"ID3", b"TAG"):
        return True
    for shift in (at % 2, 0) if is_chunk else ():
        name, length = head[shift : shift + 4], head[shift + 4 : shift + 4 + struct.calcsize(is_chunk)]
        if name.isascii() and name.decode().isprintable() and len(length) == struct.calcsize(is_chunk):
            (num_bytes,) = struct.unpack(is_chunk, length)
            return bool(at + shift + 4 + len(length) + num_bytes <= size + 1)
    return False


def _wav(file: BinaryIO, size: int, head: bytes) -> Layout | None:
    order = ">" if head[:4] == b"RIFX" else "<"
    at, code, long_size, long_at = 12, 0, None, 0
    while True:
        file.seek(at)
        name, content = file.read(4), file.read(4)
        if len(content) < 4:
            return None
        (num_bytes,) = struct.unpack(order + "I", content)
        if name == b"fmt ":
            code = struct.unpack(order + "H", file.read(2).ljust(2, b"\0"))[0]
        if name == b"ds64":
            long_at, (_, long_size) = at, struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        if name == b"data":
            break
        at += 8 + num_bytes + num_bytes % 2
    start = at + 8
    patches = [(4, b"\xff" * 4), (at + 4, b"\xff" * 4)]
    unknown = num_bytes >= _UNKNOWN_32
    if long_size is not None and num_bytes == 0xFFFFFFFF:
        num_bytes, unknown = long_size, long_size >= _UNKNOWN_64
        # of the size that is known now, as libsndfile accepts no other
        patches = [(long_at + 8, struct.pack("<QQ", size - 8, size - start))]
    return _layout(file, size, start, num_bytes, unknown, patches, order + "I", code)


def _w64(file: BinaryIO, size: int) -> Layout | None:
    at = 40
    while True:
        file.seek(at)
        name, content = file.read(16), file.read(8)
        if len(content) < 8:
            return None
        (num_bytes,) = struct.unpack("<Q", content)
        if name == b"data" + _W64_TAIL:
            break
        at += max(24, num_bytes + -num_bytes % 8)
    start, promised = at + 24, max(0, num_bytes - 24)
    patches = [(16, struct.pack("<Q", size)), (at + 16, struct.pack("<Q", size - at))]
    return _layout(file, size, start, promised, num_bytes >= _UNKNOWN_64, patches, "<12xQ")


def _aiff(file: BinaryIO, size: int) -> Layout | None:
    at = 12
    while True:
        file.seek(at)
        name, content = file.read(4), file.read(4)
        if len(content) < 4:
            return None
        (num_bytes,) = struct.unpack(">I", content)
        if name == b"SSND":
            break
        at += 8 + num_bytes + num_bytes % 2
    (skipped,) = struct.unpack(">I", file.read(4).ljust(4, b"\0"))
    start, promised = at + 16 + skipped, max(0, num_bytes - 8 - skipped)
    patches = [(4, struct.pack(">I", min(size - 8, _UNKNOWN_32))), (at + 4, struct.pack(">I", size - at - 8))]
    return _layout(file, size, start, promised, num_bytes >= _UNKNOWN_32, patches, ">I")


def _caf(file: BinaryIO, size: int) -> Layout | None:
    at = 8
    while True:
        file.seek(at)
        name, content = file.read(4), file.read(8)
        if len(content) < 8:
            return None
        (num_bytes,) = struct.unpack(">q", content)
        if name == b"data":
            break
        at += 12 + max(0, num_bytes)
    # 4: the number of edits comes before the samples
    start, promised = at + 16, max(0, num_bytes - 4)
    patches = [(at + 4, struct.pack(">q", size - at - 12))]
    return _layout(file, size, start, promised, num_bytes < 0, patches, ">q")


def _sphere(file: BinaryIO, size: int, head: bytes) -> Layout | None:
    fields = {words[0]: words[2] for words in map(bytes.split, head[:1024].split(b"\n")) if len(words) == 3}
    if b"," in fields.get(b"sample_coding", b""):  # compressed
        return None
    try:
        samples, width, channels = (
            int(fields.get(k, b"0" if k == b"sample_count" else b"1"))
            for k in (b"sample_count", b"sample_n_bytes", b"channel_count")
        )
        start = int(head[8:16])
    except ValueError:
        return None
    return _layout(file, size, start, samples * width * channels, b"sample_count" not in fields, [])
