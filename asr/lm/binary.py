"""The binary form of an n-gram model: the arrays as they lie in memory, mapped from disk when used.

A file is the magic, the length of a JSON header (8 bytes), the header, the arrays, each at a multiple of 64 bytes, and
the CRC-32 of all that (8 bytes). Little-endian only. The checksum finds damage; what somebody wrote on purpose is
checked by ``_check``, so that no lookup leaves the arrays.
"""

from __future__ import annotations

import json
import math
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from asr.errors import AsrError, DataError
from asr.files import BLOCK, open_regular
from asr.lm.arrays import LN10, MAX_ORDER, MOST_BACKOFF_LOG10, NgramArrays, no_ngrams
from asr.lm.files import reading, writing
from asr.lm.model import NgramModel

MAGIC = b"asr n-gram 2\n\0\0\0"
_ALIGNMENT = 64
#: bytes of the header's length, and of the checksum
_NUMBER = 8
#: the header has about 500 bytes
_MOST_HEADER = 1 << 16
_DTYPES = {name: array.dtype for name, array in no_ngrams()._asdict().items()} | {"vocabulary": np.dtype(np.uint8)}


def save_binary(model: NgramModel, path: str | Path) -> None:
    """Write a model so that ``load_binary`` maps it; the file appears whole or not at all.

    Raises:
        DataError: the n-grams of the model are known by hashes only.
        AsrError: it cannot be written, or this machine is big-endian.
    """
    if sys.byteorder != "little":
        raise AsrError("binary n-gram models are little-endian and this machine is not; use ARPA")

    model.check_listable()
    arrays = model.arrays._asdict() | {"vocabulary": np.frombuffer(model.vocabulary, np.uint8)}
    offsets = {}
    end = 0
    for name, array in arrays.items():
        offsets[name] = {"offset": end, "items": len(array)}
        end += array.nbytes + _padding(array.nbytes)
    header = json.dumps({"counts": model.counts, "has_unk": model.has_unk, "arrays": offsets}).encode()
    header += b" " * _padding(len(MAGIC) + _NUMBER + len(header))

    checksum = 0
    with writing(Path(path)) as file:
        parts: list[Any] = [MAGIC + len(header).to_bytes(_NUMBER, "little") + header]
        for array in arrays.values():
            parts += [np.ascontiguousarray(array).data, b"\0" * _padding(array.nbytes)]
        for part in parts:
            checksum = zlib.crc32(part, checksum)
            file.write(part)
        file.write(checksum.to_bytes(_NUMBER, "little"))


def _padding(num_bytes: int) -> int:
    """Return how many bytes lead to the next multiple of the alignment."""
    return -num_bytes % _ALIGNMENT


def load_binary(path: str | Path) -> NgramModel:
    """Map the model in a binary file, after its checksum is compared, for which all of it is read once.

    Raises:
        DataError: the file is damaged or of another version.
        AsrError: it cannot be read.
    """
    path = Path(path)
    try:
        with reading(path):
            _verify(path)
            # Copy on write: numba would compile everything again for read-only arrays.
            data = np.memmap(path, np.uint8, mode="c").view(np.ndarray)
        return _parse(data)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"not a whole binary n-gram model ({error}); build it again with 'asr lm build'", path
        ) from error


def _verify(path: Path) -> None:
    """Compare format, version and checksum; a ValueError says what is wrong."""
    with open_regular(path) as file:
        left = os.fstat(file.fileno()).st_size - _NUMBER
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("another format or version")

        checksum = zlib.crc32(MAGIC)
        left -= len(MAGIC)
        while left > 0 and (block := file.read(min(left, BLOCK))):
            checksum = zlib.crc32(block, checksum)
            left -= len(block)
        if file.read() != checksum.to_bytes(_NUMBER, "little"):
            raise ValueError("the checksum does not fit: it was changed or cut off")


def _parse(data: Any) -> NgramModel:
    start = len(MAGIC) + _NUMBER
    header_end = start + int.from_bytes(data[len(MAGIC) : start].tobytes(), "little")
    if header_end > _MOST_HEADER:
        raise ValueError("a header too long")
    header = json.loads(data[start:header_end].tobytes())
    found = {}
    for name, dtype in _DTYPES.items():
        begin = header_end + header["arrays"][name]["offset"]
        end = begin + header["arrays"][name]["items"] * dtype.itemsize
        if not header_end <= begin <= end <= len(data) or begin % _ALIGNMENT:
            raise ValueError(f"{name} is cut off")
        found[name] = data[begin:end].view(dtype)

    vocabulary = found.pop("vocabulary").tobytes()
    arrays = NgramArrays(**found)
    counts = header["counts"]
    _check(arrays, counts, vocabulary)
    return NgramModel(vocabulary, arrays, counts, bool(header["has_unk"]))


def _check(arrays: NgramArrays, counts: Any, vocabulary: bytes) -> None:
    """Refuse what would send a kernel outside the arrays or into an endless loop: a file can come from anywhere."""
    num_nodes = len(arrays.log_probs)
    slots = len(arrays.table_keys)
    if not 1 <= len(counts) <= MAX_ORDER or not all(isinstance(c, int) and c >= 0 for c in counts):
        raise ValueError("bad counts")
    fits = (
        [len(a) for a in arrays] == [slots, slots, num_nodes, num_nodes, num_nodes, num_nodes, 1, 1]
        and num_nodes == 1 + sum(counts)
        and slots & (slots - 1) == 0
        and slots > 0
        and counts[0] >= 3
        and arrays.vocabulary_size[0] == counts[0] == vocabulary.count(b"\n") + 1
        and arrays.order[0] == len(counts)
    )
    if not fits:
        raise ValueError("the arrays do not fit each other")
    vocabulary.decode()

    if not ((arrays.table_keys[:4096] == -1).any() or (arrays.table_keys == -1).any()):
        raise ValueError("the table has no empty slot")
    if not 0 <= arrays.table_nodes.min() <= arrays.table_nodes.max() < num_nodes:
        raise ValueError("nodes out of range")
    suffixes = arrays.suffixes
    if suffixes.min() < 0 or suffixes[0] != 0 or not (suffixes[1:] < np.arange(1, num_nodes, dtype=np.int32)).all():
        raise ValueError("suffixes out of range")

    # Not-a-number is in no range. A search takes e to the power of what is within these bounds, times alpha.
    if not -math.inf < arrays.log_probs.min() <= arrays.log_probs.max() <= 0:
        raise ValueError("log-probabilities out of range")
    if not -math.inf < arrays.backoffs.min() <= arrays.backoffs.max() <= MOST_BACKOFF_LOG10 * LN10:
        raise ValueError("back-off weights out of range")
