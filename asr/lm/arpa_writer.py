"""Writing of ARPA files, the text form of a back-off n-gram model."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asr.lm.arrays import LN10, nodes_by_order
from asr.lm.files import writing
from asr.lm.model import NgramModel

#: n-grams, and bytes, that are written at a time
_BLOCK, _ROOM = 8192, 1 << 20


def write_arpa(model: NgramModel, path: str | Path) -> None:
    """Write a model as ARPA; as gzip where the name ends in ``.gz``. The file appears whole or not at all.

    Nine significant digits: reading the file gives the same float32 numbers.

    Raises:
        AsrError: it cannot be written.
    """
    path = Path(path)
    with writing(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                packed.writelines(_lines(model))
        else:
            file.writelines(_lines(model))


def _lines(model: NgramModel) -> Iterator[bytes]:
    from asr.lm.compiled.text import write_lines  # compiles

    contexts_n, words_n = model.contexts_and_words()
    left_out = 0 if model.has_unk else 1  # <unk> has the first node, listed or not
    vocabulary = np.frombuffer(model.vocabulary + b"\n", np.uint8)
    word_ends = np.flatnonzero(vocabulary == ord("\n"))
    # room for the longest line there can be
    out = np.empty(_ROOM + model.order * (int(np.diff(word_ends, prepend=-1).max()) + 1), np.uint8)

    yield b"\\data\\\n"
    for order, count in enumerate(model.counts, start=1):
        yield f"ngram {order}={count - left_out if order == 1 else count}\n".encode()

    for order, nodes in enumerate(nodes_by_order(model.counts), start=1):
        yield f"\n\\{order}-grams:\n".encode()
        first = nodes.start + (left_out if order == 1 else 0)
        while first < nodes.stop:
            last = min(first + _BLOCK, nodes.stop)
            log10_probs, log10_backoffs = (
                array[first:last].astype(np.float64) / LN10 for array in (model.arrays.log_probs, model.arrays.backoffs)
            )
            first, size = write_lines(
                first,
                last,
                order,
                log10_probs,
                log10_backoffs,
                order < model.order,
                contexts_n,
                words_n,
                vocabulary,
                word_ends,
                out,
            )
            yield out[:size].tobytes()
    yield b"\n\\end\\\n"
