"""Binary files of KenLM, as its ``build_binary`` writes them and as many published models have them.

A file of the usual form ("probing") is mapped and used as it is, by ``asr.lm.compiled.kenlm``; a trie becomes a model
like any other (``asr.lm.kenlm_trie``). Written from the format; no code of KenLM is used.

Axes: o orders, from 1.

Source: Heafield 2011, "KenLM: Faster and Smaller Language Model Queries"; github.com/kpu/kenlm at 4cb443e:
lm/binary_format.cc (header), lm/vocab.cc (words), lm/search_hashed.hh and util/probing_hash_table.hh (tables).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.errors import DataError
from asr.files import open_regular
from asr.lm.arrays import BEGIN, END, MAX_ORDER, MISSING_UNK_LOG10_PROB, UNK, HashedArrays
from asr.lm.files import reading
from asr.lm.kenlm_trie import Reader, build_model, read_entries
from asr.lm.model import HashedModel, NgramModel

MAGIC = b"mmap lm http://kheafield.com/code "
#: what stands before the shape: the version, and numbers that show the machine's types and byte order
_SANITY = struct.pack("<56s3f3IQ", MAGIC + b"format version 5\n", 0.0, 1.0, -0.5, 1, 2**32 - 1, 0, 1)
#: order, multiplier of the buckets, kind, whether there are words, version of the kind
_SHAPE = struct.Struct("<B3xfI?3xI")
_COUNT, _ITEM, _ALIGNMENT = 8, 4, 8
_PROBING = "probing"
_KINDS = (
    _PROBING,
    "probing with rest costs",
    "trie",
    "quantised trie",
    "trie with arrays",
    "quantised trie with arrays",
)
#: of the n-grams, the buckets of a table; KenLM's own is 1.5
_MOST_MULTIPLIER = 100.0
#: version and number of words, in front of the table of words
_WORDS_HEADER = 8
#: nodes are int32
_MOST_NODES = 2**31 - 1


class Header(NamedTuple):
    """The header of a file: its kind, the factor from n-grams to buckets, the n-grams by order, its bytes."""

    kind: str
    multiplier: float
    counts: tuple[int, ...]
    end: int


def load_kenlm(path: str | Path) -> NgramModel:
    """Map the model in a file of KenLM; its weights are read once, to check them.

    Raises:
        DataError: the file is damaged, of another version, or of a kind that is not read.
        AsrError: it cannot be read.
    """
    path = Path(path)
    if sys.byteorder != "little":
        raise DataError("binary files of KenLM are little-endian and this machine is not; use ARPA", path)
    with reading(path), open_regular(path) as file:
        header = _read_header(file.read(len(_SANITY) + _SHAPE.size + 256 * _COUNT), path)
        # Copy on write: numba would compile everything again for read-only arrays.
        data = np.memmap(path, np.uint8, mode="c").view(np.ndarray)

    if header.kind == _PROBING:
        return _load_probing(data, header, path)
    if "trie" not in header.kind:
        raise DataError(f"a KenLM file of the kind '{header.kind}', which is not read; give its ARPA file", path)
    try:
        reader = Reader(data, header.end)
        entries = read_entries(reader, header.counts, "quantised" in header.kind, "arrays" in header.kind)
        _, words = _read_words(data[reader.at :], header.counts[0], path)
        return build_model(entries, words, has_unk=bool(entries[0].probs_n[0] != MISSING_UNK_LOG10_PROB))
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _read_header(head: bytes, path: Path) -> Header:
    if not head.startswith(_SANITY):
        if head.startswith(MAGIC + b"incomplete"):
            raise DataError("KenLM's build_binary did not finish this file; build it again", path)
        raise DataError(
            "a binary file of KenLM that is cut off, of another version than 5, or of another machine; build it again",
            path,
        )
    if len(head) < len(_SANITY) + _SHAPE.size:
        raise _damaged(path, "the header is cut off")

    order, multiplier, kind, has_words, _ = _SHAPE.unpack_from(head, len(_SANITY))
    if not 2 <= order <= MAX_ORDER:
        raise DataError(f"a KenLM file of order {order}, expected 2 to {MAX_ORDER}", path)
    if kind >= len(_KINDS) or not 1.0 <= multiplier <= _MOST_MULTIPLIER:
        raise _damaged(path, "the header has impossible numbers")
    if not has_words:
        raise DataError("a KenLM file without its words; build it again with KenLM's build_binary", path)

    start = len(_SANITY) + _SHAPE.size
    if len(head) < start + order * _COUNT:
        raise _damaged(path, "the header is cut off")
    counts = struct.unpack_from(f"<{order}Q", head, start)
    return Header(_KINDS[kind], multiplier, counts, _aligned(start + order * _COUNT))


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"not a whole binary file of KenLM ({reason}); copy it again, or give its ARPA file", path)


def _aligned(size: int) -> int:
    return size + -size % _ALIGNMENT


def _buckets(count: int, multiplier: float) -> int:
    """Return the buckets of a hash table; KenLM multiplies in float32."""
    return max(count + 1, int(np.float32(multiplier) * np.float32(count)))


def _load_probing(data: npt.NDArray[np.uint8], header: Header, path: Path) -> NgramModel:
    from asr.lm.compiled.kenlm import BUCKET_ITEMS, LONGEST_ITEMS, MOST_PROBES, UNIGRAM_ITEMS  # compiles

    counts = header.counts
    order = len(counts)
    buckets_o = [counts[0] + 1, *(_buckets(count, header.multiplier) for count in counts[1:])]
    sizes_o = [UNIGRAM_ITEMS, *[BUCKET_ITEMS] * (order - 2), LONGEST_ITEMS]

    # Where each table starts, and the node of its first bucket; the last table has no nodes.
    start = header.end + _WORDS_HEADER + _buckets(counts[0], header.multiplier) * (2 + 1) * _ITEM
    node = 1
    rows = []
    for buckets, size in zip(buckets_o, sizes_o, strict=True):
        rows.append([start // _ITEM, buckets, node, 0])
        start += buckets * size * _ITEM
        node += buckets
    if start > len(data):
        raise _damaged(path, f"it has {len(data):,} bytes, and its header promises over {start:,}")
    last_node = rows[-1][2]
    if last_node > _MOST_NODES:
        raise DataError(f"a KenLM file with {last_node:,} places for contexts, expected at most {_MOST_NODES:,}", path)

    vocabulary, words = _read_words(data[start:], counts[0], path)
    rows[0][1] = len(words)
    layout_o = np.array(rows, np.int64)
    items = data[: len(data) // _ITEM * _ITEM].view(np.int32)
    _check_tables(items, layout_o, sizes_o, path)
    layout_o[1:, MOST_PROBES] += 1  # the empty bucket that ends a row of full ones

    links_n = np.zeros((last_node - 1 - buckets_o[0] if order > 2 else 0, 2), np.int32)
    arrays = HashedArrays(items, layout_o, links_n, np.array([len(words)]))
    return HashedModel(vocabulary, arrays, [len(words), *counts[1:]], has_unk=len(words) == counts[0])


def _read_words(data: npt.NDArray[np.uint8], count: int, path: Path) -> tuple[bytes, list[str]]:
    """Return the words behind the tables, by id; the first is <unk>, which is not counted where the ARPA lacked it."""
    content = data.tobytes()
    found = content.count(b"\0")
    if not content.startswith(UNK.encode() + b"\0") or not content.endswith(b"\0") or found not in (count, count + 1):
        raise _damaged(path, f"its {count:,} words are not at its end")
    vocabulary = content[:-1].replace(b"\0", b"\n")
    try:
        words = vocabulary.decode().split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            "a KenLM file with words that are not UTF-8; build it from an ARPA file in UTF-8", path
        ) from error
    if len(words) != found:
        raise _damaged(path, "a word has a line end in it")
    for word in (BEGIN, END):
        if word not in words:
            raise DataError(f"a KenLM file without {word}; build it from an ARPA file that has it", path)
    return vocabulary, words


def _check_tables(
    items: npt.NDArray[np.int32], layout_o: npt.NDArray[np.int64], sizes_o: Sequence[int], path: Path
) -> None:
    """Refuse impossible weights and full tables, and write the longest rows of full buckets into the layout."""
    from asr.lm.compiled import kenlm as kernel  # compiles

    order = len(layout_o)
    for n, (table, size) in enumerate(zip(layout_o, sizes_o, strict=True), start=1):
        start, buckets = int(table[kernel.START]), int(table[kernel.BUCKETS])
        bad = kernel.check_weights(items, start, buckets, size, 0 if n == 1 else 2, n < order)
        if bad >= 0:
            raise _damaged(path, f"an {n}-gram has a weight that is out of range")
        if n > 1:
            table[kernel.MOST_PROBES] = longest = kernel.longest_run(items, start, buckets, size)
            if longest == buckets:
                raise _damaged(path, f"the table of {n}-grams is full")
