"""Damage valid files, reproducibly: the same generator of random numbers gives the same damaged file.

A file is damaged by the way it is built: JSON by its values, text by its lines, archives by their headers, containers
by their size fields, compressed files inside and outside of the compression; and each of them byte by byte.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

#: no damaged file is larger, so that thousands of them take minutes
LARGEST = 1 << 20

#: values of fields of 1, 2, 4 and 8 bytes that programs like to trip over
_EXTREMES = (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE)
_LONG_EXTREMES = (1 << 31, 1 << 32, 1 << 36, 1 << 40, (1 << 62) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
#: pieces of text that programs like to trip over: numbers, marks, control and bidirectional characters, markup
_ODD_WORDS = """
0 -0 -1 1 1e308 1e999 -1e999 1e-320 NaN nan inf -inf Infinity 2147483648 4294967296 18446744073709551616 0x10 1_0 ٣
null true false {} [] "" '' .. ../.. ../../x /x // ./ ~ C:\\x # % %s %n {0} $HOME -- -n <unk> <s> </s> <b> &amp;
(( )) (a) [a] {a/b} / @ | ; , \\ \\data\\ \\end\\ ngram
"""
_ODD_TEXT = _ODD_WORDS.split()
_NUMBERS = _ODD_TEXT[:19]
_MARKS = (
    "\0 \x01 \x07 \x08 \x0b \x0c \x1b[31m \x1b]0;x\x07 \x7f \x85 \x9b31m \xa0 \u0301 \u200b \u2028 \u202e \u2066 "
    "\ufeff \ufffd \ufffe ß İ ﷺ 𝕬 😀"
)
_ODD_CHARACTERS = _MARKS.split(" ")
#: bytes that are no UTF-8: a lone continuation, an overlong slash, half of a surrogate pair, beyond the last code point
_NOT_UTF8 = (b"\x80", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xff\xfe", b"\xfe\xff")
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 1 << 31, 1 << 63, 1 << 64, 10**30, 10**400, 0.5, -0.5, 1e308, 1e-320),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        "a",
        "a" * 70_000,
        "\0",
        "\x1b[31m",
        "\u202e",
        "\ud800",
        "../../x",
    ),
    *("/dev/zero", "NaN", "1", [], {}, [None], [[]], {"": None}, [0] * 5000, {"a": {"a": {"a": 1}}}),
)

Generator = random.Random


def damaged(name: str, content: bytes, other: bytes, rng: Generator) -> bytes:
    """Return a damaged copy of a file.

    Args:
        name: the file's name, of which the suffix says how it is built.
        other: a file of the same kind, of which parts may be taken.
    """
    own = _STRUCTURES.get(PurePosixPath(name).suffix.lower(), damage_bytes)
    for _ in range(_few(rng)):
        change = own if rng.random() < 0.65 else damage_bytes
        content = change(content, other, rng)[:LARGEST]
    return content


def _few(rng: Generator) -> int:
    """Return 1, 2, 3, …, each half as often as the one before."""
    count = 1
    while rng.random() < 0.5 and count < 8:
        count += 1
    return count


# --- bytes ------------------------------------------------------------------------------------------------------------


def damage_bytes(content: bytes, other: bytes, rng: Generator) -> bytes:
    """Change some bytes: flip, set, cut, insert, remove, repeat, swap, or go on with another file."""
    data = bytearray(content)
    at = _place(len(data), rng)
    size = min(len(data), rng.choice((1, 2, 4, 8, 16, 64, 512, 4096)))
    match rng.randrange(12):
        case 0 if data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        case 1 if data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        case 2:
            del data[at:]
        case 3:
            del data[at : at + size]
        case 4:
            data[at:at] = rng.randbytes(size)
        case 5:
            data[at : at + size] = bytes(size)
        case 6:
            data[at : at + size] = data[at : at + size] * min(
                rng.choice((2, 3, 100, 1000)), 1 + LARGEST // max(1, size)
            )
        case 7:
            start = _place(len(data), rng)
            data[at : at + size] = data[start : start + size]
        case 8:
            data[at:] = other[_place(len(other), rng) :]
        case 9:
            data += rng.choice((b"\0", b"\n", b"\xff", rng.randbytes(16))) * rng.choice((1, 100, 10_000))
        case _:
            return set_number(content, at, rng)
    return bytes(data)


def _place(size: int, rng: Generator) -> int:
    """Return a place in a file, half the time in its beginning, where headers are."""
    most = min(size, rng.choice((16, 64, 256, 1024))) if rng.random() < 0.5 else size
    return rng.randint(0, most)


def set_number(content: bytes, at: int, rng: Generator) -> bytes:
    """Put an extreme number, or one near the file's size, into a field of 1, 2, 4 or 8 bytes."""
    width = rng.choice((1, 2, 4, 4, 4, 8))
    near = [len(content), len(content) - 1, len(content) + 1, len(content) - at]
    values = [*_EXTREMES, *near, *(_LONG_EXTREMES if width == 8 else ())]
    number = rng.choice(values) % (1 << 8 * width)
    field = number.to_bytes(width, rng.choice(("little", "big")))
    return content[:at] + field + content[at + width :]


