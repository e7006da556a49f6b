"""Scan MP3 files frame by frame: their length to the sample, without decoding, and the place of each frame.

Decoders only guess the length of files without an Info tag, joined files and files with other data between their
frames; here the frames are counted. A frame is 24 to 72 ms, so an hour is counted in about 0.1 s.

Source: ISO/IEC 11172-3, 13818-3 (headers, side information); the Xing, LAME Info and VBRI tags as their encoders write.
"""

from __future__ import annotations

import itertools
import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from asr.limits import FALSE_FRAMES, STREAMS
from asr.sound.splice import FilePart

#: the content of a file, or the file mapped into memory: its slices are bytes
Bytes = bytes | mmap.mmap
#: kbit/s by index 1 to 14; MPEG 1 layers I, II and III, then MPEG 2 layer I, and its layers II and III
_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS[2, 3] = _KBITS[2, 2]
_RATES = (44100, 48000, 32000)
#: divisor of the rates by the version's bits (2.5, reserved, 2, 1)
_DIVISOR = {0: 4, 2: 2, 3: 1}
#: samples of a decoder's delay, which encoders do not include in the delay that they write
_DECODER_DELAY = 529
#: Encoders whose delays can be trusted, as ffmpeg has it.
_TRUSTED = (b"LAME", b"Lavf", b"Lavc")
#: Frames to decode before the wanted ones, so that the wanted ones equal those of a decoder from the start. The bits
#: that a frame borrows from those before it reach back 511 bytes (MPEG 1) or 255, which 24 of the smallest frames hold.
#: These 24 are silenced, and 24 more fill the filters. After each 16 frames mpg123's filter buffer is where it began.
_BLANK, _RUN_IN, _STEP = 24, 48, 16


@dataclass(frozen=True)
class Format:
    """Hold the header bits that the frames of a stretch have in common."""

    version_bits: int
    layer: int
    rate_bits: int
    mono: bool

    @property
    def version(self) -> int:
        return 1 if self.version_bits == 3 else 2

    @property
    def rate_hz(self) -> int:
        return _RATES[self.rate_bits] // _DIVISOR[self.version_bits]

    @property
    def channels(self) -> int:
        return 1 if self.mono else 2

    @property
    def samples(self) -> int:
        """Return the samples of a frame, per channel."""
        if self.layer == 1:
            return 384
        return 1152 if self.layer == 2 or self.version == 1 else 576

    @property
    def reservoir(self) -> int:
        """Return the bytes that a frame can borrow from those before it."""
        return 511 if self.version == 1 else 255

    @property
    def side(self) -> int:
        """Return the bytes of the side information."""
        if self.version == 1:
            return 17 if self.mono else 32
        return 9 if self.mono else 17


@dataclass(frozen=True)
class Tag:
    """Hold the first frame's data if it has no sound: frames of the file (None: not stated), samples to leave out."""

    frames: int | None
    delay: int = 0
    padding: int = 0