# --- text -------------------------------------------------------------------------------------------------------------


def damage_text(content: bytes, other: bytes, rng: Generator) -> bytes:
    """Change lines, words and numbers of a text."""
    lines = content.splitlines(keepends=True) or [b""]
    i = rng.randrange(len(lines))
    match rng.randrange(13):
        case 0:
            del lines[i]
        case 1:
            lines[i:i] = [lines[i]] * min(rng.choice((1, 2, 100)), 1 + LARGEST // max(1, len(lines[i])))
        case 2:
            rng.shuffle(lines)
        case 3:
            lines.insert(i, rng.choice(other.splitlines(keepends=True) or [b""]))
        case 4:
            lines[i] = lines[i].rstrip(b"\r\n") + rng.choice((b"", b" ", b"\r", b"\r\n", b"\n\n", b"\\\n", b"\0\n"))
        case 5:
            lines[i] = _with_word(lines[i], rng.choice(_ODD_TEXT).encode(), rng)
        case 6:
            lines[i] = _with_word(lines[i], b"a" * rng.choice((100, 5000, 300_000)), rng)
        case 7:
            at = rng.randint(0, len(lines[i]))
            odd = rng.choice((*_NOT_UTF8, *(c.encode() for c in _ODD_CHARACTERS)))
            lines[i] = lines[i][:at] + odd + lines[i][at:]
        case 8:
            lines[i] = re.sub(rb"[ \t,]", rng.choice((b"\t", b" ", b",", b"", b"\xc2\xa0", b"\x0b")), lines[i])
        case 9:
            lines[i] = rng.choice((b"[", b"{", b'"', b"(", b"<", b"- ")) * rng.choice((1, 1000, 100_000)) + lines[i]
        case 10:
            words = lines[i].split()
            rng.shuffle(words)
            lines[i] = b" ".join(words) + b"\n"
        case 11:
            return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\n" * 5000, b";;\n", b"#")) + content
        case _:
            lines[i] = _with_number(lines[i], rng)
    return b"".join(lines)


def _with_word(line: bytes, word: bytes, rng: Generator) -> bytes:
    words = re.split(rb"([ \t,=:]+)", line)
    words[rng.randrange(0, len(words), 2)] = word
    return b"".join(words)


def _with_number(line: bytes, rng: Generator) -> bytes:
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", line))
    if not numbers:
        return _with_word(line, rng.choice(_ODD_TEXT).encode(), rng)
    found = rng.choice(numbers)
    new = rng.choice((*_NUMBERS, str(rng.choice(_LONG_EXTREMES)), "9" * 5000, "0" * 300 + "1")).encode()
    return line[: found.start()] + new + line[found.end() :]


# --- JSON -------------------------------------------------------------------------------------------------------------


def damage_json(content: bytes, other: bytes, rng: Generator) -> bytes:
    """Change the values, types and keys of a JSON document, or its text."""
    if rng.random() < 0.15:
        return damage_text(content, other, rng)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return damage_bytes(content, other, rng)
    if rng.random() < 0.08:
        return _nested(rng)
    return _as_json(_damaged_value(value, rng, most=1 + LARGEST // max(1, len(content))))


def damage_json_lines(content: bytes, other: bytes, rng: Generator) -> bytes:
    """Change a row of JSON Lines, or the lines."""
    if rng.random() < 0.35:
        return damage_text(content, other, rng)
    lines = content.splitlines() or [b""]
    i = rng.randrange(len(lines))
    lines[i] = damage_json(lines[i], lines[i - 1], rng)
    return b"\n".join(lines) + b"\n"


def _nested(rng: Generator) -> bytes:
    """Return brackets inside brackets, closed or not."""
    depth = rng.choice((100, 900, 5000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return opening * depth + b"1" + (closing * depth if rng.random() < 0.7 else b"")


def _as_json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except ValueError:  # a number of more digits than Python writes
        return str(value).encode("utf-8", "replace") if not isinstance(value, int) else b"1" + b"0" * 400


def _damaged_value(value: Any, rng: Generator, most: int) -> Any:
    """Return a JSON value with one place changed; nothing is repeated more than ``most`` times."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    if not keys or rng.random() < 0.1:
        return rng.choice((*_ODD_VALUES, [value], {"a": value}, [value] * 3, str(value)[:1000]))

    changed: Any = value.copy()
    key = rng.choice(keys)
    if rng.random() < 0.6:
        changed[key] = _damaged_value(value[key], rng, most)
        return changed

    match rng.randrange(5):
        case 0:
            del changed[key]
        case 1:
            changed[key] = value[rng.choice(keys)]
        case 2 if isinstance(value, dict):
            changed[rng.choice(("", "a", str(key).upper(), str(key) + " ", "\x1b[31m", "id"))] = value[key]
        case 3 if isinstance(value, list):
            changed += [value[key]] * min(most, rng.choice((1, 2, 500)))
        case _:
            changed[key] = rng.choice(_ODD_VALUES)
    return changed


# --- archives, compressed files and containers ------------------------------------------------------------------------

_BLOCK = 512
#: of a tar header: name, mode, owner, group, size, time, checksum, type, link, magic, device numbers, prefix
_TAR_FIELDS = (
    (0, 100),
    (100, 8),
    (108, 8),
    (124, 12),
    (124, 12),
    (136, 12),
    (156, 1),
    (157, 100),
    (257, 8),
    (345, 155),
)


def damage_tar(content: bytes, other: bytes, rng: Generator) -> bytes:
    """Change a field of a member's header, with the checksum made right most of the time, or the members' order."""
    headers = [at for at in range(0, len(content) - _BLOCK + 1, _BLOCK) if content[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return damage_bytes(content, other, rng)
    at = rng.choice(headers)
    header = bytearray(content[at : at + _BLOCK])
    match rng.randrange(6):
        case 0:
            return content[:at] + content[at + _BLOCK * rng.choice((1, 2, 3)) :]
        case 1:
            start = rng.choice(headers)
            return content[:at] + content[start : start + 2 * _BLOCK] + content[at:]
        case 2:  # PAX records and long names
            text = rng.choice(
                (b"path=../../x\n", b"size=99999999999\n", b"GNU.sparse.realsize=9999999999\n", b"mtime=1e999\n")
            )
            record = b"%d " % (len(text) + 3) + text
            extra = bytearray(header)
            extra[156:157] = rng.choice((b"x", b"g", b"L", b"K", b"X"))
            extra[124:136] = b"%011o\0" % rng.choice((len(record), 0, 1 << 30))
            return content[:at] + _checked(extra) + record.ljust(_BLOCK, b"\0") + content[at:]
        case _:
            start, width = rng.choice(_TAR_FIELDS)
            header[start : start + width] = _tar_value(width, rng).ljust(width, b"\0")[:width]
    return content[:at] + (_checked(header) if rng.random() < 0.85 else bytes(header)) + content[at + _BLOCK :]


def _tar_value(width: int, rng: Generator) -> bytes:
    if width == 1:
        return rng.choice(
            (b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"x", b"g", b"L", b"K", b"\0", b"\xff")
        )
    if width <= 12:
        in_base_256 = (
            rng.choice((b"\x80", b"\xff"))
            + rng.choice(_LONG_EXTREMES).to_bytes(width - 1, "big", signed=False)[-(width - 1) :]
            if width == 12
            else b"\x80"
        )
        number = b"%0*o" % (width - 1, rng.choice((0, 1, 511, 513, (1 << 3 * (width - 1)) - 1)))
        return rng.choice((number, number, in_base_256, b"", b"-1", b"9", b" " * width, b"\xff" * width))
    names = (
        b"",
        b".",
        b"..",
        b"../x",
        b"/x",
        b"a/../../x",
        b"a" * width,
        b"a\\x",
        b"C:x",
        b"a/b/" * 40,
        b"\xff\xfe",
        b"a\nb",
    )
    return rng.choice(names)


def _checked(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def damage_ogg(content: bytes, other: bytes, rng: Generator) -> bytes:
    """Change a page of an Ogg file, with its checksum made right."""
    places = [found.start() for found in re.finditer(b"OggS", content)] or [0]
    i = rng.randrange(len(places))
    start, end = places[i], (places[i + 1] if i + 1 < len(places) else len(content))
    page = bytearray(damage_bytes(content[start:end], other, rng))
    if page[:4] == b"OggS" and len(page) >= 27:
        page[22:26] = bytes(4)
        page[22:26] = struct.pack("<I", _ogg_checksum(page))
    return content[:start] + bytes(page) + content[end:]


def _ogg_checksum(page: bytes | bytearray) -> int:
    """Return Ogg's CRC: polynomial 0x04C11DB7, no reflection, zero at the start."""
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _OGG_TABLE[crc >> 24 ^ byte]
    return crc


def _ogg_table() -> list[int]:
    table = []
    for i in range(256):
        crc = i << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
        table.append(crc)
    return table


_OGG_TABLE = _ogg_table()


def damage_chunks(content: bytes, other: bytes, rng: Generator) -> bytes:
    """Set the number behind a chunk's name, one of the fields after it, or a field of the file's first bytes."""
    if rng.random() < 0.3:
        return set_number(content, rng.randrange(0, 64), rng)
    names = [found.start() for found in re.finditer(rb"[A-Za-z][A-Za-z0-9 ]{3}", content[:4096])]
    if not names:
        return damage_bytes(content, other, rng)
    at = rng.choice(names)
    return set_number(content, at + rng.choice((4, 4, 4, 8, 10, 12, 16, 20, 22)), rng)


def damage_frames(content: bytes, other: bytes, rng: Generator) -> bytes:
    """Change a byte in or behind the mark that begins a frame of MP3 or FLAC, or a field of the first bytes."""
    if rng.random() < 0.4:
        return set_number(content, rng.randrange(0, 64), rng)
    marks = [found.start() for found in re.finditer(rb"\xff[\xe0-\xff]", content)]
    if not marks:
        return damage_bytes(content, other, rng)
    data = bytearray(content)
    at = min(rng.choice(marks) + rng.randrange(0, 8), len(data) - 1)
    data[at] = rng.choice((rng.randrange(256), data[at] ^ 1 << rng.randrange(8)))
    return bytes(data)


def damage_headed(content: bytes, other: bytes, rng: Generator) -> bytes:
    """Change the JSON header of a file of arrays (safetensors, our n-gram models), with its length made right."""
    start = content.find(b"{")
    if not 8 <= start < 64:
        return damage_bytes(content, other, rng)
    size = int.from_bytes(content[start - 8 : start], "little")
    if rng.random() < 0.4 or start + size > len(content):
        at = rng.randint(start + min(size, len(content)), max(start + size, len(content)))
        return set_number(content, min(at, len(content)), rng)
    header = damage_json(content[start : start + size].rstrip(), b"{}", rng)
    length = len(header) if rng.random() < 0.8 else rng.choice((0, 1, size, *_LONG_EXTREMES)) % (1 << 64)
    return content[: start - 8] + length.to_bytes(8, "little") + header + content[start + size :]


def _inside(
    unpack: Callable[[bytes], bytes], pack: Callable[[bytes], bytes], own: Callable[[bytes, bytes, Generator], bytes]
) -> Callable[[bytes, bytes, Generator], bytes]:
    """Return a function that damages what a compressed file holds, half the time, or else the compressed bytes."""

    def damage(content: bytes, other: bytes, rng: Generator) -> bytes:
        try:
            inner, inner_other = unpack(content), unpack(other)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
            return damage_bytes(content, other, rng)
        if rng.random() < 0.3:
            return damage_bytes(content, other, rng)
        if rng.random() < 0.05:
            return content + pack(inner)  # a second stream behind the first
        return pack(own(inner, inner_other, rng)[:LARGEST])

    return damage


def _tar_or_text(content: bytes, other: bytes, rng: Generator) -> bytes:
    return (damage_tar if content[257:262] == b"ustar" else damage_text)(content, other, rng)


_STRUCTURES: dict[str, Callable[[bytes, bytes, Generator], bytes]] = {
    **dict.fromkeys((".txt", ".yaml", ".csv", ".tsv", ".trn", ".stm", ".ctm", ".srt", ".vtt", ".arpa"), damage_text),
    **dict.fromkeys(("", ".http"), damage_text),
    ".json": damage_json,
    ".jsonl": damage_json_lines,
    ".tar": damage_tar,
    ".gz": _inside(gzip.decompress, lambda data: gzip.compress(data, 1, mtime=0), _tar_or_text),
    ".xz": _inside(lzma.decompress, lambda data: lzma.compress(data, preset=0), _tar_or_text),
    ".bz2": _inside(bz2.decompress, lambda data: bz2.compress(data, 1), _tar_or_text),
    **dict.fromkeys((".ogg", ".opus"), damage_ogg),
    **dict.fromkeys((".wav", ".aiff", ".caf", ".w64", ".au", ".sph", ".mp4", ".webm", ".rf64"), damage_chunks),
    **dict.fromkeys((".mp3", ".flac"), damage_frames),
    **dict.fromkeys((".safetensors", ".bin"), damage_headed),
}


def choose(files: Sequence[str], rng: Generator) -> list[str]:
    """Return the names of the files to damage: mostly one, sometimes two."""
    return rng.sample(list(files), min(len(files), 1 if rng.random() < 0.85 else 2))