@dataclass(frozen=True)
class Frames:
    """Hold consecutive frames of one format, without the tag. Shapes: (frames,), in bytes."""

    format: Format
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    tag: Tag | None = None

    @property
    def lead(self) -> int:
        """Return the samples that the encoder and the decoder add at the start."""
        return self.tag.delay + _DECODER_DELAY if self.tag is not None and self.tag.delay else 0

    @property
    def num_samples(self) -> int:
        """Return the samples without those that encoder and decoder add at both ends, as ffmpeg counts."""
        total = len(self.offsets) * self.format.samples
        if self.tag is not None and self.tag.delay and self.tag.frames == len(self.offsets):
            total -= max(0, self.tag.padding - _DECODER_DELAY)
        return max(0, total - self.lead)

    def first_for(self, sample: int) -> int:
        """Return the first frame to decode, so that the sample (counted with the lead) is that of a full decoding."""
        return max(0, (sample // self.format.samples - _RUN_IN) // _STEP * _STEP)

    def parts(self, file: BinaryIO, first: int) -> list[FilePart]:
        """Return the frames from that one on, without other data between them; after a seek the first are silenced.

        Args:
            file: the file that was scanned.
        """
        parts: list[FilePart] = []
        blank = min(first + _BLANK, len(self.offsets)) if first and self.format.layer == 3 else first
        held = 0
        for i in range(first, blank):
            file.seek(int(self.offsets[i]))
            frame = bytearray(file.read(int(self.sizes[i])))
            held += _silence(frame, self.format, held)
            parts.append(bytes(frame))

        # Frames that follow each other without a gap are one part.
        offsets = self.offsets[blank:]
        sizes = self.sizes[blank:]
        breaks = np.flatnonzero(offsets[1:] != offsets[:-1] + sizes[:-1]) + 1
        for own, length in zip(np.split(offsets, breaks), np.split(sizes, breaks), strict=True):
            if len(own):
                parts.append((int(own[0]), int(length.sum())))
        return parts


def _silence(frame: bytearray, form: Format, held: int) -> int:
    """Silence a frame, and return the bytes that it holds behind its side information.

    Nothing is decoded of the frame, but it borrows all that there is: mpg123 keeps for the next frame what this one
    borrowed and what it holds.

    Args:
        held: bytes that the frames before it hold.
    """
    side = 4 if frame[1] & 1 else 6  # behind the checksum, if there is one
    borrowed = min(held, form.reservoir)
    begin = bytes((borrowed,)) if form.version == 2 else bytes((borrowed >> 1, (borrowed & 1) << 7))
    frame[side : side + form.side] = begin.ljust(form.side, b"\0")
    return len(frame) - side - form.side


def _one_of(allowed: Callable[[int], object]) -> bytes:
    """Return a pattern of one byte."""
    return b"[%s]" % b"".join(b"\\x%02x" % byte for byte in range(256) if allowed(byte))


#: the header of a frame: a version, layer, sample rate, bit rate and emphasis that there are
_HEADER = re.compile(
    b"\xff"
    + _one_of(lambda byte: byte >= 0xE0 and byte >> 3 & 3 != 1 and byte >> 1 & 3)
    + _one_of(lambda byte: byte >> 2 & 3 != 3 and byte >> 4 != 15)
    + _one_of(lambda byte: byte & 3 != 2)
)
#: stretches of one format, and why the last one is cut (empty: it is whole)
Scanned = tuple[list[Frames], str]


def scan(data: Bytes, start: int, stop: int) -> Scanned:
    """Return the frames between two places, and the reason if the last one is cut.

    Other data between the frames (tags, damage) is skipped.
    """
    stretches: list[tuple[Format, list[int], list[int]]] = []
    cut = ended = ""
    at = start
    form = None
    tries = FALSE_FRAMES
    while (found := _find_frame(data, at, stop, form, tries)) is not None:
        at, form, tries = found
        if not stretches or stretches[-1][0] != form:
            if len(stretches) == STREAMS or not tries:
                ended = "truncated: what follows is no MP3, or changes its format again and again; convert the file"
                break
            stretches.append((form, [], []))
        _, offsets, sizes = stretches[-1]
        at = _walk(data, at, stop, form, offsets, sizes)
        if at > stop:
            at = stop = offsets.pop()
            cut = f"truncated: the last frame needs {sizes.pop():,} bytes and is not all there; fetch it again"

    tag = _tag(data, stretches[0]) if stretches else None
    if tag is not None:  # its frame has no sound
        del stretches[0][1][0], stretches[0][2][0]
    runs = []
    for i, (form, offsets, sizes) in enumerate(stretches):
        if offsets:
            own_tag = tag if i == 0 else None
            runs.append(Frames(form, np.array(offsets, np.int64), np.array(sizes, np.int64), own_tag))

    if tag is not None and tag.frames is not None:
        held = sum(len(run.offsets) for run in runs)
        cut = cut if held < tag.frames else ""
        if held < tag.frames - 1:  # 1: some encoders count the frame of the tag
            cut = f"truncated: the header promises {tag.frames:,} frames, the file holds {held:,}; fetch it again"
    return runs, ended or cut


def _walk(data: Bytes, at: int, stop: int, form: Format, offsets: list[int], sizes: list[int]) -> int:
    """Add the frames from there on, and return where other data begins; the last frame may go beyond the end."""
    lengths = _lengths(form)
    free = _free_size(data, at, stop)
    mono = form.mono
    last = stop - 4
    while at <= last:
        size = lengths.get(data[at : at + 3])
        if size is None or (data[at + 3] >= 0xC0) is not mono:
            break

        if not size:
            if not free:
                break
            size = free + _padding(data[at + 2], form.layer)
        offsets.append(at)
        sizes.append(size)
        at += size
    return at


@cache
def _lengths(form: Format) -> dict[bytes, int]:
    """Return the size of a frame from the first three bytes of its header; 0: its bit rate is free."""
    slot_bytes = 4 if form.layer == 1 else 1
    sizes = {}
    for unprotected, index, low in itertools.product((0, 1), range(15), range(4)):
        second = 0xE0 | form.version_bits << 3 | (4 - form.layer) << 1 | unprotected
        third = index << 4 | form.rate_bits << 2 | low
        size = 0
        if index:
            kbits = _KBITS[form.version, form.layer][index - 1]
            slots = form.samples // 8 * kbits * 1000 // form.rate_hz // slot_bytes
            size = slots * slot_bytes + _padding(third, form.layer)
        sizes[bytes((0xFF, second, third))] = size
    return sizes


def _padding(third: int, layer: int) -> int:
    return (4 if layer == 1 else 1) * (third >> 1 & 1)


def _format(head: bytes) -> Format:
    """Return the content of a frame's header."""
    return Format(head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 2 & 3, head[3] >= 0xC0)


def _free_size(data: Bytes, at: int, stop: int) -> int:
    """Return the unpadded size of frames of free bit rate, by the next header alike; 0: the rate is stated."""
    head = data[at : at + 3]
    if len(head) < 3 or head[2] >> 4:
        return 0
    found = _alike(head).search(data, at + 24, min(stop, at + 8192))
    return 0 if found is None else found.start() - at - _padding(head[2], 4 - (head[1] >> 1 & 3))


@cache
def _alike(head: bytes) -> re.Pattern[bytes]:
    """Return the pattern of these three bytes of a header, with padding or without."""
    return re.compile(re.escape(head[:2]) + _one_of(lambda byte: (byte ^ head[2]) & ~2 == 0))


def _find_frame(data: Bytes, at: int, stop: int, before: Format | None, tries: int) -> tuple[int, Format, int] | None:
    """Return the next place where frames begin: two in a row, or three of another format than before.

    Args:
        tries: places that may look like a frame and are none.

    Returns:
        The place, the format, and the tries that are left (0: the place was one too many); None: there are no more.
    """
    while at < stop - 4:
        at = _behind_tags(data, at, stop)
        header = _HEADER.search(data, at, stop)
        if header is None:
            return None
        at = header.start()
        form = _format(header[0])
        if not tries or _are_there(data, at, stop, form, 2 if form == before else 3, before is None):
            return at, form, tries
        at += 1
        tries -= 1
    return None


def _are_there(data: Bytes, at: int, stop: int, form: Format, count: int, short: bool) -> bool:
    """Return true if this many frames of a format follow each other; ``short``: or fewer, up to the end of the file."""
    offsets: list[int] = []
    at = _walk(data, at, min(stop, at + count * 8192), form, offsets, [])
    return len(offsets) >= count or (short and bool(offsets) and at > stop - 4)


def _behind_tags(data: Bytes, at: int, stop: int) -> int:
    """Return the end of the tags that begin there: before the sound, after it, or between joined files."""
    while at < stop:
        head = data[at : at + 16]
        if size := id3_bytes(head):
            at += size
        elif head[:3] == b"TAG":
            at += 128
        elif head[:8] == b"APETAGEX" and len(head) == 16:
            at += 32 + int.from_bytes(head[12:16], "little")
        else:
            break
    return at


def id3_bytes(head: bytes) -> int:
    """Return the size of an ID3v2 tag that begins with these ten bytes; 0: there is none."""
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 127:
        return 0
    size = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    return size + 10 if head[5] & 0x10 else size


def _tag(data: Bytes, stretch: tuple[Format, list[int], list[int]]) -> Tag | None:
    """Return the first frame's data if it holds a Xing, Info or VBRI tag instead of sound."""
    form, offsets, sizes = stretch
    if form.layer != 3 or not offsets:
        return None
    frame = data[offsets[0] : offsets[0] + sizes[0]]
    if frame[36:40] == b"VBRI":
        return Tag(int.from_bytes(frame[50:54], "big"))
    at = 4 + form.side
    if frame[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    frames = int.from_bytes(frame[at + 8 : at + 12], "big") if flags & 1 else None
    at += 8 + sum(size for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)
    delay = padding = 0
    if frame[at : at + 4] in _TRUSTED:
        both = int.from_bytes(frame[at + 21 : at + 24], "big")
        delay, padding = both >> 12, both & 0xFFF
    return Tag(frames, delay, padding)
